"""
Harness: the real bus, on time that moves by itself and threads that take turns.

    def test_a_depot_that_is_down_is_tried_again(harness):
        bus = harness.start(shop.make_bus())
        harness.fail("ship", times=2)
        bus.publish("orders.placed", {"sku": "tea"})
        harness.drain()                                 # waits for quiescence, never for time
        assert harness.delivered_to("ship")[0].body == {"sku": "tea"}
        assert harness.elapsed == 0.3                   # what Retry waited; nobody slept

The bus, its mailboxes, workers and loops are the ones that run in production. Only the clock is another, and the scheduler:
one thread runs at a time, the test's own until it asks for something that it must wait for. So nothing happens behind a test's
back, and the same test is the same run each time.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from importlib import import_module
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

from pipebus.bus.bus import Bus
from pipebus.errors import AttemptsExhausted, LifecycleError, PipelineError, Rejected
from pipebus.events import Acknowledged, Died, Discarded, Event, Published, Refused, Returned, StateChanged
from pipebus.message.message import Message
from pipebus.outcomes.dead_letters import PUBLISH
from pipebus.pipeline.callables import is_async
from pipebus.testing.harness import shown
from pipebus.testing.harness.faults import Fault, Faults, InjectedError
from pipebus.testing.harness.tape import Tape, raises
from pipebus.testing.simulation import virtual
from pipebus.testing.simulation.rehearsal import Thrown
from pipebus.testing.simulation.scheduler import PATIENCE, Over, Simulation, Stuck
from pipebus.testing.simulation.virtual import VirtualClock
from pipebus.testing.simulation.virtual_loop import run_loop
from pipebus.values.quantities import is_duration

T = TypeVar("T")

INTENDED: Final = (Rejected, AttemptsExhausted)
"""What a handler or a filter says on purpose: a dead letter of one of these fails no test."""

LOUD: Final = ("observer.failed", "timer.failed", "filter.stop_failed", "schedule.failed", "delivery.failed_after_settlement")
"""Warnings of the bus that are somebody's error, and would only be logged."""

SETTLED: Final = (Acknowledged, Discarded, Returned, Died)


class HarnessError(AssertionError):
    """What is wrong with a test, and with no line of it: a fault that never struck, figures that do not add up."""


class Running:
    """A call on a thread of the harness's own; see `Harness.thread`."""

    def __init__(self, simulation: Simulation, call: Callable[[], Any], name: str) -> None:
        self.name = name
        self.error: BaseException | None = None
        self.asked = False  # somebody has been given the error
        self._simulation = simulation
        self._value: Any = None
        self._call = call
        self.task = simulation.adopt(threading.Thread(target=self._run, name=name, daemon=True))

    def _run(self) -> None:
        try:
            self._value = self._call()
        except Over:
            raise
        except BaseException as error:
            self.error = error

    @property
    def ended(self) -> bool:
        return self.task.ended

    def result(self) -> Any:
        """Let it, and whatever else can, run to its end: what it returned; or raises what it raised."""
        self._simulation.join(self.task)
        if self.error is not None:
            self.asked = True
            raise self.error
        return self._value


class Harness:
    """
    A place for tests in which the buses that are made run deterministically, in virtual time.

    Use it as a context manager, or as the pytest fixture `harness`. Each `Bus` that is made inside goes by its clock and is
    heard; `harness.bus` is the first, and a new one if there is none.

    Args:
        fail_fast: The first unexpected error of a handler, filter, observer, schedule or task is raised, as the same object
            with its own traceback, by the next call of the harness, at the latest at the end. (Dead letters because a body
            was `Rejected` or attempts were used up are what handlers say on purpose, and errors of `fail` are expected.)
        patience: Real seconds that one wait may take before a thread is taken to be lost, > 0.
        start: The time of day at the beginning, in seconds since 1970-01-01 UTC; None: the computer's.
        store: What keeps messages in place of the file or server that a bus's URL names, which a test never touches. "memory":
            nothing does; messages go through the codec, each bus is alone, and starts empty. "temporary": a SQLite file in a
            folder that is deleted at the end; buses with the same URL share it, in virtual time like the rest.

    It cannot control what is not the bus's: `time.sleep`, locks and events of your own, sockets, threads that you start. A
    handler may use them as long as what it waits for comes without another handler's help. Start threads that use the bus by
    `thread`, and coroutines by `run`.
    """

    title = "harness"

    def __init__(
        self,
        *,
        fail_fast: bool = True,
        patience: float = PATIENCE,
        start: float | None = None,
        store: Literal["memory", "temporary"] = "memory",
        simulation: Simulation | None = None,
        told: bool = True,
    ) -> None:
        if not is_duration(patience) or not patience:
            raise PipelineError(f"Harness(patience={patience!r}): it is a number of real seconds, above 0")
        if store not in ("memory", "temporary"):
            raise PipelineError(f'Harness(store={store!r}): it is "memory" or "temporary"')
        self.fail_fast = fail_fast
        self._store = store
        self._told = told and simulation is None
        self._outer = simulation or virtual.here()
        self._simulation = self._outer or Simulation(turns={}, files={}, patience=patience, epoch=start)
        self._began = self._simulation.time
        self.faults = Faults(self._simulation.clock)
        self.tape = Tape(lambda: self.elapsed, self.faults)
        self.tape.listeners.append(self._hear)
        self.tape.also = self._simulation.say
        self.tape.handled = self._handled
        self.buses: list[Bus] = []
        self.errors: list[BaseException] = []
        self._untold: list[tuple[BaseException, str]] = []
        self._allowed: tuple[type[BaseException], ...] = ()
        self._threads: list[Running] = []
        self._numbers = itertools.count(1)
        self._settled: Event | None = None
        self._warned = 0
        self._inside: bool | None = None  # None: not yet
        self._idle_told: set[int] = set()
        self.narrow: dict[str, int] = {}  # mailboxes that are to have little room, by the subscription's name
        self.stopped_on_purpose = False
        self._stop_in: tuple[int, bool] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Harness:
        if self._inside is not None:
            raise LifecycleError("this Harness has had its block; make another one")
        if self._store == "temporary":
            import_module("pipebus.transports.sqlite")  # before time and locks are replaced in it
        if self._outer is None:
            self._simulation.thread_failed = lambda name, error: self._unexpected(error, f"on thread {name}")
            self._simulation.loop_failed = self._loop_failed
            self._stack.enter_context(self._simulation.inside())
        if self._store == "temporary":
            self._stack.callback(setattr, self._simulation, "place", self._simulation.place)
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pipebus-"))
            self._simulation.place = Thrown(folder)
        self._inside = True
        self._simulation.bus_made.append(self.attach)
        if self._told:
            shown.begin(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._stack:
            try:
                if kind is None:
                    self.check()
            finally:
                try:
                    heard = len(self.tape.warnings)
                    self._stop()
                    for name, _, cause in self.tape.warnings[heard:]:
                        if name == "filter.stop_failed" and cause is not None and kind is None and self.fail_fast:
                            raise cause
                finally:
                    self._simulation.bus_made.pop()
                    self._inside = False
                    shown.end(self)

    def _stop(self) -> None:
        """Without a word about what else may be wrong: the test has failed already, or has been checked."""
        if self._simulation.over or not self._simulation.here():  # stuck, or interrupted while another thread had its turn
            return
        self.tape.loud = False  # what breaks off now is no news
        for bus in self.buses:
            if bus.state in ("started", "draining"):
                bus.lifecycle.stop(1.0, False)

    # --- the bus -------------------------------------------------------------------------------------------------------

    @property
    def bus(self) -> Bus:
        """The first bus; a new one, not yet started, if there is none."""
        if not self.buses:
            self.attach(Bus())
        return self.buses[0]

    @property
    def usable(self) -> bool:
        """Its block has begun and not ended, and it is not stuck."""
        return bool(self._inside) and not self._simulation.over and self._simulation.here()

    @property
    def alone(self) -> bool:
        """It has a scheduler of its own, and does not stand in another harness."""
        return self._outer is None

    @property
    def clock(self) -> VirtualClock:
        """For what is not the bus's and wants to know the time: `now`, `monotonic`, `sleep`, `asleep`."""
        return self._simulation.clock

    @property
    def elapsed(self) -> float:
        """Virtual seconds since the beginning."""
        return round(self._simulation.time - self._began, 9)

    def attach(self, bus: Bus) -> Bus:
        """
        Hear what happens on a bus, if that is not done yet: each one that is made inside is heard from the beginning.

        Raises:
            LifecycleError: it was made before the harness, and so has another clock and real locks.
        """
        self._check_inside()
        if not isinstance(bus, Bus):
            raise PipelineError(f"a harness is given a Bus, found {bus!r}")
        if bus in self.buses:
            return bus
        if bus.clock is not self._simulation.clock:
            raise LifecycleError(
                f"{bus!r} was made outside the harness, or with a clock of its own; make it inside, and leave `clock` out"
            )
        self.buses.append(bus)
        self.tape.attach(bus)
        return bus

    def start(self, bus: Bus | None = None) -> Bus:
        """Start a bus that was made inside this harness; `harness.bus` if none is given."""
        self._check_inside()
        found = self.bus if bus is None else self.attach(bus)
        found.lifecycle.start()
        return found

    def _check_inside(self) -> None:
        if not self._inside:
            where = "has not begun" if self._inside is None else "has ended"
            raise LifecycleError(f"the harness's block {where}; use it inside `with Harness() as harness:`")

    def _ready(self) -> None:
        self._check_inside()
        for bus in self.buses or [self.bus]:
            if bus.state == "new":
                self.start(bus)

    # --- going on ------------------------------------------------------------------------------------------------------

    def step(self, *, wait: bool = False) -> Event | None:
        """
        Go on until one delivery is settled.

        Args:
            wait: Also let time pass for it, as far as it takes.

        Returns:
            How: `Acknowledged`, `Discarded`, `Returned` or `Died`. None: nothing can be done at this time (with `wait`: ever).
        """
        __tracebackhide__ = True
        self._ready()
        self._settled = None
        self._simulation.until_settled()
        while wait and self._settled is None and self.pass_time():
            self._simulation.until_settled()
        self._tell()
        return self._settled

    def interrupt(self) -> None:
        """Called where a `step` is to end, though nothing is settled."""
        self._simulation.settled()

    def pass_time(self) -> bool:
        """
        If nobody can do anything at this time, move to the next at which somebody can.

        Returns:
            False: nobody waits for time.
        """
        return self._simulation.next_time()

    def drain(self, timeout: float = 3600.0) -> None:
        """
        Go on until everything accepted is settled, as `bus.drain` does, and no publish stands in its chain; time moves as far
        as delays, retries and time-outs ask for, and schedules that come due meanwhile are heard. (For `thread`s that publish
        one message after the other, `join` them first.)

        Args:
            timeout: In virtual seconds, >= 0.

        Raises:
            DrainTimeout: with what is still pending.
        """
        __tracebackhide__ = True
        if not is_duration(timeout):
            raise PipelineError(f"drain(timeout={timeout!r}): it is a number of seconds, 0 or more")
        self._ready()
        self._simulation.rest()
        self._tell()
        deadline = self._simulation.time + timeout
        while True:
            running = [bus for bus in self.buses if bus.state in ("started", "draining")]
            for bus in running:
                bus.lifecycle.drain(max(0.0, deadline - self._simulation.time))
            self._simulation.rest()
            if not all(bus.traffic.quiet(bus.clock, 0.0) for bus in running):
                continue  # one has published to another meanwhile
            if not self.tape.inside or self._simulation.time >= deadline or not self.pass_time():
                break
            self._simulation.rest()  # a publish stands in its chain, and waits for time
        self._tell()

    def advance(self, seconds: float) -> None:
        """
        Let time pass: all that is due by then happens, in its order. `advance(0)` does what can be done now.

        Args:
            seconds: >= 0.
        """
        if not is_duration(seconds):
            raise PipelineError(f"advance({seconds!r}): it is a number of seconds, 0 or more")
        __tracebackhide__ = True
        self._ready()
        self._simulation.rest()
        if seconds:
            self._simulation.advance(float(seconds))
        self._tell()

    def jump(self, seconds: float) -> None:
        """
        Have the clock go forward at once, as when a computer has slept: what was due meanwhile is late, and finds that.

        Args:
            seconds: >= 0.
        """
        __tracebackhide__ = True
        if not is_duration(seconds):
            raise PipelineError(f"jump({seconds!r}): it is a number of seconds, 0 or more")
        self._ready()
        self._simulation.rest()
        self._simulation.jump(float(seconds))
        self._tell()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """
        Run a coroutine to its end, on an event loop in virtual time: `asyncio.sleep` takes no time, `await bus.arequest(…)`
        has its reply at once.
        """
        __tracebackhide__ = True
        if not self._inside:
            coroutine.close()
        self._check_inside()
        if asyncio._get_running_loop() is not None:
            coroutine.close()
            raise LifecycleError("harness.run was called on a running event loop; write a plain `def` test, and run all of it")
        value: T = run_loop(self._simulation, lambda: coroutine)
        self._tell()
        return value

    def thread(self, call: Callable[..., Any], *arguments: Any, name: str | None = None, **options: Any) -> Running:
        """
        Run a call on a thread of its own, which has its turn when the test waits for something.

        Returns:
            Its `result()` waits for its end. An error that nobody asks for fails the test.
        """
        self._check_inside()
        if not callable(call):
            raise PipelineError(f"harness.thread takes a function and its arguments, found {call!r}; write thread(call, …)")
        if is_async(call):
            raise PipelineError(
                f"harness.thread runs plain functions, and {call!r} is async; run its coroutine with harness.run"
            )
        title = name or f"{getattr(call, '__name__', 'thread')}-{next(self._numbers)}"
        running = Running(self._simulation, lambda: call(*arguments, **options), title)
        self._threads.append(running)
        return running

    # --- what goes wrong -----------------------------------------------------------------------------------------------

    def fail(self, name: str, times: int | None = 1, *, error: Any = InjectedError, after: int = 0, late: bool = False) -> None:
        """
        Have a filter or handler fail, in its place in the chain.

        Args:
            name: Of a filter, a subscription, an actor or a handler.
            times: How often; None: always.
            error: An exception, or a class of exceptions.
            after: How many calls go well before that.
            late: It does its work first, and fails then; else it does none.
        """
        if error is None:
            raise PipelineError(f"fault of {name}: error=None; it is an exception, or a class of exceptions")
        self.faults.add(Fault(name, times, after, 0.0, error, late=late))

    def slow(self, name: str, seconds: float, times: int | None = 1, *, after: int = 0) -> None:
        """Have a filter or handler take so many virtual seconds before it begins."""
        self.faults.add(Fault(name, times, after, seconds, None))

    def allow(self, *errors: type[BaseException]) -> None:
        """Errors of these classes are expected from now on: they fail no test."""
        for one in errors:
            if not isinstance(one, type) or not issubclass(one, BaseException):
                raise PipelineError(f"allow({one!r}): it takes classes of exceptions")
        self._allowed += errors

    def _unexpected(self, error: BaseException, where: str) -> None:
        if isinstance(error, (*self._allowed, Over, Stuck)) or self.faults.meant(error):
            return
        if any(known is error for known in self.errors):
            return
        self.errors.append(error)
        self._untold.append((error, where))

    def _loop_failed(self, text: str, error: BaseException | None) -> None:
        found = error or HarnessError(text)
        self.tape.say("event loop", f"{text}: {raises(found)}")
        self._unexpected(found, f"on an event loop: {text}")

    def _handled(self, value: Any, error: BaseException | None) -> None:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            self._unexpected(error, "in a handler: its subscription stands still")

    def _hear(self, event: Event) -> None:
        if isinstance(event, StateChanged) and event.new == "started" and self.narrow:
            for subscription in (one for bus in self.buses for one in bus.subscriptions):
                if subscription.name in self.narrow:
                    subscription.mailbox.narrow(self.narrow[subscription.name])
        if isinstance(event, Died) and not isinstance(event.exception, INTENDED):
            place = "in a publish chain" if event.place == PUBLISH else f"in {event.place}"
            self._unexpected(event.exception, f"{place}, with {event.message!r}")
        if self._stop_in is not None and isinstance(event, (Published, *SETTLED)):
            self._come_closer_to_the_stop()
        if isinstance(event, SETTLED) and getattr(event, "place", None) != PUBLISH:
            self._settled = event
            self._simulation.settled()

    def stop_after(self, moments: int, drain: bool) -> None:
        """Have another thread stop the buses when so many messages more were accepted or settled."""
        self._stop_in = (moments, drain)

    def _come_closer_to_the_stop(self) -> None:
        moments, drain = self._stop_in or (0, False)
        self._stop_in = (moments - 1, drain)
        if moments <= 0:
            self._stop_in = None
            self.stopped_on_purpose = True
            self.allow(LifecycleError)
            self.tape.say("bus", "(on purpose) is stopped")
            for bus in self.buses:
                self.thread(bus.stop, 5.0, drain=drain, name="stopper")

    def join(self, quietly: bool = False) -> None:
        """
        Wait for the end of all `thread`s.

        Args:
            quietly: What they have raised is known, or does not matter.
        """
        for thread in list(self._threads):
            try:
                thread.result()
            except Exception as error:
                if not quietly and not isinstance(error, self._allowed):
                    raise

    def _tell(self) -> None:
        """Raise the first error that nobody has been told of."""
        __tracebackhide__ = True
        for name, facts, cause in self.tape.warnings[self._warned :]:
            if name in LOUD:
                text = ", ".join(f"{key}={value}" for key, value in facts.items())
                self._unexpected(cause or HarnessError(f"{name}: {text}"), f"{name}, {text}")
        self._warned = len(self.tape.warnings)
        for thread in self._threads:
            if thread.ended and thread.error is not None and not thread.asked:
                thread.asked = True
                self._unexpected(thread.error, f"on thread {thread.name}")
        self._threads = [thread for thread in self._threads if not thread.ended]
        if self.fail_fast and self._untold:
            error, where = self._untold.pop(0)
            error.add_note(f"(pipebus: {where})")
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise HarnessError(f"{type(error).__name__} {where}") from error
            raise error

    def check(self) -> None:
        """
        What is asked at the end of a test: what can be done now is done, no unexpected error, each fault has struck, and the
        law `accepted = acknowledged + dropped + dead + pending + in_flight` holds for each subscription.
        """
        __tracebackhide__ = True
        if self._simulation.over or not self._simulation.here():
            return
        self._simulation.rest()
        self._tell()
        for bus in self.buses:
            for subscription in bus.subscriptions:
                stats = subscription.stats()
                figures = [stats[name] for name in ("acknowledged", "dead", "pending", "in_flight")]
                figures += stats["dropped"].values()
                if stats["accepted"] != sum(figures) or min(figures) < 0:
                    raise HarnessError(f"{subscription.name} has lost count: {stats}")
        for fault in self.faults.idle():
            if id(fault) not in self._idle_told:
                self._idle_told.add(id(fault))
                raise HarnessError(self._never_struck(fault))

    def forget(self) -> None:
        """The test has failed by itself: what is wrong besides, so far, is told in its story alone."""
        if self.usable:
            self.tape.say("test", "has failed; what follows was still to be done")
            self._simulation.rest()
        self._untold.clear()
        self._warned = len(self.tape.warnings)
        self._idle_told.update(map(id, self.faults.idle()))
        for thread in self._threads:
            thread.asked = thread.asked or thread.ended

    def _never_struck(self, fault: Fault) -> str:
        if fault.calls:
            times = "once" if fault.calls == 1 else f"{fault.calls} times"
            return f"{fault}, at call {fault.after + 1}; but it was called {times}"
        pulls = [one.name for bus in self.buses for one in bus.subscriptions if one.inbox is not None]
        if fault.name in pulls:
            return f"{fault}, but {fault.name} is read by the test, and has no handler that could"
        if fault.name in self.tape.names:
            return f"{fault}, but it was never called"
        known = ", ".join(self.tape.names) or "none"
        return f"{fault}, but nothing has that name (filters and handlers that have been built in: {known})"

    # --- what has happened ---------------------------------------------------------------------------------------------

    @property
    def events(self) -> list[Event]:
        """All of `pipebus.events`, as observers hear them."""
        return list(self.tape.heard)

    @property
    def published(self) -> list[Message[Any]]:
        """Messages that were accepted, as they were handed in; replies and what handlers publish too."""
        return [event.message for event in self.tape.heard if isinstance(event, Published)]

    @property
    def delivered(self) -> list[Acknowledged]:
        """Deliveries that were handled: `message`, `subscription`, `attempt`."""
        return [event for event in self.tape.heard if isinstance(event, Acknowledged)]

    def delivered_to(self, subscription: str) -> list[Message[Any]]:
        """
        The messages that a subscription has handled, in order.

        Raises:
            PipelineError: there is no such subscription.
        """
        names = [one.name for bus in self.buses for one in bus.subscriptions]
        found = [event.message for event in self.delivered if event.subscription == subscription]
        if not found and subscription not in names:
            raise PipelineError(f"no subscription {subscription!r}; there are {', '.join(names) or 'none'}")
        return found

    @property
    def dropped(self) -> list[Discarded]:
        """Messages that were ended on purpose or by a rule: `message`, `place`, `reason`, `by`."""
        return [event for event in self.tape.heard if isinstance(event, Discarded)]

    @property
    def refused(self) -> list[Refused]:
        """Publishes that ended in an error: `message`, `error`, `by`."""
        return [event for event in self.tape.heard if isinstance(event, Refused)]

    @property
    def dead(self) -> list[Died]:
        """Dead letters: `message`, `place`, `error`, `exception`, `letter`."""
        return [event for event in self.tape.heard if isinstance(event, Died)]

    @property
    def story(self) -> str:
        """All of it, a line a moment: when, who, what."""
        return self.tape.text()

    def __repr__(self) -> str:
        return f"<Harness after {self.elapsed:g} s: {len(self.published)} published, {len(self.delivered)} delivered>"

"""
Harness: the real bus, with time that moves by itself and threads that take turns.

The bus, its mailboxes, workers and loops are the ones that run in production. Only the clock and the scheduler are different:
one thread runs at a time, and the test's own thread runs until it asks for something that it must wait for. So nothing happens
without the test's knowledge, and the same test is the same run each time.

The file is long because the harness is the one object that a test holds: most of its methods are a few lines and a docstring.
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from importlib import import_module
from types import TracebackType
from typing import Any, Final, Literal, TypeVar

from pipebus.bus.bus import Bus, engine_of
from pipebus.errors import LifecycleError, PipelineError
from pipebus.events import Acknowledged, Died, Discarded, Event, Published, Refused, Returned
from pipebus.message.message import Message
from pipebus.outcomes.dead_letters import PUBLISH
from pipebus.pipeline.callables import is_async
from pipebus.testing.harness import shown
from pipebus.testing.harness.running import Running
from pipebus.testing.harness.strikes import Fault, Faults, InjectedError
from pipebus.testing.harness.tape import Tape
from pipebus.testing.harness.unexpected import HarnessError, Unexpected
from pipebus.testing.harness.words import times
from pipebus.testing.simulation import threads
from pipebus.testing.simulation.rehearsal import Thrown
from pipebus.testing.simulation.scheduler import PATIENCE, Simulation
from pipebus.testing.simulation.virtual_clock import VirtualClock
from pipebus.testing.simulation.virtual_loop import run_loop
from pipebus.values import quantities
from pipebus.values.quantities import Duration

T = TypeVar("T")

SETTLED: Final = (Acknowledged, Discarded, Returned, Died)


class Harness:
    """
    A block of a test in which buses run deterministically, in virtual time.

    Use it as a context manager, or as the pytest fixture `harness`. Every `Bus` that is made inside uses its clock, and the
    harness observes it. `harness.bus` is the first of them, or a new one if there is none. It has many methods, since a test
    holds nothing else.

    Args:
        fail_fast: Raise the first unexpected error of a handler, filter, observer, schedule or task from the next call of the
            harness, at the latest at the end of the block: the same object, with its own traceback. (A dead letter because a
            body was `Rejected` or attempts were exhausted is not unexpected, and neither is an error of `fail`.)
        patience: Real seconds that one wait may take before its thread is considered lost, > 0.
        start: The time of day at the beginning, in seconds since 1970-01-01 UTC; None: the computer's. If it is given, messages
            have the same ids each time.
        store: What keeps messages in place of the file or server that a bus's URL names, which a test never touches. "memory":
            nothing does; messages go through the codec, each bus is alone, and starts empty. "temporary": a SQLite file in a
            folder that is deleted at the end; buses with the same URL share it, in virtual time like the rest.

    It cannot control what does not belong to the bus: `time.sleep`, your own locks and events, sockets, threads that you start.
    A handler may use them as long as what it waits for does not depend on another handler. Start threads that use the bus with
    `thread`, and coroutines with `run`.
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
        patience = quantities.seconds(patience, "patience", above=0.0)
        if store not in ("memory", "temporary"):
            raise PipelineError(f'Harness(store={store!r}): it is "memory" or "temporary"')
        self.fail_fast = fail_fast
        self._store = store
        self._told = told and simulation is None
        self._outer = simulation or threads.here()
        self._simulation = self._outer or Simulation(turns={}, files={}, patience=patience, epoch=start)
        self._began = self._simulation.time
        self.faults = Faults(self._simulation.clock)
        self.tape = Tape(lambda: self.elapsed, self.faults)
        self.unexpected = Unexpected(self.faults, self.tape)
        self.tape.listeners.append(self._hear)
        self.tape.also = self._simulation.say
        self.tape.over = lambda: self._simulation.over
        self.tape.handled = self.unexpected.handled
        self.buses: list[Bus] = []
        self._threads: list[Running] = []
        self._numbers = itertools.count(1)
        self._settled: Event | None = None
        self._inside: bool | None = None  # None: not yet
        self._idle_reported: set[int] = set()  # ids of faults
        self.stopped_on_purpose = False
        self._stack = ExitStack()

    def __enter__(self) -> Harness:
        if self._inside is not None:
            raise LifecycleError("this Harness was used already; make another one")
        if self._store == "temporary":
            import_module("pipebus.transports.sqlite")  # before time and locks are replaced in it
        if self._outer is None:
            self._simulation.thread_failed = lambda name, error: self.unexpected.add(error, f"on thread {name}")
            self._simulation.loop_failed = self.unexpected.loop_failed
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
        """Stop the buses without raising anything: the test has failed already, or was checked."""
        if self._simulation.over or not self._simulation.here():  # stuck, or interrupted while another thread was running
            return
        self.tape.loud = False  # what a stop without a drain cuts short is not worth a warning
        for bus in self.buses:
            if bus.state in ("started", "draining"):
                engine_of(bus).lifecycle.stop(1.0, False)

    # --- the bus -------------------------------------------------------------------------------------------------------

    @property
    def bus(self) -> Bus:
        """The first bus; a new one, not yet started, if there is none."""
        if not self.buses:
            self.attach(Bus())
        return self.buses[0]

    @property
    def usable(self) -> bool:
        """Whether its block has begun and not ended, and it is not stuck."""
        return bool(self._inside) and not self._simulation.over and self._simulation.here()

    @property
    def alone(self) -> bool:
        """Whether it has a scheduler of its own: it is not inside another harness."""
        return self._outer is None

    @property
    def clock(self) -> VirtualClock:
        """The virtual clock, for your own code that needs the time: `now`, `monotonic`, `sleep`, `asleep`."""
        return self._simulation.clock

    @property
    def elapsed(self) -> float:
        """Virtual seconds since the beginning."""
        return round(self._simulation.time - self._began, 9)

    @property
    def errors(self) -> list[BaseException]:
        """The unexpected errors so far."""
        return self.unexpected.all

    def attach(self, bus: Bus) -> Bus:
        """
        Observe a bus. Buses that are made inside the block are attached when they are made; a second call does nothing.

        Raises:
            LifecycleError: It was made before the harness, so it has another clock and real locks.
        """
        self._check_inside()
        if not isinstance(bus, Bus):
            raise PipelineError(f"a harness is given a Bus, found {bus!r}")
        if bus in self.buses:
            return bus
        if engine_of(bus).clock is not self._simulation.clock:
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
        engine_of(found).lifecycle.start()
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

    # --- running -------------------------------------------------------------------------------------------------------

    def step(self, *, wait: bool = False) -> Event | None:
        """
        Run until one delivery is settled.

        Args:
            wait: Also let time pass, as much as that takes.

        Returns:
            How it was settled: `Acknowledged`, `Discarded`, `Returned` or `Died`. None: nothing can be done at this time (with
            `wait`: ever).
        """
        __tracebackhide__ = True
        self._ready()
        self._settled = None
        self._simulation.until_settled()
        while wait and self._settled is None and self.pass_time():
            self._simulation.until_settled()
        self._raise_unexpected()
        return self._settled

    def interrupt(self) -> None:
        """End the `step` that is going on, although nothing is settled."""
        self._simulation.settled()

    def pass_time(self) -> bool:
        """
        If no thread can go on at this time, move to the next time at which one can.

        Returns:
            False if nothing waits for time.
        """
        return self._simulation.next_time()

    def drain(self, timeout: Duration = 3600.0) -> None:
        """
        Run until everything accepted is settled, as `bus.drain` does, and no publish is still in its chain. Time moves as far
        as delays, retries and timeouts require; schedules that come due meanwhile run too. (If a `thread` publishes several
        messages, `join` it first.)

        Args:
            timeout: Virtual seconds, >= 0, or text such as "5s".

        Raises:
            DrainTimeout: Names what is still pending.
        """
        __tracebackhide__ = True
        timeout = quantities.seconds(timeout, "drain: timeout")
        self._ready()
        self._simulation.rest()
        self._raise_unexpected()
        deadline = self._simulation.time + timeout
        while True:
            running = [bus for bus in self.buses if bus.state in ("started", "draining")]
            for bus in running:
                engine_of(bus).lifecycle.drain(max(0.0, deadline - self._simulation.time))
            self._simulation.rest()
            if not all(engine_of(bus).claims.quiet(engine_of(bus).clock, 0.0) for bus in running):
                continue  # one has published to another meanwhile
            if not self.tape.inside or self._simulation.time >= deadline or not self.pass_time():
                break
            self._simulation.rest()  # a publish is still in its chain, and waits for time
        self._raise_unexpected()

    def advance(self, seconds: Duration) -> None:
        """
        Let time pass: everything that is due by then happens, in order. `advance(0)` does what can be done now.

        Args:
            seconds: >= 0, or text such as "5s".
        """
        __tracebackhide__ = True
        self._move(self._simulation.advance, seconds, "advance")

    def jump(self, seconds: Duration) -> None:
        """
        Move the clock forward at once, as when a computer wakes from sleep: what was due meanwhile runs late.

        Args:
            seconds: >= 0, or text such as "5s".
        """
        __tracebackhide__ = True
        self._move(self._simulation.jump, seconds, "jump")

    def _move(self, by: Callable[[float], None], seconds: Duration, what: str) -> None:
        __tracebackhide__ = True
        span = quantities.seconds(seconds, what)
        self._ready()
        self._simulation.rest()
        if span:
            by(span)
        self._raise_unexpected()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """
        Run a coroutine until it finishes, on an event loop in virtual time: `asyncio.sleep` takes no real time, and `await
        bus.arequest(…)` gets its reply at once.
        """
        __tracebackhide__ = True
        if not self._inside:
            coroutine.close()
        self._check_inside()
        if asyncio._get_running_loop() is not None:
            coroutine.close()
            raise LifecycleError("harness.run was called on a running event loop; write a plain `def` test, and run all of it")
        value: T = run_loop(self._simulation, lambda: coroutine)
        self._raise_unexpected()
        return value

    def thread(self, call: Callable[..., Any], *arguments: Any, name: str | None = None, **options: Any) -> Running:
        """
        Run a call on a thread of its own. The thread runs when the test waits for something.

        Returns:
            Its `result()` waits for the end of the call. An error that no `result()` raises fails the test.
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

    def join(self, quietly: bool = False) -> None:
        """
        Wait for the end of all `thread`s.

        Args:
            quietly: Ignore what they raised.
        """
        for thread in list(self._threads):
            try:
                thread.result()
            except Exception as error:
                if not quietly and not isinstance(error, self.unexpected.allowed):
                    raise

    def _hear(self, event: Event) -> None:
        if isinstance(event, (Died, Discarded)):
            self.unexpected.died(event)
        if isinstance(event, SETTLED) and getattr(event, "place", None) != PUBLISH:
            self._settled = event
            self._simulation.settled()

    # --- faults and errors ---------------------------------------------------------------------------------------------

    def fail(self, name: str, times: int | None = 1, *, error: Any = InjectedError, after: int = 0, late: bool = False) -> None:
        """
        Make a filter or handler fail, in its place in the chain.

        Args:
            name: Of a filter, a subscription, an actor or a handler.
            times: How often; None: always.
            error: An exception, or a class of exceptions.
            after: How many calls succeed before that.
            late: It fails after its work; otherwise instead of it.
        """
        if error is None:
            raise PipelineError(f"fault of {name}: error=None; it is an exception, or a class of exceptions")
        self.faults.add(Fault(name, times, after, 0.0, error, late=late))

    def slow(self, name: str, seconds: Duration, times: int | None = 1, *, after: int = 0) -> None:
        """Make a filter or handler wait this many virtual seconds before it begins."""
        self.faults.add(Fault(name, times, after, seconds, None))

    def allow(self, *errors: type[BaseException]) -> None:
        """Errors of these classes are expected from now on: they do not fail the test."""
        self.unexpected.allow(errors)

    def _raise_unexpected(self) -> None:
        __tracebackhide__ = True
        self.unexpected.collect(self._threads, self._simulation.foreign)
        self._threads = [thread for thread in self._threads if not thread.ended]
        if self.fail_fast:
            self.unexpected.raise_first()

    def check(self) -> None:
        """
        Check a test at its end: do what can be done now; then raise if there was an unexpected error, if the law `accepted =
        acknowledged + dropped + dead + pending + in_flight` does not hold for a subscription, or if a fault never struck.
        """
        __tracebackhide__ = True
        if self._simulation.over or not self._simulation.here():
            return
        self._simulation.rest()
        self._raise_unexpected()
        for bus in self.buses:
            for subscription in bus.subscriptions:
                stats = subscription.stats()
                figures = [stats[name] for name in ("acknowledged", "dead", "pending", "in_flight")]
                figures += stats["dropped"].values()
                if stats["accepted"] != sum(figures) or min(figures) < 0:
                    raise HarnessError(f"{subscription.name} has lost count: {stats}")
        for fault in self.faults.idle():
            if id(fault) not in self._idle_reported:
                self._idle_reported.add(id(fault))
                raise HarnessError(self._never_struck(fault))

    def forget(self) -> None:
        """The test has failed by itself: show what else went wrong only in the story."""
        if self.usable:
            self.tape.say("test", "has failed; what follows was still to be done")
            self._simulation.rest()
        self.unexpected.forget()
        self._idle_reported.update(map(id, self.faults.idle()))
        for thread in self._threads:
            thread.error_seen = thread.error_seen or thread.ended

    def _never_struck(self, fault: Fault) -> str:
        if fault.calls:
            return f"{fault}, at call {fault.after + 1}; but it was called {times(fault.calls)}"
        pulls = [one.name for bus in self.buses for one in bus.subscriptions if one.inbox is not None]
        if fault.name in pulls:
            return f"{fault}, but {fault.name} is read by the test, so it has no handler to fail"
        if fault.name in self.tape.names:
            return f"{fault}, but it was never called"
        known = ", ".join(self.tape.names) or "none"
        return f"{fault}, but nothing has that name (filters and handlers so far: {known})"

    # --- what has happened ---------------------------------------------------------------------------------------------

    @property
    def events(self) -> list[Event]:
        """All events of `pipebus.events`, as observers get them."""
        return list(self.tape.heard)

    @property
    def published(self) -> list[Message[Any]]:
        """Accepted messages, as they were passed to `publish`; replies and what handlers publish too."""
        return [event.message for event in self.tape.heard if isinstance(event, Published)]

    @property
    def delivered(self) -> list[Acknowledged]:
        """Deliveries that were handled: `message`, `subscription`, `attempt`."""
        return [event for event in self.tape.heard if isinstance(event, Acknowledged)]

    def delivered_to(self, subscription: str) -> list[Message[Any]]:
        """
        The messages that a subscription has handled, in order, as they came to its mailbox, before its filters.

        Raises:
            PipelineError: There is no such subscription.
        """
        names = [one.name for bus in self.buses for one in bus.subscriptions]
        found = [event.message for event in self.delivered if event.subscription == subscription]
        if not found and subscription not in names:
            raise PipelineError(f"no subscription {subscription!r}; there are {', '.join(names) or 'none'}")
        return found

    @property
    def dropped(self) -> list[Discarded]:
        """Messages that were dropped, by a filter or by a rule: `message`, `place`, `reason`, `by`."""
        return [event for event in self.tape.heard if isinstance(event, Discarded)]

    @property
    def refused(self) -> list[Refused]:
        """Publishes that raised: `message`, `error`, `by`."""
        return [event for event in self.tape.heard if isinstance(event, Refused)]

    @property
    def dead(self) -> list[Died]:
        """Dead letters: `message`, `place`, `error`, `exception`, `letter`."""
        return [event for event in self.tape.heard if isinstance(event, Died)]

    @property
    def story(self) -> str:
        """Everything that happened, one line each: when, who, what."""
        return self.tape.text()

    def __repr__(self) -> str:
        return f"<Harness after {self.elapsed:g} s: {len(self.published)} published, {len(self.delivered)} delivered>"

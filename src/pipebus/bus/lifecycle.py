"""
Start, drain, stop: the states of a bus, and what happens between them.

    new ── start ──> started ── stop ──> draining ──> stopped ── start ──> started

While draining, handlers may still publish, outsiders are refused; when stopped, everybody is. No user code (filters' `start`
and `stop` aside, which are the start and stop themselves) runs while a lock is held.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Literal, Protocol

import msgspec

from pipebus import events
from pipebus.clock import Clock
from pipebus.delivery.planning import check_delivery
from pipebus.delivery.subscription import Subscription
from pipebus.errors import (
    BusClosed,
    BusNotStarted,
    DrainTimeout,
    LifecycleError,
    MailboxFull,
    PipebusError,
    RequestTimeout,
)
from pipebus.foreign.logging import get_logger
from pipebus.foreign.objects import class_name, comes_from, exit_code, is_a, note, shown, spared, text_of
from pipebus.mailbox.asked import AskedMailbox
from pipebus.mailbox.mailbox import Traffic
from pipebus.message.message import Message
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline import compose, links_async, links_sync, routes, rules, shapes
from pipebus.pipeline.services import Services
from pipebus.pipeline.step import Step
from pipebus.publishing import arrival
from pipebus.publishing.replies import Replies
from pipebus.publishing.router import Router
from pipebus.publishing.schedule import Schedule
from pipebus.running.loop_thread import LoopThread
from pipebus.running.loops import LoopRunner
from pipebus.running.runners import Pool, Starts, Timers, current_mailbox
from pipebus.transports.base import Surroundings
from pipebus.waiting.locks import Locks, free

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

State = Literal["new", "started", "draining", "stopped"]

CUT_OFF: Final = (BusClosed, MailboxFull, RequestTimeout)
"""What a handler meets when the bus stops: it is refused, nobody makes room, nobody answers."""


class StopReport(msgspec.Struct, frozen=True):
    """
    What a stop found.

    Args:
        drained: Everything accepted had been settled when it closed.
        left: Messages left over, by subscription: those whose handlers the stop broke off, for which no attempt is counted,
            and in memory also those that wait. They come again when the bus is started again, from memory or from the store.
        abandoned: Whose handlers outlived the timeout: threads by name, subscriptions on event loops by theirs.
        errors: What filters raised in their `stop`.
    """

    drained: bool = True
    left: dict[str, int] = {}
    abandoned: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class Parts(Protocol):
    """What a lifecycle starts and stops; a bus's."""

    bus: Any
    clock: Clock
    locks: Locks
    transport: Any
    codec: Any
    max_message_bytes: int | None
    traffic: Traffic
    pool: Pool
    timers: Timers
    starts: Starts
    loops: LoopRunner
    loop_thread: LoopThread
    router: Router
    ledger: Ledger
    replies: Replies
    schedules: Iterable[Schedule]
    services: Services
    drains: bool | None

    @property
    def delivery_nodes(self) -> tuple[compose.Node, ...]: ...


_at_filters: Final[contextvars.ContextVar[AtFilters | None]] = contextvars.ContextVar("pipebus.at_filters", default=None)
"""Set while the code of a filter's start or stop runs here."""


class AtFilters:
    """Whose lifecycle is starting or stopping a filter; emptied after that, for what the filter has left running."""

    __slots__ = ("lifecycle",)

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle: Lifecycle | None = lifecycle


class Round:
    """One start of the bus, and what its stop found."""

    def __init__(self) -> None:
        self.report: StopReport | None = None


class Lifecycle:
    """The states of one bus."""

    def __init__(self, bus: Parts) -> None:
        self.bus = bus
        self.state: State = "new"
        self.lock = bus.locks.new()  # registrations and changes of state
        self.stop_wanted = False
        self.turns = 0  # changes of state so far
        self._starting = threading.RLock()  # held by the one thread that starts
        self._stopping = threading.RLock()  # held by the one thread that stops
        self._hurry = False
        self._enough = False  # a stop that drains a store need not go on
        self.bell: Ringing | None = None  # rung when a stop is requested; while somebody is in `run`, or reads records
        self._exit: BaseException | None = None  # what the program is to end with
        self._lost = False  # a message that was being handled then is a dead letter
        self._returned: dict[str, set[str]] = {}  # ids of messages whose handlers this stop broke off
        self._round = Round()
        self._pid = os.getpid()
        self._started: list[Step] = []
        self._running: set[int] = set()  # of the filter objects that have started, or are about to
        self._holders: dict[Subscription, None] = {}  # those with filters of their own
        self._held: dict[int, int] = {}  # filter objects, and how many of these have them
        self._claiming = bus.locks.new()

    def _change(self, state: State) -> events.StateChanged | None:
        """Called under the lock; the event is told after it. All routes go: the next publish of each subject asks anew."""
        old, self.state = self.state, state
        self.turns += 1
        self.bus.router.forget_all()
        return events.StateChanged(old, state) if self.bus.ledger.observed else None

    def check_process(self) -> None:
        if os.getpid() != self._pid:
            raise LifecycleError("this bus was made before a fork, and its threads are in the parent; make one in the child")

    def check_publish(self) -> None:
        """Asked for each publish that found no route: while the bus is not started, that is every one."""
        self.check_process()
        if self.state == "started":
            return
        if self.state == "new":
            raise BusNotStarted("the bus is not started; use `with bus:` or bus.start() before you publish") from None
        if self.state == "draining" and self.in_handler():
            return  # handlers may finish what they do
        how = "stopping" if self.state == "draining" else "stopped"
        raise BusClosed(f"the bus is {how}: it takes no more messages") from None

    def in_handler(self) -> bool:
        """True on a thread that runs a handler of this bus."""
        mailbox = current_mailbox()
        return mailbox is not None and mailbox.rules.traffic is self.bus.traffic

    # --- start ---------------------------------------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> bool:
        """
        Args:
            loop: Where handlers with run="loop" run; None: on the bus's own.

        Returns:
            False: it was started already.
        """
        bus = self.bus
        self.check_process()
        if self.state == "draining" or self._at_filters() or (self.in_handler() and self.state != "started"):
            raise LifecycleError("the bus is starting or stopping; wait for that before you start it (again)")
        self._check_interrupted()
        with self._stopping, self._starting:  # a stop under way still has to end its threads
            with self.lock:
                if self.state == "started":
                    return False
                self.check_chains()
                self.bus.loop_thread.open()
                if self.bell is None:  # else `run` has done it, and a signal may have come since
                    self.forget()
                self._round, self._returned = Round(), {}
            try:
                self.stop_filters()  # what a subscription has started while the bus was stopped
                # Without the lock: a filter's start may subscribe somebody, also from the bus's loop.
                self.start_filters([bus.router.nodes, bus.delivery_nodes, *self._own_chains()])
                self.start_filters(self._own_chains())
                with self.lock:
                    changed = self._open(loop)
            except BaseException:
                self.stop_filters()
                bus.loop_thread.stop(1.0)
                raise
        bus.ledger.emit(changed)
        return True

    def _open(self, loop: asyncio.AbstractEventLoop | None) -> events.StateChanged | None:
        """The filters have started: let messages in."""
        bus = self.bus
        subscriptions = list(bus.router.subscriptions())
        bus.services.begin_pauses()
        try:
            for subscription in subscriptions:
                subscription.mailbox.remove_tokens()  # the transport took back what it had brought before the last stop
                subscription.compile(bus.delivery_nodes)
            bus.transport.start(Surroundings(bus.clock, bus.max_message_bytes, bus.traffic.nudge, bus.ledger.warn))
            for pool in self._pools(subscriptions):
                pool.start()
            bus.loops.start(loop)
            bus.timers.start()
            bus.starts.retry()
            changed = self._change("started")
            left = [subscription.mailbox for subscription in subscriptions if subscription.mailbox.reopen()]
            for mailbox in left:
                mailbox.go_on()
            for subscription in subscriptions:
                if subscription.inbox is not None:
                    subscription.inbox.ended = False
                if not bus.transport.local:
                    arrival.bind(bus, subscription)
            for schedule in list(bus.schedules):
                schedule.begin()
        except BaseException:
            for subscription in subscriptions:
                with suppress(Exception):  # it may not have been bound yet
                    if not bus.transport.local:
                        bus.transport.unbind(subscription.name)
                subscription.mailbox.close("stopped", keep=True)
            self._change("stopped")
            for pool in self._pools(subscriptions):
                pool.stop(0.0)
            bus.loops.stop(0.0)
            bus.timers.stop()
            bus.transport.stop()
            bus.services.end_pauses()
            raise
        return changed

    def stop_filters(self) -> None:
        """Those that have started so far."""
        self._stop_filters(self._take_started(), [])

    def _take_started(self) -> list[Step]:
        with self._claiming:
            started, self._started = self._started, []
        return started

    def check_chains(self) -> None:
        """
        Raises:
            PipelineError: what cannot run as it is registered.
        """
        bus = self.bus
        rules.check(bus.router.nodes, "publish")
        if not any(step.colour == "async" for step in routes.steps(bus.router.nodes)):
            rules.check_colour(bus.router.nodes, "sync", "the publish chain is sync")
        for subscription in bus.router.subscriptions():
            check_delivery(subscription, bus.delivery_nodes)

    def _own_chains(self) -> list[tuple[compose.Node, ...]]:
        """Of the subscriptions, each plan's once."""
        return list({id(s.plan): s.plan.nodes for s in self.bus.router.subscriptions()}.values())

    def _pools(self, subscriptions: Iterable[Subscription]) -> list[Pool]:
        """The one for all, and those that serve one subscription alone."""
        return [self.bus.pool, *(s.plan.pool for s in subscriptions if s.plan.pool is not None)]

    def start_filters(self, chains: Iterable[tuple[compose.Node, ...]]) -> None:
        """Every filter object that has not started yet, in the order of the chains; if one fails, those before it stop."""
        begun: list[Step] = []
        for chain in chains:
            for step in routes.steps(chain):
                if step.shape == "actor" or not self._claim(step):
                    continue
                try:
                    begin = getattr(step.filter, "start", None)
                    if begin is not None:
                        log = get_logger(filter=step.name)
                        self._call(begin, self._context(step.name, log))
                except BaseException as error:
                    note(error, f"in the start of filter {step.name}")
                    self._running.discard(id(step.filter))
                    self._stop_filters(begun, [])
                    raise
                begun.append(step)
        with self._claiming:
            self._started += begun

    def _context(self, name: str, log: Any) -> shapes.Context:
        transport = self.bus.transport
        return shapes.Context(
            self.bus.bus, self.bus.clock, log, name, self.ended_by_stop,
            transport if transport.capabilities.memory else None, getattr(transport, "if_undone", lambda call: None),
        )  # fmt: skip

    def _claim(self, step: Step) -> bool:
        """The right to start a filter object, once."""
        with self._claiming:
            if id(step.filter) in self._running:
                return False
            self._running.add(id(step.filter))
            return True

    def hold(self, subscription: Subscription) -> None:
        """Its own filters are kept until it, and every other that has them, is released."""
        if not subscription.plan.nodes:
            return
        with free(self._claiming):
            self._holders[subscription] = None
            for filter in {id(step.filter) for step in routes.steps(subscription.plan.nodes)}:
                self._held[filter] = self._held.get(filter, 0) + 1

    def release(self, subscription: Subscription) -> list[Any]:
        """
        It has gone, and its last handler has ended: filters that nobody else has are stopped.

        Returns:
            Those filters.
        """
        if not subscription.plan.nodes:
            return []
        gone: dict[int, Any] = {}
        with free(self._claiming):
            if self._holders.pop(subscription, self) is not None:
                return []  # it was released before
            for filter, one in {id(step.filter): step.filter for step in routes.steps(subscription.plan.nodes)}.items():
                self._held[filter] -= 1
                if not self._held[filter]:
                    del self._held[filter]
                    gone[filter] = one
            for step in routes.steps((*self.bus.router.nodes, *self.bus.delivery_nodes)):
                gone.pop(id(step.filter), None)
            ended = [step for step in self._started if id(step.filter) in gone]
            self._started = [step for step in self._started if id(step.filter) not in gone]
        self._stop_filters(ended, [])
        return list(gone.values())

    def _stop_filters(self, started: list[Step], errors: list[str]) -> None:
        """In reverse; an error in one keeps no other from stopping."""
        for step in reversed(started):
            self._running.discard(id(step.filter))
            try:
                end = getattr(step.filter, "stop", None)
                if end is not None:
                    self._call(end)
            except BaseException as error:  # the other filters have to be stopped all the same
                spared(error)
                errors.append(f"{step.name}: {text_of(error)}")
                if is_a(error, SystemExit):
                    self.interrupted(error, f"the stop of filter {step.name}")
                self.bus.ledger.failed("filter.stop_failed", error, filter=step.name)

    def _call(self, act: Callable[..., Any], *arguments: Any) -> None:
        """A filter's `start` or `stop`. It may be async: then it runs on the bus's loop."""
        here = AtFilters(self)
        token = _at_filters.set(here)
        try:
            value = act(*arguments)
            if isinstance(value, Awaitable):

                async def wait() -> None:
                    await value

                asyncio.run_coroutine_threadsafe(wait(), self.bus.loop_thread.loop()).result()
        finally:
            _at_filters.reset(token)
            here.lifecycle = None

    # --- drain and stop --------------------------------------------------------------------------------------------------

    def drain(self, timeout: float) -> None:
        """Raises DrainTimeout with the numbers."""
        bus = self.bus
        self.check_process()
        if not bus.traffic.quiet(bus.clock, timeout, also=self._transport_quiet):
            raise self._not_drained(timeout)

    async def adrain(self, timeout: float) -> None:
        """`drain` on an event loop."""
        bus = self.bus
        self.check_process()
        if not await bus.traffic.aquiet(bus.clock, timeout, also=self._transport_quiet):
            raise self._not_drained(timeout)

    def _not_drained(self, timeout: float) -> DrainTimeout:
        bus = self.bus
        pending = {
            s.name: waiting + s.mailbox.in_flight
            for s in bus.router.subscriptions()
            if s.handled and (waiting := s.mailbox.waiting()) + s.mailbox.in_flight
        }
        text = ", ".join(f"{name}: {count}" for name, count in pending.items()) or "handlers that still publish"
        return DrainTimeout(f"not drained after {timeout:g} s; still pending or in flight: {text}", pending)

    def stop(self, timeout: float, drain: bool | None) -> StopReport:
        """See `Bus.stop`. It raises no SystemExit: `leave` does."""
        self.check_process()
        if self.from_inside():
            return self.only_request("stop()")
        if asyncio._get_running_loop() is not None:
            raise LifecycleError("stop waits for handlers and would stop the running event loop; use `await bus.astop()`")
        self._check_interrupted()
        deadline = self.bus.clock.monotonic() + timeout
        with self._starting, self.lock:
            if self.state == "new":
                self.request_stop("stop()")
                return StopReport()
            this = self._round
            changed = None
            if self.state == "started":
                changed = self._change("draining")
                if not self.drains(drain):
                    self._close_mailboxes(but_replies=True)  # before anybody hears of it: from here on nothing begins
            for schedule in list(self.bus.schedules):
                schedule.end()
        self.request_stop("stop()")
        self.bus.ledger.emit(changed)
        with self._stopping:
            if this.report is None:  # else another thread has stopped it; and it may have been started again since
                try:
                    this.report = self._stop(deadline, drain)
                except KeyboardInterrupt:  # somebody wants out: what is in flight goes back, and nobody waits for it
                    self.hurry()
                    this.report = self._stop(deadline, drain=False)
                    raise
            return this.report

    def _check_interrupted(self) -> None:
        """Raises LifecycleError in code that has interrupted this thread in a start, a stop or a change."""
        free(self._starting)
        free(self._stopping)
        self.bus.locks.check()

    def from_inside(self) -> bool:
        """In a handler, filter or observer, or in a filter's own start or stop: a stop would wait for itself."""
        return self.in_handler() or self._at_filters() or within_user_code()

    def _at_filters(self) -> bool:
        here = _at_filters.get()
        return here is not None and here.lifecycle is self

    def only_request(self, call: str) -> StopReport:
        self.request_stop(f"{call} in a handler, filter or observer")
        return StopReport(drained=False)

    def _stop(self, deadline: float, drain: bool | None) -> StopReport:
        bus = self.bus
        survives, drain = self._survives(), self.drains(drain)
        drained = drain and bus.traffic.quiet(
            bus.clock, self._left(deadline), also=self._transport_quiet,
            give_up=lambda: self._hurry or (survives and self._enough),
        )  # fmt: skip
        if survives and not drained:
            # What waits is in the store. What is in flight goes on, may publish and be answered; nothing else is begun.
            self._close_all(but_replies=True)
            bus.traffic.quiet(bus.clock, self._left(deadline), give_up=lambda: self._hurry)
        for pool in self._pools(bus.router.subscriptions()):
            pool.cut_short()
        subscriptions = self._close_all()
        # A publish that had found its route before the draining may have come after the quiet moment: once more, then.
        if drained and self._left(deadline) and self._waits(subscriptions):
            for mailbox in [subscription.mailbox for subscription in subscriptions if subscription.mailbox.reopen()]:
                mailbox.go_on()
            drained = bus.traffic.quiet(bus.clock, self._left(deadline), give_up=lambda: self._hurry)
            subscriptions = self._close_all()
            drained = drained and not self._waits(subscriptions)
        with self.lock:
            changed = self._change("stopped") if self.state != "stopped" else None
        bus.ledger.emit(changed)
        bus.replies.close()
        bus.services.end_pauses()
        for subscription in subscriptions:
            if subscription.inbox is not None:
                subscription.inbox.wake_all()
        bus.loops.adopt()
        self._end_questions(subscriptions, deadline)
        stuck = [
            worker.name
            for pool in self._pools(subscriptions)
            for worker in pool.stop(0.0 if self._hurry else self._left(deadline))
        ]
        stuck += bus.loops.stop(0.0 if self._hurry else self._left(deadline))
        for subscription in subscriptions:
            subscription.hand_back()
        errors: list[str] = []
        self._stop_filters(self._take_started(), errors)
        bus.timers.stop()
        asked = self._exit is not None or (survives and not drain)
        unhandled = self._unhandled(subscriptions) if asked else 0  # before the store is closed: a look would open it again
        bus.transport.stop()
        blocked = bus.loop_thread.stop(max(1.0, self._left(deadline)))
        if blocked is not None:
            stuck.append(blocked)
        returned = {name: len(ids) for name, ids in self._returned.items()}
        # What a handler has still in hand is told as its abandoned thread; what a reader has, only here.
        left = {s.name: s.mailbox.waiting() + (0 if s.handled else s.mailbox.in_flight) for s in subscriptions}
        if survives:
            left = {name: left.get(name, 0) + returned.get(name, 0) for name in left | returned}
        left = {name: count for name, count in left.items() if count}
        if returned or stuck:
            drained = False
        elif survives and not drain:
            drained = unhandled == 0
        report = StopReport(drained, left, tuple(stuck), tuple(errors))
        if left or stuck or errors:
            bus.ledger.warn("bus.stopped_early", left=left, returned=returned, abandoned=list(report.abandoned), errors=errors)
        bus.ledger.repeats()
        self._judge_exit(report, unhandled)
        return report

    def _survives(self) -> bool:
        return bool(self.bus.transport.capabilities.survives != "nothing")

    def drains(self, drain: bool | None) -> bool:
        """Whether a stop that is asked for like this works off what waits."""
        if drain is None:
            drain = self.bus.drains
        return not self._survives() if drain is None else drain

    def _waits(self, subscriptions: list[Subscription]) -> bool:
        """Something is there that a handler may begin; what went back is for the next start."""
        back = self._returned
        return any(s.handled and not s.paused and s.mailbox.waiting() > len(back.get(s.name, ())) for s in subscriptions)

    @staticmethod
    def _unhandled(subscriptions: list[Subscription]) -> int | None:
        """Messages that handlers have still to do, in memory or in the store; None: the store cannot say."""
        try:
            stats = [s.stats() for s in subscriptions if s.handled]
        except PipebusError:
            return None
        total: int = sum(one["pending"] + one["in_flight"] for one in stats)
        return total

    # --- what stopping breaks off, and how the program ends --------------------------------------------------------------

    def ended_by_stop(self, error: BaseException) -> bool:
        """
        Whether a handler's error is the bus's own doing: it stops, and what the handler waited for will not come. When it has
        closed, everything that a handler asks of it fails; so then nothing is the handler's fault.
        """
        if self.state == "stopped":
            return True
        return (self.stop_wanted or self.state == "draining") and comes_from(error, CUT_OFF)

    def went_back(self, name: str, message: Message[Any]) -> None:
        self._returned.setdefault(name, set()).add(message.id)

    def interrupted(self, error: BaseException, where: str, about: str = "", lost: bool = False) -> None:
        """
        A SystemExit or KeyboardInterrupt has ended something that runs for the program, on whatever thread: a stop is wanted.

        Args:
            where: What it has ended. about: What has become of the message in hand. lost: It is a dead letter.
        """
        if is_a(error, SystemExit):
            say(f"{where} called {told(error)}{f' on {about}' if about else ''}; the bus stops")
            self._lost = self._lost or lost
            if self._exit is None:
                self._exit = error
        self.request_stop(f"{class_name(error)} in {where}")

    def _judge_exit(self, report: StopReport, unhandled: int | None) -> None:
        """A program that has left work undone does not end as if all were well."""
        error = self._exit
        if error is None or not is_success(exit_code(error)):
            return
        if unhandled == 0 and not self._lost and not report.abandoned:
            return
        left = f"{unhandled} message{'' if unhandled == 1 else 's'} left to handle" if unhandled else "not all handled"
        say(f"{told(error)} was called with {left}; the exit code is 1")
        self._exit = SystemExit(1)

    @property
    def exit(self) -> BaseException | None:
        """After a stop: what the program ends with, where a handler, filter or observer has called `sys.exit()`."""
        return self._exit

    def leave(self) -> None:
        """
        Behind a stop, on the main thread: end the program, if a handler, filter or observer has called `sys.exit()`.

        Raises:
            SystemExit: with the code that was asked for; 1 instead of 0 where work is left.
        """
        error = self._exit
        if error is not None and self.state == "stopped" and threading.current_thread() is threading.main_thread():
            self._exit = None
            raise SystemExit(exit_code(error)) from error

    def _end_questions(self, subscriptions: list[Subscription], deadline: float) -> None:
        """Filter actors stop last: handlers that still run may have them around."""
        asked = [s.mailbox for s in subscriptions if isinstance(s.mailbox, AskedMailbox)]
        if not asked:
            return
        for subscription in subscriptions:
            if subscription.handled and not self._hurry:
                subscription.mailbox.wait_idle(self._left(deadline))
        for mailbox in asked:
            mailbox.end(at_once=self._hurry or not self._left(deadline))

    def _close_all(self, but_replies: bool = False) -> list[Subscription]:
        with self.lock:
            subscriptions = self._close_mailboxes(but_replies)
            if not self.bus.transport.local:
                for subscription in subscriptions:  # afterwards: a server may take its time
                    self.bus.transport.unbind(subscription.name)
        return subscriptions

    def _close_mailboxes(self, but_replies: bool) -> list[Subscription]:
        """Called under the lock. No handler is begun from here on."""
        subscriptions = [s for s in self.bus.router.subscriptions() if not (but_replies and s.answers)]
        for subscription in sorted(subscriptions, key=lambda s: isinstance(s.mailbox, AskedMailbox)):
            subscription.mailbox.close("stopped", keep=True)
        return subscriptions

    def _left(self, deadline: float) -> float:
        return max(0.0, deadline - self.bus.clock.monotonic())

    def _transport_quiet(self) -> bool:
        transport = self.bus.transport
        return bool(transport.local) or not any(
            transport.pending(s.name) for s in self.bus.router.subscriptions() if s.handled and not s.paused
        )

    # --- asking for a stop, and running until one --------------------------------------------------------------------------

    def request_stop(self, reason: str) -> None:
        if not self.stop_wanted:
            self.stop_wanted = True
            self.bus.ledger.debug("bus.stop_requested", reason=reason)
        bell = self.bell
        if bell is not None:
            bell.ring()
        for subscription in self.bus.router.subscriptions():
            if subscription.inbox is not None:
                subscription.inbox.end()

    def hurry(self) -> None:
        """Have a stop that drains wait no longer. For signal handlers: it takes no lock."""
        self._hurry = True
        self.bus.traffic.alarm()

    def enough(self) -> None:
        """Have a stop that drains a store finish only what is in flight. For signal handlers: it takes no lock."""
        self._enough = True
        self.bus.traffic.alarm()

    def forget(self) -> None:
        """A new round: nobody wants it to end."""
        self.stop_wanted = self._hurry = self._enough = self._lost = False
        self._exit = None

    def run(self, timeout: float, ready: Callable[[], object] = lambda: None) -> StopReport:
        """What `bus.run` calls; `ready` is called when it has started and hears signals."""
        signals = 0

        def on_signal(number: int, _: object) -> None:
            # Runs between two steps of the main thread, which may hold any lock: so it takes none.
            nonlocal signals
            signals += 1
            if signals > 1:
                self.hurry()
            self.bus.traffic.alarm()

        if self.state in ("new", "stopped"):
            self.forget()
        on_main = threading.current_thread() is threading.main_thread()
        before: dict[int, Any] = {}
        former = -1
        with Bell() as bell:
            self.bell = bell
            try:
                if on_main:
                    before = {number: signal.signal(number, on_signal) for number in ending_signals()}
                    former = signal.set_wakeup_fd(bell.cord, warn_on_full_buffer=False)
                self.start()
                ready()
                while not (self.stop_wanted or signals):  # handlers hear of a signal by the stop, when no other begins
                    bell.wait()
                return self.stop(timeout, drain=None)
            finally:
                self.bell = None
                if on_main:
                    signal.set_wakeup_fd(former)
                for number, handler in before.items():
                    signal.signal(number, signal.SIG_DFL if handler is None else handler)


def ending_signals() -> list[signal.Signals]:
    """
    Those that end a program gently: Ctrl-C, a supervisor's SIGTERM, a terminal that hangs up. One that is ignored stays so:
    whoever started the program wanted that, as `nohup` does.
    """
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def say(text: str) -> None:
    """A line for whoever started the program: where it ends, a log may never be read."""
    with suppress(Exception):  # there is no standard error, or it is closed
        sys.stderr.write(f"pipebus: {text}\n")
        sys.stderr.flush()


def told(error: BaseException) -> str:
    """The call that has raised it."""
    code = exit_code(error)
    return f"sys.exit({'' if code is None else shown(code)})"


def is_success(code: object) -> bool:
    """Whether the program's caller sees 0."""
    return code is None or (isinstance(code, int) and code & 0xFF == 0)


class Ringing(Protocol):
    def ring(self) -> None: ...


class Bell:
    """
    What `run` waits for. A signal rings it too, in the interpreter's own handler (`set_wakeup_fd`), so that one that comes
    just before the wait is not missed: the Python handler alone would then not run until something else ends the wait.
    """

    def __enter__(self) -> Bell:
        self._ear, self._hand = socket.socketpair()
        self._hand.setblocking(False)
        return self

    def __exit__(self, *_: object) -> None:
        self._ear.close()
        self._hand.close()

    @property
    def cord(self) -> int:
        """The file descriptor to write to."""
        return self._hand.fileno()

    def ring(self) -> None:
        with suppress(OSError):  # rung often enough already, or taken down at this moment
            self._hand.send(b"!")

    def wait(self) -> None:
        self._ear.recv(64)


def within_user_code(emit: Callable[..., object] = Ledger.emit) -> bool:
    """True if a filter or an observer is on this thread's stack: a stop from there would wait for itself."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code is emit.__code__ or frame.f_globals is vars(links_sync) or frame.f_globals is vars(links_async):
            return True
        frame = frame.f_back
    return False

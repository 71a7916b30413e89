"""
Start, drain, stop: the states of a bus, and the steps between them.

    new ── start ──> started ── stop ──> draining ──> stopped ── start ──> started

While the bus drains, handlers may still publish, but other code may not; when it is stopped, nothing may. No user code runs
while a lock is held, except filters' `start` and `stop`, which are part of the start and the stop.
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
from pipebus.delivery import verdicts
from pipebus.delivery.chain import compile_for
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
from pipebus.mailbox import control
from pipebus.mailbox.asked import AskedMailbox
from pipebus.mailbox.claims import Claims
from pipebus.message.message import Message
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline import compose, links_async, links_sync, routes, rules, shapes
from pipebus.pipeline.services import Services
from pipebus.pipeline.step import Step
from pipebus.publishing import arrival
from pipebus.publishing.replies import Replies
from pipebus.publishing.router import Router
from pipebus.publishing.schedule import Schedule
from pipebus.running.here import current_mailbox
from pipebus.running.loop_thread import LoopThread
from pipebus.running.loops import LoopRunner
from pipebus.running.pool import Pool
from pipebus.running.starts import Starts
from pipebus.running.timers import Timers
from pipebus.transports.base import Surroundings
from pipebus.waiting.locks import Locks, free

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

State = Literal["new", "started", "draining", "stopped"]

CUT_OFF: Final = (BusClosed, MailboxFull, RequestTimeout)
"""The errors that a handler gets when the bus stops: it accepts no message, makes no room, and brings no answer."""


class StopReport(msgspec.Struct, frozen=True):
    """
    The result of a stop.

    Args:
        drained: All accepted messages were settled before the bus closed.
        left: The number of messages left over, by subscription: those whose handlers the stop interrupted, without counting
            the attempt, and in memory also the pending ones. They are delivered after the next start of the bus.
        abandoned: The names of threads, and of subscriptions on event loops, whose handlers outlived the timeout.
        errors: The errors that filters raised in their `stop`.
    """

    drained: bool = True
    left: dict[str, int] = {}
    abandoned: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


class Parts(Protocol):
    """The parts of a bus that its lifecycle starts and stops."""

    bus: Any
    clock: Clock
    locks: Locks
    transport: Any
    codec: Any
    max_message_bytes: int | None
    claims: Claims
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
    """The lifecycle that starts or stops a filter here; emptied after that, for tasks that the filter leaves running."""

    __slots__ = ("lifecycle",)

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.lifecycle: Lifecycle | None = lifecycle


class Round:
    """One start of the bus, and the report of its stop."""

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
        self._enough = False  # a stop that drains a store may end early
        self.bell: Ringing | None = None  # rung when a stop is requested; set while the bus is in `run`, or records are read
        self._exit: BaseException | None = None  # the error to end the program with
        self._lost = False  # the message that was being handled then is a dead letter
        self._returned: dict[str, set[str]] = {}  # ids of messages whose handlers this stop interrupted
        self._round = Round()
        self._pid = os.getpid()
        self._started: list[Step] = []
        self._running: set[int] = set()  # ids of the filter objects that have started, or are about to
        self._holders: dict[Subscription, None] = {}  # subscriptions with filters of their own
        self._held: dict[int, int] = {}  # by id of a filter object: how many of these have it
        self._claiming = bus.locks.new()

    def _change(self, state: State) -> events.StateChanged | None:
        """Called under the lock; the caller emits the event after it. All routes go, so that each next publish checks again."""
        old, self.state = self.state, state
        self.turns += 1
        self.bus.router.forget_all()
        return events.StateChanged(old, state) if self.bus.ledger.observed else None

    def check_process(self) -> None:
        if os.getpid() != self._pid:
            raise LifecycleError("this bus was made before a fork, and its threads are in the parent; make one in the child")

    def check_publish(self) -> None:
        """Called for each publish that found no route: while the bus is not started, that is every publish."""
        self.check_process()
        if self.state == "started":
            return
        if self.state == "new":
            raise BusNotStarted("the bus is not started; use `with bus:` or bus.start() before you publish") from None
        if self.state == "draining" and self.in_handler():
            return  # handlers may finish their work
        how = "stopping" if self.state == "draining" else "stopped"
        raise BusClosed(f"the bus is {how}: it takes no more messages") from None

    def in_handler(self) -> bool:
        """True on a thread that runs a handler of this bus."""
        mailbox = current_mailbox()
        return mailbox is not None and mailbox.plan.claims is self.bus.claims

    # --- start ---------------------------------------------------------------------------------------------------------

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> bool:
        """
        Args:
            loop: The loop for handlers with run="loop"; None: the bus's own.

        Returns:
            False if it was started already.
        """
        bus = self.bus
        self.check_process()
        if self.state == "draining" or self._at_filters() or (self.in_handler() and self.state != "started"):
            raise LifecycleError("the bus is starting or stopping; wait for that before you start it (again)")
        self._check_interrupted()
        with self._stopping, self._starting:  # wait for a stop that still has to end its threads
            with self.lock:
                if self.state == "started":
                    return False
                self.check_chains()
                self.bus.loop_thread.open()
                if self.bell is None:  # otherwise `run` has done it, and a signal may have come since
                    self.forget()
                self._round, self._returned = Round(), {}
            try:
                self.stop_filters()  # those that a subscription started while the bus was stopped
                # Without the lock, because a filter's start may subscribe a handler, even from the bus's loop.
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
        """Accept messages, after the filters have started."""
        bus = self.bus
        subscriptions = list(bus.router.subscriptions())
        bus.services.begin_pauses()
        try:
            for subscription in subscriptions:
                control.remove_tokens(subscription)  # the transport took them back at the last stop
                compile_for(subscription, bus.delivery_nodes)
            bus.transport.start(Surroundings(bus.clock, bus.max_message_bytes, bus.claims.alarm, bus.ledger.warn))
            for pool in self._pools(subscriptions):
                pool.start()
            bus.loops.start(loop)
            bus.timers.start()
            bus.starts.retry()
            changed = self._change("started")
            left = [subscription for subscription in subscriptions if control.reopen(subscription)]
            for subscription in left:
                control.go_on(subscription)
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
                control.close(subscription, "stopped", keep=True)
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
        """Stop all filters that have started so far."""
        self._stop_filters(self._take_started(), [])

    def _take_started(self) -> list[Step]:
        with self._claiming:
            started, self._started = self._started, []
        return started

    def check_chains(self) -> None:
        """
        Raises:
            PipelineError: a chain cannot run as it is registered.
        """
        bus = self.bus
        rules.check(bus.router.nodes, "publish")
        if not any(step.colour == "async" for step in routes.steps(bus.router.nodes)):
            rules.check_colour(bus.router.nodes, "sync", "the publish chain is sync")
        for subscription in bus.router.subscriptions():
            check_delivery(subscription, bus.delivery_nodes)

    def _own_chains(self) -> list[tuple[compose.Node, ...]]:
        """The chains of the subscriptions; each plan's once."""
        return list({id(s.plan): s.plan.nodes for s in self.bus.router.subscriptions()}.values())

    def _pools(self, subscriptions: Iterable[Subscription]) -> list[Pool]:
        """The common pool, and those that serve one subscription alone."""
        return [self.bus.pool, *(s.plan.pool for s in subscriptions if s.plan.pool is not None)]

    def start_filters(self, chains: Iterable[tuple[compose.Node, ...]]) -> None:
        """Start all filter objects that have not started, in the order of the chains; if one fails, stop those before it."""
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
        """Whether the caller may start a filter object; True only once."""
        with self._claiming:
            if id(step.filter) in self._running:
                return False
            self._running.add(id(step.filter))
            return True

    def hold(self, subscription: Subscription) -> None:
        """Keep a subscription's own filters running until all subscriptions that have them are released."""
        if not subscription.plan.nodes:
            return
        with free(self._claiming):
            self._holders[subscription] = None
            for filter in {id(step.filter) for step in routes.steps(subscription.plan.nodes)}:
                self._held[filter] = self._held.get(filter, 0) + 1

    def release(self, subscription: Subscription) -> list[Any]:
        """
        Stop the filters that only this subscription has, after it was removed and its last handler has ended.

        Returns:
            The stopped filters.
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
        """Stop filters in reverse order; an error in one does not keep the others from stopping."""
        for step in reversed(started):
            self._running.discard(id(step.filter))
            try:
                end = getattr(step.filter, "stop", None)
                if end is not None:
                    self._call(end)
            except BaseException as error:  # the other filters must still be stopped
                spared(error)
                errors.append(f"{step.name}: {text_of(error)}")
                if is_a(error, SystemExit):
                    self.interrupted(error, f"the stop of filter {step.name}")
                self.bus.ledger.failed("filter.stop_failed", error, filter=step.name)

    def _call(self, act: Callable[..., Any], *arguments: Any) -> None:
        """Call a filter's `start` or `stop`; if it is async, on the bus's loop."""
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
        if not bus.claims.quiet(bus.clock, timeout, also=self._transport_quiet):
            raise self._not_drained(timeout)

    async def adrain(self, timeout: float) -> None:
        """`drain` on an event loop."""
        bus = self.bus
        self.check_process()
        if not await bus.claims.aquiet(bus.clock, timeout, also=self._transport_quiet):
            raise self._not_drained(timeout)

    def _not_drained(self, timeout: float) -> DrainTimeout:
        bus = self.bus
        pending = {
            s.name: waiting + s.in_flight
            for s in bus.router.subscriptions()
            if s.handled and (waiting := s.waiting()) + s.in_flight
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
                    self._close_mailboxes(but_replies=True)  # before the stop is announced: no handler starts after this
            for schedule in list(self.bus.schedules):
                schedule.end()
        self.request_stop("stop()")
        self.bus.ledger.emit(changed)
        with self._stopping:
            if this.report is None:  # otherwise another thread has stopped it, and it may have been started again since
                try:
                    this.report = self._stop(deadline, drain)
                except KeyboardInterrupt:  # the user wants to leave: return the messages in flight, and do not wait
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
        """Whether the caller is in a handler, filter, observer, or filter's start or stop: a stop would wait for itself."""
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
        drained = drain and bus.claims.quiet(
            bus.clock, self._left(deadline), also=self._transport_quiet,
            give_up=lambda: self._hurry or (survives and self._enough),
        )  # fmt: skip
        if survives and not drained:
            # Pending messages are in the store. Handlers that run may still publish and get answers; no other handler starts.
            self._close_all(but_replies=True)
            bus.claims.quiet(bus.clock, self._left(deadline), give_up=lambda: self._hurry)
        for pool in self._pools(bus.router.subscriptions()):
            pool.cut_short()
        subscriptions = self._close_all()
        # A publish that found its route before the drain began may have queued a message after the quiet moment: drain again.
        if drained and self._left(deadline) and self._waits(subscriptions):
            for subscription in [one for one in subscriptions if control.reopen(one)]:
                control.go_on(subscription)
            drained = bus.claims.quiet(bus.clock, self._left(deadline), give_up=lambda: self._hurry)
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
            verdicts.hand_back(subscription)
        errors: list[str] = []
        self._stop_filters(self._take_started(), errors)
        bus.timers.stop()
        asked = self._exit is not None or (survives and not drain)
        unhandled = self._unhandled(subscriptions) if asked else 0  # before the store is closed: a query would open it again
        bus.transport.stop()
        blocked = bus.loop_thread.stop(max(1.0, self._left(deadline)))
        if blocked is not None:
            stuck.append(blocked)
        returned = {name: len(ids) for name, ids in self._returned.items()}
        # A message that a handler still has is reported as its abandoned thread; one that a reader has, only here.
        left = {s.name: s.waiting() + (0 if s.handled else s.in_flight) for s in subscriptions}
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
        """Whether a stop with this argument handles the pending messages first."""
        if drain is None:
            drain = self.bus.drains
        return not self._survives() if drain is None else drain

    def _waits(self, subscriptions: list[Subscription]) -> bool:
        """Whether a message waits for a handler, apart from those that are kept for the next start."""
        back = self._returned
        return any(s.handled and not s.paused and s.waiting() > len(back.get(s.name, ())) for s in subscriptions)

    @staticmethod
    def _unhandled(subscriptions: list[Subscription]) -> int | None:
        """The number of messages still to handle, in memory or in the store; None if the store cannot say."""
        try:
            stats = [s.stats() for s in subscriptions if s.handled]
        except PipebusError:
            return None
        total: int = sum(one["pending"] + one["in_flight"] for one in stats)
        return total

    # --- what stopping breaks off, and how the program ends --------------------------------------------------------------

    def ended_by_stop(self, error: BaseException) -> bool:
        """
        Whether the stop of the bus caused a handler's error, because what the handler waited for will not come. After the stop
        every call of the bus fails, so no error counts as the handler's fault.
        """
        if self.state == "stopped":
            return True
        return (self.stop_wanted or self.state == "draining") and comes_from(error, CUT_OFF)

    def went_back(self, name: str, message: Message[Any]) -> None:
        self._returned.setdefault(name, set()).add(message.id)

    def interrupted(self, error: BaseException, where: str, about: str = "", lost: bool = False) -> None:
        """
        Request a stop, because a SystemExit or KeyboardInterrupt has ended user code, on any thread.

        Args:
            where: The code that it ended. about: What happened to its message. lost: That message is a dead letter.
        """
        if is_a(error, SystemExit):
            say(f"{where} called {told(error)}{f' on {about}' if about else ''}; the bus stops")
            self._lost = self._lost or lost
            if self._exit is None:
                self._exit = error
        self.request_stop(f"{class_name(error)} in {where}")

    def _judge_exit(self, report: StopReport, unhandled: int | None) -> None:
        """Change exit code 0 to 1 if the program leaves work undone."""
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
        """After a stop: the error to end the program with, if a handler, filter or observer has called `sys.exit()`."""
        return self._exit

    def leave(self) -> None:
        """
        After a stop, on the main thread: end the program, if a handler, filter or observer has called `sys.exit()`.

        Raises:
            SystemExit: with the requested code, but 1 instead of 0 if work is left.
        """
        error = self._exit
        if error is not None and self.state == "stopped" and threading.current_thread() is threading.main_thread():
            self._exit = None
            raise SystemExit(exit_code(error)) from error

    def _end_questions(self, subscriptions: list[Subscription], deadline: float) -> None:
        """Stop filter actors last, because handlers that still run may have them in their chains."""
        asked = [s for s in subscriptions if isinstance(s, AskedMailbox)]
        if not asked:
            return
        for subscription in subscriptions:
            if subscription.handled and not self._hurry:
                control.wait_idle(subscription, self._left(deadline))
        for mailbox in asked:
            mailbox.end(at_once=self._hurry or not self._left(deadline))

    def _close_all(self, but_replies: bool = False) -> list[Subscription]:
        with self.lock:
            subscriptions = self._close_mailboxes(but_replies)
            if not self.bus.transport.local:
                for subscription in subscriptions:  # after the mailboxes, because a server may be slow
                    self.bus.transport.unbind(subscription.name)
        return subscriptions

    def _close_mailboxes(self, but_replies: bool) -> list[Subscription]:
        """Close the mailboxes: no handler starts after this. (With the lock.)"""
        subscriptions = [s for s in self.bus.router.subscriptions() if not (but_replies and s.answers)]
        for subscription in sorted(subscriptions, key=lambda s: isinstance(s, AskedMailbox)):
            control.close(subscription, "stopped", keep=True)
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
        """Make a stop that drains wait no longer. It takes no lock, so that a signal handler may call it."""
        self._hurry = True
        self.bus.claims.alarm()

    def enough(self) -> None:
        """Make a stop that drains a store finish only messages in flight. It takes no lock: a signal handler may call it."""
        self._enough = True
        self.bus.claims.alarm()

    def forget(self) -> None:
        """Forget all stop requests, for a new round."""
        self.stop_wanted = self._hurry = self._enough = self._lost = False
        self._exit = None

    def run(self, timeout: float, ready: Callable[[], object] = lambda: None) -> StopReport:
        """The body of `bus.run`; it calls `ready` when the bus has started and signals are handled."""
        signals = 0

        def on_signal(number: int, _: object) -> None:
            # This runs between two steps of the main thread, which may hold any lock, so it takes none.
            nonlocal signals
            signals += 1
            if signals > 1:
                self.hurry()
            self.bus.claims.alarm()

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
                while not (self.stop_wanted or signals):  # handlers see a signal only as a stop, when no other handler starts
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
    The signals that end a program gently: Ctrl-C, a supervisor's SIGTERM, a terminal that hangs up. An ignored one stays
    ignored, because the parent process wants that, as `nohup` does.
    """
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


def say(text: str) -> None:
    """Write a line to standard error, because the log of a program that ends is easily missed."""
    with suppress(Exception):  # there is no standard error, or it is closed
        sys.stderr.write(f"pipebus: {text}\n")
        sys.stderr.flush()


def told(error: BaseException) -> str:
    """The `sys.exit` call that raised the error, as text."""
    code = exit_code(error)
    return f"sys.exit({'' if code is None else shown(code)})"


def is_success(code: object) -> bool:
    """Whether the exit status of the process is 0."""
    return code is None or (isinstance(code, int) and code & 0xFF == 0)


class Ringing(Protocol):
    def ring(self) -> None: ...


class Bell:
    """
    The object that `run` waits on. The interpreter's own signal handler rings it too (`set_wakeup_fd`), so that a signal just
    before the wait is not missed: the Python handler alone would not run until something else ends the wait.
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
        with suppress(OSError):  # the buffer is full, so it has rung already; or it is closed
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

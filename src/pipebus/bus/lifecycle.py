"""
Start, drain, stop: the states of a bus, and the steps between them.

    new ── start ──> started ── stop ──> draining ──> stopped ── start ──> started

While the bus drains, handlers may still publish, but other code may not; when it is stopped, nothing may. No user code runs
while a lock is held, except filters' `start` and `stop`, which are part of the start and the stop.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, Protocol

from pipebus import events
from pipebus.bus import opening, signals, stopping
from pipebus.bus.exits import Exit
from pipebus.bus.filter_lives import FilterLives
from pipebus.bus.stopping import StopReport
from pipebus.clock import Clock
from pipebus.errors import (
    BusClosed,
    BusNotStarted,
    LifecycleError,
    MailboxFull,
    RequestTimeout,
)
from pipebus.foreign.objects import class_name, comes_from
from pipebus.mailbox.claims import Claims
from pipebus.message.message import Message
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline import compose, links_async, links_sync
from pipebus.pipeline.services import Services
from pipebus.publishing.replies import Replies
from pipebus.publishing.router import Router
from pipebus.publishing.schedule import Schedule
from pipebus.running.here import current_mailbox
from pipebus.running.loop_thread import LoopThread
from pipebus.running.loops import LoopRunner
from pipebus.running.pool import Pool
from pipebus.running.starts import Starts
from pipebus.running.timers import Timers
from pipebus.waiting.green import refuse_green_threads
from pipebus.waiting.locks import Locks, free

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`

State = Literal["new", "started", "draining", "stopped"]

CUT_OFF: Final = (BusClosed, MailboxFull, RequestTimeout)
"""The errors that a handler gets when the bus stops: it accepts no message, makes no room, and brings no answer."""


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
        self.hurried = False  # a stop waits no longer
        self.has_enough = False  # a stop that drains a store may end early
        # Rung when a stop is requested; set while the bus is in `run`, or records are read.
        self.bell: signals.Ringing | None = None
        self.exit = Exit()
        self.returned: dict[str, set[str]] = {}  # ids of messages whose handlers this stop interrupted
        self.lost: dict[str, int] = {}  # messages that end with their subscriptions, by name
        self._round = Round()
        self._pid = os.getpid()
        self.filters = FilterLives(bus, self.interrupted, self.ended_by_stop)

    def change(self, state: State) -> events.StateChanged | None:
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
            on_loop = asyncio._get_running_loop() is not None
            how = "`async with bus:` or `await bus.astart()`" if on_loop else "`with bus:` or bus.start()"
            raise BusNotStarted(f"the bus is not started; use {how} before you publish") from None
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
            False if it was started already. Its handlers move to `loop` then, if theirs is closed.
        """
        bus = self.bus
        self.check_process()
        refuse_green_threads()
        if self.state == "draining" or self.filters.here() or (self.in_handler() and self.state != "started"):
            raise LifecycleError("the bus is starting or stopping; wait for that before you start it (again)")
        _check_interrupted(self)
        with self._stopping, self._starting:  # wait for a stop that still has to end its threads
            if self.state == "started":
                bus.loops.move(loop)
                return False
            with self.lock:
                opening.check_chains(bus)
                self.bus.loop_thread.open()
                if self.bell is None:  # otherwise `run` has done it, and a signal may have come since
                    self.forget()
                self._round, self.returned, self.lost = Round(), {}, {}
            try:
                self.filters.stop()  # those that a subscription started while the bus was stopped
                # Without the lock, because a filter's start may subscribe a handler, even from the bus's loop.
                self.filters.start([bus.router.nodes, bus.delivery_nodes, *_own_chains(bus)])
                self.filters.start(_own_chains(bus))
                with self.lock:
                    changed = opening.open_bus(self, loop)
            except BaseException:
                self.filters.stop()
                bus.loop_thread.stop(1.0)
                raise
        bus.ledger.emit(changed)
        return True

    # --- drain and stop --------------------------------------------------------------------------------------------------

    def drain(self, timeout: float) -> None:
        """Raises DrainTimeout with the numbers."""
        bus = self.bus
        self.check_process()
        if not bus.claims.quiet(bus.clock, timeout, also=functools.partial(stopping.transport_quiet, bus)):
            raise stopping.not_drained(bus, timeout)

    async def adrain(self, timeout: float) -> None:
        """`drain` on an event loop."""
        bus = self.bus
        self.check_process()
        if not await bus.claims.aquiet(bus.clock, timeout, also=functools.partial(stopping.transport_quiet, bus)):
            raise stopping.not_drained(bus, timeout)

    def stop(self, timeout: float, drain: bool | None) -> StopReport:
        """See `Bus.stop`. It raises no SystemExit: `leave` does."""
        self.check_process()
        if self.from_inside():
            return self.only_request("stop()")
        if asyncio._get_running_loop() is not None:
            raise LifecycleError("stop waits for handlers and would stop the running event loop; use `await bus.astop()`")
        _check_interrupted(self)
        deadline = self.bus.clock.monotonic() + timeout
        with self._starting, self.lock:
            if self.state == "new":
                self.request_stop("stop()")
                return StopReport()
            this = self._round
            changed = None
            if self.state == "started":
                changed = self.change("draining")
                if not self.drains(drain):
                    stopping.close_mailboxes(
                        self.bus, but_replies=True
                    )  # before the stop is announced: no handler starts after this
            for schedule in list(self.bus.schedules):
                schedule.end()
        self.request_stop("stop()")
        self.bus.ledger.emit(changed)
        with self._stopping:
            if this.report is None:  # otherwise another thread has stopped it, and it may have been started again since
                try:
                    this.report = stopping.stop(self, deadline, drain)
                except KeyboardInterrupt:  # the user wants to leave: return the messages in flight, and do not wait
                    self.hurry()
                    this.report = stopping.stop(self, deadline, drain=False)
                    raise
            return this.report

    def from_inside(self) -> bool:
        """Whether the caller is in a handler, filter, observer, or filter's start or stop: a stop would wait for itself."""
        return self.in_handler() or self.filters.here() or within_user_code()

    def only_request(self, call: str) -> StopReport:
        self.request_stop(f"{call} in a handler, filter or observer")
        return StopReport(drained=False)

    def drains(self, drain: bool | None) -> bool:
        """Whether a stop with this argument handles the pending messages first."""
        if drain is None:
            drain = self.bus.drains
        return not stopping.survives(self.bus) if drain is None else drain

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
        self.returned.setdefault(name, set()).add(message.id)

    def interrupted(self, error: BaseException, where: str, about: str = "", lost: bool = False) -> None:
        """Request a stop, because a SystemExit or KeyboardInterrupt has ended user code; see `Exit.ask`."""
        self.exit.ask(error, where, about, lost)
        self.request_stop(f"{class_name(error)} in {where}")

    def leave(self) -> None:
        """After a stop, on the main thread: end the program, if a handler, filter or observer has called `sys.exit()`."""
        if self.state == "stopped":
            self.exit.leave()

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
        self.hurried = True
        self.bus.claims.alarm()

    def enough(self) -> None:
        """Make a stop that drains a store finish only messages in flight. It takes no lock: a signal handler may call it."""
        self.has_enough = True
        self.bus.claims.alarm()

    def forget(self) -> None:
        """Forget all stop requests, for a new round."""
        self.stop_wanted = self.hurried = self.has_enough = False
        self.exit = Exit()


def _own_chains(bus: Parts) -> list[tuple[compose.Node, ...]]:
    """The chains of the subscriptions; each plan's once."""
    return list({id(s.plan): s.plan.nodes for s in bus.router.subscriptions()}.values())


def _check_interrupted(lifecycle: Lifecycle) -> None:
    """Raises LifecycleError in code that has interrupted this thread in a start, a stop or a change."""
    free(lifecycle._starting)
    free(lifecycle._stopping)
    lifecycle.bus.locks.check()


def within_user_code(emit: Callable[..., object] = Ledger.emit) -> bool:
    """True if a filter or an observer is on this thread's stack: a stop from there would wait for itself."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code is emit.__code__ or frame.f_globals is vars(links_sync) or frame.f_globals is vars(links_async):
            return True
        frame = frame.f_back
    return False

"""
Schedules: messages that the bus publishes again and again.

    bus.every("1m", "headlines.fetch")
    bus.cron("0 3 * * 1-5", "report.nightly", name="report", timezone="Europe/Berlin")

A schedule is a mailbox with room for one tick, and a handler that publishes. So each tick runs on the worker pool like any
handler: if a filter or a full mailbox makes it wait, no other schedule waits, and ticks that become due meanwhile are skipped.
(A named schedule has room for two: of the slots that come meanwhile, the last one is published.)
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable
from typing import Any, Final, Protocol

from pipebus.clock import Clock
from pipebus.errors import LifecycleError, PipelineError
from pipebus.foreign.objects import is_a, said
from pipebus.mailbox import control, endings
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.offering import offer
from pipebus.mailbox.parcel import Item, message_of
from pipebus.mailbox.rare import Rules, has_gil
from pipebus.mailbox.shared import STATE, SharedMailbox
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Receipt
from pipebus.message.slot import Slot
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline.places import Place
from pipebus.publishing.timetable import Intervals, Timetable
from pipebus.publishing.turns import Turns
from pipebus.running.timers import Timer, Timers


class Ticking(Protocol):
    """What a schedule needs of the bus."""

    clock: Clock
    timers: Timers
    ledger: Ledger

    @property
    def state(self) -> str: ...
    @property
    def publish(self) -> Callable[..., Receipt | Dropped]: ...
    def forget_schedule(self, schedule: Schedule) -> None: ...
    def interrupted(self, error: BaseException, where: str) -> None: ...


LOOKS: Final = 60.0
"""Seconds after which a timer looks at the time of day again, which may have been set meanwhile."""
EARLY: Final = 1e-3
"""Seconds by which a tick may come early, because times are rounded."""


class Schedule:
    """
    A message that is published again and again while the bus is started; made by `bus.every` and `bus.cron`.

    Missed ticks are skipped, and no tick begins before the last one has been published.
    """

    def __init__(
        self, bus: Ticking, timetable: Timetable, subject: Any, body: Any, envelope: dict[str, Any], rules: Rules, place: Place,
        *, given: str | None, now: bool, missed: str, turns: Turns | None,
    ) -> None:  # fmt: skip
        self.bus = bus
        self.timetable = timetable
        self.subject = subject
        self.body = body
        self.envelope = envelope
        self.place = place
        self.given = given  # its name, if the program has given it one
        self.now = now
        self.missed = missed
        self.published = 0  # publishes that did not raise; a message that a filter dropped counts, as in `bus.stats()`
        self.skipped = 0
        self.elsewhere = 0  # slots that another process has published
        self.failed_ticks = 0
        self.stopped = False
        self._turns = turns
        # An interval without a name begins with the bus, and every other timetable is of the calendar.
        self._relative = turns is None and isinstance(timetable, Intervals)
        self._time = bus.clock.monotonic if self._relative else bus.clock.now
        self._due = math.inf
        self._timer: Timer | None = None
        self._era = 0  # counts starts and stops, so that a timer of an earlier start has no effect
        self._ticks = (Ticks if has_gil else SharedTicks)(rules, self)

    @property
    def name(self) -> str:
        return self.given or f"{self.timetable.text}: {said(self.subject)}"

    def stop(self) -> None:
        """Publish no more messages, not even after the next start of the bus."""
        self.stopped = True
        self.bus.forget_schedule(self)

    def stats(self) -> dict[str, Any]:
        """
        JSON-safe figures.

        Returns:
            `name`: None if it was not given one. `every`: the interval in seconds; or `cron` and `timezone`. `subject`.
            `published`, `elsewhere`, `skipped` and `failed`: ticks that ended so; `elsewhere`: another process has published
            it. `due_in`: seconds to the next tick; None: it is not running.
        """
        running = not self.stopped and self.bus.state == "started" and self._due < math.inf
        return {
            "name": self.given,
            **self.timetable.facts,
            "subject": said(self.subject),
            "published": self.published,
            "elsewhere": self.elsewhere,
            "skipped": self.skipped,
            "failed": self.failed_ticks,
            "due_in": round(max(0.0, self._due - self._time()), 3) if running else None,
        }

    def __repr__(self) -> str:
        return f"<Schedule {self.name}>"

    def __call__(self, *_: Any, **__: Any) -> Any:
        """For `@bus.every(…)` above a function, which is a mistake: raise an error, and publish nothing."""
        self.stop()
        raise PipelineError(
            f'every publishes on "{self.subject}" and is not a decorator; subscribe the function: @bus.on("{self.subject}")'
        )

    # --- called by the bus ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the ticks."""
        self._era += 1
        control.reopen(self._ticks)
        time = self._time()
        if self._relative:
            self.timetable = Intervals(self.timetable.facts["every"], origin=time)
        slot, self._due = self.timetable.last(time), self.timetable.next(time)
        self._arm(self._era)
        if self.now or self._turns is not None:
            self._offer(slot, enters=True)

    def end(self) -> None:
        """Stop the ticks, until the next `begin`."""
        self._era += 1
        self._due = math.inf
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        control.close(self._ticks, "stopped", keep=False)

    def _arm(self, era: int) -> None:
        wait = max(0.0, self._due - self._time())
        if self._turns is not None:
            wait += self._turns.wait
        if not self._relative:
            wait = min(wait, LOOKS)
        self._timer = timer = self.bus.timers.after(wait, lambda: self._tick(era))
        if era != self._era:  # it was ended meanwhile
            timer.cancel()

    def _tick(self, era: int) -> None:
        """On the timer's thread: queue the tick for a worker. The mailbox drops it if the previous one still runs."""
        if era != self._era or self.stopped:
            return
        due, time = self._due, self._time()
        if due == math.inf:
            return  # it was ended just now
        if due - time > EARLY:
            self._arm(era)
            return
        slot = self.timetable.last(max(due, time))
        self.skipped += self.timetable.count(due, slot)
        self._due = self.timetable.next(slot)
        self._arm(era)
        self._offer(slot, enters=False)

    def _offer(self, slot: float, enters: bool) -> None:
        offer(self._ticks, Message("pipebus.tick", (slot, enters)))

    def publish(self, slot: float, enters: bool) -> None:
        """
        One tick, on a worker's thread.

        Args:
            slot: Its time.
            enters: It is the first of this start.
        """
        try:
            if self.bus.state == "started" and not self.stopped:
                self._publish(slot, enters)
        except BaseException as error:
            if is_a(error, LifecycleError) and self.bus.state != "started":
                return  # not a failure: the bus began to stop meanwhile, and now refuses new messages
            self.failed_ticks += 1
            self.bus.ledger.failed("schedule.failed", error, schedule=self.name)
            if is_a(error, (KeyboardInterrupt, SystemExit)):
                self.bus.interrupted(error, self.name)

    def _publish(self, time: float, enters: bool) -> None:
        turns, envelope = self._turns, self.envelope
        slot = Slot(self.name, time, self.timetable.text)
        if turns is not None:
            if not (turns.enter(slot, self._time()) if enters else turns.take(slot)):
                self.elsewhere += not enters
                return
            envelope = {**envelope, "id": slot.id, "headers": slot.headers(envelope.get("headers"))}
        # In a context of its own, where the tick is not in hand: each message begins a conversation.
        outcome = contextvars.Context().run(self.bus.publish, self.subject, self.body, **envelope)
        if turns is None or turns.settle(slot, outcome):
            self.published += 1
        else:
            self.elsewhere += 1


class Ticks(Mailbox):
    """The mailbox of a schedule."""

    __slots__ = ("schedule",)

    quick = is_async = False

    def __init__(self, plan: Any, schedule: Schedule) -> None:
        super().__init__(plan)
        self.schedule = schedule

    @property
    def name(self) -> str:
        return self.schedule.name

    def chain(self) -> Callable[[Message[Any]], Any]:
        return self.deliver

    def deliver(self, item: Item) -> None:
        try:
            self.schedule.publish(*message_of(item).body)
        finally:
            endings.end(self, item, "acknowledged")

    def overflowed(self, item: Item, policy: str) -> None:
        self.schedule.skipped += 1

    def discarded(self, item: Item, reason: str, by: str | None) -> None:
        return None


class SharedTicks(SharedMailbox, Ticks):
    """The same where there is no GIL."""

    __slots__ = STATE

"""
Schedules: messages that the bus publishes at fixed intervals.

    bus.every(60.0, "headlines.fetch")

A schedule is a mailbox with room for one tick, and a handler that publishes. So each tick runs on the worker pool like any
handler: if a filter or a full mailbox makes it wait, no other schedule waits, and ticks that become due meanwhile are skipped.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable
from typing import Any, Protocol

from pipebus.clock import Clock
from pipebus.errors import LifecycleError, PipelineError
from pipebus.foreign.objects import is_a, said
from pipebus.mailbox import control, endings
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.offering import offer
from pipebus.mailbox.parcel import Item
from pipebus.mailbox.rare import Rules, has_gil
from pipebus.mailbox.shared import STATE, SharedMailbox
from pipebus.message.message import Message
from pipebus.outcomes.ledger import Ledger
from pipebus.pipeline.places import Place
from pipebus.running.timers import Timer, Timers


class Ticking(Protocol):
    """What a schedule needs of the bus."""

    clock: Clock
    timers: Timers
    ledger: Ledger

    @property
    def state(self) -> str: ...
    @property
    def publish(self) -> Callable[..., object]: ...
    def forget_schedule(self, schedule: Schedule) -> None: ...
    def interrupted(self, error: BaseException, where: str) -> None: ...


class Schedule:
    """
    A message that is published every `interval` seconds while the bus is started; made by `bus.every`.

    The first message comes one interval after the bus starts, or after `every` if it is started already; the others follow at
    whole intervals from there. Missed ticks are skipped.
    """

    def __init__(
        self, bus: Ticking, interval: float, subject: Any, body: Any, envelope: dict[str, Any], rules: Rules, place: Place,
    ) -> None:  # fmt: skip
        self.bus = bus
        self.interval = interval
        self.subject = subject
        self.body = body
        self.envelope = envelope
        self.place = place
        self.published = 0  # publishes that did not raise; a message that a filter dropped counts, as in `bus.stats()`
        self.skipped = 0
        self.failed_ticks = 0
        self.stopped = False
        self._due = math.inf
        self._timer: Timer | None = None
        self._era = 0  # counts starts and stops, so that a timer of an earlier start has no effect
        self._ticks = (Ticks if has_gil else SharedTicks)(rules, self)

    @property
    def name(self) -> str:
        return f"every {self.interval:g} s: {said(self.subject)}"

    def stop(self) -> None:
        """Publish no more messages, not even after the next start of the bus."""
        self.stopped = True
        self.bus.forget_schedule(self)

    def stats(self) -> dict[str, Any]:
        """
        JSON-safe figures.

        Returns:
            `every`: the interval in seconds. `subject`. `published`, `skipped` and `failed`: ticks that ended so. `due_in`:
            seconds to the next tick; None: it is not running.
        """
        running = not self.stopped and self.bus.state == "started" and self._due < math.inf
        return {
            "every": self.interval,
            "subject": said(self.subject),
            "published": self.published,
            "skipped": self.skipped,
            "failed": self.failed_ticks,
            "due_in": round(max(0.0, self._due - self.bus.clock.monotonic()), 3) if running else None,
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
        """Start the ticks, the first one after an interval."""
        self._era += 1
        control.reopen(self._ticks)
        self._due = self.bus.clock.monotonic() + self.interval
        self._arm(self._era)

    def end(self) -> None:
        """Stop the ticks, until the next `begin`."""
        self._era += 1
        self._due = math.inf
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        control.close(self._ticks, "stopped", keep=False)

    def _arm(self, era: int) -> None:
        due = max(0.0, self._due - self.bus.clock.monotonic())
        self._timer = timer = self.bus.timers.after(due, lambda: self._tick(era))
        if era != self._era:  # it was ended meanwhile
            timer.cancel()

    def _tick(self, era: int) -> None:
        """On the timer's thread: queue the tick for a worker. The mailbox drops it if the previous one still runs."""
        if era != self._era or self.stopped:
            return
        due = self._due
        if due == math.inf:
            return  # it was ended just now
        missed = max(0, math.floor((self.bus.clock.monotonic() - due) / self.interval))
        self.skipped += missed
        self._due = due + (missed + 1) * self.interval
        self._arm(era)
        offer(self._ticks, Message("pipebus.tick"))

    def publish(self) -> None:
        """One tick, on a worker's thread."""
        try:
            if self.bus.state == "started" and not self.stopped:
                # In a context of its own, where the tick is not in hand: each message begins a conversation.
                contextvars.Context().run(self.bus.publish, self.subject, self.body, **self.envelope)
                self.published += 1
        except BaseException as error:
            if is_a(error, LifecycleError) and self.bus.state != "started":
                return  # not a failure: the bus began to stop meanwhile, and now refuses new messages
            self.failed_ticks += 1
            self.bus.ledger.failed("schedule.failed", error, schedule=self.name)
            if is_a(error, (KeyboardInterrupt, SystemExit)):
                self.bus.interrupted(error, self.name)


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
            self.schedule.publish()
        finally:
            endings.end(self, item, "acknowledged")

    def overflowed(self, item: Item, policy: str) -> None:
        self.schedule.skipped += 1

    def discarded(self, item: Item, reason: str, by: str | None) -> None:
        return None


class SharedTicks(SharedMailbox, Ticks):
    """The same where there is no GIL."""

    __slots__ = STATE

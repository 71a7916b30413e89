"""
Turns: which slots of a named schedule this process publishes.

All processes that declare the schedule reach a slot at the same time, and any of them may end at any step. Each slot is
published once, because

- the store records the slot in the transaction that keeps the message, and keeps no message for a slot that is not later than
  the recorded one. So of two processes that publish a slot, the second changes nothing, and learns that it was too late;
- a process that ends before this transaction leaves the slot to the others, and one that ends after it leaves nothing to do;
- a process that starts finds in the store what is over, and begins behind it.

What `Transport.slot` returns may be out of date when the message is sent. It only saves the other processes a pass of the
chain. So that it nearly always does, a process that was too late once looks a little later from then on, until it finds a slot
that nobody has published.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pipebus.message.outcomes import Receipt
from pipebus.message.slot import Slot

LATER: Final = 0.2
"""Seconds after a slot at which a process looks whether another one has published it."""
AHEAD: Final = 60.0
"""Seconds by which the clock of another process may be ahead of ours before we warn."""


class Turns:
    """
    Args:
        now, missed: As for `Bus.every`.
        warn: As in `Surroundings`.
    """

    def __init__(self, transport: Any, *, now: bool, missed: str, warn: Callable[..., None]) -> None:
        self.transport = transport
        self.catches_up = now or missed == "once"
        self.now = now
        self.warn = warn
        self.wait = 0.0

    def enter(self, slot: Slot, time: float) -> bool:
        """Whether to publish the present slot, at a start of the bus; `time`: now."""
        known = next((one for one in self.transport.schedules() if one.schedule == slot.schedule), None)
        if known is None:
            if not self.now:
                self.transport.skip_slot(slot)  # a new schedule begins with its next slot
            return self.now
        if known.timetable != slot.timetable:
            self.warn("schedule.changed", schedule=slot.schedule, was=known.timetable, now=slot.timetable)
        if known.time > time + AHEAD:
            self.warn("schedule.ahead", schedule=slot.schedule, by=round(known.time - time, 3))
        return self.catches_up and known.time < slot.time

    def take(self, slot: Slot) -> bool:
        """Whether to publish a slot whose time has come."""
        last = self.transport.slot(slot.schedule)
        return self._seen(last is None or last < slot.time)

    def settle(self, slot: Slot, outcome: Any) -> bool:
        """Report what `publish` has returned. True: it was the first to publish the slot."""
        if outcome.__class__ is not Receipt or self.transport.local:
            self.transport.skip_slot(slot)  # what one filter drops is dropped for all processes
            return True
        return self._seen(not outcome.duplicate)

    def _seen(self, free: bool) -> bool:
        self.wait = 0.0 if free else LATER
        return free

"""
The slot of a named schedule: a time of the calendar at which it publishes one message, for all processes that declare it.

The message says so itself, in its id and headers, so that it can be recognised wherever it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipebus.message.headers import SCHEDULE_HEADER, SLOT_HEADER, TIMETABLE_HEADER, Headers, frozen_headers
from pipebus.message.message import Message


class Slot(NamedTuple):
    """
    Args:
        schedule: The name of the schedule.
        time: Seconds since 1970-01-01 UTC.
        timetable: When the schedule publishes, as text: "every 60 s", or "cron 0 3 * * 1-5 Europe/Berlin".
    """

    schedule: str
    time: float
    timetable: str

    @property
    def id(self) -> str:
        """The id of its message: equal in all processes."""
        return f"{self.schedule}@{self._moment}"

    @property
    def _moment(self) -> str:
        return repr(self.time).removesuffix(".0")

    def headers(self, own: Mapping[str, str] | None) -> Headers:
        """
        The headers of its message.

        Args:
            own: Those that the program has given to the schedule, which are checked.
        """
        return frozen_headers(
            {**(own or {}), SCHEDULE_HEADER: self.schedule, SLOT_HEADER: self._moment, TIMETABLE_HEADER: self.timetable}
        )


def slot_of(message: Message[Any]) -> Slot | None:
    """The slot that a message is for; None for any other message, such as a copy with an id of its own."""
    found = message.headers
    if SLOT_HEADER not in found:
        return None
    try:
        slot = Slot(found[SCHEDULE_HEADER], float(found[SLOT_HEADER]), found.get(TIMETABLE_HEADER, ""))
    except (KeyError, ValueError):  # a foreign client has written these headers
        return None
    return slot if slot.id == message.id else None


def without_slot(message: Message[Any]) -> Message[Any]:
    """The message as an ordinary one, to be sent again: a store would take it for that of a slot that is over."""
    if SLOT_HEADER not in message.headers:
        return message
    own = (SCHEDULE_HEADER, SLOT_HEADER, TIMETABLE_HEADER)
    return message.replace(headers=frozen_headers({name: text for name, text in message.headers.items() if name not in own}))

"""
Timetables: at which times a schedule publishes.

Their times are slots: every process that has the same timetable has the same ones, however it was started.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, tzinfo
from functools import partial
from typing import Any, Final, Protocol

from pipebus.errors import PipelineError
from pipebus.foreign.objects import plain_text, shown
from pipebus.foreign.packages import install
from pipebus.values import quantities

COUNTED: Final = 10_000
"""Most slots that are counted after a gap, such as the sleep of a laptop: a week of minutes."""
_FIELDS: Final = (
    'it is minute, hour, day of month, month and day of week, as in "0 3 * * 1-5"; a sixth field, before them, is seconds'
)


class Timetable(Protocol):
    """
    Attributes:
        text: The whole of it, so that `timetable_of` can make it again.
        facts: The same by name, as `Schedule.stats` and `describe` have it.
    """

    text: str
    facts: Mapping[str, Any]

    def next(self, time: float) -> float:
        """The first slot after this time; infinity if there is none."""
        ...

    def last(self, time: float) -> float:
        """The last slot that is not after this time."""
        ...

    def count(self, after: float, until: float) -> int:
        """How many slots are after the one and not after the other."""
        ...


class Intervals(Timetable):
    """
    Args:
        seconds: Between two slots, > 0.
        origin: One of them. By default all are whole multiples of `seconds` since 1970-01-01 UTC.
    """

    def __init__(self, seconds: float, origin: float = 0.0) -> None:
        self.seconds = seconds
        self.origin = origin
        self.text = f"every {seconds:.15g} s"
        self.facts = {"every": seconds}

    def next(self, time: float) -> float:
        return self._slot(self._number(time) + 1)

    def last(self, time: float) -> float:
        return self._slot(self._number(time))

    def count(self, after: float, until: float) -> int:
        return self._number(until) - self._number(after)

    def _slot(self, number: int) -> float:
        return self.origin + number * self.seconds

    def _number(self, time: float) -> int:
        """The number of the last slot; the quotient may be off by one, because it is rounded."""
        number = math.floor((time - self.origin) / self.seconds)
        if self._slot(number) > time:
            return number - 1
        return number + 1 if self._slot(number + 1) <= time else number


class Cron(Timetable):
    """
    Times of the calendar, as Debian's cron has them: where a change of the clock skips the hour of a slot, the slot is at the
    end of the gap; where it repeats the hour, the slot is in the first of the two. With `*` for the minute or hour, or with
    seconds, slots follow the time that passes instead.

    Args:
        expression: Five fields, or six that begin with seconds.
        timezone: A name such as "Europe/Berlin".

    Raises:
        PipelineError: either is unknown, there is no such time, or the package cronsim is not installed.
    """

    def __init__(self, expression: str, timezone: str) -> None:
        try:
            from cronsim import CronSim, CronSimError
        except ImportError:
            raise PipelineError(f"cron needs the package cronsim: {install('cron')}") from None
        expression, timezone = plain_text(expression), plain_text(timezone)
        if not isinstance(expression, str):
            raise PipelineError(f"cron={shown(expression)}: {_FIELDS}")
        self.zone = _zone(timezone)
        self._slots = partial(CronSim, expression)
        self.text = f"cron {' '.join(expression.split())} {timezone}"
        self.facts = {"cron": expression, "timezone": timezone}
        try:
            found = self.next(0.0)
        except (CronSimError, AssertionError, TypeError) as error:
            raise PipelineError(f"cron={shown(expression)}: {error}; {_FIELDS}") from None
        if found == math.inf:
            raise PipelineError(f"cron={shown(expression)}: there is no such time; {_FIELDS}")

    def next(self, time: float) -> float:
        return next(self._after(time), math.inf)

    def last(self, time: float) -> float:
        # Backwards from a repeated hour, the slot in its first half is not found; so the last steps are made forwards.
        found = next((slot for slot in self._times(time + 1, reverse=True) if slot <= time), 0.0)
        while (later := self.next(found)) <= time:
            found = later
        return found

    def count(self, after: float, until: float) -> int:
        slots = itertools.takewhile(lambda slot: slot <= until, self._after(after))
        return sum(1 for _ in itertools.islice(slots, COUNTED))

    def _after(self, time: float) -> Iterator[float]:
        return (slot for slot in self._times(time) if slot > time)

    def _times(self, time: float, reverse: bool = False) -> Iterator[float]:
        return (slot.timestamp() for slot in self._slots(datetime.fromtimestamp(time, self.zone), reverse))


def timetable_of(text: str) -> Timetable:
    """
    The timetable that has this text.

    Raises:
        PipelineError: there is none.
    """
    kind, _, rest = text.partition(" ")
    if kind == "cron":
        return Cron(*rest.rsplit(" ", 1))
    return Intervals(quantities.seconds(rest, "every", above=0.0))


def _zone(name: Any) -> tzinfo:
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, TypeError, AttributeError, OSError):
        raise PipelineError(
            f'timezone={shown(name)} is unknown; it is a name such as "Europe/Berlin" (where the system has no time zones, '
            "pip install tzdata)"
        ) from None

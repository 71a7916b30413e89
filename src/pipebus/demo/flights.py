"""The demo's two shapes of a flight: `Flight`, a record that can be used, and `Departure`, what subscribers read."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pipebus.message.message import Message
from pipebus.pipeline.shapes import transform

USES_THE_BUS: Final = True  # its lines are places of registration, as a program's are

ONE_DAY = timedelta(days=1)


def _on_the_clock(time: int) -> int:
    if not 0 <= time <= 2400 or time % 100 >= 60:
        raise PydanticCustomError("clock_time", "not a time between 0 and 2400, written HHMM")
    return time


ClockTime = Annotated[int, AfterValidator(_on_the_clock)]
"""A time as a clock shows it, 0 to 2400: 517 is 05:17, and 2400 is midnight at the day's end."""


class Flight(BaseModel):
    """
    A record that can be used: the model that the demo's `Validate` holds against raw CSV rows, whose values are text.

    `NA` is a missing value. A record that lacks something is refused with one reason, the first in the order of the
    fields: a cancelled flight lacks both times, and "no departure time" says it best; a diverted one may have landed
    somewhere at some time, and "no arrival delay" says that best. So no field here is ever None.
    """

    model_config = ConfigDict(frozen=True)

    dep_time: ClockTime = Field(title="departure time")
    arr_delay: int = Field(title="arrival delay")
    arr_time: ClockTime = Field(title="arrival time")
    sched_dep_time: ClockTime = Field(title="scheduled departure time")
    dep_delay: int = Field(title="departure delay")
    year: int = Field(ge=1, le=9998)
    month: int
    day: int
    carrier: str = Field(pattern=r"^[A-Z0-9]{2}$")
    flight: int = Field(title="flight number")
    origin: str = Field(pattern=r"^[A-Z]{3}$")
    dest: str = Field(pattern=r"^[A-Z]{3}$")

    @model_validator(mode="before")
    @classmethod
    def _lacks_nothing(cls, record: Any) -> Any:
        if isinstance(record, Mapping):
            for name, field in cls.model_fields.items():
                if record.get(name) == "NA":
                    raise PydanticCustomError("not_known", "no {what}", {"what": field.title or name})
        return record

    @model_validator(mode="after")
    def _is_of_a_day(self) -> Self:
        try:
            date(self.year, self.month, self.day)
        except ValueError:
            raise PydanticCustomError("calendar_day", "no such day in the calendar") from None
        return self


class Band(StrEnum):
    """How late a flight arrived, in four words. Fifteen minutes is the Bureau's own limit of "on time"."""

    EARLY = "early"  # before its time
    ON_TIME = "on_time"  # 0 to 14 minutes late
    LATE = "late"  # 15 to 59
    ALERT = "alert"  # an hour or more

    @classmethod
    def of(cls, minutes: int) -> "Band":
        if minutes < 0:
            return cls.EARLY
        if minutes < 15:
            return cls.ON_TIME
        return cls.LATE if minutes < 60 else cls.ALERT


@dataclass(frozen=True, slots=True)
class Departure:
    """
    One flight that left and arrived.

    `departed` is local time at the origin and `arrived` local time at the destination, both without a zone, because
    the records have none; so their difference is not the time in the air. `arr_delay` is minutes, negative if early.
    """

    carrier: str
    flight: int
    origin: str
    dest: str
    departed: datetime
    arrived: datetime
    arr_delay: int
    band: Band


def departure_of(flight: Flight) -> Departure:
    """
    The flight with real times: a record has one date, that of the *scheduled* departure, and clock times.

    A departure that is late, but earlier on the clock than planned, left after midnight. An arrival earlier on the
    clock than the departure was on the next day.
    """
    day = datetime(flight.year, flight.month, flight.day)
    departed = _at(day, flight.dep_time)
    if flight.dep_delay > 0 and departed < _at(day, flight.sched_dep_time):
        departed += ONE_DAY
    arrived = _at(departed.replace(hour=0, minute=0), flight.arr_time)
    if arrived < departed:
        arrived += ONE_DAY
    return Departure(
        carrier=flight.carrier,
        flight=flight.flight,
        origin=flight.origin,
        dest=flight.dest,
        departed=departed,
        arrived=arrived,
        arr_delay=flight.arr_delay,
        band=Band.of(flight.arr_delay),
    )


def _at(midnight: datetime, time: int) -> datetime:
    return midnight + timedelta(hours=time // 100, minutes=time % 100)


@transform
def to_departure(message: Message[Flight]) -> Message[Departure]:
    """The filter: the body becomes a `Departure`."""
    return message.with_body(departure_of(message.body))

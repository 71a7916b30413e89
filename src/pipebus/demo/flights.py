"""The two forms of a flight in the demo: `Flight`, a valid record, and `Departure`, which subscribers receive."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from pipebus.message.message import Message
from pipebus.pipeline.shapes import transform

USES_THE_BUS: Final = True  # errors name its lines as places of registration, like those of any program

ONE_DAY = timedelta(days=1)


def _on_the_clock(time: int) -> int:
    if not 0 <= time <= 2400 or time % 100 >= 60:
        raise PydanticCustomError("clock_time", "not a time between 0 and 2400, written HHMM")
    return time


ClockTime = Annotated[int, AfterValidator(_on_the_clock)]
"""A time as HHMM, 0 to 2400: 517 is 05:17, and 2400 is midnight at the end of the day."""


class Flight(BaseModel):
    """
    A valid record: the model with which `Validate` checks raw CSV rows, whose values are text.

    `NA` is a missing value. A record with missing values is rejected with one reason, for the first of them in the order of
    the fields. So a cancelled flight, which has neither time, gives "no departure time"; a diverted one, which may have an
    arrival time, gives "no arrival delay". No field here is ever None.
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
    """How late a flight arrived. Fifteen minutes is the limit of "on time" of the Bureau of Transportation Statistics."""

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

    `departed` is local time at the origin and `arrived` local time at the destination. Both have no zone, because the records
    have none, so their difference is not the time in the air. `arr_delay` is in minutes, negative if early.
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
    Return the flight with dates and times. A record has only the date of the *scheduled* departure, and clock times.

    A late departure whose clock time is before the scheduled one was after midnight. An arrival whose clock time is before
    that of the departure was on the next day.
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
    """A filter: turn the body into a `Departure`."""
    return message.with_body(departure_of(message.body))

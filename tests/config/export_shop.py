"""
The package that exported files name functions and classes of: filters, handlers and rules of a shop.

`from_config(allow_imports=["export_shop"])` may import nothing else.
"""

from __future__ import annotations

import datetime
import decimal
import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pipebus import Actor, Around, Dropped, Message, Rejected, Transform, around, transform
from pipebus.filters import Log
from pipebus.values import quantities
from pipebus.values.quantities import Bytes, Seconds, Type


@dataclass
class Order:
    """The body of a message."""

    id: int
    total: float = 0.0


class Late(Exception):
    """An error of the shop's own."""


# --- functions of a message ----------------------------------------------------------------------------------------------


def is_large(message: Message[Any]) -> bool:
    return len(str(message.body)) > 12


def is_keyed(message: Message[Any]) -> bool:
    return message.key is not None


def text_of(message: Message[Any]) -> str:
    return str(message.subject)


def as_text(message: Message[Any]) -> str:
    return f"shop.{message.subject}"


def extra(message: Message[Any]) -> Mapping[str, Any]:
    return {"from": str(message.subject), "${env:HOME}": "stays"}


def look(message: Message[Any]) -> None:
    return None


def refuse(message: Message[Any]) -> None:
    if message.key == "k":
        raise Rejected("no keys today")


class Rules:
    """Functions that are not at the top of the module, and can be named all the same."""

    @staticmethod
    def is_small(message: Message[Any]) -> bool:
        return not is_large(message)


# --- filters that are functions ------------------------------------------------------------------------------------------


@transform
def stamp(message: Message[Any]) -> Message[Any]:
    return message.with_headers(stamped=f"{message.headers.get('stamped', '')}s")


@transform
def no_text(message: Message[Any]) -> Message[Any] | Dropped:
    return Dropped("text") if isinstance(message.body, str) else message


@around
def measured(message: Message[Any]) -> Any:
    outcome = yield message.with_headers(measured="1")
    return outcome


def passing(message: Message[Any], call_next: Callable[[Message[Any]], Any]) -> Any:
    return call_next(message.with_headers(passed="1"))


async def apassing(message: Message[Any], call_next: Callable[[Message[Any]], Any]) -> Any:
    return await call_next(message.with_headers(apassed="1"))


FUNCTIONS = (stamp, no_text, measured, passing, apassing)


# --- filters that are objects --------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Limits:
    """A setting that is made of settings."""

    least: int = 0
    most: int | None = None


@dataclass(eq=False)
class Paint(Transform):
    """
    One setting of every kind.

    Args:
        text: A text.
    """

    text: str
    number: float = 1.0
    whole: int = 0
    flag: bool = False
    wait: Seconds = 1.0
    room: Bytes = 1024
    model: Type = int
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow"] = "fast"
    words: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    table: dict[str, int] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    day: datetime.date = datetime.date(2026, 1, 1)
    price: decimal.Decimal = decimal.Decimal(1)
    anything: Any = None
    maybe: int | None = None
    rule: Callable[[Message[Any]], bool] | None = None
    errors: type[Exception] = Exception
    _secret: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.wait = quantities.seconds(self.wait, "Paint.wait")
        self.room = quantities.size(self.room, "Paint.room")

    def transform(self, message: Message[Any], /) -> Message[Any]:
        return message.with_headers(painted=f"{message.headers.get('painted', '')}{self.colour.value}")


@dataclass(eq=False)
class Count(Transform):
    """A header shows what it has counted, so one object in two places counts both."""

    start_at: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        self._seen = self.start_at

    def transform(self, message: Message[Any], /) -> Message[Any]:
        self._seen += 1
        return message.with_headers(counted=f"{message.headers.get('counted', '')},{self._seen}")


@dataclass(eq=False)
class Titled(Around):
    """A filter whose class has a name."""

    twice: bool = False
    name: ClassVar[str] = "title"

    def around(self, message: Message[Any], /) -> Any:
        return (yield message.with_headers(titled=str(self.twice)))


class Bare:
    """A plain filter without settings."""

    def __call__(self, message: Message[Any], call_next: Callable[[Message[Any]], Any]) -> Any:
        return call_next(message)


class Loud(Log):
    """A filter derived from a built-in one."""


class Stateful(Transform):
    """No dataclass: nobody can tell its settings."""

    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate

    def transform(self, message: Message[Any], /) -> Message[Any]:
        return message


@dataclass(eq=False)
class Aimed(Transform):
    """A setting is called as a key of a file's own."""

    target: str = ""

    def transform(self, message: Message[Any], /) -> Message[Any]:
        return message


class Gate(Actor):
    """An actor that messages pass through."""

    def filter(self, message: Message[Any]) -> Message[Any]:
        return message


SHARED_COUNT = Count(5)
STATEFUL = Stateful(2.0)


# --- handlers ------------------------------------------------------------------------------------------------------------


def bill(message: Message[Any]) -> str | None:
    return None if str(message.subject).startswith("out") else f"billed {message.body!r}"


def fussy(message: Message[Any]) -> None:
    if isinstance(message.body, bool):
        raise Rejected("no flags")
    if isinstance(message.body, float):
        raise Late("too late for numbers")


def order(order: Order) -> int:
    return order.id


async def aship(message: Message[Any]) -> None:
    return None

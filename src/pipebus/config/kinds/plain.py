"""Plain values: text, true and false, numbers, durations, sizes, and choices."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from pipebus.config.kinds.base import LARGE, Loading, Schema, Simple, check_plain
from pipebus.config.problems import Bad, Unexportable
from pipebus.config.wording import Interpolated, brief, guess, reason
from pipebus.errors import PipebusError
from pipebus.values import quantities
from pipebus.values.quantities import is_whole


class Text(Simple):
    what = "text"
    kind: ClassVar[Schema] = {"type": "string"}
    takes = (str, Interpolated)

    def fits(self, value: Any) -> bool:
        return isinstance(value, str)

    def read(self, value: Any, loading: Loading) -> str:
        # Return a plain str: later code must not depend on whether the text was interpolated.
        return str.__str__(super().read(value, loading))


class Flag(Simple):
    what = "true or false"
    kind: ClassVar[Schema] = {"type": "boolean"}
    takes = (bool, Interpolated)

    def fits(self, value: Any) -> bool:
        return isinstance(value, bool)

    def of_text(self, text: Interpolated) -> Any:
        return {"true": True, "false": False}.get(text.lower(), text)


class Number(Simple):
    what = "a number"
    kind: ClassVar[Schema] = {"type": "number"}
    takes = (int, float, Interpolated)

    def fits(self, value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    def of_text(self, text: Interpolated) -> Any:
        return _converted(float, text)


@dataclass(frozen=True)
class Whole(Simple):
    least: int | None = None
    what: ClassVar[str] = "a whole number"
    takes: ClassVar[tuple[type, ...]] = (int, Interpolated)  # type: ignore[misc]

    def fits(self, value: Any) -> bool:
        return is_whole(value, -math.inf)

    def of_text(self, text: Interpolated) -> Any:
        return _converted(int, text)

    def read(self, value: Any, loading: Loading) -> Any:
        found = super().read(value, loading)
        if self.least is not None and found < self.least:
            raise Bad(f"it has to be at least {self.least}")
        if not -LARGE <= found < LARGE:
            raise Bad("it is too large a number")
        return found

    def schema(self) -> Schema:
        return {"type": "integer"} | ({} if self.least is None else {"minimum": self.least})


def _converted(convert: Callable[[str], Any], text: str) -> Any:
    try:
        return convert(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class Quantity:
    """
    A duration or a size: a number, or text with a unit.

    Args:
        convert: The function of `values.quantities` that returns seconds or bytes.
        number: The JSON Schema type of the plain number.
    """

    convert: Callable[[Any, str], Any]
    units: Mapping[str, Any]
    text: str
    number: str
    takes: ClassVar[tuple[type, ...]] = (str, int, float, Interpolated)

    def read(self, value: Any, loading: Loading) -> Any:
        interpolated = isinstance(value, Interpolated)
        if interpolated:
            value = _converted(int if self.number == "integer" else float, value)
        try:
            return self.convert(value, "")
        except PipebusError as error:
            if interpolated and isinstance(value, str):  # the error's own text would show a part of a secret
                raise Bad(f"it has to be a {self.text}: a number, or with a unit of {', '.join(self.units)}") from None
            raise Bad(reason(str(error), "", value)) from None

    def write(self, value: Any) -> Any:
        try:
            found = self.convert(value, "")
        except PipebusError:
            raise Unexportable(f"{brief(value)} is not a {self.text}") from None
        check_plain(found)
        return found

    def schema(self) -> Schema:
        pattern = rf"^\s*[0-9]+(\.[0-9]+)?\s*({'|'.join(self.units)})\s*$|\$\{{"
        return {"anyOf": [{"type": self.number, "minimum": 0}, {"type": "string", "pattern": pattern}]}


DURATION: Final = Quantity(quantities.seconds, quantities.SECONDS, "duration", "number")
INTERVAL: Final = Quantity(functools.partial(quantities.seconds, above=0.0), quantities.SECONDS, "duration above 0", "number")
SIZE: Final = Quantity(quantities.size, quantities.BYTES, "size", "integer")


@dataclass(frozen=True)
class Choice:
    """One of several values: those of a `Literal`, or of an `Enum`."""

    values: tuple[Any, ...]
    make: Callable[[Any], Any] | None = None
    where: str = ""
    takes: ClassVar[tuple[type, ...]] = (str, bool, int, float, Interpolated)

    def read(self, value: Any, loading: Loading) -> Any:
        for one in self.values:
            written = str(one).lower() if isinstance(one, bool) else str(one)
            if written == str(value) if isinstance(value, Interpolated) else type(one) is type(value) and one == value:
                return one if self.make is None else self.make(one)
        names = [str(one) for one in self.values]
        near = guess(value, names) if isinstance(value, str) and not isinstance(value, Interpolated) else ""
        raise Bad(f"it has to be {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}{self.where}{near}")

    def write(self, value: Any) -> Any:
        plain = value.value if isinstance(value, enum.Enum) else value
        if not any(type(one) is type(plain) and one == plain for one in self.values):
            raise Unexportable(f"{brief(value)} is not one of {', '.join(map(str, self.values))}")
        return plain

    def schema(self) -> Schema:
        return {"enum": list(self.values)}

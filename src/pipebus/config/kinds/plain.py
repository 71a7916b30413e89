"""Whole numbers, durations and sizes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

from pipebus.config.kinds.base import Loading, Reader
from pipebus.config.kinds.data import LARGE
from pipebus.config.kinds.draft7 import Schema
from pipebus.config.problems import Bad
from pipebus.config.wording import Interpolated, reason
from pipebus.errors import PipebusError
from pipebus.values import quantities


def _in_range(value: int) -> int:
    if not -LARGE <= value < LARGE:
        raise Bad("it is too large a number")
    return value


Whole = Annotated[int, AfterValidator(_in_range)]
Positive = Annotated[int, Field(ge=1), AfterValidator(_in_range)]
Count = Annotated[int, Field(ge=0), AfterValidator(_in_range)]


@dataclass(frozen=True, eq=False)
class Quantity(Reader):
    """
    A duration or a size: a number, or text with a unit.

    Args:
        convert: The function of `values.quantities` that returns seconds or bytes.
        number: The JSON Schema type of the plain number.
    """

    convert: Callable[[Any, str], Any]
    units: Mapping[str, Any]
    text: str
    number: str = "number"

    def read(self, value: Any, loading: Loading) -> Any:
        try:
            return self.convert(value, "")
        except PipebusError as error:
            if isinstance(value, Interpolated):  # the error's own text would show a part of a secret
                raise Bad(f"it has to be a {self.text}: a number, or with a unit of {', '.join(self.units)}") from None
            raise Bad(reason(str(error), "", value)) from None

    def schema(self) -> Schema:
        pattern = rf"^\s*[0-9]+(\.[0-9]+)?\s*({'|'.join(self.units)})\s*$|\$\{{"
        return {"anyOf": [{"type": self.number, "minimum": 0}, {"type": "string", "pattern": pattern}]}


_above_0: Final = functools.partial(quantities.seconds, above=0.0)
Duration = Annotated[float, Quantity(quantities.seconds, quantities.SECONDS, "duration")]
Interval = Annotated[float, Quantity(_above_0, quantities.SECONDS, "duration above 0")]
Size = Annotated[int, Quantity(quantities.size, quantities.BYTES, "size", "integer")]

"""What a kind of value is: it reads a value from a file, writes one to a file, and describes it to editors."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol

from pipebus.config.kinds.imports import Imports
from pipebus.config.problems import Bad, Unexportable
from pipebus.config.wording import Interpolated, brief

Schema = dict[str, Any]
"""JSON Schema, draft-07."""

ALL: Final = (str, bool, int, float, list, dict, Interpolated, datetime.datetime, datetime.date, datetime.time)
"""The types of all values that a file can hold."""

LARGE: Final = 2**63
"""Whole numbers in a file are smaller than this."""


@dataclass(eq=False)
class Loading:
    """What reading may use: the imports that are allowed, and the objects that the program hands in."""

    imports: Imports
    handlers: Mapping[str, Any]
    filters: Mapping[str, Any]


class Kind(Protocol):
    """
    Attributes:
        takes: Types of the file's values that this kind may accept.
    """

    @property
    def takes(self) -> tuple[type, ...]: ...

    def read(self, value: Any, loading: Loading) -> Any:
        """
        Return the Python value for a value of a file.

        Raises:
            Bad: the value is wrong.
        """
        ...

    def write(self, value: Any) -> Any:
        """
        Return the value of a file for a Python value.

        Raises:
            Unexportable: a file cannot hold it.
        """
        ...

    def schema(self) -> Schema: ...


class Simple:
    """A kind whose values look the same in a file and in Python."""

    what: ClassVar[str]
    kind: ClassVar[Schema]
    takes: tuple[type, ...] = (Interpolated,)

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, Interpolated):
            value = self.of_text(value)
        if not self.fits(value):
            raise Bad(f"it has to be {self.what}")
        return value

    def of_text(self, text: Interpolated) -> Any:
        """Convert an interpolated text; return it unchanged if it cannot be converted."""
        return text

    def fits(self, value: Any) -> bool:
        raise NotImplementedError

    def write(self, value: Any) -> Any:
        if not self.fits(value):
            raise Unexportable(f"{brief(value)} is not {self.what}")
        check_plain(value)
        return value

    def schema(self) -> Schema:
        return dict(self.kind)


def check_plain(value: Any) -> None:
    """
    Raises:
        Unexportable: TOML cannot express the value.
    """
    if isinstance(value, int) and not -LARGE <= value < LARGE:
        raise Unexportable(f"{brief(value)} is too large a number for a file")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unexportable(f"{brief(value)} has half a character, which no file can hold") from None
    if isinstance(value, datetime.time) and value.tzinfo is not None:
        raise Unexportable(f"{brief(value)}: a time of day has no zone in a file")
    offset = value.utcoffset() if isinstance(value, datetime.datetime) else None
    if offset is not None and offset.total_seconds() % 60:
        raise Unexportable(f"{brief(value)}: a file gives the zone of a time in whole minutes")

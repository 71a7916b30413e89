"""Any data of a file, and the values of Python that a file can hold."""

from __future__ import annotations

import datetime
import enum
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from pydantic import PlainValidator, WithJsonSchema

from pipebus.config.problems import BROKEN, Bad, Unexportable
from pipebus.config.wording import Interpolated, brief
from pipebus.values.expressions import Expression

LARGE: Final = 2**63
"""Whole numbers in a file are smaller than this."""


def data(value: Any) -> Any:
    """
    Return a copy of any data, with texts of type `str`.

    Raises:
        Bad: a problem with a part of it has been reported.
    """
    if isinstance(value, dict):
        return {key: data(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [data(inner) for inner in value]
    if value is BROKEN:
        raise Bad
    return str.__str__(value) if isinstance(value, Interpolated) else value


Data = Annotated[Any, PlainValidator(data), WithJsonSchema({})]


def written(value: Any, name_by: Callable[[Any], Any]) -> Any:
    """
    Return a value as a file has it.

    Args:
        name_by: Returns what a file says for a function or class.

    Raises:
        Unexportable: a file cannot hold it.
    """
    match value:
        case enum.Enum():
            return written(value.value, name_by)
        case str() | int() | float() | datetime.date() | datetime.time():
            _check(value)
            return str.__str__(value) if isinstance(value, str) else value
        case Mapping() if all(isinstance(key, str) for key in value):
            return {written(key, name_by): written(inner, name_by) for key, inner in value.items()}
        case list() | tuple():
            return [written(inner, name_by) for inner in value]
        case set() | frozenset():
            return [written(inner, name_by) for inner in sorted(value, key=str)]
        case Expression():
            return {"expr": value.text}
    return name_by(value) if callable(value) or hasattr(value, "__name__") else nameless(value)


def nameless(value: Any) -> Any:
    """
    Raises:
        Unexportable: always, because the value is not data.
    """
    raise Unexportable(f"{brief(value)} ({type(value).__name__}) is not data that a file can hold")


def _check(value: Any) -> None:
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


def same(found: Any, value: Any) -> bool:
    """True if what was read again is the value that was written. A list may have become a tuple."""
    if isinstance(value, Expression):
        return type(found) is type(value) and bool(found.text == value.text)
    if isinstance(value, Mapping):
        return (
            isinstance(found, Mapping) and found.keys() == value.keys() and all(same(found[key], value[key]) for key in value)
        )
    if isinstance(value, (list, tuple)):
        return isinstance(found, (list, tuple)) and len(found) == len(value) and all(map(same, found, value))
    try:
        return bool(found == value) or (isinstance(value, float) and math.isnan(value) and math.isnan(found))
    except Exception:  # of the class's own __eq__
        return False

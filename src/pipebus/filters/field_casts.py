"""Casts for `Fields`: read texts and numbers as another type, or raise if anything would be lost."""

from __future__ import annotations

import datetime
import decimal
import math
import re
from collections.abc import Callable
from typing import Any, Final

from pipebus.errors import PipelineError
from pipebus.foreign.objects import plain_text
from pipebus.message.fields import plain_number

# Python's own int() and float() also accept "1_000" and the digits of all scripts; JSON does not.
_NUMBER: Final = re.compile(r"\s*[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)
_DIGITS: Final = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_WORDS: Final[dict[str, bool]] = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


class LosesDigits(ValueError):
    """A whole number with more digits than the type can hold."""


def cast_to(path: str, to: Any) -> Callable[[Any], Any]:
    """
    The function that casts to the type named `to`.

    Raises:
        PipelineError: there is no such type.
    """
    found = _CASTS.get(to) if isinstance(to, str) else None
    if found is None:
        raise PipelineError(f'Fields.cast["{path}"]={to!r}: it is {", ".join(_CASTS)}')
    return found


COMPACT: Final = len("20231114")
"""Digits that are a date without hyphens. More of them are seconds since 1970."""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (str, int, float, decimal.Decimal)):
        return str(plain_number(plain_text(value)))
    raise TypeError


def _check_number(value: Any) -> None:
    """Raise unless `value` is a number, or a text that JSON would read as one."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, decimal.Decimal)):
        raise TypeError
    if isinstance(value, str) and _NUMBER.fullmatch(value) is None:
        raise ValueError


def _int(value: Any) -> int:
    _check_number(value)
    found = int(value)
    if not isinstance(value, str) and found != value:
        raise ValueError  # it would be rounded
    return found


def _float(value: Any) -> float:
    _check_number(value)
    found = float(value)
    if not math.isfinite(found):
        raise ValueError  # JSON has no such number
    if (isinstance(value, int) or (isinstance(value, str) and _DIGITS.fullmatch(value))) and found != int(value):
        raise LosesDigits
    return found


def _decimal(value: Any) -> decimal.Decimal:
    _check_number(value)
    found = decimal.Decimal(str(value))
    if not found.is_finite():
        raise ValueError
    return found


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    raise ValueError


def _datetime(value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    if isinstance(value, bool):
        raise TypeError
    if isinstance(value, str) and len(value.strip()) > COMPACT and _NUMBER.fullmatch(value):  # CSV has only texts
        value = float(value)
    if isinstance(value, (int, float)):
        return datetime.datetime.fromtimestamp(value, datetime.UTC)
    return datetime.datetime.fromisoformat(value)


def _date(value: Any) -> datetime.date:
    if isinstance(value, datetime.datetime):
        return value.date()
    return value if isinstance(value, datetime.date) else datetime.date.fromisoformat(value)


_CASTS: Final[dict[str, Callable[[Any], Any]]] = {
    "text": _text, "int": _int, "float": _float, "bool": _bool, "decimal": _decimal, "datetime": _datetime, "date": _date,
}  # fmt: skip
for _name, _cast in _CASTS.items():
    _cast.__name__ = _name  # errors name the type by it

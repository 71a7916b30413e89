"""Marks in a message, by which what it holds is recognised where it does not belong."""

import copy
import itertools
import re
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from pipebus.message.headers import frozen_headers
from pipebus.message.message import Message

NUMBERS: Final = re.compile(r"\d+(?:\.\d+)?")

LETTERS: Final = "zqx"
"""Added to each text. (A pattern of lower-case letters allows them, and no word ends so.)"""

MORE: Final = 9973
"""Added to each number, so that no count is taken for it."""

MOST: Final = 6
"""How many texts and numbers are marked one by one, if the filter refuses a message in which all are."""


class Marked(NamedTuple):
    """A copy of a message with marks, and the marked numbers."""

    message: Message[Any]
    numbers: set[str]


def marked(message: Message[Any]) -> Iterator[Marked]:
    """Copies with marks: one in which all texts and numbers of body, headers and key have them, then one for each of these."""
    everything = _Marking(None)
    given = message.body, {**message.headers}, message.key
    try:
        copies = itertools.chain([everything], (_Marking(number) for number in range(1, MOST + 1)))
        for one in copies:
            if one is not everything and one.only > everything.count:  # type: ignore[operator]
                return
            body, headers, key = one.of(given)
            yield Marked(msgspec.structs.replace(message, body=body, headers=frozen_headers(headers), key=key), one.numbers)
    except Exception:
        return  # a body that refuses it


class _Marking:
    def __init__(self, only: int | None) -> None:
        self.only = only
        self.count = 0
        self.numbers = {str(MORE)}

    def of(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: one if str(key).startswith("pipebus-") else self.of(one) for key, one in value.items()}
        if type(value) in (list, tuple):
            return type(value)(map(self.of, value))
        if type(value) in (str, int, float):
            self.count += 1
            return self._mark(value) if self.only in (None, self.count) else value
        again = copy.copy(value) if hasattr(value, "__dict__") and not callable(value) else value
        if again is not value:
            again.__dict__.update(self.of(vars(value)))
        return again

    def _mark(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._mark(int(value)).__str__() if value.isdecimal() else value + LETTERS
        if value + MORE != value:
            self.numbers.add(str(value + MORE))
        return value + MORE


def stray(value: Any, numbers: Collection[str]) -> bool:
    """Whether there are marks in it."""
    text = repr(value)
    return LETTERS in text.lower() or not set(numbers).isdisjoint(NUMBERS.findall(text))

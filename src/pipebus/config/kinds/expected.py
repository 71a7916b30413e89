"""An expected value, and the differences between it and the value that was found."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pipebus.config.wording import shown

NOTHING: Final = type("Nothing", (), {"__repr__": lambda self: "nothing"})()


class Difference(NamedTuple):
    """One difference: where it is in the value, what was expected there, and what was found."""

    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path or 'it'}: expected {self.expected}, found {self.found}"


class Expected:
    """
    An expectation.

    Args:
        tests: By matcher: what it expects.
    """

    def __init__(self, tests: Mapping[str, Any]) -> None:
        self.tests = tests

    def differences(self, found: Any, path: str = "") -> Iterator[Difference]:
        for word, wanted in self.tests.items():
            yield from getattr(self, f"_{word}")(wanted, found, path)

    def _equals(self, wanted: Any, found: Any, path: str) -> Iterator[Difference]:
        yield from _unequal(wanted, found, path)

    def _contains(self, wanted: Any, found: Any, path: str) -> Iterator[Difference]:
        if isinstance(wanted, Mapping) and isinstance(found, Mapping):
            for key, inner in wanted.items():
                yield from inner.differences(found.get(key, NOTHING), _below(path, key))
        elif isinstance(wanted, list) and isinstance(found, (list, tuple)):
            for inner in wanted:
                if all(any(inner.differences(one)) for one in found):
                    yield Difference(path, f"a list with {inner}", in_words(found))
        elif isinstance(wanted, str) and isinstance(found, str):
            if wanted not in found:
                yield Difference(path, f"text with {shown(wanted)}", in_words(found))
        else:
            what = "a table" if isinstance(wanted, Mapping) else "a list" if isinstance(wanted, list) else "text"
            yield Difference(path, f"{what} that contains {_text(wanted)}", in_words(found))

    def _matches(self, wanted: re.Pattern[str], found: Any, path: str) -> Iterator[Difference]:
        if not isinstance(found, str) or wanted.search(found) is None:
            yield Difference(path, f"text that matches {shown(wanted.pattern)}", in_words(found))

    def _absent(self, wanted: Any, found: Any, path: str) -> Iterator[Difference]:
        if wanted is True and found is not NOTHING and found is not None:
            yield Difference(path, "nothing", in_words(found))
        for key in wanted if isinstance(wanted, list) else ():
            at: Any = found
            for part in key.split("."):
                at = at.get(part, NOTHING) if isinstance(at, Mapping) else NOTHING
            if at is not NOTHING:
                yield Difference(_below(path, key), "nothing", in_words(at))

    def __str__(self) -> str:
        if self.tests.keys() == {"equals"}:
            return _text(self.tests["equals"])
        return "{ " + ", ".join(f"{word} = {_text(wanted)}" for word, wanted in self.tests.items()) + " }"


def _unequal(wanted: Any, found: Any, path: str) -> Iterator[Difference]:
    """Yield the innermost differences between two values."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            yield from _unequal(wanted.get(key, NOTHING), found.get(key, NOTHING), _below(path, key))
    elif isinstance(wanted, list) and isinstance(found, (list, tuple)):
        for index, (one, other) in enumerate(itertools.zip_longest(wanted, found, fillvalue=NOTHING)):
            yield from _unequal(one, other, f"{path}[{index}]")
    elif not _same(wanted, found):
        expected, seen = in_words(wanted), in_words(found)
        if expected == seen and isinstance(wanted, str) and isinstance(found, str):
            expected, seen = _from_where_they_differ(wanted, found)
        yield Difference(path, expected, seen)


def _from_where_they_differ(one: str, other: str) -> tuple[str, str]:
    """Shorten two long texts with the same beginning, so that the difference can be seen."""
    at = max(0, next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))) - 20)
    return f"…{in_words(one[at:])}", f"…{in_words(other[at:])}"


def _same(wanted: Any, found: Any) -> bool:
    """True if both are equal; true does not equal 1 here."""
    if isinstance(wanted, bool) != isinstance(found, bool):
        return False
    try:
        return bool(wanted == found) or (isinstance(wanted, list) and isinstance(found, tuple) and wanted == list(found))
    except Exception:  # a body whose __eq__ fails is not equal
        return False


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def in_words(value: Any) -> str:
    return "nothing" if value is NOTHING or value is None else shown(value)


def _text(wanted: Any) -> str:
    if isinstance(wanted, Mapping):
        return "{ " + ", ".join(f"{key} = {_text(inner)}" for key, inner in wanted.items()) + " }"
    if isinstance(wanted, list):
        return "[" + ", ".join(map(_text, wanted)) + "]"
    if isinstance(wanted, re.Pattern):
        return shown(wanted.pattern)
    return str(wanted) if isinstance(wanted, Expected) else shown(wanted)

"""
What a test of a file expects of a value, as plain data.

    "paid"                       equals
    { equals = { id = 1 } }      the same, said aloud
    { contains = "part" }        of a text; of a list, each item is in it; of a table, each key is there and matches, as deep as
                                 it goes
    { matches = "^[A-Z]{2}$" }   a regular expression that is found in the text
    { absent = true }            nothing is there; or absent = ["card.number"]: these keys are not
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from pipebus.config.kinds import ALL, Anything, Loading
from pipebus.config.problems import Bad, choice, guess, shown

WORDS: Final = ("equals", "contains", "matches", "absent")
NOTHING: Final = type("Nothing", (), {"__repr__": lambda self: "nothing"})()


class Difference(NamedTuple):
    """One difference: at which place of the value, what was expected there, what was found."""

    path: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path or 'it'}: expected {self.expected}, found {self.found}"


class Expected:
    """What a value is held against; made by `read`."""

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
                    yield Difference(path, f"a list with {inner}", told(found))
        elif isinstance(wanted, str) and isinstance(found, str):
            if wanted not in found:
                yield Difference(path, f"text with {shown(wanted)}", told(found))
        else:
            what = "a table" if isinstance(wanted, Mapping) else "a list" if isinstance(wanted, list) else "text"
            yield Difference(path, f"{what} that contains {_text(wanted)}", told(found))

    def _matches(self, wanted: re.Pattern[str], found: Any, path: str) -> Iterator[Difference]:
        if not isinstance(found, str) or wanted.search(found) is None:
            yield Difference(path, f"text that matches {shown(wanted.pattern)}", told(found))

    def _absent(self, wanted: Any, found: Any, path: str) -> Iterator[Difference]:
        if wanted is True and found is not NOTHING and found is not None:
            yield Difference(path, "nothing", told(found))
        for key in wanted if isinstance(wanted, list) else ():
            at: Any = found
            for part in key.split("."):
                at = at.get(part, NOTHING) if isinstance(at, Mapping) else NOTHING
            if at is not NOTHING:
                yield Difference(_below(path, key), "nothing", told(at))

    def __str__(self) -> str:
        if self.tests.keys() == {"equals"}:
            return _text(self.tests["equals"])
        return "{ " + ", ".join(f"{word} = {_text(wanted)}" for word, wanted in self.tests.items()) + " }"


class Expectation:
    """The kind of an expectation."""

    takes = ALL

    def read(self, value: Any, loading: Loading) -> Expected:
        if isinstance(value, dict) and len(value) == 1 and not any(word in value for word in WORDS):
            [key] = value
            if difflib.get_close_matches(key, WORDS, 1, 0.8):
                raise Bad(f"unknown key {shown(key)}{guess(key, WORDS)} For a body with this key, write {{ equals = … }}")
        if not isinstance(value, dict) or not any(word in value for word in WORDS):
            self._no_matcher_in(value)
            return Expected({"equals": Anything().read(value, loading)})
        unknown = [key for key in value if key not in WORDS]
        if unknown:
            raise Bad(f"unknown key {shown(unknown[0])}{choice(unknown[0], WORDS)}")
        tests: dict[str, Any] = {}
        for word, wanted in value.items():
            plain = Anything().read(wanted, loading)
            if word == "contains":
                tests[word] = self._contained(wanted, plain, loading)
            elif word == "matches":
                tests[word] = _expression(plain)
            elif word == "absent":
                if plain is not True and not (isinstance(plain, list) and all(isinstance(key, str) for key in plain)):
                    raise Bad('absent is true, or a list of keys, as in ["card.number"]')
                tests[word] = plain
            else:
                tests[word] = plain
        return Expected(tests)

    def _no_matcher_in(self, value: Any) -> None:
        """Deep in plain data it would be data."""
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, one in inner:
            if isinstance(one, dict) and one and all(word in WORDS for word in one):
                write = f"{{ contains = {{ {key} = {{ {next(iter(one))} = … }} }} }}"
                raise Bad(f"{key} = {shown(one)} is compared as it stands; to match it write {write}, else {{ equals = … }}")
            self._no_matcher_in(one)

    def _contained(self, wanted: Any, plain: Any, loading: Loading) -> Any:
        if isinstance(wanted, dict):
            return {key: self.read(inner, loading) for key, inner in wanted.items()}
        if isinstance(wanted, list):
            return [self.read(inner, loading) for inner in wanted]
        if not isinstance(plain, str):
            raise Bad("contains is text, a list or a table; for a number write it as it is")
        return plain

    def write(self, value: Any) -> Any:
        raise NotImplementedError("tests are not exported")

    def schema(self) -> dict[str, Any]:
        return {}


def _expression(text: Any) -> re.Pattern[str]:
    if not isinstance(text, str):
        raise Bad("matches is a regular expression, a text")
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise Bad(f"matches = {shown(text)} is no regular expression: {error}") from None


def _unequal(wanted: Any, found: Any, path: str) -> Iterator[Difference]:
    """Where two values differ, as deep as it can be said."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            yield from _unequal(wanted.get(key, NOTHING), found.get(key, NOTHING), _below(path, key))
    elif isinstance(wanted, list) and isinstance(found, (list, tuple)):
        for index, (one, other) in enumerate(itertools.zip_longest(wanted, found, fillvalue=NOTHING)):
            yield from _unequal(one, other, f"{path}[{index}]")
    elif not _same(wanted, found):
        expected, seen = told(wanted), told(found)
        if expected == seen and isinstance(wanted, str) and isinstance(found, str):
            expected, seen = _from_where_they_differ(wanted, found)
        yield Difference(path, expected, seen)


def _from_where_they_differ(one: str, other: str) -> tuple[str, str]:
    """Two long texts that begin alike."""
    at = max(0, next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))) - 20)
    return f"…{told(one[at:])}", f"…{told(other[at:])}"


def _same(wanted: Any, found: Any) -> bool:
    """Equal, and true is not 1."""
    if isinstance(wanted, bool) != isinstance(found, bool):
        return False
    try:
        return bool(wanted == found) or (isinstance(wanted, list) and isinstance(found, tuple) and wanted == list(found))
    except Exception:  # a body of a class whose __eq__ fails is not equal
        return False


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def told(value: Any) -> str:
    return "nothing" if value is NOTHING or value is None else shown(value)


def _text(wanted: Any) -> str:
    if isinstance(wanted, Mapping):
        return "{ " + ", ".join(f"{key} = {_text(inner)}" for key, inner in wanted.items()) + " }"
    if isinstance(wanted, list):
        return "[" + ", ".join(map(_text, wanted)) + "]"
    if isinstance(wanted, re.Pattern):
        return shown(wanted.pattern)
    return str(wanted) if isinstance(wanted, Expected) else shown(wanted)

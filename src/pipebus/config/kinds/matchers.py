"""
What a test of a file expects of a value, as plain data.

    "paid"                       equals this value
    { equals = { id = 1 } }      the same, written out
    { contains = "part" }        a text contains the part; a list has each of the items; a table has each of the keys, whose
                                 values match in the same way
    { matches = "^[A-Z]{2}$" }   a text in which the regular expression is found
    { absent = true }            there is no value; absent = ["card.number"]: the value does not have these keys
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Final

from pipebus.config.kinds.base import Loading, Reader
from pipebus.config.kinds.data import data
from pipebus.config.kinds.draft7 import Schema
from pipebus.config.kinds.expected import Expected
from pipebus.config.problems import Bad
from pipebus.config.wording import choice, guess, shown

WORDS: Final = ("equals", "contains", "matches", "absent")


class Expectation(Reader):
    """An expectation of any value."""

    def read(self, value: Any, loading: Loading) -> Expected:
        if isinstance(value, dict) and len(value) == 1 and not any(word in value for word in WORDS):
            [key] = value
            if difflib.get_close_matches(key, WORDS, 1, 0.8):
                raise Bad(f"unknown key {shown(key)}{guess(key, WORDS)} For a body with this key, write {{ equals = … }}")
        if not isinstance(value, dict) or not any(word in value for word in WORDS):
            self._check_no_inner_matcher(value)
            return Expected({"equals": data(value)})
        unknown = [key for key in value if key not in WORDS]
        if unknown:
            raise Bad(f"unknown key {shown(unknown[0])}{choice(unknown[0], WORDS)}")
        tests: dict[str, Any] = {}
        for word, wanted in value.items():
            plain = data(wanted)
            if word == "contains":
                plain = self._contained(wanted, plain, loading)
            elif word == "matches":
                plain = _expression(plain)
            elif word == "absent" and plain is not True and not _is_keys(plain):
                raise Bad('absent is true, or a list of keys, as in ["card.number"]')
            tests[word] = plain
        return Expected(tests)

    def _check_no_inner_matcher(self, value: Any) -> None:
        """Refuse plain data with a matcher inside, which would be compared as data."""
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, one in inner:
            if isinstance(one, dict) and one and all(word in WORDS for word in one):
                write = f"{{ contains = {{ {key} = {{ {next(iter(one))} = … }} }} }}"
                raise Bad(f"{key} = {shown(one)} is compared as plain data; to match, write {write}, else {{ equals = … }}")
            self._check_no_inner_matcher(one)

    def _contained(self, wanted: Any, plain: Any, loading: Loading) -> Any:
        if isinstance(wanted, dict):
            return {key: self.read(inner, loading) for key, inner in wanted.items()}
        if isinstance(wanted, list):
            return [self.read(inner, loading) for inner in wanted]
        if not isinstance(plain, str):
            raise Bad("contains is text, a list or a table; for a number write it as it is")
        return plain


class TextExpectation(Expectation):
    """An expectation of a text."""

    def read(self, value: Any, loading: Loading) -> Expected:
        if not isinstance(value, (str, dict)):
            raise Bad('it has to be text, or a matcher, as in { contains = "part" }')
        return super().read(value, loading)

    def schema(self) -> Schema:
        return {"anyOf": [{"type": "string"}, {"type": "object"}]}


def _is_keys(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(key, str) for key in value)


def _expression(text: Any) -> re.Pattern[str]:
    if not isinstance(text, str):
        raise Bad("matches is a regular expression, a text")
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise Bad(f"matches = {shown(text)} is not a regular expression: {error}") from None

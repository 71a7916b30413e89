"""What is wrong with a file: where, what was found, and what to do. All problems are reported together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from pipebus.config.wording import one_line
from pipebus.errors import ConfigError, ConfigProblem

SHORT: Final = 4
"""Fewest characters of a secret. Removing a shorter one would spoil every sentence."""


class Broken:
    """Takes the place of a value about which a problem has been reported."""

    def __repr__(self) -> str:
        return "(broken)"


BROKEN: Final[Any] = Broken()


class Detail(NamedTuple):
    """
    One problem inside a value.

    Args:
        path: The keys that lead to it.
        is_sentence: The text names the key itself, so it needs no "key = value" before it.
    """

    path: tuple[str | int, ...]
    text: str
    is_sentence: bool = False


class Bad(ValueError):
    """A value that cannot be read. `details` are problems of the values inside it."""

    def __init__(self, text: str = "", details: Iterable[Detail] = ()) -> None:
        self.text = text
        self.details = tuple(details)
        super().__init__(text)


class Unexportable(Exception):
    """A part of a bus that a file cannot hold."""


def _without_pieces(text: str, secret: str, source: str) -> str:
    """Remove the pieces of a secret that are left where a text was shortened."""
    parts = re.split('("?…"?)', text)
    for index in range(0, len(parts), 2):
        part = parts[index]
        if index + 1 < len(parts):  # the text was cut after this part
            length = next((n for n in range(min(len(part), len(secret)), SHORT - 1, -1) if part[-n:] in secret), 0)
            part = part[: len(part) - length] + (source if length else "")
        if index > 0:  # the text was cut before this part
            length = next((n for n in range(min(len(part), len(secret)), SHORT - 1, -1) if part[:n] in secret), 0)
            part = (source if length else "") + part[length:]
        parts[index] = part
    return "".join(parts)


class Problems:
    """
    Collects the problems of one file.

    Args:
        file: Its name, as the caller gave it.
    """

    def __init__(self, file: str) -> None:
        self.file = " ".join(file.split("\n"))
        self.found: dict[ConfigProblem, None] = {}
        self.secrets: dict[str, str] = {}  # what replaced a `${…}` -> that `${…}`

    def add(self, line: int | None, where: str, text: str) -> None:
        text, where = (one_line(self.redacted(one)) for one in (text, where))
        self.found[ConfigProblem(self.file, line, where, text)] = None

    def redacted(self, text: str) -> str:
        """Return a text in which each secret is replaced by the `${…}` that it came from."""
        for secret, source in sorted(self.secrets.items(), key=lambda pair: -len(pair[0])):
            if len(secret) < SHORT:
                continue
            ways = {secret, repr(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
            for written in ways | {way.replace("${", "$${") for way in ways}:
                text = text.replace(written, source)
                if "…" in text:
                    text = _without_pieces(text, written, source)
        return text

    def __bool__(self) -> bool:
        return bool(self.found)

    def error(self) -> ConfigError:
        return ConfigError(sorted(self.found, key=lambda problem: problem.line or 0))

    def check(self) -> None:
        """
        Raises:
            ConfigError: there are problems.
        """
        if self.found:
            raise self.error()

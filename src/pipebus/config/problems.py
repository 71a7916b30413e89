"""What is wrong with a file: where, what was found, and the next move. All of it at once."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from pipebus.errors import ConfigError, ConfigProblem

LONGEST: Final = 60
"""Characters of a value that are shown."""

SHORT: Final = 4
"""Characters of the shortest secret."""

LONG: Final = 500
"""Characters of the longest sentence."""


class Told(str):
    """A text that was put together from `${…}`: what it says may be a secret, so its source is shown in its place."""

    source: str

    def __new__(cls, value: str, source: str) -> Told:
        told = super().__new__(cls, value)
        told.source = source
        return told


class Broken:
    """In the place of a value that has been found wrong before."""

    def __repr__(self) -> str:
        return "(broken)"


BROKEN: Final = Broken()


class Detail(NamedTuple):
    """One thing wrong inside a value: below which keys, what was found there, what it should be."""

    path: tuple[str | int, ...]
    found: Any
    text: str


class Bad(Exception):
    """A value that cannot be read; `details` are below it."""

    def __init__(self, text: str = "", details: Iterable[Detail] = ()) -> None:
        self.text = text
        self.details = tuple(details)
        super().__init__(text)

    @classmethod
    def inside(cls, problems: Iterable[tuple[str | int, Any, Bad]]) -> Bad:
        """Of (key, value, what is wrong with it)."""
        found: list[Detail] = []
        for key, value, bad in problems:
            if bad.text:
                found.append(Detail((key,), value, bad.text))
            found += [Detail((key, *detail.path), detail.found, detail.text) for detail in bad.details]
        return cls("", found)


class Unexportable(Exception):
    """A part of a bus that no file can hold."""


def shown(value: Any) -> str:
    """A value as a file would write it, cut where it is long. Never what `${…}` stands for."""
    if isinstance(value, Told):
        text = json.dumps(value.source, ensure_ascii=False)
    elif isinstance(value, str):
        text = json.dumps(value.replace("${", "$${"), ensure_ascii=False)
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        text = "{ " + ", ".join(f"{key_text(str(key))} = {shown(inner)}" for key, inner in value.items()) + " }"
        text = text if value else "{}"
    elif isinstance(value, (list, tuple)):
        text = "[" + ", ".join(shown(inner) for inner in value) + "]"
    elif isinstance(value, int):
        text = hex(value) if abs(value) >= 10**30 else str(value)  # str refuses thousands of digits
    else:
        text = str(value)
    end = text[-1:] if text[:1] in ('"', "[", "{") else ""
    return text if len(text) <= LONGEST else text[: LONGEST - 1 - len(end)] + "…" + end


def key_text(key: str) -> str:
    """A key as a file would write it."""
    bare = key != "" and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
    return key if bare else json.dumps(key, ensure_ascii=False)


def path_text(path: tuple[str | int, ...]) -> str:
    """As in `pipelines[0].filters[2]`, counted from 0."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{key_text(part)}" if text else key_text(part)
    return text


def guess(word: object, known: Iterable[str]) -> str:
    """The known word that was perhaps meant, as the end of a sentence; "" if none is near."""
    names = list(known)
    near = difflib.get_close_matches(str(word)[:LONGEST], names, 1) or [n for n in names if n.lower() == str(word).lower()]
    return f'; did you mean "{near[0]}"?' if near else ""


def choice(word: object, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: what was perhaps meant, or what there is."""
    names = list(known)
    if not names:
        return "; there is none"
    return guess(word, names) or (f"; there are {', '.join(names)}" if len(names) > 1 else f"; there is {', '.join(names)}")


def one_line(text: str) -> str:
    """Nothing of a file or module moves a cursor, or makes lines of its own."""
    text = " ".join(text.split())
    text = text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= LONG else f"{text[:LONG]}…"


def _without_pieces(text: str, secret: str, source: str) -> str:
    """Where a text was cut, a piece of the secret may be left."""
    parts = re.split('("?…"?)', text)
    for index in range(0, len(parts), 2):
        part = parts[index]
        if index + 1 < len(parts):  # it ends at a cut
            length = next((n for n in range(min(len(part), len(secret)), SHORT - 1, -1) if part[-n:] in secret), 0)
            part = part[: len(part) - length] + (source if length else "")
        if index > 0:  # it begins at one
            length = next((n for n in range(min(len(part), len(secret)), SHORT - 1, -1) if part[:n] in secret), 0)
            part = (source if length else "") + part[length:]
        parts[index] = part
    return "".join(parts)


class Problems:
    """
    Collects what is wrong with one file.

    Args:
        file: Its name, as it was given.
    """

    def __init__(self, file: str) -> None:
        self.file = " ".join(file.split("\n"))
        self.found: dict[ConfigProblem, None] = {}
        self.secrets: dict[str, str] = {}  # what was put in for `${…}` -> that

    def add(self, line: int | None, where: str, text: str) -> None:
        text, where = (one_line(self.redacted(one)) for one in (text, where))
        self.found[ConfigProblem(self.file, line, where, text)] = None

    def redacted(self, text: str) -> str:
        """The text without what `${…}` stands for. (What is short is no secret, and would spoil every sentence.)"""
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
            ConfigError: if anything was found.
        """
        if self.found:
            raise self.error()

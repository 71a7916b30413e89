"""
Where the keys of a TOML document stand, so that an error can name a line.

`tomllib` keeps no positions. This is a second pass over a text that it has accepted, so nothing is checked here, and what
only separates ("," and "=") is passed like a blank. Nothing recurses: open arrays and tables stand on a list.
"""

from __future__ import annotations

import re
from typing import Final

Path = tuple[str | int, ...]
"""Keys and, for elements of arrays, indexes from 0: `("filter", 1, "ttl")`."""

DEEPEST: Final = 64  # with all paths of any length, the result would grow with the square of the text
_TOO_DEEP: Final[Path] = (0,) * DEEPEST  # stands for every longer path; no path of a document begins with an index

_THING: Final = re.compile(r"[^ \t\r\n,=]")
_NEWLINE: Final = re.compile(r"\n")
_NO_BARE_KEY: Final = re.compile(r"[^A-Za-z0-9_-]")
_AFTER_SCALAR: Final = re.compile(r"[,\]}#\n]")
_STOPS: Final = {
    '"': re.compile(r'"|\\.'),
    '"""': re.compile(r'"""|\\.'),
    "'": re.compile("'"),
    "'''": re.compile("'''"),
}
"""For each kind of string, what ends it or only seems to."""


def positions(text: str) -> dict[Path, int]:
    """
    Line (counted from 1) of each key, array element and table of a document that `tomllib` accepts.

    It is the first line that names them; for a table with a header of its own, that header's line. `()` is on line 1.
    Paths of more than `DEEPEST` keys are left out. What is found in a text that `tomllib` refuses means nothing.
    """
    return _Scanner(text).scan()


class _Scanner:
    """A cursor that goes through a document once, and never back."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {(): 1}
        self.line, self.counted = 1, 0  # the line on which the character at `counted` stands
        self.last: dict[Path, int] = {}  # for each array with elements, the index of the newest
        self.open: list[tuple[Path, bool]] = [((), False)]  # the header's table and what is open in it; True is an array

    def scan(self) -> dict[Path, int]:
        while self.open and (char := self.next()):
            path, is_array = self.open[-1]
            if char in "]}":
                self.open.pop()
                self.at += 1
            elif is_array:
                self.value(self.element(path))
            elif char == "[":
                self.header()
            else:
                self.value(self.key(path))
        self.lines.pop(_TOO_DEEP, None)
        return self.lines

    def header(self) -> None:
        """`[a.b]` or `[[a.b]]`."""
        brackets = 2 if self.text.startswith("[[", self.at) else 1
        self.at += brackets
        self.next()
        path = self.key(())
        if brackets == 2:
            path = self.element(path)
        self.lines[path] = self.line  # a deeper header may have named it before
        self.at += brackets
        self.open = [(path, False)]

    def key(self, path: Path) -> Path:
        """A key, dotted or not, below a table; the cursor then stands at the value, or at the end of the header."""
        while True:
            path = self.named(path, self.part())
            if self.next() != ".":
                return path
            self.at += 1
            self.next()
            if path in self.last:
                path = self.named(path, self.last[path])

    def part(self) -> str:
        """What is between the dots of a key."""
        if not self.text.startswith(('"', "'"), self.at):
            return self.until(_NO_BARE_KEY)
        has_escapes = self.text[self.at] == '"'
        text = self.string()
        if has_escapes and "\\" in text:
            # Python has all of TOML's escapes, with the same meaning; its codec wants bytes.
            return text.encode("latin-1", "backslashreplace").decode("unicode_escape", "replace")
        return text

    def value(self, path: Path) -> None:
        """A string or a scalar as a whole; an array or an inline table is opened."""
        match self.text[self.at : self.at + 1]:
            case "[" | "{" as bracket:
                self.open.append((path, bracket == "["))
                self.at += 1
            case '"' | "'":
                self.string()
            case _:
                self.until(_AFTER_SCALAR)

    def string(self) -> str:
        """What is between the quotes, as it was written."""
        quote = self.text[self.at]
        quotes = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        start = self.at + len(quotes)
        stops = _STOPS[quotes].finditer(self.text, start)
        end = next((stop.start() for stop in stops if stop[0] == quotes), len(self.text))
        self.at = end + len(quotes)
        while self.text.startswith(quote, self.at):  # `""""` ends a multi-line string whose last character is a quote
            self.at += 1
        return self.text[start:end]

    def element(self, path: Path) -> Path:
        """One more element of an array."""
        self.last[path] = self.last.get(path, -1) + 1
        return self.named(path, self.last[path])

    def named(self, path: Path, key: str | int) -> Path:
        """The path of a key or an index below another; what is new stands on the cursor's line."""
        path = (*path, key) if len(path) < DEEPEST else _TOO_DEEP
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        self.lines.setdefault(path, self.line)
        return path

    def next(self) -> str:
        """The character at which the next thing starts; empty at the end of the document."""
        self.until(_THING)
        while self.text.startswith("#", self.at):
            self.until(_NEWLINE)
            self.until(_THING)
        return self.text[self.at : self.at + 1]

    def until(self, stop: re.Pattern[str]) -> str:
        """What stands before the next match; without one, all the rest."""
        start, found = self.at, stop.search(self.text, self.at)
        self.at = found.start() if found else len(self.text)
        return self.text[start : self.at]

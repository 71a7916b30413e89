"""
The line of each key of a TOML document, so that an error can name it.

`tomllib` keeps no positions. This is a second pass over a text that it has accepted, so it checks nothing, and skips the
separators "," and "=" like blanks. It does not recurse, and keeps open arrays and tables in a list instead.
"""

from __future__ import annotations

import re
from typing import Final

Path = tuple[str | int, ...]
"""Keys and, for elements of arrays, indexes from 0: `("filter", 1, "ttl")`."""

DEEPEST: Final = 64  # without a limit, the result could grow with the square of the text
_TOO_DEEP: Final[Path] = (0,) * DEEPEST  # replaces every longer path; no path of a document begins with an index

_STRING: Final = r""""(?:\\.|[^"\\])*"|'[^']*'"""
_LONG_STRING: Final = r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}'''  # up to two quotes may come before the three that end it
_BETWEEN: Final = re.compile(r"(?:[ \t\r\n,=]+|#[^\n]*)*")
_KEY: Final = re.compile(rf"{_STRING}|[A-Za-z0-9_-]*", re.DOTALL)
_VALUE: Final = re.compile(rf"{_LONG_STRING}|{_STRING}|[^,\]}}#\n]*", re.DOTALL)


def positions(text: str) -> dict[Path, int]:
    """
    Return the line, counted from 1, of each key, array element and table of a document that `tomllib` accepts.

    It is the first line that names them; for a table with its own header, the line of the header. `()` is on line 1.
    Paths of more than `DEEPEST` keys are left out. The result for a text that `tomllib` refuses has no meaning.
    """
    return _Scanner(text).scan()


class _Scanner:
    """A cursor that moves through a document once, never backwards."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Path, int] = {(): 1}
        self.line, self.counted = 1, 0  # the line of the character at `counted`
        self.last: dict[Path, int] = {}  # for each array with elements, the index of the newest
        self.open: list[tuple[Path, bool]] = [((), False)]  # the header's table, and what is open in it; True for an array

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
        self.next(brackets)
        path = self.key(())
        if brackets == 2:
            path = self.element(path)
        self.lines[path] = self.line  # not setdefault: a deeper header may have named it before
        self.at += brackets
        self.open = [(path, False)]

    def key(self, path: Path) -> Path:
        """Read a key, dotted or not, below a table. The cursor is then at the value, or at the end of the header."""
        while True:
            part = self.take(_KEY)
            if part.startswith('"'):
                # Python knows all escapes of TOML, with the same meaning; its codec needs bytes.
                part = part.encode("latin-1", "backslashreplace").decode("unicode_escape", "replace")
            path = self.named(path, part[1:-1] if part[:1] in ('"', "'") else part)
            if self.next() != ".":
                return path
            self.next(1)
            if path in self.last:
                path = self.named(path, self.last[path])

    def value(self, path: Path) -> None:
        """Skip a string or a scalar; open an array or an inline table."""
        bracket = self.next()
        if bracket in ("[", "{"):
            self.open.append((path, bracket == "["))
            self.at += 1
        else:
            self.take(_VALUE)

    def element(self, path: Path) -> Path:
        """Return the path of the next element of an array."""
        self.last[path] = self.last.get(path, -1) + 1
        return self.named(path, self.last[path])

    def named(self, path: Path, key: str | int) -> Path:
        """Return the path of a key or an index below another. A new path gets the line of the cursor."""
        path = (*path, key) if len(path) < DEEPEST else _TOO_DEEP
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        self.lines.setdefault(path, self.line)
        return path

    def next(self, past: int = 0) -> str:
        """Move past some characters, to the next token, and return its first character; "" at the end of the document."""
        self.at += past
        self.take(_BETWEEN)
        return self.text[self.at : self.at + 1]

    def take(self, pattern: re.Pattern[str]) -> str:
        """Move past what a pattern, which may match nothing, matches here, and return it."""
        found = pattern.match(self.text, self.at)
        taken = "" if found is None else found.group()
        self.at += len(taken)
        return taken

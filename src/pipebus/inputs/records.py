"""Records of a file, one at a time: JSON Lines or CSV, gzip or not, so that a year needs no more memory than a day."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, BinaryIO, Final, Literal, Self, cast

STDIN: Final = "-"

Row = dict[str, str]
Wait = Callable[[int], None]


class BadInput(Exception):
    """A file that cannot be read as records. The text names it, says what was found and what to do."""


class Patient(io.RawIOBase):
    """A pipe that is waited for, before it is read, in a way of the reader's choice."""

    def __init__(self, raw: io.RawIOBase, wait: Wait) -> None:
        self._raw = raw
        self._wait = wait

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any) -> int | None:
        self._wait(self.fileno())
        return self._raw.readinto(buffer)


class BadRecord(Exception):
    """One record that cannot be read; the others can."""


class Lines:
    """
    The text of one file, plain or gzip (told by its first byte, not by its name).

    Args:
        source: A path, or "-" for standard input.
        wanted: What to give instead, for errors.
        wait: Called with a descriptor before each read of it that may block; it may raise to end the reading.

    Raises:
        BadInput: When it is opened or while it is read.
    """

    def __init__(self, source: str | os.PathLike[str], wanted: str, wait: Wait | None = None) -> None:
        self._wait = wait
        self.name = "standard input" if source == STDIN else os.fspath(source)
        self.wanted = wanted
        self.line = 0  # the last that was read
        self._source = source
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            try:
                self._open(stack)
            except _READ_ERRORS as error:
                raise self._bad(error) from error
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def progress(self) -> float | None:
        """How much of the file has been read, 0 to 1; None where the end is not known (a pipe)."""
        return min(self._binary.tell() / self._size, 1.0) if self._size else None

    def _open(self, stack: ExitStack) -> None:
        # A descriptor of our own for standard input, so that closing it closes nobody else's.
        if self._source == STDIN and sys.stdin is None:  # closed from the start: its number may be another's by now
            raise BadInput(f"{self.name} is closed; {self.wanted}")
        source, ours = (0, False) if self._source == STDIN else (self._source, True)
        raw = open(source, "rb", buffering=0, closefd=ours)  # noqa: SIM115 (the stack closes it)
        stack.callback(raw.close)
        self._binary = io.BufferedReader(raw if self._wait is None or raw.seekable() else Patient(raw, self._wait))
        self._size = os.fstat(self._binary.fileno()).st_size if self._binary.seekable() else 0
        start = self._binary.peek(2)[:2]
        if start == b"PK":
            raise BadInput(f"{self.name} is a zip archive; unpack it first: unzip -p FILE | pipebus … --input -")
        plain: BinaryIO = self._binary
        if start[:1] == b"\x1f":
            plain = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=self._binary)))
        self._plain = plain

    def _lines(self) -> Iterator[str]:
        """One at a time: each is handed out as soon as it is there, whatever comes behind it."""
        for data in self._plain:
            self.line += 1
            yield data.decode("utf-8-sig" if self.line == 1 else "utf-8")

    def _bad(self, error: Exception) -> BadInput:
        if isinstance(error, FileNotFoundError):
            return BadInput(f"{self.name}: no such file; {self.wanted}")
        if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
            return BadInput(f"{self.name}: broken gzip data ({error}); fetch or compress it again")
        if isinstance(error, (UnicodeDecodeError, csv.Error)):
            return BadInput(f"{self.name}:{self.line}: not {self.what} in UTF-8 ({error}); {self.wanted}")
        return BadInput(f"{self.name}: cannot be read ({getattr(error, 'strerror', None) or error}); {self.wanted}")

    what = "text"


_READ_ERRORS = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)


class CsvRecords(Lines):
    """
    The rows of a CSV file with a header line, each a mapping of texts.

    Only the shape is judged here, and loudly: a file that is not what it should be is an error, not 27,000 rejected records.
    What a record *says* is the business of the bus's filters.

    Args:
        columns: Those that the header has to name.
    """

    what = "a CSV file"

    def __init__(
        self, source: str | os.PathLike[str], columns: Sequence[str] = (), wanted: str = "", wait: Wait | None = None
    ) -> None:
        super().__init__(source, wanted or "give a CSV file whose first line names the columns", wait)
        self._columns = columns

    def __iter__(self) -> Iterator[Row]:
        header, width = self._header, len(self._header)
        empty = True
        try:
            for fields in self._rows:
                if len(fields) == width:
                    empty = False
                    yield dict(zip(header, fields, strict=True))
                elif fields:  # a blank line is no record
                    raise BadInput(
                        f"{self.name}:{self._rows.line_num}: {len(fields)} fields where the header has {width}; "
                        f"repair or remove the line"
                    )
        except _READ_ERRORS as error:
            raise self._bad(error) from error
        if empty:
            raise BadInput(f"{self.name} has a header and no record; {self.wanted}")

    def _open(self, stack: ExitStack) -> None:
        super()._open(stack)
        self._rows = csv.reader(self._lines(), strict=True)
        self._header = next(filter(None, self._rows), [])
        twice = [name for name, count in Counter(self._header).items() if count > 1]
        if twice:
            raise BadInput(f"{self.name}: its first line has {', '.join(twice)} twice; give each column a name of its own")
        if not self._header:
            raise BadInput(f"{self.name} is empty; {self.wanted}")
        missing = [name for name in self._columns if name not in self._header]
        if missing:
            raise BadInput(
                f"{self.name}: no column {', '.join(missing)} in its first line, "
                f"which begins {','.join(self._header)[:60]!r}; {self.wanted}"
            )


class JsonRecords(Lines):
    """The values of a file of JSON Lines; blank lines are none. One that is no JSON is a `BadRecord` in its place."""

    what = "JSON Lines"

    def __init__(self, source: str | os.PathLike[str], wait: Wait | None = None) -> None:
        super().__init__(source, "give a file of JSON Lines: one JSON value on each line", wait)

    def __iter__(self) -> Iterator[Any]:
        try:
            for line in self._lines():
                if line and not line.isspace():
                    yield self._value(self.line, line)
        except _READ_ERRORS as error:
            raise self._bad(error) from error

    def _value(self, number: int, line: str) -> Any:
        try:
            return strict_json(line)
        except (ValueError, RecursionError) as error:
            return BadRecord(f"{self.name}:{number}: no JSON: {str(error).partition(': line')[0]}")


def strict_json(text: str) -> Any:
    """
    One JSON value, as other programs read it.

    Raises:
        ValueError: it is none, or has NaN or a number that is too large. RecursionError
    """
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def open_records(source: str, format: Literal["jsonl", "csv"] | None, wait: Wait | None = None) -> CsvRecords | JsonRecords:
    """The records of a file, by its name if no format is given; a name that says nothing is JSON Lines."""
    if format is None:
        format = "csv" if source.lower().removesuffix(".gz").endswith(".csv") else "jsonl"
    return CsvRecords(source, wait=wait) if format == "csv" else JsonRecords(source, wait)

"""Records: the rows of a CSV file, one at a time, so that a year needs no more memory than a day."""

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self, cast

from pipebus.demo.flights import Flight

PACKAGED_DAY = Path(__file__).with_name("flights-2013-01-01.csv")
STDIN = "-"
COLUMNS = tuple(Flight.model_fields)

Row = dict[str, str]


class BadInput(Exception):
    """A file that cannot be read as records of flights. The text names it, says what was found and what to do."""


class Records:
    """
    The records of one CSV file with a header line, plain or gzip (told by its first byte, not by its name).

    Only the shape is judged here, and loudly: a file that is not what it should be is an error, not 27,000 rejected
    records. What a record *says* is the business of the bus's filters.

    Args:
        source: A path, or "-" for standard input.

    Raises:
        BadInput: When it is opened or while it is read.
    """

    def __init__(self, source: str | os.PathLike[str] = PACKAGED_DAY) -> None:
        self.name = "standard input" if source == STDIN else os.fspath(source)
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
            raise BadInput(f"{self.name} has a header and no record; {_WANTED}")

    @property
    def progress(self) -> float | None:
        """How much of the file has been read, 0 to 1; None where the end is not known (a pipe)."""
        return min(self._binary.tell() / self._size, 1.0) if self._size else None

    def _open(self, stack: ExitStack) -> None:
        # A descriptor of our own for standard input, so that closing it closes nobody else's.
        self._binary = (
            open(0, "rb", closefd=False) if self._source == STDIN else open(self._source, "rb")  # noqa: SIM115
        )
        stack.callback(self._binary.close)
        self._size = os.fstat(self._binary.fileno()).st_size if self._binary.seekable() else 0
        start = self._binary.peek(2)[:2]
        if start == b"PK":
            raise BadInput(f"{self.name} is a zip archive; unpack it first: unzip -p FILE | pipebus demo --input -")
        plain: BinaryIO = self._binary
        if start[:1] == b"\x1f":
            plain = cast(BinaryIO, stack.enter_context(gzip.GzipFile(fileobj=self._binary)))
        text = stack.enter_context(io.TextIOWrapper(plain, encoding="utf-8-sig", newline=""))
        self._rows = csv.reader(text, strict=True)
        self._header = next(self._rows, [])
        self._check_header()

    def _check_header(self) -> None:
        if not self._header:
            raise BadInput(f"{self.name} is empty; {_WANTED}")
        missing = [name for name in COLUMNS if name not in self._header]
        if missing:
            raise BadInput(
                f"{self.name}: no column {', '.join(missing)} in its first line, "
                f"which begins {','.join(self._header)[:60]!r}; {_WANTED}"
            )

    def _bad(self, error: Exception) -> BadInput:
        if isinstance(error, FileNotFoundError):
            return BadInput(f"{self.name}: no such file; {_WANTED}")
        if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
            return BadInput(f"{self.name}: broken gzip data ({error}); fetch or compress it again")
        if isinstance(error, (UnicodeDecodeError, csv.Error)):
            return BadInput(f"{self.name}: not a CSV file in UTF-8 ({error}); {_WANTED}")
        return BadInput(f"{self.name}: cannot be read ({getattr(error, 'strerror', None) or error}); {_WANTED}")


_READ_ERRORS = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)
_WANTED = f"give a CSV file, gzip or not, whose first line names the columns {', '.join(COLUMNS)}"

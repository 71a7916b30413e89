"""The lines of a file: plain or gzip, from a path or standard input."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, Final, Self, cast

STDIN: Final = "-"

Wait = Callable[[int], None]


class BadInput(Exception):
    """A file that cannot be read as records. The text names the file, what was found, and what to do."""


class Patient(io.RawIOBase):
    """A pipe that calls `wait` before each read."""

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


class Lines:
    """
    The lines of one file, plain or gzip. Its first byte shows which, not its name.

    Args:
        source: A path, or "-" for standard input.
        wanted: For errors: what file to give instead.
        wait: Called with the file descriptor before each read that may block. It may raise to end the reading.

    Raises:
        BadInput: when the file is opened, or while it is read.
    """

    def __init__(self, source: str | os.PathLike[str], wanted: str, wait: Wait | None = None) -> None:
        self._wait = wait
        self.name = "standard input" if source == STDIN else os.fspath(source)
        self.wanted = wanted
        self.line = 0  # number of the line that was read last
        self._source = source
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            try:
                self._open(stack)
            except READ_ERRORS as error:
                raise self._bad(error) from error
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def progress(self) -> float | None:
        """The part of the file that has been read, 0 to 1; None for a pipe, whose end is unknown."""
        try:
            return min(self._binary.tell() / self._size, 1.0) if self._size else None
        except ValueError:  # it is closed
            return 1.0

    def _open(self, stack: ExitStack) -> None:
        # Standard input is opened with closefd=False, so that closing this file leaves it open for others.
        if self._source == STDIN and sys.stdin is None:  # closed at the start: descriptor 0 may be another file's by now
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

    def _lines(self) -> Iterator[bytes]:
        """
        Yield each line as soon as it has been read.

        Raises:
            BadInput: the rest of the file cannot be read.
        """
        try:
            for data in self._plain:
                self.line += 1
                yield data.removeprefix(codecs.BOM_UTF8) if self.line == 1 else data
        except READ_ERRORS as error:
            raise self._bad(error) from error

    def _bad(self, error: Exception) -> BadInput:
        if isinstance(error, FileNotFoundError):
            return BadInput(f"{self.name}: no such file; {self.wanted}")
        if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
            return BadInput(f"{self.name}: broken gzip data ({error}); fetch or compress it again")
        return BadInput(f"{self.name}: cannot be read ({getattr(error, 'strerror', None) or error}); {self.wanted}")


READ_ERRORS: Final = (OSError, EOFError, zlib.error)

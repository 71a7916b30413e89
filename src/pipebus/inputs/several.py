"""The records of several files, one file after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal, Self

from pipebus.inputs.lines import STDIN, BadInput, Wait
from pipebus.inputs.records import CsvRecords, open_records


class Several:
    """
    Args:
        sources: Paths, or "-" for standard input, at least one.
        format: Of all files; None: each by its name.
        wait: As for `Lines`.
        opening: Calls the function that opens a file, which may wait for the other end of a named pipe.
        says: Called with a doubt about a file.
        delimiter: As for `open_records`.

    Raises:
        BadInput: a file is missing, and nothing has been opened; or later, as `Lines` does.
    """

    def __init__(
        self, sources: Sequence[str], format: Literal["jsonl", "csv"] | None, wait: Wait, opening: Callable[[Any], Any],
        says: Callable[[str], object], delimiter: str | None = None,
    ) -> None:  # fmt: skip
        self.files = [open_records(source, format, wait, delimiter) for source in sources]
        self._says = says
        self._opening = opening
        self._stack = ExitStack()
        self._current = self.files[0]
        self._sizes = [0 if source == STDIN or not os.path.isfile(source) else os.path.getsize(source) for source in sources]
        if sources.count(STDIN) > 1:
            raise BadInput("standard input can be read only once; give - once")
        for source, file in zip(sources, self.files, strict=True):
            if source != STDIN and not os.path.lexists(source):
                raise BadInput(f"{source}: no such file; {file.wanted}")

    def __enter__(self) -> Self:
        self._open(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Any]:
        for number, file in enumerate(self.files):
            if number:
                self._open(number)
            yield from file

    @property
    def rows(self) -> bool:
        """Whether a file is CSV, whose rows name no subject."""
        return any(isinstance(file, CsvRecords) for file in self.files)

    @property
    def where(self) -> str:
        """File and line of the record that was read last."""
        return f"{self._current.name}:{self._current.line}"

    @property
    def progress(self) -> float | None:
        """The part of all files that has been read, 0 to 1; None if the end of one is unknown."""
        if not all(self._sizes):
            return None
        number = self.files.index(self._current)
        return (sum(self._sizes[:number]) + (self._current.progress or 0.0) * self._sizes[number]) / sum(self._sizes)

    def _open(self, number: int) -> None:
        self._stack.close()
        file = self.files[number]
        self._opening(lambda: self._stack.enter_context(file))
        self._current = file
        if isinstance(file, CsvRecords) and file.doubt:
            self._says(file.doubt)

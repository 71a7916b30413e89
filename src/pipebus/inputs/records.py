"""The records of a file, one at a time: JSON Lines or CSV, gzip or not. Memory use does not grow with the file."""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from pipebus.inputs.lines import READ_ERRORS, BadInput, Lines, Wait

Row = dict[str, str]


class BadRecord(Exception):
    """One record that cannot be read. The records after it can be."""


class CsvRecords(Lines):
    """
    The rows of a CSV file with a header line, each a mapping of texts.

    Only the shape of the file is checked here: a wrong file is one error, not 27,000 rejected records. What a record contains
    is for the filters of the bus to judge.

    Args:
        columns: Names that the header must contain.
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
                elif fields:  # skip blank lines
                    raise BadInput(
                        f"{self.name}:{self._rows.line_num}: {len(fields)} fields where the header has {width}; "
                        f"repair or remove the line"
                    )
        except READ_ERRORS as error:
            raise self._bad(error) from error
        if empty:
            raise BadInput(f"{self.name} has a header but no records; {self.wanted}")

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
    """The values of a file of JSON Lines, without blank lines. A line that is not JSON gives a `BadRecord`."""

    what = "JSON Lines"

    def __init__(self, source: str | os.PathLike[str], wait: Wait | None = None) -> None:
        super().__init__(source, "give a file of JSON Lines: one JSON value on each line", wait)

    def __iter__(self) -> Iterator[Any]:
        try:
            for line in self._lines():
                if line and not line.isspace():
                    yield self._value(self.line, line)
        except READ_ERRORS as error:
            raise self._bad(error) from error

    def _value(self, number: int, line: str) -> Any:
        try:
            return strict_json(line)
        except (ValueError, RecursionError) as error:
            return BadRecord(f"{self.name}:{number}: not JSON: {str(error).partition(': line')[0]}")


def strict_json(text: str) -> Any:
    """
    Return one JSON value, as strictly as other programs read it.

    Raises:
        ValueError: it is not JSON, or contains NaN or a number that is too large.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def open_records(source: str, format: Literal["jsonl", "csv"] | None, wait: Wait | None = None) -> CsvRecords | JsonRecords:
    """Return the records of a file. Without a format, names that end in .csv or .csv.gz mean CSV, others JSON Lines."""
    if format is None:
        format = "csv" if source.lower().removesuffix(".gz").endswith(".csv") else "jsonl"
    return CsvRecords(source, wait=wait) if format == "csv" else JsonRecords(source, wait)

"""
The records of a file, one at a time: JSON Lines or CSV, gzip or not. Memory use does not grow with the file.

What cannot be read as a record is a `BadRecord` in its place, and the reading goes on: one bad byte must not end a long or live
input. Only a file that cannot be read at all, or not any further, is a `BadInput`.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final, Literal

import msgspec

from pipebus.inputs.lines import BadInput, Lines, Wait

Row = dict[str, str]


class BadRecord(Exception):
    """One record that cannot be read. The records after it can be."""


class CsvRecords(Lines):
    """
    The rows of a CSV file with a header line, each a mapping of texts. A row with fewer or more fields than the header, with
    wrong quotes or with bytes that are not UTF-8 gives a `BadRecord`.

    What a record contains is for the filters of the bus to judge.

    Args:
        columns: Names that the header must contain.

    Attributes:
        doubt: Why the delimiter seems to be another one; "" if it does not.
    """

    doubt = ""

    def __init__(
        self, source: str | os.PathLike[str], columns: Sequence[str] = (), wanted: str = "", wait: Wait | None = None,
        delimiter: str = ",",
    ) -> None:  # fmt: skip
        self._delimiter = delimiter
        super().__init__(source, wanted or "give a CSV file whose first line names the columns", wait)
        self._columns = columns

    def __iter__(self) -> Iterator[Row | BadRecord]:
        header, width, texts = self._header, len(self._header), self._texts
        empty = True
        while True:
            texts.begin()
            try:
                fields = next(self._rows, None)
            except csv.Error as error:
                wrong = str(error)
            else:
                if fields is None:
                    break
                if len(fields) == width and not texts.fault:
                    empty = False
                    yield dict(zip(header, fields, strict=True))
                    continue
                if not fields:  # skip blank lines
                    continue
                wrong = f"{len(fields)} fields where the header has {width}; repair or remove the line"
            empty = False
            wrong = texts.fault or wrong
            texts.only_first()
            yield BadRecord(f"{self.name}:{self.line}: {wrong}")
        if empty:
            raise BadInput(f"{self.name} has a header but no records; {self.wanted}")

    def _open(self, stack: ExitStack) -> None:
        super()._open(stack)
        self._texts = Texts(self, self._lines())
        self._rows = csv.reader(self._texts, strict=True, delimiter=self._delimiter)
        try:
            self._header = next(filter(None, self._rows), [])
        except csv.Error as error:
            raise BadInput(f"{self.name}:{self.line}: not a CSV file ({error}); {self.wanted}") from error
        if self._texts.fault:
            raise BadInput(f"{self.name}:{self.line}: not a CSV file in UTF-8 ({self._texts.fault}); {self.wanted}")
        other = next((one for one in ";\t|," if len(self._header) == 1 and one in self._header[0]), None)
        if other is not None:
            self.doubt = (
                f"{self.name} has one column, {self._header[0][:60]!r}; if fields end with {other!r}, add --delimiter {other!r}"
            )
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


class Texts:
    """
    The lines of a CSV file as text. Lines can be given back: a quote without an end would swallow many rows, but only its own
    line is wrong.

    Attributes:
        fault: Why a line of the current row is not text; "" if all are.
    """

    def __init__(self, file: Lines, lines: Iterator[bytes]) -> None:
        self.fault = ""
        self._file = file
        self._lines = lines
        self._row: list[bytes] = []
        self._again: deque[bytes] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._again:
            data = self._again.popleft()
            self._file.line += 1
        else:
            data = next(self._lines)
        self._row.append(data)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            self.fault = self.fault or f"not UTF-8: {error}"
            return data.decode(errors="replace")

    def begin(self) -> None:
        """A row begins."""
        self._row.clear()
        self.fault = ""

    def only_first(self) -> None:
        """Give back all lines of the current row except the first."""
        rest = self._row[1:]
        self._file.line -= len(rest)
        self._again.extendleft(reversed(rest))


class JsonRecords(Lines):
    """The values of a file of JSON Lines, without blank lines. A line that is not JSON in UTF-8 gives a `BadRecord`."""

    def __init__(self, source: str | os.PathLike[str], wait: Wait | None = None) -> None:
        super().__init__(source, "give a file of JSON Lines: one JSON value on each line", wait)

    def __iter__(self) -> Iterator[Any]:
        for data in self._lines():
            try:
                value = _fast(data)
            except (ValueError, RecursionError):  # it is wrong, blank, or a text with half a character, which only json reads
                if data.isspace() or not data:
                    continue
                value = self._value(data)
            yield value

    def _value(self, data: bytes) -> Any:
        try:
            return strict_json(data.decode())
        except UnicodeDecodeError as error:
            return BadRecord(f"{self.name}:{self.line}: not UTF-8: {error}")
        except (ValueError, RecursionError) as error:
            return BadRecord(f"{self.name}:{self.line}: not JSON: {str(error).partition(': line')[0]}")


_fast: Final = msgspec.json.Decoder().decode
"""As strict as `strict_json`, and five times as fast; but its errors say less."""


def strict_json(text: str) -> Any:
    """
    Return one JSON value, as strictly as other programs read it.

    Raises:
        ValueError: it is not JSON, or contains NaN or a number that is too large.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # Python's limit, whose text is about Python
        raise ValueError(f"a number of {len(text):,} digits is too large") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def open_records(
    source: str, format: Literal["jsonl", "csv"] | None, wait: Wait | None = None, delimiter: str | None = None
) -> CsvRecords | JsonRecords:
    """
    Return the records of a file.

    Args:
        format: None: CSV if the name ends in .csv, .tsv, .csv.gz or .tsv.gz, otherwise JSON Lines.
        delimiter: Between the fields of CSV; None: a tab if the name ends in .tsv or .tsv.gz, otherwise a comma.
    """
    ending = source.lower().removesuffix(".gz")[-4:]
    if format is None:
        format = "csv" if ending in (".csv", ".tsv") else "jsonl"
    delimiter = delimiter or ("\t" if ending == ".tsv" else ",")
    return CsvRecords(source, wait=wait, delimiter=delimiter) if format == "csv" else JsonRecords(source, wait)

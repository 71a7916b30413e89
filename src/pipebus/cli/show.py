"""What commands print: tables and colours for a terminal, plain text and JSON for programs."""

import json
import math
import os
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Final, TextIO

from pipebus.foreign.objects import visible

WIDE: Final = 100
"""Most characters of a line that a person reads."""
NARROW: Final = 12
"""The width that a column keeps in any case."""

printable: Final = visible
"""Nothing that comes from outside moves the cursor, or makes lines of its own."""


def has_rich() -> bool:
    from importlib.util import find_spec

    return find_spec("rich") is not None


def table(
    heads: Sequence[str], rows: Sequence[Sequence[Any]], numbers: Sequence[str] = (), file: TextIO | None = None,
    *, cut: bool = False,
) -> None:  # fmt: skip
    """
    Print a table, of at most WIDE characters where it is not for a terminal. Columns of `numbers` are aligned on the right, and
    long cells are wrapped, or with `cut` shortened.
    """
    file = file or sys.stdout
    cells = [[_cell(value) for value in row] for row in rows]
    if file.isatty() and has_rich():
        _rich_table(heads, cells, numbers, file)
        return
    widths = _widths(heads, cells, numbers, wide=None if file.isatty() else WIDE)
    for row in (list(heads), *cells):
        parts = [_fitted(value, max(width, 1), cut) for value, width in zip(row, widths, strict=True)]
        for line in zip_longest(*parts, fillvalue=""):
            aligned = [
                f"{value:>{width}}" if head in numbers else f"{value:<{width}}"
                for value, width, head in zip(line, widths, heads, strict=True)
            ]
            print("  ".join(aligned).rstrip(), file=file)


def _fitted(text: str, width: int, cut: bool) -> list[str]:
    if cut and len(text) > width:
        return [text[: width - 1].rstrip(" ,") + "…"]
    return textwrap.wrap(text, width) or [""]


def _widths(heads: Sequence[str], cells: Sequence[Sequence[str]], numbers: Sequence[str], wide: int | None) -> list[int]:
    """The widths of columns; the widest ones of text are made narrower until a line fits. (A terminal folds lines: None.)"""
    widths = [max(len(head), *(len(row[index]) for row in cells), 0) for index, head in enumerate(heads)]
    texts = [index for index, head in enumerate(heads) if head not in numbers]
    while wide is not None and sum(widths) + 2 * (len(widths) - 1) > wide:
        widest = max(texts, key=widths.__getitem__)
        if widths[widest] <= NARROW:
            break
        widths[widest] -= 1
    return widths


def wrapped(text: str, indent: str) -> list[str]:
    """Return a text as lines of at most WIDE characters, with an indent before each except the first."""
    return textwrap.wrap(text, WIDE, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else "" if value is None else printable(str(value))


def _rich_table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str], file: TextIO) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, justify="right" if head in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(file=file).print(table)


def styled(text: str, style: str, file: TextIO | None = None) -> str:
    """Return a text in a style ("red", "green", "yellow", "bold") if the file is a terminal and NO_COLOR is not set."""
    file = file or sys.stdout
    codes = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}
    if not file.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{codes[style]}m{text}\x1b[0m"


def as_json(value: Any, encoding: str | None = None) -> str:
    """
    Return one line of JSON. Characters outside the encoding (stdout's), and those that some readers take for the end of a line,
    are escaped; values that JSON cannot hold become text.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:  # NaN, which JSON does not have
        return as_json(_finite(value), encoding)
    try:
        text.encode(encoding or sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # also for half a character, which UTF-8 does not have
        return json.dumps(value, default=str)
    return text.translate(_LINE_ENDS)


def _finite(value: Any) -> Any:
    """Replace NaN and infinities by their text."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}

"""The table of `pipebus top`: figures as the lines of a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from pipebus.cli.figures import Column, Figures, Row, columns, header, ordered
from pipebus.cli.show import printable

if TYPE_CHECKING:
    from rich.text import Text

KEYS: Final = "q quit  p pause  sort: d depth  a age  r rate  n name  ↑↓ PgUp PgDn"
FULL: Final = 0.8
"""Share of its bound from which a mailbox is shown in red."""
WAIVED: Final = ("p50", "flight", "p99", "out/s", "in/s", "oldest", "dead", "paused")
"""The columns that a narrow terminal does without, the first one first."""
NAME: Final = 12
"""Characters that a name has in any case."""
BAR: Final = (7, 30)
"""Fewest and most characters of the bar of depth."""


def room(height: int) -> int:
    """How many rows a terminal of this height shows: it has a header of three lines, the heads, and a footer."""
    return max(0, height - 5)


def draw(
    figures: Figures | None, width: int, height: int, sort: str = "depth", scroll: int = 0,
    *, about: str = "", trouble: str = "", frozen: bool = False,
) -> list[Text]:  # fmt: skip
    """
    Draw the whole terminal.

    Args:
        figures: None: there are none yet.
        sort: One of SORTS.
        scroll: Number of the first row that is shown.
        trouble: Why there are no new figures; it takes the place of the bus's state.
        frozen: The user has paused the display.
    """
    from rich.text import Text

    first, *others = header(figures, about)
    lines = [Text(printable(trouble), "bold red") if trouble else Text(first, "bold"), *map(Text, others)]
    rows = [] if figures is None else ordered(figures, sort)
    shown = rows[scroll : scroll + room(height)]
    fitting, name, bar = _widths(width, columns(figures), rows)
    heads = [f"{'subscription'[:name]:<{name}}", *([f"{'depth':<{bar}}"] if bar else [])]
    lines.append(Text(" ".join([*heads, *(f"{one.head:>{one.width}}" for one in fitting)]), "reverse"))
    for row in shown:
        cells = [_name(row, name), *([_bar(row, bar)] if bar else [])]
        cells += [Text(f"{one.cell(row):>{one.width}}", _style(one, row)) for one in fitting]
        lines.append(Text(" ").join(cells))
    lines += [Text()] * (height - 1 - len(lines))
    place = f"{scroll + 1:,}-{scroll + len(shown):,} of {len(rows):,}" if shown else ""
    lines.append(_footer(f"{'paused  ' if frozen else ''}{place}", width))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def _footer(place: str, width: int) -> Text:
    from rich.text import Text

    keys = Text(KEYS)
    keys.truncate(max(0, width - len(place) - 1), overflow="ellipsis", pad=True)
    return Text.assemble(keys, " ", (place, "bold"))


def _name(row: Row, width: int) -> Text:
    from rich.text import Text

    name = Text(printable(row.name))
    name.truncate(width, overflow="ellipsis", pad=True)
    return name


def _style(column: Column, row: Row) -> str:
    if column.head == "dead" and row.dead:
        return "red"
    return "yellow" if column.head == "paused" else ""


def _widths(width: int, wanted: list[Column], rows: list[Row]) -> tuple[list[Column], int, int]:
    """The columns that fit besides the name, and the characters of the name and of the bar, which may be 0."""
    from rich.cells import cell_len

    bar = BAR[0] if any(row.size for row in rows) else 0

    def rest() -> int:
        return width - sum(one.width + 1 for one in wanted) - (bar and bar + 1)

    for head in WAIVED:
        if rest() < NAME:
            wanted = [one for one in wanted if one.head != head]
    if rest() < NAME:
        bar = 0
    name = max(1, min(max([NAME, *(cell_len(printable(row.name)) for row in rows)]), rest()))
    return wanted, name, bar and min(BAR[1], bar + rest() - name)


def _bar(row: Row, width: int) -> Text:
    from rich.text import Text

    if not row.size:
        return Text(" " * width)
    share = min(1.0, max(0.0, (row.pending + row.in_flight) / row.size))
    full = math.ceil(share * width)
    style = "red" if share >= FULL else "yellow" if share >= FULL / 2 else "green"
    return Text.assemble(("█" * full, style), ("░" * (width - full), "dim"))

"""The table of carriers that `pipebus demo` prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from pipebus.cli.show import has_rich

if TYPE_CHECKING:
    from pipebus.demo import Carrier

HEADS = ("carrier", "flights", "mean delay", "late", "alerts", "early to alert")
LEGEND = ("early", "on time", "late (15 minutes or more)", "alert (an hour or more)")  # one for each band
STYLES = ("green", "cyan", "yellow", "red")  # one for each band
WIDTH = 24  # of the bar, in characters
NAMES = {
    "9E": "Endeavor Air",
    "AA": "American",
    "AS": "Alaska",
    "B6": "JetBlue",
    "DL": "Delta",
    "EV": "ExpressJet",
    "F9": "Frontier",
    "FL": "AirTran",
    "HA": "Hawaiian",
    "MQ": "Envoy Air",
    "OO": "SkyWest",
    "UA": "United",
    "US": "US Airways",
    "VX": "Virgin America",
    "WN": "Southwest",
    "YV": "Mesa",
}  # the carriers of 2013, as in the airlines table of the same data package


def print_table(carriers: Mapping[str, Carrier]) -> None:
    """Print a line for each carrier, the latest first; in colour if stdout is a terminal and rich is installed."""
    rows = [
        (_cells(code, carrier), _bar(carrier))
        for code, carrier in sorted(carriers.items(), key=lambda item: (-item[1].mean, item[0]))
    ]
    if sys.stdout.isatty() and has_rich():
        _rich_table(rows)
    else:
        _plain_table(rows)


def _cells(code: str, carrier: Carrier) -> tuple[str, ...]:
    late = carrier.late / carrier.flights
    return (
        f"{code} {NAMES.get(code, '')}",
        f"{carrier.flights:,}",
        f"{carrier.mean:+.1f} min",
        f"{late:.0%}",
        f"{carrier.alerts:,}",
    )


def _bar(carrier: Carrier) -> list[int]:
    """Return how many characters of WIDTH each band gets. The ends of the pieces are rounded, so the sum is exact."""
    from pipebus.demo.flights import Band

    ends, seen = [0], 0
    for band in Band:
        seen += carrier.bands[band]
        ends.append(round(WIDTH * seen / carrier.flights))
    return [end - start for start, end in pairwise(ends)]


def _marks() -> str:
    """Return a character for each band, readable without colours, and in ASCII if stdout has nothing else."""
    marks = "░▒▓█"
    try:
        marks.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return ".-+#"
    return marks


def legend() -> str:
    return "  ".join(f"{mark} {band}" for mark, band in zip(_marks(), LEGEND, strict=True))


def _rich_table(rows: list[tuple[tuple[str, ...], list[int]]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = _marks()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in HEADS:
        table.add_column(head, justify="left" if head in (HEADS[0], HEADS[-1]) else "right", no_wrap=True)
    for (name, flights, mean, late, alerts), bar in rows:
        drawn = Text.assemble(*((mark * n, style) for mark, style, n in zip(marks, STYLES, bar, strict=True)))
        table.add_row(name, flights, Text(mean, "red" if mean.startswith("+") else "green"), late, alerts, drawn)
    Console().print(table)


def _plain_table(rows: list[tuple[tuple[str, ...], list[int]]]) -> None:
    marks = _marks()
    line = "{:<17}  {:>7}  {:>10}  {:>4}  {:>6}  {}"
    print(line.format(*HEADS))
    for cells, bar in rows:
        print(line.format(*cells, "".join(mark * length for mark, length in zip(marks, bar, strict=True))))
    print()

"""`pipebus demo`: real departures through a real chain, and a table of what came out."""

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pipebus.cli import CommandError, log_to_stderr
from pipebus.cli.show import has_rich, progress

if TYPE_CHECKING:
    from pipebus.demo import Carrier, Demo
    from pipebus.demo.records import Records
    from pipebus.inputs.records import Row

SUMMARY = "run real departures through a chain of filters and show how late each carrier was"
EXAMPLE = """\
examples:
  pipebus demo                              the packaged day: 842 departures from New York
  pipebus demo --json | jq .carriers.UA     its figures as one JSON object
  pipebus demo --carrier UA                 one carrier, by a request on the bus
  pipebus demo --log 2>&1 | less            with every line that the Log filter writes
  pipebus demo --input flights.csv.gz       a month or a year, at constant memory
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", metavar="FILE", help="a CSV of flights, gzip or not; - is standard input")
    parser.add_argument("--carrier", metavar="CODE", type=str.upper, help="show one carrier's figures, asked for on the bus")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--log", action="store_true", help="show each line that the Log filter writes, on stderr")


def run(args: argparse.Namespace) -> int:
    from pipebus.demo import Demo
    from pipebus.demo.records import PACKAGED_DAY, Records
    from pipebus.errors import RequestFailed
    from pipebus.inputs.records import BadInput

    # Log writes a line for each message, a warning for each that is refused. Who has not asked for them gets the sums.
    log_to_stderr(logging.INFO if args.log else logging.ERROR)
    demo = Demo()
    try:
        with Records(PACKAGED_DAY if args.input is None else args.input) as records, demo.bus:
            started = time.perf_counter()
            with _watched(records, demo, quiet=args.log) as rows:
                demo.publish(rows)
            elapsed = time.perf_counter() - started
            if letters := demo.bus.dead_letters.list():
                first = letters[0]
                print(
                    f"pipebus demo: {len(letters)} deliveries died, so the figures would be wrong; the first one in "
                    f"{first.subscription}: {first.error}",
                    file=sys.stderr,
                )
                return 1
            carrier = None if args.carrier is None else demo.carrier(args.carrier)
    except BadInput as error:
        raise CommandError(str(error)) from error
    except RequestFailed as error:
        raise CommandError(error.text) from error
    if carrier is not None:
        _show_carrier(args.carrier, carrier, as_json=args.json)
        return 0
    figures = demo.figures() | {"elapsed_s": round(elapsed, 3)}
    if args.json:
        print(json.dumps(figures))
    else:
        _print_table(demo.delays.carriers)
        print(*_totals(demo, figures), sep="\n")
    return 0


def _show_carrier(code: str, carrier: "Carrier", as_json: bool) -> None:
    if as_json:
        figures = {
            "flights": carrier.flights,
            "mean_arrival_delay": carrier.mean,
            "late": carrier.late,
            "alerts": carrier.alerts,
        }
        print(json.dumps({"carrier": code} | figures))
    else:
        _print_table({code: carrier})
        print(_legend())


# --- progress, on stderr and only for eyes -----------------------------------------------------------------------------

EVERY = 500  # records between two looks


@contextmanager
def _watched(records: "Records", demo: "Demo", quiet: bool) -> "Iterator[Iterator[Row]]":
    """The records, with progress shown while they are read if stderr is a terminal."""
    with progress(quiet) as show:
        if show is None:
            yield iter(records)
            return

        def look() -> None:
            counts = demo.counts()
            show(records.progress, f"{counts['accepted']:,} accepted, {counts['rejected']:,} rejected")

        def watch() -> "Iterator[Row]":
            for index, record in enumerate(records):
                if index % EVERY == 0:
                    look()
                yield record
            look()

        yield watch()


# --- the table ---------------------------------------------------------------------------------------------------------

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


def _print_table(carriers: "Mapping[str, Carrier]") -> None:
    """One line for each carrier, the latest first; with colours if a terminal and rich are there."""
    rows = [
        (_cells(code, carrier), _bar(carrier))
        for code, carrier in sorted(carriers.items(), key=lambda item: (-item[1].mean, item[0]))
    ]
    if sys.stdout.isatty() and has_rich():
        _rich_table(rows)
    else:
        _plain_table(rows)


def _cells(code: str, carrier: "Carrier") -> tuple[str, ...]:
    late = carrier.late / carrier.flights
    return (
        f"{code} {NAMES.get(code, '')}",
        f"{carrier.flights:,}",
        f"{carrier.mean:+.1f} min",
        f"{late:.0%}",
        f"{carrier.alerts:,}",
    )


def _bar(carrier: "Carrier") -> list[int]:
    """How many characters of WIDTH each band gets; the ends of the pieces are rounded, so that the sum is exact."""
    from pipebus.demo.flights import Band

    ends, seen = [0], 0
    for band in Band:
        seen += carrier.bands[band]
        ends.append(round(WIDTH * seen / carrier.flights))
    return [end - start for start, end in pairwise(ends)]


def _marks() -> str:
    """A character for each band; readable without colours, and where stdout is ASCII only."""
    marks = "░▒▓█"
    try:
        marks.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return ".-+#"
    return marks


def _legend() -> str:
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


def _totals(demo: "Demo", figures: dict[str, Any]) -> Iterator[str]:
    yield _legend()
    yield ""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in figures["reasons"].items())
    yield (
        f"{figures['published']:,} published, {figures['accepted']:,} accepted, {figures['rejected']:,} rejected"
        + (f" ({reasons})" if reasons else "")
    )
    yield f"{figures['subjects']:,} subjects, {figures['alerts']:,} alerts" + (", the worst:" if demo.alerts.worst else "")
    for flight in demo.alerts.worst:
        hours, minutes = divmod(flight.arr_delay, 60)
        yield (
            f"  {flight.carrier} {flight.flight} {flight.origin}-{flight.dest}, left {flight.departed:%d %b %H:%M}, "
            f"arrived {hours} h {minutes:02} min late"
        )
    rate = figures["published"] / figures["elapsed_s"] if figures["elapsed_s"] else 0.0
    yield f"{figures['elapsed_s']:.2f} s, {rate:,.0f} records a second"

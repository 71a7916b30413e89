"""`pipebus demo`: send real departures through a chain of filters, and print a table of delays."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipebus.cli import CommandError, log_to_stderr
from pipebus.cli.carriers import legend, print_table
from pipebus.cli.progress import progress
from pipebus.errors import RequestFailed
from pipebus.inputs.lines import BadInput

if TYPE_CHECKING:
    from pipebus.demo import Carrier, Demo
    from pipebus.demo.records import Records

SUMMARY = "send real departures through a chain of filters, and show how late each carrier was"
EXAMPLE = """\
examples:
  pipebus demo                              the packaged day: 842 departures from New York
  pipebus demo --json | jq .carriers.UA     the figures of a carrier, from one JSON object
  pipebus demo --carrier UA                 one carrier, asked for by a request on the bus
  pipebus demo --log 2>&1 | less            with all lines of the Log filter
  pipebus demo --input flights.csv.gz       a month or a year, in constant memory
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", metavar="FILE", help="a CSV of flights, gzip or not; - is standard input")
    parser.add_argument(
        "--carrier", metavar="CODE", type=str.upper, help="show the figures of one carrier, asked for by a request on the bus"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--log", action="store_true", help="show all lines of the Log filter, on stderr")


def run(args: argparse.Namespace) -> int:
    from pipebus.demo import Demo
    from pipebus.demo.records import PACKAGED_DAY, Records

    # The Log filter writes a line for each message, and a warning for each rejected one: too much for the default.
    log_to_stderr(logging.INFO if args.log else logging.ERROR)
    demo = Demo()
    try:
        with Records(PACKAGED_DAY if args.input is None else args.input) as records, demo.bus:
            started = time.perf_counter()
            with progress(lambda: _look(records, demo), quiet=args.log):
                demo.publish(iter(records))
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
        print_table(demo.delays.carriers)
        print(*_totals(demo, figures), sep="\n")
    return 0


def _show_carrier(code: str, carrier: Carrier, as_json: bool) -> None:
    if as_json:
        figures = {
            "flights": carrier.flights,
            "mean_arrival_delay": carrier.mean,
            "late": carrier.late,
            "alerts": carrier.alerts,
        }
        print(json.dumps({"carrier": code} | figures))
    else:
        print_table({code: carrier})
        print(legend())


def _look(records: Records, demo: Demo) -> tuple[float | None, str]:
    counts = demo.counts()
    return records.progress, f"{counts['accepted']:,} accepted, {counts['rejected']:,} rejected"


def _totals(demo: Demo, figures: dict[str, Any]) -> Iterator[str]:
    yield legend()
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

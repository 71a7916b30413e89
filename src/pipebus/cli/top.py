"""`pipebus top`: the subscriptions of a running bus, or of a store, as a live table."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from pipebus.cli import CommandError, CommandFailed, log_to_stderr
from pipebus.cli.arguments import TOKEN, add_allow
from pipebus.cli.figures import SORTS, Figures, columns, figures_of, header, ordered
from pipebus.cli.interrupts import Interrupted, Interrupts
from pipebus.cli.live import Live
from pipebus.cli.looks import EVERY, Away, Server, Store
from pipebus.cli.show import as_json, has_rich, table
from pipebus.foreign.packages import install

SUMMARY = "show what waits, what is handled and how fast, as a live table"
EXAMPLE = f"""\
examples:
  pipebus top http://127.0.0.1:9000             a bus that `pipebus run --http 127.0.0.1:9000` runs
  pipebus top sqlite:///bus.db                  what a store knows, whether a program serves it or not
  pipebus top nats://localhost --sort age
  pipebus top pipebus.toml --allow shop         the store of a config file
  pipebus top http://127.0.0.1:9000 --once      one table; also if stdout is no terminal
  pipebus top http://127.0.0.1:9000 --json | jq '.subscriptions[] | select(.dead > 0)'

Keys: q quits; p freezes the display, and lets it go on; d, a, r and n sort by depth, age of the oldest message, rate and name;
arrows, PageUp and PageDown scroll.

If the server of the bus asks for a token, it is read from the environment variable {TOKEN}.

A store knows what is pending and in flight, but not how long handlers take. Rates come from two looks, so one table takes a
second, too. A NATS server counts no rates.

With --json, each look is one JSON object, in the form of the server's `api/figures`; what is not known is null.

Exit code: 0 it was ended by q or by a signal; 1 --once, and there was no answer; 2 the target cannot be used.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", metavar="TARGET",
        help="the URL of a running bus, as in http://127.0.0.1:9000; a transport's URL, as in sqlite:///bus.db; a config file, "
        "or MODULE:BUS",
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="print one table, or with --json one object, and end")
    parser.add_argument("--json", action="store_true", help="print JSON Lines")
    parser.add_argument("--sort", choices=tuple(SORTS), default="depth", help="what comes first (default: depth)")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    server = re.match(r"https?:", args.target, re.IGNORECASE)
    look = Server(args.target) if server else Store(args.target, args.allow)
    live = not (args.once or args.json) and sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if live and not has_rich():
        raise CommandError(f"the live table needs rich: {install('cli')}; or use --once")
    endless = args.json and not args.once
    with Interrupts(lambda: None) as interrupts:
        try:
            if live:
                return Live(look, interrupts, args.sort).run()
            if endless:
                return _lines(look, interrupts)
            interrupts.opening(look)
            interrupts.pause(EVERY)
            found = interrupts.opening(look)
        except Away as error:
            raise CommandFailed(str(error)) from None
        except Interrupted:
            return 0 if live or endless else 128 + (interrupts.number or 0)
    if args.json:
        print(as_json(found))
    else:
        _table(figures_of(found), look.about, args.sort)
    return 0


def _lines(look: Callable[[], dict[str, Any]], interrupts: Interrupts) -> int:
    """Print one object a look until a signal comes."""
    trouble = ""
    while True:
        try:
            print(as_json(interrupts.opening(look)), flush=True)
            trouble = ""
        except Away as error:
            if trouble != str(error):
                trouble = str(error)
                print(f"pipebus top: {trouble}; trying again", file=sys.stderr)
        if not interrupts.pause(EVERY):
            return 0


def _table(figures: Figures, about: str, sort: str) -> None:
    print(*filter(None, header(figures, about)), "", sep="\n")
    shown = columns(figures)
    rows = [(row.name, *(one.cell(row) for one in shown)) for row in ordered(figures, sort)]
    table(("subscription", *(one.head for one in shown)), rows, [one.head for one in shown])

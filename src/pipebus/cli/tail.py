"""`pipebus tail`: messages as they come, as JSON Lines."""

import argparse
import logging
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from pipebus.bus.bus import engine_of
from pipebus.cli import CommandError, log_to_stderr
from pipebus.cli.interrupts import Interrupts
from pipebus.cli.messages import Lines, checked_pattern, kept_told, tailing
from pipebus.cli.show import printable
from pipebus.cli.summary import left_over
from pipebus.cli.targets import add_allow, add_target, check_file, file_of, leave_alone, open_bus, shown, starting

if TYPE_CHECKING:
    from pipebus.transports.sqlite.transport import SqliteTransport

SUMMARY = "print messages as they come, as JSON Lines"
EXAMPLE = """\
examples:
  pipebus tail pipebus.toml 'orders.>' --allow shop | jq .body
  pipebus tail pipebus.toml --count 1          the next one, whatever it is
  pipebus tail sqlite:///bus.db 'orders.>'     what any process publishes there, from now on
  pipebus tail sqlite:///bus.db --all          and before it what is still kept
  pipebus tail nats://localhost 'orders.>'     what any program publishes there

What is printed is what a subscriber would get, behind the publish chain. A bus in memory lives in one process: the bus is
run here, as `pipebus run` does, and what is seen is what its schedules and handlers publish. For the records of a file:
pipebus run … --input FILE --tail PATTERN.

On a NATS server it listens beside everybody, from now on.

Of a SQLite file (a URL, or a bus whose transport it is) the messages are read as they are stored, in their order; nothing is
run, and nothing is taken from a subscription. The answers to requests are seen by `_reply.>` only.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser, url=True)
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default=">", help='subjects, as in "orders.>"; left out: all')
    parser.add_argument("--all", action="store_true", help="of a SQLite file: begin with what is still kept")
    parser.add_argument("--count", metavar="N", type=_whole, help="end after so many")
    add_allow(parser)


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is a whole number of at least 1; found {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    bus = open_bus(args.target, args.allow, url=True)
    store = file_of(bus)
    if store is not None:
        return _follow(store, args)
    if args.all:
        raise CommandError(
            f"--all is for a SQLite file, as in sqlite:///bus.db; of {shown(args.target)} it shows what comes from now on"
        )
    if not engine_of(bus).transport.local:
        leave_alone(bus)
    lines = Lines(lambda: bus.request_stop("nobody reads"))
    with tailing(bus, args.pattern, lines, args.count) as own, starting(), redirect_stdout(sys.stderr):
        report = engine_of(bus).lifecycle.run(5.0, lambda: _ready(args.pattern))
    if lines.error is not None:
        raise lines.error
    for text in left_over(report, engine_of(bus).lifecycle.drains(None), but=own):
        print(printable(text), file=sys.stderr)
    engine_of(bus).lifecycle.leave()
    return 0


def _follow(store: "SqliteTransport", args: argparse.Namespace) -> int:
    from pipebus.transports.sqlite.tail import Follower

    checked_pattern(args.pattern)
    check_file(store)
    printed = 0
    with Interrupts(lambda: None) as interrupts:
        lines = Lines(interrupts.wake)
        follower = Follower(store.options.path, all=args.all)
        _ready(args.pattern)
        for told in kept_told(store, follower, args.pattern, interrupts.pause):
            printed += lines.print(told)
            if printed == args.count or lines.error is not None:
                break
    if lines.error is not None:
        raise lines.error
    return 0


def _ready(pattern: str) -> None:
    if sys.stderr.isatty():
        print(f"waiting for messages on {pattern}; Ctrl-C ends", file=sys.stderr)

"""`pipebus tail`: messages as they come, as JSON Lines."""

import argparse
import logging
import sys
from contextlib import redirect_stdout

from pipebus.cli import log_to_stderr
from pipebus.cli.messages import Lines, tailing
from pipebus.cli.show import printable
from pipebus.cli.summary import left_over
from pipebus.cli.targets import add_allow, add_target, open_bus, starting

SUMMARY = "print messages as they come, as JSON Lines"
EXAMPLE = """\
examples:
  pipebus tail pipebus.toml 'orders.>' --allow shop | jq .body
  pipebus tail pipebus.toml --count 1          the next one, whatever it is

What is printed is what a subscriber would get, behind the publish chain. A bus in memory lives in one process: the bus is
run here, as `pipebus run` does, and what is seen is what its schedules and handlers publish. For the records of a file:
pipebus run … --input FILE --tail PATTERN.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default=">", help='subjects, as in "orders.>"; left out: all')
    parser.add_argument("--count", metavar="N", type=_whole, help="end after so many")
    add_allow(parser)


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is a whole number of at least 1; found {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    bus = open_bus(args.target, args.allow)
    lines = Lines(lambda: bus.request_stop("nobody reads"))
    with tailing(bus, args.pattern, lines, args.count), starting(), redirect_stdout(sys.stderr):
        report = bus.lifecycle.run(5.0, lambda: _ready(args.pattern))
    if lines.error is not None:
        raise lines.error
    for text in left_over(report):
        print(printable(text), file=sys.stderr)
    return 0


def _ready(pattern: str) -> None:
    if sys.stderr.isatty():
        print(f"waiting for messages on {pattern}; Ctrl-C ends", file=sys.stderr)

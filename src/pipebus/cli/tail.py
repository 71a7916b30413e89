"""`pipebus tail`: messages as they come, as JSON Lines."""

import argparse
import logging
import sys

from pipebus.cli import log_to_stderr
from pipebus.cli.messages import tailing
from pipebus.cli.targets import add_allow, add_target, open_bus

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
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it is at least 1")
    return value


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    bus = open_bus(args.target, args.allow)
    with tailing(bus, args.pattern, args.count) as tail:
        if sys.stderr.isatty():
            print(f"waiting for messages on {args.pattern}; Ctrl-C ends", file=sys.stderr)
        bus.run(timeout=5.0)
    if tail.broken:
        raise BrokenPipeError
    return 0

"""`pipebus backup`: a copy of a store as of one moment, while programs use it."""

import argparse
import logging

from pipebus.bus.bus import engine_of
from pipebus.cli import log_to_stderr
from pipebus.cli.arguments import add_allow
from pipebus.cli.show import printable
from pipebus.cli.targets import open_bus

SUMMARY = "copy a store into a file, while programs use it"
EXAMPLE = """\
examples:
  pipebus backup sqlite:///bus.db bus-monday.db
  pipebus backup pipebus.toml "backups/bus-$(date +%F).db"

The copy is what the store kept at one moment: messages, subscriptions, dead letters, what filters remember. It is on the
disk when the command ends, and takes the place of no other file.

To go back to it, stop all programs, remove bus.db, bus.db-wal and bus.db-shm, and give the copy the name bus.db. What was
handled since the copy is handled again, and what a program had in hand then comes again as one attempt later.

Do not copy the file with cp: part of the messages is in the log next to it.

Exit code: 0 done; 1 the copy could not be made; 2 this transport has no file.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", metavar="TARGET", help="a transport's URL, as in sqlite:///bus.db; a config file, or MODULE:BUS"
    )
    parser.add_argument("file", metavar="FILE", help="the copy, which must not exist yet")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    size = engine_of(open_bus(args.target, args.allow, url=True)).transport.backup(args.file)
    print(f"{printable(args.file)}: {size:,} bytes")
    return 0

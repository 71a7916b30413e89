"""`pipebus tail`: print messages as they come, as JSON Lines."""

import argparse
import logging
import sys
from contextlib import redirect_stdout

from pipebus.bus import signals
from pipebus.bus.bus import engine_of
from pipebus.cli import CommandError, log_to_stderr
from pipebus.cli.arguments import add_allow, add_target, checked, whole
from pipebus.cli.interrupts import Interrupts
from pipebus.cli.lines import Lines, stored_json, tailing
from pipebus.cli.show import printable
from pipebus.cli.stores import inspected, leave_alone
from pipebus.cli.summary import left_over
from pipebus.cli.targets import open_bus, shown, starting
from pipebus.message.patterns import Pattern
from pipebus.transports.base import Follower

SUMMARY = "print messages as they come, as JSON Lines"
EXAMPLE = """\
examples:
  pipebus tail pipebus.toml 'orders.>' --allow shop | jq .body
  pipebus tail pipebus.toml --count 1          the next message on any subject
  pipebus tail sqlite:///bus.db 'orders.>'     what any process publishes there, from now on
  pipebus tail sqlite:///bus.db --all          the same, after what the file still keeps
  pipebus tail sqlite:///bus.db --all --no-follow --conversation o-1     what the message o-1 has led to
  pipebus tail nats://localhost 'orders.>'     what any program publishes there

It prints what a subscriber would receive, after the publish chain.

A bus in memory lives in one process. The command runs it, as `pipebus run` does, and prints what its schedules and handlers
publish. To see the records of a file, use `pipebus run … --input FILE --tail PATTERN`.

From a SQLite file (given as a URL, or as the transport of a bus) it reads the messages in the order in which they were
stored. It runs nothing, and takes nothing from any subscription. It shows answers to requests only for a pattern such as
'_reply.>'.

On a NATS server, it listens from now on, and takes nothing from any subscription.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser, url=True)
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default=">", help='subjects, as in "orders.>" (default: all)')
    parser.add_argument("--all", action="store_true", help="SQLite file: begin with what it still keeps")
    parser.add_argument("--no-follow", action="store_true", help="with --all: end when that is printed")
    parser.add_argument("--conversation", metavar="ID", help="only the message with this id and what it has led to")
    parser.add_argument("--count", metavar="N", type=whole, help="end after N messages")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    bus = open_bus(args.target, args.allow, url=True)
    if args.no_follow and not args.all:
        raise CommandError("--no-follow prints nothing without --all, since new messages are what it does not wait for")
    checked(Pattern, args.pattern)
    inspected(bus)
    follower = engine_of(bus).transport.follow(args.all)
    if follower is not None:
        return _follow(follower, args)
    if args.all:
        raise CommandError(
            f"--all is for a SQLite file, as in sqlite:///bus.db; from {shown(args.target)}, tail shows only new messages"
        )
    if not engine_of(bus).transport.local:
        leave_alone(bus)
    lines = Lines(lambda: bus.request_stop("the reader of the output is gone"), args.conversation)
    with tailing(bus, args.pattern, lines, args.count) as own, starting(), redirect_stdout(sys.stderr):
        report = signals.run(engine_of(bus).lifecycle, 5.0, lambda: _ready(args.pattern))
    if lines.error is not None:
        raise lines.error
    for text in left_over(report, engine_of(bus).lifecycle.drains(None), but=own):
        print(printable(text), file=sys.stderr)
    engine_of(bus).lifecycle.leave()
    return 0


def _follow(follower: Follower, args: argparse.Namespace) -> int:
    printed = 0
    with Interrupts(lambda: None) as interrupts:
        lines = Lines(interrupts.ring, args.conversation)
        if not args.no_follow:
            _ready(args.pattern)
        pause = (lambda _: False) if args.no_follow else interrupts.pause
        for message in stored_json(follower, args.pattern, pause):
            printed += lines.print(message)
            if printed == args.count or lines.error is not None:
                break
    if lines.error is not None:
        raise lines.error
    return 0


def _ready(pattern: str) -> None:
    if sys.stderr.isatty():
        print(f"waiting for messages on {pattern}; Ctrl-C ends", file=sys.stderr)

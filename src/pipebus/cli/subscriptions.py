"""`pipebus subscriptions`: the durable subscriptions of a store: list, pause, resume or remove them."""

import argparse
import logging

from pipebus.bus.bus import engine_of
from pipebus.cli import CommandError, log_to_stderr
from pipebus.cli.arguments import add_allow
from pipebus.cli.show import as_json, printable, table
from pipebus.cli.stores import inspected
from pipebus.cli.targets import open_bus, shown
from pipebus.transports.base import Kept

SUMMARY = "list, pause, resume or remove the durable subscriptions of a store"
EXAMPLE = """\
examples:
  pipebus subscriptions list sqlite:///bus.db
  pipebus subscriptions pause sqlite:///bus.db billing       all programs stop handling its messages, which are kept
  pipebus subscriptions resume sqlite:///bus.db billing
  pipebus subscriptions remove sqlite:///bus.db old-name     and the messages that wait for it; its dead letters stay
  pipebus subscriptions list nats://localhost --json | jq .pending

A store keeps the messages of a named subscription even if no program serves it any more: under an old name they wait forever.

What a program has taken before a pause is still handled. Stop the programs that serve a subscription before you remove it;
otherwise they make it again.

Exit code: 0 done; 2 there is no such subscription, or the store cannot be used.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("list", "pause", "resume", "remove"))
    parser.add_argument(
        "target", metavar="TARGET", help="a transport's URL, as in sqlite:///bus.db; a config file, or MODULE:BUS"
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="names of subscriptions")
    parser.add_argument("--json", action="store_true", help="list: print JSON Lines")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    bus = open_bus(args.target, args.allow, url=True)
    transport = engine_of(bus).transport
    if transport.local:
        raise CommandError(f"{shown(args.target)}: a bus in memory keeps no subscriptions; they end with their program")
    inspected(bus)
    found = {one.name: one for one in transport.kept()}
    if not args.names and args.action != "list":
        raise CommandError(f"{args.action} which subscriptions? Give their names; `pipebus subscriptions list` shows them")
    for name in args.names:
        if name not in found:
            there = f"there are {', '.join(found)}" if found else "there is none"
            raise CommandError(f'{shown(args.target)} has no subscription "{printable(name)}"; {there}')
    if args.action == "list":
        _list([found[name] for name in args.names or found], args.json)
        return 0
    for name in args.names:
        count = found[name].pending
        waiting = f"{count:,} waiting message{'' if count == 1 else 's'}"
        if args.action == "remove":
            transport.remove(name)
            print(f"{printable(name)} is removed; {waiting} {'was' if count == 1 else 'were'} discarded")
        else:
            transport.hold(name, args.action == "pause")
            print(f"{printable(name)} is {args.action.removesuffix('e')}ed; {waiting}")
    return 0


def _list(found: list[Kept], as_lines: bool) -> None:
    if as_lines:
        for one in found:
            print(as_json(one._asdict()))
        return
    if not found:
        print("no subscriptions")
        return
    rows = [(one.name, ", ".join(one.patterns), "paused" if one.paused else "", *one[3:]) for one in found]
    table(("subscription", "on", "", "pending", "in flight", "dead"), rows, ("pending", "in flight", "dead"))

"""`pipebus explain`: print the route of a subject or of one message."""

import argparse
from typing import Any

from pipebus.bus.bus import engine_of
from pipebus.bus.explain import explain
from pipebus.cli.arguments import add_allow, add_target, checked, headers_of, json_value
from pipebus.cli.show import WIDE
from pipebus.cli.targets import open_bus
from pipebus.message.message import Message
from pipebus.message.subject import check_subject

SUMMARY = "print the route of a subject: each filter, why it applies, and each mailbox"
EXAMPLE = """\
examples:
  pipebus explain pipebus.toml orders.created --allow shop
  pipebus explain pipebus.toml orders.created --body '{"total": 120}'    the route of this message
  pipebus explain shop.app:bus orders.created                            on a bus in a program

It runs no filter, so it does not know where a message goes whose subject a filter changes: `pipebus trace` does.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument("subject", metavar="SUBJECT", help='a subject, as in "orders.created"')
    parser.add_argument("--body", metavar="JSON", help="the body of a message; conditions are evaluated for it")
    parser.add_argument(
        "--header", metavar="NAME=TEXT", action="append", default=[], help="a header of this message; may be repeated"
    )
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    about: Any = args.subject
    checked(check_subject, about)
    if args.body is not None or args.header:
        about = checked(Message, about, json_value(args.body, "--body"), headers=headers_of(args.header))
    print(explain(engine_of(open_bus(args.target, args.allow)), about, WIDE), end="")
    return 0

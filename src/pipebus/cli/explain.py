"""`pipebus explain`: the road of a subject, or of one message."""

import argparse
import json
from typing import Any

from pipebus.cli import CommandError
from pipebus.cli.targets import add_allow, add_target, open_bus

SUMMARY = "tell the road of a subject: each filter, and why, and each mailbox"
EXAMPLE = """\
examples:
  pipebus explain pipebus.toml orders.created --allow shop
  pipebus explain pipebus.toml orders.created --body '{"total": 120}'    the road of this message
  pipebus explain shop.app:bus orders.created                            of a bus in a program
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument("subject", metavar="SUBJECT", help='a subject, as in "orders.created"')
    parser.add_argument("--body", metavar="JSON", help="the body of a message, whose conditions are then asked")
    parser.add_argument("--header", metavar="NAME=TEXT", action="append", default=[], help="a header of that message")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    from pipebus.message import Message

    about: Any = args.subject
    if args.body is not None or args.header:
        about = Message(args.subject, json_value(args.body, "--body"), headers=headers_of(args.header))  # type: ignore[arg-type]
    print(open_bus(args.target, args.allow).explain(about), end="")
    return 0


def json_value(text: str | None, what: str) -> Any:
    """
    Raises:
        CommandError: it is no JSON.
    """
    if text is None:
        return None
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{what} is JSON, as in '{{\"total\": 120}}' or '\"text\"'; found {text[:60]!r}: {error}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def headers_of(given: list[str]) -> dict[str, str]:
    """
    Raises:
        CommandError: one is not NAME=TEXT.
    """
    for one in given:
        if "=" not in one:
            raise CommandError(f"--header is NAME=TEXT, as in tenant=acme; found {one!r}")
    return dict(one.split("=", 1) for one in given)

"""`pipebus explain`: the road of a subject, or of one message."""

import argparse
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
    about: Any = args.subject
    checked_subject(about)
    if args.body is not None or args.header:
        about = checked_message(about, json_value(args.body, "--body"), headers=headers_of(args.header))
    print(open_bus(args.target, args.allow).explain(about), end="")
    return 0


def json_value(text: str | None, what: str) -> Any:
    """
    Raises:
        CommandError: it is no JSON.
    """
    from pipebus.inputs.records import strict_json

    if text is None:
        return None
    try:
        return strict_json(text)
    except (ValueError, RecursionError) as error:
        hint = "; a text as it is: --text" if what == "the body" else ""
        raise CommandError(
            f"{what} is JSON, as in '{{\"total\": 120}}' or '\"text\"'; found {text[:60]!r}: {error}{hint}"
        ) from None


def checked_subject(subject: str) -> None:
    """
    Raises:
        CommandError: it is none.
    """
    from pipebus.errors import SubjectError
    from pipebus.message.subject import check_subject

    try:
        check_subject(subject)
    except SubjectError as error:
        raise CommandError(str(error)) from None


def checked_message(subject: str, body: Any, **options: Any) -> Any:
    """
    Raises:
        CommandError: there can be no such message.
    """
    from pipebus.errors import PipebusError
    from pipebus.message.message import Message

    try:
        return Message(subject, body, **options)
    except PipebusError as error:
        raise CommandError(str(error)) from None


def headers_of(given: list[str]) -> dict[str, str]:
    """
    Raises:
        CommandError: one is not NAME=TEXT.
    """
    for one in given:
        if "=" not in one:
            raise CommandError(f"--header is NAME=TEXT, as in tenant=acme; found {one!r}")
    return dict(one.split("=", 1) for one in given)

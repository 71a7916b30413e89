"""Arguments that several commands share, and their checks."""

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any

from pipebus.cli import CommandError
from pipebus.errors import PipebusError
from pipebus.inputs.records import strict_json
from pipebus.values.quantities import seconds

HELP = "a config file (TOML), or MODULE:BUS: a bus in a Python module, or a function that makes one"
TOKEN = "PIPEBUS_HTTP_TOKEN"
"""The environment variable with the token of the page."""
URL_HELP = "; or a transport's URL, as in sqlite:///bus.db"


def add_target(parser: argparse.ArgumentParser, name: str = "target", *, url: bool = False) -> None:
    parser.add_argument(name, metavar=name.upper(), help=HELP + (URL_HELP if url else ""))


def add_allow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow", metavar="PACKAGE[,…]", type=_packages, action="extend", default=[],
        help="packages whose functions and classes the file may name",
    )  # fmt: skip


def _packages(text: str) -> list[str]:
    names = [one.strip() for one in text.split(",")]
    for one in names:
        if not all(part.isidentifier() for part in one.split(".")):
            raise argparse.ArgumentTypeError(f"it names packages, as in shop or shop,acme.filters; found {text!r}")
    return names


def add_timeout(parser: argparse.ArgumentParser, default: float, help: str) -> None:
    parser.add_argument(
        "--timeout", metavar="TIME", type=_seconds, default=default,
        help=f"{help}: seconds, or a time as in 500ms (default: {default:g})",
    )  # fmt: skip


def _seconds(text: str) -> float:
    try:
        return seconds(float(text) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", text) else text, "")
    except PipebusError:
        raise argparse.ArgumentTypeError(f"it is seconds, or a time as in 500ms or 2m; found {text!r}") from None


def whole(text: str) -> int:
    """The type of an argument that is a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"it is a whole number of at least 1; found {text!r}")
    return int(text)


def json_value(text: str | None, what: str) -> Any:
    if text is None:
        return None
    try:
        return strict_json(text)
    except (ValueError, RecursionError) as error:
        hint = "; for plain text use --text" if what == "the body" else ""
        raise CommandError(
            f"{what} is JSON, as in '{{\"total\": 120}}' or '\"text\"'; found {text[:60]!r}: {error}{hint}"
        ) from None


def add_body(parser: argparse.ArgumentParser, name: str) -> None:
    """The body of a message, as the argument `name`, with its headers and key."""
    options: dict[str, Any] = {} if name.startswith("-") else {"nargs": "?"}
    parser.add_argument(name, metavar="JSON", help="the body; - reads it from standard input (default: no body)", **options)
    parser.add_argument("--text", metavar="TEXT", help="use this text as the body")
    parser.add_argument("--header", metavar="NAME=TEXT", action="append", default=[], help="a header; may be repeated")
    parser.add_argument("--key", metavar="TEXT", help="messages with the same key are handled in order")


def body_of(args: argparse.Namespace) -> Any:
    """Return the body that `add_body` has read."""
    if args.text is not None and args.body is not None:
        raise CommandError("a body is JSON or --text, not both")
    return args.text if args.text is not None else json_value(_stdin() if args.body == "-" else args.body, "the body")


def _stdin() -> str:
    if sys.stdin is None:
        raise CommandError("standard input is closed; give the body as JSON, or --text")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"standard input is not JSON in UTF-8 ({error})") from None


def headers_of(given: list[str]) -> dict[str, str]:
    for one in given:
        if "=" not in one:
            raise CommandError(f"--header is NAME=TEXT, as in tenant=acme; found {one!r}")
    return dict(one.split("=", 1) for one in given)


def checked(make: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return what a call returns, such as a message; what is wrong with its arguments is a CommandError."""
    try:
        return make(*args, **options)
    except PipebusError as error:
        raise CommandError(str(error)) from None

"""`pipebus publish`: one message through a bus."""

import argparse
import logging
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from pipebus.bus.bus import engine_of
from pipebus.cli import CommandError, log_to_stderr
from pipebus.cli.explain import checked_message, checked_subject, headers_of, json_value
from pipebus.cli.interrupts import Interrupts
from pipebus.cli.messages import body_told, outcome_told
from pipebus.cli.show import as_json
from pipebus.cli.summary import left_over
from pipebus.cli.targets import (
    add_allow,
    add_target,
    add_timeout,
    check_file,
    file_of,
    keeps_letters,
    leave_alone,
    open_bus,
    starting,
)

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus
    from pipebus.transports.sqlite.transport import SqliteTransport

SUMMARY = "publish one message, and say what became of it"
EXAMPLE = """\
examples:
  pipebus publish pipebus.toml orders.created '{"id": 1, "total": 120}' --allow shop
  echo '{"id": 1}' | pipebus publish pipebus.toml orders.created - --allow shop
  pipebus publish pipebus.toml orders.created --text tea --header tenant=acme --request
  pipebus publish sqlite:///bus.db orders.created '{"id": 1}'                into the file, for whoever serves it

A bus in memory lives in this process: its handlers run here, before the command ends. In a SQLite file (a URL, or a bus whose
transport it is) the message is kept for its subscriptions there, and nothing is handled here; --request waits for the answer
of a process that serves the file.

Exit code: 0 accepted, dropped or unrouted, 1 rejected, failed, dead or not handled in time.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser, url=True)
    parser.add_argument("subject", metavar="SUBJECT")
    parser.add_argument("body", metavar="JSON", nargs="?", help="the body; - reads it from standard input; left out: none")
    parser.add_argument("--text", metavar="TEXT", help="a body that is this text")
    parser.add_argument("--header", metavar="NAME=TEXT", action="append", default=[])
    parser.add_argument("--key", metavar="TEXT", help="keeps the order among messages of equal key")
    parser.add_argument("--id", metavar="TEXT", help="an id of your own, for a publish that may be repeated")
    parser.add_argument("--request", action="store_true", help="wait for the reply, and print it")
    add_timeout(parser, 5.0, "for the reply, and for draining")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    from pipebus.errors import Rejected, reason_of

    log_to_stderr(logging.ERROR)
    if args.text is not None and args.body is not None:
        raise CommandError("a body is JSON or --text, not both")
    text = _stdin() if args.body == "-" else args.body
    body = args.text if args.text is not None else json_value(text, "the body")
    options = {"headers": headers_of(args.header), "key": args.key, "id": args.id}
    options = {key: value for key, value in options.items() if value not in (None, {})}
    checked_subject(args.subject)
    checked_message(args.subject, body, **options)
    bus = open_bus(args.target, args.allow, url=True)
    store = file_of(bus)
    if store is not None:
        check_file(store, new=True)
    if keeps_letters(bus):
        _only_publish(bus)
    told: dict[str, Any]
    with starting():
        bus.start()
    with Interrupts(engine_of(bus).lifecycle.hurry) as interrupts, redirect_stdout(sys.stderr):
        try:
            if args.request:
                reply = bus.request(args.subject, body, timeout=args.timeout, **options)
                told = {"outcome": "replied"} | body_told(reply)
            else:
                outcome = bus.publish(args.subject, body, **options)
                told = outcome_told(outcome) | (_kept(store, outcome) if store is not None and outcome else {})
        except Rejected as error:
            told = {"outcome": "rejected", "by": error.by, "reason": "; ".join(error.errors)}
        except SystemExit as error:
            engine_of(bus).interrupted(error, "a publish filter", f"a message on {args.subject}", lost=True)
            told = {"outcome": "failed", "reason": reason_of(error)}
        except Exception as error:
            told = {"outcome": "failed", "reason": reason_of(error)}
        left = left_over(engine_of(bus).lifecycle.stop(args.timeout, None), engine_of(bus).lifecycle.drains(None))
    letters = [] if keeps_letters(bus) else bus.dead_letters.list()  # there are others' letters, too
    if letters:
        told["dead"] = [{"subscription": letter.subscription, "by": letter.by, "error": letter.error} for letter in letters]
    if left:
        told["left"] = left
    print(as_json(told))
    engine_of(bus).lifecycle.leave()
    if interrupts.number is not None:
        return 128 + interrupts.number
    return 1 if told["outcome"] in ("rejected", "failed") or letters or left else 0


def _only_publish(bus: "Bus") -> None:
    """What the bus subscribes to is known to the transport, and left to whoever runs it; its schedules are, too."""
    from pipebus.publishing.arrival import patterns_of

    found = [(one.name, patterns_of(one), one.plan.deliver) for one in bus.subscriptions if one.durable]
    leave_alone(bus)
    engine_of(bus).transport.announce(found)


def _kept(store: "SqliteTransport", receipt: Any) -> dict[str, Any]:
    """Of a message in a file: for whom it is kept, or how long."""
    if receipt.duplicate:
        return {"duplicate": True, "kept": "under this id before, and not again"}
    if receipt.mailboxes:
        return {"kept": f"for {receipt.mailboxes} subscription{'' if receipt.mailboxes == 1 else 's'}"}
    kept = max(store.options.retention, store.options.window)
    return {"kept": f"for {kept:g} s: nobody subscribes to it"}


def _stdin() -> str:
    if sys.stdin is None:
        raise CommandError("standard input is closed; give the body as JSON, or --text")
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandError(f"standard input is no JSON in UTF-8 ({error})") from None

"""`pipebus publish`: publish one message."""

import argparse
import logging
import sys
from contextlib import redirect_stdout
from typing import Any

from pipebus import events
from pipebus.bus.bus import engine_of
from pipebus.cli import log_to_stderr
from pipebus.cli.arguments import (
    add_allow,
    add_body,
    add_target,
    add_timeout,
    body_of,
    checked,
    headers_of,
)
from pipebus.cli.interrupts import Interrupts
from pipebus.cli.messages import Unrouted, body_json
from pipebus.cli.show import as_json
from pipebus.cli.stores import inspected, keeps_letters, only_publish
from pipebus.cli.summary import KINDS, add_fail_on, left_over
from pipebus.cli.targets import is_url, open_bus, starting
from pipebus.message.message import Message
from pipebus.message.subject import check_subject
from pipebus.outcomes.dead_letters import PUBLISH
from pipebus.outcomes.outcome_json import error_json, outcome_json

SUMMARY = "publish one message, and print what became of it"
EXAMPLE = """\
examples:
  pipebus publish pipebus.toml orders.created '{"id": 1, "total": 120}' --allow shop
  echo '{"id": 1}' | pipebus publish pipebus.toml orders.created - --allow shop
  pipebus publish pipebus.toml orders.created --text tea --header tenant=acme --request
  pipebus publish sqlite:///bus.db orders.created '{"id": 1}'                for the processes that use the file

A bus in memory lives in this process: its handlers run here, before the command ends. A SQLite file (given as a URL, or as
the transport of a bus) keeps the message for its subscriptions; nothing is handled here. --request then waits for the reply
of another process.

Exit code: 0 accepted, dropped or unrouted; 1 rejected, failed, dead or not handled in time, or what --fail-on names.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser, url=True)
    parser.add_argument("subject", metavar="SUBJECT", help='a subject, as in "orders.created"')
    add_body(parser, "body")
    parser.add_argument("--id", metavar="TEXT", help="an id of your own, by which a repeated publish is recognised")
    parser.add_argument("--request", action="store_true", help="wait for the reply, and print it")
    add_fail_on(parser, "also exit with 1 if it is one of these")
    add_timeout(parser, 5.0, "how long to wait for the reply, and for the message to be handled")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    log_to_stderr(logging.ERROR)
    body = body_of(args)
    options = {"headers": headers_of(args.header), "key": args.key, "id": args.id}
    options = {key: value for key, value in options.items() if value not in (None, {})}
    checked(check_subject, args.subject)
    checked(Message, args.subject, body, **options)
    bus = open_bus(args.target, args.allow, url=True)
    transport = engine_of(bus).transport
    if inspected(bus, new=True) and is_url(args.target):  # a typing mistake makes a file, too
        print(f"pipebus publish: {transport.path} is a new file", file=sys.stderr)
    if keeps_letters(bus):
        only_publish(bus)
    unrouted = Unrouted(bus)
    dropped: list[dict[str, Any]] = []

    def see(event: Any) -> None:
        if isinstance(event, events.Discarded) and event.place != PUBLISH and event.exception is None:  # not a failed request
            dropped.append({"subscription": event.place, "by": event.by, "reason": event.reason})

    bus.observe(see)
    outcome: dict[str, Any]
    with starting():
        bus.start()
    with Interrupts(engine_of(bus).lifecycle.hurry) as interrupts, redirect_stdout(sys.stderr):
        try:
            if args.request:
                reply = bus.request(args.subject, body, timeout=args.timeout, **options)
                outcome = {"outcome": "replied"} | body_json(reply)
            else:
                receipt = bus.publish(args.subject, body, **options)
                subject = unrouted.take()
                outcome = outcome_json(receipt, None if subject == args.subject else subject)
                outcome |= _kept(transport.kept_for, receipt) if transport.kept_for is not None and receipt else {}
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit):
                engine_of(bus).interrupted(error, "a publish filter", f"a message on {args.subject}", lost=True)
            outcome = error_json(error)
        left = left_over(engine_of(bus).lifecycle.stop(args.timeout, None), engine_of(bus).lifecycle.drains(None))
    letters = [] if keeps_letters(bus) else bus.dead_letters.list()  # those also include letters of other messages
    if letters:
        outcome["dead"] = [{"subscription": letter.subscription, "by": letter.by, "error": letter.error} for letter in letters]
    if dropped:
        outcome["dropped"] = dropped
    if left:
        outcome["left"] = left
    print(as_json(outcome))
    engine_of(bus).lifecycle.leave()
    if interrupts.number is not None:
        return 128 + interrupts.number
    happened = {outcome["outcome"], *outcome.keys() & KINDS}
    return 1 if happened & {"rejected", "failed", "dead", "left", *args.fail_on} else 0


def _kept(seconds: float, receipt: Any) -> dict[str, Any]:
    """Return the subscriptions, or the time, that a store keeps a message for."""
    if receipt.duplicate:
        return {"kept": "under this id already, so it was not stored again"}
    if receipt.mailboxes:
        return {"kept": f"for {receipt.mailboxes} subscription{'' if receipt.mailboxes == 1 else 's'}"}
    return {"kept": f"for {seconds:g} s: nobody subscribes to it"}

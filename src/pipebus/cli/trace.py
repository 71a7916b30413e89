"""`pipebus trace`: a dry run of one message: what each filter makes of it, and the mailboxes that would get it."""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.explain import place_text
from pipebus.bus.watched import Note, watched, way
from pipebus.cli import log_to_stderr
from pipebus.cli.arguments import add_allow, add_body, add_target, body_of, checked, headers_of
from pipebus.cli.messages import Unrouted, body_json
from pipebus.cli.show import as_json, printable, styled, wrapped
from pipebus.cli.targets import open_bus, starting
from pipebus.delivery.subscription import Subscription
from pipebus.mailbox.asked import AskedMailbox
from pipebus.message.message import Message
from pipebus.outcomes.outcome_json import error_json, outcome_json

SUMMARY = "show what each filter makes of a message, and which mailboxes would get it: a dry run"
EXAMPLE = """\
examples:
  pipebus trace pipebus.toml orders.created --body '{"total": 120}' --allow shop
  pipebus trace pipebus.toml orders.created --body '{"total": 120}' --header tenant=acme --json
  pipebus trace shop.app:bus orders.created --body - < order.json

The filters of the publish chain really run, in virtual time. No handler runs, and nothing is stored or sent: the transport of
the bus is never opened.

Exit code: 0 accepted, dropped or unrouted; 1 rejected, or a filter failed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_target(parser)
    parser.add_argument("subject", metavar="SUBJECT", help='a subject, as in "orders.created"')
    add_body(parser, "--body")
    parser.add_argument("--json", action="store_true", help="print one JSON object after each filter, and one for the outcome")
    add_allow(parser)


def run(args: argparse.Namespace) -> int:
    from pipebus.testing.harness.harness import Harness

    log_to_stderr(logging.CRITICAL)
    logging.getLogger("pipebus").addHandler(logging.NullHandler())
    message = checked(Message, args.subject, body_of(args), headers=headers_of(args.header), key=args.key)
    with redirect_stdout(sys.stderr), Harness(fail_fast=False, told=False) as harness:
        trace = Trace(open_bus(args.target, args.allow), harness)
        with starting():
            outcome = trace.publish(message)
    for line in lines(message, trace, outcome) if not args.json else map(as_json, trace.as_json(message, outcome)):
        print(line)
    return 1 if outcome["outcome"] in ("rejected", "failed") else 0


class Trace:
    """One message through the publish chain of a bus inside a harness, where nothing is real but its filters."""

    def __init__(self, bus: Bus, harness: Any) -> None:
        self.bus = bus
        self.harness = harness
        self.notes: list[Note] = []
        self.reached: list[Subscription] = []  # those that got it
        engine = engine_of(bus)
        engine.router.nodes = watched(engine.registry.publish_nodes, self.notes)

    def publish(self, message: Message[Any]) -> dict[str, Any]:
        """Return the outcome, in the words of `pipebus publish`."""
        unrouted = Unrouted(self.bus)
        subscriptions = [one for one in self.bus.subscriptions if not isinstance(one, AskedMailbox)]
        for one in subscriptions:
            one.pause()  # so that no handler runs
        self.harness.start(self.bus)
        before = {one.name: one.stats()["pending"] for one in subscriptions}
        try:
            outcome = outcome_json(self.bus.send(message), unrouted.take())
        except (Exception, SystemExit) as error:
            by = next((one.by for one in reversed(self.harness.refused) if one.error is error), None)
            outcome = {"outcome": "", "by": by} | error_json(error)
        self.reached = [one for one in subscriptions if one.stats()["pending"] > before[one.name]]
        return outcome

    @property
    def passed(self) -> list[Note]:
        """The filters that passed a message on."""
        return [note for note in self.notes if note.after is not None]

    def as_json(self, message: Message[Any], outcome: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for note in (None, *self.passed):
            after = {} if note is None else {"after": note.step.name, "place": place_text(note.step.place)}
            now: Any = message if note is None else note.after
            shown = {"subject": str(now.subject), "headers": dict(now.headers)} | _envelope(now, message)
            yield after | shown | body_json(now)
        yield outcome | {"mailboxes": [self.way(one) for one in self.reached]}

    def way(self, one: Subscription) -> dict[str, Any]:
        """What would follow for one subscription."""
        return way(one, engine_of(self.bus).delivery_nodes)


def lines(message: Message[Any], trace: Trace, outcome: dict[str, Any]) -> Iterator[str]:
    yield "published"
    yield from _message(message, message)
    before: Any = message
    for note in trace.passed:
        yield f"\n{styled(printable(note.step.name), 'bold')}  {place_text(note.step.place)}"
        if note.after == before:
            yield "  unchanged"
        else:
            yield from _message(note.after, message)
        before = note.after
    by = f" by {printable(outcome['by'])}" if outcome.get("by") else ""
    word = outcome["outcome"]
    if word == "accepted":
        count = len(trace.reached)
        yield f"\n{styled('accepted', 'green')}: {count} mailbox{'' if count == 1 else 'es'}"
        for one in map(trace.way, trace.reached):
            then = " -> ".join([*one["filters"], one["handler"] or "read by the program"])
            yield from wrapped(printable(f"  {one['subscription']} on {', '.join(one['on'])}: {then}"), "    ")
    elif word == "unrouted":
        yield f"\n{styled('unrouted', 'yellow')}: nobody listens to {printable(before.subject)}"
    else:
        yield from ("", *wrapped(f"{styled(word, 'red')}{by}: {printable(outcome['reason'])}", "  "))


def _envelope(message: Message[Any], published: Message[Any]) -> dict[str, Any]:
    """Return the key and time to live, if there are, and the id, if it is not the one that was published."""
    new = None if message.id == published.id else message.id
    return {name: value for name, value in (("key", message.key), ("id", new), ("ttl", message.ttl)) if value is not None}


def _message(message: Any, published: Message[Any]) -> Iterator[str]:
    body = body_json(message)
    text = body.get("body_error") or as_json(body["body"])
    yield from wrapped(f"  {printable(str(message.subject))}  {printable(text)}", "    ")
    if message.headers:
        yield from wrapped(f"  headers {printable(as_json(dict(message.headers)))}", "    ")
    if envelope := _envelope(message, published):
        yield from wrapped(f"  envelope {printable(as_json(envelope))}", "    ")

"""What the tables of a file may hold: their keys, the kinds of the values, the defaults, and a sentence about each."""

from __future__ import annotations

from typing import Any, Final

from pipebus.config.kinds.base import Kind
from pipebus.config.kinds.containers import Anything, ListOf, OneOf, TableOf
from pipebus.config.kinds.matchers import TextExpectation
from pipebus.config.kinds.messages import Headers, Key, Literal, Match, Patterns
from pipebus.config.kinds.plain import DURATION, INTERVAL, SIZE, Choice, Flag, Text, Whole
from pipebus.config.settings import Setting
from pipebus.values import defaults

VERSION: Final = 1
HANDLER: Final = 'a name that the program hands in, or "module:function"'


def _required(kind: Kind, doc: str) -> Setting:
    return Setting(kind, True, None, doc)


def _optional(kind: Kind, doc: str, default: Any = None) -> Setting:
    return Setting(kind, False, default, doc)


TEST: Final = Match()
ON_ERROR: Final = {
    "publish": Choice(("reject", "dead_letter", "drop")),
    "delivery": Choice(("dead_letter", "drop"), where=' at "delivery"'),
}
BUS: Final = {
    "transport": _optional(Text(), 'What carries messages: a URL, as in "memory:".', "memory:"),
    "name": _optional(Text(), "For thread names and logs.", "pipebus"),
    "pool": _optional(Whole(1), "Worker threads for handlers."),
    "dead_letters": _optional(Whole(1), "Most dead letters kept in memory.", defaults.DEAD_LETTERS),
    "max_message_bytes": _optional(SIZE, "Largest encoded message."),
    "max_hops": _optional(Whole(1), "How many handlers may pass a conversation on, one after the other.", defaults.MAX_HOPS),
    "require": _optional(TableOf(Anything()), "Capabilities that the transport must promise."),
    "drain": _optional(Flag(), "Whether a stop handles all waiting messages first. Left out: in memory only."),
    "strict": _optional(Flag(), "Whether a publish to which nobody listens is an error.", False),
    "debug": _optional(Flag(), "Also look for mistakes that are too costly to look for always.", False),
}
SUBSCRIPTION: Final = {
    "name": _required(Text(), "Its stable name, used in figures, dead letters and tests."),
    "subject": _required(OneOf((Patterns(), ListOf(Patterns(), least=1))), 'A pattern, as in "orders.>", or a list.'),
    "handler": _optional(Text(), f"What handles messages: {HANDLER}. Left out: the program reads the messages itself."),
    "workers": _optional(Whole(1), "How many messages may be handled at once.", defaults.WORKERS),
    "run": _optional(Choice(("pool", "thread", "loop")), "Where the handler runs."),
    "attempts": _optional(Whole(1), "How often a message is delivered before it becomes a dead letter.", defaults.ATTEMPTS),
    "deliver": _optional(Choice(("new", "all", "last")), "Where to begin, on transports that replay.", defaults.DELIVER),
    "to": _optional(Literal(), "Subject on which the value that the handler returns is published."),
}
MAILBOX: Final = {
    "size": _optional(Whole(1), "Most messages queued and in flight.", defaults.MAILBOX_SIZE),
    "overflow": _optional(Choice(defaults.OVERFLOWS), "What happens when the mailbox is full.", defaults.OVERFLOW),
    "timeout": _optional(DURATION, 'How long "block" waits.', defaults.OVERFLOW_TIMEOUT),
}
EVERY: Final = {
    "interval": _required(INTERVAL, 'Time between two messages, as in "60s".'),
    "subject": _required(Literal(), "The subject of the messages."),
    "body": _optional(Anything(), "Their body: any data."),
    "headers": _optional(Headers(), "Their headers."),
    "key": _optional(Key(), "Keeps the order among messages of equal key."),
    "ttl": _optional(INTERVAL, "Age after which a message is dropped."),
    "delay": _optional(DURATION, "Time before a message may be handled.", 0.0),
    "reply_to": _optional(Literal(), "Subject for an answer."),
    "correlation_id": _optional(Text(), "Marks messages that belong together."),
    "strict": _optional(Flag(), "Whether it is an error if nobody listens. Left out: as the bus says."),
}

# --- [[tests]] -----------------------------------------------------------------------------------------------------------

_OUTCOME: Final = Choice(("accepted", "dropped", "rejected", "unrouted", "failed"))
_RAISES: Final = _optional(Text(), 'An error that it raises: its text, or with a class, as in "ConnectionError: down".')
_COUNTS: Final = OneOf((Whole(0), TableOf(Whole(0))))

PUBLISHING: Final = {
    "subject": _required(Literal(), "The subject of the message."),
    "json": _optional(Anything(), "The body: any data."),
    "headers": _optional(Headers(), "Texts by name."),
    "key": _optional(Key(), "Keeps the order among messages of equal key."),
    "id": _optional(Text(), "An id of your own."),
    "ttl": _optional(INTERVAL, "Age after which it is dropped."),
    "after": _optional(DURATION, "Time that passes between the message before and this one.", 0.0),
}
HANDLING: Final = {
    "returns": _optional(Anything(), "What it returns."),
    "raises": _RAISES,
    "times": _optional(Whole(1), "How often it raises before it succeeds. Left out: always."),
}
FILTERING: Final = {
    "drops": _optional(Text(), "It drops each message, with this reason."),
    "rejects": _optional(Text(), "It rejects each message, with this reason."),
    "raises": _RAISES,
    "times": _optional(Whole(1), "How often it does so before it lets messages pass. Left out: always."),
}
EXPECTING: Final = {
    "outcome": _optional(OneOf((_OUTCOME, ListOf(_OUTCOME))), "What becomes of each published message."),
    "by": _optional(Text(), "Name of the filter that drops or rejects it."),
    "reason": _optional(TextExpectation(), "Why it is dropped or rejected, or fails."),
    "deliveries": _optional(_COUNTS, "Number of handled messages, in all or by subscription."),
    "dead": _optional(_COUNTS, "Number of dead letters, in all or by subscription."),
    "error": _optional(TextExpectation(), "The error of a dead letter."),
}
RECEIVED: Final = ("subject", "body", "headers", "key", "id")
"""The fields of a handled message about which a test may expect something."""

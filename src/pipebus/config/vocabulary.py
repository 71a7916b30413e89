"""What the tables of a file may hold: the words, and the kinds of their values."""

from __future__ import annotations

import re
from typing import Any, Final

from pipebus.config.catalogue import Setting
from pipebus.config.kinds import (
    DURATION,
    INTERVAL,
    SIZE,
    Anything,
    Choice,
    Flag,
    ListOf,
    Loading,
    OneOf,
    TableOf,
    Text,
    Whole,
)
from pipebus.config.names import Function, Imported
from pipebus.config.problems import Bad, Told, Unexportable, shown
from pipebus.errors import HeaderError, MessageError, SubjectError
from pipebus.message.fields import check_fields
from pipebus.message.headers import check_headers
from pipebus.message.subject import check_pattern, check_subject

_LIKE_AN_EXPRESSION: Final = re.compile(r"[=!<>]=|[<>]\s*[0-9`'-]|&&|\|\||[`'()\[\]]")

VERSION: Final = 1
HANDLER: Final = 'a name that the program hands in, or "module:function"'


class Patterns(Text):
    """A pattern of subjects."""

    def read(self, value: Any, loading: Loading) -> str:
        text = super().read(value, loading)
        try:
            check_pattern(text)
        except SubjectError as error:
            raise Bad(str(error)) from None
        return text


class Literal(Text):
    """A subject that can be published to."""

    def read(self, value: Any, loading: Loading) -> str:
        text = super().read(value, loading)
        try:
            check_subject(text)
        except SubjectError as error:
            raise Bad(str(error)) from None
        return text


class Key(Text):
    """A message's key."""

    def read(self, value: Any, loading: Loading) -> str:
        text = super().read(value, loading)
        try:
            check_fields(text, None, None, None)
        except MessageError as error:
            raise Bad(str(error)) from None
        return text


class Headers(TableOf):
    """Texts by name."""

    def __init__(self) -> None:
        super().__init__(Text())

    def read(self, value: Any, loading: Loading) -> Any:
        found = super().read(value, loading)
        problems: list[tuple[str | int, Any, Bad]] = []
        for name, text in found.items():
            try:
                check_headers({name: text})
            except HeaderError as error:
                problems.append((name, value[name], Bad(str(error))))
        if problems:
            raise Bad.inside(problems)
        return found


class HandlerName(Imported):
    """A function that handles messages."""

    def problem(self, found: Any) -> str | None:
        return (
            "it is a class; give a function, or an object that can be called"
            if isinstance(found, type)
            else (super().problem(found))
        )


class Match:
    """What `match`, `when` and `branch` take: a pattern, or a function of the message."""

    takes = (str, dict, Told)

    def read(self, value: Any, loading: Loading) -> Any:
        if isinstance(value, str):
            if _LIKE_AN_EXPRESSION.search(value):
                raise Bad(f"it is no pattern of subjects; an expression is written {{ expr = {shown(value)} }}")
            try:
                return Patterns().read(value, loading)
            except Bad as bad:
                raise Bad(f"{bad.text}; an expression is written {{ expr = … }}" if " " in value else bad.text) from None
        try:
            return Function(text=False, condition=True).read(value, loading)
        except Bad as bad:
            form = Function(text=False, condition=True).form
            raise Bad(
                f'it has to be a pattern, as in "orders.>", {form}' if bad.text == f"it has to be {form}" else bad.text
            ) from None

    def write(self, value: Any) -> Any:
        if isinstance(value, str) and _LIKE_AN_EXPRESSION.search(value):
            raise Unexportable(f"{shown(value)} would be taken for an expression")
        return value if isinstance(value, str) else Function(text=False, condition=True).write(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, *Function(text=False, condition=True).schema()["anyOf"]]}


TEST: Final = Match()
ON_ERROR: Final = {
    "publish": Choice(("reject", "dead_letter", "drop")),
    "delivery": Choice(("dead_letter", "drop"), where=' at "delivery"'),
}
BUS: Final[dict[str, Setting]] = {
    "transport": Setting(Text(), False, "memory:", 'What carries messages: a URL, as in "memory:".'),
    "name": Setting(Text(), False, "pipebus", "For thread names and logs."),
    "pool": Setting(Whole(1), False, None, "Worker threads for handlers."),
    "dead_letters": Setting(Whole(1), False, 10_000, "Most dead letters kept in memory."),
    "max_message_bytes": Setting(SIZE, False, None, "Largest encoded message."),
    "require": Setting(TableOf(Anything()), False, None, "Capabilities that the transport must promise."),
    "drain": Setting(Flag(), False, None, "Whether a stop works off what waits; left out: in memory only."),
    "debug": Setting(Flag(), False, False, "Also see mistakes that are too costly to look for always."),
}
SUBSCRIPTION: Final[dict[str, Setting]] = {
    "name": Setting(Text(), True, None, "Its stable name: of figures, dead letters and tests."),
    "subject": Setting(OneOf((Patterns(), ListOf(Patterns(), least=1))), True, None, 'A pattern, as in "orders.>", or a list.'),
    "handler": Setting(Text(), False, None, f"What handles messages: {HANDLER}. Left out: a program reads them itself."),
    "workers": Setting(Whole(1), False, 1, "How many messages may be handled at once."),
    "run": Setting(Choice(("pool", "thread", "loop")), False, None, "Where the handler runs."),
    "attempts": Setting(Whole(1), False, 3, "How often a returned delivery is taken before it is dead."),
    "deliver": Setting(Choice(("new", "all", "last")), False, "new", "Where to begin, on transports that replay."),
    "to": Setting(Literal(), False, None, "Subject under which a handler's value is published."),
}  # fmt: skip
MAILBOX: Final[dict[str, Setting]] = {
    "size": Setting(Whole(1), False, 10_000, "Most messages queued and in flight."),
    "overflow": Setting(
        Choice(("block", "reject", "drop_newest", "drop_oldest")), False, "block", "What a full mailbox does."
    ),
    "timeout": Setting(DURATION, False, 5.0, "How long \"block\" waits."),
}  # fmt: skip
EVERY: Final[dict[str, Setting]] = {
    "interval": Setting(INTERVAL, True, None, 'Time between two messages, as in "60s".'),
    "subject": Setting(Literal(), True, None, "Where they are published."),
    "body": Setting(Anything(), False, None, "Their body: any data."),
    "headers": Setting(Headers(), False, None, "Their headers."),
    "key": Setting(Key(), False, None, "Keeps the order among messages of equal key."),
    "ttl": Setting(INTERVAL, False, None, "Age after which a message is dropped."),
    "delay": Setting(DURATION, False, 0.0, "Time before it may be taken."),
    "reply_to": Setting(Literal(), False, None, "Subject for an answer."),
    "correlation_id": Setting(Text(), False, None, "Joins messages that belong together."),
}

"""
The spans `send` and `process`: a filter at the outer end of each chain.

They are filters like any other. What fails in here is reported once in the log, and the message goes on without a span: a
broken exporter never refuses a message.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from pipebus.errors import Rejected
from pipebus.foreign.objects import attributes, class_name, formatted, is_a, printable, text_of
from pipebus.message.conversation import conversation_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Receipt
from pipebus.outcomes.ledger import refusal
from pipebus.pipeline import blame, state
from pipebus.pipeline.shapes import Around, Steps
from pipebus.running.here import attempt
from pipebus.telemetry import carrying, names
from pipebus.telemetry.destinations import REPLIES, Destination, Destinations
from pipebus.telemetry.metrics import Metrics

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

NAME: Final = "telemetry"
"""What `explain` calls the two filters."""

TEXT: Final = 4 * 1024
STACK: Final = 64 * 1024
"""The most characters of a text in a span, such as a reason or the text of an error, and of a stack trace."""

SEEN: Final = "pipebus_telemetry"
"""Marks an error that a `send` span has: `Refused` would report it again."""


class Kit(NamedTuple):
    """
    What all parts share.

    Args:
        always: The attributes of every span.
        failed: Reports an error of OpenTelemetry itself, or of what a filter shows.
    """

    tracer: Tracer
    metrics: Metrics
    destinations: Destinations
    always: Mapping[str, Any]
    failed: Callable[[BaseException], None]

    def described(self, operation: str, where: Destination, message: Message[Any]) -> tuple[str, dict[str, Any]]:
        """The name and the attributes of a span."""
        found = {
            **self.always,
            names.OPERATION_NAME: operation,
            names.OPERATION_TYPE: operation,
            names.MESSAGE_ID: bounded(message.id),
            names.CONVERSATION_ID: bounded(conversation_of(message)),
            **where.span,
        }
        return f"{operation} {where.label}".rstrip(), found


class Operation:
    """A span that is current from here on until it ends, and what a metric says about it."""

    __slots__ = ("_began", "_token", "context", "link", "message", "seconds", "span", "where")

    def __init__(
        self, message: Message[Any], where: Destination, span: Span, began: int, context: Context, link: carrying.Links = ()
    ) -> None:  # fmt: skip
        self.message = message
        self.where = where
        self.span = span
        self.context = context
        self.link = link
        self.seconds = 0.0
        self._began = began
        self._token = attach(context)

    def end(self, error: BaseException | None, facts: Mapping[str, Any]) -> str | None:
        """Return the `error.type`; None: it has not failed."""
        detach(self._token)
        kind = None
        ended = time.time_ns()
        self.seconds = max(0, ended - self._began) / 1e9
        if self.span.is_recording():
            self.span.set_attributes(facts)
        if error is not None:
            kind = fail(self.span, error)
            tell(self.span, error, ended)
        self.span.end(ended)
        return kind


def bounded(text: str, most: int = TEXT) -> str:
    """A text from a program as spans hold it: one that UTF-8 can encode, of a bounded length."""
    found = printable(text[: most + 1])
    return found if len(found) <= most else found[: most - 1] + "…"


def fail(span: Span, error: BaseException) -> str:
    """Give a span the status of an error; return the `error.type`."""
    kind = class_name(error)
    if span.is_recording():
        span.set_attribute(names.ERROR_TYPE, kind)
        span.set_status(Status(StatusCode.ERROR, _said(error, kind)))
    return kind


def tell(span: Span, error: BaseException, when: int | None = None) -> None:
    """Add the event of an error, as `Span.record_exception` does, also if its methods fail, and without the bus's frames."""
    if span.is_recording():
        kind, stack = class_name(error), bounded(formatted(blame.trim(error)), STACK)
        facts = {names.EXCEPTION_TYPE: kind, names.EXCEPTION_MESSAGE: _said(error, kind), names.EXCEPTION_STACKTRACE: stack}
        span.add_event(names.EXCEPTION, facts, when)


def why(error: BaseException) -> str:
    """The reason of a delivery that an error has ended: its text; of a refusal, its reasons."""
    return bounded(refusal(error)[1]) if is_a(error, Rejected) else _said(error, class_name(error))


def _said(error: BaseException, kind: str) -> str:
    return bounded(text_of(error).removeprefix(f"{kind}: "))


class _Outermost(Around):
    """A span around a chain. What may fail is in `begin` and `end`."""

    name = NAME

    def __init__(self, kit: Kit) -> None:
        self.kit = kit

    def end(self, operation: Operation, outcome: Any, error: BaseException | None) -> None:
        raise NotImplementedError

    def _around(self, begin: Callable[[Message[Any]], Operation], message: Message[Any]) -> Steps:
        operation = None
        try:
            operation = begin(message)
        except Exception as failure:
            self.kit.failed(failure)
        if operation is None:  # out of the `except`, so that a handler's error does not seem to follow from this one
            yield message
            return
        try:
            outcome = yield operation.message
        except BaseException as error:
            self._end(operation, None, error)
            raise
        self._end(operation, outcome, None)

    def _end(self, operation: Operation, outcome: Any, error: BaseException | None) -> None:
        try:
            self.end(operation, outcome, error)
        except Exception as failure:
            self.kit.failed(failure)


class Send(_Outermost):
    """Around the publish chain: its context travels with the message, unless the message has one already."""

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        return functools.partial(self._around, functools.partial(self.begin, {}))

    def begin(self, known: dict[str, Destination], message: Message[Any]) -> Operation:
        """`known`: the destination of a route, which has one subject; those of replies have many, and are not kept."""
        subject = message.subject
        where = known.get(subject) if type(subject) is str else None
        if where is None:
            where = self.kit.destinations.sent(subject)
            if type(subject) is str and where is not REPLIES:
                known[subject] = where
        name, facts = self.kit.described(names.SEND, where, message)
        parent = carrying.around(message.causation_id)
        custom = carrying.carried(message).link
        began = time.time_ns()
        kind = SpanKind.CLIENT if custom else SpanKind.PRODUCER
        span = self.kit.tracer.start_span(name, parent, kind, facts, custom, began)
        context = trace.set_span_in_context(span, parent)
        if not custom:
            message = carrying.with_context(message, context)
        return Operation(message, where, span, began, context)

    def end(self, operation: Operation, outcome: Any, error: BaseException | None) -> None:
        facts: dict[str, Any] = {}
        attempted = is_a(outcome, Receipt)
        if attempted:
            facts = {names.VERDICT: "accepted", names.MAILBOXES: outcome.mailboxes}
            if outcome.duplicate:
                facts[names.DUPLICATE] = True
        elif is_a(outcome, Dropped):
            facts = dropped(outcome.reason, outcome.by)
        if error is not None:
            attributes(error)[SEEN] = True
            step = blame.signed(error)
            attempted = step is None or step.end
        kind = operation.end(error, facts)
        self.kit.metrics.sent(operation.where.metric, operation.seconds, kind, attempted)

    def refused(self, message: Message[Any], error: BaseException) -> None:
        """A publish that failed before its chain began, such as one that found a mailbox full."""
        if not attributes(error).pop(SEEN, False):
            self.end(self.begin({}, message), None, error)
            del attributes(error)[SEEN]


class Process(_Outermost):
    """
    Around the delivery chain of a handler, once for each attempt.

    Args:
        child: It continues the trace of the message; otherwise it begins one, with a link.
    """

    def __init__(self, kit: Kit, child: bool) -> None:
        super().__init__(kit)
        self.child = child

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        return functools.partial(self._around, functools.partial(self.begin, place))

    def begin(self, place: str, message: Message[Any]) -> Operation:
        where = self.kit.destinations.taken(place, message.subject)
        name, facts = self.kit.described(names.PROCESS, where, message)
        facts[names.ATTEMPT] = attempt()
        found = carrying.carried(message)
        parent = found.context if self.child else found.apart
        began = time.time_ns()
        span = self.kit.tracer.start_span(name, parent, SpanKind.CONSUMER, facts, found.link, began)
        return Operation(message, where, span, began, trace.set_span_in_context(span, parent), found.link)

    def end(self, operation: Operation, outcome: Any, error: BaseException | None) -> None:
        facts: dict[str, Any] = {} if error is not None else {names.VERDICT: "handled"}
        if is_a(outcome, Dropped):
            facts = dropped(outcome.reason, outcome.by)
        delivery = state.delivery.get()
        if delivery is None or delivery.verdict in (None, "acknowledged"):  # otherwise nothing follows
            carrying.leave(operation.message, operation.context, operation.link)
        kind = operation.end(error, facts)
        self.kit.metrics.processed(operation.where.metric, operation.seconds, kind)


def dropped(reason: str, by: str | None) -> dict[str, str]:
    """What a span says about a drop."""
    facts = {names.VERDICT: "dropped", names.REASON: bounded(reason)}
    return facts | {names.BY: bounded(by)} if by else facts

"""How a context travels: in the headers of messages, as OpenTelemetry's propagator writes them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from typing import Any, Final, NamedTuple

from opentelemetry import propagate, trace
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.textmap import Getter

from pipebus.message.message import Message


class _AnyCase(Getter[Mapping[str, str]]):
    """Names of HTTP headers have no case, and some clients write `Traceparent`."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        found = carrier.get(key)
        if found is None:
            found = next((value for name, value in carrier.items() if name.lower() == key), None)
        return None if found is None else [found]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


_GETTER: Final = _AnyCase()


Links = tuple[trace.Link, ...]


class Carried(NamedTuple):
    """
    What a message carries.

    Args:
        context: The context to continue in, as its child. It also has the baggage.
        apart: The same without the span, for a trace of its own.
        link: A link to the span that created the message; empty if the message has none.
    """

    context: Context
    apart: Context
    link: Links


_NOTHING: Final = Carried(Context(), Context(), ())


def carried(message: Message[Any]) -> Carried:
    """Read the context of a message, not that of the caller."""
    if not message.headers:
        return _NOTHING
    context = propagate.extract(message.headers, Context(), _GETTER)
    created = trace.get_current_span(context).get_span_context()
    if not created.is_valid:
        return Carried(context, context, ())
    return Carried(context, trace.set_span_in_context(trace.INVALID_SPAN, context), (trace.Link(created),))


def with_context(message: Message[Any], context: Context) -> Message[Any]:
    """Put a context into a message."""
    headers: dict[str, str] = {}
    propagate.inject(headers, context)
    return message.with_headers(headers) if headers else message


# --- after a delivery --------------------------------------------------------------------------------------------------


class After:
    """
    A delivery whose chain has ended.

    The bus settles it, and publishes what its handler returned, after the chain; in the same Python context, where the span of
    the delivery is current no more.
    """

    __slots__ = ("context", "id", "link", "token")

    def __init__(self, id: str, context: Context, link: Links) -> None:
        self.id = id
        self.context = context
        self.link = link
        self.token: Token[After | None] | None = None


_after: Final[ContextVar[After | None]] = ContextVar("pipebus.telemetry.after", default=None)
"""The delivery whose chain ended last here, until it is settled. A worker whose context holds more needs a new one."""


def leave(message: Message[Any], context: Context, link: Links) -> None:
    """The chain of a delivery has ended."""
    after = After(message.id, context, link)
    after.token = _after.set(after)


def settled(message: Message[Any]) -> None:
    """Forget the delivery again."""
    after = _after.get()
    if after is not None and after.id == message.id and after.token is not None:
        with suppress(ValueError, RuntimeError):  # this is a copy of that context
            _after.reset(after.token)


def has_left(message: Message[Any]) -> bool:
    """Whether the delivery of a message has just ended here."""
    after = _after.get()
    return after is not None and after.id == message.id


def link_to(message: Message[Any]) -> Links:
    """`carried(message).link`; known already if the delivery of that message has just ended here."""
    after = _after.get()
    return after.link if after is not None and after.id == message.id else carried(message).link


def around(id: str | None) -> Context:
    """The current context or, outside of any span, that of the delivery of a message if it has just ended here."""
    current = get_current()
    if trace.get_current_span(current).get_span_context().is_valid:
        return current
    after = _after.get()
    return after.context if after is not None and after.id == id else current

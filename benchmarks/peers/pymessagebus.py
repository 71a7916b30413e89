"""
pymessagebus: a message's class finds its handlers, and `handle` calls them, one after the other, in the caller's thread.

There is no queue and no other thread. Ten thousand subjects would be ten thousand classes, so it has no crowd of subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from clocks import Crowd
from harness import Flow, Guarantees, Handler
from limit import NO_HEADERS

WORDS = "calls in the caller's thread; a message's class is its subject"
GUARANTEES = Guarantees(WORDS, "no", "to the publisher", "no need", "yes", package="pymessagebus")


class Order(NamedTuple):
    """A message, in the shape that its documentation shows."""

    body: Any
    headers: Mapping[str, Any] = NO_HEADERS


def open_flow(filters: Sequence[Any], handle: Handler) -> Flow:
    """Filters are its middlewares, `f(message, next)`."""
    from pymessagebus import MessageBus

    bus = MessageBus(middlewares=list(filters))
    bus.add_handler(Order, handle)
    return Flow(lambda subject, body: bus.handle(Order(body)), lambda: None)


def open_crowd(crowd: Crowd) -> Flow:
    """Many handlers of one class."""
    from pymessagebus import MessageBus

    bus = MessageBus()
    for _, handle in crowd:
        bus.add_handler(Order, handle)
    return Flow(lambda subject, body: bus.handle(Order(body)), lambda: None)


def open_requests(answer: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], Callable[[], Any]]:
    """A command bus has one handler, and returns what it returned."""
    from pymessagebus import CommandBus

    bus = CommandBus()
    bus.add_handler(Order, answer)
    return lambda body: bus.handle(Order(body)), lambda: None

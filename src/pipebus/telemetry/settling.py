"""The spans `receive` and `settle`, which happen outside of chains: from the bus's events."""

from __future__ import annotations

import sys
import time
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from pipebus import events
from pipebus.delivery.subscription import LISTENER
from pipebus.message.message import Message
from pipebus.outcomes.dead_letters import PUBLISH
from pipebus.running.here import attempt, in_hand
from pipebus.telemetry import carrying, names
from pipebus.telemetry.spans import Kit, Send, dropped, fail, why


class Observer:
    """
    An observer of a bus. Both spans are points in time: when the bus took a message for a reader, and when it settled it.

    Args:
        send: Reports publishes that fail before their chain.
        child: See `Process`. What was dropped without an attempt has no `process` either.
    """

    def __init__(self, kit: Kit, send: Send, child: bool) -> None:
        self.kit = kit
        self.send = send
        self.child = child

    def __call__(self, event: events.Event) -> None:
        try:
            self._see(event)
        except Exception as failure:
            self.kit.failed(failure)

    def _see(self, event: events.Event) -> None:
        match event:
            case events.Taken(message=message, subscription=place, attempt=number):
                self._taken(message, place, number)
            case events.Acknowledged(message=message, subscription=place, attempt=number):
                self._settled(message, place, {names.VERDICT: "acknowledged", names.ATTEMPT: number})
            case events.Returned(message=message, subscription=place, attempt=number):
                # An error that a filter or a handler returns it for is being handled where it does so: here.
                self._settled(message, place, {names.VERDICT: "returned", names.ATTEMPT: number}, sys.exception())
            case events.Discarded(message=message, place=place, reason=reason, by=by, exception=failed):
                self._settled(message, place, dropped(reason, by), failed)
            case events.Died(message=message, place=place, exception=error):
                self._settled(message, place, {names.VERDICT: "dead", names.REASON: why(error), **_attempt(message)}, error)
            case events.Refused(message=message, error=error):
                self.send.refused(message, error)

    def _taken(self, message: Message[Any], place: str, number: int) -> None:
        if place.startswith(LISTENER) or not self.kit.destinations.reads(place, message.subject):
            return  # a handler's span is `process`
        where = self.kit.destinations.taken(place, message.subject)
        name, facts = self.kit.described(names.RECEIVE, where, message)
        facts[names.ATTEMPT] = number
        parent, link = carrying.around(None), carrying.carried(message).link
        span = self.kit.tracer.start_span(name, parent, SpanKind.CLIENT, facts, link)
        span.end()
        self.kit.metrics.received(where.metric)
        carrying.leave(message, trace.set_span_in_context(span, parent), link)

    def _settled(
        self, message: Message[Any], place: str, more: dict[str, Any], error: BaseException | None = None
    ) -> None:  # fmt: skip
        if place == PUBLISH or place.startswith(LISTENER):
            return  # `send` has the first; the other is how a reply reaches its requester
        where = self.kit.destinations.taken(place, message.subject)
        name, facts = self.kit.described(names.SETTLE, where, message)
        now = time.time_ns()
        link = carrying.link_to(message)
        if error is None and more[names.VERDICT] == "dropped" and not carrying.has_left(message):  # it expired, or had no room
            found = carrying.carried(message)
            parent = found.context if self.child else found.apart
        else:
            parent = carrying.around(message.id)
        span = self.kit.tracer.start_span(name, parent, SpanKind.CLIENT, facts | more, link, now)
        if error is not None:
            fail(span, error)
        span.end(now)
        carrying.settled(message)


def _attempt(message: Message[Any]) -> dict[str, int]:
    """Which attempt it was, if a handler had the message."""
    return {names.ATTEMPT: attempt()} if in_hand() is message else {}

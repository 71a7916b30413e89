"""
Arrival: what a transport brings, on its way into a mailbox.
"""

from __future__ import annotations

from typing import Any, Protocol

from pipebus.delivery.subscription import Subscription
from pipebus.errors import AttemptsExhausted, BusClosed, CodecError, MailboxFull
from pipebus.mailbox.mailbox import ONE, Parcel
from pipebus.message.codec import Codec
from pipebus.message.message import Message
from pipebus.message.patterns import Pattern
from pipebus.transports.base import Binding


class Carried(Protocol):
    """A bus, as far as arrivals go."""

    transport: Any
    codec: Codec


def patterns_of(subscription: Subscription) -> tuple[Pattern, ...]:
    return tuple(p if isinstance(p, Pattern) else Pattern(p) for p in subscription.patterns)


def bind(bus: Carried, subscription: Subscription) -> None:
    """Tell the transport of a subscription; effective on return."""
    attempts = subscription.plan.attempts

    def deliver(found: Message[Any] | bytes, token: Any, taken: int) -> bool:
        if isinstance(found, bytes):
            try:
                message = bus.codec.decode(found)
            except CodecError as error:
                # A dead letter that keeps the bytes, so that later messages flow.
                subscription.bury_untaken(Parcel(Message("pipebus.undecodable", found), 1, token), error)
                return True
        else:
            message = found
        parcel = Parcel(message, taken, token)
        parcel.replayed = bool(getattr(token, "replayed", False))
        if taken >= attempts:
            text = f"taken {taken} times and never settled; {subscription.name} allows attempts={attempts}"
            subscription.bury_untaken(parcel, AttemptsExhausted(text))
            return True
        try:
            return subscription.mailbox.offer(parcel) is ONE
        except (MailboxFull, BusClosed):
            return False
        except RuntimeError:  # no thread could be started for it yet; it is in
            return True

    bus.transport.bind(
        Binding(
            name=subscription.name,
            durable=subscription.durable,
            patterns=patterns_of(subscription),
            deliver=deliver,
            attempts=attempts,
            start=subscription.plan.deliver,
            limit=subscription.plan.rules.size,
            workers=subscription.plan.rules.workers,
            overflow=subscription.plan.rules.overflow,
            handled=subscription.handled,
            ready=lambda: not subscription.paused,
        )
    )

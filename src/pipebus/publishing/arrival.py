"""
Arrival: how a message that a transport brings gets into a mailbox.
"""

from __future__ import annotations

from typing import Any, Protocol

from pipebus.delivery import verdicts
from pipebus.delivery.subscription import Subscription
from pipebus.errors import AttemptsExhausted, BusClosed, CodecError, MailboxFull
from pipebus.mailbox.offering import ONE, offer
from pipebus.mailbox.parcel import Parcel
from pipebus.message.codec import Codec
from pipebus.message.message import Message
from pipebus.message.patterns import Pattern
from pipebus.transports.base import Binding


class Carried(Protocol):
    """What arrivals need of the bus."""

    transport: Any
    codec: Codec


def patterns_of(subscription: Subscription) -> tuple[Pattern, ...]:
    """What the subscription listens to, as patterns only."""
    return tuple(p if isinstance(p, Pattern) else Pattern(p) for p in subscription.patterns)


def bind(bus: Carried, subscription: Subscription) -> None:
    """Make the transport deliver to a subscription. It takes effect before it returns."""
    bus.transport.bind(binding(bus, subscription))


def binding(bus: Carried, subscription: Subscription) -> Binding:
    """A subscription, as its transport sees it."""
    attempts = subscription.plan.attempts

    def deliver(found: Message[Any] | bytes, token: Any, taken: int) -> bool:
        if isinstance(found, bytes):
            try:
                message = bus.codec.decode(found)
            except CodecError as error:
                # The dead letter keeps the bytes, and later messages are not held up.
                verdicts.bury(subscription, Parcel(Message("pipebus.undecodable", found), 1, token), error, taken=False)
                return True
        else:
            message = found
        parcel = Parcel(message, taken, token)
        parcel.replayed = bool(getattr(token, "replayed", False))
        if taken >= attempts:
            text = f"taken {taken} times and never settled; {subscription.name} allows attempts={attempts}"
            verdicts.bury(subscription, parcel, AttemptsExhausted(text), taken=False)
            return True
        try:
            return offer(subscription, parcel) is ONE
        except (MailboxFull, BusClosed):
            return False
        except RuntimeError:  # it is in the mailbox; only the thread that will handle it could not be started yet
            return True

    return Binding(
        name=subscription.name,
        durable=subscription.durable,
        patterns=patterns_of(subscription),
        deliver=deliver,
        attempts=attempts,
        start=subscription.plan.deliver,
        limit=subscription.plan.size,
        workers=subscription.plan.workers,
        overflow=subscription.plan.overflow,
        handled=subscription.handled,
        ready=lambda: not subscription.paused and (subscription.inbox is None or subscription.inbox.asked),
    )

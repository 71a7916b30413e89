"""
Events, for observers.

An event is an immutable fact about something that has happened. `bus.observe(callable)` passes every event to the callable. An
error that an observer raises is caught, counted and logged; it never reaches a publisher or a handler.

For one delivery: `Taken`, then exactly one of `Acknowledged`, `Discarded`, `Died` or `Returned` (to be taken again).
"""

from __future__ import annotations

from typing import Any

import msgspec

from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt


class Event(msgspec.Struct, frozen=True):
    """The root of all events."""


class StateChanged(Event, frozen=True):
    """The bus went from one state to the next: new, started, draining, stopped."""

    old: str
    new: str


class Published(Event, frozen=True):
    """A message passed the publish chain and was accepted; `message` is the argument of `publish` or `send`."""

    message: Message[Any]
    receipt: Receipt


class Unrouted(Event, frozen=True):
    """A message passed the publish chain, but nobody listens to its subject."""

    message: Message[Any]


class Refused(Event, frozen=True):
    """A publish ended in an error, raised to the publisher. `by` is the filter's name, or None for the bus itself."""

    message: Message[Any]
    error: BaseException
    by: str | None


class Discarded(Event, frozen=True):
    """
    A message was dropped, on purpose or by a rule. `place` is "publish" or a subscription's name. For a failed request,
    `exception` is what its handler raised, which the requester has got as `RequestFailed`.
    """

    message: Message[Any]
    place: str
    reason: str
    by: str | None
    exception: BaseException | None = None


class Taken(Event, frozen=True):
    """A delivery was taken from its mailbox for its n-th attempt; `attempt` starts at 1."""

    message: Message[Any]
    subscription: str
    attempt: int


class Acknowledged(Event, frozen=True):
    """A delivery was handled."""

    message: Message[Any]
    subscription: str
    attempt: int


class Returned(Event, frozen=True):
    """A delivery went back to its mailbox, to be taken again after `delay` seconds. Its attempt may not count."""

    message: Message[Any]
    subscription: str
    attempt: int
    delay: float


class Died(Event, frozen=True):
    """A message became a dead letter. `place` is "publish" or a subscription's name; `error` is the text of `exception`."""

    message: Message[Any]
    place: str
    letter: str
    error: str
    exception: BaseException


class Overflowed(Event, frozen=True):
    """A mailbox had no room; `policy` names what happened then."""

    message: Message[Any]
    subscription: str
    policy: str


class CircuitChanged(Event, frozen=True):
    """
    A circuit breaker went from one state to another: "closed", "open" (nothing passes), "half_open" (one message passes, as a
    trial). `place` is "publish" or a subscription's name; `filter` is the breaker's name.
    """

    filter: str
    place: str
    old: str
    new: str


class Starved(Event, frozen=True):
    """Mailboxes have work, every worker is busy, and the pool cannot grow further."""

    ready: int
    workers: int

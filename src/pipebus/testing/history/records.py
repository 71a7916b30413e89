"""The records of a history: one event each, one line of JSON each."""

from __future__ import annotations

from typing import Literal

import msgspec

How = Literal["acknowledged", "dropped", "dead", "returned", "released"]
"""How a delivery was settled. "returned": to come again, this taking counts; "released": the same, it does not."""


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", omit_defaults=True):
    """One event. `at`: when, in nanoseconds of the monotonic clock, which all processes of one computer share."""

    at: int = 0


class Subscribed(Record, frozen=True, kw_only=True, tag="subscribed"):
    """
    A subscription, and what it was promised.

    Args:
        patterns: Any of them matches.
        attempts: Most takings of one message; None: no bound.
        order: Within what first deliveries keep the order of publishing: none, subject (each publisher's), key.
    """

    subscription: str
    patterns: tuple[str, ...]
    attempts: int | None = None
    order: Literal["none", "subject", "key"] = "none"


class Attempted(Record, frozen=True, kw_only=True, tag="attempted"):
    """A publish is about to be tried. One that is delayed (`late`) has no place in the order."""

    id: str
    subject: str
    publisher: str = ""
    key: str | None = None
    late: bool = False


class Accepted(Record, frozen=True, kw_only=True, tag="accepted"):
    """A publish came back with a receipt."""

    id: str
    duplicate: bool = False


class Delivered(Record, frozen=True, kw_only=True, tag="delivered"):
    """A message was taken; `worker` says by whom: a process, a bus, a thread."""

    subscription: str
    id: str
    attempt: int = 1
    redelivered: bool = False
    worker: str = ""


class Settled(Record, frozen=True, kw_only=True, tag="settled"):
    """A delivery was settled. `attempt` is 0 if it was dropped before it was taken."""

    subscription: str
    id: str
    attempt: int = 1
    how: How = "acknowledged"
    worker: str = ""


class Replayed(Record, frozen=True, kw_only=True, tag="replayed"):
    """A dead letter was given back to its subscription: attempts are counted anew."""

    subscription: str
    id: str


class Ended(Record, frozen=True, kw_only=True, tag="ended"):
    """A worker has stopped or was killed: what it had taken and not settled may come again, as the same attempt or the next."""

    worker: str


class Kept(Record, frozen=True, kw_only=True, tag="kept"):
    """Found at the end: a message that is still there."""

    subscription: str
    id: str
    state: Literal["pending", "dead"] = "pending"


class Figures(Record, frozen=True, kw_only=True, tag="figures"):
    """What a subscription's `stats()` said at the end; those of several workers are added up."""

    subscription: str
    accepted: int
    acknowledged: int
    dropped: dict[str, int] = {}
    dead: int = 0
    pending: int = 0
    in_flight: int = 0
    worker: str = ""


AnyRecord = Subscribed | Attempted | Accepted | Delivered | Settled | Replayed | Ended | Kept | Figures

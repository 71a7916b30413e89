"""The records of a history: one event each, one line of JSON each."""

from typing import Literal

import msgspec

How = Literal["acknowledged", "dropped", "dead", "returned", "released"]
"""How a delivery was settled. After "returned" and "released" it comes again; only "returned" counts as an attempt."""


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="what", omit_defaults=True):
    """One event. `at`: when, in nanoseconds of the monotonic clock, which all processes of one computer share."""

    at: int = 0


class Subscribed(Record, frozen=True, kw_only=True, tag="subscribed"):
    """
    A subscription, and what it is promised.

    Args:
        patterns: A message is for the subscription if it matches any of them.
        attempts: The most deliveries of one message; None: no bound.
        order: First deliveries keep the order of publishing: not at all, for each publisher ("subject"), or for each key.
    """

    subscription: str
    patterns: tuple[str, ...]
    attempts: int | None = None
    order: Literal["none", "subject", "key"] = "none"


class Attempted(Record, frozen=True, kw_only=True, tag="attempted"):
    """A publish is about to be tried. A delayed publish (`late`) has no place in the order."""

    id: str
    subject: str
    publisher: str = ""
    key: str | None = None
    late: bool = False


class Accepted(Record, frozen=True, kw_only=True, tag="accepted"):
    """A publish returned a receipt."""

    id: str
    duplicate: bool = False


class Delivered(Record, frozen=True, kw_only=True, tag="delivered"):
    """A delivery began; `worker` names the process, bus or thread that has it."""

    subscription: str
    id: str
    attempt: int = 1
    redelivered: bool = False
    worker: str = ""


class Settled(Record, frozen=True, kw_only=True, tag="settled"):
    """A delivery was settled. `attempt` is 0 if it is not known."""

    subscription: str
    id: str
    attempt: int = 1
    how: How = "acknowledged"
    worker: str = ""


class Replayed(Record, frozen=True, kw_only=True, tag="replayed"):
    """A dead letter was replayed: its attempts are counted from one again."""

    subscription: str
    id: str


class Ended(Record, frozen=True, kw_only=True, tag="ended"):
    """A worker stopped or was killed: its unsettled deliveries may come again, as the same attempt or the next."""

    worker: str


class Kept(Record, frozen=True, kw_only=True, tag="kept"):
    """A message that was still there at the end."""

    subscription: str
    id: str
    state: Literal["pending", "dead"] = "pending"


class Figures(Record, frozen=True, kw_only=True, tag="figures"):
    """A subscription's `stats()` at the end; the figures of several workers are added up."""

    subscription: str
    accepted: int
    acknowledged: int
    dropped: dict[str, int] = {}
    dead: int = 0
    pending: int = 0
    in_flight: int = 0
    worker: str = ""


AnyRecord = Subscribed | Attempted | Accepted | Delivered | Settled | Replayed | Ended | Kept | Figures

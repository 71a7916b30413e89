"""What the parts of this transport hand to each other: messages, claims, settlements, owners."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from pipebus.message.slot import Slot
from pipebus.outcomes.dead_letters import DeadLetter
from pipebus.transports.base import Verdict


class Outgoing(NamedTuple):
    """
    One message to be stored.

    Args:
        delay: Seconds until it may be delivered.
        slot: Of the schedule that publishes it.
        strict: Do not store it if it reaches no subscription.
    """

    id: str
    subject: str
    key: str | None
    data: bytes
    delay: float
    slot: Slot | None = None
    strict: bool = False


class Found(NamedTuple):
    """One delivery, as it was claimed."""

    seq: int
    takings: int
    key: str | None
    suspect: bool
    replayed: bool
    data: bytes


class Claim:
    """One delivery that this process holds: the token that the bus gives back when it settles it."""

    __slots__ = ("binding", "generation", "key", "owner", "refused", "replayed", "seq", "since", "sub", "suspect", "takings")

    def __init__(self, binding: Any, generation: int, sub: int, owner: int, found: Found) -> None:
        self.binding = binding
        self.generation = generation  # of the file: in another one the same numbers mean other messages
        self.refused: str | None = None  # why it could not be settled
        self.sub = sub
        self.owner = owner
        self.seq = found.seq
        self.takings = found.takings
        self.key = found.key
        self.suspect = found.suspect
        self.since = time.monotonic()
        self.replayed = found.replayed

    @property
    def fence(self) -> tuple[int, int, int, int]:
        """What the row in `claimed` must have for this claim to settle it."""
        return (self.sub, self.seq, self.owner, self.takings)


class Settlement(NamedTuple):
    """`Transport.settle`, as a job for the writer."""

    claim: Claim
    verdict: Verdict
    delay: float
    why: str | DeadLetter


class Life(NamedTuple):
    """What another process needs to determine whether this one is alive."""

    boot: str
    space: str  # the namespace of process ids: in another one the same pid is another process
    pid: int
    born: str  # a pid is reused after its process has ended


class Owner(NamedTuple):
    """One start of a transport; `until`: when its lease ends, in the store's time."""

    owner: int
    life: Life
    until: float

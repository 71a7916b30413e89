"""How many deliveries of a subscription to have out at once, in this process."""

from __future__ import annotations

import time
from typing import Final

from pipebus.transports.base import Binding
from pipebus.transports.sqlite.store import Claim

CLEARED: Final = 5.0
"""Seconds after which a message that may have killed its process is no suspect any more: the process lives."""
AHEAD: Final = 0.1
"""Seconds of work to have at hand."""
MOST: Final = 500
READERS: Final = 16
"""Deliveries that a subscription without a handler may have out at least."""


class Bound:
    """
    A subscription that this process serves.

    What is claimed here is out of reach for other processes, so a slow handler should have little at hand, and a fast one
    enough that it need not wait for the file: about what it has settled in a tenth of a second.
    """

    def __init__(self, binding: Binding, now: float) -> None:
        self.binding = binding
        self.name = binding.name
        self.patterns = [pattern.text for pattern in binding.patterns]
        self.sub = 0  # its number in the file
        self.seen = 0  # the last message that was published when its row was seen last, and what was claimed after that
        self.recent: set[int] = set()
        self.out: dict[Claim, None] = {}  # one step each way, so without a lock
        self.maybe = True  # there may be something to claim
        self.not_before = 0.0  # its mailbox had no room: ask again then
        self.settled = 0  # since `_since`
        self._since = now
        # Who reads takes one after the other, or many at once: nobody can tell.
        self.workers = binding.workers if binding.handled else min(binding.limit, READERS)
        self._window = self._least = 2 * self.workers

    def wants(self, now: float) -> int:
        """How many to claim now; 0: enough are out."""
        if not self.maybe or now < self.not_before:
            return 0
        out = len(self.out)
        if out > self._window // 2:
            return 0
        passed = now - self._since
        if self.settled >= self._window // 2 and passed > 0:
            rate = self.settled / passed
            self._window = max(self._least, min(MOST, int(rate * AHEAD)))
        self.settled, self._since = 0, now
        most = min(self._window, self.binding.limit)
        if self.binding.attempts == 1 or self.suspects:
            # What is claimed and lost has been taken once: so nothing is claimed that does not start at once.
            most = min(most, self.workers)
        return max(0, most - out)

    def owner(self, owner: int) -> int | None:
        """Whom it goes with; None: it stays."""
        return None if self.binding.durable else owner

    @property
    def suspects(self) -> bool:
        """A handler here has had a message for moments only that was out when its process ended."""
        if not self.binding.handled:
            return False
        since = time.monotonic() - CLEARED
        return any(claim.suspect and claim.since > since for claim in list(self.out))

    def settle(self) -> bool:
        """One is settled, and no longer out; True if it is time to claim some more, or to write what was settled."""
        self.settled += 1
        self.not_before = 0.0
        left = len(self.out)
        return left < self.workers or left == self._window // 2

"""How many deliveries of a subscription this process should hold: enough to keep its handler busy, and no more."""

from __future__ import annotations

import time
from typing import Final

from pipebus.transports.base import Binding

AHEAD: Final = 0.1
"""Seconds of work to have at hand."""
MOST: Final = 500
"""Most deliveries of one subscription in this process."""
READERS: Final = 16
"""Deliveries that a subscription without a handler may always hold."""


class Window:
    """
    What is held here is out of reach for other processes. So a slow handler should hold little, and a fast one enough that it
    need not wait for the store: about as much as it has settled in a tenth of a second. A process asks for more when it holds
    at most half of the window.
    """

    def __init__(self, binding: Binding) -> None:
        self._limit = binding.limit
        self._attempts = binding.attempts
        self._reader, self._ready = not binding.handled, binding.ready
        # A reader may take one message after the other or many at once; nobody can tell.
        self.workers = binding.workers if binding.handled else min(binding.limit, READERS)
        self.settled = 0  # since `_since`
        self._since = time.monotonic()
        self._size = self._least = 2 * self.workers

    @property
    def half(self) -> int:
        return self._size // 2

    def wants(self, held: int, careful: bool = False) -> int:
        """
        How many more deliveries to ask for.

        Args:
            held: Deliveries that are here, or have been asked for.
            careful: Hold only what the handler can begin at once.
        """
        half = self._size // 2
        if held > half or (self._reader and not self._ready()):
            return 0
        now = time.monotonic()
        passed = now - self._since
        if self.settled >= half and passed > 0:
            self._size = max(self._least, min(MOST, int(self.settled / passed * AHEAD)))
        self.settled, self._since = 0, now
        most = min(self._size, self._limit)
        if careful or self._attempts == 1:  # if this process is killed, what it holds counts as taken once
            most = min(most, self.workers)
        return max(0, most - held)

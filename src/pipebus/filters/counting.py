"""What filters share that count what they do in each chain."""

from __future__ import annotations

import threading


class Count:
    """A number that goes up, for all threads."""

    __slots__ = ("__weakref__", "_lock", "value")

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.RLock()  # reentrant: a signal handler may publish while it is held

    def add(self) -> None:
        with self._lock:
            self.value += 1

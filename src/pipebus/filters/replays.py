"""What `Verify` remembers: the ids of genuine messages that one chain has let pass."""

from __future__ import annotations

import heapq
import math
import threading
from contextlib import suppress
from typing import Any

from pipebus.filters.seen import went_well


class Replays:
    """
    Ids, each with the time of its message.

    An id is kept until its message is too old to be genuine. If there are more than `size`, the one with the oldest message is
    forgotten, and from then on no message of that time or older passes: what has been forgotten can never come again. The same
    holds if the clock is set back. (`Seen` forgets the oldest without such a bound, and then takes a replay for new.)
    """

    __slots__ = ("__weakref__", "_known", "_lock", "_oldest_first", "_running", "bound", "refused")

    def __init__(self) -> None:
        self._running: dict[str, tuple[Any]] = {}  # id -> a tuple of its delivery, which the handler may settle, or of None
        self._known: dict[str, float] = {}  # id -> the time of its message
        self._oldest_first: list[tuple[float, str]] = []  # a heap; it may also hold ids that were forgotten since
        self.bound = -math.inf  # only younger messages pass
        self.refused = 0
        # Reentrant, because a signal handler may publish while it is held. Such a publish finds an id running or known, never
        # neither: claiming one is a single step (`setdefault`), and it is known before it stops running.
        self._lock = threading.RLock()

    def stats(self) -> dict[str, int]:
        return {"remembered": len(self._known), "refused": self.refused}

    def __contains__(self, id: str) -> bool:
        return id in self._known

    def enter(self, id: str, time: float, delivery: Any, oldest: float) -> tuple[Any] | None:
        """
        Note that a message runs.

        Args:
            oldest: The time of the oldest message that may be genuine.

        Returns:
            What `leave` takes; None if the message is a replay.
        """
        with self._lock:
            for _ in range(2):  # one more than a message adds, so the memory shrinks; forgetting all at once could take long
                if self._oldest_first and self._oldest_first[0][0] < oldest:
                    self._forget_oldest()
            claim = (delivery,)
            held = self._running.setdefault(id, claim)
            if held is not claim:
                if went_well(held[0], True):
                    return None
                self._running[id] = claim  # in place of one that its handler has given back but that still runs
            passed = self._known.get(id)
            if passed is not None and passed < oldest:  # nobody has forgotten it yet
                self._forget(id, passed)
                passed = None
            if passed is not None or time <= self.bound:
                self._running.pop(id, None)
                return None
            return claim

    def leave(self, id: str, time: float, claim: tuple[Any], well: bool, size: int) -> None:
        with self._lock:
            if well:
                self._known[id] = time
                heapq.heappush(self._oldest_first, (time, id))
                if len(self._oldest_first) > size:
                    self._forget_oldest()
            if self._running.get(id) is claim:
                self._running.pop(id, None)

    def undo(self, id: str) -> None:
        """Forget a run that ended well: what it did has been undone."""
        with self._lock:
            self._known.pop(id, None)

    def refuse(self) -> None:
        with self._lock:
            self.refused += 1

    def _forget_oldest(self) -> None:
        with suppress(IndexError):  # a signal handler has been quicker
            time, id = heapq.heappop(self._oldest_first)
            if self._known.get(id) == time:
                self._forget(id, time)

    def _forget(self, id: str, time: float) -> None:
        self.bound = max(self.bound, time)
        self._known.pop(id, None)

"""Message ids: unique across processes, and cheap to make."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from pipebus.waiting.locks import free


class IdRange:
    """
    Ids that are unique across processes and cost one counter step each.

    A message stores the bare number. `text` turns it into `<start in ms, hex>-<64 random bits>-<counter>` when somebody first
    reads it. The ids of one range sort in the order of creation. Each bus has a range, which also counts its messages.

    The high bits of a number select its range, and a forked child makes new ranges; so an id that was made before the fork
    reads the same in parent and child.
    """

    SHIFT: Final = 48  # 2.8e14 messages for each range
    starts: ClassVar[list[str]] = []  # the text of each range
    end: ClassVar[int] = 0  # greater than every number of every range
    lock: ClassVar[Any] = threading.RLock()

    def __init__(self, now: float | None = None, chance: bytes | None = None) -> None:
        now, chance = time.time() if now is None else now, chance or os.urandom(8)
        with free(self.lock):
            self._first = len(self.starts) << self.SHIFT
            self.starts.append(f"{int(now * 1000):012x}-{chance.hex()}")
            IdRange.end = len(self.starts) << self.SHIFT
        self._counter = itertools.count(self._first)
        self.next = self._counter.__next__

    def count(self) -> int:
        """How many ids the range has given so far. (Only the counter's repr shows its next value without taking it.)"""
        return int(repr(self._counter)[6:-1]) - self._first

    @classmethod
    def text(cls, number: int) -> str:
        return f"{cls.starts[number >> cls.SHIFT]}-{number & ((1 << cls.SHIFT) - 1):010x}"


_outside = IdRange()


def next_id() -> int:
    """An id for a message that no bus has made."""
    return _outside.next()


@contextmanager
def repeatable(now: float, chance: bytes) -> Iterator[None]:
    """In a test, until the block ends: the ids of messages that no bus has made come from this time and these 8 bytes."""
    global _outside  # noqa: PLW0603
    before, _outside = _outside, IdRange(now, chance)
    try:
        yield
    finally:
        _outside = before


def _after_fork() -> None:
    global _outside  # noqa: PLW0603 (the child must not continue its parent's numbers)
    IdRange.lock = threading.RLock()
    _outside = IdRange()


os.register_at_fork(after_in_child=_after_fork)

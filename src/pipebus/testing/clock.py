"""
Time that a test owns.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Final

from pipebus.clock import Gate

PATIENCE: Final = 30.0
"""Real seconds after which a thread that waits for a FakeClock gives up: its test has failed, or has forgotten to move it."""

DIGITS: Final = 9
"""Of a second: nanoseconds."""

GLANCE: Final = 0.001
"""Real seconds between two looks of a waiting thread: its gate is opened by its owner, its time comes from the test."""


class FakeClock:
    """
    A clock that stands still until a test moves it, for a bus that runs on real threads: `Bus(clock=FakeClock())`.

    What sleeps or waits with a time-out goes on when `advance` has come to its time. A `Harness` has one of its own, which
    moves by itself when nobody can go on otherwise.

    Args:
        start: What `now` shows at first, in seconds since 1970-01-01 UTC; None: the computer's time, so that messages which a
            test makes by hand are new. `monotonic` begins at 0.
    """

    def __init__(self, start: float | None = None) -> None:
        self.start = time.time() if start is None else start
        self._elapsed = 0.0
        self._changed = threading.Condition()
        self._waiting = 0
        self._read = threading.local()

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return self.start + self.monotonic()

    def monotonic(self) -> float:
        """Seconds that it was moved by."""
        with self._changed:
            self._read.last = self._elapsed
            return self._elapsed

    def advance(self, seconds: float) -> None:
        """Move it, >= 0 seconds."""
        if not seconds >= 0:
            raise ValueError(f"advance({seconds!r}): time goes forward only, by 0 seconds or more")
        with self._changed:
            self._elapsed = round(self._elapsed + seconds, DIGITS)  # 0.1 and 0.2 are 0.3

    def sleep(self, seconds: float) -> None:
        """Wait until the clock was moved so far."""
        nobody = threading.Lock()
        nobody.acquire()
        self.monotonic()
        self.wait(nobody, seconds)

    async def asleep(self, seconds: float) -> None:
        """`sleep` for coroutines."""
        due = round(self.monotonic() + seconds, DIGITS)
        while self.monotonic() < due:  # noqa: ASYNC110  (no event tells: the clock is moved on another thread)
            await asyncio.sleep(GLANCE)

    def wait(self, gate: Gate, timeout: float | None) -> bool:
        """What the bus's threads wait with: until the gate opens, or the clock was moved by `timeout` seconds."""
        # A timeout is what its thread made of the time that it last read: the clock may have been moved since.
        due = None if timeout is None else round(getattr(self._read, "last", self._elapsed) + timeout, DIGITS)
        give_up = time.monotonic() + PATIENCE
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
        try:
            while not gate.acquire(timeout=GLANCE):
                if (due is not None and self._elapsed >= due) or time.monotonic() > give_up:
                    return False
            return True
        finally:
            with self._changed:
                self._waiting -= 1

    def wait_until_waited_for(self, threads: int = 1, timeout: float = 10.0) -> None:
        """
        Until so many threads stand in front of this clock: now moving it makes a difference to them.

        Args:
            timeout: In real seconds.

        Raises:
            TimeoutError: fewer have come.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting >= threads, timeout):
                raise TimeoutError(f"{self._waiting} of {threads} threads wait for this clock, after {timeout:g} s")

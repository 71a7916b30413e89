"""
Time, behind one small seam, so that a test can own it.

Two clocks because two questions: `now` is for people and envelopes (it may jump), `monotonic` is for waiting.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Gate(Protocol):
    """What a waiting thread stands in front of: a `threading.Lock` that somebody else will release."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...


class Clock(Protocol):
    """What the bus asks of time. All values are seconds."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC, for envelopes."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back, for waiting."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block this thread for `seconds`."""
        ...

    async def asleep(self, seconds: float) -> None:
        """`sleep` for coroutines."""
        ...

    def wait(self, gate: Gate, timeout: float | None) -> bool:
        """Block until `gate` can be acquired, at most `timeout` seconds (None: for ever); False when time ran out."""
        ...


class SystemClock:
    """The computer's own clocks."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    asleep = staticmethod(asyncio.sleep)

    @staticmethod
    def wait(gate: Gate, timeout: float | None) -> bool:
        # threading.TIMEOUT_MAX is some 292 years; anything longer is for ever.
        if timeout is None or timeout > 9e9:
            return gate.acquire()
        return gate.acquire(timeout=max(timeout, 0.0))


SYSTEM = SystemClock()

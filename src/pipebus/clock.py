"""
Time, behind a small interface, so that a test can control it.

There are two clocks: `now` for people and envelopes, which may jump, and `monotonic` for waiting.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Gate(Protocol):
    """A held `threading.Lock`: one thread waits for it, and another thread releases it."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...


class Clock(Protocol):
    """What the bus needs from a clock. All values are seconds."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC, for envelopes."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, for waiting; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Block this thread for `seconds`."""
        ...

    async def asleep(self, seconds: float) -> None:
        """`sleep` for coroutines."""
        ...

    def wait(self, gate: Gate, timeout: float | None) -> bool:
        """Block until `gate` can be acquired, at most `timeout` seconds (None: forever); False if the time ran out."""
        ...


class SystemClock:
    """The computer's own clocks."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    asleep = staticmethod(asyncio.sleep)

    @staticmethod
    def wait(gate: Gate, timeout: float | None) -> bool:
        # threading.TIMEOUT_MAX is about 292 years; anything longer means forever.
        if timeout is None or timeout > 9e9:
            return gate.acquire()
        return gate.acquire(timeout=max(timeout, 0.0))


SYSTEM = SystemClock()

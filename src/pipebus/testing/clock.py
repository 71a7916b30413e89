"""A clock that a test moves."""

import asyncio
import threading
import time
from typing import Final

from pipebus.clock import Gate

PATIENCE: Final = 30.0
"""Real seconds after which a thread stops waiting: its test has failed, or has not moved the clock."""

DIGITS: Final = 9
"""Times are rounded to nanoseconds."""

GLANCE: Final = 0.001
"""Real seconds between two looks of a waiting thread at the clock."""


class FakeClock:
    """
    A clock that stands still until a test moves it, for a bus that runs on real threads: `Bus(clock=FakeClock())`.

    What sleeps, or waits with a timeout, goes on when `advance` has reached its time. A `Harness` has a clock of its own, which
    moves by itself when no thread can go on.

    Args:
        start: What `now` shows at first, in seconds since 1970-01-01 UTC; None: the computer's time, so that the messages that
            a test makes by hand are not expired. `monotonic` begins at 0.
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
        """The seconds by which it was moved."""
        with self._changed:
            self._read.last = self._elapsed
            return self._elapsed

    def advance(self, seconds: float) -> None:
        """Move the clock by this many seconds, >= 0."""
        if not seconds >= 0:
            raise ValueError(f"advance({seconds!r}): time goes forward only, by 0 seconds or more")
        with self._changed:
            self._elapsed = round(self._elapsed + seconds, DIGITS)  # 0.1 and 0.2 are 0.3

    def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved by this many seconds."""
        nobody = threading.Lock()
        nobody.acquire()
        self.monotonic()
        self.wait(nobody, seconds)

    async def asleep(self, seconds: float) -> None:
        """`sleep` for coroutines."""
        due = round(self.monotonic() + seconds, DIGITS)
        while self.monotonic() < due:  # noqa: ASYNC110  (the clock moves on another thread, which sets no event)
            await asyncio.sleep(GLANCE)

    def wait(self, gate: Gate, timeout: float | None) -> bool:
        """Wait until the gate opens, or until the clock has been moved by `timeout` seconds; the bus's threads call this."""
        # The thread has computed the timeout from the time that it read last: the clock may have moved since then.
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
        Wait until this many threads wait for the clock, so that moving it wakes them.

        Args:
            timeout: In real seconds.

        Raises:
            TimeoutError: Fewer threads wait for it.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting >= threads, timeout):
                raise TimeoutError(f"{self._waiting} of {threads} threads wait for this clock, after {timeout:g} s")

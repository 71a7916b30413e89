"""pipebus on JetStream, as a user writes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import repeat
from typing import Any

import limit_nats
from harness import BODY, Durable

STORED = Durable(
    "once for each id within 2 minutes, sent again on a new connection; leases renewed, retries, dead letters; JSON both ways",
    limit_nats.SYNC, "yes, confirmed", "yes", "again in 30 s",
)  # fmt: skip
STREAM = "PIPEBUS"
NAME = "work"
PATIENCE = 600.0  # seconds until a message counts as lost


def open_bus(url: str) -> Any:
    """A bus that is not started."""
    from pipebus import Bus

    return Bus(url, require={"survives": "server_restart"})


async def from_coroutines(publish: Callable[[], Any], publishers: int, size: int) -> None:
    """Publish `size` messages from coroutines that each await one after the other."""

    async def publisher(share: int) -> None:
        for _ in repeat(None, share):
            await publish()

    await asyncio.gather(*(publisher(size // publishers + (number < size % publishers)) for number in range(publishers)))


class Counter:
    """Handlers that count; the loop is notified when all have been seen."""

    def __init__(self) -> None:
        self.seen = self.size = 0
        self.last: Any = None
        self._loop = asyncio.get_running_loop()
        self._all = asyncio.Event()

    def expect(self, size: int) -> None:
        self.size += size
        self._all.clear()

    def count(self, message: Any) -> None:
        self.seen += 1
        if self.seen == self.size:
            self.last = message
            self._loop.call_soon_threadsafe(self._all.set)

    def handler(self) -> Callable[[Any], None]:
        # No annotation on the parameter: for pipebus that means the message itself.
        def handle(message) -> None:  # type: ignore[no-untyped-def]
            self.count(message)

        return handle

    def coroutine(self) -> Callable[[Any], Any]:
        async def handle(message) -> None:  # type: ignore[no-untyped-def]
            self.count(message)

        return handle

    async def wait(self) -> None:
        """
        Raises:
            RuntimeError: A message was lost.
        """
        try:
            await asyncio.wait_for(self._all.wait(), PATIENCE)
        except TimeoutError:
            raise RuntimeError(f"{self.seen} of {self.size} messages were handled after {PATIENCE:g} s") from None


def check(body: Any) -> None:
    """
    Raises:
        RuntimeError: It is not what was published.
    """
    if body != BODY:
        raise RuntimeError(f"a message arrived as {body!r}")

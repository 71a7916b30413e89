"""pipebus on a SQLite file, as a user writes it; only a backlog is put there faster than a user could publish it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from itertools import repeat
from threading import Barrier, Event, Thread
from time import perf_counter, time
from typing import Any, Literal

from harness import BODY, SUBJECT, Durable, Handler

POWER = Durable(
    "from the main thread; by subscription, once for each id within 2 minutes, leases, retries, dead letters",
    "yes", "yes", "yes", "again in 1 s",
)  # fmt: skip
PROCESS = POWER._replace(words="the same without a sync: a power cut loses the last commits", synced="no")
NAME = "work"
PATIENCE = 600.0  # seconds until a message counts as lost


def open_bus(
    path: str, handle: Handler | None = None, durability: Literal["power", "process"] = "power", **options: Any
) -> Any:
    """A started bus; with a handler it serves the subscription, without one it only publishes."""
    from pipebus import Bus

    bus = Bus(f"sqlite:///{path}?durability={durability}", require={"survives": durability})
    if handle is not None:
        bus.subscribe(SUBJECT, handle, name=NAME, **options)
    bus.start()
    return bus


def subscribe(path: str) -> None:
    """Make the file, with a subscription that nobody serves: what is published from now on is kept for it."""
    open_bus(path, print).stop()


def fill(bus: Any, size: int, most: int = 50_000) -> None:
    """
    Put messages into the file of a started bus, for the subscription.

    Args:
        most: In one transaction.
    """
    from pipebus.bus.bus import engine_of
    from pipebus.message.message import Message
    from pipebus.transports.sql.publishing import publish
    from pipebus.transports.sql.records import Outgoing

    encode = engine_of(bus).codec.encode
    run = f"{int(time() * 1000):012x}-{os.urandom(8).hex()}"  # ids as a bus makes them
    for done in range(0, size, most):
        ids = [f"{run}-{number:010x}" for number in range(done, min(size, done + most))]
        outgoing = [Outgoing(id, SUBJECT, None, encode(Message(SUBJECT, BODY, id=id)), 0.0) for id in ids]
        engine_of(bus).transport.file.write(partial(publish, outgoing=outgoing))


def waiting(path: str) -> int:
    """How many messages are not acknowledged, now that nobody works."""
    from pipebus.bus.bus import engine_of

    bus = open_bus(path)
    found = engine_of(bus).transport.figures(NAME)
    bus.stop()
    return int(found["pending"] + found["in_flight"] + found["dead"])


async def from_coroutines(bus: Any, publishers: int, size: int) -> None:
    """Publish `size` messages from coroutines that each await one after the other."""

    async def publisher(share: int) -> None:
        for _ in repeat(None, share):
            await bus.apublish(SUBJECT, BODY)

    await asyncio.gather(*(publisher(share) for share in shares(publishers, size)))


def from_threads(publish: Callable[[], Any], publishers: int, size: int) -> float:
    """
    Publish `size` messages from threads that each wait for one after the other.

    Returns:
        Seconds from the moment when all of them are ready to start.
    """
    start = Barrier(publishers + 1)
    failed: list[BaseException] = []

    def publisher(share: int) -> None:
        start.wait()
        try:
            for _ in repeat(None, share):
                publish()
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=publisher, args=(share,)) for share in shares(publishers, size)]
    for thread in threads:
        thread.start()
    start.wait()
    started = perf_counter()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return perf_counter() - started


def shares(publishers: int, size: int) -> list[int]:
    """Split messages evenly."""
    return [size // publishers + (number < size % publishers) for number in range(publishers)]


class Counter:
    """A handler that counts, and tells when it has seen all."""

    def __init__(self, size: int) -> None:
        self.seen = 0
        self.size = size
        self.last: Any = None
        self.all = Event()

    def count(self, message: Any) -> None:
        self.seen += 1
        if self.seen == self.size:
            self.last = message
            self.all.set()

    def handler(self) -> Callable[[Any], None]:
        # No annotation on the parameter: for pipebus that means the message itself.
        def handle(message) -> None:  # type: ignore[no-untyped-def]
            self.count(message)

        return handle

    def wait(self) -> None:
        """
        Raises:
            RuntimeError: A message was lost.
        """
        if not self.all.wait(PATIENCE):
            raise RuntimeError(f"{self.seen} of {self.size} messages were handled after {PATIENCE:g} s")

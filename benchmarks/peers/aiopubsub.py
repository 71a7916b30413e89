"""
aiopubsub: a hub on an event loop; a listener is a coroutine with an `asyncio.Queue`. It has no filters and no replies.

A new listener is compared with all keys so far, and so is the first message of a subject: sets of many subjects grow with
their square, so it is measured with a thousand, and not with a hundred thousand subscribers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from harness import SUBJECT, Guarantees
from loop_clocks import ACrowd, AHandler, APublish
from simplest import Message

GUARANTEES = Guarantees("an asyncio.Queue and a task a listener", "yes", "end its listener", "no", "yes", package="aiopubsub")
SUBJECTS = 1_000
PREFIX = "bench"


@asynccontextmanager
async def open_crowd(crowd: ACrowd) -> AsyncIterator[APublish]:
    """Listeners of keys, and a publisher with a prefix."""
    from aiopubsub import Hub, Key, Publisher, Subscriber

    def listener(handle: AHandler) -> Callable[[Key, Message], Awaitable[Any]]:
        return lambda key, message: handle(message)

    hub = Hub()
    subscriber = Subscriber(hub, "handlers")
    publisher = Publisher(hub, prefix=Key(PREFIX))
    for subject, handle in crowd:
        subscriber.add_async_listener(Key(PREFIX, subject), listener(handle))

    async def publish(subject: str, body: Any) -> None:
        publisher.publish(Key(subject), Message(subject, body))

    yield publish
    await subscriber.remove_all_listeners()


def open_flow(filters: Sequence[Any], handle: AHandler) -> Any:
    """One listener."""
    return open_crowd([(SUBJECT, handle)])

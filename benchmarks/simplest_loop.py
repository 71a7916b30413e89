"""The simplest design on one event loop: an `asyncio.Queue` and a task for each subscriber, filters in a loop on the way in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from harness import SUBJECT, Guarantees
from loop_clocks import ACrowd, AHandler, APublish
from simplest import Message

BOUND = 10_000  # the bound of a mailbox of pipebus
PROMISES = ("yes", "end its task", "yes, waits", "yes")
GUARANTEES = Guarantees("an asyncio.Queue and a task a subscriber; filters see the way in only", *PROMISES)

AFilter = Callable[[Message], Awaitable[Message]]


@asynccontextmanager
async def open_crowd(crowd: ACrowd, filters: Sequence[AFilter] = ()) -> AsyncIterator[APublish]:
    """Subject -> the queues of its subscribers."""
    queues: dict[str, list[asyncio.Queue[Message]]] = {}
    tasks = []

    async def consume(queue: asyncio.Queue[Message], handle: AHandler) -> None:
        while True:
            await handle(await queue.get())

    for subject, handle in crowd:
        queue: asyncio.Queue[Message] = asyncio.Queue(BOUND)
        queues.setdefault(subject, []).append(queue)
        tasks.append(asyncio.create_task(consume(queue, handle)))

    async def publish(subject: str, body: Any) -> None:
        message = Message(subject, body)
        for filter_ in filters:
            message = await filter_(message)
        for queue in queues[subject]:
            await queue.put(message)

    try:
        yield publish
    finally:
        for task in tasks:
            task.cancel()


def open_flow(filters: Sequence[AFilter], handle: AHandler) -> Any:
    """One subscriber on one subject."""
    return open_crowd([(SUBJECT, handle)], filters)

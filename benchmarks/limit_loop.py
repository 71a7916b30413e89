"""
The hand-written limit on one event loop: closures of coroutines, deques, and tasks that sleep while there is no mail.

A put that finds its deque empty puts it on the ready list and wakes a task, if one sleeps. So each subscriber sees its
messages in order and one at a time, and a handler that waits keeps one task, not all. No lock: only one thread takes part.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from harness import SUBJECT, Guarantees
from limit import NO_HEADERS, Message
from loop_clocks import ACrowd, AHandler, APublish

TASKS = 4  # as many as the pool of the limit on threads has
BARE = ("yes", "end its task", "no", "yes")
GUARANTEES = Guarantees("closures of coroutines, a deque, one task, one subscriber", *BARE)
CROWD = Guarantees(f"{TASKS} tasks, a deque each; no turns", *BARE)

ANext = Callable[[Message], Awaitable[None]]
AFilter = Callable[[Message, ANext], Awaitable[None]]


def link(filter_: AFilter, call_next: ANext) -> ANext:
    """Compose one filter with the rest of the chain."""
    return lambda message: filter_(message, call_next)


@asynccontextmanager
async def open_flow(filters: Sequence[AFilter], handle: AHandler) -> AsyncIterator[APublish]:
    """One deque and one task."""
    loop = asyncio.get_running_loop()
    waiting: deque[Message] = deque()
    queues = {SUBJECT: waiting}
    next_id = count(1).__next__
    bell: asyncio.Future[None] | None = None

    def put(message: Message) -> None:
        nonlocal bell
        queues[message.subject].append(message)
        if bell is not None:
            bell.set_result(None)
            bell = None

    async def terminal(message: Message) -> None:
        put(message)

    chain: ANext = terminal
    for filter_ in reversed(filters):
        chain = link(filter_, chain)

    async def publish(subject: str, body: Any, headers: dict[str, Any] = NO_HEADERS) -> None:
        await chain(Message(next_id(), subject, body, headers))

    async def publish_at_once(subject: str, body: Any, headers: dict[str, Any] = NO_HEADERS) -> None:
        put(Message(next_id(), subject, body, headers))

    async def consume() -> None:
        nonlocal bell
        while True:
            while waiting:
                await handle(waiting.popleft())
            bell = loop.create_future()
            await bell

    task = loop.create_task(consume())
    try:
        yield publish if filters else publish_at_once
    finally:
        task.cancel()


@asynccontextmanager
async def open_crowd(crowd: ACrowd) -> AsyncIterator[APublish]:
    """Subject -> its mailboxes, each a deque and a handler."""
    loop = asyncio.get_running_loop()
    routes: dict[str, list[tuple[deque[Message], AHandler]]] = {}
    for subject, handle in crowd:
        routes.setdefault(subject, []).append((deque(), handle))
    ready: deque[tuple[deque[Message], AHandler]] = deque()
    asleep: list[asyncio.Future[None]] = []
    next_id = count(1).__next__

    async def publish(subject: str, body: Any, headers: dict[str, Any] = NO_HEADERS) -> None:
        message = Message(next_id(), subject, body, headers)
        for mailbox in routes[subject]:
            items = mailbox[0]
            items.append(message)
            if len(items) == 1:
                ready.append(mailbox)
                if asleep:
                    asleep.pop().set_result(None)

    async def work() -> None:
        while True:
            while ready:
                items, handle = ready.popleft()
                while items:  # a message leaves the deque when it is handled, so a deque with messages has its task
                    await handle(items[0])
                    items.popleft()
            bell = loop.create_future()
            asleep.append(bell)
            await bell

    tasks = [loop.create_task(work()) for _ in range(TASKS)]
    try:
        yield publish
    finally:
        for task in tasks:
            task.cancel()

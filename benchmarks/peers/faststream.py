"""
FastStream on JetStream: its broker alone, without an application around it; its log is off.

It has no stream or consumer settings of its own here: those of the limit are made before. A batch that it fetches is handled
all at once, each message as a task.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import limit_nats
from harness import BODY, Durable, Handler

GUARANTEES = Durable(
    "a coroutine; dedupe by ids that the program makes; no leases renewed, no dead letters",
    limit_nats.SYNC, "yes, not confirmed", "no: 100 at once", "again in 30 s", package="faststream",
)  # fmt: skip


@asynccontextmanager
async def open_broker(url: str, handle: Handler | None = None) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """
    Yields:
        What publishes the body of all workloads, and returns when the server has answered.
    """
    from faststream.nats import JStream, NatsBroker, PullSub

    async with limit_nats.connected(url) as client:
        await limit_nats.make_stream(client)
        if handle is not None:
            await limit_nats.make_consumer(client)
    broker = NatsBroker(url, logger=None)
    if handle is not None:

        @broker.subscriber(
            limit_nats.WHERE,
            durable=limit_nats.NAME,
            stream=JStream(limit_nats.STREAM, declare=False),
            pull_sub=PullSub(batch_size=limit_nats.FETCH),
        )
        async def act(body: dict[str, Any]) -> None:
            handle(body)

    number = count(1).__next__

    def publish() -> Awaitable[Any]:
        headers = {"Nats-Msg-Id": f"01a2236f6f6d-1f02b5ccde0f00c7-{number():010x}"}
        return broker.publish(BODY, limit_nats.WHERE, stream=limit_nats.STREAM, headers=headers, timeout=60.0)

    async with broker:
        await broker.start()
        yield publish

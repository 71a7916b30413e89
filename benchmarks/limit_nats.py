"""
The hand-written limit of the workloads on JetStream: loops over nats-py, on one event loop.

They use a stream and a consumer with the settings that pipebus gives its own (files, two minutes of dedupe, explicit
acknowledgements), and the same bytes. An error of any message ends the whole run; a lost connection does, too. Nobody renews a
lease, looks at the bytes, or catches what a handler raises.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from harness import Durable
from limit_sqlite import DATA

SYNC = "each 2 min"
STORED = Durable(
    "nats-py, one coroutine; once for each id within 2 minutes; a publish that fails ends the run",
    SYNC, "yes, not confirmed", "yes", "again in 30 s",
)  # fmt: skip
STREAM = "LIMIT"
WHERE = "limit.orders.created"
NAME = "work"
WINDOW = 256  # publishes on their way
FETCH = 100
NANO = 1_000_000_000

Handle = Callable[[bytes], Any]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """A client of nats-py; its checks of subjects are off, as in pipebus."""
    import nats

    client = await nats.connect(url, allow_reconnect=False, skip_subject_validation=True, pending_size=16 * 2**20)
    try:
        yield client
    finally:
        await client.close()


async def make_stream(client: Any) -> None:
    from nats.js import api

    await client.jetstream().add_stream(
        api.StreamConfig(
            name=STREAM,
            subjects=["limit.>"],
            retention=api.RetentionPolicy.LIMITS,
            storage=api.StorageType.FILE,
            duplicate_window=120.0,
            allow_direct=True,
        )
    )


async def make_consumer(client: Any) -> None:
    from nats.js import api

    await client.jetstream().add_consumer(
        STREAM,
        api.ConsumerConfig(
            name=NAME,
            durable_name=NAME,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=30.0,
            max_deliver=-1,
            max_ack_pending=-1,
            filter_subjects=[WHERE],
            deliver_policy=api.DeliverPolicy.ALL,
        ),
    )


async def stored(client: Any, stream: str) -> int:
    """Messages in a stream."""
    return int((await client.jetstream().stream_info(stream)).state.messages)


async def settled(client: Any, stream: str, consumer: str) -> None:
    """Return when the server says that nothing of a consumer is pending, and nothing unacknowledged."""
    jetstream = client.jetstream()
    while True:
        found = await jetstream.consumer_info(stream, consumer)
        if not found.num_pending and not found.num_ack_pending:
            return
        await asyncio.sleep(0.001)


class Publisher:
    """
    Publishes; ids grow, as those of pipebus do.

    Args:
        client: What carries it.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self._jetstream = client.jetstream()
        self._number = count(1).__next__
        self._inbox = f"{client.new_inbox()}.a"
        self._flying = 0
        self._most = WINDOW
        self._room = asyncio.Event()
        self._error: Any = None

    async def open(self) -> None:
        await self.client.subscribe(self._inbox, cb=self._answered, pending_bytes_limit=0)

    def headers(self) -> dict[str, str]:
        return {"Nats-Msg-Id": f"01a2236f6f6d-1f02b5ccde0f00c7-{self._number():010x}"}

    async def one(self) -> None:
        """As nats-py offers it: a request, whose answer is looked at."""
        await self._jetstream.publish(WHERE, DATA, headers=self.headers())

    async def many(self, size: int) -> None:
        """
        A window of publishes, on one inbox: answers are looked at and counted, and nobody knows which one an answer is for.

        Raises:
            RuntimeError: One of them was refused.
        """
        publish, headers, inbox = self.client.publish, self.headers, self._inbox
        for _ in range(size):
            if self._flying >= WINDOW:
                await self._fewer(WINDOW)
            self._flying += 1
            await publish(WHERE, DATA, inbox, headers())
        await self._fewer(1)

    async def _fewer(self, most: int) -> None:
        """Wait until fewer are on their way."""
        self._most = most
        while self._flying >= most:
            self._room.clear()
            await self._room.wait()
        if self._error is not None:
            raise RuntimeError(self._error)

    async def _answered(self, message: Any) -> None:
        found = json.loads(message.data) if message.data else {"error": message.headers}
        if "error" in found:
            self._error = found["error"]
        self._flying -= 1
        if self._flying < self._most:
            self._room.set()

    async def futures(self, size: int) -> None:
        """The same window with nats-py's `publish_async`, which has a future for each."""
        jetstream = self.client.jetstream(publish_async_max_pending=WINDOW)
        open_ones: set[Any] = set()

        def over(future: Any) -> None:
            open_ones.discard(future)
            if future.exception() is not None:
                self._error = future.exception()

        for _ in range(size):
            future = await jetstream.publish_async(WHERE, DATA, headers=self.headers())
            open_ones.add(future)
            future.add_done_callback(over)
        await jetstream.publish_async_completed()
        if self._error is not None:
            raise RuntimeError(self._error)


async def consume_fetched(client: Any, handle: Handle) -> None:
    """As nats-py offers it: fetch, handle, acknowledge, forever."""
    import nats.errors

    subscription = await client.jetstream().pull_subscribe_bind(NAME, STREAM)
    while True:
        try:
            found = await subscription.fetch(FETCH, timeout=1.0)
        except nats.errors.TimeoutError:
            continue
        for message in found:
            handle(message.data)
            await message.ack()


class Consumer:
    """Asks for more before the last are handled: so the server never waits."""

    def __init__(self, client: Any, handle: Handle) -> None:
        self._client, self._handle = client, handle
        self._inbox = client.new_inbox()
        self._credit = 0

    async def open(self) -> None:
        await self._client.subscribe(self._inbox, cb=self._arrived, pending_bytes_limit=0)
        await self._ask(2 * FETCH)

    async def _ask(self, size: int) -> None:
        self._credit += size
        body = b'{"batch":%d,"expires":%d}' % (size, 600 * NANO)
        await self._client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{NAME}", body, self._inbox)

    async def _arrived(self, message: Any) -> None:
        if not message.reply:
            raise RuntimeError(message.headers)
        self._handle(message.data)
        await self._client.publish(message.reply)
        self._credit -= 1
        if self._credit <= FETCH:
            await self._ask(FETCH)

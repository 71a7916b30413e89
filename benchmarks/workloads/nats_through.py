"""
nats_through: from publish to acknowledgement on a NATS server, in one process.

The handler does nothing but count. It has ended when the server says that nothing is pending and nothing unacknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from importlib.util import find_spec
from itertools import count
from time import perf_counter, process_time
from typing import Any, NamedTuple

import limit_nats
import ours_nats
import server
from harness import BODY, SUBJECT, Contender, Workload

FIRST = 2_000  # messages that are not counted
MANY = 256  # publishes on their way


class Road(NamedTuple):
    """How to publish that many, and of which stream's consumer the server is asked."""

    publish: Callable[[int], Awaitable[Any]]
    stream: str
    consumer: str


OpenRoad = Callable[[str, ours_nats.Counter], AbstractAsyncContextManager[Road]]


@asynccontextmanager
async def limit_road(two: bool, url: str, counter: ours_nats.Counter, *, offered: bool = False) -> AsyncIterator[Road]:
    """
    Args:
        two: Connections, one for each way.
        offered: With what nats-py offers for it: `publish_async` and `fetch`.
    """
    async with limit_nats.connected(url) as client, limit_nats.connected(url) as other:
        await limit_nats.make_stream(client)
        await limit_nats.make_consumer(client)
        publisher = limit_nats.Publisher(client)
        reader = other if two else client
        if offered:
            task = asyncio.create_task(limit_nats.consume_fetched(reader, counter.count))
            yield Road(publisher.futures, limit_nats.STREAM, limit_nats.NAME)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        else:
            await publisher.open()
            await limit_nats.Consumer(reader, counter.count).open()
            yield Road(publisher.many, limit_nats.STREAM, limit_nats.NAME)
    if counter.last != limit_nats.DATA:
        raise RuntimeError(f"a message arrived as {counter.last!r}")


@asynccontextmanager
async def our_road(coroutine: bool, url: str, counter: ours_nats.Counter) -> AsyncIterator[Road]:
    """
    Args:
        coroutine: The handler is one, on the loop that publishes; else it runs on a thread.
    """
    bus = ours_nats.open_bus(url)
    bus.subscribe(SUBJECT, counter.coroutine() if coroutine else counter.handler(), name=ours_nats.NAME)
    async with bus:
        yield Road(
            partial(ours_nats.from_coroutines, lambda: bus.apublish(SUBJECT, BODY), MANY), ours_nats.STREAM, ours_nats.NAME
        )
    ours_nats.check(counter.last.body)


@asynccontextmanager
async def faststream_road(url: str, counter: ours_nats.Counter) -> AsyncIterator[Road]:
    """The broker alone, without an application around it; its log is off."""
    from faststream.nats import JStream, NatsBroker, PullSub

    async with limit_nats.connected(url) as client:
        await limit_nats.make_stream(client)
        await limit_nats.make_consumer(client)
    broker = NatsBroker(url, logger=None)

    @broker.subscriber(
        limit_nats.WHERE,
        durable=limit_nats.NAME,
        stream=JStream(limit_nats.STREAM, declare=False),
        pull_sub=PullSub(batch_size=limit_nats.FETCH),
    )
    async def handle(body: dict[str, Any]) -> None:
        counter.count(body)

    number = count(1).__next__

    def publish() -> Awaitable[Any]:
        headers = {"Nats-Msg-Id": f"01a2236f6f6d-1f02b5ccde0f00c7-{number():010x}"}
        return broker.publish(BODY, limit_nats.WHERE, stream=limit_nats.STREAM, headers=headers)

    async with broker:
        await broker.start()
        yield Road(partial(ours_nats.from_coroutines, publish, MANY), limit_nats.STREAM, limit_nats.NAME)
    ours_nats.check(counter.last)


def through(open_road: OpenRoad, size: int) -> Mapping[str, float]:
    async def main(one: server.Server) -> Mapping[str, float]:
        counter = ours_nats.Counter()
        async with open_road(one.url, counter) as road, limit_nats.connected(one.url) as client:

            async def run(size: int) -> float:
                counter.expect(size)
                start = perf_counter()
                await road.publish(size)
                published = perf_counter() - start
                await counter.wait()
                await limit_nats.settled(client, road.stream, road.consumer)
                return published

            await run(FIRST)
            start, work, served = perf_counter(), process_time(), one.worked()
            published = await run(size)
            took, work, served = perf_counter() - start, process_time() - work, one.worked() - served
        if counter.seen != FIRST + size:
            raise RuntimeError(f"{counter.seen} of {FIRST + size} messages were handled")
        seconds = {"us": took, "published": published, "cpu": work, "server": served}
        return {key: each / size * 1e6 for key, each in seconds.items()}

    with server.new_server() as one:
        return asyncio.run(main(one))


FASTSTREAM = {
    "faststream": Contender(
        "FastStream, a coroutine: dedupe by ids that the program makes; a batch of 100 is handled at once, in no order; "
        "acknowledgements sent, not confirmed; no leases renewed, no dead letters",
        partial(through, faststream_road),
    )
}

THROUGH = Workload(
    about=f"published with {MANY} on their way, handled by one handler, until the server has all acknowledgements",
    columns={
        "us": "µs a message",
        "published": "µs until all are published",
        "cpu": "CPU µs",
        "server": "server's CPU µs",
    },
    contenders={
        "limit": Contender(
            f"nats-py, one loop, connection and inbox; {limit_nats.STORED}; acknowledgements sent, not confirmed; "
            "no leases renewed, no dead letters, no JSON",
            partial(through, partial(limit_road, False)),
        ),
        "limit-two": Contender("the same with a connection for each way", partial(through, partial(limit_road, True))),
        "raw": Contender(
            f"the same with what nats-py offers for it: `publish_async`, `fetch({limit_nats.FETCH})`, `ack`; one connection",
            partial(through, partial(limit_road, False, offered=True)),
        ),
        "raw-two": Contender("the same with two", partial(through, partial(limit_road, True, offered=True))),
        "pipebus": Contender(
            f"{MANY} coroutines, handler on a thread; {ours_nats.STORED}; {ours_nats.THROUGH}",
            partial(through, partial(our_road, False)),
            1.3,
        ),
        "pipebus-loop": Contender(
            "the same with a coroutine as handler, on the loop that publishes", partial(through, partial(our_road, True)), 1.3
        ),
        **(FASTSTREAM if find_spec("faststream") else {}),
    },
    size=20_000,
    when_named=True,
    where=server.told,
)

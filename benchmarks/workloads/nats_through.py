"""
nats_through: from publish to acknowledgement on a NATS server, in one process.

The handler does nothing but count. It has ended when the server says that nothing is pending and nothing unacknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from time import perf_counter, process_time
from typing import Any, NamedTuple

import limit_nats
import ours_nats
import server
from clocks import each
from harness import BODY, SUBJECT, Contender, Workload, also
from peers import faststream

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
    async with faststream.open_broker(url, counter.count) as publish:
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
        return each(size, us=took, published=published, cpu=work, server=served)

    with server.new_server() as one:
        return asyncio.run(main(one))


REACH = 1.2

THROUGH = Workload(
    about=f"published with {MANY} on their way, handled by one handler, until the server has all acknowledgements",
    columns={
        "us": "µs a message",
        "published": "µs until all are published",
        "cpu": "CPU µs",
        "server": "server's CPU µs",
    },
    contenders={
        "raw": Contender(
            limit_nats.STORED._replace(
                words=f"nats-py as offered: `publish_async`, `fetch({limit_nats.FETCH})`, `ack`; one connection; no JSON"
            ),
            partial(through, partial(limit_road, False, offered=True)),
        ),
        "raw-two": Contender(
            also("with a connection for each way", limit_nats.STORED), partial(through, partial(limit_road, True, offered=True))
        ),
        "limit": Contender(
            limit_nats.STORED._replace(
                words="the same without futures and tasks: one inbox for all answers, one for all deliveries"
            ),
            partial(through, partial(limit_road, False)),
        ),
        "limit-two": Contender(
            also("with a connection for each way", limit_nats.STORED), partial(through, partial(limit_road, True))
        ),
        "pipebus": Contender(
            ours_nats.STORED._replace(words=f"{MANY} coroutines, handler on a thread; {ours_nats.STORED.words}"),
            partial(through, partial(our_road, False)),
            REACH,
        ),
        "pipebus-loop": Contender(
            also("with a coroutine as handler, on the loop that publishes", ours_nats.STORED),
            partial(through, partial(our_road, True)),
            REACH,
        ),
        "faststream": Contender(faststream.GUARANTEES, partial(through, faststream_road)),
    },
    size=20_000,
    when_named=True,
    where=server.told,
)

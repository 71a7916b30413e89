"""nats_publish, nats_publishers: what it costs until a NATS server says that it has a message, alone and with many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import perf_counter, process_time
from typing import Any

import limit_nats
import ours_nats
import server
from clocks import PUBLISHES, atime_publishes, each, on_thread, time_publishes
from harness import BODY, SUBJECT, Contender, Workload, also
from ours_sqlite import from_threads
from peers import faststream

FIRST = 200  # messages that are not counted
FIRST_MANY = 2_000
MANY = 256  # publishers: coroutines
THREADS = 64


# --- one after the other ---------------------------------------------------------------------------------------------------


def limit_one(size: int) -> Mapping[str, float]:
    async def main(url: str) -> Mapping[str, float]:
        async with limit_nats.connected(url) as client:
            await limit_nats.make_stream(client)
            found = await atime_publishes(limit_nats.Publisher(client).one, FIRST, size)
            await must_have(client, limit_nats.STREAM, FIRST + size)
            return found

    with server.new_server() as one:
        return asyncio.run(main(one.url))


def our_awaited(size: int) -> Mapping[str, float]:
    with server.new_server() as one:
        bus = ours_nats.open_bus(one.url)
        bus.start()
        found = asyncio.run(atime_publishes(partial(bus.apublish, SUBJECT, BODY), FIRST, size))
        bus.stop()
        asyncio.run(we_must_have(one.url, FIRST + size))
    return found


def our_one(another: bool, size: int) -> Mapping[str, float]:
    """
    Args:
        another: From a thread that is not the main one.
    """
    with server.new_server() as one:
        bus = ours_nats.open_bus(one.url)
        bus.start()
        found = on_thread(another, partial(time_publishes, partial(bus.publish, SUBJECT, BODY), FIRST, size))
        bus.stop()
        asyncio.run(we_must_have(one.url, FIRST + size))
    return found


def faststream_one(size: int) -> Mapping[str, float]:
    async def main(url: str) -> Mapping[str, float]:
        async with faststream.open_broker(url) as publish:
            return await atime_publishes(publish, FIRST, size)

    with server.new_server() as one:
        found = asyncio.run(main(one.url))
        asyncio.run(we_must_have(one.url, FIRST + size, limit_nats.STREAM))
    return found


async def must_have(client: Any, stream: str, size: int) -> None:
    """
    Raises:
        RuntimeError: The server has not as many messages as were published.
    """
    found = await limit_nats.stored(client, stream)
    if found != size:
        raise RuntimeError(f"{size} messages were published, {found} are in the stream")


async def we_must_have(url: str, size: int, stream: str = ours_nats.STREAM) -> None:
    async with limit_nats.connected(url) as client:
        await must_have(client, stream, size)


ONE = 1.3

PUBLISH = Workload(
    about="publish one message, wait until the server says that it has it, publish the next",
    columns=PUBLISHES,
    contenders={
        "raw": Contender(limit_nats.STORED._replace(words="`await js.publish(…)` of nats-py; once for each id"), limit_one),
        "pipebus-await": Contender(
            ours_nats.STORED._replace(words=f"`await bus.apublish(…)`; {ours_nats.STORED.words}"), our_awaited, ONE
        ),
        "pipebus": Contender(also("by `bus.publish(…)`, from the main thread", ours_nats.STORED), partial(our_one, False), ONE),
        "pipebus-thread": Contender(also("from another thread", ours_nats.STORED), partial(our_one, True), ONE),
        "faststream": Contender(faststream.GUARANTEES, faststream_one),
    },
    size=2_000,
    when_named=True,
    where=server.told,
)


# --- many at once ----------------------------------------------------------------------------------------------------------


def limit_many(futures: bool, size: int) -> Mapping[str, float]:
    """
    Args:
        futures: With `publish_async` of nats-py, instead of an inbox of our own.
    """

    async def main(one: server.Server) -> Mapping[str, float]:
        async with limit_nats.connected(one.url) as client:
            await limit_nats.make_stream(client)
            publisher = limit_nats.Publisher(client)
            await publisher.open()
            publish = publisher.futures if futures else publisher.many
            await publish(FIRST_MANY)
            start, work, served = perf_counter(), process_time(), one.worked()
            await publish(size)
            found = each(size, us=perf_counter() - start, cpu=process_time() - work, server=one.worked() - served)
            await must_have(client, limit_nats.STREAM, FIRST_MANY + size)
            return found

    with server.new_server() as one:
        return asyncio.run(main(one))


def our_many(threads: bool, size: int) -> Mapping[str, float]:
    """Publishers that each wait for their message before they publish the next."""

    async def publish_all(bus: Any, one: server.Server) -> Mapping[str, float]:
        return await coroutines(partial(bus.apublish, SUBJECT, BODY), one, size)

    with server.new_server() as one:
        bus = ours_nats.open_bus(one.url)
        bus.start()
        if threads:
            publish = partial(bus.publish, SUBJECT, BODY)
            from_threads(publish, THREADS, FIRST_MANY)
            work, served = process_time(), one.worked()
            took = from_threads(publish, THREADS, size)
            found = each(size, us=took, cpu=process_time() - work, server=one.worked() - served)
        else:
            found = asyncio.run(publish_all(bus, one))
        bus.stop()
        asyncio.run(we_must_have(one.url, FIRST_MANY + size))
    return found


async def coroutines(publish: Callable[[], Awaitable[Any]], one: server.Server, size: int) -> Mapping[str, float]:
    """Coroutines that each wait for their message before they publish the next."""
    await ours_nats.from_coroutines(publish, MANY, FIRST_MANY)
    start, work, served = perf_counter(), process_time(), one.worked()
    await ours_nats.from_coroutines(publish, MANY, size)
    return each(size, us=perf_counter() - start, cpu=process_time() - work, server=one.worked() - served)


def faststream_many(size: int) -> Mapping[str, float]:
    async def main(one: server.Server) -> Mapping[str, float]:
        async with faststream.open_broker(one.url) as publish:
            return await coroutines(publish, one, size)

    with server.new_server() as one:
        found = asyncio.run(main(one))
        asyncio.run(we_must_have(one.url, FIRST_MANY + size, limit_nats.STREAM))
    return found


WINDOW = 1.15

PUBLISHERS = Workload(
    about=f"many publishers at once, each of which waits for its message; nats-py has {limit_nats.WINDOW} on their way",
    columns={"us": "µs a message", "cpu": "CPU µs", "server": "server's CPU µs"},
    contenders={
        "raw": Contender(
            limit_nats.STORED._replace(words="`publish_async` of nats-py, from one coroutine: a future for each"),
            partial(limit_many, True),
        ),
        "limit": Contender(
            limit_nats.STORED._replace(words="one inbox for all answers, no futures; which one failed nobody knows"),
            partial(limit_many, False),
        ),
        "pipebus": Contender(
            ours_nats.STORED._replace(words=f"{MANY} coroutines; {ours_nats.STORED.words}"), partial(our_many, False), WINDOW
        ),
        "pipebus-threads": Contender(also(f"from {THREADS} threads", ours_nats.STORED), partial(our_many, True), WINDOW),
        "faststream": Contender(
            faststream.GUARANTEES._replace(words=f"{MANY} coroutines; dedupe by ids that the program makes"), faststream_many
        ),
    },
    size=20_000,
    when_named=True,
    where=server.told,
)

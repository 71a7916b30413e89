"""nats_publish, nats_publishers: what it costs until a NATS server says that it has a message, alone and with many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from threading import Thread
from time import perf_counter, process_time
from typing import Any

import limit_nats
import ours_nats
import server
from harness import BODY, SUBJECT, Contender, Workload
from ours_sqlite import from_threads

from .sqlite_publish import stream, timed, trips

FIRST = 200  # messages that are not counted
FIRST_MANY = 2_000
MANY = 256  # publishers: coroutines
THREADS = 64


# --- one after the other ---------------------------------------------------------------------------------------------------


async def atimed(publish: Callable[[], Awaitable[Any]], size: int) -> tuple[list[float], float]:
    """Time single publishes, after some that are not counted."""
    for _ in range(FIRST):
        await publish()
    times = []
    work = process_time()
    for _ in range(size):
        start = perf_counter()
        await publish()
        times.append(perf_counter() - start)
    return times, process_time() - work


def limit_one(size: int) -> Mapping[str, float]:
    async def main(url: str) -> tuple[list[float], float]:
        async with limit_nats.connected(url) as client:
            await limit_nats.make_stream(client)
            publisher = limit_nats.Publisher(client)
            found = await atimed(publisher.one, size)
            await must_have(client, limit_nats.STREAM, FIRST + size)
            return found

    with server.new_server() as one:
        return trips(*asyncio.run(main(one.url)))


def our_awaited(size: int) -> Mapping[str, float]:
    with server.new_server() as one:
        bus = ours_nats.open_bus(one.url)
        bus.start()
        found = asyncio.run(atimed(lambda: bus.apublish(SUBJECT, BODY), size))
        bus.stop()
        asyncio.run(we_must_have(one.url, FIRST + size))
    return trips(*found)


def our_one(another: bool, size: int) -> Mapping[str, float]:
    """
    Args:
        another: From a thread that is not the main one.
    """
    with server.new_server() as one:
        bus = ours_nats.open_bus(one.url)
        bus.start()
        found: list[tuple[list[float], float]] = []

        def publish(subject: str) -> None:
            bus.publish(subject, BODY)

        def run() -> None:
            times = [timed(publish) for _ in range(FIRST)]
            work = process_time()
            times = [timed(publish) for _ in range(size)]
            found.append((times, process_time() - work))

        if another:
            thread = Thread(target=run)
            thread.start()
            thread.join()
        else:
            run()
        bus.stop()
        asyncio.run(we_must_have(one.url, FIRST + size))
    return trips(*found[0])


async def must_have(client: Any, stream: str, size: int) -> None:
    """
    Raises:
        RuntimeError: The server has not as many messages as were published.
    """
    found = await limit_nats.stored(client, stream)
    if found != size:
        raise RuntimeError(f"{size} messages were published, {found} are in the stream")


async def we_must_have(url: str, size: int) -> None:
    async with limit_nats.connected(url) as client:
        await must_have(client, ours_nats.STREAM, size)


PUBLISH = Workload(
    about="publish one message, wait until the server says that it has it, publish the next",
    columns={"us": "µs p50", "mean": "µs mean", "p99": "µs p99", "cpu": "CPU µs each"},
    contenders={
        "limit": Contender(f"nats-py, one coroutine: {limit_nats.STORED}", limit_one),
        "pipebus-await": Contender(f"`await bus.apublish(…)`: {ours_nats.STORED}", our_awaited, 1.2),
        "pipebus": Contender("the same by `bus.publish(…)`, from the main thread", partial(our_one, False), 1.2),
        "pipebus-thread": Contender("the same from another thread", partial(our_one, True), 1.2),
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
            found = figures(perf_counter() - start, process_time() - work, one.worked() - served, size)
            await must_have(client, limit_nats.STREAM, FIRST_MANY + size)
            return found

    with server.new_server() as one:
        return asyncio.run(main(one))


def our_many(threads: bool, size: int) -> Mapping[str, float]:
    """Publishers that each wait for their message before they publish the next."""

    async def publish_all(bus: Any, one: server.Server) -> Mapping[str, float]:
        await ours_nats.from_coroutines(lambda: bus.apublish(SUBJECT, BODY), MANY, FIRST_MANY)
        start, work, served = perf_counter(), process_time(), one.worked()
        await ours_nats.from_coroutines(lambda: bus.apublish(SUBJECT, BODY), MANY, size)
        return figures(perf_counter() - start, process_time() - work, one.worked() - served, size)

    with server.new_server() as one:
        bus = ours_nats.open_bus(one.url)
        bus.start()
        if threads:
            from_threads(bus, THREADS, FIRST_MANY)
            work, served = process_time(), one.worked()
            took = from_threads(bus, THREADS, size)
            found = figures(took, process_time() - work, one.worked() - served, size)
        else:
            found = asyncio.run(publish_all(bus, one))
        bus.stop()
        asyncio.run(we_must_have(one.url, FIRST_MANY + size))
    return found


def figures(took: float, work: float, served: float, size: int) -> Mapping[str, float]:
    return {**stream(took, work, size), "server": served / size * 1e6}


PUBLISHERS = Workload(
    about=f"many publishers at once, each of which waits for its message; the limit has {limit_nats.WINDOW} on their way",
    columns={"us": "µs a message", "cpu": "CPU µs", "server": "server's CPU µs"},
    contenders={
        "limit": Contender(
            f"nats-py, one coroutine, one inbox for all answers; {limit_nats.STORED}; which one failed nobody knows",
            partial(limit_many, False),
        ),
        "limit-futures": Contender("the same by `publish_async` of nats-py: a future for each", partial(limit_many, True)),
        "pipebus": Contender(f"{MANY} coroutines; {ours_nats.STORED}", partial(our_many, False)),
        "pipebus-threads": Contender(f"the same from {THREADS} threads", partial(our_many, True)),
    },
    size=20_000,
    when_named=True,
    where=server.told,
)

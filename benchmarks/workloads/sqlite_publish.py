"""
sqlite_publish, sqlite_publishers: what it costs until a message is in the file, alone and with many at once.

The messages are kept for one subscription that nobody serves meanwhile. The limit writes the same bytes, in one row of one
table with an index on the id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from statistics import mean
from time import perf_counter, process_time
from typing import Any, Literal

import disk
import limit_sqlite
import ours_sqlite
from harness import BODY, SUBJECT, Contender, Workload

FIRST = 100  # messages that are not counted
MANY = 64  # publishers

Durability = Literal["power", "process"]


# --- one after the other ---------------------------------------------------------------------------------------------------


def limit_one(synchronous: Literal["FULL", "NORMAL"], size: int) -> Mapping[str, float]:
    with disk.new_file() as path:
        publisher = limit_sqlite.Publisher(path, synchronous)
        times = [timed(publisher.one) for _ in range(FIRST)]
        work = process_time()
        times = [timed(publisher.one) for _ in range(size)]
        work = process_time() - work
        publisher.close()
    return trips(times, work)


def timed(publish: Any) -> float:
    start = perf_counter()
    publish(SUBJECT)
    return perf_counter() - start


def our_one(durability: Durability, size: int) -> Mapping[str, float]:
    with disk.new_file() as path:
        ours_sqlite.subscribe(path)
        bus = ours_sqlite.open_bus(path, durability=durability)

        def publish(subject: str) -> None:
            bus.publish(subject, BODY)

        times = [timed(publish) for _ in range(FIRST)]
        work = process_time()
        times = [timed(publish) for _ in range(size)]
        work = process_time() - work
        bus.stop()
        must_wait(path, FIRST + size)
    return trips(times, work)


def our_awaited(durability: Durability, size: int) -> Mapping[str, float]:
    async def publish_all(bus: Any) -> tuple[list[float], float]:
        for _ in range(FIRST):
            await bus.apublish(SUBJECT, BODY)
        times = []
        work = process_time()
        for _ in range(size):
            start = perf_counter()
            await bus.apublish(SUBJECT, BODY)
            times.append(perf_counter() - start)
        return times, process_time() - work

    with disk.new_file() as path:
        ours_sqlite.subscribe(path)
        bus = ours_sqlite.open_bus(path, durability=durability)
        times, work = asyncio.run(publish_all(bus))
        bus.stop()
        must_wait(path, FIRST + size)
    return trips(times, work)


def trips(times: list[float], work: float) -> Mapping[str, float]:
    """Microseconds of single publishes."""
    each = sorted(times)
    figures = {"us": each[len(each) // 2], "mean": mean(each), "p99": each[len(each) * 99 // 100], "cpu": work / len(each)}
    return {key: seconds * 1e6 for key, seconds in figures.items()}


def must_wait(path: str, size: int) -> None:
    """
    Raises:
        RuntimeError: Not as many messages wait in the file as were published.
    """
    found = ours_sqlite.waiting(path)
    if found != size:
        raise RuntimeError(f"{size} messages were published, {found} wait in the file")


PUBLISH = Workload(
    about="publish one message, wait until it is in the file, publish the next",
    columns={"us": "µs p50", "mean": "µs mean", "p99": "µs p99", "cpu": "CPU µs each"},
    contenders={
        "limit": Contender(limit_sqlite.SYNCED, partial(limit_one, "FULL")),
        "pipebus": Contender(ours_sqlite.POWER, partial(our_one, "power"), 1.5),
        "pipebus-await": Contender(
            "the same by `await bus.apublish(…)`, from one coroutine", partial(our_awaited, "power"), 1.5
        ),
        "limit-process": Contender(limit_sqlite.UNSYNCED, partial(limit_one, "NORMAL")),
        "pipebus-process": Contender(
            f"{ours_sqlite.PROCESS}; ratio to limit-process", partial(our_one, "process"), against="limit-process"
        ),
        "pipebus-process-await": Contender(
            "the same by `await bus.apublish(…)`; ratio to limit-process",
            partial(our_awaited, "process"),
            against="limit-process",
        ),
    },
    size=2_000,
    when_named=True,
    where=disk.told,
)


# --- many at once ----------------------------------------------------------------------------------------------------------


def limit_many(size: int) -> Mapping[str, float]:
    """Batches, as many in each as there are publishers."""
    with disk.new_file() as path:
        publisher = limit_sqlite.Publisher(path)
        for _ in range(FIRST):
            publisher.many(SUBJECT, MANY)
        start, work = perf_counter(), process_time()
        for _ in range(size // MANY):
            publisher.many(SUBJECT, MANY)
        took, work = perf_counter() - start, process_time() - work
        publisher.close()
    return stream(took, work, size // MANY * MANY)


def our_many(threads: bool, durability: Durability, size: int) -> Mapping[str, float]:
    """Publishers that each wait for their message before they publish the next."""

    async def publish_all(bus: Any) -> tuple[float, float]:
        await ours_sqlite.from_coroutines(bus, MANY, FIRST * MANY)
        start, work = perf_counter(), process_time()
        await ours_sqlite.from_coroutines(bus, MANY, size)
        return perf_counter() - start, process_time() - work

    with disk.new_file() as path:
        ours_sqlite.subscribe(path)
        bus = ours_sqlite.open_bus(path, durability=durability)
        if threads:
            ours_sqlite.from_threads(bus, MANY, FIRST * MANY)
            work = process_time()
            took = ours_sqlite.from_threads(bus, MANY, size)
            work = process_time() - work
        else:
            took, work = asyncio.run(publish_all(bus))
        bus.stop()
        must_wait(path, FIRST * MANY + size)
    return stream(took, work, size)


def stream(took: float, work: float, size: int) -> Mapping[str, float]:
    """Microseconds a message."""
    return {"us": took / size * 1e6, "cpu": work / size * 1e6}


PUBLISHERS = Workload(
    about=f"{MANY} publishers at once, each of which waits for its message; the limit inserts {MANY} in one commit",
    columns={"us": "µs a message", "cpu": "CPU µs"},
    contenders={
        "limit": Contender(f"{MANY} are in the file, or none; {limit_sqlite.SYNCED}", limit_many),
        "pipebus": Contender(f"{MANY} coroutines; {ours_sqlite.POWER}", partial(our_many, False, "power"), reach_value=12.0),
        "pipebus-threads": Contender(f"the same from {MANY} threads", partial(our_many, True, "power"), reach_value=12.0),
        "pipebus-process": Contender(f"{MANY} coroutines; {ours_sqlite.PROCESS}", partial(our_many, False, "process")),
    },
    size=50_000,
    when_named=True,
    where=disk.told,
)

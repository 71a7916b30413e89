"""
sqlite_publish, sqlite_publishers: what it costs until a message is in the file, alone and with many at once.

The messages are kept for one subscription that nobody serves meanwhile. The limit writes the same bytes, in one row of one
table with an index on the id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from time import perf_counter, process_time
from typing import Any, Literal

import disk
import limit_sqlite
import ours_sqlite
import stores
from clocks import PUBLISHES, atime_publishes, each, on_thread, time_publishes
from harness import BODY, SUBJECT, Contender, Workload, also
from peers import dbos, huey, litequeue, persist_queue

FIRST = 100  # messages that are not counted
MANY = stores.MANY  # publishers

Durability = Literal["power", "process"]


# --- one after the other ---------------------------------------------------------------------------------------------------


def limit_one(synchronous: Literal["FULL", "NORMAL"], size: int) -> Mapping[str, float]:
    with disk.new_file() as path:
        publisher = limit_sqlite.Publisher(path, synchronous)
        figures = time_publishes(partial(publisher.one, SUBJECT), FIRST, size)
        publisher.close()
    return figures


def our_one(durability: Durability, another: bool, size: int) -> Mapping[str, float]:
    """
    Args:
        another: From a thread that is not the main one.
    """
    with disk.new_file() as path:
        ours_sqlite.subscribe(path)
        bus = ours_sqlite.open_bus(path, durability=durability)
        figures = on_thread(another, partial(time_publishes, partial(bus.publish, SUBJECT, BODY), FIRST, size))
        bus.stop()
        must_wait(path, FIRST + size)
    return figures


def our_awaited(durability: Durability, size: int) -> Mapping[str, float]:
    with disk.new_file() as path:
        ours_sqlite.subscribe(path)
        bus = ours_sqlite.open_bus(path, durability=durability)
        figures = asyncio.run(atime_publishes(partial(bus.apublish, SUBJECT, BODY), FIRST, size))
        bus.stop()
        must_wait(path, FIRST + size)
    return figures


def must_wait(path: str, size: int) -> None:
    """
    Raises:
        RuntimeError: Not as many messages wait in the file as were published.
    """
    found = ours_sqlite.waiting(path)
    if found != size:
        raise RuntimeError(f"{size} messages were published, {found} wait in the file")


UNSYNCED = "limit-process"
REACH = 1.3

PUBLISH = Workload(
    about="publish one message, wait until it is in the file, publish the next",
    columns=PUBLISHES,
    contenders={
        "limit": Contender(limit_sqlite.SYNCED, partial(limit_one, "FULL")),
        "pipebus": Contender(ours_sqlite.POWER, partial(our_one, "power", False), REACH),
        "pipebus-thread": Contender(also("from another thread", ours_sqlite.POWER), partial(our_one, "power", True), REACH),
        "pipebus-await": Contender(
            also("by `await bus.apublish(…)`, from one coroutine", ours_sqlite.POWER), partial(our_awaited, "power"), REACH
        ),
        **stores.contenders(stores.one_by_one, huey, persist_queue, dbos),
        "litequeue-synced": stores.contender(stores.one_by_one, litequeue.SYNCED, litequeue.open_synced, litequeue.MOST),
        UNSYNCED: Contender(limit_sqlite.UNSYNCED, partial(limit_one, "NORMAL")),
        "pipebus-process": Contender(
            ours_sqlite.PROCESS._replace(words=f"{ours_sqlite.PROCESS.words}; ratio to {UNSYNCED}"),
            partial(our_one, "process", False),
            against=UNSYNCED,
        ),
        "pipebus-process-await": Contender(
            also(f"by `await bus.apublish(…)`; ratio to {UNSYNCED}", ours_sqlite.PROCESS),
            partial(our_awaited, "process"),
            against=UNSYNCED,
        ),
        "litequeue": stores.contender(
            stores.one_by_one,
            litequeue.GUARANTEES._replace(words=f"{litequeue.GUARANTEES.words}; ratio to {UNSYNCED}"),
            litequeue.open_store,
            litequeue.MOST,
            against=UNSYNCED,
        ),
    },
    size=2_000,
    when_named=True,
    where=disk.told,
)


# --- many at once ----------------------------------------------------------------------------------------------------------


def limit_many(batch: int, size: int) -> Mapping[str, float]:
    """
    Args:
        batch: Messages in a commit.
    """
    with disk.new_file() as path:
        publisher = limit_sqlite.Publisher(path)
        for _ in range(FIRST):
            publisher.many(SUBJECT, batch)
        commits = max(1, size // MANY)  # as many as it has with full batches: one message in each takes long enough
        start, work = perf_counter(), process_time()
        for _ in range(commits):
            publisher.many(SUBJECT, batch)
        took, work = perf_counter() - start, process_time() - work
        publisher.close()
    return each(commits * batch, us=took, cpu=work)


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
            publish = partial(bus.publish, SUBJECT, BODY)
            ours_sqlite.from_threads(publish, MANY, FIRST * MANY)
            work = process_time()
            took = ours_sqlite.from_threads(publish, MANY, size)
            work = process_time() - work
        else:
            took, work = asyncio.run(publish_all(bus))
        bus.stop()
        must_wait(path, FIRST * MANY + size)
    return each(size, us=took, cpu=work)


TOGETHER = 0.1

PUBLISHERS = Workload(
    about=f"{MANY} publishers at once, each of which waits for its message; ratios to one raw publish after another",
    columns={"us": "µs a message", "cpu": "CPU µs"},
    contenders={
        "limit-singly": Contender(
            limit_sqlite.SYNCED._replace(words="one after another, each committed"), partial(limit_many, 1)
        ),
        "limit": Contender(
            limit_sqlite.SYNCED._replace(words=f"{MANY} in one commit: all are in the file, or none"), partial(limit_many, MANY)
        ),
        "pipebus": Contender(also(f"from {MANY} coroutines", ours_sqlite.POWER), partial(our_many, False, "power"), TOGETHER),
        "pipebus-threads": Contender(
            also(f"from {MANY} threads", ours_sqlite.POWER), partial(our_many, True, "power"), TOGETHER
        ),
        "pipebus-process": Contender(also(f"from {MANY} coroutines", ours_sqlite.PROCESS), partial(our_many, False, "process")),
        **stores.contenders(stores.at_once, huey, persist_queue, litequeue, dbos),
    },
    size=50_000,
    when_named=True,
    where=disk.told,
)

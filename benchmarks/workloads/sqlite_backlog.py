"""
sqlite_backlog: does it matter how many messages wait? Publish and claim in an empty file, and behind a backlog.

`--messages` is the backlog. What is measured is the same few messages each time: published one by one, published by many at
once, and handled, the oldest first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from statistics import median
from time import perf_counter

import disk
import limit_sqlite
import ours_sqlite
from harness import BODY, SUBJECT, Contender, Workload

ONE_BY_ONE = 500
AT_ONCE = 10_000
MANY = 64  # publishers
BATCH = 100
MOST = 1.5


def limit_behind(filled: bool, size: int) -> Mapping[str, float]:
    with disk.new_file() as path:
        publisher = limit_sqlite.Publisher(path)
        if filled:
            publisher.fill(SUBJECT, size)
            disk.settled(path)
        times = []
        for _ in range(ONE_BY_ONE):
            start = perf_counter()
            publisher.one(SUBJECT)
            times.append(perf_counter() - start)
        start = perf_counter()
        for _ in range(AT_ONCE // MANY):
            publisher.many(SUBJECT, MANY)
        many = (perf_counter() - start) / (AT_ONCE // MANY * MANY)
        worker = limit_sqlite.Worker(path)
        start = perf_counter()
        for _ in range(AT_ONCE // BATCH):
            worker.delete(worker.claim(BATCH))
        handled = (perf_counter() - start) / AT_ONCE
        worker.close()
        publisher.close()
    return {"us": median(times) * 1e6, "many": many * 1e6, "handled": handled * 1e6}


def our_behind(filled: bool, size: int) -> Mapping[str, float]:
    with disk.new_file() as path:
        ours_sqlite.subscribe(path)
        if filled:
            bus = ours_sqlite.open_bus(path, durability="process")
            ours_sqlite.fill(bus, size)
            bus.stop()
            disk.settled(path)
        bus = ours_sqlite.open_bus(path)
        times = []
        for _ in range(ONE_BY_ONE):
            start = perf_counter()
            bus.publish(SUBJECT, BODY)
            times.append(perf_counter() - start)
        start = perf_counter()
        asyncio.run(ours_sqlite.from_coroutines(bus, MANY, AT_ONCE))
        many = (perf_counter() - start) / AT_ONCE
        counter = ours_sqlite.Counter(AT_ONCE)
        start = perf_counter()
        bus.subscribe(SUBJECT, counter.handler(), name=ours_sqlite.NAME)
        counter.wait()
        handled = (perf_counter() - start) / AT_ONCE
        bus.stop()
    return {"us": median(times) * 1e6, "many": many * 1e6, "handled": handled * 1e6}


def contenders() -> dict[str, Contender]:
    """An empty file and a full one of each; the second is compared to the first."""
    reach = {"us": MOST, "many": MOST, "handled": MOST}
    return {
        "limit": Contender(limit_sqlite.SYNCED, partial(limit_behind, False)),
        "limit-backlog": Contender("behind the backlog; ratio to limit", partial(limit_behind, True)),
        "pipebus": Contender(ours_sqlite.POWER, partial(our_behind, False)),
        "pipebus-backlog": Contender(
            "behind the backlog; ratio to pipebus", partial(our_behind, True), reach_ratio=reach, against="pipebus"
        ),
    }


ABOUT = f"the same {ONE_BY_ONE + AT_ONCE:,} messages in an empty file and behind a backlog (of as many messages as stand below)"
COLUMNS = {"us": "µs to publish one, p50", "many": f"µs each of {MANY} publishers", "handled": "µs to handle one"}
BACKLOG = Workload(ABOUT, COLUMNS, contenders(), size=100_000, when_named=True, where=disk.told)

"""
sqlite_through, sqlite_consume, sqlite_processes: from publish to acknowledgement in the file; the second half of it alone, out
of a full file; and with several processes that share the work.

The handler does nothing but count. It has ended when the file says that nothing waits and nothing is out.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Mapping
from functools import partial
from time import perf_counter, process_time, sleep
from typing import Any

import disk
import limit_sqlite
import ours_sqlite
import stores
from clocks import each
from harness import SUBJECT, Contender, Workload, also
from peers import dbos, huey, litequeue, persist_queue

FIRST = 5_000  # messages that are not counted
FIRST_SLOW = 100
BATCH = 100
MANY = stores.MANY  # publishers
SLOW = 0.001  # seconds


# --- one process -----------------------------------------------------------------------------------------------------------


def limit_through(size: int) -> Mapping[str, float]:
    """Batches in turns: insert, claim, handle, delete."""
    seen = 0

    def handle(data: bytes) -> None:
        nonlocal seen
        seen += 1

    size = max(size, BATCH)
    with disk.new_file() as path:
        publisher, worker = limit_sqlite.Publisher(path), limit_sqlite.Worker(path)
        published = 0.0

        def run(size: int) -> None:
            nonlocal published
            published = 0.0
            for _ in range(size // BATCH):
                start = perf_counter()
                publisher.many(SUBJECT, BATCH)
                published += perf_counter() - start
                taken = worker.claim(BATCH)
                for _, data in taken:
                    handle(data)
                worker.delete(taken)

        run(FIRST)
        start, work = perf_counter(), process_time()
        run(size)
        took, work = perf_counter() - start, process_time() - work
        left = worker.left()
        worker.close()
        publisher.close()
    if left or seen != (FIRST // BATCH + size // BATCH) * BATCH:
        raise RuntimeError(f"{seen} messages were handled, {left} are left")
    return each(size // BATCH * BATCH, us=took, published=published, cpu=work)


def our_through(together: bool, size: int) -> Mapping[str, float]:
    """
    Args:
        together: Published and handled at once; else all are published before the handler comes.
    """
    with disk.new_file() as path:
        ours_sqlite.subscribe(path)
        if together:
            counter = ours_sqlite.Counter(FIRST)
            bus = ours_sqlite.open_bus(path, counter.handler())
            asyncio.run(ours_sqlite.from_coroutines(bus, MANY, FIRST))
            bus.drain()
            counter.size += size
            start, work = perf_counter(), process_time()
            asyncio.run(ours_sqlite.from_coroutines(bus, MANY, size))
            published = perf_counter() - start
        else:
            counter = ours_sqlite.Counter(size)
            bus = ours_sqlite.open_bus(path)
            start, work = perf_counter(), process_time()
            asyncio.run(ours_sqlite.from_coroutines(bus, MANY, size))
            published = perf_counter() - start
            bus.subscribe(SUBJECT, counter.handler(), name=ours_sqlite.NAME)
        bus.drain(ours_sqlite.PATIENCE)
        took, work = perf_counter() - start, process_time() - work
        bus.stop()
        left = ours_sqlite.waiting(path)
    must_be_all(counter, left)
    return each(size, us=took, published=published, cpu=work)


THROUGH = Workload(
    about=f"published by {MANY} coroutines, handled by one handler, until all are acknowledged in the file",
    columns={"us": "µs a message", "published": "µs until all are published", "cpu": "CPU µs"},
    contenders={
        "limit": Contender(
            limit_sqlite.SYNCED._replace(
                words=f"batches of {BATCH}, one thread: insert, claim, delete; no leases, no subscriptions"
            ),
            limit_through,
        ),
        "pipebus": Contender(
            ours_sqlite.POWER._replace(words=f"{MANY} coroutines publish meanwhile"),
            partial(our_through, True),
            reach_value=45.0,
        ),
        "pipebus-after": Contender(
            also("but the handler comes when all are published", ours_sqlite.POWER), partial(our_through, False)
        ),
        **stores.contenders(stores.through, huey, persist_queue, litequeue, dbos),
    },
    size=20_000,
    when_named=True,
    where=disk.told,
)


# --- out of a full file ----------------------------------------------------------------------------------------------------


def limit_consume(size: int) -> Mapping[str, float]:
    counter = ours_sqlite.Counter(size)
    with disk.new_file() as path:
        publisher, worker = limit_sqlite.Publisher(path), limit_sqlite.Worker(path)
        publisher.fill(SUBJECT, size)
        publisher.close()
        disk.settled(path)
        start, work = perf_counter(), process_time()
        while taken := worker.claim(BATCH):
            for _, data in taken:
                counter.count(data)
            worker.delete(taken)
        took, work = perf_counter() - start, process_time() - work
        left = worker.left()
        worker.close()
    must_be_all(counter, left)
    return each(size, us=took, cpu=work)


def our_consume(size: int) -> Mapping[str, float]:
    counter = ours_sqlite.Counter(size)
    with disk.new_file() as path:
        ours_sqlite.subscribe(path)
        bus = ours_sqlite.open_bus(path)
        ours_sqlite.fill(bus, size)
        disk.settled(path)
        start, work = perf_counter(), process_time()
        bus.subscribe(SUBJECT, counter.handler(), name=ours_sqlite.NAME)
        bus.drain(ours_sqlite.PATIENCE)
        took, work = perf_counter() - start, process_time() - work
        bus.stop()
        left = ours_sqlite.waiting(path)
    must_be_all(counter, left)
    return each(size, us=took, cpu=work)


def must_be_all(counter: ours_sqlite.Counter, left: int) -> None:
    """
    Raises:
        RuntimeError: A message was not handled, or not acknowledged.
    """
    if left or counter.seen != counter.size:
        raise RuntimeError(f"{counter.seen} of {counter.size} messages were handled, {left} are left")


CONSUME = Workload(
    about="handle and acknowledge the messages of a full file, while nobody publishes",
    columns={"us": "µs a message", "cpu": "CPU µs"},
    contenders={
        "limit": Contender(
            limit_sqlite.SYNCED._replace(words=f"one thread: claim {BATCH}, delete {BATCH}; no leases, no JSON"),
            limit_consume,
        ),
        "pipebus": Contender(
            ours_sqlite.POWER._replace(words="a handler on a thread; leases, retries, JSON; acknowledged within a batch"),
            our_consume,
            reach_value=16.0,
        ),
        **stores.contenders(stores.consumed, huey, persist_queue, litequeue, dbos),
    },
    size=20_000,
    when_named=True,
    where=disk.told,
)


# --- several processes -----------------------------------------------------------------------------------------------------

# They are started instead of forked: pipebus refuses a file that was opened before a fork, and so does SQLite.
fresh = multiprocessing.get_context("spawn")


def limit_worker(path: str, mine: int, counts: Any, pause: Any, over: Any) -> None:
    worker = limit_sqlite.Worker(path)
    counts[mine] = 0
    while not over.value:
        taken = worker.claim(BATCH if not pause.value else 2)
        for _ in taken:
            if pause.value:
                sleep(pause.value)
            counts[mine] += 1
        if taken:
            worker.delete(taken)
        else:
            sleep(0.001)
    worker.close()


def our_worker(path: str, mine: int, counts: Any, pause: Any, over: Any) -> None:
    def handle(message) -> None:  # type: ignore[no-untyped-def]
        if pause.value:
            sleep(pause.value)
        counts[mine] += 1

    bus = ours_sqlite.open_bus(path, handle)
    counts[mine] = 0
    while not over.value:
        sleep(0.01)
    bus.stop()


def shared(ours: bool, workers: int, size: int) -> Mapping[str, float]:
    """All messages come in one transaction, while all workers look out for them; until the last one is handled."""
    with disk.new_file() as path:
        if ours:
            ours_sqlite.subscribe(path)
            publisher: Any = ours_sqlite.open_bus(path)
        else:
            publisher = limit_sqlite.Publisher(path)
        counts = fresh.RawArray("l", [-1] * workers)
        pause, over = fresh.RawValue("d", SLOW), fresh.RawValue("b", 0)
        arguments = [(path, mine, counts, pause, over) for mine in range(workers)]
        processes = [fresh.Process(target=our_worker if ours else limit_worker, args=each) for each in arguments]
        for process in processes:
            process.start()
        published = 0

        def run(size: int) -> float:
            nonlocal published
            published += size
            if ours:
                ours_sqlite.fill(publisher, size, size)
            else:
                publisher.many(SUBJECT, size)
            start = perf_counter()
            await_that(lambda: sum(counts) >= published, processes)
            return (perf_counter() - start) / size * 1e6

        try:
            await_that(lambda: min(counts) >= 0, processes)
            run(FIRST_SLOW)
            slow = run(max(size // 10, workers))
            pause.value = 0.0
            run(FIRST)
            quick = run(size)
        finally:
            over.value = 1
            for process in processes:
                process.join()
        if ours:
            publisher.stop()
        else:
            publisher.close()
        if sum(counts) != published:
            raise RuntimeError(f"{published} messages were published, {sum(counts)} handled")
    return {"us": quick, "slow": slow}


def await_that(true: Any, processes: list[Any]) -> None:
    """
    Raises:
        RuntimeError: A worker has ended, or it took too long.
    """
    deadline = perf_counter() + ours_sqlite.PATIENCE
    while not true():
        if perf_counter() > deadline or not all(process.is_alive() for process in processes):
            raise RuntimeError("a worker has ended, or a message was lost")
        sleep(0.0005)


def workers(name: str, guarantees: str, ours: bool) -> dict[str, Contender]:
    """One, two and four, each compared to one of its own kind."""
    return {
        f"{name}-1": Contender(guarantees, partial(shared, ours, 1), against=f"{name}-1"),
        **{
            f"{name}-{number}": Contender(
                f"{number} processes; ratio to {name}-1", partial(shared, ours, number), against=f"{name}-1"
            )
            for number in (2, 4)
        },
    }


PROCESSES = Workload(
    about="messages in one file, handled by 1, 2 and 4 processes, whose handler does nothing, or waits a millisecond",
    columns={"us": "µs a message", "slow": "µs, handler of 1 ms"},
    contenders={
        **workers(
            "limit", f"claims {BATCH} at once, 2 of the slow ones; what a killed process had stays claimed for ever", False
        ),
        **workers("pipebus", "each message to one process; what a killed one had comes again within a second", True),
    },
    size=20_000,
    when_named=True,
    where=disk.told,
)

"""
Queues of other packages in a SQLite file, and their clocks: the same questions that the durable workloads ask of the limit
and of pipebus. A module of `peers/` has what it promises (`GUARANTEES`), `open_store` and `MOST`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from threading import Thread
from time import perf_counter, process_time
from typing import Any, NamedTuple

import disk
from clocks import each, time_publishes
from harness import BODY, Contender, Handler, measured_with
from ours_sqlite import Counter, from_threads

MANY = 64  # publishers


class Store(NamedTuple):
    """
    An open queue.

    Args:
        publish: Keep one body; it returns when the package says that it has it. From any thread.
        consume: Give a handler as many bodies as are asked for, on this thread or on one of the package's own; it returns when
            all of them are acknowledged.
        close: End it.
    """

    publish: Callable[[Any], Any]
    consume: Callable[[Handler, int], Any]
    close: Callable[[], Any]


OpenStore = Callable[[str], Store]
"""Opens a new file in this folder."""
Run = Callable[[OpenStore, int], Mapping[str, float]]


def contenders(run: Run, *modules: Any) -> dict[str, Contender]:
    """A contender for each peer, by the package's name."""
    return {module.GUARANTEES.package: contender(run, module.GUARANTEES, module.open_store, module.MOST) for module in modules}


def contender(run: Run, guarantees: Any, open_store: OpenStore, most: int, against: str | None = None) -> Contender:
    """
    Args:
        most: Messages that it is measured with at most, where more would take minutes.
    """
    return Contender(
        measured_with(guarantees, most, "messages"), lambda size: run(open_store, min(size, most)), against=against
    )


def one_by_one(open_store: OpenStore, size: int) -> Mapping[str, float]:
    """Publish one body after the other on this thread."""
    with disk.new_folder() as folder:
        store, first = open_store(folder), min(100, size // 10)
        figures = time_publishes(partial(store.publish, BODY), first, size)
        must_have(store, first + size)
        store.close()
    return figures


def at_once(open_store: OpenStore, size: int) -> Mapping[str, float]:
    """Publish from many threads, each of which waits for its own."""
    with disk.new_folder() as folder:
        store = open_store(folder)
        work = process_time()
        took = from_threads(partial(store.publish, BODY), MANY, size)
        work = process_time() - work
        must_have(store, size)
        store.close()
    return each(size, us=took, cpu=work)


def consumed(open_store: OpenStore, size: int) -> Mapping[str, float]:
    """Handle and acknowledge what is in the file, while nobody publishes."""
    with disk.new_folder() as folder:
        store = open_store(folder)
        for _ in range(size):
            store.publish(BODY)
        start, work = perf_counter(), process_time()
        must_have(store, size)
        took, work = perf_counter() - start, process_time() - work
        store.close()
    return each(size, us=took, cpu=work)


def through(open_store: OpenStore, size: int) -> Mapping[str, float]:
    """Publish on this thread what another one handles meanwhile."""
    with disk.new_folder() as folder:
        store = open_store(folder)
        failed: list[BaseException] = []

        def consume() -> None:
            try:
                must_have(store, size)
            except BaseException as error:
                failed.append(error)

        consumer = Thread(target=consume, daemon=True)
        start, work = perf_counter(), process_time()
        consumer.start()
        for _ in range(size):
            store.publish(BODY)
        published = perf_counter() - start
        consumer.join()
        took, work = perf_counter() - start, process_time() - work
        store.close()
    if failed:
        raise failed[0]
    return each(size, us=took, published=published, cpu=work)


def must_have(store: Store, size: int) -> None:
    """
    Consume all that was published.

    Raises:
        RuntimeError: One of them is not what was published.
    """
    counter = Counter(size)
    store.consume(counter.count, size)
    counter.wait()
    if counter.last != BODY:
        raise RuntimeError(f"a message arrived as {counter.last!r}")

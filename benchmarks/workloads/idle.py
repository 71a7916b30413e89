"""
idle: what a subscriber costs while nothing happens.

Each has a literal subject of its own; all share one handler. The subject strings are made before the count
starts and therefore excluded; what is derived from them (names, tokens) is included. Two sets are made in
one process: one for time and resident memory, the other under tracemalloc, which slows what it watches.
"""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any

import simplest
from harness import Contender, Workload

MOST_THREADS = 1_000


def handle(message) -> None:  # type: ignore[no-untyped-def]
    """Never called."""


def limit_subscribers(subjects: Sequence[str]) -> Any:
    """An entry of a dict each; the queue and its thread are shared."""
    put = SimpleQueue[Any]().put
    routes = {}
    for subject in subjects:
        routes[subject] = (put, handle)
    return routes


def simplest_subscribers(subjects: Sequence[str]) -> Any:
    """A queue and a thread each; a hundred thousand threads do not start, so a thousand stand for them."""
    bus = simplest.Bus()
    for subject in subjects:
        bus.subscribe(subject, handle)
    return bus


def our_subscribers(subjects: Sequence[str]) -> Any:
    """On a started bus, where programs that create subscribers as they go do it."""
    from pipebus import Bus

    bus = Bus()
    bus.start()
    for subject in subjects:
        bus.subscribe(subject, handle)
    return bus


def weigh(subscribe: Callable[[Sequence[str]], Any], size: int) -> Mapping[str, float]:
    """Bytes and set-up time of one subscriber, from `size` of them."""
    subscribe([f"warm.up.{n}" for n in range(100)])
    timed = [f"timed.{n}" for n in range(size)]
    traced = [f"traced.{n}" for n in range(size)]

    gc.collect()
    resident = resident_bytes()
    start = perf_counter()
    keep = [subscribe(timed)]
    set_up = perf_counter() - start
    gc.collect()
    resident = resident_bytes() - resident

    tracemalloc.start()
    keep.append(subscribe(traced))
    gc.collect()
    allocated, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    for bus in keep:
        if hasattr(bus, "stop"):
            bus.stop()
    return {"bytes": allocated / size, "rss": resident / size, "us": set_up / size * 1e6}


def resident_bytes() -> int:
    """Resident memory of this process, in bytes (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


WORKLOAD = Workload(
    about="idle subscribers, one shared handler, a subject each (subject strings not counted)",
    columns={"bytes": "bytes each (tracemalloc)", "rss": "RSS each", "us": "µs set-up each"},
    contenders={
        "limit": Contender("an entry of a dict; all share one queue", lambda size: weigh(limit_subscribers, size)),
        "simplest": Contender(
            f"a queue and a thread each; measured with {MOST_THREADS:,}",
            lambda size: weigh(simplest_subscribers, min(size, MOST_THREADS)),
        ),
        "pipebus": Contender(
            "a bounded mailbox, counters, a delivery chain and dead letters each",
            lambda size: weigh(our_subscribers, size),
            reach_value=300.0,
        ),
    },
    size=100_000,
    sized_by="subscribers",
)

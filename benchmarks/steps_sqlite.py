"""
Where the time goes on a SQLite file: `python benchmarks/run.py --profile sqlite_through`, sqlite_publishers or sqlite_consume.

The workload runs once, with a clock around each step. It is the clock of the thread that does the step, so neither the disk nor
others who have the interpreter count; and what one step calls of another counts there only. What is left of the process's time
is what lies between them: the chain of the bus, event loop and futures, wake-ups, the mailbox's worker, the handler. The time
of transactions by the wall is the disk, and waiting for turns.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial, wraps
from time import perf_counter, thread_time
from typing import Any, Final

import disk
from workloads import sqlite_publish, sqlite_through

RUNS: Final[dict[str, Callable[[int], Mapping[str, float]]]] = {
    "sqlite_publishers": partial(sqlite_publish.our_many, False, "power"),
    "sqlite_consume": sqlite_through.our_consume,
    "sqlite_through": partial(sqlite_through.our_through, True),
}
BEFORE: Final = {"sqlite_consume": ("encode", "insert messages and deliveries")}
"""Steps that fill the file before the workload's own clock starts."""
TRANSACTION: Final = "begin, commit, tell who has something to claim"


def report(workload: str, size: int) -> str:
    """Microseconds of each step for one message, and how often it happens for one."""
    from pipebus.message.codec import JsonCodec
    from pipebus.transports.sql import deliveries, publishing, retention
    from pipebus.transports.sqlite import SqliteTransport
    from pipebus.transports.sqlite.commits import Commits
    from pipebus.transports.sqlite.keeper import Keeper
    from pipebus.transports.sqlite.writer import Writer

    clocks = Clocks()
    for where, name, label in (
        (JsonCodec, "encode", "encode"),
        (Writer, "leave", "put into the writer's line, ring the keeper"),
        (Commits, "_transact", TRANSACTION),
        (publishing, "publish", "insert messages and deliveries"),
        (Writer, "_tell", "tell those who wait, over their loop"),
        (Keeper, "_round", "the keeper's round, but for what stands here"),
        (deliveries, "claim", "claim"),
        (retention, "sweep", "look for what may be deleted"),
        (JsonCodec, "decode", "decode"),
        (Keeper, "_hand_in", "deliver: into the mailbox"),
        (SqliteTransport, "settle", "settle: note it, ring the keeper"),
        (deliveries, "settle", "settle: delete deliveries"),
        (Commits, "checkpoint", "move the log into the database"),
    ):
        clocks.watch(where, name, label)  # type: ignore[arg-type]
    whole = RUNS[workload](size)
    messages = len(clocks.times["encode"])
    lines = [f"{workload}, {disk.told()}", "CPU µs a message, times a message"]
    known = 0.0
    for label, times in clocks.times.items():
        if label in BEFORE.get(workload, ()):
            continue
        each = sum(cpu for cpu, _ in times) / messages * 1e6
        known += each
        lines.append(f"{each:8.2f} {len(times) / messages:8.3f}  {label}")
    lines += [f"{whole['cpu'] - known:8.2f}           all else", f"{whole['cpu']:8.2f}           whole"]
    waited = sum(wall for _, wall in clocks.times[TRANSACTION]) / messages * 1e6
    lines.append(f"{waited:8.2f}           by the wall: {TRANSACTION}")
    lines.append(f"{whole['us']:8.2f}           by the wall: whole")
    return "\n".join(lines)


class Clocks:
    """Times of functions, without those of watched functions that they call."""

    def __init__(self) -> None:
        self.times: dict[str, list[tuple[float, float]]] = defaultdict(list)  # an append is one step for all threads
        self._local = threading.local()

    def watch(self, where: type, name: str, label: str) -> None:
        static = isinstance(where.__dict__[name], staticmethod)
        timed = self.timed(getattr(where, name), label)
        setattr(where, name, staticmethod(timed) if static else timed)

    def timed(self, inner: Callable[..., Any], label: str) -> Callable[..., Any]:
        note = self.times[label].append

        @wraps(inner)
        def timed(*args: Any, **options: Any) -> Any:
            stack = self._local.__dict__.setdefault("stack", [])
            stack.append([0.0, 0.0])
            wall, cpu = perf_counter(), thread_time()
            try:
                return inner(*args, **options)
            finally:
                took = thread_time() - cpu, perf_counter() - wall
                nested = stack.pop()
                note((took[0] - nested[0], took[1] - nested[1]))
                if stack:
                    stack[-1][0] += took[0]
                    stack[-1][1] += took[1]

        return timed

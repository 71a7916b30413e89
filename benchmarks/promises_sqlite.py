"""
What each promise of a publish costs: `python benchmarks/run.py --profile sqlite_publish`.

One process publishes into one file in rounds. In each round each promise is left out once, by a function that does nothing in
its place, next to a publish with all of them and to one of the limit. What is shown is the median, over the rounds, of how much
less it takes. The disk is left out (`durability=process`), since it varies by more than all of this; the sync, and the change
of threads that a publish from the main thread needs, have lines of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import count
from statistics import median
from types import SimpleNamespace
from typing import Any, Final
from unittest.mock import patch

import disk
import limit_sqlite
import ours_sqlite
from clocks import on_thread, time_publishes
from harness import BODY, SUBJECT

RUNS: Final = ("sqlite_publish",)
ROUNDS: Final = 31
FIRST: Final = 5  # publishes of a round that are not counted
RAW, SYNCED = "limit", "limit, synced"
THREAD, MAIN = "pipebus, from a thread", "pipebus, from the main thread"

Without = Callable[[], AbstractContextManager[Any]]
"""Leaves a promise out for as long as it is entered."""


def report(workload: str, size: int) -> str:
    """Microseconds of each promise for one publish; `size`: publishes of each kind, in all rounds together."""
    from pipebus.bus.bus import engine_of

    with disk.new_folder() as folder:
        path = f"{folder}/bus.db"
        ours_sqlite.subscribe(path)
        bus = ours_sqlite.open_bus(path, durability="process")
        publish = partial(bus.publish, SUBJECT, BODY)
        without = {THREAD: nullcontext, MAIN: nullcontext, **promises(engine_of(bus).transport)}
        raw, synced = limit_sqlite.Publisher(f"{folder}/raw.db", "NORMAL"), limit_sqlite.Publisher(f"{folder}/synced.db")
        acts = {RAW: partial(raw.one, SUBJECT), SYNCED: partial(synced.one, SUBJECT), **dict.fromkeys(without, publish)}
        found: dict[str, list[Mapping[str, float]]] = {label: [] for label in acts}
        for _ in range(ROUNDS):
            for label, act in acts.items():
                with without.get(label, nullcontext)():
                    run = partial(time_publishes, act, FIRST, max(1, size // ROUNDS))
                    found[label].append(on_thread(label not in (RAW, SYNCED, MAIN), run))
        bus.stop()
    return table(workload, found)


def promises(transport: Any) -> dict[str, Without]:
    """What is left out, and how."""
    from pipebus.transports.sql import publishing
    from pipebus.transports.sql import statements as sql
    from pipebus.transports.sqlite import lock

    file, commits = transport.file, transport.file.commits
    store = commits.store
    unlocked = SimpleNamespace(LOCK_EX=0, LOCK_NB=0, LOCK_UN=0, flock=lambda file, how: None)
    return {
        "one writer at a time: the lock file": lambda: patch.object(lock, "fcntl", unlocked),
        "no file that was swapped: 2 stat before": lambda: patch.object(file, "ensure", lambda make=True, whole=True: True),
        "no file that was swapped: 2 stat, 1 read after": lambda: patch.object(file, "kept", lambda: None),
        "once for each id: a look-up": lambda: patch.object(publishing, "_known", lambda store, ids, since: set()),
        "numbers that follow the last one": lambda: patch.object(store, "last", count(store.last()).__next__),
        "a delivery for each subscription: a page": lambda: patch.object(
            sql, "DELIVER_RANGE", f"{sql.DELIVER_RANGE} AND key IS NOT NULL"
        ),
        "`accepted` is counted: a page": lambda: patch.object(sql, "ACCEPT", f"{sql.ACCEPT} AND accepted < 0"),
        "an envelope that others can read: JSON": lambda: patch.object(
            transport.codec, "encode", lambda message: limit_sqlite.DATA
        ),
        "subscribers here are woken": lambda: patch.object(commits, "_wrote", lambda: None),
        "a drain hears that all is written": lambda: patch.object(file.writer, "_rested", lambda: None),
    }


def table(workload: str, found: Mapping[str, list[Mapping[str, float]]]) -> str:
    """The medians, and the medians of the differences within a round."""

    def less(label: str, than: str, key: str) -> float:
        return median(most[key] - least[key] for least, most in zip(found[label], found[than], strict=True))

    lines = [f"{workload}, {disk.told()}, without a sync but for one line", "    µs  CPU µs"]
    for label in (RAW, THREAD, MAIN):
        us, cpu = (median(one[key] for one in found[label]) for key in ("us", "cpu"))
        lines.append(f"{us:6.1f}  {cpu:6.1f}  {label}")
    lines.append("of it")
    parts = {label: (label, THREAD) for label in found if label not in (RAW, SYNCED, THREAD, MAIN)}
    known = [less(*pair, "us") for pair in parts.values()], [less(*pair, "cpu") for pair in parts.values()]
    lines += [f"{us:6.1f}  {cpu:6.1f}  {label}" for label, us, cpu in zip(parts, *known, strict=True)]
    lines += [
        f"{less(RAW, THREAD, 'us') - sum(known[0]):6.1f}  {less(RAW, THREAD, 'cpu') - sum(known[1]):6.1f}  all else",
        f"{less(THREAD, MAIN, 'us'):6.1f}  {less(THREAD, MAIN, 'cpu'):6.1f}  from the main thread: the keeper writes",
        f"{less(RAW, SYNCED, 'us'):6.1f}  {less(RAW, SYNCED, 'cpu'):6.1f}  the sync of the limit, for comparison",
    ]
    return "\n".join(lines)

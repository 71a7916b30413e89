"""
A program is killed at every third call with which it writes or syncs, in turn; then another one goes on with its file.

`crash_child.py` is the program. Killed is it before the call, so the states between calls are seen.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import crash_child
import pytest
from crash_child import ATTEMPTS, DEAD, PAID, SENT, SUBSCRIPTION
from crash_helpers import calls, counted, need_strace, script, strace

from pipebus import Bus
from pipebus.testing.history import Accepted, Attempted, Delivered, History, Settled

pytestmark = pytest.mark.thorough  # processes are killed

S = SUBSCRIPTION

STEP = int(os.environ.get("PIPEBUS_CRASH_STEP", "3"))
"""The program is killed at every third call, and at the first of each name. `PIPEBUS_CRASH_STEP=1` kills it at every call."""


def paid_together(path: Path) -> None:
    """The row in the handler's own table, its publish and its acknowledgement: all of them or none."""
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_schema")}
        if "message" not in tables:
            assert not tables, "half of the tables"
            return
        rows = file.execute("SELECT count(*) FROM account").fetchone()[0] if "account" in tables else 0
        sent = file.execute("SELECT count(*) FROM message WHERE id = ?", (PAID,)).fetchone()[0]
        kept = file.execute("SELECT count(*) FROM message WHERE id = 'transfer'").fetchone()[0]
        waiting = sum(
            file.execute(f"SELECT count(*) FROM {table} JOIN message USING (seq) WHERE id = 'transfer'").fetchone()[0]
            for table in ("ready", "later", "claimed")
        )
        assert rows == sent == kept - waiting, f"rows {rows}, messages {sent}, handled {kept - waiting}"


def wait_until_settled(bus: Bus) -> None:
    """Wait for every message, even for delayed ones."""
    deadline = time.monotonic() + 60
    while True:
        stats = bus.stats()["subscriptions"][S]
        if not stats["pending"] and not stats["in_flight"]:
            return
        assert time.monotonic() < deadline, stats
        time.sleep(0.01)


def go_on(path: Path, log: Path, durability: str) -> dict[str, int]:
    """
    What happens after a crash, and what has to be true of it.

    The second program publishes all that the first one did, under the same ids: nobody who was killed knows better.
    """
    paid_together(path)
    first = History.from_jsonl(log) if log.exists() else History()
    promised = {record.id for record in first.records if isinstance(record, Accepted)}
    attempted = {record.id for record in first.records if isinstance(record, Attempted)}

    history = History()
    bus = Bus(f"sqlite:///{path}?lease=1s&durability={durability}")
    crash_child.serve(bus, history, "second")
    with bus:
        known = crash_child.publish(bus, history, "second")
        wait_until_settled(bus)
        letters = [letter.message.id for letter in bus.dead_letters]
    stats = bus.stats()["subscriptions"][S]

    again = {id for id, duplicate in known.items() if duplicate}
    assert promised - {PAID} <= again, "an acknowledged publish was not known any more"
    assert again <= attempted
    assert Counter(letters) == Counter(DEAD)

    # An acknowledgement that was begun and kept, but not confirmed any more.
    file = Path(f"{log}.begun")
    begun = set(file.read_text().split()) if file.exists() else set()
    again_taken = {record.id for record in history.records if isinstance(record, Delivered)}
    confirmed = {record.id for record in (*first.records, *history.records) if isinstance(record, Settled)}
    unconfirmed = begun - again_taken - confirmed

    whole = History()
    whole.record_subscription(S, "a.>", attempts=ATTEMPTS, order="subject")
    for record in (*first.records, *history.records):
        whole.record(record)
    for id in unconfirmed:
        attempts = [record.attempt for record in first.records if isinstance(record, Delivered) and record.id == id]
        whole.record_settled(S, id, attempt=max(attempts), worker="first")
    for id in letters:
        whole.record_kept(S, id, "dead")
    whole.record_figures(S, stats)
    judgement = whole.judge()
    judgement.raise_if_broken()
    assert stats["pending"] == stats["in_flight"] == 0

    settled = Counter(record.id for record in whole.records if isinstance(record, Settled))
    assert settled.keys() == (SENT.keys() | {PAID}) - DEAD
    assert sum(settled.values()) == len(settled), "a confirmed acknowledgement was not kept"
    paid_together(path)
    return judgement.counts | {"handled twice": sum(isinstance(r, Delivered) and r.attempt > 1 for r in whole.records)}


class Enumeration:
    """Kill a program at each of its calls in turn, in a folder of its own each time."""

    def __init__(self, folder: Path, durability: str, step: int) -> None:
        self.folder = folder
        self.durability = durability
        self.step = step
        self.killed = Counter[str]()
        self.totals = Counter[str]()
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def count(self) -> Counter[str]:
        """Return the calls of a whole run."""
        place = self.folder / "whole"
        place.mkdir()
        log = place / "calls"
        done = strace(self.program(place), place / "bus.db", log=log)
        assert done.returncode == 0, done.stderr
        go_on(place / "bus.db", place / "history", self.durability)
        return counted(log)

    def program(self, place: Path) -> list[str]:
        return script("crash_child.py", place / "bus.db", place / "history", self.durability)

    def points(self, calls: Counter[str]) -> list[tuple[str, int]]:
        """Return the calls to try: each `step`-th, and the first of each name."""
        every = [(name, number) for name, most in sorted(calls.items()) for number in range(1, most + 1)]
        return [point for place, point in enumerate(every) if place % self.step == 0 or point[1] == 1]

    def one(self, name: str, number: int) -> bool:
        """Try one call; return False if the program made fewer calls this time."""
        place = self.folder / f"{name}-{number}"
        place.mkdir()
        done = strace(self.program(place), place / "bus.db", inject=f"{name}:signal=KILL:when={number}")
        killed = done.returncode < 0
        try:
            assert killed or done.returncode == 0, done.stderr
            totals = go_on(place / "bus.db", place / "history", self.durability)
        except Exception as error:
            with self._lock:
                self.failures.append(f"killed at {name} {number} ({place}): {type(error).__name__}: {error}")
            return killed
        shutil.rmtree(place)
        with self._lock:
            self.totals.update(totals)
            self.killed[name] += killed
        return killed

    def run(self) -> None:
        calls = self.count()
        points = self.points(calls)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda point: self.one(*point), points))
        if self.step == 1:
            for name, most in calls.items():  # a run may make some more calls than the one that was counted
                for number in itertools.count(most + 1):
                    if not self.one(name, number):
                        break


def enumerate_crashes(folder: Path, durability: str, step: int, request: pytest.FixtureRequest, capsys: Any) -> None:
    need_strace()
    enumeration = Enumeration(folder, durability, step)
    enumeration.run()
    killed = sum(enumeration.killed.values())
    told = f"killed at {killed} calls ({dict(enumeration.killed)}), durability={durability}: {dict(enumeration.totals)}"
    with capsys.disabled():
        print(f"\n{told}")  # noqa: T201
    request.node.user_properties.append(("crash_points", killed))
    request.node.user_properties.append(("crashes", told))
    assert not enumeration.failures, "\n".join(enumeration.failures)
    assert killed


@pytest.mark.thorough
def test_a_program_killed_at_any_call_has_lost_nothing_promised(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: Any
) -> None:
    """
    Wherever the program is killed, the file is whole, what was acknowledged is there, and every redelivery follows the rules.
    """
    enumerate_crashes(tmp_path, "power", STEP, request, capsys)


@pytest.mark.thorough
def test_without_syncs_a_killed_program_has_lost_nothing_either(
    tmp_path: Path, request: pytest.FixtureRequest, capsys: Any
) -> None:
    """durability=process gives up what a power cut takes, but not what a kill takes; this is tried at a few calls."""
    enumerate_crashes(tmp_path, "process", 20, request, capsys)


@pytest.mark.parametrize("durability", ["power", "process"])
def test_an_acknowledged_publish_was_synced(tmp_path: Path, durability: str) -> None:
    """Between a publish and its return its pages are written, then the log is synced; durability=process leaves that out."""
    need_strace()
    database, history, log = tmp_path / "bus.db", tmp_path / "history", tmp_path / "calls"
    done = strace(script("crash_child.py", database, history, durability), database, log=log, also=[history])
    assert done.returncode == 0, done.stderr
    events = calls(log)
    records = History.from_jsonl(history).records
    assert sum(event == ("write", "history") for event in events) == len(records)
    lines = iter(sorted(records, key=lambda record: record.at))
    written = synced = False
    judged = Counter[bool]()
    for event in events:
        if event == ("write", "history"):
            record = next(lines)
            if isinstance(record, Attempted) and record.publisher == "first":
                written = synced = False
            elif isinstance(record, Accepted) and record.id != PAID:
                assert written
                judged[synced] += 1
        elif event == ("pwrite64", "bus.db-wal"):
            written = True  # another thread may write more between the sync and the return
        elif event[0] in ("fsync", "fdatasync") and event[1] == "bus.db-wal":
            synced = written
    assert sum(judged.values()) == len(SENT)
    assert judged[True] == len(SENT) if durability == "power" else judged[False]

"""A program that publishes in its own transactions is killed at each of its writes and syncs in turn."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from crash_helpers import counted, need_strace, script, strace
from outbox_child import ORDERS, rolled_back

from pipebus import Bus

pytestmark = pytest.mark.thorough  # processes are killed

STEP = 7
"""It is killed at every seventh call of each name, counted for each of its threads."""


def numbers(path: Path, query: str) -> list[int]:
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tables = {name for (name,) in file.execute("SELECT name FROM sqlite_schema")}
        return [number for (number,) in file.execute(query)] if {"orders", "message"} <= tables else []


def orders_and_messages_agree(path: Path) -> list[int]:
    orders = numbers(path, "SELECT number FROM orders ORDER BY number")
    assert numbers(path, "SELECT data ->> 'data' FROM message ORDER BY seq") == orders
    return orders


def go_on(path: Path) -> int:
    """What is true after a kill, and when another program has gone on. Returns how many orders there were."""
    before = orders_and_messages_agree(path)
    assert before == [number for number in range(ORDERS) if not rolled_back(number)][: len(before)]
    got: list[int] = []
    bus = Bus(f"sqlite:///{path}?lease=1s")
    bus.subscribe("orders", lambda message: got.append(message.body), name="mail")
    with bus:
        bus.drain(timeout=30)
        figures = bus.stats()["subscriptions"]["mail"]
    assert got == sorted(got)
    assert set(got) <= set(before)
    assert figures["accepted"] == figures["acknowledged"] == len(before)
    return len(before)


def test_a_program_killed_at_any_call_has_an_order_for_each_message(tmp_path: Path) -> None:
    """The file is whole, there is a message for each order and an order for each message, and each message is handled."""
    need_strace()
    log = tmp_path / "calls"
    whole = strace(script("outbox_child.py", tmp_path / "bus.db"), tmp_path / "bus.db", log=log)
    assert whole.returncode == 0, whole.stderr
    assert go_on(tmp_path / "bus.db") == sum(not rolled_back(number) for number in range(ORDERS))

    def killed_at(name: str) -> list[int]:
        """How many orders each kill has left."""
        left: list[int] = []
        for number in itertools.count(1, STEP):
            file = tmp_path / f"{name}-{number}" / "bus.db"
            file.parent.mkdir()
            done = strace(script("outbox_child.py", file), file, inject=f"{name}:signal=KILL:when={number}")
            assert done.returncode <= 0, done.stderr
            orders = go_on(file)
            shutil.rmtree(file.parent)
            if not done.returncode:  # none of its threads makes so many of these calls
                break
            left.append(orders)
        return left

    with ThreadPoolExecutor(4) as pool:
        left = [orders for found in pool.map(killed_at, sorted(counted(log))) for orders in found]
    assert len(left) > 10
    assert len(set(left)) > 3, "it was always killed at the same place"

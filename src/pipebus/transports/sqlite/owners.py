"""Owners: each start of a transport is one. It renews a lease, and others take over its deliveries when it has gone."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from typing import Any

from pipebus.transports.sqlite import boot, subscriptions
from pipebus.transports.sqlite.records import Claim, Owner
from pipebus.transports.sqlite.store import Store


def enter(store: Store, life: boot.Life, until: float) -> int:
    """A new owner. Returns its number."""
    found = store.execute("INSERT INTO owner (boot, space, pid, born, until) VALUES (?, ?, ?, ?, ?)", (*life, until)).lastrowid
    assert found is not None
    return found


def renew(store: Store, owner: int, until: float) -> bool:
    """False: other processes took it for dead, and have its deliveries."""
    return store.execute("UPDATE owner SET until = ? WHERE owner = ?", (until, owner)).rowcount == 1


def exists(store: Store, owner: int) -> bool:
    return store.execute("SELECT 1 FROM owner WHERE owner = ?", (owner,)).fetchone() is not None


def owners(connection: sqlite3.Connection, but: int = 0) -> list[Owner]:
    """All owners except one."""
    rows = connection.execute("SELECT owner, boot, space, pid, born, until FROM owner WHERE owner != ?", (but,)).fetchall()
    return [Owner(row[0], boot.Life(*row[1:5]), row[5]) for row in rows]


def expire(store: Store, owner: Owner, ended: bool) -> None:
    """Remove an owner that seems dead, unless it has renewed its lease since it was looked at."""
    row = store.execute("SELECT until FROM owner WHERE owner = ?", (owner.owner,)).fetchone()
    if row is not None and (ended or row[0] <= store.now()):
        leave(store, owner.owner, counts=True)


def leave(store: Store, owner: int, counts: bool) -> None:
    """
    Remove an owner. What it held may be claimed again.

    Args:
        counts: What it held counts as taken once more, and is suspect: one of these messages may have killed it.
    """
    for (sub,) in store.execute("SELECT sub FROM subscription WHERE owner = ?", (owner,)).fetchall():
        subscriptions.remove(store, sub)
    rows = store.execute("DELETE FROM claimed WHERE owner = ? RETURNING sub, seq, takings, key, suspect", (owner,)).fetchall()
    store.many(
        "INSERT INTO ready VALUES (?, ?, ?, ?, ?)",
        [(sub, seq, takings + counts, key, counts or suspect) for sub, seq, takings, key, suspect in rows],
    )
    store.touched.update(row[0] for row in rows)
    store.execute("DELETE FROM owner WHERE owner = ?", (owner,))


def adopt(store: Store, claims: Iterable[Claim], owner: int) -> list[tuple[Claim, int]]:
    """Claim again, for a new owner, what nobody else has claimed meanwhile. Returns them with their new `takings`."""
    adopted: list[tuple[Claim, int]] = []
    for claim in claims:
        row: Any = store.execute(
            "DELETE FROM ready WHERE sub = ? AND seq = ? AND takings > ? RETURNING takings, key, suspect",
            (claim.sub, claim.seq, claim.takings),
        ).fetchone()
        if row is not None:
            store.execute("INSERT INTO claimed VALUES (?, ?, ?, ?, ?, ?)", (claim.sub, claim.seq, *row, owner))
            adopted.append((claim, row[0]))
    return adopted


def catch_up(store: Store, boot_now: str) -> float:
    """
    What to add to the clock since boot to get the file's time.

    After a new boot the file's time continues by what has passed on the calendar, and never goes back; and all owners from
    before that boot have ended.
    """
    base = store.meta("base")
    if base is not None and store.meta("boot") == boot_now:
        return float(base)
    store.execute("BEGIN IMMEDIATE")
    try:
        last = store.execute("SELECT stored FROM message ORDER BY seq DESC LIMIT 1").fetchone()
        base = max(time.time(), last[0] if last is not None else 0.0) - boot.since_boot()
        store.set_meta("boot", boot_now)
        store.set_meta("base", base)
        for owner in owners(store.connection):
            leave(store, owner.owner, counts=True)
        store.execute("COMMIT")
    except BaseException:
        store.roll_back()
        raise
    return float(base)

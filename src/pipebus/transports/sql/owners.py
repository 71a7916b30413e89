"""Owners: each start of a transport is one. It renews a lease, and others take over its deliveries when it has gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from pipebus.transports.sql import statements as sql
from pipebus.transports.sql import subscriptions
from pipebus.transports.sql.records import Claim, Life, Owner
from pipebus.transports.sql.store import Store

VERSION: Final = 2
"""Of the tables, as an owner knows them. A process of an older pipebus cannot become an owner in a newer file."""


def enter(store: Store, life: Life, until: float) -> int:
    """A new owner. Returns its number."""
    found = store.execute(sql.ENTER, (*life, until, VERSION)).lastrowid
    assert found is not None
    return found


def renew(store: Store, owner: int, until: float) -> bool:
    """False: other processes took it for dead, and have its deliveries."""
    return store.execute(sql.RENEW, (until, owner)).rowcount == 1


def exists(store: Store, owner: int) -> bool:
    return store.execute(sql.EXISTS, (owner,)).fetchone() is not None


def owners(connection: sqlite3.Connection, but: int = 0) -> list[Owner]:
    """All owners except one."""
    rows = connection.execute(sql.OWNERS, (but,)).fetchall()
    return [Owner(row[0], Life(*row[1:5]), row[5]) for row in rows]


def expire(store: Store, owner: Owner, ended: bool) -> None:
    """Remove an owner that seems dead, unless it has renewed its lease since it was looked at."""
    row = store.execute(sql.UNTIL, (owner.owner,)).fetchone()
    if row is not None and (ended or row[0] <= store.now()):
        leave(store, owner.owner, counts=True)


def leave(store: Store, owner: int, counts: bool) -> None:
    """
    Remove an owner. What it held may be claimed again.

    Args:
        counts: What it held counts as taken once more, and is suspect: one of these messages may have killed it.
    """
    for (sub,) in store.execute(sql.OWNED, (owner,)).fetchall():
        subscriptions.remove(store, sub)
    rows = store.execute(sql.END_OWNED, (owner,)).fetchall()
    store.many(
        sql.DELIVER,
        [(sub, seq, takings + counts, key, counts or suspect) for sub, seq, takings, key, suspect in rows],
    )
    store.touched.update(row[0] for row in rows)
    store.execute(sql.LEAVE, (owner,))


def adopt(store: Store, claims: Iterable[Claim], owner: int) -> list[tuple[Claim, int]]:
    """Claim again, for a new owner, what nobody else has claimed meanwhile. Returns them with their new `takings`."""
    adopted: list[tuple[Claim, int]] = []
    for claim in claims:
        row: Any = store.execute(sql.TAKE_BACK, (claim.sub, claim.seq, claim.takings)).fetchone()
        if row is not None:
            store.execute(sql.CLAIM_AGAIN, (claim.sub, claim.seq, *row, owner))
            adopted.append((claim, row[0]))
    return adopted

"""The last slot of each schedule that processes share."""

from __future__ import annotations

import sqlite3

from pipebus.message.slot import Slot
from pipebus.transports.sql import statements as sql
from pipebus.transports.sql.store import Store


def record(store: Store, slot: Slot) -> bool:
    """Record a slot, in the transaction that keeps its message. False: this slot or a later one is recorded already."""
    return bool(store.execute(sql.RECORD_SLOT, slot).rowcount)


def forget(store: Store, name: str) -> bool:
    """Forget a schedule. False: there is none of this name."""
    return bool(store.execute(sql.FORGET_SLOTS, (name,)).rowcount)


def last(connection: sqlite3.Connection, name: str) -> float | None:
    row = connection.execute(sql.SLOT, (name,)).fetchone()
    return None if row is None else float(row[0])


def every(connection: sqlite3.Connection) -> list[Slot]:
    return [Slot(*row) for row in connection.execute(sql.SLOTS)]

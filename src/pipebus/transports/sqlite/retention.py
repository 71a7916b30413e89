"""What is kept for a time: the keys that filters remember, and messages that nobody waits for."""

from __future__ import annotations

import sqlite3

from pipebus.transports.sqlite.store import Store


def knows(connection: sqlite3.Connection, scope: str, key: str, now: float) -> bool:
    """Whether a filter has learnt this key, and its time is not over."""
    query = "SELECT 1 FROM seen WHERE scope = ? AND key = ? AND until > ?"
    return connection.execute(query, (scope, key, now)).fetchone() is not None


def learn(store: Store, scope: str, key: str, seconds: float) -> None:
    """Remember a key."""
    store.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?)", (scope, key, store.now() + seconds))


def sweep(store: Store, keep: float | None = None, most: int = 2000, anew: bool = False) -> int:
    """
    Delete messages whose time is up and that no subscription waits for. Each call looks at the next `most` of them.

    Args:
        keep: Seconds to keep messages; None: as the URL says.
        anew: Begin with the oldest message.

    Returns:
        How many were deleted.
    """
    if anew:
        store.swept = 0
    horizon = store.now() - (store.retention if keep is None else keep)
    rows = store.execute("SELECT seq, stored FROM message WHERE seq > ? ORDER BY seq LIMIT ?", (store.swept, most)).fetchall()
    rows = [row for row in rows if row[1] <= horizon]  # the following ones are younger
    store.swept = rows[-1][0] if len(rows) == most else 0
    store.execute("DELETE FROM seen WHERE until <= ?", (store.now(),))
    if not rows:
        return 0
    low, high = rows[0][0], rows[-1][0]
    waited = {seq for (seq,) in store.execute("SELECT seq FROM claimed")}
    for (sub,) in store.execute("SELECT sub FROM subscription").fetchall():
        for table in ("ready", "later"):
            query = f"SELECT seq FROM {table} WHERE sub = ? AND seq BETWEEN ? AND ?"
            waited.update(seq for (seq,) in store.execute(query, (sub, low, high)))
    free = [(seq,) for seq, _ in rows if seq not in waited]
    store.many("DELETE FROM message WHERE seq = ?", free)
    return len(free)


def size(store: Store) -> int:
    """Bytes in use."""
    pages, free, page = (
        store.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * page)

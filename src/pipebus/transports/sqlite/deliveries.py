"""Deliveries: claiming them for a process to handle, and ending them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

from pipebus.outcomes.dead_letters import DeadLetter
from pipebus.transports.sqlite import dead
from pipebus.transports.sqlite.records import Found, Settlement
from pipebus.transports.sqlite.store import PAUSED, Store

ASIDE: Final = 256
"""How many messages of keys that it has just taken a claim looks past; the next claim skips all of them."""


def claim(store: Store, sub: int, owner: int, limit: int, careful: bool | None) -> list[Found]:
    """
    Take deliveries, the oldest first.

    Of messages with equal keys one at a time is out, in all processes. A message that was out when its process ended is a
    suspect: it may have killed that process. A suspect is taken alone, so messages that only wait with a deadly one do not
    share its fate again and again.

    Args:
        careful: True: take no suspect, since this process holds one already. None: take suspects like all others, since a
            reader may want many messages at once.
    """
    rows = _ready(store, sub, 0, limit)
    if any(row[2] is not None for row in rows):
        rows = _one_of_a_key(store, sub, rows, limit)
    for index, row in enumerate(rows):
        if row[3] and careful is not None:
            rows = rows[: index or not careful]
            break
    if not rows:
        return []
    if all(row[2] is None for row in rows):  # then these are all rows without a key between the first and the last
        between = "FROM ready WHERE sub = ? AND seq BETWEEN ? AND ? AND key IS NULL"
        ends = (sub, rows[0][0], rows[-1][0])
        store.execute(f"INSERT INTO claimed SELECT sub, seq, takings, key, suspect, ? {between}", (owner, *ends))
        store.execute(f"DELETE {between}", ends)
    else:
        store.many("DELETE FROM ready WHERE sub = ? AND seq = ?", [(sub, row[0]) for row in rows])
        store.many("INSERT INTO claimed VALUES (?, ?, ?, ?, ?, ?)", [(sub, *row[:4], owner) for row in rows])
    return [Found(seq, takings, bool(suspect), again is not None, data) for seq, takings, _, suspect, again, data in rows]


def _ready(store: Store, sub: int, after: int, limit: int) -> list[Any]:
    """What may be claimed: no message whose key is out, or waits to be retried."""
    return store.execute(
        "SELECT r.seq, r.takings, r.key, r.suspect, m.replayed, m.data FROM ready r JOIN message m ON m.seq = r.seq "
        "WHERE r.sub = :sub AND r.seq > :after AND (r.key IS NULL OR r.key NOT IN ("
        "SELECT key FROM claimed WHERE sub = :sub AND key IS NOT NULL UNION ALL "
        "SELECT key FROM later WHERE sub = :sub AND takings > 0 AND key IS NOT NULL)) ORDER BY r.seq LIMIT :limit",
        {"sub": sub, "after": after, "limit": limit},
    ).fetchall()


def _one_of_a_key(store: Store, sub: int, rows: list[Any], limit: int) -> list[Any]:
    """The first message of each key; and as many later ones as fill the limit again, if they are not too far behind."""
    kept: list[Any] = []
    taken: set[str] = set()
    past = 0
    while rows:
        for row in rows:
            if row[2] is None or row[2] not in taken:
                kept.append(row)
                taken.add(row[2])
        past += len(rows)
        if len(kept) >= limit or past >= limit + ASIDE:
            break
        rows = _ready(store, sub, rows[-1][0], max(limit, 64))
    return kept[:limit]


def wake(store: Store) -> None:
    """Make deliveries claimable whose time has come."""
    rows = store.execute(
        "SELECT due, sub, seq, takings, key FROM later WHERE due <= ? ORDER BY due LIMIT 1000", (store.now(),)
    ).fetchall()
    if rows:
        store.many("DELETE FROM later WHERE due = ? AND sub = ? AND seq = ?", [row[:3] for row in rows])
        store.many("INSERT INTO ready (sub, seq, takings, key) VALUES (?, ?, ?, ?)", [row[1:] for row in rows])
        store.touched.update(row[1] for row in rows)


def next_due(connection: sqlite3.Connection) -> float:
    """When `wake` has something to do next, in the file's time."""
    found = connection.execute("SELECT due FROM later ORDER BY due LIMIT 1").fetchone()
    return float(found[0]) if found else float("inf")


def anything(connection: sqlite3.Connection, sub: int) -> bool:
    """Whether a subscription may have something to claim; not while it is paused."""
    query = "SELECT 1 FROM ready WHERE sub = :sub AND NOT EXISTS (SELECT 1 FROM meta WHERE name = :paused || :sub) LIMIT 1"
    return connection.execute(query, {"sub": sub, "paused": PAUSED}).fetchone() is not None


def settle(store: Store, settlements: Sequence[Settlement]) -> int:
    """Carry out settlements. Returns how many came too late, because the lease had ended."""
    stale = 0
    handled: dict[int, list[tuple[int, int, int, int]]] = {}
    for settlement in settlements:
        claim = settlement.claim
        if settlement.verdict == "acknowledge":
            handled.setdefault(claim.sub, []).append(claim.fence)
        else:
            stale += not _settle_one(store, settlement)
    for sub, fences in handled.items():
        done = _delete(store, sub, fences)
        store.execute("UPDATE subscription SET acknowledged = acknowledged + ? WHERE sub = ?", (done, sub))
        stale += len(fences) - done
        store.touched.add(sub)
    return stale


def _delete(store: Store, sub: int, fences: list[tuple[int, int, int, int]]) -> int:
    """Delete claims. Returns how many there were. Numbers without a gap are deleted as one range."""
    fences.sort(key=itemgetter(1))
    _, low, owner, takings = fences[0]
    dense = fences[-1][1] - low + 1 == len(fences)
    if dense and len(fences) > 1 and all(fence[2] == owner and fence[3] == takings for fence in fences):
        query = "DELETE FROM claimed WHERE sub = ? AND seq BETWEEN ? AND ? AND owner = ? AND takings = ?"
        return store.execute(query, (sub, low, fences[-1][1], owner, takings)).rowcount
    return store.many("DELETE FROM claimed WHERE sub = ? AND seq = ? AND owner = ? AND takings = ?", fences).rowcount


def _settle_one(store: Store, settlement: Settlement) -> bool:
    """False: it came too late."""
    claim, verdict, delay, why = settlement
    row = store.execute(
        "DELETE FROM claimed WHERE sub = ? AND seq = ? AND owner = ? AND takings = ? RETURNING key, suspect", claim.fence
    ).fetchone()
    if row is None:
        return False
    sub, seq = claim.sub, claim.seq
    store.touched.add(sub)
    if verdict == "return" and delay > 0:
        store.execute("INSERT INTO later VALUES (?, ?, ?, ?, ?)", (store.now() + delay, sub, seq, claim.takings + 1, row[0]))
    elif verdict in ("return", "release"):
        takings = claim.takings + (verdict == "return")
        suspect = row[1] if verdict == "release" else 0  # a returned message did not kill its process
        store.execute("INSERT INTO ready VALUES (?, ?, ?, ?, ?)", (sub, seq, takings, row[0], suspect))
    elif isinstance(why, DeadLetter):
        [(name,)] = store.execute("SELECT name FROM subscription WHERE sub = ?", (sub,))
        [(data,)] = store.execute("SELECT data FROM message WHERE seq = ?", (seq,))
        dead.add(store, why, data, sub, name)
    else:
        dead.count_drop(store, sub, why or "dropped")
    return True

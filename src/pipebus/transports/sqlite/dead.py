"""Dead letters, as rows; and counting what subscriptions drop."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from pipebus.outcomes.dead_letters import DeadLetter
from pipebus.transports.sqlite.store import Store

REASONS: Final = 1_000
"""Most reasons of drops that a subscription counts apart."""
COLUMNS: Final = (
    "id, subscription, data, author, error, digest, traceback, attempts, first_time, time, "
    "(SELECT name FROM subscription s WHERE s.sub = dead.sub)"
)
"""Of a letter. The last one is the subscription's present name, if it is still there."""


def add(store: Store, letter: DeadLetter, data: bytes, sub: int | None, name: str) -> None:
    """Store a letter. If there are too many then, delete the oldest."""
    store.execute(
        "INSERT INTO dead (id, sub, subscription, data, author, error, digest, traceback, attempts, first_time, time) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            letter.id, sub, name, data, letter.by and _storable(letter.by), _storable(letter.error), letter.digest,
            _storable(letter.traceback), letter.attempts, letter.first_time, letter.time,
        ),
    )  # fmt: skip
    over = store.execute(
        "DELETE FROM dead WHERE letter <= (SELECT letter FROM dead ORDER BY letter DESC LIMIT 1 OFFSET ?) RETURNING sub",
        (store.letters,),
    ).fetchall()
    for (old,) in over:
        if old is not None:
            count_drop(store, old, "evicted")


def revive(store: Store, letter: str) -> str | None:
    """Give a letter's message back to its subscription. Returns why that is impossible, or None."""
    row = store.execute("SELECT sub, subscription, data FROM dead WHERE id = ?", (letter,)).fetchone()
    if row is None:
        return "there is no such letter any more"
    sub, name, data = row
    if not store.execute("SELECT 1 FROM subscription WHERE sub = ?", (sub,)).fetchone():
        return f"its subscription {name} is gone"
    seq = store.take_numbers(1)
    wire = _attributes(data)
    store.execute(
        "INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, 0, ?)",
        (seq, wire.get("id", letter), wire.get("type", ""), wire.get("partitionkey"), store.now(), data, letter),
    )
    store.execute("INSERT INTO ready (sub, seq, takings, key) VALUES (?, ?, 0, ?)", (sub, seq, wire.get("partitionkey")))
    delete(store, letter)
    store.touched.add(sub)
    return None


def discard(store: Store, letter: str) -> bool:
    """Delete a letter, and count it as dropped. False: there is none of this id."""
    row = store.execute("DELETE FROM dead WHERE id = ? RETURNING sub", (letter,)).fetchone()
    if row is not None and row[0] is not None:
        count_drop(store, row[0], "discarded")
    return row is not None


def delete(store: Store, letter: str) -> None:
    store.execute("DELETE FROM dead WHERE id = ?", (letter,))


def listed(connection: sqlite3.Connection, where: str = "", *values: str) -> list[Any]:
    """`COLUMNS` of letters, in the order of their deaths."""
    return connection.execute(f"SELECT {COLUMNS} FROM dead {where} ORDER BY letter", values).fetchall()


def count(connection: sqlite3.Connection) -> int:
    """How many letters there are."""
    return int(connection.execute("SELECT count(*) FROM dead").fetchone()[0])


def count_drop(store: Store, sub: int, reason: str) -> None:
    """Count a dropped message. Only the first reasons are counted apart, for they may be different each time."""
    reason = _storable(reason)
    if not store.execute("SELECT 1 FROM dropped WHERE sub = ? AND reason = ?", (sub, reason)).fetchone():
        [known] = store.execute("SELECT count(*) FROM dropped WHERE sub = ?", (sub,)).fetchone()
        reason = reason if known < REASONS else "(other)"
    store.execute(
        "INSERT INTO dropped VALUES (?, ?, 1) ON CONFLICT (sub, reason) DO UPDATE SET count = count + 1", (sub, reason)
    )


def _storable(text: str) -> str:
    """What SQLite can store: the text of an error may hold half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


def _attributes(data: bytes) -> dict[str, Any]:
    """The members of a message's envelope that are text; none if the bytes are not an envelope."""
    try:
        wire = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return {name: value for name, value in wire.items() if isinstance(value, str)} if isinstance(wire, dict) else {}

"""Dead letters, as rows; and counting what subscriptions drop."""

from __future__ import annotations

import json
import sqlite3
from typing import Any, Final

from pipebus.outcomes.dead_letters import DeadLetter
from pipebus.transports.sql import statements as sql
from pipebus.transports.sql.keys import Waiting, line_up
from pipebus.transports.sql.store import Store

REASONS: Final = 1_000
"""Most reasons of drops that a subscription counts apart."""


def add(store: Store, letter: DeadLetter, data: bytes, sub: int | None) -> None:
    """Store a letter. If there are too many then, delete the oldest."""
    store.execute(
        sql.INSERT_LETTER,
        (
            letter.id, sub, letter.subscription, data, letter.by and _storable(letter.by), _storable(letter.error),
            letter.digest, _storable(letter.traceback), letter.attempts, letter.first_time, letter.time,
        ),
    )  # fmt: skip
    over = _count(store, 1) - store.letters
    if over > 0:
        evicted = store.execute(sql.EVICT, (over,)).fetchall()
        _count(store, -len(evicted))
        for (old,) in evicted:
            if old is not None:
                count_drop(store, old, "evicted")


def revive(store: Store, letter: str) -> str | None:
    """Give a letter's message back to its subscription. Returns why that is impossible, or None."""
    row = store.execute(sql.LETTER, (letter,)).fetchone()
    if row is None:
        return "there is no such letter any more"
    sub, name, data = row
    if not store.execute(sql.SUBSCRIPTION_NAME, (sub,)).fetchone():
        return f"its subscription {name} is gone"
    seq = store.last() + 1
    wire = _attributes(data)
    key = wire.get("partitionkey")
    store.execute(sql.INSERT_REPLAYED, (seq, wire.get("id", letter), wire.get("type", ""), key, store.now(), data, letter))
    line_up(store, [Waiting(sub, seq, 0, key)])
    delete(store, letter)
    return None


def discard(store: Store, letter: str) -> bool:
    """Delete a letter, and count it as dropped. False: there is none of this id."""
    row = delete(store, letter)
    if row is not None and row[0] is not None:
        count_drop(store, row[0], "discarded")
    return row is not None


def delete(store: Store, letter: str) -> tuple[int | None] | None:
    """Delete a letter. Returns its subscription's number, alone in a tuple; None: there is none of this id."""
    row: tuple[int | None] | None = store.execute(sql.DELETE_LETTER, (letter,)).fetchone()
    if row is not None:
        _count(store, -1)
    return row


def _count(store: Store, more: int) -> int:
    """Count letters. Returns how many there are."""
    store.execute(sql.ADD_META, (more, "letters"))
    return int(store.meta("letters"))


def listed(connection: sqlite3.Connection, where: str = "", *values: str) -> list[Any]:
    """Letters, in the order of their deaths."""
    return connection.execute(sql.LETTERS.format(where=where), values).fetchall()


def count(connection: sqlite3.Connection) -> int:
    """How many letters there are."""
    return int(connection.execute(sql.META, ("letters",)).fetchone()[0])


def count_drop(store: Store, sub: int, reason: str) -> None:
    """Count a dropped message. Only the first reasons are counted apart, for they may be different each time."""
    reason = _storable(reason)
    if not store.execute(sql.REASON, (sub, reason)).fetchone():
        [known] = store.execute(sql.REASONS, (sub,)).fetchone()
        reason = reason if known < REASONS else "(other)"
    store.execute(sql.COUNT_DROP, (sub, reason))


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

"""Subscriptions: making them, with the messages that are stored already, counting, and removing them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from pipebus.message.patterns import Pattern
from pipebus.transports.base import Kept
from pipebus.transports.sqlite.store import PAUSED, Store


def number(store: Store, name: str) -> int | None:
    """The number of a subscription, if there is one of this name."""
    row = store.execute("SELECT sub FROM subscription WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row is not None else None


def subscribe(store: Store, name: str, patterns: Sequence[str], start: str, owner: int | None) -> int:
    """
    Make a subscription, or find the one of this name and give it these patterns. Returns its number.

    Args:
        start: Which stored messages a new one gets: "new" (none), "all" or "last".
        owner: It is removed with this owner; None: it stays.
    """
    texts = json.dumps(list(patterns))
    row = store.execute("SELECT sub, patterns FROM subscription WHERE name = ?", (name,)).fetchone()
    if row is not None:
        sub = int(row[0])
        if row[1] != texts:
            store.execute("UPDATE subscription SET patterns = ? WHERE sub = ?", (texts, sub))
            _changed(store)
        return sub
    found = store.execute("INSERT INTO subscription (name, patterns, owner) VALUES (?, ?, ?)", (name, texts, owner)).lastrowid
    assert found is not None
    _changed(store)
    if start != "new":
        _add_stored(store, found, patterns, start)
    return found


def subscribe_again(
    store: Store, gone: int, name: str, patterns: Sequence[str], owner: int | None, since: int, known: set[int]
) -> int:
    """
    Make a subscription again that was deleted while this process served it. It keeps its deliveries that are still there, and
    gets the messages that were published since, while it was missing. Returns its number.

    Args:
        gone: The number that it had.
        since: Number of the last message when its row was last seen.
        known: What was claimed for it after that.
    """
    sub = number(store, name)
    if sub is None:
        sub = gone
        store.execute("DELETE FROM subscription WHERE sub = ?", (gone,))  # another name may have the number now
        store.execute(
            "INSERT INTO subscription (sub, name, patterns, owner) VALUES (?, ?, ?, ?)",
            (sub, name, json.dumps(list(patterns)), owner),
        )
    else:
        for table in ("ready", "later"):
            store.execute(f"UPDATE OR IGNORE {table} SET sub = ? WHERE sub = ?", (sub, gone))
    _changed(store)
    parsed = [Pattern(pattern) for pattern in patterns]
    rows = store.execute(
        "SELECT seq, subject, key, due FROM message WHERE seq > ? AND replayed IS NULL "
        "AND NOT EXISTS (SELECT 1 FROM ready WHERE sub = ? AND seq = message.seq) "
        "AND NOT EXISTS (SELECT 1 FROM later WHERE sub = ? AND seq = message.seq) "
        "AND NOT EXISTS (SELECT 1 FROM claimed WHERE sub = ? AND seq = message.seq)",
        (since, sub, sub, sub),
    ).fetchall()
    _add(
        store, sub,
        [
            (seq, key, due) for seq, subject, key, due in rows
            if seq not in known and any(pattern.matches(subject) for pattern in parsed)
        ],
    )  # fmt: skip
    coming = " + ".join(f"(SELECT count(*) FROM {table} WHERE sub = :sub)" for table in ("ready", "later", "claimed", "dead"))
    store.execute(
        f"UPDATE subscription SET accepted = acknowledged + {coming} "
        "+ (SELECT coalesce(sum(count), 0) FROM dropped WHERE sub = :sub) WHERE sub = :sub",
        {"sub": sub},
    )
    return sub


def remove(store: Store, sub: int) -> None:
    """Remove a subscription and its deliveries. Its dead letters stay."""
    for table in ("ready", "later", "claimed", "dropped", "subscription"):
        store.execute(f"DELETE FROM {table} WHERE sub = ?", (sub,))
    store.execute("DELETE FROM meta WHERE name = ?", (f"{PAUSED}{sub}",))
    _changed(store)


def hold(store: Store, name: str, on: bool) -> bool:
    """Pause a subscription, or let it go on. False: there is none of this name."""
    sub = number(store, name)
    if sub is not None:
        store.execute("DELETE FROM meta WHERE name = ?", (f"{PAUSED}{sub}",))
        if on:
            store.execute("INSERT INTO meta VALUES (?, 1)", (f"{PAUSED}{sub}",))
        store.touched.add(sub)
    return sub is not None


def kept(connection: sqlite3.Connection) -> list[Kept]:
    """`Transport.kept`."""
    rows = connection.execute("SELECT sub, name, patterns FROM subscription WHERE owner IS NULL ORDER BY name").fetchall()
    paused = {row[0] for row in connection.execute("SELECT name FROM meta WHERE name GLOB ?", (f"{PAUSED}*",))}
    found = [(sub, name, patterns, figures(connection, name)) for sub, name, patterns in rows]
    return [
        Kept(name, tuple(json.loads(patterns)), f"{PAUSED}{sub}" in paused, had["pending"], had["in_flight"], had["dead"])
        for sub, name, patterns, had in found
        if had is not None
    ]


def figures(connection: sqlite3.Connection, name: str) -> dict[str, Any] | None:
    """`Transport.figures`, for all processes; None: there is no such subscription."""
    connection.execute("BEGIN")  # all figures are of one moment
    try:
        row = connection.execute("SELECT sub, accepted, acknowledged FROM subscription WHERE name = ?", (name,)).fetchone()
        if row is None:
            return None
        sub, accepted, acknowledged = row
        ready, later, claimed, letters = (
            connection.execute(f"SELECT count(*) FROM {table} WHERE sub = ?", (sub,)).fetchone()[0]
            for table in ("ready", "later", "claimed", "dead")
        )
        dropped = dict(connection.execute("SELECT reason, count FROM dropped WHERE sub = ? ORDER BY reason", (sub,)))
    finally:
        connection.execute("COMMIT")
    return {
        "accepted": accepted,
        "acknowledged": acknowledged,
        "dropped": dropped,
        "dead": letters,
        "pending": ready + later,
        "in_flight": claimed,
    }


def next_due(connection: sqlite3.Connection, names: Sequence[str]) -> float:
    """When a delayed message of these subscriptions is due, in the file's time, apart from those that are paused."""
    query = (
        f"SELECT min(due) FROM later JOIN subscription USING (sub) WHERE name IN ({', '.join('?' * len(names))}) "
        "AND NOT EXISTS (SELECT 1 FROM meta WHERE name = ? || sub)"
    )
    [due] = connection.execute(query, (*names, PAUSED)).fetchone()
    return float("inf") if due is None else float(due)


def _add_stored(store: Store, sub: int, patterns: Sequence[str], start: str) -> None:
    """Give a new subscription the stored messages that match: all, or the last one."""
    parsed = [Pattern(pattern) for pattern in patterns]
    order = "ORDER BY seq DESC" if start == "last" else "ORDER BY seq"
    kept: list[tuple[int, str | None, float]] = []
    for seq, subject, key, due in store.execute(f"SELECT seq, subject, key, due FROM message WHERE replayed IS NULL {order}"):
        if any(pattern.matches(subject) for pattern in parsed):
            kept.append((seq, key, due))
            if start == "last":
                break
    _add(store, sub, kept)
    store.execute("UPDATE subscription SET accepted = accepted + ? WHERE sub = ?", (len(kept), sub))


def _add(store: Store, sub: int, found: Iterable[tuple[int, str | None, float]]) -> None:
    """Add deliveries, given as number, key and due time of their messages."""
    now = store.now()
    found = list(found)
    ready = [(sub, seq, key) for seq, key, due in found if due <= now]
    later = [(due, sub, seq, key) for seq, key, due in found if due > now]
    store.many("INSERT INTO ready (sub, seq, takings, key) VALUES (?, ?, 0, ?)", ready)
    store.many("INSERT INTO later VALUES (?, ?, ?, 0, ?)", later)
    store.touched.add(sub)


def _changed(store: Store) -> None:
    """Every process reads the subscriptions again before it publishes."""
    store.execute("UPDATE meta SET value = value + 1 WHERE name = 'subscriptions'")

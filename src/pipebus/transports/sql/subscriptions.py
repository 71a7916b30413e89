"""Subscriptions: making them, with the messages that are stored already, counting, and removing them."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from pipebus.message.patterns import Pattern
from pipebus.transports.base import Kept
from pipebus.transports.sql import statements as sql
from pipebus.transports.sql.keys import Waiting, line_up
from pipebus.transports.sql.store import PAUSED, Store

STEP: Final = 2000
"""Most stored messages that one step of `fill` looks at."""
TABLES: Final = ("ready", "parked", "later", "claimed")
"""Where a subscription's deliveries are."""


def number(store: Store, name: str) -> int | None:
    """The number of a subscription, if there is one of this name."""
    row = store.execute(sql.SUBSCRIPTION, (name,)).fetchone()
    return int(row[0]) if row is not None else None


def subscribe(store: Store, name: str, patterns: Sequence[str], start: str, owner: int | None) -> int:
    """
    Make a subscription, or find the one of this name and give it these patterns. Returns its number.

    Args:
        start: Which stored messages a new one gets: "new" (none), "all" or "last".
        owner: It is removed with this owner; None: it stays.
    """
    texts = json.dumps(list(patterns))
    row = store.execute(sql.SUBSCRIPTION, (name,)).fetchone()
    if row is not None:
        sub = int(row[0])
        if row[1] != texts:
            store.execute(sql.SET_PATTERNS, (texts, sub))
            _changed(store)
        return sub
    found = store.execute(sql.SUBSCRIBE, (name, texts, owner, 0 if start == "all" else None)).lastrowid
    assert found is not None
    _changed(store)
    if start == "last":
        _add_last(store, found, patterns)
    return found


def fill(store: Store, sub: int) -> bool:
    """
    Give a subscription that began with older messages the next of them. Messages that are published meanwhile come in their
    turn, so the order is that of publishing. Returns whether it has not come to the end yet.
    """
    row = store.execute(sql.FILLING, (sub,)).fetchone()
    if row is None or row[0] is None:
        return False
    matches = _matcher(json.loads(row[1]))
    rows = store.execute(sql.MESSAGES_AFTER, (row[0], STEP)).fetchall()
    found = [(seq, key, due) for seq, subject, key, due in rows if matches(subject)]
    _add(store, sub, found)
    store.execute(sql.ACCEPT, (len(found), sub))
    more = len(rows) == STEP
    store.execute(sql.FILL, (rows[-1][0] if more else None, sub))
    if not more:
        _changed(store)
    return more


def position(store: Store, sub: int, claimed: bool = False) -> int:
    """
    Number of the last message of which this subscription has its delivery, if it gets one.

    Args:
        claimed: Of the last one before which none waits.
    """
    row = store.execute(sql.FILLING, (sub,)).fetchone()
    last = store.last() if row is None or row[0] is None else int(row[0])
    waiting = [store.execute(sql.OLDEST.format(table=table), (sub,)).fetchone()[0] for table in TABLES[:3] if claimed]
    return int(min([last, *(seq - 1 for seq in waiting if seq is not None)]))


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
        store.execute(sql.REMOVE.format(table="subscription"), (gone,))  # another name may have the number now
        store.execute(sql.SUBSCRIBE_AS, (sub, name, json.dumps(list(patterns)), owner))
    elif sub != gone:
        _move(store, gone, sub)
    _changed(store)
    matches = _matcher(patterns)
    rows = store.execute(sql.MESSAGES_OUTSIDE, (since, sub, sub, sub, sub)).fetchall()
    _add(store, sub, [(seq, key, due) for seq, subject, key, due in rows if seq not in known and matches(subject)])
    store.execute(sql.RECOUNT, (sub,) * 7)
    return sub


def _move(store: Store, gone: int, sub: int) -> None:
    """Give the deliveries of one number to another, unless it has them."""
    has = {seq for table in TABLES for (seq,) in store.execute(sql.NUMBERS.format(table=table), (sub,))}
    waiting = [row for table in ("ready", "parked") for row in store.execute(sql.MOVE[table], (gone,)).fetchall()]
    later = [row for row in store.execute(sql.MOVE["later"], (gone,)).fetchall() if row[1] not in has]
    store.execute(sql.REMOVE.format(table="head"), (gone,))
    store.many(sql.TAKE_HEAD, [(sub, key, seq) for _, seq, takings, key in later if takings and key is not None])
    store.many(sql.POSTPONE, [(due, sub, seq, takings, key) for due, seq, takings, key in later])
    line_up(store, [Waiting(sub, *row) for row in sorted(waiting) if row[0] not in has])


def remove(store: Store, sub: int) -> None:
    """Remove a subscription and its deliveries. Its dead letters stay."""
    for table in TABLES:
        store.execute(sql.LOOSEN_ALL.format(table=table), (sub, store.meta("swept")))
    for table in (*TABLES, "head", "dropped", "subscription"):
        store.execute(sql.REMOVE.format(table=table), (sub,))
    store.execute(sql.DELETE_META, (f"{PAUSED}{sub}",))
    _changed(store)


def end(store: Store, sub: int) -> None:
    """Remove a subscription, unless a process has some of its messages; then it only gets no others."""
    [claimed] = store.execute(sql.COUNT.format(table="claimed"), (sub,)).fetchone()
    if not claimed:
        remove(store, sub)
    else:
        store.execute(sql.SET_PATTERNS, ("[]", sub))
        _changed(store)


def hold(store: Store, name: str, on: bool) -> bool:
    """Pause a subscription, or let it go on. False: there is none of this name."""
    sub = number(store, name)
    if sub is not None:
        store.execute(sql.DELETE_META, (f"{PAUSED}{sub}",))
        if on:
            store.set_meta(f"{PAUSED}{sub}", 1)
        store.touched.add(sub)
    return sub is not None


def kept(connection: sqlite3.Connection) -> list[Kept]:
    """`Transport.kept`."""
    rows = connection.execute(sql.DURABLE).fetchall()
    paused = {row[0] for row in connection.execute(sql.PAUSED, (f"{PAUSED}*",))}
    found = [(sub, name, patterns, figures(connection, name)) for sub, name, patterns in rows]
    return [
        Kept(name, tuple(json.loads(patterns)), f"{PAUSED}{sub}" in paused, had["pending"], had["in_flight"], had["dead"])
        for sub, name, patterns, had in found
        if had is not None
    ]


def figures(connection: sqlite3.Connection, name: str) -> dict[str, Any] | None:
    """
    The figures of a subscription, for all processes, and `since`: see `oldest`. None: there is no such subscription.
    """
    connection.execute("BEGIN")  # all figures are of one moment
    try:
        row = connection.execute(sql.FIGURES, (name,)).fetchone()
        if row is None:
            return None
        sub, accepted, acknowledged, filling, patterns = row
        ready, parked, later, claimed, letters = (
            connection.execute(sql.COUNT.format(table=table), (sub,)).fetchone()[0] for table in (*TABLES, "dead")
        )
        dropped = dict(connection.execute(sql.DROPPED, (sub,)))
        since = oldest(connection, sub)
        coming = 0
        if filling is not None:
            matches = _matcher(json.loads(patterns))
            coming = sum(matches(row[1]) for row in connection.execute(sql.MESSAGES_AFTER, (filling, sys.maxsize)))
    finally:
        connection.execute("COMMIT")
    return {
        "accepted": accepted + coming,
        "acknowledged": acknowledged,
        "dropped": dropped,
        "dead": letters,
        "pending": ready + parked + later + coming,
        "in_flight": claimed,
        "since": since,
    }


def oldest(connection: sqlite3.Connection, sub: int) -> float | None:
    """When the oldest message was stored that waits and is not delayed, in the store's time; None: there is none."""
    row = connection.execute(sql.OLDEST_READY, (sub, sub)).fetchone()
    return None if row is None else float(row[0])


def next_due(connection: sqlite3.Connection, names: Sequence[str]) -> float:
    """When a delayed message of these subscriptions is due, in the store's time, apart from those that are paused."""
    soonest = float("inf")
    for name in names:
        row = connection.execute(sql.SUBSCRIPTION, (name,)).fetchone()
        if row is not None and connection.execute(sql.META, (f"{PAUSED}{row[0]}",)).fetchone() is None:
            [due] = connection.execute(sql.NEXT_DUE_OF, (row[0],)).fetchone()
            soonest = min(soonest, soonest if due is None else due)
    return soonest


def _add_last(store: Store, sub: int, patterns: Sequence[str]) -> None:
    """Give a new subscription the last stored message that matches."""
    matches = _matcher(patterns)
    for seq, subject, key, due in store.execute(sql.MESSAGES_BACKWARDS):
        if matches(subject):
            _add(store, sub, [(seq, key, due)])
            store.execute(sql.ACCEPT, (1, sub))
            return


def _matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    parsed = [Pattern(pattern) for pattern in patterns]
    return lambda subject: any(pattern.matches(subject) for pattern in parsed)


def _add(store: Store, sub: int, found: Iterable[tuple[int, str | None, float]]) -> None:
    """Add deliveries, given as number, key and due time of their messages."""
    now = store.now()
    found = list(found)
    line_up(store, [Waiting(sub, seq, 0, key) for seq, key, due in found if due <= now])
    store.many(sql.POSTPONE, [(due, sub, seq, 0, key) for seq, key, due in found if due > now])
    store.touched.add(sub)


def _changed(store: Store) -> None:
    """Every process reads the subscriptions again before it publishes."""
    store.execute(sql.ADD_META, (1, "subscriptions"))

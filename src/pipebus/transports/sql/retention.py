"""What is kept for a time: the keys that filters remember, and messages that nobody waits for."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from pipebus.transports.sql import statements as sql
from pipebus.transports.sql.store import Store
from pipebus.transports.sql.subscriptions import TABLES

CLOSE: Final = 16
"""Numbers with at most this distance are looked up as one range."""


def knows(connection: sqlite3.Connection, scope: str, key: str, now: float) -> bool:
    """Whether a filter has learnt this key, and its time is not over."""
    return connection.execute(sql.KNOWS, (scope, key, now)).fetchone() is not None


def learn(store: Store, scope: str, key: str, seconds: float) -> None:
    """Remember a key."""
    store.execute(sql.LEARN, (scope, key, store.now() + seconds))


def sweep(store: Store, keep: float | None = None, most: int = 2000) -> bool:
    """
    Delete messages whose time is up and that no subscription waits for.

    The sweep passes each message once, in the order of publishing, and `swept` says how far it has come, for all processes.
    A message that somebody still waits for is left behind; when a delivery of it ends, that makes it `loose`, and the sweep
    looks at it again. So it costs the same however much waits.

    Args:
        keep: Seconds to keep messages; None: as the URL says.
        most: Messages to look at, in each of the two places.

    Returns:
        There is more to do at once.
    """
    now = store.now()
    store.execute(sql.FORGET, (now,))
    loose = [seq for (seq,) in store.execute(sql.LOOSE, (most,))]
    if loose:
        _delete(store, loose)
        store.many(sql.FORGET_LOOSE, [(seq,) for seq in loose])
    horizon = now - (store.retention if keep is None else keep)
    [filled] = store.execute(sql.LEAST_FILLED).fetchone()  # what follows is still to be given to a subscription
    passed: list[int] = []
    for seq, stored in store.execute(sql.OLD_MESSAGES, (store.meta("swept"), most)):
        if stored > horizon or (filled is not None and seq > filled):
            break
        passed.append(seq)
    if passed:
        _delete(store, passed)
        store.set_meta("swept", passed[-1])
    return len(loose) == most or len(passed) == most


def _delete(store: Store, numbers: list[int]) -> None:
    """Delete those of these messages that nobody waits for. The numbers are in order."""
    waited: set[int] = set()
    for low, high in _ranges(numbers):
        waited |= _waited(store, low, high)
    store.many(sql.DELETE_MESSAGE, [(seq,) for seq in numbers if seq not in waited])


def _ranges(numbers: list[int]) -> Iterable[tuple[int, int]]:
    low = numbers[0]
    for one, following in pairwise(numbers):
        if following - one > CLOSE:
            yield low, one
            low = following
    yield low, numbers[-1]


def _waited(store: Store, low: int, high: int) -> set[int]:
    """Numbers of messages, from low to high, that a subscription waits for."""
    found: set[int] = set()
    for table in TABLES:
        sub = -1
        while (sub := store.execute(sql.NEXT_WAITING.format(table=table), (sub,)).fetchone()[0]) is not None:
            found.update(seq for (seq,) in store.execute(sql.WAITED.format(table=table), (sub, low, high)))
    return found


def size(store: Store) -> int:
    """Bytes in use."""
    pages, free, page = (
        store.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * page)

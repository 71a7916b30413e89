"""Deliveries: claiming them for a process to handle, and ending them."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from operator import itemgetter

from pipebus.outcomes.dead_letters import DeadLetter
from pipebus.transports.sql import dead, keys
from pipebus.transports.sql import statements as sql
from pipebus.transports.sql.keys import Waiting
from pipebus.transports.sql.records import Found, Settlement
from pipebus.transports.sql.store import PAUSED, Store


def claim(store: Store, sub: int, owner: int, limit: int, careful: bool | None) -> list[Found]:
    """
    Take deliveries, the oldest first.

    A message that was out when its process ended is a suspect: it may have killed that process. A suspect is taken alone, so
    messages that only wait with a deadly one do not share its fate again and again.

    Args:
        careful: True: take no suspect, since this process holds one already. None: take suspects like all others, since a
            reader may want many messages at once.
    """
    rows = store.execute(sql.CLAIMABLE, (sub, limit)).fetchall()
    for index, row in enumerate(rows):
        if row[3] and careful is not None:
            rows = rows[: index or not careful]
            break
    if not rows:
        return []
    ends = (sub, rows[0][0], rows[-1][0])  # these are all rows between the first and the last
    store.execute(sql.CLAIM, (owner, *ends))
    store.execute(sql.CLAIMED, ends)
    return [
        Found(seq, takings, key, bool(suspect), again is not None, data) for seq, takings, key, suspect, again, data in rows
    ]


def wake(store: Store) -> None:
    """Make deliveries claimable whose time has come."""
    rows = store.execute(sql.DUE, (store.now(),)).fetchall()
    if rows:
        store.many(sql.NO_LONGER_LATER, [row[:3] for row in rows])
        keys.line_up(store, [Waiting(sub, seq, takings, key) for _, sub, seq, takings, key in sorted(rows, key=itemgetter(2))])


def next_due(connection: sqlite3.Connection) -> float:
    """When `wake` has something to do next, in the store's time."""
    found = connection.execute(sql.NEXT_DUE).fetchone()
    return float(found[0]) if found else float("inf")


def anything(connection: sqlite3.Connection, sub: int) -> bool:
    """Whether a subscription may have something to claim; not while it is paused."""
    return connection.execute(sql.ANYTHING, (sub, sub, f"{PAUSED}{sub}")).fetchone() is not None


def settle(store: Store, settlements: Sequence[Settlement]) -> int:
    """Carry out settlements. Returns how many came too late, because the lease had ended."""
    swept = int(store.meta("swept"))
    stale = 0
    handled: dict[int, list[tuple[int, int, int, int]]] = {}
    ended: list[tuple[int, str]] = []  # subscription and key
    free: list[tuple[int]] = []  # messages that the sweep has passed
    for settlement in settlements:
        claim = settlement.claim
        if settlement.verdict == "acknowledge" and claim.key is None:
            handled.setdefault(claim.sub, []).append(claim.fence)
        elif not _settle_one(store, settlement):
            stale += 1
            continue
        elif settlement.verdict not in ("return", "release") and claim.key is not None:
            ended.append((claim.sub, claim.key))
        if claim.seq <= swept:
            free.append((claim.seq,))
    for sub, fences in handled.items():
        done = _delete(store, sub, fences)
        store.execute(sql.ACKNOWLEDGE, (done, sub))
        stale += len(fences) - done
        store.touched.add(sub)
    keys.promote(store, ended)
    store.many(sql.LOOSEN, free)
    return stale


def _delete(store: Store, sub: int, fences: list[tuple[int, int, int, int]]) -> int:
    """Delete claims. Returns how many there were. Numbers without a gap are deleted as one range."""
    fences.sort(key=itemgetter(1))
    _, low, owner, takings = fences[0]
    dense = fences[-1][1] - low + 1 == len(fences)
    if dense and len(fences) > 1 and all(fence[2] == owner and fence[3] == takings for fence in fences):
        return store.execute(sql.END_RANGE, (sub, low, fences[-1][1], owner, takings)).rowcount
    return store.many(sql.END, fences).rowcount


def _settle_one(store: Store, settlement: Settlement) -> bool:
    """False: it came too late."""
    claim, verdict, delay, why = settlement
    row = store.execute(sql.END_RETURNING, claim.fence).fetchone()
    if row is None:
        return False
    sub, seq, (key, suspect) = claim.sub, claim.seq, row
    store.touched.add(sub)
    if verdict == "acknowledge":
        store.execute(sql.ACKNOWLEDGE, (1, sub))
    elif verdict in ("return", "release") and delay > 0:
        store.execute(sql.POSTPONE, (store.now() + delay, sub, seq, claim.takings + (verdict == "return"), key))
    elif verdict in ("return", "release"):  # it stays at the head of its key
        returned = verdict == "return"  # then it did not kill its process
        store.execute(sql.DELIVER, (sub, seq, claim.takings + returned, key, 0 if returned else suspect))
    elif isinstance(why, DeadLetter):
        [(data,)] = store.execute(sql.DATA, (seq,))
        dead.add(store, why, data, sub)
    else:
        dead.count_drop(store, sub, why or "dropped")
    return True

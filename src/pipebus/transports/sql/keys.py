"""
One message of a key at a time, in all processes.

Of the deliveries of one subscription with equal keys, one is at the head: it may be claimed, is claimed, or waits for its next
attempt. The others are parked, and when the head has ended, the oldest of them takes its place. So each step costs the same
however many wait, and a claim never looks past anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pipebus.transports.sql import statements as sql
from pipebus.transports.sql.store import Store


class Waiting(NamedTuple):
    """A delivery that may be claimed from now on, in its turn."""

    sub: int
    seq: int
    takings: int
    key: str | None
    suspect: int = 0


def line_up(store: Store, waiting: Sequence[Waiting]) -> None:
    """Let these be claimed, given in the order of their numbers. Those whose key another delivery holds must wait for it."""
    store.many(sql.DELIVER, [one for one in waiting if one.key is None])
    keyed = [one for one in waiting if one.key is not None]
    if keyed:
        store.many(sql.TAKE_HEAD, [(sub, key, seq) for sub, seq, _, key, _ in keyed])
        store.many(sql.DELIVER_HEAD, [(takings, suspect, sub, key, seq) for sub, seq, takings, key, suspect in keyed])
        store.many(sql.PARK, [(seq, takings, suspect, sub, key, seq) for sub, seq, takings, key, suspect in keyed])
    store.touched.update(one.sub for one in waiting)


def promote(store: Store, ended: Iterable[tuple[int, str]]) -> None:
    """The deliveries at the heads of these subscriptions and keys have ended: the next ones take their places."""
    keys = list(ended)
    if keys:
        store.many(sql.LEAVE_HEAD, keys)
        store.many(sql.NEXT_HEAD, keys)
        store.many(sql.UNPARK, keys)
        store.many(sql.UNPARKED, [(*one, *one) for one in keys])

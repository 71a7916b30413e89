"""Storing messages, and a delivery for each subscription that a message reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pipebus.message.outcomes import Receipt
from pipebus.transports.sql import slots
from pipebus.transports.sql import statements as sql
from pipebus.transports.sql.keys import Waiting, line_up
from pipebus.transports.sql.records import Outgoing
from pipebus.transports.sql.store import Store

CHUNK: Final = 500
"""Parameters in one statement."""
_RECEIPTS: Final = tuple(Receipt(count) for count in range(64))
"""One object for each usual number of subscriptions."""


def publish(store: Store, outgoing: Sequence[Outgoing]) -> list[Receipt]:
    """Store messages and their deliveries. A message whose id or slot is known already changes nothing."""
    store.directory.refresh(store.meta("subscriptions"), store.execute)
    now = store.now()
    known = _known(store, {one.id for one in outgoing}, now - store.window) if store.window > 0 else set()
    directory = store.directory
    receipts: list[Receipt] = []
    messages: list[tuple[Any, ...]] = []
    waiting: list[Waiting] = []
    later: list[tuple[float, int, int, int, str | None]] = []
    seq = store.last() + 1
    gained: Counter[int] = Counter()
    subs: tuple[int, ...] = ()
    keyed = False
    for id, subject, key, data, delay, slot, strict in outgoing:
        subs, reached = directory.subscriptions(subject)
        if strict and not reached:
            receipts.append(_RECEIPTS[0])
            continue
        over = slot is not None and not slots.record(store, slot)
        if over or id in known:
            receipts.append(Receipt(reached, duplicate=True))
            continue
        if store.window > 0:
            known.add(id)
        messages.append((seq, id, subject, key, now, data, now + delay if delay > 0 else 0.0))
        keyed = keyed or key is not None
        if delay > 0:
            later += [(now + delay, sub, seq, 0, key) for sub in subs]
        else:
            waiting += [Waiting(sub, seq, 0, key) for sub in subs]
        gained.update(subs)
        receipts.append(_RECEIPTS[reached] if reached < len(_RECEIPTS) else Receipt(reached))
        seq += 1
    store.many(sql.INSERT_MESSAGE, messages)
    if waiting:
        # One statement for each subscription is faster, and right if every message goes to the same ones.
        if not keyed and len(waiting) == len(messages) * len(subs) and all(sub in subs for sub in gained):
            for sub in subs:
                store.execute(sql.DELIVER_RANGE, (sub, messages[0][0], messages[-1][0]))
            store.touched.update(gained)
        else:
            line_up(store, waiting)
    if later:
        store.many(sql.POSTPONE, later)
    if gained:
        store.many(sql.ACCEPT, [(count, sub) for sub, count in gained.items()])
    return receipts


def _known(store: Store, ids: Iterable[str], since: float) -> set[str]:
    """Those of the ids that were stored after this time."""
    found: set[str] = set()
    left = list(ids)
    while left:
        some, left = left[:CHUNK], left[CHUNK:]
        found.update(id for (id,) in store.execute(sql.KNOWN_IDS.format(marks=",".join("?" * len(some))), (*some, since)))
    return found

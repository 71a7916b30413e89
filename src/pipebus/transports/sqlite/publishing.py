"""Storing messages, and a delivery for each subscription that a message reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pipebus.message.outcomes import Receipt
from pipebus.transports.sqlite.records import Outgoing
from pipebus.transports.sqlite.store import Store

CHUNK: Final = 500
"""Parameters in one statement."""
_RECEIPTS: Final = tuple(Receipt(count) for count in range(64))
"""One object for each usual number of subscriptions."""


def publish(store: Store, outgoing: Sequence[Outgoing]) -> list[Receipt]:
    """Store messages and their deliveries. A message whose id is known already changes nothing."""
    store.directory.refresh(store.meta("subscriptions"), store.execute)
    now = store.now()
    known = _known(store, {one.id for one in outgoing}, now - store.window) if store.window > 0 else set()
    reach = store.directory.subscriptions
    receipts: list[Receipt] = []
    messages: list[tuple[Any, ...]] = []
    ready: list[tuple[int, int, str | None]] = []
    later: list[tuple[float, int, int, str | None]] = []
    seq = store.take_numbers(len(outgoing))
    gained: Counter[int] = Counter()
    subs: tuple[int, ...] = ()
    for id, subject, key, data, delay in outgoing:
        subs = reach(subject)
        if id in known:
            receipts.append(Receipt(len(subs), duplicate=True))
            continue
        if store.window > 0:
            known.add(id)
        messages.append((seq, id, subject, key, now, data, now + delay if delay > 0 else 0.0))
        for sub in subs:
            if delay > 0:
                later.append((now + delay, sub, seq, key))
            else:
                ready.append((sub, seq, key))
        gained.update(subs)
        receipts.append(_RECEIPTS[len(subs)] if len(subs) < len(_RECEIPTS) else Receipt(len(subs)))
        seq += 1
    store.many("INSERT INTO message (seq, id, subject, key, stored, data, due) VALUES (?, ?, ?, ?, ?, ?, ?)", messages)
    if ready:
        # One statement for each subscription is faster, and right if every message goes to the same ones.
        if len(ready) == len(messages) * len(subs) and all(sub in subs for sub in gained):
            for sub in subs:
                store.execute(
                    "INSERT INTO ready (sub, seq, takings, key) SELECT ?, seq, 0, key FROM message WHERE seq BETWEEN ? AND ?",
                    (sub, messages[0][0], messages[-1][0]),
                )
        else:
            store.many("INSERT INTO ready (sub, seq, takings, key) VALUES (?, ?, 0, ?)", ready)
        store.touched.update(gained)
    if later:
        store.many("INSERT INTO later VALUES (?, ?, ?, 0, ?)", later)
    if gained:
        store.many(
            "UPDATE subscription SET accepted = accepted + ? WHERE sub = ?", [(count, sub) for sub, count in gained.items()]
        )
    return receipts


def _known(store: Store, ids: Iterable[str], since: float) -> set[str]:
    """Those of the ids that were stored after this time."""
    found: set[str] = set()
    left = list(ids)
    while left:
        some, left = left[:CHUNK], left[CHUNK:]
        marks = ",".join("?" * len(some))
        rows = store.execute(f"SELECT id FROM message WHERE id IN ({marks}) AND stored > ?", (*some, since))
        found.update(id for (id,) in rows)
    return found

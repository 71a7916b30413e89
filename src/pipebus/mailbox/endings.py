"""
The ends of delivery attempts, counted in the mailbox. Each attempt ends exactly once, which the conservation law checks:
`accepted = acknowledged + dropped + dead + pending + in_flight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pipebus.mailbox.asked import AskedMailbox
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.offering import admit, refuses
from pipebus.mailbox.parcel import Item, Parcel, message_of
from pipebus.mailbox.rare import Rare, count_drop, own_rare, set_aside, tell_outcasts

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`


def end(mailbox: Mailbox, item: Item, how: str, reason: str = "") -> None:
    """
    End the delivery of a message that was taken.

    Args:
        how: "acknowledged"; "dropped", for a reason; "dead"; "forgotten": it goes back to the transport, which will bring it
            again.
    """
    with mailbox.lock:
        rare = own_rare(mailbox) if how != "acknowledged" else None  # first, since it can fail
        calls = mailbox.done(item)
        if rare is None:
            mailbox.acknowledged += 1
        else:
            if how == "dropped":
                count_drop(rare, reason)
            elif how == "dead":
                rare.dead += 1
            else:
                rare.returned += 1
            rare.ended += 1
    _call(mailbox, calls)


def give_back(mailbox: Mailbox, item: Parcel, front: bool = False) -> None:
    """Queue it again, after `item.delay` seconds, and before all others if `front`. It keeps its place in the bound."""
    calls = 0

    def taken_back() -> None:
        nonlocal calls
        rare = own_rare(mailbox)
        calls = mailbox.done(item, back=True)
        rare.returned += 1
        rare.ended += 1

    admit(mailbox, item, front, taken_back)
    _call(mailbox, calls)


def keep_back(mailbox: Mailbox, item: Parcel) -> None:
    """Keep it for the next start of the bus, ahead of the other messages left over, even if the mailbox is still open."""
    with mailbox.lock:
        rare = own_rare(mailbox)
        calls = mailbox.done(item, back=True)
        set_aside(mailbox, item, front=True)
        rare.returned += 1
        rare.ended += 1
    _call(mailbox, calls)
    tell_outcasts(mailbox)


def die_untaken(mailbox: Mailbox) -> None:
    """Count a dead letter that could not even be queued."""
    with mailbox.lock:
        rare = own_rare(mailbox)
        rare.dead += 1
        rare.entered += 1


def revive(mailbox: Mailbox, item: Item) -> bool:
    """Queue a dead letter again; False if there is no room, or the subscription has ended."""

    def revived() -> None:
        rare = own_rare(mailbox)
        rare.dead -= 1
        rare.replayed += 1

    with mailbox.lock:
        if refuses(mailbox) or (mailbox.count() or 0) >= mailbox.plan.size:
            return False
    admit(mailbox, item, first=revived)
    return True


def bury(mailbox: Mailbox, reason: str) -> None:
    """Count a dead letter that was removed for good as dropped."""
    with mailbox.lock:
        rare = own_rare(mailbox)
        rare.dead -= 1
        count_drop(rare, reason)


def counts(mailbox: Mailbox) -> dict[str, Any]:
    """
    The figures of the conservation law, of one moment; and for how long the oldest pending message has waited.

    `accepted` is the messages taken plus those pending, because the quick way in counts nothing. A filter actor also reports
    the number of its questions.
    """
    with mailbox.lock:
        rare = mailbox.rare or Rare()
        taken, acknowledged, in_flight = mailbox.progress()
        pending = mailbox.waiting()
        return {
            "accepted": taken - rare.returned - rare.replayed + pending + rare.entered,
            "acknowledged": acknowledged,
            "dropped": dict(sorted(rare.dropped.items())),
            "dead": rare.dead,
            "pending": pending,
            "in_flight": in_flight,
            "oldest": _oldest(mailbox),
            **({"questions": mailbox.asked} if isinstance(mailbox, AskedMailbox) else {}),
        }


def ended(figures: Mapping[str, Any]) -> int:
    """How many deliveries have ended, by `counts`, or by the figures of a store."""
    dropped: int = sum(figures["dropped"].values())
    return dropped + int(figures["acknowledged"]) + int(figures["dead"])


def oldest(mailbox: Mailbox) -> float | None:
    """
    For how many seconds the oldest pending message has waited, since its own time. None: none waits.

    A message that is delayed counts when it is due. Only the first message of each queue is looked at.
    """
    with mailbox.lock:
        return _oldest(mailbox)


def _oldest(mailbox: Mailbox) -> float | None:
    times = [message_of(item).time for item in mailbox.heads()]
    return max(0.0, mailbox.plan.clock.now() - min(times)) if times else None


def _call(mailbox: Mailbox, calls: int) -> None:
    """Call that many workers or readers. (Without the lock.)"""
    for _ in range(calls):
        mailbox.plan.call(mailbox)

"""
Pausing, closing and reopening a mailbox: each notes its change in `rare`; the mailbox's owner applies it or, if there is no
owner, the caller does. See `mailbox`.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pipebus.mailbox.asked import AskedMailbox
from pipebus.mailbox.claims import wake
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.offering import between, closed_for_good, release, unhold
from pipebus.mailbox.parcel import Item, Parcel
from pipebus.mailbox.rare import GUARD, HELD, OPENING, USER, Rare, at_rest, count_drop, look_closer, own_rare
from pipebus.mailbox.shared import SharedMailbox

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`


def _note(mailbox: Mailbox) -> None:
    """Make the owner see a change in `rare`. (With the lock.)"""
    look_closer(mailbox, own_rare(mailbox))
    mailbox.attention = True


def pause(mailbox: Mailbox, reason: int = USER) -> None:
    """Start no more deliveries; messages are still accepted."""
    with mailbox.lock:
        own_rare(mailbox).pauses |= reason
        _note(mailbox)
    mailbox.apply()


def resume(mailbox: Mailbox, reason: int = USER) -> None:
    """Continue, unless there is another reason for the pause."""
    with mailbox.lock:
        own_rare(mailbox).pauses &= ~reason
        _note(mailbox)
    mailbox.apply()


def hold(mailbox: Mailbox) -> Callable[[], None]:
    """
    Pause for a filter, which ends the pause by itself: a drain waits for that, as it does for delayed messages.

    Returns:
        What ends the pause. It may be called often, from any thread.
    """
    claims = mailbox.plan.claims
    with mailbox.lock:
        rare = own_rare(mailbox)
        reason = HELD
        while rare.pauses & reason:
            reason <<= 1
        with claims.lock:
            claims.held += 1
        rare.pauses |= reason
        _note(mailbox)
    mailbox.apply()
    return functools.partial(_let_go, mailbox, reason, [True])


def _let_go(mailbox: Mailbox, reason: int, once: list[bool]) -> None:
    with suppress(IndexError):
        once.pop()  # one step for all threads
        resume(mailbox, reason)
        unhold(mailbox)  # after its worker is claimed: in between, the bus must not look quiet


def rests(mailbox: Mailbox) -> bool:
    """Whether it is paused, and no filter is going to change that."""
    return mailbox.rare is not None and bool(mailbox.rare.pauses & (HELD - 1))


def halt(mailbox: Mailbox) -> None:
    """Pause until the bus is started again."""
    pause(mailbox)
    own_rare(mailbox).halted = True


def close(mailbox: Mailbox, reason: str, keep: bool) -> list[Item]:
    """
    Accept no more messages, and start no more deliveries.

    Args:
        reason: For the error of later puts.
        keep: Keep the pending messages (for a stop; `reopen` continues with them), or drop them, counted under `reason`.

    Returns:
        What was dropped.
    """
    gone: list[Item] = []
    with mailbox.lock:
        if mailbox.rare is None and _rests(mailbox, at_rest(reason, keep)):
            return gone
        rare = own_rare(mailbox)
        rare.closed, rare.keep = reason, keep
        _note(mailbox)
        queued = mailbox.clear(keep)
        if keep:
            if queued:
                rare.left = rare.left if rare.left is not None else deque()
                rare.left.extend(queued)
        else:
            gone = [*(rare.left or ()), *queued, *rare.later.values()]
            for _ in gone:
                count_drop(rare, reason, unseen=True)
            for held in rare.later.values():
                if held.timer is not None:
                    held.timer.cancel()
            unhold(mailbox, len(rare.later))
            rare.later, rare.left = {}, None
        waiters, rare.waiters = rare.waiters, deque()
        for waiter in waiters:
            waiter.accepted = False
            wake(waiter.wake)
    mailbox.apply()
    return gone


def _rests(mailbox: Mailbox, rare: Rare | None) -> bool:
    """Replace the rare state of a mailbox that has none of its own and is idle; False if it is not idle. (With the lock.)"""
    live = mailbox.plan.claims.live
    if mailbox.plan.pull or mailbox.count() or live.setdefault(mailbox, rare) is not rare:
        return False
    mailbox.rare = rare
    mailbox.attention = rare is not None  # a put that has found the mailbox at rest a moment ago may still claim it
    mailbox.box = GUARD if rare is not None else None
    del live[mailbox]
    return True


def reopen(mailbox: Mailbox) -> bool:
    """
    Accept messages again after a stop.

    Returns:
        True if messages are left from before; then call `go_on` when all other mailboxes are open too, because their handlers
        may publish to them.
    """
    if isinstance(mailbox, AskedMailbox):
        mailbox.ended = False
    with mailbox.lock:
        rare = mailbox.rare
        if rare is None or rare.closed is None:
            return False
        if rare.shared and _rests(mailbox, None):
            return False
        rare = own_rare(mailbox)
        rare.closed, rare.keep = None, True
        if rare.halted:
            rare.halted, rare.pauses = False, 0
        left = bool(rare.left)
        if left:
            rare.pauses |= OPENING
        _note(mailbox)
        now = mailbox.plan.clock.monotonic()
        for item in rare.later.values():
            item.timer = mailbox.plan.later(max(0.0, item.due - now), functools.partial(release, mailbox, item))
    if not left:
        mailbox.apply()
    return left


def go_on(mailbox: Mailbox) -> None:
    """Handle the messages that a stop left over."""
    resume(mailbox, OPENING)


def remove_tokens(mailbox: Mailbox) -> list[Parcel]:
    """After a stop: take out the messages that a transport brought and will bring again."""
    with mailbox.lock:
        rare = mailbox.rare
        back: list[Parcel] = []
        if rare is None or rare.shared:
            return back
        box = mailbox.box if mailbox.box.__class__ is deque else deque()  # of a handler that the stop has left behind
        for pile in (rare.left or deque(), box, *(mailbox.lanes.piles() if mailbox.lanes is not None else ())):
            kept = [item for item in pile if not isinstance(item, Parcel) or item.token is None]
            back += [item for item in pile if isinstance(item, Parcel) and item.token is not None]
            if len(kept) < len(pile):
                pile.clear()
                pile.extend(kept)
        if isinstance(mailbox, SharedMailbox):
            mailbox.lanes.recount()
            for item in back:
                mailbox.enter_first(mailbox.lanes.let_go(item))
        return back


def when_idle(mailbox: Mailbox, wake: Callable[[], object]) -> bool:
    """After `close`: True if no handler runs; else `wake` is called when the last one has ended."""
    with mailbox.lock:
        if mailbox.idle():
            return True
        own_rare(mailbox).gates.append(wake)
        mailbox.attention = True
        return False


def when_ended(mailbox: Mailbox, wake: Callable[[], object]) -> bool:
    """
    `when_idle`, and nothing is pending any more if the mailbox is closed for good. (Without the lock.)

    A put that began before `close` may append to the box after it. If a worker is in the mailbox, it drops that message before
    it opens the gates. If the mailbox is claimed and still waits for a worker, the caller takes the worker's part.
    """
    claims, tries = mailbox.plan.claims, 0
    while True:
        ends = closed_for_good(mailbox) and not isinstance(mailbox, SharedMailbox)
        if ends:
            step_in(mailbox)
        idle = when_idle(mailbox, wake)
        if not (idle and ends and mailbox in claims.live):
            return idle
        tries = between(mailbox, tries)


def step_in(mailbox: Mailbox) -> None:
    """Make the noted changes of a mailbox that is closed, in place of a worker that has not come yet. (Without the lock.)"""
    working, box = mailbox.plan.claims.working, None
    me = object()
    try:
        box = mailbox.begin(me)
        if box is not None:
            mailbox.attend(box)
    except BaseException:
        if working.get(mailbox) is me:
            if box is not None:
                mailbox.attend(box)
            else:
                del working[mailbox]
                mailbox.look_again()
        raise


def wait_idle(mailbox: Mailbox, timeout: float | None) -> bool:
    """After `close`: wait until the last handler has ended; False when time ran out."""
    gate = threading.Lock()
    gate.acquire()
    if when_ended(mailbox, gate.release):
        return True
    with mailbox.plan.blocking():
        return bool(mailbox.plan.clock.wait(gate, timeout))


def narrow(mailbox: Mailbox, size: int) -> None:
    """For tests, before the bus starts: limit this mailbox, and all others with the same settings, to `size` messages."""
    mailbox.plan.size = size
    mailbox.plan.room = mailbox.room = 0

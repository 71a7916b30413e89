"""
Offering an item to a mailbox that may be full: its overflow rule, and waiting for room.

Here a mailbox is `Any`, because `mailbox` imports this module.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pipebus.errors import BusClosed, MailboxFull
from pipebus.mailbox.claims import on_this_stack, wake
from pipebus.mailbox.parcel import Item, Parcel
from pipebus.mailbox.patience import patience, wait
from pipebus.mailbox.rare import Rare, Waiter, count_drop, keep_place, look_closer, own_rare, take_first, tell_outcasts
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.waiting.locks import interrupted

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

NOBODY: Final = Receipt(0)
ONE: Final = Receipt(1)

IN, CALL, HELD, BETWEEN = "in", "call", "held", "between"
"""
The result for an item: it is queued; it is queued, and the runner must be called; it is delayed; or it must be tried again,
because the owner is between two steps.
"""

PATIENCE: Final = 100
"""How often a thread lets others run before it checks whether it waits for itself."""

OWN: Final = "its own handler publishes into it and would wait for itself: enlarge it, or choose another overflow"


def offer(mailbox: Any, item: Item, force: bool = False) -> Receipt | None:
    """
    Queue an item by the overflow rule; None if there is no room and the rule is "block".

    Args:
        force: Under "block", admit it beyond the bound, because it has waited for room before.

    Raises:
        MailboxFull: under "reject". BusClosed: the bus has stopped.
    """
    rule = mailbox.plan.overflow
    victims: list[Item] = []

    def may() -> object:
        """IN if the item may enter; otherwise the result to return. (With the lock.)"""
        if refuses(mailbox):
            return NOBODY
        if force and rule == "block":
            return IN
        count = mailbox.count()
        if count is None:
            return BETWEEN
        if count < mailbox.plan.size:
            return IN
        if rule == "block":
            return None
        oldest = mailbox.oldest() if rule == "drop_oldest" else None
        victims.append(item if oldest is None else oldest)
        if rule != "reject":
            count_drop(own_rare(mailbox), "overflow", unseen=True)
        return IN if oldest is not None else ONE

    entered = _queue(mailbox, item, False, may)
    if entered is None or entered is NOBODY:
        return entered
    failure = mailbox.plan.call(mailbox) if entered is CALL else None
    for victim in victims:
        mailbox.overflowed(item, rule)
        if rule == "reject":
            raise full(mailbox, 'its rule is overflow="reject": publish again later, or enlarge it')
        mailbox.discarded(victim, "overflow", None)
    if failure is not None:
        raise unattended(mailbox, failure)
    return ONE


def admit(mailbox: Any, item: Item, front: bool = False, first: Callable[[], object] | None = None) -> BaseException | None:
    """
    Queue an item that has a place in the bound already. (Without the lock.)

    Args:
        first: Called once, under the same lock.

    Returns:
        The error if a thread could not be started for it.
    """
    before = [first] if first is not None else []

    def may() -> object:
        if before:
            before.pop()()
        return IN

    entered = _queue(mailbox, item, front, may)
    failure: BaseException | None = mailbox.plan.call(mailbox) if entered is CALL else None
    tell_outcasts(mailbox)
    return failure


def _queue(mailbox: Any, item: Item, front: bool, may: Callable[[], object]) -> Any:
    """
    Queue an item as soon as the owner of the mailbox is not between two steps. (Without the lock.)

    Args:
        may: Called with the lock held. IN: the item may enter. BETWEEN: call it again.

    Returns:
        IN or CALL; or what `may` returned instead.
    """
    tries = 0
    fresh: deque[Item] = deque((item,))
    try:
        while True:
            with mailbox.lock:
                box = mailbox.box
                entered = may()
                if entered is IN:
                    entered = HELD if hold_back(mailbox, item) else mailbox.enter(item, front, fresh, box)
            if entered.__class__ is deque:
                if mailbox.is_in(item, entered):
                    return IN
            elif entered is BETWEEN:
                tries = between(mailbox, tries)
            else:
                break
    except BaseException:
        mailbox.complete(fresh)
        raise
    if entered is HELD:
        mailbox.apply()  # it may fill the mailbox; then puts must look closer, even while the mailbox has no owner
        return IN
    return entered


def hold_back(mailbox: Any, item: Item) -> bool:
    """Keep a place for a delayed item until it is due; False if it is not delayed. (With the lock.)"""
    if item.__class__ is not Parcel or not item.delay or closed(mailbox):
        return False
    plan, rare = mailbox.plan, own_rare(mailbox)
    item.due = plan.clock.monotonic() + item.delay
    rare.later[id(item)] = item
    look_closer(mailbox, rare)
    mailbox.attention = True
    if not plan.pull:  # a wait for quiet ignores the delayed messages of readers
        with plan.claims.lock:
            plan.claims.held += 1
    item.timer = plan.later(item.delay, functools.partial(release, mailbox, item))
    return True


def release(mailbox: Any, item: Parcel) -> None:
    """Queue a delayed item that is due."""
    with mailbox.lock:
        rare: Rare | None = mailbox.rare
        if rare is None or rare.later.pop(id(item), None) is None:
            return  # the mailbox was closed for good, and counted it then
        item.delay = 0.0
        look_closer(mailbox, rare)
    admit(mailbox, item)
    unhold(mailbox)  # after its worker is claimed: in between, the bus must not look quiet
    let_in(mailbox)


def unhold(mailbox: Any, items: int = 1) -> None:
    """Count that many delayed items less."""
    if not mailbox.plan.pull and items:
        claims = mailbox.plan.claims
        with claims.lock:
            claims.held -= items
        claims.given_back()


def between(mailbox: Any, tries: int, own: bool = False) -> int:
    """
    Let the owner of a mailbox run, because it is between two steps. (Without the lock.)

    Args:
        own: The claim is the caller's, which waits for a worker that leaves an earlier one.

    Raises:
        LifecycleError: the owner is code on this thread that the caller has interrupted, so it cannot continue before we end.
    """
    if tries >= PATIENCE:
        claims = mailbox.plan.claims
        token, worker = claims.live.get(mailbox), claims.working.get(mailbox)
        putting = not own and any(fresh is token for fresh in on_this_stack("fresh"))
        if token is not None and (
            putting or (worker is not None and any(one is worker for one in on_this_stack("self", "pipebus.running.")))
        ):
            raise interrupted()
    time.sleep(0)
    return tries + 1


def line_up_again(mailbox: Any) -> None:
    """Put a mailbox back on the ready list, with its claim. (Without the lock.)"""
    mailbox.plan.enlist(mailbox)
    mailbox.plan.call(mailbox)


def unattended(mailbox: Any, failure: BaseException) -> BaseException:
    """The error for a publisher if no thread could be started. It notes that the message is queued, for filters that repeat."""
    failure.__dict__["accepted"] = (mailbox.name,)
    return failure


def closed(mailbox: Any) -> bool:
    """Whether the mailbox accepts no messages, for now or for good."""
    return mailbox.rare is not None and mailbox.rare.closed is not None


def closed_for_good(mailbox: Any) -> bool:
    """Whether the subscription has ended."""
    return bool(closed(mailbox) and not mailbox.rare.keep)


def refuses(mailbox: Any) -> bool:
    """True if the subscription has ended; raises BusClosed if the bus has stopped."""
    if not closed(mailbox):
        return False
    if mailbox.rare.keep:
        raise BusClosed(f"the bus has stopped: {mailbox.name} takes no more messages")
    return True


def oldest_in(box: deque[Item]) -> Item | None:
    """Take out the first item that no worker has taken before. No rule drops an item that was returned."""
    started: list[Item] = []
    while (item := take_first(box)) is not None:
        if item.__class__ is not Message and item.attempt:  # type: ignore[union-attr]
            started.append(item)
        else:
            break
    box.extendleft(reversed(started))
    return item


# --- waiting for room ---------------------------------------------------------------------------------------------------


def wait_for_room(mailbox: Any, item: Item, deadline: float | None = None) -> Receipt:
    """
    Wait in line until there is room: first come, first served.

    Args:
        deadline: On the monotonic clock; None: after the timeout of the rule. A publisher with `patience` has none.

    Raises:
        MailboxFull: time ran out, or waiting would never end or would block an event loop.
        BusClosed: the bus stopped during the wait.
    """
    plan = mailbox.plan
    plan.claims.locks.check()
    mailbox.overflowed(item, "block")
    if plan.mine(mailbox):
        raise full(mailbox, OWN)
    if asyncio._get_running_loop() is not None:
        raise full(mailbox, "publish cannot wait on a running event loop: use `await bus.apublish(…)`")
    if deadline is None:
        deadline = plan.clock.monotonic() + plan.timeout
    gate = threading.Lock()
    gate.acquire()
    waiter = line_up(mailbox, item, gate.release)
    if isinstance(waiter, Receipt):
        return waiter
    try:
        with plan.blocking():
            wait(plan.clock, gate, deadline, endless=not plan.pull)
    except BaseException:  # Ctrl-C
        leave_line(mailbox, waiter)
        raise
    return step_out(mailbox, waiter)


def line_up(mailbox: Any, item: Item | None, wake: Callable[[], object]) -> Waiter | Receipt:
    """
    Take a place in line.

    Args:
        item: None: keep a place for an item that comes later, until `give_up_place`.

    Returns:
        The place; it is accepted already if there was room after all and `item` is None. ONE: `item` is queued. NOBODY: the
        subscription has ended.
    """
    tries = 0
    while True:
        waiter: Waiter | None = None
        with mailbox.lock:
            if refuses(mailbox):
                return NOBODY
            rare = own_rare(mailbox)
            count = mailbox.count()
            if count is not None and count >= mailbox.plan.size:
                waiter = Waiter(item, wake)
                rare.waiters.append(waiter)
                mailbox.attention = True
                # Count once more: an owner that came to rest before it could see `attention` admits nobody.
                count = mailbox.count()
                if count is not None and count >= mailbox.plan.size:
                    return waiter
                rare.waiters.remove(waiter)
                waiter = None
            if item is None and count is not None:
                keep_place(mailbox, 1)
                waiter = Waiter(None, wake)
                waiter.accepted = True
        if waiter is not None:
            mailbox.apply()
            return waiter
        if item is None:
            tries = between(mailbox, tries)
            continue
        receipt = offer(mailbox, item)
        if receipt is not None:
            return receipt


def step_out(mailbox: Any, waiter: Waiter) -> Receipt:
    """Leave the line. Raises MailboxFull if the waiter was not admitted in time, BusClosed if the bus stopped."""
    with mailbox.lock:
        if waiter.accepted:
            return ONE
        if waiter.accepted is None:
            own_rare(mailbox).waiters.remove(waiter)
        elif refuses(mailbox):
            return NOBODY
    raise full(mailbox, waited(mailbox))


def leave_line(mailbox: Any, waiter: Waiter) -> None:
    """Leave the line, if the waiter is still in it."""
    with mailbox.lock:
        if waiter in own_rare(mailbox).waiters:
            own_rare(mailbox).waiters.remove(waiter)


def admit_waiters(mailbox: Any, rare: Rare, box: deque[Item]) -> None:
    """Admit as many waiters as there is room for. Called by the owner, with the lock held and no message in hand."""
    while rare.waiters and len(box) + len(rare.later) + rare.promised < mailbox.plan.size:
        waiter = rare.waiters.popleft()
        waiter.accepted = True
        if waiter.item is None:
            keep_place(mailbox, 1)
        elif not hold_back(mailbox, waiter.item):
            box.append(waiter.item)
        wake(waiter.wake)


def give_up_place(mailbox: Any, waiter: Waiter) -> None:
    """Stop keeping a place for a message that has arrived or never will."""
    with mailbox.lock:
        if waiter.accepted:
            waiter.accepted = None
            keep_place(mailbox, -1)
    mailbox.apply()


def let_in(mailbox: Any) -> None:
    """Admit waiters, because there may be room."""
    if mailbox.rare is not None and mailbox.rare.waiters:
        mailbox.apply()


def lacks_room(mailbox: Any) -> bool:
    """Whether a publisher would have to wait; without the lock, so it may be wrong a moment later."""
    return bool(mailbox.plan.overflow == "block" and (mailbox.count() or 0) >= mailbox.plan.size)


def full(mailbox: Any, hint: str) -> MailboxFull:
    """The error for a publisher whose message is refused."""
    return MailboxFull(refused=(mailbox.name,), hint=hint)


def waited(mailbox: Any) -> str:
    """The hint for a publisher that waited until its time, or its patience, ran out."""
    if patience.get() is not None and not mailbox.plan.pull:
        return "stopped while it waited for room"
    return f"waited {mailbox.plan.timeout:g} s for room: its messages are not taken as fast as they are published"

"""
The mailbox with one worker. A put and a take are one `deque.append` and one `deque.popleft`, without a lock.

The protocol. Each line is one step of the interpreter; `live` and `working` are dictionaries of the bus (see `claims`).

    put, the mailbox has a box D:      D.append(message); is D still its box?
    put, the mailbox is at rest:       live.setdefault(mailbox, E) is E?  (E: a new deque with the message)  attention?
                                       box = E; onto the ready list
    worker, from the ready list:       working.setdefault(mailbox, worker) is worker?  box?  attention?
    worker, each message:              D.popleft(); the handler; attention?
    worker, D is empty:                box = None; D still empty?  del live[mailbox]; del working[mailbox]
                                       box or attention meanwhile?

Why there is at most one owner. `dict.setdefault` stores and looks in one step, so only one of the threads that try to claim a
mailbox succeeds. The token of a claim is the new deque itself: no two claims have the same one, even if the same message is
sent twice. Only the holder of the claim stores a deque in `box`. A claim passes from the publisher to the worker through the
ready list. If an entry is there twice, `working` admits one worker and the other entry is discarded. The worker that was in
looks at `box` again after it has left, and puts the mailbox on the list again if the discarded entry was that of a new claim.

Why no message is lost. A put that has appended to D looks at `box` again; a worker that finds D empty stores None in `box` and
looks at D again:

    append, None, still empty?      the worker sees the message, and puts D back
    None, append, still empty?      the same; the put sees another box, asks under the lock, and finds D in place or its
                                    message taken
    None, still empty?, append      D has no owner from now on. The put finds no claim, or another deque, which proves
                                    that the claim has changed hands; it takes its message out of D, and puts it again

A D without an owner is never used again: messages that a pause or a stop sets aside move to another deque.

Rare changes are made under the lock. A thread that wants one (pause, resume, close, reopen, room for a waiting publisher) notes
it in `rare`, sets `attention` and calls `apply`, which tries to claim the mailbox. With the claim, it makes the change.
Without it there is an owner, which looks at `attention` before the first message, between two messages, and after it has given
the claim back. If the owner's last look comes after the note, the owner makes the change (or the thread that holds the claim by
then). If it came before the note, the claim was free before `apply` tried to take it, and the attempt succeeds. A put looks at
`attention` after it has claimed the mailbox, so that none that found it at rest before a change begins a turn after it.

An interrupt (Ctrl-C, or a signal handler that raises) may come between any two steps of a put. If it hits the holder of a new
claim, the holder completes its put: see `complete`. Code that interrupts a thread and calls the bus may find a claim that the
interrupted thread holds. The call then raises `LifecycleError` instead of waiting for itself: see `between`.

The bound. Within MARGIN of it every put takes the lock, which makes check and append one step. On the quick way in, the bound
can be exceeded only if a thread is suspended between check and append while others fill the last MARGIN places; and in the code
that CPython 3.11 to 3.13 compile, no thread switch can fall between the two (the call of `len` is not a switch point). Under a
debugger or tracer the bound may be exceeded by as many messages as there are publishers. A mailbox smaller than QUICK has no
quick way in. Each publisher that found the mailbox at rest before delayed messages filled it may add one message too many.

All of this needs two things from the interpreter: an append, a popleft, a `setdefault`, a `del` and a load or store of an
attribute are each atomic, and all threads see them in one order. A GIL gives both. Without one, `SharedMailbox` is used.

`tests/concurrency/test_claims.py` runs the functions of this protocol in every order of their steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pipebus.mailbox.offering import (
    BETWEEN,
    CALL,
    IN,
    ONE,
    admit_waiters,
    between,
    line_up_again,
    offer,
    oldest_in,
    unattended,
    wait_for_room,
)
from pipebus.mailbox.parcel import Item
from pipebus.mailbox.rare import (
    GUARD,
    Rare,
    Rules,
    first_in,
    look_closer,
    open_gates,
    own_rare,
    set_aside,
    take_first,
    tell_outcasts,
)
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.waiting.locks import free

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`


class Mailbox:
    """A bounded queue with one worker; the base of the other kinds."""

    __slots__ = ("acknowledged", "attention", "box", "plan", "rare", "room", "taken")

    name: Any
    overflowed: Callable[[Item, str], None]
    """Called when a full mailbox applies its rule to an item."""
    discarded: Callable[[Item, str, str | None], None]
    """Called for a dropped item, with the reason and the part that dropped it."""

    lanes: Any = None
    """See `lanes`; only mailboxes with several workers have them."""

    def __init__(self, plan: Rules) -> None:
        self.plan: Any = plan
        self.box: Any = None  # None: at rest. A deque: it has an owner. GUARD: a put must look closer
        self.room = plan.room  # below this many in the box, a put takes no lock
        self.attention = False  # the owner has to `attend` before the next message
        self.taken = 0
        self.acknowledged = 0
        self.rare: Rare | None = None

    @property
    def lock(self) -> Any:
        """
        The lock for rare changes; enter it with `with` at once.

        Raises:
            LifecycleError: the caller has interrupted this thread while it holds the lock.
        """
        return free(self.plan.claims.lock)

    # --- putting -------------------------------------------------------------------------------------------------------

    def put(self, message: Message[Any], wait: bool = True) -> Receipt | None:
        """
        Queue one message; if there is no room, by the overflow rule.

        Args:
            wait: Under "block", wait for room.

        Returns:
            ONE; NOBODY if the subscription has just ended; None if there is no room and it may not `wait`.

        Raises:
            MailboxFull: under "reject", or under "block" if time ran out or it cannot wait here.
            BusClosed: the bus has stopped.
        """
        box = self.box
        if box is None:
            fresh = deque((message,))
            plan = self.plan
            try:
                claimed = plan.claims.live.setdefault(self, fresh) is fresh
                if claimed and self.attention:
                    del plan.claims.live[self]
                    self.apply()
                    claimed = False
                if claimed:
                    self.box = fresh
                    plan.enlist(self)
                    failure = plan.call(self)
            except BaseException:
                self.complete(fresh)
                raise
            if claimed:
                if failure is None:
                    return ONE
                raise unattended(self, failure)
        elif len(box) < self.room:
            box.append(message)
            if self.box is box or self.is_in(message, box):
                return ONE
        return offer(self, message) or (wait_for_room(self, message) if wait else None)

    def is_in(self, item: Item, box: deque[Item]) -> bool:
        """Whether an item was queued although it was appended to a deque that was not this mailbox's box by then."""
        live, tries = self.plan.claims.live, 0
        while True:
            with self.lock:
                now = self.box  # one load for both questions
                if now is box:
                    return True  # its owner continues with it
                if now.__class__ is deque or self not in live:
                    return not _taken_out(item, box)  # the deque has no owner; if the item is not in it, a worker has taken it
            tries = between(self, tries)

    def enter(self, item: Item, front: bool, fresh: deque[Item], seen: object) -> object:
        """
        Queue an item, regardless of the bound and of its delay. (With the lock.)

        Args:
            fresh: A new deque with the item: the token of a claim and the new box, if the mailbox is at rest.
            seen: The value of `box` before the bound was checked. With another box since, it must be checked again.

        Returns:
            IN, CALL or BETWEEN; or the deque to which the item was appended, perhaps too late: then check `is_in`.
        """
        rare, live = self.rare, self.plan.claims.live
        if rare is not None and rare.closed is not None:
            set_aside(self, item, front)
            return IN
        box = self.box
        if box.__class__ is deque:
            if box is not seen:
                return BETWEEN
            box.appendleft(item) if front else box.append(item)
            return IN if self.box is box else box
        if self in live:
            return BETWEEN
        if rare is not None and rare.pauses:
            set_aside(self, item, front)
            return IN
        if live.setdefault(self, fresh) is not fresh:
            return BETWEEN
        self.box = fresh
        self.plan.enlist(self)
        return CALL

    def complete(self, fresh: deque[Any]) -> None:
        """
        Finish a claim with this token, if it was made, after an interrupt of the thread that made it.

        If the box is stored, only the entry on the ready list may be missing; one too many does no harm. If it is not, a worker
        in `working` is between two steps: it leaves an earlier claim, or rests at the end of this one. If there is no such
        worker, no worker has begun this claim, because a worker gives its claim back before it leaves `working`.
        """
        claims, tries = self.plan.claims, 0
        while claims.live.get(self) is fresh:
            with claims.lock:
                settled = self.box is fresh
                if not settled and claims.working.setdefault(self, fresh) is fresh:
                    if claims.live.get(self) is fresh:
                        self.box = fresh
                    del claims.working[self]
                    settled = True
            if settled:
                self.look_again()
                return
            tries = between(self, tries, own=True)

    # --- taking: a worker calls `begin`, then `popleft` on the box, `attend` between messages, `rest` when it is empty ----

    def begin(self, worker: object) -> deque[Item] | None:
        """
        Enter this mailbox with a worker that has taken it from its ready list.

        Returns:
            The box; the worker checks `attention` before each message. None if there is nothing to do.
        """
        working = self.plan.claims.working
        if working.setdefault(self, worker) is not worker:
            return None  # a worker is in it already, so this entry was one too many
        box: deque[Item] = self.box
        if box.__class__ is deque:
            return box
        del working[self]
        self.look_again()
        return None

    def attend(self, box: deque[Item]) -> bool:
        """Make the noted changes; False if the worker must leave. Called by the owner between two messages."""
        claims = self.plan.claims
        with self.lock:
            rare = own_rare(self)
            if not rare.shut:
                if rare.left is not None:
                    box.extendleft([rare.left.pop() for _ in range(len(rare.left))])
                    rare.left = None
                    look_closer(self, rare)
                admit_waiters(self, rare, box)
                self.attention = bool(rare.waiters)
                return True
            self.box = GUARD
            while (item := take_first(box)) is not None:
                set_aside(self, item)
            claims.live.pop(self, None)  # it may be gone: `step_in` begins again after an interrupt
            del claims.working[self]
            open_gates(rare)
        tell_outcasts(self)
        self.look_again()
        claims.given_back()
        return False

    def rest(self, box: deque[Item]) -> bool:
        """Give the claim back, because the box was empty; True if the mailbox is at rest now and the worker must leave."""
        claims, rare = self.plan.claims, self.rare
        self.box = None if rare is None else rare.rest
        if box:  # a put came in between
            self.box = box
            return False
        del claims.live[self]
        del claims.working[self]
        if self.attention or self.box is not None:
            self.look_again()
        if claims.gates:
            claims.given_back()
        return True

    def leave(self) -> bool:
        """End the worker's turn; True if the mailbox must go to the end of the ready list, together with its claim."""
        del self.plan.claims.working[self]
        return True

    def look_again(self) -> None:
        """After leaving `working`: act on a discarded entry of a new claim, or on a noted change. (Without the lock.)"""
        if self.box.__class__ is deque:
            line_up_again(self)
        elif self.attention:
            self.apply()

    def apply(self) -> BaseException | None:
        """
        Make the noted changes, or leave them to the owner if there is one. (Without the lock.)

        Returns:
            The error if a thread could not be started for it.
        """
        claims = self.plan.claims
        fresh: deque[Item] = deque()
        try:
            with self.lock:
                rare = own_rare(self)
                if claims.live.setdefault(self, fresh) is not fresh:
                    return None
                waits = rare.waiters and len(rare.later) + rare.promised < self.plan.size
                works = not rare.shut and bool(rare.left or waits)
                if works:
                    self.attention = True  # the worker takes what was set aside, and admits the waiters
                    self.box = fresh
                    self.plan.enlist(self)
                else:
                    self.box = rare.rest
                    self.attention = rare.shut or bool(rare.waiters)
                    del claims.live[self]
                    if self not in claims.working:
                        open_gates(rare)
        except BaseException:
            self.complete(fresh)
            raise
        if works:
            failure: BaseException | None = self.plan.call(self)
            return failure
        claims.given_back()
        return None

    # --- what the kinds differ in ------------------------------------------------------------------------------------------

    def progress(self) -> tuple[int, int, int]:
        """
        Messages taken, acknowledged and in flight, of one moment. (With the lock.)

        The worker counts without the lock, and takes messages while this reads. But if `taken` has not changed meanwhile, the
        worker has at most ended the message that it had in hand. If no worker was in the mailbox, all that was taken had ended,
        and none can end until the next one is taken; so whether one is there must be read before `acknowledged`.
        """
        working = self.plan.claims.working
        while True:
            taken, busy = self.taken, self in working
            acknowledged = self.acknowledged
            if taken == self.taken:
                unsettled = taken - acknowledged - (self.rare.ended if self.rare is not None else 0)
                return taken, acknowledged, min(1, max(0, unsettled)) if busy else 0

    @property
    def in_flight(self) -> int:
        """Deliveries that a handler or a reader has and has not settled."""
        return self.progress()[2]

    def is_open(self, item: Item) -> bool:
        """Whether an item that was taken is still unsettled. Called by its worker."""
        return self.in_flight > 0

    def waiting(self) -> int:
        """The number of pending messages: queued, set aside or delayed."""
        box, rare = self.box, self.rare
        queued = len(box) if box.__class__ is deque else 0
        return queued + (len(rare.later) + len(rare.left or ()) if rare is not None else 0)

    def heads(self) -> list[Item]:
        """The first of each queue of pending messages, without those that are delayed. (With the lock.)"""
        left = self.rare.left if self.rare is not None else None
        return [item for pile in (left, self.box) if pile.__class__ is deque and (item := first_in(pile)) is not None]

    def count(self) -> int | None:
        """The number that the bound limits; None if the owner is between two steps. (With the lock.)"""
        box, rare = self.box, self.rare
        if box.__class__ is deque:
            count = len(box)
        elif self in self.plan.claims.live:
            return None
        else:
            count = 0
        if rare is not None:
            count += len(rare.later) + len(rare.left or ()) + rare.promised
        return count + (self in self.plan.claims.working)

    def idle(self) -> bool:
        """Whether no handler runs. (With the lock.)"""
        return self not in self.plan.claims.working

    def done(self, item: Item, back: bool = False) -> int:
        """A delivery attempt has ended. Returns how often to call the runner. (With the lock.)"""
        return 0

    def oldest(self) -> Item | None:
        """Take out the oldest item that no worker has taken before. (With the lock.)"""
        box = self.box
        aside = oldest_in(self.rare.left) if self.rare is not None and self.rare.left else None
        return aside or (oldest_in(box) if box.__class__ is deque else None)

    def clear(self, keep: bool) -> list[Item]:
        """
        Take out the queued items, because the mailbox closes. (With the lock.)

        If they are kept, the owner sets them aside: it may be about to take the next one, which must not be overtaken.
        """
        box, found = self.box, []
        if box.__class__ is deque and not keep:
            while (item := take_first(box)) is not None:
                found.append(item)
        return found


def _taken_out(item: Item, box: deque[Item]) -> bool:
    """Take this very item out of a deque that no worker uses; False if it is not there."""
    for _ in range(len(box)):  # each step takes one item for this thread alone; other late threads do the same
        found = take_first(box)
        if found is None or found is item:
            return found is item
        box.append(found)
    return False

"""
The mailbox with several workers, or with readers: one lock for everything, and lanes that keep the order of equal keys.

It is claimed while a worker is in it or on its way. A mailbox with readers is never claimed, because no drain waits for them.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from pipebus.mailbox.claims import wake
from pipebus.mailbox.lanes import Lanes
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.offering import CALL, IN, hold_back, offer, oldest_in, wait_for_room
from pipebus.mailbox.parcel import Item, Parcel
from pipebus.mailbox.rare import Rare, keep_place, open_gates, own_rare, set_aside
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.waiting.locks import interrupted

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

STATE: Final = ("_lock", "flying", "inside", "items", "lanes")
"""The slots of a shared mailbox. The class that is built with it has them, since it has another base with slots."""


class SharedMailbox(Mailbox):
    """
    A bounded queue with several workers, or one that the program reads (pull).

    Messages of equal key keep their order: while one is in flight, later ones of its key wait in its lane.
    """

    if not TYPE_CHECKING:
        __slots__ = ()
    lanes: Lanes

    def __init__(self, plan: Any, *more: Any, **named: Any) -> None:
        super().__init__(plan, *more, **named)
        self._lock = plan.claims.locks.share()
        self.items: deque[Item] = deque()
        self.inside = 0  # workers that are in it or on their way
        self.flying = 0  # taken but not settled
        self.lanes = Lanes()

    @property
    def lock(self) -> Any:
        if self._lock._is_owned() or self.plan.claims.lock._is_owned():  # `hold_back` takes both
            raise interrupted()
        return self._lock

    # --- putting -------------------------------------------------------------------------------------------------------

    def put(self, message: Message[Any], wait: bool = True) -> Receipt | None:
        return offer(self, message) or (wait_for_room(self, message) if wait else None)

    def enter(self, item: Item, front: bool = False, fresh: object = None, seen: object = None) -> object:
        if self.rare is not None and self.rare.closed is not None:
            set_aside(self, item, front)
            return IN
        self.items.appendleft(item) if front else self.items.append(item)
        return CALL if self.call_worker() else IN

    def call_worker(self) -> int:
        """1 if one more worker (or reader) must be called, else 0. (With the lock.)"""
        if self.plan.pull:
            return 1
        if not self.may_begin() or self.inside >= self.plan.workers:
            return 0
        if not self.inside:
            self.plan.claims.live[self] = self
        self.inside += 1
        self.plan.enlist(self)
        return 1

    def may_begin(self) -> bool:
        """Whether there is a message that a worker may take. (With the lock.)"""
        return bool(self.items) and (self.rare is None or not self.rare.shut)

    def apply(self) -> BaseException | None:
        with self.lock:
            rare = own_rare(self)
            self.attention = False
            calls = 0
            if not rare.shut:
                if rare.left:
                    self.items.extendleft(reversed(rare.left))
                    rare.left = None
                calls = len(self.items) if self.plan.pull else 0
                calls += self._let_in(rare)
                while not self.plan.pull and self.call_worker():
                    calls += 1
            elif rare.gates and self.idle():
                open_gates(rare)
        for _ in range(calls):
            self.plan.call(self)
        return None

    def _let_in(self, rare: Rare) -> int:
        """Admit as many waiters as there is room for. Returns how often to call the runner. (With the lock.)"""
        calls = 0
        while rare.waiters and self.count() < self.plan.size:
            waiter = rare.waiters.popleft()
            waiter.accepted = True
            if waiter.item is None:
                keep_place(self, 1)
            elif not hold_back(self, waiter.item):
                calls += self.enter(waiter.item) is CALL
            wake(waiter.wake)
        return calls

    def complete(self, fresh: object) -> None:
        """Do nothing: these claims are made under the lock, so none is left unfinished."""

    # --- taking --------------------------------------------------------------------------------------------------------

    def take(self) -> Item | None:
        """The next message whose lane is free, for a worker or a reader; None if there is none (the worker leaves)."""
        with self.lock:
            item = self._next() if self.may_begin() else None
            if item is None:
                self.go()
            else:
                if not isinstance(item, Parcel):
                    try:
                        item = Parcel(item)
                    except BaseException:  # out of memory: it is still the next
                        self.items.appendleft(item)
                        raise
                item.open = True
                self.taken += 1
                self.flying += 1
        return item

    def go(self) -> None:
        """Let a worker leave. (With the lock.)"""
        if not self.plan.pull:
            self.inside -= 1
            if not self.inside:
                del self.plan.claims.live[self]
                self.plan.claims.given_back()

    def leave(self) -> bool:
        """End a worker's turn; True if the mailbox must go to the end of the ready list, together with its claim."""
        with self.lock:
            if not self.items:
                self.go()
                return False
            return True

    def _next(self) -> Item | None:
        while self.items:
            item = self.items[0]  # taken out when nothing can fail any more
            waits = not self.plan.pull and self.lanes.keeps(item)
            self.items.popleft()
            if not waits:
                return item
        return None

    # --- settling: what the kinds differ in; with the lock held -------------------------------------------------------------

    def done(self, item: Any, back: bool = False) -> int:
        follower = self.lanes.ended(item, back) if item.message.key is not None else None
        item.open = False
        self.flying -= 1
        calls = self.enter_first(follower) if follower is not None else 0
        rare = self.rare
        if rare is not None:
            if rare.waiters:
                calls += self._let_in(rare)
            if rare.gates and self.idle():
                open_gates(rare)
        return calls

    def enter_first(self, follower: Item | None) -> int:
        """Queue the next item of a lane before all others; how often the runner must be called."""
        return int(follower is not None and self.enter(follower, front=True) is CALL)

    def oldest(self) -> Item | None:
        """In a lane if there is one: it was taken from the queue before all others that are still there."""
        found = self.lanes.oldest()
        if found is None:
            found = oldest_in(self.items)
            if found is not None:
                self.enter_first(self.lanes.let_go(found))
        return found

    def clear(self, keep: bool) -> list[Item]:
        found = [*self.items, *(() if keep else self.lanes.clear())]
        self.items.clear()
        return found

    def progress(self) -> tuple[int, int, int]:
        return self.taken, self.acknowledged, self.flying

    def is_open(self, item: Any) -> bool:
        return bool(item.open)

    def waiting(self) -> int:
        rare = self.rare
        held = len(rare.later) + len(rare.left or ()) if rare is not None else 0
        return len(self.items) + len(self.lanes.keys) + held

    def heads(self) -> list[Item]:
        left = self.rare.left if self.rare is not None else None
        return [item for item in (self.lanes.first(), *(pile[0] for pile in (left, self.items) if pile)) if item is not None]

    def count(self) -> int:
        return self.waiting() + self.flying + (self.rare.promised if self.rare is not None else 0)

    def idle(self) -> bool:
        return self.flying == 0

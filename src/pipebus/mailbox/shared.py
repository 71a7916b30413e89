"""
The mailbox with several workers, or with readers: a lock for everything, and lanes that keep the order of equal keys.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from pipebus.mailbox.mailbox import USER, Item, Mailbox, Owner, Parcel, Rules
from pipebus.message.message import Message
from pipebus.waiting.locks import interrupted

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`


class SharedMailbox(Mailbox):
    """
    A bounded queue with several workers, or read by its owner (pull).

    Messages of equal key keep their order: while one is in flight, later ones of its key wait aside in its lane.
    """

    __slots__ = ("_lock", "aside", "claims", "flying", "lanes")

    def __init__(self, rules: Rules, owner: Owner) -> None:
        super().__init__(rules, owner)
        self._lock = rules.traffic.locks.share()
        self.claims = 0  # workers that are in it or on their way
        self.flying = 0  # taken and not settled
        self.lanes: dict[str, deque[Item]] | None = None
        self.aside: deque[str] = deque()  # the keys of all that wait in lanes, oldest first

    @property
    def lock(self) -> Any:
        if self._lock._is_owned() or self.rules.traffic.lock._is_owned():  # `_tell` takes that one in the middle
            raise interrupted()
        return self._lock

    @property
    def in_flight(self) -> int:
        return self.flying

    def waiting(self) -> int:
        return super().waiting() + sum(map(len, self._aside()))

    def _count(self) -> int:
        return self.waiting() + self.flying

    def _idle(self) -> bool:
        return self.flying == 0

    def _at_rest(self) -> bool:
        return not (self.items or self.claims or self.flying or self.lanes or self.rules.pull)

    def _aside(self) -> list[deque[Item]]:
        return list(self.lanes.values()) if self.lanes else []

    def close(self, reason: str, keep: bool) -> list[Item]:
        gone = super().close(reason, keep)
        if not keep:
            with self.lock:
                self.aside.clear()
        return gone

    def remove_tokens(self) -> list[Parcel]:
        back = super().remove_tokens()
        with self.lock:
            for item in back:
                self._let_go(item)
            self.aside = deque(key for key, lane in (self.lanes or {}).items() for _ in lane)
        return back

    def _admit(self, item: Item, front: bool = False) -> int:
        if self.rare is not None and self.rare.closed is not None:
            self._set_aside(item, front)
            return 0
        if item.__class__ is Parcel and item.delay:
            self._hold(item)
            return 0
        if self.items is None:
            self.items = deque()
        if front:
            self.items.appendleft(item)
        else:
            self.items.append(item)
        return self._call_worker()

    def _call_worker(self) -> int:
        """1 if one more worker (or reader) should come, else 0."""
        rare = self.rare
        if self.rules.pull:
            return 1
        if rare is not None and (rare.paused or rare.closed is not None):
            return 0
        if not self.items or self.claims >= self.rules.workers:
            return 0
        self.claims += 1
        self._tell(busy=1)
        self.rules.enlist(self)
        return 1

    def _restart(self) -> int:
        if self.rules.pull:
            return len(self.items or ())  # a reader for each
        return bool(self.items) and self._call_worker()

    def resume(self, reason: int = USER) -> None:
        super().resume(reason)
        self._more_workers()

    def go_on(self) -> None:
        super().go_on()
        self._more_workers()

    def _more_workers(self) -> None:
        """As many as may be for what waits. (Called without the lock.)"""
        for _ in range(self.rules.workers if not self.rules.pull else 0):
            with self.lock:
                schedule = self._call_worker()
            if not schedule:
                return
            self.rules.schedule(self)

    def take(self) -> Item | None:
        """The next message whose lane is free, for a worker or a reader; None if there is none (the worker leaves)."""
        with self.lock:
            rare = self.rare
            stopped = rare is not None and (rare.closed is not None or rare.paused)
            item = None if stopped else self._next()
            if item is None:
                if not self.rules.pull:
                    self.claims -= 1
                    self._tell(busy=-1)
                return None
            if not isinstance(item, Parcel):
                try:
                    item = Parcel(item)
                except BaseException:  # for want of memory: it is still the next
                    (self.items if self.items is not None else deque()).appendleft(item)
                    raise
            item.open = True
            self.taken += 1
            self.flying += 1
            return item

    def _oldest(self) -> Item | None:
        """In a lane if there is one: it was taken from the queue before all that is still there."""
        if self.aside:
            return self._follower(self.aside[0])
        found = super()._oldest()
        if found is not None:
            self._let_go(found)
        return found

    def _let_go(self, item: Item) -> None:
        """A message that holds its lane leaves without having been handled: the next of its key is up."""
        if not isinstance(item, Parcel) or not item.lane or item.message.key.__class__ is not str or not self.lanes:
            return
        item.lane = False
        lane = self.lanes.get(item.message.key)
        if not lane:
            self.lanes.pop(item.message.key, None)
            return
        follower = self._follower(item.message.key)
        follower = follower if isinstance(follower, Parcel) else Parcel(follower)
        follower.lane = True
        self._admit(follower, front=True)  # only where the mailbox is closed: else nothing is aside when a holder leaves

    def _follower(self, key: str) -> Item:
        """Take the first message out of a lane."""
        self.aside.remove(key)
        return self.lanes[key].popleft()  # type: ignore[index]

    def _next(self) -> Item | None:
        while self.items:
            item = self.items.popleft()
            if self.rules.pull:
                return item
            message = item if isinstance(item, Message) else item.message
            if message.key.__class__ is not str:
                return item
            lanes = self.lanes if self.lanes is not None else {}
            self.lanes = lanes
            if isinstance(item, Parcel) and item.lane:
                item.lane = False  # it kept its lane while it was away
                return item
            if message.key not in lanes:
                lanes[message.key] = deque()
                return item
            lanes[message.key].append(item)
            self.aside.append(message.key)
        return None

    def leave(self) -> bool:
        """A worker's batch is over; True if it has to go to the end of the ready list (it keeps its claim)."""
        with self.lock:
            if self.items:
                return True
            self.claims -= 1
            self._tell(busy=-1)
            return False

    def is_open(self, item: Any) -> bool:
        return bool(item.open)

    def _done(self, item: Any, back: bool = False) -> int:
        item.open = False
        self.flying -= 1
        message = item.message
        schedule = 0
        if message.key.__class__ is str and self.lanes is not None and message.key in self.lanes:
            if back:
                item.lane = True  # it comes back before what waits in its lane
            else:
                lane = self.lanes[message.key]
                if lane:
                    follower = self._follower(message.key)
                    if isinstance(follower, Message):
                        follower = Parcel(follower)
                    follower.lane = True
                    schedule = self._admit(follower, front=True)
                else:
                    del self.lanes[message.key]
        rare = self.rare
        if rare is not None:
            if rare.waiters:
                schedule += self._admit_waiters()
            if rare.gates:
                self._open_gates()
        return schedule

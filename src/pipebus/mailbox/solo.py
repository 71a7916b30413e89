"""
The mailbox with one worker: a lock only when it wakes, rests or is nearly full. Between those a put is one `deque.append`
and a take one `deque.popleft`. A lock for each of these would cost a third of a whole publish. This is why none is needed:

`items` is None while the mailbox is at rest and a deque while it is scheduled or being worked on. It changes only under the
lock. A put on the quick road reads it (D), appends to D, and looks again. Against one worker that comes to rest (under the
lock: items = None; is D empty? if not, items = D again and go on), the orders are:

    append, None, empty?         the worker sees the message and goes on
    None, append, empty?         the same; the put sees items is not D, waits for the lock, finds D back in place: done
    None, empty?, append         the worker rests, D is nobody's. The put sees items is not D, and under the lock takes its
                                 own message out of D and admits it anew, which schedules the mailbox
    stop: None, keep D as what is left over; an append before or after that is part of it, and accepted
    unsubscribe: None, drop what D has; an append after that is found and taken back by its put

    a stop that opens once more (lifecycle.py): a mailbox whose worker is in a handler may get another deque, which nobody
        schedules; the worker takes it up when it finds its own empty

So no message is lost, none is delivered twice, and the mailbox is on a ready list exactly once: only the change from None to
a deque schedules it, and only the worker that took it from the ready list brings it to rest. A D that was left is never used
again. This needs two things of the interpreter: that an append, a popleft and an attribute's load or store each happen at
once, and that all threads see them in one order. A GIL gives both.

The bound: within MARGIN of the limit every put takes the lock, and there check and append are one step. On the quick road
a thread could be put to sleep between check and append only while another fills the last MARGIN places, and in the code as
CPython 3.11 to 3.13 specialise it no thread switch can fall between the two (`len` is not a call that switches). A debugger
or tracer can bring one there; then the bound may be passed by as many as there are publishers. A mailbox smaller than QUICK
has no quick road, and its bound is exact whatever happens.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Any, Final

from pipebus.mailbox.mailbox import NOBODY, ONE, Item, Mailbox, Owner, Parcel, Rare, Rules, take_turn
from pipebus.mailbox.shared import SharedMailbox
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.waiting.locks import free, interrupted

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

QUICK: Final = 1000
"""Smallest mailbox with a quick road: a smaller bound is meant to be felt, and every put looks at it under the lock."""

MARGIN: Final = 64
"""Places below the limit within which every put takes the lock."""

has_gil: Final[bool] = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Without one, `SharedMailbox` serves one worker too."""


def one_worker_kind() -> type[Mailbox]:
    """The mailbox for one worker."""
    return SoloMailbox if has_gil else SharedMailbox


class SoloMailbox(Mailbox):
    """A bounded queue with one worker. See the module's text for its quick road."""

    __slots__ = ("attention", "claimed", "room")

    def __init__(self, rules: Rules, owner: Owner) -> None:
        super().__init__(rules, owner)
        if not rules.room and rules.size >= QUICK:
            rules.room = rules.size - MARGIN - 1
        self.room = rules.room  # below this many the quick road is open
        self.claimed = False  # a worker is in it
        self.attention = False  # its worker has to `attend` before the next message

    @property
    def lock(self) -> Any:
        return free(self.rules.traffic.lock)

    @property
    def in_flight(self) -> int:
        if not self.claimed:
            return 0
        # Read while its worker counts on: one worker has one message in hand, or none.
        return min(1, max(0, self.taken - self.acknowledged - (self.rare.ended if self.rare is not None else 0)))

    def is_open(self, item: Item) -> bool:
        return self.in_flight > 0

    def _tell(self, busy: int = 0, held: int = 0) -> None:
        self.rules.traffic.change(busy, held)  # its lock is ours
        self.room -= held

    def narrow(self, size: int) -> None:
        super().narrow(size)
        self.room = self.rules.room = 0

    def put(self, message: Item) -> Receipt:
        items = self.items
        if items is None or len(items) >= self.room:
            return self.wake(message) or self.offer(message) or self.wait_for_room(message)
        items.append(message)
        if self.items is not items:
            return self.put_again(message, items)
        return ONE

    def post(self, message: Item) -> Receipt | None:
        # `put` without the wait, written out: a frame more would show in every publish.
        items = self.items
        if items is None or len(items) >= self.room:
            return self.wake(message) or self.offer(message)
        items.append(message)
        if self.items is not items:
            return self.put_again(message, items)
        return ONE

    def wake(self, message: Item) -> Receipt | None:
        """`offer` for a mailbox that is at rest and has never been anything else but at work; None if it is not."""
        rules = self.rules
        traffic = rules.traffic
        lock = traffic.lock
        if traffic.taken:
            take_turn(traffic)
        if lock._is_owned():
            raise interrupted()
        with lock:
            if self.items is not None or self.rare is not None or self.claimed or message.__class__ is not Message:
                return None
            traffic.taken = True
            self.items = deque((message,))
            traffic.busy += 1
            rules.enlist(self)
            traffic.taken = False
        failure = rules.schedule(self)
        if failure is not None:
            raise self.unattended(failure)
        return ONE

    def put_again(self, message: Item, left: deque[Item]) -> Receipt:
        """The second look found another deque: see the module's text. (Called without the lock.)"""
        with self.lock:
            if self.items is left:
                return ONE
            if self.rare is not None and self.rare.left is left:
                return ONE  # a stop has kept it
            # Each step takes one item out for us alone: a worker may be at the last of what an `unsubscribe` left.
            for _ in range(len(left)):
                try:
                    item = left.popleft()
                except IndexError:
                    return ONE
                if item is message:
                    break
                left.append(item)
            else:
                return ONE  # taken by the worker, or counted by whoever closed the mailbox
            if self._refuses():
                return NOBODY
            schedule = self._admit(message)
        failure = self.schedule(schedule)
        if failure is not None:
            raise self.unattended(failure)
        return ONE

    def _count(self) -> int:
        rare = self.rare
        return len(self.items or ()) + self.claimed + (len(rare.later) if rare is not None else 0)

    def _idle(self) -> bool:
        return not self.claimed

    def _at_rest(self) -> bool:
        return not self.claimed and self.items is None

    def _call_attention(self) -> None:
        self.attention = True

    def _admit(self, item: Item, front: bool = False) -> int:
        if self.rare is not None and self.rare.closed is not None:
            self._set_aside(item, front)
            return 0
        if item.__class__ is Parcel and item.delay:
            self._hold(item)
            return 0
        if self.items is not None:
            if front:
                self.items.appendleft(item)
            else:
                self.items.append(item)
            return 0
        self.items = deque((item,))
        return self._restart()

    def _restart(self) -> int:
        rare = self.rare
        if self.items is None or self.claimed:
            return 0
        if rare is not None:
            if rare.paused:
                rare.parked = True
                return 0
            rare.parked = False
        self.rules.traffic.change(busy=1)
        self.rules.enlist(self)
        return 1

    def _resumed(self, rare: Rare) -> int:
        # One that is not parked is on the ready list, or has nothing to do.
        return self._restart() if rare.parked else 0

    # --- taking: a worker calls begin, then popleft on what it gave, attend between messages, rest when empty ------------

    def begin(self) -> deque[Item] | None:
        """
        A worker comes, having found the mailbox on its ready list; None if there is nothing to do after all.

        Each entry on a ready list is one `busy`, given back here or when the worker leaves; so an entry that comes late (its
        put was put to sleep before `schedule`, while the bus stopped and started again) does no harm.
        """
        traffic = self.rules.traffic
        if traffic.taken:
            take_turn(traffic)
        with traffic.lock:
            if self.claimed or self.items is None:
                traffic.change(busy=-1)
                return None
            if self.rare is None or self._go_on():
                self.claimed = True
                return self.items
            return None

    def attend(self) -> bool:
        """Between two messages, when `attention` was called: let waiters in; False if the worker has to leave."""
        with self.lock:
            return self._go_on()

    def rest(self) -> bool:
        """The worker found the deque empty; True if the mailbox is at rest now and the worker leaves."""
        traffic = self.rules.traffic
        if traffic.taken:
            take_turn(traffic)
        with traffic.lock:
            traffic.taken = True
            items, self.items = self.items, None
            if items:  # a put came in between
                self.items = items
                traffic.taken = False
                return not self._go_on()
            self.claimed = False
            schedule = 0
            if self.rare is not None:
                schedule = self._admit_waiters()
                self._open_gates()
            traffic.change(busy=-1)
            traffic.taken = False
        if schedule:
            self.schedule(schedule)
        return True

    def leave(self) -> bool:
        """The worker's batch is over; True if the mailbox has to go to the end of the ready list."""
        with self.lock:
            going_on = self._go_on()
            if going_on:
                self.claimed = False
            return going_on

    def _go_on(self) -> bool:
        """Nothing is in flight at this moment: let waiters in, and see whether to stop."""
        rare = self.rare
        if rare is None:
            self.claimed = True
            return True
        self.claimed = False
        if rare.closed is None and not rare.paused:
            if rare.waiters:
                self._admit_waiters()
            self.attention = bool(rare.waiters)
            self.claimed = True
            return True
        if rare.closed is None and self.items is not None:
            rare.parked = True
        self._open_gates()
        self.rules.traffic.change(busy=-1)
        return False

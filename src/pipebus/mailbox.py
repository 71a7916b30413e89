"""
The mailbox: one bounded queue per subscription, and what happens when it is full.

Two kinds keep the same promises. `SharedMailbox` takes a lock for everything: for several workers, for readers, and on
builds of Python without a GIL. `SoloMailbox`, for one worker, takes a lock only when it wakes, rests or is nearly full;
between those a put is one `deque.append` and a take one `deque.popleft`. A lock for each of these would cost a third of a
whole publish. This is why none is needed:

`items` is None while the mailbox is at rest and a deque while it is scheduled or being worked on. It changes only under the
lock. A put on the quick road reads it (D), appends to D, and looks again. Against one worker that comes to rest (under the
lock: items = None; is D empty? if not, items = D again and go on), the orders are:

    append, None, empty?         the worker sees the message and goes on
    None, append, empty?         the same; the put sees items is not D, waits for the lock, finds D back in place: done
    None, empty?, append         the worker rests, D is nobody's. The put sees items is not D, and under the lock takes its
                                 own message out of D and admits it anew, which schedules the mailbox
    close: None, take what D has; an append after that is found and taken back by its put, which raises; an append before
                                 it was accepted and is counted as left over

So no message is lost, none is delivered twice, and the mailbox is on a ready list exactly once: only the change from None to
a deque schedules it, and only the worker that took it from the ready list brings it to rest. A D that was left is never used
again. This needs two things of the interpreter: that an append, a popleft and an attribute's load or store each happen at
once, and that all threads see them in one order. A GIL gives both.

The bound: within MARGIN of the limit every put takes the lock, and there check and append are one step. On the quick road
a thread could be put to sleep between check and append only while another fills the last MARGIN places, and in the code as
CPython 3.11 to 3.13 specialise it no thread switch can fall between the two (`len` is not a call that switches).
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, Literal, Protocol

from pipebus.clock import Clock
from pipebus.errors import BusClosed, MailboxFull
from pipebus.message import Message, Receipt

Overflow = Literal["block", "reject", "drop_newest", "drop_oldest"]
MARGIN: Final = 64
NOBODY: Final = Receipt(0)
ONE: Final = Receipt(1)

has_gil: Final[bool] = getattr(sys, "_is_gil_enabled", lambda: True)()


class Parcel:
    """A message with a history: returned, delayed, replayed, or carried by a transport that wants an answer."""

    __slots__ = ("attempt", "delay", "due", "first", "lane", "message", "token")

    def __init__(self, message: Message[Any], attempt: int = 0, token: Any = None, delay: float = 0.0) -> None:
        self.message = message
        self.attempt = attempt  # takings so far
        self.token = token  # what the transport knows the delivery by
        self.first = 0.0  # when it was first taken, seconds since 1970
        self.delay = delay  # seconds until it may be taken
        self.due = 0.0  # the same on the monotonic clock
        self.lane = False  # it holds the lane of its key


Item = Message[Any] | Parcel


class Owner(Protocol):
    """What a mailbox asks of its subscription."""

    @property
    def name(self) -> str: ...
    def overflowed(self, item: Item, policy: str) -> None: ...
    def discarded(self, item: Item, reason: str, by: str | None) -> None: ...


class Traffic:
    """What the mailboxes of one bus share: a lock for their changes of state, and how many are not at rest."""

    __slots__ = ("_gates", "busy", "held", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.busy = 0  # handled mailboxes that are scheduled or being worked on
        self.held = 0  # messages that wait for their time
        self._gates: list[Any] = []

    def change(self, busy: int = 0, held: int = 0) -> None:
        """Called with the lock held."""
        self.busy += busy
        self.held += held
        if self.busy == 0 and self.held == 0 and self._gates:
            gates, self._gates = self._gates, []
            for gate in gates:
                gate.release()

    def quiet(
        self, clock: Clock, timeout: float, also: Callable[[], bool] = lambda: True, give_up: Callable[[], bool] = lambda: False
    ) -> bool:
        """
        Wait until nothing is scheduled, running or delayed; False when `timeout` seconds have passed.

        Args:
            also: What else must hold; asked again after each `nudge`.
            give_up: Stop waiting; asked likewise.
        """
        deadline = clock.monotonic() + timeout
        while True:
            gate = threading.Lock()
            gate.acquire()
            with self.lock:
                quiet = self.busy == 0 and self.held == 0
                self._gates.append(gate)
            if quiet and also():
                return True
            if give_up():
                return False
            if not clock.wait(gate, deadline - clock.monotonic()):
                with self.lock:
                    if gate in self._gates:
                        self._gates.remove(gate)
                    quiet = self.busy == 0 and self.held == 0
                return quiet and also()

    def nudge(self) -> None:
        """Let everyone who waits for quiet look again."""
        with self.lock:
            gates, self._gates = self._gates, []
        for gate in gates:
            gate.release()


class Rules:
    """What mailboxes of equal settings share, so that a million of them stay small."""

    __slots__ = (
        "blocking", "clock", "later", "mine", "overflow", "pull", "schedule", "size", "timeout", "traffic", "workers",
    )  # fmt: skip

    def __init__(
        self,
        traffic: Traffic,
        clock: Clock,
        *,
        size: int = 10_000,
        overflow: Overflow = "block",
        timeout: float = 5.0,
        workers: int = 1,
        pull: bool = False,
        schedule: Callable[[Any], None],
        later: Callable[[float, Callable[[], None]], object],
        blocking: Callable[[], AbstractContextManager[Any]],
        mine: Callable[[Any], bool],
    ) -> None:
        self.traffic = traffic
        self.clock = clock
        self.size = size
        self.overflow = overflow
        self.timeout = timeout
        self.workers = workers
        self.pull = pull
        self.schedule = schedule  # put a mailbox on its runner's ready list
        self.later = later  # call something after so many seconds
        self.blocking = blocking  # entered around a wait: a worker gives up its slot
        self.mine = mine  # is this thread running a handler of that mailbox?


class Rare:
    """State that few mailboxes ever have."""

    __slots__ = (
        "closed", "dead", "dropped", "ended", "entered", "gates", "halted", "keep", "later", "left", "parked", "paused", "replayed", "returned",
        "waiters",
    )  # fmt: skip

    def __init__(self) -> None:
        self.closed: str | None = None  # why
        self.keep = True  # closed, but what waits is kept
        self.left: deque[Item] | None = None  # what a stop left over
        self.paused = False
        self.halted = False  # paused by an interrupt, until the next start
        self.parked = False  # paused with mail waiting: on no ready list, in no worker
        self.waiters: deque[Waiter] = deque()  # publishers in front of a full mailbox
        self.gates: list[Any] = []  # who waits for the last handler to end
        self.later: dict[int, Parcel] = {}  # delayed messages
        self.returned = 0  # takings that ended with the message going back
        self.replayed = 0  # dead letters that came back
        self.dead = 0  # dead now
        self.dropped: dict[str, int] = {}  # by reason
        self.ended = 0  # takings that ended otherwise than acknowledged: returned, dropped or dead
        self.entered = 0  # messages that ended without having been taken


class Waiter:
    """Someone in front of a full mailbox. `wake` is called when the item was admitted (or there is room) or refused."""

    __slots__ = ("accepted", "item", "wake")

    def __init__(self, item: Item | None, wake: Callable[[], object]) -> None:
        self.item = item  # None: only wants to know that there is room
        self.wake = wake
        self.accepted: bool | None = None


class Mailbox:
    """What both kinds share. Methods whose names start with `_` are called with the lock held."""

    __slots__ = ("acknowledged", "items", "owner", "rare", "rules", "run", "taken")

    def __init__(self, rules: Rules, owner: Owner, run: Callable[[Message[Any]], Any]) -> None:
        self.rules = rules
        self.owner = owner
        self.run = run  # the delivery chain
        self.items: deque[Item] | None = None
        self.taken = 0
        self.acknowledged = 0
        self.rare: Rare | None = None

    # --- what the kinds differ in --------------------------------------------------------------------------------------

    @property
    def lock(self) -> threading.Lock:
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        """Deliveries that a handler or a reader has and has not settled."""
        raise NotImplementedError

    def _count(self) -> int:
        """What the bound counts: queued, claimed, in flight and delayed."""
        raise NotImplementedError

    def _admit(self, item: Item, front: bool = False) -> bool:
        """Queue without looking at the bound; True if the caller has to `rules.schedule` the mailbox, after the lock."""
        raise NotImplementedError

    def _restart(self) -> bool:
        """After a pause or a stop: True if what waits has to be scheduled."""
        raise NotImplementedError

    def _call_attention(self) -> None:
        """The worker is to look at `rare` before its next message."""

    # --- putting -------------------------------------------------------------------------------------------------------

    def put(self, message: Item) -> Receipt:
        """
        Queue one message, by the overflow rule if there is no room.

        Returns:
            ONE, or NOBODY if the subscription has just gone.

        Raises:
            MailboxFull: under "reject", or under "block" when time ran out or waiting is impossible here.
            BusClosed: if the bus has stopped.
        """
        return self.post(message) or self.wait_for_room(message)

    def post(self, message: Item) -> Receipt | None:
        """Like `put`, without waiting: None if there is no room and the rule is "block"."""
        return self.offer(message)

    def offer(self, item: Item, force: bool = False) -> Receipt | None:
        """
        `post`, the careful road.

        Args:
            force: Under "block", admit over the bound: it has waited for its room before.
        """
        rule = self.rules.overflow
        victim: Item | None = None
        schedule = False
        with self.lock:
            if self._refuses():
                return NOBODY
            if self._count() < self.rules.size or (force and rule == "block"):
                schedule = self._admit(item)
            elif rule == "block":
                return None
            elif rule == "reject":
                victim = item
            else:
                victim = self._oldest() if rule == "drop_oldest" else None
                if victim is None:
                    victim = item  # nothing older waits, or nothing older should go
                else:
                    schedule = self._admit(item)
                self._drop("overflow", unseen=True)
        if schedule:
            self.rules.schedule(self)
        if victim is not None:
            self.owner.overflowed(item, rule)
            if rule == "reject":
                raise self.full('its rule is overflow="reject": publish again later, or enlarge it')
            self.owner.discarded(victim, "overflow", None)
        return ONE

    def wait_for_room(self, item: Item, deadline: float | None = None) -> Receipt:
        """
        Stand in line until there is room: first come, first served.

        Args:
            deadline: On the monotonic clock; None: the rule's timeout from now.

        Raises:
            MailboxFull: when time ran out, or where waiting would be for ever or would stop an event loop.
            BusClosed: if the mailbox closes meanwhile.
        """
        rules = self.rules
        self.owner.overflowed(item, "block")
        if rules.mine(self):
            raise self.full("its own handler publishes into it and would wait for itself: enlarge it, or choose another overflow")
        if asyncio._get_running_loop() is not None:
            raise self.full("publish cannot wait on a running event loop: use `await bus.apublish(…)`")
        if deadline is None:
            deadline = rules.clock.monotonic() + rules.timeout
        gate = threading.Lock()
        gate.acquire()
        waiter = self.line_up(item, gate.release)
        if waiter is None:
            return ONE
        with rules.blocking():
            rules.clock.wait(gate, deadline - rules.clock.monotonic())
        return self.step_out(waiter)

    def line_up(self, item: Item | None, wake: Callable[[], object]) -> Waiter | None:
        """Take a place in line; None if there was room after all (and `item` is in), or the subscription has gone."""
        schedule = False
        with self.lock:
            if self._refuses():
                waiter = None
            elif self._count() < self.rules.size:
                if item is not None:
                    schedule = self._admit(item)
                waiter = None
            else:
                waiter = Waiter(item, wake)
                self.rare_state().waiters.append(waiter)
                self._call_attention()
        if schedule:
            self.rules.schedule(self)
        return waiter

    def step_out(self, waiter: Waiter) -> Receipt:
        """Leave the line, in time or not. Raises MailboxFull if its turn had not come, BusClosed if the bus stopped."""
        with self.lock:
            if waiter.accepted:
                return ONE
            if waiter.accepted is None:
                self.rare_state().waiters.remove(waiter)
            elif self._refuses():
                return NOBODY
        raise self.full(f"waited {self.rules.timeout:g} s for room: its handler is too slow for what is published")

    def leave_line(self, waiter: Waiter) -> None:
        """Give the place in line up, whatever it has come to."""
        with self.lock:
            if waiter.accepted is None:
                self.rare_state().waiters.remove(waiter)

    def _admit_waiters(self) -> bool:
        """Let in whoever there is room for; True if the mailbox has to be scheduled."""
        schedule = False
        waiters = self.rare_state().waiters
        promised = 0  # places of those who only want to know
        while waiters and self._count() + promised < self.rules.size:
            waiter = waiters.popleft()
            waiter.accepted = True
            if waiter.item is None:
                promised += 1
            else:
                schedule = self._admit(waiter.item) or schedule
            waiter.wake()
        return schedule

    def full(self, hint: str) -> MailboxFull:
        return MailboxFull(refused=(self.owner.name,), hint=hint)

    # --- time, pause, close --------------------------------------------------------------------------------------------

    def _hold(self, item: Parcel) -> None:
        """Keep the place of a message whose time has not come."""
        rules, rare = self.rules, self.rare_state()
        item.due = rules.clock.monotonic() + item.delay
        rare.later[id(item)] = item
        self._tell(held=1)
        rules.later(item.delay, lambda: self.release(item))

    def release(self, item: Parcel) -> None:
        """The time of a held message has come."""
        with self.lock:
            if self.rare is None or self.rare.later.pop(id(item), None) is None:
                return  # the mailbox was closed for good, and has counted it
            item.delay = 0.0
            self._tell(held=-1)
            schedule = self._admit(item)
        if schedule:
            self.rules.schedule(self)

    def pause(self) -> None:
        with self.lock:
            self.rare_state().paused = True
            self._call_attention()

    def resume(self) -> None:
        with self.lock:
            rare = self.rare_state()
            if not rare.paused:
                return
            rare.paused = False
            schedule = self._restart()
        if schedule:
            self.rules.schedule(self)

    def close(self, reason: str, keep: bool) -> list[Item]:
        """
        Take nothing more, and start nothing more.

        Args:
            reason: For the error of later puts.
            keep: Keep what waits (a stop; `reopen` goes on with it), or drop it, counted under `reason`.

        Returns:
            What was dropped.
        """
        with self.lock:
            rare = self.rare_state()
            rare.closed, rare.keep = reason, keep
            self._call_attention()
            left, self.items = self.items, None
            gone: list[Item] = []
            if keep:
                rare.left = left or rare.left
            else:
                for pile in (left, rare.left, *self._aside()):
                    while pile:
                        gone.append(pile.popleft())
                        self._drop(reason, unseen=True)
                for item in rare.later.values():
                    gone.append(item)
                    self._drop(reason, unseen=True)
                if rare.later:
                    self._tell(held=-len(rare.later))
                rare.later, rare.left = {}, None
            rare.parked = False
            waiters, rare.waiters = rare.waiters, deque()
            for waiter in waiters:
                waiter.accepted = False
                waiter.wake()
        return gone

    def _aside(self) -> list[deque[Item]]:
        """Further piles of waiting messages."""
        return []

    def halt(self) -> None:
        """Pause until the bus is started again."""
        self.pause()
        self.rare_state().halted = True

    def remove_tokens(self) -> list[Parcel]:
        """After a stop: what a transport brought and will bring again."""
        with self.lock:
            rare = self.rare_state()
            back: list[Parcel] = []
            for pile in (rare.left, *self._aside()):
                kept: list[Item] = []
                while pile:
                    item = pile.popleft()
                    if isinstance(item, Parcel) and item.token is not None:
                        back.append(item)
                    else:
                        kept.append(item)
                if pile is not None:
                    pile.extend(kept)
            return back

    def reopen(self) -> None:
        """Go on after a stop, with what it left over."""
        with self.lock:
            rare = self.rare
            if rare is None or rare.closed is None:
                return
            rare.closed = None
            if rare.halted:
                rare.halted = rare.paused = False
            self.items, rare.left = rare.left or None, None
            now = self.rules.clock.monotonic()
            for item in rare.later.values():
                self.rules.later(max(0.0, item.due - now), functools.partial(self.release, item))
            schedule = self._restart()
        if schedule:
            self.rules.schedule(self)

    def wait_idle(self, timeout: float | None) -> bool:
        """After `close`: wait until the last handler has ended; False when time ran out."""
        gate = threading.Lock()
        gate.acquire()
        with self.lock:
            if self._idle():
                return True
            self.rare_state().gates.append(gate.release)
        with self.rules.blocking():
            return self.rules.clock.wait(gate, timeout)

    def when_idle(self, wake: Callable[[], object]) -> bool:
        """True if idle now; else `wake` is called when the last handler has ended."""
        with self.lock:
            if self._idle():
                return True
            self.rare_state().gates.append(wake)
            return False

    def _idle(self) -> bool:
        raise NotImplementedError

    def _open_gates(self) -> None:
        rare = self.rare
        if rare is not None and rare.gates and self._idle():
            gates, rare.gates = rare.gates, []
            for wake in gates:
                wake()

    # --- counting ------------------------------------------------------------------------------------------------------

    def rare_state(self) -> Rare:
        if self.rare is None:
            self.rare = Rare()
        return self.rare

    def _refuses(self) -> bool:
        """True if the subscription has gone; raises BusClosed if the bus has stopped."""
        rare = self.rare
        if rare is None or rare.closed is None:
            return False
        if rare.keep:
            raise BusClosed(f"the bus has stopped: {self.owner.name} takes no more messages")
        return True

    def _closed_for_good(self) -> bool:
        return self.rare is not None and self.rare.closed is not None and not self.rare.keep

    def _set_aside(self, item: Item, front: bool) -> None:
        """What comes back to a closed mailbox waits for `reopen`, or is dropped."""
        rare = self.rare_state()
        if not rare.keep:
            self._drop(rare.closed or "closed", unseen=True)
            return
        if rare.left is None:
            rare.left = deque()
        if front:
            rare.left.appendleft(item)
        else:
            rare.left.append(item)

    def _oldest(self) -> Item | None:
        """Take the oldest message that has not started."""
        try:
            return self.items.popleft() if self.items else None
        except IndexError:  # its worker was faster
            return None

    def _drop(self, reason: str, unseen: bool = False) -> None:
        rare = self.rare_state()
        rare.dropped[reason] = rare.dropped.get(reason, 0) + 1
        rare.entered += unseen

    def _tell(self, busy: int = 0, held: int = 0) -> None:
        """Tell the bus's traffic, whose lock comes after ours."""
        with self.rules.traffic.lock:
            self.rules.traffic.change(busy, held)

    def waiting(self) -> int:
        """Queued, parked, left over or held: everything that is pending."""
        rare = self.rare
        return len(self.items or ()) + (len(rare.later) + len(rare.left or ()) if rare is not None else 0)

    def counts(self) -> dict[str, Any]:
        """
        The conservation law's figures.

        `accepted` is counted where messages are taken, plus what waits: the quick road of a put counts nothing. So it is the
        settlements that the law checks: each taking ends exactly once.
        """
        with self.lock:
            rare = self.rare or Rare()
            pending = self.waiting()
            dropped = dict(sorted(rare.dropped.items()))
            return {
                "accepted": self.taken - rare.returned - rare.replayed + pending + rare.entered,
                "acknowledged": self.acknowledged,
                "dropped": dropped,
                "dead": rare.dead,
                "pending": pending,
                "in_flight": self.in_flight,
            }

    # --- settling, by the subscription, for one that was taken -----------------------------------------------------------

    def acknowledge(self, item: Item) -> None:
        with self.lock:
            self.acknowledged += 1
            schedule = self._done(item)
        if schedule:
            self.rules.schedule(self)

    def drop(self, item: Item, reason: str) -> None:
        with self.lock:
            self._drop(reason)
            self.rare_state().ended += 1
            schedule = self._done(item)
        if schedule:
            self.rules.schedule(self)

    def die(self, item: Item) -> None:
        with self.lock:
            rare = self.rare_state()
            rare.dead += 1
            rare.ended += 1
            schedule = self._done(item)
        if schedule:
            self.rules.schedule(self)

    def die_untaken(self) -> None:
        """Something that could not even be queued is dead."""
        with self.lock:
            rare = self.rare_state()
            rare.dead += 1
            rare.entered += 1

    def give_back(self, item: Parcel) -> None:
        """To be taken again, after `item.delay` seconds; its place is kept."""
        with self.lock:
            rare = self.rare_state()
            rare.returned += 1
            rare.ended += 1
            schedule = self._done(item, back=True)
            schedule = self._admit(item) or schedule
        if schedule:
            self.rules.schedule(self)

    def forget(self, item: Parcel) -> None:
        """It goes back to the transport that brought it, which will bring it again."""
        with self.lock:
            rare = self.rare_state()
            rare.returned += 1
            rare.ended += 1
            schedule = self._done(item)
        if schedule:
            self.rules.schedule(self)

    def revive(self, item: Item) -> bool:
        """A dead letter comes back; False if there is no room, or the subscription has gone."""
        with self.lock:
            if self._refuses() or self._count() >= self.rules.size:
                return False
            rare = self.rare_state()
            rare.dead -= 1
            rare.replayed += 1
            schedule = self._admit(item)
        if schedule:
            self.rules.schedule(self)
        return True

    def bury(self, reason: str) -> None:
        """A dead letter is gone for good: counted as dropped."""
        with self.lock:
            self.rare_state().dead -= 1
            self._drop(reason)

    def _done(self, item: Item, back: bool = False) -> bool:
        """One taking has ended; True if the mailbox has to be scheduled."""
        return False


class SoloMailbox(Mailbox):
    """A bounded queue with one worker. See the module's text for its quick road."""

    __slots__ = ("attention", "claimed", "room")

    def __init__(self, rules: Rules, owner: Owner, run: Callable[[Message[Any]], Any]) -> None:
        super().__init__(rules, owner, run)
        self.room = rules.size - MARGIN - 1  # below this many the quick road is open
        self.claimed = False  # a worker is in it
        self.attention = False  # its worker has to `attend` before the next message

    @property
    def lock(self) -> threading.Lock:
        return self.rules.traffic.lock

    @property
    def in_flight(self) -> int:
        if not self.claimed:
            return 0
        return self.taken - self.acknowledged - (self.rare.ended if self.rare is not None else 0)

    def _tell(self, busy: int = 0, held: int = 0) -> None:
        self.rules.traffic.change(busy, held)  # its lock is ours
        if held:
            self.room -= held

    def put(self, message: Item) -> Receipt:
        items = self.items
        if items is None or len(items) >= self.room:
            return self.offer(message) or self.wait_for_room(message)
        items.append(message)
        if self.items is not items:
            return self._put_again(message, items)
        return ONE

    def post(self, message: Item) -> Receipt | None:
        # `put` without the wait, written out: a frame more would show in every publish.
        items = self.items
        if items is None or len(items) >= self.room:
            return self.offer(message)
        items.append(message)
        if self.items is not items:
            return self._put_again(message, items)
        return ONE

    def _put_again(self, message: Item, left: deque[Item]) -> Receipt:
        """The second look found another deque: see the module's text. (Called without the lock.)"""
        with self.lock:
            if self.items is left:
                return ONE
            for index, item in enumerate(left):
                if item is message:
                    del left[index]
                    break
            else:
                return ONE  # whoever closed the mailbox has counted it
            if self._refuses():
                return NOBODY
            schedule = self._admit(message)
        if schedule:
            self.rules.schedule(self)
        return ONE

    def _count(self) -> int:
        rare = self.rare
        return len(self.items or ()) + self.claimed + (len(rare.later) if rare is not None else 0)

    def _idle(self) -> bool:
        return not self.claimed

    def _call_attention(self) -> None:
        self.attention = True

    def _admit(self, item: Item, front: bool = False) -> bool:
        if self.rare is not None and self.rare.closed is not None:
            self._set_aside(item, front)
            return False
        if item.__class__ is Parcel and item.delay:  # type: ignore[union-attr]
            self._hold(item)  # type: ignore[arg-type]
            return False
        if self.items is not None:
            self.items.append(item)
            return False
        self.items = deque((item,))
        return self._restart()

    def _restart(self) -> bool:
        rare = self.rare
        if self.items is None or self.claimed:
            return False
        if rare is not None:
            if rare.paused:
                rare.parked = True
                return False
            rare.parked = False
        self.rules.traffic.change(busy=1)
        return True

    # --- taking: a worker calls begin, then popleft on what it gave, attend between messages, rest when empty ------------

    def begin(self) -> deque[Item] | None:
        """
        A worker comes, having found the mailbox on its ready list; None if there is nothing to do after all.

        Each entry on a ready list is one `busy`, given back here or when the worker leaves; so an entry that comes late (its
        put was put to sleep before `schedule`, while the bus stopped and started again) does no harm.
        """
        with self.lock:
            if self.claimed or self.items is None:
                self.rules.traffic.change(busy=-1)
                return None
            return self.items if self._go_on() else None

    def attend(self) -> bool:
        """Between two messages, when `attention` was called: let waiters in; False if the worker has to leave."""
        with self.lock:
            return self._go_on()

    def rest(self) -> bool:
        """The worker found the deque empty; True if the mailbox is at rest now and the worker leaves."""
        with self.lock:
            items, self.items = self.items, None
            if items:  # a put came in between
                self.items = items
                return not self._go_on()
            self.claimed = False
            schedule = False
            if self.rare is not None:
                schedule = self._admit_waiters()
                self._open_gates()
            self.rules.traffic.change(busy=-1)
        if schedule:
            self.rules.schedule(self)
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


class SharedMailbox(Mailbox):
    """
    A bounded queue with several workers, or read by its owner (pull).

    Messages of equal key keep their order: while one is in flight, later ones of its key wait aside in its lane.
    """

    __slots__ = ("_lock", "claims", "flying", "lanes")

    def __init__(self, rules: Rules, owner: Owner, run: Callable[[Message[Any]], Any]) -> None:
        super().__init__(rules, owner, run)
        self._lock = threading.Lock()
        self.claims = 0  # workers that are in it or on their way
        self.flying = 0  # taken and not settled
        self.lanes: dict[str, deque[Item]] | None = None

    @property
    def lock(self) -> threading.Lock:
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

    def _aside(self) -> list[deque[Item]]:
        return list(self.lanes.values()) if self.lanes else []

    def _admit(self, item: Item, front: bool = False) -> bool:
        if self.rare is not None and self.rare.closed is not None:
            self._set_aside(item, front)
            return False
        if item.__class__ is Parcel and item.delay:  # type: ignore[union-attr]
            self._hold(item)  # type: ignore[arg-type]
            return False
        if self.items is None:
            self.items = deque()
        if front:
            self.items.appendleft(item)
        else:
            self.items.append(item)
        return self._call_worker()

    def _call_worker(self) -> bool:
        """True if one more worker (or reader) should come."""
        rare = self.rare
        if self.rules.pull:
            return True
        if rare is not None and (rare.paused or rare.closed is not None):
            return False
        if not self.items or self.claims >= self.rules.workers:
            return False
        self.claims += 1
        self._tell(busy=1)
        return True

    def _restart(self) -> bool:
        return bool(self.items) and self._call_worker()

    def resume(self) -> None:
        super().resume()
        self._more_workers()

    def reopen(self) -> None:
        super().reopen()
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
            self.taken += 1
            self.flying += 1
            return item

    def _next(self) -> Item | None:
        while self.items:
            item = self.items.popleft()
            if self.rules.pull:
                return item
            message = item if isinstance(item, Message) else item.message
            if message.key is None:
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
        return None

    def leave(self) -> bool:
        """A worker's batch is over; True if it has to go to the end of the ready list (it keeps its claim)."""
        with self.lock:
            if self.items:
                return True
            self.claims -= 1
            self._tell(busy=-1)
            return False

    def _done(self, item: Item, back: bool = False) -> bool:
        self.flying -= 1
        message = item if isinstance(item, Message) else item.message
        schedule = False
        if message.key is not None and self.lanes is not None and message.key in self.lanes:
            if back and isinstance(item, Parcel):
                item.lane = True  # it comes back before what waits in its lane
            else:
                lane = self.lanes[message.key]
                if lane:
                    follower = lane.popleft()
                    if isinstance(follower, Message):
                        follower = Parcel(follower)
                    follower.lane = True
                    schedule = self._admit(follower, front=True)
                else:
                    del self.lanes[message.key]
        rare = self.rare
        if rare is not None:
            schedule = self._admit_waiters() or schedule
            self._open_gates()
        return schedule

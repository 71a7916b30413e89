"""
The mailbox: one bounded queue per subscription, and what happens when it is full.

Two kinds keep these promises: `SoloMailbox` (mailbox_solo.py), for one worker, which takes a lock only when it has to, and
`SharedMailbox` (mailbox_shared.py), which takes one for everything. Here is what they share: putting by the rules, waiting
for room, pausing, closing, and the figures of the conservation law.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final, Protocol

from pipebus.clock import Clock
from pipebus.errors import BusClosed, MailboxFull
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.values import defaults
from pipebus.values.defaults import Overflow
from pipebus.waiting.locks import Locks, free, interrupted

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

NOBODY: Final = Receipt(0)
ONE: Final = Receipt(1)
SLICE: Final = 0.5
"""Seconds between two looks of whoever waits for the bus to become quiet."""
TURNS: Final = 100
"""How often a thread lets others run before it waits for a lock in the usual way."""

OWN: Final = "its own handler publishes into it and would wait for itself: enlarge it, or choose another overflow"


class Parcel:
    """A message with a history: returned, delayed, replayed, or carried by a transport that wants an answer."""

    __slots__ = ("attempt", "delay", "due", "first", "lane", "message", "open", "replayed", "timer", "token")

    def __init__(self, message: Message[Any], attempt: int = 0, token: Any = None, delay: float = 0.0) -> None:
        self.message = message
        self.attempt = attempt  # takings so far
        self.token = token  # what the transport knows the delivery by
        self.first = 0.0  # when it was first taken, seconds since 1970
        self.delay = delay  # seconds until it may be taken
        self.due = 0.0  # the same on the monotonic clock
        self.timer: Any = None  # what will take it then
        self.lane = False  # it holds the lane of its key
        self.replayed = False  # a dead letter that has come back
        self.open = False  # taken from a shared mailbox, and not settled


Item = Message[Any] | Parcel


class Owner(Protocol):
    """What a mailbox asks of its subscription."""

    @property
    def name(self) -> str: ...
    def overflowed(self, item: Item, policy: str) -> None: ...
    def discarded(self, item: Item, reason: str, by: str | None) -> None: ...


class Traffic:
    """What the mailboxes of one bus share: a lock for their changes of state, and how many are not at rest."""

    __slots__ = ("_gates", "busy", "held", "lock", "locks", "look", "taken", "waits")

    def __init__(self, locks: Locks | None = None, look: Callable[[], object] = lambda: None) -> None:
        self.locks = locks or Locks()
        self.lock = self.locks.new()
        self.taken = False  # a hint that somebody holds the lock on one of the quick roads; see `take_turn`
        self.look = look  # called before each wait for quiet: it may start what could not be started before
        self.busy = 0  # handled mailboxes that are scheduled or being worked on
        self.held = 0  # messages that wait for their time
        self.waits: dict[Mailbox, list[tuple[Mailbox, ...]]] = {}  # whose handler waits for whom; see mailbox_asked.py
        self._gates: list[Any] = []

    def change(self, busy: int = 0, held: int = 0) -> None:
        """Called with the lock held."""
        self.busy += busy
        self.held += held
        if self.busy == 0 and self.held == 0 and self._gates:
            self.alarm()

    def quiet(
        self, clock: Clock, timeout: float, also: Callable[[], bool] = lambda: True, give_up: Callable[[], bool] = lambda: False
    ) -> bool:
        """
        Wait until nothing is scheduled, running or delayed; False when `timeout` seconds have passed.

        Args:
            also: What else must hold; asked again after each `nudge`.
            give_up: Stop waiting; asked likewise.
        """
        self.locks.check()
        deadline = clock.monotonic() + timeout
        while True:
            self.look()
            gate = threading.Lock()
            gate.acquire()
            with self._watched(gate) as quiet:
                if quiet and also():
                    return True
                left = deadline - clock.monotonic()
                if left <= 0 or give_up():
                    return False
                # In slices: a signal that comes just before the wait would else be seen only after it.
                clock.wait(gate, min(left, SLICE))

    async def aquiet(self, clock: Clock, timeout: float, also: Callable[[], bool]) -> bool:
        """`quiet` on an event loop, without a thread that waits."""
        deadline = clock.monotonic() + timeout
        while True:
            self.look()
            gate = LoopGate()
            with self._watched(gate) as quiet:
                if quiet and also():
                    return True
                left = deadline - clock.monotonic()
                if left <= 0:
                    return False
                await gate.wait(min(left, SLICE))

    @contextmanager
    def _watched(self, gate: Any) -> Iterator[bool]:
        """Whether all is quiet; and from this moment on `gate` is opened when it may have become so."""
        with free(self.lock):
            quiet = self.busy == 0 and self.held == 0
            self._gates.append(gate)
        try:
            yield quiet
        finally:
            with free(self.lock):
                self._gates.remove(gate)

    def nudge(self) -> None:
        """Let everyone who waits for quiet look again."""
        with self.lock:  # also by code that has interrupted this thread: an alarm changes nothing
            self.alarm()

    def alarm(self) -> None:
        """The same without the lock, for a signal handler, which must not wait for one."""
        for gate in list(self._gates):
            open_gate(gate)


class LoopGate:
    """A gate that a coroutine stands in front of; opened from any thread, like a lock, by `release`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open = asyncio.Event()

    def release(self) -> None:
        with suppress(RuntimeError):  # its loop is closed: nobody stands there
            self._loop.call_soon_threadsafe(self._open.set)

    async def wait(self, timeout: float | None) -> bool:
        """False when `timeout` seconds have passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._open.wait()
        return self._open.is_set()


def take_turn(traffic: Traffic) -> None:
    """
    Before a lock that is held for moments only: let others run until it is free.

    A thread that waits for a lock in the usual way is given it while it does not have the interpreter. The thread that has
    the interpreter then soon waits for the lock in its turn, and from there on each message costs two thread switches. (The
    lock itself is then taken by `with`, between whose steps no signal can come.)

    `taken` is only a hint: an interrupt in the middle may leave it set, so nobody follows it for long.
    """
    if traffic.lock._is_owned():
        raise interrupted()
    for _ in range(TURNS):
        if not traffic.taken:
            return
        time.sleep(0)


def wake(call: Callable[[], object]) -> None:
    """Wake somebody who waits: on a loop that has been closed nobody does, and no delivery may end otherwise for that."""
    with suppress(RuntimeError):
        call()


def open_gate(gate: Any) -> None:
    """Release a lock that somebody waits for, or that another has released before."""
    with suppress(RuntimeError):
        gate.release()


class Rules:
    """What mailboxes of equal settings share, so that a million of them stay small."""

    __slots__ = (
        "blocking", "clock", "enlist", "hurry", "later", "mine", "overflow", "pull", "room", "schedule", "size", "timeout",
        "traffic", "workers",
    )  # fmt: skip

    def __init__(
        self,
        traffic: Traffic,
        clock: Clock,
        *,
        size: int = defaults.MAILBOX_SIZE,
        overflow: Overflow = defaults.OVERFLOW,
        timeout: float = defaults.OVERFLOW_TIMEOUT,
        workers: int = defaults.WORKERS,
        pull: bool = False,
        schedule: Callable[[Any], BaseException | None],
        enlist: Callable[[Any], object] = lambda mailbox: None,
        later: Callable[[float, Callable[[], None]], Any],
        blocking: Callable[[], AbstractContextManager[Any]],
        mine: Callable[[Any], bool],
        hurry: Callable[[Any], None] | None = None,
    ) -> None:
        self.traffic = traffic
        self.hurry = hurry  # put a mailbox that is on the ready list to its front
        self.clock = clock
        self.size = size
        self.room = 0  # kept for all mailboxes of these rules, so that they share one number; see mailbox_solo.py
        self.overflow = overflow
        self.timeout = timeout
        self.workers = workers
        self.pull = pull
        # Put a mailbox on its runner's ready list: under the mailbox's lock, so that whoever does not hold that lock finds on
        # the list what is counted as busy.
        self.enlist = enlist
        self.schedule = schedule  # have its runner (or reader) look there; what kept a thread from being started for that
        self.later = later  # call something after so many seconds; what it gives has a `cancel`
        self.blocking = blocking  # entered around a wait: a worker gives up its slot
        self.mine = mine  # is this thread running a handler of that mailbox?


class Rare:
    """State that few mailboxes ever have."""

    __slots__ = (
        "closed", "dead", "dropped", "ended", "entered", "gates", "halted", "keep", "later", "left", "outcasts", "parked",
        "pauses", "replayed", "returned", "shared", "waiters",
    )  # fmt: skip

    def __init__(self) -> None:
        self.shared = False  # see `_at_rest`
        self.closed: str | None = None  # why
        self.keep = True  # closed, but what waits is kept
        self.left: deque[Item] | None = None  # what a stop left over
        self.outcasts: deque[Item] = deque()  # dropped under the lock, to be told of after it
        self.pauses = 0  # for which reasons it is paused: USER, TAKEOVER
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

    @property
    def paused(self) -> bool:
        return bool(self.pauses)


USER: Final = 1
TAKEOVER: Final = 2
"""Why a mailbox is paused: it was told to; or its actor, spawned again, is still at its last message from before."""

REMEMBERED: Final[dict[tuple[str, bool], Rare]] = {}


def _at_rest(reason: str, keep: bool) -> Rare:
    """What all mailboxes share that were at rest when they were closed: a million of them may be. It is never changed."""
    rare = REMEMBERED.get((reason, keep))
    if rare is None:
        rare = Rare()
        rare.closed, rare.keep, rare.shared = reason, keep, True
        REMEMBERED[reason, keep] = rare
    return rare


class Waiter:
    """Someone in front of a full mailbox. `wake` is called when the item was admitted (or there is room) or refused."""

    __slots__ = ("accepted", "item", "wake")

    def __init__(self, item: Item | None, wake: Callable[[], object]) -> None:
        self.item = item  # None: only wants to know that there is room
        self.wake = wake
        self.accepted: bool | None = None


class Mailbox:
    """What both kinds share. Methods whose names start with `_` are called with the lock held."""

    __slots__ = ("acknowledged", "items", "owner", "rare", "rules", "taken")

    def __init__(self, rules: Rules, owner: Owner) -> None:
        self.rules = rules
        self.owner = owner
        self.items: deque[Item] | None = None
        self.taken = 0
        self.acknowledged = 0
        self.rare: Rare | None = None

    room = 0
    """Below this many waiting messages a put takes no lock; see mailbox_solo.py."""

    def put_again(self, message: Item, left: deque[Item]) -> Receipt:
        """A put without a lock found that its mailbox has come to rest meanwhile; see mailbox_solo.py."""
        raise NotImplementedError

    # --- what the kinds differ in --------------------------------------------------------------------------------------

    @property
    def lock(self) -> Any:
        """
        To be taken by `with` at once.

        Raises:
            LifecycleError: code that has interrupted this thread asks, and the thread holds this lock or the traffic's.
        """
        raise NotImplementedError

    @property
    def in_flight(self) -> int:
        """Deliveries that a handler or a reader has and has not settled."""
        raise NotImplementedError

    def is_open(self, item: Item) -> bool:
        """Whether an item that was taken has not been settled; asked by its worker."""
        raise NotImplementedError

    def _count(self) -> int:
        """What the bound counts: queued, claimed, in flight and delayed."""
        raise NotImplementedError

    def lacks_room(self) -> bool:
        """Whether a publisher would have to wait; looked at without the lock, so it may be wrong by the time it is known."""
        return self.rules.overflow == "block" and self._count() >= self.rules.size

    def _admit(self, item: Item, front: bool = False) -> int:
        """Queue without looking at the bound; how often the caller has to `schedule` the mailbox, after the lock."""
        raise NotImplementedError

    def _restart(self) -> int:
        """After a pause or a stop: how often the mailbox has to be scheduled for what waits."""
        raise NotImplementedError

    def _at_rest(self) -> bool:
        """Nothing waits, nobody works, and nobody is on the way."""
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
        schedule = 0
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
        failure = self.schedule(schedule)
        if victim is not None:
            self.owner.overflowed(item, rule)
            if rule == "reject":
                raise self.full('its rule is overflow="reject": publish again later, or enlarge it')
            self.owner.discarded(victim, "overflow", None)
        if failure is not None:
            raise self.unattended(failure)
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
        rules.traffic.locks.check()
        self.owner.overflowed(item, "block")
        if rules.mine(self):
            raise self.full(OWN)
        if asyncio._get_running_loop() is not None:
            raise self.full("publish cannot wait on a running event loop: use `await bus.apublish(…)`")
        if deadline is None:
            deadline = rules.clock.monotonic() + rules.timeout
        gate = threading.Lock()
        gate.acquire()
        waiter = self.line_up(item, gate.release)
        if isinstance(waiter, Receipt):
            return waiter
        try:
            with rules.blocking():
                rules.clock.wait(gate, deadline - rules.clock.monotonic())
        except BaseException:  # Ctrl-C
            self.leave_line(waiter)
            raise
        return self.step_out(waiter)

    def line_up(self, item: Item | None, wake: Callable[[], object]) -> Waiter | Receipt:
        """Take a place in line; or ONE: there was room after all, and `item` is in; or NOBODY: the subscription has gone."""
        schedule = 0
        waiter: Waiter | Receipt = ONE
        with self.lock:
            if self._refuses():
                return NOBODY
            if self._count() < self.rules.size:
                if item is not None:
                    schedule = self._admit(item)
            else:
                waiter = Waiter(item, wake)
                self.rare_state().waiters.append(waiter)
                self._call_attention()
        failure = self.schedule(schedule)
        if failure is not None:
            raise self.unattended(failure)
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
        raise self.full(self.waited())

    def waited(self) -> str:
        return f"waited {self.rules.timeout:g} s for room: its messages are not taken as fast as they are published"

    def leave_line(self, waiter: Waiter) -> None:
        """Give the place in line up, whatever it has come to."""
        with self.lock:
            if waiter.accepted is None:
                self.rare_state().waiters.remove(waiter)

    def _admit_waiters(self) -> int:
        """Let in whoever there is room for; how often the mailbox has to be scheduled."""
        schedule = 0
        waiters = self.rare_state().waiters
        promised = 0  # places of those who only want to know
        while waiters and self._count() + promised < self.rules.size:
            waiter = waiters.popleft()
            waiter.accepted = True
            if waiter.item is None:
                promised += 1
            else:
                schedule += self._admit(waiter.item)
            wake(waiter.wake)
        return schedule

    def look_again(self) -> None:
        """Somebody who was promised a place may not have taken it: let in who stands behind."""
        if self.rare is None or not self.rare.waiters:
            return
        with self.lock:
            schedule = self._admit_waiters()
        self.schedule(schedule)

    def schedule(self, times: int) -> BaseException | None:
        """
        Call that many workers (or readers). (Called without the lock.)

        Returns:
            What kept a thread from being started, for a publisher to raise. It is tried again anyway.
        """
        failure: BaseException | None = None
        while times:
            failure = self.rules.schedule(self)
            times -= 1
        return failure

    def unattended(self, failure: BaseException) -> BaseException:
        """No thread could be had, but the message is in: filters that repeat passes must know."""
        failure.__dict__["accepted"] = (self.owner.name,)
        return failure

    def line_up_again(self) -> None:
        """Back to the ready list, by whoever has taken it from there. (Called without the lock.)"""
        self.rules.enlist(self)
        self.rules.schedule(self)

    def full(self, hint: str) -> MailboxFull:
        return MailboxFull(refused=(self.owner.name,), hint=hint)

    # --- time, pause, close --------------------------------------------------------------------------------------------

    def _hold(self, item: Parcel) -> None:
        """Keep the place of a message whose time has not come."""
        rules, rare = self.rules, self.rare_state()
        item.due = rules.clock.monotonic() + item.delay
        rare.later[id(item)] = item
        self._tell(held=1)
        item.timer = rules.later(item.delay, functools.partial(self.release, item))

    def release(self, item: Parcel) -> None:
        """The time of a held message has come."""
        with self.lock:
            if self.rare is None or self.rare.later.pop(id(item), None) is None:
                return  # the mailbox was closed for good, and has counted it
            item.delay = 0.0
            schedule = self._admit(item)
            self._tell(held=-1)  # after the worker was counted: in between, the bus must not look quiet
        self.schedule(schedule)
        self._announce()

    def pause(self, reason: int = USER) -> None:
        with self.lock:
            self.rare_state().pauses |= reason
            self._call_attention()

    def resume(self, reason: int = USER) -> None:
        with self.lock:
            rare = self.rare_state()
            if not rare.pauses & reason:
                return
            rare.pauses &= ~reason
            schedule = self._resumed(rare) if not rare.pauses else 0
        self.schedule(schedule)

    def _resumed(self, rare: Rare) -> int:
        """How often the mailbox has to be scheduled, now that nothing keeps it paused."""
        return self._restart()

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
            if self.rare is None and self._at_rest():
                self.rare = _at_rest(reason, keep)
                return []
            rare = self.rare_state()
            rare.closed, rare.keep = reason, keep
            self._call_attention()
            left = self._behind()
            gone: list[Item] = []
            if keep:
                if left and rare.left:  # a put may still be on its way into `left`; see mailbox_solo.py
                    left.extendleft(reversed(rare.left))
                rare.left = left or rare.left
            else:
                for pile in (left, rare.left, *self._aside()):
                    with suppress(IndexError):  # the worker of a mailbox without a lock was faster with the last one
                        while pile:
                            gone.append(pile.popleft())
                            self._drop(reason, unseen=True)
                for item in rare.later.values():
                    if item.timer is not None:
                        item.timer.cancel()
                    gone.append(item)
                    self._drop(reason, unseen=True)
                if rare.later:
                    self._tell(held=-len(rare.later))
                rare.later, rare.left = {}, None
            rare.parked = False
            waiters, rare.waiters = rare.waiters, deque()
            for waiter in waiters:
                waiter.accepted = False
                wake(waiter.wake)
        return gone

    def _behind(self) -> deque[Item] | None:
        """What a closing mailbox takes out of its line."""
        left, self.items = self.items, None
        return left

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
            rare = self.rare
            back: list[Parcel] = []
            if rare is None or rare.shared:
                return back
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

    def reopen(self) -> bool:
        """
        Take messages again after a stop. True if it left something over: then `go_on` has to be called, when all others are
        open too, or what is handled first could not publish to them.
        """
        with self.lock:
            rare = self.rare
            if rare is None or rare.closed is None:
                return False
            if rare.shared:
                self.rare = None
                return False
            rare.closed = None
            if rare.halted:
                rare.halted, rare.pauses = False, 0
            self.items, rare.left = self._ahead(rare.left), None
            now = self.rules.clock.monotonic()
            for item in rare.later.values():
                item.timer = self.rules.later(max(0.0, item.due - now), functools.partial(self.release, item))
            return self.items is not None

    def go_on(self) -> None:
        """Handle what a stop has left over."""
        with self.lock:
            schedule = self._restart()
        self.schedule(schedule)

    def _ahead(self, left: deque[Item] | None) -> deque[Item] | None:
        """What is in line again after a stop."""
        return left or None

    def wait_idle(self, timeout: float | None) -> bool:
        """After `close`: wait until the last handler has ended; False when time ran out."""
        gate = threading.Lock()
        gate.acquire()
        if self.when_idle(gate.release):
            return True
        with self.rules.blocking():
            return self.rules.clock.wait(gate, timeout)

    def when_idle(self, wake: Callable[[], object]) -> bool:
        """True if no handler runs at this moment; else `wake` is called when the last one has ended."""
        with self.lock:
            if self._idle():
                return True
            self.rare_state().gates.append(wake)
            self._call_attention()
            return False

    def _idle(self) -> bool:
        raise NotImplementedError

    def _open_gates(self) -> None:
        rare = self.rare
        if rare is not None and rare.gates and self._idle():
            gates, rare.gates = rare.gates, []
            for gate in gates:
                wake(gate)

    # --- counting ------------------------------------------------------------------------------------------------------

    def rare_state(self) -> Rare:
        rare = self.rare
        if rare is None or rare.shared:
            closed = rare
            self.rare = rare = Rare()
            if closed is not None:
                rare.closed, rare.keep = closed.closed, closed.keep
        return rare

    def _refuses(self) -> bool:
        """True if the subscription has gone; raises BusClosed if the bus has stopped."""
        rare = self.rare
        if rare is None or rare.closed is None:
            return False
        if rare.keep:
            raise BusClosed(f"the bus has stopped: {self.owner.name} takes no more messages")
        return True

    def closed_for_good(self) -> bool:
        return self.rare is not None and self.rare.closed is not None and not self.rare.keep

    def _set_aside(self, item: Item, front: bool) -> None:
        """What comes back to a closed mailbox waits for `reopen`, or is dropped (and announced, after the lock)."""
        rare = self.rare_state()
        if not rare.keep:
            self._drop(rare.closed or "closed", unseen=True)
            rare.outcasts.append(item)
            return
        if rare.left is None:
            rare.left = deque()
        if front:
            rare.left.appendleft(item)
        else:
            rare.left.append(item)

    def _announce(self) -> None:
        """Tell of what was dropped because the mailbox had closed. (Called without the lock.)"""
        rare = self.rare
        while rare is not None and rare.outcasts:
            self.owner.discarded(rare.outcasts.popleft(), rare.closed or "closed", None)

    def _oldest(self) -> Item | None:
        """Take the oldest message that has not started; one that was returned has."""
        started: list[Item] = []
        found = None
        try:
            while self.items:
                item = self.items.popleft()
                if isinstance(item, Message) or item.attempt == 0:
                    found = item
                    break
                started.append(item)
        except IndexError:  # its worker was faster
            pass
        if started and self.items is not None:
            self.items.extendleft(reversed(started))
        return found

    def _drop(self, reason: str, unseen: bool = False) -> None:
        rare = self.rare_state()
        rare.dropped[reason] = rare.dropped.get(reason, 0) + 1
        rare.entered += unseen

    def _tell(self, busy: int = 0, held: int = 0) -> None:
        """Tell the bus's traffic, whose lock comes after ours. Nobody waits for what is delayed for a reader."""
        if self.rules.pull:
            return
        with self.rules.traffic.lock:
            self.rules.traffic.change(busy, held)

    def waiting(self) -> int:
        """Queued, parked, left over or held: everything that is pending."""
        rare = self.rare
        return len(self.items or ()) + (len(rare.later) + len(rare.left or ()) if rare is not None else 0)

    def narrow(self, size: int) -> None:
        """A test's, before the bus starts: room for so few messages, here and in all mailboxes of these rules."""
        self.rules.size = size

    def counts(self) -> dict[str, Any]:
        """
        The conservation law's figures.

        `accepted` is counted where messages are taken, plus what waits: the quick road of a put counts nothing. So it is the
        settlements that the law checks: each taking ends exactly once.
        """
        with self.lock:
            rare = self.rare or Rare()
            in_flight = self.in_flight  # before what waits, or a message that is taken in between would be counted twice
            pending = self.waiting()
            dropped = dict(sorted(rare.dropped.items()))
            return {
                "accepted": self.taken - rare.returned - rare.replayed + pending + rare.entered,
                "acknowledged": self.acknowledged,
                "dropped": dropped,
                "dead": rare.dead,
                "pending": pending,
                "in_flight": in_flight,
            }

    # --- settling, by the subscription, for one that was taken -----------------------------------------------------------

    def acknowledge(self, item: Item) -> None:
        with self.lock:
            schedule = self._done(item)
            self.acknowledged += 1
        self.schedule(schedule)

    def drop(self, item: Item, reason: str) -> None:
        with self.lock:
            rare = self.rare_state()
            schedule = self._done(item)
            self._drop(reason)
            rare.ended += 1
        self.schedule(schedule)

    def die(self, item: Item) -> None:
        with self.lock:
            rare = self.rare_state()
            schedule = self._done(item)
            rare.dead += 1
            rare.ended += 1
        self.schedule(schedule)

    def die_untaken(self) -> None:
        """Something that could not even be queued is dead."""
        with self.lock:
            rare = self.rare_state()
            rare.dead += 1
            rare.entered += 1

    def give_back(self, item: Parcel, front: bool = False) -> None:
        """To be taken again, after `item.delay` seconds; its place in the bound is kept, in the line if `front`."""
        with self.lock:
            rare = self.rare_state()
            schedule = self._done(item, back=True)
            schedule += self._admit(item, front)
            rare.returned += 1
            rare.ended += 1
        self.schedule(schedule)
        self._announce()

    def keep_back(self, item: Parcel) -> None:
        """It waits for the next start of the bus, before what is left over then, also while the mailbox is still open."""
        with self.lock:
            rare = self.rare_state()
            schedule = self._done(item, back=True)
            self._set_aside(item, front=True)
            rare.returned += 1
            rare.ended += 1
        self.schedule(schedule)
        self._announce()

    def forget(self, item: Parcel) -> None:
        """It goes back to the transport that brought it, which will bring it again."""
        with self.lock:
            rare = self.rare_state()
            schedule = self._done(item)
            rare.returned += 1
            rare.ended += 1
        self.schedule(schedule)

    def revive(self, item: Item) -> bool:
        """A dead letter comes back; False if there is no room, or the subscription has gone."""
        with self.lock:
            if self._refuses() or self._count() >= self.rules.size:
                return False
            rare = self.rare_state()
            rare.dead -= 1
            rare.replayed += 1
            schedule = self._admit(item)
        self.schedule(schedule)
        return True

    def bury(self, reason: str) -> None:
        """A dead letter is gone for good: counted as dropped."""
        with self.lock:
            self.rare_state().dead -= 1
            self._drop(reason)

    def _done(self, item: Item, back: bool = False) -> int:
        """One taking has ended; how often the mailbox has to be scheduled."""
        return 0

"""State that few mailboxes ever need, and settings that many share, so that a million mailboxes stay small."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from pipebus.clock import Clock
from pipebus.mailbox.claims import Claims, wake
from pipebus.mailbox.parcel import Item, Parcel
from pipebus.values import defaults
from pipebus.values.defaults import Overflow

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

QUICK: Final = 1000
"""The smallest mailbox with a quick way in. A smaller bound must be exact, so every put checks it under the lock."""

MARGIN: Final = 64
"""Places below the bound within which every put takes the lock."""

GUARD: Final = range(sys.maxsize)
"""Replaces a box: puts must look closer. It is longer than any room, so that the quick way in needs no test for it."""

has_gil: Final[bool] = getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether there is a GIL. Without one, even a mailbox with one worker is a `SharedMailbox`."""

USER: Final = 1
TAKEOVER: Final = 2
OPENING: Final = 4
HELD: Final = 8
"""Why a mailbox is paused: the program asked for it; its actor, spawned again, still handles its last message from before; the
bus starts, and not all of its mailboxes are open yet; or a filter holds it. From HELD on, each hold has a bit of its own."""


class Rules:
    """Settings that several mailboxes share."""

    __slots__ = (
        "blocking", "call", "claims", "clock", "enlist", "hurry", "later", "mine", "overflow", "pull", "room", "size",
        "timeout", "workers",
    )  # fmt: skip

    def __init__(
        self,
        claims: Claims,
        clock: Clock,
        *,
        size: int = defaults.MAILBOX_SIZE,
        overflow: Overflow = defaults.OVERFLOW,
        timeout: float = defaults.OVERFLOW_TIMEOUT,
        workers: int = defaults.WORKERS,
        pull: bool = False,
        enlist: Callable[[Any], object] = lambda mailbox: None,
        call: Callable[[Any], BaseException | None],
        later: Callable[[float, Callable[[], None]], Any],
        blocking: Callable[[], AbstractContextManager[Any]],
        mine: Callable[[Any], bool],
        hurry: Callable[[Any], None] | None = None,
    ) -> None:
        self.claims = claims
        self.clock = clock
        self.size = size
        self.room = max(0, size - MARGIN - 1) if size >= QUICK else 0  # up to here a put takes no lock
        self.overflow = overflow
        self.timeout = timeout
        self.workers = workers
        self.pull = pull
        self.enlist = enlist  # put a mailbox on its runner's ready list
        self.call = call  # then make the runner look there; returns the error if a thread could not be started
        self.hurry = hurry  # move a mailbox to the front of the ready list
        self.later = later  # call something after some seconds; returns an object with `cancel`
        self.blocking = blocking  # entered around a wait: a worker gives up its slot
        self.mine = mine  # whether this thread runs a handler of that mailbox


class Rare:
    """The state that a mailbox needs once something unusual has happened to it."""

    __slots__ = (
        "closed", "dead", "dropped", "ended", "entered", "gates", "halted", "keep", "later", "left", "outcasts", "pauses",
        "promised", "replayed", "rest", "returned", "shared", "waiters",
    )  # fmt: skip

    def __init__(self) -> None:
        self.shared = False  # see `at_rest`
        self.closed: str | None = None  # why
        self.keep = True  # closed, but what waits is kept
        self.left: deque[Item] | None = None  # set aside by a pause or a stop
        self.outcasts: deque[Item] = deque()  # dropped under the lock, to be announced after it
        self.pauses = 0  # the reasons: USER, TAKEOVER, OPENING, HELD and higher bits
        self.halted = False  # paused by an interrupt, until the next start
        self.rest: range | None = None  # the value of `box` while the mailbox has no owner: GUARD if puts must look closer
        self.promised = 0  # places kept for messages that are still in their publish chain
        self.waiters: deque[Waiter] = deque()  # publishers that wait for room
        self.gates: list[Callable[[], object]] = []  # wake callers that wait for the last handler to end
        self.later: dict[int, Parcel] = {}  # delayed messages
        self.returned = 0  # attempts after which the message went back
        self.replayed = 0  # dead letters that came back
        self.dead = 0  # dead now
        self.dropped: dict[str, int] = {}  # by reason
        self.ended = 0  # attempts that were not acknowledged: returned, dropped or dead
        self.entered = 0  # messages that ended without being taken

    @property
    def shut(self) -> bool:
        """Whether no delivery may start."""
        return self.closed is not None or self.pauses != 0


REMEMBERED: Final[dict[tuple[str, bool], Rare]] = {}


def at_rest(reason: str, keep: bool) -> Rare:
    """The state that all mailboxes share that were idle when they closed, as a million may be. It is never changed."""
    rare = REMEMBERED.get((reason, keep))
    if rare is None:
        rare = Rare()
        rare.closed, rare.keep, rare.rest, rare.shared = reason, keep, GUARD, True
        REMEMBERED[reason, keep] = rare
    return rare


class Waiter:
    """A publisher that waits for room. `wake` is called when the item was admitted (or there is room) or refused."""

    __slots__ = ("accepted", "item", "wake")

    def __init__(self, item: Item | None, wake: Callable[[], object]) -> None:
        self.item = item  # None: keep a place for a message that comes later
        self.wake = wake
        self.accepted: bool | None = None


# --- changes of it; called with the mailbox's lock held, unless they say otherwise -------------------------------------------


def own_rare(mailbox: Any) -> Rare:
    """The mailbox's own rare state, made if it has none."""
    rare: Rare | None = mailbox.rare
    if rare is None or rare.shared:
        common = rare
        mailbox.rare = rare = Rare()
        if common is not None:
            rare.closed, rare.keep, rare.rest = common.closed, common.keep, common.rest
    return rare


def look_closer(mailbox: Any, rare: Rare) -> None:
    """After a change of what the bound counts: set how many messages the quick way in accepts, also at rest."""
    taken = len(rare.later) + rare.promised + len(rare.left or ())
    room = 0 if rare.shut else max(0, mailbox.plan.room - taken)
    mailbox.room = room
    rare.rest = GUARD if rare.shut or (taken and not room) else None


def keep_place(mailbox: Any, places: int) -> None:
    """Keep a place for an item that comes later; or, with -1, keep it no longer."""
    rare = own_rare(mailbox)
    rare.promised += places
    look_closer(mailbox, rare)
    mailbox.attention = True


def set_aside(mailbox: Any, item: Item, front: bool = False) -> None:
    """Keep an item for when a shut mailbox opens; if it has ended, drop the item, and announce that after the lock."""
    rare = own_rare(mailbox)
    if rare.closed is not None and not rare.keep:
        count_drop(rare, rare.closed, unseen=True)
        rare.outcasts.append(item)
        return
    if rare.left is None:
        rare.left = deque()
    rare.left.appendleft(item) if front else rare.left.append(item)


def tell_outcasts(mailbox: Any) -> None:
    """Announce the items that were dropped because the mailbox had closed. (Without the lock.)"""
    rare: Rare | None = mailbox.rare
    while rare is not None and rare.outcasts:
        item = take_first(rare.outcasts)
        if item is not None:
            mailbox.discarded(item, rare.closed or "closed", None)


def count_drop(rare: Rare, reason: str, unseen: bool = False) -> None:
    """Count a dropped message; `unseen`: it has not been taken."""
    rare.dropped[reason] = rare.dropped.get(reason, 0) + 1
    rare.entered += unseen


def open_gates(rare: Rare) -> None:
    """Wake the callers that wait for the last handler to end."""
    gates, rare.gates = rare.gates, []
    for gate in gates:
        wake(gate)


def first_in(box: Any) -> Item | None:
    """The first item, which stays; None if there is none, perhaps because the worker was faster."""
    try:
        return box[0]  # type: ignore[no-any-return]
    except IndexError:
        return None


def take_first(box: deque[Item]) -> Item | None:
    """Take out the first item; None if there is none, perhaps because the worker was faster."""
    try:
        return box.popleft()
    except IndexError:
        return None

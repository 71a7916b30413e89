"""
The keeper: one thread that claims deliveries for the subscriptions of this process, hands them in, writes what nobody waits
for, keeps the lease, takes over what processes that have ended have left, and makes room.

It sleeps until somebody rings, and looks up every few milliseconds whether another process has written (`PRAGMA data_version`,
some microseconds each; less often the longer nothing happens).
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from pipebus.errors import PipebusError
from pipebus.transports.base import Surroundings
from pipebus.transports.sqlite import boot, schema
from pipebus.transports.sqlite.claims import Bound
from pipebus.transports.sqlite.file import OpenFile
from pipebus.transports.sqlite.store import Claim, Owner, Settlement, Store
from pipebus.transports.sqlite.writer import Job

QUICK: Final = 0.002
SLOW: Final = 0.02
"""Seconds between two looks at what other processes have written: shortly after something happened, and later."""
LATER: Final = 0.01
"""Seconds until a delivery that found no room is offered again."""
BLOCKED: Final = 0.05
"""Seconds until a subscription is looked at again of which nothing may be claimed now; sooner if one of it is settled here."""
PAGES: Final = 4000
"""About so many pages in the log before it is moved into the database."""
TICK: Final = 1.0
"""Seconds between two looks at who has ended and what may be deleted."""


class Keeper:
    """
    One start of a transport: an owner of deliveries in the file.

    Args:
        file: It is open.
        patience: Seconds that a stop waits for a file that fails, or that others hold.
    """

    def __init__(self, file: OpenFile, around: Surroundings, patience: float) -> None:
        self.file = file
        self.writer = file.writer
        self.patience = patience
        self.stopping = False
        self.life = boot.me()
        self.owner: int = self.writer.call(self._enter)
        self.renewed = file.now()
        self._around = around
        self._lock = file.locks.lend()  # bindings
        self._bound: dict[str, Bound] = {}
        self._by_number: dict[int, Bound] = {}
        self._bell = threading.Lock()  # released to ring it: a signal handler may do so at any moment, which an Event forbids
        self._bell.acquire()
        self._version = -1
        self._turn = 0
        self._due = 0.0
        self._ticked = 0.0
        self._told = self.writer.stale
        self._log = 0  # its size at the last checkpoint
        file.moved_in = self._move_in
        self._thread = threading.Thread(target=self._run, name="pipebus-sqlite", daemon=True)

    def _enter(self, store: Store) -> int:
        """Be an owner; and what others have left behind waits again, before anybody asks whether something waits."""
        for owner, ended in self._gone(self.file.now(), but=0):
            store.expire(owner, ended)
        return store.enter(self.life, self.until())

    def _move_in(self, store: Store) -> None:
        """
        Another file is open than before: be an owner in it, and subscribe what is bound. What is out here was claimed in the
        one before; in a copy of that it is lost to us, so it waits again. Called by the leader, with the lock held.
        """
        store.execute("BEGIN IMMEDIATE")
        try:
            if any(owner.owner == self.owner and owner.life == self.life for owner in store.owners()):
                store.leave(self.owner, counts=True)
            owner, until = store.enter(self.life, self.until()), self.file.now()
            subs = [
                (bound, store.subscribe(bound.name, bound.patterns, bound.binding.start, bound.owner(owner)))
                for bound in self.bindings()
            ]
            store.execute("COMMIT")
        except BaseException:
            if store.connection.in_transaction:
                with suppress(sqlite3.Error):
                    store.execute("ROLLBACK")
            raise
        self.owner, self.renewed = owner, until
        with self._lock:
            self._by_number.clear()
            for bound, sub in subs:
                bound.sub, bound.maybe, bound.not_before = sub, True, 0.0
                if self._bound.get(bound.name) is bound:
                    self._by_number[sub] = bound
        self._version, self._due = -1, 0.0

    def start(self) -> None:
        try:
            self._thread.start()
        except BaseException:
            self._leave()
            raise
        self.writer.kept = True

    def stop(self) -> None:
        """Everything that was settled is written, and what this process had is free."""
        self.stopping = True
        lock = self.file.lock
        lock.wait = min(lock.wait, self.patience)
        self.ring()
        self._thread.join()
        self.writer.kept = False
        if not self.writer.idle:  # it has given up
            lock.wait = 0.1
        self._leave()

    def _leave(self) -> None:
        try:
            self.writer.call(lambda store: store.leave(self.owner, counts=False))
        except PipebusError as error:  # its lease will end
            self._around.warn("store.not_left", path=self.file.path, error=str(error))
        self.file.moved_in = None

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def add(self, bound: Bound) -> None:
        with self._lock:
            self._bound[bound.name] = self._by_number[bound.sub] = bound
        self.ring()

    def remove(self, name: str) -> Bound | None:
        with self._lock:
            bound = self._bound.pop(name, None)
            if bound is not None:
                self._by_number.pop(bound.sub, None)
            return bound

    def get(self, name: str) -> Bound | None:
        return self._bound.get(name)

    def bindings(self) -> list[Bound]:
        return list(self._bound.values())

    def settled(self, claim: Claim) -> None:
        """A delivery is no longer out."""
        bound: Bound = claim.binding
        bound.out.pop(claim, None)
        if bound.settle():
            self.ring()

    # --- what others ask ---------------------------------------------------------------------------------------------

    def ring(self) -> None:
        """Look now."""
        if self._bell.locked():
            with suppress(RuntimeError):  # somebody else was faster
                self._bell.release()

    def touched(self, subs: set[int]) -> None:
        """These may have something to claim."""
        ring = False
        for sub in subs:
            bound = self._by_number.get(sub)
            if bound is not None:
                bound.maybe = ring = True
        if ring:
            self.ring()

    def rested(self) -> None:
        """Everything in line is written: whoever waits for a quiet moment may look."""
        if not any(bound.out for bound in self.bindings()):
            self._around.changed()

    def until(self) -> float:
        """When a lease that begins now ends."""
        return self.file.now() + self.file.options.lease

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        quiet_since = failing_since = time.monotonic()
        pause = 0.0
        while not (self.stopping and self.writer.idle):
            try:
                busy = self._round()
                pause = 0.0
            except Exception as error:
                # The file failed, or we did. Everything is still in line, or in the file; who waits in line has to be told.
                with suppress(Exception):  # it is the same, or told to whoever waits
                    if not self.writer.idle:
                        self.writer.call(None, sync=False)
                if not pause:
                    failing_since = time.monotonic()
                if self.stopping and time.monotonic() - failing_since >= self.patience:
                    self._around.warn("store.not_settled", path=self.file.path, error=str(error))
                    return
                if not pause:
                    self._around.warn("store.failed", path=self.file.path, error=str(error))
                pause = min(max(pause * 2, 0.05), 1.0)
                busy = False
            now = time.monotonic()
            if busy:
                quiet_since = now
                continue
            timeout = pause or (QUICK if now - quiet_since < 1.0 else SLOW)
            if self._bell.acquire(timeout=timeout) and not pause:
                quiet_since = now
            if pause:
                time.sleep(min(pause, 0.05))
            self._bell.acquire(blocking=False)

    def _round(self) -> bool:
        """Whatever there is to do; True if there may be more at once."""
        now = time.monotonic()
        self.complain()
        if not self.file.refresh() and self.writer.idle:
            return False  # the file is gone, and the next one who writes makes another
        if not self.file.steady():
            self.writer.call(None, sync=False)
        [(version,)] = self.file.rows("PRAGMA data_version")
        if version != self._version:
            self._version = version
            for bound in self.bindings():
                bound.maybe = True
            self._due = self._next_due()
        tasks = self._duties(now)
        wanted = [] if self.stopping else self._wanted(now)
        if not tasks and not wanted:
            if self.writer.idle:
                return False
            self.writer.call(None, sync=False)
            self._after()
            return False
        work = Round(self, tasks, wanted, looks=bool(tasks))
        try:
            self.writer.call(work, sync=False)
        except BaseException:
            work.undo()
            raise
        work.carry_out()
        for bound, claims, datas in work.claimed:
            self._hand_in(bound, claims, datas)
        self._after()
        return any(claims for _, claims, _ in work.claimed)

    def _wanted(self, now: float) -> list[tuple[Bound, int]]:
        wanted: list[tuple[Bound, int]] = []
        bindings = self.bindings()
        self._turn += 1  # who comes first takes a suspect, if there are any
        first = self._turn % len(bindings) if bindings else 0
        for bound in (*bindings[first:], *bindings[:first]):
            count = bound.wants(now)
            if count:
                bound.maybe = False  # before the look: whoever commits behind it says so again
                if self.file.peek(bound.sub):
                    bound.maybe = True
                    wanted.append((bound, count))
        return wanted

    def _hand_in(self, bound: Bound, claims: list[Claim], datas: list[bytes]) -> None:
        if not claims and not bound.settled:  # what is ready has to wait for others that are still out: of its key, or suspects
            bound.not_before = time.monotonic() + BLOCKED
        for number, (claim, data) in enumerate(zip(claims, datas, strict=True)):
            if not bound.binding.deliver(data, claim, claim.takings):
                back = claims[number:]
                for one in back:
                    bound.out.pop(one, None)
                bound.not_before = time.monotonic() + LATER
                bound.maybe = True
                self.writer.leave([Job(Settlement(one, "release", 0.0, ""), False) for one in back])
                return

    def _duties(self, now: float) -> list[Callable[[Store], object]]:
        """What the file needs by now."""
        duties: list[Callable[[Store], object]] = []
        moment = self.file.now()
        if self._due <= moment:
            duties.append(lambda store: store.wake())
            self._version = -1  # and look when the next one is due
        if moment - self.renewed >= self.file.options.lease / 3:
            duties.append(lambda store: None)  # the round renews it
        if now - self._ticked >= TICK:
            self._ticked = now
            duties += [partial(Store.expire, owner=owner, ended=ended) for owner, ended in self._gone(moment, self.owner)]
            duties.append(lambda store: store.sweep())
        return duties

    def _next_due(self) -> float:
        found = self.file.rows("SELECT due FROM later ORDER BY due LIMIT 1")
        return float(found[0][0]) if found else float("inf")

    def _gone(self, moment: float, but: int) -> list[tuple[Owner, bool]]:
        """Owners (but us) that have given no sign of life in time; and whether their process has ended for certain."""
        rows = self.file.rows("SELECT owner, boot, space, pid, born, until FROM owner WHERE owner != ?", but)
        owners = [Owner(row[0], boot.Life(*row[1:5]), row[5]) for row in rows]
        found = [(owner, boot.ended(owner.life, self.life)) for owner in owners]
        return [(owner, ended) for owner, ended in found if ended or owner.until <= moment]

    def move(self, bound: Bound, sub: int) -> None:
        """A subscription has a new number."""
        with self._lock:
            if self._by_number.pop(bound.sub, None) is bound:
                bound.sub = sub
                self._by_number[sub] = bound
        bound.maybe = True
        self._around.warn("subscription.made_again", path=self.file.path, subscription=bound.name)

    def lost_lease(self, owner: int) -> None:
        """Others thought this process dead; it is another owner now."""
        self.owner = owner
        self._around.warn("lease.lost", path=self.file.path)

    def complain(self) -> None:
        """Of files that were swapped, and of settlements that came too late, or cannot be written."""
        while self.file.news:
            self._around.warn("sqlite.file_replaced", **self.file.news.popleft())
        stale = self.writer.stale
        if stale > self._told:
            self._around.warn("delivery.settled_too_late", path=self.file.path, deliveries=stale - self._told)
            self._told = stale
        while self.writer.complaints:
            verdict, error = self.writer.complaints.popleft()
            self._around.warn("delivery.not_settled", path=self.file.path, verdict=verdict, error=error)

    def _after(self) -> None:
        size = self.file.log
        if self.writer.pages >= PAGES or size > max(self._log, schema.LOG):
            self.writer.checkpoint()
            self._log = size


class Round:
    """
    What the keeper writes in one transaction: its lease, some duties, claims. It may be run again, if the transaction failed;
    so what it changes beside the file is taken back by `undo`, or is changed in `carry_out`, after the commit.
    """

    def __init__(
        self, keeper: Keeper, tasks: list[Callable[[Store], object]], wanted: list[tuple[Bound, int]], looks: bool
    ) -> None:
        self.keeper = keeper
        self.tasks = tasks
        self.wanted = wanted
        self._looks = looks
        self._generation = keeper.file.generation  # the tasks may have numbers from it
        self.claimed: list[tuple[Bound, list[Claim], list[bytes]]] = []
        self._adopted: list[tuple[Claim, int, int]] = []  # with the owner and takings they had
        self._moved: list[tuple[Bound, int]] = []  # to a new row
        self._owner = 0
        self._until = 0.0

    def __call__(self, store: Store) -> None:
        self.undo()
        keeper = self.keeper
        if store.generation != self._generation:
            self._owner, self._until = keeper.owner, keeper.renewed + keeper.file.options.lease
            return
        owner, until = keeper.owner, keeper.until()
        due = keeper.renewed + keeper.file.options.lease / 3 <= store.now()
        if not (store.renew(owner, until) if due else store.is_owner(owner)):
            # This process was asleep for longer than its lease, and others have thought it dead.
            owner = store.enter(keeper.life, until)
            held = [claim for bound in keeper.bindings() for claim in list(bound.out)]
            held = [claim for claim in held if claim.generation == store.generation]
            self._looks = True  # what is this process's own has gone with the lease
            for claim, takings in store.adopt(held, owner):
                # At once, under the lock for writers: a settlement that follows this transaction has to find its new fence.
                self._adopted.append((claim, claim.owner, claim.takings))
                claim.owner, claim.takings = owner, takings
            due = True
        self._owner, self._until = owner, until if due else keeper.renewed + keeper.file.options.lease
        for bound in keeper.bindings() if self._looks else ():
            if store.number(bound.name) != bound.sub:  # gone with a lost lease, or removed by somebody
                again = (bound.sub, bound.name, bound.patterns, bound.owner(owner), bound.seen, set(bound.recent))
                self._moved.append((bound, store.subscribe_again(*again)))
            else:
                bound.seen = int(store.meta("seq"))
                bound.recent.clear()
        for task in self.tasks:
            task(store)
        careful = any(bound.suspects for bound in keeper.bindings())
        for bound, count in self.wanted:
            found = store.claim(bound.sub, owner, count, careful if bound.binding.handled else None)
            claims = [Claim(bound, store.generation, bound.sub, owner, one) for one in found]
            self.claimed.append((bound, claims, [one.data for one in found]))
            bound.out.update(dict.fromkeys(claims))
            bound.recent.update(one.seq for one in found)
            careful = careful or bound.suspects  # before the commit: a drain must not find them nowhere

    def undo(self) -> None:
        for bound, claims, _ in self.claimed:
            for claim in claims:
                bound.out.pop(claim, None)
        for claim, owner, takings in self._adopted:
            claim.owner, claim.takings = owner, takings
        self.claimed.clear()
        self._adopted.clear()
        self._moved.clear()

    def carry_out(self) -> None:
        keeper = self.keeper
        if self._owner != keeper.owner:
            keeper.lost_lease(self._owner)
        for bound, sub in self._moved:
            keeper.move(bound, sub)
        keeper.renewed = self._until - keeper.file.options.lease

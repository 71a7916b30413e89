"""
The keeper: one thread that claims deliveries for the subscriptions of this process, hands them to their mailboxes, writes jobs
that no thread waits for, renews the lease, takes over from processes that have ended, and deletes old messages.

It sleeps until it is rung, and checks every few milliseconds whether another process has written (`PRAGMA data_version`, which
takes some microseconds; less often if nothing has happened for a while).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from pipebus.errors import PipebusError
from pipebus.transports.base import Health, Surroundings
from pipebus.transports.sql import deliveries, owners, retention, subscriptions
from pipebus.transports.sql.bound import Bindings, Bound
from pipebus.transports.sql.records import Claim, Owner, Settlement
from pipebus.transports.sql.round import Round
from pipebus.transports.sql.store import Store
from pipebus.transports.sqlite import boot, connections
from pipebus.transports.sqlite.commits import Job
from pipebus.transports.sqlite.file import OpenFile
from pipebus.transports.sqlite.signs import Signs

QUICK: Final = 0.002
SLOW: Final = 0.02
"""Seconds between two checks whether other processes have written: shortly after something happened, and later."""
LATER: Final = 0.01
"""Seconds until a delivery is offered again that found no room in its mailbox."""
BLOCKED: Final = 0.05
"""Seconds until a subscription is checked again of which nothing may be claimed now; sooner if a delivery is settled."""
PAGES: Final = 4000
"""The log is moved into the database when it has about so many pages."""
TICK: Final = 1.0
"""Seconds between two checks for processes that have ended, and for messages that may be deleted."""
AGAIN: Final = 0.02
"""Seconds until the next sweep, if the last one has left something to do."""


class Keeper:
    """
    One start of a transport: an owner of deliveries in the file. It has many methods, since one thread does many jobs in turn.

    Args:
        file: An open file.
        patience: Seconds that a stop waits for a file that fails or that others hold.
    """

    def __init__(self, file: OpenFile, around: Surroundings, patience: float) -> None:
        self.file = file
        self.writer, self.commits = file.writer, file.commits
        self.patience = patience
        self.stopping = False
        self.life = boot.me()
        self.owner: int = self.writer.call(self._enter)
        self.renewed = file.now()
        self._around = around
        self.bindings = Bindings(file.locks.lend())
        self._bell = threading.Lock()  # released to ring it; unlike an Event, a signal handler may do that at any moment
        self._bell.acquire()
        self._version = -1
        self._turn = 0
        self._due = 0.0
        self._ticked = self._swept = 0.0
        self._sweeps_on = False
        self._reported = self.commits.stale
        self._log = 0  # its size at the last checkpoint
        self._complained = 0  # say no more about the log before it has this size
        self.signs = Signs(file.options.max_bytes)
        file.moved_in = self._move_in
        self._thread = threading.Thread(target=self._run, name="pipebus-sqlite", daemon=True)

    def _enter(self, store: Store) -> int:
        """Become an owner. First free what ended processes hold, so that it counts as pending from the start."""
        for owner, ended in self._gone(self.file.now(), but=0):
            owners.expire(store, owner, ended)
        return owners.enter(store, self.life, self.until())

    def _move_in(self, store: Store) -> None:
        """
        Another file is open than before: become an owner in it, and subscribe what is bound. If it is a copy of the previous
        file, it may contain our claims; they are lost to us, so they wait again. Called by the leader, with the lock held.
        """
        connections.begin(store.connection, self.file.lock.wait)
        try:
            if any(one.owner == self.owner and one.life == self.life for one in owners.owners(store.connection)):
                owners.leave(store, self.owner, counts=True)
            owner, now = owners.enter(store, self.life, self.until()), self.file.now()
            subs = [
                (bound, subscriptions.subscribe(store, bound.name, bound.patterns, bound.binding.start, bound.owner(owner)))
                for bound in self.bindings
            ]
            store.execute("COMMIT")
        except BaseException:
            store.roll_back()
            raise
        self.owner, self.renewed = owner, now
        self.bindings.move_all(subs)
        self._version, self._due = -1, 0.0

    def start(self) -> None:
        try:
            self._thread.start()
        except BaseException:
            self._leave()
            raise
        self.writer.kept = True

    def stop(self) -> None:
        """When this returns, everything that was settled is written, and others may claim what this process held."""
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
            self.writer.call(lambda store: owners.leave(store, self.owner, counts=False))
        except PipebusError as error:  # the lease will end by itself
            self._around.warn("store.not_left", path=self.file.path, error=str(error))
        self.file.moved_in = None

    # --- for other threads -------------------------------------------------------------------------------------------

    def add(self, bound: Bound) -> None:
        self.bindings.add(bound)
        self.ring()

    def settled(self, claim: Claim) -> None:
        """A delivery is no longer out."""
        bound: Bound = claim.binding
        bound.out.pop(claim, None)
        if bound.ended and not bound.out:
            self.end(bound)
        if bound.settle():
            self.ring()

    def end(self, bound: Bound) -> None:
        """
        Remove a subscription that is not durable, as soon as none of its messages is out; until then it gets no others.

        Called when it ends, and again by each thread that takes the last delivery out of `out` after that. A delivery leaves
        `out` when its settlement is in line, so this last call's job comes after all settlements, and finds nothing claimed.
        """
        bound.ended = True

        def end(store: Store) -> None:
            sub = subscriptions.number(store, bound.name)
            if sub is not None:
                subscriptions.end(store, sub)

        self.writer.leave([Job(end, False)])

    def holds(self, claim: Claim) -> bool:
        """
        Nobody else can have this claim: its lease goes on, or its subscription is this process's alone. After a pause of the
        process that is found out without looking into the file.
        """
        leased = claim.owner == self.owner and self.file.now() < self.renewed + self.lease
        return leased or not claim.binding.binding.durable

    def ring(self) -> None:
        """Wake the keeper."""
        if self._bell.locked():
            with suppress(RuntimeError):  # another thread was faster
                self._bell.release()

    def touched(self, subs: set[int]) -> None:
        """These subscriptions may have something to claim."""
        if self.bindings.touched(subs):
            self.ring()

    def rested(self) -> None:
        """Everything in line is written. A drain may check whether it is complete."""
        if not any(bound.out for bound in self.bindings):
            self._around.changed()

    @property
    def generation(self) -> int:
        return self.file.generation

    @property
    def lease(self) -> float:
        return self.file.options.lease

    def until(self) -> float:
        """When a lease that begins now will end."""
        return self.file.now() + self.lease

    def health(self) -> Health:
        """`Transport.health`, from what the thread has found."""
        return self.signs.health(self.file.path, self._thread.is_alive())

    # --- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        quiet_since = failing_since = time.monotonic()
        pause = 0.0
        while not (self.stopping and self.writer.idle):
            try:
                busy = self._round()
                pause = 0.0
            except Exception as error:
                # The file failed, or this code did. Nothing is lost, but threads that wait in line must hear of it.
                with suppress(Exception):  # the same error, or one that its caller gets
                    if not self.writer.idle:
                        self.writer.call(None, sync=False)
                if not pause:
                    failing_since = time.monotonic()
                if self.stopping and time.monotonic() - failing_since >= self.patience:
                    self._around.warn("store.not_settled", path=self.file.path, error=str(error))
                    return
                self.signs.trouble = str(error)
                if not pause:
                    self._around.warn("store.failed", path=self.file.path, error=str(error))
                pause = min(max(pause * 2, 0.05), 1.0)
                busy = False
            now = self.signs.came_round = time.monotonic()
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
        """Do what there is to do. True: there may be more at once."""
        now = time.monotonic()
        self.complain()
        self.signs.gone = not self.file.refresh()
        if self.signs.gone:  # the next job makes another
            if self.writer.idle:
                return False
            self.writer.call(None, sync=False)
        [version] = self.file.query(lambda connection: connection.execute("PRAGMA data_version").fetchone())
        if version != self._version:
            self._version = version
            for bound in self.bindings:
                bound.maybe = True
            self._due = self.file.query(deliveries.next_due)
        tasks = self._duties(now)
        wanted = [] if self.stopping else self._wanted(now)
        if not tasks and not wanted:
            if self.writer.forsaken:
                self.writer.call(None, sync=False)
            self._after()
            return False
        work = Round(self, tasks, wanted, looks=bool(tasks))
        try:
            self.writer.call(work, sync=False)
        except BaseException:
            work.undo()
            raise
        self.signs.trouble = ""  # a sweep writes each second
        work.carry_out()
        for bound, claims, datas in work.claimed:
            self._hand_in(bound, claims, datas)
        self._after()
        return work.filled or any(claims for _, claims, _ in work.claimed)

    def _wanted(self, now: float) -> list[tuple[Bound, int]]:
        wanted: list[tuple[Bound, int]] = []
        bindings = list(self.bindings)
        self._turn += 1  # the first one may take a suspect, so each of them comes first in turn
        first = self._turn % len(bindings) if bindings else 0
        for bound in (*bindings[first:], *bindings[:first]):
            count = bound.wants(now)
            if count:
                bound.maybe = False  # before the check: a later commit sets it again
                if self.file.peek(bound.sub):
                    bound.maybe = True
                    wanted.append((bound, count))
        return wanted

    def _hand_in(self, bound: Bound, claims: list[Claim], datas: list[bytes]) -> None:
        """Into the mailbox. What finds no room there is given back."""
        if (
            not claims and not bound.window.settled
        ):  # what is ready must wait for messages that are out: of its key, or suspects
            bound.not_before = time.monotonic() + BLOCKED
        for number, (claim, data) in enumerate(zip(claims, datas, strict=True)):
            if not bound.binding.deliver(data, claim, claim.takings):
                back = claims[number:]
                self.writer.leave([Job(Settlement(one, "release", 0.0, ""), False) for one in back])
                for one in back:
                    bound.out.pop(one, None)
                bound.not_before = time.monotonic() + LATER
                bound.maybe = True
                if bound.ended and not bound.out:
                    self.end(bound)
                return

    def _duties(self, now: float) -> list[Callable[[Store], object]]:
        """What must be done in the file by now."""
        duties: list[Callable[[Store], object]] = []
        moment = self.file.now()
        if self._due <= moment:
            duties.append(deliveries.wake)
            self._version = -1  # so that the next round asks when the next one is due
        if moment - self.renewed >= self.lease / 3:
            duties.append(lambda store: None)  # every round renews the lease
        if now - self._ticked >= TICK:
            self._ticked = now
            duties += [partial(owners.expire, owner=owner, ended=ended) for owner, ended in self._gone(moment, self.owner)]
        if now - self._swept >= (AGAIN if self._sweeps_on else TICK):
            self._swept = now
            duties.append(self._sweep)
        return duties

    def _sweep(self, store: Store) -> None:
        swept, gave = retention.sweep(store), connections.give_back(store.connection)
        self._sweeps_on = swept or gave
        if self.signs.most is not None:
            self.signs.used = retention.size(store)
        if self.signs.readers and (place := self.file.place) is not None:
            self.signs.readers = place.behind()

    def _gone(self, moment: float, but: int) -> list[tuple[Owner, bool]]:
        """Owners (except one) whose lease has ended, or whose process has; and whether the process has certainly ended."""
        others = self.file.query(lambda connection: owners.owners(connection, but))
        found = [(owner, boot.ended(owner.life, self.life)) for owner in others]
        return [(owner, ended) for owner, ended in found if ended or owner.until <= moment]

    def move(self, bound: Bound, sub: int) -> None:
        """A subscription has a new number."""
        self.bindings.move(bound, sub)
        self._around.warn("subscription.made_again", path=self.file.path, subscription=bound.binding.name)

    def lost_lease(self, owner: int) -> None:
        """Others took this process for dead, and it is another owner now."""
        self.owner = owner
        self._around.warn("lease.lost", path=self.file.path)

    def complain(self) -> None:
        """Log files that were swapped, and settlements that came too late or cannot be written."""
        while self.file.news:
            self._around.warn("sqlite.file_replaced", **self.file.news.popleft())
        stale = self.commits.stale
        if stale > self._reported:
            self._around.warn("delivery.settled_too_late", path=self.file.path, deliveries=stale - self._reported)
            self._reported = stale
        while self.commits.complaints:
            verdict, error = self.commits.complaints.popleft()
            self._around.warn("delivery.not_settled", path=self.file.path, verdict=verdict, error=error)

    def _after(self) -> None:
        """Move the log into the database, if it has grown long."""
        size = self.file.log
        if self.commits.pages >= PAGES or size > max(self._log, connections.LOG):
            behind = self.commits.checkpoint()
            self.signs.readers = behind if size > connections.LOG else set()
            if behind and size > max(self._complained, connections.LOG):
                self._complained = 2 * size
                self._around.warn("store.log_held", path=self.file.path, bytes=size, readers=sorted(behind))
            elif size <= connections.LOG:
                self._complained = 0
            self._log = size

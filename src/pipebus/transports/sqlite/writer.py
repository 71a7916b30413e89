"""
Group commit: many small jobs in one transaction, carried out by one of those who wait for theirs.

There is no thread that only writes. Whoever has a job puts it in line. If nobody leads at that moment, the one who came leads:
takes the whole line, writes it in one transaction, commits, and tells everyone. Who came meanwhile waits, and when the leader
is done, one of them leads next. So a single publisher pays for no change of threads, and sixty-four share one commit.

The main thread never leads while there is a keeper: Ctrl-C raises an error there, between any two steps, and a leader that is
torn away in the middle would leave everybody waiting. The keeper leads in its stead.

    state of the line           who comes                             who ends
    nobody leads, empty         with a wait: leads at once
                                without, or in the main thread: `ring`, for the keeper
    somebody leads              stands in line                        line empty: nobody leads
                                                                      someone waits: calls the first of them to lead
                                                                      none who may lead: `ring`

`_lock` guards the line and who leads, and is held for a few steps only. It is never held while SQL runs, so that joining the
line never waits for a disk. "Nobody leads" is written in the same hold in which the line was found empty: whoever joins later
finds that nobody leads, whoever joined before was seen. Jobs are told after the commit only.

A job that fails alone (a message that SQLite refuses) must not take the others with it: when a transaction fails, each of its
jobs is tried again in one of its own. If the commit itself fails, what was in it may have been kept, and may not: those who
wait are told `PublishUnknown`, settlements are tried again, for which the fencing token makes it safe.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pipebus.errors import BusClosed, PipebusError, PublishUnknown, TransportError
from pipebus.foreign.objects import text_of
from pipebus.transports.sqlite.files import WriteLock
from pipebus.transports.sqlite.place import _NotKept
from pipebus.transports.sqlite.schema import said
from pipebus.transports.sqlite.store import Outgoing, Settlement, Store
from pipebus.waiting.locks import free, interrupted

if TYPE_CHECKING:
    from pipebus.transports.sqlite.file import OpenFile

Task = Callable[[Store], Any]
BATCH: Final = 2000
"""Most jobs of one transaction."""


class Job:
    """
    One thing to write.

    Args:
        what: A message, a settlement, or a function of the store.
        sync: Its commit has to be on the disk before anybody is told.
    """

    __slots__ = ("called", "error", "gate", "leads", "left", "loop", "result", "sync", "thread", "what")

    def __init__(self, what: Outgoing | Settlement | Task | None, sync: bool) -> None:
        self.what = what
        self.sync = sync
        self.result: Any = None
        self.error: BaseException | None = None
        self.gate: threading.Lock | None = None  # opened when it is done, or `called`
        self.called = False  # to lead
        self.left = False  # nobody waits for it
        self.thread = 0  # whose it is
        self.leads = True  # if it waits, it may be called
        self.loop: tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]] | None = None


class Writer:
    """
    Args:
        file: What is open; asked before each transaction and after its commit whether its path still means the same.
        store: On the one connection that writes for this transport.
        power: Commits of jobs with `sync` reach the disk, not only the system.
        most: Bytes that the file may use; None: no limit.
        ring: Have the keeper look: there are jobs that nobody waits for.
        wrote: Called by the leader after each commit; the file's lock is held, so it must be quick and call no user's code.
        rested: Called by the last leader: nothing is in line, and nobody leads. No lock is held.
    """

    def __init__(
        self, file: OpenFile, store: Store, lock: WriteLock, power: bool, most: int | None, ring: Callable[[], None],
        wrote: Callable[[], None], rested: Callable[[], None],
    ) -> None:  # fmt: skip
        self.file = file
        self.store = store
        self.files = lock
        self.power = power
        self.most = most
        self.ring = ring
        self.wrote = wrote
        self.rested = rested
        self.stale = 0  # settlements that came too late
        self.pages = 0  # written since the last checkpoint, by a rough count
        self.rounds = 0  # transactions so far, whatever became of them
        self._line: deque[Job] = deque()
        self._leading = False
        self._leader = 0  # the thread that leads
        self._lock = file.locks.lend()
        self._full = True  # what `synchronous` is now
        self.complaints: deque[tuple[str, str]] = deque()  # settlements that cannot be written, and why; for the keeper
        self.kept = False  # there is a keeper
        self._closed = False
        self._unsynced = False  # something was committed without a sync
        self._ill = False  # a commit has failed: see `_heal`

    @property
    def path(self) -> str:
        return self.file.path

    def renew(self, store: Store) -> None:
        """The file was opened again; called with the lock held."""
        self.store = store
        self._full, self._unsynced, self._ill, self.pages = True, False, False, 0

    # --- coming with a job -------------------------------------------------------------------------------------------

    def call(self, what: Outgoing | Settlement | Task | None, sync: bool = True) -> Any:
        """
        Carry out a job, and all that stand in line with it; returns what it gives.

        Raises:
            TransportError: it was not done. PublishUnknown: it may have been. LifecycleError: a signal handler or a finaliser
            calls, and has interrupted the one who writes.
        """
        job = Job(what, sync)
        job.thread = threading.get_ident()
        job.leads = job.thread != threading.main_thread().ident or not self.kept
        ring = False
        with free(self._lock):
            self._check_open()
            # Who leads, or looks whether the file is still the same, cannot go on before we have ended, and we would wait.
            if (self._leading and self._leader == job.thread) or self.files.mine:
                raise interrupted()
            self._line.append(job)
            lead = job.leads and not self._leading
            if lead:
                self._leader, self._leading = job.thread, True
            else:
                job.gate = threading.Lock()
                job.gate.acquire()
                ring = not self._leading
        if ring:
            self.ring()
        if job.gate is not None:
            job.gate.acquire()
            lead = job.called
        if lead:
            self._lead(job)
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None  # no cycle
        return job.result

    def acall(self, what: Outgoing) -> asyncio.Future[Any]:
        """`call` on an event loop, for a message: the keeper, or whoever leads, does it."""
        job = Job(what, True)
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        job.loop = (loop, future)
        with self._lock:
            self._check_open()
            self._line.append(job)
            ring = not self._leading
        if ring:
            self.ring()
        return future

    def leave(self, jobs: Sequence[Job], ring: bool = True) -> None:
        """
        Put jobs in line that nobody waits for here; without `ring`, for whoever leads next.

        Code that has interrupted the holder of the lock may do this too, for the line only grows. As the holder may have found
        it empty already, the keeper looks again.
        """
        for job in jobs:
            job.left = True
        interrupts = self._lock._is_owned()
        with self._lock:
            self._check_open()
            self._line.extend(jobs)
            ring = interrupts or (ring and not self._leading)
        if ring:
            self.ring()

    def close(self) -> None:
        """Take no more jobs; those that are still in line are told."""
        with self._lock:
            self._closed = True
            left = list(self._line)
            self._line.clear()
        for job in left:
            job.error = BusClosed(f"{self.path} was closed before it was written")
        self._tell(left)

    def _check_open(self) -> None:
        if self._closed:
            raise BusClosed(f"the bus is stopped: {self.path} takes no more")

    @property
    def idle(self) -> bool:
        """Nothing is in line, and nothing is being written."""
        with self._lock:
            return not self._line and not self._leading

    # --- leading -----------------------------------------------------------------------------------------------------

    def _lead(self, own: Job) -> None:
        """One transaction, then hand the lead on. The leader's own job is in it, however long the line is."""
        batch: list[Job] = []
        with self._lock:
            while self._line and len(batch) < BATCH:
                batch.append(self._line.popleft())
            if own in self._line:
                self._line.remove(own)
                batch.append(own)
        try:
            again = self._write(batch)
        except BaseException as error:  # an interrupt, in the thread of a user
            self._hand_on(batch, self._unknown(batch, error))
            raise
        self._hand_on(batch, again)

    def _hand_on(self, batch: list[Job], again: list[Job]) -> None:
        with self._lock:
            self.rounds += 1
            self._line.extendleft(reversed(again))
            successor = next((job for job in self._line if job.gate is not None and job.leads), None)
            if successor is None:
                self._leading = False
                rested = not self._line
                ring = not rested and not again  # else the keeper looks again by itself, after a pause
            else:
                ring = rested = False
                self._leader = successor.thread
                successor.called = True
                assert successor.gate is not None
                gate, successor.gate = successor.gate, None
                gate.release()
        if ring:
            self.ring()
        self._tell([job for job in batch if job not in again] if again else batch)
        if rested:
            self.rested()

    @staticmethod
    def _tell(batch: list[Job]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in batch:
            if job.gate is not None:
                job.gate.release()
            elif job.loop is not None:
                loops.setdefault(job.loop[0], []).append(job)
        for loop, jobs in loops.items():
            with suppress(RuntimeError):  # it is closed: nobody waits there
                loop.call_soon_threadsafe(_resolve, jobs)

    # --- writing -----------------------------------------------------------------------------------------------------

    def _write(self, batch: list[Job]) -> list[Job]:
        """Carry out jobs; those that have to be tried again."""
        try:
            with self.files.held():
                try:
                    return self._attempt(batch)
                except Exception as error:
                    if len(batch) == 1:
                        return self._failed(batch[0], error)
                again: list[Job] = []
                for job in batch:
                    try:
                        again += self._attempt([job])
                    except Exception as error:
                        again += self._failed(job, error)
                return again
        except (PipebusError, OSError) as error:  # the lock
            return [job for one in batch for job in self._failed(one, error)]

    def _attempt(self, batch: list[Job]) -> list[Job]:
        """
        One transaction; the jobs that have to be tried again.

        Raises:
            Exception: one of them failed, and nothing was done.
        """
        try:
            self.file.ensure(whole=False)
        except TransportError as error:
            self._owe(batch)
            return [job for one in batch for job in self._failed(one, error)]
        try:
            self._transact(batch)
        except _CommitFailed as failure:
            self._owe(batch)
            return self._unknown(batch, failure.error)
        except _NotKept as error:
            self._owe(batch)
            return [job for one in batch for job in self._failed(one, TransportError(str(error)))]
        return []

    def _owe(self, batch: list[Job]) -> None:
        """Some publish hears of a swapped file; so the next one need not."""
        if any(isinstance(job.what, Outgoing) for job in batch):
            self.file.owed = None

    def _transact(self, batch: list[Job]) -> None:
        store, execute = self.store, self.store.execute
        full = self.power and any(job.sync for job in batch)
        if self._ill:
            self._heal(full)
        if full is not self._full:
            execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            self._full = full
        store.touched.clear()
        stale = written = 0
        try:
            execute("BEGIN IMMEDIATE")
            settlements = [job.what for job in batch if isinstance(job.what, Settlement) and not self._refused(job.what)]
            if settlements:
                stale = store.settle(settlements)
            outgoing: list[Job] = []
            for job in batch:
                if isinstance(job.what, Outgoing):
                    outgoing.append(job)
                elif job.what is None:
                    if full and self._unsynced:  # a flush: without a write there would be nothing to sync
                        execute("UPDATE meta SET value = value WHERE name = 'seq'")
                elif not isinstance(job.what, Settlement):
                    job.result = job.what(store)
            if outgoing and self.file.owed is not None:
                for job in outgoing:
                    job.error = TransportError(f"{self.file.owed}. This message was not kept: publish it again")
            elif outgoing and self.most is not None and (why := self._no_room(store, self.most)) is not None:
                for job in outgoing:
                    job.error = TransportError(why)
            elif outgoing:
                whats: list[Outgoing] = [job.what for job in outgoing]  # type: ignore[misc]
                for job, receipt in zip(outgoing, store.publish(whats), strict=True):
                    job.result = receipt
                written = sum(len(what.data) for what in whats)
        except BaseException:
            self._roll_back()
            raise
        try:
            execute("COMMIT")
        except BaseException as error:
            if store.connection.in_transaction or isinstance(error, sqlite3.Error):
                self._ill = True
                self._roll_back()
                raise _CommitFailed(error) from error
            raise
        try:
            self.file.kept()
        except _NotKept:
            raise
        except TransportError as error:
            raise _CommitFailed(error) from error
        if outgoing:
            self.file.owed = None
        self._unsynced = not full
        self.stale += stale  # the keeper tells: a log's handler may publish, and we lead
        self.pages += 6 + len(batch) // 4 + written // 4000
        self.wrote()

    def _refused(self, settlement: Settlement) -> bool:
        """It is of a file that is not open any more: its numbers mean other messages here, or none."""
        claim = settlement.claim
        if claim.generation == self.file.generation:
            return False
        if claim.refused is None:
            claim.refused = f"{self.path} was swapped while this message was handled; in the file of now it is not known"
            self.complaints.append((settlement.verdict, claim.refused))
        return True

    def _no_room(self, store: Store, most: int) -> str | None:
        """Why nothing more can be kept, after what nobody waits for has gone; or None."""
        if store.size() <= most:
            return None
        store.sweep(keep=store.window, most=100_000, anew=True)
        size = store.size()
        if size <= most:
            return None
        return (
            f"{self.path} is full: {size:,} bytes are in use, and max_bytes is {most:,}; what waits in it is never deleted, so "
            "let its subscriptions work, remove one that nobody serves, or raise max_bytes"
        )

    def _roll_back(self) -> None:
        self.store.directory.version = None  # it may have read what is now undone
        if self.store.connection.in_transaction:
            with suppress(sqlite3.Error):  # whatever broke the transaction may break this; BEGIN will say so
                self.store.execute("ROLLBACK")

    def _heal(self, promised: bool) -> None:
        """
        A sync that failed may have lost what earlier, unsynced commits had written: the log might end there after a power
        cut. So before anything is promised again, all of the log goes into the database, and it begins anew.

        Raises:
            TransportError: it cannot, and something is to be promised.
        """
        execute = self.store.execute
        [wait] = execute("PRAGMA busy_timeout").fetchone()
        execute("PRAGMA busy_timeout = 0")  # a reader may stay for hours
        try:
            [busy, _, _] = execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
        finally:
            execute(f"PRAGMA busy_timeout = {wait}")
        self._ill = bool(busy)
        if busy and promised:
            raise TransportError(
                f"{self.path}: a sync has failed, and the log cannot begin anew while another program reads the file; end its "
                "reading transaction"
            )

    def doubt(self) -> None:
        """A sync has failed elsewhere."""
        self._ill = True

    def checkpoint(self) -> None:
        """Move the log into the database; called by the keeper, who does not lead."""
        with self.files.held():
            self.file.ensure()
            try:
                self.store.execute("PRAGMA wal_checkpoint(PASSIVE)")
            except sqlite3.Error:
                self._ill = True  # it is tried again, before anything else is written
            self.pages = 0

    # --- failing -----------------------------------------------------------------------------------------------------

    def _failed(self, job: Job, error: Exception) -> list[Job]:
        """It was not done; a settlement is tried again, if the file may be to blame."""
        if isinstance(job.what, Settlement):
            if self._refused(job.what):
                return []
            if not isinstance(error, (sqlite3.DatabaseError, PipebusError, OSError)):
                self.complaints.append((job.what.verdict, text_of(error)))
                if job.what.verdict == "return":
                    return []
                job.what = job.what._replace(verdict="return", delay=0.0, why="")
            return [job]
        if job.left and isinstance(error, (sqlite3.OperationalError, PipebusError, OSError)):
            return [job]
        job.error = error if isinstance(error, PipebusError) else TransportError(f"{self.path}: {said(error)}")
        return []

    def _unknown(self, batch: list[Job], error: BaseException) -> list[Job]:
        again = []
        for job in batch:
            if isinstance(job.what, Settlement):
                again.append(job)
            elif isinstance(job.what, Outgoing):
                why = f"{self.path}: {said(error) or type(error).__name__}"
                text = f"{why}; message {job.what.id} may or may not be kept: publish it again with its id"
                job.error = PublishUnknown(text, job.what.id)
            else:
                job.error = TransportError(f"{self.path}: {said(error)}")
        return again


class _CommitFailed(Exception):
    def __init__(self, error: BaseException) -> None:
        self.error = error


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        assert job.loop is not None
        future = job.loop[1]
        if future.done():  # cancelled
            continue
        if job.error is not None:
            future.set_exception(job.error)
        else:
            future.set_result(job.result)

"""
One batch of jobs, as one transaction; and what becomes of the jobs if it fails.

A job that fails alone (a message that SQLite refuses) must not harm the others: when a transaction fails, each of its jobs is
tried again in a transaction of its own. If the commit itself fails, nobody knows whether its contents were stored: publishes
raise `PublishUnknown`, and settlements are tried again, which the fencing token makes safe.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

from pipebus.errors import PipebusError, PublishUnknown, TransportError
from pipebus.foreign.objects import text_of
from pipebus.transports.sql import deliveries, publishing, retention
from pipebus.transports.sql import statements as sql
from pipebus.transports.sql.records import Outgoing, Settlement
from pipebus.transports.sql.store import Store
from pipebus.transports.sqlite import connections, schema
from pipebus.transports.sqlite.connections import LOG
from pipebus.transports.sqlite.lock import WriteLock
from pipebus.transports.sqlite.place import _NotKept
from pipebus.transports.sqlite.remedies import said

if TYPE_CHECKING:
    from pipebus.transports.sqlite.file import OpenFile

Task = Callable[[Store], Any]

PATIENCE: Final = 1.0
"""Seconds that a checkpoint waits for the application to end its transaction."""


class Job:
    """
    One thing to write.

    Args:
        what: A message, a settlement or a function of the store; None: nothing, but what was written before must be durable.
        sync: Its commit must be on the disk before anybody hears of it.
    """

    __slots__ = ("called", "error", "gate", "leads", "left", "loop", "result", "sync", "thread", "what")

    def __init__(self, what: Outgoing | Settlement | Task | None, sync: bool) -> None:
        self.what = what
        self.sync = sync
        self.result: Any = None
        self.error: BaseException | None = None
        self.gate: threading.Lock | None = None  # released when the job is done, or when its thread must lead
        self.called = False  # its thread must lead
        self.left = False  # nobody waits for it
        self.thread = 0  # the thread that waits for it
        self.leads = True  # that thread may be called to lead
        self.loop: tuple[asyncio.AbstractEventLoop, asyncio.Future[Any]] | None = None


class Commits:
    """
    Args:
        file: Asked before each transaction, and after its commit, whether its path still means the same file.
        store: On the one connection that writes for this transport.
        wrote: Called after each commit. The lock is held, so it must be quick and call no code of the user's.
    """

    def __init__(self, file: OpenFile, store: Store, lock: WriteLock, wrote: Callable[[], None]) -> None:
        self.file = file
        self.lock = lock
        self.stale = 0  # settlements that came too late
        self.complaints: deque[tuple[str, str]] = deque()  # settlements that cannot be written, and why, for the keeper to log
        self._power = file.options.durability == "power"
        self._most = file.options.max_bytes
        self._wrote = wrote
        self.renew(store)

    def renew(self, store: Store) -> None:
        """The file was opened. Called with the lock held, or before anybody else can."""
        self.store = store
        self.pages = 0  # written since the last checkpoint, by a rough count
        self._full = True  # the present value of `synchronous`
        self._unsynced = False  # something was committed without a sync
        self._ill = False  # a commit has failed: see `_heal`
        store.execute(f"PRAGMA busy_timeout = {connections.POLL}")  # see connections.begin

    def doubt(self) -> None:
        """A sync has failed on another connection."""
        self._ill = True

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, batch: list[Job]) -> list[Job]:
        """Carry out jobs. Returns those that must be tried again."""
        try:
            with self.lock.held():
                try:
                    return self._attempt(batch)
                except Exception as error:
                    busy = isinstance(error, sqlite3.Error) and connections.is_busy(error)
                    if len(batch) == 1 or busy:  # one by one, each of them would wait for as long
                        return self._failed(batch, error)
                again: list[Job] = []
                for job in batch:
                    try:
                        again += self._attempt([job])
                    except Exception as error:
                        again += self._failed([job], error)
                return again
        except (PipebusError, OSError) as error:  # the lock could not be had
            return self._failed(batch, error)

    def _attempt(self, batch: list[Job]) -> list[Job]:
        """
        One transaction. Returns the jobs that must be tried again.

        Raises:
            Exception: one of them failed, and nothing was done.
        """
        try:
            self.file.ensure(whole=False)
        except TransportError as error:
            self._heard(batch)
            return self._failed(batch, error)
        try:
            self._transact(batch)
        except _CommitFailed as failure:
            self._heard(batch)
            return self.unknown(batch, failure.error)
        except _NotKept as error:
            self._heard(batch)
            return self._failed(batch, TransportError(str(error)))
        return []

    def _heard(self, batch: list[Job]) -> None:
        """If a publish now hears that the file was swapped, the next publish need not."""
        if any(isinstance(job.what, Outgoing) for job in batch):
            self.file.owed = None

    def _transact(self, batch: list[Job]) -> None:
        store, execute = self.store, self.store.execute
        full = self._power and any(job.sync for job in batch)
        if self._ill:
            self._heal(full)
        if full is not self._full:
            execute(f"PRAGMA synchronous = {'FULL' if full else 'NORMAL'}")
            self._full = full
        store.touched.clear()
        stale = written = 0
        try:
            connections.begin(store.connection, self.lock.wait)
            settlements = [job.what for job in batch if isinstance(job.what, Settlement) and not self._refused(job.what)]
            if settlements:
                stale = deliveries.settle(store, settlements)
            outgoing: list[Job] = []
            for job in batch:
                if isinstance(job.what, Outgoing):
                    outgoing.append(job)
                elif job.what is None:
                    if full and self._unsynced:  # a flush: without a write there would be nothing to sync
                        execute(sql.ADD_META, (0, "swept"))
                elif not isinstance(job.what, Settlement):
                    job.result = job.what(store)
            if outgoing:
                written = self._publish(outgoing)
        except BaseException:
            store.roll_back()
            raise
        try:
            execute("COMMIT")
        except BaseException as error:
            if store.connection.in_transaction or isinstance(error, sqlite3.Error):
                self._ill = True
                store.roll_back()
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
        self.stale += stale  # the keeper logs it: a log's handler may publish, and this thread leads
        self.pages += 6 + len(batch) // 4 + written // 4000
        self._wrote()

    def _publish(self, jobs: list[Job]) -> int:
        """Store messages, or refuse all of them. Returns how many bytes were written."""
        why = None
        if self.file.owed is not None:
            why = f"{self.file.owed}. This message was not kept: publish it again"
        elif self._most is not None:
            why = self._no_room(self._most)
        if why is not None:
            for job in jobs:
                job.error = TransportError(why)
            return 0
        outgoing: list[Outgoing] = [job.what for job in jobs]  # type: ignore[misc]
        for job, receipt in zip(jobs, publishing.publish(self.store, outgoing), strict=True):
            job.result = receipt
        return sum(len(one.data) for one in outgoing)

    def _refused(self, settlement: Settlement) -> bool:
        """The claim is of another file than the one that is open now."""
        claim, why = settlement.claim, self.file.disowns(settlement.claim)
        if why is None:
            return False
        if claim.refused is None:
            claim.refused = why
            self.complaints.append((settlement.verdict, why))
        return True

    def _no_room(self, most: int) -> str | None:
        """Why nothing more can be stored, even when what nobody waits for is deleted; or None."""
        store = self.store
        log = self.file.log
        if log > max(most, LOG) and (place := self.file.place) is not None and (behind := place.behind()):
            return (
                f"{self.file.path} is full: its log has {log:,} bytes, and max_bytes is {most:,}; process "
                f"{', '.join(map(str, sorted(behind)))} reads an old state of it, so end its reading transaction"
            )
        if retention.size(store) <= most:
            return None
        retention.sweep(store, keep=store.window, most=100_000)
        size = retention.size(store)
        if size <= most:
            return None
        return (
            f"{self.file.path} is full: {size:,} bytes are in use, and max_bytes is {most:,}; what waits in it is never "
            f"deleted, and all else is kept for {store.window:g} s (window), so let its subscriptions work, remove one that "
            "nobody serves, or raise max_bytes"
        )

    # --- failing -----------------------------------------------------------------------------------------------------

    def _failed(self, batch: list[Job], error: Exception) -> list[Job]:
        """The jobs were not done. Returns those that must be tried again: settlements, if the file may be to blame."""
        return [job for job in batch if self._tried_again(job, error)]

    def _tried_again(self, job: Job, error: Exception) -> bool:
        if isinstance(job.what, Settlement):
            if self._refused(job.what):
                return False
            if not isinstance(error, (sqlite3.DatabaseError, PipebusError, OSError)):
                self.complaints.append((job.what.verdict, text_of(error)))
                if job.what.verdict == "return":
                    return False
                job.what = job.what._replace(verdict="return", delay=0.0, why="")
            return True
        if job.left and isinstance(error, (sqlite3.OperationalError, PipebusError, OSError)):
            return True
        job.error = error if isinstance(error, PipebusError) else TransportError(f"{self.file.path}: {said(error)}")
        return False

    def unknown(self, batch: list[Job], error: BaseException) -> list[Job]:
        """The jobs may have been done, and may not. Returns those that must be tried again."""
        again = []
        for job in batch:
            if isinstance(job.what, Settlement):
                again.append(job)
            elif isinstance(job.what, Outgoing):
                why = f"{self.file.path}: {said(error) or type(error).__name__}"
                text = f"{why}; message {job.what.id} may or may not be kept: publish it again with its id"
                job.error = PublishUnknown(text, job.what.id)
            else:
                job.error = TransportError(f"{self.file.path}: {said(error)}")
        return again

    # --- the log -----------------------------------------------------------------------------------------------------

    def _heal(self, promised: bool) -> None:
        """
        A sync that failed may have lost what earlier, unsynced commits had written: after a power cut the log might end there.
        So before anything is promised again, the whole log is moved into the database, and starts over.

        Raises:
            TransportError: that is impossible now, and something is to be promised.
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
                f"{self.file.path}: a sync has failed, and the log cannot start over while another program reads the file; end "
                "its reading transaction"
            )

    def checkpoint(self) -> set[int]:
        """
        Move the log into the database, unless the application writes all the time. Returns the processes that prevent part of
        that, since they read an old state. Called by the keeper while it does not lead.
        """
        with self.lock.held():
            self.file.ensure()
            self.pages = 0
            try:
                with self._alone():
                    [_, frames, moved] = self.store.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except sqlite3.Error as error:
                if connections.is_busy(error):
                    return set()
                self._ill = True  # it is tried again before anything else is written
                return set()
            place = self.file.place
            return place.behind() if place is not None and moved < frames else set()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep the application from writing, where SQLite has the WAL-reset bug: it does not take our lock. See outbox.py."""
        if sqlite3.sqlite_version_info >= schema.FIXED:
            yield
            return
        with closing(connections.connect(self.file.path, connections.POLL / 1000)) as other:
            connections.begin(other, PATIENCE)
            yield


class _CommitFailed(Exception):
    def __init__(self, error: BaseException) -> None:
        self.error = error

"""
One file, open: the connection that writes, the one that reads, the lock for writers and the file's time.

It is opened by the first who needs it and closed by the last: a bus that has started, and now and then a tool that looks at
dead letters.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar

from pipebus.errors import LifecycleError, PipebusError, TransportError
from pipebus.transports.sqlite import boot, schema, transaction
from pipebus.transports.sqlite.files import WriteLock
from pipebus.transports.sqlite.options import Options
from pipebus.transports.sqlite.place import Change, Place, _NotKept, clear, identity, stat
from pipebus.transports.sqlite.store import Directory, Store
from pipebus.transports.sqlite.writer import Task, Writer
from pipebus.waiting.locks import Locks, free

T = TypeVar("T")


class OpenFile:
    """
    Args:
        options: What the URL says.
        letters: Most dead letters to keep; asked when the file is opened.
        ring, wrote, rested: See `Writer`; they are called while a bus has started.
    """

    lock: WriteLock
    writer: Writer

    def __init__(
        self, options: Options, letters: Callable[[], int], ring: Callable[[], None], wrote: Callable[[], None],
        rested: Callable[[], None],
    ) -> None:  # fmt: skip
        self.options = options
        self.path = options.path
        self.generation = 0  # of the file's contents: what was claimed in another one cannot be settled in this one
        self.news: deque[dict[str, Any]] = deque()  # of files that were swapped, for the keeper to log
        self.owed: str | None = None  # what the next publish has to hear: messages are gone with the file before
        self.moved_in: Callable[[Store], None] | None = None  # called when another file is open than before
        self._named = options.named or options.path
        self._letters = letters
        self._calls = (ring, wrote, rested)
        self.locks = Locks()
        self._opening = self.locks.new()
        self._read_lock = self.locks.new()
        self._directory = Directory()
        self._users = 0
        self._pid = 0
        self._open = False
        self._place: Place | None = None  # None: it is closed, or was closed because it was swapped
        self._reading: sqlite3.Connection | None = None
        self._left: tuple[Place, Change] | None = None  # what was closed, and why, until it is open again
        self._same = True  # what is opened next has everything that was kept
        self._why = ""

    # --- opening and closing -----------------------------------------------------------------------------------------

    def use(self) -> None:
        """
        Open the file, if nobody has yet; to be followed by `leave`.

        Raises:
            TransportError: it cannot be used; the text says why, and it was not changed. LifecycleError: after a fork.
        """
        self._check_process()
        with free(self._opening):
            self._pid = os.getpid()
            self._users += 1
            if self._users > 1:
                return
            try:
                self._start()
            except BaseException:
                self._users -= 1
                raise

    def _start(self) -> None:
        boot.boot_id()  # refuse where there is none, before anything is made
        self.path = os.path.realpath(self._named)
        self._look()
        lock = WriteLock(self.path, self.options.wait)
        try:
            lock.open()
        except OSError as error:
            raise TransportError(
                f"{self.path}-lock cannot be opened: {error.strerror}; {schema.REMEDIES['unable to open']}"
            ) from None
        try:
            with lock.held():
                store = self._connect()
        except BaseException:
            lock.close()
            raise
        self.lock = lock
        self.writer = Writer(self, store, lock, self.options.durability == "power", self.options.max_bytes, *self._calls)
        self._open = True

    def _connect(self) -> Store:
        """
        Open what the path leads to; called with the lock held.

        Raises:
            TransportError: it cannot be used.
        """
        path, wait = self.path, self.options.wait
        opened: list[sqlite3.Connection] = []
        try:
            clear(path)
            schema.look_at(path, wait)
            database = schema.make(path)
            opened.append(schema.open_file(path, wait))
            store = self._store(opened[0])
            base = self._catch_up(store, boot.boot_id())
            opened.append(schema.connect(path, wait))
            opened[1].execute("PRAGMA query_only = ON")
            opened[1].execute("SELECT count(*) FROM sqlite_schema").fetchone()  # so that it has the log open
            place = Place(self._named, path, database)
        except BaseException as error:
            for connection in reversed(opened):
                connection.close()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise TransportError(f"{path} cannot be opened: {schema.said(error)}") from error
            raise
        self._base = base
        self._directory.version = None  # another file may have the same one
        with self._read_lock:
            self._place, self._reading = place, opened[1]
        return store

    def _check_process(self) -> None:
        """Before any lock: the parent may have held it at the moment of the fork, and nobody here will release it."""
        if self._users and os.getpid() != self._pid:
            raise LifecycleError("this file was opened before a fork, in the parent; make a bus in the child")

    def _look(self) -> None:
        """Refuse another program's file before a trace of us is left beside it. With a lock file nobody can say yet."""
        if not os.path.exists(f"{self.path}-lock"):
            schema.look_at(self.path, self.options.wait)

    def _store(self, connection: sqlite3.Connection) -> Store:
        options = self.options
        return Store(connection, self._directory, self.now, options.window, options.retention, self._letters(), self.generation)

    def _catch_up(self, store: Store, boot_now: str) -> float:
        """
        What to add to the clock since boot, so that the file's time goes on. After a new boot that is the time that passed by
        the calendar, and not less than none; everybody from before has ended.
        """
        base = store.meta("base")
        if base is not None and store.meta("boot") == boot_now:
            return float(base)
        store.execute("BEGIN IMMEDIATE")
        try:
            last = store.execute("SELECT stored FROM message ORDER BY seq DESC LIMIT 1").fetchone()
            base = max(time.time(), last[0] if last is not None else 0.0) - boot.since_boot()
            store.set_meta("boot", boot_now)
            store.set_meta("base", base)
            for owner in store.owners():
                store.leave(owner.owner, counts=True)
            store.execute("COMMIT")
        except BaseException:
            if store.connection.in_transaction:  # a failing disk has ended it already
                with suppress(sqlite3.Error):
                    store.execute("ROLLBACK")
            raise
        return float(base)

    def leave(self) -> None:
        """Close the file, if nobody else uses it."""
        with self._opening:
            self._users -= 1
            if self._users:
                return
            self.writer.close()
            self._open = False
            with suppress(PipebusError), self.lock.held():  # the last to close moves the log into the database
                if self._place is not None:
                    with self._seen():
                        change = self._place.changed()
                    self._close(change, last=True)
            self._close(None)  # without the lock: whoever has it has the file open too, so this is not the last
            self._forget()
            self.lock.close()

    # --- what the path means -----------------------------------------------------------------------------------------

    def steady(self) -> bool:
        """The path still means what is open here; asked without the lock, so "no" means: look again, with it."""
        place = self._place
        try:
            return place is not None and place.changed() is None and not self.lock.swapped()
        except OSError:
            return False

    def ensure(self, make: bool = True, whole: bool = True) -> bool:
        """
        With the lock held, before anything is written: have open what the path means.

        Args:
            make: If that is nothing, make a new file.
            whole: False: `kept` is asked after the commit, so look only for what could not be mended then.

        Returns:
            False: there is nothing, and nothing was made.

        Raises:
            TransportError: what it means now cannot be used.
        """
        place = self._place
        if place is not None:
            with self._seen():
                if not whole and place.may_write():
                    return True
                change = place.changed()
            if change is None:
                self.lock.follow(self.path)
                return True
            self._close(change)
        return self._reopen(make)

    def kept(self) -> None:
        """
        With the lock held, after a commit: return only if it is in the file that the path means.

        Raises:
            _NotKept: it is not. TransportError: that cannot be told.
        """
        place = self._place
        if place is None:
            return
        with self._seen():
            change = place.changed(index=False)  # without it the log has all, and whoever opens that finds it
        if change is None:
            return
        self._close(change)
        if change.what == "log":
            if not self._same:
                raise TransportError(self._why)
        else:
            raise _NotKept(self._why)

    def refresh(self) -> bool:
        """
        Have open what the path means, if it means anything; nothing is made. For those who only read.

        Raises:
            TransportError: what it means cannot be used.
        """
        if self.steady():
            return True
        with self.lock.held():
            return self.ensure(make=False)

    @contextmanager
    def _seen(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TransportError(
                f"{self.path} cannot be found any more: {error.strerror}; give this user the right to look into its folder"
            ) from error

    def _close(self, change: Change | None, last: bool = False) -> None:
        """
        Close all connections; called with the lock held, or when nothing may be moved or removed.

        Our own lock on the file stays until they are closed. So none of them moves the log into the database, or removes it:
        what has the log's name now may be somebody else's.

        Args:
            change: Why; None: nothing has happened.
            last: They may move the log, as the last of all processes.
        """
        place = self._place
        if place is None:
            return
        with self._read_lock:
            reading, self._reading = self._reading, None
        if reading is not None:
            reading.close()
        connection = self.writer.store.connection
        if change is not None:
            self._part(place, change, connection)
        elif last:
            place.unlock()
        connection.close()
        self._place = None
        place.unlock()
        if change is None:
            place.let_go()
        else:
            self._left = (place, change)

    def _part(self, place: Place, change: Change, connection: sqlite3.Connection) -> None:
        """Save what can be saved from a log that has lost its name, or its database; and say what has happened."""
        self._same = False
        fate = "what was not yet handled is gone with it"
        match change.what:
            case "index":
                self._same, fate = True, "nothing is lost"
            case "log":
                # If others have written since, then their pages are newer than ours, and ours must not overwrite them.
                saved = place.written or (place.log_is_free and place.unharmed() and self._checkpoint(connection, True))
                self._same = saved
                fate = "nothing is lost" if saved else "others have written since, so what was only in that log is lost"
            case "file" if place.there:  # a link leads elsewhere: the file goes on without us
                place.unlock()
                fate = "what it held is in the file that it meant before"
            case "file":
                if place.moved and place.unharmed() and self._checkpoint(connection, False):
                    fate = "what it held is in the file that was renamed"
            case "content":
                fate = "nothing more is kept in it: stop what uses it, run `pipebus doctor`, and restore it from a backup"
        with suppress(OSError):  # then it is tried again, before another file is opened
            self._tidy(place, change)
        self._why = f"{self.path} {change.text}: {fate}"
        if not self._same:
            self.generation += 1
            self.owed = self._why
        self.news.append({"path": self.path, "what": change.what, "lost": not self._same, "text": self._why})
        self._calls[0]()

    def _checkpoint(self, connection: sqlite3.Connection, patient: bool) -> bool:
        """Move all of the log into the database; False: it did not work."""
        wait = self.options.wait if patient else min(self.options.wait, 1.0)
        try:
            connection.execute(f"PRAGMA busy_timeout = {int(wait * 1000)}")
            [busy, frames, done] = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        except sqlite3.Error:
            return False
        return not busy and frames == done

    @staticmethod
    def _tidy(place: Place, change: Change) -> None:
        """Remove what another database, or this one without its log, would take for its own log and index."""
        gone = not place.there
        if gone or change.what == "log":
            place.remove(log=gone)

    def _reopen(self, make: bool) -> bool:
        found = stat(self._named)
        if found is None and not make:
            return False
        assert self._left is not None
        place, change = self._left
        if change.what == "content" and found is not None and identity(found) == place.ids[0]:
            raise TransportError(self._why)
        try:
            if change.what in ("log", "index") and place.lingers():
                raise TransportError("another connection of this program has its old files open; close it")
            path = os.path.realpath(self._named)
            self.lock.follow(path)
            self.path = path
            self._tidy(place, change)
            store = self._connect()
        except (PipebusError, OSError) as error:
            raise TransportError(
                f"{self._why}. It cannot be opened again: {error}. Publishing goes on when it can; `pipebus doctor` says more"
            ) from error
        self.writer.renew(store)
        if not self._same and self.moved_in is not None:
            try:
                self.moved_in(store)
            except BaseException:
                self._close(None)
                raise
        self._forget()
        return True

    def _forget(self) -> None:
        """Nothing of what was open before matters any more."""
        left, self._left, self._same = self._left, None, True
        if left is not None:
            left[0].let_go()

    # --- reading and writing -----------------------------------------------------------------------------------------

    def now(self) -> float:
        """The file's time, in seconds: about the calendar's, but it never jumps."""
        return boot.since_boot() + self._base

    def call(self, task: Task | None, sync: bool = True) -> Any:
        """
        `Writer.call`, for whoever is not in a transaction of its own.

        Raises:
            LifecycleError: in a handler that has one open, and would wait for itself.
        """
        if transaction.current(self) is not None:
            raise LifecycleError("this would wait for the transaction that this handler has open; do it before or after that")
        return self.writer.call(task, sync)

    def write(self, task: Callable[[Store], T]) -> T:
        """Run a function of the store in a transaction (this handler's, if it has one open); also while the bus is stopped."""
        store = transaction.current(self)
        if store is not None:
            return task(store)
        self.use()
        try:
            found: T = self.writer.call(task)
            return found
        finally:
            self.leave()

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function of a connection that only reads; also while the bus is stopped, and then without any lock."""
        self._check_process()
        if self._open and transaction.current(self) is None:
            self.refresh()
        return self._query(query)

    def _query(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with free(self._read_lock):
                if self._reading is not None:
                    return query(self._reading)
                if self._open:
                    raise TransportError(self._why)
            self._look()
            with closing(schema.connect(self.path, self.options.wait, "ro")) as connection:
                return query(connection)
        except sqlite3.Error as error:
            raise TransportError(f"{self.path}: {schema.said(error)}") from error

    def rows(self, query: str, *values: Any) -> list[Any]:
        """`read` of one query, without a look whether the path still means this file."""
        found: list[Any] = self._query(lambda connection: connection.execute(query, values).fetchall())
        return found

    def peek(self, sub: int) -> int:
        """1 if something may be ready for a subscription."""
        return len(self.rows("SELECT 1 FROM ready WHERE sub = ? LIMIT 1", sub)) if self._place is not None else 0

    def another(self) -> Store:
        """The store, on a connection of its own."""
        return self._store(schema.prepare(schema.connect(self.path, self.options.wait)))

    @property
    def log(self) -> int:
        """Bytes of the log file."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0

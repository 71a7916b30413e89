"""
One file, open: the connection that writes, the one that reads, the lock for writers and the file's time.

Its first user opens it and the last one closes it: a bus that has started, or a tool that looks at dead letters.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar

from pipebus.errors import LifecycleError, PipebusError, TransportError
from pipebus.transports.sql import deliveries
from pipebus.transports.sql.records import Claim
from pipebus.transports.sql.store import Directory, Store
from pipebus.transports.sqlite import boot, connections, glance, salvage, transaction
from pipebus.transports.sqlite.commits import Commits, Task
from pipebus.transports.sqlite.descriptors import identity, stat
from pipebus.transports.sqlite.lock import WriteLock
from pipebus.transports.sqlite.options import Options
from pipebus.transports.sqlite.place import Change, Place, _NotKept, clear
from pipebus.transports.sqlite.remedies import REMEDIES, said
from pipebus.transports.sqlite.writer import Writer
from pipebus.waiting.locks import Locks, free

T = TypeVar("T")


class OpenFile:
    """
    It has many methods, since opening, checking and closing change the same state.

    Args:
        options: What the URL says.
        letters: Returns how many dead letters to keep; called when the file is opened.
        ring, wrote, rested: See `Writer` and `Commits`.
    """

    lock: WriteLock
    commits: Commits
    writer: Writer

    def __init__(
        self, options: Options, letters: Callable[[], int], ring: Callable[[], None], wrote: Callable[[], None],
        rested: Callable[[], None],
    ) -> None:  # fmt: skip
        self.options = options
        self.path = options.path
        self.generation = 0  # a claim of one generation of the file's contents cannot be settled in another one
        self.news: deque[dict[str, Any]] = deque()  # of files that were swapped, for the keeper to log
        self.owed: str | None = None  # what the next publish must hear: messages are gone with the previous file
        self.moved_in: Callable[[Store], None] | None = None  # called when another file is opened than before
        self.locks = Locks()
        self._named = options.named or options.path
        self._letters = letters
        self._ring, self._wrote, self._rested = ring, wrote, rested
        self._opening = self.locks.new()
        self._read_lock = self.locks.new()
        self._directory = Directory()
        self._users = 0
        self._pid = 0
        self._open = False
        self._place: Place | None = None  # None: it is closed, or was closed because it was swapped
        self._reading: sqlite3.Connection | None = None
        self._left: tuple[Place, Change] | None = None  # what was closed, and why, until a file is open again
        self._same = True  # the file that is opened next has everything that was kept
        self._why = ""

    # --- opening and closing -----------------------------------------------------------------------------------------

    def use(self) -> None:
        """
        Open the file, if nobody has yet. Must be followed by `leave`.

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
        boot.boot_id()  # raises on other systems, before any file is made
        self.path = os.path.realpath(self._named)
        if not os.path.exists(f"{self.path}-lock"):  # refuse another program's file before anything is created next to it
            connections.look_at(self.path, self.options.wait)
        lock = WriteLock(self.path, self.options.wait)
        try:
            lock.open()
        except OSError as error:
            raise TransportError(f"{self.path}-lock cannot be opened: {error.strerror}; {REMEDIES['unable to open']}") from None
        try:
            with lock.held():
                store = self._connect()
        except BaseException:
            lock.close()
            raise
        self.lock = lock
        self.commits = Commits(self, store, lock, self._wrote)
        self.writer = Writer(self.commits, self.locks, self._ring, self._rested)
        self._open = True

    def _connect(self) -> Store:
        """
        Open the file that the path leads to. Called with the lock held.

        Raises:
            TransportError: it cannot be used.
        """
        path, wait = self.path, self.options.wait
        opened: list[sqlite3.Connection] = []
        try:
            clear(path)
            if connections.look_at(path, wait):
                glance.may_upgrade(path)
            database = connections.make(path)
            opened.append(connections.open_file(path, wait))
            store = self.store_on(opened[0])
            base = boot.catch_up(store, boot.boot_id())
            opened.append(connections.connect(path, wait))
            opened[1].execute("PRAGMA query_only = ON")
            opened[1].execute("SELECT count(*) FROM sqlite_schema").fetchone()  # opens the log
            place = Place(self._named, path, database)
        except BaseException as error:
            for connection in reversed(opened):
                connection.close()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise TransportError(f"{path} cannot be opened: {said(error)}") from error
            raise
        self._base = base
        self._directory.version = None  # another file may have the same version
        with self._read_lock:
            self._place, self._reading = place, opened[1]
        return store

    def _check_process(self) -> None:
        """Called before any lock is taken: a fork may have copied it in a locked state."""
        if self._users and os.getpid() != self._pid:
            raise LifecycleError("this file was opened before a fork, in the parent; make a bus in the child")

    def store_on(self, connection: sqlite3.Connection) -> Store:
        options = self.options
        return Store(connection, self._directory, self.now, options.window, options.retention, self._letters(), self.generation)

    def leave(self) -> None:
        """Close the file, if nobody else uses it."""
        with self._opening:
            self._users -= 1
            if self._users:
                return
            self.writer.close()
            self._open = False
            with suppress(PipebusError), self.lock.held():  # the last process that closes it moves the log into the database
                if self._place is not None:
                    with self._visible():
                        change = self._place.changed()
                    self._close(change, last=True)
            self._close(None)  # if the lock could not be had, its holder has the file open too, so this is not the last
            self._forget()
            self.lock.close()

    # --- what the path means -----------------------------------------------------------------------------------------

    def steady(self) -> bool:
        """The path still means what is open here. Asked without the lock, so after False ask again with it."""
        try:
            return (place := self._place) is not None and place.changed() is None and not self.lock.swapped()
        except OSError:
            return False

    @property
    def place(self) -> Place | None:
        """What is open; None: it is closed, or was closed because it was swapped."""
        return self._place

    def ensure(self, make: bool = True, whole: bool = True) -> bool:
        """
        Before anything is written, with the lock held: open the file that the path means, if it is not open.

        Args:
            make: Make a new file if there is none.
            whole: False: `kept` is called after the commit, so check only what would be too late then.

        Returns:
            False: there is no file, and none was made.

        Raises:
            TransportError: the file that the path means now cannot be used.
        """
        place = self._place
        if place is not None:
            with self._visible():
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
        After a commit, with the lock held: return only if the commit is in the file that the path means.

        Raises:
            _NotKept: it is not. TransportError: that cannot be determined.
        """
        place = self._place
        if place is None:
            return
        with self._visible():
            change = place.changed(index=False)  # a lost index loses nothing: the next process rebuilds it from the log
        if change is None:
            return
        self._close(change)
        if change.what != "log":
            raise _NotKept(self._why)
        if not self._same:
            raise TransportError(self._why)

    def refresh(self) -> bool:
        """
        For reading: open the file that the path means, if there is one. None is made.

        Raises:
            TransportError: that file cannot be used.
        """
        if self.steady():
            return True
        with self.lock.held():
            return self.ensure(make=False)

    def disowns(self, claim: Claim) -> str | None:
        """Why a claim cannot be settled: it is of a file that is no longer open, so its numbers mean other messages here."""
        if claim.generation == self.generation:
            return None
        return f"{self.path} was swapped while this message was handled, and the file that is there now does not contain it"

    @contextmanager
    def _visible(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TransportError(
                f"{self.path} cannot be found any more: {error.strerror}; give this user the right to look into its folder"
            ) from error

    def _close(self, change: Change | None, last: bool = False) -> None:
        """
        Close all connections. Called with the lock held, or when nothing may be moved or removed.

        Our own lock on the file stays until they are closed. So no connection moves the log into the database, or removes it:
        the file that has the log's name now may be somebody else's.

        Args:
            change: Why they are closed; None: nothing has happened.
            last: They may move the log, if this is the last process.
        """
        place = self._place
        if place is None:
            return
        with self._read_lock:
            reading, self._reading = self._reading, None
        if reading is not None:
            reading.close()
        connection = self.commits.store.connection
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
        """Save what can be saved of a file that was swapped, and report it."""
        self._same, fate = salvage.save(place, change, connection, self.options.wait)
        self._why = f"{self.path} {change.text}: {fate}"
        if not self._same:
            self.generation += 1
            self.owed = self._why
        self.news.append({"path": self.path, "what": change.what, "lost": not self._same, "text": self._why})
        self._ring()

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
            salvage.tidy(place, change)
            store = self._connect()
        except (PipebusError, OSError) as error:
            raise TransportError(
                f"{self._why}. It cannot be opened again: {error}. Publishing goes on when it can; `pipebus doctor` says more"
            ) from error
        self.commits.renew(store)
        if not self._same and self.moved_in is not None:
            try:
                self.moved_in(store)
            except BaseException:
                self._close(None)
                raise
        self._forget()
        return True

    def _forget(self) -> None:
        """Release what was open before."""
        left, self._left, self._same = self._left, None, True
        if left is not None:
            left[0].let_go()

    # --- reading and writing -----------------------------------------------------------------------------------------

    def now(self) -> float:
        """The file's time, in seconds: about the calendar's, but it never jumps."""
        return boot.since_boot() + self._base

    def call(self, task: Task | None, sync: bool = True) -> Any:
        """
        `Writer.call`, for code that may run in a handler.

        Raises:
            LifecycleError: a transaction is open here, and this would wait for it.
        """
        if transaction.current(self) is not None:
            raise LifecycleError("this would wait for the transaction that is open here; do it before or after that")
        return self.writer.call(task, sync)

    def write(self, task: Callable[[Store], T]) -> T:
        """Run a function of the store in a transaction (this handler's, if it has one open); also while the bus is stopped."""
        if (opened := transaction.current(self)) is not None:
            return opened.run(task)
        self.use()
        try:
            return self.writer.call(task)  # type: ignore[no-any-return]
        finally:
            self.leave()

    def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function of a connection that only reads; also while the bus is stopped, and then without any lock."""
        self._check_process()
        if self._open and transaction.current(self) is None:
            self.refresh()
        return self.query(query)

    def query(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """`read`, without checking that the path still means this file."""
        try:
            with free(self._read_lock):
                if self._reading is not None:
                    return query(self._reading)
                if self._open:
                    raise TransportError(self._why)
            with closing(glance.look_into(self.path)) as connection:
                return query(connection)
        except sqlite3.Error as error:
            raise TransportError(f"{self.path}: {said(error)}") from error

    def peek(self, sub: int) -> int:
        """1 if a subscription may have something to claim."""
        return int(self._place is not None and self.query(lambda connection: deliveries.anything(connection, sub)))

    @property
    def log(self) -> int:
        """Bytes of the log file."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except OSError:
            return 0

"""
One file, open: the connection that writes, the one that reads, the lock for writers and the file's time.

It is opened by the first who needs it and closed by the last: a bus that has started, and now and then a tool that looks at
dead letters.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, TypeVar

from pipebus.errors import LifecycleError, PipebusError, TransportError
from pipebus.transports.sqlite import boot, schema, transaction
from pipebus.transports.sqlite.files import WriteLock
from pipebus.transports.sqlite.options import Options
from pipebus.transports.sqlite.store import Directory, Store
from pipebus.transports.sqlite.writer import Task, Writer

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
        self._letters = letters
        self._calls = (ring, wrote, rested)
        self._opening = threading.Lock()
        self._read_lock = threading.Lock()
        self._directory = Directory()
        self._users = 0
        self._pid = 0
        self._open = False

    # --- opening and closing -----------------------------------------------------------------------------------------

    def use(self) -> None:
        """
        Open the file, if nobody has yet; to be followed by `leave`.

        Raises:
            TransportError: it cannot be used; the text says why, and it was not changed. LifecycleError: after a fork.
        """
        self._check_process()
        with self._opening:
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
        path, wait, boot_now = self.path, self.options.wait, boot.boot_id()
        self._look()
        lock = WriteLock(path, wait)
        try:
            lock.open()
        except OSError as error:
            raise TransportError(
                f"{path}-lock cannot be opened: {error.strerror}; {schema.REMEDIES['unable to open']}"
            ) from None
        opened: list[sqlite3.Connection] = []
        try:
            with lock.held():
                schema.look_at(path, wait)
                opened.append(schema.open_file(path, wait))
                store = self._store(opened[0])
                self._base = self._catch_up(store, boot_now)
            opened.append(schema.connect(path, wait))
            self._reading = opened[1]
            self._reading.execute("PRAGMA query_only = ON")
        except BaseException as error:
            for connection in reversed(opened):
                connection.close()
            lock.close()
            if isinstance(error, sqlite3.Error):
                raise TransportError(f"{path} cannot be opened: {schema.said(error)}") from error
            raise
        self.lock = lock
        self.writer = Writer(store, lock, self.options.durability == "power", self.options.max_bytes, path, *self._calls)
        self._open = True

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
        return Store(connection, self._directory, self.now, options.window, options.retention, self._letters())

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
            with self._read_lock:
                self._open = False
                self._reading.close()
            connection = self.writer.store.connection
            with suppress(PipebusError), self.lock.held():  # the last to close moves the log into the database
                connection.close()
            connection.close()  # without the lock: whoever has it has the file open too, so this is not the last
            self.lock.close()

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
        try:
            with self._read_lock:
                if self._open:
                    return query(self._reading)
            self._look()
            with closing(schema.connect(self.path, self.options.wait, "ro")) as connection:
                return query(connection)
        except sqlite3.Error as error:
            raise TransportError(f"{self.path}: {schema.said(error)}") from error

    def rows(self, query: str, *values: Any) -> list[Any]:
        """`read` of one query."""
        found: list[Any] = self.read(lambda connection: connection.execute(query, values).fetchall())
        return found

    def peek(self, sub: int) -> int:
        """1 if something may be ready for a subscription."""
        return len(self.rows("SELECT 1 FROM ready WHERE sub = ? LIMIT 1", sub)) if self._open else 0

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

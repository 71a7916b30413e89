"""A connection of the application, while a publish within it runs. See outbox.py for the locks."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pipebus.errors import LifecycleError, TransportError, UnsupportedCapability
from pipebus.transports.sql import statements as sql
from pipebus.transports.sql.store import Store
from pipebus.transports.sqlite import connections, schema
from pipebus.transports.sqlite.descriptors import identity, stat
from pipebus.transports.sqlite.place import Place
from pipebus.transports.sqlite.remedies import said
from pipebus.transports.sqlite.transaction import Open

if TYPE_CHECKING:
    from pipebus.transports.sqlite.file import OpenFile

T = TypeVar("T")


class Borrowed:
    """The application's connection for the rules, whatever its class and its `row_factory` make of rows."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def _cursor(self) -> sqlite3.Cursor:
        cursor = sqlite3.Connection.cursor(self._connection)
        cursor.row_factory = None
        return cursor

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._cursor().execute(statement, values)

    def executemany(self, statement: str, rows: Any) -> sqlite3.Cursor:
        return self._cursor().executemany(statement, rows)


class Lent(Open):
    """A connection of the application, while a publish uses it."""

    def __init__(self, file: OpenFile, connection: sqlite3.Connection) -> None:
        self._borrowed = cast("sqlite3.Connection", Borrowed(connection))
        super().__init__(file, file.store_on(self._borrowed), connection)
        self._execute = self._borrowed.execute

    @contextmanager
    def current(self) -> Iterator[None]:
        """As for any transaction. What filters remember of it they forget at once, since nobody hears how it ends."""
        try:
            with super().current():
                yield
        finally:
            for call in self.undo:
                call()

    def run(self, task: Callable[[Store], T]) -> T:
        return self._undisturbed(lambda: self._within(task))

    def check(self) -> None:
        """
        Raises:
            UnsupportedCapability: the connection is to another database. TransportError: the bus's file was swapped.
            LifecycleError: the connection belongs to another thread.
        """
        self._undisturbed(self._check)

    def _undisturbed(self, call: Callable[[], T]) -> T:
        connection, path = self.connection, self.file.path
        try:
            factory, connection.text_factory = connection.text_factory, str
            try:
                return call()
            finally:
                connection.text_factory = factory
        except sqlite3.ProgrammingError as error:
            if "thread" not in str(error):
                raise TransportError(f"{path}: within a connection that cannot be used: {error}") from error
            raise LifecycleError(
                f"within a connection of another thread: {error} The publish chain runs elsewhere if it has a filter that is "
                "async or may wait; connect with check_same_thread=False"
            ) from error
        except sqlite3.Error as error:
            raise TransportError(f"{path}: {_said(error)}") from error

    def _check(self) -> None:
        path, place = self.file.path, self._place()
        files = {name: file for _, name, file in self._execute("PRAGMA database_list")}
        bus = [name for name, file in files.items() if file and (found := stat(file)) and identity(found) == place.ids[0]]
        if "main" not in bus:
            main = files["main"] or "a database in memory"
            raise UnsupportedCapability(
                f"within a connection to {main}, but the bus keeps its messages in {path}"
                + (f", which is attached as {bus[0]}, and a power cut may keep half of a commit to two files" if bus else "")
                + "; connect to the bus's file, or publish after the commit"
            )
        if attached := [name for name in files if name not in ("main", "temp")]:
            raise UnsupportedCapability(
                f"within a connection that has attached {', '.join(attached)}: a kill may keep half of a commit to two files; "
                f"keep the application's tables in {path}, or detach it first"
            )
        if sqlite3.sqlite_version_info < schema.FIXED:
            self._execute("PRAGMA wal_autocheckpoint = 0")

    def _place(self) -> Place:
        """Asked without the bus's lock, so nothing is opened again here: the bus does that."""
        place = self.file.place
        with suppress(OSError):  # nobody may look
            if place is not None and place.may_write():
                return place
        raise TransportError(
            f"{self.file.path} was removed or replaced while it was in use; roll back, and try again on a new connection"
        )

    def _within(self, task: Callable[[Store], T]) -> T:
        """Run a task as a whole, or not at all: the application may commit its transaction even after an error."""
        execute, store = self._execute, self.store
        if store is None:  # the coroutine that waited for this was cancelled
            raise LifecycleError("this publish has ended")
        began = self._begin()
        execute("SAVEPOINT pipebus")
        try:
            self._write()
            result = task(store)
        except BaseException:
            if self.connection.in_transaction:  # SQLite may have rolled back all of it
                execute("ROLLBACK TO pipebus")
                execute("RELEASE pipebus")
                if began:  # nobody knows of it, and it would keep others from writing
                    execute("ROLLBACK")
            raise
        execute("RELEASE pipebus")
        return result

    def _write(self) -> None:
        """Take the lock for writers, before anything is read: a transaction that has read may be too late to write."""
        path, execute = self.file.path, self._execute
        self._place()
        execute(sql.ADD_META, (0, "swept"))
        # Nobody else writes now, so both see the same leases, unless they are of two files: each start has one of its own.
        if execute(sql.LAST_LEASE).fetchone() != self.file.query(lambda own: own.execute(sql.LAST_LEASE).fetchone()):
            raise TransportError(
                f"{path} was replaced, and this connection still has the former file; close it, and connect again"
            )
        [version] = execute("PRAGMA user_version").fetchone()
        if version != len(schema.STEPS):
            raise TransportError(f"{path} was brought to version {version} by another pipebus; start this program again")

    def _begin(self) -> bool:
        """Begin a transaction where the application's own INSERT would; False: one is open."""
        connection = self.connection
        if connection.in_transaction:
            return False
        if connection.isolation_level is None or getattr(connection, "autocommit", False) is True:
            raise LifecycleError(
                "within a connection that commits each statement by itself and has no transaction open, so the message would "
                'be kept even if what belongs to it fails; begin one: connection.execute("BEGIN IMMEDIATE")'
            )
        [wait] = self._execute("PRAGMA busy_timeout").fetchone()
        self._execute(f"PRAGMA busy_timeout = {connections.POLL}")
        try:
            connections.begin(self._borrowed, wait / 1000)
        finally:
            self._execute(f"PRAGMA busy_timeout = {wait}")
        return True


class LentByThread(Lent):
    """
    An aiosqlite connection. It has a thread of its own, on which everything runs, and a coroutine waits for that.

    Filters do not await what they tell the bus. So on the loop, what they want to be written waits until the chain is done.
    """

    def __init__(self, file: OpenFile, driver: Any) -> None:
        super().__init__(file, driver._conn)
        self._driver = driver
        self._loop = asyncio.get_running_loop()
        self._late: list[Callable[[Store], Any]] = []

    @property
    def away(self) -> bool:
        return asyncio._get_running_loop() is not None

    def run(self, task: Callable[[Store], Any]) -> Any:
        if not self.away:
            return asyncio.run_coroutine_threadsafe(self.arun(task), self._loop).result()
        self._late.append(task)
        return None

    async def arun(self, task: Callable[[Store], T]) -> T:
        return await self._driver._execute(super().run, task)  # type: ignore[no-any-return]

    async def acheck(self) -> None:
        await self._driver._execute(super().check)

    async def finish(self) -> None:
        while self._late:
            await self.arun(self._late.pop(0))


def _said(error: sqlite3.Error) -> str:
    match getattr(error, "sqlite_errorname", ""):
        case "SQLITE_BUSY_SNAPSHOT":
            return (
                f"within a transaction that has read, and others have written since: {error}; roll back, and begin it with "
                "BEGIN IMMEDIATE"
            )
        case "SQLITE_BUSY":
            return (
                f"within a transaction that cannot write while others do: {error}; roll back, and begin it with "
                "BEGIN IMMEDIATE, which waits for them, on a connection with a timeout that is long enough"
            )
        case "SQLITE_AUTH":
            return f"within a connection whose authorizer refuses the bus's tables ({error}); allow it to write to them"
        case "SQLITE_READONLY":
            return f"within a connection that cannot write: {error}; connect with mode=rw, and PRAGMA query_only = OFF"
    return said(error)

"""
A handler's own transaction: its writes, its publishes and its acknowledgement, together or not at all.

It holds the file's one lock for writers from beginning to end. Meanwhile nobody else publishes, claims or acknowledges, in any
process. So it should be short and wait for nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from pipebus.errors import LifecycleError, TransportError
from pipebus.message.outcomes import Receipt
from pipebus.transports.sql import deliveries, publishing
from pipebus.transports.sql.records import Claim, Outgoing, Settlement
from pipebus.transports.sql.store import Store
from pipebus.transports.sqlite import connections
from pipebus.transports.sqlite.place import _NotKept
from pipebus.transports.sqlite.remedies import said

if TYPE_CHECKING:
    from pipebus.transports.sqlite.file import OpenFile

T = TypeVar("T")


class Open:
    """A transaction that is open here. It is emptied at its end: code in the same context may still run then."""

    def __init__(self, file: OpenFile, store: Store, connection: sqlite3.Connection) -> None:
        self.file = file
        self.store: Store | None = store
        self.connection = connection
        self.undo: list[Callable[[], object]] = []

    @property
    def away(self) -> bool:
        """This thread must not wait for its connection: what is to be written is only noted."""
        return False

    @contextmanager
    def current(self) -> Iterator[None]:
        token = _current.set(self)
        try:
            yield
        finally:
            self.store = None
            _current.reset(token)

    def run(self, task: Callable[[Store], T]) -> T:
        """Run a function of the store in the transaction."""
        store = self.store
        assert store is not None
        return task(store)

    async def arun(self, task: Callable[[Store], T]) -> T:
        return self.run(task)


_current: Final[contextvars.ContextVar[Open | None]] = contextvars.ContextVar("pipebus.sqlite", default=None)
OURS: Final = {"COMMIT", "ROLLBACK", "BEGIN"}
"""What only this module may execute."""


def current(file: OpenFile) -> Open | None:
    """The transaction that is open here on this file."""
    found = _current.get()
    return found if found is not None and found.file is file and found.store is not None else None


def opened_here(file: OpenFile, connection: sqlite3.Connection) -> bool:
    """
    Whether the transaction that is open here is on this connection.

    Raises:
        LifecycleError: it is on another one, and would wait for this one.
    """
    found = current(file)
    if found is not None and found.connection is not connection:
        raise LifecycleError("within a second transaction, which would wait for the one that is open here; use that one")
    return found is not None


def publish(store: Store, outgoing: Outgoing) -> Receipt:
    """
    A publish inside a transaction.

    Raises:
        TransportError: SQLite has rolled it back.
    """
    _check(store)
    [receipt] = publishing.publish(store, [outgoing])
    return msgspec.structs.replace(receipt, on_commit=True)


@contextmanager
def transaction(file: OpenFile, claim: Claim, wrote: Callable[[Store], None]) -> Iterator[sqlite3.Connection]:
    """
    Raises:
        LifecycleError: on an event loop, which it would stop, or inside another transaction. TransportError: the file failed,
            or another process has the delivery now; nothing was kept.
    """
    path = file.path
    if asyncio._get_running_loop() is not None:
        raise LifecycleError("a transaction would stop the running event loop; make the handler a plain `def`")
    if current(file) is not None:
        raise LifecycleError("this handler has a transaction open already; use that one")
    with file.lock.held():
        file.ensure()
        if (why := file.disowns(claim)) is not None:
            raise TransportError(why)
        try:
            store = file.store_on(connections.prepare(connections.connect(path, connections.POLL / 1000)))
            connections.begin(store.connection, file.options.wait)
        except sqlite3.Error as error:
            raise TransportError(f"{path}: {said(error)}") from error
        connection = store.connection
        opened = Open(file, store, connection)
        try:
            connection.set_authorizer(_authorize)
            try:
                with opened.current():
                    yield connection
            finally:
                connection.set_authorizer(None)
            _check(store)
            if deliveries.settle(store, [Settlement(claim, "acknowledge", 0.0, "")]):
                raise TransportError(
                    f"{path}: this delivery's lease had ended and others have it now; nothing of the transaction was kept"
                )
            store.execute("COMMIT")
            file.kept()
        except BaseException as error:
            for call in opened.undo:
                call()
            store.roll_back()
            if isinstance(error, _NotKept):
                raise TransportError(str(error)) from None
            if isinstance(error, sqlite3.DatabaseError) and str(error) == "not authorized":  # see `_authorize`
                raise LifecycleError(
                    "the bus commits at the end of the block of delivery.transaction(); leave out COMMIT, ROLLBACK, commit(), "
                    "rollback(), `with database:` and executescript(), which commits first"
                ) from error
            if isinstance(error, sqlite3.OperationalError) and ("disk" in str(error) or "readonly" in str(error)):
                file.commits.doubt()
                raise TransportError(f"{path}: {said(error)}") from error
            raise
        finally:
            connection.close()
    wrote(store)


def _check(store: Store) -> None:
    """
    Raises:
        TransportError: SQLite has rolled it back; what follows would be kept without the rest.
    """
    if not store.connection.in_transaction:
        raise TransportError(
            "SQLite has rolled this transaction back (OR ROLLBACK, RAISE(ROLLBACK), or a failing disk); no part of it was kept"
        )


def _authorize(action: int, what: str | None, *_: object) -> int:
    """Refuse to end the transaction inside its block ("not authorized")."""
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION and what in OURS else sqlite3.SQLITE_OK

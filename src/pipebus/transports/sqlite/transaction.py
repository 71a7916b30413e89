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
from typing import TYPE_CHECKING, Final

from pipebus.errors import LifecycleError, TransportError
from pipebus.message.outcomes import Receipt
from pipebus.transports.sql import deliveries, publishing
from pipebus.transports.sql.records import Claim, Outgoing, Settlement
from pipebus.transports.sql.store import Store
from pipebus.transports.sqlite.place import _NotKept
from pipebus.transports.sqlite.remedies import said

if TYPE_CHECKING:
    from pipebus.transports.sqlite.file import OpenFile


class Open:
    """A transaction that a handler has open. It is emptied at its end: code in the handler's context may still run then."""

    def __init__(self, file: OpenFile, store: Store) -> None:
        self.file = file
        self.store: Store | None = store
        self.undo: list[Callable[[], object]] = []


_current: Final[contextvars.ContextVar[Open | None]] = contextvars.ContextVar("pipebus.sqlite", default=None)
OURS: Final = {"COMMIT", "ROLLBACK", "BEGIN"}
"""What only this module may execute."""


def current(file: OpenFile) -> Store | None:
    """The store of the transaction that this thread has open on this file."""
    found = _current.get()
    return found.store if found is not None and found.file is file else None


def if_undone(file: OpenFile, call: Callable[[], object]) -> None:
    """`Transport.if_undone`."""
    found = _current.get()
    if found is not None and found.file is file and found.store is not None:
        found.undo.append(call)


def publish(store: Store, outgoing: Outgoing) -> Receipt:
    """A publish inside a transaction."""
    _check(store)
    [receipt] = publishing.publish(store, [outgoing])
    return receipt


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
            store = file.another()
            store.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise TransportError(f"{path}: {said(error)}") from error
        connection = store.connection
        opened = Open(file, store)
        try:
            token = _current.set(opened)
            connection.set_authorizer(_authorize)
            try:
                yield connection
            finally:
                opened.store = None
                connection.set_authorizer(None)
                _current.reset(token)
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

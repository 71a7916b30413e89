"""
Publishing in a transaction of the application: its own connection writes the message, and it commits or rolls back.

**Locks.** From its first write on, the application has SQLite's lock for writers (W) until its transaction ends. The bus takes
its own lock (L, see lock.py) first and W after it. The application never takes L, and nothing that runs during such a publish
may wait for L, since the thread that has L may be waiting for W:

    the application has W      a publish within needs nothing else; the bus's writer waits for W, as long as `wait` says
    the bus's writer has L, W  a publish within waits for W, as long as the application's connection says (`timeout`)
    both want W                one gets it, and the other waits; neither has what the other one wants next

W is taken before anything is read. So what the rules read (the last number, the subscriptions, known ids) is what the last
commit left, numbers are taken in the order of commits, and `Directory`, which all connections of a bus share, is only changed
by the thread that has W.

**The log.** Before SQLite 3.51.3, a checkpoint that begins while another connection commits can lose pages. The bus's own
checkpoints take W there (`Commits.checkpoint`). The application's connection would make one after a commit, when it has given W
back and others may be committing; so that is switched off.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from pipebus.errors import LifecycleError, MessageError
from pipebus.foreign.databases import aconnection_of, classes_of, connection_of, is_async
from pipebus.foreign.objects import shown
from pipebus.transports.sqlite.file import OpenFile
from pipebus.transports.sqlite.lent import Lent, LentByThread
from pipebus.transports.sqlite.transaction import opened_here

AIOSQLITE: Final = "aiosqlite.core.Connection"


@contextmanager
def within(file: OpenFile, thing: Any) -> Iterator[None]:
    """
    What this thread publishes in the block is stored through `thing`.

    Raises:
        MessageError: it is not a connection. LifecycleError: it has to be awaited, or another transaction is open here. Also
        what `Lent.check` raises.
    """
    if is_async(thing) or AIOSQLITE in classes_of(thing):
        raise LifecycleError(f"within {shown(thing)}, which has to be awaited; use `await bus.apublish(…, within=…)`")
    connection = _checked(connection_of(thing))
    if opened_here(file, connection):
        yield
        return
    lent = Lent(file, connection)
    lent.check()
    with lent.current():
        yield


@asynccontextmanager
async def awithin(file: OpenFile, thing: Any) -> AsyncIterator[bool]:
    """`within` for coroutines. The value: the connection may be used on this loop's thread."""
    found = await aconnection_of(thing)
    if AIOSQLITE not in classes_of(found):
        with within(file, found):
            yield True
        return
    if opened_here(file, found._conn):
        yield False
        return
    lent = LentByThread(file, found)
    await lent.acheck()
    with lent.current():
        yield False
        await lent.finish()


def _checked(thing: Any) -> sqlite3.Connection:
    if isinstance(thing, sqlite3.Connection):
        return thing
    module = type(thing).__module__
    raise MessageError(
        f"within={shown(thing)}, of {module}: it is a connection to the bus's SQLite file, made by sqlite3 or aiosqlite, or "
        "a Connection, Session, AsyncConnection or AsyncSession of SQLAlchemy that has one"
    )

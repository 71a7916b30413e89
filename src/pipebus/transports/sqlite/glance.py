"""Looking at a file from outside: whether it is one of pipebus, and who uses it. Nothing is made and nothing is changed."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from typing import NamedTuple

from pipebus.errors import TransportError
from pipebus.transports.sql import statements as sql
from pipebus.transports.sql.records import Life
from pipebus.transports.sqlite import boot, connections, schema
from pipebus.transports.sqlite.remedies import said

WAIT = 5.0
"""Seconds to wait for other programs that write."""


class Served(NamedTuple):
    """
    One start of a transport, as the file has it.

    Args:
        ended: The process has certainly ended.
        left: Seconds of its lease.
        out: Deliveries that it holds.
    """

    pid: int
    ended: bool
    left: float
    out: int

    @property
    def lives(self) -> bool:
        return not self.ended and self.left > 0


def look_into(path: str, *, older: bool = False) -> sqlite3.Connection:
    """
    A connection that only reads, to a file that this pipebus can use.

    Args:
        older: It may be of an older version.

    Raises:
        TransportError: the file is missing, contains no bus, or belongs to another program or another version of pipebus.
    """
    if not os.path.exists(path):
        raise TransportError(f"{path}: no such file; look at the path: sqlite:///bus.db is relative, sqlite:////bus.db is not")
    if not os.path.isfile(path):
        raise TransportError(f"{path} is not a file; name the file that the bus uses")
    connection: sqlite3.Connection | None = None
    try:
        connection = connections.connect_to_look(path, WAIT)
        problem = refusal(connections.kind(connection), path, older)
    except sqlite3.Error as error:
        problem = f"{path} cannot be read: {said(error)}"
    if problem is not None:
        if connection is not None:
            connection.close()
        raise TransportError(problem)
    assert connection is not None
    return connection


def inspect(path: str, new: bool) -> bool:
    """`Transport.inspect`."""
    if new and not os.path.isdir(os.path.dirname(path)):
        raise TransportError(f"{path}: there is no folder {os.path.dirname(path)}; make it, or correct the path")
    if new and (not os.path.exists(path) or (os.path.isfile(path) and os.path.getsize(path) == 0)):
        return True
    look_into(path, older=True).close()
    return False


def refusal(found: connections.Kind, path: str, older: bool) -> str | None:
    """Why a file cannot be read as a bus; or None."""
    if found.application == 0:
        return f"{path} holds no bus: none has used it yet; look at the path, or start the bus first"
    newest = len(schema.STEPS)
    if found.application == schema.APPLICATION and found.version < newest and not older:
        return (
            f"{path} is of version {found.version}, and this pipebus needs {newest}: start its bus, which brings it up to date"
        )
    return connections.refusal(found, path)


def may_upgrade(path: str) -> None:
    """
    Check that no process of an older pipebus uses a file that is to be brought up to date.

    Raises:
        TransportError: one does.
    """
    with closing(connections.connect_to_look(path, WAIT)) as connection:
        found = connections.kind(connection)
        newest = len(schema.STEPS)
        if found.application == 0 or found.version >= newest:
            return
        pids = [str(one.pid) for one in owners(connection) if one.lives]
    if pids:
        raise TransportError(
            f"{path} is of version {found.version}, and this pipebus makes it {newest}, but processes of an older one use it "
            f"(pid {', '.join(pids)}): stop them, then start this again. `pipebus backup` makes a copy before that"
        )


def owners(connection: sqlite3.Connection) -> list[Served]:
    """Who has the file open as a bus."""
    now, mine = moment(connection), boot.me()
    rows = connection.execute(sql.OWNERS_WITH_DELIVERIES).fetchall()
    return [Served(row[2], boot.ended(Life(*row[:4]), mine), row[4] - now, row[5]) for row in rows]


def moment(connection: sqlite3.Connection) -> float:
    """Now, in the file's time."""
    found = connection.execute(sql.META, ("boot",)).fetchone()
    if found is not None and found[0] == boot.boot_id():
        return boot.since_boot() + float(connection.execute(sql.META, ("base",)).fetchone()[0])
    return time.time()

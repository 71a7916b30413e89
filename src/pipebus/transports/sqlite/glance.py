"""Looking at a file from outside: whether it is one of pipebus, and who uses it. Nothing is made and nothing is changed."""

from __future__ import annotations

import os
import sqlite3
import time
from typing import NamedTuple

from pipebus.errors import TransportError
from pipebus.transports.sqlite import boot, connections
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


def look_into(path: str) -> sqlite3.Connection:
    """
    A connection that only reads, to a file that this pipebus can use.

    Raises:
        TransportError: the file is missing, contains no bus, or belongs to another program or a newer pipebus.
    """
    if not os.path.exists(path):
        raise TransportError(f"{path}: no such file; look at the path: sqlite:///bus.db is relative, sqlite:////bus.db is not")
    if not os.path.isfile(path):
        raise TransportError(f"{path} is not a file; name the file that the bus uses")
    connection: sqlite3.Connection | None = None
    try:
        connection = connections.connect_to_look(path, WAIT)
        problem = refusal(connections.kind(connection), path)
    except sqlite3.Error as error:
        problem = f"{path} cannot be read: {said(error)}"
    if problem is not None:
        if connection is not None:
            connection.close()
        raise TransportError(problem)
    assert connection is not None
    return connection


def refusal(found: connections.Kind, path: str) -> str | None:
    """Why a file cannot be read as a bus; or None."""
    if found.application == 0:
        return f"{path} holds no bus: none has used it yet; look at the path, or start the bus first"
    return connections.refusal(found, path)


def owners(connection: sqlite3.Connection) -> list[Served]:
    """Who has the file open as a bus."""
    now, mine = moment(connection), boot.me()
    rows = connection.execute(
        "SELECT boot, space, pid, born, until, (SELECT count(*) FROM claimed c WHERE c.owner = o.owner) FROM owner o"
    ).fetchall()
    return [Served(row[2], boot.ended(boot.Life(*row[:4]), mine), row[4] - now, row[5]) for row in rows]


def moment(connection: sqlite3.Connection) -> float:
    """Now, in the file's time."""
    found = dict(connection.execute("SELECT name, value FROM meta WHERE name IN ('boot', 'base')").fetchall())
    if found.get("boot") == boot.boot_id():
        return boot.since_boot() + float(found["base"])
    return time.time()

"""Following the messages of a file as any process stores them, without being one of its subscriptions."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final, NamedTuple

from pipebus.errors import TransportError
from pipebus.message.patterns import Pattern
from pipebus.transports.sql import statements as sql
from pipebus.transports.sqlite import connections, glance
from pipebus.transports.sqlite.descriptors import Identity, identity, stat
from pipebus.transports.sqlite.remedies import said

EVERY: Final = 0.05
"""Seconds between two checks whether somebody has written (`PRAGMA data_version`, which takes some microseconds)."""
MANY: Final = 500
"""Most messages that one query reads, so that no old state of the file is held for long."""


class Kept(NamedTuple):
    """One message of the file; `data` is the codec's encoding of it."""

    seq: int
    id: str
    subject: str
    data: bytes


class Follower:
    """
    Messages that are deleted before they are read are not seen. A replayed dead letter is not a new message.

    Args:
        path: Of the file.
        all: Begin with the oldest message that is still kept, not with the next one.

    Raises:
        TransportError: it is not a file of this pipebus.
    """

    def __init__(self, path: str, *, all: bool = False) -> None:
        self.path = path
        glance.look_into(path).close()
        try:
            self._connection = connections.connect(path, glance.WAIT, "ro")
            # If nobody else has the file open, the first query makes the log, whose identity is needed below.
            [(last,)] = self._connection.execute(sql.LAST)
            self._seq = 0 if all else int(last)
            self._file = self._identity()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def read(self, pattern: str, pause: Callable[[float], bool]) -> Iterator[Kept]:
        """
        Messages whose subjects match, in the order of the file, until `pause` returns False; those that are stored by then
        are still read.

        Args:
            pause: Waits for a number of seconds. False: it is time to end.

        Raises:
            TransportError: the file failed, or was replaced by another one.
        """
        wanted = Pattern(pattern)
        seen: int | None = None
        with closing(self._connection):
            go_on = True
            while True:
                try:
                    version = self._connection.execute("PRAGMA data_version").fetchone()[0]
                    while version != seen and (rows := self._next()):
                        for row in rows:
                            self._seq = row.seq
                            if wanted.matches(row.subject):
                                yield row
                    seen = version
                except sqlite3.Error as error:
                    raise self._failed(error) from error
                found = self._identity()
                if found != self._file:
                    what = "lost its log" if found[0] == self._file[0] else "was removed or replaced by another file"
                    raise TransportError(f"{self.path} {what}; start again")
                if not go_on:
                    return
                go_on = pause(EVERY)

    def _next(self) -> list[Kept]:
        rows = self._connection.execute(sql.FOLLOW, (self._seq, MANY))
        return [Kept(*row) for row in rows.fetchall()]

    def _identity(self) -> list[Identity | None]:
        """Of the file and its log: this connection does not see what is written into another log."""
        found = [stat(path) for path in (self.path, f"{os.path.realpath(self.path)}-wal")]
        return [None if one is None else identity(one) for one in found]

    def _failed(self, error: sqlite3.Error) -> TransportError:
        return TransportError(f"{self.path} cannot be read: {said(error)}")

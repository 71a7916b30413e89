"""Reading a file's messages as they are stored, by whatever process, without a part in them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final, NamedTuple
from urllib.parse import quote

from pipebus.errors import TransportError
from pipebus.message.patterns import Pattern
from pipebus.transports.sqlite import health, schema
from pipebus.transports.sqlite.place import identity, stat

EVERY: Final = 0.05
"""Seconds between two looks whether somebody has written (`PRAGMA data_version`, some microseconds)."""
MANY: Final = 500
"""Most messages that one look reads, so that no old state of the file is held for long."""


class Kept(NamedTuple):
    """One message of the file; `data` is what the codec has made of it."""

    seq: int
    id: str
    subject: str
    data: bytes


class Follower:
    """
    The messages of a file, from a place on.

    What has been deleted before it was read is not seen. A dead letter that was given back to its subscription is no new one.

    Args:
        path: Of the file.
        all: Begin with what is still kept, not with what comes.

    Raises:
        TransportError: it is no file of this pipebus; nothing was made.
    """

    def __init__(self, path: str, *, all: bool = False) -> None:
        self.path = path
        health.look_into(path).close()
        try:
            # Not "immutable", as for a glance: it will change.
            self._connection = sqlite3.connect(
                f"file:{quote(path)}?mode=ro", uri=True, isolation_level=None, timeout=5.0, check_same_thread=False
            )
            # Asked in any case: where nobody else has the file open, the first query makes the log that is looked at below.
            [(last,)] = self._connection.execute("SELECT value FROM meta WHERE name = 'seq'")
            self._seq = 0 if all else int(last)
            self._file = self._identity()
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def read(self, pattern: str, pause: Callable[[float], bool]) -> Iterator[Kept]:
        """
        Messages on subjects of this pattern, in the order of the file, until `pause` says so; what is there then still comes.

        Args:
            pause: Waits so many seconds; False: it is time to end.

        Raises:
            TransportError: the file failed, or is another one than before.
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
        rows = self._connection.execute(
            "SELECT seq, id, subject, data FROM message WHERE seq > ? AND replayed IS NULL ORDER BY seq LIMIT ?",
            (self._seq, MANY),
        )
        return [Kept(*row) for row in rows.fetchall()]

    def _identity(self) -> list[tuple[int, int] | None]:
        """Of the file and its log: what is written into another log is not seen here."""
        found = [stat(path) for path in (self.path, f"{os.path.realpath(self.path)}-wal")]
        return [None if one is None else identity(one) for one in found]

    def _failed(self, error: sqlite3.Error) -> TransportError:
        return TransportError(f"{self.path} cannot be read: {schema.said(error)}")

"""
The hand-written limit of the durable workloads: loops over Python's sqlite3, one table, an index on the id.

All use WAL. Where a program of a few lines would do without a thing, they do: there is one queue, and nobody whose claims
have to be taken back when he dies, so what was claimed by a process that was killed stays claimed forever.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import count
from time import time
from typing import Literal

from harness import Durable

SYNCED = Durable("Python's sqlite3, one table: no subscriptions, no dedupe", "yes", "yes", "yes", "stays claimed")
UNSYNCED = SYNCED._replace(words="the same without a sync: a power cut loses the last commits", synced="no")

# The bytes that pipebus keeps of the message that all workloads publish, but for the digits of its id and time.
DATA = (
    b'{"specversion":"1.0","id":"01a2236f6f6d-1f02b5ccde0f00c7-000000012b","source":"pipebus","type":"orders.created",'
    b'"time":"2026-11-28T18:33:56.440935+00:00","pipebusversion":1,"data":{"id":1,"customer":"ada","amount":12.5}}'
)
TABLE = """
CREATE TABLE message (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, subject TEXT NOT NULL, stored REAL NOT NULL, data BLOB NOT NULL,
    taken INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX message_id ON message (id);
CREATE INDEX message_free ON message (seq) WHERE taken = 0;
"""
INSERT = "INSERT INTO message (id, subject, stored, data) VALUES (?, ?, ?, ?)"
CLAIM = (
    "UPDATE message SET taken = 1 WHERE seq IN (SELECT seq FROM message WHERE taken = 0 ORDER BY seq LIMIT ?) "
    "RETURNING seq, data"
)
PAGES = 4000  # in the log before it is moved into the file: as many as pipebus lets come together

Row = tuple[str, str, float, bytes]


def connect(path: str, synchronous: Literal["FULL", "NORMAL"]) -> sqlite3.Connection:
    """A connection to a file that may be new."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=60.0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {PAGES}")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    if not connection.execute("SELECT 1 FROM sqlite_schema").fetchall():
        connection.executescript(TABLE)
    return connection


class Publisher:
    """Inserts rows; ids grow, as those of pipebus do."""

    def __init__(self, path: str, synchronous: Literal["FULL", "NORMAL"] = "FULL") -> None:
        self.connection = connect(path, synchronous)
        self._number = count(1).__next__

    def rows(self, subject: str, size: int) -> list[Row]:
        now, number = time(), self._number
        return [(f"01a2236f6f6d-1f02b5ccde0f00c7-{number():010x}", subject, now, DATA) for _ in range(size)]

    def one(self, subject: str) -> bool:
        """One message, one commit."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        execute(INSERT, (f"01a2236f6f6d-1f02b5ccde0f00c7-{self._number():010x}", subject, time(), DATA))
        execute("COMMIT")
        return True

    def many(self, subject: str, size: int) -> None:
        """Many messages, one commit."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        self.connection.executemany(INSERT, self.rows(subject, size))
        execute("COMMIT")

    def fill(self, subject: str, size: int) -> None:
        """A backlog, in few commits."""
        self.connection.execute("PRAGMA synchronous = NORMAL")
        for done in range(0, size, 50_000):
            self.many(subject, min(50_000, size - done))
        self.connection.execute("PRAGMA synchronous = FULL")

    def close(self) -> None:
        self.connection.close()


class Worker:
    """Claims and deletes; neither is synced, since what is lost of them comes again."""

    def __init__(self, path: str) -> None:
        self.connection = connect(path, "NORMAL")

    def claim(self, most: int) -> list[tuple[int, bytes]]:
        """The oldest rows that nobody has; empty when there are none."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        found: list[tuple[int, bytes]] = execute(CLAIM, (most,)).fetchall()
        execute("COMMIT")
        found.sort()  # RETURNING promises no order
        return found

    def delete(self, taken: Sequence[tuple[int, bytes]]) -> None:
        """They are handled."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        self.connection.executemany("DELETE FROM message WHERE seq = ?", [(seq,) for seq, _ in taken])
        execute("COMMIT")

    def left(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM message").fetchone()[0])

    def close(self) -> None:
        self.connection.close()

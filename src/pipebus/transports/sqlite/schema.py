"""The tables, opening a file, and bringing an older one up to date."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from typing import Final
from urllib.parse import quote

from pipebus.errors import TransportError

APPLICATION: Final = 0x70627573  # "pbus", the file's application id
FIXED: Final = (3, 51, 3)
"""The first SQLite without the WAL-reset bug; see files.py."""
LOG: Final = 64 * 2**20
"""Bytes that the log keeps after a checkpoint."""
OLDEST: Final = (3, 37, 0)

TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- Each message once, in the order of publishing. It stays while anybody waits for it, and for as long as the URL says.
-- `stored` and `due` are the file's time; `replayed` is the dead letter that it was.
CREATE TABLE message (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, subject TEXT NOT NULL, key TEXT, stored REAL NOT NULL, data BLOB NOT NULL,
    due REAL NOT NULL DEFAULT 0, replayed TEXT
);
CREATE INDEX message_id ON message (id);

-- `owner`: it goes when that process goes. The counters never fall.
CREATE TABLE subscription (
    sub INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, patterns TEXT NOT NULL, owner INTEGER,
    accepted INTEGER NOT NULL DEFAULT 0, acknowledged INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE dropped (
    sub INTEGER NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (sub, reason)
) WITHOUT ROWID;

-- A delivery is in one of these, until it is settled: it may be claimed, has to wait for its time, or is claimed.
-- `takings`: how often it has been claimed and not settled well. `suspect`: when it was out last, its process ended.
CREATE TABLE ready (
    sub INTEGER, seq INTEGER, takings INTEGER NOT NULL, key TEXT, suspect INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (sub, seq)
) WITHOUT ROWID;
CREATE TABLE later (
    due REAL, sub INTEGER, seq INTEGER, takings INTEGER NOT NULL, key TEXT, PRIMARY KEY (due, sub, seq)
) WITHOUT ROWID;
CREATE INDEX later_of ON later (sub, seq);
CREATE INDEX later_taken ON later (sub, key) WHERE takings > 0 AND key IS NOT NULL;
CREATE TABLE claimed (
    sub INTEGER, seq INTEGER, takings INTEGER NOT NULL, key TEXT, suspect INTEGER NOT NULL, owner INTEGER NOT NULL,
    PRIMARY KEY (sub, seq)
) WITHOUT ROWID;

-- One row for each start of a transport; `until` is the end of its lease.
CREATE TABLE owner (
    owner INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, space TEXT NOT NULL, pid INTEGER NOT NULL,
    born TEXT NOT NULL, until REAL NOT NULL
);

CREATE TABLE dead (
    letter INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, sub INTEGER, subscription TEXT NOT NULL,
    data BLOB NOT NULL, author TEXT, error TEXT NOT NULL, digest TEXT NOT NULL, traceback TEXT NOT NULL,
    attempts INTEGER NOT NULL, first_time REAL NOT NULL, time REAL NOT NULL
);
CREATE INDEX dead_of ON dead (sub);

-- What filters remember.
CREATE TABLE seen (scope TEXT, key TEXT, until REAL NOT NULL, PRIMARY KEY (scope, key)) WITHOUT ROWID;
CREATE INDEX seen_until ON seen (until);

INSERT INTO meta VALUES ('seq', 0), ('subscriptions', 0);
"""

STEPS: Final[tuple[str, ...]] = (TABLES,)
"""What makes of version N of a file version N + 1. To change the tables, add a step; never change one."""


def connect(path: str, wait: float, mode: str = "rw") -> sqlite3.Connection:
    """
    A connection without settings.

    Args:
        wait: Seconds to wait for other programs that write.
        mode: "rw": the file has to be there; "ro": change nothing.
    """
    return sqlite3.connect(
        f"file:{quote(path)}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=wait,
        cached_statements=256,
    )  # fmt: skip


def prepare(connection: sqlite3.Connection) -> sqlite3.Connection:
    """The settings of each connection that writes."""
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # see files.py
    connection.execute(f"PRAGMA journal_size_limit = {LOG}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def look_at(path: str, wait: float) -> None:
    """
    Whether this can be a file of pipebus, or become one; changes nothing. Called while nobody else writes.

    Raises:
        TransportError: it cannot.
    """
    if sqlite3.sqlite_version_info < OLDEST:
        raise TransportError(
            f"SQLite {sqlite3.sqlite_version} is too old; at least {'.'.join(map(str, OLDEST))} is needed: use a newer Python"
        )
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise TransportError(f"{path}: there is no folder {folder}; make it first")
    if os.path.isdir(path):
        raise TransportError(f"{path} is a folder; name a file in it")
    if not os.path.exists(path) or not os.path.getsize(path):
        return
    if not (os.access(path, os.W_OK) and os.access(folder, os.W_OK)):
        raise TransportError(f"{path} cannot be written; {REMEDIES['readonly database']}")
    try:
        # Read-only, for the last connection to close would move another program's log; and where there is no log, in a way
        # that makes none.
        connection = connect(path, wait, "ro" if os.path.exists(f"{path}-wal") else "ro&immutable=1")
        try:
            _check(connection, path)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise TransportError(f"{path} cannot be opened: {said(error)}") from error


def make(path: str) -> tuple[int, int]:
    """
    Make the file if it is not there; its device and inode. SQLite is not asked to: it would also make one that was there a
    moment ago, and use what lies beside it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    found = os.stat(path)
    return found.st_dev, found.st_ino


def open_file(path: str, wait: float) -> sqlite3.Connection:
    """
    The file, which is there, with its tables made or brought up to date; called while nobody else writes.

    Raises:
        TransportError: it is no file of pipebus, or a newer one, or cannot be used.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path, wait)
        _check(connection, path)
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise TransportError(
                f"{path}: its file system cannot share memory between processes (WAL); use a local disk, not a network drive"
            )
        prepare(connection)
        _migrate(connection)
    except sqlite3.DatabaseError as error:
        if connection is not None:
            connection.close()
        raise TransportError(f"{path} cannot be opened: {said(error)}") from error
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection, path: str) -> None:
    connection.execute("BEGIN")  # all of it as of one moment
    try:
        [tables] = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
    finally:
        connection.execute("ROLLBACK")
    if application == APPLICATION:
        if version > len(STEPS):
            raise TransportError(
                f"{path} is of version {version}, this pipebus reads up to {len(STEPS)}: update pipebus; nothing was changed"
            )
    elif tables or application:
        raise TransportError(f"{path} is another program's database (application id {application:#x}); choose another file")


def _migrate(connection: sqlite3.Connection) -> None:
    """Step by step, each whole or not at all."""
    while (version := connection.execute("PRAGMA user_version").fetchone()[0]) < len(STEPS):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(STEPS[version]):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _statements(script: str) -> list[str]:
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("--")]
    return [statement for statement in "\n".join(lines).split(";") if statement.strip()]


REMEDIES: Final = {
    "disk is full": "make room on the disk; it goes on by itself",
    "disk I/O error": "look at the disk and the system's log; it goes on by itself if that passes",
    "readonly database": "give this user the right to write the file, its -wal, its -shm and its folder",
    "unable to open": "look whether the folder exists and this user may write into it",
    "database is locked": "another program (not pipebus) holds it; end its transaction",
    "not a database": "it is damaged or no SQLite file; restore it from a backup, or choose another file",
    "malformed": "it is damaged: run `sqlite3 FILE .recover` on a copy, or restore it from a backup",
    "no such table": "it was changed by another program; restore it from a backup",
    # And what the system says, where a file beside the database cannot be removed or made.
    "No space left": "make room on the disk; it goes on by itself",
    "Input/output error": "look at the disk and the system's log; it goes on by itself if that passes",
    "Permission denied": "give this user the right to write the file, its -wal, its -shm and its folder",
    "Read-only file system": "give this user the right to write the file, its -wal, its -shm and its folder",
}


def said(error: BaseException) -> str:
    """What SQLite says, and what helps."""
    text = str(error)
    return next((f"{text}: {remedy}" for part, remedy in REMEDIES.items() if part in text), text)

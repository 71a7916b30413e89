"""Opening a file: connections, the check whether it is ours, and bringing an older one up to date."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import quote

from pipebus.errors import TransportError
from pipebus.transports.sqlite import schema
from pipebus.transports.sqlite.descriptors import Identity, identity
from pipebus.transports.sqlite.remedies import REMEDIES, said

POLL: Final = 2
"""Milliseconds between two attempts to write while others do, of which some do not take our lock."""
LOG: Final = 64 * 2**20
"""Bytes that the log keeps after a checkpoint."""

INCREMENTAL: Final = 2
"""The value of `auto_vacuum` with which unused pages can be given back. Files of version 1 were made without it."""
UNUSED: Final = 4 * 2**20
"""Bytes that may be unused; and in a larger file a quarter of it, since they will be needed again."""
GIVEN: Final = 256
"""Most pages that are given back at once."""


def connect(path: str, wait: float, mode: str = "rw") -> sqlite3.Connection:
    """
    A connection without settings.

    Args:
        wait: Seconds to wait for other programs that write.
        mode: "rw": the file must exist; "ro": it is not changed.
    """
    return sqlite3.connect(
        f"file:{quote(path)}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False, timeout=wait,
        cached_statements=256,
    )  # fmt: skip


def connect_to_look(path: str, wait: float) -> sqlite3.Connection:
    """
    A connection that only reads and leaves no trace.

    The last connection that closes a file moves its log into it, unless it is read-only. And where there is no log, nobody
    uses the file: then it is read as it is ("immutable"), since even a connection that only reads would make an empty log.
    """
    return connect(path, wait, "ro" if in_use(path) else "ro&immutable=1")


def in_use(path: str) -> bool:
    """A process has the file open, or had it open and was killed."""
    return os.path.exists(f"{path}-wal")


def prepare(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Apply the settings of each connection that writes."""
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # see lock.py
    connection.execute(f"PRAGMA journal_size_limit = {LOG}")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def begin(connection: sqlite3.Connection, wait: float) -> None:
    """
    Begin to write, on a connection that itself waits for POLL.

    While others write, this tries again every few milliseconds. SQLite's own sleeps grow to a tenth of a second, and an
    application that writes all the time would be faster each time.

    Raises:
        sqlite3.Error: SQLITE_BUSY: others have written for `wait` seconds. Any other error: the file failed.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise


def is_busy(error: sqlite3.Error) -> bool:
    """Others write, or recover the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def give_back(connection: sqlite3.Connection) -> bool:
    """Return unused pages to the file system, if they are many. True: there are more."""
    pages, free, page, mode = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size", "auto_vacuum")
    )
    if mode != INCREMENTAL or free * page < UNUSED or free < pages // 4:
        return False
    connection.execute(f"PRAGMA incremental_vacuum({GIVEN})").fetchall()
    return True


class Kind(NamedTuple):
    """What identifies a SQLite file: application id, version, and the names in it that the bus needs for its own tables."""

    application: int
    version: int
    clashing: list[str]


def kind(connection: sqlite3.Connection) -> Kind:
    connection.execute("BEGIN")  # all of it as of one moment
    try:
        names = {name.lower(): name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        [application] = connection.execute("PRAGMA application_id").fetchone()
        [version] = connection.execute("PRAGMA user_version").fetchone()
    finally:
        connection.execute("ROLLBACK")
    return Kind(application, version, sorted(names[name] for name in names.keys() & schema.NAMES))


def look_at(path: str, wait: float) -> int:
    """
    Check that a bus can use this file, and return its version; 0: it is to be made. Changes nothing. Called while nobody else
    writes.

    Raises:
        TransportError: it cannot.
    """
    if sqlite3.sqlite_version_info < schema.OLDEST:
        least = ".".join(map(str, schema.OLDEST))
        raise TransportError(f"SQLite {sqlite3.sqlite_version} is too old; at least {least} is needed: use a newer Python")
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise TransportError(f"{path}: there is no folder {folder}; make it first")
    if os.path.isdir(path):
        raise TransportError(f"{path} is a folder; name a file in it")
    if not os.path.exists(path) or not os.path.getsize(path):
        return 0
    if not (os.access(path, os.W_OK) and os.access(folder, os.W_OK)):
        raise TransportError(f"{path} cannot be written; {REMEDIES['readonly database']}")
    try:
        connection = connect_to_look(path, wait)
        try:
            return _check(connection, path)
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise TransportError(f"{path} cannot be opened: {said(error)}") from error


def make(path: str) -> Identity:
    """
    Make the file if it is not there, and return its identity. SQLite must not make it: it would also do that for a file that
    was there a moment ago, and use the log and the index that are still next to it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    return identity(os.stat(path))


def open_file(path: str, wait: float) -> sqlite3.Connection:
    """
    Open an existing file, and make its tables or bring them up to date. Called while nobody else writes.

    Raises:
        TransportError: it belongs to another program or a newer pipebus, or cannot be used.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path, wait)
        if not _check(connection, path):
            connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")  # has no effect on a file that has tables already
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise TransportError(
                f"{path}: its file system cannot share memory between processes (WAL); use a local disk, not a network drive"
            )
        prepare(connection)
        _migrate(connection)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise TransportError(f"{path} cannot be opened: {said(error)}") from error
        raise
    return connection


def _check(connection: sqlite3.Connection, path: str) -> int:
    """
    The file's version.

    Raises:
        TransportError: the file belongs to another program or a newer pipebus.
    """
    found = kind(connection)
    if (why := refusal(found, path)) is not None:
        raise TransportError(why)
    return found.version


def refusal(found: Kind, path: str) -> str | None:
    """Why no bus can use a file; or None. The application may have made tables of its own in it before its first bus."""
    newest = len(schema.STEPS)
    if found.application == schema.APPLICATION:
        if found.version > newest:
            return (
                f"{path} is of version {found.version}, this pipebus reads up to {newest}: update pipebus; nothing was changed"
            )
    elif found.application:
        return f"{path} is another program's database (application id {found.application:#x}); choose another file"
    elif found.clashing:
        return (
            f"{path} is not a bus's file yet and has {', '.join(found.clashing)}, names that the bus's own tables and indexes "
            "need; rename them, or choose another file"
        )
    elif found.version:
        return (
            f"{path} is not a bus's file yet and has user_version {found.version}, where the bus keeps the version of its "
            "tables; set it to 0, or choose another file"
        )
    return None


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables up to date, completely or not at all."""
    version, newest = connection.execute("PRAGMA user_version").fetchone()[0], len(schema.STEPS)
    if version == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in schema.STEPS[version:]:
            for statement in _statements(step):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION}")
        connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("--")]
    return [statement for statement in "\n".join(lines).split(";") if statement.strip()]

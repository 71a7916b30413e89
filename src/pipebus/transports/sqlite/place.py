"""
The files behind a path: held so that no other process removes them, and compared with what the path means now.

SQLite looks its files up by name once, when it opens them. After that two things may go wrong without its notice.

*It loses its locks.* A plain `open("bus.db", "rb").read()` in this process, for a backup or a checksum, drops the locks that
SQLite holds (see descriptors.py). The next process that closes the database then believes that it is the last: it removes the
log, while this process goes on writing into it. So this module locks the same bytes once more with a lock of another kind
(OFD), which belongs to a descriptor of its own. Nothing but closing that descriptor releases it.

*The names come to mean other files*: somebody deletes, renames, replaces or overwrites them. `changed` detects that. It is
called after each commit, before anybody gets a receipt; what is removed later than that had been kept. Before a transaction,
`may_write` checks what would be found out too late after it. Both together take four `stat` calls and one short read.

A database that is overwritten in place keeps its inode. But only checkpoints write into it, and each of them leaves a mark in
the index (`-shm`), whose header SQLite documents in walformat.html. So if the database has another size or time and there was
no checkpoint, somebody else has written.
"""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from typing import Final, Literal, NamedTuple

from pipebus.errors import TransportError
from pipebus.transports.sqlite.descriptors import Held, Identity, holder, identity, locked, stat, used

SHARED: Final = (0x40000002, 510)
"""Bytes of the database that SQLite locks while it is open; a process locks all of them exclusively to remove the log."""
ALIVE: Final = (128, 1)
"""The byte of the index that is locked while a process uses it; if it is free, the next process starts a new index."""
HEADER: Final = struct.Struct("=14xHI76xI")
"""Of the index: page size, frames in the log, frames that are also in the database."""
MARK: Final = struct.Struct("=II56xI28xI")
"""Of the index, from byte 32: salts of the log, frames that are in the database, frames that are being moved there."""
READERS: Final = struct.Struct("=4I")
"""Of the index, from byte 104: up to which frame of the log each reader looks; READ locks the byte of the first of them."""
READ: Final = 124
START: Final = 128 * 2**10
"""Bytes at the start of the database, in which any two states of a bus differ: they contain the roots of all tables, and the
meta table, with the number of the last message, is one page."""


class _NotKept(TransportError):
    """A commit went into a file that is no longer at the path."""


class Change(NamedTuple):
    """
    Args:
        what: "file": the path means no file, or another one. "log", "index": the file next to it is missing, or another one.
            "content": the file was overwritten or cut short.
        text: What happened, to follow the file's name.
    """

    what: Literal["file", "log", "index", "content"]
    text: str


class _Index(NamedTuple):
    page: int
    frames: int
    backfilled: int


class Place:
    """
    The files of a database that this process has just opened. Made while nobody else writes.

    Args:
        name: The path as it was given, which may lead over symbolic links.
        path: The path that it led to.
        database: The file that was to be opened.

    Raises:
        OSError: one of the files is missing, or is not the one that was opened.
    """

    def __init__(self, name: str, path: str, database: Identity) -> None:
        self.name = name
        self.path = path
        self.log, self.index = f"{path}-wal", f"{path}-shm"
        self._held = Held()
        try:
            # The log is held as well, though nobody locks it: otherwise its inode could be given to another file.
            self._database = self._held.hold(path, SHARED)
            log = self._held.hold(self.log)
            self._shared = self._held.hold(self.index, ALIVE)
            self.ids = tuple(identity(os.fstat(file)) for file in (self._database, log, self._shared))
            if not identity(os.stat(name)) == self.ids[0] == database or not set(self.ids) <= used():
                raise OSError(f"{path} was replaced while it was being opened")
        except BaseException:
            self.let_go()
            raise
        self._log_size = 0
        self._known: tuple[tuple[int, ...], int, int, int] | None = None  # mark, size, time, checksum
        self._overwritten()

    # --- comparing -----------------------------------------------------------------------------------------------------

    def may_write(self) -> bool:
        """
        Before a transaction: the path still means the database, and the index is ours. If the index were missing, another
        process would make a new one and write where we would write. All else is detected in time after the commit.

        Raises:
            OSError: the files cannot be looked at.
        """
        found = stat(self.name)
        return found is not None and identity(found) == self.ids[0] and self._indexed()

    def _indexed(self) -> bool:
        index = stat(self.index)
        return index is not None and identity(index) == self.ids[2]

    def changed(self, index: bool = True) -> Change | None:
        """
        What has happened to the files since they were opened. Takes some microseconds.

        Args:
            index: Look at the index, too.

        Raises:
            OSError: the files cannot be looked at.
        """
        mark = self._mark()
        found = stat(self.name)
        if found is None:
            return Change("file", "was removed or renamed while it was in use")
        if identity(found) != self.ids[0]:
            return Change("file", "was replaced by another file while it was in use")
        log = stat(self.log)
        if log is None or identity(log) != self.ids[1]:
            return Change(
                "log", f"lost its log {self.log} (it was {'removed' if log is None else 'replaced'}) while it was in use"
            )
        if index and not self._indexed():
            return Change("index", f"lost its index {self.index} (it was removed or replaced) while it was in use")
        known = self._known
        if known is None or (found.st_size, found.st_mtime_ns) != known[1:3]:
            text = self._overwritten()
            if text is not None:
                return Change("content", text)
        elif mark != known[0] and not _active(mark):
            self._known = (mark, *known[1:])
        if log.st_size < self._log_size and self._cut():
            return Change("content", f"lost the end of its log {self.log}, which was cut while it was in use")
        self._log_size = log.st_size
        return None

    def unharmed(self) -> bool:
        """Only checkpoints have written into the database, under whatever name it has now."""
        return self._overwritten() is None

    def _overwritten(self) -> str | None:
        """
        A checkpoint announces in the index how far it will get before it writes into the database, and how far it got
        afterwards. So if the index says the same before and after this look, no checkpoint wrote in between.
        """
        before = self._mark()
        if _active(before):
            return None
        found, start = os.fstat(self._database), zlib.crc32(os.pread(self._database, START, 0))
        if self._mark() != before:
            return None
        known = self._known
        # Only the time may differ without harm, as after `touch`.
        if known is None or before != known[0] or (found.st_size, start) == (known[1], known[3]):
            self._known = (before, found.st_size, found.st_mtime_ns, start)
            return None
        if found.st_size < known[1]:
            return f"was cut from {known[1]:,} to {found.st_size:,} bytes while it was in use"
        return "was overwritten while it was in use"

    def _cut(self) -> bool:
        """
        The log is shorter than the index says, not just started over. Others may write meanwhile, who need not have the bus's
        lock. A frame is in the log before the index counts it, so the index is looked at first; if it is another one after
        that, look later.
        """
        index, found = self._look(), stat(self.log)
        page = 65536 if index.page == 1 else index.page
        short = found is None or found.st_size < 32 + index.frames * (page + 24)
        return index.frames > index.backfilled and short and self._look() == index

    def _mark(self) -> tuple[int, ...]:
        return MARK.unpack(os.pread(self._shared, MARK.size, 32).ljust(MARK.size, b"\0"))

    def _look(self) -> _Index:
        return _Index._make(HEADER.unpack(os.pread(self._shared, HEADER.size, 0).ljust(HEADER.size, b"\0")))

    def behind(self) -> set[int]:
        """Ids of processes that read an old state of the database, so that the log cannot start over."""
        last = self._look().frames
        marks = READERS.unpack(os.pread(self._shared, READERS.size, 104).ljust(READERS.size, b"\0"))
        pids = {holder(self._shared, (READ + slot, 1)) for slot, mark in enumerate(marks) if mark < last}
        return {pid for pid in pids if pid is not None and pid > 0}

    # --- leaving -------------------------------------------------------------------------------------------------------

    @property
    def moved(self) -> bool:
        """The database is no longer at its path, but still has a name."""
        return not self.there and os.fstat(self._database).st_nlink > 0

    @property
    def there(self) -> bool:
        """The path that the links led to still means the database."""
        found = stat(self.path)
        return found is not None and identity(found) == self.ids[0]

    @property
    def written(self) -> bool:
        """Everything in the log is also in the database."""
        index = self._look()
        return index.frames == index.backfilled

    @property
    def log_is_free(self) -> bool:
        """Nobody has begun another log."""
        found = stat(self.log)
        return found is None or found.st_size == 0

    def remove(self, *, log: bool) -> None:
        """
        Remove the index, and the log, if their names still mean ours; another database would take them for its own.

        Raises:
            OSError: they cannot be removed.
        """
        for path, own in ((self.index, self.ids[2]), *([(self.log, self.ids[1])] if log else [])):
            found = stat(path)
            if found is not None and identity(found) == own:
                os.unlink(path)

    def lingers(self) -> bool:
        """Something in this process has the index open, and SQLite would use that one for a new connection as well."""
        return self.ids[2] in used()

    def unlock(self) -> None:
        """Let the connections that are closed after this be the last ones, and move the log into the database."""
        self._held.unlock()

    def let_go(self) -> None:
        """The connections are closed, and nobody will compare the files any more."""
        self._held.release()


def _active(mark: tuple[int, ...]) -> bool:
    """A checkpoint is running, or was killed. It may have written, so look again later."""
    return mark[-1] > mark[-2]


def clear(path: str) -> None:
    """
    Before a database is opened, with the write lock held: remove a log and an index next to it that belong to another one.

    The program that uses them holds the index, but has no lock on this database. So its own database was renamed, removed or
    replaced a moment ago. SQLite would take that log and index for those of this database, and damage both. That program needs
    no names to save what is in its log.

    Raises:
        OSError: they cannot be removed.
    """
    log, index = f"{path}-wal", f"{path}-shm"
    found = stat(path)
    if (found is None or not found.st_size) or (locked(index, ALIVE) and not locked(path, SHARED)):
        for one in (index, log):
            with suppress(FileNotFoundError):
                os.unlink(one)

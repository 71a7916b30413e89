"""
The files behind a path: held so that no other process removes them, and compared with what the path means now.

SQLite looks its files up by name once, when it opens them. After that two things may happen behind its back.

*It loses its locks.* When a process closes any descriptor of a file, the system drops all POSIX locks of that process on the
file. So a plain `open("bus.db", "rb").read()`, for a backup or a checksum, drops the locks that SQLite holds, and the next
process that closes the database believes that it is the last: it removes the log, while this process goes on writing into it.
Against that we lock the same bytes once more with a lock of the other kind (OFD), which belongs to a descriptor of our own.
Nothing but closing that descriptor releases it. To close it would drop SQLite's locks as well, so it is closed only when
nothing else in this process has the file open.

*The names come to mean other files*: somebody deletes, renames, replaces or overwrites them. `changed` finds that out. It is
asked after each commit, before anybody gets a receipt: what is removed later than that had been kept. Before the transaction
`may_write` asks for what should not be found out too late. Both together are four `stat` calls and one short read.

A database that is overwritten in place keeps its inode. But only checkpoints write into it, and each of them leaves a mark in
the index (`-shm`), whose header SQLite documents in walformat.html. So if the database has another size or time and there was
no checkpoint, then somebody else has written.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import weakref
import zlib
from contextlib import suppress
from typing import Final, Literal, NamedTuple

from pipebus.errors import TransportError

SHARED: Final = (0x40000002, 510)
"""Bytes of the database that SQLite locks while it is open; whoever removes the log locks all of them exclusively."""
ALIVE: Final = (128, 1)
"""The byte of the index that is locked while anybody uses it; if it is free, the next one to come begins the index anew."""
FLOCK: Final = "hhqqi4x"
"""`struct flock`: kind, whence, start, length, process."""
HEADER: Final = struct.Struct("=14xHI76xI")
"""Of the index: page size, frames in the log, frames that are in the database, too."""
MARK: Final = struct.Struct("=II56xI28xI")
"""Of the index, from byte 32 on: salts of the log, frames that are in the database, frames that are on their way."""
START: Final = 128 * 2**10
"""Bytes at the start of the database, in which any two states of a bus differ: it has the roots of all tables, and the meta
table, with the number of the last message, is one page."""


class _NotKept(TransportError):
    """A commit went into a file that is not at the path any more."""


Identity = tuple[int, int]


class Change(NamedTuple):
    """
    Args:
        what: "file": the path means no file, or another one. "log", "index": the file beside it is missing, or another one.
            "content": the file was overwritten, or cut short.
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
    The files of a database that this process has just opened; called while nobody else writes.

    Args:
        name: The path as it was given; it may lead over symbolic links.
        path: Where it led to.
        database: What was to be opened.

    Raises:
        OSError: one of them is not there, or is not the one that was opened.
    """

    def __init__(self, name: str, path: str, database: Identity) -> None:
        self.name = name
        self.path = path
        self.log, self.index = f"{path}-wal", f"{path}-shm"
        self._files: list[int] = []
        with _here.lock:
            _here.places.add(self)
        try:
            # The log too, which has no locks: a number of an inode is given to another file when nobody has it open.
            self._database, log, self._shared = self._hold(path, SHARED), self._hold(self.log), self._hold(self.index, ALIVE)
            self.ids = tuple(identity(os.fstat(file)) for file in (self._database, log, self._shared))
            if not identity(os.stat(name)) == self.ids[0] == database or not set(self.ids) <= used():
                raise OSError(f"{path} was replaced while it was being opened")
        except BaseException:
            self.let_go()
            raise
        self._log_size = 0
        self._known: tuple[tuple[int, ...], int, int, int] | None = None  # mark, size, time, checksum
        self._overwritten()

    def _hold(self, path: str, where: tuple[int, int] | None = None) -> int:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._files.append(file)
        if where is not None:
            with suppress(OSError):  # a file system without such locks; then `changed` has to do
                _lock(file, fcntl.F_RDLCK, where)
        return file

    # --- comparing -----------------------------------------------------------------------------------------------------

    def may_write(self) -> bool:
        """
        Before a transaction: the path still means the database, and the index is ours. Without that index, whoever opens the
        database makes another one, and writes where we would write. All else is seen in time after the commit.

        Raises:
            OSError: it cannot be seen.
        """
        found = stat(self.name)
        return found is not None and identity(found) == self.ids[0] and self._indexed()

    def _indexed(self) -> bool:
        index = stat(self.index)
        return index is not None and identity(index) == self.ids[2]

    def changed(self, index: bool = True) -> Change | None:
        """
        What has happened to the files since they were opened. Costs some microseconds.

        Args:
            index: Look at the index, too.

        Raises:
            OSError: it cannot be seen.
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
        if log.st_size < self._log_size and self._too_short(log.st_size):
            return Change("content", f"lost the end of its log {self.log}, which was cut while it was in use")
        self._log_size = log.st_size
        return None

    def unharmed(self) -> bool:
        """Nobody but checkpoints has written into the database, under whatever name it has now."""
        return self._overwritten() is None

    def _overwritten(self) -> str | None:
        """
        A checkpoint says in the index how far it means to come before it writes into the database, and how far it has come
        afterwards. So if the index says the same before and after we look, then nobody wrote in between whom it knows of.
        """
        before = self._mark()
        if _active(before):
            return None
        found, start = os.fstat(self._database), zlib.crc32(os.pread(self._database, START, 0))
        if self._mark() != before:
            return None
        known = self._known
        if known is None or before != known[0] or (found.st_size, start) == (known[1], known[3]):  # the last: as by `touch`
            self._known = (before, found.st_size, found.st_mtime_ns, start)
            return None
        if found.st_size < known[1]:
            return f"was cut from {known[1]:,} to {found.st_size:,} bytes while it was in use"
        return "was overwritten while it was in use"

    def _too_short(self, size: int) -> bool:
        """The log has less than what the index says. It gets shorter when it begins anew, too."""
        index = self._look()
        page = 65536 if index.page == 1 else index.page
        return index.frames > index.backfilled and size < 32 + index.frames * (page + 24)

    def _mark(self) -> tuple[int, ...]:
        return MARK.unpack(os.pread(self._shared, MARK.size, 32).ljust(MARK.size, b"\0"))

    def _look(self) -> _Index:
        return _Index._make(HEADER.unpack(os.pread(self._shared, HEADER.size, 0).ljust(HEADER.size, b"\0")))

    # --- leaving -------------------------------------------------------------------------------------------------------

    @property
    def moved(self) -> bool:
        """The database is not at its path any more, but it has a name."""
        return not self.there and os.fstat(self._database).st_nlink > 0

    @property
    def there(self) -> bool:
        """The path, without the links that led to it, still means the database."""
        found = stat(self.path)
        return found is not None and identity(found) == self.ids[0]

    @property
    def written(self) -> bool:
        """Everything in the log is in the database as well."""
        index = self._look()
        return index.frames == index.backfilled

    @property
    def log_is_free(self) -> bool:
        """Nobody has begun another log."""
        found = stat(self.log)
        return found is None or found.st_size == 0

    def remove(self, *, log: bool) -> None:
        """
        Remove the index, and the log, where their names still mean ours: they would be taken for those of another database.

        Raises:
            OSError: they cannot be removed.
        """
        for path, own in ((self.index, self.ids[2]), *([(self.log, self.ids[1])] if log else [])):
            found = stat(path)
            if found is not None and identity(found) == own:
                os.unlink(path)

    def lingers(self) -> bool:
        """Something in this process has the index open: SQLite would use that one for a new connection, too."""
        return self.ids[2] in used()

    def unlock(self) -> None:
        """What is closed after this may be the last, and move the log into the database."""
        for file in self._files:
            with suppress(OSError):
                _lock(file, fcntl.F_UNLCK, (0, 0))

    def let_go(self) -> None:
        """The files were closed, and nobody will ask any more which they were."""
        self.unlock()
        with _here.lock:
            files, self._files = self._files, []
            _here.places.discard(self)
            _park(files)


def _active(mark: tuple[int, ...]) -> bool:
    """A checkpoint is being made, or was killed: it tells of itself in the end, so look again later."""
    return mark[-1] > mark[-2]


def identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def stat(path: str) -> os.stat_result | None:
    """None: it is not there."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def clear(path: str) -> None:
    """
    Before a database is opened, with the lock for writers held: remove a log and an index beside it that are another one's.

    Its program runs: it holds the index, but has no lock on this database. So the one that it uses was renamed, removed or
    replaced a moment ago. SQLite would take its log and index for those of this database, and both would be damaged. That
    program needs no names to save what is in its log.

    Raises:
        OSError: they cannot be removed.
    """
    log, index = f"{path}-wal", f"{path}-shm"
    found = stat(path)
    if (found is None or not found.st_size) or (_locked(index, ALIVE) and not _locked(path, SHARED)):
        for one in (index, log):
            with suppress(FileNotFoundError):
                os.unlink(one)


def _locked(path: str, where: tuple[int, int]) -> bool:
    """Somebody has locked these bytes, in this process or in another one."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *where, 0)
        return bool(struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)
    except OSError:
        return False  # a file system without such locks
    finally:
        with _here.lock:
            _park([file])


def _lock(file: int, kind: int, where: tuple[int, int]) -> None:
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(FLOCK, kind, os.SEEK_SET, *where, 0))


class _Here:
    """
    What is open here in all of this process. `parked` are descriptors without a lock, of files that something else in this
    process had open when they should have been closed.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a finaliser may need it while its own thread has it
        self.places: weakref.WeakSet[Place] = weakref.WeakSet()
        self.parked: list[int] = []

    @property
    def files(self) -> set[int]:
        return {*self.parked, *(file for place in self.places for file in place._files)}


_here: Final = _Here()


def used() -> set[Identity]:
    """The files that this process has open, by SQLite or by anybody else but us."""
    with _here.lock:
        return _others()


def _others() -> set[Identity]:
    own = _here.files
    found: set[Identity] = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in own:
            with suppress(OSError):  # it was the listing itself, or is closed by now
                found.add(identity(os.fstat(number)))
    return found


def _park(files: list[int]) -> None:
    """Close descriptors, now or later: not while closing them would drop somebody's locks. Called with `_here.lock`."""
    _here.parked.extend(files)
    others = _others()
    for file in list(_here.parked):
        if identity(os.fstat(file)) not in others:
            _here.parked.remove(file)
            os.close(file)


def _forget() -> None:
    """In a forked child: what is open here belongs to the parent, and would keep its locks when the parent has died."""
    files = _here.files
    _here.lock = threading.RLock()  # another thread may have held it
    _here.parked.clear()
    for place in _here.places:
        place._files = []
    for file in files:
        with suppress(OSError):
            os.close(file)


os.register_at_fork(after_in_child=_forget)

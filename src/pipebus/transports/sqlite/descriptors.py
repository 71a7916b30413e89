"""
The files that this process has open, and locks on them that belong to one descriptor.

When a process closes any descriptor of a file, the system drops all POSIX locks that this process has on the file, SQLite's
included. So a descriptor of ours is closed only while nothing else in this process has the same file open. Until then it is
parked: it stays open, without a lock.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import weakref
from contextlib import suppress
from typing import Final

FLOCK: Final = "hhqqi4x"
"""`struct flock`: kind, whence, start, length, process."""

Identity = tuple[int, int]
"""Device and inode: what makes a file the same file."""
Range = tuple[int, int]
"""First byte and number of bytes."""


def identity(found: os.stat_result) -> Identity:
    return found.st_dev, found.st_ino


def stat(path: str) -> os.stat_result | None:
    """None: there is no such file."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


class Held:
    """Descriptors that keep files, and share locks on them, until they are released."""

    def __init__(self) -> None:
        self.files: list[int] = []
        with _process.lock:
            _process.held.add(self)

    def hold(self, path: str, where: Range | None = None) -> int:
        """Open a file, and lock these bytes of it."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.files.append(file)
        if where is not None:
            with suppress(OSError):  # a file system without such locks
                _lock(file, fcntl.F_RDLCK, where)
        return file

    def unlock(self) -> None:
        for file in self.files:
            with suppress(OSError):
                _lock(file, fcntl.F_UNLCK, (0, 0))

    def release(self) -> None:
        """Unlock, and close as soon as that is safe."""
        self.unlock()
        with _process.lock:
            files, self.files = self.files, []
            _process.held.discard(self)
            _park(files)


def locked(path: str, where: Range) -> bool:
    """Whether any process, this one included, has locked these bytes."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return holder(file, where) is not None
    finally:
        with _process.lock:
            _park([file])


def holder(file: int, where: Range) -> int | None:
    """The id of a process that has locked these bytes; None: nobody has. -1: a lock that belongs to a descriptor."""
    asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *where, 0)
    try:
        kind, *_, pid = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
    except OSError:
        return None  # a file system without such locks
    return None if kind == fcntl.F_UNLCK else int(pid)


def _lock(file: int, kind: int, where: Range) -> None:
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack(FLOCK, kind, os.SEEK_SET, *where, 0))


class _Process:
    """What is open in all of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a finaliser may need it while its own thread has it
        self.held: weakref.WeakSet[Held] = weakref.WeakSet()
        self.parked: list[int] = []

    @property
    def files(self) -> set[int]:
        return {*self.parked, *(file for held in self.held for file in held.files)}


_process: Final = _Process()


def used() -> set[Identity]:
    """The files that SQLite or anybody else but us has open in this process."""
    with _process.lock:
        return _others()


def _others() -> set[Identity]:
    own = _process.files
    found: set[Identity] = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        if number not in own:
            with suppress(OSError):  # it was the listing itself, or is closed by now
                found.add(identity(os.fstat(number)))
    return found


def _park(files: list[int]) -> None:
    """Close all parked descriptors whose closing drops nobody's locks. Called with the lock held."""
    _process.parked.extend(files)
    others = _others()
    for file in list(_process.parked):
        if identity(os.fstat(file)) not in others:
            _process.parked.remove(file)
            os.close(file)


def _forget() -> None:
    """In a forked child: what is open here belongs to the parent, and would keep its locks after the parent has died."""
    files = _process.files
    _process.lock = threading.RLock()  # another thread may have held it
    _process.parked.clear()
    for held in _process.held:
        held.files = []
    for file in files:
        with suppress(OSError):
            os.close(file)


os.register_at_fork(after_in_child=_forget)

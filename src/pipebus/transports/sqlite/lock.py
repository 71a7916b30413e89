"""
One writer at a time, in all processes: a lock on a file of its own next to the database.

SQLite has a lock for writers too. This one comes before it, for three reasons. A process that waits for it gets it within a
millisecond, instead of after SQLite's growing sleeps. A handler's long transaction and the group commit wait for each other in
turn. And checkpoints, which SQLite lets run at the same time as a writer, are made under it as well: before SQLite 3.51.3 a
checkpoint that begins while another connection commits can lose pages ("WAL-reset bug", sqlite.org/wal.html).

It must be another file than the database: closing the database's file would drop all locks that SQLite has on it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipebus.errors import TransportError
from pipebus.transports.sqlite.descriptors import Identity, identity, stat
from pipebus.waiting.locks import interrupted

_open: weakref.WeakSet[WriteLock] = weakref.WeakSet()


class WriteLock:
    """
    The lock's file may be removed or replaced like any other; see `follow`.

    Args:
        path: Of the database.
        wait: Seconds to wait for the lock.
    """

    def __init__(self, path: str, wait: float) -> None:
        self.path = path
        self.wait = wait
        self._turn = threading.RLock()  # it knows its owner at once: a signal may come right after it was taken
        self._file: int | None = None
        self._id: Identity | None = None
        self._former: list[int] = []  # files that stay locked as well until the end of this turn
        self._left = False  # close it at the end of this turn

    def open(self) -> None:
        """
        Raises:
            OSError: the lock's file cannot be opened.
        """
        file = os.open(f"{self.path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._file, self._id = file, identity(os.fstat(file))
        _open.add(self)

    def close(self) -> None:
        """Close it now; or, if an abandoned handler still holds it, when that handler ends."""
        if self.mine or not self._turn.acquire(blocking=False):
            self._left = True
            return
        try:
            self._close()
        finally:
            self._turn.release()

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    @property
    def mine(self) -> bool:
        """This thread holds it."""
        return self._turn._is_owned()  # type: ignore[attr-defined, no-any-return]

    @contextmanager
    def held(self) -> Iterator[None]:
        """
        Raises:
            TransportError: others held it for as long as this may wait. LifecycleError: this thread holds it, and the calling
                code has interrupted that.
        """
        if self.mine:
            raise interrupted()
        if not self._turn.acquire(timeout=self.wait):
            raise self._late("this process: does a handler keep its transaction open?")
        try:
            if self._file is None:
                raise TransportError(f"{self.path} is closed")
            try:
                self._lock()
                yield
            finally:
                if self._file is not None:  # otherwise this is a forked child
                    fcntl.flock(self._file, fcntl.LOCK_UN)
                while self._former:
                    os.close(self._former.pop())
                if self._left:
                    self._close()
        finally:
            self._turn.release()

    def follow(self, path: str) -> None:
        """
        While it is held: check that it is still the file that others would lock. If it is not, hold that file too, and only
        that one from the next turn on. Nobody locks them in the other order, so no two processes wait for each other.

        Raises:
            TransportError: as `held`, or its file cannot be made again.
        """
        self.path = path
        while self.swapped():
            former = self._file
            assert former is not None
            try:
                self.open()
            except OSError as error:
                raise TransportError(
                    f"{path}-lock was removed, and cannot be made again: {error.strerror}; look whether the folder exists and "
                    "this user may write into it"
                ) from error
            self._former.append(former)
            self._lock()

    def swapped(self) -> bool:
        """Its name means another file, or none."""
        found = stat(f"{self.path}-lock")
        return found is None or identity(found) != self._id

    def _lock(self) -> None:
        file, deadline, pause = self._file, time.monotonic() + self.wait, 0.00005
        assert file is not None
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise self._late("another process: does it hold a transaction open, or is it stopped?") from None
                time.sleep(pause)
                pause = min(pause * 2, 0.001)

    def _late(self, who: str) -> TransportError:
        return TransportError(f"{self.path}: waited {self.wait:g} s to write; it was held by {who}")


def _forget() -> None:
    """In a forked child: what is open here belongs to the parent; the copy would keep its lock after the parent has died."""
    for lock in list(_open):
        files = [file for file in (lock._file, *lock._former) if file is not None]
        lock._file, lock._former = None, []
        for file in files:
            with suppress(OSError):
                os.close(file)


os.register_at_fork(after_in_child=_forget)

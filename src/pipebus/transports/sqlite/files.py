"""
One writer at a time, in all processes: a lock on a file of its own beside the database.

SQLite has a lock for writers too; this one stands before it for three reasons. Whoever waits for it is served within a
millisecond instead of SQLite's growing sleeps. A handler's long transaction and the group commit wait for each other in
turn. And a checkpoint, which SQLite lets run beside a writer, is made under it as well: before SQLite 3.51.3 a checkpoint that
begins while another connection commits can lose pages ("WAL-reset bug", sqlite.org/wal.html).

The file has to be another one than the database: closing the database's file drops all locks that SQLite has on it.
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

_open: weakref.WeakSet[WriteLock] = weakref.WeakSet()


class WriteLock:
    """
    Args:
        path: Of the database.
        wait: Seconds to wait for it.
    """

    def __init__(self, path: str, wait: float) -> None:
        self.path = path
        self.wait = wait
        self._turn = threading.Lock()
        self._file: int | None = None
        self._left = False

    def open(self) -> None:
        self._file = os.open(f"{self.path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _open.add(self)

    def close(self) -> None:
        """Close it; if somebody holds it still, a handler that was abandoned, when that one ends."""
        if not self._turn.acquire(blocking=False):
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

    @contextmanager
    def held(self) -> Iterator[None]:
        """
        Raises:
            TransportError: others had it for all the time that may be waited.
        """
        deadline = time.monotonic() + self.wait
        if not self._turn.acquire(timeout=self.wait):
            raise self._late("this process: does a handler keep its transaction open?")
        try:
            file = self._file
            if file is None:
                raise TransportError(f"{self.path} is closed")
            pause = 0.00005
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise self._late("another process: does it hold a transaction open, or is it stopped?") from None
                    time.sleep(pause)
                    pause = min(pause * 2, 0.001)
            try:
                yield
            finally:
                if self._file == file:  # else this is a forked child
                    fcntl.flock(file, fcntl.LOCK_UN)
                if self._left:
                    self._close()
        finally:
            self._turn.release()

    def _late(self, who: str) -> TransportError:
        return TransportError(f"{self.path}: waited {self.wait:g} s to write; it was held by {who}")


def _forget() -> None:
    """In a forked child: what is open here belongs to the parent; the copy would keep its lock when the parent has died."""
    for lock in list(_open):
        file, lock._file = lock._file, None
        if file is not None:
            with suppress(OSError):
                os.close(file)


os.register_at_fork(after_in_child=_forget)

"""
Locks that know their owner, for code that may interrupt itself.

A signal handler or a finaliser (`__del__`) runs between any two steps of a thread, even while that thread holds a lock of the
bus. If such code calls the bus, an ordinary lock would make the thread wait for itself forever, and a reentrant lock would let
it see a half-changed state. So every lock of the bus is a reentrant one, and code that takes it checks first:

    with free(lock):

The check and the `with` need not be one step: anything that runs on this thread in between releases the lock before it ends.

A call that waits for other threads checks all locks of its bus (`Locks.check`). Those threads may need a lock that the
interrupted code holds, and which it cannot release before the wait is over.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final

from pipebus.errors import LifecycleError

SHARED: Final = 16
"""How many locks all mailboxes with several workers or readers share."""


def interrupted() -> LifecycleError:
    return LifecycleError(
        "this call comes from a signal handler or a finaliser that interrupted the bus in the middle of a change on this very "
        "thread; call bus.request_stop() there, which works at any moment, or hand the work to another thread"
    )


def free(lock: Any) -> Any:
    """
    The lock, for a `with`.

    Raises:
        LifecycleError: this thread already holds it.
    """
    if lock._is_owned():
        raise interrupted()
    return lock


class Locks:
    """The locks of one bus."""

    def __init__(self) -> None:
        self._all: list[Any] = []
        self._lent: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self._shared: list[Any] = []
        self._turn = itertools.count()
        self._others: list[Locks] = []
        self.checks: list[Callable[[], Callable[[], None] | None]] = []  # weak references to further ones
        self.starting: set[int] = set()  # threads that are about to start a thread for which all may wait

    def new(self) -> Any:
        """A lock that lives as long as the bus."""
        lock = threading.RLock()
        self._all.append(lock)
        return lock

    def lend(self) -> Any:
        """A lock that lives as long as its user."""
        lock = threading.RLock()
        self._lent[next(self._numbers)] = lock
        return lock

    def share(self) -> Any:
        """One of a few locks that many objects share, so that `check` has few to look at."""
        number = next(self._turn)
        if number < SHARED:
            lock = self.new()
            self._shared.append(lock)
            return lock
        return self._shared[number % len(self._shared)]

    def add(self, others: Locks) -> None:
        """Check the locks of a transport too."""
        self._others.append(others)

    def check(self) -> None:
        """
        Raises:
            LifecycleError: this thread holds one of the locks, or is about to start a thread for which all may wait.
        """
        if self.starting and threading.get_ident() in self.starting:
            raise interrupted()
        for lock in self._all:
            if lock._is_owned():
                raise interrupted()
        for reference in self.checks:
            check = reference()
            if check is not None:
                check()
        for others in self._others:
            others.check()
        if self._lent:
            for reference in self._lent.valuerefs():  # a list, because other threads add and remove locks meanwhile
                lock = reference()
                if lock is not None and lock._is_owned():
                    raise interrupted()

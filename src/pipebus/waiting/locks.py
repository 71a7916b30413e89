"""
Locks that know their owner, for code that may interrupt itself.

A signal handler and a finaliser (`__del__`) run between any two steps of a thread, also while that thread holds one of the
bus's locks. If such code calls the bus, an ordinary lock would let the thread wait for itself forever. A reentrant lock would
let it in, to a state that is half changed. So every lock of the bus is a reentrant one, and whoever takes it asks first:

    with free(lock):

The question and the `with` need not be one step: what runs in between, on this thread, has given the lock back when it ends.

A call that waits for other threads asks about all locks of its bus (`Locks.check`). Those threads may need a lock that the
interrupted code holds, and it cannot give that lock back before the wait is over.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from typing import Any, Final

from pipebus.errors import LifecycleError

SHARED: Final = 16
"""Locks that all mailboxes with several workers or readers share."""


def interrupted() -> LifecycleError:
    return LifecycleError(
        "this call comes from a signal handler or a finaliser that interrupted the bus in the middle of a change on this very "
        "thread; call bus.request_stop() there, which works at any moment, or hand the work to another thread"
    )


def free(lock: Any) -> Any:
    """
    The lock, to be taken by `with`.

    Raises:
        LifecycleError: this thread holds it already.
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
        self.starting: set[int] = set()  # threads that are about to start one that all may wait for

    def new(self) -> Any:
        """One that lives as long as the bus."""
        lock = threading.RLock()
        self._all.append(lock)
        return lock

    def lend(self) -> Any:
        """One that goes with its user."""
        lock = threading.RLock()
        self._lent[next(self._numbers)] = lock
        return lock

    def share(self) -> Any:
        """One of a few, for objects that may be many, so that `check` need not ask about each of them."""
        number = next(self._turn)
        if number < SHARED:
            lock = self.new()
            self._shared.append(lock)
            return lock
        return self._shared[number % len(self._shared)]

    def add(self, others: Locks) -> None:
        """Ask about a transport's too."""
        self._others.append(others)

    def check(self) -> None:
        """
        Raises:
            LifecycleError: this thread holds one of them, or is about to start another thread that all may wait for.
        """
        if self.starting and threading.get_ident() in self.starting:
            raise interrupted()
        for lock in self._all:
            if lock._is_owned():
                raise interrupted()
        for others in self._others:
            others.check()
        if self._lent:
            for reference in self._lent.valuerefs():  # a list: others lend and let go meanwhile
                lock = reference()
                if lock is not None and lock._is_owned():
                    raise interrupted()

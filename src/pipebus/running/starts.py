"""Threads that could not be started, and are tried again."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any, Final

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

SOON: Final = 0.05  # seconds until a thread that could not be started is tried again


class Starts:
    """
    Threads that could not be started ("can't start new thread"). They are tried again soon, by the timer, and whenever a
    caller waits for the bus to become quiet.

    Args:
        warn: Logs that, once until a start succeeds.
    """

    def __init__(self, warn: Callable[..., None]) -> None:
        self.warn = warn
        self.later: Callable[[float, Callable[[], None]], object] = lambda seconds, call: None
        self._runners: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self._again: dict[Callable[[], object], None] = {}
        self._called = False  # the timer will call
        self._unsaid: tuple[str, str] | None = None
        self._said = False

    def failed(self, name: str, error: BaseException, again: Callable[[], object]) -> None:
        """
        Args:
            again: Tries to start it if that is still needed, and calls `failed` again if it cannot. It raises nothing.
        """
        self._again[again] = None
        self._unsaid = (name, str(error))
        if not self._called:
            self._called = True
            self.later(SOON, self.retry)

    def say(self) -> None:
        """Log a failed start. Call it without a lock, because a log handler may publish."""
        unsaid, self._unsaid = self._unsaid, None
        if unsaid is not None and not self._said:
            self._said = True
            name, error = unsaid
            self.warn("thread.not_started", thread=name, error=error, advice="it is tried again until it can be had")

    def serves(self, runner: Any) -> None:
        self._runners[next(self._numbers)] = runner

    def help(self) -> None:
        """
        Before a wait: look at the ready lists. The code that put a mailbox there does that too, but it may be the code that
        this call has interrupted.
        """
        for reference in self._runners.valuerefs():  # a list, because runners may come and go during the loop
            runner = reference()
            if runner is None:
                continue
            runner.help()

    def retry(self) -> None:
        self._called = False
        self.help()
        self.say()
        for again in list(self._again):
            if self._again.pop(again, again) is None:
                again()
        if not self._again:
            self._said = False

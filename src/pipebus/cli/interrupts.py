"""Signals while a program reads its input."""

import signal
import threading
from collections.abc import Callable
from typing import Any


class Interrupted(Exception):
    """The reading ends here."""


class Interrupts:
    """
    SIGINT and SIGTERM while records are published: the reading ends, no publish is broken off, and what was accepted is
    handled. A second one does not wait for that. (A record that is being read at that moment is not published.)

    The handler raises only inside `read`, where a program waits for its input; elsewhere it leaves a note that the next `read`
    finds. So no exception comes between two steps of a publish.

    Args:
        hurry: What a second signal calls, between two steps of the main thread: so it takes no lock.
    """

    def __init__(self, hurry: Callable[[], object]) -> None:
        self.count = 0
        self.number: int | None = None
        self._hurry = hurry
        self._reading = False
        self._before: dict[int, Any] = {}
        self._lock = threading.Lock()
        self._active = False
        self._woken = False
        self._knocks = 0

    @property
    def name(self) -> str | None:
        return None if self.number is None else signal.Signals(self.number).name

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        self._active = True
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._active = False
        # A knock that came before has been heard by now: the main thread hears between any two of its steps.
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def wake(self) -> None:
        """End the reading, from any thread, as a signal would; but it is none. The second call does nothing."""
        with self._lock:
            if not self._active or self._woken:
                return
            self._woken = True
            if hasattr(signal, "pthread_kill"):  # else the next record ends it
                self._knocks += 1
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _on_signal(self, number: int, _: object) -> None:
        if number == signal.SIGTERM and self._knocks:
            self._knocks -= 1
        else:
            self.count += 1
            self.number = number
        if self._reading:
            raise Interrupted
        if self.count > 1:
            self._hurry()
        if self.count > 2:
            raise KeyboardInterrupt  # it hangs, and somebody wants out

    def read(self, read: Callable[[], Any]) -> Any:
        """
        Raises:
            Interrupted: a signal came, now or before, or somebody has called `wake`.
        """
        self._reading = True
        try:
            if self.count or self._woken:
                raise Interrupted
            return read()
        finally:
            self._reading = False

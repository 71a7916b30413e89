"""Signals while a command reads its input, or waits for messages."""

import select
import signal
import socket
from collections.abc import Callable
from typing import Any

from pipebus.bus.signals import ending_signals


class Interrupted(Exception):
    """The reading of the input must end."""


class Interrupts:
    """
    Handles SIGINT, SIGTERM and SIGHUP while records are published.

    The first signal ends the reading. It interrupts no publish, and accepted messages are handled or stay in their store. A
    second signal does not wait for that. An ignored signal stays ignored.

    The signal handler only sets flags. `wait` waits for input and also for a socket to which the interpreter itself writes
    on a signal (`set_wakeup_fd`). So it does not miss a signal that comes just before it waits, and no signal raises an
    exception at an arbitrary point.

    `hurry` is called by the second signal and `first` by the first, between any two steps of the main thread: without locks.
    """

    def __init__(self, hurry: Callable[[], object], first: Callable[[], object] = lambda: None) -> None:
        self.count = 0
        self.number: int | None = None
        self._hurry = hurry
        self._first = first
        self._woken = False
        self._opening = False
        self._before: dict[int, Any] = {}

    @property
    def name(self) -> str | None:
        return None if self.number is None else signal.Signals(self.number).name

    @property
    def asked(self) -> bool:
        """True if the reading must end."""
        return self._woken or self.count > 0

    def __enter__(self) -> "Interrupts":
        self._ear, self._hand = socket.socketpair()
        self._ear.setblocking(False)
        self._hand.setblocking(False)
        self._former = signal.set_wakeup_fd(self._hand.fileno(), warn_on_full_buffer=False)
        for number in ending_signals():
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.set_wakeup_fd(self._former)
        self._ear.close()
        self._hand.close()

    def ring(self) -> None:
        """End the reading, from any thread, as a signal would. (So a bus that is asked to stop can ring it.)"""
        self._woken = True
        try:
            self._hand.send(b"!")
        except OSError:  # the socket is full of earlier wake-ups, or closed
            return

    def _on_signal(self, number: int, _: object) -> None:
        self.count += 1
        self.number = number
        if self.count > 1:
            self._hurry()
        else:
            self._first()
        if self._opening:
            raise Interrupted
        if self.count > 2:
            raise KeyboardInterrupt  # the stop hangs, and the user insists

    def wait(self, descriptor: int) -> None:
        """Wait until something can be read; raise Interrupted if a signal comes, or has come, or `ring` is called."""
        while not self.asked:
            ready, _, _ = select.select([descriptor, self._ear.fileno()], [], [])
            if self._ear.fileno() not in ready:
                return
            self._ear.recv(1024)
        raise Interrupted

    def pause(self, seconds: float) -> bool:
        """Wait so many seconds; return False at once if a signal comes or has come."""
        self.ready(None, seconds)
        return not self.asked

    def ready(self, descriptor: int | None, seconds: float) -> bool:
        """Wait up to so many seconds until something can be read. False: nothing can yet, or a signal that is handled came."""
        watched = [self._ear.fileno(), *([] if descriptor is None else [descriptor])]
        found = [] if self.asked else select.select(watched, [], [], max(0.0, seconds))[0]
        if self._ear.fileno() in found:
            self._ear.recv(1024)
        return descriptor in found

    def opening(self, call: Callable[[], Any]) -> Any:
        """Return what a call returns. A signal interrupts it with an exception, because a named pipe waits for a writer."""
        self._opening = True
        try:
            if self.asked:
                raise Interrupted
            return call()
        finally:
            self._opening = False

"""Signals while a program reads its input, or waits for news."""

import select
import signal
import socket
from collections.abc import Callable
from typing import Any

from pipebus.bus.lifecycle import ending_signals


class Interrupted(Exception):
    """The reading ends here."""


class Interrupts:
    """
    SIGINT, SIGTERM and SIGHUP while records are published: the reading ends, no publish is broken off, and what was accepted
    is handled or stays in its store. A second one does not wait for that. One that is ignored stays ignored.

    Their handler only leaves a note. What waits for input waits in `wait`, for a bell too, which the interpreter rings in the
    signal's own handler (`set_wakeup_fd`): so a signal that comes just before the wait is not missed, and no exception comes
    between two steps of anything.

    Args:
        hurry: What a second signal calls, between two steps of the main thread: so it takes no lock.
        first: What the first one calls, likewise.
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
        """Somebody wants the reading to end."""
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
        """Somebody asks the bus to stop."""
        self.wake()

    def wake(self) -> None:
        """End the reading, from any thread, as a signal would; but it is none."""
        self._woken = True
        try:
            self._hand.send(b"!")
        except OSError:  # it has rung already, or there is nobody to hear it any more
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
            raise KeyboardInterrupt  # it hangs, and somebody wants out

    def wait(self, descriptor: int) -> None:
        """
        Wait until something can be read.

        Raises:
            Interrupted: a signal came, now or before, or somebody has called `wake`.
        """
        while not self.asked:
            ready, _, _ = select.select([descriptor, self._ear.fileno()], [], [])
            if self._ear.fileno() not in ready:
                return
            self._ear.recv(1024)
        raise Interrupted

    def pause(self, seconds: float) -> bool:
        """Wait so long; False, at once, if a signal comes or has come."""
        if not self.asked and select.select([self._ear.fileno()], [], [], seconds)[0]:
            self._ear.recv(1024)
        return not self.asked

    def opening(self, call: Callable[[], Any]) -> Any:
        """
        What it returns. Opening a named pipe waits for a writer, and can only be broken off.

        Raises:
            Interrupted: as by `wait`.
        """
        self._opening = True
        try:
            if self.asked:
                raise Interrupted
            return call()
        finally:
            self._opening = False

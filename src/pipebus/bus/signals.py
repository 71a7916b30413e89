"""Running a bus until a signal or a request ends it."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from pipebus.bus.stopping import StopReport

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`


def run(lifecycle: Any, timeout: float, ready: Callable[[], object] = lambda: None) -> StopReport:
    """The body of `bus.run`; it calls `ready` when the bus has started and signals are handled."""
    signals = 0

    def on_signal(number: int, _: object) -> None:
        # This runs between two steps of the main thread, which may hold any lock, so it takes none.
        nonlocal signals
        signals += 1
        if signals > 1:
            lifecycle.hurry()
        lifecycle.bus.claims.alarm()

    if lifecycle.state in ("new", "stopped"):
        lifecycle.forget()
    on_main = threading.current_thread() is threading.main_thread()
    before: dict[int, Any] = {}
    former = -1
    with Bell() as bell:
        lifecycle.bell = bell
        try:
            if on_main:
                before = {number: signal.signal(number, on_signal) for number in ending_signals()}
                former = signal.set_wakeup_fd(bell.cord, warn_on_full_buffer=False)
            lifecycle.start()
            ready()
            while not (lifecycle.stop_wanted or signals):  # handlers see a signal only as a stop, when no other handler starts
                bell.wait()
            report: StopReport = lifecycle.stop(timeout, drain=None)
            return report
        finally:
            lifecycle.bell = None
            if on_main:
                signal.set_wakeup_fd(former)
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def ending_signals() -> list[signal.Signals]:
    """
    The signals that end a program gently: Ctrl-C, a supervisor's SIGTERM, a terminal that hangs up. An ignored one stays
    ignored, because the parent process wants that, as `nohup` does.
    """
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


class Ringing(Protocol):
    def ring(self) -> None: ...


class Bell:
    """
    The object that `run` waits on. The interpreter's own signal handler rings it too (`set_wakeup_fd`), so that a signal just
    before the wait is not missed: the Python handler alone would not run until something else ends the wait.
    """

    def __enter__(self) -> Bell:
        self._ear, self._hand = socket.socketpair()
        self._hand.setblocking(False)
        return self

    def __exit__(self, *_: object) -> None:
        self._ear.close()
        self._hand.close()

    @property
    def cord(self) -> int:
        """The file descriptor to write to."""
        return self._hand.fileno()

    def ring(self) -> None:
        with suppress(OSError):  # the buffer is full, so it has rung already; or it is closed
            self._hand.send(b"!")

    def wait(self) -> None:
        self._ear.recv(64)

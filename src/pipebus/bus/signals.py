"""Running a bus until a signal or a request ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

from pipebus.bus.stopping import StopReport

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`


def run(lifecycle: Any, timeout: float, ready: Callable[[], object] = lambda: None) -> StopReport:
    """The body of `bus.run`; it calls `ready` when the bus has started and signals are handled."""
    with Bell() as bell, heard(lifecycle, bell) as signals:
        lifecycle.start()
        ready()
        while not (lifecycle.stop_wanted or signals):  # handlers see a signal only as a stop, when no other handler starts
            bell.wait()
        report: StopReport = lifecycle.stop(timeout, drain=None)
        return report


@contextmanager
def heard(lifecycle: Any, bell: Bell | Chime) -> Iterator[list[int]]:
    """
    The signals that have come in this block. Each signal and each request to stop rings the bell; the second signal ends all
    waiting. Outside the main thread, which alone can set signal handlers, only requests do.
    """
    signals: list[int] = []

    def on_signal(number: int, _: object = None) -> None:
        # This may run between two steps of the main thread, which may hold any lock, so it takes none.
        signals.append(number)
        if len(signals) > 1:
            lifecycle.hurry()
        lifecycle.bus.claims.alarm()
        bell.ring()

    if lifecycle.state in ("new", "stopped"):
        lifecycle.forget()
    on_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in ending_signals()} if on_main else {}
    lifecycle.bell = bell
    try:
        if on_main:
            bell.connect(before, on_signal)
        yield signals
    finally:
        lifecycle.bell = None
        if on_main:
            bell.disconnect(before)
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
        self._former = -1
        return self

    def __exit__(self, *_: object) -> None:
        self._ear.close()
        self._hand.close()

    def connect(self, numbers: Iterable[int], on_signal: Callable[..., None]) -> None:
        for number in numbers:
            signal.signal(number, on_signal)
        self._former = signal.set_wakeup_fd(self._hand.fileno(), warn_on_full_buffer=False)

    def disconnect(self, numbers: Iterable[int]) -> None:
        signal.set_wakeup_fd(self._former)

    def ring(self) -> None:
        with suppress(OSError):  # the buffer is full, so it has rung already; or it is closed
            self._hand.send(b"!")

    def wait(self) -> None:
        self._ear.recv(64)


class Chime:
    """The bell of `arun`. The event loop itself listens to the signals, so that none is missed while it waits."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def connect(self, numbers: Iterable[int], on_signal: Callable[..., None]) -> None:
        for number in numbers:
            try:
                self._loop.add_signal_handler(number, on_signal, number)
            except NotImplementedError:  # a loop on Windows
                signal.signal(number, on_signal)

    def disconnect(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            with suppress(NotImplementedError):
                self._loop.remove_signal_handler(number)

    def ring(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody waits
            self._loop.call_soon_threadsafe(self._rung.set)

    async def wait(self, done: Callable[[], bool]) -> None:
        while not done():
            await self._rung.wait()
            self._rung.clear()

"""
Wait for one value that another thread gives once: a reply, the answer of a filter actor, or the turn of a message that a filter
has made wait.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

from pipebus.clock import Clock

EXPLORED: Final = "bytecode"  # simulations switch threads here: `testing.watch`


PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class Latch:
    """Accepts the first value that is given, and refuses later ones."""

    __slots__ = ("_open", "found", "wake")

    def __init__(self) -> None:
        self.wake: Callable[[], object] = _nobody
        self.found: Any = None
        self._open = [True]  # the first giver pops it: list.pop is atomic

    def give(self, found: Any) -> bool:
        """False if another value was given before."""
        try:
            self._open.pop()
        except IndexError:
            return False
        self.found = found
        self.wake()
        return True

    def close(self) -> None:
        """Nobody waits any longer: accept nothing more."""
        self._open.clear()

    @property
    def over(self) -> bool:
        return not self._open


def _nobody() -> None:
    """The default of `wake`: nobody waits yet. Who comes later, and has set `wake`, looks whether the latch is over."""


def open_gate(gate: Any) -> None:
    """Release a lock that is used as a gate, unless it is open already."""
    with suppress(RuntimeError):
        gate.release()


class ThreadWaiter:
    """How a thread waits. Create it before the request is sent, since the answer may come at once."""

    def __init__(self, latch: Latch) -> None:
        self.latch = latch
        self.gate = threading.Lock()
        self.gate.acquire()
        latch.wake = self.gate.release

    def wait(self, lent: AbstractContextManager[None], clock: Clock, timeout: float, late: Callable[[], Any]) -> Any:
        """
        The value that was given, or after `timeout` seconds the result of `late`.

        Args:
            lent: Entered around the wait: a worker gives up its slot.
        """
        with lent:
            given = clock.wait(self.gate, timeout)
        if not given and not self.latch.give(late()):
            self.gate.acquire()  # a giver was faster, and is about to open the gate
        return self.latch.found


class LoopWaiter:
    """How a coroutine waits; any thread can wake it."""

    def __init__(self, latch: Latch) -> None:
        self.latch = latch
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        latch.wake = self.wake

    def wake(self) -> None:
        if asyncio._get_running_loop() is not self.loop:
            with suppress(RuntimeError):  # the loop is closed, so nobody waits
                self.loop.call_soon_threadsafe(self._set)
        elif not self.future.done():
            self.future.set_result(None)

    def _set(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    async def wait(self, timeout: float | None, late: Callable[[], Any]) -> Any:
        """The value that was given, or after `timeout` seconds the result of `late`."""
        if timeout is None:
            await self.future
        elif not self.future.done():
            timer = self.loop.call_later(timeout, lambda: self.latch.give(late()))
            try:
                await self.future
            finally:
                timer.cancel()
        return self.latch.found

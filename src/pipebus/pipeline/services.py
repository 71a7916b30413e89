"""What running links need of their bus: time, and waiting without holding a worker's slot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

from pipebus.clock import Clock, Gate
from pipebus.errors import BusClosed, PipelineError

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


Watch = Callable[[Any, str, Callable[[Any], Any], tuple[str, ...]], Callable[[Any], Any]]
"""
A test's: given the mark of a filter or handler, the colour of its chain ("sync", "async"), its link and the names that it goes
by, what stands there instead. Asked when a chain is built, so that without one a message pays nothing.
"""


class Services:
    """Handed to every chain at build."""

    def __init__(
        self, clock: Clock, debug: bool, blocking: Callable[[], AbstractContextManager[Any]], carry: Callable[[Any], Any]
    ) -> None:
        self.clock = clock
        self.debug = debug
        self.blocking = blocking
        self.carry = carry  # what runs in that context counts as part of the handler that is running here
        self.watch: Watch | None = None
        self._pauses: dict[threading.Lock, None] = {}  # gates of the threads that pause
        self._over = False  # the bus has stopped, and nobody pauses any more

    def pause(self, seconds: float, filter_name: str) -> None:
        if asyncio._get_running_loop() is not None:
            raise PipelineError(
                f"filter {filter_name} wants to wait {seconds:g} s, so publish() cannot run inside an event loop; "
                "use `await bus.apublish(…)`"
            )
        gate = threading.Lock()
        gate.acquire()
        self._pauses[gate] = None
        try:
            # `end_pauses` sets `_over` before it looks at `_pauses`: so it opens this gate, or is seen here.
            due = self.clock.monotonic() + seconds
            cut_short = self._over or self.wait(gate, due - self.clock.monotonic())
        finally:
            self._pauses.pop(gate, None)
        if cut_short:
            raise BusClosed(f"the bus stopped while filter {filter_name} paused")

    def begin_pauses(self) -> None:
        """The bus starts."""
        self._over = False

    def end_pauses(self) -> None:
        """The bus has stopped: each thread that pauses goes on with BusClosed."""
        self._over = True
        for gate in list(self._pauses):
            with suppress(RuntimeError):  # a stop that was broken off has opened it before
                gate.release()

    async def apause(self, seconds: float, filter_name: str) -> None:
        await self.clock.asleep(seconds)

    def wait(self, gate: Gate, timeout: float) -> bool:
        with self.blocking():
            return self.clock.wait(gate, timeout)

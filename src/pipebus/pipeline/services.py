"""What running links need from their bus: time, and waiting without holding a worker's slot."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

from pipebus.clock import Clock, Gate
from pipebus.errors import BusClosed, PipelineError
from pipebus.waiting.latch import Latch, LoopWaiter, open_gate

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

LATE: Final = object()
"""Given to the latch of a coroutine whose time is up."""

Watch = Callable[[Any, str, Callable[[Any], Any], tuple[str, ...]], Callable[[Any], Any]]
"""
A hook of a test or of telemetry: (step, colour, link, names) -> the link to use instead. Called when a chain is compiled, once
for each filter or handler, which goes by any of the names, and once for what follows the last publish filter, which has none;
so without a hook it costs nothing for each message.
"""


class Services:
    """Passed to every chain that is compiled."""

    def __init__(
        self, clock: Clock, debug: bool, blocking: Callable[[], AbstractContextManager[Any]], carry: Callable[[Any], Any]
    ) -> None:
        self.clock = clock
        self.debug = debug
        self.blocking = blocking
        self.carry = carry  # makes code that runs in another context count as part of the current handler
        self.watch: Watch | None = None  # see `also_watch`
        self._pauses: dict[threading.Lock, None] = {}  # the gates of paused threads
        self._over = False  # the bus has stopped, so no thread may pause

    def also_watch(self, watch: Watch) -> None:
        """Add a hook, around those that there are. It is in effect for chains that are compiled from now on."""
        inner = self.watch
        if inner is None:
            self.watch = watch
        else:
            self.watch = lambda step, colour, link, names: watch(step, colour, inner(step, colour, link, names), names)

    def pause(self, seconds: float, filter_name: str, until: Latch | None = None) -> bool | None:
        """
        Block this thread for `seconds`, for a filter, or until the latch is given.

        Returns:
            None; or, with a latch, whether it was given in time.

        Raises:
            PipelineError: on a running event loop.
            BusClosed: the bus stopped meanwhile.
        """
        if asyncio._get_running_loop() is not None:
            raise PipelineError(
                f"filter {filter_name} wants to wait {seconds:g} s, so publish() cannot run inside an event loop; "
                "use `await bus.apublish(…)`"
            )
        gate = threading.Lock()
        gate.acquire()
        self._pauses[gate] = None
        try:
            # `end_pauses` sets `_over` before it reads `_pauses`: either it opens this gate, or `_over` is True here. So it is
            # with a giver of the latch: it opens the gate, or the latch is over here.
            if until is not None:
                until.wake = partial(open_gate, gate)
            due = self.clock.monotonic() + seconds
            opened = self._over or (until is not None and until.over) or self.wait(gate, due - self.clock.monotonic())
        finally:
            self._pauses.pop(gate, None)
        if until is not None and (until.over or (not opened and not until.give(None))):
            return True
        if opened:
            raise BusClosed(f"the bus stopped while filter {filter_name} paused")
        return None if until is None else False

    def begin_pauses(self) -> None:
        """The bus starts."""
        self._over = False

    def end_pauses(self) -> None:
        """The bus has stopped: every pause ends with BusClosed."""
        self._over = True
        for gate in list(self._pauses):
            open_gate(gate)

    async def apause(self, seconds: float, filter_name: str, until: Latch | None = None) -> bool | None:
        if until is None:
            await self.clock.asleep(seconds)
            return None
        waiter = LoopWaiter(until)
        if not until.over:
            await waiter.wait(seconds, lambda: LATE)
        return until.found is not LATE

    def wait(self, gate: Gate, timeout: float) -> bool:
        with self.blocking():
            return self.clock.wait(gate, timeout)

"""
What running chains ask of their bus: waiting without holding a slot, time, and what `on_error` means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pipebus.clock import Clock, Gate
from pipebus.errors import PipelineError

_stdlib = logging.getLogger("pipebus")
_stdlib.addHandler(logging.NullHandler())


def get_logger(**facts: Any) -> Any:
    """
    A structlog logger, fetched when it is used.

    The library configures nothing. Where the program has not configured structlog either, lines go to the standard library's
    logger `pipebus`, which is silent until somebody listens: structlog's own default would print them on standard output.
    """
    import structlog

    if structlog.is_configured():
        return structlog.get_logger("pipebus", **facts)
    return structlog.wrap_logger(
        _stdlib,
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        **facts,
    )


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

    def pause(self, seconds: float, filter_name: str) -> None:
        if asyncio._get_running_loop() is not None:
            raise PipelineError(
                f"filter {filter_name} wants to wait {seconds:g} s, so publish() cannot run inside an event loop; "
                "use `await bus.apublish(…)`"
            )
        with self.blocking():
            self.clock.sleep(seconds)

    async def apause(self, seconds: float, filter_name: str) -> None:
        await self.clock.asleep(seconds)

    def wait(self, gate: Gate, timeout: float) -> bool:
        with self.blocking():
            return self.clock.wait(gate, timeout)

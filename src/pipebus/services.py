"""
What running chains ask of their bus: waiting without holding a slot, time, and what `on_error` means.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

from pipebus.clock import Clock, Gate
from pipebus.errors import BusClosed, PipelineError
from pipebus.foreign import formatted

_stdlib = logging.getLogger("pipebus")


def get_logger(**facts: Any) -> Any:
    """
    A structlog logger, fetched when it is used. The library configures nothing.

    Where the program has configured structlog, lines go there; else, where it has configured the standard library's logging,
    to the logger `pipebus`. Where it has configured neither, lines of level info and above go to standard error, so that
    lost work is seen: structlog's own default would print everything, on standard output.
    """
    import structlog

    if structlog.is_configured():
        return structlog.get_logger("pipebus", **facts)
    return (_for_stdlib() if stdlib_configured() else _for_stderr()).bind(**facts)


def logging_configured() -> bool:
    """The program has decided where log lines go."""
    import structlog

    return structlog.is_configured() or stdlib_configured()


def stdlib_configured() -> bool:
    """The logger `pipebus` has a handler, its own or an ancestor's; or a level, or has been switched off."""
    switched = _stdlib.level or _stdlib.disabled or not _stdlib.propagate or logging.root.manager.disable
    return bool(switched) or _stdlib.hasHandlers()


@functools.cache
def _for_stdlib() -> Any:
    import structlog

    return structlog.wrap_logger(
        _stdlib,
        processors=[
            structlog.stdlib.filter_by_level,
            _exception_as_text,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


@functools.cache
def _for_stderr() -> Any:
    import structlog

    return structlog.wrap_logger(
        _Stderr(),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _exception_as_text,
            structlog.dev.ConsoleRenderer(colors=False, sort_keys=False, exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


def _exception_as_text(_: Any, __: str, facts: Any) -> Any:
    error = facts.pop("exc_info", None)
    if isinstance(error, BaseException):
        facts["exception"] = formatted(error).rstrip()
    return facts


class _Stderr:
    """Standard error as it is at this moment; one write for each line, so that threads do not mix theirs."""

    def write(self, line: str) -> None:
        stream = sys.stderr
        if stream is not None:
            with suppress(OSError, ValueError):  # a pipe that nobody reads, or a closed file: there is nowhere to say so
                stream.write(line + "\n")

    debug = info = warning = error = critical = write


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

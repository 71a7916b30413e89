"""
Waiting for one thing that somebody else will give, once: a reply, or a filter actor's answer. By a thread, or on a loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from pipebus.clock import Gate

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class Services(Protocol):
    """What waiting asks of the bus: a worker that waits gives up its slot."""

    def wait(self, gate: Gate, timeout: float) -> bool: ...


class Once:
    """The first thing given is taken; what comes later finds nobody."""

    __slots__ = ("_open", "found", "wake")

    def __init__(self) -> None:
        self.wake: Callable[[], object]
        self.found: Any = None
        self._open = [True]  # popped by the first: list.pop is one step for all threads

    def give(self, found: Any) -> bool:
        """False if something was given before."""
        try:
            self._open.pop()
        except IndexError:
            return False
        self.found = found
        self.wake()
        return True

    @property
    def over(self) -> bool:
        return not self._open


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """
    `asyncio.to_thread` on a thread of its own: one of the loop's executor may never come free while handlers, which hold them
    all, wait for what is called here.
    """
    once = Once()
    waiter = Loop(once)
    context = contextvars.copy_context()

    def run() -> None:
        try:
            value = context.run(call, *arguments)
        except BaseException as error:
            once.give((None, error))
        else:
            once.give((value, None))

    for pause in (0.01, 0.05, 0.2, 0.5, None):
        thread = threading.Thread(target=run, name="pipebus-lifecycle", daemon=True)
        try:
            thread.start()
            break
        except RuntimeError:  # none can be had: perhaps one has ended in a moment
            if pause is None:
                raise
            await asyncio.sleep(pause)
    value, error = await waiter.wait(None, lambda: None)
    thread.join()  # it has given its last
    if error is not None:
        raise error
    return value


async def on_executor(call: Callable[[Any], Any], argument: Any) -> Any:
    """
    `asyncio.to_thread`, with two differences. That one would make another object of a TimeoutError or CancelledError that it
    carries over. And when it cannot start a thread, it says so and may run the call nevertheless, on a thread that comes free.
    """
    turn = [True]  # popped by whoever comes first: a thread that runs it, or we, who have to say that there is none

    found: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        with suppress(IndexError):
            turn.pop()
            try:
                value = call(argument)
            except BaseException as error:
                found.append((None, error))
            else:
                found.append((value, None))

    context = contextvars.copy_context()
    try:
        await asyncio.get_running_loop().run_in_executor(None, context.run, run)
    except RuntimeError:  # from the executor: what `call` raises is in `found`
        with suppress(IndexError):
            turn.pop()
            raise
        while not found:  # noqa: ASYNC110  (it is rare, and the giver is another thread)
            await asyncio.sleep(0.001)
    value, error = found[0]
    if error is not None:
        raise error
    return value


class Gates:
    """How a thread waits. Made before the thing is asked for, so that an answer may come at once."""

    def __init__(self, once: Once) -> None:
        self.once = once
        self.gate = threading.Lock()
        self.gate.acquire()
        once.wake = self.gate.release

    def wait(self, services: Services, timeout: float, late: Callable[[], Any]) -> Any:
        """What was given, or (after `timeout` seconds) what `late` makes."""
        if not services.wait(self.gate, timeout) and not self.once.give(late()):
            self.gate.acquire()  # somebody was faster, and is about to open it
        return self.once.found


class Loop:
    """How a coroutine waits; woken from any thread."""

    def __init__(self, once: Once) -> None:
        self.once = once
        self.loop = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.future: asyncio.Future[None] = self.loop.create_future()
        once.wake = self.wake

    def wake(self) -> None:
        try:
            if threading.get_ident() == self.thread and asyncio._get_running_loop() is self.loop:
                self._set()
            else:
                self.loop.call_soon_threadsafe(self._set)
        except RuntimeError:
            return  # its loop was closed: nobody waits

    def _set(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    async def wait(self, timeout: float | None, late: Callable[[], Any]) -> Any:
        """What was given, or (after `timeout` seconds) what `late` makes."""
        if timeout is None:
            await self.future
        elif not self.future.done():
            timer = self.loop.call_later(timeout, lambda: self.once.give(late()))
            try:
                await self.future
            finally:
                timer.cancel()
        return self.once.found

"""Run a blocking call on another thread, and get its value or error here."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pipebus.waiting.latch import Latch, LoopWaiter

EXPLORED: Final = "bytecode"  # simulations switch threads here: `testing.watch`


PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    """
    `asyncio.to_thread`, but on a new thread: handlers may hold all threads of the executor while they wait for this call.
    """
    latch = Latch()
    waiter = LoopWaiter(latch)
    context = contextvars.copy_context()

    def run() -> None:
        try:
            value = context.run(call, *arguments)
        except BaseException as error:
            latch.give((None, error))
        else:
            latch.give((value, None))

    for pause in (0.01, 0.05, 0.2, 0.5, None):
        thread = threading.Thread(target=run, name="pipebus-lifecycle", daemon=True)
        try:
            thread.start()
            break
        except RuntimeError:  # the system has no thread left; one may end in a moment
            if pause is None:
                raise
            await asyncio.sleep(pause)
    value, error = await waiter.wait(None, lambda: None)
    thread.join()  # it has given its value, and ends
    if error is not None:
        raise error
    return value


async def on_executor(call: Callable[[Any], Any], argument: Any) -> Any:
    """
    `asyncio.to_thread`, without two of its defects. It replaces a TimeoutError or CancelledError of the call by another object.
    And if it cannot start a thread it raises, but may still run the call later, on a thread that comes free.
    """
    turn = [True]  # popped either by the thread that runs the call, or below, where the call is given up
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
        while not found:  # noqa: ASYNC110  (rare, and the other thread cannot wake this loop)
            await asyncio.sleep(0.001)
    value, error = found[0]
    if error is not None:
        raise error
    return value

"""The passes of a plain filter where they are checked: in async chains, and in sync chains with `debug`."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

from pipebus.errors import ContractError
from pipebus.foreign.objects import said
from pipebus.message.message import Message
from pipebus.pipeline.blame import StepId, signed
from pipebus.pipeline.compose import Next

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

# In an async chain, a pass is the coroutine that `call_next(…)` returns. Its `cr_frame` is None once it has finished, so a link
# can tell whether a pass is open, and needs no object around the coroutine. These are for the times when there is no pass:
BEFORE: Final[Any] = SimpleNamespace(cr_frame=None)
"""The filter has not called `call_next` yet, and may do so."""
AFTER: Final[Any] = SimpleNamespace(cr_frame="never")
"""The filter has returned, and may not call `call_next` any more."""

_AWAITED_BEFORE: Final = ("cannot reuse already awaited coroutine", "coroutine is being awaited already")


def refused(latest: Any) -> BaseException:
    """Why `call_next` cannot be called now. `latest` is the pass that has not finished, or AFTER."""
    if latest is AFTER:
        return asyncio.CancelledError("the filter has already returned, so call_next(…) starts no other pass")
    return ContractError(
        "called call_next again before the previous pass had finished; write `await call_next(…)`, one after the other"
    )


def ended_in(error: BaseException, latest: Any) -> BaseException:
    """
    A filter ended in `error`; `latest` is its last pass. A pass that was not begun never will be.

    Returns:
        The error; or the ContractError that says what it means.
    """
    if latest.cr_frame is not None and inspect.getcoroutinestate(latest) == inspect.CORO_CREATED:
        loop = asyncio._get_running_loop()
        owner = next((task for task in asyncio.all_tasks(loop) if task.get_coro() is latest), None) if loop else None
        if owner is not None:
            owner.cancel("the filter has already returned; its error says that it left this pass behind")
        else:
            latest.close()
    if type(error) is not RuntimeError or said(error) not in _AWAITED_BEFORE or signed(error) is not None:
        return error
    twice = ContractError("awaited one call_next(…) twice, or another coroutine; call it again for another pass")
    twice.__cause__ = error
    return twice


def as_coroutine(next_: Next) -> Next:
    """A rest of an async chain as a function whose awaitables are coroutines."""
    if inspect.iscoroutinefunction(next_):
        return next_

    async def link(message: Message[Any]) -> Any:
        return await next_(message)

    return link


def exclusive(step: StepId) -> Callable[[Message[Any], Next], Any]:
    """With `debug`: a sync filter whose `call_next` refuses to run on two threads at the same time."""

    def call(message: Message[Any], next_: Next) -> Any:
        lock = threading.Lock()

        def call_next(message: Message[Any]) -> Any:
            if not lock.acquire(blocking=False):
                raise ContractError("called call_next twice at the same time; wait for one pass before the next")
            try:
                return next_(message)
            finally:
                lock.release()

        return step.call(message, call_next)

    return call

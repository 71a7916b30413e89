"""The `call_next` of a plain filter where its passes are checked: in async chains, and in sync chains with `debug`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

from pipebus.errors import ContractError
from pipebus.message.message import Message
from pipebus.message.outcomes import Outcome
from pipebus.pipeline.blame import StepId
from pipebus.pipeline.compose import Next

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class AsyncPasses:
    """The `call_next` of one async filter for one message. It refuses a second pass before the first has finished."""

    __slots__ = ("next", "open", "over")

    def __init__(self, next_: Next) -> None:
        self.next = next_
        self.open = 0
        self.over = False  # the filter has returned

    def __call__(self, message: Message[Any]) -> Awaitable[Outcome]:
        if self.open:
            raise ContractError(
                "called call_next again before the previous pass had finished; write `await call_next(…)`, one after the other"
            )
        self.open += 1
        return _Pass(self, message)


class _Pass:
    """What `call_next(message)` returns in an async chain: awaitable once, and only until the filter returns."""

    __slots__ = ("_begun", "_message", "_passes")

    def __init__(self, passes: AsyncPasses, message: Message[Any]) -> None:
        self._passes = passes
        self._message = message
        self._begun = False

    def __await__(self) -> Generator[Any, Any, Outcome]:
        passes = self._passes
        if self._begun:
            raise ContractError("awaited one call_next(…) twice; call it again for another pass")
        self._begun = True
        if passes.over:
            raise asyncio.CancelledError("the filter has already returned; its error says that it left this pass behind")
        try:
            outcome: Outcome = yield from passes.next(self._message).__await__()
            return outcome
        finally:
            passes.open -= 1


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

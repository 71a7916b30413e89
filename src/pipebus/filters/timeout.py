"""Timeout: an answer that comes too late is a failure, so fail in time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipebus.errors import PipelineError
from pipebus.message.message import Message
from pipebus.pipeline import blame, state
from pipebus.pipeline.shapes import Around, Call, Context, Steps
from pipebus.values import quantities
from pipebus.values.quantities import Duration, Seconds


@dataclass(eq=False)
class Timeout(Around):
    """
    Limit the time of the rest of the chain: the filters after this one, and the handler.

    In an async chain the rest is cancelled. A sync rest cannot be cancelled, so a sync chain refuses this filter when it is
    compiled, unless `abandon` allows it to leave a late rest running.

    Args:
        seconds: Limit for one run of the rest, in seconds, > 0.
        abandon: For sync chains: run the rest on a thread of its own, and stop waiting for it after `seconds`. The price: a
            late rest continues until it finishes, holds its thread until then, and its result is discarded. The bus does not
            wait for it at a stop. Meanwhile the handler may get its next message, or with `Retry` the same message again. In
            async chains it makes no difference.

    Raises:
        TimeoutError: its text names the filter and the limit, and says whether the rest was cancelled or continues. A
        TimeoutError that the rest itself raises passes unchanged.

    With `Retry`: `Retry(…), Timeout(…)` limits each run; `Timeout(…), Retry(…)` limits all runs and the waits between them. In
    a publish chain, a run that was left behind is not repeated, because it may still be accepted.
    """

    seconds: Seconds
    abandon: bool = False
    bounds = True
    provides = ("time-limited",)

    if TYPE_CHECKING:  # a duration may be given as text

        def __init__(self, seconds: Duration, abandon: bool = ...) -> None: ...

    def __post_init__(self) -> None:
        self.seconds = quantities.seconds(self.seconds, "Timeout.seconds", above=0.0)
        if not isinstance(self.abandon, bool):
            raise PipelineError(f"Timeout.abandon={self.abandon!r}: it is True or False")
        self._name = "Timeout"

    def start(self, context: Context) -> None:
        self._name = context.name

    def around(self, message: Message[Any], /) -> Steps:
        try:
            return (yield Call(message, timeout=self.seconds))
        except TimeoutError as error:
            if not _ours(error):
                raise
            text = f"{self._name}: the rest of the chain took longer than {self.seconds:g} s"
            if _cancelled(error):
                raise TimeoutError(f"{text} and was cancelled") from None
            late = TimeoutError(f"{text}; it was left behind and continues, but its result is discarded")
            notes = state.accepted.get()
            if notes is not None:
                notes.append(late)  # a mailbox may still accept it, so no Retry may send it again
            raise late from None


def _ours(error: TimeoutError) -> bool:
    """
    True if the error means that this filter's own time ran out.

    An error from further in was signed there, by the link that it passed; the error that ends `Call` is new. asyncio copies
    errors from other threads, and the copies have no signature. But in an async chain, our own error comes from a cancellation.
    """
    return blame.signed(error) is None and (_cancelled(error) or asyncio._get_running_loop() is None)


def _cancelled(error: TimeoutError) -> bool:
    return isinstance(error.__cause__, asyncio.CancelledError)

"""Timeout: an answer that comes too late is a failure, and should be one in time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from pipebus.errors import PipelineError
from pipebus.message.message import Message
from pipebus.pipeline import blame, state
from pipebus.pipeline.shapes import Around, Call, Context, Steps
from pipebus.values import quantities
from pipebus.values.quantities import Seconds


@dataclass(eq=False)
class Timeout(Around):
    """
    Bound the time that the rest of the chain may take: what stands behind this filter, and the handler.

    In an async chain the rest is cancelled. A sync rest cannot be: a sync chain refuses this filter when it is built, unless
    `abandon` says to leave a late rest behind.

    Args:
        seconds: Longest time of one run of the rest, in seconds, > 0.
        abandon: For sync chains: run the rest on a thread of its own, and wait for it no longer than that. What is given up:
            a rest that is late goes on to its end, unheard, holds its thread until then, and the bus does not wait for it
            when it stops; the handler may meanwhile get its next message, or with `Retry` the same one. In async chains it
            makes no difference.

    Raises:
        TimeoutError: its text names the filter and the limit, and says whether the rest was cancelled or goes on. A
        TimeoutError that the rest itself raises passes as it is.

    With `Retry`: `Retry(…), Timeout(…)` bounds each run; `Timeout(…), Retry(…)` bounds all runs and the waits between them. In
    a publish chain a run that was left behind is not repeated: it may still be accepted.
    """

    seconds: Seconds
    abandon: bool = False
    bounds = True

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
            late = TimeoutError(f"{text}; it was left behind and goes on, unheard")
            notes = state.accepted.get()
            if notes is not None:
                notes.append(late)  # a mailbox may still take it: no Retry may send it a second time
            raise late from None


def _ours(error: TimeoutError) -> bool:
    """
    Whether our own time ran out. Each error that comes from further in has been signed there, by the link that it passed;
    the one that `Call` ends with is new. (Errors that asyncio carries over from another thread are copied, and lose their
    signature. But in an async chain our own has been made of a cancellation.)
    """
    return blame.signed(error) is None and (_cancelled(error) or asyncio._get_running_loop() is None)


def _cancelled(error: TimeoutError) -> bool:
    return isinstance(error.__cause__, asyncio.CancelledError)

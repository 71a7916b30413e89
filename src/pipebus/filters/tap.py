"""Tap: let somebody look, and change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipebus.errors import PipelineError
from pipebus.message.message import Message
from pipebus.pipeline import blame
from pipebus.pipeline.callables import is_plain
from pipebus.pipeline.shapes import Transform


@dataclass(eq=False)
class Tap(Transform):
    """
    Call a function with each message, then hand the same message on.

    What the function returns is ignored. What it raises is the filter's error, as with every filter: a tap whose failure
    must not matter catches its own errors, or is an observer (`bus.observe`).

    Args:
        target: A plain function of the message; on the publish side it is called by all publishers' threads at once.
    """

    target: Callable[[Message[Any]], object]

    def __post_init__(self) -> None:
        if not callable(self.target) or not is_plain(self.target):
            raise PipelineError(f"Tap.target={self.target!r}: it is a plain function of the message")

    def transform(self, message: Message[Any], /) -> Message[Any]:
        blame.given(self.target(message))
        return message

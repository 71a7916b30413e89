"""Tap: look at messages without changing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from pipebus.errors import PipelineError
from pipebus.message.message import Message
from pipebus.pipeline.callables import is_plain
from pipebus.pipeline.contract import finished
from pipebus.pipeline.shapes import Transform


@dataclass(eq=False)
class Tap(Transform):
    """
    Call a function with each message, then pass the same message on.

    The result of the function is ignored. What it raises is an error of the filter, as with every filter. If its failure must
    not affect the message, catch the errors in the function, or use an observer instead (`bus.observe`).

    Args:
        target: A plain function of the message. On the publish side, all publishing threads call it concurrently.
    """

    target: Callable[[Message[Any]], object]
    follows: ClassVar = {
        "redacted": "now its function gets fields before they are hidden",
        "size-limited": "now its function gets messages that are too large",
    }

    def __post_init__(self) -> None:
        if not callable(self.target) or not is_plain(self.target):
            raise PipelineError(f"Tap.target={self.target!r}: it is a plain function of the message")

    def transform(self, message: Message[Any], /) -> Message[Any]:
        finished(self.target(message))
        return message

"""RateLimit: let at most so many messages pass in a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal

from pipebus.message.message import Message
from pipebus.pipeline.shapes import Around, Steps
from pipebus.values.quantities import Seconds


@dataclass(eq=False)
class RateLimit(Around):
    """
    Let at most so many messages pass in a time.
    """

    rate: int
    per: Seconds = 1.0
    burst: int | None = None
    key: Callable[[Message[Any]], Hashable] | None = None
    on_limit: Literal["wait", "drop", "reject"] = "wait"
    max_wait: Seconds = 30.0
    size: int = 100_000
    may_drop = True

    def around(self, message: Message[Any], /) -> Steps:
        raise NotImplementedError

"""CircuitBreaker: stop calling a dependency that fails, and try it again later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipebus.filters.backoff import Errors
from pipebus.message.message import Message
from pipebus.pipeline.shapes import Around, Steps
from pipebus.values.quantities import Seconds


@dataclass(eq=False)
class CircuitBreaker(Around):
    """
    Stop calling a dependency that fails, and try it again later.
    """

    failures: int = 5
    window: Seconds = 60.0
    cool_down: Seconds = 30.0
    on: Errors = Exception
    may_drop = True

    def around(self, message: Message[Any], /) -> Steps:
        raise NotImplementedError

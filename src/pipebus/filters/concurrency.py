"""Concurrency: let at most so many messages be in the rest of the chain at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from pipebus.message.message import Message
from pipebus.pipeline.shapes import Around, Steps
from pipebus.values.quantities import Seconds


@dataclass(eq=False)
class Concurrency(Around):
    """
    Let at most so many messages be in the rest of the chain at once.
    """

    limit: int
    key: Callable[[Message[Any]], Hashable] | None = None
    queue: int = 100
    timeout: Seconds = 30.0
    may_drop = True

    def around(self, message: Message[Any], /) -> Steps:
        raise NotImplementedError

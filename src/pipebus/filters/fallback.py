"""Fallback: give another outcome in place of an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipebus.filters.backoff import Errors
from pipebus.message.message import Message
from pipebus.pipeline.shapes import Around, Steps


@dataclass(eq=False)
class Fallback(Around):
    """
    Give another outcome in place of an error.
    """

    value: Any = None
    subject: str | None = None
    on: Errors = Exception

    def around(self, message: Message[Any], /) -> Steps:
        raise NotImplementedError

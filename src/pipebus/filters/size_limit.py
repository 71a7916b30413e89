"""SizeLimit: refuse messages that are too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline.shapes import Transform
from pipebus.values.quantities import Bytes


@dataclass(eq=False)
class SizeLimit(Transform):
    """
    Refuse messages that are too large.
    """

    bytes: Bytes
    may_drop = True

    def transform(self, message: Message[Any], /) -> Message[Any] | Dropped:
        raise NotImplementedError

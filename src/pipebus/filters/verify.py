"""Verify: refuse messages that `Sign` has not signed with one of the keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from pipebus.message.message import Message
from pipebus.pipeline.shapes import Around, Steps
from pipebus.values.quantities import Seconds


@dataclass(eq=False)
class Verify(Around):
    """
    Refuse messages that `Sign` has not signed with one of the keys.
    """

    keys: list[SecretStr]
    window: Seconds = 300.0
    headers: list[str] | None = None
    size: int = 100_000
    durable: bool = False
    may_drop = True
    provides = ("verified",)

    def around(self, message: Message[Any], /) -> Steps:
        raise NotImplementedError

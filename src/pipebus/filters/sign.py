"""Sign: sign messages, so that `Verify` can tell whether they are genuine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline.shapes import Transform


@dataclass(eq=False)
class Sign(Transform):
    """
    Sign messages, so that `Verify` can tell whether they are genuine.
    """

    key: SecretStr
    headers: list[str] | None = None

    def transform(self, message: Message[Any], /) -> Message[Any] | Dropped:
        raise NotImplementedError

"""Expire: an outdated message is worse than no message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipebus.clock import SYSTEM, Clock
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline.shapes import Context, Transform
from pipebus.values import quantities
from pipebus.values.quantities import Duration, Seconds


@dataclass(eq=False)
class Expire(Transform):
    """
    Drop a message older than its time to live.

    Args:
        ttl: Greatest age in seconds, > 0. The `ttl` of a message takes precedence.

    Drops:
        `Dropped("expired")`: always the same reason, so that all of them are counted together.

    Source:
        RabbitMQ's per-message TTL, with the same meaning, in seconds.
    """

    ttl: Seconds
    may_drop = True

    if TYPE_CHECKING:  # a duration may be given as text

        def __init__(self, ttl: Duration) -> None: ...

    def __post_init__(self) -> None:
        self.ttl = quantities.seconds(self.ttl, "Expire.ttl", above=0.0)
        self._clock: Clock = SYSTEM

    def start(self, context: Context) -> None:
        self._clock = context.clock

    def transform(self, message: Message[Any], /) -> Message[Any] | Dropped:
        ttl = message.ttl if message.ttl is not None else self.ttl
        if self._clock.now() - message.time > ttl:
            return Dropped("expired")
        return message

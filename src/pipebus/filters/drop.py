"""Drop: end unwanted messages here, and count them by reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipebus.errors import PipelineError
from pipebus.foreign.objects import plain_text, shown
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline.callables import is_plain
from pipebus.pipeline.contract import finished
from pipebus.pipeline.shapes import Transform
from pipebus.values.quantities import Condition


@dataclass(eq=False)
class Drop(Transform):
    """
    Drop the messages for which a condition is true.

    Args:
        when: A plain function of the message; in a config file an expression. Without it, every message is dropped.
        reason: The reason under which drops are counted.

    Drops:
        `Dropped(reason)`.

    Example:
        >>> from pipebus import Message
        >>> Drop(when=lambda message: message.body < 10, reason="too small").transform(Message("payments.1", 5))
        Dropped(reason='too small', by=None)
    """

    when: Condition | None = None
    reason: str = "not wanted"
    may_drop = True

    def __post_init__(self) -> None:
        if self.when is not None and (not callable(self.when) or not is_plain(self.when)):
            raise PipelineError(f"Drop.when={shown(self.when)}: it is a plain function of the message")
        self.reason = plain_text(self.reason)
        if not isinstance(self.reason, str) or not self.reason:
            raise PipelineError(f"Drop.reason={shown(self.reason)}: it is a text that is not empty")

    def transform(self, message: Message[Any], /) -> Message[Any] | Dropped:
        return Dropped(self.reason) if self.when is None or finished(self.when(message)) else message

"""SizeLimit: refuse messages that are too large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipebus.errors import Rejected
from pipebus.message.codec import JsonCodec, check_lasting, prepare
from pipebus.message.message import Message
from pipebus.pipeline.shapes import Context, Transform
from pipebus.values import quantities
from pipebus.values.quantities import Bytes


@dataclass(eq=False)
class SizeLimit(Transform):
    """
    Refuse messages that are too large.

    What counts is the message as it is stored or sent: as JSON, with its body, headers and envelope. That is the measure of the
    bus's `max_message_bytes`, too.

    Args:
        bytes: Most bytes of a message, >= 1, or text such as "64KiB".

    Raises:
        Rejected: the message is larger. The reason is always the same, so that all of them are counted together.
        CodecError: the body cannot be written as JSON, so it has no size.
        UnsupportedCapability: the message is addressed to an object, such as an actor. Filters under a pattern do not see it.

    Example:
        >>> from pipebus import Message
        >>> SizeLimit("1KiB").transform(Message("a", "x" * 2000))
        Traceback (most recent call last):
        pipebus.errors.Rejected: rejected by a filter: larger than 1,024 bytes
    """

    bytes: Bytes
    may_drop = True
    deterministic = True
    idempotent = True
    provides = ("size-limited",)

    if TYPE_CHECKING:  # a size may be given as text

        def __init__(self, bytes: int | str) -> None: ...

    def __post_init__(self) -> None:
        self.bytes = quantities.size(self.bytes, "SizeLimit.bytes", least=1)
        self._codec = JsonCodec()

    def start(self, context: Context) -> None:
        prepare()

    def transform(self, message: Message[Any], /) -> Message[Any]:
        check_lasting(message.body)
        if _least(message.body) > self.bytes or len(self._codec.encode(message)) > self.bytes:
            raise Rejected(f"larger than {self.bytes:,} bytes")
        return message


def _least(body: Any) -> int:
    """Bytes that a body has at least, for a glance: what is nested is not looked at, and in a long list or table nothing is."""
    if type(body) in (dict, list):
        inside = () if len(body) > 100 else body.values() if type(body) is dict else body
        return max(len(body), sum(len(value) for value in inside if type(value) is str))
    return len(body) * 4 // 3 if type(body) is bytes else len(body) if type(body) is str else 0  # bytes become base64

"""
Memory: messages stay in the process, and the publish chain ends in the mailboxes.

`memory:?wire=json` sends every message through the codec, once for each mailbox. Whatever works that way works on transports
that leave the process, and no reader can see what another one has done to a body.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pipebus.errors import UnsupportedCapability
from pipebus.foreign.objects import shown
from pipebus.message.codec import Codec, JsonCodec
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.message.slot import Slot
from pipebus.transports.base import Binding, Capabilities, Surroundings, Transport, Verdict


class MemoryTransport(Transport):
    """
    The default transport.

    Args:
        codec: Every message goes through it; None: messages are handed over as they are.
    """

    local = True

    def __init__(self, codec: Codec | None = None) -> None:
        self.codec = codec
        self.capabilities = Capabilities(order="subject", exclusive_keys=True, delay=True, objects=codec is None)
        self._slots: dict[str, Slot] = {}

    @classmethod
    def from_url(cls, url: str) -> MemoryTransport:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        wire = options.pop("wire", None)
        if options or parts.netloc or parts.path.strip("/"):
            raise UnsupportedCapability(f'{shown(url)}: the memory transport is "memory:" or "memory:?wire=json"')
        if wire not in (None, "json"):
            raise UnsupportedCapability(f'{shown(url)}: wire={shown(wire)} is unknown; the only wire format is "json"')
        return cls(JsonCodec() if wire else None)

    def start(self, surroundings: Surroundings) -> None:
        return None

    def pending(self, name: str) -> int:
        return 0

    def stop(self) -> None:
        return None

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        raise UnsupportedCapability("memory carries nothing: its messages go straight to the mailboxes")

    def bind(self, binding: Binding) -> None:
        return None

    def unbind(self, name: str) -> None:
        return None

    def settle(self, token: Any, verdict: Verdict, delay: float = 0.0, why: Any = "") -> None:
        return None

    def slot(self, name: str) -> float | None:
        return self._slots[name].time if name in self._slots else None

    def skip_slot(self, slot: Slot) -> None:
        self._slots[slot.schedule] = slot

    def schedules(self) -> list[Slot]:
        return list(self._slots.values())

"""One delivery of a durable subscription."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nats.aio.msg import Msg

from pipebus.errors import CodecError
from pipebus.message.codec import Codec
from pipebus.message.message import Message
from pipebus.transports.nats import wire
from pipebus.transports.nats.streams import NANO

if TYPE_CHECKING:
    from pipebus.transports.nats.puller import Puller


class Claim:
    """
    One delivery, until it is settled.

    Args:
        reply: The subject to which the verdict is sent; "": its stream is gone.
        number: Of the message in its stream.
        count: Deliveries of the consumer so far, including this one.
        era: How often the consumer had been lost when this came.
        broken: Its bytes are not a message.
        again: The message was delivered before, so there may be a note of it.
        takings: Earlier attempts.
        suspect: The previous delivery was lost.
        begun: A note says that it was begun.
        since: When it came here, or was handed in.
    """

    __slots__ = (
        "again", "begun", "broken", "count", "data", "done", "era", "found", "headers", "number", "puller", "replayed", "reply",
        "since", "subject", "suspect", "takings", "time",
    )  # fmt: skip

    def __init__(self, puller: Puller, message: Msg, ours: Callable[[str], str], replays: str, codec: Codec) -> None:
        self.puller = puller
        self.reply = message.reply
        delivered, self.number, self.count, self.time = place_of(message.reply)
        self.era = puller.consumer.era
        self.again = delivered > 1
        self.takings = 0
        self.suspect = self.begun = self.done = False
        self.since = time.monotonic()
        self.data = message.data
        self.headers: dict[str, str] = message.headers or {}
        self.replayed = message.subject.startswith(replays)
        self.subject = ours(message.subject)
        id = f"{puller.stream}:{self.number}"
        self.found: Message[Any] | bytes
        if self.replayed:
            self.subject, self.found = wire.decode_copy(self.subject, self.data, self.headers, id, self.time)
        else:
            self.found = wire.decode(self.subject, self.data, self.headers, id, self.time)
        self.broken = False
        if isinstance(self.found, bytes):
            try:
                self.found = codec.decode(self.found)
            except CodecError:  # the subscription makes a dead letter of the bytes
                self.broken = True


def place_of(reply: str) -> tuple[int, int, int, float]:
    """
    What a delivery's reply subject says: deliveries of the message so far, its number in the stream, deliveries of the
    consumer so far, and when the message was stored.

    Raises:
        IndexError, ValueError: it is not the reply subject of a delivery.
    """
    parts = reply.split(".")
    first = 4 if len(parts) == 9 else 6  # after $JS.ACK, with or without domain and account
    return int(parts[first]), int(parts[first + 1]), int(parts[first + 2]), int(parts[first + 3]) / NANO


def reply_of(stream: str, consumer: str, number: int, last: int) -> str:
    """
    The reply subject of a delivery that has not come here.

    Args:
        last: The consumer's last delivery, by its count.
    """
    return f"$JS.ACK.{stream}.{consumer}.1.{number}.{last}.0.0"

"""The items in a mailbox: a message, or a parcel around a message that has a history."""

from __future__ import annotations

from typing import Any, Final

from pipebus.message.message import Message

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`


class Parcel:
    """A message with a history: returned, delayed, replayed, or brought by a transport that needs to hear how it ends."""

    __slots__ = ("attempt", "began", "delay", "due", "first", "lane", "message", "open", "replayed", "timer", "token")

    def __init__(self, message: Message[Any], attempt: int = 0, token: Any = None, delay: float = 0.0) -> None:
        self.message = message
        self.attempt = attempt  # how often it has been taken so far
        self.token = token  # identifies the delivery to the transport
        self.first = 0.0  # when it was first taken, seconds since 1970
        self.delay = delay  # seconds until it may be taken
        self.due = 0.0  # the same moment on the monotonic clock
        self.timer: Any = None  # queues it then
        self.lane = False  # it holds the lane of its key
        self.replayed = False  # it was a dead letter
        self.began = 0.0  # when its attempt began, on the sampler's clock, if it belongs to a sample
        self.open = False  # taken from a shared mailbox, and not settled


Item = Message[Any] | Parcel


def message_of(item: Item) -> Message[Any]:
    """The message itself."""
    return item.message if item.__class__ is Parcel else item  # type: ignore[return-value]

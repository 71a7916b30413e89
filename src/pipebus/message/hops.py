"""
The hop count: how many handlers in a row have passed a conversation on, so that a loop ends.

It travels in a header, which every transport carries. A message that was passed on once has no such header, only a
`correlation_id`, so the count costs nothing for messages that never loop.
"""

from __future__ import annotations

from typing import Any

from pipebus.errors import TooManyHops
from pipebus.message.headers import HOPS_HEADER, Headers, frozen_headers
from pipebus.message.message import Message


def hops_of(message: Message[Any]) -> int:
    """How many handlers have passed on this message and those before it; at least 1 if it has a `correlation_id`."""
    text = message.headers.get(HOPS_HEADER, "")
    if text.isdecimal() and len(text) < 10:
        return int(text)
    return 0 if message.correlation_id is None else 1


def next_headers(message: Message[Any], limit: int) -> Headers | None:
    """
    The headers of a message that a handler of `message` publishes; None: none are needed.

    Raises:
        TooManyHops: the conversation has gone through `limit` handlers.
    """
    hops = hops_of(message) + 1
    if hops > limit:
        raise TooManyHops(
            f"handlers have passed this conversation on {limit} times, which is max_hops of the bus; end the loop: return None "
            "at some point, or change a `to`"
        )
    return frozen_headers({HOPS_HEADER: str(hops)}) if hops > 1 else None

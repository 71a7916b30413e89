"""
A conversation: what a handler or a filter publishes belongs to the message that it has in hand.

The new message has the same `correlation_id` (or, if there is none, that message's id), and that message's id as its
`causation_id`. A hop count travels with them, so that a loop ends. It is a header, which every transport carries. A message
that was passed on once has no such header, only a `correlation_id`, so the count costs nothing for messages that never loop.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from pipebus.errors import TooManyHops
from pipebus.message.headers import HOPS_HEADER, Headers, frozen_headers
from pipebus.message.message import Message, stored_correlation, stored_id


def conversation_of(message: Message[Any]) -> str:
    """The correlation id of what follows this message: its own, or, if it begins a conversation, its id."""
    return message.correlation_id or message.id


def stored_conversation(message: Message[Any]) -> tuple[Any, Any]:
    """The correlation id and the causation id of what follows this message, as messages store them."""
    cause, known = stored_id(message), stored_correlation(message)
    return cause if known is None else known, cause


def hops_of(message: Message[Any]) -> int:
    """How many handlers have passed on this message and those before it; at least 1 if it has a `correlation_id`."""
    text = message.headers.get(HOPS_HEADER, "")
    if text.isdecimal() and len(text) < 10:
        return int(text)
    return 0 if stored_correlation(message) is None else 1


def next_headers(message: Message[Any], limit: int, headers: Headers | None = None) -> Headers | None:
    """
    These headers, for a message that a handler of `message` publishes, with the hop count; None: it has none.

    Raises:
        TooManyHops: the conversation has gone through `limit` handlers.
    """
    hops = hops_of(message) + 1
    if hops > limit:
        raise TooManyHops(
            f"handlers have passed this conversation on {limit} times, which is max_hops of the bus; end the loop, or begin a "
            "new conversation: publish with a correlation_id of your own"
        )
    if hops == 1:
        return headers
    return frozen_headers({**headers, HOPS_HEADER: str(hops)}) if headers else _count(hops)


@functools.lru_cache(256)
def _count(hops: int) -> Headers:
    return frozen_headers({HOPS_HEADER: str(hops)})


def continued(
    held: Message[Any], limit: int, headers: Headers | None, correlation: str | None
) -> tuple[Headers | None, Any, Any]:
    """
    Headers, correlation id and causation id, as they are stored, of what is published while `held` is in hand.

    Args:
        headers, correlation: As the publisher gave them. With another `correlation` a new conversation begins, and so a new
            count.

    Raises:
        TooManyHops: as for `next_headers`.
    """
    known, cause = stored_conversation(held)
    if correlation is not None and correlation != conversation_of(held):
        return headers, correlation, cause
    return next_headers(held, limit, headers), known, cause


def passed_on(message: Message[Any], held: Message[Any], limit: int) -> Message[Any]:
    """
    A whole message that is sent while `held` is in hand, as part of its conversation. It keeps a correlation id of its own, and
    stays as it is if it has a causation id, or is the message in hand itself.

    Raises:
        TooManyHops: as for `next_headers`.
    """
    if message.causation_id is not None or message.id == held.id:
        return message
    headers, correlation, cause = continued(held, limit, message.headers or None, message.correlation_id)
    return msgspec.structs.replace(message, headers=headers, correlation_id=correlation, causation_id=cause)

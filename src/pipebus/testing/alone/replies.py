"""Replies to the requests of a filter or handler that is alone, in place of the handlers that would give them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipebus.errors import NoResponder, PipelineError
from pipebus.foreign.objects import shown
from pipebus.message.message import Message

if TYPE_CHECKING:
    from pipebus.bus.bus import Bus


def subscribe(bus: Bus, replies: Any) -> set[str]:
    """Subscribe a handler for each subject of `replies`, and return the names of the subscriptions."""
    if replies is not None and not isinstance(replies, Mapping):
        raise PipelineError(f"replies={shown(replies)}: it is a mapping of subjects to replies")
    return {bus.subscribe(subject, _handler(subject, reply)).name for subject, reply in (replies or {}).items()}


def _handler(subject: Any, reply: Any) -> Callable[..., Any]:
    if reply is None:
        raise PipelineError(f"replies={{{str(subject)!r}: None}}: None is not a reply; leave it out, and nobody answers")
    if isinstance(reply, BaseException) or (isinstance(reply, type) and issubclass(reply, BaseException)):

        def raises() -> None:
            raise reply

        return raises
    return reply if inspect.isroutine(reply) else lambda: reply


def without_replies(published: list[Message[Any]]) -> list[Message[Any]]:
    """What was published apart from the answers to requests."""
    addresses = [message.reply_to for message in published if message.reply_to is not None]
    return [message for message in published if message.subject not in addresses]


def advise(error: BaseException | None) -> None:
    """Add to an error what to do in a test."""
    if isinstance(error, NoResponder):
        error.add_note('(pipebus: a filter or handler alone is answered by the test: replies={"subject": reply, …})')

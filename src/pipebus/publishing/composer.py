"""Making messages: of the arguments of a publish, and of the conversation of the message in hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from pipebus.clock import Clock, SystemClock
from pipebus.errors import MessageError
from pipebus.foreign.objects import plain_text
from pipebus.message.conversation import continued, passed_on
from pipebus.message.fields import check_fields, ttl_of
from pipebus.message.headers import check_headers
from pipebus.message.ids import IdRange
from pipebus.message.message import Message, check_message, make_message
from pipebus.message.slot import without_slot
from pipebus.running.here import in_hand
from pipebus.values.quantities import Duration

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class Composer:
    """
    Makes the messages of a bus, and counts them.

    Args:
        max_hops: How many handlers may pass a conversation on.
        address: What a subject is on the bus's transport: see `encoded_address`.
    """

    def __init__(self, clock: Clock, max_hops: int, address: Callable[[Any], Any]) -> None:
        self.address = address
        self.clock = clock
        self.max_hops = max_hops
        self._ids = IdRange()
        self.next_id: Callable[[], Any] = self._ids.next
        # None: the message struct reads the system's clock itself.
        self.now = None if type(clock) is SystemClock else clock.now
        self._others = itertools.count()  # messages whose ids are not from `_ids`

    def made(self) -> int:
        """The number of messages so far."""
        return self._ids.count() + _value(self._others)

    def plain(self, subject: Any, body: Any, reply_to: Any = None) -> Message[Any]:
        """A message without options."""
        held, headers, correlation, cause = in_hand(), None, None, None
        if held is not None:
            headers, correlation, cause = continued(held, self.max_hops, None, None)
        return make_message(subject, body, headers, self.next_id(), self.clock.now(), None, None, reply_to, correlation, cause)

    def composed(
        self, subject: Any, body: Any, headers: Mapping[str, str] | None = None, key: str | None = None,
        id: str | None = None, ttl: Duration | None = None, reply_to: Any = None, correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Message[Any]:  # fmt: skip
        """A message of options, which are checked. They may say that it is of another conversation than the message in hand."""
        checked = None if headers is None else check_headers(headers)
        key, reply_to, id = plain_text(key), self.address(reply_to), plain_text(id)
        correlation_id, causation_id = plain_text(correlation_id), plain_text(causation_id)
        ttl = None if ttl is None else ttl_of(ttl)
        check_fields(key, None, reply_to, correlation_id, id, causation_id=causation_id)
        if causation_id is None and (held := in_hand()) is not None:
            checked, correlation_id, causation_id = continued(held, self.max_hops, checked, correlation_id)
        if id is None:
            number: Any = self.next_id()
        else:
            number = id
            next(self._others)
        now = self.clock.now()
        return make_message(subject, body, checked, number, now, key, ttl, reply_to, correlation_id, causation_id)

    def whole(self, message: Message[Any]) -> Message[Any]:
        """Check the message of a `send`, and make it a part of the conversation of the message in hand."""
        if message.__class__ is not Message:
            raise MessageError(f"send takes a Message, found {type(message).__name__}; publish(subject, body) makes one")
        message, held = without_slot(check_message(message)), in_hand()
        subject, reply_to = self.address(message.subject), self.address(message.reply_to)
        if subject is not message.subject or reply_to is not message.reply_to:
            message = msgspec.structs.replace(message, subject=subject, reply_to=reply_to)
        return message if held is None else passed_on(message, held, self.max_hops)

    def count(self) -> None:
        """Count a message that was made elsewhere."""
        next(self._others)


def _value(counter: itertools.count[int]) -> int:
    """The counter's next value, which only its text shows without using it up."""
    return int(repr(counter)[6:-1])

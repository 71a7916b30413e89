"""SetEnvelope: key, id and time to live from what a message says, for publishers that do not set them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from pipebus.errors import PipelineError, Rejected
from pipebus.filters.changing import Changing
from pipebus.filters.field_paths import needed_text
from pipebus.foreign.objects import plain_text, shown
from pipebus.message.fields import check_fields
from pipebus.message.message import Message
from pipebus.pipeline.callables import is_plain
from pipebus.pipeline.contract import finished
from pipebus.values import quantities
from pipebus.values.quantities import Duration, Seconds


@dataclass(eq=False)
class SetEnvelope(Changing):
    """
    Set the `key`, `id` or `ttl` of messages: fixed, or from a function of the message.

    It replaces what the message has. The expression `key || body.customer` keeps a key that is there.

    Args:
        key: A text, or a function that returns a text or a number. Messages of equal key stay in order.
        id: A function that returns a text or a number. Transports and `Dedupe` recognise a message that comes again by its id.
        ttl: Seconds, > 0, or a function that returns them (also as text: "5s"). They count from the `time` of the message.

    Raises:
        Rejected: a function returned None, or something else that cannot be a key, id or time to live.

    Example:
        >>> from pipebus import Message
        >>> by_customer = SetEnvelope(key=lambda message: message.body["customer"], ttl="1h")
        >>> by_customer.transform(Message("orders.created", {"customer": 7}, id="m"))
        Message('orders.created', {'customer': 7}, key='7', ttl=3600.0, id='m')
    """

    key: str | Callable[[Message[Any]], str | float] | None = None
    id: Callable[[Message[Any]], str | float] | None = None
    ttl: Seconds | Callable[[Message[Any]], str | float] | None = None

    if TYPE_CHECKING:  # a duration may be given as text

        def __init__(
            self, key: str | Callable[[Message[Any]], str | float] | None = ...,
            id: Callable[[Message[Any]], str | float] | None = ...,
            ttl: Duration | Callable[[Message[Any]], str | float] | None = ...,
        ) -> None: ...  # fmt: skip

    def __post_init__(self) -> None:
        self.key = plain_text(self.key)
        given = {name: value for name in ("key", "id", "ttl") if (value := getattr(self, name)) is not None}
        if not given:
            raise PipelineError("SetEnvelope: nothing to do; give key, id or ttl")
        for name, value in given.items():
            if callable(value) and not is_plain(value):
                raise PipelineError(f"SetEnvelope.{name} is async or a generator; it is a plain function of the message")
        if isinstance(self.key, str):
            check_fields(key=self.key)
        elif self.key is not None and not callable(self.key):
            raise PipelineError(f"SetEnvelope.key={shown(self.key)}: it is a text, or a plain function of the message")
        if self.id is not None and not callable(self.id):
            raise PipelineError(
                f"SetEnvelope.id={shown(self.id)}: it is a plain function of the message; with one id for all, all but the "
                "first would be duplicates"
            )
        if self.ttl is not None and not callable(self.ttl):
            self.ttl = quantities.seconds(self.ttl, "SetEnvelope.ttl", above=0.0)

    def transform(self, message: Message[Any], /) -> Message[Any]:
        found: dict[str, Any] = {}
        for name, given, read in (("key", self.key, needed_text), ("id", self.id, needed_text), ("ttl", self.ttl, _seconds)):
            if given is not None:
                found[name] = read(name, finished(given(message))) if callable(given) else given
        return msgspec.structs.replace(message, **found)


def _seconds(name: str, value: Any) -> float:
    try:
        return quantities.seconds(value, name, above=0.0)
    except PipelineError:  # its text contains the value, which may be a secret
        problem = "there is no value" if value is None else "it is not a number of seconds greater than 0, or text such as '5s'"
        raise Rejected(f"{name}: {problem}") from None

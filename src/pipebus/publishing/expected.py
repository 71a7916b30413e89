"""The type that a request expects of its reply. Plain data is converted to it, and an object of that type stays as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pipebus.errors import MessageError, RequestFailed
from pipebus.foreign.objects import shown
from pipebus.message.message import Message
from pipebus.message.subject import Subject
from pipebus.values import validation

Check = Callable[[Message[Any]], Message[Any]]


def expected(subject: Any, reply: Any) -> Check | None:
    """
    What a reply has to pass before the requester gets it; None if any reply will do.

    Args:
        subject: A `Subject[T, A]` expects an A, unless `reply` says otherwise.
        reply: The type of the reply's body, or None.

    Raises:
        MessageError: `reply` is not a type that pydantic can validate.
    """
    if reply is None and isinstance(subject, Subject):
        reply = subject.reply
    if reply is None or reply is Any:
        return None
    try:
        hash(reply)
    except TypeError:  # as of an Annotated type whose notes are lists
        return _check.__wrapped__(reply)
    return _check(reply)


@functools.lru_cache(maxsize=256)
def _check(type_: Any) -> Check:
    try:
        validate = validation.validator(type_)
    except Exception as error:
        raise MessageError(f"reply={shown(type_)} is not a type to validate with: {error}") from error
    refusal = validation.refusal()

    def check(message: Message[Any]) -> Message[Any]:
        try:
            value = validate(message.body)
        except refusal as error:
            reasons = "; ".join(validation.rejected(error).reasons)
            raise RequestFailed("Rejected", f"its reply is not of type {validation.name_of_type(type_)}: {reasons}") from None
        return message if value is message.body else message.with_body(value)

    return check

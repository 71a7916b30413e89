"""The type that a request expects of its reply. Plain data is converted to it, and an object of that type stays as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pipebus.errors import MessageError, RequestFailed, SubjectError
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
        MessageError, SubjectError: `reply`, or the A of the subject, is not a type that pydantic can validate.
    """
    type_ = subject.reply if reply is None and isinstance(subject, Subject) else reply
    if type_ is None or type_ is Any:
        return None
    make: Callable[[Any], Check] = _check
    try:
        hash(type_)
    except TypeError:  # as of an Annotated type whose notes are lists
        make = _check.__wrapped__
    try:
        return make(type_)
    except Exception as error:
        text = f"{shown(type_)} is not a type to validate with: {error}"
        if reply is None:
            raise SubjectError(f'Subject "{subject}", the type of its replies: {text}') from error
        raise MessageError(f"reply={text}") from error


@functools.lru_cache(maxsize=256)
def _check(type_: Any) -> Check:
    validate, refusal = validation.validator(type_), validation.refusal()

    def check(message: Message[Any]) -> Message[Any]:
        try:
            value = validate(message.body)
        except refusal as error:
            reasons = "; ".join(validation.rejected(error).reasons)
            raise RequestFailed("Rejected", f"its reply is not of type {validation.name_of_type(type_)}: {reasons}") from None
        return message if value is message.body else message.with_body(value)

    return check

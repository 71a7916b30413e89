"""What the fields of a message may hold."""

from __future__ import annotations

import math
from typing import Any, Final

from pipebus.errors import MessageError, SubjectError
from pipebus.foreign.objects import plain_text, shown
from pipebus.message.headers import fault_in
from pipebus.message.subject import Address, check_subject
from pipebus.values.quantities import seconds

LATEST: Final = 253_402_300_799.0
"""The last second of the year 9999, where `datetime` ends."""


def ttl_of(value: Any) -> float:
    """
    A time to live in seconds.

    Raises:
        MessageError: it is not a duration above 0.
    """
    return seconds(value, "ttl", above=0.0, error=MessageError)


def check_fields(
    key: Any = None, ttl: Any = None, reply_to: Any = None, correlation_id: Any = None, id: Any = None, time: Any = None,
    causation_id: Any = None,
) -> None:  # fmt: skip
    """
    Check every field that is not None.

    Raises:
        MessageError, SubjectError: naming the field and what was found.
    """
    texts = (("key", key), ("correlation_id", correlation_id), ("id", id), ("causation_id", causation_id))
    for name, value in texts:
        if value is None:
            continue
        value = plain_text(value)
        if type(value) is not str:
            raise MessageError(f"{name} is a string or None, found {type(value).__name__} ({shown(value)})")
        if not value.isprintable() and (fault := fault_in(value)):
            raise MessageError(f"{name} {shown(value)} {fault}")
    if id is not None and not id:
        raise MessageError('id is a string that is not empty, found ""; leave it out and one is made')
    if ttl is not None and not (_is_number(ttl) and 0 < ttl < math.inf):
        raise MessageError(f"ttl is a number of seconds greater than 0 or None, found {shown(ttl)}")
    if time is not None and not (_is_number(time) and 0 <= time <= LATEST):
        raise MessageError(f"time is a number of seconds since 1970, at most that of the year 9999, found {shown(time)}")
    if isinstance(reply_to, str):
        check_subject(reply_to)
    elif reply_to is not None and not isinstance(reply_to, Address):
        raise MessageError(f"reply_to is a subject or None, found {type(reply_to).__name__} ({shown(reply_to)})")


def check_address(subject: Any) -> None:
    """
    Check that messages can be sent to `subject`: a literal subject, an actor or a `Ref`.

    Raises:
        SubjectError
    """
    if type(subject) is str:
        check_subject(subject)
    elif not isinstance(subject, Address):
        raise SubjectError(f"{shown(subject)} is not a subject; use a string, an actor or Ref(obj)")


def plain_number(value: Any) -> Any:
    """
    A number of a subclass as the plain number; anything else as it is.

    `plain_text` for numbers: a wire must carry the number, not what NumPy or an IntEnum prints for it.
    """
    if type(value) is float or not _is_number(value):
        return value
    return float.__float__(value) if isinstance(value, float) else int.__int__(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

"""A message's headers: names and values, both text, checked once and then frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pipebus.errors import HeaderError
from pipebus.foreign.objects import plain_text, shown

RESERVED_PREFIXES: Final = ("pipebus-", "nats-")
"""Header names that start with these (in any case) belong to pipebus and its transports."""

ERROR_HEADER: Final = "pipebus-error"
"""Marks a reply that reports a failed handler; the body of such a reply is {"type": …, "text": …}."""

HOPS_HEADER: Final = "pipebus-hops"
"""How many handlers in a row have passed a conversation on, if more than one; see `hops`."""

SCHEDULE_HEADER: Final = "pipebus-schedule"
SLOT_HEADER: Final = "pipebus-slot"
TIMETABLE_HEADER: Final = "pipebus-timetable"
"""Mark the message of a named schedule: its name, the time for which it was published, and when it publishes; see `slot`."""

OWN_HEADERS: Final = (ERROR_HEADER, HOPS_HEADER, SCHEDULE_HEADER, SLOT_HEADER, TIMETABLE_HEADER)
"""The reserved headers of the bus itself, which every transport carries."""


class Headers(dict[str, str]):
    """
    A message's headers: a read-only dictionary. `Message.with_headers` makes a changed copy.

    Raises:
        HeaderError: a name or value is not a string or contains CR, LF or NUL, or a name is reserved.
    """

    __slots__ = ()

    def __new__(cls, *headers: Any, **more: Any) -> Headers:
        return check_headers(dict(*headers, **more))

    def __init__(self, *_: Any, **__: Any) -> None:
        pass  # `dict.__init__` would add the arguments again, unchecked

    def _refuse(self, *_: object, **__: object) -> Any:
        raise TypeError("headers cannot be changed; make a changed message: message.with_headers(name=value)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return (frozen_headers, (dict(self),))


def frozen_headers(checked: Mapping[str, str]) -> Headers:
    """`Headers` of parts that are already checked. The bus uses it for its own, reserved names too."""
    headers: Headers = dict.__new__(Headers)
    dict.update(headers, checked)
    return headers


NO_HEADERS: Final = frozen_headers({})

_known_names: set[str] = set()  # names that passed the check; `_check_name` bounds its size


def check_headers(headers: Mapping[str, str]) -> Headers:
    """
    A frozen, checked copy.

    Raises:
        HeaderError: a name or value is not a string or contains CR, LF or NUL, or a name is reserved.
    """
    if type(headers) is Headers:
        return headers
    if type(headers) is not dict and not isinstance(headers, Mapping):
        raise HeaderError(f"headers are a mapping of names to values, found {type(headers).__name__}")
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if type(name) is not str:
            name = plain_text(name)
        if type(value) is not str:
            value = plain_text(value)
        if type(name) is not str or name not in _known_names:
            _check_name(name)
        if type(value) is not str:
            raise HeaderError(f'header "{name}" is a string, found {type(value).__name__}; write str(...) of it')
        # isprintable is one C call; only a value with an unusual character needs a closer look.
        if not value.isprintable() and (fault := fault_in(value)):
            raise HeaderError(f'header "{name}" {fault}')
        checked[name] = value
    return frozen_headers(checked)


def _check_name(name: object) -> None:
    if type(name) is not str:
        raise HeaderError(f"a header's name is a string, found {type(name).__name__} ({shown(name)})")
    if not name or not name.isprintable() or any(c.isspace() or c == ":" for c in name):
        raise HeaderError(f"{shown(name)} cannot be a header's name; use printable characters without spaces or colons")
    if name.lower().startswith(RESERVED_PREFIXES):
        raise HeaderError(f'header "{name}" is reserved ("pipebus-" and "Nats-" belong to the bus); choose another name')
    if len(_known_names) < 4096:
        _known_names.add(name)


def fault_in(text: str) -> str | None:
    """Why no transport could carry a header or field with this text; None if nothing is wrong with it."""
    for character in text:
        if character in "\r\n\0":
            return f"contains {shown(character)}; CR, LF and NUL cannot be in it"
        if "\ud800" <= character <= "\udfff":
            return f"contains the lone surrogate {shown(character)}, which has no UTF-8 form"
    return None

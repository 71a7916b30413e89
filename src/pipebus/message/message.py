"""
The message: an immutable envelope that all readers share.

It is a `msgspec.Struct` because nothing else that is frozen is built as fast: about 0.1 µs, where a frozen dataclass takes ten
times as long, and a bus builds one message for every publish.
"""

from __future__ import annotations

import time as _time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypedDict, TypeVar, Unpack, overload

import msgspec

from pipebus.errors import MessageError
from pipebus.foreign.objects import plain_text, shown
from pipebus.message.fields import LATEST, check_address, check_fields, plain_number, ttl_of
from pipebus.message.headers import NO_HEADERS, Headers, check_headers, frozen_headers
from pipebus.message.ids import IdRange, next_id
from pipebus.message.subject import Address, T, check_subject, literals
from pipebus.values.quantities import Duration

U = TypeVar("U")

_replace: Final[Callable[..., Any]] = msgspec.structs.replace


class _Checked(type(msgspec.Struct)):  # type: ignore[misc]
    """
    Checks the fields of a message when one is made.

    The checks are in the metaclass rather than in the struct so that the bus, which has already checked the parts, can skip
    them (`make_message`). They cost a tenth of a publish.
    """

    if not TYPE_CHECKING:

        def __call__(cls, subject, body=None, headers=NO_HEADERS, **fields):
            if fields.get("id", "") is None:
                del fields["id"]  # None asks for a new id
            if fields:
                fields = {name: plain_text(value) for name, value in fields.items()}
                if fields.get("ttl") is not None:
                    fields["ttl"] = ttl_of(fields["ttl"])
                if "time" in fields:
                    fields["time"] = plain_number(fields["time"])
            made = fields if fields.get("time") is not None else {**fields, "time": _time.time()}
            message = super().__call__(plain_text(subject), body, check_headers(headers) or None, **made)
            check_address(message.subject)
            if fields:
                check_fields(**fields)
            return message


class Fields(TypedDict, total=False):
    """The fields of a message that are given by name."""

    id: str | None
    time: float | None
    key: str | None
    ttl: Duration | None
    reply_to: Any
    correlation_id: str | None
    causation_id: str | None


class Message(msgspec.Struct, Generic[T], frozen=True, eq=False, metaclass=_Checked):
    """
    An immutable envelope.

    Args:
        subject: Where it goes: a dotted name, an actor or a `Ref`.
        body: Anything; JSON-safe if the message leaves the process. All readers share it: treat it as read-only.
        headers: Names to values, both strings without CR, LF or NUL; names have no spaces.
        key: Messages with the same key stay in order even if a subscription has several workers.
        ttl: Time to live from `time`: seconds, > 0, or text such as "5s". An older message is dropped (`expired`) instead of
            being handled.
        reply_to: The subject for an answer.
        correlation_id: Groups messages that belong together.
        causation_id: The id of the message whose handling led to this one.
        id: Unique across processes; generated if not given. Ids of one bus sort in order of creation.
        time: When it was made, in seconds since 1970-01-01 UTC.

    Two messages are equal if all fields are equal; the hash is the hash of the id.

    Raises:
        SubjectError, HeaderError, MessageError: naming the field, what was found and what to do.
    """

    subject: Any
    body: T = None  # type: ignore[assignment]
    headers: Headers = NO_HEADERS  # stored as None if there are none; see below
    id: str = msgspec.field(default_factory=next_id)  # type: ignore[assignment]  # stored as a number at first; see below
    time: float = msgspec.field(default_factory=_time.time)
    key: str | None = None
    ttl: float | None = None
    reply_to: Any = None
    correlation_id: str | None = None  # the two are stored as a number at first if the bus has filled them in
    causation_id: str | None = None

    if TYPE_CHECKING:  # the arguments accept more than the fields hold

        def __init__(self, subject: Any, body: T = ..., headers: Mapping[str, str] = ..., **fields: Unpack[Fields]) -> None: ...

    @overload
    def replace(
        self, *, body: U, subject: Any = ..., headers: Mapping[str, str] = ..., **changes: Unpack[Fields]
    ) -> Message[U]: ...
    @overload
    def replace(self, *, subject: Any = ..., headers: Mapping[str, str] = ..., **changes: Unpack[Fields]) -> Message[T]: ...
    def replace(self, **changes: Any) -> Message[Any]:
        """
        A copy with other fields, as in `message.replace(body=order, ttl="5s")`; all others stay the same, including the id.

        Args:
            changes: Any field, as for a new message. `headers` replaces all headers; None as `id` or `time` asks for a new one.

        Raises:
            SubjectError, HeaderError, MessageError: as for a new message.
        """
        unknown = changes.keys() - set(self.__struct_fields__)
        if unknown:
            raise TypeError(f"a message has no field {shown(min(unknown))}; there are {', '.join(self.__struct_fields__)}")
        return Message(**({name: getattr(self, name) for name in self.__struct_fields__} | changes))

    __replace__ = replace  # type: ignore[assignment]  # called by `copy.replace`

    def with_body(self, body: U) -> Message[U]:
        """A copy with another body; all other fields stay the same, including the id."""
        return _replace(self, body=body)  # type: ignore[no-any-return]

    def with_headers(self, mapping: Mapping[str, str] | None = None, /, **headers: str) -> Message[T]:
        """A copy with these headers added; a header that already exists is replaced."""
        checked = check_headers(headers if mapping is None else mapping)
        if mapping is not None and headers:
            checked = frozen_headers({**checked, **check_headers(headers)})
        if own := _stored_headers(self):
            checked = frozen_headers({**own, **checked})
        return _replace(self, headers=checked)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        names = ("key", "ttl", "reply_to", "correlation_id", "causation_id")
        extras = "".join(f", {name}={shown(value)}" for name in names if (value := getattr(self, name)) is not None)
        headers = f", headers={shown(dict(self.headers))}" if self.headers else ""
        return f"Message({shown(self.subject)}, {shown(self.body)}{headers}{extras}, id={shown(self.id)})"

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not Message:
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__struct_fields__)

    def __ne__(self, other: object) -> bool:
        return not self == other  # the struct's own method would compare identities

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        # This reads the id and so makes its text; the bare number means nothing in another process.
        return (_revive, ({name: getattr(self, name) for name in self.__struct_fields__},))


def _revive(fields: dict[str, Any]) -> Message[Any]:
    return Message(**fields)


stored_id: Final[Callable[[Message[Any]], Any]] = Message.__dict__["id"].__get__
stored_correlation: Final[Callable[[Message[Any]], Any]] = Message.__dict__["correlation_id"].__get__
_stored_headers: Final[Callable[[Message[Any]], Any]] = Message.__dict__["headers"].__get__


def _readable(name: str, doc: str) -> property:
    """An id as text, and stored as text from then on."""
    # The struct stores the counter's number, and its text once somebody has read it: to format every id would cost a third of
    # a publish, and most ids are never read.
    get, store = Message.__dict__[name].__get__, Message.__dict__[name].__set__

    def readable(message: Message[Any]) -> Any:
        value = get(message)
        if value.__class__ is int:
            value = IdRange.text(value)
            store(message, value)
        return value

    return property(readable, doc=doc)


def _readable_headers(message: Message[Any]) -> Headers:
    """Names to values, both strings; a read-only dictionary."""
    # The struct stores None if there are no headers. The garbage collector visits each waiting message again and again, except
    # those whose fields hold only plain data; `NO_HEADERS` is a dictionary, which is not plain.
    value = _stored_headers(message)
    return NO_HEADERS if value is None else value


Message.id = _readable("id", "Unique across processes; ids of one process sort in order of creation.")  # type: ignore[assignment]
Message.correlation_id = _readable("correlation_id", "Groups messages that belong together.")  # type: ignore[assignment]
Message.causation_id = _readable("causation_id", "The id of the message whose handling led to this one.")  # type: ignore[assignment]
Message.headers = property(_readable_headers)  # type: ignore[assignment]


make_message: Final[Callable[..., Message[Any]]] = type(msgspec.Struct).__call__.__get__(Message)
"""
Make a `Message` without checks, for the bus: fields by position, ids as bare numbers of an `IdRange`, None for no headers.
"""


def _is_id(value: Any) -> bool:
    """Whether it is a number that a bus has given to a message."""
    return type(value) is int and 0 <= value < IdRange.end


def check_message(message: Message[T]) -> Message[T]:
    """
    Check a message that may have been made without its checks, as `msgspec.structs.replace` makes copies.

    Returns:
        The message; or a copy with plain strings and numbers, if some were of subclasses.

    Raises:
        SubjectError, HeaderError, MessageError: naming the field and what was found.
    """
    # One call reads all fields as they are stored: the two properties would cost as much as the rest of the check.
    subject, _, headers, id, time, key, ttl, reply_to, correlation_id, causation_id = msgspec.structs.astuple(message)
    if (
        (type(subject) is str or isinstance(subject, Address))
        and (headers is None or type(headers) is Headers)
        and (0 <= id < IdRange.end if type(id) is int else type(id) is str and id.isprintable() and id)  # a filter has read it
        and type(time) is float
        and key is ttl is reply_to is None
        and ((correlation_id is None and causation_id is None) or (_is_id(correlation_id) and _is_id(causation_id)))
    ):  # nearly every message
        if type(subject) is str and subject not in literals:
            check_subject(subject)
        if not 0.0 <= time <= LATEST:
            check_fields(time=time)
        return message
    for name, value, pair in (
        ("id", id, ""), ("correlation_id", correlation_id, causation_id), ("causation_id", causation_id, correlation_id)
    ):  # fmt: skip
        if type(value) is int and (not _is_id(value) or pair is None):  # a bus fills in both
            raise MessageError(f"{name} is a string, found {value}; leave it as it was, or make a new Message")
    texts = ("key", "reply_to", "correlation_id", "causation_id")
    fields: dict[str, Any] = {name: plain_text(getattr(message, name)) for name in texts}
    fields |= {"ttl": plain_number(message.ttl), "time": plain_number(message.time), "id": plain_text(message.id)}
    for name in ("id", "time"):
        if fields[name] is None:
            raise MessageError(f"{name} of a message is None; leave it as it was, or make a new Message")
    check_fields(**fields)
    fields |= {"subject": plain_text(subject), "headers": check_headers(message.headers)}
    check_address(fields["subject"])
    if all(getattr(message, name) is value for name, value in fields.items()):
        return message
    return _replace(message, **fields)  # type: ignore[no-any-return]

"""
The message, and what became of it.

A message is an immutable envelope that all readers share. It is a `msgspec.Struct` because nothing else that is frozen is
built as fast: about 0.1 µs, where a frozen dataclass takes ten times as long, and a bus builds one for every publish.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
import time as _time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, cast

import msgspec

from pipebus.errors import HeaderError, MessageError, SubjectError
from pipebus.foreign.objects import plain_text, shown
from pipebus.message.subject import Address, check_subject, literals
from pipebus.waiting.locks import free

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)  # so that a plain `Message` is a complete annotation
else:
    from typing import TypeVar

    T = TypeVar("T")
U = TypeVar("U")

RESERVED_PREFIXES: Final = ("pipebus-", "nats-")
"""Header names that start with these (in any case) belong to pipebus and its transports."""


ERROR_HEADER: Final = "pipebus-error"
"""Of a reply that says how the handler failed; its body is {"type": …, "text": …}."""


class Headers(dict[str, str]):
    """
    A message's headers: a dictionary that cannot be changed. `Message.with_headers` makes a changed copy.

    Raises:
        HeaderError: a name or value that is not a string, has CR, LF or NUL, or a name that is reserved.
    """

    __slots__ = ()

    def __new__(cls, *headers: Any, **more: Any) -> Headers:
        return check_headers(dict(*headers, **more))

    def __init__(self, *_: Any, **__: Any) -> None:
        pass  # `dict` would fill it, with what nobody has checked

    def _refuse(self, *_: object, **__: object) -> Any:
        raise TypeError("headers cannot be changed; make a changed message: message.with_headers(name=value)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return (frozen_headers, (dict(self),))


def frozen_headers(checked: Mapping[str, str]) -> Headers:
    """`Headers` of checked parts, for the bus; reserved names are its own."""
    headers: Headers = dict.__new__(Headers)
    dict.update(headers, checked)
    return headers


NO_HEADERS: Final = frozen_headers({})

_known_names: set[str] = set()  # names that passed the check; bounded by _check_name


def _check_name(name: object) -> None:
    if type(name) is not str:
        raise HeaderError(f"a header's name is a string, found {type(name).__name__} ({shown(name)})")
    if not name or not name.isprintable() or any(c.isspace() or c == ":" for c in name):
        raise HeaderError(f"{shown(name)} cannot be a header's name; use printable characters without spaces or colons")
    if name.lower().startswith(RESERVED_PREFIXES):
        raise HeaderError(f'header "{name}" is reserved ("pipebus-" and "Nats-" belong to the bus); choose another name')
    if len(_known_names) < 4096:
        _known_names.add(name)


def check_headers(headers: Mapping[str, str]) -> Headers:
    """
    A frozen, checked copy.

    Raises:
        HeaderError: a name or value that is no string, has CR, LF or NUL, or a name that is reserved.
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
        # isprintable is one C call; only a value with an unusual character needs the closer look.
        if not value.isprintable():
            fault = _fault(value, "\r\n\0")
            if fault:
                raise HeaderError(f'header "{name}" {fault}')
        checked[name] = value
    return frozen_headers(checked)


def _fault(text: str, forbidden: str) -> str | None:
    """What keeps a text from being carried: a forbidden character, or half of a surrogate pair."""
    for character in text:
        if character in forbidden:
            return f"contains {shown(character)}; CR, LF and NUL cannot be in it"
        if "\ud800" <= character <= "\udfff":
            return f"contains the lone surrogate {shown(character)}, which has no UTF-8 form"
    return None


def check_fields(
    key: Any = None, ttl: Any = None, reply_to: Any = None, correlation_id: Any = None, id: Any = None, time: Any = None
) -> None:
    """
    Whatever was given by somebody and is not None.

    Raises:
        MessageError, SubjectError: naming the field and what was found.
    """
    for name, value in (("key", key), ("correlation_id", correlation_id), ("id", id)):
        if value is None:
            continue
        value = plain_text(value)
        if type(value) is not str:
            raise MessageError(f"{name} is a string or None, found {type(value).__name__} ({shown(value)})")
        if not value.isprintable() and (fault := _fault(value, "\r\n\0")):
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


LATEST: Final = 253_402_300_799.0
"""The last second of the year 9999, the end of `datetime`'s time."""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def plain_number(value: Any) -> Any:
    """The same for numbers: what is written on a wire is the number, and not what NumPy or an IntEnum calls it."""
    if type(value) is float or not _is_number(value):
        return value
    return float.__float__(value) if isinstance(value, float) else int.__int__(value)


def check_message(message: Message[T]) -> Message[T]:
    """
    Whether a message can be carried that may have been made past its checks (`msgspec.structs.replace` makes such copies).

    Returns:
        The message; a copy, if it has strings or numbers of subclasses, which the copy has plain.

    Raises:
        SubjectError, HeaderError, MessageError: naming the field and what was found.
    """
    subject, id = message.subject, _stored_id(message)
    if (
        (type(subject) is str or isinstance(subject, Address))
        and type(message.headers) is Headers
        and type(id) is int
        and 0 <= id < IdRange.end
        and type(message.time) is float
        and message.key is None
        and message.ttl is None
        and message.reply_to is None
        and message.correlation_id is None
    ):  # as nearly all are
        if type(subject) is str and subject not in literals:
            check_subject(subject)
        if not 0.0 <= message.time <= LATEST:
            check_fields(time=message.time)
        return message
    if type(id) is int and not 0 <= id < IdRange.end:
        raise MessageError(f"id is a string that is not empty, found {id}; leave it as it was, or make a new Message")
    fields: dict[str, Any] = {name: plain_text(getattr(message, name)) for name in ("key", "reply_to", "correlation_id")}
    fields |= {"ttl": plain_number(message.ttl), "time": plain_number(message.time), "id": plain_text(message.id)}
    for name in ("id", "time"):
        if fields[name] is None:
            raise MessageError(f"{name} of a message is None; leave it as it was, or make a new Message")
    check_fields(**fields)
    fields |= {"subject": plain_text(subject), "headers": check_headers(message.headers)}
    _check_address(fields["subject"])
    if all(getattr(message, name) is value for name, value in fields.items()):
        return message
    return _replace(message, **fields)  # type: ignore[no-any-return]


def _check_address(subject: Any) -> None:
    if type(subject) is str:
        check_subject(subject)
    elif not isinstance(subject, Address):
        raise SubjectError(f"{shown(subject)} is not a subject; use a string, an actor or Ref(obj)")


class IdRange:
    """
    Ids that are unique across processes and cost one counter step.

    A message keeps the bare number; the text is made when somebody reads it: `<start in ms, hex>-<64 random bits>-<counter>`.
    Ids of one range sort in the order in which they were made; each bus has a range of its own, which also counts what it
    has made. A forked child gets ranges of its own; a number's high bits say to which range it belongs, so that ids made
    before the fork read the same on both sides.
    """

    SHIFT: Final = 48  # 2.8e14 messages a range
    starts: ClassVar[list[str]] = []  # the text of each range
    end: ClassVar[int] = 0  # above the numbers of all ranges
    lock: ClassVar[Any] = threading.RLock()

    def __init__(self) -> None:
        with free(self.lock):
            self._first = len(self.starts) << self.SHIFT
            self.starts.append(f"{int(_time.time() * 1000):012x}-{os.urandom(8).hex()}")
            IdRange.end = len(self.starts) << self.SHIFT
        self._counter = itertools.count(self._first)
        self.next = self._counter.__next__

    def count(self) -> int:
        """How many it has given so far. (Only a counter's text tells what it would give next.)"""
        return int(repr(self._counter)[6:-1]) - self._first

    @classmethod
    def text(cls, number: int) -> str:
        return f"{cls.starts[number >> cls.SHIFT]}-{number & ((1 << cls.SHIFT) - 1):010x}"


_ids = IdRange()


def _after_fork() -> None:
    IdRange.lock = threading.RLock()
    globals()["_ids"] = IdRange()


os.register_at_fork(after_in_child=_after_fork)


_replace: Final[Callable[..., Any]] = msgspec.structs.replace


class _Checked(type(msgspec.Struct)):  # type: ignore[misc]
    """
    Checks what a message is made of, where it is made.

    It stands in the metaclass, and not in the struct, so that the bus, which has checked its parts already, can make a
    message without it (`make_message`): that is a tenth of a publish.
    """

    if not TYPE_CHECKING:

        def __call__(cls, subject, body=None, headers=NO_HEADERS, **fields):
            if fields.get("id", "") is None:
                del fields["id"]  # to be made
            if fields:
                fields = {name: plain_text(value) for name, value in fields.items()}
                for name in ("ttl", "time"):
                    if name in fields:
                        fields[name] = plain_number(fields[name])
            made = fields if fields.get("time") is not None else {**fields, "time": _time.time()}
            message = super().__call__(plain_text(subject), body, headers, **made)
            if type(headers) is not Headers:
                msgspec.structs.force_setattr(message, "headers", check_headers(headers))
            _check_address(message.subject)
            if fields:
                check_fields(**fields)
            return message


class Message(msgspec.Struct, Generic[T], frozen=True, eq=False, metaclass=_Checked):
    """
    An immutable envelope.

    Args:
        subject: Where it goes: a dotted name, an actor or a `Ref`.
        body: Anything; JSON-safe if it is to leave the process. Shared by all readers: treat it as read-only.
        headers: Names to values, both strings; no CR, LF, NUL, names without spaces.
        key: Messages of equal key keep their order where a subscription has several workers.
        ttl: Time to live in seconds from `time`, > 0; an older message is dropped (`expired`) when it is taken.
        reply_to: Subject that an answer is published to.
        correlation_id: Joins messages that belong together.
        id: Unique across processes; made if not given. Ids of one bus sort in order of creation.
        time: When it was made, seconds since 1970-01-01 UTC.

    Two messages are equal if all of this is; the hash is the id's.

    Raises:
        SubjectError, HeaderError, MessageError: naming the field, what was found and the next move.
    """

    subject: Any
    body: T = None  # type: ignore[assignment]
    headers: Headers = NO_HEADERS
    id: str = msgspec.field(default_factory=lambda: cast("str", _ids.next()))  # a number until it is read; see below
    time: float = msgspec.field(default_factory=_time.time)
    key: str | None = None
    ttl: float | None = None
    reply_to: Any = None
    correlation_id: str | None = None

    def with_body(self, body: U) -> Message[U]:
        """A copy with another body; everything else, the id too, stays."""
        return _replace(self, body=body)  # type: ignore[no-any-return]

    def with_headers(self, mapping: Mapping[str, str] | None = None, /, **headers: str) -> Message[T]:
        """A copy with these headers added to (or put in place of) what is there."""
        checked = check_headers(headers if mapping is None else mapping)
        if mapping is not None and headers:
            checked = frozen_headers({**checked, **check_headers(headers)})
        if self.headers:
            checked = frozen_headers({**self.headers, **checked})
        return _replace(self, headers=checked)  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        fields = (("key", self.key), ("ttl", self.ttl), ("reply_to", self.reply_to), ("correlation_id", self.correlation_id))
        extras = "".join(f", {name}={shown(value)}" for name, value in fields if value is not None)
        headers = f", headers={shown(dict(self.headers))}" if self.headers else ""
        return f"Message({shown(self.subject)}, {shown(self.body)}{headers}{extras}, id={shown(self.id)})"

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not Message:
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__struct_fields__)

    def __ne__(self, other: object) -> bool:
        return not self == other  # the struct's own would compare identities

    def __hash__(self) -> int:
        return hash(self.id)

    def __replace__(self, **changes: Any) -> Message[Any]:
        """What `copy.replace` calls: a checked copy, like a new message."""
        return Message(**({name: getattr(self, name) for name in self.__struct_fields__} | changes))

    def __reduce__(self) -> tuple[Any, ...]:
        # The text of the id is made here: the bare number means nothing in another process.
        return (_revive, ({name: getattr(self, name) for name in self.__struct_fields__},))


def _revive(fields: dict[str, Any]) -> Message[Any]:
    return Message(**fields)


def _readable_id() -> property:
    """
    `Message.id` as people see it.

    The struct stores what the counter gave; formatting every id would cost a third of a whole publish, and most are never
    read. So the class attribute is a property over the struct's own slot, which turns the number into text at the first
    read and keeps the text.
    """
    slot = Message.__dict__["id"]
    read, write, text = slot.__get__, slot.__set__, IdRange.text

    def id(self: Message[Any]) -> str:
        value = read(self)
        if value.__class__ is int:
            value = text(value)
            write(self, value)
        return value  # type: ignore[no-any-return]

    return property(id, doc="Unique across processes; ids of one process sort in order of creation.")


_stored_id: Final[Callable[[Message[Any]], Any]] = Message.__dict__["id"].__get__
"""The id as a message keeps it: a bare number, until somebody has read it."""

Message.id = _readable_id()  # type: ignore[assignment]

make_message: Final[Callable[..., Message[Any]]] = type(msgspec.Struct).__call__.__get__(Message)
"""`Message` without its checks, for the bus: fields by position, the id as the bare number of an `IdRange`."""


class Receipt(msgspec.Struct, frozen=True):
    """
    A publish was accepted: by this many mailboxes, or by the transport's store.

    Truthy also when `mailboxes` is 0 (nobody listens); one receipt may be shared by all publishes of a route.
    """

    mailboxes: int = 0
    duplicate: bool = False

    if TYPE_CHECKING:  # what every object is; said, so that `if outcome:` tells the two apart

        def __bool__(self) -> Literal[True]: ...


class Handled(msgspec.Struct, frozen=True):
    """A delivery was handled; `value` is what the handler returned."""

    value: Any = None


class Dropped(msgspec.Struct, frozen=True):
    """
    A message was ended on purpose. Falsy.

    Args:
        reason: Why, for a person; counted under it, so keep ids and other endless values out.
        by: Name of the filter; the chain fills it in.
    """

    reason: str
    by: str | None = None

    def __post_init__(self) -> None:
        for name in ("reason", "by"):
            value = getattr(self, name)
            if type(value) is str or (value is None and name == "by"):
                continue
            if type(plain_text(value)) is not str:
                raise MessageError(f"Dropped: {name} is a text, found {type(value).__name__} ({shown(value)})")
            msgspec.structs.force_setattr(self, name, plain_text(value))

    def __bool__(self) -> Literal[False]:
        return False


Outcome = Receipt | Handled | Dropped
"""What became of a message: `Receipt` or `Dropped` on the publish side, `Handled` or `Dropped` on the delivery side."""

HANDLED: Final = Handled()

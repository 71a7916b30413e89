"""
The message, and what became of it.

A message is an immutable envelope that all readers share. It is a `msgspec.Struct` because nothing else that is frozen is
built as fast: about 0.1 µs, where a frozen dataclass takes ten times as long, and a bus builds one for every publish.
"""

from __future__ import annotations

import itertools
import os
import threading
import time as _time
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Generic, TypeVar

import msgspec

from pipebus.errors import HeaderError, MessageError

T = TypeVar("T")
U = TypeVar("U")

RESERVED_PREFIXES: Final = ("pipebus-", "nats-")
"""Header names that start with these (in any case) belong to pipebus and its transports."""


class Headers(dict[str, str]):
    """A message's headers: a dictionary that cannot be changed. `Message.with_headers` makes a changed copy."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> Any:
        raise TypeError("headers cannot be changed; make a changed message: message.with_headers(name=value)")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return (Headers, (dict(self),))


NO_HEADERS: Final = Headers()

_known_names: set[str] = set()  # names that passed the check; bounded by _check_name


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise HeaderError(f"a header's name is a string, found {type(name).__name__} ({name!r})")
    if not name or not name.isprintable() or any(c.isspace() or c == ":" for c in name):
        raise HeaderError(f"{name!r} cannot be a header's name; use printable characters without spaces or colons")
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
    if not isinstance(headers, Mapping):
        raise HeaderError(f"headers are a mapping of names to values, found {type(headers).__name__}")
    for name, value in headers.items():
        if name not in _known_names:
            _check_name(name)
        if value.__class__ is not str and not isinstance(value, str):
            raise HeaderError(f'header "{name}" is a string, found {type(value).__name__}; write str(...) of it')
        # isprintable is one C call; only a value with an unusual character needs the closer look.
        if not value.isprintable():
            for bad in "\r\n\0":
                if bad in value:
                    raise HeaderError(f'header "{name}" contains {bad!r}; CR, LF and NUL cannot be in a header')
            if any("\ud800" <= c <= "\udfff" for c in value):
                raise HeaderError(f'header "{name}" contains a lone surrogate, which has no UTF-8 form')
    return Headers(headers)


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
    lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        with self.lock:
            self._first = len(self.starts) << self.SHIFT
            self.starts.append(f"{int(_time.time() * 1000):012x}-{os.urandom(8).hex()}")
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
    global _ids
    IdRange.lock = threading.Lock()
    _ids = IdRange()


os.register_at_fork(after_in_child=_after_fork)


class Message(msgspec.Struct, Generic[T], frozen=True):
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
        id: Unique across processes; made if not given. Ids of one process sort in order of creation.
        time: When it was made, seconds since 1970-01-01 UTC.

    Raises:
        HeaderError, MessageError: naming the field.
    """

    subject: Any
    body: Any = None
    headers: Headers = NO_HEADERS
    key: str | None = None
    ttl: float | None = None
    reply_to: Any = None
    correlation_id: str | None = None
    id: str = msgspec.field(default_factory=lambda: _ids.next())  # a number until it is read; see below
    time: float = msgspec.field(default_factory=_time.time)

    def __post_init__(self) -> None:
        if self.headers is not NO_HEADERS or self.key is not None or self.ttl is not None:
            self._check()

    def _check(self) -> None:
        if self.headers.__class__ is not Headers:
            msgspec.structs.force_setattr(self, "headers", check_headers(self.headers))
        if self.key is not None and not isinstance(self.key, str):
            raise MessageError(f"key is a string or None, found {type(self.key).__name__} ({self.key!r})")
        ttl = self.ttl
        if ttl is not None and (not isinstance(ttl, (int, float)) or isinstance(ttl, bool) or not ttl > 0):
            raise MessageError(f"ttl is a number of seconds greater than 0 or None, found {ttl!r}")

    def with_body(self, body: U) -> Message[U]:
        """A copy with another body; everything else, the id too, stays."""
        return msgspec.structs.replace(self, body=body)  # type: ignore[return-value]

    def with_headers(self, mapping: Mapping[str, str] | None = None, /, **headers: str) -> Message[T]:
        """A copy with these headers added to (or put in place of) what is there."""
        if mapping:
            headers = {**mapping, **headers}
        checked = check_headers(headers)
        if self.headers:
            checked = Headers({**self.headers, **checked})
        return msgspec.structs.replace(self, headers=checked)

    def __repr__(self) -> str:
        fields = (("key", self.key), ("ttl", self.ttl), ("reply_to", self.reply_to), ("correlation_id", self.correlation_id))
        extras = "".join(f", {name}={value!r}" for name, value in fields if value is not None)
        headers = f", headers={dict(self.headers)!r}" if self.headers else ""
        return f"Message({self.subject!r}, {self.body!r}{headers}{extras}, id={self.id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The text of the id is made here: the bare number means nothing in another process.
        return (Message, tuple(getattr(self, name) for name in self.__struct_fields__))


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


Message.id = _readable_id()  # type: ignore[assignment, misc]


class Receipt(msgspec.Struct, frozen=True):
    """
    A publish was accepted: by this many mailboxes, or by the transport's store.

    Truthy also when `mailboxes` is 0 (nobody listens); one receipt may be shared by all publishes of a route.
    """

    mailboxes: int = 0
    duplicate: bool = False


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

    def __bool__(self) -> bool:
        return False


Outcome = Receipt | Handled | Dropped
"""What became of a message: `Receipt` or `Dropped` on the publish side, `Handled` or `Dropped` on the delivery side."""

HANDLED: Final = Handled()

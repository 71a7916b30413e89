"""
Subjects: dotted names, and objects that serve as subjects themselves.

The rules are those of NATS: a subject is tokens joined by dots. In a pattern the token `*` matches exactly one token and `>`,
as the last token, one or more. Both are wildcards only when they are the whole token. Subjects are compared by code point:
case matters, and nothing is normalised.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, Self, get_args

from pipebus.errors import SubjectError, UnsupportedCapability
from pipebus.foreign.objects import class_name, plain_text, shown

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)  # so that `Message`, `Subscription` and the like are complete annotations
    A = TypeVar("A", default=Any)
else:
    from typing import TypeVar

    T, A = TypeVar("T"), TypeVar("A")

REPLY: Final = "_reply."
"""What the subjects for the replies to requests begin with, where messages are encoded."""

KNOWN = 16_384  # how many checked texts are remembered, so that they are not checked again
_known: set[str] = set()  # patterns, which include all subjects
literals: set[str] = set()  # subjects without wildcards
MAX_LENGTH = 1024  # characters; far above any sane subject, far below the limit of a NATS control line


def check_pattern(text: str) -> tuple[str, ...]:
    """
    The tokens of a pattern.

    Raises:
        SubjectError: naming the token that is wrong, and why.
    """
    if type(text) is str and text in _known:
        return tuple(text.split("."))
    text = plain_text(text)
    if type(text) is not str:
        raise SubjectError(f"a subject is a string, found {type(text).__name__} ({shown(text)}); address objects as Ref(obj)")
    if not text:
        raise SubjectError('"" is empty; a subject is tokens joined by single dots, as in "orders.created"')
    if len(text) > MAX_LENGTH:
        raise SubjectError(f'"{text[:32]}…" has {len(text)} characters; at most {MAX_LENGTH} are allowed')
    for character in "" if text.isascii() and text.isprintable() and " " not in text else text:
        if character.isspace() or (not character.isprintable() and (character < " " or "\x7f" <= character <= "\x9f")):
            raise SubjectError(
                f"{shown(text)} contains {shown(character)}; white space and control characters cannot be in a subject"
            )
        if "\ud800" <= character <= "\udfff":
            raise SubjectError(f"{shown(text)} contains the lone surrogate {shown(character)}, which has no UTF-8 form")
    tokens = tuple(text.split("."))
    for position, token in enumerate(tokens, 1):
        if not token:
            raise SubjectError(
                f'"{text}" has an empty token at position {position}; tokens are joined by single dots, as in "orders.created"'
            )
        if token == ">" and position < len(tokens):
            raise SubjectError(f'"{text}" has ">" at position {position}; it can only be the last token')
    if len(_known) < KNOWN:
        _known.add(text)
    return tokens


def check_subject(text: str) -> tuple[str, ...]:
    """
    The tokens of a literal subject, one without wildcards, to which messages can be published.

    Raises:
        SubjectError: as for a pattern, or if a token is a wildcard.
    """
    if type(text) is str and text in literals:
        return tuple(text.split("."))
    text = plain_text(text)
    tokens = check_pattern(text)
    for token in tokens:
        if token in ("*", ">"):
            raise SubjectError(
                f'"{text}" has the wildcard "{token}"; wildcards are for subscriptions, publish to a literal subject'
            )
    if len(literals) < KNOWN:
        literals.add(text)
    return tokens


def no_address(found: Any, word: str) -> SubjectError:
    """The error of a call named `word` ("on", "subscribe") whose argument cannot be subscribed to."""
    if callable(found) and not isinstance(found, type):
        name = plain_text(getattr(found, "__name__", None)) or type(found).__name__
        given = f'@bus.on("orders.created") above {name}' if word == "on" else f'bus.subscribe("orders.created", {name})'
        return SubjectError(f"{word} is given the function {name} where a subject is due; write {given}")
    return SubjectError(f'{found!r} cannot be subscribed to; use a pattern such as "orders.>", or Ref(obj)')


def not_carried(subject: Any, carrier: str, field: str = "subject") -> UnsupportedCapability:
    """The error for mail addressed to an object where messages are encoded."""
    remedy = "use a string" if isinstance(subject, Ref) else f"give the {class_name(subject)} a name, its address there"
    return UnsupportedCapability(
        f"{field} {shown(subject)} is an object, and {carrier} carries only mail for named subjects; {remedy}"
    )


def encoded_address(subject: Any) -> Any:
    """`plain_text`, where messages are encoded: a named actor is its name. What cannot be encoded stays as it is."""
    if not isinstance(subject, Address):
        return plain_text(subject)
    name = plain_text(getattr(subject, "name", None))
    return name if isinstance(name, str) else subject


class Subject(str, Generic[T, A]):
    """
    A subject's name together with the type of its bodies, and for requests with that of the replies' bodies. It can be used
    wherever a string can.

        created = Subject[Order]("orders.created")
        bus.publish(created, order)       # a type checker knows the type of `order`
        price = Subject[str, Price]("prices.get")
        bus.request(price, "tea").body    # a Price

    Raises:
        SubjectError: the name breaks the grammar.
    """

    def __new__(cls, name: str) -> Self:
        check_pattern(name)
        return super().__new__(cls, plain_text(name))

    if TYPE_CHECKING:
        # Distinguishes a typed subject from a plain string, so that an overload for `Name` does not accept a `Subject[Order]`
        # that the overload before it has rejected. See `Name`.
        def __mod__(self, body: T, /) -> str: ...

    else:

        def __class_getitem__(cls, types):
            return super().__class_getitem__(types if type(types) is tuple else (types, Any))

    @property
    def type(self) -> Any:
        """The first type between the brackets, that of bodies; None if there are no brackets."""
        return self._types()[0]

    @property
    def reply(self) -> Any:
        """The second type between the brackets, that of replies' bodies: Any if there is only one, None if there are none."""
        return self._types()[1]

    def _types(self) -> tuple[Any, ...]:
        origin = getattr(self, "__orig_class__", None)
        return (None, None) if origin is None else get_args(origin)


class Name(Protocol):
    """
    For type checkers: a string that is not a `Subject[T]`, except a `Subject[Any]`.

    A `Subject` is a `str`, so an overload for `str` would accept what the overload for `Subject[T]` rejects. Every `str` has a
    `%` that takes any operand; a `Subject[Order]` declares one that takes an `Order` only.
    """

    def __mod__(self, value: object, /) -> str: ...


class Address:
    """Base class of objects that can be used as a subject: actors and `Ref`."""

    __slots__ = ()


class Ref(Address):
    """
    An object as a subject. No pattern matches it.

    Two of them are equal if they hold the same object.
    """

    __slots__ = ("object",)

    def __init__(self, object: Hashable) -> None:
        try:
            hash(object)
        except TypeError:
            raise SubjectError(
                f"Ref({shown(object)}): {type(object).__name__} objects are not hashable; refer to an object that is"
            ) from None
        self.object = object

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Ref) and self.object is other.object

    def __hash__(self) -> int:
        return id(self.object)

    def __repr__(self) -> str:
        return f"Ref({shown(self.object)})"

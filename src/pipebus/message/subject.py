"""
Subjects: dotted names, the patterns that match them, and an index of patterns.

The rules are NATS's: a subject is tokens joined by dots; in a pattern the token `*` stands for exactly one token and `>`,
as the last token, for one or more. Both are wildcards only when they are the whole token. Matching is by code point:
case matters, nothing is folded or normalised.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, get_args

from pipebus.errors import SubjectError
from pipebus.foreign.objects import plain_text, shown

T = TypeVar("T")
V = TypeVar("V")

KNOWN = 16_384  # subjects that were checked and are not checked again
_known: set[str] = set()
literals: set[str] = set()
MAX_LENGTH = 1024  # characters; far above any sane subject, far below NATS's control line


def check_pattern(text: str) -> tuple[str, ...]:
    """
    The tokens of a pattern.

    Raises:
        SubjectError: saying which token is wrong, and why.
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
    for character in text:
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
    The tokens of a literal subject, one that can be published to.

    Raises:
        SubjectError: as for a pattern, and when a token is a wildcard.
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
    """The error of `word` ("on", "subscribe") that was given something else than what can be subscribed to."""
    if callable(found) and not isinstance(found, type):
        name = plain_text(getattr(found, "__name__", None)) or type(found).__name__
        given = f'@bus.on("orders.created") above {name}' if word == "on" else f'bus.subscribe("orders.created", {name})'
        return SubjectError(f"{word} is given the function {name} where a subject is due; write {given}")
    return SubjectError(f'{found!r} cannot be subscribed to; use a pattern such as "orders.>", or Ref(obj)')


class Pattern:
    """A subject or a wildcard pattern, split once."""

    __slots__ = ("literal", "text", "tokens")

    def __init__(self, text: str) -> None:
        self.text: str = plain_text(text)
        self.tokens = check_pattern(self.text)
        self.literal = not any(token in ("*", ">") for token in self.tokens)

    def matches(self, subject: object) -> bool:
        """True if `subject` is a string that this pattern names. Actors and `Ref`s are matched by no pattern."""
        subject = plain_text(subject)
        if type(subject) is not str:
            return False
        if self.literal:
            return subject == self.text
        tokens = subject.split(".")
        if self.tokens[-1] == ">":
            if len(tokens) < len(self.tokens):
                return False
            return all(mine in ("*", theirs) for mine, theirs in zip(self.tokens[:-1], tokens, strict=False))
        return len(tokens) == len(self.tokens) and all(
            mine in ("*", theirs) for mine, theirs in zip(self.tokens, tokens, strict=True)
        )

    def covers(self, other: Pattern) -> bool:
        """True if this pattern matches every subject that `other` matches."""
        mine, theirs = self.tokens, other.tokens
        for position, token in enumerate(mine):
            if token == ">":
                return len(theirs) > position
            if position >= len(theirs) or theirs[position] == ">":
                return False
            if token != "*" and token != theirs[position]:
                return False
        return len(mine) == len(theirs)

    def overlaps(self, other: Pattern) -> bool:
        """True if some subject is matched by both."""
        mine, theirs = self.tokens, other.tokens
        for position in range(max(len(mine), len(theirs))):
            if position >= len(mine) or position >= len(theirs):
                return False
            a, b = mine[position], theirs[position]
            if a == ">" or b == ">":
                return True
            if a != b and "*" not in (a, b):
                return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Pattern({shown(self.text)})"

    def __str__(self) -> str:
        return self.text


class PatternTree(Generic[V]):
    """Values filed under patterns; `match` finds those of a subject in one walk over its tokens."""

    __slots__ = ("_branches", "_here", "size")

    def __init__(self) -> None:
        self._branches: dict[str, PatternTree[V]] = {}
        self._here: list[V] = []
        self.size = 0

    def add(self, pattern: Pattern, value: V) -> None:
        node = self
        node.size += 1
        for token in pattern.tokens:
            node = node._branches.setdefault(token, PatternTree())
            node.size += 1
        node._here.append(value)

    def remove(self, pattern: Pattern, value: V) -> bool:
        """Take `value` out again (by identity); False if it was not there. Empty branches go with it."""
        path: list[PatternTree[V]] = [self]
        for token in pattern.tokens:
            child = path[-1]._branches.get(token)
            if child is None:
                return False
            path.append(child)
        here = path[-1]._here
        for index, filed in enumerate(here):
            if filed is value:
                del here[index]
                break
        else:
            return False
        for node in path:
            node.size -= 1
        for parent, token in zip(path, pattern.tokens, strict=False):
            if parent._branches[token].size == 0:
                del parent._branches[token]
                break
        return True

    def match(self, subject: str) -> Iterator[V]:
        return self._match(subject.split("."), 0)

    def _match(self, tokens: list[str], depth: int) -> Iterator[V]:
        if depth == len(tokens):
            yield from self._here
            return
        rest = self._branches.get(">")
        if rest is not None:
            yield from rest._here
        # A literal subject holds no token "*" or ">", so these look-ups never meet.
        for token in (tokens[depth], "*"):
            child = self._branches.get(token)
            if child is not None:
                yield from child._match(tokens, depth + 1)

    def __iter__(self) -> Iterator[V]:
        yield from self._here
        for child in self._branches.values():
            yield from child


class Subject(str, Generic[T]):
    """
    A subject's name together with its body's type; usable wherever a string is.

        created = Subject[Order]("orders.created")
        bus.publish(created, order)       # a type checker knows what `order` must be

    Raises:
        SubjectError: if the name breaks the grammar.
    """

    def __new__(cls, name: str) -> Subject[T]:
        check_pattern(name)
        return super().__new__(cls, plain_text(name))

    if TYPE_CHECKING:
        # What tells a typed subject from a plain string, so that an overload for `Name` does not take the `Subject[Order]`
        # that the overload before it has refused. See `Name`.
        def __mod__(self, body: T, /) -> str: ...

    @property
    def type(self) -> Any:
        """The body's type as it was written between the brackets, or None."""
        origin = getattr(self, "__orig_class__", None)
        return get_args(origin)[0] if origin is not None else None


class Name(Protocol):
    """
    For type checkers: a string that is no `Subject[T]` (or is a `Subject[Any]`).

    A `Subject` is a `str`, so an overload for `str` would take what the one for `Subject[T]` refuses. Every `str` has a `%`
    that takes anything; a `Subject[Order]` is declared to have one that takes an `Order`.
    """

    def __mod__(self, value: object, /) -> str: ...


class Address:
    """What an object that is a subject itself derives from: actors and `Ref`."""

    __slots__ = ()


class Ref(Address):
    """
    A subject that is an object: mail addressed to the thing itself, matched by no pattern.

    Two `Ref`s are equal when they hold the very same object.
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

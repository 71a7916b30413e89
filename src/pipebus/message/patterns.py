"""Patterns that match subjects, and an index of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from pipebus.foreign.objects import plain_text, shown
from pipebus.message.subject import check_pattern

V = TypeVar("V")


class Pattern:
    """A subject or a wildcard pattern, split into tokens once."""

    __slots__ = ("literal", "text", "tokens")

    def __init__(self, text: str) -> None:
        self.text: str = plain_text(text)
        self.tokens = check_pattern(self.text)
        self.literal = not any(token in ("*", ">") for token in self.tokens)

    def matches(self, subject: object) -> bool:
        """True if `subject` is a string that this pattern matches. No pattern matches an actor or a `Ref`."""
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
        """True if both patterns match some common subject."""
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
    """Values filed under patterns; `match` finds the values for a subject in one walk over its tokens."""

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
        """Remove `value` (by identity) and branches that become empty; False if it was not there."""
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
        # A literal subject has no token "*" or ">", so the three look-ups find three different branches.
        for token in (tokens[depth], "*"):
            child = self._branches.get(token)
            if child is not None:
                yield from child._match(tokens, depth + 1)

    def __iter__(self) -> Iterator[V]:
        yield from self._here
        for child in self._branches.values():
            yield from child

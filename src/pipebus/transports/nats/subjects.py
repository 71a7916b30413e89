"""
The names of our subjects on the server.

    orders.created             <prefix>.orders.created          kept in the stream
    _reply.7f.Zq3              <prefix>-reply.7f.Zq3            plain NATS: kept nowhere
    _reply._INBOX.x            _INBOX.x                         the same, for an answer to another program
    replayed to one consumer   <prefix>-replay.<consumer>       kept in the stream
    until it is due            <prefix>-later.<random>          kept in the stream
    a dead letter              <prefix>-dead.<consumer>.<id>    kept in the stream of dead letters
    who serves a consumer?     <prefix>-here.<consumer>         plain NATS: kept nowhere
    attempts at a message      <prefix>-note.<consumer>.<seq>   kept there too
    last slot of a schedule    <prefix>-note.schedule.slot.<it> kept there too

With an empty prefix the first is the same on both sides, and the others begin with the name of the stream.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from pipebus.message.patterns import Pattern
from pipebus.transports.nats.options import Options

REPLY: Final = "_reply."
INBOX: Final = "_INBOX."
"""How the subjects begin on which programs of any kind wait for answers."""
LONGEST: Final = 3000
"""Bytes of a subject on the server, which closes the connection of a client that sends a longer line (4096 bytes)."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_HASHED: Final = re.compile(r".*-[0-9a-f]{12}")


class Subjects:
    """
    Args:
        options: The prefix and the stream's name.
    """

    def __init__(self, options: Options) -> None:
        self._before = f"{options.prefix}." if options.prefix else ""
        root = options.prefix or options.stream
        self.kept = options.subjects or (f"{self._before}>",)
        self.replies = f"{root}-reply."
        self.replays = f"{root}-replay."
        self.later = f"{root}-later."
        self.dead = f"{root}-dead."
        self.notes = f"{root}-note."
        self.slots = f"{root}-note.schedule.slot."
        self.here = f"{root}-here."

    def keeps(self, subject: str) -> bool:
        """Whether the streams of this URL keep one of the server's subjects."""
        return subject.startswith((self.dead, self.notes, self.replays, self.later)) or any(
            Pattern(one).matches(subject) for one in self.kept
        )

    def theirs(self, subject: str) -> str:
        """The server's name of one of our subjects or patterns."""
        if subject.startswith(REPLY):
            rest = subject[len(REPLY) :]
            return rest if rest.startswith(INBOX) else self.replies + rest
        return self._before + subject

    def ours(self, subject: str) -> str:
        """Our name of one of the server's subjects."""
        if subject.startswith(self.replies):
            return REPLY + subject[len(self.replies) :]
        return subject.removeprefix(self._before)

    def filters(self, patterns: tuple[Pattern, ...]) -> list[str]:
        """What a consumer or listener asks the server for: the narrowest patterns that cover these and do not overlap."""
        return sorted(self.theirs(pattern.text) for pattern in disjoint(patterns))


def consumer_name(name: str) -> str:
    """A name that the server accepts: a different one for each name, and the same in all programs."""
    if _PLAIN.fullmatch(name) and not _HASHED.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:48]}-{digest}"


def disjoint(patterns: tuple[Pattern, ...]) -> list[Pattern]:
    """
    Patterns that together match everything that these match, and no subject twice. Two that overlap become one that covers
    both, since the server refuses overlapping filters; what the wider one brings in excess is dropped here (`wider`).
    """
    found: list[Pattern] = []
    for pattern in sorted(patterns, key=lambda one: one.text):
        wider = pattern
        while (other := next((one for one in found if one.overlaps(wider)), None)) is not None:
            found.remove(other)
            wider = common(wider, other)
        found.append(wider)
    return found


def wider(patterns: tuple[Pattern, ...]) -> bool:
    """Whether `disjoint` matches more than these patterns."""
    return {one.text for one in disjoint(patterns)} != {one.text for one in patterns}


def common(one: Pattern, other: Pattern) -> Pattern:
    """The narrowest pattern that covers both."""
    if one.covers(other):
        return one
    if other.covers(one):
        return other
    tokens = []
    for mine, theirs in zip(one.tokens, other.tokens, strict=False):
        if ">" in (mine, theirs):
            break
        tokens.append(mine if mine == theirs else "*")
    else:
        if len(one.tokens) == len(other.tokens):
            return Pattern(".".join(tokens))
    return Pattern(".".join([*tokens, ">"]))

"""
Dead letters: what could not be handled, kept with the reason, to be looked at, replayed or discarded.

Bounded: over the cap the oldest is evicted, and counted as dropped (`evicted`) by the subscription that it came from.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from pipebus.errors import DeadLetterError
from pipebus.foreign.objects import class_name, formatted, places_of, said, text_of
from pipebus.message.message import Message
from pipebus.waiting.locks import Locks, free

PUBLISH: Final = "publish"
"""The `subscription` of a letter that died in a publish chain."""


class DeadLetter(msgspec.Struct, frozen=True):
    """
    One message that could not be handled.

    Args:
        id: The letter's own id; what `show`, `replay` and `discard` take.
        message: As it was published (on the publish side: as it came to the pipeline that rules the error).
        subscription: Name of the subscription that failed, or "publish".
        by: Name of the filter or handler in which the error arose.
        error: Type and text of the error.
        digest: 12 hex digits over the error's type and the places in its traceback; equal for equal failures.
        traceback: The last frames, as text.
        attempts: Takings from the mailbox.
        first_time, time: First taking and death, seconds since 1970-01-01 UTC.
    """

    id: str
    message: Message[Any]
    subscription: str
    by: str | None
    error: str
    digest: str
    traceback: str
    attempts: int
    first_time: float
    time: float

    def summary(self) -> dict[str, Any]:
        """JSON-safe, without the body."""
        return {
            "id": self.id,
            "message": self.message.id,
            "subject": said(self.message.subject),
            "subscription": self.subscription,
            "by": self.by,
            "error": self.error,
            "digest": self.digest,
            "attempts": self.attempts,
            "first_time": self.first_time,
            "time": self.time,
        }


def digest_of(error: BaseException) -> str:
    """Equal for errors of one type from one place, whatever their text says."""
    kind = f"{class_name(error)}|{places_of(error)}"
    return hashlib.sha256(kind.encode("utf-8", "backslashreplace")).hexdigest()[:12]


class Source(msgspec.Struct):
    """What a store has to do for a letter's origin, handed down by whoever buried it."""

    revive: Callable[[Message[Any]], None]  # raises if there is no room
    bury: Callable[[Message[Any], str], None]  # the letter is gone: count it, under this reason


class DeadLetters:
    """
    The store in memory.

    Args:
        cap: Most letters kept, >= 1.
        locks: Of its bus.
    """

    settles = False
    """Keeping a letter settles the delivery too."""

    def __init__(self, cap: int = 10_000, locks: Locks | None = None) -> None:
        self.cap = cap
        self.total = 0
        self.evicted = 0
        self._letters: dict[str, tuple[DeadLetter, Source]] = {}
        self._numbers = itertools.count(1)
        self._replaying: set[str] = set()
        self.locks = locks or Locks()
        self._lock = self.locks.new()

    def add(
        self, message: Message[Any], error: BaseException, source: Source, *, subscription: str, by: str | None,
        attempts: int, first_time: float, time: float, token: Any = None,
    ) -> DeadLetter:  # fmt: skip
        """Make a letter and keep it; `token` is what a transport knows the delivery by."""
        letter = DeadLetter(
            id=self.next_id(),
            message=message,
            subscription=subscription,
            by=by,
            error=text_of(error),
            digest=digest_of(error),
            traceback=formatted(error),
            attempts=attempts,
            first_time=first_time,
            time=time,
        )
        self.keep(letter, source, token)
        return letter

    def next_id(self) -> str:
        return f"d{next(self._numbers)}"

    def keep(self, letter: DeadLetter, source: Source, token: Any) -> None:
        """Keep a letter; over the cap the oldest goes."""
        evicted: list[tuple[DeadLetter, Source]] = []
        with free(self._lock):
            self._letters[letter.id] = (letter, source)
            self.total += 1
            excess = len(self._letters) - self.cap
            for id in list(itertools.islice(self._letters, max(0, excess) + len(self._replaying))):
                if excess > 0 and id not in self._replaying:
                    evicted.append(self._letters.pop(id))
                    self.evicted += 1
                    excess -= 1
        for old, origin in evicted:
            origin.bury(old.message, "evicted")

    def list(self, subscription: str | None = None) -> list[DeadLetter]:
        """All letters, oldest first; those of one subscription if it is named."""
        with free(self._lock):
            letters = [letter for letter, _ in self._letters.values()]
        return [letter for letter in letters if subscription in (None, letter.subscription)]

    def show(self, id: str) -> DeadLetter:
        """One letter, whole."""
        with free(self._lock):
            return self._get(id)[0]

    def replay(self, id: str) -> None:
        """
        Give the message back to the subscription that failed, attempts counted anew; one that died in a publish chain is
        published anew.

        Raises:
            DeadLetterError: no such letter, or its subscription is full or gone (the letter stays).
        """
        self.locks.check()
        with free(self._lock):
            letter, source = self._get(id)
            self._replaying.add(id)
        try:
            source.revive(letter.message)
            with free(self._lock):
                del self._letters[id]
        finally:
            with free(self._lock):
                self._replaying.discard(id)

    def discard(self, id: str) -> None:
        """
        Throw a letter away; counted as dropped (`discarded`).

        Raises:
            DeadLetterError: no such letter.
        """
        self.locks.check()
        with free(self._lock):
            letter, source = self._get(id)
            del self._letters[id]
        source.bury(letter.message, "discarded")

    def _get(self, id: str) -> tuple[DeadLetter, Source]:
        if id in self._replaying:
            raise DeadLetterError(f'dead letter "{id}" is being replayed at this moment')
        try:
            return self._letters[id]
        except KeyError:
            raise DeadLetterError(f'no dead letter "{id}" (there are {len(self._letters)}); see dead_letters.list()') from None

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self.list())

    def __repr__(self) -> str:
        return f"<DeadLetters: {len(self)} of at most {self.cap}>"

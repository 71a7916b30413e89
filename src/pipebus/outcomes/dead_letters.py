"""
Dead letters: messages that could not be handled, kept with the reason, to be inspected, replayed or discarded.

The store is bounded. Above its cap the oldest letter is evicted, and counted as dropped (`evicted`) by its subscription.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from pipebus.errors import DeadLetterError
from pipebus.foreign.objects import class_name, formatted, places_of, plain_text, said, text_of
from pipebus.message.message import Message
from pipebus.values import defaults
from pipebus.waiting.locks import Locks, free

PUBLISH: Final = "publish"
"""The `subscription` of a letter that died in a publish chain."""


class DeadLetter(msgspec.Struct, frozen=True):
    """
    One message that could not be handled.

    Args:
        id: The letter's own id, for `show`, `replay` and `discard`.
        message: As it was published; on the publish side, as it reached the pipeline whose `on_error` applied.
        subscription: Name of the subscription that failed, or "publish".
        by: Name of the filter or handler in which the error arose.
        error: Type and text of the error.
        digest: 12 hex digits of a hash over the error's type and the places in its traceback; equal for equal failures.
        traceback: The last frames, as text.
        attempts: How often it was taken from the mailbox.
        first_time, time: When it was first taken and when it died, in seconds since 1970-01-01 UTC.
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


def id_of(letter: DeadLetter | str) -> str:
    """
    The id of a letter that is given itself or by its id.

    Raises:
        DeadLetterError: it is neither. The text shows no values, as they may be bodies.
    """
    if isinstance(letter, DeadLetter):
        return letter.id
    id = plain_text(letter)
    if not isinstance(id, str):
        raise DeadLetterError(f"a dead letter or its id is due, found {class_name(letter)}; see dead_letters.list()")
    return id


def digest_of(error: BaseException) -> str:
    """Equal for errors of the same type from the same place, whatever their text."""
    kind = f"{class_name(error)}|{places_of(error)}"
    return hashlib.sha256(kind.encode("utf-8", "backslashreplace")).hexdigest()[:12]


class Source(msgspec.Struct):
    """What a store must do for the origin of a letter: the subscription or route that made it provides these functions."""

    revive: Callable[[Message[Any]], object]  # raises if there is no room
    letter_gone: Callable[[Message[Any], str], None]  # called when the letter is gone, to count it under this reason


class DeadLetters:
    """
    The store in memory.

    Args:
        cap: The most letters kept, >= 1.
        locks: Those of its bus.
    """

    settles = False
    """True in stores where keeping a letter also settles its delivery."""

    def __init__(self, cap: int = defaults.DEAD_LETTERS, locks: Locks | None = None) -> None:
        self.cap = cap
        self.total = 0
        self.evicted = 0
        self.also: Callable[[DeadLetter], object] = lambda letter: None  # called with each new letter; never raises
        # Sends a message that died in a publish chain through the chain of the bus.
        self.publish_again: Callable[[Message[Any]], object] = lambda message: None
        self._letters: dict[str, tuple[DeadLetter, Source]] = {}
        self._numbers = itertools.count(1)
        self._replaying: set[str] = set()
        self.locks = locks or Locks()
        self._lock = self.locks.new()

    def add(
        self, message: Message[Any], error: BaseException, source: Source, *, subscription: str, by: str | None,
        attempts: int, first_time: float, time: float, token: Any = None,
    ) -> DeadLetter:  # fmt: skip
        """Make a letter and keep it; `token` identifies the delivery to the transport."""
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
        """Keep a letter; above the cap, evict the oldest."""
        self.also(letter)
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
            origin.letter_gone(old.message, "evicted")

    def list(self, subscription: str | None = None) -> list[DeadLetter]:
        """All letters, or those of one subscription, oldest first."""
        with free(self._lock):
            letters = [letter for letter, _ in self._letters.values()]
        return [letter for letter in letters if subscription in (None, letter.subscription)]

    def show(self, id: DeadLetter | str) -> DeadLetter:
        """One letter, complete, as it is kept now."""
        with free(self._lock):
            return self._get(id_of(id))[0]

    def replay(self, id: DeadLetter | str) -> None:
        """
        Give the message of a letter, given itself or by id, back to the subscription that failed, with attempts counted from
        zero. A message that died in a publish chain is published again, through the chain of this bus, which must run.

        Raises:
            DeadLetterError: there is no such letter, or its subscription is full or gone (the letter stays).
        """
        self.locks.check()
        id = id_of(id)
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

    def discard(self, id: DeadLetter | str) -> None:
        """
        Delete a letter, given itself or by its id; it counts as dropped (`discarded`).

        Raises:
            DeadLetterError: there is no such letter.
        """
        self.locks.check()
        id = id_of(id)
        with free(self._lock):
            letter, source = self._get(id)
            del self._letters[id]
        source.letter_gone(letter.message, "discarded")

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

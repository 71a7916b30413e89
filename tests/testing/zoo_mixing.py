"""Wrong filters that mix up messages, at the same time or one after the other; one message alone does not show it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from time import sleep
from typing import Any, ClassVar

from zoo import Animal, function

from pipebus import Dropped, Message, Transform

Next = Callable[[Message], Any]

# --- mixed up when they pass at the same time ------------------------------------------------------------------------------


class Racer:
    """The textbook race: another thread may set `current` before it is read."""

    def __call__(self, message: Message, call_next: Next) -> Any:
        self.current = message
        return call_next(self.current)


class RacingTransform(Transform):
    """The same in a Transform."""

    def transform(self, message: Message) -> Message:
        self.current = message
        return self.current


class SleepyRacer:
    """The same, with a wait that makes it likely."""

    def __call__(self, message: Message, call_next: Next) -> Any:
        self.current = message
        time.sleep(0.01)
        return call_next(self.current)


class SleepyRacingTransform(Transform):
    """The same in a Transform."""

    def transform(self, message: Message) -> Message:
        self.current = message
        sleep(0.01)
        return self.current


class AsyncRacer:
    """The same between two tasks."""

    async def __call__(self, message: Message, call_next: Any) -> Any:
        self.current = message
        await asyncio.sleep(0)
        return await call_next(self.current)


class Borrowed:
    """Puts each message on a pile, and takes the top one from it."""

    def __init__(self) -> None:
        self.pile: list[Message] = []

    def __call__(self, message: Message, call_next: Next) -> Any:
        self.pile.append(message)
        stamped = self.pile[-1].with_headers(stamped="yes")
        self.pile.remove(message)
        return call_next(stamped)


class OneAtATime:
    """Takes for granted that no other message comes meanwhile."""

    busy = False

    def __call__(self, message: Message, call_next: Next) -> Any:
        if self.busy:
            raise RuntimeError("called twice at once")
        self.busy = True
        try:
            return call_next(message)
        finally:
            self.busy = False


class LateLoser:
    """Keeps the outcome on itself for one line."""

    def __call__(self, message: Message, call_next: Next) -> Any:
        self.outcome = call_next(message)
        return self.outcome


class Sequence(Transform):
    """Gives two messages the same number if the second comes between these two lines."""

    last = 0

    def transform(self, message: Message) -> Message:
        number = self.last + 1
        self.last = number
        return message.with_headers(seq=str(number))


class AsyncSequence:
    """The same between two tasks."""

    last = 0

    async def __call__(self, message: Message, call_next: Any) -> Any:
        number = self.last + 1
        await asyncio.sleep(0)
        self.last = number
        return await call_next(message.with_headers(seq=str(number)))


class Whose:
    """The race of Racer, with a number that might be a count."""

    def __call__(self, message: Message, call_next: Next) -> Any:
        self.user = message.body["user"]
        return call_next(message.with_headers(user=str(self.user)))


class OncePerOrder:
    """Looks whether it knows an order, and only then remembers it."""

    may_drop = True

    def __init__(self) -> None:
        self.known: set[str] = set()

    def __call__(self, message: Message, call_next: Next) -> Any:
        if message.id in self.known:
            return Dropped("known")
        self.known.add(message.id)
        try:
            outcome = call_next(message)
        except BaseException:
            self.known.discard(message.id)
            raise
        return outcome


class OneEach:
    """A quota of one, of which two may get the last."""

    may_drop = True
    left = 1

    def __call__(self, message: Message, call_next: Next) -> Any:
        if self.left <= 0:
            return Dropped("used up")
        left = self.left
        self.left = left - 1
        return call_next(message)


class Crossing:
    """Takes two locks, now in one order, now in the other."""

    def __init__(self) -> None:
        self.locks = [threading.Lock(), threading.Lock()]
        self.numbers = iter(range(1_000_000))

    def __call__(self, message: Message, call_next: Next) -> Any:
        first = next(self.numbers) % 2
        with self.locks[first]:
            time.sleep(0.001)
            with self.locks[1 - first]:
                pass
        return call_next(message)


# --- mixed up one after the other ------------------------------------------------------------------------------------------


class CachedOutcome:
    """Answers for the second message of a subject with the outcome of the first."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}

    def __call__(self, message: Message, call_next: Next) -> Any:
        if message.subject not in self.known:
            self.known[message.subject] = call_next(message)
        return self.known[message.subject]


class CachedBody(Transform):
    """Hands on the first body of a subject each time."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}

    def transform(self, message: Message) -> Message:
        return message.with_body(self.known.setdefault(message.subject, message.body))


class SharedCache(Transform):
    """The same for all objects of the class."""

    known: ClassVar[dict[Any, Any]] = {}

    def transform(self, message: Message) -> Message:
        return message.with_body(self.known.setdefault(message.subject, message.body))


class FirstAccount(Transform):
    """Charges each order to the account of the first one."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def transform(self, message: Message) -> Message:
        return message.with_body({**message.body, "charged": self.known.setdefault("account", message.body["account"])})


class SharedHeader(Transform):
    """Shows the first message's region in all later ones, whatever object of the class they pass."""

    known: ClassVar[dict[str, str]] = {}

    def transform(self, message: Message) -> Message:
        return message.with_headers(region=self.known.setdefault("region", f"region of {message.body}"))


storage = threading.local()


def traced(message: Message, call_next: Next) -> Any:
    """Never resets the trace of its thread."""
    if not hasattr(storage, "trace"):
        storage.trace = f"trace of {message.body}"
    return call_next(message.with_headers(trace=storage.trace))


class Historian(Transform):
    """Shows each reader the bodies of earlier messages."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    def transform(self, message: Message) -> Message:
        self.bodies.append(message.body)
        return message.with_body({"now": message.body, "before": self.bodies[:-1]})


def mutable_default(message: Message, call_next: Next, marks: list[str] = []) -> Any:  # noqa: B006
    """Adds to a list that all calls share."""
    marks.append("seen")
    return call_next(message.with_headers(marks=" ".join(marks)))


class Exhausted(Transform):
    """Its fields are used up by the first message."""

    def __init__(self) -> None:
        self.fields = (name for name in ("region", "tenant"))

    def transform(self, message: Message) -> Message:
        return message.with_headers(**dict.fromkeys(self.fields, "known"))


class Alternating:
    """Lets each second message through."""

    passing = False

    def __call__(self, message: Message, call_next: Next) -> Any:
        self.passing = not self.passing
        return call_next(message) if self.passing else Dropped("the other one")


class Grudge:
    """Fails with the error of an earlier message."""

    error: Exception | None = None

    def __call__(self, message: Message, call_next: Next) -> Any:
        if self.error is not None:
            raise self.error
        try:
            return call_next(message)
        except Exception as error:
            self.error = error
            raise


class Turnstile:
    """Forgets to give its place back when the rest ends with an error."""

    def __init__(self) -> None:
        self.places = threading.Semaphore(1)

    def __call__(self, message: Message, call_next: Next) -> Any:
        self.places.acquire()
        outcome = call_next(message)
        self.places.release()
        return outcome


class OneBehind(Transform):
    """Refers to the message before."""

    before = "none"

    def transform(self, message: Message) -> Message:
        self.before, before = str(message.body), self.before
        return message.with_headers(before=before)


CONCURRENT, APART = "is safe under concurrency", "keeps messages apart"

USERS, ACCOUNTS = [{"user": 1}, {"user": 2}], [{"account": 1}, {"account": 2}]

_MIXING: dict[str, tuple[Any, ...]] = {
    "racer": (CONCURRENT, Racer, "it handed on the id of message 2 in the pass of message 1"),
    "racing-transform": (CONCURRENT, RacingTransform, "it handed on the id of message 2 in the pass of message 1"),
    "sleepy-racer": (CONCURRENT, SleepyRacer, "it handed on the id of"),
    "sleepy-racing-transform": (CONCURRENT, SleepyRacingTransform, "it handed on the id of"),
    "async-racer": (CONCURRENT, AsyncRacer, "it handed on the id of"),
    "borrowed": (CONCURRENT, Borrowed, "it handed on the id of"),
    "one-at-a-time": (CONCURRENT, OneAtATime, "raised RuntimeError: called twice at once"),
    "late-loser": (CONCURRENT, LateLoser, "was given the outcome of message 2"),
    "sequence": (CONCURRENT, Sequence, "'seq': '1'} for message 2, and {'test-number': '2', 'seq': '2'} in the nearest order"),
    "async-sequence": (CONCURRENT, AsyncSequence, "in the nearest order one after the other"),
    "whose": (CONCURRENT, Whose, "'user': '2'} for message 1", "publish", USERS),
    "once-per-order": (CONCURRENT, OncePerOrder, "and returned Dropped(reason='known'"),
    "one-each": (CONCURRENT, OneEach, "and returned Dropped(reason='used up'"),
    "crossing": (CONCURRENT, Crossing, "no thread can go on"),
    "cached-outcome": (APART, CachedOutcome, "message 2 was given the outcome of message 1"),
    "cached-body": (APART, CachedBody, "it handed on the body of message 1 in the pass of message 2"),
    "shared-cache": (APART, SharedCache, "that is of message 1, which another filter got before"),
    "first-account": (APART, FirstAccount, "'charged': 9974}", "publish", ACCOUNTS),
    "shared-header": (APART, SharedHeader, "that is of message 1, which another filter got before"),
    "historian": (APART, Historian, "'before': [{'name': 'ada'}]"),
    "mutable-default": (APART, function(mutable_default), "a mutable default"),
    "exhausted": (APART, Exhausted, "and a new filter handed on {'test-number': '2', 'region': 'known'"),
    "alternating": (APART, Alternating, "message 2 was dropped (the other one)"),
    "grudge": (APART, Grudge, "message 2 was given the error of message 1"),
    "turnstile": (APART, Turnstile, "message 2 waits for something that never comes"),
    "one-behind": (APART, OneBehind, "it handed on"),
}

MIXING = {name: Animal(*animal) for name, animal in _MIXING.items()}
"""Each with the law that it breaks, and part of what is said about it."""

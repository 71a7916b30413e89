"""
Wrong filters, each broken in one way, with the law that is meant for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipebus import Around, Dropped, Message, Pause, Rejected, Transform, around, transform
from pipebus.pipeline.shapes import Context, Steps
from pipebus.testing.laws.case import ForeignError
from pipebus.values.quantities import Seconds


class Animal(NamedTuple):
    """A filter that breaks a law."""

    law: str
    make: Callable[[], Any]
    says: str
    at: str = "publish"
    messages: Any = None


def function(filter: Any) -> Callable[[], Any]:
    """What makes a function, which is the same each time."""
    return lambda: filter


class Mutator(Transform):
    """Writes into a body that others read."""

    def transform(self, message: Message) -> Message:
        if isinstance(message.body, dict):
            message.body["seen"] = True
        return message


class Eager(Around):
    """Runs the rest again after a drop without declaring that it does."""

    def around(self, message: Message) -> Steps:
        outcome = yield message
        if isinstance(outcome, Dropped):
            outcome = yield message
        return outcome


class Stubborn(Around):
    """Claims to run the rest at most twice, and runs it three times."""

    repeats = True
    passes = 2

    def around(self, message: Message) -> Steps:
        for _ in range(2):
            with contextlib.suppress(ForeignError):
                return (yield message)
        return (yield message)


def deaf(message: Message, call_next: Any) -> Any:
    """Makes a drop of anything that ends the rest, even of a cancellation."""
    try:
        return call_next(message)
    except Exception:
        raise
    except BaseException:
        return Dropped("stopped")


async def deaf_async(message: Message, call_next: Any) -> Any:
    """The same in an async chain."""
    try:
        return await call_next(message)
    except asyncio.CancelledError:
        return Dropped("cancelled")


@around
def wrapper(message: Message) -> Steps:
    """Turns every error into another error."""
    try:
        return (yield message)
    except Exception as error:
        raise RuntimeError("something went wrong") from error


@around
def swallower(message: Message) -> Steps:
    """Treats every error as a drop."""
    try:
        return (yield message)
    except Exception:
        return Dropped("never mind")


@transform
def two_faced(message: Message) -> Message:
    """Looks whether it runs on a loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return message
    return message.with_headers(colour="async")


class Forgetful(Around):
    """Keeps its message where the next pass finds it."""

    waits = True
    message: Message

    def around(self, message: Message) -> Steps:
        self.message = message
        yield Pause(0.001)
        return (yield self.message)


class Confused(Around):
    """Keeps the outcome where the next pass finds it."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []

    def around(self, message: Message) -> Steps:
        self.outcomes.append((yield message))
        return self.outcomes[0]


@transform
def forger(message: Message) -> Message:
    """Makes a new message with a new id."""
    return Message(
        message.subject, message.body, headers=dict(_free(message)), time=message.time, correlation_id=message.correlation_id
    )


@transform
def stripper(message: Message) -> Message:
    """Makes a new message with the old id, but without the headers that the bus needs."""
    return Message(
        message.subject,
        message.body,
        headers=dict(_free(message)),
        id=message.id,
        time=message.time,
        correlation_id=message.correlation_id,
    )


@transform
def breaker(message: Message) -> Message:
    """Forgets the message's key, reply address and correlation id."""
    copy = Message(message.subject, message.body, id=message.id, time=message.time)
    import msgspec

    return msgspec.structs.replace(copy, headers=message.headers)


def _free(message: Message) -> list[tuple[str, str]]:
    return [(name, value) for name, value in message.headers.items() if not name.startswith("pipebus-")]


def silent(message: Message, call_next: Any) -> None:
    """Forgets to return the outcome."""
    call_next(message)


@around
def chatterbox(message: Message) -> Steps:
    """Returns something that is not an outcome."""
    yield message
    return "all is well"


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def leaky(message: Message, call_next: Any) -> Any:
    """Sets the tenant and never restores it."""
    tenant.set("acme")
    return call_next(message)


class Moody(Transform):
    """Claims to be deterministic, and counts."""

    deterministic = True
    numbers = itertools.count()

    def transform(self, message: Message) -> Message:
        return message.with_headers(number=str(next(self.numbers)))


class Growing(Transform):
    """Claims to be idempotent, and adds something each time."""

    idempotent = True

    def transform(self, message: Message) -> Message:
        return message.with_headers(times=str(int(message.headers.get("times", "0")) + 1))


class Mayfly(Transform):
    """Works until it is stopped for the first time."""

    def __init__(self) -> None:
        self.stopped = False

    def start(self, context: Context) -> None:
        pass

    def stop(self) -> None:
        self.stopped = True

    def transform(self, message: Message) -> Message:
        if self.stopped:
            raise OSError("the file is closed")
        return message


@dataclass(eq=False)
class Shy(Transform):
    """Has a setting that JSON cannot hold."""

    limit: float = float("inf")

    def transform(self, message: Message) -> Message:
        return message


@dataclass(eq=False)
class Inflating(Transform):
    """Keeps its setting in units other than those it takes."""

    wait: Seconds = 1.0

    def __post_init__(self) -> None:
        self.wait = self.wait * 1000

    def transform(self, message: Message) -> Message:
        return message


@dataclass(eq=False)
class Untyped(Transform):
    """Declares a number and keeps a text."""

    size: int = 1

    def __post_init__(self) -> None:
        self.size = f"{self.size} bytes" if isinstance(self.size, int) else self.size  # type: ignore[assignment]

    def transform(self, message: Message) -> Message:
        return message


class Bouncer(Around):
    """Recognises its message by what it keeps on itself, and drops one that it does not recognise."""

    message: Message

    def around(self, message: Message) -> Steps:
        self.message = message
        outcome = yield message
        return outcome if self.message.id == message.id else Dropped("mixed up")


class Mixer(Around):
    """Keeps its header where the next pass finds it."""

    waits = True
    correlation: str | None

    def around(self, message: Message) -> Steps:
        import msgspec

        self.correlation = message.correlation_id
        yield Pause(0.001)
        return (yield msgspec.structs.replace(message, correlation_id=self.correlation))


class Persistent(Around):
    """Tries again after any error, even after a cancellation."""

    repeats = True
    passes = 3

    def around(self, message: Message) -> Steps:
        for attempt in (1, 2, 3):
            try:
                return (yield message)
            except Rejected:
                raise
            except BaseException:
                if attempt == 3:
                    raise
        return None


class Borrower(Transform):
    """Opens something with its first message, closes it at its stop, and forgets that it has."""

    def __init__(self) -> None:
        self.open: bool | None = None

    def start(self, context: Context) -> None:
        pass

    def stop(self) -> None:
        if self.open:
            self.open = False

    def transform(self, message: Message) -> Message:
        if self.open is None:
            self.open = True
        if not self.open:
            raise OSError("it is closed")
        return message


class Counting(Transform):
    """Claims to be deterministic, and counts on itself."""

    deterministic = True

    def __init__(self) -> None:
        self.counts = itertools.count(1)

    def transform(self, message: Message) -> Message:
        return message.with_headers(count=str(next(self.counts)))


@around
def defacer(message: Message) -> Steps:
    """Writes into the body when the rest fails."""
    try:
        return (yield message)
    except Exception:
        if isinstance(message.body, dict):
            message.body["failed"] = True
        raise


def once(message: Message, call_next: Any) -> Any:
    """A plain filter that runs the rest twice."""
    call_next(message)
    return call_next(message)


ZOO = {
    "mutator": Animal("mutates nothing", Mutator, "change a copy"),
    "defacer": Animal("mutates nothing", lambda: defacer, "change a copy"),
    "eager": Animal("runs the rest as declared", Eager, "ran the rest 2 times, and declares passes=1"),
    "stubborn": Animal("runs the rest as declared", Stubborn, "ran the rest 3 times, and declares passes=2"),
    "twice": Animal("runs the rest as declared", lambda: once, "ran the rest 2 times"),
    "deaf": Animal("lets cancellation through", lambda: deaf, "the rest was ended by CancelledError"),
    "deaf-async": Animal("lets cancellation through", lambda: deaf_async, "the rest was ended by CancelledError"),
    "persistent": Animal("lets cancellation through", Persistent, "and the filter ran it again"),
    "wrapper": Animal("lets errors through", lambda: wrapper, "raised RuntimeError: something went wrong"),
    "swallower": Animal("lets errors through", lambda: swallower, "returned Dropped"),
    "two-faced": Animal("is the same in both colours", lambda: two_faced, "what it handed on differs"),
    "forgetful": Animal("is safe under concurrency", Forgetful, "messages at once, it handed on"),
    "confused": Animal("keeps messages apart", Confused, "message 2 was given the outcome of message 1"),
    "bouncer": Animal("is safe under concurrency", Bouncer, "was dropped (mixed up)"),
    "mixer": Animal("is safe under concurrency", Mixer, "it handed on the correlation_id of"),
    "forger": Animal("keeps the envelope", lambda: forger, "it handed on id="),
    "stripper": Animal("keeps the envelope", lambda: stripper, "it lost the reserved header"),
    "breaker": Animal("keeps the envelope", lambda: breaker, "it handed on correlation_id=None"),
    "silent": Animal("returns an outcome", lambda: silent, "returned None where an outcome is due"),
    "chatterbox": Animal("returns an outcome", lambda: chatterbox, "returned 'all is well' where an outcome is due"),
    "leaky": Animal("restores the context", lambda: leaky, "it left context variable tenant changed"),
    "moody": Animal("keeps its word", Moody, "it declares deterministic"),
    "counting": Animal("keeps its word", Counting, "it declares deterministic"),
    "growing": Animal("keeps its word", Growing, "it declares idempotent"),
    "mayfly": Animal("starts again", Mayfly, "after it was stopped and started again"),
    "borrower": Animal("starts again", Borrower, "after it was stopped and started again"),
    "shy": Animal("describes itself", Shy, "its description is not JSON"),
    "inflating": Animal("settings round-trip", Inflating, "made from its own settings has others"),
    "untyped": Animal("settings round-trip", Untyped, "its settings are not what its fields declare"),
}
"""Each with the law that it breaks, and part of what is said about it."""

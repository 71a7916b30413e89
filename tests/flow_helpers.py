"""
What the tests of outcomes, mailboxes and lifecycle share: handlers under control, an ear for events, the ways to
publish, and the conservation law, which `running` checks at the end of every scenario.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import pytest

from pipebus import Bus, Delivery, Dropped, Message, Receipt, Subscription, Transform
from pipebus.events import Event

E = TypeVar("E", bound=Event)

WAIT = 10.0
"""Seconds that a test waits for what must happen; it is long, because only a broken bus lets it run out."""

LONG = 60.0
"""A time that no test waits for: a wait this long must be ended early, or must not happen at all."""


# --- the conservation law ----------------------------------------------------------------------------------------------


def ended(stats: dict[str, Any]) -> int:
    """The messages that are finished, by a subscription's figures."""
    return int(stats["acknowledged"] + sum(stats["dropped"].values()) + stats["dead"])


def assert_conserved(*subscriptions: Subscription, accepted: int | None = None) -> None:
    """accepted = acknowledged + dropped + dead + pending + in flight; and `accepted` is what the test itself has counted."""
    for subscription in subscriptions:
        stats = subscription.stats()
        numbers = [stats[name] for name in ("accepted", "acknowledged", "dead", "pending", "in_flight")]
        assert min(*numbers, *stats["dropped"].values()) >= 0, f"{subscription.name}: a figure is below zero: {stats}"
        assert stats["accepted"] == ended(stats) + stats["pending"] + stats["in_flight"], f"{subscription.name}: {stats}"
        if accepted is not None:
            assert stats["accepted"] == accepted, f"{subscription.name}: {accepted} went in: {stats}"


@contextmanager
def running(bus: Bus | None = None, *, drain: bool = True) -> Iterator[Bus]:
    """A started bus. At the end every `Hold` is opened, the bus is stopped, and the law must hold for each subscription."""
    bus = bus or Bus()
    bus.start()
    try:
        yield bus
    except BaseException:
        Hold.open_all()
        bus.stop(timeout=WAIT, drain=False)
        raise
    Hold.open_all()
    report = bus.stop(timeout=WAIT, drain=drain)
    assert report.drained or not drain, f"not drained: {report}"
    assert_conserved(*bus.subscriptions)
    assert_all_published_accounted_for(bus)


def assert_all_published_accounted_for(bus: Bus) -> None:
    """published = accepted + dropped + rejected + errors, for the bus as a whole."""
    stats = bus.stats()
    by_filter = sum(sum(reasons.values()) for part in ("dropped", "rejected") for reasons in stats[part].values())
    assert stats["published"] == stats["accepted"] + by_filter + sum(stats["errors"].values()), stats


# --- handlers, filters and observers under control ---------------------------------------------------------------------


class Hold:
    """A handler that stops at each message until it is opened; `given` holds its messages in order."""

    _all: ClassVar[weakref.WeakSet[Hold]] = weakref.WeakSet()

    def __init__(self, *, open: bool = False) -> None:
        self.given: list[Any] = []
        self._started = threading.Semaphore(0)
        self._gate = threading.Event()
        if open:
            self._gate.set()
        self._all.add(self)

    def __call__(self, message: Message) -> None:
        self.given.append(message.body)
        self._started.release()
        if not self._gate.wait(2 * WAIT):
            raise TimeoutError("nobody opened this Hold")

    def wait_started(self, count: int = 1) -> None:
        for _ in range(count):
            assert self._started.acquire(timeout=WAIT), f"no handler started; it was given {self.given}"

    def open(self) -> None:
        self._gate.set()

    @classmethod
    def open_all(cls) -> None:
        for hold in list(cls._all):
            hold.open()


class Ear:
    """An observer that remembers every event."""

    def __init__(self, bus: Bus) -> None:
        self.heard: list[Event] = []
        self._news = threading.Condition()
        bus.observe(self)

    def __call__(self, event: Event) -> None:
        with self._news:
            self.heard.append(event)
            self._news.notify_all()

    def of(self, *kinds: type[E]) -> list[E]:
        with self._news:
            return [event for event in self.heard if isinstance(event, kinds)]

    def wait_for(self, kind: type[E], count: int = 1) -> list[E]:
        """All events of a kind, once there are `count` of them."""
        with self._news:
            self._news.wait_for(lambda: sum(isinstance(event, kind) for event in self.heard) >= count, WAIT)
        found = self.of(kind)
        assert len(found) >= count, f"heard {len(found)} of {count} {kind.__name__}: {self.heard}"
        return found


class DropAll(Transform):
    """A filter that ends every message."""

    def __init__(self, reason: str = "unwanted") -> None:
        self.reason = reason

    def transform(self, message: Message) -> Dropped:
        return Dropped(self.reason)


class Boom(Exception):
    """The error of these tests: nothing in the bus raises it."""


def boom(message: Message) -> None:
    """A handler that fails."""
    raise Boom(f"cannot handle {message.body!r}")


def fine(message: Message) -> None:
    """A handler that has nothing to do."""


def returning(times: int, then: Callable[[Delivery], object] = Delivery.ack) -> Callable[[Message, Delivery], None]:
    """A handler that gives its delivery back this many times, then settles it."""

    def give_back(message: Message, delivery: Delivery) -> None:
        if delivery.attempt <= times:
            delivery.retry()
        else:
            then(delivery)

    return give_back


# --- ways to publish ---------------------------------------------------------------------------------------------------

Way = Callable[..., Receipt | Dropped]


def publish(bus: Bus, subject: Any, body: Any = None, **options: Any) -> Receipt | Dropped:
    return bus.publish(subject, body, **options)


def send(bus: Bus, subject: Any, body: Any = None, **options: Any) -> Receipt | Dropped:
    return bus.send(Message(subject, body, **options))


def apublish(bus: Bus, subject: Any, body: Any = None, **options: Any) -> Receipt | Dropped:
    async def one() -> Receipt | Dropped:
        return await bus.apublish(subject, body, **options)

    return asyncio.run(one())


def asend(bus: Bus, subject: Any, body: Any = None, **options: Any) -> Receipt | Dropped:
    async def one() -> Receipt | Dropped:
        return await bus.asend(Message(subject, body, **options))

    return asyncio.run(one())


every_way = pytest.mark.parametrize("way", [publish, send, apublish, asend], ids=lambda way: way.__name__)
"""Run a test once for each way in which a message enters the bus."""


def _sync_pass(message: Message, call_next: Any) -> Any:
    return call_next(message)


async def _async_pass(message: Message, call_next: Any) -> Any:
    return await call_next(message)


def bus_of(road: str, **options: Any) -> Bus:
    """A bus whose publish chain is "bare", "sync", "async", or whose messages are "encoded"."""
    bus = Bus("memory:?wire=json" if road == "encoded" else "memory:", **options)
    if road == "sync":
        bus.use(_sync_pass)
    elif road == "async":
        bus.use(_async_pass)
    return bus


every_road = pytest.mark.parametrize("road", ["bare", "sync", "async", "encoded"])
"""Run a test once for each way through the bus; `bus_of` makes the bus."""


# --- threads -----------------------------------------------------------------------------------------------------------


class InThread:
    """A call on a thread of its own; `result` waits for it and gives back what it returned or raises what it raised."""

    def __init__(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self._outcome: list[Any] = []
        self._error: list[BaseException] = []

        def run() -> None:
            try:
                self._outcome.append(call(*arguments, **options))
            except BaseException as error:
                self._error.append(error)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, timeout: float = WAIT) -> Any:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the call has not returned"
        if self._error:
            raise self._error[0]
        return self._outcome[0]


def wait_until(holds: Callable[[], bool], what: str) -> None:
    """Wait for a figure that no event announces: look again until it holds, and let the threads run that make it so."""
    never = threading.Event()
    deadline = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < deadline, f"still not so: {what}"
        never.wait(0.001)


@contextmanager
def hasty_threads() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can, so that races show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Passing(Transform):
    """A filter that lets every message pass, and records its starts and stops in `life`."""

    def __init__(self) -> None:
        self.life: list[str] = []

    def start(self, context: Any) -> Any:
        self.life.append("start")

    def stop(self) -> Any:
        self.life.append("stop")

    def transform(self, message: Message) -> Message:
        return message

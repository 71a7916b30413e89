"""
Guarantee 33: a delayed message passes the publish chain at once and holds its place; a message past its time to live is dropped
when it is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from flow_helpers import Boom, apublish, assert_conserved, boom, bus_of, every_road, fine, publish, running
from pipebus import (
    Bus,
    Delivery,
    DrainTimeout,
    MailboxFull,
    Message,
    MessageError,
    Receipt,
    ReceiveTimeout,
    Subscription,
)
from pipebus.filters import Tap
from pipebus.testing import Harness

Way = Callable[..., Any]
readers = pytest.mark.parametrize("reader", ["one-worker", "two-workers", "read"])


@pytest.fixture(params=["publish", "apublish"])
def way(request: pytest.FixtureRequest, harness: Harness) -> Way:
    """Publish in a thread or in a coroutine."""

    def publish(bus: Bus, subject: str, body: Any = None, **options: Any) -> Any:
        return bus.publish(subject, body, **options)

    def apublish(bus: Bus, subject: str, body: Any = None, **options: Any) -> Any:
        return harness.run(bus.apublish(subject, body, **options))

    return publish if request.param == "publish" else apublish


class Reader:
    """A subscription on "s" of the given kind; `given` is the list of its messages so far."""

    def __init__(self, harness: Harness, bus: Bus, kind: str, **options: Any) -> None:
        self.harness = harness
        self.pulls = kind == "read"
        self._given: list[Any] = []
        if self.pulls:
            self.subscription: Subscription = bus.subscribe("s", **options)
        else:
            self.subscription = bus.subscribe("s", self._handle, workers=2 if kind == "two-workers" else 1, **options)

    def _handle(self, message: Message) -> None:
        self._given.append(message.body)

    @property
    def given(self) -> list[Any]:
        self.harness.advance(0)
        if self.pulls:
            with suppress(ReceiveTimeout):
                while True:
                    self._handle(self.subscription.receive(timeout=0))
        return self._given


# --- delay -------------------------------------------------------------------------------------------------------------


@every_road
@readers
def test_s33_a_delayed_message_passes_the_chain_at_once_and_is_delivered_when_due(
    harness: Harness, reader: str, road: str, way: Way
) -> None:
    """Filters and the receipt see the message at once, and no handler or reader gets it before it is due."""
    passed: list[Any] = []
    bus = harness.attach(bus_of(road))
    if road != "bare":
        bus.use(Tap(lambda message: passed.append(message.body)))
    with running(bus):
        it = Reader(harness, bus, reader)
        bus.subscribe("s")

        assert way(bus, "s", "late", delay=60.0) == Receipt(2)
        assert passed == ([] if road == "bare" else ["late"])
        assert it.subscription.stats()["pending"] == 1

        way(bus, "s", "now")
        assert it.given == ["now"]
        harness.advance(59.0)
        assert it.given == ["now"]

        harness.advance(1.0)
        assert it.given == ["now", "late"]
        assert passed == ([] if road == "bare" else ["late", "now"])


@readers
def test_s33_delayed_messages_come_in_the_order_of_their_times(harness: Harness, reader: str) -> None:
    """Delayed messages come when they are due, and not in the order in which they were published."""
    with running(harness.bus) as bus:
        it = Reader(harness, bus, reader)
        for delay in (30.0, 10.0, 20.0):
            bus.publish("s", delay, delay=delay)

        for due in ([], [10.0], [10.0, 20.0], [10.0, 20.0, 30.0]):
            assert it.given == due
            harness.advance(10.0)


@readers
def test_s33_a_delayed_message_holds_its_place_in_the_mailbox(harness: Harness, reader: str, way: Way) -> None:
    """A delayed message is pending, and counts towards the bound, from the moment it is accepted."""
    with running(harness.bus, drain=False) as bus:
        subscription = Reader(harness, bus, reader, mailbox=2, overflow="reject").subscription
        for _ in range(2):
            way(bus, "s", "late", delay=60.0)

        for delay in (0.0, 60.0):
            with pytest.raises(MailboxFull):
                way(bus, "s", "one too many", delay=delay)

        assert subscription.stats()["pending"] == 2
        assert_conserved(subscription, accepted=2)


def test_s33_a_full_mailbox_is_waited_for_before_a_delay_begins(harness: Harness, way: Way) -> None:
    """Under `block` a delayed message waits for its place like any other, and then holds it."""
    with running(harness.bus, drain=False) as bus:
        subscription = bus.subscribe("s", mailbox=1, overflow="block", overflow_timeout=30.0)
        bus.publish("s", "in the way")
        publisher = harness.thread(way, bus, "s", "late", delay=60.0)
        harness.advance(20.0)
        assert not publisher.ended

        assert subscription.receive(timeout=0).body == "in the way"

        assert publisher.result() == Receipt(1)
        assert (harness.elapsed, subscription.stats()["pending"]) == (20.0, 1)
        harness.advance(59.0)
        with pytest.raises(ReceiveTimeout):
            subscription.receive(timeout=0)
        harness.advance(1.0)
        assert subscription.receive(timeout=0).body == "late"


def test_s33_a_delayed_message_has_a_place_of_its_own_in_every_mailbox(harness: Harness) -> None:
    """Each subscriber gets the message once, when it is due, whatever happens to the copies of the others."""
    harness.allow(Boom)
    with running(harness.bus) as bus:
        bus.subscribe("s", fine, name="fine")
        failing = bus.subscribe("s", boom)
        leaving = bus.subscribe("s", fine, name="leaving")
        bus.publish("s", "late", delay=60.0)
        leaving.unsubscribe()
        harness.drain()

        assert harness.elapsed == 60.0
        assert [message.body for message in harness.delivered_to("fine")] == ["late"]
        assert failing.stats()["dead"] == 1
        assert leaving.stats()["dropped"] == {"unsubscribed": 1}
        assert_conserved(leaving, accepted=1)


@pytest.mark.parametrize("reader", ["one-worker", "two-workers"])
def test_s33_drain_waits_for_the_delayed_messages_of_handlers(harness: Harness, reader: str) -> None:
    """`drain` waits for them, and says how many are missing when the time is up."""
    with running(harness.bus) as bus:
        it = Reader(harness, bus, reader, name="late-riser")
        bus.publish("s", "late", delay=60.0)
        with pytest.raises(DrainTimeout) as caught:
            bus.drain(30.0)
        assert caught.value.pending == {"late-riser": 1}
        assert harness.elapsed == 30.0

        bus.drain(1_000.0)

        assert (harness.elapsed, it.given) == (60.0, ["late"])


def test_s33_drain_does_not_wait_for_the_delayed_messages_of_readers(harness: Harness) -> None:
    """The owner of a subscription without a handler reads its delayed messages, so a drain does not wait for them."""
    with running(harness.bus) as bus:
        subscription = bus.subscribe("s")
        bus.publish("s", "late", delay=60.0)

        bus.drain(1_000.0)

        assert (harness.elapsed, subscription.stats()["pending"]) == (0, 1)


@readers
def test_s33_a_delayed_message_may_be_due_while_its_subscription_is_paused(harness: Harness, reader: str) -> None:
    """A message waits until its delay is over and the subscription is resumed. (A reader pauses by not reading.)"""
    with running(harness.bus) as bus:
        it = Reader(harness, bus, reader)
        bus.subscribe("other", fine, name="other")
        it.subscription.pause()
        bus.publish("s", "late", delay=10.0)
        bus.publish("other", "witness", delay=10.0)
        harness.advance(10.0)
        assert len(harness.delivered_to("other")) == 1
        if not it.pulls:
            assert it.given == []

        it.subscription.resume()

        assert it.given == ["late"]


@pytest.mark.parametrize("way", [publish, apublish], ids=lambda way: way.__name__)
@pytest.mark.parametrize("delay", [-1, float("inf"), float("nan"), "soon", True], ids=repr)
def test_s33_an_impossible_delay_is_refused(delay: Any, way: Way) -> None:
    """A delay is a number of seconds, 0 or more."""
    with running() as bus:
        subscription = bus.subscribe("s")

        with pytest.raises(MessageError, match="delay"):
            way(bus, "s", delay=delay)

        assert_conserved(subscription, accepted=0)


# --- time to live ------------------------------------------------------------------------------------------------------


@readers
def test_s33_a_message_past_its_time_to_live_is_dropped_when_it_is_taken(harness: Harness, reader: str, way: Way) -> None:
    """Such a drop is neither an error nor a dead letter, and is counted as expired."""
    with running(harness.bus) as bus:
        it = Reader(harness, bus, reader)
        it.subscription.pause()
        way(bus, "s", "old", ttl=10.0)
        way(bus, "s", "young", ttl=30.0)
        way(bus, "s", "ageless")
        harness.advance(11.0)
        assert it.subscription.stats()["pending"] == 3
        it.subscription.resume()

        assert sorted(it.given) == ["ageless", "young"]
        assert it.subscription.stats()["dropped"] == {"expired": 1}
        assert len(bus.dead_letters) == 0


def test_s33_a_message_that_was_taken_in_time_is_handled_however_long_that_takes(harness: Harness) -> None:
    """The bus checks the time to live once, when it takes the message, and does not interrupt a handler."""
    with running(harness.bus) as bus:
        subscription = bus.subscribe("s", lambda message: harness.clock.sleep(1_000.0))
        bus.publish("s", ttl=10.0)
        harness.drain()

        assert (harness.elapsed, subscription.stats()["acknowledged"]) == (1_000.0, 1)


@pytest.mark.parametrize("workers", [1, 2], ids=["one-worker", "two-workers"])
def test_s33_a_message_that_came_back_is_looked_at_again(harness: Harness, workers: int) -> None:
    """The bus checks the age at each attempt: a message that its handler returned may be too old by then."""
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        harness.clock.sleep(6.0)
        delivery.retry()

    with running(harness.bus) as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        bus.publish("s", ttl=10.0)
        harness.drain()

        assert attempts == [1, 2]
        assert subscription.stats()["dropped"] == {"expired": 1}
        assert_conserved(subscription, accepted=1)


def test_s33_a_message_whose_delay_outlasts_its_time_to_live_expires(harness: Harness, way: Way) -> None:
    """The time to live runs from the publish, not from the end of the delay."""
    with running(harness.bus) as bus:
        subscription = bus.subscribe("s", fine, name="s")
        way(bus, "s", "too late", ttl=10.0, delay=20.0)
        harness.drain()

        assert subscription.stats()["dropped"] == {"expired": 1}
        assert harness.delivered_to("s") == []


def test_s33_the_time_of_a_ready_message_counts(harness: Harness) -> None:
    """`send` keeps the time in the envelope, so an old message with a time to live may be too old."""
    with running(harness.bus) as bus:
        subscription = bus.subscribe("s")
        bus.send(Message("s", "old", ttl=10.0, time=harness.clock.now() - 11.0))
        bus.send(Message("s", "young", ttl=10.0, time=harness.clock.now() - 9.0))

        assert subscription.receive(timeout=0).body == "young"
        assert subscription.stats()["dropped"] == {"expired": 1}

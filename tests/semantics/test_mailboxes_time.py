"""
SEMANTICS 33: a delayed message passes the publish chain at once and holds its place; a message past its time to live is dropped
when it is taken.
"""

from __future__ import annotations

from typing import Any

import pytest

from flow_helpers import (
    LONG,
    WAIT,
    HandClock,
    Hold,
    InThread,
    apublish,
    assert_conserved,
    boom,
    fine,
    publish,
    running,
    wait_until,
)
from pipebus import (
    Bus,
    Delivery,
    DrainTimeout,
    MailboxFull,
    Message,
    MessageError,
    Receipt,
    ReceiveTimeout,
)

ways = pytest.mark.parametrize("way", [publish, apublish], ids=lambda way: way.__name__)
roads = pytest.mark.parametrize("road", ["bare", "sync", "async", "encoded"])
readers = pytest.mark.parametrize("reader", ["one-worker", "two-workers", "read"])


def subscribe(bus: Bus, reader: str, hold: Any, **options: Any) -> Any:
    """A subscription on "s", of the kind asked for."""
    if reader == "read":
        return bus.subscribe("s", **options)
    return bus.subscribe("s", hold, workers=2 if reader == "two-workers" else 1, **options)


# --- delay -------------------------------------------------------------------------------------------------------------


def _noting(road: str, passed: list[Any], clock: HandClock) -> Bus:
    bus = Bus("memory:?wire=json" if road == "encoded" else "memory:", clock=clock)

    def plain(message: Message, call_next: Any) -> Any:
        passed.append(message.body)
        return call_next(message)

    async def asynchronous(message: Message, call_next: Any) -> Any:
        passed.append(message.body)
        return await call_next(message)

    bus.use(asynchronous if road == "async" else plain)
    return bus


@ways
@roads
@readers
def test_s33_a_delayed_message_passes_the_chain_at_once_and_is_delivered_when_due(reader: str, road: str, way: Any) -> None:
    """Filters see it now, its receipt counts every mailbox now; no handler or reader gets it before its time."""
    clock = HandClock()
    passed: list[Any] = []
    with running(_noting(road, passed, clock)) as bus:
        hold = Hold(open=True)
        subscription = subscribe(bus, reader, hold)
        bus.subscribe("s")

        receipt = way(bus, "s", "late", delay=60.0)
        assert receipt == Receipt(2)
        assert passed == ["late"]
        assert subscription.stats()["pending"] == 1

        way(bus, "s", "now")
        if reader == "read":
            hold.given.append(subscription.receive(timeout=WAIT).body)
        else:
            hold.wait_started()
        clock.advance(59.0)
        assert hold.given == ["now"]

        clock.advance(1.0)
        if reader == "read":
            hold.given.append(subscription.receive(timeout=WAIT).body)
        else:
            hold.wait_started()
        assert hold.given == ["now", "late"]


@readers
def test_s33_delayed_messages_come_in_the_order_of_their_times(reader: str) -> None:
    """Not in the order in which they were published."""
    clock = HandClock()
    with running(Bus(clock=clock)) as bus:
        hold = Hold(open=True)
        subscription = subscribe(bus, reader, hold)
        for delay in (30.0, 10.0, 20.0):
            bus.publish("s", delay, delay=delay)

        for _ in range(3):
            clock.advance(10.0)
            if reader == "read":
                hold.given.append(subscription.receive(timeout=WAIT).body)
            else:
                hold.wait_started()

        assert hold.given == [10.0, 20.0, 30.0]


@ways
@readers
def test_s33_a_delayed_message_holds_its_place_in_the_mailbox(reader: str, way: Any) -> None:
    """It is pending, and counted in the bound, from the moment it is accepted."""
    with running(Bus(clock=HandClock()), drain=False) as bus:
        subscription = subscribe(bus, reader, fine, mailbox=2, overflow="reject")
        for _ in range(2):
            way(bus, "s", "late", delay=60.0)

        for delay in (0.0, 60.0):
            with pytest.raises(MailboxFull):
                way(bus, "s", "one too many", delay=delay)

        assert subscription.stats()["pending"] == 2
        assert_conserved(subscription, accepted=2)


@ways
def test_s33_a_full_mailbox_is_waited_for_before_a_delay_begins(way: Any) -> None:
    """Under `block` a delayed message waits for its place like any other, and then holds it."""
    clock = HandClock()
    with running(Bus(clock=clock), drain=False) as bus:
        subscription = bus.subscribe("s", mailbox=1, overflow="block", overflow_timeout=LONG)
        bus.publish("s", "in the way")
        publisher = InThread(way, bus, "s", "late", delay=60.0)

        assert subscription.receive(timeout=WAIT).body == "in the way"

        assert publisher.result() == Receipt(1)
        assert subscription.stats()["pending"] == 1
        with pytest.raises(ReceiveTimeout):
            subscription.receive(timeout=0)


def test_s33_a_delayed_message_has_a_place_of_its_own_in_every_mailbox() -> None:
    """Each subscriber gets it once, when it is due, whatever becomes of the others' copies."""
    clock = HandClock()
    with running(Bus(clock=clock)) as bus:
        hold = Hold(open=True)
        bus.subscribe("s", hold)
        failing = bus.subscribe("s", boom)
        leaving = bus.subscribe("s", fine)
        bus.publish("s", "late", delay=60.0)
        leaving.unsubscribe()
        clock.advance(60.0)
        hold.wait_started()
        bus.drain(WAIT)

        assert hold.given == ["late"]
        assert failing.stats()["dead"] == 1
        assert leaving.stats()["dropped"] == {"unsubscribed": 1}
        assert_conserved(leaving, accepted=1)


@pytest.mark.parametrize("reader", ["one-worker", "two-workers"])
def test_s33_drain_waits_for_the_delayed_messages_of_handlers(reader: str) -> None:
    """`drain` returns when they have been handled too, and says how many are missing if time runs out."""
    clock = HandClock()
    with running(Bus(clock=clock)) as bus:
        hold = Hold(open=True)
        subscribe(bus, reader, hold, name="late-riser")
        bus.publish("s", "late", delay=60.0)
        in_vain = InThread(bus.drain, 30.0)
        clock.wait_until_waited_for(2)  # by the bus's timer, and by drain
        clock.advance(30.0)
        with pytest.raises(DrainTimeout) as caught:
            in_vain.result()
        assert caught.value.pending == {"late-riser": 1}

        patient = InThread(bus.drain, 1_000.0)
        clock.advance(30.0)
        patient.result()

        assert hold.given == ["late"]


def test_s33_drain_does_not_wait_for_the_delayed_messages_of_readers() -> None:
    """A pull mailbox is its owner's business, late messages included."""
    with running(Bus(clock=HandClock())) as bus:
        subscription = bus.subscribe("s")
        bus.publish("s", "late", delay=60.0)

        bus.drain(timeout=0)

        assert subscription.stats()["pending"] == 1


@readers
def test_s33_a_delayed_message_may_be_due_while_its_subscription_is_paused(reader: str) -> None:
    """Pause and delay are two reasons to wait; both must be over. (A reader pauses by not reading.)"""
    clock = HandClock()
    with running(Bus(clock=clock)) as bus:
        hold = Hold(open=True)
        other = Hold(open=True)
        subscription = subscribe(bus, reader, hold)
        bus.subscribe("other", other)
        subscription.pause()
        bus.publish("s", "late", delay=10.0)
        bus.publish("other", "witness", delay=10.0)
        clock.advance(10.0)
        other.wait_started()
        assert hold.given == []

        subscription.resume()

        if reader == "read":
            hold.given.append(subscription.receive(timeout=WAIT).body)
        else:
            hold.wait_started()
        assert hold.given == ["late"]


@ways
@pytest.mark.parametrize("delay", [-1, float("inf"), float("nan"), "soon", True], ids=repr)
def test_s33_an_impossible_delay_is_refused(delay: Any, way: Any) -> None:
    """A delay is a number of seconds, 0 or more."""
    with running() as bus:
        subscription = bus.subscribe("s")

        with pytest.raises(MessageError, match="delay"):
            way(bus, "s", delay=delay)

        assert_conserved(subscription, accepted=0)


# --- time to live ------------------------------------------------------------------------------------------------------


@ways
@readers
def test_s33_a_message_past_its_time_to_live_is_dropped_when_it_is_taken(reader: str, way: Any) -> None:
    """It is not an error and no dead letter: nobody wants it any more, and it is counted as expired."""
    clock = HandClock()
    with running(Bus(clock=clock)) as bus:
        hold = Hold(open=True)
        subscription = subscribe(bus, reader, hold)
        subscription.pause()
        way(bus, "s", "old", ttl=10.0)
        way(bus, "s", "young", ttl=30.0)
        way(bus, "s", "ageless")
        clock.advance(11.0)
        assert subscription.stats()["pending"] == 3
        subscription.resume()
        if reader == "read":
            hold.given += [subscription.receive(timeout=0).body for _ in range(2)]
        bus.drain(WAIT)

        assert sorted(hold.given) == ["ageless", "young"]
        assert subscription.stats()["dropped"] == {"expired": 1}
        assert len(bus.dead_letters) == 0


def test_s33_a_message_that_was_taken_in_time_is_handled_however_long_that_takes() -> None:
    """The time to live is looked at when a message is taken, once: a handler is not interrupted."""
    clock = HandClock()
    with running(Bus(clock=clock)) as bus:
        hold = Hold()
        subscription = bus.subscribe("s", hold)
        bus.publish("s", ttl=10.0)
        hold.wait_started()
        clock.advance(1_000.0)
        hold.open()
        bus.drain(WAIT)

        assert subscription.stats()["acknowledged"] == 1


@pytest.mark.parametrize("workers", [1, 2], ids=["one-worker", "two-workers"])
def test_s33_a_message_that_came_back_is_looked_at_again(workers: int) -> None:
    """Each taking looks anew: a message returned by its handler may have grown too old meanwhile."""
    clock = HandClock()
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        clock.advance(11.0)
        delivery.retry()

    with running(Bus(clock=clock)) as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        bus.publish("s", ttl=10.0)
        bus.drain(WAIT)

        assert attempts == [1]
        assert subscription.stats()["dropped"] == {"expired": 1}
        assert_conserved(subscription, accepted=1)


@ways
def test_s33_a_message_whose_delay_outlasts_its_time_to_live_expires(way: Any) -> None:
    """The time to live runs from the publish, not from the end of the delay."""
    clock = HandClock()
    with running(Bus(clock=clock)) as bus:
        hold = Hold(open=True)
        subscription = bus.subscribe("s", hold)
        way(bus, "s", "too late", ttl=10.0, delay=20.0)
        clock.advance(20.0)
        wait_until(lambda: subscription.stats()["dropped"] == {"expired": 1}, "expired")

        assert hold.given == []


def test_s33_the_time_of_a_ready_message_counts() -> None:
    """`send` keeps the envelope: an old message with a time to live is as old as it says."""
    clock = HandClock()
    with running(Bus(clock=clock)) as bus:
        subscription = bus.subscribe("s")
        bus.send(Message("s", "old", ttl=10.0, time=clock.now() - 11.0))
        bus.send(Message("s", "young", ttl=10.0, time=clock.now() - 9.0))

        assert subscription.receive(timeout=0).body == "young"
        assert subscription.stats()["dropped"] == {"expired": 1}

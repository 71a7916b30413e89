"""
Guarantee 22: mailboxes are bounded, and `block`, `reject`, `drop_newest` and `drop_oldest` do exactly what they say.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import ANY

import pytest

from flow_helpers import (
    LONG,
    WAIT,
    Ear,
    Hold,
    InThread,
    apublish,
    asend,
    assert_conserved,
    bus_of,
    every_road,
    every_way,
    fine,
    publish,
    running,
    wait_until,
)
from pipebus import (
    Bus,
    BusClosed,
    Delivery,
    Dropped,
    MailboxFull,
    Message,
    Receipt,
    Subscription,
    SubscriptionError,
    when,
)
from pipebus.events import Acknowledged, Overflowed, Returned, Taken
from pipebus.testing import FakeClock, Harness
from tables import table

by_coroutine = pytest.mark.parametrize("way", [apublish, asend], ids=lambda way: way.__name__)


# --- a full mailbox, of every kind -------------------------------------------------------------------------------------


@dataclass
class Full:
    """
    A full mailbox.

    Args:
        started: Bodies that a handler has.
        waiting: Bodies that have not started, oldest first.
    """

    subscription: Subscription
    hold: Hold
    started: list[int]
    waiting: list[int]
    read: bool
    bus: Bus

    def handle_all(self) -> list[int]:
        """Let every message be handled or read, and return the bodies in the order in which that happened."""
        if not self.read:
            self.subscription.resume()
            self.hold.open()
            self.bus.drain(WAIT)
            return self.hold.given
        while self.subscription.stats()["pending"]:
            self.hold.given.append(self.subscription.receive(timeout=0).body)
        return self.hold.given


KINDS = ("one-worker", "three-workers", "paused", "read")


def fill(bus: Bus, mailbox_kind: str, size: int, **options: Any) -> Full:
    """Subscribe to "s", and publish bodies 0, 1, 2, … until the mailbox is full."""
    hold = Hold()
    workers = 3 if mailbox_kind == "three-workers" else 1
    handler = None if mailbox_kind == "read" else hold
    subscription = bus.subscribe("s", handler, name="full", mailbox=size, workers=workers, **options)
    started = workers if mailbox_kind in ("one-worker", "three-workers") else 0
    if mailbox_kind == "paused":
        subscription.pause()
    for body in range(started):
        bus.publish("s", body)
    hold.wait_started(started)
    for body in range(started, size):
        bus.publish("s", body)
    assert subscription.stats()["pending"] == size - started
    bodies = list(range(size))
    return Full(subscription, hold, bodies[:started], bodies[started:], mailbox_kind == "read", bus)


every_mailbox = pytest.mark.parametrize("mailbox_kind", KINDS)
sizes = pytest.mark.parametrize("size", [3, 1_000], ids=["small", "large"])


@sizes
@every_mailbox
@every_way
def test_s22_reject_raises_at_once_and_takes_nothing(mailbox_kind: str, size: int, way: Any) -> None:
    """The error names the subscription that refused and says what to do; the mailbox stays as it was."""
    with running() as bus:
        full = fill(bus, mailbox_kind, size, overflow="reject")
        before = full.subscription.stats()

        with pytest.raises(MailboxFull, match="reject") as caught:
            way(bus, "s", "one too many")

        assert (caught.value.refused, caught.value.accepted) == (("full",), ())
        assert full.subscription.stats() == {**before, "oldest": ANY}
        assert sorted(full.handle_all()) == list(range(size))


@sizes
@every_mailbox
@every_way
def test_s22_drop_newest_drops_the_newcomer(mailbox_kind: str, size: int, way: Any) -> None:
    """The publisher gets no error; the new message is counted as dropped, and the earlier ones stay."""
    with running() as bus:
        full = fill(bus, mailbox_kind, size, overflow="drop_newest")

        assert way(bus, "s", "newcomer") == Receipt(1)

        assert full.subscription.stats()["dropped"] == {"overflow": 1}
        assert_conserved(full.subscription, accepted=size + 1)
        assert sorted(full.handle_all()) == list(range(size))


@sizes
@every_mailbox
@every_way
def test_s22_drop_oldest_drops_the_oldest_that_has_not_started(mailbox_kind: str, size: int, way: Any) -> None:
    """Messages in a handler stay; the message that has waited longest makes room for the new one."""
    with running() as bus:
        full = fill(bus, mailbox_kind, size + 1, overflow="drop_oldest")

        assert way(bus, "s", 1_000) == Receipt(1)

        assert full.subscription.stats()["dropped"] == {"overflow": 1}
        assert_conserved(full.subscription, accepted=size + 2)
        assert sorted(full.handle_all()) == [*full.started, *full.waiting[1:], 1_000]


@every_way
@pytest.mark.parametrize("mailbox_kind", ["one-worker", "three-workers"])
def test_s22_drop_oldest_drops_the_newcomer_if_everything_has_started(mailbox_kind: str, way: Any) -> None:
    """A message in a handler is never dropped: if nothing else waits, the new message is."""
    with running() as bus:
        size = 3 if mailbox_kind == "three-workers" else 1
        full = fill(bus, mailbox_kind, size, overflow="drop_oldest")

        assert way(bus, "s", "newcomer") == Receipt(1)

        assert full.subscription.stats()["dropped"] == {"overflow": 1}
        assert sorted(full.handle_all()) == list(range(size))


def test_s22_drop_oldest_never_takes_a_message_from_its_reader() -> None:
    """A message in a reader's hands has started, so the new message is dropped if there is no other."""
    with running() as bus:
        subscription = bus.subscribe("s", mailbox=1, overflow="drop_oldest")
        bus.publish("s", "read")
        with subscription.delivery(timeout=0) as delivery:
            bus.publish("s", "newcomer")
            assert delivery.message.body == "read"

        assert subscription.stats() == {
            "accepted": 2,
            "acknowledged": 1,
            "dropped": {"overflow": 1},
            "dead": 0,
            "pending": 0,
            "in_flight": 0,
            "oldest": None,
        }


@sizes
@every_mailbox
@every_way
@pytest.mark.few(8)
def test_s22_block_waits_at_most_its_timeout(mailbox_kind: str, size: int, way: Any) -> None:
    """If there is no room in time, the publisher gets an error, and the mailbox does not take the message."""
    with running() as bus:
        full = fill(bus, mailbox_kind, size, overflow="block", overflow_timeout=0.01)

        with pytest.raises(MailboxFull, match=r"0\.01 s") as caught:
            way(bus, "s", "one too many")

        assert (caught.value.refused, caught.value.accepted) == (("full",), ())
        assert_conserved(full.subscription, accepted=size)
        assert sorted(full.handle_all()) == list(range(size))


@every_road
@every_mailbox
@every_way
def test_s22_block_waits_until_there_is_room(mailbox_kind: str, road: str, way: Any) -> None:
    """The publisher waits while the mailbox is full, and gets in when a message has left it."""
    with running(bus_of(road)) as bus:
        full = fill(bus, mailbox_kind, 4, overflow="block", overflow_timeout=LONG)

        publisher = InThread(way, bus, "s", 4)
        if full.read:
            handled = [full.subscription.receive(timeout=WAIT).body for _ in range(5)]
        else:
            handled = full.handle_all()

        assert publisher.result() == Receipt(1)
        bus.drain(WAIT)
        assert sorted(handled) == [0, 1, 2, 3, 4]
        assert_conserved(full.subscription, accepted=5)


@every_mailbox
def test_s22_block_never_exceeds_the_bound_however_many_publishers_wait(mailbox_kind: str) -> None:
    """Twenty publishers wait for four places: the mailbox never has more than four messages, and all get in."""
    bus = Bus()
    ear = Ear(bus)
    depths: list[int] = []

    @bus.observe
    def look(event: Any) -> None:
        if isinstance(event, (Taken, Acknowledged)):
            stats = full.subscription.stats()
            depths.append(stats["pending"] + stats["in_flight"])

    with running(bus):
        full = fill(bus, mailbox_kind, 4, overflow="block", overflow_timeout=LONG)
        publishers = [InThread(bus.publish, "s", body) for body in range(4, 24)]
        ear.wait_for(Overflowed, 20)
        if full.read:
            handled = [full.subscription.receive(timeout=WAIT).body for _ in range(24)]
        else:
            full.subscription.resume()
            full.hold.open()
            for publisher in publishers:
                publisher.result()
            bus.drain(WAIT)
            handled = full.hold.given

        assert [publisher.result() for publisher in publishers] == [Receipt(1)] * 20
        assert sorted(handled) == list(range(24))
        assert max(depths) <= 4


@pytest.mark.parametrize("road", ["bare", "async"])
def test_s22_who_came_first_gets_the_first_place(road: str) -> None:
    """Coroutines that wait for room get it in the order in which they came, one for each place that becomes free."""
    with running(bus_of(road)) as bus:
        subscription = bus.subscribe("s", mailbox=1, overflow="block", overflow_timeout=LONG)

        async def scenario() -> list[Any]:
            waiting = [asyncio.create_task(bus.apublish("s", body)) for body in range(6)]
            bodies = [(await subscription.areceive(timeout=WAIT)).body for _ in waiting]
            await asyncio.gather(*waiting)
            return bodies

        assert asyncio.run(scenario()) == list(range(6))


def test_s22_a_mailbox_is_bounded_by_default() -> None:
    """By default 10,000 messages fit, and one more does not."""
    with running() as bus:
        subscription = bus.subscribe("s", fine, overflow="reject")
        subscription.pause()
        for body in range(10_000):
            bus.publish("s", body)

        with pytest.raises(MailboxFull):
            bus.publish("s", "one too many")

        subscription.resume()
        bus.drain(WAIT)
        assert_conserved(subscription, accepted=10_000)


@pytest.mark.parametrize("workers", [1, 2], ids=["one-worker", "two-workers"])
def test_s22_the_bound_counts_what_is_in_flight(workers: int) -> None:
    """A mailbox of as many places as there are workers is full when all of them have a message."""
    with running() as bus:
        hold = Hold()
        bus.subscribe("s", hold, mailbox=workers, workers=workers, overflow="reject")
        for body in range(workers):
            bus.publish("s", body)
        hold.wait_started(workers)

        with pytest.raises(MailboxFull):
            bus.publish("s", "one too many")


def test_s22_the_bound_counts_what_waits_behind_its_key() -> None:
    """Messages set aside until an earlier one of their key has been handled still hold their places."""
    with running() as bus:
        hold = Hold()
        subscription = bus.subscribe("s", hold, mailbox=4, workers=3, overflow="reject")
        for body in range(4):
            bus.publish("s", body, key="k")
        hold.wait_started()

        with pytest.raises(MailboxFull):
            bus.publish("s", "one too many", key="k")

        assert (subscription.stats()["in_flight"], subscription.stats()["pending"]) == (1, 3)


# --- drop_oldest and keys ----------------------------------------------------------------------------------------------


def test_s22_drop_oldest_also_looks_at_what_waits_behind_its_key() -> None:
    """A message that waits behind its key has not started, so it is dropped if it is the oldest."""
    with running() as bus:
        hold = Hold()
        bus.subscribe("s", hold, workers=2, mailbox=2, overflow="drop_oldest")
        bus.publish("s", "first", key="k")
        hold.wait_started()
        bus.publish("s", "second", key="k")
        bus.publish("s", "third", key="k")
        hold.open()
        bus.drain(WAIT)

        assert hold.given == ["first", "third"]


def test_s22_dropping_a_returned_message_frees_its_key() -> None:
    """When a returned message is dropped, the messages behind its key are handled."""
    may_return = threading.Event()
    handled: list[str] = []

    def handle(message: Message, delivery: Delivery) -> None:
        if message.body == "returned" and delivery.attempt == 1:
            assert may_return.wait(WAIT)
            delivery.retry()
        else:
            handled.append(message.body)

    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        subscription = bus.subscribe("s", handle, workers=2, mailbox=3, overflow="drop_oldest")
        bus.publish("s", "returned", key="k")
        bus.publish("s", "behind", key="k")
        bus.publish("s", "bystander")
        # The second worker came past "behind", and set it aside, on its way to "bystander".
        wait_until(lambda: handled == ["bystander"], "the bystander is handled")
        wait_until(lambda: subscription.stats()["acknowledged"] == 1, "and acknowledged")
        subscription.pause()
        may_return.set()
        ear.wait_for(Returned)
        wait_until(lambda: subscription.stats()["pending"] == 2, "the message is back")
        bus.publish("s", "third")
        bus.publish("s", "fourth")
        subscription.resume()
        bus.drain(WAIT)

        stats = subscription.stats()
        assert (stats["pending"], stats["dropped"]) == (0, {"overflow": 1})
        assert stats["acknowledged"] == 4


def test_s22_drop_oldest_spares_what_has_started_and_come_back() -> None:
    """A returned message has started, so the oldest message that has not started is dropped."""
    may_return = threading.Event()
    handled: list[tuple[str, int]] = []

    def handle(message: Message, delivery: Delivery) -> None:
        handled.append((message.body, delivery.attempt))
        if message.body == "returned" and delivery.attempt == 1:
            assert may_return.wait(WAIT)
            delivery.retry()

    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        subscription = bus.subscribe("s", handle, mailbox=3, overflow="drop_oldest")
        bus.publish("s", "returned")
        ear.wait_for(Taken)
        subscription.pause()
        may_return.set()
        ear.wait_for(Returned)
        wait_until(lambda: subscription.stats()["pending"] == 1, "the message is back")
        for body in ("first", "second", "third"):
            bus.publish("s", body)
        subscription.resume()
        bus.drain(WAIT)

        assert handled == [("returned", 1), ("returned", 2), ("second", 1), ("third", 1)]


# --- where waiting would last forever ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2], ids=["one-worker", "two-workers"])
@every_road
def test_s22_a_handler_that_fills_its_own_mailbox_is_told_at_once(road: str, workers: int) -> None:
    """It would wait for itself forever, so it does not wait: it gets `MailboxFull`, and the text says why."""
    errors: list[MailboxFull] = []
    all_there = threading.Barrier(workers)

    def handle(message: Message) -> None:
        if message.body == "start":
            all_there.wait(WAIT)
            try:
                bus.publish("s.more", "more")
            except MailboxFull as error:
                errors.append(error)
            all_there.wait(WAIT)

    with running(bus_of(road)) as bus:
        bus.subscribe("s.*", handle, mailbox=workers, workers=workers, overflow="block", overflow_timeout=LONG)
        for _ in range(workers):
            bus.publish("s.start", "start")
        bus.drain(WAIT)

        assert len(errors) == workers
        assert "its own handler" in str(errors[0])


@every_road
def test_s22_publish_on_a_running_loop_does_not_wait(road: str) -> None:
    """A coroutine that calls `publish` would block its loop: it gets MailboxFull, with the name of the call that can wait."""
    with running(bus_of(road) if road != "async" else Bus()) as bus:
        subscription = bus.subscribe("s", mailbox=1, overflow="block", overflow_timeout=LONG)

        async def publish_twice() -> None:
            bus.publish("s", 1)
            bus.publish("s", 2)

        with pytest.raises(MailboxFull, match="apublish"):
            asyncio.run(publish_twice())

        assert_conserved(subscription, accepted=1)


# --- apublish waits for room -------------------------------------------------------------------------------------------


@every_road
@by_coroutine
def test_s22_apublish_waits_for_room_while_its_loop_goes_on(road: str, way: Any) -> None:
    """On one loop, a publisher may wait while a reader makes room."""
    with running(bus_of(road)) as bus:
        subscription = bus.subscribe("s", mailbox=1, overflow="block", overflow_timeout=LONG)

        async def read(count: int) -> list[Any]:
            return [(await subscription.areceive(timeout=WAIT)).body for _ in range(count)]

        async def write(count: int) -> list[Any]:
            if way is apublish:
                return [await bus.apublish("s", body) for body in range(count)]
            return [await bus.asend(Message("s", body)) for body in range(count)]

        async def both() -> list[list[Any]]:
            return await asyncio.wait_for(asyncio.gather(read(20), write(20)), WAIT)

        bodies, receipts = asyncio.run(both())

        assert bodies == list(range(20))
        assert receipts == [Receipt(1)] * 20


@pytest.mark.parametrize("road", ["sync", "async"])
def test_s22_apublish_waits_before_its_chain_runs(road: str) -> None:
    """The filters run when there is room for the message, not before, so they see it as it is then."""
    passed: list[int] = []

    def plain(message: Message, call_next: Any) -> Any:
        passed.append(message.body)
        return call_next(message)

    async def asynchronous(message: Message, call_next: Any) -> Any:
        passed.append(message.body)
        return await call_next(message)

    bus = Bus()
    bus.use({"sync": plain, "async": asynchronous}[road])
    with running(bus):
        subscription = bus.subscribe("s", mailbox=1, overflow="block", overflow_timeout=LONG)

        async def scenario() -> None:
            await bus.apublish("s", 1)
            second = asyncio.create_task(bus.apublish("s", 2))
            for _ in range(10):
                await asyncio.sleep(0)
            assert passed == [1]
            await subscription.areceive(timeout=WAIT)
            await asyncio.wait_for(second, WAIT)
            assert passed == [1, 2]

        asyncio.run(scenario())


@every_mailbox
def test_s22_an_apublish_that_is_cancelled_while_it_waits_leaves_nothing_behind(mailbox_kind: str) -> None:
    """Its message does not get in, and the publishers behind it move up."""
    with running() as bus:
        full = fill(bus, mailbox_kind, 3, overflow="block", overflow_timeout=LONG)

        async def scenario() -> Receipt:
            given_up = asyncio.create_task(bus.apublish("s", "given up"))
            patient = asyncio.create_task(bus.apublish("s", 3))
            for _ in range(10):
                await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            await asyncio.to_thread(full.handle_all)
            return await asyncio.wait_for(patient, WAIT)

        assert asyncio.run(scenario()) == Receipt(1)
        assert sorted(full.handle_all()) == [0, 1, 2, 3]
        assert_conserved(full.subscription, accepted=4)


# --- several mailboxes: none starves another ---------------------------------------------------------------------------


def _crowd(bus: Bus, timeout: float) -> dict[str, Subscription]:
    """Two full mailboxes on "s", one for each rule that refuses, and two with room; the full ones come first."""
    crowd = {
        "blocks": bus.subscribe("s", name="blocks", mailbox=1, overflow="block", overflow_timeout=timeout),
        "rejects": bus.subscribe("s", name="rejects", mailbox=1, overflow="reject"),
        "roomy": bus.subscribe("s", name="roomy"),
        "drops": bus.subscribe("s", name="drops", mailbox=1, overflow="drop_oldest"),
    }
    bus.publish("s", "first")
    return crowd


def bodies(subscription: Subscription) -> list[Any]:
    return [subscription.receive(timeout=0).body for _ in range(subscription.stats()["pending"])]


@every_road
@every_way
def test_s22_one_error_says_who_took_a_message_and_who_refused_it(road: str, way: Any) -> None:
    """With several full mailboxes there is one MailboxFull, and the subscribers with room have the message."""
    with running(bus_of(road)) as bus:
        crowd = _crowd(bus, timeout=0.01)

        with pytest.raises(MailboxFull) as caught:
            way(bus, "s", "second")

        assert sorted(caught.value.accepted) == ["drops", "roomy"]
        assert sorted(caught.value.refused) == ["blocks", "rejects"]
        assert all(name in str(caught.value) for name in crowd)
        assert {name: bodies(subscription) for name, subscription in crowd.items()} == {
            "blocks": ["first"],
            "rejects": ["first"],
            "roomy": ["first", "second"],
            "drops": ["second"],
        }


def test_s22_all_mailboxes_with_room_get_the_message_before_the_full_ones_are_waited_for() -> None:
    """While the publisher waits for a full mailbox, all mailboxes with room already have the message."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        crowd = {
            "full": bus.subscribe("s", name="full", mailbox=1, overflow="block", overflow_timeout=LONG),
            "roomy": bus.subscribe("s", name="roomy"),
        }
        bus.publish("s", "first")
        publisher = InThread(bus.publish, "s", "second")
        ear.wait_for(Overflowed)

        assert bodies(crowd["roomy"]) == ["first", "second"]
        assert crowd["full"].receive(timeout=0).body == "first"
        assert publisher.result() == Receipt(2)
        assert bodies(crowd["full"]) == ["second"]


@pytest.mark.parametrize("by_coroutine", [False, True], ids=["publish", "apublish"])
@pytest.mark.parametrize("names", ["a", "abc"], ids=["one", "three"])
def test_s22_several_full_mailboxes_are_waited_for_together(harness: Harness, names: str, by_coroutine: bool) -> None:
    """Three full mailboxes with 30 s each make the publisher wait for 30 s, and not for 90 s."""
    with running(harness.bus) as bus:
        for name in names:
            bus.subscribe("s", name=name, mailbox=1, overflow="block", overflow_timeout=30.0)
        bus.publish("s", "first")

        with pytest.raises(MailboxFull) as caught:
            harness.run(bus.apublish("s", "second")) if by_coroutine else bus.publish("s", "second")

        assert harness.elapsed == 30.0
        assert sorted(caught.value.refused) == [*names]


@every_way
def test_s22_a_full_mailbox_of_another_subject_is_nobodys_concern(way: Any) -> None:
    """Only the mailboxes that a message is for can refuse it."""
    with running() as bus:
        fill(bus, "read", 1, overflow="block", overflow_timeout=LONG)
        bus.subscribe("other", name="other")

        assert way(bus, "other", "x") == Receipt(1)


# --- who waits in front of a mailbox that goes away --------------------------------------------------------------------


def test_s22_a_publisher_that_waits_for_a_subscriber_that_leaves_is_let_go() -> None:
    """After `unsubscribe` there is nothing to wait for: the publish ends, and no mailbox has the message."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        full = fill(bus, "read", 1, overflow="block", overflow_timeout=LONG)
        publisher = InThread(bus.publish, "s", "late")
        ear.wait_for(Overflowed)
        full.subscription.unsubscribe()

        assert publisher.result() == Receipt(0)
        assert full.subscription.stats()["dropped"] == {"unsubscribed": 1}
        assert_conserved(full.subscription, accepted=1)


@pytest.mark.parametrize("road", ["bare", "async"])
def test_s22_a_coroutine_that_waits_for_a_subscriber_that_leaves_is_let_go(road: str) -> None:
    """`apublish` returns as if the subscriber had never been there."""
    with running(bus_of(road)) as bus:
        full = fill(bus, "read", 1, overflow="block", overflow_timeout=LONG)

        async def scenario() -> Receipt:
            publisher = asyncio.create_task(bus.apublish("s", "late"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not publisher.done()
            await asyncio.to_thread(full.subscription.unsubscribe)
            return await asyncio.wait_for(publisher, WAIT)

        assert asyncio.run(scenario()) == Receipt(0)
        assert_conserved(full.subscription, accepted=1)


def test_s22_a_subscriber_that_leaves_before_the_publisher_stands_in_line_is_not_in_the_receipt() -> None:
    """A receipt never counts a mailbox that did not take the message."""
    bus = Bus()

    @bus.observe
    def leave(event: Any) -> None:
        if isinstance(event, Overflowed):
            full.subscription.unsubscribe()

    with running(bus):
        full = fill(bus, "read", 1, overflow="block", overflow_timeout=LONG)

        assert bus.publish("s", "late") == Receipt(0)
        assert_conserved(full.subscription, accepted=1)


def test_s22_a_publisher_that_waits_when_the_bus_stops_is_let_go() -> None:
    """A stop ends every wait for room: the publisher gets BusClosed, and no mailbox has the message."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus, drain=False):
        full = fill(bus, "one-worker", 1, overflow="block", overflow_timeout=LONG)
        publisher = InThread(bus.publish, "s", "late")
        ear.wait_for(Overflowed)
        stop = InThread(bus.stop, WAIT, drain=False)

        with pytest.raises(BusClosed):
            publisher.result()
        full.hold.open()
        stop.result()

        assert full.hold.given == [0]
        assert_conserved(full.subscription, accepted=1)


@pytest.mark.parametrize("road", ["bare", "async"])
def test_s22_a_coroutine_that_waits_when_the_bus_stops_is_let_go(road: str) -> None:
    """A coroutine that waits in `apublish` for room gets `BusClosed` when the bus stops."""
    with running(bus_of(road), drain=False) as bus:
        full = fill(bus, "one-worker", 1, overflow="block", overflow_timeout=LONG)

        async def scenario() -> None:
            publisher = asyncio.create_task(bus.apublish("s", "late"))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not publisher.done()
            stop = asyncio.create_task(bus.astop(WAIT, drain=False))
            with pytest.raises(BusClosed):
                await asyncio.wait_for(publisher, WAIT)
            full.hold.open()
            await stop

        asyncio.run(scenario())
        assert full.hold.given == [0]
        assert_conserved(full.subscription, accepted=1)


# --- settings ----------------------------------------------------------------------------------------------------------

BAD_SETTINGS: list[dict[str, Any]] = [
    {"mailbox": 0},
    {"mailbox": 1.5},
    {"mailbox": True},
    {"overflow": "explode"},
    {"overflow": None},
    {"overflow_timeout": -1},
    {"overflow_timeout": "soon"},
    {"workers": 0},
]


@table("settings", BAD_SETTINGS, ids=[f"{name}={value!r}" for s in BAD_SETTINGS for name, value in s.items()])
def test_s22_an_impossible_mailbox_is_refused_where_it_is_asked_for(settings: dict[str, Any]) -> None:
    """The error names the subscription, the setting and what was found."""
    (name, value), *_ = settings.items()

    with running() as bus, pytest.raises(SubscriptionError, match=name) as caught:
        bus.subscribe("s", fine, name="billing", **settings)

    assert repr(value) in str(caught.value)
    assert "billing" in str(caught.value)


@pytest.mark.parametrize("overflow", ["block", "reject"])
@pytest.mark.parametrize("settle", [Delivery.ack, lambda delivery: delivery.reject("no")], ids=["ack", "reject"])
def test_s22_a_settled_delivery_makes_room(overflow: Any, settle: Callable[[Delivery], None]) -> None:
    """When a reader settles its message, the message's place is free, even before the block ends."""
    with running() as bus:
        subscription = bus.subscribe("s", mailbox=1, overflow=overflow, overflow_timeout=0)
        publish(bus, "s", 1)
        with subscription.delivery(timeout=0) as delivery:
            with pytest.raises(MailboxFull):
                publish(bus, "s", 2)
            settle(delivery)
            assert publish(bus, "s", 3) == Receipt(1)


def test_s22_a_place_that_was_promised_and_not_taken_goes_to_who_stands_behind() -> None:
    """If a publish on the loop gets a place and its filter drops the message, the next publisher in line gets the place."""

    async def drop(message: Message, call_next: Any) -> Dropped:
        return Dropped("unwanted")

    clock = FakeClock()
    bus = Bus(clock=clock)
    bus.use(when("dropped", drop))
    with running(bus):
        hold = Hold()
        bus.subscribe(["dropped", "kept"], hold, workers=2, mailbox=1, overflow_timeout=LONG)
        bus.publish("kept", "first")
        hold.wait_started()
        before = InThread(bus.publish, "dropped")
        clock.wait_until_waited_for()
        behind = InThread(bus.publish, "kept", "second")
        clock.wait_until_waited_for(2)
        hold.open()

        assert before.result() == Dropped("unwanted", by="drop")
        assert behind.result() == Receipt(1)
        hold.wait_started()
        assert hold.given == ["first", "second"]

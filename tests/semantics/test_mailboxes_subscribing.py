"""
Guarantees 26, 28 and 29: when a subscription begins and ends, mail for objects, and the result of a handler.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from flow_helpers import (
    LONG,
    WAIT,
    Ear,
    Hold,
    InThread,
    assert_conserved,
    boom,
    bus_of,
    every_road,
    every_way,
    fine,
    running,
    wait_until,
)
from pipebus import (
    Actor,
    Bus,
    Delivery,
    Dropped,
    Message,
    Receipt,
    Ref,
    SubjectError,
    Subscription,
    SubscriptionError,
    UnsupportedCapability,
    when,
)
from pipebus.events import Unrouted
from pipebus.filters import Validate
from pipebus.testing import FakeClock

workers = pytest.mark.parametrize("workers", [1, 2], ids=["one-worker", "two-workers"])
PATTERNS: list[Any] = ["s.a", "s.*", ">", ["other", "s.a"], ["s.*", "s.>"]]

# --- 26: subscribe is effective when it returns ------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_s26_a_subscription_is_effective_when_subscribe_returns(pattern: Any, way: Any) -> None:
    """The next message reaches it once, also on a subject that is already in use; an earlier message does not."""
    with running() as bus:
        for number in range(3):
            before = way(bus, "s.a", "before")
            subscription = bus.subscribe(pattern)
            after = way(bus, "s.a", "after")

            assert (before, after) == (Receipt(number), Receipt(number + 1))
            assert subscription.receive(timeout=0).body == "after"
            assert_conserved(subscription, accepted=1)


def test_s26_a_handler_may_subscribe_and_what_it_publishes_then_arrives() -> None:
    """A handler may subscribe, and the subscription works at once."""
    hold = Hold(open=True)

    def handle(message: Message) -> None:
        bus.subscribe("news", hold)
        bus.publish("news", "x")

    with running() as bus:
        bus.subscribe("s", handle)
        assert bus.publish("news", "before anybody listened") == Receipt(0)
        bus.publish("s")
        bus.drain(WAIT)

    assert hold.given == ["x"]


def test_s26_a_message_sees_the_subscribers_from_before_or_after_never_half() -> None:
    """While somebody subscribes to two subjects and leaves, over and over, no publish fails and no message is lost."""
    with running() as bus:
        steady = Hold(open=True)
        subscription = bus.subscribe(["a", "b"], steady)
        stop = threading.Event()
        fleeting: list[Subscription] = []

        def come_and_go() -> None:
            while not stop.is_set():
                guest = bus.subscribe(["a", "b"], fine)
                guest.unsubscribe()
                fleeting.append(guest)

        guests = [InThread(come_and_go) for _ in range(2)]
        receipts = [bus.publish("ab"[number % 2], number) for number in range(2_000)]
        stop.set()
        for guest in guests:
            guest.result()
        bus.drain(WAIT)

        assert steady.given == list(range(2_000))
        assert_conserved(subscription, accepted=2_000)
        assert_conserved(*fleeting)
        taken = sum(receipt.mailboxes for receipt in receipts) - 2_000
        assert sum(guest.stats()["accepted"] for guest in fleeting) == taken


def test_s26_a_name_can_be_used_again_after_unsubscribe() -> None:
    """Two subscriptions cannot have the same name; when the first one has ended, the name is free."""
    with running() as bus:
        first = bus.subscribe("s", fine, name="billing")
        with pytest.raises(SubscriptionError, match="billing"):
            bus.subscribe("s", fine, name="billing")

        first.unsubscribe()

        assert bus.subscribe("s", fine, name="billing").name == "billing"


# --- 26: unsubscribe is final when it returns --------------------------------------------------------------------------


@every_road
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_s26_after_unsubscribe_nothing_arrives(pattern: Any, road: str) -> None:
    """The next message does not reach it, and a neighbour on the same subject still gets it."""
    with running(bus_of(road)) as bus:
        leaving, staying = bus.subscribe(pattern), bus.subscribe(pattern)
        assert bus.publish("s.a", "before") == Receipt(2)

        leaving.unsubscribe()

        assert bus.publish("s.a", "after") == Receipt(1)
        assert leaving.stats()["dropped"] == {"unsubscribed": 1}
        assert [staying.receive(timeout=0).body for _ in range(2)] == ["before", "after"]
        assert_conserved(leaving, accepted=1)


@every_way
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_s26_after_the_last_one_has_left_a_message_is_unrouted(pattern: Any, way: Any) -> None:
    """When nobody listens on a subject any more, observers get an event, also if the subject was in use."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        subscription = bus.subscribe(pattern)
        way(bus, "s.a", "before")
        subscription.unsubscribe()

        assert way(bus, "s.a", "after") == Receipt(0)

        assert [event.message.body for event in ear.of(Unrouted)] == ["after"]
        assert bus.stats()["unrouted"] == 1
        assert_conserved(subscription, accepted=1)


@workers
def test_s26_unsubscribe_waits_for_the_handlers_that_run(workers: int) -> None:
    """When `unsubscribe` returns, no handler runs or will run: it waits for running ones, and drops queued messages."""
    with running() as bus:
        hold = Hold()
        subscription = bus.subscribe("s", hold, workers=workers)
        for body in range(10):
            bus.publish("s", body)
        hold.wait_started(workers)
        leaving = InThread(subscription.unsubscribe)
        wait_until(lambda: subscription.stats()["dropped"] == {"unsubscribed": 10 - workers}, "the queue is dropped")
        assert leaving.running

        hold.open()
        leaving.result()

        assert sorted(hold.given) == list(range(workers))
        assert subscription.stats()["acknowledged"] == workers
        assert_conserved(subscription, accepted=10)


def test_s26_unsubscribe_does_not_wait_for_the_handlers_of_others() -> None:
    """A subscription whose messages wait for a busy pool ends at once, and its messages are dropped."""
    with running(Bus(pool=1)) as bus:
        hold = Hold()
        bus.subscribe("busy", hold)
        bus.publish("busy")
        hold.wait_started()
        subscription = bus.subscribe("s", boom)
        for body in range(3):
            bus.publish("s", body)

        subscription.unsubscribe(timeout=WAIT)

        assert subscription.stats()["dropped"] == {"unsubscribed": 3}
        assert_conserved(subscription, accepted=3)
        hold.open()


@workers
def test_s26_unsubscribe_says_so_when_a_handler_does_not_end(workers: int) -> None:
    """After its timeout `unsubscribe` raises, and the subscription has ended anyway: no other handler starts."""
    with running() as bus:
        hold = Hold()
        subscription = bus.subscribe("s", hold, name="stuck", workers=workers)
        bus.publish("s", 0)
        hold.wait_started()

        with pytest.raises(TimeoutError, match="stuck"):
            subscription.unsubscribe(timeout=0.01)

        assert bus.publish("s", 1) == Receipt(0)
        hold.open()
        subscription.unsubscribe(timeout=WAIT)
        assert hold.given == [0]
        assert_conserved(subscription, accepted=1)


@workers
def test_s26_a_handler_may_end_its_own_subscription(workers: int) -> None:
    """It does not wait for itself: its message counts as handled, the queued ones as dropped, and no other handler starts."""
    handled: list[int] = []

    def last(message: Message) -> None:
        handled.append(message.body)
        subscription.unsubscribe()

    with running() as bus:
        subscription = bus.subscribe("s", last, workers=workers)
        subscription.pause()
        for body in range(10):
            bus.publish("s", body)
        subscription.resume()
        bus.drain(WAIT)
        wait_until(lambda: subscription.stats()["in_flight"] == 0, "the handlers have ended")

        assert 1 <= len(handled) <= workers
        assert subscription.stats()["acknowledged"] == len(handled)
        assert subscription.stats()["dropped"] == {"unsubscribed": 10 - len(handled)}
        assert bus.publish("s") == Receipt(0)
        assert_conserved(subscription, accepted=10)


def test_s26_a_handler_may_end_another_subscription() -> None:
    """It waits for the handler of the other subscription, which does not run again."""
    with running() as bus:
        hold = Hold()
        other = bus.subscribe("other", hold)
        done = threading.Event()

        def end_other(message: Message) -> None:
            other.unsubscribe()
            assert hold.given == ["x"]
            done.set()

        bus.subscribe("s", end_other)
        bus.publish("other", "x")
        hold.wait_started()
        bus.publish("s")
        hold.open()

        assert done.wait(WAIT)
        assert bus.publish("other", "y") == Receipt(0)
        assert_conserved(other, accepted=1)


def test_s26_everything_that_was_waiting_is_counted_as_dropped() -> None:
    """Queued messages, delayed ones and those behind a key are counted as `unsubscribed` if they have not started."""
    with running(Bus(clock=FakeClock())) as bus:
        hold = Hold()
        subscription = bus.subscribe("s", hold, workers=2)
        for body in ("in flight", "behind its key", "behind its key, too"):
            bus.publish("s", body, key="k")
        bus.publish("s", "delayed", delay=LONG)
        hold.wait_started()
        subscription.pause()
        bus.publish("s", "queued")
        leaving = InThread(subscription.unsubscribe)
        hold.open()
        leaving.result()

        assert hold.given == ["in flight"]
        assert subscription.stats()["dropped"] == {"unsubscribed": 4}
        assert_conserved(subscription, accepted=5)


def test_s26_a_delivery_that_comes_back_too_late_is_dropped() -> None:
    """If a handler returns its message after the subscription has ended, it is counted, and not handled again."""
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        subscription.unsubscribe()
        delivery.retry()

    with running() as bus:
        subscription = bus.subscribe("s", handle)
        bus.publish("s")
        bus.drain(WAIT)
        wait_until(lambda: subscription.stats()["in_flight"] == 0, "the handler has ended")

        assert attempts == [1]
        assert subscription.stats()["dropped"] == {"unsubscribed": 1}
        assert_conserved(subscription, accepted=1)


def test_s26_unsubscribing_twice_and_from_many_threads_is_fine() -> None:
    """The first call ends the subscription, and the others return at once or wait for the same handler."""
    with running() as bus:
        hold = Hold()
        subscription = bus.subscribe("s", hold)
        for body in range(5):
            bus.publish("s", body)
        hold.wait_started()
        leaving = [InThread(subscription.unsubscribe) for _ in range(5)]
        hold.open()
        for each in leaving:
            each.result()
        subscription.unsubscribe()

        assert subscription.stats()["dropped"] == {"unsubscribed": 4}
        assert_conserved(subscription, accepted=5)


def test_s26_what_a_stop_left_over_can_still_be_unsubscribed() -> None:
    """On a stopped bus the left-over messages are dropped and counted; a later start does not bring them back."""
    bus = Bus().start()
    subscription = bus.subscribe("s", fine, name="late")
    subscription.pause()
    bus.publish("s")
    assert bus.stop(timeout=WAIT).left == {"late": 1}

    subscription.unsubscribe()

    with running(bus):
        assert subscription.stats()["dropped"] == {"unsubscribed": 1}
        assert bus.publish("s") == Receipt(0)
        assert_conserved(subscription, accepted=1)


@workers
def test_s26_publishers_at_full_speed_notice_only_the_receipt(workers: int) -> None:
    """While a subscription ends, four busy publishers get no error, and it has taken what the receipts count."""
    with running() as bus:
        handled: list[Any] = []
        subscription = bus.subscribe("s", lambda message: handled.append(message.body), workers=workers)
        under_way = threading.Barrier(5)

        def hammer(me: int) -> int:
            taken = bus.publish("s", (me, 0)).mailboxes
            under_way.wait(WAIT)
            return taken + sum(bus.publish("s", (me, number)).mailboxes for number in range(1, 1_000))

        publishers = [InThread(hammer, me) for me in range(4)]
        under_way.wait(WAIT)
        subscription.unsubscribe()
        at_the_end = len(handled)
        taken = sum(publisher.result() for publisher in publishers)

        stats = subscription.stats()
        assert len(handled) == at_the_end == stats["acknowledged"]
        assert stats["accepted"] == taken
        assert_conserved(subscription)


def test_s26_a_pause_while_the_bus_is_stopped_pauses_no_other() -> None:
    """Mailboxes that are at rest share their stopped state; a pause of one gives it a state of its own."""
    bus = Bus()
    paused, other = bus.subscribe("s", fine), bus.subscribe("s", fine)
    with running(bus):
        pass
    paused.pause()
    with running(bus, drain=False):
        bus.publish("s")
        bus.drain(WAIT)

        assert (paused.paused, other.paused) == (True, False)
        assert [subscription.stats()["acknowledged"] for subscription in (paused, other)] == [0, 1]


# --- 28: mail for objects ----------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("road", ["bare", "sync", "async"])
def test_s28_mail_for_an_object_reaches_its_subscribers_only(road: str, way: Any) -> None:
    """`Ref(thing)` is a subject of its own, and no pattern matches it, not even `>`."""
    thing, other = object(), object()
    with running(bus_of(road)) as bus:
        mine = bus.subscribe(Ref(thing))
        others = [bus.subscribe(">"), bus.subscribe("*"), bus.subscribe(Ref(other))]

        assert way(bus, Ref(thing), "x") == Receipt(1)

        message = mine.receive(timeout=0)
        assert message.body == "x"
        assert message.subject == Ref(thing)
        assert message.subject.object is thing
        assert_conserved(*others, accepted=0)


@every_way
def test_s28_objects_are_told_apart_by_identity(way: Any) -> None:
    """Two equal objects are two addresses, and two `Ref`s of one object are the same address."""
    one, equal = frozenset({1}), frozenset({1})
    assert one == equal
    assert Ref(one) != Ref(equal)
    assert Ref(one) == Ref(one)
    assert hash(Ref(one)) == hash(Ref(one))
    with running() as bus:
        subscription = bus.subscribe(Ref(one))

        assert (way(bus, Ref(equal)), way(bus, Ref(one))) == (Receipt(0), Receipt(1))
        assert subscription.stats()["accepted"] == 1


@every_way
def test_s28_filters_under_a_pattern_do_not_see_mail_for_objects_and_unscoped_ones_do(way: Any) -> None:
    """Filters and models under a pattern are for named subjects; a filter without a pattern sees every message."""
    seen: list[str] = []

    def unscoped(message: Message, call_next: Any) -> Any:
        seen.append("unscoped")
        return call_next(message)

    def scoped(message: Message, call_next: Any) -> Any:
        seen.append("scoped")
        return call_next(message)

    bus = Bus()
    bus.use(unscoped, when(">", scoped), Validate({">": int}))
    with running(bus):
        thing = object()
        subscription = bus.subscribe(Ref(thing))

        assert way(bus, Ref(thing), "no number") == Receipt(1)

        assert seen == ["unscoped"]
        assert subscription.receive(timeout=0).body == "no number"


@every_way
def test_s28_mail_for_objects_cannot_leave_the_process(way: Any) -> None:
    """Where messages are encoded, an object cannot be an address: publish and subscribe refuse it."""
    with running(Bus("memory:?wire=json")) as bus:
        with pytest.raises(UnsupportedCapability, match="Ref"):
            bus.subscribe(Ref(bus))
        with pytest.raises(UnsupportedCapability, match="Ref"):
            way(bus, Ref(bus), "x")

        assert bus.stats()["accepted"] == 0


class Oracle(Actor):
    def on_message(self, number: int) -> int:
        return number * number


BY_OBJECT: list[Callable[[Bus, Oracle], object]] = [
    lambda bus, oracle: bus.publish(oracle, 3),
    lambda bus, oracle: bus.publish("a", 3, reply_to=oracle),
    lambda bus, oracle: bus.request(oracle, 3),
    lambda bus, oracle: bus.every(60.0, oracle),
    lambda bus, oracle: bus.subscribe(oracle),
    lambda bus, oracle: bus.subscribe("a", fine, to=oracle),
]


@pytest.mark.parametrize("call", BY_OBJECT, ids=["publish", "reply_to", "request", "every", "subscribe", "to"])
def test_s28_where_messages_are_encoded_the_object_of_a_named_actor_is_its_name(
    call: Callable[[Bus, Oracle], object],
) -> None:
    """It may be given wherever an address goes; one without a name, or a `Ref`, is refused with the remedy."""
    bus = Bus("memory:?wire=json")
    oracle = bus.spawn(Oracle("oracle"))
    with running(bus):
        call(bus, oracle)
        with pytest.raises(UnsupportedCapability, match=r"<Oracle not spawned> is an object, .* give the Oracle a name"):
            call(bus, Oracle())
        with pytest.raises(UnsupportedCapability, match=r"Ref\(1\) is an object, .* use a string"):
            call(bus, Ref(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("thing", [[], {}, set()], ids=lambda thing: type(thing).__name__)
def test_s28_an_object_that_cannot_be_hashed_is_no_address(thing: Any) -> None:
    """The error names the object and says what an address must be; for a bare object the error names `Ref`."""
    with pytest.raises(SubjectError, match="hashable"):
        Ref(thing)
    with running() as bus, pytest.raises(SubjectError, match="Ref"):
        bus.publish(thing)


def test_s28_a_handler_can_serve_objects_and_names_at_once() -> None:
    """A list of subjects may have objects and names, and each message comes once."""
    thing = object()
    with running() as bus:
        hold = Hold(open=True)
        bus.subscribe([Ref(thing), "named.*"], hold)
        bus.publish(Ref(thing), 1)
        bus.publish("named.a", 2)
        bus.drain(WAIT)

        assert hold.given == [1, 2]


# --- 29: what a handler returns ----------------------------------------------------------------------------------------


@workers
@every_road
def test_s29_a_handlers_result_goes_to_the_reply_address_with_the_questions_id(road: str, workers: int) -> None:
    """A publisher with `reply_to` gets the value at that address, with the correlation id of its message."""
    with running(bus_of(road)) as bus:
        bus.subscribe("prices.get", lambda message: {"price": message.body["sku"] * 2}, workers=workers)
        replies = bus.subscribe("replies")
        bus.publish("prices.get", {"sku": 21}, id="question", reply_to="replies")
        bus.publish("prices.get", {"sku": 1}, correlation_id="trace", reply_to="replies")
        bus.drain(WAIT)

        found = {(message.body["price"], message.correlation_id) for message in (replies.receive(timeout=0) for _ in range(2))}
        assert found == {(42, "question"), (2, "trace")}


@workers
@every_road
def test_s29_none_is_no_reply(road: str, workers: int) -> None:
    """A handler that returns None publishes nothing at `reply_to` or `to`; any other false value is a value."""
    with running(bus_of(road)) as bus:
        results = bus.subscribe(["replies", "results"])
        bus.subscribe("s", lambda message: message.body, to="results", workers=workers)
        for body in (None, 0, "", False):
            bus.publish("s", body, reply_to="replies")
        bus.drain(WAIT)

        found = [(message.subject, message.body) for message in (results.receive(timeout=0) for _ in range(6))]
        assert sorted(found, key=repr) == sorted(
            [(subject, body) for subject in ("replies", "results") for body in (0, "", False)], key=repr
        )
        assert results.stats()["accepted"] == 6


def test_s29_a_handler_that_fails_or_is_dropped_answers_nobody() -> None:
    """A handler that fails, or a message that is dropped, gives no value, so there is no answer."""

    def drop_afterwards(message: Message, call_next: Callable[..., Any]) -> Any:
        call_next(message)
        return Dropped("unwanted")

    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        replies = bus.subscribe("replies")
        bus.subscribe("s", boom)
        bus.subscribe("s", lambda message: "value", filters=[drop_afterwards])
        bus.publish("s", reply_to="replies")
        bus.drain(WAIT)

        assert_conserved(replies, accepted=0)
        assert ear.of(Unrouted) == []

"""
Guarantee 21: nothing is dropped silently. Each drop is counted by place and reason. Observers get an event for it, as for
everything else, and cannot harm anybody.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from flow_helpers import (
    WAIT,
    Boom,
    DropAll,
    Ear,
    Hold,
    InThread,
    apublish,
    assert_conserved,
    boom,
    bus_of,
    every_road,
    every_way,
    fine,
    publish,
    returning,
    running,
)
from loop_helpers import POOL, THREAD, Way, ways
from pipebus import (
    Bus,
    Delivery,
    MailboxFull,
    Message,
    Pipeline,
    PipelineError,
    Receipt,
    Rejected,
    StopReport,
    Subscription,
    Transform,
)
from pipebus.events import (
    Acknowledged,
    Died,
    Discarded,
    Event,
    Overflowed,
    Published,
    Refused,
    Returned,
    StateChanged,
    Taken,
    Unrouted,
)
from pipebus.filters import CircuitBreaker
from pipebus.testing import FakeClock
from tables import table

# --- every event is heard, and says what it should ---------------------------------------------------------------------

Scene = Callable[[Bus], dict[str, Any]]


def state_changed(bus: Bus) -> dict[str, Any]:
    bus.stop(timeout=WAIT)
    return {"old": "draining", "new": "stopped"}


def published(bus: Bus) -> dict[str, Any]:
    bus.subscribe("s", fine)
    bus.publish("s", id="m1")
    return {"message": "m1", "receipt": Receipt(1)}


def unrouted(bus: Bus) -> dict[str, Any]:
    bus.publish("nobody.listens", id="m1")
    return {"message": "m1"}


def refused(bus: Bus) -> dict[str, Any]:
    bus.subscribe("s", name="full", mailbox=1, overflow="reject")
    bus.publish("s")
    with pytest.raises(MailboxFull) as caught:
        bus.publish("s", id="m1")
    return {"message": "m1", "error": caught.value, "by": None}


def discarded(bus: Bus) -> dict[str, Any]:
    bus.subscribe("s", fine, name="picky", filters=[DropAll("not today")])
    bus.publish("s", id="m1")
    return {"message": "m1", "place": "picky", "reason": "not today", "by": "DropAll"}


def taken(bus: Bus) -> dict[str, Any]:
    bus.subscribe("s", returning(2), name="billing")
    bus.publish("s", id="m1")
    bus.drain(WAIT)
    return {"message": "m1", "subscription": "billing", "attempt": 3}


def acknowledged(bus: Bus) -> dict[str, Any]:
    bus.subscribe("s", returning(1), name="billing")
    bus.publish("s", id="m1")
    return {"message": "m1", "subscription": "billing", "attempt": 2}


def returned(bus: Bus) -> dict[str, Any]:
    def handle(message: Message, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            delivery.retry(delay=0.001)

    bus.subscribe("s", handle, name="billing")
    bus.publish("s", id="m1")
    return {"message": "m1", "subscription": "billing", "attempt": 1, "delay": 0.001}


def died(bus: Bus) -> dict[str, Any]:
    bus.subscribe("s", boom, name="billing")
    bus.publish("s", "x", id="m1")
    bus.drain(WAIT)
    letter = bus.dead_letters.list()[0].id
    return {"message": "m1", "place": "billing", "letter": letter, "error": "Boom: cannot handle 'x'"}


def overflowed(bus: Bus) -> dict[str, Any]:
    bus.subscribe("s", name="small", mailbox=1, overflow="drop_newest")
    bus.publish("s")
    bus.publish("s", id="m1")
    return {"message": "m1", "subscription": "small", "policy": "drop_newest"}


def starved(bus: Bus) -> dict[str, Any]:
    hold = Hold()
    for subject in ("a", "b", "c"):
        bus.subscribe(subject, hold)
    for subject in ("a", "b"):
        bus.publish(subject)
        hold.wait_started()
    bus.publish("c")  # both workers are busy, so nobody can take it
    return {"ready": 1, "workers": 2}


def circuit_changed(bus: Bus) -> dict[str, Any]:
    failures = iter([Boom("the bank is down")])

    def handle(message: Message) -> None:
        for failure in failures:
            raise failure

    bus.subscribe("s", handle, name="billing", filters=[CircuitBreaker(1, cool_down=0.001)])
    bus.publish("s")
    bus.drain(WAIT)
    return {"filter": "CircuitBreaker", "place": "billing", "old": "half_open", "new": "closed"}


SCENES: dict[str, Scene] = {scene.__name__: scene for scene in (
    state_changed, published, unrouted, refused, discarded, taken, acknowledged, returned, died, overflowed, starved,
    circuit_changed,
)}  # fmt: skip
KINDS: list[type[Event]] = sorted(Event.__subclasses__(), key=lambda event: event.__name__)
every_event = pytest.mark.parametrize("event", KINDS, ids=[event.__name__ for event in KINDS])


@every_event
def test_s21_observers_hear_every_kind_of_event(event: type[Event]) -> None:
    """Each class of `pipebus.events` is sent when its fact happens, with the facts in its fields."""
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in event.__name__).strip("_")
    assert name in SCENES, f"no scene in which {event.__name__} happens; write one"
    bus = Bus(pool=2)
    ear = Ear(bus)
    with running(bus):
        expected = SCENES[name](bus)
        heard = ear.wait_for(event)[-1]

        facts = {field: getattr(heard, field) for field in expected}
        if "message" in facts:
            facts["message"] = facts["message"].id
        assert facts == expected


@every_event
def test_s21_an_event_cannot_be_changed(event: type[Event]) -> None:
    """Observers share the event objects, so nobody can change them."""
    fact = event(*(None for _ in event.__struct_fields__))

    with pytest.raises(AttributeError):
        setattr(fact, event.__struct_fields__[0], "changed")


def test_s21_a_start_and_a_stop_are_heard_as_states() -> None:
    """The states go from new to started, draining and stopped, and then to started again."""
    bus = Bus()
    ear = Ear(bus)
    for _ in range(2):
        with bus:
            pass

    steps = [(event.old, event.new) for event in ear.of(StateChanged)]
    assert steps == [
        ("new", "started"),
        ("started", "draining"),
        ("draining", "stopped"),
        ("stopped", "started"),
        ("started", "draining"),
        ("draining", "stopped"),
    ]


@every_way
@every_road
def test_s21_an_accepted_publish_is_heard_once_with_its_receipt(road: str, way: Any) -> None:
    """There is one `Published` for each accepted publish, whichever call and chain it used, with the publisher's values."""
    bus = bus_of(road)
    ear = Ear(bus)
    with running(bus):
        bus.subscribe("s", fine)
        bus.subscribe("s", fine)

        receipts = [way(bus, "s", body) for body in ("x", "y")]

        assert [(event.message.body, event.receipt) for event in ear.of(Published)] == [("x", Receipt(2)), ("y", Receipt(2))]
        assert receipts == [Receipt(2), Receipt(2)]


@pytest.mark.parametrize("by_coroutine", [False, True], ids=["publish", "apublish"])
def test_s21_a_delayed_publish_is_heard_when_it_is_accepted(by_coroutine: bool) -> None:
    """A delayed message has passed the chain and holds its places, so it counts as accepted at once."""
    bus = Bus(clock=FakeClock())
    ear = Ear(bus)
    with running(bus, drain=False):
        bus.subscribe("s", fine)

        (apublish if by_coroutine else publish)(bus, "s", delay=60.0, id="m1")

        assert [(event.message.id, event.receipt) for event in ear.of(Published)] == [("m1", Receipt(1))]


@every_way
@every_road
def test_s21_a_refused_publish_is_heard_once_with_the_error_and_the_filter(road: str, way: Any) -> None:
    """An error that reaches the publisher is reported once as `Refused`, with the same error object and who raised it."""

    class Guard(Transform):
        def transform(self, message: Message) -> Message:
            raise Rejected("no")

    bus = bus_of(road)
    bus.use(Guard())
    ear = Ear(bus)
    with running(bus):
        bus.subscribe("s", fine)
        with pytest.raises(Rejected) as caught:
            way(bus, "s", "x")

        (event,) = ear.of(Refused)
        assert event.error is caught.value
        assert (event.by, event.message.body) == ("Guard", "x")
        assert ear.of(Published) == []


# --- each drop: counted, and heard -------------------------------------------------------------------------------------

Drop = Callable[[Bus, FakeClock], Subscription]


def by_a_filter(bus: Bus, clock: FakeClock) -> Subscription:
    subscription = bus.subscribe("s", fine, name="place", filters=[DropAll("reason")])
    bus.publish("s", id="m1")
    return subscription


def by_a_readers_filter(bus: Bus, clock: FakeClock) -> Subscription:
    class DropFirst(DropAll):
        def transform(self, message: Message) -> Any:
            return super().transform(message) if message.id == "m1" else message

    subscription = bus.subscribe("s", name="place", filters=[DropFirst("reason")])
    bus.publish("s", id="m1")
    bus.publish("s", id="m2")
    assert subscription.receive(timeout=0).id == "m2"
    return subscription


def by_its_time_to_live(bus: Bus, clock: FakeClock) -> Subscription:
    subscription = bus.subscribe("s", fine, name="place")
    subscription.pause()
    bus.publish("s", id="m1", ttl=1.0)
    clock.advance(2.0)
    subscription.resume()
    return subscription


def by_drop_newest(bus: Bus, clock: FakeClock) -> Subscription:
    subscription = bus.subscribe("s", name="place", mailbox=1, overflow="drop_newest")
    bus.publish("s", id="m0")
    bus.publish("s", id="m1")
    return subscription


def by_drop_oldest(bus: Bus, clock: FakeClock) -> Subscription:
    subscription = bus.subscribe("s", name="place", mailbox=1, overflow="drop_oldest")
    bus.publish("s", id="m1")
    bus.publish("s", id="m2")
    return subscription


def by_unsubscribe(bus: Bus, clock: FakeClock) -> Subscription:
    subscription = bus.subscribe("s", name="place")
    bus.publish("s", id="m1")
    subscription.unsubscribe()
    return subscription


def by_unsubscribe_while_it_was_delayed(bus: Bus, clock: FakeClock) -> Subscription:
    subscription = bus.subscribe("s", name="place")
    bus.publish("s", id="m1", delay=60.0)
    subscription.unsubscribe()
    return subscription


def by_unsubscribe_before_it_came_back(bus: Bus, clock: FakeClock) -> Subscription:
    def leave_and_return(message: Message, delivery: Delivery) -> None:
        subscription.unsubscribe()
        delivery.retry()

    subscription = bus.subscribe("s", leave_and_return, name="place")
    bus.publish("s", id="m1")
    return subscription


def by_unsubscribe_before_its_reader_gave_it_back(bus: Bus, clock: FakeClock) -> Subscription:
    subscription = bus.subscribe("s", name="place")
    bus.publish("s", id="m1")
    with subscription.delivery(timeout=0) as delivery:
        subscription.unsubscribe()
        delivery.retry()
    return subscription


def by_discarding_its_letter(bus: Bus, clock: FakeClock) -> Subscription:
    subscription = bus.subscribe("s", boom, name="place")
    bus.publish("s", id="m1")
    bus.drain(WAIT)
    bus.dead_letters.discard(bus.dead_letters.list()[0].id)
    return subscription


def by_the_cap_of_dead_letters(bus: Bus, clock: FakeClock) -> Subscription:
    subscription = bus.subscribe("s", boom, name="place")
    bus.publish("s", id="m1")
    bus.publish("s", id="m2")
    return subscription


DROPS: list[tuple[Drop, str, str | None]] = [
    (by_a_filter, "reason", "DropAll"),
    (by_a_readers_filter, "reason", "DropFirst"),
    (by_its_time_to_live, "expired", None),
    (by_drop_newest, "overflow", None),
    (by_drop_oldest, "overflow", None),
    (by_unsubscribe, "unsubscribed", None),
    (by_unsubscribe_while_it_was_delayed, "unsubscribed", None),
    (by_unsubscribe_before_it_came_back, "unsubscribed", None),
    (by_unsubscribe_before_its_reader_gave_it_back, "unsubscribed", None),
    (by_discarding_its_letter, "discarded", None),
    (by_the_cap_of_dead_letters, "evicted", None),
]


@table(("drop", "reason", "by"), DROPS, ids=[drop.__name__ for drop, _, _ in DROPS])
def test_s21_each_drop_of_a_delivery_is_counted_by_place_and_reason_and_heard(drop: Drop, reason: str, by: str | None) -> None:
    """However a delivery is dropped, its subscription counts the reason, and observers get place, reason and message."""
    clock = FakeClock()
    bus = Bus(dead_letters=1, clock=clock)
    ear = Ear(bus)
    with running(bus):
        subscription = drop(bus, clock)
        (event,) = ear.wait_for(Discarded)
        bus.drain(WAIT)

        assert subscription.stats()["dropped"] == {reason: 1}
        assert (event.message.id, event.place, event.reason) == ("m1", "place", reason)
        assert by is None or event.by == by
        assert len(ear.of(Discarded)) == 1
        assert_conserved(subscription)


@every_way
@every_road
def test_s21_each_drop_of_a_publish_is_counted_by_filter_and_reason_and_heard(road: str, way: Any) -> None:
    """The bus counts a drop by a publish filter under its name and reason, and observers get the place."""
    bus = bus_of(road)
    bus.use(DropAll("too chatty"))
    ear = Ear(bus)
    with running(bus):
        for body in ("x", "y"):
            assert not way(bus, "s", body)

        assert bus.stats()["dropped"] == {"DropAll": {"too chatty": 2}}
        heard = [(event.message.body, event.place, event.reason, event.by) for event in ear.of(Discarded)]
        assert heard == [(body, "publish", "too chatty", "DropAll") for body in ("x", "y")]


@pytest.mark.parametrize("verb", ["discarded", "evicted"])
def test_s21_letters_of_the_publish_chain_that_go_are_counted_and_heard_too(verb: str) -> None:
    """The end of a letter that died before any mailbox is counted and reported, too."""

    class Broken(Transform):
        def transform(self, message: Message) -> Message:
            raise Boom

    bus = Bus(dead_letters=1)
    bus.use(Pipeline(Broken(), on_error="dead_letter"))
    ear = Ear(bus)
    with running(bus):
        bus.publish("s", id="m1")
        assert [(event.message.id, event.place) for event in ear.of(Died)] == [("m1", "publish")]
        if verb == "discarded":
            bus.dead_letters.discard(bus.dead_letters.list()[0].id)
        else:
            bus.publish("s", id="m2")

        (event,) = [event for event in ear.of(Discarded) if event.reason == verb]
        assert (event.message.id, event.place) == ("m1", "publish")
        assert sum(reasons.get(verb, 0) for reasons in bus.stats()["dropped"].values()) == 1


@pytest.mark.parametrize("policy", ["block", "reject", "drop_newest", "drop_oldest"])
def test_s21_a_mailbox_without_room_is_heard_with_its_policy(policy: Any) -> None:
    """Each overflow is an event of its own, whatever the mailbox does about it."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        subscription = bus.subscribe("s", name="small", mailbox=1, overflow=policy, overflow_timeout=WAIT)
        bus.publish("s", id="m1")
        publisher = InThread(bus.publish, "s", id="m2")
        (event,) = ear.wait_for(Overflowed)
        assert (event.message.id, event.subscription, event.policy) == ("m2", "small", policy)

        subscription.receive(timeout=WAIT)
        if policy == "reject":
            with pytest.raises(MailboxFull):
                publisher.result()
        else:
            assert publisher.result() == Receipt(1)


def test_s21_the_life_of_each_delivery_is_heard_in_order() -> None:
    """The events of each delivery come in order: taken, returned, taken, acknowledged; or taken, dead."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        bus.subscribe("s", returning(1), name="good")
        bus.subscribe("s", boom, name="bad")
        bus.publish("s")
        bus.drain(WAIT)

    lives: dict[str, list[str]] = {}
    for event in ear.of(Taken, Returned, Acknowledged, Died):
        place = event.place if isinstance(event, Died) else event.subscription
        lives.setdefault(place, []).append(type(event).__name__)
    assert lives == {"good": ["Taken", "Returned", "Taken", "Acknowledged"], "bad": ["Taken", "Died"]}


@pytest.mark.parametrize("workers", [1, 2], ids=["one-worker", "two-workers"])
def test_s21_observers_change_no_figure(workers: int) -> None:
    """The same traffic gives the same figures with and without an observer."""
    results = []
    for observed in (False, True):
        bus = Bus()
        if observed:
            Ear(bus)
        with running(bus):
            subscription = bus.subscribe("s", lambda message: message.body, to="sum", workers=workers, name="first")
            total = bus.subscribe("sum", fine, name="total")
            for body in range(200):
                bus.publish("s", body)
            bus.drain(WAIT)
            results.append((subscription.stats(), total.stats(), bus.stats()["published"]))

    assert results[0] == results[1]


# --- observers harm nobody ---------------------------------------------------------------------------------------------


@every_event
def test_s21_an_observers_error_is_counted_and_reaches_nobody(event: type[Event]) -> None:
    """If an observer fails, publishers, handlers and the other observers do not notice."""
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in event.__name__).strip("_")
    bus = Bus(pool=2)

    @bus.observe
    def fails(heard: Event) -> None:
        if isinstance(heard, event):
            raise Boom("the observer is broken")

    ear = Ear(bus)
    with running(bus):
        SCENES[name](bus)
        ear.wait_for(event)

    assert bus.stats()["observer_errors"] == len(ear.of(event))


def test_s21_an_observers_error_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The log names the observer and its error."""
    bus = Bus()

    @bus.observe
    def dashboard(event: Event) -> None:
        if isinstance(event, Published):
            raise Boom("no connection")

    with caplog.at_level(logging.WARNING, logger="pipebus"), running(bus):
        bus.subscribe("s", fine)
        bus.publish("s")

    (line,) = [record.getMessage() for record in caplog.records if "observer.failed" in record.getMessage()]
    assert "dashboard" in line
    assert "no connection" in line


def test_s21_observers_all_hear_the_same_in_the_order_they_came() -> None:
    """Each event goes to every observer, in the order in which they were added."""
    bus = Bus()
    told: list[tuple[str, str]] = []
    bus.observe(lambda event: told.append(("first", type(event).__name__)))
    bus.observe(lambda event: told.append(("second", type(event).__name__)))
    with running(bus):
        bus.publish("nobody.listens")

    assert told[0::2] == [("first", name) for _, name in told[1::2]]
    assert Counter(who for who, _ in told) == {"first": len(told) // 2, "second": len(told) // 2}
    assert ("first", Unrouted.__name__) in told


@every_way
@every_road
def test_s21_an_observer_may_come_while_the_bus_runs(road: str, way: Any) -> None:
    """From the next message on, an observer gets all events, also on routes that were in use before."""
    with running(bus_of(road)) as bus:
        bus.subscribe("s", fine)
        way(bus, "s", "before")
        bus.drain(WAIT)
        ear = Ear(bus)

        way(bus, "s", "after")
        bus.drain(WAIT)

        heard = {(type(event), event.message.body) for event in ear.of(Published, Taken, Acknowledged)}
        assert heard == {(Published, "after"), (Taken, "after"), (Acknowledged, "after")}


def test_s21_observe_returns_the_function_unchanged() -> None:
    """`observe` returns the function, so it can be used as a decorator."""
    bus = Bus()

    def observer(event: Event) -> None:
        """Ignore every event."""

    assert bus.observe(observer) is observer


@pytest.mark.parametrize("observer", [None, "dashboard", 7], ids=repr)
def test_s21_an_observer_that_cannot_be_called_is_refused(observer: Any) -> None:
    """`observe` raises where the mistake is made, not at the first event."""
    with pytest.raises(PipelineError, match="observe"):
        Bus().observe(observer)


LOOP = Way("loop", colour="async")


@ways(POOL, THREAD, LOOP)
@pytest.mark.parametrize("event", [Taken, Acknowledged, Died], ids=lambda event: event.__name__)
def test_s13_an_observer_that_exits_requests_a_stop_and_ends_no_worker(event: type[Any], way: Way) -> None:
    """After `sys.exit()` in an observer, the bus handles this message and the later ones, and it can stop."""

    def leave(heard: Any) -> None:
        if isinstance(heard, event) and heard.message.body == 0:
            raise SystemExit(3)

    bus = Bus(pool=1)
    bus.observe(leave)
    subscription = way.subscribe(bus, "s", boom if event is Died else fine)
    bus.start()
    for body in range(3):
        bus.publish("s", body)
    InThread(bus.drain, WAIT).result()

    assert bus.stopping
    assert bus.stats()["observer_errors"] == 1
    assert InThread(bus.stop, WAIT).result() == StopReport(drained=True)
    assert subscription.stats()["dead" if event is Died else "acknowledged"] == 3


@pytest.fixture
def exiting_logger() -> Iterator[None]:
    """A log that raises SystemExit in the code that logs a dead letter."""

    def leave(_: Any, __: str, line: Any) -> Any:
        if line["event"] == "delivery.died":
            raise SystemExit(3)
        raise structlog.DropEvent

    structlog.configure(processors=[leave], cache_logger_on_first_use=False)
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("exiting_logger")
@ways(POOL, THREAD, LOOP)
def test_s13_a_logger_that_exits_ends_no_worker(way: Way) -> None:
    """The exit is counted, a stop is requested, and the next message is handled like any other."""
    bus = Bus(pool=1)
    subscription = way.subscribe(bus, "s", boom)
    bus.start()
    for body in range(2):
        bus.publish("s", body)
    InThread(bus.drain, WAIT).result()

    assert bus.stopping
    assert bus.stats()["log_errors"] == 2
    assert subscription.stats()["dead"] == 2
    assert InThread(bus.stop, WAIT).result() == StopReport(drained=True)

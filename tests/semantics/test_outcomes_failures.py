"""
Guarantee 19: the bus fails closed. The publisher gets the error of a publish filter, and an error of a handler makes a dead
letter. The copies of other subscribers are not affected.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from flow_helpers import (
    WAIT,
    Boom,
    DropAll,
    Hold,
    assert_conserved,
    boom,
    bus_of,
    every_road,
    every_way,
    fine,
    running,
)
from pipebus import (
    Actor,
    Bus,
    Delivery,
    Dropped,
    Message,
    Pipeline,
    Receipt,
    Rejected,
    Transform,
    around,
    transform,
)
from pipebus.clock import SystemClock

workers = pytest.mark.parametrize("workers", [1, 2], ids=["one-worker", "two-workers"])


class Fails(Transform):
    """A filter that raises an error of the test."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def transform(self, message: Message) -> Message:
        raise self.error


# --- the publish side --------------------------------------------------------------------------------------------------


@every_way
@every_road
def test_s19_an_error_in_a_publish_filter_reaches_the_publisher_and_no_mailbox(road: str, way: Any) -> None:
    """The publisher gets the filter's own error, and no subscriber gets the message."""
    error = Boom("the filter is broken")
    bus = bus_of(road)
    bus.use(Fails(error))
    with running(bus):
        subscription = bus.subscribe("s", fine)

        with pytest.raises(Boom) as caught:
            way(bus, "s")

        assert caught.value is error
        assert_conserved(subscription, accepted=0)
        assert len(bus.dead_letters) == 0


@every_way
@every_road
def test_s19_what_a_filter_rejects_is_raised_with_the_filters_name(road: str, way: Any) -> None:
    """The chain fills in the name of the filter that refused, and the figures count the rejection under that name."""
    bus = bus_of(road)
    bus.use(Fails(Rejected("no name", "no price")))
    with running(bus):
        subscription = bus.subscribe("s", fine)

        with pytest.raises(Rejected) as caught:
            way(bus, "s")

        assert (caught.value.by, caught.value.reasons) == ("Fails", ("no name", "no price"))
        assert bus.stats()["rejected"] == {"Fails": {"no name; no price": 1}}
        assert_conserved(subscription, accepted=0)


@every_way
@pytest.mark.parametrize("on_error", ["drop", "dead_letter"])
def test_s19_carrying_on_after_an_error_has_to_be_asked_for(on_error: Any, way: Any) -> None:
    """Under `on_error` the publisher gets a falsy `Dropped` that names the filter, and still no mailbox gets the message."""
    bus = Bus()
    bus.use(Pipeline(Fails(Boom("broken")), on_error=on_error))
    with running(bus):
        subscription = bus.subscribe("s", fine)

        outcome = way(bus, "s")

        assert isinstance(outcome, Dropped)
        assert outcome.by == "Fails"
        assert len(bus.dead_letters.list("publish")) == (on_error == "dead_letter")
        assert_conserved(subscription, accepted=0)


# --- the delivery side -------------------------------------------------------------------------------------------------


@workers
def test_s19_a_failing_handler_makes_a_dead_letter_that_tells_the_whole_story(workers: int) -> None:
    """The letter has message, subscription, handler, error, traceback, attempts and times: enough to find the cause."""
    clock = SystemClock()
    with running() as bus:
        bus.subscribe("orders.*", boom, name="billing", workers=workers)
        before = clock.now()
        bus.publish("orders.created", {"id": 1}, headers={"trace": "t1"}, id="m1")
        bus.drain(WAIT)
        after = clock.now()

        (letter,) = bus.dead_letters.list()
        assert letter.message.id == "m1"
        assert letter.message.body == {"id": 1}
        assert letter.message.headers == {"trace": "t1"}
        assert (letter.subscription, letter.by, letter.attempts) == ("billing", "boom", 1)
        assert letter.error == "Boom: cannot handle {'id': 1}"
        assert "in boom" in letter.traceback
        assert "raise Boom" in letter.traceback
        assert before <= letter.first_time <= letter.time <= after


def test_s19_a_letters_summary_can_be_written_as_json() -> None:
    """The summary of a letter is plain data for a dashboard, without the body."""
    with running() as bus:
        bus.subscribe("s", boom, name="billing")
        bus.publish("s", object(), id="m1")
        bus.drain(WAIT)

        summary = json.loads(json.dumps(bus.dead_letters.list()[0].summary()))

        assert {name: summary[name] for name in ("message", "subject", "subscription", "attempts")} == {
            "message": "m1",
            "subject": "s",
            "subscription": "billing",
            "attempts": 1,
        }


def test_s19_equal_failures_have_equal_digests() -> None:
    """The digest groups letters by cause: the same place and type give the same digest, whatever the text is."""

    def one_line(message: Message) -> None:
        raise Boom(message.body)

    def another_line(message: Message) -> None:
        raise Boom(message.body)

    with running() as bus:
        bus.subscribe("s", one_line, name="one")
        bus.subscribe("s", another_line, name="another")
        for body in ("first", "second"):
            bus.publish("s", body)
        bus.drain(WAIT)

        one = {letter.digest for letter in bus.dead_letters.list("one")}
        another = {letter.digest for letter in bus.dead_letters.list("another")}
        assert (len(one), len(another)) == (1, 1)
        assert one != another


def test_s19_an_error_that_cannot_be_printed_is_a_dead_letter_too() -> None:
    """An exception whose text cannot be read makes a dead letter like any other, and the next message is handled."""

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def handle(message: Message) -> None:
        if message.body == "bad":
            raise Unprintable

    with running() as bus:
        subscription = bus.subscribe("s", handle)
        bus.publish("s", "bad")
        bus.publish("s", "good")
        bus.drain(WAIT)

        assert bus.dead_letters.list()[0].error.startswith("Unprintable")
        assert (subscription.stats()["dead"], subscription.stats()["acknowledged"]) == (1, 1)


def test_s19_a_dead_letter_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The log says which message died, where, and why."""
    with caplog.at_level(logging.WARNING, logger="pipebus"), running() as bus:
        bus.subscribe("s", boom, name="billing")
        bus.publish("s", id="m1")
        bus.drain(WAIT)

    (line,) = [record.getMessage() for record in caplog.records if "delivery.died" in record.getMessage()]
    assert "billing" in line
    assert "m1" in line
    assert "Boom" in line


@workers
def test_s19_a_delivery_filters_error_is_the_deliverys_error_and_carries_the_filters_name(workers: int) -> None:
    """If a filter around a handler fails, the handler does not run, and the letter names the filter."""
    with running() as bus:
        hold = Hold(open=True)
        bus.subscribe("s", hold, name="billing", filters=[Fails(Boom("broken"))], workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list("billing")
        assert letter.by == "Fails"
        assert letter.error == "Boom: broken"
        assert hold.given == []


def test_s19_the_dead_letter_keeps_the_message_as_it_was_published() -> None:
    """Delivery filters may change the message for the handler; the letter, and so a replay, has the original."""

    @transform
    def rewritten(message: Message) -> Message:
        return message.with_body("rewritten")

    with running() as bus:
        bus.subscribe("s", boom, filters=[rewritten])
        bus.publish("s", "original")
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list()
        assert letter.error == "Boom: cannot handle 'rewritten'"
        assert letter.message.body == "original"


@workers
@pytest.mark.parametrize("at", ["bus-wide", "own"])
def test_s19_a_message_dies_only_after_its_delivery_chain_gave_up(at: str, workers: int) -> None:
    """A filter that runs the handler again until it succeeds saves the message: one attempt, acknowledged, no dead letter."""
    failures = [Boom("once"), Boom("twice")]
    attempts: list[int] = []

    @around
    def try_thrice(message: Message) -> Any:
        for left in (2, 1, 0):
            try:
                return (yield message)
            except Boom:
                if not left:
                    raise

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if failures:
            raise failures.pop()

    bus = Bus()
    if at == "bus-wide":
        bus.use(try_thrice, at="delivery")
    with running(bus):
        own = [try_thrice] if at == "own" else []
        subscription = bus.subscribe("s", handle, filters=own, workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

        assert attempts == [1, 1, 1]
        assert subscription.stats()["acknowledged"] == 1
        assert len(bus.dead_letters) == 0


def _wants_number(body: int) -> None:
    raise AssertionError("no number came through")


def _rejects(message: Message) -> None:
    raise Rejected("not for us")


@workers
@pytest.mark.parametrize(
    ("handler", "by", "text"),
    [(_wants_number, "_wants_number", "int"), (_rejects, "_rejects", "not for us")],
    ids=["body-of-the-wrong-type", "rejected"],
)
def test_s19_what_is_refused_for_good_is_dead_at_once(handler: Any, by: str, text: str, workers: int) -> None:
    """A body that the handler's type refuses, and `Rejected`, are final: there is one attempt, whatever `attempts` is."""
    with running() as bus:
        bus.subscribe("s", handler, attempts=5, workers=workers)
        bus.publish("s", "no number")
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list()
        assert letter.attempts == 1
        assert letter.by == by
        assert letter.error.startswith("Rejected: rejected by")
        assert text in letter.error


def test_s19_on_error_drop_drops_the_delivery_instead() -> None:
    """With `on_error`, errors of the pipeline's own filters are counted as drops instead of making a dead letter."""
    with running() as bus:
        chain = Pipeline(Fails(Boom("broken")), on_error="drop")
        dropping = bus.subscribe("s", fine, filters=chain)
        dying = bus.subscribe("s", boom, filters=Pipeline(on_error="drop"))
        bus.publish("s")
        bus.drain(WAIT)

        assert sum(dropping.stats()["dropped"].values()) == 1
        assert dying.stats()["dead"] == 1


@pytest.mark.parametrize(
    "neighbour",
    [
        pytest.param({"handler": boom}, id="whose-handler-fails"),
        pytest.param({"handler": _wants_number}, id="whose-type-refuses"),
        pytest.param({"handler": fine, "filters": [Fails(Boom("broken"))]}, id="whose-filter-fails"),
        pytest.param({"handler": fine, "filters": [DropAll()]}, id="whose-filter-drops"),
    ],
)
@every_road
def test_s19_one_subscribers_failure_touches_nobody_elses_copy(neighbour: dict[str, Any], road: str) -> None:
    """If one of three subscribers fails, the publisher gets its receipt, and the other two get the message."""
    with running(bus_of(road)) as bus:
        first, last = Hold(open=True), Hold(open=True)
        bus.subscribe("s", first)
        middle = bus.subscribe("s", **neighbour)
        bus.subscribe("s", last)

        receipts = [bus.publish("s", body) for body in ("x", "y")]
        bus.drain(WAIT)

        assert receipts == [Receipt(3), Receipt(3)]
        assert first.given == last.given == ["x", "y"]
        assert middle.stats()["acknowledged"] == 0
        assert_conserved(middle, accepted=2)


@workers
def test_s19_a_failure_does_not_stop_the_messages_behind_it(workers: int) -> None:
    """If one of ten messages fails, the other nine are handled."""

    def handle(message: Message) -> None:
        if message.body == 5:
            raise Boom

    with running() as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        for body in range(10):
            bus.publish("s", body)
        bus.drain(WAIT)

        assert (subscription.stats()["acknowledged"], subscription.stats()["dead"]) == (9, 1)
        assert [letter.message.body for letter in bus.dead_letters] == [5]


@workers
def test_s19_a_handlers_result_that_cannot_be_published_fails_the_delivery(workers: int) -> None:
    """If the value for `to=` finds no room, the delivery that made it becomes a dead letter."""
    with running() as bus:
        bus.subscribe("results", mailbox=1, overflow="reject")
        bus.publish("results", "in the way")
        subscription = bus.subscribe("s", lambda message: "result", name="maker", to="results", workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

        assert subscription.stats()["dead"] == 1
        assert bus.dead_letters.list("maker")[0].error.startswith("MailboxFull")


def test_s19_a_body_that_does_not_fit_is_refused_by_the_subscription_that_it_came_to() -> None:
    """If two subscriptions share a handler, or two actors a class, the dead letter names the right one."""

    def bill(amount: int) -> None: ...

    class Branch(Actor):
        def on_message(self, amount: int) -> None: ...  # type: ignore[override]

    names = ("one", "two", "eu", "us")
    with running() as bus:
        for name in names[:2]:
            bus.subscribe(name, bill, name=name)
        for name in names[2:]:
            bus.spawn(Branch(name))
        for name in names:
            bus.publish(name, "no number")
        bus.drain(WAIT)

        refused_by = {letter.subscription: letter.error.split(":")[1].strip() for letter in bus.dead_letters}
        assert refused_by == {name: f"rejected by {name}" for name in names}

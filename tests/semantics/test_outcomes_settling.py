"""
Guarantee 20: the meaning of "after call_next" on either side, and the `Delivery` that a handler or reader settles.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from flow_helpers import (
    WAIT,
    Boom,
    Hold,
    InThread,
    apublish,
    assert_conserved,
    fine,
    publish,
    returning,
    running,
)
from pipebus import (
    AlreadySettled,
    Bus,
    Delivery,
    Dropped,
    Handled,
    Message,
    PipelineError,
    Receipt,
    ReceiveTimeout,
    Subscription,
    around,
)
from pipebus.testing import Harness

workers = pytest.mark.parametrize("workers", [1, 2], ids=["one-worker", "two-workers"])


# --- after call_next ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [publish, apublish], ids=lambda way: way.__name__)
@pytest.mark.parametrize("shape", ["plain", "async", "around"])
def test_s20_after_call_next_a_message_stands_in_every_mailbox(shape: str, way: Any) -> None:
    """When a publish filter's `call_next` has returned, all mailboxes have the message, and the receipt says how many."""
    found: list[tuple[Any, list[int]]] = []
    subscriptions: list[Subscription] = []

    def look(outcome: Any) -> Any:
        found.append((outcome, [subscription.stats()["pending"] for subscription in subscriptions]))
        return outcome

    def plain(message: Message, call_next: Any) -> Any:
        return look(call_next(message))

    async def asynchronous(message: Message, call_next: Any) -> Any:
        return look(await call_next(message))

    @around
    def generator(message: Message) -> Any:
        look((yield message))

    bus = Bus()
    bus.use({"plain": plain, "async": asynchronous, "around": generator}[shape])
    with running(bus):
        subscriptions += [bus.subscribe("s") for _ in range(3)]

        outcome = way(bus, "s")

        assert outcome == Receipt(3)
        assert found == [(Receipt(3), [1, 1, 1])]


def _look_plain(found: list[Any]) -> Any:
    def look(message: Message, call_next: Any) -> Any:
        outcome = call_next(message)
        found.append(outcome)
        return outcome

    return look


def _look_around(found: list[Any]) -> Any:
    @around
    def look(message: Message) -> Any:
        found.append((yield message))

    return look


@workers
@pytest.mark.parametrize("look", [_look_plain, _look_around], ids=["plain", "around"])
def test_s20_after_call_next_a_delivery_has_been_handled(look: Callable[..., Any], workers: int) -> None:
    """A delivery filter sees `Handled` with the handler's value, after the handler has run, and before it is acknowledged."""
    found: list[Any] = []
    with running() as bus:
        subscription = bus.subscribe("s", lambda message: message.body * 2, filters=[look(found)], workers=workers)
        bus.publish("s", 21)
        bus.drain(WAIT)

        assert found == [Handled(42)]
        assert subscription.stats()["acknowledged"] == 1


def test_s20_a_delivery_is_in_flight_until_its_outermost_filter_has_ended() -> None:
    """The way back through the filters belongs to the delivery: it is acknowledged after the last of them."""
    seen: list[tuple[int, int]] = []

    def outermost(message: Message, call_next: Any) -> Any:
        outcome = call_next(message)
        stats = subscription.stats()
        seen.append((stats["in_flight"], stats["acknowledged"]))
        return outcome

    with running() as bus:
        subscription = bus.subscribe("s", fine, filters=[outermost])
        bus.publish("s")
        bus.drain(WAIT)

    assert seen == [(1, 0)]


@workers
@pytest.mark.parametrize(
    ("replaced_by", "published"),
    [(Handled("better"), ["better"]), (Handled(None), []), (Dropped("kept secret"), [])],
    ids=["another-value", "nothing", "a-drop"],
)
def test_s20_a_delivery_filter_may_replace_the_value(replaced_by: Any, published: list[str], workers: int) -> None:
    """The value that the outermost filter returns is published to `to`; None or a drop is not."""
    given: list[Any] = []

    def replace(message: Message, call_next: Any) -> Any:
        given.append(call_next(message))
        return replaced_by

    with running() as bus:
        results = Hold(open=True)
        bus.subscribe("results", results)
        bus.subscribe("s", lambda message: "good", filters=[replace], to="results", workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

        assert given == [Handled("good")]
        assert results.given == published


# --- a handler's Delivery ----------------------------------------------------------------------------------------------

VERBS = {
    "ack": Delivery.ack,
    "retry": Delivery.retry,
    "reject": lambda delivery: delivery.reject("no"),
}
every_verb = pytest.mark.parametrize("verb", list(VERBS))
FIGURES = {"ack": ("acknowledged", 1), "retry": ("acknowledged", 1), "reject": ("dead", 1)}


@workers
@every_verb
def test_s20_a_handler_may_settle_its_delivery_itself(verb: str, workers: int) -> None:
    """A handler may acknowledge, return or reject its delivery while it runs; its return value then changes nothing."""
    settled: list[bool] = []

    def handle(message: Message, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            settled.append(delivery.settled)
            VERBS[verb](delivery)
            settled.append(delivery.settled)

    with running() as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

        name, count = FIGURES[verb]
        assert settled == [False, True]
        assert subscription.stats()[name] == count
        assert_conserved(subscription, accepted=1)


@workers
@every_verb
@pytest.mark.parametrize("second", list(VERBS))
def test_s20_the_first_settlement_wins_over_a_second(verb: str, second: str, workers: int) -> None:
    """Settling twice is an error, and the second settlement has no effect."""
    errors: list[BaseException] = []

    def handle(message: Message, delivery: Delivery) -> None:
        if delivery.attempt > 1:
            return
        VERBS[verb](delivery)
        try:
            VERBS[second](delivery)
        except AlreadySettled as error:
            errors.append(error)

    with running() as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        message_id = "m1"
        bus.publish("s", id=message_id)
        bus.drain(WAIT)

        name, count = FIGURES[verb]
        assert [message_id in str(error) for error in errors] == [True]
        assert subscription.stats()[name] == count
        assert_conserved(subscription, accepted=1)


@workers
@pytest.mark.parametrize("run", ["pool", "loop"])
@pytest.mark.parametrize(("verb", "published"), [("ack", ["1", "2"]), ("retry", ["2"]), ("reject", ["2"])])
def test_s20_what_was_returned_or_rejected_has_no_value(verb: str, published: list[str], run: Any, workers: int) -> None:
    """A handler that returns a value after `retry` or `reject` has not handled the message; after `ack` it has."""

    def handle(message: Message, delivery: Delivery) -> str:
        if message.id == "1" and delivery.attempt == 1:
            VERBS[verb](delivery)
        elif message.id == "1":
            delivery.reject("enough")
        return message.id

    with running() as bus:
        results = Hold(open=True)
        bus.subscribe("results", results)
        subscription = bus.subscribe("s", handle, to="results", workers=workers, run=run)
        bus.publish("s", id="1")
        bus.publish("s", id="2")
        bus.drain(WAIT)
        assert sorted(results.given) == published
        assert subscription.stats()["dead"] == (verb != "ack")


@workers
@every_verb
def test_s20_the_first_settlement_wins_over_an_error_raised_later(verb: str, workers: int) -> None:
    """If a handler fails after it has settled its delivery, the settlement holds, and there is no dead letter."""

    def handle(message: Message, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            VERBS[verb](delivery)
            raise Boom("too late")

    with running() as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

        name, count = FIGURES[verb]
        assert subscription.stats()[name] == count
        assert len(bus.dead_letters) == subscription.stats()["dead"] == (verb == "reject")


@workers
def test_s20_the_first_settlement_wins_over_a_filter_that_drops_afterwards(workers: int) -> None:
    """A filter's `Dropped` on the way back cannot undo an acknowledgement."""

    def drop_afterwards(message: Message, call_next: Any) -> Any:
        call_next(message)
        return Dropped("too late")

    with running() as bus:
        subscription = bus.subscribe("s", returning(0), filters=[drop_afterwards], workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

        assert subscription.stats()["acknowledged"] == 1
        assert subscription.stats()["dropped"] == {}


def test_s20_one_delivery_is_settled_once_however_many_threads_try() -> None:
    """If eight threads acknowledge the same delivery at once, one of them succeeds."""
    barrier = threading.Barrier(8)
    outcomes: list[str] = []

    def settle(delivery: Delivery) -> None:
        barrier.wait(WAIT)
        try:
            delivery.ack()
        except AlreadySettled:
            outcomes.append("too late")
        else:
            outcomes.append("acknowledged")

    def handle(message: Message, delivery: Delivery) -> None:
        for attempt in [InThread(settle, delivery) for _ in range(8)]:
            attempt.result()

    with running() as bus:
        subscription = bus.subscribe("s", handle)
        bus.publish("s")
        bus.drain(WAIT)

        assert sorted(outcomes) == ["acknowledged"] + ["too late"] * 7
        assert_conserved(subscription, accepted=1)


def test_s20_a_thread_and_the_end_of_the_handler_do_not_both_settle() -> None:
    """When a handler hands its delivery to a thread and returns, the first of the two settles it, and it counts once."""
    outcomes: list[str] = []
    settlers: list[InThread] = []

    def settle(delivery: Delivery, barrier: threading.Barrier) -> None:
        barrier.wait(WAIT)
        try:
            delivery.ack()
        except AlreadySettled:
            outcomes.append("too late")
        else:
            outcomes.append("in time")

    def handle(message: Message, delivery: Delivery) -> None:
        barrier = threading.Barrier(2)
        settlers.append(InThread(settle, delivery, barrier))
        barrier.wait(WAIT)

    with running() as bus:
        subscription = bus.subscribe("s", handle)
        for _ in range(100):
            bus.publish("s")
        bus.drain(WAIT)
        for settler in settlers:
            settler.result()

        assert len(outcomes) == 100
        assert subscription.stats()["acknowledged"] == 100
        assert_conserved(subscription, accepted=100)


@workers
@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_s20_a_delivery_returned_as_often_as_allowed_is_dead(attempts: int, workers: int) -> None:
    """`attempts` bounds how often a delivery is taken, and the letter says that the bound was reached."""
    with running() as bus:
        subscription = bus.subscribe("s", returning(attempts), name="tired", attempts=attempts, workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list("tired")
        assert letter.attempts == attempts
        assert letter.error.startswith("AttemptsExhausted")
        assert_conserved(subscription, accepted=1)


@workers
def test_s20_a_rejected_delivery_is_dead_with_the_reason_given(workers: int) -> None:
    """`reject` needs no exception: the letter contains the reason and the subscription that refused."""
    with running() as bus:
        refuse = returning(0, then=lambda delivery: delivery.reject("the customer is unknown"))
        bus.subscribe("s", refuse, name="billing", workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list("billing")
        assert letter.error == "Rejected: rejected by billing: the customer is unknown"


@workers
def test_s20_a_retry_with_a_delay_comes_when_its_time_has_come(harness: Harness, workers: int) -> None:
    """A returned delivery keeps its place, counts as pending, and is taken again only after its delay."""
    attempts: list[tuple[float, int]] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append((harness.elapsed, delivery.attempt))
        if delivery.attempt == 1:
            delivery.retry(delay=30.0)

    with running(harness.bus) as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        bus.publish("s")
        harness.advance(29.0)
        assert subscription.stats()["pending"] == 1
        harness.advance(1.0)

        assert attempts == [(0.0, 1), (30.0, 2)]


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "soon"])
def test_s20_a_retry_with_an_impossible_delay_is_an_error_and_settles_nothing(delay: Any) -> None:
    """The handler gets the error about the delay, and can still settle its delivery."""
    errors: list[PipelineError] = []

    def handle(message: Message, delivery: Delivery) -> None:
        try:
            delivery.retry(delay=delay)
        except PipelineError as error:
            errors.append(error)
            delivery.ack()

    with running() as bus:
        subscription = bus.subscribe("s", handle)
        bus.publish("s")
        bus.drain(WAIT)

        assert len(errors) == 1
        assert subscription.stats()["acknowledged"] == 1


# --- a reader's Delivery -----------------------------------------------------------------------------------------------


def test_s20_a_read_delivery_is_acknowledged_by_the_end_of_its_block() -> None:
    """A read delivery is in flight inside the block, and acknowledged after it."""
    with running() as bus:
        subscription = bus.subscribe("s")
        bus.publish("s", "x")

        with subscription.delivery(timeout=0) as delivery:
            assert (delivery.message.body, delivery.attempt, delivery.redelivered) == ("x", 1, False)
            assert subscription.stats()["in_flight"] == 1

        assert subscription.stats()["acknowledged"] == 1


def test_s20_a_read_delivery_goes_back_when_its_block_fails() -> None:
    """An error in the block returns the message for the next reader, and propagates to this one."""
    with running() as bus:
        subscription = bus.subscribe("s")
        bus.publish("s", "x")
        with pytest.raises(Boom), subscription.delivery(timeout=0):
            raise Boom

        with subscription.delivery(timeout=0) as again:
            assert (again.message.body, again.attempt, again.redelivered) == ("x", 2, True)


def test_s20_a_read_delivery_that_fails_too_often_is_dead() -> None:
    """`attempts` bounds readers as it bounds handlers."""
    with running() as bus:
        subscription = bus.subscribe("s", name="reader", attempts=2)
        bus.publish("s")
        for _ in range(2):
            with pytest.raises(Boom), subscription.delivery(timeout=0):
                raise Boom

        with pytest.raises(ReceiveTimeout):
            subscription.receive(timeout=0)
        assert bus.dead_letters.list("reader")[0].attempts == 2


@every_verb
def test_s20_a_block_that_settled_its_delivery_is_not_overruled_by_its_end(verb: str) -> None:
    """If the code in the block settles the delivery, the end of the block and an error in it change nothing."""
    with running() as bus:
        subscription = bus.subscribe("s")
        bus.publish("s", "x")
        bus.publish("s", "y")
        for fails in (False, True):
            with suppress(Boom), subscription.delivery(timeout=0) as delivery:
                VERBS[verb](delivery)
                if fails:
                    raise Boom

        name, _ = FIGURES[verb]
        expected = {"pending": 2} if verb == "retry" else {name: 2}
        assert {key: subscription.stats()[key] for key in expected} == expected
        assert_conserved(subscription, accepted=2)


def test_s20_a_replayed_letter_of_a_reader_can_be_read_again() -> None:
    """A replayed letter of a reader goes back into its mailbox, and wakes a reader that waits."""
    with running() as bus:
        subscription = bus.subscribe("s", attempts=1)
        bus.publish("s", "x")
        with pytest.raises(Boom), subscription.delivery(timeout=0):
            raise Boom
        reader = InThread(subscription.receive)

        bus.dead_letters.replay(bus.dead_letters.list()[0].id)

        assert reader.result().body == "x"
        assert subscription.stats()["acknowledged"] == 1

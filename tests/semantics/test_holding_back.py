"""
What filters that hold messages back ask of a bus: to put a delivery off without counting an attempt, to wait for a turn, to
pause a subscription for a while, and to show their state.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flow_helpers import LONG, WAIT, Ear, Hold, InThread, assert_conserved, fine, hasty_threads, running, wait_until
from loop_helpers import Way, amain, every_way_to_run
from pipebus import Around, Bus, BusClosed, Delivery, Message, Pause, Receipt
from pipebus.events import Returned
from pipebus.pipeline.shapes import Context, Steps
from pipebus.testing import Harness
from pipebus.waiting.latch import Latch

# --- putting off ---------------------------------------------------------------------------------------------------------


@every_way_to_run
def test_a_delivery_that_is_put_off_counts_no_attempt(way: Way) -> None:
    """It may come as often as it likes, and an attempt that counts is still the first one; observers hear of each return."""
    attempts: list[int] = []

    def put_off(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) <= 4:
            delivery.retry(0.001 * (len(attempts) % 2), count=False)
        elif len(attempts) == 5:
            delivery.retry()

    with way.running() as bus:
        ear = Ear(bus)
        subscription = way.subscribe(bus, "s", put_off, attempts=2)
        bus.publish("s")
        bus.drain(WAIT)

        assert attempts == [1, 1, 1, 1, 1, 2]
        assert [event.delay for event in ear.of(Returned)] == [0.001, 0.0, 0.001, 0.0, 0.0]
        assert subscription.stats()["acknowledged"] == 1


def test_without_a_delay_it_is_the_first_to_be_taken_again_and_with_one_it_waits_its_time() -> None:
    """In memory, as on stores: as if it had not been taken."""
    given: list[tuple[Any, float]] = []
    with Harness() as harness:
        bus = harness.attach(Bus())

        def handle(message: Message, delivery: Delivery) -> None:
            given.append((message.body, harness.elapsed))
            if len(given) == 1:
                delivery.retry(count=False)
            elif len(given) == 2:
                delivery.retry("5s", count=False)

        bus.subscribe("s", handle, name="s")
        harness.start(bus)
        for body in "abc":
            bus.publish("s", body)
        harness.advance(10)

    assert given == [("a", 0.0), ("a", 0.0), ("b", 0.0), ("c", 0.0), ("a", 5.0)]


# --- waiting for a turn --------------------------------------------------------------------------------------------------


class Waits(Around):
    """Lets a message pass when its latch is given, and notes what became of the wait."""

    waits = True

    def __init__(self, seconds: float = WAIT) -> None:
        self.seconds = seconds
        self.latches: list[Latch] = []
        self.found: list[Any] = []
        self.came = threading.Semaphore(0)

    def around(self, message: Message, /) -> Steps:
        latch = Latch()
        self.latches.append(latch)
        self.came.release()
        try:
            self.found.append((yield Pause(self.seconds, until=latch)))
        except BaseException as error:
            self.found.append((type(error), latch.give("withdrawn")))
            raise
        return (yield message)

    def latch(self, number: int = 0) -> Latch:
        assert self.came.acquire(timeout=WAIT)
        return self.latches[number]


@every_way_to_run
def test_a_wait_for_a_turn_ends_when_it_is_given(way: Way) -> None:
    """Around handlers of both colours; meanwhile neither a worker of the pool nor the loop stands still."""
    waits, handled, free = Waits(), Hold(open=True), Hold(open=True)
    if way.blocks_loop:
        return  # `subscribe` refuses a filter that waits there
    with way.running(Bus(pool=1)) as bus:
        way.subscribe(bus, "s", handled.given.append, filters=[waits])
        way.subscribe(bus, "other", free.given.append)
        bus.publish("s", 1)
        latch = waits.latch()
        bus.publish("other", 2)
        wait_until(lambda: len(free.given) == 1, "another handler runs meanwhile")
        assert handled.given == []
        assert latch.give("turn")
        bus.drain(WAIT)

    assert waits.found == [True]
    assert [message.body for message in handled.given] == [1]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_publishers_wait_for_a_turn_until_their_time_is_up(colour: str) -> None:
    """Then the latch is closed: a giver that comes too late hears so, and gives the turn to somebody else."""
    waits, bus = Waits(0.01), Bus()
    bus.use(waits)
    with running(bus):
        inbox = bus.subscribe("s")
        publish: Callable[[], Any] = lambda: bus.publish("s", 1)  # noqa: E731
        if colour == "async":
            publish = lambda: amain(lambda: bus.apublish("s", 1))  # noqa: E731
        assert publish() == Receipt(1)
        assert waits.found == [False]
        assert not waits.latches[0].give("late")
        assert inbox.receive(timeout=WAIT).body == 1


def test_a_stop_ends_a_wait_for_a_turn_and_the_filter_finds_out_whether_it_had_its_turn() -> None:
    """Its own `give` succeeds if nobody else's has."""
    waits = Waits()
    bus = Bus()
    bus.use(waits)
    bus.subscribe("s", fine)
    bus.start()
    publisher = InThread(bus.publish, "s", 1)
    latch = waits.latch()
    bus.stop(timeout=WAIT)
    with pytest.raises(BusClosed):
        publisher.result()

    assert waits.found == [(BusClosed, True)]
    assert not latch.give("late")


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.few(1)
def test_a_turn_that_is_given_at_the_last_moment_is_taken_or_refused_never_both(colour: str) -> None:
    """With times out and givers racing: what the giver hears and what the waiter finds agree each time."""
    rolls = random.Random(7)
    waits = Waits(0.0005)
    given: list[bool] = []
    bus = Bus()
    bus.use(waits)
    with running(bus), hasty_threads():
        bus.subscribe("s", fine)

        def give(number: int) -> None:
            latch = waits.latch(number)
            never.wait(rolls.random() * 0.001)
            given.append(latch.give(number))

        never = threading.Event()
        for number in range(200):
            giver = InThread(give, number)
            if colour == "sync":
                bus.publish("s", number)
            else:
                amain(lambda: bus.apublish("s", 1))
            giver.result()

    assert waits.found == given
    assert {True, False} <= set(given)


# --- pausing a subscription ----------------------------------------------------------------------------------------------


class Holds(Around):
    """Keeps the context of its start."""

    def __init__(self) -> None:
        self.context: Any = None

    def start(self, context: Context) -> None:
        self.context = context

    def around(self, message: Message, /) -> Steps:
        return (yield message)


@every_way_to_run
def test_a_subscription_goes_on_when_no_filter_and_no_program_pauses_it(way: Way) -> None:
    """Each pause counts for itself and ends once, in any order."""
    holds, handled = Holds(), Hold(open=True)
    with way.running() as bus:
        subscription = way.subscribe(bus, "s", handled.given.append, name="s", filters=[holds])
        first, second = holds.context.pause("s"), holds.context.pause("s")
        third = holds.context.pause("s")
        subscription.pause()
        bus.publish("s", 1)
        third()
        first()
        first()
        subscription.resume()
        assert subscription.paused
        assert handled.given == []
        second()
        assert not subscription.paused
        bus.drain(WAIT)
        assert [message.body for message in handled.given] == [1]
        holds.context.pause("nobody")()


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_drain_and_a_stop_wait_for_a_pause_that_a_filter_will_end(store: str, tmp_path: Any) -> None:
    """Unlike for one of the program's own, which nobody may ever end."""
    holds, handled = Holds(), Hold(open=True)
    url = {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path / 'bus.db'}"}[store]
    with running(Bus(url)) as bus:
        subscription = bus.subscribe("s", handled, name="s", filters=[holds])
        for act in (lambda: bus.drain(WAIT), lambda: bus.stop(timeout=WAIT, drain=True)):
            before = len(handled.given)
            let_go = holds.context.pause("s")
            bus.publish("s", 1)
            waiter = InThread(act)
            if store == "memory":
                wait_until(lambda: subscription.stats()["pending"] == 1, "it waits in the mailbox")
            assert waiter.running
            assert len(handled.given) == before
            let_go()
            waiter.result()
            assert len(handled.given) == before + 1
    assert_conserved(subscription)


def test_on_a_store_a_stop_leaves_what_a_filter_holds_back_for_the_next_start(tmp_path: Any) -> None:
    """The message is in the file, so a stop does not wait for the pause to end."""
    holds, handled = Holds(), Hold(open=True)
    bus = Bus(f"sqlite:///{tmp_path / 'bus.db'}")
    subscription = bus.subscribe("s", handled, name="s", filters=[holds])
    with bus:
        let_go = holds.context.pause("s")
        bus.publish("s", 1)
        InThread(bus.stop, LONG).result(WAIT)
        assert handled.given == []
    let_go()
    with running(bus):
        wait_until(lambda: len(handled.given) == 1, "it is handled after the next start")
    assert_conserved(subscription, accepted=1)


def test_pauses_of_many_filters_at_once_leave_nothing_paused() -> None:
    """Threads that pause and let go in all orders, while messages come."""
    holds, count = Holds(), 300
    handled: list[Any] = []
    with running() as bus, hasty_threads():
        subscription = bus.subscribe("s", lambda message: handled.append(message.body), name="s", workers=2, filters=[holds])

        def pause() -> None:
            for _ in range(count):
                holds.context.pause("s")()

        threads = [InThread(pause) for _ in range(4)]
        for number in range(count):
            bus.publish("s", number)
        for thread in threads:
            thread.result()
        assert not subscription.paused
        bus.drain(WAIT)

    assert sorted(handled) == list(range(count))


# --- showing its state ---------------------------------------------------------------------------------------------------


class Tells(Holds):
    """A filter that shows its state."""

    def stats(self, place: str) -> dict[str, Any]:
        if place == "fails":
            raise ZeroDivisionError("no figures")
        return {"place": place, "number": 1}


def test_the_figures_have_the_state_of_filters_by_place() -> None:
    """One that fails is left out, and the log says so; readers have no filters around them."""
    bus = Bus()
    bus.use(Tells(), Tells())
    bus.use(Tells(), at="delivery")
    bus.subscribe("s", fine, name="s", filters=[Holds(), Tells()])
    bus.subscribe("s", fine, name="fails")
    bus.subscribe("s", name="reader")
    mine = {"place": "s", "number": 1}

    assert bus.stats()["filters"] == {
        "publish": {"Tells": mine | {"place": "publish"}, "Tells 2": mine | {"place": "publish"}},
        "s": {"Tells": mine, "Tells 2": mine},
    }

"""For how long the oldest pending message has waited, in every kind of mailbox; and figures that are of one moment."""

from __future__ import annotations

import threading

import pytest

from flow_helpers import WAIT, Hold, ended, fine, hasty_threads, running, wait_until
from pipebus import Actor, Bus, Delivery, Message, Subscription
from pipebus.testing import FakeClock

workers = pytest.mark.parametrize("workers", [1, 2], ids=["one-worker", "two-workers"])


def oldest(subscription: Subscription) -> float | None:
    found: float | None = subscription.stats()["oldest"]
    return found


@workers
def test_it_is_the_age_of_what_waits_longest(workers: int) -> None:
    """A message in a handler's hand does not count, and when nothing waits there is no age."""
    clock, hold = FakeClock(), Hold()
    with running(Bus(clock=clock)) as bus:
        subscription = bus.subscribe("s", hold, workers=workers)
        assert oldest(subscription) is None
        for number in range(workers):
            bus.publish("s", number)
        hold.wait_started(workers)
        clock.advance(5.0)
        assert oldest(subscription) is None
        bus.publish("s")
        clock.advance(2.0)
        bus.publish("s")
        clock.advance(1.0)
        assert oldest(subscription) == 3.0
        assert bus.stats()["subscriptions"][subscription.name]["oldest"] == 3.0
        hold.open()
        bus.drain(WAIT)
        assert oldest(subscription) is None


@workers
def test_what_a_pause_or_a_stop_leaves_goes_on_ageing(workers: int) -> None:
    """A paused subscription, and a stopped bus, show how far behind they are."""
    clock = FakeClock()
    bus = Bus(clock=clock)
    subscription = bus.subscribe("s", fine, workers=workers)
    with running(bus, drain=False):
        subscription.pause()
        bus.publish("s")
        clock.advance(4.0)
        assert oldest(subscription) == 4.0
    clock.advance(4.0)
    assert oldest(subscription) == 8.0
    bus.start()
    bus.publish("s")
    assert oldest(subscription) == 8.0
    subscription.resume()
    bus.drain(WAIT)
    assert oldest(subscription) is None
    bus.stop()


def test_what_is_delayed_counts_when_it_is_due() -> None:
    """A message for tomorrow does not mean that a handler is slow."""
    clock = FakeClock()
    with running(Bus(clock=clock)) as bus:
        reader = bus.subscribe("s")
        bus.publish("s", "later", delay=60.0)
        clock.advance(30.0)
        assert (reader.stats()["pending"], oldest(reader)) == (1, None)
        clock.advance(31.0)
        wait_until(lambda: oldest(reader) == 61.0, "it is due")
        assert reader.receive(0).body == "later"


def test_what_waits_behind_its_key_counts() -> None:
    """A message that no worker may take, because one of its key is in hand, waits too."""
    clock, hold = FakeClock(), Hold()
    with running(Bus(clock=clock)) as bus:
        subscription = bus.subscribe("s", hold, workers=2)
        bus.publish("s", 1, key="k")
        hold.wait_started()
        bus.publish("s", 2, key="k")
        clock.advance(7.0)
        bus.publish("s", 3)
        hold.wait_started()
        assert (subscription.stats()["pending"], oldest(subscription)) == (1, 7.0)


def test_a_returned_message_has_its_own_time() -> None:
    """What failed and waits for its next attempt is as old as it is."""
    clock = FakeClock()

    def again(message: Message, delivery: Delivery) -> None:
        subscription.pause()
        delivery.retry()

    with running(Bus(clock=clock), drain=False) as bus:
        subscription = bus.subscribe("s", again)
        subscription.pause()
        bus.publish("s")
        clock.advance(3.0)
        subscription.resume()
        bus.drain(WAIT)
        clock.advance(2.0)
        assert oldest(subscription) == 5.0


class Asked(Actor):
    def __init__(self) -> None:
        super().__init__("asked")
        self.hold = Hold()

    def filter(self, message: Message) -> Message:
        self.hold(message)
        return message

    def on_message(self, message: Message) -> None: ...


def test_questions_to_an_actor_do_not_hide_its_mail() -> None:
    """A filter actor that is stuck with a question shows how long its own mail has waited behind other questions."""
    clock, actor = FakeClock(), Asked()
    bus = Bus(clock=clock)
    bus.use(actor)
    with running(bus):
        bus.subscribe("s", fine)
        askers = [threading.Thread(target=bus.publish, args=("s", number)) for number in range(3)]
        for asker in askers:
            asker.start()
        actor.hold.wait_started()
        bus.publish(actor, "mail")
        clock.advance(3.0)
        assert oldest(actor.subscription) == 3.0
        actor.hold.open()
        for asker in askers:
            asker.join()


# --- one moment ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["pool", "thread", "loop"])
@workers
def test_the_figures_are_of_one_moment(run: str, workers: int) -> None:
    """However a worker and a look at the figures meet, each message is counted, and once. So the law holds at each look."""

    async def afine(message: Message) -> None: ...

    with running() as bus, hasty_threads():
        subscription = bus.subscribe("s", afine if run == "loop" else fine, run=run, workers=workers)
        going = threading.Event()

        def publish() -> None:
            for _ in range(1_000):
                bus.publish("s")
            going.set()

        publisher = threading.Thread(target=publish)
        publisher.start()
        looks = 0
        while not going.is_set() or looks < 100:
            stats = subscription.stats()
            assert stats["accepted"] - ended(stats) - stats["pending"] - stats["in_flight"] == 0, stats
            looks += 1
        publisher.join()
        bus.drain(WAIT)

"""
Handlers on threads of their own, `run="thread"` (guarantees 11, 23, 25 and 26).
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import pytest

from flow_helpers import (
    LONG,
    WAIT,
    Hold,
    InThread,
    assert_conserved,
    fine,
    hasty_threads,
    running,
    wait_until,
)
from pipebus import Bus, BusClosed, Delivery, Message, Pause, StopReport, SubscriptionError, around


class Threads:
    """A handler that records the threads on which it ran."""

    def __init__(self) -> None:
        self.seen: dict[Any, set[threading.Thread]] = defaultdict(set)

    def __call__(self, message: Message) -> None:
        self.seen[message.subject].add(threading.current_thread())


def born_since(before: set[threading.Thread]) -> set[threading.Thread]:
    return set(threading.enumerate()) - before


# --- which threads -----------------------------------------------------------------------------------------------------


def test_s23_each_subscription_has_a_thread_of_its_own() -> None:
    """A thousand messages of one subscriber run on one thread of its own, which has the subscriber's name."""
    threads, pooled = Threads(), Threads()
    with running(Bus(name="shop")) as bus:
        for name in ("a", "b"):
            bus.subscribe(name, threads, run="thread", name=f"reader-{name}")
        bus.subscribe("a", pooled)
        for _ in range(500):
            bus.publish("a")
            bus.publish("b")
        bus.drain(WAIT)

        (a,), (b,) = threads.seen["a"], threads.seen["b"]
        assert a is not b
        assert not {a, b} & pooled.seen["a"]
        assert a.name == "shop-reader-a"
        assert b.name == "shop-reader-b"


def test_s23_the_same_handler_and_options_twice_are_two_threads() -> None:
    """Two subscriptions with the same handler and options have two threads."""
    with running() as bus:
        hold = Hold()
        for _ in range(3):
            bus.subscribe("s", hold, run="thread")
        bus.publish("s")
        hold.wait_started(3)

        assert hold.given == [None] * 3


def test_s24_several_workers_are_as_many_threads() -> None:
    """With workers=4 there are at most four threads, and only this subscription uses them."""
    threads = Threads()
    hold = Hold()
    before = set(threading.enumerate())

    def handle(message: Message) -> None:
        threads(message)
        hold(message)

    with running() as bus:
        subscription = bus.subscribe("s", handle, run="thread", workers=4)
        for body in range(100):
            bus.publish("s", body)
        hold.wait_started(4)

        assert len(hold.given) == 4
        assert subscription.stats()["in_flight"] == 4
        hold.open()
        bus.drain(WAIT)
        assert len(threads.seen["s"]) == 4
        assert threads.seen["s"] == born_since(before)


def test_s25_a_thread_starts_with_the_first_message() -> None:
    """A subscription that has nothing to do has no thread."""
    before = set(threading.enumerate())
    with running() as bus:
        for number in range(10):
            bus.subscribe(f"s.{number}", fine, run="thread", workers=3)
        assert born_since(before) == set()
        bus.publish("s.1")
        bus.drain(WAIT)
        assert len(born_since(before)) == 1


# --- long blockers -----------------------------------------------------------------------------------------------------


def test_s23_long_blockers_on_threads_take_nothing_from_the_pool() -> None:
    """Ten handlers on threads wait, and the subscriber of a pool of one is still handled."""
    with running(Bus(pool=1)) as bus:
        stuck, free = Hold(), Hold(open=True)
        blockers = [bus.subscribe("s", stuck, run="thread") for _ in range(10)]
        bus.subscribe("s", free)
        bus.publish("s")
        stuck.wait_started(10)
        bus.publish("s")
        free.wait_started(2)

        assert [blocker.stats()["in_flight"] for blocker in blockers] == [1] * 10


def test_s23_a_pool_of_fixed_size_says_nothing_about_threads() -> None:
    """`workers` of a subscription with its own threads may be larger than the pool."""
    with running(Bus(pool=1)) as bus:
        hold = Hold()
        bus.subscribe("s", hold, run="thread", workers=5)
        for body in range(5):
            bus.publish("s", body)
        hold.wait_started(5)


def test_s23_a_filter_that_pauses_holds_its_own_thread_only() -> None:
    """A Pause waits on the thread of its subscription, and other subscriptions are handled."""

    @around
    def wait(message: Message) -> Any:
        yield Pause(0.0)
        yield message

    with running(Bus(pool=1)) as bus:
        handled = Hold(open=True)
        bus.subscribe("s", handled, run="thread", filters=[wait])
        bus.publish("s")
        handled.wait_started()


def test_s22_a_handler_on_a_thread_waits_for_room_like_anybody_else() -> None:
    """A handler that publishes into a small mailbox waits until the reader makes room."""
    with running() as bus:
        reader = bus.subscribe("out", mailbox=1, overflow_timeout=LONG)
        bus.subscribe("s", lambda message: bus.publish("out", message.body) and None, run="thread")
        for body in range(10):
            bus.publish("s", body)

        assert [reader.receive(timeout=WAIT).body for _ in range(10)] == list(range(10))


# --- threads end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_s25_a_stop_ends_all_threads_and_the_next_start_has_new_ones(workers: int) -> None:
    """When the stop returns, the threads have ended, whether they slept or worked; the next start makes new ones."""
    before = set(threading.enumerate())
    threads = Threads()
    bus = Bus()
    subscription = bus.subscribe("s", threads, run="thread", workers=workers)
    idle = bus.subscribe("idle", threads, run="thread", workers=workers)
    for round_ in range(3):
        with running(bus):
            for _ in range(50):
                bus.publish("s")
            bus.publish("idle")
        assert born_since(before) == set()
        assert_conserved(subscription, accepted=50 * (round_ + 1))
        assert_conserved(idle, accepted=round_ + 1)
    assert len(threads.seen["idle"]) == 3


@pytest.mark.parametrize("workers", [1, 3])
def test_s26_unsubscribe_ends_its_threads(workers: int) -> None:
    """The threads of a hundred subscriptions that come and go on a running bus end with them."""
    with running() as bus:
        bus.subscribe("keeps", fine, run="thread")
        bus.publish("keeps")
        bus.drain(WAIT)
        before = set(threading.enumerate())
        for _ in range(100):
            with bus.subscribe("s", fine, run="thread", workers=workers):
                for _ in range(3):
                    bus.publish("s")
                bus.drain(WAIT)
        wait_until(lambda: not born_since(before), "the threads have ended")

        bus.publish("keeps")
        bus.drain(WAIT)


@pytest.mark.parametrize("workers", [1, 3])
def test_s26_unsubscribe_in_its_own_handler_ends_its_threads(workers: int) -> None:
    """The thread that calls `unsubscribe` ends with its handler."""
    before = set(threading.enumerate())
    with running() as bus:
        hold = Hold()

        def handle(message: Message) -> None:
            if message.body == "end":
                subscription.unsubscribe()
            hold(message)

        subscription = bus.subscribe("s", handle, run="thread", workers=workers)
        bus.publish("s", "end")
        hold.wait_started()
        assert born_since(before)
        hold.open()
        wait_until(lambda: not born_since(before), "the threads have ended")
        assert subscription.stats()["acknowledged"] == 1


@pytest.mark.parametrize("workers", [1, 3])
def test_s25_a_stuck_handler_is_abandoned_and_reported_by_its_threads_name(workers: int) -> None:
    """The stop waits no longer than its timeout; later calls of the handler are refused; its thread ends when it returns."""
    before = set(threading.enumerate())
    errors: list[BaseException] = []
    hold = Hold()

    def handle(message: Message, delivery: Delivery) -> None:
        hold(message)
        for call in (lambda: bus.publish("s"), delivery.ack):
            try:
                call()
            except BusClosed as error:
                errors.append(error)

    bus = Bus()
    bus.start()
    subscription = bus.subscribe("s", handle, run="thread", workers=workers, name="stuck")
    for body in range(workers + 2):
        bus.publish("s", body)
    hold.wait_started(workers)
    report = bus.stop(timeout=0.0)

    assert report.left == {"stuck": 2}
    assert len(report.abandoned) == workers
    assert all("stuck" in name for name in report.abandoned)
    hold.open()
    wait_until(lambda: not born_since(before), "the threads have ended")
    assert len(errors) == 2 * workers
    assert len(hold.given) == workers
    assert subscription.stats()["pending"] == workers + 2
    assert_conserved(subscription, accepted=workers + 2)


def test_s25_after_a_stuck_handler_the_bus_can_be_started_again() -> None:
    """The abandoned thread takes nothing from the restarted bus, and a new thread handles what is left."""
    threads = Threads()
    hold = Hold()

    def handle(message: Message) -> None:
        threads(message)
        if message.body == "stuck":
            hold(message)

    bus = Bus()
    bus.start()
    subscription = bus.subscribe("s", handle, run="thread")
    bus.publish("s", "stuck")
    hold.wait_started()
    bus.publish("s", "behind it")
    assert not bus.stop(timeout=0.0).drained
    with running(bus):
        hold.open()
        for _ in range(10):
            bus.publish("s", "new")
        bus.drain(WAIT)

        assert len(threads.seen["s"]) == 2
        assert subscription.stats()["acknowledged"] == 12


def test_s26_a_subscription_may_come_while_the_bus_runs_and_its_name_be_used_again() -> None:
    """Four threads subscribe, publish and unsubscribe under one name in turn: every accepted message is handled."""
    handled: list[int] = []
    turn = threading.Lock()

    def come_and_go(me: int) -> None:
        for _ in range(25):
            with turn, bus.subscribe("s", lambda message: handled.append(message.body), run="thread", name="one") as one:
                bus.publish("s", me)
                wait_until(lambda: one.stats()["acknowledged"] == 1, "it is handled")

    with hasty_threads(), running() as bus:
        for thread in [InThread(come_and_go, me) for me in range(4)]:
            thread.result()

    assert sorted(handled) == sorted([me for me in range(4) for _ in range(25)])


def test_s26_unsubscribe_in_its_own_handler_ends_the_other_threads_and_waits_for_none() -> None:
    """A thread that unsubscribes does not wait for itself, and its message is acknowledged."""
    hold = Hold()

    def handle(message: Message) -> None:
        hold(message)
        if message.body == "end":
            subscription.unsubscribe()

    with running() as bus:
        subscription = bus.subscribe("s", handle, run="thread", workers=2)
        bus.publish("s")
        bus.publish("s")
        hold.wait_started(2)
        hold.open()
        bus.drain(WAIT)
        bus.publish("s", "end")
        bus.drain(WAIT)

        assert (subscription.stats()["acknowledged"], subscription.stats()["dead"]) == (3, 0)


def test_s25_a_bus_with_threads_that_never_started_stops_at_once() -> None:
    """If nothing was published, the stop has nothing to report."""
    bus = Bus()
    bus.subscribe("s", fine, run="thread")
    bus.start()

    assert bus.stop(timeout=WAIT) == StopReport(drained=True)


def test_s11_only_handlers_run_on_threads() -> None:
    """A subscription without a handler is read with receive(), so it takes no `run`."""
    with pytest.raises(SubscriptionError, match="run='thread'"):
        Bus().subscribe("s", run="thread")

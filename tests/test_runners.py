"""The pool's wake-up chain, step by step: a worker that others rely on always wakes the next."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from flow_helpers import LONG, WAIT, Ear, Hold, running, wait_until
from pipebus import Bus, Message
from pipebus.bus.bus import engine_of
from pipebus.clock import SYSTEM
from pipebus.events import Starved
from pipebus.running.pool import Pool
from pipebus.running.worker import Worker
from pipebus.testing import FakeClock


@pytest.fixture
def pool() -> Pool:
    pool = Pool(size=3, clock=SYSTEM, name="pool", starved=lambda ready, workers: None)
    pool.start()
    return pool


def on_its_way(pool: Pool) -> Worker:
    """A worker that a submit has woken and that has not looked yet. (Its thread is not started: the test takes its steps.)"""
    worker = Worker(pool, 1)
    pool.workers[worker] = None
    pool.waking = worker.woken = True
    return worker


def test_a_woken_worker_whose_mailbox_another_took_wakes_the_next_all_the_same(pool: Pool) -> None:
    """Two submits relied on the worker, so it takes one mailbox and wakes another worker for the other."""
    worker = on_its_way(pool)
    later: list[Any] = ["second", "third"]
    pool.ready.extend(later)  # its own was taken by a worker that was awake; these came while it was on its way

    assert pool.sleep(worker) is True
    assert worker.woken, "it would work on `second` and leave `third` to nobody"


def test_a_worker_that_turns_back_before_it_sleeps_wakes_the_next(pool: Pool) -> None:
    """A worker looks again after it has joined the sleepers, and finds the mailboxes that came in between."""

    class Late(list[Any]):
        """Mailboxes that come between the first look and the second."""

        looks = 0

        def __bool__(self) -> bool:
            self.looks += 1
            return self.looks > 1

    worker = on_its_way(pool)
    pool.ready = Late(["second", "third"])  # type: ignore[assignment]

    assert pool.sleep(worker) is True
    assert worker.woken
    assert pool.sleepers == []
    assert not pool.waking


def test_a_worker_that_finds_nothing_is_on_its_way_no_longer(pool: Pool) -> None:
    """The next submit therefore wakes a worker. (A worker of a pool that stops ends instead of going to sleep.)"""
    worker = on_its_way(pool)
    pool.stopping = True

    assert pool.sleep(worker) is False
    assert not pool.waking
    assert worker not in pool.workers


def test_a_thread_that_has_come_back_from_a_wait_ends_instead_of_being_one_too_many() -> None:
    """pool=1: while its substitute is in a handler, the worker that waited for room finishes its own and takes nothing more."""
    threads: list[threading.Thread] = []
    with running(Bus(pool=1)) as bus:
        full = bus.subscribe("full", mailbox=1, overflow_timeout=LONG)
        bus.publish("full")

        def wait_for_room(message: Message) -> None:
            threads.append(threading.current_thread())
            bus.publish("full")

        substitute, later = Hold(), Hold(open=True)
        bus.subscribe("waits", wait_for_room)
        bus.subscribe("substitute", substitute)
        bus.subscribe("later", later)
        bus.publish("waits")
        bus.publish("substitute")
        substitute.wait_started()
        bus.publish("later")
        full.receive(timeout=WAIT)
        threads[0].join(WAIT)

        assert not threads[0].is_alive()
        assert later.given == [], "two handlers would run at a time"
        substitute.open()
        later.wait_started()


def test_a_wait_on_a_thread_of_its_own_lends_no_slot_of_the_pool() -> None:
    """pool=1: a handler with run="thread" waits for room, and the pool's one worker is still all that the pool has."""
    clock = FakeClock()
    with running(Bus(pool=1, clock=clock)) as bus:
        ear = Ear(bus)
        full = bus.subscribe("full", mailbox=1, overflow_timeout=LONG)
        bus.publish("full")
        bus.subscribe("waits", lambda message: bus.publish("full") and None, run="thread")
        bus.publish("waits")
        clock.wait_until_waited_for()
        busy, later = Hold(), Hold(open=True)
        bus.subscribe("busy", busy)
        bus.subscribe("later", later)
        bus.publish("busy")
        busy.wait_started()
        bus.publish("later")

        assert [event.workers for event in ear.of(Starved)] == [1]
        full.receive(timeout=WAIT)


def test_a_thread_that_was_abandoned_ends_with_its_handler_also_if_the_bus_runs_again() -> None:
    """A stop gave it up: when its handler returns, the started bus has workers of its own and no use for it."""
    threads: list[threading.Thread] = []
    stuck = Hold()

    def handle(message: Message) -> None:
        threads.append(threading.current_thread())
        stuck(message)

    bus = Bus(pool=1)
    subscription = bus.subscribe("s", handle)
    bus.start()
    bus.publish("s")
    stuck.wait_started()
    assert bus.stop(timeout=0.0).abandoned == (threads[0].name,)
    with running(bus):
        stuck.open()
        threads[0].join(WAIT)

        assert not threads[0].is_alive()
        bus.publish("s")
        bus.drain(WAIT)
        assert len(set(threads)) == 2
        assert subscription.stats()["acknowledged"] == 2


def test_a_pool_says_once_that_it_starves_until_it_has_had_nothing_to_do() -> None:
    """A handler for its one worker: nothing. Two more subscriptions are ready: one `Starved`. After a rest: one more."""
    with running(Bus(pool=1)) as bus:
        ear = Ear(bus)
        hold = Hold()
        for number in range(3):
            bus.subscribe(f"s.{number}", hold)
        bus.publish("s.0")
        hold.wait_started()
        assert ear.of(Starved) == []
        bus.publish("s.1")
        bus.publish("s.2")

        assert [(event.ready, event.workers) for event in ear.of(Starved)] == [(1, 1)]
        hold.open()
        bus.drain(WAIT)
        wait_until(lambda: bool(engine_of(bus).pool.sleepers), "its worker has nothing to do")
        again = Hold()
        bus.subscribe("again", again)
        bus.subscribe("again", again)
        bus.publish("again")

        assert len(ear.wait_for(Starved, 2)) == 2


def test_an_entry_that_comes_after_the_stop_is_taken_out_again_on_no_new_thread() -> None:
    """A publisher that was put to sleep just before it called a worker: when the pool has stopped, none is made for it."""

    class Entry:
        """A mailbox that has closed and has nothing to begin with."""

        begun_by: list[threading.Thread]

        def __init__(self) -> None:
            self.begun_by = []

        def begin(self, worker: object) -> None:
            self.begun_by.append(threading.current_thread())

    pool = Pool(size=1, clock=SYSTEM, name="pool", starved=lambda ready, workers: None)
    pool.start()
    assert pool.stop(WAIT) == []
    entry: Any = Entry()
    pool.submit(entry)

    assert entry.begun_by == [threading.current_thread()]
    assert not pool.ready

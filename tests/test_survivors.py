"""
Promises that no other test looks at: each of these was written for a change to the source that all others had let pass,
at least when each was run alone.
"""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import LONG, WAIT, Ear, Hold, InThread, fine, running, wait_until
from pipebus import (
    Around,
    Bus,
    BusClosed,
    DrainTimeout,
    Dropped,
    Message,
    PipelineError,
    Receipt,
    around,
    when,
)
from pipebus.clock import SYSTEM
from pipebus.events import Starved
from pipebus.filters import Reroute, Timeout
from pipebus.message.subject import Pattern, PatternTree
from pipebus.running.runners import Pool
from pipebus.testing import FakeClock
from pipebus.transports.opening import TRANSPORTS

# --- the pool ----------------------------------------------------------------------------------------------------------


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
        wait_until(lambda: bool(bus.pool.sleepers), "its worker has nothing to do")
        again = Hold()
        bus.subscribe("again", again)
        bus.subscribe("again", again)
        bus.publish("again")

        assert len(ear.wait_for(Starved, 2)) == 2


def test_unsubscribe_in_its_own_handler_ends_the_other_threads_and_waits_for_none() -> None:
    """Of two threads one unsubscribes: it does not wait for itself, and its message is acknowledged."""
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


def test_an_entry_that_comes_after_the_stop_is_taken_out_again_on_no_new_thread() -> None:
    """A publisher that was put to sleep just before it called a worker: when the pool has stopped, none is made for it."""

    class Entry:
        """A mailbox that has closed: it has nothing to begin with."""

        begun_by: list[threading.Thread]

        def __init__(self) -> None:
            self.begun_by = []

        def begin(self) -> None:
            self.begun_by.append(threading.current_thread())

    pool = Pool(size=1, clock=SYSTEM, name="pool", starved=lambda ready, workers: None)
    pool.start()
    assert pool.stop(WAIT) == []
    entry: Any = Entry()
    pool.submit(entry)

    assert entry.begun_by == [threading.current_thread()]
    assert not pool.ready


# --- a full mailbox ----------------------------------------------------------------------------------------------------


def test_a_place_that_was_promised_and_not_taken_goes_to_who_stands_behind() -> None:
    """A publish on the bus's loop was promised room, and its filter drops it: the next in line is admitted, and handled."""

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


def test_a_publish_that_a_stop_overtakes_is_refused_also_after_earlier_stops() -> None:
    """Mailboxes that were at rest when the bus stopped share what they know of that; opening one again changes no other."""
    reached, go_on = threading.Event(), threading.Event()

    def hold_up(message: Message, call_next: Any) -> Any:
        reached.set()
        assert go_on.wait(WAIT)
        return call_next(message)

    bus = Bus()
    bus.use(hold_up)
    before = bus.subscribe("before", fine)
    with running(bus):
        pass
    with running(bus):
        before.unsubscribe()
        late = bus.subscribe("s", fine)
        publish = InThread(bus.publish, "s")
        assert reached.wait(WAIT)
        bus.stop(timeout=WAIT)
        go_on.set()

        with pytest.raises(BusClosed):
            publish.result()
        assert late.stats()["accepted"] == 0


@pytest.mark.parametrize("run", ["pool", "thread", "loop"])
def test_a_publish_that_is_sent_on_to_who_subscribed_after_the_stop_is_refused(run: Any) -> None:
    """It stands in a filter while the bus stops, and is then rerouted: refused, and the subscription works after a start."""
    reached, go_on = threading.Event(), threading.Event()

    def hold_up(message: Message, call_next: Any) -> Any:
        reached.set()
        assert go_on.wait(WAIT)
        return call_next(message)

    bus = Bus()
    bus.use(hold_up, Reroute(lambda message: "t"))
    with running(bus):
        publish = InThread(bus.publish, "s", "late")
        assert reached.wait(WAIT)
    handled = Hold(open=True)
    subscription = bus.subscribe("t", handled, run=run)
    go_on.set()

    with pytest.raises(BusClosed):
        publish.result()
    assert subscription.stats()["accepted"] == 0
    with running(bus):
        bus.publish("s", "next")
        bus.drain(WAIT)
        assert handled.given == ["next"]


def test_a_pause_while_the_bus_is_stopped_pauses_no_other() -> None:
    """Mailboxes that were at rest share what they know of the stop; a change to one makes it a state of its own."""
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


# --- waiting for quiet -------------------------------------------------------------------------------------------------


def test_a_drain_on_a_loop_gives_up_at_the_very_moment_that_its_time_is_over() -> None:
    """A clock that stands still, and no time: told at once, not at the next tick."""
    with running(Bus(clock=FakeClock())) as bus:
        hold = Hold()
        bus.subscribe("s", hold)
        bus.publish("s")
        hold.wait_started()

        async def drain() -> None:
            async with asyncio.timeout(WAIT):
                with pytest.raises(DrainTimeout):
                    await bus.adrain(0.0)

        asyncio.run(drain())


def test_a_drain_on_a_loop_waits_for_what_the_transport_still_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is on its way, and nothing of it has come to a mailbox: not drained, on a loop as on a thread."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "transports")
    monkeypatch.setitem(TRANSPORTS, "bytes", "byte_transport:ByteTransport.from_url")
    bus = Bus("bytes:?delay=yes")
    bus.subscribe("s", fine, name="s")
    bus.start()
    try:
        bus.publish("s", delay=LONG)
        with pytest.raises(DrainTimeout):
            bus.drain(0.0)
        with pytest.raises(DrainTimeout):
            asyncio.run(bus.adrain(0.0))
    finally:
        bus.stop(timeout=WAIT, drain=False)


# --- filters -----------------------------------------------------------------------------------------------------------


@around
def of_two(message: Message, call_next: Any) -> Any:
    yield message


class OfNothing(Around):
    def around(self) -> Any:  # type: ignore[override]
        yield


@pytest.mark.parametrize(
    ("filter", "takes"),
    [(of_two, r"of_two .* takes \(message: .*, call_next: .*\)"), (OfNothing(), r"OfNothing .* takes \(\)")],
)
def test_an_around_of_another_form_is_refused_where_it_is_registered(filter: Around, takes: str) -> None:
    """A generator of more than the message, or of nothing, could only fail with each message: told at `use`."""
    with pytest.raises(PipelineError, match=f"filter {takes}.*; its form is around\\(message\\)"):
        Bus().use(filter)


def test_a_publish_through_a_timeout_is_refused_on_a_running_loop() -> None:
    """A sync chain that bounds its rest's time waits for it, and would stop the loop for as long."""
    bus = Bus()
    bus.use(Timeout(LONG, abandon=True))
    reader = bus.subscribe("s")

    async def main() -> Any:
        return bus.publish("s")

    with running(bus):
        with pytest.raises(PipelineError, match=r"filter Timeout may wait.*apublish"):
            asyncio.run(main())
        assert reader.stats()["accepted"] == 0


def test_a_timeout_around_a_plain_handler_on_a_loop_is_refused() -> None:
    """It would wait on the loop's thread for the handler, and nothing else could run there."""
    with pytest.raises(PipelineError, match=r"filter Timeout .* may wait, and would stop the event loop"):
        Bus().subscribe("s", fine, run="loop", filters=[Timeout(LONG, abandon=True)])


# --- subjects ----------------------------------------------------------------------------------------------------------


def test_a_pattern_that_is_taken_out_leaves_no_empty_branch() -> None:
    """Subjects that come and go for ever leave nothing behind in the index, and a neighbour keeps what it needs."""

    def branches() -> int:
        """How many trees the index is made of."""
        count, met = 0, [index]
        while met:
            found: Any = met.pop()
            count += isinstance(found, PatternTree)
            met += [held for held in gc.get_referents(found) if isinstance(held, (dict, PatternTree))]
        return count

    index: PatternTree[Any] = PatternTree()
    index.add(Pattern("a.kept.*"), "kept")
    kept = branches()
    for number in range(10):
        index.add(Pattern(f"a.{number}.*"), "gone")
    for number in range(10):
        assert index.remove(Pattern(f"a.{number}.*"), "gone")

    assert branches() == kept == 4
    assert list(index.match("a.kept.b")) == ["kept"]

"""
Guarantees 25 and 27: starting, draining, stopping and starting again, from any thread or task; no accepted message is lost, and
nothing runs afterwards.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flow_helpers import (
    LONG,
    WAIT,
    Boom,
    DropAll,
    Ear,
    Hold,
    InThread,
    assert_conserved,
    bus_of,
    every_road,
    every_way,
    fine,
    publish,
    running,
    wait_until,
)
from loop_helpers import POOL, THREAD, Way, ways
from pipebus import (
    AlreadySettled,
    Bus,
    BusClosed,
    BusNotStarted,
    Delivery,
    DrainTimeout,
    LifecycleError,
    Message,
    Receipt,
    StopReport,
    Transform,
    around,
    transform,
    when,
)
from pipebus.bus.bus import engine_of
from pipebus.events import Event, Published, StateChanged, Taken
from pipebus.filters import Reroute
from pipebus.testing import FakeClock, Harness
from pipebus.transports.opening import TRANSPORTS

workers = pytest.mark.parametrize("workers", [1, 2], ids=["one-worker", "two-workers"])


# --- leaving the block drains ------------------------------------------------------------------------------------------


@every_road
@workers
def test_s25_leaving_the_block_drains_and_then_nothing_runs(workers: int, road: str) -> None:
    """When the `with` block is left, every accepted message has been handled, the bus has stopped, and no handler runs."""
    hold = Hold(open=True)
    with bus_of(road) as bus:
        subscription = bus.subscribe("s", hold, workers=workers)
        for body in range(500):
            bus.publish("s", body)

    assert sorted(hold.given) == list(range(500))
    assert bus.state == "stopped"
    assert subscription.stats()["acknowledged"] == 500
    assert bus.stop() == StopReport(drained=True)


def test_s25_async_with_drains_too() -> None:
    """`async with` does the same on an event loop, without blocking the loop."""
    hold = Hold(open=True)

    async def main() -> Bus:
        async with Bus() as bus:
            bus.subscribe("s", hold)
            for body in range(100):
                await bus.apublish("s", body)
        return bus

    bus = asyncio.run(main())

    assert hold.given == list(range(100))
    assert bus.state == "stopped"


def test_s25_handlers_may_publish_while_the_bus_drains_and_outsiders_may_not() -> None:
    """A chain of handlers finishes what it began; a publisher from outside is refused."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        first, last = Hold(), Hold(open=True)

        def pass_on(message: Message) -> None:
            first(message)
            assert bus.publish("second", message.body) == Receipt(1)

        bus.subscribe("first", pass_on)
        bus.subscribe("second", lambda message: bus.publish("third", message.body))
        bus.subscribe("third", last)
        for body in range(10):
            bus.publish("first", body)
        first.wait_started()
        stop = InThread(bus.stop, WAIT)
        ear.wait_for(StateChanged, 2)  # started, draining
        assert bus.state == "draining"

        with pytest.raises(BusClosed):
            bus.publish("first", "from outside")
        with pytest.raises(BusClosed):
            bus.subscribe("first", fine)
        with pytest.raises(LifecycleError):
            bus.start()
        first.open()

        assert stop.result() == StopReport(drained=True)
        assert last.given == list(range(10))


@every_way
@every_road
def test_s25_outsiders_are_refused_while_it_drains_and_after_it_stopped(road: str, way: Any) -> None:
    """However the message is published, `BusClosed` is raised and no mailbox gets it."""
    bus = bus_of(road)
    ear = Ear(bus)
    with running(bus):
        hold = Hold()
        subscription = bus.subscribe("s", hold)
        bus.publish("s", "before")
        hold.wait_started()
        stop = InThread(bus.stop, WAIT)
        ear.wait_for(StateChanged, 2)

        with pytest.raises(BusClosed, match="stopping"):
            way(bus, "s", "while draining")
        hold.open()
        stop.result()
        with pytest.raises(BusClosed, match="stopped"):
            way(bus, "s", "after the stop")

        assert hold.given == ["before"]
        assert_conserved(subscription, accepted=1)


@every_way
@every_road
def test_s27_publish_before_start_raises(road: str, way: Any) -> None:
    """Publishing on a bus that was never started raises an error that says what to do."""
    bus = bus_of(road)
    subscription = bus.subscribe("s")

    with pytest.raises(BusNotStarted, match="start"):
        way(bus, "s")

    assert_conserved(subscription, accepted=0)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_s25_a_publisher_whose_chain_is_cut_off_by_a_stop_is_told_so(colour: str) -> None:
    """If the bus stops while a slow filter has the message, the publisher gets BusClosed, and no mailbox has the message."""
    passing, go_on = threading.Event(), threading.Event()

    def plain(message: Message, call_next: Any) -> Any:
        passing.set()
        assert go_on.wait(WAIT)
        return call_next(message)

    async def asynchronous(message: Message, call_next: Any) -> Any:
        passing.set()
        await asyncio.Event().wait()
        return await call_next(message)

    bus = Bus()
    bus.use({"sync": plain, "async": asynchronous}[colour])
    with running(bus):
        subscription = bus.subscribe("s", fine)
        publisher = InThread(bus.publish, "s")
        assert passing.wait(WAIT)
        assert bus.stop(timeout=WAIT).left == {}
        go_on.set()

        with pytest.raises(BusClosed):
            publisher.result()
        assert_conserved(subscription, accepted=0)


def test_s25_draining_ends_when_handlers_stop_publishing_or_time_runs_out() -> None:
    """A handler that feeds itself forever does not keep the bus from stopping."""
    with running(Bus(max_hops=sys.maxsize), drain=False) as bus:

        def for_ever(message: Message) -> None:
            bus.publish("endless")

        subscription = bus.subscribe("endless", for_ever, name="endless")
        bus.publish("endless")

        report = bus.stop(timeout=0.05)

        assert not report.drained
        assert bus.state == "stopped"
        assert_conserved(subscription)


def test_s25_a_long_handler_can_see_that_the_bus_is_stopping() -> None:
    """A long handler may read `bus.stopping` and end early."""
    started = threading.Event()

    def long(message: Message) -> None:
        assert not bus.stopping
        started.set()
        while not bus.stopping:
            sum(range(100))

    with running() as bus:
        subscription = bus.subscribe("s", long)
        bus.publish("s")
        assert started.wait(WAIT)

        assert bus.stop(timeout=WAIT) == StopReport(drained=True)

        assert bus.stopping
        assert subscription.stats()["acknowledged"] == 1


# --- stop is idempotent ------------------------------------------------------------------------------------------------


def test_s25_ten_threads_may_stop_the_bus_at_once() -> None:
    """The bus stops once, and all threads get the same report when it has stopped."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        hold = Hold()
        bus.subscribe("s", hold)
        for body in range(10):
            bus.publish("s", body)
        hold.wait_started()
        barrier = threading.Barrier(10)

        def stop() -> StopReport:
            barrier.wait(WAIT)
            return bus.stop(timeout=WAIT)

        stopping = [InThread(stop) for _ in range(10)]
        ear.wait_for(StateChanged, 2)
        hold.open()
        reports = [each.result() for each in stopping]

        assert reports == [StopReport(drained=True)] * 10
        assert bus.stop() == StopReport(drained=True)
        assert [event.new for event in ear.of(StateChanged)] == ["started", "draining", "stopped"]
        assert hold.given == list(range(10))


def test_s25_stopping_what_never_started_is_fine() -> None:
    """The stop has nothing to do, and the bus can be started afterwards."""
    bus = Bus()
    assert bus.stop() == StopReport()
    assert bus.state == "new"

    with running(bus):
        assert not bus.stopping
        assert bus.publish("nobody.listens") == Receipt(0)


def test_s25_starting_twice_is_fine() -> None:
    """`start` on a started bus changes nothing."""
    with running() as bus:
        hold = Hold(open=True)
        bus.subscribe("s", hold)
        bus.publish("s", 1)
        bus.start()
        bus.publish("s", 2)
        bus.drain(WAIT)

        assert hold.given == [1, 2]


# --- stop from inside only requests ------------------------------------------------------------------------------------

Inside = Callable[[Bus, Callable[[], None]], None]


def in_a_handler(bus: Bus, stop: Callable[[], None]) -> None:
    bus.subscribe("s", lambda message: stop())


def in_a_handler_of_two_workers(bus: Bus, stop: Callable[[], None]) -> None:
    bus.subscribe("s", lambda message: stop(), workers=2)


def in_a_plain_publish_filter(bus: Bus, stop: Callable[[], None]) -> None:
    bus.use(lambda message, call_next: (stop(), call_next(message))[1])


def in_an_async_publish_filter(bus: Bus, stop: Callable[[], None]) -> None:
    async def stopper(message: Message, call_next: Any) -> Any:
        stop()
        return await call_next(message)

    bus.use(stopper)


def in_a_transform(bus: Bus, stop: Callable[[], None]) -> None:
    @bus.use
    @transform
    def stopper(message: Message) -> Message:
        stop()
        return message


def in_an_around(bus: Bus, stop: Callable[[], None]) -> None:
    @bus.use
    @around
    def stopper(message: Message) -> Any:
        yield message
        stop()


def in_a_predicate(bus: Bus, stop: Callable[[], None]) -> None:
    bus.use(when(lambda message: stop(), DropAll()))


def in_a_delivery_filter(bus: Bus, stop: Callable[[], None]) -> None:
    bus.subscribe("s", fine, filters=[lambda message, call_next: (stop(), call_next(message))[1]])


def in_an_observer_of_the_publisher(bus: Bus, stop: Callable[[], None]) -> None:
    bus.observe(lambda event: stop() if isinstance(event, Published) else None)


def in_an_observer_of_a_worker(bus: Bus, stop: Callable[[], None]) -> None:
    bus.observe(lambda event: stop() if isinstance(event, Taken) else None)


INSIDES: list[Inside] = [
    in_a_handler,
    in_a_handler_of_two_workers,
    in_a_plain_publish_filter,
    in_an_async_publish_filter,
    in_a_transform,
    in_an_around,
    in_a_predicate,
    in_a_delivery_filter,
    in_an_observer_of_the_publisher,
    in_an_observer_of_a_worker,
]


@every_way
@pytest.mark.parametrize("inside", INSIDES, ids=[inside.__name__ for inside in INSIDES])
def test_s25_stop_from_inside_only_requests(inside: Inside, way: Any) -> None:
    """In a handler, filter or observer, `stop` returns at once instead of waiting for itself, and the message gets through."""
    found: list[tuple[StopReport, str, bool]] = []

    def stop() -> None:
        report = bus.stop(timeout=WAIT)
        found.append((report, bus.state, bus.stopping))

    bus = Bus()
    inside(bus, stop)
    with running(bus):
        hold = Hold(open=True)
        bus.subscribe("s", hold)

        assert way(bus, "s", 1)
        bus.drain(WAIT)

        assert found == [(StopReport(drained=False), "started", True)]
        assert hold.given == [1]
        assert bus.stop(timeout=WAIT) == StopReport(drained=True)


def test_s25_an_observer_may_ask_for_a_stop_while_the_bus_stops() -> None:
    """An observer that calls `stop` when it hears "draining" or "stopped" makes nobody wait forever."""
    bus = Bus()

    @bus.observe
    def eager(event: Event) -> None:
        if isinstance(event, StateChanged) and event.new != "started":
            bus.stop(timeout=WAIT)

    bus.start()

    assert InThread(bus.stop, WAIT).result() == StopReport(drained=True)


def test_s25_no_lock_is_held_while_an_observer_hears_of_a_change() -> None:
    """While an observer handles a change of state, another thread can change the bus, for instance end a subscription."""
    bus = Bus()
    subscriptions = [bus.subscribe("s", fine) for _ in range(3)]
    ended: list[str] = []

    @bus.observe
    def curious(event: Event) -> None:
        if isinstance(event, StateChanged):
            InThread(subscriptions[len(ended)].unsubscribe).result()
            ended.append(event.new)

    with running(bus):
        bus.stop(timeout=WAIT)

    assert ended == ["started", "draining", "stopped"]


# --- an error, or impatience: stop without draining --------------------------------------------------------------------


@workers
def test_s25_an_error_that_leaves_the_block_stops_without_draining(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    """The error propagates, running handlers may finish, and the log and `stop` report what is left."""
    hold = Hold()
    error = Boom("the program has failed")
    bus = Bus()
    ear = Ear(bus)
    with caplog.at_level(logging.WARNING, logger="pipebus"), pytest.raises(Boom) as caught, bus:  # noqa: PT012
        subscription = bus.subscribe("s", hold, name="billing", workers=workers)
        for body in range(10):
            bus.publish("s", body)
        hold.wait_started(workers)
        opener = InThread(lambda: (ear.wait_for(StateChanged, 3), hold.open()))  # once it has stopped
        raise error
    opener.result()

    assert caught.value is error
    assert sorted(hold.given) == list(range(workers))
    assert bus.stop() == StopReport(drained=False, left={"billing": 10 - workers})
    assert subscription.stats()["acknowledged"] == workers
    assert_conserved(subscription, accepted=10)
    (line,) = [record.getMessage() for record in caplog.records if "bus.stopped_early" in record.getMessage()]
    assert f"'billing': {10 - workers}" in line


def test_s25_a_clean_stop_logs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """If nothing is left over, the bus logs no warning."""
    with caplog.at_level(logging.WARNING, logger="pipebus"), running() as bus:
        bus.subscribe("s", fine)
        bus.publish("s")

    assert caplog.records == []


def test_s25_the_report_counts_what_is_left_by_subscription() -> None:
    """The report counts messages that are paused, unread, delayed or set aside behind a key."""
    with running(Bus(clock=FakeClock()), drain=False) as bus:
        paused = bus.subscribe("s", fine, name="paused")
        paused.pause()
        bus.subscribe("s", name="unread")
        done = bus.subscribe("s", fine, name="done")
        bus.publish("s", 1)
        bus.publish("s", 2)
        bus.subscribe("later", fine, name="delayed")
        bus.publish("later", delay=LONG)
        wait_until(lambda: done.stats()["acknowledged"] == 2, "both are handled")

        report = bus.stop(timeout=WAIT, drain=False)

        assert report.left == {"paused": 2, "unread": 2, "delayed": 1}


@pytest.mark.parametrize("reader", ["paused", "unread"])
def test_s25_what_nobody_will_handle_does_not_keep_a_bus_from_having_drained(reader: str) -> None:
    """A drain reports paused subscriptions and unread mailboxes, and does not wait for them."""
    with running() as bus:
        subscription = bus.subscribe("s", fine if reader == "paused" else None, name=reader)
        subscription.pause()
        bus.publish("s")
        bus.drain(timeout=0)

        assert bus.stop(timeout=WAIT) == StopReport(drained=True, left={reader: 1})


# --- a handler that does not end ---------------------------------------------------------------------------------------


@workers
def test_s25_a_stuck_handler_is_abandoned_and_reported(workers: int) -> None:
    """After the timeout the bus stops without the handler, names its thread, and keeps the messages that it could not start."""
    with running(drain=False) as bus:
        hold = Hold()
        subscription = bus.subscribe("s", hold, name="stuck", workers=workers)
        for body in range(5):
            bus.publish("s", body)
        hold.wait_started(workers)

        report = bus.stop(timeout=0.05)

        assert bus.state == "stopped"
        assert not report.drained
        assert len(report.abandoned) == workers
        alive = {thread.name: thread for thread in threading.enumerate()}
        assert all(alive[name].daemon for name in report.abandoned)
        assert report.left == {"stuck": 5 - workers}
        assert_conserved(subscription, accepted=5)


@workers
@pytest.mark.parametrize("verb", ["ack", "retry", "reject"])
def test_s25_what_an_abandoned_handler_does_later_is_refused(verb: str, workers: int) -> None:
    """Publishes and settlements of an abandoned handler raise BusClosed."""
    go_on, ended = threading.Event(), threading.Event()
    started = threading.Event()
    errors: list[str] = []

    def stuck(message: Message, delivery: Delivery) -> None:
        started.set()
        assert go_on.wait(WAIT)
        late = {"ack": delivery.ack, "retry": delivery.retry, "reject": lambda: delivery.reject("late")}
        for call in (lambda: publish(bus, "other"), late[verb]):
            try:
                call()
            except BusClosed as error:
                errors.append(type(error).__name__)
            except AlreadySettled:
                errors.append("settled")
        ended.set()

    with running(drain=False) as bus:
        other = bus.subscribe("other")
        subscription = bus.subscribe("s", stuck, workers=workers)
        bus.publish("s")
        assert started.wait(WAIT)
        assert len(bus.stop(timeout=0.01).abandoned) == 1
        go_on.set()
        assert ended.wait(WAIT)

        assert errors == ["BusClosed", "BusClosed"]
        assert_conserved(other, accepted=0)
        assert_conserved(subscription, accepted=1)
        assert len(bus.dead_letters) == 0


@workers
def test_s25_after_a_stuck_handler_the_bus_can_be_started_again(workers: int) -> None:
    """After the next start other messages are handled, even while the old handler is still stuck."""
    with running(drain=False) as bus:
        stuck, free = Hold(), Hold(open=True)
        used = iter([stuck])

        def handle(message: Message) -> None:
            next(used, free)(message)

        bus.subscribe("s", handle, workers=workers)
        other = bus.subscribe("other", free)
        bus.publish("s", "stuck")
        stuck.wait_started()
        bus.stop(timeout=0.01)

        bus.start()
        bus.publish("other", "other")
        free.wait_started()
        assert free.given == ["other"]
        stuck.open()
        bus.publish("s", "after")
        free.wait_started()

        assert free.given == ["other", "after"]
        assert_conserved(other, accepted=1)


# --- and on again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["one-worker", "two-workers-one-key", "unread"])
def test_s25_a_restart_delivers_what_was_left_over_in_order(reader: str) -> None:
    """If the bus stops with a full queue, the next start delivers each message once, in order, as its first attempt."""
    attempts: set[int] = set()
    handled: list[int] = []
    hold = Hold()

    def handle(message: Message, delivery: Delivery) -> None:
        hold(message)
        attempts.add(delivery.attempt)
        handled.append(message.body)

    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        workers = 2 if reader == "two-workers-one-key" else 1
        subscription = bus.subscribe("s", None if reader == "unread" else handle, name="late", workers=workers)
        for body in range(10):
            bus.publish("s", body, key="k")
        if reader != "unread":
            hold.wait_started()
        stop = InThread(bus.stop, WAIT, drain=False)
        ear.wait_for(StateChanged, 3)  # started, draining, stopped
        hold.open()
        assert stop.result().left == {"late": 10 if reader == "unread" else 9}

        bus.start()
        bus.publish("s", 10, key="k")
        if reader == "unread":
            handled += [subscription.receive(timeout=0).body for _ in range(11)]
        bus.drain(WAIT)

        assert handled == list(range(11))
        assert attempts == (set() if reader == "unread" else {1})
        assert_conserved(subscription, accepted=11)


@pytest.mark.parametrize("ends", ["well", "by-an-error"])
def test_s25_a_delivery_that_a_stop_took_from_its_reader_comes_again(ends: str) -> None:
    """If the bus stops while somebody reads, the reader's settlement is refused, and the next start has the message."""
    with running(drain=False) as bus:
        subscription = bus.subscribe("s", name="reader")
        bus.publish("s", "x")

        def read() -> None:
            with subscription.delivery(timeout=0):
                bus.stop(timeout=WAIT, drain=False)
                if ends == "by-an-error":
                    raise Boom

        with pytest.raises((BusClosed, Boom)):
            read()
        assert_conserved(subscription, accepted=1)

        bus.start()

        assert subscription.receive(timeout=0).body == "x"
        assert_conserved(subscription, accepted=1)


def test_s25_delayed_messages_survive_a_stop_in_memory(harness: Harness) -> None:
    """The delay continues while the bus is stopped, and after the next start each message comes when it is due."""
    with running(harness.bus) as bus:
        bus.subscribe("s", fine, name="s")
        bus.publish("s", "soon", delay=10.0)
        bus.publish("s", "later", delay=30.0)
        bus.stop(timeout=WAIT, drain=False)
        harness.advance(20.0)
        assert harness.delivered_to("s") == []

        bus.start()

        for seconds, given in ((0, ["soon"]), (9.0, ["soon"]), (1.0, ["soon", "later"])):
            harness.advance(seconds)
            assert [message.body for message in harness.delivered_to("s")] == given


def test_s25_a_pause_outlives_a_restart() -> None:
    """A subscription stays paused until the code that paused it resumes it."""
    with running() as bus:
        hold = Hold(open=True)
        subscription = bus.subscribe("s", hold)
        subscription.pause()
        bus.publish("s", "x")
        bus.stop(timeout=WAIT)
        bus.start()
        assert subscription.paused
        bus.drain(WAIT)
        assert hold.given == []

        subscription.resume()
        bus.drain(WAIT)

        assert hold.given == ["x"]


def test_s25_a_stopped_bus_may_be_changed_before_it_starts_again() -> None:
    """Filters and subscriptions that are added to a stopped bus work from the next start on."""
    with running() as bus:
        hold = Hold(open=True)
        bus.subscribe("s", hold)
        bus.publish("s", 1)
        bus.stop(timeout=WAIT)

        @bus.use
        @transform
        def double(message: Message) -> Message:
            return message.with_body(message.body * 2)

        second = bus.subscribe("s")
        bus.start()
        bus.publish("s", 2)
        bus.drain(WAIT)

        assert hold.given == [1, 4]
        assert second.receive(timeout=0).body == 4


@pytest.mark.parametrize("workers", [1, 3], ids=["one-worker", "three-workers"])
def test_s25_ten_rounds_of_traffic_and_restarts_lose_nothing(workers: int) -> None:
    """The bus stops in full traffic, again and again, and handles each accepted message once, in order for each key."""
    handled: list[int] = []
    accepted: list[int] = []
    numbers = itertools.count()
    bus = Bus()
    subscription = bus.subscribe("s", lambda message: handled.append(message.body), workers=workers)

    def hammer(in_full_traffic: threading.Event) -> None:
        for turn, number in enumerate(numbers):
            try:
                bus.publish("s", number, key=f"k{number % 3}")
            except BusClosed:
                return
            accepted.append(number)
            if turn == 100:
                in_full_traffic.set()

    for _ in range(10):
        in_full_traffic = threading.Event()
        with running(bus, drain=False):
            publisher = InThread(hammer, in_full_traffic)
            assert in_full_traffic.wait(WAIT)
        publisher.result()
    with running(bus):
        bus.drain(WAIT)

    assert sorted(handled) == accepted
    for key in range(3):
        assert [number for number in handled if number % 3 == key] == [number for number in accepted if number % 3 == key]
    assert_conserved(subscription, accepted=len(accepted))


# --- drain -------------------------------------------------------------------------------------------------------------


@workers
def test_s25_drain_waits_for_all_handlers_and_refuses_nobody(workers: int) -> None:
    """Other threads may publish during a drain, which returns when all of that has been handled."""
    with running() as bus:
        hold = Hold()
        subscription = bus.subscribe("s", hold, workers=workers)
        bus.publish("s", "before")
        hold.wait_started()
        draining = InThread(bus.drain, WAIT)
        assert bus.publish("s", "meanwhile") == Receipt(1)
        hold.open()
        draining.result()

        assert subscription.stats()["acknowledged"] == 2
        assert bus.state == "started"


def test_s25_adrain_waits_without_stopping_its_loop() -> None:
    """A coroutine waits for the handlers, and its loop runs meanwhile."""
    with running() as bus:
        hold = Hold()
        subscription = bus.subscribe("s", hold)

        async def main() -> None:
            await bus.apublish("s")
            draining = asyncio.create_task(bus.adrain(WAIT))
            await asyncio.to_thread(hold.wait_started)
            assert not draining.done()
            hold.open()
            await draining

        asyncio.run(main())

        assert subscription.stats()["acknowledged"] == 1


def test_s25_drain_that_runs_out_of_time_says_what_is_missing() -> None:
    """DrainTimeout is a TimeoutError with the number of queued and running messages of each subscription with a handler."""
    with running() as bus:
        hold = Hold()
        bus.subscribe("s", hold, name="slow")
        bus.subscribe("s", fine, name="quick")
        bus.subscribe("s", name="unread")
        for body in range(5):
            bus.publish("s", body)
        hold.wait_started()

        with pytest.raises(DrainTimeout, match="slow: 5") as caught:
            bus.drain(timeout=0.05)

        assert caught.value.pending == {"slow": 5}
        assert isinstance(caught.value, TimeoutError)


@workers
def test_s25_drain_inside_a_handler_raises_at_once(workers: int) -> None:
    """A drain in a handler would wait for that handler, so it raises `LifecycleError`."""
    errors: list[str] = []

    def handle(message: Message) -> None:
        try:
            bus.drain(timeout=LONG)
        except LifecycleError as error:
            errors.append(str(error))

    with running() as bus:
        bus.subscribe("s", handle, workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

    assert len(errors) == 1
    assert "handler" in errors[0]


def test_s25_drain_on_an_idle_bus_returns_at_once() -> None:
    """An idle bus has nothing to wait for, so `drain` returns even with a timeout of zero."""
    with running() as bus:
        bus.subscribe("s", fine)
        bus.drain(timeout=0)

        bus.publish("s")
        bus.drain(WAIT)
        bus.drain(timeout=0)

        assert bus.stats()["accepted"] == 1


# --- request_stop, run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked_by", ["another-thread", "handler", "handler-calls-stop"])
def test_s25_run_goes_on_until_somebody_asks_for_a_stop(asked_by: str) -> None:
    """`bus.run()` starts, waits, drains and stops; `request_stop` ends it, from anywhere."""
    bus = Bus()
    ear = Ear(bus)
    hold = Hold(open=True)

    def handle(message: Message) -> None:
        hold(message)
        if message.body == 4:
            {"handler": bus.request_stop, "handler-calls-stop": bus.stop}.get(asked_by, lambda: None)()

    bus.subscribe("s", handle)
    run = InThread(bus.run, WAIT)
    ear.wait_for(StateChanged)
    for body in range(5):
        bus.publish("s", body)
    if asked_by == "another-thread":
        assert run.running
        bus.request_stop()

    assert run.result() == StopReport(drained=True)
    assert hold.given == list(range(5))
    assert bus.state == "stopped"


def test_s25_request_stop_stops_nothing_by_itself() -> None:
    """It only asks: `bus.stopping` becomes true, and the bus continues to work until somebody stops it."""
    with running() as bus:
        hold = Hold(open=True)
        bus.subscribe("s", hold)
        assert not bus.stopping

        bus.request_stop("tired")

        assert (bus.stopping, bus.state) == (True, "started")
        bus.publish("s", "still handled")
        bus.drain(WAIT)
        assert hold.given == ["still handled"]


# --- filters, threads, descriptors -------------------------------------------------------------------------------------


def test_s25_a_filter_that_cannot_stop_is_reported_and_keeps_no_other_from_stopping() -> None:
    """The bus calls the `stop` of each filter, and the report contains what one of them raised."""
    stopped: list[str] = []

    class Resource(Transform):
        def __init__(self, name: str, error: Exception | None = None) -> None:
            self.name = name
            self.error = error

        def transform(self, message: Message) -> Message:
            return message

        def stop(self) -> None:
            stopped.append(self.name)
            if self.error is not None:
                raise self.error

    bus = Bus()
    bus.use(Resource("first"), Resource("second", Boom("will not close")), Resource("third"))
    bus.start()
    report = bus.stop(timeout=WAIT)

    assert stopped == ["third", "second", "first"]
    assert len(report.errors) == 1
    assert "Boom: will not close" in report.errors[0]


def test_s25_no_thread_and_no_descriptor_outlives_a_stop() -> None:
    """A bus that starts, works and stops 200 times leaves no new thread and no new open file."""

    async def asynchronous(message: Message, call_next: Any) -> Any:
        return await call_next(message)

    def cycle() -> None:
        bus = Bus()
        bus.use(asynchronous)  # the bus's own loop
        hold = Hold(open=True)
        bus.subscribe("s", hold, workers=3)
        reader = bus.subscribe("s")
        with bus:
            waiting = InThread(reader.receive, timeout=WAIT)
            bus.publish("s", 1)
            bus.publish("s", 2, delay=0.0001)  # the timer
            waiting.result()
        assert sorted(hold.given) == [1, 2]

    cycle()
    threads = threading.active_count()
    files = len(os.listdir("/proc/self/fd"))

    for _ in range(200):
        cycle()

    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files


def test_s25_an_idle_bus_has_no_threads() -> None:
    """Threads start when there is work, so a thousand silent subscribers have none."""
    before = threading.active_count()
    with running() as bus:
        for number in range(1_000):
            bus.subscribe(f"s.{number}", fine)
        assert threading.active_count() == before

        bus.publish("s.1")
        bus.drain(WAIT)
        assert threading.active_count() == before + 1

    assert threading.active_count() == before


def test_s25_a_publish_that_a_stop_overtakes_is_refused_also_after_earlier_stops() -> None:
    """Mailboxes that are at rest share their closed state; opening one of them again changes no other."""
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
def test_s25_a_publish_that_is_sent_on_to_who_subscribed_after_the_stop_is_refused(run: Any) -> None:
    """A message that is in a filter during the stop and is then rerouted is refused; the subscription works after a start."""
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


def test_s25_a_drain_on_a_loop_gives_up_at_the_very_moment_that_its_time_is_over() -> None:
    """With a clock that does not move and a timeout of zero, it raises at once, not at the next tick."""
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


def test_s25_a_drain_on_a_loop_waits_for_what_the_transport_still_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is on its way and in no mailbox yet counts as not drained, on a loop as on a thread."""
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


def test_s25_a_stop_that_comes_late_does_not_end_the_next_start() -> None:
    """If two threads stop the bus and it starts again, the slower one only gets the report of the first stop."""
    delayed, go_on = threading.Event(), threading.Event()
    handled = Hold(open=True)

    def hold_up(event: Any) -> None:
        if isinstance(event, StateChanged) and event.new == "draining" and not delayed.is_set():
            delayed.set()
            go_on.wait(2 * WAIT)

    bus = Bus()
    bus.subscribe("s", handled)
    bus.observe(hold_up)
    bus.start()
    late = InThread(bus.stop, WAIT)
    assert delayed.wait(WAIT)
    report = bus.stop(timeout=WAIT)
    with running(bus):
        go_on.set()

        assert late.result() == report == StopReport(drained=True)
        assert bus.state == "started"
        bus.publish("s", "after the restart")
        bus.drain(WAIT)
        assert handled.given == ["after the restart"]


def threads() -> set[str]:
    """The names of the threads that a bus has started."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("pipebus")}


def test_s25_a_publish_that_the_stop_overtakes_starts_no_loop_again() -> None:
    """A publish that has passed an async chain when the bus stops is refused, and leaves no thread behind."""

    class Slow(dict[str, str]):
        """Headers that take so long to read that the bus is stopped meanwhile."""

        def items(self) -> Any:
            bus.stop(timeout=WAIT)
            return super().items()

    async def pass_on(message: Message, call_next: Any) -> Any:
        return await call_next(message)

    bus = Bus()
    bus.use(pass_on)
    bus.subscribe("s", fine, overflow="reject")
    before = threads()
    bus.start()
    bus.publish("s")
    with pytest.raises(BusClosed):
        bus.publish("s", headers=Slow(a="b"))

    assert bus.state == "stopped"
    assert threads() == before


@pytest.mark.parametrize("sleeps", [True, False], ids=["sleeping", "just-done"])
@ways(POOL, THREAD)
def test_s25_a_worker_that_has_nothing_to_do_is_no_abandoned_handler(way: Way, sleeps: bool) -> None:
    """A stop with a timeout of zero does not report a worker whose handler has ended."""
    for _ in range(50):
        bus = Bus()
        subscription = way.subscribe(bus, "s", fine)
        bus.start()
        bus.publish("s")
        bus.drain(WAIT)
        pool = subscription.plan.pool or engine_of(bus).pool
        if sleeps:
            wait_until(lambda pool=pool: len(pool.sleepers) == 1, "its worker sleeps")

        assert bus.stop(timeout=0.0) == StopReport(drained=True)

"""
Harness: the real bus in virtual time, one thread at a time; what a test sees of it, and what its errors say at a dead end.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import WAIT, Boom, DropAll, assert_conserved, boom, fine
from pipebus import (
    Actor,
    Bus,
    BusClosed,
    BusNotStarted,
    Delivery,
    DrainTimeout,
    Dropped,
    Handlers,
    LifecycleError,
    MailboxFull,
    Message,
    NoResponder,
    Pipeline,
    PipelineError,
    ReceiveTimeout,
    RequestFailed,
    RequestTimeout,
    Subscription,
    Transform,
    transform,
)
from pipebus.errors import AttemptsExhausted
from pipebus.events import Acknowledged, Died, Discarded, Published, Returned, StateChanged, Taken
from pipebus.filters import Dedupe, Expire, Retry, Timeout
from pipebus.testing import FakeClock, Harness, InjectedError, Stuck, run_filter
from scale_helpers import scaled

REAL = (threading.Thread.start, threading.Thread.join, threading.Thread.is_alive)

ways = pytest.mark.parametrize("run", ["pool", "thread", "loop", "async"])
"""Run a test once for each place in which a handler runs."""


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Every test leaves no thread behind, and the harness removes what it put in the place of threads."""
    before = set(threading.enumerate())
    yield
    assert (threading.Thread.start, threading.Thread.join, threading.Thread.is_alive) == REAL
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT)
        assert not thread.is_alive(), f"{thread.name} is left"


def subscribe(bus: Bus, subject: str, handler: Callable[[Message], Any], run: str = "pool", **options: Any) -> Subscription:
    """Subscribe a handler in one of the `ways`."""
    if run != "async":
        return bus.subscribe(subject, handler, run=run, **options)  # type: ignore[arg-type]

    async def on_loop(message: Message) -> Any:
        return handler(message)

    return bus.subscribe(subject, on_loop, **options)


def bodies(messages: list[Message]) -> list[Any]:
    return [message.body for message in messages]


def last_line(error: BaseException) -> tuple[str, str]:
    """The file and the function in which an error was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Path(frame.filename).name, frame.name


# --- going on ----------------------------------------------------------------------------------------------------------


@ways
def test_nothing_happens_behind_the_back_of_a_test(harness: Harness, run: str) -> None:
    """A handler runs only when the test asks for something that it must wait for."""
    bus = Bus()
    given: list[Any] = []
    subscribe(bus, "a", lambda message: given.append(message.body), run)
    harness.start(bus)
    for number in range(3):
        bus.publish("a", number)
    assert given == []
    harness.drain()
    assert given == [0, 1, 2]
    assert harness.elapsed == 0


@ways
def test_step_goes_on_until_one_delivery_is_settled(harness: Harness, run: str) -> None:
    """One step is one delivery, and its result says how that ended."""
    bus = Bus()

    def handler(message: Message) -> None:
        if message.body == "bad":
            raise Boom

    subscribe(bus, "a", handler, run, name="s")
    harness.allow(Boom)
    harness.start(bus)
    for body in ("good", "bad"):
        bus.publish("a", body)
    first = harness.step()
    assert isinstance(first, Acknowledged)
    assert first.message.body == "good"
    assert len(harness.dead) == 0
    second = harness.step()
    assert isinstance(second, Died)
    assert second.message.body == "bad"
    assert harness.step() is None


def test_step_tells_returns_and_drops(harness: Harness) -> None:
    """A message that is given back or dropped is a step too."""
    bus = Bus()

    @bus.on("back", name="back")
    def back(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            delivery.retry()

    bus.subscribe("drop", fine, name="drop", filters=[DropAll("no")])
    harness.start(bus)
    bus.publish("back")
    assert [type(harness.step()), type(harness.step()), harness.step()] == [Returned, Acknowledged, None]
    bus.publish("drop")
    dropped = harness.step()
    assert isinstance(dropped, Discarded)
    assert (dropped.place, dropped.reason) == ("drop", "no")


def test_step_does_not_move_time(harness: Harness) -> None:
    """A delivery that is due later is not done now."""
    bus = Bus()
    bus.subscribe("a", fine)
    harness.start(bus)
    bus.publish("a", delay=5.0)
    assert harness.step() is None
    assert harness.elapsed == 0
    harness.advance(5.0)
    assert len(harness.delivered) == 1


def test_step_stops_at_the_first_of_many_workers(harness: Harness) -> None:
    """One step is one delivery, however many workers could continue."""
    bus = Bus()
    for number in range(4):
        bus.subscribe("a", fine, name=f"s{number}", run=("pool", "thread", "loop", "pool")[number])  # type: ignore[arg-type]
    harness.start(bus)
    bus.publish("a")
    for number in range(1, 5):
        assert isinstance(harness.step(), Acknowledged)
        assert len(harness.delivered) == number
    assert harness.step() is None


def test_drain_moves_time_as_far_as_is_asked_for(harness: Harness) -> None:
    """Delayed messages and waiting handlers finish, and no more time passes."""
    bus = Bus()
    bus.subscribe("a", lambda message: harness.clock.sleep(message.body), name="s")
    harness.start(bus)
    bus.publish("a", 2.5, delay=60.0)
    harness.drain()
    assert harness.elapsed == 62.5
    assert bodies(harness.delivered_to("s")) == [2.5]


def test_drain_follows_chains_of_messages(harness: Harness) -> None:
    """A drain follows handlers that publish to handlers that publish."""
    bus = Bus(max_hops=50)

    @bus.on("count", name="count")
    async def count(message: Message) -> None:
        if message.body:
            await bus.apublish("count", message.body - 1, delay=1.0)

    harness.start(bus)
    bus.publish("count", 50)
    harness.drain()
    assert len(harness.delivered_to("count")) == 51
    assert harness.elapsed == 50


def test_drain_that_does_not_end_says_what_is_left(harness: Harness) -> None:
    """The timeout of a drain is in virtual time too."""
    bus = Bus()
    bus.subscribe("a", fine, name="late")
    harness.start(bus)
    bus.publish("a", delay=100.0)
    with pytest.raises(DrainTimeout, match=r"not drained after 10 s.*late: 1"):
        harness.drain(timeout=10.0)
    assert harness.elapsed == 10
    harness.drain()
    assert harness.elapsed == 100


def test_drain_waits_until_all_buses_are_quiet_at_once(harness: Harness) -> None:
    """A drain follows a message from bus to bus, whatever the order in which they were started."""
    buses = {name: Bus(name=name) for name in "ab"}

    def forward(message: Message) -> None:
        harness.clock.sleep(1.0)
        here, left = message.body
        if left:
            there = "ba"["ab".index(here)]
            buses[there].publish("hop", (there, left - 1))

    for name, bus in buses.items():
        bus.subscribe("hop", forward, name=name)
        harness.start(bus)
    buses["b"].publish("hop", ("b", 5))
    harness.drain()
    assert [bus.stats()["subscriptions"][name]["in_flight"] for name, bus in buses.items()] == [0, 0]
    assert len(harness.delivered) == 6
    assert harness.elapsed == 6


def test_advance_does_all_that_is_due_by_then(harness: Harness) -> None:
    """Everything happens in the order of its time, and what is due later is not touched."""
    bus = Bus()
    when: list[tuple[Any, float]] = []
    bus.subscribe("a", lambda message: when.append((message.body, harness.elapsed)))
    harness.start(bus)
    for delay in (3.0, 1.0, 2.0, 2.001):
        bus.publish("a", delay, delay=delay)
    harness.advance(2.0)
    assert when == [(1.0, 1.0), (2.0, 2.0)]
    assert harness.elapsed == 2
    harness.advance(10.0)
    assert when[2:] == [(2.001, 2.001), (3.0, 3.0)]
    assert harness.elapsed == 12


def test_advance_by_nothing_does_what_can_be_done_now(harness: Harness) -> None:
    """Messages that are due are handled, and no time passes."""
    bus = Bus()
    bus.subscribe("a", fine)
    harness.start(bus)
    bus.publish("a")
    harness.advance(0)
    assert (len(harness.delivered), harness.elapsed) == (1, 0)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", None, True], ids=str)
def test_advance_takes_a_number_of_seconds(harness: Harness, seconds: Any) -> None:
    """Anything else raises an error at once, and time stays as it is."""
    with pytest.raises(PipelineError, match="advance"):
        harness.advance(seconds)
    assert harness.elapsed == 0


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", None], ids=str)
def test_drain_takes_a_number_of_seconds(harness: Harness, timeout: Any) -> None:
    """Anything else raises a pipebus error that names it."""
    bus = harness.start()
    bus.subscribe("a", fine)
    bus.publish("a", delay=1.0)
    with pytest.raises(PipelineError, match="drain"):
        harness.drain(timeout)
    harness.drain()


def test_virtual_time_is_exact(harness: Harness) -> None:
    """The time is 0.3 after waits of 0.1 and 0.2, and not 0.30000000000000004."""
    harness.clock.sleep(0.1)
    harness.clock.sleep(0.2)
    assert harness.elapsed == 0.3
    for _ in range(1000):
        harness.advance(0.1)
    assert harness.elapsed == 100.3


@pytest.mark.parametrize("interval", [0.1, 0.2, 0.25, 0.3, 0.7, 1.1, 60.0])
def test_what_is_due_at_the_very_end_of_an_advance_has_happened(interval: float) -> None:
    """One advance and a hundred give the same ticks of a schedule, and the next tick is a whole interval away."""
    for advances in ([100 * interval], [interval] * 100):
        with Harness() as harness:
            bus = Bus()
            schedule = bus.every(interval, "tick")
            harness.start(bus)
            for seconds in advances:
                harness.advance(seconds)
            stats = schedule.stats()
            assert (stats["published"], stats["skipped"], stats["failed"]) == (100, 0, 0), f"by {len(advances)} advances"
            assert stats["due_in"] == pytest.approx(interval)


def test_a_year_passes_at_once() -> None:
    """A daily schedule with a handler that takes an hour runs for a year, and nothing is left out."""
    with Harness() as harness:
        bus = Bus()
        bus.subscribe("daily", lambda message: harness.clock.sleep(3600.0), name="s")
        bus.every(86_400.0, "daily")
        harness.start(bus)
        harness.advance(365 * 86_400.0 + 3600.0)
        assert len(harness.delivered_to("s")) == 365


def test_a_bus_is_started_by_the_first_call_that_needs_it() -> None:
    """`step`, `drain`, `advance` and `run` start `harness.bus` and every attached bus."""
    with Harness() as harness:
        bus = Bus()
        bus.subscribe("a", fine)
        harness.attach(bus)
        assert bus.state == "new"
        with pytest.raises(BusNotStarted):
            bus.publish("a")
        harness.drain()
        assert bus.state == "started"
        assert harness.bus is bus
    assert bus.state == "stopped"


def test_a_harness_without_a_bus_has_a_new_one(harness: Harness) -> None:
    """The bus is made when a test asks for it, and stays the same from then on."""
    bus = harness.start()
    assert (bus, harness.bus, harness.buses) == (harness.bus, bus, [bus])
    harness.start(bus)
    assert [event.new for event in harness.events if isinstance(event, StateChanged)] == ["started"]
    assert repr(harness) == "<Harness after 0 s: 0 published, 0 delivered>"


def test_an_unhandled_message_is_no_error(harness: Harness) -> None:
    """A message without a subscriber is published for nobody."""
    bus = harness.start()
    bus.publish("a", 1)
    harness.drain()
    assert bodies(harness.published) == [1]
    assert "accepts a 1 for nobody" in harness.story


# --- where handlers run ------------------------------------------------------------------------------------------------


@ways
def test_a_handler_runs_where_it_runs_in_production(harness: Harness, run: str) -> None:
    """A handler runs on a worker thread of the pool, on its own thread or on a loop, and not in the test's thread."""
    bus = Bus()
    seen: list[tuple[str, bool]] = []

    def handler(message: Message) -> None:
        seen.append((threading.current_thread().name, asyncio._get_running_loop() is not None))

    subscribe(bus, "a", handler, run)
    harness.start(bus)
    bus.publish("a")
    harness.drain()
    name, on_loop = seen[0]
    assert name != threading.current_thread().name
    assert on_loop == (run in ("loop", "async"))


def test_asyncio_sleep_in_a_handler_takes_virtual_time(harness: Harness) -> None:
    """Async handlers wait without real time, and overlap."""
    bus = Bus()
    log: list[tuple[str, float]] = []

    @bus.on("a", workers=2)
    async def slow(message: Message) -> None:
        log.append((f"in {message.body}", harness.elapsed))
        await asyncio.sleep(message.body)
        log.append((f"out {message.body}", harness.elapsed))

    harness.start(bus)
    for seconds in (30, 10):
        bus.publish("a", seconds)
    harness.drain()
    assert log == [("in 30", 0), ("in 10", 0), ("out 10", 10), ("out 30", 30)]


def test_asyncio_timeouts_and_threads_work_in_handlers(harness: Harness) -> None:
    """`asyncio.timeout`, `wait_for`, `gather` and `to_thread` use virtual time."""
    bus = Bus()
    found: list[Any] = []

    @bus.on("a")
    async def handler(message: Message) -> None:
        try:
            async with asyncio.timeout(3):
                await asyncio.sleep(60)
        except TimeoutError:
            found.append(harness.elapsed)
        await asyncio.gather(asyncio.sleep(1), asyncio.sleep(2))
        found.append(harness.elapsed)
        found.append(await asyncio.to_thread(lambda: "from a thread"))
        found.append(await asyncio.wait_for(asyncio.sleep(1, "done"), 5))

    harness.start(bus)
    bus.publish("a")
    harness.drain()
    assert found == [3, 5, "from a thread", "done"]
    assert harness.elapsed == 6


@pytest.mark.parametrize("run", ["pool", "thread"])
def test_workers_handle_at_once_and_keep_the_order_of_keys(harness: Harness, run: Any) -> None:
    """Three workers run two keys at the same time, each key in its order."""
    bus = Bus()
    log: list[tuple[str, int, float]] = []

    def handler(message: Message) -> None:
        log.append(("in", message.body, harness.elapsed))
        harness.clock.sleep(1.0)
        log.append(("out", message.body, harness.elapsed))

    subscription = bus.subscribe("a", handler, workers=3, run=run)
    harness.start(bus)
    for number in range(6):
        bus.publish("a", number, key="even" if number % 2 == 0 else "odd")
    harness.drain()
    assert harness.elapsed == 3
    for rest in (0, 1):
        mine = [(what, number) for what, number, _ in log if number % 2 == rest]
        assert mine == [(what, number) for number in range(rest, 6, 2) for what in ("in", "out")]
    assert_conserved(subscription, accepted=6)


def test_a_pool_that_is_too_small_makes_messages_wait(harness: Harness) -> None:
    """The pool is real, and has its real size."""
    bus = Bus(pool=2)
    for number in range(6):
        bus.subscribe("a", lambda message: harness.clock.sleep(1.0), name=f"s{number}")
    harness.start(bus)
    bus.publish("a")
    harness.drain()
    assert harness.elapsed == 3


def test_actors_are_spawned_run_and_stopped(harness: Harness) -> None:
    """Actors work by reference and by name and take one message at a time; what waits when one stops is dropped."""

    class Counter(Actor):
        count = 0

        def on_message(self, message: Message) -> None:
            self.count += 1
            self.bus.publish("counted", self.count)

    class Later(Actor):
        async def on_message(self, message: Message) -> None:
            await asyncio.sleep(5)
            self.bus.publish("counted", "later")

    bus = Bus()
    counter, later = bus.spawn(Counter("counter")), bus.spawn(Later())
    counted = bus.subscribe("counted")
    harness.start(bus)
    bus.publish(counter)
    bus.publish("counter")
    bus.publish(later)
    assert [counted.receive().body for _ in range(3)] == [1, 2, "later"]
    assert harness.elapsed == 5
    bus.publish(counter)
    counter.stop()
    harness.drain()
    assert counter.count == 2
    assert [dropped.reason for dropped in harness.dropped] == ["stopped"]
    assert len(harness.delivered_to("counter")) == 2


class Quota(Actor):
    left = 2

    def filter(self, message: Message) -> Any:
        self.left -= 1
        return message if self.left >= 0 else Dropped("quota used up")

    async def on_message(self, message: Message) -> None:
        self.left = message.body


def test_filter_actors_are_asked_in_turn(harness: Harness) -> None:
    """Publishing waits for the actor's answer; control mail waits in line with the questions."""
    bus = Bus()
    quota = Quota("quota")
    bus.use(quota)
    harness.start(bus)
    assert [bool(bus.publish("ticks", number)) for number in range(3)] == [True, True, False]
    bus.publish(quota, 500)
    assert bus.publish("ticks", 3)
    assert quota.left == 499
    assert [(dropped.reason, dropped.by) for dropped in harness.dropped] == [("quota used up", "quota")]


def test_a_filter_actor_that_does_not_answer_is_told_in_virtual_time(harness: Harness) -> None:
    """A `filter_timeout` of 5 s takes no real time."""

    class Silent(Actor):
        async def filter(self, message: Message) -> Any:
            await asyncio.sleep(60)
            return message

    bus = Bus()
    bus.use(Silent("silent"))
    harness.start(bus)
    with pytest.raises(TimeoutError, match="filter actor silent gave no answer about a in 5 s"):
        bus.publish("a")
    assert harness.elapsed == 5


# --- reading -----------------------------------------------------------------------------------------------------------


def test_receive_waits_in_virtual_time(harness: Harness) -> None:
    """A reader may have a timeout or none, and may wait for a message that is published later."""
    bus = harness.start()
    inbox = bus.subscribe("a", name="inbox")
    bus.publish("a", "there")
    assert inbox.receive(timeout=0).body == "there"
    with pytest.raises(ReceiveTimeout, match="nothing arrived for inbox in 2 s"):
        inbox.receive(timeout=2.0)
    assert harness.elapsed == 2
    bus.publish("a", "later", delay=8.0)
    assert inbox.receive().body == "later"
    assert harness.elapsed == 10
    harness.thread(lambda: (harness.clock.sleep(5.0), bus.publish("a", "from a thread")))
    assert inbox.receive(timeout=60.0).body == "from a thread"
    assert harness.elapsed == 15
    assert bodies(harness.delivered_to("inbox")) == ["there", "later", "from a thread"]


def test_areceive_waits_in_virtual_time(harness: Harness) -> None:
    """A coroutine in `harness.run` waits in virtual time."""
    bus = harness.start()
    inbox = bus.subscribe("a", name="inbox")

    async def main() -> list[Any]:
        with pytest.raises(ReceiveTimeout, match="nothing arrived for inbox in 3 s"):
            await inbox.areceive(timeout=3.0)
        await bus.apublish("a", 1)
        bus.publish("a", 2, delay=4.0)
        found = [(await inbox.areceive()).body]
        async for message in inbox:
            found.append(message.body)
            break
        return found

    assert harness.run(main()) == [1, 2]
    assert harness.elapsed == 7


def test_a_delivery_that_a_reader_gives_back_is_taken_again(harness: Harness) -> None:
    """`with sub.delivery()` acknowledges if the block ends well, and returns the message if not."""
    bus = harness.start()
    inbox = bus.subscribe("a", name="inbox")
    bus.publish("a", 1)
    with pytest.raises(Boom), inbox.delivery() as delivery:  # noqa: PT012
        assert delivery.attempt == 1
        raise Boom
    with inbox.delivery() as delivery:
        assert delivery.attempt == 2
    assert [type(event) for event in harness.events if isinstance(event, (Taken, Returned, Acknowledged))] == [
        Taken, Returned, Taken, Acknowledged,
    ]  # fmt: skip


def test_readers_on_several_threads_share_a_mailbox(harness: Harness) -> None:
    """Each message is read exactly once."""
    bus = harness.start()
    inbox = bus.subscribe("a")
    readers = [harness.thread(lambda: [inbox.receive(timeout=60.0).body for _ in range(4)]) for _ in range(3)]
    for number in range(12):
        bus.publish("a", number)
    assert sorted(body for reader in readers for body in reader.result()) == list(range(12))
    assert harness.elapsed == 0


# --- requests ----------------------------------------------------------------------------------------------------------


@ways
def test_a_request_has_its_reply_at_once(harness: Harness, run: str) -> None:
    """The test gets its reply however the handler runs."""
    bus = Bus()
    subscribe(bus, "double", lambda message: message.body * 2, run)
    harness.start(bus)
    assert bus.request("double", 21).body == 42
    assert harness.elapsed == 0


def test_arequest_has_its_reply_at_once(harness: Harness) -> None:
    """In `harness.run`, many requests may wait for their replies at the same time."""
    bus = Bus()

    @bus.on("double", workers=8)
    async def double(message: Message) -> int:
        await asyncio.sleep(1.0)
        return message.body * 2

    harness.start(bus)

    async def main() -> list[int]:
        replies = await asyncio.gather(*(bus.arequest("double", number) for number in range(8)))
        return [reply.body for reply in replies]

    assert harness.run(main()) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert harness.elapsed == 1


@pytest.mark.parametrize("caller", ["request", "arequest"])
def test_a_request_without_a_reply_times_out_in_virtual_time(harness: Harness, caller: str) -> None:
    """A request without a reply takes its whole timeout, and one that nobody listens to fails at once."""
    bus = Bus()
    bus.subscribe("silent", fine)
    harness.start(bus)

    def ask(subject: str) -> Any:
        return bus.request(subject, timeout=30.0) if caller == "request" else harness.run(bus.arequest(subject, timeout=30.0))

    with pytest.raises(NoResponder, match="nobody listens to nobody"):
        ask("nobody")
    assert harness.elapsed == 0
    with pytest.raises(RequestTimeout, match="no reply on silent in 30 s"):
        ask("silent")
    assert harness.elapsed == 30


@pytest.mark.parametrize("inner", ["pool", "loop"])
@pytest.mark.parametrize("outer", ["pool", "thread", "async"])
def test_handlers_may_ask_each_other(harness: Harness, outer: str, inner: str) -> None:
    """A handler may request an answer inside a request, across threads and loops."""
    bus = Bus(pool=1)
    bus.subscribe("inner", lambda message: message.body + 1, run=inner)  # type: ignore[arg-type]
    if outer == "async":

        @bus.on("outer")
        async def aouter(message: Message) -> int:
            return 10 * (await bus.arequest("inner", message.body)).body

    else:
        bus.subscribe("outer", lambda message: 10 * bus.request("inner", message.body).body, run=outer)  # type: ignore[arg-type]
    harness.start(bus)
    assert bus.request("outer", 1).body == 20


def test_handlers_that_wait_for_each_other_are_refused(harness: Harness) -> None:
    """A circle of requests ends at once, and each caller learns why."""
    bus = Bus()
    bus.subscribe("a", lambda message: bus.request("b", timeout=2.0).body, name="a")
    bus.subscribe("b", lambda message: bus.request("a", timeout=3.0).body, name="b")
    harness.allow(NoResponder, RequestFailed)
    harness.start(bus)
    with pytest.raises(RequestFailed, match="answered only after"):
        bus.request("a", timeout=10.0)
    assert harness.elapsed == 0


def test_a_failed_request_is_told_to_who_asks_and_to_the_test() -> None:
    """The caller gets `RequestFailed`, and the handler's own error is unexpected unless the test allows it."""
    with Harness() as harness:
        bus = Bus()
        bus.subscribe("a", boom)
        harness.start(bus)
        with pytest.raises(RequestFailed):
            bus.request("a")
        with pytest.raises(Boom):
            harness.check()


# --- schedules, delays, expiry, filters --------------------------------------------------------------------------------


def test_a_schedule_ticks_with_the_time_of_the_test(harness: Harness) -> None:
    """The first tick comes after one interval and none comes after a stop; a drain does not wait for ticks."""
    bus = Bus()
    ticks: list[float] = []
    bus.subscribe("tick", lambda message: ticks.append(harness.elapsed))
    schedule = bus.every("1m", "tick")
    harness.start(bus)
    harness.advance(59.999)
    assert ticks == []
    harness.advance(120.001)
    assert ticks == [60, 120, 180]
    harness.drain()
    assert harness.elapsed == 180
    schedule.stop()
    harness.advance(3600.0)
    assert len(ticks) == 3


def test_delay_and_ttl_in_virtual_time(harness: Harness) -> None:
    """Delayed messages come in time, and those that are too old by then are dropped as expired."""
    bus = Bus()
    bus.subscribe("a", fine, name="s")
    harness.start(bus)
    bus.publish("a", 1, delay=0.3, ttl=0.3)
    bus.publish("a", 2, delay=0.301, ttl=0.3)
    bus.publish("a", 3, delay=0.1)
    harness.drain()
    assert bodies(harness.delivered_to("s")) == [3, 1]
    assert [(dropped.message.body, dropped.reason) for dropped in harness.dropped] == [(2, "expired")]
    assert harness.elapsed == 0.301


def test_a_message_made_by_hand_is_new_also_after_time_was_moved(harness: Harness) -> None:
    """`Message(…)` in a test gets its time from the harness's clock."""
    bus = harness.start()
    inbox = bus.subscribe("a")
    harness.advance(3600.0)
    bus.send(Message("a", "fresh", ttl=60.0))
    assert inbox.receive(timeout=0).body == "fresh"


def test_expire_drops_what_waited_too_long(harness: Harness) -> None:
    """The age of a message is measured by the harness's clock."""
    bus = Bus()
    bus.use(Expire("10s"), at="delivery")
    bus.subscribe("a", lambda message: harness.clock.sleep(6.0), name="s")
    harness.start(bus)
    for number in range(4):
        bus.publish("a", number)
    harness.drain()
    assert bodies(harness.delivered_to("s")) == [0, 1]
    assert [(dropped.message.body, dropped.reason, dropped.by) for dropped in harness.dropped] == [
        (2, "expired", "Expire"),
        (3, "expired", "Expire"),
    ]


@pytest.mark.parametrize("run", ["pool", "thread", "async"])
def test_retry_waits_in_virtual_time(harness: Harness, run: str) -> None:
    """The example of the docstring works: after two failures and waits of 0.1 and 0.2, the time is 0.3."""
    bus = Bus()
    bus.use(Retry(attempts=3, wait=0.1, jitter=0), at="delivery")
    subscribe(bus, "orders.placed", fine, run, name="ship")
    harness.start(bus)
    harness.fail("ship", times=2)
    bus.publish("orders.placed", {"sku": "tea"})
    harness.drain()
    assert harness.delivered_to("ship")[0].body == {"sku": "tea"}
    assert harness.elapsed == 0.3


def test_retry_that_gives_up_ends_in_a_dead_letter(harness: Harness) -> None:
    """An injected error is expected, so the test continues and finds the dead letter."""
    bus = Bus()
    bus.use(Retry(attempts=3, wait=1.0, jitter=0), at="delivery")
    bus.subscribe("a", fine, name="ship")
    harness.start(bus)
    harness.fail("ship", times=None, error=ConnectionError)
    bus.publish("a", 1)
    harness.drain()
    assert [(died.place, died.message.body, type(died.exception)) for died in harness.dead] == [("ship", 1, ConnectionError)]
    assert harness.elapsed == 3


def test_timeout_cancels_an_async_rest(harness: Harness) -> None:
    """The cancellation comes after the filter's timeout, in virtual time."""
    bus = Bus()
    bus.use(Timeout("2s"), at="delivery")
    cancelled: list[float] = []

    @bus.on("a")
    async def slow(message: Message) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(harness.elapsed)
            raise

    harness.allow(TimeoutError)
    harness.start(bus)
    bus.publish("a")
    harness.drain()
    assert cancelled == [2]
    assert "took longer than 2 s and was cancelled" in harness.dead[0].error


def test_timeout_leaves_a_sync_rest_behind(harness: Harness) -> None:
    """The rest of the chain continues in virtual time too, and its result is discarded."""
    bus = Bus()
    bus.use(Timeout(2.0, abandon=True), at="delivery")
    ended: list[float] = []

    @bus.on("a")
    def slow(message: Message) -> None:
        harness.clock.sleep(60.0)
        ended.append(harness.elapsed)

    harness.allow(TimeoutError)
    harness.start(bus)
    bus.publish("a")
    harness.drain()
    assert harness.elapsed == 2
    assert "left behind" in harness.dead[0].error
    harness.advance(58.0)
    assert ended == [60]


def test_dedupe_forgets_in_virtual_time(harness: Harness) -> None:
    """A duplicate within the window is dropped; after the window it is new."""
    bus = Bus()
    bus.use(Dedupe(window="5s"))
    harness.start(bus)
    assert bus.publish("a", id="x")
    harness.advance(4.9)
    assert bus.publish("a", id="x") == Dropped("duplicate", "Dedupe")
    harness.advance(0.2)
    assert bus.publish("a", id="x")


@ways
def test_a_returned_delivery_comes_again_after_its_delay(harness: Harness, run: str) -> None:
    """`delivery.retry(delay)` waits in virtual time, and used up attempts are not an unexpected error."""
    bus = Bus()
    taken: list[tuple[int, float]] = []

    def back(message: Message, delivery: Delivery) -> None:
        taken.append((delivery.attempt, harness.elapsed))
        delivery.retry(delay=60.0)

    if run == "async":

        async def aback(message: Message, delivery: Delivery) -> None:
            back(message, delivery)

        bus.subscribe("a", aback, name="s", attempts=3)
    else:
        bus.subscribe("a", back, name="s", attempts=3, run=run)  # type: ignore[arg-type]
    harness.start(bus)
    bus.publish("a")
    harness.drain()
    assert taken == [(1, 0), (2, 60), (3, 120)]
    assert [type(died.exception) for died in harness.dead] == [AttemptsExhausted]
    assert harness.errors == []


# --- full mailboxes ----------------------------------------------------------------------------------------------------


def slow_one(harness: Harness, seconds: float = 10.0) -> Bus:
    """A bus whose subscription `slow` has room for one message, takes its time, and lets publishers wait for 3 s."""
    bus = Bus()
    bus.subscribe("a", lambda message: harness.clock.sleep(seconds), name="slow", mailbox=1, overflow_timeout=3.0)
    return bus


@pytest.mark.parametrize("where", ["test", "thread", "run"])
def test_a_publisher_waits_for_room_in_virtual_time(harness: Harness, where: str) -> None:
    """The publisher may be the test's own thread, a thread of the harness, or a coroutine."""
    bus = slow_one(harness)
    harness.start(bus)
    bus.publish("a", 1)

    def publish(number: int) -> Any:
        if where == "test":
            return bus.publish("a", number)
        if where == "thread":
            return harness.thread(bus.publish, "a", number).result()
        return harness.run(bus.apublish("a", number))

    with pytest.raises(MailboxFull, match="waited 3 s for room"):
        publish(2)
    assert harness.elapsed == 3
    harness.advance(5.0)
    assert publish(3).mailboxes == 1  # at 10 s there is room
    assert harness.elapsed == 10
    harness.drain()
    assert bodies(harness.delivered_to("slow")) == [1, 3]
    assert [refused.message.body for refused in harness.refused] == [2]


@pytest.mark.parametrize("colour", ["def", "async def"])
def test_a_handler_waits_for_room_in_virtual_time(harness: Harness, colour: str) -> None:
    """The error of a handler that gets no room is raised like any other."""
    bus = slow_one(harness)
    if colour == "def":

        @bus.on("start")
        def publish_two(message: Message) -> None:
            for number in (1, 2):
                bus.publish("a", number)

    else:

        @bus.on("start")
        async def apublish_two(message: Message) -> None:
            for number in (1, 2):
                await bus.apublish("a", number)

    harness.start(bus)
    bus.publish("start")
    with pytest.raises(MailboxFull, match="waited 3 s for room"):
        harness.drain()
    harness.drain()
    assert harness.elapsed == 10
    assert bodies(harness.delivered_to("slow")) == [1]


@pytest.mark.parametrize(("overflow", "kept", "lost"), [("drop_newest", [1], [2, 3]), ("drop_oldest", [3], [1, 2])])
def test_drops_of_a_full_mailbox_are_recorded(harness: Harness, overflow: Any, kept: list[int], lost: list[int]) -> None:
    """Each drop is recorded with its reason."""
    bus = Bus()
    subscription = bus.subscribe("a", fine, name="s", mailbox=1, overflow=overflow)
    harness.start(bus)
    for number in (1, 2, 3):
        bus.publish("a", number)
    harness.drain()
    assert bodies(harness.delivered_to("s")) == kept
    assert bodies([dropped.message for dropped in harness.dropped]) == lost
    assert {dropped.place for dropped in harness.dropped} == {"s"}
    assert_conserved(subscription)


# --- pause, unsubscribe, stop ------------------------------------------------------------------------------------------


def test_a_paused_subscription_waits_until_it_is_resumed(harness: Harness) -> None:
    """A drain does not wait for a paused subscription."""
    bus = Bus()
    subscription = bus.subscribe("a", fine, name="s")
    harness.start(bus)
    subscription.pause()
    bus.publish("a", 1)
    harness.drain()
    assert harness.step() is None
    assert harness.delivered_to("s") == []
    subscription.resume()
    harness.drain()
    assert bodies(harness.delivered_to("s")) == [1]


def test_unsubscribe_waits_for_the_handler_in_virtual_time(harness: Harness) -> None:
    """Messages that wait are dropped, and the handler that runs can finish."""
    bus = Bus()
    subscription = bus.subscribe("a", lambda message: harness.clock.sleep(5.0), name="s")
    harness.start(bus)
    bus.publish("a", 1)
    bus.publish("a", 2)
    harness.advance(1.0)
    with pytest.raises(TimeoutError, match="a handler of s still runs after 1 s"):
        subscription.unsubscribe(timeout=1.0)
    subscription.unsubscribe()
    assert harness.elapsed == 5
    harness.drain()
    assert [(dropped.message.body, dropped.reason) for dropped in harness.dropped] == [(2, "unsubscribed")]
    assert bodies(harness.delivered_to("s")) == [1]


def test_a_bus_may_be_stopped_and_started_again(harness: Harness) -> None:
    """Messages that were left over are handled after the next start."""
    bus = Bus()
    bus.subscribe("a", fine, name="s")
    harness.start(bus)
    bus.publish("a", 1, delay=3.0)
    report = bus.stop(timeout=1.0)
    assert (report.drained, report.left) == (False, {"s": 1})
    assert harness.elapsed == 1
    with pytest.raises(BusClosed):
        bus.publish("a", 2)
    harness.start(bus)
    harness.drain()
    assert bodies(harness.delivered_to("s")) == [1]
    states = [event.new for event in harness.events if isinstance(event, StateChanged)]
    assert states == ["started", "draining", "stopped", "started"]


def test_a_stopped_bus_stays_stopped(harness: Harness) -> None:
    """`drain`, `step` and `advance` do not start it again."""
    bus = Bus()
    harness.start(bus)
    bus.stop()
    harness.drain()
    harness.advance(1.0)
    assert harness.step() is None
    assert bus.state == "stopped"


@pytest.mark.parametrize("name", ["handler", "test", "schedule"])
def test_bus_run_waits_in_a_thread_for_request_stop(name: str) -> None:
    """`bus.run()`, a program's main call, ends when a stop is asked for, and returns its report."""
    with Harness(patience=2.0) as harness:
        bus = Bus()
        bus.subscribe("end", lambda message: bus.request_stop("enough"), name="s")
        if name == "schedule":
            bus.every(60.0, "end")
        harness.attach(bus)
        run = harness.thread(bus.run)
        harness.advance(0)
        assert bus.state == "started"
        assert not run.ended
        if name == "handler":
            bus.publish("end")
        elif name == "test":
            bus.request_stop("enough")
        else:
            harness.advance(60.0)
        assert run.result().drained
        assert bus.state == "stopped"


def test_async_with_bus_in_a_coroutine(harness: Harness) -> None:
    """Handlers run on the coroutine's own loop, as they do in production."""
    bus = Bus()
    loops: list[Any] = []

    @bus.on("a", name="s")
    async def handler(message: Message) -> None:
        loops.append(asyncio.get_running_loop())

    async def main() -> bool:
        harness.attach(bus)
        async with bus:
            await bus.apublish("a", 1)
            await bus.adrain()
            return loops == [asyncio.get_running_loop()]

    assert harness.run(main())
    assert bodies(harness.delivered_to("s")) == [1]
    assert bus.state == "stopped"


def test_several_buses_stand_in_one_story(harness: Harness) -> None:
    """All buses share one clock and one story."""
    first, second = Bus(name="first"), Bus("memory:?wire=json", name="second")

    @first.on("x", name="left")
    def left(message: Message) -> None:
        second.publish("y", message.body)

    @second.on("y", name="right")
    def right(message: Message) -> None:
        harness.clock.sleep(1.0)

    harness.start(first)
    harness.start(second)
    body = {"n": [1]}
    first.publish("x", body)
    harness.drain()
    assert harness.buses == [first, second]
    assert harness.delivered_to("left")[0].body is body
    assert harness.delivered_to("right")[0].body == body
    assert harness.delivered_to("right")[0].body is not body  # it went through the codec
    assert harness.elapsed == 1
    with pytest.raises(PipelineError, match=r"no subscription 'middle'; there are left, right"):
        harness.delivered_to("middle")


def test_handlers_that_were_written_down_are_included(harness: Harness) -> None:
    """Handlers can be included as from a program's modules."""
    handlers = Handlers()

    @handlers.on("a", name="till", to="b")
    def ring_up(message: Message) -> int:
        return message.body * 2

    bus = Bus()
    bus.include(handlers)
    harness.start(bus)
    harness.fail("ring_up", times=1, error=ConnectionError)
    bus.publish("a", 1)
    bus.publish("a", 21)
    harness.drain()
    assert bodies(harness.delivered_to("till")) == [21]
    assert [message.body for message in harness.published if message.subject == "b"] == [42]


def test_a_dead_letter_is_replayed(harness: Harness) -> None:
    """The record shows its name, and the replay goes to the subscription that failed."""
    bus = Bus()
    bus.subscribe("a", fine, name="s")
    bus.subscribe("a", fine, name="other")
    harness.start(bus)
    harness.fail("s")
    bus.publish("a", 1)
    harness.drain()
    bus.dead_letters.replay(harness.dead[0].letter)
    assert isinstance(harness.step(), Acknowledged)
    assert bodies(harness.delivered_to("s")) == [1]
    assert len(harness.delivered_to("other")) == 1
    assert bus.dead_letters.list() == []


# --- coroutines and threads --------------------------------------------------------------------------------------------


def test_run_returns_what_the_coroutine_returns(harness: Harness) -> None:
    """It also raises what the coroutine raises, as the same object, and `asyncio.sleep` takes no time."""

    async def well() -> str:
        await asyncio.sleep(100)
        return "well"

    error = Boom("in a coroutine")

    async def badly() -> None:
        await asyncio.sleep(1)
        raise error

    assert harness.run(well()) == "well"
    with pytest.raises(Boom) as caught:
        harness.run(badly())
    assert caught.value is error
    assert harness.elapsed == 101
    assert harness.errors == []


def test_a_task_that_a_coroutine_leaves_behind_and_that_fails_is_told(harness: Harness) -> None:
    """The error comes as soon as no code holds the task any more."""

    async def fails() -> None:
        raise Boom

    async def main() -> None:
        asyncio.create_task(fails())  # noqa: RUF006  (that is the mistake)
        await asyncio.sleep(1)

    with pytest.raises(Boom) as caught:  # noqa: PT012
        harness.run(main())
        gc.collect()
        harness.advance(0)
    assert last_line(caught.value)[1] == "fails"


def test_a_task_that_a_handler_leaves_behind_and_that_fails_is_told(harness: Harness) -> None:
    """The error fails the test, and is not only a line in a log."""
    bus = Bus()

    async def fails() -> None:
        raise Boom

    @bus.on("a")
    async def handler(message: Message) -> None:
        asyncio.create_task(fails())  # noqa: RUF006

    harness.start(bus)
    bus.publish("a")
    with pytest.raises(Boom) as caught:  # noqa: PT012
        harness.drain()
        gc.collect()
        harness.advance(0)
    assert last_line(caught.value)[1] == "fails"


def test_a_thread_has_its_turn_when_the_test_waits(harness: Harness) -> None:
    """`result` returns what the call returned, and arguments and a name are passed on."""
    ran: list[str] = []

    def call(first: int, *, second: int) -> int:
        ran.append(threading.current_thread().name)
        harness.clock.sleep(5.0)
        return first + second

    running = harness.thread(call, 1, second=2, name="adder")
    assert ran == []
    assert not running.ended
    assert running.result() == 3
    assert (running.result(), running.ended, ran, harness.elapsed) == (3, True, ["adder"], 5)


def test_an_error_of_a_thread_is_raised_by_its_result(harness: Harness) -> None:
    """`result` raises the same object each time, and then the error counts as seen."""
    error = Boom("in a thread")

    def fails() -> None:
        raise error

    running = harness.thread(fails)
    for _ in range(2):
        with pytest.raises(Boom) as caught:
            running.result()
        assert caught.value is error
    harness.check()


@pytest.mark.parametrize("call", ["drain", "advance", "check"])
def test_an_error_of_a_thread_that_nobody_asks_for_fails_the_test(harness: Harness, call: str) -> None:
    """The next call of the harness raises the error with its own traceback."""

    def fails() -> None:
        raise Boom

    harness.thread(fails)
    with pytest.raises(Boom) as caught:
        {"drain": harness.drain, "advance": lambda: harness.advance(0), "check": harness.check}[call]()
    assert last_line(caught.value) == (Path(__file__).name, "fails")
    assert "on thread fails-1" in caught.value.__notes__[0]


def test_a_coroutine_function_is_nothing_for_a_thread(harness: Harness) -> None:
    """It would not run at all, so the error suggests `harness.run`."""
    with pytest.raises((LifecycleError, PipelineError), match=r"harness\.run"):
        harness.thread(ahandle, Message("a"))


@pytest.mark.parametrize("where", ["thread", "coroutine", "handler"])
def test_a_harness_may_be_asked_to_go_on_from_other_places(harness: Harness, where: str) -> None:
    """A part of a test may run on a thread, in a coroutine, or in a handler."""
    bus = Bus()
    bus.subscribe("a", lambda message: harness.clock.sleep(3.0), name="s")
    found: list[Any] = []

    def part(*_: Any) -> None:
        bus.publish("a", 1)
        harness.advance(3.0)
        bus.publish("a", 2)
        if where != "handler":  # a drain would wait for that handler itself
            harness.drain()
        found.append(harness.thread(lambda: 7).result())
        bus.publish("a", 3)

    async def main() -> None:
        part()

    if where == "handler":
        bus.subscribe("part", part)
    harness.start(bus)
    if where == "thread":
        harness.thread(part).result()
    elif where == "coroutine":
        harness.run(main())
    else:
        bus.publish("part")
    harness.drain()
    assert found == [7]
    assert bodies(harness.delivered_to("s")) == [1, 2, 3]
    assert harness.elapsed == 9


def test_a_thread_that_is_still_running_at_the_end_leaves() -> None:
    """The harness does not wait for it, and it is not an error."""
    with Harness() as harness:
        inbox = harness.start().subscribe("a")
        waiting = harness.thread(inbox.receive)
        harness.advance(10.0)
        assert not waiting.ended
    waiting.task.thread.join(WAIT)
    assert not waiting.task.thread.is_alive()


def test_fifty_threads_publish_at_once(harness: Harness) -> None:
    """Each publisher's order is kept, and the figures add up."""
    bus = Bus()
    subscription = bus.subscribe("a", fine, name="s", mailbox=16, workers=4)

    def publish(publisher: int) -> None:
        for number in range(10):
            bus.publish("a", (publisher, number), key=str(publisher))

    harness.start(bus)
    threads = [harness.thread(publish, number) for number in range(50)]
    harness.drain()
    for thread in threads:
        thread.result()
    delivered = bodies(harness.delivered_to("s"))
    assert len(delivered) == 500
    for publisher in range(50):
        assert [body for body in delivered if body[0] == publisher] == [(publisher, number) for number in range(10)]
    assert_conserved(subscription, accepted=500)


# --- errors ------------------------------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("call", ["step", "drain", "advance", "run", "check"])
def test_the_first_unexpected_error_is_raised_by_the_next_call(run: str, call: str) -> None:
    """The test gets the same object, with the handler's line as its last and a note that says where."""
    error = Boom("unexpected")

    def handler(message: Message) -> None:
        raise error

    with Harness() as harness:
        bus = Bus()
        subscribe(bus, "a", handler, run, name="s")
        harness.start(bus)
        bus.publish("a", 1)
        calls: dict[str, Callable[[], object]] = {
            "step": harness.step,
            "drain": harness.drain,
            "advance": lambda: harness.advance(0),
            "run": lambda: harness.run(asyncio.sleep(1)),
            "check": harness.check,
        }
        with pytest.raises(Boom) as caught:
            calls[call]()
        assert caught.value is error
        assert last_line(error) == (Path(__file__).name, "handler")
        assert "in s, with Message('a', 1" in error.__notes__[0]
        assert harness.errors == [error]


def test_an_error_is_raised_at_the_end_at_the_latest() -> None:
    """The error is raised even if the test never waits."""
    harness = Harness()
    bus: Bus | None = None
    with pytest.raises(Boom) as caught, harness:  # noqa: PT012
        bus = Bus()
        bus.subscribe("a", boom)
        harness.start(bus)
        bus.publish("a", 1)
    assert last_line(caught.value)[1] == "boom"
    assert bus is not None
    assert bus.state == "stopped"


def test_each_unexpected_error_is_told() -> None:
    """A test that expects the first error has not expected the second."""

    def handler(message: Message) -> None:
        raise message.body

    with Harness() as harness:
        bus = Bus()
        bus.subscribe("a", handler)
        harness.start(bus)
        bus.publish("a", Boom("expected"))
        bus.publish("a", KeyError("not expected"))
        with pytest.raises(Boom, match="expected"):
            harness.drain()
        assert [type(error) for error in harness.errors] == [Boom, KeyError]
        with pytest.raises(KeyError, match="not expected"):
            harness.check()


def test_without_fail_fast_errors_are_only_recorded() -> None:
    """Tests that are about errors need this."""
    with Harness(fail_fast=False) as harness:
        bus = Bus()
        bus.subscribe("a", boom)
        harness.start(bus)
        for number in range(3):
            bus.publish("a", number)
        harness.drain()
        harness.check()
    assert [str(error) for error in harness.errors] == [f"cannot handle {number}" for number in range(3)]


def test_allowed_errors_fail_no_test(harness: Harness) -> None:
    """Errors of the allowed classes and their subclasses pass; others fail the test."""
    bus = Bus()

    def handler(message: Message) -> None:
        raise message.body

    bus.subscribe("a", handler)
    harness.start(bus)
    harness.allow(LookupError, Boom)
    for error in (KeyError(), IndexError(), Boom(), ValueError("not allowed")):
        bus.publish("a", error)
    with pytest.raises(ValueError, match="not allowed"):
        harness.drain()
    assert len(harness.dead) == 4
    assert len(harness.errors) == 1


@pytest.mark.parametrize("what", ["rejects", "retries too often", "has another type"])
def test_what_a_handler_says_on_purpose_fails_no_test(harness: Harness, what: str) -> None:
    """Rejected bodies and used up attempts are dead letters, not errors."""
    bus = Bus()
    if what == "has another type":

        @bus.on("a")
        def typed(number: int) -> None: ...

    else:

        @bus.on("a", attempts=2)
        def handler(delivery: Delivery) -> None:
            if what == "rejects":
                delivery.reject("never")
            else:
                delivery.retry()

    harness.start(bus)
    bus.publish("a", "text")
    harness.drain()
    assert len(harness.dead) == 1
    assert harness.errors == []


@pytest.mark.parametrize("at", ["publish", "delivery"])
def test_errors_of_filters_are_told_once(at: Any) -> None:
    """The publisher gets the error if it is the test; otherwise the harness raises it."""
    with Harness() as harness:
        bus = Bus()

        @transform
        def fails(message: Message) -> Message:
            raise Boom

        bus.use(fails, at=at)
        bus.subscribe("a", fine)
        harness.start(bus)
        if at == "publish":
            with pytest.raises(Boom):
                bus.publish("a")
            assert [(type(refused.error), refused.by) for refused in harness.refused] == [(Boom, "fails")]
        else:
            bus.publish("a")
            with pytest.raises(Boom):
                harness.drain()
        harness.check()


def test_a_dead_letter_of_a_publish_chain_is_unexpected() -> None:
    """The publisher gets no error here, so the test does."""
    with Harness() as harness:
        bus = Bus()

        @transform
        def fails(message: Message) -> Message:
            raise Boom

        bus.use(Pipeline(fails, on_error="dead_letter"))
        harness.start(bus)
        assert not bus.publish("a")
        with pytest.raises(Boom) as caught:
            harness.drain()
        assert last_line(caught.value)[1] == "fails"
        assert "in a publish chain" in caught.value.__notes__[0]


def test_an_observer_that_raises_fails_the_test() -> None:
    """The test gets the observer's own error, which production only counts."""
    error = Boom("observer")
    with Harness() as harness:
        bus = Bus()

        @bus.observe
        def ear(event: Any) -> None:
            if isinstance(event, Published):
                raise error

        harness.start(bus)
        bus.publish("a")
        with pytest.raises(Boom) as caught:
            harness.drain()
        assert caught.value is error
        assert last_line(error)[1] == "ear"
        assert bus.stats()["observer_errors"] == 1


def test_a_schedule_that_fails_fails_the_test() -> None:
    """The test gets the filter's own error, with its line."""
    error = Boom("schedule")
    with Harness() as harness:
        bus = Bus()

        @bus.use
        def refuse(message: Message, call_next: Any) -> Any:
            raise error

        bus.every(1.0, "tick")
        harness.start(bus)
        with pytest.raises(Boom) as caught:
            harness.advance(1.0)
        assert caught.value is error
        assert last_line(error)[1] == "refuse"


def test_an_injected_failure_of_a_schedule_is_expected(harness: Harness) -> None:
    """The next tick comes at its time."""
    bus = Bus()

    @bus.use
    def gate(message: Message, call_next: Any) -> Any:
        return call_next(message)

    bus.subscribe("tick", fine, name="s")
    schedule = bus.every(1.0, "tick")
    harness.start(bus)
    harness.fail("gate")
    harness.advance(3.0)
    assert (schedule.stats()["failed"], len(harness.delivered_to("s"))) == (1, 2)


def test_an_error_after_a_delivery_was_settled_fails_the_test() -> None:
    """The delivery is settled already, so nobody else would see the error."""
    with Harness() as harness:
        bus = Bus()

        @bus.on("a")
        def handler(delivery: Delivery) -> None:
            delivery.ack()
            raise Boom("too late")

        harness.start(bus)
        bus.publish("a")
        with pytest.raises((Boom, AssertionError), match="too late"):
            harness.drain()


@pytest.mark.parametrize("who", ["test", "harness"])
def test_a_filter_that_fails_when_it_is_stopped_fails_the_test(who: str) -> None:
    """
    The test fails whether it stops the bus itself or the harness does; in production the error is a line in a log and in the
    report.
    """

    class Stubborn(Transform):
        def transform(self, message: Message) -> Message:
            return message

        def stop(self) -> None:
            raise Boom("cannot stop")

    with pytest.raises(Boom, match="cannot stop"), Harness() as harness:  # noqa: PT012
        bus = Bus()
        bus.use(Stubborn())
        harness.start(bus)
        if who == "test":
            bus.stop()


def test_a_filter_that_cannot_start_is_told_to_who_starts_the_bus(harness: Harness) -> None:
    """The caller gets the same error, and the bus is not started."""

    class Unready(Transform):
        def transform(self, message: Message) -> Message:
            return message

        def start(self, context: Any) -> None:
            raise Boom("cannot start")

    bus = Bus()
    bus.use(Unready())
    with pytest.raises(Boom, match="cannot start"):
        harness.start(bus)
    assert bus.state == "new"
    bus.use(look)
    with pytest.raises(Boom, match="cannot start"):
        harness.drain()


@pytest.mark.parametrize("error", ["ValueError", ValueError(), int, None], ids=repr)
def test_only_classes_of_errors_can_be_allowed(harness: Harness, error: Any) -> None:
    """Anything else raises an error at once, not when a handler fails."""
    with pytest.raises(PipelineError, match="allow"):
        harness.allow(error)
    bus = Bus()
    bus.subscribe("a", boom)
    harness.start(bus)
    bus.publish("a")
    with pytest.raises(Boom):
        harness.drain()


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@ways
def test_a_handler_that_asks_the_interpreter_to_end_fails_the_test(run: str, kind: type[BaseException]) -> None:
    """The bus takes it for a wish to stop; a test that did not expect it fails."""
    raised: BaseException | None = None
    try:
        with Harness() as harness:
            bus = Bus()

            def handler(message: Message) -> None:
                raise kind("from a handler")

            subscribe(bus, "a", handler, run, name="s")
            harness.start(bus)
            bus.publish("a")
            harness.drain()
    except BaseException as error:
        raised = error
    assert raised is not None, "nobody was told"
    assert isinstance(raised, Exception), "as it is, it would end pytest"
    assert "from a handler" in "".join(traceback.format_exception(raised))
    next_harness_works()


def next_harness_works() -> None:
    with Harness() as harness:
        bus = Bus()
        for run in ("pool", "loop"):
            bus.subscribe("a", fine, name=run, run=run)  # type: ignore[arg-type]
        harness.start(bus)
        bus.publish("a", delay=1.0)
        harness.drain()
        assert (len(harness.delivered), harness.elapsed) == (2, 1)


# --- faults ------------------------------------------------------------------------------------------------------------


class Greeter(Actor):
    def on_message(self, message: Message) -> None: ...


def gate(message: Message, call_next: Any) -> Any:
    return call_next(message)


@transform
def look(message: Message) -> Message:
    return message


def handle(message: Message) -> None: ...


async def ahandle(message: Message) -> None: ...


@pytest.mark.parametrize("handler", [handle, ahandle], ids=["sync", "async"])
@pytest.mark.parametrize("name", ["till", "handle", "look", "Retry"])
def test_a_delivery_fails_by_the_name_of_its_handler_subscription_or_filter(harness: Harness, name: str, handler: Any) -> None:
    """The fault strikes the given number of times, after the given number of calls, with the given error."""
    bus = Bus()
    bus.use(look, Retry(attempts=1), at="delivery")
    bus.subscribe("a", handler, name="till")
    harness.start(bus)
    name = handler.__name__ if name == "handle" else name
    harness.fail(name, times=2, after=1, error=ConnectionError)
    for number in range(5):
        bus.publish("a", number)
    harness.drain()
    assert [died.message.body for died in harness.dead] == [1, 2]
    assert {type(died.exception) for died in harness.dead} == {ConnectionError}
    assert bodies(harness.delivered_to("till")) == [0, 3, 4]
    assert harness.errors == []


@pytest.mark.parametrize("name", ["gate", "look", "Dedupe"])
def test_a_publish_fails_by_the_name_of_a_filter(harness: Harness, name: str) -> None:
    """The publisher gets the error, and the mailboxes get nothing."""
    bus = Bus()
    bus.use(gate, look, Dedupe())
    inbox = bus.subscribe("a")
    harness.start(bus)
    error = ConnectionError("as it is")
    harness.fail(name, error=error)
    with pytest.raises(ConnectionError) as caught:
        bus.publish("a", 1)
    assert caught.value is error
    assert [refused.by for refused in harness.refused] == [name]
    bus.publish("a", 2)
    assert inbox.receive(timeout=0).body == 2


@pytest.mark.parametrize("name", ["greeter", "Greeter"])
def test_an_actor_fails_by_its_name_or_its_class(harness: Harness, name: str) -> None:
    """Its mail becomes a dead letter, like a handler's."""
    bus = Bus()
    greeter = bus.spawn(Greeter("greeter"))
    harness.start(bus)
    harness.fail(name)
    bus.publish(greeter, 1)
    bus.publish(greeter, 2)
    harness.drain()
    assert [(died.message.body, type(died.exception)) for died in harness.dead] == [(1, InjectedError)]
    assert bodies(harness.delivered_to("greeter")) == [2]


def test_a_filter_actor_fails_where_it_is_asked(harness: Harness) -> None:
    """The publisher gets the error, and the actor does not get the question."""
    bus = Bus()
    quota = Quota("quota")
    bus.use(quota)
    harness.start(bus)
    harness.fail("quota", error=ConnectionError)
    with pytest.raises(ConnectionError):
        bus.publish("a", 1)
    assert quota.left == 2
    assert bus.publish("a", 2)


def test_a_fault_of_a_filter_actor_leaves_the_publishing_of_its_own_mail_alone(harness: Harness) -> None:
    """An actor is never asked about its own mail, so the fault strikes its `on_message`, as the story says."""
    bus = Bus()
    bus.use(Quota("quota"))
    harness.start(bus)
    harness.fail("quota")
    assert bus.publish("quota", 5)
    harness.drain()
    assert [died.place for died in harness.dead] == ["quota"]
    assert harness.story.count("quota  is given quota 5") == 1


def test_always_means_always(harness: Harness) -> None:
    """`times=None` makes every delivery fail."""
    bus = Bus()
    bus.subscribe("a", fine, name="s")
    harness.start(bus)
    harness.fail("s", times=None)
    for number in range(20):
        bus.publish("a", number)
    harness.drain()
    assert (len(harness.dead), harness.delivered) == (20, [])


def test_faults_of_one_name_strike_one_after_the_other(harness: Harness) -> None:
    """The first call is refused, the next is late, and then all is well: no fault is lost."""
    bus = Bus()
    bus.subscribe("a", fine, name="s")
    harness.start(bus)
    harness.fail("s", error=ConnectionError)
    harness.fail("s", error=PermissionError)
    for number in range(3):
        bus.publish("a", number)
    harness.drain()
    assert [type(died.exception) for died in harness.dead] == [ConnectionError, PermissionError]
    assert bodies(harness.delivered_to("s")) == [2]


@pytest.mark.parametrize("handler", [handle, ahandle], ids=["sync", "async"])
def test_a_slow_handler_takes_virtual_time(harness: Harness, handler: Any) -> None:
    """The delay strikes the given number of times, after the given number of calls."""
    bus = Bus()
    bus.subscribe("a", handler, name="s")
    harness.start(bus)
    harness.slow("s", 10.0, times=2, after=1)
    ends: list[float] = []
    bus.observe(lambda event: ends.append(harness.elapsed) if isinstance(event, Acknowledged) else None)
    for number in range(4):
        bus.publish("a", number)
    harness.drain()
    assert ends == [0, 10, 20, 20]
    assert "(on purpose) takes 10 s" in harness.story


def test_a_slow_filter_is_seen_by_a_timeout_around_it(harness: Harness) -> None:
    """The slowness is at the filter's place in the chain."""
    bus = Bus()
    bus.use(Timeout(2.0), look, at="delivery")
    bus.subscribe("a", ahandle, name="s")
    harness.allow(TimeoutError)
    harness.start(bus)
    harness.slow("look", 5.0)
    bus.publish("a", 1)
    bus.publish("a", 2)
    harness.drain()
    assert [died.message.body for died in harness.dead] == [1]
    assert harness.elapsed == 2


def test_a_slow_filter_actor_is_late_with_its_answer(harness: Harness) -> None:
    """An actor that is slower than its `filter_timeout` fails the publish."""
    bus = Bus()
    bus.use(Quota("quota"))
    harness.start(bus)
    harness.slow("quota", 9.0)
    with pytest.raises(TimeoutError, match="gave no answer about a in 5 s"):
        bus.publish("a")
    assert harness.elapsed == 5


def test_a_handler_that_is_slow_and_fails_does_both(harness: Harness) -> None:
    """One call can be slow and then fail; a fault that comes after a failure waits for the next call."""
    bus = Bus()
    bus.subscribe("a", fine, name="s")
    harness.start(bus)
    harness.slow("s", 3.0)
    harness.fail("s")
    harness.slow("s", 4.0)
    ends: list[tuple[str, float]] = []
    bus.observe(
        lambda event: ends.append((type(event).__name__, harness.elapsed)) if isinstance(event, (Died, Acknowledged)) else None
    )
    for number in range(3):
        bus.publish("a", number)
    harness.drain()
    assert ends == [("Died", 3), ("Acknowledged", 7), ("Acknowledged", 7)]


@pytest.mark.parametrize("call", ["fail", "slow"])
def test_a_fault_of_an_unknown_name_is_told_at_the_end(call: str) -> None:
    """The error lists the names that were called, because a typing mistake must not make a test worthless."""
    with pytest.raises(AssertionError) as caught, Harness() as harness:  # noqa: PT012
        bus = Bus()
        bus.use(look, at="delivery")
        bus.subscribe("a", handle, name="till")
        harness.start(bus)
        bus.publish("a")
        if call == "fail":
            harness.fail("tilll")
        else:
            harness.slow("tilll", 1.0)
        harness.drain()
    text = str(caught.value)
    assert text.startswith("tilll ")
    assert "nothing has that name" in text
    for name in ("look", "till", "handle"):
        assert name in text.partition("so far: ")[2]
    assert "<class" not in text


def test_a_fault_that_was_never_reached_says_how_often_it_was_called() -> None:
    """The name was right but `after` was more than the number of calls, and the error says so."""
    with pytest.raises(AssertionError) as caught, Harness() as harness:  # noqa: PT012
        bus = Bus()
        bus.subscribe("a", fine, name="till")
        harness.start(bus)
        harness.fail("till", after=5)
        bus.publish("a")
    text = str(caught.value)
    assert text.startswith("till ")
    assert "called once" in text
    assert "never called" not in text


def test_a_fault_of_a_mailbox_that_the_test_reads_says_that_it_has_no_handler() -> None:
    """A mailbox that the test reads cannot fail; a filter around it can."""
    with pytest.raises((PipelineError, AssertionError), match=r"inbox.*no handler"), Harness() as harness:  # noqa: PT012
        bus = harness.start()
        inbox = bus.subscribe("a", name="inbox")
        harness.fail("inbox")
        bus.publish("a")
        inbox.receive(timeout=0)


def test_a_filter_around_a_mailbox_that_the_test_reads_can_fail(harness: Harness) -> None:
    """The message becomes a dead letter, and the reader has the next one."""
    bus = Bus()
    bus.use(look, at="delivery")
    inbox = bus.subscribe("a", name="inbox")
    harness.start(bus)
    harness.fail("look")
    for number in (1, 2):
        bus.publish("a", number)
    assert inbox.receive(timeout=0).body == 2
    assert [(died.place, died.message.body) for died in harness.dead] == [("inbox", 1)]


@pytest.mark.parametrize(
    "options",
    [
        {"times": 0},
        {"times": -1},
        {"times": True},
        {"times": 1.5},
        {"after": -1},
        {"error": "text"},
        {"error": int},
        {"error": None},
    ],
    ids=str,
)
def test_a_fault_that_cannot_be_is_refused(harness: Harness, options: dict[str, Any]) -> None:
    """The error comes where the fault is written, not when it strikes."""
    with pytest.raises(PipelineError, match="fault of s: "):
        harness.fail("s", **options)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "soon", None], ids=str)
def test_a_slowness_that_cannot_be_is_refused(harness: Harness, seconds: Any) -> None:
    """`slow` refuses a wrong number of seconds, just as `fail` refuses a wrong fault."""
    with pytest.raises(PipelineError, match="fault of s: seconds="):
        harness.slow("s", seconds)


class Particular(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)


def test_an_error_class_that_cannot_be_made_of_a_text_is_told_at_once(harness: Harness) -> None:
    """The error says to give an exception instead, so the test does not fail in the middle of a delivery."""
    with pytest.raises(PipelineError, match="Particular"):
        harness.fail("s", error=Particular)
    bus = Bus()
    bus.subscribe("a", fine, name="s")
    harness.start(bus)
    harness.fail("s", error=Particular(7, "as it is"))
    bus.publish("a")
    harness.drain()
    assert harness.dead[0].exception.args == (7, "as it is")


def test_what_is_raised_from_an_injected_error_is_expected(harness: Harness) -> None:
    """A handler may raise another error from it: `raise … from error`."""
    bus = Bus()
    bus.use(gate)

    @bus.on("a", name="s")
    def handler(message: Message) -> None:
        try:
            bus.publish("b")
        except ConnectionError as error:
            raise ValueError("no depot") from error

    harness.start(bus)
    harness.fail("gate", after=1, error=ConnectionError)
    bus.publish("a")
    harness.drain()
    assert [str(died.exception) for died in harness.dead] == ["no depot"]
    assert harness.errors == []


def test_a_mistake_in_the_code_that_meets_an_injected_error_fails_the_test() -> None:
    """The test is there to check that code, so its own error is unexpected, even while another is handled."""
    with Harness() as harness:
        bus = Bus()

        def compensate(message: Message, call_next: Any) -> Any:
            try:
                return call_next(message)
            except InjectedError:
                return message.body["a key that is not there"]

        bus.use(compensate, at="delivery")
        bus.subscribe("a", fine, name="ship")
        harness.start(bus)
        harness.fail("ship")
        bus.publish("a", {})
        with pytest.raises(KeyError, match="a key that is not there"):
            harness.drain()


# --- records, story, determinism ---------------------------------------------------------------------------------------


def test_the_records_say_what_was_published_delivered_dropped_refused_and_dead(harness: Harness) -> None:
    """The records include replies and what handlers publish."""
    bus = Bus()

    @bus.use
    def guard(message: Message, call_next: Any) -> Any:
        if message.body == "drop":
            return Dropped("unwanted")
        if message.body == "refuse":
            raise Boom
        return call_next(message)

    bus.subscribe("a", lambda message: f"{message.body}!", name="s", to="b")
    harness.start(bus)
    harness.fail("s", after=1)
    bus.publish("a", "good")
    assert not bus.publish("a", "drop")
    with pytest.raises(Boom):
        bus.publish("a", "refuse")
    bus.publish("a", "bad")
    harness.drain()
    assert bodies(harness.published) == ["good", "bad", "good!"]
    assert [(one.message.body, one.subscription, one.attempt) for one in harness.delivered] == [("good", "s", 1)]
    assert [(one.message.body, one.place, one.reason, one.by) for one in harness.dropped] == [
        ("drop", "publish", "unwanted", "guard")
    ]
    assert [(one.message.body, type(one.error), one.by) for one in harness.refused] == [("refuse", Boom, "guard")]
    assert [(one.message.body, one.place, one.letter) for one in harness.dead] == [("bad", "s", "d1")]
    assert repr(harness) == "<Harness after 0 s: 3 published, 1 delivered>"


def test_records_are_copies(harness: Harness) -> None:
    """A test may change its list, and no other record changes."""
    bus = harness.start()
    bus.publish("a")
    for records in (harness.events, harness.published, harness.delivered, harness.dead):
        records.clear()
    assert len(harness.published) == 1


def test_the_story_says_when_who_and_what(harness: Harness) -> None:
    """Each line of the story is one moment."""
    bus = Bus()
    bus.use(Retry(attempts=2, wait=0.25, jitter=0), at="delivery")
    bus.subscribe("orders", lambda message: "done", name="ship")
    harness.start(bus)
    harness.fail("ship", error=ConnectionError("down"))
    bus.publish("orders", {"sku": "tea"}, headers={"by": "ann"})
    harness.drain()
    assert harness.story.splitlines() == [
        "   0.000  bus    is started",
        "   0.000  bus    accepts orders {'sku': 'tea'} headers {'by': 'ann'} for 1 mailbox",
        "   0.000  Retry  is given orders {'sku': 'tea'} headers {'by': 'ann'}",
        "   0.000  ship   is given orders {'sku': 'tea'} headers {'by': 'ann'}",
        "   0.000  ship   (on purpose) fails: ConnectionError: down",
        "   0.000  ship   raises ConnectionError: down",
        "   0.000  Retry  waits 0.25 s",
        "   0.250  ship   is given orders {'sku': 'tea'} headers {'by': 'ann'}",
        "   0.250  ship   returns 'done'",
        "   0.250  Retry  gives Handled(value='done')",
    ]


def test_the_story_of_a_retry_is_plain_english(harness: Harness) -> None:
    """The story has no numbers such as "2. time", which are not English."""
    bus = Bus()

    @bus.on("a", name="s")
    def handler(delivery: Delivery) -> None:
        if delivery.attempt < 2:
            delivery.retry(delay=1.0)

    harness.start(bus)
    harness.fail("s", after=1)
    bus.publish("a")
    harness.drain()
    assert "2. time" not in harness.story
    assert "the 1. of" not in harness.story
    assert "gives it back, for 1 s" in harness.story


def test_long_bodies_are_cut_in_the_story(harness: Harness) -> None:
    """A long body does not make a line long."""
    bus = harness.start()
    bus.publish("a", "x" * 10_000)
    assert all(len(line) < 200 for line in harness.story.splitlines())
    assert "…" in harness.story


def test_a_story_has_a_line_for_each_moment(harness: Harness) -> None:
    """A line of the story is one moment, whatever bodies, values and errors look like."""
    bus = Bus()
    bus.subscribe("a", lambda message: "x\ny", name="s")
    harness.start(bus)
    harness.fail("s", error=ConnectionError("two\nlines"))
    for _ in range(2):
        bus.publish("a", "one\ntwo", headers={"of": "tea"})
    harness.drain()
    assert len(harness.dead) == 1
    for line in harness.story.splitlines():
        assert line.startswith("   0.000  "), line


SCENARIO = """
import asyncio
from pipebus import Actor, Bus, Delivery, Dropped
from pipebus.filters import Dedupe, Retry, Timeout
from pipebus.testing import Harness


class Meter(Actor):
    count = 0

    def filter(self, message):
        self.count += 1
        return message if self.count % 7 else Dropped("every seventh")

    async def on_message(self, message):
        await asyncio.sleep(0.5)


def scenario(**retry):
    with Harness(fail_fast=False) as harness:
        bus = Bus()
        meter = Meter("meter")
        bus.use(meter, Dedupe())
        bus.use(Retry(attempts=3, wait=0.1, **retry), at="delivery")

        @bus.on("work.*", name="pool", workers=3, to="done")
        def pool(message):
            harness.clock.sleep(0.01 * (message.body % 3))
            return message.body

        @bus.on("work.*", name="thread", run="thread", mailbox=4)
        def thread(message, delivery: Delivery):
            if message.body % 5 == 0:
                delivery.retry(delay=0.2)

        @bus.on({"work.a", "work.b", "done"}, name="loop")
        async def loop(message):
            await asyncio.sleep(0.03)
            if message.subject == "work.b":
                await bus.apublish(meter, message.body)

        bus.every(0.25, "tick")
        harness.start(bus)
        harness.fail("pool", times=3, after=2)
        harness.slow("loop", 0.4, after=1)

        def publish(first):
            for number in range(6):
                bus.publish("work.a" if number % 2 else "work.b", first + number)

        for number in range(4):
            harness.thread(publish, 10 * number)
        harness.drain()
        harness.advance(1.0)
        return harness.story
"""


def scenario(**retry: Any) -> str:
    space: dict[str, Any] = {}
    exec(compile(SCENARIO, "scenario", "exec"), space)
    story: str = space["scenario"](**retry)
    return story


def test_the_same_test_is_the_same_run_each_time() -> None:
    """Threads, loops, actors, faults and schedules give the same story, line by line."""
    first = scenario(jitter=0)
    assert len(first.splitlines()) > 200
    random.random()
    assert scenario(jitter=0) == first


@pytest.mark.thorough
def test_the_same_test_is_the_same_run_in_another_process(tmp_path: Path) -> None:
    """Other hashes of strings and other threads do not change the run."""
    script = tmp_path / "scenario.py"
    script.write_text(SCENARIO + "\nprint(scenario(jitter=0))\n")
    stories = [run_python(script, PYTHONHASHSEED=seed).stdout for seed in ("1", "2")]
    assert stories[0] == stories[1]
    assert stories[0].rstrip("\n") == scenario(jitter=0)


def test_the_waits_of_a_retry_with_jitter_are_the_same_each_time() -> None:
    """The default `Retry` has a jitter, which is the same in each run, so that tests are repeatable."""
    assert scenario() == scenario()


def test_ids_come_from_the_seed_and_the_clock() -> None:
    """With the same start, messages have the same ids each time, and no two messages of one harness have the same id."""

    def ids() -> list[str]:
        with Harness(start=0) as harness:
            first, second = harness.start(Bus("memory:?wire=json")), harness.start(Bus())
            first.subscribe("double", lambda message: message.body * 2)
            assert first.request("double", 21).body == 42
            second.publish("a")
            second.send(Message("by.hand"))
            return [text for message in harness.published for text in (message.id, message.reply_to) if text]

    found = ids()
    assert len(set(found)) == len(found) > 4
    assert ids() == found


def run_python(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.thorough
def test_it_works_without_pytest(tmp_path: Path) -> None:
    """A plain script can use a harness, and pytest is not even imported."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from pipebus import Bus
            from pipebus.testing import Harness

            with Harness() as harness:
                bus = Bus()

                @bus.on("a", name="s")
                async def s(message): ...

                harness.start(bus)
                bus.publish("a", 1, delay=1800.0)

                async def main():
                    return (await bus.apublish("a", 2)).mailboxes

                print(harness.run(main()))
                harness.drain()
                print([message.body for message in harness.delivered_to("s")], harness.elapsed)
            assert not {"pytest", "_pytest", "hypothesis"} & set(sys.modules)
            """
        )
    )
    assert run_python("-W", "error", script).stdout.splitlines() == ["1", "[2, 1] 1800.0"]


# --- the end -----------------------------------------------------------------------------------------------------------


def test_check_holds_each_subscription_to_the_law_of_figures(harness: Harness) -> None:
    """The figures must account for every accepted message, whatever a test does."""
    bus = Bus()
    bus.subscribe("a", fine, name="s")
    harness.start(bus)
    bus.publish("a")
    bus.publish("a", delay=60.0)
    harness.check()
    bus.subscriptions[0].acknowledged += 1  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="s has lost count"):
        harness.check()
    bus.subscriptions[0].acknowledged -= 1  # type: ignore[attr-defined]


def test_what_is_still_delayed_at_the_end_is_no_error() -> None:
    """A test need not drain."""
    with Harness() as harness:
        bus = Bus()
        bus.subscribe("a", boom)
        harness.start(bus)
        bus.publish("a", delay=60.0)
    assert harness.elapsed == 0
    assert harness.delivered == []


def test_the_bus_is_stopped_at_the_end() -> None:
    """A test can still read the records afterwards."""
    with Harness() as harness:
        bus = harness.start()
        bus.publish("a", 1)
    assert bus.state == "stopped"
    assert bodies(harness.published) == [1]
    assert "is stopped" in harness.story
    with pytest.raises(BusClosed):
        bus.publish("a")


def calls_of(harness: Harness) -> dict[str, Callable[[], object]]:
    return {
        "step": harness.step,
        "drain": harness.drain,
        "advance": lambda: harness.advance(1.0),
        "start": harness.start,
        "thread": lambda: harness.thread(fine, None),
        "sleep": lambda: harness.clock.sleep(1.0),
    }


@pytest.mark.parametrize("call", ["step", "drain", "advance", "start", "thread"])
def test_a_harness_whose_block_has_ended_says_so(call: str) -> None:
    """The error says what to do."""
    with Harness() as harness:
        harness.start()
    with pytest.raises((LifecycleError, Stuck), match="block"):
        calls_of(harness)[call]()


@pytest.mark.parametrize("call", ["step", "drain", "advance", "start", "thread"])
def test_a_harness_that_was_not_entered_says_so(call: str) -> None:
    """The error says to use the harness in a `with` block."""
    harness = Harness()
    with pytest.raises((LifecycleError, Stuck), match=r"with Harness\(\)"):
        calls_of(harness)[call]()


def test_run_after_the_end_says_so() -> None:
    """The coroutine is closed, so Python does not warn that it was never awaited."""
    with Harness() as harness:
        harness.start()
    with pytest.raises((LifecycleError, Stuck), match="block"):
        harness.run(asyncio.sleep(1))
    gc.collect()


def test_a_harness_is_entered_once() -> None:
    """A harness cannot be used again after its block."""
    with Harness() as harness:
        harness.start()
    with pytest.raises(LifecycleError), harness:
        pass
    next_harness_works()


@pytest.mark.parametrize("handler", ["sleeps", "asleep", "asks", "blocked", "thread", "run"])
def test_a_test_that_fails_in_the_middle_leaves_nothing(handler: str) -> None:
    """The test's own error leaves the block, waiting handlers end, and the next harness works."""
    harness = Harness()
    with pytest.raises(ZeroDivisionError), harness:  # noqa: PT012
        bus = slow_one(harness, 1000.0)
        inbox = bus.subscribe("nothing")
        bus.subscribe("silent", fine)
        if handler == "asks":
            bus.subscribe("asks", lambda message: bus.request("silent", timeout=1000.0))
        if handler == "blocked":
            bus.subscribe("blocked", lambda message: [bus.publish("a") for _ in range(3)])
        if handler == "asleep":

            @bus.on("asleep")
            async def asleep(message: Message) -> None:
                await asyncio.sleep(1000)

        harness.start(bus)
        if handler == "thread":
            harness.thread(inbox.receive)
        elif handler == "run":

            async def main() -> None:
                asyncio.create_task(inbox.areceive())  # noqa: RUF006
                await asyncio.sleep(1)
                1 / 0

            harness.run(main())
        else:
            bus.publish("a" if handler == "sleeps" else handler)
        harness.advance(1.0)
        1 / 0
    next_harness_works()


def test_an_error_of_the_test_is_not_replaced_by_one_of_a_handler() -> None:
    """The test's own error comes first; the handler's is in the records."""
    harness = Harness()
    with pytest.raises(ZeroDivisionError), harness:  # noqa: PT012
        bus = Bus()
        bus.subscribe("a", boom)
        harness.start(bus)
        bus.publish("a")
        1 / 0


MANY = """
import gc, sys, threading
from pipebus import Bus
from pipebus.testing import Harness

async def ahandle(message): pass
def handle(message): pass

def one():
    with Harness() as harness:
        bus = Bus()
        bus.subscribe("a", ahandle)
        bus.subscribe("a", handle, run="thread")
        bus.subscribe("a", handle)
        harness.start(bus)
        bus.publish("a", delay=1.0)
        harness.drain()
        assert len(harness.delivered) == 3

def objects():
    gc.collect()
    return len(gc.get_objects())

for _ in range(20):
    one()
threads, before = threading.active_count(), objects()
for _ in range(int(sys.argv[1])):
    one()
print(threading.active_count() - threads, objects() - before)
"""
"""For an interpreter of its own: what measures coverage keeps something of each thread."""


@scaled(20, 300)
@pytest.mark.thorough
def test_many_harnesses_leave_nothing(count: int) -> None:
    """No thread stays, and no list grows."""
    done = subprocess.run([sys.executable, "-c", MANY, str(count)], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    threads, objects = map(int, done.stdout.split())
    assert threads == 0
    assert objects < count // 2


# --- when it cannot go on ----------------------------------------------------------------------------------------------


@ways
@pytest.mark.thorough
def test_a_handler_that_blocks_on_a_lock_of_its_own_is_named(run: str) -> None:
    """The error names the thread and its line of code, after `patience` real seconds."""
    lock = threading.Lock()
    lock.acquire()

    def blocked(message: Message) -> None:
        lock.acquire()

    harness = Harness(patience=0.5)
    threads: list[threading.Thread] = []
    with pytest.raises(Stuck) as caught, harness:  # noqa: PT012
        bus = Bus()
        subscribe(bus, "a", blocked, run)
        harness.start(bus)
        bus.publish("a")
        try:
            harness.drain()
        finally:
            threads = [thread for thread in threading.enumerate() if thread.name.startswith("pipebus")]
            lock.release()
    text = str(caught.value)
    assert "waits for something outside the harness's control, or takes longer than 0.5 s" in text
    assert "in blocked: " in text
    assert f"{Path(__file__).name}:" in text
    for thread in threads:
        thread.join(WAIT)
    next_harness_works()


def test_a_computation_that_takes_longer_than_patience_is_named() -> None:
    """Its thread is not lost: the computation ends by itself, and finds that the harness is gone."""
    go = threading.Event()

    def long(message: Message) -> None:
        go.wait(WAIT)

    harness = Harness(patience=0.2)
    with pytest.raises(Stuck, match=r"takes longer than 0\.2 s"), harness:  # noqa: PT012
        bus = Bus()
        bus.subscribe("a", long)
        harness.start(bus)
        bus.publish("a")
        harness.step()
    go.set()
    next_harness_works()


def test_a_test_that_waits_for_nobody_is_told() -> None:
    """The error comes at once, and names the line where the test waits."""
    harness = Harness()
    with pytest.raises(Stuck) as caught, harness:  # noqa: PT012
        inbox = harness.start().subscribe("a")
        inbox.receive()
    text = str(caught.value)
    assert "no thread can go on" in text
    assert Path(__file__).name in text, text
    assert "inbox.receive()" in text


def test_threads_that_wait_for_each_other_are_named_with_their_lines() -> None:
    """The error shows lines of the user's code, because that is what the user can change."""

    def wait_for_mail(inbox: Subscription) -> Any:
        return inbox.receive()

    harness = Harness()
    with pytest.raises(Stuck) as caught, harness:  # noqa: PT012
        inbox = harness.start().subscribe("a")
        harness.thread(wait_for_mail, inbox, name="reader").result()
    text = str(caught.value)
    assert "reader waits for" in text
    assert "in wait_for_mail" in text
    next_harness_works()


def test_a_drain_that_waits_for_a_handler_that_nobody_wakes_ends_by_its_timeout() -> None:
    """The timeout names the subscription that still waits."""
    with Harness() as harness:
        bus = Bus()
        inbox = bus.subscribe("nothing")
        bus.subscribe("a", lambda message: inbox.receive(), name="waits")
        harness.start(bus)
        bus.publish("a")
        with pytest.raises(DrainTimeout, match="waits: 1"):
            harness.drain(timeout=60.0)
        assert harness.elapsed == 60


@pytest.mark.thorough
def test_handlers_that_publish_to_each_other_for_ever_are_told() -> None:
    """They do it at one moment of virtual time, so a timeout cannot end it."""
    harness = Harness(patience="5m")  # it takes 300,000 steps
    with pytest.raises(Stuck, match="no end after"), harness:  # noqa: PT012
        bus = Bus(max_hops=sys.maxsize)
        bus.subscribe("ping", lambda message: bus.publish("pong") and None)
        bus.subscribe("pong", lambda message: bus.publish("ping") and None)
        harness.start(bus)
        bus.publish("ping")
        harness.drain()
    next_harness_works()


@pytest.mark.thorough
def test_a_long_test_is_not_taken_to_go_round_for_ever(harness: Harness) -> None:
    """Only one call counts, and whether time passes in it."""
    bus = Bus()
    bus.subscribe("a", fine, name="s")
    harness.start(bus)
    for _ in range(310_000):
        harness.clock.sleep(0.001)
    bus.publish("a", 1)
    harness.drain()
    assert bodies(harness.delivered_to("s")) == [1]
    assert harness.elapsed == 310


@pytest.mark.parametrize("what", ["socket", "process"])
def test_a_loop_of_a_harness_says_that_it_has_no_sockets(harness: Harness, what: str) -> None:
    """The error explains itself when a handler tries to talk to the outside world."""

    async def main() -> None:
        if what == "socket":
            await asyncio.open_connection("127.0.0.1", 9)
        else:
            await asyncio.create_subprocess_exec("true")

    with pytest.raises((NotImplementedError, RuntimeError, LifecycleError), match="no sockets"):
        harness.run(main())


def in_real_thread(call: Callable[[], Any]) -> Any:
    """What a call on a thread that is not the harness's returns or raises."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, name="stranger")
    thread.start()
    thread.join(WAIT)
    assert not thread.is_alive()
    return found[0]


def test_a_foreign_thread_that_uses_its_bus_fails_the_test() -> None:
    """Such a thread may end, or swallow its error: the harness's next call raises it, with what to do."""
    with Harness() as harness:
        bus = Bus()
        bus.subscribe("a", fine, name="s")
        harness.start(bus)
        bus.publish("a", 0)
        harness.drain()
        error = in_real_thread(lambda: bus.publish("a"))
        assert isinstance(error, RuntimeError)
        assert "thread stranger uses a bus" in str(error)
        assert "harness.thread(call, …)" in str(error)
        with pytest.raises(RuntimeError) as raised:
            harness.drain()
        assert str(raised.value) == str(error)
        assert harness.errors == [raised.value]
        bus.publish("a", 1)
        harness.drain()
        assert bodies(harness.delivered_to("s"))[-1] == 1


def test_a_foreign_thread_may_have_a_bus_of_its_own() -> None:
    """Such a bus has real time and real threads, and does not belong to the harness."""

    def use_one() -> Any:
        with Bus(clock=FakeClock()) as bus:
            bus.subscribe("double", lambda message: message.body * 2)
            return bus.request("double", 21).body

    with Harness() as harness:
        harness.start()
        assert in_real_thread(use_one) == 42


def test_a_bus_made_outside_is_refused() -> None:
    """Such a bus has another clock and real locks."""
    outside = Bus()
    with Harness() as harness:
        with pytest.raises(LifecycleError, match="was made outside the harness"):
            harness.start(outside)
        with pytest.raises(LifecycleError, match="clock of its own"):
            harness.attach(Bus(clock=FakeClock()))
        assert outside not in harness.buses


def test_a_bus_that_the_tested_code_starts_is_heard_too() -> None:
    """The code may use `with bus:`, or make a bus of its own: a handler's error still fails the test."""

    def main() -> None:
        bus = Bus()
        bus.subscribe("a", boom, name="s")
        with bus:
            bus.publish("a", 1)

    with pytest.raises(Boom), Harness() as harness:
        main()
    assert len(harness.dead) == 1
    assert "raises Boom: cannot handle 1" in harness.story


def test_a_bus_of_an_earlier_harness_is_refused() -> None:
    """A harness accepts only a bus that was made inside it."""
    with Harness() as harness:
        bus = harness.start()
    with Harness() as another, pytest.raises(LifecycleError, match="was made outside the harness"):
        another.start(bus)


def test_two_harnesses_at_once_are_refused() -> None:
    """One process can have only one harness at a time, and the first is not disturbed by the second."""

    def second() -> None:
        with Harness():
            raise AssertionError("two at once")

    with Harness() as harness:
        bus = harness.start()
        inbox = bus.subscribe("a")
        error = in_real_thread(second)
        assert isinstance(error, LifecycleError)
        assert "there can be one at a time" in str(error)
        bus.publish("a", 1, delay=1.0)
        assert inbox.receive().body == 1


def test_a_harness_inside_a_harness_shares_its_time() -> None:
    """The inner harness has its own buses and records, and the outer one continues afterwards."""
    with Harness() as outer:
        bus = outer.start()
        outer.advance(5.0)
        with Harness() as inner:
            other = inner.start()
            other.subscribe("a", fine, name="s")
            other.publish("a", delay=2.0)
            inner.drain()
            assert (inner.elapsed, len(inner.delivered)) == (2, 1)
        assert other.state == "stopped"
        assert bus.state == "started"
        assert (outer.elapsed, outer.delivered) == (7, [])


def test_run_filter_inside_a_harness_is_its_own_affair() -> None:
    """A test may use both, and they do not affect each other."""
    with Harness() as harness:
        harness.start()
        assert run_filter(look, Message("a")).outcome
        assert harness.published == []


def test_run_on_a_running_loop_is_refused() -> None:
    """The refusal leaves no coroutine that was never awaited."""

    async def main() -> None:
        with Harness() as harness:
            harness.start()
            with pytest.raises(
                LifecycleError, match=r"harness.run was called on a running event loop; write a plain `def` test"
            ):
                harness.run(asyncio.sleep(1))

    asyncio.run(main())
    gc.collect()


def test_a_harness_may_be_used_inside_a_running_loop() -> None:
    """A harness does not wait on that loop, so an async test of another plugin can have it as a fixture."""

    async def main() -> list[Any]:
        with Harness() as harness:
            bus = Bus()
            bus.subscribe("a", fine, name="s")
            harness.start(bus)
            bus.publish("a", 1, delay=5.0)
            harness.advance(1.0)
            harness.drain()
            return [*bodies(harness.delivered_to("s")), harness.elapsed]

    assert asyncio.run(main()) == [1, 5]
    next_harness_works()


@pytest.mark.parametrize("call", ["areceive", "arequest", "adrain"])
def test_waiting_for_its_bus_on_a_real_loop_is_refused(call: str) -> None:
    """Such a wait would never return, because nothing else could run."""

    async def main() -> None:
        with Harness() as harness:
            bus = harness.start()
            inbox = bus.subscribe("a")
            bus.subscribe("b", fine)
            bus.publish("b", delay=1.0)
            waits = {"areceive": inbox.areceive, "arequest": lambda: bus.arequest("b"), "adrain": bus.adrain}
            with pytest.raises(RuntimeError, match=r"harness.run\(coroutine\)"):
                await asyncio.wait_for(waits[call](), WAIT)

    asyncio.run(main())


def test_run_filter_works_inside_a_running_loop() -> None:
    """An async test of another plugin may run one filter."""

    async def main() -> bool:
        return bool(run_filter(look, Message("a")).outcome)

    assert asyncio.run(main())


def interrupt(message: Message) -> None:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(100_000):  # the main thread gets the signal between two of its steps
        pass


@ways
def test_ctrl_c_leaves_the_block_as_what_it_is(run: str) -> None:
    """An interrupt may come while another thread runs: everything is restored, and nothing hides it."""
    raised: BaseException | None = None
    try:
        with Harness() as harness:
            bus = Bus()
            subscribe(bus, "a", interrupt, run)
            harness.start(bus)
            bus.publish("a")
            harness.drain()
    except BaseException as error:
        raised = error
    assert type(raised) is KeyboardInterrupt
    next_harness_works()


def test_an_alarm_of_the_test_leaves_the_block_as_what_it_is() -> None:
    """A test runner's timeout raises in the main thread, and comes through while a handler waits for a lock of its own."""

    class TooLong(Exception):
        pass

    lock = threading.Lock()
    lock.acquire()

    def alarm(*_: Any) -> None:
        lock.release()  # leaving the block waits for the handler
        raise TooLong

    def stand(message: Message) -> None:
        os.kill(os.getpid(), signal.SIGALRM)  # which reaches the main thread
        assert lock.acquire(timeout=WAIT)

    before = signal.signal(signal.SIGALRM, alarm)
    try:
        with pytest.raises(TooLong), Harness() as harness:  # noqa: PT012
            bus = Bus()
            bus.subscribe("a", stand)
            harness.start(bus)
            bus.publish("a")
            harness.drain()
    finally:
        signal.signal(signal.SIGALRM, before)
    next_harness_works()


def test_time_threads_and_locks_of_the_test_stay_real() -> None:
    """Only the bus's own code gets virtual ones."""
    lock, sleep = type(threading.Lock()), time.sleep
    with Harness() as harness:
        before = time.monotonic()
        harness.advance(1e9)
        assert time.monotonic() < before + 1e9
        assert in_real_thread(lambda: threading.current_thread().name) == "stranger"
        assert type(threading.Lock()) is lock
        assert time.sleep is sleep


def test_a_coroutine_may_wait_for_a_thread_of_its_own(harness: Harness) -> None:
    """Libraries hand work to threads in this way: the loop waits for the call that comes back."""
    bus, got = Bus(), []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:

        @bus.on("a")
        async def handler(message: Message) -> None:
            got.append(await asyncio.wrap_future(pool.submit(lambda: 42)))

        harness.start(bus).publish("a")
        harness.drain()
    assert got == [42]


def test_a_fault_may_come_after_the_work(harness: Harness) -> None:
    """A caller that tries again does the work twice, and a test can check that the program survives this."""
    bus, done = Bus(), []
    bus.subscribe("a", lambda message: done.append(message.body), name="s", filters=[Retry(attempts=2, wait=0)])
    harness.start(bus)
    harness.fail("s", late=True)
    bus.publish("a", 1)
    harness.drain()
    assert done == [1, 1]
    assert "(on purpose) fails after its work: InjectedError" in harness.story

"""FakeClock: a test moves the time of a bus that runs on real threads."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from flow_helpers import WAIT, Ear, InThread, fine, running
from pipebus import Bus, Delivery, DrainTimeout, MailboxFull, Message, ReceiveTimeout, RequestTimeout
from pipebus.bus.bus import engine_of
from pipebus.clock import Clock
from pipebus.events import Acknowledged, Discarded, Returned
from pipebus.filters import Expire, Retry
from pipebus.testing import FakeClock, Harness

LONG_AGO = 1_000_000_000.0


# --- what it shows -----------------------------------------------------------------------------------------------------


def test_it_stands_still() -> None:
    """The clock does not move, whatever real time does."""
    clock = FakeClock(LONG_AGO)
    assert [clock.now(), clock.now(), clock.monotonic(), clock.monotonic()] == [LONG_AGO, LONG_AGO, 0, 0]


def test_it_moves_by_what_a_test_says() -> None:
    """The time of day and the monotonic time move by the same amount."""
    clock = FakeClock(LONG_AGO)
    clock.advance(2.5)
    clock.advance(0)
    assert (clock.now(), clock.monotonic()) == (LONG_AGO + 2.5, 2.5)


def test_it_begins_at_the_time_of_the_computer() -> None:
    """Messages that a test makes by hand are therefore new."""
    before = time.time()
    start = FakeClock().now()
    assert before <= start <= time.time()


def test_a_start_of_zero_is_a_start() -> None:
    """1970 is a time like any other."""
    assert FakeClock(0.0).now() == 0


@pytest.mark.parametrize("seconds", [-0.001, -1, float("nan")], ids=str)
def test_it_does_not_go_back(seconds: float) -> None:
    """Time only goes forward, and a refused move has moved nothing."""
    clock = FakeClock(LONG_AGO)
    with pytest.raises(ValueError, match=r"advance.*time goes forward only"):
        clock.advance(seconds)
    assert clock.monotonic() == 0


def test_it_is_exact() -> None:
    """The time is 0.3 after 0.1 and 0.2, and 0.8 after eight times 0.1."""
    clock = FakeClock(LONG_AGO)
    clock.advance(0.1)
    clock.advance(0.2)
    assert clock.monotonic() == 0.3
    for _ in range(5):
        clock.advance(0.1)
    assert clock.monotonic() == 0.8


def test_it_is_a_clock() -> None:
    """A bus accepts it, and a filter's `start` receives it."""
    clock: Clock = FakeClock()
    assert engine_of(Bus(clock=clock)).clock is clock


# --- waiting -----------------------------------------------------------------------------------------------------------


def test_a_sleeper_wakes_when_its_time_has_come() -> None:
    """A sleeper does not wake early, and several steps count as much as one."""
    clock = FakeClock()
    sleeper = InThread(clock.sleep, 10.0)
    for seconds in (4.0, 5.999):
        clock.wait_until_waited_for()
        clock.advance(seconds)
    assert sleeper.running
    clock.advance(0.001)
    assert sleeper.result() is None


def test_many_sleepers_wake_each_at_its_time() -> None:
    """One move of the clock may wake several sleepers."""
    clock = FakeClock()
    sleepers = {seconds: InThread(clock.sleep, seconds) for seconds in (1.0, 2.0, 3.0)}
    clock.wait_until_waited_for(3)
    clock.advance(2.0)
    sleepers[1.0].result()
    sleepers[2.0].result()
    clock.wait_until_waited_for(1)
    assert sleepers[3.0].running
    clock.advance(1.0)
    sleepers[3.0].result()


@pytest.mark.parametrize("seconds", [0, -1.0])
def test_no_time_is_no_wait(seconds: float) -> None:
    """Nobody has to move the clock for such a wait."""
    InThread(FakeClock().sleep, seconds).result()


def test_small_steps_add_up_for_a_sleeper() -> None:
    """Eight steps of 0.1 are the 0.8 that the sleeper waits for."""
    clock = FakeClock()
    sleeper = InThread(clock.sleep, 0.8)
    clock.wait_until_waited_for()
    for _ in range(8):
        clock.advance(0.1)
    sleeper.result()


def test_a_coroutine_sleeps_by_it_too() -> None:
    """`asleep` works on an event loop, and a thread may move the clock."""
    clock = FakeClock()

    async def main() -> float:
        sleeper = asyncio.create_task(clock.asleep(5.0))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not sleeper.done()
        await asyncio.to_thread(clock.advance, 5.0)
        await sleeper
        return clock.monotonic()

    assert InThread(asyncio.run, main()).result() == 5


def test_a_gate_that_opens_ends_a_wait() -> None:
    """The wait returns True for the gate, and time did not move."""
    clock = FakeClock()
    gate = threading.Lock()
    gate.acquire()
    waiting = InThread(clock.wait, gate, 10.0)
    clock.wait_until_waited_for()
    gate.release()
    assert waiting.result() is True
    assert gate.locked()  # it was taken
    assert clock.monotonic() == 0


def test_a_gate_that_stays_shut_ends_a_wait_with_its_time() -> None:
    """A wait returns False when its time is up."""
    clock = FakeClock()
    gate = threading.Lock()
    gate.acquire()
    waiting = InThread(clock.wait, gate, 10.0)
    clock.wait_until_waited_for()
    clock.advance(10.0)
    assert waiting.result() is False


def test_an_open_gate_needs_no_time() -> None:
    """An open gate lets a thread pass at once, even without a timeout."""
    for timeout in (None, 0.0, 10.0):
        assert InThread(FakeClock().wait, threading.Lock(), timeout).result() is True


def test_a_timeout_counts_from_the_time_that_its_thread_last_read() -> None:
    """A thread that computed "10 s from now" before a move waits only for the rest."""
    clock = FakeClock()
    gate = threading.Lock()
    gate.acquire()
    read, moved = threading.Event(), threading.Event()

    def wait() -> bool:
        clock.monotonic()
        read.set()
        moved.wait(WAIT)
        return clock.wait(gate, 10.0)

    waiting = InThread(wait)
    assert read.wait(WAIT)
    clock.advance(10.0)
    moved.set()
    assert waiting.result() is False


def test_a_test_may_wait_until_somebody_waits() -> None:
    """Otherwise a test might move the clock too early."""
    clock = FakeClock()
    sleepers = [InThread(clock.sleep, 1.0) for _ in range(3)]
    clock.wait_until_waited_for(3)
    assert all(sleeper.running for sleeper in sleepers)
    clock.advance(1.0)
    for sleeper in sleepers:
        sleeper.result()


def test_a_test_that_waits_for_too_many_is_told() -> None:
    """The error says how many threads wait."""
    with pytest.raises(TimeoutError, match="0 of 2 threads wait for this clock"):
        FakeClock().wait_until_waited_for(2, timeout=0.0)


def test_nobody_is_counted_twice_or_for_ever() -> None:
    """A thread that has continued does not count as waiting any more."""
    clock = FakeClock()
    for _ in range(5):
        sleeper = InThread(clock.sleep, 1.0)
        clock.wait_until_waited_for()
        clock.advance(1.0)
        sleeper.result()
    with pytest.raises(TimeoutError, match="0 of 1"):
        clock.wait_until_waited_for(timeout=0.0)


# --- a bus that goes by it -----------------------------------------------------------------------------------------------


def test_receive_times_out_when_the_clock_is_moved() -> None:
    """A reader on a real thread times out by the fake clock."""
    clock = FakeClock()
    with running(Bus(clock=clock)) as bus:
        inbox = bus.subscribe("a", name="inbox")
        reader = InThread(inbox.receive, 30.0)
        clock.wait_until_waited_for()
        clock.advance(30.0)
        with pytest.raises(ReceiveTimeout, match="nothing arrived for inbox in 30 s"):
            reader.result()


def test_a_delayed_message_is_handled_when_the_clock_is_moved() -> None:
    """A delayed message is not handled before its time."""
    clock = FakeClock()
    bus = Bus(clock=clock)
    ear = Ear(bus)
    bus.subscribe("a", fine)
    with running(bus):
        bus.publish("a", delay=60.0)
        clock.advance(59.0)
        assert ear.of(Acknowledged) == []
        clock.wait_until_waited_for()
        clock.advance(1.0)
        ear.wait_for(Acknowledged)


def test_retries_of_a_filter_wait_for_the_clock() -> None:
    """Each wait of a retry has its own length."""
    clock = FakeClock()
    bus = Bus(clock=clock)
    ear = Ear(bus)
    calls: list[float] = []
    called = threading.Semaphore(0)
    bus.use(Retry(attempts=3, wait=10.0, max_wait=60.0, jitter=0), at="delivery")

    @bus.on("a")
    def fails_twice(message: Message) -> None:
        calls.append(clock.monotonic())
        called.release()
        if len(calls) < 3:
            raise ConnectionError

    with running(bus):
        bus.publish("a")
        for seconds in (10.0, 20.0):
            assert called.acquire(timeout=WAIT)
            clock.wait_until_waited_for()
            clock.advance(seconds)
        ear.wait_for(Acknowledged)
    assert calls == [0, 10, 30]


def test_returned_deliveries_wait_for_the_clock() -> None:
    """`delivery.retry(delay)` waits for the fake clock."""
    clock = FakeClock()
    bus = Bus(clock=clock)
    ear = Ear(bus)
    taken: list[tuple[int, float]] = []

    @bus.on("a")
    def back(delivery: Delivery) -> None:
        taken.append((delivery.attempt, clock.monotonic()))
        if delivery.attempt == 1:
            delivery.retry(delay=60.0)

    with running(bus):
        bus.publish("a")
        ear.wait_for(Returned)
        clock.wait_until_waited_for()
        clock.advance(60.0)
        ear.wait_for(Acknowledged)
    assert taken == [(1, 0), (2, 60)]


def test_a_message_is_too_old_by_the_clock() -> None:
    """`Expire` and a message's own ttl count ages by the clock."""
    clock = FakeClock()
    bus = Bus(clock=clock)
    ear = Ear(bus)
    bus.use(Expire("1h"))
    bus.subscribe("a", fine, name="s")
    with running(bus):
        old = Message("a", "old", time=clock.now())
        bus.publish("a", "late", ttl=60.0, delay=61.0)
        clock.wait_until_waited_for()
        clock.advance(61.0)
        assert [event.message.body for event in ear.wait_for(Discarded)] == ["late"]
        assert bus.send(old)
        clock.advance(3600.0)
        assert not bus.send(old)


@pytest.mark.parametrize("call", ["request", "drain", "block"])
def test_other_waits_of_a_bus_end_with_the_clock(call: str) -> None:
    """Requests, drains, and publishers that wait for room end with the clock."""
    clock = FakeClock()
    with running(Bus(clock=clock), drain=False) as bus:
        bus.subscribe("silent", fine)
        inbox = bus.subscribe("full", name="inbox", mailbox=1, overflow_timeout=30.0)
        late = bus.subscribe("late", fine, name="late")
        bus.publish("full")
        if call == "drain":
            bus.publish("late", delay=3600.0)
        waits: dict[str, tuple[Any, type[Exception]]] = {
            "request": (lambda: bus.request("silent", timeout=30.0), RequestTimeout),
            "drain": (lambda: bus.drain(30.0), DrainTimeout),
            "block": (lambda: bus.publish("full"), MailboxFull),
        }
        wait, error = waits[call]
        waiting = InThread(wait)
        clock.wait_until_waited_for(2 if call == "drain" else 1)
        clock.advance(30.0)
        with pytest.raises(error, match="30 s"):
            waiting.result()
        inbox.unsubscribe()
        late.unsubscribe()


def test_schedules_tick_when_the_clock_is_moved() -> None:
    """A schedule ticks once in each interval of the fake clock."""
    clock = FakeClock()
    with running(Bus(clock=clock)) as bus:
        inbox = bus.subscribe("tick")
        bus.every(60.0, "tick")
        for _ in range(3):
            clock.wait_until_waited_for()
            clock.advance(60.0)
            assert inbox.receive(timeout=WAIT).subject == "tick"
        assert inbox.stats()["accepted"] == 3


def test_two_buses_may_go_by_one_clock() -> None:
    """One move of the clock moves both buses."""
    clock = FakeClock()
    with running(Bus(clock=clock)) as first, running(Bus(clock=clock)) as second:
        readers = [InThread(bus.subscribe("a").receive, 5.0) for bus in (first, second)]
        clock.wait_until_waited_for(2)
        clock.advance(5.0)
        for reader in readers:
            with pytest.raises(ReceiveTimeout):
                reader.result()


def test_the_clock_of_a_harness_is_one_too() -> None:
    """The clock moves by itself when no thread can continue, and `advance` moves it like the harness's own."""
    with Harness() as harness:
        clock = harness.clock
        assert isinstance(clock, FakeClock)
        bus = Bus()
        times: list[float] = []
        began = clock.now()
        bus.subscribe("a", lambda message: times.append(clock.now() - began), name="s")
        harness.start(bus)
        bus.publish("a", delay=30.0)
        clock.advance(30.0)
        assert times == [30]
        assert harness.elapsed == 30
        harness.run(clock.asleep(5.0))
        clock.sleep(5.0)
        assert harness.elapsed == 40


def test_the_clock_of_a_harness_begins_with_the_computers() -> None:
    """Messages that were made by hand before it are therefore not old."""
    with Harness() as harness:
        assert abs(harness.clock.now() - time.time()) < 3600

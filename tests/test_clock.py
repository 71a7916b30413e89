"""Clocks, and that a test can control the time."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipebus import Around, Bus, Message, Pause, ReceiveTimeout
from pipebus.clock import Clock, Gate, SystemClock


class OwnClock(SystemClock):
    """A clock whose time of day does not move until it is set, and whose sleeps take no time."""

    def __init__(self, now: float) -> None:
        self.time = now
        self.slept: list[float] = []

    def now(self) -> float:  # type: ignore[override]
        return self.time

    def sleep(self, seconds: float) -> None:  # type: ignore[override]
        self.slept.append(seconds)

    async def asleep(self, seconds: float) -> None:  # type: ignore[override]
        self.slept.append(seconds)

    def wait(self, gate: Gate, timeout: float | None) -> bool:  # type: ignore[override]
        if timeout is None or timeout < 100.0:
            return SystemClock.wait(gate, timeout)
        self.slept.append(round(timeout, 3))  # a pause, which a stop may end, and therefore not a sleep
        return False


NOON = 1_357_041_600.0


@pytest.fixture
def clock() -> OwnClock:
    return OwnClock(NOON)


@pytest.fixture
def bus(clock: OwnClock) -> Iterator[Bus]:
    """A started bus that goes by the test's clock."""
    with Bus(clock=clock) as bus:
        yield bus


@pytest.fixture
def held() -> Iterator[threading.Lock]:
    """A gate that is shut."""
    gate = threading.Lock()
    gate.acquire()
    yield gate
    if gate.locked():
        gate.release()


# --- the computer's clocks -----------------------------------------------------------------------------------------------


def test_now_is_the_time_of_day() -> None:
    """The time is in seconds since 1970, UTC, as `time.time` gives it."""
    before = time.time()
    found = SystemClock().now()
    assert before <= found <= time.time()


def test_monotonic_never_goes_back() -> None:
    """It is the computer's monotonic clock."""
    clock = SystemClock()
    before = time.monotonic()
    readings = [clock.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)
    assert before <= readings[0] <= readings[-1] <= time.monotonic()


def test_sleep_lets_time_pass() -> None:
    """A sleep takes at least the time that was asked for, on the monotonic clock."""
    clock = SystemClock()
    before = clock.monotonic()
    clock.sleep(0.01)
    assert clock.monotonic() - before >= 0.01


@pytest.mark.parametrize("timeout", [None, 0.0, -1.0, 5.0, 1e12, math.inf], ids=str)
def test_an_open_gate_is_passed_at_once(timeout: float | None) -> None:
    """The length of the timeout does not matter, and the gate is shut again afterwards."""
    gate = threading.Lock()
    assert SystemClock().wait(gate, timeout) is True
    assert gate.locked()


def waited(gate: threading.Lock, timeout: float | None, meanwhile: Callable[[], object] = lambda: None) -> list[bool]:
    """What `wait` returns, on its own thread, so that an endless wait is a failure and not a hang."""
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(SystemClock().wait(gate, timeout)), daemon=True)
    waiting.start()
    meanwhile()
    waiting.join(timeout=10)
    return answers


@pytest.mark.parametrize("timeout", [0.0, -1.0, -math.inf, 0.001], ids=str)
def test_a_shut_gate_is_not_waited_for_longer_than_asked(timeout: float, held: threading.Lock) -> None:
    """False means that time ran out; a timeout in the past is neither an error nor an endless wait."""
    assert waited(held, timeout) == [False]


@pytest.mark.parametrize("timeout", [None, 10.0, 1e12, math.inf], ids=str)
def test_a_gate_that_opens_is_passed(timeout: float | None, held: threading.Lock) -> None:
    """
    A waiting thread continues when another thread opens the gate, even without a timeout or with one beyond what threads can
    count.
    """
    assert waited(held, timeout, meanwhile=held.release) == [True]


def test_the_systems_clock_is_a_clock() -> None:
    """It has every method of the protocol, so a test's own may be made the same way."""
    methods = {name for name in vars(Clock) if not name.startswith("_")}
    assert {"now", "monotonic", "sleep", "wait"} <= methods
    assert all(callable(getattr(SystemClock(), name)) for name in methods)


# --- a test's own clock --------------------------------------------------------------------------------------------------


def test_messages_are_stamped_by_the_buss_clock(bus: Bus, clock: OwnClock) -> None:
    """`message.time` is the clock's time at the publish, so a test can know it in advance."""
    with bus.subscribe("a") as sub:
        bus.publish("a")
        clock.time += 3600
        bus.publish("a")
        assert [sub.receive(timeout=10).time for _ in range(2)] == [NOON, NOON + 3600]


@pytest.mark.parametrize(("age", "lives"), [(0.0, True), (59.9, True), (60.0, True), (60.1, False), (1e9, False)], ids=str)
def test_a_message_expires_by_the_buss_clock(bus: Bus, clock: OwnClock, age: float, lives: bool) -> None:
    """A message expires when the clock says so, without a real wait, and counts as dropped."""
    with bus.subscribe("a") as sub:
        bus.publish("a", "fresh", ttl=60.0)
        clock.time += age
        if lives:
            assert sub.receive(timeout=10).body == "fresh"
        else:
            with pytest.raises(ReceiveTimeout):
                sub.receive(timeout=0)
        stats = sub.stats()
    assert (stats["acknowledged"], stats["dropped"]) == ((1, {}) if lives else (0, {"expired": 1}))


def test_a_clock_that_goes_back_expires_nothing(bus: Bus, clock: OwnClock) -> None:
    """The time of day may jump; a message from the future has not expired."""
    with bus.subscribe("a") as sub:
        bus.publish("a", "fresh", ttl=60.0)
        clock.time -= 86_400
        assert sub.receive(timeout=10).body == "fresh"


class Slowly(Around):
    """A filter that waits for minutes."""

    waits = True

    def around(self, message: Message[Any]) -> Any:
        yield Pause(300.0)
        yield message


def test_a_pause_is_slept_on_the_buss_clock(clock: OwnClock) -> None:
    """A filter that waits takes no time in a test."""
    bus = Bus(clock=clock)
    bus.use(Slowly())
    with bus, bus.subscribe("a") as sub:
        bus.publish("a", 1)
        assert sub.receive(timeout=10).body == 1
    assert clock.slept == [300.0]


def test_a_pause_in_a_coroutine_is_slept_on_the_buss_clock(clock: OwnClock) -> None:
    """A pause does not take real time when the chain is awaited."""

    async def publish_and_read() -> Any:
        async with bus, bus.subscribe("a") as sub:
            await bus.apublish("a", 1)
            return (await sub.areceive(timeout=10)).body

    bus = Bus(clock=clock)
    bus.use(Slowly())
    assert asyncio.run(publish_and_read()) == 1
    assert clock.slept == [300.0]


def test_dead_letters_are_dated_by_the_buss_clock(bus: Bus, clock: OwnClock) -> None:
    """The bus's clock gives both the time of the first attempt and the time of the death."""
    bus.subscribe("a", lambda message: 1 / 0)
    bus.publish("a")
    bus.drain(timeout=10)
    (letter,) = bus.dead_letters.list()
    assert (letter.first_time, letter.time) == (NOON, NOON)

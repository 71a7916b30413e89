"""
Nothing is left (guarantee 25): ten thousand starts and stops leave no thread, task or file descriptor behind, and a million
messages leave no memory in use.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from flow_helpers import WAIT, fine, wait_until
from pipebus import Bus, Message, Transform
from pipebus.bus.bus import engine_of
from scale_helpers import scaled


async def afine(message: Message) -> None:
    """A coroutine that has nothing to do."""


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """The number of bytes of memory that this process uses."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def nothing_left() -> Iterator[None]:
    """Check that the block leaves no new thread and no new file descriptor."""
    gc.collect()
    threads, files = set(threading.enumerate()), descriptors()
    yield
    gc.collect()
    wait_until(lambda: set(threading.enumerate()) <= threads, "no thread is left")
    assert descriptors() <= files


class Filter(Transform):
    """A filter that counts how often it starts and stops."""

    started = stopped = 0

    def start(self, context: Any) -> None:
        self.started += 1

    async def stop(self) -> None:
        self.stopped += 1

    def transform(self, message: Message) -> Message:
        return message


def idle(bus: Bus) -> None:
    """Subscribe in every way, with nothing to do."""
    bus.subscribe("s", fine)
    bus.subscribe("s", fine, run="thread")
    bus.subscribe("s", afine)
    bus.subscribe("s")


def on_the_pool(bus: Bus) -> None:
    bus.subscribe("s", fine)
    bus.subscribe("s", fine, workers=2)


def on_threads(bus: Bus) -> None:
    bus.subscribe("s", fine, run="thread")


def on_a_loop(bus: Bus) -> None:
    bus.subscribe("s", afine)
    bus.subscribe("s", fine, run="loop")


def everywhere(bus: Bus) -> None:
    on_the_pool(bus)
    on_threads(bus)
    on_a_loop(bus)


Setting = Callable[[Bus], None]

ROUNDS: tuple[tuple[Setting, bool, int], ...] = (
    (idle, False, 500),
    (on_the_pool, True, 100),
    (on_threads, True, 100),
    (on_a_loop, True, 50),
    (everywhere, True, 25),
)
"""The subscriptions, whether messages are published, and how often the bus starts and stops (`-m thorough`: ten times)."""

rounds = pytest.mark.parametrize(("setting", "busy", "count"), ROUNDS, ids=[setting.__name__ for setting, *_ in ROUNDS])


@scaled(1, 4, "times")
@rounds
@pytest.mark.few(2)
def test_s25_a_bus_that_starts_and_stops_again_and_again_leaves_nothing(
    setting: Setting, busy: bool, count: int, times: int
) -> None:
    """After hundreds of starts and stops of one bus, with messages in between, there is no new thread or file descriptor."""
    count *= times
    with nothing_left():
        bus = Bus()
        setting(bus)
        for _ in range(count):
            with bus:
                if busy:
                    bus.publish("s")

        assert sum(s.stats()["acknowledged"] for s in bus.subscriptions) == count * len(bus.subscriptions) * busy
        assert bus.stop().drained


@scaled(1, 4, "times")
@rounds
@pytest.mark.few(2)
def test_s25_buses_that_come_and_go_leave_nothing(setting: Setting, busy: bool, count: int, times: int) -> None:
    """Many buses that start and stop, one after the other, leave nothing behind."""
    with nothing_left():
        for _ in range(count * times // 2):
            bus = Bus()
            setting(bus)
            with bus:
                if busy:
                    bus.publish("s")


@rounds
def test_s25_a_bus_that_nobody_holds_is_forgotten(setting: Setting, busy: bool, count: int) -> None:
    """A stopped bus is garbage like any other object, with its subscriptions and its messages."""
    buses: list[weakref.ref[Bus]] = []
    for _ in range(10):
        bus = Bus()
        setting(bus)
        with bus:
            bus.publish("s")
        buses.append(weakref.ref(bus))
    del bus
    gc.collect()

    assert [bus() for bus in buses] == [None] * 10


@scaled(30, 200)
def test_s25_buses_on_a_callers_loop_leave_nothing(count: int) -> None:
    """After many `async with` blocks, of one bus and of fresh ones, the loop has no task but the caller's."""
    with nothing_left():

        async def main() -> None:
            again = Bus()
            everywhere(again)
            gc.collect()
            before: tuple[set[threading.Thread], int] | None = None
            for number in range(count):
                fresh = Bus()
                everywhere(fresh)
                for bus in (again, fresh):
                    async with bus:
                        await bus.apublish("s")
                    assert asyncio.all_tasks() == {asyncio.current_task()}
                if number == 10:
                    before = set(threading.enumerate()), descriptors()
            assert before is not None
            assert set(threading.enumerate()) <= before[0]
            assert descriptors() <= before[1]

        asyncio.run(main())


@scaled(30, 120)
def test_s25_one_bus_on_many_loops_leaves_nothing(count: int) -> None:
    """One bus starts on many loops, one after the other, and every second loop ends without `astop`."""
    with nothing_left():
        bus = Bus()
        everywhere(bus)

        async def main(number: int) -> None:
            await bus.astart()
            await bus.apublish("s")
            await bus.adrain(WAIT)
            if number % 2:
                await bus.astop(WAIT)

        for number in range(count):
            asyncio.run(main(number))
            bus.stop(WAIT)

        assert sum(s.stats()["acknowledged"] for s in bus.subscriptions) == count * len(bus.subscriptions)


@scaled(50, 300)
def test_s10_filters_are_started_and_stopped_as_often_as_the_bus(count: int) -> None:
    """An async `stop` needs the bus's loop, and that loop is gone after each stop, too."""
    with nothing_left():
        bus, counts = Bus(), Filter()
        bus.use(counts)
        on_the_pool(bus)
        for _ in range(count):
            with bus:
                bus.publish("s")

        assert counts.started == counts.stopped == count


@scaled(50, 250)
def test_s26_subscriptions_that_come_and_go_leave_nothing(count: int) -> None:
    """Many subscriptions of every kind on one running bus leave nothing behind when they end."""
    with nothing_left(), Bus() as bus:
        for _ in range(count):
            for options in ({}, {"workers": 3}, {"run": "thread"}, {"run": "loop"}):
                with bus.subscribe("s", fine, **options):  # type: ignore[arg-type]
                    bus.publish("s")
        assert bus.subscriptions == []
        assert len(engine_of(bus).router.routes) <= 1


@scaled(200, 1_000)
def test_s29_requests_leave_nothing(count: int) -> None:
    """Many requests and answers, in threads and coroutines, leave nothing behind."""
    with nothing_left(), Bus() as bus:
        bus.subscribe("double", lambda message: message.body * 2)

        async def ask() -> None:
            for number in range(count):
                assert (await bus.arequest("double", number)).body == 2 * number

        for number in range(count):
            assert bus.request("double", number).body == 2 * number
        asyncio.run(ask())
        assert engine_of(bus).replies.open == {}
        assert len(engine_of(bus).router.routes) <= 1


@scaled(30_000, 500_000)
@pytest.mark.parametrize(
    ("handler", "options"),
    [(fine, {}), (fine, {"run": "thread"}), (afine, {}), (fine, {"workers": 2})],
    ids=["pool", "thread", "loop", "two-workers"],
)
@pytest.mark.few(1)
def test_s18_a_million_messages_leave_memory_flat(handler: Any, options: dict[str, Any], count: int) -> None:
    """The process needs no more memory after the second half of the messages than after the first half."""
    with Bus() as bus:
        subscription = bus.subscribe("s", handler, **options)

        def publish_half() -> int:
            for body in range(count // 2):
                bus.publish("s", body)
            bus.drain(60.0)
            gc.collect()
            return resident()

        first = publish_half()
        second = publish_half()

        assert subscription.stats()["acknowledged"] == count
        assert second - first < 4 * 2**20  # a message that was kept would cost some 200 bytes, so half of them 6 MB or more

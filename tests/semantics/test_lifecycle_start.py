"""
Guarantees 10, 25 and 26: a start opens the bus once, is undone if it is not completed, and starts and stops each filter once.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from actor_helpers import Notes
from flow_helpers import WAIT, Hold, InThread, Passing, fine, wait_until
from loop_helpers import POOL, THREAD, Way, amain, until, ways
from pipebus import Bus, Handlers, Message, Receipt, StopReport, Transform
from pipebus.clock import SystemClock
from pipebus.transports.memory import MemoryTransport

LOOP = Way("loop", colour="async")


class Late(MemoryTransport):
    """A transport that calls something once, when a stop has found the bus quiet and has not closed it yet."""

    def __init__(self, late: Callable[[], None]) -> None:
        super().__init__()
        self.late = late
        self.came = False

    @property
    def local(self) -> bool:
        if not self.came and sys._getframe(1).f_code.co_name == "transport_quiet":
            self.came = True
            self.late()
        return True


class Listening(SystemClock):
    """A clock that records when a stop waits for quiet once more."""

    def __init__(self, transport: Late) -> None:
        self.transport = transport
        self.again = threading.Event()

    def monotonic(self) -> float:
        if self.transport.came and sys._getframe(1).f_code.co_name == "quiet":
            self.again.set()
        return SystemClock.monotonic()


@ways(POOL, THREAD, LOOP)
def test_s25_a_subscriber_that_was_at_work_while_the_bus_opened_once_more_goes_on(way: Way) -> None:
    """If a stop has to open the bus again for late messages, a busy subscriber handles them, and then the stop ends."""
    gates = {body: Hold() for body in ("x1", "y1", "y2")}
    at_x, at_y = way.hold(), Hold()

    def turnstile(message: Message, call_next: Any) -> Any:
        if message.body in gates:
            gates[message.body](message)
        return call_next(message)

    def late() -> None:
        gates["x1"].open()
        at_x.wait_started()
        gates["y1"].open()
        at_y.wait_started()
        gates["y2"].open()
        wait_until(lambda: y.stats()["pending"] == 1, "a message waits, so that the bus has to open again")

    def handle_y(message: Message) -> None:
        at_y(message)
        if message.body == "y1":
            bus.publish("x", "x2")
            at_x.open()

    transport = Late(late)
    clock = Listening(transport)
    bus = Bus(transport, clock=clock)
    bus.use(turnstile)
    x, y = way.subscribe(bus, "x", at_x), bus.subscribe("y", handle_y)
    with way.started(bus):
        publishers = [InThread(bus.publish, body[0], body) for body in gates]
        for gate in gates.values():
            gate.wait_started()
        stopping = InThread(bus.stop, WAIT / 2)
        assert clock.again.wait(WAIT)
        at_y.open()

        assert stopping.result() == StopReport(drained=True)
        assert [publisher.result() for publisher in publishers] == [Receipt(1)] * 3
        assert at_x.given == ["x1", "x2"]
        assert (x.stats()["acknowledged"], y.stats()["acknowledged"]) == (2, 2)


class Stopping(Passing):
    """A filter that stops the bus in its own `start`, or in its own `stop`."""

    def __init__(self, moment: str) -> None:
        super().__init__()
        self.moment = moment
        self.reports: list[StopReport] = []

    def start(self, context: Any) -> Any:
        super().start(context)
        self.bus = context.bus
        if self.moment == "start":
            self.reports.append(self.bus.stop(timeout=WAIT))

    def stop(self) -> Any:
        super().stop()
        if self.moment == "stop":
            self.reports.append(self.bus.stop(timeout=WAIT))


class AsyncStopping(Stopping):
    """The same on the bus's loop."""

    async def start(self, context: Any) -> None:
        Passing.start(self, context)
        self.bus = context.bus
        if self.moment == "start":
            self.reports.append(await self.bus.astop(timeout=WAIT))

    async def stop(self) -> None:
        Passing.stop(self)
        if self.moment == "stop":
            self.reports.append(await self.bus.astop(timeout=WAIT))


@pytest.mark.parametrize("stops", [Stopping, AsyncStopping], ids=["sync", "async"])
@pytest.mark.parametrize("moment", ["start", "stop"])
def test_s25_a_filter_that_stops_the_bus_in_its_own_start_or_stop_only_requests(moment: str, stops: type[Stopping]) -> None:
    """Such a stop would wait for itself, so it only requests; the bus and the filter can start and stop any number of times."""
    stopping, handled = stops(moment), Hold(open=True)
    bus = Bus()
    bus.use(stopping)
    bus.subscribe("s", handled)

    def live(body: int) -> StopReport:
        bus.start()
        assert bus.state == "started"
        assert bus.stopping == (moment == "start")
        bus.publish("s", body)
        return bus.stop(timeout=WAIT)

    for body in range(3):
        assert InThread(live, body).result() == StopReport(drained=True)

    assert bus.state == "stopped"
    assert stopping.reports == [StopReport(drained=False)] * 3
    assert stopping.life == ["start", "stop"] * 3
    assert handled.given == [0, 1, 2]


def threads() -> set[str]:
    """The names of the threads that a bus has started."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("pipebus")}


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_s25_a_start_that_is_cancelled_is_undone(times: int) -> None:
    """If `async with bus` is cancelled while a filter starts, the bus is stopped again, because nobody else would stop it."""
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Passing):
        def start(self, context: Any) -> None:
            entered.set()
            assert go_on.wait(2 * WAIT)
            super().start(context)

    slow, before = Slow(), threads()
    bus = Bus()
    bus.use(slow)

    async def use() -> None:
        async with bus:
            raise AssertionError("nobody comes here")

    async def main() -> None:
        using = asyncio.create_task(use())
        await until(entered)
        for _ in range(times):  # a time-out within a time-out
            using.cancel()
            await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await using

        assert bus.state == "stopped"
        assert slow.life == ["start", "stop"]
        assert threads() == before

    try:
        amain(main)
    finally:
        go_on.set()


class Subscribing(Passing):
    """A filter that subscribes a handler in its own `start`, which runs on the bus's loop."""

    async def start(self, context: Any) -> None:
        Passing.start(self, context)
        context.bus.subscribe("other", fine, name="brought")


def _include(bus: Bus, guard: Transform) -> None:
    handlers = Handlers()
    handlers.on("s", filters=[guard])(fine)
    bus.include(handlers)


@pytest.mark.parametrize(
    "register",
    [
        pytest.param(lambda bus, guard: bus.subscribe("s", fine, filters=[guard]), id="subscribe"),
        pytest.param(lambda bus, guard: bus.spawn(Notes("s"), filters=[guard]), id="spawn"),
        pytest.param(_include, id="include"),
    ],
)
def test_s26_a_filter_may_subscribe_while_it_starts_on_a_running_bus(register: Callable[[Bus, Transform], Any]) -> None:
    """The caller that brings such a filter waits for its start, also on the bus's loop, and nobody waits forever."""
    subscribing = Subscribing()
    bus = Bus()
    bus.start()
    InThread(register, bus, subscribing).result()

    assert bus.publish("s") == bus.publish("other") == Receipt(1)
    assert InThread(bus.stop, WAIT).result() == StopReport(drained=True)
    assert subscribing.life == ["start", "stop"]


class Flaky(MemoryTransport):
    """A transport that cannot be started while `fails` is true."""

    fails = False

    def start(self, surroundings: Any) -> None:
        if self.fails:
            raise OSError("it is not there")
        super().start(surroundings)


def _fails_at_the_transport(bus: Bus, transport: Flaky) -> None:
    transport.fails = True


def _fails_at_a_late_filter(bus: Bus, transport: Flaky) -> None:
    class Failing(Passing):
        def start(self, context: Any) -> None:
            raise OSError("it is not there")

    class Bringing(Passing):
        def start(self, context: Any) -> None:
            bus.subscribe("late", fine, filters=[Failing()])

    bus.use(Bringing())


@pytest.mark.parametrize(
    ("first", "fail"),
    [
        pytest.param(True, _fails_at_the_transport, id="first-start-transport"),
        pytest.param(False, _fails_at_the_transport, id="restart-transport"),
        pytest.param(False, _fails_at_a_late_filter, id="restart-late-filter"),
    ],
)
def test_s10_a_start_that_fails_stops_each_filter_once(first: bool, fail: Callable[[Bus, Flaky], None]) -> None:
    """Filters that had started are stopped, and they are not stopped again when the bus is stopped for good."""
    passing, transport = Passing(), Flaky()
    bus = Bus(transport)
    bus.use(passing)
    if not first:
        bus.start()
        bus.stop(timeout=WAIT)
        passing.life.clear()
    fail(bus, transport)

    with pytest.raises(OSError, match="not there"):
        bus.start()
    assert passing.life == ["start", "stop"]

    bus.stop(timeout=WAIT)
    assert passing.life == ["start", "stop"]

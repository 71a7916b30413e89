"""The main paths work on uvloop as they do on asyncio's own loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import WAIT, InThread, assert_conserved
from loop_helpers import AsyncHold
from missing import needs
from pipebus import Bus, BusClosed, Delivery, MailboxFull, Message, ReceiveTimeout
from values_helpers import environment

pytestmark = pytest.mark.thorough


@pytest.fixture(autouse=True)
def uvloop_there() -> None:
    needs("uvloop")


@pytest.fixture
def own_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bus's own loop is one of uvloop too, as after `uvloop.install()`."""
    import uvloop

    monkeypatch.setattr(asyncio, "new_event_loop", uvloop.new_event_loop)


def on_uvloop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine on a new loop of uvloop, in a thread, so that a run that never ends is a failure and not a hang."""
    import uvloop

    def run() -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())

    return InThread(run).result(2 * WAIT)


URLS = ["memory:", "memory:?wire=json", "sqlite"]


@pytest.fixture(params=URLS, ids=["memory", "wire", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/bus.db" if request.param == "sqlite" else request.param


def is_uvloop() -> bool:
    return type(asyncio.get_running_loop()).__module__.startswith("uvloop")


def test_handlers_run_on_the_loop_that_started_the_bus(url: str) -> None:
    """Coroutines and threads publish, and handlers of both colours get all messages, those of the coroutine in order."""
    bus, on_loop, on_pool = Bus(url, drain=True), list[Any](), list[Any]()

    @bus.on("a", name="loop")
    async def on_the_loop(body: int) -> None:
        await asyncio.sleep(0)
        on_loop.append((body, is_uvloop()))

    bus.subscribe("a", lambda message: on_pool.append(message.body), name="pool")

    async def main() -> None:
        async with bus:
            for number in range(100):
                await bus.apublish("a", number)
            threads = [asyncio.to_thread(bus.publish, "a", number) for number in range(100, 110)]
            await asyncio.gather(*threads)

    on_uvloop(main)
    assert on_loop[:100] == [(number, True) for number in range(100)]
    assert sorted(on_loop) == [(number, True) for number in range(110)]
    assert (on_pool[:100], sorted(on_pool)) == ([*range(100)], [*range(110)])
    assert_conserved(*bus.subscriptions)


def test_requests_are_answered_across_threads_and_loops(url: str) -> None:
    bus = Bus(url)

    @bus.on("double", name="double")
    async def double(body: int) -> int:
        await asyncio.sleep(0)
        return body * 2

    @bus.on("half", name="half")
    def half(body: int) -> float:
        return body / 2

    async def main() -> Any:
        async with bus:
            own = await asyncio.gather(*(bus.arequest("double", number, timeout=WAIT) for number in range(20)))
            other = await asyncio.to_thread(bus.request, "double", 21, timeout=WAIT)
            return [reply.body for reply in own], other.body, (await bus.arequest("half", 5, timeout=WAIT)).body

    assert on_uvloop(main) == ([2 * number for number in range(20)], 42, 2.5)


@pytest.mark.usefixtures("own_loops")
def test_the_bus_has_a_loop_of_its_own(url: str) -> None:
    """A program without coroutines: the async chain and the async handler run on the bus's own loop."""
    bus, seen = Bus(url, drain=True), list[Any]()

    @bus.use
    async def check(message: Any, call_next: Any) -> Any:
        await asyncio.sleep(0)
        return await call_next(message.with_headers(uvloop=str(is_uvloop())))

    @bus.on("a", name="a")
    async def handle(message: Message) -> int:
        seen.append((message.body, message.headers["uvloop"], is_uvloop()))
        return 7

    with bus:
        bus.publish("a", 1)
        assert bus.request("a", 2, timeout=WAIT).body == 7
        bus.drain(WAIT)
    assert seen == [(1, "True", True), (2, "True", True)]


def test_mailboxes_are_read_and_room_is_awaited(url: str) -> None:
    """Readers on the loop wait without stopping it; a publisher waits for room, until it is there or the time is up."""
    bus = Bus(url)
    inbox = bus.subscribe("a", name="inbox", mailbox=2, overflow_timeout=WAIT)

    async def main() -> list[Any]:
        async with bus:
            with pytest.raises(ReceiveTimeout):
                await inbox.areceive(timeout=0.01)
            writer = asyncio.create_task(write())
            found = []
            async for message in inbox:
                found.append(message.body)
                if len(found) == 10:
                    break
            await writer
            async with inbox.adelivery(timeout=WAIT) as delivery:
                return [*found, delivery.message.body]

    async def write() -> None:
        for number in range(11):
            await bus.apublish("a", number)

    assert on_uvloop(main) == [*range(11)]


def test_a_full_mailbox_refuses_in_time() -> None:
    bus, hold = Bus(), AsyncHold()
    bus.subscribe("a", hold, mailbox=1, overflow_timeout=0.02)

    async def main() -> None:
        async with bus:
            await bus.apublish("a", 1)
            with pytest.raises(MailboxFull):
                await bus.apublish("a", 2)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await bus.apublish("a", 3)
            hold.open()

    on_uvloop(main)
    assert hold.given == [1]


def test_a_stop_breaks_off_a_handler_that_does_not_end(url: str) -> None:
    """Its coroutine is cancelled, its message goes back, and the next start handles it on the new loop."""
    bus, hold = Bus(url), AsyncHold()
    bus.subscribe("a", hold, name="a")

    async def main() -> Any:
        await bus.astart()
        await bus.apublish("a", 1)
        await asyncio.to_thread(hold.wait_started)
        return await bus.astop(timeout=0.05)

    async def again() -> Any:
        hold.open()
        async with bus:
            await asyncio.to_thread(hold.wait_started)
            await bus.adrain(WAIT)

    report = on_uvloop(main)
    assert (report.left, hold.cancelled) == ({"a": 1}, [1])
    with pytest.raises(BusClosed):
        bus.publish("a", 2)
    on_uvloop(again)
    assert hold.given == [1, 1]


def test_a_delivery_is_given_back_and_tried_again(url: str) -> None:
    bus, attempts = Bus(url), list[int]()

    @bus.on("a", name="a", attempts=2)
    async def handle(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        delivery.retry(delay=0.01)

    async def main() -> None:
        died = asyncio.Event()
        loop = asyncio.get_running_loop()
        bus.observe(lambda event: loop.call_soon_threadsafe(died.set) if type(event).__name__ == "Died" else None)
        async with bus:
            await bus.apublish("a", 1)
            await asyncio.wait_for(died.wait(), WAIT)

    on_uvloop(main)
    assert attempts == [1, 2]
    assert [letter.message.body for letter in bus.dead_letters.list()] == [1]


PROGRAM = """
import asyncio, os, signal, sys
import uvloop
from pipebus import Bus

bus = Bus()

@bus.on("a")
async def handle(body: int):
    if body == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.01)
    print("handled", body)

@bus.on("go")
async def go():
    for number in range(3):
        await bus.apublish("a", number)

async def main():
    async with asyncio.TaskGroup() as group:
        running = group.create_task(bus.arun())
        while bus.state != "started":
            await asyncio.sleep(0.001)
        await bus.apublish("go")
    print(running.result().drained, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


def test_arun_hears_signals() -> None:
    """SIGTERM drains the bus and ends `arun`; afterwards the signal is the program's again."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=2 * WAIT, check=False, env=environment()
    )
    assert (done.stdout, done.stderr) == ("handled 0\nhandled 1\nhandled 2\nTrue True\n", "")

"""
Now and then the operating system cannot start a thread: "can't start new thread". That can happen to each thread of the bus.
A publisher gets a Receipt or an error, and a message with a Receipt is handled as soon as a thread can be started.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import (
    WAIT,
    Hold,
    InThread,
    assert_all_published_accounted_for,
    assert_conserved,
    publish,
    running,
    wait_until,
)
from loop_helpers import POOL, THREAD, Way, ways
from pipebus import Actor, Bus, Message, Receipt, StopReport
from pipebus.filters import Retry, Timeout
from pipebus.running.worker import Worker

start = threading.Thread.start


class Starts:
    """
    Lets some of the thread starts fail: the n-th one, and a number of those after it.

    Args:
        first: Number of the first that fails, from 1.
        many: How many fail one after the other.
    """

    def __init__(self, first: int, many: int = 1) -> None:
        self.first = first
        self.many = many
        self.seen = 0
        self.failed = 0

    def start(self, thread: threading.Thread) -> None:
        if thread.name.startswith("Thread-"):  # a thread of the test
            start(thread)
            return
        self.seen += 1
        if self.first <= self.seen < self.first + self.many:
            self.failed += 1
            raise RuntimeError("can't start new thread")
        start(thread)


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, first: int, many: int = 1) -> Iterator[Starts]:
    starts = Starts(first, many)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda thread: starts.start(thread))
        yield starts


async def acall(message: Message, call_next: Any) -> Any:
    return await call_next(message)


class Scene:
    """A bus, the messages published there with a Receipt, and the messages that were handled."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.receipts: list[Any] = []
        self.told: list[Any] = []
        self.handled: list[Any] = []

    def handle(self, message: Message) -> None:
        self.handled.append(message.body)

    async def ahandle(self, message: Message) -> None:
        self.handled.append(message.body)

    def ask(self, message: Message) -> None:
        """Handle a message by waiting for another handler."""
        self.bus.request("answers", message.body, timeout=WAIT)
        self.handled.append(message.body)

    def publish(self, subject: str = "s", **options: Any) -> None:
        for number in range(10):
            body = f"{subject} {number}"
            try:
                outcome = self.bus.publish(subject, body, **options)
            except RuntimeError as error:
                if "can't start new thread" not in str(error):
                    raise
                self.told.append(body)
            else:
                assert isinstance(outcome, Receipt)
                self.receipts.append(body)


def on_pool(scene: Scene) -> None:
    scene.bus.subscribe("s", scene.handle, name="s")


def two_workers(scene: Scene) -> None:
    scene.bus.subscribe("s", scene.handle, name="s", workers=2)


def own_thread(scene: Scene) -> None:
    scene.bus.subscribe("s", scene.handle, name="s", run="thread")


def on_loop(scene: Scene) -> None:
    scene.bus.subscribe("s", scene.ahandle, name="s")


def everywhere(scene: Scene) -> None:
    """One subscription for each way to run, so that each gets a copy of a message."""
    scene.bus.subscribe("s", lambda message: None, name="pool")
    scene.bus.subscribe("s", lambda message: None, name="thread", run="thread")
    scene.bus.subscribe("s", scene.handle, name="s", run="loop")


def waiting_handlers(scene: Scene) -> None:
    scene.bus.subscribe("s", scene.ask, name="s", workers=3)
    scene.bus.subscribe("answers", lambda message: "answer", name="answers", workers=3)


def async_filter(scene: Scene) -> None:
    scene.bus.use(acall)
    on_pool(scene)


def abandoning_filter(scene: Scene) -> None:
    """A filter that needs a thread for a moment for each publish."""
    scene.bus.use(Timeout(WAIT, abandon=True))
    on_pool(scene)


def retrying_filter(scene: Scene) -> None:
    """A filter that repeats a failed pass, unless a mailbox has the message."""
    scene.bus.use(Retry(attempts=3, wait=0.0))
    scene.bus.subscribe("s", scene.handle, name="s")
    scene.bus.subscribe("s", lambda message: None, name="thread", run="thread")


Build = Callable[[Scene], None]
SCENES = (
    on_pool,
    two_workers,
    own_thread,
    on_loop,
    everywhere,
    waiting_handlers,
    async_filter,
    abandoning_filter,
    retrying_filter,
)


def run(scene: Scene, **options: Any) -> None:
    bus = scene.bus
    try:
        bus.start()
    except RuntimeError:  # the caller gets the error; nothing is left of that start
        bus.start()
    scene.publish(**options)
    bus.drain(WAIT)

    assert set(scene.handled) >= set(scene.receipts)
    assert len(scene.handled) == len(set(scene.handled))
    assert_conserved(*bus.subscriptions)
    assert_all_published_accounted_for(bus)
    assert bus.stop(timeout=WAIT) == StopReport(drained=True)


def each_start(monkeypatch: pytest.MonkeyPatch, run_one: Callable[[int], object], many: int = 1) -> int:
    """Run a scene again and again, with a failure of the first thread start, the second, and so on, until it needs no more."""
    first = 1
    while True:
        with failing(monkeypatch, first, many) as starts:
            InThread(run_one, first).result(3 * WAIT)
        if not starts.failed:
            return first - 1
        first += 1


@pytest.mark.parametrize("many", [1, 3], ids=["one", "three-in-a-row"])
@pytest.mark.parametrize("build", SCENES, ids=lambda build: build.__name__)
def test_a_thread_that_cannot_be_started_loses_nothing(build: Build, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever thread fails, each Receipt is handled once, a drain ends, the figures add up, and a stop finds nothing left."""

    def run_one(first: int) -> None:
        scene = Scene(Bus())
        build(scene)
        run(scene)

    assert each_start(monkeypatch, run_one, many) >= 1


def test_a_timer_that_cannot_be_started_loses_no_delayed_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delayed messages come in time as soon as a timer can be started."""

    def run_one(first: int) -> None:
        scene = Scene(Bus())
        on_pool(scene)
        run(scene, delay=0.001)

    assert each_start(monkeypatch, run_one) >= 2


def test_a_store_that_cannot_start_its_thread_says_so_and_can_be_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes the SQLite transport's own thread."""

    def run_one(first: int) -> None:
        scene = Scene(Bus(f"sqlite:///{tmp_path / f'{first}.db'}?durability=process"))
        on_pool(scene)
        run(scene)

    assert each_start(monkeypatch, run_one) >= 2


@pytest.mark.parametrize("way", [{}, {"workers": 2}, {"run": "thread"}, {"run": "loop"}], ids=str)
def test_no_further_call_is_needed_once_a_thread_can_be_had(way: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The messages are handled although nobody drains and nobody publishes again."""
    scene = Scene(Bus())
    scene.bus.subscribe("s", scene.handle, **way)
    scene.bus.start()
    with failing(monkeypatch, 1):
        scene.publish()
        wait_until(lambda: set(scene.handled) >= set(scene.receipts), "everything is handled")

    assert len(scene.receipts) >= 9
    assert scene.bus.stop(timeout=WAIT) == StopReport(drained=True)


def test_a_drain_tries_again_while_no_thread_at_all_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without even a timer, each publisher gets an error or a Receipt, and the first drain that can start a worker does so."""
    scene = Scene(Bus())
    on_pool(scene)
    scene.bus.start()
    with failing(monkeypatch, 1, many=1000) as starts:
        scene.publish()
        assert starts.failed

    scene.bus.drain(WAIT)
    assert set(scene.handled) >= set(scene.receipts)
    assert scene.bus.stop(timeout=WAIT) == StopReport(drained=True)


@pytest.mark.parametrize("build", [on_pool, own_thread, on_loop], ids=lambda build: build.__name__)
def test_a_stop_ends_while_no_thread_can_be_had(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report says what is left over, and the next start handles it."""
    scene = Scene(Bus())
    build(scene)
    scene.bus.start()
    with failing(monkeypatch, 1, many=1000):
        scene.publish()
        report = InThread(scene.bus.stop, 0.0).result()
    left = len(scene.receipts) + len(scene.told)

    assert report.left == {"s": left}
    scene.bus.start()
    scene.bus.drain(WAIT)
    assert len(scene.handled) == left
    assert scene.bus.stop(timeout=WAIT) == StopReport(drained=True)


def test_whoever_cannot_be_answered_for_want_of_a_thread_is_answered_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler asks a second one and gets its answer, although the only other worker cannot be started at first."""
    answered: list[Any] = []
    with Bus(pool=2) as bus:
        bus.subscribe("asked", lambda message: message.body + 1)
        bus.subscribe("asks", lambda message: answered.append(bus.request("asked", message.body, timeout=WAIT).body))
        with failing(monkeypatch, 2):
            bus.publish("asks", 1)
            bus.drain(WAIT)

        assert answered == [2]


def test_an_actor_that_is_spawned_again_goes_on_without_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message after the last one from before the stop does not depend on a thread that cannot be started."""
    hold = Hold()

    class Slow(Actor):
        def on_message(self, message: Message) -> None:
            hold(message)

    with Bus() as bus:
        actor = bus.spawn(Slow("slow"))
        bus.publish(actor, "before")
        hold.wait_started()
        actor.stop()
        bus.spawn(actor)
        bus.publish(actor, "after")
        with failing(monkeypatch, 1):
            hold.open()
            bus.drain(WAIT)

        assert hold.given == ["before", "after"]


@pytest.mark.parametrize("first", [1, 2, 3, 4])
def test_a_block_on_an_event_loop_ends_though_a_thread_cannot_be_had(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entering and leaving `async with` need threads for a moment, too, and both end."""
    scene = Scene(Bus())
    on_pool(scene)

    async def main() -> None:
        async with scene.bus:
            for number in range(3):
                try:
                    await scene.bus.apublish("s", number)
                except RuntimeError:
                    scene.told.append(number)
                else:
                    scene.receipts.append(number)

    with failing(monkeypatch, first):
        InThread(asyncio.run, main()).result(3 * WAIT)

    assert set(scene.handled) >= set(scene.receipts)
    assert scene.bus.state == "stopped"


def refuse_one(monkeypatch: pytest.MonkeyPatch, which: Callable[[threading.Thread], bool]) -> list[str]:
    """Let the first start of such a thread fail; return the names of the refused ones."""
    refused: list[str] = []
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if not refused and which(thread):
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    return refused


def test_s23_a_worker_that_cannot_be_started_does_not_end_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher gets the error; the next message starts a worker, which takes the first message too."""
    refused = refuse_one(monkeypatch, lambda thread: isinstance(thread, Worker))
    handled = Hold(open=True)
    with running() as bus:
        bus.subscribe("s", handled)
        bus.subscribe("t", handled)
        with pytest.raises(RuntimeError, match="thread"):
            bus.publish("s", "first")
        bus.publish("t", "second")
        bus.drain(WAIT)

        assert sorted(handled.given) == ["first", "second"]
        assert refused == ["pipebus-1"]


def test_s33_a_timer_that_cannot_be_started_is_started_with_the_next_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher gets the error; the next delayed message starts a timer, and both messages come in time."""
    refused = refuse_one(monkeypatch, lambda thread: thread.name.endswith("-timer"))
    handled = Hold(open=True)
    with running() as bus:
        bus.subscribe("s", handled)
        with pytest.raises(RuntimeError, match="thread"):
            bus.publish("s", "first", delay=0.001)
        bus.publish("s", "second", delay=0.001)
        bus.drain(WAIT)

        assert handled.given == ["first", "second"]
        assert refused == ["pipebus-timer"]


def test_s25_a_loop_that_cannot_be_started_is_started_with_the_next_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """An async publish chain needs the bus's loop: the publisher gets an error without it, and the next message starts it."""

    async def pass_on(message: Message, call_next: Any) -> Any:
        return await call_next(message)

    refused = refuse_one(monkeypatch, lambda thread: thread.name.endswith("-loop"))
    handled = Hold(open=True)
    bus = Bus()
    bus.use(pass_on)
    bus.subscribe("s", handled)
    bus.start()
    with pytest.raises(RuntimeError, match="thread"):
        bus.publish("s", "first")

    assert InThread(publish, bus, "s", "second").result() == Receipt(1)
    assert InThread(bus.stop, WAIT).result() == StopReport(drained=True)
    assert handled.given == ["second"]
    assert refused == ["pipebus-loop"]


LOOP = Way("loop", colour="async")


@ways(POOL, THREAD, LOOP)
def test_s25_after_a_restart_nothing_is_left_of_a_thread_that_could_not_be_started(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start handles the message that was left over, and a drain ends."""
    handled = Hold(open=True)
    bus = Bus()
    way.subscribe(bus, "s", lambda message: handled(message))
    bus.start()
    refuse_one(monkeypatch, lambda thread: thread.name.startswith("pipebus"))
    with pytest.raises(RuntimeError, match="thread"):
        bus.publish("s", "first")
    bus.stop(timeout=0.0)
    with running(bus):
        bus.drain(WAIT)

        assert handled.given == ["first"]

"""
Deliveries at a bad moment: a key whose turn was dropped, a worker that is faster, an observer that exits, a thread that cannot
be had, a loop that goes on in another thread or is closed under its handlers. Guarantees 13, 18, 19, 21, 23 to 26, 32 and 33.
"""

from __future__ import annotations

import asyncio
import importlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from flow_helpers import (
    LONG,
    WAIT,
    Ear,
    Hold,
    InThread,
    assert_conserved,
    boom,
    fine,
    publish,
    running,
    wait_until,
)
from loop_helpers import POOL, THREAD, LoopInThread, Way, until, ways
from pipebus import (
    Actor,
    Bus,
    Dropped,
    Message,
    Receipt,
    StopReport,
    transform,
)
from pipebus.events import Acknowledged, Died, Discarded, Taken
from pipebus.running.runners import Worker
from pipebus.testing import Harness

LOOP = Way("loop", colour="async")

# --- keys and their order ----------------------------------------------------------------------------------------------


class Line:
    """A handler that notes what it is given; "first" and "other" stand still until they are opened."""

    def __init__(self) -> None:
        self.first, self.other = Hold(), Hold()
        self.given: list[Any] = []

    def __call__(self, message: Message) -> None:
        self.given.append(message.body)
        hold = {"first": self.first, "other": self.other}.get(message.body)
        if hold is not None:
            hold(message)

    def of(self, *bodies: str) -> list[str]:
        return [body for body in self.given if body in bodies]


def test_s24_a_message_that_is_dropped_holds_up_nobody_of_its_key() -> None:
    """It was next of its key when drop_oldest took it: those that come after it are handled, in order."""
    line = Line()
    with running() as bus:
        subscription = bus.subscribe("s", line, workers=2, mailbox=4, overflow="drop_oldest")
        bus.publish("s", "first", key="k")
        line.first.wait_started()
        bus.publish("s", "second", key="k")
        bus.publish("s", "other")
        line.other.wait_started()  # so "second" has been taken out of the line, to wait for its key
        subscription.pause()
        line.first.open()
        line.other.open()
        wait_until(lambda: subscription.stats()["in_flight"] == 0, "both have ended")
        for number in range(4):
            bus.publish("s", f"filling {number}")
        subscription.resume()
        bus.drain(WAIT)
        for body in ("third", "fourth"):
            bus.publish("s", body, key="k")
        bus.drain(WAIT)

        assert line.of("first", "second", "third", "fourth") == ["first", "third", "fourth"]
        assert subscription.stats()["dropped"] == {"overflow": 1}
        assert subscription.stats()["pending"] == 0


def test_s24_a_message_that_was_interrupted_and_then_dropped_holds_up_nobody_of_its_key() -> None:
    """Ctrl-C in its handler has put it back, and drop_oldest took it: those that come after it are handled."""
    given: list[Any] = []

    def handle(message: Message) -> None:
        if message.body == "first":
            raise KeyboardInterrupt
        given.append(message.body)

    bus = Bus()
    subscription = bus.subscribe("s", handle, workers=2, mailbox=2, overflow="drop_oldest")
    bus.start()
    bus.publish("s", "first", key="k")
    wait_until(lambda: subscription.paused and subscription.stats()["in_flight"] == 0, "it has gone back")
    for number in range(2):
        bus.publish("s", number)
    bus.stop(timeout=WAIT)
    with running(bus):
        bus.drain(WAIT)
        bus.publish("s", "second", key="k")
        bus.drain(WAIT)

        assert sorted(map(str, given)) == ["0", "1", "second"]
        assert subscription.stats()["dropped"] == {"overflow": 1}
        assert subscription.stats()["pending"] == 0


def test_s24_messages_that_go_back_to_a_store_come_again_in_the_order_of_their_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop gives back what waits for its key; after the next start all of it is handled, in order."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "transports")
    transport = importlib.import_module("byte_transport").ByteTransport()
    line = Line()
    bus = Bus(transport)
    subscription = bus.subscribe("s", line, name="s", workers=2)
    bus.start()
    for body in ("first", "second", "third"):
        bus.publish("s", body, key="k")
    mailbox: Any = subscription.mailbox
    wait_until(lambda: len(mailbox.aside) == 2, "two wait for their key")
    subscription.pause()
    line.first.open()
    wait_until(lambda: subscription.stats()["in_flight"] == 0, "the first has ended")
    bus.stop(timeout=WAIT)
    subscription.resume()
    with running(bus):
        bus.publish("s", "fourth", key="k")
        bus.drain(WAIT)

        assert line.given == ["first", "second", "third", "fourth"]


# --- subscriptions that end ----------------------------------------------------------------------------------------------


def test_s26_unsubscribe_is_final_also_if_the_worker_takes_the_last_message_at_that_moment() -> None:
    """What it finds is dropped, counted and told; the message that the worker was faster with is not."""

    class Contested(deque[Any]):
        """A queue whose worker takes the last message just after somebody has looked whether there is one."""

        def __len__(self) -> int:
            length = super().__len__()
            if length == 1:
                self.popleft()
                mailbox.taken += 1
                mailbox.acknowledged += 1
            return length

        def __bool__(self) -> bool:
            return len(self) > 0

    hold = Hold()
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        subscription = bus.subscribe("s", hold)
        bus.publish("s", "in the handler")
        hold.wait_started()
        for number in range(3):
            bus.publish("s", number)
        mailbox: Any = subscription.mailbox
        mailbox.items = Contested(mailbox.items)
        ending = InThread(subscription.unsubscribe, WAIT)
        ear.wait_for(Discarded, count=2)
        hold.open()
        ending.result()

        assert [event.message.body for event in ear.of(Discarded)] == [0, 1]
        assert subscription.stats()["dropped"] == {"unsubscribed": 2}
        assert_conserved(subscription, accepted=4)


# --- who refused it ------------------------------------------------------------------------------------------------------


def test_s19_a_body_that_does_not_fit_is_refused_by_the_subscription_that_it_came_to() -> None:
    """Two subscriptions share one handler, and two actors one class: the dead letter names the right one."""

    def bill(amount: int) -> None: ...

    class Branch(Actor):
        def on_message(self, amount: int) -> None: ...  # type: ignore[override]

    names = ("one", "two", "eu", "us")
    with running() as bus:
        for name in names[:2]:
            bus.subscribe(name, bill, name=name)
        for name in names[2:]:
            bus.spawn(Branch(name))
        for name in names:
            bus.publish(name, "no number")
        bus.drain(WAIT)

        refused_by = {letter.subscription: letter.error.split(":")[1].strip() for letter in bus.dead_letters}
        assert refused_by == {name: f"rejected by {name}" for name in names}


# --- observers and loggers that exit ---------------------------------------------------------------------------------------


@ways(POOL, THREAD, LOOP)
@pytest.mark.parametrize("event", [Taken, Acknowledged, Died], ids=lambda event: event.__name__)
def test_s13_an_observer_that_exits_requests_a_stop_and_ends_no_worker(event: type[Any], way: Way) -> None:
    """`sys.exit()` in an observer: what it was told of and what comes after it is handled, and the stop ends."""

    def leave(heard: Any) -> None:
        if isinstance(heard, event) and heard.message.body == 0:
            raise SystemExit(3)

    bus = Bus(pool=1)
    bus.observe(leave)
    subscription = way.subscribe(bus, "s", boom if event is Died else fine)
    bus.start()
    for body in range(3):
        bus.publish("s", body)
    InThread(bus.drain, WAIT).result()

    assert bus.stopping
    assert bus.stats()["observer_errors"] == 1
    assert InThread(bus.stop, WAIT).result() == StopReport(drained=True)
    assert subscription.stats()["dead" if event is Died else "acknowledged"] == 3


@pytest.fixture
def exiting_logger() -> Iterator[None]:
    """A log that ends whoever tells it of a dead letter."""

    def leave(_: Any, __: str, line: Any) -> Any:
        if line["event"] == "delivery.died":
            raise SystemExit(3)
        raise structlog.DropEvent

    structlog.configure(processors=[leave], cache_logger_on_first_use=False)
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("exiting_logger")
@ways(POOL, THREAD, LOOP)
def test_s13_a_logger_that_exits_ends_no_worker(way: Way) -> None:
    """It is counted, a stop is requested, and the next message is handled like any other."""
    bus = Bus(pool=1)
    subscription = way.subscribe(bus, "s", boom)
    bus.start()
    for body in range(2):
        bus.publish("s", body)
    InThread(bus.drain, WAIT).result()

    assert bus.stopping
    assert bus.stats()["log_errors"] == 2
    assert subscription.stats()["dead"] == 2
    assert InThread(bus.stop, WAIT).result() == StopReport(drained=True)


# --- loops that end, or go elsewhere ---------------------------------------------------------------------------------------


def test_s32_a_coroutine_that_waits_is_woken_though_its_loop_runs_in_another_thread_by_now() -> None:
    """It asks while one thread runs its loop, and is answered by that thread when another one does."""
    questions: list[Message] = []
    asked, answered = threading.Event(), threading.Event()

    def take(message: Message) -> None:
        questions.append(message)
        asked.set()

    asking: list[asyncio.Task[Message]] = []

    async def ask() -> None:
        asking.append(asyncio.create_task(bus.arequest("question", timeout=LONG)))
        asking[0].add_done_callback(lambda _: answered.set())
        await until(asked)

    with running() as bus:
        bus.subscribe("question", take)
        with LoopInThread(set_up=ask) as loop:
            loop.loop.set_debug(True)  # so that a call from the wrong thread is an error, each time
            loop.call(lambda: None)
            bus.publish(questions[0].reply_to, "answer")

            assert answered.wait(WAIT)
            assert asking[0].result().body == "answer"


def passes(message: Message) -> Message:
    """What a filter does that has nothing to do."""
    return message


@pytest.mark.parametrize(
    ("observed", "options"),
    [
        pytest.param(False, {}, id="plain"),
        pytest.param(True, {}, id="observed"),
        pytest.param(False, {"workers": 2}, id="several-workers"),
        pytest.param(False, {"filters": [transform(passes)]}, id="filtered"),
    ],
)
@pytest.mark.parametrize("end", ["waits", "fails"])
def test_s13_a_handler_whose_loop_is_closed_under_it_gives_its_message_back_however_it_ends(
    end: str, observed: bool, options: dict[str, Any]
) -> None:
    """It waits or fails in its `finally`: that is no failure of the message, which is handled after the next start."""
    handled: list[Any] = []
    started = threading.Event()

    async def handle(message: Message) -> None:
        if started.is_set():
            handled.append(message.body)
            return
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            if end == "fails":
                raise ValueError("in a finally")
            await asyncio.sleep(0)

    bus = Bus()
    if observed:
        Ear(bus)
    subscription = bus.subscribe("s", handle, **options)

    async def main() -> None:
        await bus.astart()
        bus.publish("s", "once")
        await until(started)

    def whole_life_of_a_loop() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.set_exception_handler(lambda *_: None)  # asyncio says that a task was destroyed: that is what this is about
        loop.close()

    InThread(whole_life_of_a_loop).result()
    assert bus.stop(timeout=0.0).left == {subscription.name: 1}
    assert not bus.dead_letters
    with running(bus):
        bus.drain(WAIT)

        assert handled == ["once"]
        assert_conserved(subscription, accepted=1)


# --- threads that cannot be had ------------------------------------------------------------------------------------------


def refuse_one(monkeypatch: pytest.MonkeyPatch, which: Callable[[threading.Thread], bool]) -> list[str]:
    """The operating system has no thread to give: the first start of such a one fails. The names of those refused."""
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
    """Who publishes is told; with the next message a worker comes, and takes the first one too."""
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
    """Who publishes is told; the next delayed message brings a timer, and both come in their time."""
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
    """An async publish chain needs the bus's loop: who publishes is told that there is none; the next one gets one."""

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


@ways(POOL, THREAD, LOOP)
def test_s25_after_a_restart_nothing_is_left_of_a_thread_that_could_not_be_started(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message that nobody could handle is handled then, and a drain ends."""
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


# --- schedules -------------------------------------------------------------------------------------------------------------


def test_s21_a_tick_that_a_filter_drops_is_published_and_dropped(harness: Harness) -> None:
    """A schedule counts what it has handed in, as the bus does; the drop stands in the bus's figures, under the filter."""

    def refuse(message: Message, call_next: Any) -> Any:
        return Dropped("unwanted")

    harness.bus.use(refuse)
    schedule = harness.bus.every(60.0, "tick")
    with running(harness.bus) as bus:
        harness.advance(60.0)

        assert schedule.stats()["published"] == bus.stats()["published"] == 1
        assert bus.stats()["dropped"] == {"refuse": {"unwanted": 1}}

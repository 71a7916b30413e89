"""
A stop loses nothing: a handler that it breaks off has not failed, and on a durable transport it begins no new message.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import LONG, WAIT, Boom, InThread, wait_until
from pipebus import Actor, Around, Bus, BusClosed, Delivery, Message, Pause, PipebusError, Pipeline, StopReport, when
from pipebus.bus.bus import engine_of
from pipebus.bus.stopping import pools
from pipebus.filters import Redeliver, Retry, Timeout

sys.path.append(str(Path(__file__).parents[1] / "transports"))

SHORT = 0.05
"""Seconds that a stop in these tests waits for handlers that cannot end."""


class Place:
    """A place where the buses of a test keep their messages."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.made: list[Bus] = []
        self._registered: list[Callable[[Bus], object]] = []

    @property
    def keeps(self) -> bool:
        return not self.url.startswith("memory")

    def start(self, *registrations: Callable[[Bus], object], **options: Any) -> Bus:
        self._registered = list(registrations)
        return self._start(Bus(self.url, **options))

    def again(self, bus: Bus) -> Bus:
        """A bus for the next run: the same one in memory, otherwise the bus of another program on the same store."""
        return self._start(Bus(self.url)) if self.keeps else bus.start()

    def _start(self, bus: Bus) -> Bus:
        self.made.append(bus)
        for register in self._registered:
            register(bus)
        return bus.start()


def _place(request: pytest.FixtureRequest, kind: str) -> Iterator[Place]:
    if kind == "nats":
        from nats_server import NatsStage

        stage = NatsStage(request.getfixturevalue("server"))
        place = Place(stage.url)
    else:
        folder = request.getfixturevalue("tmp_path")
        place = Place({"memory": "memory:", "wire": "memory:?wire=json", "sqlite": f"sqlite:///{folder}/bus.db"}[kind])
    yield place
    for bus in place.made:
        bus.stop(timeout=1.0, drain=False)
    if kind == "nats":
        stage.wipe()


@pytest.fixture(params=["memory", "wire", "sqlite", "nats"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from _place(request, request.param)


@pytest.fixture(params=["sqlite", "nats"])
def store(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place where messages outlive the bus."""
    yield from _place(request, request.param)


# --- what the bus breaks off -------------------------------------------------------------------------------------------


def as_it_is(error: Exception) -> None:
    raise error


def as_its_cause(error: Exception) -> None:
    raise Boom("the tool did not answer") from error


def hidden(error: Exception) -> None:
    try:
        raise error
    except PipebusError:
        raise Boom("the tool did not answer") from None


def in_a_group(error: Exception) -> None:
    raise ExceptionGroup("several tools", [Boom("another one"), ExceptionGroup("inner", [error])])


def from_finally(error: Exception) -> None:
    try:
        raise error
    finally:
        raise Boom("tidying up failed, too")


def later(error: Exception) -> None:
    with suppress(PipebusError):
        raise error
    raise Boom("there is no answer")


WRAPS: list[Callable[[Exception], None]] = [as_it_is, as_its_cause, hidden, in_a_group, from_finally, later]
FILTERS: dict[str, Callable[[], list[Any]]] = {
    "bare": list,
    "retry": lambda: [Retry(attempts=5, wait=0.0)],
    "redeliver": lambda: [Redeliver(wait=0.0)],
    "both": lambda: [Redeliver(wait=0.0), Retry(attempts=2, wait=0.0)],
    "dropped on an error": lambda: [Pipeline(Retry(attempts=2, wait=0.0), on_error="drop")],
}


class Agent:
    """An agent that asks somebody who does not answer the first time."""

    def __init__(self, end: Callable[[Exception], None] = as_it_is) -> None:
        self.end = end
        self.asking = threading.Event()
        self.attempts: list[int] = []
        self.runs = 0

    def handle(self, message: Message, delivery: Delivery, bus: Bus) -> None:
        self.runs += 1
        self.attempts.append(delivery.attempt)
        if len(self.attempts) == 1:
            self.asking.set()
            try:
                bus.request("person", timeout=LONG)
            except PipebusError as error:
                self.end(error)

    async def ahandle(self, message: Message, delivery: Delivery, bus: Bus) -> None:
        self.runs += 1
        self.attempts.append(delivery.attempt)
        if len(self.attempts) == 1:
            self.asking.set()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.ask(bus))
            except (PipebusError, ExceptionGroup) as error:
                self.end(error)

    @staticmethod
    async def ask(bus: Bus) -> None:
        await bus.arequest("person", timeout=LONG)

    def register(self, run: str, **options: Any) -> Callable[[Bus], None]:
        def register(bus: Bus) -> None:
            handler = self.ahandle if run == "loop" else self.handle
            bus.subscribe("task", handler, name="agent", run=run, **options)
            bus.subscribe("person", name="person")

        return register


def broken_off(bus: Bus, **options: Any) -> StopReport:
    """Stop while an agent waits, when nothing else is left to be handled."""
    pooled = pools(engine_of(bus), bus.subscriptions)
    if not any(
        one.plan.run_on == "loop" for one in bus.subscriptions
    ):  # a thread that is not yet in its wait has less time to end
        wait_until(lambda: any(worker.waits for pool in pooled for worker in list(pool.workers)), "the agent waits")
    report = bus.stop(**options)
    assert report.left.get("agent") == 1, report
    assert report.abandoned == ()
    assert not report.drained
    assert bus.dead_letters.list() == []
    return report


@pytest.mark.parametrize("run", ["pool", "thread", "loop"])
@pytest.mark.parametrize("end", WRAPS, ids=lambda end: end.__name__)
@pytest.mark.few(4)
def test_s35_a_request_that_a_stop_breaks_off_is_not_its_handlers_failure(
    place: Place, run: str, end: Callable[[Exception], None]
) -> None:
    """
    A handler waits for an answer when the bus stops. Whatever it makes of the error, its message goes back, no attempt is
    counted, the report names it, and the next run handles it.
    """
    agent = Agent(end)
    bus = place.start(agent.register(run, attempts=1))
    bus.publish("task")
    assert agent.asking.wait(WAIT)

    broken_off(bus, timeout=SHORT)

    again = place.again(bus)
    again.drain(WAIT)
    assert agent.attempts == [1, 1]
    assert again.stats()["subscriptions"]["agent"]["dead"] == 0


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("run", ["pool", "loop"])
@pytest.mark.parametrize("drain", [None, False], ids=["stop", "without-draining"])
@pytest.mark.few(4)
def test_no_filter_takes_the_end_of_the_bus_for_a_failure(
    place: Place, filters: Callable[[], list[Any]], run: str, drain: bool | None
) -> None:
    """Filters that retry, return or drop failed messages leave a delivery alone that the stop has broken off."""
    agent = Agent(as_its_cause)
    bus = place.start(agent.register(run, attempts=10, filters=filters()))
    bus.publish("task")
    assert agent.asking.wait(WAIT)

    broken_off(bus, timeout=SHORT, drain=drain)

    again = place.again(bus)
    again.drain(WAIT)
    assert (agent.attempts, agent.runs) == ([1, 1], 2)


@pytest.mark.few(1)
def test_a_time_limit_around_a_handler_changes_nothing(place: Place) -> None:
    """A `Timeout` around the handler changes nothing if the stop comes first, whether it cancels or leaves behind."""
    agent = Agent(as_its_cause)
    bus = place.start(agent.register("pool", filters=[Timeout(LONG, abandon=True)]))
    bus.publish("task")
    assert agent.asking.wait(WAIT)

    broken_off(bus, timeout=SHORT)

    place.again(bus).drain(WAIT)
    assert agent.attempts == [1, 1]


class Waits(Around):
    """A filter that pauses after a failure for a very long time."""

    waits = True
    pausing = threading.Event()

    def around(self, message: Message) -> Any:
        yield Pause(LONG if not self.pausing.is_set() and not self.pausing.set() else 0.0)
        yield message


@pytest.mark.few(2)
def test_a_handler_that_pauses_is_broken_off_too(place: Place) -> None:
    """If a filter around the handler waits when the bus stops, the wait ends, and the message goes back."""
    Waits.pausing = threading.Event()
    seen: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        seen.append(delivery.attempt)

    bus = place.start(lambda bus: bus.subscribe("task", handle, name="agent", filters=[Waits()]))
    bus.publish("task")
    assert Waits.pausing.wait(WAIT)

    broken_off(bus, timeout=SHORT)

    place.again(bus).drain(WAIT)
    assert seen == [1]


class Slow(Actor):
    """A filter actor that answers when the test lets it."""

    filter_timeout = LONG
    asked = threading.Event()
    go = threading.Event()

    def filter(self, message: Message) -> Message:
        self.asked.set()
        assert self.go.wait(LONG)
        return message


def test_a_handler_that_waits_for_a_filter_actor_is_broken_off_too() -> None:
    """When the time is up while the filter actor answers another question, the handler behind it in line is broken off."""
    Slow.asked, Slow.go = threading.Event(), threading.Event()
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery, bus: Bus) -> None:
        attempts.append(delivery.attempt)
        bus.publish("filtered")

    bus = Bus()
    slow = Slow("slow")
    bus.use(when("filtered", slow))
    bus.subscribe("task", handle, name="agent", attempts=1)
    filtered = bus.subscribe("filtered", name="filtered")
    bus.start()
    outsider = InThread(bus.publish, "filtered")
    assert Slow.asked.wait(WAIT)
    bus.publish("task")
    wait_until(lambda: len(attempts) == 1, "the handler runs")

    report = bus.stop(timeout=SHORT)

    assert report.left == {"agent": 1}
    assert len(report.abandoned) == 1  # the filter actor itself
    Slow.go.set()
    with suppress(BusClosed):
        outsider.result()
    assert len(bus.dead_letters) == 0
    bus.start()
    bus.drain(WAIT)
    assert attempts == [1, 1]
    assert filtered.stats()["accepted"] == 1
    bus.stop(WAIT)


def test_a_handler_in_front_of_a_full_mailbox_is_broken_off_too() -> None:
    """A handler that waits for room during a stop is broken off, because nobody will make room."""
    attempts: list[int] = []
    full = threading.Event()

    def handle(message: Message, delivery: Delivery, bus: Bus) -> None:
        attempts.append(delivery.attempt)
        bus.publish("narrow", 1)
        full.set()
        bus.publish("narrow", 2)

    bus = Bus()
    bus.subscribe("task", handle, name="agent", attempts=1)
    narrow = bus.subscribe("narrow", name="narrow", mailbox=1, overflow_timeout=LONG)
    bus.start()
    bus.publish("task")
    assert full.wait(WAIT)

    assert broken_off(bus, timeout=SHORT).left == {"agent": 1, "narrow": 1}

    bus.start()
    assert [narrow.receive(WAIT).body for _ in range(3)] == [1, 1, 2]
    bus.drain(WAIT)
    bus.stop(WAIT)
    assert attempts == [1, 1]


@pytest.mark.few(2)
def test_what_a_cancelled_handler_cannot_publish_any_more_is_not_its_failure(place: Place) -> None:
    """A publish in the `finally` of a cancelled handler is refused, and that does not count as a failure."""
    attempts: list[int] = []
    working = threading.Event()

    async def handle(message: Message, delivery: Delivery, bus: Bus) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) > 1:
            return
        try:
            working.set()
            await asyncio.sleep(LONG)
        finally:
            await bus.apublish("done")

    def register(bus: Bus) -> None:
        bus.subscribe("task", handle, name="agent", attempts=1)
        bus.subscribe("done", name="done")

    bus = place.start(register)
    bus.publish("task")
    assert working.wait(WAIT)

    broken_off(bus, timeout=SHORT)

    place.again(bus).drain(WAIT)
    assert attempts == [1, 1]


def test_a_reader_whose_block_a_stop_breaks_has_not_failed(place: Place) -> None:
    """A publish in a reader's block is refused during a stop: its message goes back, and no attempt is counted."""
    reading, stopping = threading.Event(), threading.Event()
    attempts: list[int] = []
    place_of: list[Any] = []

    def register(bus: Bus) -> None:
        place_of.append(bus.subscribe("task", name="agent", attempts=1))
        bus.observe(lambda event: stopping.set() if getattr(event, "new", None) == "draining" else None)

    def read() -> None:
        with place_of[-1].delivery(WAIT) as delivery:
            attempts.append(delivery.attempt)
            reading.set()
            assert stopping.wait(WAIT)
            bus.publish("next")

    bus = place.start(register)
    bus.publish("task")
    reader = InThread(read)
    assert reading.wait(WAIT)
    bus.stop(WAIT)
    with pytest.raises(BusClosed):
        reader.result()
    assert bus.dead_letters.list() == []

    place.again(bus)
    with place_of[-1].delivery(WAIT) as delivery:
        attempts.append(delivery.attempt)
    assert attempts == [1, 1]


@pytest.mark.parametrize("run", ["pool", "loop"])
def test_a_helper_that_is_refused_while_the_bus_drains_is_not_its_handlers_failure(run: str) -> None:
    """A thread of the handler's publishes during the drain, from outside, and is refused: the message goes back."""
    attempts: list[int] = []
    refused: list[str] = []
    working, draining = threading.Event(), threading.Event()

    def helper() -> None:
        try:
            bus.publish("next")
        except BusClosed as error:
            refused.append(type(error).__name__)
            raise

    def work(delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            working.set()
            assert draining.wait(WAIT)
            InThread(helper).result()

    def handle(message: Message, delivery: Delivery) -> None:
        work(delivery)

    async def ahandle(message: Message, delivery: Delivery) -> None:
        await asyncio.sleep(0)
        work(delivery)

    bus = Bus()
    bus.observe(lambda event: draining.set() if getattr(event, "new", None) == "draining" else None)
    subscription = bus.subscribe("task", ahandle if run == "loop" else handle, name="agent", attempts=1)
    bus.start()
    bus.publish("task")
    bus.publish("task")
    assert working.wait(WAIT)

    report = bus.stop(WAIT)

    assert (report.left, report.drained, refused) == ({"agent": 1}, False, ["BusClosed"])
    assert subscription.stats()["acknowledged"] == 1  # the other one is not affected
    bus.start()
    bus.drain(WAIT)
    assert attempts == [1, 1, 1]
    assert bus.stop(WAIT).drained


@pytest.mark.parametrize("run", ["pool", "loop"])
def test_a_handlers_own_failure_counts_while_the_bus_drains(place: Place, run: str) -> None:
    """A stop excuses no other error: a handler that fails by itself makes a dead letter."""
    working, draining = threading.Event(), threading.Event()

    def work(message: Message) -> None:
        working.set()
        assert draining.wait(WAIT)
        raise Boom("my own")

    async def awork(message: Message) -> None:
        work(message)

    def register(bus: Bus) -> None:
        bus.observe(lambda event: draining.set() if getattr(event, "new", None) == "draining" else None)
        bus.subscribe("task", awork if run == "loop" else work, name="agent", attempts=1)

    bus = place.start(register)
    bus.publish("task")
    assert working.wait(WAIT)

    report = bus.stop(WAIT)

    assert (report.left, report.abandoned) == ({}, ())
    assert [letter.error for letter in bus.dead_letters.list()] == ["Boom: my own"]


# --- a transport that survives -----------------------------------------------------------------------------------------


class Slowly:
    """A handler that waits at its first message."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.done: list[Any] = []
        self.working, self.go = threading.Event(), threading.Event()

    def register(self, bus: Bus) -> None:
        bus.subscribe("task", self.handle, name="agent")
        bus.subscribe("results", self.take, name="results")

    def handle(self, message: Message, bus: Bus) -> None:
        self.begun.append(message.body)
        self.working.set()
        assert self.go.wait(LONG)
        bus.publish("results", message.body)
        self.done.append(message.body)

    def take(self, message: Message) -> None:
        pass


def leave(bus: Bus) -> None:
    bus.__exit__(None, None, None)


def leave_by_an_error(bus: Bus) -> None:
    bus.__exit__(Boom, Boom(), None)


ENDS: dict[str, Callable[[Bus], object]] = {
    "stop": lambda bus: bus.stop(WAIT),
    "astop": lambda bus: asyncio.run(bus.astop(WAIT)),
    "without-draining": lambda bus: bus.stop(WAIT, drain=False),
    "leaving the block": leave,
    "an error out of the block": leave_by_an_error,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.few(2)
def test_s36_a_stop_on_a_store_finishes_what_is_in_flight_and_begins_nothing(
    store: Place, end: Callable[[Bus], object]
) -> None:
    """However it stops, the running handler ends and may still publish; all other messages stay in the store untouched."""
    slowly, draining = Slowly(), threading.Event()
    bus = store.start(slowly.register)
    bus.observe(lambda event: draining.set() if getattr(event, "new", None) == "draining" else None)
    for body in range(20):
        bus.publish("task", body)
    assert slowly.working.wait(WAIT)

    stopping = InThread(end, bus)
    assert draining.wait(WAIT)
    slowly.go.set()
    stopping.result()

    assert slowly.begun == slowly.done == [0]
    report = bus.stop()
    assert (report.drained, report.left, report.abandoned) == (False, {}, ())
    again = store.again(bus)
    again.drain(WAIT)
    assert slowly.done == list(range(20))
    assert again.stats()["subscriptions"]["results"]["acknowledged"] == 20


@pytest.mark.parametrize("asked", ["stop", "astop", "bus"])
def test_a_stop_on_a_store_drains_when_it_is_asked_to(store: Place, asked: str) -> None:
    """`stop(drain=True)`, `astop(drain=True)` and `Bus(…, drain=True)` handle all waiting messages first."""
    slowly = Slowly()
    slowly.go.set()
    bus = store.start(slowly.register, **({"drain": True} if asked == "bus" else {}))
    for body in range(20):
        bus.publish("task", body)

    if asked == "astop":
        report = asyncio.run(bus.astop(WAIT, drain=True))
    else:
        report = bus.stop(WAIT, **({"drain": True} if asked == "stop" else {}))

    assert slowly.done == list(range(20))
    assert (report.drained, report.left) == (True, {})


def test_a_stop_on_a_store_has_drained_if_nothing_waits_there(store: Place) -> None:
    """Even without a request to drain, the report says that the bus has drained if nothing waits."""
    slowly = Slowly()
    slowly.go.set()
    bus = store.start(slowly.register)
    bus.publish("task", 0)
    bus.drain(WAIT)

    assert bus.stop(WAIT) == StopReport(drained=True)


def test_a_request_may_still_be_answered_by_what_is_in_flight(store: Place) -> None:
    """A handler waits for another one that runs when the bus stops: both finish, and no message goes back."""
    answering, go = threading.Event(), threading.Event()
    replies: list[Any] = []

    def answer(message: Message) -> str:
        answering.set()
        assert go.wait(LONG)
        return "tea"

    def ask(message: Message, bus: Bus) -> None:
        replies.append(bus.request("person", timeout=WAIT).body)

    def register(bus: Bus) -> None:
        bus.subscribe("task", ask, name="agent")
        bus.subscribe("person", answer, name="person")

    bus = store.start(register)
    draining = threading.Event()
    bus.observe(lambda event: draining.set() if getattr(event, "new", None) == "draining" else None)
    bus.publish("task")
    assert answering.wait(WAIT)
    stopping = InThread(bus.stop, WAIT)
    assert draining.wait(WAIT)
    go.set()

    assert stopping.result() == StopReport(drained=True)
    assert replies == ["tea"]


def test_in_memory_the_block_drains_as_before_and_need_not() -> None:
    """Messages in memory would be lost, so leaving the block handles them first; `Bus(drain=False)` turns that off."""
    for drain, handled in ((None, 20), (True, 20), (False, 1)):
        slowly, stopping = Slowly(), threading.Event()
        bus = Bus(drain=drain)
        slowly.register(bus)
        wanted = "stopped" if drain is False else "draining"
        bus.observe(lambda event, wanted=wanted, told=stopping: told.set() if getattr(event, "new", None) == wanted else None)  # type: ignore[misc]
        bus.start()
        for body in range(20):
            bus.publish("task", body)
        assert slowly.working.wait(WAIT)
        leaving = InThread(leave, bus)
        assert stopping.wait(WAIT)
        slowly.go.set()
        leaving.result()

        assert len(slowly.begun) == handled


# --- sys.exit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["pool", "thread", "loop"])
@pytest.mark.few(4)
def test_an_exit_in_a_handler_is_a_counted_attempt(place: Place, run: str, capfd: pytest.CaptureFixture[str]) -> None:
    """
    `sys.exit(3)` ends the program with 3, and a line says why. The message is tried again at the next start, and after the
    subscription's `attempts` it is a dead letter.
    """
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        sys.exit(3)

    async def ahandle(message: Message, delivery: Delivery) -> None:
        handle(message, delivery)

    def register(bus: Bus) -> None:
        bus.subscribe("task", ahandle if run == "loop" else handle, name="agent", run=run, attempts=2)

    bus = place.start(register)
    bus.publish("task")
    for letters in (0, 1):
        wait_until(lambda: bus.stopping, "a stop is requested")  # noqa: B023
        with pytest.raises(SystemExit) as caught:
            bus.stop(WAIT)
        assert caught.value.code == 3
        assert "the handler of agent called sys.exit(3)" in capfd.readouterr().err
        assert len(bus.dead_letters.list()) == letters
        bus = place.again(bus)

    bus.drain(WAIT)
    assert attempts == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize("ignored", [False, True], ids=["heard", "ignored"])
@pytest.mark.few(1)
def test_run_hears_each_signal_that_was_not_ignored(number: signal.Signals, ignored: bool) -> None:
    """SIGHUP ends `run` like the others. What was ignored when the program started, as under nohup, stays ignored."""
    text = """
import signal, sys
from pipebus import Bus
bus = Bus()
bus.observe(lambda event: print(event.new, flush=True) if hasattr(event, "new") else None)
bus.every(0.01, "tick")
ticks = 0

@bus.on("tick")
def tick(message):
    global ticks
    ticks += 1
    if ticks == 2:
        signal.raise_signal(int(sys.argv[1]))
        bus.request_stop() if sys.argv[2] == "ignored" else None

bus.run()
print(signal.getsignal(int(sys.argv[1])) is signal.SIG_IGN, flush=True)
"""

    def restore() -> None:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_DFL)
        if ignored:
            signal.signal(number, signal.SIG_IGN)

    done = subprocess.run(
        [sys.executable, "-c", text, str(int(number)), "ignored" if ignored else "heard"],
        capture_output=True, text=True, timeout=6 * WAIT, preexec_fn=restore, env=dict(os.environ), check=False,
    )  # fmt: skip

    assert done.stderr == ""
    assert done.stdout.split() == ["started", "draining", "stopped", str(ignored)]

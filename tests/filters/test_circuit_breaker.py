"""CircuitBreaker: while a dependency is down nothing is tried and nothing dies, and one trial finds out whether it is back."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from flow_helpers import WAIT, assert_conserved
from pipebus import Bus, BusClosed, Delivery, Dropped, Message, Pipeline, PipelineError, Receipt, Rejected, around, when
from pipebus.errors import CodecError
from pipebus.events import CircuitChanged
from pipebus.filters import CircuitBreaker, Redeliver, Retry, Tap, Timeout, circuit, circuit_breaker
from pipebus.foreign.logging import get_logger
from pipebus.pipeline import state
from pipebus.pipeline.shapes import Context, Pause
from pipebus.testing import FakeClock, FilterBench, Harness, simulate
from pipebus.testing.logs import captured_logs
from scale_helpers import scaled, seeded, share
from tables import table

REFUSED = "the circuit is open"


class Boom(Exception):
    """The error of these tests."""


class Failing:
    """A handler that fails a given number of times."""

    def __init__(self, times: int) -> None:
        self.times = times

    def __call__(self, message: Message) -> None:
        self.times -= 1
        if self.times >= 0:
            raise Boom


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """The log lines of a test."""
    with captured_logs() as entries:
        yield entries


def fail(message: Message) -> None:
    raise Boom


def figures(bus: Bus, place: str = "s") -> dict[str, Any]:
    found: dict[str, Any] = bus.stats()["filters"][place]["CircuitBreaker"]
    return found


def coloured(colour: str, handle: Callable[[Message], object]) -> Any:
    async def ahandle(message: Message) -> object:
        return handle(message)

    return handle if colour == "sync" else ahandle


# --- random schedules ---------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Run:
    """One run of the rest, by the oracle."""

    number: int
    how: str
    era: int = 0


@dataclass
class Oracle:
    """What a circuit must do. `end` says what becomes of a delivery."""

    failures: int
    window: float
    cool_down: float
    state: str = "closed"
    era: int = 0
    until: float = math.inf
    trial: Run | None = None
    failed: list[float] = field(default_factory=list)
    opened: int = 0
    returned: int = 0

    def time_passes(self, now: float) -> None:
        if now >= self.until:
            self.state, self.trial, self.until = "half_open", None, math.inf

    def begin(self, run: Run, now: float) -> None:
        assert self.may_begin(), f"{run} begins, and the circuit is {self.state}"
        run.era = self.era
        if self.state == "half_open":
            self.trial, self.until = run, now + self.cool_down

    def may_begin(self) -> bool:
        return self.state == "closed" or (self.state == "half_open" and self.trial is None)

    def end(self, run: Run, now: float) -> Literal["passes", "comes at once", "stays away"]:
        old = run.era != self.era
        if run.how == "fails":
            self.failed += [now] if self.state == "closed" and not old else []
            if self.state == "closed" and not old and self.recent(now) < self.failures:
                return "passes"
            self.returned += 1
            tried = self.state == "half_open" and not old
            if not old:
                self.state, self.trial, self.until = "open", None, now + self.cool_down
                self.era, self.opened = self.era + 1, self.opened + 1
            return "stays away" if tried else "comes at once"
        if self.state == "half_open" and not old and run.how == "works":
            self.state, self.trial, self.until, self.failed, self.era = "closed", None, math.inf, [], self.era + 1
        elif run is self.trial:
            self.trial, self.until = None, math.inf
        return "passes"

    def recent(self, now: float) -> int:
        return sum(time > now - self.window for time in self.failed[-self.failures :])


class Schedule:
    """A bus with a breaker, random messages, and what each of them does; the oracle is asked at each step."""

    WAIT = 0.7  # of Redeliver

    def __init__(self, harness: Harness, seed: int, url: str) -> None:
        self.random = random.Random(seed)
        self.harness = harness
        pick = self.random.choice
        self.oracle = Oracle(pick([1, 2, 3]), pick([2.0, 20.0]), pick([3.0, 6.0]))
        self.workers = pick([1, 2, 4])
        self.bad = pick([0.2, 0.5, 0.8])  # the part of the runs that fail; changes from time to time
        self.due: dict[int, float] = {}  # of the messages that wait
        self.attempts: dict[int, int] = {}
        self.running: list[Run] = []
        self.ended: dict[int, str] = {}
        breaker = CircuitBreaker(self.oracle.failures, self.oracle.window, self.oracle.cool_down, on=Boom)
        redeliver = Redeliver(wait=self.WAIT, max_wait=self.WAIT, jitter=0.0)
        handler = coloured(pick(["sync", "async"]), lambda message: None)
        self.bus = Bus(url)
        self.bus.subscribe(
            "a", handler, name="s", workers=self.workers, attempts=10_000, filters=[redeliver, breaker, around(self.rest)]
        )
        harness.start(self.bus)

    @property
    def now(self) -> float:
        return self.harness.clock.monotonic()

    def rest(self, message: Message) -> Any:
        number = message.body
        run = Run(number, self.how())
        assert self.due.pop(number) <= self.now + 1e-9
        assert state.delivery.get().attempt == self.attempts[number]
        self.oracle.time_passes(self.now)
        self.oracle.begin(run, self.now)
        self.running.append(run)
        yield Pause(self.random.random() * self.random.choice([0.1, 2.0, 9.0]))
        self.running.remove(run)
        self.oracle.time_passes(self.now)
        fate = self.oracle.end(run, self.now)
        if run.how == "fails":
            self.attempts[number] += fate == "passes"
            later = {"passes": self.WAIT, "comes at once": 0.0, "stays away": 1.1 * self.oracle.cool_down}[fate]
            self.due[number] = self.now + later
            raise Boom
        self.ended[number] = run.how
        if run.how == "is refused":
            raise Rejected("no")
        if run.how == "is dropped":
            return Dropped("unwanted")
        return (yield message)

    def how(self) -> str:
        if self.random.random() < self.bad:
            return "fails"
        return self.random.choices(["works", "is refused", "is dropped"], [8, 1, 1])[0]

    def step(self) -> None:
        for _ in range(self.random.choice([0, 0, 1, 3])):
            number = len(self.attempts)
            self.due[number], self.attempts[number] = self.now, 1
            self.bus.publish("a", number)
        if self.random.random() < 0.1:
            self.bad = self.random.choice([0.0, 0.2, 0.5, 0.8, 1.0])
        self.harness.advance(self.random.random() * self.random.choice([0.1, 1.0, 5.0]))
        self.check()

    def check(self) -> None:
        oracle, now = self.oracle, self.now
        oracle.time_passes(now)
        assert figures(self.bus) == {
            "state": oracle.state, "failures": oracle.recent(now), "opened": oracle.opened, "returned": oracle.returned,
        }  # fmt: skip
        idle = oracle.may_begin() and len(self.running) < self.workers and min(self.due.values(), default=now) < now - 1e-6
        assert not idle, "a message waits, although it may run"
        assert len(self.due) + len(self.running) + len(self.ended) == len(self.attempts)

    def finish(self) -> None:
        self.bad = 0.0
        self.harness.advance(60.0)  # a store keeps what is delayed, so a drain does not wait for it
        self.harness.drain()
        stats = self.bus.stats()["subscriptions"]["s"]
        ends = list(self.ended.values())
        assert len(ends) == len(self.attempts) == stats["accepted"]
        assert (stats["acknowledged"], stats["dead"]) == (ends.count("works"), ends.count("is refused"))
        assert stats["dropped"].get("unwanted", 0) == ends.count("is dropped")


@seeded(25, share(10_000))
def test_it_does_what_the_oracle_says(seeds: range) -> None:
    """Messages come, fail, work, take long, are refused and dropped, on one to four workers, and time passes."""
    for seed in seeds:
        with Harness() as harness:
            play(harness, seed, "memory://")


@scaled(1, share(50))
def test_on_a_store_it_does_so_too(count: int) -> None:
    """The store keeps the messages and counts the attempts: none for what is given back."""
    for seed in range(count):
        with Harness(store="temporary") as harness:
            play(harness, seed, "sqlite:///bus.db")


def play(harness: Harness, seed: int, url: str) -> None:
    harness.allow(Rejected)
    schedule = Schedule(harness, seed, url)
    try:
        for _ in range(30):
            schedule.step()
        schedule.finish()
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise


@scaled(15, share(500), "seeds")
def test_in_every_order_of_its_lines_nothing_is_lost(seeds: int) -> None:
    """
    Threads change places between any two lines of the breaker: three workers, two publishers, the timer and an observer that
    looks at the figures. No attempt is counted, nothing dies, and the subscription goes on.
    """

    def scenario(harness: Harness) -> None:
        handled: list[int] = []
        calls = itertools.count(1)

        def handle(message: Message, delivery: Delivery) -> None:
            assert delivery.attempt == 1
            if next(calls) <= 5:
                raise Boom
            handled.append(message.body)

        def observe(event: Any) -> None:
            if isinstance(event, CircuitChanged):
                figures(bus)
                seen.append((event.old, event.new))

        seen: list[tuple[str, str]] = []
        bus = harness.bus
        bus.subscribe("a", handle, name="s", workers=3, attempts=1, filters=[CircuitBreaker(1, cool_down=1.0)])
        bus.observe(observe)
        harness.start()
        for half in (0, 1):
            harness.thread(lambda half=half: publish(bus, *range(half, 8, 2)))
        harness.join()
        harness.drain()
        assert (sorted(handled), len(bus.dead_letters)) == (list(range(8)), 0)
        assert (figures(bus)["state"], bus.subscriptions[0].paused) == ("closed", False)
        assert [old for old, _ in seen] == ["closed", *[new for _, new in seen[:-1]]]
        assert seen[-1] == ("half_open", "closed")

    simulate(scenario, seeds, watching=[circuit, circuit_breaker])


@scaled(15, share(500), "seeds")
def test_in_every_order_publishers_and_the_timer_agree(seeds: int) -> None:
    """Three publishers come just as a trial is due. Each change is announced once, in order, and the last one is the state."""

    def scenario(harness: Harness) -> None:
        calls = itertools.count(1)
        seen: list[tuple[str, str]] = []

        @around
        def rest(message: Message) -> Any:
            if next(calls) <= 3:
                raise Boom
            yield message

        def publisher() -> None:
            for _ in range(6):
                with suppress(Boom, Rejected):
                    bus.publish("a")
                harness.clock.sleep(0.5)

        def observe(event: Any) -> None:
            if isinstance(event, CircuitChanged):
                seen.append((event.old, event.new))

        bus = harness.bus
        bus.use(CircuitBreaker(1, cool_down=1.0), rest)
        bus.observe(observe)
        harness.start()
        for _ in range(3):
            harness.thread(publisher)
        harness.join()
        harness.advance(5.0)
        assert [old for old, _ in seen] == ["closed", *[new for _, new in seen[:-1]]]
        assert seen[-1][1] == figures(bus, "publish")["state"]

    simulate(scenario, seeds, watching=[circuit, circuit_breaker])


# --- around handlers ----------------------------------------------------------------------------------------------------


class Sink:
    """A dependency that is down or up, and when it was called, with what."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.error: Exception | None = Boom("down")
        self.calls: list[tuple[float, Any]] = []

    def __call__(self, message: Message) -> None:
        self.calls.append((self.harness.elapsed, message.body))
        if self.error is not None:
            raise self.error


@pytest.fixture
def sink(harness: Harness) -> Sink:
    """Down, until a test says otherwise."""
    harness.allow(Boom, Rejected, CodecError)
    return Sink(harness)


def breaking(harness: Harness, handler: Any, *more: Any, failures: int = 1, **options: Any) -> Bus:
    """A started bus whose subscription `s` has a breaker that opens for 10 s."""
    breaker = CircuitBreaker(failures, cool_down=10.0)
    harness.bus.subscribe("a", handler, name="s", filters=[breaker, *more], **options)
    return harness.start()


def publish(bus: Bus, *bodies: Any) -> None:
    for body in bodies:
        bus.publish("a", body)


def test_nothing_dies_while_the_dependency_is_down(harness: Harness, sink: Sink, colour: str) -> None:
    """With one attempt for each message, none is lost: only trials run, each of another message while there are some."""
    bus = breaking(harness, coloured(colour, sink), attempts=1)
    publish(bus, 1, 2, 3)
    harness.advance(35.0)
    assert sink.calls == [(0.0, 1), (10.0, 1), (20.0, 2), (30.0, 3)]
    assert figures(bus) == {"state": "open", "failures": 1, "opened": 4, "returned": 4}
    sink.error = None
    harness.drain()
    assert sink.calls[4:] == [(40.0, 1), (40.0, 2), (41.0, 3)]
    stats = bus.stats()["subscriptions"]["s"]
    assert (stats["acknowledged"], stats["dead"]) == (3, 0)


def test_one_message_that_always_fails_does_not_keep_it_open(harness: Harness, sink: Sink) -> None:
    """The poisonous message is kept away from the next trial; once the circuit is closed, its failure is its own again."""

    def handle(message: Message) -> None:
        sink.error = Boom("poison") if message.body == "poison" else None
        sink(message)

    bus = breaking(harness, handle, failures=2, attempts=1)
    publish(bus, "poison")
    harness.advance(0)
    publish(bus, "poison", "fine")
    harness.drain()
    assert sink.calls == [(0.0, "poison"), (0.0, "poison"), (10.0, "poison"), (20.0, "fine"), (21.0, "poison")]
    assert (len(bus.dead_letters), figures(bus)["state"]) == (2, "closed")


def test_while_it_is_closed_an_error_passes(harness: Harness, sink: Sink) -> None:
    """The error becomes a dead letter, as the same object, until there are too many."""
    bus = breaking(harness, sink, failures=3)
    publish(bus, 1, 2)
    harness.advance(0)
    assert [letter.error for letter in bus.dead_letters.list()] == ["Boom: down", "Boom: down"]
    assert figures(bus) == {"state": "closed", "failures": 2, "opened": 0, "returned": 0}


@table(
    ("gap", "state"), [(29.9, "open"), (30.0, "closed")], ids=["within the window", "after the window"]
)  # fmt: skip
def test_only_failures_within_the_window_count(at: Any, colour: Any, gap: float, state: str) -> None:
    """The time from the first of so many failures to the last one must be shorter than the window."""
    breaker = CircuitBreaker(failures=3, window=60.0)
    place = "publish" if at == "publish" else "test"
    with FilterBench(breaker, Boom, at=at, colour=colour) as bench:
        for _ in range(2):
            assert isinstance(bench.send(1, next=Boom).error, Boom)
            bench.send(1, next=None)  # a success in between does not matter
            bench.advance(gap)
        assert isinstance(bench.send(1, next=Boom).error, Boom)
        assert breaker.stats(place)["state"] == state


@pytest.mark.parametrize(
    "end",
    [Rejected("no"), CodecError("no"), asyncio.CancelledError(), KeyboardInterrupt(), Dropped("no"), ValueError()],
    ids=repr,
)
def test_what_says_nothing_about_the_dependency_neither_counts_nor_closes(at: Any, colour: Any, end: Any) -> None:
    """A refusal, a drop, a cancellation or an error that `on` does not name does not count. Another trial follows."""
    breaker = CircuitBreaker(failures=1, cool_down=10.0, on=Boom if isinstance(end, ValueError) else Exception)
    place = "publish" if at == "publish" else "test"
    with FilterBench(breaker, end, at=at, colour=colour) as bench:
        run = bench.send(1)
        assert run.error is end or run.dropped == "no"
        assert breaker.stats(place)["state"] == "closed"
        assert isinstance(bench.send(1, next=Boom).error, Boom)
        bench.advance(10.0)
        run = bench.send(1, next=end)
        assert run.error is end or run.dropped == "no"
        assert breaker.stats(place)["state"] == "half_open"
        assert bench.send(1, next=None).error is None
        assert breaker.stats(place)["state"] == "closed"


def test_what_the_handler_has_settled_is_not_given_back(harness: Harness, sink: Sink) -> None:
    """The failure counts, but the message stays acknowledged."""

    def handle(message: Message, delivery: Delivery) -> None:
        delivery.ack()
        sink(message)

    bus = breaking(harness, handle)
    publish(bus, 1)
    harness.advance(60.0)
    assert (len(sink.calls), figures(bus)["opened"], figures(bus)["returned"]) == (1, 1, 0)
    assert bus.stats()["subscriptions"]["s"]["acknowledged"] == 1


def test_a_handler_that_gives_its_trial_back_has_not_succeeded(harness: Harness, sink: Sink) -> None:
    """Then the next message is the trial."""

    def handle(message: Message, delivery: Delivery) -> None:
        if sink.calls:
            delivery.retry(delay=1.0)
        sink.calls.append((harness.elapsed, message.body))
        if len(sink.calls) == 1:
            raise Boom

    bus = breaking(harness, handle)
    publish(bus, 1)
    harness.advance(10.5)
    assert (len(sink.calls), figures(bus)["state"]) == (2, "half_open")


def test_a_pause_of_the_program_lasts(harness: Harness, sink: Sink) -> None:
    """The breaker ends only its own pause."""
    bus = breaking(harness, sink)
    publish(bus, 1, 2)
    harness.advance(1.0)
    (subscription,) = bus.subscriptions
    subscription.pause()
    sink.error = None
    harness.advance(60.0)
    assert (len(sink.calls), figures(bus)["state"]) == (1, "half_open")
    subscription.resume()
    harness.drain()
    assert sink.calls[1:] == [(61.0, 1), (61.0, 2)]


def test_a_subscription_that_is_made_again_is_paused_too(harness: Harness, sink: Sink) -> None:
    """The dependency is the same, so the circuit stays open; the message that finds it open is given back once."""
    harness.bus.use(CircuitBreaker(1, cool_down=10.0), at="delivery")
    first = harness.bus.subscribe("a", sink, name="s")
    bus = harness.start()
    publish(bus, 1)
    harness.advance(1.0)
    first.unsubscribe()
    second = bus.subscribe("a", sink, name="s")
    sink.error = None
    publish(bus, 2, 3)
    harness.advance(1.0)
    assert (second.stats()["pending"], figures(bus)["returned"]) == (2, 2)
    harness.drain()
    assert sink.calls == [(0.0, 1), (10.0, 2), (10.0, 3)]


def test_the_circuit_of_a_subscription_goes_with_it() -> None:
    """A filter for all subscriptions keeps nothing of those that have ended, even of an open circuit once its time is up."""
    bus, breaker = Bus(pool=1), CircuitBreaker(1, cool_down=0.001)  # a worker that sleeps keeps the mailbox that it came from
    bus.use(breaker, at="delivery")
    with bus:
        for number in range(5):
            with bus.subscribe("a", Failing(1), name=f"s{number}"):
                bus.publish("a", number)
                bus.drain(timeout=WAIT)
        with bus.subscribe("a", Failing(0), name="last"):
            bus.publish("a", "last")
            bus.drain(timeout=WAIT)
            gc.collect()
            assert list(breaker._handled) == ["last"]


def test_a_trial_that_does_not_end_is_not_waited_for(harness: Harness, sink: Sink) -> None:
    """After another `cool_down` the next message is a trial too; if the first one works after all, that counts."""

    def handle(message: Message) -> None:
        sink(message)
        harness.clock.sleep(35.0)

    bus = breaking(harness, handle, workers=4)
    publish(bus, 1, 2, 3, 4)
    harness.advance(5.0)
    sink.error = None
    harness.advance(30.0)
    assert sink.calls == [(0.0, 1), (10.0, 1), (20.0, 2), (30.0, 3)]
    assert figures(bus)["state"] == "half_open"
    harness.drain()
    assert sink.calls[4:] == [(40.0, 4)]
    assert figures(bus)["state"] == "closed"


def test_the_end_of_an_old_trial_does_not_end_the_new_one(harness: Harness, sink: Sink) -> None:
    """Two trials overlap, because the first one takes too long. It is refused at last, and still no third one begins."""

    def handle(message: Message) -> None:
        sink(message)
        harness.clock.sleep(15.0 if len(sink.calls) == 2 else 5.5)
        if len(sink.calls) == 3 and message.body == 1:
            raise Rejected("no")

    bus = breaking(harness, handle, workers=3)
    publish(bus, 1, 2, 3)
    harness.advance(5.0)
    sink.error = None
    harness.advance(20.2)
    assert (sink.calls, len(bus.dead_letters)) == ([(0.0, 1), (10.0, 1), (20.0, 2)], 1)
    harness.drain()
    assert sink.calls[3:] == [(25.5, 3)]


def test_a_run_that_is_older_than_the_last_change_says_nothing(harness: Harness, sink: Sink) -> None:
    """It began before the circuit opened and fails when it is closed again: it is given back, and does not count."""

    def handle(message: Message) -> None:
        if message.body == "slow" and not sink.calls:
            harness.clock.sleep(15.0)
            raise Boom
        sink(message)

    bus = breaking(harness, handle, workers=2, attempts=1)
    publish(bus, "slow", 1)
    harness.advance(5.0)
    sink.error = None
    harness.advance(9.0)
    assert figures(bus)["state"] == "closed"
    harness.drain()
    assert sink.calls == [(0.0, 1), (10.0, 1), (15.0, "slow")]
    assert figures(bus) == {"state": "closed", "failures": 0, "opened": 1, "returned": 2}


def test_after_a_trial_that_is_cancelled_the_next_message_is_one(harness: Harness, sink: Sink) -> None:
    """A Timeout outside of the breaker cancels the trial, which says nothing about the dependency."""

    async def handle(message: Message) -> None:
        sink(message)
        if len(sink.calls) == 2:
            await asyncio.Event().wait()

    harness.allow(TimeoutError)
    harness.bus.subscribe("a", handle, name="s", filters=[Timeout(5.0), CircuitBreaker(1, cool_down=10.0)])
    bus = harness.start()
    publish(bus, 1, 2)
    harness.advance(1.0)
    sink.error = None
    harness.drain()
    assert sink.calls == [(0.0, 1), (10.0, 1), (15.0, 2)]
    assert figures(bus)["state"] == "closed"


def test_an_error_that_a_stop_causes_is_no_failure(harness: Harness) -> None:
    """What the handler raises because the bus stops says nothing about the dependency."""

    def handle(message: Message) -> None:
        bus.request_stop()
        raise Boom from BusClosed("the bus stops")

    bus = breaking(harness, handle)
    publish(bus, 1)
    harness.advance(0)
    assert (figures(bus)["state"], figures(bus)["failures"]) == ("closed", 0)


@pytest.mark.parametrize("when", ["it is open", "a trial runs"])
def test_a_stop_forgets_the_state(harness: Harness, sink: Sink, when: str) -> None:
    """After the next start the circuit is closed, and the messages that were left over are handled at once."""

    async def handle(message: Message) -> None:
        sink(message)
        await asyncio.sleep(5.0)

    bus = breaking(harness, handle)
    publish(bus, 1, 2)
    harness.advance(1.0)
    sink.error = None
    harness.advance(0.0 if when == "it is open" else 10.0)
    report = bus.stop(timeout=0, drain=False)
    assert report.left == {"s": 2}
    assert (figures(bus)["state"], bus.subscriptions[0].paused) == ("closed", False)
    harness.advance(60.0)  # the time for the next trial passes meanwhile
    harness.start()
    assert figures(bus)["state"] == "closed"
    began = harness.elapsed
    harness.drain()
    assert sink.calls[-2:] == [(began, 1), (began + 5.0, 2)]


def test_each_subscription_has_a_circuit_of_its_own(harness: Harness, sink: Sink) -> None:
    """One filter object around two handlers: the failures of one say nothing about the other."""
    harness.bus.use(CircuitBreaker(1), at="delivery")
    harness.bus.subscribe("a", sink, name="s")
    harness.bus.subscribe("a", lambda message: None, name="fine")
    bus = harness.start()
    publish(bus, 1, 2)
    harness.advance(0)
    assert (figures(bus)["state"], figures(bus, "fine")["state"]) == ("open", "closed")
    assert bus.stats()["subscriptions"]["fine"]["acknowledged"] == 2


# --- with other filters ---------------------------------------------------------------------------------------------------


def test_retry_outside_ends_when_it_opens_and_inside_it_counts_as_one(harness: Harness, sink: Sink) -> None:
    """`Retry(…), CircuitBreaker(…)` makes two runs until the circuit is open; the other order makes three for each failure."""
    again, breaker = Retry(attempts=3, wait=0), CircuitBreaker(2, cool_down=10.0)
    harness.bus.subscribe("a", sink, name="outside", filters=[again, breaker])
    harness.bus.subscribe("b", sink, name="inside", filters=[breaker, again])
    bus = harness.start()
    bus.publish("a", "outside")
    harness.advance(0)
    assert (len(sink.calls), figures(bus, "outside")["state"]) == (2, "open")
    bus.publish("b", "inside")
    harness.advance(0)
    assert (len(sink.calls), figures(bus, "inside")["state"], figures(bus, "inside")["failures"]) == (5, "closed", 1)


def test_a_timeout_inside_makes_slow_runs_fail(harness: Harness) -> None:
    async def handle(message: Message) -> None:
        await asyncio.Event().wait()

    bus = breaking(harness, handle, Timeout(2.0))
    publish(bus, 1)
    harness.advance(3.0)
    assert figures(bus)["state"] == "open"


# --- publish chains -------------------------------------------------------------------------------------------------------


def test_an_open_circuit_refuses_publishers_at_once(colour: Any) -> None:
    """The rest does not run; after `cool_down` one message passes, and if that fails the circuit is open again."""
    breaker = CircuitBreaker(2, cool_down=10.0)
    with FilterBench(breaker, Boom, colour=colour) as bench:
        assert [type(bench.send(1).error) for _ in range(3)] == [Boom, Boom, Rejected]
        bench.advance(9.9)
        run = bench.send(1)
        assert (str(run.error), run.next_calls, run.elapsed) == (f"rejected by CircuitBreaker: {REFUSED}", 0, 0.0)
        bench.advance(0.1)
        assert [type(bench.send(1).error) for _ in range(2)] == [Boom, Rejected]
        bench.advance(10.0)
        assert [bench.send(1, next=None).outcome for _ in range(2)] == [Receipt(1)] * 2
        assert breaker.stats("publish") == {"state": "closed", "failures": 0, "opened": 2, "rejected": 3}


def test_of_many_publishers_one_is_the_trial(harness: Harness) -> None:
    """Half-open lets one message through; the others are refused meanwhile."""
    down = [True]

    @around
    def slow(message: Message) -> Any:
        yield Pause(1.0)
        if down[0]:
            raise Boom
        yield message

    harness.bus.use(CircuitBreaker(1, cool_down=10.0), slow)
    mailbox = harness.bus.subscribe("a")
    bus = harness.start()
    with pytest.raises(Boom):
        bus.publish("a")
    down.clear()
    down.append(False)
    harness.advance(10.0)

    async def main() -> list[Any]:
        return await asyncio.gather(*[bus.apublish("a") for _ in range(5)], return_exceptions=True)

    outcomes = harness.run(main())
    assert [outcome for outcome in outcomes if not isinstance(outcome, Rejected)] == [Receipt(1)]
    assert_conserved(mailbox, accepted=1)
    assert figures(bus, "publish") == {"state": "closed", "failures": 0, "opened": 1, "rejected": 4}


def test_before_its_start_it_works_without_a_bus() -> None:
    """A test may run the generator alone: it opens, and refuses."""
    breaker = CircuitBreaker(1)
    steps = breaker.at("s")(Message("a"))
    next(steps)
    with pytest.raises(Boom):
        steps.throw(Boom())
    assert breaker.stats("s") == {"state": "closed", "failures": 0, "opened": 0, "returned": 0}  # nobody holds that circuit
    steps = breaker.around(Message("a"))
    next(steps)
    with pytest.raises(Boom):
        steps.throw(Boom())
    with pytest.raises(Rejected, match=REFUSED):
        next(breaker.around(Message("a")))


def test_a_handler_that_publishes_is_refused_too(harness: Harness) -> None:
    """The circuit of the publish chain refuses its publish, and leaves its delivery to the handler."""
    harness.bus.use(when("b", Pipeline(CircuitBreaker(1), Tap(fail))))
    outcomes: list[Any] = []

    def handle(message: Message, delivery: Delivery) -> None:
        try:
            outcomes.append(harness.bus.publish("b"))
        except Exception as error:
            outcomes.append(type(error))

    subscription = harness.bus.subscribe("a", handle, name="s")
    bus = harness.start()
    publish(bus, 1, 2)
    harness.drain()
    assert (outcomes, subscription.stats()["acknowledged"]) == ([Boom, Rejected], 2)


def test_timers_that_come_late_change_nothing() -> None:
    """A run notices by itself that it is time for a trial, and the timer of an earlier opening does not end a later one."""

    class Timer:
        def cancel(self) -> None:
            """Too late: its call is about to begin."""

    def later(seconds: float, call: Callable[[], None]) -> Timer:
        calls.append(call)
        return Timer()

    calls: list[Callable[[], None]] = []
    clock, breaker = FakeClock(), CircuitBreaker(1, cool_down=10.0)
    breaker.start(Context(None, clock, get_logger(), "CircuitBreaker", later=later))

    def fails() -> None:
        steps = breaker.around(Message("a"))
        next(steps)
        with pytest.raises(Boom):
            steps.throw(Boom())

    fails()
    clock.advance(10.0)
    fails()
    for call in calls[:-1]:
        call()
    assert (breaker.stats("publish")["state"], breaker.stats("publish")["opened"]) == ("open", 2)
    breaker.stop()
    for call in calls:
        call()
    assert breaker.stats("publish")["state"] == "closed"
    fails()  # it works without a bus, too


# --- what it tells ------------------------------------------------------------------------------------------------------


def test_each_change_is_an_event_and_a_line(harness: Harness, sink: Sink, logs: list[Any]) -> None:
    """Observers get each change once, in order, even one that publishes through the breaker and so changes it again."""
    breaker, seen = CircuitBreaker(1, cool_down=10.0), []
    rest = [Boom, Boom]

    @around
    def fail(message: Message) -> Any:
        if rest:
            raise rest.pop()
        yield message

    harness.bus.use(breaker, fail)

    def observe(event: Any) -> None:
        if isinstance(event, CircuitChanged):
            if event.new == "half_open":
                with pytest.raises(Boom):
                    harness.bus.publish("a")
            seen.append((event.filter, event.place, event.old, event.new))

    harness.bus.observe(observe)
    bus = harness.start()
    with pytest.raises(Boom):
        bus.publish("a")
    harness.advance(10.0)
    steps = [("closed", "open"), ("open", "half_open"), ("half_open", "open")]
    assert seen == [("CircuitBreaker", "publish", *step) for step in steps]
    words = [moment.what for moment in harness.tape.moments if moment.who == "CircuitBreaker"]
    assert [line for line in words if line.startswith("is ") and "given" not in line] == [
        "is open for publish", "is half-open for publish", "is open for publish",
    ]  # fmt: skip
    lines = [line for line in logs if line["event"] == "circuit.changed"]
    assert [(line["place"], line["old"], line["new"]) for line in lines] == [("publish", *step) for step in steps]
    assert [line["log_level"] for line in lines] == ["warning", "info", "warning"]
    bus.stop()
    assert seen[3:] == [("CircuitBreaker", "publish", "open", "closed")]
    assert [line.get("error") for line in lines] == ["Boom", None, "Boom"]


# --- settings -----------------------------------------------------------------------------------------------------------


def test_durations_may_be_texts() -> None:
    breaker = CircuitBreaker(window="1m", cool_down="500ms")  # type: ignore[arg-type]
    assert (breaker.failures, breaker.window, breaker.cool_down, breaker.on) == (3, 60.0, 0.5, Exception)


@table(
    ("settings", "text"),
    [
        ({"failures": 0}, r"CircuitBreaker\.failures=0: it is a whole number of errors, at least 1"),
        ({"failures": True}, r"CircuitBreaker\.failures=True"),
        ({"failures": 1.5}, r"CircuitBreaker\.failures=1\.5"),
        ({"window": 0}, r"CircuitBreaker\.window=0"),
        ({"window": "soon"}, r"CircuitBreaker\.window='soon'"),
        ({"cool_down": 0}, r"CircuitBreaker\.cool_down=0"),
        ({"cool_down": -1}, r"CircuitBreaker\.cool_down=-1"),
        ({"on": ()}, r"CircuitBreaker\.on=\(\): nothing would be counted"),
        ({"on": "Boom"}, r"CircuitBreaker\.on='Boom': .*on=ConnectionError"),
        ({"on": Rejected}, r"CircuitBreaker\.on=.*Rejected is never counted, because it says nothing about the dependency"),
        ({"on": KeyboardInterrupt}, r"CircuitBreaker\.on=.*KeyboardInterrupt ends the program or task and is never counted"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_where_they_are_written(settings: dict[str, Any], text: str) -> None:
    """The error names the setting, what was found, and what to write."""
    with pytest.raises(PipelineError, match=text):
        CircuitBreaker(**settings)


# --- real threads and loops -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["memory", "sqlite", "loop"])
def test_nothing_dies_on_real_threads_and_loops(tmp_path: Path, way: str) -> None:
    """
    Four workers, and a sink that fails for its first 20 calls: all messages are handled. Only failures before the circuit opens
    count as attempts, so three of them are enough.
    """
    calls, lock, attempts, handled = [0], threading.Lock(), [0], []

    def handle(message: Message, delivery: Delivery) -> None:
        with lock:
            calls[0] += 1
            number = calls[0]
            attempts[0] = max(attempts[0], delivery.attempt)
        if number <= 20:
            raise Boom(f"call {number}")
        handled.append(message.body)

    async def ahandle(message: Message, delivery: Delivery) -> None:
        await asyncio.sleep(0)
        handle(message, delivery)

    bus = Bus(f"sqlite:///{tmp_path}/bus.db" if way == "sqlite" else "memory://", drain=True)
    filters = [Redeliver(wait=0.001), CircuitBreaker(3, cool_down=0.005)]
    subscription = bus.subscribe("a", ahandle if way == "loop" else handle, name="s", workers=4, attempts=3, filters=filters)
    with bus:
        for number in range(50):
            bus.publish("a", number)
        bus.drain(timeout=WAIT)
        found = figures(bus)
        assert (found["state"], len(bus.dead_letters)) == ("closed", 0)
        assert found["opened"] >= 14  # of 20 failures, two pass, three may run as it opens, and each other one is a trial
        stats = subscription.stats()
    assert sorted(handled) == list(range(50))
    assert attempts[0] <= 3
    assert (stats["acknowledged"], stats["dead"], stats["pending"]) == (50, 0, 0)

"""Concurrency: never more in the rest of the chain than the limit, first come first served, and no slot is ever lost."""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
import threading
from collections import defaultdict
from contextlib import suppress
from typing import Any

import pytest

from flow_helpers import InThread, assert_conserved, hasty_threads, wait_until
from pipebus import Bus, Delivery, Dropped, Handled, LifecycleError, Message, PipelineError, Receipt, Rejected
from pipebus.errors import BusClosed, ContractError
from pipebus.events import Returned
from pipebus.filters import Concurrency, Retry, Tap, Timeout
from pipebus.filters.slots import Slots, Visit
from pipebus.testing import FilterBench, Harness, after, check_filter, run_filter
from pipebus.testing.simulation import watch
from pipebus.testing.simulation.explore import race, seeds
from pipebus.testing.simulation.scheduler import Simulation
from scale_helpers import scaled, share
from tables import table
from values_helpers import named

FREE = {"keys": 0, "running": 0, "waiting": 0}


class Boom(Exception):
    """The error of these tests."""


class Inside:
    """Counts who is in the rest of the chain, as a filter that runs in chains of both colours."""

    def __init__(self) -> None:
        self.now = self.most = self.ever = 0
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.ever += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.now -= 1


# --- the model -----------------------------------------------------------------------------------------------------------

Job = tuple[float, str, float]  # when it comes, its key, and how long it runs


def model(jobs: list[Job], limit: int, queue: int, timeout: float) -> list[Any]:
    """The oracle: when each job begins, or why it does not. Each key has slots that are free at some time."""
    free: dict[str, list[float]] = defaultdict(lambda: [0.0] * limit)
    until: list[float] = []  # for all that had to wait: until when
    found: list[Any] = []
    for time, key, takes in jobs:
        begin = max(time, free[key][0])
        if begin > time and sum(end > time for end in until) >= queue:
            found.append("full")
            continue
        if begin > time:
            until.append(min(begin, time + timeout))
        if begin - time > timeout:
            found.append("late")
            continue
        heapq.heapreplace(free[key], begin + takes)
        found.append(begin)
    return found


def in_virtual_time(harness: Harness, filter: Concurrency, jobs: list[Job], colour: str) -> list[Any]:
    """Publish the jobs, and return when each began, or why it did not."""
    found: list[Any] = [None] * len(jobs)

    def begin(message: Message) -> float:
        number, _, takes = message.body
        found[number] = harness.elapsed
        return float(takes)

    def run(message: Message, call_next: Any) -> Any:
        harness.clock.sleep(begin(message))
        return call_next(message)

    async def arun(message: Message, call_next: Any) -> Any:
        await asyncio.sleep(begin(message))
        return await call_next(message)

    def refused(number: int, error: Rejected) -> None:
        found[number] = "full" if "queue full" in str(error) else "late"

    def publish(number: int) -> None:
        harness.clock.sleep(jobs[number][0])
        try:
            harness.bus.publish("a", (number, *jobs[number][1:]))
        except Rejected as error:
            refused(number, error)

    async def apublish(number: int) -> None:
        await asyncio.sleep(jobs[number][0])
        try:
            await harness.bus.apublish("a", (number, *jobs[number][1:]))
        except Rejected as error:
            refused(number, error)

    async def main() -> None:
        await asyncio.gather(*map(apublish, range(len(jobs))))

    harness.bus.use(filter, run if colour == "sync" else arun)
    harness.bus.subscribe("a")
    harness.start()
    if colour == "async":
        harness.run(main())
    else:
        for number in range(len(jobs)):
            harness.thread(publish, number)
        harness.join()
    return found


@scaled(30, share(5_000))
def test_each_begins_as_soon_as_there_is_a_slot(count: int, colour: str) -> None:
    """First come, first served for each key; who finds the queue full, or waits too long, is refused."""
    for seed in range(count):
        chance = random.Random(seed)
        limit, queue, timeout = chance.choice([1, 1, 2, 5]), chance.choice([0, 1, 3, 100]), chance.choice([0.7, 3.0, 1000.0])
        keys = "klm"[: chance.randint(1, 3)]
        jobs = sorted(
            (chance.uniform(0, 8), chance.choice(keys), chance.expovariate(1.0)) for _ in range(chance.randint(1, 20))
        )
        filter = Concurrency(limit, key=lambda message: message.body[1], queue=queue, timeout=timeout)
        with Harness() as harness:
            found = in_virtual_time(harness, filter, jobs, colour)
        expected = model(jobs, limit, queue, timeout)
        assert found == [one if isinstance(one, str) else pytest.approx(one, abs=1e-6) for one in expected], f"seed {seed}"
        assert filter.stats("publish") == FREE, f"seed {seed}"


# --- every way out -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", [None, Boom, Dropped("no", "x"), SystemExit, KeyboardInterrupt], ids=repr)
def test_the_slot_is_free_however_the_rest_ends(colour: Any, at: Any, rest: Any) -> None:
    """An outcome, an error, a drop, or the end of the program."""
    filter = Concurrency(1)
    with FilterBench(filter, at=at, colour=colour) as bench:
        for _ in range(3):
            run = bench.send(None, next=rest)
            assert isinstance(run.error, rest) if isinstance(rest, type) else run.error is None
            assert filter.stats(at) == FREE
        assert bench.send(None, next=None).next_calls == 1


@pytest.mark.parametrize("how", ["runs", "waits"])
def test_the_slot_of_a_task_that_is_cancelled_is_free(harness: Harness, how: str) -> None:
    """Whether it runs or waits, the next one gets the slot."""
    inside: list[Any] = []

    async def slow(message: Message, call_next: Any) -> Any:
        inside.append(message.body)
        await asyncio.sleep(10.0)
        return await call_next(message)

    async def main() -> None:
        tasks = [asyncio.create_task(harness.bus.apublish("a", number)) for number in range(3)]
        await asyncio.sleep(1.0)
        assert filter.stats("publish") == {"keys": 1, "running": 1, "waiting": 2}
        tasks[0 if how == "runs" else 1].cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in found].count(Receipt) == 2

    filter = Concurrency(1)
    harness.bus.use(filter, slow)
    harness.bus.subscribe("a")
    harness.start()
    harness.run(main())
    assert (inside, filter.stats("publish")) == ([0, 1, 2] if how == "runs" else [0, 2], FREE)
    assert harness.elapsed == (21.0 if how == "runs" else 20.0)


def test_a_generator_that_is_closed_gives_up_its_slot() -> None:
    """As when a coroutine that nobody awaits any more is collected: while it runs, and while it waits."""
    filter, message = Concurrency(1), Message("a")
    runs, waits, last = filter.around(message), filter.around(message), filter.around(message)
    assert next(runs) is message
    pause = next(waits)
    assert filter.stats("x") == {"keys": 1, "running": 1, "waiting": 1}
    runs.close()
    assert pause.until.over  # it has the slot, but does not know yet
    waits.close()
    assert filter.stats("x") == FREE
    assert next(last) is message
    del last
    gc.collect()
    assert filter.stats("x") == FREE


def test_a_stop_ends_the_wait_of_publishers(harness: Harness) -> None:
    """They get BusClosed, and no slot is lost."""
    filter = Concurrency(1, timeout="1h")
    harness.bus.use(filter, Tap(lambda message: harness.clock.sleep(10.0)))
    harness.bus.subscribe("a")
    bus = harness.start()
    publishers = [harness.thread(bus.publish, "a") for _ in range(3)]
    harness.advance(1.0)
    bus.stop(timeout=0.0, drain=False)
    for publisher in reversed(publishers):  # the first one has a slot, and finds its mailbox closed later
        with pytest.raises(BusClosed):
            publisher.result()
    assert filter.stats("publish") == FREE


def test_a_stop_gives_back_the_deliveries_that_wait(harness: Harness, colour: str) -> None:
    """They are left for the next start, no attempt is counted, and no slot is lost."""
    begun: list[int] = []

    def slow(message: Message, delivery: Delivery) -> None:
        begun.append(delivery.attempt)
        harness.clock.sleep(5.0)

    async def aslow(message: Message, delivery: Delivery) -> None:
        begun.append(delivery.attempt)
        await asyncio.sleep(5.0)

    filter = Concurrency(1)
    bus = harness.bus
    subscription = bus.subscribe("a", slow if colour == "sync" else aslow, name="s", workers=3, filters=[filter])
    harness.start()
    for _ in range(3):
        bus.publish("a")
    harness.advance(1.0)
    assert filter.stats("s") == {"keys": 1, "running": 1, "waiting": 2}
    report = bus.stop(timeout=10.0 if colour == "sync" else 1.0, drain=False)  # coroutines that wait are cancelled after it
    assert (report.left, filter.stats("s"), begun) == ({"s": 2 if colour == "sync" else 3}, FREE, [1])
    assert_conserved(subscription, accepted=3)
    harness.start()
    harness.drain()
    assert (set(begun), subscription.stats()["acknowledged"]) == ({1}, 3)


@pytest.mark.parametrize("order", ["outside", "inside"])
def test_a_run_that_is_left_behind(harness: Harness, order: str) -> None:
    """With Timeout outside, a run that was left behind keeps its slot; with Timeout inside, it is one more than the limit."""
    inside = Inside()

    def slow(message: Message) -> None:
        with inside:
            harness.clock.sleep(10.0)

    filter = Concurrency(1)
    chain = [Timeout(2.0, abandon=True), filter]
    harness.allow(TimeoutError)
    harness.bus.subscribe("a", slow, name="s", workers=2, filters=chain if order == "outside" else chain[::-1])
    bus = harness.start()
    for _ in range(2):
        bus.publish("a")
    harness.advance(5.0)
    running = filter.stats("s")["running"]
    harness.advance(60.0)
    assert (inside.most, running) == ((1, 1) if order == "outside" else (2, 0))
    assert filter.stats("s") == FREE


def test_a_slot_that_is_handed_to_one_who_gives_up_goes_on() -> None:
    """Its latch refuses the slot, and the next in line gets it."""
    slots = Slots(1, 10)
    visits = [Visit() for _ in range(4)]
    assert [slots.enter("k", visit) for visit in visits] == [True, False, False, False]
    visits[1].give(None)  # as a pause does whose time is up
    visits[2].give(None)
    slots.leave(visits[0])
    assert visits[3].over
    assert slots.figures() == {"keys": 1, "running": 1, "waiting": 0}
    for visit in visits:
        slots.leave(visit)
    assert slots.figures() == FREE


# --- around a handler ----------------------------------------------------------------------------------------------------


def test_a_delivery_that_finds_no_slot_comes_again(harness: Harness) -> None:
    """A full queue, or a wait that is too long, gives it back for a moment; it counts neither as an attempt nor as a drop."""
    inside = Inside()
    attempts: list[int] = []

    def slow(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        with inside:
            harness.clock.sleep(3.0)

    filter = Concurrency(2, queue=1, timeout=1.0)
    subscription = harness.bus.subscribe("a", slow, workers=5, attempts=1, filters=[filter])
    bus = harness.start()
    for _ in range(10):
        bus.publish("a")
    harness.advance(0.2)
    assert filter.stats("x") == {"keys": 1, "running": 2, "waiting": 1}
    harness.drain()
    stats = subscription.stats()
    assert (stats["acknowledged"], stats["dropped"], stats["dead"]) == (10, {}, 0)
    assert (inside.most, attempts, filter.stats("x")) == (2, [1] * 10, FREE)
    delays = [event.delay for event in harness.events if isinstance(event, Returned)]
    assert delays
    assert all(0.5 <= delay <= 1.0 for delay in delays)


def test_a_delivery_that_is_settled_already_stays_settled(harness: Harness) -> None:
    """A filter around this one has settled the delivery before there was a slot."""

    class Settles:
        wants_delivery = True

        def __call__(self, message: Message, call_next: Any) -> Any:
            from pipebus.pipeline import state

            if message.body == "settled":
                state.delivery.get().ack()
            return call_next(message)

    filter = Concurrency(1, queue=0)
    slow = Tap(lambda message: harness.clock.sleep(1.0))
    subscription = harness.bus.subscribe("a", lambda message: None, workers=2, filters=[Settles(), filter, slow])
    bus = harness.start()
    bus.publish("a", "first")
    bus.publish("a", "settled")
    harness.drain()
    stats = subscription.stats()
    assert (stats["acknowledged"], stats["dropped"], stats["dead"]) == (2, {}, 0)


def test_no_worker_waits(harness: Harness) -> None:
    """A pool of one worker goes on with other subscriptions while a delivery waits for a slot."""
    seen: list[tuple[float, str]] = []
    filter = Concurrency(1)

    async def slow(message: Message) -> None:
        await asyncio.sleep(5.0)

    bus = Bus(pool=1)
    bus.subscribe("a", slow, filters=[filter])
    bus.subscribe("a", lambda message: seen.append((harness.elapsed, "limited")), filters=[filter])
    bus.subscribe("b", lambda message: seen.append((harness.elapsed, "free")))
    harness.start(bus)
    bus.publish("a")
    harness.advance(1.0)
    bus.publish("b")
    harness.drain()
    assert sorted(seen) in ([(1.0, "free"), (5.0, "limited")], [(0.0, "limited"), (1.0, "free")])


def test_alone_without_a_delivery_it_says_what_it_would_do() -> None:
    """A test of the filter alone has no delivery to give back."""
    filter = Concurrency(1, queue=0)
    with FilterBench(filter, next=after(1.0), at="delivery") as bench:
        outcomes = bench.together([Message("a"), Message("a")])
    assert sorted(outcomes, key=bool) == [Dropped("returned", "Concurrency"), Handled()]


def test_with_retry_the_slot_is_given_up_between_runs_or_kept(harness: Harness) -> None:
    """`Retry(…), Concurrency(…)` lets another message run during its wait; in the opposite order it has to wait."""
    begun: list[tuple[str, float, str]] = []

    def handle(message: Message, delivery: Delivery) -> None:
        begun.append((message.subject, harness.elapsed, message.body))
        if message.body == "bad" and sum(one[2] == "bad" and one[0] == message.subject for one in begun) == 1:
            raise Boom

    retry = Retry(wait=1.0, jitter=0.0)
    harness.bus.subscribe("outside", handle, workers=2, filters=[retry, Concurrency(1)])
    harness.bus.subscribe("inside", handle, workers=2, filters=[Concurrency(1), retry])
    bus = harness.start()
    for subject in ("outside", "inside"):
        bus.publish(subject, "bad")
        harness.advance(0.1)
        bus.publish(subject, "good")
        harness.drain()
    assert [(subject, body) for subject, _, body in begun] == [
        ("outside", "bad"), ("outside", "good"), ("outside", "bad"), ("inside", "bad"), ("inside", "bad"), ("inside", "good"),
    ]  # fmt: skip


def test_a_further_run_of_a_retry_that_finds_no_slot_counts(harness: Harness) -> None:
    """Else the next delivery would begin with the first run again, and a message that always fails would run without end."""
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        if message.body == "long":
            harness.clock.sleep(10.0)
            return
        attempts.append(delivery.attempt)
        raise Boom

    harness.allow(Boom)
    filters = [Retry(wait=1.0, jitter=0.0), Concurrency(1, queue=0)]
    harness.bus.subscribe("a", handle, workers=2, attempts=3, filters=filters)
    bus = harness.start()
    bus.publish("a", "bad")
    harness.advance(0.5)
    bus.publish("a", "long")
    harness.drain()

    assert attempts == [1, 2, 2, 2]
    assert [letter.attempts for letter in bus.dead_letters.list()] == [2]


# --- in a publish chain --------------------------------------------------------------------------------------------------


def test_a_publisher_without_a_slot_is_refused(harness: Harness) -> None:
    """The reasons are counted, so they are always the same texts."""
    filter = Concurrency(1, queue=1, timeout=2.0)
    harness.bus.use(filter, Tap(lambda message: harness.clock.sleep(10.0)))
    harness.bus.subscribe("a")
    bus = harness.start()
    harness.thread(bus.publish, "a")
    harness.advance(0.5)
    waits = harness.thread(bus.publish, "a")
    harness.advance(0.5)
    with pytest.raises(Rejected, match="concurrency limit: queue full"):
        bus.publish("a")
    assert harness.elapsed == 1.0
    with pytest.raises(Rejected, match="concurrency limit: no slot in 2 s"):
        waits.result()
    assert bus.stats()["rejected"]["Concurrency"] == {
        "concurrency limit: queue full": 1,
        "concurrency limit: no slot in 2 s": 1,
    }
    assert bus.stats()["filters"]["publish"]["Concurrency"] == {"keys": 1, "running": 1, "waiting": 0}


def test_publish_on_a_running_loop_works_unless_it_waits() -> None:
    """Without a queue, the filter never waits."""

    async def main(filter: Concurrency) -> Any:
        bus = Bus()
        bus.use(filter)
        bus.subscribe("a")
        async with bus:
            return bus.publish("a")

    assert asyncio.run(main(Concurrency(1, queue=0))) == Receipt(1)
    with pytest.raises(PipelineError, match=r"filter Concurrency may wait.*apublish"):
        asyncio.run(main(Concurrency(1)))


# --- threads and loops ---------------------------------------------------------------------------------------------------


def test_fifty_threads_never_exceed_the_limit_and_lose_nothing() -> None:
    """Each message passes, at most four at once for each of two keys, and all slots are free at the end."""
    inside = {0: Inside(), 1: Inside()}
    filter = Concurrency(4, key=lambda message: message.body)

    def counted(message: Message, call_next: Any) -> Any:
        with inside[message.body]:
            return call_next(message)

    bus = Bus()
    bus.use(filter, counted)
    mailbox = bus.subscribe("a", mailbox=10_000)

    def publisher(number: int) -> int:
        return sum(bool(bus.publish("a", (number + more) % 2)) for more in range(10))

    with bus, hasty_threads():
        assert sum(thread.result() for thread in [InThread(publisher, number) for number in range(50)]) == 500
        assert mailbox.stats()["pending"] == 500
    assert [one.ever for one in inside.values()] == [250, 250]
    assert max(one.most for one in inside.values()) <= 4
    assert filter.stats("publish") == FREE


@scaled(1, 30)
def test_tasks_that_are_cancelled_at_random_lose_no_slot(count: int) -> None:
    """Two loops and five threads share a filter; some time out, and a third of the tasks is cancelled."""
    for seed in range(count):
        inside = Inside()
        filter = Concurrency(3, timeout=0.05, queue=40)

        async def slow(message: Message, call_next: Any, inside: Inside = inside) -> Any:
            with inside:
                await asyncio.sleep(message.body)
                return await call_next(message)

        bus = Bus()
        bus.use(filter, slow)
        mailbox = bus.subscribe("a", mailbox=10_000)

        async def main(seed: int, bus: Bus = bus) -> int:
            chance = random.Random(seed)
            tasks = [asyncio.create_task(bus.apublish("a", chance.choice([0.0, 0.0, 0.001, 0.01]))) for _ in range(80)]
            for task in tasks:
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.choice([0.0, 0.0005]))
                    task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(one) for one in found} <= {Receipt, asyncio.CancelledError, Rejected}
            return sum(isinstance(one, Receipt) for one in found)

        def publisher(bus: Bus = bus) -> int:
            passed = 0
            for _ in range(10):
                with suppress(Rejected):
                    passed += bool(bus.publish("a", 0.0))
            return passed

        with bus, hasty_threads():
            workers = [InThread(asyncio.run, main(2 * seed + one)) for one in range(2)]
            workers += [InThread(publisher) for _ in range(5)]
            passed = sum(worker.result() for worker in workers)
            assert passed <= mailbox.stats()["pending"]  # a task may be cancelled after its message was accepted
            assert (inside.most, inside.now) == (3, 0)
            wait_until(lambda one=filter: one.stats("publish") == FREE, "all slots to be free")


def contended(sim: Simulation) -> None:
    """Three threads publish twice each through one slot, and none waits for longer than a moment."""
    inside: list[str] = []
    refused: list[Rejected] = []

    def rest(message: Message) -> None:
        sim.check(not inside, "two at once")
        inside.append(message.body)
        sim.step()
        inside.clear()

    filter = Concurrency(1, timeout=0.001, queue=2)
    bus = Bus(clock=sim.clock)
    bus.use(filter, Tap(rest))
    mailbox = bus.subscribe("a")

    def publisher() -> None:
        for _ in range(2):
            try:
                bus.publish("a")
            except Rejected as error:
                refused.append(error)

    with bus:
        for _ in range(3):
            sim.spawn(publisher)
        sim.join()
        sim.check(mailbox.stats()["pending"] + len(refused) == 6, "a message is lost")
        sim.check(filter.stats("publish") == FREE, f"a slot is lost: {filter.stats('publish')}")


@scaled(20, share(2_000))
def test_in_every_order_of_steps_a_slot_is_handed_on(count: int) -> None:
    """Threads change places before any bytecode, and waits end although a slot is just being handed over."""
    with watch.all_code(watch.by_line()):
        for seed in seeds(count):
            failed = race(contended, seed, hasty=0.2)
            if failed is not None:
                raise failed


class Interrupts:
    """A key whose comparison publishes, as a signal handler may in the middle of a change, and collects a running message."""

    bus: Bus
    errors: list[BaseException]
    running: list[Any]

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        self.running.clear()  # the finaliser of the generator leaves its slot
        try:
            self.bus.publish("a", "inner")
        except LifecycleError as error:
            self.errors.append(error)
        return False


def test_what_interrupts_a_change_is_refused_or_done_after_it() -> None:
    """A publish there is refused, with an error that says what to do; a slot that is left there is free a moment later."""
    filter = Concurrency(1, key=lambda message: message.body)
    bus = Bus()
    bus.use(filter)
    bus.subscribe("a")
    Interrupts.bus, Interrupts.errors = bus, []
    steps = filter.around(Message("a", 1))  # 1 has the hash of Interrupts(), so they are compared
    assert next(steps)
    Interrupts.running = [steps]
    del steps
    with bus:
        bus.publish("a", Interrupts())
    assert "signal handler" in str(Interrupts.errors[0])
    assert filter.stats("publish") == FREE


class Leaves:
    """A key whose comparison ends a visit, as a finaliser may in the middle of a change."""

    def __init__(self, slots: Slots, visit: Visit) -> None:
        self.slots, self.visit = slots, visit

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        self.slots.leave(self.visit)
        return False


def test_a_slot_that_is_left_in_the_middle_of_a_change_is_handed_on_after_it() -> None:
    """The thread that was interrupted does it, so the next in line does not have to wait for another message."""
    slots = Slots(1, 10)
    first, second, third = Visit(), Visit(), Visit()
    assert (slots.enter(1, first), slots.enter(1, second)) == (True, False)
    assert slots.enter(Leaves(slots, first), third)
    assert second.over
    assert slots.figures() == {"keys": 2, "running": 2, "waiting": 0}


# --- keys and settings ---------------------------------------------------------------------------------------------------


def test_a_message_without_a_key_is_not_limited() -> None:
    """If the key is None, the message passes; other keys have slots each."""
    filter = Concurrency(1, queue=0, key=lambda message: message.body)
    with FilterBench(filter, next=after(1.0)) as bench:
        outcomes = bench.together([Message("a", body) for body in (None, None, 1, 2)])
        assert outcomes == [Receipt(1)] * 4
        outcomes = bench.together([Message("a", 1), Message("a", 1)])
        assert [isinstance(one, Rejected) for one in outcomes].count(True) == 1


def test_a_key_that_cannot_be_found_is_an_error(colour: Any, at: Any) -> None:
    """The error names the setting, and the message does not pass."""
    run = run_filter(Concurrency(1, key=lambda message: []), Message("a"), at=at, colour=colour)
    assert isinstance(run.error, ContractError)
    assert "cannot limit messages: Concurrency.key returned a list" in str(run.error)


@pytest.mark.thorough
@pytest.mark.parametrize("queue", [0, 100])
def test_it_keeps_the_laws_of_filters(queue: int, at: Any) -> None:
    """Among others: it is correct when threads change places between its lines."""
    check_filter(Concurrency(1, queue=queue), at=at, examples=4)


def test_durations_may_be_texts() -> None:
    """A hundred may wait, for half a minute."""
    assert (Concurrency(3).queue, Concurrency(3).timeout, Concurrency(3, timeout="2m").timeout) == (100, 30.0, 120.0)


@table(
    ("settings", "text"),
    [
        ({"limit": 0}, r"Concurrency\.limit=0: it is a whole number of messages, at least 1"),
        ({"limit": 1.5}, r"Concurrency\.limit=1\.5"),
        ({"limit": True}, r"Concurrency\.limit=True"),
        ({"key": "id"}, r"Concurrency\.key='id': .*plain function.*leave it out to count all messages together"),
        ({"queue": -1}, r"Concurrency\.queue=-1: it is a whole number of messages, at least 0"),
        ({"queue": None}, r"Concurrency\.queue=None"),
        ({"timeout": 0}, r"Concurrency\.timeout=0: .*greater than 0"),
        ({"timeout": "soon"}, r"Concurrency\.timeout='soon'"),
    ],
    ids=named,
)
def test_wrong_settings_are_refused_where_they_are_written(settings: dict[str, Any], text: str) -> None:
    """The error names the setting, what was found, and what to write."""
    with pytest.raises(PipelineError, match=text):
        Concurrency(**{"limit": 1, **settings})

"""
Scenarios for the scheduler with event loops: handlers on the bus's loop or on a caller's, requests, filter actors.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from exploring import left_behind, tasks
from scenarios import (
    Publisher,
    Record,
    all_of,
    at_rest,
    bus_of,
    no_time,
    set_to,
    settle_after_stop,
    stopping,
)

from flow_helpers import assert_conserved
from pipebus import Actor, Bus, BusClosed, Message, RequestTimeout, Subscription
from pipebus.running import loop_worker
from pipebus.testing.simulation.scheduler import Simulation
from pipebus.testing.simulation.threads import Task
from pipebus.testing.simulation.virtual_loop import run_loop


class LoopRecord(Record):
    """
    A Record whose handler runs on an event loop.

    Args:
        turns: How many turns of the loop each message waits.
        hangs: Handlers of messages with the number 0 wait until they are cancelled; set it to False to let them finish.
    """

    def __init__(self, sim: Simulation, workers: int = 1, turns: int = 0, hangs: bool = False) -> None:
        super().__init__(sim, workers)
        self.turns = turns
        self.hangs = hangs
        self.done: list[Any] = []
        self.loops: list[asyncio.AbstractEventLoop] = []

    @property
    def handler(self) -> Callable[[Message], Any]:
        return self.handle

    async def handle(self, message: Message) -> None:
        self.begin(message)
        loop = asyncio.get_running_loop()
        if loop not in self.loops:
            self.loops.append(loop)
        try:
            self.sim.step()
            for _ in range(self.turns):
                await asyncio.sleep(0)
            if self.hangs and message.body[1] == 0:
                await loop.create_future()
            self.sim.step()
        except asyncio.CancelledError:
            self.sim.say(f"is cancelled with {message.body}")
            raise
        finally:
            self.end(message)
        self.done.append(message.body)

    def of(self, publisher: object) -> list[int]:
        return [number for who, number in self.done if who == publisher]


async def ended(sim: Simulation, tasks: Iterable[Task]) -> None:
    """Like `sim.join`, but for coroutines."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wait() -> None:
        sim.join(*tasks)
        loop.call_soon_threadsafe(future.set_result, None)

    sim.spawn(wait, name="waiter")
    await future


# --- on the bus's own loop ---------------------------------------------------------------------------------------------


def on_loop(sim: Simulation, workers: int = 1, turns: int = 0) -> None:
    """Two publishers, and a handler on the bus's loop: each message is handled once, in its publisher's order."""
    record = LoopRecord(sim, workers, turns)
    with bus_of(sim) as bus:
        bus.subscribe("s", record.handle, workers=workers)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]
        sim.join()
        bus.drain(timeout=10)
        all_of(record, *publishers, in_order=workers == 1)
        assert len(record.loops) == 1
    no_time(sim)


def on_loop_and_waiting(sim: Simulation) -> None:
    """The same, but the handler waits, so that the loop has time for others."""
    on_loop(sim, turns=1)


def on_loop_with_workers(sim: Simulation) -> None:
    """The same, but three handlers run at a time."""
    on_loop(sim, workers=3, turns=1)


def loop_draining(sim: Simulation) -> None:
    """When `drain` returns, everything that was accepted before it has been handled, although its worker sleeps in between."""
    record = LoopRecord(sim)
    with bus_of(sim) as bus:
        bus.subscribe("s", record.handle)
        other = Publisher(sim, bus, "other", 2)
        for number in range(3):
            bus.publish("s", ("main", number))
            bus.drain(timeout=10)
            assert record.of("main") == list(range(number + 1))
    all_of(record, other)
    no_time(sim)


def two_on_loop(sim: Simulation) -> None:
    """Two mailboxes get a message at once, again and again: each finds a worker, whether that one sleeps or is new."""
    records = {name: LoopRecord(sim) for name in "ab"}
    with bus_of(sim) as bus:
        for name, record in records.items():
            bus.subscribe(name, record.handle)
        publishers = [Publisher(sim, bus, name, 3, subject=name) for name in "ab"]
        sim.join()
        bus.drain(timeout=10)
        for publisher in publishers:
            all_of(records[publisher.name], publisher)
    no_time(sim)


def together_on_loop(sim: Simulation) -> None:
    """Two mailboxes get a message at once, and one handler waits for the other: both begin."""
    opened = asyncio.Event()

    async def first(message: Message) -> None:
        if message.body:
            await opened.wait()

    async def second(message: Message) -> None:
        if message.body:
            opened.set()

    with bus_of(sim) as bus:
        for subject, handler in (("first", first), ("second", second)):
            bus.subscribe(subject, handler)
            bus.publish(subject, False)  # so that the route is known, and few steps can change places
        sim.rest()
        for subject in ("first", "second"):
            sim.spawn(bus.publish, subject, True, name=f"publisher {subject}")
        sim.join()
        bus.drain(timeout=10)
    no_time(sim)


def there_and_back(sim: Simulation) -> None:
    """Messages go from a handler on the loop to one on the pool and back to the loop, by `to`: in order, nothing lost."""
    record = LoopRecord(sim)

    async def first(message: Message) -> Any:
        sim.step()
        return message.body

    def second(message: Message) -> Any:
        sim.step()
        return message.body

    with bus_of(sim) as bus:
        bus.subscribe("s", first, to="middle")
        bus.subscribe("middle", second, to="end")
        bus.subscribe("end", record.handle)
        publishers = [Publisher(sim, bus, name, 2) for name in "ab"]
        sim.join()
        bus.drain(timeout=10)
        all_of(record, *publishers)
    no_time(sim)


def taking_turns_on_loop(sim: Simulation) -> None:
    """Workers give way to the loop after each message, and go to the end of the ready list: nothing is lost."""
    with set_to(loop_worker, CHUNK=1):
        two_on_loop(sim)


def small_mailbox_on_loop(sim: Simulation) -> None:
    """A thread and a coroutine wait for room in a full mailbox: each gets in when there is room."""
    record = LoopRecord(sim, turns=1)
    with bus_of(sim) as bus:
        bus.subscribe("s", record.handle, mailbox=1)
        publisher = Publisher(sim, bus, "a", 3)

        async def main() -> None:
            for number in range(3):
                await bus.apublish("s", ("b", number))

        sim.spawn(run_loop, sim, main, name="publisher b")
        sim.join()
        bus.drain(timeout=10)
        all_of(record, publisher)
        assert record.of("b") == [0, 1, 2]
    no_time(sim)


def readers_on_loop(sim: Simulation) -> None:
    """Two coroutines and a thread read: each message is read once, and none of them sleeps while a message waits."""
    read: list[Any] = []
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s")
        for name in "ab":
            Publisher(sim, bus, name, 2)

        async def reader() -> None:
            read.append((await subscription.areceive(timeout=10)).body)

        async def main() -> None:
            await asyncio.gather(reader(), reader())

        def read_two() -> None:
            for _ in range(2):
                read.append(subscription.receive(timeout=10).body)

        sim.spawn(run_loop, sim, main, name="readers on a loop")
        sim.spawn(read_two, name="reader")
    assert sorted(read) == [(name, number) for name in "ab" for number in range(2)]
    no_time(sim)


def loop_pausing(sim: Simulation, workers: int = 1) -> None:
    """A handler on the loop is paused and resumed while messages come: nothing is lost."""
    record = LoopRecord(sim, workers, turns=1)
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", record.handle, workers=workers)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]

        def pauser() -> None:
            for _ in range(2):
                subscription.pause()
                sim.step()
                subscription.resume()

        sim.spawn(pauser)
        sim.join()
        bus.drain(timeout=10)
        all_of(record, *publishers, in_order=workers == 1)
    no_time(sim)


def loop_pausing_workers(sim: Simulation) -> None:
    """Pausing with several workers on a loop."""
    loop_pausing(sim, workers=2)


def loop_unsubscribing(sim: Simulation) -> None:
    """When `unsubscribe` returns, no handler on the loop runs, and none will run."""
    record = LoopRecord(sim, turns=1)
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", record.handle)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]

        def unsubscriber() -> None:
            sim.step()
            subscription.unsubscribe()
            nothing_more(sim, record)

        sim.spawn(unsubscriber)
        sim.join()
    unsubscribed(sim, bus, subscription, record, publishers)


def loop_unsubscribing_on_a_loop(sim: Simulation) -> None:
    """When `aunsubscribe` returns on a loop that is not the bus's, no handler runs, and none will run."""
    record = LoopRecord(sim, turns=1)
    with bus_of(sim) as bus:
        subscription = bus.subscribe("s", record.handle)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]

        async def main() -> None:
            await subscription.aunsubscribe()
            nothing_more(sim, record)

        sim.spawn(run_loop, sim, main, name="unsubscriber")
        sim.join()
    unsubscribed(sim, bus, subscription, record, publishers)


def nothing_more(sim: Simulation, record: Record) -> None:
    sim.say("has unsubscribed")
    handled = len(record.given)
    sim.check(not record.inside, "a handler runs although unsubscribe has returned")
    sim.join(*tasks(sim, "publisher"))
    sim.check(len(record.given) == handled, "a handler ran after unsubscribe had returned")


def unsubscribed(
    sim: Simulation, bus: Bus, subscription: Subscription, record: LoopRecord, publishers: list[Publisher]
) -> None:
    stats = subscription.stats()
    accepted = sum(len(publisher.accepted) for publisher in publishers)
    assert stats["acknowledged"] == len(record.given) == len(set(record.given))
    assert stats["accepted"] == accepted, f"{accepted} receipts, but {stats}"
    assert stats["pending"] == 0
    assert_conserved(subscription)
    at_rest(sim, bus)
    no_time(sim)


# --- asking ------------------------------------------------------------------------------------------------------------


def asking(sim: Simulation) -> None:
    """Two threads ask a handler on the loop, and a coroutine asks one on the pool: each gets its own answer."""
    answers: list[tuple[str, int, Any]] = []

    async def on_the_loop(message: Message) -> Any:
        sim.step()
        return message.body * 10

    def on_the_pool(message: Message) -> Any:
        sim.step()
        return message.body * 100

    with bus_of(sim) as bus:
        bus.subscribe("loop", on_the_loop)
        bus.subscribe("pool", on_the_pool)

        def ask(name: str, numbers: Iterable[int]) -> None:
            for number in numbers:
                answers.append((name, number, bus.request("loop", number, timeout=10).body))

        async def main() -> None:
            for number in (1, 2):
                answers.append(("c", number, (await bus.arequest("pool", number, timeout=10)).body))

        sim.spawn(ask, "a", (1, 2))
        sim.spawn(ask, "b", (3, 4))
        sim.spawn(run_loop, sim, main, name="asker c")
    assert sorted(answers) == [
        *(("a", number, number * 10) for number in (1, 2)),
        *(("b", number, number * 10) for number in (3, 4)),
        *(("c", number, number * 100) for number in (1, 2)),
    ]
    no_time(sim)


def asking_impatiently(sim: Simulation) -> None:
    """If the answer and the time-out come at the same moment, the requester gets one of the two, and never neither."""
    told: list[str] = []

    def answer(message: Message) -> Any:
        return message.body

    with bus_of(sim) as bus:
        bus.subscribe("s", answer)

        def ask(name: str) -> None:
            try:
                reply = bus.request("s", name, timeout=0.5)
            except RequestTimeout:
                told.append(name)
            else:
                sim.check(reply.body == name, f"{name} has the answer {reply.body}")
                told.append(name)

        async def main() -> None:
            try:
                reply = await bus.arequest("s", "c", timeout=0.5)
            except RequestTimeout:
                told.append("c")
            else:
                sim.check(reply.body == "c", f"c has the answer {reply.body}")
                told.append("c")

        for name in "ab":
            sim.spawn(ask, name, name=f"asker {name}")
        sim.spawn(run_loop, sim, main, name="asker c")
    assert sorted(told) == ["a", "b", "c"]


def asking_when_it_stops(sim: Simulation) -> None:
    """If the bus stops while callers wait for an answer, each gets the answer or the error that the bus has stopped."""
    told: list[str] = []

    async def answer(message: Message) -> Any:
        await asyncio.sleep(0)
        return message.body

    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", answer)
    bus.start()

    def ask() -> None:
        try:
            told.append(bus.request("s", "a", timeout=100).body)
        except BusClosed:
            told.append("a")

    async def main() -> None:
        try:
            told.append((await bus.arequest("s", "b", timeout=100)).body)
        except BusClosed:
            told.append("b")

    sim.spawn(ask, name="asker a")
    sim.spawn(run_loop, sim, main, name="asker b")
    sim.step()
    bus.stop(timeout=60, drain=False)
    sim.join()
    assert sorted(told) == ["a", "b"]
    at_rest(sim, bus, [subscription])
    no_time(sim)


class Gatekeeper(Actor):
    """A filter actor that learns by mail which message comes next, and then filters that message."""

    def __init__(self, sim: Simulation) -> None:
        super().__init__("gatekeeper")
        self.sim = sim
        self.known: dict[Any, Any] = {}
        self.busy = False

    def on_message(self, message: Message) -> None:
        who, number = message.body
        self.alone(lambda: self.known.update({who: number}))

    def filter(self, message: Message) -> Message:
        who, number = message.body
        self.alone(lambda: None)
        self.sim.check(self.known.get(who) == number, f"asked about {message.body}, but it was told {self.known.get(who)}")
        return message

    def alone(self, call: Callable[[], object]) -> None:
        self.sim.check(not self.busy, "two at a time in an actor")
        self.busy = True
        self.sim.step()
        call()
        self.sim.step()
        self.busy = False


class LoopGatekeeper(Gatekeeper):
    """A Gatekeeper on the bus's loop."""

    async def filter(self, message: Message) -> Message:  # type: ignore[override]
        await asyncio.sleep(0)
        return super().filter(message)


def through_a_filter_actor(sim: Simulation, kind: type[Gatekeeper] = Gatekeeper) -> None:
    """Two threads and a coroutine send it mail and then publish: it filters each message after it has handled that mail."""
    gatekeeper, record = kind(sim), Record(sim)
    accepted: list[Any] = []
    with bus_of(sim, gatekeeper) as bus:
        bus.subscribe("s", record)

        def publish(name: str) -> None:
            for number in range(2):
                bus.publish("gatekeeper", (name, number))
                bus.publish("s", (name, number))
                accepted.append((name, number))

        async def main() -> None:
            await bus.apublish("gatekeeper", ("c", 0))
            await bus.apublish("s", ("c", 0))
            accepted.append(("c", 0))

        for name in "ab":
            sim.spawn(publish, name, name=f"publisher {name}")
        sim.spawn(run_loop, sim, main, name="publisher c")
        sim.join()
        bus.drain(timeout=10)
    assert sorted(record.given) == sorted(accepted) == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0)]
    assert record.of("a") == record.of("b") == [0, 1]
    no_time(sim)


def through_an_async_filter_actor(sim: Simulation) -> None:
    """Two threads and a coroutine publish through a filter actor that answers on the bus's loop."""
    through_a_filter_actor(sim, LoopGatekeeper)


class Passing(Actor):
    """A filter actor that lets every message pass."""

    def filter(self, message: Message) -> Message:
        return message


def filter_actor_when_it_stops(sim: Simulation) -> None:
    """The bus stops while handlers on the pool and on the loop use a filter actor: it stops last, and answers until then."""
    records = {"pool": Record(sim), "loop": LoopRecord(sim)}
    bus = Bus(clock=sim.clock, pool=3)
    bus.use(Passing("gatekeeper"), at="delivery")
    subscriptions = [bus.subscribe(name, record.handler) for name, record in records.items()]
    bus.start()
    publishers = [Publisher(sim, bus, name, 2, subject=name) for name in records]
    sim.step()
    bus.stop(timeout=60, drain=False)
    sim.join()
    at_rest(sim, bus, subscriptions)
    no_time(sim)
    bus.start()
    bus.drain(timeout=10)
    bus.stop(timeout=10)
    for publisher in publishers:
        all_of(records[publisher.name], publisher)
    assert not bus.dead_letters
    at_rest(sim, bus, subscriptions)
    no_time(sim)


# --- stopping ----------------------------------------------------------------------------------------------------------


def loop_stopping_at_once(sim: Simulation) -> None:
    """After a stop without a drain, each accepted message is handled, or left over and handled after the next start."""
    stopping(sim, drain=False, record=LoopRecord(sim))


def loop_stopping_and_draining(sim: Simulation) -> None:
    """A stop drains while messages come: each one is handled, or its publisher is refused."""
    stopping(sim, drain=True, record=LoopRecord(sim, turns=1))


def loop_stopping_with_workers(sim: Simulation) -> None:
    """A stop without a drain, with several workers."""
    stopping(sim, drain=False, workers=2, record=LoopRecord(sim, workers=2, turns=1))


def cancelling(sim: Simulation, drain: bool, workers: int = 1) -> None:
    record = LoopRecord(sim, workers, turns=1, hangs=True)
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", record.handle, workers=workers)
    bus.start()
    publishers = [Publisher(sim, bus, name, 2) for name in "ab"]
    sim.step()
    report = bus.stop(timeout=1, drain=drain)
    assert sim.elapsed <= 1
    sim.join()
    assert not report.abandoned, f"{report.abandoned} are told as abandoned, and nobody was in a handler"
    at_rest(sim, bus, [subscription])
    assert subscription.stats()["pending"] + len(record.done) == sum(len(publisher.accepted) for publisher in publishers)
    record.hangs = False
    elapsed = sim.elapsed
    bus.start()
    bus.drain(timeout=10)
    bus.stop(timeout=10)
    assert sim.elapsed == elapsed
    all_of(record, *publishers, in_order=workers == 1)
    assert not bus.dead_letters
    at_rest(sim, bus, [subscription])


def cancelling_at_once(sim: Simulation) -> None:
    """Handlers that wait forever when the bus stops are cancelled, and handle their messages after the next start."""
    cancelling(sim, drain=False)


def cancelling_after_draining(sim: Simulation) -> None:
    """The same after a drain that did not succeed."""
    cancelling(sim, drain=True)


def cancelling_workers(sim: Simulation) -> None:
    """The same with several handlers at a time."""
    cancelling(sim, drain=False, workers=3)


def cancelling_between_messages(sim: Simulation) -> None:
    """A stop with no time, while workers give way to the loop: messages that they have not begun are left over."""
    record = LoopRecord(sim)
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", record.handle)
    with set_to(loop_worker, CHUNK=1):
        bus.start()
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]
        sim.step()
        report = bus.stop(timeout=0, drain=False)
        sim.join()
        settle_after_stop(sim, bus, subscription, record, report, publishers)
    assert not bus.dead_letters
    no_time(sim)


def starting_loops_again(sim: Simulation) -> None:
    """The bus stops and starts while messages come: each one is refused to its publisher, or handled once."""
    record = LoopRecord(sim, turns=1)
    with bus_of(sim) as bus:
        bus.subscribe("s", record.handle)
        publishers = [Publisher(sim, bus, name, 3) for name in "ab"]
        for _ in range(2):
            bus.stop(timeout=60, drain=False)
            bus.start()
        sim.join()
        bus.drain(timeout=10)
        all_of(record, *publishers)
    no_time(sim)


# --- on a caller's loop ------------------------------------------------------------------------------------------------


def callers_loop(sim: Simulation, workers: int = 1) -> None:
    """With `async with bus` in a coroutine, all messages that two threads publish are handled on the coroutine's loop."""
    record = LoopRecord(sim, workers, turns=1)
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", record.handle, workers=workers)
    publishers: list[Publisher] = []

    async def main() -> None:
        async with bus:
            publishers.extend(Publisher(sim, bus, name, 2) for name in "ab")
            await bus.apublish("s", ("main", 0))
            await ended(sim, tasks(sim, "publisher"))
            await bus.adrain(timeout=10)
            all_of(record, *publishers, in_order=workers == 1)
            assert record.of("main") == [0]

    sim.join(sim.spawn(run_loop, sim, main, name="caller"))
    assert record.loops == sim.loops
    at_rest(sim, bus, [subscription])
    no_time(sim)


def callers_loop_with_workers(sim: Simulation) -> None:
    """The same with several handlers at a time."""
    callers_loop(sim, workers=3)


def stopping_on_callers_loop(sim: Simulation, drain: bool = False) -> None:
    """`astop` while threads publish and handlers run: messages that are left over are handled after the next start."""
    record = LoopRecord(sim, turns=1)
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", record.handle)
    publishers: list[Publisher] = []
    reports: list[Any] = []

    async def main() -> None:
        await bus.astart()
        publishers.extend(Publisher(sim, bus, name, 2) for name in "ab")
        await asyncio.sleep(0)
        reports.append(await bus.astop(timeout=60, drain=drain))

    sim.spawn(run_loop, sim, main, name="caller")
    sim.join()
    settle_after_stop(sim, bus, subscription, record, reports[0], publishers)
    no_time(sim)


def stopping_and_draining_on_callers_loop(sim: Simulation) -> None:
    """The same for a stop that drains."""
    stopping_on_callers_loop(sim, drain=True)


def cancelling_on_callers_loop(sim: Simulation) -> None:
    """`astop` cancels handlers that wait forever, and nobody else; the next start handles all messages."""
    record = LoopRecord(sim, hangs=True)
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", record.handle)
    publishers: list[Publisher] = []

    async def main() -> None:
        await bus.astart()
        publishers.extend(Publisher(sim, bus, name, 2) for name in "ab")
        await asyncio.sleep(0)
        report = await bus.astop(timeout=1, drain=False)
        assert not report.abandoned

    sim.spawn(run_loop, sim, main, name="caller")
    sim.join()
    assert sim.elapsed <= 1
    at_rest(sim, bus, [subscription])
    record.hangs = False
    bus.start()
    bus.drain(timeout=10)
    bus.stop(timeout=10)
    all_of(record, *publishers)
    assert not bus.dead_letters
    at_rest(sim, bus, [subscription])
    assert sim.elapsed <= 1


def ending_callers_loop(sim: Simulation, sleeper: bool = False) -> None:
    """The loop ends before anybody stops the bus: every accepted message is handled after the next start."""
    record = LoopRecord(sim, turns=1)
    bus = Bus(clock=sim.clock, pool=3)
    subscription = bus.subscribe("s", record.handle)
    publishers: list[Publisher] = []

    async def main() -> None:
        await bus.astart()
        if sleeper:
            await bus.apublish("s", ("main", 0))
            await bus.adrain(timeout=10)
        publishers.extend(Publisher(sim, bus, name, 2) for name in "ab")
        if not sleeper:
            await asyncio.sleep(0)
        for _ in range(10):
            sim.step()  # the last moments of the loop

    sim.spawn(run_loop, sim, main, name="caller")
    sim.join()
    bus.stop(timeout=0, drain=False)
    assert left_behind(sim) == []  # (what a worker had in hand when its loop was closed is put right by the next start)
    bus.start()
    bus.drain(timeout=10)
    bus.stop(timeout=10)
    all_of(record, *publishers)
    assert not bus.dead_letters
    at_rest(sim, bus, [subscription])
    no_time(sim)


def ending_callers_loop_when_a_worker_sleeps(sim: Simulation) -> None:
    """The same, but a worker sleeps, and may be woken at the very end."""
    ending_callers_loop(sim, sleeper=True)

"""Dedupe: a message that comes twice has its effect once, and one that failed may come again."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest

from flow_helpers import WAIT, InThread, Way, assert_conserved, every_way, hasty_threads
from pipebus import Bus, Delivery, Dropped, Handled, Message, Pipeline, PipelineError, Receipt, Rejected, when
from pipebus.errors import ContractError
from pipebus.filters import Dedupe, Retry, Tap
from pipebus.testing import FakeClock, FilterBench, Harness, after, run_filter
from tables import table
from values_helpers import named

DUPLICATE = Dropped("duplicate", "Dedupe")


class Boom(Exception):
    """The error of these tests: nothing in the bus raises it."""


def nothing(message: Message) -> None:
    """A handler that works and returns nothing."""


def good(at: str) -> Receipt | Handled:
    """The outcome of a chain that works."""
    return Receipt(1) if at == "publish" else Handled()


def send(bench: FilterBench, ids: Iterable[str | None], body: Any = None) -> list[Any]:
    """Send one message after the other through the filter, and return the outcomes."""
    return [bench.send(Message("a", body, id=id)).outcome for id in ids]


class Once:
    """The end of a chain that fails with the first message, and works from then on."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, message: Message) -> None:
        self.runs += 1
        if self.runs == 1:
            raise Boom


# --- what a duplicate is ------------------------------------------------------------------------------------------------


def test_a_message_that_comes_twice_passes_once(colour: Any, at: Any) -> None:
    """Of two messages with the same id, the second one is dropped."""
    with FilterBench(Dedupe(), at=at, colour=colour) as bench:
        runs = [bench.send(Message("a", id=id)) for id in "1211"]
    assert [run.outcome for run in runs] == [good(at), good(at), DUPLICATE, DUPLICATE]
    assert [run.next_calls for run in runs] == [1, 1, 0, 0]


def test_a_duplicate_is_counted_as_one(harness: Harness, at: Any) -> None:
    """The bus counts a duplicate of a publish, and the subscription counts a duplicate of a delivery."""
    harness.bus.use(Dedupe(), at=at)
    subscription = harness.bus.subscribe("a", nothing)
    bus = harness.start()
    for id in "1211":
        bus.publish("a", id=id)
    harness.drain()
    counted = bus.stats()["dropped"]["Dedupe"] if at == "publish" else subscription.stats()["dropped"]
    assert counted == {"duplicate": 2}
    assert subscription.stats()["acknowledged"] == 2


def test_messages_that_are_not_given_an_id_are_all_different(colour: Any, at: Any) -> None:
    """Messages with equal bodies are different messages."""
    with FilterBench(Dedupe(), at=at, colour=colour) as bench:
        assert send(bench, [None, None], "same") == [good(at), good(at)]


def test_a_key_says_what_makes_two_messages_the_same(colour: Any, at: Any) -> None:
    """Two messages with the same key are duplicates, whatever their ids are."""
    first, other = {"order": 1, "step": "paid"}, {"order": 1, "step": "sent"}
    by_order = Dedupe(key=lambda message: (message.body["order"], message.body["step"]))
    with FilterBench(by_order, at=at, colour=colour) as bench:
        assert [bench.send(body).outcome for body in (first, other, first)] == [good(at), good(at), DUPLICATE]


def test_a_message_without_a_key_has_no_duplicates(colour: Any, at: Any) -> None:
    """If the key is None, the filter cannot tell, so every such message passes."""
    with FilterBench(Dedupe(key=lambda message: message.body), at=at, colour=colour) as bench:
        assert send(bench, "11", None) == [good(at), good(at)]
        assert send(bench, "11", 0) == [good(at), DUPLICATE]


# --- what is forgotten --------------------------------------------------------------------------------------------------


def test_a_message_that_failed_may_come_again(colour: Any, at: Any) -> None:
    """A message that failed may come again with the same id; once it works, a further copy is a duplicate."""
    with FilterBench(Dedupe(), at=at, colour=colour) as bench:
        assert isinstance(bench.send(Message("a", id="1"), next=Boom).error, Boom)
        assert bench.send(Message("a", id="1"), next=None).outcome == good(at)
        assert send(bench, "1") == [DUPLICATE]


def test_a_message_that_was_dropped_further_in_may_come_again(colour: Any, at: Any) -> None:
    """A message that a filter further in dropped had no effect, so it may come again."""
    not_yet = Dropped("not yet", "further in")
    with FilterBench(Dedupe(), at=at, colour=colour) as bench:
        assert bench.send(Message("a", id="1"), next=not_yet).outcome == not_yet
        assert bench.send(Message("a", id="1"), next=None).outcome == good(at)
        assert send(bench, "1") == [DUPLICATE]


def test_a_message_is_known_for_its_window(colour: Any, at: Any) -> None:
    """The window begins when the message passes, and a duplicate does not prolong it."""
    with FilterBench(Dedupe(window=10.0), at=at, colour=colour) as bench:
        assert send(bench, "1") == [good(at)]
        bench.advance(9.0)
        assert send(bench, "1") == [DUPLICATE]
        bench.advance(2.0)
        assert send(bench, "11") == [good(at), DUPLICATE]


@pytest.mark.parametrize("of", ["publish", "delivery"])
def test_the_window_is_told_by_the_clock_of_the_bus(of: Any) -> None:
    """The bus's clock measures the window, so a test can move it with a fake clock."""
    clock = FakeClock()
    bus = Bus(clock=clock)
    handled: list[Any] = []
    bus.use(Dedupe(window=10.0), at=of)
    bus.subscribe("a", lambda message: handled.append(message.body))
    with bus:
        for seconds in (0.0, 9.0, 2.0, 9.0):
            clock.advance(seconds)
            bus.publish("a", clock.monotonic(), id="1")
            bus.drain(timeout=WAIT)
    assert handled == [0.0, 11.0]


def test_the_window_begins_when_the_run_has_ended(colour: Any, at: Any) -> None:
    """A message whose run takes longer than the window is remembered until the run has ended."""
    with FilterBench(Dedupe(window=10.0), after(15.0), at=at, colour=colour) as bench:
        assert send(bench, "1") == [good(at)]
        bench.advance(9.0)
        assert send(bench, "1") == [DUPLICATE]


def test_of_too_many_the_oldest_are_forgotten_first(colour: Any, at: Any) -> None:
    """Once the filter remembers `size` messages, each new one pushes out the oldest."""
    with FilterBench(Dedupe(size=3), at=at, colour=colour) as bench:
        assert send(bench, "12345") == [good(at)] * 5
        assert send(bench, "345") == [DUPLICATE] * 3
        assert send(bench, "12") == [good(at)] * 2
        assert send(bench, "512") == [DUPLICATE] * 3


def test_one_that_comes_again_after_its_window_is_the_newest() -> None:
    """The time that a message last passed decides how new it is, not the first time."""
    with FilterBench(Dedupe(window=10.0, size=4)) as bench:
        send(bench, "1234")
        bench.advance(11.0)
        assert send(bench, "3567") == [Receipt(1)] * 4
        assert send(bench, "3567") == [DUPLICATE] * 4


class Key:
    """A key that the tests can watch until it is freed."""

    alive: ClassVar[weakref.WeakSet[Key]] = weakref.WeakSet()

    def __init__(self, value: object) -> None:
        self.value = value
        Key.alive.add(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


def test_what_is_forgotten_takes_no_memory(colour: Any, at: Any) -> None:
    """The filter holds at most `size` keys; each new key pushes out two whose window is over."""
    Key.alive.clear()
    dedupe = Dedupe(key=lambda message: Key(message.body), window=10.0, size=20)
    with FilterBench(dedupe, at=at, colour=colour) as bench:
        for number in range(50):
            bench.send(number)
        assert _alive() == 20
        bench.advance(11.0)
        bench.send(50)
        assert _alive() == 19  # not all at once: that would hold up everybody after a quiet hour
        for number in range(51, 60):
            bench.send(number)
        assert _alive() == 10


def _alive() -> int:
    gc.collect()
    return len(Key.alive)


@pytest.mark.parametrize("end", ["failed", "was dropped"])
def test_what_had_no_effect_takes_no_memory(colour: str, at: Any, end: str) -> None:
    """A message that failed, or that a filter further in dropped, is freed. (A harness would keep errors and their frames.)"""
    Key.alive.clear()

    def rest(message: Message, call_next: Any) -> Dropped:
        if end == "failed":
            raise Boom(message.body)
        return Dropped("unwanted")

    async def arest(message: Message, call_next: Any) -> Dropped:
        return rest(message, call_next)

    async def anothing(message: Message) -> None:
        nothing(message)

    bus = Bus()
    bus.use(Dedupe(key=lambda message: Key(message.body)), rest if colour == "sync" else arest, at=at)
    subscription = bus.subscribe("a", nothing if colour == "sync" else anothing)
    with bus:
        for number in range(10):
            with suppress(Boom):
                bus.publish("a", number)
        bus.drain(timeout=WAIT)
        stats = subscription.stats()
        assert stats["dead"] + sum(stats["dropped"].values()) == (10 if at == "delivery" else 0)
        assert _alive() == 0


# --- under way ----------------------------------------------------------------------------------------------------------


def test_a_message_that_is_under_way_is_known_however_long_it_takes(harness: Harness) -> None:
    """In a publish chain, a copy that comes meanwhile is dropped, even after the window and with a full memory."""
    slow = when(lambda message: message.body == "slow", Tap(lambda message: harness.clock.sleep(90.0)))
    harness.bus.use(Dedupe(window=10.0, size=1), slow)
    mailbox = harness.bus.subscribe("a")
    bus = harness.start()
    first = harness.thread(bus.publish, "a", "slow", id="1")
    harness.advance(60.0)
    assert [bus.publish("a", id=id) for id in "234"] == [Receipt(1)] * 3
    assert bus.publish("a", "copy", id="1") == DUPLICATE
    assert mailbox.stats()["pending"] == 3
    assert first.result() == Receipt(1)
    assert bus.publish("a", "copy", id="1") == DUPLICATE
    assert mailbox.stats()["pending"] == 4


def test_a_delivery_that_is_under_way_is_known(harness: Harness, colour: str) -> None:
    """With two workers, the copy that the second one takes is dropped while the first one still runs the handler."""
    bodies: list[Any] = []

    def handle(message: Message) -> None:
        bodies.append(message.body)
        harness.clock.sleep(2.0)

    async def ahandle(message: Message) -> None:
        bodies.append(message.body)
        await asyncio.sleep(2.0)

    subscription = harness.bus.subscribe("a", handle if colour == "sync" else ahandle, workers=2, filters=[Dedupe()])
    bus = harness.start()
    bus.publish("a", "first", id="1")
    harness.advance(1.0)
    bus.publish("a", "copy", id="1")
    harness.advance(0)
    assert (subscription.stats()["dropped"], subscription.stats()["acknowledged"]) == ({"duplicate": 1}, 0)
    harness.drain()
    assert bodies == ["first"]


class Slow(Key):
    """A key that gives other threads time to run whenever it is hashed."""

    __eq__ = Key.__eq__

    def __hash__(self) -> int:
        for _ in range(400):
            pass
        return super().__hash__()


@every_way
@pytest.mark.few(1)
def test_of_many_threads_that_publish_the_same_ids_each_id_passes_once(way: Way) -> None:
    """Twenty publishers send the same forty ids, each at its own pace: exactly forty messages get a receipt."""
    bus = Bus()
    bus.use(Dedupe(key=lambda message: Slow(message.id)))
    mailbox = bus.subscribe("a")
    ids = [str(number) for number in range(40)]
    barrier = threading.Barrier(20)

    def publisher(first: int) -> list[str]:
        barrier.wait(WAIT)
        mine = ids[first:] + ids[:first]
        return [id for id in mine if way(bus, "a", id=id)]

    with bus, hasty_threads():
        publishers = [InThread(publisher, number % 2) for number in range(20)]
        accepted = [id for publisher in publishers for id in publisher.result()]
        assert sorted(accepted) == sorted(ids)
        assert mailbox.stats()["pending"] == 40
        assert bus.stats()["dropped"] == {"Dedupe": {"duplicate": 19 * 40}}


def test_of_many_tasks_that_publish_the_same_id_one_passes(harness: Harness) -> None:
    """Many tasks on one loop publish the same id, and only one of them passes."""

    async def slow(message: Message, call_next: Any) -> Any:
        await asyncio.sleep(0)
        return await call_next(message)

    async def main() -> list[Any]:
        return await asyncio.gather(*[harness.bus.apublish("a", id="1") for _ in range(20)])

    harness.bus.use(Dedupe(), slow)
    mailbox = harness.bus.subscribe("a")
    harness.start()
    outcomes = harness.run(main())
    assert (outcomes.count(Receipt(1)), outcomes.count(DUPLICATE)) == (1, 19)
    assert_conserved(mailbox, accepted=1)


def test_a_key_may_publish_while_it_is_compared() -> None:
    """Comparing keys may run code that publishes, for instance in a signal handler, and that must not deadlock."""
    bus = Bus()

    class Loud(Key):
        __hash__ = Key.__hash__

        def __eq__(self, other: object) -> bool:
            bus.publish("b", id="once")
            return super().__eq__(other)

    bus.use(Dedupe(key=lambda message: Loud(message.body) if message.subject == "a" else message.id))
    bus.subscribe("a")
    with bus:
        assert InThread(bus.publish, "a", 1).result() == Receipt(1)
        assert InThread(bus.publish, "a", 1).result() == DUPLICATE


# --- each chain for itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["the bus", "the subscriptions"])
def test_each_subscriber_gets_its_copy(harness: Harness, of: str) -> None:
    """One filter object around two handlers keeps them apart: a message that one has handled is new for the other."""
    bus, dedupe = harness.bus, Dedupe()
    own = [dedupe] if of == "the subscriptions" else []
    if of == "the bus":
        bus.use(dedupe, at="delivery")

    async def anothing(message: Message) -> None:
        nothing(message)

    bus.subscribe("a", nothing, name="one", filters=own)
    bus.subscribe("a", anothing, name="other", filters=own)
    harness.start()
    for id in ("1", "2", "1"):
        bus.publish("a", id=id)
    harness.drain()
    for name in ("one", "other"):
        assert [message.id for message in harness.delivered_to(name)] == ["1", "2"]
        assert bus.stats()["subscriptions"][name]["dropped"] == {"duplicate": 1}


def test_what_was_published_is_no_duplicate_for_its_handler(harness: Harness) -> None:
    """One filter object in both chains keeps one memory for each chain."""
    bus, dedupe = harness.bus, Dedupe()
    bus.use(dedupe)
    bus.use(dedupe, at="delivery")
    bus.subscribe("a", nothing, name="a")
    harness.start()
    assert [bool(bus.publish("a", id=id)) for id in "121"] == [True, True, False]
    harness.drain()
    assert [message.id for message in harness.delivered_to("a")] == ["1", "2"]


def test_in_a_publish_chain_there_is_one_memory_for_all_subjects(colour: Any) -> None:
    """In a publish chain the same id is a duplicate on every subject."""
    dedupe = Dedupe()
    runs = [run_filter(dedupe, Message(subject, id=id), colour=colour) for subject, id in (("a", "1"), ("b", "1"), ("b", "2"))]
    assert [run.dropped for run in runs] == [None, "duplicate", None]


def test_a_memory_outlives_what_makes_its_chain_anew(harness: Harness, at: Any) -> None:
    """The filter remembers messages when somebody subscribes, and when the bus stops and starts."""
    bus = harness.bus
    bus.use(Dedupe(), at=at)
    bus.subscribe("a", nothing, name="a")
    harness.start()
    bus.publish("a", id="1")
    bus.subscribe("*", nothing)
    bus.publish("a", id="1")
    harness.drain()
    bus.stop()
    gc.collect()
    harness.start()
    bus.publish("a", id="1")
    harness.drain()
    assert [message.id for message in harness.delivered_to("a")] == ["1"]


def test_the_memory_of_a_subscription_goes_with_it() -> None:
    """A bus-wide filter frees the memory of a subscription when that subscription ends."""
    Key.alive.clear()
    bus = Bus(pool=1)  # a worker that sleeps keeps the mailbox that it came from
    bus.use(Dedupe(key=lambda message: Key(message.body)), at="delivery")
    with bus:
        for number in range(5):
            with bus.subscribe("a", nothing):
                bus.publish("a", number)
                bus.drain(timeout=WAIT)
        with bus.subscribe("a", nothing) as last:
            bus.publish("a", "last")
            bus.drain(timeout=WAIT)
            assert _alive() == 1
            assert last.stats()["acknowledged"] == 1


# --- what a handler does with its delivery ------------------------------------------------------------------------------


def _coloured(colour: str, handle: Callable[[Message, Delivery], None]) -> Any:
    async def ahandle(message: Message, delivery: Delivery) -> None:
        handle(message, delivery)

    def plain(message: Message, delivery: Delivery) -> None:
        handle(message, delivery)

    return ahandle if colour == "async" else plain


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
def test_a_delivery_that_was_given_back_comes_again(harness: Harness, colour: str, raises: bool) -> None:
    """After `delivery.retry()` a message does not count as handled, however the run ends; it counts once it is handled."""
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            delivery.retry()
            if raises:
                raise Boom

    harness.allow(Boom)
    subscription = harness.bus.subscribe("a", _coloured(colour, handle), filters=[Dedupe()])
    bus = harness.start()
    bus.publish("a", id="1")
    bus.publish("a", id="1")  # one of the two is handled, whichever is taken first
    harness.drain()
    stats = subscription.stats()
    assert (stats["acknowledged"], stats["dropped"]) == (1, {"duplicate": 1})
    assert len(attempts) == 2


def test_a_delivery_that_was_given_back_may_come_before_its_run_has_ended(harness: Harness) -> None:
    """A second worker may take it while the first one is still in the handler; it is not a duplicate of itself."""
    attempts: list[tuple[float, int]] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append((harness.elapsed, delivery.attempt))
        if delivery.attempt == 1:
            delivery.retry()
            harness.clock.sleep(2.0)
        else:
            harness.clock.sleep(5.0)

    subscription = harness.bus.subscribe("a", handle, workers=2, filters=[Dedupe()])
    bus = harness.start()
    bus.publish("a", id="1")
    harness.advance(3.0)
    assert attempts == [(0.0, 1), (0.0, 2)]
    bus.publish("a", "copy", id="1")  # the second run is the one that counts, also when the first has ended
    harness.advance(0)
    assert (subscription.stats()["acknowledged"], subscription.stats()["dropped"]) == (0, {"duplicate": 1})
    harness.drain()
    bus.publish("a", "copy", id="1")
    harness.drain()
    assert (subscription.stats()["acknowledged"], subscription.stats()["dropped"]) == (1, {"duplicate": 2})
    assert len(attempts) == 2


@pytest.mark.parametrize("rejects", [False, True], ids=["raises", "rejects"])
def test_a_dead_letter_can_be_replayed(harness: Harness, colour: str, rejects: bool) -> None:
    """A message that was rejected or failed had no effect, so its replay is not a duplicate."""
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            if not rejects:
                raise Boom
            delivery.reject("not now")

    harness.allow(Boom)
    subscription = harness.bus.subscribe("a", _coloured(colour, handle), filters=[Dedupe()])
    bus = harness.start()
    bus.publish("a", id="1")
    harness.drain()
    (letter,) = bus.dead_letters.list()
    bus.dead_letters.replay(letter.id)
    harness.drain()
    assert (subscription.stats()["acknowledged"], len(attempts)) == (1, 2)
    bus.publish("a", id="1")
    harness.drain()
    assert (subscription.stats()["dropped"], len(attempts)) == ({"duplicate": 1}, 2)


def test_a_delivery_that_was_acknowledged_is_known_also_if_its_handler_fails_later(harness: Harness, colour: str) -> None:
    """An acknowledgement is final: the message counts as handled although its handler fails later."""
    runs: list[Message] = []

    def handle(message: Message, delivery: Delivery) -> None:
        runs.append(message)
        delivery.ack()
        raise Boom

    harness.allow(Boom)
    subscription = harness.bus.subscribe("a", _coloured(colour, handle), filters=[Dedupe()])
    bus = harness.start()
    bus.publish("a", id="1")
    bus.publish("a", id="1")
    harness.drain()
    assert (subscription.stats()["acknowledged"], subscription.stats()["dropped"]) == (1, {"duplicate": 1})
    assert len(runs) == 1


def test_what_a_handler_publishes_does_not_depend_on_its_delivery(harness: Harness) -> None:
    """A handler returns its own message, but the message that it publishes has passed, so its second publish is a duplicate."""
    outcomes: list[Any] = []
    bus = harness.bus
    bus.use(Dedupe())
    other = bus.subscribe("b")

    def handle(message: Message, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            delivery.retry()
        outcomes.append(bus.publish("b", id="notice"))

    bus.subscribe("a", handle)
    harness.start().publish("a")
    harness.advance(0)
    assert other.stats()["pending"] == 1
    assert outcomes == [Receipt(1), DUPLICATE]


# --- cancellation -------------------------------------------------------------------------------------------------------


def test_a_delivery_that_a_stop_cancelled_is_handled_by_the_next_start(harness: Harness) -> None:
    """The message goes back to its mailbox, and is not a duplicate of itself."""
    runs: list[Message] = []

    async def handle(message: Message) -> None:
        runs.append(message)
        if len(runs) == 1:
            await asyncio.Event().wait()

    subscription = harness.bus.subscribe("a", handle, name="slow", filters=[Dedupe()])
    bus = harness.start()
    bus.publish("a", id="1")
    harness.advance(0)
    assert len(runs) == 1
    assert bus.stop(timeout=0, drain=False).left == {"slow": 1}
    harness.start()
    harness.drain()
    assert (len(runs), subscription.stats()["acknowledged"], subscription.stats()["dropped"]) == (2, 1, {})


def test_a_publish_that_was_cancelled_may_be_repeated(harness: Harness) -> None:
    """No mailbox has the message, so the same id passes."""

    async def slow(message: Message, call_next: Any) -> Any:
        if message.body == "slow":
            await asyncio.Event().wait()
        return await call_next(message)

    async def main() -> None:
        task = asyncio.create_task(bus.apublish("a", "slow", id="1"))
        await asyncio.sleep(1.0)
        assert await bus.apublish("a", id="1") == DUPLICATE
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await bus.apublish("a", id="1") == Receipt(1)

    bus = harness.bus
    bus.use(Dedupe(), slow)
    bus.subscribe("a")
    harness.start()
    harness.run(main())


# --- with Retry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["Dedupe", "Retry"])
def test_a_further_run_is_no_duplicate_of_the_one_before(colour: Any, at: Any, first: str) -> None:
    """Next to Retry, in either order, a failed message runs again and passes once."""
    filters = [Dedupe(), Retry(wait=0)] if first == "Dedupe" else [Retry(wait=0), Dedupe()]
    with FilterBench(Pipeline(*filters), [Boom(), None], at=at, colour=colour) as bench:
        run = bench.send(Message("a", id="1"))
        assert (run.outcome, run.next_calls) == (good(at), 2)
        assert send(bench, "1") == [DUPLICATE]


def test_in_front_of_retry_a_message_is_known_between_two_runs(harness: Harness) -> None:
    """In front of Retry, which is the recommended order, a copy that comes during the wait is dropped."""
    end = Once()
    harness.bus.use(Dedupe(), Retry(wait=5.0), Tap(end))
    mailbox = harness.bus.subscribe("a")
    bus = harness.start()
    first = harness.thread(bus.publish, "a", id="1")
    harness.advance(1.0)
    assert end.runs == 1
    assert bus.publish("a", "copy", id="1") == DUPLICATE
    assert first.result() == Receipt(1)
    assert mailbox.receive(timeout=0).body is None


# --- keys that cannot be computed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        pytest.param(
            lambda message: message.body["order"],
            "failed with TypeError: 'NoneType' object is not subscriptable",
            id="it raises",
        ),
        pytest.param(lambda message: ["a"], "returned a list", id="it returns a list"),
        pytest.param(lambda message: {"a": 1}, "returned a table", id="it returns a table"),
    ],
)
def test_a_key_that_cannot_be_told_is_the_filter_s_error(colour: Any, at: Any, key: Any, cause: str) -> None:
    """The error names the filter, the setting, what happened and what to do; the message does not pass."""
    asked: list[Message] = []
    chain = Pipeline(Retry(wait=0), Tap(asked.append), Dedupe(key=key))
    run = run_filter(chain, Message("a", id="1"), colour=colour, at=at)
    assert isinstance(run.error, ContractError)
    assert str(run.error) == (
        f"filter Dedupe cannot recognise duplicates: Dedupe.key {cause}; make it return text, a number or another hashable "
        "value for each message, or None for one that has no duplicates"
    )
    assert isinstance(run.error.__cause__, TypeError)
    assert run.next_calls == 0
    assert len(asked) == 1  # a second run would fail in the same way


def test_a_key_may_refuse_a_message(colour: Any, at: Any) -> None:
    """A key function may raise `Rejected`, like any filter."""

    def order(message: Message) -> str:
        raise Rejected("there is no order in it")

    run = run_filter(Dedupe(key=order), Message("a", id="1"), colour=colour, at=at)
    assert isinstance(run.error, Rejected)
    assert (run.error.by, run.error.reasons, run.next_calls) == ("Dedupe", ("there is no order in it",), 0)


# --- settings -----------------------------------------------------------------------------------------------------------


def test_a_filter_alone_can_be_driven_by_hand() -> None:
    """Without a bus, the filter uses the computer's clock."""
    dedupe, message = Dedupe(), Message("a")
    steps = dedupe.around(message)
    assert next(steps) is message
    with pytest.raises(StopIteration) as passed:
        steps.send(Receipt(1))
    assert passed.value.value == Receipt(1)
    with pytest.raises(StopIteration) as dropped:
        next(dedupe.around(message))
    assert dropped.value.value == Dropped("duplicate")


def test_durations_may_be_texts() -> None:
    """Durations may be texts in code too; the defaults are ten minutes and a hundred thousand messages."""
    assert Dedupe(window="10m").window == Dedupe().window == 600.0  # type: ignore[arg-type]
    assert (Dedupe().size, Dedupe().key) == (100_000, None)


async def asynchronous(message: Message) -> str:
    return message.id


class Asynchronous:
    async def __call__(self, message: Message) -> str:
        return message.id


@table(
    ("settings", "text"),
    [
        ({"key": "id"}, r"Dedupe\.key='id': .*plain function.*leave it out to use the message's id"),
        ({"key": 5}, r"Dedupe\.key=5"),
        ({"key": asynchronous}, r"Dedupe\.key=.*asynchronous.*plain function"),
        ({"key": Asynchronous()}, r"Dedupe\.key=.*Asynchronous.*plain function"),
        ({"window": 0}, r"Dedupe\.window=0: .*greater than 0"),
        ({"window": -1}, r"Dedupe\.window=-1"),
        ({"window": float("inf")}, r"Dedupe\.window=inf"),
        ({"window": None}, r"Dedupe\.window=None"),
        ({"window": "10 minutes"}, r"Dedupe\.window='10 minutes'"),
        ({"size": 0}, r"Dedupe\.size=0: .*at least 1"),
        ({"size": 2.5}, r"Dedupe\.size=2\.5"),
        ({"size": True}, r"Dedupe\.size=True"),
        ({"size": "many"}, r"Dedupe\.size='many'"),
    ],
    ids=named,
)
def test_wrong_settings_are_refused_where_they_are_written(settings: dict[str, Any], text: str) -> None:
    """The error names the setting, what was found, and what to write."""
    with pytest.raises(PipelineError, match=text):
        Dedupe(**settings)


@pytest.mark.parametrize("durable", [False, True])
def test_true_is_not_one(durable: bool, tmp_path: Path) -> None:
    """In JSON, true and 1 are two values, and so are false and 0; 1 and 1.0 are one number."""
    bus = Bus(f"sqlite:///{tmp_path / 'bus.db'}" if durable else "memory:")
    bus.use(Dedupe(key=lambda message: message.body, durable=durable))
    bus.subscribe("a", name="reader")
    with bus:
        passed = [body for body in (1, True, 0, False, 1.0, True) if bus.publish("a", body)]
    assert passed == [1, True, 0, False]

"""Dedupe: a message that comes twice has its effect once, and one that failed may come again."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest

from flow_helpers import (
    WAIT,
    HandClock,
    Hold,
    InThread,
    Way,
    assert_conserved,
    every_way,
    hasty_threads,
    running,
    wait_until,
)
from pipebus import Bus, Delivery, Dropped, Handled, Message, PipelineError, Receipt, Rejected, around, transform, when
from pipebus.errors import ContractError
from pipebus.filters import Dedupe, Retry, Tap

DUPLICATE = Dropped("duplicate", "Dedupe")
KINDS = ("publish", "publish async", "apublish", "delivery", "delivery async")


class Boom(Exception):
    """The error of these tests: nothing in the bus raises it."""


def nothing(message: Message) -> None:
    """The end of a chain that works."""


class Road:
    """
    One kind of chain; called with filters and the function at their end, it gives `send(id, body)`: one message through, and
    what came out: an outcome, or the error.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.delivered = kind.startswith("delivery")
        self.good: Receipt | Handled = Handled() if self.delivered else Receipt(1)

    @contextmanager
    def __call__(
        self, *filters: Any, end: Callable[[Message], object] = nothing, clock: Any = None
    ) -> Iterator[Callable[..., Any]]:
        last: list[Any] = []

        @around
        def seen(message: Message) -> Any:
            try:
                last.append((yield message))
            except BaseException as error:
                last.append(error)
                raise
            return last[-1]

        async def aend(message: Message) -> None:
            end(message)

        async def apass(message: Message, call_next: Any) -> Any:
            end(message)
            return await call_next(message)

        self.bus = Bus(clock=clock)
        if self.delivered:
            self.subscription = self.bus.subscribe(
                "a", aend if self.kind == "delivery async" else lambda message: end(message), filters=[seen, *filters]
            )
        else:
            self.bus.use(seen, *filters, apass if self.kind == "publish async" else Tap(end))
            self.subscription = self.bus.subscribe("a")

        def send(id: str | None = None, body: Any = None) -> Any:
            message = Message("a", body, id=id)
            try:
                if self.kind == "apublish":
                    asyncio.run(self.bus.asend(message))
                else:
                    self.bus.send(message)
            except Exception as error:
                assert error is last[-1]  # noqa: PT017
            if self.delivered:
                self.bus.drain(timeout=WAIT)
            return last.pop()

        with self.bus:
            yield send
        assert_conserved(self.subscription)


@pytest.fixture(params=KINDS)
def road(request: pytest.FixtureRequest) -> Road:
    return Road(request.param)


class Once:
    """The end of a chain that fails with the first message, and works from then on."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, message: Message) -> None:
        self.runs += 1
        if self.runs == 1:
            raise Boom


# --- what a duplicate is ------------------------------------------------------------------------------------------------


def test_a_message_that_comes_twice_passes_once(road: Road) -> None:
    """By its id; the second one is dropped, and counted as a duplicate."""
    passed: list[str] = []
    with road(Dedupe(), end=lambda message: passed.append(message.id)) as send:
        assert [send("1"), send("2"), send("1"), send("1")] == [road.good, road.good, DUPLICATE, DUPLICATE]
        counted = road.subscription.stats() if road.delivered else road.bus.stats()["dropped"]["Dedupe"]
    assert passed == ["1", "2"]
    assert (counted["dropped"] if road.delivered else counted) == {"duplicate": 2}


def test_messages_that_are_not_given_an_id_are_all_different(road: Road) -> None:
    """Equal bodies are no duplicates."""
    with road(Dedupe()) as send:
        assert [send(None, "same"), send(None, "same")] == [road.good, road.good]


def test_a_key_says_what_makes_two_messages_the_same(road: Road) -> None:
    """Whatever their ids are."""
    with road(Dedupe(key=lambda message: (message.body["order"], message.body["step"]))) as send:
        first, other = {"order": 1, "step": "paid"}, {"order": 1, "step": "sent"}
        assert [send("1", first), send("2", other), send("3", first)] == [road.good, road.good, DUPLICATE]


def test_a_message_without_a_key_has_no_duplicates(road: Road) -> None:
    """None is "cannot tell", and nothing is lost by it."""
    with road(Dedupe(key=lambda message: message.body)) as send:
        assert [send("1", None), send("1", None), send("1", 0), send("1", 0)] == [road.good, road.good, road.good, DUPLICATE]


# --- what is forgotten --------------------------------------------------------------------------------------------------


def test_a_message_that_failed_may_come_again(road: Road) -> None:
    """An error does not poison the id; what works then is known."""
    with road(Dedupe(), end=Once()) as send:
        assert isinstance(send("1"), Boom)
        assert [send("1"), send("1")] == [road.good, DUPLICATE]


def test_a_message_that_was_dropped_further_in_may_come_again(road: Road) -> None:
    """It has had no effect."""
    asked: list[Message] = []

    @transform
    def drop_first(message: Message) -> Message | Dropped:
        asked.append(message)
        return Dropped("not yet") if len(asked) == 1 else message

    with road(Dedupe(), drop_first) as send:
        assert [send("1"), send("1"), send("1")] == [Dropped("not yet", "drop_first"), road.good, DUPLICATE]


def test_a_message_is_known_for_its_window(road: Road) -> None:
    """Counted from when it passed; a duplicate does not prolong it."""
    clock = HandClock()
    with road(Dedupe(window=10.0), clock=clock) as send:
        assert send("1") == road.good
        clock.advance(9.0)
        assert send("1") == DUPLICATE
        clock.advance(2.0)
        assert [send("1"), send("1")] == [road.good, DUPLICATE]


def test_the_window_begins_when_the_run_has_ended(road: Road) -> None:
    """A run that takes longer than the window is not forgotten before it has ended."""
    clock = HandClock()
    with road(Dedupe(window=10.0), end=lambda message: clock.advance(15.0), clock=clock) as send:
        assert send("1") == road.good
        clock.advance(9.0)
        assert send("1") == DUPLICATE


def test_of_too_many_the_oldest_are_forgotten_first(road: Road) -> None:
    """`size` are known; the newest of them for sure."""
    with road(Dedupe(size=3)) as send:
        assert {send(id) for id in "12345"} == {road.good}
        assert [send(id) for id in "345"] == [DUPLICATE] * 3
        assert [send(id) for id in "12"] == [road.good] * 2
        assert [send(id) for id in "512"] == [DUPLICATE] * 3


def test_one_that_comes_again_after_its_window_is_the_newest() -> None:
    """What counts is when a message passed last, not first."""
    clock, road = HandClock(), Road("publish")
    with road(Dedupe(window=10.0, size=4), clock=clock) as send:
        for id in "1234":
            send(id)
        clock.advance(11.0)
        assert {send(id) for id in "3567"} == {road.good}
        assert [send(id) for id in "3567"] == [DUPLICATE] * 4


class Key:
    """A key whose life can be followed."""

    alive: ClassVar[weakref.WeakSet[Key]] = weakref.WeakSet()

    def __init__(self, value: object) -> None:
        self.value = value
        Key.alive.add(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


def test_what_is_forgotten_takes_no_memory(road: Road) -> None:
    """No more than `size` keys are held; those whose window is over go as others come, two for each."""
    clock = HandClock()
    Key.alive.clear()
    with road(Dedupe(key=lambda message: Key(message.body), window=10.0, size=20), clock=clock) as send:
        for number in range(50):
            send(None, number)
        assert _alive() == 20
        clock.advance(11.0)
        send(None, 50)
        assert _alive() == 19  # not all at once: that would hold up everybody after a quiet hour
        for number in range(51, 60):
            send(None, number)
        assert _alive() == 10


def _alive() -> int:
    gc.collect()
    return len(Key.alive)


def test_what_failed_takes_no_memory(road: Road) -> None:
    """Nor does what was dropped, or has no key."""
    Key.alive.clear()

    def fail(message: Message) -> None:
        raise Boom(message.body)

    with road(Dedupe(key=lambda message: Key(message.body)), end=fail) as send:
        for number in range(10):
            send(None, number)
        assert _alive() == 0


# --- under way ----------------------------------------------------------------------------------------------------------


def test_a_message_that_is_under_way_is_known_however_long_it_takes() -> None:
    """Publish: a copy that comes meanwhile is dropped, though the window is long over and the memory full."""
    clock, hold = HandClock(), Hold()
    bus = Bus(clock=clock)
    bus.use(Dedupe(window=10.0, size=1), when(lambda message: message.body == "slow", Tap(hold)))
    mailbox = bus.subscribe("a")
    with running(bus, drain=False):
        first = InThread(bus.publish, "a", "slow", id="1")
        hold.wait_started()
        clock.advance(60.0)
        assert [bus.publish("a", id=id) for id in "234"] == [Receipt(1)] * 3
        assert bus.publish("a", "copy", id="1") == DUPLICATE
        hold.open()
        assert first.result() == Receipt(1)
        assert bus.publish("a", "copy", id="1") == DUPLICATE
        assert mailbox.stats()["pending"] == 4


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_delivery_that_is_under_way_is_known(colour: str) -> None:
    """Two workers: the copy that the second one takes is dropped while the first is still at it."""
    started, go_on, bodies = threading.Event(), threading.Event(), []

    def handle(message: Message) -> None:
        bodies.append(message.body)
        started.set()
        assert go_on.wait(WAIT)

    async def ahandle(message: Message) -> None:
        await asyncio.to_thread(handle, message)

    with running() as bus:
        subscription = bus.subscribe("a", handle if colour == "sync" else ahandle, workers=2, filters=[Dedupe()])
        bus.publish("a", "first", id="1")
        assert started.wait(WAIT)
        bus.publish("a", "copy", id="1")
        wait_until(lambda: subscription.stats()["dropped"] == {"duplicate": 1}, "the copy is dropped")
        go_on.set()
    assert bodies == ["first"]


class Slow(Key):
    """A key that lets other threads in wherever it is looked for."""

    __eq__ = Key.__eq__

    def __hash__(self) -> int:
        for _ in range(400):
            pass
        return super().__hash__()


@every_way
def test_of_many_threads_that_publish_the_same_ids_each_id_passes_once(way: Way) -> None:
    """Twenty publishers, the same forty ids, each at its own pace: forty receipts in all, forty messages."""
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


def test_of_many_tasks_that_publish_the_same_id_one_passes() -> None:
    """On one loop, with a chain that lets the others in between."""

    async def slow(message: Message, call_next: Any) -> Any:
        await asyncio.sleep(0)
        return await call_next(message)

    async def main() -> list[Any]:
        async with bus:
            return await asyncio.gather(*[bus.apublish("a", id="1") for _ in range(20)])

    bus = Bus()
    bus.use(Dedupe(), slow)
    mailbox = bus.subscribe("a")
    outcomes = asyncio.run(main())
    assert (outcomes.count(Receipt(1)), outcomes.count(DUPLICATE)) == (1, 19)
    assert_conserved(mailbox, accepted=1)


def test_a_key_may_publish_while_it_is_compared() -> None:
    """Nor does a signal handler that publishes on the main thread meet a closed door."""
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
def test_each_subscriber_gets_its_copy(of: str) -> None:
    """One filter object around two handlers: what one has handled is no duplicate for the other."""
    handled: list[tuple[str, str]] = []
    bus, dedupe = Bus(), Dedupe()
    own = [dedupe] if of == "the subscriptions" else []
    if of == "the bus":
        bus.use(dedupe, at="delivery")

    async def other(message: Message) -> None:
        handled.append(("other", message.id))

    bus.subscribe("a", lambda message: handled.append(("one", message.id)), name="one", filters=own)
    bus.subscribe("a", other, name="other", filters=own)
    with running(bus):
        for id in ("1", "2", "1"):
            bus.publish("a", id=id)
        bus.drain(timeout=WAIT)
        assert {name: s["dropped"] for name, s in bus.stats()["subscriptions"].items()} == {
            "one": {"duplicate": 1},
            "other": {"duplicate": 1},
        }
    assert sorted(handled) == [("one", "1"), ("one", "2"), ("other", "1"), ("other", "2")]


def test_what_was_published_is_no_duplicate_for_its_handler() -> None:
    """One filter object in both chains has a memory for each."""
    handled: list[str] = []
    bus, dedupe = Bus(), Dedupe()
    bus.use(dedupe)
    bus.use(dedupe, at="delivery")
    bus.subscribe("a", lambda message: handled.append(message.id))
    with running(bus):
        assert [bool(bus.publish("a", id=id)) for id in "121"] == [True, True, False]
        bus.drain(timeout=WAIT)
    assert handled == ["1", "2"]


def test_in_a_publish_chain_there_is_one_memory_for_all_subjects() -> None:
    """An id is one message's, wherever it is published."""
    bus = Bus()
    bus.use(Dedupe())
    with bus:
        assert [bool(bus.publish(subject, id=id)) for subject, id in (("a", "1"), ("b", "1"), ("b", "2"))] == [
            True,
            False,
            True,
        ]


@pytest.mark.parametrize("at", ["publish", "delivery"])
def test_a_memory_outlives_what_makes_its_chain_anew(at: Any) -> None:
    """Another subscription, and a stop and a start: what was known is known."""
    handled: list[str] = []
    bus = Bus()
    bus.use(Dedupe(), at=at)
    bus.subscribe("a", lambda message: handled.append(message.id), name="a")
    with bus:
        bus.publish("a", id="1")
        bus.subscribe("*", nothing)
        bus.publish("a", id="1")
        bus.drain(timeout=WAIT)
    gc.collect()
    with bus:
        bus.publish("a", id="1")
    assert handled == ["1"]


def test_the_memory_of_a_subscription_goes_with_it() -> None:
    """Subscriptions that come and go leave nothing behind in a bus-wide filter."""
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


# --- what a handler says of its delivery --------------------------------------------------------------------------------


def _coloured(colour: str, handle: Callable[[Message, Delivery], None]) -> Any:
    async def ahandle(message: Message, delivery: Delivery) -> None:
        handle(message, delivery)

    def plain(message: Message, delivery: Delivery) -> None:
        handle(message, delivery)

    return ahandle if colour == "async" else plain


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
def test_a_delivery_that_was_given_back_comes_again(colour: str, raises: bool) -> None:
    """`delivery.retry()` is no handling, however the run ends; when it is handled, it is known."""
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            delivery.retry()
            if raises:
                raise Boom

    with running() as bus:
        subscription = bus.subscribe("a", _coloured(colour, handle), filters=[Dedupe()])
        bus.publish("a", id="1")
        bus.publish("a", id="1")  # one of the two is handled, whichever is taken first
        bus.drain(timeout=WAIT)
        stats = subscription.stats()
        assert (stats["acknowledged"], stats["dropped"]) == (1, {"duplicate": 1})
    assert len(attempts) == 2


def test_a_delivery_that_was_given_back_may_come_before_its_run_has_ended() -> None:
    """Two workers: the second has it while the first is still in the handler; it is no duplicate of that."""
    attempts: list[int] = []
    second, go_on = threading.Event(), threading.Event()

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            delivery.retry()
            assert second.wait(WAIT)
        else:
            second.set()
            assert go_on.wait(WAIT)

    with running() as bus:
        subscription = bus.subscribe("a", handle, workers=2, filters=[Dedupe()])
        bus.publish("a", id="1")
        assert second.wait(WAIT)
        bus.publish("a", "copy", id="1")  # the second run is the one that counts, also when the first has ended
        wait_until(lambda: subscription.stats()["dropped"] == {"duplicate": 1}, "the copy is dropped")
        go_on.set()
        bus.drain(timeout=WAIT)
        bus.publish("a", "copy", id="1")
        bus.drain(timeout=WAIT)
        assert (subscription.stats()["acknowledged"], subscription.stats()["dropped"]) == (1, {"duplicate": 2})
    assert attempts == [1, 2]


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("rejects", [False, True], ids=["raises", "rejects"])
def test_a_dead_letter_can_be_replayed(colour: str, rejects: bool) -> None:
    """What was refused or failed has had no effect, so its replay is no duplicate."""
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            if not rejects:
                raise Boom
            delivery.reject("not now")

    with running() as bus:
        subscription = bus.subscribe("a", _coloured(colour, handle), filters=[Dedupe()])
        bus.publish("a", id="1")
        bus.drain(timeout=WAIT)
        (letter,) = bus.dead_letters.list()
        bus.dead_letters.replay(letter.id)
        bus.drain(timeout=WAIT)
        assert (subscription.stats()["acknowledged"], len(attempts)) == (1, 2)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_delivery_that_was_acknowledged_is_known_also_if_its_handler_fails_later(colour: str) -> None:
    """The first settlement stands: it was handled."""
    runs: list[Message] = []

    def handle(message: Message, delivery: Delivery) -> None:
        runs.append(message)
        delivery.ack()
        raise Boom

    with running() as bus:
        subscription = bus.subscribe("a", _coloured(colour, handle), filters=[Dedupe()])
        bus.publish("a", id="1")
        bus.publish("a", id="1")
        bus.drain(timeout=WAIT)
        assert (subscription.stats()["acknowledged"], subscription.stats()["dropped"]) == (1, {"duplicate": 1})
    assert len(runs) == 1


def test_what_a_handler_publishes_does_not_depend_on_its_delivery() -> None:
    """It has given its own message back: what it publishes has passed, and is known."""
    outcomes: list[Any] = []
    bus = Bus()
    bus.use(Dedupe())
    other = bus.subscribe("b")

    def handle(message: Message, delivery: Delivery) -> None:
        if delivery.attempt == 1:
            delivery.retry()
        outcomes.append(bus.publish("b", id="notice"))

    bus.subscribe("a", handle)
    with bus:
        bus.publish("a")
        bus.drain(timeout=WAIT)
        assert other.stats()["pending"] == 1
    assert outcomes == [Receipt(1), DUPLICATE]


# --- cancellation -------------------------------------------------------------------------------------------------------


def test_a_delivery_that_a_stop_cancelled_is_handled_by_the_next_start() -> None:
    """It went back to its mailbox, and is no duplicate of itself."""
    started, runs = threading.Event(), []

    async def handle(message: Message) -> None:
        runs.append(message)
        if len(runs) == 1:
            started.set()
            await asyncio.Event().wait()

    bus = Bus()
    subscription = bus.subscribe("a", handle, name="slow", filters=[Dedupe()])
    bus.start()
    bus.publish("a", id="1")
    assert started.wait(WAIT)
    assert bus.stop(timeout=0, drain=False).left == {"slow": 1}
    with bus:
        bus.drain(timeout=WAIT)
    assert (len(runs), subscription.stats()["acknowledged"], subscription.stats()["dropped"]) == (2, 1, {})


def test_a_publish_that_was_cancelled_may_be_repeated() -> None:
    """Nobody has it, so the same id passes."""

    async def main() -> None:
        stuck = asyncio.Event()

        async def slow(message: Message, call_next: Any) -> Any:
            if message.body == "slow":
                stuck.set()
                await asyncio.Event().wait()
            return await call_next(message)

        bus = Bus()
        bus.use(Dedupe(), slow)
        bus.subscribe("a")
        async with bus:
            task = asyncio.create_task(bus.apublish("a", "slow", id="1"))
            await stuck.wait()
            assert await bus.apublish("a", id="1") == DUPLICATE
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await bus.apublish("a", id="1") == Receipt(1)

    asyncio.run(main())


# --- with Retry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["Dedupe", "Retry"])
def test_a_further_run_is_no_duplicate_of_the_one_before(road: Road, first: str) -> None:
    """In either order: a failure is run again, and passes once."""
    filters = [Dedupe(), Retry(wait=0)] if first == "Dedupe" else [Retry(wait=0), Dedupe()]
    end = Once()
    with road(*filters, end=end) as send:
        assert [send("1"), send("1")] == [road.good, DUPLICATE]
    assert end.runs == 2


def test_in_front_of_retry_a_message_is_known_between_two_runs() -> None:
    """The order to choose: a copy that comes during the wait is dropped, and the next run passes."""
    clock, end = HandClock(), Once()
    bus = Bus(clock=clock)
    bus.use(Dedupe(), Retry(wait=5.0), Tap(end))
    mailbox = bus.subscribe("a")
    with running(bus, drain=False):
        first = InThread(bus.publish, "a", id="1")
        clock.wait_until_waited_for()
        assert InThread(bus.publish, "a", "copy", id="1").result() == DUPLICATE
        clock.advance(5.0)
        assert first.result() == Receipt(1)
        assert mailbox.receive(timeout=WAIT).body is None


# --- keys that cannot be told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        pytest.param(
            lambda message: message.body["order"], "TypeError: 'NoneType' object is not subscriptable", id="it raises"
        ),
        pytest.param(lambda message: ["a"], "TypeError: unhashable type: 'list'", id="it returns a list"),
    ],
)
def test_a_key_that_cannot_be_told_is_the_filter_s_error(road: Road, key: Any, cause: str) -> None:
    """The error names the filter, the setting, what happened and what to do; the message does not pass."""
    passed: list[Message] = []
    retry = Retry(wait=0)
    asked: list[Message] = []
    with road(retry, Tap(asked.append), Dedupe(key=key), end=passed.append) as send:
        error = send("1")
    assert isinstance(error, ContractError)
    assert str(error) == (
        f"filter Dedupe cannot tell duplicates: Dedupe.key failed with {cause}; make it return something hashable for each "
        "message, or None for one that has no duplicates"
    )
    assert isinstance(error.__cause__, TypeError)
    assert passed == []
    assert len(asked) == 1  # the next run would meet the same


def test_a_key_may_refuse_a_message(road: Road) -> None:
    """By raising `Rejected`, as any filter may."""

    def order(message: Message) -> str:
        raise Rejected(None, "there is no order in it")

    with road(Dedupe(key=order)) as send:
        error = send("1")
    assert isinstance(error, Rejected)
    assert (error.by, error.errors) == ("Dedupe", ("there is no order in it",))


# --- settings -----------------------------------------------------------------------------------------------------------


def test_a_filter_alone_can_be_driven_by_hand() -> None:
    """Without a bus it goes by the computer's clock."""
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
    """Code and config may write the same; the defaults are ten minutes and a hundred thousand messages."""
    assert Dedupe(window="10m").window == Dedupe().window == 600.0  # type: ignore[arg-type]
    assert (Dedupe().size, Dedupe().key) == (100_000, None)


async def asynchronous(message: Message) -> str:
    return message.id


class Asynchronous:
    async def __call__(self, message: Message) -> str:
        return message.id


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"key": "id"}, r"Dedupe\.key='id': .*plain function.*leave it out to go by the message's id"),
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
    ids=str,
)
def test_wrong_settings_are_refused_where_they_are_written(settings: dict[str, Any], text: str) -> None:
    """The error names the setting, what was found, and what to write."""
    with pytest.raises(PipelineError, match=text):
        Dedupe(**settings)

"""
Promises that hold however a handler runs: on the pool, on threads of its own, on the bus's event loop or on the caller's, as a
coroutine or as a plain function (guarantees 13, 14, 18 to 20, 22 to 26 and 33).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import Counter, defaultdict
from contextlib import nullcontext
from typing import Any

import pytest

from flow_helpers import (
    LONG,
    WAIT,
    Boom,
    DropAll,
    Ear,
    Hold,
    InThread,
    assert_conserved,
    bus_of,
    every_road,
    fine,
    hasty_threads,
    wait_until,
)
from loop_helpers import LOOP_WAYS, POOL, THREAD, WAYS, AsyncHold, Way, every_async_way, every_way_to_run, ways
from pipebus import (
    Bus,
    BusClosed,
    Delivery,
    Dropped,
    LifecycleError,
    MailboxFull,
    Message,
    PipelineError,
    Rejected,
    StopReport,
    around,
    transform,
)
from pipebus.events import Acknowledged, Died, Discarded, Overflowed, Returned, Taken
from pipebus.testing import FakeClock

no_plain_on_loop = ways(*(way for way in WAYS if not way.blocks_loop))
"""Every way except a plain function on a loop, for tests whose handlers wait."""

one_or_three = pytest.mark.parametrize("workers", [1, 3], ids=["one-worker", "three-workers"])


# --- which messages keep their order -----------------------------------------------------------------------------------


@every_road
@every_way_to_run
def test_s24_one_publishers_messages_keep_their_order(way: Way, road: str) -> None:
    """With one worker, three hundred messages are handled one by one, in the order in which they were published."""
    handled: list[int] = []
    with way.running(bus_of(road)) as bus:
        subscription = way.subscribe(bus, "s.*", lambda message: handled.append(message.body))
        for body in range(300):
            bus.publish(f"s.{body % 3}", body)
        bus.drain(WAIT)

        assert handled == list(range(300))
        assert_conserved(subscription, accepted=300)


@every_way_to_run
@pytest.mark.parametrize("size", [2, 10_000])
@pytest.mark.few(4)
def test_s24_each_publishers_order_is_kept_among_many(way: Way, size: int) -> None:
    """If four threads publish into a mailbox of any size, the handler gets the messages of each one in order."""
    handled: dict[int, list[int]] = defaultdict(list)

    def handle(message: Message) -> None:
        publisher, number = message.body
        handled[publisher].append(number)

    with hasty_threads(), way.running() as bus:
        subscription = way.subscribe(bus, "s", handle, mailbox=size, overflow_timeout=LONG)
        publishers = [InThread(lambda me=me: [bus.publish("s", (me, number)) for number in range(200)]) for me in range(4)]
        for publisher in publishers:
            publisher.result()
        bus.drain(WAIT)

        assert handled == {me: list(range(200)) for me in range(4)}
        assert_conserved(subscription, accepted=800)


@every_way_to_run
@pytest.mark.few(4)
def test_s24_with_several_workers_equal_keys_keep_their_order(way: Way) -> None:
    """With four workers and ten keys, the messages of each key are handled in order, never two of them at once."""
    handled: dict[str | None, list[int]] = defaultdict(list)
    inside: Counter[str] = Counter()
    met: list[str] = []

    def enter(key: str | None) -> None:
        if key is not None:
            inside[key] += 1
            if inside[key] > 1:
                met.append(key)

    def leave(message: Message) -> None:
        handled[message.key].append(message.body)
        if message.key is not None:
            inside[message.key] -= 1

    def handle(message: Message) -> None:
        enter(message.key)
        leave(message)

    async def ahandle(message: Message) -> None:
        enter(message.key)
        for _ in range(message.body % 4):
            await asyncio.sleep(0)
        leave(message)

    with way.running() as bus:
        subscription = bus.subscribe("s", ahandle if way.colour == "async" else handle, run=way.run, workers=4)
        for body in range(400):
            key = f"k{body % 11}" if body % 11 < 10 else None
            bus.publish("s", body, key=key)
        bus.drain(WAIT)

        assert met == []
        for number in range(10):
            assert handled[f"k{number}"] == list(range(number, 400, 11))
        assert sorted(handled[None]) == list(range(10, 400, 11))
        assert_conserved(subscription, accepted=400)


@no_plain_on_loop
def test_s24_several_workers_handle_as_many_messages_at_once(way: Way) -> None:
    """With workers=3, three handlers run at the same time, and a fourth does not."""
    with way.running() as bus:
        hold = way.hold()
        subscription = way.subscribe(bus, "s", hold, workers=3)
        for body in range(10):
            bus.publish("s", body)
        hold.wait_started(3)

        assert sorted(hold.given) == [0, 1, 2]
        assert subscription.stats()["in_flight"] == 3
        hold.open()
        bus.drain(WAIT)
        assert sorted(hold.given) == list(range(10))


@no_plain_on_loop
def test_s24_messages_of_one_key_wait_for_each_other_and_for_nobody_else(way: Way) -> None:
    """While the first message of a key is handled, the second of that key waits, and those of other keys do not."""
    with way.running() as bus:
        hold = way.hold()
        subscription = way.subscribe(bus, "s", hold, workers=3)
        for body, key in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("none", None)):
            bus.publish("s", body, key=key)
        hold.wait_started(3)

        assert sorted(hold.given) == ["a1", "b1", "none"]
        hold.open()
        bus.drain(WAIT)
        assert hold.given[-1] == "a2"
        assert_conserved(subscription, accepted=4)


@no_plain_on_loop
def test_s23_a_subscriber_that_stands_still_delays_nobody_else(way: Way) -> None:
    """If one subscriber never ends its handler, another that runs in the same way gets all its messages."""
    with way.running() as bus:
        stuck, free = way.hold(), Hold(open=True)
        slow = way.subscribe(bus, "s", stuck)
        way.subscribe(bus, "s", lambda message: free(message))
        for body in range(100):
            bus.publish("s", body)

        free.wait_started(100)

        assert free.given == list(range(100))
        assert stuck.given == [0]
        assert slow.stats()["pending"] == 99


# --- context variables -------------------------------------------------------------------------------------------------

_seen: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="nothing")


@one_or_three
@every_way_to_run
def test_s14_what_a_handler_sets_is_gone_with_its_message(way: Way, workers: int) -> None:
    """Each message is handled in its own context, so a variable that is set for one is not set for the next."""
    found: list[str] = []

    def handle(message: Message) -> None:
        found.append(_seen.get())
        if message.body % 2 == 0:
            _seen.set(f"of {message.body}")

    with way.running() as bus:
        way.subscribe(bus, "s", handle, workers=workers)
        for body in range(100):
            bus.publish("s", body)
        bus.drain(WAIT)

    assert found == ["nothing"] * 100


@one_or_three
@every_way_to_run
def test_s14_what_a_delivery_filter_sets_reaches_the_handler_and_is_gone_with_the_message(way: Way, workers: int) -> None:
    """The handler sees a variable that a filter around it sets, and the filter of the next message does not."""
    found: list[tuple[str, str]] = []

    @around
    def remember(message: Message) -> Any:
        before = _seen.get()
        _seen.set(f"of {message.body}")
        yield message
        found.append((before, _seen.get()))

    def handle(message: Message) -> None:
        found.append(("in the handler", _seen.get()))

    with way.running() as bus:
        way.subscribe(bus, "s", handle, workers=workers, filters=[remember])
        for body in range(20):
            bus.publish("s", body)
            bus.drain(WAIT)

    assert found == [pair for body in range(20) for pair in (("in the handler", f"of {body}"), ("nothing", f"of {body}"))]


@every_way_to_run
def test_s14_a_handler_does_not_see_what_its_publisher_has_set(way: Way) -> None:
    """A handler sees the headers of its message, and not the variables of its publisher."""
    found: list[str] = []

    def publish_in_a_context() -> None:
        _seen.set("by the publisher")
        for _ in range(10):
            bus.publish("s")

    with way.running() as bus:
        way.subscribe(bus, "s", lambda message: found.append(_seen.get()))
        contextvars.copy_context().run(publish_in_a_context)
        bus.drain(WAIT)

    assert found == ["nothing"] * 10


@every_async_way
def test_s14_a_variable_lives_through_all_the_waits_of_one_handler(way: Way) -> None:
    """Thirty handlers take turns on one loop, and each finds its own variable after every wait."""
    found: dict[int, list[str]] = defaultdict(list)

    async def handle(message: Message) -> None:
        for step in range(5):
            found[message.body].append(_seen.get())
            _seen.set(f"{message.body}.{step}")
            await asyncio.sleep(0)

    with way.running() as bus:
        for number in range(10):
            bus.subscribe(f"s.{number}", handle, workers=3)
        for body in range(30):
            bus.publish(f"s.{body % 10}", body)
        bus.drain(WAIT)

    assert found == {body: ["nothing", *(f"{body}.{step}" for step in range(4))] for body in range(30)}


@every_async_way
def test_s14_a_task_that_a_handler_starts_sees_what_the_handler_has_set(way: Way) -> None:
    """As everywhere in asyncio, a new task has a copy of the context in which it was made."""
    found: list[str] = []

    async def inner() -> None:
        found.append(_seen.get())
        _seen.set("by the task")

    async def handle(message: Message) -> None:
        _seen.set("by the handler")
        await asyncio.create_task(inner())
        found.append(_seen.get())

    with way.running() as bus:
        bus.subscribe("s", handle)
        bus.publish("s")
        bus.publish("s")

    assert found == ["by the handler"] * 4


# --- every delivery ends once ------------------------------------------------------------------------------------------


def _meet_a_fate(message: Message, delivery: Delivery) -> object:
    """Do what the body says."""
    fate = message.body
    if fate == "fails":
        raise Boom("it fails")
    if fate == "refused":
        raise Rejected("refused")
    if fate == "acked":
        delivery.ack()
    elif fate == "acked-then-fails":
        delivery.ack()
        raise Boom("too late to count")
    elif fate == "rejected":
        delivery.reject("no")
    elif fate == "never-settles" or (fate == "comes-again" and delivery.attempt == 1):
        delivery.retry()
    return "a value" if fate == "returns" else None


@transform
def _drops(message: Message) -> Message | Dropped:
    return Dropped("unwanted") if message.body == "dropped" else message


@one_or_three
@every_road
@every_way_to_run
@pytest.mark.few(8)
def test_s18_each_fate_is_counted_exactly_once(way: Way, road: str, workers: int) -> None:
    """Whether it is acknowledged, dropped, dead or expired, every message is counted once, and reported once."""
    fates = (
        "returns", "fails", "refused", "acked", "acked-then-fails", "rejected", "comes-again", "never-settles", "dropped",
    )  # fmt: skip
    bus = bus_of(road)
    ear = Ear(bus)
    with way.running(bus):
        subscription = way.subscribe(bus, "s", _meet_a_fate, workers=workers, filters=[_drops], attempts=2)
        for number in range(10):
            for fate in fates:
                bus.publish("s", fate, key=fate if number % 2 else None)
            bus.send(Message("s", "expired", ttl=1.0, time=1.0))
        bus.drain(WAIT)

        stats = subscription.stats()
        assert stats["acknowledged"] == 40
        assert stats["dropped"] == {"expired": 10, "unwanted": 10}
        assert stats["dead"] == 40
        assert_conserved(subscription, accepted=100)
        heard = Counter(type(event) for event in ear.of(Acknowledged, Died, Discarded, Returned, Taken))
        assert heard == {Acknowledged: 40, Died: 40, Discarded: 20, Returned: 20, Taken: 120}


@one_or_three
@every_way_to_run
def test_s18_attempt_counts_how_often_a_message_was_taken(way: Way, workers: int) -> None:
    """A message that is returned twice has three attempts, and is one delivery."""
    attempts: list[tuple[int, bool]] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append((delivery.attempt, delivery.redelivered))
        if delivery.attempt < 3:
            delivery.retry()

    with way.running() as bus:
        subscription = way.subscribe(bus, "s", handle, workers=workers)
        bus.publish("s")
        bus.drain(WAIT)

        assert attempts == [(1, False), (2, True), (3, True)]
        assert_conserved(subscription, accepted=1)


@one_or_three
@every_way_to_run
def test_s19_a_failing_handler_makes_a_dead_letter_and_the_next_message_is_handled(way: Way, workers: int) -> None:
    """The letter names the handler and the error; after a replay, the message is handled again."""
    failing = [True]
    handled: list[int] = []

    def picky(message: Message) -> None:
        if message.body == 1 and failing[0]:
            raise Boom("not this one")
        handled.append(message.body)

    with way.running() as bus:
        subscription = way.subscribe(bus, "s", picky, workers=workers)
        for body in range(3):
            bus.publish("s", body)
        bus.drain(WAIT)
        (letter,) = bus.dead_letters.list()

        assert sorted(handled) == [0, 2]
        assert (letter.by, letter.error, letter.message.body, letter.attempts) == ("picky", "Boom: not this one", 1, 1)
        failing[0] = False
        bus.dead_letters.replay(letter.id)
        bus.drain(WAIT)
        assert sorted(handled) == [0, 1, 2]
        assert_conserved(subscription, accepted=3)


@every_way_to_run
def test_s19_a_body_that_the_handlers_type_refuses_is_dead_at_once(way: Way) -> None:
    """The handler is not called with that body, and the next message is handled."""
    handled: list[int] = []

    def count(number: int) -> None:
        handled.append(number)

    with way.running() as bus:
        subscription = way.subscribe(bus, "s", count)
        for body in (1, "not a number", 3):
            bus.publish("s", body)
        bus.drain(WAIT)

        assert handled == [1, 3]
        assert subscription.stats()["dead"] == 1
        assert "Rejected" in bus.dead_letters.list()[0].error


class Other(BaseException):
    """An error that is not an Exception, and that no library knows."""


@one_or_three
@every_way_to_run
@pytest.mark.parametrize("error", [Other, GeneratorExit, StopIteration, StopAsyncIteration, TimeoutError, EOFError])
@pytest.mark.few(12)
def test_s19_whatever_a_handler_raises_is_its_own_failure(way: Way, workers: int, error: type[BaseException]) -> None:
    """This includes the errors that Python itself uses: the message becomes a dead letter, and the next one is handled."""
    handled: list[int] = []

    def handle(message: Message) -> None:
        if message.body == 1:
            raise error
        handled.append(message.body)

    with way.running() as bus:
        subscription = way.subscribe(bus, "s", handle, workers=workers)
        for body in range(3):
            bus.publish("s", body)
        bus.drain(WAIT)

        assert sorted(handled) == [0, 2]
        assert subscription.stats()["dead"] == 1
        assert not bus.stopping
        assert_conserved(subscription, accepted=3)


@one_or_three
@every_way_to_run
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_s13_an_interrupt_in_a_handler_returns_the_message_and_requests_a_stop(
    way: Way, workers: int, interrupt: type[BaseException]
) -> None:
    """
    A stop is requested, the message goes back, and the next start handles it. An interrupt does not count as an attempt; an
    exit does, and ends the program.
    """
    attempts: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) == 1:
            raise interrupt

    bus = Bus()
    with way.started(bus):
        subscription = way.subscribe(bus, "s", handle, workers=workers)
        bus.publish("s", key="k")
        wait_until(lambda: bus.stopping, "a stop is requested")
        wait_until(lambda: subscription.stats()["in_flight"] == 0, "the message has gone back")
        bus.publish("s", key="k")

        assert bus.state == "started"
        assert subscription.stats()["pending"] == 2
        assert len(bus.dead_letters) == 0
        with pytest.raises(SystemExit) if interrupt is SystemExit else nullcontext():
            bus.stop(timeout=WAIT)
        assert sum(bus.stop().left.values()) == 2
    with way.running(bus):
        bus.drain(WAIT)
        assert attempts == ([1, 2, 1] if interrupt is SystemExit else [1, 1, 1])
        assert_conserved(subscription, accepted=2)


@every_way_to_run
def test_s20_the_first_settlement_wins_over_an_error_raised_later(way: Way) -> None:
    """An acknowledged message stays acknowledged, whatever the handler does afterwards."""
    with way.running() as bus:
        subscription = way.subscribe(bus, "s", _meet_a_fate)
        bus.publish("s", "acked-then-fails")
        bus.drain(WAIT)

        assert subscription.stats()["acknowledged"] == 1
        assert len(bus.dead_letters) == 0


# --- what a handler returns --------------------------------------------------------------------------------------------


@one_or_three
@every_road
@every_way_to_run
@pytest.mark.few(8)
def test_s20_what_a_handler_returns_is_published_to_its_to(way: Way, road: str, workers: int) -> None:
    """A value goes through the publish chain to the subscribers of `to`; None goes nowhere."""
    results: list[tuple[Any, str | None]] = []
    with way.running(bus_of(road)) as bus:
        way.subscribe(bus, "s", lambda message: message.body or None, workers=workers, to="results")
        way.subscribe(bus, "results", lambda message: results.append((message.body, message.correlation_id)))
        for body in range(50):
            bus.send(Message("s", body, id=f"m{body}"))
        bus.drain(WAIT)

    assert sorted(results) == [(body, f"m{body}") for body in range(1, 50)]


@every_road
@every_way_to_run
def test_s20_with_a_delivery_filter_the_outcomes_value_is_what_is_published(way: Way, road: str) -> None:
    """A filter around the handler sees `Handled(value)`, and the value that it lets through is published."""

    @around
    def look(message: Message) -> Any:
        outcome = yield message
        seen.append(outcome.value)
        return outcome

    seen: list[Any] = []
    results: list[Any] = []
    with way.running(bus_of(road)) as bus:
        way.subscribe(bus, "s", lambda message: message.body * 2, to="results", filters=[look])
        way.subscribe(bus, "results", lambda message: results.append(message.body))
        bus.publish("s", 21)
        bus.drain(WAIT)

    assert seen == results == [42]


@every_road
@every_way_to_run
def test_s19_a_value_that_cannot_be_published_fails_the_delivery(way: Way, road: str) -> None:
    """If the mailbox of `to` is full and refuses, the delivery becomes a dead letter."""
    with way.running(bus_of(road)) as bus:
        bus.subscribe("results", name="full", mailbox=1, overflow="reject")
        subscription = way.subscribe(bus, "s", lambda message: message.body, to="results")
        for body in (1, 2):
            bus.publish("s", body)
        bus.drain(WAIT)

        stats = subscription.stats()
        assert (stats["acknowledged"], stats["dead"]) == (1, 1)
        assert "MailboxFull" in bus.dead_letters.list()[0].error


# --- a full mailbox ----------------------------------------------------------------------------------------------------


@one_or_three
@every_road
@every_way_to_run
@pytest.mark.few(8)
def test_s22_a_handler_that_fills_its_own_mailbox_is_told_at_once(way: Way, road: str, workers: int) -> None:
    """Waiting would be waiting for itself, so MailboxFull comes at once, however it publishes, and the text says why."""
    told: list[Exception] = []

    async def apublish_to_myself() -> None:
        try:
            await bus.apublish("s", "again")
        except MailboxFull as error:
            told.append(error)

    def publish_to_myself() -> None:
        try:
            bus.publish("s", "again")
        except (MailboxFull, PipelineError) as error:
            told.append(error)

    def handle(message: Message) -> None:
        publish_to_myself()

    async def ahandle(message: Message) -> None:
        await apublish_to_myself()
        publish_to_myself()
        await asyncio.to_thread(publish_to_myself)

    with way.running(bus_of(road)) as bus:
        handler = ahandle if way.colour == "async" else handle
        subscription = bus.subscribe("s", handler, run=way.run, workers=workers, mailbox=1, overflow_timeout=LONG)
        bus.publish("s", "first")
        bus.drain(WAIT)

        assert len(told) == (3 if way.colour == "async" else 1)
        for error in told:
            if isinstance(error, PipelineError):  # an async chain cannot block a loop, and raises at once, too
                assert way.on_loop
                assert road == "async"
                assert "apublish" in str(error)
            else:
                assert "its own handler" in str(error)
        assert_conserved(subscription, accepted=1)


@every_way_to_run
def test_s22_the_bound_is_never_exceeded_and_whoever_waits_gets_in(way: Way) -> None:
    """Four publishers block on a mailbox of two: all their messages arrive, and the mailbox never has more than two."""
    most = [0]
    handled: list[int] = []

    def handle(message: Message) -> None:
        stats = subscription.stats()
        most[0] = max(most[0], stats["pending"] + stats["in_flight"])
        handled.append(message.body)

    with hasty_threads(), way.running() as bus:
        subscription = way.subscribe(bus, "s", handle, mailbox=2, overflow_timeout=LONG)
        publishers = [InThread(lambda me=me: [bus.publish("s", me) for _ in range(50)]) for me in range(4)]
        for publisher in publishers:
            publisher.result()
        bus.drain(WAIT)

        assert Counter(handled) == dict.fromkeys(range(4), 50)
        assert most[0] <= 2


@no_plain_on_loop
@pytest.mark.parametrize("overflow", ["reject", "drop_newest", "drop_oldest"])
def test_s22_each_overflow_rule_does_what_it_says(way: Way, overflow: Any) -> None:
    """Four messages too many are refused, or the newest or the oldest of the waiting ones are dropped."""
    with way.running() as bus:
        hold = way.hold()
        subscription = way.subscribe(bus, "s", hold, mailbox=3, overflow=overflow)
        bus.publish("s", 0)
        hold.wait_started()
        refused = 0
        for body in range(1, 7):
            try:
                bus.publish("s", body)
            except MailboxFull:
                refused += 1
        hold.open()
        bus.drain(WAIT)

        kept = {"reject": [0, 1, 2], "drop_newest": [0, 1, 2], "drop_oldest": [0, 5, 6]}[overflow]
        assert hold.given == kept
        assert refused == (4 if overflow == "reject" else 0)
        assert subscription.stats()["dropped"] == ({} if overflow == "reject" else {"overflow": 4})


# --- pause and resume --------------------------------------------------------------------------------------------------


@one_or_three
@no_plain_on_loop
def test_s25_a_paused_subscription_starts_no_further_handler_until_it_is_resumed(way: Way, workers: int) -> None:
    """The running handler finishes, new messages wait, and all of them are handled after `resume`."""
    with way.running() as bus:
        hold, others = way.hold(), Hold(open=True)
        subscription = way.subscribe(bus, "s", hold, workers=workers)
        way.subscribe(bus, "other", lambda message: others(message))
        for body in range(workers):
            bus.publish("s", body)
        hold.wait_started(workers)
        subscription.pause()
        for body in range(workers, 20):
            bus.publish("s", body)
        hold.open()
        wait_until(lambda: subscription.stats()["in_flight"] == 0, "what ran has ended")
        bus.publish("other")
        others.wait_started()

        assert subscription.paused
        assert sorted(hold.given) == list(range(workers))
        assert subscription.stats()["pending"] == 20 - workers
        bus.drain(WAIT)  # a drain does not wait for a paused subscription
        subscription.resume()
        bus.drain(WAIT)
        assert sorted(hold.given) == list(range(20))
        assert workers > 1 or hold.given == list(range(20))


@one_or_three
@every_way_to_run
def test_s25_a_handler_may_pause_its_own_subscription(way: Way, workers: int) -> None:
    """It is the last handler to run until somebody resumes the subscription."""
    handled: list[int] = []

    def handle(message: Message) -> None:
        handled.append(message.body)
        if message.body == 0:
            subscription.pause()

    with way.running() as bus:
        subscription = way.subscribe(bus, "s", handle, workers=workers)
        bus.publish("s", 0)
        bus.drain(WAIT)
        for body in (1, 2):
            bus.publish("s", body)
        bus.drain(WAIT)

        assert handled == [0]
        subscription.resume()
        bus.drain(WAIT)
        assert sorted(handled) == [0, 1, 2]


@every_way_to_run
def test_s25_pausing_and_resuming_all_the_time_loses_nothing(way: Way) -> None:
    """Another thread pauses and resumes as fast as it can while messages come: each is handled once, in order."""
    handled: list[int] = []
    over = threading.Event()

    def pause_and_resume() -> None:
        while not over.is_set():
            subscription.pause()
            subscription.resume()

    with hasty_threads(), way.running() as bus:
        subscription = way.subscribe(bus, "s", lambda message: handled.append(message.body))
        switch = InThread(pause_and_resume)
        for body in range(1_000):
            bus.publish("s", body)
        over.set()
        switch.result()
        bus.drain(WAIT)

        assert handled == list(range(1_000))
        assert_conserved(subscription, accepted=1_000)


# --- unsubscribe -------------------------------------------------------------------------------------------------------


@one_or_three
@no_plain_on_loop
def test_s26_unsubscribe_waits_for_the_handlers_that_run(way: Way, workers: int) -> None:
    """When `unsubscribe` returns, no handler runs or will run, and queued messages are counted as dropped."""
    bus = Bus()
    ear = Ear(bus)
    with way.running(bus):
        hold = way.hold()
        subscription = way.subscribe(bus, "s", hold, workers=workers)
        for body in range(10):
            bus.publish("s", body)
        hold.wait_started(workers)

        end = InThread(subscription.unsubscribe)
        ear.wait_for(Discarded, 10 - workers)
        assert end.running
        hold.open()
        end.result()

        assert len(hold.given) == workers
        assert subscription.stats()["acknowledged"] == workers
        assert subscription.stats()["dropped"] == {"unsubscribed": 10 - workers}
        assert not bus.publish("s").mailboxes
        assert_conserved(subscription, accepted=10)


@no_plain_on_loop
def test_s26_unsubscribe_says_so_when_a_handler_does_not_end(way: Way) -> None:
    """After its timeout `unsubscribe` raises, and no other handler starts anyway."""
    with way.running() as bus:
        hold = way.hold()
        subscription = way.subscribe(bus, "s", hold, name="slow")
        for body in range(3):
            bus.publish("s", body)
        hold.wait_started()

        with pytest.raises(TimeoutError, match="slow"):
            subscription.unsubscribe(timeout=0.0)
        hold.open()
        wait_until(lambda: subscription.stats()["in_flight"] == 0, "the handler has ended")

        assert hold.given == [0]
        assert_conserved(subscription, accepted=3)


@one_or_three
@every_way_to_run
def test_s26_a_handler_may_end_its_own_subscription(way: Way, workers: int) -> None:
    """`unsubscribe` in its own handler returns at once, on a loop too, and takes effect when the handler ends."""
    handled: list[int] = []

    def handle(message: Message) -> None:
        handled.append(message.body)
        subscription.unsubscribe()

    with way.running() as bus:
        subscription = way.subscribe(bus, "s", handle, workers=workers, name="once")
        subscription.pause()
        for body in range(10):
            bus.publish("s", body, key="one at a time")
        subscription.resume()
        bus.drain(WAIT)

        assert handled == [0]
        assert_conserved(subscription, accepted=10)
        way.subscribe(bus, "s", fine, name="once")


@every_async_way
@one_or_three
def test_s26_a_coroutine_may_end_its_own_subscription_with_aunsubscribe(way: Way, workers: int) -> None:
    """`aunsubscribe` does not wait for the handler that calls it."""
    handled: list[int] = []

    async def handle(message: Message) -> None:
        handled.append(message.body)
        await subscription.aunsubscribe(LONG)

    with way.running() as bus:
        subscription = bus.subscribe("s", handle, workers=workers)
        subscription.pause()
        for body in range(10):
            bus.publish("s", body, key="one at a time")
        subscription.resume()
        bus.drain(WAIT)

        assert handled == [0]
        assert_conserved(subscription, accepted=10)


@every_async_way
def test_s26_a_coroutine_may_end_another_subscription(way: Way) -> None:
    """`aunsubscribe` waits for the handler of the other subscription without blocking the loop on which it runs."""
    with way.running() as bus:
        other = AsyncHold()
        ended = threading.Event()
        subscription = bus.subscribe("other", other)

        async def end_it(message: Message) -> None:
            await subscription.aunsubscribe()
            ended.set()

        bus.subscribe("end", end_it)
        bus.publish("other", 1)
        other.wait_started()
        bus.publish("end")
        wait_until(lambda: subscription not in bus.subscriptions, "it has left the routes")

        assert not ended.is_set()
        other.open()
        assert ended.wait(WAIT)
        assert subscription.stats()["acknowledged"] == 1


# --- stop --------------------------------------------------------------------------------------------------------------


@one_or_three
@every_road
@every_way_to_run
@pytest.mark.few(8)
def test_s25_a_stop_drains_and_then_nothing_runs(way: Way, road: str, workers: int) -> None:
    """When the stop returns, every accepted message has been handled, also those that handlers published meanwhile."""
    handled: list[int] = []
    bus = bus_of(road)
    with way.started(bus):
        first = way.subscribe(bus, "first", lambda message: message.body, workers=workers, to="second")
        second = way.subscribe(bus, "second", lambda message: handled.append(message.body), workers=workers)
        for body in range(300):
            bus.publish("first", body)
        report = bus.stop(timeout=WAIT)

        assert report == StopReport(drained=True)
        assert sorted(handled) == list(range(300))
        assert_conserved(first, second, accepted=300)
        with pytest.raises(BusClosed):
            bus.publish("first")


@every_way_to_run
def test_s25_stop_inside_a_handler_only_requests(way: Way) -> None:
    """It returns at once with `drained=False`, and the handler runs until it finishes."""
    reports: list[StopReport] = []

    def handle(message: Message) -> None:
        reports.append(bus.stop(timeout=LONG))

    with way.running() as bus:
        subscription = way.subscribe(bus, "s", handle)
        bus.publish("s")
        bus.drain(WAIT)

        assert reports == [StopReport(drained=False)]
        assert bus.stopping
        assert bus.state == "started"
        assert subscription.stats()["acknowledged"] == 1


@every_way_to_run
def test_s25_drain_inside_a_handler_raises_at_once(way: Way) -> None:
    """A drain would wait for the handler that calls it, so it raises."""
    errors: list[BaseException] = []

    def handle(message: Message) -> None:
        try:
            bus.drain(timeout=LONG)
        except LifecycleError as error:
            errors.append(error)

    with way.running() as bus:
        way.subscribe(bus, "s", handle)
        bus.publish("s")
        bus.drain(WAIT)

    assert len(errors) == 1
    assert "handler" in str(errors[0])


@one_or_three
@ways(POOL, THREAD, *(way for way in LOOP_WAYS if way.name == "callers-loop"))
def test_s25_ten_threads_may_stop_the_bus_at_once(way: Way, workers: int) -> None:
    """All threads wait for the same stop, and get the same report."""
    bus = Bus()
    with way.started(bus):
        hold = way.hold()
        subscription = way.subscribe(bus, "s", hold, workers=workers)
        for body in range(20):
            bus.publish("s", body)
        hold.wait_started()
        stops = [InThread(bus.stop, WAIT) for _ in range(10)]
        hold.open()

        assert [stop.result() for stop in stops] == [StopReport(drained=True)] * 10
        assert_conserved(subscription, accepted=20)


@one_or_three
@no_plain_on_loop
def test_s25_what_a_stop_leaves_over_is_handled_after_the_next_start(way: Way, workers: int) -> None:
    """If the bus stops with twenty messages behind a pause, the next start handles them all, in order with one worker."""
    handled: list[int] = []
    bus = Bus()
    with way.started(bus):
        subscription = way.subscribe(bus, "s", lambda message: handled.append(message.body), workers=workers)
        subscription.pause()
        for body in range(20):
            bus.publish("s", body)
        report = bus.stop(timeout=WAIT)
    assert sum(report.left.values()) == 20
    assert handled == []

    with way.running(bus):
        subscription.resume()
        bus.publish("s", 20)
        bus.drain(WAIT)

        assert sorted(handled) == list(range(21))
        assert workers > 1 or handled == list(range(21))


@every_way_to_run
@pytest.mark.few(4)
def test_s25_ten_rounds_of_traffic_and_restarts_lose_nothing(way: Way) -> None:
    """The bus stops without a drain in the middle of traffic and starts again: every message is handled exactly once."""
    handled: list[int] = []
    bus = Bus()
    subscription = way.subscribe(bus, "s", lambda message: handled.append(message.body))
    accepted = 0
    for round_ in range(10):
        with way.started(bus):
            for _ in range(200):
                bus.publish("s", accepted)
                accepted += 1
            bus.stop(timeout=WAIT, drain=round_ == 9)
            assert_conserved(subscription, accepted=accepted)

    assert handled == list(range(2_000))


@every_way_to_run
@pytest.mark.few(4)
def test_s25_every_mailbox_is_open_before_the_first_handler_of_a_new_start_runs(way: Way) -> None:
    """After a start, the first handler of two hundred subscriptions may publish to all others, because all are open."""
    bus = Bus()
    others = [f"others.{number}" for number in range(200)]
    handled: list[str] = []

    def tell_all(message: Message) -> None:
        for other in others:
            bus.publish(other)

    first = way.subscribe(bus, "s", tell_all)
    for other in others:
        bus.subscribe(other, lambda message: handled.append(message.subject))
    with way.started(bus):
        first.pause()
        bus.publish("s")
        bus.stop(timeout=WAIT)
    first.resume()
    with hasty_threads(), way.running(bus):
        bus.drain(WAIT)

        assert len(bus.dead_letters) == 0
        assert sorted(handled) == sorted(others)


# --- time --------------------------------------------------------------------------------------------------------------


@one_or_three
@every_way_to_run
def test_s33_delayed_and_returned_messages_come_when_their_time_has_come(way: Way, workers: int) -> None:
    """The clock decides: first comes the message with a delay, and then the one that its handler returned."""
    clock = FakeClock()
    handled: list[tuple[str, int]] = []

    def handle(message: Message, delivery: Delivery) -> None:
        handled.append((message.body, delivery.attempt))
        if message.body == "returned" and delivery.attempt == 1:
            delivery.retry(delay=20.0)

    with way.running(Bus(clock=clock)) as bus:
        subscription = way.subscribe(bus, "s", handle, workers=workers)
        bus.publish("s", "delayed", delay=10.0)
        bus.publish("s", "returned")
        wait_until(lambda: handled == [("returned", 1)], "the first is handled")
        wait_until(lambda: subscription.stats()["in_flight"] == 0, "it has gone back")
        assert subscription.stats()["pending"] == 2

        clock.wait_until_waited_for()
        clock.advance(10.0)
        wait_until(lambda: handled[1:] == [("delayed", 1)], "the delayed one is handled")
        clock.wait_until_waited_for()
        clock.advance(10.0)
        wait_until(lambda: handled[2:] == [("returned", 2)], "the returned one is handled again")
        wait_until(lambda: subscription.stats()["in_flight"] == 0, "it is settled")
        assert_conserved(subscription, accepted=2)


@every_way_to_run
def test_s27_a_handler_of_one_bus_is_an_outsider_to_another(way: Way) -> None:
    """The handlers of two buses may publish into the other bus and stop it, and neither bus takes them for its own."""
    reports: list[StopReport] = []
    other = Bus(name="other")
    subscription = other.subscribe("s", fine)

    def handle(message: Message) -> None:
        other.publish("s")
        if not way.on_loop:
            reports.append(other.stop(timeout=WAIT))

    with way.running() as bus:
        other.start()
        way.subscribe(bus, "s", handle)
        bus.publish("s")
        bus.drain(WAIT)
        other.stop(timeout=WAIT)

        assert subscription.stats()["acknowledged"] == 1
        assert way.on_loop or reports == [StopReport(drained=True)]


@no_plain_on_loop
def test_s21_a_drop_on_the_delivery_side_is_counted_and_heard(way: Way) -> None:
    """When the subscription's own filter drops a message, figures and observers report the drop under the filter's name."""
    bus = Bus()
    ear = Ear(bus)
    with way.running(bus):
        subscription = way.subscribe(bus, "s", fine, filters=[DropAll()])
        bus.publish("s")
        bus.drain(WAIT)

        assert subscription.stats()["dropped"] == {"unwanted": 1}
        assert [(event.reason, event.by) for event in ear.of(Discarded)] == [("unwanted", "DropAll")]
        assert ear.of(Overflowed) == []

"""RateLimit: never more messages than allowed in any time, none that waits longer than it must, and each comes again once."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Hashable
from fractions import Fraction
from typing import Any

import pytest

from flow_helpers import InThread, hasty_threads, wait_until
from pipebus import Bus, Delivery, Dropped, Handled, LifecycleError, Message, PipelineError, Receipt, Rejected
from pipebus.clock import SYSTEM
from pipebus.errors import BusClosed, ContractError
from pipebus.events import Returned
from pipebus.filters import RateLimit, Retry, Tap, Timeout
from pipebus.filters.gcra import Gcra
from pipebus.testing import FakeClock, FilterBench, Harness, check_filter, run_filter
from scale_helpers import scaled, share
from tables import table
from values_helpers import named

# --- the model -----------------------------------------------------------------------------------------------------------


def greedy(arrivals: list[float], rate: int, per: float, burst: int) -> list[float]:
    """The oracle: first come, first served, each at the first moment at which the limit allows one more."""
    passed: list[Fraction] = []
    for time in arrivals:
        allowed = [p + (len(passed) - i + 1 - burst) * Fraction(per) / rate for i, p in enumerate(passed)]
        passed.append(max([Fraction(time), *allowed]))
    return [float(time) for time in passed]


def assert_allowed(times: list[float], rate: int, per: float, burst: int) -> None:
    """In no time from one message to another do more pass than `burst + rate * time / per`."""
    exact = sorted(round(time * 10**9) for time in times)
    for number, first in enumerate(exact):
        for more, last in enumerate(exact[number:], 1):
            assert (more - burst) * round(per * 10**9) <= rate * (last - first), f"{more} messages from {first} to {last} ns"


def settings(chance: random.Random) -> tuple[int, float, int]:
    return chance.choice([1, 2, 3, 7, 10]), chance.choice([0.1, 1.0, 60.0]), chance.choice([1, 1, 2, 3, 8])


def schedule(chance: random.Random, rate: int, per: float, most: int) -> list[float]:
    """Times of arrival, in rising order: bursts, quiet times, and what comes evenly."""
    time, times = 0.0, []
    for _ in range(chance.randint(1, most)):
        time = round(
            time + chance.choice([0.0, 0.0, 0.5, 1.0, 1.1, 5.0]) * chance.choice([1.0, chance.random()]) * per / rate, 9
        )
        times.append(time)
    return times


class Mailboxes:
    """The messages of a simulation: each comes, and comes again when the limit says so; how late, `late` says."""

    def __init__(self, limit: Gcra, late: Any = lambda: 0.0) -> None:
        self.limit, self.late = limit, late
        self.coming: list[tuple[float, int, Hashable, int]] = []  # time, order, key, message
        self.passed: dict[Hashable, list[float]] = defaultdict(list)
        self.asked: dict[int, int] = defaultdict(int)

    def run(self, ends: dict[int, str] | None = None) -> None:
        """`ends`: messages that get lost, or give up, after they have asked once."""
        order = len(self.coming)
        while self.coming:
            self.coming.sort(reverse=True)
            time, _, key, message = self.coming.pop()
            wait = self.limit.ask(key, time, message)
            self.asked[message] += 1
            if not wait:
                self.passed[key].append(time)
            elif ends and message in ends:
                if ends[message] == "gives up":
                    self.limit.withdraw(key, message)
            else:
                order += 1
                self.coming.append((round(time + wait + self.late(), 9), order, key, message))


@scaled(150, 10_000)
def test_each_passes_as_soon_as_the_limit_allows_and_asks_twice_at_most(count: int) -> None:
    """If all come for their places in time, the line is as fast as first come, first served can be."""
    for seed in range(count):
        chance = random.Random(seed)
        rate, per, burst = settings(chance)
        boxes = Mailboxes(Gcra(rate, per, burst, size=1000))
        arrivals = {key: schedule(chance, rate, per, 20) for key in range(chance.randint(1, 3))}
        times = sorted((time, key) for key, times in arrivals.items() for time in times)
        boxes.coming = [(time, order, key, order) for order, (time, key) in enumerate(times)]
        boxes.run()
        for key, found in boxes.passed.items():
            assert found == pytest.approx(greedy(arrivals[key], rate, per, burst), abs=1e-6), f"seed {seed}, key {key}"
            assert_allowed(found, rate, per, burst)
        assert max(boxes.asked.values()) <= 3, f"seed {seed}"  # a third time for a nanosecond, by which it was rounded
        assert (boxes.limit.waiting, boxes.limit.passed) == (0, len(times)), f"seed {seed}"


@scaled(150, 10_000)
def test_the_limit_holds_for_messages_that_come_late_or_never(count: int) -> None:
    """Whatever becomes of places: never too many pass, all pass that come, and none has to ask again and again."""
    for seed in range(count):
        chance = random.Random(seed)
        rate, per, burst = settings(chance)
        hiccup = chance.choice([0.0, 0.1, 0.9, 3.0]) * chance.choice([1.0, per])
        few_places = chance.random() < 0.3
        boxes = Mailboxes(Gcra(rate, per, burst, 3 if few_places else 1000))
        boxes.late = lambda hiccup=hiccup, chance=chance: chance.choice([0.0, 0.0, chance.random()]) * hiccup
        times = schedule(chance, rate, per, 40)
        boxes.coming = [(time, order, order % chance.choice([1, 2, 3]), order) for order, time in enumerate(times)]
        ends = {order: chance.choice(["is lost", "gives up"]) for order in range(len(times)) if chance.random() < 0.2}
        boxes.run(ends)
        for found in boxes.passed.values():
            assert_allowed(found, rate, per, burst)
        passed = sum(map(len, boxes.passed.values()))
        assert len(times) - len(ends) <= passed <= len(times), f"seed {seed}"
        assert few_places or sum(boxes.asked.values()) <= 5 * len(times), f"seed {seed}: {boxes.asked}"


def in_virtual_time(
    harness: Harness, limit: RateLimit, arrivals: list[tuple[float, str]], at: str, colour: str
) -> dict[str, list[float]]:
    """Publish at these times and with these bodies; return when each body has passed."""
    passed: dict[str, list[float]] = defaultdict(list)

    def handle(message: Message) -> None:
        passed[message.body].append(harness.elapsed)

    async def ahandle(message: Message) -> None:
        handle(message)

    async def apublish(time: float, body: str) -> None:
        await asyncio.sleep(time)
        await harness.bus.apublish("a", body)

    def publish(time: float, body: str) -> None:
        harness.clock.sleep(time)
        harness.bus.publish("a", body)

    harness.bus.use(limit, at=at)  # type: ignore[call-overload]
    harness.bus.subscribe("a", handle if colour == "sync" else ahandle)
    harness.start()
    if colour == "sync":
        for time, body in arrivals:
            harness.thread(publish, time, body)
        harness.join()
    else:

        async def main() -> None:
            await asyncio.gather(*(apublish(time, body) for time, body in arrivals))

        harness.run(main())
    harness.drain(timeout=100_000.0)
    return passed


@scaled(25, share(2_500))
def test_in_a_bus_each_passes_as_soon_as_the_limit_allows(count: int, at: str, colour: str) -> None:
    """The same, with a real bus in virtual time: given back to its mailbox, or waiting in the publish chain."""
    for seed in range(count):
        chance = random.Random(seed)
        rate, per, burst = settings(chance)
        limit = RateLimit(rate, per, burst, key=lambda message: message.body, max_wait="1d")
        arrivals = {key: schedule(chance, rate, per, 12) for key in "kl"[: chance.randint(1, 2)]}
        times = sorted((time, key) for key, times in arrivals.items() for time in times)
        with Harness() as harness:
            passed = in_virtual_time(harness, limit, times, at, colour)
            returned = sum(isinstance(event, Returned) for event in harness.events)
        for key, found in arrivals.items():
            expected = greedy(found, rate, per, burst)
            assert passed[key] == pytest.approx(expected, abs=1e-6), f"seed {seed}, key {key}"
            assert_allowed(passed[key], rate, per, burst)
        figures = limit.stats(at)
        assert (figures["passed"], figures["waiting"]) == (len(times), 0), f"seed {seed}"
        assert returned <= (2 * figures["limited"] if at == "delivery" else 0), f"seed {seed}"


# --- places in the line --------------------------------------------------------------------------------------------------


def test_a_new_message_does_not_overtake_one_that_is_a_little_late() -> None:
    """While a message that has a place may still come for it, a new one waits its turn behind it."""
    limit = Gcra(1, 1.0, 1, size=10)
    assert [limit.ask("k", 0.0, name) for name in "abc"] == [0.0, 1.0, 2.0]
    assert limit.ask("k", 1.5, "new") == 2.0  # b could pass now, c a second later
    assert limit.ask("k", 1.6, "b") == 0.0
    assert limit.ask("k", 2.0, "c") == 0.6
    assert limit.ask("k", 2.6, "c") == 0.0
    assert limit.ask("k", 3.5, "new") == 0.1
    assert limit.ask("k", 3.6, "new") == 0.0


def test_a_place_for_which_nobody_comes_is_given_up() -> None:
    """A second after its time the place is lost, and a message that comes then passes at once."""
    limit = Gcra(1, 1.0, 1, size=10)
    assert [limit.ask("k", 0.0, name) for name in "ab"] == [0.0, 1.0]
    assert limit.ask("k", 1.9) == 1.0
    assert (limit.waiting, limit.ask("k", 2.0), limit.waiting) == (1, 0.0, 0)
    assert limit.ask("k", 2.5, "b") == 0.5  # b comes after all, as a new message


def test_one_that_does_not_come_delays_nobody_who_waits() -> None:
    """Those behind it pass at the times that they were given; if it comes late, it is the next."""
    limit = Gcra(10, 1.0, 1, size=10)
    assert [limit.ask("k", 0.0, name) for name in "abcde"] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert (limit.ask("k", 0.2, "c"), limit.ask("k", 0.3, "d")) == (0.0, 0.0)
    assert limit.ask("k", 0.35, "b") == 0.05
    assert (limit.ask("k", 0.4, "b"), limit.ask("k", 0.4, "e")) == (0.0, 0.1)


def test_a_place_that_is_given_up_in_time_is_of_use_to_others() -> None:
    """The last one in the line may give up its place as if it had never come, and the first one lets all others move up."""
    limit = Gcra(1, 1.0, 1, size=10)
    assert [limit.ask("k", 0.0, name) for name in "abc"] == [0.0, 1.0, 2.0]
    limit.withdraw("k", "c")
    assert limit.ask("k", 0.0, "d") == 2.0
    limit.withdraw("k", "b")
    assert limit.ask("k", 1.0, "d") == 0.0
    assert [limit.ask("k", 1.0, name) for name in "efg"] == [1.0, 2.0, 3.0]
    for name in "feg":
        limit.withdraw("k", name)
    assert limit.ask("k", 1.0) == 1.0  # nobody is in front
    limit.withdraw("k", "unknown")
    limit.withdraw("unknown", "d")
    assert limit.waiting == 0


def test_a_message_that_would_wait_too_long_gets_no_place() -> None:
    """The limit says how long it would be, and keeps nothing."""
    limit = Gcra(1, 1.0, 1, size=10)
    assert [limit.ask("k", 0.0, name, longest=1.0) for name in "abc"] == [0.0, 1.0, 2.0]
    assert (limit.waiting, limit.limited) == (1, 2)


def test_what_comes_back_in_the_wrong_order_is_spread_at_once() -> None:
    """After a pause all are due: each learns a time of its own, so that none comes again for nothing."""
    limit = Gcra(100, 1.0, 1, size=1000)
    waits = {number: limit.ask("k", 0.0, number) for number in range(50)}
    boxes = Mailboxes(limit)
    boxes.coming = [(0.9, order, "k", number) for order, number in enumerate(reversed(waits)) if number]
    boxes.run()
    assert_allowed([0.0, *boxes.passed["k"]], 100, 1.0, 1)
    assert max(boxes.passed["k"]) == pytest.approx(0.9 + 48 * 0.01)
    assert max(boxes.asked.values()) <= 3


def test_keys_are_forgotten_when_they_mean_nothing() -> None:
    """Each new key pushes out two whose time is up; a key that still means something stays."""
    limit = Gcra(1, 1.0, 2, size=100)
    for number in range(50):
        assert limit.ask(number, 0.0) == 0.0
    assert (limit.ask("busy", 0.0), limit.ask("busy", 0.0)) == (0.0, 0.0)
    for number in range(60):
        assert limit.ask(f"new {number}", 1.5) == 0.0
    assert set(limit.lines) == {"busy", *(f"new {number}" for number in range(60))}
    for _ in range(100):
        limit.ask("busy", 9.0)
    assert set(limit.lines) == {"busy"}


def test_a_key_more_than_there_may_be_has_to_wait_and_costs_nobody_else_the_limit() -> None:
    """With `size` keys that still mean something, a new one does not pass; a key that was forgotten for it could pass twice."""
    limit = Gcra(1, 1.0, 1, size=3)
    assert [limit.ask(key, 0.1 * number) for number, key in enumerate("abc")] == [0.0] * 3
    assert limit.ask("d", 0.5, "ticket") == float("inf")
    assert [limit.ask(key, 0.9) > 0.0 for key in "abc"] == [True] * 3
    assert limit.ask("d", 1.0, "ticket") == 0.0  # a means nothing now
    assert (set(limit.lines), limit.waiting) == ({"b", "c", "d"}, 0)


def test_there_is_a_bound_for_places(harness: Harness) -> None:
    """Messages without a place come again as well, and all pass."""
    limit = RateLimit(10, burst=1, size=5)
    subscription = harness.bus.subscribe("a", nothing, filters=[limit])
    bus = harness.start()
    for _ in range(40):
        bus.publish("a")
    harness.advance(0)
    assert limit.stats("a")["waiting"] == 5
    harness.drain()
    assert subscription.stats()["acknowledged"] == 40
    assert harness.elapsed == pytest.approx(3.9)


# --- around a handler ----------------------------------------------------------------------------------------------------


def nothing(message: Message) -> None:
    """A handler that works and returns nothing."""


def test_no_attempt_is_counted_and_it_is_not_a_drop(harness: Harness) -> None:
    """A message that came too early looks as if it had not been taken, so it survives even with attempts=1."""
    seen: list[tuple[int, bool]] = []

    def handle(message: Message, delivery: Delivery) -> None:
        seen.append((delivery.attempt, delivery.redelivered))

    subscription = harness.bus.subscribe("a", handle, attempts=1, filters=[RateLimit(1)])
    bus = harness.start()
    for _ in range(4):
        bus.publish("a")
    harness.drain()
    assert (seen, harness.elapsed) == ([(1, False)] * 4, 3.0)
    stats = subscription.stats()
    assert (stats["acknowledged"], stats["dropped"], stats["dead"]) == (4, {}, 0)


def test_no_worker_waits(harness: Harness) -> None:
    """One worker handles the messages of other keys while one key has to wait."""
    passed: list[Any] = []
    limit = RateLimit(1, key=lambda message: message.body[0])
    harness.bus.subscribe("a", lambda message: passed.append((harness.elapsed, message.body)), filters=[limit])
    bus = harness.start()
    for body in ("x1", "x2", "y1", "x3", "y2", "z1"):
        bus.publish("a", body)
    harness.drain()
    assert passed == [(0.0, "x1"), (0.0, "y1"), (0.0, "z1"), (1.0, "x2"), (1.0, "y2"), (2.0, "x3")]


def test_a_key_too_many_comes_again_after_per(harness: Harness) -> None:
    """There is no time at which such a message will certainly pass, so it asks again from time to time."""
    limit = RateLimit(1, per=2.0, size=1, key=lambda message: message.body)
    passed: list[Any] = []
    harness.bus.subscribe("a", lambda message: passed.append((harness.elapsed, message.body)), filters=[limit])
    bus = harness.start()
    bus.publish("a", "x")
    harness.advance(1.0)
    bus.publish("a", "y")
    harness.drain()
    assert passed == [(0.0, "x"), (3.0, "y")]


@pytest.mark.parametrize("how", ["ack", "retry"])
def test_a_delivery_that_is_settled_already_stays_settled(harness: Harness, how: str) -> None:
    """A filter around this one has settled the delivery: the limit changes nothing about that."""
    runs: list[Message] = []

    class Settles:
        wants_delivery = True

        def __call__(self, message: Message, call_next: Any) -> Any:
            from pipebus.pipeline import state

            if message.body == "settled" and len(runs) < 2:
                getattr(state.delivery.get(), how)()
                runs.append(message)
            return call_next(message)

    subscription = harness.bus.subscribe("a", nothing, filters=[Settles(), RateLimit(1)])
    bus = harness.start()
    bus.publish("a", "first")
    bus.publish("a", "settled")
    harness.drain()
    stats = subscription.stats()
    assert (stats["acknowledged"], stats["dropped"], stats["dead"], stats["pending"]) == (2, {}, 0, 0)


def test_subscriptions_that_share_a_filter_share_the_limit(harness: Harness) -> None:
    """One object is one limit: each delivery counts, and each has a place of its own in the line."""
    passed: list[tuple[float, str]] = []
    harness.bus.use(RateLimit(1), at="delivery")
    for name in "ab":
        harness.bus.subscribe("x", lambda message, name=name: passed.append((harness.elapsed, name)), name=name)
    bus = harness.start()
    bus.publish("x")
    bus.publish("x")
    harness.drain()
    assert [time for time, _ in passed] == [0.0, 1.0, 2.0, 3.0]
    assert sorted(name for _, name in passed) == ["a", "a", "b", "b"]
    assert sum(isinstance(event, Returned) for event in harness.events) == 3


def test_after_a_restart_what_waited_in_a_store_queues_again() -> None:
    """Places are not stored. The messages come at the times that they were given, and the limit holds for them again."""
    passed: list[float] = []

    def life(harness: Harness, publish: int, seconds: float) -> None:
        bus = Bus("sqlite:///bus.db")
        bus.subscribe("a", lambda message: passed.append(harness.elapsed), name="s", filters=[RateLimit(1, per=10.0, burst=1)])
        harness.start(bus)
        for _ in range(publish):
            bus.publish("a")
        harness.advance(seconds)
        bus.stop()

    with Harness(store="temporary") as harness:
        life(harness, publish=3, seconds=1.0)
        life(harness, publish=1, seconds=25.0)
    assert passed == [0.0, 1.0, 11.0, 21.0]


def test_alone_without_a_delivery_it_says_what_it_would_do(colour: Any) -> None:
    """A test of the filter alone has no delivery to give back."""
    with FilterBench(RateLimit(1), at="delivery", colour=colour) as bench:
        assert [bench.send(None).outcome for _ in range(2)] == [Handled(), Dropped("returned", "RateLimit")]


# --- drop and reject -----------------------------------------------------------------------------------------------------


def test_what_comes_too_early_is_dropped_or_refused(colour: Any, at: Any) -> None:
    """The burst passes at once, then one message for each part of the time."""
    good = Receipt(1) if at == "publish" else Handled()
    with FilterBench(RateLimit(2, per=1.0, on_limit="drop"), at=at, colour=colour) as bench:
        assert [bench.send(None).outcome for _ in range(3)] == [good, good, Dropped("rate limit", "RateLimit")]
        bench.advance(0.5)
        assert [bench.send(None).outcome for _ in range(2)] == [good, Dropped("rate limit", "RateLimit")]
        bench.advance(60.0)
        assert [bool(bench.send(None).outcome) for _ in range(3)] == [True, True, False]
    with FilterBench(RateLimit(1, on_limit="reject"), at=at, colour=colour) as bench:
        assert bench.send(None).outcome == good
        error = bench.send(None).error
        assert isinstance(error, Rejected)
        assert (error.by, error.reasons) == ("RateLimit", ("rate limit",))


def test_a_delivery_that_is_refused_is_a_dead_letter(harness: Harness) -> None:
    """With "reject", a message that comes too early is not tried again."""
    harness.allow(Rejected)
    harness.bus.subscribe("a", nothing, filters=[RateLimit(1, on_limit="reject")])
    bus = harness.start()
    bus.publish("a")
    bus.publish("a")
    harness.drain()
    assert [letter.by for letter in bus.dead_letters.list()] == ["RateLimit"]


@pytest.mark.parametrize("between", [[], [Timeout("60s", abandon=True)]], ids=["", "on a thread of its own"])
def test_runs_of_a_retry_wait_in_place_and_end(harness: Harness, between: list[Any]) -> None:
    """If a further run went back to the mailbox, uncounted, the runs would begin again each time, and never end."""
    runs: list[float] = []

    def fails(message: Message) -> None:
        runs.append(harness.elapsed)
        raise OSError("down")

    harness.allow(OSError)
    harness.bus.subscribe("a", fails, filters=[Retry(3, wait=0.1, jitter=0.0), *between, RateLimit(1)])
    bus = harness.start()
    bus.publish("a")
    harness.drain()
    assert runs == [0.0, 1.0, 2.0]
    assert [letter.error for letter in bus.dead_letters.list()] == ["OSError: down"]


def test_publish_on_a_running_loop_works_unless_it_waits() -> None:
    """Only `on_limit="wait"` may wait."""

    async def main(limit: RateLimit) -> Any:
        bus = Bus()
        bus.use(limit)
        bus.subscribe("a")
        async with bus:
            return bus.publish("a")

    assert asyncio.run(main(RateLimit(1, on_limit="drop"))) == Receipt(1)
    with pytest.raises(PipelineError, match=r"filter RateLimit may wait.*apublish"):
        asyncio.run(main(RateLimit(1)))


# --- in a publish chain --------------------------------------------------------------------------------------------------


def test_a_wait_that_would_be_too_long_is_refused_at_once(harness: Harness) -> None:
    """Such a message gets no place, so it does not make the wait of others longer."""
    limit = RateLimit(1, max_wait=2.0)
    harness.bus.use(limit)
    harness.bus.subscribe("a")
    bus = harness.start()
    publishers = [harness.thread(bus.publish, "a") for _ in range(3)]
    harness.advance(0)
    for _ in range(3):
        with pytest.raises(Rejected, match="rate limit"):
            bus.publish("a")
    assert harness.elapsed == 0.0
    assert limit.stats("publish") == {"keys": 1, "passed": 1, "limited": 5, "waiting": 2}
    assert bus.stats()["filters"]["publish"]["RateLimit"] == limit.stats("publish")
    harness.advance(1.0)
    bus.publish("a")
    assert harness.elapsed == 3.0
    assert [publisher.result() for publisher in publishers] == [Receipt(1)] * 3


def test_a_key_too_many_is_refused(harness: Harness) -> None:
    """A publisher with a new key does not wait until another key means nothing."""
    harness.bus.use(RateLimit(1, size=1, key=lambda message: message.body))
    harness.bus.subscribe("a")
    bus = harness.start()
    bus.publish("a", "x")
    with pytest.raises(Rejected, match="rate limit"):
        bus.publish("a", "y")
    harness.advance(1.0)
    assert bus.publish("a", "y") == Receipt(1)


def test_a_publisher_that_is_cancelled_gives_up_its_place(harness: Harness) -> None:
    """The next one gets its time."""
    limit = RateLimit(1)
    harness.bus.use(limit)
    harness.bus.subscribe("a")
    harness.start()

    async def main() -> None:
        await harness.bus.apublish("a")
        waiting = asyncio.create_task(harness.bus.apublish("a"))
        await asyncio.sleep(0.5)
        assert limit.stats("publish")["waiting"] == 1
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert limit.stats("publish")["waiting"] == 0
        await harness.bus.apublish("a")

    harness.run(main())
    assert harness.elapsed == 1.0


def test_a_stop_ends_the_wait_of_publishers(harness: Harness) -> None:
    """They get BusClosed, and their places are free."""
    limit = RateLimit(1, per=60.0, max_wait="1h")
    harness.bus.use(limit)
    harness.bus.subscribe("a")
    bus = harness.start()
    publishers = [harness.thread(bus.publish, "a") for _ in range(4)]
    harness.advance(1.0)
    assert limit.stats("publish")["waiting"] == 3
    bus.stop()
    for publisher in publishers[1:]:
        with pytest.raises(BusClosed):
            publisher.result()
    assert limit.stats("publish")["waiting"] == 0


def test_the_times_of_another_clock_do_not_count() -> None:
    """A filter object that is used again, by a bus with another clock, begins again."""
    limit = RateLimit(1, per=60.0, on_limit="drop")
    for _ in range(2):
        with FilterBench(limit) as bench:
            assert [bool(bench.send(None).outcome) for _ in range(2)] == [True, False]
            bench.restart()
            assert not bench.send(None).outcome


# --- threads and loops ---------------------------------------------------------------------------------------------------


def test_of_many_threads_exactly_the_burst_passes() -> None:
    """Twenty threads publish as fast as they can while time stands still; then half a second goes by."""
    clock = FakeClock()
    bus = Bus(clock=clock)
    bus.use(RateLimit(30, on_limit="drop"))
    mailbox = bus.subscribe("a", mailbox=10_000)

    def publisher() -> int:
        return sum(bool(bus.publish("a")) for _ in range(20))

    with bus, hasty_threads():
        for more in (30, 15):
            assert sum(thread.result() for thread in [InThread(publisher) for _ in range(20)]) == more
            clock.advance(0.5)
        assert mailbox.stats()["pending"] == 45


def test_threads_that_wait_pass_one_after_the_other() -> None:
    """Ten threads and a burst of one: each time that the clock moves on by the time of a message, one more passes."""
    clock = FakeClock()
    bus = Bus(clock=clock)
    limit = RateLimit(1, burst=1)
    bus.use(limit)
    mailbox = bus.subscribe("a")
    with bus:
        publishers = [InThread(bus.publish, "a") for _ in range(10)]
        for left in range(9, -1, -1):
            wait_until(lambda left=left: limit.stats("publish")["waiting"] == left, f"{left} to wait")
            wait_until(lambda left=left: mailbox.stats()["pending"] == 10 - left, f"{10 - left} to pass")
            clock.advance(1.0)
        assert [publisher.result() for publisher in publishers] == [Receipt(1)] * 10


def test_tasks_that_are_cancelled_at_random_leave_no_place() -> None:
    """Two loops on two threads share a filter. A third of their tasks is cancelled; the others pass, and the limit holds."""
    times: list[float] = []
    bus = Bus()
    bus.use(RateLimit(500, burst=1), Tap(lambda message: times.append(SYSTEM.monotonic())))
    mailbox = bus.subscribe("a", mailbox=10_000)

    async def main(seed: int) -> int:
        chance = random.Random(seed)
        tasks = [asyncio.create_task(bus.apublish("a")) for _ in range(60)]
        for task in tasks:
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.002)
                task.cancel()
        return sum(isinstance(found, Receipt) for found in await asyncio.gather(*tasks, return_exceptions=True))

    with bus:
        loops = [InThread(asyncio.run, main(seed)) for seed in range(2)]
        passed = sum(loop.result() for loop in loops)
        figures = bus.stats()["filters"]["publish"]["RateLimit"]
        assert (figures["waiting"], figures["passed"]) == (0, passed)
        assert mailbox.stats()["pending"] == passed
        assert len(times) == passed >= 60


class Interrupts:
    """A key whose comparison publishes, as a signal handler may in the middle of a change."""

    bus: Bus
    errors: list[BaseException]

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        try:
            self.bus.publish("a", "inner")
        except LifecycleError as error:
            self.errors.append(error)
        return False


def test_a_publish_that_interrupts_a_change_is_refused() -> None:
    """It would see a state that is half changed, so it is refused, with an error that says what to do."""
    bus = Bus()
    bus.use(RateLimit(1, key=lambda message: 0 if message.body == "inner" else Interrupts()))
    mailbox = bus.subscribe("a")
    Interrupts.bus, Interrupts.errors = bus, []
    with bus:
        bus.publish("a")
        bus.publish("a")
        assert mailbox.stats()["pending"] == 2
    assert "signal handler" in str(Interrupts.errors[0])


# --- keys and settings ---------------------------------------------------------------------------------------------------


def test_a_message_without_a_key_is_not_limited(colour: Any, at: Any) -> None:
    """If the key is None, the message passes; other keys have a limit each."""
    limit = RateLimit(1, on_limit="drop", key=lambda message: message.body)
    with FilterBench(limit, at=at, colour=colour) as bench:
        assert [bool(bench.send(body).outcome) for body in (None, None, 0, 0, 1, 1)] == [True, True, True, False, True, False]
        assert limit.stats("x") == {"keys": 2, "passed": 2, "limited": 2, "waiting": 0}


def test_a_key_that_cannot_be_found_is_an_error(colour: Any, at: Any) -> None:
    """The error names the setting, and the message does not pass."""
    run = run_filter(RateLimit(1, key=lambda message: message.body["x"]), Message("a"), at=at, colour=colour)
    assert isinstance(run.error, ContractError)
    assert "cannot limit messages: RateLimit.key failed with TypeError" in str(run.error)


@pytest.mark.thorough
@pytest.mark.parametrize("on_limit", ["wait", "drop", "reject"])
def test_it_keeps_the_laws_of_filters(on_limit: Any, at: Any) -> None:
    """Among others: it is correct when threads change places between its lines."""
    check_filter(RateLimit(2, burst=1, on_limit=on_limit), at=at, examples=4)


def test_durations_may_be_texts() -> None:
    """The burst is as large as the rate, unless it says otherwise."""
    limit = RateLimit(5, per="1m", max_wait="2s")
    assert (limit.per, limit.max_wait, limit.burst, limit.on_limit, limit.size) == (60.0, 2.0, None, "wait", 100_000)
    assert (RateLimit(1).waits, RateLimit(1, on_limit="drop").waits) == (True, False)


async def asynchronous(message: Message) -> str:
    return message.id


@table(
    ("settings", "text"),
    [
        ({"rate": 0}, r"RateLimit\.rate=0: it is a whole number of messages, at least 1"),
        ({"rate": 2.5}, r"RateLimit\.rate=2\.5"),
        ({"rate": True}, r"RateLimit\.rate=True"),
        ({"per": 0}, r"RateLimit\.per=0: .*greater than 0"),
        ({"per": "1 hour"}, r"RateLimit\.per='1 hour'"),
        ({"burst": 0}, r"RateLimit\.burst=0: it is a whole number"),
        ({"key": "id"}, r"RateLimit\.key='id': .*plain function.*leave it out to limit all messages together"),
        ({"key": asynchronous}, r"RateLimit\.key=.*asynchronous"),
        ({"on_limit": "block"}, r'RateLimit\.on_limit=.block.: it is "wait", "drop" or "reject"'),
        ({"on_limit": None}, r"RateLimit\.on_limit=None"),
        ({"on_limit": []}, r"RateLimit\.on_limit=\[\]"),
        ({"max_wait": -1}, r"RateLimit\.max_wait=-1"),
        ({"size": 0}, r"RateLimit\.size=0"),
    ],
    ids=named,
)
def test_wrong_settings_are_refused_where_they_are_written(settings: dict[str, Any], text: str) -> None:
    """The error names the setting, what was found, and what to write."""
    with pytest.raises(PipelineError, match=text):
        RateLimit(**{"rate": 1, **settings})

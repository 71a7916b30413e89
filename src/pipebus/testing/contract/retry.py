"""Retries and dead letters: what comes again, how often, and what is dead."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipebus.bus.bus import Bus, engine_of
from pipebus.delivery.delivery import Delivery
from pipebus.errors import BusClosed, BusNotStarted
from pipebus.filters.redeliver import Redeliver
from pipebus.filters.retry import Retry
from pipebus.message.message import Message
from pipebus.pipeline.pipeline import Pipeline
from pipebus.testing.contract.stage import Injects, Stage
from pipebus.testing.contract.tools import (
    Seen,
    assert_refused,
    deliver,
    figures,
    never,
    opened,
    running,
    serving,
    survives,
    until,
)


class TestRetry:
    """What comes again, how often, and what is dead."""

    def test_returned_delivery_comes_again_after_its_delay(self, stage: Stage) -> None:
        """A delivery that is returned comes again after its delay, not earlier, as often as its attempts allow."""
        delays = [0.05, 0.1, 0.2]

        def act(message: Message, delivery: Delivery) -> None:
            if delivery.attempt <= len(delays):
                delivery.retry(delays[delivery.attempt - 1])

        seen = Seen(act)
        with serving(stage, seen, attempts=4, drain=False) as bus:
            bus.publish("a")
            until(stage, lambda: figures(bus, "s")["acknowledged"] == 1, "the fourth attempt is acknowledged")
        assert seen.attempts == [1, 2, 3, 4]
        waits = [later - earlier for earlier, later in zip(seen.times, seen.times[1:], strict=False)]
        assert all(wait >= delay * 0.9 for wait, delay in zip(waits, delays, strict=True)), waits

    def test_delivery_that_is_put_off_counts_no_attempt(self, stage: Stage) -> None:
        """A delivery that is put off comes again at once, or after its delay and not earlier; the attempt does not count."""
        delays = [0.0, 0.1, 0.0, 0.2]

        def act(message: Message, delivery: Delivery) -> None:
            if len(seen.messages) <= len(delays):
                delivery.retry(delays[len(seen.messages) - 1], count=False)

        seen = Seen(act)
        with serving(stage, seen, attempts=1, drain=False) as bus:
            bus.publish("a")
            until(stage, lambda: figures(bus, "s")["acknowledged"] == 1, "it is handled")
            assert bus.dead_letters.list() == []
        assert seen.attempts == [1] * 5
        waits = [later - earlier for earlier, later in zip(seen.times, seen.times[1:], strict=False)]
        assert all(wait >= delay * 0.9 for wait, delay in zip(waits, delays, strict=True)), waits

    def test_redeliver_returns_failed_messages(self, stage: Stage) -> None:
        """With `Redeliver`, a failed message goes back to the store and comes again later; others are handled meanwhile."""

        def act(message: Message, delivery: Delivery) -> None:
            if message.body == "fails" and delivery.attempt < 3:
                raise ConnectionError("not yet")

        seen = Seen(act)
        with serving(stage, seen, filters=[Redeliver(attempts=3, wait=0.1, jitter=0.0)], drain=False) as bus:
            bus.publish("a", "fails")
            bus.publish("a", "good")
            until(stage, lambda: figures(bus, "s")["acknowledged"] == 2, "both are handled")
            assert bus.dead_letters.list() == []
        failed = [one for one in zip(seen.bodies, seen.attempts, seen.times, strict=True) if one[0] == "fails"]
        _, attempts, (first, second, third) = zip(*failed, strict=True)
        assert attempts == (1, 2, 3)
        assert second - first >= 0.09
        assert third - second >= 0.18

    def test_delay_of_a_returned_delivery_outlives_a_restart(self, stage: Stage) -> None:
        """A delivery that was returned with a delay also comes after a restart, and not before its time."""
        if not survives(stage):
            assert_refused(stage, survives="process")
            return
        delay = 0.4

        def act(message: Message, delivery: Delivery) -> None:
            if delivery.attempt == 1:
                delivery.retry(delay)

        seen = Seen(act)
        with serving(stage, seen, drain=False) as bus:
            bus.publish("a")
            until(stage, lambda: len(seen.messages) == 1, "the first attempt")
        with serving(stage, seen, drain=False) as bus:
            until(stage, lambda: len(seen.messages) == 2, "the second attempt")
            until(stage, lambda: engine_of(bus).transport.pending("s") == 0, "it is settled")
        assert seen.attempts == [1, 2]
        assert seen.times[1] - seen.times[0] >= delay * 0.9

    def test_dead_after_all_attempts(self, stage: Stage) -> None:
        """A message that is returned each time has exactly `attempts` attempts, and then is one dead letter that says why."""
        seen, begun = Seen(lambda message, delivery: delivery.retry()), time.time()
        with serving(stage, seen, attempts=3) as bus:
            deliver(stage, bus, {"n": 1}, id="m")
            (letter,) = bus.dead_letters.list()
            assert figures(bus, "s")["dead"] == 1
        assert seen.attempts == [1, 2, 3]
        assert (letter.message.id, letter.message.body, letter.subscription, letter.attempts) == ("m", {"n": 1}, "s", 3)
        assert letter.error.startswith("AttemptsExhausted")
        assert len(letter.digest) == 12
        assert begun - 1 <= letter.first_time <= letter.time <= time.time() + 1

    def test_failing_handler_makes_a_dead_letter_after_its_retries(self, stage: Stage) -> None:
        """If a handler raises in each of its chain's retries, the dead letter has the error, the traceback and the digest."""

        def always_fails(message: Message, delivery: Delivery) -> None:
            raise ZeroDivisionError("always")

        seen = Seen(always_fails)
        with serving(stage, seen, filters=[Retry(attempts=3, wait=0.0)]) as bus:
            deliver(stage, bus, 1, 2)
            letters = bus.dead_letters.list("s")
        assert (sorted(seen.bodies), seen.attempts) == ([1, 1, 1, 2, 2, 2], [1] * 6)
        assert [(letter.error, letter.attempts) for letter in letters] == [("ZeroDivisionError: always", 1)] * 2
        assert all("always_fails" in letter.traceback for letter in letters)
        assert letters[0].digest == letters[1].digest

    def test_dead_letters_are_kept_where_promised(self, stage: Stage) -> None:
        """A dead letter outlives the program if the transport promises to keep dead letters."""

        def fail(message: Message) -> None:
            raise ValueError("no")

        with serving(stage, fail) as bus:
            deliver(stage, bus, "dead", id="m")
            assert [letter.message.id for letter in bus.dead_letters.list()] == ["m"]
        if not getattr(stage.capabilities, "dead_letters", False):
            assert_refused(stage, dead_letters=True)
            return
        with serving(stage, Seen()) as bus:
            assert [(letter.message.id, letter.error) for letter in bus.dead_letters.list()] == [("m", "ValueError: no")]

    def test_replayed_dead_letter_is_unchanged(self, stage: Stage) -> None:
        """A replayed dead letter has the same subject, id, headers and body, and its attempts are counted from 1."""
        mended = threading.Event()
        seen = Seen(lambda message, delivery: None if mended.is_set() else delivery.retry())
        with serving(stage, seen, subject="orders.>", attempts=2) as bus:
            bus.publish("orders.eu", {"n": [1, "zwei"]}, id="m", headers={"h": "v"}, key="k", correlation_id="c")
            bus.drain(timeout=stage.patience)
            (letter,) = bus.dead_letters.list()
            mended.set()
            bus.dead_letters.replay(letter.id)
            bus.drain(timeout=stage.patience)
            assert bus.dead_letters.list() == []
            stats = figures(bus, "s")
        assert (stats["accepted"], stats["acknowledged"], stats["dead"]) == (1, 1, 0)
        assert seen.attempts == [1, 2, 1]
        before, after = seen.messages[0], seen.messages[-1]
        assert after == before
        assert (after.id, after.subject, after.key, after.correlation_id) == ("m", "orders.eu", "k", "c")
        assert (after.headers["h"], after.body) == ("v", {"n": [1, "zwei"]})

    def test_letter_of_a_publish_chain_is_published_again(self, stage: Stage) -> None:
        """
        A message that died in a publish chain passes through the publish chain of the program that replays it: the same one,
        or a later one if the transport keeps letters.
        """
        seen, mended = Seen(), threading.Event()

        def check(message: Message, call_next: Callable[[Message], Any]) -> Any:
            if not mended.is_set():
                raise ValueError("cannot check it")
            return call_next(message.with_headers(checked="yes"))

        def make() -> Bus:
            bus = opened(stage, seen)
            bus.use(Pipeline(check, on_error="dead_letter"))
            return bus

        bus = make()
        with running(stage, bus):
            assert not bus.publish("a", 1, id="m")
            (letter,) = bus.dead_letters.list()
        if stage.capabilities.dead_letters:
            bus = make()
        with pytest.raises((BusNotStarted, BusClosed)):
            bus.dead_letters.replay(letter.id)  # it stays
        mended.set()
        with running(stage, bus):
            bus.dead_letters.replay(letter.id)
            bus.drain(timeout=stage.patience)
            assert bus.dead_letters.list() == []
        assert [(message.id, message.body, message.headers["checked"]) for message in seen.messages] == [("m", 1, "yes")]

    def test_dead_letters_do_not_loop(self, stage: Stage) -> None:
        """A replayed letter that fails again is one dead letter again, and does not come back by itself."""

        def fail(message: Message, delivery: Delivery) -> None:
            raise ValueError("still no")

        seen = Seen(fail)
        bus = opened(stage, seen)
        bus.subscribe(">", Seen(), name="all")  # a replay must not reach other subscriptions either
        with running(stage, bus):
            deliver(stage, bus, None, id="m")
            for _ in range(2):
                (letter,) = bus.dead_letters.list()
                bus.dead_letters.replay(letter.id)
                bus.drain(timeout=stage.patience)
            never(lambda: len(seen.messages) > 3, "a dead letter came by itself")
            assert len(bus.dead_letters.list()) == 1
            assert (figures(bus, "s")["accepted"], figures(bus, "s")["dead"]) == (1, 1)
            assert figures(bus, "all")["accepted"] == 1
        assert len(seen.messages) == 3

    def test_rejected_is_dead_at_once(self, stage: Stage) -> None:
        """A message that its handler rejects is dead at once, even if there are retries left."""
        seen = Seen(lambda message, delivery: delivery.reject("not ours"))
        with serving(stage, seen, attempts=5, filters=[Retry(attempts=5, wait=0.0)]) as bus:
            deliver(stage, bus, None)
            (letter,) = bus.dead_letters.list()
        assert (seen.attempts, letter.attempts) == ([1], 1)
        assert "not ours" in letter.error

    def test_undecodable_is_dead_at_once(self, stage: Stage) -> None:
        """Bytes that are not a message, and a body that does not validate, are dead at once; later messages are handled."""
        seen: list[int] = []

        def handle(number: int) -> None:
            seen.append(number)

        with serving(stage, handle, filters=[Retry(attempts=3, wait=0.0)]) as bus:
            bus.publish("a", "no number")
            if isinstance(stage, Injects):
                stage.inject(b"\x00\xff no message", "a")
            deliver(stage, bus, 1)
            letters = {letter.message.body: letter for letter in bus.dead_letters.list()}
            stats = figures(bus, "s")
        dead = [b"\x00\xff no message", "no number"] if isinstance(stage, Injects) else ["no number"]
        assert set(letters) == set(dead)
        assert all(letter.attempts == 1 for letter in letters.values())
        assert (seen, stats["dead"], stats["acknowledged"]) == ([1], len(dead), 1)

    def test_poison_does_not_starve_others(self, stage: Stage) -> None:
        """While one message fails again and again, all other messages are handled."""
        good, poison = Seen(), Seen()
        many, enough = min(stage.many, 1000), threading.Event()

        def handle(message: Message, delivery: Delivery) -> None:
            if message.body != "poison":
                good.note(message)
                return
            poison.note(message, delivery.attempt)
            if not enough.is_set():
                delivery.retry(0.01)

        with serving(stage, handle, workers=2, attempts=100_000) as bus:
            bus.publish("a", "poison")
            for number in range(many):
                bus.publish("a", number)
            until(stage, lambda: len(good.messages) >= many, "all good ones were handled")
            until(stage, lambda: len(poison.messages) > 1, "the poison was tried again")
            enough.set()
            bus.drain(timeout=stage.patience)
        assert sorted(good.bodies) == list(range(many))
        assert poison.attempts == list(range(1, len(poison.attempts) + 1))

    def test_success_after_retries_is_not_dead(self, stage: Stage) -> None:
        """A message that succeeds after a retry in the chain and another in the store is not a dead letter."""

        def act(message: Message, delivery: Delivery) -> None:
            if len(seen.messages) == 1:
                raise ConnectionError("not yet")  # for the chain's Retry
            if len(seen.messages) == 2:
                delivery.retry()  # for the store

        seen = Seen(act)
        with serving(stage, seen, filters=[Retry(attempts=2, wait=0.0)]) as bus:
            deliver(stage, bus, None)
            assert bus.dead_letters.list() == []
            assert figures(bus, "s")["acknowledged"] == 1
        assert seen.attempts == [1, 1, 2]

"""Redeliver: a failed message goes back, waits by the bus's clock, and is dead after the last attempt, with its own error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipebus import Actor, Bus, Delivery, Message, PipelineError, Rejected, transform, when
from pipebus.filters import Dedupe, Redeliver, Retry
from pipebus.testing import Harness, run_filter
from tables import table


class Boom(Exception):
    """The error of these tests."""


class Failing:
    """A handler that fails a given number of times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.seen: list[tuple[int, bool]] = []

    def __call__(self, message: Message, delivery: Delivery) -> None:
        self.seen.append((delivery.attempt, delivery.redelivered))
        if len(self.seen) <= self.times:
            raise Boom(f"number {len(self.seen)}")


def started(harness: Harness, handler: Any, *filters: Any, **options: Any) -> Bus:
    bus = Bus()
    bus.subscribe("a", handler, name="s", filters=filters, **options)
    return harness.start(bus)


def figures(bus: Bus) -> dict[str, Any]:
    found: dict[str, Any] = bus.stats()["subscriptions"]["s"]
    return found


def test_what_failed_is_taken_again_after_a_wait_that_doubles(harness: Harness) -> None:
    """The handler sees the number of the attempt, and the bus's clock measures the waits."""
    handler = Failing(3)
    bus = started(harness, handler, Redeliver(wait=2.0, jitter=0.0), attempts=5)
    bus.publish("a")
    harness.drain()
    assert handler.seen == [(1, False), (2, True), (3, True), (4, True)]
    assert harness.elapsed == 2.0 + 4.0 + 8.0
    assert figures(bus)["acknowledged"] == 1


def test_a_wait_is_never_longer_than_the_longest(harness: Harness) -> None:
    handler = Failing(4)
    bus = started(harness, handler, Redeliver(wait=2.0, max_wait=3.0, jitter=0.0), attempts=5)
    bus.publish("a")
    harness.drain()
    assert harness.elapsed == 2.0 + 3.0 + 3.0 + 3.0


def test_jitter_only_shortens(harness: Harness) -> None:
    handler = Failing(1)
    bus = started(harness, handler, Redeliver(wait=10.0, jitter=0.5))
    bus.publish("a")
    harness.drain()
    assert 5.0 <= harness.elapsed <= 10.0


@pytest.mark.parametrize(
    ("filter", "attempts", "takings"),
    [(Redeliver(wait=0.0), 3, 3), (Redeliver(2, wait=0.0), 3, 2), (Redeliver(5, wait=0.0), 5, 5)],
    ids=["the subscription's", "fewer", "as many"],
)  # fmt: skip
def test_after_the_last_attempt_it_is_dead_with_the_handlers_own_error(
    harness: Harness, filter: Redeliver, attempts: int, takings: int
) -> None:
    handler = Failing(100)
    harness.allow(Boom)
    bus = started(harness, handler, filter, attempts=attempts)
    bus.publish("a")
    harness.drain()
    (letter,) = bus.dead_letters.list()
    assert (letter.error, letter.attempts, len(handler.seen)) == (f"Boom: number {takings}", takings, takings)


class Worker(Actor):
    def on_message(self, message: Message) -> None: ...


def bus_wide(bus: Bus, filter: Redeliver) -> None:
    bus.use(filter, at="delivery")
    bus.subscribe("read", name="reader")
    bus.subscribe("a", Failing(0), name="enough", attempts=8)
    bus.subscribe("a", Failing(0), name="s")


def around_all_that_exist(bus: Bus, filter: Redeliver) -> None:
    bus.subscribe("a", Failing(0), name="s")
    bus.use(filter, at="delivery")


PLACES: list[Callable[[Bus, Redeliver], object]] = [
    lambda bus, redeliver: bus.subscribe("a", Failing(0), name="s", filters=[redeliver]),
    lambda bus, redeliver: bus.subscribe("a", Failing(0), name="s", filters=[when("a", redeliver)]),
    lambda bus, redeliver: bus.spawn(Worker("s"), filters=[redeliver]),
    bus_wide,
    around_all_that_exist,
]


@pytest.mark.parametrize("register", PLACES, ids=["own", "nested", "actor", "bus-wide", "around all that exist"])
def test_more_attempts_than_the_subscription_allows_are_refused(register: Callable[[Bus, Redeliver], object]) -> None:
    """The error names both numbers and the subscription. No Redeliver wraps a reader, so that may allow any number."""
    with pytest.raises(PipelineError, match=r"filter Redeliver .* has attempts=8, but subscription s allows 3; give .*=8, or"):
        register(Bus(), Redeliver(8))


def test_other_messages_pass_while_one_waits(harness: Harness) -> None:
    """While one message waits, the worker handles the next ones."""
    seen: list[Any] = []

    def handle(message: Message, delivery: Delivery) -> None:
        if message.body == 1 and delivery.attempt == 1:
            raise Boom
        seen.append(message.body)

    bus = started(harness, handle, Redeliver(wait=5.0, jitter=0.0))
    for number in (1, 2, 3):
        bus.publish("a", number)
    harness.drain()
    assert seen == [2, 3, 1]


def test_a_refusal_is_not_taken_again(harness: Harness) -> None:
    """Another attempt would be refused again."""
    runs: list[int] = []

    def handle(message: Message) -> None:
        runs.append(1)
        raise Rejected("no")

    bus = started(harness, handle, Redeliver(wait=0.0))
    bus.publish("a")
    harness.drain()
    assert (len(runs), len(bus.dead_letters.list())) == (1, 1)


def test_only_what_was_asked_for_is_taken_again(harness: Harness) -> None:
    handler = Failing(1)
    harness.allow(Boom)
    bus = started(harness, handler, Redeliver(on=OSError, wait=0.0))
    bus.publish("a")
    harness.drain()
    assert (len(handler.seen), len(bus.dead_letters.list())) == (1, 1)


@pytest.mark.parametrize("how", ["ack", "reject", "retry"])
def test_what_the_handler_has_settled_stays_settled(harness: Harness, how: str) -> None:
    """The first settlement is final, also if the handler raises an error later."""
    runs: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        runs.append(1)
        if len(runs) == 1:
            delivery.reject("no") if how == "reject" else getattr(delivery, how)()
            raise Boom

    harness.allow(Boom, Rejected)
    bus = started(harness, handle, Redeliver(wait=60.0))
    bus.publish("a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipebus.testing.harness.unexpected.LOUD", ())
        harness.drain()
    assert (len(runs), figures(bus)["dead"]) == ({"ack": (1, 0), "reject": (1, 1), "retry": (2, 0)}[how])
    assert harness.elapsed == 0.0


def test_async_handlers_are_taken_again_too(harness: Harness) -> None:
    runs: list[int] = []

    async def handle(message: Message) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise Boom

    bus = started(harness, handle, Redeliver(wait=3.0, jitter=0.0))
    bus.publish("a")
    harness.drain()
    assert (len(runs), harness.elapsed) == (2, 3.0)


def test_retry_runs_in_place_first(harness: Harness) -> None:
    handler = Failing(4)
    bus = started(harness, handler, Redeliver(wait=10.0, jitter=0.0), Retry(attempts=3, wait=0.0), attempts=3)
    bus.publish("a")
    harness.drain()
    assert [attempt for attempt, _ in handler.seen] == [1, 1, 1, 2, 2]
    assert harness.elapsed == 10.0


def test_dedupe_around_it_lets_the_next_taking_pass(harness: Harness) -> None:
    handler = Failing(1)
    bus = started(harness, handler, Dedupe(), Redeliver(wait=1.0))
    bus.publish("a", id="x")
    harness.drain()
    assert len(handler.seen) == 2
    assert figures(bus)["acknowledged"] == 1


def test_bus_wide_it_stands_around_every_handler(harness: Harness) -> None:
    """It also works around a handler that does not take its delivery."""
    runs: list[int] = []

    def handle(message: Message) -> None:
        runs.append(1)
        if len(runs) == 1:
            raise Boom

    bus = Bus()
    bus.use(Redeliver(wait=1.0), at="delivery")
    bus.subscribe("a", handle, name="s")
    harness.start(bus)
    bus.publish("a")
    harness.drain()
    assert len(runs) == 2


def test_it_stands_around_handlers_only() -> None:
    bus = Bus()
    with pytest.raises(PipelineError, match=r"filter Redeliver .* settles deliveries, .*at=\"delivery\""):
        bus.use(Redeliver())


@table(
    ("options", "text"),
    [
        ({"attempts": 0}, "Redeliver.attempts=0: it is a whole number of attempts, at least 1"),
        ({"attempts": True}, "Redeliver.attempts=True"),
        ({"wait": -1}, "Redeliver.wait=-1"),
        ({"wait": 10, "max_wait": 5}, "Redeliver.max_wait=5 is shorter than Redeliver.wait=10"),
        ({"jitter": 2}, "Redeliver.jitter=2: it is a fraction from 0 to 1"),
        ({"on": ()}, r"Redeliver.on=\(\)"),
        ({"on": KeyboardInterrupt}, "Redeliver.on="),
        ({"on": Rejected}, "Redeliver.on="),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, dict) else "",
)
def test_a_bad_setting_is_told_at_once(options: dict[str, Any], text: str) -> None:
    with pytest.raises(PipelineError, match=text):
        Redeliver(**options)


def test_alone_without_a_delivery_it_hands_the_error_on() -> None:
    """A test of the filter alone has no delivery to give back, so the error comes out."""

    @transform
    def fail(message: Message) -> Message:
        raise Boom

    run = run_filter(Redeliver(), Message("a"), at="delivery", next=Boom())
    assert isinstance(run.error, Boom)


def test_on_a_file_attempts_outlive_the_program(tmp_path: Path) -> None:
    """The first bus fails twice and ends; the second one sees the third attempt."""
    url = f"sqlite:///{tmp_path}/bus.db"
    two = threading.Event()

    def fails(message: Message, delivery: Delivery) -> None:
        if delivery.attempt == 2:
            two.set()
        raise Boom

    bus = Bus(url)
    bus.subscribe("a", fails, name="s", filters=[Redeliver(wait=0.01)], attempts=5)
    with bus:
        bus.publish("a", {"n": 1})
        assert two.wait(10)
        bus.stop(drain=False)
    handler = Failing(0)
    bus = Bus(url)
    bus.subscribe("a", handler, name="s", attempts=5)
    bus.start()
    done = threading.Event()
    bus.observe(lambda event: done.set() if type(event).__name__ == "Acknowledged" else None)
    assert done.wait(10)
    bus.stop()
    assert handler.seen == [(3, True)]


def test_coroutines_of_a_file_are_taken_again(tmp_path: Path) -> None:
    runs: list[int] = []

    async def main() -> None:
        bus = Bus(f"sqlite:///{tmp_path}/bus.db")
        done = asyncio.Event()

        @bus.on("a", name="s", filters=[Redeliver(wait=0.01)])
        async def handle(message: Message) -> None:
            runs.append(1)
            if len(runs) == 1:
                raise Boom
            done.set()

        async with bus:
            await bus.apublish("a")
            await asyncio.wait_for(done.wait(), 10)

    asyncio.run(main())
    assert len(runs) == 2

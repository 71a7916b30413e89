"""What a sampler notes of a running bus: messages that were taken, and how long handlers took."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from flow_helpers import WAIT
from loop_helpers import Way, every_way_to_run
from pipebus import Bus, Message
from pipebus.bus.bus import engine_of
from pipebus.events import Taken
from pipebus.telemetry.sampler import RECENT, REST, ROOM, SAMPLE, Sampler, sampler_of
from pipebus.testing import Harness


@pytest.fixture
def bus() -> Iterator[Bus]:
    with Bus() as bus:
        yield bus


def test_nothing_is_noted_before_anybody_looks(bus: Bus) -> None:
    """Somebody who has a sampler but does not look pays nothing."""
    sampler = sampler_of(bus)
    bus.subscribe("ticks", lambda message: None, name="clock")
    bus.publish("ticks")
    bus.drain(WAIT)

    assert sampler is sampler_of(bus)
    assert (sampler.seen, sampler.recent(), sampler.handling("clock")) == (0, [], None)


@pytest.mark.parametrize("workers", [1, 2])
@every_way_to_run
def test_a_look_notes_what_follows_once_for_all_subscriptions(way: Way, workers: int) -> None:
    """A message that two subscriptions take is one message, with both names, wherever their handlers run."""
    bus = Bus()
    sampler = sampler_of(bus)
    for name in ("billing", "shipping"):
        way.subscribe(bus, "orders.new", lambda message: None, name=name, workers=1 if way.run == "thread" else workers)
    with way.running(bus):
        sampler.look()
        bus.publish("orders.new", "tea")

    [seen] = sampler.recent()
    assert seen.message.body == "tea"
    assert sorted(seen.subscriptions) == ["billing", "shipping"]
    for name in seen.subscriptions:
        handling = sampler.handling(name)
        assert handling is not None
        assert handling.samples == 1
        assert 0 < handling.p50 <= handling.p99
    assert sampler.recent(seen.number) == []


def test_a_sample_ends_by_itself_and_a_look_begins_the_next(bus: Bus) -> None:
    """So the price is the same at any rate, and a look that is the last one costs nothing in the long run."""
    sampler = sampler_of(bus)
    bus.subscribe("ticks", lambda message: None)
    sampler.look()
    _publish(bus, 3 * SAMPLE)

    assert sampler.seen == SAMPLE
    assert not engine_of(bus).ledger.follows
    sampler.look()
    assert sampler.sampled
    _publish(bus, 10)
    sampler.look()
    assert sampler.seen == SAMPLE + 10
    assert not sampler.sampled


def test_a_busy_handler_is_sampled_in_the_middle_of_its_work(bus: Bus) -> None:
    """A worker that never finds its mailbox empty still notices that somebody looks."""
    sampler, begun = sampler_of(bus), threading.Event()

    @bus.on("ticks", name="clock")
    def clock(number: int) -> None:
        if number == 0:
            begun.wait(WAIT)

    for number in range(100):
        bus.publish("ticks", number)
    sampler.look()
    begun.set()
    bus.drain(WAIT)

    assert sampler.seen > 0


def test_an_attempt_that_outlives_its_sample_counts(bus: Bus) -> None:
    """Otherwise a page would show quick handlers only."""
    sampler, go_on = sampler_of(bus), threading.Event()
    bus.subscribe("slow", lambda message: go_on.wait(WAIT), name="slow")
    bus.subscribe("ticks", lambda message: None)
    sampler.look()
    bus.publish("slow")
    _publish(bus, 2 * SAMPLE, drain=False)
    go_on.set()
    bus.drain(WAIT)

    handling = sampler.handling("slow")
    assert handling is not None
    assert handling.samples == 1


def test_failures_and_observers_do_not_disturb_it(bus: Bus) -> None:
    """An attempt that fails took its time too, and an observer hears of all attempts, sampled or not."""
    sampler, heard = sampler_of(bus), list[Any]()
    bus.observe(lambda event: heard.append(event) if isinstance(event, Taken) else None)

    @bus.on("orders", name="billing")
    def bill(message: Message) -> None:
        raise ValueError("no")

    bus.publish("orders")
    bus.drain(WAIT)
    assert sampler.seen == 0
    sampler.look()
    bus.publish("orders")
    bus.drain(WAIT)

    handling = sampler.handling("billing")
    assert handling is not None
    assert (handling.samples, sampler.seen, len(heard)) == (1, 1, 2)


def test_it_remembers_a_bounded_number_of_messages_and_subscriptions(bus: Bus) -> None:
    """A bus may run for months, with a million actors."""
    sampler = Sampler(bus)
    for number in range(RECENT + 5):
        sampler._left = 1
        sampler.ended(f"actor-{number}", sampler.began(f"actor-{number}", Message("ticks", number)))

    assert [seen.message.body for seen in sampler.recent()] == list(range(5, RECENT + 5))
    assert sampler.handling("actor-4") is None
    assert sampler.handling("actor-5") is not None


@pytest.mark.parametrize(
    "body",
    [
        "x" * 1_000_000,
        b"x" * 1_000_000,
        ["x" * 1_000] * 1_000,
        {"a": {str(n): "x" * 100 for n in range(10_000)}},
        SimpleNamespace(text="x" * 1_000_000),
    ],
    ids=["text", "bytes", "list", "mapping", "object"],
)
def test_large_bodies_leave_soon(bus: Bus, body: Any) -> None:
    """What is kept is bounded by bytes too: a page that was open once must not hold gigabytes."""
    sampler = sampler_of(bus)
    bus.subscribe("large", lambda message: None)
    sampler.look()
    for _ in range(30):
        bus.publish("large", body)
    bus.drain(WAIT)

    assert sampler.seen == 30
    assert 5 <= len(sampler.recent()) <= ROOM // 600_000


def test_messages_are_forgotten_when_nobody_looks_any_more(harness: Harness) -> None:
    """A page that was closed keeps no message alive."""
    bus = Bus()
    sampler = sampler_of(bus)
    bus.subscribe("ticks", lambda message: None)
    harness.start(bus)
    sampler.look()
    bus.publish("ticks")
    harness.advance(REST - 1)
    sampler.look()
    harness.advance(REST - 1)
    assert len(sampler.recent()) == 1

    harness.advance(2 * REST)
    assert sampler.recent() == []
    sampler.look()
    bus.publish("ticks")
    harness.advance(1)
    assert len(sampler.recent()) == 1


def _publish(bus: Bus, count: int, *, drain: bool = True) -> None:
    for number in range(count):
        bus.publish("ticks", number)
    if drain:
        bus.drain(WAIT)

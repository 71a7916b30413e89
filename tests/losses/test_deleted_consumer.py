"""
Another program deletes what serves a subscription on a NATS server while the bus runs. The bus continues behind the messages
that were settled, and loses nothing. What this means for every store is in the contract of transports.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import nats.js.errors
import pytest
from nats.js.api import ConsumerConfig
from nats_server import NatsServer, NatsStage, with_client

from flow_helpers import WAIT, wait_until
from pipebus import Bus, Delivery, Message


@pytest.fixture
def stage(server: NatsServer) -> Iterator[NatsStage]:
    stage = NatsStage(server)
    yield stage
    stage.wipe()


class Gated:
    """A handler that waits at some messages until it may continue, and records what it has handled, in order."""

    def __init__(self, *stops: Any, every: bool = False) -> None:
        self.begun: list[Any] = []
        self.handled: list[Any] = []
        self._stops, self._every = stops, every
        self._gate = threading.Event()

    def __call__(self, message: Message) -> None:
        self.begun.append(message.body)
        if self._every or message.body in self._stops:
            assert self._gate.wait(2 * WAIT), "nobody let it go"
        self.handled.append(message.body)

    def stands_at(self, body: Any) -> None:
        wait_until(lambda: body in self.begun, f"it has begun with {body}")

    def let_go(self) -> None:
        self._gate.set()


def on_server(stage: NatsStage, work: Callable[[Any], Any]) -> Any:
    """Do what another program does with JetStream."""

    async def run(client: Any) -> Any:
        return await work(client.jetstream())

    return with_client(stage.server, run)


def delete_consumer(stage: NatsStage, name: str = "s") -> None:
    on_server(stage, lambda jetstream: jetstream.delete_consumer(stage.stream, name))


def replace_consumer(stage: NatsStage, **settings: Any) -> None:
    """Delete the consumer and put another one in its place; try again if the bus was quicker."""

    async def work(jetstream: Any) -> None:
        while True:
            await jetstream.delete_consumer(stage.stream, "s")
            with suppress(nats.js.errors.ServerError, nats.js.errors.BadRequestError):
                await jetstream.add_consumer(stage.stream, ConsumerConfig(durable_name="s", **settings))
                return

    on_server(stage, work)


def left(stage: NatsStage, name: str = "s") -> tuple[int, int]:
    """The number of messages that the consumer has not delivered, and of those that are not acknowledged."""
    info = on_server(stage, lambda jetstream: jetstream.consumer_info(stage.stream, name))
    return info.num_pending, info.num_ack_pending


def all_settled(stage: NatsStage) -> None:
    found = [(0, 0)]

    def none_left() -> bool:
        found[:] = [left(stage)]
        return found == [(0, 0)]

    try:
        wait_until(none_left, "the server has all acknowledgements")
    except AssertionError as error:
        error.add_note(f"not delivered, not acknowledged: {found[0]}")
        raise


def warned(caplog: pytest.LogCaptureFixture, event: str) -> bool:
    return any(event in record.getMessage() for record in caplog.records)


# --- NATS: a consumer ----------------------------------------------------------------------------------------------------


def test_a_consumer_may_be_deleted_again_and_again(stage: NatsStage) -> None:
    """After each deletion, the bus continues where it was."""
    gated = Gated()
    bus = stage.open()
    bus.subscribe("a", gated, name="s")
    with bus:
        for turn in range(4):
            delete_consumer(stage)
            for number in range(20):
                bus.publish("a", (turn, number))
            wait_until(lambda turn=turn: len(gated.handled) >= 20 * (turn + 1), "all of this turn are handled")  # type: ignore[misc]
        all_settled(stage)
    assert gated.handled == [[turn, number] for turn in range(4) for number in range(20)]


@pytest.mark.parametrize("workers", [1, 4])
def test_what_is_at_work_is_not_run_twice(stage: NatsStage, workers: int) -> None:
    """Handlers that run while their consumer is deleted run once, and their acknowledgements reach the new consumer."""
    gated = Gated(every=True)
    bus = stage.open()
    bus.subscribe("a", gated, name="s", workers=workers, run="thread")
    with bus:
        for number in range(12):
            bus.publish("a", number)
        wait_until(lambda: len(gated.begun) >= workers, "all workers are busy")
        delete_consumer(stage)
        gated.let_go()
        wait_until(lambda: len(gated.handled) >= 12, "all are handled")
        all_settled(stage)
    assert Counter(gated.begun) == Counter(range(12))


def test_what_was_given_back_comes_again(stage: NatsStage) -> None:
    """A message that its handler returned before the deletion is not lost, and its attempts still count."""
    attempts: list[int] = []

    def later(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if delivery.attempt == 1:
            delivery.retry(3600.0)

    bus = stage.open()
    bus.subscribe("a", later, name="s", attempts=3)
    with bus:
        bus.publish("a", 1)
        wait_until(lambda: attempts == [1], "it was returned")
        wait_until(lambda: left(stage) == (0, 1), "the server waits")
        delete_consumer(stage)
        wait_until(lambda: attempts == [1, 2], "it has come again")
        all_settled(stage)


def test_dead_letters_stay_dead(stage: NatsStage) -> None:
    """A message that died before its consumer was deleted is not handled again."""
    seen: list[Any] = []

    def fail_at_one(message: Message) -> None:
        seen.append(message.body)
        if message.body == 1:
            raise ValueError("one")

    bus = stage.open()
    bus.subscribe("a", fail_at_one, name="s")
    with bus:
        for number in range(5):
            bus.publish("a", number)
        wait_until(lambda: len(seen) == 5, "all have come")
        wait_until(lambda: len(bus.dead_letters) == 1, "one is dead")
        delete_consumer(stage)
        for number in range(5, 10):
            bus.publish("a", number)
        wait_until(lambda: len(seen) >= 10, "the others have come")
        all_settled(stage)
        assert len(bus.dead_letters) == 1
    assert seen == list(range(10))


def test_a_consumer_that_is_deleted_while_its_bus_is_stopped(stage: NatsStage) -> None:
    """The same bus, started again, continues where it was."""
    gated = Gated()
    bus = stage.open()
    bus.subscribe("a", gated, name="s")
    with bus:
        bus.publish("a", 0)
        wait_until(lambda: gated.handled == [0], "it is handled")
    delete_consumer(stage)
    with Bus(stage.url) as other:
        for number in range(1, 10):
            other.publish("a", number)
    with bus:
        wait_until(lambda: len(gated.handled) >= 10, "all are handled")
        all_settled(stage)
    assert gated.begun == list(range(10))


@pytest.mark.thorough
def test_a_stop_right_after_the_deletion_loses_nothing(stage: NatsStage) -> None:
    """The next start finds the consumer at the place behind the settled messages."""
    first = Gated()
    bus = stage.open()
    bus.subscribe("a", first, name="s")
    with bus:
        for number in range(10):
            bus.publish("a", number)
        wait_until(lambda: len(first.handled) == 10, "all are handled")
        bus.subscriptions[0].pause()
        delete_consumer(stage)
        for number in range(10, 20):
            bus.publish("a", number)
        bus.stop(timeout=WAIT, drain=False)
    second = Gated()
    after = stage.open()
    after.subscribe("a", second, name="s")
    with after:
        wait_until(lambda: len(set(first.handled + second.handled)) == 20, "all are handled")


@pytest.mark.thorough
def test_two_programs_share_what_follows(stage: NatsStage) -> None:
    """Of several programs with one subscription name, one makes the consumer again, all continue, and nothing is lost."""
    seen = [Gated(), Gated()]
    buses = [stage.open(), stage.open()]
    for bus, gated in zip(buses, seen, strict=True):
        bus.subscribe("a", gated, name="s")
        bus.start()
    for number in range(300):
        buses[0].publish("a", number)
        if number in (100, 200):
            delete_consumer(stage)
    wait_until(lambda: len({*seen[0].handled, *seen[1].handled}) == 300, "all are handled")
    all_settled(stage)


@pytest.mark.parametrize(
    "settings",
    [
        {"ack_policy": "explicit", "deliver_policy": "new"},
        {"ack_policy": "explicit", "deliver_policy": "last", "ack_wait": 3},
        {"ack_policy": "explicit", "deliver_policy": "all", "max_deliver": 1},
        {"ack_policy": "explicit", "deliver_policy": "by_start_sequence", "opt_start_seq": 40},
    ],
    ids=["new", "last", "all", "by-sequence"],
)
@pytest.mark.few(1)
def test_a_consumer_of_other_settings_in_its_place(stage: NatsStage, settings: dict[str, Any]) -> None:
    """If the consumer in its place would skip waiting messages, none of them is skipped."""
    gated = Gated(10)
    bus = stage.open()
    bus.subscribe("a", gated, name="s")
    with bus:
        for number in range(50):
            bus.publish("a", number)
        gated.stands_at(10)
        replace_consumer(stage, **settings)
        for number in range(50, 60):
            bus.publish("a", number)
        gated.let_go()
        wait_until(lambda: len(gated.handled) >= 60, "all are handled")
        all_settled(stage)
    assert gated.begun == list(range(60))


@pytest.mark.thorough
def test_another_programs_consumer_in_its_place_is_told(stage: NatsStage, caplog: pytest.LogCaptureFixture) -> None:
    """A warning reports a consumer that cannot be used; once it is gone, the bus continues, and nothing is lost."""
    gated = Gated()
    bus = stage.open()
    bus.subscribe("a", gated, name="s")
    with bus:
        bus.publish("a", 0)
        wait_until(lambda: gated.handled == [0], "it is handled")
        replace_consumer(stage, ack_policy="none", deliver_policy="new")
        for number in range(1, 10):
            bus.publish("a", number)
        wait_until(lambda: warned(caplog, "another program's"), "it is told")
        delete_consumer(stage)
        wait_until(lambda: len(gated.handled) >= 10, "all are handled")
        all_settled(stage)
    assert gated.begun == list(range(10))


def test_another_programs_consumer_is_told_whatever_became_of_the_acknowledgements(
    stage: NatsStage, caplog: pytest.LogCaptureFixture
) -> None:
    """The consumer is replaced just after an acknowledgement, which nobody confirms any more, while no request is open."""
    gated = Gated(1)
    bus = stage.open()
    bus.subscribe("a", gated, name="s", mailbox=1)
    with bus:
        for number in range(10):
            bus.publish("a", number)
        gated.stands_at(1)
        replace_consumer(stage, ack_policy="none", deliver_policy="new")
        wait_until(lambda: warned(caplog, "another program's"), "the warning comes")
        delete_consumer(stage)
        gated.let_go()
        wait_until(lambda: len(gated.handled) >= 10, "all are handled")
        all_settled(stage)
    assert gated.begun == list(range(10))


# --- NATS: the stream ----------------------------------------------------------------------------------------------------


def test_a_deleted_stream_is_made_again_and_told(stage: NatsStage, caplog: pytest.LogCaptureFixture) -> None:
    """A warning says that the messages in the stream are gone; later messages are handled and settled once."""
    gated = Gated(2)
    bus = stage.open()
    sub = bus.subscribe("a", gated, name="s")
    with bus:
        for number in range(3):
            bus.publish("a", number)
        gated.stands_at(2)
        on_server(stage, lambda jetstream: jetstream.delete_stream(stage.stream))
        wait_until(lambda: warned(caplog, "stream.lost"), "it is told")
        for number in range(100, 110):
            bus.publish("a", number)
        gated.let_go()
        wait_until(lambda: len(gated.handled) >= 13, "what is new is handled")
        all_settled(stage)
        bus.drain(WAIT)
        stats = sub.stats()
        ended = stats["acknowledged"] + stats["dead"] + sum(stats["dropped"].values())
        assert stats["accepted"] == ended + stats["pending"] + stats["in_flight"] == 13
    assert gated.handled == [0, 1, 2, *range(100, 110)]

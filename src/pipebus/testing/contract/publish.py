"""Publishing: a publish that returns has kept its promise, and one that cannot raises."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from typing import Any

import pytest

from pipebus import events
from pipebus.errors import BusClosed, BusNotStarted, CodecError, MessageTooLarge, NoSubscriber, UnsupportedCapability
from pipebus.filters.dedupe import Dedupe
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.testing.contract.stage import Connects, Stage
from pipebus.testing.contract.tools import (
    Seen,
    assert_refused,
    crash,
    deliver,
    figures,
    handle_the_rest,
    next_life,
    opened,
    recorded,
    running,
    serving,
    survives,
    together,
    until,
)
from pipebus.testing.history.history import History


class TestPublish:
    """A publish that returns has kept its promise, and one that cannot raises."""

    def test_absent_subscriber_gets_everything_later(self, stage: Stage) -> None:
        """Messages published while a durable subscription's program is away arrive when it is back, once and unchanged."""
        seen = Seen()
        bus = opened(stage, seen, "orders.>")
        publisher = bus
        if survives(stage):
            with running(stage, bus):
                pass  # now the store knows the subscription
            publisher = stage.open("publisher")
        else:
            assert_refused(stage, survives="process")
            bus.subscriptions[0].pause()
        publisher.start()
        for number in range(100):
            publisher.publish(f"orders.{number}", {"number": number}, headers={"n": str(number)})
        assert seen.messages == []
        if survives(stage):
            publisher.stop(timeout=stage.patience)
            bus = opened(stage, seen, "orders.>")
        else:
            bus.subscriptions[0].resume()
        with running(stage, bus):
            bus.drain(timeout=stage.patience)
        found = [(m.subject, m.body, dict(m.headers)) for m in seen.messages]
        assert sorted(found, key=lambda one: one[1]["number"]) == [
            (f"orders.{number}", {"number": number}, {"n": str(number)}) for number in range(100)
        ]

    def test_publish_returns_when_the_message_is_kept(self, stage: Stage) -> None:
        """A message for which `publish` has returned a receipt outlives a crash."""
        if not survives(stage):
            assert_refused(stage, survives="process")
        seen = Seen()
        bus = opened(stage, seen)
        bus.start()
        bus.subscriptions[0].pause()
        for number in range(20):
            assert bus.publish("a", number)
        crash(stage, bus)
        if not survives(stage):
            bus.subscriptions[0].resume()
        handle_the_rest(stage, bus, seen)
        assert sorted(seen.bodies) == list(range(20))

    def test_publish_without_a_running_bus_raises(self, stage: Stage) -> None:
        """`publish` on a bus that is not started, or is stopped, raises."""
        bus = opened(stage, Seen())
        with pytest.raises(BusNotStarted):
            bus.publish("a")
        with running(stage, bus):
            assert bus.publish("a")
        with pytest.raises(BusClosed):
            bus.publish("a")

    def test_same_id_is_one_message(self, stage: Stage) -> None:
        """Two publishes with the same id within the window are one message, and the second receipt says `duplicate`."""
        promised = stage.capabilities.dedup_window > 0
        seen = Seen()
        with serving(stage, seen) as bus:
            first, second = [bus.publish("a", id="m") for _ in range(2)]
            until(stage, lambda: len(seen.messages) >= 2 - promised, "all of them")
            bus.drain(timeout=stage.patience)
            assert isinstance(first, Receipt)
            assert isinstance(second, Receipt)
            assert (first.duplicate, second.duplicate) == (False, promised)
            assert len(seen.messages) == (1 if promised else 2)
        if not promised:
            assert_refused(stage, dedup_window=1.0)

    def test_same_id_is_one_message_after_a_restart(self, stage: Stage) -> None:
        """The window for duplicates outlives the program."""
        if not (stage.capabilities.dedup_window > 0 and survives(stage)):
            assert_refused(stage, dedup_window=1.0, survives="process")
            return
        seen = Seen()
        for duplicate in (False, True):
            with serving(stage, seen) as bus:
                assert getattr(bus.publish("a", id="m"), "duplicate", None) is duplicate
        assert [message.id for message in seen.messages] == ["m"]

    def test_what_a_filter_remembers_outlives_the_program(self, stage: Stage) -> None:
        """A filter that remembers in the store knows after a restart what it has seen before."""
        seen = Seen()
        if not stage.capabilities.memory:
            with pytest.raises(UnsupportedCapability):
                opened(stage, seen, filters=[Dedupe(durable=True)]).start()
            assert_refused(stage, memory=True)
            return
        for _ in range(2):
            with serving(stage, seen, filters=[Dedupe(key=lambda message: message.body, durable=True)]) as bus:
                deliver(stage, bus, "once")
        assert seen.bodies == ["once"]

    def test_id_of_a_failed_publish_is_free(self, stage: Stage) -> None:
        """An id is still free if its first publish failed before the message was kept."""
        seen, failures = Seen(), [ConnectionError("not yet")]

        def unsteady(message: Message, call_next: Callable[[Message], Any]) -> Any:
            if failures:
                raise failures.pop()
            return call_next(message)

        bus = opened(stage, seen)
        bus.use(unsteady)
        with running(stage, bus):
            with pytest.raises(ConnectionError):
                bus.publish("a", 1, id="m")
            if not stage.capabilities.objects:
                with pytest.raises(CodecError):
                    bus.publish("a", object(), id="m")
            outcome = bus.publish("a", 2, id="m")
            bus.drain(timeout=stage.patience)
        assert getattr(outcome, "duplicate", None) is False
        assert [(message.id, message.body) for message in seen.messages] == [("m", 2)]

    def test_publish_without_subscribers_is_unrouted(self, stage: Stage) -> None:
        """A publish that reaches no subscription returns a receipt for 0 mailboxes, is counted, and is reported by an event."""
        heard: list[Any] = []
        bus = stage.open()
        bus.observe(heard.append)
        with running(stage, bus):
            assert bus.publish("nowhere") == Receipt(0)
            assert bus.stats()["unrouted"] == 1
        assert [event.message.subject for event in heard if isinstance(event, events.Unrouted)] == ["nowhere"]

    def test_strict_publish_to_nobody_keeps_nothing(self, stage: Stage) -> None:
        """A strict publish to which nobody listens raises, and keeps nothing: its id is free for the next attempt."""
        seen, bus = Seen(), stage.open()
        with running(stage, bus):
            with pytest.raises(NoSubscriber):
                bus.publish("a", 1, id="m", strict=True)
            with pytest.raises(NoSubscriber):
                asyncio.run(bus.apublish("a", 1, id="m", strict=True))
            bus.subscribe("a", seen, name="s", deliver="all" if stage.capabilities.replay else "new")
            assert bus.publish("a", 2, id="m", strict=True) == Receipt(1)
            bus.drain(timeout=stage.patience)
        assert seen.bodies == [2]

    def test_publish_from_many_threads(self, stage: Stage) -> None:
        """Many threads publish through a filter to handlers on an event loop, and no message is lost or doubled."""
        seen: Counter[Any] = Counter()
        threads, each = 8, stage.many // 8

        async def handle(message: Message) -> None:
            seen[message.body, message.headers["by"]] += 1

        def stamp(message: Message, call_next: Callable[[Message], Any]) -> Any:
            return call_next(message.with_headers(by="stamp"))

        bus = opened(stage, handle, mailbox=max(10_000, stage.many))
        bus.use(stamp)

        def publish(first: int) -> None:
            for number in range(first, first + each):
                bus.publish("a", number)

        with running(stage, bus):
            assert (
                together(stage, *(partial(publish, number * each) for number in range(threads)), within=6 * stage.patience)
                == []
            )
            bus.drain(timeout=6 * stage.patience)
        assert seen == Counter({(number, "stamp"): 1 for number in range(threads * each)})

    def test_publish_during_stop_is_kept_or_raises(self, stage: Stage) -> None:
        """While a bus stops, each publish of twenty threads is kept or raises."""
        history, seen = History(), Seen()
        history.record_subscription("s", "a", attempts=3)
        bus = opened(stage, seen)
        history.watch(bus, "bus")
        bus.start()
        ready = threading.Semaphore(0)

        def publish(name: str) -> None:
            with suppress(BusClosed):
                for number in range(100_000):
                    recorded(history, bus, None, f"{name}-{number}", publisher=name)
                    ready.release()

        def stop() -> None:
            for _ in range(100):
                assert ready.acquire(timeout=stage.patience)
            bus.stop(timeout=stage.patience)

        assert together(stage, stop, *(partial(publish, f"p{number}") for number in range(20))) == []
        again = next_life(stage, bus, seen)
        if again is not bus:
            history.watch(again, "bus")
        with running(stage, again):
            again.drain(timeout=stage.patience)
        history.judge().raise_if_broken()

    def test_publish_within_a_transaction_shares_its_fate(self, stage: Stage) -> None:
        """
        What is published within a transaction of the application is delivered after its commit. After a rollback, or a crash
        before the commit, there is no such message.
        """
        seen = Seen()
        bus = opened(stage, seen)
        bus.start()
        if not stage.capabilities.outbox:
            assert_refused(stage, outbox=True)
            with pytest.raises(UnsupportedCapability):
                bus.publish("a", within=object())
            bus.stop(timeout=stage.patience)
            return
        assert isinstance(stage, Connects)
        with closing(stage.connect()) as connection:
            for number, end in enumerate((connection.commit, connection.rollback, connection.commit)):
                assert bus.publish("a", number, within=connection) == Receipt(1, on_commit=True)
                assert number not in seen.bodies
                end()
            until(stage, lambda: seen.bodies == [0, 2], "what was committed is delivered")
            bus.publish("a", 3, within=connection)
        crash(stage, bus)  # its connection is closed in the middle of a transaction
        handle_the_rest(stage, bus, seen)
        assert sorted(set(seen.bodies)) == [0, 2]

    def test_publish_within_another_store_is_refused(self, stage: Stage) -> None:
        """A connection to another store is refused, and neither store has the message."""
        if not stage.capabilities.outbox:
            assert_refused(stage, outbox=True)
            return
        assert isinstance(stage, Connects)
        seen = Seen()
        with serving(stage, seen) as bus, closing(stage.connect_elsewhere()) as connection:
            with pytest.raises(UnsupportedCapability):
                bus.publish("a", "elsewhere", within=connection)
            connection.commit()
            deliver(stage, bus, "here")
        assert seen.bodies == ["here"]

    def test_too_large_message_is_refused(self, stage: Stage) -> None:
        """A message that is larger than the limit raises in `publish`, and no part of it is kept."""
        most = stage.capabilities.max_size
        limit = 1000 if most is None or most > 2**24 else most  # a limit of hundreds of megabytes would be slow to test
        seen = Seen()
        bus = stage.open(max_message_bytes=limit)
        bus.subscribe("a", seen, name="s")
        with running(stage, bus):
            if stage.capabilities.objects:  # messages are not encoded, so they have no size
                assert bus.publish("a", "x" * limit)
            else:
                with pytest.raises(MessageTooLarge):
                    bus.publish("a", "x" * limit)
                with pytest.raises(MessageTooLarge):
                    bus.publish("a", headers={"h": "x" * limit})
            deliver(stage, bus, "small")
            assert figures(bus, "s")["accepted"] == len(seen.messages)
        assert seen.bodies[-1] == "small"
        assert len(seen.messages) == (2 if stage.capabilities.objects else 1)
        if most is not None:
            assert_refused(stage, max_size=most + 1)

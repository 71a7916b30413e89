"""Lifecycle: stopping, crashing, and what is there afterwards."""

import asyncio
import os
import sys
import threading
from functools import partial
from typing import Any

import pytest

from pipebus import events
from pipebus.bus.bus import Bus, engine_of
from pipebus.bus.stopping import StopReport
from pipebus.delivery.delivery import Delivery
from pipebus.errors import BusClosed, MailboxFull
from pipebus.message.message import Message
from pipebus.testing.contract.stage import Stage
from pipebus.testing.contract.tools import (
    Seen,
    assert_conserved,
    assert_nothing_comes_again,
    assert_refused,
    crash,
    figures,
    handle_the_rest,
    never,
    next_life,
    opened,
    recorded,
    running,
    survives,
    together,
    until,
)
from pipebus.testing.history.history import History


def at_work(stage: Stage, handler: Any, seen: Seen, *bodies: Any, begun: int = 1, **options: Any) -> Bus:
    """A bus that was started and given these messages; its handler has begun with so many of them."""
    bus = opened(stage, handler, **options)
    bus.start()
    for body in bodies:
        bus.publish("a", body)
    until(stage, lambda: len(seen.messages) == begun, f"{begun} of {len(bodies)} have begun")
    return bus


class TestLifecycle:
    """Stopping, crashing, and what is there afterwards."""

    @pytest.mark.parametrize("colour", ["sync", "async"])
    def test_stop_starts_no_other(self, stage: Stage, colour: str) -> None:
        """
        From the moment in which a stop is asked for, no handler begins. Those that run end, are settled, and are not reported
        as abandoned; the rest comes in the next run, as its first attempt.
        """
        seen, stopped = Seen(held=True), list[StopReport]()

        async def handle(message: Message, delivery: Delivery) -> None:
            await asyncio.to_thread(seen, message, delivery)

        handler = seen if colour == "sync" else handle
        bus = at_work(stage, handler, seen, *range(20), begun=3, workers=3)
        drain = None if survives(stage) else False  # what would be lost is drained, unless one says so
        threading.Thread(target=lambda: stopped.append(bus.stop(timeout=stage.patience, drain=drain)), daemon=True).start()
        until(stage, lambda: bus.state != "started", "the stop has begun")
        never(lambda: stopped, "the stop did not wait for its handlers")
        seen.go.set()
        until(stage, lambda: stopped, "the bus has stopped")
        assert stopped[0].abandoned == ()
        assert len(seen.messages) == len(seen.done) == 3
        assert_conserved(bus)
        handle_the_rest(stage, bus, handler, workers=3)
        assert sorted(seen.bodies) == list(range(20))
        assert set(seen.attempts) == {1}

    def test_drain_timeout_returns_rest(self, stage: Stage) -> None:
        """When a drain times out, the rest is returned: no attempt is counted, and there is no dead letter."""
        seen, draining = Seen(), threading.Event()

        async def handle(message: Message, delivery: Delivery) -> None:
            seen.note(message, delivery.attempt)
            if not draining.is_set():
                await asyncio.sleep(3600)

        bus = at_work(stage, handle, seen, 0, 1, 2)
        assert not bus.stop(timeout=0.2).drained
        assert bus.dead_letters.list() == []
        draining.set()
        handle_the_rest(stage, bus, handle)
        assert sorted(seen.bodies) == [0, 0, 1, 2]
        assert seen.attempts == [1, 1, 1, 1]

    def test_abandoned_handler_is_refused(self, stage: Stage) -> None:
        """
        A handler that is still running after the stop is reported. What it publishes and settles later raises, and its message
        comes again.
        """
        seen, go = Seen(), threading.Event()
        refused: list[str] = []

        def handle(message: Message, delivery: Delivery, bus: Bus) -> None:
            seen.note(message, delivery.attempt)
            if len(seen.messages) > 1:
                return
            go.wait(60.0)
            for act in (partial(bus.publish, "b"), delivery.ack):
                try:
                    act()
                except BusClosed:
                    refused.append("refused")
            refused.append("ended")

        bus = at_work(stage, handle, seen, 1)
        report = bus.stop(timeout=0.2)
        assert report.abandoned
        assert not report.drained
        go.set()
        until(stage, lambda: "ended" in refused, "the handler has ended")
        assert refused == ["refused", "refused", "ended"]
        with running(stage, next_life(stage, bus, handle)):
            until(stage, lambda: len(seen.messages) == 2, "it comes again")
        assert seen.bodies == [1, 1]

    def test_cancellation_is_not_failure(self, stage: Stage) -> None:
        """A handler that the stop cancels has not failed: no attempt is counted, and there is no dead letter."""
        seen, stopping = Seen(), threading.Event()

        async def handle(message: Message, delivery: Delivery) -> None:
            seen.note(message, delivery.attempt)
            if stopping.is_set():
                return
            try:
                await asyncio.sleep(3600)
            finally:
                if message.body == "tidies up":
                    await asyncio.sleep(0)

        bus = at_work(stage, handle, seen, "tidies up", "ends", begun=2, workers=2)
        bus.stop(timeout=0.2, drain=False)
        assert bus.dead_letters.list() == []
        stopping.set()
        handle_the_rest(stage, bus, handle, workers=2)
        assert sorted(seen.bodies) == ["ends", "ends", "tidies up", "tidies up"]
        assert seen.attempts == [1] * 4

    def test_drain_settles_before_the_transport_closes(self, stage: Stage) -> None:
        """An acknowledgement that a handler makes while the bus drains reaches the store."""
        draining = threading.Event()
        acknowledged: list[Any] = []

        def hear(event: Any) -> None:
            if isinstance(event, events.StateChanged) and event.new == "draining":
                draining.set()

        def handle(message: Message, delivery: Delivery) -> None:
            draining.wait(stage.patience)
            delivery.ack()
            acknowledged.append(message.body)

        bus = opened(stage, handle)
        bus.observe(hear)
        bus.start()
        for number in range(20):
            bus.publish("a", number)
        assert bus.stop(timeout=stage.patience, drain=True).drained
        assert sorted(acknowledged) == list(range(20))
        assert_conserved(bus)
        assert_nothing_comes_again(stage)

    def test_stop_may_be_called_twice_and_at_once(self, stage: Stage) -> None:
        """Ten threads may call `stop` at the same time: all return, none raises, and all threads and files are closed."""
        before, files = set(threading.enumerate()), open_files()

        def one_life() -> None:
            bus = opened(stage, Seen())
            bus.start()
            bus.publish("a")
            assert together(stage, *[partial(bus.stop, timeout=stage.patience)] * 10) == []
            bus.stop(timeout=stage.patience)
            assert bus.state == "stopped"

        for _ in range(3):
            one_life()
        until(stage, lambda: set(threading.enumerate()) <= before, "its threads have ended")
        until(stage, lambda: open_files() <= files + 2, "its files are closed")  # 2: what a platform may open once

    def test_stop_wakes_waiting_publishers_and_readers(self, stage: Stage) -> None:
        """Publishers that wait for room and readers that wait for a message do not delay a stop."""
        ended: list[str] = []
        bus = stage.open()
        full = bus.subscribe("full", Seen(), name="full", mailbox=1, overflow_timeout=3600.0)
        reader = bus.subscribe("empty", name="reader")
        bus.start()
        full.pause()
        bus.publish("full", 0)

        def publish() -> None:
            try:
                bus.publish("full", 1)
                ended.append("kept")
            except (BusClosed, MailboxFull):
                ended.append("refused")

        def read() -> None:
            with pytest.raises(BusClosed):
                reader.receive(timeout=3600.0)
            ended.append("closed")

        def stop() -> None:
            never(lambda: "closed" in ended or "refused" in ended, "nobody was waiting")
            bus.stop(timeout=0.5)

        assert together(stage, publish, read, stop) == []
        assert sorted(ended) == (["closed", "refused"] if engine_of(bus).transport.local else ["closed", "kept"])

    def test_crashes_lose_nothing(self, stage: Stage) -> None:
        """After any number of crashes, every accepted message is handled, and nothing is delivered that was not published."""
        if not survives(stage):
            assert_refused(stage, survives="process")
            return
        history, life = History(), 0.0
        history.record_subscription("s", "a")
        go_on, begun = threading.Event(), threading.Semaphore(0)

        def handle(message: Message) -> None:
            if message.body == life:  # the message whose handler runs when the crash comes
                begun.release()
                go_on.wait(60.0)

        def one_life() -> Bus:
            bus = opened(stage, handle, attempts=1000, workers=2)
            history.watch(bus, "worker")
            return bus

        try:
            for life in range(1, 11):
                bus = one_life()
                bus.start()
                for number in range(3 * life):
                    recorded(history, bus, life if number == life else 0, f"{life}-{number}")
                assert begun.acquire(timeout=stage.patience)
                crash(stage, bus, timeout=0.1)
            life = 0.5
            with running(stage, one_life()):
                until(stage, lambda: not history.judge().of("lost"), "everything that crashed buses had is handled")
            judgement = history.judge()
        finally:
            go_on.set()
        # A crash may come after a handler and before its acknowledgement is kept: then the message comes again.
        assert [one for one in judgement.violations if one.kind in ("lost", "unexpected")] == []

    def test_leaving_by_an_exception_loses_nothing(self, stage: Stage) -> None:
        """An exception that leaves the `with` block stops the bus without a drain; the next run handles the rest."""
        seen = Seen()
        bus = opened(stage, seen)
        (subscription,) = bus.subscriptions

        def program() -> None:
            with bus:
                subscription.pause()
                for number in range(10):
                    bus.publish("a", number)
                until(stage, lambda: figures(bus, "s")["pending"] == 10, "all wait")
                raise KeyError("an error of the program")

        with pytest.raises(KeyError):
            program()
        if not survives(stage):
            subscription.resume()
        handle_the_rest(stage, bus, seen)
        assert sorted(seen.bodies) == list(range(10))


def open_files() -> int:
    """How many file descriptors this process has open; 0 on systems that do not say."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0

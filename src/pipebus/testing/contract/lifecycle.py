"""Lifecycle: stopping, crashing, and what is there afterwards."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from functools import partial
from typing import Any

import pytest

from pipebus import events
from pipebus.bus.bus import Bus, engine_of
from pipebus.delivery.delivery import Delivery
from pipebus.errors import BusClosed, MailboxFull
from pipebus.message.message import Message
from pipebus.testing.contract.stage import Crashes, Stage
from pipebus.testing.contract.tools import (
    Seen,
    assert_conserved,
    assert_nothing_comes_again,
    assert_refused,
    figures,
    never,
    next_life,
    running,
    survives,
    together,
    until,
)
from pipebus.testing.history.history import History


def rest_of(stage: Stage, bus: Bus, handler: Seen) -> None:
    """Handle the remaining messages in the program's next run."""
    again = next_life(stage, bus, lambda bus: bus.subscribe("a", handler, name="s"))
    with running(stage, again):
        again.drain(timeout=stage.patience)


class TestLifecycle:
    """Stopping, crashing, and what is there afterwards."""

    def test_drain_finishes_in_flight(self, stage: Stage) -> None:
        """`stop` waits for the running handler, starts no other, and settles its delivery. The rest comes in the next run."""
        seen, stopped = Seen(held=True), threading.Event()
        bus = stage.open()
        bus.subscribe("a", seen, name="s")
        bus.start()
        for number in range(3):
            bus.publish("a", number)
        until(stage, lambda: seen.bodies == [0], "the first has begun")

        def stop() -> None:
            bus.stop(timeout=stage.patience, drain=False)
            stopped.set()

        thread = threading.Thread(target=stop, daemon=True)
        thread.start()
        never(stopped.is_set, "the stop did not wait for a handler")
        seen.go.set()
        assert stopped.wait(stage.patience)
        assert [message.body for message in seen.done] == [0]
        assert_conserved(bus)
        rest_of(stage, bus, seen)
        assert sorted(seen.bodies) == [0, 1, 2]
        assert seen.attempts == [1, 1, 1]

    def test_drain_timeout_returns_rest(self, stage: Stage) -> None:
        """When a drain times out, the rest is returned: no attempt is counted, and there is no dead letter."""
        seen, draining = Seen(), threading.Event()

        async def handle(message: Message, delivery: Delivery) -> None:
            seen.note(message, delivery.attempt)
            if not draining.is_set():
                await asyncio.sleep(3600)

        def subscribe(bus: Bus) -> None:
            bus.subscribe("a", handle, name="s")

        bus = stage.open()
        subscribe(bus)
        bus.start()
        for number in range(3):
            bus.publish("a", number)
        until(stage, lambda: seen.bodies == [0], "the first has begun")
        report = bus.stop(timeout=0.2)
        assert not report.drained
        assert bus.dead_letters.list() == []
        draining.set()
        again = next_life(stage, bus, subscribe)
        with running(stage, again):
            again.drain(timeout=stage.patience)
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

        def subscribe(bus: Bus) -> None:
            bus.subscribe("a", handle, name="s")

        bus = stage.open()
        subscribe(bus)
        bus.start()
        bus.publish("a", 1)
        until(stage, lambda: seen.messages, "the handler has begun")
        report = bus.stop(timeout=0.2)
        assert report.abandoned
        assert not report.drained
        go.set()
        until(stage, lambda: "ended" in refused, "the handler has ended")
        assert refused == ["refused", "refused", "ended"]
        again = next_life(stage, bus, subscribe)
        with running(stage, again):
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

        def subscribe(bus: Bus) -> None:
            bus.subscribe("a", handle, name="s", workers=2)

        bus = stage.open()
        subscribe(bus)
        bus.start()
        for body in ("tidies up", "ends"):
            bus.publish("a", body)
        until(stage, lambda: len(seen.messages) == 2, "both run")
        bus.stop(timeout=0.2, drain=False)
        assert bus.dead_letters.list() == []
        stopping.set()
        again = next_life(stage, bus, subscribe)
        with running(stage, again):
            again.drain(timeout=stage.patience)
            assert again.dead_letters.list() == []
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

        bus = stage.open()
        bus.observe(hear)
        bus.subscribe("a", handle, name="s")
        bus.start()
        for number in range(20):
            bus.publish("a", number)
        assert bus.stop(timeout=stage.patience, drain=True).drained
        assert sorted(acknowledged) == list(range(20))
        assert_conserved(bus)
        assert_nothing_comes_again(stage, bus, lambda bus, seen: bus.subscribe("a", seen, name="s"), "a")

    def test_stop_may_be_called_twice_and_at_once(self, stage: Stage) -> None:
        """Ten threads may call `stop` at the same time: all return, none raises, and all threads and files are closed."""
        before, files = set(threading.enumerate()), open_files()

        def one_life() -> None:
            bus = stage.open()
            bus.subscribe("a", Seen(), name="s")
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

        threads = [threading.Thread(target=act, daemon=True) for act in (publish, read)]
        for thread in threads:
            thread.start()
        never(lambda: "closed" in ended or "refused" in ended, "nobody was waiting")
        assert together(stage, lambda: bus.stop(timeout=0.5)) == []
        for thread in threads:
            thread.join(stage.patience)
        assert sorted(ended) == (["closed", "refused"] if engine_of(bus).transport.local else ["closed", "kept"])

    def test_crashes_lose_nothing(self, stage: Stage) -> None:
        """After any number of crashes, every accepted message is handled, and nothing is delivered that was not published."""
        if not survives(stage):
            assert_refused(stage, survives="process")
            return
        history, life = History(), 0.0
        history.record_subscription("s", "a")
        running_on, at_work = threading.Event(), threading.Semaphore(0)

        def handle(message: Message) -> None:
            if message.body == life:  # the message whose handler runs when the crash comes
                at_work.release()
                running_on.wait(60.0)

        def one_life() -> Bus:
            bus = stage.open()
            history.watch(bus, "worker")
            bus.subscribe("a", handle, name="s", attempts=1000, workers=2)
            return bus

        try:
            for life in range(1, 11):
                bus = one_life()
                bus.start()
                for number in range(3 * life):
                    id = f"{life}-{number}"
                    history.record_attempt(id, "a")
                    bus.publish("a", life if number == life else 0, id=id)
                    history.record_accepted(id)
                assert at_work.acquire(timeout=stage.patience)
                if isinstance(stage, Crashes):
                    stage.crash()
                else:
                    bus.stop(timeout=0.1, drain=False)
            life = 0.5
            bus = one_life()
            with running(stage, bus):
                until(stage, lambda: not history.judge().of("lost"), "everything that crashed buses had is handled")
            judgement = history.judge()
        finally:
            running_on.set()
        # A crash may come after a handler and before its acknowledgement is kept: then the message comes again.
        broken = [one for one in judgement.violations if one.kind in ("lost", "unexpected")]
        assert broken == []

    def test_leaving_by_an_exception_loses_nothing(self, stage: Stage) -> None:
        """An exception that leaves the `with` block stops the bus without a drain; the next run handles the rest."""
        seen = Seen()
        bus = stage.open()
        subscription = bus.subscribe("a", seen, name="s")

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
        rest_of(stage, bus, seen)
        assert sorted(seen.bodies) == list(range(10))


def open_files() -> int:
    """How many file descriptors this process has open; 0 on systems that do not say."""
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0

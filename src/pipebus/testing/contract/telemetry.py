"""Telemetry: events, figures and states are true."""

import threading
import time
from collections import Counter
from typing import Any

import pytest

from pipebus import events
from pipebus.delivery.delivery import Delivery
from pipebus.errors import BusClosed, BusNotStarted, LifecycleError
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline.shapes import transform
from pipebus.testing.contract.stage import Stage
from pipebus.testing.contract.tools import Seen, figures, opened, running, serving, until
from pipebus.testing.history.history import History
from pipebus.transports.health import Health

FATES = ("fine", "raise", "reject", "again", "always again", "spam", "expired")


class TestTelemetry:
    """Events, figures and states are true."""

    def test_every_delivery_has_one_event_at_its_end(self, stage: Stage) -> None:
        """Each `Taken` event is followed by exactly one event for its end, whatever goes wrong, and the figures agree."""
        heard: Counter[str] = Counter()
        history, lock = History(), threading.Lock()
        history.record_subscription("s", "a", attempts=2)

        def hear(event: Any) -> None:
            if getattr(event, "subscription", getattr(event, "place", "s")) == "s":
                with lock:
                    heard[type(event).__name__] += 1

        @transform
        def no_spam(message: Message) -> Message | Dropped:
            return Dropped("spam") if message.body == "spam" else message

        def handle(message: Message, delivery: Delivery) -> None:
            match message.body:
                case "raise":
                    raise ValueError("no")
                case "reject":
                    delivery.reject("no")
                case "again" if delivery.attempt == 1:
                    delivery.retry()
                case "always again":
                    delivery.retry()

        bus = opened(stage, handle, filters=[no_spam], attempts=2, workers=2)
        bus.observe(hear)
        history.watch(bus)
        with running(stage, bus):
            for number in range(70):
                body, id = FATES[number % len(FATES)], str(number)
                history.record_attempt(id, "a")
                bus.send(Message("a", body, id=id, ttl=0.5, time=time.time() - 60 * (body == "expired")))
                history.record_accepted(id)
            bus.drain(timeout=stage.patience)
            history.record_figures("s", figures(bus, "s"))
        counts = {name: heard[name] for name in ("Taken", "Acknowledged", "Discarded", "Died", "Returned", "Published")}
        late = counts["Discarded"] - 20  # on a slow machine more messages expire
        assert counts["Taken"] == counts["Acknowledged"] + counts["Discarded"] + counts["Died"] + counts["Returned"]
        assert counts["Published"] == 70
        assert late > 0 or counts == {
            "Taken": 90, "Acknowledged": 20, "Discarded": 20, "Died": 30, "Returned": 20, "Published": 70,
        }  # fmt: skip
        history.judge().raise_if_broken()

    def test_figures_are_true(self, stage: Stage) -> None:
        """Whenever the bus is quiet, its figures for accepted, acknowledged, dead, pending and in flight are true."""

        def act(message: Message, delivery: Delivery) -> None:
            if message.body == "dead":
                raise ValueError("no")

        names = ("accepted", "acknowledged", "dead", "pending", "in_flight")

        def comes(*wanted: int) -> None:
            until(stage, lambda: tuple(figures(bus, "s")[name] for name in names) == wanted, f"{names}: {wanted}")

        seen = Seen(act)
        with serving(stage, seen) as bus:
            comes(0, 0, 0, 0, 0)
            bus.publish("a", "dead")
            comes(1, 0, 1, 0, 0)
            seen.go.clear()
            for number in range(5):
                bus.publish("a", number)
            comes(6, 0, 1, 4, 1)
            seen.go.set()
            bus.drain(timeout=stage.patience)
            comes(6, 5, 1, 0, 0)
            bus.dead_letters.discard(bus.dead_letters.list()[0].id)
            comes(6, 5, 0, 0, 0)
            assert figures(bus, "s")["dropped"] == {"discarded": 1}

    def test_a_bus_at_rest_is_well(self, stage: Stage) -> None:
        """A started bus is live, ready and not degraded; a stopped one is not ready. Nothing waits, so nothing is old."""
        bus = opened(stage, Seen())
        assert (bus.health().live, bus.health().ready) == (True, False)
        with running(stage, bus):
            bus.publish("a")
            bus.drain(timeout=stage.patience)
            until(stage, lambda: bus.health() == Health(), "it is well")
            until(stage, lambda: figures(bus, "s")["oldest"] is None, "nothing waits")
        assert (bus.health().live, bus.health().ready) == (True, False)

    def test_states_and_their_events(self, stage: Stage) -> None:
        """
        A bus goes from new to started, draining, stopped, and may start again. Each change has an event, and calls that a
        state does not allow raise.
        """
        changes: list[tuple[str, str]] = []
        refused: list[BaseException] = []

        def hear(event: Any) -> None:
            if isinstance(event, events.StateChanged):
                changes.append((event.old, event.new))

        def during(message: Message) -> None:
            until(stage, lambda: bus.state == "draining", "the bus is draining")
            try:
                bus.start()
            except LifecycleError as error:
                refused.append(error)

        bus = opened(stage, during)
        bus.observe(hear)
        with pytest.raises(BusNotStarted):
            bus.publish("a")
        for _ in range(2):
            bus.start()
            bus.start()  # it is started already: nothing happens
            bus.publish("a")
            bus.stop(timeout=stage.patience, drain=True)
            bus.stop(timeout=stage.patience)
            with pytest.raises(BusClosed):
                bus.publish("a")
        round_again = [("started", "draining"), ("draining", "stopped")]
        assert changes == [("new", "started"), *round_again, ("stopped", "started"), *round_again]
        assert len(refused) == 2

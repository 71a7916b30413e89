"""What all who watch a bus see of a circuit breaker that opens, tries and closes: the same, at the same time."""

from __future__ import annotations

from typing import Any

import pytest
from telemetry_helpers import Emitted, facts

from pipebus import Bus, Message, Rejected
from pipebus.bus.bus import engine_of
from pipebus.events import CircuitChanged
from pipebus.filters import CircuitBreaker
from pipebus.telemetry.figures import Figures
from pipebus.telemetry.prometheus import metrics_text
from pipebus.testing import Harness


def shown(bus: Bus) -> tuple[Any, ...]:
    """The state in the figures, on the page, in health and for Prometheus, and whether the subscription is paused."""
    [row] = Figures(bus).look()["subscriptions"]
    [scraped] = [
        line.split('state="')[1].partition('"')[0]
        for line in metrics_text(bus).splitlines()
        if line.startswith("pipebus_filter_state{") and 'subscription="till"' in line and line.endswith(" 1.0")
    ]
    state = bus.stats()["filters"]["till"]["CircuitBreaker"]["state"]
    assert state == scraped == row["filters"]["CircuitBreaker"]["state"]
    return state, row["paused"], row["paused_by"], bus.health().reasons


def test_a_breaker_around_a_handler_is_seen_everywhere(emitted: Emitted) -> None:
    """While it is open, the subscription is paused by it, and the bus is degraded; when it has closed, all is as before."""
    down = True

    def sink(message: Message) -> None:
        if down:
            raise ConnectionError("away")

    with Harness() as harness:
        bus = harness.attach(emitted.watch(Bus(), spans="filters"))
        changes: list[tuple[str, str, str]] = []
        bus.observe(
            lambda event: changes.append((event.place, event.old, event.new)) if isinstance(event, CircuitChanged) else None
        )
        bus.subscribe("s", sink, name="till", filters=[CircuitBreaker(failures=1, cool_down="10s")])
        harness.start(bus)
        assert shown(bus) == ("closed", False, [], ())
        bus.publish("s")
        harness.advance(5)
        by = "filter CircuitBreaker (open)"
        assert shown(bus) == ("open", True, [by], (f"a subscription is paused by {by}: till",))
        assert engine_of(bus).subscriptions[0].stats()["pending"] == 1
        down = False
        harness.advance(10)
        assert shown(bus) == ("closed", False, [], ())
    assert changes == [("till", "closed", "open"), ("till", "open", "half_open"), ("till", "half_open", "closed")]
    states = [facts(span)["messaging.pipebus.filter.state"] for span in emitted.all("filter CircuitBreaker")]
    assert states == ["open", "closed"]


def test_a_breaker_of_the_publish_chain_is_seen_everywhere() -> None:
    """It pauses nothing: publishers are refused, and the bus is degraded."""
    with Harness() as harness:
        bus = harness.attach(Bus())

        def away(message: Message, call_next: Any) -> Any:
            raise ConnectionError("away")

        bus.use(CircuitBreaker(failures=1, cool_down="10s"), away)
        harness.start(bus)
        for kind in (ConnectionError, Rejected):
            with pytest.raises(kind):
                bus.publish("s")
        assert bus.health().reasons == ("the publish chain is interrupted by filter CircuitBreaker (open)",)
        assert Figures(bus).look()["filters"]["CircuitBreaker"]["state"] == "open"
        assert 'filter="CircuitBreaker",state="open",subscription=""} 1.0' in metrics_text(bus)

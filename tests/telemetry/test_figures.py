"""The figures of a bus for those who watch it: counts, rates, and what they cost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import WAIT, Hold
from pipebus import Bus, Dropped, Rejected, Subscription
from pipebus.bus.bus import engine_of
from pipebus.telemetry import figures as module
from pipebus.telemetry.figures import BUDGET, REASONS, SHARE, TEXT, TICK, Figures, watched
from state_helpers import Door


class Time:
    """Seconds that pass when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.work = 1000.0, 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module.time, "thread_time", lambda: self.work)

    def passes(self, seconds: float = TICK) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def test_rates_are_those_of_the_last_two_seconds(time: Time) -> None:
    """Messages that came before do not count; and what began and has not ended shows as in, not as out."""
    bus = Bus()
    bus.subscribe("a", lambda message: None, name="a")
    figures = Figures(bus)
    with bus:
        assert figures.look()["rates"] == {"published": 0.0, "accepted": 0.0, "handled": 0.0}
        for _ in range(8):
            for _ in range(3):
                bus.publish("a")
            bus.drain(WAIT)
            time.passes()
            found = figures.look()
        assert found["rates"] == {"published": 6.0, "accepted": 6.0, "handled": 6.0}
        [row] = found["subscriptions"]
        assert (row["in"], row["out"], row["accepted"]) == (6.0, 6.0, 24)
        for _ in range(5):
            time.passes()
            found = figures.look()
        assert found["rates"] == {"published": 0.0, "accepted": 0.0, "handled": 0.0}


def test_who_looks_seldom_gets_the_rate_since_the_last_look_and_after_a_while_none(time: Time) -> None:
    bus = Bus()
    figures = Figures(bus)
    with bus:
        figures.look()
        for _ in range(50):
            bus.publish("a")
        time.passes(10.0)
        assert figures.look()["rates"]["published"] == 5.0
        bus.publish("a")
        time.passes(100.0)
        assert figures.look()["rates"]["published"] == 0.0


def test_a_tick_has_one_look_and_a_dear_one_is_followed_by_a_pause(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a million actors a look takes seconds. It is not repeated before a hundred times as long has passed."""
    bus = Bus()
    figures = Figures(bus)
    first = figures.look()
    assert figures.look() is first
    time.passes()
    second = figures.look()
    assert second is not first

    count = module.watched

    def dear(engine: Any) -> Any:
        time.work += 1.0
        return count(engine)

    monkeypatch.setattr(module, "watched", dear)
    time.passes()
    third = figures.look()
    time.passes(SHARE - 1.0)
    assert figures.look() is third
    time.passes(1.0)
    assert figures.look() is not third


def test_subscriptions_of_a_slow_store_take_turns(time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first look has all of them; after that, each look has as many as fit in its time."""
    bus = Bus()
    asked: list[str] = []
    stats = Subscription.stats

    def slow(one: Subscription[Any]) -> Any:
        asked.append(one.name)
        time.passes(BUDGET)
        return stats(one)

    monkeypatch.setattr(Subscription, "stats", slow)
    for name in "abc":
        bus.subscribe("x", lambda message: None, name=name)
    figures = Figures(bus)
    for _ in range(5):
        rows = figures.look()["subscriptions"]
        time.passes()
        assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert "".join(asked) == "abc" + "abca"


def test_the_time_in_handlers_is_sampled() -> None:
    """Half of the attempts took at most p50 seconds, nearly all at most p99."""
    bus = Bus()
    bus.subscribe("a", lambda message: None, name="a")
    figures = Figures(bus)
    with bus:
        [before] = figures.look()["subscriptions"]
        bus.publish("a")
        bus.drain(WAIT)
        [row] = Figures(bus).look()["subscriptions"]
    assert (before["samples"], before["p50"], before["p99"]) == (0, None, None)
    assert row["samples"] == 1
    assert 0 < row["p50"] == row["p99"] < WAIT


def test_depth_bound_and_pause_are_shown() -> None:
    bus, hold = Bus(), Hold()
    one = bus.subscribe("a", hold, name="a", mailbox=7)
    bus.subscribe("b", name="reader")
    with bus:
        one.pause()
        for _ in range(3):
            bus.publish("a")
        rows = Figures(bus).look()["subscriptions"]
        assert rows[0]["oldest"] >= 0
        assert rows[1]["oldest"] is None
        assert [(row["name"], row["pending"], row["size"], row["paused"]) for row in rows] == [
            ("a", 3, 7, True), ("reader", 0, 10_000, False),
        ]  # fmt: skip
        hold.open()
        one.resume()


def test_what_filters_show_is_in_the_figures(time: Time) -> None:
    """In the publish chain and around each handler, with what pauses a subscription, and with texts that can be seen."""
    breaker, limit = Door(state="open", name="Breaker\n"), Door(waiting=3, about="a\u202eb")
    bus = Bus()
    bus.use(limit)
    one = bus.subscribe("a", lambda message: None, name="a", filters=[breaker])
    figures = Figures(bus)
    with bus:
        resume = breaker.shut("a")
        found = figures.look()
        [row] = found["subscriptions"]
        assert found["filters"] == {"Door": {"waiting": 3, "about": "a\\u202eb"}}
        assert row["filters"] == {"Breaker\\n": {"state": "open"}}
        assert (row["paused"], row["paused_by"]) == (True, ["filter Breaker\\n (open)"])
        breaker.figures = {}
        resume()
        one.pause()
        time.passes()
        [row] = figures.look()["subscriptions"]
        assert (row["paused"], row["paused_by"], row["filters"]) == (True, [], {"Breaker\\n": {}})
        one.resume()


def test_reasons_are_few_and_short() -> None:
    """A reason that differs for each message, or holds a whole body, does not make the figures large."""
    bus = Bus()

    @bus.use
    def odd(message: Any, call_next: Any) -> Any:
        if message.body < 100:
            return Dropped(f"{'x' * 1000} {message.body}" if message.body < 2 else f"reason {message.body}")
        raise Rejected("a\n\u202eb")

    with bus:
        for number in range(100):
            bus.publish("a", number)
        with pytest.raises(Rejected):
            bus.publish("a", 100)
        found = Figures(bus).look()["messages"]
    assert found["rejected"] == {"odd": {"a\\n\\u202eb": 1}}
    reasons = found["dropped"]["odd"]
    assert len(reasons) <= REASONS + 1
    assert sum(reasons.values()) == 100
    assert max(map(len, reasons)) <= TEXT


def test_of_very_many_subscriptions_the_named_ones_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bus may have a million actors, which no page can show."""
    monkeypatch.setattr(module, "MOST", 3)
    bus = Bus()
    for _ in range(5):
        bus.subscribe("a", lambda message: None)
    bus.subscribe("a", lambda message: None, name="billing")
    assert list(watched(engine_of(bus))) == ["billing"]


def test_watching_changes_no_figure() -> None:
    bus = Bus()
    bus.subscribe("a", lambda message: None, name="a")
    with bus:
        bus.publish("a")
        bus.drain(WAIT)
        before = bus.stats()
        for _ in range(3):
            Figures(bus).look()
        assert bus.stats() == before


def test_a_look_waits_for_no_store(tmp_path: Path) -> None:
    """While a disk is slow, and a handler's verdict is not written yet, the page goes on: it counts as in flight."""
    bus = Bus(f"sqlite:///{tmp_path}/bus.db")
    hold = Hold()
    bus.subscribe("a", hold, name="a")
    figures = Figures(bus)
    with bus:
        bus.publish("a")
        hold.wait_started()
        with closing(sqlite3.connect(tmp_path / "bus.db")) as other:
            other.execute("BEGIN IMMEDIATE")  # nothing can be written meanwhile
            hold.open()
            [row] = figures.look()["subscriptions"]
            assert (row["accepted"], row["acknowledged"], row["in_flight"]) == (1, 0, 1)
            other.rollback()
        bus.drain(WAIT)
        [row] = Figures(bus).look()["subscriptions"]
        assert (row["acknowledged"], row["in_flight"]) == (1, 0)

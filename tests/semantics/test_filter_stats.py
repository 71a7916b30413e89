"""What filters show of their state in `bus.stats()`: where, under which names, and that a bad filter spoils nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from flow_helpers import Boom, fine, running
from pipebus import Around, Bus, Message, transform, when
from pipebus.pipeline.figures import MOST, NAME, TEXT
from state_helpers import Door


class Wrap(Around):
    def around(self, message: Message) -> Any:
        yield message

    def stats(self, place: str) -> dict[str, int]:
        return {"n": 1}


def test_each_chain_shows_its_filters() -> None:
    """A filter around all handlers says something for each of them; a reader has the filters that apply to it."""
    everywhere, own = Door(state="closed", name="everywhere"), Door(waiting=3, name="own")
    bus = Bus()
    bus.use(when("s", Door(state="open", name="detour")))
    bus.use(everywhere, Wrap(), at="delivery")
    bus.subscribe("s", fine, name="till", filters=[own])
    bus.subscribe("s", fine, name="audit")
    bus.subscribe("s", name="reader")
    with running(bus):
        assert bus.stats()["filters"] == {
            "publish": {"detour": {"state": "open"}},
            "till": {"everywhere": {"state": "closed"}, "Wrap": {"n": 1}, "own": {"waiting": 3}},
            "audit": {"everywhere": {"state": "closed"}, "Wrap": {"n": 1}},
            "reader": {"everywhere": {"state": "closed"}},
        }
        assert everywhere.places == ["till", "audit", "reader"]


def test_two_filters_of_one_name_are_told_apart() -> None:
    """A chain may have a limit per second and one per hour; those that show nothing do not count."""

    @transform
    def same(message: Message) -> Message:
        return message

    bus = Bus()
    bus.use(Door(n=1), same, Door(n=2), Door(n=3, name="Door 2x"))
    assert bus.stats()["filters"]["publish"] == {"Door": {"n": 1}, "Door 2": {"n": 2}, "Door 2x": {"n": 3}}


def test_a_bus_whose_filters_show_nothing_has_no_such_figures() -> None:
    bus = Bus()

    @bus.use
    def plain(message: Message, call_next: Any) -> Any:
        return call_next(message)

    plain.stats = lambda place: {"n": 1}  # type: ignore[attr-defined]  # it means something else
    bus.subscribe("s", fine)
    assert bus.stats()["filters"] == {}


def test_a_filter_that_comes_after_a_look_is_shown_too() -> None:
    """What was found in a chain is remembered as long as it is that chain."""
    bus = Bus()
    bus.subscribe("s", fine, name="till")
    assert bus.stats()["filters"] == {}
    bus.use(Door(n=1))
    bus.use(Door(n=2), at="delivery")
    assert bus.stats()["filters"] == {"publish": {"Door": {"n": 1}}, "till": {"Door": {"n": 2}}}


class Odd(str):
    def __str__(self) -> str:
        raise Boom


@pytest.mark.parametrize(
    ("found", "shown"),
    [
        ({"a": 1, "b": 0.5, "c": "x", "d": True}, {"a": 1, "b": 0.5, "c": "x", "d": 1}),
        ({"nan": math.nan, "inf": -math.inf, "none": None, "list": [1], 3: 3}, {}),
        ({"big": 2**60, "huge": 10**400}, {"big": float(2**60)}),
        ({"text": "x" * 1000, "n" * 1000: 1}, {"text": "x" * (TEXT - 1) + "…", "n" * NAME: 1}),
        ({"half": "\ud800", Odd("odd"): Odd("odd")}, {"half": "\\ud800", "odd": "odd"}),
    ],
    ids=["plain", "no figures", "large", "long", "odd"],
)  # fmt: skip
def test_what_is_shown_is_json_and_bounded(found: Any, shown: Any) -> None:
    bus = Bus()
    bus.use(Door(found), Door({f"key {number}": number for number in range(10_000)}, name="many"))
    filters = bus.stats()["filters"]["publish"]
    assert filters["Door"] == shown
    assert len(filters["many"]) == MOST
    json.dumps(bus.stats(), allow_nan=False)


@pytest.mark.parametrize("bad", [Boom(), SystemExit(3), 7, {1, 2}], ids=["error", "exit", "number", "set"])
def test_a_filter_that_cannot_say_is_left_out_and_logged(bad: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake in `stats` takes away the figures of that filter, and no others."""
    bus = Bus()
    bus.use(Door(bad, name="bad"), Door(n=1, name="good"))
    assert bus.stats()["filters"] == {"publish": {"good": {"n": 1}}}
    (line,) = [record.getMessage() for record in caplog.records]
    assert "filter.stats_failed" in line
    assert "filter='bad'" in line

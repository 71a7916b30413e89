"""`publish(…, strict=True)` and `Bus(strict=True)`: that nobody listens is an error (guarantee 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import WAIT, Ear, bus_of, every_road, fine, running
from pipebus import Bus, Message, MessageError, NoResponder, NoSubscriber, PipelineError, Receipt, transform
from pipebus.events import Refused, Unrouted
from pipebus.filters import Reroute
from pipebus.testing import Harness

Way = Callable[..., Any]


def publish(bus: Bus, subject: str, **options: Any) -> Any:
    return bus.publish(subject, "a body", **options)


def apublish(bus: Bus, subject: str, **options: Any) -> Any:
    return asyncio.run(bus.apublish(subject, "a body", **options))


def double(number: int) -> int:
    return 2 * number


both = pytest.mark.parametrize("way", [publish, apublish], ids=["publish", "apublish"])


@both
@every_road
@pytest.mark.parametrize("delay", [0.0, 60.0], ids=["now", "delayed"])
def test_s4_a_strict_publish_to_which_nobody_listens_raises(way: Way, road: str, delay: float) -> None:
    """The publisher gets NoSubscriber with the subject; the message counts as unrouted, and as an error of the publish."""
    bus = bus_of(road)
    ear = Ear(bus)
    with running(bus):
        with pytest.raises(NoSubscriber, match=r"nobody listens to orders\.new"):
            way(bus, "orders.new", strict=True, delay=delay)
        assert (bus.stats()["unrouted"], bus.stats()["errors"]) == (1, {"NoSubscriber": 1})
        assert way(bus, "orders.new") == Receipt(0)  # the next one is not strict
    assert len(ear.of(Unrouted)) == 2
    assert len(ear.of(Refused)) == 1


@both
@every_road
def test_s4_a_strict_publish_that_somebody_gets_is_like_any_other(way: Way, road: str) -> None:
    """A handler, a reader and a wildcard are all somebody."""
    bus = bus_of(road)
    handled = bus.subscribe("orders.*", fine)
    reader = bus.subscribe("orders.new")
    with running(bus):
        assert way(bus, "orders.new", strict=True) == Receipt(2)
        assert reader.receive(WAIT).body == "a body"
        assert way(bus, "orders.old", strict=True) == Receipt(1)
        bus.drain(WAIT)
        assert handled.stats()["acknowledged"] == 2


@both
@every_road
def test_s4_on_a_strict_bus_every_publish_is_strict(way: Way, road: str) -> None:
    """`strict=False` makes an exception, and `send` has none."""
    bus = bus_of(road, strict=True)
    with running(bus):
        with pytest.raises(NoSubscriber):
            way(bus, "orders.new")
        with pytest.raises(NoSubscriber):
            bus.send(Message("orders.new"))
        assert way(bus, "orders.new", strict=False) == Receipt(0)
        subscription = bus.subscribe("orders.new", fine)
        assert way(bus, "orders.new") == Receipt(1)
        subscription.unsubscribe()
        with pytest.raises(NoSubscriber):
            way(bus, "orders.new")


def test_s4_a_rerouted_message_is_strict_about_its_new_subject() -> None:
    """What counts is who listens at the end of the chain."""
    bus = Bus()
    bus.use(Reroute("orders.{body.country}"))
    bus.subscribe("orders.fr", fine)
    with running(bus):
        assert bus.publish("orders", {"country": "fr"}, strict=True) == Receipt(1)
        with pytest.raises(NoSubscriber, match=r"orders\.de"):
            bus.publish("orders", {"country": "de"}, strict=True)


def test_s4_what_a_filter_publishes_is_not_strict_because_the_message_is() -> None:
    """`strict` concerns one publish, and not those that happen during it."""
    bus = Bus()

    @bus.use
    @transform
    def copies(message: Message) -> Message:
        if message.subject == "orders":
            assert bus.publish("audit") == Receipt(0)
        return message

    bus.subscribe("orders", fine)
    with running(bus):
        assert bus.publish("orders", strict=True) == Receipt(1)


def test_s29_a_request_on_a_strict_bus_raises_its_own_errors() -> None:
    """For a request, nobody to listen means NoResponder, as on any bus."""
    with running(Bus(strict=True)) as bus:
        with pytest.raises(NoResponder):
            bus.request("prices.get", timeout=WAIT)
        with pytest.raises(NoResponder):
            asyncio.run(bus.arequest("prices.get", timeout=WAIT))
        bus.subscribe("prices.get", double)
        assert bus.request("prices.get", 21).body == 42


def test_s4_a_handler_is_not_to_blame_for_an_address_that_nobody_listens_to() -> None:
    """A reply to a subject without subscriber is unrouted on a strict bus too; a value for `to` has to arrive."""
    with running(Bus(strict=True)) as bus:
        bus.subscribe("answers", double, name="answers")
        bus.subscribe("passes-on", double, to="nowhere", name="passes-on")
        bus.publish("answers", 1, reply_to="nowhere")
        bus.publish("passes-on", 1)
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list()
        assert letter.subscription == "passes-on"
        assert letter.error.startswith("NoSubscriber")


def test_s31_a_strict_tick_to_which_nobody_listens_has_failed(harness: Harness) -> None:
    """A schedule's figures show that its messages reach nobody."""
    harness.allow(NoSubscriber)
    bus = Bus()
    schedule = bus.every("1s", "tick", strict=True)
    harness.start(bus)
    harness.advance(2.0)
    assert (schedule.stats()["failed"], schedule.stats()["published"]) == (2, 0)


def test_s4_strict_works_on_a_store(tmp_path: Path) -> None:
    """Without a subscription there, the message would be stored for nobody."""
    with running(Bus(f"sqlite:///{tmp_path / 'bus.db'}", strict=True)) as bus:
        with pytest.raises(NoSubscriber):
            bus.publish("orders.new", 1)
        bus.subscribe("orders.new", fine, name="billing")
        assert bus.publish("orders.new", 1) == Receipt(1)
        bus.drain(WAIT)


@pytest.mark.parametrize("wrong", ["yes", 1, []], ids=repr)
def test_s4_strict_is_true_or_false(wrong: Any) -> None:
    """A value that only looks like one of them is refused, and named."""
    with running() as bus, pytest.raises(MessageError, match="strict is True, False or None"):
        bus.publish("s", strict=wrong)
    with pytest.raises(PipelineError, match="strict="):
        Bus(strict=wrong)

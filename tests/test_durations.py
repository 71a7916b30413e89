"""Durations: wherever a call of the bus takes seconds, it takes text such as "5s" too."""

from __future__ import annotations

import ast
import asyncio
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from flow_helpers import Hold, InThread, fine, running
from pipebus import (
    Bus,
    Delivery,
    DrainTimeout,
    MailboxFull,
    Message,
    Pause,
    PipebusError,
    ReceiveTimeout,
    RequestTimeout,
    around,
    filters,
)
from pipebus.testing import Harness
from tables import table

Elapse = Callable[[Harness, Bus], object]


def delayed(harness: Harness, bus: Bus) -> None:
    bus.subscribe("s", fine)
    bus.publish("s", delay="2s")
    harness.drain()


def adelayed(harness: Harness, bus: Bus) -> None:
    bus.subscribe("s", fine)
    harness.run(bus.apublish("s", delay="2s"))
    harness.drain()


def expired(harness: Harness, bus: Bus) -> None:
    subscription = bus.subscribe("s", fine)
    subscription.pause()
    bus.publish("s", ttl="1500ms")
    bus.publish("s", ttl="2500ms")
    harness.advance(2.0)
    subscription.resume()
    harness.drain()
    assert subscription.stats()["dropped"] == {"expired": 1}


def retried(harness: Harness, bus: Bus) -> None:
    def handle(delivery: Delivery) -> None:
        if delivery.attempt == 1:
            delivery.retry(delay="2s")

    bus.subscribe("s", handle)
    bus.publish("s")
    harness.drain()


def requested(harness: Harness, bus: Bus) -> None:
    bus.subscribe("s", fine)
    with pytest.raises(RequestTimeout, match="in 2 s"):
        bus.request("s", timeout="2s")


def arequested(harness: Harness, bus: Bus) -> None:
    bus.subscribe("s", fine)
    with pytest.raises(RequestTimeout, match="in 2 s"):
        harness.run(bus.arequest("s", timeout="2s"))


def received(harness: Harness, bus: Bus) -> None:
    with pytest.raises(ReceiveTimeout, match="in 2 s"):
        bus.subscribe("s").receive("2s")


def read_as_delivery(harness: Harness, bus: Bus) -> None:
    with pytest.raises(ReceiveTimeout, match="in 2 s"), bus.subscribe("s").delivery(timeout="2s"):
        pass


def waited_for_room(harness: Harness, bus: Bus) -> None:
    bus.subscribe("s", mailbox=1, overflow_timeout="2s")
    bus.publish("s")
    with pytest.raises(MailboxFull):
        bus.publish("s")


def ticked(harness: Harness, bus: Bus) -> None:
    schedule = bus.every("2s", "s", ttl="1m")
    harness.advance(2.0)
    assert schedule.stats()["published"] == 1


def paused_by_a_filter(harness: Harness, bus: Bus) -> None:
    @around
    def waits(message: Message) -> Any:
        yield Pause("2s")
        return (yield message)

    bus.subscribe("s", fine, filters=[waits])
    bus.publish("s")
    harness.drain("1m")


def advanced(harness: Harness, bus: Bus) -> None:
    harness.advance("1500ms")
    harness.jump("500ms")


TAKEN = [
    delayed, adelayed, expired, retried, requested, arequested, received, read_as_delivery, waited_for_room, ticked,
    paused_by_a_filter, advanced,
]  # fmt: skip


@table("elapse", TAKEN, ids=lambda elapse: elapse.__name__)
def test_a_duration_may_be_text_with_a_unit(elapse: Elapse) -> None:
    """Two seconds are two seconds, whether they are written as 2.0 or as "2s"."""
    with Harness() as harness:
        bus = harness.attach(Bus())
        harness.start(bus)
        elapse(harness, bus)
        assert harness.elapsed == 2.0


def test_drain_and_stop_and_unsubscribe_take_text() -> None:
    """Their time is real time, so these are short."""
    with running(drain=False) as bus:
        hold = Hold()
        subscription = bus.subscribe("s", hold, name="slow")
        bus.publish("s")
        hold.wait_started()
        with pytest.raises(DrainTimeout, match=r"after 0\.001 s"):
            bus.drain("1ms")
        with pytest.raises(DrainTimeout, match=r"after 0\.001 s"):
            asyncio.run(bus.adrain("1ms"))
        with pytest.raises(TimeoutError, match=r"0\.001 s"):
            subscription.unsubscribe("1ms")
        assert bus.stop("1ms", drain=False).abandoned


CALLS: dict[str, Callable[[Bus, Any], object]] = {
    "Message(ttl)": lambda bus, value: Message("s", ttl=value),
    "publish(ttl)": lambda bus, value: bus.publish("s", ttl=value),
    "publish(delay)": lambda bus, value: bus.publish("s", delay=value),
    "apublish(delay)": lambda bus, value: asyncio.run(bus.apublish("s", delay=value)),
    "request(timeout)": lambda bus, value: bus.request("s", timeout=value),
    "subscribe(overflow_timeout)": lambda bus, value: bus.subscribe("s", overflow_timeout=value),
    "receive(timeout)": lambda bus, value: bus.subscribe("s").receive(timeout=value),
    "drain(timeout)": lambda bus, value: bus.drain(timeout=value),
    "stop(timeout)": lambda bus, value: bus.stop(timeout=value),
    "astop(timeout)": lambda bus, value: asyncio.run(bus.astop(timeout=value)),
}


@pytest.mark.parametrize(("value", "says"), [("soon", 'text such as "200ms", "5s", "10m"'), ("5min", 'unknown unit "min"')])
@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_duration_is_refused_by_name(call: str, value: str, says: str) -> None:
    """The error names the argument, what was found, and the form that is wanted."""
    argument = call.partition("(")[2].rstrip(")")
    with running() as bus:
        bus.subscribe("s")
        with pytest.raises(PipebusError, match=f"{argument}={value!r}: .*{says}"):
            CALLS[call](bus, value)


def test_waits_take_what_is_left_of_a_time() -> None:
    """A negative rest of a time means that it has run out; an infinite one never does."""
    with running() as bus:
        subscription = bus.subscribe("s")
        with pytest.raises(ReceiveTimeout):
            subscription.receive(timeout=-0.5)
        reader = InThread(subscription.receive, float("inf"))
        bus.publish("s", 1)
        assert reader.result().body == 1
        bus.drain(float("inf"))


FILTERS = [one for one in map(filters.__dict__.get, filters.__all__) if "Duration" in inspect.getsource(one)]


@pytest.mark.parametrize("kind", FILTERS, ids=lambda kind: kind.__name__)
def test_type_checkers_and_python_know_the_same_settings(kind: Any) -> None:
    """A filter that declares its settings for type checkers once more, with durations as text, declares all of them."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    (declared,) = [one for one in ast.walk(tree) if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    settings = list(inspect.signature(kind).parameters.values())
    assert [one.arg for one in declared.args.args[1:]] == [one.name for one in settings]
    assert len(declared.args.defaults) == sum(one.default is not one.empty for one in settings)

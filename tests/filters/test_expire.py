"""Expire: an outdated message is worse than no message."""

from __future__ import annotations

from typing import Any

import pytest

from pipebus import Bus, Dropped, Message, PipelineError
from pipebus.filters import Expire
from pipebus.testing import FakeClock, Harness, run_filter
from tables import table


@pytest.mark.parametrize(
    ("age", "own", "fresh"),
    [
        pytest.param(0.0, None, True, id="new"),
        pytest.param(10.0, None, True, id="just in time"),
        pytest.param(10.5, None, False, id="too old"),
        pytest.param(-5.0, None, True, id="from a clock that is ahead"),
        pytest.param(5.0, 2.0, False, id="its own ttl is shorter"),
        pytest.param(20.0, 30.0, True, id="its own ttl is longer"),
    ],
)
def test_a_message_older_than_its_time_to_live_is_dropped(
    harness: Harness, colour: Any, at: Any, age: float, own: float | None, fresh: bool
) -> None:
    """The bus's clock measures the age from the message's time; a message's own `ttl` header wins."""
    sent = Message("a", ttl=own, time=harness.clock.now() - age)
    run = run_filter(Expire(10.0), sent, at=at, colour=colour)
    assert run.forwards == ([sent] if fresh else [])
    if fresh:
        assert run.forwarded is sent
    else:
        assert run.outcome == Dropped("expired", "Expire")


def test_age_is_told_by_the_clock_of_the_bus(colour: Any, at: Any) -> None:
    """The computer's clock does not matter: for a bus whose clock is years behind, a message from now is fresh."""
    bus = Bus(clock=FakeClock(start=1_000_000_000.0))
    handled: list[Any] = []

    async def passes(message: Message, call_next: Any) -> Any:
        return await call_next(message)

    async def handle(message: Message) -> None:
        handled.append(message.body)

    bus.use(*[passes] if colour == "async" else [], Expire(10.0), at=at)
    bus.subscribe("a", handle)
    with bus:
        bus.send(Message("a", "just in time", time=1_000_000_000.0 - 10.0))
        bus.send(Message("a", "too old", time=1_000_000_000.0 - 10.5))
        bus.send(Message("a", "of now"))
        bus.drain(timeout=10)
    assert handled == ["just in time", "of now"]


def test_a_stale_publish_reaches_nobody_and_is_counted(harness: Harness) -> None:
    """The publisher gets `Dropped`, the bus counts it by filter and reason, and no mailbox gets the message."""
    bus = harness.bus
    bus.use(Expire(10.0))
    mailbox = bus.subscribe(">")
    harness.start()
    assert bus.send(Message("a", time=harness.clock.now() - 10.5)) == Dropped("expired", "Expire")
    assert bus.stats()["dropped"] == {"Expire": {"expired": 1}}
    assert mailbox.stats()["accepted"] == 0


def test_around_a_handler_a_stale_message_is_dropped_and_counted(harness: Harness) -> None:
    """A message that waited too long in the mailbox is not handled."""
    handled: list[Any] = []
    subscription = harness.bus.subscribe("a", lambda message: handled.append(message.body), filters=[Expire("10s")])
    bus = harness.start()
    subscription.pause()
    bus.publish("a", "old")
    harness.advance(11.0)
    bus.publish("a", "new")
    subscription.resume()
    harness.drain()
    assert handled == ["new"]
    stats = subscription.stats()
    assert (stats["dropped"], stats["acknowledged"]) == ({"expired": 1}, 1)


def test_for_a_reader_a_stale_message_is_dropped_and_the_next_one_read(harness: Harness) -> None:
    """`receive` skips a stale message and returns the next fresh one."""
    subscription = harness.bus.subscribe("a", filters=[Expire(10.0)])
    bus = harness.start()
    bus.publish("a", "old")
    harness.advance(11.0)
    bus.publish("a", "new")
    assert subscription.receive(timeout=10).body == "new"
    assert subscription.stats()["dropped"] == {"expired": 1}


def test_without_a_bus_it_goes_by_the_computer_s_clock() -> None:
    """A test may call the filter without a bus; it then uses the computer's clock."""
    expire, new, old = Expire(60.0), Message("a"), Message("a", time=1_000_000.0)
    assert expire.transform(new) is new
    assert expire.transform(old) == Dropped("expired")


@table(
    ("ttl", "seconds"),
    [
        pytest.param(1, 1.0, id="a whole number"),
        pytest.param(0.25, 0.25, id="a number"),
        pytest.param("200ms", 0.2, id="ms"),
        pytest.param("1.5s", 1.5, id="s"),
        pytest.param(" 10 m ", 600.0, id="m, with spaces"),
        pytest.param("2h", 7200.0, id="h"),
        pytest.param("1d", 86400.0, id="d"),
    ],
)
def test_the_setting_is_a_number_or_a_text_with_a_unit(ttl: Any, seconds: float) -> None:
    """The setting takes the same forms in code and in a config file."""
    assert Expire(ttl).ttl == seconds


@table("ttl", [0, 0.0, -1, "0s", float("inf"), float("nan"), True, None, "10", "5 parsecs", "soon", "-5s", "", [1]], ids=repr)
def test_wrong_settings_are_refused_where_they_are_written(ttl: Any) -> None:
    """The error names the setting and repeats what was found."""
    with pytest.raises(PipelineError, match=r"Expire\.ttl") as error:
        Expire(ttl)
    assert repr(ttl) in str(error.value)

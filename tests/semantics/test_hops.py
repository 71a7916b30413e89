"""The hop count: handlers whose values go to each other's subjects end, and a conversation without a loop never notices."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pipebus import Bus, HeaderError, Message, PipelineError, transform


def same(message: Message) -> Any:
    return message.body


def loop(bus: Bus, steps: int = 1) -> None:
    """Subscriptions whose values go round in a circle."""
    for number in range(steps):
        bus.subscribe(f"s{number}", same, name=f"s{number}", to=f"s{(number + 1) % steps}")


@pytest.mark.parametrize(("limit", "steps"), [(1, 1), (5, 1), (5, 2), (32, 3)])
def test_a_loop_ends_after_max_hops(limit: int, steps: int) -> None:
    """However many handlers are in the circle, `max_hops` of their values are published, and then one message is dead."""
    with Bus(max_hops=limit) as bus:
        loop(bus, steps)
        bus.publish("s0", "x")
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
        handled = sum(one["acknowledged"] for one in bus.stats()["subscriptions"].values())
    assert letter.error.startswith(f"TooManyHops: handlers have passed this conversation on {limit} times")
    assert letter.by == "same"
    assert handled == limit


def test_a_chain_of_handlers_that_ends_is_left_alone() -> None:
    """As many handlers as `max_hops` may pass a value on, also many times, each time from the start."""
    last: list[Any] = []
    with Bus(max_hops=3) as bus:
        for number in range(3):
            bus.subscribe(f"s{number}", same, name=f"s{number}", to=f"s{number + 1}")
        bus.subscribe("s3", lambda message: last.append(message.body), name="last")
        for body in range(50):
            bus.publish("s0", body)
        bus.drain(timeout=10)
        assert len(bus.dead_letters) == 0
    assert last == list(range(50))


def test_a_value_for_an_ordinary_reply_address_counts_too() -> None:
    """A filter that gives each message a `reply_to` cannot make an endless loop."""

    @transform
    def come_back(message: Message) -> Message:
        return msgspec.structs.replace(message, reply_to="a")

    bus = Bus()
    bus.use(come_back)
    bus.subscribe("a", same, name="a")
    with bus:
        bus.publish("a", 1)
        bus.drain(timeout=10)
        assert any(letter.error.startswith("TooManyHops") for letter in bus.dead_letters.list())


def test_a_reply_to_a_request_is_not_a_hop() -> None:
    """The end of a long conversation can still be answered."""
    with Bus(max_hops=1) as bus:
        bus.subscribe("a", same, name="a")
        assert bus.request("a", 1, correlation_id="c").body == 1


def test_a_replayed_letter_dies_again_until_the_loop_is_gone() -> None:
    """The count stays with the message, so a replay does not start the loop again."""
    with Bus(max_hops=2) as bus:
        loop(bus)
        bus.publish("s0", "x")
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
        bus.dead_letters.replay(letter.id)
        bus.drain(timeout=10)
        (again,) = bus.dead_letters.list()
    assert again.error.startswith("TooManyHops")


def test_a_publisher_cannot_set_the_count() -> None:
    """The header belongs to the bus."""
    with pytest.raises(HeaderError, match="reserved"):
        Message("a", headers={"pipebus-hops": "0"})


@pytest.mark.parametrize("limit", [0, -1, 1.5, "32", None, True])
def test_max_hops_is_a_whole_number(limit: Any) -> None:
    """The error names the option."""
    with pytest.raises(PipelineError, match="max_hops"):
        Bus(max_hops=limit)

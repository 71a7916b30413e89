"""Tap: look at messages without changing them."""

from __future__ import annotations

from typing import Any

import pytest

from pipebus import Delivery, Message, PipelineError, Receipt
from pipebus.filters import Tap
from pipebus.testing import Harness, run_filter


def test_the_target_sees_the_message_and_the_message_goes_on(colour: Any) -> None:
    """The target sees the very message that passes on, whatever the target returns."""
    seen: list[Message] = []

    def look(message: Message) -> str:
        seen.append(message)
        return "ignored"

    sent = Message("a", {"id": 1})
    run = run_filter(Tap(look), sent, colour=colour)
    assert run.outcome == Receipt(1)
    assert run.forwarded is sent
    assert seen == run.forwards == [sent]


def test_any_callable_of_one_message_will_do(colour: Any) -> None:
    """The target may be any callable that takes a message, such as a method of a list."""
    seen: list[Message] = []
    assert run_filter(Tap(seen.append), Message("a"), colour=colour).outcome
    assert len(seen) == 1


def test_what_the_target_raises_is_the_filter_s_error(colour: Any) -> None:
    """If the target raises, the caller gets the error, and the message does not arrive."""

    def look(message: Message) -> None:
        raise ValueError("broken tap")

    run = run_filter(Tap(look), Message("a"), colour=colour)
    with pytest.raises(ValueError, match="broken tap"):
        assert run.outcome
    assert run.next_calls == 0


def test_around_a_handler_it_looks_at_each_attempt(harness: Harness) -> None:
    """The Tap's function runs once for each attempt."""
    looks: list[str] = []
    handled: list[str] = []

    def handle(message: Message, delivery: Delivery) -> None:
        handled.append(message.id)
        if (message.id, delivery.attempt) == ("m1", 1):
            delivery.retry(delay=1.0)

    harness.bus.subscribe("a", handle, filters=[Tap(lambda message: looks.append(message.id))])
    bus = harness.start()
    bus.publish("a", id="m1")
    bus.publish("a", id="m2")
    harness.drain()
    assert looks == handled == ["m1", "m2", "m1"]


async def asynchronous(message: Message) -> None:
    """An async function, which nobody would await."""


class AsyncObject:
    async def __call__(self, message: Message) -> None:
        """Do nothing; nobody would await this either."""


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(None, id="None"),
        pytest.param("print", id="a name"),
        pytest.param(asynchronous, id="an async function"),
        pytest.param(AsyncObject(), id="an async object"),
    ],
)
def test_wrong_settings_are_refused_where_they_are_written(target: Any) -> None:
    """A target must be a plain function."""
    with pytest.raises(PipelineError, match=r"Tap\.target"):
        Tap(target)

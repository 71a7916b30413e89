"""Tap: let somebody look, and change nothing."""

from __future__ import annotations

from typing import Any

import pytest

from pipebus import Bus, Message, PipelineError
from pipebus.filters import Tap


def test_the_target_sees_the_message_and_the_message_goes_on(through: Any) -> None:
    """The very same message, whatever the target returns."""
    seen: list[Message] = []

    def look(message: Message) -> str:
        seen.append(message)
        return "ignored"

    sent = Message("a", {"id": 1})
    assert through(Tap(look), sent).message is sent
    assert seen == [sent]


def test_any_callable_of_one_message_will_do(through: Any) -> None:
    """A method of a list, for instance."""
    seen: list[Message] = []
    through(Tap(seen.append), Message("a"))
    assert len(seen) == 1


def test_what_the_target_raises_is_the_filter_s_error(through: Any) -> None:
    """A tap fails closed, like every filter: nothing arrives."""

    def look(message: Message) -> None:
        raise ValueError("broken tap")

    with pytest.raises(ValueError, match="broken tap"):
        through(Tap(look), Message("a"))


def test_around_a_handler_it_looks_at_each_attempt() -> None:
    """Once for each taking of the message."""
    bus = Bus()
    looks: list[str] = []

    def handle(message: Message) -> None:
        with_delivery.append(message.id)

    with_delivery: list[str] = []
    bus.subscribe("a", handle, filters=[Tap(lambda message: looks.append(message.id))])
    with bus:
        bus.publish("a", id="m1")
        bus.publish("a", id="m2")
        bus.drain(timeout=10)
    assert looks == with_delivery == ["m1", "m2"]


async def asynchronous(message: Message) -> None:
    """Could not be awaited."""


class AsyncObject:
    async def __call__(self, message: Message) -> None:
        """Neither could this."""


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
    """A target is a plain function."""
    with pytest.raises(PipelineError, match=r"Tap\.target"):
        Tap(target)

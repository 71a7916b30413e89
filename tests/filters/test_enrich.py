"""Enrich: add what the publisher did not know."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from pipebus import Bus, Message, PipelineError, Rejected
from pipebus.filters import Enrich


def test_fields_are_merged_into_the_body(through: Any) -> None:
    """The publisher's own mapping stays as it is."""
    sent = {"id": 1, "region": "?"}
    message = through(Enrich({"region": "eu", "currency": "EUR"}), Message("orders", sent, headers={"h": "v"}, id="m")).message
    assert message.body == {"id": 1, "region": "eu", "currency": "EUR"}
    assert sent == {"id": 1, "region": "?"}
    assert (message.id, message.headers) == ("m", {"h": "v"})


def test_fields_that_are_there_win_when_told(through: Any) -> None:
    """`overwrite=False` fills gaps only, a value of None being a value."""
    message = through(
        Enrich({"region": "eu", "note": "-", "new": 1}, overwrite=False), Message("a", {"region": "us", "note": None})
    ).message
    assert message.body == {"region": "us", "note": None, "new": 1}


def test_a_function_of_the_message_says_what_to_add(through: Any) -> None:
    """It sees the whole message."""
    add = Enrich(lambda message: {"tenant": message.headers["tenant"], "double": message.body["n"] * 2})
    assert through(add, Message("a", {"n": 2}, headers={"tenant": "acme"})).message.body == {
        "n": 2,
        "tenant": "acme",
        "double": 4,
    }


def test_any_mapping_is_a_body() -> None:
    """Also one that cannot be changed."""
    assert Enrich(MappingProxyType({"b": 2})).transform(Message("a", MappingProxyType({"a": 1}))).body == {"a": 1, "b": 2}


@pytest.mark.parametrize("body", [None, "text", 5, [("a", 1)]], ids=repr)
def test_a_body_that_is_no_mapping_is_rejected(through: Any, body: Any) -> None:
    """Nothing can be added to it; the reason says what it is."""
    with pytest.raises(Rejected) as error:
        through(Enrich({"a": 1}), Message("a", body))
    assert error.value.by == "Enrich"
    assert type(body).__name__ in error.value.errors[0]


def test_an_error_of_the_function_is_the_filter_s_error(through: Any) -> None:
    """It reaches the publisher as it is, and nothing arrives."""
    with pytest.raises(KeyError, match="tenant"):
        through(Enrich(lambda message: {"tenant": message.headers["tenant"]}), Message("a", {}))


def test_around_a_handler_it_adds_for_that_handler_only() -> None:
    """A subscription's own enrichment is not seen by others."""
    bus = Bus()
    seen: dict[str, Any] = {}
    bus.subscribe("a", lambda message: seen.update(one=message.body), filters=[Enrich({"extra": 1})])
    bus.subscribe("a", lambda message: seen.update(other=message.body))
    with bus:
        bus.publish("a", {"id": 1})
        bus.drain(timeout=10)
    assert seen == {"one": {"id": 1, "extra": 1}, "other": {"id": 1}}


async def asynchronous(message: Message) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("add", [None, 5, "text", ["a"], asynchronous], ids=repr)
def test_wrong_settings_are_refused_where_they_are_written(add: Any) -> None:
    """The error says what it takes; an async function could not be awaited."""
    with pytest.raises(PipelineError, match=r"Enrich\.add"):
        Enrich(add)

"""Enrich: add fields that the publisher does not know."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from pipebus import Message, PipelineError, Receipt, Rejected
from pipebus.filters import Enrich
from pipebus.testing import Harness, run_filter
from tables import table
from values_helpers import named


def test_fields_are_merged_into_the_body(colour: Any) -> None:
    """The fields are added to the body, and the publisher's own mapping does not change."""
    sent = {"id": 1, "region": "?"}
    enrich = Enrich({"region": "eu", "currency": "EUR"})
    run = run_filter(enrich, Message("orders", sent, headers={"h": "v"}, id="m"), colour=colour)
    assert run.outcome == Receipt(1)
    (message,) = run.forwards
    assert message.body == {"id": 1, "region": "eu", "currency": "EUR"}
    assert sent == {"id": 1, "region": "?"}
    assert (message.id, message.headers) == ("m", {"h": "v"})


def test_fields_that_are_there_win_when_told(colour: Any) -> None:
    """`overwrite=False` adds only fields that are missing; a field whose value is None is there."""
    fill = Enrich({"region": "eu", "note": "-", "new": 1}, overwrite=False)
    run = run_filter(fill, {"region": "us", "note": None}, colour=colour)
    assert [message.body for message in run.forwards] == [{"region": "us", "note": None, "new": 1}]


def test_a_function_of_the_message_says_what_to_add(colour: Any) -> None:
    """The function gets the whole message, and not only its body."""
    add = Enrich(lambda message: {"tenant": message.headers["tenant"], "double": message.body["n"] * 2})
    run = run_filter(add, Message("a", {"n": 2}, headers={"tenant": "acme"}), colour=colour)
    assert [message.body for message in run.forwards] == [{"n": 2, "tenant": "acme", "double": 4}]


def test_functions_say_single_fields_beside_fixed_ones(colour: Any) -> None:
    """Some fields may come from functions of the message, and others may be fixed values, copied for each message."""
    fixed: list[int] = []
    enrich = Enrich({"total": lambda message: message.body["price"] * message.body["count"], "tags": fixed, "unit": "EUR"})
    (message,) = run_filter(enrich, {"price": 3, "count": 4}, colour=colour).forwards
    assert message.body == {"price": 3, "count": 4, "total": 12, "tags": [], "unit": "EUR"}
    assert message.body["tags"] is not fixed

    fill = Enrich({"total": lambda message: 0}, overwrite=False)
    (message,) = run_filter(fill, {"total": 5}, colour=colour).forwards
    assert message.body == {"total": 5}


def test_any_mapping_is_a_body() -> None:
    """Any mapping can be enriched, also one that cannot be changed in place."""
    (message,) = run_filter(Enrich(MappingProxyType({"b": 2})), MappingProxyType({"a": 1})).forwards
    assert message.body == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("body", "kind"), [(None, "nothing"), ("text", "text"), (5, "a number"), ([("a", 1)], "a list"), (b"x", "bytes")]
)
def test_a_body_that_is_no_mapping_is_rejected(colour: Any, body: Any, kind: str) -> None:
    """A body that is not a mapping is rejected, and the reason says what it is, in words for people who write no Python."""
    run = run_filter(Enrich({"a": 1}), Message("a", body), colour=colour)
    assert isinstance(run.error, Rejected)
    assert run.error.by == "Enrich"
    assert run.error.reasons == (f"the body is {kind}; only a table can be enriched",)
    assert run.next_calls == 0


def test_an_error_of_the_function_is_the_filter_s_error(colour: Any) -> None:
    """The publisher gets the function's own error, and no mailbox gets the message."""
    run = run_filter(Enrich(lambda message: {"tenant": message.headers["tenant"]}), {}, colour=colour)
    with pytest.raises(KeyError, match="tenant"):
        assert run.outcome
    assert run.next_calls == 0


def test_around_a_handler_it_adds_for_that_handler_only(harness: Harness) -> None:
    """Other subscriptions do not see the fields that one subscription's own Enrich adds."""
    seen: dict[str, Any] = {}
    harness.bus.subscribe("a", lambda message: seen.update(one=message.body), filters=[Enrich({"extra": 1})])
    harness.bus.subscribe("a", lambda message: seen.update(other=message.body))
    harness.start().publish("a", {"id": 1})
    harness.drain()
    assert seen == {"one": {"id": 1, "extra": 1}, "other": {"id": 1}}


async def asynchronous(message: Message) -> dict[str, Any]:
    return {}


@table("add", [None, 5, "text", ["a"], asynchronous], ids=named)
def test_wrong_settings_are_refused_where_they_are_written(add: Any) -> None:
    """The error says what Enrich takes; it also refuses an async function, because nobody would await it."""
    with pytest.raises(PipelineError, match=r"Enrich\.add"):
        Enrich(add)

"""Envelopes made past the checks: headers made by hand, copies made by `copy.replace` and msgspec, and reserved names."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from carriers import made

from pipebus import (
    Actor,
    Bus,
    ContractError,
    HeaderError,
    Message,
    MessageError,
    SubjectError,
    SubscriptionError,
    transform,
)
from tables import table

LONG = 20.0
Headers: Any = type(Message("a").headers)

BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "subject": ({"subject": "no good"}, "white space"),
    "wildcard": ({"subject": "orders.*"}, "wildcard"),
    "no subject": ({"subject": 5}, "subject"),
    "headers": ({"headers": {"pipebus-error": "1"}}, "reserved"),
    "header's value": ({"headers": {"name": 1}}, "string"),
    "no mapping": ({"headers": 5}, "mapping"),
    "key": ({"key": ["unhashable"]}, "key"),
    "ttl": ({"ttl": "5"}, "ttl"),
    "negative ttl": ({"ttl": -1.0}, "ttl"),
    "reply_to": ({"reply_to": ["unhashable"]}, "reply_to"),
    "bad reply_to": ({"reply_to": "no good"}, "white space"),
    "correlation_id": ({"correlation_id": 5}, "correlation_id"),
    "causation_id": ({"causation_id": 5}, "causation_id"),
    "id": ({"id": ""}, "id"),
    "id of no bus": ({"id": 1 << 90}, "id"),
    "time": ({"time": "now"}, "time"),
    "no time": ({"time": None}, "time"),
}
broken = pytest.mark.parametrize(("changes", "text"), BROKEN.values(), ids=BROKEN)


@table(
    "headers",
    [{"pipebus-error": "1"}, {"Nats-Msg-Id": "1"}, {"a b": "c"}, {"a": "b\r\nc"}, {"a": 1}, {1: "a"}, {"": "a"}],
    ids=str,
)
def test_headers_made_by_hand_are_checked(headers: dict[Any, Any]) -> None:
    """Nobody can forge the error of a handler: headers with reserved names or bad values are refused where they are made."""
    with pytest.raises(HeaderError):
        Headers(headers)


def test_headers_stay_what_they_are() -> None:
    """Headers cannot be changed by a second `__init__`, and can be copied and pickled like any value."""
    headers = Headers({"a": "b"}, c="d")
    headers.__init__({"pipebus-error": "1"})
    assert dict(headers) == {"a": "b", "c": "d"}
    for same in (copy.copy(headers), copy.deepcopy(headers), pickle.loads(pickle.dumps(headers))):
        assert same == headers
        assert type(same) is Headers


@broken
@pytest.mark.parametrize("way", ["message.replace", "copy.replace"])
def test_replace_checks_like_a_new_message(changes: dict[str, Any], text: str, way: str) -> None:
    """`replace` refuses a copy that is not a valid message; None stands for a new id and the current time."""
    if None in changes.values() and "time" in changes:
        pytest.skip("a time is made")
    if way == "copy.replace" and sys.version_info < (3, 13):
        pytest.skip("copy.replace is new in 3.13")
    with pytest.raises((SubjectError, HeaderError, MessageError), match=text):
        Message("a").replace(**changes) if way == "message.replace" else copy.replace(Message("a"), **changes)  # type: ignore[attr-defined]


@broken
@pytest.mark.parametrize("way", ["send", "asend"])
def test_send_checks_the_message_that_it_is_given(changes: dict[str, Any], text: str, way: str) -> None:
    """msgspec copies a message without a check, so `send` checks it, and refuses a bad one."""
    message = msgspec.structs.replace(Message("a"), **changes)
    with Bus() as bus:
        bus.subscribe(">", lambda m: None, name="all")
        with pytest.raises((SubjectError, HeaderError, MessageError), match=text):
            bus.send(message) if way == "send" else asyncio.run(bus.asend(message))
        assert bus.stats()["subscriptions"]["all"]["accepted"] == 0


def plain(change: Callable[[Message], Message]) -> Any:
    def culprit(message: Message, call_next: Any) -> Any:
        return call_next(change(message))

    return culprit


def async_plain(change: Callable[[Message], Message]) -> Any:
    async def culprit(message: Message, call_next: Any) -> Any:
        return await call_next(change(message))

    return culprit


def transforming(change: Callable[[Message], Message]) -> Any:
    @transform
    def culprit(message: Message) -> Message:
        return change(message)

    return culprit


@broken
@pytest.mark.parametrize("shape", [plain, async_plain, transforming])
@pytest.mark.parametrize("at", ["publish", "delivery"])
@pytest.mark.parametrize("carrier", ["memory:", "memory:?wire=json", "sqlite"])
def test_what_a_filter_hands_on_is_checked(
    changes: dict[str, Any], text: str, shape: Any, at: Any, carrier: str, tmp_path: Path
) -> None:
    """The error names a filter that hands on a copy with a broken field; the subscription handles the next message."""
    seen: list[Any] = []

    @transform
    def innocent(message: Message) -> Message:
        return message

    def change(message: Message) -> Message:
        return msgspec.structs.replace(message, **changes) if message.body == "break" else message

    async def ahandle(message: Message) -> None:
        seen.append(message.body)

    with made(carrier, tmp_path) as bus:
        for one in (innocent, shape(change), innocent):
            bus.use(one, at=at)
        bus.subscribe("a", ahandle if shape is async_plain else lambda m: seen.append(m.body), name="reads")
        with bus:
            if at == "publish":
                with pytest.raises(ContractError, match=f"filter culprit .*{text}"):
                    bus.publish("a", "break")
            else:
                bus.publish("a", "break")
            bus.publish("a", "fine")
            bus.drain(LONG)
            letters = bus.dead_letters.list()
    assert seen == ["fine"]
    if at == "delivery":
        assert ["culprit" in letter.error and text in letter.error for letter in letters] == [True]


@pytest.mark.parametrize("carrier", ["memory:", "sqlite"])
def test_names_of_the_bus_are_refused(carrier: str, tmp_path: Path) -> None:
    """The bus uses these names itself, so subscriptions and actors with such a name are refused, and the error names it."""

    class Named(Actor):
        def on_message(self, message: Message) -> None:
            raise AssertionError

    with made(carrier, tmp_path) as bus:
        for name in ("_replies.x", "_replies.", "publish"):
            with pytest.raises(SubscriptionError, match=rf'"{name}".*choose another'):
                bus.subscribe("a", lambda m: None, name=name)
        for name in ("_replies.x", "publish"):
            with pytest.raises(SubscriptionError, match="choose another"):
                bus.spawn(Named(name))
        assert bus.subscriptions == []
        bus.subscribe("a", lambda m: m.body, name="a")
        with bus:
            assert bus.request("a", 1, timeout=LONG).body == 1

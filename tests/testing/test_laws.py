"""Laws for filters: the built-in ones keep them all, and each wrong filter of the zoo is caught by the law meant for it."""

from __future__ import annotations

import asyncio
import decimal
import threading
from typing import Any

import pytest
import structlog
from pydantic import BaseModel, Field
from zoo import ZOO, Animal

from pipebus import Dropped, Message, Pipeline, PipelineError, Subject, Transform, branch, when
from pipebus.filters import Dedupe, Enrich, Expire, Log, Reroute, Retry, SetHeaders, Tap, Timeout, Validate
from pipebus.testing import LawBroken, check_filter
from pipebus.testing.laws.laws import LAWS


class Order(BaseModel):
    id: int = Field(gt=0)
    sku: str = Field(min_length=1, pattern="^[a-z]+$")
    note: str | None = None


orders = Subject[Order]("orders.new")
NAMES = tuple(law.name for law in LAWS)


def ignore(message: Message) -> None:
    """A function for a tap."""


BUILT_IN: dict[str, tuple[Any, dict[str, Any]]] = {
    "dedupe": (Dedupe(), {}),
    "dedupe-delivery": (Dedupe(window="1m"), {"at": "delivery"}),
    "enrich": (Enrich({"seen": True}), {"messages": orders}),
    "expire": (Expire(60.0), {}),
    "log": (Log(body=True, headers=True), {}),
    "log-delivery": (Log(), {"at": "delivery"}),
    "reroute": (Reroute("sku.{body.sku}"), {"messages": orders}),
    "retry": (Retry(attempts=3), {}),
    "retry-delivery": (Retry(attempts=2, wait=0), {"at": "delivery"}),
    "set-headers": (SetHeaders({"seen": "yes", "id": lambda message: message.id}), {}),
    "tap": (Tap(ignore), {}),
    "timeout": (Timeout(2.0), {}),
    "timeout-abandon": (Timeout("2s", abandon=True), {"at": "delivery"}),
    "validate": (Validate({"orders.>": Order}), {"messages": orders}),
    "chain": (
        Pipeline(Log(), when("orders.>", Validate({">": Order}), SetHeaders({"a": "b"})), branch("audit.>", Tap(ignore))),
        {"messages": [Message(orders, {"id": 1, "sku": "tea"}), Message("audit.seen", {"id": 1})]},
    ),
}


@pytest.mark.parametrize(("filter", "options"), BUILT_IN.values(), ids=BUILT_IN)
@pytest.mark.few(1)
def test_every_built_in_filter_keeps_every_law(filter: Any, options: dict[str, Any]) -> None:
    """Built-in filters have no privilege: they must keep every law that yours must keep."""
    assert check_filter(filter, **options, examples=4) == NAMES


@pytest.mark.parametrize("animal", ZOO.values(), ids=ZOO)
@pytest.mark.thorough
def test_each_wrong_filter_is_caught_by_the_law_meant_for_it(animal: Animal) -> None:
    """The message names the law, says what was found, and what to do."""
    with pytest.raises(LawBroken) as caught:
        check_filter(animal.make, at=animal.at, examples=4)  # type: ignore[arg-type]
    assert caught.value.law == animal.law
    assert f'law "{animal.law}" is broken' in str(caught.value)
    assert animal.says in str(caught.value)


@pytest.mark.parametrize("animal", ZOO.values(), ids=ZOO)
@pytest.mark.thorough
def test_each_wrong_filter_breaks_that_law_alone(animal: Animal) -> None:
    """A filter is broken in one way only: without that law it keeps the others."""
    held = check_filter(animal.make, at=animal.at, skip={animal.law: "the zoo's"}, examples=1)  # type: ignore[arg-type]
    assert held == tuple(name for name in NAMES if name != animal.law)


def test_the_smallest_message_is_shown() -> None:
    """Hypothesis shrinks the message as far as possible, and the filter's story follows."""
    with pytest.raises(LawBroken) as caught:
        check_filter(ZOO["mutator"].make)
    assert caught.value.message is not None
    assert caught.value.message.body == {}
    text = str(caught.value)
    assert "it was {}, and is {'seen': True}" in text
    assert "smallest message: Message('test', {})" in text
    assert "Mutator  is given" in text


def test_a_law_that_is_skipped_needs_a_known_name() -> None:
    """A misspelt name would leave out nothing, and nobody would notice."""
    with pytest.raises(PipelineError, match="there is no law 'lets error through'; there are mutates nothing"):
        check_filter(Log(), skip={"lets error through": "on purpose"})


@pytest.mark.thorough
def test_a_filter_that_lets_nothing_through_was_not_tried() -> None:
    """A filter that refuses every message keeps no law."""
    with pytest.raises(LawBroken, match="no message came through to the rest, so most laws were not tried"):
        check_filter(Validate({">": Order}), examples=5)
    assert check_filter(Validate({">": Order}), examples=5, skip={"is tried": "everything is refused here"}) == NAMES


class Serial:
    """One at a time, by a lock of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, message: Message, call_next: Any) -> Any:
        with self.lock:
            return call_next(message)


class Bulkhead(Transform):
    """Lets one through at a time, and says that it may drop."""

    may_drop = True

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def transform(self, message: Message) -> Message | Dropped:
        if message.id in self.seen:
            return Dropped("seen")
        self.seen.add(message.id)
        return message


def with_structlog(message: Message, call_next: Any) -> Any:
    with structlog.contextvars.bound_contextvars(id=message.id):
        return call_next(message)


def with_decimal(message: Message, call_next: Any) -> Any:
    return call_next(message.with_headers(third=str(decimal.Decimal(1) / 3)))


async def with_await(message: Message, call_next: Any) -> Any:
    await asyncio.sleep(0.2)
    return await call_next(message)


@pytest.mark.parametrize(
    "make",
    [Serial, Bulkhead, lambda: with_structlog, lambda: with_decimal, lambda: with_await],
    ids=["lock", "memory", "structlog", "decimal", "await"],
)
@pytest.mark.thorough
def test_no_law_complains_of_a_filter_that_is_right(make: Any) -> None:
    """Locks, memories, restored context variables and waits break no law."""
    assert check_filter(make, examples=4) == NAMES


@pytest.mark.thorough
def test_a_filter_inside_that_no_message_comes_to_was_not_tried() -> None:
    """A detour that is never taken proves nothing about the filters in it."""
    with pytest.raises(LawBroken, match="no message came to Mutator, so it was not tried"):
        check_filter(when("orders.>", ZOO["mutator"].make()), examples=3)


def test_messages_of_a_list_are_left_as_they_are() -> None:
    """A filter that writes into messages changes only copies of them."""
    message = Message("test", {"id": 1})
    with pytest.raises(LawBroken, match="mutates nothing"):
        check_filter(ZOO["mutator"].make, [message])
    assert message.body == {"id": 1}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"examples": 0}, "examples=0"),
        ({"skip": ["describes itself"]}, "it is a mapping, of laws to reasons"),
        ({"skip": {"describes itself": ""}}, "say why, in a text"),
        ({"messages": 5}, "messages=5: it is a Subject"),
    ],
    ids=["examples", "skip", "reason", "messages"],
)
def test_wrong_arguments_are_told(options: dict[str, Any], says: str) -> None:
    """The error names the argument, what was found and what it takes."""
    with pytest.raises(PipelineError, match=says):
        check_filter(Log(), **options)


@pytest.mark.thorough
def test_messages_may_be_given() -> None:
    """A given list is tried completely, without hypothesis."""
    assert check_filter(Validate({">": Order}), [Message("test", {"id": 1, "sku": "tea"}), {"id": 2, "sku": "x"}]) == NAMES

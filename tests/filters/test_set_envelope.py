"""SetEnvelope: key, id and time to live from what a message says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipebus import Bus, Dropped, Message, PipebusError, Receipt, Rejected
from pipebus.filters import Dedupe, Expire, SetEnvelope
from pipebus.testing import Harness, check_filter, run_filter
from pipebus.testing.laws.laws import LAWS
from pipebus.values.expressions import Expression
from tables import table
from values_helpers import named


def test_key_id_and_ttl_come_from_expressions(colour: Any, at: Any) -> None:
    """Numbers become texts, as in headers; a time to live may have a unit."""
    filter = SetEnvelope(key=Expression("body.customer"), id=Expression("body.number"), ttl=Expression("headers.ttl"))
    sent = Message("orders.created", {"customer": 7, "number": "n-1"}, headers={"ttl": "5s"})
    message = run_filter(filter, sent, colour=colour, at=at).forwarded
    assert (message.key, message.id, message.ttl) == ("7", "n-1", 5.0)
    assert (message.subject, message.body, message.time) == (sent.subject, sent.body, sent.time)


def test_fixed_values_are_set_too() -> None:
    """A fixed key or time to live replaces the message's own; what is not named stays."""
    message = SetEnvelope(key="all", ttl="1m").transform(Message("a", key="own", ttl=5.0, id="m"))
    assert (message.key, message.ttl, message.id) == ("all", 60.0, "m")


def test_an_expression_can_keep_what_is_there() -> None:
    """The expression `key || …` fills a gap only."""
    fill = SetEnvelope(key=Expression("key || body.customer"))
    assert fill.transform(Message("a", {"customer": "c"}, key="own")).key == "own"
    assert fill.transform(Message("a", {"customer": "c"})).key == "c"


def test_what_it_sets_counts_for_the_filters_after_it(harness: Harness) -> None:
    """A duplicate is recognised by the id from the body, and a message expires by the time to live from its body."""
    harness.bus.use(SetEnvelope(id=Expression("body.id"), ttl=Expression("body.ttl")), Dedupe(), Expire("1d"))
    bus = harness.start()
    bus.subscribe("a", name="inbox")
    body = {"id": 1, "ttl": 5}
    assert bus.publish("a", body) == Receipt(1)
    assert bus.publish("a", body) == Dropped("duplicate", "Dedupe")
    late = Message("a", {"id": 2, "ttl": 5}, time=harness.clock.now() - 6)
    assert bus.send(late) == Dropped("expired", "Expire")


@table(
    ("settings", "says"),
    [
        ({"key": lambda message: None}, "key: there is no value"),
        ({"key": lambda message: ""}, "key: there is no value"),
        ({"key": lambda message: ["x"]}, "key: it is a list, not text"),
        ({"id": lambda message: "two\nlines"}, "id contains"),
        ({"id": lambda message: None}, "id: there is no value"),
        ({"ttl": lambda message: None}, "ttl: there is no value"),
        ({"ttl": lambda message: 0}, "ttl: it is not a number of seconds greater than 0"),
        ({"ttl": lambda message: "soon"}, "ttl: it is not a number"),
        ({"ttl": lambda message: True}, "ttl: it is not a number"),
    ],
    ids=named,
)
def test_what_cannot_be_set_refuses_the_message(settings: Any, says: str) -> None:
    """A message without its key could overtake another, so it is refused, with a reason that does not show the value."""
    run = run_filter(SetEnvelope(**settings), Message("a"))
    assert isinstance(run.error, Rejected)
    assert says in str(run.error)
    assert "soon" not in str(run.error)
    assert run.next_calls == 0


async def asynchronous(message: Message) -> str:
    return "x"


@table(
    ("settings", "says"),
    [
        ({}, "nothing to do"),
        ({"key": 5}, "SetEnvelope.key=5"),
        ({"key": "a\0"}, "key"),
        ({"key": asynchronous}, "is async"),
        ({"id": "always the same"}, "all but the first would be duplicates"),
        ({"ttl": 0}, "SetEnvelope.ttl"),
        ({"ttl": "5 parsecs"}, "unknown unit"),
    ],
    ids=named,
)
def test_wrong_settings_are_refused_where_they_are_written(settings: Any, says: str) -> None:
    """The error names the setting, and is raised before the first message."""
    with pytest.raises(PipebusError) as caught:
        SetEnvelope(**settings)
    assert says in str(caught.value)


def test_a_file_can_use_it(harness: Harness, tmp_path: Path) -> None:
    """In a config file, each setting is an expression or a fixed value."""
    path = tmp_path / "bus.toml"
    settings = 'key = { expr = "body.customer" }, id = { expr = "body.id" }, ttl = "5s"'
    path.write_text(f'version = 1\n[[pipelines]]\nfilters = [{{ use = "set_envelope", {settings} }}]\n')
    bus = harness.start(Bus.from_config(path))
    inbox = bus.subscribe("a", name="inbox")
    bus.publish("a", {"customer": "c", "id": 1})
    message = inbox.receive(timeout=1.0)
    assert (message.key, message.id, message.ttl) == ("c", "1", 5.0)


@pytest.mark.thorough
def test_it_keeps_every_law() -> None:
    """SetEnvelope keeps the laws that every filter must keep."""
    held = check_filter(SetEnvelope(key="k", ttl=5.0), examples=3)
    assert {law.name for law in LAWS}.difference(held) <= {"keeps its word"}

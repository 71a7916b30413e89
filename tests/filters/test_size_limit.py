"""SizeLimit: a message that would take too many bytes is refused before anybody stores, logs or shows it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signing_helpers import messages

from pipebus import Bus, CodecError, Message, MessageTooLarge, PipelineError, Ref, Rejected, UnsupportedCapability
from pipebus.bus.bus import engine_of
from pipebus.filters import Retry, SizeLimit
from pipebus.message.codec import JsonCodec
from pipebus.testing import Harness, check_filter, run_filter
from pipebus.testing.laws.laws import LAWS
from scale_helpers import examples
from tables import table
from values_helpers import CALM, named

LONE = "\ud800"
"""No UTF-8 can hold it."""


def passes(limit: Any, message: Message[Any]) -> bool:
    try:
        assert SizeLimit(limit).transform(message) is message
    except Rejected:
        return False
    return True


@st.composite
def bodies(draw: Any) -> Any:
    """Bodies whose size a glance may find, wrongly or not."""
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text("x\n", min_size=40, max_size=90)
    inside = texts | texts.map(str.encode) | st.integers()
    wide = st.integers(95, 105).flatmap(lambda length: st.lists(st.just(draw(inside)), min_size=length, max_size=length))
    tables = st.dictionaries(st.text(max_size=3), inside, max_size=5)
    return draw(texts | st.binary(max_size=90) | st.lists(inside, max_size=4) | wide | tables)


@given(messages, st.none() | bodies())
@settings(CALM, max_examples=examples(80, 2_000))
def test_what_counts_is_the_encoded_message(message: Message[Any], body: Any) -> None:
    """A message passes a limit of its own size and no smaller one, whatever its body is; the bus measures the same."""
    message = message if body is None else message.with_body(body)
    size = len(JsonCodec().encode(message))
    assert passes(size, message)
    assert not passes(size - 1, message)
    assert engine_of(Bus(max_message_bytes=size)).encode(JsonCodec(), message)
    with pytest.raises(MessageTooLarge):
        engine_of(Bus(max_message_bytes=size - 1)).encode(JsonCodec(), message)


@table(
    "body",
    [b"x" * 5000, "x" * 5000, [0] * 5000, ["x" * 50] * 90, dict.fromkeys(range(5000), 0), {"a": ["x" * 5000], "b": "y" * 5000}],
    ids=lambda body: type(body).__name__,
)
def test_a_glance_refuses_nothing_that_fits(body: Any) -> None:
    """A large message passes a limit of its own size, too, whatever it consists of."""
    message = Message("a", body)
    assert passes(len(JsonCodec().encode(message)), message)


def test_a_refusal_is_counted_under_one_reason(harness: Harness, colour: Any) -> None:
    """The reason names the limit, and nothing of the message."""
    run = run_filter(SizeLimit("1KiB"), Message("a", "x" * 2000), colour=colour)
    assert isinstance(run.error, Rejected)
    assert (run.error.reasons, run.next_calls) == (("larger than 1,024 bytes",), 0)
    bus = harness.bus
    bus.use(Retry(attempts=3, wait=0.0), SizeLimit(1000))
    inbox = bus.subscribe("a")
    harness.start()
    for length in (1000, 10, 5000):
        with suppress(Rejected):
            bus.publish("a", ["x" * length])
    assert bus.stats()["rejected"] == {"SizeLimit": {"larger than 1,000 bytes": 2}}
    assert inbox.stats()["pending"] == 1


@table(
    "body",
    [
        "\ud800" * 100,
        b"x" * 75,
        ["\ud800" * 60, "\ud800" * 60],
        {"a": "\ud800" * 101},
        [object()] * 101,
        {n: object() for n in range(101)},
    ],
    ids=lambda body: type(body).__name__,
)
def test_what_is_too_large_at_a_glance_is_not_written(body: Any) -> None:
    """None of these bodies could be written as JSON, apart from the bytes; nobody tries to."""
    with pytest.raises(Rejected, match="larger than 99 bytes"):
        SizeLimit(99).transform(Message("a", body))


def test_what_has_no_size_does_not_pass() -> None:
    """An object that cannot be written, or an address that is an object, is an error."""
    for once in (iter([1]), (n for n in [1]), map(str, [1])):
        with pytest.raises(CodecError, match=r"can be read once only.*publish a list"):
            SizeLimit(1024).transform(Message("a", once))
        assert len(list(once)) == 1
    with pytest.raises(CodecError):
        SizeLimit("1MB").transform(Message("a", [object()]))
    with pytest.raises(UnsupportedCapability):
        SizeLimit("1MB").transform(Message(Ref(object()), 1))


@table(
    ("given", "says"),
    [
        (0, "SizeLimit.bytes=0: it is a whole number of bytes, at least 1"),
        (-5, "SizeLimit.bytes=-5"),
        (1.5, "SizeLimit.bytes=1.5"),
        ("1 MIB", "unknown unit"),
        ("much", "SizeLimit.bytes='much'"),
        (True, "SizeLimit.bytes=True"),
        (None, "SizeLimit.bytes=None"),
    ],
    ids=named,
)
def test_wrong_settings_are_refused_where_they_are_written(given: Any, says: str) -> None:
    """The error names the setting, what was found, and what to write."""
    with pytest.raises(PipelineError) as caught:
        SizeLimit(given)
    assert says in str(caught.value)


def test_a_size_may_be_a_text() -> None:
    assert (SizeLimit("1MiB").bytes, SizeLimit("64kB").bytes, SizeLimit(5).bytes) == (2**20, 64_000, 5)


@pytest.mark.thorough
def test_it_keeps_every_law() -> None:
    """SizeLimit keeps the laws that every filter must keep."""
    held = check_filter(SizeLimit(300), examples=3)
    assert {law.name for law in LAWS}.difference(held) <= {"keeps its word"}

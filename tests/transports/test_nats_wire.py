"""Whatever stands on the wire: a message, or bytes for a dead letter, and never an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("nats")

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pipebus import Message
from pipebus.codec import JsonCodec
from pipebus.errors import CodecError
from pipebus.message import check_headers
from pipebus.testing import strategies
from pipebus.transports.nats import wire

KINDS = ("application/cloudevents+json", "application/json", "text/plain; charset=latin-1", "x/y+json", "", ";", "nonsense")
NAMES = (
    "content-type", "Content-Type", "ce-specversion", "ce_specversion", "ce-id", "ce-time", "ce-type", "ce-partitionkey",
    "Pipebus-Version", "Pipebus-Origin", "Nats-Msg-Id", "correlation_id", "Status", "x-tenant", "pipebus-x", "a b", "",
)  # fmt: skip
ENVELOPE = JsonCodec().encode(Message("a", {"n": [1, "ü"]}, headers={"h": "v"}, id="m", key="k", ttl=5.0))

texts = st.one_of(st.sampled_from([*KINDS, "1.0", "2026-01-02T03:04:05Z", "%ff", "%00", "m"]), st.text(max_size=20))
headers = st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=10)), texts, max_size=6)
events = st.dictionaries(
    st.sampled_from(["specversion", "id", "type", "source", "time", "data", "data_base64", "pipebusversion", "partitionkey"]),
    st.one_of(texts, st.integers(), st.none(), st.just("1.0"), st.lists(st.integers(), max_size=2), st.booleans()),
)


@st.composite
def mutated(draw: Any) -> bytes:
    """Our own bytes with some of them changed, left out or repeated."""
    data = bytearray(ENVELOPE)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        data[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


bodies = st.one_of(st.binary(max_size=60), mutated(), events.map(lambda one: json.dumps(one).encode()), st.just(ENVELOPE))


def judge(data: bytes, found_headers: dict[str, str]) -> None:
    found = wire.decode("orders.new", data, found_headers, "S:1", 1_700_000_000.0)
    if isinstance(found, bytes):
        assert found == data
        try:
            found = JsonCodec().decode(found)
        except CodecError:
            return
    assert isinstance(found, Message)
    check_headers(dict(found.headers))  # no header that nobody could have set
    assert found.id
    JsonCodec().encode(found)  # it can be published on


@given(bodies, headers)
@settings(max_examples=1500, deadline=None)
def test_any_frame_is_a_message_or_bytes(data: bytes, found: dict[str, str]) -> None:
    """Random bodies and headers, and ours with faults in them."""
    judge(data, found)


@pytest.mark.chaos
@pytest.mark.parametrize("part", range(10))
def test_a_hundred_thousand_frames(part: int) -> None:
    """The same for long, in parts that are not alike."""

    @seed(part)
    @given(bodies, headers)
    @settings(max_examples=10_000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def run(data: bytes, found: dict[str, str]) -> None:
        judge(data, found)

    run()


@given(strategies.messages())
@settings(max_examples=300, deadline=None)
def test_what_we_write_is_read_as_it_was(message: Message) -> None:
    """The headers beside the bytes are plain, and change nothing."""
    data = JsonCodec().encode(message)
    beside = wire.headers_of(message)
    assert all(name.isascii() and value.isascii() and value == value.strip() and value for name, value in beside.items())
    assert wire.decode(str(message.subject), data, beside, "S:1", 1.0) == data


@given(st.text(min_size=1), st.text(min_size=1))
def test_ids_stay_different_on_the_server(one: str, other: str) -> None:
    """As headers they may be trimmed; so what is not plain is hashed."""
    try:
        found, second = wire.message_id(one), wire.message_id(other)
    except UnicodeEncodeError:
        return  # half of a surrogate pair: no message has such an id
    assert (found == second) == (one == other)
    assert found.isascii()
    assert found.isprintable()
    assert found == found.strip()

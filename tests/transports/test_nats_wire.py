"""Any data on the wire becomes a message, or bytes for a dead letter, and never raises an error."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

pytest.importorskip("nats")

from hypothesis import given, settings
from hypothesis import strategies as st

from pipebus import Message
from pipebus.errors import CodecError
from pipebus.message.codec import JsonCodec
from pipebus.message.headers import check_headers
from pipebus.testing.laws import strategies
from pipebus.transports.nats import wire
from scale_helpers import examples
from tables import table

KINDS = ("application/cloudevents+json", "application/json", "text/plain; charset=latin-1", "x/y+json", "", ";", "nonsense")
NAMES = (
    "content-type", "Content-Type", "ce-specversion", "ce_specversion", "ce-id", "ce-time", "ce-type", "ce-partitionkey",
    "ce-pipebusheaders", "ce-pipebusttl", "Pipebus-Version", "Pipebus-Origin", "Nats-Msg-Id", "correlation_id", "Status",
    "x-tenant", "pipebus-x", "a b", "",
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


subjects = st.one_of(
    st.sampled_from(["orders.new", "_reply.x", "$SYS.x", "a..b", "a b", "*", ">", "", "x" * 4000]),
    st.text(max_size=12),
)


def judge(subject: str, data: bytes, found_headers: dict[str, str]) -> None:
    found = wire.decode(subject, data, found_headers, "S:1", 1_700_000_000.0)
    if isinstance(found, bytes):
        if not any(name.lower() == "ce-specversion" for name in found_headers):
            assert found == data
        try:
            found = JsonCodec().decode(found)
        except CodecError:
            return
    assert isinstance(found, Message)
    check_headers(dict(found.headers))  # no header that nobody could have set
    assert found.id
    JsonCodec().encode(found)  # it can be published on


@given(subjects, bodies, headers)
@settings(max_examples=examples(30, 500), deadline=None)
def test_any_frame_is_a_message_or_bytes(subject: str, data: bytes, found: dict[str, str]) -> None:
    """Random frames, and our own frames with faults, are both read."""
    judge(subject, data, found)


SAMPLES = (
    b"", b"{", b"[1, 2", b"null", b"\xff\xfe", b'"text"', b'{"specversion":"1.0","type":"t"}', b"x" * 3000, ENVELOPE,
    b'{"specversion":"1.0","id":"m","type":"t","data_base64":"AAA"}', b"[" * 5000, b'{"a":' * 3000, b"\x80" * 9, b"NaN",
)  # fmt: skip


def random_frame(source: random.Random) -> tuple[str, bytes, dict[str, str]]:
    """Cheaper than a strategy, for very many: subject, data and headers of all kinds, and ours with faults in them."""
    data = bytearray(source.choice(SAMPLES) if source.random() < 0.5 else ENVELOPE)
    for _ in range(source.randrange(4)):
        place = source.randrange(len(data) + 1)
        data[place : place + source.randrange(4)] = source.randbytes(source.randrange(4))
    names = [source.choice(NAMES) if source.random() < 0.8 else some_text(source) for _ in range(source.randrange(6))]
    values = (*KINDS, "1.0", "2026-01-02T03:04:05Z", "%ff", "%00", "m", "1", '{"h":"v"}', "_INBOX.x", "[" * 3000)
    found = {name: source.choice(values) if source.random() < 0.8 else some_text(source) for name in names}
    subject = source.choice(("orders.new", "_reply.x", "$SYS.x", "a..b", "*", "", "x" * 4000, some_text(source)))
    return subject, bytes(data), found


def some_text(source: random.Random) -> str:
    return "".join(chr(source.choice((*range(128), 0xE4, 0x1F600, 0x2028))) for _ in range(source.randrange(12)))


@pytest.mark.thorough
def test_a_hundred_thousand_frames() -> None:
    """The same holds for many random frames."""
    source = random.Random(7)
    for _ in range(100_000):
        judge(*random_frame(source))


@given(strategies.messages(), st.booleans())
@settings(max_examples=examples(20, 250), deadline=None)
def test_what_we_write_is_read_as_it_was(message: Message, binary: bool) -> None:
    """The message comes back in either mode, and the headers next to the bytes are plain ASCII."""
    encoded = JsonCodec().encode(message)
    data, beside = wire.written(message, encoded, binary)
    assert all(name.isascii() and value.isascii() and value == value.strip() and value for name, value in beside.items())
    found = wire.decode(str(message.subject), data, beside, "S:1", 1.0)
    assert isinstance(found, bytes)
    assert JsonCodec().decode(found) == JsonCodec().decode(encoded)


@table(
    ("body", "kind", "data"),
    [
        ({"größe": 1}, "application/json", '{"größe":1}'.encode()),
        ("text", "application/json", b'"text"'),
        (b"\x00\xff", "application/octet-stream", b"\x00\xff"),
        (b"", "application/octet-stream", b""),
        (None, None, b""),
    ],
)
def test_in_binary_mode_the_data_are_the_body(body: Any, kind: str | None, data: bytes) -> None:
    """Nothing else is needed to read it; the attributes are headers, escaped as CloudEvents over HTTP have them."""
    message = Message("orders.new", body, headers={"größe": 'ü"%', "n": "v"}, key="k é", id="m 1", ttl=2.5)
    found, beside = wire.written(message, JsonCodec().encode(message), True)
    assert (found, beside.get("content-type")) == (data, kind)
    assert (beside["ce-id"], beside["ce-type"], beside["ce-partitionkey"]) == ("m%201", "orders.new", "k%20%C3%A9")
    assert (beside["n"], "größe" in beside) == ("v", False)


def test_a_body_that_says_more_than_a_body_changes_nothing_else() -> None:
    """A program that writes to the server may forge anything, but not through the body alone."""
    message = Message("orders.new", 1, id="m")
    _, beside = wire.written(message, JsonCodec().encode(message), True)
    found = wire.decode("orders.new", b'1,"id":"forged","partitionkey":"x"', beside, "S:1", 1.0)
    assert isinstance(found, bytes)
    assert JsonCodec().decode(found).id == "m"


@given(st.text(min_size=1), st.text(min_size=1))
def test_ids_stay_different_on_the_server(one: str, other: str) -> None:
    """The server may trim ids because they are headers, so an id that is not plain is hashed."""
    try:
        found, second = wire.message_id(one), wire.message_id(other)
    except UnicodeEncodeError:
        return  # half of a surrogate pair: no message has such an id
    assert (found == second) == (one == other)
    assert found.isascii()
    assert found.isprintable()
    assert found == found.strip()

"""Sign: a signature is good for what the wire carries, in every process, and for nothing else."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import hashlib
import hmac
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretBytes, SecretStr
from signing_helpers import KEY, messages, names, signed

from missing import needs
from pipebus import Bus, CodecError, ConfigError, Message, PipelineError, Ref, UnsupportedCapability
from pipebus.filters import Sign
from pipebus.filters.signing import canonical, genuine
from pipebus.message.codec import JsonCodec
from pipebus.message.headers import frozen_headers
from pipebus.testing import check_filter, run_filter
from pipebus.testing.laws.laws import LAWS
from scale_helpers import examples
from tables import table
from values_helpers import CALM, named

CODEC = JsonCodec()
MODES = ["structured", "binary"]


def over_nats(message: Message[Any], mode: str) -> Message[Any]:
    """The message as a program receives it from a server of NATS."""
    needs("nats")
    from pipebus.transports.nats import wire

    data, headers = wire.written(message, CODEC.encode(message), mode == "binary")
    found = wire.decode(str(message.subject), data, headers, "other", 0.0)
    return found if isinstance(found, Message) else CODEC.decode(found)


# --- what is signed -----------------------------------------------------------------------------------------------------


@given(messages, st.none() | st.lists(names))
@settings(CALM, max_examples=examples(60, 2_000))
def test_a_signature_is_good_behind_every_wire(message: Message[Any], chosen: list[str] | None) -> None:
    """What a store or a server has carried is still genuine, and carries on being so the second time."""
    sent = Sign(KEY, chosen).transform(message)
    arrived = CODEC.decode(CODEC.encode(sent))
    for one in (sent, arrived, CODEC.decode(CODEC.encode(arrived)), *(over_nats(sent, mode) for mode in MODES)):
        assert genuine(one, [SecretStr(KEY)], chosen)
        assert canonical(one, chosen) == canonical(message, chosen)


def essence(message: Message[Any]) -> str:
    """What the wire carries of a message and a signature covers, as text."""
    wire = json.loads(CODEC.encode(message))
    for name in ("correlationid", "causationid"):
        wire.pop(name, None)
    wire["pipebusheaders"] = json.loads(wire.get("pipebusheaders", "{}"))
    return json.dumps(wire, sort_keys=True)


@given(messages, st.data())
@settings(CALM, max_examples=examples(60, 2_000))
def test_equal_wires_have_equal_signatures_and_others_have_not(one: Message[Any], data: st.DataObject) -> None:
    """Two messages have the same signature exactly if the wire carries the same for both of them."""
    fields = data.draw(st.sets(st.sampled_from(Message.__struct_fields__), max_size=2))
    drawn = data.draw(messages)
    other = one.replace(**{name: getattr(drawn, name) for name in fields})
    assert (canonical(one, None) == canonical(other, None)) == (essence(one) == essence(other))


class Colour(enum.Enum):
    RED = "red"


class Card(BaseModel):
    number: int = 4111
    due: datetime.date = datetime.date(2027, 1, 31)


@dataclasses.dataclass
class Plain:
    b: tuple[int, ...] = (1, 2)
    a: float = 1e16


MOMENT = datetime.datetime(2026, 12, 2, 9, 30, 0, 5, datetime.UTC)


@table(
    "body",
    [
        None, True, 1, 1.0, -0.0, 1e16, 1e22, 5e-324, 2**70, float("nan"), float("-inf"), "", "größe 😀", b"", b"\xff\x00",
        bytearray(b"ab"), memoryview(b"ab"), {}, [], {"b": 1, "a": {"d": 1, "c": 2}}, {1: "a", None: "b", 2.5: "c"}, (1, (2,)),
        Card(), Plain(), [Card()], {"at": MOMENT}, decimal.Decimal("1.10"), uuid.UUID(int=7), Colour.RED,
        datetime.timedelta(days=1), {b"k": b"v"}, {"set": {1}},
    ],
    ids=repr,
)  # fmt: skip
def test_a_body_is_signed_as_the_codec_writes_it(body: Any) -> None:
    """Models, times and other objects are signed in the form in which they are read back."""
    for one in (sent := signed(body), CODEC.decode(CODEC.encode(sent))):
        assert genuine(one, [SecretStr(KEY)], None)


def by_a_foreign_program(key: bytes, message: dict[str, Any]) -> str:
    """The signature of a message, by a program that knows only what the documentation says."""
    body, form = message.get("body"), "json"
    if isinstance(body, bytes):
        body, form = base64.b64encode(body).decode(), "bytes"
    envelope = [message.get(name) for name in ("id", "subject", "time", "key", "ttl", "reply_to")]
    text = json.dumps(["pipebus 1", *envelope, form, body, message.get("headers", {})], sort_keys=True, separators=(",", ":"))
    return "v1=" + hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def test_the_signature_is_the_one_that_is_documented() -> None:
    """A program that was written by the documentation makes the same signature; and it is this one, in all versions."""
    sent = Message(
        "orders.new", {"b": [1, 2.5, None], "a": "größe"}, {"tenant": "acme"},
        id="m-1", time=1_764_667_800.25, key="c-1", ttl=5, reply_to="answers",
    )  # fmt: skip
    theirs = {
        "id": "m-1", "subject": "orders.new", "time": "2025-12-02T09:30:00.250000+00:00", "key": "c-1", "ttl": 5.0,
        "reply_to": "answers", "body": {"a": "größe", "b": [1, 2.5, None]}, "headers": {"tenant": "acme"},
    }  # fmt: skip
    found = Sign(KEY).transform(sent).headers["signature"]
    assert found == by_a_foreign_program(KEY.encode(), theirs)
    assert found == "v1=92b577e79d66a00dd31bfc44ac6673d38a38b5b90922800e7c6285aee42c9d8e"
    ours = Sign(b"\xff" * 16).transform(Message("a", b"\x00\xff", id="m", time=0)).headers["signature"]
    theirs = {"id": "m", "subject": "a", "time": "1970-01-01T00:00:00+00:00", "body": b"\x00\xff"}
    assert ours == by_a_foreign_program(b"\xff" * 16, theirs)


# --- headers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["traceparent", "tracestate", "baggage", "pipebus-hops", "pipebus-slot"])
def test_what_is_added_on_the_way_does_not_spoil_a_signature(name: str) -> None:
    """Telemetry adds the trace context, and the bus the count of hops, after a message has been signed."""
    sent = signed({"n": 1}, headers={"tenant": "acme"})
    later = sent.replace(headers=frozen_headers({**sent.headers, name: "1"}))
    assert genuine(later, [SecretStr(KEY)], None)


def test_that_a_reply_is_an_error_is_signed() -> None:
    """The bus's mark of a reply that reports an error cannot be taken away."""
    error = Message("a", {"type": "E", "text": "t"}).replace(headers=frozen_headers({"pipebus-error": "1"}))
    sent = Sign(KEY).transform(error)
    assert not genuine(sent.replace(headers={"signature": sent.headers["signature"]}), [SecretStr(KEY)], None)


def test_with_names_only_these_headers_count() -> None:
    """A header that is named may not be added, removed or changed; others may."""
    keys, named_ = [SecretStr(KEY)], ["tenant", "region"]
    sent = Sign(KEY, named_).transform(Message("a", headers={"tenant": "acme", "via": "x"}))
    assert genuine(sent.with_headers(via="y", other="z"), keys, named_)
    for headers in ({"tenant": "evil"}, {"region": "eu"}, {"region": ""}):
        assert not genuine(sent.with_headers(headers), keys, named_)
    without = {name: value for name, value in sent.headers.items() if name != "tenant"}
    assert not genuine(sent.replace(headers=without), keys, named_)
    assert not genuine(sent, keys, ["tenant"])


def test_no_header_counts_if_none_is_named() -> None:
    """An empty list leaves all headers out."""
    sent = Sign(KEY, []).transform(Message("a", headers={"tenant": "acme"}))
    assert genuine(sent.with_headers(tenant="other"), [SecretStr(KEY)], [])


# --- the filter ---------------------------------------------------------------------------------------------------------


def test_nothing_else_of_the_message_changes(colour: Any, at: Any) -> None:
    """One header is added, of a fixed length."""
    message = Message("a", {"n": 1}, headers={"tenant": "acme"}, key="k", ttl=5.0)
    forwarded = run_filter(Sign(KEY), message, colour=colour, at=at).forwarded
    assert forwarded == message.with_headers(signature=forwarded.headers["signature"])  # type: ignore[union-attr]
    assert len(forwarded.headers["signature"]) == 67  # type: ignore[union-attr]


def test_a_message_that_has_a_signature_gets_a_new_one() -> None:
    """What is passed on has the signature of the one who passes it on, whatever it had before."""
    once = signed(1)
    other = Sign("another key, of 16 bytes or more").transform(once)
    assert other.headers != once.headers
    assert Sign(KEY).transform(other) == once
    assert Sign(KEY).transform(once.with_headers(signature="v1=nonsense")) == once


def test_what_cannot_be_written_cannot_be_signed() -> None:
    """An object without a form on the wire, or an address that is an object, is an error, and not passed on unsigned."""
    once = iter([1])
    with pytest.raises(CodecError, match=r"body \(list_iterator\) can be read once only.*publish a list"):
        Sign(KEY).transform(Message("a", once))
    assert list(once) == [1]
    with pytest.raises(CodecError, match=r"body \(object\) cannot be written as JSON"):
        signed(object())
    nested: Any = []
    for _ in range(300):
        nested = [nested]
    with pytest.raises(CodecError):
        signed(nested)
    with pytest.raises(CodecError):
        signed(10**5000)
    with pytest.raises(UnsupportedCapability, match="signature"):
        Sign(KEY).transform(Message(Ref(object()), 1))


# --- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, KEY.encode(), SecretStr(KEY), SecretBytes(KEY.encode())], ids=repr)
def test_a_key_is_text_or_bytes(key: Any) -> None:
    """All forms of the same key make the same signature, and none shows it."""
    filter = Sign(key)
    assert filter.transform(Message("a", 1, id="m", time=0.0)) == signed(1, id="m", time=0.0)
    assert "0123" not in repr(filter)


@table(
    ("given", "says"),
    [
        ({"key": ""}, "Sign.key: it has fewer than 16 bytes; make one with `python"),
        ({"key": "hunter2-hunter2"}, "fewer than 16 bytes"),
        ({"key": b"hunter2-hunter2"}, "fewer than 16 bytes"),
        ({"key": SecretStr("hunter2-hunter2")}, "fewer than 16 bytes"),
        ({"key": None}, "Sign.key: it is a text, bytes or a SecretStr, found NoneType"),
        ({"key": 1234567890123456}, "found int"),
        ({"key": ["hunter2-hunter2-hunter2"]}, "found list"),
        ({"key": "hunter2\ud800-hunter2-hunter2"}, "lone surrogate"),
        ({"key": KEY, "headers": "tenant"}, "Sign.headers='tenant': it is a list of names"),
        ({"key": KEY, "headers": [5]}, "header's name is a string"),
        ({"key": KEY, "headers": [[]]}, "Sign.headers="),
        ({"key": KEY, "headers": ["two words"]}, "two words"),
        ({"key": KEY, "headers": ["Nats-Msg-Id"]}, "is reserved"),
        ({"key": KEY, "headers": ["signature"]}, "cannot sign itself"),
    ],
    ids=named,
)
def test_wrong_settings_are_refused_where_they_are_written(given: dict[str, Any], says: str) -> None:
    """The error says what to write, and never shows the key."""
    with pytest.raises(PipelineError) as caught:
        Sign(**given)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "345678" not in str(caught.value)


def test_no_description_shows_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A description hides it, a file that is written refuses it, and a file that names its source keeps the name."""
    bus = Bus()
    bus.use(Sign(KEY, ["tenant"]))
    assert bus.describe()["publish"][0]["settings"] == {"key": "**********", "headers": ["tenant"]}
    with pytest.raises(ConfigError, match="SecretStr"):
        bus.export_config()
    assert "0123" not in str(bus.explain("a"))

    monkeypatch.setenv("SIGNING_KEY", KEY)
    path = tmp_path / "bus.toml"
    path.write_text('version = 1\n[[pipelines]]\nfilters = [{ use = "sign", key = "${env:SIGNING_KEY}", headers = ["a"] }]\n')
    bus = Bus.from_config(path)
    assert 'key = "${env:SIGNING_KEY}"' in bus.export_config()
    assert bus.describe()["publish"][0]["settings"]["key"] == "${env:SIGNING_KEY}"
    monkeypatch.setenv("SIGNING_KEY", "hunter2-hunter2")
    with pytest.raises(ConfigError) as caught:
        Bus.from_config(path)
    assert "bus.toml:3" in str(caught.value)
    assert "fewer than 16 bytes" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.thorough
def test_it_keeps_every_law() -> None:
    """Sign keeps the laws that every filter must keep."""
    held = check_filter(Sign(KEY), examples=3)
    assert {law.name for law in LAWS}.difference(held) <= {"keeps its word"}

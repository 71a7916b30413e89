"""Message and bytes: what is written can be read back, and an error reports bytes that are not a message."""

from __future__ import annotations

import base64
import json
import math
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from pipebus import Bus, CodecError, Message, PipebusError, Ref, Subject, UnsupportedCapability
from pipebus.message.codec import JsonCodec
from scale_helpers import examples
from tables import table
from values_helpers import CALM

CODEC = JsonCodec()


def there_and_back(message: Message[Any]) -> Message[Any]:
    return CODEC.decode(CODEC.encode(message))


def full(**changes: Any) -> Message[Any]:
    """A message with nothing left at its default."""
    fields: dict[str, Any] = {
        "subject": "orders.created",
        "body": {"id": 1},
        "headers": {"trace": "7"},
        "key": "customer-1",
        "ttl": 60.0,
        "reply_to": "orders.replies",
        "correlation_id": "c-1",
        "id": "m-1",
        "time": 1_357_000_000.25,
    }
    return Message(**{**fields, **changes})


WIRE: dict[str, Any] = {
    "specversion": "1.0",
    "id": "m-1",
    "source": "pipebus",
    "type": "orders.created",
    "time": "2013-01-01T00:26:40.250000+00:00",
    "pipebusversion": 1,
    "partitionkey": "customer-1",
    "pipebusttl": "60.0",
    "pipebusreplyto": "orders.replies",
    "correlationid": "c-1",
    "pipebusheaders": '{"trace":"7"}',
    "data": {"id": 1},
}
"""The JSON of `full()`."""


def wire(*without: str, **changes: Any) -> bytes:
    """The bytes of `full()`, some attributes changed or left out."""
    return json.dumps({name: value for name, value in {**WIRE, **changes}.items() if name not in without}).encode()


# --- the form on the wire ------------------------------------------------------------------------------------------------


def test_the_form_on_the_wire_is_this() -> None:
    """The form is CloudEvents' structured JSON. Other programs read it, so it does not change by chance."""
    assert json.loads(CODEC.encode(full())) == WIRE


def test_it_is_read_with_other_types_too() -> None:
    """A program that passes an event on may turn all values into strings, and older versions wrote objects and numbers."""
    for changes in ({"pipebusttl": 60.0, "pipebusheaders": {"trace": "7"}}, {"pipebusversion": "1", "pipebusttl": "60"}):
        assert CODEC.decode(wire(**changes)) == CODEC.decode(wire())


def test_what_is_not_set_is_not_written() -> None:
    """A small message takes few bytes."""
    assert set(json.loads(CODEC.encode(Message("tick")))) == {"specversion", "id", "source", "type", "time", "pipebusversion"}


def test_the_source_is_the_programs_own() -> None:
    """CloudEvents' `source` can name the program."""
    assert json.loads(JsonCodec("/shop/eu").encode(full()))["source"] == "/shop/eu"


def test_bytes_travel_as_base64() -> None:
    """Bytes go under CloudEvents' name for them, in the standard alphabet."""
    sent = json.loads(CODEC.encode(full(body=b"\xfb\xff\xfe")))
    assert sent["data_base64"] == "+//+"
    assert "data" not in sent


def test_letters_travel_as_utf_8() -> None:
    """The bytes are UTF-8 JSON and nothing else."""
    assert "größe 注文 😀" in CODEC.encode(full(body="größe 注文 😀")).decode("utf-8")


# --- round trips: the envelope -------------------------------------------------------------------------------------------

texts = st.text(max_size=20)
carried = texts.filter(lambda text: not set(text) & set("\r\n\0"))
tokens = st.text(
    st.characters(min_codepoint=33, exclude_categories=("Z", "C"), exclude_characters=".*>"), min_size=1, max_size=8
)
subjects = st.lists(tokens, min_size=1, max_size=4).map(".".join)
names = st.text(
    st.characters(min_codepoint=33, exclude_categories=("Z", "C"), exclude_characters=":"), min_size=1, max_size=10
).filter(lambda name: not name.lower().startswith(("pipebus-", "nats-")))
json_bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
messages = st.builds(
    Message,
    subject=subjects,
    body=json_bodies | st.binary(max_size=40),
    headers=st.dictionaries(names, carried, max_size=4),
    key=st.none() | carried,
    ttl=st.none() | st.floats(min_value=1e-6, max_value=1e12) | st.integers(1, 10**9),
    reply_to=st.none() | subjects,
    correlation_id=st.none() | carried,
    id=carried.filter(bool),
    time=st.floats(min_value=0, max_value=4e9),
)


@given(messages)
@settings(CALM, max_examples=examples(15, 250))
def test_every_message_comes_back(message: Message[Any]) -> None:
    """Subject, body, headers and all the rest are equal, down to empty strings; the time to the microsecond."""
    again = there_and_back(message)
    assert again.time == pytest.approx(message.time, abs=1e-6)
    for field in ("subject", "body", "headers", "key", "ttl", "reply_to", "correlation_id", "id"):
        found, meant = getattr(again, field), getattr(message, field)
        assert found == meant
        assert type(found) is type(meant)


@given(messages)
@settings(CALM, max_examples=40)
def test_a_second_trip_changes_nothing(message: Message[Any]) -> None:
    """A message that came back is written as the same bytes: forwarding and replaying alter nothing, not even the time."""
    once = there_and_back(message)
    assert CODEC.encode(once) == CODEC.encode(there_and_back(once))
    assert there_and_back(once) == once


@given(st.binary(max_size=300))
@settings(CALM)
def test_any_bytes_come_back(body: bytes) -> None:
    """Any bytes-like body comes back as bytes."""
    for given_body in (body, bytearray(body), memoryview(body)):
        again = there_and_back(Message("a", given_body)).body
        assert type(again) is bytes
        assert again == body


@given(st.dictionaries(names, carried, max_size=8))
@settings(CALM)
def test_any_headers_come_back(headers: dict[str, str]) -> None:
    """Names and values in any script; and they cannot be changed afterwards."""
    again = there_and_back(Message("a", headers=headers))
    assert again.headers == headers
    with pytest.raises(TypeError):
        again.headers["x"] = "1"


def test_a_hundred_headers_come_back() -> None:
    """All headers come back, even empty ones."""
    headers = {f"größe-{number}": "😀" * (number % 3) for number in range(100)}
    assert there_and_back(Message("a", headers=headers)).headers == headers


@table(
    "body",
    [
        None,
        True,
        0,
        -0.0,
        10**300,
        -(2**63) - 1,
        5e-324,
        1.7976931348623157e308,
        "",
        "\0",
        "\u2028",
        [],
        {},
        [[]],
        {"": ""},
        b"",
    ],
    ids=lambda body: repr(body)[:16],
)
def test_edges_come_back(body: Any) -> None:
    """The smallest, the largest and the emptiest, with their types."""
    again = there_and_back(Message("a", body)).body
    assert again == body
    assert type(again) is type(body)


def test_what_is_no_number_comes_back_as_such() -> None:
    """A measurement that failed is not turned into a missing one."""
    assert math.isnan(there_and_back(Message("a", math.nan)).body)


def test_a_typed_subject_comes_back_as_its_name() -> None:
    """The receiver gets a plain text, and the type stays with the sender."""
    again = there_and_back(Message(Subject[int]("a.b"), 1))
    assert again.subject == "a.b"
    assert type(again.subject) is str


def test_the_time_is_utc_whatever_the_offset() -> None:
    """`Z`, `+00:00` and another country's offset mean the same moment."""
    moments = {CODEC.decode(wire(time=f"2013-01-01T{text}")).time for text in ("12:00:00Z", "12:00:00+00:00", "14:00:00+02:00")}
    assert moments == {datetime(2013, 1, 1, 12, tzinfo=UTC).timestamp()}


# --- round trips: bodies that a type makes again what they were -------------------------------------------------------------


class Band(Enum):
    LATE = "late"


class Line(BaseModel):
    sku: str
    price: Decimal
    added: datetime
    tags: set[str] = set()


class Point(NamedTuple):
    x: int
    y: int


@dataclass
class Order:
    id: UUID
    day: date
    wait: timedelta
    band: Band
    lines: list[Line]
    at: Point
    note: bytes


def order(note: bytes = b"fragile") -> Order:
    moment = datetime(2013, 1, 1, 5, 17, 0, 123456, tzinfo=timezone(timedelta(hours=-5)))
    return Order(
        id=UUID(int=7),
        day=date(2013, 1, 1),
        wait=timedelta(minutes=3, microseconds=5),
        band=Band.LATE,
        lines=[Line(sku="größe", price=Decimal("1.10"), added=moment, tags={"a", "b"})],
        at=Point(1, -2),
        note=note,
    )


decimals = st.decimals(allow_nan=False, allow_infinity=False)
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.none() | offsets)

TYPED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (datetime, moments),
    (date, st.dates()),
    (timedelta, st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000))),
    (Decimal, decimals),
    (UUID, st.uuids()),
    (Band, st.just(Band.LATE)),
    (Point, st.builds(Point, st.integers(), st.integers())),
    (tuple[int, str], st.tuples(st.integers(), texts)),
    (set[int], st.sets(st.integers(), max_size=4)),
    (dict[int, Decimal], st.dictionaries(st.integers(), decimals, max_size=4)),
    (Line, st.builds(Line, sku=texts, price=decimals, added=moments, tags=st.sets(texts, max_size=3))),
]


@table(("type_", "values"), TYPED, ids=[getattr(type_, "__name__", str(type_)) for type_, _ in TYPED])
def test_a_type_makes_a_body_what_it_was(type_: Any, values: st.SearchStrategy[Any]) -> None:
    """Moments, decimals, models and the like travel as JSON, and validating into their type gives the equal value."""
    adapter = TypeAdapter(type_)

    @given(values)
    @settings(CALM, max_examples=25)
    def check(value: Any) -> None:
        assert adapter.validate_python(there_and_back(Message("a", value)).body) == value

    check()


def test_a_handler_is_given_what_was_published() -> None:
    """Over a wire the handler's annotation makes the order whole again: dataclass, model, enum, decimal, bytes and all."""
    found: list[Order] = []

    def bill(order: Order) -> None:
        found.append(order)

    with Bus("memory:?wire=json") as bus:
        bus.subscribe("orders.created", bill)
        bus.publish("orders.created", order())
        bus.drain(timeout=10)
        assert bus.dead_letters.list() == []
    assert found == [order()]


def test_bytes_inside_a_body_are_never_changed_in_silence() -> None:
    """JSON has no bytes: what cannot be carried whole inside a body is refused at the publish, not altered."""
    found: list[Order] = []

    def bill(order: Order) -> None:
        found.append(order)

    published = []
    with Bus("memory:?wire=json") as bus:
        bus.subscribe("orders.created", bill)
        for note in (b"fragile", "größe".encode(), b"\xff\xfe\x00"):
            try:
                bus.publish("orders.created", order(note))
            except CodecError:
                continue
            published.append(order(note))
        bus.drain(timeout=10)
    assert found == published
    assert found


# --- what cannot be written ------------------------------------------------------------------------------------------------


class Hostile:
    """An object whose every attribute raises an error, like an unbound proxy."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return Hostile
        raise RuntimeError("hostile")


def endless() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


def deep(levels: int = 5000) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


UNWRITABLE: dict[str, Callable[[], Any]] = {
    "an object": object,
    "a function": lambda: deep,
    "a class": lambda: Order,
    "a list that holds itself": endless,
    "a list without bottom": deep,
    "an object inside": lambda: {"a": [object()]},
    "half a character": lambda: "\ud800",
    "half a character inside": lambda: {"a": ["\udfff"]},
    "half a character as a name": lambda: {"\ud800": 1},
    "an object that fails": Hostile,
}


@table("body", UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_body_that_has_no_json_form_is_refused(body: Callable[[], Any]) -> None:
    """The error names the message and the body's type, and can be printed whatever the body was."""
    with pytest.raises(CodecError) as refused:
        CODEC.encode(Message("a", body(), id="m-1"))
    text = str(refused.value)
    assert "m-1" in text
    assert "body" in text
    text.encode()


@pytest.mark.parametrize("field", ["subject", "reply_to"])
def test_mail_to_an_object_has_no_bytes(field: str) -> None:
    """An object has no name outside the process; the error says which field holds it."""
    with pytest.raises(UnsupportedCapability, match=f"^{field} Ref"):
        CODEC.encode(full(**{field: Ref(object())}))


def test_a_publish_that_cannot_be_written_is_refused() -> None:
    """The publisher gets the error at once, even if nobody listens, and no subscriber gets the message."""
    found: list[Any] = []
    with Bus("memory:?wire=json") as bus:
        with pytest.raises(CodecError):
            bus.publish("nobody.listens", object())
        bus.subscribe("a", found.append)
        with pytest.raises(CodecError):
            bus.publish("a", object())
        bus.drain(timeout=10)
    assert found == []


# --- bytes that are not a message --------------------------------------------------------------------------------------------

NO_MESSAGE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", r"^0 bytes are not JSON: "),
    "text": (b"hello", r"^5 bytes are not JSON: "),
    "half a message": (wire()[:40], r"^40 bytes are not JSON: "),
    "no utf-8": (b'"\xff"', r"^3 bytes are not JSON: "),
    "a pickle": (pickle.dumps({"id": 1}), r" bytes are not JSON: "),
    "brackets without end": (b"[" * 100_000, r"^100000 bytes are not JSON: "),
    "a number without end": (b"9" * 100_000, r"^100000 bytes are not JSON: "),
    "null": (b"null", r"^a message is a JSON object, found NoneType$"),
    "a list": (b"[1]", r"^a message is a JSON object, found list$"),
    "a string": (b'"x"', r"^a message is a JSON object, found str$"),
    "an empty object": (b"{}", r'^"specversion" is "1\.0", found None$'),
    "another specversion": (wire(specversion="2.0"), r'^"specversion" is "1\.0", found \'2\.0\'$'),
    "a numeric specversion": (wire(specversion=1.0), r'^"specversion" is "1\.0", found 1\.0$'),
    "a later version": (wire(pipebusversion=2), r'^"pipebusversion" 2 is not 1: written by another pipebus$'),
    "no version": (wire(pipebusversion=None), r'^"pipebusversion" None is not 1'),
    **{f"without {name}": (wire(name), rf'^"{name}" is missing$') for name in ("id", "type", "time")},
    **{
        f"{name} is {kind}": (wire(**{name: value}), rf'^"{name}" is a string, found ')
        for name in ("id", "type", "time")
        for kind, value in {"a number": 5, "null": None, "a list": ["x"], "an object": {}, "true": True}.items()
    },
    "an empty id": (wire(id=""), r"id "),
    "an id with CR LF": (wire(id="a\r\nb"), r"id "),
    "an id with a surrogate": (wire(id="\ud800"), r"id "),
    "an empty token": (wire(type="a..b"), r"empty token at position 2"),
    "a wildcard": (wire(type="a.*"), r'wildcard "\*"'),
    "a space": (wire(type="a b"), r"contains ' '"),
    "an empty type": (wire(type=""), r"is empty"),
    "a time that is none": (wire(time="yesterday"), r"yesterday"),
    "a time without offset": (wire(time="2013-01-01T12:00:00"), r"offset"),
    "a day only": (wire(time="2013-01-01"), r"2013-01-01"),
    "a day that is none": (wire(time="2013-02-30T12:00:00Z"), r"day"),
    "the year zero": (wire(time="0000-01-01T12:00:00Z"), r"year"),
    "before all time": (wire(time="0001-01-01T00:00:00+14:00"), r"."),
    "headers are a list": (wire(pipebusheaders=[]), r'"pipebusheaders" is an object, found \[\]'),
    "headers are null": (wire(pipebusheaders=None), r'"pipebusheaders" is an object, found None'),
    "headers are zero": (wire(pipebusheaders=0), r'"pipebusheaders" is an object, found 0'),
    "a header is a number": (wire(pipebusheaders={"tries": 3}), r'header "tries" is a string, found int'),
    "a header with CR LF": (wire(pipebusheaders={"x": "a\r\nb"}), r'header "x" contains'),
    "a header's name with a space": (wire(pipebusheaders={"a b": "c"}), r"'a b' cannot be a header's name"),
    "a header with a surrogate": (wire(pipebusheaders={"x": "\ud800"}), r'header "x" contains'),
    "a key that is a number": (wire(partitionkey=5), r"key"),
    "a key with a surrogate": (wire(partitionkey="\ud800"), r"key"),
    "a ttl of zero": (wire(pipebusttl=0), r"ttl=0: it is greater than 0 seconds"),
    "a ttl that is true": (wire(pipebusttl=True), r"ttl=True: it is a number of seconds"),
    "a ttl without end": (wire(pipebusttl=math.inf), r"ttl=inf: it is greater than 0 seconds"),
    "a ttl that is text": (wire(pipebusttl="soon"), r"ttl='soon': it is a number of seconds"),
    "a reply address that is a number": (wire(pipebusreplyto=5), r"reply"),
    "a reply address that is a pattern": (wire(pipebusreplyto="a.>"), r'wildcard ">"'),
    "a correlation that is a number": (wire(correlationid=5), r"correlation"),
    "base64 that is a number": (wire("data", data_base64=5), r"."),
    "base64 that is null": (wire("data", data_base64=None), r"."),
    "base64 that is none": (wire("data", data_base64="a"), r"."),
    "base64 with a mark": (wire("data", data_base64="AAAA!"), r"."),
    "base64 with strange letters": (wire("data", data_base64="AAAA😀"), r"."),
    "a body with half a character": (wire(data="\ud800"), r"."),
    "a body with half a character inside": (wire(data={"a": ["\udfff"]}), r"."),
    "a body with half a character as a name": (wire(data={"\ud800": 1}), r"."),
}


@table(("data", "says"), NO_MESSAGE.values(), ids=NO_MESSAGE)
def test_what_is_no_message_is_refused(data: bytes, says: str) -> None:
    """The error says what is missing or wrong; it can be printed and logged, and is caught as a `ValueError` too."""
    with pytest.raises(CodecError, match=says) as refused:
        CODEC.decode(data)
    str(refused.value).encode()
    assert isinstance(refused.value, ValueError)


@table("name", ["id", "specversion", "pipebusversion", "pipebusheaders", "time"])
def test_no_depth_of_nesting_is_too_much_for_an_error(name: str) -> None:
    """However deep a hostile attribute is nested, the answer is `CodecError`, even while its text is being written."""
    for depth in (*range(1, 900, 100), *range(900, 1010), 5000, 20_000, 100_000):
        data = wire(name)[:-1] + f', "{name}": {"[" * depth}{"]" * depth}}}'.encode()
        with pytest.raises(CodecError):
            CODEC.decode(data)


# --- what others write -------------------------------------------------------------------------------------------------------


def test_a_foreign_event_is_a_message() -> None:
    """A CloudEvent of another program can be read, even with attributes that pipebus does not define."""
    event = {
        "specversion": "1.0",
        "id": "A234-1234-1234",
        "source": "https://github.com/cloudevents/spec/pull",
        "type": "com.example.someevent",
        "subject": "123",
        "time": "2018-04-05T17:31:00Z",
        "datacontenttype": "application/json",
        "comexampleextension1": "value",
        "data": {"much": "wow"},
    }
    message = CODEC.decode(json.dumps(event).encode())
    assert (message.subject, message.id, message.body) == ("com.example.someevent", "A234-1234-1234", {"much": "wow"})
    assert message.time == datetime(2018, 4, 5, 17, 31, tzinfo=UTC).timestamp()


def test_a_later_minor_version_may_add_attributes() -> None:
    """Unknown attributes are left alone."""
    assert CODEC.decode(wire(pipebusnovelty={"deep": [1]})) == full()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_of_json_are_read_or_refused(encoding: str) -> None:
    """JSON in another encoding is read correctly or refused, and never misread."""
    try:
        message = CODEC.decode(wire().decode().encode(encoding))
    except CodecError:
        return
    assert message == full()


# --- garbage -----------------------------------------------------------------------------------------------------------------

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 10**30, -(10**400), 0.5, -0.0, 1e308, math.inf, -math.inf, math.nan),
    *("", " ", "x", "a.b", "a..b", "a.*", ">", "\r\n", "\0", "\ud800", "\udfff\ud800", "😀", "é", "1.0", "null", "x" * 2000),
    *("2013-01-01T00:00:00Z", "9999-12-31T23:59:59.999999-14:00", "0001-01-01T00:00:00+14:00", "2013-W01-1T00:00:00Z"),
    *("AAAA", "AAA", "pipebus-x", "Nats-Msg-Id"),
    *([], [[]], ["\ud800"], [None] * 50),
    *({}, {"a": 1}, {"": ""}, {"a\n": "b"}, {"a": "b\r"}, {"Nats-Msg-Id": "1"}, {"\ud800": "x"}),
]
SEEDS = [
    CODEC.encode(message)
    for message in (
        full(),
        Message("a", id="m-2", time=1_357_000_000.0),
        full(body=b"\x00\xff" * 20),
        full(body="größe 😀", headers={}),
        full(body=[1, [2.5, None]]),
    )
]


def noise(source: random.Random) -> bytes:
    """Bytes without sense, some of them beginning like a message."""
    return source.choice((b"", b"{", b'{"id":', b"\xef\xbb\xbf", b'{"specversion":"1.0",')) + source.randbytes(
        source.randrange(80)
    )


def damage(source: random.Random) -> bytes:
    """A message with a few bytes changed, lost, doubled or moved."""
    data = bytearray(source.choice(SEEDS))
    for _ in range(source.randint(1, 4)):
        at, to = sorted(source.randrange(len(data) + 1) for _ in range(2))
        match source.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << source.randrange(8)
            case 1:
                del data[at : min(to, at + 12)]
            case 2:
                data[at:at] = data[at : min(to, at + 12)]
            case 3:
                data[at:at] = source.randbytes(source.randint(1, 3))
            case 4:
                data[at:at] = source.choice((b"\\u0000", b"\\ud800", b'"', b"}", b"[", b"null", b"1e999", b",", b":"))
            case 5:
                del data[to:]
    return bytes(data)


def oddity(source: random.Random) -> bytes:
    """Lawful JSON whose attributes are missing, doubled in meaning, or of odd values."""
    event = json.loads(source.choice(SEEDS))
    for _ in range(source.randint(1, 3)):
        name = source.choice((*WIRE, "data_base64"))
        if source.random() < 0.2:
            event.pop(name, None)
        else:
            event[name] = source.choice(ODD)
    return json.dumps(event, ensure_ascii=source.random() < 0.5).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("make", [noise, damage, oddity])
def test_garbage_is_a_message_or_a_codec_error(make: Callable[[random.Random], bytes]) -> None:
    """
    Anything that comes over a wire is an error of ours that can be printed, or a message that can be written and read again.
    """
    source = random.Random(20130101)
    refused = accepted = 0
    escaped: list[tuple[str, bytes]] = []
    for _ in range(7000):
        data = make(source)
        try:
            message = CODEC.decode(data)
        except CodecError as error:
            refused += 1
            str(error).encode()
            continue
        except Exception as error:
            escaped.append((repr(error), data))
            continue
        accepted += 1
        try:
            written = CODEC.encode(message)
            assert CODEC.encode(CODEC.decode(written)) == written
        except (PipebusError, AssertionError) as error:
            escaped.append((repr(error), data))
    assert escaped[:3] == []
    assert refused > 500
    assert accepted > 100 or make is noise


@given(st.binary(max_size=200))
@settings(CALM)
def test_any_base64_is_read_or_refused(data: bytes) -> None:
    """Proper base64 is decoded; with a letter lost it is refused or gives other bytes, but never another error."""
    text = base64.b64encode(data).decode()
    assert CODEC.decode(wire("data", data_base64=text)).body == data
    if text:
        with pytest.raises(CodecError):
            CODEC.decode(wire("data", data_base64=text[:-1]))

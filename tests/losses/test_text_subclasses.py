"""
Strings of subclasses: a program may name its subjects in an Enum, or bring strings of a class of its own.

What counts is the text that such a string holds, and not what its class makes of `str()`, `format()`, `==` or `hash()`.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest
from carriers import CARRIERS, made

from pipebus import Actor, Bus, Dropped, Handlers, Message, Rejected, Subject, branch, transform, when
from pipebus.filters import Dedupe, Drop, Enrich, Fields, Log, Reroute, SetHeaders, Validate
from pipebus.testing import captured_logs, run_filter


class Topic(str, Enum):  # noqa: UP042 (this is how it is written where programs support Python 3.10)
    ORDERS = "orders.created"
    OTHERS = "orders.other"
    ALL = "orders.>"
    WORD = "word"


class Modern(StrEnum):
    ORDERS = "orders.created"
    OTHERS = "orders.other"
    ALL = "orders.>"
    WORD = "word"


class Liar(str):
    """A string that claims to be another string, whatever method the code calls to read it."""

    def __str__(self) -> str:
        return "a.lie"

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        return "a.lie"

    def __eq__(self, other: object) -> bool:
        return other == "a.lie"

    def __hash__(self) -> int:
        return hash("a.lie")

    def split(self, *_: Any) -> list[str]:  # type: ignore[override]
        return ["a", "lie"]

    def isprintable(self) -> bool:
        return False


class Mute(str):
    """A string whose own methods raise."""

    def _raise(self, *_: Any) -> Any:
        raise RuntimeError("this string says nothing")

    __str__ = __repr__ = __format__ = __eq__ = __hash__ = _raise  # type: ignore[assignment]
    split = isprintable = startswith = __len__ = __iter__ = _raise  # type: ignore[assignment]


class MuteKey(Mute):
    """A `Mute` that can be the key of a dictionary."""

    __hash__ = str.__hash__


class Folded(str):
    """An honest string that ignores case, so it equals other strings."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.lower() == other.lower()

    def __hash__(self) -> int:
        return hash(self.lower())


Make = Callable[[str], str]
MAKERS: dict[str, Make] = {
    "Enum": Topic,
    "StrEnum": Modern,
    "Subject": Subject,
    "liar": Liar,
    "mute": Mute,
    "folded": Folded,
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
carriers = pytest.mark.parametrize("carrier", CARRIERS)


def key(make: Make, text: str) -> Any:
    """The text as such a string, in a form that can be the key of a dictionary."""
    return make(text) if make is not Mute else MuteKey(text)


def exact(*texts: Any) -> list[bool]:
    return [type(text) is str for text in texts]


# --- subjects ----------------------------------------------------------------------------------------------------------


@carriers
@makers
def test_a_subclass_of_str_names_the_subject_that_it_holds(make: Make, carrier: str, tmp_path: Path) -> None:
    """A subscription to `Topic.ORDERS`, or a publish on it, means "orders.created"."""
    seen: list[tuple[str, Message]] = []
    with made(carrier, tmp_path) as bus:
        bus.subscribe(make("orders.created"), lambda m: seen.append(("given", m)), name="given")
        bus.subscribe("orders.created", lambda m: seen.append(("plain", m)), name="plain")
        bus.subscribe([make("orders.other"), make("orders.created")], lambda m: seen.append(("list", m)), name="list")
        bus.subscribe(make("orders.>"), lambda m: seen.append(("pattern", m)), name="pattern")
        with bus:
            for _ in range(2):  # the second one finds the route of the first
                assert bus.publish(make("orders.created"), 1)
                assert bus.publish("orders.created", 1)
            bus.publish("a.lie", 1)
            bus.drain(10)
    assert sorted(name for name, _ in seen) == ["given"] * 4 + ["list"] * 4 + ["pattern"] * 4 + ["plain"] * 4
    assert {m.subject for _, m in seen} == {"orders.created"}
    assert all(exact(*(m.subject for _, m in seen)))


@makers
def test_a_known_way_is_never_mistaken_for_that_of_an_equal_string(make: Make) -> None:
    """A subject that claims to equal another one reaches its own subscribers, and not those of the other one."""
    seen: list[tuple[str, str]] = []
    with Bus() as bus:
        for subject in ("orders.created", "a.lie"):
            bus.subscribe(subject, lambda m, s=subject: seen.append((s, m.subject)))
            bus.publish(subject)
        bus.publish(make("orders.created"))
        bus.drain(10)
    assert sorted(seen) == [("a.lie", "a.lie"), ("orders.created", "orders.created"), ("orders.created", "orders.created")]


def test_a_string_that_ignores_case_is_published_as_it_is_written() -> None:
    """Subjects differ by case, whatever the class of the string says."""
    seen: list[str] = []
    with Bus() as bus:
        bus.subscribe("orders.created", lambda m: seen.append("lower"))
        bus.subscribe("Orders.Created", lambda m: seen.append("upper"))
        bus.publish("orders.created")
        bus.publish(Folded("Orders.Created"))
        bus.drain(10)
    assert sorted(seen) == ["lower", "upper"]


@makers
@pytest.mark.parametrize("way", ["publish", "apublish", "send", "asend", "delayed", "options"])
def test_every_way_of_publishing_takes_the_text(make: Make, way: str) -> None:
    """The message that arrives has a plain subject, however it was published."""
    seen: list[Message] = []

    async def run() -> None:
        bus = Bus()
        bus.subscribe("orders.created", seen.append)
        async with bus:
            subject: Any = make("orders.created")
            if way == "publish":
                bus.publish(subject)
            elif way == "apublish":
                await bus.apublish(subject)
            elif way == "send":
                bus.send(Message(subject))
            elif way == "asend":
                await bus.asend(Message(subject))
            elif way == "delayed":
                bus.publish(subject, delay=0.001)
            else:
                bus.publish(subject, key=make("word"))
            await bus.adrain(10)

    asyncio.run(run())
    assert [m.subject for m in seen] == ["orders.created"]
    assert all(exact(*(m.subject for m in seen)))


@carriers
@makers
def test_requests_by_a_subclass_of_str_are_answered(make: Make, carrier: str, tmp_path: Path) -> None:
    """`request` and `arequest` find the handler, and the reply comes back."""
    with made(carrier, tmp_path) as bus:
        bus.subscribe(make("orders.created"), lambda m: f"{m.subject} {m.body}", name="answers")
        with bus:
            assert bus.request(make("orders.created"), 1, timeout=10).body == "orders.created 1"
            assert asyncio.run(bus.arequest(make("orders.created"), 2, timeout=10)).body == "orders.created 2"


@carriers
@makers
def test_what_a_handler_returns_goes_to_the_subject_that_its_target_holds(make: Make, carrier: str, tmp_path: Path) -> None:
    """With `to=Topic.OTHERS`, the value of the handler is published on "orders.other"."""
    seen: list[Message] = []
    with made(carrier, tmp_path) as bus:
        bus.subscribe("start", lambda m: m.body, to=make("orders.other"), name="first")
        bus.subscribe("orders.other", seen.append, name="second")
        with bus:
            bus.publish("start", 5)
            bus.drain(10)
    assert [(m.subject, m.body) for m in seen] == [("orders.other", 5)]


@makers
def test_schedules_handlers_and_actors_go_by_the_text(make: Make) -> None:
    """`every`, `Handlers.on` and the name of an actor take the text, too."""
    seen: list[tuple[str, Message]] = []
    handlers = Handlers()

    @handlers.on(make("orders.created"))
    def listed(message: Message) -> None:
        seen.append(("listed", message))

    class Named(Actor):
        def on_message(self, message: Message) -> None:
            seen.append(("actor", message))

    bus = Bus()
    bus.include(handlers)
    actor = bus.spawn(Named(make("word")))
    schedule = bus.every(0.001, make("orders.created"), key=make("word"))
    with bus:
        bus.publish("word")
        bus.publish(actor)
        while not any(name == "listed" for name, _ in seen):
            bus.drain(10)
        schedule.stop()
        bus.drain(10)
        assert actor.subscription.name == "word"
    assert schedule.stats()["subject"] == "orders.created"
    assert [name for name, _ in seen].count("actor") == 2
    found = [m for name, m in seen if name == "listed"]
    assert {m.subject for m in found} == {"orders.created"}
    assert {m.key for m in found} == {"word"}


# --- chains ------------------------------------------------------------------------------------------------------------


@makers
@pytest.mark.parametrize("word", [when, branch])
def test_a_detour_under_a_subclass_of_str_is_taken(make: Make, word: Any) -> None:
    """`when(Topic.ORDERS, …)` and `branch(Topic.ALL, …)` run for the subjects that they name."""
    seen: list[str] = []

    @transform
    def note(message: Message) -> Message:
        seen.append(message.subject)
        return message

    bus = Bus()
    bus.use(word(make("orders.created"), note))
    bus.use(word(make("orders.>"), note))
    with bus:
        bus.publish("orders.created")
        bus.publish("orders.other")
        bus.publish("a.lie")
    first = ["orders.created"] if word is branch else ["orders.created"] * 2
    assert seen == [*first, "orders.other"]
    assert "orders.created" in bus.explain("orders.created")
    assert "a.lie" not in str(bus.describe())


@makers
def test_validate_refuses_under_a_subclass_of_str(make: Make) -> None:
    """`Validate({Topic.ORDERS: int})` checks "orders.created": it never fails open."""
    bus = Bus()
    bus.use(Validate({key(make, "orders.created"): int}))
    with bus:
        for subject in ("orders.created", make("orders.created")):
            with pytest.raises(Rejected):
                bus.publish(subject, "not a number")
        assert bus.publish("a.lie", "not a number") is not None


@makers
def test_reroute_goes_to_the_text_of_its_target(make: Make) -> None:
    """A target, the value of a target's function and the fields of a template are taken as text."""
    seen: list[str] = []
    bus = Bus()
    bus.use(when("start.template", Reroute("orders.{body.part}")))
    bus.use(when("start.function", Reroute(lambda message: make("orders.created"))))
    bus.subscribe(">", lambda m: seen.append(m.subject))
    with bus:
        bus.publish("start.template", {"part": make("word")})
        bus.publish("start.function")
        bus.drain(10)
    assert sorted(seen) == ["orders.created", "orders.word"]
    assert all(exact(*seen))


@makers
def test_reroute_takes_a_template_by_its_text(make: Make) -> None:
    """A template in an Enum is the text that it holds."""
    run = run_filter(Reroute(make("orders.other")), Message("start"))
    assert [m.subject for m in run.forwards] == ["orders.other"]


@makers
def test_the_reasons_of_drops_and_rejections_are_counted_by_their_text(make: Make) -> None:
    """Figures and errors show the text of a reason."""
    bus = Bus()
    bus.use(when("drop.filter", Drop(reason=make("word"))))

    @bus.use
    @transform
    def refuse(message: Message) -> Message | Dropped:
        if message.subject == "drop.own":
            return Dropped(make("word"))
        raise Rejected(make("word"), by=make("word"))

    with bus:
        dropped = bus.publish("drop.filter"), bus.publish("drop.own")
        with pytest.raises(Rejected) as caught:
            bus.publish("reject")
        figures = json.loads(json.dumps(bus.stats()))
    assert [one.reason for one in dropped if isinstance(one, Dropped)] == ["word", "word"]
    assert str(caught.value) == "rejected by word: word"
    assert figures["dropped"] == {"drop": {"word": 1}, "refuse": {"word": 1}} or figures["dropped"] == {
        "Drop": {"word": 1},
        "refuse": {"word": 1},
    }
    assert figures["rejected"] == {"word": {"word": 1}}


@makers
def test_filters_set_headers_and_fields_by_their_text(make: Make) -> None:
    """Names and values that a filter gets, or that its functions return, are taken as text."""

    class Level(IntEnum):
        HIGH = 3

    chain = (
        SetHeaders(
            {key(make, "word"): make("orders.created"), "made": lambda m: make("orders.created"), "level": lambda m: Level.HIGH}
        ),
        Enrich({key(make, "word"): 1}),
        Fields(set={"body.other": 2, "headers.field": make("word")}),
    )
    message = Message("start", {})
    for one in chain:
        (message,) = run_filter(one, message).forwards
    assert message.headers == {"word": "orders.created", "made": "orders.created", "level": "3", "field": "word"}
    assert all(exact(*message.headers, *message.headers.values()))
    assert message.body == {"word": 1, "other": 2}


class Secret(str, Enum):  # noqa: UP042
    PASSWORD = "password"


def test_log_hides_what_a_member_of_an_enum_names() -> None:
    """A redacted key or name in an Enum hides the value: it does not appear in the log."""
    for keys, names in (({Secret.PASSWORD: "xyzzy"}, ["password"]), ({"password": "xyzzy"}, [Secret.PASSWORD])):
        bus = Bus()
        bus.use(Log(body=True, redact=names))
        with captured_logs() as lines, bus:
            bus.publish("start", keys)
        assert lines
        assert "xyzzy" not in str(lines)


@makers
def test_dedupe_knows_a_key_by_its_text(make: Make, tmp_path: Path) -> None:
    """A key in an Enum equals the same key as plain text, in the store as well."""
    keys = [make("word"), "word"]
    with made("sqlite", tmp_path) as bus:
        bus.use(Dedupe(key=lambda message: keys[message.body], durable=True))
        with bus:
            assert bus.publish("start", 0)
            assert not bus.publish("start", 1)


# --- envelopes ---------------------------------------------------------------------------------------------------------


@carriers
@makers
def test_every_field_of_an_envelope_arrives_as_the_text_that_was_given(make: Make, carrier: str, tmp_path: Path) -> None:
    """Headers, key, id, reply_to and correlation_id arrive as plain text, on every carrier."""
    seen: list[Message] = []
    with made(carrier, tmp_path) as bus:
        bus.subscribe("start", seen.append, name="reads")
        with bus:
            options: dict[str, Any] = {
                "headers": {key(make, "word"): make("orders.created")},
                "key": make("word"),
                "reply_to": make("orders.other"),
                "correlation_id": make("orders.created"),
            }
            bus.publish("start", 1, id=make("word"), **options)
            bus.send(Message("start", 2, id=make("orders.other"), **options))
            bus.drain(10)
    assert sorted(m.id for m in seen) == ["orders.other", "word"]
    for message in seen:
        assert dict(message.headers) == {"word": "orders.created"}
        assert (message.key, message.reply_to, message.correlation_id) == ("word", "orders.other", "orders.created")
        assert all(exact(*message.headers, *message.headers.values(), message.key, message.id, message.reply_to))


@makers
def test_a_message_holds_plain_text(make: Make) -> None:
    """`Message` and `with_headers` hold plain text that prints as it is."""
    message = Message(make("orders.created"), headers={key(make, "word"): make("word")}, key=make("word")).with_headers(
        {key(make, "orders.other"): make("word")}
    )
    assert repr(message).startswith(
        "Message('orders.created', None, headers={'word': 'word', 'orders.other': 'word'}, key='word', id="
    )


def test_numbers_of_subclasses_arrive_as_numbers(tmp_path: Path) -> None:
    """A time to live in an IntEnum is a number of seconds, also after encoding."""

    class Span(IntEnum):
        MINUTE = 60

    for carrier in ("memory:", "memory:?wire=json", "sqlite"):
        seen: list[Message] = []
        with made(carrier, tmp_path) as bus:
            bus.subscribe("start", seen.append, name="reads")
            with bus:
                bus.publish("start", ttl=Span.MINUTE)
                bus.drain(10)
        assert [(m.ttl, type(m.ttl)) for m in seen] == [(60, int)] or [(m.ttl, type(m.ttl)) for m in seen] == [(60.0, float)]


@makers
def test_the_store_keeps_the_text(make: Make, tmp_path: Path) -> None:
    """A process that knows only the text finds messages that were stored under a subject in an Enum."""
    with made("sqlite", tmp_path) as bus:
        bus.subscribe(make("orders.created"), lambda m: None, name=make("word"))
        with bus:
            pass
        with bus:  # publish while nobody reads
            bus.subscriptions[0].pause()
            bus.publish(make("orders.created"), 1, key=make("word"))
        assert [one.name for one in bus.subscriptions] == ["word"]
    with sqlite3.connect(tmp_path / "bus.db") as file:
        assert "a.lie" not in "\n".join(file.iterdump())
    file.close()
    seen: list[str] = []
    with made("sqlite", tmp_path) as bus:
        bus.subscribe("orders.created", lambda m: seen.append(m.subject), name="word")
        with bus:
            bus.drain(10)
    assert seen == ["orders.created"]


# --- options -----------------------------------------------------------------------------------------------------------


@makers
def test_names_are_taken_by_their_text(make: Make) -> None:
    """A subscription name in an Enum is shown as the text that it holds, and cannot be used twice."""
    bus = Bus(name=make("word"))
    bus.subscribe("start", lambda m: None, name=make("word"))
    with pytest.raises(Exception, match='"word"'):
        bus.subscribe("start", lambda m: None, name="word")
    assert list(bus.stats()["subscriptions"]) == ["word"]
    assert "Bus word " in repr(bus)


class Option(str, Enum):  # noqa: UP042
    URL = "memory:?wire=json"
    LOOP = "loop"
    REJECT = "reject"


def test_options_in_an_enum_are_what_they_hold() -> None:
    """A URL, a way to run and an overflow rule may be members of an Enum."""
    seen: list[str] = []
    with Bus(Option.URL) as bus:
        bus.subscribe("start", lambda m: seen.append(m.subject), run=Option.LOOP, overflow=Option.REJECT)  # type: ignore[arg-type]
        bus.publish("start")
        bus.drain(10)
        assert "Option" not in str(bus.describe())
    assert seen == ["start"]


@makers
def test_a_typed_subject_holds_the_text(make: Make) -> None:
    """`Subject[T](Topic.ORDERS)` equals "orders.created"."""
    subject = Subject[int](make("orders.created"))
    assert f"{subject}" == "orders.created"
    assert subject == "orders.created"

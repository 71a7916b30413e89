"""Reroute: compute the subject from the message."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any

import pytest
from pydantic import BaseModel

from pipebus import Bus, Dropped, Message, PipebusError, Pipeline, PipelineError, Receipt, Ref, Rejected, transform, when
from pipebus.filters import Reroute, Tap
from pipebus.testing import Harness, run_filter
from tables import table


class Flight(BaseModel):
    origin: str
    number: int = 1


@dataclass
class Leg:
    flight: Flight
    _secret: str = "hidden"


class Carrier(str, Enum):  # noqa: UP042  # how enums of texts were written before StrEnum
    UNITED = "UA"


class Airport(StrEnum):
    KENNEDY = "JFK"


# --- where a message goes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "message", "subject"),
    [
        pytest.param("fixed.subject", Message("a"), "fixed.subject", id="a fixed subject"),
        pytest.param("flights.{body.origin}", Message("a", {"origin": "JFK"}), "flights.JFK", id="a field of a mapping"),
        pytest.param("{body.a.b}.{body.a.c}", Message("a", {"a": {"b": "x", "c": 7}}), "x.7", id="deep fields, a number"),
        pytest.param("f.{body.origin}.{body.number}", Message("a", Flight(origin="EWR", number=2)), "f.EWR.2", id="a model"),
        pytest.param("f.{body.flight.origin}", Message("a", Leg(Flight(origin="LGA"))), "f.LGA", id="a model in a dataclass"),
        pytest.param("{headers.tenant}.in", Message("a", None, headers={"tenant": "acme"}), "acme.in", id="a header"),
        pytest.param("k.{key}", Message("a", key="k1"), "k.k1", id="the key"),
        pytest.param("i.{id}", Message("a", id="m-1"), "i.m-1", id="the id"),
        pytest.param("old.{subject}", Message("a.b.c"), "old.a.b.c", id="the subject, with its dots"),
        pytest.param("pre{body.x}post.t", Message("a", {"x": 1}), "pre1post.t", id="part of a token"),
        pytest.param("f.{body.at}", Message("a", {"at": Airport.KENNEDY}), "f.JFK", id="a StrEnum"),
        pytest.param("f.{body.by}", Message("a", {"by": Carrier.UNITED}), "f.UA", id="an enum of texts"),
        pytest.param("f.{body.x}", Message("a", {"x": "grüße→"}), "f.grüße→", id="not only ASCII"),
        pytest.param(lambda message: f"by.{message.body}", Message("a", "function"), "by.function", id="a function"),
    ],
)
def test_a_message_gets_its_new_subject(colour: Any, to: Any, message: Message, subject: str) -> None:
    """The subject comes from a template or a function, and everything else stays as it is."""
    run = run_filter(Reroute(to), message, colour=colour)
    assert run.outcome == Receipt(1)
    (arrived,) = run.forwards
    assert arrived.subject == subject
    assert (arrived.id, arrived.body, arrived.headers, arrived.time) == (
        message.id,
        message.body,
        message.headers,
        message.time,
    )


def test_what_follows_is_registered_for_the_new_subject(colour: Any) -> None:
    """Filters behind a Reroute match the new subject, and filters in front of it match the old one."""
    met: list[str] = []

    def note(name: str) -> Any:
        return Tap(lambda message: met.append(name))

    chain = Pipeline(
        when("raw", note("raw, before")), when("done", note("done, before")),
        Reroute("done"),
        when("raw", note("raw, behind")), when("done", note("done, behind")),
    )  # fmt: skip
    assert run_filter(chain, Message("raw"), colour=colour).outcome == Receipt(1)
    assert met == ["raw, before", "done, behind"]


def test_a_message_may_be_rerouted_twice_and_back(colour: Any) -> None:
    """After each Reroute the message meets only the filters behind it, so there is no loop."""
    chain = Pipeline(Reroute("b"), when("b", Reroute("c")), when("c", Reroute("a")))
    run = run_filter(chain, Message("a"), colour=colour)
    assert [message.subject for message in run.forwards] == ["a"]


def test_a_subject_that_stays_is_no_change(colour: Any) -> None:
    """The message continues with the same subject, as if the filter were not there."""
    run = run_filter(Reroute("{subject}"), Message("a.b"), colour=colour)
    assert run.outcome == Receipt(1)
    assert [message.subject for message in run.forwards] == ["a.b"]


def test_a_drop_behind_a_reroute_is_the_outcome(colour: Any) -> None:
    """A filter for the new subject may drop the message, and the publisher gets that outcome."""

    @transform
    def drop(message: Message) -> Dropped:
        return Dropped("not today")

    run = run_filter(Pipeline(Reroute("b"), when("b", drop)), Message("a"), colour=colour)
    assert (run.outcome, run.forwards) == (Dropped("not today", "drop"), [])


def test_the_subscribers_of_the_new_subject_get_it(harness: Harness) -> None:
    """The subscribers of the new subject get the message, and the receipt counts them."""
    harness.bus.use(Reroute("new.{body.to}"))
    old, new, exact = (harness.bus.subscribe(subject) for subject in ("old", "new.*", "new.x"))
    assert harness.start().publish("old", {"to": "x"}) == Receipt(2)
    assert [s.stats()["pending"] for s in (old, new, exact)] == [0, 1, 1]


def test_a_subscription_made_later_is_found_behind_a_reroute(harness: Harness) -> None:
    """The route of the new subject is compiled again when somebody subscribes to it or leaves."""
    harness.bus.use(Reroute("new"))
    bus = harness.start()
    assert bus.publish("old") == Receipt(0)
    with bus.subscribe("new"):
        assert bus.publish("old") == Receipt(1)
    assert bus.publish("old") == Receipt(0)


def test_the_new_subject_may_be_an_object(harness: Harness) -> None:
    """In memory, where nothing is encoded, an object may be the new subject."""
    thing = Ref("thing")
    harness.bus.use(Reroute(lambda message: thing))
    owner = harness.bus.subscribe(thing)
    assert harness.start().publish("a") == Receipt(1)
    assert owner.receive(timeout=0).subject is thing


# --- what cannot be a subject ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "message", "reason"),
    [
        pytest.param("f.{body.origin}", Message("a", {}), "no body.origin", id="a field that is missing"),
        pytest.param("f.{body.origin}", Message("a"), "no body.origin", id="no body"),
        pytest.param("f.{body.a.b}", Message("a", {"a": 1}), "no body.a.b", id="a field of a number"),
        pytest.param("f.{headers.h}", Message("a"), "no headers.h", id="a header that is missing"),
        pytest.param("f.{key}", Message("a"), "key", id="no key"),
        pytest.param("f.{body.x}", Message("a", {"x": "a.b"}), "body.x is not one token", id="dots"),
        pytest.param("f.{body.x}", Message("a", {"x": "."}), "body.x is not one token", id="a dot alone"),
        pytest.param("f.{body.x}", Message("a", {"x": ""}), "body.x is not one token", id="nothing"),
        pytest.param("f.{body.x}", Message("a", {"x": "*"}), "body.x is not one token", id="a wildcard"),
        pytest.param("f.{body.x}", Message("a", {"x": ">"}), "body.x is not one token", id="the other wildcard"),
        pytest.param("f.{body.x}", Message("a", {"x": "two words"}), "body.x is not one token", id="white space"),
        pytest.param("f.{body.x}", Message("a", {"x": "a\nb"}), "body.x is not one token", id="a line break"),
        pytest.param("f.{body.x}", Message("a", {"x": 1.5}), "is a number", id="a fraction"),
        pytest.param("f.{body.x}", Message("a", {"x": True}), "is true or false", id="a truth value"),
        pytest.param("f.{body.x}", Message("a", {"x": None}), "is nothing", id="None"),
        pytest.param("f.{body.x}", Message("a", {"x": ["a"]}), "list", id="a list"),
        pytest.param("f.{body.upper}", Message("a", "text"), "", id="a method"),
    ],
)
def test_a_value_that_is_no_token_is_rejected(colour: Any, to: str, message: Message, reason: str) -> None:
    """A value in a field cannot choose a subject of its own: it must be one token, and the reason names the field."""
    run = run_filter(Reroute(to), message, colour=colour)
    with pytest.raises(Rejected, match=reason or None) as error:
        assert run.outcome
    assert error.value.by == "Reroute"
    assert "two words" not in str(error.value)  # a value may be personal, and reasons are shown everywhere
    assert run.next_calls == 0


@pytest.mark.parametrize("token", ["*", ">"])
def test_a_wildcard_is_refused_also_as_part_of_what_becomes_a_token(colour: Any, token: str) -> None:
    """A value that forms a token together with fixed text must not contain a wildcard either."""
    run = run_filter(Reroute("{body.x}{body.y}"), Message("a", {"x": token, "y": "b"}), colour=colour)
    assert isinstance(run.error, Rejected)
    assert run.next_calls == 0


@pytest.mark.parametrize(
    "found",
    [
        pytest.param("a..b", id="an empty token"),
        pytest.param("", id="nothing"),
        pytest.param("a.*", id="a wildcard"),
        pytest.param("two words", id="white space"),
        pytest.param(None, id="None"),
        pytest.param(5, id="a number"),
        pytest.param(["a"], id="a list"),
    ],
)
def test_what_a_function_returns_has_to_be_a_subject(colour: Any, found: Any) -> None:
    """If a function returns anything else, the publisher gets an error, and the message goes nowhere."""
    run = run_filter(Reroute(lambda message: found), Message("a"), colour=colour)
    assert isinstance(run.error, PipebusError)
    assert run.next_calls == 0


def test_an_error_of_the_function_is_the_filter_s_error(colour: Any) -> None:
    """The publisher gets the function's own error."""
    run = run_filter(Reroute(lambda message: message.body["origin"]), {}, colour=colour)
    with pytest.raises(KeyError, match="origin"):
        assert run.outcome


# --- settings ----------------------------------------------------------------------------------------------------------


async def asynchronous(message: Message) -> str:
    return "x"


@table(
    "to",
    [
        pytest.param("f.{body.__class__}", id="a dunder"),
        pytest.param("f.{body.x.__init__.__globals__}", id="a road to globals"),
        pytest.param("f.{body._secret}", id="a private field"),
        pytest.param("f.{headers._x}", id="a private header"),
        pytest.param("f.{body[0]}", id="an index"),
        pytest.param("f.{body.items[0].id}", id="an index in a list"),
        pytest.param("f.{body.*.id}", id="any field"),
        pytest.param("f.{body}", id="the whole body"),
        pytest.param("f.{headers}", id="all headers"),
        pytest.param("f.{headers.a.b}", id="deep headers"),
        pytest.param("f.{time}", id="the time"),
        pytest.param("f.{reply_to}", id="the reply address"),
        pytest.param("f.{nothing}", id="an unknown field"),
        pytest.param("f.{}", id="an empty field"),
        pytest.param("f.{0}", id="a position"),
        pytest.param("f.{body..x}", id="an empty part"),
        pytest.param("f.{body.x!r}", id="a conversion"),
        pytest.param("f.{body.x:>10}", id="a format"),
        pytest.param("f.{body.x", id="an open brace"),
        pytest.param("f.body.x}", id="a closing brace"),
        pytest.param("f..{body.x}", id="an empty token"),
        pytest.param("f.*", id="a wildcard"),
        pytest.param("f.>", id="the other wildcard"),
        pytest.param("two words", id="white space"),
        pytest.param("", id="nothing"),
        pytest.param(None, id="None"),
        pytest.param(5, id="a number"),
        pytest.param(asynchronous, id="an async function"),
    ],
)
def test_wrong_settings_are_refused_where_they_are_written(to: Any) -> None:
    """The error names `Reroute.to`."""
    with pytest.raises(PipelineError, match=r"Reroute\.to"):
        Reroute(to)


def test_it_stands_on_the_publish_side_only() -> None:
    """A delivery already has its subject, so `at="delivery"` is refused, and the error says what to do instead."""
    with pytest.raises(PipelineError, match="publish"):
        Bus().use(Reroute("b"), at="delivery")
    with pytest.raises(PipelineError, match="publish"):
        Bus().subscribe("a", lambda message: None, filters=[Reroute("b")])

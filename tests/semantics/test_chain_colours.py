"""Colour, guarantee 17: the same filter gives the same outcomes in a sync and in an async chain."""

from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from pipebus import (
    Around,
    Bus,
    Dropped,
    Handled,
    Pipeline,
    PipelineError,
    Receipt,
    ReceiveTimeout,
    Rejected,
    Transform,
    branch,
    when,
)
from pipebus.filters import Enrich, Expire, Log, Reroute, SetHeaders, Tap, Validate
from values_helpers import named


class Order(BaseModel):
    id: int


ORDER = {"id": "1"}


def fails(message):
    raise LookupError("no such tenant")


# filter, body as published, what arrives: (subject, body, headers)
PASSING = {
    "Log": (Log(body=True, headers=True), ORDER, ("orders.created", ORDER, {})),
    "Validate": (Validate({"orders.>": Order}), ORDER, ("orders.created", Order(id=1), {})),
    "Validate keeps": (Validate({"orders.>": Order}, replace=False), ORDER, ("orders.created", ORDER, {})),
    "Validate others": (Validate({"bills.>": Order}), "no order", ("orders.created", "no order", {})),
    "Enrich": (Enrich({"shop": "acme"}), ORDER, ("orders.created", {"id": "1", "shop": "acme"}, {})),
    "Enrich asks": (Enrich(lambda m: {"of": m.subject}), ORDER, ("orders.created", {"id": "1", "of": "orders.created"}, {})),
    "Enrich gaps": (Enrich({"id": "2", "n": 1}, overwrite=False), ORDER, ("orders.created", {"id": "1", "n": 1}, {})),
    "SetHeaders": (SetHeaders({"tenant": "acme"}), None, ("orders.created", None, {"tenant": "acme"})),
    "SetHeaders asks": (SetHeaders({"of": lambda m: m.subject}), None, ("orders.created", None, {"of": "orders.created"})),
    "Tap": (Tap(lambda message: None), ORDER, ("orders.created", ORDER, {})),
    "Expire": (Expire(60.0), ORDER, ("orders.created", ORDER, {})),
    "when": (when("orders.>", SetHeaders({"a": "1"})), None, ("orders.created", None, {"a": "1"})),
    "branch": (branch(lambda message: True, SetHeaders({"a": "1"})), None, ("orders.created", None, {"a": "1"})),
    "Pipeline": (Pipeline(SetHeaders({"a": "1"}), Enrich({"b": 2})), {}, ("orders.created", {"b": 2}, {"a": "1"})),
}

# filter, body as published, error type, words of its text
REFUSING = {
    "Validate": (Validate({"orders.>": Order}), {"id": "x"}, Rejected, "rejected by Validate: id: "),
    "Validate named": (Validate({"orders.>": Order}, name="check-order"), {}, Rejected, "rejected by check-order: id: "),
    "Enrich": (Enrich({"a": 1}), "text", Rejected, "rejected by Enrich: the body is text"),
    "Enrich fails": (Enrich(fails), {}, LookupError, "no such tenant"),
    "SetHeaders": (SetHeaders({"a": lambda m: "x\ny"}), None, Rejected, "CR, LF and NUL"),
    "SetHeaders fails": (SetHeaders({"a": fails}), None, LookupError, "no such tenant"),
    "Tap": (Tap(fails), None, LookupError, "no such tenant"),
    "when": (when(fails, Tap(print)), None, LookupError, "no such tenant"),
}


@pytest.mark.parametrize(("filter", "body", "arrives"), PASSING.values(), ids=PASSING.keys())
def test_s17_a_built_in_filter_passes_the_same_message_in_every_chain(chain, kind, filter, body, arrives):
    """Sync or async, around a publish or a handler: the outcome and the message that arrives are the same."""
    result = chain.run(filter, body=body)

    assert result.error is None
    assert result.outcome == (Receipt(1) if kind.side == "publish" else Handled(None))
    assert [(m.subject, m.body, dict(m.headers)) for m in result.received] == [arrives]


@pytest.mark.parametrize(("filter", "body", "error", "text"), REFUSING.values(), ids=REFUSING.keys())
def test_s17_a_built_in_filter_refuses_the_same_message_in_every_chain(chain, filter, body, error, text):
    """The error has the same type, the same text and the same name in both colours."""
    result = chain.run(filter, body=body)

    assert type(result.error) is error
    assert text in str(result.error)
    assert result.received == []


@pytest.mark.parametrize(("ttl", "own"), [(0.5, None), (7200.0, 0.5)], ids=["the filter's", "the message's own"])
def test_s17_expire_drops_the_same_message_in_every_chain(chain, ttl, own, late):
    """A message that is too old is dropped, whether the filter or the message sets the bound."""
    with chain(late, Expire(ttl)) as running:
        result = running.send(headers={"own": str(own)})

    assert result.outcome == Dropped("expired", by="Expire")
    assert result.received == []


@pytest.fixture
def late():
    """A filter that makes a message an hour old."""

    class Late(Transform):
        def transform(self, message):
            own = message.headers["own"]
            return msgspec.structs.replace(message, time=message.time - 3600, ttl=None if own == "None" else float(own))

    return Late()


@pytest.mark.only(side="publish")
@pytest.mark.parametrize(
    ("to", "arrives"), [("bills.paid", "bills.paid"), ("orders.{body.id}", "orders.1"), (lambda message: "x", "x")], ids=named
)
def test_s17_reroute_changes_the_subject_alike(chain, to, arrives):
    """After a Reroute the message follows the route of its new subject, in both colours."""
    result = chain.run(Reroute(to), SetHeaders({"after": "yes"}), body=ORDER)

    assert result.outcome == Receipt(1)
    assert [(m.subject, dict(m.headers)) for m in result.received] == [(arrives, {"after": "yes"})]


@pytest.mark.only(side="publish")
def test_s17_reroute_refuses_alike(chain):
    """A missing field is the fault of the message, in both colours."""
    result = chain.run(Reroute("orders.{body.shop}"), body=ORDER)

    assert isinstance(result.error, Rejected)
    assert str(result.error) == "rejected by Reroute: cannot reroute: there is no body.shop"


class Switch(Around):
    """An Around that does everything an Around can do."""

    def __init__(self, does: str) -> None:
        self.does = does
        self.saw: list[Any] = []

    def around(self, message):
        if self.does == "drops":
            return Dropped("no")
        if self.does == "refuses":
            raise Rejected("no")
        try:
            outcome = yield message.with_headers(passed="yes")
        except Exception as error:
            self.saw.append(type(error))
            if self.does == "swallows":
                return Dropped("swallowed")
            raise
        self.saw.append(type(outcome))
        if self.does == "replaces":
            return Dropped("replaced")
        if self.does == "repeats":
            yield message
        return None


@pytest.mark.parametrize(
    ("does", "ends", "saw", "arrived"),
    [
        ("passes", None, ["ending"], 1),
        ("drops", Dropped("no", by="Switch"), [], 0),
        ("replaces", Dropped("replaced", by="Switch"), ["ending"], 1),
        ("repeats", None, ["ending"], 2),
    ],
    ids=["passes", "drops", "replaces", "repeats"],
)
def test_s17_an_around_of_the_user_s_own_ends_alike(chain, kind, does, ends, saw, arrived):
    """The application's own Arounds run in both colours from one source, like the built-in ones."""
    switch = Switch(does)
    ending = Receipt(1) if kind.side == "publish" else Handled(None)

    result = chain.run(switch)

    assert result.outcome == (ending if ends is None else ends)
    assert switch.saw == [type(ending) for _ in saw]
    assert len(result.received) == arrived


@pytest.mark.parametrize("does", ["swallows", "passes", "refuses"])
def test_s17_an_around_of_the_user_s_own_meets_errors_alike(chain, does):
    """An Around gets the error of the rest at its `yield`, and may swallow it or let it pass."""
    switch = Switch(does)

    result = chain.run(switch, fails=True)

    if does == "swallows":
        assert (result.outcome, result.error) == (Dropped("swallowed", by="Switch"), None)
        assert len(switch.saw) == 1
    elif does == "passes":
        assert switch.saw == [type(result.error)]
    else:
        assert isinstance(result.error, Rejected)
        assert (result.error.by, result.error.reasons, switch.saw) == ("Switch", ("no",), [])


@pytest.mark.only(side="publish")
@pytest.mark.parametrize("rule", ["drop", "dead_letter"])
def test_s17_on_error_rules_alike(chain, rule):
    """The rule of a Pipeline for its own errors is the same in both colours."""
    with chain(Pipeline(Tap(fails), on_error=rule)) as running:
        result = running.send()
        letters = [letter.error for letter in running.bus.dead_letters.list()]

    assert result.error is None
    assert isinstance(result.outcome, Dropped)
    assert result.outcome.by == "Tap"
    assert letters == (["LookupError: no such tenant"] if rule == "dead_letter" else [])


class Mover(Transform):
    """A Transform that changes the subject, and does not declare that it may."""

    def transform(self, message):
        return msgspec.structs.replace(message, subject="bills.paid")


def test_s17_a_change_of_subject_is_refused_alike(chain):
    """Only a rerouter may change a subject: the error names the filter that did, not one that passed it on."""

    result = chain.run(Tap(lambda message: None), Mover(), SetHeaders({"a": "1"}))

    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith("filter Mover changed the subject from 'orders.created' to 'bills.paid'")
    assert result.received == []


def test_s17_a_change_of_subject_is_refused_for_a_reader_too():
    """The Transforms of a reader may not change a subject either."""
    bus = Bus()
    subscription = bus.subscribe("orders.created", name="reader", filters=[Mover()])
    with bus:
        bus.publish("orders.created")
        with pytest.raises(ReceiveTimeout):
            subscription.receive(timeout=0)
        (letter,) = bus.dead_letters.list()

    assert letter.by == "Mover"
    assert "changed the subject" in letter.error

"""Validate: a body that does not fit its subject never reaches a mailbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, field_validator, model_validator

from pipebus import Bus, Message, PipebusError, Pipeline, PipelineError, Receipt, Ref, Rejected
from pipebus.filters import Validate
from pipebus.testing import Harness, run_filter
from tables import table


class Item(BaseModel):
    sku: str
    count: Annotated[int, Field(gt=0)]


class Order(BaseModel):
    id: int
    items: list[Item] = []
    password: str = ""

    @field_validator("password")
    @classmethod
    def not_short(cls, value: str) -> str:
        if value == "secret":
            raise ValueError("it is too well known")
        return value

    @model_validator(mode="after")
    def not_empty(self) -> Order:
        if self.id == 0:
            raise ValueError("an order has a number")
        return self


@dataclass
class Point:
    x: int
    y: int


def test_the_validated_value_becomes_the_body(colour: Any) -> None:
    """The subscriber gets a model as the body, not a mapping."""
    sent = Message("orders.created", {"id": "7"}, headers={"h": "v"}, id="m")
    run = run_filter(Validate({"orders.>": Order}), sent, colour=colour)
    assert run.outcome == Receipt(1)
    (message,) = run.forwards
    assert message.body == Order(id=7)
    assert (message.id, message.headers) == ("m", {"h": "v"})


def test_the_raw_body_is_kept_when_told(colour: Any) -> None:
    """`replace=False` checks the body and passes the same message on."""
    message = Message("orders.created", {"id": "7", "more": True})
    assert run_filter(Validate({"orders.>": Order}, replace=False), message, colour=colour).forwarded is message


def test_a_body_that_does_not_fit_is_rejected_with_all_its_errors(colour: Any, at: Any) -> None:
    """The error has a sentence for each problem that says where it is, and names the filter; no mailbox gets the message."""
    body = {"id": "x", "items": [{"sku": "a", "count": 1}, {"count": 0}]}
    run = run_filter(Validate({"orders.>": Order}), Message("orders.created", body), colour=colour, at=at)
    assert isinstance(run.error, Rejected)
    assert run.error.by == "Validate"
    assert run.error.reasons == (
        "id: Input should be a valid integer, unable to parse string as an integer",
        "items.1.sku: Field required",
        "items.1.count: Input should be greater than 0",
    )
    assert run.next_calls == 0


def test_a_rejection_is_counted_by_filter_and_reason(harness: Harness) -> None:
    """`stats()` counts rejections by filter and reason."""
    harness.bus.use(Validate({"ages": int}))
    bus = harness.start()
    for _ in range(2):
        with pytest.raises(Rejected):
            bus.publish("ages", "old")
    stats = bus.stats()
    (reason,) = stats["rejected"]["Validate"]
    assert stats["rejected"] == {"Validate": {reason: 2}}
    assert (stats["published"], stats["accepted"]) == (2, 0)


def test_a_name_says_who_refused(colour: Any) -> None:
    """If a chain has two validators, the name says which one refused."""
    chain = Pipeline(Validate({"a": str}, name="texts"), Validate({"a": int}, name="numbers"))
    run = run_filter(chain, Message("a", "x"), colour=colour)
    assert isinstance(run.error, Rejected)
    assert run.error.by == "numbers"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        pytest.param({"id": 1, "password": "secret"}, "password: it is too well known", id="a field's own validator"),
        pytest.param({"id": 0}, "an order has a number", id="the model's own validator"),
        pytest.param("no mapping", "Input should be a valid dictionary or instance of Order", id="no mapping at all"),
        pytest.param(None, "Input should be a valid dictionary or instance of Order", id="no body"),
    ],
)
def test_an_error_is_a_sentence_without_pydantic_s_own_words(body: Any, sentence: str) -> None:
    """The publisher reads the text that the author of the model wrote."""
    run = run_filter(Validate({"orders": Order}), Message("orders", body))
    assert isinstance(run.error, Rejected)
    assert run.error.reasons == (sentence,)


def test_a_rejection_does_not_repeat_the_values(colour: Any) -> None:
    """Reasons are logged and counted, so they do not contain values, which may be secrets."""
    secrets = {"id": "hunter2", "items": "hunter2", "password": ["hunter2"]}
    run = run_filter(Validate({"orders": Order}), Message("orders", secrets), colour=colour)
    assert isinstance(run.error, Rejected)
    assert len(run.error.reasons) == 3
    assert "hunter2" not in str(run.error)


@pytest.mark.parametrize(
    ("subject", "type_"),
    [
        pytest.param("orders.urgent", str, id="the first pattern that matches"),
        pytest.param("orders.created", int, id="the second"),
        pytest.param("bills", float, id="a literal"),
        pytest.param("bills.paid", str, id="none: as it came"),
    ],
)
def test_the_first_pattern_that_matches_counts(colour: Any, subject: str, type_: type) -> None:
    """The first pattern that matches decides, and a subject that no pattern matches is not checked."""
    validate = Validate({"orders.urgent": str, "orders.>": int, "bills": float})
    for _ in range(2):  # the second time from its cache
        run = run_filter(validate, Message(subject, "1"), colour=colour)
        assert [type(message.body) for message in run.forwards] == [type_]


@table(
    ("type_", "sent", "found"),
    [
        pytest.param(int, "36", 36, id="int"),
        pytest.param(list[int], ["1", 2], [1, 2], id="list[int]"),
        pytest.param(int | None, None, None, id="optional"),
        pytest.param(dict[str, float], {"a": "1.5"}, {"a": 1.5}, id="dict"),
        pytest.param(Point, {"x": "1", "y": 2}, Point(1, 2), id="dataclass"),
        pytest.param(Annotated[int, Field(gt=0)], 5, 5, id="annotated"),
    ],
)
def test_any_type_that_pydantic_understands_will_do(type_: Any, sent: Any, found: Any) -> None:
    """Any type that pydantic understands may be used, and not only models."""
    run = run_filter(Validate({"a": type_}), Message("a", sent))
    assert [message.body for message in run.forwards] == [found]


def test_a_class_that_pydantic_does_not_know_is_checked_as_it_is() -> None:
    """An object of a class that pydantic does not know passes if it is an instance of that class."""

    class Plain:
        pass

    validate, body = Validate({"a": Plain}), Plain()
    (message,) = run_filter(validate, Message("a", body)).forwards
    assert message.body is body
    assert isinstance(run_filter(validate, Message("a", object())).error, Rejected)


def test_mail_for_an_object_is_not_checked(colour: Any) -> None:
    """No pattern matches an object as a subject, not even ">"."""
    sent = Message(Ref("thing"), "text")
    assert run_filter(Validate({">": int}), sent, colour=colour).forwarded is sent


def test_an_error_in_a_validator_s_code_is_no_rejection(colour: Any) -> None:
    """A bug in a validator is not a rejection: the publisher gets the validator's own error."""

    class Buggy(BaseModel):
        id: int

        @field_validator("id")
        @classmethod
        def check(cls, value: int) -> int:
            raise ZeroDivisionError("oops")

    run = run_filter(Validate({"a": Buggy}), Message("a", {"id": 1}), colour=colour)
    with pytest.raises(ZeroDivisionError, match="oops"):
        assert run.outcome


def test_around_a_handler_a_refused_body_is_a_dead_letter_at_once(harness: Harness) -> None:
    """A rejection is final, so the handler's message is not tried again."""
    handled: list[Any] = []
    harness.bus.subscribe(
        "orders", lambda message: handled.append(message.body), name="s", filters=[Validate({">": Order})], attempts=5
    )
    bus = harness.start()
    bus.publish("orders", {"id": "none"})
    bus.publish("orders", {"id": 1})
    harness.drain()
    (letter,) = bus.dead_letters.list()
    assert handled == [Order(id=1)]
    assert (letter.by, letter.attempts) == ("Validate", 1)
    assert "id: Input should be a valid integer" in letter.error


@table(
    ("models", "text"),
    [
        pytest.param({}, "Validate.models", id="nothing to validate"),
        pytest.param(Order, "Validate.models", id="a model without a pattern"),
        pytest.param([("a", int)], "Validate.models", id="a list"),
        pytest.param({"a..b": int}, "a..b", id="an impossible pattern"),
        pytest.param({"a": "NoSuchType"}, "NoSuchType", id="a name that leads nowhere"),
        pytest.param({"a": 5}, "5", id="no type"),
    ],
)
def test_wrong_settings_are_refused_where_they_are_written(models: Any, text: str) -> None:
    """The error names the value that was found."""
    with pytest.raises(PipebusError, match=text):
        Validate(models)


def test_it_provides_what_other_filters_may_require() -> None:
    """A filter that requires "validated" must come after Validate."""

    class NeedsValid(Validate):
        requires = ("validated",)
        provides = ()

    needs, gives = NeedsValid({"a": int}), Validate({"a": int})
    with pytest.raises(PipelineError, match="requires"):
        Bus().use(needs, gives)
    Bus().use(gives, needs)

"""Validate: a body that is not what its subject promises never reaches a mailbox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, field_validator, model_validator

from pipebus import Bus, Message, PipebusError, PipelineError, Ref, Rejected
from pipebus.filters import Validate


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


def test_the_validated_value_becomes_the_body(through: Any) -> None:
    """Who reads the message has a model, not a mapping."""
    message = through(Validate({"orders.>": Order}), Message("orders.created", {"id": "7"}, headers={"h": "v"}, id="m")).message
    assert message.body == Order(id=7)
    assert (message.id, message.headers) == ("m", {"h": "v"})


def test_the_raw_body_is_kept_when_told(through: Any) -> None:
    """`replace=False` only looks."""
    message = Message("orders.created", {"id": "7", "more": True})
    assert through(Validate({"orders.>": Order}, replace=False), message).message is message


def test_a_body_that_does_not_fit_is_rejected_with_all_its_errors(through: Any) -> None:
    """Every error as a sentence that says where; nothing arrives, and it is counted by who and why."""
    body = {"id": "x", "items": [{"sku": "a", "count": 1}, {"count": 0}]}
    with pytest.raises(Rejected) as error:
        through(Validate({"orders.>": Order}), Message("orders.created", body))
    assert error.value.by == "Validate"
    assert error.value.errors == (
        "id: Input should be a valid integer, unable to parse string as an integer",
        "items.1.sku: Field required",
        "items.1.count: Input should be greater than 0",
    )


def test_a_rejection_is_counted_by_filter_and_reason() -> None:
    """`stats()` shows who refused how often, and why."""
    bus = Bus()
    bus.use(Validate({"ages": int}))
    with bus:
        for _ in range(2):
            with pytest.raises(Rejected):
                bus.publish("ages", "old")
        stats = bus.stats()
    (reason,) = stats["rejected"]["Validate"]
    assert stats["rejected"] == {"Validate": {reason: 2}}
    assert (stats["published"], stats["accepted"]) == (2, 0)


def test_a_name_says_who_refused(through: Any) -> None:
    """Two validators in one chain can be told apart."""
    with pytest.raises(Rejected) as error:
        through(Validate({"a": str}, name="texts"), Validate({"a": int}, name="numbers"), Message("a", "x"))
    assert error.value.by == "numbers"


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
    """What a model's author wrote is what the publisher reads."""
    with pytest.raises(Rejected) as error:
        Validate({"orders": Order}).transform(Message("orders", body))
    assert error.value.errors == (sentence,)


def test_a_rejection_does_not_repeat_the_values(through: Any) -> None:
    """Reasons are logged and counted; what was sent may be a secret."""
    with pytest.raises(Rejected) as error:
        through(Validate({"orders": Order}), Message("orders", {"id": "hunter2", "items": "hunter2", "password": ["hunter2"]}))
    assert len(error.value.errors) == 3
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("subject", "type_"),
    [
        pytest.param("orders.urgent", str, id="the first pattern that matches"),
        pytest.param("orders.created", int, id="the second"),
        pytest.param("bills", float, id="a literal"),
        pytest.param("bills.paid", str, id="none: as it came"),
    ],
)
def test_the_first_pattern_that_matches_counts(through: Any, subject: str, type_: type) -> None:
    """Patterns are looked through in their order; a subject that none matches is not checked."""
    validate = Validate({"orders.urgent": str, "orders.>": int, "bills": float})
    for _ in range(2):  # the second time from what it remembers
        assert type(through(validate, Message(subject, "1")).message.body) is type_


@pytest.mark.parametrize(
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
    """Not only models."""
    assert Validate({"a": type_}).transform(Message("a", sent)).body == found


def test_a_class_that_pydantic_does_not_know_is_checked_as_it_is() -> None:
    """An object of one's own passes if it is one."""

    class Plain:
        pass

    validate, body = Validate({"a": Plain}), Plain()
    assert validate.transform(Message("a", body)).body is body
    with pytest.raises(Rejected):
        validate.transform(Message("a", object()))


def test_mail_for_an_object_is_not_checked(through: Any) -> None:
    """No pattern matches it, ">" included."""
    assert through(Validate({">": int}), Message(Ref("thing"), "text")).outcome


def test_an_error_in_a_validator_s_code_is_no_rejection(through: Any) -> None:
    """A bug in a model is a bug: it reaches the publisher as what it is."""

    class Buggy(BaseModel):
        id: int

        @field_validator("id")
        @classmethod
        def check(cls, value: int) -> int:
            raise ZeroDivisionError("oops")

    with pytest.raises(ZeroDivisionError):
        through(Validate({"a": Buggy}), Message("a", {"id": 1}))


def test_around_a_handler_a_refused_body_is_a_dead_letter_at_once() -> None:
    """A rejection is for good: it is not tried again."""
    bus = Bus()
    handled: list[Any] = []
    bus.subscribe(
        "orders", lambda message: handled.append(message.body), name="s", filters=[Validate({">": Order})], attempts=5
    )
    with bus:
        bus.publish("orders", {"id": "none"})
        bus.publish("orders", {"id": 1})
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
    assert handled == [Order(id=1)]
    assert (letter.by, letter.attempts) == ("Validate", 1)
    assert "id: Input should be a valid integer" in letter.error


@pytest.mark.parametrize(
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
    """The error names what was found."""
    with pytest.raises(PipebusError, match=text):
        Validate(models)


def test_it_provides_what_other_filters_may_require() -> None:
    """A filter that requires "validated" has to stand behind it."""

    class NeedsValid(Validate):
        requires = ("validated",)
        provides = ()

    needs, gives = NeedsValid({"a": int}), Validate({"a": int})
    with pytest.raises(PipelineError, match="requires"):
        Bus().use(needs, gives)
    Bus().use(gives, needs)

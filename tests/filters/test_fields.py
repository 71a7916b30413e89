"""Fields: change the fields of bodies and headers without code."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import decimal
import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipebus import HeaderError, Message, PipebusError, Pipeline, PipelineError, Receipt, Rejected
from pipebus.filters import Fields, Validate
from pipebus.testing import Harness, check_filter, run_filter
from pipebus.testing.laws.laws import LAWS
from pipebus.values.expressions import Expression
from tables import table
from values_helpers import CALM, named


def shaped(filter: Fields, body: Any, headers: Mapping[str, str] | None = None) -> Message[Any]:
    return filter.transform(Message("orders.created", body, headers=headers or {}))


def refusals(filter: Fields, body: Any, headers: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(Rejected) as caught:
        shaped(filter, body, headers)
    return caught.value.reasons


# --- each verb -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rename", "body", "found"),
    [
        ({"body.a": "body.b"}, {"a": 1, "c": 2}, {"b": 1, "c": 2}),
        ({"body.a": "body.b.c.d"}, {"a": 1}, {"b": {"c": {"d": 1}}}),
        ({"body.a.b": "body.c"}, {"a": {"b": 1, "x": 2}}, {"a": {"x": 2}, "c": 1}),
        ({"body.a.b": "body.a.c"}, {"a": {"b": 1}}, {"a": {"c": 1}}),
        ({"body.a": "body.b"}, {"a": 1, "b": 2}, {"b": 1}),
        ({"body.a": "body.a"}, {"a": 1}, {"a": 1}),
        ({"body.a": "body.a.b"}, {"a": 1}, {"a": {"b": 1}}),
        ({"body.a": "body.b", "body.b": "body.c"}, {"a": 1, "b": 2}, {"b": 1, "c": 2}),
        ({"body.a": "body.b.x"}, {"a": 1, "b": {"y": 2}}, {"b": {"y": 2, "x": 1}}),
        ({"body.a": "body.b.x"}, {"a": 1, "b": None}, {"b": {"x": 1}}),
        ({"body.a": "body.b"}, {"a": None}, {"b": None}),
        ({"body.a": "body.b"}, {"a": {"deep": [1]}}, {"b": {"deep": [1]}}),
        ({"body.two words": "body.é-ü"}, {"two words": 1}, {"é-ü": 1}),
    ],
)
def test_fields_are_renamed(colour: Any, rename: dict[str, str], body: Any, found: Any) -> None:
    """Fields move between tables, missing tables are made, and all other fields stay as they are."""
    sent = Message("orders.created", body, headers={"h": "v"}, id="m")
    run = run_filter(Fields(rename=rename), sent, colour=colour)
    assert run.outcome == Receipt(1)
    (message,) = run.forwards
    assert message.body == found
    assert (message.id, message.subject, message.headers) == ("m", "orders.created", {"h": "v"})


def test_two_fields_change_places() -> None:
    """All renames happen at once, so two fields can swap their names without losing a value."""
    assert refusals(Fields(rename={"body.a": "body.b", "body.b": "body.c"}), {"a": 1}) == ("there is no body.b to rename",)
    assert shaped(Fields(rename={"body.a": "body.b", "body.b": "body.a"}), {"a": 1, "b": 2}).body == {"a": 2, "b": 1}


def test_fields_move_between_body_and_headers() -> None:
    """In headers, numbers and truth values become texts, as JSON writes them."""
    filter = Fields(
        rename={"headers.tenant": "body.tenant", "body.id": "headers.id", "body.ok": "headers.ok", "body.x": "headers.x"}
    )
    message = shaped(filter, {"id": 7, "ok": True, "x": decimal.Decimal("1.50"), "c": 1}, {"tenant": "acme", "other": "o"})
    assert message.body == {"tenant": "acme", "c": 1}
    assert message.headers == {"other": "o", "id": "7", "ok": "true", "x": "1.50"}


CASTS: list[tuple[str, Any, Any]] = [
    ("text", 1, "1"),
    ("text", 1.5, "1.5"),
    ("text", True, "true"),
    ("text", False, "false"),
    ("text", "x", "x"),
    ("text", decimal.Decimal("1.50"), "1.50"),
    ("text", datetime.date(2026, 1, 2), "2026-01-02"),
    ("int", "42", 42),
    ("int", "-42", -42),
    ("int", 42, 42),
    ("int", 42.0, 42),
    ("int", decimal.Decimal("3"), 3),
    ("int", str(2**70), 2**70),
    ("float", "12.50", 12.5),
    ("float", "1e3", 1000.0),
    ("float", 3, 3.0),
    ("float", decimal.Decimal("0.5"), 0.5),
    ("bool", "true", True),
    ("bool", "No", False),
    ("bool", "1", True),
    ("bool", 0, False),
    ("bool", True, True),
    ("decimal", "1.50", decimal.Decimal("1.50")),
    ("decimal", 1.1, decimal.Decimal("1.1")),
    ("decimal", 7, decimal.Decimal(7)),
    ("datetime", "2026-11-25T04:00:00Z", datetime.datetime(2026, 11, 25, 4, tzinfo=datetime.UTC)),
    ("datetime", "2026-11-25T04:00:00+02:00", datetime.datetime(2026, 11, 25, 2, tzinfo=datetime.UTC)),
    ("datetime", "1764043200.5", datetime.datetime(2025, 11, 25, 4, 0, 0, 500_000, datetime.UTC)),
    ("datetime", "20261125", datetime.datetime(2026, 11, 25)),
    ("datetime", 0, datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)),
    ("datetime", 1764043200.5, datetime.datetime(2025, 11, 25, 4, 0, 0, 500_000, datetime.UTC)),
    ("date", "2026-11-25", datetime.date(2026, 11, 25)),
    ("date", datetime.datetime(2026, 11, 25, 4), datetime.date(2026, 11, 25)),
    ("date", datetime.date(2026, 11, 25), datetime.date(2026, 11, 25)),
]


@table(("to", "value", "found"), CASTS, ids=str)
def test_fields_are_cast(to: Any, value: Any, found: Any) -> None:
    """A text or a number is converted to exactly the type that the setting names."""
    message = shaped(Fields(cast={"body.a.v": to}), {"a": {"v": value, "w": 1}})
    assert message.body == {"a": {"v": found, "w": 1}}
    assert type(message.body["a"]["v"]) is type(found)


@table(("to", "value", "found"), CASTS, ids=str)
def test_a_cast_of_what_is_cast_already_changes_nothing(to: Any, value: Any, found: Any) -> None:
    """Passing the filter twice gives the same message as passing it once."""
    assert shaped(Fields(cast={"body.v": to}), {"v": found}).body == {"v": found}


@table(
    ("to", "value"),
    [
        ("text", None), ("text", b"x"), ("text", []), ("text", {}), ("text", 10**5000),
        ("int", "12.5"), ("int", "12.0"), ("int", ""), ("int", "x"), ("int", 12.5), ("int", True), ("int", None),
        ("int", math.nan),
        ("int", math.inf), ("int", "9" * 5000), ("int", []), ("int", decimal.Decimal("NaN")), ("int", decimal.Decimal("1.5")),
        ("float", "x"), ("float", ""), ("float", True), ("float", None), ("float", 10**400), ("float", {}),
        ("bool", "on"), ("bool", 2), ("bool", ""), ("bool", None), ("bool", []), ("bool", math.nan), ("bool", "x"),
        ("decimal", "x"), ("decimal", ""), ("decimal", True), ("decimal", None), ("decimal", []),
        ("datetime", "soon"), ("datetime", ""),
        ("datetime", "1764043200500"), ("datetime", True), ("datetime", None), ("datetime", math.nan),
        ("datetime", math.inf),
        ("datetime", 1e17), ("datetime", -1e17), ("datetime", 1e20), ("datetime", 1e300), ("datetime", 10**400),
        ("datetime", []),
        ("date", "soon"), ("date", 5), ("date", None), ("date", ""), ("date", True),
    ],
    ids=lambda value: str(value)[:20] if not isinstance(value, int) or value < 10**30 else "huge",
)  # fmt: skip
def test_what_cannot_be_cast_is_refused(to: Any, value: Any) -> None:
    """The reason names the field and the expected type, and never the value, which may be a secret."""
    assert refusals(Fields(cast={"body.v": to}), {"v": value}) == (f"body.v is not of type {to}",)


@table(
    ("to", "value"),
    [
        ("float", "nan"), ("float", "inf"), ("float", "1e999"), ("decimal", "NaN"), ("decimal", "sNaN"),
        ("decimal", "Infinity"),
        ("int", "1_000"), ("int", "٤٢"), ("float", "1_0.5"), ("decimal", "1_000"),
    ],
)  # fmt: skip
def test_only_numbers_of_json_are_numbers(to: Any, value: str) -> None:
    """A number that only Python can write is refused, because JSON cannot contain it."""
    assert refusals(Fields(cast={"body.v": to}), {"v": value}) == (f"body.v is not of type {to}",)


def test_nothing_is_rounded() -> None:
    """A whole number that a float cannot hold is refused instead of changed."""
    for value in (2**53 + 1, str(2**53 + 1)):
        assert refusals(Fields(cast={"body.v": "float"}), {"v": value}) == ("body.v would lose digits as float",)
    assert shaped(Fields(cast={"body.v": "float"}), {"v": "0.1"}).body == {"v": 0.1}
    assert shaped(Fields(cast={"body.v": "float"}), {"v": 2**53}).body == {"v": float(2**53)}


def test_fields_are_set() -> None:
    """A field may be set to a value or by a function; missing tables are made; "body" means the whole body."""
    filter = Fields(
        set={"body.a": 1, "body.b.c": [2], "headers.h": "x", "headers.n": 5, "body.who": lambda message: message.subject}
    )
    message = shaped(filter, {"a": 0, "z": 9}, {"o": "o"})
    assert message.body == {"a": 1, "z": 9, "b": {"c": [2]}, "who": "orders.created"}
    assert message.headers == {"o": "o", "h": "x", "n": "5"}
    assert shaped(Fields(set={"body": {"all": "new"}}), {"old": 1}).body == {"all": "new"}
    assert shaped(Fields(set={"body.x": 1}), None).body == {"x": 1}


def test_functions_see_what_has_been_done_so_far() -> None:
    """A function sees the renamed and cast fields, and the fields that were set before its own."""
    filter = Fields(
        rename={"body.t": "body.total"},
        cast={"body.total": "float"},
        set={
            "body.twice": lambda message: message.body["total"] * 2,
            "headers.twice": Expression("to_string(body.twice)"),
            "body.seen": lambda message: message.headers["twice"],
        },
        remove=["body.total"],
    )
    message = shaped(filter, {"t": "1.5"})
    assert message.body == {"twice": 3.0, "seen": "3.0"}
    assert message.headers == {"twice": "3.0"}


def test_fields_are_removed() -> None:
    """Removing a field that is missing does nothing, and a table that becomes empty stays."""
    filter = Fields(remove=["body.card.number", "body.nope.deeper", "headers.secret", "headers.nope", "body.x"])
    message = shaped(filter, {"card": {"number": "4111"}, "x": 1, "y": 2}, {"secret": "s", "h": "v"})
    assert message.body == {"card": {}, "y": 2}
    assert message.headers == {"h": "v"}


def test_one_list_step_is_each_element(colour: Any) -> None:
    """The path "commits[].author.email" means that field in every element of the list, for removing, casting and setting."""
    commits = [{"id": "1", "author": {"email": "a", "name": "Ada"}}, {"id": "2"}, {"id": "3", "author": None}]
    filter = Fields(
        cast={"body.commits[].id": "int", "body.sizes[]": "float"},
        set={"body.commits[].tags": ["new"], "body.nobody[].x": 1},
        remove=["body.commits[].author.email"],
    )
    sent = Message("push", {"commits": commits, "sizes": ["1", "2.5"]})
    before = copy.deepcopy(sent.body)
    body = run_filter(filter, sent, colour=colour).forwarded.body
    assert body["commits"] == [
        {"id": 1, "author": {"name": "Ada"}, "tags": ["new"]},
        {"id": 2, "tags": ["new"]},
        {"id": 3, "author": None, "tags": ["new"]},
    ]
    assert body["sizes"] == [1.0, 2.5]
    assert "nobody" not in body
    assert sent.body == before
    body["commits"][0]["tags"].append("mine")
    assert body["commits"][1]["tags"] == ["new"]


def test_a_body_may_be_a_list() -> None:
    """The step directly behind "body" means the elements of the body itself."""
    assert shaped(Fields(remove=["body[].card"]), [{"card": 1, "id": 2}, {"id": 3}]).body == [{"id": 2}, {"id": 3}]


def test_a_list_step_that_finds_no_list_refuses_the_message() -> None:
    """A field that is to be removed never passes on; each reason comes once, however many elements there are."""
    removed = Fields(remove=["body.commits[].author.email"])
    assert refusals(removed, {"commits": {"author": {"email": "a"}}}) == (
        "body.commits[].author.email cannot be removed: body.commits is a table, not a list",
    )
    assert refusals(removed, {"commits": [{"author": "a"}, {"author": "b"}]}) == (
        "body.commits[].author.email cannot be removed: body.commits[].author is text, not a table",
    )
    assert refusals(Fields(cast={"body.rows[].n": "int"}), {"rows": [{"n": "x"}, {"n": "y"}, {}]}) == (
        "body.rows[].n is not of type int",
        "there is no body.rows[].n to cast",
    )


def test_elements_without_the_field_leave_the_message_as_it_is() -> None:
    """If no element changes, the filter passes the same message on."""
    sent = Message("a", {"commits": [{"id": 1}, {"id": 2}]})
    assert Fields(remove=["body.commits[].author.email"]).transform(sent) is sent


def test_the_order_is_rename_cast_set_remove(colour: Any) -> None:
    """The steps run in this order, however the settings are ordered."""
    filter = Fields(
        remove=["body.b"],
        set={"body.b": 5, "body.c": Expression("body.b")},
        cast={"body.b": "int"},
        rename={"body.a": "body.b"},
    )
    run = run_filter(filter, Message("a", {"a": "4"}), colour=colour)
    assert run.forwarded.body == {"c": 5}


def test_nothing_changed_is_the_same_message() -> None:
    """If nothing changes, the filter passes the same message on, and makes no copy."""
    sent = Message("a", {"x": 1}, headers={"h": "1"})
    assert Fields(remove=["body.nope", "headers.nope"]).transform(sent) is sent
    assert Fields(rename={"body.nope": "body.x"}, cast={"body.nope": "int"}, missing="skip").transform(sent) is sent


# --- what is refused -----------------------------------------------------------------------------------------------------


def test_a_missing_field_refuses_or_is_skipped() -> None:
    """The setting `missing` decides; if it skips a field, the filter still makes the other changes."""
    wanted = {"rename": {"body.a": "body.b", "body.c": "body.d"}, "cast": {"body.e": "int", "body.f": "int"}}
    assert refusals(Fields(**wanted), {"c": 1, "f": "2"}) == ("there is no body.a to rename", "there is no body.e to cast")
    assert shaped(Fields(**wanted, missing="skip"), {"c": 1, "f": "2"}).body == {"d": 1, "f": 2}
    assert refusals(Fields(rename={"headers.h": "body.h"}), {}) == ("there is no headers.h to rename",)


def test_a_field_that_is_none_is_there() -> None:
    """A field whose value is None can be renamed, but it cannot be cast to a number."""
    assert shaped(Fields(rename={"body.a": "body.b"}), {"a": None}).body == {"b": None}
    assert refusals(Fields(cast={"body.a": "int"}, missing="skip"), {"a": None}) == ("body.a is not of type int",)


def test_all_that_is_wrong_is_told_at_once_without_values(colour: Any, at: Any) -> None:
    """The error lists each field with its reason, without values, which may be secrets, and no mailbox gets the message."""
    filter = Fields(
        rename={"body.x": "body.y.z", "body.q": "body.r", "body.n": "headers.n"},
        cast={"body.c": "int", "body.d": "date", "body.e": "bool"},
        set={"body.s.t": 1, "headers.l": Expression("body.s2"), "body.ok": 1, "body.never": lambda message: 1 / 0},
        remove=["body.s.u", "body.nope.deeper"],
    )
    body = {"x": "hunter2", "y": "hunter2", "c": "hunter2", "e": "hunter2", "s": "hunter2", "s2": ["hunter2"], "n": ["hunter2"]}
    run = run_filter(filter, Message("orders.created", body), colour=colour, at=at)
    assert isinstance(run.error, Rejected)
    assert run.error.by == "Fields"
    assert run.error.reasons == (
        "there is no body.q to rename",
        "body.y.z cannot be set: body.y is text, not a table",
        "headers.n: it is a list, and a header is text",
        "body.c is not of type int",
        "there is no body.d to cast",
        "body.e is not of type bool",
        "body.s.t cannot be set: body.s is text, not a table",
        "headers.l: it is a list, and a header is text",
        "body.s.u cannot be removed: body.s is text, not a table",
    )
    assert "hunter2" not in str(run.error)
    assert run.next_calls == 0


def test_what_an_expression_refuses_is_one_of_all(colour: Any) -> None:
    """The error lists the failure of an expression together with all other failures."""
    filter = Fields(
        cast={"body.c": "int"},
        set={"body.l": Expression("length(body.x)"), "body.a": Expression("abs(body.y)"), "headers.h": Expression("body.list")},
    )
    run = run_filter(filter, Message("a", {"c": "x", "y": "hunter2", "list": []}), colour=colour)
    assert isinstance(run.error, Rejected)
    first, second, third, fourth = run.error.reasons
    assert first == "body.c is not of type int"
    assert "length(body.x)" in second
    assert "abs(body.y)" in third
    assert fourth == "headers.h: it is a list, and a header is text"
    assert "hunter2" not in str(run.error)


def test_functions_are_not_asked_about_what_is_half_done(colour: Any) -> None:
    """If a field cannot be renamed, the message is rejected, and functions that need the field do not run."""
    filter = Fields(rename={"body.cust": "body.customer"}, set={"body.label": lambda message: message.body["customer"].upper()})
    run = run_filter(filter, Message("a", {}), colour=colour)
    assert isinstance(run.error, Rejected)
    assert run.error.reasons == ("there is no body.cust to rename",)


def test_an_error_of_a_function_is_its_own(colour: Any) -> None:
    """An exception of a function is a failure and not a rejection."""
    run = run_filter(Fields(set={"body.x": lambda message: message.body["nope"]}), Message("a", {}), colour=colour)
    assert isinstance(run.error, KeyError)
    assert run.next_calls == 0


@pytest.mark.parametrize("value", ["two\nlines", "a\0b", "\ud800"])
def test_a_header_that_cannot_be_carried_refuses_the_message(value: str) -> None:
    """A header that is not a text is refused, whether it was renamed or set, together with all other problems."""
    for filter in (
        Fields(rename={"body.a": "headers.h"}, cast={"body.c": "int"}),
        Fields(set={"headers.h": Expression("body.a")}, cast={"body.c": "int"}),
    ):
        errors = refusals(filter, {"a": value, "c": "x"})
        assert any('header "h" contains' in error for error in errors)
        assert "body.c is not of type int" in errors


def test_what_an_expression_does_not_find_is_no_header() -> None:
    """An expression that finds nothing gives null, which is not a text, so the message is refused."""
    (error,) = refusals(Fields(set={"headers.h": Expression("body.nope")}), {})
    assert error.startswith("headers.h: ")
    assert error.endswith(": it is nothing, and a header is text")


class Card(BaseModel):
    number: str
    holder: str = "Ada"


@dataclasses.dataclass
class Plain:
    number: str = "4111"


@pytest.mark.parametrize("body", [Card(number="4111"), Plain(), {"card": Card(number="4111")}], ids=repr)
def test_a_field_of_a_model_is_not_passed_over(body: Any) -> None:
    """A field that is to be removed never passes on, also if `Validate` has made a model of the body."""
    path = "body.card.number" if isinstance(body, dict) else "body.number"
    run = run_filter(Fields(remove=[path]), Message("a", body))
    if run.error is None:
        assert "4111" not in repr(run.forwarded.body)
    else:
        assert isinstance(run.error, Rejected)
        assert "not a table" in run.error.reasons[0]


def test_behind_validate_the_model_is_told_as_one(harness: Harness) -> None:
    """After Validate the body is a model, and the error says so; it does not say that the field is missing."""
    chain = Pipeline(Validate({">": Card}), Fields(rename={"body.number": "body.n"}))
    run = run_filter(chain, Message("a", {"number": "4111"}))
    assert isinstance(run.error, Rejected)
    assert "Card" in run.error.reasons[0]
    assert "not a table" in run.error.reasons[0]


def test_refusals_are_counted_by_field(harness: Harness) -> None:
    """There is one reason for each field, however many values were refused."""
    harness.bus.use(Fields(cast={"body.n": "int"}))
    bus = harness.start()
    for number in range(3):
        with pytest.raises(Rejected):
            bus.publish("a", {"n": f"x{number}"})
    assert bus.stats()["rejected"] == {"Fields": {"body.n is not of type int": 3}}


# --- messages stay as they came ------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c", "d"])
BODIES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["x", "7", "true", "2026-01-02"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
TABLES = st.dictionaries(NAMES, BODIES, max_size=4)
STEPS = st.sampled_from(["a", "b", "c", "d", "a[]"])
PATHS = st.one_of(
    st.lists(STEPS, min_size=1, max_size=3).map(lambda parts: ".".join(["body", *parts])), NAMES.map("headers.{}".format)
)
IN_BODY = PATHS.filter(lambda path: path.startswith("body."))
FILTERS = st.builds(
    dict,
    rename=st.dictionaries(PATHS, PATHS, max_size=3),
    cast=st.dictionaries(IN_BODY, st.sampled_from(["text", "int", "float", "bool", "decimal", "datetime", "date"]), max_size=2),
    set=st.dictionaries(PATHS, BODIES, max_size=3),
    remove=st.lists(PATHS, max_size=3),
    missing=st.sampled_from(["reject", "skip"]),
)


def frozen(value: Any) -> Any:
    """The same data in types that raise on every change."""
    if isinstance(value, dict):
        return MappingProxyType({key: frozen(inner) for key, inner in value.items()})
    return tuple(map(frozen, value)) if isinstance(value, list) else value


@CALM
@given(TABLES | BODIES, st.dictionaries(NAMES, st.sampled_from(["x", "7"]), max_size=3), FILTERS)
def test_the_message_that_came_stays_as_it_was(body: Any, headers: dict[str, str], settings: Any) -> None:
    """Whatever the filter renames, casts, sets and removes, other holders of the message see no change."""
    try:
        filter = Fields(**settings)
    except PipelineError:
        return
    sent = Message("a", body, headers=headers)
    before = copy.deepcopy(body)
    given_settings = copy.deepcopy(settings)
    found = []
    for message in (sent, sent.with_body(frozen(body))):
        try:
            made = filter.transform(message)
        except Rejected as error:
            assert error.reasons  # noqa: PT017
            found.append(error.reasons)
        else:
            found.append((json.loads(json.dumps(made.body, default=plainly)), dict(made.headers)))
            assert made.id == message.id
    assert sent.body == before
    assert repr(sent.body) == repr(before)
    assert dict(sent.headers) == headers
    assert settings == given_settings
    for path in settings["remove"]:
        if not isinstance(found[0], tuple) or not isinstance(found[0][0], dict):
            break
        at: Any = {"body": found[0][0], "headers": found[0][1]}
        for part in path.split(".")[:-1]:
            at = at.get(part) if isinstance(at, dict) else None
        assert not isinstance(at, dict) or path.split(".")[-1] not in at


def plainly(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


@CALM
@given(TABLES, st.permutations(["a", "b", "c", "d"]))
def test_a_permutation_of_names_loses_nothing(body: dict[str, Any], names: list[str]) -> None:
    """If fields are renamed to each other's names, every value is kept."""
    body = {"a": 1, "b": 2, "c": 3, "d": 4} | body
    rename = {f"body.{old}": f"body.{new}" for old, new in zip("abcd", names, strict=True) if old != new}
    if rename:
        assert shaped(Fields(rename=rename), body).body == {new: body[old] for old, new in zip("abcd", names, strict=True)}


def test_what_is_set_is_each_messages_own() -> None:
    """A handler that adds to a list changes only its own message, and the settings stay as they were written."""
    filter = Fields(set={"body.tags": [], "body.t": {"a": []}})
    first = shaped(filter, {})
    first.body["tags"].append("mine")
    first.body["t"]["a"].append("mine")
    assert shaped(filter, {}).body == {"tags": [], "t": {"a": []}}


def test_tables_that_are_not_touched_are_shared() -> None:
    """The parts of a large body that do not change are shared, not copied."""
    body = {"a": {"x": 1}, "large": {"rows": [1, 2, 3]}}
    assert shaped(Fields(remove=["body.a.x"]), body).body["large"] is body["large"]


# --- settings ------------------------------------------------------------------------------------------------------------


async def asynchronous(message: Message) -> str:
    return "x"


@table(
    ("settings", "says"),
    [
        ({}, "nothing to do; give rename, cast, set or remove"),
        ({"rename": {}, "remove": []}, "nothing to do"),
        ({"rename": [("body.a", "body.b")]}, "Fields.rename"),
        ({"rename": {"a": "body.b"}}, "Fields.rename"),
        ({"rename": {"body.a": "b"}}, "Fields.rename"),
        ({"rename": {"body.a": 5}}, "Fields.rename"),
        ({"rename": {5: "body.a"}}, "Fields.rename"),
        ({"rename": {"body": "body.a"}}, "Fields.rename"),
        ({"rename": {"body.a": "headers.a.b"}}, "Fields.rename"),
        ({"rename": {"body.a": "headers.pipebus-secret"}}, "reserved"),
        ({"rename": {"body.a": "headers.two words"}}, "two words"),
        ({"cast": "int"}, "Fields.cast"),
        ({"cast": {"body.a": "integer"}}, "text, int, float, bool, decimal, datetime"),
        ({"cast": {"body.a": int}}, "text, int, float, bool, decimal, datetime"),
        ({"cast": {"body.a": []}}, "text, int, float, bool, decimal, datetime"),
        ({"cast": {"headers.a": "int"}}, "headers are texts and stay texts"),
        ({"cast": {"body": "int"}}, "Fields.cast"),
        ({"set": {"subject": "x"}}, "Fields.set"),
        ({"set": {"headers": {}}}, "Fields.set"),
        ({"set": {"body.": 1}}, "Fields.set"),
        ({"set": {"body..x": 1}}, "Fields.set"),
        ({"set": {" body.x": 1}}, "Fields.set"),
        ({"set": {"headers.h": "two\nlines"}}, "CR, LF"),
        ({"set": {"headers.h": ["x"]}}, "headers.h"),
        ({"set": {"headers.pipebus-secret": "x"}}, "reserved"),
        ({"set": {"body.x": asynchronous}}, "is async"),
        ({"remove": ["body.commits[0].author"]}, 'one "[]" after the name of a list'),
        ({"remove": ["body.commits[*].author"]}, "redact"),
        ({"remove": ["body.*.email"]}, "no other [ ] or *"),
        ({"remove": ["body.a[].b[].c"]}, 'one "[]"'),
        ({"remove": ["body.a[][].c"]}, 'one "[]"'),
        ({"remove": ["body.[].c"]}, "is not a field"),
        ({"cast": {"body.a*": "int"}}, "no other [ ] or *"),
        ({"set": {"body.a[x]": 1}}, "no other [ ] or *"),
        ({"rename": {"body.a[].b": "body.a[].c"}}, "a field is renamed once"),
        ({"remove": ["headers.a[]"]}, "is not a field"),
        ({"remove": "body.x"}, "it is a list of paths"),
        ({"remove": ["x"]}, "Fields.remove"),
        ({"remove": ["body"]}, "Fields.remove"),
        ({"remove": [5]}, "Fields.remove"),
        ({"remove": 5}, "Fields.remove"),
        ({"remove": {"body.x": 1}}, "Fields.remove"),
        ({"remove": ["body.x"], "missing": "skp"}, "Fields.missing"),
        ({"remove": ["body.x"], "missing": None}, "Fields.missing"),
    ],
    ids=named,
)
def test_wrong_settings_are_refused_where_they_are_written(settings: Any, says: str) -> None:
    """The error names the setting, and is raised before the first message."""
    with pytest.raises(PipebusError) as caught:
        Fields(**settings)
    assert says in str(caught.value)
    assert isinstance(caught.value, (PipelineError, HeaderError))


@pytest.mark.parametrize(
    ("filter", "options"),
    [
        (Fields(set={"headers.seen": "yes"}), {}),
        (Fields(set={"body": {"new": 1}}, remove=["headers.x"]), {}),
        (Fields(rename={"body.a": "body.b"}, cast={"body.n": "int"}, missing="skip"), {}),
        (
            Fields(rename={"body.a": "body.b"}, cast={"body.n": "int"}),
            {"messages": [Message("a", {"a": {"x": [1]}, "n": "5"})]},
        ),
        (Fields(set={"body.b": Expression("body.a")}, remove=["body.a"]), {"messages": [Message("a", {"a": {"x": [1]}})]}),
        (Fields(rename={"body.a": "headers.a"}), {"messages": [Message("a", {"a": "x"})], "at": "delivery"}),
    ],
    ids=["header", "body", "skip", "rename", "set", "delivery"],
)
@pytest.mark.thorough
def test_it_keeps_every_law(filter: Any, options: dict[str, Any]) -> None:
    """Fields keeps the laws that every filter must keep."""
    held = check_filter(filter, **options, examples=3)
    assert {law.name for law in LAWS}.difference(held) <= {"keeps its word"}


def test_it_describes_itself(harness: Harness) -> None:
    """`describe` lists the settings, and expressions as they were written."""
    harness.bus.use(Fields(rename={"body.a": "body.b"}, set={"body.x": Expression("body.b"), "body.y": [1]}))
    (node,) = harness.bus.describe()["publish"]
    assert node["settings"]["rename"] == {"body.a": "body.b"}
    assert node["settings"]["set"] == {"body.x": {"expr": "body.b"}, "body.y": [1]}

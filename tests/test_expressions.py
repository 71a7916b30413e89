"""
Expressions: which ones are refused when they are written, what they return for a message, and that they raise only `Rejected`.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import json
import math
import re
import resource
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jmespath
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from pipebus import Bus, Message, Pipeline, PipelineError, Receipt, Rejected, branch, when
from pipebus.filters import Enrich, Log, SetHeaders
from pipebus.foreign.packages import install
from pipebus.message.codec import JsonCodec
from pipebus.testing import run_filter
from pipebus.values.compiling import DEEPEST, FIELDS, LONGEST
from pipebus.values.expressions import Condition, Expression
from pipebus.values.json_data import plain
from scale_helpers import examples
from tables import table
from values_helpers import CALM, environment


def ask(text: str, body: Any = None, **fields: Any) -> Any:
    return Expression(text)(Message("orders.created", body, **fields))


def decide(text: str, body: Any = None, **fields: Any) -> bool:
    return Condition(text)(Message("orders.created", body, **fields))


def refused(text: Any) -> str:
    with pytest.raises(PipelineError) as caught:
        Expression(text)
    return str(caught.value)


def rejected(text: str, body: Any = None, kind: type[Expression] = Expression) -> str:
    expression = kind(text)
    with pytest.raises(Rejected) as caught:
        expression(Message("orders.created", body))
    (reason,) = caught.value.reasons
    return reason


# --- what they say -------------------------------------------------------------------------------------------------------


@table(
    ("text", "found"),
    [
        ("subject", "orders.created"),
        ("key", "k"),
        ("id", "m"),
        ("time", 5.0),
        ("ttl", 60.0),
        ("reply_to", "answers"),
        ("correlation_id", "c"),
        ("headers.tenant", "acme"),
        ('headers."x-tenant"', "dash"),
        ("body.total", 120),
        ("body.items[0].sku", "tea"),
        ("body.items[-1].qty", 3),
        ("body.items[*].qty", [1, 3]),
        ("body.items[?qty > `1`].sku", ["honey"]),
        ("body.items[?qty > `1`] | [0].sku", "honey"),
        ("length(body.items)", 2),
        ("sum(body.items[*].qty)", 4),
        ("sort_by(body.items, &qty)[-1].sku", "honey"),
        ("max_by(body.items, &qty).sku", "honey"),
        ("body.{a: total, b: items[0].sku}", {"a": 120, "b": "tea"}),
        ("[subject, body.total]", ["orders.created", 120]),
        ("join('-', body.items[*].sku)", "tea-honey"),
        ("not_null(body.nope, body.total)", 120),
        ("starts_with(subject, 'orders.')", True),
        ("contains(keys(body), 'total')", True),
        ("to_string(body.total)", "120"),
        ("body.nope", None),
        ("body.nope.deeper[3]", None),
        ("body.total.deeper", None),
        ("`5`", 5),
        ("'5'", "5"),
        ("`{\"a\": [1]}`", {"a": [1]}),
        ("@.body.total", 120),
        ("type(@)", "object"),
        ("body", {"total": 120, "items": [{"sku": "tea", "qty": 1}, {"sku": "honey", "qty": 3}]}),
    ],
)  # fmt: skip
def test_they_say_what_jmespath_says_of_the_message(text: str, found: Any) -> None:
    """An expression can use the subject, the body, the headers and every other field of a message."""
    body = {"total": 120, "items": [{"sku": "tea", "qty": 1}, {"sku": "honey", "qty": 3}]}
    message = Message(
        "orders.created", body, headers={"tenant": "acme", "x-tenant": "dash"}, key="k", id="m", time=5.0, ttl=60.0,
        reply_to="answers", correlation_id="c",
    )  # fmt: skip
    assert Expression(text)(message) == found


def test_all_of_a_message_can_be_seen() -> None:
    """`@` has each field, and no more."""
    assert sorted(ask("keys(@)")) == sorted(FIELDS)
    assert ask("@")["subject"] == "orders.created"
    assert ask("[ttl, key, reply_to, correlation_id]") == [None] * 4


@table(
    ("text", "body", "found"),
    [
        ("body.total > `100`", {"total": 120}, True),
        ("body.total > `100`", {"total": 100}, False),
        ("body.total >= `100.0`", {"total": 100}, True),
        ("body.kind == 'order'", {"kind": "order"}, True),
        ("body.kind == 'order'", {}, False),
        ("body.kind != 'order'", {}, True),
        ("body.ok", {"ok": True}, True),
        ("!(body.nope)", {}, True),
        ("!(body.ok)", {"ok": True}, False),
        ("body.a == null_here", None, None),
        ("body.a == `1`", {"a": True}, False),
        ("body.a == `true`", {"a": 1}, False),
        ("body.a == body.b", {"a": [1, {"x": 2}], "b": [1, {"x": 2}]}, True),
        ("body.kind == 'a' || body.kind == 'b'", {"kind": "b"}, True),
        ("body.kind == 'a' && body.total > `1`", {"kind": "a", "total": 2}, True),
        ("body.name < 'm'", {"name": "ada"}, True),
        ("length(body[?a > `1`]) > `0`", [{"a": 2}], True),
    ],
)
def test_conditions_are_true_or_false(text: str, body: Any, found: bool | None) -> None:
    """Numbers compare as numbers, texts as texts; `true` is not 1."""
    if found is None:
        assert "null_here" in refused(text)
    else:
        assert decide(text, body) is found


# --- what is refused when it is written ----------------------------------------------------------------------------------


@table(
    ("text", "says"),
    [
        ("bdy.total", 'no message has "bdy"; did you mean "body"?'),
        ("header.tenant", 'no message has "header"; did you mean "headers"?'),
        ("payload.total",
        "no message has \"payload\"; a field of the body is body.payload; write a text in single quotes: 'payload'"),
        ("length(bdy.items)", 'no message has "bdy"; did you mean "body"?'),
        ("[subject, bdy]", 'no message has "bdy"; did you mean "body"?'),
        ("{a: bdy.x}", 'no message has "bdy"; did you mean "body"?'),
        ("bdy[0]", 'no message has "bdy"; did you mean "body"?'),
        ("bdy[*].x", 'no message has "bdy"; did you mean "body"?'),
        ("bdy[?x]", 'no message has "bdy"; did you mean "body"?'),
        ("bdy[]", 'no message has "bdy"; did you mean "body"?'),
        ("bdy.*", 'no message has "bdy"; did you mean "body"?'),
        ("bdy | x", 'no message has "bdy"; did you mean "body"?'),
        ("!bdy", 'no message has "bdy"; did you mean "body"?'),
        ("body.a && bdy", 'no message has "bdy"; did you mean "body"?'),
        ("body.a == `1` || bdy.x", 'no message has "bdy"; did you mean "body"?'),
        ("sort_by(bdy, &x)", 'no message has "bdy"; did you mean "body"?'),
        (
            'body.kind == "order"',
            "\"order\" in double quotes is a field, and no message has it; write a text in single quotes: 'order'",
        ),
        (
            'contains(body.a, "x")',
            "\"x\" in double quotes is a field, and no message has it; write a text in single quotes: 'x'",
        ),
        ("body.ok == true", "true is read as a field; write it in backticks: `true`"),
        ("body.ok != null", "null is read as a field; write it in backticks: `null`"),
        ("lenght(body)", 'JMESPath has no function "lenght"; did you mean "length"?'),
        ("body.items[?lenght(x) > `1`]", 'JMESPath has no function "lenght"; did you mean "length"?'),
        ("sort_by(body, &lenght(x))", 'JMESPath has no function "lenght"; did you mean "length"?'),
        ("a" * (LONGEST + 1), "an expression of 4,097 characters; at most 4,096"),
    ],
)  # fmt: skip
def test_what_no_message_has_is_told_when_it_is_written(text: str, says: str) -> None:
    """JMESPath itself would return null for it, message after message."""
    assert refused(text) == says


@table("text", ["body.total > 100", "body.a == -5", "body.a >= 1.5", "length(body) > 5", "body.a<1"])
def test_a_bare_number_is_told_with_the_backticks(text: str) -> None:
    """A number without backticks is everybody's first mistake, so the error shows how to write it."""
    said = refused(text)
    assert said.startswith("not an expression: ")
    assert said.endswith("; write numbers, true, false and null in backticks, as in `100`")


@table(
    ("text", "hint"),
    [
        ("body.kind == order", "single quotes"),
        ("order == body.kind", "single quotes"),
        ('"order" == body.kind', "single quotes"),
        ("body.a and body.b", "&&"),
        ("body.a or body.b", "||"),
        ("not body.a", "!"),
        ("body.kind = 'x'", "=="),
        ("headers.x-tenant == 'a'", 'headers."x-tenant"'),
        ("total > `5`", "body.total"),
        ("message.body.total", "body"),
    ],
)
def test_habits_from_other_languages_are_met_with_a_hint(text: str, hint: str) -> None:
    """The error suggests the next step, and avoids terms of the grammar."""
    assert hint in refused(text)


@table(
    "text",
    ["", " ", "body.", "body..x", "(body", "body)", "body[", "body[?", "body[?x", "'abc", "body.a'", '"abc', "&", "&&",
    "$.a", "body ? 1 : 2",
     "body.é", "\0", "body\n==", "length(", "length(body", "[", "{", "{a}", "{a:}", "@@", "body body", "`", "`1", "1",
     "body[1:2:0:3]", "=", "!"],
)  # fmt: skip
def test_what_is_no_expression_is_told_so(text: str) -> None:
    """The error is one line of a few words."""
    said = refused(text)
    assert said.startswith("not an expression: ")
    assert "\n" not in said
    assert len(said) < 250
    assert not said.endswith(("for expression", ":", " "))


@table("text", [None, 5, b"body", ["body"], Expression])
def test_what_is_no_text_is_refused(text: Any) -> None:
    """The error says where the expression is written that it must be a text."""
    assert "text" in refused(text)


@table("text", ["length()", "length(body, body)", "join(body)", "not_null()", "abs(body.a, body.b)"])
def test_a_function_of_other_arguments_is_refused_when_it_is_written(text: str) -> None:
    """Such an expression could never let a message pass."""
    assert re.search(r"argument", refused(text))


@table("text", ["!body.ok", "!body.ok && body.a", "body.a && !headers.b", "body.items[?!a.b]", "!body.a.b"])
def test_a_negation_of_less_than_it_seems_is_refused_when_it_is_written(text: str) -> None:
    """JMESPath reads `!body.ok` as `(!body).ok`, which is null for every message, so the error suggests the parentheses."""
    assert "!(" in refused(text)


def test_a_negation_of_the_whole_may_be_handed_on() -> None:
    """The part in front of a pipe counts as a whole."""
    assert ask("!(body.nope) | to_string(@)", {}) == "true"
    assert ask("(!(body.ok) || body.a) | @", {"ok": True, "a": "x"}) == "x"


def test_a_literal_that_is_no_json_is_refused() -> None:
    """JMESPath takes it for a text, so a typing mistake would never be equal to anything."""
    for text in ("body.total > `1O0`", "body.ok == `True`", "body.a == `[1,`"):
        assert "`" in refused(text)


def test_jmespath_is_an_extra() -> None:
    """Without it, the error says which package to install."""
    code = (
        "import sys\nsys.modules['jmespath'] = None\nfrom pipebus.values.expressions import Expression\n"
        "from pipebus import PipelineError\ntry:\n    Expression('body')\nexcept PipelineError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60, check=True
    )
    assert done.stdout == f"expressions need the package jmespath: {install('config')}\n"


# --- errors when a message passes ----------------------------------------------------------------------------------------


@table(
    ("text", "body", "says"),
    [
        ("body.total > `100`", {}, "body.total > `100` is null: a field is missing, or cannot be compared"),
        ("body.total > `100`", None, "body.total > `100` is null: a field is missing, or cannot be compared"),
        ("body.total > `100`", {"total": None}, "body.total > `100` is null: a field is missing, or cannot be compared"),
        ("body.a < body.b", {"a": {}, "b": {}}, "body.a < body.b is null: a field is missing, or cannot be compared"),
        ("body.total > `1` && body.a == 'x'", {"a": "x"}, "body.total > `1` && body.a == 'x' is null: "
         "a field is missing, or cannot be compared"),
        ("body.nope", {}, "body.nope is null: a field is missing, or cannot be compared"),
        ("body.total > `100`", {"total": "120"}, "body.total > `100`: a text and a number cannot be compared"),
    ],
)  # fmt: skip
def test_a_condition_that_is_neither_refuses_the_message(text: str, body: Any, says: str) -> None:
    """A condition that is neither true nor false refuses the message: false would let misspelled fields pass every filter."""
    assert rejected(text, body, Condition) == says


@table(
    ("found", "word"),
    [("x", "text"), (0, "number"), (1, "number"), ([], "list"), ([1], "list"), ({}, "table"), (1.5, "number")],
)
def test_a_condition_that_is_a_value_is_told_in_the_files_words(found: Any, word: str) -> None:
    """
    A text, a number or a list is neither true nor false; the error names its type in words that the author of a file knows.
    """
    assert rejected("body.x", {"x": found}, Condition) == f"body.x is a {word}, not true or false"


@table(
    ("text", "body"),
    [
        ("length(body)", 5), ("abs(body)", "x"), ("sum(body)", ["x"]), ("join(',', body)", [1]), ("sort(body)", [1, "a"]),
        ("max_by(body, &a)", [{"a": 1}, {"a": "x"}]), ("sort_by(body, &a)", [{"a": None}]), ("contains(body, 'a')", None),
        ("starts_with(body, 'a')", {}), ("ceil(body)", math.inf), ("ceil(body)", math.nan), ("body > `1`", "a"),
        ("`1` < body", "a"),
        ("body[?a > `1`]", [{"a": "x"}]), ("keys(body)", []), ("merge(body)", 1), ("avg(body)", [None]), ("reverse(body)", 1),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_of_a_body_refuses_it(text: str, body: Any) -> None:
    """The reason begins with the expression."""
    assert rejected(text, body).startswith(f"{text}: ")


@pytest.mark.parametrize(
    "text", ["abs(body.card)", "sum(body.cards)", "body.cards > `1` || abs(body.card) > `1`", "ceil(body.card)"]
)
def test_a_refusal_does_not_show_the_body(text: str) -> None:
    """A refusal reaches the publisher, the log and the counters, so it holds neither a secret nor a megabyte."""
    reasons = {rejected(text, {"card": card * 1000, "cards": [card]}) for card in ("hunter2", "4111")}
    assert len(reasons) == 1
    (reason,) = reasons
    assert "hunter2" not in reason
    assert len(reason) < 300


# --- bodies --------------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Mode(enum.StrEnum):
    FAST = "fast"


class Item(BaseModel):
    sku: str
    price: decimal.Decimal
    colour: Colour = Colour.RED


class Aliased(BaseModel):
    total: int = Field(1, alias="orderTotal")


@dataclasses.dataclass
class Order:
    id: int
    items: list[Item]
    at: datetime.datetime = datetime.datetime(2026, 11, 25, 4, 0, tzinfo=datetime.UTC)
    tags: frozenset[str] = frozenset({"new"})


@dataclasses.dataclass(slots=True, frozen=True)
class Slotted:
    id: int


@dataclasses.dataclass
class WithClassVar:
    id: int
    kind: ClassVar[str] = "order"


@dataclasses.dataclass
class WithInitVar:
    id: int
    extra: dataclasses.InitVar[int]

    def __post_init__(self, extra: int) -> None:
        self.id += extra


class Struct(msgspec.Struct):
    id: int


class Pair(NamedTuple):
    x: int
    y: int


ORDER = Order(7, [Item(sku="tea", price=decimal.Decimal("4.50")), Item(sku="honey", price=decimal.Decimal(9))])


@table(
    ("text", "body", "found"),
    [
        ("body.id", ORDER, 7),
        ("body.items[?to_number(price) > `5`].sku", ORDER, ["honey"]),
        ("sum(body.items[*].to_number(price))", ORDER, 13.5),
        ("body.items[0].colour == 'red'", ORDER, True),
        ("contains(body.tags, 'new')", ORDER, True),
        ("starts_with(body.at, '2026-11-25T04:00:00')", ORDER, True),
        ("body.sku", ORDER.items[0], "tea"),
        ("body.id", Slotted(5), 5),
        ("body.id", Struct(5), 5),
        ("body.id", MappingProxyType({"id": 5}), 5),
        ("body.id", collections.OrderedDict(id=5), 5),
        ("body.a.id", {"a": MappingProxyType({"id": 5})}, 5),
        ("body", Colour.RED, "red"),
        ("body > `2`", Level.HIGH, True),
        ("body == 'fast'", Mode.FAST, True),
        ("body", decimal.Decimal("0.10"), "0.10"),
        ("to_number(body) > `1`", decimal.Decimal("1.01"), True),
        ("body", datetime.date(2026, 1, 2), "2026-01-02"),
        ("body < '2026-02-01'", datetime.date(2026, 1, 2), True),
        ("body", datetime.time(4, 5), "04:05:00"),
        ("body", uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ("body[1]", (1, 2), 2),
        ("sort(body)", {3, 1, 2}, [1, 2, 3]),
        ("body == `true`", True, True),
        ("body.a", {"a": b"abc"}, "abc"),
        ("body.a", {"a": bytearray(b"abc")}, "abc"),
        ("body.a", {"a": 10**30}, 10**30),
    ],
)
def test_bodies_are_seen_as_the_tables_that_they_would_be_in_json(text: str, body: Any, found: Any) -> None:
    """Models, dataclasses, enums and dates look as they do in JSON, so an expression need not know Python."""
    assert ask(text, body) == found


@table(
    "value",
    [
        {1: "a"}, {1: "a", "x": []}, {True: "a", "x": []}, {None: "a", "x": []}, {Colour.RED: "a", "x": []},
        {decimal.Decimal(1): "a"},
        WithClassVar(5), WithInitVar(5, 1), Aliased(orderTotal=5), ORDER.at, {"at": ORDER.at}, datetime.timedelta(seconds=5),
        Pair(1, 2), collections.deque([1]), {"b": b"abc"}, [Level.HIGH, Mode.FAST], {"a": (1, {2})}, Slotted(5),
        uuid.UUID(int=5),
        [], {}, "", 0, None, 1.5, True, [[[]]], {"a": {"b": None}}, datetime.date(2026, 1, 2),
    ],
    ids=repr,
)  # fmt: skip
def test_an_expression_says_the_same_before_and_after_a_wire(value: Any) -> None:
    """
    A rule means the same in this process, where a filter sees what was published, and on a transport that encodes it as JSON.
    """
    codec = JsonCodec()
    sent = Message("a", {"value": value})
    arrived = codec.decode(codec.encode(sent))
    expression = Expression("body.value")
    assert expression(sent) == expression(arrived)
    assert Expression("to_string(body.value)")(sent) == Expression("to_string(body.value)")(arrived)


def test_what_is_plain_is_not_copied() -> None:
    """Most bodies are dicts of plain values; they cost nothing."""
    body = {"a": 1, "b": "x", "c": None}
    assert plain(body) is body
    assert plain("x") == "x"


def test_what_an_expression_returns_belongs_to_nobody_else() -> None:
    """
    A handler may change a value that was set from an expression without changing the next message's value or the expression.
    """
    for text in ("`[]`", '`{"a": []}`', "[`{}`]"):
        expression = Expression(text)
        found = expression(Message("a"))
        before = json.dumps(found)
        found.append(1) if isinstance(found, list) else found.update(x=1)
        for inner in found if isinstance(found, list) else list(found.values()):
            if isinstance(inner, dict):
                inner["x"] = 1
            elif isinstance(inner, list):
                inner.append(1)
        assert json.dumps(expression(Message("a"))) == before


def test_asking_changes_no_body() -> None:
    """Sorting, reversing and merging work on copies."""
    body = {"a": [3, 1, 2], "b": {"x": [1]}, "c": {"x": [2]}}
    before = json.dumps(body)
    for text in (
        "sort(body.a)",
        "reverse(body.a)",
        "sort_by(body.a, &@)",
        "merge(body.b, body.c)",
        "body.a[]",
        "map(&@, body.a)",
    ):
        ask(text, body)
    assert json.dumps(body) == before


class Hostile:
    """Every access to it fails."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("hostile")

    def __str__(self) -> str:
        raise RuntimeError("hostile")


class Endless(Mapping[str, Any]):
    """A mapping that never ends."""

    def __getitem__(self, key: str) -> Any:
        return self

    def __iter__(self) -> Iterator[str]:
        yield "a"

    def __len__(self) -> int:
        return 1


HOSTILE: dict[str, Callable[[], Any]] = {
    "itself": Hostile,
    "in a list": lambda: [Hostile()],
    "in a table": lambda: {"a": Hostile()},
    "as a key": lambda: {Hostile(): [1]},
    "endless": Endless,
    "bytes that are no text": lambda: {"a": b"\xff"},
}


@table("make", HOSTILE.values(), ids=HOSTILE)
def test_a_body_that_misbehaves_is_refused(make: Callable[[], Any]) -> None:
    """The error has a reason, as for any other body that an expression cannot use."""
    assert rejected("body", make()).startswith("body: ")


class Unread(Mapping[str, Any]):
    """A part of a body that nobody may look at."""

    def __getitem__(self, key: str) -> Any:
        raise AssertionError("read")

    __iter__ = __len__ = __getitem__  # type: ignore[assignment]


@table(
    ("text", "found"),
    [
        ("body.kind == 'push' && body.size > `1`", True),
        ("body.head.author.email", "ada@example.org"),
        ("body.commits[0].author.email", "ada@example.org"),
        ("body.commits[*].id", [1, 2]),
        ("body.commits[?id > `1`].author.name", ["Bob"]),
        ("body.commits[?author.name == 'Bob'] | [0].id", 2),
        ("body.commits[].files[].name", ["a.py", "b.py", "c.py"]),
        ("body.commits[-1:].author.name", ["Bob"]),
        ("body.commits[0].{who: author.name, id: id}", {"who": "Ada", "id": 1}),
        ("subject == 'orders.created' || body.kind == 'x'", True),
        ("@.body.head.author.name", "Ada"),
        ("body.nope.deeper[0].still[]", None),
    ],
)
def test_an_expression_reads_only_what_it_names(text: str, found: Any) -> None:
    """A large body costs no more than a small one: what the expression does not name is not even looked at."""
    ada, bob = {"name": "Ada", "email": "ada@example.org", "more": Unread()}, {"name": "Bob", "more": Unread()}
    files = [{"name": name, "patch": Unread()} for name in ("a.py", "b.py", "c.py")]
    commits = [
        {"id": 1, "author": ada, "files": files[:2], "more": Unread()},
        {"id": 2, "author": bob, "files": files[2:], "more": Unread()},
    ]
    body = {"kind": "push", "size": 2, "head": {"author": ada, "more": Unread()}, "commits": commits, "more": Unread()}
    assert ask(text, body) == found
    assert rejected("length(body.commits[*].files[])", body)  # a function reads all of its arguments


FIELD = st.sampled_from("abc")
TREES = st.recursive(
    st.sampled_from((None, True, False, 0, 1, "", "x")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD, inner, max_size=3),
    max_leaves=15,
)
READERS = st.recursive(
    st.just("body") | FIELD.map("body.{}".format),
    lambda inner: st.one_of(
        st.builds("{}.{}".format, inner, FIELD),
        st.builds("{}[{}]".format, inner, st.sampled_from(("0", "-1", "*", "", "1:", "?@", "?a", "?b.c", "?a == `1`"))),
        st.builds("{}[{}].{}".format, inner, st.sampled_from(("*", "", "?b")), FIELD),
        st.builds("{}[*].{}[].{}".format, inner, FIELD, FIELD),
        st.builds("{}.*.{}".format, inner, FIELD),
        st.builds("({} | {})".format, inner, st.sampled_from(("[0]", "a", "[*].b", "[]", "@", "[?c]", "length(@)"))),
        st.builds("{}.[{}, {}.{}]".format, inner, FIELD, FIELD, FIELD),
        st.builds("{}.{{x: {}, y: @}}".format, inner, FIELD),
        st.builds("({} {} {})".format, inner, st.sampled_from(("||", "&&", "==", "!=")), inner),
        st.builds("not_null({}, {})".format, inner, inner),
        st.builds("map(&{}, {})".format, FIELD, inner),
        st.builds("[!({})]".format, inner),
    ),
    max_leaves=4,
)


@settings(CALM, max_examples=examples(300, 2000))
@given(READERS, TREES)
def test_reading_less_never_changes_the_answer(text: str, body: Any) -> None:
    """An expression says what JMESPath itself says about the whole message."""
    found: Any
    try:
        found = Expression(text)(Message("orders.created", body))
    except Rejected:
        with pytest.raises(jmespath.exceptions.JMESPathError):
            jmespath.search(text, {"body": body})
    else:
        assert found == jmespath.search(text, {"body": body})


# --- depth, size, threads ------------------------------------------------------------------------------------------------


def nested(levels: int, wrap: Callable[[Any], Any]) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = wrap(found)
    return found


WRAPS: dict[str, Callable[[Any], Any]] = {
    "lists": lambda inner: [inner],
    "tables": lambda inner: {"a": inner},
    "tuples": lambda inner: (inner,),
    "proxies": lambda inner: MappingProxyType({"a": inner}),
    "dataclasses": Slotted,
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.parametrize("text", ["body", "to_string(body)", "body == body", "[body, body][]", "body.a.a"])
def test_a_body_that_is_nested_too_deeply_is_refused(text: str, wrap: Callable[[Any], Any]) -> None:
    """
    The error names the greatest depth, which does not depend on Python's own limit; a body that is less deep is evaluated as
    usual. A field of a list is nothing, so there the body is not read.
    """
    if text == "body.a.a" and wrap is WRAPS["lists"]:
        assert ask(text, [[[[1]]]]) is None
        return
    ask(text, nested(DEEPEST - 2, wrap))
    for levels in (DEEPEST + 1, 2_000, 20_000):
        body = nested(levels, wrap)
        assert f"nested in more than {DEEPEST} levels" in rejected(text, body)
        while not isinstance(body, (int, Slotted)):  # it would be torn down in one deep recursion
            body = body["a"] if isinstance(body, Mapping) else body[0]
        while isinstance(body, Slotted):
            body = body.id


def test_a_body_that_holds_itself_is_refused() -> None:
    """A body that holds itself has no end, so an expression rejects it."""
    body: list[Any] = []
    body.append(body)
    table: dict[str, Any] = {"x": 1}
    table["a"] = {"b": table}
    assert "levels" in rejected("body", body)
    assert "levels" in rejected("body.a.b", table)
    assert ask("body.a.b.x", table) == 1


@table(
    "text",
    [
        "(" * 2000 + "body" + ")" * 2000, "(" * 4000, "!" * 4000 + "body", "body" + "[0]" * 1300, "body" + ".a" * 2000,
        "body" + "[*]" * 1300, "body" + "[?a" * 1000 + "]" * 1000, "[" * 2000 + "body" + "]" * 2000, "body" + " | body" * 500,
        "||".join(["body"] * 600), "abs(" * 1000 + "body" + ")" * 1000, "`" + "[" * 2000 + "]" * 2000 + "`", "&" * 4000,
        "{a:" * 1000,
        "body == " * 500 + "body", "body[" + "1" * 4000 + "]", "`" + "1" * 4000 + "`", "'" + "x" * 4000 + "'",
        "body." + "x" * 4000,
        "body.{" + ",".join(f"k{n}: a" for n in range(500)) + "}", "[" + "body," * 800 + "body]", '"' + "\\\\" * 2000 + '"',
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_an_expression_of_any_depth_is_asked_or_refused(text: str) -> None:
    """No error of Python's own can occur, even on a deep stack."""

    def deeper(levels: int) -> None:
        if levels:
            return deeper(levels - 1)
        try:
            expression = Expression(text)
        except PipelineError as error:
            assert "\n" not in str(error)  # noqa: PT017
            assert "recursion" not in str(error)  # noqa: PT017
            return None
        for body in (None, {"a": {"a": [1]}}, [[[1]]], nested(90, lambda inner: [inner])):
            try:
                expression(Message("a", body))
            except Rejected as error:
                assert "recursion" not in str(error)  # noqa: PT017
        return None

    deeper(0)
    deeper(500)


def limited(code: str) -> str:
    """Return what a program prints, with limits of some seconds and half a gigabyte."""

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (6, 6))
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    head = "from pipebus import Message, PipebusError\nfrom pipebus.values.expressions import Expression\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
        preexec_fn=limits,
    )
    assert done.returncode == 0, f"it does not end, or takes all memory: {done.returncode} {done.stderr[-200:]}"
    return done.stdout


@pytest.mark.parametrize(
    ("leaf", "wrap"),
    [("[1]", "[body, body]"), ("[datetime.date(2026, 1, 2)]", "{'a': body, 'b': body}"), ("(1,)", "(body, body)")],
)
@pytest.mark.thorough
def test_a_body_that_holds_one_thing_many_times_is_refused(leaf: str, wrap: str) -> None:
    """Sixty lists of two, each of them twice in the next, hold more values than can be counted."""
    code = (
        f"import datetime\nbody = {leaf}\nfor _ in range(60): body = {wrap}\n"
        "try:\n    Expression('length(body)')(Message('a', body))\n"
        "except PipebusError as error:\n    print(type(error).__name__)"
    )
    assert limited(code).strip() == "Rejected"


@pytest.mark.thorough
def test_one_expression_may_be_asked_by_many_threads() -> None:
    """Their answers do not mix, and compiling at the same time works too."""
    shared = Condition("length(body.items[?qty > `1`]) > `0` && headers.n == to_string(body.n)")
    problems: list[object] = []
    start = threading.Barrier(8)

    def run(number: int) -> None:
        start.wait()
        for turn in range(200):
            has = (number + turn) % 2 == 0
            body = {"n": number, "items": [{"qty": 2 if has else 1}] * 3}
            own = Expression(f"body.n == `{number}` && length(body.items) == `{3}` && 'x{number}-{turn}'")
            message = Message("a", body, headers={"n": str(number)})
            if shared(message) is not has or own(message) != f"x{number}-{turn}":
                problems.append((number, turn))

    threads = [threading.Thread(target=run, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "items",
    "qty"]) | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4) | st.decimals()
    | st.datetimes() | st.uuids() | st.sampled_from([Colour.RED, Level.HIGH, ORDER, Slotted(1), Pair(1, 2), object(), int]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(["a", "b", "items"]) | st.integers() | st.none() | st.booleans(), inner, max_size=4)
    | st.tuples(inner, inner),
    max_leaves=12,
)  # fmt: skip
LIST = [
    "body", "@", "*", "body.a", "body.*", "body[*]", "body[]", "body[][]", "body[0]", "body[-1]", "body[::-1]", "body[1:]",
    "body.a.b.items[0]",
    "body.a > body.b", "body.a >= `1`", "body.a < 'm'", "body.a == body.b", "body != `null`", "!body", "body.a && body.b",
    "body || key",
    "body[?a > `1`]", "body[?a == b].items[]", "body.items[?qty > `1`] | [0]", "body.{x: a, y: b}", "[body, subject, headers]",
    "length(body)",
    "sort(body)", "sort_by(body, &a)", "max_by(body, &a)", "min(body)", "sum(body)", "avg(body)", "join(',', body)",
    "keys(body)",
    "values(body)", "merge(body, body.a)", "to_number(body)", "to_string(body)", "to_array(body)", "type(body)",
    "reverse(body)",
    "contains(body, 'a')", "contains(body.a, body.b)", "starts_with(body, 'a')", "abs(body)", "ceil(body.a)", "floor(body)",
    "map(&a, body)", "not_null(body.a, body.b, body)", "length(body[?type(@) == 'string'])", "headers.a", "ttl > `1`",
    "time > `1`",
]  # fmt: skip
COMPILED = [kind(text) for text in LIST for kind in (Expression, Condition)]


@CALM
@given(JSON | ANY)
@pytest.mark.thorough
def test_nothing_but_a_refusal_comes_of_any_body(body: Any) -> None:
    """Each of fifty expressions gives an answer about any body, or `Rejected` with a reason of one line."""
    message = Message("a.b", body, headers={"a": "x"})
    for expression in COMPILED:
        try:
            found = expression(message)
        except Rejected as error:
            (reason,) = error.reasons
            assert reason.startswith(expression.text)
            assert "\n" not in reason
        else:
            assert not isinstance(expression, Condition) or found in (True, False)
            json.dumps(found)


@CALM
@given(st.text("body.a[]*?&|!<>=`'\"(){}@,:-0123456789 \\xlengthsum", max_size=24) | st.text(max_size=12))
def test_whatever_is_written_is_an_expression_or_refused(text: str) -> None:
    """The only error is a refusal of one line, and an accepted expression can be evaluated."""
    try:
        expression = Expression(text)
    except PipelineError as error:
        assert "\n" not in str(error).replace(text, "")  # noqa: PT017
        return
    for body in (None, {"a": [1, "x"]}, [1, [2]]):
        try:
            json.dumps(expression(Message("a", body)))
        except Rejected as error:
            assert error.reasons  # noqa: PT017


# --- in chains -----------------------------------------------------------------------------------------------------------


def test_conditions_decide_detours_and_branches() -> None:
    """Conditions work in code as they do in a file."""
    chain = Pipeline(
        when(Condition("body.total > `100`"), SetHeaders({"size": "large"})),
        branch(Condition("body.kind == 'audit'"), SetHeaders({"road": "own"})),
        SetHeaders({"last": Expression("to_string(body.total)")}),
    )
    large = run_filter(chain, Message("a", {"total": 120, "kind": "order"}))
    assert [dict(one.headers) for one in large.forwards] == [{"size": "large", "last": "120"}]
    audit = run_filter(chain, Message("a", {"total": 5, "kind": "audit"}))
    assert [dict(one.headers) for one in audit.forwards] == [{"road": "own"}]


def test_a_condition_that_cannot_be_answered_rejects_the_message() -> None:
    """The publisher gets `Rejected`, which names the expression that failed."""
    run = run_filter(Pipeline(when(Condition("body.total > `100`"), Log())), Message("a", {}))
    assert isinstance(run.error, Rejected)
    assert run.error.reasons == ("body.total > `100` is null: a field is missing, or cannot be compared",)
    assert run.next_calls == 0


def test_expressions_add_fields() -> None:
    """`Enrich` takes one expression for the whole table, and `SetHeaders` one for each text."""
    run = run_filter(Enrich(Expression("{twice: sum([body.n, body.n])}")), Message("a", {"n": 2}))
    assert run.forwarded.body == {"n": 2, "twice": 4}


def test_an_expression_is_shown_as_it_was_written() -> None:
    """The text appears in `repr`, in `describe()` and in `explain()`."""
    expression = Condition("body.total > `100`")
    assert repr(expression) == "Expression('body.total > `100`')" or repr(expression) == "Condition('body.total > `100`')"
    assert expression.name == "body.total > `100`"
    bus = Bus()
    bus.use(when(expression, SetHeaders({"a": Expression("subject")})))
    (node,) = bus.describe()["publish"]
    assert node["when"] == {"expr": "body.total > `100`"}
    assert node["filters"][0]["settings"]["headers"] == {"a": {"expr": "subject"}}
    assert "body.total > `100`" in bus.explain("a")


def test_a_bus_with_expressions_passes_messages() -> None:
    """A message passes from the publisher to the mailbox through an expression."""
    bus = Bus()
    bus.use(when(Condition("headers.tenant == 'acme'"), SetHeaders({"mine": "yes"})))
    inbox = bus.subscribe("a")
    with bus:
        assert isinstance(bus.publish("a", 1, headers={"tenant": "acme"}), Receipt)
        assert inbox.receive(timeout=1.0).headers["mine"] == "yes"

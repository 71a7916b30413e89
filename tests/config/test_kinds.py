"""Settings: how a file writes values for annotations, how strictly they are read, and that a written value is read again."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import math
import sys
import tomllib
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, Optional, TypeVar, Union

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ImportString, SecretStr, field_validator
from typing_extensions import TypeAliasType, TypedDict

from pipebus import Bus, ConfigError, Message, Transform
from pipebus.bus.bus import engine_of
from pipebus.config.kinds.annotations import type_of
from pipebus.config.kinds.base import Loading, Setting
from pipebus.config.kinds.draft7 import from_pydantic
from pipebus.config.kinds.imports import Imports
from pipebus.config.problems import Bad, Unexportable
from pipebus.filters import (
    CircuitBreaker,
    Concurrency,
    Dedupe,
    Drop,
    Enrich,
    Expire,
    Fallback,
    Fields,
    Log,
    RateLimit,
    Redact,
    Redeliver,
    Reroute,
    Retry,
    SetEnvelope,
    SetHeaders,
    Sign,
    SizeLimit,
    Tap,
    Timeout,
    Validate,
    Verify,
)
from pipebus.values.expressions import Condition, Expression
from pipebus.values.quantities import Bytes, Seconds
from tables import table
from values_helpers import CALM, named

NAME = __name__
LOADING = Loading(Imports([NAME]), {}, {})


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mode(enum.StrEnum):
    FAST = "fast"


class Limit(BaseModel):
    count: int
    per: str = "minute"
    colour: Colour = Colour.RED

    @field_validator("per")
    @classmethod
    def known(cls, value: str) -> str:
        if value not in ("minute", "hour"):
            raise ValueError(f"no such time as {value}")
        return value


class Limits(BaseModel):
    default: Limit
    others: dict[str, Limit] = {}


@dataclasses.dataclass
class Window:
    start: datetime.time
    days: list[str] = dataclasses.field(default_factory=list)


def function(message: Message) -> Any:
    return message.subject


def other(value: int, more: str) -> int:
    return value


class Busy(Exception):
    """A user's own exception."""


def kind_of(hint: Any) -> Setting:
    """A setting with this annotation."""
    return Setting(type_of(hint), hint)


def read(hint: Any, value: Any) -> Any:
    return kind_of(hint).read(value, LOADING)


def refused(hint: Any, value: Any) -> str:
    with pytest.raises(Bad) as caught:
        read(hint, value)
    found = [caught.value.text, *(f"{'.'.join(map(str, one.path))}: {one.text}" for one in caught.value.details)]
    return "; ".join(text for text in found if text)


# --- what each annotation takes ------------------------------------------------------------------------------------------

READ: list[tuple[Any, Any, Any]] = [
    (str, "x", "x"),
    (str, "", ""),
    (bool, True, True),
    (int, 5, 5),
    (int, -5, -5),
    (float, 1.5, 1.5),
    (float, 2, 2.0),
    (Seconds, "200ms", 0.2),
    (Seconds, 5, 5.0),
    (Bytes, "64KiB", 65536),
    (Bytes, 10, 10),
    (Literal["a", "b"], "b", "b"),
    (Literal[1, 2], 2, 2),
    (Literal["a", 1, True], True, True),
    (Colour, "red", Colour.RED),
    (Level, 2, Level.HIGH),
    (Mode, "fast", Mode.FAST),
    (str | None, "x", "x"),
    (Optional[int], 5, 5),  # noqa: UP045
    (Union[int, str], "5", "5"),  # noqa: UP007
    (Union[int, str], 5, 5),  # noqa: UP007
    (int | bool, True, True),
    (bool | int, 1, 1),
    (float | str, "x", "x"),
    (Seconds | None, "1m", 60.0),
    (list[str], ["a"], ["a"]),
    (list[int], [], []),
    (list[Colour], ["red", "blue"], [Colour.RED, Colour.BLUE]),
    (list[Seconds], ["1s", 2], [1.0, 2.0]),
    (list[list[int]], [[1], []], [[1], []]),
    (Iterable[str], ["a"], ["a"]),
    (Sequence[str], ["a"], ["a"]),
    (tuple[str, ...], ["a", "b"], ("a", "b")),
    (tuple[int, str], [1, "a"], (1, "a")),
    (set[str], ["a", "b"], {"a", "b"}),
    (frozenset[int], [1, 2], frozenset({1, 2})),
    (collections.abc.Set[str], ["a"], ["a"]),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (Mapping[str, Any], {"a": [1, {"b": "x"}]}, {"a": [1, {"b": "x"}]}),
    (Mapping[str, list[int]], {"a": [1]}, {"a": [1]}),
    (list[int] | int, 5, 5),
    (list[int] | int, [5], [5]),
    (str | list[str], "a", "a"),
    (str | list[str], ["a"], ["a"]),
    (Mapping[str, int] | None, {"a": 1}, {"a": 1}),
    (Any, {"a": 1}, {"a": 1}),
    (object, [1], [1]),
    (Limit, {"count": 5}, Limit(count=5)),
    (Limit | None, {"count": 5, "colour": "blue"}, Limit(count=5, colour=Colour.BLUE)),
    (list[Limit], [{"count": 5}], [Limit(count=5)]),
    (Limits, {"default": {"count": 1}, "others": {"a": {"count": 2}}},
    Limits(default=Limit(count=1), others={"a": Limit(count=2)})),
    (Window, {"start": datetime.time(4), "days": ["mon"]}, Window(datetime.time(4), ["mon"])),
    (datetime.datetime, datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)),
    (datetime.date, datetime.date(2026, 1, 2), datetime.date(2026, 1, 2)),
    (Path, "/etc/x", Path("/etc/x")),
    (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
    (uuid.UUID, "12345678-1234-5678-1234-567812345678", uuid.UUID("12345678-1234-5678-1234-567812345678")),
    (Annotated[int, Field(gt=0)], 5, 5),
    (Annotated[Seconds, Field(gt=0)], "5s", 5.0),
    (Annotated[str, "some note"], "x", "x"),
    (type, "int", int),
    (type[Exception], "ConnectionError", ConnectionError),
    (type[Exception], f"{NAME}:Busy", Busy),
    (type[Exception] | tuple[type[Exception], ...], ["OSError", "ValueError"], (OSError, ValueError)),
    (type[Exception] | tuple[type[Exception], ...], "OSError", OSError),
    (Callable[[Message[Any]], Any], f"{NAME}:function", function),
    (Callable[[Message[Any]], Any], {"python": f"{NAME}:function"}, function),
    (Callable[[Message], Hashable] | None, f"{NAME}:function", function),
    (Callable[[int, str], int], f"{NAME}:other", other),
    (Callable[[int, str], int], {"python": f"{NAME}:other"}, other),
    (Callable[..., Any], f"{NAME}:other", other),
    (Callable, f"{NAME}:function", function),
    (str | Callable[[Message[Any]], str], f"{NAME}:function", f"{NAME}:function"),
    (str | Callable[[Message[Any]], str], {"python": f"{NAME}:function"}, function),
    (Mapping[str, str | Callable[[Message[Any]], str]], {"a": "x", "b": {"python": f"{NAME}:function"}},
    {"a": "x", "b": function}),
    (Mapping[str, Any | Callable[[Message[Any]], Any]], {"a": {"python": f"{NAME}:function"}, "b": {"c": 1}},
    {"a": function, "b": {"c": 1}}),
    (list[Callable[[Message[Any]], Any]], [f"{NAME}:function"], [function]),
]  # fmt: skip


@table(("hint", "value", "found"), READ, ids=lambda value: named(value)[:50])
def test_each_annotation_is_read_from_what_a_file_can_say(hint: Any, value: Any, found: Any) -> None:
    """The value has exactly the annotated type."""
    made = read(hint, value)
    assert made == found
    assert type(made) is type(found)


@table("hint", [Callable[[Message[Any]], Any], Callable[[Message], Any], Callable[[Any], Any], Callable[..., Any], Callable])
def test_a_function_of_a_message_may_be_an_expression(hint: Any) -> None:
    """This also holds if the annotation does not say what the function takes."""
    found = read(hint, {"expr": "body.total"})
    assert isinstance(found, Expression)
    assert found(Message("a", {"total": 5})) == 5


@pytest.mark.parametrize(
    "hint", [Callable[[int, str], int], Callable[[], int], Callable[[str], str], Callable[[bytes], Message]]
)
def test_a_function_of_something_else_is_no_expression(hint: Any) -> None:
    """An expression can only be about a message."""
    assert "an expression is about a message, and this is not" in refused(hint, {"expr": "body.total"})


@table(
    ("hint", "value"),
    [
        (int, "4"), (int, True), (int, 4.0), (int, 4.5), (float, "4"), (float, True), (bool, 1), (bool, "true"), (str, 5),
        (str, True),
        (str, ["x"]), (int, [4]), (int, {}), (str, {"a": 1}), (list[int], ["4"]), (list[int], 4), (list[int], {"a": 4}),
        (list[str], "abc"),
        (tuple[str, ...], "abc"), (set[str], "abc"), (set[int], ["4"]), (dict[str, int], {"a": "4"}),
        (dict[str, int], [["a", 4]]),
        (int | None, "4"), (Literal[4], "4"), (Literal[1], True), (Literal["a"], "b"), (Literal["4"], 4), (Level, "2"),
        (Level, "HIGH"),
        (Level, True), (Colour, "RED"), (Colour, "green"), (Seconds, "5"), (Seconds, True), (Seconds, -1), (Seconds, [5]),
        (Bytes, 1.5), (Bytes, "1KB"), (type, "strr"), (type, 5), (type[Exception], "int"), (type[Exception], 5), (Callable, 5),
        (Callable, "x"), (Callable[[Message], Any], {"expr": 5}), (Callable[[Message], Any], {"python": 5}),
        (Callable[[Message], Any], {"expr": "subject", "python": "x:y"}), (Callable[[Message], Any], {}),
        (Callable[[Message], Any], ["x"]),
        (Limit, {"count": "4"}), (Limit, {"count": 4.0}), (Limit, {}), (Limit, 5), (Limits, {"default": {"count": "4"}}),
        (tuple[int, str], ["4", "a"]), (tuple[int, str], [4]), (Annotated[int, Field(gt=0)], "4"),
        (Annotated[int, Field(gt=0)], 0), (Annotated[Seconds, Field(gt=0)], "0s"), (Annotated[Bytes, Field(le=9)], "1KiB"),
        (Annotated[int, Field(gt=0)], True), (Window, {"start": 5}), (datetime.date, "soon"), (list[Limit], [{"count": "4"}]),
        (Annotated[bool, Field()], "true"), (Annotated[bool, Field()], 1),
    ],
    ids=str,
)  # fmt: skip
def test_all_else_is_refused(hint: Any, value: Any) -> None:
    """
    A text is not a number, whatever it looks like and however deep it is; a number is not a text; a text is not a list of
    letters.
    """
    said = refused(hint, value)
    assert said
    assert "\n" not in said


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str], Any]:
    """Reads a setting that is interpolated, as a file would have it."""

    def value_of(hint: Any, text: str) -> Any:
        monkeypatch.setenv("VALUE", text)

        @dataclasses.dataclass(eq=False)
        class Setting(Transform):
            value: Any

            def transform(self, message: Message[Any], /) -> Message[Any]:
                return message

        Setting.__annotations__["value"] = hint
        Setting.__dataclass_fields__["value"].type = hint
        monkeypatch.setattr(sys.modules[NAME], "Setting", Setting, raising=False)
        Setting.__module__, Setting.__qualname__ = NAME, "Setting"
        (tmp_path / "bus.toml").write_text(
            f'version = 1\n[[pipelines]]\nfilters = [{{ use = "python", target = "{NAME}:Setting", value = "${{env:VALUE}}" }}]'
        )
        bus = Bus.from_config(tmp_path / "bus.toml", allow_imports=[NAME])
        (node,) = engine_of(bus).router.nodes
        return node.filter.value  # type: ignore[union-attr]

    return value_of


@pytest.mark.parametrize(
    ("hint", "text", "found"),
    [
        (str, "4", "4"), (int, "4", 4), (int, "-4", -4), (float, "4", 4.0), (float, "1e3", 1000.0), (bool, "true", True),
        (bool, "False", False), (int | None, "4", 4), (Seconds, "4", 4.0), (Seconds, "200ms", 0.2), (Bytes, "4", 4),
        (Bytes, "1KiB", 1024),
        (Literal["a", "4"], "4", "4"), (Literal[3, 4], "4", 4), (Level, "2", Level.HIGH), (Colour, "red", Colour.RED),
        (Mode, "fast", Mode.FAST),
        (str | None, "x", "x"), (str | list[str], "x", "x"), (list[str] | str, "x", "x"), (Any, "4", "4"),
        (Path, "/etc", Path("/etc")),
        (Annotated[int, Field(gt=0)], "4", 4), (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
        (Annotated[bool, Field()], "true", True),
        (datetime.date, "2026-01-02", datetime.date(2026, 1, 2)), (Literal[True], "true", True),
    ],
    ids=str,
)  # fmt: skip
def test_a_text_that_was_interpolated_is_read_as_what_is_due(
    told: Callable[[Any, str], Any], hint: Any, text: str, found: Any
) -> None:
    """An environment has only texts, so "4" is 4 where a number is expected, whatever annotation asks for it."""
    made = told(hint, text)
    assert made == found
    assert type(made) is type(found)


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        (int, "four"), (int, "4.0"), (int, ""), (float, "x"), (bool, "1"), (bool, ""), (Seconds, "soon"), (Literal["a"], "b"),
        (Level, "3"),
        (list[int], "4"), (Callable[[Message], Any], f"{NAME}:function"), (type, "int"), (type[Exception], "ValueError"),
        (Annotated[int, Field(gt=0)], "0"), (Annotated[int, Field(gt=0)], "x"), (decimal.Decimal, "x"), (dict[str, int], "{}"),
        (int | None, "hunter2"), (Limit, "hunter2"), (ImportString, "os.system"),
    ],
    ids=str,
)  # fmt: skip
def test_what_it_says_wrongly_is_refused_without_telling_it(told: Callable[[Any, str], Any], hint: Any, text: str) -> None:
    """The error shows the source, but not the value."""
    with pytest.raises(ConfigError) as caught:
        told(hint, text)
    assert 'value = "${env:VALUE}": ' in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_problems_below_a_setting_are_told_each_by_its_path() -> None:
    """One error lists them all."""
    assert (
        refused(dict[str, list[int]], {"a": [1, "x"], "b": [True]})
        == "a.1: it has to be a whole number; b.0: it has to be a whole number"
    )
    assert refused(list[Literal["a", "b"]], ["a", "c", "d"]) == "1: it has to be a or b; 2: it has to be a or b"
    said = refused(Limits, {"default": {"count": "x"}, "others": {"a": {"per": "day"}}})
    for place in ("default.count", "others.a.count", "others.a.per"):
        assert place in said


def test_choices_are_told_and_the_near_one_is_guessed() -> None:
    """The error uses the words that a file uses."""
    assert refused(Literal["block", "reject"], "blok") == 'it has to be block or reject; did you mean "block"?'
    assert refused(Colour, "gren") == "it has to be red or blue"
    assert refused(Literal["a", "b", "c"], 5) == "it has to be a, b or c"


def test_what_only_pydantic_knows_is_said_in_its_words() -> None:
    """The sentence says what the value should be."""
    assert refused(datetime.date, "soon") == "Input should be a valid date in the format YYYY-MM-DD, input is too short"
    assert refused(Annotated[str, Field(pattern="^a")], "b") == "String should match pattern '^a'"


@pytest.mark.parametrize("hint", [ImportString, list[ImportString], ImportString | None, ImportString[Any]], ids=str)
def test_what_imports_by_itself_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hint: Any) -> None:
    """pydantic has a type that imports what a text names, but a file can name only what the program allows."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evilimport.py").write_text("run = 1")
    with pytest.raises(Bad):
        read(hint, ["evilimport.run"] if hint == list[ImportString] else "evilimport.run")
    assert sys.modules.pop("evilimport", None) is None


class Pair(NamedTuple):
    name: ImportString


class Entry(TypedDict):
    name: ImportString


T = TypeVar("T")


class Model(BaseModel, Generic[T]):
    name: T


Alias = NewType("Alias", ImportString)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Pair, ["evilimport.run"]), (Entry, {"name": "evilimport.run"}), (Model[ImportString], {"name": "evilimport.run"}),
        (Alias, "evilimport.run"), (TypeAliasType("Other", ImportString), "evilimport.run"),
        (dict[str, list[Pair]], {"a": [["evilimport.run"]]}), (Annotated[ImportString, "x"], "evilimport.run"),
    ],
    ids=str,
)  # fmt: skip
def test_what_imports_by_itself_does_not_wherever_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hint: Any, value: Any
) -> None:
    """The check goes by what pydantic has made of the annotation, not by how it is written."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evilimport.py").write_text("run = 1")
    with pytest.raises(Bad) as caught:
        read(hint, value)
    assert "imports what it names" in caught.value.text + str(caught.value.details)
    assert sys.modules.pop("evilimport", None) is None


class Box(Generic[T]):
    """A class that pydantic does not know."""


@table("hint", [Box, Box[int], T, "Nowhere", Callable[[T], T], type[Box], Iterator[int], list, dict, tuple, set, list[Any]])
def test_an_annotation_that_says_little_takes_something(hint: Any) -> None:
    """Each such annotation has a kind, or an error of the type that the catalogue expects."""
    try:
        kind = kind_of(hint)
    except Exception as error:
        assert not isinstance(error, (RecursionError, SystemExit))  # noqa: PT017
        return
    from_pydantic(kind.adapter.json_schema)
    for value in ("x", 5, [], {}, True, None):
        try:
            kind.read(value, LOADING)
        except Bad:
            continue


# --- the built-in filters ------------------------------------------------------------------------------------------------

BUILT_IN: dict[str, tuple[str, type, dict[str, Any]]] = {
    "circuit_breaker": (
        'failures = 3, window = "2m", cool_down = "5s", on = ["OSError"]', CircuitBreaker,
        {"failures": 3, "window": 120.0, "cool_down": 5.0, "on": (OSError,)},
    ),
    "concurrency": (
        f'limit = 2, key = "{NAME}:function", queue = 0, timeout = "5m"', Concurrency,
        {"limit": 2, "key": function, "queue": 0, "timeout": 300.0},
    ),
    "dedupe": (
        f'key = "{NAME}:function", window = "5m", size = 10', Dedupe, {"key": function, "window": 300.0, "size": 10},
    ),
    "drop": ('reason = "old"', Drop, {"reason": "old", "when": None}),
    "enrich": ('add = { a = [1, { b = 1.5 }] }, overwrite = false', Enrich,
    {"add": {"a": [1, {"b": 1.5}]}, "overwrite": False}),
    "expire": ('ttl = "1h"', Expire, {"ttl": 3600.0}),
    "fallback": (
        'value = { rate = 1.5, old = true }, on = ["OSError"]', Fallback,
        {"value": {"rate": 1.5, "old": True}, "subject": None, "on": (OSError,)},
    ),
    "fields": (
        'rename = { "body.a" = "body.b" }, cast = { "body.c" = "int" }, set = { "body.d" = [1] }, remove = ["body.e"], '
        'missing = "skip"',
        Fields,
        {"rename": {"body.a": "body.b"}, "cast": {"body.c": "int"}, "set": {"body.d": [1]}, "remove": ["body.e"],
        "missing": "skip"},
    ),
    "log": ('level = "debug", body = true, headers = true, redact = ["card"]', Log,
    {"level": "debug", "body": True, "redact": ["card"]}),
    "rate_limit": (
        f'rate = 5, per = "1m", burst = 2, key = "{NAME}:function", on_limit = "drop", max_wait = "1h", size = 10', RateLimit,
        {"rate": 5, "per": 60.0, "burst": 2, "key": function, "on_limit": "drop", "max_wait": 3600.0, "size": 10},
    ),
    "redact": ('names = ["email"], mask = "x", remove = true', Redact, {"names": ["email"], "mask": "x", "remove": True}),
    "redeliver": (
        'attempts = 5, wait = "2s", max_wait = "1m", jitter = 0.5, on = ["OSError"]', Redeliver,
        {"attempts": 5, "wait": 2.0, "max_wait": 60.0, "jitter": 0.5, "on": (OSError,)},
    ),
    "reroute": ('to = "eu.{subject}"', Reroute, {"to": "eu.{subject}"}),
    "retry": (
        'attempts = 5, wait = "200ms", max_wait = 3, jitter = 0.5, on = ["OSError", "ValueError"]', Retry,
        {"attempts": 5, "wait": 0.2, "max_wait": 3.0, "jitter": 0.5, "on": (OSError, ValueError)},
    ),
    "set_envelope": (
        f'key = "k", id = {{ python = "{NAME}:function" }}, ttl = "1h"', SetEnvelope,
        {"key": "k", "id": function, "ttl": 3600.0},
    ),
    "set_headers": ('headers = { a = "x" }, overwrite = false', SetHeaders, {"headers": {"a": "x"}, "overwrite": False}),
    "sign": ('key = "0123456789abcdef", headers = ["a"]', Sign, {"key": SecretStr("0123456789abcdef"), "headers": ["a"]}),
    "size_limit": ('bytes = "64KiB"', SizeLimit, {"bytes": 65536}),
    "tap": (f'target = "{NAME}:function"', Tap, {"target": function}),
    "timeout": ('seconds = "2s", abandon = true', Timeout, {"seconds": 2.0, "abandon": True}),
    "validate": (
        f'models = {{ "a.>" = "{NAME}:Limit", "b" = "dict" }}, replace = false, name = "v"', Validate,
        {"models": {"a.>": Limit, "b": dict}, "replace": False, "name": "v"},
    ),
    "verify": (
        'keys = ["0123456789abcdef"], window = "10m", headers = [], size = 5, durable = true', Verify,
        {"keys": [SecretStr("0123456789abcdef")], "window": 600.0, "headers": [], "size": 5, "durable": True},
    ),
}  # fmt: skip


def load(folder: Path, filters: str) -> Bus:
    (folder / "bus.toml").write_text(f'version = 1\n[[pipelines]]\nat = "delivery"\nfilters = [{filters}]')
    return Bus.from_config(folder / "bus.toml", allow_imports=[NAME])


def test_this_table_has_each_of_them() -> None:
    """A new filter of ours needs a row that shows how its settings are written."""
    from pipebus import filters
    from pipebus.config.catalogue import word

    assert {word(name) for name in filters.__all__} == set(BUILT_IN)


@pytest.mark.parametrize("use", BUILT_IN)
def test_every_setting_of_a_built_in_filter_can_be_written(tmp_path: Path, use: str) -> None:
    """The setting has the value that code would have given it."""
    written, cls, found = BUILT_IN[use]
    side = "publish" if use == "reroute" else "delivery"
    toml = f'version = 1\n[[pipelines]]\nat = "{side}"\nfilters = [{{ use = "{use}", {written} }}]'
    (tmp_path / "bus.toml").write_text(toml)
    bus = Bus.from_config(tmp_path / "bus.toml", allow_imports=[NAME])
    (node,) = engine_of(bus).router.nodes or engine_of(bus).delivery_nodes
    made = node.filter  # type: ignore[union-attr]
    assert type(made) is cls
    settings = {key: getattr(made, key) for key in found}
    settings = {key: list(value) if key == "redact" else value for key, value in settings.items()}
    assert settings == found


@pytest.mark.parametrize(
    ("written", "attribute"),
    [
        ('use = "concurrency", limit = 1, key = { expr = "body.id" }', "key"),
        ('use = "dedupe", key = { expr = "body.id" }', "key"),
        ('use = "enrich", add = { expr = "{a: subject}" }', "add"),
        ('use = "rate_limit", rate = 1, key = { expr = "body.id" }', "key"),
        ('use = "tap", target = { expr = "subject" }', "target"),
        ('use = "drop", when = { expr = "body.old" }', "when"),
        ('use = "set_envelope", key = { expr = "body.id" }', "key"),
        ('use = "set_envelope", id = { expr = "body.id" }', "id"),
        ('use = "set_envelope", ttl = { expr = "body.ttl" }', "ttl"),
    ],
)
def test_functions_of_built_in_filters_may_be_expressions(tmp_path: Path, written: str, attribute: str) -> None:
    """A setting that must be true or false becomes a `Condition`."""
    bus = load(tmp_path, f"{{ {written} }}")
    found = getattr(engine_of(bus).delivery_nodes[0].filter, attribute)  # type: ignore[union-attr]
    assert isinstance(found, Condition if attribute == "when" else Expression)


@pytest.mark.parametrize(
    "written",
    [
        'use = "retry", attempts = "4"', 'use = "retry", jitter = "0.1"', 'use = "log", body = "true"', 'use = "log", body = 1',
        'use = "dedupe", size = 1.5', 'use = "expire", ttl = "5"', 'use = "expire", ttl = true', 'use = "log", redact = "card"',
        'use = "enrich", add = 5', 'use = "set_headers", headers = { a = 5 }', 'use = "validate", models = ["int"]',
        'use = "fields", remove = "body.a"', 'use = "fields", cast = { "body.a" = "integer" }',
        'use = "fields", missing = "skp"', 'use = "rate_limit", on_limit = "block", rate = 1',
        'use = "concurrency", limit = 1.5',
        'use = "timeout", seconds = "2s", abandon = 0', 'use = "drop", reason = 5', 'use = "drop", when = "body.old"',
    ],
)  # fmt: skip
def test_wrong_types_for_built_in_filters_are_refused(tmp_path: Path, written: str) -> None:
    """The error points at the key."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"{{ {written} }}")
    (problem,) = caught.value.problems
    key = written.split(", ", 1)[1].split(" = ", maxsplit=1)[0]
    assert key in f"{problem.where}: {problem.text}" or "abandon" in problem.text


# --- filters of others ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class Quota(Transform):
    """
    As a third party would write one.

    Args:
        limits: How much.
        mode: How.
        colours: Which.
        window, pause: How long.
        on_full: What is called.
    """

    limits: Limits
    mode: Literal["hard", "soft"] = "soft"
    colours: set[Colour] = dataclasses.field(default_factory=set)
    window: Seconds = 60.0
    pause: Seconds | None = None
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    on_full: Callable[[Message[Any]], Any] | None = None
    since: datetime.date | None = None
    _seen: dict[str, int] = dataclasses.field(default_factory=dict, init=False)
    hidden: int = dataclasses.field(default=0, init=False)

    def transform(self, message: Message[Any], /) -> Message[Any]:
        return message


class Counter(Transform):
    """No dataclass: its parameters are its settings."""

    def __init__(self, start: int = 0, *, names: Sequence[str] = ()) -> None:
        self.start, self.names = start, names

    def transform(self, message: Message[Any], /) -> Message[Any]:
        return message


@dataclasses.dataclass(eq=False)
class Numbered(Transform):
    """A filter whose setting `name` is not a text."""

    name: int  # type: ignore[assignment]

    def transform(self, message: Message[Any], /) -> Message[Any]:
        return message


QUOTA = f"""{{ use = "python", target = "{NAME}:Quota", limits = {{ default = {{ count = 1 }} }}, mode = "hard",
    colours = ["red"], window = "5m",
    weights = {{ a = 1, b = 2.5 }}, on_full = {{ expr = "subject" }}, since = 2026-01-02 }}""".replace("\n", "")


def test_a_dataclass_of_others_is_made_of_its_settings(tmp_path: Path) -> None:
    """It is made like a built-in filter; fields that are not parameters are not settings."""
    made = engine_of(load(tmp_path, QUOTA)).delivery_nodes[0].filter  # type: ignore[union-attr]
    assert made.limits == Limits(default=Limit(count=1))
    assert (made.mode, made.colours, made.window, made.pause) == ("hard", {Colour.RED}, 300.0, None)
    assert made.weights == {"a": 1, "b": 2.5}
    assert isinstance(made.on_full, Expression)
    assert made.since == datetime.date(2026, 1, 2)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f'{{ use = "python", target = "{NAME}:Quota", hidden = 5, _seen = {{}}, mood = "hard" }}')
    texts = sorted(problem.text for problem in caught.value.problems)
    assert texts[0] == '"limits" is missing'
    assert [text.split(";", 1)[0] for text in texts[1:]] == [f'unknown key "{key}"' for key in ("_seen", "hidden", "mood")]


def test_a_problem_inside_a_model_is_reported_at_its_own_line(tmp_path: Path) -> None:
    """All of them are reported, each with the table and the key that a person has to change."""
    (tmp_path / "bus.toml").write_text(
        f"""version = 1
[filters.limited]
use = "python"
target = "{NAME}:Quota"
weights = {{ a = "heavy" }}
[filters.limited.limits.default]
count = "many"
[filters.limited.limits.others.a]
per = "day"
"""
    )
    with pytest.raises(ConfigError) as caught:
        Bus.from_config(tmp_path / "bus.toml", allow_imports=[NAME])
    assert [f"{one.line}: {one.where}: {one.text}" for one in caught.value.problems] == [
        '5: filters.limited.weights: a = "heavy": it has to be a number',
        '7: filters.limited.limits.default: count = "many": it has to be a whole number',
        '8: filters.limited.limits.others.a: "count" is missing',
        '9: filters.limited.limits.others.a: per = "day": no such time as day',
    ]


def test_only_the_interpolated_text_in_a_model_may_spell_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text next to it is still a text."""
    monkeypatch.setenv("COUNT", "4")
    limits = '{ default = { count = "${env:COUNT}" }, others = { a = { count = %s } } }'
    for written, loads in (("5", True), ('"5"', False)):
        entry = f'{{ use = "python", target = "{NAME}:Quota", limits = {limits % written} }}'
        if loads:
            made = engine_of(load(tmp_path, entry)).delivery_nodes[0].filter  # type: ignore[union-attr]
            assert made.limits == Limits(default=Limit(count=4), others={"a": Limit(count=5)})
            continue
        with pytest.raises(ConfigError, match=r'others\.a: count = "5": it has to be a whole number'):
            load(tmp_path, entry)


def test_a_setting_called_name_has_the_type_that_its_filter_says(tmp_path: Path) -> None:
    """It is the filter's setting, and the filter has the name of its class."""
    (node,) = engine_of(load(tmp_path, f'{{ use = "python", target = "{NAME}:Numbered", name = 5 }}')).delivery_nodes
    assert node.filter.name == 5  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match='name = "five": it has to be a whole number'):
        load(tmp_path, f'{{ use = "python", target = "{NAME}:Numbered", name = "five" }}')


def test_a_class_without_fields_is_made_of_its_parameters(tmp_path: Path) -> None:
    """The parameters are matched by name, and each is read as its annotation says."""
    bus = load(tmp_path, f'{{ use = "python", target = "{NAME}:Counter", start = 5, names = ["a"] }}')
    made = engine_of(bus).delivery_nodes[0].filter  # type: ignore[union-attr]
    assert (made.start, made.names) == (5, ["a"])
    with pytest.raises(ConfigError, match='start = "5": it has to be a whole number'):
        load(tmp_path, f'{{ use = "python", target = "{NAME}:Counter", start = "5" }}')


def test_a_filter_of_others_is_exported_and_loads_again(tmp_path: Path) -> None:
    """Models, enums, dates and expressions survive."""
    bus = load(tmp_path, QUOTA)
    text = bus.export_config()
    (tmp_path / "again.toml").write_text(text)
    again = Bus.from_config(tmp_path / "again.toml", allow_imports=[NAME])
    first, second = (engine_of(one).delivery_nodes[0].filter for one in (bus, again))  # type: ignore[union-attr]
    for field in dataclasses.fields(first):
        if field.name != "on_full":
            assert getattr(first, field.name) == getattr(second, field.name)
    assert again.export_config() == text


# --- written and read ----------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=12)
WHOLE = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
DATES = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2100, 1, 1)).map(
    lambda found: found.replace(microsecond=0, fold=0)
)
DATA = st.recursive(
    TEXT | st.booleans() | WHOLE | FLOATS | DATES | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
LIMIT = st.builds(Limit, count=st.integers(-9, 9), per=st.sampled_from(["minute", "hour"]), colour=st.sampled_from(Colour))
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXT,
    bool: st.booleans(),
    int: WHOLE,
    float: FLOATS,
    Seconds: st.floats(0, 1e9),
    Bytes: st.integers(0, 2**62),
    Literal["a", "b", 1]: st.sampled_from(["a", "b", 1]),
    Colour: st.sampled_from(Colour),
    Level: st.sampled_from(Level),
    Mode: st.sampled_from(Mode),
    list[int]: st.lists(WHOLE),
    list[list[str]]: st.lists(st.lists(TEXT, max_size=3), max_size=3),
    tuple[str, ...]: st.lists(TEXT).map(tuple),
    tuple[int, str]: st.tuples(WHOLE, TEXT),
    set[str]: st.sets(TEXT),
    frozenset[int]: st.frozensets(WHOLE),
    dict[str, list[Colour]]: st.dictionaries(TEXT, st.lists(st.sampled_from(Colour), max_size=3), max_size=3),
    int | str: WHOLE | TEXT,
    bool | int: st.booleans() | WHOLE,
    int | bool: st.booleans() | WHOLE,
    str | list[str]: TEXT | st.lists(TEXT),
    list[str] | str | None: TEXT | st.lists(TEXT),
    Any: DATA,
    Mapping[str, Any]: st.dictionaries(TEXT, DATA, max_size=3),
    Limit: LIMIT,
    list[Limit]: st.lists(LIMIT, max_size=3),
    Limits: st.builds(Limits, default=LIMIT, others=st.dictionaries(TEXT, LIMIT, max_size=2)),
    Window: st.builds(Window, st.times().map(lambda found: found.replace(microsecond=0)), st.lists(TEXT, max_size=2)),
    datetime.datetime: DATES,
    datetime.date: st.dates(),
    datetime.timedelta: st.timedeltas(datetime.timedelta(-99), datetime.timedelta(99)),
    Path: TEXT.filter(lambda text: "\0" not in text).map(Path),
    decimal.Decimal: st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-999, max_value=999),
    uuid.UUID: st.uuids(),
    dict[int, str]: st.dictionaries(st.integers(-9, 9), TEXT, max_size=3),
    Annotated[int, Field(gt=0)]: st.integers(1, 99),
    type: st.sampled_from([int, str, bytes, Limit, Colour]),
    type[Exception]: st.sampled_from([ValueError, OSError, Busy]),
    Callable[[Message[Any]], Any]: st.sampled_from([function, Expression("subject"), Condition("body.a")]),
    str | Callable[[Message[Any]], Any]: st.sampled_from([function, "x", Expression("subject")]),
}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Expression):
        return isinstance(b, Expression) and a.text == b.text
    if isinstance(a, float) and isinstance(b, (int, float)) and not isinstance(b, bool):
        return math.isclose(a, b, rel_tol=0, abs_tol=0)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)


def through_a_file(value: Any) -> Any:
    return tomllib.loads(tomlkit.dumps({"v": value}))["v"]


@pytest.mark.parametrize("hint", VALUES, ids=str)
@pytest.mark.few(10)
def test_what_is_written_is_read_again(hint: Any) -> None:
    """Any value of a setting comes out of a file as it went in, with the same type."""
    kind = kind_of(hint)

    @CALM
    @given(VALUES[hint])
    def check(value: Any) -> None:
        try:
            written = kind.write(value)
        except Unexportable as error:
            # A condition where any function goes would be read again as an expression.
            assert "stands for a function" in str(error) or isinstance(value, Condition)  # noqa: PT017
            return
        assert same(value, kind.read(through_a_file(written), LOADING))

    check()


@table(
    ("hint", "value"),
    [
        (int, 2**63), (int, "4"), (str, 5), (str, "\ud800"), (bool, 1), (float, "x"), (Literal["a"], "b"), (Literal[1], True),
        (Colour, "green"),
        (list[int], 5), (list[int], "ab"), (list[int], ["x"]), (dict[str, int], {1: 2}), (dict[str, int], {"a": "x"}),
        (Any, object()),
        (Any, None), (Any, {"a": None}), (Any, {1: "a"}), (Any, {"a": {1}}), (Any, b"x"), (Any, decimal.Decimal(1)),
        (Any, function),
        (Limit, 5), (Limit, Limits(default=Limit(count=1))), (type, 5), (type[Exception], 5), (Callable, 5),
        (Callable, lambda message: 1),
        (Seconds, -1.0), (Seconds, math.inf), (Bytes, -1), (Window, object()),
    ],
    ids=named,
)  # fmt: skip
def test_what_no_file_can_hold_is_told(hint: Any, value: Any) -> None:
    """The export raises an error instead of writing something else."""
    kind = kind_of(hint)
    try:
        written = kind.write(value)
    except Unexportable as error:
        assert str(error)  # noqa: PT017
        return
    assert same(value, kind.read(through_a_file(written), LOADING))


@CALM
@given(st.sampled_from(list(VALUES)), DATA)
def test_whatever_a_file_says_is_read_or_refused(hint: Any, value: Any) -> None:
    """No annotation and no value causes another error, and a value that was read can be written."""
    kind = kind_of(hint)
    try:
        found = kind.read(value, LOADING)
    except Bad:
        return
    kind.write(found)

"""How messages are shown: with fields hidden, never too large, and whatever they hold."""

from __future__ import annotations

import json
import math
from collections import UserDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import pydantic
import pytest

pytest.importorskip("starlette")

from pipebus import Bus, Message, PipelineError, when
from pipebus.bus.bus import engine_of
from pipebus.filters import Log, Redact
from pipebus.web.messages import BRIEF, WHOLE, Shown


def shown(body: Any, redact: Any = (), size: int = BRIEF, **options: Any) -> dict[str, Any]:
    """What a page gets; it is JSON."""
    found = Shown(Bus(), redact).message(Message("a.b", body, **options), size=size)
    return json.loads(msgspec.json.encode(found))


def test_what_log_and_redact_hide_is_hidden_here() -> None:
    """Wherever in the bus the filters are; at any depth; in headers too; and what the caller names."""
    bus = Bus()
    bus.use(Log(redact=["password"]), when("x.>", Redact(["author.email"])))
    bus.use(Log(redact=["pin"]), at="delivery")
    bus.subscribe("a.>", lambda message: None, name="a", filters=[Log(redact=["cvv"])])
    body = {"Password": "s", "author": {"email": "s", "name": "n"}, "email": "e", "list": [{"pin": "s", "cvv": 1, "own": "s"}]}
    found = Shown(bus, ["own"]).message(Message("a.b", body, {"password": "s", "x": "y"}))

    hidden = "[redacted]"
    assert found["body"] == {
        "Password": hidden, "author": {"email": hidden, "name": "n"}, "email": "e",
        "list": [{"pin": hidden, "cvv": hidden, "own": hidden}],
    }  # fmt: skip
    assert found["headers"] == {"password": hidden, "x": "y"}


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(PipelineError, match=r"web.app.redact"):
        Shown(Bus(), ["cards[*]"])


@dataclass
class Card:
    number: str
    owner: str


class Model(pydantic.BaseModel):
    number: str
    card: dict[str, str]


class Pair(NamedTuple):
    number: str
    right: int


class Packed(msgspec.Struct):
    number: str


def test_objects_are_shown_by_their_fields() -> None:
    """Fields of objects are hidden as those of tables are."""
    other = UserDict(number="1", a=deque([3]))
    body = [Card("1", "o"), Model(number="1", card={"number": "1"}), Pair("1", 2), Packed("1"), other]
    hidden = {"number": "[redacted]"}
    found = shown(body, ["number"])["body"]
    assert found == [hidden | {"owner": "o"}, hidden | {"card": hidden}, hidden | {"right": 2}, hidden, hidden | {"a": [3]}]


class Hostile:
    """An object whose own methods raise."""

    def __repr__(self) -> str:
        raise SystemExit("repr")


class Liar(dict[str, Any]):
    def items(self) -> Any:
        raise GeneratorExit("items")


class Endless:
    @property
    def __class__(self) -> Any:
        raise RuntimeError("class")


def cyclic() -> Any:
    found: dict[str, Any] = {"list": []}
    found["list"].append(found)
    return found


def deep() -> Any:
    found: Any = "bottom"
    for _ in range(100_000):
        found = [found]
    return found


HOSTILE: dict[str, tuple[Callable[[], Any], str]] = {
    "ten megabytes": (lambda: "x" * 10_000_000, "xxx"),
    "a long key": (lambda: {"x" * 10_000_000: 1}, "xxx"),
    "bytes": (lambda: b"\x00\xff" * 5_000_000, r"\\x00\\xff"),
    "memory": (lambda: memoryview(b"abc"), "abc"),
    "a long list": (lambda: [0] * 5_000_000, "…"),
    "a large table": (lambda: {str(n): n for n in range(200_000)}, "…"),
    "deep": (lambda: deep(), "…"),
    "cyclic": (lambda: cyclic(), "…"),
    "wide": (lambda: [[[[["x"] * 100] * 100] * 100] * 100] * 100, '["x", "x"'),
    "half a character": (lambda: "\ud800 lone", r"\\ud800 lone"),
    "half a key": (lambda: {"\udfff": "\ud800"}, r"\\udfff"),
    "no numbers": (lambda: [math.nan, math.inf, -math.inf], '"nan"'),
    "large numbers": (lambda: [2**53 + 1, -(2**64), 10**5000], f'"{2**53 + 1}"'),
    "control": (lambda: "a\u202eb\u2028\x1b[2J\x00", r"a\\u202eb\\u2028\\x1b[2J\\x00"),
    "script": (lambda: "<script>alert(1)</script>", "<script>"),
    "repr raises": (Hostile, "its repr raises SystemExit"),
    "items raise": (lambda: Liar(a=1), "cannot be shown"),
    "class raises": (Endless, "cannot be shown"),
    "odd keys": (lambda: {Hostile(): 1, (1, 2): 3}, "(1, 2)"),
    "a set": (lambda: {1, "a"}, '"a"'),
}
"""Makes a body, and a part of what is shown."""


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("size", [BRIEF, WHOLE])
def test_any_body_is_shown_and_none_is_large(name: str, size: int) -> None:
    """As JSON that a browser reads, bounded, with every character that could change the text around it escaped."""
    make, part = HOSTILE[name]
    found = shown(make(), ["secret"], size)
    text = json.dumps(found["body"], ensure_ascii=False)
    assert part in text
    assert len(text) < 8 * size
    assert text.isprintable()
    assert shown({"fine": 1, "hostile": make()})["headers"] == {}


def test_what_fits_is_whole_and_what_does_not_says_so() -> None:
    assert shown({"text": "line\n\ttab"}) | {"id": "", "time": 0} == {
        "number": None, "time": 0, "id": "", "subject": "a.b", "key": None, "headers": {}, "body": {"text": "line\n\ttab"},
        "cut": False, "subscriptions": [], "correlation_id": None, "causation_id": None,
    }  # fmt: skip
    assert shown("x" * BRIEF)["cut"]
    assert not shown("x" * BRIEF, size=WHOLE)["cut"]
    assert shown({"a": "x" * BRIEF, "b": 1})["cut"]


def test_many_and_long_headers_are_bounded_too() -> None:
    found = shown(None, headers={f"h{n}": "v" * 1000 for n in range(1000)}, key="k" * 10_000)
    assert found["cut"]
    assert len(json.dumps(found)) < 4 * BRIEF


def test_names_are_found_while_subscriptions_come_and_go() -> None:
    """A subscription that begins later brings its names along."""
    bus = Bus()
    hides = Shown(bus)
    assert hides.names().names == ()
    sub = bus.subscribe("a", lambda message: None, name="a", filters=[Log(redact=["pin"])])
    assert hides.names().names == ("pin",)
    sub.unsubscribe()
    assert hides.names().names == ()
    assert engine_of(bus).state == "new"

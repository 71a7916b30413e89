"""Filters in an order that is allowed, but hardly meant: `check` says which two to swap, and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import SecretStr

from pipebus import Bus, Message, Pipeline, PipelineError, Transform, branch, otherwise, switch, transform, when
from pipebus.bus.bus import engine_of
from pipebus.bus.hints import hints
from pipebus.config.catalogue import word
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
from tables import table

SECRET = "0123456789abcdef0123456789abcdef"


def look(message: Message[Any]) -> Any:
    return message.body


MADE: dict[str, tuple[Callable[[], Any], str]] = {
    "CircuitBreaker": (CircuitBreaker, "{}"),
    "Concurrency": (lambda: Concurrency(5), "limit = 5"),
    "Concurrency by key": (lambda: Concurrency(5, key=look), 'limit = 5, key = { expr = "body.id" }'),
    "Dedupe": (Dedupe, ""),
    "Drop": (Drop, ""),
    "Enrich": (lambda: Enrich({"a": 1}), "add = { a = 1 }"),
    "Expire": (lambda: Expire(5), "ttl = 5"),
    "Fallback": (lambda: Fallback(value=1), "value = 1"),
    "Fallback to a subject": (lambda: Fallback(subject="later"), 'subject = "later"'),
    "Fallback from lost connections": (lambda: Fallback(value=1, on=ConnectionError), 'value = 1, on = "ConnectionError"'),
    "Fields": (lambda: Fields(remove=["body.a"]), 'remove = ["body.a"]'),
    "Log": (Log, ""),
    "Log bodies": (lambda: Log(body=True), "body = true"),
    "Log headers": (lambda: Log(headers=True), "headers = true"),
    "RateLimit": (lambda: RateLimit(5), "rate = 5"),
    "RateLimit by key": (lambda: RateLimit(5, key=look), 'rate = 5, key = { expr = "body.id" }'),
    "Redact": (lambda: Redact(["a"]), 'names = ["a"]'),
    "Redeliver": (Redeliver, ""),
    "Reroute": (lambda: Reroute("b"), 'to = "b"'),
    "Retry": (Retry, ""),
    "SetEnvelope": (lambda: SetEnvelope(key="a"), 'key = "a"'),
    "SetHeaders": (lambda: SetHeaders({"a": "b"}), 'headers = { a = "b" }'),
    "Sign": (lambda: Sign(SecretStr(SECRET)), f'key = "{SECRET}"'),
    "SizeLimit": (lambda: SizeLimit(1024), 'bytes = "1KiB"'),
    "Tap": (lambda: Tap(look), 'target = { expr = "body.id" }'),
    "Timeout": (lambda: Timeout(5, abandon=True), "seconds = 5, abandon = true"),
    "Validate": (lambda: Validate({">": dict}), 'models = { ">" = "dict" }'),
    "Validate only": (lambda: Validate({">": dict}, replace=False), 'models = { ">" = "dict" }, replace = false'),
    "Verify": (lambda: Verify([SecretStr(SECRET)]), f'keys = ["{SECRET}"]'),
}
"""How each filter is made, in code and in a file."""
CHANGES = ["Enrich", "Fields", "Redact", "Reroute", "SetEnvelope", "SetHeaders", "Validate"]

ORDERED: list[tuple[str, str, str]] = [
    *(("Verify", name, "no longer fits its signature") for name in CHANGES),
    *((name, "Sign", "no longer fits its signature") for name in CHANGES),
    ("Verify", "Sign", "forged messages are accepted"),
    ("Verify", "Dedupe", "the genuine one is dropped as its duplicate"),
    ("Verify", "RateLimit by key", "uses up the limit of the key"),
    ("Verify", "Concurrency by key", "takes a place of the key"),
    ("Verify", "Retry", "between two runs a copy may pass"),
    ("Verify", "Fallback", "gets the fallback instead of being refused"),
    ("Retry", "Timeout", "covers all runs and the waits between them; if that is meant, leave it"),
    ("Retry", "RateLimit", "only the first run counts"),
    ("Retry", "CircuitBreaker", "all runs count as one failure"),
    ("Redeliver", "Retry", "given back at its first error"),
    ("Redeliver", "Timeout", "becomes a dead letter"),
    ("Redeliver", "CircuitBreaker", "they never open the circuit"),
    ("CircuitBreaker", "Timeout", "a dependency that hangs does not open the circuit"),
    ("Concurrency", "CircuitBreaker", "still calls a dependency that is down"),
    ("Dedupe", "Retry", "is forgotten between two runs"),
    ("Dedupe", "RateLimit", "duplicates use up the limit"),
    ("Fallback", "Retry", "nothing is run again"),
    ("Fallback", "Redeliver", "nothing is given back"),
    ("Fallback", "CircuitBreaker", "they never open the circuit"),
    ("Fallback", "Timeout", "has no fallback"),
    ("Fallback to a subject", "Sign", "on the other subject no longer fits its signature"),
    ("Redact", "Log", "as soon as it shows bodies or headers"),
    ("Redact", "Log bodies", "logged before they are hidden"),
    ("Redact", "Log headers", "logged before they are hidden"),
    ("Redact", "Tap", "gets fields before they are hidden"),
    ("SizeLimit", "Log bodies", "logged in full"),
    ("SizeLimit", "Tap", "too large"),
]
"""Which filter belongs around which, and what goes wrong in the other order."""


def said(bus: Bus) -> list[str]:
    return [hint.text for hint in hints(engine_of(bus))]


def sides(*names: str) -> list[Any]:
    """The sides on which all of these may be."""
    found: list[Any] = []
    if not {"Redeliver", "Fallback"} & set(map(class_of, names)):
        found.append("publish")
    if "Reroute" not in names:
        found.append("delivery")
    return found


@table(("outer", "inner", "why"), ORDERED, ids=str)
def test_two_filters_in_the_wrong_order_are_named_with_the_reason(outer: str, inner: str, why: str) -> None:
    """On both sides; in the right order there is no hint."""
    for at in sides(outer, inner):
        wrong = Bus()
        wrong.use(MADE[inner][0](), MADE[outer][0](), at=at)
        (hint,) = said(wrong)
        assert why in hint
        assert "; swap the two: " in hint
        assert {class_of(outer), class_of(inner)} <= set(hint.replace(";", " ").split())
        assert f"{Path(__file__).name}:" in hint
        right = Bus()
        right.use(MADE[outer][0](), MADE[inner][0](), at=at)
        assert said(right) == []


@table(("outer", "inner", "why"), ORDERED, ids=str)
def test_a_file_says_the_same(outer: str, inner: str, why: str, tmp_path: Path) -> None:
    """Each filter has the line of its own entry."""

    def loaded(*names: str) -> list[str]:
        rows = [
            f'  {{ use = "{word(class_of(name))}", {MADE[name][1]} }},'.replace(", {}", "").replace(",  }", " }")
            for name in names
        ]
        text = "\n".join(["version = 1", "[[pipelines]]", f'at = "{sides(*names)[-1]}"', "filters = [", *rows, "]"])
        (tmp_path / "bus.toml").write_text(text, encoding="utf-8")
        bus = Bus.from_config(tmp_path / "bus.toml")
        return [re.sub(r"[^\s(]*bus\.toml", "bus.toml", str(hint)) for hint in hints(engine_of(bus))]

    (hint,) = loaded(inner, outer)
    assert hint.startswith(("bus.toml:5: hint: ", "bus.toml:6: hint: "))
    assert f"(bus.toml:{11 - int(hint[9])}); swap the two: " in hint
    assert loaded(outer, inner) == []


def class_of(name: str) -> str:
    return name.partition(" ")[0]


def test_the_order_that_the_documentation_recommends_has_no_hints() -> None:
    """It names every filter that has a place of its own, and each two of them are in their right order."""
    page = Path(__file__).parent.parent / "docs/reference/filters/index.md"
    (line,) = re.findall(r"^    (SizeLimit, .*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    names = line.split(", ")
    variants = {"Log": "Log bodies", "RateLimit": "RateLimit by key", "Concurrency": "Concurrency by key"}
    for at in ("publish", "delivery"):
        bus = Bus()
        bus.use(*(MADE[variants.get(name, name)][0]() for name in names if at in sides(name)), at=at)
        assert said(bus) == []
    assert {class_of(name) for row in ORDERED for name in row[:2]} - set(names) == {*CHANGES, "Tap"} - {"Redact"}


HARMLESS = [
    "Fallback from lost connections",
    "SizeLimit",
    "Drop",
    "Expire",
    "Log bodies",
    "Tap",
    "RateLimit",
    "Concurrency",
    "Timeout",
    "Validate only",
]


@pytest.mark.parametrize("name", HARMLESS)
def test_what_neither_changes_nor_trusts_a_message_may_come_before_verify(name: str) -> None:
    """It refuses, looks or limits, and a forged message gains nothing by it."""
    bus = Bus()
    bus.use(MADE[name][0](), MADE["Verify"][0](), at="delivery")
    assert said(bus) == []


def test_a_log_that_shows_no_bodies_may_come_before_a_limit_of_size() -> None:
    """It logs the subject and the outcome, and so what SizeLimit refuses."""
    bus = Bus()
    bus.use(Log(headers=True), SizeLimit(1024))
    assert said(bus) == []


def test_dead_letters_of_the_pipeline_of_a_redact_are_named() -> None:
    """They hold messages as they came into it. In front of the pipeline it comes first; elsewhere there is no such letter."""
    bus = Bus()
    bus.use(Redact(["a"]), Pipeline(when("a", Redact(["b"])), Pipeline(Redact(["c"])), on_error="dead_letter"))
    bus.use(Pipeline(Redact(["d"]), on_error="dead_letter"), at="delivery")
    (hint,) = said(bus)
    assert "Redact is in a pipeline whose dead letters hold messages as they came into it" in hint
    assert "put it in front of that pipeline" in hint


def test_a_limit_of_all_runs_around_one_of_each_is_meant() -> None:
    """A filter that belongs around another is content with one inside of it."""
    bus = Bus()
    bus.use(Timeout("60s", abandon=True), Retry(), Timeout("5s", abandon=True))
    assert said(bus) == []


def test_a_log_between_two_redacts_shows_what_the_second_hides() -> None:
    """What comes after a filter that it should come before counts, whatever else comes before it."""
    bus = Bus()
    bus.use(Redact(["a"]), Log(body=True), Redact(["b"]))
    (hint,) = said(bus)
    assert "Log comes before Redact" in hint


def test_several_filters_behind_one_are_named_together() -> None:
    """One hint for each rule that a filter breaks."""
    bus = Bus()
    bus.use(Log(body=True), *(Redact([name]) for name in "abcdefg"))
    (hint,) = said(bus)
    assert hint.count("Redact (") == 5
    assert "and 2 more; move Log behind them: " in hint
    bus = Bus()
    bus.use(Retry(), when("a", Retry()), Redeliver(), at="delivery")
    assert "; move Redeliver in front of them: " in said(bus)[0]


def handle(body: Any) -> None:
    """A handler."""


@table(
    ("filters", "count"),
    [
        (lambda: [when("a.>", Log(body=True)), when("a.b", Redact(["x"]))], 1),
        (lambda: [when("a.>", Log(body=True)), when("b.>", Redact(["x"]))], 0),
        (lambda: [when(look, Log(body=True)), when(look, Redact(["x"]))], 1),
        (lambda: [branch(look, Log(body=True)), Redact(["x"])], 1),  # the hint of the branch that skips it
        (lambda: [branch("a", Log(body=True)), when("b", Redact(["x"]))], 0),
        (lambda: [switch(when("a", Log(body=True)), when(look, Redact(["x"])), otherwise(Redact(["x"])))], 0),
        (lambda: [switch(when("a", Log(body=True)), otherwise(Drop(look))), Redact(["x"])], 1),
        (lambda: [Pipeline(Log(body=True)), Pipeline(when("a", Pipeline(Redact(["x"]))))], 1),
        (lambda: [when("a.>", SetHeaders({"a": "b"})), when("a.b", Retry()), when("b.>", Dedupe())], 0),
        (lambda: [when("a.>", Retry()), when("a.b", Dedupe())], 1),
        (lambda: [when("a", Reroute("b")), when("a", Log(body=True)), when("b", Redact(["x"]))], 2),
    ],
    ids=[
        "overlapping", "apart", "by predicates", "branch", "branch apart", "cases of a switch", "behind a switch", "pipelines",
        "preceding, apart", "preceding, overlapping", "after a change of the subject",
    ],
)  # fmt: skip
def test_only_filters_that_one_message_may_pass_are_in_an_order(filters: Callable[[], list[Any]], count: int) -> None:
    """Filters in two branches or cases, or for subjects that do not overlap, never meet."""
    bus = Bus()
    bus.use(*filters())
    assert len(said(bus)) == count
    if count == 1 and "skips" not in said(bus)[0]:
        assert said(bus)[0].startswith(("Log comes before Redact (", "Dedupe comes after Retry ("))


def test_filters_of_the_bus_come_before_those_of_a_subscription() -> None:
    """The hint names each filter once, and says which one to move. Subscriptions to other subjects are not concerned."""
    bus = Bus()
    bus.use(when("pay.>", Log(body=True)), at="delivery")
    bus.subscribe("pay.*", handle, name="one", filters=[Redact(["a"])])
    bus.subscribe("pay.*", handle, name="two")
    bus.subscribe("other", handle, name="three", filters=[Redact(["b"])])
    (hint,) = said(bus)
    assert hint.startswith("Log comes before Redact (")
    assert "; move Redact in front of Log: now fields that it does not hide are logged before they are hidden" in hint


def test_a_reader_has_only_the_transforms_of_the_bus() -> None:
    """A Log of the bus is not around a pull subscription, so nothing is out of order there."""
    bus = Bus()
    bus.use(Log(body=True), at="delivery")
    bus.subscribe("a", name="reader", filters=[Redact(["a"])])
    assert said(bus) == []
    bus.use(Tap(look), at="delivery")
    assert [text.split(" (")[0] for text in said(bus)] == ["Tap comes before Redact"]


def test_filters_of_other_packages_take_part() -> None:
    """The attributes are those of a class, an object or a function; the words are anybody's."""

    class Price(Transform):
        follows: ClassVar = {"net": "now the tax is added twice"}

        def transform(self, message: Message[Any], /) -> Message[Any]:
            return message

    @transform
    def net(message: Message[Any]) -> Message[Any]:
        return message

    net.provides = "net"  # type: ignore[attr-defined]
    bus = Bus()
    bus.use(Price(), net)
    (hint,) = hints(engine_of(bus))
    where, _, text = str(hint).partition(": hint: ")
    assert text == f"Price comes before net ({where}); swap the two: now the tax is added twice"


@pytest.mark.parametrize("reasons", [{"net": 5}, {5: "no"}, "net", ["net"], 5, None], ids=str)
def test_rules_that_are_none_are_refused(reasons: Any) -> None:
    """The filter is named, with what such a rule looks like."""
    odd = Redact(["a"])
    odd.precedes = reasons
    with pytest.raises(PipelineError, match=r"filter Redact .* has precedes = .*it maps words to what goes wrong"):
        Bus().use(odd)

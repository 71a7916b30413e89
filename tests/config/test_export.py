"""
Exported buses: what is written is loaded as the same bus, or nothing is written and each part that no file can hold is named.

A recipe makes the same bus each time it is followed, so that one of them can be exported while another one runs.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import export_shop as shop
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pipebus import (
    Actor,
    Bus,
    ConfigError,
    Dropped,
    Message,
    PipebusError,
    Pipeline,
    Receipt,
    Ref,
    Subject,
    Transform,
    branch,
    otherwise,
    switch,
    transform,
    when,
)
from pipebus.bus.bus import engine_of
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
    Reroute,
    Retry,
    SetHeaders,
    SizeLimit,
    Tap,
    Timeout,
    Validate,
)
from pipebus.pipeline.routes import steps
from pipebus.telemetry import instrument
from pipebus.testing import Harness
from pipebus.transports.memory import MemoryTransport
from pipebus.values.expressions import Condition, Expression
from scale_helpers import examples
from tables import table
from values_helpers import CALM

SHOP: Final = ["export_shop"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file that is written again and again."""
    return tmp_path_factory.mktemp("export") / "bus.toml"


# --- two buses that are one --------------------------------------------------------------------------------------------


def described(bus: Bus) -> Any:
    """Return `describe()` without places."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(inner) for key, inner in value.items() if key != "place"}
        return [without(inner) for inner in value] if isinstance(value, list) else value

    return without(bus.describe())


def flags(value: Any) -> Any:
    """Return where True and False are, because 1 equals True."""
    if isinstance(value, dict):
        return {key: flags(inner) for key, inner in value.items()}
    return [flags(inner) for inner in value] if isinstance(value, list) else isinstance(value, bool)


def chains(bus: Bus) -> Iterator[Any]:
    yield engine_of(bus).router.nodes
    yield engine_of(bus).delivery_nodes
    for one in sorted(bus.subscriptions, key=lambda one: one.name):
        yield one.plan.nodes


def identities(bus: Bus) -> list[int]:
    """Return, for each place of a filter, the first place that holds the same object."""
    filters = [step.filter for chain in chains(bus) for step in steps(chain)]
    first: dict[int, int] = {}
    return [first.setdefault(id(one), place) for place, one in enumerate(filters)]


def loaded(text: str, file: Path, **options: Any) -> Bus:
    file.write_text(text, encoding="utf-8")
    return Bus.from_config(file, allow_imports=SHOP, **options)


def same(bus: Bus, file: Path, **options: Any) -> Bus:
    """Return the bus that is loaded from the export, after all checks that it is equal."""
    before = described(bus)
    text = bus.export_config()
    assert text == bus.export_config()
    other = loaded(text, file, **options)
    assert described(bus) == before
    assert described(other) == before
    assert flags(described(other)) == flags(before)
    assert identities(other) == identities(bus)
    assert other.state == "new"
    assert other.export_config() == text
    return other


# --- recipes for random buses ------------------------------------------------------------------------------------------


@dataclass
class Kitchen:
    """What is made once for each bus: filters and pipelines that appear in several places."""

    filters: list[Any] = field(default_factory=list)
    pipelines: list[Any] = field(default_factory=list)


Part = Callable[[Kitchen], Any]


def made(cls: type, name: str | None, options: dict[str, Any], kitchen: Kitchen) -> Any:
    found = cls(**options)
    if name is not None and cls is not shop.Bare:
        found.name = name
    return found


def itself(found: Any, kitchen: Kitchen) -> Any:
    return found


def shared(number: int, kitchen: Kitchen) -> Any:
    return kitchen.filters[number % len(kitchen.filters)] if kitchen.filters else shop.stamp


def shared_pipeline(number: int, kitchen: Kitchen) -> Any:
    return kitchen.pipelines[number % len(kitchen.pipelines)] if kitchen.pipelines else shop.stamp


def forked(fork: Any, test: Any, inner: list[Part], kitchen: Kitchen) -> Any:
    return fork(test, *(part(kitchen) for part in inner))


def switched(cases: list[tuple[Any, list[Part]]], last: list[Part] | None, kitchen: Kitchen) -> Any:
    made = [when(test, *(part(kitchen) for part in inner)) for test, inner in cases]
    return switch(*made, *([] if last is None else [otherwise(*(part(kitchen) for part in last))]))


def piped(on_error: Any, inner: list[Part], kitchen: Kitchen) -> Any:
    return Pipeline(*(part(kitchen) for part in inner), on_error=on_error)


@dataclass
class Recipe:
    """A bus, described as data."""

    options: dict[str, Any]
    filters: list[Part]
    pipelines: list[Part]
    publish: list[Part]
    delivery: list[Part]
    subscriptions: list[tuple[Any, Any, list[Part], dict[str, Any]]]
    every: list[tuple[Any, str, Any, dict[str, Any]]]

    def bus(self) -> Bus:
        """Make the bus. Whatever it refuses (colours, order, paths that no message takes) is left out, each time the same."""
        kitchen = Kitchen([part(Kitchen()) for part in self.filters])
        for part in self.pipelines:
            kitchen.pipelines.append(part(kitchen))
        bus = Bus(**self.options)
        for number, (subjects, handler, filters, options) in enumerate(self.subscriptions):
            self._try(bus.subscribe, subjects, handler, filters=[part(kitchen) for part in filters], **options)
            del number
        for at, parts in (("publish", self.publish), ("delivery", self.delivery)):
            for part in parts:
                self._try(bus.use, part(kitchen), at=at)
        for interval, subject, body, envelope in self.every:
            self._try(bus.every, interval, subject, body, **envelope)
        return bus

    @staticmethod
    def _try(call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        try:
            call(*arguments, **options)
        except PipebusError as error:
            event(f"refused: {type(error).__name__}")


PIECES: Final = (
    "${", "}", "${env:HOME}", "${file:x}", "$${", "$", '"', '"""', "'", "'''", "\n", "\r\n", "\\", "\t", "\0", "\x7f",
    "é", "\u2028", "😀", "a", "b", " ", "#", "=", "[", "]]", "{", ",", "1", "true",
)  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
fields = texts.filter(lambda text: text and not set(text) & set("[]*"))
lines = texts.map(lambda text: re.sub(r"[\r\n\0]", "", text))
words = st.sampled_from(["orders", "created", "eu", "a-b", "${x}", "$${y}", "é", '"', "1"])
subjects = st.lists(words, min_size=1, max_size=3).map(".".join)
patterns = st.one_of(
    subjects,
    st.lists(words | st.just("*"), min_size=1, max_size=3).map(".".join),
    st.lists(words | st.just("*"), max_size=2).map(lambda tokens: ".".join([*tokens, ">"])),
)
names = st.sampled_from(["check", "title", "log", "retry", "validate", "python", "Log", "Retry", "${env:X}", "a\nb", "é'\""])
zones = st.none() | st.integers(-900, 900).map(lambda m: datetime.timezone(datetime.timedelta(minutes=m)))
data = st.recursive(
    texts
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.dates()
    | st.datetimes(timezones=zones).map(lambda moment: moment.replace(fold=0))  # TOML has no word for it, and the two are equal
    | st.times().map(lambda time: time.replace(fold=0)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
tables = st.dictionaries(texts, data, max_size=3)
durations = st.floats(0.001, 1e9) | st.integers(1, 100) | st.sampled_from(["200ms", "1.5s", "10m", "2h", "1d", "7us"])
header_names = st.sampled_from(["tenant", "trace-id", "é", "${x}", "'", '"', "a.b", "#"])
CONDITIONS: Final = (
    "length(subject) > `3`", "headers.tenant == 'acme'", "contains(keys(headers), '${x}')", "key == 'k' || id == '\"'",
    "type(body) == 'object'", "body.a == `1`", "subject == '$${env:HOME}'\n",
)  # fmt: skip
EXPRESSIONS: Final = ("key", "id", "subject", "headers", "body.a", 'headers."${x}"', "join('', [subject, 'é'])")
rules = st.sampled_from([shop.is_large, shop.is_keyed, shop.Rules.is_small])
expressions = st.sampled_from(EXPRESSIONS).map(Expression)
tests = patterns | rules | st.sampled_from(CONDITIONS).map(Condition)
fields = st.sampled_from(["body.a", "body.b.c", "headers.tenant", "body.${x}"])
body_fields = st.sampled_from(["body.a", "body.b", "body.${x}"])
errors = st.sampled_from([ValueError, (ValueError,), (shop.Late, OSError), shop.Late, Exception, (Exception,)])
models = st.sampled_from([int, str, dict, list, float, bool, bytes, shop.Order])


def options_of(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=optional)


def retry(options: dict[str, Any]) -> dict[str, Any]:
    """Return options whose waits the filter accepts."""
    return options | {"max_wait": max(options.get("wait", 0.1), options.get("max_wait", 10.0))}


def with_(options: st.SearchStrategy[dict[str, Any]], **required: st.SearchStrategy[Any]) -> Any:
    return st.tuples(st.fixed_dictionaries(required), options).map(lambda both: {**both[1], **both[0]})


BUILT_IN: Final[dict[type, st.SearchStrategy[dict[str, Any]]]] = {
    CircuitBreaker: options_of(
        failures=st.integers(1, 9), window=durations, cool_down=durations, on=errors,
    ),
    Concurrency: with_(
        options_of(key=rules | expressions, queue=st.integers(0, 9), timeout=durations), limit=st.integers(1, 9)
    ),
    Drop: options_of(when=rules, reason=texts.filter(bool)),
    Dedupe: options_of(key=rules | expressions, window=durations, size=st.integers(1, 2**63 - 1)),
    Enrich: with_(options_of(overwrite=st.booleans()), add=tables | st.just(shop.extra) | expressions),
    Expire: with_(options_of(), ttl=durations),
    Fallback: with_(options_of(on=errors), subject=st.sampled_from(["later", "orders.later"])),
    Fields: with_(
        options_of(
            rename=st.dictionaries(fields, fields, max_size=2),
            cast=st.dictionaries(body_fields, st.sampled_from(["text", "int", "float", "bool", "decimal", "date"]), max_size=2),
            set=st.dictionaries(body_fields, data | expressions | st.just(shop.text_of), max_size=2)
            | st.dictionaries(fields, lines | expressions | st.booleans(), max_size=2),
            missing=st.sampled_from(["reject", "skip"]),
        ),
        remove=st.lists(fields, min_size=1, max_size=2),
    ),
    Log: options_of(
        level=st.sampled_from(["debug", "info", "warning"]), body=st.booleans(), headers=st.booleans(),
        redact=st.lists(fields, max_size=2),
    ),
    RateLimit: with_(
        options_of(
            per=durations, burst=st.integers(1, 9), key=rules | expressions, max_wait=durations, size=st.integers(1, 9),
            on_limit=st.sampled_from(["wait", "drop", "reject"]),
        ),
        rate=st.integers(1, 9),
    ),
    Redact: with_(options_of(mask=lines, remove=st.booleans()), names=st.lists(fields, min_size=1, max_size=2)),
    Reroute: with_(
        options_of(), to=st.sampled_from(["shop.{subject}", "a.{key}.{body.a}", "x.{headers.tenant}.$"]) | st.just(shop.as_text)
    ),
    Retry: options_of(
        attempts=st.integers(1, 4), wait=st.floats(0, 100), max_wait=st.floats(0, 1e6), jitter=st.floats(0, 1), on=errors
    ).map(retry),
    SetHeaders: with_(
        options_of(overwrite=st.booleans()),
        headers=st.dictionaries(header_names, lines | st.just(shop.text_of) | expressions, min_size=1, max_size=3),
    ),
    SizeLimit: with_(options_of(), bytes=st.integers(1, 2**63 - 1) | st.just("64KiB")),
    Tap: with_(options_of(), target=st.sampled_from([shop.look, shop.refuse]) | expressions),
    Timeout: with_(options_of(), seconds=durations, abandon=st.just(True)),
    Validate: with_(
        options_of(replace=st.booleans(), name=names), models=st.dictionaries(patterns, models, min_size=1, max_size=2)
    ),
}  # fmt: skip
OURS: Final[dict[type, st.SearchStrategy[dict[str, Any]]]] = {
    shop.Paint: with_(
        options_of(
            number=st.floats(allow_nan=False), whole=st.integers(-(2**63), 2**63 - 1), flag=st.booleans(), wait=durations,
            room=st.integers(0, 2**63 - 1) | st.just("64KiB"), model=models,
            colour=st.sampled_from(shop.Colour), mode=st.sampled_from(["fast", "slow"]),
            words=st.lists(texts, max_size=2).map(tuple), names=st.frozensets(texts, max_size=3),
            table=st.dictionaries(texts, st.integers(0, 9), max_size=2),
            limits=st.builds(shop.Limits, st.integers(0, 9), st.none() | st.integers(0, 9)),
            day=st.dates(), price=st.decimals(allow_nan=False, allow_infinity=False, places=2), anything=data,
            maybe=st.integers(0, 9), rule=rules, errors=st.sampled_from([ValueError, shop.Late]),
        ),
        text=texts,
    ),
    shop.Count: options_of(start_at=st.integers(0, 9), name=names),
    shop.Titled: options_of(twice=st.booleans()),
    shop.Bare: options_of(),
    shop.Loud: options_of(body=st.booleans(), redact=st.lists(fields, max_size=2)),
}  # fmt: skip


def objects_of(table: Mapping[type, Any]) -> st.SearchStrategy[Part]:
    return st.sampled_from(list(table)).flatmap(
        lambda cls: st.builds(functools.partial, st.just(made), st.just(cls), st.none() | st.none() | names, table[cls])
    )


objects = objects_of(BUILT_IN) | objects_of(OURS)
functions: st.SearchStrategy[Part] = st.sampled_from(shop.FUNCTIONS).map(lambda found: functools.partial(itself, found))
numbers = st.integers(0, 2)
leaves: st.SearchStrategy[Part] = st.one_of(
    objects,
    functions,
    numbers.map(lambda number: functools.partial(shared, number)),
    numbers.map(lambda number: functools.partial(shared_pipeline, number)),
)
on_errors = st.sampled_from([None, "reject", "dead_letter", "drop"])
parts: st.SearchStrategy[Part] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(functools.partial, st.just(forked), st.sampled_from([when, branch]), tests, st.lists(inner, max_size=3)),
        st.builds(functools.partial, st.just(piped), on_errors, st.lists(inner, max_size=3)),
        st.builds(
            functools.partial,
            st.just(switched),
            st.lists(st.tuples(tests, st.lists(inner, max_size=2)), min_size=1, max_size=3),
            st.none() | st.lists(inner, max_size=2),
        ),
    ),
    max_leaves=5,
)
transforms = st.sampled_from([shop.Paint, SetHeaders, Expire]).flatmap(
    lambda cls: st.builds(functools.partial, st.just(made), st.just(cls), st.none(), {**BUILT_IN, **OURS}[cls])
)
handlers = st.sampled_from([None, shop.bill, shop.fussy, shop.order, shop.aship])
subscription_options = options_of(
    to=st.sampled_from(["out.a", "out.${x}", Subject[str]("out.s")]),
    workers=st.integers(1, 3),
    run=st.sampled_from(["pool", "thread", "loop"]),
    mailbox=st.integers(1, 2**63 - 1),
    overflow=st.sampled_from(["block", "reject", "drop_newest", "drop_oldest"]),
    overflow_timeout=st.floats(0, 1e6) | st.integers(0, 10),
    attempts=st.integers(1, 5),
)
subscribed = st.tuples(
    patterns | st.lists(patterns, min_size=1, max_size=3),
    handlers,
    st.lists(parts | transforms, max_size=2),
    with_(subscription_options, name=st.integers(0, 4).map(str) | lines.filter(lambda text: text.isprintable() and text)),
)
"""What is read by its owner takes hardly any option: most of those are refused, and left out."""
read = st.tuples(
    patterns | st.lists(patterns, min_size=1, max_size=3),
    st.none(),
    st.lists(transforms, max_size=1),
    with_(options_of(mailbox=st.integers(1, 99), attempts=st.integers(1, 5)), name=st.integers(5, 9).map(str)),
)
scheduled = st.tuples(
    durations,
    subjects,
    st.none() | data,
    options_of(
        headers=st.dictionaries(header_names, lines, max_size=2), key=lines, ttl=st.floats(0.001, 1e6) | st.integers(1, 99),
        delay=st.floats(0, 1e6), reply_to=subjects, correlation_id=lines,
    ),
)  # fmt: skip
bus_options = options_of(
    url=st.sampled_from(["memory:", "memory:?wire=json"]),
    name=lines,
    pool=st.integers(1, 99),
    dead_letters=st.integers(1, 2**63 - 1),
    max_message_bytes=st.integers(0, 2**63 - 1),
    debug=st.booleans(),
    require=st.fixed_dictionaries(
        {}, optional={"survives": st.just("nothing"), "order": st.just("key"), "delay": st.just(True)}
    ),
)
recipes = st.builds(
    Recipe,
    options=bus_options,
    filters=st.lists(objects, max_size=3),
    pipelines=st.lists(st.builds(functools.partial, st.just(piped), st.none(), st.lists(leaves, max_size=2)), max_size=2),
    publish=st.lists(parts, max_size=5),
    delivery=st.lists(parts, max_size=3),
    subscriptions=st.lists(subscribed | read, max_size=4),
    every=st.lists(scheduled, max_size=2),
)


@settings(CALM, max_examples=examples(15, 120))
@given(recipe=recipes)
def test_a_random_bus(recipe: Recipe, file: Path) -> None:
    """The loaded bus has the same description, shares objects as before, and is exported as the same text."""
    same(recipe.bus(), file)


# --- what a loaded bus does --------------------------------------------------------------------------------------------

bodies = st.sampled_from([{"a": 1, "b": {"c": "2"}}, {"id": 3}, {"a": "1"}, None, True, 1.5, 7, "a text that is long", [1, 2]])
to_all = st.tuples(
    st.just(">"),
    st.sampled_from([shop.bill, shop.fussy, shop.aship]),
    st.lists(parts, max_size=2),
    with_(options_of(workers=st.integers(1, 2), mailbox=st.integers(1, 9), attempts=st.integers(1, 3)), name=st.just("0")),
)
lively = st.builds(
    Recipe,
    options=options_of(url=st.sampled_from(["memory:", "memory:?wire=json"])),
    filters=st.lists(objects, min_size=1, max_size=2),
    pipelines=st.lists(st.builds(functools.partial, st.just(piped), st.none(), st.lists(leaves, max_size=2)), max_size=1),
    publish=st.lists(parts, max_size=2),
    delivery=st.lists(parts, max_size=2),
    subscriptions=st.tuples(to_all, subscribed, read).map(list),
    every=st.lists(scheduled.map(lambda one: (2.5, *one[1:])), max_size=1),
)
"""Buses whose messages mostly arrive: short chains, and somebody who listens to all."""
letters = st.fixed_dictionaries(
    {"subject": subjects, "body": bodies},
    optional={"key": st.sampled_from(["k", "l"]), "headers": st.just({"tenant": "acme"}), "delay": st.just(2.0)},
)


def without_ids(value: Any) -> Any:
    """
    Return the value without ids of the bus, which differ in each run and which an expression may put into a header or a body.
    """
    match value:
        case str():
            return re.sub(r"[0-9a-f]{12}-[0-9a-f]{16}-\d{10}", "ID", value)
        case Mapping():
            return {name: without_ids(one) for name, one in value.items()}
        case list():
            return [without_ids(one) for one in value]
        case _:
            return value


def story(make: Callable[[], Bus], post: list[dict[str, Any]]) -> dict[str, Any]:
    """All that a bus does with some messages, ids and the text of errors apart."""
    told: dict[str, Any] = {"outcomes": []}
    with Harness(fail_fast=False, start=1e9) as harness:
        bus = harness.start(make())
        for number, letter in enumerate(post):
            try:
                outcome: Any = bus.publish(**letter, id=f"m{number % 5}")
                told["outcomes"].append(outcome)
                assert isinstance(outcome, (Receipt, Dropped))
            except Exception as error:
                told["outcomes"].append((type(error).__name__, getattr(error, "by", None)))
        harness.advance(5.0)
        for one in bus.subscriptions:
            got = [event.message for event in harness.delivered if event.subscription == one.name]
            told[one.name] = [(m.subject, without_ids(m.body), without_ids(m.headers), m.key) for m in got]
            stats = one.stats()
            told[f"{one.name} stats"] = {key: stats[key] for key in ("accepted", "acknowledged", "dead", "dropped", "pending")}
        told["dropped"] = sorted((str(e.message.subject), e.place, e.reason, str(e.by)) for e in harness.dropped)
        told["dead"] = sorted((str(e.message.subject), e.place, type(e.exception).__name__) for e in harness.dead)
    return told


@settings(CALM, max_examples=examples(10, 60))
@given(recipe=lively, post=st.lists(letters, min_size=1, max_size=6))
def test_a_random_bus_does_the_same(recipe: Recipe, post: list[dict[str, Any]], file: Path) -> None:
    """Outcomes, deliveries, drops and dead letters are the same, in the same order."""
    text = recipe.bus().export_config()
    expected = story(recipe.bus, post)
    event(f"delivered: {min(3, len(expected.get('0', ())))}")
    assert story(lambda: loaded(text, file), post) == expected


# --- one thing at a time -----------------------------------------------------------------------------------------------

_, LOUD, CALM_LOG = object(), Log(body=True), Log(level="debug")
COUNTING = Pipeline(shop.Count(3), Dedupe())
DAY = datetime.datetime(2026, 11, 25, 4, 0, 0, 123456)
HOSTILE = "".join(PIECES)


def using(*filters: Any, at: Any = "publish") -> Callable[[Bus], Any]:
    return lambda bus: bus.use(*filters, at=at)


def named(found: Any, name: str) -> Any:
    found.name = name
    return found


def test_subscriptions_of_one_line_keep_their_order(file: Path) -> None:
    """They get each message in that order, also in the loaded bus."""
    bus = Bus()
    for name in "cab":
        bus.subscribe(">", name=name)
    assert [one.name for one in same(bus, file).subscriptions] == ["c", "a", "b"]


def in_two_places(bus: Bus) -> None:
    log = Log()
    bus.use(log, when("a.>", log))
    bus.use(log, at="delivery")
    bus.subscribe("b", shop.bill, name="b", filters=[log, LOUD])


def a_pipeline_in_two_subscriptions(bus: Bus) -> None:
    bus.use(COUNTING)
    bus.subscribe("a", shop.bill, name="a", filters=COUNTING)
    bus.subscribe("b", shop.bill, name="b", filters=COUNTING)
    bus.subscribe("c", shop.fussy, name="c", filters=[COUNTING, COUNTING])


def one_plan(bus: Bus) -> None:
    """Equal settings: the bus keeps one plan, with one step, for both."""
    dedupe = Dedupe()
    bus.subscribe("a", shop.bill, name="a", filters=[dedupe])
    bus.subscribe("b", shop.bill, name="b", filters=[dedupe])


def everything_about_a_subscription(bus: Bus) -> None:
    bus.subscribe(
        [Subject[str]("orders.created"), "x.*", "y.>"], shop.bill, name="".join(filter(str.isprintable, HOSTILE)),
        filters=[when("x.*", Retry(attempts=2, on=(shop.Late, OSError))), Timeout(5, abandon=True)], to=Subject[str]("o.${x}"),
        workers=3, run="thread", mailbox=7, overflow="drop_oldest", overflow_timeout=0, attempts=1,
    )  # fmt: skip
    bus.subscribe("a", shop.aship, name="async", filters=[shop.apassing, Timeout(1)])
    bus.subscribe("b", shop.order, name="on the loop", run="loop")
    bus.subscribe(">", name="pull", mailbox=3, overflow="reject", filters=[shop.stamp, SetHeaders({"a": "b"})])


def everything_about_a_schedule(bus: Bus) -> None:
    bus.every("1.5s", Subject[dict[str, int]]("a.${x}"), {HOSTILE: [HOSTILE, {"a": 1.0, "b": [True, -0.0, math.inf]}], "": {}})
    bus.every(1e-5, "b", DAY, headers={"a.b": "${x}"}, key="${k}", ttl=2.5, delay=1.0, reply_to="r.${x}", correlation_id="c")
    bus.every(2**53, "c", "text")
    bus.every(3, "d", [])
    bus.every(3, "e", False)
    bus.every(3, "f", 2**63 - 1)
    bus.every(3, "h", name="h", now=True, missed="once")
    bus.cron("0 3 * * 1-5", "i", {"a": 1}, name="i", timezone="Europe/Berlin", key="k")
    bus.cron("*/10 * * * * *", "j")
    bus.every(3, "g", [DAY, DAY.date(), DAY.time(), DAY.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=-9)))])


WHOLE: Final[dict[str, Callable[[Bus], Any]]] = {
    "nothing": lambda bus: None,
    "one filter": using(Log()),
    "filters of all shapes": using(shop.stamp, shop.measured, shop.passing, shop.Bare(), Log(), shop.Loud(body=True)),
    "an async filter": using(shop.apassing),
    "a function in a class": using(when(shop.Rules.is_small, shop.stamp)),
    "filters of one name": using(*(Validate({one: int}, name="c") for one in "ab"), Validate({"b": int}, name="c-2")),
    "filters whose class has a name": using(shop.Titled(), shop.Titled(twice=True), shop.Titled()),
    "objects of one class, each in two places": using(LOUD, CALM_LOG, CALM_LOG, LOUD),
    "an object in all kinds of places": in_two_places,
    "an object through one step": one_plan,
    "a pipeline in two places": using(COUNTING, when("a", COUNTING)),
    "a pipeline in two subscriptions": a_pipeline_in_two_subscriptions,
    "a filter called like its kind": using(named(Log(), "log"), Log(), named(Log(body=True), "log")),
    "a filter called like another kind": using(Validate({"a": int}, name="retry"), Retry(attempts=4), Retry()),
    "a filter called python": using(Validate({"a": int}, name="python"), shop.Titled(), shop.stamp),
    "a filter called like the class of another": using(named(Expire(1), "Log"), Log(), Log(body=True)),
    "a filter called ${env:X}": using(Validate({"a": int}, name="${env:X}"), named(Log(), "$${y}"), named(Expire(1), "${")),
    "a filter with a hostile name": using(Validate({"a": int}, name=HOSTILE)),
    "an object without settings that has a name": using(named(shop.Bare(), "bare")),
    "${ in an expression": using(when(Condition("body.a == '${x}'"), branch(Condition("body.a == '$${x}'"), Log()))),
    "${ in patterns": using(when("a.${x}.>", Log()), when("b.*", branch("*.${y}", Log())), Validate({"$${x}.>": int})),
    "${ in settings": using(Reroute("a.${subject}"), Enrich({"${x}": "${x}"}), SetHeaders({"${x}": "$${x}"})),
    "a table with expr and more": using(Enrich({"expr": "body.a", "b": 1}), Enrich({"a": {"expr": "body.b", "c": 1}})),
    "fields that are functions": using(Enrich({"a": Expression("body.b"), "c": shop.text_of, "d": 1})),
    "settings as Python has them": using(
        Log(redact=iter(["a", "b"])), Log(redact=["a"]), Retry(on=(ValueError,)), Retry(on=(Exception,)), Expire("1d"),
        Enrich(add={}), Enrich(add={"a": (1, 2)}), Fields(set={"body": []}), Fields(remove=("body.a",)),
    ),
    "True is not 1": using(Enrich({"a": True, "b": 1, "c": 1.0}), Fields(set={"body.a": True, "body.b": 0, "body.c": "true"})),
    "a default is left out, what only looks like it is not": using(shop.Paint("x", anything=0), shop.Paint("", flag=True)),
    "pipelines and forks without filters": using(
        Pipeline(), Pipeline(on_error="drop"), when("a"), when("b", Pipeline()), Pipeline(when("c"), on_error="reject")
    ),
    "switches": using(
        switch(when("a.>", Log()), when(Condition("key == 'k'"), switch(when("b", Log()))), otherwise(shop.stamp)),
        Pipeline(switch(when("c.${x}"), otherwise()), on_error="drop"),
        when("d", switch(when("d", Log()))),
    ),
    "a default in more digits": using(shop.Paint("", price=decimal.Decimal("1.00"))),
    "on_error around match": using(
        Pipeline(when("a.>", Log(), Pipeline(when("a.b", Dedupe()), on_error="dead_letter")), on_error="drop"),
        Pipeline(when("b.>", Log()), when("c.>", Log()), on_error="reject"),
        Pipeline(branch("d.>", Log()), on_error="drop"),
        Pipeline(Pipeline(when("e", Log()))),
    ),
    "delivery": using(Pipeline(when("a", Log()), on_error="dead_letter"), Pipeline(Log(), on_error="drop"), at="delivery"),
    "publish and delivery by turns": lambda bus: (
        bus.use(Log()), bus.use(Log(), at="delivery"), bus.use(Dedupe()), bus.use(Retry(), at="delivery")
    ),
    "a subscription": everything_about_a_subscription,
    "subscriptions in any order": lambda bus: [
        bus.subscribe(subjects, name=name)
        for name, subjects in {"z": "b", "y": ["a", "a.>"], "x": "a", "w": ["b", "a"], "v": ">", "u": "c"}.items()
    ],
    "a schedule": everything_about_a_schedule,
    "a schedule with its defaults": lambda bus: (
        bus.every(60, "a", key=None), bus.every(60, "b", delay=0.0, ttl=None), bus.every(60, "c", headers={}),
        bus.every(60, "d", None),
    ),
    "a schedule in whole numbers": lambda bus: bus.every(60, "a", ttl=22, delay=1),
    "a schedule with options in another order": lambda bus: bus.every(60, "a", reply_to="c", key="k", headers={}),
}  # fmt: skip


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_survives(make: Callable[[Bus], Any], file: Path) -> None:
    """A bus with one special part is the same after export and loading."""
    bus = Bus()
    make(bus)
    same(bus, file)


def test_options_of_a_bus(file: Path) -> None:
    """An export keeps every option of a bus."""
    bus = Bus(
        "memory:?wire=json", require={"survives": "nothing", "delay": True}, pool=3, dead_letters=5, max_message_bytes=2**20,
        max_hops=7, drain=False, strict=True, debug=True, name="shop ${x} \"'",
    )  # fmt: skip
    bus.subscribe("a", shop.bill, name="a", workers=2)
    other = same(bus, file)
    assert engine_of(other).options() == engine_of(bus).options()
    assert engine_of(other).options() == {
        "name": "shop ${x} \"'", "pool": 3, "dead_letters": 5, "max_message_bytes": 2**20,
        "max_hops": 7, "require": {"survives": "nothing", "delay": True}, "drain": False, "strict": True,
        "debug": True,
    }  # fmt: skip
    assert Bus().export_config() == "version = 1\n"


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({}, "otel"),
        ({"spans": "filters"}, {"use": "otel", "spans": "filters"}),
        ({"parent": "child"}, {"use": "otel", "parent": "child"}),
    ],
)
def test_telemetry_is_a_setting_of_the_bus(options: dict[str, Any], written: Any, file: Path) -> None:
    """An export says that the bus is instrumented, and how; not which filters do it."""
    bus = Bus()
    bus.use(Log())
    instrument(bus, **options)
    same(bus, file)
    assert tomllib.loads(bus.export_config()) == {
        "version": 1, "bus": {"telemetry": written}, "pipelines": [{"filters": ["log"]}]
    }  # fmt: skip


@pytest.mark.parametrize(
    "written",
    ['"otel"', '"${env:TELEMETRY:-otel}"', '{ spans = "${env:SPANS:-filters}" }', '{ use = "otel", parent = "child" }'],
)
def test_a_file_that_instruments_its_bus_is_kept(written: str, file: Path) -> None:
    """What a file says about telemetry is written again as it was, with its interpolations."""
    file.write_text(f"version = 1\n[bus]\ntelemetry = {written}\n", encoding="utf-8")
    bus = Bus.from_config(file)
    assert [node["filter"] for node in bus.describe()["publish"]] == ["telemetry"]
    assert tomllib.loads(bus.export_config()) == tomllib.loads(file.read_text(encoding="utf-8"))


def test_the_text(file: Path) -> None:
    """The text looks as if a person had written it: tables with headers, short lists on one line, long ones on several."""
    bus = Bus(pool=4)
    check = Validate({"orders.>": shop.Order}, name="check")
    bus.use(Log(), check, Retry(attempts=5))
    bus.use(when("orders.eu.>", SetHeaders({"region": "eu"}), shop.stamp), branch(Condition("key == 'k'"), Log()))
    bus.use(Pipeline(when("orders.>", check, Dedupe(key=shop.text_of, window="1h")), on_error="drop"), at="delivery")
    bus.subscribe("orders.created", shop.bill, name="billing", to="orders.billed", mailbox=7)
    bus.subscribe(["orders.>", "x"], name="all", overflow="reject")
    bus.every("5m", "tick", {"a": 1})
    text = bus.export_config()
    tables = re.findall(r"^\[.*\]$", text, re.MULTILINE)
    assert tables == ["[bus]", "[filters.check]", *["[[pipelines]]"] * 4, *["[[subscriptions]]"] * 2, "[[every]]"]
    assert tomllib.loads(text) == {
        "version": 1,
        "bus": {"pool": 4},
        "filters": {"check": tomllib.loads(text)["filters"]["check"]},
        "pipelines": [
            {"filters": ["log", "check", {"use": "retry", "attempts": 5}]},
            {
                "match": "orders.eu.>",
                "filters": [
                    {"use": "set_headers", "headers": {"region": "eu"}},
                    {"use": "python", "target": "export_shop:stamp"},
                ],
            },
            {"filters": [{"branch": {"expr": "key == 'k'"}, "filters": ["log"]}]},
            {
                "at": "delivery",
                "on_error": "drop",
                "match": "orders.>",
                "filters": ["check", {"use": "dedupe", "key": "export_shop:text_of", "window": 3600.0}],
            },
        ],
        "subscriptions": [
            {
                "name": "billing",
                "subject": "orders.created",
                "handler": "export_shop:bill",
                "to": "orders.billed",
                "mailbox": 7,
            },
            {"name": "all", "subject": ["orders.>", "x"], "mailbox": {"overflow": "reject"}},
        ],
        "every": [{"interval": 300.0, "subject": "tick", "body": {"a": 1}}],
    }
    assert all(len(line) <= 160 for line in text.splitlines())
    same(bus, file)


def test_subscriptions_are_written_in_the_order_of_the_program() -> None:
    bus = Bus()
    bus.subscribe("x", name="b")
    bus.subscribe(">", name="a")
    bus.subscribe("x", name="c")
    assert [one["name"] for one in tomllib.loads(bus.export_config())["subscriptions"]] == ["b", "a", "c"]


def test_identity_is_what_a_filter_does(file: Path) -> None:
    """
    A filter that counts in two places and in another's pipeline continues its count; another filter with the same settings does
    not.
    """
    bus = Bus()
    count, other = shop.Count(), shop.Count()
    bus.use(count, other, when("a", count), Pipeline(count))
    text = bus.export_config()
    with Harness() as harness:
        loaded_bus = harness.start(loaded(text, file))
        inbox = loaded_bus.subscribe("a")
        loaded_bus.publish("a", 1)
        loaded_bus.publish("a", 1)
        assert [inbox.receive(timeout=1).headers["counted"] for _ in range(2)] == [",1,1,2,3", ",4,2,5,6"]


def test_a_default_that_changes_its_values_does_not_leak(file: Path) -> None:
    """A value equal to a mutable default is left out, and the loaded filter has its own default."""
    bus = Bus()
    bus.use(shop.Paint("x", table={}), shop.Paint("y", table={"a": 1}))
    other = same(bus, file)
    first, second = (step.filter for step in steps(engine_of(other).router.nodes))
    first.table["b"] = 2
    assert second.table == {"a": 1}
    assert shop.Paint("z").table == {}
    assert "table" not in tomllib.loads(other.export_config())["pipelines"][0]["filters"][1] or second.table == {"a": 1}


# --- what no file can hold ---------------------------------------------------------------------------------------------


def local(message: Message[Any]) -> None:
    """A function whose name leads to another function."""


GLOBAL = local


def local(message: Message[Any]) -> None:  # type: ignore[no-redef]
    """The function that the name leads to."""


class Handler:
    """A class whose objects and methods have no name."""

    def __call__(self, message: Message[Any]) -> None: ...

    def method(self, message: Message[Any]) -> None: ...

    def __repr__(self) -> str:
        return "<a Handler>"


class Clerk(Actor):
    """An actor that is not a filter and gets mail."""

    def on_message(self, message: Message[Any]) -> None: ...


def of_main(message: Message[Any]) -> None: ...


of_main.__module__ = "__main__"


@dataclass(eq=False)
class Quiet(Transform):
    """A filter with a setting that nobody is to see."""

    token: str = field(default="", repr=False)
    retries: int = 1

    def transform(self, message: Message[Any], /) -> Message[Any]:
        return message


@dataclass(eq=False)
class Needy(Transform):
    """A filter whose setting takes what a file cannot express."""

    size: int | None = 5
    table: dict[Any, int] = field(default_factory=dict)

    def transform(self, message: Message[Any], /) -> Message[Any]:
        return message


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(message: Message[Any]) -> Any:
        return function(message)

    return wrapper


def inner() -> Callable[[Message[Any]], None]:
    def nested(message: Message[Any]) -> None: ...

    return nested


NO_NAME = "has no name that leads to it; define it at the top of"
LAMBDA = "has no name that leads to it; make it a function at the top of a module"
ACTOR = "it is an actor, an object with a state of its own; hand it in: from_config(filters={…})"
IMPOSSIBLE: Final[dict[str, tuple[Callable[[Bus], Any], list[str]]]] = {
    "a lambda as a filter's setting": (
        using(Tap(lambda message: None)),
        [f"filter Tap (position 1 of use at HERE): a lambda (of test_export) {LAMBDA}"],
    ),
    "a lambda as a predicate": (
        using(when(lambda message: True, Log())),
        [f"when(<lambda>) (at HERE): a lambda (of test_export) {LAMBDA}"],
    ),
    "a lambda as a filter, in a branch": (
        using(branch("a", lambda message, call_next: call_next(message))),
        [f"filter <lambda> (position 1 of branch at HERE): a lambda (of test_export) {LAMBDA}"],
    ),
    "a lambda as a handler": (
        lambda bus: bus.subscribe("a", lambda message: None, name="a"),
        [f"subscription a (at HERE): a lambda (of test_export) {LAMBDA}"],
    ),
    "a lambda in a subscription's filters": (
        lambda bus: bus.subscribe("a", shop.bill, name="a", filters=[Dedupe(key=lambda message: 1)]),
        [f"filter Dedupe (position 1 of filters of a at HERE): a lambda (of test_export) {LAMBDA}"],
    ),
    "a local function": (
        using(Tap(inner())),
        [f"filter Tap (position 1 of use at HERE): inner.<locals>.nested (of test_export) {NO_NAME} the module"],
    ),
    "a local function made a filter": (
        using(transform(inner())),
        [f"filter nested (position 1 of use at HERE): inner.<locals>.nested (of test_export) {NO_NAME} the module"],
    ),
    "a function of __main__": (
        using(Tap(of_main)),
        [
            "filter Tap (position 1 of use at HERE): of_main is defined in the program itself, which no other can import; "
            "move it to a module"
        ],
    ),
    "a partial": (
        using(Tap(functools.partial(shop.look))),
        [f"filter Tap (position 1 of use at HERE): functools.partial({shop.look!r}) {NO_NAME} a module"],
    ),
    "a partial as a handler": (
        lambda bus: bus.subscribe("a", functools.partial(shop.bill), name="a"),
        [f"subscription a (at HERE): functools.partial({shop.bill!r}) {NO_NAME} a module"],
    ),
    "an object as a handler": (
        lambda bus: bus.subscribe("a", Handler(), name="a"),
        [f"subscription a (at HERE): <a Handler> {NO_NAME} a module"],
    ),
    "a method of an object": (
        lambda bus: bus.subscribe("a", Handler().method, name="a"),
        [f"subscription a (at HERE): <bound method Handler.method of <a Handler>> {NO_NAME} a module"],
    ),
    "a function whose name leads to another": (
        using(Tap(GLOBAL)),
        [
            "filter Tap (position 1 of use at HERE): test_export:local leads to another object; give each its own name at the "
            "top of its module"
        ],
    ),
    "a decorated copy": (
        using(Tap(decorated(shop.look))),
        [
            "filter Tap (position 1 of use at HERE): export_shop:look leads to another object; give each its own name at the "
            "top of its module"
        ],
    ),
    "a filter actor": (lambda bus: bus.use(shop.Gate()), [f"filter Gate (position 1 of use at HERE): {ACTOR}"]),
    "an actor": (
        lambda bus: bus.spawn(Clerk()),
        ["subscription Clerk#1 (at HERE): it is for an object, not for a named subject"],
    ),
    "an object of a class without fields": (
        using(shop.Stateful(2.0)),
        [
            "filter Stateful (position 1 of use at HERE): Stateful is not a dataclass, so its settings are unknown; "
            "make it one"
        ],
    ),
    "a subscription to an object": (
        lambda bus: bus.subscribe(["a", Ref("b")], name="a"),
        ["subscription a (at HERE): it is for an object, not for a named subject"],
    ),
    "a subscription without a name": (
        lambda bus: bus.subscribe("a.>", shop.bill),
        ["subscription bill#1 (at HERE): it has no name; give it one: name=…"],
    ),
    "a reader of typed bodies": (
        lambda bus: bus.subscribe(Subject[list[int]]("a"), name="a"),
        ["subscription a (at HERE): it reads bodies as list[int], and a file has no types; subscribe to the bare name"],
    ),
    "an answer to an object": (
        lambda bus: bus.subscribe("a", shop.bill, name="a", to=Ref("b")),
        ["subscription a (at HERE): Ref('b') (Ref) is not data that a file can hold"],
    ),
    "a schedule for an object": (
        lambda bus: bus.every(5, Ref("b")),
        ["every 5 s: Ref('b') (at HERE): Ref('b') (Ref) is not data that a file can hold"],
    ),
    "None in a body": (
        lambda bus: bus.every(5, "a", {"b": [1, None]}),
        ["every 5 s: a (at HERE): None (NoneType) is not data that a file can hold"],
    ),
    "an object in a body": (
        lambda bus: bus.every(5, "a", [Handler()]),
        ["every 5 s: a (at HERE): <a Handler> (Handler) is not data that a file can hold"],
    ),
    "bytes, a set, and keys that are no texts, in bodies": (
        lambda bus: (bus.every(5, "a", b"x"), bus.every(5, "b", {1}), bus.every(5, "c", {1: 2})),
        [
            "every 5 s: a (at HERE): b'x' (bytes) is not data that a file can hold",
            "every 5 s: b (at HERE): {1} (set) is not data that a file can hold",
            "every 5 s: c (at HERE): {1: 2} (dict) is not data that a file can hold",
        ],
    ),
    "an integer that is too large, in a body": (
        lambda bus: (bus.every(5, "a", 2**63), bus.every(5, "b", {"c": -(2**63) - 1})),
        [
            "every 5 s: a (at HERE): 9223372036854775808 is too large a number for a file",
            "every 5 s: b (at HERE): -9223372036854775809 is too large a number for a file",
        ],
    ),
    "an integer that is too large, in a setting": (
        using(Dedupe(size=2**63)),
        ["filter Dedupe (position 1 of use at HERE): 9223372036854775808 is too large a number for a file"],
    ),
    "a setting that is None": (
        using(Needy(size=None)),
        ["filter Needy (position 1 of use at HERE): size is None, which a file can only express by leaving it out"],
    ),
    "a setting that is not shown": (
        using(Quiet("rosebud", retries=3), Quiet(token="")),
        [
            "filter Quiet (position 1 of use at HERE): token has field(repr=False), so its value is not shown; a file reads it "
            "from ${…}"
        ],
    ),
    "None in a setting": (
        using(Enrich({"a": None})),
        ["filter Enrich (position 1 of use at HERE): None (NoneType) is not data that a file can hold"],
    ),
    "a type without a name": (
        using(Validate({"a": list[int]})),
        [
            "filter Validate (position 1 of use at HERE): builtins:list leads to another object; give each its own name at the "
            "top of its module"
        ],
    ),
}  # fmt: skip


def told(error: ConfigError, bus: Bus) -> list[str]:
    """Return the error's text without the name of this file."""
    assert all(one.file == repr(bus) and one.line is None for one in error.problems)
    return [re.sub(re.escape(__file__) + r":\d+", "HERE", f"{one.where}: {one.text}") for one in error.problems]


@table(("make", "says"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_cannot_be_written(make: Callable[[Bus], Any], says: list[str]) -> None:
    """The error names each part, and says what to do."""
    bus = Bus()
    make(bus)
    with pytest.raises(ConfigError) as caught:
        bus.export_config()
    assert told(caught.value, bus) == says


def test_all_that_cannot_be_written_is_told_at_once() -> None:
    """One error has a line for each such part, and the bus does not change."""
    bus = Bus(name="shop")
    for make, _ in IMPOSSIBLE.values():
        try:
            make(bus)
        except PipebusError:  # a second subscription "a"
            continue
    before = described(bus)
    with pytest.raises(ConfigError) as caught:
        bus.export_config()
    says = told(caught.value, bus)
    for name in (
        "Tap",
        "when(<lambda>)",
        "<lambda>",
        "nested",
        "Gate",
        "Clerk#",
        "Stateful",
        "bill#",
        "Needy",
        "Enrich",
        "every",
    ):
        assert any(name in line for line in says), name
    text = str(caught.value)
    assert text.splitlines()[0] == f"<Bus shop on memory:: new>: {len(says)} problems; nothing was written"
    assert len(text.splitlines()) == len(says) + 1
    assert described(bus) == before
    assert bus.state == "new"


UNWRITABLE: Final[dict[str, Callable[[Bus], Any]]] = {
    "a time-out without end": lambda bus: bus.subscribe("x", name="x", overflow_timeout=math.inf),
    "a mailbox too large": lambda bus: bus.subscribe("x", name="x", mailbox=2**64),
    "a number of more digits than Python writes": using(Dedupe(size=10**5000)),
    "a mailbox of more digits than Python writes": lambda bus: bus.subscribe("x", name="x", mailbox=10**5000),
    "a body of more digits than Python writes": lambda bus: bus.every(60, "x", 10**5000),
    "half of a surrogate pair": lambda bus: bus.every(60, "x", {"a": "\ud800"}),
    "half of a surrogate pair in a key": lambda bus: bus.every(60, "x", {"\ud800": 1}),
    "half of a surrogate pair in a setting": using(Enrich({"a": "\udfff"})),
    "a time with a zone": lambda bus: bus.every(60, "x", {"a": datetime.time(12, tzinfo=datetime.UTC)}),
    "a time whose zone has seconds": lambda bus: bus.every(
        60, "x", {"a": DAY.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=1, minutes=2, seconds=3)))}
    ),
    "plain data that looks like an expression": using(Fields(set={"body.a": {"expr": "body.b"}})),
    "a table that looks like an expression": using(Enrich({"expr": "body.b"})),
    "a field that looks like an expression": using(Enrich({"a": {"expr": "body.b"}})),
    "a table that looks like a function": using(Enrich({"python": "os:getcwd"})),
    "a setting called target": using(shop.Aimed("x")),
    "an expression that is no condition": using(when(Expression("body.a"), Log())),
    "a transport that is an object": lambda bus: setattr(engine_of(bus), "url", MemoryTransport()),
    "keys of a setting that are no texts": using(Needy(table={1: 2})),
}  # fmt: skip


@table("make", UNWRITABLE.values(), ids=UNWRITABLE)
def test_nothing_is_written_that_cannot_be_read(make: Callable[[Bus], Any]) -> None:
    """A text that TOML or the file's own words cannot express is one problem of one line."""
    bus = Bus()
    make(bus)
    with pytest.raises(ConfigError) as caught:
        bus.export_config()
    [problem] = caught.value.problems
    assert problem.where
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


def test_a_name_of_several_lines_is_told_in_one() -> None:
    bus = Bus(name="a\nb")
    bus.use(named(Tap(lambda message: None), "c\nd"))
    bus.subscribe("x", lambda message: None)
    with pytest.raises(ConfigError) as caught:
        bus.export_config()
    assert len(str(caught.value).splitlines()) == 3


# --- from a file, to a file --------------------------------------------------------------------------------------------

TOLD = """\
version = 1

[bus]
transport = "${env:TRANSPORT:-memory:}"
name = "shop-${env:NAME}"
pool = "${env:POOL}"
max_message_bytes = "${env:SIZE:-1MiB}"
debug = "${env:DEBUG:-false}"
dead_letters = 7

[filters.check]
use = "validate"
models = {"orders.>" = "export_shop:Order"}
replace = "${env:DEBUG:-true}"

[filters.once]
use = "dedupe"
window = "${env:WINDOW}"

[[pipelines]]
filters = [
    "check",
    "once",
    {use = "retry", attempts = "${env:POOL}", wait = "${env:WAIT:-200ms}"},
    {use = "set_headers", headers = {from = "${env:NAME}", "${x}" = "${file:secret.txt}", plain = "$${env:X}"}},
    "once",
]

[[pipelines]]
match = "orders.eu.>"
filters = [{use = "python", target = "export_shop:Paint", text = "${env:NAME}", words = ["${env:NAME}", "$${x}"]}]

[[subscriptions]]
name = "billing-${env:NAME}"
subject = ["orders.${env:NAME}", "x.>"]
handler = "bill"
workers = "${env:WORKERS:-2}"
mailbox = {size = "${env:POOL}", overflow = "${env:OVERFLOW:-reject}"}
to = "out.${env:NAME}"
filters = [{use = "log", level = "${env:LEVEL:-info}"}]

[[subscriptions]]
name = "audit"
subject = "${env:ALL:->}"
mailbox = "${env:POOL}"

[[every]]
interval = "${env:WINDOW}"
subject = "tick.${env:NAME}"
body = {by = "${env:NAME}", n = 1, text = "$${x}"}
headers = {tenant = "${env:NAME}"}
delay = "${env:DELAY:-0s}"
ttl = "${env:TTL:-1h}"
"""


def test_what_a_file_takes_from_outside_is_kept(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`${env:X}` is exported as it was written and not as its value, so the export loads elsewhere with other values."""
    for name, value in {"NAME": "ada", "POOL": "3", "WINDOW": "10m"}.items():
        monkeypatch.setenv(name, value)
    (file.parent / "secret.txt").write_text("hunter2\n")
    bus = loaded(TOLD, file, handlers={"bill": shop.bill})
    other = same(bus, file, handlers={"bill": shop.bill})
    text = bus.export_config()
    assert "ada" not in text
    assert "hunter2" not in text
    wanted, found = (tomllib.loads(one) for one in (TOLD, text))
    assert found == wanted
    assert "hunter2" not in repr(described(other))
    monkeypatch.setenv("NAME", "bob")
    monkeypatch.setenv("POOL", "5")
    elsewhere = loaded(text, file, handlers={"bill": shop.bill})
    assert sorted(one.name for one in elsewhere.subscriptions) == ["audit", "billing-bob"]
    assert engine_of(elsewhere).pool.size == 5


@pytest.mark.parametrize("key", ["match", "when", "branch"])
def test_a_pattern_from_outside_is_kept(key: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P", "orders.>")
    inner = f'{{ {key} = "${{env:P}}", filters = ["log"] }}' if key != "match" else '"log"'
    outer = 'match = "${env:P}"\n' if key == "match" else ""
    bus = loaded(f"version = 1\n[[pipelines]]\n{outer}filters = [{inner}]\n", file)
    same(bus, file)
    assert "orders.>" not in bus.export_config()
    assert "${env:P}" in bus.export_config()


def test_what_the_program_handed_in_is_named_again(file: Path) -> None:
    """Handlers and filters of any shape are named, even those that no file could hold."""
    handed: dict[str, Any] = {
        "lambda": lambda message, call_next: call_next(message), "object": shop.Stateful(2.0),
        "chain": Pipeline(Log(), Tap(lambda message: None)), "a b": shop.stamp, "fork": when("a", Tap(lambda message: None)),
        "ways": switch(when("b", Tap(lambda message: None))),
    }  # fmt: skip
    handlers = {"bill it": lambda message: None}
    bus = loaded(
        """
        version = 1
        [[pipelines]]
        filters = ["lambda", "object", { use = "object" }, "chain", "a b", "fork", "ways", { when = "a", filters = ["chain"] }]
        [[subscriptions]]
        name = "a"
        subject = "a"
        handler = "bill it"
        filters = ["lambda", "chain"]
        """,
        file,
        handlers=handlers,
        filters=handed,
    )
    same(bus, file, handlers=handlers, filters=handed)
    assert tomllib.loads(bus.export_config())["pipelines"] == [
        {"filters": ["lambda", "object", "object", "chain", "a b", "fork", "ways"]},
        {"match": "a", "filters": ["chain"]},
    ]


def test_an_actor_that_was_handed_in(file: Path) -> None:
    """The actor's mailbox is not exported as a subscription."""
    bus = loaded('version = 1\n[[pipelines]]\nfilters = ["gate"]\n', file, filters={"gate": shop.Gate()})
    text = bus.export_config()
    assert tomllib.loads(text) == {"version": 1, "pipelines": [{"filters": ["gate"]}]}
    other = loaded(text, file, filters={"gate": shop.Gate()})
    assert described(other)["publish"] == described(bus)["publish"]


def test_names_that_a_file_gave(file: Path) -> None:
    """The names of functions and objects are kept, whether used once or often, and so are the names of their modules."""
    bus = loaded(
        """
        version = 1
        [filters.mark]
        use = "python"
        target = "export_shop:stamp"
        [filters.loud]
        use = "log"
        body = true
        [filters.log]
        use = "log"
        headers = true
        [filters.state]
        use = "python"
        target = "export_shop:STATEFUL"
        [[pipelines]]
        filters = ["mark", "loud", "log", "mark", "state", { use = "python", target = "export_shop:SHARED_COUNT" }]
        """,
        file,
    )
    assert [one["filter"] for one in described(bus)["publish"]] == ["mark", "loud", "log", "mark", "state", "Count"]
    other = same(bus, file)
    assert [step.filter for step in steps(engine_of(other).router.nodes)][4:] == [shop.STATEFUL, shop.SHARED_COUNT]


def test_a_subscription_in_the_place_of_one_of_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of a file's subscription that is gone do not apply to another one with its name."""
    monkeypatch.setenv("N", "4")
    bus = loaded(
        'version = 1\n[[subscriptions]]\nname = "b"\nsubject = "a.>"\nhandler = "bill"\nworkers = "${env:N}"\n',
        file,
        handlers={"bill": shop.bill},
    )
    bus.subscriptions[0].unsubscribe()
    bus.subscribe("z", shop.fussy, name="b")
    assert tomllib.loads(bus.export_config())["subscriptions"] == [
        {"name": "b", "subject": "z", "handler": "export_shop:fussy"}
    ]


def test_a_bus_that_has_run(file: Path) -> None:
    """A bus may be exported at any time of its life, and the loaded bus is new."""
    bus = Bus()
    bus.use(Log(), Dedupe())
    bus.subscribe("a", shop.bill, name="a")
    text = bus.export_config()
    with bus:
        bus.publish("a", 1)
        assert bus.export_config() == text
    assert bus.export_config() == text
    same(bus, file)


def test_the_class_that_loads(file: Path) -> None:
    """Many exports work in one process, even for a bus of a derived class."""

    class Mine(Bus):
        pass

    bus = Mine()
    assert bus.export_config() == bus.export_config() == Bus().export_config() == "version = 1\n"

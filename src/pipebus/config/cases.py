"""`[[tests]]`: what is published, what stands in for what, and what is expected. `pipebus.testing` runs them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipebus.config.catalogue import Setting, word
from pipebus.config.document import Table
from pipebus.config.imports import exception_type
from pipebus.config.kinds import DURATION, INTERVAL, Anything, Choice, ListOf, Loading, OneOf, TableOf, Text, Whole
from pipebus.config.matchers import Expectation, Expected
from pipebus.config.problems import BROKEN, Bad, choice, shown
from pipebus.config.vocabulary import Headers, Key, Literal
from pipebus.outcomes.dead_letters import PUBLISH


class Reason(Expectation):
    """What is expected of a text."""

    def read(self, value: Any, loading: Loading) -> Expected:
        if not isinstance(value, (str, dict)):
            raise Bad('it has to be text, or a matcher, as in { contains = "part" }')
        return super().read(value, loading)


OUTCOMES: Final = ("accepted", "dropped", "rejected", "unrouted", "failed")

PUBLISHING: Final[dict[str, Setting]] = {
    "subject": Setting(Literal(), True, None, "Where it is published."),
    "json": Setting(Anything(), False, None, "The body: any data."),
    "headers": Setting(Headers(), False, None, "Texts."),
    "key": Setting(Key(), False, None, "Keeps the order among messages of equal key."),
    "id": Setting(Text(), False, None, "An id of your own."),
    "ttl": Setting(INTERVAL, False, None, "Age after which it is dropped."),
    "after": Setting(DURATION, False, 0.0, "Time that passes first, after the one before."),
}
HANDLING: Final[dict[str, Setting]] = {
    "returns": Setting(Anything(), False, None, "What it returns."),
    "raises": Setting(Text(), False, None, 'An error that it raises: a text, or as in "ConnectionError: down".'),
    "times": Setting(Whole(1), False, None, "How often it raises, before it goes well; left out: always."),
}
FILTERING: Final[dict[str, Setting]] = {
    "drops": Setting(Text(), False, None, "It drops each message, with this reason."),
    "rejects": Setting(Text(), False, None, "It refuses each message, with this reason."),
    "raises": Setting(Text(), False, None, 'An error that it raises: a text, or as in "ConnectionError: down".'),
    "times": Setting(Whole(1), False, None, "How often, before it hands messages on; left out: always."),
}
OUTCOME: Final = Choice(OUTCOMES)
COUNT: Final = Whole(0)
EXPECTING: Final[dict[str, Setting]] = {
    "outcome": Setting(OneOf((OUTCOME, ListOf(OUTCOME))), False, None, "What becomes of each publish."),
    "by": Setting(Text(), False, None, "Name of the filter that drops or refuses."),
    "reason": Setting(Reason(), False, None, "Why it drops, refuses or fails."),
    "deliveries": Setting(OneOf((COUNT, TableOf(COUNT))), False, None, "Handled messages, of all or by subscription."),
    "dead": Setting(OneOf((COUNT, TableOf(COUNT))), False, None, "Dead letters, of all or by subscription."),
    "error": Setting(Reason(), False, None, "A dead letter's error."),
}
RECEIVED: Final = ("subject", "body", "headers", "key", "id")
"""What may be expected of a message that was handled."""


@dataclass
class StandIn:
    """What a replaced handler or filter does."""

    returns: Any = None
    drops: str | None = None
    rejects: str | None = None
    raises: str | None = None
    times: int | None = None


@dataclass
class Case:
    """
    One test of a file.

    Args:
        publishes: Options of each publish; `after` is seconds of virtual time before it.
        received: By subscription, what is expected of each message that it handles, by field.
    """

    name: str
    file: str
    line: int
    publishes: list[dict[str, Any]]
    handlers: dict[str, StandIn] = field(default_factory=dict)
    filters: dict[str, StandIn] = field(default_factory=dict)
    advance: float = 0.0
    outcomes: list[str] | None = None
    by: str | None = None
    reason: Expected | None = None
    deliveries: int | dict[str, int] | None = None
    dead: int | dict[str, int] | None = None
    error: Expected | None = None
    received: dict[str, list[dict[str, Expected]]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)  # of each expectation
    redacted: Callable[[str], str] = str  # takes out of a text what `${…}` stands for


def read(tables: Sequence[Table], loading: Loading) -> list[Case]:
    """All cases that can be read; what is wrong is told to the document."""
    taken: dict[str, int] = {}
    found: list[Case] = []
    for table in tables:
        table.expects("name", "publish", "replace", "advance", "expect")
        name = table.take("name", Text(), loading)
        line = table.document.line((*table.path, "name"))
        if name is not BROKEN and name in taken:
            table.problem(f"name {shown(name)} is taken (line {taken[name]}); choose another", "name")
        elif name is not BROKEN:
            taken[name] = line
        case = Case(str(name), table.document.file, table.document.line(table.path), _publishes(table, loading))
        case.redacted = table.document.problems.redacted
        case.advance = table.take("advance", DURATION, loading, 0.0)
        _replacements(table, loading, case)
        _expect(table, loading, case)
        table.end()
        found.append(case)
    return found


def _publishes(table: Table, loading: Loading) -> list[dict[str, Any]]:
    one = table.data.get("publish")
    if one is None:
        table.asked.append("publish")
        table.problem('"publish" is missing')
        return []
    if not isinstance(one, (dict, list)):
        table.inner("publish", 'a table, as in { subject = "orders.created" }, or a list of such')
        return []
    if one == []:
        table.problem("publish = []: nothing is published, so nothing is tested", "publish")
    form = '{ subject = "orders.created" }'
    inner: Iterable[Table | None] = [table.inner("publish")] if isinstance(one, dict) else table.tables("publish", form)
    found = []
    for publish in inner:
        assert publish is not None
        if "body" in publish and "json" not in publish:
            publish.problem('"body" is written json here, as in json = { id = 1 }', "body")
            publish.asked.append("body")
        found.append(publish.take_all(PUBLISHING, loading))
        publish.end()
    return found


def _replacements(table: Table, loading: Loading, case: Case) -> None:
    replace = table.inner("replace")
    if replace is None:
        return
    handlers, filters = replace.inner("handlers"), replace.inner("filters")
    replace.end()
    for name in handlers.data if handlers is not None else ():
        one = handlers.inner(name, "a table, as in {} or { returns = 1 }")  # type: ignore[union-attr]
        if one is not None:
            case.handlers[name] = StandIn(**one.take_all(HANDLING, loading))
            one.end()
            _raises(one)
            if "times" in one and "raises" not in one:
                one.problem('times = … is for how often it raises; add raises = "…"', "times")
            if "raises" in one and "returns" in one and "times" not in one:
                one.problem("it always raises, and never returns; add times = 1, or take one of them out", "returns")
    for name, value in (filters.data if filters is not None else {}).items():
        if value == "pass":
            filters.asked.append(name)  # type: ignore[union-attr]
            case.filters[name] = StandIn()
            continue
        one = filters.inner(name, '"pass", or a table, as in { drops = "why" }')  # type: ignore[union-attr]
        if one is not None:
            case.filters[name] = StandIn(**one.take_all(FILTERING, loading))
            one.end()
            _raises(one)
            does = [key for key in ("drops", "rejects", "raises") if key in one]
            if len(does) != 1 and all(key in FILTERING for key in one.data):
                found = " and ".join(does) if does else "nothing"
                one.problem(f'it does {found}; give one of drops, rejects and raises, or "pass"')


def _raises(table: Table) -> None:
    """A name that reads like an exception's is one of Python's own."""
    text = table.data.get("raises")
    name = text.partition(":")[0].strip() if isinstance(text, str) else ""
    if re.fullmatch(r"[A-Za-z]\w*(Error|Exception|Warning)", name):
        try:
            exception_type(name)
        except Bad as bad:
            table.problem(f"raises = {shown(text)}: {bad.text.partition('; others')[0]}", "raises")


def _expect(table: Table, loading: Loading, case: Case) -> None:
    expect = table.inner("expect")
    if expect is None:
        if "expect" not in table:
            table.problem('"expect" is missing')
        return
    expect.expects("outcome", "by", "reason", "deliveries", "dead", "received", "error")
    found = expect.take_all(EXPECTING, loading)
    case.by, case.reason, case.error = found["by"], found["reason"], found["error"]
    case.deliveries, case.dead = found["deliveries"], found["dead"]
    outcome = found["outcome"]
    if isinstance(outcome, list) and len(outcome) != len(case.publishes):
        expect.problem(
            f"outcome = {shown(outcome)}: there are {len(outcome)} for {len(case.publishes)} publishes; give one for each, "
            "or one word for all", "outcome",
        )  # fmt: skip
    elif outcome is not None and outcome is not BROKEN:
        case.outcomes = outcome if isinstance(outcome, list) else [outcome] * len(case.publishes)
    received = expect.inner("received", "a table of subscriptions, as in { billing = [{ body = 1 }] }")
    for name in received.data if received is not None else ():
        one = received.data[name]  # type: ignore[union-attr]
        tables = (
            [received.inner(name)] if isinstance(one, dict) else list(received.tables(name))  # type: ignore[union-attr]
        )
        case.received[name] = [_received(one, loading) for one in tables if one is not None]
    for key in ("deliveries", "dead", "received"):
        if expect.data.get(key) == {}:
            expect.problem(f"{key} = {{}}: nothing is expected, so it cannot differ; name a subscription", key)
    expect.end()
    case.lines = {key: expect.document.line((*expect.path, key)) for key in expect.data}
    if not expect.data:
        expect.problem('nothing is expected, so the test could not fail; say what comes of it, as in outcome = "accepted"')


def _received(table: Table, loading: Loading) -> dict[str, Expected]:
    found = {key: table.take(key, Expectation(), loading, None) for key in RECEIVED}
    table.end()
    return {key: value for key, value in found.items() if value is not None}


def check_names(tables: Sequence[Table], cases: Sequence[Case], subscriptions: Iterable[str], filters: Iterable[str]) -> None:
    """Tell names that nothing in the file has."""
    handled = list(subscriptions)
    words = dict.fromkeys(filters) | {word(name): None for name in filters}
    for table, case in zip(tables, cases, strict=True):
        for name in case.handlers:
            if name != "*" and name not in handled:
                _unknown(table, "no subscription", name, [*handled, "*"], "replace", "handlers", name)
        for name in case.filters:
            if name not in words:
                _unknown(table, "no filter", name, words, "replace", "filters", name)
        for key, counts in (("deliveries", case.deliveries), ("dead", case.dead), ("received", case.received)):
            for name in counts if isinstance(counts, dict) else ():
                if name not in handled and not (key == "dead" and name == PUBLISH):
                    _unknown(table, "no subscription", name, handled, "expect", key, name)
        if isinstance(case.by, str) and case.by not in words:
            _unknown(table, "no filter", case.by, words, "expect", "by")


def _unknown(table: Table, what: str, name: str, known: Iterable[str], *path: str) -> None:
    Table(table.document, (*table.path, *path[:-1]), {}).problem(f"{what} {shown(name)}{choice(name, known)}", path[-1])

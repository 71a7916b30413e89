"""`[[tests]]`: the tables become `Case`s."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipebus.config.catalogue import word
from pipebus.config.kinds.base import Loading
from pipebus.config.kinds.expected import Expected
from pipebus.config.kinds.matchers import Expectation
from pipebus.config.kinds.objects import exception_type
from pipebus.config.kinds.plain import DURATION, Text
from pipebus.config.problems import BROKEN, Bad
from pipebus.config.reading.cases import Case, StandIn
from pipebus.config.reading.table import Table
from pipebus.config.settings import Setting
from pipebus.config.vocabulary import EXPECTING, FILTERING, HANDLING, PUBLISHING, RECEIVED
from pipebus.config.wording import choice, shown
from pipebus.outcomes.dead_letters import PUBLISH


def read(tables: Sequence[Table], loading: Loading) -> list[Case]:
    """Return a case for each table, and report what is wrong to the document."""
    taken: dict[str, int] = {}
    found: list[Case] = []
    for table in tables:
        table.expects("name", "publish", "replace", "advance", "expect")
        name = table.take("name", Text(), loading)
        if name is not BROKEN:
            table.check_new("name", name, taken)
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
    found = []
    for publish in table.one_or_many("publish", '{ subject = "orders.created" }'):
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
            case.handlers[name] = _stand_in(one, HANDLING, loading)
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
            case.filters[name] = _stand_in(one, FILTERING, loading)
            does = [key for key in ("drops", "rejects", "raises") if key in one]
            if len(does) != 1 and all(key in FILTERING for key in one.data):
                found = " and ".join(does) if does else "nothing"
                one.problem(f'it does {found}; give one of drops, rejects and raises, or "pass"')


def _stand_in(table: Table, settings: Mapping[str, Setting], loading: Loading) -> StandIn:
    made = StandIn(**table.take_all(settings, loading))
    table.end()
    text = table.data.get("raises")
    name = text.partition(":")[0].strip() if isinstance(text, str) else ""
    if re.fullmatch(r"[A-Za-z]\w*(Error|Exception|Warning)", name):  # it names one of Python's own exceptions
        try:
            exception_type(name)
        except Bad as bad:
            table.problem(f"raises = {shown(text)}: {bad.text.partition('; others')[0]}", "raises")
    return made


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
        messages = received.one_or_many(name)  # type: ignore[union-attr]
        case.received[name] = [_received(one, loading) for one in messages]
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
    """Report names in tests that nothing in the file has."""
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

"""`[[tests]]`: the tables become `Case`s."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from pipebus.config.catalogue import word
from pipebus.config.kinds.objects import exception_type
from pipebus.config.problems import BROKEN, Bad
from pipebus.config.reading.cases import Case
from pipebus.config.reading.table import Table
from pipebus.config.vocabulary import Expect, Filtering, Replacements, Test
from pipebus.config.wording import choice, shown
from pipebus.outcomes.dead_letters import PUBLISH

_MISSING: Final = '"publish" is missing'


def read(tests: Sequence[tuple[Table, Test]], schedules: bool) -> list[Case]:
    """
    Return a case for each table, and report what makes no sense in it.

    Args:
        schedules: The file has schedules.
    """
    taken: dict[str, int] = {}
    found: list[Case] = []
    for table, test in tests:
        if test.name is not BROKEN:
            table.check_new(test.name, taken)
        if not test.publish and not schedules:
            written = "publish" in table.data
            table.problem(f"{'publish = []: nothing is published' if written else _MISSING}, so nothing is tested", "publish")
        elif not test.publish and not test.advance:
            table.problem(f'{_MISSING}, and no time passes in which a schedule could publish; add advance = "1h"', "publish")
        if "replace" in table.data and test.replace is not BROKEN:
            _check_replacements(table.inner("replace"), test.replace)
        lines: dict[str, int] = {}
        if test.expect is not BROKEN:
            expect = table.inner("expect")
            lines = {key: table.document.line((*expect.path, key)) for key in expect.data}
            _check_expectations(expect, test)
        document = table.document
        found.append(Case(test, document.file, document.line(table.path), lines, document.problems.redacted))
    return found


def _check_replacements(table: Table, replace: Replacements) -> None:
    for name, found in replace.handlers.items() if replace.handlers is not BROKEN else ():
        if found is not BROKEN:
            one = table.inner("handlers", name)
            _check_error(one)
            if "times" in one.data and "raises" not in one.data:
                one.problem('times = … is for how often it raises; add raises = "…"', "times")
            if "raises" in one.data and "returns" in one.data and "times" not in one.data:
                one.problem("it always raises, and never returns; add times = 1, or take one of them out", "returns")
    for name in replace.filters if replace.filters is not BROKEN else ():
        one = table.inner("filters", name)
        if isinstance(one.data, dict):
            _check_error(one)
            does = [key for key in ("drops", "rejects", "raises") if key in one.data]
            if len(does) != 1 and one.data.keys() <= Filtering.model_fields.keys():
                one.problem(f'it does {" and ".join(does) or "nothing"}; give one of drops, rejects and raises, or "pass"')


def _check_error(table: Table) -> None:
    text = table.data.get("raises")
    name = text.partition(":")[0].strip() if isinstance(text, str) else ""
    if re.fullmatch(r"[A-Za-z]\w*(Error|Exception|Warning)", name):  # it names one of Python's own exceptions
        try:
            exception_type(name)
        except Bad as bad:
            table.problem(f"raises = {shown(text)}: {bad.text.partition('; others')[0]}", "raises")


def _check_expectations(table: Table, test: Test) -> None:
    outcome, publishes = test.expect.outcome, test.publish
    if isinstance(outcome, list) and publishes and publishes is not BROKEN and len(outcome) != len(publishes):
        table.problem(
            f"outcome = {shown(outcome)}: there are {len(outcome)} for {len(publishes)} publishes; give one for each, "
            "or one word for all", "outcome",
        )  # fmt: skip
    if outcome is not None and not publishes and test.advance:
        what = "it is what becomes of publish, which is missing; expect published, received or deliveries"
        table.problem(f"outcome = {shown(outcome)}: {what}", "outcome")
    for key in ("deliveries", "dead", "received"):
        if table.data.get(key) == {}:
            table.problem(f"{key} = {{}}: nothing is expected, so it cannot differ; name a subscription", key)
    if not table.data:
        table.problem('nothing is expected, so the test could not fail; say what comes of it, as in outcome = "accepted"')


def check_names(tests: Sequence[tuple[Table, Test]], subscriptions: Iterable[str], filters: Iterable[str]) -> None:
    """Report names in tests that nothing in the file has."""
    handled = list(subscriptions)
    words = dict.fromkeys(filters) | {word(name): None for name in filters}
    for table, test in tests:
        replace = Replacements() if test.replace is BROKEN else test.replace
        expect = Expect.model_construct() if test.expect is BROKEN else test.expect
        for outer, key, found, known in (
            ("replace", "handlers", replace.handlers, [*handled, "*"]),
            ("replace", "filters", replace.filters, words),
            ("expect", "deliveries", expect.deliveries, handled),
            ("expect", "dead", expect.dead, handled),
            ("expect", "received", expect.received, handled),
        ):
            for name in found if isinstance(found, dict) else ():
                if name not in known and (known is not words or word(name) not in known) and (key, name) != ("dead", PUBLISH):
                    _unknown(table, "no filter" if known is words else "no subscription", name, known, outer, key, name)
        if isinstance(expect.by, str) and expect.by not in words and word(expect.by) not in words:
            _unknown(table, "no filter", expect.by, words, "expect", "by")


def _unknown(table: Table, what: str, name: str, known: Iterable[str], *path: str) -> None:
    table.inner(*path[:-1]).problem(f"{what} {shown(name)}{choice(name, known)}", path[-1])

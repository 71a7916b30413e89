"""
Which cases of a test run each time, and which are left to `-m thorough`.

A table (one parameter, each case with a reason of its own) runs whole. A parameter that several tests of a file share (every
kind of chain, every way to run a handler) is a stage: each test runs on a few of its values, others than the test before it, so
the tests of a file together run on all of them. A cross product of a test's own parameters runs whole while it is small. Of a
large one, the default run has enough cases for each pair of values to meet once; where there are only two parameters, for each
value to occur once. Pairs find nearly all that the whole product finds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import pytest

SMALL: Final = 6
"""A cross product of this many cases runs completely."""

FEW: Final = 4
"""A test runs on at least so many values of a stage."""

SHARED: Final = 4
"""A parameter that so many tests of a file have, with the same values, is a stage."""


def mark_what_is_left_out(items: Iterable[pytest.Item]) -> None:
    """Mark the cases that the default run leaves out as thorough."""
    files: dict[Any, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        if hasattr(item, "callspec") and item.get_closest_marker("thorough") is None:
            files[item.path][item.nodeid.partition("[")[0]].append(item)
    for tests in files.values():
        stages = stages_of([[item.callspec.params for item in cases] for cases in tests.values()])
        for place, cases in enumerate(tests.values()):
            kept = set(chosen(cases, stages, place))
            for index, item in enumerate(cases):
                if index not in kept:
                    item.add_marker(pytest.mark.thorough)


Values = tuple[str, frozenset[int]]
"""A parameter's name, and the identities of its values."""


def values_of(cases: Sequence[Mapping[str, Any]]) -> list[Values]:
    """The parameters of one test that have several values."""
    found = [(name, frozenset(id(case.get(name)) for case in cases)) for name in cases[0]]
    return [(name, values) for name, values in found if len(values) > 1]


def stages_of(tests: Iterable[Sequence[Mapping[str, Any]]]) -> set[Values]:
    """The parameters that many tests of one file share."""
    often = Counter(values for cases in tests for values in values_of(cases))
    return {values for values, count in often.items() if count >= SHARED}


def chosen(cases: Sequence[Any], stages: set[Values], place: int) -> Iterable[int]:
    """The cases of one test that run each time. `place` is the number of the test in its file."""
    few = cases[0].get_closest_marker("few")
    if few is not None:
        return spread(few.args[0], len(cases))
    params = [item.callspec.params for item in cases]
    if len({frozenset(one) for one in params}) > 1:
        return range(len(cases))
    staged = [name for name, values in values_of(params) if (name, values) in stages]
    if staged:
        return on_stage(params, staged, place)
    return range(len(cases)) if len(cases) <= SMALL else covering(params)


def on_stage(cases: Sequence[Mapping[str, Any]], staged: Sequence[str], place: int) -> Sequence[int]:
    """Each combination of the test's own parameters on some values of the stage, and `FEW` cases or more in all."""
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for index, case in enumerate(cases):
        rows[tuple(id(value) for name, value in case.items() if name not in staged)].append(index)
    count = -(-FEW // len(rows))
    return sorted(
        {
            row[(place + number + turn * len(row) // count) % len(row)]
            for number, row in enumerate(rows.values())
            for turn in range(count)
        }
    )


def spread(count: int, among: int) -> list[int]:
    """Return `count` evenly spaced indices; the first index is one of them."""
    return sorted({index * among // count for index in range(count)})


def covering(cases: Sequence[Mapping[str, Any]]) -> Sequence[int]:
    """The cases that are needed for each pair of values to meet (with two parameters: for each value to occur)."""
    crossed = dimensions(cases)
    if len(crossed) < 2:
        return range(len(cases))
    size = min(2, len(crossed) - 1)
    rows = list(zip(*crossed, strict=True))
    covers = [{(places, tuple(row[p] for p in places)) for places in combinations(range(len(row)), size)} for row in rows]
    missing = set().union(*covers)
    often: Counter[Hashable] = Counter()
    left, kept = set(range(len(rows))), []
    while missing:
        best = max(left, key=lambda case: (len(covers[case] & missing), -sum(often[v] for v in enumerate(rows[case])), -case))
        left.discard(best)
        kept.append(best)
        missing -= covers[best]
        often.update(enumerate(rows[best]))
    return sorted(kept)


def dimensions(cases: Sequence[Mapping[str, Any]]) -> list[list[Hashable]]:
    """
    The values of each parameter, by case. Parameters that do not meet in every combination (the columns of a table) count as
    one.
    """
    found: list[list[Hashable]] = [[id(case[name]) for case in cases] for name in cases[0]]
    for name in range(len(found) - 1, 0, -1):
        for other in range(name):
            together: list[Hashable] = list(zip(found[name], found[other], strict=True))
            if len(set(together)) < len(set(found[name])) * len(set(found[other])):
                found[other] = together
                found.pop(name)
                break
    return [values for values in found if len(set(values)) > 1]

"""
Which cases of a test run each time, and which are left to `-m thorough`.

A table (one parameter, each case with a reason of its own) runs whole. A cross product (this filter on that kind of chain, for
each publisher) runs whole while it is small. Of a large one, the default run has enough cases for each pair of values to meet
once; where there are only two parameters, for each value to occur once. Pairs find nearly all that the whole product finds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, Final

import pytest

SMALL: Final = 12
"""A cross product of this many cases runs completely."""


def mark_what_is_left_out(items: Iterable[pytest.Item]) -> None:
    """Mark the cases that the default run leaves out as thorough."""
    tests: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        if hasattr(item, "callspec") and item.get_closest_marker("thorough") is None:
            tests[item.nodeid.partition("[")[0]].append(item)
    for cases in tests.values():
        kept = set(chosen(cases))
        for index, item in enumerate(cases):
            if index not in kept:
                item.add_marker(pytest.mark.thorough)


def chosen(cases: Sequence[Any]) -> Iterable[int]:
    """The cases of one test that run each time."""
    few = cases[0].get_closest_marker("few")
    if few is not None:
        return spread(few.args[0], len(cases))
    names = {frozenset(item.callspec.params) for item in cases}
    if len(cases) <= SMALL or len(names) > 1:
        return range(len(cases))
    return covering([item.callspec.params for item in cases])


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

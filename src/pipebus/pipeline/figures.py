"""
What a filter's `stats` say, as plain figures for `bus.stats()` and for those who watch a bus.

`stats` may be code of the program, which returns anything. So its figures are copied: few, short, and only numbers and texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

from pipebus.foreign.objects import is_a, plain_text, printable

Figures = dict[str, int | float | str]
Stats = Callable[[str], Mapping[str, Any]]

MOST: Final = 20
"""The most figures of one filter."""
NAME: Final = 80
"""Characters of the name of a figure."""
TEXT: Final = 200
"""Characters of a text."""
EXACT: Final = 2**53
"""From here on, JSON's readers do not have exact integers, so these become floats."""


def stats_of(filter: Any, shape: str) -> Stats | None:
    """
    The `stats` of a filter; None: it has none.

    Args:
        shape: As in `Step`. A function or an object that is called may have a `stats` which means something else.
    """
    found = getattr(filter, "stats", None) if shape in ("transform", "around") else None
    return found if callable(found) else None


def figures(stats: Stats, place: str) -> Figures:
    """
    What a filter says about one chain. Anything that is not a number or a text is left out.

    Args:
        place: "publish", or the name of a subscription.

    Raises:
        Exception: what `stats` raises.
    """
    found: Figures = {}
    for name, value in list(islice(stats(place).items(), MOST)):
        if is_a(name, str) and (figure := _figure(value)) is not None:
            found[printable(plain_text(name)[:NAME])] = figure
    return found


def _figure(value: Any) -> int | float | str | None:
    if is_a(value, str):
        text = printable(plain_text(value)[: TEXT + 1])
        return text if len(text) <= TEXT else text[: TEXT - 1] + "…"
    if is_a(value, int):
        whole = int.__int__(value)
        return whole if -EXACT <= whole <= EXACT else _finite(whole)
    return _finite(float.__float__(value)) if is_a(value, float) else None


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:  # of an integer
        return None
    return number if math.isfinite(number) else None

"""
How much a test does: little in each run of the suite, much in those that `-m thorough` asks for.

`scaled` makes two tests of one, of which the second is thorough. A parameter cannot set how many examples hypothesis tries:
`examples` decides it when a module is imported, and with `-m thorough` all tests of hypothesis run (conftest.py).
"""

from __future__ import annotations

import os
from typing import Final

import pytest

PART: Final = 1000
"""How many seeds one test tries at most."""

THOROUGH: Final = "PIPEBUS_THOROUGH"
"""The environment variable that tells other processes that `-m thorough` was asked for."""


ALL: Final = "PIPEBUS_ALL"
"""The environment variable that asks the thorough run for all schedules of the models, and not for a fifth of them."""


def share(many: int) -> int:
    """How many of so many schedules the thorough run tries."""
    return many if os.environ.get(ALL) else many // 5


def scaled(few: int, many: int, name: str = "count") -> pytest.MarkDecorator:
    """A parameter of this name with the value `few` in each run, and `many` with `-m thorough`."""
    return pytest.mark.parametrize(
        name, [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.thorough)]
    )


def seeded(few: int, many: int) -> pytest.MarkDecorator:
    """A parameter `seeds` with the first `few` seeds in each run; with `-m thorough` `many`, in parts of a minute each."""
    parts = [range(first, first + PART) for first in range(0, many, PART)]
    return pytest.mark.parametrize(
        "seeds",
        [
            pytest.param(range(few), id="few"),
            *[pytest.param(part, id=f"from {part.start}", marks=pytest.mark.thorough) for part in parts],
        ],
    )


def thorough() -> bool:
    """Return whether `-m thorough` was asked for."""
    return bool(os.environ.get(THOROUGH))


def examples(few: int, many: int) -> int:
    """Return how many examples hypothesis tries."""
    return many if thorough() else few

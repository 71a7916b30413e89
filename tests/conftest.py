"""What holds for the whole suite."""

from __future__ import annotations

import gc
import os

import pytest

from scale_helpers import CHAOS, chaos


def pytest_configure(config: pytest.Config) -> None:
    """Before a module of tests is imported."""
    if config.getoption("markexpr") == "chaos":
        os.environ[CHAOS] = "yes"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-m chaos`, hypothesis has more examples to try."""
    if chaos():
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker(pytest.mark.chaos)


def pytest_collection_finish() -> None:
    """
    Seventeen thousand tests are a million objects that stay: each collection of all garbage would look at them again.

    (Each process that runs tests has collected them all.)
    """
    gc.collect()
    gc.freeze()

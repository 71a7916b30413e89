"""What holds for the whole suite."""

from __future__ import annotations

import gc
import os

import pytest

from scale_helpers import THOROUGH, thorough

PROGRAMS = {"test_cli_commands.py", "test_cli_run.py", "test_cli_sqlite.py", "test_cli_demo.py"}
"""Modules whose tests start programs, one or several each."""


def pytest_configure(config: pytest.Config) -> None:
    """Before a module of tests is imported."""
    if config.getoption("markexpr") == "thorough":
        os.environ[THOROUGH] = "yes"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Of the tests that start a program each, the default run has the first of each class; the others are thorough. With
    `-m thorough`, hypothesis tries more examples.
    """
    seen: set[tuple[str, str]] = set()
    for item in items:
        place = (item.path.name, item.cls.__name__ if isinstance(item, pytest.Function) and item.cls is not None else "")
        if item.path.name in PROGRAMS and place in seen:
            item.add_marker(pytest.mark.thorough)
        seen.add(place)
    if thorough():
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker(pytest.mark.thorough)


def pytest_collection_finish() -> None:
    """
    Seventeen thousand tests are a million objects that stay: each collection of all garbage would look at them again.

    (Each process that runs tests has collected them all.)
    """
    gc.collect()
    gc.freeze()

"""
The pytest plugin of pipebus: the fixtures `run_filter`, `run_handler`, `check_filter` and `harness`.

A module beside the package, so that pytest can load it without importing the package: a project that has pipebus installed and
does not test with it pays nothing, and `coverage run -m pytest` sees every line of those that do. It needs no plugin for
asyncio and brings none: the fixtures are plain, and so are the tests (`harness.run(coroutine)` runs what is async).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pipebus.testing import Harness

SHOWN = 60
"""Lines of a harness's story that a failed test shows."""


@pytest.fixture
def run_filter() -> Callable[..., Any]:
    """`pipebus.testing.run_filter`: one filter alone; its story is shown if the test fails."""
    from pipebus.testing import run_filter

    return run_filter


@pytest.fixture
def run_handler() -> Callable[..., Any]:
    """`pipebus.testing.run_handler`: one handler alone; its story is shown if the test fails."""
    from pipebus.testing import run_handler

    return run_handler


@pytest.fixture
def check_filter() -> Callable[..., Any]:
    """`pipebus.testing.check_filter`: the laws that any filter is held to."""
    from pipebus.testing import check_filter

    return check_filter


@pytest.fixture
def harness() -> Iterator[Harness]:
    """`pipebus.testing.Harness`: the real bus in virtual time; its story is shown if the test fails."""
    from pipebus.testing import Harness

    with Harness() as harness:
        yield harness
        harness.checked()  # else what it finds would be told twice


def _loaded(module: str) -> Any:
    return sys.modules.get(f"pipebus.testing.{module}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """A harness is checked where its test ends, so that what it finds is the test's failure."""
    __tracebackhide__ = True
    shown = _loaded("shown")
    if shown is not None:
        shown.clear()
    result = yield
    kind = _loaded("harness")
    if kind is not None:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, kind.Harness):
                value.check()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A failed test shows what happened, step by step."""
    report = yield
    if call.when == "call" and report.failed:
        report.sections += _stories(item)
    return report


def _stories(item: pytest.Item) -> list[tuple[str, str]]:
    shown, kind = _loaded("shown"), _loaded("harness")
    found = [("pipebus", run.story) for run in shown.all()] if shown is not None else []
    if kind is not None:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, kind.Harness) and value.tape.moments:
                found.append(("pipebus: harness", value.tape.text(SHOWN)))
    return found

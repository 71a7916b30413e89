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
"""Lines of a story that a failed test shows."""


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


def _loaded(module: str) -> Any:
    return sys.modules.get(f"pipebus.testing.{module}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Another test begins."""
    shown = _loaded("shown")
    if shown is not None:
        shown.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """A harness is checked where its test ends, so that what it finds is the test's failure."""
    try:
        result = yield
    except BaseException:
        for harness in _harnesses():
            harness.forget()  # the test has said itself how it ends
        raise
    _raise_unseen()
    for harness in _harnesses():
        problem = _problem(harness)
        if problem is not None:
            pytest.fail(problem, pytrace=False)  # it is about no line of the test's
    return result


def _raise_unseen() -> None:
    """An error in a run that nobody has looked at is the test's."""
    __tracebackhide__ = True
    shown = _loaded("shown")
    for run in shown.unseen() if shown is not None else ():
        error, run.unseen = run.unseen, None
        where = f"raised in {run.title}; the test has looked neither at its `error` nor at what came of it"
        if not isinstance(error, Exception):  # a KeyboardInterrupt would end pytest
            raise AssertionError(f"{type(error).__name__} {where}") from error
        error.add_note(f"(pipebus: {where})")
        raise error


def _harnesses() -> list[Any]:
    """Those whose blocks have not ended."""
    shown = _loaded("shown")
    return shown.harnesses() if shown is not None else []


def _problem(harness: Any) -> str | None:
    """Raises the error of a handler; what is wrong with no line of the test's is returned as text."""
    __tracebackhide__ = True
    from pipebus.testing.harness import HarnessError

    try:
        harness.check()
    except HarnessError as error:
        if error.__cause__ is not None:
            raise
        return str(error)
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A failed test shows what happened, step by step."""
    report = yield
    shown = _loaded("shown")
    if report.failed and shown is not None:
        for title, story in shown.stories():
            lines = story.splitlines()
            hidden = len(lines) - SHOWN
            text = "\n".join([f"… {hidden} lines before", *lines[-SHOWN:]] if hidden > 0 else lines)
            report.sections.append((f"pipebus: {title}", text))
    return report

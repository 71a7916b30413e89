"""
The pytest plugin of pipebus: the fixtures `run_filter`, `run_handler`, `check_filter` and `harness`, and one test for each of
the `[[tests]]` in files called `pipebus.toml` or `NAME.pipebus.toml`. The setting `pipebus_allow` lists the packages that such
files may import, as in `pipebus_allow = shop`.

This module is outside the package so that pytest can load it without importing the package: a project that has pipebus
installed and does not test with it pays nothing, and `coverage run -m pytest` sees every line in a project that does. It needs
no plugin for asyncio: fixtures and tests are plain functions (`harness.run(coroutine)` runs async code).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pipebus.testing import Harness

SHOWN = 60
"""How many lines of a story a failed test shows."""


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
    """`pipebus.testing.check_filter`: check a filter against the laws that every filter must keep."""
    from pipebus.testing import check_filter

    return check_filter


@pytest.fixture
def harness() -> Iterator[Harness]:
    """`pipebus.testing.Harness`: the real bus in virtual time; its story is shown if the test fails."""
    from pipebus.testing import Harness

    with Harness() as harness:
        yield harness


def _loaded(module: str) -> Any:
    return sys.modules.get(f"pipebus.testing.harness.{module}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget the stories of the test before."""
    shown = _loaded("shown")
    if shown is not None:
        shown.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Check each harness where its test ends, so that a problem is a failure of the test and not of its teardown."""
    try:
        result = yield
    except BaseException:
        for harness in _harnesses():
            harness.forget()  # the test has failed already
        raise
    _raise_unseen()
    for harness in _harnesses():
        problem = _problem(harness)
        if problem is not None:
            pytest.fail(problem, pytrace=False)  # it belongs to no line of the test
    return result


def _raise_unseen() -> None:
    """Fail the test with the error of a run that the test has not read."""
    __tracebackhide__ = True
    shown = _loaded("shown")
    for run in shown.unseen() if shown is not None else ():
        error, run.unseen = run.unseen, None
        where = f"raised in {run.title}; the test has read neither its `error` nor its result"
        if not isinstance(error, Exception):  # a KeyboardInterrupt would end pytest
            raise AssertionError(f"{type(error).__name__} {where}") from error
        error.add_note(f"(pipebus: {where})")
        raise error


def _harnesses() -> list[Any]:
    """The harnesses whose blocks have not ended."""
    shown = _loaded("shown")
    return shown.harnesses() if shown is not None else []


def _problem(harness: Any) -> str | None:
    """Raise the error of a handler; return as text what belongs to no line of code."""
    __tracebackhide__ = True
    from pipebus.testing.harness.unexpected import HarnessError

    try:
        harness.check()
    except HarnessError as error:
        if error.__cause__ is not None:
            raise
        return str(error)
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Show what happened in a failed test, step by step."""
    report = yield
    shown = _loaded("shown")
    if report.failed and shown is not None:
        for title, story in shown.stories():
            lines = story.splitlines()
            hidden = len(lines) - SHOWN
            text = "\n".join([f"… {hidden} lines before", *lines[-SHOWN:]] if hidden > 0 else lines)
            report.sections.append((f"pipebus: {title}", text))
    return report


# --- [[tests]] of config files ---------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("pipebus_allow", "packages that config files may import from, when their tests run", "args")
    parser.addini("pipebus_store", "what keeps messages when config files are tested: memory, or temporary", default="memory")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name == "pipebus.toml" or file_path.name.endswith(".pipebus.toml"):
        return ConfigFile.from_parent(parent, path=file_path)
    return None


class FileFailed(Exception):
    """A test of a file has failed, or the file cannot be loaded; the report shows only the text."""


class ConfigFile(pytest.File):
    """A config file, with one item for each of its tests."""

    def collect(self) -> Iterator[pytest.Item]:
        from pipebus.errors import ConfigError
        from pipebus.testing import file_tests

        try:
            found = file_tests(
                self.shown,
                allow_imports=self.config.getini("pipebus_allow"),
                store=self.config.getini("pipebus_store"),
            )
        except ConfigError as error:
            remedy = "; see the setting pipebus_allow" if "--allow" in str(error) else ""
            raise self.CollectError(f"{error}{remedy}") from None
        for test in found:
            yield ConfigItem.from_parent(self, name=test.name, test=test)

    @property
    def shown(self) -> Path:
        """Its path, relative to the current directory if possible."""
        try:
            return self.path.relative_to(Path.cwd())
        except ValueError:
            return self.path


class ConfigItem(pytest.Item):
    """One of the `[[tests]]`."""

    def __init__(self, *, test: Any, **options: Any) -> None:
        super().__init__(**options)
        self.test = test

    def runtest(self) -> None:
        from pipebus.errors import ConfigError

        try:
            result = self.test.run()
        except ConfigError as error:
            raise FileFailed(str(error)) from None
        if not result.passed:
            self.add_report_section("call", "pipebus: what happened", result.story)
            raise FileFailed(str(result))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, FileFailed) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.test.case.line - 1, self.name

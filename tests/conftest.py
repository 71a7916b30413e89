"""Hooks and fixtures for the whole suite."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from missing import refuse_to_leave_packages_out
from sampling import mark_what_is_left_out
from scale_helpers import THOROUGH, thorough

PROGRAMS = {"test_cli_commands.py", "test_cli_run.py", "test_cli_sqlite.py", "test_cli_demo.py"}
"""Modules whose tests start programs, one or several each."""


def pytest_configure(config: pytest.Config) -> None:
    """Prepare a run before any module of tests is imported."""
    if "not thorough" not in config.getoption("markexpr"):
        os.environ[THOROUGH] = "yes"
    refuse_to_leave_packages_out()
    hear_signals()
    share_the_rewriting(config)


def share_the_rewriting(config: pytest.Config) -> None:
    """
    Let each worker begin to collect at another file.

    Most of the collection is the rewriting of assertions. It is cached on disk, but workers that go through the files side by
    side would each do all of it. The hook below puts the tests back in order.
    """
    worker, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if worker is None or count is None or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    files = sorted(str(path) for path in (config.rootpath / "tests").rglob("test_*.py"))
    begin = len(files) * int(worker.removeprefix("gw")) // int(count)
    config.args = files[begin:] + files[:begin]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """
    With `-n auto`, half as many workers again as there are cores (3 for 2): while one waits for a program, a server or a
    timeout, another one works.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + (cores + 1) // 2


def hear_signals() -> None:
    """
    Undo what `nohup`, cron, and a shell that starts a job in the background do: they start programs with signals ignored.

    The tests send SIGINT to themselves and to programs that they start, and a program inherits what its parent ignores. A
    handler is not inherited: programs that the tests start have the default again. SIGHUP does nothing here, so that a run
    under `nohup` goes on.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Of the tests that start a program each, the default run has the first of each module, and of large cross products some cases
    (sampling.py); the others are thorough. With `-m thorough`, hypothesis tries more examples.
    """
    items.sort(key=lambda item: str(item.path))
    seen: set[str] = set()
    for item in items:
        if item.path.name in PROGRAMS and item.path.name in seen:
            item.add_marker(pytest.mark.thorough)
        seen.add(item.path.name)
    mark_what_is_left_out(items)
    if thorough():
        for item in items:
            if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
                item.add_marker(pytest.mark.thorough)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A nats-server for all tests of one process; each of them has a stream of its own on it (`NatsStage`)."""
    from nats_server import NatsServer  # here, for it needs a package that others can do without

    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


def pytest_collection_finish() -> None:
    """
    Thousands of tests are a million objects that stay: each collection of all garbage would look at them again.

    (Each process that runs tests has collected them all.)
    """
    forget_about_what_stays()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """
    Fail a test that leaves structlog configured, as a command does for its process: those after it would find no log
    lines. And forget what pytest keeps of each test, because it adds up.
    """
    if structlog.is_configured():
        structlog.reset_defaults()
        pytest.fail("structlog is still configured; reset it at the end of the test", pytrace=False)
    if nextitem is not None and nextitem.path != item.path:
        forget_about_what_stays()


def forget_about_what_stays() -> None:
    gc.collect()
    gc.freeze()

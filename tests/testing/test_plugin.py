"""
The pytest plugin: run as its users run it, by `python -m pytest` on a small project of its own.

What needs another plugin is skipped where that is not installed; on CI, where all are, it fails.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from missing import needs

HEAD = """
import asyncio, os, signal, sys, threading, unittest
import pytest
from pipebus import Bus, Message
from pipebus.testing import Harness


def bad(message):
    raise ValueError("the till is shut")  # the handler's line


def failing_bus():
    bus = Bus()
    bus.subscribe("orders", bad, name="till")
    return bus
"""
"""What most of these projects begin with."""


ALONE = [part for plugin in ("hypothesispytest", "xdist", "asyncio", "anyio") for part in ("-p", f"no:{plugin}")]


class Ran(NamedTuple):
    """The result of one run of pytest."""

    code: int
    text: str

    @property
    def summary(self) -> str:
        """The last line without its time: "1 failed, 2 passed"."""
        line = next(line for line in reversed(self.text.splitlines()) if " in " in line and line.rstrip("= ").endswith("s"))
        return line.strip("= ").rpartition(" in ")[0]


class Project:
    """A folder with tests, and pytest run on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("pytest.ini", "[pytest]\naddopts = --strict-markers --strict-config\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def tests(self, text: str, head: str = HEAD, name: str = "test_shop.py") -> None:
        (self.folder / name).write_text(head + textwrap.dedent(text))

    def python(self, *arguments: str, **environment: str) -> Ran:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COVERAGE_", "COV_"))}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder, env={**inherited, **environment}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout + done.stderr)

    def pytest(self, *options: str, others: bool = False) -> Ran:
        """Run pytest with the installed plugin and (`others`) with other plugins; without them it is quicker."""
        return self.python("-m", "pytest", "-p", "no:cacheprovider", *([] if others else ALONE), *options)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def asyncio_plugin() -> None:
    needs("pytest_asyncio")


def anyio_plugin() -> None:
    needs("anyio")


def section(ran: Ran, title: str) -> list[str]:
    """Lines under a header such as "---- pipebus: harness ----", up to the next one."""
    lines = ran.text.splitlines()
    start = next((number for number, line in enumerate(lines) if line.strip("-") == f" {title} "), None)
    assert start is not None, f"no section {title!r}:\n{ran.text}"
    found = []
    for line in lines[start + 1 :]:
        if line.startswith(("---", "===", "___")):
            break
        found.append(line)
    return found


# --- projects that do not use it -----------------------------------------------------------------------------------------

REPORT = """
import sys

def pytest_unconfigure(config):
    heavy = ("pipebus", "msgspec", "pydantic", "structlog")
    print()
    print("PLUGIN", "pipebus_pytest" in sys.modules)
    print("LOADED", sorted(name for name in sys.modules if name.startswith(heavy) and not name.startswith("pipebus_pytest")))
"""


@pytest.mark.parametrize(
    "options",
    [[], ["--collect-only"], ["--fixtures"], ["--markers"], ["-x", "--lf"]],
    ids=lambda options: " ".join(options) or "run",
)
@pytest.mark.thorough
def test_a_project_that_does_not_use_it_does_not_import_pipebus(project: Project, options: list[str]) -> None:
    """The plugin is one small module, and does not import pipebus, even if tests fail."""
    project.write("conftest.py", REPORT)
    project.tests("def test_well(): pass\n\ndef test_badly(): assert 0\n", head="")
    plugins = [] if "--lf" not in options else ["-p", "cacheprovider"]
    ran = project.python("-m", "pytest", *plugins, *options)
    assert "PLUGIN True" in ran.text
    assert "LOADED []" in ran.text, ran.text


@pytest.mark.thorough
def test_it_adds_two_settings_and_no_options_and_no_markers(project: Project) -> None:
    """It adds its documented fixtures, and two settings for the tests of config files."""
    project.tests("def test_well(): pass\n", head="")
    assert "pipebus" not in project.pytest("--markers").text
    words = re.findall(r"\S*pipebus\S*", project.pytest("--help").text)
    assert words == ["pipebus_allow", "pipebus_store"]
    fixtures = project.pytest("--fixtures").text
    for name in ("harness", "run_filter", "run_handler", "check_filter"):
        assert f"\n{name} -- " in fixtures


@pytest.mark.thorough
def test_a_fixture_of_the_same_name_in_a_project_is_the_projects(project: Project) -> None:
    """A project keeps its own `harness` fixture."""
    project.write("conftest.py", "import pytest\n\n@pytest.fixture\ndef harness(): return 'mine'\n")
    project.tests("def test_it(harness): assert harness == 'mine'\n", head="")
    assert project.pytest("-W", "error").summary == "1 passed"


@pytest.mark.thorough
def test_it_can_be_switched_off(project: Project) -> None:
    """With `-p no:pipebus`, its fixtures are gone and everything else works."""
    project.tests("def test_with(harness): pass\n\ndef test_without(): pass\n")
    ran = project.pytest("-p", "no:pipebus")
    assert ran.summary == "1 passed, 1 error"
    assert "fixture 'harness' not found" in ran.text


@pytest.mark.thorough
def test_it_needs_no_plugin_for_asyncio(project: Project) -> None:
    """Plain tests work, even for async code."""
    project.tests("""
        def test_it(harness, run_filter, run_handler, check_filter):
            bus = Bus()

            @bus.on("orders")
            async def order(message):
                await asyncio.sleep(1)
                return message.body + 1

            harness.start(bus)

            async def main():
                return (await bus.arequest("orders", 1)).body

            assert harness.run(main()) == 2

            async def passes(message, call_next):
                return await call_next(message)

            assert run_filter(passes, Message("a")).outcome
            assert run_handler(order, Message("a", 1)).value == 2
    """)
    ran = project.pytest("-W", "error")
    assert ran.summary == "1 passed", ran.text


# --- what a failing test shows ---------------------------------------------------------------------------------------------


def test_a_failing_test_shows_the_story_of_its_harness(project: Project) -> None:
    """The story is a section of the report; a passing test shows nothing."""
    project.tests("""
        def test_badly(harness):
            bus = harness.start()
            bus.publish("orders", {"sku": "tea"})
            assert harness.delivered

        def test_well(harness):
            harness.start().publish("coffee", 1)
    """)
    ran = project.pytest()
    assert ran.summary == "1 failed, 1 passed"
    assert section(ran, "pipebus: harness") == [
        "   0.000  bus   is started",
        "   0.000  bus   accepts orders {'sku': 'tea'} for nobody",
        "   0.000  test  has failed; what follows was still to be done",
    ]
    assert "coffee" not in ran.text


@pytest.mark.thorough
def test_a_harness_in_a_with_block_shows_its_story_too(project: Project) -> None:
    """The story is shown for a `with` block, not only for the fixture."""
    project.tests("""
        def test_badly():
            with Harness() as harness:
                harness.start().publish("orders", {"sku": "tea"})
                assert harness.delivered
    """)
    assert "   0.000  bus  accepts orders {'sku': 'tea'} for nobody" in section(project.pytest(), "pipebus: harness")


@pytest.mark.parametrize("how", ["fixture", "import"])
@pytest.mark.thorough
def test_a_failing_test_shows_the_story_of_run_filter(project: Project, how: str) -> None:
    """The story shows what the filter was given and gave, even if the function was imported."""
    fixture = "run_filter" if how == "fixture" else ""
    imported = "from pipebus.testing import run_filter" if how == "import" else "pass"
    project.tests(f"""
        def stamp(message, call_next):
            return call_next(message.with_headers(by="stamp"))

        def test_well({fixture}):
            {imported}
            run_filter(stamp, Message("another", 1))

        def test_badly({fixture}):
            {imported}
            run = run_filter(stamp, Message("orders", 2))
            assert run.next_calls == 2
    """)
    ran = project.pytest()
    assert ran.summary == "1 failed, 1 passed"
    story = "\n".join(section(ran, next(line.strip("-")[1:-1] for line in ran.text.splitlines() if "- pipebus" in line)))
    assert "stamp" in story
    assert "is given orders 2" in story
    assert "headers {'by': 'stamp'}" in story
    assert "another" not in ran.text.partition("short test summary")[0].partition("pipebus")[2]


@pytest.mark.thorough
def test_a_long_story_shows_its_end(project: Project) -> None:
    """The report says how many lines came before."""
    project.tests("""
        def test_badly(harness):
            bus = harness.start()
            for number in range(500):
                bus.publish("orders", number)
            assert 0
    """)
    lines = section(project.pytest(), "pipebus: harness")
    assert lines[0] == "… 442 lines before"
    assert len(lines) == 61
    assert "accepts orders 499 " in lines[-2]


# --- what fails a test -----------------------------------------------------------------------------------------------------

FAILURES = {
    "at-a-drain": """
        def test_it(harness):
            bus = harness.start(failing_bus())
            bus.publish("orders", 1)
            harness.drain()
    """,
    "at-the-end": """
        def test_it(harness):
            harness.start(failing_bus()).publish("orders", 1)
    """,
    "in-a-thread": """
        def test_it(harness):
            harness.thread(bad, None)
    """,
    "by-another-fixture": """
        @pytest.fixture
        def bus(harness):
            return harness.start(failing_bus())

        def test_it(bus):
            bus.publish("orders", 1)
    """,
    "fixture-of-its-own": """
        @pytest.fixture
        def own():
            with Harness() as harness:
                yield harness

        def test_it(own):
            own.start(failing_bus()).publish("orders", 1)
    """,
    "asked-for-later": """
        def test_it(request):
            request.getfixturevalue("harness").start(failing_bus()).publish("orders", 1)
    """,
    "with-block": """
        def test_it():
            with Harness() as harness:
                harness.start(failing_bus()).publish("orders", 1)
    """,
    "unittest": """
        class TestIt(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def use(self, harness):
                self.harness = harness

            def test_it(self):
                self.harness.start(failing_bus()).publish("orders", 1)
    """,
    "after-another-error": """
        def test_it(harness):
            bus = harness.start(failing_bus())
            bus.publish("orders", 1)
            with pytest.raises(ValueError):
                harness.drain()
            bus.publish("orders", 2)
    """,
}


TWICE = {
    "assertion-and-handler": (
        """
        def test_it(harness):
            harness.start(failing_bus()).publish("orders", 1)
            assert "mine" == "yours"
        """,
        "assert 'mine' == 'yours'",
    ),
    "unknown-fault": (
        """
        def test_it(harness):
            harness.start()
            harness.fail("tilll")
        """,
        "tilll fails (InjectedError), but nothing has that name",
    ),
    "unknown-fault-own-fixture": (
        """
        @pytest.fixture
        def own():
            with Harness() as harness:
                yield harness

        def test_it(own):
            own.start()
            own.fail("tilll")
        """,
        "tilll fails (InjectedError), but nothing has that name",
    ),
    "assertion-and-unknown-fault": (
        """
        def test_it(harness):
            harness.start()
            harness.fail("tilll")
            assert "mine" == "yours"
        """,
        "assert 'mine' == 'yours'",
    ),
    "stuck": (
        """
        def test_it(harness):
            harness.start().subscribe("a").receive()
        """,
        "no thread can go on",
    ),
    "exit-in-a-handler": (
        """
        def test_it(harness):
            bus = Bus()
            bus.subscribe("orders", lambda message: sys.exit(3))
            harness.start(bus).publish("orders", 1)
        """,
        "SystemExit",
    ),
    "two-harnesses": (
        """
        def test_it(harness):
            harness.start(failing_bus()).publish("orders", 1)
            with Harness() as inner:
                inner.start(failing_bus()).publish("orders", 1)
                inner.drain()
        """,
        "the till is shut",
    ),
}


OUTCOMES = {
    "skip": ("pytest.skip('not today')", "skipped"),
    "xfail": ("pytest.xfail('known')", "xfailed"),
    "allowed": ("harness.allow(ValueError)", "passed"),
    "not-fail-fast": ("harness.fail_fast = False", "passed"),
    "expected": ("pytest.raises(ValueError, harness.drain)", "passed"),
    "marked-xfail": ("", "xfailed"),
}


NEXT = """

def test_next(harness):
    harness.start()
    harness.drain()
"""


class Said(NamedTuple):
    """What a report says about one test: passed, failed, error, skipped or xfailed; an error in its teardown comes second."""

    outcomes: list[str]
    text: str


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Said]:
    """The tests above and `test_next` after each, run in one process, for each alone would take long; by their ids."""
    project = Project(tmp_path_factory.mktemp("told"))
    sources = {**FAILURES, **{name: source for name, (source, _) in TWICE.items()}}
    for name, line in OUTCOMES.items():
        mark = "@pytest.mark.xfail(strict=True, raises=ValueError)" if name == "marked-xfail" else ""
        sources[name] = f"""
        {mark}
        def test_it(harness):
            harness.start(failing_bus()).publish("orders", 1)
            {line[0]}
        """
    for name, source in sources.items():
        project.tests(textwrap.dedent(source) + NEXT, name=f"test_{name.replace('-', '_')}.py")
    ran = project.pytest("--junitxml=report.xml")
    found: dict[str, Said] = {}
    for case in ElementTree.parse(project.folder / "report.xml").iter("testcase"):
        file = (case.get("classname") or "").split(".")[0]
        kinds = {"failure": "failed", "error": "error", "skipped": "skipped"}
        told = [part for part in case if part.tag in kinds]
        outcomes = ["xfailed" if part.get("type") == "pytest.xfail" else kinds[part.tag] for part in told] or ["passed"]
        key = file.removeprefix("test_").replace("_", "-") + ("/next" if case.get("name") == "test_next" else "")
        before = found.get(key, Said([], ""))
        found[key] = Said(before.outcomes + outcomes, before.text + "".join(part.text or "" for part in told))
    assert len(found) == 2 * len(sources), ran.text
    return found


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.thorough
def test_an_error_of_a_handler_is_the_failure_of_its_test(said: dict[str, Said], name: str) -> None:
    """There is one FAILED and no ERROR; the traceback ends in the handler's line, and no line of pipebus is in it."""
    outcomes, text = said[name]
    assert outcomes == ["failed"], text
    assert '>   raise ValueError("the till is shut")' in text.replace(">       raise", ">   raise")
    assert f"test_{name.replace('-', '_')}.py:9: ValueError" in text
    for internal in ("scheduler.py", "runners.py", "pluggy", "pipebus_pytest.py"):
        assert internal not in text
    assert said[f"{name}/next"].outcomes == ["passed"]


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, (_, part) in TWICE.items()], ids=TWICE)
def test_what_is_wrong_is_told_once(said: dict[str, Said], name: str, part: str) -> None:
    """There is one FAILED and no ERROR at teardown, and the next test in that process is not disturbed."""
    outcomes, text = said[name]
    assert outcomes == ["failed"], text
    assert part in text
    assert "All traceback entries are hidden" not in text
    assert said[f"{name}/next"].outcomes == ["passed"]


@pytest.mark.parametrize(("name", "outcome"), [(name, outcome) for name, (_, outcome) in OUTCOMES.items()], ids=OUTCOMES)
def test_a_test_may_say_how_it_ends(said: dict[str, Said], name: str, outcome: str) -> None:
    """Skipped tests and expected failures stay as they are, and allowed errors do not count."""
    assert said[name].outcomes == [outcome]
    assert said[f"{name}/next"].outcomes == ["passed"]


@pytest.mark.parametrize("drain", ["harness.drain()", "pass"])
@pytest.mark.thorough
def test_an_error_in_the_teardown_of_another_fixture_is_told(project: Project, drain: str) -> None:
    """The report shows an ERROR, because the test itself has passed."""
    project.tests(f"""
        @pytest.fixture
        def bus(harness):
            bus = harness.start(failing_bus())
            yield bus
            bus.publish("orders", "goodbye")
            {drain}

        def test_it(bus):
            pass
    """)
    ran = project.pytest()
    assert ran.summary == "1 passed, 1 error", ran.text
    assert "the till is shut" in ran.text


@pytest.mark.thorough
def test_a_harness_for_several_tests_is_checked_after_each(project: Project) -> None:
    """The fixture has a module's scope, and the test that causes the error is the one that fails."""
    project.tests("""
        @pytest.fixture(scope="module")
        def shared():
            with Harness() as harness:
                harness.start(failing_bus())
                yield harness

        def test_first(shared):
            shared.bus.publish("coffee", 1)

        def test_second(shared):
            shared.bus.publish("orders", 1)

        def test_third(shared):
            shared.bus.publish("coffee", 1)
    """)
    ran = project.pytest("-v")
    assert ran.summary == "1 failed, 2 passed", ran.text
    assert "test_second FAILED" in ran.text


@pytest.mark.thorough
def test_a_lost_thread_disturbs_no_other_test(project: Project) -> None:
    """A handler waits forever at a real lock: its test fails, the next one works, and pytest ends."""
    project.tests("""
        def test_lost():
            lock = threading.Lock()
            lock.acquire()
            with Harness(patience=0.3) as harness:
                bus = Bus()
                bus.subscribe("orders", lambda message: lock.acquire())
                harness.start(bus).publish("orders", 1)
                harness.drain()

        def test_next(harness):
            bus = Bus()
            bus.subscribe("orders", lambda message: None, name="till")
            harness.start(bus).publish("orders", 1, delay=1.0)
            harness.drain()
            assert len(harness.delivered_to("till")) == 1
    """)
    ran = project.pytest()
    assert ran.summary == "1 failed, 1 passed", ran.text
    assert "waits for something outside the harness's control" in ran.text


@pytest.mark.parametrize("run", ["pool", "thread", "loop"])
@pytest.mark.thorough
def test_ctrl_c_ends_pytest(project: Project, run: str) -> None:
    """Ctrl-C may come while a handler runs, and ends pytest as an interrupt, not as a failure of the test."""
    project.tests(f"""
        def test_it(harness):
            bus = Bus()

            def interrupt(message):
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(100_000):
                    pass

            bus.subscribe("orders", interrupt, run="{run}")
            harness.start(bus).publish("orders", 1)
            harness.drain()

        def test_next(harness):
            pass
    """)
    ran = project.pytest()
    assert ran.code == pytest.ExitCode.INTERRUPTED, ran.text
    assert "KeyboardInterrupt" in ran.text
    assert "failed" not in ran.text
    assert "RuntimeError" not in ran.text


# --- together with other plugins -------------------------------------------------------------------------------------------

ASYNC = """
        MARK
        async def test_harness(harness):
            bus = Bus()
            bus.subscribe("orders", lambda message: None, name="till")
            harness.start(bus)
            await asyncio.sleep(0)
            bus.publish("orders", 1, delay=60.0)
            await bus.apublish("orders", 2)
            harness.advance(1.0)
            harness.drain()
            await asyncio.sleep(0)
            assert [message.body for message in harness.delivered_to("till")] == [2, 1]
            assert harness.elapsed == 60

        MARK
        async def test_filter_and_handler(run_filter, run_handler):
            assert run_filter(lambda message, call_next: call_next(message), Message("a")).outcome
            assert run_handler(lambda message: message.body, Message("a", 7)).value == 7

        MARK
        async def test_block():
            with Harness() as harness:
                harness.start().publish("a")
                harness.drain()

        MARK
        async def test_badly(harness):
            harness.start(failing_bus()).publish("orders", 1)

        MARK
        async def test_wait(harness):
            bus = harness.start()
            with pytest.raises(RuntimeError, match="harness.run"):
                await bus.arequest("orders")
            with pytest.raises(Exception, match="plain `def` test"):
                harness.run(asyncio.sleep(1))

        def test_plain(harness):
            async def main():
                await asyncio.sleep(5)
                return harness.elapsed

            assert harness.run(main()) == 5
"""

PLUGINS: dict[str, tuple[Callable[[], None], str, list[str]]] = {
    "pytest-asyncio-strict": (asyncio_plugin, "@pytest.mark.asyncio", ["-p", "no:anyio"]),
    "pytest-asyncio-auto": (asyncio_plugin, "", ["--asyncio-mode=auto"]),
    "anyio": (anyio_plugin, "@pytest.mark.anyio", ["-p", "no:asyncio"]),
    "anyio-beside-pytest-asyncio": (anyio_plugin, "@pytest.mark.anyio", []),
}


@pytest.mark.parametrize(("need", "mark", "options"), PLUGINS.values(), ids=PLUGINS)
@pytest.mark.thorough
def test_its_fixtures_work_in_async_tests_of_other_plugins(
    project: Project, need: Callable[[], None], mark: str, options: list[str]
) -> None:
    """
    They work unless a test waits on that plugin's loop, which raises an error that says so; errors fail the test as anywhere.
    """
    need()
    project.write("conftest.py", "import pytest\n\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'\n")
    project.tests(ASYNC.replace("MARK", mark))
    ran = project.pytest(*options, others=True)
    assert ran.summary.partition(", 1 warning")[0] == "1 failed, 5 passed", ran.text
    assert "FAILED test_shop.py::test_badly - ValueError: the till is shut" in ran.text


@pytest.mark.thorough
def test_async_fixtures_of_pytest_asyncio_may_use_it(project: Project) -> None:
    """An async fixture may use a harness that is not async."""
    asyncio_plugin()
    project.tests("""
        import pytest_asyncio

        @pytest_asyncio.fixture
        async def bus(harness):
            bus = Bus()
            bus.subscribe("orders", lambda message: None, name="till")
            yield harness.start(bus)
            await asyncio.sleep(0)

        @pytest.mark.asyncio
        async def test_it(bus, harness):
            await bus.apublish("orders", 1)
            harness.drain()
            assert len(harness.delivered_to("till")) == 1
    """)
    ran = project.pytest(others=True)
    assert ran.summary.partition(", 1 warning")[0] == "1 passed", ran.text


@pytest.mark.thorough
def test_it_works_with_xdist(project: Project) -> None:
    """Two processes can run at once, and the stories come back with the reports."""
    needs("xdist")
    project.tests("""
        @pytest.mark.parametrize("number", range(8))
        def test_well(harness, number):
            bus = Bus()
            bus.subscribe("orders", lambda message: None, name="till")
            harness.start(bus).publish("orders", number, delay=number)
            harness.drain()
            assert harness.elapsed == number

        def test_badly(harness):
            harness.start(failing_bus()).publish("orders", "tea")
    """)
    ran = project.pytest("-n", "2", others=True)
    assert ran.summary == "1 failed, 8 passed", ran.text
    assert "   0.000  till  is given orders 'tea'" in section(ran, "pipebus: harness")


@pytest.mark.thorough
def test_a_project_that_does_not_use_it_is_not_disturbed_by_other_plugins(project: Project) -> None:
    """The workers of xdist do not import pipebus either."""
    needs("xdist")
    project.tests(
        "import sys\n\ndef test_it():\n    assert 'pipebus' not in sys.modules\n    assert 'pipebus_pytest' in sys.modules\n",
        head="",
    )
    assert project.pytest("-n", "2", others=True).summary == "1 passed"


SHOP = """
import asyncio

from pipebus import around, transform


def plain(message, call_next):
    outcome = call_next(
        message.with_headers(plain="yes"),
    )
    return outcome


@transform
def look(message):
    if message.body < 0:
        raise ValueError(message.body)
    return message


@around
def measure(message):
    try:
        outcome = yield message
    except ConnectionError:
        outcome = yield message
    return outcome


def in_pool(message):
    total = 0
    for number in range(message.body):
        total += number
    return total


async def on_loop(message):
    await asyncio.sleep(1)
    return message.body


def publish(bus):
    for number in (1, 2):
        bus.publish("orders", number)
"""

CORES = ["ctrace"] + (["sysmon"] if sys.version_info >= (3, 12) else [])


@pytest.mark.parametrize("core", CORES)
@pytest.mark.thorough
def test_coverage_sees_every_line_that_runs_in_a_harness(project: Project, core: str) -> None:
    """
    `coverage run -m pytest` counts lines on worker threads, on loops, on threads of the harness, and in the test after it.
    """
    needs("coverage")
    project.write("shop.py", SHOP)
    project.tests(
        """
        import shop
        from pipebus import Bus


        def test_shop(harness):
            bus = Bus()
            bus.use(shop.look)
            bus.use(shop.measure, at="delivery")
            bus.subscribe("orders", shop.in_pool, name="pool", filters=[shop.plain])
            bus.subscribe("orders", shop.in_pool, name="thread", run="thread")
            bus.subscribe("orders", shop.on_loop, name="loop")
            harness.start(bus)
            harness.fail("pool", error=ConnectionError)
            harness.thread(shop.publish, bus)
            harness.drain()
            assert len(harness.delivered) == 6
            try:
                bus.publish("orders", -1)
            except ValueError:
                found = True
            assert found


        def test_after():
            found = sum(
                number for number in range(3)
            )
            assert found == 3
        """,
        head="",
    )
    project.write(".coveragerc", "[run]\nsource = .\nbranch = true\n")
    ran = project.python("-m", "coverage", "run", "-m", "pytest", "-p", "no:cacheprovider", *ALONE, COVERAGE_CORE=core)
    assert "2 passed" in ran.text, ran.text
    report = project.folder / "coverage.json"
    assert project.python("-m", "coverage", "json", "-o", str(report)).code == 0
    files = json.loads(report.read_text())["files"]
    for name in ("shop.py", "test_shop.py"):
        assert files[name]["missing_lines"] == [], f"{name}: {files[name]['missing_lines']}"
    assert len(files["shop.py"]["executed_lines"]) > 20


@pytest.mark.thorough
def test_coverage_run_sees_the_lines_of_pipebus_itself(project: Project) -> None:
    """The plugin loads nothing before coverage begins, so definitions at the top of a module count as run."""
    needs("coverage")
    project.tests("def test_it(harness):\n    harness.start().publish('a')\n")
    project.write(".coveragerc", "[run]\nsource_pkgs = pipebus.testing\n")
    assert "1 passed" in project.python("-m", "coverage", "run", "-m", "pytest", "-p", "no:cacheprovider", *ALONE).text
    report = project.folder / "coverage.json"
    assert project.python("-m", "coverage", "json", "-o", str(report)).code == 0
    files = {Path(name).name: data for name, data in json.loads(report.read_text())["files"].items()}
    assert any(line < 80 for line in files["harness.py"]["executed_lines"])
    assert files["harness.py"]["summary"]["percent_covered"] > 30

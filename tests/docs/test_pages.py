"""The pages do not lie: their programs, files and sessions run and print what is shown, and their links lead somewhere."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import cli_helpers
import pytest
import structlog
from pages import (
    BLOCKS,
    PAGES,
    PROGRAMS,
    ROOT,
    TEXTS,
    Block,
    Program,
    alike,
    anchors,
    blocks,
    console,
    links_of,
    write_files,
)

import missing
import pipebus
from pipebus import testing
from pipebus.bus.bus import engine_of
from pipebus.bus.order import swaps

LONGEST = 150
"""Lines of a page: about three screens."""
NATS = re.compile(r"nats://(?:localhost|127\.0\.0\.1):4222")
"""How pages write the URL of a server on this machine; the tests put in that of their own server."""
FRAMEWORKS = re.compile(rf"^\s*(?:from|import) ({'|'.join(missing.PACKAGES['ci'])})\b", re.MULTILINE)
"""Packages of other people that a page may use: a machine without them skips the page."""


def marked(found: Any, page: str) -> Any:
    """A page that needs a server, or packages of other people, is tested by the thorough run."""
    needy = NATS.search(TEXTS[page]) or FRAMEWORKS.search(TEXTS[page])
    return pytest.param(found, marks=pytest.mark.thorough if needy else (), id=str(found))


@pytest.fixture
def structlog_untouched() -> Iterator[None]:
    """A page may show how structlog is configured."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the files of a page are, and where its programs run. Their modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def page_of(request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    """A function that writes a page's files, and returns one that puts the URL of a real server into a text."""

    with ExitStack() as opened:

        def lay(page: str) -> Any:
            for package in set(FRAMEWORKS.findall(TEXTS[page])):
                missing.needs(package)
            url = ""
            if NATS.search(TEXTS[page]):
                from nats_server import NatsStage  # it needs a package that others can do without

                stage = NatsStage(request.getfixturevalue("server"))
                opened.callback(stage.wipe)
                url = stage.url
            for name in write_files(page, folder):
                file = folder / name
                file.write_text(NATS.sub(url, file.read_text(encoding="utf-8")), encoding="utf-8")
            return lambda text: NATS.sub(url, text)

        yield lay


@pytest.mark.usefixtures("structlog_untouched")
@pytest.mark.parametrize("program", [marked(program, program.page) for program in PROGRAMS])
def test_a_program_of_a_page_runs_and_prints_what_it_says(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, page_of: Any
) -> None:
    """A newcomer who types it in as `shop.py` sees the same output."""
    here = page_of(program.page)
    name = "program" if (folder / "shop.py").exists() else "shop"
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)  # handlers' annotations and dataclasses are looked up there
    file = folder / f"{name}.py"
    module.__file__ = str(file)
    file.write_text("\n".join(here(block.text) for block, _ in program.parts), encoding="utf-8")
    before = 0
    for block, prints in program.parts:
        known = set(vars(module))
        exec(compile("\n" * before + here(block.text), str(file), "exec"), vars(module))
        for name in set(vars(module)) - known:
            if name.startswith("test_"):
                call_test(vars(module)[name])
        before += len(block.text.splitlines())

        out, err = capsys.readouterr()
        assert alike(out, prints), f"{block} printed:\n{out}"
        assert err == ""


def call_test(test: Any) -> None:
    """Call a test as pytest would, with the fixtures that its parameters name."""
    fixtures: dict[str, Any] = {"run_filter": lambda: nullcontext(testing.run_filter), "harness": testing.Harness}
    with ExitStack() as stack:
        test(*(stack.enter_context(fixtures[name]()) for name in inspect.signature(test).parameters))


SESSIONS = sorted(
    {block.page for block in BLOCKS if block.info == "console"},
    key=lambda page: (any("pytest" in block.text for block in BLOCKS if block.page == page and block.info == "console"), page),
)
"""Pages with sessions; those in which pytest runs take long, and come last."""


@pytest.mark.parametrize("page", [marked(page, page) for page in SESSIONS])
@pytest.mark.few(1)
def test_the_sessions_of_a_page_are_real(page: str, folder: Path, page_of: Any) -> None:
    """Each command prints what is shown; a session begins with the page's files, and with what those before it left."""
    for block in blocks(page):
        if block.info == "console":
            here = page_of(page)
            for command, prints in console(block.text):
                said = output_of(here(command), folder)
                assert alike(said, here(prints)), f"{block}: {command}\n{said}"


def output_of(command: str, folder: Path) -> str:
    """What a command of a page prints. `pipebus` is forked from a process that has imported it, if no shell is needed."""
    words = command.split()
    if words[0] == "pipebus" and not set(command) & set("'\"|<>&;$\\*`"):
        done = cli_helpers.run(*words[1:], cwd=folder)
    else:
        tools = f'pipebus() {{ "{sys.executable}" -m pipebus "$@"; }}; python() {{ "{sys.executable}" "$@"; }}; '
        tools += f'pytest() {{ "{sys.executable}" -m pytest -p no:cacheprovider -p no:asyncio "$@"; }}; '
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for a python that another program starts
        done = subprocess.run(
            ["bash", "-c", tools + command], cwd=folder, capture_output=True, text=True, timeout=60, check=False,
            env=cli_helpers.ENV | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{folder}", "PATH": path}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("block", [marked(block, block.page) for block in BLOCKS if block.language == "toml"])
def test_a_file_of_a_page_loads(block: Block, folder: Path, page_of: Any) -> None:
    """
    A newcomer can copy each file and load it; a fragment loads as part of a pipeline. Its filters are in an order that `check`
    has nothing to say about, unless the page shows what it says.
    """
    if block.file == "pyproject.toml":
        assert tomllib.loads(block.text)
        return
    if any(f'from_config("{block.file}"' in one.text for one in blocks(block.page) if one.language == "python"):
        return  # a program of the page loads it, and hands in what it names
    write_files("docs/reference/config.md", folder)  # its shop.py is what short examples name
    page_of(block.page)
    text = block.text if "version = 1" in block.text else f"version = 1\n[[pipelines]]\n{block.text}"
    file = folder / (block.file or "page.toml")
    file.write_text(text, encoding="utf-8")

    bus = pipebus.Bus.from_config(file, allow_imports=[path.stem for path in folder.glob("*.py")])

    assert bus.describe()["publish"] or bus.subscriptions or bus.describe()["schedules"]
    assert [text for _, text in swaps(engine_of(bus)) if text.rpartition(": ")[2] not in TEXTS[block.page]] == []


def test_each_file_of_a_page_is_used() -> None:
    """A program that is shown as a file is run by a session, or imported by what is run."""
    idle = []
    for block in BLOCKS:
        if block.language == "python" and block.file:
            others = "\n".join(other.text for other in BLOCKS if other.page == block.page and other is not block)
            idle += [str(block)] if not re.search(rf"\b{re.escape(Path(block.file).stem)}\b", others) else []
    assert idle == []


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith(("README", "docs/reference/"))])
def test_a_page_is_three_screens_long(page: str) -> None:
    """What is longer has become two pages. (The reference is generated, and searched.)"""
    assert len(TEXTS[page].splitlines()) <= LONGEST


def test_the_pages_have_programs() -> None:
    """The test finds the blocks of the first bus, and those of the other pages."""
    assert len([program for program in PROGRAMS if program.page == "README.md"]) >= 3
    assert len({program.page for program in PROGRAMS}) > 10
    assert len(PROGRAMS) > 20


@pytest.mark.parametrize("page", [*PAGES, "benchmarks/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Every file of the project that a page links to is there, and so is the place in it."""
    links = list(links_of(page))
    broken = [
        (target, anchor)
        for target, anchor in links
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8")))
    ]

    assert broken == []


def test_each_page_is_two_steps_away() -> None:
    """The first page leads to the sections, and each section to its pages; a folder of a section needs one step more."""
    first = {target for target, _ in links_of("docs/index.md")}
    second = {target for page in PAGES if ROOT / page in first for target, _ in links_of(page)}
    folders = [page for page in PAGES if ROOT / page in second and page.endswith("/index.md")]
    third = {target for page in folders for target, _ in links_of(page) if target.parent == (ROOT / page).parent}
    found = first | second | third
    assert [page for page in PAGES if page not in ("README.md", "docs/index.md") and ROOT / page not in found] == []
    assert (ROOT / "docs/index.md", "") in links_of("README.md")


def test_every_example_is_named() -> None:
    """A newcomer finds each example from the README, or from a page that it links."""
    examples = [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples").glob("*/pipebus.toml")]
    linked = {target for page in PAGES for target, _ in links_of(page)}
    assert [example.name for example in examples if example not in linked] == []


@pytest.mark.thorough
def test_the_story_of_the_race_is_the_real_one(tmp_path: Path) -> None:
    """Each line that the page shows appears in the real story, in the same order."""
    [shown] = [block.text for block in BLOCKS if block.info == "text story"]
    [program] = [program for program in PROGRAMS if "SimulationFailed" in program.parts[0][0].text]
    file = tmp_path / "shop.py"
    file.write_text(program.parts[0][0].text.replace("print(found.why)", "print(found.story)"), encoding="utf-8")

    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path)

    told = iter(done.stdout.splitlines())
    assert [line for line in shown.splitlines() if line != "…" and line not in told] == []

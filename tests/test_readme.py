"""
The README and the pages of docs/ do not lie: their Python blocks run and print what is shown below them, their links lead
somewhere, and the README's commands are the ones that exist.

A block opened with "```python" starts a program of its own; one opened with "```python continues" goes on with the program
before it. A "```text" block right behind a Python block is what that block prints; "```text pipebus demo" is what the
command prints, its last line (time and speed) aside. Functions named `test_…` are called.
"""

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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog

import pipebus
from pipebus import testing

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@dataclass
class Block:
    """One fenced block: the text after the opening fence, and the lines between the fences."""

    page: str
    line: int
    info: str
    text: str
    follows: bool  # nothing but blank lines since the block before


@dataclass
class Program:
    """Python blocks that build on each other, each with what it prints."""

    page: str
    line: int
    parts: list[tuple[Block, str]] = field(default_factory=list)


def blocks(page: str) -> Iterator[Block]:
    opened, info, lines, follows = 0, "", [], False
    for number, line in enumerate(TEXTS[page].splitlines(), 1):
        if opened and line == "```":
            yield Block(page, opened, info, "\n".join(lines), follows)
            opened, follows = 0, True
        elif opened:
            lines.append(line)
        elif line.startswith("```"):
            opened, info, lines = number, line[3:], []
        elif line.strip():
            follows = False


def programs(page: str) -> Iterator[Program]:
    found = list(blocks(page))
    program: Program | None = None
    for index, block in enumerate(found):
        if block.info not in ("python", "python continues"):
            continue
        if program is None or block.info == "python":
            if program is not None:
                yield program
            program = Program(page, block.line)
        after = found[index + 1] if index + 1 < len(found) else None
        prints = after.text if after is not None and after.info == "text" and after.follows else ""
        program.parts.append((block, prints))
    if program is not None:
        yield program


BLOCKS = [block for page in PAGES for block in blocks(page)]
PROGRAMS = [program for page in PAGES for program in programs(page)]
SHOWN = [block.text for block in blocks("README.md") if block.info == "sh"]
COMMANDS = [line for text in SHOWN for line in text.splitlines() if "-m venv" in line]


@pytest.fixture
def structlog_untouched() -> Iterator[None]:
    """A page may show how structlog is configured."""
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("structlog_untouched")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program.page}:{program.line}")
def test_a_program_of_a_page_runs_and_prints_what_it_says(
    program: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A newcomer who types it in as `shop.py` sees the same output."""
    module = types.ModuleType("shop")
    monkeypatch.setitem(sys.modules, "shop", module)  # handlers' annotations and dataclasses are looked up there
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "shop.py"
    module.__file__ = str(file)
    file.write_text("\n".join(block.text for block, _ in program.parts), encoding="utf-8")
    before = 0
    for block, prints in program.parts:
        known = set(vars(module))
        exec(compile("\n" * before + block.text, str(file), "exec"), vars(module))
        for name in set(vars(module)) - known:
            if name.startswith("test_"):
                call_test(vars(module)[name])
        before += len(block.text.splitlines())

        shown = capsys.readouterr()
        assert [line.rstrip() for line in shown.out.strip().splitlines()] == prints.strip().splitlines()
        assert shown.err == ""


def console(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a session, with what it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, prints = part.partition("\n")
        yield command, prints.rstrip()


def masked(text: str) -> str:
    """Return the text without what differs from run to run."""
    return re.sub(r"\d+\.\d\d s(, [\d,]+ records a second)?$", "N s", text, flags=re.MULTILINE)


def test_the_session_on_a_file_is_the_real_one(tmp_path: Path) -> None:
    """With the files that the page shows above the session, each command prints what the page shows."""
    for block in BLOCKS:
        if (match := re.fullmatch(r"(toml|python) ([\w.]+)", block.info)) and match[2] != "continues":
            (tmp_path / match[2]).write_text(block.text, encoding="utf-8")
    [session] = [block.text for block in BLOCKS if block.info == "console"]
    steps = list(console(session))
    [orders] = [prints for command, prints in steps if command == "cat orders.jsonl"]
    (tmp_path / "orders.jsonl").write_text(orders + "\n", encoding="utf-8")
    called = {"pipebus": f'"{sys.executable}" -m pipebus', "cat": "cat", "sed": "sed"}

    for command, prints in steps:
        name, _, rest = command.partition(" ")
        done = subprocess.run(
            f"{called[name]} {rest}", shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip
        assert masked((done.stdout + done.stderr).rstrip()) == masked(prints), command
    assert sum(name.startswith("pipebus ") for name, _ in steps) == 5


@pytest.mark.thorough
def test_the_tests_of_a_file_run_as_it_is_shown(tmp_path: Path) -> None:
    """A program can test its own config file as the page shows."""
    for block in BLOCKS:
        for info, name in (
            ("toml pipebus.toml", "pipebus.toml"),
            ("python shop.py", "shop.py"),
            ("python file tests", "test_it.py"),
        ):
            if block.info == info:
                (tmp_path / name).write_text(block.text, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert "3 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.info.startswith("toml")], ids=lambda block: f"{block.page}:{block.line}"
)
def test_a_file_of_a_page_loads(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer can copy each file and load it; a fragment loads as part of a pipeline."""
    [shop] = [block.text for block in BLOCKS if block.info == "python shop.py"]
    (tmp_path / "shop.py").write_text(shop, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    text = block.text if "version = 1" in block.text else f"version = 1\n[[pipelines]]\n{block.text}"
    (tmp_path / "pipebus.toml").write_text(text, encoding="utf-8")

    bus = pipebus.Bus.from_config(tmp_path / "pipebus.toml", allow_imports=["shop"])

    monkeypatch.delitem(sys.modules, "shop", raising=False)
    assert bus.describe()["publish"]


def call_test(test: Any) -> None:
    """Call a test as pytest would, with the fixtures that its parameters name."""
    fixtures: dict[str, Any] = {"run_filter": lambda: nullcontext(testing.run_filter), "harness": testing.Harness}
    with ExitStack() as stack:
        test(*(stack.enter_context(fixtures[name]()) for name in inspect.signature(test).parameters))


def test_the_pages_have_programs() -> None:
    """The test finds the blocks of the first bus, and those of the other pages."""
    assert len([program for program in PROGRAMS if program.page == "README.md"]) >= 3
    assert len({program.page for program in PROGRAMS}) > 10
    assert len(PROGRAMS) > 20


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


def test_the_demo_prints_what_the_readme_shows() -> None:
    """The output that a stranger compares with is the real one."""
    [shown] = [block.text for block in BLOCKS if block.info == "text pipebus demo"]

    done = subprocess.run(
        [sys.executable, "-m", "pipebus", "demo"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    *said, last = done.stdout.rstrip().splitlines()
    *promised, form = shown.splitlines()
    assert said == promised
    assert re.sub(r"[\d.,]+", "N", last) == re.sub(r"[\d.,]+", "N", form)


def test_two_commands_are_all_the_set_up() -> None:
    """One command runs the main job, one passes the tests, and both ask for extras that exist."""
    main_job, tests = COMMANDS

    assert main_job.endswith(".venv/bin/pipebus demo")
    assert tests.endswith(".venv/bin/python -m pytest -q -n auto")
    asked = {extra for extras in re.findall(r"'\.\[([\w,]+)\]'", main_job + tests) for extra in extras.split(",")}
    assert asked == {"cli", "dev"} <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("page", [*PAGES, "benchmarks/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Every file of the project that a page links to is there, and so is the place in it."""
    links = list(links_of(page))
    broken = [
        (target, anchor)
        for target, anchor in links
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8")))
    ]

    assert links
    assert broken == []


def links_of(page: str) -> Iterator[tuple[Path, str]]:
    """Each file of the project that a page links to, itself included, with the place in it."""
    for link in re.findall(r"\]\(([^)\"]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if "://" not in link:
            name, _, anchor = link.partition("#")
            yield ((ROOT / page).parent / name).resolve() if name else ROOT / page, anchor


def anchors(markdown: str) -> set[str]:
    """The places that a link may lead to: headings, as GitHub names them, and explicit anchors."""
    shown = re.sub(r"^```.*?^```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", shown, re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([\w-]+)"></a>', shown))


def test_the_index_links_every_page() -> None:
    """A newcomer is two steps from each page."""
    linked = {target for target, _ in links_of("docs/index.md")}
    assert [page for page in PAGES if page not in ("README.md", "docs/index.md") and ROOT / page not in linked] == []
    assert (ROOT / "docs/index.md", "") in links_of("README.md")


def test_every_example_is_named() -> None:
    """A newcomer finds each example from the README, or from a page that it links."""
    examples = [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples").glob("*/pipebus.toml")]
    linked = {target for page in PAGES for target, _ in links_of(page)}
    assert [example.name for example in examples if example not in linked] == []


def test_every_command_is_named() -> None:
    """The page on the command line shows each command, and a table shows each filter that comes with the package."""
    from pipebus import filters
    from pipebus.cli import COMMANDS

    [chapter] = [text for text in TEXTS.values() if re.search(r"^# The command line$", text, re.MULTILINE)]
    assert [name for name in COMMANDS if f"`{name}`" not in chapter] == []
    assert [name for name in filters.__all__ if not any(f"| `{name}` |" in text for text in TEXTS.values())] == []


def test_the_changelog_begins_with_this_version() -> None:
    """The newest entry describes the installed version."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", changelog, re.MULTILINE)

    assert versions[0] == pipebus.__version__ == PROJECT["version"]

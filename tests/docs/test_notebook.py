"""The cells of the page on notebooks run as they do in Jupyter, and in IPython's terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import alike, blocks

from missing import needs
from values_helpers import environment

PAGE = "docs/howto/notebook.md"

CELLS = """
import ast, asyncio, contextlib, inspect, io, json, sys

cells, said = json.load(sys.stdin), []


@contextlib.contextmanager
def heard():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        yield
    said.append(out.getvalue())


async def in_order(run):
    for cell in cells:
        with heard():
            await run(cell)
"""
"""Begins a program that runs cells: it is given them as JSON."""

STAND_IN = """
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT as AWAITS

names = {}


async def run(cell):
    *nodes, last = ast.parse(cell).body
    for node, mode in [(ast.Module(nodes, []), "exec"), (ast.Interactive([last]), "single")]:
        found = eval(compile(node, "<cell>", mode, AWAITS), names)
        if inspect.iscoroutine(found):
            await found


asyncio.run(in_order(run))
"""
"""As in Jupyter, cells run on an event loop, may await, and show their last value. For a machine that has no IPython."""

SHELL = """
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
"""

JUPYTER = """
async def run(cell):
    (await shell.run_cell_async(cell, transformed_cell=shell.transform_cell(cell))).raise_error()


asyncio.run(in_order(run))
"""
"""How Jupyter's kernel runs a cell: on the event loop that it runs on itself."""

TERMINAL = """
for cell in cells:
    with heard():
        shell.run_cell(cell).raise_error()
"""


def cells() -> list[tuple[str, str]]:
    """Each cell of the page, with what it prints and shows."""
    found = list(blocks(PAGE))
    pairs = zip(found, [*found[1:], None], strict=True)
    return [
        (cell.text, after.text if after is not None and after.info == "text" and after.follows else "")
        for cell, after in pairs
        if cell.info == "python cell"
    ]


def run(program: str, texts: list[str], folder: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{CELLS}{program}\njson.dump(said, sys.stdout)"],
        input=json.dumps(texts), capture_output=True, text=True, timeout=60, check=False, cwd=folder,
        env=environment() | {"IPYTHONDIR": str(folder)},
    )  # fmt: skip
    assert (done.stderr, done.returncode) == ("", 0), done.stdout + done.stderr
    said: list[str] = json.loads(done.stdout)
    return [re.sub(r"^Out\[\d+\]: ?", "", text, flags=re.MULTILINE) for text in said]


def assert_as_shown(said: list[str]) -> None:
    for (cell, shows), text in zip(cells(), said, strict=True):
        assert alike(text, shows), f"{cell}\n\nshows:\n{text}"


@pytest.mark.thorough
def test_the_cells_show_what_the_page_says(tmp_path: Path) -> None:
    assert_as_shown(run(STAND_IN, [cell for cell, _ in cells()], tmp_path))


@pytest.mark.thorough
@pytest.mark.parametrize("program", [JUPYTER, TERMINAL], ids=["jupyter", "terminal"])
def test_the_cells_run_in_ipython(program: str, tmp_path: Path) -> None:
    needs("IPython")
    assert_as_shown(run(SHELL + program, [cell for cell, _ in cells()], tmp_path))


@pytest.mark.thorough
@pytest.mark.parametrize("program", [JUPYTER, TERMINAL], ids=["jupyter", "terminal"])
def test_each_cell_may_run_twice(program: str, tmp_path: Path) -> None:
    """All but the first one, which makes another bus."""
    needs("IPython")
    first, *others = [cell for cell, _ in cells()]
    run(SHELL + program, [first, *(cell for cell in others for _ in range(2))], tmp_path)


def test_the_page_has_no_other_programs() -> None:
    infos = {block.info for block in blocks(PAGE)}
    assert infos == {"python cell", "text"}

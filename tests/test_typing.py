"""What users learn from a type checker: mypy and pyright read `tests/typing/users.py` in their strict modes."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pipebus
from missing import needs

pytestmark = pytest.mark.thorough  # type checkers take long

ROOT = Path(__file__).parents[1]
USERS = ROOT / "tests" / "typing" / "users.py"
HOME = Path(pipebus.__file__).parents[1]
FOUND = re.compile(r"^(?P<file>.*?):(?P<line>\d+): error: (?P<text>.*)$")


def promises() -> list[tuple[str, range]]:
    """Each function of the file, with the range of its lines."""
    tree = ast.parse(USERS.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, range(node.lineno, (node.end_lineno or node.lineno) + 1)) for node in functions]


def mypy(cache: Path) -> dict[int, list[str]]:
    """What mypy says about the file, by line."""
    needs("mypy")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", "--no-pretty"),
            *("--hide-error-context", "--no-error-summary", "--no-color-output"),
            *("--cache-dir", str(cache)),
            str(USERS),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "MYPYPATH": str(HOME)},
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[int, list[str]] = {}
    for match in filter(None, map(FOUND.match, done.stdout.splitlines())):
        found.setdefault(int(match["line"]), []).append(match["text"])
    assert bool(found) is (done.returncode == 1), done.stdout + done.stderr
    return found


def pyright(_: Path) -> dict[int, list[str]]:
    """What pyright says about the file, by line, with the settings of `pyproject.toml`."""
    needs("pyright")
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(USERS)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
    )
    found: dict[int, list[str]] = {}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        found.setdefault(one["range"]["start"]["line"] + 1, []).append(one["message"])
    assert bool(found) is (done.returncode == 1), done.stdout + done.stderr
    return found


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_users_see(checker: Callable[[Path], dict[int, list[str]]], tmp_path: Path) -> None:
    """
    What is right passes without a word, what is wrong is flagged: see the functions of the file. The imports, classes and names
    that they use are clean, too. (One test for each checker, which takes long and reads the file once.)
    """
    functions = {line: name for name, lines in promises() for line in lines}
    assert {(line, functions.get(line)): texts for line, texts in checker(tmp_path).items()} == {}


def test_every_promise_is_written_down() -> None:
    """Each function of the file says in a sentence what it shows, except those that are filters."""
    tree = ast.parse(USERS.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [node.name for node in functions if ast.get_docstring(node) is None] == ["plain", "aplain"]


def test_the_package_says_that_it_is_typed() -> None:
    """Type checkers would ignore the package without `py.typed`."""
    assert (Path(pipebus.__file__).parent / "py.typed").is_file()

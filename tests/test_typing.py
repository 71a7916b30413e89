"""What users learn from a type checker: mypy reads `tests/typing/users.py` in strict mode."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pipebus

pytest.importorskip("mypy", reason="mypy is a development dependency")

pytestmark = pytest.mark.thorough  # mypy takes long

USERS = Path(__file__).parent / "typing" / "users.py"
HOME = Path(pipebus.__file__).parents[1]
FOUND = re.compile(r"^(?P<file>.*?):(?P<line>\d+): error: (?P<text>.*)$")


def promises() -> list[tuple[str, range]]:
    """Each function of the file, with the range of its lines."""
    tree = ast.parse(USERS.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, range(node.lineno, (node.end_lineno or node.lineno) + 1)) for node in functions]


def complaints(cache: Path) -> dict[int, list[str]]:
    """What mypy says about the file, by line."""
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


def test_users_see(tmp_path: Path) -> None:
    """
    What is right passes without a word, what is wrong is flagged: see the functions of the file. The imports, classes and names
    that they use are clean, too. (One test, for mypy takes long and reads the file once.)
    """
    functions = {line: name for name, lines in promises() for line in lines}
    assert {(line, functions.get(line)): texts for line, texts in complaints(tmp_path).items()} == {}


def test_every_promise_is_written_down() -> None:
    """Each function of the file says in a sentence what it shows, except those that are filters."""
    tree = ast.parse(USERS.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [node.name for node in functions if ast.get_docstring(node) is None] == ["plain", "aplain"]


def test_the_package_says_that_it_is_typed() -> None:
    """Type checkers would ignore the package without `py.typed`."""
    assert (Path(pipebus.__file__).parent / "py.typed").is_file()

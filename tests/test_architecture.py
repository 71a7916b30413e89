"""The page on the architecture agrees with the tree: a change to a folder, a file or an order must change the page too."""

from __future__ import annotations

import ast
import re
import statistics
import tomllib
from pathlib import Path

from pipebus import Bus

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "pipebus"
PAGE = (ROOT / "docs" / "understand" / "architecture.md").read_text(encoding="utf-8")


def test_the_page_has_each_folder_once_and_no_other() -> None:
    """The page has one sentence for each folder, so a reader who looks for a folder finds it."""
    named = re.findall(r"^\| `(\w+)/` \|", PAGE, re.MULTILINE)
    there = [path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert sorted(named) == sorted(there)


def test_only_promised_modules_are_at_the_root() -> None:
    """A module without a folder is public, and its path is promised."""
    there = {path.stem for path in PACKAGE.glob("*.py")}
    assert there == {"__init__", "__main__", "asgi", "errors", "clock", "events"}


def test_each_file_on_the_page_exists() -> None:
    for name in re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE):
        assert (PACKAGE / name).exists(), name


def test_the_order_of_imports_is_the_one_that_is_checked() -> None:
    """The page and the linter say the same."""
    [order] = re.findall(r"^```text\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract.get("containers") == ["pipebus"]]
    assert order.split("\n")[:-1] == layers


def test_each_folder_with_several_modules_has_a_contract_of_its_own() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    covered = {container for contract in contracts for container in contract.get("containers", [])}
    several = {
        ".".join(path.relative_to(PACKAGE.parent).parts)
        for path in [*PACKAGE.iterdir(), *(PACKAGE / "testing").iterdir()]
        if path.is_dir() and len([one for one in path.iterdir() if one.suffix == ".py" or (one / "__init__.py").exists()]) > 2
    }
    assert several <= covered


def test_the_file_to_read_first_is_short() -> None:
    """`compose.py` is read in ten minutes."""
    assert len((PACKAGE / "pipeline" / "compose.py").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_glossary_is_short_and_has_the_names_of_the_code() -> None:
    """It has at most thirty words, ours in order and those of the posts; each has a page, and our names are in the code."""
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    ours, _, theirs = page.partition("## The words of the posts")
    words = re.findall(r"^\| ([a-z ]+) \|", ours, re.MULTILINE)[1:]
    others = re.findall(r"^\| .+ \|$", theirs, re.MULTILINE)[1:]
    assert words == sorted(words)
    assert others
    assert len(words) + len(others) <= 30
    assert len(re.findall(r"\| \[.+\]\(.+\) \|$", page, re.MULTILINE)) == len(words) + len(others)
    source = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    names = set(re.findall(r"`([A-Za-z_]+)`", ours))
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", source)] == []
    assert "(../glossary.md)" in PAGE


def test_the_bus_shows_what_is_documented_and_nothing_else() -> None:
    """Completion in an editor offers at most 40 names, and the pages explain each of them."""
    names = {name for name in dir(Bus()) if not name.startswith("_")}
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert len(names) <= 40
    assert {name for name in names if not re.search(rf"\b[Bb]us\.{name}\b", text)} == set()


def test_there_is_one_door_to_the_parts_behind_a_bus() -> None:
    """Only the bus itself reads its private attributes; all others call `engine_of`."""
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\w\._(engine|sender|lifecycle|ledger)\b", path.read_text(encoding="utf-8"))
    }
    assert found == {"bus/bus.py"}


CORE = {"mailbox", "running", "delivery/subscription.py", "publishing/replies.py", "publishing/router.py", "bus/lifecycle.py"}
"""The path of a message inside the process, whose sizes are a matter of their own."""


def outside_the_core() -> list[Path]:
    names = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    return [PACKAGE / name for name in names if name not in CORE and name.split("/")[0] not in CORE]


def test_files_are_short_or_say_why_they_are_not() -> None:
    """Half of them have at most 120 lines; one of more than 400 gives a reason at its top."""
    lines = {path: path.read_text(encoding="utf-8").count("\n") for path in outside_the_core()}
    assert statistics.median(lines.values()) <= 120
    reasons = {path.name: ast.get_docstring(ast.parse(path.read_text("utf-8"))) for path, count in lines.items() if count > 400}
    assert [name for name, reason in reasons.items() if "is long because" not in " ".join(str(reason).split())] == []


def test_classes_have_few_methods_or_say_why_they_have_many() -> None:
    """One of more than 20 methods gives a reason in its docstring."""
    unexplained = []
    for path in outside_the_core():
        for found in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(found, ast.ClassDef):
                methods = {one.name for one in found.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))}
                if len(methods) > 20 and "many methods, since" not in " ".join(str(ast.get_docstring(found)).split()):
                    unexplained.append(f"{path.name}: {found.name} has {len(methods)}")
    assert unexplained == []

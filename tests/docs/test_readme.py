"""The README shows what is: the demo's output, the two commands, and a changelog of this version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib

from pages import BLOCKS, ROOT, TEXTS, alike, blocks

import pipebus

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SHOWN = [block.text for block in blocks("README.md") if block.info == "sh"]
COMMANDS = [line for text in SHOWN for line in text.splitlines() if "-m venv" in line]


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

    assert alike(done.stdout, shown), done.stdout


def test_two_commands_are_all_the_set_up() -> None:
    """One command runs the main job, one passes the tests, and both ask for extras that exist."""
    main_job, tests = COMMANDS

    assert main_job.endswith(".venv/bin/pipebus demo")
    assert tests.endswith(".venv/bin/python -m pytest -q -n auto")
    asked = {extra for extras in re.findall(r"'\.\[([\w,]+)\]'", main_job + tests) for extra in extras.split(",")}
    assert asked == {"cli", "dev"} <= set(PROJECT["optional-dependencies"])


def test_it_is_short() -> None:
    """One screen and a half, blocks included."""
    assert len(TEXTS["README.md"].split()) <= 1500


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

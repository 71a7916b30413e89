"""The benchmarks run from a clone, with or without the other packages that they compare with."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pykka", "pymessagebus", "reactivex", "aiopubsub", "abxbus", "taskiq")


@pytest.mark.thorough
def test_one_command_makes_a_table_and_a_chart(tmp_path: Path) -> None:
    """Each contender has a line, a package that is absent is shown as such, and the chart is an SVG with our bars."""
    chart = tmp_path / "chart.svg"
    sizes = ["--size", "100", "--rounds", "1"]

    command = [sys.executable, str(ROOT / "benchmarks/run.py"), "W1", "loop_W1", *sizes, "--svg", str(chart)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)

    lines = done.stdout.splitlines()
    for contender in ("limit", "simplest", "pipebus", *PACKAGES):
        [line, *_] = [line for line in lines if line.split()[:1] == [contender]]
        assert ("not installed" in line) == (contender in PACKAGES and find_spec(contender) is None)
    assert ElementTree.parse(chart).findall(".//*[@class='ours']")

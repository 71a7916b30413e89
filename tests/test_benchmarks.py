"""The benchmarks run from a clone, with or without the other packages that they compare with."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from xml.etree import ElementTree

import pytest

from missing import needs

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pykka", "pymessagebus", "reactivex", "aiopubsub", "abxbus", "taskiq")
ON_A_FILE = ("huey", "litequeue", "persist-queue", "dbos")


@pytest.mark.thorough
def test_one_command_makes_a_table_and_a_chart(tmp_path: Path) -> None:
    """Each contender has a line, a package that is absent is shown as such, and the chart is an SVG with our bars."""
    chart = tmp_path / "chart.svg"

    lines = run("W1", "loop_W1", "--size", "100", "--svg", str(chart))

    shows(lines, "limit", "simplest", "pipebus", *PACKAGES)
    assert ElementTree.parse(chart).findall(".//*[@class='ours']")


@pytest.mark.thorough
@pytest.mark.parametrize("workload", ["sqlite_publish", "sqlite_publishers", "sqlite_consume", "sqlite_through"])
def test_queues_in_a_file_are_compared(workload: str) -> None:
    """Each package handles the same messages as the limit and pipebus do, and its line says what it guarantees."""
    lines = run(workload, "--size", "10", "--check")

    shows(lines, "limit", "pipebus", *ON_A_FILE)
    [head] = [line.split() for line in lines if line.startswith("contender")]
    assert {"synced", "acknowledged", "order", "killed"} <= set(head)
    assert [line for line in lines if line.startswith("pipebus ") and "<=" in line]


@pytest.mark.thorough
@pytest.mark.parametrize("workload", ["nats_publish", "nats_publishers", "nats_through"])
def test_clients_of_a_server_are_compared(workload: str) -> None:
    """FastStream, nats-py as it is offered, and pipebus publish to a server of the run's own."""
    needs("nats")
    shows(run(workload, "--size", "10", "--check"), "raw", "pipebus", "faststream")


def run(*arguments: str) -> list[str]:
    """The lines of one round."""
    command = [sys.executable, str(ROOT / "benchmarks/run.py"), *arguments, "--rounds", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout.splitlines()


def shows(lines: list[str], *contenders: str) -> None:
    """Check that each contender has one line, which says so if its package is absent."""
    for contender in contenders:
        [line, *_] = [line for line in lines if line.split()[:1] == [contender]]
        assert ("not installed" in line) == (contender in (*PACKAGES, *ON_A_FILE, "faststream") and absent(contender))


def absent(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return True
    return False

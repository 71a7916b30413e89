"""The contract of transports, on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlite_stage import SqliteStage

from pipebus.testing import contract
from pipebus.testing.contract import *  # noqa: F403


@pytest.fixture(params=["process", pytest.param("power", marks=pytest.mark.thorough)])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The contract runs with both durabilities. Each publish of "power" waits for the disk, so that one has fewer messages."""
    durability = request.param
    stage = SqliteStage(tmp_path / "bus.db", f"?durability={durability}", many=1_000 if durability == "power" else 3_000)
    yield stage
    stage.wipe()


@pytest.mark.thorough
class TestProcesses(contract.TestProcesses):
    """Three processes for each test."""

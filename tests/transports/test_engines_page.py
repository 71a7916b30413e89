"""The table of engines says what the transports declare."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import missing
from pipebus import Bus
from pipebus.bus.bus import engine_of
from pipebus.transports.base import Capabilities

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "understand" / "engines.md").read_text(encoding="utf-8")
ENGINES = {
    "memory": "memory:",
    "SQLite": "sqlite:///bus.db",
    "JetStream": "nats://localhost:4222",
    "core NATS": "nats://localhost:4222?core=yes",
}


def columns() -> dict[str, dict[str, str]]:
    """The first table of the page's second section: for each engine, its cells by the name of the capability."""
    section = PAGE.partition("\n## What they promise\n")[2].partition("\n## ")[0]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    names = [re.findall(r"`(\w+)`", row[0])[0] for row in rows]
    return {engine: dict(zip(names, [row[1 + at] for row in rows], strict=True)) for at, engine in enumerate(head[1:])}


def shown(value: Any) -> str:
    """How the page writes a capability."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "no limit" if value is None else value if isinstance(value, str) else f"{value:,.0f}"


def test_the_page_has_every_engine() -> None:
    """A reader finds each engine that a URL can name."""
    assert list(columns()) == list(ENGINES)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_table_says_what_a_transport_declares(engine: str) -> None:
    """Each capability is in the table, with the value that the transport has by default."""
    if "NATS" in engine or engine == "JetStream":
        missing.needs("nats")

    declared = engine_of(Bus(ENGINES[engine])).transport.capabilities

    assert columns()[engine] == {name: shown(getattr(declared, name)) for name in Capabilities.__struct_fields__}

"""A `switch` in what the commands show: `graph`, `diff` and `check`."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_helpers import Shop, many

from pipebus import Bus, ConfigError, Pipeline, otherwise, switch, when
from pipebus.filters import Drop, Log

MODULE = """
from pipebus import Bus, otherwise, switch, when
from pipebus.filters import Drop, Expire, Log


def large(message):
    return True


def made(last):
    bus = Bus()
    bus.use(switch(when("a.>", Log()), when(large, Expire("5s")), otherwise(last)))
    bus.subscribe("a.x", name="reader")
    return bus


def one():
    return made(Drop())


def two():
    return made(Log())
"""


def test_the_commands_show_the_cases(tmp_path: Path) -> None:
    """`graph` draws each case behind the one before it; `diff` shows in which case two buses differ; `check` counts them."""
    shop = Shop(tmp_path)
    shop.write("routes.py", MODULE)
    text, mermaid, diff, check = many(
        ["graph", "routes:one"],
        ["graph", "routes:one", "--format", "mermaid"],
        ["diff", "routes:one", "routes:two"],
        ["check", "routes:one"],
        cwd=shop.folder,
    )
    assert text.stdout.splitlines()[:8] == [
        "publish",
        "  |- switch",
        '  |     |- when "a.>"',
        "  |     |     |- Log",
        "  |     |- when routes:large",
        "  |     |     |- Expire",
        "  |     |- otherwise",
        "  |     |     |- Drop",
    ]
    arrows = [line.strip() for line in mermaid.stdout.splitlines() if "-->" in line]
    assert arrows == [
        "n1 --> n2", "n2 -->|yes| n3", "n2 -->|no| n4", "n4 -->|yes| n5", "n4 -->|no| n6",
        "n3 --> n7", "n5 --> n7", "n6 --> n7", "n7 --> n8", "n8 --> n9",
    ]  # fmt: skip
    assert "- " in diff.stdout
    assert [line for line in diff.stdout.splitlines() if line.strip().startswith(("-", "+"))] == [
        '  -     Drop(reason="not wanted")',
        '  +     Log(level="info", body=false, headers=false, redact=[])',
    ]
    assert check.stdout == "routes:one: fine: 3 filters, 1 subscription, 0 schedules, 0 tests\n"


def test_a_switch_is_not_exported_as_something_else() -> None:
    """No file has a form for it yet, and the error says so."""
    bus = Bus()
    bus.use(Pipeline(switch(when("a.>", Log()), otherwise(Drop()))))
    with pytest.raises(ConfigError, match="a switch has no form in a file yet"):
        bus.export_config()

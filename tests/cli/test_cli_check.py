"""`pipebus check`: what it finds before a bus starts, for files and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import Shop

MODULE = """
from pipebus import Bus, branch
from pipebus.filters import Drop, Log


def same(body):
    return body


bus = Bus()
bus.use(branch("audit.>", Log()))
bus.use(Drop(reason="x"))
bus.subscribe("a", same, name="again", to="a")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    found = Shop(tmp_path)
    found.write("checked.py", MODULE)
    return found


SQLITE = """
    [bus]
    transport = "sqlite:///bus.db"
    [[subscriptions]]
    name = "first"
    subject = "a"
    handler = "checked:same"
    [[subscriptions]]
    name = "second"
    subject = "a"
    handler = "checked:same"
    mailbox = { overflow = "drop_oldest" }
"""


def test_what_the_transport_refuses_is_found_before_anything_is_stored(shop: Shop) -> None:
    """An overflow rule that SQLite does not have is an error of its table, and the store is not even made."""
    shop.config(SQLITE)
    done = shop.run("check", "bus.toml", "--allow", "checked")
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert line.startswith('bus.toml:9: subscriptions[1] "second"')
    assert 'overflow="drop_oldest" is for mailboxes in memory' in line
    assert shop.run("run", "bus.toml", "--allow", "checked", "--input", "-").returncode == 2
    assert not (shop.folder / "bus.db").exists()


def test_a_filter_that_the_transport_cannot_serve_is_found(shop: Shop) -> None:
    """A filter that needs a store is a problem in memory, at its line; on a store it is fine."""
    file = """
        [bus]
        transport = "{}"
        [[pipelines]]
        filters = [{{ use = "dedupe", durable = true }}]
    """
    shop.config(file.format("memory:"))
    done = shop.run("check", "bus.toml")
    assert done.returncode == 1
    assert done.stdout.startswith("bus.toml:6: filter Dedupe cannot start: memory: keeps no memory for filters")
    assert json.loads(shop.run("check", "bus.toml", "--json").stdout)["line"] == 6
    shop.config(file.format("sqlite:///bus.db"))
    assert shop.run("check", "bus.toml").returncode == 0
    shop.config(file.format("sqlite:///nowhere/bus.db"))
    done = shop.run("check", "bus.toml")
    assert done.returncode == 0  # the file may be meant for another machine
    assert done.stdout.startswith("bus.toml: hint: `pipebus run` would refuse this here: ")
    assert [path.name for path in shop.folder.glob("*.db*")] == []


def test_the_bus_of_a_program_is_checked_too(shop: Shop) -> None:
    """MODULE:BUS shows the same hints; nothing is started."""
    done = shop.run("check", "checked:bus")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.partition(" hint: ")[2] for line in lines[:-1]] == [
        'what takes branch("audit.>") skips the filters after it: Drop (checked.py:12)',
        'what these handlers return goes round in a loop: again -> "a" -> again; unless one of them returns None, each message '
        "is passed on 32 times and becomes a dead letter",
    ]
    assert lines[-1] == "checked:bus: fine: 2 filters, 1 subscription, 0 schedules, 0 tests"

"""`pipebus schedules`: what a file declares, and what a store knows about it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Shop, assert_said_well

from pipebus import Bus
from pipebus.bus.bus import engine_of
from pipebus.message.slot import Slot

STORE = '[bus]\ntransport = "sqlite:///bus.db"\n'
HOURLY = '[[every]]\ninterval = "1h"\nsubject = "headlines.fetch"\nname = "headlines"\n'
NIGHTLY = '[[cron]]\nexpression = "0 3 * * 1-5"\ntimezone = "Europe/Berlin"\nsubject = "report.nightly"\nname = "report"\n'
OFTEN = '[[every]]\ninterval = "20s"\nsubject = "a.tick"\n'
HOUR = 3600.0


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A file with three schedules, and a store in which one of them has published."""
    shop = Shop(tmp_path)
    shop.config(STORE, HOURLY, NIGHTLY, OFTEN)
    with Bus(f"sqlite:///{tmp_path}/bus.db") as bus:
        bus.every("1h", "headlines.fetch", name="headlines", now=True)
        bus.every("1d", "old", name="old-name", now=True)
        bus.drain()
    return shop


def listed(shop: Shop, *args: str) -> list[dict[str, Any]]:
    done = shop.run("schedules", *args, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_file_shows_what_comes_next_and_what_came_last(shop: Shop) -> None:
    """A schedule without a name ticks in each process, so nobody knows when. A name that the file has no more is shown too."""
    before = time.time() // HOUR * HOUR
    found = listed(shop, "bus.toml")
    now = time.time() // HOUR * HOUR
    by_name = {one["schedule"]: one for one in found}

    assert before <= by_name["headlines"]["last"] <= now
    assert by_name["headlines"]["next"] in (before + HOUR, now + HOUR)
    assert (by_name["report"]["when"], by_name["report"]["last"]) == ("cron 0 3 * * 1-5 Europe/Berlin", None)
    assert by_name[None] == {"schedule": None, "when": "every 20 s", "subject": "a.tick", "last": None, "next": None}
    assert (by_name["old-name"]["subject"], by_name["old-name"]["when"]) == (None, "every 86400 s")


def test_a_store_shows_the_schedules_that_were_started(shop: Shop) -> None:
    """They are a table for people, with times in UTC."""
    last, _, following = (datetime.fromtimestamp(time.time() // 86400 * 86400 + days * 86400, UTC) for days in range(3))
    done = shop.run("schedules", "sqlite:///bus.db")

    assert (done.returncode, done.stderr) == (0, "")
    heads, *rows = done.stdout.splitlines()
    assert heads.split("  ")[0] == "schedule"
    assert [row.split()[0] for row in rows] == ["headlines", "old-name"]
    assert any(f"{day:%Y-%m-%d} 00:00:00" in rows[1] for day in (last, following))


def test_a_file_in_memory_shows_what_it_declares(shop: Shop) -> None:
    """And one whose store does not exist yet, which is not made."""
    shop.config(NIGHTLY, name="memory.toml")
    shop.config('[bus]\ntransport = "sqlite:///new.db"\n', NIGHTLY, name="new.toml")

    for file in ("memory.toml", "new.toml"):
        assert [(one["schedule"], one["last"]) for one in listed(shop, file)] == [("report", None)]
    assert not (shop.folder / "new.db").exists()
    shop.config(name="none.toml")
    assert shop.run("schedules", "none.toml").stdout == "no schedules\n"


@pytest.mark.parametrize(
    ("target", "text"),
    [("memory:", "lives in one process"), ("sqlite:///none.db", "none.db: no such file"), ("no.toml", "no such file")],
)
def test_what_cannot_be_listed_is_one_line(shop: Shop, target: str, text: str) -> None:
    """Nothing is made."""
    assert_said_well(shop.run("schedules", target), 2, text)
    assert not (shop.folder / "none.db").exists()


def test_a_schedule_is_forgotten_after_a_clock_was_far_ahead(shop: Shop) -> None:
    """Until then `next` is behind the last slot, and no process publishes anything."""
    with Bus(f"sqlite:///{shop.folder}/bus.db") as bus:
        engine_of(bus).transport.skip_slot(Slot("headlines", time.time() // HOUR * HOUR + 1000 * HOUR, "every 3600 s"))
    [found] = [one for one in listed(shop, "bus.toml") if one["schedule"] == "headlines"]
    assert found["next"] == found["last"] + HOUR

    for target in ("bus.toml", "sqlite:///bus.db"):
        refused = shop.run("schedules", target, "--forget", "nobody")
        assert refused.returncode == 2
        assert 'keeps no schedule "nobody"; there are headlines, old-name' in refused.stderr
    done = shop.run("schedules", "sqlite:///bus.db", "--forget", "headlines")
    assert (done.returncode, done.stdout) == (0, "forgot headlines: its next slot counts as its first\n")
    with Bus(f"sqlite:///{shop.folder}/bus.db") as bus:
        bus.every("1h", "headlines.fetch", name="headlines", now=True)
        bus.drain()
    assert {one["schedule"] for one in listed(shop, "sqlite:///bus.db")} == {"headlines", "old-name"}

"""`pipebus subscriptions`: what a store keeps messages for, although no program may serve it any more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import ENV, Shop, assert_said_well, figures, jsonl, subscription

STORE = '[bus]\ntransport = "sqlite:///bus.db"\n'
URL = "sqlite:///bus.db"
OK = subscription("billing", "orders.>", "ok")
OLD = subscription("old-name", ["orders.>", "a.b"], "ok").replace('"[', "[").replace(']"', "]").replace("'", '"')
RUN = ("run", "bus.toml", "--allow", "shop", "--input", "-", "--json")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A file with two subscriptions and one message for both."""
    shop = Shop(tmp_path)
    shop.config(STORE, OK, OLD)
    assert shop.run("publish", "bus.toml", "--allow", "shop", "orders.new", '"tea"').returncode == 0
    shop.config(STORE, OK)
    return shop


def listed(shop: Shop, *args: str) -> dict[str, dict[str, Any]]:
    done = shop.run("subscriptions", "list", URL, "--json", *args)
    assert (done.returncode, done.stderr) == (0, "")
    return {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}


def test_the_list_shows_what_waits_and_for_whom(shop: Shop) -> None:
    """A name that no file has any more is there, with the messages that it collects."""
    found = listed(shop)

    assert found["old-name"] == {
        "name": "old-name", "patterns": ["orders.>", "a.b"], "paused": False, "pending": 1, "in_flight": 0, "dead": 0,
    }  # fmt: skip
    assert list(listed(shop, "billing")) == ["billing"]
    table = shop.run("subscriptions", "list", "bus.toml", "--allow", "shop").stdout
    assert "billing       orders.>               1          0     0\n" in table


@pytest.mark.thorough
def test_a_paused_subscription_gets_nothing_until_it_is_resumed(shop: Shop) -> None:
    """Its messages are kept, a run does not wait for them, and it goes on where it was."""
    assert shop.run("subscriptions", "pause", URL, "billing").stdout == "billing is paused; 1 waiting message\n"

    held = figures(shop.run(*RUN, input=jsonl({"subject": "orders.new", "body": 2})))["subscriptions"]["billing"]

    assert (held["acknowledged"], held["pending"]) == (0, 2)
    assert listed(shop)["billing"]["paused"]
    assert shop.run("subscriptions", "resume", URL, "billing").stdout == "billing is resumed; 2 waiting messages\n"
    found = figures(shop.run(*RUN, input=""))["subscriptions"]["billing"]
    assert (found["acknowledged"], found["pending"]) == (2, 0)


def test_a_program_that_runs_hears_of_a_pause_and_of_its_end(shop: Shop) -> None:
    """Nobody has to restart it."""
    with shop.live("run", "bus.toml", "--allow", "shop", env=ENV, notes=True) as live:
        assert live.notes.readline() == "tea\n"
        shop.run("subscriptions", "pause", URL, "billing")
        shop.run("publish", "bus.toml", "--allow", "shop", "orders.new", '"later"')
        shop.run("subscriptions", "pause", URL, "old-name")  # a second change of the file, which the program also sees
        assert listed(shop)["billing"]["pending"] == 1
        shop.run("subscriptions", "resume", URL, "billing")
        assert live.notes.readline() == "later\n"


def test_one_that_is_removed_takes_its_messages_along(shop: Shop) -> None:
    """The others keep theirs."""
    done = shop.run("subscriptions", "remove", URL, "old-name")

    assert (done.returncode, done.stdout) == (0, "old-name is removed; 1 waiting message was discarded\n")
    assert {name: one["pending"] for name, one in listed(shop).items()} == {"billing": 1}


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["pause", URL], ["pause which subscriptions?"]),
        (["remove", URL, "billing", "bills"], ['no subscription "bills"; there are billing, old-name']),
        (["list", "memory.toml"], ["a bus in memory keeps no subscriptions"]),
        (["list", "sqlite:///none.db"], ["none.db: no such file"]),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_is_changed(shop: Shop, args: list[str], parts: list[str]) -> None:
    shop.config(OK, name="memory.toml")
    assert_said_well(shop.run("subscriptions", *args, "--allow", "shop"), 2, "pipebus subscriptions: ", *parts)
    assert len(listed(shop)) == 2
    assert not (shop.folder / "none.db").exists()

"""The commands on a NATS server that others use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

from nats_server import NatsStage, with_client

from pipebus.testing.contract.tools import Seen, running, until

pytestmark = pytest.mark.thorough  # on a real server

ROOT = Path(__file__).resolve().parents[2]
SHOP = """
from pipebus import Bus, Message

bus = Bus({url!r})


@bus.on(["orders.*", "bills.late"], name="billing", deliver="all")
def bill(message: Message) -> None:
    print("billed", message.body, flush=True)
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipebus", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run the command until it ends, and return what it prints."""
    with start(folder, *arguments) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, (out, err)
    return out


def consumers(stage: NatsStage) -> list[str]:
    async def look(client: Any) -> list[str]:
        return [one.name for one in await client.jetstream().consumers_info(stage.stream)]

    found: list[str] = with_client(stage.server, look)
    return found


def test_tail_shows_what_others_publish_and_leaves_nothing_behind(stage: NatsStage, tmp_path: Path) -> None:
    """`tail` leaves no subscription on the server."""
    with running(stage, stage.open()) as _, start(tmp_path, "tail", stage.url, "orders.>", "--count", "1") as tail:
        publisher = stage.buses[0]
        while tail.poll() is None:  # nobody can see from outside when a listener has begun
            publisher.publish("orders.new", {"id": 1})
        out, err = tail.communicate()
    assert (tail.returncode, err) == (0, "")
    (line,) = out.splitlines()
    assert json.loads(line)["body"] == {"id": 1}
    assert consumers(stage) == []


def test_publish_handles_nothing_here(stage: NatsStage, tmp_path: Path) -> None:
    """
    `publish` tells the server about the subscriptions of a bus in a module, and leaves the handling to the program that runs
    the bus.
    """
    (tmp_path / "shop.py").write_text(SHOP.format(url=stage.url))
    told = json.loads(run(tmp_path, "publish", "shop:bus", "orders.new", '{"id": 1}'))
    assert told == {"outcome": "accepted", "mailboxes": 1}
    assert consumers(stage) == ["billing"]
    bus, seen = stage.open(), Seen()
    bus.subscribe(["orders.*", "bills.late"], seen, name="billing")
    with running(stage, bus):
        until(stage, lambda: seen.messages, "it has come")
    assert seen.bodies == [{"id": 1}]


def test_run_works_for_all(stage: NatsStage, tmp_path: Path) -> None:
    """`run` publishes its records to the server, and reports what is handled here."""
    (tmp_path / "shop.py").write_text(SHOP.format(url=stage.url))
    (tmp_path / "orders.jsonl").write_text('{"id": 1}\n{"id": 2}\n')
    out = run(tmp_path, "run", "shop:bus", "--input", "orders.jsonl", "--subject", "orders.new", "--json")
    found = json.loads(out.splitlines()[-1])
    assert (found["published"], found["accepted"], found["dead_letters"]) == (2, 2, 0)
    assert found["subscriptions"]["billing"]["acknowledged"] == 2


def test_dead_letters_of_the_server(stage: NatsStage, tmp_path: Path) -> None:
    """Dead letters can be listed, replayed and discarded while other programs run."""
    bus = stage.open()

    def fail(message: Any) -> None:
        raise ValueError("no")

    bus.subscribe("orders.*", fail, name="billing")
    with running(stage, bus):
        for number in (1, 2):
            bus.publish("orders.new", number)
        bus.drain(timeout=stage.patience)
    letters = [json.loads(line) for line in run(tmp_path, "dead", "list", stage.url, "--json").splitlines()]
    assert [(one["subscription"], one["error"]) for one in letters] == [("billing", "ValueError: no")] * 2
    one, other = (letter["id"] for letter in letters)
    assert "ValueError" in run(tmp_path, "dead", "show", stage.url, one)
    assert run(tmp_path, "dead", "replay", stage.url, one) == "1 given back, 0 not given back, 1 left alone\n"
    assert run(tmp_path, "dead", "discard", stage.url, other) == "1 discarded, 0 left\n"
    assert run(tmp_path, "dead", "list", stage.url) == "no dead letters\n"
    again, seen = stage.open(), Seen()
    again.subscribe("orders.*", seen, name="billing")
    with running(stage, again):
        until(stage, lambda: seen.messages, "it has come again")
    assert len(seen.messages) == 1


def test_a_subscription_is_held_back_and_removed(stage: NatsStage, tmp_path: Path) -> None:
    """A paused consumer delivers nothing to any program, and keeps its messages; a removed one is gone with them."""
    (tmp_path / "shop.py").write_text(SHOP.format(url=stage.url))

    def listed() -> list[dict[str, Any]]:
        lines = run(tmp_path, "subscriptions", "list", stage.url, "--json").splitlines()
        return [json.loads(line) for line in lines]

    run(tmp_path, "publish", "shop:bus", "orders.new", '{"id": 1}')
    assert run(tmp_path, "subscriptions", "pause", stage.url, "billing") == "billing is paused; 1 waiting message\n"
    [one] = listed()
    assert (one["paused"], one["pending"], sorted(one["patterns"])) == (True, 1, ["bills.late", "orders.*"])
    run(tmp_path, "subscriptions", "resume", stage.url, "billing")
    assert [one["paused"] for one in listed()] == [False]
    run(tmp_path, "subscriptions", "remove", stage.url, "billing")
    assert listed() == consumers(stage) == []
    run(tmp_path, "subscriptions", "pause", stage.url, "billing", code=2)

"""Several processes share the work of a subscription on NATS, and some of them end badly."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("nats")

from nats_server import NatsServer, NatsStage

from pipebus.testing.contract.processes import child
from pipebus.testing.contract.tools import until
from pipebus.testing.history import History

pytestmark = pytest.mark.thorough  # processes are killed

LEASE = 2.0
SENT = 1500


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[NatsStage]:
    with NatsServer(tmp_path / "server") as server:
        stage = NatsStage(server, lease=LEASE, patience=30.0)
        yield stage
        stage.wipe()


def settled(*files: Path) -> int:
    """How many messages have been settled, by any process."""
    ids = set()
    for file in files:
        for line in file.read_text().splitlines() if file.exists() else []:
            if '"what":"settled"' in line:
                ids.add(line.split('"id":"')[1].split('"')[0])
    return len(ids)


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.thorough)], ids=["killed", "stands_still"]
)
def test_one_of_the_group_fails_and_another_joins(stage: NatsStage, tmp_path: Path, how: signal.Signals) -> None:
    """Two share the work, one is killed (or stands still for longer than its lease), a third joins: nothing is lost."""
    history = History(tmp_path / "publisher.jsonl")
    files = [tmp_path / f"{name}.jsonl" for name in ("one", "two", "three")]
    with ExitStack() as members:
        processes = [members.enter_context(child(stage, "work", file, file.stem)) for file in files[:2]]
        bus = stage.open("publisher")
        with bus:
            for number in range(SENT):
                history.record_attempt(str(number), "a")
                bus.publish("a", number, id=str(number))
                history.record_accepted(str(number))
                if number == SENT // 3:
                    until(stage, lambda: settled(files[0]) > 0, "the first works")
                    processes[0].send_signal(how)
                if number == 2 * SENT // 3:
                    processes.append(members.enter_context(child(stage, "work", files[2], "three")))
        if how == signal.SIGSTOP:
            time.sleep(2 * LEASE)  # this is the outage
            processes[0].send_signal(signal.SIGCONT)
        until(stage, lambda: settled(*files) == SENT, "all are settled")
        for process in processes:
            process.terminate()
        codes = [process.wait(30) for process in processes]
    assert codes[1:] == [0, 0]
    assert settled(files[2]) > 0
    judgement = History.from_jsonl(tmp_path / "publisher.jsonl", *(file for file in files if file.exists())).judge()
    # What the one that failed had in hand may have been handled before.
    assert [one for one in judgement.violations if one.kind in ("lost", "unexpected")] == []


def test_the_example_tells_the_truth(stage: NatsStage) -> None:
    """Two share the work, a third joins, one is killed: each order is billed once, and each of them has done something."""
    root = Path(__file__).resolve().parents[2]
    env = {name: value for name, value in os.environ.items() if name != "RUN"} | {"PYTHONPATH": str(root / "src")}
    command = [sys.executable, str(root / "examples" / "09_two_processes.py"), stage.server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, third, last = done.stdout.splitlines()
    assert first == "300 orders placed; ann and bob share them"
    assert second == "a third of them is billed: cid joins, and ann is killed"
    assert third.startswith("300 orders, 300 bills: ")
    shares = {who: int(count) for count, who in re.findall(r"(\d+) by (\w+)", third)}
    assert set(shares) == {"ann", "bob", "cid"}
    assert sum(shares.values()) == 300
    assert re.fullmatch(r"\d+ of them at a second attempt: ann had them when she was killed", last)

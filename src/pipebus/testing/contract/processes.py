"""Processes: the promises that take several processes to test."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipebus.bus.bus import engine_of
from pipebus.message.outcomes import Receipt
from pipebus.testing.contract.child import ATTEMPTS, SENT
from pipebus.testing.contract.stage import HasChildren, Stage
from pipebus.testing.contract.tools import Seen, assert_refused, recorded, running, serving, survives, until
from pipebus.testing.history.history import History

MEMBERS = 4
"""How many processes share a subscription."""


@contextmanager
def child(stage: Any, what: str, file: Path, name: str = "child") -> Iterator[subprocess.Popen[bytes]]:
    """Run one of the programs of child.py until the block ends; skip the test if there is no stage for it."""
    if not isinstance(stage, HasChildren):
        pytest.skip("the stage has no URL with which other processes can open its store: see HasChildren")
    command = [sys.executable, "-m", "pipebus.testing.contract.child", stage.child_url(), what, str(file), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            begun = process.stdout.readline() == b"ready\n"
            assert begun or what == "kill_itself", f"child {what} did not begin"  # that one may die before it prints "ready"
            yield process
        finally:
            process.kill()


class TestProcesses:
    """Processes that are killed, that end without a stop, and that share a subscription."""

    def test_a_crash_counts_as_an_attempt(self, stage: Stage, tmp_path: Path) -> None:
        """A message that kills each process that handles it becomes a dead letter after its attempts, and kills no more."""
        if not survives(stage):
            assert_refused(stage, survives="process")
            return
        with serving(stage, None, attempts=ATTEMPTS) as publisher:
            publisher.publish("a", "poison", id="poison")
        file = tmp_path / "history.jsonl"
        for _ in range(ATTEMPTS):
            with child(stage, "kill_itself", file) as process:
                assert process.wait(6 * stage.patience) == -signal.SIGKILL
        seen = Seen()
        with serving(stage, seen, attempts=ATTEMPTS) as bus:
            bus.publish("a", "good")
            until(stage, lambda: seen.messages and bus.dead_letters.list(), "the poison is dead, and the good is handled")
            (letter,) = bus.dead_letters.list()
        assert seen.bodies == ["good"]
        assert (letter.message.id, letter.attempts) == ("poison", ATTEMPTS)
        taken = [record for record in History.from_jsonl(file).records if type(record).__name__ == "Delivered"]
        assert [getattr(record, "attempt", None) for record in taken] == list(range(1, ATTEMPTS + 1))

    @pytest.mark.parametrize(("end", "code"), [("publish_and_leave", 0), ("publish_and_be_killed", -signal.SIGKILL)])
    def test_exit_without_stop_loses_nothing(self, stage: Stage, tmp_path: Path, end: str, code: int) -> None:
        """A program can end without stopping its bus, or be killed, and what it has published is kept."""
        if not survives(stage):
            assert_refused(stage, survives="process")
            return
        with child(stage, end, tmp_path / "history.jsonl") as process:
            assert process.wait(6 * stage.patience) == code
        seen = Seen()
        with serving(stage, seen, attempts=ATTEMPTS):
            until(stage, lambda: len(seen.messages) >= SENT, "all of them")
        assert sorted(seen.bodies) == list(range(SENT))

    def test_unnamed_subscription_ends_with_its_process(self, stage: Stage, tmp_path: Path) -> None:
        """Nothing is left of an unnamed subscription whose process is killed: soon, a publish reaches nobody."""
        with child(stage, "listen", tmp_path / "history.jsonl") as process:
            publisher = stage.open("publisher")
            with running(stage, publisher):
                process.kill()
                process.wait(stage.patience)
                until(stage, lambda: publisher.publish("a") == Receipt(0), "the subscription has gone")
                assert engine_of(publisher).transport.kept() == []

    def test_processes_share_without_duplicates(self, stage: Stage, tmp_path: Path) -> None:
        """Several processes of one group work at the same time, and each message is delivered and settled once."""
        if not (stage.capabilities.multi_process and stage.capabilities.groups):
            assert_refused(stage, multi_process=True, groups=True)
            return
        files = [tmp_path / f"member-{number}.jsonl" for number in range(MEMBERS)]
        history = History(tmp_path / "publisher.jsonl")
        with ExitStack() as members:
            processes = [members.enter_context(child(stage, "work", file, file.stem)) for file in files]
            publisher = stage.open("publisher")
            with running(stage, publisher):
                for number in range(stage.many):
                    recorded(history, publisher, number, str(number))
            deadline = time.monotonic() + 6 * stage.patience
            while sum(file.read_text().count('"what":"settled"') for file in files) < stage.many:
                assert time.monotonic() < deadline, "not all are settled in time"
                time.sleep(0.05)
            for process in processes:
                process.terminate()
            codes = [process.wait(3 * stage.patience) for process in processes]
        assert codes == [0] * MEMBERS
        judgement = History.from_jsonl(tmp_path / "publisher.jsonl", *files).judge()
        judgement.raise_if_broken()
        assert (judgement.counts["delivered"], judgement.counts["acknowledged"]) == (stage.many, stage.many)

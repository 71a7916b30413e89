"""
Processes on NATS that are killed, or stand still for longer than their lease, while they hold messages not yet begun.

Nothing is lost, and what the process held comes again when its lease ends, in order. A process that begins after it, while
no other one is running, waits for that, so the order is kept, as O4 says. A process that is already running does not wait:
then the held messages come late, even those of a key.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

import nats_crash_child
from nats_crash_child import SUBSCRIPTION
from nats_server import NatsServer

from pipebus import Bus
from pipebus.testing.history import Delivered, History, Settled

pytestmark = pytest.mark.thorough  # processes are killed

LEASE = 1.0
PATIENCE = 60.0
COUNT = 60
HELD = 10
"""The message at which the first process stops."""


class Workers:
    """Processes that serve one subscription, one after the other or side by side, and what they have written down."""

    def __init__(self, server: NatsServer, folder: Path, attempts: int) -> None:
        self.url = f"{server.url}?lease={LEASE}s"
        self.folder, self.attempts = folder, attempts
        self.files: list[Path] = []
        self._stack = ExitStack()

    def publish(self, bodies: list[Any], keys: int = 0) -> None:
        """Publish the bodies under the ids "0", "1", …"""
        self.files.append(self.folder / "publisher.jsonl")
        history = History(self.files[0])
        with Bus(self.url) as bus:
            for number, body in enumerate(bodies):
                key = f"k{number % keys}" if keys else None
                history.record_attempt(str(number), "a.x", key=key)
                bus.publish("a.x", body, id=str(number), key=key)
                history.record_accepted(str(number))

    def add(self, name: str) -> subprocess.Popen[bytes]:
        file = self.folder / f"{name}.jsonl"
        self.files.append(file)
        command = [
            sys.executable, nats_crash_child.__file__, self.url, str(file), name, str(self.attempts), str(self.folder),
        ]  # fmt: skip
        return self._stack.enter_context(running(command))

    def go(self, name: str) -> None:
        """Let the process that waits for this name continue."""
        (self.folder / f"{name}.go").touch()

    @property
    def history(self) -> History:
        return History.from_jsonl(*(file for file in self.files if file.exists()))

    def taken(self, by: str | None = None) -> list[Delivered]:
        return [one for one in self.history.records if isinstance(one, Delivered) and by in (None, one.worker)]

    def ended(self, by: str | None = None) -> dict[str, str]:
        """How each message ended."""
        records = (one for one in self.history.records if isinstance(one, Settled) and by in (None, one.worker))
        return {one.id: one.how for one in records if one.how in ("acknowledged", "dead")}

    def broken(self) -> list[str]:
        """Everything that is wrong, whichever process was killed."""
        kinds = ("lost", "unexpected", "over_budget", "mislabelled")
        return [str(one) for one in self.history.judge().violations if one.kind in kinds]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: Any) -> None:
        self._stack.close()


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "server") as server:
        yield server


@pytest.mark.parametrize(
    ("how", "alone", "keys"),
    [
        pytest.param(signal.SIGKILL, True, 0, id="killed-alone"),
        pytest.param(signal.SIGKILL, False, 5, id="killed-beside_another-five_keys"),
        pytest.param(signal.SIGSTOP, True, 5, id="stands_still-alone-five_keys"),
        pytest.param(signal.SIGSTOP, False, 0, id="stands_still-beside_another"),
    ],
)
def test_what_a_process_held_comes_again_in_order(
    server: NatsServer, tmp_path: Path, how: signal.Signals, alone: bool, keys: int
) -> None:
    """Another process takes over. Who stood still goes on with what it holds, and harms nothing."""
    with Workers(server, tmp_path, attempts=5) as workers:
        workers.publish(["wait" if number == HELD else 0.005 for number in range(COUNT)], keys)
        workers.go("two")
        one = workers.add("one")
        until(lambda: any(record.id == str(HELD) for record in workers.taken("one")), "the first one stands still")
        if alone:
            one.send_signal(how)
            two = workers.add("two")
        else:
            two = workers.add("two")
            until(lambda: workers.taken("two"), "the second one is at work")
            one.send_signal(how)
        until(lambda: len(workers.ended()) == COUNT, "all are settled")
        before = workers.taken()
        if how == signal.SIGSTOP:
            workers.go("one")
            one.send_signal(signal.SIGCONT)
            until(lambda: str(HELD) in workers.ended("one"), "the first one goes on")
            one.terminate()
            assert one.wait(PATIENCE) == 0
        two.terminate()
        assert two.wait(PATIENCE) == 0
        assert workers.broken() == []
        assert set(workers.ended().values()) == {"acknowledged"}
    assert set(Counter((record.id, record.attempt) for record in before).values()) == {1}
    assert [int(record.id) for record in before if record.worker == "one"] == list(range(HELD + 1))
    others = [record for record in before if record.worker == "two"]
    again = [int(record.id) for record in others if record.attempt == 2]
    fresh = [int(record.id) for record in others if record.attempt == 1]
    assert len(again) + len(fresh) == len(others)  # the process that held it counts as one attempt, and no other attempt counts
    begun = again.index(HELD)  # an acknowledgement before it may have been on its way
    assert again[begun:] == list(range(HELD, HELD + len(again) - begun))
    assert fresh == list(range(again[-1] + 1, COUNT))
    if alone:
        assert [int(record.id) for record in others] == again + fresh


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_poison_message_dies_alone(server: NatsServer, tmp_path: Path, attempts: int) -> None:
    """
    It kills each process that takes it, and is a dead letter after so many; the good ones behind it, which those processes held
    too, are handled. Of one before it the acknowledgement may have been on its way each time: then it was taken as often.
    """
    with Workers(server, tmp_path, attempts) as workers:
        workers.publish([0.0] * 25 + ["kill"] + [0.0] * 25)
        process = workers.add("0")
        lives = 1
        deadline = time.monotonic() + PATIENCE
        while len(workers.ended()) < 51:
            assert time.monotonic() < deadline
            if process.poll() is not None:
                process = workers.add(str(lives))
                lives += 1
            time.sleep(0.02)
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert lives == attempts + 1
        assert [record.attempt for record in workers.taken() if record.id == "25"] == list(range(1, attempts + 1))
        with Bus(workers.url) as bus:
            letters = {letter.message.id: (letter.subscription, letter.attempts) for letter in bus.dead_letters.list()}
        assert letters.pop("25") == (SUBSCRIPTION, attempts)
        takings = Counter(record.id for record in workers.taken())
        assert [id for id in letters if takings[id] < attempts] == []
        assert [id for id in letters if int(id) > 25] == []
        assert workers.broken() == []

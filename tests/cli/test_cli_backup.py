"""`pipebus backup`: a copy of a store as of one moment, while programs use it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from threading import Event

import pytest
from cli_helpers import run

from flow_helpers import WAIT, InThread, wait_until
from pipebus import Bus, Message


@pytest.mark.thorough
def test_a_copy_made_while_a_program_publishes_is_whole(tmp_path: Path) -> None:
    """It has all that was accepted before, nothing twice, and a bus goes on with it, in the order of publishing."""
    bus, enough, done = Bus(f"sqlite:///{tmp_path / 'bus.db'}?durability=process"), Event(), Event()
    bus.subscribe("s", name="kept")
    accepted = []

    def publish() -> None:
        while not done.is_set():
            bus.publish("s", len(accepted))
            accepted.append(len(accepted))
            if len(accepted) == 100:
                enough.set()

    with bus:
        publisher = InThread(publish)
        assert enough.wait(WAIT)
        before = len(accepted)
        made = run("backup", f"sqlite:///{tmp_path / 'bus.db'}", "copy.db", cwd=tmp_path)
        after = len(accepted)
        wait_until(lambda: len(accepted) > after, "the publisher goes on")
        done.set()
        publisher.result()
    assert (made.returncode, made.stdout, made.stderr) == (0, f"copy.db: {os.path.getsize(tmp_path / 'copy.db'):,} bytes\n", "")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)

    got: list[int] = []

    def handle(message: Message) -> None:
        got.append(message.body)

    with Bus(f"sqlite:///{tmp_path / 'copy.db'}") as copied:
        copied.subscribe("s", handle, name="kept")
        copied.drain(WAIT)
    assert before <= len(got) <= after + 1
    assert got == list(range(len(got)))


@pytest.mark.parametrize(
    ("target", "copy", "code", "says"),
    [
        ("sqlite:///bus.db", "there.txt", 1, "pipebus backup: there.txt exists; name a new file"),
        ("sqlite:///bus.db", "none/copy.db", 1, "bus.db cannot be copied to none/copy.db: unable to open database file"),
        ("sqlite:///other.db", "copy.db", 1, "other.db: no such file"),
        ("sqlite:///there.txt", "copy.db", 1, "there.txt"),
        ("memory:", "copy.db", 2, "memory: lives in one process"),
        ("nats://localhost", "copy.db", 2, "the stream PIPEBUS;"),
    ],
)
def test_what_cannot_be_copied_is_said_and_nothing_is_left(
    target: str, copy: str, code: int, says: str, tmp_path: Path
) -> None:
    """A file that is there stays as it is."""
    with Bus(f"sqlite:///{tmp_path / 'bus.db'}") as bus:
        bus.subscribe("s", name="kept")
        bus.publish("s")
    (tmp_path / "there.txt").write_text("mine")
    before = sorted(os.listdir(tmp_path))

    done = run("backup", target, copy, cwd=tmp_path)

    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "there.txt").read_text() == "mine"

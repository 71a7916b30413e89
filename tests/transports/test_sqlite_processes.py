"""Several processes use one file, and some of them are killed, stopped, forked, or have another clock."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from crash_helpers import script
from worker_child import LATER, SUBSCRIPTION

from pipebus import Bus, Delivery, Message
from pipebus.bus.bus import engine_of
from pipebus.errors import TransportError
from pipebus.testing.history import Delivered, History
from pipebus.transports.sqlite import boot

pytestmark = pytest.mark.thorough  # processes are killed

S = SUBSCRIPTION


def until(true: Callable[[], Any], what: str, timeout: float = 60.0) -> None:
    """Wait for a condition that must come true."""
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        time.sleep(0.005)


START = """
import sys
from pipebus import Bus
bus = Bus("sqlite:///" + sys.argv[1])
bus.subscribe("a", lambda message: None, name="s")
print("ready", flush=True)
sys.stdin.read(1)
with bus:
    assert bus.publish("a").mailboxes == 1
    bus.drain(timeout=30)
"""


class Place:
    """A file, and the workers that serve it."""

    def __init__(self, folder: Path, options: str = "") -> None:
        self.folder = folder
        self.path = folder / "bus.db"
        self.options = options
        self.history = History()
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.names = (f"w{number}" for number in itertools.count(1))
        self.bus = Bus(f"sqlite:///{self.path}{options}")  # only publishes
        with Bus(f"sqlite:///{self.path}") as first:
            first.subscribe("a.>", name=S)

    def start(self, attempts: int = 3, threads: int = 1) -> str:
        name = next(self.names)
        command = script("worker_child.py", f"{self.path}{self.options}", self.log(name), name, attempts, threads)
        with open(self.folder / f"{name}.out", "w") as out:
            self.running[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=out, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
            )
        return name

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def out(self, name: str) -> str:
        return (self.folder / f"{name}.out").read_text()

    def go_on(self, name: str) -> None:
        """Let the process end its wait."""
        Path(f"{self.path}.{name}.go").touch()

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait(60)
        assert process.stdin is not None
        process.stdin.close()

    def wait(self, name: str) -> int:
        """Wait until the process ends by itself, and return its exit code."""
        process = self.running.pop(name)
        code = process.wait(60)
        assert process.stdin is not None
        process.stdin.close()
        return code

    def stop(self, name: str) -> None:
        process = self.running.pop(name)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0, self.out(name)

    def publish(self, body: Any, id: str) -> None:
        self.history.record_attempt(id, "a.b")
        receipt = self.bus.publish("a.b", body, id=id)
        assert receipt
        assert receipt.mailboxes == 1
        self.history.record_accepted(id)

    async def publish_many(self, ids: list[str], body: Any) -> None:
        for id in ids:
            self.history.record_attempt(id, "a.b")
        for receipt in await asyncio.gather(*(self.bus.apublish("a.b", body, id=id) for id in ids)):
            assert receipt
        for id in ids:
            self.history.record_accepted(id)

    def figures(self) -> dict[str, Any]:
        found = engine_of(self.bus).transport.figures(S)
        assert found is not None
        return found  # type: ignore[no-any-return]

    @property
    def settled(self) -> int:
        found = self.figures()
        return int(found["acknowledged"] + found["dead"])

    def deliveries(self) -> list[Delivered]:
        """Return the deliveries of all workers so far, in order."""
        records = History.from_jsonl(*self.folder.glob("*.jsonl")).records
        return [record for record in records if isinstance(record, Delivered)]

    def judge(self, attempts: int) -> dict[str, int]:
        """
        Each message was handled, and settled once; twice handled only as a later attempt.

        What a worker has settled nobody knows if it is killed then: so what the file has counted is asked. It counts a
        settlement with the row that it takes away.
        """
        figures = self.figures()
        letters = [letter.message.id for letter in self.bus.dead_letters]
        assert figures["accepted"] == figures["acknowledged"] + figures["dead"], figures
        assert len(letters) == len(set(letters)) == figures["dead"]
        whole = History()
        whole.record_subscription(S, "a.>", attempts=attempts)
        deliveries = self.deliveries()
        for record in (*self.history.records, *deliveries):
            whole.record(record)
        last = {record.id: record for record in sorted(deliveries, key=lambda record: record.attempt)}
        for record in last.values():
            if record.id not in letters:
                whole.record_settled(S, record.id, attempt=record.attempt, worker=record.worker)
        for id in letters:
            whole.record_kept(S, id, "dead")
        whole.record_figures(S, figures)
        judgement = whole.judge()
        judgement.raise_if_broken()
        assert figures["acknowledged"] == judgement.counts["acknowledged"]
        return judgement.counts

    def end(self) -> None:
        for name in list(self.running):
            self.running[name].send_signal(signal.SIGCONT)
            self.kill(name)
        self.bus.stop(timeout=10, drain=False)
        with closing(sqlite3.connect(self.path)) as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@contextmanager
def at(folder: Path, options: str = "") -> Iterator[Place]:
    place = Place(folder, options)
    try:
        with place.bus:
            yield place
    finally:
        place.end()


@contextmanager
def nobody_writes(path: Path) -> Iterator[None]:
    """Hold the lock of the writers."""
    with open(f"{path}-lock", "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.thorough
def test_processes_may_make_the_file_at_the_same_time(tmp_path: Path) -> None:
    """The first process makes the file, and none is refused. A message that a stopping process gave back is not lost."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for number in range(3):
        path = tmp_path / f"{number}.db"
        started = [subprocess.Popen([sys.executable, "-c", START, str(path)], text=True, **pipes) for _ in range(4)]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("g")
            process.stdin.flush()
        for process in started:
            _, said = process.communicate(timeout=60)
            assert process.returncode == 0, said
        # A process may take another's message after its own drain, and give it back when it stops: one more handles it.
        subprocess.run([sys.executable, "-c", START, str(path)], input="g", text=True, check=True, timeout=60)
        with closing(sqlite3.connect(path)) as file:
            assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert file.execute("SELECT accepted, acknowledged FROM subscription").fetchall() == [(5, 5)]


# --- killed ------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_eight_processes_of_which_one_is_killed_every_half_second_share_the_work(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each of 6,000 messages is settled once; only what a killed worker had in hand is handled again."""
    count, chosen = 6_000, random.Random(6)
    with at(tmp_path) as place:
        for _ in range(8):
            place.start(attempts=10, threads=2)
        ids = [f"m{number}" for number in range(count)]
        failed: list[BaseException] = []

        def publish() -> None:
            try:
                for start in range(0, count, 200):
                    asyncio.run(place.publish_many(ids[start : start + 200], 0.002))
            except BaseException as error:
                failed.append(error)

        publisher = threading.Thread(target=publish)
        publisher.start()
        kills = 0
        deadline = time.monotonic() + 300
        while place.settled < count and not failed:
            assert time.monotonic() < deadline, place.figures()
            time.sleep(0.5)
            place.kill(chosen.choice(list(place.running)))
            place.start(attempts=10, threads=2)
            kills += 1
        publisher.join()
        assert not failed, failed
        for name in list(place.running):
            place.stop(name)
        counts = place.judge(attempts=10)
        most = max(Counter(record.attempt for record in place.deliveries()))
    request.node.user_properties.append(("kills", kills))
    request.node.user_properties.append(("deliveries", f"{counts}, at most attempt {most}"))
    assert counts["acknowledged"] == count
    assert kills > 3


@pytest.mark.parametrize("threads", [1, 4])
def test_a_message_that_kills_its_process_ends_as_a_dead_letter(tmp_path: Path, threads: int) -> None:
    """It dies after as many attempts as are allowed; the messages before and after it are handled, and no other one dies."""
    with at(tmp_path) as place:
        ids = [f"m{number}" for number in range(10)]
        for id in ids[:5]:
            place.publish(0.0, id)
        place.publish("kill", "poison")
        for id in ids[5:]:
            place.publish(0.0, id)
        killed = 0
        for _ in range(10):
            name = place.start(attempts=3, threads=threads)
            until(lambda name=name: place.settled == 11 or place.running[name].poll() is not None, "an end")
            if place.settled == 11:
                place.stop(name)
                break
            assert place.wait(name) == -signal.SIGKILL, place.out(name)
            killed += 1
        letters = list(place.bus.dead_letters)
        assert [letter.message.id for letter in letters] == ["poison"]
        assert letters[0].attempts == 3
        assert "taken 3 times" in letters[0].error
        assert killed == 3
        place.judge(attempts=3)
        assert [record.attempt for record in place.deliveries() if record.id == "poison"] == [1, 2, 3]


def test_a_delayed_return_survives_a_kill(tmp_path: Path) -> None:
    """`delivery.retry(delay)` is kept in the file: another process handles it as the next attempt, and not before its time."""
    with at(tmp_path) as place:
        name = place.start()
        place.publish("later", "m")
        until(lambda: place.deliveries() and place.figures()["pending"] == 1, "the return")
        place.kill(name)
        name = place.start()
        until(lambda: place.settled == 1, "the second attempt")
        place.stop(name)
        first, second = place.deliveries()
        assert (first.attempt, second.attempt) == (1, 2)
        assert second.at - first.at >= LATER * 1e9
        place.judge(attempts=3)


# --- stopped -----------------------------------------------------------------------------------------------------------


def test_who_sleeps_longer_than_its_lease_loses_its_deliveries(tmp_path: Path) -> None:
    """Others take over; its late acknowledgements are refused, and it continues to serve."""
    with at(tmp_path, "?lease=1s") as place:
        sleeper = place.start()
        place.publish("wait", "m")
        until(place.deliveries, "a delivery")
        with nobody_writes(place.path):  # otherwise it might be stopped while it does this
            place.running[sleeper].send_signal(signal.SIGSTOP)
        other = place.start()
        until(lambda: len(place.deliveries()) == 2, "another one to take over")
        place.go_on(sleeper)
        place.running[sleeper].send_signal(signal.SIGCONT)
        until(lambda: "delivery.settled_too_late" in place.out(sleeper), "the late acknowledgement to be refused")
        figures = place.figures()
        assert (figures["acknowledged"], figures["in_flight"]) == (0, 1)
        place.go_on(other)
        until(lambda: place.settled == 1, "the other one's acknowledgement")
        place.stop(other)
        place.publish(0.0, "n")
        until(lambda: place.settled == 2, "the one that slept to serve again")
        place.stop(sleeper)
        assert [(record.id, record.attempt, record.worker) for record in place.deliveries()] == [
            ("m", 1, sleeper),
            ("m", 2, other),
            ("n", 1, sleeper),
        ]
        place.judge(attempts=3)


def test_who_sleeps_with_the_lock_is_told_of(tmp_path: Path) -> None:
    """A process stopped inside a transaction holds up all others: they get an error after `wait`, and continue when it does."""
    with at(tmp_path, "?wait=1s") as place:
        sleeper = place.start()
        place.publish("hold", "m")
        until(Path(f"{place.path}.held").exists, "the transaction")
        place.running[sleeper].send_signal(signal.SIGSTOP)
        with pytest.raises(TransportError, match=r"waited 1 s to write; it was held by another process: .* is it stopped\?"):
            place.bus.publish("a.b", 0.0, id="refused")
        place.go_on(sleeper)
        place.running[sleeper].send_signal(signal.SIGCONT)
        until(lambda: place.settled == 1, "the transaction's end")
        place.publish(0.0, "n")
        until(lambda: place.settled == 2, "the next one")
        place.stop(sleeper)
        place.judge(attempts=3)


# --- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [-1e8, 1e8], ids=["back", "on"])
@pytest.mark.thorough
def test_a_clock_that_is_set_disturbs_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    """The calendar jumps by years while a handler runs: nobody takes its message away, and no delay changes."""
    now = time.time
    took: list[tuple[str, int, float]] = []
    at_work, go = threading.Event(), threading.Event()

    def handle(message: Message[Any], delivery: Delivery) -> None:
        took.append((message.id, delivery.attempt, time.monotonic()))
        if message.id == "long":
            at_work.set()
            assert go.wait(60)

    def leases() -> list[float]:
        with closing(sqlite3.connect(tmp_path / "bus.db")) as file:
            return [end for (end,) in file.execute("SELECT until FROM owner ORDER BY owner")]

    buses = [Bus(f"sqlite:///{tmp_path}/bus.db?lease=1s") for _ in range(2)]
    for bus in buses:
        bus.subscribe("a.>", handle, name=S)
    with buses[0]:
        buses[0].publish("a.b", id="long")
        assert at_work.wait(60)
        monkeypatch.setattr(time, "time", lambda: now() + jump)
        with buses[1]:
            published = time.monotonic()
            buses[1].publish("a.b", id="delayed", delay=0.5)
            [before, _] = leases()
            until(lambda: leases()[0] > before + 2.0, "the lease to be renewed beyond its first end")
            go.set()
            until(lambda: len(took) == 2, "the delayed message")
    assert [(id, attempt) for id, attempt, _ in took] == [("long", 1), ("delayed", 1)]
    assert took[1][2] - published >= 0.5


def test_after_a_reboot_everybody_from_before_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock since boot starts again: what was out comes again at once, and delays continue by the calendar."""
    took: list[tuple[str, int]] = []

    def handle(message: Message[Any], delivery: Delivery) -> None:
        took.append((message.id, delivery.attempt))

    with at(tmp_path, "?lease=3600s") as place:
        name = place.start()
        place.publish("wait", "m")
        until(place.deliveries, "a delivery")
        with nobody_writes(place.path):
            place.running[name].send_signal(signal.SIGSTOP)  # it lives, and its lease is long
        place.bus.publish("a.b", 0.0, id="soon", delay=1.0)
        place.bus.publish("a.b", 0.0, id="much later", delay=3600.0)
        place.bus.stop(drain=False)
        booted = time.monotonic()
        monkeypatch.setattr(boot, "boot_id", lambda: "another boot")
        monkeypatch.setattr(boot, "since_boot", lambda: time.monotonic() - booted)
        bus = Bus(f"sqlite:///{place.path}?lease=3600s")
        bus.subscribe("a.>", handle, name=S)
        with bus:
            until(lambda: len(took) == 2, "what waited")
            bus.drain(timeout=30)
            assert bus.stats()["subscriptions"][S]["pending"] == 1
    assert sorted(took) == [("m", 2), ("soon", 1)]


# --- forked ------------------------------------------------------------------------------------------------------------

FORK = """
import os, sys
from pipebus import Bus
from pipebus.errors import PipebusError
got = []
bus = Bus("sqlite:///" + sys.argv[1])
bus.subscribe("a", lambda message: got.append(message.body), name="s")
pull = bus.subscribe("b", name="p")
bus.start()
bus.publish("a", 1)
bus.drain(timeout=30)
child = os.fork()
if child == 0:
    refused = []
    for name, use in {
        "publish": lambda: bus.publish("a", 2), "receive": lambda: pull.receive(timeout=1),
        "drain": lambda: bus.drain(timeout=1), "stop": lambda: bus.stop(), "start": lambda: bus.start(),
        "subscribe": lambda: bus.subscribe("c", print, name="c"), "dead letters": lambda: len(bus.dead_letters),
        "stats": lambda: bus.stats(),
    }.items():
        try:
            use()
        except PipebusError as error:
            refused.append(name)
    print("refused:", *refused, flush=True)
    how = sys.argv[2]
    os._exit(0) if how == "at once" else sys.exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
bus.publish("a", 3)
bus.drain(timeout=30)
bus.stop()
print("child:", code, "parent got", got)
"""


@pytest.mark.parametrize("how", ["at once", "as usual"])
def test_after_a_fork_only_the_parent_goes_on(tmp_path: Path, how: str) -> None:
    """The child is refused whatever it tries, however it ends, and the parent notices nothing."""
    path = tmp_path / "bus.db"
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, str(path), how],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "child: 0 parent got [1, 3]" in done.stdout, done.stdout + done.stderr
    assert "refused: publish receive drain stop start subscribe dead letters stats" in done.stdout
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert file.execute("SELECT sum(accepted), sum(acknowledged) FROM subscription").fetchone() == (2, 2)

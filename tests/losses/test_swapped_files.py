"""
The files of a SQLite bus are read, removed, renamed, replaced or cut while programs use them.

Whatever happens to the files, a receipt means that the message is kept where the URL leads, and losses are reported.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from swapped_child import SUBSCRIPTION

from pipebus import Bus, Delivery, Message
from pipebus.errors import TransportError
from pipebus.testing import captured_logs
from pipebus.testing.history import History

WAIT = 30.0
CHILD = Path(__file__).with_name("swapped_child.py")
FILES = ("", "-wal", "-shm", "-lock")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder / "bus.db"


class Program:
    """A running `swapped_child.py`."""

    def __init__(self, path: Path, log: Path, name: str) -> None:
        self.log = log
        command = [sys.executable, str(CHILD), str(path), str(log), name]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.answer() == "ready"

    def ask(self, *words: object) -> Any:
        self.begin(*words)
        return self.answer()

    def begin(self, *words: object) -> None:
        """Send the words, and do not wait for the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate(timeout=WAIT)


@contextmanager
def program(path: Path, name: str = "first") -> Iterator[Program]:
    """A program that is killed at the end, as by a power cut."""
    one = Program(path, path.parent.parent / f"{name}.history", name)
    try:
        yield one
    finally:
        one.kill()


def bus_on(path: Path, handler: Callable[..., Any] = lambda message: None) -> Bus:
    bus = Bus(f"sqlite:///{path}")
    bus.subscribe("a.>", handler, name=SUBSCRIPTION)
    return bus


def waiting_bus(path: Path) -> Bus:
    """A bus whose messages stay in the file."""
    bus = Bus(f"sqlite:///{path}")
    bus.subscribe("a.>", lambda message: None, name=SUBSCRIPTION).pause()
    return bus


def handled_later(path: Path, *histories: Path) -> list[str]:
    """The messages that a new program finds in the file; no message with a receipt in the histories is missing."""
    got: list[str] = []
    history = History()
    history.record_subscription(SUBSCRIPTION, "a.>")
    bus = bus_on(path, lambda message: got.append(message.id))
    history.watch(bus)
    with bus:
        bus.drain(timeout=WAIT)
    if histories:
        History.from_jsonl(*histories, history.to_jsonl()).judge().raise_if_broken()
    assert integrity(path) == "ok"
    return got


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as file:
        found: str = file.execute("PRAGMA integrity_check").fetchone()[0]
    return found


def made(path: Path, *ids: str) -> Path:
    """Make another valid bus with these messages waiting in it."""
    with waiting_bus(path) as bus:
        for id in ids:
            bus.publish("a.b", {"id": id}, id=id)
    assert not Path(f"{path}-wal").exists()
    return path


def told(logs: list[Any]) -> list[str]:
    """What the log says about files that were swapped."""
    return [entry["text"] for entry in logs if entry["event"] == "sqlite.file_replaced" and entry["log_level"] == "warning"]


# --- a file that is read in the program that uses it ---------------------------------------------------------------------


def sqlite_visits(path: Path) -> None:
    """Let another program with plain SQLite open the file, look at it and close it."""
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT count(*) FROM message').fetchall(); c.close()"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=WAIT)


def bus_visits(path: Path) -> None:
    """Start and stop a bus on the file in another process."""
    code = "import sys; from pipebus import Bus; b = Bus('sqlite:///' + sys.argv[1]); b.start(); b.publish('x'); b.stop()"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=WAIT)


def doctor_visits(path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pipebus", "doctor", f"sqlite:///{path}"], check=False, timeout=WAIT, capture_output=True
    )


@pytest.mark.parametrize("files", [("",), ("", "-wal", "-shm", "-lock")], ids=["the-file", "all-files"])
@pytest.mark.parametrize("visit", [sqlite_visits, bus_visits, doctor_visits], ids=lambda visit: visit.__name__)
@pytest.mark.thorough
def test_a_program_may_read_its_own_bus_file(path: Path, visit: Callable[[Path], None], files: tuple[str, ...]) -> None:
    """
    A program reads its bus file for a backup, and another program opens and closes the file. The first one publishes
    again and is killed: every message with a receipt is there.
    """
    with program(path) as first:
        assert len(first.ask("publish", 20)["promised"]) == 20
        first.ask("read", *(f"{path}{end}" for end in files))
        visit(path)
        assert first.ask("publish", 20) == {"promised": [f"first-{number}" for number in range(20, 40)], "errors": []}
        first.ask("read", *(f"{path}{end}" for end in files))
        visit(path)
        assert len(first.ask("publish", 20)["promised"]) == 20
    assert len(handled_later(path, first.log)) == 60


@pytest.mark.thorough
def test_two_buses_of_one_program_do_not_harm_each_other(path: Path) -> None:
    """One of two buses on a file stops; messages that the other one publishes after another program's visit are kept."""
    stays, goes = waiting_bus(path), Bus(f"sqlite:///{path}")
    stays.start()
    with goes:
        goes.publish("a.b", id="one")
    path.read_bytes()
    sqlite_visits(path)
    stays.publish("a.b", id="two")
    with program(path) as other:  # which finds it, although this program has not stopped
        assert other.ask("publish", 1)["promised"] == ["first-0"]
    stays.stop()
    assert sorted(handled_later(path)) == ["first-0", "one", "two"]


def test_nothing_stays_open(path: Path) -> None:
    """A bus whose file was replaced and read leaves no file descriptor open after its stop."""
    other = made(path.with_name("other.db"))
    with waiting_bus(path) as bus:
        bus.publish("a.b")
        assert open_files(path.parent)
        path.read_bytes()
        os.replace(other, path)
        with pytest.raises(TransportError):
            bus.publish("a.b")
        bus.publish("a.b")
    assert open_files(path.parent) == []


def open_files(folder: Path) -> list[str]:
    """The files of a folder that this process has open."""
    links = [Path(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")]
    return [found for found in (os.readlink(one) for one in links if one.is_symlink()) if found.startswith(str(folder))]


# --- files next to the database --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ends",
    [("-wal",), ("-shm",), ("-wal", "-shm"), ("-lock",), ("-wal", "-shm", "-lock")],
    ids=lambda ends: "+".join(ends),
)
@pytest.mark.few(1)
def test_a_file_beside_the_database_is_removed_and_nothing_is_lost(path: Path, ends: tuple[str, ...]) -> None:
    """If somebody removes the log, the index or the lock while a program runs, it continues, and a kill loses nothing."""
    with program(path) as first:
        assert len(first.ask("publish", 20)["promised"]) == 20
        for end in ends:
            Path(f"{path}{end}").unlink(missing_ok=True)  # the bus, which looks all the time, may have been faster
        assert first.ask("publish", 20)["errors"] == []
        with program(path, "second") as second:
            assert second.ask("publish", 20)["errors"] == []
            assert first.ask("publish", 20)["errors"] == []
            assert second.ask("publish", 1)["errors"] == []
    assert len(handled_later(path, first.log, second.log)) == 81


@pytest.mark.parametrize("end", ["-wal", "-shm"])
@pytest.mark.thorough
def test_two_programs_lose_a_file_beside_the_database(path: Path, end: str) -> None:
    """Both continue, neither overwrites what the other one has written, and both report what they have found."""
    with program(path) as first, program(path, "second") as second:
        first.ask("publish", 10)
        second.ask("publish", 10)
        Path(f"{path}{end}").unlink(missing_ok=True)  # the bus, which looks all the time, may have been faster
        for _ in range(3):
            for one in (first, second):
                assert one.ask("publish", 5)["errors"] == []
        for one in (first, second):
            assert any(
                entry["event"] == "sqlite.file_replaced" and "nothing is lost" in entry["text"] for entry in one.ask("stop")
            )
    assert len(handled_later(path, first.log, second.log)) == 50


# --- another file, or none ---------------------------------------------------------------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    for end in FILES:
        Path(f"{path}{end}").unlink(missing_ok=True)  # the bus, which looks all the time, may have been faster


def rename(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def replace(path: Path) -> None:
    os.replace(made(path.with_name("other.db"), "other-0", "other-1"), path)


def replace_all(path: Path) -> None:
    other = made(path.with_name("other.db"), "other-0", "other-1")
    remove_all(path)
    other.rename(path)


def replace_with_a_copy(path: Path) -> None:
    """Replace the file by a copy, as a tool does that rewrites a file and renames it."""
    other = path.with_name("other.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(other)) as target:
        source.backup(target)
    os.replace(other, path)


SWAPS = {
    remove: "was removed or renamed",
    remove_all: "was removed or renamed",
    rename: "was removed or renamed",
    replace: "was replaced by another file",
    replace_all: "was (removed or renamed|replaced by another file)",  # as the bus looks between the two or after them
    replace_with_a_copy: "was replaced by another file",
}


@pytest.mark.parametrize("swap", SWAPS, ids=lambda swap: swap.__name__)
@pytest.mark.few(3)
def test_after_a_swap_one_publish_fails_and_the_next_one_is_kept(path: Path, swap: Callable[[Path], None]) -> None:
    """The next publish names the file and what has happened, the log says so once, and later receipts are true."""
    with captured_logs() as logs:
        bus = waiting_bus(path)
        with bus:
            bus.publish("a.b", id="before")
            swap(path)
            with pytest.raises(TransportError, match=f"{path} {SWAPS[swap]} while it was in use.*publish it again"):
                bus.publish("a.b", id="refused")
            for number in range(5):
                assert bus.publish("a.b", id=f"after-{number}").mailboxes == 1  # it is subscribed there, too
            waiting = set(messages_in(path))
            assert {f"after-{number}" for number in range(5)} <= waiting
            stats = bus.stats()["subscriptions"][SUBSCRIPTION]
            assert stats["accepted"] == len(waiting)
    assert len(told(logs)) == 1
    assert re.search(SWAPS[swap], told(logs)[0])
    got = handled_later(path)
    assert set(got) == waiting
    assert len(got) == len(waiting)
    assert "refused" not in got


def messages_in(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as file:
        if not file.execute("SELECT 1 FROM sqlite_schema WHERE name = 'message'").fetchone():
            return []  # it was renamed while it was being made
        return [id for (id,) in file.execute("SELECT id FROM message ORDER BY seq")]


@pytest.mark.thorough
def test_a_renamed_file_has_all_that_was_promised_before(path: Path) -> None:
    """If somebody renames the file and leaves its log behind, the file is complete under its new name."""
    with program(path) as first:
        before = first.ask("publish", 20)["promised"]
        path.rename(path.with_name("moved.db"))
        after = first.ask("publish", 20)
        assert len(after["errors"]) == 1
    assert sorted(handled_later(path)) == sorted(after["promised"])
    assert sorted(handled_later(path.with_name("moved.db"))) == sorted(before)


def test_a_folder_that_is_removed_refuses_until_it_is_there_again(path: Path) -> None:
    """Each publish says which folder is missing, and works as soon as the folder is there again."""
    with captured_logs() as logs, waiting_bus(path) as bus:
        bus.publish("a.b", id="before")
        shutil.rmtree(path.parent)
        for _ in range(3):
            with pytest.raises(TransportError, match=str(path.parent)):
                bus.publish("a.b", id="refused")
        path.parent.mkdir()
        assert bus.publish("a.b", id="after").mailboxes == 1
    assert len(told(logs)) == 1
    assert handled_later(path) == ["after"]


@pytest.mark.thorough
def test_a_folder_that_is_renamed_takes_its_messages_along(path: Path) -> None:
    """If a folder is renamed and a new one takes its place, the old folder keeps its messages."""
    with program(path) as first:
        before = first.ask("publish", 10)["promised"]
        moved = path.parent.rename(path.parent.with_name("moved"))
        assert len(first.ask("publish", 3)["errors"]) == 3
        path.parent.mkdir()
        after = first.ask("publish", 10)["promised"]
    assert handled_later(path) == after
    assert handled_later(moved / "bus.db") == before


@pytest.mark.thorough
def test_a_link_that_leads_elsewhere_is_followed(tmp_path: Path, path: Path) -> None:
    """If the URL names a link and the link changes, new messages go to the new file, and the first file keeps its own."""
    other = tmp_path / "other"
    other.mkdir()
    link = tmp_path / "current"
    link.symlink_to(path.parent)
    with program(link / "bus.db") as first:
        before = first.ask("publish", 10)["promised"]
        new = tmp_path / "new"
        new.symlink_to(other)
        os.replace(new, link)
        after = first.ask("publish", 10)
        assert len(after["errors"]) == 1
        assert len(after["promised"]) == 9
    assert handled_later(path) == before
    assert handled_later(other / "bus.db") == after["promised"]


@pytest.mark.thorough
def test_of_two_programs_one_replaces_the_file(path: Path) -> None:
    """When a file that two programs use is replaced, each gets one error, and both continue in the new file."""
    with program(path) as first, program(path, "second") as second:
        for one in (first, second):
            assert one.ask("publish", 10)["errors"] == []
        os.replace(made(path.with_name("other.db"), "other-0"), path)
        promised: list[str] = []
        for turn in range(3):
            for one in (first, second):
                answer = one.ask("publish", 5)
                assert len(answer["errors"]) == (turn == 0)
                promised += answer["promised"]
        assert len(promised) == 28
    assert sorted(handled_later(path)) == sorted([*promised, "other-0"])


@pytest.mark.parametrize("swap", [remove, remove_all, rename, replace], ids=lambda swap: swap.__name__)
@pytest.mark.few(2)
def test_coroutines_hear_of_a_swap_too(path: Path, swap: Callable[[Path], None]) -> None:
    """`apublish` fails with the same error, and then continues with the same file."""

    async def main() -> None:
        async with waiting_bus(path) as bus:
            await bus.apublish("a.b", id="before")
            await asyncio.to_thread(swap, path)
            with pytest.raises(TransportError, match=f"{path} {SWAPS[swap]}"):
                await bus.apublish("a.b", id="refused")
            await bus.apublish("a.b", id="after")

    asyncio.run(main())
    assert "after" in handled_later(path)


# --- in the middle of a transaction ------------------------------------------------------------------------------------------


def without_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def without_index(path: Path) -> None:
    Path(f"{path}-shm").unlink()


def without_both(path: Path) -> None:
    without_log(path)
    without_index(path)


def until(true: Callable[[], Any]) -> None:
    """Wait for something that is certain to happen."""
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def somebody_writes(path: Path) -> bool:
    """Whether a bus has the lock for writers."""
    with open(f"{path}-lock", "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize(
    "swap",
    [remove, remove_all, rename, replace, replace_all, without_log, without_index, without_both],
    ids=lambda swap: swap.__name__,
)
@pytest.mark.few(1)
def test_a_swap_between_the_look_and_the_commit_is_seen(path: Path, swap: Callable[[Path], None]) -> None:
    """
    A program has begun to write and waits for another one's transaction, when its file is swapped. It commits into the old
    file, but every message with a receipt is in the new one.
    """
    with program(path) as first:
        assert first.ask("publish", 5)["errors"] == []
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first.begin("publish", 3)
        until(lambda: somebody_writes(path))
        swap(path)
        other.execute("COMMIT")
        other.close()
        answer = first.answer()
        lost = swap not in (without_log, without_index, without_both)
        assert len(answer["errors"]) == lost
        assert all(error.startswith("TransportError") for error in answer["errors"])
        assert first.ask("publish", 3)["errors"] == []
    got = handled_later(path) if lost else handled_later(path, first.log)
    assert set(answer["promised"]) <= set(got)
    assert len(got) == len(set(got))


@pytest.mark.parametrize("swap", [remove, rename, replace, without_log, without_both], ids=lambda swap: swap.__name__)
@pytest.mark.few(2)
def test_a_swap_in_a_handlers_transaction_is_seen(path: Path, swap: Callable[[Path], None]) -> None:
    """A handler's transaction ends without an error if, and only if, what it has written is where the path leads."""
    ends: list[str] = []

    def handle(message: Message[Any], delivery: Delivery) -> None:
        if message.id == "paid" or message.id.startswith("other"):
            return
        try:
            with delivery.transaction() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS account (message)")
                connection.execute("INSERT INTO account VALUES (?)", (message.id,))
                bus.publish("a.b", id="paid")
                swap(path)
        except TransportError as error:
            ends.append(str(error))
        else:
            ends.append("kept")

    bus = bus_on(path, handle)
    with bus:
        bus.publish("a.b", id="transfer")
        until(lambda: ends)
        bus.drain(timeout=WAIT)
    [end] = ends
    with closing(sqlite3.connect(path)) if path.exists() else closing(sqlite3.connect(":memory:")) as file:
        accounts = file.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'account'").fetchone()[0]
        paid = path.exists() and file.execute("SELECT count(*) FROM message WHERE id = 'paid'").fetchone()[0]
    assert bool(accounts) is bool(paid) is (end == "kept")
    assert end == "kept" or str(path) in end
    assert (end == "kept") is (swap in (without_log, without_both))


def size_of(path: str) -> int:
    """Bytes of a file, which a program may remove at any moment."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


@pytest.mark.thorough
@pytest.mark.parametrize("seed", range(2))
def test_a_file_that_is_renamed_again_and_again_loses_nothing(path: Path, seed: int) -> None:
    """Two programs publish while their file is renamed at any moment: each receipt's message is in one of the files, once."""
    luck = random.Random(seed)
    promised: list[str] = []
    errors = moves = 0
    with program(path) as first, program(path, "second") as second:
        for _ in range(6):
            for one in (first, second):
                one.begin("publish", 150)
            for _ in range(5):
                until(path.exists)
                size = size_of(f"{path}-wal")
                more = luck.randrange(200_000)
                for _ in range(2000):
                    if size_of(f"{path}-wal") > size + more:
                        break
                moves += 1
                path.rename(path.with_name(f"moved-{moves}.db"))
            for one in (first, second):
                answer = one.answer()
                promised += answer["promised"]
                errors += len(answer["errors"])
        for one in (first, second):
            one.ask("stop")
    assert errors
    kept: list[str] = []
    for file in (path, *(path.with_name(f"moved-{number + 1}.db") for number in range(moves))):
        if file.exists():
            assert integrity(file) == "ok"
            kept += messages_in(file)
    assert set(promised) <= set(kept), sorted(set(promised) - set(kept))
    assert len(kept) == len(set(kept))


# --- handlers that run meanwhile -------------------------------------------------------------------------------------------


class AtWork:
    """A bus with one handler, which waits in the middle of a message."""

    def __init__(self, path: Path, end: Callable[[Delivery], None]) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.errors: list[BaseException] = []
        self.got: list[str] = []

        def handle(message: Message[Any], delivery: Delivery) -> None:
            self.got.append(message.id)
            if message.id == "held":
                self.begun.set()
                assert self.go.wait(WAIT)
                try:
                    end(delivery)
                except TransportError as error:
                    self.errors.append(error)

        self.bus = bus_on(path, handle)


def confirmed(delivery: Delivery) -> None:
    delivery.ack(confirm=True)


def in_a_transaction(delivery: Delivery) -> None:
    with delivery.transaction() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS paid (id)")


@pytest.mark.parametrize("end", [confirmed, in_a_transaction], ids=lambda end: end.__name__)
@pytest.mark.parametrize("swap", [remove, rename, replace], ids=lambda swap: swap.__name__)
@pytest.mark.few(3)
def test_an_acknowledgement_that_goes_nowhere_is_an_error(
    path: Path, swap: Callable[[Path], None], end: Callable[[Delivery], None]
) -> None:
    """When the file is swapped while a handler runs, a call that asks for a confirmed acknowledgement raises an error."""
    stage = AtWork(path, end)
    with stage.bus as bus:
        bus.publish("a.b", id="held")
        assert stage.begun.wait(WAIT)
        swap(path)
        stage.go.set()
        with pytest.raises(TransportError):
            bus.publish("a.b", id="refused")
        bus.publish("a.b", id="after")
        bus.drain(timeout=WAIT)
        figures = bus.stats()["subscriptions"][SUBSCRIPTION]
    [error] = stage.errors
    assert str(path) in str(error)
    assert "while" in str(error)
    others = {"other-0", "other-1"} if swap is replace else set()
    assert set(stage.got) == {"held", "after", *others}
    assert figures["acknowledged"] == 1 + len(others)  # in this file "held" has never been


@pytest.mark.parametrize("swap", [remove, replace], ids=lambda swap: swap.__name__)
def test_an_acknowledgement_of_another_file_settles_nothing(path: Path, swap: Callable[[Path], None]) -> None:
    """
    The first message of the old file and that of the new one have the same number. The old one's handler ends while the new
    one is being handled: only the old one's acknowledgement is void, and the log says so.
    """
    stage = AtWork(path, lambda delivery: None)
    second, release = threading.Event(), threading.Event()

    with captured_logs() as logs:
        bus = Bus(f"sqlite:///{path}")

        def handle(message: Message[Any]) -> None:
            stage.got.append(message.id)
            if message.id == "held":
                stage.begun.set()
                assert stage.go.wait(WAIT)
            else:
                second.set()
                assert release.wait(WAIT)

        bus.subscribe("a.>", handle, name=SUBSCRIPTION, workers=2)
        with bus:
            bus.publish("a.b", id="held")
            assert stage.begun.wait(WAIT)
            swap(path)
            with pytest.raises(TransportError):
                bus.publish("a.b", id="refused")
            bus.publish("a.b", id="after")
            assert second.wait(WAIT)
            stage.go.set()
            bus.publish("a.c", id="more")
            figures = bus.stats()["subscriptions"][SUBSCRIPTION]
            assert figures["acknowledged"] == 0
            release.set()
            bus.drain(timeout=WAIT)
            figures = bus.stats()["subscriptions"][SUBSCRIPTION]
            assert figures["acknowledged"] == figures["accepted"]
    assert any(entry["event"] == "delivery.not_settled" and "swapped" in entry["error"] for entry in logs)


# --- contents ----------------------------------------------------------------------------------------------------------------


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def halved(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwritten(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"a letter to a friend\n" * 400)


def overwritten_by_a_bus(path: Path) -> None:
    shutil.copyfile(made(path.with_name("other.db"), "other-0"), path)


def log_emptied(path: Path) -> None:
    os.truncate(f"{path}-wal", 0)


@pytest.mark.parametrize(
    "spoil", [emptied, halved, overwritten, overwritten_by_a_bus, log_emptied], ids=lambda spoil: spoil.__name__
)
@pytest.mark.few(2)
def test_a_file_whose_contents_were_spoiled_takes_nothing_more(path: Path, spoil: Callable[[Path], None]) -> None:
    """Every publish names the file and `pipebus doctor`, until a good file is put in its place."""
    made(path, "early")
    with captured_logs() as logs, waiting_bus(path) as bus:
        bus.publish("a.b", id="before")
        spoil(path)
        for _ in range(3):
            with pytest.raises(TransportError, match=rf"{path} .*pipebus doctor"):
                bus.publish("a.b", id="refused")
        with pytest.raises(TransportError, match=rf"{path} .*pipebus doctor"):
            bus.stats()
        os.replace(made(path.with_name("good.db"), "good"), path)
        bus.publish("a.b", id="after")
    assert len(told(logs)) == 1
    assert handled_later(path) == ["good", "after"]


@pytest.mark.parametrize(("contents", "why"), [(b"a letter\n" * 800, "not a database"), (None, "another program's database")])
@pytest.mark.few(1)
def test_a_file_that_is_no_bus_is_refused_and_not_changed(path: Path, contents: bytes | None, why: str) -> None:
    """If a file that is not a bus has replaced it, publishing raises an error that says so, until that file is gone."""
    foreign = path.with_name("foreign.db")
    if contents is not None:
        foreign.write_bytes(contents)
    else:
        with closing(sqlite3.connect(foreign)) as file:
            file.execute("PRAGMA application_id = 12")
    data = foreign.read_bytes()
    with waiting_bus(path) as bus:
        bus.publish("a.b", id="before")
        os.replace(foreign, path)
        for _ in range(3):
            with pytest.raises(TransportError, match=rf"{path} was replaced.*{why}.*pipebus doctor"):
                bus.publish("a.b", id="refused")
        assert path.read_bytes() == data
        path.unlink()
        bus.publish("a.b", id="after")
    assert handled_later(path) == ["after"]


# --- what is allowed ---------------------------------------------------------------------------------------------------


def touched(path: Path) -> None:
    os.utime(path)


def made_readable(path: Path) -> None:
    path.chmod(0o644)


def copied(path: Path) -> None:
    shutil.copyfile(path, path.with_name("copy.db"))


def linked(path: Path) -> None:
    os.link(path, path.with_name("link.db"))


def written_by_others(path: Path) -> None:
    """Write like an application with its own tables in the file, whose connection moves the log into the database."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE IF NOT EXISTS invoice (text)")
        file.execute("INSERT INTO invoice VALUES (?)", ("x" * 100_000,))
        file.commit()
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def vacuumed(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("VACUUM")
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize(
    "harmless", [touched, made_readable, copied, linked, written_by_others, vacuumed], ids=lambda harmless: harmless.__name__
)
@pytest.mark.few(3)
def test_what_harms_nothing_is_not_told(path: Path, harmless: Callable[[Path], None]) -> None:
    """A file that is touched, copied, linked, or written by an application's own connection stays the same file."""
    with captured_logs() as logs, waiting_bus(path) as bus:
        for number in range(6):
            bus.publish("a.b", id=f"{number}")
            harmless(path) if harmless is not linked or number == 0 else None
        assert bus.stats()["subscriptions"][SUBSCRIPTION]["accepted"] == 6
    assert told(logs) == []
    assert len(handled_later(path)) == 6

"""Faults around a file: the error helps, nothing is lost, and work continues when the cause has passed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import fault_child
import pytest
from crash_child import PAID
from crash_helpers import counted, need_strace, script, strace

from missing import missing
from pipebus import Bus
from pipebus.bus.bus import engine_of
from pipebus.errors import DrainTimeout, TransportError
from pipebus.testing import captured_logs
from pipebus.testing.history import History
from pipebus.transports.sqlite import schema

pytestmark = pytest.mark.thorough  # faults of the disk

S = "s"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


def bus_on(path: Path, got: list[Any] | None = None, options: str = "") -> Bus:
    """A bus with one subscription, not yet started."""
    bus = Bus(f"sqlite:///{path}{options}")
    bus.subscribe("a", lambda message: None if got is None else got.append(message.body), name=S)
    return bus


def made(path: Path, *bodies: Any) -> None:
    """A file that was used and closed."""
    bus = bus_on(path)
    with bus:
        for body in bodies:
            bus.publish("a", body)
    assert not Path(f"{path}-wal").exists()


def files(folder: Path) -> dict[str, bytes]:
    """The contents of a folder's files, except for the lock's file, which is always empty."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and not file.name.endswith("-lock")}


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as file:
        found: str = file.execute("PRAGMA integrity_check").fetchone()[0]
    return found


# --- calls that fail ---------------------------------------------------------------------------------------------------


class Faults:
    """Runs `fault_child.py` with failing calls, in a folder of its own each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told = Counter[str]()
        self.failures: list[str] = []
        self._lock = threading.Lock()

    def whole(self) -> Counter[str]:
        """Return the calls of a run in which none fails."""
        place, done = self.run(None, "whole")
        assert done.returncode == 0, done.stderr
        return counted(place / "calls")

    def run(self, inject: str | None, name: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
        place = self.folder / name.replace(":", "-").replace("=", "-")
        place.mkdir()
        program = script("fault_child.py", place / "bus.db", place / "history", place / "errors")
        return place, strace(program, place / "bus.db", inject=inject, log=place / "calls")

    def one(self, inject: str) -> None:
        """Some calls fail, then none does: every failure is reported, and all the work gets done."""
        place, done = self.run(inject, inject)
        try:
            assert done.returncode == 0, done.stderr
            self.check_errors(place)
            assert integrity(place / "bus.db") == "ok"
            History.from_jsonl(place / "history").judge().raise_if_broken()
            with closing(sqlite3.connect(place / "bus.db")) as file:
                assert file.execute("SELECT count(*) FROM account").fetchone() == (1,)
                assert sorted(id for (id,) in file.execute("SELECT id FROM message")) == sorted({*fault_child.IDS, PAID})
                assert file.execute("SELECT accepted, acknowledged FROM subscription").fetchone() == (6, 6)
        except Exception as error:
            with self._lock:
                self.failures.append(f"{inject} ({place}): {type(error).__name__}: {error}")
            return
        shutil.rmtree(place)

    def check_errors(self, place: Path) -> None:
        """Each names the file and the next move; one that leaves it open also names the message."""
        file = place / "errors"
        for line in file.read_text().splitlines() if file.exists() else ():
            told = json.loads(line)
            with self._lock:
                self.told[told["error"]] += 1
            assert str(place / "bus.db") in told["text"], told
            assert any(
                word in told["text"] for word in ("look at", "look whether", "make room", "end its", "give this user")
            ), told
            if told["error"] == "PublishUnknown":
                assert told["doing"] == f"publish {told['id']}"
                assert "publish it again with its id" in told["text"]


@pytest.mark.parametrize(("error", "step"), [("EIO", 6), ("ENOSPC", 25)])
def test_any_one_call_may_fail(tmp_path: Path, error: str, step: int, request: pytest.FixtureRequest) -> None:
    """A write or a sync fails once, each in turn: the caller gets the error and tries again, and everything is done once."""
    need_strace()
    faults = Faults(tmp_path)
    calls = faults.whole()
    points = [f"{name}:error={error}:when={number}" for name, most in sorted(calls.items()) for number in range(1, most + 1)]
    points = points[::step]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(faults.one, points))
    request.node.user_properties.append(("fault_points", len(points)))
    request.node.user_properties.append(("told", str(dict(faults.told))))
    assert not faults.failures, "\n".join(faults.failures)
    assert faults.told or step > 1


@pytest.mark.parametrize("inject", ["pwrite64:error=ENOSPC:when=70..90", "fdatasync:error=EIO:when=9..20"])
def test_calls_may_fail_for_a_while(tmp_path: Path, inject: str) -> None:
    """A disk may be full or fail for a time, and then work again."""
    need_strace()
    faults = Faults(tmp_path)
    faults.one(inject)
    assert not faults.failures, "\n".join(faults.failures)
    assert sum(faults.told.values()) > 1


@pytest.mark.parametrize("inject", ["pwrite64:error=EIO:when=75+", "fdatasync:error=EIO:when=9+"])
@pytest.mark.thorough
def test_a_disk_that_stays_broken_keeps_nobody_waiting(tmp_path: Path, inject: str) -> None:
    """Each publish gets an error, and the program can end; what was accepted before is there when the disk works again."""
    need_strace()
    faults = Faults(tmp_path)
    place, done = faults.run(inject, "broken")
    assert done.returncode == 1, done.stderr
    assert "has failed 50 times" in done.stderr
    faults.check_errors(place)
    history = History.from_jsonl(place / "history")
    promised = {record.id for record in history.records if type(record).__name__ == "Accepted"}
    assert integrity(place / "bus.db") == "ok"
    with closing(sqlite3.connect(place / "bus.db")) as file:
        assert promised <= {id for (id,) in file.execute("SELECT id FROM message")}


def test_a_full_disk_is_told_and_goes_on_when_there_is_room(path: Path) -> None:
    """The message that does not fit is refused, others of its transaction are not, and then publishing continues."""
    got: list[Any] = []
    bus = bus_on(path, got)
    with bus:
        execute = engine_of(bus).transport.file.commits.store.execute
        execute(f"PRAGMA max_page_count = {execute('PRAGMA page_count').fetchone()[0] + 40}")
        for number in range(10):
            bus.publish("a", number)
            with pytest.raises(TransportError, match=rf"{path}: database or disk is full: make room on the disk"):
                bus.publish("a", "x" * 400_000)
        execute("PRAGMA max_page_count = 1000000")
        bus.publish("a", "after")
        bus.drain(timeout=20)
    assert got == [*range(10), "after"]
    assert integrity(path) == "ok"


# --- others who use the file ---------------------------------------------------------------------------------------------


def test_a_reader_with_an_old_view_stops_nobody(path: Path) -> None:
    """
    While another program reads for a long time, the log grows and publishing continues; when it has ended, the log is reused.
    """
    log = Path(f"{path}-wal")
    body = "x" * 4_000_000
    with bus_on(path) as bus:
        bus.publish("a", 0)
        bus.drain(timeout=20)
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            seen = reader.execute("SELECT count(*) FROM message").fetchone()
            for _ in range(18):
                bus.publish("a", body)
            bus.drain(timeout=30)
            assert reader.execute("SELECT count(*) FROM message").fetchone() == seen
            grown = log.stat().st_size
            reader.execute("COMMIT")
        assert grown > 72_000_000
        deadline = time.monotonic() + 30
        while log.stat().st_size > 2**26 and time.monotonic() < deadline:
            bus.publish("a", body)
        assert log.stat().st_size <= 2**26
        bus.drain(timeout=30)
        assert bus.stats()["subscriptions"][S]["pending"] == 0
    assert integrity(path) == "ok"


def test_a_program_that_holds_the_file_is_waited_for_and_told_of(path: Path) -> None:
    """After `wait`, the publish says which program is in the way; then it continues, and nothing is lost."""
    got: list[Any] = []
    with bus_on(path, got, "?wait=1s") as bus, closing(sqlite3.connect(path, isolation_level=None)) as other:
        bus.publish("a", 1)
        bus.drain(timeout=20)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransportError, match=rf"{path}: .*another program"):
            bus.publish("a", 2)
        other.execute("COMMIT")
        bus.publish("a", 3)
        bus.drain(timeout=20)
    assert got == [1, 3]


def test_a_program_that_holds_the_file_for_a_moment_is_waited_for(path: Path) -> None:
    """A wait shorter than `wait` is not noticed."""
    got: list[Any] = []
    with bus_on(path, got) as bus, closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        release = threading.Timer(0.3, other.execute, ["COMMIT"])
        release.start()
        bus.publish("a", 1)
        release.join()
        bus.drain(timeout=20)
    assert got == [1]


# --- files that are refused ----------------------------------------------------------------------------------------------


def newer(path: Path) -> None:
    made(path, 1)
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 99")


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA application_id = 12")


def own(path: Path) -> None:
    """The application's migrations ran before its first bus."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE invoice (number INTEGER)")


def clashing(path: Path) -> None:
    own(path)
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE Message (id INTEGER)")
        file.execute("CREATE INDEX dead_of ON invoice (number)")


def with_a_version(path: Path) -> None:
    own(path)
    with closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA user_version = 1")


def with_a_log(make: Any) -> Any:
    """The same file as a killed program leaves it: its newest writes are in the log next to the file."""

    def make_with_a_log(path: Path) -> None:
        make(path)
        with closing(sqlite3.connect(path)) as file:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("CREATE TABLE late (number INTEGER)")
            left = files(path.parent)
        for name, data in left.items():
            (path.parent / name).write_bytes(data)
        assert left[f"{path.name}-wal"]

    make_with_a_log.__name__ = f"{make.__name__}_with_a_log"
    return make_with_a_log


def text(path: Path) -> None:
    path.write_text("a letter to a friend\n" * 400)


def short_text(path: Path) -> None:
    path.write_text("hi")


def folder(path: Path) -> None:
    path.mkdir()


NEWER = f"is of version 99, this pipebus reads up to {len(schema.STEPS)}: update pipebus; nothing was changed"
FOREIGN = "is another program's database .*0xc.*; choose another file"
REFUSED = {
    newer: NEWER,
    with_a_log(newer): NEWER,
    foreign: FOREIGN,
    with_a_log(foreign): FOREIGN,
    clashing: "not a bus's file yet and has Message, dead_of, names that .* need; rename them, or choose another file",
    with_a_version: "not a bus's file yet and has user_version 1, .*; set it to 0, or choose another file",
    text: "file is not a database: it is damaged or no SQLite file; restore it from a backup, or choose another file",
    short_text: "file is not a database: it is damaged or no SQLite file; restore it from a backup, or choose another file",
    folder: "(is a folder|unable to open database file: look whether)",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_what_is_no_file_of_ours_is_refused_and_not_changed(path: Path, make: Any) -> None:
    """The bus writes nothing into another program's data, or into a file that a newer pipebus has made."""
    make(path)
    before = files(path.parent)
    for _ in range(2):
        with pytest.raises(TransportError, match=f"{path} .*{REFUSED[make]}"):
            bus_on(path).start()
    after = files(path.parent)
    after.pop("bus.db-shm", None)  # looking at a log needs this index of it
    before.pop("bus.db-shm", None)
    if "bus.db-wal" not in before:
        assert not after.pop("bus.db-wal", b"")
    assert after == before


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A mistyped path creates no folder, and the error says to make it first."""
    path = tmp_path / "nowhere" / "bus.db"
    bus = bus_on(path)
    with pytest.raises(TransportError, match=f"{path}: there is no folder {path.parent}; make it first"):
        bus.start()
    assert not path.parent.exists()
    path.parent.mkdir()
    with bus:
        assert bus.publish("a", 1)


@pytest.mark.parametrize("make", [Path.touch, own, with_a_log(own)], ids=["empty", "own tables", "own tables in the log"])
def test_a_bus_makes_its_tables_in_the_applications_file(path: Path, make: Callable[[Path], object]) -> None:
    """An empty file (`touch`, or a killed first start) or one with tables of the application alone becomes a bus's file."""
    make(path)
    for number in (1, 2):
        with bus_on(path) as bus:
            assert bus.publish("a", number)
    with closing(sqlite3.connect(path)) as file:
        names = {name for (name,) in file.execute("SELECT name FROM sqlite_schema")}
    assert "subscription" in names
    assert ("invoice" in names) == (make is not Path.touch)


def tell_or_work(bus: Bus, path: Path) -> str:
    """Use a file that may be damaged, and return the error."""
    with captured_logs() as logs:
        try:
            with bus:
                bus.publish("a", 1)
                for _ in range(300):
                    with suppress(DrainTimeout):
                        bus.drain(timeout=0.1)
                        return "worked"
                    if any(log["event"] == "store.failed" and log["path"] == str(path) for log in logs):
                        return "warned"  # what is damaged is what claims need
        except TransportError as error:
            return "told" if str(path) in str(error) and "it is damaged" in str(error) else f"not clear: {error}"
    return f"neither: {bus.stats()}, {logs}"


@pytest.mark.thorough
def test_a_damaged_page_is_told(path: Path) -> None:
    """A damaged page is an error that names the file and says what to do, or a page that is not needed."""
    made(path, *range(40))
    whole = path.read_bytes()
    told = Counter[str]()
    for page in range(0, len(whole), 4096):
        start = page + 100 if page == 0 else page
        copy = path.with_name(f"{page}.db")  # a file of its own, which nothing else has open
        copy.write_bytes(whole[:start] + b"\xa5" * (page + 4096 - start) + whole[page + 4096 :])
        told[tell_or_work(bus_on(copy), copy)] += 1
    assert told.keys() <= {"told", "warned", "worked"}
    assert told["told"] >= 5, told


@pytest.mark.parametrize("left", [50, 100, 4096, 8192, 0.5])
def test_a_file_that_was_cut_is_told(path: Path, left: float) -> None:
    """A copy that broke off is refused."""
    made(path, *range(40))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left if left >= 1 else left * len(whole))])
    with pytest.raises(TransportError, match=rf"{path} cannot be opened: .*it is damaged"):
        bus_on(path).start()


# --- rights ----------------------------------------------------------------------------------------------------------------

TRY = """
import sys
from pipebus import Bus
from pipebus.errors import TransportError
bus = Bus("sqlite:///" + sys.argv[1])
bus.subscribe("a", print, name="s")
try:
    with bus:
        bus.publish("a", 1)
except TransportError as error:
    print(error)
    raise SystemExit(3)
"""


@pytest.fixture
def obeying() -> list[str]:
    """The command that runs a program with only the rights that a file's mode gives."""
    if os.geteuid():
        return []
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # root may write everywhere
    if shutil.which("setpriv") is None or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        missing("root may write everywhere, and `setpriv` is not there to give that up")
    return command


def tried(obeying: list[str], path: Path) -> tuple[int, str]:
    done = subprocess.run(
        [*obeying, sys.executable, "-c", TRY, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode in (0, 3), done.stderr
    return done.returncode, done.stdout


def test_a_folder_without_the_right_to_write_is_told(path: Path, obeying: list[str]) -> None:
    """The bus cannot create its lock file there, and the error says so."""
    path.parent.chmod(0o555)
    try:
        code, said = tried(obeying, path)
    finally:
        path.parent.chmod(0o755)
    assert code == 3
    assert said.startswith(f"{path}-lock cannot be opened: Permission denied; look whether")
    assert tried(obeying, path)[0] == 0


@pytest.mark.parametrize("which", ["bus.db", "bus.db-lock"])
def test_a_file_without_the_right_to_write_is_told(path: Path, obeying: list[str], which: str) -> None:
    """Such a file is not silently opened for reading only."""
    made(path, 1)
    before = path.read_bytes()
    file = path.parent / which
    file.chmod(0o444)
    code, said = tried(obeying, path)
    assert code == 3
    assert str(path) in said
    assert "this user" in said
    assert path.read_bytes() == before
    for one in path.parent.iterdir():
        one.chmod(0o644)
    assert tried(obeying, path)[0] == 0
    assert integrity(path) == "ok"

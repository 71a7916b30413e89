"""The rules of a store: what each statement visits, keys by parking, sweeping, dead letters, older messages, older files."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from flow_helpers import wait_until
from pipebus import Bus, Message
from pipebus.bus.bus import engine_of
from pipebus.errors import TransportError
from pipebus.message.codec import JsonCodec
from pipebus.outcomes.dead_letters import DeadLetter
from pipebus.testing import captured_logs
from pipebus.transports.base import Verdict
from pipebus.transports.sql import deliveries, owners, publishing, retention, statements, subscriptions
from pipebus.transports.sql.records import Claim, Life, Outgoing, Settlement
from pipebus.transports.sql.store import Directory, Store
from pipebus.transports.sqlite import boot, connections, schema
from pipebus.transports.sqlite.commits import Job

MANY = 20_000
WAIT = 20.0


class File:
    """A store in a file of its own, with a clock that only moves when it is moved."""

    def __init__(self, path: Path, **limits: Any) -> None:
        path.touch()
        self.time = 1000.0
        self.connection = connections.open_file(str(path), 1.0)
        given = {"window": 10.0, "retention": 0.0, "letters": 100, **limits}
        self.store = Store(self.connection, Directory(), lambda: self.time, **given)
        self.connection.execute("BEGIN")  # all of a test is one transaction, since syncs are slow
        self.sub = self.subscribe("s", ">")

    def subscribe(self, name: str, pattern: str, start: str = "new") -> int:
        return subscriptions.subscribe(self.store, name, [pattern], start, None)

    def publish(self, count: int, key: Callable[[int], str | None] = lambda number: None) -> None:
        first = self.store.last()
        for low in range(first, first + count, 1000):
            numbers = range(low, min(low + 1000, first + count))
            publishing.publish(self.store, [Outgoing(f"m{n}", "a", key(n), b"x" * 200, 0.0) for n in numbers])

    def claim(self, limit: int, sub: int | None = None) -> list[Claim]:
        sub = self.sub if sub is None else sub
        return [Claim(None, 0, sub, 1, found) for found in deliveries.claim(self.store, sub, 1, limit, None)]

    def settle(self, claims: Sequence[Claim], verdict: Verdict = "acknowledge", delay: float = 0.0, why: Any = "") -> None:
        deliveries.settle(self.store, [Settlement(claim, verdict, delay, why) for claim in claims])

    def count(self, table: str) -> int:
        return int(self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    def steps(self, call: Callable[[], object]) -> int:
        """How many hundreds of steps SQLite takes for this."""
        taken = 0

        def one() -> None:
            nonlocal taken
            taken += 1

        self.connection.set_progress_handler(one, 100)
        call()
        self.connection.set_progress_handler(None, 0)
        return taken


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    file = File(tmp_path / "bus.db")
    yield file
    file.connection.close()


# --- what a statement visits ---------------------------------------------------------------------------------------------

VISITS_ALL = {
    "PATTERNS": "all subscriptions, after one of them has changed",
    "DURABLE": "all subscriptions, for a list of them",
    "OWNED": "all subscriptions, when a process has ended",
    "PAUSED": "the values of the file, for a list of the subscriptions",
    "OWNERS": "all processes",
    "OWNERS_WITH_DELIVERIES": "all processes, and all that they hold",
    "END_LEASES": "all processes, in a copy",
    "END_OWNED": "what all processes hold, when one of them has ended",
    "SLOTS": "all schedules, for a list of them",
    "LETTERS": "all dead letters, for a list of them",
    "MESSAGES_BACKWARDS": "the messages since the last one that matches",
}
TABLES = {"table": "ready", "marks": "?,?", "where": ""}


def every_statement() -> Iterator[tuple[str, str]]:
    for name, found in vars(statements).items():
        if name.isupper():
            for text in found.values() if isinstance(found, dict) else [found]:
                yield name, text.format(**TABLES)


def plan(connection: sqlite3.Connection, text: str) -> list[str]:
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", (None,) * text.count("?"))]


def test_no_statement_visits_rows_that_it_does_not_return(file: File) -> None:
    """Each one finds its rows by an index, or walks along one up to a limit; those that visit more are named above."""
    scans = set()
    for name, text in every_statement():
        lines = plan(file.connection, text)
        walks = any(line.startswith("SCAN") and line != "SCAN CONSTANT ROW" for line in lines)
        if (walks and "LIMIT" not in text) or any("TEMP B-TREE" in line for line in lines):
            scans.add(name)
    assert scans == VISITS_ALL.keys()


def test_a_statement_without_its_index_is_noticed(file: File) -> None:
    file.connection.execute("DROP INDEX later_of")
    assert any(line.startswith("SCAN later") for line in plan(file.connection, statements.WAITED.format(table="later")))


# --- keys ----------------------------------------------------------------------------------------------------------------


def test_a_backlog_of_one_key_costs_each_step_the_same(tmp_path: Path) -> None:
    """A claim, an acknowledgement and a publish take as many steps with twenty thousand waiting as with twenty."""
    taken = []
    for backlog in (20, MANY):
        file = File(tmp_path / f"{backlog}.db")
        file.publish(backlog, lambda n: "hot")

        def step(file: File = file) -> None:
            file.settle(file.claim(10))
            file.publish(1, lambda n: "hot")

        step()
        taken.append(file.steps(step))
        file.connection.close()
    assert taken[1] <= 2 * taken[0] + 2


@pytest.mark.parametrize("seed", range(20))
def test_one_message_of_a_key_is_out_at_a_time(file: File, seed: int) -> None:
    """Random publishes, claims, settlements, delays and deaths of the owner: per key in order, nothing lost, nothing twice."""
    chance = random.Random(seed)
    out: list[Claim] = []
    done: dict[str | None, list[int]] = {}
    for _ in range(300):
        match chance.choice(["publish", "claim", "acknowledge", "return", "release", "later", "drop", "die", "time"]):
            case "publish":
                file.publish(chance.randint(1, 5), lambda n: chance.choice([None, "a", "b"]))
            case "claim":
                out += file.claim(chance.randint(1, 4))
            case "die":
                file.store.execute("INSERT OR IGNORE INTO owner VALUES (1, '', '', 0, '', 0, 2)")
                owners.leave(file.store, 1, counts=True)
                out.clear()
            case "time":
                file.time += 1.0
                deliveries.wake(file.store)
            case verdict if out:
                claim = out.pop(chance.randrange(len(out)))
                if verdict in ("acknowledge", "drop"):
                    done.setdefault(claim.key, []).append(claim.seq)
                name: Any = "return" if verdict == "later" else verdict
                file.settle([claim], name, 2.0 if verdict == "later" else 0.0)
        keys = [claim.key for claim in out if claim.key is not None]
        assert len(keys) == len(set(keys))
    file.time += 10.0
    deliveries.wake(file.store)
    while claims := [*out, *file.claim(100)]:
        for claim in claims:
            done.setdefault(claim.key, []).append(claim.seq)
        file.settle(claims)
        out.clear()
    assert sorted(seq for seqs in done.values() for seq in seqs) == list(range(1, file.store.last() + 1))
    assert all(seqs == sorted(seqs) for key, seqs in done.items() if key is not None)
    assert [file.count(table) for table in ("ready", "parked", "later", "claimed", "head")] == [0] * 5


# --- sweeping ------------------------------------------------------------------------------------------------------------


def swept(file: File) -> None:
    while retention.sweep(file.store):
        pass


@pytest.mark.thorough
def test_messages_go_beside_a_backlog_that_nobody_serves(file: File) -> None:
    """What one subscription has settled goes, and a sweep takes no longer for what another one leaves waiting."""
    other = file.subscribe("other", "b")
    publishing.publish(file.store, [Outgoing(f"b{n}", "b", None, b"", 0.0) for n in range(MANY)])
    file.settle(file.claim(MANY))
    file.time += 100.0
    swept(file)
    assert file.count("message") == MANY
    file.publish(2000)
    file.settle(file.claim(2000))
    file.time += 100.0
    taken = file.steps(lambda: swept(file))
    assert file.count("message") == MANY
    assert taken < 100 + 20 * 2000 // 100  # twenty steps a message, and none for those that wait
    file.settle(file.claim(MANY, other))
    swept(file)
    assert (file.count("message"), file.count("loose")) == (0, 0)


def test_a_message_goes_when_the_last_of_its_deliveries_has_ended(file: File) -> None:
    """However it ends: acknowledged, dropped, dead, or with its subscription."""
    subs = [file.sub, *(file.subscribe(f"s{n}", ">") for n in range(3))]
    file.publish(4)
    file.time += 100.0
    swept(file)
    letter = DeadLetter("d1", Message("a"), "s", None, "", "", "", 1, 0.0, 0.0)
    file.settle(file.claim(9))
    file.settle(file.claim(9, subs[1]), "drop")
    for number, claim in enumerate(file.claim(9, subs[2])):
        file.settle([claim], "dead", why=replace(letter, id=f"d{number}"))
    swept(file)
    assert file.count("message") == 4
    subscriptions.remove(file.store, subs[3])
    swept(file)
    assert file.count("message") == 0


@pytest.mark.thorough
def test_a_file_gives_back_what_it_no_longer_needs(file: File, tmp_path: Path) -> None:
    file.publish(MANY * 2)
    size = file.store.last() * 200
    file.settle(file.claim(MANY * 2))
    file.time += 100.0
    swept(file)
    while connections.give_back(file.connection):
        pass
    file.connection.execute("COMMIT")
    file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert os.path.getsize(tmp_path / "bus.db") < size // 2 + connections.UNUSED


# --- dead letters --------------------------------------------------------------------------------------------------------


def test_a_dead_letter_costs_the_same_however_many_are_kept(tmp_path: Path) -> None:
    taken = []
    for kept in (20, 5000):
        file = File(tmp_path / f"{kept}.db", letters=kept)
        letter = DeadLetter("", Message("a"), "s", None, "", "", "", 1, 0.0, 0.0)
        file.publish(kept + 2)
        claims = file.claim(kept + 2)
        for number, claim in enumerate(claims[:-1]):
            file.settle([claim], "dead", why=replace(letter, id=f"d{number}"))
        taken.append(file.steps(partial(file.settle, claims[-1:], "dead", why=replace(letter, id="last"))))
        assert (file.count("dead"), file.store.meta("letters")) == (kept, kept)
        assert file.connection.execute("SELECT reason, count FROM dropped").fetchall() == [("evicted", 2)]
        file.connection.close()
    assert taken[1] <= 2 * taken[0] + 2


# --- older messages ------------------------------------------------------------------------------------------------------


def test_older_messages_come_in_steps_and_newer_ones_after_them(file: File) -> None:
    """Making the subscription takes the same however much is stored, and a publish meanwhile overtakes nothing."""
    file.publish(5000)
    made: list[int] = []
    assert file.steps(lambda: made.append(file.subscribe("late", ">", "all"))) <= 5
    [late] = made
    assert subscriptions.position(file.store, late) == 0
    seqs: list[int] = []
    while len(seqs) < 5300:
        if len(seqs) % 2000 == 0:
            more = subscriptions.fill(file.store, late)
            assert more == (len(seqs) < 4000)
            file.publish(100)
        seqs += [claim.seq for claim in file.claim(1000, late)]
    assert seqs == list(range(1, 5301))
    assert subscriptions.position(file.store, late) == file.store.last() == 5300
    file.publish(1)
    assert [claim.seq for claim in file.claim(9, late)] == [5301]


def test_what_a_subscription_is_still_to_get_is_not_swept(file: File) -> None:
    late = file.subscribe("late", "a", "all")
    file.publish(10)
    file.settle(file.claim(10))
    file.time += 100.0
    swept(file)
    assert file.count("message") == 10
    subscriptions.fill(file.store, late)
    file.settle(file.claim(10, late))
    swept(file)
    assert file.count("message") == 0


@pytest.mark.thorough
def test_a_subscription_removed_while_it_is_filled_gets_all_the_same(tmp_path: Path) -> None:
    """Its row is deleted by somebody after its first step; the bus makes it again behind what it had."""
    path = tmp_path / "bus.db"
    with Bus(f"sqlite:///{path}") as first:
        for number in range(4500):
            wire = JsonCodec().encode(Message("a", number))
            engine_of(first).transport.file.writer.leave([Job(Outgoing(f"m{number}", "a", None, wire, 0.0), True)])
    got: list[int] = []
    half, go_on = threading.Event(), threading.Event()

    def handle(message: Message[int]) -> None:
        got.append(message.body)
        if len(got) == 100:
            half.set()
            assert go_on.wait(WAIT)

    bus = Bus(f"sqlite:///{path}?retention=1h")
    bus.subscribe("a", handle, name="late", deliver="all")
    with bus:
        assert half.wait(WAIT)
        with closing(sqlite3.connect(path)) as other:
            other.execute("DELETE FROM subscription WHERE name = 'late'")
            other.commit()
        go_on.set()
        wait_until(lambda: len(got) == 4500, "the rest")
        bus.drain(timeout=WAIT)
        assert got == list(range(4500))


# --- older files ---------------------------------------------------------------------------------------------------------


def make_first_version(path: Path, life: Life | None = None, left: float = 60.0) -> None:
    """A file as version 0.10 left it: a head that is claimed, one that waits for a retry, and their followers."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            schema.STEPS[0]
            + f"PRAGMA application_id = {schema.APPLICATION}; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;"
        )
        base = 1.0e9 - boot.since_boot()
        connection.execute("INSERT INTO meta VALUES ('boot', ?), ('base', ?)", (boot.boot_id(), base))
        connection.execute("UPDATE meta SET value = 7 WHERE name = 'seq'")
        connection.execute("INSERT INTO subscription (name, patterns, accepted) VALUES ('s', '[\"a\"]', 7)")
        keys = [None, "claimed", "claimed", "retried", "retried", "new", "new"]
        for seq, key in enumerate(keys, 1):
            wire = JsonCodec().encode(Message("a", seq, key=key))
            connection.execute(
                "INSERT INTO message (seq, id, subject, key, stored, data) VALUES (?, ?, 'a', ?, 1e9, ?)",
                (seq, f"m{seq}", key, wire),
            )
            if seq not in (2, 4):
                connection.execute("INSERT INTO ready (sub, seq, takings, key) VALUES (1, ?, 0, ?)", (seq, key))
        connection.execute("INSERT INTO claimed VALUES (1, 2, 0, 'claimed', 0, 1)")
        connection.execute("INSERT INTO later VALUES (1e9, 1, 4, 1, 'retried')")
        if life is not None:
            connection.execute("INSERT INTO owner VALUES (1, ?, ?, ?, ?, ?)", (*life, boot.since_boot() + base + left))
        connection.commit()


def test_a_file_of_the_first_version_goes_on_with_its_keys_in_order(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    make_first_version(path)
    got: list[int] = []
    bus = Bus(f"sqlite:///{path}")
    bus.subscribe("a", lambda message: got.append(message.body), name="s", workers=4)
    with bus:
        bus.publish("a", 8, key="new")
        bus.drain(timeout=WAIT)
        figures = bus.stats()["subscriptions"]["s"]
    assert sorted(got) == list(range(1, 9))
    assert [[n for n in got if n in pair] for pair in ((2, 3), (4, 5), (6, 7, 8))] == [[2, 3], [4, 5], [6, 7, 8]]
    assert (figures["accepted"], figures["acknowledged"], figures["in_flight"]) == (8, 8, 0)


@pytest.mark.parametrize("call", [Bus.start, lambda bus: bus.dead_letters.list()], ids=["start", "look"])
def test_a_file_that_an_older_process_uses_is_refused_as_it_is(tmp_path: Path, call: Callable[[Bus], object]) -> None:
    path = tmp_path / "bus.db"
    make_first_version(path, boot.me())
    with pytest.raises(TransportError, match=rf"version 1, and this pipebus .*({os.getpid()}.*stop them|start its bus)"):
        call(Bus(f"sqlite:///{path}"))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


def test_an_older_process_that_slept_through_it_writes_nothing(tmp_path: Path) -> None:
    """Its publishes and its next lease are refused by the tables, so that it tells its user."""
    path = tmp_path / "bus.db"
    make_first_version(path)
    with Bus(f"sqlite:///{path}"), closing(sqlite3.connect(path)) as old:
        for text in (
            "INSERT INTO ready (sub, seq, takings, key) SELECT 1, seq, 0, key FROM message",
            "INSERT INTO owner (boot, space, pid, born, until) VALUES ('', '', 1, '', 0)",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
                old.execute(text)


# --- a reader that stays -------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_long_reader_is_named_and_the_log_is_bounded(tmp_path: Path) -> None:
    """The warning has its process id; beyond `max_bytes` publishing is refused until it has ended its transaction."""
    path = tmp_path / "bus.db"
    bus = Bus(f"sqlite:///{path}?max_bytes=80MiB&window=0")
    with captured_logs() as logged, bus:
        bus.publish("a", "first")
        reader = subprocess.Popen([sys.executable, "-c", READS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reads\n"
        with pytest.raises(TransportError, match=f"log has .* process {reader.pid} reads an old state"):
            publish_until_refused(bus)
        wait_until(lambda: any(one["event"] == "store.log_held" for one in logged), "a warning")
        [held] = [one for one in logged if one["event"] == "store.log_held"][:1]
        assert held["readers"] == [reader.pid]
        assert held["bytes"] > connections.LOG
        assert f"process {reader.pid} reads an old state" in "; ".join(bus.health().reasons)
        reader.communicate(b"end\n")
        wait_until(lambda: _accepts(bus), "room in the log")
        wait_until(lambda: bus.health().reasons == (), "nobody holds it")


READS = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1]); c.execute("BEGIN"); c.execute("SELECT count(*) FROM message").fetchone()
print("reads", flush=True); sys.stdin.readline()
"""


def publish_until_refused(bus: Bus) -> None:
    for _ in range(200):
        bus.publish("a", "x" * 2**20)


def _accepts(bus: Bus) -> bool:
    try:
        bus.publish("a", "again")
    except TransportError:
        return False
    return True

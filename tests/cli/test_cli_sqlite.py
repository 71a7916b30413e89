"""`doctor`, `dead`, `tail`, `publish` and `run` on a SQLite file, most of them while another process uses it."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import ENV, PATIENCE, Live, Shop, assert_said_well, jsonl, many, run, subscription

from pipebus import Bus
from pipebus.transports.sqlite import boot, health, schema
from pipebus.transports.sqlite.options import Options

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the SQLite transport needs Linux")

URL = "sqlite:///bus.db"
ALLOW = ("--allow", "shop")
TRANSPORT = f'[bus]\ntransport = "{URL}"\n'
PROGRAM = [sys.executable]

SERVE = """
import sys
from pathlib import Path
from pipebus import Bus

bus = Bus(sys.argv[1])


@bus.on("orders.>", name="orders")
def orders(message):
    if message.body == "bad" and not Path("mended").exists():
        raise ValueError("no use for bad")
    print("handled", message.body, flush=True)
    return {"got": message.body}


with bus:
    print("up", flush=True)
    sys.stdin.read()
"""
"""A program that serves a file until its stdin is closed."""

MANY = """
import sys
from pipebus import Bus

with Bus(sys.argv[1]) as bus:
    for number in range(int(sys.argv[3])):
        bus.publish(f"orders.{sys.argv[2]}", number)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    made.write("serve.py", SERVE)
    made.write("many.py", MANY)
    return made


@contextmanager
def served(shop: Shop, url: str = URL) -> Iterator[Live]:
    """Another process, with a bus on the file, ready."""
    with shop.live("serve.py", url, program=PROGRAM) as live:
        assert live.process.stdout.readline() == "up\n", live.err.text
        yield live


def ended(live: Live) -> None:
    live.close_in()
    assert live.wait() == 0, live.err.text


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def done_well(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def until(look: Callable[[], Any]) -> Any:
    """Call it until it returns something, and return that."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    """What is after the lines about this installation: about -> (level, text)."""
    lines = lines_of(done.stdout)
    first = next(number for number, one in enumerate(lines) if one["about"].startswith("transport "))
    return {one["about"]: (one["level"], one["text"]) for one in lines[first:]}


def letters(shop: Shop, *options: str) -> list[dict[str, Any]]:
    return lines_of(done_well(shop.run("dead", "list", URL, "--json", *options)))


def state(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# The files that no command takes, by name: what makes them.


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA application_id = 12")


def newer(path: Path) -> None:
    used(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(schema.STEPS) + 1}")


def used(path: Path) -> None:
    """A file that a bus has used, and left."""
    with Bus(f"sqlite:///{path}"):
        pass


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "bus.db: no such file"),
    "foreign": (foreign, "bus.db is another program's database (application id 0xc)"),
    "newer": (
        newer,
        f"bus.db is of version {len(schema.STEPS) + 1}, this pipebus reads up to {len(schema.STEPS)}: update pipebus",
    ),
    "empty": (lambda path: path.write_bytes(b""), "bus.db holds no bus: none has used it yet"),
    "text": (lambda path: path.write_text("hello, world\n" * 100), "bus.db cannot be read: file is not a database"),
    "folder": (lambda path: path.mkdir(), "bus.db is not a file"),
}


class TestRefusals:
    """A command refuses a mistyped path, and another program's file."""

    @pytest.mark.parametrize("kind", REFUSED)
    def test_no_command_makes_or_changes_anything(self, shop: Shop, kind: str) -> None:
        """The error is one line with exit code 2; `doctor` reports it as a finding, and a missing file is a hint."""
        make, text = REFUSED[kind]
        make(shop.folder / "bus.db")
        before = state(shop.folder)
        argvs = [["tail", URL], ["dead", "list", URL], ["dead", "replay", "--all", URL], ["doctor", URL, "--json"]]
        if kind not in ("missing", "empty"):
            argvs.insert(0, ["publish", URL, "a.b"])
        *refused, examined = many(*argvs, cwd=shop.folder)
        for done in refused:
            assert_said_well(done, 2, f"pipebus {done.args[0]}: ", text)
        level, said = findings(examined)["file"]
        assert "bus.db" in said
        assert level == ("hint" if kind in ("missing", "empty") else "wrong")
        assert examined.returncode == (0 if level == "hint" else 1)
        assert state(shop.folder) == before

    def test_a_folder_that_is_not_there(self, shop: Shop) -> None:
        """No command creates a missing folder."""
        url = "sqlite:///no/bus.db"
        *refused, examined = many(["publish", url, "a.b"], ["tail", url], ["doctor", url, "--json"], cwd=shop.folder)
        for done in refused:
            assert_said_well(done, 2, f"{shop.folder}/no/bus.db: ")
        assert examined.returncode == 1
        assert findings(examined)["folder"][0] == "wrong"

    @pytest.mark.parametrize("command", ["tail", "dead list", "publish"])
    def test_other_urls(self, shop: Shop, command: str) -> None:
        """
        A bus in memory cannot be seen from another process, and the error says so; unknown options and schemes have errors too.
        """
        more = ["a.b"] if command == "publish" else []
        table = {
            "memory:": "memory: lives in one process",
            "sqlite:///bus.db?lease=fast": "lease",
            "sqlite://bus.db": '"bus.db" is where a host would be, and a file has none',
            "sqlite:": "names no file",
        }
        found = many(*([*command.split(), url, *more] for url in table), cwd=shop.folder)
        for done, text in zip(found, table.values(), strict=True):
            assert_said_well(done, 2, f"pipebus {done.args[0]}: ", text)

    def test_what_is_about_a_whole_bus_takes_no_url(self, shop: Shop) -> None:
        """The error says that a config file or a bus is needed."""
        shop.config(name="x")
        for done in many(["run", URL], ["explain", URL, "a"], ["graph", URL], ["diff", "x", URL], cwd=shop.folder):
            assert_said_well(done, 2, "is a transport's URL", "name a config file or MODULE:BUS")


class TestHelp:
    """`--help`"""

    def test_an_example_has_such_a_url(self) -> None:
        """The URL is in the examples of the help, not only in its text."""
        for done in many(*([command, "--help"] for command in ("doctor", "dead", "tail", "publish", "run"))):
            assert "sqlite:///bus.db" in done_well(done).partition("examples:")[2]


class TestDoctor:
    """`pipebus doctor sqlite:///bus.db`"""

    @pytest.mark.thorough
    def test_a_file_in_use(self, shop: Shop) -> None:
        """`doctor` shows what is in the file and who serves it, and changes nothing in it."""
        with served(shop) as live:
            assert shop.run("publish", URL, "orders.new", '"bad"', "--request").returncode == 1
            until(lambda: letters(shop))
            before = {name for name in os.listdir(shop.folder) if name.startswith("bus.db")}
            done = shop.run("doctor", URL, "--json")
            assert {name for name in os.listdir(shop.folder) if name.startswith("bus.db")} == before
            found = findings(done)
            ended(live)

        assert done.stderr == ""
        assert all(level != "wrong" for level, _ in found.values()), found
        assert found["subscription orders"] == ("ok", "0 pending, 0 in flight, 1 dead")
        level, text = found[f"process {live.process.pid}"]
        assert level == "ok"
        assert text.startswith("lives, 0 in flight; its lease has ")
        assert found["journal_mode"] == ("ok", "wal")
        assert found["integrity"] == ("ok", "quick_check: ok")
        assert found["version"] == ("ok", str(len(schema.STEPS)))
        assert found["log"][1].startswith(f"{shop.folder}/bus.db-wal has ")
        assert {"SQLite", "file system", "disk", "folder", "file", "size"} <= found.keys()

    @pytest.mark.thorough
    def test_a_file_that_nobody_uses_is_read_as_it_lies(self, shop: Shop) -> None:
        """`doctor` leaves no other file next to it."""
        with served(shop) as live:
            ended(live)
        before = state(shop.folder)
        done = shop.run("doctor", URL)

        assert done.returncode == 0, done.stdout
        assert "ok     journal_mode: wal\n" in done.stdout
        assert "ok     processes: none has the file open as a bus\n" in done.stdout
        assert state(shop.folder) == before

    @pytest.mark.thorough
    def test_what_waits_for_nobody_and_who_was_killed(self, shop: Shop) -> None:
        """Hints show messages that wait while nobody serves them, and what a killed process had in hand."""
        gate = shop.folder / "gate"
        os.mkfifo(gate)
        shop.config(TRANSPORT, subscription("orders", "orders.>", "held"))
        env = ENV | {"GATE": str(gate)}
        with shop.live("run", "bus.toml", *ALLOW, notes=True, env=env) as live:
            live.err.wait_for(1)
            done_well(shop.run("publish", URL, "orders.new", "1"))
            assert live.notes.readline() == "begun 1\n"
            done_well(shop.run("publish", URL, "orders.new", "2"))
            at_work = findings(shop.run("doctor", URL, "--json"))
            live.process.kill()
            live.process.wait()
            killed = findings(shop.run("doctor", URL, "--json"))

        assert at_work["subscription orders"][0] == "ok"
        about = f"process {live.process.pid}"
        assert at_work[about][0] == "ok"
        assert killed[about][0] == "hint"
        assert killed[about][1].startswith("has died, ")
        level, text = killed["subscription orders"]
        assert level == "hint"
        assert text.endswith("; no living process serves the file: start one")

    def test_settings_that_endanger_what_is_promised(self, shop: Shop) -> None:
        """Each such setting gives a hint, and the defaults give none."""
        used(shop.folder / "bus.db")
        urls = (f"{URL}?durability=process&window=0&lease=2s", URL)
        risky, plain = map(findings, many(*(["doctor", url, "--json"] for url in urls), cwd=shop.folder))

        assert {name: risky[name][0] for name in ("durability", "window", "lease")} == dict.fromkeys(
            ("durability", "window", "lease"), "hint"
        )
        assert not {"durability", "window", "lease"} & plain.keys()

    @pytest.mark.thorough
    def test_a_config_file_with_this_transport(self, shop: Shop) -> None:
        """`doctor` checks the URL in the same way, wherever it comes from."""
        used(shop.folder / "bus.db")
        shop.config('[bus]\ntransport = "${env:WHERE}"\n', subscription("orders", "orders.>", "ok"))
        done = shop.run("doctor", "bus.toml", *ALLOW, env=ENV | {"WHERE": URL})

        assert done.returncode == 0, done.stdout
        assert "ok     bus.toml: loads: 1 subscription\n" in done.stdout
        assert "ok     integrity: quick_check: ok\n" in done.stdout

    def test_a_damaged_file(self, shop: Shop) -> None:
        """The exit code is 1, and the finding says what to do."""
        path = shop.folder / "bus.db"
        with Bus(f"sqlite:///{path}") as bus:
            for number in range(200):
                bus.publish("orders.new", f"{number:0200}")
        with open(path, "r+b") as file:
            size = file.seek(0, 2)
            for page in range(8, size // 4096, 2):
                file.seek(page * 4096)
                file.write(b"\xaa" * 4096)
        done = shop.run("doctor", URL)

        assert done.returncode == 1
        wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong")]
        assert any("damaged" in line for line in wrong), done.stdout


class TestExamine:
    """The doctor's checks see what a test cannot make, such as a network drive or a full disk."""

    @pytest.fixture
    def options(self, tmp_path: Path) -> Options:
        used(tmp_path / "bus.db")
        return Options(str(tmp_path / "bus.db"))

    @staticmethod
    def about(options: Options) -> dict[str, health.Finding]:
        return {one.about: one for one in health.examine(options)}

    def test_the_mount_point_is_the_longest_that_fits(self) -> None:
        """Whole folder names are compared, the later of two mounts at one point counts, and escapes are read."""
        mounts = (
            "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
            "2 1 0:2 / /srv rw shared:1 - nfs4 server:/ rw\n"
            "3 2 0:3 / /srv/fast rw - xfs /dev/sdb rw\n"
            "4 1 0:4 / /with\\040space rw - cifs //server/share rw\n"
            "5 1 0:5 / /twice rw - ext4 /dev/sdc rw\n"
            "6 1 0:6 / /twice rw - tmpfs tmpfs rw\n"
            "broken line\n"
        )
        table = {
            "/": "ext4", "/home/me": "ext4", "/srv": "nfs4", "/srv/a/b": "nfs4", "/srv/fast": "xfs", "/srv/fast/x": "xfs",
            "/srv/faster": "nfs4", "/srvs": "ext4", "/with space/x": "cifs", "/twice/x": "tmpfs",
        }  # fmt: skip
        assert {path: health.file_system(path, mounts)[0] for path in table} == table
        assert health.file_system("/x", "") == ("unknown", "")

    @pytest.mark.parametrize(
        ("level", "kinds"),
        [
            ("ok", "ext4 xfs btrfs zfs"),
            ("hint", "tmpfs ramfs overlay fuse.mergerfs unknown"),
            ("wrong", "nfs nfs4 cifs smb3 smbfs fuse.sshfs 9p ceph glusterfs fuse.glusterfs lustre virtiofs"),
        ],
    )
    def test_file_systems(self, level: str, kinds: str) -> None:
        """The doctor distinguishes local disks, unknown or temporary ones, and those of a network."""
        assert {kind: health.place(kind, "/x").level for kind in kinds.split()} == dict.fromkeys(kinds.split(), level)

    def test_a_disk_that_fills(self, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
        """The doctor warns below 1 GiB, below 5 % and below 100 MiB."""

        def disk(free: int, total: int) -> str:
            vfs = os.statvfs_result((4096, 4096, total // 4096, 0, free // 4096, 0, 0, 0, 0, 255))
            monkeypatch.setattr(os, "statvfs", lambda path: vfs)
            return self.about(options)["disk"].level

        assert disk(500 * 2**30, 1000 * 2**30) == "ok"
        assert disk(2**30 - 4096, 10 * 2**30) == "hint"
        assert disk(49 * 2**30, 1000 * 2**30) == "hint"
        assert disk(100 * 2**20 - 4096, 10 * 2**30) == "wrong"

    def test_a_long_log_and_a_large_file(self, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
        """A long log is a hint, and a large file is not searched."""
        monkeypatch.setattr(health, "LONG_LOG", 1)
        monkeypatch.setattr(health, "LARGE", 1)
        with Bus(f"sqlite:///{options.path}"):
            found = self.about(options)

        assert found["log"].level == "hint"
        assert "not looked at" in found["integrity"].text

    def test_versions_of_sqlite(self, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
        """The doctor distinguishes versions that are too old, that have the bug, and that do not."""
        for version, level in ((3, 36, 0), "wrong"), ((3, 51, 2), "hint"), ((3, 51, 3), "ok"):
            monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
            assert self.about(options)["SQLite"].level == level

    def test_an_older_file_and_another_journal(self, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
        """The next bus repairs both, so they are hints."""
        with closing(sqlite3.connect(options.path)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
        monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, "-- nothing"))
        found = self.about(options)

        assert found["version"].level == "hint"
        assert found["journal_mode"].level == "hint"
        assert "subscriptions" not in found  # its tables may be others

    def test_what_may_not_be_written(self, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
        """The doctor reports a file or a folder that may not be written."""
        access = os.access
        for path, about in ((options.path, "file"), (os.path.dirname(options.path), "folder")):
            monkeypatch.setattr(os, "access", lambda one, how, path=path: one != path and access(one, how))
            assert self.about(options)[about].level == "wrong"

    def test_a_process_that_gives_no_sign_of_life(self, options: Options) -> None:
        """The process exists, and its lease has ended."""
        with closing(sqlite3.connect(options.path)) as connection:
            connection.execute(
                "INSERT INTO owner (boot, space, pid, born, until, version) VALUES (?, ?, ?, ?, 1, 2)", boot.me()
            )
            connection.commit()
        found = self.about(options)[f"process {os.getpid()}"]

        assert found.level == "hint"
        assert "no sign of life" in found.text


class TestTail:
    """`pipebus tail sqlite:///bus.db`"""

    def test_one_conversation(self, shop: Shop) -> None:
        """The message with the id and all that it has led to, and nothing of others."""
        bus = Bus(f"sqlite:///{shop.folder}/bus.db")

        @bus.on("orders.new", name="till")
        def till() -> None:
            bus.publish("orders.billed")

        with bus:
            for id in ("o-1", "o-2"):
                bus.publish("orders.new", id=id)
            bus.drain(60.0)

        seen = lines_of(done_well(shop.run("tail", URL, "--all", "--no-follow", "--conversation", "o-1")))
        assert [(one["subject"], one.get("causation_id")) for one in seen] == [("orders.new", None), ("orders.billed", "o-1")]

    @pytest.mark.thorough
    def test_what_several_processes_publish_in_the_order_of_the_file(self, shop: Shop) -> None:
        """Each message is shown once, even an older one, and no subscription is made."""
        with served(shop) as live:
            done_well(shop.run("publish", URL, "other.thing", "0"))
            done_well(shop.run("publish", URL, "orders.first", "0"))
            with shop.live("tail", URL, "orders.*", "--all", "--count", "201") as tail:
                out = tail.collect_out()
                with (
                    shop.live("many.py", URL, "a", "100", program=PROGRAM) as one,
                    shop.live("many.py", URL, "b", "100", program=PROGRAM) as two,
                ):
                    assert one.wait() == two.wait() == 0
                assert tail.wait() == 0, tail.err.text
            assert [name for name in findings(shop.run("doctor", URL, "--json")) if "subscription" in name] == [
                "subscription orders"
            ]
            ended(live)

        seen = lines_of(out.text)
        with closing(sqlite3.connect(shop.folder / "bus.db")) as connection:
            ids = [id for (id,) in connection.execute("SELECT id FROM message WHERE subject GLOB 'orders.*' ORDER BY seq")]
        assert [one["id"] for one in seen] == ids
        assert seen[0]["subject"] == "orders.first"
        for name in "ab":
            assert [one["body"] for one in seen if one["subject"] == f"orders.{name}"] == list(range(100))

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
    def test_from_now_on_until_a_signal(self, shop: Shop, number: signal.Signals) -> None:
        """`tail` does not show what was there before; Ctrl-C ends it, without a traceback."""
        with served(shop) as live:
            done_well(shop.run("publish", URL, "orders.new", '"old"'))
            with shop.live("tail", URL) as tail:
                out = tail.collect_out()

                def seen() -> bool:
                    done_well(shop.run("publish", URL, "orders.new", '"new"'))
                    return bool(out.lines)

                until(seen)
                tail.signal(number)
                assert tail.wait() == 0
            ended(live)

        assert tail.err.text == ""
        assert {one["body"] for one in lines_of(out.text)} == {"new"}

    def test_a_reader_that_closes_ends_it(self, shop: Shop) -> None:
        """`pipebus tail … | head -1`"""
        with served(shop) as live:
            many = shop.live("many.py", URL, "a", "5000", program=PROGRAM)
            with many:
                script = f'{{ "$0" -m pipebus tail {URL} --all; echo $? >&2; }} | head -1'
                done = run(program=["sh", "-c", script, sys.executable], cwd=shop.folder)
                many.process.kill()
            ended(live)

        assert json.loads(done.stdout)["body"] == 0
        assert done.stderr == "141\n"

    def test_a_config_file_with_this_transport(self, shop: Shop) -> None:
        """The command reads the file of the transport, and runs nothing."""
        shop.config(TRANSPORT, subscription("orders", "orders.>", "die"))
        with served(shop) as live:
            done_well(shop.run("publish", URL, "orders.new", "1"))
            assert live.process.stdout.readline() == "handled 1\n"
            seen = done_well(shop.run("tail", "bus.toml", "--all", "--count", "1", *ALLOW))
            ended(live)

        assert lines_of(seen)[0]["body"] == 1

    @pytest.mark.thorough
    def test_answers_and_what_cannot_be_read(self, shop: Shop) -> None:
        """`tail` shows answers only on request; for bytes that are not a message, it shows what is known."""
        with served(shop) as live:
            done_well(shop.run("publish", URL, "orders.new", "1", "--request"))
            with closing(sqlite3.connect(shop.folder / "bus.db")) as connection:
                connection.execute("UPDATE message SET data = x'00ff' WHERE subject = 'orders.new'")
                connection.commit()
            done_well(shop.run("publish", URL, "orders.newer", "2"))
            everything = done_well(shop.run("tail", URL, "--all", "--count", "2"))
            answers = done_well(shop.run("tail", URL, "_reply.>", "--all", "--count", "1"))
            ended(live)

        first, second = lines_of(everything)
        assert (first["subject"], first["body"]) == ("orders.new", None)
        assert "body_error" in first
        assert (second["subject"], second["body"]) == ("orders.newer", 2)
        assert lines_of(answers)[0]["body"] == {"got": 1}

    @pytest.mark.thorough
    def test_a_file_that_goes_away(self, shop: Shop) -> None:
        """`tail` does not wait forever for a file that nobody can reach any more."""
        used(shop.folder / "bus.db")
        done_well(shop.run("publish", URL, "orders.new", "1"))
        with shop.live("tail", URL, "--all") as tail:
            tail.collect_out().wait_for(1)
            (shop.folder / "bus.db").rename(shop.folder / "old.db")
            assert tail.wait() == 1

        assert "bus.db was removed or replaced by another file; start again" in tail.err.text

    def test_wrong_arguments(self, shop: Shop) -> None:
        """A wrong argument is refused in one line with exit code 2."""
        used(shop.folder / "bus.db")
        shop.config()
        argvs = [["tail", URL, "a..b"], ["tail", "bus.toml", "--all"], ["tail", URL, "--no-follow"]]
        pattern, everything, nothing = many(*argvs, cwd=shop.folder)
        assert_said_well(pattern, 2, '"a..b" has an empty token')
        assert_said_well(everything, 2, "--all is for a SQLite file")
        assert_said_well(nothing, 2, "--no-follow prints nothing without --all")


class TestDead:
    """`pipebus dead … sqlite:///bus.db`"""

    @pytest.mark.thorough
    def test_letters_of_a_file_in_use(self, shop: Shop) -> None:
        """Letters can be listed, shown, replayed to the process that serves them, and discarded."""
        shop.config(TRANSPORT)
        records = jsonl(*({"subject": f"orders.n{number}", "body": "bad"} for number in range(3)))
        with served(shop) as live:
            done_well(shop.run("run", "bus.toml", "--input", "-", "--json", input=records))
            found = until(lambda: found if len(found := letters(shop)) == 3 else None)
            listed = done_well(shop.run("dead", "list", URL))
            shown = done_well(shop.run("dead", "show", URL, found[0]["id"]))
            (shop.folder / "mended").touch()
            replayed = done_well(shop.run("dead", "replay", URL, found[0]["id"]))
            assert live.process.stdout.readline() == "handled bad\n"
            discarded = done_well(shop.run("dead", "discard", URL, found[1]["id"]))
            left = letters(shop)
            ended(live)

        assert [one["subject"] for one in found] == ["orders.n0", "orders.n1", "orders.n2"]
        assert all(one["id"] in listed for one in found)
        assert "ValueError: no use for bad" in shown
        assert 'body          "bad"' in shown
        assert replayed == "1 given back, 0 not given back, 2 left alone\n"
        assert discarded == "1 discarded, 1 left\n"
        assert [one["id"] for one in left] == [found[2]["id"]]

    @pytest.mark.thorough
    def test_a_config_file_or_a_module_with_this_transport(self, shop: Shop) -> None:
        """The command reads the letters of its file, and handles nothing here."""
        shop.config(TRANSPORT, subscription("orders", "orders.>", "die"))
        shop.write("program.py", f'from pipebus import Bus\nbus = Bus("{URL}")\n')
        done = shop.run("run", "bus.toml", "--input", "-", *ALLOW, input=jsonl({"subject": "orders.new", "body": 1}))
        assert done.returncode == 1
        [letter] = letters(shop)
        for target in (("bus.toml", *ALLOW), ("program:bus",)):
            assert lines_of(done_well(shop.run("dead", "list", *target, "--json"))) == [letter]
        replayed = shop.run("dead", "replay", "bus.toml", letter["id"], *ALLOW)

        assert (replayed.returncode, replayed.stdout) == (0, "1 given back, 0 not given back, 0 left alone\n")
        assert replayed.stderr == "no running process serves the file; start one to handle them\n"
        assert letters(shop) == []
        assert findings(shop.run("doctor", URL, "--json"))["subscription orders"][1].startswith("1 pending, ")

    @pytest.mark.thorough
    def test_letters_of_one_subscription(self, shop: Shop) -> None:
        """Options work as for a file of letters; what died in a publish chain passes through that of the config file again."""
        kept = '[[pipelines]]\nmatch = "p.>"\non_error = "dead_letter"\nfilters = [{ use = "python", target = "shop:boom" }]\n'
        shop.config(TRANSPORT, kept, subscription("orders", "orders.>", "die"), subscription("mails", "mails.>", "die"))
        records = jsonl(*({"subject": subject, "body": 1} for subject in ("orders.new", "mails.new", "p.new")))
        assert shop.run("run", "bus.toml", "--input", "-", *ALLOW, input=records).returncode == 1

        assert [one["subscription"] for one in letters(shop, "--subscription", "mails")] == ["mails"]
        assert_said_well(
            shop.run("dead", "discard", URL, "--all", "--subscription", "x"),
            2, 'no letter is from subscription "x"; there are ', "publish",
        )  # fmt: skip
        replayed = shop.run("dead", "replay", "bus.toml", "--all", *ALLOW)
        assert (replayed.returncode, replayed.stdout) == (1, "2 given back, 1 not given back, 0 left alone\n")
        assert re.search(r"^d\w+ is dead again, as d\w+: KeyError: 'boom'$", replayed.stderr, re.MULTILINE)
        assert [one["subscription"] for one in letters(shop)] == ["publish"]
        replayed = shop.run("dead", "replay", URL, "--all")
        assert (replayed.returncode, replayed.stdout) == (0, "1 given back, 0 not given back, 0 left alone\n")
        assert f"1 died in a publish chain, and {URL} has none: no filter has seen them" in replayed.stderr
        assert letters(shop) == []

    def test_wrong_arguments(self, shop: Shop) -> None:
        """A wrong argument is refused in one line with exit code 2."""
        used(shop.folder / "bus.db")
        shop.config(TRANSPORT)
        shop.write("l.jsonl", "")
        table = {
            f"show {URL} d1": 'has no dead letter "d1"; there is none',
            f"replay {URL}": "replay which letters? Give their ids, or --all",
            f"replay {URL} --all --on bus.toml": "leave out --on",
            "replay l.jsonl --all --on bus.toml": "bus.toml keeps its dead letters itself",
            f"replay l.jsonl --all --on {URL}": "is a transport's URL",
        }
        found = many(*(["dead", *command.split()] for command in table), cwd=shop.folder)
        for done, text in zip(found, table.values(), strict=True):
            assert_said_well(done, 2, "pipebus dead: ", text)


class TestPublish:
    """`pipebus publish sqlite:///bus.db`"""

    @pytest.mark.thorough
    def test_into_a_file_in_use(self, shop: Shop) -> None:
        """`publish` says for how many subscriptions it keeps the message; the program that serves the file handles it."""
        with served(shop) as live:
            kept = done_well(shop.run("publish", URL, "orders.new", '{"id": 1}', "--header", "tenant=acme", "--id", "x1"))
            again = done_well(shop.run("publish", URL, "orders.new", '{"id": 1}', "--id", "x1"))
            nobody = done_well(shop.run("publish", f"{URL}?retention=1h", "other.thing"))
            assert live.process.stdout.readline() == "handled {'id': 1}\n"
            ended(live)
            assert live.process.stdout.read() == ""

        assert json.loads(kept) == {"outcome": "accepted", "mailboxes": 1, "kept": "for 1 subscription"}
        assert json.loads(again) == {
            "outcome": "accepted", "mailboxes": 1, "duplicate": True,
            "kept": "under this id already, so it was not stored again",
        }  # fmt: skip
        assert json.loads(nobody) == {"outcome": "unrouted", "mailboxes": 0, "kept": "for 3600 s: nobody subscribes to it"}

    def test_requests_are_answered_by_who_serves_the_file(self, shop: Shop) -> None:
        """The caller gets a reply, a failure, or an error when nobody answers."""
        with served(shop) as live:
            asked = shop.run("publish", URL, "orders.new", "7", "--request", "--timeout", "60")
            failed = shop.run("publish", URL, "orders.new", '"bad"', "--request", "--timeout", "60")
            nobody = shop.run("publish", URL, "other.thing", "--request", "--timeout", "60")
            ended(live)
        late = shop.run("publish", URL, "orders.new", "8", "--request", "--timeout", "100ms")

        assert json.loads(done_well(asked)) == {"outcome": "replied", "body": {"got": 7}}
        for done, text in (
            (failed, "no use for bad"),
            (nobody, "nobody listens to other.thing"),
            (late, "no reply on orders.new"),
        ):
            assert (done.returncode, done.stderr) == (1, "")
            told = json.loads(done.stdout)
            assert told["outcome"] == "failed"
            assert text in told["reason"]

    @pytest.mark.thorough
    def test_neither_handlers_nor_a_backlog_are_waited_for(self, shop: Shop) -> None:
        """`publish` runs the bus's publish chain, and leaves its subscriptions to the program that runs the bus."""
        gate = shop.folder / "gate"
        os.mkfifo(gate)
        small = '[[pipelines]]\nfilters = [{ use = "python", target = "shop:small" }]\n'
        shop.config(TRANSPORT, small, subscription("orders", "orders.>", "held"))
        publish = ("publish", "bus.toml", "orders.new")
        first = done_well(shop.run(*publish, "1", *ALLOW))
        with shop.live("run", "bus.toml", *ALLOW, notes=True, env=ENV | {"GATE": str(gate)}) as live:
            assert live.notes.readline() == "begun 1\n"
            second = done_well(shop.run(*publish, "2", *ALLOW))
            third = done_well(shop.run("publish", URL, "orders.new", "3"))
            bad = shop.run(*publish, '"bad"', *ALLOW)
            dull = done_well(shop.run(*publish, '"dull"', *ALLOW))
            live.signal(signal.SIGTERM)  # what is in hand ends, and the rest stays in the file
            while live.process.poll() is None:  # the next handler may have begun just before the signal
                with suppress(OSError):
                    os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
                time.sleep(0.01)
            assert live.wait() == 0, live.err.text
            notes = live.notes.read().splitlines()
            handled = [note for note in notes if note.startswith("ended")]
            assert handled[0] == "ended 1"
            assert len(handled) == 1 + sum(note.startswith("begun") for note in notes), "what is in hand ends"
        [kept] = lines_of(done_well(shop.run("subscriptions", "list", URL, "--json")))
        assert (kept["pending"], kept["in_flight"], kept["dead"]) == (3 - len(handled), 0, 0)

        for told in (first, second, third):
            assert json.loads(told) == {"outcome": "accepted", "mailboxes": 1, "kept": "for 1 subscription"}
        assert (bad.returncode, json.loads(bad.stdout)["outcome"]) == (1, "rejected")
        assert json.loads(dull)["outcome"] == "dropped"

    def test_the_first_publish_makes_the_file(self, shop: Shop) -> None:
        """The first publish creates the file as a bus does, and its output reveals a mistyped path."""
        told = shop.run("publish", URL, "orders.new", "1")

        assert (told.returncode, told.stderr) == (0, f"pipebus publish: {shop.folder / 'bus.db'} is a new file\n")
        assert json.loads(told.stdout) == {"outcome": "unrouted", "mailboxes": 0, "kept": "for 120 s: nobody subscribes to it"}
        assert (shop.folder / "bus.db").is_file()


class TestRun:
    """`pipebus run` on a config file with `transport = "sqlite:///bus.db"`."""

    def test_records_of_a_file(self, shop: Shop) -> None:
        """The summary is about this run, and dead letters of others do not make it fail."""
        shop.config(TRANSPORT, subscription("orders", "orders.>", "die"), subscription("all", ">", "ok"), name="dies.toml")
        shop.config(TRANSPORT, subscription("orders", "orders.>", "ok"), subscription("all", ">", "ok"))
        records = jsonl(*({"subject": "orders.new", "body": number} for number in range(20)))
        arguments = ("--input", "-", "--json", "--quiet", *ALLOW)
        died = shop.run("run", "dies.toml", *arguments, input=records)
        fine = shop.run("run", "bus.toml", *arguments, input=records)
        told = shop.run("run", "dies.toml", "--input", "-", *ALLOW, input=records)

        assert (died.returncode, fine.returncode, told.returncode) == (1, 0, 1)
        figures = json.loads(died.stdout)
        assert figures["dead_letters"] == 20
        assert {name: figures["subscriptions"]["orders"][name] for name in ("acknowledged", "dead", "pending")} == {
            "acknowledged": 0, "dead": 20, "pending": 0,
        }  # fmt: skip
        figures = json.loads(fine.stdout)
        assert figures["dead_letters"] == 0
        assert figures["subscriptions"]["orders"]["acknowledged"] == figures["subscriptions"]["all"]["acknowledged"] == 20
        assert figures["subscriptions"]["orders"]["dead"] == 0
        assert "dead: orders.new in orders: ValueError: no use for 0\n" in told.stdout
        assert "  … and 15 more\n" in told.stdout
        assert len(letters(shop)) == 40

    @pytest.mark.thorough
    def test_until_a_signal_with_a_tail(self, shop: Shop) -> None:
        """Messages of other processes are handled and printed, and the tail leaves no subscription behind."""
        shop.config(TRANSPORT, subscription("orders", "orders.>", "ok"))
        with shop.live("run", "bus.toml", "--tail", "orders.>", *ALLOW, notes=True) as live:
            out = live.collect_out()
            assert live.err.wait_for(1) == ["running: 1 subscription; Ctrl-C stops, and what waits stays in the store\n"]
            for number in range(3):
                done_well(shop.run("publish", URL, "orders.new", str(number)))
                done_well(shop.run("publish", URL, "other.thing", str(number)))
            assert [live.notes.readline() for _ in range(3)] == ["0\n", "1\n", "2\n"]
            live.signal(signal.SIGTERM)
            assert live.wait() == 0

        assert [one["body"] for one in lines_of(out.text)] == [0, 1, 2]
        assert [name for name in findings(shop.run("doctor", URL, "--json")) if "subscription" in name] == [
            "subscription orders"
        ]

    def test_a_tail_of_records_tells_all_of_them(self, shop: Shop) -> None:
        """The tail shows the last record before the end too, and works on a file that does not exist yet."""
        shop.config(TRANSPORT, subscription("orders", "orders.>", "ok"))
        records = jsonl(*({"subject": "orders.new", "body": number} for number in range(50)))
        done = shop.run("run", "bus.toml", "--input", "-", "--tail", ">", "--quiet", *ALLOW, input=records)

        assert done.returncode == 0, done.stderr
        assert [one["body"] for one in lines_of(done.stdout)] == list(range(50))

    def test_what_makes_no_sense_here(self, shop: Shop) -> None:
        """A run that makes no sense is refused before anything is published."""
        shop.config(TRANSPORT)
        done = shop.run("run", "bus.toml", "--input", "-", "--dead", "l.jsonl", input="")
        assert_said_well(done, 2, "keeps dead letters itself; leave out --dead, and use `pipebus dead list bus.toml`")
        assert not (shop.folder / "bus.db").exists()
        foreign(shop.folder / "bus.db")
        before = state(shop.folder)
        assert_said_well(shop.run("run", "bus.toml"), 2, "is another program's database")
        assert state(shop.folder) == before

"""`pipebus run --input`: what is unreadable is counted, what is full is waited for, and no dead letter is lost."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
from pathlib import Path

import pytest
from cli_helpers import (
    ENV,
    PATIENCE,
    WITHOUT_RICH,
    Live,
    Shop,
    assert_said_well,
    figures,
    jsonl,
    little_room,
    make_room,
    plain,
    subscription,
)  # fmt: skip

from flow_helpers import wait_until

OK = subscription("ok", "a.>", "ok")
DIE = subscription("dies", "a.>", "die")
SMALL = '[[pipelines]]\nfilters = [{ use = "python", target = "shop:small" }]\n'
MOVE = '[[pipelines]]\nfilters = [{ use = "reroute", to = "b.{body.to}" }]\n'
FEED = ("run", "bus.toml", "--allow", "shop", "--subject", "a.b", "--input")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    os.mkfifo(tmp_path / "gate")
    return shop


def small_mailbox(name: str, handler: str, more: str = "") -> str:
    """A subscription whose mailbox holds one message, and whose publishers wait for a millisecond."""
    return subscription(name, "a.>", handler) + f'mailbox = {{ size = 1, overflow = "block", timeout = "1ms" }}\n{more}'


class TestUnreadable:
    """One bad line costs one record, not the rest of the input."""

    @pytest.mark.parametrize(
        ("name", "data", "reason"),
        [
            ("x.jsonl", b'"one"\n"\xff"\n"three"\n', "x.jsonl:2: not UTF-8: "),
            ("x.csv", b"a,b\n1,2\n3\n4,5\n", "x.csv:3: 1 fields where the header has 2"),
            ("x.csv", b"a,b\n1,2\n3,\xff\n4,5\n", "x.csv:3: not UTF-8: "),
        ],
    )
    def test_a_line_is_counted_and_the_others_are_published(self, shop: Shop, name: str, data: bytes, reason: str) -> None:
        """The figures and the summary say which line it is, and the exit code says that there was one."""
        shop.config(OK)
        (shop.folder / name).write_bytes(data)

        told, done = shop.run(*FEED, name), shop.run(*FEED, name, "--json")

        assert (told.returncode, told.stderr) == (done.returncode, done.stderr) == (1, "")
        assert f"1 could not be read:\n  {reason}" in told.stdout
        assert [figures(done)[key] for key in ("read", "unreadable", "accepted")] == [3, 1, 2]

    def test_a_live_input_goes_on(self, shop: Shop) -> None:
        """A producer that sends one bad byte is not cut off."""
        shop.config(OK)
        with shop.live(*FEED, "-", "--outcomes", encoding=None) as live:
            out = live.collect_out()
            for line in (b"1\n", b'"\xff"\n', b"3\n"):
                live.process.stdin.write(line)
                live.process.stdin.flush()
            found = [json.loads(line)["outcome"] for line in out.wait_for(3)]
            live.process.stdin.close()
            assert live.wait() == 1
        assert found == ["accepted", "unreadable", "accepted"]


class TestRoom:
    """Nobody waits for a file that is read, so it is the reading that waits."""

    def test_a_slow_handler_costs_no_record(self, shop: Shop) -> None:
        """The mailbox is full again and again, for longer than its timeout."""
        shop.write("slow.py", "import time\n\ndef handle(message):\n    time.sleep(0.05)\n")
        shop.config(small_mailbox("slow", "handle").replace("shop:", "slow:"))

        done = shop.run(*FEED, "-", "--allow", "slow", "--json", input=jsonl(*range(5)))

        found = figures(done)
        assert (done.returncode, found["errors"], found["unpublished"]) == (0, {}, 0)
        assert found["subscriptions"]["slow"]["acknowledged"] == 5

    def test_an_async_chain_waits_too(self, shop: Shop) -> None:
        """A chain on the bus's loop waits for room before it begins."""
        shop.write(
            "slow.py",
            """
            import time

            async def through(message, call_next):
                return await call_next(message)

            def handle(message):
                time.sleep(0.05)
            """,
        )
        chain = '[[pipelines]]\nfilters = [{ use = "python", target = "slow:through" }]\n'
        shop.config(chain, small_mailbox("slow", "handle").replace("shop:", "slow:"))

        done = shop.run(*FEED, "-", "--allow", "slow", "--json", input=jsonl(*range(5)))

        assert (done.returncode, figures(done)["subscriptions"]["slow"]["acknowledged"]) == (0, 5)

    def test_a_signal_ends_the_wait(self, shop: Shop) -> None:
        """The record that waits is reported as not published, and the one that was accepted is handled."""
        shop.config(small_mailbox("held", "held"), OK)
        shop.write("x.jsonl", jsonl(1, 2, 3))
        gate = shop.folder / "gate"
        with shop.live(*FEED, "x.jsonl", "--outcomes", "--json", env=ENV | {"GATE": str(gate)}, notes=True) as live:
            out = live.collect_out()
            while live.notes.readline() != "2\n":  # the other mailbox has the second record, which now waits for this one
                pass
            live.signal(signal.SIGTERM)
            waited = json.loads(out.wait_for(2)[-1])
            os.close(os.open(gate, os.O_WRONLY))
            assert live.wait() == 143
        summary = json.loads(out.lines[-1])
        assert waited["outcome"] == "failed"
        assert "stopped while it waited for room" in waited["reason"]
        assert [summary["subscriptions"][name]["acknowledged"] for name in ("held", "ok")] == [1, 2]

    def test_a_handler_does_not_wait_so_long(self, shop: Shop) -> None:
        """A handler that publishes into a full mailbox gets its error after the mailbox's own timeout, as in any program."""
        shop.write(
            "app.py",
            """
            import threading
            from pipebus import Bus, MailboxFull
            from shop import note

            bus = Bus()
            over = threading.Event()

            @bus.on("full", name="full", mailbox=1, overflow_timeout=0.001)
            def full(message):
                over.wait(30)

            @bus.on("a.b", name="twice")
            def twice(message):
                bus.publish("full", 1)
                try:
                    bus.publish("full", 2)
                except MailboxFull:
                    note("told")
                over.set()
            """,
        )
        shop.run("run", "app:bus", "--input", "-", "--subject", "a.b", input=jsonl(1), env=ENV | {"NOTES": "notes"})

        assert (shop.folder / "notes").read_text() == "told\n"


class TestSeveralInputs:
    """`--input` may be given several times."""

    def test_all_are_read_in_order(self, shop: Shop) -> None:
        """Each file has its own format, by its name, and a reason names its file."""
        shop.config(OK)
        shop.write("one.jsonl", jsonl("first") + "{\n")
        shop.write("two.csv", "n\nsecond\n")

        done = shop.run(*FEED, "one.jsonl", "--input", "two.csv", "--input", "-", "--tail", "a.b", input=jsonl("third"))

        assert [json.loads(line)["body"] for line in done.stdout.splitlines()] == ["first", {"n": "second"}, "third"]
        assert "one.jsonl:2: not JSON" in done.stderr

    @pytest.mark.parametrize(("inputs", "says"), [(["x", "none"], "none: no such file"), (["-", "-"], "give - once")])
    def test_one_that_is_wrong_is_found_before_the_first_record(self, shop: Shop, inputs: list[str], says: str) -> None:
        """A missing second file is not found after an hour."""
        shop.config(OK)
        shop.write("x", jsonl(1))
        options = [part for name in inputs[1:] for part in ("--input", name)]

        done = shop.run(*FEED, inputs[0], *options, env=ENV | {"NOTES": "notes"})

        assert_said_well(done, 2, "pipebus run: ", says)
        assert not (shop.folder / "notes").exists()


class TestTimes:
    """A message that is read again keeps its time."""

    def test_what_had_a_time_to_live_then_is_expired_now(self, shop: Shop) -> None:
        """A replay of yesterday's messages does what yesterday's delay would have done."""
        shop.config(OK)
        old = {"subject": "a.b", "time": 1000.0, "ttl": 60.0}

        done = shop.run(*FEED[:4], "--input", "-", "--json", "--tail", "a.b", input=jsonl(old, {**old, "ttl": None}))

        message, summary = [json.loads(line) for line in done.stdout.splitlines()]
        assert message["time"] == 1000.0
        assert summary["subscriptions"]["ok"]["dropped"] == {"expired": 1}

    def test_a_time_that_is_wrong_is_one_record(self, shop: Shop) -> None:
        shop.config(OK)
        records = jsonl({"subject": "a.b", "time": "noon"}, {"subject": "a.b", "time": 1, "delay": 1}, {"subject": "a.b"})

        done = shop.run(*FEED[:4], "--input", "-", input=records)

        assert "3 read, 1 published: 1 accepted" in done.stdout
        assert "time is a number of seconds" in done.stdout
        assert "a time or a delay, not both" in done.stdout


class TestFailOn:
    """`--fail-on` says what else makes a run a failure."""

    @pytest.mark.parametrize(
        ("kinds", "code"), [(None, 0), ("rejected", 1), ("unrouted,dropped", 1), ("unrouted", 0), ("dead", 0)], ids=str
    )
    def test_the_exit_code_depends_on_it(self, shop: Shop, kinds: str | None, code: int) -> None:
        """Filters may refuse records; whether that is a failure, the user knows."""
        shop.config(OK, SMALL)
        options = [] if kinds is None else ["--fail-on", kinds]

        assert shop.run(*FEED, "-", *options, input=jsonl("bad", "dull", "fine")).returncode == code

    def test_one_that_is_unknown_is_refused_with_all_that_are_known(self, shop: Shop) -> None:
        shop.config(OK)
        done = shop.run(*FEED, "-", "--fail-on", "rejected,late", input="")

        assert done.returncode == 2
        assert "rejected,dropped,unrouted,unreadable,failed,dead,left; found 'late'" in done.stderr


class TestUnrouted:
    """A message that nobody listens to is shown with the subject that it had in the end."""

    def test_the_summary_the_figures_and_the_outcomes_have_the_subject(self, shop: Shop) -> None:
        """A misspelt reroute is found by the subject, which is not the published one."""
        shop.config(OK, MOVE)
        done = shop.run(*FEED, "-", "--outcomes", input=jsonl({"to": "x"}, {"to": "x"}, {"to": "y"}))

        assert json.loads(done.stdout.splitlines()[2]) == {
            "record": 3, "outcome": "unrouted", "mailboxes": 0, "subject": "b.y",
        }  # fmt: skip
        assert "unrouted             2  nobody listens to b.x\n" in done.stderr
        assert figures(shop.run(*FEED, "-", "--json", input=jsonl({"to": "x"}, {"to": "x"}, {"to": "y"})))[
            "unrouted_subjects"
        ] == {"b.x": 2, "b.y": 1}

    def test_publish_has_it_too(self, shop: Shop) -> None:
        shop.config(OK, MOVE)
        done = shop.run("publish", "bus.toml", "--allow", "shop", "a.b", '{"to": "x"}', "--fail-on", "unrouted")

        assert (done.returncode, json.loads(done.stdout)["subject"]) == (1, "b.x")


class TestLetters:
    """Each dead letter is in the file as soon as its message has died."""

    def test_a_killed_run_has_kept_them(self, shop: Shop) -> None:
        """`kill -9` cannot be handled, so nothing may be left for the end."""
        shop.config(DIE)
        path = shop.folder / "letters.jsonl"
        with shop.live(*FEED, "-", "--dead", "letters.jsonl") as live:
            live.write(jsonl("tea"))
            giving_up = threading.Event()
            timer = threading.Timer(PATIENCE, giving_up.set)
            timer.start()
            while not giving_up.is_set() and not (path.exists() and path.read_text()):
                pass
            timer.cancel()
            live.process.kill()
            live.wait()

        [letter] = [json.loads(line) for line in path.read_text().splitlines()]
        assert (letter["id"], letter["body"]) == ("d1", "tea")
        assert "ValueError: no use for tea" in shop.run("dead", "list", "letters.jsonl").stdout

    def test_those_that_the_memory_of_the_bus_evicts_are_kept(self, shop: Shop) -> None:
        """`dead_letters` of the bus bounds memory, not the file."""
        shop.config("[bus]\ndead_letters = 2\n", DIE)
        done = shop.run(*FEED, "-", "--dead", "letters.jsonl", input=jsonl(*range(5)))

        assert done.returncode == 1
        assert "not kept" not in done.stdout
        assert len((shop.folder / "letters.jsonl").read_text().splitlines()) == 5

    @pytest.mark.thorough
    def test_a_disk_that_is_full_is_waited_for(self, shop: Shop) -> None:
        """The reading pauses instead of losing one letter after the other, and goes on when there is room."""
        shop.config(DIE)
        path = shop.folder / "letters.jsonl"
        with shop.live(*FEED, "-", "--dead", path.name, program=little_room(4096)) as live:
            live.write(jsonl(*range(20)))
            [line] = live.err.wait_for(1)
            wait_until(lambda: path.read_text().endswith("\n"), "no half letter is in the file")  # but while one is tried again
            make_room(live)
            live.close_in()
            assert live.wait() == 1
        assert line.startswith("pipebus run: letters.jsonl: cannot be written: ")
        assert [json.loads(line)["body"] for line in path.read_text().splitlines()] == list(range(20))


class TestFullDisk:
    """A SQLite file on a full disk."""

    @pytest.mark.thorough
    def test_it_is_waited_for(self, shop: Shop) -> None:
        """No record is lost, and none is stored twice."""
        shop.config('[bus]\ntransport = "sqlite:///bus.db"\n', OK)
        with shop.live(*FEED, "-", "--json", program=little_room(512_000)) as live:
            out = live.collect_out()
            live.write_behind([jsonl("x" * 10_000)] * 150)
            [line] = live.err.wait_for(1)
            make_room(live)
            assert live.wait() == 0
        assert line.startswith("pipebus run: waits: ")
        assert "it goes on by itself" in line
        found = json.loads(out.lines[-1])
        assert found["subscriptions"]["ok"]["acknowledged"] == found["read"] == 150


class TestSummary:
    """The summary is for a person, at most a screen or two."""

    def test_of_many_reasons_the_most_frequent_are_shown(self, shop: Shop) -> None:
        """A thousand reasons are in `--json`."""
        shop.config(OK, MOVE)
        records = [{"to": number} for number in range(100) for _ in range(2 if number == 7 else 1)]
        done = shop.run(*FEED, "-", input=jsonl(*records))

        assert len(done.stdout.splitlines()) < 40
        assert done.stdout.splitlines()[3].endswith("2  nobody listens to b.7")
        assert "… and 80 more; --json has them all\n" in done.stdout

    def test_long_reasons_fit_into_100_columns(self, shop: Shop) -> None:
        shop.config(OK, DIE, MOVE.replace("b.{", "a.{"))
        done = shop.run(*FEED, "-", input=jsonl({"to": "x" * 200}, {"to": "spaces " * 40}, {"to": "y", "why": "spaces " * 40}))

        assert max(map(len, done.stdout.splitlines())) <= 100


class TestProgress:
    """Progress is what has been handled."""

    @pytest.mark.thorough
    def test_a_handler_that_is_running_is_not_done(self, shop: Shop) -> None:
        """The file has been read, but 100 % is shown only after the last message has been handled."""
        shop.config(subscription("held", "a.>", "held"))
        shop.write("x.jsonl", jsonl(1))
        gate = shop.folder / "gate"
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
        with Live(
            *FEED, "x.jsonl", program=WITHOUT_RICH, cwd=shop.folder, env=ENV | {"GATE": str(gate), "TERM": "xterm"},
            stdout=subprocess.DEVNULL, stderr=theirs,
        ) as live:  # fmt: skip
            os.close(theirs)
            shown = ""
            while "1 accepted, 0 not accepted, 0 handled" not in shown:
                shown += os.read(ours, 65536).decode()
            before = plain(shown)
            os.close(os.open(gate, os.O_WRONLY))
            while ", 1 handled" not in shown:
                shown += os.read(ours, 65536).decode()
            assert live.wait() == 0
            os.close(ours)
        assert "100%" not in before
        assert "100%  1 accepted, 0 not accepted, 1 handled" in plain(shown)

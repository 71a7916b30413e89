"""The end of `pipebus run --input`: what it waits for, what is left, and the exit code that says so."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from cli_helpers import ENV, Shop, figures, jsonl, little_room, make_room, subscription

FEED = ("run", "bus.toml", "--allow", "shop,slow", "--subject", "a.b", "--input", "-")
FILE = '[bus]\ntransport = "sqlite:///bus.db"\n'
SLOW = """
import time
import shop

tries = {}


def steady(message):
    time.sleep(0.05)  # work that takes its time


def third_time(message):
    tries[message.id] = tries.get(message.id, 0) + 1
    if tries[message.id] < 3:
        raise ConnectionError("not yet")


def held_and_dead(message):
    shop.held(message)
    raise ValueError("no use for it")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.write("slow.py", SLOW)
    os.mkfifo(tmp_path / "gate")
    return shop


def slow(handler: str, more: str = "") -> str:
    return f'[[subscriptions]]\nname = "slow"\nsubject = "a.>"\nhandler = "slow:{handler}"\n{more}'


class TestWaits:
    """The end of the input is not the end of the work."""

    @pytest.mark.thorough
    def test_a_handler_that_makes_progress_is_never_cut_short(self, shop: Shop) -> None:
        """The work takes longer than --timeout, which bounds only the time without progress."""
        shop.config(slow("steady"))
        done = shop.run(*FEED, "--timeout", "2", "--json", input=jsonl(*range(60)))

        assert (done.returncode, done.stderr) == (0, "")
        assert figures(done)["subscriptions"]["slow"]["acknowledged"] == 60

    def test_the_next_attempt_of_a_stored_message_is_waited_for(self, shop: Shop) -> None:
        """A message that failed in this run is handled in this run, if it is due soon."""
        shop.config(FILE, slow("third_time", 'filters = [{ use = "redeliver", attempts = 3, wait = "50ms", jitter = 0 }]\n'))
        done = shop.run(*FEED, "--json", input=jsonl(1, 2, 3))

        assert done.returncode == 0
        assert figures(done)["subscriptions"]["slow"]["acknowledged"] == 3

    @pytest.mark.parametrize("frees", [True, False], ids=["until there is room", "until a signal comes"])
    @pytest.mark.thorough
    def test_a_dead_letter_that_finds_no_room_is_waited_for(self, shop: Shop, frees: bool) -> None:
        """The last dead letter is as safe as those before the end of the input."""
        shop.config(slow("held_and_dead"))
        records, letters = shop.write("x.jsonl", jsonl("tea")), shop.folder / "letters.jsonl"
        with shop.live(
            *FEED[:-1], records.name, "--dead", letters.name, "--timeout", "1", program=little_room(512), notes=True,
            env=ENV | {"GATE": "gate"},
        ) as live:  # fmt: skip
            assert live.notes.readline() == "begun tea\n"
            os.close(os.open(shop.folder / "gate", os.O_WRONLY))
            live.err.wait_for(1)
            make_room(live) if frees else live.signal(signal.SIGTERM)
            code = live.wait()
        if frees:
            assert (code, len(letters.read_text().splitlines())) == (1, 1)
        else:
            assert code == 1
            assert re.search(r"letters\.jsonl: cannot be written: .*; 1 dead letters are lost", live.err.text)


class TestLeft:
    """The exit code and --fail-on agree with the column `left`."""

    @pytest.mark.parametrize("kind", ["memory", "file", "paused", "later"])
    def test_messages_that_nobody_handles_make_the_exit_code_1(self, shop: Shop, kind: str) -> None:
        """Lost or kept, they were not handled, and the summary says which."""
        shop.config(
            *([] if kind == "memory" else [FILE]), subscription("ok", "a.>", "ok" if kind in ("paused", "later") else None)
        )
        if kind == "paused":
            shop.run(*FEED, input=jsonl("before"))
            shop.run("subscriptions", "pause", "sqlite:///bus.db", "ok")
        message = {"subject": "a.b", "body": 1} | ({"delay": 3600} if kind == "later" else {})
        done = shop.run("run", "bus.toml", "--allow", "shop", "--input", "-", input=jsonl(message, message))

        assert done.returncode == 1
        assert re.search(r"^ok +0 +0 +0 +2$", done.stdout, re.MULTILINE)
        assert f"not all messages were handled; {'lost' if kind == 'memory' else 'kept in the store'}: ok 2\n" in done.stdout

    def test_a_run_until_a_signal_fails_only_where_it_is_asked_to(self, shop: Shop) -> None:
        """A service that is stopped leaves messages in its store, and that is fine."""
        shop.config(FILE, subscription("ok", "a.>", None))
        shop.run("publish", "bus.toml", "a.b", "1")
        for options, expected in (((), 0), (("--fail-on", "left"), 1)):
            with shop.live("run", "bus.toml", *options) as live:
                live.err.wait_for(1)
                live.signal(signal.SIGTERM)
                assert live.wait() == expected

    def test_after_a_signal_a_store_has_not_run_out_of_time(self, shop: Shop) -> None:
        """Who ends a run does not want it to handle everything, and reads what is kept."""
        shop.config(FILE, subscription("held", "a.>", "held"))
        for body in ("1", "2"):
            shop.run("publish", "bus.toml", "a.b", body, "--allow", "shop")
        with shop.live(*FEED[:-1], "/dev/null", notes=True, env=ENV | {"GATE": "gate"}) as live:
            out = live.collect_out()
            assert live.notes.readline() == "begun 1\n"
            live.signal(signal.SIGTERM)
            os.close(os.open(shop.folder / "gate", os.O_WRONLY))
            assert live.wait() == 143
        assert "not all messages were handled; kept in the store: held 1\n" in out.text

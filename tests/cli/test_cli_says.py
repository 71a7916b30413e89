"""What the commands tell an operator: nothing that happened is hidden or miscounted, and no secret is shown."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import ENV, Shop, assert_said_well, figures, jsonl, subscription

ALLOW = ("--allow", "shop")
FILE = '[bus]\ntransport = "sqlite:///bus.db"\n'
OK = subscription("ok", "a.>", "ok")
DULL = subscription("ok", "a.>", "ok") + 'filters = [{ use = "drop", reason = "it is dull" }]\n'
FEED = ("run", "bus.toml", *ALLOW, "--subject", "a.b", "--input", "-")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_the_log_shows_no_local_variables(shop: Shop) -> None:
    """A traceback names functions and lines; the body that it was about is not in it, nor is a secret of a filter."""
    shop.write(
        "strict.py",
        """
        def fail(message):
            body = message.body
            raise ConnectionError("no answer")
        """,
    )
    shop.config('[[subscriptions]]\nname = "s"\nsubject = "a.>"\nhandler = "strict:fail"\n')
    done = shop.run(
        "run", "bus.toml", "--allow", "strict", "--subject", "a.b", "--input", "-", "--log", input=jsonl("iban-4711")
    )

    assert "ConnectionError: no answer" in done.stderr
    assert "iban-4711" not in done.stdout + done.stderr


class TestTail:
    """Who looks changes nothing."""

    @pytest.mark.parametrize("branch", [False, True], ids=["chain", "branch"])
    def test_a_message_that_nobody_listens_to_stays_one(self, shop: Shop, branch: bool) -> None:
        """--tail prints it as it is after the last filter, and its outcome is the same as without --tail."""
        mark = '{ use = "set_headers", headers = { seen = "yes" } }'
        filters = f'{{ branch = "b.>", filters = [{mark}] }}' if branch else mark
        shop.config(f"[[pipelines]]\nfilters = [{filters}]\n", OK)
        args = ("run", "bus.toml", *ALLOW, "--subject", "b.c", "--input", "-", "--json", "--fail-on", "unrouted")
        with_tail, without = shop.run(*args, "--tail", ">", input=jsonl(1)), shop.run(*args, input=jsonl(1))

        printed, found = map(json.loads, with_tail.stdout.splitlines())
        assert (printed["subject"], printed["headers"]) == ("b.c", {"seen": "yes"})
        assert {**found, "elapsed_s": 0} == {**figures(without), "elapsed_s": 0}
        assert (with_tail.returncode, without.returncode) == (1, 1)


class TestRun:
    def test_a_record_that_was_published_before_is_counted(self, shop: Shop) -> None:
        """Two days that overlap are fed twice, and the figures say how many records the store knew already."""
        shop.config(FILE, OK)
        message = {"subject": "a.b", "id": "m-1"}
        args = ("run", "bus.toml", *ALLOW, "--input", "-")
        done = shop.run(*args, "--outcomes", input=jsonl(message, message))

        first, second = map(json.loads, done.stdout.splitlines())
        assert ("duplicate" not in first, second["duplicate"]) == (True, True)
        assert "2 read, 2 published: 2 accepted (1 under an id that is known)\n" in done.stderr
        assert figures(shop.run(*args, "--json", input=jsonl(message)))["duplicates"] == 1

    def test_a_header_that_a_filter_cannot_set_is_that_filter_s_refusal(self, shop: Shop) -> None:
        """The record was a message; the publishers of the summary are who they are."""
        shop.config('[[pipelines]]\nfilters = [{ use = "set_headers", headers = { a = { expr = "body" } } }]\n', OK)
        done = shop.run(*FEED, "--fail-on", "rejected", input=jsonl("two\nlines", "one line"))

        assert done.returncode == 1
        assert done.stdout.startswith("2 read, 2 published: 1 accepted, 1 rejected\n")
        assert "rejected  SetHeaders         1  header \"a\" contains '\\n'" in done.stdout

    def test_the_filter_that_failed_is_in_the_table(self, shop: Shop) -> None:
        shop.config('[[pipelines]]\nfilters = [{ use = "python", target = "shop:boom" }]\n', OK)
        done = shop.run(*FEED, input=jsonl(1))

        assert "failed  boom         1  KeyError\n" in done.stdout

    def test_the_summary_says_why_a_subscription_dropped(self, shop: Shop) -> None:
        """The number alone does not tell an overflow from a filter."""
        shop.config(DULL)
        done = shop.run(*FEED, input=jsonl(1, 2))

        assert "dropped  in ok         2  it is dull\n" in done.stdout

    def test_a_pipeline_that_drops_what_is_refused_keeps_the_reason(self, shop: Shop) -> None:
        shop.config('[[pipelines]]\non_error = "drop"\nfilters = [{ use = "python", target = "shop:small" }]\n', OK)
        done = shop.run(*FEED, "--json", input=jsonl("bad"))

        assert figures(done)["dropped"] == {"small": {"drop: it is bad": 1}}

    @pytest.mark.parametrize("options", [(), ("--json",), ("--tail", ">"), ("--outcomes",)], ids=" ".join)
    def test_where_stdout_is_full_the_summary_is_on_stderr(self, shop: Shop, options: tuple[str, ...]) -> None:
        """The messages were handled, and somebody has to know."""
        shop.config(OK)
        with open("/dev/full", "w") as full, shop.live(*FEED, *options, stdout=full) as live:
            live.write(jsonl(1))
            live.close_in()
            assert live.wait() == 1
        assert "1 read, 1 published: 1 accepted\n" in live.err.text
        assert live.err.text.endswith("pipebus: standard output: No space left on device\n")

    def test_a_file_with_another_delimiter_is_doubted_and_read_with_an_option(self, shop: Shop) -> None:
        """A spreadsheet saves semicolons as .csv in half of Europe; tabs are known by the name."""
        shop.config(subscription("ok", "a.>", None))
        shop.write("semi.csv", "a;b\n1;2\n")
        shop.write("tabs.tsv", "a\tb\n1\t2\n")
        args = ("run", "bus.toml", "--subject", "a.b", "--tail", ">", "--input")
        doubted, semi, tabs = (
            shop.run(*args, *more) for more in (["semi.csv"], ["semi.csv", "--delimiter", ";"], ["tabs.tsv"])
        )

        assert doubted.stderr.startswith(
            "pipebus run: semi.csv has one column, 'a;b'; if fields end with ';', add --delimiter ';'\n"
        )
        assert json.loads(doubted.stdout)["body"] == {"a;b": "1;2"}
        assert [json.loads(done.stdout)["body"] for done in (semi, tabs)] == [{"a": "1", "b": "2"}] * 2
        assert not any("pipebus run:" in done.stderr for done in (semi, tabs))
        assert_said_well(shop.run(*args, "semi.csv", "--delimiter", ";;"), 2, "one character", lines=20)

    @pytest.mark.parametrize(
        ("message", "says"),
        [
            ('{"subject": "a.b", "headers": {"tries": 3}}', 'header "tries" is a number; it has to be text'),
            ('{"subject": "a.b", "headers": ["x"]}', "headers is a list; it has to be a table of texts"),
            ('{"subject": "a.b", "key": true}', "key is true or false; it has to be text"),
            (f'{{"subject": "a.b", "body": {"9" * 5000}}}', "not JSON: a number of 5,000 digits is too large"),
        ],
        ids=["header", "headers", "key", "digits"],
    )
    def test_what_is_wrong_with_a_record_is_said_in_the_words_of_json(self, shop: Shop, message: str, says: str) -> None:
        """Who writes records need not know Python."""
        shop.config(OK)
        done = shop.run("run", "bus.toml", *ALLOW, "--input", "-", input=message + "\n")

        assert done.returncode == 1
        assert f"standard input:1: {says}\n" in done.stdout

    def test_a_service_on_a_store_says_what_ctrl_c_does(self, shop: Shop) -> None:
        shop.config(FILE, OK)
        with shop.live("run", "bus.toml", *ALLOW) as live:
            [line] = live.err.wait_for(1)
        assert line == "running: 1 subscription; Ctrl-C stops, and what waits stays in the store\n"


class TestPublish:
    def test_a_message_that_a_subscription_drops(self, shop: Shop) -> None:
        """The mailbox accepted it, and yet nobody handled it."""
        shop.config(DULL)
        args = ("publish", "bus.toml", "a.b", "1", *ALLOW)
        done, failed = shop.run(*args), shop.run(*args, "--fail-on", "dropped")

        assert json.loads(done.stdout) == {
            "outcome": "accepted", "mailboxes": 1, "dropped": [{"subscription": "ok", "by": "Drop", "reason": "it is dull"}],
        }  # fmt: skip
        assert (done.returncode, failed.returncode) == (0, 1)

    def test_a_file_that_was_not_there_is_named(self, shop: Shop) -> None:
        """A mistyped path would otherwise look like success."""
        first, second = (shop.run("publish", "sqlite:///bsu.db", "a.b", "1") for _ in range(2))

        assert (first.stderr, second.stderr) == (f"pipebus publish: {shop.folder / 'bsu.db'} is a new file\n", "")


def test_trace_shows_what_changes_in_the_envelope(shop: Shop) -> None:
    """A filter that sets key, id or time to live is not one that changes nothing."""
    setting = '{ use = "set_envelope", key = { expr = "body.c" }, id = { expr = "body.id" }, ttl = "5s" }'
    shop.config(f"[[pipelines]]\nfilters = [{setting}, {{ use = 'expire', ttl = '1m' }}]\n", OK)
    args: tuple[Any, ...] = ("trace", "bus.toml", "a.b", "--body", '{"c": 7, "id": "o-1"}', *ALLOW)
    done, lines = shop.run(*args), [json.loads(line) for line in shop.run(*args, "--json").stdout.splitlines()]

    assert '  envelope {"key": "7", "id": "o-1", "ttl": 5.0}\n\nExpire' in done.stdout
    assert done.stdout.count("unchanged") == 1
    assert (lines[1]["key"], lines[1]["id"], lines[1]["ttl"]) == ("7", "o-1", 5.0)
    assert not lines[0].keys() & {"key", "id", "ttl"}


@pytest.mark.thorough
def test_two_replays_of_one_file_handle_no_letter_twice(shop: Shop) -> None:
    """The second is refused while the first runs, and finds nothing to do afterwards."""
    os.mkfifo(shop.folder / "gate")
    shop.config(subscription("s", "a.>", "die"), name="die.toml")
    shop.config(subscription("s", "a.>", "held"))
    shop.run("run", "die.toml", *ALLOW, "--subject", "a.b", "--input", "-", "--dead", "l.jsonl", input=jsonl("tea"))
    args = ("dead", "replay", "l.jsonl", "--all", "--on", "bus.toml", *ALLOW)
    with shop.live(*args, notes=True, env=ENV | {"GATE": "gate"}) as live:
        assert live.notes.readline() == "begun tea\n"
        refused = shop.run(*args)
        os.close(os.open(shop.folder / "gate", os.O_WRONLY))
        assert live.wait() == 0
    again = shop.run(*args)

    assert_said_well(refused, 1, "l.jsonl is in use by another replay")
    assert again.stdout == "0 handled, 0 dead again, 0 not given back, 0 left alone\n"


def test_a_config_file_with_a_byte_order_mark_is_read(shop: Shop) -> None:
    """Some editors on Windows write one."""
    path = shop.config(OK)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert shop.run("check", "bus.toml", *ALLOW).returncode == 0

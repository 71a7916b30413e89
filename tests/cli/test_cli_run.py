"""`pipebus run` as a person or a shell script meets it: a real process each time, its signals and its pipes."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import (
    ALLOW_FLIGHTS,
    ENV,
    EVENTS,
    FLIGHTS,
    PATIENCE,
    PIPEBUS,
    WEBHOOKS,
    WITHOUT_RICH,
    Live,
    Shop,
    assert_said_well,
    figures,
    jsonl,
    masked,
    on_terminal,
    plain,
    run,
    subscription,
)  # fmt: skip

from pipebus.demo.records import PACKAGED_DAY

OK = subscription("ok", "a.>", "ok")
DIE = subscription("dies", "a.>", "die")
HELD = subscription("held", "a.>", "held")
SMALL = '[[pipelines]]\nfilters = [{ use = "python", target = "shop:small" }]\n'
ALLOW = ("--allow", "shop")
TALLY = """
    from pipebus import Transform


    class Tally(Transform):
        passed = 0

        def transform(self, message):
            self.passed += 1
            return message

        def stats(self, place):
            return {"state": "closed", "passed": self.passed, "weight": 0.5, "dropped": 0}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def handled(path: Path) -> list[str]:
    """Return what the handlers noted."""
    return path.read_text().splitlines() if path.exists() else []


class TestRecords:
    """Records come from many kinds of input, and each has a known result."""

    def test_lines_are_bodies_where_a_subject_is_given(self, shop: Shop) -> None:
        """Each JSON value is published under --subject, and handled before the end."""
        shop.config(OK, SMALL)
        shop.write("x.jsonl", jsonl("tea", 5, "bad", "dull", {"subject": "b.c", "body": 1}, None))

        done = shop.run(
            "run", "bus.toml", *ALLOW, "--input", "x.jsonl", "--subject", "a.b", "--json", env=ENV | {"NOTES": "notes"}
        )

        assert (done.returncode, done.stderr) == (0, "")
        found = figures(done)
        assert found.pop("elapsed_s") >= 0
        assert found == {
            "read": 6,
            "unreadable": 0,
            "unpublished": 0,
            "duplicates": 0,
            "published": 6,
            "accepted": 4,
            "rejected": {"small": {"it is bad": 1}},
            "dropped": {"small": {"it is dull": 1}},
            "errors": {},
            "unrouted": 0,
            "unrouted_subjects": {},
            "subscriptions": {
                "ok": {
                    "accepted": 4, "acknowledged": 4, "dropped": {}, "dead": 0, "pending": 0, "in_flight": 0, "oldest": None,
                }
            },
            "filters": {},
            "dead_letters": 0,
            "interrupted": None,
        }  # fmt: skip
        assert handled(shop.folder / "notes") == ["tea", "5", "{'subject': 'b.c', 'body': 1}", "None"]

    def test_what_filters_have_counted_is_in_the_summary(self, shop: Shop) -> None:
        """Numbers that are not 0 are for people, all figures for programs."""
        shop.write("tally.py", TALLY)
        shop.config(OK, '[[pipelines]]\nfilters = [{ use = "python", target = "tally:Tally" }]\n')
        run = ("run", "bus.toml", *ALLOW, "--allow", "tally", "--input", "-", "--subject", "a.b")

        done, data = (shop.run(*run, *more, input=jsonl(1, 2)) for more in ([], ["--json"]))

        assert (done.returncode, done.stderr) == (0, "")
        assert "filter  in       figures\nTally   publish  passed 2, weight 0.5\n" in done.stdout
        assert figures(data)["filters"] == {"publish": {"Tally": {"state": "closed", "passed": 2, "weight": 0.5, "dropped": 0}}}

    def test_lines_are_messages_where_none_is_given(self, shop: Shop) -> None:
        """The output of --tail can be read again as input, with headers, keys and ids."""
        shop.config(OK)
        message = {
            "subject": "a.b", "id": "m1", "key": "k", "headers": {"tenant": "acme"}, "ttl": 60.0, "reply_to": "a.answers",
            "correlation_id": "c1", "body": {"n": 1},
        }  # fmt: skip

        first = shop.run("run", "bus.toml", *ALLOW, "--input", "-", "--tail", "a.>", input=jsonl(message, {"subject": "a.c"}))
        again = shop.run("run", "bus.toml", *ALLOW, "--input", "-", "--tail", "a.>", input=first.stdout)

        for done in (first, again):
            assert done.returncode == 0
            one, two = [json.loads(line) for line in done.stdout.splitlines()]
            assert one.pop("time") > 1e9
            assert one == message
            assert (two["subject"], two["body"]) == ("a.c", None)

    @pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "-", "x"])
    def test_rows_of_a_csv_file_are_bodies(self, shop: Shop, name: str) -> None:
        """A name that contains .csv selects CSV, with gzip or without, and so does --format."""
        shop.config(OK)
        text = "n,s\n1,é\n2,\n"
        (shop.folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
        more = [] if ".csv" in name else ["--format", "csv"]

        options = {"input": text} if name == "-" else {}
        done = shop.run(
            "run", "bus.toml", *ALLOW, "--input", name, "--subject", "a.b", "--tail", ">", "--quiet", *more, **options
        )

        assert done.returncode == 0
        assert [json.loads(line)["body"] for line in done.stdout.splitlines()] == [{"n": "1", "s": "é"}, {"n": "2", "s": ""}]

    def test_gzip_is_told_by_its_first_bytes(self, shop: Shop) -> None:
        """The first bytes decide whatever the file's name is, and also through a pipe."""
        shop.config(OK)
        data = gzip.compress(jsonl(1, 2, 3).encode())
        (shop.folder / "x").write_bytes(data)
        args = ("run", "bus.toml", *ALLOW, "--subject", "a.b", "--json", "--input")

        named = shop.run(*args, "x")
        piped = shop.run(*args, "-", input=data, encoding=None)

        assert figures(named)["accepted"] == 3
        assert json.loads(piped.stdout.splitlines()[-1])["accepted"] == 3

    def test_blank_lines_are_no_records_and_a_last_newline_is_not_needed(self, shop: Shop) -> None:
        """Other tools for JSON Lines do the same."""
        shop.config(OK)
        done = shop.run(
            "run", "bus.toml", *ALLOW, "--subject", "a.b", "--input", "-", "--json", input='\ufeff1\n\n  \n2\r\n"three"'
        )

        assert figures(done)["read"] == figures(done)["accepted"] == 3

    def test_nothing_is_no_failure(self, shop: Shop) -> None:
        """An empty input is a valid input."""
        shop.config(OK)
        done = shop.run("run", "bus.toml", *ALLOW, "--input", "/dev/null")

        assert done.returncode == 0
        assert masked(done.stdout) == (
            "0 read, 0 published: 0 accepted\n\nsubscription  handled  dropped  dead  left\n"
            "ok                  0        0     0     0\n\nT s\n"
        )

    def test_a_bus_of_a_program_is_run_too(self, shop: Shop) -> None:
        """MODULE:BUS may name a bus or a function that makes one."""
        shop.write(
            "app.py",
            """
            import shop
            from pipebus import Bus

            def make():
                bus = Bus()
                bus.subscribe("a.>", shop.ok, name="ok")
                return bus

            bus = make()
            """,
        )

        for target in ("app:bus", "app:make"):
            done = shop.run("run", target, "--input", "-", "--subject", "a.b", "--json", input=jsonl(1, 2))
            assert figures(done)["subscriptions"]["ok"]["acknowledged"] == 2
            assert done.returncode == 0


class TestSummary:
    """The summary is for a person and comes at the end."""

    def test_of_the_webhooks_example(self) -> None:
        """The summary shows every figure, each reason, and the one letter that died."""
        done = run("run", WEBHOOKS, "--allow", "webhooks", "--input", EVENTS)

        assert done.returncode == 1
        assert done.stderr == ""
        assert masked(done.stdout).partition("\n\n")[2] == (
            "          by          messages  reason\n"
            "rejected  shape              1  amount: Input should be greater than 0\n"
            r"rejected  shape              1  email: String should match pattern '^[^@\s]+@[^@\s]+$'" "\n"
            "rejected  signature          1  the signature is wrong\n"
            "dropped   once               1  duplicate\n"
            "dropped   in welcome         1  a test account\n"
            "unrouted                     1  nobody listens to events.chargeback\n"
            "unrouted                     1  nobody listens to mails.out\n"
            "\n"
            "subscription  handled  dropped  dead  left\n"
            "ledger              3        0     0     0\n"
            "refunds             1        0     1     0\n"
            "welcome             1        1     0     0\n"
            "\n"
            "dead: events.refund in refunds: ValueError: mallory cannot get back more than was paid; ask a person\n"
            "\n"
            "T s\n"
        )  # fmt: skip

    def test_its_first_line_tells_records_from_what_handlers_publish(self) -> None:
        """12 records went in, and the 13th message is the mail that a handler returned."""
        done = run("run", WEBHOOKS, "--allow", "webhooks", "--input", EVENTS)

        first = done.stdout.splitlines()[0]
        assert first.startswith("12 read")
        assert "handlers" in first, f"where does the 13th message come from? {first}"

    def test_goes_to_stderr_where_stdout_is_for_messages(self, shop: Shop) -> None:
        """`--tail | jq` gets messages and nothing else."""
        shop.config(OK)
        for option in (["--tail", ">"], ["--outcomes"]):
            done = shop.run("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", *option, input=jsonl(1))
            assert done.returncode == 0
            assert len([json.loads(line) for line in done.stdout.splitlines()]) == 1
            assert "1 read, 1 published: 1 accepted" in done.stderr

    def test_as_json_it_is_one_object_on_the_last_line(self, shop: Shop) -> None:
        """The object follows all outcomes and tails, so a script finds it on the last line."""
        shop.config(OK)
        done = shop.run(
            "run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--tail", ">", "--outcomes", "--json",
            input=jsonl(1, 2),
        )  # fmt: skip

        assert done.stderr == ""
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(lines) == 5
        assert lines[-1]["read"] == 2
        assert sorted(line["record"] for line in lines if "record" in line) == [1, 2]
        assert sorted(line["body"] for line in lines if "body" in line) == [1, 2]
        assert "(tail)" not in json.dumps(lines[-1])

    def test_in_a_shell_pipe(self, shop: Shop) -> None:
        """`cat x.jsonl | pipebus run … --json | python -c …`"""
        shop.config(OK)
        shop.write("x.jsonl", jsonl(1, 2, 3))
        script = (
            'cat x.jsonl | "$0" -m pipebus run bus.toml --allow shop --input - --subject a.b --json '
            '| "$0" -c \'import json, sys; print(json.load(sys.stdin)["accepted"])\''
        )
        done = run(program=["sh", "-c", script, sys.executable], cwd=shop.folder)

        assert (done.stdout, done.stderr) == ("3\n", "")

    def test_what_a_message_says_moves_no_cursor(self, shop: Shop) -> None:
        """Handlers' errors and subjects come from outside, so each takes one line, without control characters."""
        shop.config(DIE, '[[pipelines]]\nmatch = "b"\nfilters = [{ use = "validate", models = { b = "int" } }]\n')
        evil = "\x1b[2J\nsecond"
        done = shop.run(
            "run", "bus.toml", *ALLOW, "--input", "-",
            input=jsonl({"subject": "a.b", "body": evil}, {"subject": evil}, {"subject": "b", "body": evil}),
        )  # fmt: skip

        assert "\x1b" not in done.stdout
        assert not any(line.startswith("second") for line in done.stdout.splitlines())


class TestOutcomes:
    """`--outcomes` prints one object for each record."""

    def test_there_is_one_for_each_record_in_order(self, shop: Shop) -> None:
        """Each record has one, whatever happened to it, in the words of `pipebus publish`."""
        shop.config(OK, SMALL, '[[pipelines]]\nmatch = "boom"\nfilters = [{ use = "python", target = "shop:boom" }]\n')
        text = jsonl(
            {"subject": "a.b"}, {"subject": "b"}, {"subject": "a.b", "body": "bad"}, {"subject": "a.b", "body": "dull"}
        )
        text += "{\n" + jsonl([1], {"subject": "boom"}, {"subject": "a..b"})

        done = shop.run("run", "bus.toml", *ALLOW, "--input", "-", "--outcomes", "--json", input=text)

        *found, summary = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(one["record"], one["outcome"]) for one in found] == [
            (1, "accepted"), (2, "unrouted"), (3, "rejected"), (4, "dropped"), (5, "unreadable"), (6, "unreadable"),
            (7, "failed"), (8, "failed"),
        ]  # fmt: skip
        assert found[0] == {"record": 1, "outcome": "accepted", "mailboxes": 1}
        assert found[2] == {"record": 3, "outcome": "rejected", "by": "small", "reason": "it is bad"}
        assert found[3] == {"record": 4, "outcome": "dropped", "by": "small", "reason": "it is dull"}
        assert found[4]["reason"].startswith("standard input:5: not JSON: ")
        assert '"subject"' in found[5]["reason"]
        assert found[6]["reason"] == "KeyError: 'boom'"
        assert '"a..b"' in found[7]["reason"]
        assert (summary["read"], summary["unreadable"]) == (8, 2)
        assert done.returncode == 1

    def test_they_come_as_they_happen(self, shop: Shop) -> None:
        """A program that writes records into one end of a pipe can read their outcomes at the other end."""
        shop.config(OK)
        args = ("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--outcomes")
        with shop.live(*args) as live:
            out = live.collect_out()
            for number in range(1, 4):
                live.write(jsonl(number))
                assert json.loads(out.wait_for(number)[-1])["record"] == number
            live.close_in()
            assert live.wait() == 0

    def test_lines_of_outcomes_and_of_the_tail_do_not_mix(self, shop: Shop) -> None:
        """Two threads print them, and each line is whole."""
        shop.config(OK)
        program = [
            sys.executable, "-c",
            "import sys; sys.setswitchinterval(1e-6); from pipebus.cli import main; sys.exit(main())",
        ]  # fmt: skip
        done = shop.run(
            "run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--outcomes", "--tail", ">", "--json",
            program=program, input=jsonl(*range(5000)),
        )  # fmt: skip

        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(lines) == 10_001


class TestTrouble:
    """Exit code 1 means that something did not go well, and 2 that it could not be done as asked."""

    def test_what_is_no_json_is_told_with_its_line_and_the_others_are_published(self, shop: Shop) -> None:
        """One bad line does not end the run, and the exit code shows that there was one."""
        shop.config(OK)
        path = shop.write("x.jsonl", '{"subject": "a.b"}\n{"subject": \n\nNaN\n[1]\n{"subject": 5}\n{"subject": "a.c"}\n')

        done = shop.run("run", "bus.toml", *ALLOW, "--input", "x.jsonl")

        assert done.returncode == 1
        assert done.stderr == ""
        assert done.stdout.startswith("6 read, 2 published: 2 accepted\n\n4 could not be read:\n")
        assert f"  {path.name}:2: not JSON: Expecting value\n" in done.stdout
        assert f"  {path.name}:4: not JSON: NaN is not JSON\n" in done.stdout
        assert (
            f'  {path.name}:5: not a message: write {{"subject": …, "body": …}}, or add --subject for records that are bodies\n'
            in done.stdout
        )
        assert f"  {path.name}:6: subject = 5: it has to be text\n" in done.stdout

    def test_of_many_that_cannot_be_read_a_few_are_shown_and_the_rest_is_counted(self, shop: Shop) -> None:
        """A reader sees that there are more."""
        shop.config(OK)
        done = shop.run("run", "bus.toml", *ALLOW, "--input", "-", input="{\n" * 42)

        assert "42 could not be read:" in done.stdout
        assert done.stdout.count("not JSON") == 5
        assert "37 more" in done.stdout

    @pytest.mark.parametrize(
        ("record", "text"),
        [
            ({"subject": "a..b"}, '"a..b" has an empty token'),
            ({"subject": "a.*"}, "wildcard"),
            ({"subject": "a.b", "headers": {"pipebus-x": "y"}}, "reserved"),
            ({"subject": "a.b", "id": ""}, "id"),
            ({"subject": "a.b", "ttl": "soon"}, "ttl"),
        ],
        ids=str,
    )
    def test_what_cannot_be_published_is_told_counted_and_exit_code_1(self, shop: Shop, record: Any, text: str) -> None:
        """The exit code is what --help says, and a script gets a figure."""
        shop.config(OK)
        done = shop.run("run", "bus.toml", *ALLOW, "--input", "-", input=jsonl({"subject": "a.b"}, record))
        script = shop.run("run", "bus.toml", *ALLOW, "--input", "-", "--json", input=jsonl({"subject": "a.b"}, record))

        assert "1 could not be published:\n  standard input:2: " in done.stdout
        assert text in done.stdout
        assert done.returncode == script.returncode == 1
        plain_figures = {key: value for key, value in figures(script).items() if isinstance(value, int) and key != "elapsed_s"}
        assert plain_figures["read"] == 2
        assert plain_figures["accepted"] == 1
        assert [key for key, value in plain_figures.items() if value == 1 and key not in ("accepted", "published")]

    def test_an_error_of_a_filter_is_a_failure_and_the_others_are_published(self, shop: Shop) -> None:
        """The summary shows the error's type and text."""
        shop.config(OK, '[[pipelines]]\nmatch = "boom"\nfilters = [{ use = "python", target = "shop:boom" }]\n')
        done = shop.run(
            "run", "bus.toml", *ALLOW, "--input", "-", input=jsonl({"subject": "boom"}, {"subject": "a.b"}, {"subject": "boom"})
        )

        assert done.returncode == 1
        assert done.stdout.startswith("3 read, 3 published: 1 accepted, 2 failed\n")
        assert "standard input:1: KeyError: 'boom'" in done.stdout

    def test_a_rejected_record_is_no_failure(self, shop: Shop) -> None:
        """Filters are there to refuse records."""
        shop.config(OK, SMALL)
        done = shop.run("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", input=jsonl("bad", "dull"))

        assert done.returncode == 0
        assert done.stdout.startswith("2 read, 2 published: 0 accepted, 1 rejected, 1 dropped\n")

    def test_a_dead_letter_is_a_failure_if_not_said_otherwise(self, shop: Shop) -> None:
        """The option --dead-ok is for users who look at letters later."""
        shop.config(DIE)
        args = ("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b")
        done = shop.run(*args, input=jsonl(1))
        fine = shop.run(*args, "--dead-ok", input=jsonl(1))

        assert (done.returncode, fine.returncode) == (1, 0)
        assert "\ndead: a.b in dies: ValueError: no use for 1\n" in done.stdout

    @pytest.mark.parametrize(
        ("args", "parts"),
        [
            (["--input", "no.jsonl"], ["no.jsonl: no such file"]),
            (["--input", "."], ["Is a directory"]),
            (["--subject", "a.b"], ["--subject", "add --input FILE"]),
            (["--format", "csv"], ["--format", "add --input FILE"]),
            (["--outcomes"], ["--outcomes", "add --input FILE"]),
            (["--input", "x.csv"], ["add --subject"]),
            (["--input", "-", "--format", "csv"], ["add --subject"]),
            (["--input", "x.csv.gz", "--subject", "a.b"], ["x.csv.gz", "broken gzip data"]),
            (["--input", "x.zip", "--subject", "a.b"], ["x.zip", "zip archive", "unzip -p"]),
        ],
        ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
    )
    def test_what_cannot_be_done_is_one_line_and_exit_code_2(self, shop: Shop, args: list[str], parts: list[str]) -> None:
        """The error names the argument and suggests the next step."""
        shop.config(OK)
        shop.write("x.csv", "a,b\n1,2\n")
        (shop.folder / "x.csv.gz").write_bytes(gzip.compress(b"a,b\n" + os.urandom(9000).hex().encode())[:5000])
        (shop.folder / "x.zip").write_bytes(b"PK\x03\x04")

        assert_said_well(shop.run("run", "bus.toml", *ALLOW, *args), 2, "pipebus run: ", *parts)

    @pytest.mark.parametrize(
        "args",
        [["--timeout", "-1"], ["--timeout", "nan"], ["--timeout", "x"], ["--allow", "shop/x"], ["--allow", ""], ["--frmat"]],
        ids=" ".join,
    )
    def test_wrong_arguments_are_exit_code_2(self, shop: Shop, args: list[str]) -> None:
        """A wrong argument is refused before anything runs."""
        shop.config(OK)
        done = shop.run("run", "bus.toml", *ALLOW, "--input", "/dev/null", *args)

        assert_said_well(done, 2, args[0].lstrip("-").partition(" ")[0], lines=10)
        assert done.stdout == ""

    def test_a_config_that_cannot_be_loaded_is_all_told(self, shop: Shop) -> None:
        """Each problem begins with file and line, and nothing runs."""
        shop.config(subscription("one", "a..b", "nothing"))
        done = shop.run("run", "bus.toml", *ALLOW, "--input", "/dev/null")

        assert_said_well(done, 2, "bus.toml: 2 problems; nothing was loaded\n", "bus.toml:4: ", "bus.toml:5: ", lines=3)

    def test_a_filter_that_cannot_start_is_one_line(self, shop: Shop) -> None:
        """The line shows the filter's own error, whatever it is."""
        shop.write(
            "starts.py",
            """
            class Starts:
                def __call__(self, message, call_next):
                    return call_next(message)

                def start(self, context):
                    raise ValueError("no disk")
            """,
        )
        shop.config('[[pipelines]]\nfilters = [{ use = "python", target = "starts:Starts" }]\n')

        done = shop.run("run", "bus.toml", "--allow", "starts", "--input", "/dev/null")

        assert_said_well(done, 1, "pipebus run: ", "Starts", "no disk")

    def test_a_handler_that_outlives_the_timeout_is_told(self, shop: Shop) -> None:
        """A run that leaves a handler behind does not succeed."""
        shop.config(HELD)
        os.mkfifo(shop.folder / "gate")
        done = shop.run(
            "run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--timeout", "0.2",
            input=jsonl(1, 2), env=ENV | {"GATE": "gate"},
        )  # fmt: skip

        assert done.returncode == 1
        assert "not all messages were handled in time (--timeout 0.2 s); lost: held 2\n" in done.stdout
        assert "was still at work and was left behind" in done.stdout


class TestFlights:
    """The example in the repository does the same as the demo."""

    DAY = str(PACKAGED_DAY)

    @pytest.mark.thorough
    def test_the_figures_are_those_of_the_demo(self) -> None:
        """There are 842 records: 831 are accepted and 11 rejected for the same reasons, with 62 alerts."""
        done = run("run", FLIGHTS, *ALLOW_FLIGHTS, "--input", self.DAY, "--subject", "flights.raw", "--json")
        demo = figures(run("demo", "--json"))

        found = figures(done)
        assert (done.returncode, done.stderr) == (0, "")
        assert (
            (found["read"], found["published"], found["accepted"])
            == (842, demo["published"], demo["accepted"])
            == (842, 842, 831)
        )
        assert found["rejected"] == {"check": {"no arrival delay": 7, "no departure time": 4}}
        assert found["subscriptions"]["delays"]["acknowledged"] == 831
        assert found["subscriptions"]["alerts"]["acknowledged"] == demo["alerts"] == 62
        assert found["subscriptions"]["alerts"]["dropped"] == {"not late enough": 769}

    def test_the_means_are_those_of_the_demo(self) -> None:
        """The example's handler sums each carrier's flights and mean delay to the same values."""
        code = (
            "import json, sys; from pipebus.cli import main; code = main(sys.argv[1:]); import flights as f; "
            "print(json.dumps({c: {'flights': n, 'mean_arrival_delay': round(f.minutes[c] / n, 3)} "
            "for c, n in f.flights.items()}))"
        )
        args = ("run", FLIGHTS, *ALLOW_FLIGHTS, "--input", self.DAY, "--subject", "flights.raw", "--json")
        done = run(*args, program=[sys.executable, "-c", code])
        demo = figures(run("demo", "--json"))

        assert figures(done) == demo["carriers"]

    def test_a_request_of_the_same_input_is_answered(self) -> None:
        """A carrier that was not seen leads to a dead letter that says so."""
        done = run("run", FLIGHTS, *ALLOW_FLIGHTS, "--input", "-", input=jsonl({"subject": "carriers", "body": "ZZ"}))

        assert done.returncode == 1
        assert "dead: carriers in carriers: LookupError: no flight of ZZ was accepted" in done.stdout


class TestDeadLetters:
    """`--dead FILE` keeps dead letters."""

    def args(self, path: object = "letters.jsonl") -> tuple[object, ...]:
        return ("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--dead", path)

    def letters(self, shop: Shop) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (shop.folder / "letters.jsonl").read_text().splitlines()]

    def test_keeps_what_died(self, shop: Shop) -> None:
        """Each letter has its message as it would travel, its error and its traceback."""
        shop.config(DIE)
        done = shop.run(*self.args(), input=jsonl("tea"))

        assert done.returncode == 1
        [letter] = self.letters(shop)
        assert (letter["id"], letter["subscription"], letter["error"]) == ("d1", "dies", "ValueError: no use for tea")
        assert (letter["subject"], letter["body"], letter["attempts"]) == ("a.b", "tea", 1)
        assert letter["wire"]["data"] == "tea"
        assert "shop.py" in letter["traceback"]

    def test_two_runs_with_the_same_file_append(self, shop: Shop) -> None:
        """Each letter has its own id."""
        shop.config(DIE)
        for body in ("one", "two", "three"):
            shop.run(*self.args(), input=jsonl(body, body))

        letters = self.letters(shop)
        assert [letter["body"] for letter in letters] == ["one", "one", "two", "two", "three", "three"]
        assert len({letter["id"] for letter in letters}) == 6
        listed = shop.run("dead", "list", "letters.jsonl").stdout
        assert [line.split()[0] for line in listed.splitlines()[1:]] == [letter["id"] for letter in letters]

    def test_a_run_without_a_dead_letter_leaves_the_file_as_it_is(self, shop: Shop) -> None:
        """An older letter in the file is not lost."""
        shop.config(DIE)
        shop.run(*self.args(), input=jsonl("one"))
        before = (shop.folder / "letters.jsonl").read_bytes()

        assert shop.run(*self.args(), input="").returncode == 0
        assert (shop.folder / "letters.jsonl").read_bytes() == before

    @pytest.mark.parametrize("path", ["nowhere/letters.jsonl", "damaged.jsonl", "bus.toml", "."])
    def test_a_file_that_cannot_hold_them_is_told_before_the_first_record(self, shop: Shop, path: str) -> None:
        """The error does not come at the end, when the letters would be lost."""
        shop.config(DIE, OK)
        shop.write("damaged.jsonl", "this is no letter\n")
        done = shop.run(*self.args(path), input=jsonl("one"), env=ENV | {"NOTES": "notes"})

        assert_said_well(done, 2, "pipebus run: ", path)
        assert handled(shop.folder / "notes") == []
        assert (shop.folder / "damaged.jsonl").read_text() == "this is no letter\n"

    def test_they_are_kept_when_the_input_breaks_in_the_middle(self, shop: Shop) -> None:
        """The summary shows what was published until then, what died is kept, and the error comes last."""
        shop.config(DIE)
        (shop.folder / "x.gz").write_bytes(gzip.compress(b"1\n2\n" + os.urandom(50_000).hex().encode())[:-9000])
        done = shop.run("run", "bus.toml", *ALLOW, "--input", "x.gz", "--subject", "a.b", "--dead", "letters.jsonl")

        assert done.returncode == 2
        assert "x.gz" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        assert len(self.letters(shop)) >= 2
        assert "published: " in done.stdout + done.stderr

    def test_they_are_kept_when_nobody_reads_the_outcomes(self, shop: Shop) -> None:
        """`--outcomes --dead FILE | head -1`"""
        shop.config(DIE)
        theirs, ours = os.pipe()
        os.close(theirs)
        done = subprocess.run(
            [*PIPEBUS, *map(str, self.args()), "--outcomes"],
            cwd=shop.folder, env=ENV, input=jsonl(*range(2000)), stdout=ours, stderr=subprocess.PIPE, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        os.close(ours)

        assert (done.returncode, done.stderr) == (141, "")
        assert len(self.letters(shop)) >= 1

    @pytest.mark.parametrize("body", ["\ud800", "a\u2028b", "\x00"], ids=ascii)
    def test_whatever_a_body_says_can_be_kept_and_given_back(self, shop: Shop, body: str) -> None:
        """Any text that JSON allows can be kept."""
        shop.config(DIE)
        done = shop.run(*self.args(), input=jsonl(body))

        assert "Traceback" not in done.stderr
        assert done.returncode == 1
        [letter] = self.letters(shop)
        assert letter["subscription"] == "dies"
        assert sorted(os.listdir(shop.folder)) == ["bus.toml", "letters.jsonl", "shop.py"]
        listed = shop.run("dead", "list", "letters.jsonl")
        assert (listed.returncode, len(listed.stdout.splitlines())) == (0, 2)

    def test_what_cannot_travel_is_kept_to_be_looked_at(self, shop: Shop) -> None:
        """Mail for an object, or a body that is not data, can be shown but not given back."""
        shop.write(
            "odd.py",
            """
            import shop
            from pipebus import Bus

            bus = Bus()
            bus.subscribe("a.>", lambda message: bus.publish("b", object()) and None, name="first")
            bus.subscribe("b", shop.die, name="dies")
            """,
        )
        args = ("run", "odd:bus", "--input", "-", "--subject", "a.b", "--dead", "letters.jsonl")
        done = shop.run(*args, input=jsonl(1))

        assert (done.returncode, done.stderr) == (1, "")
        [letter] = self.letters(shop)
        assert "object" in letter["wire"]["error"]
        shown = shop.run("dead", "show", "letters.jsonl", "d1")
        assert (shown.returncode, shown.stderr) == (0, "")
        replayed = shop.run("dead", "replay", "letters.jsonl", "d1", "--on", "odd:bus")
        assert_said_well(replayed, 1, "d1 stays: ")
        assert [letter["id"] for letter in self.letters(shop)] == ["d1"]


class TestSignals:
    """SIGINT and SIGTERM end the reading, and what was accepted is handled."""

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
    @pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
    def test_in_the_middle_of_many_records(self, shop: Shop, number: signal.Signals, code: int, as_json: bool) -> None:
        """No record is broken off, every accepted one is handled, and the summary says what happened."""
        shop.config(OK)
        args = (
            "run",
            "bus.toml",
            *ALLOW,
            "--input",
            "-",
            "--subject",
            "a.b",
            "--tail",
            "a.>",
            *(["--json"] if as_json else []),
        )
        with shop.live(*args, env=ENV | {"NOTES": "notes"}) as live:
            out = live.collect_out()
            signalled = threading.Event()

            def records() -> Iterator[str]:
                for n in range(10_000):
                    if n == 5000:
                        signalled.wait(PATIENCE)
                    yield jsonl(n)

            live.write_behind(records())
            out.wait_for(3000)
            live.signal(number)
            signalled.set()
            assert live.wait() == code
            lines, told = out.lines, live.err.text

        if as_json:
            summary = json.loads(lines.pop())
            assert summary["interrupted"] == number.name
            accepted = summary["accepted"]
            assert summary["subscriptions"]["ok"]["acknowledged"] == accepted
            assert told == ""
        else:
            found = re.match(r"([\d,]+) read, ([\d,]+) published: ([\d,]+) accepted\n", told)
            assert found, told
            accepted = int(found[3].replace(",", ""))
            assert masked(told).endswith(f"T s; stopped by {number.name}\n")
        assert 3000 <= accepted < 10_000
        assert handled(shop.folder / "notes") == [str(n) for n in range(accepted)]
        assert [json.loads(line)["body"] for line in lines] == list(range(accepted))

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
    def test_while_it_waits_for_input(self, shop: Shop, number: signal.Signals) -> None:
        """The command leaves a pipe with a silent writer at once."""
        shop.config(OK)
        with shop.live("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--tail", ">", "--json") as live:
            out = live.collect_out()
            live.write(jsonl(1))
            out.wait_for(1)
            live.signal(number)
            assert live.wait() == 128 + number
        summary = json.loads(out.lines[-1])
        assert (summary["read"], summary["accepted"], summary["interrupted"]) == (1, 1, number.name)

    def test_a_handler_at_work_is_waited_for(self, shop: Shop) -> None:
        """The handler is not broken off, and the messages that wait behind it are handled."""
        shop.config(HELD)
        gate = shop.folder / "gate"
        os.mkfifo(gate)
        args = ("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--outcomes", "--json")
        with shop.live(*args, env=ENV | {"GATE": str(gate)}, notes=True) as live:
            out = live.collect_out()
            live.write(jsonl(1, 2, 3))
            out.wait_for(3)  # all are accepted
            noted = [live.notes.readline()]
            live.signal(signal.SIGTERM)
            through = os.open(gate, os.O_RDWR)  # at once, and from now on the handler's end is, too
            os.write(through, b"123")
            noted += live.notes.read().splitlines(keepends=True)
            assert live.wait() == 143
            os.close(through)
        summary = json.loads(out.lines[-1])
        assert summary["accepted"] == summary["subscriptions"]["held"]["acknowledged"] == 3
        assert noted == [f"{word} {n}\n" for n in (1, 2, 3) for word in ("begun", "ended")]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
    def test_a_second_one_hurries(self, shop: Shop, number: signal.Signals) -> None:
        """A user who cannot wait for a slow handler sends the signal again; the summary says that something was left behind."""
        shop.config(HELD)
        gate = shop.folder / "gate"
        os.mkfifo(gate)
        args = ("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--timeout", "3000")
        with shop.live(*args, env=ENV | {"GATE": str(gate)}, notes=True) as live:
            out = live.collect_out()
            live.write(jsonl(1, 2))
            assert live.notes.readline() == "begun 1\n"
            live.signal(number)
            # The program has stopped reading when the pipe has no reader.
            with pytest.raises(BrokenPipeError):  # noqa: PT012 (which of them it is, nobody knows)
                for n in count(3):
                    live.write(jsonl(n) * 1000)
            live.signal(number)
            assert live.wait() == 128 + number
        assert "Traceback" not in live.err.text
        assert f"; stopped by {number.name}\n" in out.text
        assert "left behind" in out.text

    def test_without_input_it_runs_until_sigterm_and_drains(self, shop: Shop) -> None:
        """What the schedule has published is handled, and the run is a success."""
        shop.config(OK, '[[every]]\ninterval = "10ms"\nsubject = "a.tick"\nbody = "tick"\n')
        with shop.live("run", "bus.toml", *ALLOW, "--json", notes=True) as live:
            out = live.collect_out()
            assert [live.notes.readline() for _ in range(3)] == ["tick\n"] * 3
            live.signal(signal.SIGTERM)
            rest = live.notes.read().splitlines()
            assert live.wait() == 0
            assert live.err.text == "running: 1 subscription; Ctrl-C drains and stops\n"
        summary = json.loads(out.text)
        assert summary["accepted"] == summary["subscriptions"]["ok"]["acknowledged"] == 3 + len(rest)

    def test_without_input_ctrl_c_is_how_it_ends(self, shop: Shop) -> None:
        """The first line says that Ctrl-C ends it, and the summary counts no records."""
        shop.config(OK, DIE.replace('"a.>"', '"b"'))
        with shop.live("run", "bus.toml", *ALLOW) as live:
            out = live.collect_out()
            live.err.wait_for(1)
            live.signal(signal.SIGINT)
            assert live.wait() in (0, 130)
        assert "Traceback" not in live.err.text
        assert masked(out.text).startswith("0 published: 0 accepted\n")


class TestPipes:
    """A reader may go away, and streams may be closed."""

    @pytest.mark.parametrize("option", [["--tail", ">"], ["--outcomes"], ["--json"], []], ids=lambda option: " ".join(option))
    def test_a_reader_that_went_away_is_no_traceback(self, shop: Shop, option: list[str]) -> None:
        """The command ends as other programs do, after it has handled what it accepted."""
        shop.config(OK)
        theirs, ours = os.pipe()
        os.close(theirs)
        done = subprocess.run(
            [*PIPEBUS, "run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", *option],
            cwd=shop.folder, env=ENV, input=jsonl(*range(100)), stdout=ours, stderr=subprocess.PIPE, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        os.close(ours)

        assert (done.returncode, done.stderr) == (141, "")

    def test_head_gets_its_line(self, shop: Shop) -> None:
        """`… --tail '>' | head -1`"""
        shop.config(OK)
        shop.write("x.jsonl", jsonl(*range(3000)))
        script = (
            '{ "$0" -m pipebus run bus.toml --allow shop --input x.jsonl --subject a.b --tail ">"; echo $? >&2; } | head -1'
        )
        done = run(program=["sh", "-c", script, sys.executable], cwd=shop.folder)

        assert json.loads(done.stdout)["body"] == 0
        assert done.stderr == "141\n"

    def test_it_ends_though_the_input_goes_on(self, shop: Shop) -> None:
        """`tail -f log | pipebus run … --tail '>' | head -1` ends with the next record, not with the log."""
        shop.config(OK)

        def records() -> Iterator[str]:
            for n in range(200_000):
                yield jsonl(n)

        with shop.live("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--tail", ">") as live:
            writer = live.write_behind(records())
            assert live.process.stdout
            live.process.stdout.readline()
            live.process.stdout.close()
            assert live.wait() == 141
            assert not writer.is_alive()
        assert live.process.stdin
        # It has not read on to the end: the writer's pipe broke.
        assert live.err.text == ""

    def test_a_reader_that_goes_away_while_the_input_is_silent(self, shop: Shop) -> None:
        """The command ends at the next record that it prints, although the writer keeps its end open."""
        shop.config(OK)
        with shop.live("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--tail", ">") as live:
            live.write(jsonl(1))
            assert live.process.stdout
            live.process.stdout.readline()
            live.process.stdout.close()
            live.write(jsonl(2, 3))
            assert live.wait() == 141
        assert live.err.text == ""

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
    def test_a_stream_that_is_closed_from_the_start(self, shop: Shop, closed: str) -> None:
        """Some services start their programs with closed streams."""
        shop.config(OK)
        shop.write("x.jsonl", jsonl(1))
        script = f'"$0" -m pipebus run bus.toml --allow shop --input x.jsonl --subject a.b --tail ">" --dead l.jsonl {closed}'
        done = run(program=["sh", "-c", script, sys.executable], cwd=shop.folder)

        assert (done.returncode, "Traceback" in done.stderr) == (0, False)

    @pytest.mark.parametrize("option", [["--tail", ">"], ["--outcomes"], ["--json"]], ids=lambda option: option[0])
    def test_a_full_disk_is_no_dead_letter(self, shop: Shop, option: list[str]) -> None:
        """A full disk makes no dead letter of a message that was handled."""
        shop.config(OK)
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*PIPEBUS, "run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--dead", "l.jsonl", *option],
                cwd=shop.folder, env=ENV, input=jsonl(1), stdout=full, stderr=subprocess.PIPE, text=True,
                timeout=PATIENCE, check=False,
            )  # fmt: skip

        assert done.returncode == 1
        assert done.stderr.endswith(" records a second\npipebus: standard output: No space left on device\n")
        letters = shop.folder / "l.jsonl"
        assert not letters.exists() or letters.read_text() == ""

    @pytest.mark.parametrize("body", ["é…", "\ud800"], ids=ascii)
    def test_an_encoding_that_has_not_all_characters_is_no_failure(self, shop: Shop, body: str) -> None:
        """JSON can write everything in ASCII."""
        shop.config(OK)
        done = shop.run(
            "run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--tail", ">", "--json", input=jsonl(body),
            env=ENV | {"PYTHONIOENCODING": "ascii"},
        )  # fmt: skip

        assert (done.returncode, done.stderr) == (0, "")
        first, last = [json.loads(line) for line in done.stdout.splitlines()]
        assert (first["body"], last["dead_letters"]) == (body, 0)

    def test_standard_input_that_is_closed_is_told(self, shop: Shop) -> None:
        """A closed standard input (`<&-`) is an error in one line."""
        shop.config(OK)
        script = '"$0" -m pipebus run bus.toml --allow shop --input - --subject a.b <&-'
        done = run(program=["sh", "-c", script, sys.executable], cwd=shop.folder)

        assert_said_well(done, 2, "pipebus run: standard input")


class TestTerminal:
    """The output suits a person at a terminal."""

    @pytest.mark.parametrize("program", [PIPEBUS, WITHOUT_RICH], ids=["with rich", "without rich"])
    @pytest.mark.parametrize("columns", [40, 100])
    @pytest.mark.thorough
    def test_the_summary_is_whole_at_any_width(self, program: list[str], columns: int) -> None:
        """Nothing is cut off, and the figures are the same."""
        done = on_terminal("run", WEBHOOKS, "--allow", "webhooks", "--input", EVENTS, columns=columns, program=program)

        assert done.code == 1
        assert "Traceback" not in done.text
        words = re.sub(r"[\s\u2500]+", "", done.text)  # as folding has it
        assert "12read" in words
        assert "thesignatureiswrong" in words or columns == 40
        for line in ("ledger3000", "refunds1010", "welcome1100"):
            assert line in words
        assert "deadeventsrefundinrefunds" in words.replace(":", "").replace(".", "")

    @pytest.mark.parametrize("columns", [40, 100])
    def test_a_table_of_rich_is_no_wider_than_the_terminal(self, columns: int) -> None:
        """The table folds its cells instead of growing."""
        done = on_terminal("run", WEBHOOKS, "--allow", "webhooks", "--input", EVENTS, columns=columns)

        tables = done.text.partition("12 read")[2].partition("\n")[2].partition("dead:")[0]
        assert max(map(len, tables.splitlines())) <= max(columns, 62)

    @pytest.mark.parametrize("program", [PIPEBUS, WITHOUT_RICH], ids=["with rich", "without rich"])
    @pytest.mark.parametrize("columns", [40, 100])
    def test_progress_is_shown_and_gone_at_the_end(self, program: list[str], columns: int) -> None:
        """The progress of a file is a percentage, and only the summary stays."""
        args = ("run", FLIGHTS, *ALLOW_FLIGHTS, "--input", str(PACKAGED_DAY), "--subject", "flights.raw")
        done = on_terminal(*args, columns=columns, program=program)
        quiet = on_terminal(*args, "--quiet", columns=columns, program=program)

        assert done.code == quiet.code == 0
        shown, _, summary = done.raw.rpartition("842 read")
        assert summary
        assert "%" in shown
        if columns == 100:
            assert re.search(r"\d+ accepted, \d+ not accepted, \d+ handled", plain(shown))
        assert "%" not in quiet.raw

    def test_a_pipe_of_unknown_length_has_progress_without_percent(self, shop: Shop) -> None:
        """A pipe has no known length, so there is no percentage."""
        shop.config(OK)
        read_end, write_end = os.pipe()
        os.write(write_end, jsonl(*range(1000)).encode())
        os.close(write_end)
        args = ("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b")
        done = on_terminal(*args, program=WITHOUT_RICH, cwd=shop.folder, stdin=read_end)
        os.close(read_end)

        assert done.code == 0
        assert "\r1,000 accepted, 0 not accepted, 1,000 handled" in done.raw
        assert "%" not in done.raw

    def test_no_color_is_respected(self, shop: Shop) -> None:
        """The variable NO_COLOR turns colours off; see https://no-color.org."""
        shop.config(DIE)
        shop.write("x.jsonl", jsonl(1))
        args = ("run", "bus.toml", *ALLOW, "--input", "x.jsonl", "--subject", "a.b", "--quiet")
        environment = ENV | {"TERM": "xterm-256color"}
        plainly = on_terminal(*args, cwd=shop.folder, env=environment | {"NO_COLOR": "1"})
        coloured = on_terminal(*args, cwd=shop.folder, env=environment)

        assert "\x1b[31m" in coloured.raw
        assert not re.search(r"\x1b\[3\d", plainly.raw)

    def test_without_a_terminal_nothing_is_coloured(self, shop: Shop) -> None:
        """Files and pipes get no colours, whatever TERM says."""
        shop.config(DIE)
        done = shop.run(
            "run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", input=jsonl(*range(300)),
            env=ENV | {"TERM": "xterm-256color"},
        )  # fmt: skip

        assert "\x1b" not in done.stdout + done.stderr
        assert "\r" not in done.stdout + done.stderr

    def test_ctrl_c_at_the_keyboard(self, shop: Shop) -> None:
        """The terminal sends SIGINT to all processes: the exit code is 130, with a summary and without a traceback."""
        shop.config(OK)
        with Live(
            "run",
            "bus.toml",
            *ALLOW,
            "--input",
            "-",
            "--subject",
            "a.b",
            "--tail",
            ">",
            cwd=shop.folder,
            start_new_session=True,
        ) as live:
            out = live.collect_out()
            live.write(jsonl(1))
            out.wait_for(1)
            os.killpg(live.process.pid, signal.SIGINT)
            assert live.wait() == 130
        assert "stopped by SIGINT" in live.err.text
        assert "Traceback" not in live.err.text


class TestLog:
    """`--log` shows what is logged."""

    @pytest.mark.thorough
    def test_shows_what_is_logged_on_stderr(self, shop: Shop) -> None:
        """Log lines go to stderr and leave stdout alone."""
        shop.config(OK, '[[pipelines]]\nfilters = ["log"]\n')
        args = ("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--json")
        quiet = shop.run(*args, input=jsonl(1, 2))
        done = shop.run(*args, "--log", input=jsonl(1, 2))

        assert quiet.stderr == ""
        assert done.stderr.count("message.passed") == 2
        assert figures(done)["accepted"] == 2
        assert len(done.stdout.splitlines()) == 1

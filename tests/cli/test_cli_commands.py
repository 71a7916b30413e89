"""The commands besides `run` and `demo` as a person or a shell script meets them: a real process each time."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cli_helpers import (
    ALLOW_FLIGHTS,
    ENV,
    FLIGHTS,
    PATIENCE,
    PIPEBUS,
    WEBHOOKS,
    WITHOUT_RICH,
    Shop,
    assert_said_well,
    jsonl,
    many,
    on_terminal,
    run,
    subscription,
)  # fmt: skip

ALLOW = ("--allow", "shop")
ALLOW_WEBHOOKS = ("--allow", "webhooks")
OK = subscription("ok", "a.>", "ok")
DIES = subscription("dies", "d.>", "die")
HELD = subscription("dies", "d.>", "held")
ECHO = subscription("echo", "e.>", "echo")
SMALL = '[[pipelines]]\nfilters = [{ use = "python", target = "shop:small" }]\n'
BOOM = '[[pipelines]]\nmatch = "boom"\nfilters = [{ use = "python", target = "shop:boom" }]\n'
KEPT = '[[pipelines]]\nmatch = "p.>"\non_error = "dead_letter"\nfilters = [{ use = "python", target = "shop:boom" }]\n'
TICK = '[[every]]\ninterval = "20ms"\nsubject = "a.tick"\nbody = { n = 1 }\nheaders = { from = "clock" }\n'
STARTS = """
    class Starts:
        def __call__(self, message, call_next):
            return call_next(message)

        def start(self, context):
            raise ValueError("no disk")
"""
CANNOT_START = '[[pipelines]]\nfilters = [{ use = "python", target = "starts:Starts" }]\n'
COMMANDS = (
    "run", "check", "test", "explain", "trace", "graph", "diff", "publish", "tail", "top", "dead", "subscriptions", "schedules",
    "backup", "schema", "filters", "doctor", "demo",
)  # fmt: skip
FILTERS = [
    "circuit_breaker", "concurrency", "dedupe", "drop", "enrich", "expire", "fallback", "fields", "log", "rate_limit", "redact",
    "redeliver", "reroute", "retry", "set_envelope", "set_headers", "sign", "size_limit", "tap", "timeout", "validate",
    "verify",
]  # fmt: skip

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def case(name: str, subject: str, body: object, expect: str) -> str:
    """Return a table of [[tests]] as text."""
    return f'[[tests]]\nname = "{name}"\npublish = {{ subject = "{subject}", json = {json.dumps(body)} }}\nexpect = {expect}\n'


def lines_of(text: str) -> list[dict[str, Any]]:
    """Read text as JSON Lines."""
    return [json.loads(line) for line in text.splitlines()]


def tidy(text: str) -> str:
    """Return the text without the time that the command took."""
    return re.sub(r"\d+\.\d\d s\n$", "T s\n", text)


class TestEveryCommand:
    """Every command has these properties."""

    def test_help_of_each_command_has_examples(self) -> None:
        """A user who types `pipebus COMMAND --help` can copy an example."""
        for command, done in zip(COMMANDS, many(*([command, "--help"] for command in COMMANDS)), strict=True):
            assert (done.returncode, done.stderr) == (0, ""), command
            assert done.stdout.startswith(f"usage: pipebus {command} [-h]")
            assert "\nexample" in done.stdout, command
            assert f"\n  pipebus {command}" in done.stdout, command

    def test_help_lists_every_command_with_its_line(self) -> None:
        """A new user begins with `pipebus --help`."""
        done = run("--help")

        assert done.returncode == 0
        assert re.findall(r"^    (\w+) +\S", done.stdout, re.MULTILINE) == list(COMMANDS)

    def test_an_unknown_option_is_exit_code_2(self) -> None:
        """The error names the option and shows how the command is used."""
        needed = {"check": ["x"], "explain": ["x", "a"], "graph": ["x"], "diff": ["x", "y"], "publish": ["x", "a"],
                  "tail": ["x"], "top": ["x"], "dead": ["list", "x"], "run": ["x"], "trace": ["x", "a"],
                  "subscriptions": ["list", "x"], "schedules": ["x"], "backup": ["x", "y"]}  # fmt: skip
        for done in many(*([command, *needed.get(command, []), "--frmat"] for command in COMMANDS)):
            assert_said_well(done, 2, "usage: pipebus", "--frmat", lines=12)
            assert done.stdout == ""

    def test_what_is_missing_or_unknown_is_exit_code_2(self) -> None:
        """A wrong command line is refused before anything is done."""
        wrong = ["", "nothing", "check", "explain", "explain x", "graph", "diff x", "publish x", "tail", "dead", "dead list",
                 "dead lsit x", "graph x --format svg", "tail x --count 0", "tail x --count -1", "tail x --count 1.5",
                 "tail x --count many", "publish x a --timeout -1", "publish x a --timeout nan", "check x --allow shop/x",
                 "dead replay x --timeout soon"]  # fmt: skip
        for done in many(*(text.split() for text in wrong)):
            assert_said_well(done, 2, "usage: pipebus", ": error: ", lines=12)
            assert done.stdout == ""

    def test_a_target_that_is_none_is_one_line_and_exit_code_2(self, shop: Shop) -> None:
        """The line names the target and suggests the next step if there is one; `graph` is tested for all commands."""
        shop.write(
            "app.py",
            """
            from pipebus import Bus

            bus, number = Bus(), 5


            def fails():
                raise RuntimeError("no luck")


            async def later():
                return Bus()
            """,
        )
        shop.write("broken.py", "raise SystemExit(7)\n")

        table = {
            "no.toml": "no.toml: no such file",
            "bus": "bus: no such file; a bus in a module is MODULE:BUS, as in bus:bus",
            "nowhere:bus": "nowhere cannot be imported: ModuleNotFoundError",
            "app:bsu": 'app has no "bsu"; did you mean "bus"?',
            "app:number": "app:number is int, not a Bus",
            "app:fails": "app:fails fails: RuntimeError: no luck",
            "app:later": "app:later is async",
            "broken:bus": "broken cannot be imported: SystemExit: 7",
        }  # fmt: skip
        for done, text in zip(many(*(["graph", target] for target in table), cwd=shop.folder), table.values(), strict=True):
            assert_said_well(done, 2, text)

    def test_a_config_with_problems_is_all_told(self, shop: Shop) -> None:
        """Each problem begins with file and line; the exit code is 2, and nothing is done."""
        shop.config(subscription("one", "a..b", "nothing"))
        commands = ("explain bus.toml a.b", "graph bus.toml", "diff bus.toml bus.toml", "publish bus.toml a.b",
                    "tail bus.toml", "test bus.toml", "dead replay l.jsonl --all --on bus.toml")  # fmt: skip
        shop.write("l.jsonl", "")
        for done in many(*([*command.split(), *ALLOW] for command in commands), cwd=shop.folder):
            assert_said_well(done, 2, "bus.toml: 2 problems; nothing was loaded\n", "bus.toml:4: ", "bus.toml:5: ", lines=3)
            assert done.stdout == ""

    def test_a_name_that_cannot_be_printed_is_a_problem_as_others(self, shop: Shop) -> None:
        """A text from a file never causes a traceback."""
        shop.config(subscription("a\\u001bb", "a.>", "ok"))
        done = shop.run("check", "bus.toml", *ALLOW)

        assert "Traceback" not in done.stderr
        assert done.returncode == 1
        assert re.match(r"bus\.toml:\d: .*a name is a printable string that is not empty\n$", done.stdout)

    @pytest.mark.parametrize("args", [["filters"], ["graph", WEBHOOKS, *ALLOW_WEBHOOKS]], ids=lambda args: args[0])
    def test_a_reader_who_went_away_is_no_trouble(self, shop: Shop, args: list[Any]) -> None:
        """`pipebus filters | head -0` ends as other programs do."""
        theirs, ours = os.pipe()
        os.close(theirs)
        done = subprocess.run(
            [*PIPEBUS, *map(str, args)], cwd=shop.folder, env=ENV, stdin=subprocess.DEVNULL, stdout=ours,
            stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        os.close(ours)

        assert (done.returncode, done.stderr) == (141, "")

    def test_no_room_for_the_answer_is_one_line(self) -> None:
        """A full disk is reported in one line."""
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*PIPEBUS, "schema"], env=ENV, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False
            )
        assert (done.returncode, done.stderr) == (1, "pipebus: standard output: No space left on device\n")


class TestCheck:
    """`pipebus check`"""

    def test_the_examples_are_fine_and_counted(self) -> None:
        """`check` takes several files at once, each with the modules next to it."""
        done = run("check", WEBHOOKS, FLIGHTS, *ALLOW_WEBHOOKS, *ALLOW_FLIGHTS)

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            f"{WEBHOOKS}: fine: 8 filters, 3 subscriptions, 0 schedules, 8 tests\n"
            f"{FLIGHTS}: fine: 5 filters, 3 subscriptions, 0 schedules, 4 tests\n"
        )

    def test_filters_are_counted_wherever_they_stand(self, shop: Shop) -> None:
        """It counts those in conditions, nested pipelines, delivery chains and subscriptions; a count of one has no plural."""
        shop.config(
            '[[pipelines]]\nfilters = ["log", { when = "a.>", filters = ["log", { filters = ["log"] }] }]\n',
            '[[pipelines]]\nat = "delivery"\nfilters = [{ branch = "b", filters = ["log"] }]\n',
            subscription("ok", "a.>", "ok", filters=["log"]), TICK,
            case("one", "a.b", "tea", '{ outcome = "accepted" }'),
        )  # fmt: skip
        done = shop.run("check", "bus.toml", *ALLOW)

        assert (done.returncode, done.stdout) == (0, "bus.toml: fine: 5 filters, 1 subscription, 1 schedule, 1 test\n")

    BAD = """
        [[subscriptions]]
        name = "a"
        subject = "a..b"
        handler = "shop:nothing"
        workers = 0
        bogus = 1

        [filters]
        x = 5

        [[every]]
        subject = "a.*"
    """

    def test_many_problems_are_told_at_once_and_the_other_files_are_read(self, shop: Shop) -> None:
        """Each problem is one line in the order of the file, and files without problems are listed too."""
        shop.config(self.BAD, name="bad.toml")
        shop.config(OK)
        done = shop.run("check", "bad.toml", "bus.toml", "no.toml", *ALLOW)

        assert done.returncode == 1
        problems = [line for line in done.stdout.splitlines() if line.startswith("bad.toml:")]
        assert [int(line.split(":")[1]) for line in problems] == [5, 6, 7, 8, 11, 13, 14]
        for part in ('"a..b"', 'shop has no "nothing"', "at least 1", '"bogus"', "x = 5", '"interval" is missing', "wildcard"):
            assert sum(part in line for line in problems) >= 1, part
        assert "bus.toml: fine: 0 filters, 1 subscription, 0 schedules, 0 tests\n" in done.stdout
        assert "no.toml: no such file\n" in done.stdout
        assert done.stderr == (
            "bad.toml: 7 problems; nothing would be loaded\nno.toml: 1 problem; nothing would be loaded\n"
        )  # fmt: skip

    def test_json_is_a_line_for_each_problem_and_nothing_else(self, shop: Shop) -> None:
        """Scripts read these lines; a file without problems has none."""
        shop.config(self.BAD, name="bad.toml")
        shop.config(OK)
        done = shop.run("check", "bus.toml", "bad.toml", "no.toml", "--json", *ALLOW)

        assert (done.returncode, done.stderr) == (1, "")
        problems = lines_of(done.stdout)
        assert [one["file"] for one in problems] == ["bad.toml"] * 7 + ["no.toml"]
        assert [one["line"] for one in problems] == [5, 6, 7, 8, 11, 13, 14, None]
        assert problems[2] == {
            "file": "bad.toml", "line": 7, "where": 'subscriptions[0] "a"', "text": "workers = 0: it has to be at least 1",
        }  # fmt: skip
        fine = shop.run("check", "bus.toml", "--json", *ALLOW)
        assert (fine.returncode, fine.stdout, fine.stderr) == (0, "", "")

    def test_what_is_no_config_is_one_problem(self, shop: Shop) -> None:
        """A path that is not a config file is one problem, whatever it is."""
        (shop.folder / "a.toml").mkdir()
        table = {
            "a.toml": (b"", "a.toml: it is not a file"),
            "b.toml": (b"[bad", "b.toml:1: not TOML: "),
            "c.toml": (b'version = 1\nx = "\xff"\n', "c.toml:2: not UTF-8: byte 0xff"),
            "d.toml": (b"version = 2\n", "d.toml:1: version = 2: this pipebus reads version 1"),
            "e.toml": (b"", '"version" is missing'),
        }  # fmt: skip
        for name, (data, _) in table.items():
            if data or name == "e.toml":
                (shop.folder / name).write_bytes(data)
        done = shop.run("check", *table)

        assert_said_well(done, 1, *(f"{name}: 1 problem; nothing would be loaded\n" for name in table), lines=5)
        for line, (_, text) in zip(done.stdout.splitlines(), table.values(), strict=True):
            assert text in line

    def test_a_package_that_is_not_allowed_says_how_to_allow_it(self, shop: Shop) -> None:
        """The error shows the option to add."""
        shop.config(OK)
        done = shop.run("check", "bus.toml")

        assert done.returncode == 1
        assert 'package "shop" is not allowed' in done.stdout
        assert "--allow shop" in done.stdout

    def test_each_file_finds_the_module_beside_it(self, shop: Shop) -> None:
        """Two folders may each have a module of the same name."""
        for name in ("one", "two"):
            shop.write(f"{name}/mod.py", f"def {name}(message):\n    pass\n")
            shop.config(f'[[subscriptions]]\nname = "a"\nsubject = "b"\nhandler = "mod:{name}"\n', name=f"{name}/pipebus.toml")
        done = shop.run("check", "one/pipebus.toml", "two/pipebus.toml", "--allow", "mod")

        assert done.stdout == "".join(
            f"{name}/pipebus.toml: fine: 0 filters, 1 subscription, 0 schedules, 0 tests\n" for name in ("one", "two")
        )
        assert done.returncode == 0


class TestFileTests:
    """`pipebus test`"""

    GOOD = case("Fine", "a.b", "tea", '{ outcome = "accepted", deliveries = { ok = 1 } }')
    WRONG = case("wrong outcome", "a.b", "bad", '{ outcome = "accepted" }')
    BODY = (
        '[[tests]]\nname = "body differs"\npublish = { subject = "a.b", json = { total = 5, items = [1, 2] } }\n'
        "[tests.expect]\nreceived.ok = { body = { total = 6, items = [1, 3] } }\n"
    )
    DEATH = case("dies unexpectedly", "d.b", 1, '{ outcome = "accepted" }')

    def file(self, shop: Shop, name: str = "pipebus.toml") -> Path:
        return shop.config(SMALL, OK, DIES, self.GOOD, self.WRONG, self.BODY, self.DEATH, name=name)

    def test_the_examples_pass(self) -> None:
        """Each test has a line, in the order of the files in two folders."""
        done = run("test", WEBHOOKS.parent, FLIGHTS.parent, *ALLOW_WEBHOOKS, *ALLOW_FLIGHTS)

        assert (done.returncode, done.stderr) == (0, "")
        *passed, last = done.stdout.splitlines()
        assert [line.split()[0] for line in passed] == ["passed"] * 12
        assert passed[0] == f"passed  a payment is booked  ({WEBHOOKS}:57)"
        assert re.fullmatch(r"12 passed in \d+\.\d\d s", last)

    def test_what_differs_is_told_with_file_and_line(self, shop: Shop) -> None:
        """All tests run, and each difference names what was expected and what was found."""
        self.file(shop)
        done = shop.run("test", "pipebus.toml", *ALLOW)

        assert (done.returncode, done.stderr) == (1, "")
        assert tidy(done.stdout) == (
            "passed  Fine  (pipebus.toml:15)\n"
            "FAILED  wrong outcome  (pipebus.toml:20)\n"
            '        pipebus.toml:23: outcome: expected "accepted", found "rejected" (by small: it is bad)\n'
            "FAILED  body differs  (pipebus.toml:25)\n"
            "        pipebus.toml:29: received.ok.body.total: expected 6, found 5\n"
            "        pipebus.toml:29: received.ok.body.items[1]: expected 3, found 2\n"
            "FAILED  dies unexpectedly  (pipebus.toml:31)\n"
            "        pipebus.toml:31: a message died in dies: ValueError: no use for 1 (if that is expected: dead = 1)\n"
            "1 passed, 3 failed in T s\n"
        )

    def test_messages_that_nobody_expected_are_shown(self, shop: Shop) -> None:
        """The difference shows unexpected messages in a readable line."""
        publishes = ", ".join(f'{{ subject = "a.{n}", json = "tea" }}' for n in (1, 2))
        shop.config(OK, f'[[tests]]\nname = "more"\npublish = [{publishes}]\nexpect.received.ok = {{ body = "tea" }}\n')
        done = shop.run("test", "bus.toml", *ALLOW)

        assert done.returncode == 1
        assert "\\n" not in done.stdout
        assert '        bus.toml:10: received.ok: expected 1 message, found 2: a.1 "tea"; a.2 "tea"\n' in done.stdout

    def test_k_chooses_by_name_in_any_case(self, shop: Shop) -> None:
        """The last line says how many tests were not chosen."""
        self.file(shop)
        fine, differs = many(*(["test", "pipebus.toml", *ALLOW, "-k", name] for name in ("fine", "DIFFERS")), cwd=shop.folder)

        assert (fine.returncode, differs.returncode) == (0, 1)
        assert tidy(fine.stdout) == "passed  Fine  (pipebus.toml:15)\n1 passed, 3 not chosen in T s\n"
        assert tidy(differs.stdout).endswith("0 passed, 1 failed, 3 not chosen in T s\n")
        assert len(re.findall("^(passed|FAILED)", differs.stdout, re.MULTILINE)) == 1

    def test_v_shows_the_story_of_what_failed(self, shop: Shop) -> None:
        """The story shows each step in virtual time; tests that passed have no story."""
        self.file(shop)
        done = shop.run("test", "pipebus.toml", *ALLOW, "-v", "-k", "i")

        assert done.returncode == 1
        assert done.stdout.startswith("passed  Fine  (pipebus.toml:15)\nFAILED  ")
        story = done.stdout.partition("FAILED  body differs")[2].partition("FAILED")[0].splitlines()[3:]
        assert story == [
            "        |    0.000  bus    is started",
            "        |    0.000  small  is given a.b {'total': 5, 'items': [1, 2]}",
            "        |    0.000  small  gives Receipt(1)",
            "        |    0.000  bus    accepts a.b {'total': 5, 'items': [1, 2]} for 1 mailbox",
            "        |    0.000  ok     is given a.b {'total': 5, 'items': [1, 2]}",
            "        |    0.000  ok     returns",
        ]

    def test_json_is_a_line_for_each_test(self, shop: Shop) -> None:
        """The count is for people and goes to stderr."""
        self.file(shop)
        done = shop.run("test", "pipebus.toml", *ALLOW, "--json")

        assert done.returncode == 1
        assert tidy(done.stderr) == "1 passed, 3 failed in T s\n"
        found = lines_of(done.stdout)
        assert [one["passed"] for one in found] == [True, False, False, False]
        assert found[0] == {"name": "Fine", "file": "pipebus.toml", "line": 15, "passed": True, "differences": []}
        assert found[2]["differences"] == [
            "pipebus.toml:29: received.ok.body.total: expected 6, found 5",
            "pipebus.toml:29: received.ok.body.items[1]: expected 3, found 2",
        ]

    def test_a_folder_is_looked_through(self, shop: Shop) -> None:
        """Without a folder it is the current one; configs are found by name at any depth, except hidden ones."""
        for name in ("pipebus.toml", "deep/er/x.pipebus.toml"):
            shop.config(OK, self.GOOD.replace("Fine", name), name=name)
        for name in (".venv/pipebus.toml", "deep/.x/y.pipebus.toml", "other.toml", "mypipebus.toml", "deep/.pipebus.toml"):
            shop.config("[broken", name=name)
        done = shop.run("test", *ALLOW)

        assert done.returncode == 0, done.stderr
        named = re.findall(r"^passed  (\S+)", done.stdout, re.MULTILINE)
        assert sorted(named) == ["deep/er/x.pipebus.toml", "pipebus.toml"]

    def test_a_hidden_folder_that_is_named_is_looked_through(self, shop: Shop) -> None:
        """A hidden folder that the user names is searched."""
        shop.config(OK, self.GOOD, name=".hidden/pipebus.toml")
        done = shop.run("test", ".hidden", *ALLOW)

        assert done.returncode == 0
        assert done.stdout.startswith("passed  Fine  (.hidden/pipebus.toml:7)\n")

    def test_where_nothing_can_be_tested_it_is_said_with_exit_code_2(self, shop: Shop) -> None:
        """A test command without tests cannot succeed by accident."""
        self.file(shop)
        shop.config(OK, name="untested.toml")
        shop.write("bad.toml", "[bad")
        for folder in ("none", "nil"):
            (shop.folder / folder).mkdir()
        table = {
            "none": "no pipebus.toml and no NAME.pipebus.toml below none; name a config file",
            "none nil": "below none and nil; name a config file",
            "pipebus.toml -k nobody": 'none of 4 tests has "nobody" in its name in pipebus.toml',
            "untested.toml": "there are no [[tests]] in untested.toml",
            "no.toml": "no.toml: no such file",
            "bad.toml": "bad.toml:1: not TOML",
            "pipebus.toml bad.toml": "bad.toml:1: not TOML",
        }
        found = many(*(["test", *args.split(), *ALLOW] for args in table), cwd=shop.folder)
        for done, text in zip(found, table.values(), strict=True):
            assert_said_well(done, 2, text)
            assert done.stdout == ""


class TestExplain:
    """`pipebus explain`"""

    ROAD = (
        '[[pipelines]]\nmatch = { expr = "body.total > `100`" }\nfilters = ["log"]\n',
        '[[pipelines]]\nmatch = "b.>"\nfilters = ["log"]\n',
        subscription("ok", "a.>", "ok", workers=2, mailbox={}).replace("{}", '{ size = 5, overflow = "reject" }'),
    )

    def test_the_road_of_a_subject(self, shop: Shop) -> None:
        """The text shows each filter with its place and its reason, and each mailbox."""
        shop.config(*self.ROAD)
        done = shop.run("explain", "bus.toml", "a.b", *ALLOW)

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            "a.b\n\n"
            "publish chain\n"
            "  when(body.total > `100`)  asked for each message         bus.toml:2\n"
            "    Log                                                    bus.toml:4\n"
            '  when("b.>")               not taken: a.b does not match  bus.toml:6\n\n'
            "mailboxes\n"
            "  ok on a.>  [pool, 2 workers; reject at 5]  bus.toml:10\n"
            "    -> ok\n"
        )

    def test_a_body_and_headers_are_asked(self, shop: Shop) -> None:
        """`explain` shows the path of this message. Headers are given one by one; a value may contain equals signs."""
        shop.config(
            '[[pipelines]]\nfilters = [{ when = { expr = "body.total > `100`" }, filters = ["log"] }, '
            '{ when = { expr = "headers.tenant == \'acme=x\'" }, filters = ["dedupe"] }]\n'
        )
        one, two, three = many(
            ["explain", "bus.toml", "a.b", "--body", '{"total": 120}'],
            ["explain", "bus.toml", "a.b", "--body", '{"total": 99}', "--header", "a=b", "--header", "tenant=acme=x"],
            ["explain", "bus.toml", "a.b", "--header", "tenant=acme=x"], cwd=shop.folder,
        )  # fmt: skip

        total, tenant = "body.total > `100` is", "headers.tenant == 'acme=x' is"
        assert f" taken: {total} True for this message" in one.stdout
        assert "Log" in one.stdout
        assert f" not taken: {total} False for this message" in two.stdout
        assert "Log" not in two.stdout
        assert f" taken: {tenant} True for this message" in two.stdout
        assert "Dedupe" in two.stdout
        assert " unknown: body.total > `100` raises " in three.stdout  # there is no body
        assert (three.returncode, three.stderr) == (0, "")

    def test_a_bus_of_a_program_is_explained(self, shop: Shop) -> None:
        """MODULE:BUS may name a bus or a function that makes one, and places are those of the program."""
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
        for done in many(*(["explain", target, "a.b"] for target in ("app:bus", "app:make")), cwd=shop.folder):
            assert (done.returncode, done.stderr) == (0, "")
            assert "publish chain: no filter\n" in done.stdout
            assert "  ok on a.>  [pool, 1 worker; block at 10,000, 5 s]  app.py:8\n    -> ok\n" in done.stdout

    def test_where_nobody_listens_it_is_said(self, shop: Shop) -> None:
        """The text says what a publish would do."""
        shop.config(OK)
        done = shop.run("explain", "bus.toml", "z", *ALLOW)

        assert done.stdout.startswith("z\n\npublish chain: no filter\n\nmailboxes: nobody listens (")

    def test_the_webhooks_example_is_explained(self) -> None:
        """The text does not show a secret from the environment."""
        done = run("explain", WEBHOOKS, "webhooks.raw", *ALLOW_WEBHOOKS, env=ENV | {"WEBHOOK_SECRET": "hush-hush"})

        assert done.returncode == 0
        assert "taken: webhooks.raw matches" in done.stdout
        assert "may change the subject: what follows depends on it" in done.stdout
        assert "hush-hush" not in done.stdout

    @pytest.mark.parametrize("command", ["explain", "publish"])
    def test_wrong_arguments_are_one_line_and_exit_code_2(self, shop: Shop, command: str) -> None:
        """Both commands that take a message name the argument, what was found, and how to write it."""
        shop.config(OK)
        bodies = [("{", "found '{'"), ("tea", "found 'tea'"), ("NaN", "NaN is not JSON"), ("[-Infinity]", "-Infinity"),
                  ("1e999", "1e999"), ("", "found ''"), ("[" * 10_000, " is JSON, as in ")]  # fmt: skip
        table = [(["a.b", *(["--body"] if command == "explain" else []), body], text) for body, text in bodies] + [
            (["a.b", "--header", "tenant"], "--header is NAME=TEXT, as in tenant=acme; found 'tenant'"),
            (["a.b", "--header", "x y=1"], "'x y' cannot be a header's name"),
            (["a.b", "--header", "=1"], "'' cannot be a header's name"),
            (["a..b"], '"a..b" has an empty token'),
            (["a.*"], 'wildcard "*"'),
            ([""], "empty"),
        ]  # fmt: skip
        found = many(*([command, "bus.toml", *args, *ALLOW] for args, _ in table), cwd=shop.folder)
        for done, (_, text) in zip(found, table, strict=True):
            assert_said_well(done, 2, f"pipebus {command}: ", text)
            assert done.stdout == ""


class Graph:
    """A Mermaid flowchart, read: its boxes by their texts, its arrows between texts."""

    def __init__(self, text: str) -> None:
        first, *lines = text.splitlines()
        assert first == "flowchart TD"
        self.texts: dict[str, str] = {}
        self.arrows: list[tuple[str, str, str]] = []
        for line in lines:
            box = re.fullmatch(r'    (n\d+)[\[({/]+"([^"<>]*)"[\])}/]+', line)
            arrow = re.fullmatch(r"    (n\d+) -->(?:\|([^|]+)\|)? (n\d+)", line)
            assert box or arrow, line
            if box:
                self.texts[box[1]] = box[2]
            elif arrow:
                self.arrows.append((self.texts[arrow[1]], arrow[2] or "", self.texts[arrow[3]]))


class TestGraph:
    """`pipebus graph`"""

    @pytest.mark.thorough
    def test_the_webhooks_example_as_text(self) -> None:
        """The tree shows what a message passes, down to its handlers."""
        done = run("graph", WEBHOOKS, *ALLOW_WEBHOOKS)

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            "publish\n"
            '  |- when "webhooks.raw"\n'
            "  |     |- Log\n"
            "  |     |- signature\n"
            "  |     |- once\n"
            "  |     |- Fields\n"
            "  |     |- Reroute\n"
            '  |- when "events.*"\n'
            "  |     |- shape\n"
            "  |\n"
            "  |- ledger  on events.payment  [block at 10,000]\n"
            "  |     |- Retry\n"
            "  |     => webhooks:book (pool)\n"
            "  |- refunds  on events.refund  [block at 10,000]\n"
            "  |     |- Retry\n"
            "  |     => webhooks:give_back (pool)\n"
            "  '- welcome  on events.signup  [block at 10,000]\n"
            "        |- Retry\n"
            "        |- Drop\n"
            "        => webhooks:welcome (pool) -> mails.out\n"
        )

    def test_the_webhooks_example_as_mermaid(self) -> None:
        """Each way that a message may take is an arrow."""
        done = run("graph", WEBHOOKS, *ALLOW_WEBHOOKS, "--format", "mermaid")

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith('flowchart TD\n    n1(["publish"])\n    n2{"webhooks.raw"}\n    n1 --> n2\n')
        assert Graph(done.stdout).arrows == [
            ("publish", "", "webhooks.raw"),
            ("webhooks.raw", "yes", "Log"),
            ("Log", "", "signature"),
            ("signature", "", "once"),
            ("once", "", "Fields"),
            ("Fields", "", "Reroute"),
            ("Reroute", "", "events.*"),
            ("webhooks.raw", "no", "events.*"),
            ("events.*", "yes", "shape"),
            ("shape", "", "mailboxes"),
            ("events.*", "no", "mailboxes"),
            ("mailboxes", "", "ledger: events.payment"),
            ("ledger: events.payment", "", "Retry"),
            ("Retry", "", "webhooks:book"),
            ("mailboxes", "", "refunds: events.refund"),
            ("refunds: events.refund", "", "Retry"),
            ("Retry", "", "webhooks:give_back"),
            ("mailboxes", "", "welcome: events.signup"),
            ("welcome: events.signup", "", "Retry"),
            ("Retry", "", "Drop"),
            ("Drop", "", "webhooks:welcome"),
            ("webhooks:welcome", "mails.out", "publish"),
        ]

    FORKS = (
        """
        [[pipelines]]
        filters = [
            "log",
            { branch = "x.>", filters = [{ use = "expire", ttl = "1s" }, { when = "x.y", filters = ["dedupe"] }] },
            { filters = [{ use = "set_headers", headers = { a = "b" } }], on_error = "drop" },
        ]
        """,
        '[[every]]\ninterval = "90s"\nsubject = "x.tick"\n',
        subscription("say", "x.>", "ok", workers=3, filters=["log"], to="y"),
    )

    def test_forks_and_pipelines_as_text(self, shop: Shop) -> None:
        """What is inside a fork or a pipeline is indented; schedules come first."""
        shop.config(*self.FORKS)
        done = shop.run("graph", "bus.toml", *ALLOW)

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            "every 90 s -> x.tick\n"
            "publish\n"
            "  |- Log\n"
            '  |- branch "x.>"\n'
            "  |     |- Expire\n"
            '  |     |- when "x.y"\n'
            "  |     |     |- Dedupe\n"
            "  |- pipeline on_error=drop\n"
            "  |     |- SetHeaders\n"
            "  |\n"
            "  '- say  on x.>  [block at 10,000]\n"
            "        |- Log\n"
            "        => shop:ok (pool, 3 workers) -> y\n"
        )

    def test_forks_and_pipelines_as_mermaid(self, shop: Shop) -> None:
        """An arrow of a detour comes back, and that of a branch goes to the mailboxes."""
        shop.config(*self.FORKS)
        arrows = Graph(shop.run("graph", "bus.toml", *ALLOW, "--format", "mermaid").stdout).arrows

        assert arrows == [
            ("every 90 s: x.tick", "", "publish"),
            ("publish", "", "Log"),
            ("Log", "", "x.&gt;"),
            ("x.&gt;", "yes", "Expire"),
            ("Expire", "", "x.y"),
            ("x.y", "yes", "Dedupe"),
            ("x.&gt;", "no", "SetHeaders"),
            ("SetHeaders", "", "mailboxes"),
            ("Dedupe", "", "mailboxes"),
            ("x.y", "no", "mailboxes"),
            ("mailboxes", "", "say: x.&gt;"),
            ("say: x.&gt;", "", "Log"),
            ("Log", "", "shop:ok"),
            ("shop:ok", "y", "publish"),
        ]

    def test_a_mailbox_that_is_not_like_others_is_drawn_with_its_rule(self, shop: Shop) -> None:
        """What a full mailbox does is seen without the file, as in the text."""
        shop.config(subscription("ok", "a.b", "ok") + 'mailbox = { size = 100, overflow = "drop_oldest" }\n')

        arrows = Graph(shop.run("graph", "bus.toml", *ALLOW, "--format", "mermaid").stdout).arrows

        assert ("mailboxes", "", "ok: a.b (drop_oldest at 100)") in arrows

    def test_a_branch_of_all_deliveries_comes_to_the_filters_of_the_subscription(self, shop: Shop) -> None:
        """The branch skips what follows it in its own chain, as `explain` says."""
        shop.config(
            '[[pipelines]]\nat = "delivery"\nfilters = [{ branch = "a.b", filters = ["retry"] }, "log"]\n',
            subscription("ok", "a.>", "ok", filters=["dedupe"]),
        )
        explained, drawn = many(
            ["explain", "bus.toml", "a.b", *ALLOW], ["graph", "bus.toml", *ALLOW, "--format", "mermaid"], cwd=shop.folder
        )
        arrows = Graph(drawn.stdout).arrows

        assert re.search(r"Retry .*\n +\(Log\) +skipped: a branch was taken\n +Dedupe ", explained.stdout)
        assert ("Retry", "", "Dedupe") in arrows
        assert ("Retry", "", "shop:ok") not in arrows

    def test_filters_that_are_not_for_readers_are_not_drawn_there(self, shop: Shop) -> None:
        """Filters that wrap handlers do not apply to a subscription without one, as `explain` says."""
        shop.config('[[pipelines]]\nat = "delivery"\nfilters = ["retry"]\n', subscription("pull", "a.>", None))
        for done in many(["graph", "bus.toml"], ["graph", "bus.toml", "--format", "mermaid"], cwd=shop.folder):
            assert done.returncode == 0
            assert "read by the program" in done.stdout
            assert "Retry" not in done.stdout

    def test_without_subscriptions_it_is_said(self, shop: Shop) -> None:
        """An empty bus has a picture too."""
        shop.config()
        text, mermaid = many(["graph", "bus.toml"], ["graph", "bus.toml", "--format", "mermaid"], cwd=shop.folder)
        assert text.stdout == "publish\n  |\n  '- nobody subscribes\n"
        assert Graph(mermaid.stdout).arrows == [("publish", "", "mailboxes")]

    def test_odd_texts_are_quoted_in_mermaid(self, shop: Shop) -> None:
        """Mermaid reads none of their characters as its own, and nothing is lost."""
        table = {
            "body == 'a<b>&'": "body == 'a&lt;b&gt;&amp;'",
            'body."odd name"': "body.&quot;odd name&quot;",
            '"body".a': "&quot;body&quot;.a",
        }
        pipelines = (f'[[pipelines]]\nmatch = {{ expr = {json.dumps(expr)} }}\nfilters = ["log"]\n' for expr in table)
        shop.config(*pipelines, subscription('say \\"hi\\" [<b>]', "a.>", "ok"))
        done = shop.run("graph", "bus.toml", "--format", "mermaid", *ALLOW)

        assert (done.returncode, done.stderr) == (0, "")
        texts = [text for text in Graph(done.stdout).texts.values() if text != "Log"]
        assert texts == ["publish", *table.values(), "mailboxes", "say &quot;hi&quot; [&lt;b&gt;]: a.&gt;", "shop:ok"]


class TestDiff:
    """`pipebus diff`"""

    BASE = """
        [bus]
        name = "one"

        [[pipelines]]
        filters = ["log", { use = "drop", when = { expr = "body == 'x'" }, reason = "no x" }]

        [[pipelines]]
        at = "delivery"
        filters = [{ use = "retry", attempts = 3 }]

        [[subscriptions]]
        name = "ok"
        subject = "a.>"
        handler = "shop:ok"
        filters = [{ when = "a.b", filters = ["dedupe"] }]

        [[every]]
        interval = "1m"
        subject = "a.tick"
    """

    def test_the_same_bus_is_exit_code_0(self, shop: Shop) -> None:
        """Lines, comments and the order of subscriptions make no difference."""
        shop.config(OK, DIES, name="a.toml")
        shop.config("# a comment\n\n", DIES, OK, name="b.toml")
        done = shop.run("diff", "a.toml", "b.toml", *ALLOW)

        assert (done.returncode, done.stdout, done.stderr) == (0, "a.toml and b.toml are the same bus\n", "")

    def test_what_differs_is_told_part_by_part(self, shop: Shop) -> None:
        """
        A minus marks the first target, a plus the second, and unchanged lines around them stay as they are; the exit code is 1.
        """
        drop = 'Drop(when={"expr": "body == \'x\'"}, reason="no x")'
        log = 'Log(level="info", body=false, headers=false, redact=[])'
        retry = 'Retry(attempts=3, wait=0.1, max_wait=10.0, jitter=0.2, on="builtins:Exception")'
        dedupe = "Dedupe(window=600.0, size=100000, durable=false)"
        table = [
            ('name = "one"', 'name = "two"', ["bus", '- name = "one"', '+ name = "two"']),
            ('name = "one"', 'name = "one"\ndead_letters = 3', ["bus", "- dead_letters = 10000", "+ dead_letters = 3"]),
            ('name = "one"', 'name = "one"\ntransport = "memory:?wire=json"',
             ["bus", '- transport = "memory:"', '+ transport = "memory:?wire=json"']),
            ('"log", ', '{ use = "expire", ttl = "1s" }, ', ["publish chain", f"- {log}", "+ Expire(ttl=1.0)", f"  {drop}"]),
            ('reason = "no x"', 'reason = "none"',
             ["publish chain", f"  {log}", f"- {drop}", f"+ {drop}".replace("no x", "none")]),
            ("attempts = 3", "attempts = 4", ["delivery chain", f"- {retry}", f"+ {retry}".replace("3", "4", 1)]),
            ('subject = "a.>"', 'subject = ["a.>", "b"]\nworkers = 2',
             ["subscription ok", '- subjects = ["a.>"]', '+ subjects = ["a.>", "b"]', "- workers = 1", "+ workers = 2"]),
            ('when = "a.b"', 'branch = "a.b"', ["subscription ok", '- when "a.b"', '+ branch "a.b"', f"    {dedupe}"]),
            ('["dedupe"]', '["log"]', ["subscription ok", '  when "a.b"', f"-   {dedupe}", f"+   {log}"]),
            ('interval = "1m"', 'interval = "2m"',
             ["schedules", '- every=60.0, subject="a.tick"', '+ every=120.0, subject="a.tick"']),
        ]  # fmt: skip
        shop.config(self.BASE, name="a.toml")
        for number, (old, new, _) in enumerate(table):
            assert old in self.BASE
            shop.config(self.BASE.replace(old, new), name=f"{number}.toml")
        found = many(*(["diff", "a.toml", f"{n}.toml", *ALLOW] for n in range(len(table))), cwd=shop.folder)
        for done, (_, _, (part, *lines)) in zip(found, table, strict=True):
            assert done.stdout == "".join([f"{part}\n", *(f"  {line}\n" for line in lines)])
            assert (done.returncode, done.stderr) == (1, "")

    def test_a_subscription_that_is_new_or_gone_is_told_with_its_filters(self, shop: Shop) -> None:
        """Every line of an added subscription is marked."""
        shop.config(OK, name="a.toml")
        shop.config(
            OK, subscription("more", "b", "ok", workers=2)
            + 'filters = [{ when = "b", filters = [{ use = "expire", ttl = "1s" }] }]\n',
            name="b.toml",
        )  # fmt: skip
        there, back = many(
            *(["diff", *files, *ALLOW] for files in (["a.toml", "b.toml"], ["b.toml", "a.toml"])), cwd=shop.folder
        )

        assert (there.returncode, back.returncode) == (1, 1)
        head, first, *rest = there.stdout.splitlines()
        assert head == "subscription more"
        assert first.startswith('  + name="more", subjects=["b"], handler="shop:ok", run="pool", workers=2, mailbox={')
        assert rest == ['  +   when "b"', "  +     Expire(ttl=1.0)"]
        assert back.stdout == there.stdout.replace("  + ", "  - ")

    def test_everything_counts(self, shop: Shop) -> None:
        """Every difference between two buses is shown, in whatever form."""
        long = f'"{"no " * 40}x"'
        table = {
            "a long setting": ('{ use = "drop", when = { expr = "body" }, reason = LONG }', "LONG", long, long[:-2] + 'y"'),
            "a key that is called place": ('{ use = "enrich", add = { place = "Rome" } }', "Rome", "Rome", "Oslo"),
            "a module": ('{ use = "python", target = "shop:small" }', "shop", "shop", "other"),
            "a class": ('{ use = "python", target = "other:Plain", n = 1 }', "1", "1", "2"),
            "a dataclass": ('{ use = "python", target = "other:Given", n = 1 }', "1", "1", "2"),
            "what becomes of errors": ('{ filters = ["log"], on_error = "reject" }', "reject", "reject", "drop"),
            "a schedule": ('"log"]\n[[every]]\ninterval = "1m"\nsubject = "a"\nbody = [LONG', "LONG", long, long[:-2] + 'y"'),
        }  # fmt: skip
        shop.write(
            "other.py",
            """
            from dataclasses import dataclass

            from shop import small as _small
            from pipebus import transform


            @transform
            def small(message):
                return message


            class Plain:
                def __init__(self, n: int) -> None:
                    self.n = n

                def __call__(self, message, call_next):
                    return call_next(message)


            @dataclass(eq=False)
            class Given:
                n: int

                def __call__(self, message, call_next):
                    return call_next(message)
            """,
        )
        for number, (text, old, *news) in enumerate(table.values()):
            for name, new in zip("ab", news, strict=True):
                shop.config(f"[[pipelines]]\nfilters = [{text.replace(old, new)}]\n", name=f"{name}{number}.toml")
        commands = [["diff", f"a{n}.toml", f"b{n}.toml", *ALLOW, "--allow", "other"] for n in range(len(table))]
        found = dict(zip(table, many(*commands, cwd=shop.folder), strict=True))

        assert [done.stderr for done in found.values()] == [""] * len(table)
        assert [name for name, done in found.items() if "the same bus" in done.stdout or done.returncode != 1] == []

    def test_a_difference_is_told_once(self, shop: Shop) -> None:
        """A transport that comes from the environment is an ordinary option."""
        shop.config('[bus]\ntransport = "${env:NO_SUCH:-memory:?wire=json}"\n', name="a.toml")
        shop.config('[bus]\ntransport = "memory:"\n', name="b.toml")
        done = shop.run("diff", "a.toml", "b.toml")

        assert done.returncode == 1
        assert len(done.stdout.splitlines()) == len(set(done.stdout.splitlines())) == 3

    def test_a_file_and_a_program(self, shop: Shop) -> None:
        """`diff` compares a config file with a program's bus."""
        shop.config(OK, "[[pipelines]]\nfilters = [\"log\"]\n")  # fmt: skip
        shop.write(
            "app.py",
            """
            import shop
            from pipebus import Bus
            from pipebus.filters import Log


            def made(**options):
                bus = Bus()
                bus.use(Log())
                bus.subscribe("a.>", shop.ok, name="ok", **options)
                return bus


            def other():
                return made(workers=2)
            """,
        )
        same, other = many(["diff", "bus.toml", "app:made", *ALLOW], ["diff", "app:other", "bus.toml", *ALLOW], cwd=shop.folder)

        assert (same.returncode, same.stdout) == (0, "bus.toml and app:made are the same bus\n")
        assert (other.returncode, other.stdout) == (1, "subscription ok\n  - workers = 2\n  + workers = 1\n")

    def test_the_second_target_may_be_missing(self, shop: Shop) -> None:
        """The error is the one that a missing first target gives."""
        shop.config(OK)
        assert_said_well(shop.run("diff", "bus.toml", "no.toml", *ALLOW), 2, "no.toml: no such file")


class TestPublish:
    """`pipebus publish`"""

    def test_what_became_of_it_is_told_and_the_exit_code_says_it(self, shop: Shop) -> None:
        """The result is one JSON object, and the exit code is 1 for a message that is refused, fails or dies."""
        small = SMALL.replace("filters", 'match = "a.>"\nfilters')
        shop.config(small, BOOM, KEPT, OK, DIES, ECHO)
        died = {"subscription": "dies", "by": "die", "error": "ValueError: no use for tea"}
        kept = {"subscription": "publish", "by": "boom", "error": "KeyError: 'boom'"}
        table: list[tuple[str, int, dict[str, Any]]] = [
            ('a.b "tea"', 0, {"outcome": "accepted", "mailboxes": 1}),
            ("a.b", 0, {"outcome": "accepted", "mailboxes": 1}),
            ("a.b --text dull", 0, {"outcome": "dropped", "by": "small", "reason": "it is dull"}),
            ("z", 0, {"outcome": "unrouted", "mailboxes": 0}),
            ("a.b --text bad", 1, {"outcome": "rejected", "by": "small", "reason": "it is bad"}),
            ("boom 1", 1, {"outcome": "failed", "reason": "KeyError: 'boom'"}),
            ("p.q 1", 1, {"outcome": "dropped", "by": "boom", "reason": "dead_letter: KeyError", "dead": [kept]}),
            ("d.b --text tea", 1, {"outcome": "accepted", "mailboxes": 1, "dead": [died]}),
            ('e.b {"n":[1,null,"é"]} --request', 0, {"outcome": "replied", "body": {"n": [1, None, "é"]}}),
            ("e.b --text 5 --request", 0, {"outcome": "replied", "body": "5"}),
            ("z 1 --request", 1,
             {"outcome": "failed", "reason": "nobody listens to z; subscribe a handler that returns a value"}),
            ("d.b --text tea --request", 1,
             {"outcome": "failed", "reason": "the handler failed with ValueError: no use for tea"}),
            ("a.b --text bad --request", 1, {"outcome": "rejected", "by": "small", "reason": "it is bad"}),
        ]  # fmt: skip
        found = many(*(["publish", "bus.toml", *args.split(), *ALLOW] for args, _, _ in table), cwd=shop.folder)
        for done, (args, code, told) in zip(found, table, strict=True):
            assert lines_of(done.stdout) == [told], args
            assert (done.returncode, done.stderr) == (code, ""), args

    def test_its_envelope_comes_to_the_handler(self, shop: Shop) -> None:
        """Headers, key and id reach the handler."""
        shop.write(
            "tell.py",
            "def all(message):\n"
            "    return [message.id, message.key, {k: v for k, v in message.headers.items() if len(k) == 1}]\n",
        )
        shop.config('[[subscriptions]]\nname = "t"\nsubject = "t"\nhandler = "tell:all"\n')
        given = ["--header", "a=1=2", "--header", "b=", "--key", "k", "--id", "m7"]
        done = shop.run("publish", "bus.toml", "t", "--allow", "tell", *given, "--request")

        assert (done.returncode, done.stderr) == (0, "")
        assert lines_of(done.stdout) == [{"outcome": "replied", "body": ["m7", "k", {"a": "1=2", "b": ""}]}]

    def test_a_body_of_standard_input(self, shop: Shop) -> None:
        """`echo '{"id": 1}' | pipebus publish bus.toml e.b -`"""
        shop.config(ECHO)
        done = shop.run("publish", "bus.toml", "e.b", "-", "--request", *ALLOW, input='{"id": 1}\n')

        assert (done.returncode, lines_of(done.stdout)) == (0, [{"outcome": "replied", "body": {"id": 1}}])

    @pytest.mark.parametrize("data", [b"", b"{", b'"\xff"'], ids=["nothing", "no JSON", "no UTF-8"])
    def test_standard_input_that_is_no_json_is_exit_code_2(self, shop: Shop, data: bytes) -> None:
        """It is refused just as an argument that is not JSON."""
        shop.config(OK)
        (shop.folder / "body").write_bytes(data)
        with (shop.folder / "body").open("rb") as file:
            done = shop.run("publish", "bus.toml", "a.b", "-", *ALLOW, stdin=file)

        assert_said_well(done, 2, "pipebus publish: ")
        assert done.stdout == ""

    def test_closed_standard_input_is_exit_code_2(self, shop: Shop) -> None:
        """A closed standard input (`<&-`) is an error in one line."""
        shop.config(OK)
        script = '"$0" -m pipebus publish bus.toml a.b - --allow shop <&-'
        done = run(program=["sh", "-c", script, sys.executable], cwd=shop.folder)

        assert_said_well(done, 2, "pipebus publish: standard input")

    def test_two_bodies_are_one_too_many(self, shop: Shop) -> None:
        """A body is either JSON or text."""
        shop.config(OK)
        done = shop.run("publish", "bus.toml", "a.b", "1", "--text", "1", *ALLOW)

        assert_said_well(done, 2, "pipebus publish: a body is JSON or --text, not both")

    @pytest.mark.parametrize("request_", [[], ["--request"]], ids=["publish", "request"])
    def test_a_handler_still_at_work_at_the_timeout_is_told(self, shop: Shop, request_: list[str]) -> None:
        """A command that leaves a handler behind does not succeed."""
        shop.config(HELD)
        os.mkfifo(shop.folder / "gate")
        args = ("publish", "bus.toml", "d.1", "1", *ALLOW, "--timeout", "200ms", *request_)
        done = shop.run(*args, env=ENV | {"GATE": "gate"})

        assert (done.returncode, done.stderr) == (1, "")
        [told] = lines_of(done.stdout)
        assert told["outcome"] == ("failed" if request_ else "accepted")
        assert "not all messages were handled in time" in told["left"][0]
        assert ("no reply on d.1 in 0.2 s" in told.get("reason", "")) == bool(request_)

    def test_a_handler_that_ends_in_time_is_waited_for(self, shop: Shop) -> None:
        """The command ends when everything it published is handled, and not before."""
        shop.config(HELD)
        gate = shop.folder / "gate"
        os.mkfifo(gate)
        args = ("publish", "bus.toml", "d.1", "1", *ALLOW, "--timeout", "3000")
        with shop.live(*args, env=ENV | {"GATE": str(gate)}, notes=True) as live:
            out = live.collect_out()
            assert live.notes.readline() == "begun 1\n"
            assert out.lines == []
            os.close(os.open(gate, os.O_WRONLY))
            assert live.notes.readline() == "ended 1\n"
            assert live.wait() == 0
        assert lines_of(out.text) == [{"outcome": "accepted", "mailboxes": 1}]

    def test_a_filter_that_cannot_start_is_told_in_one_line(self, shop: Shop) -> None:
        """Every command that starts a bus reports it in this way."""
        shop.write("starts.py", STARTS)
        shop.write("l.jsonl", "")
        shop.config(CANNOT_START)
        commands = ("publish bus.toml a.b", "tail bus.toml", "dead replay l.jsonl --all --on bus.toml")
        found = many(*([*command.split(), "--allow", "starts"] for command in commands), cwd=shop.folder)
        for done, command in zip(found, commands, strict=True):
            assert_said_well(done, 1, f"pipebus {command.split()[0]}: ", "Starts", "ValueError: no disk")


class TestTail:
    """`pipebus tail`"""

    @pytest.mark.thorough
    def test_count_ends_it(self, shop: Shop) -> None:
        """Messages of the schedules come as JSON Lines, and the command ends after so many."""
        shop.config(TICK)
        done = shop.run("tail", "bus.toml", "--count", "3")

        assert (done.returncode, done.stderr) == (0, "")
        found = lines_of(done.stdout)
        assert len({one.pop("id") for one in found}) == 3
        assert all(one.pop("time") > 1e9 for one in found)
        assert found == [{"subject": "a.tick", "headers": {"from": "clock"}, "body": {"n": 1}}] * 3

    def test_a_pattern_chooses_and_what_handlers_publish_is_seen(self, shop: Shop) -> None:
        """Messages are shown as they are after the publish chain."""
        shop.config(
            TICK, subscription("echo", "a.>", "echo", to="b.out"),
            '[[pipelines]]\nmatch = "b.>"\nfilters = [{ use = "set_headers", headers = { seen = "yes" } }]\n',
        )  # fmt: skip
        done = shop.run("tail", "bus.toml", "b.>", "--count", "2", *ALLOW)

        assert done.returncode == 0
        assert [(one["subject"], one["headers"]["seen"]) for one in lines_of(done.stdout)] == [("b.out", "yes")] * 2

    def test_lines_can_be_put_into_a_run(self, shop: Shop) -> None:
        """The output can be published again."""
        shop.config(TICK)
        shop.config(OK, name="other.toml")
        seen = shop.run("tail", "bus.toml", "--count", "2").stdout
        done = shop.run("run", "other.toml", "--input", "-", "--tail", ">", "--quiet", *ALLOW, input=seen)

        before, after = lines_of(seen), lines_of(done.stdout)
        assert len(after) == 2
        assert [one | {"time": 0} for one in after] == [one | {"time": 0} for one in before]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
    def test_a_signal_is_how_it_ends(self, shop: Shop, number: signal.Signals) -> None:
        """Ctrl-C ends the command without a traceback, and every line is whole."""
        shop.config(TICK)
        with shop.live("tail", "bus.toml") as live:
            out = live.collect_out()
            out.wait_for(2)
            live.signal(number)
            assert live.wait() == 0
        assert live.err.text == ""
        assert {one["subject"] for one in lines_of(out.text)} == {"a.tick"}

    def test_a_reader_that_closes_ends_it(self, shop: Shop) -> None:
        """`pipebus tail … | head -1`"""
        shop.config(TICK)
        script = '{ "$0" -m pipebus tail bus.toml; echo $? >&2; } | head -1'
        done = run(program=["sh", "-c", script, sys.executable], cwd=shop.folder)

        assert json.loads(done.stdout)["subject"] == "a.tick"
        assert done.stderr == "141\n"

    def test_no_room_for_lines_ends_it(self, shop: Shop) -> None:
        """A full disk is an error in one line with exit code 1."""
        shop.config(TICK)
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*PIPEBUS, "tail", "bus.toml"], cwd=shop.folder, env=ENV, stdin=subprocess.DEVNULL, stdout=full,
                stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False,
            )  # fmt: skip

        assert (done.returncode, done.stderr) == (1, "pipebus: standard output: No space left on device\n")

    def test_a_person_is_told_how_to_end_it(self, shop: Shop) -> None:
        """The hint appears only on a terminal."""
        shop.config(TICK)
        done = on_terminal("tail", "bus.toml", "a.>", "--count", "1", cwd=shop.folder)

        assert done.code == 0
        assert done.text.startswith("waiting for messages on a.>; Ctrl-C ends\n{")

    def test_a_pattern_that_is_none_is_exit_code_2(self, shop: Shop) -> None:
        """A wrong pattern is refused before the command waits."""
        shop.config(TICK)
        for done in many(*(["tail", "bus.toml", pattern] for pattern in ("a..b", "", "a.>.b")), cwd=shop.folder):
            assert_said_well(done, 2, "pipebus tail: ")
            assert done.stdout == ""


@pytest.fixture(scope="module")
def two_letters(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file that `run --dead` has written: d1 of d.1, d2 of d.2, in the subscription "dies"."""
    shop = Shop(tmp_path_factory.mktemp("letters"))
    shop.config(DIES)
    records = jsonl(
        {"subject": "d.1", "body": "tea", "key": "k", "headers": {"tenant": "acme"}}, {"subject": "d.2", "body": "ale"}
    )
    done = shop.run("run", "bus.toml", *ALLOW, "--input", "-", "--dead", "letters.jsonl", input=records)
    assert done.returncode == 1, done.stderr
    return (shop.folder / "letters.jsonl").read_text()


class TestDead:
    """`pipebus dead`"""

    @pytest.fixture
    def letters(self, shop: Shop, two_letters: str) -> Path:
        return shop.write("letters.jsonl", two_letters)

    def ids(self, path: Path) -> list[str]:
        return [one["id"] for one in lines_of(path.read_text())]

    def replay(self, shop: Shop, *which: object, on: str = "bus.toml", **options: Any) -> Done:
        allow = ALLOW if on.endswith(".toml") else ()
        return shop.run("dead", "replay", "letters.jsonl", *which, "--on", on, *allow, **options)

    def test_list_is_a_table(self, shop: Shop, letters: Path) -> None:
        """The times in the table are in UTC."""
        done = shop.run("dead", "list", "letters.jsonl")

        assert (done.returncode, done.stderr) == (0, "")
        assert re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "(when)             ", done.stdout) == (
            "id  died                     subject  in    error\n"
            "d1  (when)              UTC  d.1      dies  ValueError: no use for tea\n"
            "d2  (when)              UTC  d.2      dies  ValueError: no use for ale\n"
        )

    def test_list_as_json_and_of_one_subscription(self, shop: Shop, letters: Path) -> None:
        """Each letter is a line, without traceback and encoded message. One that is of no letter lists nothing."""
        lines = letters.read_text().splitlines()
        letters.write_text("".join(f"{line}\n" for line in [lines[0], lines[1].replace('"dies"', '"other"')]))
        whole, other, nobody = many(
            *(["dead", "list", "letters.jsonl", *more] for more in
              (["--json"], ["--json", "--subscription", "other"], ["--subscription", "nobody"])), cwd=shop.folder,
        )  # fmt: skip

        one, two = lines_of(whole.stdout)
        assert (one["id"], one["subject"], one["subscription"], one["body"], one["by"]) == ("d1", "d.1", "dies", "tea", "die")
        assert (one["key"], one["headers"]) == ("k", {"tenant": "acme"})
        assert one["published"] <= one["time"]
        assert not {"traceback", "wire"} & {*one, *two}
        assert lines_of(other.stdout) == [two]
        assert (nobody.returncode, nobody.stdout) == (0, "no dead letters\n")
        assert nobody.stderr == 'no letter is from subscription "nobody"; there are dies, other\n'

    def test_list_of_named_ones_lists_these(self, shop: Shop, letters: Path) -> None:
        """An id that is given is never ignored."""
        done = shop.run("dead", "list", "letters.jsonl", "d2")

        assert done.returncode == 0
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["id", "d2"]

    def test_show_tells_all(self, shop: Shop, letters: Path) -> None:
        """The headers, the body and the traceback are shown; a blank line comes between two letters."""
        one, both = many(["dead", "show", "letters.jsonl", "d1"], ["dead", "show", "letters.jsonl", "--all"], cwd=shop.folder)

        assert (one.returncode, one.stderr) == (0, "")
        told = dict(re.findall(r"^(\w+) +(.+)$", one.stdout.partition("\n\n")[0], re.MULTILINE))
        assert told["id"] == "d1"
        assert (told["subject"], told["subscription"], told["by"], told["attempts"]) == ("d.1", "dies", "die", "1")
        assert (told["error"], told["body"], told["headers"]) == ("ValueError: no use for tea", '"tea"', '{"tenant": "acme"}')
        assert one.stdout.endswith("\nValueError: no use for tea\n")
        assert "shop.py" in one.stdout
        assert both.stdout.startswith(one.stdout + "\nid            d2\n")

    def test_discard_takes_them_out(self, shop: Shop, letters: Path) -> None:
        """One letter goes, and then all; the empty file stays."""
        one = shop.run("dead", "discard", "letters.jsonl", "d1")
        assert (one.returncode, one.stdout, self.ids(letters)) == (0, "1 discarded, 1 left\n", ["d2"])
        rest, listed = many(["dead", "discard", "letters.jsonl", "--all"], ["dead", "list", "letters.jsonl"], cwd=shop.folder)
        assert (rest.returncode, rest.stdout, letters.read_text()) == (0, "1 discarded, 0 left\n", "")
        assert listed.stdout == "no dead letters\n"

    def test_what_cannot_be_done_with_letters_is_one_line_and_exit_code_2(self, shop: Shop, letters: Path) -> None:
        """A refused command leaves the letters unchanged."""
        shop.config(DIES)
        shop.write("app.py", "from pipebus import Bus\n\nbus = Bus()\n")
        (shop.folder / "folder").mkdir()
        before = letters.read_bytes()
        table = {
            "show letters.jsonl": "show which letters? Give their ids, or --all",
            "discard letters.jsonl": "discard which letters? Give their ids, or --all",
            "replay letters.jsonl --on bus.toml": "replay which letters? Give their ids, or --all",
            "show letters.jsonl d1 d9": 'letters.jsonl has no dead letter "d9"; there are d1, d2',
            "discard letters.jsonl d9": 'letters.jsonl has no dead letter "d9"; there are d1, d2',
            "replay letters.jsonl d9 --on bus.toml": 'has no dead letter "d9"',
            "replay letters.jsonl --all": "replay on which bus? Add --on, as in --on pipebus.toml",
            "replay letters.jsonl --all --on no.toml": "no.toml: no such file",
            "list no.jsonl": "no.jsonl: cannot be read: No such file or directory",
            "list folder": "folder: not a file",
            "list bus.toml": "bus.toml: a bus in memory keeps dead letters only while it runs",
            "list shop.py": "shop.py:2: not a dead letter; give a file that `pipebus run --dead` wrote",
            "discard app:bus --all": "discard needs a file of letters",
            "show app:bus d1": 'app:bus has no dead letter "d1"; there is none',
        }
        found = many(*(["dead", *args.split(), *ALLOW] for args in table), cwd=shop.folder)
        for done, text in zip(found, table.values(), strict=True):
            assert_said_well(done, 2, text)
            assert done.stdout == ""
        assert letters.read_bytes() == before

    def test_a_damaged_line_is_named_with_its_number(self, shop: Shop, letters: Path) -> None:
        """Blank lines count for the number; no letter is given back, and the file does not change."""
        shop.config(subscription("dies", "d.>", "ok"))
        one, two = letters.read_text().splitlines()
        whole = json.loads(two)
        damaged = [
            two[:-9], "[1]", "null", '"d1"', '{"id": "d1"}', "[" * 5000, two.replace('"id": "d2"', '"id": 2'),
            *(json.dumps({key: value for key, value in whole.items() if key != gone}) for gone in ("message", "wire", "error")),
        ]  # fmt: skip
        for number, line in enumerate(damaged):
            (shop.folder / f"{number}.jsonl").write_text(f"{one}\n\n  \n{line}\n")
        commands = [["list", f"{n}.jsonl"] for n in range(len(damaged))]
        commands += [["replay", f"{n}.jsonl", "--all", "--on", "bus.toml", *ALLOW] for n in range(len(damaged))]
        found = many(*(["dead", *command] for command in commands), cwd=shop.folder, env=ENV | {"NOTES": "notes"})
        for done, command in zip(found, commands, strict=True):
            assert_said_well(done, 2, f"pipebus dead: {command[1]}:4: not a dead letter")
        assert not (shop.folder / "notes").exists()
        assert (shop.folder / "0.jsonl").read_text() == f"{one}\n\n  \n{damaged[0]}\n"

    def test_letters_of_a_program_are_listed(self, shop: Shop) -> None:
        """MODULE:BUS lists the letters of that program's bus."""
        shop.write(
            "app.py",
            """
            import shop
            from pipebus import Bus

            bus = Bus()
            bus.subscribe("d.>", shop.die, name="dies")
            with bus:
                bus.publish("d.1", "tea")
                bus.drain()
            """,
        )
        done = shop.run("dead", "list", "app:bus", "--json")

        assert (done.returncode, done.stderr) == (0, "")
        assert [(one["id"], one["error"]) for one in lines_of(done.stdout)] == [("d1", "ValueError: no use for tea")]

    def test_a_replay_that_goes_well_empties_the_file(self, shop: Shop, letters: Path) -> None:
        """The handler gets each message as it was, and other handlers of its subject do not."""
        shop.config(subscription("dies", "d.>", "ok"), subscription("other", "d.>", "die"))
        done = self.replay(shop, "--all", env=ENV | {"NOTES": "notes"})

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "2 handled, 0 dead again, 0 not given back, 0 left alone\n"
        assert (shop.folder / "notes").read_text() == "tea\nale\n"
        assert letters.read_text() == ""

    def test_a_replay_of_one_leaves_the_others(self, shop: Shop, letters: Path) -> None:
        """The other letters stay as they were."""
        shop.config(subscription("dies", "d.>", "ok"))
        other = letters.read_text().splitlines()[1]
        done = self.replay(shop, "d1")

        assert (done.returncode, done.stdout) == (0, "1 handled, 0 dead again, 0 not given back, 1 left alone\n")
        assert letters.read_text() == f"{other}\n"

    def test_who_dies_again_keeps_the_id(self, shop: Shop, letters: Path) -> None:
        """The new letter replaces the old one in its place."""
        shop.write("cure.py", "def better(message):\n    1 / (message.body == 'tea')\n")
        shop.config(subscription("dies", "d.>", None) + 'handler = "cure:better"\n')
        done = shop.run("dead", "replay", "letters.jsonl", "d2", "--on", "bus.toml", "--allow", "cure")

        assert (done.returncode, done.stderr) == (1, "d2 is dead again: ZeroDivisionError: division by zero\n")
        assert done.stdout == "0 handled, 1 dead again, 0 not given back, 1 left alone\n"
        one, two = lines_of(letters.read_text())
        assert (one["id"], one["error"]) == ("d1", "ValueError: no use for tea")
        assert (two["id"], two["error"], two["body"]) == ("d2", "ZeroDivisionError: division by zero", "ale")
        both = shop.run("dead", "replay", "letters.jsonl", "--all", "--on", "bus.toml", "--allow", "cure")
        assert (both.returncode, both.stdout) == (1, "1 handled, 1 dead again, 0 not given back, 0 left alone\n")
        assert self.ids(letters) == ["d2"]

    def test_what_a_filter_drops_is_done(self, shop: Shop, letters: Path) -> None:
        """A message that a filter drops is finished."""
        shop.config(subscription("dies", "d.>", "ok") + 'filters = [{ use = "drop", when = { expr = "body == \'tea\'" } }]\n')
        done = self.replay(shop, "--all")

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "1 handled, 1 dropped, 0 dead again, 0 not given back, 0 left alone\n"
        assert letters.read_text() == ""

    def test_a_handler_that_is_still_at_work_leaves_the_letter(self, shop: Shop, letters: Path) -> None:
        """The message may be handled twice, but it is not lost."""
        shop.config(HELD)
        os.mkfifo(shop.folder / "gate")
        before = letters.read_text()
        done = self.replay(shop, "--all", "--timeout", "200ms", env=ENV | {"GATE": "gate"})

        assert done.returncode == 1
        assert "d1 stays: not handled in time; allow more with --timeout\n" in done.stderr
        assert "d2 stays: " in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == "0 handled, 0 dead again, 2 not given back, 0 left alone\n"
        assert letters.read_text() == before

    def test_a_subscription_that_is_gone_leaves_the_letter(self, shop: Shop, letters: Path) -> None:
        """The error says which subscription is missing."""
        shop.config(subscription("other", "d.>", "ok"))
        before = letters.read_text()
        done = self.replay(shop, "--all", env=ENV | {"NOTES": "notes"})

        assert_said_well(done, 1, 'd1 stays: the bus has no subscription "dies"\n', "d2 stays: ", lines=2)
        assert done.stdout == "0 handled, 0 dead again, 2 not given back, 0 left alone\n"
        assert letters.read_text() == before
        assert not (shop.folder / "notes").exists()

    def test_what_died_in_the_publish_chain_is_published_anew(self, shop: Shop) -> None:
        """The message may die again, be refused or dropped, or be handled by a current subscription."""
        shop.config(KEPT)
        records = jsonl(*({"subject": "p.q", "body": body} for body in ("tea", "bad", "dull")))
        made = shop.run("run", "bus.toml", "--input", "-", "--dead", "letters.jsonl", *ALLOW, input=records)
        letters = shop.folder / "letters.jsonl"
        assert made.returncode == 1
        assert {one["subscription"] for one in lines_of(letters.read_text())} == {"publish"}

        again = self.replay(shop, "--all")
        assert again.returncode == 1
        assert again.stderr == "".join(f"d{n} is dead again: KeyError: 'boom'\n" for n in (1, 2, 3))
        assert again.stdout == "0 handled, 3 dead again, 0 not given back, 0 left alone\n"
        assert self.ids(letters) == ["d1", "d2", "d3"]

        shop.config(SMALL, subscription("heard", "p.>", "ok"))
        healed = self.replay(shop, "--all", env=ENV | {"NOTES": "notes"})
        assert_said_well(healed, 1, "d2 stays: ", "it is bad")
        assert healed.stdout == "1 handled, 1 dropped, 0 dead again, 1 not given back, 0 left alone\n"
        assert (shop.folder / "notes").read_text() == "tea\n"
        assert self.ids(letters) == ["d2"]

    def test_what_nobody_listens_to_stays(self, shop: Shop) -> None:
        """A message that passes the publish chain at last, and reaches no mailbox, would be lost with its letter."""
        shop.config(KEPT)
        record = jsonl({"subject": "p.q", "body": "tea"})
        shop.run("run", "bus.toml", "--input", "-", "--dead", "letters.jsonl", *ALLOW, input=record)
        before = (shop.folder / "letters.jsonl").read_text()

        shop.config(SMALL)
        done = self.replay(shop, "--all")

        assert_said_well(done, 1, "d1 stays: nobody listens to it\n")
        assert done.stdout == "0 handled, 0 dead again, 1 not given back, 0 left alone\n"
        assert (shop.folder / "letters.jsonl").read_text() == before

    RESENDS = """
        import shop
        from pipebus import Bus

        bus = Bus()
        bus.subscribe("d.>", lambda message: bus.publish("again", message.body) and None, name="dies")
        bus.subscribe("again", shop.die, name="other")
    """

    def test_what_dies_elsewhere_is_a_new_letter_with_a_free_id(self, shop: Shop, letters: Path) -> None:
        """The replayed letter is gone, the other one stays, and the exit code is 1."""
        shop.write("app.py", self.RESENDS)
        done = self.replay(shop, "d2", on="app:bus")

        assert (done.returncode, done.stderr) == (1, "new is dead: ValueError: no use for ale\n")
        assert done.stdout == "1 handled, 0 dead again, 0 not given back, 1 left alone; 1 new dead\n"
        one, new = lines_of(letters.read_text())
        assert (one["id"], one["subscription"]) == ("d1", "dies")
        assert (new["subscription"], new["subject"], new["body"]) == ("other", "again", "ale")
        assert new["id"] not in ("d1", "")

    def test_the_mode_and_a_link_are_kept_and_nothing_is_left_beside_it(self, shop: Shop, letters: Path) -> None:
        """The file belongs to the user, so its mode and its link stay."""
        letters.rename(shop.folder / "real.jsonl")
        letters.symlink_to("real.jsonl")
        letters.chmod(0o600)
        shop.config(subscription("dies", "d.>", "ok"))
        there = sorted(os.listdir(shop.folder))
        for done in (self.replay(shop, "d1"), shop.run("dead", "discard", "letters.jsonl", "d2")):
            assert (done.returncode, done.stderr) == (0, "")
            assert sorted(os.listdir(shop.folder)) == there
            assert letters.is_symlink()
            assert stat.S_IMODE((shop.folder / "real.jsonl").stat().st_mode) == 0o600
        assert (shop.folder / "real.jsonl").read_text() == ""

    def test_runs_at_once_lose_no_letter(self, shop: Shop) -> None:
        """Eight programs write to one file, and each letter gets its own id."""
        shop.config(DIES)
        args = [*PIPEBUS, "run", "bus.toml", *ALLOW, "--input", "-", "--subject", "d.1", "--dead", "letters.jsonl"]
        programs = [
            subprocess.Popen(
                args, cwd=shop.folder, env=ENV, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, text=True,
            )
            for _ in range(8)
        ]  # fmt: skip
        try:
            for number, program in enumerate(programs):
                program.stdin.write(jsonl(*(f"{number}.{n}" for n in range(5))))
            for program in programs:
                assert program.communicate(timeout=PATIENCE)[1] == ""
                assert program.returncode == 1
        finally:
            for program in programs:
                program.kill()
                program.wait()
        found = lines_of((shop.folder / "letters.jsonl").read_text())
        assert sorted(one["body"] for one in found) == [f"{number}.{n}" for number in range(8) for n in range(5)]
        assert len({one["id"] for one in found}) == 40
        assert sorted(os.listdir(shop.folder)) == ["bus.toml", "letters.jsonl", "shop.py"]

    def test_a_run_during_a_replay_loses_no_letter(self, shop: Shop, letters: Path) -> None:
        """A letter that was added while a handler was running is there afterwards."""
        shop.config(HELD)
        shop.config(DIES, name="other.toml")
        gate = shop.folder / "gate"
        os.mkfifo(gate)
        args = ("dead", "replay", "letters.jsonl", "d1", "--on", "bus.toml", *ALLOW, "--timeout", "3000")
        with shop.live(*args, env=ENV | {"GATE": str(gate)}, notes=True) as live:
            out = live.collect_out()
            assert live.notes.readline() == "begun tea\n"
            run_args = ("run", "other.toml", *ALLOW, "--input", "-", "--subject", "d.3", "--dead", "letters.jsonl")
            assert shop.run(*run_args, input=jsonl("new")).returncode == 1
            assert shop.run("dead", "discard", "letters.jsonl", "d2").returncode == 0
            os.close(os.open(gate, os.O_WRONLY))
            assert live.wait() == 0
        assert out.text.startswith("1 handled, 0 dead again")
        [left] = lines_of(letters.read_text())
        assert (left["body"], left["subject"]) == ("new", "d.3")


class TestSchema:
    """`pipebus schema`"""

    @pytest.mark.thorough
    def test_it_is_a_schema_that_takes_both_examples(self) -> None:
        """The schema is Draft-07, which editors need; the compact form is the same on one line."""
        long, short = many(["schema"], ["schema", "--compact"])

        assert (long.returncode, long.stderr, short.returncode) == (0, "", 0)
        schema = json.loads(long.stdout)
        assert json.loads(short.stdout) == schema
        assert len(short.stdout.splitlines()) == 1 < len(long.stdout.splitlines())
        assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
        jsonschema.Draft7Validator.check_schema(schema)
        validator = jsonschema.Draft7Validator(schema)
        for path in (WEBHOOKS, FLIGHTS):
            validator.validate(tomllib.loads(path.read_text()))
        for wrong in ({}, {"version": 2}, {"version": 1, "bogus": 1}, {"version": 1, "subscriptions": [{"name": "a"}]},
                      {"version": 1, "pipelines": [{"filters": [{"use": "retry", "attempts": "many"}]}]}):  # fmt: skip
            assert not validator.is_valid(wrong), wrong


class TestFilters:
    """`pipebus filters`"""

    def test_the_list_is_a_table(self) -> None:
        """The table shows each filter's name, purpose and settings."""
        done = run("filters")

        assert (done.returncode, done.stderr) == (0, "")
        head, *rows = done.stdout.splitlines()
        assert head.split() == ["filter", "does", "settings"]
        assert [row.split()[0] for row in rows] == FILTERS
        assert rows[FILTERS.index("drop")].split("  ")[-1].strip() == "when, reason"

    def test_one_is_told_with_its_settings(self) -> None:
        """The text shows each setting's default, whether it is required, and how a file writes it."""
        expire, retry = many(["filters", "expire"], ["filters", "retry"])

        assert (expire.returncode, expire.stderr) == (0, "")
        assert re.search(r"^expire: .+\n\n  ttl  needed\n +\S", expire.stdout)
        assert expire.stdout.endswith('\nin a file: { use = "expire", ttl = … }\n')
        for setting, default in (
            ("attempts", "3"),
            ("wait", "0.1"),
            ("max_wait", "10.0"),
            ("jitter", "0.2"),
            ("on", "Exception"),
        ):
            assert re.search(rf"^  {setting} +{re.escape(default)}$", retry.stdout, re.MULTILINE)
        assert retry.stdout.endswith('\nin a file: { use = "retry" }\n')

    def test_json_is_a_line_for_each_filter(self) -> None:
        """Each line has everything that a program needs to know about a filter's settings."""
        whole, one = many(["filters", "--json"], ["filters", "expire", "--json"])

        found = {line["name"]: line for line in lines_of(whole.stdout)}
        assert list(found) == FILTERS
        assert all(line["summary"] for line in found.values())
        assert found["retry"]["settings"]["attempts"]["default"] == 3
        assert found["retry"]["settings"]["attempts"]["needed"] is False
        assert found["expire"]["settings"]["ttl"]["needed"] is True
        assert lines_of(one.stdout) == [found["expire"]]

    def test_an_unknown_filter_is_exit_code_2(self) -> None:
        """The error suggests the filter that was meant, or lists all filters."""
        near, far = many(["filters", "rety"], ["filters", "zzz"])

        assert_said_well(near, 2, 'pipebus filters: no filter "rety"; did you mean "retry"?')
        assert_said_well(far, 2, f'pipebus filters: no filter "zzz"; there are {", ".join(FILTERS)}')

    def test_every_filter_of_the_list_can_be_told(self) -> None:
        """No filter causes a traceback."""
        for name, done in zip(FILTERS, many(*(["filters", name] for name in FILTERS)), strict=True):
            assert (done.returncode, done.stderr) == (0, ""), name
            assert done.stdout.startswith(f"{name}: ")


class TestDoctor:
    """`pipebus doctor`"""

    def test_this_installation(self) -> None:
        """`doctor` shows the versions of the packages that pipebus depends on, and finds nothing wrong."""
        done = run("doctor")

        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[0].startswith(f"ok     Python: {sys.version_info.major}.{sys.version_info.minor}.")
        for name in (
            "pipebus",
            "pydantic",
            "msgspec",
            "structlog",
            "rich",
            "jmespath",
            "tomlkit",
            "pytest",
            "hypothesis",
            "SQLite",
        ):
            assert sum(re.match(rf"(ok|hint) +{name}: ", line) is not None for line in lines) == 1, name

    def test_targets_that_are_fine_have_hints(self, shop: Shop) -> None:
        """Hints say what a transport promises and what endangers a bus, and the exit code is 0."""
        shop.config(
            "[[pipelines]]\nfilters = [\"log\"]\n", OK, subscription("pull", "b", None),
            subscription("lossy", "c", "ok") + 'mailbox = { size = 5, overflow = "drop_oldest" }\n',
        )  # fmt: skip
        shop.config(name="empty.toml")
        transport, bus, empty = many(
            ["doctor", "memory:"], ["doctor", "bus.toml", *ALLOW], ["doctor", "empty.toml"], cwd=shop.folder
        )

        assert (transport.returncode, bus.returncode, empty.returncode) == (0, 0, 0)
        assert re.search(r"^ok     transport memory: survives=nothing, order=subject, ", transport.stdout, re.MULTILINE)
        assert len(re.findall(r"^hint   transport memory: ", transport.stdout, re.MULTILINE)) == 2
        assert "ok     bus.toml: loads: 3 subscriptions\n" in bus.stdout
        assert "hint   subscription pull: has no handler: " in bus.stdout
        assert (
            "hint   subscription lossy: drops messages while 5 are waiting (drop_oldest), and counts the dropped ones\n"
            in bus.stdout
        )
        assert "subscription ok" not in bus.stdout
        assert "publish chain" not in bus.stdout
        assert "ok     empty.toml: loads: 0 subscriptions\n" in empty.stdout
        assert "hint   publish chain: is empty: " in empty.stdout

    def test_what_is_wrong_is_a_finding_and_exit_code_1(self, shop: Shop) -> None:
        """The findings also show what is right, and stderr is empty."""
        shop.config(subscription("one", "a..b", "nothing"))
        table = {
            "bus.toml --allow shop": ["bus.toml:4: ", "bus.toml:5: ", "2 problems"],
            "no.toml": ["no.toml: no such file"],
            "nowhere:bus": ["nowhere cannot be imported: ModuleNotFoundError"],
            "shop:bsu": ['shop has no "bsu"'],
            "kafka://localhost": ['no transport for "kafka"'],
            "memory:?wire=smoke": ["memory:?wire=smoke"],
        }
        found = many(*(["doctor", *args.split()] for args in table), cwd=shop.folder)
        for done, texts in zip(found, table.values(), strict=True):
            assert (done.returncode, done.stderr) == (1, "")
            assert done.stdout.startswith("ok     Python: ")
            wrong = [line for line in done.stdout.splitlines() if line.startswith("wrong  ")]
            assert len(wrong) >= 1
            for text in texts:
                assert any(text in line for line in wrong), (text, wrong)

    def test_json_is_a_line_for_each_finding(self, shop: Shop) -> None:
        """The findings and the exit code are the same as in the text."""
        shop.config(subscription("one", "a..b", "nothing"))
        fine, wrong, plain = many(
            ["doctor", "memory:", "--json"], ["doctor", "bus.toml", "--json", *ALLOW], ["doctor", "memory:"], cwd=shop.folder
        )

        assert (fine.returncode, wrong.returncode) == (0, 1)
        found = lines_of(fine.stdout)
        assert all({*one} == {"level", "about", "text"} for one in found)
        assert [one["level"] for one in found] == [line.split()[0] for line in plain.stdout.splitlines()]
        texts = [one["text"] for one in lines_of(wrong.stdout) if one["level"] == "wrong"]
        assert any(text.startswith("bus.toml:4: ") for text in texts)


class TestTables:
    """The tables are readable on a narrow terminal, with rich and without."""

    @pytest.mark.parametrize("program", [PIPEBUS, WITHOUT_RICH], ids=["rich", "plain"])
    @pytest.mark.thorough
    def test_all_filters_are_seen_at_40_columns(self, program: list[str]) -> None:
        """No line of rich is wider than the terminal, and nothing is cut off."""
        done = on_terminal("filters", columns=40, program=program)

        assert done.code == 0
        assert "Traceback" not in done.text
        width = 12 if program is PIPEBUS else len(max(FILTERS, key=len))  # of the column; rich breaks names, too
        words = re.sub(r"\s+", "", "".join(line[:width] for line in done.text.splitlines()))
        names = [name for name in FILTERS if name in words]
        assert names == FILTERS
        if program is PIPEBUS:
            assert max(map(len, done.text.splitlines())) <= 40
        assert "…" not in done.text

    @pytest.mark.parametrize("program", [PIPEBUS, WITHOUT_RICH], ids=["rich", "plain"])
    def test_all_letters_are_seen_at_40_columns(self, shop: Shop, two_letters: str, program: list[str]) -> None:
        """The table shows all ids and the end of each error."""
        shop.write("letters.jsonl", two_letters)
        done = on_terminal("dead", "list", "letters.jsonl", columns=40, program=program, cwd=shop.folder)

        assert done.code == 0
        assert "Traceback" not in done.text
        lines = done.text.splitlines()
        assert [line.split()[0] for line in lines if re.match(" *d[12] ", line)] == ["d1", "d2"]
        if program is PIPEBUS:
            assert max(map(len, lines)) <= 40
            errors = "".join(line.split("  ")[-1].strip() if line.strip() else "" for line in (line.rstrip() for line in lines))
            assert "ValueError:nousefor" in errors.replace(" ", "")
        else:
            assert "ValueError: no use for ale" in done.text

    def test_one_filter_is_told_at_40_columns(self) -> None:
        """The texts of the settings are folded."""
        done = on_terminal("filters", "retry", columns=40)

        assert done.code == 0
        assert max(map(len, done.text.splitlines()[2:])) <= 40

    def test_what_a_letter_says_moves_no_cursor(self, shop: Shop, two_letters: str) -> None:
        """Control characters in a foreign subject, error or body are shown and not obeyed."""
        shop.write("letters.jsonl", two_letters.replace("no use for tea", "\\u001b[2Jtea\\nd9  a line of its own"))
        listed, shown = many(["dead", "list", "letters.jsonl"], ["dead", "show", "letters.jsonl", "d1"], cwd=shop.folder)

        assert "\x1b" not in listed.stdout + shown.stdout
        assert "\\x1b[2Jtea" in listed.stdout
        assert "\nd9 " not in listed.stdout

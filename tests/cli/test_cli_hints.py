"""More output of the command line: hints, next steps, and where the prints of handlers go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import Shop, assert_said_well, figures, jsonl, run, subscription

ALLOW = ("--allow", "shop,loud")
LOUD = "def shout(message):\n    print('I print', message.body)\n    return float('nan')\n"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    found = Shop(tmp_path)
    found.write("loud.py", LOUD)
    return found


def loud(shop: Shop) -> None:
    shop.config('[[subscriptions]]\nname = "loud"\nsubject = "a.>"\nhandler = "loud:shout"\n')


RUN = ("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b")


@pytest.mark.parametrize("option", [["--json"], ["--tail", ">"], ["--outcomes"]], ids=lambda option: option[0])
@pytest.mark.thorough
def test_where_answers_are_data_handlers_print_to_stderr(shop: Shop, option: list[str]) -> None:
    """`… | jq` gets only lines of JSON."""
    loud(shop)
    done = shop.run(*RUN, *option, input=jsonl(1, 2))

    assert done.returncode == 0
    assert all(isinstance(json.loads(line), dict) for line in done.stdout.splitlines())
    assert done.stdout
    assert done.stderr.startswith("I print 1\nI print 2\n")


@pytest.mark.thorough
def test_where_a_person_reads_handlers_print_as_they_do(shop: Shop) -> None:
    """They print to stdout, before the summary."""
    loud(shop)
    done = shop.run(*RUN, input=jsonl(1, 2))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("I print 1\nI print 2\n2 read, ")


@pytest.mark.thorough
def test_what_is_no_number_for_json_is_a_text(shop: Shop) -> None:
    """A reply of NaN becomes a text, and a handler's print does not appear in front of it."""
    loud(shop)
    done = shop.run("publish", "bus.toml", "a.b", "1", "--request", *ALLOW)

    assert (done.returncode, done.stderr) == (0, "I print 1\n")
    assert json.loads(done.stdout) == {"outcome": "replied", "body": "nan"}


@pytest.mark.thorough
def test_a_file_of_csv_that_is_taken_for_json_lines(shop: Shop) -> None:
    """Nothing in the file can be read, and the hint says that its format may be the reason."""
    shop.config(subscription("ok", "a.>", "ok"))
    done = shop.run(*RUN, input="a,b\n1,2\n3,4\n")

    assert done.returncode == 1
    assert "3 could not be read:\n" in done.stdout
    assert "  (is it CSV? add --format csv)\n" in done.stdout


def test_a_wrong_subject_is_told_once_and_before_the_first_record(shop: Shop) -> None:
    """The subject is an argument, so its error is not repeated for each record."""
    shop.config(subscription("ok", "a.>", "ok"))
    done = shop.run("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a..b", input=jsonl(*range(100)))

    assert_said_well(done, 2, '"a..b" has an empty token')


@pytest.mark.thorough
def test_hints_are_no_mistakes(shop: Shop) -> None:
    """`check` and `doctor` show hints and still succeed."""
    shop.config('[filters.unused]\nuse = "log"\n[filters.used]\nuse = "log"\n[[pipelines]]\nfilters = ["used"]\n',
                subscription("stars", "a.b*", "ok"), subscription("fine", "a.*", "ok"))  # fmt: skip
    done = shop.run("check", "bus.toml", *ALLOW)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "bus.toml:2: hint: filters.unused is not used in any chain\n"
        'bus.toml:9: hint: "a.b*" of stars: the wildcards are * and >, and only as whole tokens; "b*" is not one\n'
        "bus.toml: fine: 1 filter, 2 subscriptions, 0 schedules, 0 tests\n"
    )
    told = shop.run("doctor", "bus.toml", *ALLOW)
    assert told.returncode == 0
    assert "hint   config: bus.toml:2: filters.unused is not used in any chain\n" in told.stdout


@pytest.mark.thorough
def test_a_chain_that_cannot_run_does_not_check(shop: Shop) -> None:
    """The error suggests a remedy that fits a file."""
    shop.config('[[pipelines]]\nfilters = [{ use = "timeout", seconds = "1s" }]\n')
    done = shop.run("check", "bus.toml")

    assert done.returncode == 1
    assert "bus.toml:3: pipelines[0]" in done.stdout
    assert "; say abandon = true\n" in done.stdout
    assert shop.run(*RUN, input="").returncode == 2


@pytest.mark.parametrize(
    ("name", "form"), [("when", "when = "), ("branch", "branch = "), ("switch", "switch = "), ("python", 'use = "python"')]
)
@pytest.mark.thorough
def test_words_of_chains_are_told_apart_from_filters(name: str, form: str) -> None:
    """A user who looks for one of these words learns how to write it."""
    assert_said_well(run("filters", name), 2, f'"{name}" is not a filter but a form of entry: write {{ {form}')


@pytest.mark.thorough
def test_a_command_for_files_says_so(shop: Shop) -> None:
    """The tests are in files, so `test` cannot take a program's bus, and the error says so."""
    assert_said_well(shop.run("test", "app:bus"), 2, "app:bus is a program's bus")


@pytest.mark.thorough
def test_settings_of_a_class_of_ones_own_are_told(shop: Shop) -> None:
    """They appear as the file has them, because the class does not describe its settings."""
    shop.write(
        "mine.py",
        """
        class Shop:
            def __init__(self, name2, size=1):
                self.all = (name2, size)

            def __call__(self, message, call_next):
                return call_next(message)
        """,
    )
    shop.config('[[pipelines]]\nfilters = [{ use = "python", target = "mine:Shop", name2 = "x", size = 3 }]\n')
    done = shop.run("explain", "bus.toml", "a.b", "--allow", "mine")

    assert (done.returncode, done.stderr) == (0, "")
    assert "  Shop(name2='x', size=3)" in done.stdout


def test_figures_are_the_last_line_whatever_handlers_print(shop: Shop) -> None:
    """Stdout holds only the figures."""
    loud(shop)
    done = shop.run(*RUN, "--json", input=jsonl(*range(50)))

    assert len(done.stdout.splitlines()) == 1
    assert figures(done)["accepted"] == 50

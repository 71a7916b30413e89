"""Rules that hold for all commands: the order of arguments, exit codes, and the width of what a person reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import Shop, jsonl, many, subscription

DIE = subscription("dies", "a.>", "die")
ALLOW = ("--allow", "shop")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_arguments_may_come_after_options(shop: Shop) -> None:
    """A user adds an option where the cursor is."""
    shop.config(DIE, '[[every]]\ninterval = "10ms"\nsubject = "b.tick"\n')
    shop.run("run", "bus.toml", *ALLOW, "--input", "-", "--subject", "a.b", "--dead", "l.jsonl", input=jsonl("tea"))

    commands = (
        ["tail", "bus.toml", "--count", "1", "b.>", *ALLOW],
        ["dead", "show", "l.jsonl", "--subscription", "dies", "d1"],
        ["dead", "--json", "list", "l.jsonl"],
        ["publish", "bus.toml", "--header", "a=b", "c.d", *ALLOW, "5"],
    )
    tailed, shown, listed, published = many(*commands, cwd=shop.folder)

    assert json.loads(tailed.stdout)["subject"] == "b.tick"
    assert shown.stdout.startswith("id            d1\n")
    assert json.loads(listed.stdout)["body"] == "tea"
    assert json.loads(published.stdout)["outcome"] == "unrouted"
    assert {done.returncode for done in (tailed, shown, listed, published)} == {0}


def test_an_argument_too_many_is_refused(shop: Shop) -> None:
    """Any order does not mean any number."""
    shop.config(DIE)
    done, missing = many(["tail", "bus.toml", "--count", "1", "b.>", "c.>"], ["explain", "bus.toml"], cwd=shop.folder)

    assert (done.returncode, missing.returncode) == (2, 2)
    assert "c.>" in done.stderr
    assert "SUBJECT" in missing.stderr


def test_a_bus_that_cannot_be_built_is_exit_code_2_for_each_command(shop: Shop) -> None:
    """A second attempt without a change would fail too, whichever command finds out."""
    shop.write(
        "app.py",
        """
        from pipebus import Bus

        bus = Bus()

        async def aslow(message, call_next):
            return await call_next(message)

        def quick(message, call_next):
            return call_next(message)

        bus.use(aslow, quick)
        """,
    )
    shop.config('[bus]\ntransport = "sqlite:///bus.db"\n', DIE + 'mailbox = { overflow = "drop_oldest" }\n', name="sqlite.toml")
    commands = (
        ["run", "app:bus", "--input", "/dev/null"],
        ["publish", "app:bus", "a.b"],
        ["trace", "app:bus", "a.b"],
        ["tail", "app:bus", "--count", "1"],
        ["run", "sqlite.toml", *ALLOW, "--input", "/dev/null"],
    )
    for command, done in zip(commands, many(*commands, cwd=shop.folder), strict=True):
        assert (done.returncode, "Traceback" in done.stderr) == (2, False), (command, done.stderr)


def test_what_a_person_reads_has_at_most_100_columns(shop: Shop) -> None:
    """A terminal is 80 to 120 columns wide; what does not fit is wrapped and not cut."""
    subjects = [f"orders.country{number}.created" for number in range(9)]
    settings = ", ".join(f"setting_number_{number} = {number}" for number in range(20))
    shop.config(
        f'[[pipelines]]\nmatch = {{ expr = "body.total > `100` && body.country == `1`" }}\n'
        f'filters = [{{ use = "enrich", add = {{ {settings} }} }}, {{ use = "reroute", to = "x.{{body.y}}" }}]\n',
        subscription("a-subscription-with-a-name-that-is-rather-long", "a.>", "die"),
        subscription("nine", "SUBJECTS", "ok").replace('"SUBJECTS"', json.dumps(subjects)),
    )
    shop.run(
        "run",
        "bus.toml",
        *ALLOW,
        "--input",
        "-",
        "--subject",
        "a.b",
        "--dead",
        "l.jsonl",
        input=jsonl({"total": 5, "text": "long " * 50}),
    )
    commands = (
        ["explain", "bus.toml", "a.b", *ALLOW],
        ["explain", "bus.toml", "orders.country1.created", *ALLOW],
        ["trace", "bus.toml", "a.b", "--body", json.dumps({"total": 5, "text": "long " * 50}), *ALLOW],
        ["dead", "list", "l.jsonl"],
        ["filters"],
        ["filters", "retry"],
    )
    for command, done in zip(commands, many(*commands, cwd=shop.folder), strict=True):
        assert done.stdout, (command, done.stderr)
        assert max(map(len, done.stdout.splitlines())) <= 100, (command, max(done.stdout.splitlines(), key=len))


def test_explain_leaves_open_where_a_rerouted_message_goes(shop: Shop) -> None:
    """It does not say that nobody listens, which the new subject decides; `trace` shows it."""
    shop.config('[[pipelines]]\nfilters = [{ use = "reroute", to = "a.{body.to}" }]\n', DIE)
    done = shop.run("explain", "bus.toml", *ALLOW, "raw", "--body", '{"to": "b"}')

    assert "nobody listens" not in done.stdout
    assert "`pipebus trace` runs them\n" in done.stdout

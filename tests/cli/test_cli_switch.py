"""A `switch` in what the commands show, of a program and of a file."""

from __future__ import annotations

from pathlib import Path

from cli_helpers import Shop, many

MODULE = """
from pipebus import Bus, otherwise, switch, when
from pipebus.filters import Drop, Expire, Log


def large(message):
    return True


def made(last):
    bus = Bus()
    bus.use(switch(when("a.>", Log()), when(large, Expire("5s")), otherwise(last)))
    bus.subscribe("a.x", name="reader")
    return bus


def one():
    return made(Drop())


def two():
    return made(Log())
"""


def test_the_commands_show_the_cases(tmp_path: Path) -> None:
    """`graph` draws each case behind the one before it; `diff` shows in which case two buses differ; `check` counts them."""
    shop = Shop(tmp_path)
    shop.write("routes.py", MODULE)
    text, mermaid, diff, check = many(
        ["graph", "routes:one"],
        ["graph", "routes:one", "--format", "mermaid"],
        ["diff", "routes:one", "routes:two"],
        ["check", "routes:one"],
        cwd=shop.folder,
    )
    assert text.stdout.splitlines()[:8] == [
        "publish",
        "  |- switch",
        '  |     |- when "a.>"',
        "  |     |     |- Log",
        "  |     |- when routes:large",
        "  |     |     |- Expire",
        "  |     |- otherwise",
        "  |     |     |- Drop",
    ]
    arrows = [line.strip() for line in mermaid.stdout.splitlines() if "-->" in line]
    assert arrows == [
        "n1 --> n2", "n2 -->|yes| n3", "n2 -->|no| n4", "n4 -->|yes| n5", "n4 -->|no| n6",
        "n3 --> n7", "n5 --> n7", "n6 --> n7", "n7 --> n8", "n8 --> n9",
    ]  # fmt: skip
    assert "- " in diff.stdout
    assert [line for line in diff.stdout.splitlines() if line.strip().startswith(("-", "+"))] == [
        '  -     Drop(reason="not wanted")',
        '  +     Log(level="info", body=false, headers=false, redact=[])',
    ]
    assert check.stdout == "routes:one: fine: 3 filters, 1 subscription, 0 schedules, 0 tests\n"


FILE = """
version = 1

[[pipelines]]
filters = [
    { switch = [
        { when = "a.>", filters = ["log"] },
        { when = { python = "routes:large" }, filters = [{ use = "expire", ttl = "5s" }] },
    ], otherwise = [
        "drop",
    ] },
]

[[subscriptions]]
name = "reader"
subject = "a.x"

[[tests]]
name = "other subjects end"
publish = [{ subject = "a.x" }, { subject = "b" }]
replace.filters.expire = { drops = "expired" }
expect = { outcome = ["accepted", "dropped"], by = "expire", received.reader = { subject = "a.x" } }
"""


def test_the_commands_show_a_switch_of_a_file(tmp_path: Path) -> None:
    """
    A file and a program with the same switch are the same bus; `explain` and `trace` show the lines of the file, and a test of
    the file replaces a filter in a case.
    """
    shop = Shop(tmp_path)
    shop.write("routes.py", MODULE)
    shop.write("bus.toml", FILE)
    allow = ["--allow", "routes"]
    diff, check, explain, trace, test = many(
        ["diff", "bus.toml", "routes:one", *allow],
        ["check", "bus.toml", *allow],
        ["explain", "bus.toml", "a.x", *allow],
        ["trace", "bus.toml", "b", *allow],
        ["test", "bus.toml", *allow],
        cwd=shop.folder,
    )
    assert diff.stdout == "bus.toml and routes:one are the same bus\n"
    assert check.stdout == "bus.toml: fine: 3 filters, 1 subscription, 0 schedules, 1 test\n"
    assert [" ".join(line.split()) for line in explain.stdout.splitlines()[3:7]] == [
        "switch the first case that applies bus.toml:6",
        'when("a.>") taken: a.x matches bus.toml:7',
        "Log bus.toml:7",
        "(when(large), otherwise) skipped: an earlier case was taken",
    ]
    assert "Expire  bus.toml:8" in trace.stdout
    assert "unrouted: nobody listens to b" in trace.stdout
    assert test.stdout.startswith("passed  other subjects end  (bus.toml:18)")


def test_check_hints_at_what_a_branch_or_reroute_in_a_case_skips(tmp_path: Path) -> None:
    """Blocks after the switch are named, and cases of the same switch are not."""
    shop = Shop(tmp_path)
    shop.write(
        "bus.toml",
        """
        version = 1
        [[pipelines]]
        filters = [
            { switch = [
                { when = "a.>", filters = [{ branch = "a.b", filters = [] }] },
                { when = "c.>", filters = ["log"] },
            ], otherwise = [
                { use = "reroute", to = "x.y" },
            ] },
        ]
        [[pipelines]]
        match = "b.>"
        filters = ["log"]
        [[pipelines]]
        match = "a.*"
        filters = ["log"]
        """,
    )
    [check] = many(["check", "bus.toml"], cwd=shop.folder)
    assert check.stdout.splitlines()[:-1] == [
        'bus.toml:6: hint: what takes branch("a.b") skips the filters after it: Log (bus.toml:17)',
        'bus.toml:9: hint: Reroute changes subjects to "x.y", so what it reroutes skips blocks after it: when("b.>") '
        '(bus.toml:12), when("a.*") (bus.toml:15); put them in front of it, or match the new subjects',
    ]

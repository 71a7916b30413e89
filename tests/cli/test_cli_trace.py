"""`pipebus trace`: a dry run of one message through the filters of a bus, which stores nothing and runs no handler."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import ENV, Shop, assert_said_well, subscription

CHAIN = """
[[pipelines]]
filters = [
    "log",
    { use = "set_headers", headers = { tenant = "acme" } },
    { use = "reroute", to = "orders.{body.country}" },
]

[[pipelines]]
match = "orders.>"
filters = [{ use = "enrich", add = { seen = true } }, { use = "python", target = "shop:small" }]
"""
BILLING = subscription("billing", "orders.fr", "ok")
AUDIT = subscription("audit", "orders.*", "ok", filters=["expire"]).replace('["expire"]', '[{ use = "expire", ttl = "5s" }]')
ALLOW = ("--allow", "shop")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def traced(shop: Shop, *args: object, target: str = "bus.toml") -> list[dict[str, Any]]:
    """The lines of `--json`."""
    done = shop.run("trace", target, *ALLOW, "--json", *args)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_filter_is_shown_with_the_message_after_it(shop: Shop) -> None:
    """Subject, body and headers are those that the next filter gets; and the mailboxes are those of the new subject."""
    shop.config(CHAIN, BILLING, AUDIT)

    before, *passed, end = traced(shop, "orders", "--body", '{"country": "fr"}', "--header", "a=b")

    assert before == {"subject": "orders", "headers": {"a": "b"}, "body": {"country": "fr"}}
    found = [(one["after"], one["subject"], one["headers"].get("tenant"), one["body"].get("seen")) for one in passed]
    assert found == [
        ("Log", "orders", None, None),
        ("SetHeaders", "orders", "acme", None),
        ("Reroute", "orders.fr", "acme", None),
        ("Enrich", "orders.fr", "acme", True),
        ("small", "orders.fr", "acme", True),
    ]
    assert passed[0]["place"].startswith("bus.toml:")
    assert end["outcome"] == "accepted"
    assert [(one["subscription"], one["filters"]) for one in end["mailboxes"]] == [("audit", ["Expire"]), ("billing", [])]


def test_a_person_reads_the_same(shop: Shop) -> None:
    """A filter that changes nothing takes one line."""
    shop.config(CHAIN, BILLING)
    done = shop.run("trace", "bus.toml", *ALLOW, "orders", "--body", '{"country": "fr"}')

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "published\n"
        '  orders  {"country": "fr"}\n'
        "\n"
        "Log  bus.toml:5\n"
        "  unchanged\n"
        "\n"
        "SetHeaders  bus.toml:6\n"
        '  orders  {"country": "fr"}\n'
        '  headers {"tenant": "acme"}\n'
        "\n"
        "Reroute  bus.toml:7\n"
        '  orders.fr  {"country": "fr"}\n'
        '  headers {"tenant": "acme"}\n'
        "\n"
        "Enrich  bus.toml:12\n"
        '  orders.fr  {"country": "fr", "seen": true}\n'
        '  headers {"tenant": "acme"}\n'
        "\n"
        "small  bus.toml:12\n"
        "  unchanged\n"
        "\n"
        "accepted: 1 mailbox\n"
        "  billing on orders.fr: shop:ok\n"
    )


@pytest.mark.parametrize(
    ("args", "code", "end"),
    [
        (["other", "--body", '{"country": "us"}'], 0, {"outcome": "unrouted", "subject": "orders.us"}),
        (["orders", "--body", "{}"], 1, {"outcome": "rejected", "by": "Reroute"}),
        (["boom"], 1, {"outcome": "failed", "by": "boom", "reason": "KeyError: 'boom'"}),
        (["stop", "--text", "dull"], 0, {"outcome": "dropped", "by": "small", "reason": "it is dull"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_end_says_who_ended_it(shop: Shop, args: list[str], code: int, end: dict[str, str]) -> None:
    """The exit code is that of `pipebus publish`."""
    odd = '[[pipelines]]\nmatch = "{}"\nfilters = [{{ use = "python", target = "shop:{}" }}]\n'
    shop.config(odd.format("boom", "boom"), odd.format("stop", "small"), CHAIN, BILLING)

    done = shop.run("trace", "bus.toml", *ALLOW, *args, "--json")

    found = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, {key: found.get(key) for key in end}) == (code, end)


def test_branches_and_details_of_chains_are_followed(shop: Shop) -> None:
    """Only filters that the message passes are shown: not those after a branch, nor those of another subject."""
    shop.config(
        """
        [[pipelines]]
        filters = [
            { when = "other", filters = [{ use = "enrich", add = { other = 1 } }] },
            { branch = "a.>", filters = [{ use = "enrich", add = { branched = 1 } }] },
            { use = "enrich", add = { later = 1 } },
        ]
        on_error = "dead_letter"
        """,
        subscription("ok", "a.>", "ok"),
    )

    *_, last, end = traced(shop, "a.b", "--body", "{}")

    assert (last["body"], len(end["mailboxes"])) == ({"branched": 1}, 1)


def test_the_case_of_a_switch_that_is_taken_is_shown(shop: Shop) -> None:
    """The message passes one case, and then the rest of the chain."""
    shop.write(
        "app.py",
        """
        from pipebus import Bus, otherwise, switch, when
        from pipebus.filters import Enrich

        bus = Bus()
        bus.use(switch(when("b", Enrich({"case": 1})), otherwise(Enrich({"case": 2}))), Enrich({"last": 1}))
        """,
    )
    *_, last, end = traced(shop, "a", "--body", "{}", target="app:bus")

    assert (last["body"], end["outcome"]) == ({"case": 2, "last": 1}, "unrouted")


def test_no_store_is_touched_and_no_handler_runs(shop: Shop) -> None:
    """A bus on SQLite is traced without its file, and a message that waits in it stays."""
    shop.config('[bus]\ntransport = "sqlite:///bus.db"\n', CHAIN, BILLING)

    end = traced(shop, "orders", "--body", '{"country": "fr"}')[-1]

    assert end["outcome"] == "accepted"
    assert not list(shop.folder.glob("bus.db*"))
    shop.run("publish", "bus.toml", *ALLOW, "orders", '{"country": "fr"}')
    before = {path.name: path.read_bytes() for path in shop.folder.glob("bus.db*")}
    traced(shop, "orders", "--body", '{"country": "fr"}')
    assert {path.name: path.read_bytes() for path in shop.folder.glob("bus.db*")} == before
    done = shop.run("trace", "bus.toml", *ALLOW, "orders", "--body", '{"country": "fr"}', env=ENV | {"NOTES": "notes"})
    assert done.returncode == 0
    assert not (shop.folder / "notes").exists()


def test_a_bus_of_a_program_is_traced_with_its_filter_actors(shop: Shop) -> None:
    """A filter actor answers in its own mailbox; a retry waits in virtual time."""
    shop.write(
        "app.py",
        """
        from pipebus import Actor, Bus
        from pipebus.filters import Retry

        class Count(Actor):
            seen = 0

            def filter(self, message):
                self.seen += 1
                return message.with_headers(seen=str(self.seen))

        tries = []

        def down(message, call_next):
            tries.append(1)
            if len(tries) < 3:
                raise ConnectionError("down")
            return call_next(message)

        bus = Bus("sqlite:///bus.db")
        bus.use(Retry(attempts=3, wait=3600.0, max_wait=3600.0), down, Count("count"))

        @bus.on("a.>", name="till")
        def till(message):
            raise AssertionError("a handler runs")
        """,
    )

    *_, last, end = traced(shop, "a.b", "--text", "tea", target="app:bus")

    assert (last["after"], last["headers"]) == ("count", {"seen": "1"})
    assert [one["subscription"] for one in end["mailboxes"]] == ["till"]
    assert not os.path.exists(shop.folder / "bus.db")


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["bus.toml", "a..b"], ["a..b"]),
        (["bus.toml", "a.b", "--body", "{"], ["the body is JSON"]),
        (["bus.toml", "a.b", "--body", "1", "--text", "x"], ["not both"]),
        (["sqlite:///bus.db", "a.b"], ["a whole bus"]),
    ],
)
def test_what_cannot_be_traced_is_one_line_and_exit_code_2(shop: Shop, args: list[str], parts: list[str]) -> None:
    shop.config(BILLING)
    assert_said_well(shop.run("trace", *args, *ALLOW), 2, "pipebus trace: ", *parts)

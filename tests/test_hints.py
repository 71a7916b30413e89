"""The hints of `pipebus check`: what is allowed, but perhaps not meant."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipebus import Bus, branch, otherwise, switch, when
from pipebus.bus.bus import engine_of
from pipebus.bus.hints import hints
from pipebus.filters import Log, Reroute


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """The hints about a file."""
    monkeypatch.chdir(tmp_path)

    def run(text: str) -> list[str]:
        Path("bus.toml").write_text("version = 1\n" + textwrap.dedent(text).lstrip(), encoding="utf-8")
        return [str(hint) for hint in hints(engine_of(Bus.from_config("bus.toml", handlers={"same": same})))]

    return run


def same(body: Any) -> Any:
    return body


def test_filters_behind_a_branch_are_named(check: Callable[[str], list[str]]) -> None:
    """A branch that contains a reroute skips later blocks, including redaction; a block for other subjects is not named."""
    lines = check("""
        [[pipelines]]
        filters = [{ branch = "github.>", filters = [{ use = "reroute", to = "events.{body.kind}" }] }]
        [[pipelines]]
        filters = [{ use = "redact", names = ["email"] }]
        [[pipelines]]
        match = "github.push"
        filters = ["log"]
        [[pipelines]]
        match = "gitlab.>"
        filters = ["log"]
    """)
    assert lines == [
        'bus.toml:3: hint: what takes branch("github.>") skips the filters after it: Redact (bus.toml:5), Log (bus.toml:8)'
    ]


def test_blocks_that_a_fallback_skips_have_run_before(check: Callable[[str], list[str]]) -> None:
    """A message takes the blocks for its own subject first, so none is named; that it skips them afterwards is the point."""
    lines = check("""
        [[pipelines]]
        filters = [{ use = "fallback", subject = "later" }, { when = "orders", filters = ["circuit_breaker"] }]
    """)
    assert lines == []


def test_blocks_that_a_reroute_skips_are_named(check: Callable[[str], list[str]]) -> None:
    """A message with a new subject does not take blocks for the old one; those for the new one, or for all, are not named."""
    lines = check("""
        [[pipelines]]
        match = "github.>"
        filters = [{ use = "reroute", to = "events.{body.kind}" }, "dedupe"]
        [[pipelines]]
        match = "github.>"
        filters = [{ use = "redact", names = ["email"] }]
        [[pipelines]]
        match = "events.*"
        filters = ["log"]
        [[pipelines]]
        filters = ["log"]
        [[pipelines]]
        match = "events.push.deep"
        filters = ["log"]
    """)
    assert lines == [
        'bus.toml:4: hint: Reroute changes subjects to "events.*", so what it reroutes skips blocks after it: '
        'when("github.>") (bus.toml:5); put them in front of it, or match the new subjects'
    ]


@pytest.mark.parametrize(
    ("to", "skipped"),
    [
        ("old.{subject}", ['when("github.>")']),
        ("{subject}", []),
        ("{body.kind}.x", []),
        ("{headers.to}", ['when("github.>")']),
        ("events-{key}.x", []),
        ("events.{key}", ['when("github.>")']),
    ],
)
def test_a_template_says_which_blocks_it_may_skip(check: Callable[[str], list[str]], to: str, skipped: list[str]) -> None:
    """A field in a template is any one token, and the old subject is any number of them."""
    lines = check(f"""
        [[pipelines]]
        filters = [{{ use = "reroute", to = "{to}" }}]
        [[pipelines]]
        match = "github.>"
        filters = ["log"]
    """)
    assert [name for name in skipped if not any(name in line for line in lines)] == []
    assert len(lines) == len(skipped)


def test_a_reroute_by_a_function_may_skip_blocks(check: Callable[[str], list[str]]) -> None:
    """Its new subjects are not known, so only blocks for the subjects that it takes are named."""
    lines = check("""
        [[pipelines]]
        match = "github.>"
        filters = [{ use = "reroute", to = { expr = "body.to" } }]
        [[pipelines]]
        match = "events.>"
        filters = ["log"]
        [[pipelines]]
        match = "github.push"
        filters = ["log"]
    """)
    assert lines == [
        'bus.toml:4: hint: Reroute may change subjects to others that skip blocks after it: when("github.push") (bus.toml:8); '
        "put them in front of it, or match the new subjects"
    ]


def test_cases_of_a_switch_do_not_skip_each_other() -> None:
    """What one case does is of no concern for the others; blocks after the switch are named."""
    bus = Bus()
    bus.use(
        switch(when("a.>", branch("a.b", Log())), when(callable, Log()), otherwise(Reroute("x.y"))),
        when("b.>", Log()),
        Log(),
    )
    rerouted, branched = (hint.text for hint in hints(engine_of(bus)))
    assert 'when("b.>")' in rerouted
    assert branched.count("Log (") == 1


def test_loops_of_subscriptions_are_shown(check: Callable[[str], list[str]]) -> None:
    """Each circle comes once, with its way; a `to` that leads nowhere, or that a reroute may change, is not one."""
    lines = check("""
        [[pipelines]]
        match = "maybe"
        filters = [{ use = "reroute", to = "{body.next}" }]
        [[subscriptions]]
        name = "ping"
        subject = "ping"
        handler = "same"
        to = "pong.1"
        [[subscriptions]]
        name = "pong"
        subject = "pong.*"
        handler = "same"
        to = "ping"
        [[subscriptions]]
        name = "alone"
        subject = "alone.>"
        handler = "same"
        to = "alone.x"
        [[subscriptions]]
        name = "rerouted"
        subject = "maybe"
        handler = "same"
        to = "maybe"
        [[subscriptions]]
        name = "ends"
        subject = "ping"
        handler = "same"
        to = "nowhere"
    """)
    loops = [line for line in lines if "loop" in line]
    assert [line.partition("loop: ")[2].partition(";")[0] for line in loops] == [
        'ping -> "pong.1" -> pong -> "ping" -> ping',
        'alone -> "alone.x" -> alone',
    ]
    assert loops[0].startswith("bus.toml:5: hint: ")
    assert "is passed on 32 times and becomes a dead letter" in loops[0]


@pytest.mark.parametrize("subject", ["orders*", "orders.#", "#", "a>.b", "a*.>"])
def test_a_token_that_looks_like_a_wildcard_is_named(subject: str) -> None:
    """A subscription in code is looked at, too. Other signs in a token are nothing special."""
    bus = Bus()
    bus.subscribe([subject, "a#", "orders.*", ">"], same, name="mine")
    (hint,) = hints(engine_of(bus))
    assert hint.text.startswith(f'"{subject}" of mine: the wildcards are * and >, and only as whole tokens; ')

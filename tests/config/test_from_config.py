"""Small files, each loaded and run: a declared bus does the same as one that was composed in code."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import export_shop as shop
import pytest

from pipebus import (
    Bus,
    ConfigError,
    Delivery,
    Dropped,
    MailboxFull,
    Message,
    PipelineError,
    Receipt,
    Rejected,
    Transform,
    UnsupportedCapability,
    when,
)
from pipebus.bus.bus import engine_of
from pipebus.filters import Dedupe, Log, Retry
from pipebus.pipeline.routes import steps
from pipebus.testing import Harness, InjectedError


class Desk:
    """Handlers for a program to hand in, which record what they get as (handler, subject, body)."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def named(self, name: str, returns: Any = None) -> Callable[[Message[Any]], Any]:
        def handle(message: Message[Any]) -> Any:
            self.given.append((name, str(message.subject), message.body))
            return returns

        return handle


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bus]:
    """Write "bus.toml" in the working directory, and load it."""
    monkeypatch.chdir(tmp_path)

    def loaded(text: str, **options: Any) -> Bus:
        Path("bus.toml").write_text("version = 1\n" + dedent(text), encoding="utf-8")
        return Bus.from_config("bus.toml", **{"allow_imports": ["export_shop"], **options})

    return loaded


Load = Callable[..., Bus]


def mark(letter: str) -> Any:
    """A filter that writes its letter into a header, in the order of filters."""

    class Mark(Transform):
        name = f"mark-{letter}"

        def transform(self, message: Message[Any], /) -> Message[Any]:
            return message.with_headers(marks=message.headers.get("marks", "") + letter)

    return Mark()


MARKS = {f"mark-{letter}": mark(letter) for letter in "abcdefg"}


def marks(message: Message[Any]) -> str:
    return message.headers.get("marks", "")


def marked_by(bus: Bus, harness: Harness) -> Callable[..., str]:
    """Start a bus with one reader; return a function that publishes, and returns the marks of the filters on the way."""
    harness.start(bus)
    [inbox] = bus.subscriptions

    def went(subject: str, key: str | None = None) -> str:
        bus.publish(subject, key=key)
        return marks(inbox.receive(timeout=1))

    return went


def line_of(text: str) -> int:
    """Return the number of the only line of bus.toml that holds the text."""
    [found] = [number for number, line in enumerate(Path("bus.toml").read_text().splitlines(), 1) if text in line]
    return found


# --- chains ------------------------------------------------------------------------------------------------------------


def test_chains_in_the_order_of_the_file(load: Load, harness: Harness) -> None:
    """Pipelines run one after the other, `filters` run from the outside in, and delivery chains run inside publish chains."""
    seen: list[str] = []
    bus = load(
        """
        [[pipelines]]
        at = "delivery"
        filters = ["mark-e"]
        [[pipelines]]
        filters = ["mark-a", "mark-b"]
        [[subscriptions]]
        name = "all"
        subject = ">"
        handler = "see"
        filters = ["mark-g"]
        [[pipelines]]
        filters = [{ filters = ["mark-c", { filters = ["mark-d"] }] }]
        [[pipelines]]
        at = "delivery"
        filters = ["mark-f"]
        """,
        handlers={"see": lambda message: seen.append(marks(message))},
        filters=MARKS,
    )
    assert bus.state == "new"
    harness.start(bus)
    assert bus.publish("a") == Receipt(1)
    harness.drain()
    assert seen == ["abcdefg"]


def test_detours_and_branches(load: Load, harness: Harness) -> None:
    """
    `match` and `when` rejoin and `branch` does not; the first branch that matches wins, and one in a detour leaves it too.
    """
    bus = load(
        """
        [[pipelines]]
        match = "a.>"
        filters = ["mark-a", { branch = "a.x.>", filters = ["mark-b"] }, "mark-c"]
        [[pipelines]]
        filters = [
            { when = { expr = "key == 'k'" }, filters = ["mark-d"] },
            { branch = { expr = "key == 'l'" }, filters = ["mark-e", { when = "*", filters = ["mark-f"] }] },
            { branch = { expr = "key == 'l' || key == 'm'" }, filters = ["mark-g"] },
            "mark-f",
        ]
        [[subscriptions]]
        name = "all"
        subject = ">"
        """,
        filters=MARKS,
    )
    went = marked_by(bus, harness)

    assert went("a.x.1") == "ab"
    assert went("a.1") == "acf"
    assert went("a.1", "k") == "acdf"
    assert went("a.1", "l") == "ace"
    assert went("b", "l") == "ef"
    assert went("b", "m") == "g"
    assert went("b") == "f"
    assert bus.stats()["published"] == 7


def test_a_switch(load: Load, harness: Harness) -> None:
    """A message takes the first case that applies, or `otherwise`, and then the rest; an empty case sends it straight on."""
    bus = load(
        """
        [[pipelines]]
        filters = [
            { switch = [
                { when = "a.>", filters = ["mark-a"] },
                { when = { expr = "key == 'k'" }, filters = ["mark-b", { switch = [{ when = "b", filters = ["mark-c"] }] }] },
                { when = "c", filters = [] },
            ], otherwise = [
                "mark-d",
            ] },
            "mark-e",
        ]
        [[subscriptions]]
        name = "all"
        subject = ">"
        """,
        filters=MARKS,
    )
    went = marked_by(bus, harness)

    assert [went("a.b", "k"), went("b", "k"), went("d", "k"), went("c"), went("d")] == ["ae", "bce", "be", "e", "de"]
    shown = bus.explain("d")
    for text, line in (("switch", "switch = [\n"), ('when("a.>")', '"a.>"'), ("otherwise", "otherwise"), ("mark-d", "mark-d")):
        assert f"bus.toml:{Path('bus.toml').read_text().partition(line)[0].count(chr(10)) + 1}" in next(
            row for row in shown.splitlines() if row.strip().startswith(text)
        )


def test_match_is_around_the_whole_pipeline(load: Load, harness: Harness) -> None:
    """A `match` function runs once for each message, and not for each filter."""
    bus = load(
        """
        [[pipelines]]
        match = { python = "export_shop:is_keyed" }
        filters = ["mark-a", "mark-b"]
        [[subscriptions]]
        name = "all"
        subject = ">"
        """,
        filters=MARKS,
    )
    harness.start(bus)
    [inbox] = bus.subscriptions
    bus.publish("x", key="k")
    bus.publish("x")
    assert [marks(inbox.receive(timeout=1)) for _ in range(2)] == ["ab", ""]


@pytest.mark.parametrize(
    ("on_error", "outcome", "dead"),
    [("", "raises", 0), ('on_error = "reject"', "raises", 0), ('on_error = "dead_letter"', Dropped, 1), ('on_error = "drop"',
    Dropped, 0)],
)  # fmt: skip
@pytest.mark.parametrize("inside", [False, True])
def test_on_error_of_a_publish_chain(
    on_error: str, outcome: Any, dead: int, inside: bool, load: Load, harness: Harness
) -> None:
    """The rule may belong to a pipeline of the file or to a pipeline inside it."""
    inner = f'{{ filters = ["boom"]{on_error and ", "}{on_error} }}' if inside else '"boom"'
    outer = "" if inside else on_error

    def boom(message: Message[Any], call_next: Any) -> Any:
        raise OSError("boom")

    bus = load(f"[[pipelines]]\n{outer}\nfilters = [{inner}]\n", filters={"boom": boom})
    harness.allow(OSError)
    harness.start(bus)
    if outcome == "raises":
        with pytest.raises(OSError, match="boom"):
            bus.publish("x")
    else:
        found = bus.publish("x")
        assert isinstance(found, outcome)
        assert found.by == "boom"
    assert len(list(bus.dead_letters)) == dead


def test_on_error_of_a_delivery_chain(load: Load, harness: Harness) -> None:
    """A drop makes no dead letter, and the rule covers errors of the pipeline's own filters, not of the handler."""
    bus = load(
        """
        [[pipelines]]
        at = "delivery"
        match = "a"
        on_error = "drop"
        filters = [{ use = "tap", target = "export_shop:look" }]
        [[subscriptions]]
        name = "one"
        subject = "*"
        handler = "fussy"
        filters = [{ filters = ["boom"], on_error = "drop" }]
        """,
        handlers={"fussy": shop.fussy},
        filters={"boom": when("b", lambda message, call_next: 1 / 0)},
    )
    harness.allow(shop.Late, ZeroDivisionError)
    harness.start(bus)
    bus.publish("a", 1.5)
    bus.publish("b", 2)
    bus.publish("c", True)
    harness.drain()
    assert [(str(one.message.subject), one.place) for one in harness.dropped] == [("b", "one")]
    assert sorted((str(one.message.subject), type(one.exception).__name__) for one in harness.dead) == [
        ("a", "Late"), ("c", "Rejected"),
    ]  # fmt: skip


def test_a_named_filter_is_one_object(load: Load, harness: Harness) -> None:
    """
    It is one object in several places, on both sides and in subscriptions; a filter written in place is a new one each time.
    """
    bus = load(
        """
        [filters.count]
        use = "python"
        target = "export_shop:Count"
        start_at = 10
        [filters.unused]
        use = "log"
        [[pipelines]]
        filters = ["count", { use = "count" }, { use = "python", target = "export_shop:Count" }]
        [[pipelines]]
        at = "delivery"
        filters = [{ when = "x", filters = ["count"] }, "dedupe", "dedupe"]
        [[subscriptions]]
        name = "one"
        subject = "x"
        handler = "export_shop:aship"
        filters = ["count"]
        """
    )
    harness.start(bus)
    bus.publish("x")
    harness.drain()
    assert harness.delivered_to("one")[0].headers["counted"] == ",11,12,1"  # as it came to the mailbox
    bus.publish("x")
    harness.drain()
    assert harness.delivered_to("one")[1].headers["counted"] == ",15,16,2"  # two more around the handler
    first, second = (step.filter for step in steps(engine_of(bus).delivery_nodes) if isinstance(step.filter, Dedupe))
    assert first is not second
    assert [step.name for step in steps(engine_of(bus).router.nodes)] == ["count", "count", "Count"]


def test_what_the_program_hands_in(load: Load, harness: Harness, desk: Desk) -> None:
    """Filters of every shape and whole chains can be handed in by name, and the file uses the objects themselves."""

    class Gate(shop.Gate):
        asked = 0

        def filter(self, message: Message[Any]) -> Message[Any]:
            self.asked += 1
            return message

    gate, log = Gate(), Log()
    bus = load(
        """
        [[pipelines]]
        filters = ["the gate", "log it", "only eu", { use = "mark-a" }, "log", "validate"]
        [[subscriptions]]
        name = "all"
        subject = ">"
        handler = "the desk"
        """,
        handlers={"the desk": desk.named("desk"), "nobody's": print},
        filters={"the gate": gate, "log it": log, "only eu": when("eu.>", mark("e")), "validate": mark("v"), **MARKS},
    )
    harness.start(bus)
    bus.publish("eu.1", 1)
    harness.drain()
    assert desk.given == [("desk", "eu.1", 1)]
    assert gate.asked == 1
    assert marks(harness.delivered_to("all")[0]) == "eav"  # what is handed in comes before a kind of its name
    assert [step.filter for step in steps(engine_of(bus).router.nodes)][1] is log


def test_python_targets(load: Load, harness: Harness) -> None:
    """A target may be a function, decorated or not, a class with or without options, or an object of a module or a class."""
    bus = load(
        """
        [[pipelines]]
        filters = [
            { use = "python", target = "export_shop:passing" },
            { use = "python", target = "export_shop:stamp" },
            { use = "python", target = "export_shop:measured" },
            { use = "python", target = "export_shop:Bare" },
            { use = "python", target = "export_shop:Stateful", rate = 2.5 },
            { use = "python", target = "export_shop:STATEFUL" },
            { use = "python", target = "export_shop:SHARED_COUNT" },
            "paint",
        ]
        [filters.paint]
        use = "python"
        target = "export_shop:Paint"
        text = "x"
        colour = "blue"
        words = ["a"]
        wait = "200ms"
        room = "64KiB"
        model = "export_shop:Order"
        limits = { most = 3 }
        day = 2026-11-25
        price = "1.50"
        rule = "export_shop:Rules.is_small"
        errors = "export_shop:Late"
        table = { a = 1 }
        names = ["n", "n"]
        [[subscriptions]]
        name = "all"
        subject = ">"
        """
    )
    harness.start(bus)
    [inbox] = bus.subscriptions
    bus.publish("x")
    headers = inbox.receive(timeout=1).headers
    assert {key: headers[key] for key in ("passed", "stamped", "measured", "painted")} == {
        "passed": "1", "stamped": "s", "measured": "1", "painted": "blue",
    }  # fmt: skip
    filters = [step.filter for step in steps(engine_of(bus).router.nodes)]
    assert filters[1] is shop.stamp
    assert filters[4].rate == 2.5
    assert filters[5:7] == [shop.STATEFUL, shop.SHARED_COUNT]
    paint = filters[7]
    assert (paint.colour, paint.words, paint.wait, paint.room, paint.model) == (
        shop.Colour.BLUE,
        ("a",),
        0.2,
        65536,
        shop.Order,
    )
    assert (paint.limits, str(paint.day), str(paint.price)) == (shop.Limits(0, 3), "2026-11-25", "1.50")
    assert (paint.rule, paint.errors, paint.table, paint.names) == (shop.Rules.is_small, shop.Late, {"a": 1}, frozenset("n"))
    assert paint.mode == "fast"


def test_built_in_filters_by_name(load: Load, harness: Harness) -> None:
    """All of them work in one chain with their settings, and each has its effect on the result."""
    bus = load(
        """
        [[pipelines]]
        filters = [
            { use = "expire", ttl = "1h" },
            { use = "dedupe", key = { expr = "body.id" }, window = "10m", size = 5 },
            { use = "validate", models = { "orders.>" = "export_shop:Order", "raw.>" = "dict" } },
            { use = "timeout", seconds = "30s", abandon = true },
            { use = "retry", attempts = 2, wait = 0 },
        ]
        [[pipelines]]
        match = "raw.*"
        filters = [
            "tidy",
            { use = "enrich", add = { region = "eu", by = "enrich" }, overwrite = false },
            { use = "set_headers", headers = { fixed = "${env:NOBODY:-f}", from = { python = "export_shop:text_of" } } },
            { use = "tap", target = "export_shop:refuse" },
            { use = "log", level = "debug", redact = ["total"] },
            { use = "reroute", to = "cooked.{body.customer.name}" },
        ]
        [filters.tidy]
        use = "fields"
        rename = { "body.cust" = "body.customer.name" }
        cast = { "body.total" = "float" }
        set = { "headers.kind" = { expr = "subject" }, "body.by" = "file", "body.size" = { expr = "length(body)" } }
        remove = ["body.card"]
        [[subscriptions]]
        name = "all"
        subject = ">"
        """
    )
    harness.start(bus)
    [inbox] = bus.subscriptions
    assert bus.publish("raw.1", {"id": 1, "cust": "ann", "total": "12.5", "card": "4111"})
    message = inbox.receive(timeout=1)
    assert message.subject == "cooked.ann"
    assert message.body == {"id": 1, "customer": {"name": "ann"}, "total": 12.5, "by": "file", "size": 5, "region": "eu"}
    assert dict(message.headers) == {"kind": "raw.1", "fixed": "f", "from": "raw.1"}
    assert bus.publish("raw.1", {"id": 1, "cust": "bob", "total": 1}) == Dropped("duplicate", "Dedupe")
    with pytest.raises(Rejected, match="no keys today"):
        bus.publish("raw.1", {"id": 2, "cust": "bob", "total": 1}, key="k")
    with pytest.raises(Rejected, match="total"):
        bus.publish("raw.1", {"id": 3, "cust": "bob", "total": "much"})
    with pytest.raises(Rejected):
        bus.publish("orders.1", {"id": "x"})
    assert bus.publish("orders.1", {"id": "7"})
    assert inbox.receive(timeout=1).body == shop.Order(7)
    harness.advance(601.0)
    assert bus.publish("raw.1", {"id": 1, "cust": "bob", "total": 1})


def test_retry_with_units(load: Load, harness: Harness) -> None:
    """Waits are given in milliseconds and double, and only the named errors are retried."""
    bus = load(
        """
        [[subscriptions]]
        name = "ship"
        subject = "orders.*"
        handler = "export_shop:bill"
        filters = ["again"]
        [filters.again]
        use = "retry"
        attempts = 4
        wait = "200ms"
        max_wait = "0.5s"
        jitter = 0
        on = ["OSError", "export_shop:Late"]
        """
    )
    [retry] = [step.filter for step in steps(bus.subscriptions[0].plan.nodes)]
    assert isinstance(retry, Retry)
    assert (retry.wait, retry.max_wait, retry.on) == (0.2, 0.5, (OSError, shop.Late))
    harness.start(bus)
    harness.fail("ship", times=3, error=shop.Late("down"))
    bus.publish("orders.1")
    harness.drain()
    assert harness.elapsed == 1.1  # 0.2 + 0.4 + 0.5
    assert len(harness.delivered_to("ship")) == 1
    harness.fail("ship", times=1, error=InjectedError)
    bus.publish("orders.2")
    harness.drain()
    assert len(harness.dead) == 1
    assert harness.elapsed == 1.1


# --- subscriptions -----------------------------------------------------------------------------------------------------


def test_subscriptions(load: Load, harness: Harness, desk: Desk) -> None:
    """A subscription may have a handed-in, imported or async handler, a list of patterns, `to`, or no handler at all."""
    bus = load(
        """
        [[subscriptions]]
        name = "billing"
        subject = "orders.created"
        handler = "bill"
        to = "orders.billed"
        [[subscriptions]]
        name = "typed"
        subject = "orders.created"
        handler = "export_shop:order"
        to = "ids"
        [[subscriptions]]
        name = "async"
        subject = ["orders.*", "orders.created"]
        handler = "export_shop:aship"
        [[subscriptions]]
        name = "pull"
        subject = ["orders.billed", "ids"]
        """,
        handlers={"bill": desk.named("bill", returns={"paid": True})},
    )
    harness.start(bus)
    assert bus.publish("orders.created", {"id": 7}) == Receipt(3)
    harness.drain()
    assert desk.given == [("bill", "orders.created", {"id": 7})]
    by_name = {one.name: one for one in bus.subscriptions}
    assert sorted(by_name) == ["async", "billing", "pull", "typed"]
    got = sorted((str(m.subject), m.body) for m in (by_name["pull"].receive(timeout=1) for _ in range(2)))
    assert got == [("ids", 7), ("orders.billed", {"paid": True})]
    assert [str(m.subject) for m in harness.delivered_to("async")] == ["orders.created", "orders.billed"]
    assert by_name["async"].plan.run_on == "loop"
    assert by_name["billing"].plan.run_on == "pool"


@pytest.mark.parametrize(
    ("rules", "kept", "outcome"),
    [
        ("mailbox = 2", [1, 2], MailboxFull),
        ('mailbox = { size = 2, overflow = "block", timeout = "500ms" }', [1, 2], MailboxFull),
        ('mailbox = { size = 2, overflow = "reject" }', [1, 2], MailboxFull),
        ('mailbox = { size = 2, overflow = "drop_newest" }', [1, 2], Receipt),
        ('mailbox = { size = 2, overflow = "drop_oldest" }', [2, 3], Receipt),
        ("mailbox = { size = 3 }", [1, 2, 3], Receipt),
        ("", [1, 2, 3], Receipt),
    ],
)
def test_mailboxes(rules: str, kept: list[int], outcome: type, load: Load, harness: Harness) -> None:
    """The size may be a number or a table with a rule for overflow, and with the time that "block" waits."""
    bus = load(f'[[subscriptions]]\nname = "all"\nsubject = ">"\n{rules}\n')
    harness.start(bus)
    [inbox] = bus.subscriptions
    bus.publish("x", 1)
    bus.publish("x", 2)
    if outcome is MailboxFull:
        with pytest.raises(MailboxFull):
            bus.publish("x", 3)
    else:
        assert isinstance(bus.publish("x", 3), Receipt)
    assert harness.elapsed == (0.5 if "500ms" in rules else 5.0 if rules == "mailbox = 2" else 0.0)
    assert [inbox.receive(timeout=1).body for _ in kept] == kept


@pytest.mark.parametrize(("workers", "at_once"), [(1, 1), (3, 3)])
@pytest.mark.parametrize("run", ["pool", "thread", "loop"])
def test_workers(workers: int, at_once: int, run: str, load: Load, harness: Harness) -> None:
    """This many messages are handled at once, wherever the handler runs."""
    now, most = [0], [0]

    async def slow(message: Message[Any]) -> None:
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(1.0)
        now[0] -= 1

    def fast(message: Message[Any]) -> None:
        now[0] += 1
        most[0] = max(most[0], now[0])
        harness.clock.sleep(1.0)
        now[0] -= 1

    bus = load(
        f"""
        [bus]
        pool = 8
        [[subscriptions]]
        name = "all"
        subject = ">"
        handler = "slow"
        run = "{run}"
        workers = {workers}
        """,
        handlers={"slow": slow if run == "loop" else fast},
    )
    harness.start(bus)
    for number in range(6):
        bus.publish("x", number)
    harness.drain()
    assert most == [at_once]
    assert harness.elapsed == 6 / at_once
    assert engine_of(bus).options()["pool"] == 8


def test_attempts(load: Load, harness: Harness) -> None:
    """A message that is returned this often is dead."""
    taken: list[int] = []

    def back(message: Message[Any], delivery: Delivery) -> None:
        taken.append(delivery.attempt)
        delivery.retry()

    bus = load('[[subscriptions]]\nname = "all"\nsubject = ">"\nhandler = "back"\nattempts = 2\n', handlers={"back": back})
    harness.start(bus)
    bus.publish("x")
    harness.drain()
    assert taken == [1, 2]
    assert [one.place for one in harness.dead] == ["all"]


def test_every(load: Load, harness: Harness) -> None:
    """The first message comes after one interval of virtual time, and each has its whole envelope."""
    bus = load(
        """
        [[every]]
        interval = "1.5s"
        subject = "tick"
        body = { n = 1, when = 2026-11-25T04:00:00Z, list = [1, "a", { b = true }], "$${x}" = "$${x}" }
        headers = { tenant = "acme" }
        key = "k"
        correlation_id = "c"
        reply_to = "back"
        delay = "500ms"
        [[every]]
        interval = 60
        subject = "late"
        ttl = "1s"
        [[subscriptions]]
        name = "all"
        subject = ["tick", "late"]
        """
    )
    harness.start(bus)
    [inbox] = bus.subscriptions
    harness.advance(5.0)
    messages = [inbox.receive(timeout=0.01) for _ in range(3)]
    first = messages[0]
    assert (first.key, first.correlation_id, first.reply_to, dict(first.headers)) == ("k", "c", "back", {"tenant": "acme"})
    assert first.body["n"] == 1
    assert first.body["list"] == [1, "a", {"b": True}]
    assert first.body["$${x}"] == "${x}"
    assert first.body["when"].isoformat() == "2026-11-25T04:00:00+00:00"
    assert len({one.id for one in messages}) == 3
    assert [one["published"] for one in (schedule.stats() for schedule in engine_of(bus).schedules)] == [3, 0]
    harness.advance(60.0)
    assert [schedule.stats()["published"] for schedule in engine_of(bus).schedules][1] == 1


def test_cron(load: Load, harness: Harness) -> None:
    """A day has one 3 o'clock, in every time zone, and the message says for which moment it is."""
    bus = load(
        """
        [[cron]]
        expression = "0 3 * * *"
        timezone = "Asia/Tokyo"
        subject = "report.nightly"
        body = { kind = "sales" }
        name = "report"
        missed = "once"
        """
    )
    harness.start(bus)
    harness.advance("24h")
    [message] = harness.published
    assert (message.body, float(message.headers["pipebus-slot"]) % 86400) == ({"kind": "sales"}, 18 * 3600)
    [stats] = bus.stats()["schedules"]
    assert (stats["name"], stats["cron"], stats["timezone"]) == ("report", "0 3 * * *", "Asia/Tokyo")


def test_expressions(load: Load, harness: Harness) -> None:
    """Expressions can use bodies and headers, even bodies that are models."""
    bus = load(
        """
        [[pipelines]]
        match = { expr = "body.total > `100` && headers.tenant == 'acme' || contains(subject, 'vip')" }
        filters = ["mark-a"]
        [[subscriptions]]
        name = "all"
        subject = ">"
        """,
        filters=MARKS,
    )
    harness.start(bus)
    [inbox] = bus.subscriptions

    def went(subject: str, body: Any, **headers: str) -> str:
        bus.publish(subject, body, headers=headers)
        return marks(inbox.receive(timeout=1))

    assert went("x", {"total": 101}, tenant="acme") == "a"
    assert went("x", {"total": 101}, tenant="other") == ""
    assert went("x", {"total": 100}, tenant="acme") == ""
    assert went("vip.1", {}) == "a"
    assert went("x", shop.Order(1, total=101.0), tenant="acme") == "a"
    assert went("y", {"totl": 1}, tenant="acme") == ""  # null || false is false


def test_a_condition_that_is_neither(load: Load, harness: Harness) -> None:
    """A condition refuses a message that lacks what it compares, and names itself."""
    bus = load('[[pipelines]]\nfilters = [{ when = { expr = "body.total > `100`" }, filters = ["log"] }]\n')
    harness.start(bus)
    assert bus.publish("x", {"total": 101})
    assert bus.publish("x", {"total": 1})
    for body in ({"totl": 101}, {"total": None}, {"total": [101]}, 101, None):
        with pytest.raises(Rejected) as caught:
            bus.publish("x", body)
        assert str(caught.value).endswith("body.total > `100` is null: a field is missing, or cannot be compared")
    with pytest.raises(Rejected, match=r"body\.total > `100`: a text and a number cannot be compared$"):
        bus.publish("x", {"total": "101"})


def test_options_of_the_bus(load: Load, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option of [bus] works, and texts from outside are read as numbers and flags."""
    monkeypatch.setenv("POOL", "3")
    bus = load(
        """
        [bus]
        transport = "memory:?wire=json"
        name = "shop"
        pool = "${env:POOL}"
        dead_letters = 2
        max_message_bytes = "400B"
        max_hops = 3
        require = { delay = true }
        drain = true
        strict = "${env:STRICT:-false}"
        debug = "${env:DEBUG:-true}"
        [[subscriptions]]
        name = "all"
        subject = ">"
        handler = "fussy"
        """,
        handlers={"fussy": shop.fussy},
    )
    assert engine_of(bus).options() == {
        "name": "shop", "pool": 3, "dead_letters": 2, "max_message_bytes": 400, "max_hops": 3, "require": {"delay": True},
        "drain": True, "strict": False, "debug": True,
    }  # fmt: skip
    assert engine_of(bus).transport.codec is not None
    harness.start(bus)
    for _ in range(3):
        bus.publish("x", True)
    harness.drain()
    assert len(list(bus.dead_letters)) == 2
    with pytest.raises(Exception, match="max_message_bytes is 400"):
        bus.publish("x", "x" * 400)


# --- a loaded bus in a program -----------------------------------------------------------------------------------------


def test_a_loaded_bus_can_be_added_to(load: Load, harness: Harness, desk: Desk) -> None:
    """A program adds filters behind those of the file, and more subscriptions; a name that the file uses is taken."""
    bus = load('[[pipelines]]\nfilters = ["mark-a"]\n[[subscriptions]]\nname = "one"\nsubject = "x"\n', filters=MARKS)
    bus.use(mark("z"))
    bus.subscribe("x", desk.named("two"), name="two")
    with pytest.raises(Exception, match=r'subscription "one" .* exists already \(at bus.toml:\d+\)'):
        bus.subscribe("x", desk.named("one"), name="one")
    harness.start(bus)
    bus.publish("x", 1)
    harness.drain()
    assert desk.given == [("two", "x", 1)]
    assert marks(harness.delivered_to("two")[0]) == "az"


def test_loading_twice_makes_two(load: Load, harness: Harness) -> None:
    """Two buses of one file share only the filters that the program hands in or that a module holds."""
    text = """
        [filters.a]
        use = "dedupe"
        [[pipelines]]
        filters = ["a", { use = "python", target = "export_shop:SHARED_COUNT" }]
        """
    one, other = load(text), load(text)
    first, second = ([step.filter for step in steps(engine_of(bus).router.nodes)] for bus in (one, other))
    assert first[0] is not second[0]
    assert first[1] is second[1] is shop.SHARED_COUNT


def test_a_derived_bus(tmp_path: Path) -> None:
    """`from_config` makes a bus of the class that it is called on."""

    class Mine(Bus):
        pass

    for text in ("version = 1\n", "version = 1\n[bus]\npool = 2\n"):
        (tmp_path / "bus.toml").write_text(text)
        assert type(Mine.from_config(tmp_path / "bus.toml")) is Mine


def test_a_file_in_real_threads(load: Load, desk: Desk) -> None:
    """A program can use the file without a harness."""
    bus = load(
        '[[subscriptions]]\nname = "one"\nsubject = "x"\nhandler = "desk"\nworkers = 2\n', handlers={"desk": desk.named("desk")}
    )
    with bus:
        for number in range(20):
            bus.publish("x", number)
    assert sorted(body for _, _, body in desk.given) == list(range(20))

    async def main() -> None:
        again = load('[[subscriptions]]\nname = "one"\nsubject = "x"\nhandler = "export_shop:aship"\n')
        async with again:
            assert await again.apublish("x")

    asyncio.run(main())


# --- places ------------------------------------------------------------------------------------------------------------

PLACES = """
[filters.check]
use = "validate"
models = { "orders.>" = "export_shop:Order" }

[[pipelines]]
filters = [
    "log",
    "check",
    { when = "orders.eu.>", filters = [
        { use = "set_headers", headers = { region = "eu" } },
    ] },
    { branch = "orders.audit.>", filters = [
        "dedupe",
    ] },
]

[[pipelines]]
match = "orders.>"
on_error = "drop"
filters = [{ use = "tap", target = "export_shop:look" }]

[[subscriptions]]
name = "billing"
subject = "orders.>"
handler = "export_shop:bill"
filters = [
    { use = "retry", attempts = 2 },
]

[[every]]
interval = 5
subject = "tick"
"""


def test_explain_shows_lines_of_the_file(load: Load) -> None:
    """Each filter, fork and subscription has the line of its entry, and not that of the table with its name."""
    bus = load(PLACES)
    told = bus.explain("orders.eu.1")

    def shown(what: str) -> int:
        [line] = [line for line in told.splitlines() if line.strip().startswith(what)]
        match = re.search(r"bus\.toml:(\d+)$", line)
        assert match is not None, line
        return int(match[1])

    assert shown("Log") == line_of('"log",')
    assert shown("check") == line_of('"check",')
    assert shown('when("orders.eu.>")') == line_of('when = "orders.eu.>"')
    assert shown("SetHeaders") == line_of('use = "set_headers"')
    assert shown('branch("orders.audit.>")') == line_of("branch =")
    assert shown("Tap") == line_of('use = "tap"')
    assert shown("Retry") == line_of('use = "retry"')
    assert shown("billing on orders.>") == line_of("[[subscriptions]]")
    places = re.findall(r"place': '([^']*)'", str(bus.describe()))
    assert {one.rpartition(":")[0] for one in places} == {"bus.toml"}
    [schedule] = engine_of(bus).schedules
    assert str(schedule.place) == f"bus.toml:{line_of('[[every]]')}"


def test_errors_of_the_program_name_lines_of_the_file(load: Load) -> None:
    """
    A filter behind a branch that takes everything, or a handler that a filter of the file cannot wrap, names lines of the file.
    """
    bus = load(
        """
        [[pipelines]]
        filters = [
            { branch = "a.>", filters = [] },
        ]
        [[pipelines]]
        at = "delivery"
        filters = [
            { use = "python", target = "export_shop:passing" },
        ]
        """
    )
    with pytest.raises(PipelineError, match=rf'branch\("a\.>"\) \(at bus\.toml:{line_of("branch =")}\)'):
        bus.use(when("a.b", Log()))
    with pytest.raises(
        PipelineError, match=rf"filter passing \(position 1 of .* at bus\.toml:{line_of('passing')}\) is a plain"
    ):
        bus.subscribe("x", shop.aship)
    with pytest.raises(PipelineError, match=r"bus\.toml:\d+"):
        bus.use(shop.apassing, at="delivery")


def test_errors_of_the_file_name_its_lines(load: Load) -> None:
    """The checks of chains report the line of the entry, in the words that they use for programs."""
    with pytest.raises(ConfigError) as caught:
        load(
            """
            [[pipelines]]
            filters = [
                { branch = "a.>", filters = [] },
                { when = "a.b", filters = ["log"] },
            ]
            [[pipelines]]
            at = "delivery"
            filters = [
                "log",
                { use = "reroute", to = "x" },
            ]
            [[subscriptions]]
            name = "one"
            subject = "a"
            handler = "export_shop:aship"
            filters = [
                { when = "b", filters = ["log"] },
            ]
            """
        )
    problems = {problem.line: problem for problem in caught.value.problems}
    assert set(problems) == {line_of('when = "a.b"'), line_of("reroute"), line_of('when = "b"')}
    assert "comes after branch" in problems[line_of('when = "a.b"')].text
    assert "changes subjects" in problems[line_of("reroute")].text
    assert "can never run" in problems[line_of('when = "b"')].text
    assert all(problem.file == "bus.toml" for problem in caught.value.problems)


def test_errors_while_it_runs_name_the_filter(load: Load, harness: Harness) -> None:
    """The error uses the filter's name in the file."""
    bus = load(
        """
        [filters.strict]
        use = "validate"
        models = { ">" = "int" }
        [filters.again]
        use = "dedupe"
        key = { expr = "body" }
        [[pipelines]]
        filters = ["strict", "again"]
        """
    )
    harness.start(bus)
    with pytest.raises(Rejected) as caught:
        bus.publish("x", "text")
    assert caught.value.by == "strict"
    assert str(caught.value).startswith("rejected by strict: ")
    bus.publish("x", 1)
    assert bus.publish("x", 1) == Dropped("duplicate", "again")
    assert "strict" in bus.stats()["rejected"]


def test_nothing_runs_before_it_is_started(load: Load) -> None:
    """A loaded bus is new: no handler was called, and no filter was started."""
    started: list[str] = []

    class Filter(Transform):
        def start(self, context: Any) -> None:
            started.append(context.name)

        def transform(self, message: Message[Any], /) -> Message[Any]:
            return message

    bus = load('[[pipelines]]\nfilters = ["it"]\n[[every]]\ninterval = "1ms"\nsubject = "x"\n', filters={"it": Filter()})
    assert bus.state == "new"
    assert started == []
    with bus:
        assert started == ["Filter"]


def test_a_transport_that_cannot(load: Load) -> None:
    """Loading the file raises an error if the transport lacks what the file requires."""
    with pytest.raises(ConfigError, match=r'bus\.toml:3: bus: require = \{ survives = "power" \}: .*cannot promise'):
        load('[bus]\nrequire = { survives = "power" }\n')
    with pytest.raises(UnsupportedCapability):
        Bus(require={"survives": "power"})

"""The path of one message on a running bus: a dry run, after which everything is as before."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from flow_helpers import WAIT, Boom
from pipebus import Actor, Around, Bus, Dropped, Message, Pipeline, Rejected, Transform, branch, switch, transform, when
from pipebus.bus.bus import engine_of
from pipebus.bus.dry_run import dry_run
from pipebus.filters import Dedupe, Enrich, Expire, Log, Redact, Reroute, Retry, SetHeaders, Timeout, Validate
from pipebus.pipeline.shapes import Context, Steps
from pipebus.telemetry.sampler import sampler_of
from pipebus.web import path as module
from pipebus.web.path import changes_of
from web_helpers import page_of


def path_of(bus: Bus, subject: str = "orders", body: Any = None, **more: Any) -> dict[str, Any]:
    answer = page_of(bus).post("/api/path", json={"subject": subject, "body": body, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def briefly(found: dict[str, Any]) -> list[Any]:
    return [(step["filter"], step["why"]) for step in found["steps"]]


def test_each_filter_shows_what_it_changed_and_each_mailbox_what_follows() -> None:
    """In order, with settings and place; the subscriptions are those of the new subject."""
    bus = Bus()
    bus.use(SetHeaders({"tenant": "acme"}), Redact(["card"]), Reroute("orders.{body.country}"))
    bus.use(when("orders.>", Enrich({"seen": True})), Log(level="debug"))
    bus.use(Expire(5.0), at="delivery")
    bus.subscribe("orders.fr", lambda message: None, name="till", filters=[Retry(attempts=2)])
    bus.subscribe("orders.*", name="reader")
    bus.subscribe("orders", lambda message: None, name="other")
    found = path_of(bus, body={"country": "fr", "card": "4111"}, key="k")

    assert [(step["filter"], step["changes"]) for step in found["steps"]] == [
        ("SetHeaders", [{"path": "headers.tenant", "after": "acme"}]),
        ("Redact", [{"path": "body.card", "before": "[redacted]", "after": "[redacted]"}]),  # without the value
        ("Reroute", [{"path": "subject", "before": "orders", "after": "orders.fr"}]),
        ("Enrich", [{"path": "body.seen", "after": True}]),
        ("Log", []),
    ]
    first, *_, last = found["steps"]
    assert first["settings"] == {"headers": {"tenant": "acme"}, "overwrite": True}
    assert "test_path.py:" in first["place"]
    assert all(step["took"] >= 0 and step["why"] is None for step in found["steps"])
    assert (last["message"]["subject"], last["message"]["key"]) == ("orders.fr", "k")
    assert last["message"]["body"] == {"country": "fr", "card": "[redacted]", "seen": True}
    assert found["outcome"] == {"outcome": "accepted", "by": None, "reason": None}
    assert [(one["subscription"], one["filters"]) for one in found["mailboxes"]] == [
        ("reader", ["Expire"]),
        ("till", ["Expire", "Retry"]),
    ]


@transform
def dull(message: Message[Any]) -> Dropped:
    return Dropped("dull")


@transform
def refuse(message: Message[Any]) -> Message[Any]:
    raise Rejected("too large", "too\u202e late")


@transform
def fail(message: Message[Any]) -> Message[Any]:
    raise Boom("<b>boom</b>")


def swallow(message: Message[Any], call_next: Any) -> Any:
    call_next(message)
    return Dropped("after all")


def keep(message: Message[Any], call_next: Any) -> Any:
    try:
        return call_next(message)
    except Boom:
        return Dropped("it failed")


@pytest.mark.parametrize(
    ("chain", "steps", "outcome"),
    [
        ([dull], [("dull", "dull")], ("dropped", "dull", "dull")),
        ([refuse], [("refuse", "too large; too\\u202e late")], ("rejected", "refuse", "too large; too\\u202e late")),
        ([fail], [("fail", "Boom: <b>boom</b>")], ("failed", "fail", "Boom: <b>boom</b>")),
        ([swallow], [("swallow", "after all")], ("dropped", "swallow", "after all")),
        ([keep, fail], [("keep", "it failed"), ("fail", "Boom: <b>boom</b>")], ("dropped", "keep", "it failed")),
        ([Pipeline(fail, on_error="dead_letter")], [("fail", "Boom: <b>boom</b>")], ("dropped", "fail", "dead_letter: Boom")),
        ([branch("orders", Enrich({"a": 1})), fail], [("Enrich", None)], ("unrouted", None, None)),
        ([switch(when("x", fail), when("orders", dull))], [("dull", "dull")], ("dropped", "dull", "dull")),
        ([lambda message, call_next: None], [("<lambda>", "returned None")], ("failed", "<lambda>", "returned None")),
    ],
    ids=[
        "drop",
        "reject",
        "fail",
        "drop on the way back",
        "error on the way back",
        "dead letter",
        "branch",
        "switch",
        "contract",
    ],
)
def test_it_says_which_filter_ends_it_and_why(chain: list[Any], steps: list[Any], outcome: Any) -> None:
    bus = Bus()
    bus.use(*chain)
    found = path_of(bus, body={})

    assert [name for name, _ in briefly(found)] == [name for name, _ in steps]
    for (_, why), (_, part) in zip(briefly(found), steps, strict=True):
        assert why is None if part is None else part in why
    word, by, reason = outcome
    assert (found["outcome"]["outcome"], found["outcome"]["by"]) == (word, by)
    assert reason is None or reason in found["outcome"]["reason"]
    assert len(bus.dead_letters) == 0


def test_each_attempt_of_a_retry_is_a_step_and_its_waits_take_no_time() -> None:
    bus, tries = Bus(), []

    @bus.use
    def _(message: Any, call_next: Any) -> Any:
        return call_next(message)

    bus.use(Retry(attempts=3, wait=3600.0, max_wait=3600.0))

    @bus.use
    def down(message: Any, call_next: Any) -> Any:
        tries.append(message)
        if len(tries) < 3:
            raise ConnectionError("down")
        return call_next(message)

    assert briefly(path_of(bus)) == [
        ("_", None), ("Retry", None), ("down", "ConnectionError: down"), ("down", "ConnectionError: down"), ("down", None),
    ]  # fmt: skip


def test_an_async_chain_runs_too() -> None:
    bus = Bus()

    @bus.use
    async def wait(message: Any, call_next: Any) -> Any:
        await asyncio.sleep(0)
        return await call_next(message.with_headers(a="b"))

    bus.use(Timeout(2.0), Reroute("orders.fr"), Retry(attempts=2, wait=100.0, max_wait=100.0))
    tries = []

    @bus.use
    async def once(message: Any, call_next: Any) -> Any:
        tries.append(1)
        if len(tries) < 2:
            raise ConnectionError("down")
        return await call_next(message)

    bus.subscribe("orders.fr", lambda message: None, name="till")
    found = path_of(bus)
    assert briefly(found) == [
        ("wait", None),
        ("Timeout", None),
        ("Reroute", None),
        ("Retry", None),
        ("once", "ConnectionError: down"),
        ("once", None),
    ]
    assert [one["subscription"] for one in found["mailboxes"]] == ["till"]


def test_a_strict_bus_says_that_nobody_listens() -> None:
    assert path_of(Bus())["outcome"]["outcome"] == "unrouted"
    found = path_of(Bus(strict=True))["outcome"]
    assert (found["outcome"], "nobody listens to orders" in found["reason"]) == ("failed", True)


# --- nothing changes -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Count(Transform):
    """A filter with a past, which starts and stops."""

    seen: list[Any] = field(default_factory=list)
    lives: list[str] = field(default_factory=list)
    tell: Callable[[Any, Any], object] = lambda copy, bus: None

    def start(self, context: Context) -> None:
        self.lives.append("start")
        self.tell(self, context.bus)

    async def stop(self) -> None:
        self.lives.append("stop")

    def transform(self, message: Message[Any], /) -> Message[Any]:
        self.seen.append(message)
        return message.with_headers(count=str(len(self.seen)))


class Once(Around):
    """Not a dataclass, so it really runs."""

    def __init__(self) -> None:
        self.ran = 0

    def around(self, message: Message[Any], /) -> Steps:
        self.ran += 1
        return (yield message)


class Quota(Actor):
    asked = 0

    def filter(self, message: Message[Any]) -> Message[Any]:
        self.asked += 1
        return message


@pytest.mark.parametrize("store", [False, True], ids=["memory", "sqlite"])
def test_a_bus_at_work_stays_as_it_is(store: bool, tmp_path: Path) -> None:
    """No figure, no letter, no mailbox, no event, no memory of a filter; only a filter that cannot be copied really runs."""
    bus = Bus(f"sqlite:///{tmp_path}/bus.db" if store else "memory:")
    count, once, quota, events = Count(), Once(), Quota("quota"), list[Any]()
    bus.use(count, Dedupe(durable=store), once, Retry(attempts=2), count)
    if not store:
        bus.use(quota)
    bus.use(Pipeline(Validate({"orders": dict[str, int]}), on_error="dead_letter"))
    bus.subscribe("orders", lambda message: None, name="till")
    with bus:
        bus.publish("orders", {"n": 1}, id="m1")
        bus.drain(WAIT)
        bus.observe(events.append)

        def everything() -> Any:
            stats, described = bus.stats(), bus.describe()
            return json.dumps(
                [stats, described, [letter.id for letter in bus.dead_letters.list()]], default=repr, sort_keys=True
            )

        before, state = everything(), (list(count.seen), list(count.lives), quota.asked)
        good = dry_run(engine_of(bus), Message("orders", {"n": 2}))
        dry_run(engine_of(bus), Message("orders", {"n": "x"}))
        again = dry_run(engine_of(bus), Message("orders", {"n": 1}, id="m1"))

        assert good.outcome["outcome"] == "accepted"
        assert good.notes[-1].after is not None
        assert good.notes[-1].after.headers["count"] == "4"  # as on the bus: one object in two places is one copy
        assert again.outcome["outcome"] == ("dropped" if store else "accepted")  # a store's memory is read
        assert everything() == before
        assert (count.seen, count.lives, quota.asked) == state
        assert events == []
        assert once.ran == (3 if store else 4)
        assert bus.publish("orders", {"n": 2}, id="m2")  # not taken for a duplicate
        assert not bus.publish("orders", {"n": 1}, id="m1")


class Bad(Count):
    def start(self, context: Context) -> None:
        raise ConnectionError("no database")


def test_copies_are_started_and_stopped_and_see_the_bus() -> None:
    """A filter that opens what it needs in its start works in a dry run too."""
    bus, told = Bus(), list[Any]()
    bus.use(Count(tell=lambda *both: told.append(both)), when("elsewhere", Bad()))
    dry_run(engine_of(bus), Message("orders"))
    [(copy, given)] = told
    assert given is bus
    assert copy.lives == ["start", "stop"]
    assert not any(thread.name == "pipebus-dry-run" for thread in threading.enumerate())


def test_a_copy_that_does_not_start_is_the_reason() -> None:
    bus = Bus()
    bus.use(Bad())
    found = path_of(bus)["outcome"]
    assert found == {"outcome": "failed", "by": "Bad", "reason": "ConnectionError: no database"}


@dataclass(eq=False)
class Sealed(Transform):
    secret: str

    def __init__(self) -> None:
        self.secret = "s"

    def transform(self, message: Message[Any], /) -> Message[Any]:
        raise AssertionError("the original runs")


def test_what_is_not_run_says_so() -> None:
    """A filter actor, and a filter that cannot be copied, let the message pass, and the step says why."""
    bus, quota = Bus(), Quota("quota")
    bus.use(quota, Sealed())
    with bus:
        found = path_of(bus)
    (_, actor), (_, sealed) = briefly(found)
    assert actor.startswith("not run: an actor is not asked")
    assert sealed.startswith("not run: it cannot be copied")
    assert (found["outcome"]["outcome"], quota.asked) == ("unrouted", 0)


def test_a_filter_that_hangs_is_given_up() -> None:
    """The answer comes in time and names it; too many that hang are refused, and their places come back."""
    bus, gate = Bus(), threading.Event()

    @bus.use
    def hang(message: Any, call_next: Any) -> Any:
        gate.wait(WAIT)
        return call_next(message)

    ended = threading.Semaphore(0)
    found = dry_run(engine_of(bus), Message("orders"), 0.05, then=ended.release)
    assert found.outcome == {"outcome": "failed", "by": "hang", "reason": "it took longer than 0.05 s, and was given up"}
    gate.set()
    assert ended.acquire(timeout=WAIT)


def test_few_dry_runs_go_on_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUNS", 1)
    bus, gate, inside = Bus(), threading.Event(), threading.Event()

    @bus.use
    def hang(message: Any, call_next: Any) -> Any:
        inside.set()
        gate.wait(WAIT)
        return call_next(message)

    browser = page_of(bus)
    thread = threading.Thread(target=browser.post, args=("/api/path",), kwargs={"json": {"subject": "a"}})
    thread.start()
    assert inside.wait(WAIT)
    refused = browser.post("/api/path", json={"subject": "a"})
    gate.set()
    thread.join(WAIT)
    assert (refused.status_code, "filters hang" in refused.json()["error"]) == (503, True)
    assert browser.post("/api/path", json={"subject": "a"}).status_code == 200


# --- what is asked ---------------------------------------------------------------------------------------------------------


def test_a_recent_message_is_taken_by_its_number() -> None:
    """Its body may be any object."""
    bus = Bus()
    bus.use(SetHeaders({"a": "b"}))
    bus.subscribe("orders", lambda message: None, name="till")
    with bus:
        browser = page_of(bus)
        browser.get("/api/figures")
        bus.publish("orders", {1, 2}, id="m1")
        bus.drain(WAIT)
        [recent] = browser.get("/api/conversation/m1").json()["messages"]
        found = browser.post("/api/path", json={"number": recent["number"]}).json()
        assert (found["outcome"]["outcome"], found["steps"][0]["message"]["id"]) == ("accepted", "m1")
        for number in (999, "1", None, -5, 1.5):
            assert browser.post("/api/path", json={"number": number}).status_code == 404


def test_a_recent_message_keeps_its_body_if_a_filter_changes_that_in_place() -> None:
    """In memory the body is in the hands of handlers and readers, and is copied; one that cannot be copied is refused."""
    bus = Bus()

    @bus.use
    def count(message: Message, call_next: Any) -> Any:
        if isinstance(message.body, dict):
            message.body["passes"] = message.body.get("passes", 0) + 1
        return call_next(message)

    bus.subscribe("orders", lambda message: None)
    body: dict[str, Any] = {}
    with bus:
        browser = page_of(bus)
        browser.get("/api/figures")
        bus.publish("orders", body)
        bus.publish("orders", threading.Lock())
        bus.drain(WAIT)
        first, second = [one.number for one in sampler_of(bus).recent()]
        [step] = browser.post("/api/path", json={"number": first}).json()["steps"]
        refused = browser.post("/api/path", json={"number": second})

    assert step["message"]["body"] == {"passes": 2}
    assert body == {"passes": 1}
    assert refused.status_code == 400
    assert "cannot be copied" in refused.json()["error"]


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"subject": 7}', 400),
        (b'{"subject": "a..b"}', 400),
        (b'{"subject": "a.*"}', 400),
        (b'{"subject": "a", "headers": [1]}', 400),
        (b'{"subject": "a", "headers": {"b": 1}}', 400),
        (b'{"subject": "a", "key": 7}', 400),
        (b'{"subject": "a", "more": 1}', 400),
        (b'{"subject": "\\ud800"}', 400),
        (b'{"subject": "a", "body": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
        (b'{"subject": "a", "body": "' + b"x" * 2_000_000 + b'"}', 413),
        (b'{"subject": "a", "body": 1e999}', 400),
        (b'{"subject": "a", "body": 123456789012345678901234567890}', 200),
        (b'{"subject": "a", "headers": null}', 200),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_message_is_refused_with_a_reason(asked: bytes, status: int) -> None:
    answer = page_of(Bus()).post("/api/path", content=asked, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.json()["error"]


def test_a_form_of_another_site_is_no_request() -> None:
    """A browser sends JSON to another site only after it has asked that site, and this one never agrees."""
    browser = page_of(Bus())
    assert browser.post("/api/path", content=b'{"subject": "a"}', headers={"Content-Type": "text/plain"}).status_code == 415
    assert browser.options("/api/path").status_code == 405


def test_dry_runs_can_be_switched_off() -> None:
    browser = page_of(Bus(), dry_run=False)
    assert browser.get("/api/bus").json()["dry_run"] is False
    assert browser.post("/api/path", json={"subject": "a"}).status_code == 403


def test_a_hostile_body_comes_through() -> None:
    bus = Bus()
    bus.use(
        transform(
            lambda message: message.with_body({"nan": float("nan"), "deep": [[[[]]]], "text": "\ud800", "long": "x" * 10**7})
        )
    )
    found = path_of(bus, body="<script>")
    [step] = found["steps"]
    assert step["message"]["cut"]
    assert [change["path"] for change in step["changes"]] == ["body"]


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 1.0}, [{"path": "a", "before": 1, "after": 1.0}]),
        ({"a": None}, {}, [{"path": "a", "before": None}]),
        (
            {"a": [1, {"b": 2}]},
            {"a": [1, {"b": 3}, 4]},
            [{"path": "a[1].b", "before": 2, "after": 3}, {"path": "a[2]", "after": 4}],
        ),
        ({"a": {"b": 1}}, {"a": [1]}, [{"path": "a", "before": {"b": 1}, "after": [1]}]),
        (
            {"b": 1, "a": 1},
            {"c": 1, "a": 2},
            [{"path": "b", "before": 1}, {"path": "a", "before": 1, "after": 2}, {"path": "c", "after": 1}],
        ),
    ],
    ids=["same", "type", "gone", "inside", "kind", "several"],
)
def test_changes_are_as_small_as_they_are(before: Any, after: Any, found: Any) -> None:
    assert list(changes_of(before, after)) == found

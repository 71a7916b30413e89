"""What the addresses of the page answer."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

pytest.importorskip("starlette")

import pipebus
from flow_helpers import WAIT
from missing import needs
from pipebus import Bus, LifecycleError, Message, Rejected
from pipebus.filters import Log
from pipebus.web import app
from pipebus.web.headers import POLICY
from web_helpers import TOKEN, client, page_of


def shop() -> Bus:
    bus = Bus()
    bus.use(Log(level="debug", redact=["card"]))

    @bus.on("orders.>", name="till")
    def till(message: Message[Any]) -> None:
        if message.body == "bad":
            raise ValueError("no\nsuch <b>thing</b> \u202e")

    bus.every(3600.0, "ticks", {"card": "4111", "fine": 1})
    return bus


def test_each_file_of_the_page_has_its_type() -> None:
    """The browser runs what is said to be a script, and nothing else."""
    browser = page_of(Bus())
    kinds = {"/": "text/html", "/page.html": "text/html", "/page.js": "text/javascript", "/page.css": "text/css"}
    assert {path: browser.get(path).headers["content-type"].split(";")[0] for path in kinds} == kinds


ELSEWHERE = ["/static/page.js", "/../routes.py", "/%2e%2e/routes.py", "/routes.py", "/api", "/api/nothing", "/page.js/"]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_there_is_nothing_else(path: str) -> None:
    answer = page_of(Bus()).get(path)
    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


def test_every_answer_has_the_headers_that_keep_a_browser_safe() -> None:
    """Also errors and refusals: nothing is loaded from elsewhere, framed, kept, or taken for another type."""
    browser = page_of(Bus(), token=TOKEN)
    answers = [browser.get(path) for path in ("/", "/page.js", "/livez", "/readyz", "/api/bus", "/nothing")]
    answers += [browser.post("/api/bus"), browser.post("/login", content=b"{")]
    assert {answer.status_code for answer in answers} >= {200, 503, 401, 404, 405, 400}
    for answer in answers:
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'; script-src 'self';")


def test_the_bus_is_described() -> None:
    with shop() as bus:
        found = page_of(bus).get("/api/bus").json()

    described = json.loads(json.dumps(bus.describe()))
    [schedule] = described["schedules"]
    schedule["body"] = {"card": "[redacted]", "fine": 1}
    facts = {"name": "pipebus", "url": "memory:", "version": pipebus.__version__, "state": "started", "dry_run": True}
    assert found == facts | {"describe": described}


def test_figures_health_and_letters() -> None:
    """The figures of `stats`, and a dead letter with its traceback; a name in a text changes nothing around it."""
    with shop() as bus:
        browser = page_of(bus)
        bus.publish("orders.new", {"card": "4111"})
        bus.publish("orders.new", "bad", headers={"card": "4111", "tenant": "acme"}, correlation_id="talk")
        bus.publish("nowhere")
        bus.drain(WAIT)
        figures = browser.get("/api/figures").json()
        letters = browser.get("/api/dead").json()
        [summary] = letters["letters"]
        letter = browser.get(f"/api/dead/{summary['id']}").json()
        assert browser.get("/livez").text == browser.get("/readyz").text == "ok"

    assert {name: figures["messages"][name] for name in ("published", "accepted", "unrouted", "dead_letters")} == {
        "published": 3, "accepted": 3, "unrouted": 1, "dead_letters": 1,
    }  # fmt: skip
    [row] = figures["subscriptions"]
    assert {name: row[name] for name in ("name", "accepted", "acknowledged", "dead", "pending", "in_flight", "size")} == {
        "name": "till", "accepted": 2, "acknowledged": 1, "dead": 1, "pending": 0, "in_flight": 0, "size": 10_000,
    }  # fmt: skip
    assert (letters["total"], summary["place"], summary["attempts"]) == (1, "till", 1)
    assert summary["error"] == "ValueError: no\\nsuch <b>thing</b> \\u202e"
    assert "\n" in letter["traceback"]
    assert "\u202e" not in letter["traceback"]
    assert letter["message"]["headers"] == {"card": "[redacted]", "tenant": "acme"}
    assert (letter["message"]["body"], letter["message"]["correlation_id"]) == ("bad", "talk")


def test_prometheus_can_scrape_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own type and parser; without the package, the answer says how to install it."""
    needs("prometheus_client")
    from prometheus_client.parser import text_string_to_metric_families

    with shop() as bus:
        browser = page_of(bus, token=TOKEN)
        assert browser.get("/metrics").status_code == 401
        answer = browser.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        families = {family.name for family in text_string_to_metric_families(answer.text)}
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert {"pipebus_messages_published", "pipebus_ready"} <= families
        monkeypatch.delitem(sys.modules, "pipebus.telemetry.prometheus")
        monkeypatch.setitem(sys.modules, "prometheus_client", None)  # type: ignore[arg-type]
        missing = page_of(bus).get("/metrics")
    assert (missing.status_code, ".[prometheus]" in missing.json()["error"]) == (501, True)


def test_letters_are_found_by_subject_place_and_error_and_come_in_pages() -> None:
    bus = Bus()

    def fail(message: Message[Any]) -> None:
        raise Rejected("odd" if message.body % 2 else "even")

    for name in ("one", "two"):
        bus.subscribe(f"{name}.>", fail, name=name)
    with bus:
        for number in range(120):
            bus.publish("one.a", number)
        bus.publish("two.b", 1)
        bus.drain(WAIT)
        browser = page_of(bus)

        def found(**wanted: str) -> tuple[int, int]:
            answer = browser.get("/api/dead", params=wanted).json()
            return answer["total"], len(answer["letters"])

        assert found() == (121, 100)
        last = browser.get("/api/dead").json()["letters"][-1]["id"]
        assert found(after=last) == (121, 21)
        assert found(place="two") == found(subject="*.b") == (1, 1)
        assert found(error="EVEN") == (60, 60)
        assert found(subject="one.>", error="odd", place="two") == (0, 0)
        assert browser.get("/api/dead", params={"subject": "a..b"}).status_code == 400
    missing = browser.get("/api/dead/d999")
    assert (missing.status_code, "d999" in missing.json()["error"]) == (404, True)


def test_a_conversation_is_shown() -> None:
    """The recent messages with that correlation id, and the one that began it."""
    bus = Bus()
    bus.subscribe("begin", lambda message: {"next": 1}, name="begin", to="goes.on")
    bus.subscribe("goes.on", lambda message: None, name="end")
    with bus:
        browser = page_of(bus)
        browser.get("/api/figures")  # from now on, samples are taken
        bus.publish("begin", {"first": 1}, id="m1")
        bus.publish("begin", {"other": 1}, id="m2")
        bus.drain(WAIT)
        messages = browser.get("/api/conversation/m1").json()["messages"]

    assert [(one["subject"], one["subscriptions"], one["causation_id"]) for one in messages] == [
        ("begin", ["begin"], None), ("goes.on", ["end"], "m1"),
    ]  # fmt: skip


@pytest.mark.parametrize("framework", ["starlette", pytest.param("fastapi", marks=pytest.mark.thorough)])
def test_it_is_mounted_anywhere(framework: str) -> None:
    """In an application of one's own, under any prefix; its addresses are relative, and its cookie is for the prefix."""
    needs(framework)
    if framework == "fastapi":
        from fastapi import FastAPI

        api: Any = FastAPI()
    else:
        from starlette.applications import Starlette

        api = Starlette()
    api.mount("/admin/bus", app(Bus(), token=TOKEN))
    browser = client(api)

    assert browser.get("/admin/bus").url.path == "/admin/bus/"
    assert browser.get("/admin/bus/page.js").status_code == 200
    assert browser.get("/admin/bus/api/bus").status_code == 401
    assert "Path=/admin/bus/" in browser.post("/admin/bus/login", json={"token": TOKEN}).headers["set-cookie"]
    assert browser.get("/admin/bus/api/bus").json()["state"] == "new"
    assert browser.get("/api/bus").status_code == 404


@pytest.mark.parametrize("path", ["/", "/api/bus", "/api/figures", "/api/dead", "/api/events"])
def test_nothing_is_changed_by_asking(path: str) -> None:
    """Only `login` and `api/path` take a POST, and no address takes anything that deletes or replaces."""
    browser = page_of(Bus())
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert browser.request(method, path).status_code == 405


def test_only_a_bus_is_shown() -> None:
    with pytest.raises(LifecycleError, match="it takes a Bus"):
        app("memory:")  # type: ignore[arg-type]

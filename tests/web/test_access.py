"""Who may look at a bus: this computer, or those who know the token."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("starlette")

from pipebus import Bus, PipebusError
from pipebus.web import app
from web_helpers import TOKEN, client, page_of

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("name", ["127.0.0.1:9000", "localhost:9000", "LOCALHOST", "[::1]:9000", "127.8.8.8"])
def test_this_computer_may_look(name: str) -> None:
    """Whatever name of the computer a person types into the browser."""
    assert page_of(Bus()).get("/api/bus", headers={"Host": name}).status_code == 200
    assert client(app(Bus()), at=("::1", 1)).get("/api/bus", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize(
    ("at", "headers", "said"),
    [
        (("192.0.2.7", 1), {}, "asked from 192.0.2.7"),
        (("testclient", 1), {}, "asked from testclient"),
        (None, {}, "not known, as over a unix socket"),
        (("127.0.0.1", 1), {"Host": "rebound.example:9000"}, "asked for rebound.example:9000"),
        (("127.0.0.1", 1), {"Host": "127.0.0.1.rebound.example"}, "asked for 127.0.0.1.rebound.example"),
        (("127.0.0.1", 1), {"Host": "127.0.0.1@rebound.example"}, "asked for 127.0.0.1@rebound.example"),
        (("127.0.0.1", 1), {"Host": ""}, "asked for no host"),
        (("127.0.0.1", 1), {"X-Forwarded-For": "127.0.0.1"}, "a proxy has sent the request"),
        (("127.0.0.1", 1), {"Forwarded": "for=192.0.2.7"}, "a proxy has sent the request"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_nobody_else_may(at: Any, headers: dict[str, str], said: str) -> None:
    """Another computer, a page of another site that has rebound its name, what a proxy forwards, a socket without address."""
    browser = client(app(Bus()), at=at)
    for path in ("/", "/page.js", "/metrics", "/api/bus", "/api/figures", "/api/events", "/api/messages", "/api/dead"):
        refused = browser.get(path, headers=headers)
        assert (refused.status_code, said in refused.json()["error"]) == (403, True), path
    assert browser.post("/api/path", json={"subject": "a"}, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ],
    ids=str,
)
@pytest.mark.parametrize("token", [None, TOKEN])
def test_the_page_of_another_site_gets_no_answer(headers: dict[str, str], token: str | None) -> None:
    """A browser names the site that sends a request. A program on another port of this computer counts as another site."""
    browser = page_of(Bus(), token=token)
    headers = headers | {"Authorization": f"Bearer {TOKEN}"}
    assert browser.get("/api/bus", headers=headers).status_code == 403
    assert browser.post("/api/path", json={"subject": "a"}, headers=headers).status_code == 403
    assert browser.post("/login", json={"token": TOKEN}, headers=headers).status_code == 403


def test_the_page_itself_gets_answers() -> None:
    browser = page_of(Bus())
    own = {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:9000"}
    assert browser.post("/api/path", json={"subject": "a"}, headers=own).status_code == 200


def test_with_a_token_nobody_looks_without_it_and_everybody_with_it() -> None:
    """Also this computer needs it; and another one that has it may look, also behind a proxy and under any name."""
    assert page_of(Bus(), token=TOKEN).get("/api/bus").status_code == 401
    far = client(app(Bus(), token=TOKEN), "https://bus.example", ("192.0.2.7", 1), headers={"X-Forwarded-For": "198.51.100.1"})
    refused = far.get("/api/bus")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    for wrong in ("", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"):
        assert far.get("/api/bus", headers={"Authorization": wrong}).status_code == 401
    assert far.get("/api/bus", headers={"Authorization": b"Bearer \xff\xfe"}).status_code == 401
    assert far.get("/api/bus", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("way", ["form", "json"])
def test_the_form_of_the_page_lets_a_person_in(way: str) -> None:
    """Everybody gets the page, which asks for the token. Its cookie is for no script and no other site."""
    far = client(app(Bus(), token=TOKEN), "https://bus.example", ("192.0.2.7", 1), follow_redirects=False)
    assert far.get("/").status_code == 200
    assert far.post("/login", json={"token": "guess"}).status_code == 401
    given = far.post("/login", json={"token": TOKEN}) if way == "json" else far.post("/login", data={"token": TOKEN})

    assert given.status_code == (204 if way == "json" else 303)
    if way == "form":
        assert given.headers["location"] == "./"
    cookie = given.headers["set-cookie"]
    assert TOKEN not in cookie
    assert {"HttpOnly", "SameSite=strict", "Secure", "Path=/"} <= set(cookie.split("; "))
    assert far.get("/api/bus").status_code == 200


def test_a_cookie_is_for_one_token() -> None:
    """Who replaces the token throws out everybody; the page of another bus on this computer keeps its own cookie."""
    first, second = (client(app(Bus(), token=token)) for token in (TOKEN, "another"))
    first.post("/login", json={"token": TOKEN})
    second.post("/login", json={"token": "another"})
    [one], [other] = first.cookies.items(), second.cookies.items()
    assert one[0] != other[0]
    assert client(app(Bus(), token="another"), cookies=dict([one, (other[0], one[1])])).get("/api/bus").status_code == 401
    assert client(app(Bus(), token="another"), cookies=dict([one, other])).get("/api/bus").status_code == 200


def test_the_token_is_taken_from_no_url() -> None:
    """URLs end up in logs and histories."""
    browser = page_of(Bus(), token=TOKEN)
    for name in ("token", "access_token", "key"):
        assert browser.get("/api/bus", params={name: TOKEN}).status_code == 401
    assert browser.post(f"/login?token={TOKEN}", json={}).status_code == 401


LOGINS = [b"", b"[]", b'{"token": 7}', b'{"token": "\\ud800"}', b"\xff", b"x" * 2_000_000]


@pytest.mark.parametrize("body", LOGINS, ids=lambda body: repr(body[:12]))
def test_any_login_gets_an_answer(body: bytes) -> None:
    browser = page_of(Bus(), token=TOKEN)
    for headers in ({"Content-Type": "application/json"}, FORM):
        answer = browser.post("/login", content=body, headers=headers)
        assert answer.status_code in (400, 401, 413)
        assert json.loads(answer.content)["error"]


def test_without_a_token_there_is_no_login() -> None:
    assert page_of(Bus()).post("/login", json={"token": ""}).status_code == 404


@pytest.mark.parametrize("token", ["", "  ", 7], ids=repr)
def test_an_empty_token_is_refused_at_once(token: Any) -> None:
    """A variable that was forgotten does not open the page."""
    with pytest.raises(PipebusError, match="the token of the page is empty"):
        app(Bus(), token=token)


def test_anybody_may_ask_whether_the_bus_works_but_not_why() -> None:
    """A supervisor on another computer has no token; it hears one word."""
    for far in (client(app(Bus()), at=("192.0.2.7", 1)), client(app(Bus(), token=TOKEN))):
        assert (far.get("/livez").status_code, far.get("/livez").text) == (200, "ok")
        assert (far.get("/readyz").status_code, far.get("/readyz").text) == (503, "not ready")
    said = page_of(Bus()).get("/readyz")
    assert said.status_code == 503
    assert said.text not in ("", "not ready")

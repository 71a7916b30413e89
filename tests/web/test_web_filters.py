"""The page shows the state of filters: next to their names, and in full."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipebus import Bus
from pipebus.web.serving import serving
from state_helpers import Door
from web_browser import ANYWHERE, Visit, card, expect, started

pytestmark = pytest.mark.thorough


def test_an_open_breaker_is_seen_at_a_glance(visit: Visit) -> None:
    """
    An operator sees in words, not by a colour alone, which breaker is open and what it pauses, and how many wait for a limit;
    the details have all figures, and everything changes without a reload.
    """
    breaker, limit = Door(state="closed", failures=1, name="CircuitBreaker"), Door(waiting=3, rate=0.123456, name="Limit")
    bus = Bus(name="shop")
    bus.use(limit, Door(waiting=0, name="Limit"))
    bus.use(breaker, at="delivery")
    bus.subscribe("a", print, name="till")
    bus.subscribe("a", print, name="mail")
    with ThreadPoolExecutor(1) as elsewhere, serving(bus, ANYWHERE) as url, started(bus, elsewhere):
        page = visit(url, width=1100, height=700)
        publish, till = page.locator("#publish > li"), card(page, "till")
        expect(publish.nth(0)).to_contain_text(re.compile(r"Limit 3 waiting.*waiting3rate0\.1235", re.DOTALL))
        expect(publish.nth(1).locator(".pill")).to_have_text("")
        expect(till.locator(".hops")).to_contain_text("CircuitBreaker closed→")
        expect(till.get_by_text("paused")).to_be_hidden()
        till.get_by_text("Chain and settings").click()
        expect(till.locator(".inside")).to_contain_text(re.compile("CircuitBreaker closed.*stateclosedfailures1", re.DOTALL))

        breaker.figures = {"state": "open", "failures": 12345}
        resume = elsewhere.submit(breaker.shut, "till").result()
        expect(till.locator(".head")).to_contain_text("paused by filter CircuitBreaker (open)")
        expect(till.locator(".hops")).to_contain_text("CircuitBreaker open→")
        expect(till.locator(".inside")).to_contain_text(re.compile("CircuitBreaker open.*failures12,345", re.DOTALL))
        expect(page.locator("#health")).to_contain_text("a subscription is paused by filter CircuitBreaker (open): till")
        expect(card(page, "mail").locator(".head")).not_to_contain_text("paused by")

        breaker.figures = {"state": "closed"}
        elsewhere.submit(resume).result()
        expect(till.get_by_text("paused")).to_be_hidden()
        expect(till.locator(".inside")).not_to_contain_text("failures")
        expect(page.locator("#health")).to_have_text("Ready")
        page.context.close()


HOSTILE: dict[str, Any] = {
    "state": "<img src=x onerror=alert(1)>\u202e",
    "<b onclick=alert(1)>waiting</b>": "\u2066${alert(1)}\x00",
    "__proto__": "javascript:alert(1)",
    "constructor": 1e300,
    "long": "x" * 10_000,
}


TOO_WIDE = """
[...document.querySelectorAll(".box")].filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.innerText)
"""


def test_hostile_figures_are_shown_as_text(visit: Visit) -> None:
    """Whatever a filter says or is called, nothing runs, nothing turns the order of letters, and nothing is too wide."""
    door = Door(HOSTILE, name="<script>alert(1)</script>")
    bus = Bus()
    bus.use(door, Door(HOSTILE, name="__proto__"), Door(7, name="constructor"))
    bus.subscribe("a", print, name="till", filters=[door])
    with ThreadPoolExecutor(1) as elsewhere, serving(bus, ANYWHERE) as url, started(bus, elsewhere):
        page = visit(url, width=400)
        resume = elsewhere.submit(door.shut, "till").result()
        card(page, "till").scroll_into_view_if_needed()
        expect(card(page, "till")).to_contain_text("paused by a filter")
        card(page, "till").get_by_text("Chain and settings").click()
        for place in (page.locator("#publish"), card(page, "till")):
            expect(place).to_contain_text(re.compile(r"<img src=x onerror=alert\(1\)>.*javascript:alert\(1\)", re.DOTALL))
        assert page.locator("main :is(img, script, b[onclick])").count() == 0
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00]", page.locator("body").inner_text())
        assert page.evaluate(TOO_WIDE) == []
        elsewhere.submit(resume).result()
        page.context.close()

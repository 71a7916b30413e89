"""What may happen while the page is open: the bus is away, changes, or asks who is there."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from pipebus import Bus
from pipebus.web.serving import serving
from web_browser import ANYWHERE, Visit, card, expect, started

pytestmark = pytest.mark.thorough


def test_a_page_that_lost_its_bus_finds_it_again(visit: Visit) -> None:
    """The program is restarted. The page says so meanwhile, and goes on by itself, with the new bus."""
    with ExitStack() as stack:
        url = stack.enter_context(serving(Bus(name="before"), ANYWHERE))
        port = int(url.split(":")[-1].strip("/"))
        page = visit(url)
        expect(page.get_by_role("heading", level=1)).to_have_text("before")
        stack.close()
        expect(page.get_by_text("Connection lost, trying again")).to_be_visible()

        with serving(Bus(name="after"), f"127.0.0.1:{port}"):
            expect(page.get_by_role("heading", level=1)).to_have_text("after")
            expect(page.get_by_text("Connection lost")).to_have_count(0)
            page.context.close()
    page.problems[:] = [problem for problem in page.problems if "ERR_" not in problem]


def test_a_window_in_the_background_asks_for_nothing(visit: Visit) -> None:
    """Someone who leaves the page open behind other windows costs the bus nothing, and sees the present when they come back."""
    with serving(Bus(name="quiet"), ANYWHERE) as url:
        page = visit(url)
        page.locator("#tiles dd").first.wait_for()
        with page.expect_event("requestfailed", lambda request: request.url.endswith("api/events")):
            page.evaluate(HIDE, True)
        with page.expect_request(lambda request: request.url.endswith("api/events")):
            page.evaluate(HIDE, False)
        page.context.close()


HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""
"""What a browser does with the document of a window that comes to the back, or to the front."""


def test_a_subscription_that_comes_later_is_shown_and_disturbs_nobody(visit: Visit) -> None:
    """Someone reads the settings of one subscription while another one begins: it appears, and what they read stays open."""
    bus = Bus()
    bus.subscribe("a", print, name="first", to="b")
    bus.subscribe("c", print, name="second")
    with ThreadPoolExecutor(1) as elsewhere, serving(bus, ANYWHERE) as url, started(bus, elsewhere):
        page = visit(url)
        card(page, "second").get_by_text("Chain and settings").click()
        expect(card(page, "first")).to_contain_text("nobody listens")
        elsewhere.submit(bus.subscribe, "b", print, name="third").result()
        expect(card(page, "third")).to_be_visible()
        expect(card(page, "second").get_by_text("attempts: 3")).to_be_visible()
        expect(card(page, "first").get_by_role("button", name="third")).to_be_visible()
        page.context.close()


def test_a_token_is_asked_for_once(visit: Visit) -> None:
    """With a token, nothing is shown before it is given; a wrong one is not taken; and it is never in the URL."""
    with serving(Bus(name="secret"), ANYWHERE, "open sesame") as url:
        page = visit(url)
        field = page.get_by_label("Token")
        expect(field).to_be_focused()
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not the token")
        expect(page.get_by_text("secret")).to_have_count(0)
        field.fill("open sesame")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("secret")
        expect(page.get_by_role("tabpanel", name="Graph")).to_be_visible()
        assert "sesame" not in page.url
        again = page.context.new_page()
        again.goto(url)
        expect(again.get_by_role("heading", level=1)).to_have_text("secret")
        page.context.close()
    # Chromium logs each request that is refused.
    page.problems[:] = [problem for problem in page.problems if "401" not in problem]

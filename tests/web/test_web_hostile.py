"""Whatever comes from a bus is shown as text."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipebus import Bus, Dropped, Message
from pipebus.web.serving import serving
from web_browser import ANYWHERE, Visit, card, expect, started, view

pytestmark = pytest.mark.thorough

HOSTILE = {
    "html": '<img src=x onerror="alert(1)"><script>alert(2)</script><style>body{display:none}</style>',
    "attribute": "\"' onmouseover=alert(1) style=color:red x='",
    "link": "javascript:alert(1)",
    "template": "${alert(1)} {{constructor.constructor('alert(1)')()}}",
    "bidi": "abc\u202egnp.exe\u2066\u2069\u200b\ufeff",
    "control": "\x00\x07\x1b[31mred\x9b\u2028",
    "surrogate": "half \ud800 of one",
    "proto": "__proto__",
}


class Nasty(Exception):
    """An error whose text is what it is given."""


def test_hostile_texts_are_shown_as_text(visit: Visit) -> None:
    """
    Whatever a body, a header, a key, an error, or a reason of a refusal says, the page shows it as text: nothing runs, nothing
    is loaded, and no letter turns the order of others round. Ten megabytes are cut, and the page says so.
    """
    bus = Bus(name=f"bus {HOSTILE['html']} {HOSTILE['bidi']}")

    def refuse(message: Message, call_next: Any) -> Any:
        return Dropped(HOSTILE["html"] + HOSTILE["bidi"]) if message.subject == "refused" else call_next(message)

    def fail(message: Message) -> None:
        raise Nasty("\n".join(HOSTILE.values()))

    bus.use(refuse)
    bus.subscribe("hostile.>", fail, name="x<b onclick=alert(1)>y</b>")
    bus.subscribe("large", lambda message: None, name="large")
    body = {**HOSTILE, HOSTILE["html"]: [HOSTILE["bidi"]], "deep": [[[HOSTILE["html"]]]]}
    headers = {"x-evil": HOSTILE["html"], "<b>name</b>": HOSTILE["bidi"]}

    def publish() -> None:
        bus.publish("refused")
        bus.publish("hostile.<script>alert(1)</script>", body, key=HOSTILE["html"], headers=headers)
        bus.publish("large", "<b>" + "x" * 10_000_000)
        bus.drain(10.0)

    with ThreadPoolExecutor(1) as elsewhere, serving(bus, ANYWHERE) as url, started(bus, elsewhere):
        page = visit(url)
        card(page, "large").wait_for()
        page.get_by_role("tab", name="Messages").click()
        expect(page.get_by_text("All messages are shown")).to_be_visible()
        elsewhere.submit(publish).result()
        for name in ("Graph", "Messages", "Dead letters"):
            page.get_by_role("tab", name=name).click()
            panel = page.get_by_role("tabpanel", name=name)
            expect(panel).to_contain_text(re.compile("alert"))
            check_harmless(page)
            for row in panel.locator("tbody tr").all():
                row.get_by_role("button").first.click()
                expect(page.get_by_role("dialog")).to_be_visible()
                check_harmless(page)
                page.keyboard.press("Escape")
        page.get_by_role("tab", name="Messages").click()
        page.locator("#passing tr").filter(has_text="large").get_by_role("button").click()
        expect(page.get_by_role("dialog")).to_contain_text("cut")
        page.keyboard.press("Escape")
        page.get_by_role("tab", name="Path").click()
        view(page).get_by_label("Subject").fill("hostile.<b>")
        view(page).get_by_label("Body").fill(HOSTILE["html"])
        page.get_by_role("button", name="Show the path").click()
        expect(page.locator("#way > dl")).to_contain_text("accepted")
        check_harmless(page)
        page.evaluate("location.hash = '#conversation=' + encodeURIComponent('<img src=x onerror=alert(1)>')")
        expect(page.get_by_text("None of the latest messages")).to_be_visible()
        check_harmless(page)
        page.context.close()


def check_harmless(page: Any) -> None:
    """No text has become an element, and no character is left that changes the order of others."""
    assert page.locator("main :is(img, script, style, iframe), dialog :is(img, script, style, iframe)").count() == 0
    assert page.locator("[onclick], [onerror], [onmouseover], [style*='red'], a[href^='javascript']").count() == 0
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", page.locator("body").inner_text())


def test_the_browser_itself_would_not_run_a_script(visit: Visit) -> None:
    """Even if a text became markup by mistake, the policy of the page forbids what is in it to run, or to be sent elsewhere."""
    with serving(Bus(), ANYWHERE) as url:
        page = visit(url)
        page.get_by_role("heading", level=1).wait_for()
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
        page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<b style=\"color: red\">styled</b>')")
        sent = page.evaluate("fetch('https://example.com/').then(() => 'sent', () => 'refused')")
        page.wait_for_function("document.querySelector('img').complete")
        assert page.evaluate("window.ran") is None
        assert sent == "refused"
        assert len([problem for problem in page.problems if "Content Security Policy" in problem]) >= 4
        page.context.close()
        page.problems.clear()

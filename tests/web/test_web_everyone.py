"""The page is for everyone: with a keyboard, on a phone, at night, with a screen reader."""

from __future__ import annotations

from typing import Any

import pytest

from web_browser import VIEWS, Visit, card, expect, view

pytestmark = pytest.mark.thorough


def test_the_keyboard_is_enough(shop: str, visit: Visit) -> None:
    """Someone who has no mouse changes views with the arrows, opens a message, and comes back to where they were."""
    page = visit(shop)

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("tab", name="Graph")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Dead letters")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Dead letters")).to_be_visible()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tabpanel", name="Messages")).to_be_visible()
    assert page.url.endswith("#messages")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Pause")).to_be_focused()
    page.locator("#passing tr").nth(2).wait_for()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    row = page.evaluate_handle("document.activeElement")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert page.evaluate("row => row === document.activeElement", row)
    page.go_back()
    expect(page.get_by_role("tabpanel", name="Path")).to_be_visible()


@pytest.mark.parametrize("shop", ["memory:"], indirect=True)
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_window(width: int, shop: str, visit: Visit) -> None:
    """Someone with a phone scrolls in one direction only."""
    for name in VIEWS:
        page = visit(f"{shop}#{name}", width=width)
        if name in ("messages", "dead"):
            page.locator(f"#panel-{name} tbody tr").first.wait_for()
        if name == "graph":
            card(page, "billing").scroll_into_view_if_needed()
            card(page, "billing").get_by_text("Chain and settings").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


@pytest.mark.parametrize("shop", ["memory:"], indirect=True)
def test_it_is_light_or_dark_as_the_reader_likes(shop: str, visit: Visit) -> None:
    """At night the page is dark. All that is written can be read, on each of the two."""
    backs = []
    for scheme in ("light", "dark"):
        page = visit(shop, width=1180, height=860, color_scheme=scheme, reduced_motion="reduce")
        card(page, "billing").wait_for()
        assert page.evaluate("getComputedStyle(document.querySelector('.bound > div')).transitionProperty") == "none"
        weak = page.evaluate(WEAK)
        assert weak == [], scheme
        backs.append(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert backs == ["rgb(244, 246, 246)", "rgb(19, 20, 22)"]


WEAK = """() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (!color.endsWith(", 0)")) return color;
    }
  };
  const texts = [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility()
    && [...node.childNodes].some((inner) => inner.nodeType === 3 && inner.data.trim()));
  return texts.filter((node) => {
    const [dark, bright] = [light(getComputedStyle(node).color), light(back(node))].sort((one, other) => one - other);
    return (bright + 0.05) / (dark + 0.05) < 4.5;
  }).map((node) => node.outerHTML.slice(0, 80));
}"""
"""The texts whose contrast is below WCAG AA: https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""

CONTROLS = {"button", "combobox", "dialog", "link", "meter", "region", "searchbox", "tab", "table", "tabpanel", "textbox"}


@pytest.mark.parametrize("shop", ["memory:"], indirect=True)
def test_a_screen_reader_finds_a_name_for_everything(shop: str, visit: Visit) -> None:
    """Someone who listens to the page hears what each control, bar and table is; and figures do not interrupt them."""
    nameless = set()
    found = set()

    def look(page: Any, name: str) -> None:
        tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        for node in tree:
            role = node.get("role", {}).get("value")
            if role in CONTROLS and not node.get("ignored"):
                found.add(role)
                if not node.get("name", {}).get("value", "").strip():
                    nameless.add((name, role))

    for name in VIEWS:
        page = visit(f"{shop}#{name}")
        page.locator(f"#panel-{name} :is(.bound, form)").first.wait_for()
        look(page, name)
        if name in ("messages", "dead"):
            view(page).locator("tbody tr").first.get_by_role("button").click()
            page.get_by_role("dialog").wait_for()
            look(page, name)
        live = page.evaluate("[...document.querySelectorAll('[role=status], [aria-live]')].map((node) => node.id)")
        assert set(live) <= {"connection", "health", "came", "talked", "total"}
    assert nameless == set()
    assert {"button", "link", "meter", "region", "tab", "table", "dialog"} <= found

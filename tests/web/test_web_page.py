"""Each view of the page shows what a real bus does."""

from __future__ import annotations

import re

import pytest

from web_browser import Visit, card, expect, picture, view

pytestmark = pytest.mark.thorough


def test_the_graph_shows_where_messages_go(shop: str, visit: Visit) -> None:
    """An operator sees the chain, what each filter refused and why, and for each subscription how it is doing."""
    page = visit(shop, width=1180, height=860)

    publish = page.locator("#publish > li")
    expect(page.get_by_role("heading", level=1)).to_have_text("shop")
    expect(publish).to_have_count(4)
    expect(publish.nth(0)).to_contain_text(re.compile(r"has_country.*shop\.py:\d+.*\d+ rejected no country", re.DOTALL))
    expect(publish.nth(3)).to_contain_text(re.compile(r'when "orders\.fr".*SetHeaders.*"currency":"eur"', re.DOTALL))
    customs = card(page, "customs")
    expect(customs).to_contain_text("paused")
    expect(customs.get_by_role("meter", name="depth")).to_have_attribute("aria-valuetext", re.compile(r"^[1-9]\d* of 400$"))
    expect(customs.locator(".oldest")).to_have_text(re.compile(r"\d.* (s|ms)$"))
    billing = card(page, "billing")
    expect(billing.locator(".hops")).to_contain_text(
        re.compile("Expire→shop:bill pool, 2 workers→bills.sent at most .*/s →mail$")
    )
    expect(billing.locator(".p50")).to_have_text(re.compile(r"^\d"))
    expect(billing.locator(".rate")).to_have_text(re.compile(r"^[1-9][\d.]*/s$"))
    expect(card(page, "stock")).to_contain_text(re.compile(r"[1-9]\d* dropped not food"))
    picture(page, "graph", after=20.0)

    billing.get_by_text("Chain and settings").click()
    expect(billing).to_contain_text("ttl=60")
    view(page).get_by_label("Sort by").select_option("depth")
    expect(page.locator("#subscriptions > li").first).to_contain_text("customs")
    view(page).get_by_label("Sort by").select_option("name")
    view(page).get_by_label("Filter", exact=True).fill("bills")
    expect(page.locator("#subscriptions > li:visible h4")).to_have_text(["billing", "mail"], use_inner_text=True)
    view(page).get_by_label("Filter", exact=True).fill("billing")
    billing.get_by_role("button", name="mail").click()
    expect(card(page, "mail").get_by_role("heading")).to_be_focused()


def test_a_path_shows_what_each_filter_makes_of_a_message(shop: str, visit: Visit) -> None:
    """Someone who wonders where an order goes pastes it, and sees each filter, what it changed, and each mailbox."""
    page = visit(f"{shop}#path", width=1100, height=900)

    view(page).get_by_label("Subject").fill("orders")
    view(page).get_by_label("Body").fill('{"order": 7, "item": "tea", "country": "fr"}')
    page.get_by_role("button", name="Show the path").click()

    steps = page.locator("#way > ol > li")
    expect(steps.filter(has_text="has_country")).to_contain_text("unchanged")
    expect(steps.filter(has_text="Reroute").locator("tbody tr")).to_have_text("subjectordersorders.fr")
    expect(steps.filter(has_text="SetHeaders").locator("tbody")).to_contain_text("currency")
    expect(page.locator("#way > dl")).to_contain_text("accepted")
    expect(page.locator("#way > ul > li")).to_have_count(3)
    picture(page, "path")

    view(page).get_by_label("Body").fill("{}")
    page.get_by_role("button", name="Show the path").click()
    expect(page.locator("#way > dl")).to_contain_text(re.compile("rejected.*has_country.*no country", re.DOTALL))
    view(page).get_by_label("Headers").fill("tenant")
    page.get_by_role("button", name="Show the path").click()
    expect(page.get_by_role("alert")).to_contain_text("Headers are a JSON object")


def test_a_recent_message_leads_to_its_path_and_its_conversation(shop: str, visit: Visit) -> None:
    """Someone sees a message pass, opens it, and asks which way it took and what it led to."""
    page = visit(f"{shop}#messages", width=1100, height=760)
    rows = page.locator("#passing tr")

    expect(rows.nth(8)).to_be_visible()
    expect(rows.filter(has_text="[redacted]").first).to_be_visible()
    expect(page.get_by_text("4000 1234")).to_have_count(0)
    view(page).get_by_label("Pattern").fill("bills.>")
    page.get_by_role("button", name="Listen").click()
    expect(rows.nth(2)).to_be_visible()
    expect(rows.filter(has_text="orders.")).to_have_count(0)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused", exact=True)).to_be_visible()
    rows.first.get_by_role("button").click()
    expect(page.get_by_role("dialog")).to_contain_text(re.compile("Caused by.*total", re.DOTALL))

    page.get_by_role("link", name="Show its conversation").click()
    tree = page.locator("#tree > li")
    expect(tree).to_have_count(1)
    expect(tree.get_by_role("button")).to_have_text([re.compile("^orders"), "bills.sent"])
    expect(tree.locator("ul > li")).to_contain_text("bills.sent")

    tree.get_by_role("button").first.click()
    page.get_by_role("link", name="Show its path").click()
    expect(page.locator("#way > dl")).to_contain_text("accepted")


def test_dead_letters_are_listed_with_their_traceback(shop: str, visit: Visit) -> None:
    """Someone who is called because of dead letters sees them come, finds those of one kind, and reads where it happened."""
    page = visit(shop, width=1100, height=760)

    expect(page.get_by_role("tab", name=re.compile(r"Dead letters \d+"))).to_be_visible()
    page.get_by_role("tab", name="Dead letters").click()
    rows = page.locator("#letters tr")
    expect(rows.nth(2)).to_be_visible()
    expect(rows.first).to_contain_text(re.compile("billing.*a broken cup has no price", re.DOTALL))
    view(page).get_by_label("Error").fill("no such error")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_text("There are none.")).to_be_visible()
    view(page).get_by_label("Error").fill("broken cup")
    view(page).get_by_label("Subject").fill("orders.>")
    page.get_by_role("button", name="Filter").click()
    rows.first.get_by_role("button").click()

    letter = page.get_by_role("dialog")
    expect(letter.get_by_role("region", name="Traceback")).to_contain_text("in bill")
    expect(letter.get_by_role("region", name="Body")).to_contain_text('"item": "broken cup"')
    expect(letter).not_to_contain_text("4000 1234")
    picture(page, "dead")

"""What an open page hears: a few events a second, never a queue, never too many listeners."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("starlette")

from flow_helpers import WAIT
from loop_helpers import amain
from pipebus import Bus, TransportError
from pipebus.bus.bus import engine_of
from pipebus.telemetry.figures import Figures
from pipebus.telemetry.sampler import sampler_of
from pipebus.web import app, stream
from pipebus.web.messages import Shown
from web_helpers import page_of
from web_helpers import stream as opened


def test_figures_come_as_they_change_and_so_does_the_description() -> None:
    """A page that stays open sees what is published meanwhile, and hears of a new subscription."""

    async def main() -> None:
        async with Bus() as bus:
            bus.subscribe("a", lambda message: None, name="one")
            async with opened(app(bus), "/api/events") as page:
                first = await page.event("figures")
                await bus.apublish("a")
                bus.subscribe("b", lambda message: None, name="two")
                await page.event("changed")
                second = await page.event("figures")
        assert (first["messages"]["published"], second["messages"]["published"]) == (0, 1)
        assert [one["name"] for one in second["subscriptions"]] == ["one", "two"]

    amain(main)


def test_a_tap_has_the_messages_of_its_pattern() -> None:
    """The first event has what was taken before; each message comes once."""

    async def main() -> None:
        async with Bus() as bus:
            bus.subscribe(">", lambda message: None, name="all")
            async with opened(app(bus), "/api/messages", "pattern=a.*") as page:
                assert (await page.event("messages"))["messages"] == []  # and from now on there are samples
                for subject in ("a.1", "b.1", "a.2", "a.2.3"):
                    await bus.apublish(subject, {"of": subject})
                await bus.adrain(WAIT)
                found: list[Any] = []
                while len(found) < 2:
                    found += (await page.event("messages"))["messages"]
        assert [(one["subject"], one["body"], one["subscriptions"]) for one in found] == [
            ("a.1", {"of": "a.1"}, ["all"]), ("a.2", {"of": "a.2"}, ["all"]),
        ]  # fmt: skip

    amain(main)


def test_a_pattern_that_is_none_is_refused() -> None:
    answer = page_of(Bus()).get("/api/messages", params={"pattern": "a..b"})
    assert (answer.status_code, "empty token" in answer.json()["error"]) == (400, True)


def test_an_event_has_few_messages_however_many_there_were() -> None:
    """After a burst, a page gets the latest ones."""
    bus = Bus()
    bus.subscribe("a", lambda message: None, name="a")
    with bus:
        sampler_of(bus).look()
        for number in range(150):
            bus.publish("a", number)
        bus.drain(WAIT)
        following = stream.tap(Figures(bus), Shown(bus), ">")
        data = asyncio.run(following()).decode()
    assert data.count('"number"') == stream.BATCH
    assert '"body":149' in data


def test_a_client_that_reads_nothing_gets_no_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one event waits for a slow client, no other is made for it; then it gets that of the moment."""
    monkeypatch.setattr(stream, "TICK", 0.0)
    made = 0

    async def following() -> bytes:
        nonlocal made
        made += 1
        return stream.event("made", made)

    async def main() -> None:
        reads = asyncio.Event()
        async with opened(stream.EventStream(stream.Streams(), following), "/", reads=reads) as page:
            for _ in range(100):
                await asyncio.sleep(0)
            assert made == 1
            reads.set()
            assert [await page.event("made") for _ in range(3)] == [1, 2, 3]

    amain(main)


def test_a_client_that_never_reads_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise sixteen of them would take all places."""
    monkeypatch.setattr(stream, "PATIENCE", 0.0)

    async def main() -> None:
        async with opened(app(Bus()), "/api/events", reads=asyncio.Event()) as page:
            await asyncio.wait_for(asyncio.shield(page.task), WAIT)

    amain(main)


def test_there_are_few_places_and_a_place_is_free_again() -> None:
    """One too many is refused, with a reason; when a page is closed, the next one gets its place."""

    async def main() -> None:
        site = app(Bus())
        async with asyncio.TaskGroup() as group, opened(site, "/api/events"):
            full, done = asyncio.Barrier(stream.CLIENTS), asyncio.Event()

            async def watch() -> None:
                async with opened(site, "/api/messages") as page:
                    assert page.status == 200
                    await full.wait()
                    await done.wait()

            for _ in range(stream.CLIENTS - 1):
                group.create_task(watch())
            await full.wait()
            async with opened(site, "/api/events") as page:
                assert page.status == 503
                assert b"close another page" in (await page.part())["body"]
            done.set()
        async with opened(site, "/api/events") as page:
            assert page.status == 200

    amain(main)


def test_all_pages_share_one_look_at_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten pages cost what one costs; and nobody looks when all are closed."""
    bus = Bus()
    looks = 0
    stats = engine_of(bus).ledger.figures

    def counted(published: int) -> Any:
        nonlocal looks
        looks += 1
        return stats(published)

    engine_of(bus).ledger.figures = counted  # type: ignore[method-assign]

    async def main() -> None:
        site = app(bus)
        ticks = 0

        async def watch() -> None:
            nonlocal ticks
            async with opened(site, "/api/events") as page:
                for _ in range(3):
                    await page.event("figures")
                    ticks += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(watch())
        assert ticks == 30

    amain(main)
    assert looks < 10


@pytest.mark.parametrize("how", ["end", "server"])
def test_a_server_that_stops_does_not_wait_for_pages(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream ends by itself: when `run --http` stops, and when a server of uvicorn has heard SIGTERM."""
    server = SimpleNamespace(should_exit=False)
    if how == "server":
        handler = SimpleNamespace(__self__=server)
        monkeypatch.setattr(stream.signal, "getsignal", lambda number: handler)

    async def main() -> None:
        site: Any = app(Bus())
        async with opened(site, "/api/events") as page:
            await page.event("figures")
            site.end() if how == "end" else setattr(server, "should_exit", True)
            while (await page.part())["more_body"]:
                pass
            await asyncio.wait_for(page.task, WAIT)

    amain(main)


def test_a_store_that_is_away_is_reported_and_the_stream_goes_on() -> None:
    """The page says what is wrong, and has figures again when the store is back."""
    bus = Bus()
    bus.subscribe("a", lambda message: None, name="a")
    stats, away = engine_of(bus).ledger.figures, [True]

    def figures(published: int) -> Any:
        if away:
            raise TransportError("the disk is\naway")
        return stats(published)

    engine_of(bus).ledger.figures = figures  # type: ignore[method-assign]

    async def main() -> None:
        async with opened(app(bus), "/api/events") as page:
            assert await page.event("problem") == {"error": "the disk is\\naway"}
            away.clear()
            assert (await page.event("figures"))["state"] == "new"

    amain(main)
    assert page_of(bus).get("/api/figures").status_code == 200

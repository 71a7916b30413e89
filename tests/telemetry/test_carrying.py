"""The context of a trace crosses stores, servers, processes, and programs of other people."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import propagate, trace
from telemetry_helpers import Emitted, facts, id_of, links, parent, trace_of

import missing
from pipebus import Bus, Message

OTHER = """
import sys
from telemetry_helpers import Emitted, id_of, links, parent
from pipebus import Bus

emitted = Emitted()
bus = emitted.watch(Bus(sys.argv[1]))

@bus.on("orders.*", name="billing")
def bill(message):
    bus.publish("bills", message.body)

@bus.on("ask", name="ask")
def answer(message):
    return 42

with bus:
    print("ready", flush=True)
    sys.stdin.readline()
    bus.drain(timeout=30)
for span in emitted.spans:
    print(f"{span.name}: {id_of(span)} {parent(span)} {links(span)}")
"""
"""A process that handles orders, publishes bills and answers questions; it prints its spans at the end."""


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'bus.db'}"


@pytest.fixture(params=["sqlite", pytest.param("nats", marks=pytest.mark.thorough)])
def url(request: pytest.FixtureRequest, file_url: str) -> str:
    """A store that two processes share."""
    if request.param == "sqlite":
        return file_url
    missing.needs("nats")
    return f"{request.getfixturevalue('server').url}?stream=TELEMETRY&prefix=telemetry"


@pytest.mark.thorough
def test_a_trace_goes_through_another_process_and_back(url: str, emitted: Emitted) -> None:
    """An order is handled elsewhere; the bill that comes back, and the reply to a question, link to spans of that process."""
    bus = emitted.watch(Bus(url, drain=False))
    bills = bus.subscribe("bills", name="bills")
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path)},
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        with bus, emitted.tracer.start_as_current_span("request") as request:
            bus.publish("orders.new", {"id": 1})
            bills.receive(timeout=30)
            assert bus.request("ask", timeout=30).body == 42
        said, _ = process.communicate("\n", timeout=60)

    theirs = {name: facts.split(" ", 2) for name, facts in (line.split(": ") for line in said.splitlines())}
    order, ask = str(id_of(emitted.one("send orders.new"))), str(id_of(emitted.one("send ask")))
    assert parent(emitted.one("send orders.new")) == request.get_span_context().span_id
    assert theirs["process orders.*"][1:] == ["None", f"[{order}]"]
    assert theirs["process ask"][1:] == ["None", f"[{ask}]"]
    assert theirs["send bills"][1] == theirs["process orders.*"][0]
    assert theirs["send (reply)"][1] == theirs["process ask"][0]
    assert {span.name for span in emitted.spans} == {"request", "send orders.new", "send ask", "receive bills", "settle bills"}
    assert links(emitted.one("receive bills")) == [int(theirs["send bills"][0])]


def test_an_outbox_publish_carries_the_context_of_its_request(tmp_path: Path, file_url: str, emitted: Emitted) -> None:
    """The message is stored by the application's own transaction, with the context of the span that published it."""
    bus = emitted.watch(Bus(file_url))
    bus.subscribe("a", lambda message: None, name="a")
    with bus:
        with closing(sqlite3.connect(tmp_path / "bus.db")) as connection, emitted.tracer.start_as_current_span("request"):
            bus.publish("a", within=connection)
            connection.commit()
        bus.drain(timeout=30)
    send, process = emitted.one("send a"), emitted.one("process a")
    assert parent(send) == id_of(emitted.one("request"))
    assert links(process) == [id_of(send)]


def test_how_a_reply_comes_back_has_no_span(file_url: str, emitted: Emitted) -> None:
    """The bus listens for replies itself; a trace shows the handlers of the program only."""
    bus = emitted.watch(Bus(file_url), spans="filters")
    bus.subscribe("ask", lambda message: 42, name="ask")
    with bus:
        assert bus.request("ask", timeout=30).body == 42
    assert [span.name for span in emitted.spans if span.name.startswith("handle")] == ["handle handler"]


def test_a_dead_letter_that_is_replayed_links_to_the_span_that_sent_it(file_url: str, emitted: Emitted) -> None:
    """Also after a restart of the program, as the context is in the letter."""
    first = emitted.watch(Bus(file_url))
    first.subscribe("a", lambda message: 1 / 0, name="a", attempts=1)
    with first:
        first.publish("a")
        first.drain(timeout=30)
    second = emitted.watch(Bus(file_url))
    second.subscribe("a", lambda message: None, name="a")
    with second:
        [letter] = second.dead_letters
        second.dead_letters.replay(letter.id)
        second.drain(timeout=30)
    assert [links(span) for span in emitted.all("process a")] == [[id_of(emitted.one("send a"))]] * 2


@pytest.mark.thorough
def test_a_foreign_program_continues_a_trace_and_begins_one(server: Any, emitted: Emitted) -> None:
    """A program with nats-py and OpenTelemetry's own propagator reads our context, and we read its."""
    missing.needs("nats")
    import nats

    found: list[Any] = []
    bus = emitted.watch(Bus(f"{server.url}?stream=FOREIGN&prefix=foreign"))
    bus.subscribe("orders.*", found.append, name="orders")

    async def foreign() -> None:
        client = await nats.connect(server.url)
        try:
            bills = await client.jetstream().pull_subscribe("foreign.bills", "bills")
            await bus.apublish("bills", {"id": 1})
            [bill] = await bills.fetch(1, timeout=10)
            context = propagate.extract(bill.headers or {})
            with emitted.tracer.start_as_current_span("foreign", context):
                headers: dict[str, str] = {}
                propagate.inject(headers)
                await client.jetstream().publish("foreign.orders.new", b"{}", headers=headers)
            await bill.ack()
        finally:
            await client.close()

    with bus:
        asyncio.run(foreign())
        bus.drain(timeout=30)
        deadline = asyncio.run(arrived(found))
    assert deadline
    send, theirs, process = emitted.one("send bills"), emitted.one("foreign"), emitted.one("process orders.*")
    assert facts(send)["server.address"] == "127.0.0.1"
    assert facts(send)["server.port"] == server.port
    assert (parent(theirs), trace_of(theirs)) == (id_of(send), trace_of(send))
    assert links(process) == [id_of(theirs)]
    assert trace.get_current_span().get_span_context().is_valid is False


async def arrived(found: list[Message]) -> bool:
    for _ in range(2000):
        if found:
            return True
        await asyncio.sleep(0.005)
    return False

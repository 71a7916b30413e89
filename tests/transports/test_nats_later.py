"""Delayed messages on NATS. That they come in time, and in the next run, is in the contract."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nats")

from nats_server import NatsServer, NatsStage, Proxy, with_client

from pipebus import Bus, Receipt
from pipebus.errors import UnsupportedCapability
from pipebus.testing.contract.tools import Seen, running, until


def config(stage: NatsStage) -> dict[str, Any]:
    """The stream's configuration."""

    async def look(client: Any) -> Any:
        return json.loads((await client.request(f"$JS.API.STREAM.INFO.{stage.stream}")).data)["config"]

    found: dict[str, Any] = with_client(stage.server, look)
    return found


def test_the_first_delayed_message_changes_the_stream(stage: NatsStage) -> None:
    """A bus that delays nothing leaves the stream as it was; all of many delayed messages come, in the order of their times."""
    seen, count = Seen(), 20
    bus = stage.open()
    bus.subscribe("a.*", seen, name="s")

    async def publish() -> None:
        await asyncio.gather(*(bus.apublish("a.b", number, delay=0.5 + number / 100) for number in range(0, count, 2)))

    with running(stage, bus, drain=False):
        bus.publish("a.b", "now")
        before = config(stage)
        asyncio.run(publish())
        for number in range(1, count, 2):
            assert bus.publish("a.b", number, delay=0.5 + number / 100) == Receipt(1)
        until(stage, lambda: len(seen.messages) > count, "all have come")
    assert "allow_msg_schedules" not in before
    assert config(stage)["allow_msg_schedules"]
    assert (seen.bodies[0], sorted(seen.bodies[1:])) == ("now", list(range(count)))


def test_an_id_is_recognised_while_its_message_waits(stage: NatsStage) -> None:
    """A second publish of the id is a duplicate, with or without a delay; two ids on one subject wait side by side."""
    seen = Seen()
    bus = stage.open()
    bus.subscribe("a", seen, name="s")
    with running(stage, bus, drain=False):
        assert bus.publish("a", 1, id="one", delay=0.3) == Receipt(1)
        assert bus.publish("a", 2, id="two", delay=0.3) == Receipt(1)
        for delay in (0.3, 0.0):
            assert bus.publish("a", 1, id="one", delay=delay) == Receipt(1, duplicate=True)
        until(stage, lambda: len(seen.messages) == 2, "both have come")
    assert sorted((message.id, message.body) for message in seen.messages) == [("one", 1), ("two", 2)]


def test_a_delay_is_not_for_those_who_only_listen(stage: NatsStage) -> None:
    """The server stores a delayed message, and so a subscription without a name does not hear it, and is not counted."""
    seen, heard = Seen(), Seen()
    bus = stage.open()
    bus.subscribe("a", seen, name="s")
    with running(stage, bus, drain=False):
        bus.subscribe("a", heard)
        assert (bus.publish("a", "now"), bus.publish("a", "later", delay=0.2)) == (Receipt(2), Receipt(1))
        until(stage, lambda: seen.bodies == ["now", "later"], "both have come")
        until(stage, lambda: heard.messages, "it has heard the first")
    assert heard.bodies == ["now"]


def test_a_delay_beyond_the_retention_is_refused(stage: NatsStage) -> None:
    """The stream would delete the message before its time; the error says how long it keeps one."""
    with Bus(f"{stage.url}&retention=1h") as bus:
        assert bus.publish("a", delay="59m") == Receipt(0)
        for delay in ("1h", "2h"):
            with pytest.raises(UnsupportedCapability, match=r"deletes messages after 3600 s; say a longer retention="):
                bus.publish("a", delay=delay)


def test_an_older_server_is_refused_where_delays_are_required(stage: NatsStage) -> None:
    """The start names its version, and what is needed; a bus that requires no delays works, and refuses them at once."""
    with Proxy(stage.server.port) as proxy:
        proxy.version = "2.11.9"
        url = stage.url.replace(str(stage.server.port), str(proxy.port))
        with pytest.raises(UnsupportedCapability, match=r"delay=True \(its server is 2\.11\.9, and delays need 2\.12\.0"):
            Bus(url, require={"delay": True}).start()
        with Bus(url) as bus:
            assert bus.publish("a") == Receipt(0)
            with pytest.raises(UnsupportedCapability, match=r"cannot delay messages; its server is 2\.11\.9"):
                bus.publish("a", delay=1.0)
    with Bus(stage.url, require={"delay": True}) as bus:
        assert bus.publish("a", delay=1.0) == Receipt(0)


@pytest.mark.thorough
def test_a_delayed_message_outlives_its_server(tmp_path: Path) -> None:
    """The server is killed while a message waits, and comes back after its time."""
    seen = Seen()
    with NatsServer(tmp_path) as server:
        stage = NatsStage(server)
        bus = stage.open()
        bus.subscribe("a", seen, name="s")
        with bus:
            bus.publish("a", 1, delay=0.5)
            server.stop(signal.SIGKILL)
            server.start()
            until(stage, lambda: seen.bodies == [1], "it has come")

"""Programs made with other libraries at the other end: the CloudEvents SDK and FastStream, both ways."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("nats")

from nats_server import NatsServer, NatsStage, with_client

from pipebus.testing.contract.tools import Seen, running, until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def stage(server: NatsServer) -> Iterator[NatsStage]:
    stage = NatsStage(server)
    yield stage
    stage.wipe()


class TestCloudEvents:
    """The SDK of the CloudEvents project."""

    @pytest.mark.parametrize("mode", ["structured", "binary", "kafka"])
    def test_its_events_are_handled(self, stage: NatsStage, mode: str) -> None:
        """Whichever way it writes them."""
        pytest.importorskip("cloudevents.core")
        from cloudevents.core.bindings import http, kafka
        from cloudevents.core.formats.json import JSONFormat
        from cloudevents.core.v1.event import CloudEvent

        moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        attributes = {
            "specversion": "1.0", "id": "e ü%", "source": "/shop", "type": "com.shop.order", "time": moment,
            "datacontenttype": "application/json", "tier": "gold größe",
        }  # fmt: skip
        event = CloudEvent(attributes, {"order": "größe"})
        if mode == "kafka":
            written = kafka.to_binary(event, JSONFormat())
            headers = {name: value.decode() for name, value in written.headers.items()}
            data = written.value
        else:
            made = http.to_structured(event, JSONFormat()) if mode == "structured" else http.to_binary(event, JSONFormat())
            headers, data = made.headers, made.body
        seen = Seen()
        bus = stage.open()
        bus.subscribe("orders.*", seen, name="s")

        async def publish(client: Any) -> None:
            await client.jetstream().publish(f"{stage.stream.lower()}.orders.eu", data, headers=headers)

        with running(stage, bus):
            with_client(stage.server, publish)
            until(stage, lambda: seen.messages, "it has come")
        (message,) = seen.messages
        assert (message.subject, message.body, message.id) == ("orders.eu", {"order": "größe"}, "e ü%")
        assert message.time == moment.timestamp()
        assert (message.headers["ce-type"], message.headers["ce-tier"]) == ("com.shop.order", "gold größe")

    def test_it_reads_our_messages(self, stage: NatsStage) -> None:
        """They are events in structured mode."""
        pytest.importorskip("cloudevents.core")
        from cloudevents.core.bindings import http
        from cloudevents.core.formats.json import JSONFormat
        from cloudevents.core.v1.event import CloudEvent

        bus = stage.open()
        with running(stage, bus):
            bus.publish("orders.created", {"order": "größe"}, id="m", key="k", headers={"größe": "XL"})

        async def read(client: Any) -> Any:
            subscription = await client.jetstream().pull_subscribe(f"{stage.stream.lower()}.>", "reader")
            (message,) = await subscription.fetch(1, timeout=5)
            await message.ack()
            return message

        found = with_client(stage.server, read)
        event = http.from_structured(http.HTTPMessage(dict(found.headers), found.data), JSONFormat(), CloudEvent)
        assert (event.get_id(), event.get_type(), event.get_data()) == ("m", "orders.created", {"order": "größe"})
        assert event.get_attributes()["partitionkey"] == "k"


class TestFastStream:
    """An application of FastStream's on the same stream."""

    def test_its_messages_are_handled_and_ours_are_handled_there(self, stage: NatsStage) -> None:
        """It publishes a mapping, which a handler of ours has as its body; and one of its handlers has our event."""
        faststream = pytest.importorskip("faststream.nats")
        prefix = stage.stream.lower()
        seen = Seen()
        bus = stage.open()
        bus.subscribe("theirs", seen, name="s")
        theirs: list[Any] = []

        async def program() -> None:
            broker = faststream.NatsBroker(stage.server.url, logger=None)
            stream = faststream.JStream(stage.stream, declare=False)
            arrived = asyncio.Event()

            @broker.subscriber(f"{prefix}.ours", stream=stream, durable="faststream", pull_sub=True)
            async def handle(body: bytes) -> None:  # it takes no content type but application/json for JSON
                theirs.append(json.loads(body))
                arrived.set()

            async with broker:
                await broker.start()
                await broker.publish({"n": 1}, f"{prefix}.theirs", stream=stage.stream, correlation_id="c", headers={"h": "v"})
                await bus.apublish("ours", {"n": 2}, id="m")
                await asyncio.wait_for(arrived.wait(), stage.patience)

        with running(stage, bus):
            asyncio.run(program())
            until(stage, lambda: seen.messages, "it has come")
        (message,) = seen.messages
        assert (message.body, message.correlation_id, message.headers["h"]) == ({"n": 1}, "c", "v")
        (event,) = theirs
        assert (event["id"], event["type"], event["data"]) == ("m", "ours", {"n": 2})

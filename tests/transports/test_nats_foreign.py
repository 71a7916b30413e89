"""Programs made with other libraries at the other end: the CloudEvents SDK and FastStream, both ways."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("nats")
pytest.importorskip("cloudevents", reason="pip install -e '.[ci]'")
pytest.importorskip("faststream", reason="pip install -e '.[ci]'")

from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from faststream.nats import JStream, NatsBroker
from faststream.nats.annotations import NatsMessage
from nats_server import NatsServer, NatsStage, with_client, write_in
from pydantic import BaseModel

from pipebus import Bus, Message
from pipebus.testing.contract.tools import Seen, running, until

pytestmark = pytest.mark.thorough  # on a real server, with other people's clients

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def read_one(stage: NatsStage, subject: str = ">") -> Any:
    """The first message of the stream, as nats-py has it."""

    async def read(client: Any) -> Any:
        subscription = await client.jetstream().pull_subscribe(f"{stage.stream.lower()}.{subject}", "reader")
        (message,) = await subscription.fetch(1, timeout=5)
        await message.ack()
        return message

    return with_client(stage.server, read)


def publish_raw(stage: NatsStage, subject: str, data: bytes, headers: dict[str, str]) -> None:
    async def publish(client: Any) -> None:
        await client.jetstream().publish(f"{stage.stream.lower()}.{subject}", data, headers=headers)

    with_client(stage.server, publish)


def sdk_writes(event: CloudEvent, mode: str) -> tuple[bytes, dict[str, str]]:
    """Data and headers, as the SDK makes them."""
    if mode == "kafka":
        written = kafka.to_binary(event, JSONFormat())
        return written.value, {name: value.decode() for name, value in written.headers.items()}
    made = http.to_structured(event, JSONFormat()) if mode == "structured" else http.to_binary(event, JSONFormat())
    return made.body, made.headers


def sdk_reads(message: Any) -> Any:
    """The event in a message of NATS; the SDK finds the mode out by itself."""
    return http.from_http(http.HTTPMessage(dict(message.headers), message.data), JSONFormat(), CloudEvent)


class TestCloudEvents:
    """The SDK of the CloudEvents project works with pipebus."""

    @pytest.mark.parametrize("mode", ["structured", "binary", "kafka"])
    def test_its_events_are_handled(self, stage: NatsStage, mode: str) -> None:
        """Each attribute becomes a field of the message or a header, whichever way the SDK writes the event."""
        attributes = {
            "specversion": "1.0", "id": "e ü%", "source": "/shop", "type": "com.shop.order", "time": MOMENT,
            "datacontenttype": "application/json", "tier": "gold größe", "subject": "their own", "partitionkey": "k é",
            "correlationid": "c",
        }  # fmt: skip
        data, headers = sdk_writes(CloudEvent(attributes, {"order": "größe"}), mode)
        seen = Seen()
        bus = stage.open()
        bus.subscribe("orders.*", seen, name="s")
        with running(stage, bus):
            publish_raw(stage, "orders.eu", data, headers)
            until(stage, lambda: seen.messages, "it has come")
        (message,) = seen.messages
        assert (message.subject, message.body, message.id) == ("orders.eu", {"order": "größe"}, "e ü%")
        assert (message.key, message.correlation_id, message.time) == ("k é", "c", MOMENT.timestamp())
        found = {name: value for name, value in message.headers.items() if name.startswith("ce-")}
        assert (found.pop("ce-datacontenttype"), found.pop("ce-source")) == ("application/json", "/shop")
        assert (found.pop("ce-partitionkey"), found.pop("ce-correlationid")) == ("k é", "c")
        assert found == {"ce-type": "com.shop.order", "ce-tier": "gold größe", "ce-subject": "their own"}

    @pytest.mark.parametrize(
        ("kind", "body", "mode"),
        [
            *(
                (kind, body, mode)
                for mode in ("structured", "binary")
                for kind, body in (
                    (None, {"order": "größe"}),
                    ("application/json", {}),
                    ("application/vnd.shop+json", {"a": [1, None]}),
                    ("text/plain", "größe"),
                    ("application/octet-stream", b"\x00\xff"),
                )
            ),
            (None, None, "structured"),
            (None, None, "binary"),
        ],
        ids=repr,
    )
    def test_their_data_are_the_body(self, stage: NatsStage, kind: str | None, body: Any, mode: str) -> None:
        """The body has the same type in both modes."""
        attributes = {"type": "t", "source": "/s"} | ({"datacontenttype": kind} if kind else {})
        data, headers = sdk_writes(CloudEvent(attributes, body), mode)
        seen = Seen()
        bus = stage.open()
        bus.subscribe("a", seen, name="s")
        with running(stage, bus):
            publish_raw(stage, "a", data, headers)
            until(stage, lambda: seen.messages, "it has come")
        assert [(type(one), one) for one in seen.bodies] == [(type(body), body)]

    @pytest.mark.parametrize("mode", ["structured", "binary"])
    @pytest.mark.parametrize("body", [{"order": "größe"}, [1, "ü", None], "grüße", 7, True, b"\x00\xff", {}, None], ids=repr)
    def test_it_reads_our_messages(self, stage: NatsStage, body: Any, mode: str) -> None:
        """It reads any body in either mode."""
        bus = write_in(stage, mode).open()
        with running(stage, bus):
            bus.publish("orders.größe", body, id='m "ü"%', key="k é", correlation_id="c", headers={"größe": "XL", "ce-x": "y"})
            event = sdk_reads(read_one(stage))
        assert (event.get_id(), event.get_type(), event.get_data()) == ('m "ü"%', "orders.größe", body)
        assert (event.get_source(), event.get_specversion()) == ("pipebus", "1.0")
        assert (event.get_extension("partitionkey"), event.get_extension("correlationid")) == ("k é", "c")
        assert abs(event.get_time().timestamp() - datetime.now(UTC).timestamp()) < 60

    def test_in_binary_mode_there_is_nothing_but_the_body(self, stage: NatsStage) -> None:
        """A program needs no SDK to read it."""
        bus = write_in(stage, "binary").open()
        with running(stage, bus):
            bus.publish("a", {"order": "größe"}, headers={"tenant": "acme"})
            message = read_one(stage)
        assert json.loads(message.data) == {"order": "größe"}
        assert (message.headers["content-type"], message.headers["tenant"]) == ("application/json", "acme")

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ("structured", "structured"),
            ("structured", "binary"),
            ("binary", "structured"),
            ("binary", "binary"),
        ],
    )
    def test_what_it_passes_on_is_what_it_was(self, stage: NatsStage, ours: str, theirs: str) -> None:
        """A program may read our events and publish them elsewhere, and what it does not know survives."""
        seen = Seen()
        bus = write_in(stage, ours).open()
        bus.subscribe("copies.>", seen, name="s")
        headers = {"größe": "XL", "tenant": "acme", "empty": ""}
        with running(stage, bus):
            bus.publish("orders.new", {"n": "ü"}, id="m ü", key="k", headers=headers, correlation_id="c")
            publish_raw(stage, "copies.new", *sdk_writes(sdk_reads(read_one(stage)), theirs))
            until(stage, lambda: seen.messages or bus.dead_letters.list(), "it has come")
        (message,) = seen.messages
        assert (message.body, message.id, message.key, message.correlation_id) == ({"n": "ü"}, "m ü", "k", "c")
        assert {name: message.headers.get(name) for name in headers} == headers


class Order(BaseModel):
    sku: str
    count: int = 1


class Application:
    """
    A program of FastStream's on the same stream.

    Args:
        stage: Its stream, or, for plain NATS, its server.
    """

    def __init__(self, stage: NatsStage) -> None:
        self.broker = NatsBroker(stage.server.url, logger=None)
        self.stream = JStream(stage.stream, declare=False)
        self.prefix = stage.stream.lower()
        self.patience = stage.patience
        self.found: list[Any] = []
        self._arrived = asyncio.Event()

    def take(self, subject: str, kind: Any) -> None:
        """A handler for bodies of this type, that keeps them, and the messages around them."""

        async def handle(body: Any, message: NatsMessage) -> None:
            self.found.append((body, message))
            self._arrived.set()

        handle.__annotations__["body"] = kind
        self.broker.subscriber(f"{self.prefix}.{subject}", stream=self.stream, durable="faststream", pull_sub=True)(handle)

    async def taken(self) -> tuple[Any, Any]:
        await asyncio.wait_for(self._arrived.wait(), self.patience)
        return self.found[0]  # type: ignore[no-any-return]

    async def publish(self, subject: str, body: Any, **more: Any) -> None:
        await self.broker.publish(body, f"{self.prefix}.{subject}", stream=self.stream.name, **more)


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        return await work()

    return asyncio.run(main())


class TestFastStream:
    """An application written with FastStream uses the same stream."""

    @pytest.mark.parametrize(
        ("sent", "body"),
        [
            ({"n": "größe"}, {"n": "größe"}),
            ([1, 2], [1, 2]),
            (7, 7),
            ("grüße", "grüße"),
            (b"\x00\xff", b"\x00\xff"),
            (Order(sku="x"), {"sku": "x", "count": 1}),
            (None, b""),
        ],
        ids=repr,
    )
    def test_its_messages_are_handled(self, stage: NatsStage, sent: Any, body: Any) -> None:
        """Each kind of message it publishes arrives, with its headers."""
        seen = Seen()
        bus = stage.open()
        bus.subscribe("theirs", seen, name="s")

        async def program() -> None:
            application = Application(stage)
            async with application.broker as broker:
                await broker.start()
                await application.publish("theirs", sent, correlation_id="c", headers={"h": "grüße", "empty": ""})

        with running(stage, bus):
            run(program)
            until(stage, lambda: seen.messages, "it has come")
        (message,) = seen.messages
        assert (message.subject, type(message.body), message.body) == ("theirs", type(body), body)
        assert (message.correlation_id, message.headers["h"], message.headers["empty"]) == ("c", "grüße", "")

    def test_its_models_are_models_of_our_handlers(self, stage: NatsStage) -> None:
        """The two sides share a class, and nothing else."""
        seen: list[Any] = []

        def handle(body: Order) -> None:
            seen.append(body)

        bus = stage.open()
        bus.subscribe("orders", handle, name="s")

        async def program() -> None:
            application = Application(stage)
            async with application.broker as broker:
                await broker.start()
                await application.publish("orders", Order(sku="größe", count=3))

        with running(stage, bus):
            run(program)
            until(stage, lambda: seen, "it has come")
        assert seen == [Order(sku="größe", count=3)]

    def test_it_has_our_events_whole(self, stage: NatsStage) -> None:
        """It takes only application/json for JSON, so in structured mode its handler asks for bytes."""
        bus = stage.open()

        async def program() -> tuple[Any, Any]:
            application = Application(stage)
            application.take("ours", bytes)
            async with application.broker as broker:
                await broker.start()
                await bus.apublish("ours", {"n": 2}, id="m", headers={"tenant": "acme"})
                return await application.taken()

        with running(stage, bus):
            data, message = run(program)
        event = json.loads(data)
        assert (event["id"], event["type"], event["data"]) == ("m", "ours", {"n": 2})
        assert message.headers["tenant"] == "acme"

    @pytest.mark.parametrize(
        ("body", "kind", "found"),
        [
            ({"sku": "größe", "count": 3}, Order, Order(sku="größe", count=3)),
            (Order(sku="x"), Order, Order(sku="x")),
            ({"n": [1, None, "ü"]}, dict, {"n": [1, None, "ü"]}),
            ([1, 2], list[int], [1, 2]),
            ("grüße", str, "grüße"),
            (7, int, 7),
            (b"\x00\xff", bytes, b"\x00\xff"),
            (b'{"no": "JSON"}', bytes, b'{"no": "JSON"}'),
            (None, bytes, b""),
        ],
        ids=repr,
    )
    def test_in_binary_mode_it_has_the_body_as_it_is(self, stage: NatsStage, body: Any, kind: Any, found: Any) -> None:
        """Its handlers look as they do for its own messages, and plain headers are headers there."""
        bus = write_in(stage, "binary").open()

        async def program() -> tuple[Any, Any]:
            application = Application(stage)
            application.take("ours", kind)
            async with application.broker as broker:
                await broker.start()
                await bus.apublish("ours", body, headers={"tenant": "acme", "größe": "XL"})
                return await application.taken()

        with running(stage, bus):
            taken, message = run(program)
        assert (type(taken), taken) == (type(found), found)
        assert message.headers["tenant"] == "acme"

    @pytest.mark.parametrize("mode", ["structured", "binary"])
    def test_a_correlation_is_known_there(self, stage: NatsStage, mode: str) -> None:
        """Our correlation id is known there, just as theirs is known here."""
        bus = write_in(stage, mode).open()

        async def program() -> tuple[Any, Any]:
            application = Application(stage)
            application.take("ours", bytes)
            async with application.broker as broker:
                await broker.start()
                await bus.apublish("ours", b"", correlation_id="c")
                return await application.taken()

        with running(stage, bus):
            _, message = run(program)
        assert message.correlation_id == "c"

    def test_it_answers_what_it_was_sent_to_our_handler(self, stage: NatsStage) -> None:
        """Its handler returns a value, which is published to a subject of ours."""
        seen = Seen()
        bus = write_in(stage, "binary").open()
        bus.subscribe("done", seen, name="s")

        async def program() -> None:
            application = Application(stage)
            done = asyncio.Event()

            @application.broker.subscriber(
                f"{application.prefix}.ours", stream=application.stream, durable="faststream", pull_sub=True
            )
            @application.broker.publisher(f"{application.prefix}.done", stream=stage.stream)
            async def handle(body: Order) -> Order:
                done.set()
                return Order(sku=body.sku, count=body.count + 1)

            async with application.broker as broker:
                await broker.start()
                await bus.apublish("ours", {"sku": "x"})
                await asyncio.wait_for(done.wait(), stage.patience)

        with running(stage, bus):
            run(program)
            until(stage, lambda: seen.messages, "it has come")
        assert seen.bodies == [{"sku": "x", "count": 2}]

    @pytest.mark.parametrize("mode", ["structured", "binary"])
    def test_a_request_of_its_is_answered_here(self, server: NatsServer, mode: str) -> None:
        """The answer over plain NATS is an event or, in binary mode, what our handler returned."""
        bus = Bus(f"{server.url}?core=yes&prefix=ask&events={mode}")
        bus.subscribe("prices.get", price, name="prices")

        async def program() -> Any:
            async with NatsBroker(server.url, logger=None) as broker:
                await broker.start()
                answer = await broker.request({"sku": "größe"}, "ask.prices.get", timeout=5, correlation_id="c")
                return await answer.decode()

        with bus:
            answer = run(program)
        if mode == "structured":
            event = json.loads(answer)
            assert event["correlationid"] == "c"
            answer = event["data"]
        assert answer == {"price": 7, "sku": "größe"}

    @pytest.mark.parametrize("kind", [Order, dict], ids=["model", "mapping"])
    def test_a_request_of_ours_is_answered_there(self, server: NatsServer, kind: Any) -> None:
        """Over plain NATS in binary mode, its handler gets the body and we get its return value."""
        bus = Bus(f"{server.url}?core=yes&prefix=asking&events=binary")

        async def program() -> Message:
            broker = NatsBroker(server.url, logger=None)
            broker.subscriber("asking.prices.get")(asked(kind))
            async with broker:
                client = await broker.connect()
                await broker.start()
                await client.flush()
                await client.flush()  # it listens from here on: the first ping goes before data that waits to be written
                return await bus.arequest("prices.get", {"sku": "größe"}, timeout=5)

        with bus:
            assert run(program).body == {"asked": "größe"}

    @pytest.mark.parametrize("mode", ["structured", "binary"])
    def test_a_request_of_its_through_the_stream_is_answered_here(self, stage: NatsStage, mode: str) -> None:
        """A request through the stream names in a header where the answer must go."""
        bus = write_in(stage, mode).open()
        bus.subscribe("prices.get", price, name="prices")

        async def program() -> Any:
            application = Application(stage)
            async with application.broker as broker:
                await broker.start()
                subject = f"{application.prefix}.prices.get"
                return await (await broker.request({"sku": "x"}, subject, stream=stage.stream, timeout=5)).decode()

        with running(stage, bus):
            answer = run(program)
        assert (json.loads(answer)["data"] if mode == "structured" else answer) == {"price": 7, "sku": "x"}

    def test_a_request_of_ours_through_the_stream_is_answered_there(self, stage: NatsStage) -> None:
        """A request through the stream is answered by an application that does not use pipebus."""
        bus = write_in(stage, "binary").open()

        async def program() -> Message:
            application = Application(stage)
            subject = f"{application.prefix}.prices.get"
            application.broker.subscriber(subject, stream=application.stream, durable="faststream", pull_sub=True)(asked(Order))
            async with application.broker as broker:
                await broker.start()
                return await bus.arequest("prices.get", {"sku": "größe"}, timeout=5)

        with running(stage, bus):
            assert run(program).body == {"asked": "größe"}


def price(message: Message) -> dict[str, Any]:
    return {"price": 7, **message.body}


def asked(kind: Any) -> Callable[..., Awaitable[Any]]:
    """A handler of FastStream's for bodies of this type."""

    async def handle(body: Any) -> Any:
        return {"asked": body.sku if isinstance(body, Order) else body["sku"]}

    handle.__annotations__["body"] = kind
    return handle

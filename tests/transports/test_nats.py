"""The NATS transport together with programs that do not know it, and behaviour that the contract does not cover."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from pipebus.bus.bus import engine_of

pytest.importorskip("nats")

from nats_server import NatsServer, NatsStage, with_client

from pipebus import Bus, Message
from pipebus.delivery.delivery import Delivery
from pipebus.errors import (
    DeadLetterError,
    LifecycleError,
    MessageTooLarge,
    RequestFailed,
    TransportError,
    UnsupportedCapability,
)
from pipebus.testing.contract.tools import Seen, figures, running, until
from pipebus.transports.nats import publisher, wire

pytestmark = pytest.mark.thorough  # on a real server


def theirs(stage: NatsStage, work: Callable[[Any, str], Any]) -> Any:
    """Run a program that knows nats-py only: a function of a client and the prefix of subjects."""
    return with_client(stage.server, lambda client: work(client, stage.stream.lower()))


class TestForeignPrograms:
    """A program with nats-py, and without pipebus, is at the other end."""

    def test_what_we_publish_is_readable(self, stage: NatsStage) -> None:
        """
        The message is a CloudEvent in structured mode; its plain headers are headers of NATS too, and the JSON has all headers.
        """
        bus = stage.open()
        with running(stage, bus):
            bus.publish(
                "orders.created", {"id": 1}, headers={"tenant": "acme", "größe": "XL", "note": "grüße"}, id="m", key="k"
            )

        async def read(client: Any, prefix: str) -> Any:
            subscription = await client.jetstream().pull_subscribe(f"{prefix}.orders.>", "reader")
            (message,) = await subscription.fetch(1, timeout=5)
            await message.ack()
            return message

        message = theirs(stage, read)
        event = json.loads(message.data)
        assert message.subject == f"{stage.stream.lower()}.orders.created"
        assert (event["specversion"], event["type"], event["id"], event["data"]) == ("1.0", "orders.created", "m", {"id": 1})
        assert json.loads(event["pipebusheaders"]) == {"tenant": "acme", "größe": "XL", "note": "grüße"}
        assert message.headers["content-type"] == "application/cloudevents+json"
        assert message.headers["Nats-Msg-Id"] == "m"
        assert message.headers["tenant"] == "acme"
        assert "note" not in message.headers

    @pytest.mark.parametrize(
        ("data", "headers", "body"),
        [
            (b'{"id": 1}', {}, {"id": 1}),
            (b"[1, 2]", {}, [1, 2]),
            (b"7", {}, b"7"),
            (b"7", {"Content-Type": "application/json"}, 7),
            (b'"x"', {"content-type": "application/vnd.shop+json; charset=utf-8"}, "x"),
            (b"", {"content-type": "application/json"}, None),
            (b"{no json", {}, b"{no json"),
            (b"\x00\xff", {}, b"\x00\xff"),
            (b"", {}, b""),
            ("grüße".encode(), {"content-type": "text/plain"}, "grüße"),
            (b"\xff", {"content-type": "application/octet-stream"}, b"\xff"),
        ],
        ids=repr,
    )
    def test_what_they_publish_is_handled(self, stage: NatsStage, data: bytes, headers: dict[str, str], body: Any) -> None:
        """
        Any bytes make a message: it has the server's subject, a body that fits the bytes, and made-up values for the rest.
        """
        seen = Seen()
        bus = stage.open()
        bus.subscribe("orders.>", seen, name="s")

        async def publish(client: Any, prefix: str) -> Any:
            return await client.jetstream().publish(f"{prefix}.orders.new", data, headers={**headers, "x-tenant": "acme"})

        with running(stage, bus):
            ack = theirs(stage, publish)
            until(stage, lambda: seen.messages, "it has come")
        (message,) = seen.messages
        assert (message.subject, type(message.body), message.body) == ("orders.new", type(body), body)
        assert message.headers["x-tenant"] == "acme"
        assert message.id == f"{stage.stream}:{ack.seq}"
        assert abs(message.time - time.time()) < 60

    def test_ids_and_correlation_of_others_are_taken(self, stage: NatsStage) -> None:
        """Headers that are reserved for pipebus are not taken over."""
        seen = Seen()
        bus = stage.open()
        bus.subscribe("a", seen, name="s")

        async def publish(client: Any, prefix: str) -> None:
            headers = {
                "Nats-Msg-Id": "theirs",
                "correlation_id": "c",
                "pipebus-x": "forged",
                "Pipebus-Origin": '{"subject":"b"}',
            }
            await client.jetstream().publish(f"{prefix}.a", b"x", headers=headers)

        with running(stage, bus):
            theirs(stage, publish)
            until(stage, lambda: seen.messages, "it has come")
        (message,) = seen.messages
        assert (message.id, message.correlation_id) == ("theirs", "c")
        assert not any(name.lower().startswith(("pipebus-", "nats-")) for name in message.headers)

    @pytest.mark.parametrize("mode", ["structured", "binary", "binary_kafka_names", "structured_without_header"])
    def test_cloudevents_of_others_are_read(self, stage: NatsStage, mode: str) -> None:
        """Both modes work; subscriptions choose by the server's subject, and the event's attributes become headers."""
        moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        attributes = {
            "specversion": "1.0", "id": "e 1", "source": "/shop", "type": "com.shop.order", "time": moment.isoformat(),
            "partitionkey": "k", "correlationid": "c", "tier": "gold",
        }  # fmt: skip
        data = {"order": "größe"}
        if mode.startswith("structured"):
            headers = {"content-type": "application/cloudevents+json"} if mode == "structured" else {}
            raw = json.dumps({**attributes, "datacontenttype": "application/json", "data": data}).encode()
        else:
            before = "ce_" if mode == "binary_kafka_names" else "ce-"
            escaped = "%20" if before == "ce-" else " "
            headers = {f"{before}{name}": value.replace(" ", escaped) for name, value in attributes.items()}
            headers["content-type"] = "application/json"
            raw = json.dumps(data).encode()
        seen = Seen()
        bus = stage.open()
        bus.subscribe("orders.*", seen, name="s")

        async def publish(client: Any, prefix: str) -> None:
            await client.jetstream().publish(f"{prefix}.orders.eu", raw, headers=headers)

        with running(stage, bus):
            theirs(stage, publish)
            until(stage, lambda: seen.messages, "it has come")
        (message,) = seen.messages
        assert (message.id, message.subject, message.body, message.key) == ("e 1", "orders.eu", data, "k")
        assert (message.correlation_id, message.time) == ("c", moment.timestamp())
        assert message.headers["ce-type"] == "com.shop.order"
        assert message.headers["ce-tier"] == "gold"

    def test_bytes_of_a_cloudevent_come_as_bytes(self, stage: NatsStage) -> None:
        """The attribute data_base64 becomes a body of bytes."""
        event = {"specversion": "1.0", "id": "e", "source": "s", "type": "t", "data_base64": base64.b64encode(b"\xff").decode()}
        found = wire.decode("a", json.dumps(event).encode(), {"content-type": wire.CLOUDEVENT}, "i", 1.0)
        assert isinstance(found, Message)
        assert (found.body, found.id, found.time) == (b"\xff", "e", 1.0)

    @pytest.mark.parametrize(
        ("data", "headers"),
        [
            (b"no json", {"content-type": wire.CLOUDEVENT}),
            (b"[]", {"content-type": wire.CLOUDEVENT}),
            (b'{"specversion": "0.3"}', {"content-type": wire.CLOUDEVENT}),
            (b'{"specversion": "1.0", "data_base64": "!"}', {"content-type": wire.CLOUDEVENT}),
            (b"x", {"ce-specversion": "9.9"}),
            (b"no json", {"content-type": "application/json"}),
            (b"\xff", {"content-type": "text/plain"}),
            (b"x", {"Pipebus-Version": "1"}),
        ],
        ids=repr,
    )
    def test_what_is_no_message_is_a_dead_letter_with_its_bytes(
        self, stage: NatsStage, data: bytes, headers: dict[str, str]
    ) -> None:
        """Data that claim a type and do not have it become a dead letter, and the next message is handled."""
        seen = Seen()
        bus = stage.open()
        bus.subscribe("a", seen, name="s")

        async def publish(client: Any, prefix: str) -> None:
            await client.jetstream().publish(f"{prefix}.a", data, headers=headers)

        with running(stage, bus):
            theirs(stage, publish)
            bus.publish("a", "good")
            until(stage, lambda: seen.bodies == ["good"] and bus.dead_letters.list(), "one is dead, the other handled")
            (letter,) = bus.dead_letters.list()
            assert letter.message.body == data
            assert letter.error.startswith("CodecError")

    def test_a_raw_message_that_died_is_replayed_as_it_was(self, stage: NatsStage) -> None:
        """The letter keeps the subject, the id and the headers of the message."""
        seen, broken = Seen(), threading.Event()

        def handle(message: Message) -> None:
            seen.note(message)
            if not broken.is_set():
                raise ValueError("no")

        bus = stage.open()
        bus.subscribe("raw.*", handle, name="my subscription")

        async def publish(client: Any, prefix: str) -> None:
            await client.jetstream().publish(f"{prefix}.raw.x", b"\x01", headers={"h": "v"})

        with running(stage, bus):
            theirs(stage, publish)
            until(stage, bus.dead_letters.list, "it is dead")
            broken.set()
            bus.dead_letters.replay(bus.dead_letters.list()[0].id)
            until(stage, lambda: len(seen.messages) == 2, "it has come again")
        first, second = seen.messages
        assert (second.id, second.subject, second.body, second.headers) == (first.id, first.subject, first.body, first.headers)

    def test_they_can_ask_and_are_answered(self, server: NatsServer) -> None:
        """Our handler answers a foreign request over plain NATS."""
        bus = Bus(f"{server.url}?core=yes&prefix=ask")
        bus.subscribe("prices.get", answer, name="prices")

        async def ask(client: Any) -> Any:
            return json.loads((await client.request("ask.prices.get", b'{"sku": "x"}', timeout=5)).data)

        with bus:
            assert with_client(server, ask)["data"] == {"price": 7, "sku": "x"}


def answer(message: Message) -> dict[str, Any]:
    return {"price": 7, **message.body}


class TestPublishing:
    """Many publishes run at once, and each one gets its own outcome."""

    def test_many_publishes_are_on_their_way_together(self, stage: NatsStage) -> None:
        """Five thousand coroutines publish at once; each has a receipt, and all arrive in order."""
        seen: list[int] = []

        def handle(message: Message) -> None:
            seen.append(message.body)

        bus = stage.open()
        bus.subscribe("a", handle, name="s")

        async def main() -> None:
            async with bus:
                receipts = await asyncio.gather(*(bus.apublish("a", number) for number in range(5000)))
                assert all(receipt and receipt.mailboxes == 1 and not receipt.duplicate for receipt in receipts)
                await bus.adrain(timeout=60)

        asyncio.run(main())
        assert seen == list(range(5000))

    def test_only_so_many_are_on_their_way(self, stage: NatsStage, monkeypatch: pytest.MonkeyPatch) -> None:
        """The rest waits here for its turn, in order."""
        monkeypatch.setattr(publisher, "WINDOW", 10)
        seen, most = Seen(), list[int]()
        bus = stage.open()
        bus.subscribe("a", seen, name="s")

        async def main() -> None:
            async with bus:
                asking = [asyncio.ensure_future(bus.apublish("a", number)) for number in range(500)]
                while not all(one.done() for one in asking):
                    most.append(len(engine_of(bus).transport.publisher._flying))
                    await asyncio.sleep(0)
                await bus.adrain(timeout=30)

        asyncio.run(main())
        assert seen.bodies == list(range(500))
        assert 0 < max(most) <= 10

    def test_a_server_that_has_too_much_to_store_is_asked_again(self, tmp_path: Any) -> None:
        """The server refuses what it cannot store at that moment; the bus retries, and the publisher notices nothing."""
        with NatsServer(tmp_path, limits="max_buffered_msgs: 2") as server:
            bus = Bus(server.url)
            seen = Seen()
            bus.subscribe("a", seen, name="s")

            async def main() -> None:
                async with bus:
                    receipts = await asyncio.gather(*(bus.apublish("a", number) for number in range(1000)))
                    assert all(receipts)
                    await bus.adrain(timeout=30)

            asyncio.run(main())
        assert sorted(seen.bodies) == list(range(1000))

    def test_a_publish_in_the_way_of_a_loop_is_refused(self, stage: NatsStage) -> None:
        """Such a publish would stop the loop until the server answers."""
        bus = stage.open()

        async def main() -> None:
            async with bus:
                with pytest.raises(LifecycleError, match="apublish"):
                    bus.send(Message("a"))

        asyncio.run(main())

    def test_a_message_larger_than_the_server_takes_is_refused_here(self, tmp_path: Any) -> None:
        """The bus asks for the server's limit at the start, and leaves room for a letter about a message."""
        with NatsServer(tmp_path, "max_payload: 65536") as server:
            bus = Bus(server.url)
            assert engine_of(bus).transport.capabilities.max_size > 65536
            bus.subscribe("a", Seen(), name="s")
            with bus:
                assert engine_of(bus).transport.capabilities.max_size < 65536
                with pytest.raises(MessageTooLarge):
                    bus.publish("a", "x" * 65000)
                assert bus.publish("a", "x" * 30_000)

    def test_a_subject_longer_than_a_line_is_refused_here(self, stage: NatsStage) -> None:
        """The server would close the connection because of it."""
        bus = stage.open()
        with running(stage, bus):
            with pytest.raises(MessageTooLarge, match="subject"):
                bus.publish("\U0001f600" * 1000)
            assert bus.publish("ü" * 1000) is not None

    def test_a_subject_that_no_stream_keeps_is_an_error(self, server: NatsServer) -> None:
        """The stream keeps what `subjects` says when the prefix is empty, and nothing else is lost silently."""
        bus = Bus(f"{server.url}?stream=EMPTY&prefix=&subjects=eorders.>,ebills.*")
        seen = Seen()
        bus.subscribe("eorders.*", seen, name="s")
        with bus:
            assert bus.publish("eorders.new", 1)
            with pytest.raises(TransportError, match="no stream keeps"):
                bus.publish("other.new", 1)
            bus.drain(timeout=10)
        assert seen.bodies == [1]

    def test_a_full_stream_refuses(self, server: NatsServer) -> None:
        """A full stream does not discard unread messages for new ones."""
        bus = Bus(f"{server.url}?stream=FULL&prefix=full&max_bytes=128KiB")
        bus.subscribe("a", Seen(held=False), name="s")

        def fill() -> None:
            for _ in range(100):
                bus.publish("a", "x" * 10_000)

        with bus, pytest.raises(TransportError, match=r"refused message .* maximum bytes exceeded"):
            fill()


class TestSubscriptions:
    """A subscription with a name is durable, and one without a name is plain NATS."""

    def test_without_a_name_it_is_plain_nats(self, stage: NatsStage) -> None:
        """The subscription gets what is published while it listens, and the stream has no consumer for it."""
        seen = Seen()
        bus = stage.open()
        with running(stage, bus):
            bus.publish("ticks", "before")
            subscription = bus.subscribe("ticks", seen)
            assert bus.publish("ticks", "now").mailboxes == 1
            until(stage, lambda: seen.bodies == ["now"], "it has come")
            subscription.unsubscribe()
            assert bus.publish("ticks", "after").mailboxes == 0
            assert theirs(stage, consumers) == []
        assert seen.bodies == ["now"]

    def test_what_fails_without_a_name_is_a_dead_letter_too(self, stage: NatsStage) -> None:
        """Retries are in memory, and the letter is kept on the server."""

        def handle(message: Message, delivery: Delivery) -> None:
            attempts.append(delivery.attempt)
            delivery.retry()

        attempts: list[int] = []
        bus = stage.open()
        bus.subscribe("ticks", handle, attempts=2)
        with running(stage, bus):
            bus.publish("ticks", "x")
            until(stage, bus.dead_letters.list, "it is dead")
            assert attempts == [1, 2]
            assert bus.dead_letters.list()[0].message.body == "x"

    def test_a_consumer_is_made_once_and_changed_with_its_patterns(self, stage: NatsStage) -> None:
        """The messages that wait for the subscription stay when its patterns change."""
        seen = Seen()
        bus = stage.open()
        bus.subscribe("a", seen, name="s")
        with running(stage, bus):
            pass
        bus = stage.open()
        bus.subscribe(["a", "b.*"], seen, name="s")
        with running(stage, bus):
            bus.publish("b.c", 1)
            bus.drain(timeout=10)
        assert seen.bodies == [1]
        assert theirs(stage, consumers) == ["s"]

    def test_anothers_consumer_is_not_taken(self, stage: NatsStage) -> None:
        """A consumer of that name with other settings belongs to another program."""
        with running(stage, stage.open()):
            pass

        async def make(client: Any, prefix: str) -> None:
            await client.jetstream().subscribe(f"{prefix}.a", durable="s", stream=stage.stream)

        theirs(stage, make)
        bus = stage.open()
        bus.subscribe("a", Seen(), name="s")
        with pytest.raises(TransportError, match="another name"):
            bus.start()

    def test_a_subscription_can_be_removed(self, stage: NatsStage) -> None:
        """Its waiting messages go with it, and it cannot be removed while it is in use."""
        bus = stage.open()
        bus.subscribe("a", Seen(), name="s")
        with running(stage, bus), pytest.raises(TransportError, match="in use"):
            engine_of(bus).transport.remove("s")
        engine_of(bus).transport.remove("s")
        assert theirs(stage, consumers) == []
        with pytest.raises(TransportError, match="no subscription s"):
            engine_of(bus).transport.remove("s")

    def test_a_stream_that_promises_less_is_refused_at_start(self, stage: NatsStage) -> None:
        """A stream in memory is refused under a URL that does not mention memory; the error says what to do."""

        async def make(client: Any, prefix: str) -> None:
            await client.jetstream().add_stream(name=stage.stream, subjects=[f"{prefix}.>"], storage="memory")

        theirs(stage, make)
        with pytest.raises(TransportError, match="storage=memory"):
            stage.open().start()

    @pytest.mark.parametrize(
        ("config", "text"),
        [
            ({"retention": "workqueue"}, "work queue"),
            ({"max_age": 3600, "duplicate_window": 120}, "say retention=3600s"),
            ({"max_msgs": 10}, "say max_bytes="),
            ({"duplicate_window": 1}, "say window=1s"),
        ],
        ids=str,
    )
    def test_each_way_to_promise_less_has_its_remedy(self, stage: NatsStage, config: dict[str, Any], text: str) -> None:
        """The error says what to do about a stream that another program made and that discards unread messages."""

        async def make(client: Any, prefix: str) -> None:
            await client.jetstream().add_stream(name=stage.stream, subjects=[f"{prefix}.>"], **config)

        theirs(stage, make)
        with pytest.raises(TransportError, match=text):
            stage.open().start()

    def test_the_streams_subjects_are_widened_and_kept(self, stage: NatsStage) -> None:
        """The stream keeps the subjects that another program gave it, in addition to ours."""

        async def make(client: Any, prefix: str) -> None:
            await client.jetstream().add_stream(name=stage.stream, subjects=[f"{prefix}-other.>"])

        async def look(client: Any, prefix: str) -> Any:
            return (await client.jetstream().stream_info(stage.stream)).config.subjects

        theirs(stage, make)
        with running(stage, stage.open()):
            pass
        prefix = stage.stream.lower()
        assert theirs(stage, look) == [f"{prefix}-other.>", f"{prefix}.>", f"{prefix}-replay.*"]

    @pytest.mark.parametrize("name", ["s", None], ids=["durable", "plain"])
    def test_patterns_that_overlap_bring_nothing_else(self, stage: NatsStage, name: str | None) -> None:
        """The server is asked for more than the patterns match, and anything beyond them is not handled."""
        seen = Seen()
        bus = stage.open()
        bus.subscribe(["a.*", "*.b"], seen, name=name) if name else bus.subscribe(["a.*", "*.b"], seen)
        with running(stage, bus):
            for subject in ("a.b", "c.d", "a.x", "y.b"):
                bus.publish(subject, subject)
            bus.drain(timeout=10)
            until(stage, lambda: len(seen.messages) == 3, "they have come")
            assert engine_of(bus).transport.pending("s") == 0
        assert seen.bodies == ["a.b", "a.x", "y.b"]

    def test_an_unnamed_subscription_that_is_full_waits(self, stage: NatsStage) -> None:
        """Messages wait within bounds, in memory, because plain NATS keeps nothing."""
        seen = Seen(held=True)
        bus = stage.open()
        bus.subscribe("ticks", seen, mailbox=2)
        with running(stage, bus, seen):
            for number in range(20):
                bus.publish("ticks", number)
            until(stage, lambda: seen.bodies == [0], "the first has begun")
            seen.go.set()
            until(stage, lambda: len(seen.messages) == 20, "all have come")
            bus.drain(timeout=10)
        assert seen.bodies == list(range(20))

    def test_a_stated_window_is_written_to_the_stream(self, stage: NatsStage) -> None:
        """A window in the URL is written to the stream; without one, the stream's own window is used."""
        with running(stage, stage.open()):
            pass
        bus = Bus(f"{stage.url}&window=5s")
        with bus:
            assert engine_of(bus).transport.capabilities.dedup_window == 5.0

        async def window(client: Any, prefix: str) -> Any:
            return (await client.jetstream().stream_info(stage.stream)).config.duplicate_window

        assert theirs(stage, window) == 5.0
        with pytest.raises(TransportError, match="window=5s"):
            stage.open().start()

    def test_a_stream_keeps_messages_for_a_week(self, stage: NatsStage) -> None:
        """
        Unless the URL says otherwise. What it says is written to a stream that is there; what it does not say changes nothing.
        """

        async def age(client: Any, prefix: str) -> Any:
            return (await client.jetstream().stream_info(stage.stream)).config.max_age

        found = []
        for stated in ("", "&retention=30d", "", "&retention=forever", "", "&retention=1h"):
            with Bus(f"{stage.url}{stated}"):
                found.append(theirs(stage, age) or None)
        day = 86_400.0
        assert found == [7 * day, 30 * day, 30 * day, None, None, 3600.0]
        with pytest.raises(TransportError, match="deletes after 3600 s what nobody has read"):
            Bus(stage.url).start()

    def test_requests_are_answered_over_the_server(self, stage: NatsStage) -> None:
        """The requester gets a reply, or an error if the handler fails."""
        asking, serving = stage.open("asking"), stage.open("serving")
        serving.subscribe("prices.get", answer, name="prices")
        with running(stage, serving), running(stage, asking):
            assert asking.request("prices.get", {"sku": "x"}, timeout=5).body == {"price": 7, "sku": "x"}
            with pytest.raises(RequestFailed, match="TypeError"):
                asking.request("prices.get", 7, timeout=5)

    def test_core_is_plain_nats_for_all(self, server: NatsServer) -> None:
        """Core NATS makes no stream; subscriptions of one name share the messages."""
        buses = [Bus(f"{server.url}?core=yes&prefix=core&stream=NEVER") for _ in range(2)]
        seen = Seen()
        for bus in buses:
            bus.subscribe("a", seen, name="group")
            bus.start()
        try:
            for number in range(100):
                assert buses[number % 2].publish("a", number)
            until(NatsStage(server), lambda: len(seen.messages) == 100, "all have come")
            for bus in buses:
                bus.drain(timeout=5)
        finally:
            for bus in buses:
                bus.stop(timeout=5)
        assert sorted(seen.bodies) == list(range(100))

        async def streams(client: Any) -> list[str]:
            return [one.config.name for one in await client.jetstream().streams_info()]

        assert "NEVER" not in with_client(server, streams)

    def test_core_refuses_what_it_cannot_keep(self, server: NatsServer) -> None:
        """Core NATS keeps no older messages, so a subscription that asks for them is refused."""
        bus = Bus(f"{server.url}?core=yes")
        with pytest.raises(UnsupportedCapability):
            bus.subscribe("a", Seen(), name="s", deliver="all")


async def consumers(client: Any, prefix: str) -> list[str]:
    return [one.name for one in await client.jetstream().consumers_info(prefix.upper())]


class TestLetters:
    """A dead letter is written before the original message is removed."""

    def test_the_original_stays_where_its_letter_cannot_be_written(self, stage: NatsStage) -> None:
        """If the stream of letters is gone, the message is not acknowledged, and comes again when its lease ends."""
        seen, warned = Seen(), list[str]()

        def handle(message: Message, delivery: Delivery) -> None:
            seen.note(message, delivery.attempt)
            if len(seen.messages) == 1:
                raise ValueError("no")

        bus = stage.open_with_lease(0.5, "&publish_timeout=500ms")
        bus.subscribe("a", handle, name="s")

        async def delete(client: Any, prefix: str) -> None:
            await client.jetstream().delete_stream(f"{stage.stream}-DEAD")

        with running(stage, bus):
            theirs(stage, delete)
            engine_of(bus).transport.warn = lambda event, **facts: warned.append(event)
            bus.publish("a", 1)
            until(stage, lambda: len(seen.messages) == 2, "it has come again")
            until(stage, lambda: figures(bus, "s")["acknowledged"] == 1, "and is handled")
        assert seen.attempts == [1, 2]
        assert "letter.not_kept" in warned

    def test_letters_are_there_while_the_bus_is_stopped(self, stage: NatsStage) -> None:
        """Another program can list and discard them."""

        def handle(message: Message) -> None:
            raise ValueError("no")

        bus = stage.open()
        bus.subscribe("a", handle, name="s")
        with running(stage, bus):
            bus.publish("a", 1, id="m")
            bus.drain(timeout=10)
        letters = Bus(stage.url).dead_letters
        assert [letter.message.id for letter in letters.list("s")] == ["m"]
        assert len(letters) == 1
        letters.discard(letters.list()[0].id)
        assert letters.list() == []

    def test_a_letter_whose_subscription_is_gone_stays(self, stage: NatsStage) -> None:
        """The letter stays because there is no subscription to give it to."""

        def handle(message: Message) -> None:
            raise ValueError("no")

        bus = stage.open()
        bus.subscribe("a", handle, name="s")
        with running(stage, bus):
            bus.publish("a", 1)
            bus.drain(timeout=10)
        engine_of(bus).transport.remove("s")
        letters = Bus(stage.url).dead_letters
        (letter,) = letters.list()
        with pytest.raises(DeadLetterError, match="stays a dead letter"):
            letters.replay(letter.id)
        assert letters.list() == [letter]

    def test_over_the_cap_the_oldest_goes(self, stage: NatsStage) -> None:
        """The oldest letter goes, and is counted."""

        def handle(message: Message) -> None:
            raise ValueError("no")

        bus = stage.open(dead_letters=3)
        bus.subscribe("a", handle, name="s")
        with running(stage, bus):
            for number in range(6):
                bus.publish("a", number)
            bus.drain(timeout=10)
            until(stage, lambda: figures(bus, "s")["dropped"] == {"evicted": 3}, "three are evicted")
            assert [letter.message.body for letter in bus.dead_letters.list()] == [3, 4, 5]


def test_a_subscription_that_nobody_reads_leaves_its_messages_to_other_programs(stage: NatsStage) -> None:
    """A program may make a subscription for the readers of another one."""
    with Bus(stage.url) as maker:
        maker.subscribe("questions", name="person")
        maker.publish("questions", 1)
        maker.drain(10.0)
        with Bus(stage.url) as other:
            assert other.subscribe("questions", name="person").receive(timeout=10.0).body == 1

"""Headers of any kind between pipebus and a program with nats-py alone, or with a socket; and what is hostile in them."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import pytest

from pipebus.bus.bus import engine_of

pytest.importorskip("nats")

from hypothesis import example, given, settings
from hypothesis import strategies as st
from nats_server import NatsServer, NatsStage, with_client, write_in

from pipebus import Bus, Message
from pipebus.errors import MessageTooLarge
from pipebus.testing.contract.tools import Seen, running, until

pytestmark = pytest.mark.thorough  # on a real server

SAFE = re.compile(r"[!-~]+( +[!-~]+)*")
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""Header names that the server's own clients accept."""
MEANT = ("content-type", "correlation_id", "correlation-id", "reply_to", "reply-to", "status", "description")
"""Names that other programs use for facts about the message itself."""
RESERVED = ("pipebus-", "nats-")

NAMES = ("tenant", "Tenant", "größe", "ce-id", "CE-Type", "ce_id", "X-Nats-Y", "日本", "!#$%&'*+-.^_`|~", *MEANT)
VALUES = ("", " ", "plain", "two words", " a", "a ", "a\tb", '"%"', "%41", "größe", "\U0001f600", "\x01", "\u2028")
PLAIN = re.compile(r"(?!(?i:ce[-_]|nats-|pipebus-))[A-Za-z][A-Za-z0-9_.-]{0,6}")

names = st.sampled_from(NAMES) | st.text(
    st.characters(categories=["L", "M", "N", "P", "S"], exclude_characters=":"), min_size=1, max_size=7
)
values = st.sampled_from(VALUES) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=12)
headers_of_ours = st.dictionaries(names.filter(lambda name: not name.lower().startswith(RESERVED)), values, max_size=5)
headers_of_theirs = st.dictionaries(
    st.sampled_from(["status", "Description", "reply-to"])
    | st.from_regex(PLAIN, fullmatch=True).filter(lambda name: not name.lower().startswith(RESERVED)),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).map(str.strip),
    max_size=5,
)


def heard(stage: NatsStage, publish: Callable[[], object]) -> Any:
    """Return what another program receives when a message is published."""

    async def work(client: Any) -> Any:
        subscription = await client.subscribe(f"{stage.stream.lower()}.>")
        await listening(client)
        await asyncio.to_thread(publish)
        return await subscription.next_msg(timeout=5)

    return with_client(stage.server, work)


async def listening(client: Any) -> None:
    """The server has a client's subscriptions. (The first ping goes before what waits to be written, the second behind it.)"""
    await client.flush()
    await client.flush()


def publish_raw(stage: NatsStage, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
    async def publish(client: Any) -> None:
        await client.jetstream().publish(f"{stage.stream.lower()}.{subject}", data, headers=headers)

    with_client(stage.server, publish)


def send(server: NatsServer, *lines: bytes) -> None:
    """Write to the server what no library would; it has it when this returns."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5.0) as one, one.makefile("rwb") as file:
        file.readline()
        file.write(b"\r\n".join([b'CONNECT {"verbose":false,"headers":true}', *lines, b"PING", b""]))
        file.flush()
        assert file.readline() == b"PONG\r\n"


class TestFidelity:
    """Headers survive exactly, and safe ones are plain headers of NATS too."""

    @pytest.mark.parametrize("mode", ["structured", "binary"])
    def test_ours_are_all_in_the_event_and_safe_ones_beside_it(self, stage: NatsStage, mode: str) -> None:
        """Both another program and a bus can read them."""
        seen = Seen()
        bus = write_in(stage, mode).open()
        bus.subscribe("a", seen, name="s")

        @given(headers_of_ours)
        @example({"Tenant": "1", "tenant": "2", "TENANT": "3"})
        @example({"content-type": "text/plain", "reply_to": "x", "correlation_id": "forged", "Status": "503"})
        @settings(max_examples=60, deadline=None)
        def check(headers: dict[str, str]) -> None:
            number = len(seen.messages)
            message = heard(stage, lambda: bus.publish("a", number, headers=headers))
            if mode == "structured":
                event = json.loads(message.data)
                assert (event["data"], json.loads(event.get("pipebusheaders", "{}"))) == (number, headers)
            else:
                assert json.loads(message.data) == number
                assert json.loads(unquote(message.headers.get("ce-pipebusheaders", "{}"))) == headers
            beside = {name: value for name, value in message.headers.items() if not name.lower().startswith((*RESERVED, "ce-"))}
            kind = beside.pop("content-type")
            assert kind == ("application/cloudevents+json" if mode == "structured" else "application/json")
            assert beside == {
                name: value
                for name, value in headers.items()
                if TOKEN.fullmatch(name)
                and SAFE.fullmatch(value)
                and name.lower() not in MEANT
                and not name.lower().startswith(("ce-", "ce_"))
            }
            until(stage, lambda: len(seen.messages) > number, "it has come")
            assert (seen.messages[number].headers, seen.bodies[number]) == (headers, number)

        with running(stage, bus):
            check()

    def test_theirs_are_all_headers_of_the_message(self, stage: NatsStage) -> None:
        """Every value that a header of NATS can have comes through, even an empty one."""
        seen = Seen()
        bus = stage.open()
        bus.subscribe("a", seen, name="s")

        @given(headers_of_theirs)
        @example({"Tenant": "1", "tenant": "2", "empty": "", "x": "größe \U0001f600"})
        @settings(max_examples=60, deadline=None)
        def check(headers: dict[str, str]) -> None:
            number = len(seen.messages)
            publish_raw(stage, "a", b"x", headers)
            until(stage, lambda: len(seen.messages) > number, "it has come")
            assert seen.messages[number].headers == headers

        with running(stage, bus):
            check()

    @pytest.mark.parametrize("writes", ["structured", "binary"])
    @pytest.mark.parametrize("reads", ["structured", "binary"])
    def test_a_message_is_the_same_whoever_reads_it(self, stage: NatsStage, writes: str, reads: str) -> None:
        """All of a message is the same between programs that write in different modes, and after its dead letter."""
        seen, healed = Seen(), list[bool]()

        def handle(message: Message) -> None:
            seen.note(message)
            if not healed:
                raise ValueError("no")

        url = stage.url
        reader = write_in(stage, reads).open("reader")
        reader.subscribe("a.*", handle, name="s")
        stage.url = url
        writer = write_in(stage, writes).open("writer")
        sent = Message(
            "a.größe", {"größe": [1, None]}, headers={"größe": " XL ", "e": "", "Tenant": "1", "tenant": "2"},
            key="", ttl=60.0, id='m "ü"%', correlation_id="c é", reply_to="answers.größe",
        )  # fmt: skip
        with running(stage, reader), running(stage, writer):
            writer.send(sent)
            until(stage, reader.dead_letters.list, "it is dead")
            healed.append(True)
            (letter,) = reader.dead_letters.list()
            reader.dead_letters.replay(letter.id)
            until(stage, lambda: len(seen.messages) == 2, "it has come again")
        close = pytest.approx(sent.time, abs=1e-5)
        for message in (*seen.messages, letter.message):
            assert message.time == close
            fields = ("subject", "body", "headers", "key", "ttl", "id", "correlation_id", "reply_to")
            assert {name: getattr(message, name) for name in fields} == {name: getattr(sent, name) for name in fields}

    @pytest.mark.parametrize("mode", ["structured", "binary"])
    def test_what_a_handler_passes_on_is_not_mistaken(self, stage: NatsStage, mode: str) -> None:
        """All headers of a stranger's message go with another body; those that spoke of the old one say nothing of the new."""
        bus = write_in(stage, mode).open()

        def pass_on(message: Message) -> None:
            bus.publish("new", b"\xff" + message.body["n"].encode(), headers=message.headers)

        bus.subscribe("old", pass_on, name="s")
        theirs = {"content-type": "application/json", "x": "größe", "correlation_id": "c", "ce_x": "y"}
        seen = Seen()
        bus.subscribe("new", seen, name="t")
        with running(stage, bus):
            publish_raw(stage, "old", b'{"n": "1"}', theirs)
            until(stage, lambda: seen.messages, "it has come")
        (message,) = seen.messages
        assert (message.body, message.headers) == (b"\xff1", {**theirs, "pipebus-hops": "2"})
        assert message.correlation_id == "c"  # it belongs to their conversation


class TestHostile:
    """Foreign messages may use names that belong to pipebus or the server, and bytes without meaning."""

    @pytest.mark.parametrize(
        "forged",
        [
            {"pipebus-error": "1"},
            {"PIPEBUS-Error": "1", "Pipebus-Origin": '{"subject": "b", "id": "x", "time": 1}'},
            {"Nats-Sequence": "7", "nats-subject": "b", "NATS-Stream": "S", "Nats-Num-Pending": "1"},
            {
                "ce-specversion": "1.0",
                "ce-id": "e",
                "ce-source": "/s",
                "ce-type": "t",
                "ce-pipebusheaders": '{"pipebus-error":"1"}',
            },
        ],
        ids=lambda forged: next(iter(forged)),
    )
    def test_reserved_names_are_not_taken_over(self, stage: NatsStage, forged: dict[str, str]) -> None:
        """The message is handled, with everything else it has."""
        seen = Seen()
        bus = stage.open()
        bus.subscribe(">", seen, name="s")
        with running(stage, bus):
            publish_raw(stage, "a", b"[1]", {**forged, **({} if "ce-id" in forged else {"x": "1"})})
            until(stage, lambda: seen.messages, "it has come")
        (message,) = seen.messages
        assert (message.subject, message.body) == ("a", [1])
        assert not any(name.lower().startswith(RESERVED) for name in message.headers)
        assert "x" in message.headers or "ce-id" in forged

    @pytest.mark.parametrize(
        "event",
        [
            {"pipebusheaders": {"pipebus-error": "1", "x": "y"}},
            {"pipebus-error": "1", "nats-x": "y"},
            {"pipebusreplyto": "_reply.7f.1", "pipebusttl": 0.001},
        ],
        ids=str,
    )
    def test_an_event_of_others_sets_nothing_of_ours(self, stage: NatsStage, event: dict[str, Any]) -> None:
        """An attribute that we did not write is an ordinary attribute."""
        seen = Seen()
        bus = stage.open()
        bus.subscribe("a", seen, name="s")
        data = json.dumps({"specversion": "1.0", "id": "e", "source": "/s", "type": "b", "data": 1, **event}).encode()
        with running(stage, bus):
            publish_raw(stage, "a", data, {"content-type": "application/cloudevents+json"})
            until(stage, lambda: seen.messages, "it has come")
        (message,) = seen.messages
        assert (message.subject, message.id, message.body, message.ttl, message.reply_to) == ("a", "e", 1, None, None)
        assert all(name.startswith("ce-") for name in message.headers)

    @pytest.mark.parametrize("name", ["s", None], ids=["durable", "plain"])
    @pytest.mark.parametrize(
        ("block", "headers"),
        [
            (b"NATS/1.0\r\nx: \xff\xfe\r\n\r\n", {"x": "\ufffd\ufffd"}),
            (b"NATS/1.0\r\n\xff: y\r\nno colon\r\n: v\r\nx:1\r\nX: 2\r\n\r\n", {"x": "1", "X": "2"}),
            (b"NATS/1.0\r\nnul: a\0b\r\nx: 1\r\n\r\n", {"x": "1"}),
            (b"NATS/1.0\r\nStatus: 503\r\nDescription: consumer deleted\r\nx: 1\r\n\r\n", {"x": "1"}),
            (b"NATS/1.0 100 Idle\r\nx: 1\r\n\r\n", {}),
            (b"NATS/1.0 503\r\n\r\n", {}),
            (b"NATS/1.0 200 \xff\r\n\r\n", {}),
            (b"NATS/1.0 \xff\xfe\xfd \xff\r\n\r\n", {}),
            (b"NATS/1.0", {}),
            (b"N", {}),
        ],
        ids=repr,
    )
    def test_a_block_that_is_no_headers_stops_nothing(
        self, stage: NatsStage, block: bytes, headers: dict[str, str], name: str | None
    ) -> None:
        """The server looks at none; the message is there with the headers that are some, and the next flows."""
        seen = Seen()
        bus = stage.open()
        bus.subscribe("a", seen, name=name) if name else bus.subscribe("a", seen)
        with running(stage, bus):
            place = f"{stage.stream.lower()}.a".encode()
            send(stage.server, b"HPUB %s %d %d" % (place, len(block), len(block) + 1), block + b"x")
            bus.publish("a", b"next")
            until(stage, lambda: len(seen.messages) == 2, "both have come")
        assert seen.bodies == [b"x", b"next"]
        assert headers.items() <= seen.messages[0].headers.items()

    @pytest.mark.parametrize("name", ["s", None], ids=["durable", "plain"])
    @pytest.mark.parametrize(
        "token",
        [
            b"a\x01b",
            b"\xc2\x85",
            b"\xff",
            b"\xf0\x9f",
            b"\xed\xa0\x80",
        ],
        ids=repr,
    )
    def test_a_subject_that_is_no_text_stops_nothing(self, stage: NatsStage, token: bytes, name: str | None) -> None:
        """The message is handled or becomes a dead letter, and the next one is handled."""
        seen = Seen()
        bus = stage.open()
        bus.subscribe("a.>", seen, name=name) if name else bus.subscribe("a.>", seen)
        with running(stage, bus):
            place = f"{stage.stream.lower()}.a.".encode() + token
            send(stage.server, b"PUB %s 1" % place, b"x")
            bus.publish("a.b", b"next")
            until(stage, lambda: b"next" in seen.bodies, "the next has come")
            until(stage, lambda: b"x" in seen.bodies or bus.dead_letters.list(), "it is handled, or dead")
        assert len(seen.messages) <= 2


class TestRequests:
    """A program with only nats-py can ask and answer over plain NATS."""

    @pytest.mark.parametrize("mode", ["structured", "binary"])
    def test_they_ask_and_are_answered(self, server: NatsServer, mode: str) -> None:
        """The answer in binary mode is the bare value, and in both modes a failure differs from an answer."""
        bus = Bus(f"{server.url}?core=yes&prefix=ask&events={mode}")
        bus.subscribe("double", double, name="s")

        async def ask(client: Any) -> list[Any]:
            return [await client.request("ask.double", data, timeout=5) for data in (b"[4]", b"[null]")]

        with bus:
            answer, failure = with_client(server, ask)
        if mode == "structured":
            assert json.loads(answer.data)["data"] == 8
            event = json.loads(failure.data)
            found, headers = event["data"], json.loads(event["pipebusheaders"])
        else:
            assert json.loads(answer.data) == 8
            assert "ce-pipebusheaders" not in answer.headers
            found, headers = json.loads(failure.data), json.loads(unquote(failure.headers["ce-pipebusheaders"]))
        assert (found["type"], headers) == ("TypeError", {"pipebus-error": "1"})

    @pytest.mark.parametrize("mode", ["structured", "binary"])
    def test_we_ask_and_they_answer(self, server: NatsServer, mode: str) -> None:
        """A foreign program answers with the client's `respond`, as it would answer anybody."""
        bus = Bus(f"{server.url}?core=yes&prefix=asking&events={mode}")

        async def respond(message: Any) -> None:
            asked = json.loads(message.data)
            number = asked["data"] if mode == "structured" else asked
            await message.respond(b'{"doubled": %d}' % (2 * number))

        async def answer(client: Any) -> Message:
            await client.subscribe("asking.double", cb=respond)
            await listening(client)
            return await bus.arequest("double", 4, timeout=5)

        with bus:
            assert with_client(server, answer).body == {"doubled": 8}

    def test_an_address_that_is_too_long_is_refused_here(self, server: NatsServer) -> None:
        """The address and the subject are one line to the server, which would close the connection if it were too long."""
        bus = Bus(f"{server.url}?core=yes&prefix=long")
        seen = Seen()
        bus.subscribe("a", seen)
        with bus:
            warned: list[str] = []
            engine_of(bus).transport.warn = lambda event, **facts: warned.append(event)  # type: ignore[method-assign]
            with pytest.raises(MessageTooLarge, match="longer"):
                bus.publish("\U0001f600" * 500, reply_to="\U0001f600" * 700)
            bus.publish("a", "next")
            until(NatsStage(server), lambda: seen.bodies == ["next"], "it has come")
        assert warned == []


def double(message: Message) -> int:
    return 2 * message.body[0]  # type: ignore[no-any-return]

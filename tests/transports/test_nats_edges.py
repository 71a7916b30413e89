"""The NATS transport at its edges: sizes, permissions, secrets, lost connections, and what piles up."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from pipebus.bus.bus import engine_of

pytest.importorskip("nats")

from nats_server import NatsServer, NatsStage, Proxy, _cut, with_client

from pipebus import Bus, Message, events
from pipebus.cli import main
from pipebus.delivery.delivery import Delivery
from pipebus.errors import DeadLetterError, MessageTooLarge, TransportError, UnsupportedCapability
from pipebus.filters import Redeliver
from pipebus.testing.contract.tools import Seen, figures, never, running, until
from pipebus.transports.nats import asking, health, link
from pipebus.transports.nats.letters import StoredLetters
from pipebus.transports.nats.puller import Puller
from pipebus.transports.nats.served import Served

pytestmark = pytest.mark.thorough  # on a real server

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def stage(shared: NatsServer) -> Iterator[NatsStage]:
    stage = NatsStage(shared, patience=20.0)
    yield stage
    stage.wipe()


@pytest.fixture
def proxy(shared: NatsServer) -> Iterator[Proxy]:
    with Proxy(shared.port) as proxy:
        yield proxy


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[NatsStage]:
    """A stage on its own server, which a test can stop."""
    with NatsServer(tmp_path / "server") as server:
        stage = NatsStage(server, patience=20.0)
        yield stage
        for bus in stage.buses:
            bus.stop(timeout=1.0, drain=False)


def theirs(stage: NatsStage, work: Callable[[Any, str], Any]) -> Any:
    """Run a program that knows nats-py only: a function of a client and the prefix of subjects."""
    return with_client(stage.server, lambda client: work(client, stage.stream.lower()))


def through(stage: NatsStage, proxy: Proxy) -> Bus:
    """A bus, not started, behind a proxy."""
    bus = Bus(str(stage.url).replace(f":{stage.server.port}", f":{proxy.port}"))
    stage.buses.append(bus)
    return bus


def puller(bus: Bus, name: str = "s") -> Puller:
    found: Puller = engine_of(bus).transport.served.bound[name]
    return found


def consumer(stage: NatsStage, name: str = "s") -> Any:
    async def look(client: Any, prefix: str) -> Any:
        return await client.jetstream().consumer_info(stage.stream, name)

    return theirs(stage, look)


def notes(stage: NatsStage) -> list[str]:
    """Subjects of the notes about attempts that the server keeps."""

    async def look(client: Any, prefix: str) -> Any:
        return (await client.jetstream().stream_info(f"{stage.stream}-DEAD", subjects_filter=f"{prefix}-note.>")).state.subjects

    return [*(theirs(stage, look) or {})]


def publish_many(bus: Bus, subject: str, bodies: range) -> None:
    async def work() -> None:
        await asyncio.gather(*(bus.apublish(subject, number) for number in bodies))

    asyncio.run(work())


def fail(message: Message) -> None:
    raise ValueError("no")


def connected_anew(stage: NatsStage, bus: Bus, before: Any) -> None:
    until(stage, lambda: engine_of(bus).transport.link.client not in (None, before), "it is connected again")


class TestSizes:
    """A message may be as large as the server accepts, and still has a dead letter."""

    @pytest.mark.parametrize("kind", ["data", "headers"])
    def test_a_foreign_message_without_room_for_a_letter_is_kept_cut(self, stage: NatsStage, kind: str) -> None:
        """The connection stays, other publishes work, and a letter that was cut is not replayed."""
        bus, warned = stage.open(), list[str]()
        bus.subscribe("big", fail, name="big", attempts=1)

        async def publish(client: Any, prefix: str) -> None:
            if kind == "data":
                await client.jetstream().publish(f"{prefix}.big", b"x" * (client.max_payload - 100))
            else:
                await client.jetstream().publish(f"{prefix}.big", b"x", headers={"x-long": "a" * (65536 - 60)})

        with running(stage, bus):
            engine_of(bus).transport.warn = lambda event, **facts: warned.append(event)
            client = engine_of(bus).transport.link.client
            theirs(stage, publish)
            until(stage, bus.dead_letters.list, "it is dead")
            assert bus.publish("other", 1) is not None
            assert engine_of(bus).transport.link.client is client
            (letter,) = bus.dead_letters.list()
            assert letter.error == "ValueError: no"
            assert {*letter.message.body} == {ord("x")}
            with pytest.raises(DeadLetterError, match="no room for all"):
                bus.dead_letters.replay(letter.id)
            assert bus.dead_letters.list() == [letter]
            assert figures(bus, "big")["in_flight"] == 0
            assert warned == []

    def test_a_long_error_of_another_alphabet_leaves_the_message_whole(self, stage: NatsStage) -> None:
        """A message may have the largest permitted size: the error in its letter is cut, and the letter can be replayed."""
        broken, seen = [True], Seen()

        def handle(message: Message) -> None:
            if broken:
                raise ValueError("错误" * 3000)
            seen.note(message)

        bus = stage.open()
        bus.subscribe("a", handle, name="s", attempts=1)
        with running(stage, bus):
            body = "y" * (engine_of(bus).transport.capabilities.max_size - 1500)
            bus.publish("a", body)
            until(stage, bus.dead_letters.list, "it is dead")
            (letter,) = bus.dead_letters.list()
            assert letter.error.startswith("ValueError: 错误")
            broken.clear()
            bus.dead_letters.replay(letter.id)
            until(stage, lambda: seen.bodies == [body], "it has come whole")


class TestServersAndUsers:
    """The server and its users decide what a bus may do."""

    def test_who_may_do_what_the_doctor_asks_for_can_do_everything(self, tmp_path: Path) -> None:
        """
        A user with the rights that the doctor checks can request, keep dead letters, use deliver="last" and remove a
        subscription.
        """
        needed = health.needed(engine_of(Bus("nats://ann:p@localhost")).transport)
        rules = ", ".join(f"{verb}: {{ allow: {json.dumps(subjects)} }}" for verb, subjects in needed.items())
        config = f"authorization {{ users: [{{ user: ann, password: p, permissions: {{ {rules} }} }}] }}"
        warned, seen, broken = list[Any](), Seen(), [True]

        def handle(message: Message) -> None:
            if broken:
                raise ValueError("no")
            seen.note(message)

        with NatsServer(tmp_path, config) as server:
            stage = NatsStage(server)
            bus = Bus(f"nats://ann:p@{server.place}")
            engine_of(bus).transport.warn = lambda event, **facts: warned.append((event, facts))
            bus.subscribe("double", lambda message: 2 * message.body, name="double")
            bus.subscribe("bad", handle, name="bad", attempts=1)
            with bus:
                assert bus.request("double", 2, timeout=5).body == 4
                for number in (1, 2):
                    bus.publish("bad", number)
                until(stage, lambda: len(bus.dead_letters.list()) == 2, "they are dead")
                broken.clear()
                first, second = bus.dead_letters.list()
                bus.dead_letters.replay(first.id)
                bus.dead_letters.discard(second.id)
                until(stage, lambda: seen.bodies == [1], "it has come again")
                last = bus.subscribe("bad", name="last", deliver="last")
                assert last.receive(timeout=5).body == 2
                last.unsubscribe()
                until(stage, lambda: "last" not in engine_of(bus).transport.served.bound, "it has ended")
                engine_of(bus).transport.remove("last")
                assert bus.dead_letters.list() == []
                assert warned == []

    def test_the_next_host_is_asked_where_one_has_no_jetstream(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The bus tries the next host when a server has no JetStream."""
        monkeypatch.setattr(link._random, "shuffle", lambda hosts: None)  # the one without comes first
        with NatsServer(tmp_path / "without", jetstream=False) as without, NatsServer(tmp_path / "with") as server:
            bus = Bus(f"nats://{without.place},{server.place}")
            with bus:
                assert bus.publish("a", 1) is not None
                assert engine_of(bus).transport.link.client.connected_url.port == server.port

    @pytest.mark.parametrize(
        ("config", "text"),
        [({"retention": "interest"}, "nobody is subscribed"), ({"no_ack": True}, "no_ack")],
        ids=["interest", "no_ack"],
    )
    def test_a_stream_that_keeps_or_confirms_less_is_refused(self, stage: NatsStage, config: dict[str, Any], text: str) -> None:
        """The bus does not start, and the error says why."""

        async def make(client: Any, prefix: str) -> None:
            await client.jetstream().add_stream(name=stage.stream, subjects=[f"{prefix}.>"], duplicate_window=120, **config)

        theirs(stage, make)
        with pytest.raises(TransportError, match=text):
            stage.open().start()

    def test_a_streams_own_limit_of_sizes_is_the_buss(self, stage: NatsStage) -> None:
        """The bus refuses what the stream would refuse."""

        async def make(client: Any, prefix: str) -> None:
            config = {"subjects": [f"{prefix}.>"], "duplicate_window": 120, "max_msg_size": 50_000}
            await client.jetstream().add_stream(name=stage.stream, **config)

        theirs(stage, make)
        bus = stage.open()
        with running(stage, bus):
            assert engine_of(bus).transport.capabilities.max_size < 50_000
            with pytest.raises(MessageTooLarge):
                bus.publish("a", "x" * 50_000)
            assert bus.publish("a", "x" * 20_000) is not None


class TestPrefixes:
    """Two programs can use one server with two prefixes."""

    def test_a_prefix_alone_has_a_stream_of_its_own(self, shared: NatsServer, stage: NatsStage) -> None:
        """Subscriptions of the same name get only their own messages, and letters are kept for both."""
        buses, seen = [], []
        for prefix in (f"{stage.stream.lower()}-shop", f"{stage.stream.lower()}-bank"):
            bus, one = Bus(f"{shared.url}?prefix={prefix}"), Seen()
            bus.subscribe("x", one, name="work")
            bus.subscribe("bad", fail, name="bad", attempts=1)
            buses.append(bus)
            seen.append(one)
        with buses[0], buses[1]:
            for round in range(3):
                for number, bus in enumerate(buses):
                    bus.publish("x", (number, round))
            for number, bus in enumerate(buses):
                bus.publish("bad", number)
                bus.drain(timeout=10)
                assert [letter.message.body for letter in bus.dead_letters.list()] == [number]
        assert [one.bodies for one in seen] == [[[number, round] for round in range(3)] for number in range(2)]

    def test_two_prefixes_in_one_stream_keep_letters_and_consumers_apart(self, shared: NatsServer, stage: NatsStage) -> None:
        """A name that the other program uses is refused, and the messages of the other program stay its own."""
        shop, bank = (Bus(f"{shared.url}?stream={stage.stream}&prefix={stage.stream.lower()}{n}") for n in ("shop", "bank"))
        seen = Seen()
        shop.subscribe("x", seen, name="work")
        bank.subscribe("bad", fail, name="bad", attempts=1)
        with shop, bank:
            bank.publish("bad", 1)
            until(stage, lambda: [one.message.body for one in bank.dead_letters.list()] == [1], "its letter is kept")
            with pytest.raises(TransportError, match="another prefix"):
                bank.subscribe("x", Seen(), name="work")
            bank.publish("x", "theirs")
            shop.publish("x", "ours")
            shop.drain(timeout=10)
            assert seen.bodies == ["ours"]


class TestSecrets:
    """No error shows a password."""

    @pytest.mark.parametrize(
        "url",
        [
            "nats://ann:s3cret/w0rd@localhost", "nats://ann:s3cret?w0rd@localhost", "nats://ann:s3cret#w0rd@localhost",
            "nats://ann:12/w0rd@localhost", "nats://s3cret/w0rd@localhost", "nats://ann:s3cret?w0rd=w0rd@localhost",
            "nats://ann:s3cret@localhost:x", "nats://localhost?password=s3cret", "nats://ann:s3cret@localhost?token=w0rd",
        ],
    )  # fmt: skip
    def test_what_is_wrong_with_a_url_has_no_secret(self, url: str) -> None:
        """This also holds where a character is not escaped, and in an option that does not exist."""
        with pytest.raises(UnsupportedCapability) as told:
            Bus(url)
        assert not any(secret in str(told.value) for secret in ("s3cret", "w0rd"))

    @pytest.mark.parametrize(
        "command",
        [
            ["tail", "URL", "--all"],
            ["run", "URL"],
            ["dead", "show", "URL", "d0"],
            ["dead", "replay", "URL", "--all", "--on", "memory:"],
        ],
        ids=lambda command: " ".join(command[:2]),
    )
    def test_commands_show_none(self, shared: NatsServer, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
        """A command that refuses something shows the server's address, but not the password."""
        with Bus(shared.url):
            pass
        url = f"nats://ann:s3cret@{shared.place}"
        try:
            assert main([url if one == "URL" else one for one in command])
        finally:
            structlog.reset_defaults()  # the command configures it for its process
        out, err = capsys.readouterr()
        assert shared.place in err
        assert "s3cret" not in out + err


class TestReconnects:
    """A lost connection takes some messages along, and a new one gives them back."""

    def test_two_that_began_behind_a_crash_hand_in_nothing_twice(self, alone: NatsStage) -> None:
        """Each knows of the other; so after a restart of the server the first one back leaves alone what the other has."""
        seen, gate = Seen(), threading.Event()

        def handle(message: Message) -> None:
            seen.note(message)
            if message.body:
                gate.wait(60.0)

        killed = alone.open()
        killed.subscribe("a", lambda message: gate.wait(60.0), name="s")
        killed.start()
        with Bus(alone.url) as publisher:
            publisher.publish("a", 0)
            until(alone, lambda: puller(killed).out, "it is there")
            engine_of(killed).transport.link.loop.call_soon_threadsafe(_cut, engine_of(killed).transport.link)
            engine_of(killed).transport.link.thread.join(10.0)
            buses = [alone.open(name) for name in ("one", "two")]
            for bus in buses:
                bus.subscribe("a", handle, name="s", mailbox=4)
                bus.start()
            alone.lose_leases()
            until(alone, lambda: seen.bodies == [0], "what was lost has come")
            publish_many(publisher, "a", range(1, 60))
            until(alone, lambda: all(puller(bus).out and not puller(bus).requests.credit for bus in buses), "both are full")
            before = [engine_of(bus).transport.link.client for bus in buses]
            slow, found = engine_of(buses[0]).transport.link, engine_of(buses[0]).transport.link._found

            async def later(client: Any) -> None:
                await asyncio.sleep(0.5)
                await found(client)

            slow._found = later
            alone.server.stop()
            alone.server.start()
            for bus, client in zip(buses, before, strict=True):
                connected_anew(alone, bus, client)
            gate.set()
            for bus in buses:
                bus.drain(timeout=20)
        assert sorted(seen.bodies) == list(range(60))

    def test_a_start_is_not_held_up_by_what_waits_for_a_retry(self, stage: NatsStage, proxy: Proxy) -> None:
        """Some hundred such messages over a slow network do not delay a start."""
        retry = Redeliver(wait="5m", max_wait="5m")
        bus = stage.open()
        bus.subscribe("a", fail, name="s", attempts=10, workers=8, filters=[retry])
        with running(stage, bus, drain=False):
            publish_many(bus, "a", range(400))
            until(stage, lambda: len(puller(bus).returned) == 400 and not puller(bus).out, "they are given back")
        proxy.latency = 0.02
        seen, bus = Seen(), through(stage, proxy)
        bus.subscribe("a", seen, name="s", attempts=10, filters=[retry])
        with running(stage, bus, drain=False):
            proxy.latency = 0.0
            bus.publish("a", "new")
            until(stage, lambda: seen.bodies == ["new"], "what is new is handled")

    def test_renewals_do_not_pile_up_without_a_server(self, alone: NatsStage) -> None:
        """A bus that has lost its server queues only a few renewals, and gets its messages when the server is back."""
        bus = alone.open_with_lease(0.5)
        subscription = bus.subscribe("a", name="s")
        iter(subscription)  # somebody begins to read
        bus.start()
        publish_many(bus, "a", range(40))
        until(alone, lambda: len(puller(bus).out) >= 32, "they are there")
        alone.server.stop()
        until(alone, lambda: engine_of(bus).transport.link.client is None, "it is noticed")
        before = len(engine_of(bus).transport.link._line)
        ended = threading.Event()
        engine_of(bus).transport.link.post(
            lambda: engine_of(bus).transport.link.loop.call_later(1.0, ended.set)
        )  # six times a third of a lease
        assert ended.wait(10.0)
        assert len(engine_of(bus).transport.link._line) <= before + 10
        alone.server.start()
        assert subscription.receive(timeout=20) is not None

    def test_only_what_was_on_its_way_is_given_back(self, stage: NatsStage, proxy: Proxy) -> None:
        """Later messages are not given back, and a retry from before the restart keeps its delay."""
        retry = Redeliver(wait="2m", max_wait="2m", jitter=0.0)
        seen, later = Seen(), Seen()

        def handle(message: Message) -> None:
            if message.body == "later":
                later.note(message)
                raise ValueError("no")
            seen.note(message)

        bus = stage.open()
        bus.subscribe("a", handle, name="s", attempts=9, filters=[retry])
        with running(stage, bus, drain=False):
            bus.publish("a", "later")
            until(stage, lambda: later.messages and not puller(bus).out, "it is given back")
        bus, publisher = through(stage, proxy), Bus(stage.url)
        bus.subscribe("a", handle, name="s", attempts=9, filters=[retry])
        with publisher, running(stage, bus, drain=False):
            publish_many(publisher, "a", range(300))
            until(stage, lambda: len(seen.messages) == 300 and not puller(bus).out, "they are handled")
            lost_on_the_way(stage, proxy, bus, publisher, range(300, 303), asked := [])
            until(stage, lambda: len({*seen.bodies}) == 303, "what was on its way has come")
            never(lambda: len(later.messages) > 1, "the retry has come early")
        assert len(asked) <= 10

    def test_what_was_on_its_way_has_not_been_taken(self, stage: NatsStage, proxy: Proxy) -> None:
        """A message that was lost on its way is handled even when only one attempt is allowed."""
        seen, bus, publisher = Seen(), through(stage, proxy), Bus(stage.url)
        bus.subscribe("a", seen, name="s", attempts=1)
        with publisher, running(stage, bus):
            lost_on_the_way(stage, proxy, bus, publisher, range(3), [])
            until(stage, lambda: len(seen.messages) == 3, "all have come")
            assert bus.dead_letters.list() == []
        assert sorted(seen.bodies) == [0, 1, 2]

    def test_a_note_that_cannot_be_read_is_read_again(self, stage: NatsStage, monkeypatch: pytest.MonkeyPatch) -> None:
        """The note says that nobody has begun the message; without it, the delivery would count as a second attempt."""
        bus, seen, refused = stage.open(), Seen(), list[str]()
        iter(bus.subscribe("a", name="s", attempts=1))  # somebody begins to read
        with running(stage, bus, drain=False):
            bus.publish("a", 1)
            until(stage, lambda: puller(bus).out, "it is there")
        real = link.Link.ask

        async def ask(self: Any, subject: str, *more: Any, **options: Any) -> Any:
            if "DIRECT.GET" in subject and "-note." in subject and len(refused) < 2:
                refused.append(subject)
                raise asking._Refused("nobody leads the stream")
            return await real(self, subject, *more, **options)

        monkeypatch.setattr(link.Link, "ask", ask)
        bus = stage.open()
        bus.subscribe("a", seen, name="s", attempts=1)
        with running(stage, bus):
            until(stage, lambda: seen.bodies == [1], "it is handled")
            assert bus.dead_letters.list() == []
        assert len(refused) == 2

    def test_nothing_is_asked_for_an_inbox_of_a_lost_connection(
        self, alone: NatsStage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The server would send what it holds for it behind other messages."""
        seen, bus, back = Seen(held=True), alone.open(), asyncio.Event()
        bus.subscribe("a", seen, name="s")
        with running(alone, bus, seen):
            publish_many(bus, "a", range(12))
            until(alone, lambda: seen.messages and not puller(bus).requests.credit, "it is full")
            connection, before = engine_of(bus).transport.link, engine_of(bus).transport.link.client
            real = connection._connect

            async def connect(*arguments: Any) -> None:
                await back.wait()
                await real(*arguments)

            monkeypatch.setattr(connection, "_connect", connect)
            alone.server.stop()
            alone.server.start()
            until(alone, lambda: connection.client is None, "it is noticed")
            seen.go.set()  # so that it would ask for more
            until(alone, lambda: not puller(bus).out, "what is here is handled")
            inbox = puller(bus).requests.inbox
            connection.post(back.set)
            connected_anew(alone, bus, before)
            assert inbox != puller(bus).requests.inbox
            frames = [one() if callable(one) else one for one in [*connection._line]]
            assert not [one for one in frames if one is not None and one[2].startswith(inbox)]
            until(alone, lambda: len(seen.messages) == 12, "all are handled")
        assert seen.bodies == list(range(12))


def lost_on_the_way(stage: NatsStage, proxy: Proxy, bus: Bus, publisher: Bus, bodies: range, given_back: list[str]) -> None:
    """Publish; what the server has then handed out is lost with the connection. Counts what is said to be given back."""
    until(stage, lambda: consumer(stage).num_waiting, "it has asked")
    connection = engine_of(bus).transport.link
    before, count, say = connection.client, consumer(stage).delivered.consumer_seq, connection.say

    def counted(frame: Any) -> None:
        if isinstance(frame, tuple) and frame[1] == b"-NAK":
            given_back.append(frame[0])
        say(frame)

    connection.say = counted
    proxy.latency = 3.0
    for number in bodies:
        publisher.publish("a", number)
    until(stage, lambda: consumer(stage).delivered.consumer_seq > count, "they are on their way")
    proxy.reset()
    proxy.latency = 0.0
    connected_anew(stage, bus, before)


class TestWhatIsLeft:
    """Neither memory nor notes outlive what they are about, and nothing is counted that was never begun."""

    def test_subscriptions_that_come_and_go_leave_nothing(self, stage: NatsStage) -> None:
        """Neither a named nor an unnamed subscription leaves anything behind."""
        bus, seen = stage.open(), Seen()
        with running(stage, bus):
            for number in range(20):
                name = f"s{number % 2}"
                unnamed, named = bus.subscribe("a", seen), bus.subscribe(name, seen, name=name)
                bus.publish(name, number)
                until(stage, lambda number=number: number in seen.bodies, "it is handled")  # type: ignore[misc]
                unnamed.unsubscribe()
                named.unsubscribe()
            until(stage, lambda: not engine_of(bus).transport.served.bound, "nothing is left")
            assert (engine_of(bus).transport.figures("s0") or {}).get("acknowledged") == 10  # but their figures

    def test_what_is_removed_counts_for_no_receipt(self, stage: NatsStage) -> None:
        """A removed subscription does not count from the next publish on."""
        bus = stage.open()
        with running(stage, bus):
            subscription = bus.subscribe("a", Seen(), name="s")
            assert bus.publish("a", 1).mailboxes == 1
            bus.drain(timeout=10)
            subscription.unsubscribe()
            engine_of(bus).transport.remove("s")
            assert bus.publish("a", 2).mailboxes == 0

    def test_a_removed_subscription_does_not_spoil_a_stop(self, stage: NatsStage) -> None:
        """Its acknowledgements are never confirmed, and the other subscriptions are settled all the same."""
        bus, warned = stage.open(), list[str]()
        bus.subscribe("b", Seen(), name="other")
        with running(stage, bus):
            engine_of(bus).transport.warn = lambda event, **facts: warned.append(str(facts.get("error")))
            subscription = bus.subscribe("a", name="s")
            for subject in ("a", "b"):
                bus.publish(subject, 1)
            assert subscription.receive(timeout=10).body == 1
            subscription.unsubscribe()
            engine_of(bus).transport.remove("s")
        assert not [text for text in warned if "nobody answers" in text]

    def test_a_stop_is_told_of_no_trouble_where_there_is_none(self, stage: NatsStage) -> None:
        """A stop with many subscriptions logs no warning, and the figures of all of them are available afterwards."""
        bus, warned, names = stage.open(), list[str](), [f"s{number}" for number in range(12)]
        for name in names:
            bus.subscribe(name, Seen(), name=name)
        with running(stage, bus):
            engine_of(bus).transport.warn = lambda event, **facts: warned.append(event)
            for name in names:
                bus.publish(name, 1)
            bus.drain(timeout=10)
        assert warned == []
        assert [figures(bus, name)["acknowledged"] for name in names] == [1] * 12

    def test_two_confirmations_at_once_forget_nothing(self, stage: NatsStage, monkeypatch: pytest.MonkeyPatch) -> None:
        """An acknowledgement that neither confirmation covers stays unconfirmed, so a lost connection cannot lose it."""

        async def nothing(self: Any) -> None:
            return None

        monkeypatch.setattr(Served, "_confirm", nothing)
        bus, gate, asked = stage.open(), asyncio.Event(), list[str]()
        bus.subscribe("a", Seen(), name="s")
        with running(stage, bus):
            connection, one = engine_of(bus).transport.link, puller(bus)
            real = connection.ask

            async def ask(subject: str, data: bytes = b"", *more: Any) -> Any:
                if data == b"+WPI":
                    asked.append(subject)
                    await gate.wait()
                return await real(subject, data, *more)

            monkeypatch.setattr(connection, "ask", ask)
            publish_many(bus, "a", range(10))
            until(stage, lambda: len(one.verdicts.unconfirmed) == 10, "ten are told")
            for number in range(2):
                connection.post(lambda: connection.start(one.verdicts.confirm()))
                until(stage, lambda number=number: len(asked) == number + 1, "it asks")  # type: ignore[misc]
            publish_many(bus, "a", range(10, 15))
            until(stage, lambda: len(one.verdicts.unconfirmed) == 15, "five more are told")
            connection.post(gate.set)
            until(stage, lambda: len(one.verdicts.unconfirmed) < 15, "ten are confirmed")
            never(lambda: len(one.verdicts.unconfirmed) != 5, "what nobody has asked about is forgotten")

    def test_what_waits_in_a_paused_subscription_is_not_begun(self, stage: NatsStage) -> None:
        """Such messages count as not begun, however often the program is killed."""
        seen = Seen()
        with Bus(stage.url) as publisher:
            for life in range(2):
                bus = stage.open()
                bus.subscribe("a", seen, name="s", attempts=2).pause()
                bus.start()
                if not life:
                    publisher.publish("a", 1)
                until(stage, lambda bus=bus: puller(bus).out, "it is there")  # type: ignore[misc]
                never(lambda bus=bus: notes(stage), "it is noted as begun")  # type: ignore[misc]
                stage.crash()
            bus = stage.open()
            bus.subscribe("a", seen, name="s", attempts=2)
            with running(stage, bus):
                until(stage, lambda: seen.bodies == [1], "it is handled")
                assert bus.dead_letters.list() == []

    def test_notes_go_with_their_consumer(self, stage: NatsStage) -> None:
        """
        A stream that is made again counts from 1, so the old note that message 1 was delivered twice must not apply to the new
        one.
        """

        def again(message: Message, delivery: Delivery) -> None:
            delivery.retry(0.0 if delivery.attempt == 1 else 60.0)

        bus = stage.open()
        bus.subscribe("a", again, name="s", attempts=3)
        with running(stage, bus, drain=False):
            bus.publish("a", "old")
            until(stage, lambda: puller(bus).returned and consumer(stage).delivered.consumer_seq == 2, "it was taken twice")

        async def delete(client: Any, prefix: str) -> None:
            await client.jetstream().delete_stream(stage.stream)

        assert len(notes(stage)) == 1
        theirs(stage, delete)
        held = Seen(held=True)
        bus = stage.open()
        bus.subscribe("a", held, name="s", attempts=3)
        bus.start()
        assert notes(stage) == []
        bus.publish("a", "new")
        until(stage, lambda: held.messages, "it has begun")
        stage.crash()
        held.go.set()
        bus, seen = stage.open(), Seen()
        bus.subscribe("a", seen, name="s", attempts=3)
        with running(stage, bus):
            until(stage, lambda: seen.bodies == ["new"], "it is handled")
            assert bus.dead_letters.list() == []
        assert seen.attempts == [2]

    @pytest.mark.parametrize("name", ["s", None], ids=["durable", "plain"])
    def test_who_hears_of_a_death_may_publish(self, stage: NatsStage, name: str | None) -> None:
        """A handler of `Died` may also publish when the bytes cannot be decoded, and wait for the server meanwhile."""
        bus, alerts = stage.open(), Seen()
        bus.subscribe("a", Seen(), name=name) if name else bus.subscribe("a", Seen())
        bus.subscribe("alerts", alerts, name="alerts")

        def alert(event: Any) -> None:
            if isinstance(event, events.Died):
                bus.publish("alerts", event.error)

        bus.observe(alert)
        with running(stage, bus):
            stage.inject(b"no json", "a")
            until(stage, lambda: alerts.messages, "the alert has come")
        assert alerts.bodies[0].startswith("CodecError")

    def test_letters_over_the_cap_are_bounded_and_counted_seldom(
        self, stage: NatsStage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each count reads all subjects of the letters, so it happens seldom."""
        counted, real = list[str](), StoredLetters._count

        async def count(self: Any, link: Any, which: str) -> int:
            counted.append(which)
            return await real(self, link, which)

        monkeypatch.setattr(StoredLetters, "_count", count)
        bus = stage.open(dead_letters=300)
        bus.subscribe("a", fail, name="s", attempts=1)
        with running(stage, bus):
            publish_many(bus, "a", range(600))
            until(stage, lambda: not engine_of(bus).transport.pending("s"), "all are dead")
            until(stage, lambda: not engine_of(bus).transport.letters._bounding, "they are counted")
            assert len(counted) < 250
            (found,) = {len(bus.dead_letters), len(bus.dead_letters.list())}
            assert 290 <= found <= 305
            assert figures(bus, "s")["dropped"] == {"evicted": 600 - found}


SHOP = """
from pipebus import Bus, Message

bus = Bus({url!r})


@bus.on("orders.*", name="billing", deliver="all")
def bill(message: Message) -> None:
    open("billed", "w").close()
"""


def test_tail_of_a_bus_handles_nothing(stage: NatsStage, tmp_path: Path) -> None:
    """`tail` shows messages as they pass, and leaves the bus's subscriptions to the program that runs it."""
    (tmp_path / "shop.py").write_text(SHOP.format(url=stage.url))
    command = [sys.executable, "-m", "pipebus", "tail", "shop:bus", "--count", "1"]
    bus, pipe = stage.open(), subprocess.PIPE
    bus.subscribe("orders.*", name="billing")  # it is there, and reads nothing more than it has
    with running(stage, bus):
        pass
    bus = stage.open()
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with running(stage, bus), subprocess.Popen(command, cwd=tmp_path, env=env, stdout=pipe, stderr=pipe, text=True) as tail:
        while tail.poll() is None:  # nobody can see from outside when a listener has begun
            bus.publish("orders.new", 1)
        out, err = tail.communicate()
    assert (tail.returncode, err) == (0, "")
    assert json.loads(out)["body"] == 1
    assert not (tmp_path / "billed").exists()
    assert consumer(stage, "billing").delivered.consumer_seq == 0

"""The NATS transport while its server goes, stands still, comes back, or lets nobody in."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from missing import missing
from pipebus.bus.bus import engine_of

pytest.importorskip("nats")

from nats_server import NatsServer, NatsStage, Proxy

from pipebus import Bus, Message
from pipebus.errors import PublishUnknown, TransportError
from pipebus.testing.contract.tools import Seen, figures, until
from pipebus.testing.history import History
from pipebus.transports.nats import link

pytestmark = pytest.mark.thorough  # servers and connections are broken


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A server for each test, which the test stops and starts."""
    with NatsServer(tmp_path / "server") as server:
        yield server


@pytest.fixture
def stage(server: NatsServer) -> Iterator[NatsStage]:
    stage = NatsStage(server, patience=20.0)
    yield stage
    for bus in stage.buses:
        bus.stop(timeout=1.0, drain=False)


def publish_all(bus: Bus, history: History, who: str, count: int, progress: threading.Semaphore) -> None:
    """Publish until each is accepted: what nobody knows is published again under its id."""
    for number in range(count):
        id = f"{who}-{number}"
        history.record_attempt(id, "a", publisher=who)
        deadline = time.monotonic() + 60
        while True:
            try:
                bus.publish("a", number, id=id)
                break
            except (PublishUnknown, TransportError):
                assert time.monotonic() < deadline
        history.record_accepted(id)
        progress.release()


class TestOutages:
    """A bus survives servers that end and come back."""

    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
    def test_a_restart_in_the_middle_loses_nothing(self, server: NatsServer, stage: NatsStage, how: signal.Signals) -> None:
        """Ten publishers and a subscription with two workers continue without help, and each message is handled."""
        self._restarts(server, stage, how, publishers=10, each=60, restarts=1)

    @pytest.mark.thorough
    def test_many_restarts_lose_nothing(self, server: NatsServer, stage: NatsStage) -> None:
        """Forty publishers send two thousand messages through four restarts."""
        self._restarts(server, stage, signal.SIGKILL, publishers=40, each=50, restarts=4)

    def _restarts(
        self, server: NatsServer, stage: NatsStage, how: signal.Signals, publishers: int, each: int, restarts: int
    ) -> None:
        history, seen = History(), Counter[str]()
        lock, progress = threading.Lock(), threading.Semaphore(0)
        history.record_subscription("s", "a", attempts=100)

        def handle(message: Message) -> None:
            with lock:
                seen[message.id] += 1

        bus = stage.open_with_lease(5.0)
        history.watch(bus, "bus")
        bus.subscribe("a", handle, name="s", workers=2, attempts=100)
        bus.start()
        threads = [
            threading.Thread(target=publish_all, args=(bus, history, f"p{number}", each, progress), daemon=True)
            for number in range(publishers)
        ]
        for thread in threads:
            thread.start()
        total = publishers * each
        for number in range(restarts):
            for _ in range(total // (restarts + 1)):
                assert progress.acquire(timeout=60), f"no progress after {number} restarts"
            server.stop(how)
            server.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads)
        until(stage, lambda: len(seen) == total, "all have come")
        bus.stop(timeout=20)
        judgement = history.judge()
        # What was acknowledged when the server ended may come again.
        assert [one for one in judgement.violations if one.kind in ("lost", "unexpected")] == []

    def test_what_was_published_outlives_the_server(self, server: NatsServer, stage: NatsStage) -> None:
        """A receipt means that the message is there after a kill."""
        seen = Seen()
        with stage.open_with_lease(1.0) as bus:  # the server forgets what was given back, but not the lease
            bus.subscribe("a", name="s")
            for number in range(50):
                assert bus.publish("a", number)
        server.stop(signal.SIGKILL)
        server.start()
        bus = stage.open_with_lease(1.0)
        bus.subscribe("a", seen, name="s")
        with bus:
            until(stage, lambda: len(seen.messages) >= 50, "all have come")
        assert sorted(seen.bodies) == list(range(50))

    def test_publishing_without_a_server_is_a_typed_error(self, server: NatsServer) -> None:
        """
        An unsent message raises TransportError within the URL's timeout, and publishing works again when the server is back.
        """
        bus = Bus(f"{server.url}?publish_timeout=1s")
        with bus:
            server.stop()
            until(_patient, lambda: engine_of(bus).transport.link.client is None, "it is noticed")
            begun = time.monotonic()
            with pytest.raises(TransportError, match=r"was not sent"):
                bus.publish("a", 1)
            assert time.monotonic() - begun < 5
            assert bus.stats()["state"] == "started"  # reading the figures raises no error
            server.start()
            until(_patient, lambda: engine_of(bus).transport.link.client is not None, "it is back")
            assert bus.publish("a", 2) is not None

    def test_a_server_that_stands_still_is_unknown(self, server: NatsServer) -> None:
        """A message that gets no answer raises PublishUnknown with its id. Published again under that id, it is one message."""
        bus = Bus(f"{server.url}?publish_timeout=2s")
        seen = Seen()
        bus.subscribe("a", seen, name="s")
        with bus:
            server.send(signal.SIGSTOP)
            try:
                with pytest.raises(PublishUnknown) as told:
                    bus.publish("a", 1, id="m")
            finally:
                server.send(signal.SIGCONT)
            assert told.value.id == "m"
            bus.publish("a", 1, id="m")
            bus.publish("a", 2)
            bus.drain(timeout=10)
            assert figures(bus, "s")["acknowledged"] == 2
        assert seen.bodies == [1, 2]

    @pytest.mark.thorough
    def test_a_server_that_says_nothing_any_more_is_noticed(self, server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """A connection without bytes and without an end counts as lost after two unanswered pings, and another one is made."""
        monkeypatch.setattr(link, "PING", 1)
        bus = Bus(server.url)
        patient: Any = NatsStage.__new__(NatsStage)
        patient.patience = 40.0
        with bus:
            client = engine_of(bus).transport.link.client
            server.send(signal.SIGSTOP)
            try:
                until(patient, lambda: engine_of(bus).transport.link.client is not client, "it is noticed")
            finally:
                server.send(signal.SIGCONT)
            until(patient, lambda: engine_of(bus).transport.link.client is not None, "there is another one")
            assert bus.publish("a", 1) is not None

    def test_a_stop_without_a_server_ends(self, server: NatsServer, stage: NatsStage) -> None:
        """Messages in hand come again in the next run."""
        seen, go = Seen(), threading.Event()

        def handle(message: Message) -> None:
            seen.note(message)
            go.wait(30)

        bus = stage.open_with_lease(1.0)
        bus.subscribe("a", handle, name="s")
        bus.start()
        bus.publish("a", 1)
        until(stage, lambda: seen.messages, "it has begun")
        server.stop(signal.SIGKILL)
        go.set()
        begun = time.monotonic()
        bus.stop(timeout=1.0)
        assert time.monotonic() - begun < 20
        server.start()
        bus = stage.open_with_lease(1.0)
        bus.subscribe("a", seen, name="s")
        with bus:
            until(stage, lambda: len(seen.messages) == 2, "it has come again")

    def test_unnamed_subscriptions_and_requests_go_on_after_a_restart(self, server: NatsServer, stage: NatsStage) -> None:
        """The bus makes them again with the new connection."""

        def double(message: Message) -> int:
            return 2 * int(message.body)

        seen = Seen()
        bus = stage.open()
        bus.subscribe("double", double, name="double")
        with bus:
            bus.subscribe("ticks", seen)
            assert bus.request("double", 1, timeout=5).body == 2
            server.stop()
            server.start()
            until(stage, lambda: engine_of(bus).transport.link.client is not None, "it is connected")
            assert bus.request("double", 2, timeout=5).body == 4
            bus.publish("ticks", 1)
            until(stage, lambda: seen.bodies == [1], "it has come")

    def test_what_was_unsubscribed_stays_so_after_a_restart(self, server: NatsServer, stage: NatsStage) -> None:
        """Neither a named nor an unnamed subscription comes back with the connection."""
        seen = Seen()
        bus = stage.open()
        with bus:
            named, unnamed = bus.subscribe("a", seen, name="s"), bus.subscribe("a", seen)
            named.unsubscribe()
            unnamed.unsubscribe()
            server.stop()
            server.start()
            until(stage, lambda: engine_of(bus).transport.link.client is not None, "it is connected")
            bus.publish("a", 1)
            again = bus.subscribe("a", name="s")
            assert again.receive(timeout=stage.patience).body == 1
        assert seen.messages == []


class TestNetwork:
    """A network may delay, cut, reset and fall silent."""

    @pytest.mark.parametrize("fault", ["reset", "cut", "silence", "latency"])
    def test_a_fault_of_the_network_loses_nothing(
        self, server: NatsServer, stage: NatsStage, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        """Each kind of fault happens once, in the middle of the work."""
        self._faults(server, stage, monkeypatch, [fault], publishers=5, each=60)

    def test_a_connection_that_breaks_keeps_the_order(self, server: NatsServer, stage: NatsStage) -> None:
        """A lone reader gives back at once what was on its way, and it comes before newer messages."""
        count = 2000
        seen: list[int] = []

        async def publish(bus: Bus) -> None:
            await asyncio.gather(*(bus.apublish("a", number) for number in range(count)))

        with Bus(stage.url) as publisher:
            asyncio.run(publish(publisher))
        with Proxy(server.port) as proxy:
            bus = Bus(stage.url.replace(str(server.port), str(proxy.port)))  # its lease is longer than the test may take
            bus.subscribe("a", lambda message: seen.append(message.body), name="s", deliver="all", attempts=100)
            with bus:
                for part in range(1, 4):
                    until(stage, lambda part=part: len({*seen}) > part * count // 8, "it works")  # type: ignore[misc]
                    proxy.reset()
                until(stage, lambda: len({*seen}) == count, "all have come")
        assert list(dict.fromkeys(seen)) == list(range(count))

    def test_many_faults_lose_nothing(self, server: NatsServer, stage: NatsStage, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three thousand messages survive each kind of fault twice, in random order."""
        stage.patience = 90.0
        faults = random.Random(0).sample(["reset", "cut", "silence", "latency"] * 2, k=8)
        self._faults(server, stage, monkeypatch, faults, publishers=20, each=150)

    def _faults(
        self,
        server: NatsServer,
        stage: NatsStage,
        monkeypatch: pytest.MonkeyPatch,
        faults: list[str],
        publishers: int,
        each: int,
    ) -> None:
        monkeypatch.setattr(link, "PING", 1)
        history, seen = History(), Counter[str]()
        lock, progress = threading.Lock(), threading.Semaphore(0)
        history.record_subscription("s", "a", attempts=100)

        def handle(message: Message) -> None:
            with lock:
                seen[message.id] += 1

        with Proxy(server.port) as proxy:
            bus = Bus(f"{stage.url.replace(str(server.port), str(proxy.port))}&publish_timeout=2s".replace("=30.0s", "=3s"))
            history.watch(bus, "bus")
            bus.subscribe("a", handle, name="s", workers=2, attempts=100)
            bus.start()
            threads = [
                threading.Thread(target=publish_all, args=(bus, history, f"p{number}", each, progress), daemon=True)
                for number in range(publishers)
            ]
            for thread in threads:
                thread.start()
            total = publishers * each
            for number, fault in enumerate(faults):
                for _ in range(total // (len(faults) + 1)):
                    assert progress.acquire(timeout=60), f"no progress after {number} of {faults}"
                proxy.latency, proxy.silent = 0.0, False
                if fault == "reset":
                    proxy.reset()
                elif fault == "cut":
                    proxy.cut_after = 777  # in the middle of a frame, most likely
                elif fault == "silence":
                    client = engine_of(bus).transport.link.client
                    proxy.silent = True
                    until(
                        stage,
                        lambda client=client: engine_of(bus).transport.link.client is not client,
                        "the silence is noticed",
                    )  # type: ignore[misc]
                    proxy.silent = False
                else:
                    proxy.latency = 0.02
            for thread in threads:
                thread.join(120)
            assert not any(thread.is_alive() for thread in threads)
            until(stage, lambda: len(seen) == total, "all have come")
            bus.stop(timeout=20)
        judgement = history.judge()
        assert [one for one in judgement.violations if one.kind in ("lost", "unexpected")] == []


_patient: Any = NatsStage.__new__(NatsStage)
_patient.patience = 20.0


class TestCredentials:
    """The server decides who may come in, and the errors say so."""

    @pytest.mark.parametrize(
        ("config", "right", "wrong"),
        [
            ('authorization { user: ann, password: "hun ter2" }', "ann:hun%20ter2", "ann:s3cret"),
            ("authorization { token: hunter2 }", "hunter2", "s3cret"),
        ],
        ids=["user", "token"],
    )
    def test_only_who_is_known_comes_in(self, tmp_path: Path, config: str, right: str, wrong: str) -> None:
        """The refusal shows no secret."""
        with NatsServer(tmp_path, config) as server:
            seen = Seen()
            bus = Bus(f"nats://{right}@{server.place}")
            bus.subscribe("a", seen, name="s")
            with bus:
                bus.publish("a", 1)
                bus.drain(timeout=10)
            assert seen.bodies == [1]
            for one in (f"{wrong}@", ""):
                with pytest.raises(TransportError, match=r"(?i)authorization violation.*nats://user:password@host") as told:
                    Bus(f"nats://{one}{server.place}?connect_timeout=2s").start()
                assert "s3cret" not in str(told.value)

    def test_without_jetstream_it_says_so(self, tmp_path: Path) -> None:
        """The error says how to start the server with JetStream, and core=yes works on the same server."""
        with NatsServer(tmp_path, jetstream=False) as server:
            with pytest.raises(TransportError, match=r"start the server with JetStream \(nats-server -js\), or say core=yes$"):
                Bus(server.url).start()
            seen = Seen()
            bus = Bus(f"{server.url}?core=yes")
            bus.subscribe("a", seen, name="s")
            with bus:
                bus.publish("a", 1)
                until(_patient, lambda: seen.bodies == [1], "it has come")

    def test_what_is_forbidden_is_named(self, tmp_path: Path) -> None:
        """The error for a user who may not make streams names the request that got no answer."""
        config = (
            'authorization { users: [{ user: ann, password: p, permissions: { publish: ["pipebus.>"], subscribe: [">"] } }] }'
        )
        with NatsServer(tmp_path, config) as server, pytest.raises(TransportError, match=r"STREAM\.INFO\.PIPEBUS"):
            Bus(f"nats://ann:p@{server.place}?connect_timeout=1s").start()

    def test_tls_is_checked(self, tmp_path: Path) -> None:
        """TLS works with the authority's certificate; without it the server is refused, and so is a client without its own."""
        if shutil.which("openssl") is None:
            missing("there is no openssl to make certificates with")
        make_certificates(tmp_path)
        files = f'cert_file: "{tmp_path}/server.pem", key_file: "{tmp_path}/server.key", ca_file: "{tmp_path}/ca.pem"'
        config = f"tls {{ {files}, verify: true }}"
        with NatsServer(tmp_path / "server", config) as server:
            mine = f"cert={tmp_path}/client.pem&key={tmp_path}/client.key"
            seen = Seen()
            bus = Bus(f"tls://{server.place}?cafile={tmp_path}/ca.pem&{mine}")
            bus.subscribe("a", seen, name="s")
            with bus:
                bus.publish("a", 1)
                bus.drain(timeout=10)
            assert seen.bodies == [1]
            with pytest.raises(TransportError, match="cafile="):
                Bus(f"tls://{server.place}?{mine}&connect_timeout=2s").start()
            with pytest.raises(TransportError):
                Bus(f"tls://{server.place}?cafile={tmp_path}/ca.pem&connect_timeout=2s").start()
            with pytest.raises(TransportError, match="cannot be used"):
                Bus(f"tls://{server.place}?cafile={tmp_path}/nowhere.pem").start()


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate of it for a server at 127.0.0.1 and for a client."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    use = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=tests", *use)
    (folder / "names").write_text(
        "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    for who in ("server", "client"):
        openssl("req", *new, "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        openssl(
            "x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{who}.pem",
            "-days", "2", "-extfile", "names",
        )  # fmt: skip


def test_nothing_is_left_of_a_bus_that_found_nobody() -> None:
    """No thread and no open file is left, however often a start is tried."""
    before, files = set(threading.enumerate()), len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(TransportError):
            Bus("nats://127.0.0.1:9?connect_timeout=100ms").start()
    assert set(threading.enumerate()) <= before
    assert len(os.listdir("/proc/self/fd")) <= files + 1


def test_two_loops_have_receipts_of_their_own(server: NatsServer) -> None:
    """Coroutines of two threads publish through one bus, and each gets its own receipt."""
    bus = Bus(server.url)
    bus.subscribe("a", Seen(), name="s")
    found: list[Any] = []

    def program() -> None:
        async def main() -> None:
            found.extend(await asyncio.gather(*(bus.apublish("a", number) for number in range(200))))

        asyncio.run(main())

    with bus:
        threads = [threading.Thread(target=program) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        bus.drain(timeout=20)
    assert [receipt.mailboxes for receipt in found] == [1] * 400

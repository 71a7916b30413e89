"""
The relay of examples/relay as its users run it: a receiver behind a web server, a store, and a sink over HTTP that fails in
each way that a service can. No event is lost, none dies, and none comes twice but where an answer was lost.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import cli_helpers
import pytest
from starlette.testclient import TestClient

from flow_helpers import InThread
from pipebus import Bus, Message

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "relay"
PATIENCE = 120.0
"""Seconds after which a test gives up; no test that passes waits for time."""

KEY, OLD_KEY = "the key of today, which is long", "the key of yesterday, also long"
COOL_DOWN = 0.2
RATE, SLOW = 1_000, 20
SENDERS = ("acme", "globex", "initech", "umbrella")
WORKERS = 4
FAILURES = 5
SIZE = 4_000
"""Bytes of text in each of many events."""
SECRET = "ada@example.org"


def load(name: str) -> Any:
    """A module of the example."""
    spec = importlib.util.spec_from_file_location(f"relay_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Sink = load("sink").Sink
sender = load("sender")


def settings(store: Path, sink: Any, rate: int) -> dict[str, str]:
    """The environment of a relay that lets so many events of a sender pass in a second."""
    return {
        "RELAY_KEY": KEY, "RELAY_OLD_KEY": OLD_KEY, "RELAY_DB": str(store), "RELAY_RATE": str(rate), "RELAY_WAIT": "50ms",
        "RELAY_COOL_DOWN": f"{COOL_DOWN}s", "SINK_URL": sink.url, "SINK_TIMEOUT": str(sink.late * 0.4),
    }  # fmt: skip


class Relay:
    """The receiver behind a web server, in a process that can be killed and started again. Its socket stays open meanwhile."""

    def __init__(self, folder: Path, sink: Any) -> None:
        self.store = folder / "relay.db"
        self.log = folder / "relay.log"
        self.env = cli_helpers.ENV | settings(self.store, sink, RATE)
        self.door = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = "{}:{}".format(*self.door.getsockname())
        self.process: Any = None

    def start(self) -> None:
        door = self.door.fileno()
        command = [sys.executable, "-m", "uvicorn", "receiver:app", "--fd", str(door), "--log-level", "warning"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=FOLDER, env=self.env, pass_fds=[door], stdout=log, stderr=log)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return int(self.process.wait(PATIENCE))

    def resident(self) -> int:
        """The number of bytes of memory that its process uses."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def kept(self) -> dict[str, tuple[int, int, int]]:
        """What the store keeps for each subscription: messages that wait, that are being handled, and dead ones."""
        bus = Bus(f"sqlite:///{self.store}?window=1d")
        subscriptions = [bus.subscribe(pattern, name=name) for name, pattern in (("sink", "events.*"), ("alerts", "alerts.>"))]
        with bus:
            found = {one.name: one.stats() for one in subscriptions}
        return {name: (one["pending"], one["in_flight"], one["dead"]) for name, one in found.items()}


@contextmanager
def relaying(folder: Path, late: float = 0.5) -> Iterator[tuple[Relay, Any]]:
    """A relay that runs, and its sink, whose late answers come after so many seconds: too late by more than half of them."""
    sink = Sink(late=late)
    relay = Relay(folder, sink)
    relay.start()
    try:
        yield relay, sink
    finally:
        if relay.process.poll() is None:
            relay.process.kill()
            relay.process.wait()
        relay.door.close()
        sink.close()


def wait_for(sink: Any, condition: Any) -> None:
    """Wait until something is true that changes with the requests that the sink gets."""
    with sink.news:
        assert sink.news.wait_for(condition, PATIENCE), (len(sink.taken), sink.refused, sink.unanswered)


def all_is_answered(sink: Any, count: int) -> bool:
    return len(sink.taken) == count and all(times > sink.unanswered[event] for event, times in sink.taken.items())


class Sender:
    """
    Posts events as another company's program does: each until it knows that the relay has it.

    Args:
        size: Bytes of text that each event carries along.
    """

    def __init__(self, relay: Relay, name: str, count: int, size: int = 0) -> None:
        self._address = relay.address
        self._events = [{**event, "text": "x" * size} for event in sender.events(name, count)]
        self._name = name

    def post(self) -> None:
        connection = HTTPConnection(self._address, timeout=PATIENCE)
        for event in self._events:
            while True:
                try:
                    status = sender.post(connection, sender.signed(self._name, event, KEY))
                except (OSError, HTTPException):  # killed before it answered; nobody knows whether it has the event
                    connection.close()
                    continue
                break
            assert status == 202, status
        connection.close()


def post_all(relay: Relay, count: int, size: int = 0) -> list[InThread]:
    return [InThread(Sender(relay, name, count // len(SENDERS), size).post) for name in SENDERS]


def assert_kept_its_promise(sink: Any, relay: Relay, count: int) -> None:
    """Each event has arrived; again only where its answer was lost. Nothing is dead, nothing waits, and no secret is kept."""
    assert {event: times - sink.unanswered[event] for event, times in sink.taken.items()} == dict.fromkeys(sink.taken, 1)
    assert all(body["customer"] == {"email": "[redacted]"} for body in sink.bodies.values())
    assert relay.end(signal.SIGTERM) == -signal.SIGTERM, relay.log.read_text()  # the server ends by its signal
    assert relay.kept() == {"sink": (0, 0, 0), "alerts": (0, 0, 0)}
    written = b"".join(path.read_bytes() for path in relay.store.parent.glob("relay.*"))
    for secret in (SECRET, KEY, OLD_KEY):
        assert secret.encode() not in written


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TestClient, Any, Any]]:
    """A client of the receiver in this process, the receiver's bus, and the sink."""
    sink = Sink()
    for name, value in settings(tmp_path / "relay.db", sink, SLOW).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(FOLDER))
    try:
        receiver = load("receiver")
        with TestClient(receiver.app) as client:
            yield client, receiver.bus, sink
    finally:
        sys.modules.pop("relay", None)
        sink.close()


def knock(client: TestClient, message: Message[Any]) -> int:
    """Send a message as a request; returns the status of the answer."""
    path, headers, data = sender.request_of(message)
    return int(client.post(path, headers=headers, content=data).status_code)


def test_what_is_forged_replayed_stale_or_too_large_never_reaches_the_sink(door: Any) -> None:
    """The receiver refuses each with the same bare answer, and keeps none of it. The old key is as good as the new one."""
    client, bus, sink = door
    event = {"id": "e1", "total": 1}
    good = sender.signed("acme", event, KEY)
    refused = {
        "forged": sender.signed("acme", {"id": "e2"}, "a key that somebody has guessed"),
        "changed": sender.signed("acme", event, KEY).with_body({"id": "e3", "total": 1}),
        "of another sender": sender.signed("acme", {"id": "e4"}, KEY).replace(subject="events.globex"),
        "under another id": good.replace(id="another"),
        "stale": sender.signed("acme", {"id": "e5"}, KEY, time=time.time() - 600),
        "replayed": good,
        "too large": sender.signed("acme", {"id": "e6", "text": "x" * 70_000}, KEY),
        "without an id": sender.signed("acme", {"total": 1}, KEY),
    }

    assert knock(client, good) == 202
    assert {name: knock(client, message) for name, message in refused.items()} == dict.fromkeys(refused, 400)
    assert knock(client, sender.signed("acme", event, KEY)) == 202  # sent again, because the answer was lost
    assert knock(client, sender.signed("acme", {"id": "e8"}, OLD_KEY)) == 202
    bus.drain(PATIENCE)

    assert sink.taken == {"events.acme.e1": 1, "events.acme.e8": 1}
    assert bus.stats()["accepted"] == 2
    assert bus.dead_letters.list() == []


def test_a_person_hears_of_what_the_sink_does_not_want(door: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """An event that the sink refuses for good is not tried again: a person gets it, and the sink the events behind it."""
    client, bus, sink = door
    sink.soon.append("picky")
    for id in ("e1", "e2"):
        assert knock(client, sender.signed("acme", {"id": id}, KEY)) == 202
        bus.drain(PATIENCE)

    assert (sink.refused, sink.taken) == (1, {"events.acme.e2": 1})
    assert "alert: e1 was not delivered: Fallback: Rejected\n" in capfd.readouterr().out
    assert bus.stats()["filters"]["sink"]["breaker"]["failures"] == 0


def test_a_sender_of_many_events_does_not_hold_up_the_others(door: Any) -> None:
    """The events of one sender beyond the limit wait for their time, and that of another passes them. No worker waits."""
    client, bus, sink = door
    [subscription] = [one for one in bus.subscriptions if one.name == "sink"]
    subscription.pause()
    for id in map(str, range(SLOW + 10)):
        assert knock(client, sender.signed("acme", {"id": id}, KEY)) == 202
    assert knock(client, sender.signed("globex", {"id": "1"}, KEY)) == 202
    subscription.resume()
    wait_for(sink, lambda: len(sink.taken) == SLOW + 11)

    assert list(sink.taken)[-1] != "events.globex.1"
    assert bus.stats()["filters"]["sink"]["limit"]["limited"] > 0


def test_a_sink_that_fails_in_every_way_gets_every_event(tmp_path: Path) -> None:
    """
    Three hundred events come while the sink is down, refuses connections, answers too late or not at all. The relay is killed
    meanwhile and started again.
    """
    count = 300
    with relaying(tmp_path) as (relay, sink):
        sink.mode = "down"
        senders = post_all(relay, count)
        wait_for(sink, lambda: sink.refused > FAILURES)
        relay.end(signal.SIGKILL)
        relay.start()
        wait_for(sink, lambda: sink.refused > 2 * FAILURES + 1)
        sink.hang_up()
        for one in senders:
            one.result(PATIENCE)
        assert not sink.taken
        sink.mode = "up"
        sink.soon.extend([*["up"] * 50, *["lost"] * 3, *["up"] * 50, *["late"] * 3])
        sink.listen()
        wait_for(sink, lambda: all_is_answered(sink, count))

        assert sum(sink.unanswered.values()) == 6
        assert "old=half_open new=closed" in relay.log.read_text()
        assert_kept_its_promise(sink, relay, count)


@pytest.mark.thorough
def test_ten_thousand_events_outlast_a_minute_without_the_sink(tmp_path: Path) -> None:
    """
    The sink is down for a minute while ten thousand events come. Now and then the breaker lets one try, all of them arrive when
    the sink is back, and the process needs no more memory than before.
    """
    count, minute = 10_000, 60.0
    with relaying(tmp_path, late=10.0) as (relay, sink):  # on a busy machine, an answer in time may take a second
        with watched(relay) as sizes:
            senders = post_all(relay, count, size=SIZE)
            wait_for(sink, lambda: len(sink.taken) >= 1_000)
            before = max(sizes)
            sink.mode = "down"
            begin = time.monotonic()
            time.sleep(minute / 2)
            trials, down = sink.refused, time.monotonic() - begin
            sink.hang_up()
            time.sleep(minute / 2)
            for one in senders:
                one.result(PATIENCE)
            sink.mode = "up"
            sink.soon.extend([*["up"] * 500, *["lost"] * 20, *["up"] * 500, *["late"] * 20])
            sink.listen()
            wait_for(sink, lambda: all_is_answered(sink, count))

        assert trials <= most_trials(down)
        assert max(sizes) - before < count * SIZE / 4  # keeping what waits would cost all of it
        assert sum(sink.unanswered.values()) == 40
        assert_kept_its_promise(sink, relay, count)


def most_trials(down: float) -> int:
    """How many requests an outage of so many seconds may cost: what opens the breaker, and then one after each `cool_down`."""
    return FAILURES + WORKERS + int(down / COOL_DOWN) + 1


@contextmanager
def watched(relay: Relay) -> Iterator[list[int]]:
    """The sizes of the relay's memory, as a list that grows."""
    sizes, over = list[int](), threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            sizes.append(relay.resident())

    watcher = InThread(look)
    try:
        yield sizes
    finally:
        over.set()
        watcher.result(PATIENCE)

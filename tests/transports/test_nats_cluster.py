"""The NATS transport on three servers in a cluster, of which one at a time is killed."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipebus.bus.bus import engine_of

pytest.importorskip("nats")

from nats_cluster import NatsCluster
from nats_server import NatsServer

from pipebus import Bus, Message
from pipebus.errors import PublishUnknown, TransportError, UnsupportedCapability
from pipebus.testing.contract.tools import Seen
from pipebus.testing.history import Attempted, Delivered, History

pytestmark = pytest.mark.thorough  # on three real servers

PATIENCE = 90.0
PUBLISHERS = 4
STEP = 200
"""Messages that are published in each state of the cluster."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """A cluster that is complete at the beginning and end of each test; each test has its own stream."""
    with NatsCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def url(cluster: NatsCluster, stream: str, rest: str = "") -> str:
    return f"{cluster.url}?stream={stream}&prefix={stream.lower()}{rest}"


def replicas(cluster: NatsCluster, stream: str) -> int:
    info = cluster.ask(f"STREAM.INFO.{stream}")
    assert info is not None
    count: int = info["config"]["num_replicas"]
    return count


def until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.01)


class Traffic:
    """
    Publishers that try again, under the same id, what nobody has said to be kept; and a subscription with one worker.

    Args:
        url: Where.
    """

    def __init__(self, url: str) -> None:
        self.history = History()
        self.history.record_subscription("s", "a", attempts=100, order="subject")
        self.bus = Bus(url)
        self.history.watch(self.bus, "bus")
        self.bus.subscribe("a", self._handle, name="s", attempts=100)
        self._handled = set[str]()
        self._accepted = 0
        self._lock = threading.Lock()
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._publish, args=(f"p{n}",), daemon=True) for n in range(PUBLISHERS)]

    def _handle(self, message: Message) -> None:
        self._handled.add(message.id)

    def _publish(self, who: str) -> None:
        number = 0
        while not self._enough.is_set():
            id = f"{who}-{number}"
            self.history.record_attempt(id, "a", publisher=who)
            while True:
                try:
                    self.bus.publish("a", number, id=id)
                    break
                except (PublishUnknown, TransportError):
                    self._enough.wait(0.05)
            self.history.record_accepted(id)
            with self._lock:
                self._accepted += 1
            number += 1

    @property
    def server(self) -> str:
        """The one that the bus is connected to."""
        name: str = engine_of(self.bus).transport.link.client._server_info["server_name"]
        return name

    def goes_on(self) -> None:
        """Wait until a number of further messages are published and handled."""
        accepted, handled = self._accepted + STEP, len(self._handled) + STEP
        until(lambda: self._accepted >= accepted, f"{STEP} more are published")
        until(lambda: len(self._handled) >= handled, f"{STEP} more are handled")

    def __enter__(self) -> Traffic:
        self.bus.start()
        for thread in self._threads:
            thread.start()
        self.goes_on()
        return self

    def end(self) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads)
        until(lambda: len(self._handled) == self._accepted, "all are handled")
        self.bus.stop(timeout=20)

    def __exit__(self, *_: Any) -> None:
        self._enough.set()
        self.bus.stop(timeout=1, drain=False)


@pytest.mark.thorough
@pytest.mark.parametrize("which", ["ours", "leader"])
def test_a_server_is_killed_and_comes_back(cluster: NatsCluster, which: str) -> None:
    """
    The one we are connected to, or that leads the stream: publishers and subscription go on without it and with it. Nothing is
    lost. Order is kept, except that what the server was handing out may come late. What comes again says that it does.
    """
    stream = f"KILL-{which}"
    with Traffic(url(cluster, stream, "&replicas=3&lease=3s&publish_timeout=2s&connect_timeout=10s")) as traffic:
        name = traffic.server if which == "ours" else cluster.leader(stream)
        cluster.kill(name)
        handed_out = {one.id for one in list(traffic.history.records) if isinstance(one, Attempted)}
        try:
            traffic.goes_on()
        finally:
            cluster.start(name)
        cluster.whole(stream, f"{stream}-DEAD")
        traffic.goes_on()
        traffic.end()
    judgement = traffic.history.judge()
    late = [one for one in judgement.violations if one.kind == "order" and one.ids[0] in handed_out]
    assert [one for one in judgement.violations if one.kind != "duplicate" and one not in late] == []
    taken = Counter((one.id, one.attempt) for one in traffic.history.records if isinstance(one, Delivered))
    assert [one for one, count in taken.items() if count > 1] == []


def test_publishes_under_way_ride_out_an_election(cluster: NatsCluster) -> None:
    """
    The leader of the stream is killed while the publishers are connected to another server. What it had not answered is sent
    again well within the default timeout, so no publisher gets an error, and each message is kept once.
    """
    stream, count = "ELECTION", 40
    with Bus(url(cluster, stream, "&replicas=3&connect_timeout=10s")) as bus:
        published(bus, 0)
    cluster.whole(stream)
    leader = cluster.leader(stream)
    others = f"nats://{','.join(one.place for name, one in cluster.servers.items() if name != leader)}"
    going = threading.Semaphore(0)

    def publish(who: int) -> None:
        for number in range(count):
            bus.publish("a", number, id=f"{who}-{number}")
            going.release()

    place = f"{others}?stream={stream}&prefix={stream.lower()}&replicas=3&connect_timeout=10s"
    with Bus(place) as bus, ThreadPoolExecutor(16) as threads:
        results = [threads.submit(publish, who) for who in range(16)]
        for _ in range(100):
            assert going.acquire(timeout=PATIENCE)
        cluster.kill(leader)
        try:
            for one in results:
                one.result(PATIENCE)
        finally:
            cluster.start(leader)
    cluster.whole(stream, f"{stream}-DEAD")
    info = cluster.ask(f"STREAM.INFO.{stream}")
    assert info is not None
    assert info["state"]["messages"] == 16 * count + 1


def test_a_host_that_stands_still_does_not_keep_us_from_the_others(tmp_path: Path) -> None:
    """Such a host accepts connections and answers nothing; whichever host comes first, the other one is found in time."""
    with socket.create_server(("127.0.0.1", 0)) as silent, NatsServer(tmp_path) as server:
        still = f"127.0.0.1:{silent.getsockname()[1]}"
        for hosts in (f"{still},{server.place}", f"{server.place},{still}") * 2:
            with Bus(f"nats://{hosts}?connect_timeout=2s") as bus:
                assert bus.publish("a", 1) is not None


@pytest.mark.thorough
def test_without_a_majority_nothing_is_acknowledged(cluster: NatsCluster) -> None:
    """With two of three servers killed, a publish raises a typed error. When they are back, each message is there once."""
    stream, seen = "MINORITY", Seen()
    bus = Bus(url(cluster, stream, "&replicas=3&publish_timeout=1s&connect_timeout=10s"))
    bus.subscribe("a", seen, name="s")
    with bus:
        for number in range(10):
            bus.publish("a", number, id=str(number))
        cluster.whole(stream, f"{stream}-DEAD")
        away = ["n0", "n1"]
        for name in away:
            cluster.kill(name)
        try:
            for number in range(10, 13):
                with pytest.raises((PublishUnknown, TransportError)):
                    bus.publish("a", number, id=str(number))
        finally:
            for name in away:
                cluster.start(name)
        cluster.whole(stream, f"{stream}-DEAD")
        for number in range(10, 13):
            published(bus, number)
        until(lambda: len(set(seen.bodies)) == 13, "all are handled")
    info = cluster.ask(f"STREAM.INFO.{stream}")
    assert info is not None
    assert info["state"]["messages"] == 13


def published(bus: Bus, number: int) -> None:
    """Publish the number under its own id until the server acknowledges it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            bus.publish("a", number, id=str(number))
            return
        except (PublishUnknown, TransportError):
            assert time.monotonic() < deadline
            time.sleep(0.05)


class TestReplicas:
    """The URL says how many servers keep each message."""

    def test_each_message_is_on_as_many_servers_as_the_url_says(self, cluster: NatsCluster) -> None:
        """A stream that has fewer is changed when the URL says how many; its subscriptions go with it."""
        seen = Seen()
        bus = Bus(url(cluster, "MORE"))
        bus.subscribe("a", seen, name="s")
        with bus:
            published(bus, 1)
            until(lambda: seen.bodies == [1], "it is handled")
        assert (replicas(cluster, "MORE"), replicas(cluster, "MORE-DEAD")) == (1, 1)
        bus = Bus(url(cluster, "MORE", "&replicas=3"))
        bus.subscribe("a", seen, name="s")
        with bus:
            cluster.whole("MORE", "MORE-DEAD")
            published(bus, 2)
            until(lambda: seen.bodies == [1, 2], "it is handled")
        assert (replicas(cluster, "MORE"), replicas(cluster, "MORE-DEAD")) == (3, 3)

    @pytest.mark.parametrize("fewer", ["", "&replicas=1"])
    def test_more_than_the_url_says_stay(self, cluster: NatsCluster, fewer: str) -> None:
        """Replicas that a stream already has stay, because another program may count on them."""
        with Bus(url(cluster, "SAME", "&replicas=3")) as bus:
            published(bus, 1)
        with Bus(url(cluster, "SAME", fewer)) as bus:
            published(bus, 2)
        assert (replicas(cluster, "SAME"), replicas(cluster, "SAME-DEAD")) == (3, 3)

    def test_more_than_there_are_is_refused(self, cluster: NatsCluster, tmp_path: Path) -> None:
        """The start is refused by a single server and by a cluster that is too small."""
        with pytest.raises(TransportError, match="FIVE cannot be made"):
            Bus(url(cluster, "FIVE", "&replicas=5")).start()
        with NatsServer(tmp_path) as alone, pytest.raises(TransportError, match=r"PIPEBUS cannot be made.*replicas"):
            Bus(f"{alone.url}?replicas=3").start()

    @pytest.mark.parametrize("count", [1, 3])
    def test_no_number_of_servers_survives_the_power_cut_of_all(self, cluster: NatsCluster, count: int) -> None:
        """A server confirms a message before it is on disk, and so may all of them."""
        place = url(cluster, "POWER", f"&replicas={count}")
        assert Bus(place, require={"survives": "server_restart"}) is not None
        with pytest.raises(UnsupportedCapability, match="survives='power'"):
            Bus(place, require={"survives": "power"})

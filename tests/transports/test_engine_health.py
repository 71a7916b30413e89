"""What SQLite and NATS say about themselves: a store that cannot be written, a server that is away, and what waits there."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow_helpers import WAIT, Hold, fine, wait_until
from pipebus import Bus, Health
from pipebus.telemetry.prometheus import metrics_text

WELL = Health()


def reasons(bus: Bus) -> str:
    return "; ".join(bus.health().reasons)


# --- SQLite --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bus.db"


def test_a_file_that_cannot_be_used_is_not_ready(path: Path) -> None:
    """Somebody writes into the file. Publishers are refused, so probes say "not ready"; a new process would not help."""
    with Bus(f"sqlite:///{path}") as bus:
        bus.publish("a")
        assert bus.health() == WELL
        path.write_bytes(b"no database at all" * 1000)
        wait_until(lambda: not bus.health().ready, "it is noticed")
        health = bus.health()
        assert (health.live, health.degraded) == (True, True)
        assert f"{path} was " in health.reasons[0]


def test_a_file_that_is_gone_is_named_until_there_is_another(path: Path) -> None:
    """A removed file is made again by the next publish, so the bus stays ready, and says what has happened."""
    with Bus(f"sqlite:///{path}") as bus:
        bus.subscribe("a", fine, name="s")
        for one in path.parent.iterdir():
            one.unlink()
        wait_until(lambda: f"{path} is gone" in reasons(bus), "it is noticed")
        assert bus.health().ready
        with pytest.raises(Exception, match="removed"):
            bus.publish("a")
        bus.publish("a")
        wait_until(lambda: bus.health() == WELL, "there is a file again")


@pytest.mark.thorough
def test_a_file_that_is_nearly_full_is_degraded(path: Path) -> None:
    """Before publishers are refused, there is time to look."""
    with Bus(f"sqlite:///{path}?max_bytes=1MiB&window=0") as bus:
        subscription = bus.subscribe("a", fine, name="s")
        subscription.pause()
        for _ in range(10):
            bus.publish("a", "x" * 95_000)
        wait_until(lambda: "full: " in reasons(bus), "a sweep has looked")
        assert "max_bytes is 1,048,576" in reasons(bus)
        assert bus.health().ready
        subscription.resume()
        bus.drain(WAIT)
        wait_until(lambda: bus.health() == WELL, "there is room")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_file_that_nobody_serves_any_more_is_not_live(path: Path) -> None:
    """The thread that brings messages has died: only a new process brings them."""
    bus = Bus(f"sqlite:///{path}")
    bus.start()
    keeper = next(one for one in threading.enumerate() if one.name == "pipebus-sqlite")
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(keeper.ident or 0), ctypes.py_object(SystemExit))
    keeper.join(WAIT)
    assert not bus.health().live
    assert f"the thread that serves {path} has died" in reasons(bus)
    bus.stop(timeout=0.0)


def test_the_oldest_message_of_a_store_is_that_of_all_programs(path: Path) -> None:
    """Two programs share a subscription. One is paused, the other is busy: both see for how long the rest has waited."""
    url, hold = f"sqlite:///{path}", Hold()
    one, other = Bus(url), Bus(url)
    paused, busy = one.subscribe("a", fine, name="s"), other.subscribe("a", hold, name="s", mailbox=1)
    paused.pause()
    with other:
        other.publish("a", 0, delay=60.0)
        other.publish("a", 1)
        hold.wait_started()
        assert (busy.stats()["pending"], busy.stats()["oldest"]) == (1, None)
        with one:
            began = time.monotonic()
            one.publish("a", 2, key="k")
            one.publish("a", 3, key="k")
            wait_until(lambda: (paused.stats()["oldest"] or 0.0) > 0.05, "it ages")
            assert all(0.0 < one.stats()["oldest"] < time.monotonic() - began + 0.1 for one in (paused, busy))
        hold.open()
        other.drain(WAIT)
        wait_until(lambda: busy.stats()["oldest"] is None, "all but the delayed one is handled")


# --- NATS ----------------------------------------------------------------------------------------------------------------

pytest.importorskip("nats")

from nats_server import NatsServer, NatsStage  # noqa: E402

from pipebus.testing.contract.tools import until  # noqa: E402


@pytest.fixture
def own(tmp_path: Path) -> Iterator[NatsServer]:
    """A server that the test stops and starts."""
    with NatsServer(tmp_path / "server") as server:
        yield server


@pytest.mark.thorough
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_server_that_is_away_is_not_ready_but_live(own: NatsServer, how: signal.Signals) -> None:
    """Nobody restarts the program for that, and its figures stay as they were; when the server is back, it goes on."""
    stage, hold = NatsStage(own, patience=20.0), Hold()
    with stage.open() as bus:
        subscription = bus.subscribe("a", hold, name="s")
        for number in range(3):
            bus.publish("a", number)
        hold.wait_started()
        until(stage, lambda: subscription.stats()["pending"] == 2, "two wait here")
        before = subscription.stats()
        assert bus.health() == WELL
        own.stop(how)
        until(stage, lambda: not bus.health().ready, "it is noticed")
        health = bus.health()
        assert (health.live, health.degraded) == (True, True)
        assert f"not connected to {engine_url(own)}" in health.reasons[0]
        began = time.monotonic()
        away = subscription.stats()
        assert time.monotonic() - began < 2.0  # nobody waits for a server that is away
        assert {**away, "oldest": 0.0} == {**before, "oldest": 0.0}
        assert away["oldest"] >= before["oldest"]
        assert 'pipebus_ready{bus="contract"} 0.0' in metrics_text(bus)
        assert time.monotonic() - began < 4.0
        own.start()
        until(stage, lambda: bus.health() == WELL, "it is connected again")
        hold.open()
        bus.drain(stage.patience)


def engine_url(server: NatsServer) -> str:
    return f"nats://{server.place}"


@pytest.mark.thorough
def test_a_server_that_stands_still_is_noticed_without_a_wait(own: NatsServer) -> None:
    """While a stopped server process holds the connection open, asking takes no time; when the pings run out, it says so."""
    stage = NatsStage(own, patience=60.0)
    with stage.open() as bus:
        assert bus.health() == WELL
        own.send(signal.SIGSTOP)
        slowest = 0.0

        def noticed() -> bool:
            nonlocal slowest
            began = time.monotonic()
            ready = bus.health().ready
            slowest = max(slowest, time.monotonic() - began)
            return not ready

        until(stage, noticed, "the pings have run out")
        assert bus.health().live
        assert slowest < 1.0
        own.send(signal.SIGCONT)
        until(stage, lambda: bus.health() == WELL, "it is connected again")


def test_the_oldest_message_on_nats_is_of_what_was_fetched(stage: NatsStage) -> None:
    """What this program has fetched has an age; of what only the server has, nobody knows without asking for each message."""
    hold = Hold()
    with stage.open() as bus:
        subscription = bus.subscribe("a", hold, name="s")
        assert subscription.stats()["oldest"] is None
        for number in range(3):
            bus.publish("a", number)
        hold.wait_started()
        until(stage, lambda: (subscription.stats()["oldest"] or 0.0) > 0.05, "it ages")
        hold.open()
        bus.drain(stage.patience)
        assert subscription.stats()["oldest"] is None

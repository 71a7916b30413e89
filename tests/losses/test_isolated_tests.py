"""
Tests never touch the transport that a program declares: no file is made or read, no server is asked.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipebus import Bus, Delivery, Message, SubscriptionError, UnsupportedCapability
from pipebus.filters import Dedupe
from pipebus.testing import Harness, file_tests, run_filter, run_handler
from pipebus.testing.simulation import scheduler

URLS = [
    "sqlite:///bus.db",
    "sqlite:///no/such/folder/bus.db?lease=10s",
    "nats://127.0.0.1:1",
    "tls://nobody.example:4222?stream=ORDERS&creds=none.creds",
    "tls://nobody.example",
]


@pytest.fixture(autouse=True)
def untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test runs in an empty folder without a network, and leaves that folder as it was."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError(f"a connection was opened: {args}")

    for name in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(socket.socket, name, refuse)
    return folder


every_url = pytest.mark.parametrize("url", URLS)


# --- a harness -----------------------------------------------------------------------------------------------------------


@every_url
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_harness_runs_a_bus_of_any_url(url: str, colour: str, untouched: Path) -> None:
    """Messages are handled and failures become dead letters in memory, and no file is made."""
    got: list[Any] = []

    def handle(message: Message) -> None:
        if message.body == "bad":
            raise ValueError("bad")
        got.append(message.body)

    async def ahandle(message: Message) -> None:
        await asyncio.sleep(1.0)
        handle(message)

    with Harness(fail_fast=False) as harness:
        bus = Bus(url)
        bus.subscribe("orders.>", handle if colour == "sync" else ahandle, name="orders")
        harness.start(bus)
        for body in (1, "bad", {"sku": "tea"}):
            bus.publish("orders.placed", body)
        harness.drain()

        assert got == [1, {"sku": "tea"}]
        assert [letter.subscription for letter in bus.dead_letters.list()] == ["orders"]
    assert list(untouched.iterdir()) == []


@every_url
def test_a_harness_runs_coroutines_on_a_bus_of_any_url(url: str, untouched: Path) -> None:
    """`async with bus`, publishes and requests work inside `harness.run`."""

    async def scenario() -> Any:
        async with Bus(url) as bus:
            bus.subscribe("double", lambda message: message.body * 2, name="double")
            return (await bus.arequest("double", 21)).body

    with Harness() as harness:
        assert harness.run(scenario()) == 42
    assert list(untouched.iterdir()) == []


@every_url
def test_what_is_published_is_encoded(url: str) -> None:
    """A body that the declared transport could not carry fails in the test as it does in production."""
    with Harness(fail_fast=False) as harness:
        bus = Bus(url)
        bus.subscribe("a", lambda message: None, name="a")
        harness.start(bus)
        with pytest.raises(Exception, match="JSON"):
            bus.publish("a", object())


@every_url
def test_what_the_declared_transport_promises_may_be_required(url: str) -> None:
    """`require` goes by the capabilities of the transport that runs in production."""
    with Harness():
        assert Bus(url, require={"groups": True, "multi_process": True})
        with pytest.raises(UnsupportedCapability, match="objects"):
            Bus(url, require={"objects": True})


def test_a_url_that_nobody_can_open_is_refused_in_a_test_too() -> None:
    """A test finds a mistake in the URL."""
    with Harness():
        for url in ("sqlit:///bus.db", "sqlite:///bus.db?leas=3s", "sqlite:///"):
            with pytest.raises(UnsupportedCapability):
                Bus(url)


def test_an_object_is_refused_as_a_subject_where_production_refuses_it() -> None:
    """An actor without a name cannot be addressed on a store, and so it cannot be addressed in a test either."""
    from pipebus import Actor

    with Harness(), pytest.raises((UnsupportedCapability, SubscriptionError)):
        Bus("sqlite:///bus.db").spawn(Actor())


def test_delays_are_virtual() -> None:
    """A delayed message of a durable bus comes in virtual time, so nobody waits for it."""
    with Harness() as harness:
        bus = Bus("sqlite:///bus.db")
        bus.subscribe("a", lambda message: None, name="a")
        harness.start(bus)
        bus.publish("a", delay=3600.0)
        harness.drain(7200.0)
        assert harness.elapsed == 3600.0


def test_an_id_is_recognised_as_in_production() -> None:
    """A second publish with the same id is a duplicate for as long as the URL says."""
    with Harness() as harness:
        bus = Bus("sqlite:///bus.db?window=60s")
        bus.subscribe("a", lambda message: None, name="a")
        harness.start(bus)
        assert not bus.publish("a", 1, id="one").duplicate
        assert bus.publish("a", 1, id="one").duplicate
        harness.advance(61.0)
        assert not bus.publish("a", 1, id="one").duplicate
        harness.drain()
        assert len(harness.delivered_to("a")) == 2


def test_a_durable_dedupe_remembers_for_its_window() -> None:
    """`Dedupe(durable=True)` works in a test, in virtual time, also after a restart of the bus."""
    with Harness() as harness:
        bus = Bus("sqlite:///bus.db")
        bus.use(Dedupe(key=lambda message: str(message.body), window=600.0, durable=True))
        bus.subscribe("a", lambda message: None, name="a")
        harness.start(bus)
        assert bus.publish("a", 1)
        harness.drain()
        bus.stop()
        bus.start()
        assert not bus.publish("a", 1)
        harness.advance(601.0)
        assert bus.publish("a", 1)


def with_transaction(message: Message, delivery: Delivery) -> None:
    with delivery.transaction() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS bill (id TEXT)")
        connection.execute("INSERT INTO bill VALUES (?)", (message.id,))


def test_a_transaction_in_memory_says_what_to_do() -> None:
    """In memory there is no store to write to, and the error says how to get one."""
    with Harness(fail_fast=False) as harness:
        bus = Bus("sqlite:///bus.db")
        bus.subscribe("a", with_transaction, name="a")
        harness.start(bus)
        bus.publish("a")
        harness.drain()
        (letter,) = bus.dead_letters.list()
        assert 'Harness(store="temporary")' in letter.error


# --- a store that is thrown away -----------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_temporary_store_has_transactions(untouched: Path) -> None:
    """A harness may have its own SQLite file, in virtual time, for things that only a store can do."""
    with Harness(store="temporary") as harness:
        bus = Bus("sqlite:///bus.db")
        sub = bus.subscribe("a", with_transaction, name="a")
        harness.start(bus)
        bus.publish("a", id="one")
        assert bus.publish("a", id="one").duplicate
        bus.publish("a", delay=600.0)
        harness.drain()
        assert sub.stats()["acknowledged"] == 1
        harness.advance(601.0)
        harness.drain()
        assert sub.stats()["acknowledged"] == 2
    assert list(untouched.iterdir()) == []


def test_a_temporary_store_outlives_a_bus_and_not_the_harness(untouched: Path) -> None:
    """A second bus with the same URL finds the messages of the first one; the next harness finds nothing."""
    for _ in range(2):
        with Harness(store="temporary") as harness:
            first = Bus("sqlite:///bus.db")
            first.subscribe("a", lambda message: None, name="a").pause()
            harness.start(first)
            first.publish("a", "kept")
            first.stop(drain=False)

            second = Bus("sqlite:///bus.db")
            got: list[Any] = []
            second.subscribe("a", lambda message, got=got: got.append(message.body), name="a")
            harness.start(second)
            harness.drain()
            assert got == ["kept"]
    assert list(untouched.iterdir()) == []


@pytest.mark.parametrize("minutes", [1, pytest.param(30, marks=pytest.mark.thorough)])
def test_any_time_may_pass_on_an_idle_temporary_store(minutes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store looks for messages of other processes all the time, which is not taken for a run without an end."""
    if minutes == 1:
        monkeypatch.setattr(scheduler, "MOST_STEPS", 5_000)
    with Harness(store="temporary", patience=30.0 if minutes == 1 else 5.0) as harness:
        bus = harness.start(Bus("sqlite:///bus.db"))
        bus.every("1m", "tick")
        harness.advance(60.0 * minutes)
        assert (harness.elapsed, len(harness.published)) == (60.0 * minutes, minutes)


@every_url
def test_a_temporary_store_is_for_sqlite(url: str) -> None:
    """Asking for a temporary store with another transport is an error that says so."""
    with Harness(store="temporary"):
        if url.startswith("sqlite"):
            assert Bus(url)
        else:
            with pytest.raises(UnsupportedCapability, match=r'store="temporary"'):
                Bus(url)


def test_an_unknown_kind_of_store_is_refused() -> None:
    """The error lists the kinds of store."""
    with pytest.raises(Exception, match=r'"memory" or "temporary"'):
        Harness(store="disk")  # type: ignore[arg-type]


# --- one handler, one filter ---------------------------------------------------------------------------------------------


def test_run_handler_says_what_a_transaction_needs() -> None:
    """A handler that writes into the store needs one, and `run_handler` alone has none."""
    run = run_handler(with_transaction)
    with pytest.raises(UnsupportedCapability):
        _ = run.value


@every_url
def test_a_handler_and_a_filter_that_know_a_durable_bus_are_run_without_it(url: str, untouched: Path) -> None:
    """Running one handler or filter of a module does not open the durable bus that the module has made."""
    bus = Bus(url)
    bus.subscribe("a", lambda message: None, name="a")

    def handler(message: Message) -> str:
        return f"handled on a bus at {bus.url.partition(':')[0]}"

    assert run_handler(handler).value
    assert run_filter(Dedupe(window=1.0), Message("a")).outcome
    assert bus.state == "new"
    assert list(untouched.iterdir()) == []


# --- [[tests]] of a config file --------------------------------------------------------------------------------------------

CONFIG = """
version = 1
[bus]
transport = "{url}"

[[subscriptions]]
name = "sink"
subject = "orders.>"
handler = "{handler}"

[[tests]]
name = "an order is handled"
publish = {{ subject = "orders.placed", json = {{ sku = "tea" }} }}
expect = {{ outcome = "accepted", deliveries = {{ sink = 1 }} }}
"""


def write(folder: Path, url: str, handler: str = "shop:handle", name: str = "pipebus.toml") -> Path:
    (folder / "shop.py").write_text(
        "def handle(message):\n    return None\n\n\n"
        "from pipebus import Delivery, Message\n\n\n"
        "def bill(message: Message, delivery: Delivery):\n"
        "    with delivery.transaction() as connection:\n"
        "        connection.execute('CREATE TABLE IF NOT EXISTS bill (id TEXT)')\n"
    )
    path = folder / name
    path.write_text(CONFIG.format(url=url, handler=handler))
    return path


def program(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *args], check=False, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )  # fmt: skip


def made(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir() if one.name not in ("shop.py", "pipebus.toml", ".pytest_cache"))


@every_url
def test_tests_of_a_file_run_in_memory(url: str, untouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests pass without the file or the server that the config file names."""
    (test,) = file_tests(write(untouched, url, "handle"), handlers={"handle": lambda message: None})
    test.check()
    assert made(untouched) == []


def test_tests_of_a_file_leave_the_store_alone(untouched: Path) -> None:
    """The program's own store stays the same, byte for byte."""
    store = untouched / "bus.db"
    bus = Bus(f"sqlite:///{store}")
    bus.subscribe("orders.>", lambda message: None, name="sink").pause()
    with bus:
        bus.publish("orders.placed", "in production")
        bus.stop(timeout=1.0, drain=False)
    before = {one.name: one.read_bytes() for one in untouched.iterdir()}

    (test,) = file_tests(write(untouched, f"sqlite:///{store}", "handle"), handlers={"handle": lambda message: None})
    test.check()
    after = {one.name: one.read_bytes() for one in untouched.iterdir() if one.name in before}
    assert after == before


@pytest.mark.parametrize("command", [("pipebus", "test", "--allow", "shop"), ("pytest", "-q", "-o", "pipebus_allow=shop")])
@pytest.mark.parametrize("url", ["sqlite:///bus.db", "nats://127.0.0.1:1"])
@pytest.mark.thorough
def test_the_commands_run_tests_in_memory(command: tuple[str, ...], url: str, untouched: Path) -> None:
    """`pipebus test` and pytest's collection of a config file open nothing."""
    write(untouched, url)
    done = program(*command)
    assert (done.returncode, made(untouched)) == (0, []), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "temporary"),
    [
        (("pipebus", "test", "--allow", "shop"), ("--store", "temporary")),
        (("pytest", "-q", "-o", "pipebus_allow=shop"), ("-o", "pipebus_store=temporary")),
    ],
)
@pytest.mark.thorough
def test_the_commands_run_tests_on_a_temporary_store_on_request(
    command: tuple[str, ...], temporary: tuple[str, ...], untouched: Path
) -> None:
    """A test that needs a store fails in memory with an error that says how to get one, and passes with it."""
    write(untouched, "sqlite:///bus.db", "shop:bill")
    without = program(*command)
    assert without.returncode == 1
    assert "temporary" in without.stdout + without.stderr
    done = program(*command, *temporary)
    assert (done.returncode, made(untouched)) == (0, []), done.stdout + done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///${env:NO_SUCH_VARIABLE}",
        "sqlite:///${env:NO_SUCH_VARIABLE:?say where}",
        "sqlite:///${file:secrets/none}",
        "nats://app:${env:NO_SUCH_VARIABLE}@127.0.0.1:${env:NO_SUCH_PORT}",
        "${env:NO_SUCH_VARIABLE}",
    ],
)
def test_what_the_url_lacks_keeps_no_test_from_running(url: str, untouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that only production has fails no test, because tests do not use the URL; loading the bus does fail."""
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    path = write(untouched, url, "handle")
    (test,) = file_tests(path, handlers={"handle": lambda message: None})
    test.check()
    with pytest.raises(Exception, match=r"NO_SUCH_VARIABLE|no such file"):
        Bus.from_config(path, handlers={"handle": lambda message: None})


@pytest.mark.parametrize("url", ["sqlite:///${env:NOT CLOSED", "sqlite:///${enf:X}", "sqlit:///bus.db"])
def test_a_mistake_in_the_url_is_a_mistake_in_tests_too(url: str, untouched: Path) -> None:
    """A URL that is wrong in every environment is an error in tests too."""
    with pytest.raises(Exception, match="transport"):
        file_tests(write(untouched, url, "handle"), handlers={"handle": lambda message: None})


def test_what_else_the_file_lacks_is_a_mistake(untouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the transport is not used, so a variable that a filter needs must be there."""
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    path = write(untouched, "sqlite:///bus.db", "handle")
    path.write_text(path.read_text().replace('subject = "orders.>"', 'subject = "${env:NO_SUCH_VARIABLE}"'))
    with pytest.raises(Exception, match="NO_SUCH_VARIABLE"):
        file_tests(path, handlers={"handle": lambda message: None})

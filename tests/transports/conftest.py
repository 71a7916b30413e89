"""Buses on every transport, including one that exists only for the tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import capabilities
import pytest

from pipebus import Bus
from pipebus.transports.opening import TRANSPORTS

SMOKE = {
    "test_absent_subscriber_gets_everything_later",
    "test_same_id_is_one_message",
    "test_every_subscription_gets_a_copy",
    "test_group_gets_each_message_once",
    "test_subjects_are_isolated",
    "test_acknowledged_does_not_come_again",
    "test_a_delivery_is_settled_exactly_once",
    "test_order_is_kept_during_a_retry",
    "test_keys_are_exclusive_in_the_group",
    "test_failing_handler_makes_a_dead_letter_after_its_retries",
    "test_replayed_dead_letter_is_unchanged",
    "test_undecodable_is_dead_at_once",
    "test_mailbox_keeps_its_bound",
    "test_every_drop_is_counted",
    "test_stop_starts_no_other",
    "test_drain_settles_before_the_transport_closes",
    "test_cancelled_publish_is_clean",
    "test_messages_arrive_unchanged",
    "test_every_delivery_has_one_event_at_its_end",
    "test_missed_decides_about_slots_without_a_process",
    "test_receipts_are_true_after_a_swap",
    "test_group_removed_underneath_goes_on",
    "test_lost_message_shows_in_the_figures",
}
"""
Of the contract, what the default run has for each engine, and for memory behind the codec. It runs all of the contract on plain
memory, and `-m thorough` runs all of it on everything.
"""

CONTRACTS = {engine.tests: name for name, engine in capabilities.ENGINES.items()}
"""The modules that run the contract on an engine, and how the tables of engines name that."""

LONG = {"test_running_tasks_are_not_collected", "test_publish_during_stop_is_kept_or_raises"}
"""Tests of the contract that take seconds on every transport."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave most of the contract to the thorough run, and on core NATS all that its table says nothing about."""
    items[:] = [
        item
        for item in items
        if item.path.name != "test_contract_core.py" or getattr(item, "originalname", None) in capabilities.TESTS
    ]
    for item in items:
        if isinstance(item, pytest.Function) and item.path.name.startswith("test_contract_"):
            plain = item.path.name == "test_contract_memory.py" and stage_of(item) in (None, "memory:")
            told = item.path.name == "test_contract_sqlite.py" and item.originalname in capabilities.TESTS
            each_time = item.originalname in SMOKE or plain or told
            if not each_time or item.originalname in LONG:
                item.add_marker(pytest.mark.thorough)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """A test of the contract that passes finds on its engine what docs/capabilities.json says, or writes it there."""
    found = yield
    engine, test = engine_of_stage(pyfuncitem), pyfuncitem.originalname
    if engine and test in capabilities.TESTS:
        refused = sorted({name for wanted in pyfuncitem.funcargs["stage"].refused for name in wanted})
        if capabilities.RUN in os.environ:
            capabilities.write(test, engine, refused)
        said = capabilities.findings().get(test, {}).get(engine)
        assert said == refused, f"on {engine}, {test} has found {refused} refused; run `python docs/capabilities.py run`"
    return found


def engine_of_stage(item: pytest.Function) -> str | None:
    """The engine on which a test of the contract runs, as the tables of the engines name it."""
    if item.path.name == "test_contract_memory.py" and stage_of(item) != "memory:":
        return None
    return CONTRACTS.get(item.path.name)


def stage_of(item: pytest.Function) -> object:
    """The stage that a test of the contract is on; None for a test that needs no stage."""
    return item.callspec.params.get("stage") if hasattr(item, "callspec") else None


EVERYWHERE = ["memory:", "memory:?wire=json", "bytes:", "bytes:?delay=yes"]


@pytest.fixture(autouse=True)
def _byte_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own transport has a URL like any other."""
    monkeypatch.setitem(TRANSPORTS, "bytes", "byte_transport:ByteTransport.from_url")


@pytest.fixture(params=EVERYWHERE)
def url(request: pytest.FixtureRequest) -> str:
    """The URL of the transport that this test runs on."""
    found: str = request.param
    return found


MakeBus = Callable[..., Bus]


@pytest.fixture
def make_bus() -> Iterator[MakeBus]:
    """Return a function that makes buses, not yet started, and stop them when the test ends."""
    made: list[Bus] = []

    def make(url: str, **options: Any) -> Bus:
        made.append(Bus(url, **options))
        return made[-1]

    yield make
    for bus in made:
        bus.stop(timeout=10, drain=False)


@pytest.fixture
def bus(url: str, make_bus: MakeBus) -> Bus:
    """A bus on each transport, not yet started."""
    return make_bus(url)


@pytest.fixture
def stage(server: Any) -> Iterator[Any]:
    """A stage with its own stream on the server."""
    from nats_server import NatsStage

    stage = NatsStage(server)
    yield stage
    stage.wipe()

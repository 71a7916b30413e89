"""Buses on every transport there is, and on one of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipebus import Bus
from pipebus.transports.opening import TRANSPORTS

EVERYWHERE = ["memory:", "memory:?wire=json", "bytes:", "bytes:?delay=yes"]


@pytest.fixture(autouse=True)
def _byte_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own transport has a URL like any other."""
    monkeypatch.setitem(TRANSPORTS, "bytes", "byte_transport:ByteTransport.from_url")


@pytest.fixture(params=EVERYWHERE)
def url(request: pytest.FixtureRequest) -> str:
    """Where the bus of this test runs."""
    found: str = request.param
    return found


MakeBus = Callable[..., Bus]


@pytest.fixture
def make_bus() -> Iterator[MakeBus]:
    """Makes buses, not yet started, that are stopped when the test ends."""
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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A nats-server for the tests of one file."""
    from nats_server import NatsServer  # here, for it needs a package that others can do without

    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def stage(server: Any) -> Iterator[Any]:
    """A stream of its own on it."""
    from nats_server import NatsStage

    stage = NatsStage(server)
    yield stage
    stage.wipe()

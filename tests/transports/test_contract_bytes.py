"""
The contract of transports, on two of the tests' own: one that promises as little as can be, and one that promises everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from byte_transport import ByteTransport
from kept_transport import KeptStage

from pipebus import Bus
from pipebus.bus.bus import engine_of
from pipebus.testing.contract import *  # noqa: F403
from pipebus.testing.contract import Stage, UrlStage
from pipebus.transports.base import Capabilities


class BytesStage(UrlStage):
    """
    Buses on `ByteTransport`: a transport serves one bus after the other, as a program's only one.

    Args:
        delay: Whether it promises delayed publishing.
    """

    def __init__(self, delay: bool, **options: Any) -> None:
        super().__init__("bytes:", **options)
        self.delay = delay

    @property
    def capabilities(self) -> Capabilities:
        return ByteTransport(self.delay).capabilities

    def open(self, name: str = "contract", **options: Any) -> Bus:
        free = [
            engine_of(bus).transport
            for bus in self.buses
            if all(b.state == "stopped" for b in self.users(engine_of(bus).transport))
        ]
        bus = Bus(free[0] if free else ByteTransport(self.delay), name=name, **options)
        self.buses.append(bus)
        return bus

    def users(self, transport: ByteTransport) -> list[Bus]:
        return [bus for bus in self.buses if engine_of(bus).transport is transport]

    def lose_leases(self) -> None:
        for transport in {engine_of(bus).transport for bus in self.buses}:
            transport.lose()

    def inject(self, raw: bytes, subject: str) -> None:
        for transport in {engine_of(bus).transport for bus in self.buses if bus.state == "started"}:
            transport.inject(subject, raw)


STAGES: dict[str, Callable[[], Stage]] = {
    "bytes": lambda: BytesStage(delay=False),
    "bytes with delay": lambda: BytesStage(delay=True),
    "kept": KeptStage,
}


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = STAGES[request.param]()
    yield stage
    stage.wipe()

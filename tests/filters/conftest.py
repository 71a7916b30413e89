"""One filter at work: in a sync chain, in an async one, and under `apublish`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog

from pipebus import Bus, Message, Receipt
from pipebus.clock import Clock


@dataclass
class Passed:
    """
    What a message met.

    Args:
        outcome: What the publisher got.
        arrived: What lies in a mailbox that listens to everything.
        stats: The bus's figures.
    """

    outcome: Any
    arrived: list[Message]
    stats: dict[str, Any]

    @property
    def message(self) -> Message:
        """The one message that arrived."""
        assert self.outcome == Receipt(1)
        (message,) = self.arrived
        return message


Through = Callable[..., Passed]


async def pass_on(message: Message, call_next: Any) -> Any:
    """What makes a chain async."""
    return await call_next(message)


@pytest.fixture(params=["sync", "async", "apublish"])
def through(request: pytest.FixtureRequest) -> Through:
    """`through(filter, …, message)` sends one message through the filters of a publish chain of each colour."""

    def send(*parts: Any, clock: Clock | None = None) -> Passed:
        *filters, message = parts
        bus = Bus(clock=clock)
        if request.param == "async":
            bus.use(pass_on)
        bus.use(*filters)
        mailbox = bus.subscribe(">")
        with bus:
            outcome = asyncio.run(bus.asend(message)) if request.param == "apublish" else bus.send(message)
            arrived = [mailbox.receive(timeout=0) for _ in range(mailbox.stats()["pending"])]
            return Passed(outcome, arrived, bus.stats())

    return send


@pytest.fixture
def logs() -> Iterator[Callable[[], list[Any]]]:
    """`logs()`: what a Log filter has written, as structlog's own test helper sees it; the bus has lines of its own."""
    with structlog.testing.capture_logs() as entries:
        yield lambda: [entry for entry in entries if entry["event"].startswith("message.")]
    structlog.reset_defaults()

"""The clock of a simulation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pipebus.testing.clock import FakeClock

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation


class VirtualClock(FakeClock):
    """
    A `FakeClock` that stands still while anybody can go on.

    Args:
        tick: Seconds that pass whenever somebody looks at it.
        start: As for `FakeClock`.
    """

    def __init__(self, sim: Simulation, tick: float = 0.0, start: float | None = None) -> None:
        super().__init__(start)
        self.start -= sim.time  # which does not begin at 0
        self.sim = sim
        self.tick = tick

    def now(self) -> float:
        return self.start + self.monotonic()

    def monotonic(self) -> float:
        self.sim.time += self.tick
        return self.sim.time

    def made(self, bus: Any) -> None:
        """Told by each bus that goes by this clock."""
        if self.sim.bus_made:
            self.sim.bus_made[-1](bus)

    def advance(self, seconds: float) -> None:
        """Let so much time pass for everybody; see `Harness.advance`."""
        self.sim.advance(seconds)

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.sim.block(seconds, self.sim.time + seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # by the time of its loop, which is this one

    def wait(self, gate: Any, timeout: float | None) -> bool:
        __tracebackhide__ = True
        if timeout is None or timeout > 9e9:
            return bool(gate.acquire())
        return bool(gate.acquire(timeout=max(timeout, 0.0)))

    def wait_until_waited_for(self, threads: int = 1, timeout: float = 10.0) -> None:
        """All others come to rest, where they wait for time or for each other."""
        self.sim.rest()

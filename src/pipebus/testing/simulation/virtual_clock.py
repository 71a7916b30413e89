"""The clock of a simulation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pipebus.testing.clock import FakeClock

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation


class VirtualClock(FakeClock):
    """A `FakeClock` that moves only when no thread can go on, and by `tick` seconds each time it is read."""

    def __init__(self, sim: Simulation, tick: float = 0.0, start: float | None = None) -> None:
        super().__init__(start)
        self.start -= sim.time  # the simulation's time does not begin at 0
        self.sim = sim
        self.tick = tick

    def monotonic(self) -> float:
        self.sim.time += self.tick
        return self.sim.time

    def made(self, bus: Any) -> None:
        """Called by each bus that is made with this clock."""
        if self.sim.bus_made:
            self.sim.bus_made[-1](bus)

    def advance(self, seconds: float) -> None:
        """Let time pass for all threads; see `Harness.advance`."""
        self.sim.advance(seconds)

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.sim.block(seconds, self.sim.time + seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)  # its event loop is virtual too

    def wait(self, gate: Any, timeout: float | None) -> bool:
        __tracebackhide__ = True
        return bool(gate.acquire(timeout=-1 if timeout is None or timeout > 9e9 else max(timeout, 0.0)))

    def wait_until_waited_for(self, threads: int = 1, timeout: float = 10.0) -> None:
        """Let all other threads run until they wait for time or for each other."""
        self.sim.rest()

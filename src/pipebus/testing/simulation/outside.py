"""Calls from threads that the scheduler does not control."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from pipebus.testing.simulation import threads

if TYPE_CHECKING:
    from pipebus.testing.simulation.locks import SimLock
    from pipebus.testing.simulation.scheduler import Simulation

LONGEST_WAIT: Final = 1.0
"""Real seconds that a loop may wait for such a thread when no controlled thread can go on."""


class Outside:
    """
    Calls into a simulation's event loops from real threads, so that a coroutine may wait for what a real thread does.

    They wait here until the scheduler looks for the next thread to run.
    """

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._gates: deque[SimLock] = deque()
        self._called = threads.real_event()

    def calls(self, gate: SimLock) -> None:
        """A real thread has given a loop something to do; `gate` is what that loop waits for."""
        self._gates.append(gate)
        self._called.set()

    def let_in(self, wait: float = 0.0) -> bool:
        """
        Wake the loops that were called.

        Args:
            wait: Real seconds to wait for a call, if a loop waits for anything.

        Returns:
            Whether there was a call.
        """
        sim = self._sim
        if wait and any(task.waits_for is loop.something_to_do for task in sim.live for loop in sim.loops):
            self._called.wait(wait)
        self._called.clear()
        came = False
        while self._gates:
            gate = self._gates.popleft()
            if gate.held:
                gate.release()
            came = True
        return came

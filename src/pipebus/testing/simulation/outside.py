"""Calls from threads that the scheduler does not control."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pipebus.testing.simulation import threads
from pipebus.testing.simulation.locks import UserLock

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation

LONGEST_WAIT: Final = 1.0
"""Real seconds that a loop may wait for such a thread when no controlled thread can go on."""


class Outside:
    """Calls from real threads, which may wake a coroutine or release a lock; done when the scheduler chooses a thread."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._calls: deque[Callable[[], object]] = deque()
        self._called = threads.real_event()
        self.others = False  # real threads have used locks of the simulation

    def calls(self, call: Callable[[], object]) -> None:
        """A real thread has done something that wakes a controlled one."""
        self._calls.append(call)
        self._called.set()

    def expects(self) -> bool:
        """Whether a controlled thread waits for a lock that a real thread may release, even if it will not wait forever."""
        return self.others and any(isinstance(task.waits_for, UserLock) for task in self._sim.live)

    def let_in(self, wait: float = 0.0) -> bool:
        """Do what was called, also within `wait` real seconds if anything waits for it; return whether there was a call."""
        sim = self._sim
        if wait and (self.expects() or any(task.waits_for is loop.something_to_do for task in sim.live for loop in sim.loops)):
            self._called.wait(wait)
        self._called.clear()
        came = False
        while self._calls:
            self._calls.popleft()()
            came = True
        return came

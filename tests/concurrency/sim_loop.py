"""
Event loops in the scheduler's time: asyncio's own code runs, but a loop that has nothing to do waits as a controlled thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scheduler import Simulation


class SimLoop(asyncio.BaseEventLoop):
    """An event loop without sockets: it is woken by other threads' calls and by the virtual clock, and by nothing else."""

    def __init__(self, sim: Simulation) -> None:
        super().__init__()
        self.sim = sim
        self.set_debug(False)  # whatever the environment says: it would take other steps
        self.something_to_do = sim.closed_gate()
        self._selector = self  # asked for what has come from outside
        sim.loops.append(self)

    def time(self) -> float:
        return self.sim.clock.monotonic()

    def select(self, timeout: float | None) -> list[Any]:
        """Wait until another thread has called something, or for so many seconds."""
        gate = self.something_to_do
        if timeout is None:
            gate.acquire()
        else:
            gate.acquire(timeout=max(timeout, 0.0))
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Another thread has put a call on the loop's list."""
        self.sim.step()
        if self.something_to_do.held:
            self.something_to_do.release()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An error that nobody has caught, in a callback or a task, is the run's failure instead of a line in a log."""
        if not self.sim.over:
            error = context.get("exception")
            self.sim.fail(f"on a loop: {context.get('message')}: {type(error).__name__}: {error}", error)

    def close(self) -> None:
        if self.sim.over:
            self.sweep()
        super().close()

    def sweep(self) -> None:
        """A run that has failed leaves tasks that have not ended, or have not even begun."""
        for task in asyncio.all_tasks(self):
            coroutine = task.get_coro()
            if coroutine is not None:
                coroutine.close()

    def __del__(self) -> None:
        """A run that has failed does not close its loops; that is no news."""


class AsyncioShim:
    """Stands for the module `asyncio` in the package's modules."""

    def __init__(self, sim: Simulation) -> None:
        self.new_event_loop = lambda: SimLoop(sim)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


def run_loop(sim: Simulation, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """`asyncio.run(main())`, in the scheduler's time."""
    with asyncio.Runner(loop_factory=lambda: SimLoop(sim)) as runner:
        return runner.run(main())

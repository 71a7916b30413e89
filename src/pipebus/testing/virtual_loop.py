"""
Event loops in the scheduler's time: asyncio's own code runs, but a loop that has nothing to do waits as a controlled thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipebus.testing.scheduler import Simulation


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

    def run_in_executor(self, executor: Any, call: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Each call on a thread of its own: the threads of a real executor wait for what the scheduler does not know of."""
        future: asyncio.Future[Any] = self.create_future()

        def give(error: BaseException | None, value: Any) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)

        def run() -> None:
            try:
                value = call(*arguments)
            except Exception as error:
                found: tuple[BaseException | None, Any] = (error, None)
            else:
                found = (None, value)
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self.call_soon_threadsafe(give, *found)

        self.sim.adopt(threading.Thread(target=run, name="executor", daemon=True))
        return future

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
            self.sim.loop_failed(str(context.get("message")), context.get("exception"))

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
        self.sim = sim

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return SimLoop(self.sim) if self.sim.here() else asyncio.new_event_loop()

    def get_running_loop(self) -> asyncio.AbstractEventLoop:
        """What the package asks for before it waits on a loop."""
        loop = asyncio.get_running_loop()
        if self.sim.here() and not isinstance(loop, SimLoop):
            raise RuntimeError(
                "a bus of a Harness cannot be waited for on a real event loop: nobody would have his turn; write "
                "harness.run(coroutine) in a plain test"
            )
        return loop

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


def run_loop(sim: Simulation, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """`asyncio.run(main())`, in the scheduler's time."""
    with asyncio.Runner(loop_factory=lambda: SimLoop(sim)) as runner:
        return runner.run(main())

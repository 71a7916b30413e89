"""Event loops in virtual time: asyncio's own code, but a loop that has nothing to do waits under the scheduler's control."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation


class SimLoop(asyncio.BaseEventLoop):
    """An event loop without sockets: only calls from other threads and the virtual clock wake it."""

    def __init__(self, sim: Simulation) -> None:
        super().__init__()
        self.sim = sim
        self.set_debug(False)  # also if the environment asks for it: a debugging loop takes other steps
        self.something_to_do = sim.closed_gate()
        self._selector = self  # `select` below takes the selector's place
        self._clock_resolution = 1e-6  # a nanosecond is lost in a time of some months
        sim.loops.append(self)

    def time(self) -> float:
        return self.sim.clock.monotonic()

    def select(self, timeout: float | None) -> list[Any]:
        """Wait until another thread has given the loop something to do, or for this many seconds."""
        self.something_to_do.acquire(timeout=-1 if timeout is None else max(timeout, 0.0))
        return []

    def run_in_executor(self, executor: Any, call: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run each call on a thread of its own: a real executor's threads wait where the scheduler does not know of it."""
        future: asyncio.Future[Any] = self.create_future()

        def give(end: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                end(value)

        def run() -> None:
            try:
                found: tuple[Any, Any] = future.set_result, call(*arguments)
            except Exception as error:
                found = future.set_exception, error
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self.call_soon_threadsafe(give, *found)

        self.sim.adopt(threading.Thread(target=run, name="executor", daemon=True))
        return future

    async def _nothing_outside(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError(
            "an event loop of a Harness has no sockets and no subprocesses, because they do not run in virtual time; "
            "replace what uses them, or test this on a bus of its own"
        )

    create_connection = create_server = create_datagram_endpoint = getaddrinfo = getnameinfo = _nothing_outside
    sock_connect = sock_accept = sock_recv = sock_sendall = sock_sendto = sock_recvfrom = _nothing_outside
    subprocess_exec = subprocess_shell = connect_read_pipe = connect_write_pipe = _nothing_outside

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Wake the loop: another thread, under the scheduler's control or not, has put a call on its list."""
        if self.sim.here():
            self.sim.step()
        elif self.sim.running is not None and not self.sim.over:
            self.sim.outside.calls(self._let_go)
            return
        self._let_go()

    def _let_go(self) -> None:
        if self.something_to_do.held:
            self.something_to_do.release()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An uncaught error in a callback or a task fails the run; asyncio would log it."""
        if not self.sim.over:
            self.sim.loop_failed(str(context.get("message")), context.get("exception"))

    def close(self) -> None:
        if self.sim.over:
            self.sweep()
        super().close()

    def sweep(self) -> None:
        """Close the coroutines of tasks that a failed run leaves behind, so that Python does not warn of them."""
        for task in asyncio.all_tasks(self):
            coroutine = task.get_coro()
            if coroutine is not None:
                with suppress(RuntimeError, ValueError):  # a thread that the scheduler has lost is running it
                    coroutine.close()

    def run_until_complete(self, future: Any) -> Any:
        if self.sim.over and inspect.iscoroutine(future):
            future.close()  # the run is over: its first step would raise
            raise self.sim.end()
        return super().run_until_complete(future)

    def __del__(self) -> None:
        """Do not warn that the loop was not closed: a failed run does not close its loops."""


class SimFuture:
    """What `asyncio.run_coroutine_threadsafe` returns; a thread waits for its result under the scheduler's control."""

    def __init__(self, sim: Simulation, coroutine: Coroutine[Any, Any, Any], loop: SimLoop) -> None:
        self._gate = sim.closed_gate()
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._ended: Callable[[], Any] | None = None

        def begin() -> None:
            self._task = loop.create_task(coroutine)
            self._task.add_done_callback(self._end)

        loop.call_soon_threadsafe(begin)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._ended = task.result
        self._gate.release()

    def result(self) -> Any:
        self._gate.acquire()
        try:
            return self._ended()  # type: ignore[misc]
        except asyncio.CancelledError:
            raise concurrent.futures.CancelledError from None

    def cancel(self) -> None:
        def cancel() -> None:
            if self._task is not None:
                self._task.cancel()

        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(cancel)


class Shim:
    """A module, as the package's modules see it. Threads that the scheduler does not control get the real things."""

    def __init__(self, sim: Simulation, module: ModuleType) -> None:
        self.sim = sim
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class AsyncioShim(Shim):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return SimLoop(self.sim) if self.sim.here() else asyncio.new_event_loop()

    def _get_running_loop(self) -> asyncio.AbstractEventLoop | None:
        """None also on a real loop: the package asks this before it blocks, which here takes no time and holds up no loop."""
        loop = asyncio._get_running_loop()
        return None if self.sim.here() and not isinstance(loop, SimLoop) else loop

    def run_coroutine_threadsafe(self, coroutine: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> Any:
        if isinstance(loop, SimLoop):
            return SimFuture(self.sim, coroutine, loop)
        return asyncio.run_coroutine_threadsafe(coroutine, loop)

    def get_running_loop(self) -> asyncio.AbstractEventLoop:
        """The package asks this before it waits in a coroutine, which works only on a virtual loop."""
        loop = asyncio.get_running_loop()
        if self.sim.here() and not isinstance(loop, SimLoop):
            raise RuntimeError(
                "a bus of a Harness cannot be waited for on a real event loop: no other thread could run; write "
                "harness.run(coroutine) in a plain test"
            )
        return loop


def run_loop(sim: Simulation, main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """`asyncio.run(main())`, in virtual time."""
    with asyncio.Runner(loop_factory=lambda: SimLoop(sim)) as runner:
        return runner.run(main())

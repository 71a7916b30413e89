"""
What stands for locks, time and threads while a simulation runs: the package's own code, and nothing else, is given these.
"""

from __future__ import annotations

import asyncio
import queue
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from pipebus.errors import LifecycleError
from pipebus.testing.clock import FakeClock

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation, Task


class SimLock:
    """`threading.Lock`, as the scheduler sees it."""

    def __init__(self, sim: Simulation, frame: Any = None) -> None:
        self.sim = sim
        self.held = False
        self.holder: Task | None = None
        made = frame or sys._getframe(2)
        self.made = (made.f_code.co_filename, made.f_lineno)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        __tracebackhide__ = True
        sim = self.sim
        if sim.running is None:  # before the run or after it
            if self.held and blocking:
                raise RuntimeError("a lock is held although nobody runs")
            taken, self.held = not self.held, True
            return taken
        if sim.over:
            raise sim.end()
        if sim.running.thread.ident != get_ident():
            raise foreign(threading.current_thread().name)
        sim.step()
        deadline = sim.time + timeout if timeout >= 0 else None
        while self.held:
            if not blocking and sim.running is not None:
                sim.running.missed = self
            if not blocking or (deadline is not None and sim.time >= deadline):
                return False
            sim.block(self, deadline)
        self.held = True
        return True

    def release(self) -> None:
        if not self.held:
            raise RuntimeError("release unlocked lock")
        self.held, self.holder = False, None
        if not self.sim.over:
            self.sim.wake(self)

    def locked(self) -> bool:
        if self.held and self.sim.running is not None:
            self.sim.running.missed = self
        return self.held

    def __enter__(self) -> bool:
        self.acquire()
        self.holder = self.sim.running  # known only here: a gate is acquired by one thread and released by another
        return True

    def __exit__(self, *_: object) -> None:
        self.release()


class SimRLock(SimLock):
    """`threading.RLock`."""

    def __init__(self, sim: Simulation, frame: Any = None) -> None:
        super().__init__(sim, frame or sys._getframe(2))
        self.times = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if (self.held and self.holder is self.sim.running) or super().acquire(blocking, timeout):
            self.times += 1
            self.holder = self.sim.running
            return True
        return False

    def release(self) -> None:
        self.times -= 1
        if self.times == 0:
            super().release()

    # What a `threading.Condition` asks of its lock.

    def _is_owned(self) -> bool:
        return self.held and self.holder is self.sim.running

    def _release_save(self) -> int:
        times, self.times = self.times, 1
        self.release()
        return times

    def _acquire_restore(self, times: int) -> None:
        self.acquire()
        self.times = times


class SimEvent:
    """`threading.Event`: each who waits has a closed gate, which is opened when it is set."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._set = False
        self._gates: list[SimLock] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        gates, self._gates = self._gates, []
        for gate in gates:
            gate.release()

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            gate = self._sim.closed_gate()
            self._gates.append(gate)
            if not gate.acquire(timeout=-1 if timeout is None else max(timeout, 0.0)) and gate in self._gates:
                self._gates.remove(gate)
        return self._set


class Shim:
    """Stands for the module `threading` in the package's modules. Threads of others are given the real things."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim

    def Lock(self) -> Any:  # noqa: N802
        return SimLock(self.sim) if self.sim.here() else real_lock()

    def RLock(self) -> Any:  # noqa: N802
        return SimRLock(self.sim) if self.sim.here() else real_rlock()

    def Event(self) -> Any:  # noqa: N802
        return SimEvent(self.sim) if self.sim.here() else real_event()

    def __getattr__(self, name: str) -> Any:
        if name in {"Condition", "Semaphore", "BoundedSemaphore", "Barrier", "Timer"}:
            raise NotImplementedError(f"the scheduler has no {name} yet")
        return getattr(threading, name)


class TimeShim:
    """Stands for the module `time`."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim

    def sleep(self, seconds: float) -> None:
        if not self.sim.here():
            time.sleep(seconds)
        elif seconds > 0:
            self.sim.clock.sleep(seconds)
        else:
            self.sim.give_way()

    def time(self) -> float:
        return self.sim.clock.now() if self.sim.here() else time.time()

    def monotonic(self) -> float:
        return self.sim.clock.monotonic() if self.sim.here() else time.monotonic()

    def clock_gettime(self, which: int) -> float:
        return self.sim.clock.monotonic() if self.sim.here() else time.clock_gettime(which)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class SimSocket:
    """One end of a pair: what `bus.run` listens to."""

    def __init__(self, sim: Simulation, real: socket.socket) -> None:
        self.gate = SimLock(sim)
        self.gate.held = True
        self.real = real
        self.other: SimSocket

    def recv(self, size: int) -> bytes:
        self.gate.acquire()
        return b"!"

    def send(self, data: bytes) -> int:
        if self.other.gate.held:
            self.other.gate.release()
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class SocketShim:
    """Stands for the module `socket`."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim

    def socketpair(self) -> tuple[Any, Any]:
        if not self.sim.here():
            return socket.socketpair()
        one, other = (SimSocket(self.sim, real) for real in socket.socketpair())
        one.other, other.other = other, one
        return one, other

    def __getattr__(self, name: str) -> Any:
        return getattr(socket, name)


class RandomShim:
    """Stands for the module `random`: what a filter decides by chance, a seed decides."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim

    def Random(self, seed: Any = None) -> random.Random:  # noqa: N802
        return random.Random(self.sim.random.random() if seed is None and self.sim.here() else seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(random, name)


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


BETWEEN: Final = frozenset((threading.__file__, queue.__file__, "<string>"))
"""Between whoever makes a lock and the lock: the standard library's own, and what dataclasses write."""

real_lock, real_rlock, real_event = threading.Lock, threading.RLock, threading.Event
real_start, real_join, real_is_alive = threading.Thread.start, threading.Thread.join, threading.Thread.is_alive
taking = threading.Lock()
current: Simulation | None = None
"""The simulation that runs in this process, if one does."""


@contextmanager
def locks(sim: Simulation, files: dict[str, bool] | None) -> Iterator[None]:
    """
    Locks that are made meanwhile on the simulation's threads are virtual, and so are the conditions, semaphores, events and
    queues that the standard library makes of them.

    Args:
        files: Only those that code of these files makes; None: anybody's.
    """
    real = threading.Lock, threading.RLock, threading._allocate_lock  # type: ignore[attr-defined]

    def theirs() -> bool:
        """Made by the user's own code, and not for a thread (which is a real one) or a module that is being imported."""
        frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename in BETWEEN:
            if frame.f_code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), threading.Thread):
                return False
            frame = frame.f_back  # type: ignore[assignment]
        return frame is not None and sim.here() and (files is None or frame.f_code.co_filename in files)

    def lock() -> Any:
        return SimLock(sim) if theirs() else real[0]()

    def rlock() -> Any:
        return SimRLock(sim) if theirs() else real[1]()

    def allocate() -> Any:
        """What a condition's waiter stands at: of the kind of its lock."""
        owner = sys._getframe(1).f_locals.get("self")
        return SimLock(sim) if isinstance(getattr(owner, "_lock", None), SimLock) else real[2]()

    with ExitStack() as stack:
        replaced = [(threading, "Lock", lock), (threading, "RLock", rlock), (threading, "_allocate_lock", allocate)]
        for module in list(sys.modules.values()) if files else ():
            if getattr(module, "__file__", None) in (files or ()):  # `from threading import Lock`
                names = vars(module).items()
                replaced += [(module, name, lock) for name, value in names if value is real[0]]
                replaced += [(module, name, rlock) for name, value in names if value is real[1]]
        for module, name, shim in replaced:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, shim)
        yield


def leave() -> None:
    """Nothing of a simulation is left: the next may come."""
    global current  # noqa: PLW0603
    current = None


def replace_threads() -> None:
    threading.Thread.start, threading.Thread.join = start, join  # type: ignore[method-assign,assignment]
    threading.Thread.is_alive = is_alive  # type: ignore[method-assign,assignment]


def restore_threads() -> None:
    threading.Thread.start, threading.Thread.join = real_start, real_join  # type: ignore[method-assign]
    threading.Thread.is_alive = real_is_alive  # type: ignore[method-assign]


def here() -> Simulation | None:
    """The one whose thread this is."""
    return current if current is not None and current.here() else None


def start(thread: threading.Thread) -> None:
    """Threads that the bus starts are the simulation's. (Those of others would wait for things that it knows nothing of.)"""
    sim = here()
    if sim is None or not sys._getframe(1).f_globals.get("__name__", "").startswith("pipebus."):
        real_start(thread)
    else:
        owner = getattr(thread, "pool", None) or getattr(getattr(thread, "_target", None), "__self__", None)
        if getattr(owner, "clock", sim.clock) is not sim.clock:
            raise LifecycleError(
                "a bus that was made outside the harness, or with a clock of its own, is used inside; make it inside "
                "(in a function that the test calls), and leave `clock` out"
            )
        sim.adopt(thread)


def join(thread: threading.Thread, timeout: float | None = None) -> None:
    sim = here()
    task = sim.task_of(thread) if sim is not None else None
    if sim is None or task is None:
        real_join(thread, timeout)
        return
    sim.step()
    if not task.ended and (timeout is None or timeout > 0):
        sim.block(task, None if timeout is None else sim.time + timeout)


def is_alive(thread: threading.Thread) -> bool:
    sim = here()
    task = sim.task_of(thread) if sim is not None else None
    return not task.ended if task is not None else real_is_alive(thread)


def foreign(name: str) -> RuntimeError:
    return RuntimeError(
        f"thread {name} uses a bus (or a call_next) of pipebus.testing, which knows nothing of that thread; start it with "
        "harness.thread(call, …), so that it has its turn like the others, or test this on a bus of its own, without a harness"
    )

"""Locks that the scheduler knows, in place of those of `threading`."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final

from pipebus.testing.simulation.threads import foreign

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation
    from pipebus.testing.simulation.task import Task


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
        if sim.running is None:  # before the run, or after it
            if self.held and blocking:
                raise RuntimeError("a lock is held although no thread is running")
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
        if sim.running is not None:
            sim.running.missed = None  # it has gone on, so it does not poll that lock any more
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
        self.holder = self.sim.running  # not in `acquire`: a gate is acquired by one thread and released by another
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

    # What a `threading.Condition` calls on its lock.

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
    """`threading.Event`: each waiting thread has a closed gate, which `set` opens."""

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


BETWEEN: Final = frozenset((threading.__file__, queue.__file__, "<string>"))
"""Files whose frames may be between the code that makes a lock and the lock: the library's, and what dataclasses generate."""


@contextmanager
def locks(sim: Simulation, files: dict[str, bool] | None) -> Iterator[None]:
    """
    Make every lock virtual that the simulation's threads create in the block, and so the conditions, semaphores, events and
    queues that the standard library builds on them.

    Args:
        files: Only locks that code in these files makes; None: all.
    """
    real = threading.Lock, threading.RLock, threading._allocate_lock  # type: ignore[attr-defined]

    def theirs() -> bool:
        """Whether the user's code makes the lock: not a `Thread` (which is real) and not an import."""
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
        """The lock that a waiter of a condition acquires; it must be of the same kind as the condition's own."""
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

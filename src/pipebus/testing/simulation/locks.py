"""Locks that the scheduler knows, in place of those of `threading`."""

from __future__ import annotations

import contextvars
import copy
import copyreg
import queue
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import _base as futures
from contextlib import ExitStack, contextmanager
from threading import get_ident
from time import monotonic, sleep  # the real ones, whatever takes their places in `time`
from typing import TYPE_CHECKING, Any, Final

from pipebus.testing.simulation import threads
from pipebus.testing.simulation.threads import here, real_event, real_lock, real_rlock

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation
    from pipebus.testing.simulation.threads import Task

LONGEST_WAIT: Final = 1.0
"""Real seconds that a loop may wait for a thread that the scheduler does not control, when no controlled thread can go on."""


class SimLock:
    """`threading.Lock`, as the scheduler sees it."""

    of_the_user = False

    def __init__(self, sim: Any, frame: Any = None) -> None:
        self.sim: Simulation = sim
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
            raise threads.ForeignThread(sim.foreign)
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
        if not self.held and not self.sim.over:
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

    def __init__(self, sim: Any, frame: Any = None) -> None:
        super().__init__(sim, frame or sys._getframe(2))
        self.times = 0
        self.owner = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._is_owned() or super().acquire(blocking, timeout):
            self.times += 1
            self.holder = self.sim.running
            self.owner = get_ident()
            return True
        return False

    def release(self) -> None:
        self.times -= 1
        if self.times == 0:
            super().release()

    # What a `threading.Condition` calls on its lock.

    def _is_owned(self) -> bool:
        return self.held and self.owner == get_ident()

    def _release_save(self) -> int:
        times, self.times = self.times, 1
        self.release()
        return times

    def _acquire_restore(self, times: int) -> None:
        self.acquire()
        self.times = times


class UserLock(SimLock):
    """A lock of the user's code. Threads that the scheduler does not control may acquire it too, by polling."""

    sim: Any  # Simulation | None: of no run yet
    of_the_user = True

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        sim = here()
        if sim is not None:
            if sim is not self.sim and not self.held:
                self.sim = sim  # the run in which it was made has ended
            return super().acquire(blocking, timeout)
        if self.sim is not None:
            self.sim.outside.others = True
        until = monotonic() + timeout if timeout >= 0 else None
        pause = 0.0005
        while self.held:
            if not blocking or (until is not None and monotonic() >= until):
                return False
            pause = min(2 * pause, 0.05)
            sleep(pause)
        self.held = True  # no other thread can run between the last look and this
        return True

    def release(self) -> None:
        if here() is not None:
            super().release()
        else:
            self.held, self.holder, sim = False, None, self.sim
            if sim is not None:
                sim.outside.calls(lambda: sim.wake(self))


class Waiter(UserLock):
    """What `wait` of a condition waits for, and so what an event, a semaphore, a queue and a future wait for."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self.held and blocking:
            self.will_wait()
        return super().acquire(blocking, timeout)

    def will_wait(self) -> None:
        """`blocking` looks here for waits on an event loop."""


class UserRLock(SimRLock, UserLock):
    """The same for a `threading.RLock`."""


class Outside:
    """Calls from real threads, which may wake a coroutine or release a lock; done when the scheduler chooses a thread."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._calls: deque[Callable[[], object]] = deque()
        self._called = real_event()
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


BETWEEN: Final = frozenset((threading.__file__, queue.__file__, futures.__file__, "<string>"))
"""Files whose frames may be between the code that makes a lock and the lock: the library's, and what dataclasses generate."""


@contextmanager
def locks(files: Collection[str]) -> Iterator[None]:
    """Make virtual what code in these files makes on a simulation's threads: locks, and what the library builds on them."""
    real = threading.Lock, threading.RLock, threading._allocate_lock  # type: ignore[attr-defined]

    def sim_here() -> Simulation | None:
        """The simulation, if the user's code makes the lock: not a `Thread` (which is real) and not an import."""
        frame = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename in BETWEEN:
            if frame.f_code.co_name == "__init__" and isinstance(frame.f_locals.get("self"), threading.Thread):
                return None
            frame = frame.f_back  # type: ignore[assignment]
        return here() if frame is not None and frame.f_code.co_filename in files else None

    def lock() -> Any:
        sim = sim_here()
        return real[0]() if sim is None else UserLock(sim)

    def rlock() -> Any:
        sim = sim_here()
        return real[1]() if sim is None else UserRLock(sim)

    def allocate() -> Any:
        """The lock that a waiter of a condition acquires; it must be of the same kind as the condition's own."""
        own = getattr(sys._getframe(1).f_locals.get("self"), "_lock", None)
        return Waiter(own.sim) if isinstance(own, UserLock) else SimLock(own.sim) if isinstance(own, SimLock) else real[2]()

    replaced = [(threading, "Lock", lock), (threading, "RLock", rlock), (threading, "_allocate_lock", allocate)]
    with instead([*replaced, *imported([(real[0], lock), (real[1], rlock)], files)]):
        yield


def imported(shims: list[tuple[Any, Any]], files: Collection[str]) -> list[tuple[Any, str, Any]]:
    """Where modules of these files have a name for what has a shim, as after `from threading import Lock`; with the shim."""
    of = {id(real): shim for real, shim in shims}
    modules = [module for module in list(sys.modules.values()) if getattr(module, "__file__", None) in files]
    return [(module, name, of[id(one)]) for module in modules for name, one in list(vars(module).items()) if id(one) in of]


@contextmanager
def instead(replaced: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Replace attributes of modules until the block ends."""
    with ExitStack() as stack:
        for module, name, shim in replaced:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, shim)
        yield


def renewed(value: Any) -> Any:
    """A deep copy of a value, with new locks in place of its locks; modules and marks (`object()`) stay the same."""
    kinds: dict[type, Callable[[Any], Any]] = {
        **dict.fromkeys((object, types.ModuleType, contextvars.ContextVar), lambda _: "the same"),
        threading.local: lambda _: (threading.local, ()),
        **dict.fromkeys((type(real_lock()), UserLock), lambda _: (_new, (UserLock, real_lock))),
        **dict.fromkeys((type(real_rlock()), UserRLock), lambda _: (_new, (UserRLock, real_rlock))),
        threading.Condition: lambda condition: (threading.Condition, (condition._lock,)),
    }
    known = {kind: copyreg.dispatch_table[kind] for kind in kinds if kind in copyreg.dispatch_table}
    copyreg.dispatch_table.update(kinds)
    try:
        return copy.deepcopy(value)
    finally:
        for kind in kinds:
            del copyreg.dispatch_table[kind]
        copyreg.dispatch_table.update(known)


def _new(virtual: type[SimLock], real: Callable[[], Any]) -> Any:
    sim = here()
    return real() if sim is None else virtual(sim)


@contextmanager
def shared_locks(files: Collection[str]) -> Iterator[None]:
    """Make the locks virtual that modules of these files, and their classes, have had since they were imported."""
    virtual: dict[type, type[UserLock]] = {type(real_lock()): UserLock, type(real_rlock()): UserRLock}
    made: dict[int, UserLock] = {}
    replaced = []
    for module in [one for one in list(sys.modules.values()) if getattr(one, "__file__", None) in files]:
        classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
        for owner in (module, *classes):
            for name, value in list(vars(owner).items()):
                if type(value) in virtual:
                    replaced.append((owner, name, made.setdefault(id(value), virtual[type(value)](None))))
    with instead(replaced):
        yield

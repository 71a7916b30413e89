"""What the package's modules find in place of `threading`, `time`, `socket` and `random` during a simulation."""

from __future__ import annotations

import random
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from pipebus.testing.simulation.locks import SimEvent, SimLock, SimRLock
from pipebus.testing.simulation.threads import real_event, real_lock, real_rlock

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation


class ThreadingShim:
    """The module `threading`. Threads that the scheduler does not control get the real objects."""

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
            raise NotImplementedError(f"the scheduler does not support {name} yet")
        return getattr(threading, name)


class TimeShim:
    """The module `time`."""

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
    """One end of a pair of sockets: `bus.run` reads from one to learn of signals."""

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
    """The module `socket`."""

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
    """The module `random`: the seed decides what filters decide by chance."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim

    def Random(self, seed: Any = None) -> random.Random:  # noqa: N802
        return random.Random(self.sim.random.random() if seed is None and self.sim.here() else seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(random, name)

"""Virtual time, locks, chance and stores in place of the real ones, for as long as a simulation runs."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from pipebus.clock import SYSTEM
from pipebus.message.ids import repeatable
from pipebus.testing.simulation import threads
from pipebus.testing.simulation.locks import SimEvent, SimLock, SimRLock, instead
from pipebus.testing.simulation.virtual_loop import AsyncioShim, Shim
from pipebus.transports.opening import open_transport

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation

NAMES: Final = ("threading", "time", "asyncio", "_time", "socket", "random", "os", "secrets", "SYSTEM", "open_transport")
"""What is replaced, under the names that the package's modules have for it."""

_ours: tuple[object, list[Any], dict[str, list[Any]]] = (None, [], {})


@contextmanager
def in_place(sim: Simulation, collecting: bool = False) -> Iterator[None]:
    """Until the block ends; with `collecting`, the garbage collector and the log stay as they are."""
    __tracebackhide__ = True
    threads.enter(sim)
    with ExitStack() as stack:  # undone in reverse order: the next simulation may enter when everything is as it was
        stack.callback(threads.leave)
        _replace(sim, stack)
        stack.enter_context(repeatable(sim.clock.now(), sim.chance(8)))
        if not collecting:
            _keep_still(stack)
        yield


def _our_modules() -> tuple[list[Any], dict[str, list[Any]]]:
    """The package's loaded modules, and those that have each of the names; looked for again after an import."""
    global _ours  # noqa: PLW0603
    last = next(reversed(sys.modules))
    key = len(sys.modules), last, id(sys.modules[last])
    if _ours[0] != key:
        modules = [module for name, module in sorted(sys.modules.items()) if f"{name}.".startswith("pipebus.")]
        users = [module for module in modules if not f"{module.__name__}.".startswith("pipebus.testing.")]
        _ours = key, modules, {name: [module for module in users if name in vars(module)] for name in NAMES}
    return _ours[1:]


def _replace(sim: Simulation, stack: ExitStack) -> None:
    _, having = _our_modules()

    def open_in_place(url: str) -> Any:
        """What a bus made in the simulation runs on: no file or server that a URL names is touched."""
        declared = open_transport(url)
        return declared if declared.local or not sim.here() else sim.place(declared, url)

    shims = (
        ("threading", threading, ThreadingShim(sim, threading)),
        ("time", time, TimeShim(sim, time)),
        ("asyncio", asyncio, AsyncioShim(sim, asyncio)),
        ("_time", time, TimeShim(sim, time)),
        ("socket", socket, SocketShim(sim, socket)),
        ("random", random, RandomShim(sim, random)),
        ("os", os, OsShim(sim, os)),
        ("secrets", secrets, SecretsShim(sim, secrets)),
        ("SYSTEM", SYSTEM, sim.clock),
        ("open_transport", open_transport, open_in_place),
    )
    replaced: list[tuple[Any, str, Any]] = [
        (module, name, shim) for name, real, shim in shims for module in having[name] if getattr(module, name, None) is real
    ]
    replaced += [(threading.Thread, one.__name__, one) for one in (threads.start, threads.join, threads.is_alive)]
    stack.enter_context(instead(replaced))


def _keep_still(stack: ExitStack) -> None:
    """Stop what would make one run take other steps than the next."""
    log = logging.getLogger("pipebus")
    stack.callback(setattr, log, "disabled", log.disabled)
    log.disabled = True  # the runs stop many buses early on purpose, and each would log a warning
    for module in _our_modules()[0]:
        # Caches that outlive a bus: a run that finds an entry takes other steps than the run that made it.
        getattr(module, "REMEMBERED", {}).clear()
    if gc.isenabled():
        stack.callback(gc.enable)
        gc.disable()  # a finalizer of an earlier run would take steps in this one


# --- what the package's modules find in place of modules of the standard library -------------------------------------------


class ThreadingShim(Shim):
    def Lock(self) -> Any:  # noqa: N802
        return SimLock(self.sim) if self.sim.here() else threads.real_lock()

    def RLock(self) -> Any:  # noqa: N802
        return SimRLock(self.sim) if self.sim.here() else threads.real_rlock()

    def Event(self) -> Any:  # noqa: N802
        return SimEvent(self.sim) if self.sim.here() else threads.real_event()

    def __getattr__(self, name: str) -> Any:
        if name in {"Condition", "Semaphore", "BoundedSemaphore", "Barrier", "Timer"}:
            raise NotImplementedError(f"the scheduler does not support {name} yet")
        return super().__getattr__(name)


class TimeShim(Shim):
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


class SimSocket:
    """One end of a pair of sockets: `bus.run` reads from one to learn of signals."""

    other: SimSocket

    def __init__(self, sim: Simulation, real: socket.socket) -> None:
        self.gate = sim.closed_gate()
        self.real = real

    def recv(self, size: int) -> bytes:
        self.gate.acquire()
        return b"!"

    def send(self, data: bytes) -> int:
        if self.other.gate.held:
            self.other.gate.release()
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class SocketShim(Shim):
    def socketpair(self) -> tuple[Any, Any]:
        if not self.sim.here():
            return socket.socketpair()
        one, other = (SimSocket(self.sim, real) for real in socket.socketpair())
        one.other, other.other = other, one
        return one, other


class OsShim(Shim):
    """The seed decides the ids of messages and dead letters."""

    def urandom(self, size: int) -> bytes:
        return self.sim.chance(size) if self.sim.here() else os.urandom(size)


class SecretsShim(Shim):
    """The seed decides the addresses of replies."""

    def token_urlsafe(self, size: int) -> str:
        return self.sim.chance(size).hex() if self.sim.here() else secrets.token_urlsafe(size)


class RandomShim(Shim):
    """The seed decides what filters decide by chance."""

    def Random(self, seed: Any = None) -> random.Random:  # noqa: N802
        return random.Random(self.sim.random.random() if seed is None and self.sim.here() else seed)

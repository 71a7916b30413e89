"""Putting virtual time, locks, chance and stores in place of the real ones, for as long as a simulation runs."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from pipebus.clock import SYSTEM
from pipebus.testing.simulation import threads
from pipebus.testing.simulation.shims import RandomShim, SocketShim, ThreadingShim, TimeShim
from pipebus.testing.simulation.virtual_loop import AsyncioShim
from pipebus.transports.opening import open_transport

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation

NAMES: Final = ("threading", "time", "asyncio", "_time", "socket", "random", "SYSTEM", "open_transport")
"""What is replaced, under the names that the package's modules have for it."""


@contextmanager
def in_place(sim: Simulation, collecting: bool = False) -> Iterator[None]:
    """
    Give the package's modules virtual threads, locks, time and chance until the block ends.

    Args:
        collecting: Leave the garbage collector and the log as they are.

    Raises:
        LifecycleError: Another simulation runs in this process.
    """
    __tracebackhide__ = True
    threads.enter(sim)
    with ExitStack() as stack:  # undone in reverse order: the next simulation may enter when everything is as it was
        stack.callback(threads.leave)
        _replace(sim, stack)
        if not collecting:
            _keep_still(stack)
        yield


_ours: tuple[object, list[Any], dict[str, list[Any]]] = (None, [], {})


def _our_modules() -> tuple[list[Any], dict[str, list[Any]]]:
    """
    The package's loaded modules; and those that have each of the names that are replaced.

    Looked for again when a module was imported since: a simulation takes milliseconds, and this takes as long.
    """
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

    for name, real, shim in (
        ("threading", threading, ThreadingShim(sim)),
        ("time", time, TimeShim(sim)),
        ("asyncio", asyncio, AsyncioShim(sim)),
        ("_time", time, TimeShim(sim)),
        ("socket", socket, SocketShim(sim)),
        ("random", random, RandomShim(sim)),
        ("SYSTEM", SYSTEM, sim.clock),
        ("open_transport", open_transport, open_in_place),
    ):
        for module in having[name]:
            if getattr(module, name, None) is real:
                stack.callback(setattr, module, name, real)
                setattr(module, name, shim)
    stack.callback(threads.restore_threads)
    threads.replace_threads()


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

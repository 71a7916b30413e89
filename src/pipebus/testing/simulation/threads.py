"""Threads under the scheduler's control, what ends them, and which simulation runs."""

from __future__ import annotations

import sys
import threading
from _thread import allocate_lock
from typing import TYPE_CHECKING, Any

from pipebus.errors import LifecycleError

if TYPE_CHECKING:
    from pipebus.testing.simulation.scheduler import Simulation


real_lock, real_rlock, real_event = threading.Lock, threading.RLock, threading.Event
real_start, real_join, real_is_alive = threading.Thread.start, threading.Thread.join, threading.Thread.is_alive

_entering = threading.Lock()

_current: Simulation | None = None
"""The simulation that runs in this process, if one does."""


class Over(BaseException):
    """Raised in a thread when the run is over, so that the thread ends."""


class Stuck(AssertionError):
    """Raised in a block that runs `inside` when no thread can go on, or when a thread was lost."""


class Task:
    """A thread under the scheduler's control."""

    def __init__(self, thread: threading.Thread, number: int) -> None:
        self.thread = thread
        self.name = thread.name
        self.number = number
        self.baton = allocate_lock()
        self.baton.acquire()
        self.ended = False
        self.missed: Any = None  # the lock that it asked for without waiting, and did not get
        self.waits_for: Any = None  # a lock, a task, a time; None: it can go on
        self.deadline: float | None = None
        self.steps = 0  # of its own, before it got the baton last
        self.priority = 0.0  # for `Few`
        self.guest = False  # it was running before the simulation


def enter(sim: Simulation) -> None:
    """Make this the simulation that runs in this process; raise LifecycleError if there is one already."""
    global _current  # noqa: PLW0603
    with _entering:
        if _current is not None:
            raise LifecycleError(
                "a Harness or a simulation runs in this process already; there can be one at a time, and each on one thread"
            )
        _current = sim


def leave() -> None:
    """Let the next simulation enter."""
    global _current  # noqa: PLW0603
    _current = None


def here() -> Simulation | None:
    """The simulation that controls the calling thread."""
    return _current if _current is not None and _current.here() else None


def start(thread: threading.Thread) -> None:
    """Put threads that the bus starts under control. (Threads of others may wait for what the scheduler cannot know.)"""
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


class ForeignThread(RuntimeError):
    """
    A thread that the scheduler does not control uses what it controls.

    The first one of each thread is added to `known`: the thread may swallow it, or end, and then nobody else would know.
    """

    def __init__(self, known: list[ForeignThread]) -> None:
        self.thread = threading.current_thread()
        if all(one.thread is not self.thread for one in known):
            known.append(self)
        super().__init__(
            f"thread {self.thread.name} uses a bus (or a call_next) of pipebus.testing, which does not control "
            "that thread; start it with harness.thread(call, …), or test this on a bus of its own, without a harness"
        )

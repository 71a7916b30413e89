"""A thread under the scheduler's control, and the exceptions that end it."""

import threading
from _thread import allocate_lock
from typing import Any


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

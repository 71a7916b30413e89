"""A thread under the scheduler's control, and the exceptions that end it."""

from __future__ import annotations

import threading
from _thread import allocate_lock
from typing import Any


class Over(BaseException):
    """The run has ended: raised in threads that are still somewhere, so that they leave."""


class Stuck(AssertionError):
    """The same, raised in a block that runs `inside`: nobody can go on, or a thread was lost."""


class Task:
    """A controlled thread."""

    def __init__(self, thread: threading.Thread, number: int) -> None:
        self.thread = thread
        self.name = thread.name
        self.number = number
        self.baton = allocate_lock()
        self.baton.acquire()
        self.ended = False
        self.missed: Any = None  # the lock that it asked for without waiting, and did not get
        self.waits_for: Any = None  # a lock, a task, or a time; None: it can run
        self.deadline: float | None = None
        self.steps = 0  # its own, up to its last turn
        self.priority = 0.0  # for `Few`
        self.guest = False  # a thread that was there before

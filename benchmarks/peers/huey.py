"""
huey: a task queue with its tasks in a SQLite file. A worker deletes a task before it runs it.

`fsync=True` syncs each commit. Its consumer is a program of its own; its worker runs here on a thread of this one, and looks
each millisecond while the queue is empty (0.1 s as it comes).
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from typing import Any

from harness import Durable, Handler
from stores import Store

GUARANTEES = Durable(
    "SqliteHuey, fsync on; each publish and each taking is a commit; retries where a task says so",
    "yes", "no: deleted first", "one worker: yes", "lost", package="huey",
)  # fmt: skip
MOST = 1_000  # messages
PAUSE = 0.001  # seconds


def open_store(folder: str) -> Store:
    """One task, whose argument is the body."""
    from huey import SqliteHuey
    from huey.consumer import Worker

    huey = SqliteHuey(filename=f"{folder}/huey.db", fsync=True)
    handlers: list[Callable[[Any], None]] = []

    @huey.task()
    def act(body: Any) -> None:
        handlers[-1](body)

    def consume(handle: Handler, size: int) -> None:
        handlers.append(handle)
        worker = Worker(huey, Event(), PAUSE, PAUSE, 1.0)
        while worker.task_count < size:
            worker.loop()

    return Store(act, consume, huey.storage.close)

"""
persist-queue: `SQLiteAckQueue`, a table that is read with `get` and acknowledged with `ack`, each of them a synced commit.

Bodies are pickled. What was not acknowledged is ready again when a program opens the queue, also if another one is still
handling it. What is acknowledged stays in the file until the program calls `clear_acked_data`.
"""

from __future__ import annotations

from harness import Durable, Handler
from stores import Store

GUARANTEES = Durable(
    "SQLiteAckQueue; each publish, taking and acknowledgement is a commit",
    "yes", "yes", "yes", "again at next opening", package="persist-queue",
)  # fmt: skip
MOST = 1_000  # messages


def open_store(folder: str) -> Store:
    from persistqueue import SQLiteAckQueue

    queue = SQLiteAckQueue(folder, multithreading=True)

    def consume(handle: Handler, size: int) -> None:
        for _ in range(size):
            item = queue.get()
            handle(item)
            queue.ack(item)

    return Store(queue.put, consume, queue.close)

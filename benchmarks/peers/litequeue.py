"""
litequeue: one table of one SQLite file; `put`, `pop`, `done`. It turns the sync of each commit off.

Publishers share one connection, and the consumer has another, since `pop` is a transaction. What is done stays in the file
until the program calls `prune`.
"""

from __future__ import annotations

import json
from time import sleep
from typing import Any

from harness import Durable, Handler
from stores import Store

GUARANTEES = Durable("one message a transaction", "no", "yes", "yes", "stays locked", package="litequeue")
SYNCED = GUARANTEES._replace(words="the same with `PRAGMA synchronous = FULL` on its connection", synced="yes")
MOST = 2_000  # messages
PAUSE = 0.001  # seconds


def open_store(folder: str, synchronous: str = "NORMAL") -> Store:
    from litequeue import LiteQueue

    def connect() -> Any:
        queue = LiteQueue(f"{folder}/lite.db", timeout=60.0)
        queue.conn.execute(f"PRAGMA synchronous = {synchronous}")
        return queue

    shared = connect()

    def publish(body: Any) -> None:
        shared.put(json.dumps(body))

    def consume(handle: Handler, size: int) -> None:
        own = connect()
        done = 0
        while done < size:
            message = own.pop()
            if message is None:
                sleep(PAUSE)
                continue
            handle(json.loads(message.data))
            own.done(message.message_id)
            done += 1
        own.close()

    return Store(publish, consume, shared.close)


def open_synced(folder: str) -> Store:
    return open_store(folder, "FULL")

"""
A program to be killed: it publishes, handles, acknowledges and stops, and writes down what it was promised.

    python crash_child.py FILE HISTORY power|process

What is in the history was promised: a publish that has returned, an acknowledgement that was confirmed. HISTORY.begun has the
ids of acknowledgements that were begun: these may have been kept although no confirmation came. All statements run on
one thread, because strace counts the calls of each thread apart: so the N-th call is the N-th of the program.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from pipebus import Bus, Delivery, Message
from pipebus.testing.history import History
from pipebus.transports.sqlite import connections

SUBSCRIPTION: Final = "s"
ATTEMPTS: Final = 3
SENT: Final[dict[str, dict[str, Any]]] = {
    "m01": {},
    "m02": {"key": "k"},
    "later": {"delay": 0.05},
    "poison": {},
    "again": {},
    "transfer": {},
    "m03": {},
    "refused": {},
    "once": {},
    "m04": {},
}
"""What is published, in this order; and in the transaction of `transfer` the message `paid`."""
DEAD: Final = {"poison", "refused"}
"""Messages that become dead letters: the handler of one raises, and that of the other rejects it."""
PAID: Final = "paid"

_connect = connections.connect


class Rows:
    """The rows of a statement, all fetched at once, because SQLite may write in the last step."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._rows = iter(cursor.fetchall())
        self.rowcount = cursor.rowcount
        self.lastrowid = cursor.lastrowid

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)


class OnOneThread:
    """A connection whose statements run on a thread of their own."""

    def __init__(self, disk: ThreadPoolExecutor, *args: Any, **options: Any) -> None:
        self._disk = disk
        self._connection = disk.submit(_connect, *args, **options).result()

    def execute(self, *args: Any) -> Rows:
        return self._disk.submit(lambda: Rows(self._connection.execute(*args))).result()

    def executemany(self, *args: Any) -> Rows:
        return self._disk.submit(lambda: Rows(self._connection.executemany(*args))).result()

    def close(self) -> None:
        self._disk.submit(self._connection.close).result()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def serve(bus: Bus, history: History, worker: str, begin: Callable[[str], object] = str) -> None:
    """Subscribe for this program and the one after it; `begin` is called before each acknowledgement."""

    def handle(message: Message[Any], delivery: Delivery) -> None:
        id, attempt = message.id, delivery.attempt
        history.record_delivery(SUBSCRIPTION, id, attempt=attempt, redelivered=delivery.redelivered, worker=worker)
        if id == "poison":
            raise ValueError("poison")
        if id == "refused":
            delivery.reject("not wanted")
        elif id == "again" and attempt == 1:
            delivery.retry(0.05)
        elif id == "once" and attempt == 1:
            delivery.retry()
        elif id == "transfer":
            begin(id)
            with delivery.transaction() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS account (message TEXT, amount INTEGER)")
                connection.execute("INSERT INTO account VALUES (?, 7)", (id,))
                history.record_attempt(PAID, "a.paid", publisher="handler")
                receipt = bus.publish("a.paid", id=PAID)
                assert receipt
                duplicate = receipt.duplicate
            history.record_settled(SUBSCRIPTION, id, attempt=attempt, worker=worker)
            history.record_accepted(PAID, duplicate=duplicate)
        else:
            begin(id)
            delivery.ack(confirm=True)
            history.record_settled(SUBSCRIPTION, id, attempt=attempt, worker=worker)

    bus.subscribe("a.>", handle, name=SUBSCRIPTION, attempts=ATTEMPTS)


def publish(bus: Bus, history: History, publisher: str) -> dict[str, bool]:
    """Publish everything, and return for each id whether it was there already."""
    known = {}
    for id, options in SENT.items():
        history.record_attempt(id, f"a.{id}", publisher=publisher, key=options.get("key"), late="delay" in options)
        receipt = bus.publish(f"a.{id}", {"text": id}, id=id, **options)
        assert receipt
        history.record_accepted(id, duplicate=receipt.duplicate)
        known[id] = receipt.duplicate
    return known


def main(path: str, log: str, durability: str) -> None:
    with ThreadPoolExecutor(1) as disk:
        connections.connect = lambda *args, **options: OnOneThread(disk, *args, **options)  # type: ignore[assignment,return-value]
        history = History(log)
        bus = Bus(f"sqlite:///{path}?lease=1s&durability={durability}")
        file = os.open(f"{log}.begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        serve(bus, history, "first", lambda message: os.write(file, f"{message}\n".encode()))
        with bus:
            publish(bus, history, "first")
            time.sleep(0.06)  # for what is delayed
            bus.drain(timeout=20)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""
A program to be killed: it writes orders and publishes them in the same transactions, and rolls some of them back.

    python outbox_child.py FILE

All statements of the application run on the main thread; those of the bus on others, in an order that differs from run to run.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from typing import Final

from pipebus import Bus

ORDERS: Final = 8


def rolled_back(number: int) -> bool:
    return number % 4 == 3


def main(path: str) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        bus = Bus(f"sqlite:///{path}?lease=1s")
        bus.subscribe("orders", lambda message: None, name="mail")
        with bus:
            connection.execute("CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY)")
            for number in range(ORDERS):
                connection.execute("INSERT OR IGNORE INTO orders VALUES (?)", (number,))
                bus.publish("orders", number, id=f"order-{number}", key="k", within=connection)
                connection.rollback() if rolled_back(number) else connection.commit()
            bus.drain(timeout=20)


if __name__ == "__main__":
    main(sys.argv[1])

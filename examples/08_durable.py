"""
Orders that survive whatever happens to the program.

    python examples/08_durable.py

Kill it whenever you like (Ctrl-C, or `kill -9` from another terminal) and start it again: it goes on where it was, each order
is billed once, and it ends when all are. Its data is in shop.db in the current folder; delete that to start again.
Give it the name of another file if you want one: python examples/08_durable.py /tmp/shop.db
"""

import os
import sqlite3
import sys
import time
from contextlib import closing

from pipebus import Bus, Delivery, Message, Receipt
from pipebus.filters import Redeliver

FILE = sys.argv[1] if len(sys.argv) > 1 else "shop.db"
ORDERS = 20
PACE = float(os.environ.get("PACE", "0.1"))  # seconds of work for each order

bus = Bus(f"sqlite:///{FILE}", require={"survives": "power"})


@bus.on("orders.placed", name="billing", filters=[Redeliver(wait=0.2)])
def bill(message: Message, delivery: Delivery) -> None:
    """The bill, what is published and the acknowledgement are one transaction: all of it is there, or none."""
    time.sleep(PACE)  # the work; the transaction that follows is short
    number = message.body["number"]
    if number == 7 and delivery.attempt == 1:
        raise ConnectionError("the bank does not answer")  # comes again, also after a restart
    with delivery.transaction() as database:
        database.execute("INSERT INTO bill (number, total) VALUES (?, ?)", (number, message.body["total"]))
        bus.publish("orders.billed", {"number": number})
    print(f"billed {number}{' (at last)' if delivery.redelivered else ''}", flush=True)


@bus.on("orders.billed", name="shipping")
def ship(message: Message) -> None:
    """Another subscription: what it has coming waits in the file too."""


def bills() -> list[int]:
    """Read on a connection of our own. What is written while the bus runs belongs into `delivery.transaction()`."""
    with closing(sqlite3.connect(FILE)) as database:
        return [number for (number,) in database.execute("SELECT number FROM bill ORDER BY number")]


def place_orders() -> None:
    """All of them, every time: the id says which ones the file has already, within its window of two minutes."""
    done = set(bills())
    known = 0
    for number in set(range(ORDERS)) - done:
        receipt = bus.publish("orders.placed", {"number": number, "total": 10 * number}, id=f"order-{number}")
        known += isinstance(receipt, Receipt) and receipt.duplicate
    print(f"{len(done)} billed before, {known} waiting in the file, {ORDERS - len(done) - known} new", flush=True)


with closing(sqlite3.connect(FILE)) as database:
    database.execute("CREATE TABLE IF NOT EXISTS bill (number INTEGER PRIMARY KEY, total INTEGER)")
with bus:
    place_orders()
    while len(bills()) < ORDERS:
        time.sleep(0.02)
    bus.drain()
    shipped = bus.stats()["subscriptions"]["shipping"]["acknowledged"]
print(f"{len(bills())} orders, {len(bills())} bills, {shipped} shipped")

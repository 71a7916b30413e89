"""
500 orders over HTTP. Each one and its message are one commit, so a refused card, or a kill, leaves either both or neither.

    pip install fastapi sqlalchemy httpx2
    python examples/10_outbox.py

A fifth of the cards is refused, after the order was written and published: that is rolled back. Kill it whenever you like
(Ctrl-C, or `kill -9` from another terminal) and start it again: it goes on, and ends with 400 orders and 400 messages. Its data
is in orders.db in the current folder; delete that to start again. Give it the name of another file if you want one.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pipebus import Bus, Delivery
from pipebus.asgi import lifespan

FILE = sys.argv[1] if len(sys.argv) > 1 else "orders.db"
ORDERS = 500


class Base(DeclarativeBase):
    """The application's tables, in the bus's file."""


class Order(Base):
    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)


class Mail(Base):
    __tablename__ = "mail"
    number: Mapped[int] = mapped_column(primary_key=True)  # a second message about an order would be an error


engine = create_engine(f"sqlite:///{FILE}", connect_args={"timeout": 30})


@event.listens_for(engine, "connect")
def leave_checkpoints_to_the_bus(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # SQLite before 3.51.3 can lose pages otherwise


Base.metadata.create_all(engine)
bus = Bus(f"sqlite:///{FILE}", require={"outbox": True})
app = FastAPI(lifespan=lifespan(bus))


@app.post("/orders/{number}", status_code=201)
def create(number: int) -> None:
    """Customers try again after a crash, so an order may be there already."""
    with Session(engine) as session, session.begin():  # commits at its end, or rolls back
        if session.get(Order, number) is None:
            session.add(Order(number=number))
            bus.publish("orders.created", number, within=session)
            if number % 5 == 0:
                raise HTTPException(402)  # the card is refused


@bus.on("orders.created", name="mail")
def mail(number: int, delivery: Delivery) -> None:
    """What a handler writes is one commit with the acknowledgement."""
    with delivery.transaction() as database:
        database.execute("INSERT INTO mail VALUES (?)", (number,))


def order(client: TestClient, number: int) -> int:
    code = client.post(f"/orders/{number}").status_code
    if number % 50 == 0:
        print(f"order {number}: {code}", flush=True)
    return code


def main() -> None:
    with TestClient(app) as client, ThreadPoolExecutor(4) as customers:
        codes = list(customers.map(partial(order, client), range(ORDERS)))
        bus.drain()
        failed = len(bus.dead_letters)
    with Session(engine) as session:
        kept, mailed = (session.scalar(select(func.count()).select_from(table)) for table in (Order, Mail))
    print(f"{ORDERS} ordered, {codes.count(402)} rolled back: {kept} orders, {mailed} messages, {failed} failed")


if __name__ == "__main__":
    main()

"""A small shop whose bus has a bit of everything that the page shows. The tests import a copy of it as `shop`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from pipebus import Bus, Dropped, Message, Rejected, transform, when
from pipebus.filters import Expire, Redact, Reroute, Retry, SetHeaders

GOODS = ["tea", "honey", "bread", "broken cup", "clock"]


@transform
def has_country(message: Message) -> Message:
    if message.subject == "orders" and "country" not in message.body:
        raise Rejected("no country")
    return message


def bill(message: Message) -> dict[str, Any]:
    time.sleep(0.002)
    if message.body["item"] == "broken cup":
        raise ValueError("a broken cup has no price")
    return {"order": message.body["order"], "total": 4 * len(message.body["item"])}


async def send_mail(message: Message) -> None: ...


@transform
def only_food(message: Message) -> Message | Dropped:
    return Dropped("not food") if message.body["item"] in ("broken cup", "clock") else message


def count_stock(message: Message) -> None: ...


def declare(message: Message) -> None: ...


def make(url: str) -> Bus:
    bus = Bus(url, name="shop")
    bus.use(has_country, Redact(["card"]))
    bus.use(when("orders", Reroute("orders.{body.country}")))
    bus.use(when("orders.fr", SetHeaders({"currency": "eur"})))
    bus.use(Expire(60.0), at="delivery")
    bus.subscribe("orders.*", bill, name="billing", workers=2, to="bills.sent")
    bus.subscribe("bills.>", send_mail, name="mail", filters=[Retry(attempts=2, wait=0.01)])
    bus.subscribe("orders.fr", declare, name="customs", mailbox=400)
    bus.subscribe("orders.*", count_stock, name="stock", filters=[only_food])
    bus.subscribe("reports.>", name="archive")  # it has no handler
    bus.every(3600.0, "reports.hourly")
    return bus


def order(number: int) -> dict[str, Any]:
    """Every eighth order lacks its country, and is refused."""
    country = {} if number % 8 == 0 else {"country": ["fr", "nl", "jp"][number % 3]}
    return {"order": number, "item": GOODS[number % 5], "card": "4000 1234", **country}


@contextmanager
def busy(bus: Bus, pause: float = 0.02) -> Iterator[None]:
    """Start the bus, and order something all the time. Customs is closed, so what is meant for it waits."""
    over = threading.Event()

    def buy() -> None:
        for number in count(1):
            if over.wait(pause):
                return
            try:
                bus.publish("orders", order(number))
            except Rejected:
                continue

    with bus:
        next(one for one in bus.subscriptions if one.name == "customs").pause()
        buyer = threading.Thread(target=buy)
        buyer.start()
        try:
            yield
        finally:
            over.set()
            buyer.join()
            bus.stop(drain=False)

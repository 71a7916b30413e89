"""
A FastAPI application with a page that shows its bus.

    pip install fastapi uvicorn
    python examples/12_page.py

Open http://127.0.0.1:8000/bus/ in a browser. Orders come by themselves, some without a country, which are refused, and some of
broken cups, which become dead letters. Ctrl-C ends it. Give it another port if you want one: python examples/12_page.py 8080
"""

import random
import sys
import time
from contextlib import suppress
from typing import Any

import uvicorn
from fastapi import FastAPI

from pipebus import Bus, Message, Rejected, transform, when
from pipebus.asgi import lifespan
from pipebus.filters import Redact, Reroute, Retry
from pipebus.web import app as page_of

PORT = int(sys.argv[1]) if len(sys.argv) > 1 else 8000

bus = Bus(name="shop")


@bus.use
@transform
def has_country(message: Message) -> Message:
    if message.subject == "orders" and not message.body["country"]:
        raise Rejected("no country")
    return message


bus.use(Redact(["card"]), when("orders", Reroute("orders.{body.country}")))
bus.use(Retry(attempts=2, wait=0.1), at="delivery")


@bus.on("customers.ask", name="customers")
def order(message: Message) -> None:
    item, country = random.choice(["tea", "honey", "broken cup"]), random.choice(["fr", "nl", "jp", ""])
    with suppress(Rejected):
        bus.publish("orders", {"item": item, "country": country, "card": "4000 1234"})


@bus.on("orders.*", name="billing", workers=2, to="bills.sent")
def bill(message: Message) -> dict[str, Any]:  # what it returns is published on bills.sent
    time.sleep(random.uniform(0.005, 0.05))  # the work
    if message.body["item"] == "broken cup":
        raise ValueError("a broken cup has no price")
    return {"total": 4 * len(message.body["item"])}


@bus.on("bills.>", name="mail")
async def mail(message: Message) -> None: ...


bus.every(0.1, "customers.ask")

app = FastAPI(lifespan=lifespan(bus))
app.mount("/bus", page_of(bus))  # for people on this computer; `token=` lets others in, too


@app.get("/")
def orders() -> dict[str, int]:
    return {"billed": bus.stats()["subscriptions"]["billing"]["acknowledged"]}


if __name__ == "__main__":
    print(f"http://127.0.0.1:{PORT}/bus/", flush=True)
    uvicorn.run(app, port=PORT, log_level="warning")

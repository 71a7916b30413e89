"""
Request and reply: what a handler returns is the answer, and what it raises reaches the requester.

    python examples/05_request_reply.py
"""

import asyncio
from threading import Event

from pipebus import Actor, Bus, NoResponder, RequestFailed, RequestTimeout, Subject

PRICES = {"tea": 4.20, "honey": 7.50, "bread": 3.10}

price_of = Subject[str, float]("prices.get")  # questions are strings, replies are floats
bus = Bus()
closing_time = Event()


@bus.on(price_of, name="price")
def price(item: str) -> float:
    if item not in PRICES:
        raise LookupError(f"we have no {item}")
    return PRICES[item]


@bus.on("prices.total")
async def total(items: list[str]) -> float:
    """Who is asked may ask others: here all at once."""
    replies = await asyncio.gather(*(bus.arequest(price_of, item) for item in items))
    return round(sum(reply.body for reply in replies), 2)


@bus.on("prices.haggle")
def haggle(offer: float) -> None:
    """Thinks about it until the shop closes."""
    closing_time.wait()


class Shelf(Actor):
    """An actor answers as well. It takes one request at a time, so no two customers get the same jar."""

    jars = 3

    def on_message(self, wanted: int) -> str:
        if wanted > self.jars:
            raise LookupError(f"only {self.jars} left")
        self.jars -= wanted
        return f"{self.jars} left"


shelf = bus.spawn(Shelf("shelf"))


def ask() -> None:
    reply = bus.request(price_of, "tea")  # a message like any other
    print("tea:", reply.body)
    print("two jars:", bus.request(shelf, 2, reply=str).body)

    try:
        bus.request(price_of, "gold")
    except RequestFailed as error:
        print(f"gold: {error.type}, {error.text}")
    try:
        bus.request("prices.guess", "gold")
    except NoResponder as error:
        print(f"a guess: {error}")
    try:
        bus.request("prices.haggle", 4.00, timeout=0.05)
    except RequestTimeout as error:
        print(f"an offer: {error}")


async def ask_from_a_coroutine() -> None:
    """While one answer is waited for, everything else on the loop goes on."""
    honey, basket, jar = await asyncio.gather(
        bus.arequest(price_of, "honey"),
        bus.arequest("prices.total", ["tea", "bread"]),
        bus.arequest(shelf, 1),
    )
    print("honey:", honey.body)
    print("tea and bread:", basket.body)
    print("one jar:", jar.body)


if __name__ == "__main__":
    with bus:
        ask()
        closing_time.set()
        asyncio.run(ask_from_a_coroutine())
    print("dead letters:", len(bus.dead_letters))  # none, because the requester has the error

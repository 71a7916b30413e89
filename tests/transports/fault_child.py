"""
A program whose calls fail: it publishes, handles and stops, tries again what failed, and writes down how it failed.

    python fault_child.py FILE HISTORY ERRORS

A line of ERRORS is a JSON object: doing (what was tried), error (its class), text, id (what a PublishUnknown names).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from crash_child import PAID, OnOneThread

from pipebus import Bus, Delivery, Message
from pipebus.errors import PublishUnknown, TransportError
from pipebus.testing.history import History
from pipebus.transports.sqlite import connections

SUBSCRIPTION = "s"
IDS = ("m1", "m2", "transfer", "m3", "m4")


def main(path: str, log: str, errors: str) -> None:
    file = os.open(errors, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def insist(doing: str, act: Callable[[], Any]) -> Any:
        """Try until it succeeds."""
        for _ in range(50):
            try:
                return act()
            except (TransportError, PublishUnknown) as error:
                told = {"doing": doing, "error": type(error).__name__, "text": str(error), "id": getattr(error, "id", None)}
                os.write(file, json.dumps(told).encode() + b"\n")
                time.sleep(0.02)
        raise SystemExit(f"{doing} has failed 50 times")

    with ThreadPoolExecutor(1) as disk:
        connections.connect = lambda *args, **options: OnOneThread(disk, *args, **options)  # type: ignore[assignment,return-value]
        history = History(log)
        bus = Bus(f"sqlite:///{path}?lease=30s")

        def handle(message: Message[Any], delivery: Delivery) -> None:
            if message.id != "transfer":
                return
            try:
                with delivery.transaction() as connection:
                    connection.execute("CREATE TABLE IF NOT EXISTS account (message TEXT, amount INTEGER)")
                    connection.execute("INSERT INTO account VALUES (?, 7)", (message.id,))
                    history.record_attempt(PAID, "a.paid", publisher="handler")
                    bus.publish("a.paid", id=PAID)
                history.record_accepted(PAID)
            except (TransportError, PublishUnknown) as error:
                told = {"doing": "transaction", "error": type(error).__name__, "text": str(error), "id": None}
                os.write(file, json.dumps(told).encode() + b"\n")
                delivery.retry()

        bus.subscribe("a.>", handle, name=SUBSCRIPTION)
        history.record_subscription(SUBSCRIPTION, "a.>", attempts=3, order="subject")
        history.watch(bus)
        insist("start", bus.start)
        for id in IDS:
            history.record_attempt(id, f"a.{id}", publisher="first")
            receipt = insist(f"publish {id}", partial(bus.publish, f"a.{id}", "x", id=id))
            history.record_accepted(id)
            assert receipt
        bus.drain(timeout=30)
        report = bus.stop(timeout=30)
        assert report.drained, report
        history.record_figures(SUBSCRIPTION, insist("look", bus.stats)["subscriptions"][SUBSCRIPTION])


if __name__ == "__main__":
    main(*sys.argv[1:])

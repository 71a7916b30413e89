"""
A worker: it serves a subscription that others may serve too, until its standard input ends.

    python worker_child.py FILE?OPTIONS HISTORY NAME [ATTEMPTS [THREADS]]

What a message's body says is done: "kill" this process, "wait" for FILE.NAME.go, "hold" a transaction open until then, come
again "later"; a number: be at work for so many seconds.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

from pipebus import Bus, Delivery, Message
from pipebus.testing.history import History

SUBSCRIPTION: Final = "shared"
LATER: Final = 1.0
"""Seconds."""


def main(file: str, log: str, name: str, attempts: str = "3", threads: str = "1") -> None:
    logging.basicConfig()
    history = History(log)
    bus = Bus(f"sqlite:///{file}")
    path = file.partition("?")[0]

    def wait() -> None:
        while not os.path.exists(f"{path}.{name}.go"):
            time.sleep(0.01)

    def handle(message: Message[Any], delivery: Delivery) -> None:
        history.record_delivery(
            SUBSCRIPTION, message.id, attempt=delivery.attempt, redelivered=delivery.redelivered, worker=name
        )
        match message.body:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "wait":
                wait()
            case "hold":
                with delivery.transaction():
                    Path(f"{path}.held").touch()
                    wait()
            case "later" if delivery.attempt == 1:
                delivery.retry(LATER)
            case float(seconds):
                time.sleep(seconds)

    bus.subscribe("a.>", handle, name=SUBSCRIPTION, attempts=int(attempts), workers=int(threads))
    with bus:
        sys.stdin.read()
        bus.stop(drain=False)


if __name__ == "__main__":
    main(*sys.argv[1:])

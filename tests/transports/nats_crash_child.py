"""
A worker on NATS: it serves a subscription that others serve too, until SIGTERM.

    python nats_crash_child.py URL HISTORY NAME ATTEMPTS FOLDER

What a message's body says is done: "kill" this process, "wait" for FOLDER/NAME.go; a number: be at work for so many seconds.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

from pipebus import Bus, Message, events
from pipebus.testing.history import History

SUBSCRIPTION: Final = "s"


def main(url: str, log: str, name: str, attempts: str, folder: str) -> None:
    history = History(log)
    history.record_subscription(SUBSCRIPTION, "a.>", attempts=int(attempts))
    bus = Bus(url)
    history.watch(bus, name)

    def handle(message: Message) -> None:
        match message.body:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "wait":
                while not Path(folder, f"{name}.go").exists():
                    time.sleep(0.01)
            case float(seconds):
                time.sleep(seconds)

    @bus.observe
    def hear(event: events.Event) -> None:
        if isinstance(event, events.StateChanged) and event.new == "started":
            sys.stdout.write("ready\n")
            sys.stdout.flush()

    bus.subscribe("a.>", handle, name=SUBSCRIPTION, attempts=int(attempts), workers=1, deliver="all")
    bus.run()


if __name__ == "__main__":
    main(*sys.argv[1:])

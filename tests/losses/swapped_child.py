"""
A program that reads commands, one a line, until it is killed; it answers each of them with a line of JSON.

    python swapped_child.py FILE HISTORY NAME

    publish N           publish N messages, one after another: the ids with a receipt, and the errors of the others
    read PATH…          read files to their ends, as a backup or a checksum does
    stop                stop the bus, and say what the log has
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from pipebus import Bus
from pipebus.errors import PublishUnknown, TransportError
from pipebus.testing import captured_logs
from pipebus.testing.history import History

SUBSCRIPTION: Final = "kept"


def publish(bus: Bus, history: History, ids: list[str], name: str) -> dict[str, Any]:
    """Publish one message for each id; return the ids with a receipt, and the errors of the others."""
    promised: list[str] = []
    errors: list[str] = []
    for id in ids:
        history.record_attempt(id, "a.b", publisher=name)
        try:
            receipt = bus.publish("a.b", {"id": id}, id=id)
            assert receipt
        except (TransportError, PublishUnknown) as error:
            errors.append(f"{type(error).__name__}: {error}")
            continue
        history.record_accepted(id, duplicate=receipt.duplicate)
        promised.append(id)
    return {"promised": promised, "errors": errors}


def say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main(path: str, log: str, name: str) -> None:
    history = History(log)
    bus = Bus(f"sqlite:///{path}")
    # Paused, so that everything waits in the file for the test to see.
    bus.subscribe("a.>", lambda message: None, name=SUBSCRIPTION).pause()
    history.record_subscription(SUBSCRIPTION, "a.>")
    published = 0
    with captured_logs() as logs:
        bus.start()
        say("ready")
        for line in sys.stdin:
            answer: Any = None
            match line.split():
                case ["publish", count]:
                    ids = [f"{name}-{number}" for number in range(published, published + int(count))]
                    published += int(count)
                    answer = publish(bus, history, ids, name)
                case ["read", *files]:
                    for file in files:
                        with open(file, "rb") as opened:
                            opened.read()
                case ["stop"]:
                    bus.stop(timeout=10)
                    answer = [{key: str(value) for key, value in entry.items()} for entry in logs]
            say(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""
Programs that tests of the contract run in processes of their own.

`python -m pipebus.testing.contract.child URL WHAT FILE NAME` opens URL, writes what happens to the history FILE as worker
NAME, and prints "ready" when its bus has started.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from pipebus import events
from pipebus.bus.bus import Bus
from pipebus.message.message import Message
from pipebus.testing.history.history import History

ATTEMPTS = 3
"""The attempts of each subscription here."""

SENT = 20
"""How many messages `publish_and_leave` publishes."""


def publish_and_leave(bus: Bus, history: History, name: str) -> None:
    """Publish, and end without stopping the bus."""
    bus.subscribe("a", name="s", attempts=ATTEMPTS)
    bus.start()
    for number in range(SENT):
        history.record_attempt(str(number), "a")
        bus.publish("a", number, id=str(number))
        history.record_accepted(str(number))


def publish_and_be_killed(bus: Bus, history: History, name: str) -> None:
    """Publish, and be killed when the last publish has returned."""
    publish_and_leave(bus, history, name)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_itself(bus: Bus, history: History, name: str) -> None:
    """Handle messages with a handler that kills the process, as a crash in a C library would."""

    def handle(message: Message) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")

    history.watch(bus, name)
    bus.subscribe("a", handle, name="s", attempts=ATTEMPTS)
    bus.run()


def work(bus: Bus, history: History, name: str) -> None:
    """Handle messages as a member of a group, until SIGTERM."""

    def handle(message: Message) -> None:
        return None

    history.watch(bus, name)
    bus.subscribe("a", handle, name="s", attempts=ATTEMPTS, mailbox=50)
    bus.run()


def tick(bus: Bus, history: History, name: str) -> None:
    """Publish each second, as all processes do that declare this schedule; and be killed "before" or "after" the first send."""

    @bus.use
    def die(message: Message, call_next: Callable[[Message], Any]) -> Any:
        if name == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        outcome = call_next(message)
        if name == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    bus.every("1s", "a", name="clock")
    bus.run()


def listen(bus: Bus, history: History, name: str) -> None:
    """Read with a subscription that has no name, until the process is killed."""
    history.watch(bus, name)
    bus.subscribe("a")
    bus.run()


def main() -> None:
    url, what, file, name = sys.argv[1:]
    history = History(file)
    history.record_subscription("s", "a", attempts=ATTEMPTS)
    bus = Bus(url)

    @bus.observe
    def hear(event: events.Event) -> None:
        if isinstance(event, events.StateChanged) and event.new == "started":
            sys.stdout.write("ready\n")
            sys.stdout.flush()

    programs = (publish_and_leave, publish_and_be_killed, kill_itself, work, tick, listen)
    {one.__name__: one for one in programs}[what](bus, history, name)


if __name__ == "__main__":
    main()

"""
What the tests of the contract share: handlers under control, waiting for conditions, and the law of conservation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from pipebus.bus.bus import Bus
from pipebus.delivery.delivery import Delivery
from pipebus.errors import UnsupportedCapability
from pipebus.message.message import Message
from pipebus.testing.contract.stage import Stage

QUIET: Final = 0.1
"""How many seconds a test watches that something does not happen."""

POLL: Final = 0.001


class Seen:
    """
    A handler that keeps the messages that it gets.

    Args:
        held: It waits with each message until `go` is set; `running` sets `go` at the end of its block.
    """

    def __init__(self, held: bool = False) -> None:
        self.messages: list[Message[Any]] = []  # in the order in which their handlers began
        self.attempts: list[int] = []
        self.times: list[float] = []  # when each handler began, monotonic
        self.done: list[Message[Any]] = []
        self.go = threading.Event()
        if not held:
            self.go.set()
        self._lock = threading.Lock()

    def __call__(self, message: Message, delivery: Delivery) -> None:
        self.note(message, delivery.attempt)
        self.go.wait(60.0)
        self.done.append(message)

    def note(self, message: Message[Any], attempt: int = 1) -> None:
        """Keep a message; for a test's own handlers."""
        with self._lock:
            self.times.append(time.monotonic())
            self.attempts.append(attempt)
            self.messages.append(message)

    @property
    def bodies(self) -> list[Any]:
        return [message.body for message in self.messages]


def until(stage: Stage, condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; if it does not become true, the AssertionError says `what`."""
    deadline = time.monotonic() + stage.patience
    while not condition():
        assert time.monotonic() < deadline, f"not within {stage.patience:g} s: {what}"
        time.sleep(POLL)


def never(condition: Callable[[], object], what: str) -> None:
    """Watch for QUIET seconds that something does not happen."""
    deadline = time.monotonic() + QUIET
    while time.monotonic() < deadline:
        assert not condition(), what
        time.sleep(POLL)


def figures(bus: Bus, name: str) -> dict[str, Any]:
    found: dict[str, Any] = bus.stats()["subscriptions"][name]
    return found


def assert_conserved(bus: Bus) -> None:
    """accepted = acknowledged + dropped + dead + pending + in flight, for each subscription."""
    for name, s in bus.stats()["subscriptions"].items():
        ended = s["acknowledged"] + sum(s["dropped"].values()) + s["dead"]
        assert s["accepted"] == ended + s["pending"] + s["in_flight"], f"{name}: {s}"


@contextmanager
def running(stage: Stage, bus: Bus, *held: Seen, drain: bool = True) -> Iterator[Bus]:
    """Start a bus. At the end, release the held handlers, stop the bus, and check that its figures add up."""
    bus.start()
    try:
        yield bus
    except BaseException:
        for one in held:
            one.go.set()
        bus.stop(timeout=1.0, drain=False)
        raise
    for one in held:
        one.go.set()
    report = bus.stop(timeout=stage.patience, drain=drain)
    assert not report.abandoned, report
    assert report.drained or not drain, report
    assert_conserved(bus)


def survives(stage: Stage) -> bool:
    """Whether messages outlive the program."""
    return stage.capabilities.survives != "nothing"


def next_life(stage: Stage, bus: Bus, subscribe: Callable[[Bus], object]) -> Bus:
    """
    The bus of the program's next run, not started: a new one if messages outlive the program, otherwise the old one again.

    Args:
        subscribe: Called with a new bus to make its subscriptions.
    """
    if not survives(stage):
        return bus
    new = stage.open()
    subscribe(new)
    return new


def assert_nothing_comes_again(stage: Stage, bus: Bus, subscribe: Callable[[Bus, Seen], object], subject: str) -> None:
    """Check that only a new message arrives in the program's next run."""
    seen = Seen()
    bus = stage.open()
    subscribe(bus, seen)
    with running(stage, bus):
        bus.publish(subject, "marker")
        bus.drain(timeout=stage.patience)
        assert seen.bodies == ["marker"]


def assert_refused(stage: Stage, **wanted: Any) -> None:
    """Check that a bus that requires this cannot be made."""
    with pytest.raises(UnsupportedCapability):
        stage.open(require=wanted)


def together(stage: Stage, *calls: Callable[[], object]) -> list[BaseException]:
    """Call all at the same time, each on a thread of its own, and return what they raised."""
    barrier, raised = threading.Barrier(len(calls)), list[BaseException]()

    def run(call: Callable[[], object]) -> None:
        try:
            barrier.wait(stage.patience)
            call()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(stage.patience)
    alive = sum(thread.is_alive() for thread in threads)
    assert not alive, f"{alive} of {len(threads)} calls have not returned within {stage.patience:g} s"
    return raised

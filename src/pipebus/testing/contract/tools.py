"""
What the tests of the contract share: handlers under control, waiting on conditions, and the law of conservation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from pipebus.bus.bus import Bus
from pipebus.delivery.subscription import Delivery
from pipebus.errors import UnsupportedCapability
from pipebus.message.message import Message
from pipebus.testing.contract.stage import Stage

QUIET: Final = 0.1
"""Seconds in which nothing may happen, where a test looks for what must not."""

POLL: Final = 0.001


class Seen:
    """
    A handler that keeps what it is given.

    Args:
        held: It stands still with each message until `go` is set; `running` opens it when the test ends.
    """

    def __init__(self, held: bool = False) -> None:
        self.messages: list[Message[Any]] = []  # begun, in order
        self.attempts: list[int] = []
        self.times: list[float] = []  # of beginning, monotonic
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
        """For handlers of the test's own."""
        with self._lock:
            self.times.append(time.monotonic())
            self.attempts.append(attempt)
            self.messages.append(message)

    @property
    def bodies(self) -> list[Any]:
        return [message.body for message in self.messages]


def until(stage: Stage, condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; an AssertionError that names it if it does not come."""
    deadline = time.monotonic() + stage.patience
    while not condition():
        assert time.monotonic() < deadline, f"not within {stage.patience:g} s: {what}"
        time.sleep(POLL)


def never(condition: Callable[[], object], what: str) -> None:
    """Watch for a moment that something does not happen."""
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
    """A started bus. At the end held handlers are let go, it is stopped, and its figures must add up."""
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
    """Whether messages outlive the bus."""
    return stage.capabilities.survives != "nothing"


def next_life(stage: Stage, bus: Bus, subscribe: Callable[[Bus], object]) -> Bus:
    """
    The program's next run, not started: a new bus where messages outlive the old one, else the old one once more.

    Args:
        subscribe: What the program does before it starts its bus; called for a new one.
    """
    if not survives(stage):
        return bus
    new = stage.open()
    subscribe(new)
    return new


def assert_nothing_comes_again(stage: Stage, bus: Bus, subscribe: Callable[[Bus, Seen], object], subject: str) -> None:
    """In the program's next run nothing but a new message arrives."""
    seen = Seen()
    bus = stage.open()
    subscribe(bus, seen)
    with running(stage, bus):
        bus.publish(subject, "marker")
        bus.drain(timeout=stage.patience)
        assert seen.bodies == ["marker"]


def assert_refused(stage: Stage, **wanted: Any) -> None:
    """Who asks for what is not promised is told when the bus is made."""
    with pytest.raises(UnsupportedCapability):
        stage.open(require=wanted)


def together(stage: Stage, *calls: Callable[[], object]) -> list[BaseException]:
    """Call all at once, each on a thread of its own; what they raised."""
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

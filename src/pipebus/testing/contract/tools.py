"""What the tests of the contract share: handlers under control, waiting for conditions, and the law of conservation."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from pipebus.bus.bus import Bus
from pipebus.delivery.delivery import Delivery
from pipebus.delivery.subscription import Subscription
from pipebus.errors import UnsupportedCapability
from pipebus.message.message import Message
from pipebus.testing.contract.stage import Crashes, Stage
from pipebus.testing.history.history import History

QUIET: Final = 0.1
"""How many seconds a test watches that something does not happen."""

POLL: Final = 0.001


class Seen:
    """
    A handler that keeps the messages that it gets.

    Args:
        act: What it does with each of them.
        held: It waits with each message until `go` is set; `running` sets `go` at the end of its block.
    """

    def __init__(self, act: Callable[[Message[Any], Delivery], object] | None = None, *, held: bool = False) -> None:
        self.messages: list[Message[Any]] = []  # in the order in which their handlers began
        self.attempts: list[int] = []
        self.times: list[float] = []  # when each handler began, monotonic
        self.done: list[Message[Any]] = []
        self.go = threading.Event()
        if not held:
            self.go.set()
        self._act = act
        self._lock = threading.Lock()

    def __call__(self, message: Message, delivery: Delivery) -> None:
        self.note(message, delivery.attempt)
        self.go.wait(60.0)
        if self._act is not None:
            self._act(message, delivery)
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


def opened(stage: Stage, handler: Any, subject: str = "a", name: str = "s", **options: Any) -> Bus:
    """A bus, not started, with one subscription."""
    bus = stage.open()
    bus.subscribe(subject, handler, name=name, **options)
    return bus


@contextmanager
def serving(stage: Stage, handler: Any, *, drain: bool = True, **options: Any) -> Iterator[Bus]:
    """`running` for a bus with one subscription."""
    held = [handler] if isinstance(handler, Seen) else []
    with running(stage, opened(stage, handler, **options), *held, drain=drain) as bus:
        yield bus


@contextmanager
def reading(stage: Stage, *, drain: bool = True) -> Iterator[tuple[Bus, Subscription]]:
    """`running` for a bus with one subscription that the test reads."""
    with serving(stage, None, drain=drain) as bus:
        yield bus, bus.subscriptions[0]


def deliver(stage: Stage, bus: Bus, *bodies: Any, **options: Any) -> None:
    """Publish these bodies, and wait until they are settled."""
    for body in bodies:
        bus.publish("a", body, **options)
    bus.drain(timeout=stage.patience)


def recorded(history: History, bus: Bus, body: Any, id: str, publisher: str = "", **options: Any) -> Any:
    """Publish, and record that in a history; return the outcome."""
    history.record_attempt(id, "a", publisher=publisher, key=options.get("key"))
    outcome = bus.publish("a", body, id=id, **options)
    history.record_accepted(id)
    return outcome


def survives(stage: Stage) -> bool:
    """Whether messages outlive the program."""
    return stage.capabilities.survives != "nothing"


def crash(stage: Stage, bus: Bus, timeout: float | None = None) -> None:
    """Crash if that loses nothing and the stage can do it; otherwise stop without a drain."""
    if survives(stage) and isinstance(stage, Crashes):
        stage.crash()
    else:
        bus.stop(timeout=stage.patience if timeout is None else timeout, drain=False)


def next_life(stage: Stage, bus: Bus, handler: Any, **options: Any) -> Bus:
    """The bus of the program's next run, not started: a new one if messages outlive the program, otherwise the old one."""
    return opened(stage, handler, **options) if survives(stage) else bus


def handle_the_rest(stage: Stage, bus: Bus, handler: Any, **options: Any) -> None:
    """Handle what is left in the program's next run, without a dead letter."""
    with running(stage, next_life(stage, bus, handler, **options)) as again:
        again.drain(timeout=stage.patience)
        assert again.dead_letters.list() == []


def assert_nothing_comes_again(stage: Stage) -> None:
    """Check that only a new message arrives in the program's next run."""
    seen = Seen()
    with serving(stage, seen) as bus:
        deliver(stage, bus, "marker")
    assert seen.bodies == ["marker"]


def assert_refused(stage: Stage, **wanted: Any) -> None:
    """Check that a bus that requires this cannot be made. That is what the test has found, as `stage.refused` says."""
    with pytest.raises(UnsupportedCapability):
        stage.open(require=wanted)
    stage.refused.append(wanted)


def together(stage: Stage, *calls: Callable[[], object], within: float | None = None) -> list[BaseException]:
    """Call all at once, each on a thread of its own, and return what they raised; each may take so many seconds."""
    barrier, raised, patience = threading.Barrier(len(calls)), list[BaseException](), within or stage.patience

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
        thread.join(patience)
    alive = sum(thread.is_alive() for thread in threads)
    assert not alive, f"{alive} of {len(threads)} calls have not returned within {patience:g} s"
    return raised

"""
Each call that is made while a delivery is settled fails in turn: the first, the second, and so on until a run needs no more.

Between the end of one message's handler and the beginning of the next one's, the n-th function of the package that is entered
raises instead. Whatever that was (a count, a letter, a line in a log, an observer), the message ends as exactly one of
acknowledged, dead, dropped or given back, the mailbox continues, and no worker is lost.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pipebus
from pipebus import Bus, Delivery, Message, Subscription, transform
from pipebus.errors import DrainTimeout

PACKAGE = str(Path(pipebus.__file__).parent)


class Injected(Exception):
    pass


class OddInjected(BaseException):
    pass


class Fault:
    """A handler arms the fault as it ends, and the next one disarms it; in between, the n-th call raises."""

    def __init__(self, number: int, error: type[BaseException]) -> None:
        self.number = number
        self.error = error
        self.armed = 0  # the thread of that handler
        self.calls = 0
        self.where = ""

    def trace(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and self.armed == threading.get_ident() and frame.f_code.co_filename.startswith(PACKAGE):
            self.calls += 1
            if self.calls == self.number:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"
                raise self.error(self.where)

    def __enter__(self) -> Fault:
        threading.settrace(self.trace)
        return self

    def __exit__(self, *_: object) -> None:
        threading.settrace(None)  # type: ignore[arg-type]


def fail(message: Message, delivery: Delivery) -> Any:
    raise ValueError("the handler's own")


def plainly(message: Message) -> Any:
    raise ValueError("the handler's own")


def retry(message: Message, delivery: Delivery) -> Any:
    if delivery.attempt == 1:
        delivery.retry()


def reject(message: Message, delivery: Delivery) -> Any:
    delivery.reject("no")


@transform
def drop_first(message: Message) -> Any:
    return message


ENDS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "returns": (lambda message: None, {}),
    "returns, with a Delivery": (lambda message, delivery: None, {}),
    "returns a value": (lambda message: "value", {"to": "seen"}),
    "raises": (plainly, {}),
    "raises, with a Delivery": (fail, {}),
    "raises, under a filter": (plainly, {"filters": [drop_first]}),
    "retries": (retry, {}),
    "rejects": (reject, {}),
}
LONG = {"returns a value"}
PLACES = [
    pytest.param({}, Injected, False, id="pool"),
    pytest.param({}, OddInjected, True, id="pool, observed"),
    pytest.param({"run": "loop"}, Injected, False, id="loop"),
    pytest.param({"workers": 2}, Injected, True, id="two workers", marks=pytest.mark.thorough),
    pytest.param({"run": "thread"}, OddInjected, False, id="own thread", marks=pytest.mark.thorough),
    pytest.param({"run": "loop", "workers": 2}, OddInjected, True, id="loop, two workers", marks=pytest.mark.thorough),
]


def subscribe(bus: Bus, act: Callable[..., Any], options: dict[str, Any], fault: Fault, seen: list[Any]) -> Subscription:
    """Do `act` for the first message, whose end arms the fault; the other messages disarm it as they begin."""

    def begin(message: Message) -> bool:
        fault.armed = 0
        seen.append(message.body)
        return seen == [0]

    if act.__code__.co_argcount == 2:

        def handle(message: Message, delivery: Delivery) -> Any:
            first = begin(message)
            try:
                return act(message, delivery) if first else None
            finally:
                fault.armed = threading.get_ident() if first and seen == [0] else 0

    else:

        def handle(message: Message) -> Any:  # type: ignore[misc]
            first = begin(message)
            try:
                return act(message) if first else None
            finally:
                fault.armed = threading.get_ident() if first and seen == [0] else 0

    async def ahandle(message: Message, delivery: Delivery) -> Any:
        return handle(message, delivery)

    async def ahandle_plainly(message: Message) -> Any:
        return handle(message)  # type: ignore[call-arg]

    if options.get("run") == "loop":
        return bus.subscribe("a", ahandle if act.__code__.co_argcount == 2 else ahandle_plainly, name="one", **options)
    return bus.subscribe("a", handle, name="one", **options)


def one_run(act: Callable[..., Any], options: dict[str, Any], fault: Fault, observed: bool) -> None:
    bus = Bus(pool=3)
    seen: list[Any] = []
    one = subscribe(bus, act, options, fault, seen)
    bus.subscribe("seen", lambda message: None, name="next")
    if observed:
        bus.observe(lambda event: None)
    with fault:
        bus.start()
        try:
            one.pause()  # so that no worker finds its mailbox empty before the last message
            for body in range(4):
                bus.publish("a", body)
            one.resume()
            with suppress(DrainTimeout):  # the figures below give a better error
                bus.drain(3.0)
            fault.armed = 0
            counts = bus.stats()["subscriptions"]["one"]
            ended = counts["acknowledged"] + sum(counts["dropped"].values()) + counts["dead"]
            assert (counts["pending"], counts["in_flight"]) == (0, 0), (fault.where, counts)
            assert counts["accepted"] == ended == 4, (fault.where, counts)
            assert {0, 2, 3} <= set(seen), (fault.where, seen)  # the second may have died of the fault before its handler
        finally:
            fault.armed = 0
            report = bus.stop(timeout=10.0)
        assert not report.abandoned, fault.where


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a fault before the `await` of a coroutine
@pytest.mark.parametrize(("way", "error", "observed"), PLACES)
@pytest.mark.parametrize(
    ("act", "options"),
    [pytest.param(*end, id=name, marks=[pytest.mark.thorough] if name in LONG else []) for name, end in ENDS.items()],
)
@pytest.mark.few(3)
def test_whatever_fails_while_a_delivery_is_settled_the_delivery_ends(
    act: Callable[..., Any], options: dict[str, Any], way: dict[str, Any], observed: bool, error: type[BaseException]
) -> None:
    """After the fault all four messages have ended once, the figures add up, and `stop` abandons nobody."""
    for number in itertools.count(1):
        fault = Fault(number, error)
        one_run(act, options | way, fault, observed)
        if not fault.where:
            return

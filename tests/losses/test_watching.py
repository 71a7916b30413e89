"""
A thread may watch a bus (`stats`, `describe`, `explain`, `export_config`) while other threads register and stop.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from flow_helpers import WAIT, InThread, hasty_threads, running
from pipebus import Actor, Bus, Dropped, Message
from pipebus.errors import DeadLetterError
from pipebus.filters import Validate

ROUNDS = 300


def nobody(message: Message) -> None:
    return None


class Quiet(Actor):
    def on_message(self, message: Message) -> None:
        raise ValueError(message.body)


numbers = itertools.count()


def schedules(bus: Bus) -> None:
    for one in [bus.every(3600.0, f"tick.{number}") for number in range(20)]:
        one.stop()


def subscriptions(bus: Bus) -> None:
    for one in [bus.subscribe(f"s.{number}", nobody, name=f"s{next(numbers)}") for number in range(10)]:
        one.unsubscribe()


def wildcards(bus: Bus) -> None:
    for one in [bus.subscribe(f"*.w{number}.>", nobody, filters=[Validate({"x": int})]) for number in range(10)]:
        one.unsubscribe()


def actors(bus: Bus) -> None:
    actor = bus.spawn(Quiet())
    bus.publish(actor, 1)
    actor.stop()


def drops(bus: Bus) -> None:
    for _ in range(10):
        bus.publish("drop", f"reason {next(numbers)}")


def drop(message: Message, call_next: Any) -> Any:
    return Dropped(message.body, "drop") if message.subject == "drop" else call_next(message)


def letters(bus: Bus) -> None:
    bus.publish("fails", 0)
    bus.drain(WAIT)
    for letter in bus.dead_letters.list():
        with suppress(DeadLetterError):  # the other thread was faster
            bus.dead_letters.discard(letter.id)


@pytest.mark.parametrize(
    "come_and_go", [schedules, subscriptions, wildcards, actors, drops, letters], ids=lambda one: one.__name__
)
@pytest.mark.few(2)
def test_figures_and_descriptions_can_be_had_while_others_come_and_go(come_and_go: Callable[[Bus], None]) -> None:
    """None of these calls raises, whatever others register, stop, drop or discard meanwhile."""
    bus = Bus()
    bus.use(drop)
    bus.spawn(Quiet("fails"))
    stop = threading.Event()

    def others() -> None:
        while not stop.is_set():
            come_and_go(bus)

    def look() -> None:
        for _ in range(ROUNDS):
            bus.stats()
            bus.describe()
            bus.explain("s.1")
            list(bus.dead_letters)
            for subscription in bus.subscriptions:
                subscription.stats()

    with running(bus, drain=False), hasty_threads():
        threads = [InThread(others) for _ in range(2)]
        try:
            InThread(look).result(60.0)
        finally:
            stop.set()
        for thread in threads:
            thread.result()


def test_a_config_can_be_exported_while_schedules_come_and_go() -> None:
    """The exported file has the schedules that existed at one moment."""
    bus = Bus()
    stop = threading.Event()

    def others() -> None:
        while not stop.is_set():
            schedules(bus)

    with running(bus), hasty_threads():
        thread = InThread(others)
        try:
            InThread(lambda: [bus.export_config() for _ in range(50)]).result(60.0)
        finally:
            stop.set()
        thread.result()

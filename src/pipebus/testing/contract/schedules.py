"""Schedules: what a name promises to all buses that declare it."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from pipebus.bus.bus import engine_of
from pipebus.clock import SystemClock
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.testing.contract.processes import child
from pipebus.testing.contract.stage import Stage
from pipebus.testing.contract.tools import Seen, assert_refused, running, serving, until

HOUR: Final = 3600.0
ROUNDS: Final = 2


class Ahead(SystemClock):
    """The computer's clock, some hours ahead."""

    def __init__(self, hours: int) -> None:
        self.hours = hours

    def now(self) -> float:
        return SystemClock.now() + self.hours * HOUR


def slots_of(messages: list[Message[Any]]) -> list[float]:
    return [float(message.headers["pipebus-slot"]) for message in messages]


def assert_each_once(slots: list[float], interval: float) -> None:
    """Check that they are neighbours, in order."""
    assert slots == [slots[0] + number * interval for number in range(len(slots))]


class TestSchedules:
    """Named schedules, in buses that share a store, at all times of their lives."""

    def test_buses_publish_each_slot_once(self, stage: Stage) -> None:
        """However many buses declare a schedule, and whatever their chains, a slot has one message, and none is left out."""
        if not stage.capabilities.schedules:
            assert_refused(stage, schedules=True)
            return

        async def later(message: Message[Any], call_next: Callable[..., Any]) -> Any:
            return await call_next(message)

        seen, other = Seen(), stage.open("other")
        other.use(later)
        with serving(stage, seen) as bus, running(stage, other):
            both = [one.every(0.5, "a", name="clock") for one in (bus, other)]
            for number in range(1, 5):
                until(stage, lambda number=number: len(seen.messages) >= number, f"slot {number}")  # type: ignore[misc]
            for one in both:
                one.stop()
        assert_each_once(slots_of(seen.messages), 0.5)

    def test_missed_decides_about_slots_without_a_process(self, stage: Stage) -> None:
        """A start publishes the last of the slots that were missed, or none, and no start publishes one again."""
        if not stage.capabilities.schedules:
            assert_refused(stage, schedules=True)
            return
        life = self._lives(stage)
        assert life(0, missed="once") == 0  # a new schedule has missed nothing
        assert [life(2, missed="once"), life(2, missed="once"), life(2, now=True)] == [1, 0, 0]
        assert [life(4), life(4), life(6, now=True), life(6, missed="once")] == [0, 0, 1, 0]
        assert life(1, missed="once") == 0  # a clock that is late
        with stage.open("contract") as bus:
            transport = engine_of(bus).transport
            [slot] = transport.schedules()
            assert transport.forget_schedule(slot.schedule)
            assert not transport.forget_schedule(slot.schedule)
            assert transport.schedules() == []
        assert life(1, now=True) == 1

    def test_what_one_bus_drops_is_dropped_for_all(self, stage: Stage) -> None:
        """A filter has decided about the slot, so no other bus publishes it."""
        if not stage.capabilities.schedules:
            assert_refused(stage, schedules=True)
            return

        def drop(message: Message[Any], call_next: Callable[..., Any]) -> Any:
            return Dropped("not now")

        life = self._lives(stage)
        assert [life(0), life(2, drop, missed="once"), life(2, missed="once"), life(4, missed="once")] == [0, 0, 0, 1]

    def test_processes_publish_each_slot_once_while_some_are_killed(self, stage: Stage, tmp_path: Path) -> None:
        """A process may be killed at any step of a slot, or start in the middle of one: the slot still has one message."""
        if not stage.capabilities.schedules:
            assert_refused(stage, schedules=True)
            return
        seen = Seen()
        with serving(stage, seen), ExitStack() as all:

            def start(kind: str) -> Any:
                return all.enter_context(child(stage, "tick", tmp_path / "history.jsonl", kind))

            alive = start("alive")
            for kind in ("before", "after", "alive") * ROUNDS:
                process, count = start(kind), len(seen.messages)
                until(stage, lambda count=count: len(seen.messages) > count, "the next slot")  # type: ignore[misc]
                if kind == "alive":
                    alive.kill()
                    alive = process
            count = len(seen.messages)
            until(stage, lambda: len(seen.messages) > count, "the slot after the last kill")
        assert_each_once(slots_of(seen.messages), 1.0)

    @staticmethod
    def _lives(stage: Stage) -> Callable[..., int]:
        """A function that starts and stops a bus in another hour, and returns how many messages it has published."""

        def life(hours: int, *filters: Any, **options: Any) -> int:
            bus = stage.open(clock=Ahead(hours))
            bus.use(*filters)
            bus.every("1h", "a", name="clock", **options)
            with running(stage, bus):
                bus.drain(timeout=stage.patience)
                stats = bus.stats()
            published = sum(schedule["published"] for schedule in stats["schedules"])
            return int(published - sum(sum(reasons.values()) for reasons in stats["dropped"].values()))

        return life

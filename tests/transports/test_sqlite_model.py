"""A model of one subscription next to the real file: after any actions in any order, both agree."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlite_stage import SqliteStage

from pipebus import Bus, PipebusError, Receipt, Subscription
from pipebus.bus.bus import engine_of
from pipebus.errors import ReceiveTimeout
from scale_helpers import examples

pytestmark = pytest.mark.thorough  # a long model

WAIT = 10.0
MOST_HELD = 16  # a reader with more unsettled deliveries gets no others
ATTEMPTS = 1_000  # so that only a refusal makes a dead letter


class Life(RuleBasedStateMachine):
    """
    The model keeps, for each message, how often it may have been taken: a crash counts for what was claimed, and what had been
    claimed is not known outside.
    """

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.stage = SqliteStage(self.folder / "bus.db", "?durability=process&window=1h")
        self.waiting: dict[str, tuple[int, int]] = {}  # id: fewest and most attempts so far
        self.held: dict[str, Any] = {}
        self.done: set[str] = set()
        self.dead: set[str] = set()
        self.count = 0
        self.open()

    def open(self) -> None:
        self.bus: Bus = self.stage.open()
        self.reader: Subscription = self.bus.subscribe("a", name="s", attempts=ATTEMPTS)
        self.bus.start()

    @rule(again=st.booleans(), pick=st.integers(0, 1_000))
    def publish(self, again: bool, pick: int) -> None:
        """A new message, or one whose id the file knows."""
        known = [*self.waiting, *self.held, *self.done, *self.dead]
        if again and known:
            receipt = self.bus.publish("a", "again", id=known[pick % len(known)])
            assert receipt == Receipt(1, duplicate=True)
            return
        self.count += 1
        id = f"m{self.count}"
        assert self.bus.publish("a", id, id=id) == Receipt(1)
        self.waiting[id] = (0, 0)

    @precondition(lambda self: self.waiting and len(self.held) < MOST_HELD)
    @rule()
    def receive(self) -> None:
        """What is handed out is waiting, and knows how often it was taken."""
        manager = self.reader.delivery(timeout=WAIT)
        delivery = manager.__enter__()
        id = delivery.message.id
        assert delivery.message.body == id
        fewest, most = self.waiting.pop(id)
        assert fewest < delivery.attempt <= most + 1
        assert delivery.redelivered is (delivery.attempt > 1)
        self.held[id] = (manager, delivery)

    @precondition(lambda self: not self.waiting)
    @rule()
    def receive_nothing(self) -> None:
        """Nothing arrives when nothing waits."""
        with pytest.raises(ReceiveTimeout):
            self.reader.receive(timeout=0.01)

    @precondition(lambda self: self.held)
    @rule(pick=st.integers(0, 1_000), how=st.sampled_from(["ack", "confirm", "retry", "reject"]))
    def settle(self, pick: int, how: str) -> None:
        id = list(self.held)[pick % len(self.held)]
        manager, delivery = self.held.pop(id)
        if how == "ack":
            delivery.ack()
            self.done.add(id)
        elif how == "confirm":
            delivery.ack(confirm=True)
            self.done.add(id)
        elif how == "retry":
            delivery.retry()
            self.waiting[id] = (delivery.attempt, delivery.attempt)
        else:
            delivery.reject("no")
            self.dead.add(id)
        manager.__exit__(None, None, None)

    @precondition(lambda self: self.dead)
    @rule(pick=st.integers(0, 1_000))
    def replay(self, pick: int) -> None:
        """A dead letter's message waits again, as if new."""
        engine_of(self.bus).transport.flush()
        letters = self.bus.dead_letters.list()
        letter = letters[pick % len(letters)]
        self.bus.dead_letters.replay(letter.id)
        self.dead.remove(letter.message.id)
        self.waiting[letter.message.id] = (0, 0)

    def claimed(self, counts: bool) -> None:
        """What of this process was out comes back; a crash may count for what was claimed and not handed out."""
        for id, (_, delivery) in self.held.items():
            taken = delivery.attempt - (not counts)
            self.waiting[id] = (taken, taken)
        if counts:
            self.waiting = {
                id: (fewest, most) if id in self.held else (fewest, most + 1) for id, (fewest, most) in self.waiting.items()
            }
        held, self.held = self.held, {}
        for manager, _ in held.values():
            with suppress(PipebusError):
                manager.__exit__(None, None, None)

    @rule()
    def crash(self) -> None:
        """What was acknowledged a moment ago may not be in the file yet; so the model flushes, as a wait would."""
        engine_of(self.bus).transport.flush()
        self.stage.crash()
        self.claimed(counts=True)
        self.bus.stop(timeout=1.0, drain=False)
        self.stage.buses.clear()
        self.open()

    @rule()
    def restart(self) -> None:
        """A clean end counts no taking."""
        self.bus.stop(timeout=WAIT, drain=False)
        self.claimed(counts=False)
        self.stage.buses.clear()
        self.open()

    @invariant()
    def figures(self) -> None:
        if not hasattr(self, "bus"):
            return
        s = self.bus.stats()["subscriptions"]["s"]
        assert s["accepted"] == self.count
        assert s["acknowledged"] == len(self.done)
        assert s["dead"] == len(self.dead) == len(self.bus.dead_letters)
        assert s["pending"] + s["in_flight"] == len(self.waiting) + len(self.held)

    def teardown(self) -> None:
        if not hasattr(self, "bus"):
            return
        try:
            while self.waiting:  # all of it comes
                if len(self.held) == MOST_HELD:
                    self.settle(0, "ack")
                self.receive()
            self.receive_nothing()
        finally:
            for manager, _ in self.held.values():
                with suppress(PipebusError):
                    manager.__exit__(None, None, None)
            self.stage.wipe()
            shutil.rmtree(self.folder)


Life.TestCase.settings = settings(
    max_examples=examples(6, 40), stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLife = Life.TestCase

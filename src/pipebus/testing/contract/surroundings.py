"""Surroundings: what others do to a store while a bus uses it, and what a load leaves in it."""

import threading
import time
from bisect import bisect_right
from collections import deque
from functools import partial
from typing import Final, Literal, NoReturn

import pytest

from pipebus.bus.bus import Bus
from pipebus.delivery.delivery import Delivery
from pipebus.errors import TransportError
from pipebus.message.message import Message
from pipebus.testing.contract.stage import CountsRows, LosesMessages, RemovesGroups, Stage, Swaps
from pipebus.testing.contract.tools import (
    Seen,
    assert_refused,
    figures,
    opened,
    reading,
    running,
    serving,
    survives,
    together,
    until,
)
from pipebus.testing.logs import captured_logs

PUBLISHERS: Final = 20
"""How many threads publish a load."""

UNDER_WAY: Final = 200
"""How many messages of a load have been published and not handled yet, at most."""

WINDOW: Final = 1.0
"""Seconds of the window for ids under a load."""

WINDOWS: Final = 5
"""For how many of them it lasts."""


def lacks(ability: type) -> NoReturn:
    """Skip a test for which the stage can do too little."""
    pytest.skip(f"the stage cannot do what this test needs: see {ability.__name__}")


class TestSurroundings:
    """What others do to a store while a bus uses it, and what a load leaves in it."""

    @pytest.mark.parametrize("how", ["removed", "replaced"])
    def test_receipts_are_true_after_a_swap(self, stage: Stage, how: Literal["removed", "replaced"]) -> None:
        """
        The file or stream is removed, or replaced by an empty one, while a bus uses it. The log has a warning, a publish
        raises or its message is kept in what is there now, and each of these messages comes in the next run, once.
        """
        if not survives(stage):
            assert_refused(stage, survives="process")
            return
        if not isinstance(stage, Swaps):
            lacks(Swaps)
        kept: list[int] = []
        with captured_logs() as logs, reading(stage, drain=False) as (bus, _):
            for number in range(10):
                bus.publish("a", -1 - number)
            stage.swap(how)

            def publish() -> bool:
                try:
                    bus.publish("a", len(kept))
                except TransportError:
                    return False
                kept.append(len(kept))
                return len(kept) == 10

            until(stage, publish, "ten publishes are accepted")
            until(stage, lambda: [line for line in logs if line["log_level"] == "warning"], "the log has a warning")
        seen = Seen()
        with serving(stage, seen):
            until(stage, lambda: set(kept) <= set(seen.bodies), f"all with a receipt come: {kept}")
        assert sorted(body for body in seen.bodies if body >= 0) == kept

    @pytest.mark.parametrize("at", [0, 60, 139])
    def test_group_removed_underneath_goes_on(self, stage: Stage, at: int) -> None:
        """
        What serves a subscription in the store is deleted in the middle of its work. Each message is handled once, in order,
        also those of other buses, and the figures add up.
        """
        if not survives(stage):
            assert_refused(stage, survives="process")
            return
        if not isinstance(stage, RemovesGroups):
            lacks(RemovesGroups)
        reached, go_on = threading.Event(), threading.Event()

        def stand(message: Message, delivery: Delivery) -> None:
            if message.body == min(at, 99):
                reached.set()
                go_on.wait(60.0)

        seen = Seen(stand)
        bus = opened(stage, seen)
        with running(stage, bus), running(stage, stage.open("other")) as other:
            for number in range(100):
                bus.publish("a", number)
            assert reached.wait(stage.patience)
            if at > 99:
                go_on.set()
                until(stage, lambda: len(seen.done) == 100, "the first hundred are handled")
            stage.remove_group("s")
            for number in range(100, 140):
                other.publish("a", number)
            go_on.set()
            until(stage, lambda: len(seen.done) >= 140, "all are handled")
            bus.drain(timeout=stage.patience)
            stats = figures(bus, "s")
            assert (stats["pending"], stats["in_flight"], stats["dead"]) == (0, 0, 0)
        assert seen.bodies == list(range(140))

    def test_group_removed_while_it_is_paused_keeps_what_waits(self, stage: Stage) -> None:
        """What serves a paused subscription in the store is deleted: the log has a warning, and nothing that waits is lost."""
        if not survives(stage):
            assert_refused(stage, survives="process")
            return
        if not isinstance(stage, RemovesGroups):
            lacks(RemovesGroups)
        seen = Seen()
        with captured_logs() as logs, serving(stage, seen) as bus:
            (subscription,) = bus.subscriptions
            subscription.pause()
            for number in range(30):
                bus.publish("a", number)
            stage.remove_group("s")
            until(stage, lambda: [line for line in logs if line["log_level"] == "warning"], "the log has a warning")
            subscription.resume()
            until(stage, lambda: len(seen.messages) >= 30, "all are handled")
        assert seen.bodies == list(range(30))

    def test_lost_message_shows_in_the_figures(self, stage: Stage) -> None:
        """
        One of ten waiting messages vanishes from the store. It was accepted, and is not acknowledged: since each figure is
        counted where it happens, they show that one is missing, or under which reason it was dropped.
        """
        if not survives(stage):
            assert_refused(stage, survives="process")
            return
        if not isinstance(stage, LosesMessages):
            lacks(LosesMessages)
        seen = Seen()
        bus = opened(stage, seen)
        (subscription,) = bus.subscriptions
        subscription.pause()
        bus.start()
        for number in range(10):
            bus.publish("a", number)
        until(stage, lambda: figures(bus, "s")["pending"] == 10, "all wait")
        stage.lose_message("s")
        subscription.resume()
        until(stage, lambda: figures(bus, "s")["acknowledged"] == 9, "the others are acknowledged")
        stats = figures(bus, "s")
        bus.stop(timeout=stage.patience)
        assert (stats["accepted"], stats["pending"], stats["in_flight"], stats["dead"]) == (10, 0, 0, 0)
        assert len(seen.messages) == 9

    def test_rows_are_bounded_under_load(self, stage: Stage) -> None:
        """
        A load is handled as fast as it comes while a backlog waits that nobody serves. Apart from the backlog, the store never
        has more messages than were published in two windows for ids, and its bytes stop growing.
        """
        if not survives(stage):
            assert_refused(stage, survives="process")
            return
        if not isinstance(stage, CountsRows):
            lacks(CountsRows)
        load = Load()
        bus = stage.open_with_window(WINDOW)
        bus.subscribe("backlog", name="absent").pause()
        bus.subscribe("a", load.handle, name="s", mailbox=UNDER_WAY)
        found = list[tuple[int, int]]()

        def fill() -> None:
            for number in range(stage.backlog // PUBLISHERS):
                bus.publish("backlog", number)

        def look() -> None:
            for _ in range(4 * WINDOWS):
                time.sleep(WINDOW / 4)  # the time between two looks, not a wait for something
                found.append(stage.stored())
            load.over.set()

        with running(stage, bus):
            assert together(stage, *[fill] * PUBLISHERS, within=60 * stage.patience) == []
            assert together(stage, look, *[partial(load.publish, stage, bus)] * PUBLISHERS, within=6 * stage.patience) == []
        rows, sizes = [count - stage.backlog for count, _ in found], [size for _, size in found]
        assert max(rows) <= 2 * load.most() + UNDER_WAY, f"{rows} messages, of at most {load.most()} in a window"
        assert max(sizes[-4:]) <= 1.5 * max(sizes[: 2 * WINDOWS]), f"bytes of the store, four times in a window: {sizes}"


class Load:
    """Publishers that go on until it is over, and a handler that keeps pace."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.times: deque[float] = deque()
        self.room = threading.Semaphore(UNDER_WAY)

    def publish(self, stage: Stage, bus: Bus) -> None:
        while not self.over.is_set():
            assert self.room.acquire(timeout=stage.patience), "the load is not handled"
            bus.publish("a", "x" * 1000)
            self.times.append(time.monotonic())

    def handle(self, message: Message) -> None:
        self.room.release()

    def most(self) -> int:
        """The most that were published in one window."""
        times = sorted(self.times)
        return max(bisect_right(times, begun + WINDOW) - number for number, begun in enumerate(times))

"""Flow: bounds are kept, drops are counted, and a slow subscriber does not delay the others."""

import threading
from typing import Any, Literal

import pytest

from pipebus import events
from pipebus.bus.bus import engine_of
from pipebus.delivery.delivery import Delivery
from pipebus.errors import MailboxFull, UnsupportedCapability
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline.shapes import transform
from pipebus.testing.contract.stage import Stage
from pipebus.testing.contract.tools import Seen, assert_refused, deliver, figures, never, opened, running, serving, until

ROOM = 10
SENT = 100


class TestFlow:
    """Bounds are kept, drops are counted, and a slow subscriber does not delay the others."""

    @pytest.mark.parametrize("overflow", ["block", "reject", "drop_newest", "drop_oldest"])
    def test_mailbox_keeps_its_bound(
        self, stage: Stage, overflow: Literal["block", "reject", "drop_newest", "drop_oldest"]
    ) -> None:
        """A mailbox never holds more messages than its bound. When it is full, its overflow rule does what it says."""
        seen = Seen(held=True)
        refused: list[int] = []
        try:
            bus = opened(stage, seen, mailbox=ROOM, overflow=overflow, overflow_timeout=0.0)
            bus.start()
        except UnsupportedCapability:
            assert overflow != "block", "a transport without other rules can block"
            return

        def waiting() -> int:
            stats = bus.subscriptions[0]
            return int(stats.waiting() + stats.in_flight)

        with running(stage, bus, seen):
            bus.publish("a", 0)
            until(stage, lambda: seen.bodies == [0], "the first has begun")
            for number in range(1, SENT):
                try:
                    bus.publish("a", number)
                except MailboxFull:
                    refused.append(number)
                assert waiting() <= ROOM
            if overflow.startswith("drop"):
                until(stage, lambda: sum(figures(bus, "s")["dropped"].values()) == SENT - ROOM, "the rest is dropped")
            seen.go.set()
            bus.drain(timeout=stage.patience)
            dropped = figures(bus, "s")["dropped"]
        refuses = overflow in ("block", "reject") and engine_of(bus).transport.local  # a store keeps what does not fit
        assert refused == (list(range(ROOM, SENT)) if refuses else [])
        kept = {"drop_newest": [*range(ROOM)], "drop_oldest": [0, *range(SENT - ROOM + 1, SENT)]}
        assert sorted(seen.bodies) == kept.get(overflow, [*range(ROOM if refuses else SENT)])
        assert dropped == ({"overflow": SENT - ROOM} if overflow.startswith("drop") else {})

    def test_every_drop_is_counted(self, stage: Stage) -> None:
        """Each message that is neither handled nor pending was dropped: counted under its reason, and reported by an event."""
        seen, heard = Seen(held=True), list[Any]()

        def spam(message: Message) -> Message | Dropped:
            return Dropped("overflow") if message.body != "pending" and message.body > 4 else message

        try:
            bus = opened(stage, seen, mailbox=5, overflow="drop_newest")
            bus.start()
        except UnsupportedCapability:  # let a filter drop messages instead
            bus = opened(stage, seen, filters=[transform(spam)], workers=10)
        bus.observe(heard.append)
        (subscription,) = bus.subscriptions
        with running(stage, bus, seen):
            for number in range(50):
                bus.publish("a", number)
            until(stage, lambda: sum(figures(bus, "s")["dropped"].values()) >= 45, "the rest is dropped")
            seen.go.set()
            bus.drain(timeout=stage.patience)
            subscription.pause()
            bus.publish("a", "pending")
            until(stage, lambda: figures(bus, "s")["pending"] == 1, "it is pending")
            stats = figures(bus, "s")
            drops = [event for event in heard if isinstance(event, events.Discarded)]
            assert stats["dropped"] == {"overflow": 51 - len(seen.messages) - stats["pending"]}
            assert [(event.place, event.reason) for event in drops] == [("s", "overflow")] * 45
            subscription.resume()

    def test_slow_subscriber_holds_up_no_other(self, stage: Stage) -> None:
        """While one subscription's handler is stuck, all other subscriptions settle every message."""
        slow, quick = Seen(held=True), [Seen() for _ in range(4)]
        bus = stage.open()
        bus.subscribe("a", slow, name="slow")
        for number, handler in enumerate(quick):
            bus.subscribe("a", handler, name=f"quick{number}")
        with running(stage, bus, slow):
            for number in range(200):
                bus.publish("a", number)
            for number in range(4):
                until(stage, lambda n=number: figures(bus, f"quick{n}")["acknowledged"] == 200, "the others settle all")  # type: ignore[misc]
            assert len(slow.messages) <= 1

    def test_workers_bound_what_is_in_flight(self, stage: Stage) -> None:
        """At most `workers` handlers run at the same time, and that many do if there is work."""
        at_work, most = list[int](), list[int]()
        all_three = threading.Barrier(3)

        def handle(message: Message) -> None:
            at_work.append(message.body)
            most.append(len(at_work))
            if message.body < 3:
                all_three.wait(stage.patience)
            at_work.remove(message.body)

        with serving(stage, handle, workers=3) as bus:
            deliver(stage, bus, *range(200))
            assert figures(bus, "s")["dead"] == 0
        assert max(most) == 3

    def test_busy_worker_does_not_hoard(self, stage: Stage) -> None:
        """A busy worker does not hold messages that an idle worker of its group could handle."""
        if not stage.capabilities.groups:
            assert_refused(stage, groups=True)
        first, release = threading.Lock(), threading.Event()

        def act(message: Message, delivery: Delivery) -> None:
            if first.acquire(blocking=False):
                release.wait(60.0)

        shared = stage.capabilities.groups
        buses = [stage.open(f"member-{number}") for number in range(2 if shared else 1)]
        seen = [Seen(act) for _ in buses]
        for bus, handler in zip(buses, seen, strict=True):
            bus.subscribe("a", handler, name="group", workers=1 if shared else 2, mailbox=1 if shared else 10)
            bus.start()
        try:
            for number in range(6):
                buses[0].publish("a", number)
            until(stage, lambda: sum(len(one.messages) for one in seen) == 6, "the idle worker has handled the rest")
        finally:
            release.set()
            for bus in buses:
                bus.stop(timeout=stage.patience)
        assert sorted(body for one in seen for body in one.bodies) == list(range(6))
        if shared:
            assert sorted(len(one.messages) for one in seen) == [1, 5]

    def test_pause_and_resume_lose_nothing(self, stage: Stage) -> None:
        """A paused subscription starts no handler; after `resume` it handles everything that came meanwhile."""
        seen = Seen()
        with serving(stage, seen) as bus:
            (subscription,) = bus.subscriptions
            for count in (20, 40, 60):
                subscription.pause()
                for number in range(count - 20, count):
                    bus.publish("a", number)
                never(lambda count=count: len(seen.messages) > count - 20, "a paused subscription began a handler")  # type: ignore[misc]
                subscription.resume()
                until(stage, lambda count=count: len(seen.messages) == count, "what came meanwhile is handled")  # type: ignore[misc]
        assert sorted(seen.bodies) == list(range(60))

"""The contract's group A: how a delivery ends, once."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from pipebus.bus.bus import Bus
from pipebus.delivery.subscription import Delivery
from pipebus.errors import AlreadySettled, BusClosed, PipebusError, ReceiveTimeout
from pipebus.message.message import Message
from pipebus.testing.contract.stage import Crashes, LosesLeases, OpensWithLease, Stage
from pipebus.testing.contract.tools import (
    QUIET,
    Seen,
    assert_nothing_comes_again,
    assert_refused,
    figures,
    never,
    next_life,
    running,
    survives,
    until,
)

SETTLEMENTS = ("ack", "retry", "reject")


def settle(delivery: Delivery, how: str) -> None:
    if how == "reject":
        delivery.reject("refused by the test")
    else:
        getattr(delivery, how)()


def handled_by(bus: Bus, seen: Seen) -> None:
    bus.subscribe("a", seen, name="s")


class TestAcknowledgement:
    """A: acknowledgement."""

    def test_a1_ack_removes(self, stage: Stage) -> None:
        """What was acknowledged does not come in the next run."""
        bus = stage.open()
        subscription = bus.subscribe("a", name="s")
        with running(stage, bus):
            bus.publish("a", 1)
            with subscription.delivery(timeout=stage.patience) as delivery:
                delivery.ack()
            bus.publish("a", 2)
            assert subscription.receive(timeout=stage.patience).body == 2
        assert_nothing_comes_again(stage, bus, handled_by, "a")

    def test_a2_no_ack_no_next(self, stage: Stage) -> None:
        """One worker: the second message is not handled before the first is settled, and then it is."""
        seen = Seen(held=True)
        bus = stage.open()
        bus.subscribe("a", seen, name="s")
        with running(stage, bus, seen):
            bus.publish("a", 1)
            bus.publish("a", 2)
            until(stage, lambda: seen.bodies == [1], "the first has begun")
            never(lambda: len(seen.messages) > 1, "the second began before the first was settled")
            seen.go.set()
            until(stage, lambda: seen.bodies == [1, 2], "the second has begun")

    @pytest.mark.parametrize(("first", "second"), list(itertools.product(SETTLEMENTS, SETTLEMENTS)), ids="-".join)
    def test_a3_settle_exactly_once(self, stage: Stage, first: str, second: str) -> None:
        """The first settlement wins; a second one raises and changes nothing."""
        raised: list[BaseException] = []

        def handle(message: Message, delivery: Delivery) -> None:
            if delivery.attempt > 1:
                return
            settle(delivery, first)
            try:
                settle(delivery, second)
            except AlreadySettled as error:
                raised.append(error)
            raise ValueError("too late to count")

        bus = stage.open()
        bus.subscribe("a", handle, name="s")
        with running(stage, bus):
            bus.publish("a")
            bus.drain(timeout=stage.patience)
            stats = figures(bus, "s")
        assert len(raised) == 1
        assert (stats["acknowledged"], stats["dead"]) == ((0, 1) if first == "reject" else (1, 0))

    def test_a4_ack_confirmed_mode(self, stage: Stage) -> None:
        """An acknowledgement that was confirmed outlives a crash that comes at once."""
        bus = stage.open()
        subscription = bus.subscribe("a", name="s")
        if not survives(stage):
            assert_refused(stage, survives="process")
        bus.start()
        bus.publish("a", 1)
        with subscription.delivery(timeout=stage.patience) as delivery:
            delivery.ack(confirm=True)
        if survives(stage) and isinstance(stage, Crashes):
            stage.crash()
        else:
            bus.stop(timeout=stage.patience, drain=False)
        assert_nothing_comes_again(stage, bus, handled_by, "a")

    def test_a5_stale_ack_fenced(self, stage: Stage) -> None:
        """Who has lost the lease acknowledges too late: the message belongs to whoever has it now, and comes no third time."""
        bus = stage.open()
        subscription = bus.subscribe("a", name="s")
        with running(stage, bus):
            bus.publish("a", id="m")
            with subscription.delivery(timeout=stage.patience) as first:
                if isinstance(stage, LosesLeases):
                    stage.lose_leases()
                    with subscription.delivery(timeout=stage.patience) as second:
                        found = [(d.message.id, d.attempt, d.redelivered) for d in (first, second)]
                        assert found == [("m", 1, False), ("m", 2, True)]
                        with suppress(PipebusError):  # rejected by its token, or accepted and counted
                            first.ack()
                        second.ack()
                else:  # there is no lease: nobody else gets it
                    with pytest.raises(ReceiveTimeout), subscription.delivery(timeout=QUIET):
                        pass
                    first.ack()
            with pytest.raises(ReceiveTimeout):
                subscription.receive(timeout=QUIET)
        assert_nothing_comes_again(stage, bus, handled_by, "a")

    def test_a6_lease_expiry_redelivers(self, stage: Stage) -> None:
        """What was not settled comes again as its second attempt."""
        bus = stage.open()
        subscription = bus.subscribe("a", name="s")
        with running(stage, bus):
            bus.publish("a", id="m")
            if isinstance(stage, LosesLeases):
                with subscription.delivery(timeout=stage.patience):
                    stage.lose_leases()
                    with subscription.delivery(timeout=stage.patience) as again:
                        found = (again.message.id, again.attempt, again.redelivered)
            else:
                with pytest.raises(KeyError), subscription.delivery(timeout=stage.patience):
                    raise KeyError("given back")
                with subscription.delivery(timeout=stage.patience) as again:
                    found = (again.message.id, again.attempt, again.redelivered)
        assert found == ("m", 2, True)

    def test_a7_lease_renewed_while_working(self, stage: Stage) -> None:
        """A handler that takes five times as long as the lease is given its message once."""
        lease = 0.5
        seen = Seen()

        def handle(message: Message, delivery: Delivery) -> None:
            seen.note(message, delivery.attempt)
            time.sleep(5 * lease)  # this is the work

        bus = stage.open_with_lease(lease) if isinstance(stage, OpensWithLease) else stage.open()
        lease = lease if isinstance(stage, OpensWithLease) else 0.02
        bus.subscribe("a", handle, name="s", workers=2)
        with running(stage, bus):
            bus.publish("a", 1)
            bus.drain(timeout=stage.patience)
            assert figures(bus, "s")["acknowledged"] == 1
        assert (seen.bodies, seen.attempts) == ([1], [1])

    def test_a8_lease_renewed_while_buffered(self, stage: Stage) -> None:
        """What waits behind a slow handler is not lost either."""
        lease = 0.5 if isinstance(stage, OpensWithLease) else 0.01
        seen = Seen()

        def handle(message: Message, delivery: Delivery) -> None:
            seen.note(message, delivery.attempt)
            time.sleep(2 * lease)  # this is the work

        bus = stage.open_with_lease(lease) if isinstance(stage, OpensWithLease) else stage.open()
        bus.subscribe("a", handle, name="s")
        with running(stage, bus):
            for number in range(3):
                bus.publish("a", number)
            bus.drain(timeout=stage.patience)
        assert (sorted(seen.bodies), seen.attempts) == ([0, 1, 2], [1, 1, 1])

    def test_a9_early_release_on_disconnect(self, stage: Stage) -> None:
        """What a killed process had taken comes to another one, as the next attempt."""
        bus = stage.open()
        if not (survives(stage) and isinstance(stage, Crashes)):
            if not survives(stage):
                assert_refused(stage, survives="process")
            bus.subscribe("a", Seen(), name="s")
            with running(stage, bus):
                bus.publish("a", 1)
            return
        subscription = bus.subscribe("a", name="s")
        bus.start()
        bus.publish("a", 1)
        with suppress(PipebusError), subscription.delivery(timeout=stage.patience):
            stage.crash()
        bus = stage.open()
        seen = Seen()
        bus.subscribe("a", seen, name="s")
        with running(stage, bus):
            until(stage, lambda: seen.messages, "what the killed process had comes")
        assert (seen.bodies, seen.attempts) == ([1], [2])

    def test_a10_settle_after_close(self, stage: Stage) -> None:
        """A delivery that outlives its bus cannot be settled; its message comes again, once and as if it had not been taken."""
        bus = stage.open()
        subscription = bus.subscribe("a", name="s")
        bus.start()
        bus.publish("a", 1)
        seen: list[tuple[Any, int]] = []
        with subscription.delivery(timeout=stage.patience) as delivery:
            bus.stop(timeout=stage.patience, drain=False)
            for how in SETTLEMENTS:
                with pytest.raises((BusClosed, AlreadySettled)):
                    settle(delivery, how)
        again: list[Any] = [subscription]

        def subscribe(bus: Bus) -> None:
            again[0] = bus.subscribe("a", name="s")

        bus = next_life(stage, bus, subscribe)
        with running(stage, bus):
            with again[0].delivery(timeout=stage.patience) as delivery:
                seen.append((delivery.message.body, delivery.attempt))
            with pytest.raises(ReceiveTimeout):
                again[0].receive(timeout=QUIET)
        assert seen == [(1, 1)]

    def test_a3_settlements_race(self, stage: Stage) -> None:
        """A3 with threads: of ten that settle one delivery at once, one succeeds."""
        bus = stage.open()
        subscription = bus.subscribe("a", name="s")
        with running(stage, bus):
            for number in range(20):
                bus.publish("a", number)
                with subscription.delivery(timeout=stage.patience) as delivery:
                    won: list[int] = []
                    barrier = threading.Barrier(10)

                    def race(delivery: Delivery = delivery, won: list[int] = won, barrier: Any = barrier) -> None:
                        barrier.wait(stage.patience)
                        with suppress(AlreadySettled):
                            delivery.ack()
                            won.append(1)

                    threads = [threading.Thread(target=race) for _ in range(10)]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join(stage.patience)
                    assert won == [1]
            assert figures(bus, "s")["acknowledged"] == 20

"""Acknowledgement: how a delivery is settled, exactly once."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from pipebus.bus.bus import Bus
from pipebus.delivery.delivery import Delivery
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
    """How a delivery is settled, exactly once."""

    def test_acknowledged_does_not_come_again(self, stage: Stage) -> None:
        """A message that was acknowledged does not come again in the program's next run."""
        bus = stage.open()
        subscription = bus.subscribe("a", name="s")
        with running(stage, bus):
            bus.publish("a", 1)
            with subscription.delivery(timeout=stage.patience) as delivery:
                delivery.ack()
            bus.publish("a", 2)
            assert subscription.receive(timeout=stage.patience).body == 2
        assert_nothing_comes_again(stage, bus, handled_by, "a")

    def test_one_worker_takes_no_second_before_the_first_is_settled(self, stage: Stage) -> None:
        """With one worker, the second message is handled only after the first is settled."""
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
    def test_a_delivery_is_settled_exactly_once(self, stage: Stage, first: str, second: str) -> None:
        """The first settlement of a delivery counts. A second one raises and changes nothing."""
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

    def test_confirmed_acknowledgement_outlives_a_crash(self, stage: Stage) -> None:
        """A confirmed acknowledgement outlives a crash that follows at once."""
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

    def test_late_acknowledgement_changes_nothing(self, stage: Stage) -> None:
        """An acknowledgement after the lease has ended is too late: the second delivery decides, and there is no third."""
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
                else:  # there is no lease: nobody else gets the message
                    with pytest.raises(ReceiveTimeout), subscription.delivery(timeout=QUIET):
                        pass
                    first.ack()
            with pytest.raises(ReceiveTimeout):
                subscription.receive(timeout=QUIET)
        assert_nothing_comes_again(stage, bus, handled_by, "a")

    def test_ended_lease_redelivers(self, stage: Stage) -> None:
        """A delivery that is not settled comes again, as the second attempt."""
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

    def test_lease_is_renewed_while_the_handler_works(self, stage: Stage) -> None:
        """A handler that takes five times as long as the lease gets its message once."""
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

    def test_lease_is_renewed_while_a_message_waits(self, stage: Stage) -> None:
        """A message that waits behind a slow handler for longer than the lease is not lost, and not delivered twice."""
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

    def test_deliveries_of_a_killed_process_come_again(self, stage: Stage) -> None:
        """An unsettled delivery of a killed process comes to another process, as the next attempt."""
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

    def test_a_stopped_bus_settles_nothing(self, stage: Stage) -> None:
        """A delivery cannot be settled after its bus has stopped. Its message comes again, once, as the first attempt."""
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

    def test_one_of_racing_settlements_wins(self, stage: Stage) -> None:
        """If ten threads settle one delivery at the same time, exactly one succeeds."""
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

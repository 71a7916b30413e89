"""Acknowledgement: how a delivery is settled, exactly once."""

import itertools
import time
from contextlib import suppress

import pytest

from pipebus.delivery.delivery import Delivery
from pipebus.errors import AlreadySettled, BusClosed, PipebusError, ReceiveTimeout, UnsupportedCapability
from pipebus.filters.redeliver import Redeliver
from pipebus.message.message import Message
from pipebus.testing.contract.stage import Crashes, LosesLeases, OpensWithLease, Stage
from pipebus.testing.contract.tools import (
    QUIET,
    Seen,
    assert_nothing_comes_again,
    assert_refused,
    crash,
    deliver,
    figures,
    never,
    next_life,
    opened,
    reading,
    running,
    serving,
    survives,
    together,
    until,
)

SETTLEMENTS = ("ack", "retry", "reject")


def settle(delivery: Delivery, how: str) -> None:
    if how == "reject":
        delivery.reject("refused by the test")
    else:
        getattr(delivery, how)()


class TestAcknowledgement:
    """How a delivery is settled, exactly once."""

    def test_acknowledged_does_not_come_again(self, stage: Stage) -> None:
        """A message that was acknowledged does not come again in the program's next run."""
        with reading(stage) as (bus, subscription):
            bus.publish("a", 1)
            with subscription.delivery(timeout=stage.patience) as delivery:
                delivery.ack()
            bus.publish("a", 2)
            assert subscription.receive(timeout=stage.patience).body == 2
        assert_nothing_comes_again(stage)

    def test_one_worker_takes_no_second_before_the_first_is_settled(self, stage: Stage) -> None:
        """With one worker, the second message is handled only after the first is settled."""
        seen = Seen(held=True)
        with serving(stage, seen) as bus:
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

        def settle_twice(message: Message, delivery: Delivery) -> None:
            if delivery.attempt > 1:
                return
            settle(delivery, first)
            try:
                settle(delivery, second)
            except AlreadySettled as error:
                raised.append(error)
            raise ValueError("too late to count")

        with serving(stage, settle_twice) as bus:
            deliver(stage, bus, 1)
            stats = figures(bus, "s")
        assert len(raised) == 1
        assert (stats["acknowledged"], stats["dead"]) == ((0, 1) if first == "reject" else (1, 0))

    def test_confirmed_acknowledgement_outlives_a_crash(self, stage: Stage) -> None:
        """A confirmed acknowledgement outlives a crash that follows at once."""
        if not survives(stage):
            assert_refused(stage, survives="process")
        bus = opened(stage, None)
        bus.start()
        bus.publish("a", 1)
        with bus.subscriptions[0].delivery(timeout=stage.patience) as delivery:
            delivery.ack(confirm=True)
        crash(stage, bus)
        assert_nothing_comes_again(stage)

    def test_late_acknowledgement_changes_nothing(self, stage: Stage) -> None:
        """An acknowledgement after the lease has ended is too late: the second delivery decides, and there is no third."""
        with reading(stage) as (bus, subscription):
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
        assert_nothing_comes_again(stage)

    def test_ended_lease_redelivers(self, stage: Stage) -> None:
        """A delivery that is not settled comes again, as the second attempt."""
        with reading(stage) as (bus, subscription):
            bus.publish("a", id="m")
            first = subscription.delivery(timeout=stage.patience)
            if isinstance(stage, LosesLeases):
                with first:
                    stage.lose_leases()
                    with subscription.delivery(timeout=stage.patience) as again:
                        found = (again.message.id, again.attempt, again.redelivered)
            else:
                with pytest.raises(KeyError), first:
                    raise KeyError("given back")
                with subscription.delivery(timeout=stage.patience) as again:
                    found = (again.message.id, again.attempt, again.redelivered)
        assert found == ("m", 2, True)

    def test_lease_is_renewed_while_the_handler_works(self, stage: Stage) -> None:
        """A handler that takes five times as long as the lease gets its message once."""
        lease = 0.5 if isinstance(stage, OpensWithLease) else 0.02
        seen = Seen(lambda message, delivery: time.sleep(5 * lease))  # this is the work
        bus = stage.open_with_lease(lease) if isinstance(stage, OpensWithLease) else stage.open()
        bus.subscribe("a", seen, name="s", workers=2)
        with running(stage, bus):
            deliver(stage, bus, 1)
            assert figures(bus, "s")["acknowledged"] == 1
        assert (seen.bodies, seen.attempts) == ([1], [1])

    def test_lease_is_renewed_while_a_message_waits(self, stage: Stage) -> None:
        """A message that waits behind a slow handler for longer than the lease is not lost, and not delivered twice."""
        lease = 0.5 if isinstance(stage, OpensWithLease) else 0.01
        seen = Seen(lambda message, delivery: time.sleep(2 * lease))  # this is the work
        bus = stage.open_with_lease(lease) if isinstance(stage, OpensWithLease) else stage.open()
        bus.subscribe("a", seen, name="s")
        with running(stage, bus):
            deliver(stage, bus, 0, 1, 2)
        assert (sorted(seen.bodies), seen.attempts) == ([0, 1, 2], [1, 1, 1])

    def test_deliveries_of_a_killed_process_come_again(self, stage: Stage) -> None:
        """An unsettled delivery of a killed process comes to another process, as the next attempt."""
        if not (survives(stage) and isinstance(stage, Crashes)):
            if not survives(stage):
                assert_refused(stage, survives="process")
            with serving(stage, Seen()) as bus:
                bus.publish("a", 1)
            return
        bus = opened(stage, None)
        bus.start()
        bus.publish("a", 1)
        with suppress(PipebusError), bus.subscriptions[0].delivery(timeout=stage.patience):
            stage.crash()
        seen = Seen()
        with serving(stage, seen):
            until(stage, lambda: seen.messages, "what the killed process had comes")
        assert (seen.bodies, seen.attempts) == ([1], [2])

    def test_a_stopped_bus_settles_nothing(self, stage: Stage) -> None:
        """A delivery cannot be settled after its bus has stopped. Its message comes again, once, as the first attempt."""
        bus = opened(stage, None)
        bus.start()
        bus.publish("a", 1)
        with bus.subscriptions[0].delivery(timeout=stage.patience) as delivery:
            bus.stop(timeout=stage.patience, drain=False)
            for how in SETTLEMENTS:
                with pytest.raises((BusClosed, AlreadySettled)):
                    settle(delivery, how)
        bus = next_life(stage, bus, None)
        with running(stage, bus):
            (subscription,) = bus.subscriptions
            with subscription.delivery(timeout=stage.patience) as delivery:
                assert (delivery.message.body, delivery.attempt) == (1, 1)
            with pytest.raises(ReceiveTimeout):
                subscription.receive(timeout=QUIET)

    def test_one_of_racing_settlements_wins(self, stage: Stage) -> None:
        """If ten threads settle one delivery at the same time, exactly one succeeds."""
        with reading(stage) as (bus, subscription):
            for number in range(20):
                bus.publish("a", number)
                with subscription.delivery(timeout=stage.patience) as delivery:
                    refused = together(stage, *[delivery.ack] * 10)
                    assert [type(error) for error in refused] == [AlreadySettled] * 9
            assert figures(bus, "s")["acknowledged"] == 20

    def test_a_transaction_is_kept_whole_or_not_at_all(self, stage: Stage) -> None:
        """What a handler publishes in its transaction is kept together with its acknowledgement; if it raises, neither is."""
        paid, refused = Seen(), list[UnsupportedCapability]()

        def handle(message: Message, delivery: Delivery) -> None:
            try:
                with delivery.transaction():
                    bus.publish("paid", delivery.attempt)
                    if delivery.attempt == 1:
                        raise ConnectionError("not yet")
            except UnsupportedCapability as error:
                refused.append(error)

        bus = opened(stage, handle, filters=[Redeliver(wait=0.0)])
        bus.subscribe("paid", paid, name="paid")
        with running(stage, bus):
            bus.publish("a", 1)
            until(stage, lambda: figures(bus, "s")["acknowledged"] == 1, "it is acknowledged")
        assert paid.bodies == ([2] if stage.capabilities.transactions else [])
        assert bool(refused) is not stage.capabilities.transactions
        if refused:
            assert_refused(stage, transactions=True)

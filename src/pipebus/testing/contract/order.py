"""Order: which messages keep their order, and how a transport declares that."""

import threading
from collections import defaultdict
from contextlib import ExitStack

from pipebus.delivery.delivery import Delivery
from pipebus.filters.retry import Retry
from pipebus.message.message import Message
from pipebus.testing.contract.stage import Stage
from pipebus.testing.contract.tools import (
    Seen,
    assert_refused,
    crash,
    deliver,
    figures,
    next_life,
    opened,
    recorded,
    running,
    serving,
    until,
)
from pipebus.testing.history.history import History


class TestOrder:
    """Which messages keep their order, and how a transport declares that."""

    def test_one_worker_keeps_the_order(self, stage: Stage) -> None:
        """With one publisher and one worker, messages are first delivered in the order in which they were published."""
        if stage.capabilities.order != "subject":
            assert_refused(stage, order="subject")
            return
        seen = Seen()
        with serving(stage, seen, mailbox=max(10_000, stage.many)) as bus:
            for number in range(stage.many):
                bus.publish("a", number)
            bus.drain(timeout=6 * stage.patience)
        assert seen.bodies == list(range(stage.many))

    def test_workers_keep_the_order_of_each_key(self, stage: Stage) -> None:
        """With four workers, messages of the same key keep their order, and other keys are handled at the same time."""
        if stage.capabilities.order == "none":
            assert_refused(stage, order="key")
            return
        history = History()
        history.record_subscription("s", "a", attempts=1, order="key")
        seen: dict[str, list[int]] = defaultdict(list)
        begun = {key: threading.Event() for key in "ab"}
        overlapped: list[bool] = []

        def handle(message: Message, delivery: Delivery) -> None:
            key, number = str(message.key), message.body
            history.record_delivery("s", message.id, attempt=delivery.attempt)
            seen[key].append(number)
            if number == 0 and key in begun:  # the first messages of both keys are handled at the same time
                begun[key].set()
                overlapped.append(begun["b" if key == "a" else "a"].wait(stage.patience))
            history.record_settled("s", message.id, attempt=delivery.attempt)

        with serving(stage, handle, workers=4) as bus:
            for number in range(100):
                for key in "abcde":
                    recorded(history, bus, number, f"{key}{number}", key=key)
            bus.drain(timeout=stage.patience)
        assert overlapped == [True, True]
        assert seen == {key: list(range(100)) for key in "abcde"}
        history.judge().raise_if_broken()

    def test_order_is_kept_during_a_retry(self, stage: Stage) -> None:
        """While a message is retried, the next one of its key waits, and other keys go on."""
        if stage.capabilities.order == "none":
            assert_refused(stage, order="key")
            return
        other = threading.Event()

        def act(message: Message, delivery: Delivery) -> None:
            runs = sum((one.key, one.body) == ("a", 0) for one in seen.messages)
            if message.key == "b":
                other.set()
            elif message.body == 0 and runs < 3:
                if runs == 2:
                    assert other.wait(stage.patience), "another key waits for one that is retried"
                raise ConnectionError("not yet")

        seen = Seen(act)
        with serving(stage, seen, workers=3, filters=[Retry(attempts=3, wait=0.02, on=ConnectionError)]) as bus:
            bus.publish("a", 0, key="a")
            bus.publish("a", 1, key="a")
            deliver(stage, bus, 0, key="b")
        assert [one.body for one in seen.messages if one.key == "a"] == [0, 0, 0, 1]

    def test_keys_are_exclusive_in_the_group(self, stage: Stage) -> None:
        """
        While one member of a group handles a message of a key, no member begins another one of it; other keys go on, and each
        key keeps its order. Where only each process keeps keys apart, a bus cannot require more.
        """
        if not stage.capabilities.exclusive_keys:
            assert_refused(stage, exclusive_keys=True)
            assert_refused(stage, order="key", groups=True)
            return
        count, others, overlapping = 10, threading.Event(), list[int]()
        begun: dict[str, list[int]] = defaultdict(list)
        done: dict[str, list[int]] = defaultdict(list)

        def handle(message: Message) -> None:
            key = str(message.key)
            begun[key].append(message.body)
            if key == "a" and message.body == 0:
                assert others.wait(stage.patience), "other keys wait for the one that is held"
                overlapping.extend(begun["a"][1:])
            done[key].append(message.body)
            if len(done["b"]) == count:
                others.set()

        # Members with little room cannot take everything, so that each of them has messages of each key.
        members, size = (2, 2) if stage.capabilities.groups else (1, 2 * count)
        buses = [opened(stage, handle, workers=2, mailbox=size) for _ in range(members)]
        with ExitStack() as stack:
            for bus in buses:
                stack.enter_context(running(stage, bus))
            for number in range(count):
                for key in "ab":
                    buses[number % len(buses)].publish("a", number, key=key)
            until(stage, lambda: len(done["a"]) == len(done["b"]) == count, "all are handled")
        assert overlapping == []
        assert begun == done == {key: list(range(count)) for key in "ab"}

    def test_order_is_kept_across_a_restart(self, stage: Stage) -> None:
        """First deliveries keep their order across a restart and a crash."""
        if stage.capabilities.order != "subject":
            assert_refused(stage, order="subject")
            return
        first: list[int] = []

        def handle(message: Message) -> None:
            if message.body not in first:
                first.append(message.body)

        bus = opened(stage, handle)
        for life in range(3):
            bus.start()
            if life == 0:
                bus.subscriptions[0].pause()
            for number in range(50 * life, 50 * life + 50):
                bus.publish("a", number)
            if life == 0:  # all are pending, and no handler has begun
                until(stage, lambda bus=bus: figures(bus, "s")["pending"] == 50, "all wait")  # type: ignore[misc]
                bus.stop(timeout=stage.patience, drain=False)
                bus.subscriptions[0].resume()
            elif life == 1:
                until(stage, lambda: len(first) >= 60, "some have been handled")
                crash(stage, bus)
            else:
                bus.stop(timeout=stage.patience, drain=False)
            bus = next_life(stage, bus, handle)
        with running(stage, bus):
            bus.drain(timeout=stage.patience)
        assert first == list(range(150))

    def test_order_is_declared(self, stage: Stage) -> None:
        """A bus can require the order that its transport keeps; requiring more raises."""
        has = stage.capabilities.order
        for wanted in ("key", "subject"):
            if has == "none" or (has, wanted) == ("key", "subject"):
                assert_refused(stage, order=wanted)
            else:
                stage.open(require={"order": wanted})
        seen = Seen()
        bus = stage.open(require={"order": has})
        bus.subscribe("a", seen, name="s")
        with running(stage, bus):
            deliver(stage, bus, 1)
        assert seen.bodies == [1]

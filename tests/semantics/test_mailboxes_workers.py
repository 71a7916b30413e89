"""
Guarantees 23 and 24: a slow subscriber delays nobody else, and messages keep their order.
"""

from __future__ import annotations

import asyncio
import importlib
import random
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flow_helpers import (
    LONG,
    WAIT,
    Boom,
    Ear,
    Hold,
    InThread,
    apublish,
    assert_conserved,
    bus_of,
    every_road,
    every_way,
    fine,
    hasty_threads,
    publish,
    running,
    wait_until,
)
from pipebus import (
    Bus,
    Delivery,
    Dropped,
    Message,
    Pause,
    SubscriptionError,
    Transform,
    around,
)
from pipebus.events import Overflowed, StateChanged
from pipebus.testing import Harness

# --- a slow subscriber delays nobody else ------------------------------------------------------------------------------


@every_road
def test_s23_a_subscriber_that_stands_still_delays_nobody_else(road: str) -> None:
    """If one of two subscribers never ends its handler, the other one still gets all its messages."""
    with running(bus_of(road, pool=2)) as bus:
        stuck, free = Hold(), Hold(open=True)
        slow = bus.subscribe("s", stuck)
        bus.subscribe("s", free)
        for body in range(100):
            bus.publish("s", body)

        free.wait_started(100)

        assert free.given == list(range(100))
        assert stuck.given == [0]
        assert slow.stats()["pending"] == 99


@pytest.mark.parametrize("workers", [3, 40], ids=["few", "more-than-the-pool-had"])
def test_s23_one_subscription_never_holds_the_last_worker(workers: int) -> None:
    """However many workers a subscription asks for, the pool has one more for the others."""
    with running() as bus:
        stuck, free = Hold(), Hold(open=True)
        bus.subscribe("slow", stuck, workers=workers)
        bus.subscribe("quick", free)
        for body in range(2 * workers):
            bus.publish("slow", body)
        stuck.wait_started(workers)

        bus.publish("quick", "x")

        free.wait_started()
        assert len(stuck.given) == workers


def test_s23_a_pool_of_fixed_size_refuses_a_subscription_that_would_take_it_all() -> None:
    """An application that fixes the pool's size gets an error for a subscription that would leave no worker for the others."""
    with running(Bus(pool=3)) as bus:
        bus.subscribe("s", fine, workers=2)

        with pytest.raises(SubscriptionError, match=r"workers=3 .*pool=3"):
            bus.subscribe("s", fine, workers=3)


@pytest.mark.parametrize(("workers", "pool"), [(1, 1), (2, 3)], ids=["one-worker", "two-workers"])
def test_s23_a_subscriber_that_is_never_idle_leaves_room_for_others(workers: int, pool: int) -> None:
    """Handlers that feed themselves forever occupy every worker, but they share it: another subscriber's message is handled."""
    stop = threading.Event()
    going = threading.Semaphore(0)

    def feed_myself(message: Message) -> None:
        going.release()
        if not stop.is_set():
            bus.publish(message.subject)

    with running(Bus(pool=pool, max_hops=sys.maxsize)) as bus:
        bus.subscribe("stop", lambda message: stop.set())
        for number in range(pool):
            bus.subscribe(f"endless.{number}", feed_myself, workers=workers)
            for _ in range(workers):
                bus.publish(f"endless.{number}")
        for _ in range(100):
            assert going.acquire(timeout=WAIT)
        bus.publish("stop")

        assert stop.wait(WAIT)


def test_s23_a_pause_gives_the_worker_to_others(harness: Harness) -> None:
    """A filter that pauses holds no worker meanwhile, so others are handled even with one worker."""

    @around
    def wait_a_minute(message: Message) -> Any:
        yield Pause(60.0)
        yield message

    handled: list[tuple[float, Any]] = []

    def handle(message: Message) -> None:
        handled.append((harness.elapsed, message.body))

    with running(harness.attach(Bus(pool=1))) as bus:
        bus.subscribe("slow", handle, filters=[wait_a_minute])
        bus.subscribe("quick", handle)
        bus.publish("slow", "x")
        harness.advance(1.0)
        bus.publish("quick", "y")
        harness.drain()

        assert handled == [(1.0, "y"), (60.0, "x")]


Wait = Callable[[Bus, threading.Event], tuple[Callable[[], object], Callable[[], object]]]


def _receives(bus: Bus, waiting: threading.Event) -> tuple[Callable[[], object], Callable[[], object]]:
    inbox = bus.subscribe("inbox")
    return lambda: (waiting.set(), inbox.receive(timeout=WAIT)), lambda: bus.publish("inbox")


def _reads_a_delivery(bus: Bus, waiting: threading.Event) -> tuple[Callable[[], object], Callable[[], object]]:
    inbox = bus.subscribe("inbox")

    def read() -> None:
        waiting.set()
        with inbox.delivery(timeout=WAIT):
            pass

    return read, lambda: bus.publish("inbox")


def _publishes_into_a_full_mailbox(bus: Bus, waiting: threading.Event) -> tuple[Callable[[], object], Callable[[], object]]:
    inbox = bus.subscribe("inbox", mailbox=1, overflow="block", overflow_timeout=WAIT)
    bus.publish("inbox")
    return lambda: (waiting.set(), bus.publish("inbox")), lambda: inbox.receive(timeout=0)


def _publishes_through_a_slow_async_filter(
    bus: Bus, waiting: threading.Event
) -> tuple[Callable[[], object], Callable[[], object]]:
    return lambda: bus.publish("slow.filter"), lambda: bus.publish("let.it.go")


def _unsubscribes_somebody_who_is_busy(bus: Bus, waiting: threading.Event) -> tuple[Callable[[], object], Callable[[], object]]:
    inner = threading.Event()

    def waits_itself(message: Message) -> None:
        inner.set()
        inbox.receive(timeout=WAIT)

    inbox = bus.subscribe("inbox")
    other = bus.subscribe("busy", waits_itself)
    bus.publish("busy")
    assert inner.wait(WAIT)
    return lambda: (waiting.set(), other.unsubscribe(timeout=WAIT)), lambda: bus.publish("inbox")


WAITS: list[Wait] = [
    _receives,
    _reads_a_delivery,
    _publishes_into_a_full_mailbox,
    _publishes_through_a_slow_async_filter,
    _unsubscribes_somebody_who_is_busy,
]


@pytest.mark.parametrize("wait", WAITS, ids=[wait.__name__.strip("_").replace("_", "-") for wait in WAITS])
def test_s23_a_handler_that_waits_in_a_bus_call_gives_its_worker_to_others(wait: Wait) -> None:
    """If the only worker waits in a call of the bus, a substitute handles the other subscriber's message."""
    waiting = threading.Event()
    bus = Bus(pool=1)
    if wait is _publishes_through_a_slow_async_filter:
        let_go = asyncio.Event()

        @bus.use
        async def slow(message: Message, call_next: Any) -> Any:
            if message.subject == "slow.filter":
                waiting.set()
                await let_go.wait()
            elif message.subject == "let.it.go":
                let_go.set()
            return await call_next(message)

    with running(bus):
        done, quick = threading.Event(), Hold(open=True)
        call, end_it = wait(bus, waiting)
        bus.subscribe("waits", lambda message: (call(), done.set())[1])
        bus.subscribe("quick", quick)
        bus.publish("waits")
        assert waiting.wait(WAIT)

        bus.publish("quick", "x")

        quick.wait_started()
        assert not done.is_set()
        end_it()
        assert done.wait(WAIT)


def test_s23_handlers_that_wait_for_handlers_do_not_starve_the_pool() -> None:
    """Twenty handlers on a pool of one each ask another handler, and all get their answers."""
    answers: list[int] = []

    def ask(message: Message) -> None:
        inbox = bus.subscribe(f"answer.{message.body}")
        bus.publish("questions", message.body, reply_to=f"answer.{message.body}")
        answers.append(inbox.receive(timeout=WAIT).body)
        inbox.unsubscribe()

    with running(Bus(pool=1)) as bus:
        bus.subscribe("questions", lambda message: message.body * 2)
        for _ in range(20):
            bus.subscribe("ask", ask)
        bus.publish("ask", 21)
        bus.drain(WAIT)

    assert answers == [42] * 20


def test_s23_no_worker_is_lost_when_two_messages_come_free_at_once() -> None:
    """When a message ends, the next of its key and a publisher that waits for room both move on, with all three workers."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        hold = Hold()
        all_three = threading.Barrier(3)

        def handle(message: Message) -> None:
            if message.body == "together":
                all_three.wait(WAIT)
            else:
                hold(message)

        subscription = bus.subscribe("s", handle, workers=3, mailbox=3, overflow="block", overflow_timeout=LONG)
        for body in ("first", "second", "third"):
            bus.publish("s", body, key="k")
        hold.wait_started()
        waiting = InThread(bus.publish, "s", "waits for room")
        ear.wait_for(Overflowed)
        hold.open()
        waiting.result()
        bus.drain(WAIT)
        for _ in range(3):
            bus.publish("s", "together")
        bus.drain(WAIT)

        assert subscription.stats()["acknowledged"] == 7


# --- one worker: the order of each publisher ---------------------------------------------------------------------------


@every_way
@every_road
@pytest.mark.parametrize("workers", ["one-worker", "read"])
def test_s24_one_publishers_messages_keep_their_order(workers: str, road: str, way: Any) -> None:
    """Twenty messages, published one after the other, are handled in that order."""
    with running(bus_of(road)) as bus:
        hold = Hold(open=True)
        subscription = bus.subscribe("s.*", hold if workers == "one-worker" else None)
        for body in range(20):
            way(bus, f"s.{body % 3}", body)
        bus.drain(WAIT)

        if workers == "read":
            hold.given += [subscription.receive(timeout=0).body for _ in range(20)]
        assert hold.given == list(range(20))


@pytest.mark.parametrize("size", [1, 3, 1_000, 10_000])
def test_s24_with_one_worker_each_publishers_order_is_kept_among_many(size: int) -> None:
    """If four publishers use a mailbox of any size, the handler gets the messages of each one in order."""
    handled: dict[int, list[int]] = defaultdict(list)

    def handle(message: Message) -> None:
        publisher, number = message.body
        handled[publisher].append(number)

    with hasty_threads(), running() as bus:
        subscription = bus.subscribe("s", handle, mailbox=size, overflow_timeout=LONG)
        publishers = [InThread(lambda me=me: [bus.publish("s", (me, number)) for number in range(500)]) for me in range(4)]
        for publisher in publishers:
            publisher.result()
        bus.drain(WAIT)

        assert handled == {me: list(range(500)) for me in range(4)}
        assert_conserved(subscription, accepted=2_000)


# --- several workers: the order of equal keys --------------------------------------------------------------------------


class Lanes:
    """A handler that records the order of each key, and whether two messages of one key ever overlap."""

    def __init__(self) -> None:
        self.handled: dict[str | None, list[Any]] = defaultdict(list)
        self.met: list[str] = []
        self._inside: set[str] = set()
        self._lock = threading.Lock()
        self._chance = random.Random(24)

    def __call__(self, message: Message) -> None:
        with self._lock:
            if message.key in self._inside:
                self.met.append(message.key)
            self._inside.add(message.key)
            work = self._chance.randrange(30)
        for _ in range(work):  # some messages take longer than others
            sum(range(20))
        with self._lock:
            self.handled[message.key].append(message.body)
            self._inside.discard(message.key)


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("size", [3, 10_000])
def test_s24_with_several_workers_equal_keys_keep_their_order(workers: int, size: int) -> None:
    """With five keys, four publishers and several workers, each publisher's messages of a key come in order, one at a time."""
    lanes = Lanes()
    with hasty_threads(), running() as bus:
        subscription = bus.subscribe("s", lanes, workers=workers, mailbox=size, overflow_timeout=LONG)

        def publish_all(me: int) -> None:
            for number in range(250):
                bus.publish("s", (me, number), key=f"k{number % 5}")

        for publisher in [InThread(publish_all, me) for me in range(4)]:
            publisher.result()
        bus.drain(WAIT)

        assert lanes.met == []
        for key in range(5):
            for me in range(4):
                mine = [number for publisher, number in lanes.handled[f"k{key}"] if publisher == me]
                assert mine == list(range(key, 250, 5))
        assert_conserved(subscription, accepted=1_000)


@pytest.mark.parametrize("keys", [(None, None), ("a", "b"), ("a", None)], ids=["no-keys", "two-keys", "one-key"])
def test_s24_messages_that_need_no_order_are_handled_at_the_same_time(keys: tuple[str | None, str | None]) -> None:
    """With two workers, the handlers of two messages without a common key run at the same time."""
    both = threading.Barrier(2)
    with running() as bus:
        subscription = bus.subscribe("s", lambda message: both.wait(WAIT), workers=2)
        for key in keys:
            bus.publish("s", key=key)
        bus.drain(WAIT)

        assert subscription.stats()["acknowledged"] == 2


def test_s24_messages_of_one_key_wait_for_each_other_and_for_nobody_else() -> None:
    """While the first message of a key is handled, the second one waits, and a message of another key overtakes it."""
    with running() as bus:
        first = Hold()
        free = Hold(open=True)

        def handle(message: Message) -> None:
            (first if message.body == "first" else free)(message)

        bus.subscribe("s", handle, workers=3)
        for body, key in [("first", "k"), ("second", "k"), ("other", "j")]:
            bus.publish("s", body, key=key)
        free.wait_started()
        assert free.given == ["other"]

        first.open()
        bus.drain(WAIT)

        assert free.given == ["other", "second"]


class _FailsFirst(Transform):
    """A handler that ends the message named "first" in the given way."""

    def __init__(self, how: str) -> None:
        self.how = how

    def transform(self, message: Message) -> Any:
        if message.body != "first" or self.how in ("retry", "retry-later", "ack", "raise"):
            return message
        if self.how == "drop":
            return Dropped("unwanted")
        raise Boom


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("how", ["ack", "raise", "drop", "filter-fails", "retry", "retry-later"])
def test_s24_however_the_first_of_a_key_ends_the_next_follows(how: str, workers: int) -> None:
    """Whether the first is acknowledged, dead, dropped or returned, the next ones of its key come after it, in order."""
    handled: list[str] = []

    def handle(message: Message, delivery: Delivery) -> None:
        handled.append(message.body)
        if message.body == "first" and delivery.attempt == 1:
            if how == "raise":
                raise Boom
            if how.startswith("retry"):
                delivery.retry(delay=0.01 if how == "retry-later" else 0)

    with running() as bus:
        subscription = bus.subscribe("s", handle, workers=workers, filters=[_FailsFirst(how)])
        subscription.pause()
        for body in ("first", "second", "third"):
            bus.publish("s", body, key="k")
        subscription.resume()
        bus.drain(WAIT)

        before = {"ack": 1, "raise": 1, "drop": 0, "filter-fails": 0, "retry": 2, "retry-later": 2}[how]
        assert handled == ["first"] * before + ["second", "third"]
        assert_conserved(subscription, accepted=3)


def test_s24_an_expired_message_of_a_key_lets_the_next_follow(harness: Harness) -> None:
    """A message that is too old when its turn comes does not hold up those behind its key."""
    with running(harness.bus) as bus:
        subscription = bus.subscribe("s", fine, name="s", workers=2)
        subscription.pause()
        bus.publish("s", "old", key="k", ttl=1.0)
        bus.publish("s", "young", key="k")
        harness.advance(2.0)
        subscription.resume()
        harness.advance(0)

        assert [message.body for message in harness.delivered_to("s")] == ["young"]


def test_s24_the_order_of_a_key_survives_a_pause_and_a_stop() -> None:
    """Messages of one key that are queued or set aside when the bus stops come in order after the next start."""
    bus = Bus()
    ear = Ear(bus)
    with running(bus):
        hold = Hold()
        bus.subscribe("s", hold, workers=3, name="keyed")
        for body in range(10):
            bus.publish("s", body, key="k")
        hold.wait_started()
        stop = InThread(bus.stop, WAIT, drain=False)
        ear.wait_for(StateChanged, 3)  # started, draining, stopped
        hold.open()
        assert stop.result().left == {"keyed": 9}

        bus.start()
        bus.drain(WAIT)

        assert hold.given == list(range(10))


@pytest.mark.parametrize("way", [publish, apublish], ids=lambda way: way.__name__)
def test_s24_every_subscriber_sees_the_same_order(way: Any) -> None:
    """Ten subscribers with one worker each all get the messages of one publisher in the order it published them."""
    with running() as bus:
        holds = [Hold(open=True) for _ in range(10)]
        for hold in holds:
            bus.subscribe("s", hold)
        for body in range(50):
            way(bus, "s", body)
        bus.drain(WAIT)

        assert [hold.given for hold in holds] == [list(range(50))] * 10


class Line:
    """A handler that records its messages; "first" and "other" wait until the test opens them."""

    def __init__(self) -> None:
        self.first, self.other = Hold(), Hold()
        self.given: list[Any] = []

    def __call__(self, message: Message) -> None:
        self.given.append(message.body)
        hold = {"first": self.first, "other": self.other}.get(message.body)
        if hold is not None:
            hold(message)

    def of(self, *bodies: str) -> list[str]:
        return [body for body in self.given if body in bodies]


def test_s24_a_message_that_is_dropped_holds_up_nobody_of_its_key() -> None:
    """If drop_oldest takes the next message of a key, the messages after it are handled, in order."""
    line = Line()
    with running() as bus:
        subscription = bus.subscribe("s", line, workers=2, mailbox=4, overflow="drop_oldest")
        bus.publish("s", "first", key="k")
        line.first.wait_started()
        bus.publish("s", "second", key="k")
        bus.publish("s", "other")
        line.other.wait_started()  # so "second" has been taken out of the line, to wait for its key
        subscription.pause()
        line.first.open()
        line.other.open()
        wait_until(lambda: subscription.stats()["in_flight"] == 0, "both have ended")
        for number in range(4):
            bus.publish("s", f"filling {number}")
        subscription.resume()
        bus.drain(WAIT)
        for body in ("third", "fourth"):
            bus.publish("s", body, key="k")
        bus.drain(WAIT)

        assert line.of("first", "second", "third", "fourth") == ["first", "third", "fourth"]
        assert subscription.stats()["dropped"] == {"overflow": 1}
        assert subscription.stats()["pending"] == 0


def test_s24_a_message_that_was_interrupted_and_then_dropped_holds_up_nobody_of_its_key() -> None:
    """If Ctrl-C returns a message and drop_oldest then takes it, the messages after it are handled."""
    given: list[Any] = []

    def handle(message: Message) -> None:
        if message.body == "first":
            raise KeyboardInterrupt
        given.append(message.body)

    bus = Bus()
    subscription = bus.subscribe("s", handle, workers=2, mailbox=2, overflow="drop_oldest")
    bus.start()
    bus.publish("s", "first", key="k")
    wait_until(lambda: subscription.paused and subscription.stats()["in_flight"] == 0, "it has gone back")
    for number in range(2):
        bus.publish("s", number)
    bus.stop(timeout=WAIT)
    with running(bus):
        bus.drain(WAIT)
        bus.publish("s", "second", key="k")
        bus.drain(WAIT)

        assert sorted(map(str, given)) == ["0", "1", "second"]
        assert subscription.stats()["dropped"] == {"overflow": 1}
        assert subscription.stats()["pending"] == 0


def test_s24_messages_that_go_back_to_a_store_come_again_in_the_order_of_their_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop returns the messages that wait behind their key, and the next start handles all of them in order."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "transports")
    transport = importlib.import_module("byte_transport").ByteTransport()
    line = Line()
    bus = Bus(transport)
    subscription = bus.subscribe("s", line, name="s", workers=2)
    bus.start()
    for body in ("first", "second", "third"):
        bus.publish("s", body, key="k")
    mailbox: Any = subscription
    wait_until(lambda: len(mailbox.lanes.keys) == 2, "two wait for their key")
    subscription.pause()
    line.first.open()
    wait_until(lambda: subscription.stats()["in_flight"] == 0, "the first has ended")
    bus.stop(timeout=WAIT)
    subscription.resume()
    with running(bus):
        bus.publish("s", "fourth", key="k")
        bus.drain(WAIT)

        assert line.given == ["first", "second", "third", "fourth"]

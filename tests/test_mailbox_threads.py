"""
Mailboxes under real threads: fifty publishers at once, switched as often as the interpreter can. Nothing is lost, nothing comes
twice, each publisher's order is kept where it is promised, no bound is exceeded, and the figures add up.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import pipebus
from flow_helpers import LONG, WAIT, Boom, InThread, assert_conserved, ended, fine, hasty_threads, running, wait_until
from pipebus import Bus, BusClosed, DeadLetterError, Delivery, MailboxFull, Message, ReceiveTimeout, Subscription

PUBLISHERS = 50


@pytest.fixture(autouse=True)
def _hasty_threads() -> Iterator[None]:
    with hasty_threads():
        yield


def all_at_once(call: Callable[[int], Any], count: int = PUBLISHERS) -> list[InThread]:
    """Run `call(0)`, `call(1)`, … on threads of their own, which begin together."""
    barrier = threading.Barrier(count)

    def run(me: int) -> Any:
        barrier.wait(WAIT)
        return call(me)

    return [InThread(run, me) for me in range(count)]


def results(threads: list[InThread]) -> list[Any]:
    return [thread.result() for thread in threads]


def hammer(bus: Bus, messages: int, keys: int = 0) -> list[InThread]:
    """Fifty publishers, each with so many messages `(publisher, number)` on "s"; each results in what was accepted."""

    def publish(me: int) -> list[int]:
        accepted = []
        for number in range(messages):
            try:
                if bus.publish("s", (me, number), key=f"k{number % keys}" if keys else None).mailboxes:
                    accepted.append(number)
            except MailboxFull:
                continue
        return accepted

    return all_at_once(publish)


class Record:
    """A handler (or reader) that remembers what it was given; `by` tells for each publisher in which order."""

    def __init__(self) -> None:
        self.given: list[tuple[int, int]] = []

    def __call__(self, message: Message) -> None:
        self.given.append(message.body)

    def by_publisher(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = defaultdict(list)
        for publisher, number in self.given:
            found[publisher].append(number)
        return found

    def assert_once_and_in_order(self, accepted: list[list[int]]) -> None:
        """Each publisher's accepted messages, all of them, once, in their order."""
        found = self.by_publisher()
        assert [found[publisher] for publisher in range(len(accepted))] == accepted

    def assert_once(self, accepted: list[list[int]]) -> None:
        """Each publisher's accepted messages, all of them, once."""
        found = self.by_publisher()
        assert [sorted(found[publisher]) for publisher in range(len(accepted))] == accepted


class Depth:
    """A thread that checks again and again that a mailbox does not hold more than it may."""

    def __init__(self, subscription: Subscription, size: int) -> None:
        self.subscription = subscription
        self.size = size
        self.deepest = 0
        self._enough = threading.Event()
        self._thread = InThread(self._watch)

    def _watch(self) -> None:
        while not self._enough.is_set():
            stats = self.subscription.stats()
            self.deepest = max(self.deepest, stats["pending"] + stats["in_flight"])

    def assert_within_bound(self) -> None:
        self._enough.set()
        self._thread.result()
        assert self.deepest <= self.size, f"{self.deepest} messages in a mailbox of {self.size}"


# --- one mailbox, fifty publishers -------------------------------------------------------------------------------------


def test_one_worker_gets_every_message_once_in_each_publishers_order() -> None:
    """A large mailbox with one worker takes a quick path, which loses nothing, doubles nothing and swaps nothing."""
    record = Record()
    with running() as bus:
        subscription = bus.subscribe("s", record, mailbox=PUBLISHERS * 1_000)
        accepted = results(hammer(bus, 1_000))
        bus.drain(WAIT)

        record.assert_once_and_in_order([list(range(1_000))] * PUBLISHERS)
        assert accepted == [list(range(1_000))] * PUBLISHERS
        assert_conserved(subscription, accepted=PUBLISHERS * 1_000)


def test_a_mailbox_that_falls_asleep_after_every_message_loses_none() -> None:
    """Publishers wait for each of their messages to be handled, so the mailbox wakes and rests all the time."""
    handled = [threading.Semaphore(0) for _ in range(8)]
    with running() as bus:
        subscription = bus.subscribe("s", lambda message: handled[message.body].release())

        def one_at_a_time(me: int) -> None:
            for _ in range(300):
                bus.publish("s", me)
                assert handled[me].acquire(timeout=WAIT), "a message was put and not handled"

        results(all_at_once(one_at_a_time, len(handled)))
        bus.drain(WAIT)

        assert_conserved(subscription, accepted=8 * 300)


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize(("size", "messages"), [(5, 60), (100_000, 200)], ids=["small", "large"])
@pytest.mark.few(1)
def test_several_workers_get_every_message_once_and_each_key_in_order(workers: int, size: int, messages: int) -> None:
    """The messages of a key keep each publisher's order, and only one of them is handled at a time, by whichever worker."""
    record = Record()
    inside: Counter[str | None] = Counter()
    met: list[str | None] = []

    def handle(message: Message) -> None:
        inside[message.key] += 1
        if inside[message.key] > 1:
            met.append(message.key)
        record(message)
        inside[message.key] -= 1

    with running() as bus:
        subscription = bus.subscribe("s", handle, workers=workers, mailbox=size, overflow_timeout=LONG)
        results(hammer(bus, messages, keys=7))
        bus.drain(WAIT)

        assert met == []
        record.assert_once([list(range(messages))] * PUBLISHERS)
        for numbers in record.by_publisher().values():
            for key in range(7):
                assert [number for number in numbers if number % 7 == key] == list(range(key, messages, 7))
        assert_conserved(subscription, accepted=PUBLISHERS * messages)


@pytest.mark.parametrize(("size", "messages"), [(3, 70), (100_000, 300)], ids=["small", "large"])
@pytest.mark.few(1)
def test_four_readers_share_every_message_once(size: int, messages: int) -> None:
    """Nothing is read twice, nothing stays; and each reader sees each publisher's messages in their order."""
    with running() as bus:
        subscription = bus.subscribe("s", mailbox=size, overflow_timeout=LONG)

        def read(_: int) -> Record:
            record = Record()
            for message in subscription:
                record(message)
            return record

        readers = all_at_once(read, 4)
        results(hammer(bus, messages))
        wait_until(lambda: subscription.stats()["pending"] == 0, "everything is read")
        bus.request_stop()
        records = results(readers)

        everything = Record()
        for record in records:
            everything.given += record.given
            assert all(numbers == sorted(numbers) for numbers in record.by_publisher().values())
        everything.assert_once([list(range(messages))] * PUBLISHERS)
        assert_conserved(subscription, accepted=PUBLISHERS * messages)


# --- small mailboxes, each rule ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3], ids=["one-worker", "three-workers"])
@pytest.mark.parametrize("size", [1, 3, 1_000])
@pytest.mark.parametrize("overflow", ["block", "reject", "drop_newest", "drop_oldest"])
@pytest.mark.few(3)
def test_a_full_mailbox_follows_its_rule_exactly_and_never_exceeds_its_bound(overflow: Any, size: int, workers: int) -> None:
    """Publishers get the truth: each accepted message is handled once, or counted as dropped by the rule."""
    record = Record()
    with running() as bus:
        subscription = bus.subscribe("s", record, workers=workers, mailbox=size, overflow=overflow, overflow_timeout=LONG)
        depth = Depth(subscription, size)
        subscription.pause()
        publishing = hammer(bus, 60)
        wait_until(lambda: depth.deepest >= size, "the mailbox is full")
        subscription.resume()
        accepted = results(publishing)
        bus.drain(WAIT)
        depth.assert_within_bound()

        stats = subscription.stats()
        overflowed = stats["dropped"].get("overflow", 0)
        assert_conserved(subscription, accepted=sum(map(len, accepted)))
        assert stats["acknowledged"] == len(record.given) == len(set(record.given))
        if overflow in ("block", "reject"):
            record.assert_once(accepted)
            assert overflowed == 0
        else:
            assert accepted == [list(range(60))] * PUBLISHERS
            assert len(record.given) + overflowed == PUBLISHERS * 60
        if overflow == "block":
            assert accepted == [list(range(60))] * PUBLISHERS
        if workers == 1:
            assert all(numbers == sorted(numbers) for numbers in record.by_publisher().values())


@pytest.mark.parametrize("reader", ["handler", "reader"])
@pytest.mark.few(1)
def test_a_mailbox_of_one_hands_over_message_after_message(reader: str) -> None:
    """Fifty publishers wait for room in the smallest mailbox, and all of their messages get through in order."""
    record = Record()
    with running() as bus:
        subscription = bus.subscribe(
            "s", record if reader == "handler" else None, mailbox=1, overflow="block", overflow_timeout=LONG
        )
        depth = Depth(subscription, 1)
        publishing = hammer(bus, 20)
        if reader == "reader":
            for _ in range(PUBLISHERS * 20):
                record(subscription.receive(timeout=WAIT))
        results(publishing)
        bus.drain(WAIT)
        depth.assert_within_bound()

        record.assert_once_and_in_order([list(range(20))] * PUBLISHERS)
        assert_conserved(subscription, accepted=PUBLISHERS * 20)


def test_many_loops_and_threads_wait_for_room_side_by_side() -> None:
    """Three event loops with a hundred coroutines each, and twenty threads, wait for three places: all get in, exactly once."""
    record = Record()
    with running() as bus:
        subscription = bus.subscribe("s", record, mailbox=3, overflow="block", overflow_timeout=LONG)

        async def coroutine(me: int) -> None:
            for number in range(5):
                await bus.apublish("s", (me, number))

        async def crowd(loop: int) -> None:
            await asyncio.gather(*(coroutine(100 * loop + me) for me in range(100)))

        def thread(me: int) -> None:
            for number in range(50):
                bus.publish("s", (300 + me, number))

        waiting = all_at_once(lambda me: asyncio.run(crowd(me)) if me < 3 else thread(me - 3), 23)
        results(waiting)
        bus.drain(WAIT)

        record.assert_once_and_in_order([list(range(5))] * 300 + [list(range(50))] * 20)
        assert_conserved(subscription, accepted=300 * 5 + 20 * 50)


# --- and all the while, something else ---------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3], ids=["one-worker", "three-workers"])
@pytest.mark.few(1)
def test_subscribers_that_come_and_go_take_what_receipts_counted(workers: int) -> None:
    """A steady subscriber misses nothing; of those that come and go, each message ended in one place, and receipts are true."""
    record = Record()
    with running() as bus:
        steady = bus.subscribe("s", record, mailbox=100_000)
        over = threading.Event()
        mailboxes: list[int] = []

        def publish(me: int) -> None:
            mailboxes.append(sum(bus.publish("s", (me, number)).mailboxes for number in range(100)))

        def come_and_go(_: int) -> list[Subscription]:
            guests = []
            while not over.is_set():
                guest = bus.subscribe("s" if len(guests) % 2 else "*", fine, workers=workers, mailbox=100_000)
                guests.append(guest)
                guest.unsubscribe()
            return guests

        churning = all_at_once(come_and_go, 3)
        results(all_at_once(publish))
        over.set()
        guests = [guest for found in results(churning) for guest in found]
        bus.drain(WAIT)

        record.assert_once_and_in_order([list(range(100))] * PUBLISHERS)
        assert_conserved(steady, accepted=PUBLISHERS * 100)
        assert_conserved(*guests)
        assert sum(guest.stats()["accepted"] for guest in guests) == sum(mailboxes) - PUBLISHERS * 100
        assert all(guest.stats()["accepted"] == ended(guest.stats()) for guest in guests)


@pytest.mark.parametrize("workers", [1, 3], ids=["one-worker", "three-workers"])
@pytest.mark.few(1)
def test_a_subscription_paused_and_resumed_all_the_time_loses_nothing(workers: int) -> None:
    """No message is lost while three threads pause and resume the subscription as fast as they can and fifty publish."""
    record = Record()
    with running() as bus:
        subscription = bus.subscribe("s", record, workers=workers, mailbox=10, overflow_timeout=LONG)
        over = threading.Event()

        def pause_and_resume(_: int) -> None:
            while not over.is_set():
                subscription.pause()
                subscription.resume()

        pausing = all_at_once(pause_and_resume, 3)
        results(hammer(bus, 25))
        over.set()
        results(pausing)
        subscription.resume()
        bus.drain(WAIT)

        record.assert_once([list(range(25))] * PUBLISHERS)
        if workers == 1:
            record.assert_once_and_in_order([list(range(25))] * PUBLISHERS)
        assert_conserved(subscription, accepted=PUBLISHERS * 25)


@pytest.mark.parametrize("workers", [1, 3], ids=["one-worker", "three-workers"])
@pytest.mark.parametrize("size", [5, 100_000], ids=["small", "large"])
@pytest.mark.few(1)
def test_every_kind_of_ending_at_once_keeps_the_law(size: int, workers: int) -> None:
    """
    Messages are acknowledged, failed, returned, rejected, replayed, discarded and evicted under full traffic, and the figures
    add up.
    """
    fates = ("fine", "raise", "retry", "retry-later", "reject", "ack-then-raise")
    chance = random.Random(7)
    plans = [[chance.choice(fates) for _ in range(20)] for _ in range(PUBLISHERS)]
    taken: Counter[tuple[int, int]] = Counter()

    def handle(message: Message, delivery: Delivery) -> None:
        me, number = message.body
        taken[me, number] += 1
        fate = plans[me][number]
        if fate == "raise":
            raise Boom
        if fate.startswith("retry") and delivery.attempt < 3:
            delivery.retry(delay=0.0001 if fate == "retry-later" else 0)
        elif fate == "reject":
            delivery.reject("no")
        elif fate == "ack-then-raise":
            delivery.ack()
            raise Boom

    with running(Bus(dead_letters=50)) as bus:
        subscription = bus.subscribe("s", handle, workers=workers, mailbox=size, overflow_timeout=LONG)
        over = threading.Event()

        def tend_letters(_: int) -> None:
            while not over.is_set():
                for letter in bus.dead_letters.list()[:10]:
                    for tend in (bus.dead_letters.replay, bus.dead_letters.discard):
                        with suppress(DeadLetterError):
                            tend(letter.id)

        tending = all_at_once(tend_letters, 2)
        results(hammer(bus, 20, keys=5))
        over.set()
        results(tending)
        bus.drain(WAIT)

        assert_conserved(subscription, accepted=PUBLISHERS * 20)
        assert len(taken) == PUBLISHERS * 20
        stats = subscription.stats()
        assert (stats["pending"], stats["in_flight"]) == (0, 0)
        assert stats["dead"] == len(bus.dead_letters) <= 50
        wanted = sum(fate in ("fine", "retry", "retry-later", "ack-then-raise") for plan in plans for fate in plan)
        assert stats["acknowledged"] == wanted


@pytest.mark.parametrize("workers", [1, 3], ids=["one-worker", "three-workers"])
def test_a_bus_stopped_in_full_traffic_accounts_for_every_accepted_message(workers: int) -> None:
    """Fifty publishers run into the stop: each message they saw accepted is handled, or is left over and handled later."""
    record = Record()
    bus = Bus()
    subscription = bus.subscribe("s", record, workers=workers, mailbox=50, overflow_timeout=LONG)

    def publish_until_refused(me: int) -> list[int]:
        accepted = []
        try:
            for number in range(10_000):
                bus.publish("s", (me, number))
                accepted.append(number)
                if len(accepted) == 10:
                    in_full_traffic.release()
        except BusClosed:
            return accepted
        raise AssertionError("nobody stopped the bus")

    in_full_traffic = threading.Semaphore(0)
    with running(bus, drain=False):
        publishing = all_at_once(publish_until_refused)
        for _ in range(PUBLISHERS // 2):
            assert in_full_traffic.acquire(timeout=WAIT)
    accepted = results(publishing)
    left = subscription.stats()["pending"]
    assert sum(map(len, accepted)) == len(record.given) + left

    with running(bus):
        bus.drain(WAIT)

    record.assert_once(accepted)
    if workers == 1:
        record.assert_once_and_in_order(accepted)
    assert_conserved(subscription, accepted=sum(map(len, accepted)))


def test_one_message_to_every_kind_of_subscriber_is_counted_in_each() -> None:
    """One worker, several workers, readers and a dropping mailbox each keep their own promise while many threads publish."""
    solo, shared, read, dropping = Record(), Record(), Record(), Record()
    with running() as bus:
        subscriptions = [
            bus.subscribe("s", solo, mailbox=20, overflow_timeout=LONG),
            bus.subscribe("s", shared, workers=4, mailbox=20, overflow_timeout=LONG),
            bus.subscribe("s", dropping, mailbox=3, overflow="drop_oldest"),
        ]
        inbox = bus.subscribe("s", mailbox=20, overflow_timeout=LONG)

        def read_all(_: int) -> None:
            for message in inbox:
                read(message)

        readers = all_at_once(read_all, 2)
        accepted = results(hammer(bus, 40))
        bus.drain(WAIT)
        bus.request_stop()
        results(readers)

        everything = [list(range(40))] * PUBLISHERS
        assert accepted == everything
        solo.assert_once_and_in_order(everything)
        shared.assert_once(everything)
        read.assert_once(everything)
        overflowed = subscriptions[2].stats()["dropped"].get("overflow", 0)
        assert len(set(dropping.given)) == len(dropping.given) == PUBLISHERS * 40 - overflowed
        assert_conserved(*subscriptions, inbox, accepted=PUBLISHERS * 40)


# --- a turn at every line ----------------------------------------------------------------------------------------------


@pytest.fixture
def turns_at_every_line() -> Iterator[None]:
    """
    Threads that start from here on may lose their turn at every line of the bus's code, by chance.

    The interpreter alone changes threads at few places, so that most orders of two threads' steps would never be seen.
    """
    package = str(Path(pipebus.__file__).parent)
    chance = random.Random(25)

    def step(frame: Any, event: str, argument: Any) -> Any:
        lot = chance.random()
        if lot < 0.2:  # others go on: for a moment, for a while, and now and then for long
            time.sleep(0 if lot > 0.005 else 0.001 if lot > 0.0005 else 0.01)
        return step

    def trace(frame: Any, event: str, argument: Any) -> Any:
        return step if frame.f_code.co_filename.startswith(package) else None

    before = threading.gettrace()
    threading.settrace(trace)
    yield
    threading.settrace(before)


FEW = 4
"""Publishers that change turns at every line."""


def few(call: Callable[[int], Any]) -> list[InThread]:
    return all_at_once(call, FEW)


@pytest.mark.parametrize("size", [1, 3, 1_000])
@pytest.mark.parametrize("workers", [1, 3], ids=["one-worker", "three-workers"])
@pytest.mark.usefixtures("turns_at_every_line")
@pytest.mark.thorough
def test_line_by_line_handlers_get_every_message_once(workers: int, size: int) -> None:
    """Publishers pause now and then, so the mailbox falls asleep and wakes in every possible way."""
    record = Record()
    with running() as bus:
        subscription = bus.subscribe("s", record, workers=workers, mailbox=size, overflow_timeout=LONG)

        def publish(me: int) -> None:
            for number in range(50):
                bus.publish("s", (me, number), key=f"k{me}")
                if number % 7 == me:
                    bus.drain(WAIT)

        results(few(publish))
        bus.drain(WAIT)

        record.assert_once_and_in_order([list(range(50))] * FEW)
        assert_conserved(subscription, accepted=FEW * 50)


@pytest.mark.parametrize("size", [1, 1_000])
@pytest.mark.usefixtures("turns_at_every_line")
@pytest.mark.few(1)
def test_line_by_line_readers_get_every_message_once(size: int) -> None:
    """Readers with and without a timeout share a mailbox, and neither a message nor a wake-up is lost."""
    with running() as bus:
        subscription = bus.subscribe("s", mailbox=size, overflow_timeout=LONG)

        def read(me: int) -> Record:
            record = Record()
            while True:
                try:
                    record(subscription.receive(timeout=0.0005 if me else None))
                except ReceiveTimeout:
                    continue
                except BusClosed:
                    return record

        readers = all_at_once(read, 3)
        results(few(lambda me: [bus.publish("s", (me, number)) for number in range(40)]))
        wait_until(lambda: subscription.stats()["pending"] == 0, "everything is read")
        bus.request_stop()

        everything = Record()
        everything.given = [message for record in results(readers) for message in record.given]
        everything.assert_once([list(range(40))] * FEW)
        assert_conserved(subscription, accepted=FEW * 40)


@pytest.mark.usefixtures("turns_at_every_line")
@pytest.mark.thorough
def test_line_by_line_one_patient_reader_misses_no_wake_up() -> None:
    """A reader that waits forever and a publisher that waits for it take turns, message by message."""
    with running() as bus:
        subscription = bus.subscribe("s")
        read = threading.Semaphore(0)

        def receive(_: int) -> list[Any]:
            bodies = []
            for message in subscription:
                bodies.append(message.body)
                read.release()
            return bodies

        reader = all_at_once(receive, 1)
        for number in range(200):
            bus.publish("s", number)
            assert read.acquire(timeout=WAIT), f"nobody read message {number}"
        bus.request_stop()

        assert results(reader) == [list(range(200))]


@pytest.mark.parametrize("workers", [1, 3], ids=["one-worker", "three-workers"])
@pytest.mark.usefixtures("turns_at_every_line")
@pytest.mark.thorough
def test_line_by_line_receipts_are_true_while_subscribers_leave(workers: int) -> None:
    """A publisher whose subscriber leaves knows exactly whether the subscriber took the message."""
    with running() as bus:
        guests: list[Subscription] = []
        over = threading.Event()

        def come_and_go(_: int) -> None:
            for _ in range(40):
                guest = bus.subscribe("s", fine, workers=workers)
                guests.append(guest)
                guest.pause()  # so that its mailbox is in use when it leaves
                bus.publish("s", "its own")
                guest.unsubscribe()
            over.set()

        def publish(_: int) -> int:
            taken = 0
            while not over.is_set():
                taken += bus.publish("s").mailboxes
            return taken

        churning = all_at_once(come_and_go, 1)
        taken = sum(results(few(publish)))
        results(churning)

        assert_conserved(*guests)
        assert all(guest.stats()["accepted"] == ended(guest.stats()) for guest in guests)
        assert sum(guest.stats()["accepted"] for guest in guests) == taken + len(guests)


@pytest.mark.parametrize("workers", [1, 3], ids=["one-worker", "three-workers"])
@pytest.mark.usefixtures("turns_at_every_line")
@pytest.mark.thorough
def test_line_by_line_a_stop_loses_nothing(workers: int) -> None:
    """
    The bus stops and starts again while four threads publish: each accepted message is handled once, before the stop or after
    it.
    """
    record = Record()
    bus = Bus()
    subscription = bus.subscribe("s", record, workers=workers)
    accepted: list[list[int]] = [[] for _ in range(FEW)]

    def publish(me: int) -> None:
        for number in itertools.count(len(accepted[me]) and accepted[me][-1] + 1):
            try:
                bus.publish("s", (me, number), key=f"k{me}")
            except BusClosed:
                return
            accepted[me].append(number)
            if len(accepted[me]) % 20 == 0:
                enough.release()

    for _ in range(10):
        enough = threading.Semaphore(0)
        with running(bus, drain=False):
            publishing = few(publish)
            assert enough.acquire(timeout=WAIT)
        results(publishing)
    with running(bus):
        bus.drain(WAIT)

    record.assert_once_and_in_order(accepted)
    assert_conserved(subscription, accepted=sum(map(len, accepted)))

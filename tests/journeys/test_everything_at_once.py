"""
Everything at once: fifty threads and three event loops publish into subscribers of every kind, while others come and go, pause
and resume. Nothing is lost, nothing comes twice, and the order is what guarantee 24 promises.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import pytest

from flow_helpers import LONG, InThread, assert_conserved, hasty_threads, running
from loop_helpers import LoopInThread
from pipebus import Actor, Bus, BusClosed, Message, ReceiveTimeout, Subscription
from scale_helpers import scaled

THREADS = 50
LOOPS = 3
COROUTINES = 3
"""The number of coroutines on each loop."""

PUBLISHERS = THREADS + LOOPS * COROUTINES


class Handler:
    """Records its messages and their order for each publisher, and checks that no two messages of one key run at once."""

    def __init__(self) -> None:
        self.by_publisher: dict[int, list[int]] = defaultdict(list)
        self.met: list[int] = []
        self._inside: set[int] = set()

    def note(self, message: Message) -> None:
        publisher, number = message.body
        self.by_publisher[publisher].append(number)

    def plain(self, message: Message) -> None:
        publisher = message.body[0]
        if publisher in self._inside:
            self.met.append(publisher)
        self._inside.add(publisher)
        self.note(message)
        self._inside.discard(publisher)

    async def coroutine(self, message: Message) -> None:
        publisher, number = message.body
        if publisher in self._inside:
            self.met.append(publisher)
        self._inside.add(publisher)
        if number % 3 == 0:
            await asyncio.sleep(0)
        self.note(message)
        self._inside.discard(publisher)

    def assert_in_order(self) -> None:
        """Check that each publisher's messages are in order, and none came twice. (All of them have the publisher's key.)"""
        assert self.met == []
        for publisher, numbers in self.by_publisher.items():
            assert numbers == sorted(set(numbers)), f"publisher {publisher}: {numbers}"

    def assert_complete(self, count: int) -> None:
        self.assert_in_order()
        assert {publisher: len(numbers) for publisher, numbers in self.by_publisher.items()} == dict.fromkeys(
            range(PUBLISHERS), count
        )


Kind = tuple[str, dict[str, Any]]
KINDS: tuple[Kind, ...] = (
    ("plain", {}),
    ("plain", {"mailbox": 16, "overflow_timeout": LONG}),
    ("plain", {"workers": 3, "mailbox": 200, "overflow_timeout": LONG}),
    ("plain", {"run": "thread"}),
    ("plain", {"run": "thread", "workers": 3, "mailbox": 64, "overflow_timeout": LONG}),
    ("coroutine", {}),
    ("coroutine", {"workers": 3, "mailbox": 64, "overflow_timeout": LONG}),
    ("plain", {"run": "loop", "mailbox": 1_000, "overflow_timeout": LONG}),
)
"""The options of the subscribers: handlers of both colours on the pool, on threads and on a loop, some with little room."""


def subscribe(bus: Bus, kind: Kind, **options: Any) -> tuple[Subscription, Handler]:
    colour, settings = kind
    handler = Handler()
    return bus.subscribe("work.>", getattr(handler, colour), **settings, **options), handler


# --- who publishes -----------------------------------------------------------------------------------------------------


def publish(bus: Bus, me: int, count: int) -> None:
    for number in range(count):
        assert bus.publish(f"work.{number % 5}", (me, number), key=str(me))


async def apublish(bus: Bus, me: int, count: int) -> None:
    for number in range(count):
        assert await bus.apublish(f"work.{number % 5}", (me, number), key=str(me))


async def apublish_all(bus: Bus, publishers: range, count: int) -> None:
    await asyncio.gather(*(apublish(bus, me, count) for me in publishers))


# --- who reads ---------------------------------------------------------------------------------------------------------


def read(inbox: Subscription, handler: Handler) -> None:
    """Read until the subscription ends, every third message as a delivery."""
    try:
        for number in itertools.count():
            if number % 3:
                handler.plain(inbox.receive(timeout=LONG))
            else:
                with inbox.delivery(timeout=LONG) as delivery:
                    handler.plain(delivery.message)
    except BusClosed:
        return


async def aread(inbox: Subscription, handler: Handler) -> None:
    async for message in inbox:
        handler.plain(message)


# --- who disturbs ------------------------------------------------------------------------------------------------------
# Each is called with the bus, its own random numbers, the subscriptions that stay, and an event; it goes on until that is set.

Churn = Callable[[Bus, random.Random, list[Subscription], threading.Event], None]


def pause_and_resume(bus: Bus, dice: random.Random, stay: list[Subscription], over: threading.Event) -> None:
    """Pause subscribers for a moment."""
    while not over.is_set():
        one = dice.choice(stay)
        one.pause()
        over.wait(dice.random() / 1000)
        one.resume()
    for one in stay:
        one.resume()


def come_and_go(bus: Bus, dice: random.Random, stay: list[Subscription], over: threading.Event) -> None:
    """Subscribers of every kind come and go: their messages are in order, and all of them are accounted for."""
    while not over.is_set():
        subscription, handler = subscribe(bus, dice.choice(KINDS))
        over.wait(dice.random() / 1000)
        subscription.unsubscribe(timeout=LONG)
        handled = sum(map(len, handler.by_publisher.values()))
        handler.assert_in_order()
        assert_conserved(subscription)
        stats = subscription.stats()
        assert (stats["acknowledged"], stats["pending"], stats["in_flight"]) == (handled, 0, 0)
        assert stats["dropped"].keys() <= {"unsubscribed"}


def come_and_read(bus: Bus, dice: random.Random, stay: list[Subscription], over: threading.Event) -> None:
    """Readers come, read one message or none, and leave."""
    while not over.is_set():
        with bus.subscribe("work.>", mailbox=8, overflow_timeout=LONG) as inbox:
            try:
                inbox.receive(timeout=dice.random() / 1000)
            except ReceiveTimeout:
                continue
        assert_conserved(inbox)


class Pupil(Actor):
    """An actor that records its mail, in order."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.heard: list[int] = []

    def on_message(self, number: int) -> None:
        self.heard.append(number)


class AsyncPupil(Pupil):
    async def on_message(self, number: int) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.heard.append(number)


mailed: Counter[Bus] = Counter()
"""The number of messages that went to pupils."""


def spawn_and_stop(bus: Bus, dice: random.Random, stay: list[Subscription], over: threading.Event) -> None:
    """Actors are spawned, get mail by name and by reference, and are stopped: each has handled a first part of it, in order."""
    for lesson in itertools.count():
        if over.is_set():
            return
        run = dice.choice(["pool", "thread", "loop", "async"])
        pupil = bus.spawn(
            AsyncPupil(f"pupil-{lesson}") if run == "async" else Pupil(f"pupil-{lesson}"), run="loop" if run == "async" else run
        )
        addresses = [pupil.name] if "wire" in bus.url else [pupil, pupil.name]
        for number in range(5):
            assert bus.publish(dice.choice(addresses), number).mailboxes == 1  # type: ignore[union-attr]
            mailed[bus] += 1
        if dice.random() < 0.5:
            pupil.stop()
        pupil.subscription.unsubscribe(timeout=LONG)  # it has ended when this returns
        assert pupil.heard == list(range(len(pupil.heard)))
        assert_conserved(pupil.subscription, accepted=5)
        assert pupil.subscription.stats()["acknowledged"] == len(pupil.heard)


class Clerk(Actor):
    """An actor that stays, and gets each message from a handler that passes it on."""

    def __init__(self) -> None:
        super().__init__("clerk")
        self.handler = Handler()

    def on_message(self, message: Message) -> None:
        self.handler.note(message)


class Gate(Actor):
    """A filter actor that every message passes."""

    passed = 0

    def filter(self, message: Message) -> Message:
        self.passed += 1
        return message


CHURN: tuple[Churn, ...] = (pause_and_resume, come_and_go, come_and_go, come_and_read, spawn_and_stop)


@contextmanager
def churning(bus: Bus, stay: list[Subscription], seed: int) -> Iterator[threading.Event]:
    """Run everything in CHURN, each on a thread of its own, as long as the block lasts."""
    over = threading.Event()
    threads = [InThread(churn, bus, random.Random(f"{seed} {number}"), stay, over) for number, churn in enumerate(CHURN)]
    try:
        yield over
    finally:
        over.set()
        for thread in threads:
            thread.result(LONG)


# --- the journey -------------------------------------------------------------------------------------------------------


@scaled(6, 40)
@pytest.mark.parametrize(
    ("hasty", "callers", "url"),
    [(False, False, "memory:"), (True, True, "memory:"), (False, True, "memory:?wire=json")],
    ids=["own-loop", "callers-loop-hasty-threads", "callers-loop-wire"],
)
@pytest.mark.few(1)
def test_s18_everything_at_once_loses_nothing_and_keeps_its_order(hasty: bool, callers: bool, url: str, count: int) -> None:
    """
    There are 59 publishers, subscribers of every kind and an actor that stay, others that come and go, and a filter actor that
    every message passes: each subscriber that stays handles each message once.
    """
    bus = Bus(url)
    gate = None if callers else Gate("gate")
    if gate is not None:
        bus.use(gate)
    with ExitStack() as stack:
        loops = [stack.enter_context(LoopInThread(f"loop-{number}")) for number in range(LOOPS)]
        if callers:
            loops[0].run(bus.astart())
        stack.enter_context(hasty_threads() if hasty else nullcontext())
        stack.enter_context(running(bus))
        stay = [subscribe(bus, kind) for kind in KINDS]
        clerk = bus.spawn(Clerk())
        bus.subscribe("work.>", lambda message: message.body, to="clerk", mailbox=1_000, overflow_timeout=LONG)
        inboxes = [(bus.subscribe("work.>", mailbox=500, overflow_timeout=LONG), Handler()) for _ in range(2)]
        reader = InThread(read, *inboxes[0])
        areader = loops[1].start(aread(*inboxes[1]))

        with churning(bus, [subscription for subscription, _ in stay], seed=count):
            threads = [InThread(publish, bus, me, count) for me in range(THREADS)]
            coroutines = [
                loop.start(apublish_all(bus, range(first, first + COROUTINES), count))
                for loop, first in zip(loops, itertools.count(THREADS, COROUTINES), strict=False)
            ]
            for thread in threads:
                thread.result(LONG)
            for coroutine in coroutines:
                coroutine.result(LONG)
        bus.drain(LONG)

        for subscription, handler in stay:
            handler.assert_complete(count)
            assert_conserved(subscription, accepted=PUBLISHERS * count)
            assert subscription.stats()["acknowledged"] == PUBLISHERS * count
        bus.request_stop("the readers may end when they have read all")
        reader.result(LONG)
        areader.result(LONG)
        for subscription, handler in inboxes:
            handler.assert_complete(count)
            assert_conserved(subscription, accepted=PUBLISHERS * count)
        assert len(bus.dead_letters) == 0
        stats = bus.stats()
        assert (stats["errors"], stats["rejected"], stats["dropped"], stats["unrouted"]) == ({}, {}, {}, 0)
        published = 2 * PUBLISHERS * count + mailed.pop(bus)  # each is passed on to the clerk
        assert stats["accepted"] == published
        clerk.handler.assert_complete(count)
        if gate is not None:
            assert gate.passed == published


@scaled(8, 40)
def test_s18_a_reader_among_many_gets_each_message_once(count: int) -> None:
    """Twelve readers of both colours share one mailbox, and return some deliveries: together they get each message once."""
    read_by_all: Counter[tuple[int, int]] = Counter()
    lock = threading.Lock()
    bus = Bus()

    def take(inbox: Subscription, me: int) -> None:
        dice = random.Random(me)
        while True:
            try:
                with inbox.delivery(timeout=LONG) as delivery:
                    if not delivery.redelivered and dice.random() < 0.3:
                        delivery.retry()
                        continue
                    with lock:
                        read_by_all[tuple(delivery.message.body)] += 1
            except BusClosed:
                return

    async def atake(inbox: Subscription) -> None:
        async for message in inbox:
            with lock:
                read_by_all[tuple(message.body)] += 1

    with ExitStack() as stack:
        loops = [stack.enter_context(LoopInThread(f"loop-{number}")) for number in range(LOOPS)]
        stack.enter_context(running(bus))
        inbox = bus.subscribe("work.>", mailbox=100, overflow_timeout=LONG)
        readers = [InThread(take, inbox, me) for me in range(6)]
        areaders = [loop.start(atake(inbox)) for loop in loops for _ in range(2)]
        publishers = [InThread(publish, bus, me, count) for me in range(THREADS)]
        for publisher in publishers:
            publisher.result()
        bus.request_stop("the readers may end when they have read all")
        for reader in readers:
            reader.result(LONG)
        for areader in areaders:
            areader.result(LONG)

        assert read_by_all == dict.fromkeys(itertools.product(range(THREADS), range(count)), 1)
        assert_conserved(inbox, accepted=THREADS * count)

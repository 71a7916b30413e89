"""
actors: objects with a mailbox each, most of them idle. What a hundred thousand cost that wait, get mail, and end.

Each gets exactly one message, in a shuffled order, so nearly every message finds its mailbox at rest. Two sets are made,
one after the other, in one process: the first for time, the second under tracemalloc, which slows what it watches. Subjects,
the order and the lists that hold on to things are made before anything is counted.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from threading import Event
from time import perf_counter, sleep
from typing import Any, NamedTuple

import limit_pool
from clocks import PATIENCE
from harness import Contender, Workload
from limit import NO_HEADERS, Message

BODY = 1
SMALL = 100  # a first set that is not counted: caches, threads
PAUSE = 0.05  # seconds for the threads to come to rest before memory is read
MOST_MORE = 100.0  # bytes
MOST_MAIL = 1.1  # of the hand-written pool

COLUMNS = {
    "bytes": "bytes each idle",
    "more": "more after mail",
    "set_up": "µs set-up each",
    "mail": "µs a random message",
    "stop": "µs to stop each",
}
ON_DEMAND = "an object with a deque while it has mail"
ROUTED = "the same, found by its subject in a dict"
ACTORS = "actors, mailed by reference: bounded mailbox, counters, errors to dead letters, drain and stop"
SUBSCRIBERS = "the same guarantees; a subject string each, one shared handler"


class Tally:
    """Counts what all handlers have seen, on whichever thread, and tells when that is enough."""

    def __init__(self, enough: int) -> None:
        next_one = count(1).__next__  # one step for all threads
        self.reached = Event()

        def seen() -> None:
            if next_one() == enough:
                self.reached.set()

        self.seen = seen


class Host(NamedTuple):
    """Where mailboxes are. A member is what `stop` ends, an address what `publish` takes."""

    add: Callable[[str], tuple[Any, Any]]  # a subject -> a member and its address
    publish: Callable[[Any, Any], Any]
    stop: Callable[[Any], Any]
    close: Callable[[], Any]


def limit_actors(tally: Tally) -> Host:
    """No registry: who has the object has its mailbox."""
    pool = limit_pool.SparePool()
    begin, put, next_id = pool.begin, pool.put, count(1).__next__
    seen = tally.seen

    class Actor:
        __slots__ = ("items",)

        def __init__(self) -> None:
            self.items: deque[Message] | None = None

    class Counter(Actor):
        __slots__ = ("seen",)

        def __init__(self) -> None:
            self.items = None
            self.seen = 0

        def handle(self, message: Message) -> None:
            self.seen += 1
            seen()

    def add(subject: str) -> tuple[Any, Any]:
        actor = Counter()
        return actor, actor

    def publish(actor: Any, body: Any, headers: dict[str, Any] = NO_HEADERS) -> None:
        message = Message(next_id(), actor, body, headers)
        if actor.items is None:
            begin(actor, message)
        else:
            put(actor, message)

    return Host(add, publish, pool.stop, pool.close)


def limit_subscribers(tally: Tally) -> Host:
    """A dict from subjects to mailboxes."""
    pool = limit_pool.SparePool()
    begin, put, next_id = pool.begin, pool.put, count(1).__next__
    seen = tally.seen
    routes: dict[str, limit_pool.SpareMailbox] = {}

    def handle(message: Message) -> None:
        seen()

    def add(subject: str) -> tuple[Any, Any]:
        routes[subject] = limit_pool.SpareMailbox(handle)
        return subject, subject

    def publish(subject: str, body: Any, headers: dict[str, Any] = NO_HEADERS) -> None:
        mailbox = routes[subject]
        message = Message(next_id(), subject, body, headers)
        if mailbox.items is None:
            begin(mailbox, message)
        else:
            put(mailbox, message)

    def stop(subject: str) -> None:
        pool.stop(routes.pop(subject))

    return Host(add, publish, stop, pool.close)


def our_actors(tally: Tally) -> Host:
    """Spawned on a started bus."""
    from pipebus import Actor, Bus

    seen = tally.seen

    class Counter(Actor):
        __slots__ = ("seen",)

        def __init__(self) -> None:
            super().__init__()
            self.seen = 0

        def on_message(self, message) -> None:  # type: ignore[no-untyped-def]
            self.seen += 1
            seen()

    bus = Bus()
    bus.start()
    spawn = bus.spawn

    def add(subject: str) -> tuple[Any, Any]:
        actor = Counter()
        spawn(actor)
        return actor, actor

    return Host(add, bus.publish, lambda actor: actor.stop(), bus.stop)


def our_subscribers(tally: Tally) -> Host:
    """On a started bus, where programs that create subscribers as they go do it."""
    from pipebus import Bus

    seen = tally.seen

    def handle(message) -> None:  # type: ignore[no-untyped-def]
        seen()

    bus = Bus()
    bus.start()

    def add(subject: str) -> tuple[Any, Any]:
        return bus.subscribe(subject, handle), subject

    return Host(add, bus.publish, lambda subscription: subscription.unsubscribe(), bus.stop)


class Life:
    """One set of members, from the first added to the last stopped."""

    def __init__(self, open_host: Callable[[Tally], Host], size: int, name: str) -> None:
        self.subjects = [f"{name}.{n}" for n in range(size)]
        self.members: list[Any] = [None] * size
        self.addresses: list[Any] = [None] * size
        self.order = list(range(size))
        random.Random(size).shuffle(self.order)
        self.tally = Tally(size)
        self.host = open_host(self.tally)

    def add(self) -> None:
        """Make them all."""
        add, members, addresses = self.host.add, self.members, self.addresses
        for number, subject in enumerate(self.subjects):
            members[number], addresses[number] = add(subject)

    def mail(self) -> None:
        """One message to each, and wait until they are handled."""
        publish, addresses = self.host.publish, self.addresses
        for number in self.order:
            publish(addresses[number], BODY)
        if not self.tally.reached.wait(timeout=PATIENCE):
            raise RuntimeError(f"{len(self.order)} messages published, and after {PATIENCE:g} s not all handled")

    def check(self) -> None:
        """Whether those that count have counted."""
        wrong = [member for member in self.members if getattr(member, "seen", 1) != 1]
        if wrong:
            raise RuntimeError(f"{len(wrong)} of {len(self.members)} have not seen exactly one message")

    def stop(self) -> None:
        """End them all, one by one."""
        stop = self.host.stop
        for member in self.members:
            stop(member)

    def close(self) -> None:
        """End the threads, and let go of everything."""
        self.host.close()
        self.members = self.addresses = []
        gc.collect()


def weigh(open_host: Callable[[Tally], Host], size: int) -> Mapping[str, float]:
    """Bytes and times of one member, from `size` of them."""
    for number, name in ((min(size, SMALL), "warm.up"), (size, "timed")):
        life = Life(open_host, number, name)
        gc.collect()
        set_up, mail, stop = timed(life.add), timed(life.mail), 0.0
        life.check()
        stop = timed(life.stop)
        life.close()

    life = Life(open_host, size, "traced")
    gc.collect()
    tracemalloc.start()
    life.add()
    idle = allocated()
    life.mail()
    after = allocated()
    tracemalloc.stop()
    life.close()
    each = {"set_up": set_up * 1e6, "mail": mail * 1e6, "stop": stop * 1e6, "bytes": idle, "more": after - idle}
    return {key: figure / size for key, figure in each.items()}


def timed(act: Callable[[], None]) -> float:
    """Seconds that something takes."""
    start = perf_counter()
    act()
    return perf_counter() - start


def allocated() -> int:
    """Bytes that tracemalloc has seen and that are still in use, once the threads are at rest."""
    sleep(PAUSE)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def contender(
    guarantees: str, open_host: Callable[[Tally], Host], most: float | None = None, against: str | None = None
) -> Contender:
    """What one member costs; those with a `most` in bytes are ours, and have the other goals too."""

    def run(size: int) -> Mapping[str, float]:
        return weigh(open_host, size)

    if most is None:
        return Contender(guarantees, run, against=against)
    return Contender(guarantees, run, {"mail": MOST_MAIL}, {"bytes": most, "more": MOST_MORE}, against)


CONTENDERS: Mapping[str, Contender] = {
    "limit": contender(ON_DEMAND, limit_actors),
    "pipebus": contender(ACTORS, our_actors, 420.0),
    "limit-subjects": contender(ROUTED, limit_subscribers, against="limit-subjects"),
    "pipebus-subjects": contender(SUBSCRIBERS, our_subscribers, 300.0, "limit-subjects"),
}

WORKLOAD = Workload(
    about="actors by reference, and subscribers by subject (ratio: to the limit above them), each mailed once at random",
    columns=COLUMNS,
    contenders=CONTENDERS,
    size=100_000,
    sized_by="mailboxes",
    without_ratio=("more",),
)
MILLION = Workload(
    about="the same with a million",
    columns=COLUMNS,
    contenders=CONTENDERS,
    size=1_000_000,
    sized_by="mailboxes",
    without_ratio=("more",),
    when_named=True,
)

"""
actors: objects with a mailbox each, most of them idle. What a hundred thousand cost that wait, get mail, and end.

Each gets one message, in a shuffled order, and then as many go to members drawn at random. So nearly every message finds its
mailbox at rest; the first one may also find something to prepare, and is timed apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import count
from typing import Any

import limit_pool
import ours
from harness import Contender, Guarantees, Workload, measured_with
from limit import NO_HEADERS, Message
from lives import Host, OpenHost, Tally, weigh
from peers import pykka, reactivex

MOST_MORE = 100.0  # bytes
MOST_MAIL = 1.1  # of the hand-written pool

COLUMNS = {
    "bytes": "bytes each idle",
    "more": "more after mail",
    "set_up": "µs set-up each",
    "first": "µs a first message",
    "mail": "µs a random message",
    "stop": "µs to stop each",
}
ON_DEMAND = limit_pool.SPARE._replace(words="an object with a deque while it has mail")
ROUTED = limit_pool.SPARE._replace(words="the same, found by its subject in a dict")
ACTORS = ours.GUARANTEES._replace(words="actors, mailed by reference; counters, errors to dead letters, drain and stop")
SUBSCRIBERS = ours.GUARANTEES._replace(words="the same guarantees; a subject string each, one shared handler")


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


def contender(
    guarantees: Guarantees,
    open_host: OpenHost,
    most_bytes: float | None = None,
    against: str | None = None,
    most: int | None = None,
) -> Contender:
    """What one member costs; those with a `most_bytes` are ours, and have the other goals too."""

    def run(size: int) -> Mapping[str, float]:
        return weigh(open_host, min(size, most or size))

    if most_bytes is None:
        return Contender(measured_with(guarantees, most, "mailboxes"), run, against=against)
    return Contender(guarantees, run, {"mail": MOST_MAIL}, {"bytes": most_bytes, "more": MOST_MORE}, against)


CONTENDERS: Mapping[str, Contender] = {
    "limit": contender(ON_DEMAND, limit_actors),
    "pipebus": contender(ACTORS, our_actors, 350.0),
    "pykka": contender(pykka.GUARANTEES, pykka.open_host, most=pykka.MOST),
    "limit-subjects": contender(ROUTED, limit_subscribers, against="limit-subjects"),
    "pipebus-subjects": contender(SUBSCRIBERS, our_subscribers, 250.0, "limit-subjects"),
    "reactivex": contender(reactivex.POOL, reactivex.open_host, against="limit-subjects", most=reactivex.MOST),
}

WORKLOAD = Workload(
    about="actors by reference, and subscribers by subject (ratio: to the limit above them), mailed at random",
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
    rounds=1,
    without_ratio=("more",),
    when_named=True,
)

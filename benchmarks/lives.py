"""
The clock of the workloads with very many mailboxes: a set of members, from the first that is added to the last that is stopped.

Subjects, orders and the lists that hold on to things are made before anything is counted.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from threading import Event
from time import perf_counter, sleep
from typing import Any, NamedTuple

from clocks import PATIENCE

BODY = 1
SMALL = 100  # a first set that is not counted: caches, threads
PAUSE = 0.05  # seconds for the threads to come to rest before memory is read


class Tally:
    """Counts what all handlers have seen, on whichever thread, and says when that is enough."""

    def __init__(self) -> None:
        self.enough = 0
        self.reached = Event()
        next_one = count(1).__next__  # one step for all threads

        def seen() -> None:
            if next_one() == self.enough:
                self.reached.set()

        self.seen = seen

    def expect(self, more: int) -> None:
        """Wait for so many more."""
        self.reached.clear()
        self.enough += more


class Host(NamedTuple):
    """Where mailboxes are. A member is what `stop` ends, an address what `publish` takes."""

    add: Callable[[str], tuple[Any, Any]]  # a subject -> a member and its address
    publish: Callable[[Any, Any], Any]
    stop: Callable[[Any], Any]
    close: Callable[[], Any]


OpenHost = Callable[[Tally], Host]


class Life:
    """One set of members."""

    def __init__(self, open_host: OpenHost, subjects: Iterable[str], size: int) -> None:
        self.subjects = subjects
        self.members: list[Any] = [None] * size
        self.addresses: list[Any] = [None] * size
        self.tally = Tally()
        self.host = open_host(self.tally)

    def add(self) -> None:
        """Make them all."""
        add, members, addresses = self.host.add, self.members, self.addresses
        for number, subject in enumerate(self.subjects):
            members[number], addresses[number] = add(subject)

    def mail(self, order: Sequence[int]) -> None:
        """Publish one message to each of these members, and wait until all are handled."""
        publish, addresses = self.host.publish, self.addresses
        self.tally.expect(len(order))
        for number in order:
            publish(addresses[number], BODY)
        if not self.tally.reached.wait(timeout=PATIENCE):
            raise RuntimeError(f"{len(order)} messages published, and after {PATIENCE:g} s not all handled")

    def check(self) -> None:
        """Those members that count must have seen what the tally has."""
        counts = [member.seen for member in self.members if hasattr(member, "seen")]
        if counts and sum(counts) != self.tally.enough:
            raise RuntimeError(f"{sum(counts)} messages seen of {self.tally.enough}")

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


def weigh(open_host: OpenHost, size: int) -> Mapping[str, float]:
    """
    Bytes and times of one member, from `size` of them.

    Two sets are made, one after the other, in one process: the first for time, the second under tracemalloc, which slows
    what it watches.
    """
    for number, name in ((min(size, SMALL), "warm.up"), (size, "timed")):
        life = Life(open_host, [f"{name}.{n}" for n in range(number)], number)
        once, at_random = shuffled(number), random.Random(number).choices(range(number), k=number)
        gc.collect()
        set_up, first, mail = timed(life.add), timed(life.mail, once), timed(life.mail, at_random)
        life.check()
        stop = timed(life.stop)
        life.close()

    life = Life(open_host, [f"traced.{n}" for n in range(size)], size)
    gc.collect()
    tracemalloc.start()
    life.add()
    idle = allocated()
    life.mail(once)
    after = allocated()
    tracemalloc.stop()
    life.close()
    each = {"bytes": idle, "more": after - idle}
    each |= {key: took * 1e6 for key, took in {"set_up": set_up, "first": first, "mail": mail, "stop": stop}.items()}
    return {key: figure / size for key, figure in each.items()}


def shuffled(size: int) -> list[int]:
    """Each member once."""
    order = list(range(size))
    random.Random(size).shuffle(order)
    return order


def timed(act: Callable[..., None], *arguments: Any) -> float:
    """Seconds that something takes."""
    start = perf_counter()
    act(*arguments)
    return perf_counter() - start


def allocated() -> int:
    """Bytes that tracemalloc has seen and that are still in use, once the threads are at rest."""
    sleep(PAUSE)
    gc.collect()
    return tracemalloc.get_traced_memory()[0]

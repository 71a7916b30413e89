"""The clocks of the workloads that are not a stream from one publisher to one handler: crowds of handlers, and round trips."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from statistics import mean
from threading import Barrier, Event, Thread
from time import perf_counter, process_time
from typing import Any

from harness import BODY, SUBJECT, WARM_UP, Expectation, Flow, Handler, anything

PATIENCE = 120.0  # seconds until a message counts as lost
FIRST_TRIPS = 1_000  # round trips that are not counted
ROUND_TRIP = {"us": "µs p50", "p99": "µs p99", "cpu": "CPU µs each"}

Crowd = Sequence[tuple[str, Handler]]  # a subject and a handler each


def time_crowd(open_crowd: Callable[[Crowd], Flow], subjects: Sequence[str], size: int) -> dict[str, float]:
    """
    Time from the first publish until each of many handlers has seen the last message of its own.

    A bus may prepare something at the first message of a subject or of a handler, so first messages are timed apart.

    Args:
        open_crowd: Makes the route to all handlers.
        subjects: One for each handler; several may share one.
        size: Messages that handlers see, altogether, after the first ones and a warm-up that is not counted. Subjects
            are published to in a shuffled order, each equally often.

    Returns:
        Microseconds a publish, however many handlers it has: `first` where it is the first of its subject, `us` later.

    Raises:
        RuntimeError: A message was lost, or the last one that a handler saw was not the last one published to it.
    """
    target = 0
    lasts: list[tuple[str, int]] = []  # append is one step for all threads, so the last to arrive sees them all
    finished = Event()

    def member(subject: str) -> Handler:
        seen = 0  # handled one at a time, so nobody else counts here

        def handle(message) -> None:  # type: ignore[no-untyped-def]
            nonlocal seen
            seen += 1
            if seen == target:
                lasts.append((subject, message.body))
                if len(lasts) == len(subjects):
                    finished.set()

        return handle

    flow = open_crowd([(subject, member(subject)) for subject in subjects])
    distinct = list(dict.fromkeys(subjects))

    def run(share: int) -> tuple[float, float]:
        nonlocal target
        target += share
        order = distinct * share
        random.Random(share).shuffle(order)
        lasts.clear()
        finished.clear()
        publish = flow.publish
        start, work = perf_counter(), process_time()
        for number, subject in enumerate(order):
            publish(subject, number)
        if not finished.wait(timeout=PATIENCE):
            raise RuntimeError(f"{len(lasts)} of {len(subjects)} handlers had seen {share} messages after {PATIENCE:g} s")
        took, worked = perf_counter() - start, process_time() - work
        newest = {subject: number for number, subject in enumerate(order)}
        wrong = [(subject, number) for subject, number in lasts if newest[subject] != number]
        if wrong:
            raise RuntimeError(f"the last message was not the newest one: {wrong[0]}, and {len(wrong) - 1} more")
        return took / len(order) * 1e6, worked / len(order) * 1e6

    first, _ = run(1)
    run(max(1, min(WARM_UP, size) // len(subjects)))
    took, worked = run(max(1, size // len(subjects)))
    flow.close()
    return {"us": took, "cpu": worked, "first": first}


def time_publishers(open_flow: Callable[[Handler], Flow], publishers: int, size: int) -> dict[str, float]:
    """
    Time from the moment when all publishing threads are ready to start until the handler has seen the last message.

    Args:
        publishers: Threads that share `size` messages.

    Raises:
        RuntimeError: A message was lost.
    """
    seen = target = 0
    finished = Event()

    def handle(message) -> None:  # type: ignore[no-untyped-def]
        nonlocal seen
        seen += 1
        if seen == target:
            finished.set()

    flow = open_flow(handle)

    def run(share: int) -> tuple[float, float]:
        nonlocal seen, target
        seen, target = 0, share * publishers
        finished.clear()
        start = Barrier(publishers + 1)

        def publish_all() -> None:
            publish = flow.publish
            start.wait()
            for _ in repeat(None, share):
                publish(SUBJECT, BODY)

        threads = [Thread(target=publish_all) for _ in range(publishers)]
        for thread in threads:
            thread.start()
        started, work = perf_counter(), process_time()
        start.wait()
        if not finished.wait(timeout=PATIENCE):
            raise RuntimeError(f"{target} messages published, {seen} handled after {PATIENCE:g} s")
        took = perf_counter() - started, process_time() - work
        for thread in threads:
            thread.join()
        return took

    run(max(1, WARM_UP // publishers))
    share = max(1, size // publishers)
    took, worked = run(share)
    flow.close()
    return {"us": took / (share * publishers) * 1e6, "cpu": worked / (share * publishers) * 1e6}


def time_trips(trip: Callable[[], Any], size: int, expect: Expectation = anything) -> dict[str, float]:
    """
    Time each of `size` calls, one after the other, after a warm-up.

    Args:
        expect: Looks at what the last call returned.

    Raises:
        RuntimeError: It was not what was expected.
    """
    for _ in repeat(None, FIRST_TRIPS):
        trip()
    times, last = [], None
    work = process_time()
    for _ in repeat(None, size):
        start = perf_counter()
        last = trip()
        times.append(perf_counter() - start)
    return _figures(times, process_time() - work, last, expect)


async def atime_trips(trip: Callable[[], Awaitable[Any]], size: int, expect: Expectation = anything) -> dict[str, float]:
    """`time_trips` on an event loop."""
    for _ in repeat(None, FIRST_TRIPS):
        await trip()
    times, last = [], None
    work = process_time()
    for _ in repeat(None, size):
        start = perf_counter()
        last = await trip()
        times.append(perf_counter() - start)
    return _figures(times, process_time() - work, last, expect)


def time_publishes(publish: Callable[[], Any], first: int, size: int) -> Mapping[str, float]:
    """
    Time single publishes on this thread.

    Args:
        first: How many are made before, and not counted.
    """
    for _ in repeat(None, first):
        publish()
    times = []
    work = process_time()
    for _ in repeat(None, size):
        start = perf_counter()
        publish()
        times.append(perf_counter() - start)
    return publishes(times, process_time() - work)


def on_thread(another: bool, work: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
    """
    Do some work on this thread, or on another one while this one waits.

    Raises:
        BaseException: What the work raised.
    """
    if not another:
        return work()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


async def atime_publishes(publish: Callable[[], Awaitable[Any]], first: int, size: int) -> Mapping[str, float]:
    """`time_publishes` on an event loop."""
    for _ in repeat(None, first):
        await publish()
    times = []
    work = process_time()
    for _ in repeat(None, size):
        start = perf_counter()
        await publish()
        times.append(perf_counter() - start)
    return publishes(times, process_time() - work)


PUBLISHES = {"us": "µs p50", "mean": "µs mean", "p99": "µs p99", "cpu": "CPU µs each"}


def publishes(times: list[float], work: float) -> Mapping[str, float]:
    """The figures of single publishes."""
    times.sort()
    middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
    return each(1, us=middle, mean=mean(times), p99=late, cpu=work / len(times))


def each(size: int, **seconds: float) -> Mapping[str, float]:
    """Microseconds a message."""
    return {key: whole / size * 1e6 for key, whole in seconds.items()}


def _figures(times: list[float], worked: float, last: Any, expect: Expectation) -> dict[str, float]:
    if not expect(last):
        raise RuntimeError(f"the last round trip brought {last!r}")
    times.sort()
    each: Mapping[str, float] = {"us": times[len(times) // 2], "p99": times[len(times) * 99 // 100]}
    return {key: seconds * 1e6 for key, seconds in {**each, "cpu": worked / len(times)}.items()}

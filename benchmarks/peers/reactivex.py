"""
reactivex: a `Subject` that is subscribed to through operators. `observe_on` gives a subscription a queue and a scheduler.

Without it a subscriber is called in `on_next`, in the publisher's thread. There are no replies, so it has no requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from clocks import Crowd
from harness import SUBJECT, Flow, Guarantees, Handler
from lives import Host, Tally
from loop_clocks import ACrowd, AHandler, APublish
from simplest import Message

GUARANTEES = Guarantees(
    "observe_on an EventLoopScheduler (a thread)", "yes", "end its thread", "no", "yes", package="reactivex"
)
POOL = GUARANTEES._replace(words="observe_on a ThreadPoolScheduler", errors="end its subscription")
DIRECT = GUARANTEES._replace(words="calls in the publisher's thread", queues="no", errors="to the publisher", bounds="no need")
LOOP = GUARANTEES._replace(words="concat_map to a task for each message", errors="end its subscription")
THREADS = 4  # as many as the limit has
MOST = 20_000  # messages: its queues are lists, and taking the first of a long list moves the others

Operator = Callable[[Any], Any]


def subscribe(streams: dict[str, Any], subject: str, operators: Sequence[Operator], handle: Handler) -> Any:
    """Find or make the stream of a subject, and subscribe to it through operators."""
    from reactivex import Subject

    stream = streams.get(subject) or streams.setdefault(subject, Subject())
    return stream.pipe(*operators).subscribe(on_next=handle)


def publisher(streams: dict[str, Any]) -> Callable[[str, Any], None]:
    """Publish into the stream of a subject."""
    return lambda subject, body: streams[subject].on_next(Message(subject, body))


def open_flow(filters: Sequence[Callable[[Any], Any]], handle: Handler) -> Flow:
    """Filters are `map` operators; the handler is on a thread."""
    from reactivex import operators as ops
    from reactivex.scheduler import EventLoopScheduler

    streams: dict[str, Any] = {}
    scheduler = EventLoopScheduler()
    subscribe(streams, SUBJECT, [*map(ops.map, filters), ops.observe_on(scheduler)], handle)
    return Flow(publisher(streams), scheduler.dispose)


def open_direct_flow(filters: Sequence[Callable[[Any], Any]], handle: Handler) -> Flow:
    """The same without a queue."""
    from reactivex import operators as ops

    streams: dict[str, Any] = {}
    subscribe(streams, SUBJECT, [ops.map(filter_) for filter_ in filters], handle)
    return Flow(publisher(streams), lambda: None)


def open_crowd(crowd: Crowd) -> Flow:
    """A stream for each subject; all handlers share a few threads."""
    from reactivex import operators as ops
    from reactivex.scheduler import ThreadPoolScheduler

    streams: dict[str, Any] = {}
    scheduler = ThreadPoolScheduler(THREADS)
    for subject, handle in crowd:
        subscribe(streams, subject, [ops.observe_on(scheduler)], handle)
    return Flow(publisher(streams), partial(scheduler.executor.shutdown, wait=True))


def open_direct_crowd(crowd: Crowd) -> Flow:
    """The same without queues."""
    streams: dict[str, Any] = {}
    for subject, handle in crowd:
        subscribe(streams, subject, (), handle)
    return Flow(publisher(streams), lambda: None)


@asynccontextmanager
async def open_loop_crowd(crowd: ACrowd, filters: Sequence[Callable[[Any], Any]] = ()) -> AsyncIterator[APublish]:
    """Coroutines, one at a time for each subscription."""
    import reactivex
    from reactivex import operators as ops

    def one_at_a_time(handle: AHandler) -> Operator:
        def start(message: Message, scheduler: Any) -> Any:
            return reactivex.from_future(asyncio.ensure_future(handle(message)))

        return ops.concat_map(lambda message: reactivex.defer(partial(start, message)))

    streams: dict[str, Any] = {}
    for subject, handle in crowd:
        subscribe(streams, subject, [*map(ops.map, filters), one_at_a_time(handle)], lambda nothing: None)
    put = publisher(streams)

    async def publish(subject: str, body: Any) -> None:
        put(subject, body)

    yield publish


def open_loop_flow(filters: Sequence[Callable[[Any], Any]], handle: AHandler) -> Any:
    """One subscriber on one subject."""
    return open_loop_crowd([(SUBJECT, handle)], filters)


def open_host(tally: Tally) -> Host:
    """A stream for each subject, all handled on a few threads."""
    from reactivex import operators as ops
    from reactivex.scheduler import ThreadPoolScheduler

    streams: dict[str, Any] = {}
    scheduler = ThreadPoolScheduler(THREADS)

    def handle(message: Message) -> None:
        tally.seen()

    def add(subject: str) -> tuple[Any, Any]:
        return subscribe(streams, subject, [ops.observe_on(scheduler)], handle), subject

    def close() -> None:
        scheduler.executor.shutdown(wait=True)

    return Host(add, publisher(streams), lambda subscription: subscription.dispose(), close)

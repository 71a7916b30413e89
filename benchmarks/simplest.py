"""
The simplest design: what most programs write before they look for a bus.

A dict of subjects, a `queue.Queue` and a thread for each subscriber, filters in a loop on the way in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Queue
from threading import Thread
from typing import Any

from clocks import Crowd
from harness import SUBJECT, Flow, Guarantees, Handler

GUARANTEES = Guarantees("a thread a subscriber; filters see the way in only", "yes", "end its thread", "no", "yes")


@dataclass(slots=True)
class Message:
    """A plain dataclass, as one would write it."""

    subject: str
    body: Any
    headers: dict[str, Any] = field(default_factory=dict)


Filter = Callable[[Message], Message]


class Bus:
    """Subject -> the queues of its subscribers."""

    def __init__(self, filters: Sequence[Filter] = ()) -> None:
        self.filters = filters
        self.queues: dict[str, list[Queue[Message | None]]] = {}
        self.threads: list[Thread] = []

    def subscribe(self, subject: str, handle: Handler) -> None:
        """Start a thread that calls `handle` with each message."""
        queue: Queue[Message | None] = Queue()

        def consume() -> None:
            while (message := queue.get()) is not None:
                handle(message)

        self.queues.setdefault(subject, []).append(queue)
        thread = Thread(target=consume, daemon=True)
        self.threads.append(thread)
        thread.start()

    def publish(self, subject: str, body: Any) -> None:
        """Filter, then one copy of the reference for each subscriber."""
        message = Message(subject, body)
        for filter_ in self.filters:
            message = filter_(message)
        for queue in self.queues.get(subject, ()):
            queue.put(message)

    def stop(self) -> None:
        """Let each thread finish what is in its queue."""
        for queues in self.queues.values():
            for queue in queues:
                queue.put(None)
        for thread in self.threads:
            thread.join()


def open_flow(filters: Sequence[Filter], handle: Handler) -> Flow:
    """One subscriber on one subject."""
    bus = Bus(filters)
    bus.subscribe(SUBJECT, handle)
    return Flow(bus.publish, bus.stop)


def open_crowd(crowd: Crowd) -> Flow:
    """Many subscribers, each with its queue and its thread."""
    bus = Bus()
    for subject, handle in crowd:
        bus.subscribe(subject, handle)
    return Flow(bus.publish, bus.stop)

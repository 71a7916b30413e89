"""
The hand-written limit: the least that Python needs to pass a message through filters to another thread.

Nothing here survives contact with users (no errors, no second subscriber, no bound, no way to stop in
mid-work), and that is its use: what pipebus costs over this is what its promises cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from queue import SimpleQueue
from threading import Thread
from typing import Any

from harness import SUBJECT, Flow, Guarantees, Handler

BARE = ("yes", "end its thread", "no", "yes")  # what all hand-written limits promise: a queue, and its order
GUARANTEES = Guarantees("closures, one queue, one thread, one subscriber", *BARE)
NO_HEADERS: dict[str, Any] = {}  # shared: a dict for each message costs a fifth


class Message:
    """Four slots and no promise: anybody may change it."""

    __slots__ = ("body", "headers", "id", "subject")

    def __init__(self, id: int, subject: str, body: Any, headers: dict[str, Any]) -> None:
        self.id = id
        self.subject = subject
        self.body = body
        self.headers = headers


Next = Callable[[Message], None]
Filter = Callable[[Message, Next], None]


def link(filter_: Filter, call_next: Next) -> Next:
    """Compose one filter with the rest of the chain."""
    return lambda message: filter_(message, call_next)


def open_flow(filters: Sequence[Filter], handle: Handler) -> Flow:
    """Closures, one queue and one thread."""
    queue: SimpleQueue[Message | None] = SimpleQueue()
    queues = {SUBJECT: queue}
    next_id = count(1).__next__

    def terminal(message: Message) -> None:
        queues[message.subject].put(message)

    chain: Next = terminal
    for filter_ in reversed(filters):
        chain = link(filter_, chain)

    def publish(subject: str, body: Any, headers: dict[str, Any] = NO_HEADERS) -> None:
        chain(Message(next_id(), subject, body, headers))

    def consume() -> None:
        get = queue.get
        while (message := get()) is not None:
            handle(message)

    thread = Thread(target=consume)
    thread.start()

    def close() -> None:
        queue.put(None)
        thread.join()

    return Flow(publish, close)

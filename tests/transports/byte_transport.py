"""
A transport as unlike memory as can be: everything is bytes, arrives later on a thread of its own, and has to be acknowledged.

What is returned, or lost with its lease, is delivered again with the number of the attempt. Queues of named subscriptions
stay when nobody is bound to them, as a store's would.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from bisect import insort
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pipebus import BusClosed, Message, MessageTooLarge, Receipt
from pipebus.message.codec import JsonCodec
from pipebus.transports.base import Binding, Capabilities, Surroundings, Transport

LATER = 0.01  # seconds until a message that found no room is offered again; sooner if its subscription settles one


@dataclass(order=True)
class Copy:
    """One message on its way to one subscription; copies are ordered by arrival."""

    number: int
    data: bytes = field(compare=False)
    due: float = field(compare=False)
    takings: int = field(compare=False, default=0)


class Queue:
    """The messages of one subscription."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.bound = True
        self.waiting: list[Copy] = []
        self.out: dict[int, Copy] = {}  # handed in and not settled, by token
        self.not_before = 0.0

    def next(self, now: float) -> Copy | None:
        if not self.bound or now < self.not_before:
            return None
        return next((copy for copy in self.waiting if copy.due <= now), None)

    def wake_time(self) -> float:
        return max(self.not_before, min((copy.due for copy in self.waiting), default=float("inf")))


class ByteTransport(Transport):
    """
    Args:
        delay: Promise delayed publishing.

    For tests: `inject` puts raw bytes on the wire, `wait_for` waits for arrivals, `lose` ends the lease of whatever is out,
    `verdicts` are the settlements in order, `stale` counts those that came too late, `on_loops` the sends that would have
    stopped an event loop.
    """

    local = False

    def __init__(self, delay: bool = False) -> None:
        self.capabilities = Capabilities(order="subject", delay=delay)
        self.codec = JsonCodec("tests")
        self.verdicts: list[str] = []
        self.stale = 0
        self.arrivals = 0
        self.on_loops = 0
        self._numbers = itertools.count(1)
        self._queues: dict[str, Queue] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    @classmethod
    def from_url(cls, url: str) -> ByteTransport:
        return cls(delay=dict(parse_qsl(urlsplit(url).query)).get("delay") == "yes")

    # --- the protocol ----------------------------------------------------------------------------------------------------

    def start(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="byte-transport", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        for queue in self._queues.values():  # their holders can no longer settle them
            for copy in queue.out.values():
                insort(queue.waiting, copy)
            queue.out.clear()

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        self.on_loops += asyncio._get_running_loop() is not None
        if self._stopping:
            raise BusClosed("the transport has stopped")
        data = self.codec.encode(message)
        limit = self._around.max_message_bytes
        if limit is not None and len(data) > limit:
            raise MessageTooLarge(f"{message.id} has {len(data)} bytes; at most {limit} are allowed")
        return Receipt(self.inject(message.subject, data, delay))

    def bind(self, binding: Binding) -> None:
        with self._changed:
            queue = self._queues.setdefault(binding.name, Queue(binding))
            queue.binding, queue.bound = binding, True
            self._changed.notify_all()

    def unbind(self, name: str) -> None:
        with self._changed:
            queue = self._queues[name]
            queue.bound = False
            if not queue.binding.durable:
                del self._queues[name]

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        name, number = token
        with self._changed:
            queue = self._queues.get(name)
            copy = queue.out.pop(number, None) if queue is not None else None
            if queue is None or copy is None:
                self.stale += 1  # its lease had ended, or its queue has gone
                return
            self.verdicts.append(verdict)
            if verdict in ("return", "release"):
                copy.takings += verdict == "return"
                copy.due = self._around.clock.monotonic() + delay
                insort(queue.waiting, copy)
            queue.not_before = 0.0
            self._changed.notify_all()

    def pending(self, name: str) -> int:
        with self._changed:
            queue = self._queues.get(name)
            return len(queue.waiting) + len(queue.out) if queue is not None and queue.bound else 0

    # --- for tests -------------------------------------------------------------------------------------------------------

    def inject(self, subject: str, data: bytes, delay: float = 0.0) -> int:
        """Put bytes on the wire, and return how many subscriptions get them."""
        with self._changed:
            due = self._around.clock.monotonic() + delay
            reached = [q for q in self._queues.values() if any(p.matches(subject) for p in q.binding.patterns)]
            for queue in reached:
                queue.waiting.append(Copy(next(self._numbers), data, due))
            self._changed.notify_all()
            return len(reached)

    def wait_for(self, arrivals: int) -> None:
        """Block until subscriptions have accepted this many messages."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.arrivals >= arrivals, timeout=10)

    def lose(self) -> None:
        """End all leases: what is out is delivered again."""
        with self._changed:
            for queue in self._queues.values():
                for copy in queue.out.values():
                    copy.takings += 1
                    insort(queue.waiting, copy)
                queue.out.clear()
            self._changed.notify_all()

    # --- its thread ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                found = None
                while found is None:
                    if self._stopping:
                        return
                    now = self._around.clock.monotonic()
                    found = next(((q, c) for q in self._queues.values() if (c := q.next(now)) is not None), None)
                    if found is None:
                        wait = min((q.wake_time() for q in self._queues.values() if q.bound), default=float("inf")) - now
                        self._changed.wait(None if wait == float("inf") else wait)
                queue, copy = found
                queue.waiting.remove(copy)
                number = next(self._numbers)
                queue.out[number] = copy
                name, deliver, takings = queue.binding.name, queue.binding.deliver, copy.takings
            taken = deliver(copy.data, (name, number), takings)  # not under the lock: it may settle at once
            with self._changed:
                self.arrivals += taken
                self._changed.notify_all()
                if not taken and queue.out.pop(number, None) is not None:
                    insort(queue.waiting, copy)
                    queue.not_before = self._around.clock.monotonic() + LATER

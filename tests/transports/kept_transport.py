"""
A transport as a store on a server would be one, in memory: messages outlive buses, which share the work of a subscription.

What a bus does not settle or renew in time comes again; a killed one renews nothing. Messages may be delayed, read again, and
published twice under one id.
"""

from __future__ import annotations

import itertools
import threading
import time
from bisect import insort
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipebus import Bus, BusClosed, Message, MessageTooLarge, Receipt, TransportError
from pipebus.bus.bus import engine_of
from pipebus.message.codec import JsonCodec
from pipebus.message.slot import Slot, slot_of
from pipebus.testing.contract import UrlStage
from pipebus.transports.base import Binding, Capabilities, Kept, Surroundings, Transport

LEASE = 30.0
WINDOW = 60.0
LATER = 0.005  # seconds until a bus that had no room is asked again


@dataclass(order=True)
class Copy:
    """One message on its way to one subscription."""

    number: int
    subject: str = field(compare=False)
    data: bytes = field(compare=False)
    due: float = field(compare=False, default=0.0)
    takings: int = field(compare=False, default=0)
    holder: Any = field(compare=False, default=None)  # the transport that has it out
    until: float = field(compare=False, default=0.0)  # when its lease ends


@dataclass
class Queue:
    """The messages of one subscription, whichever program serves it."""

    patterns: Any
    durable: bool
    members: dict[Any, Binding] = field(default_factory=dict)
    waiting: list[Copy] = field(default_factory=list)
    out: dict[int, Copy] = field(default_factory=dict)

    def wants(self, subject: str) -> bool:
        return any(pattern.matches(subject) for pattern in self.patterns)

    def take_back(self, number: int, taken: bool, due: float = 0.0) -> None:
        copy = self.out.pop(number)
        copy.takings += taken
        copy.due, copy.holder = due, None
        insort(self.waiting, copy)


class Store:
    """The state that outlives the buses."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.queues: dict[str, Queue] = {}
        self.log: list[tuple[str, bytes]] = []
        self.ids: dict[str, float] = {}
        self.slots: dict[str, Slot] = {}
        self.numbers = itertools.count(1)
        self.place = 1  # another number: somebody has put another store in its place

    def put(self, subject: str, data: bytes, delay: float = 0.0) -> int:
        """Put it into every queue that matches; called under the lock."""
        self.log.append((subject, data))
        reached = [queue for queue in self.queues.values() if queue.wants(subject)]
        for queue in reached:
            queue.waiting.append(Copy(next(self.numbers), subject, data, time.monotonic() + delay if delay else 0.0))
        self.changed.notify_all()
        return len(reached)


class KeptTransport(Transport):
    """
    One bus's way to the store.

    Args:
        lease: Seconds that a delivery is this bus's alone; renewed for as long as it lives.
    """

    local = False
    capabilities = Capabilities(
        survives="process", order="subject", groups=True, delay=True, dedup_window=WINDOW, replay=True, multi_process=True,
        schedules=True, max_size=500_000,
    )  # fmt: skip

    def __init__(self, store: Store, lease: float = LEASE) -> None:
        self.store = store
        self.lease = lease
        self.codec = JsonCodec("tests")
        self.closed = False
        self.place = store.place
        self.bindings: dict[str, Binding] = {}  # by name
        self.full: dict[str, float] = {}  # when to ask a subscription again that had no room
        self.thread: threading.Thread | None = None

    def start(self, surroundings: Surroundings) -> None:
        self.around = surroundings
        self.closed = False
        self.place = self.store.place
        self.thread = threading.Thread(target=self.run, name="kept-transport", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.end(taken=False)
        if self.thread is not None:
            self.thread.join()

    def end(self, taken: bool) -> None:
        """
        Deliver nothing more, and give back what is out. With `taken`, it counts as an attempt, because its result is unknown.
        """
        with self.store.changed:
            self.closed = True
            for name, queue in list(self.store.queues.items()):
                if queue.members.pop(self, None) is not None and not queue.durable:
                    del self.store.queues[name]
                for number in [number for number, copy in queue.out.items() if copy.holder is self]:
                    queue.take_back(number, taken)
            self.store.changed.notify_all()

    def open_again(self) -> None:
        """Bind to what is there now; called under the lock."""
        self.place = self.store.place
        for binding in list(self.bindings.values()):
            self.bind(binding)
        self.around.warn("store.replaced")

    def pending(self, name: str) -> int:
        with self.store.changed:
            queue = self.store.queues.get(self.key(name))
            return len(queue.waiting) + len(queue.out) if queue is not None else 0

    def encode(self, message: Message[Any]) -> bytes:
        data = self.codec.encode(message)
        limit = min(self.around.max_message_bytes or self.capabilities.max_size or 0, self.capabilities.max_size or 0)
        if len(data) > limit:
            raise MessageTooLarge(f"{message.id} has {len(data)} bytes; at most {limit} are allowed")
        return data

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        data = self.encode(message)
        with self.store.changed:
            if self.closed:
                raise BusClosed("the transport has stopped")
            if self.place != self.store.place:
                self.open_again()
                raise TransportError("the store was replaced; publish it again")
            known = self.store.ids.get(message.id)
            if known is not None and time.monotonic() - known < WINDOW:
                wanting = [queue for queue in self.store.queues.values() if queue.wants(message.subject)]
                return Receipt(len(wanting), duplicate=True)
            if strict and not any(queue.wants(message.subject) for queue in self.store.queues.values()):
                return Receipt(0)
            if (slot := slot_of(message)) is not None and not self.record(slot):
                return Receipt(0, duplicate=True)
            self.store.ids[message.id] = time.monotonic()
            return Receipt(self.store.put(message.subject, data, delay))

    def key(self, name: str) -> str:
        """The queue of one of this bus's subscriptions: its own if there is one, and otherwise the group's."""
        own = f"{name} of {id(self)}"
        return own if own in self.store.queues else name

    def bind(self, binding: Binding) -> None:
        key = binding.name if binding.durable else f"{binding.name} of {id(self)}"
        with self.store.changed:
            queue = self.store.queues.get(key)
            if queue is None:
                queue = self.store.queues[key] = Queue(binding.patterns, binding.durable)
                old = [one for one in self.store.log if queue.wants(one[0])] if binding.start != "new" else []
                for subject, data in old[-1:] if binding.start == "last" else old:
                    queue.waiting.append(Copy(next(self.store.numbers), subject, data))
            queue.members[self] = self.bindings[binding.name] = binding
            self.store.changed.notify_all()

    def unbind(self, name: str) -> None:
        with self.store.changed:
            self.bindings.pop(name, None)
            key = self.key(name)
            queue = self.store.queues.get(key)
            if queue is not None and queue.members.pop(self, None) is not None and not queue.durable:
                del self.store.queues[key]

    def kept(self) -> list[Kept]:
        with self.store.changed:
            queues = [(name, queue) for name, queue in self.store.queues.items() if queue.durable]
        return [Kept(name, tuple(p.text for p in q.patterns), False, len(q.waiting), len(q.out), None) for name, q in queues]

    def settle(self, token: Any, verdict: str, delay: float = 0.0, why: Any = "") -> None:
        name, number, takings = token
        with self.store.changed:
            queue = self.store.queues.get(name)
            copy = queue.out.get(number) if queue is not None else None
            if queue is None or copy is None or copy.holder is not self or copy.takings != takings:
                return  # its lease had ended
            if verdict in ("return", "release"):
                queue.take_back(number, verdict == "return", time.monotonic() + delay if delay else 0.0)
            else:
                del queue.out[number]
            self.full.pop(name, None)
            self.store.changed.notify_all()

    def record(self, slot: Slot) -> bool:
        last = self.slot(slot.schedule)
        if last is not None and last >= slot.time:
            return False
        self.store.slots[slot.schedule] = slot
        return True

    def slot(self, name: str) -> float | None:
        return self.store.slots[name].time if name in self.store.slots else None

    def skip_slot(self, slot: Slot) -> None:
        with self.store.changed:
            self.record(slot)

    def schedules(self) -> list[Slot]:
        return list(self.store.slots.values())

    def forget_schedule(self, name: str) -> bool:
        with self.store.changed:
            return self.store.slots.pop(name, None) is not None

    # --- its thread ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        while True:
            with self.store.changed:
                found = None
                while found is None:
                    if self.closed:
                        return
                    now = time.monotonic()
                    self.look_at_leases(now)
                    found = self.next(now)
                    if found is None:
                        self.store.changed.wait(self.nap(now))
                name, queue, copy = found
                queue.waiting.remove(copy)
                copy.holder, copy.until = self, time.monotonic() + self.lease
                queue.out[copy.number] = copy
                binding = queue.members[self]
            self.hand_in(binding, name, queue, copy)

    def hand_in(self, binding: Binding, name: str, queue: Queue, copy: Copy) -> None:
        """Deliver outside the lock, because the message may be settled at once."""
        takings = copy.takings
        if not binding.deliver(copy.data, (name, copy.number, takings), takings):
            with self.store.changed:
                if copy.holder is self and queue.out.get(copy.number) is copy:
                    queue.take_back(copy.number, False)
                self.full[name] = time.monotonic() + LATER

    def look_at_leases(self, now: float) -> None:
        """Renew this bus's leases, and take back what nobody has renewed."""
        for queue in self.store.queues.values():
            for number, copy in list(queue.out.items()):
                if copy.holder is self:
                    self.renew(copy, now)
                if copy.until <= now:
                    queue.take_back(number, True)

    def renew(self, copy: Copy, now: float) -> None:
        if copy.until > now:
            copy.until = now + self.lease

    def next(self, now: float) -> tuple[str, Queue, Copy] | None:
        for name, queue in self.store.queues.items():
            if self in queue.members and self.full.get(name, 0.0) <= now:
                copy = next((copy for copy in queue.waiting if copy.due <= now), None)
                if copy is not None:
                    return name, queue, copy
        return None

    def nap(self, now: float) -> float:
        times = [copy.due - now for queue in self.store.queues.values() for copy in queue.waiting[:100] if copy.due > now]
        times += [later - now for later in self.full.values() if later > now]
        return max(0.0005, min([self.lease / 3, *times]))


class KeptStage(UrlStage):
    """
    A stage that can do everything. Its buses share one store.

    Args:
        kind: The transport's class; a broken one, where the contract itself is tested.
    """

    def __init__(self, kind: type[KeptTransport] = KeptTransport, **options: Any) -> None:
        super().__init__("kept:", **options)
        self.kind = kind
        self.store = Store()

    @property
    def capabilities(self) -> Capabilities:
        return self.kind.capabilities

    def open(self, name: str = "contract", **options: Any) -> Bus:
        return self._open(LEASE, name, **options)

    def open_with_lease(self, seconds: float) -> Bus:
        return self._open(seconds, "leased")

    def _open(self, lease: float, name: str, **options: Any) -> Bus:
        bus = Bus(self.kind(self.store, lease), name=name, **options)  # type: ignore[arg-type]
        self.buses.append(bus)
        return bus

    def lose_leases(self) -> None:
        with self.store.changed:
            for queue in self.store.queues.values():
                for number in list(queue.out):
                    queue.take_back(number, True)
            self.store.changed.notify_all()

    def crash(self) -> None:
        killed, self.buses = self.buses, []
        for bus in killed:
            engine_of(bus).transport.end(taken=True)
        for bus in killed:  # in a killed process nothing runs on
            with suppress(Exception):
                bus.stop(timeout=0.0, drain=False)

    def swap(self, how: str) -> None:
        with self.store.changed:
            self.store.queues.clear()
            self.store.log.clear()
            self.store.ids.clear()
            self.store.place += 1

    def inject(self, raw: bytes, subject: str) -> None:
        with self.store.changed:
            self.store.put(subject, raw)

"""Filters that are right, each with something that a law could take for a mistake."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import itertools
import logging
import os
import queue
import random
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import InitVar, dataclass, field
from typing import Any

import structlog

from pipebus import Actor, Around, Dropped, Message, Pause, Rejected, Transform, around, transform
from pipebus.pipeline.shapes import Context, Steps

Next = Callable[[Message], Any]


class Gate(Actor):
    """A filter actor without a name."""

    def filter(self, message: Message) -> Message:
        return message


class Quota(Actor):
    """A filter actor with a state: it drops what is too much."""

    left = 2

    def filter(self, message: Message) -> Message | Dropped:
        self.left -= 1
        return message if self.left >= 0 else Dropped("quota used up")


class Numbering(Actor):
    """A filter actor that counts."""

    count = 0

    async def filter(self, message: Message) -> Message:
        self.count += 1
        return message.with_headers(number=str(self.count))


class Auditing(Actor):
    """A filter actor that publishes: it is not asked about what it publishes."""

    def filter(self, message: Message) -> Message:
        self.bus.publish("audit", message.id)
        return message


@dataclass(eq=False)
class Stamp(Transform):
    """Made of a parameter that it does not keep."""

    region: InitVar[str]
    stamp: str = field(init=False, default="")

    def __post_init__(self, region: str) -> None:
        self.stamp = f"from {region}"

    def transform(self, message: Message) -> Message:
        return message.with_headers(stamp=self.stamp)


@dataclass(eq=False)
class Tally(Transform):
    """Counts with a lock of its own, which its dataclass makes."""

    lock: Any = field(default_factory=threading.Lock, init=False, repr=False)
    counts: Counter[str] = field(default_factory=Counter, init=False, repr=False)

    def transform(self, message: Message) -> Message:
        with self.lock:
            self.counts[str(message.subject)] += 1
            count = self.counts[str(message.subject)]
        return message.with_headers(count=str(count))


class Serial:
    """One at a time, by a lock of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, message: Message, call_next: Next) -> Any:
        with self.lock:
            return call_next(message)


class LateLock(Serial):
    """The same, with a lock that `start` makes."""

    def __init__(self) -> None:
        """No lock yet."""

    def start(self, context: Context) -> None:
        self.lock = threading.RLock()  # type: ignore[assignment]


class ClassLock(Serial):
    """The same, with one lock for all objects of the class."""

    lock = threading.Lock()

    def __init__(self) -> None:
        """It has no lock of its own."""


ONE_LOCK = threading.RLock()


def module_lock(message: Message, call_next: Next) -> Any:
    with ONE_LOCK:
        return call_next(message)


LOCKS = {"all": threading.Lock()}


def out_of_reach(message: Message, call_next: Next) -> Any:
    """Uses a lock that was made long ago, and is kept where it is not looked for."""
    with LOCKS["all"]:
        return call_next(message)


class Bulkhead:
    """Two at a time; others wait."""

    def __init__(self) -> None:
        self.places = threading.Semaphore(2)

    def __call__(self, message: Message, call_next: Next) -> Any:
        with self.places:
            return call_next(message)


class Shedding:
    """One at a time; others are dropped, and it says so."""

    may_drop = True

    def __init__(self) -> None:
        self.places = threading.BoundedSemaphore(1)

    def __call__(self, message: Message, call_next: Next) -> Any:
        if not self.places.acquire(blocking=False):
            return Dropped("busy")
        try:
            return call_next(message)
        finally:
            self.places.release()


class AsyncBulkhead:
    """Two at a time on each loop."""

    def __init__(self) -> None:
        self.places: dict[Any, asyncio.Semaphore] = {}

    async def __call__(self, message: Message, call_next: Any) -> Any:
        async with self.places.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(2)):
            return await call_next(message)


class Pooled:
    """Has a job done by a pool, and counts the jobs under a lock."""

    def start(self, context: Context) -> None:
        self.pool = ThreadPoolExecutor(2)
        self.lock = threading.Lock()
        self.done = 0

    def stop(self) -> None:
        self.pool.shutdown()

    def __call__(self, message: Message, call_next: Next) -> Any:
        signature = self.pool.submit(self.sign, message.id).result(timeout=1.0)
        return call_next(message.with_headers(signature=signature))

    def sign(self, id: str) -> str:
        with self.lock:
            self.done += 1
        time.sleep(0.05)
        return f"signed {id}"


class OwnPool(Pooled):
    """The same with a pool from the beginning, which is never shut down."""

    start = stop = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().start(None)  # type: ignore[misc,arg-type,unused-ignore]


class RestInPool:
    """Runs the rest on a thread of a pool, with the publisher's context."""

    waits = True

    def start(self, context: Context) -> None:
        self.pool = ThreadPoolExecutor(4)

    def stop(self) -> None:
        self.pool.shutdown()

    def __call__(self, message: Message, call_next: Next) -> Any:
        return self.pool.submit(contextvars.copy_context().run, call_next, message).result()


class Writer(Transform):
    """Has a thread that writes to a file; both end with `stop`."""

    def start(self, context: Context) -> None:
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.file = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        self.thread = threading.Thread(target=self.write)
        self.thread.start()

    def stop(self) -> None:
        self.lines.put(None)
        self.thread.join()
        self.file.close()

    def write(self) -> None:
        for line in iter(self.lines.get, None):
            self.file.write(line)

    def transform(self, message: Message) -> Message:
        self.lines.put(message.id)
        return message


class Throttle(Around):
    """Waits from the second message on."""

    waits = True

    def __init__(self) -> None:
        self.seen = itertools.count()

    def around(self, message: Message) -> Steps:
        if next(self.seen):
            yield Pause(0.1)
        return (yield message)


class Sampled(Transform):
    """Lets each second message through, and says so."""

    may_drop = True

    def __init__(self) -> None:
        self.turns = itertools.cycle((True, False))

    def transform(self, message: Message) -> Message | Dropped:
        return message if next(self.turns) else Dropped("not in the sample")


class TwoOfAKind(Transform):
    """Refuses what is beyond two of a kind, and says so."""

    may_drop = True

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()

    def transform(self, message: Message) -> Message:
        with self.lock:
            self.seen[str(message.subject)] += 1
            if self.seen[str(message.subject)] > 2:
                raise Rejected("two are enough")
        return message


class OncePerOrder:
    """Drops what it knows, and forgets what has failed."""

    may_drop = True

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.lock = threading.Lock()

    def __call__(self, message: Message, call_next: Next) -> Any:
        with self.lock:
            if message.id in self.known:
                return Dropped("known")
            self.known.add(message.id)
        try:
            return call_next(message)
        except BaseException:
            self.known.discard(message.id)
            raise


class Breaker:
    """Lets nothing through after three failures, and says so."""

    may_drop = True
    failures = 0

    def __call__(self, message: Message, call_next: Next) -> Any:
        if self.failures >= 3:
            return Dropped("open")
        try:
            return call_next(message)
        except Exception:
            self.failures += 1
            raise


class Cached(Around):
    """Remembers what it makes of a subject."""

    waits = True

    def __init__(self) -> None:
        self.known: dict[Any, str] = {}

    def around(self, message: Message) -> Steps:
        key = str(message.subject)
        yield Pause(0.01)
        return (yield message.with_headers(hash=self.known.setdefault(key, f"{len(key)}")))


class Lottery(Transform):
    """Drops by chance, and numbers what it lets through."""

    may_drop = True

    def __init__(self) -> None:
        self.numbers = itertools.count()
        self.random = random.Random(7)

    def transform(self, message: Message) -> Message | Dropped:
        if self.random.random() < 0.5:
            return Dropped("no luck")
        return message.with_headers(lot=str(next(self.numbers)))


class Recent(Transform):
    """Remembers ids, and shows none of them."""

    def __init__(self) -> None:
        self.ids: deque[str] = deque(maxlen=3)

    def transform(self, message: Message) -> Message:
        self.ids.append(message.id)
        return message


class Audit:
    """Publishes a copy of each message, but not of the copies."""

    def start(self, context: Context) -> None:
        self.bus = context.bus

    def __call__(self, message: Message, call_next: Next) -> Any:
        if str(message.subject) != "audit":
            self.bus.publish("audit", message.id)
        return call_next(message)


class Fallback(Around):
    """Tries again without the body that was refused."""

    passes = 2
    repeats = True

    def around(self, message: Message) -> Steps:
        try:
            return (yield message)
        except Rejected:
            return (yield message.with_body("refused"))


class Watched:
    """A plain object, with a mark that it compares by identity and a logger."""

    NOTHING = object()

    def __init__(self) -> None:
        self.last = self.NOTHING
        self.log = logging.getLogger(__name__)
        self.lock = threading.Lock()

    def __call__(self, message: Message, call_next: Next) -> Any:
        with self.lock:
            if self.last is not self.NOTHING and not isinstance(self.last, str):
                raise TypeError("the mark has changed")
            self.last = message.id
        return call_next(message)


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("right_tenant", default="nobody")


@around
def scoped(message: Message) -> Steps:
    token = tenant.set("acme")
    try:
        return (yield message)
    finally:
        tenant.reset(token)


@transform
def timed(message: Message) -> Message:
    return message.with_headers(at=f"{time.time():.6f}", token=os.urandom(8).hex())


def held(message: Message, call_next: Next) -> Any:
    """Lets nothing of one message show in another, by thread-local storage."""
    local.message = message
    return call_next(local.message)


local = threading.local()


def with_structlog(message: Message, call_next: Next) -> Any:
    with structlog.contextvars.bound_contextvars(id=message.id):
        return call_next(message)


def with_decimal(message: Message, call_next: Next) -> Any:
    return call_next(message.with_headers(third=str(decimal.Decimal(1) / 3)))


class Auditor:
    """Keeps its tasks until they end."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()

    async def audit(self) -> None:
        await asyncio.sleep(0.1)

    async def __call__(self, message: Message, call_next: Any) -> Any:
        task = asyncio.create_task(self.audit())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return await call_next(message)


class OwnFile(Transform):
    """Has a file that is closed when nobody has the filter any more."""

    def __init__(self) -> None:
        self.file = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
        weakref.finalize(self, self.file.close)

    def transform(self, message: Message) -> Message:
        self.file.write(message.id)
        return message


async def shielded(message: Message, call_next: Any) -> Any:
    """If the rest is cancelled, asyncio raises a new CancelledError here."""
    return await asyncio.shield(call_next(message))


async def with_await(message: Message, call_next: Any) -> Any:
    await asyncio.sleep(0.2)
    return await call_next(message)


RIGHT: dict[str, Any] = {
    "actor": Gate,
    "actor-object": Gate(),
    "actor-quota": Quota,
    "actor-numbers": Numbering,
    "actor-publishes": Auditing,
    "init-var": Stamp("fr"),
    "lock-of-dataclass": Tally(),
    "lock": Serial,
    "lock-object": Serial(),
    "lock-of-start": LateLock,
    "lock-of-class": ClassLock,
    "lock-of-module": lambda: module_lock,
    "semaphore": Bulkhead,
    "semaphore-object": Bulkhead(),
    "semaphore-drops": Shedding,
    "semaphore-async": AsyncBulkhead,
    "pool": Pooled,
    "pool-of-its-own": OwnPool,
    "rest-in-pool": RestInPool,
    "thread-and-file": Writer,
    "throttle": Throttle,
    "sampled": Sampled,
    "two-of-a-kind": TwoOfAKind,
    "once-per-order": OncePerOrder(),
    "breaker": Breaker,
    "cached": Cached,
    "lottery": Lottery,
    "recent": Recent(),
    "audit": Audit,
    "fallback": Fallback(),
    "object": Watched(),
    "context": scoped,
    "random": timed,
    "thread-local": lambda: held,
    "structlog": lambda: with_structlog,
    "decimal": lambda: with_decimal,
    "tasks": Auditor,
    "file-of-its-own": OwnFile,
    "shield": lambda: shielded,
    "await": lambda: with_await,
}

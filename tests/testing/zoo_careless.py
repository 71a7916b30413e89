"""Wrong filters that lose something on the way, or do harm to what is around them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any, ClassVar

from zoo import Animal, function

from pipebus import Around, Dropped, Message, Receipt, Rejected, Transform, transform
from pipebus.message.outcomes import Handled
from pipebus.pipeline.shapes import Context, Steps

Next = Callable[[Message], Any]

# --- the envelope, the outcome, the context --------------------------------------------------------------------------------


def _rebuilt(message: Message, **changes: Any) -> Message:
    envelope = {"headers": message.headers, "key": message.key, "ttl": message.ttl, "correlation_id": message.correlation_id}
    copy = Message(message.subject, message.body, id=message.id, time=message.time)
    import msgspec

    return msgspec.structs.replace(copy, **{**envelope, **changes})


@transform
def without_key(message: Message) -> Message:
    return _rebuilt(message, key=None)


@transform
def without_ttl(message: Message) -> Message:
    return _rebuilt(message, ttl=None)


@transform
def without_headers(message: Message) -> Message:
    return _rebuilt(message, headers={name: one for name, one in message.headers.items() if name.startswith("pipebus-")})


class ForgetsLater(Transform):
    """Keeps the key of the first message only."""

    first = True

    def transform(self, message: Message) -> Message:
        first, self.first = self.first, False
        return message if first else _rebuilt(message, key=None)


def optimist(message: Message, call_next: Next) -> Any:
    """Takes a drop for a success."""
    return call_next(message) or Receipt(1)


def inventor(message: Message, call_next: Next) -> Any:
    """Makes up its receipt."""
    return call_next(message) and Receipt(1)


def pessimist(message: Message, call_next: Next) -> Any:
    """Says that it has dropped what the mailboxes have."""
    call_next(message)
    return Dropped("done")


def pretender(message: Message, call_next: Next) -> Any:
    """Takes a drop for handled."""
    return call_next(message) or Handled("nothing")


class RefusalRetry(Around):
    """Tries again whatever the error is."""

    repeats = True
    passes = 2

    def around(self, message: Message) -> Steps:
        try:
            return (yield message)
        except Exception:
            return (yield message)


def _taking(*errors: type[Exception]) -> Callable[[], Any]:
    """A filter that takes errors of the rest for its own, and makes drops of them."""

    def taking(message: Message, call_next: Next) -> Any:
        try:
            return call_next(message)
        except errors as error:
            return Dropped(str(error))

    return function(taking)


class CachedName:
    """Takes a KeyError of the rest for one of its cache, and runs the rest again."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def __call__(self, message: Message, call_next: Next) -> Any:
        key = str(message.body)
        try:
            return call_next(message.with_headers(name=self.names[key]))
        except KeyError:
            self.names[key] = key
            return call_next(message.with_headers(name=key))


class Once:
    """Remembers a message before the rest has taken it."""

    may_drop = True

    def __init__(self) -> None:
        self.known: set[str] = set()
        self.lock = threading.Lock()

    def __call__(self, message: Message, call_next: Next) -> Any:
        with self.lock:
            if message.id in self.known:
                return Dropped("known")
            self.known.add(message.id)
        return call_next(message)


class Half(Around):
    """Forgets a message that has failed, but not one that was cancelled."""

    may_drop = True

    def __init__(self) -> None:
        self.known: dict[str, object] = {}

    def around(self, message: Message) -> Steps:
        mine = object()
        if self.known.setdefault(message.id, mine) is not mine:
            return Dropped("known")
        try:
            return (yield message)
        except Exception:
            del self.known[message.id]
            raise


class Parcel:
    """A body without an `==` of its own."""

    def __init__(self) -> None:
        self.paid = False


def pays(message: Message, call_next: Next) -> Any:
    """Writes into such a body."""
    if isinstance(message.body, Parcel):
        message.body.paid = True
    return call_next(message)


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


def forgets_after_drop(message: Message, call_next: Next) -> Any:
    """Resets the tenant unless the message was dropped."""
    token = tenant.set("acme")
    try:
        outcome = call_next(message)
    except BaseException:
        tenant.reset(token)
        raise
    if outcome:
        tenant.reset(token)
    return outcome


def forgets_after_stop(message: Message, call_next: Next) -> Any:
    """Resets the tenant after errors, and not after other exceptions."""
    token = tenant.set("acme")
    try:
        outcome = call_next(message)
    except Exception:
        tenant.reset(token)
        raise
    tenant.reset(token)
    return outcome


def forgets_after_refusal(message: Message, call_next: Next) -> Any:
    """Resets the tenant unless the message was refused."""
    token = tenant.set("acme")
    try:
        outcome = call_next(message)
    except Rejected:
        raise
    except BaseException:
        tenant.reset(token)
        raise
    tenant.reset(token)
    return outcome


# --- what is around them ---------------------------------------------------------------------------------------------------


async def sleeper(message: Message, call_next: Any) -> Any:
    """Stops the event loop."""
    time.sleep(0.5)  # noqa: ASYNC251
    return await call_next(message)


class SleepingAround(Around):
    """Stops the event loop if its chain is async."""

    waits = True

    def around(self, message: Message) -> Steps:
        sleep(0.5)
        return (yield message)


async def asks_socket(message: Message, call_next: Any) -> Any:
    """Waits for a connection on the event loop."""
    with socket.socket() as one, contextlib.suppress(OSError):
        one.connect(("127.0.0.1", 9))
    return await call_next(message)


async def runs_program(message: Message, call_next: Any) -> Any:
    """Waits for a program on the event loop."""
    subprocess.run([sys.executable, "--version"], check=True, capture_output=True)  # noqa: ASYNC221
    return await call_next(message)


async def waits_for_result(message: Message, call_next: Any) -> Any:
    """Waits for another thread on the event loop."""
    with ThreadPoolExecutor(1) as pool:
        length = pool.submit(len, message.id).result()
    return await call_next(message.with_headers(length=str(length)))


class WaitsForQueue:
    """The same with a queue that stays empty."""

    def __init__(self) -> None:
        self.orders: queue.Queue[str] = queue.Queue()

    async def __call__(self, message: Message, call_next: Any) -> Any:
        with contextlib.suppress(queue.Empty):
            self.orders.get(timeout=0.01)
        return await call_next(message)


async def audits(message: Message) -> None:
    await asyncio.sleep(0.1)


async def fails(message: Message) -> None:
    raise ValueError("audit is down")


async def forgets_await(message: Message, call_next: Any) -> Any:
    audits(message)  # type: ignore[unused-coroutine]
    return await call_next(message)


async def leaves_task(message: Message, call_next: Any) -> Any:
    asyncio.create_task(audits(message))  # noqa: RUF006
    return await call_next(message)


async def loses_error(message: Message, call_next: Any) -> Any:
    asyncio.create_task(fails(message))  # noqa: RUF006
    await asyncio.sleep(0)
    return await call_next(message)


class LoopLock:
    """Its lock belongs to the loop where it was first waited for."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def __call__(self, message: Message, call_next: Any) -> Any:
        async with self.lock:
            return await call_next(message)


class LoopSemaphore:
    """The same with a semaphore that it makes at its start."""

    def start(self, context: Context) -> None:
        self.places = asyncio.Semaphore(1)

    async def __call__(self, message: Message, call_next: Any) -> Any:
        async with self.places:
            return await call_next(message)


class Echo:
    """Publishes a copy of each message, of the copies too."""

    def start(self, context: Context) -> None:
        self.bus = context.bus

    def __call__(self, message: Message, call_next: Next) -> Any:
        self.bus.publish("audit", message.body)
        return call_next(message)


class AsyncEcho:
    """The same in an async chain, after the rest."""

    def start(self, context: Context) -> None:
        self.bus = context.bus

    async def __call__(self, message: Message, call_next: Any) -> Any:
        outcome = await call_next(message)
        await self.bus.apublish("audit", message.body)
        return outcome


class Returned(Echo):
    """Sends each delivery to its own subject again."""

    def __call__(self, message: Message, call_next: Next) -> Any:
        outcome = call_next(message)
        self.bus.publish(message.subject, message.body)
        return outcome


class Background(Transform):
    """Starts a thread that nothing ends. (Its real end is the zoo's.)"""

    ended: ClassVar[threading.Event] = threading.Event()

    def start(self, context: Context) -> None:
        threading.Thread(target=self.ended.wait, name="refresher", daemon=True).start()

    def transform(self, message: Message) -> Message:
        return message


class OpenFile(Transform):
    """Opens a file that nothing closes. (Its real end is the zoo's.)"""

    opened: ClassVar[list[int]] = []

    def start(self, context: Context) -> None:
        self.opened.append(os.open(os.devnull, os.O_RDONLY))

    def transform(self, message: Message) -> Message:
        return message


class OpenSocket(Transform):
    """The same with a socket, which its first message opens."""

    opened: ClassVar[list[socket.socket]] = []
    mine: socket.socket | None = None

    def stop(self) -> None:
        self.mine = None

    def transform(self, message: Message) -> Message:
        if self.mine is None:
            self.mine = socket.socket()
            self.opened.append(self.mine)
        return message


class OpenPool(Transform):
    """Its pool works on after `stop`. (Its real end is the zoo's.)"""

    ended: ClassVar[threading.Event] = threading.Event()

    def start(self, context: Context) -> None:
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="refresher")
        threading.Thread(target=lambda: self.pool.submit(self.ended.wait).result(), name="refresher", daemon=True).start()

    def transform(self, message: Message) -> Message:
        return message


class ThreadEach(Transform):
    """Starts a thread with each message. (Its real end is the zoo's.)"""

    def transform(self, message: Message) -> Message:
        threading.Thread(target=Background.ended.wait, name="refresher", daemon=True).start()
        return message


class FileEach(Transform):
    """Opens a file with each message. (Its real end is the zoo's.)"""

    def transform(self, message: Message) -> Message:
        OpenFile.opened.append(os.open(os.devnull, os.O_RDONLY))
        return message


def clean_up() -> None:
    """End what these filters have left."""
    for ended in (Background.ended, OpenPool.ended):
        ended.set()
    for number in OpenFile.opened:
        os.close(number)
    for one in OpenSocket.opened:
        one.close()
    OpenFile.opened.clear()
    OpenSocket.opened.clear()


ENVELOPE, OUTCOME, REFUSAL = "keeps the envelope", "keeps the outcome", "repeats no refusal"
CONTEXT, BLOCKS, LOOPS = "restores the context", "blocks no loop", "works on every loop"
ERRORS, AGAIN = "lets errors through", "lets a failed message come again"
ITSELF, BEHIND = "does not publish through itself", "leaves nothing behind"

_CARELESS: dict[str, tuple[str, Callable[[], Any], str]] = {
    "without-key": (ENVELOPE, function(without_key), "it lost the key"),
    "without-ttl": (ENVELOPE, function(without_ttl), "it lost the ttl"),
    "without-headers": (ENVELOPE, function(without_headers), "it lost the header"),
    "forgets-later": (ENVELOPE, ForgetsLater, "it lost the key"),
    "optimist": (OUTCOME, function(optimist), "the rest dropped the message, and the filter returned Receipt"),
    "inventor": (OUTCOME, function(inventor), "and the filter Receipt(mailboxes=1, duplicate=False)"),
    "pessimist": (OUTCOME, function(pessimist), "and the filter Dropped"),
    "pretender": (OUTCOME, function(pretender), "the rest dropped the message, and the filter returned Handled"),
    "refusal-retry": (REFUSAL, RefusalRetry, "let Rejected pass"),
    "takes-os-error": (ERRORS, _taking(OSError), "raised ConnectionResetError, and the filter returned Dropped"),
    "takes-lookup-error": (ERRORS, _taking(LookupError), 'skip={"lets errors through": "…"}'),
    "takes-refusal": (ERRORS, _taking(Rejected), "raised Rejected, and the filter returned Dropped"),
    "cached-name": ("runs the rest as declared", CachedName, "ran the rest 2 times when the rest raises KeyError"),
    "once": (AGAIN, Once, "the rest fails, and when the same message came again"),
    "half": (AGAIN, Half, "the rest is cancelled, and when the same message came again"),
    "pays": ("mutates nothing", function(pays), "it was {'paid': False}, and is {'paid': True}"),
    "after-drop": (CONTEXT, function(forgets_after_drop), "context variable tenant changed when the rest drops"),
    "after-stop": (CONTEXT, function(forgets_after_stop), "context variable tenant changed when the rest is cancelled"),
    "after-refusal": (CONTEXT, function(forgets_after_refusal), "context variable tenant changed when the rest refuses"),
    "sleeper": (BLOCKS, function(sleeper), "time.sleep(0.5)"),
    "sleeping-around": (BLOCKS, SleepingAround, "sleep(0.5)"),
    "asks-socket": (BLOCKS, function(asks_socket), 'one.connect(("127.0.0.1", 9)); await asyncio.to_thread'),
    "runs-program": (BLOCKS, function(runs_program), "waits for a thread, a process or a socket on the event loop"),
    "waits-for-result": (BLOCKS, function(waits_for_result), ".result(); await asyncio.to_thread"),
    "waits-for-queue": (BLOCKS, WaitsForQueue, "self.orders.get(timeout=0.01); await asyncio.to_thread"),
    "loop-lock": (LOOPS, LoopLock, "is bound to a different event loop"),
    "loop-semaphore": (LOOPS, LoopSemaphore, "is bound to a different event loop"),
    "echo": (ITSELF, Echo, "what it publishes on 'audit' passes through it again"),
    "async-echo": (ITSELF, AsyncEcho, "what it publishes on 'audit' passes through it again"),
    "returned": (ITSELF, Returned, "what it publishes on 'test' passes through it again"),
    "background": (BEHIND, Background, "there is still thread refresher"),
    "open-file": (BEHIND, OpenFile, "there is still file /dev/null"),
    "open-socket": (BEHIND, OpenSocket, "there is still file socket"),
    "open-pool": (BEHIND, OpenPool, "thread refresher"),
    "thread-each": (BEHIND, ThreadEach, "there is still thread refresher"),
    "file-each": (BEHIND, FileEach, "there is still file /dev/null"),
    "forgets-await": (BEHIND, function(forgets_await), "coroutine 'audits' was never awaited"),
    "leaves-task": (BEHIND, function(leaves_task), "nobody waits for a task"),
    "loses-error": (BEHIND, function(loses_error), "ValueError: audit is down"),
}

AT_DELIVERY = frozenset({"pretender", "returned"})

BODIES: dict[str, Any] = {"pays": [Parcel()], "runs-program": [1], "waits-for-queue": [1]}

CARELESS = {
    name: Animal(*one, "delivery" if name in AT_DELIVERY else "publish", BODIES.get(name)) for name, one in _CARELESS.items()
}
"""Each with the law that it breaks, and part of what is said about it."""

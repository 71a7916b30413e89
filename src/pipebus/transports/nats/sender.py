"""Publishing, for the threads and event loops of the user."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from pipebus.errors import LifecycleError, MessageTooLarge, TransportError
from pipebus.message.codec import Codec
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.transports.nats import wire
from pipebus.transports.nats.directory import Directory
from pipebus.transports.nats.later import Later
from pipebus.transports.nats.link import Link
from pipebus.transports.nats.options import Options
from pipebus.transports.nats.publisher import Outgoing, Publisher, unknown
from pipebus.transports.nats.subjects import LONGEST, REPLY, Subjects

MOMENT: Final = 1.0
"""Seconds until what this process has just done shows at the server, and until another process may have done more."""
RECENT: Final = 1000
"""Most subjects of which the last message is remembered."""

Result = tuple[int, bool] | BaseException
"""See `Outgoing`."""


class Sender:
    """
    A publish waits for the server's confirmation. What waits is a thread, or a coroutine on a loop of the user's.

    A message for which no answer is kept (without JetStream, or on the subject of a reply) waits for nothing.
    """

    def __init__(self, options: Options, subjects: Subjects, codec: Codec) -> None:
        self._options, self._subjects, self._codec = options, subjects, codec
        self._recent: dict[str, tuple[int, float]] = {}  # by subject: the number of the last message, and when it was stored
        self._results: dict[asyncio.AbstractEventLoop, Results] = {}
        self.most = 0  # bytes of a message that the server takes

    def begin(self, link: Link, publisher: Publisher, later: Later, directory: Directory, limit: int | None) -> None:
        """
        The bus starts.

        Args:
            limit: Bytes of a message that the bus allows; None: no limit of its own.
        """
        self._link, self._publisher, self._later, self._directory, self._limit = link, publisher, later, directory, limit

    def send(self, message: Message[Any], delay: float = 0.0, strict: bool = False) -> Receipt:
        """From a thread. `strict`: not if it is known to reach nobody."""
        subject, data, headers = self._written(message)
        if self._plain(message) and not delay:
            self._say(subject, data, headers)
            return self._receipt(message, subject, False)
        if strict and not (receipt := self._receipt(message, subject, False, named=delay > 0)).mailboxes:
            return receipt
        if self._link.here or asyncio._get_running_loop() is not None:
            raise LifecycleError(
                "publish waits for the server and would stop the running event loop; use `await bus.apublish(…)`"
            )
        one = self._outgoing(message, subject, data, headers, delay)
        return self._judged(message, subject, delay, self.wait_for(one))

    def asend(self, message: Message[Any], delay: float = 0.0, strict: bool = False) -> asyncio.Future[Receipt]:
        """From an event loop."""
        subject, data, headers = self._written(message)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Receipt] = loop.create_future()
        if self._plain(message) and not delay:
            self._say(subject, data, headers)
            future.set_result(self._receipt(message, subject, False))
            return future
        if strict and not (receipt := self._receipt(message, subject, False, named=delay > 0)).mailboxes:
            future.set_result(receipt)
            return future
        results = self._results.get(loop)
        if results is None:
            self._results = {one: found for one, found in self._results.items() if not one.is_closed()}
            results = self._results.setdefault(loop, Results(loop))
        one = self._outgoing(message, subject, data, headers, delay)
        one.done = partial(results.give, future, partial(self._judged, message, subject, delay))
        self._post(one)
        return future

    def known(self, message: Message[Any]) -> Receipt:
        """The receipt of a message that was published before."""
        return self._receipt(message, self._subjects.theirs(str(message.subject)), True)

    def wait_for(self, one: Outgoing) -> Result:
        """Publish, and wait for the result. From a thread."""
        gate = threading.Lock()
        gate.acquire()
        found: list[Result] = []

        def done(result: Result) -> None:
            found.append(result)
            gate.release()

        one.done = done
        self._post(one)
        patience = time.monotonic() + self._options.publish_timeout + 1.0
        while not gate.acquire(timeout=0.5):
            if time.monotonic() > patience or not self._link.thread.is_alive():
                raise unknown(one.id, one.subject)
        return found[0]

    def _post(self, one: Outgoing) -> None:
        way = self._later if one.subject.startswith(self._subjects.later) else self._publisher
        self._link.post(partial(way.send, one))

    def _written(self, message: Message[Any]) -> tuple[str, bytes, dict[str, str]]:
        """The server's subject, data and headers."""
        reply = "" if message.reply_to is None else self._subjects.theirs(str(message.reply_to))
        data, headers = wire.written(message, self._codec.encode(message), self._options.events == "binary", reply)
        subject = self._subjects.theirs(str(message.subject))
        if len(subject.encode()) + (len(reply.encode()) if self._plain(message) else 0) > LONGEST:
            what = "subject and reply_to" if reply else "subject"
            raise MessageTooLarge(f"the {what} of message {message.id} is longer than {LONGEST:,} bytes on the server")
        size = wire.size_of(data, headers) + 300  # for the id and the stream's name
        limit = self.most if self._limit is None else self._limit
        if len(data) > limit or size > self.most:
            least = min(limit, self.most)
            raise MessageTooLarge(
                f"message {message.id} on {message.subject} has {max(size, len(data)):,} bytes; at most {least:,} are carried"
            )
        return subject, data, headers

    def _plain(self, message: Message[Any]) -> bool:
        """It is sent over plain NATS, and kept nowhere."""
        return self._options.core or str(message.subject).startswith(REPLY)

    def _say(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        if self._link.client is None:
            raise TransportError(f"not connected to {self._options}; the message was not sent")
        self._link.post(lambda: self._link.say((subject, data, headers.get(wire.REPLY_TO, ""), headers)))

    def _outgoing(
        self, message: Message[Any], subject: str, data: bytes, headers: dict[str, str], delay: float
    ) -> Outgoing:  # fmt: skip
        headers[wire.ID] = wire.message_id(message.id)
        headers[wire.STREAM] = self._options.stream
        until = time.monotonic() + self._options.publish_timeout
        one = Outgoing(message.id, subject, data, headers, until)
        if delay:
            self._later.delay(one, delay)
        return one

    def _judged(self, message: Message[Any], subject: str, delay: float, result: Result) -> Receipt:
        if isinstance(result, BaseException):
            raise result
        number, duplicate = result
        if not (duplicate or delay):
            self.stored(subject, number)
        return self._receipt(message, subject, duplicate, named=delay > 0)

    def _receipt(self, message: Message[Any], subject: str, duplicate: bool, named: bool = False) -> Receipt:
        """
        How many subscriptions the message reaches. Unnamed ones of other programs are not known; so a request, and a reply,
        count as reaching at least one.
        """
        known = self._directory.count(subject, named)
        return Receipt(max(known, 1) if message.reply_to is not None or self._plain(message) else known, duplicate)

    def stored(self, subject: str, number: int) -> None:
        """A message was stored on one of the server's subjects."""
        if len(self._recent) > RECENT:
            self._recent = {}
        self._recent[subject] = (number, time.monotonic())

    def newest(self, reached: Callable[[str], bool]) -> int:
        """The number of the last message on matching subjects that was stored from here, if that was a moment ago."""
        since = time.monotonic() - MOMENT
        found = [number for subject, (number, when) in list(self._recent.items()) if when > since and reached(subject)]
        return max(found, default=0)


class Results:
    """What the coroutines of one loop wait for. Many results wake the loop once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._line: deque[tuple[asyncio.Future[Receipt], Callable[[Result], Receipt], Result]] = deque()
        self._rung = False

    def give(self, future: asyncio.Future[Receipt], judge: Callable[[Result], Receipt], result: Result) -> None:
        self._line.append((future, judge, result))
        if not self._rung:
            self._rung = True
            with suppress(RuntimeError):  # the loop is closed, and nobody waits
                self._loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        self._rung = False  # before the line is read: a later `give` rings again
        while self._line:
            future, judge, result = self._line.popleft()
            if future.done():
                continue
            try:
                future.set_result(judge(result))
            except BaseException as error:
                future.set_exception(error)

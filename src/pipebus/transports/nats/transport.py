"""
The transport: what the bus calls, from any thread, and what happens at intervals.

What is published waits for the server's word; who waits is a thread, or a coroutine on a loop of its own. Everything else is
left to the link's loop: it brings messages in, and tells the server what became of them, in order.

What is not promised. Order: among several processes of a subscription, if one is killed or loses its connection; what it had
comes when its lease ends, and the others do not wait for that. (One that is alone does; but not if its connection is lost
twice, the second time before all of that has come.) Attempts: a message that only waited in a process that was killed counts as
taken once, however often (each time, where somebody reads the mailbox himself). Fences: the server takes the word of who has
lost its lease; here it is refused only if the message has come back to the same process. A server that is killed forgets what
it has done in the last tenth of a second: what was handed out then comes again, under the same attempt, and what was
acknowledged may.
`Receipt.mailboxes`: it knows named subscriptions of all programs, and unnamed ones of this bus.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from nats.aio.client import Client

from pipebus.errors import (
    BusClosed,
    LifecycleError,
    MessageTooLarge,
    PipebusError,
    TransportError,
    UnsupportedCapability,
)
from pipebus.foreign.objects import text_of
from pipebus.message.codec import JsonCodec
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.message.patterns import Pattern
from pipebus.transports.base import Binding, Capabilities, Finding, Surroundings, Transport, Verdict
from pipebus.transports.nats import health, wire
from pipebus.transports.nats.claim import Claim
from pipebus.transports.nats.directory import Directory
from pipebus.transports.nats.letters import RESERVE, StoredLetters
from pipebus.transports.nats.link import ANSWER, Link, _Refused
from pipebus.transports.nats.listener import Listener
from pipebus.transports.nats.notes import Notes
from pipebus.transports.nats.options import Options
from pipebus.transports.nats.publisher import Outgoing, Publisher, unknown
from pipebus.transports.nats.puller import MOMENT, Progress, Puller
from pipebus.transports.nats.streams import Streams
from pipebus.transports.nats.subjects import LONGEST, REPLY, Subjects, consumer_name
from pipebus.waiting.locks import Locks, free

T = TypeVar("T")
PAYLOAD: Final = 2**20
"""Bytes that a server takes, if it says nothing else."""
TICK: Final = 0.02
"""Seconds between two looks at what is due."""


class Counts:
    """What has become of a subscription's messages, in this process, since the bus was made."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.dropped: dict[str, int] = {}

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


class NatsTransport(Transport):
    """
    Messages on a NATS server.

    Args:
        options: What the URL says.
    """

    local = False

    def __init__(self, options: Options) -> None:
        self.options = options
        self.url = str(options)
        self.codec = JsonCodec()
        self.subjects = Subjects(options)
        self.capabilities = self._promised(PAYLOAD)
        self.letters = StoredLetters(self, self.codec)
        self.notes = Notes(self)
        self.dead_letters = None if options.core else self.letters
        self.link: Link
        self._around: Surroundings | None = None
        self._running = False
        self._bound: dict[str, Puller | Listener] = {}
        self.locks = Locks()
        self._binding = self.locks.new()
        self._counts: dict[str, Counts] = {}
        self._progress: dict[str, Progress] = {}  # by consumer
        self._last: dict[str, dict[str, Any]] = {}  # the figures of subscriptions when the bus stopped
        self._recent: dict[str, tuple[int, float]] = {}  # by subject: what was stored last, and when
        self._results: dict[asyncio.AbstractEventLoop, Results] = {}
        self._largest = PAYLOAD
        self.open = 0  # settlements that wait for the server's word

    @classmethod
    def from_url(cls, url: str) -> NatsTransport:
        return cls(Options.from_url(url))

    def _promised(self, payload: int) -> Capabilities:
        options = self.options
        if options.core:
            return Capabilities(order="subject", groups=True, multi_process=True, max_size=payload)
        return Capabilities(
            # The server says that it has a message before it is on the disk, so a power cut may take the last ones.
            survives="server_restart" if options.storage == "file" else "process",
            order="subject",
            groups=True,
            dedup_window=options.window,
            replay=True,
            multi_process=True,
            dead_letters=True,
            max_size=payload - RESERVE,
        )

    # --- opening and closing -----------------------------------------------------------------------------------------

    def start(self, surroundings: Surroundings) -> None:
        """
        Raises:
            TransportError: no connection, or the stream cannot promise what the URL does; the text says what to do.
        """
        self._around = surroundings
        self.link = Link(self.options, self.warn, self._found, lambda: None)
        self.publisher = Publisher(self.link, self.subjects.keeps)
        self.streams = self.streams_on(self.link)
        self.directory = Directory(self.link, self.options.stream, self.subjects.replays)
        self.letters.begin()
        self.open = 0
        self._last = {}
        self.link.open()
        self.capabilities = self._promised(self._largest)
        self._running = True
        self.link.post(lambda: self.link.start(self._tick()))

    async def _found(self, client: Client) -> None:
        """A new connection: everything is there again, before it is used."""
        self._largest = client.max_payload
        if not self.options.core:
            await self.streams.ensure(client)
            self._largest = min(self._largest, self.streams.largest or self._largest)
            await self.directory.connected(client)
            await self.publisher.connected(client)
        for bound in list(self._bound.values()):
            if not bound.ended:
                await bound.connected(client)

    def stop(self) -> None:
        if not self._running:
            return
        self._running = False
        try:
            self.link.run(self._end(), 3 * ANSWER)
        except PipebusError as error:
            self.warn("transport.not_settled", server=self.url, error=str(error))
        self._bound.clear()
        self.link.post(self.publisher.end)
        self.link.close()

    async def _end(self) -> None:
        for bound in list(self._bound.values()):
            await bound.end()
        if self.link.client is None:
            raise TransportError("the connection is lost; what was settled since comes again when its lease ends")
        for bound in list(self._bound.values()):
            if isinstance(bound, Puller):
                bound.give_back()
        try:
            await self._flush()
        finally:
            with suppress(PipebusError):
                await self.letters.remember()
            for name, bound in list(self._bound.items()):
                if isinstance(bound, Puller):
                    with suppress(PipebusError):
                        self._last[name] = await self._figures(bound)

    def warn(self, event: str, **facts: Any) -> None:
        if self._around is not None:
            self._around.warn(event, **facts)

    def changed(self) -> None:
        """A drain may look again."""
        if self._around is not None:
            self._around.changed()

    async def _tick(self) -> None:
        renewed = confirmed = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            try:
                self.publisher.look()
                for bound in list(self._bound.values()):
                    if isinstance(bound, Puller):
                        bound.look(now)
                        if now - renewed >= self.options.lease / 3 and self.link.client is not None:
                            bound.renew()
                        if bound.done and not bound.retiring:
                            self.link.start(self._retire(bound))
                    else:
                        bound.offer()
                if now - renewed >= self.options.lease / 3:
                    renewed = now
                if now - confirmed >= MOMENT and self.link.client is not None:
                    confirmed = now
                    self.link.start(self._confirm())
            except Exception as error:
                self.warn("transport.failed", server=self.url, error=text_of(error))

    async def _retire(self, bound: Puller) -> None:
        """It was unsubscribed, and nothing is left of it but its figures."""
        name, found = bound.binding.name, None
        bound.retiring = True
        with suppress(PipebusError):
            found = await self._figures(bound)
        if self._bound.get(name) is bound:
            del self._bound[name]
            if found is not None:
                self._last[name] = found

    async def _confirm(self) -> None:
        with suppress(PipebusError):  # later, then
            for bound in list(self._bound.values()):
                if isinstance(bound, Puller):
                    await bound.confirm()
                    await bound.look_at_progress()

    # --- publishing --------------------------------------------------------------------------------------------------

    def send(self, message: Message[Any], delay: float) -> Receipt:
        subject, data, headers = self._written(message, delay)
        if self._plain(message):
            self._say(subject, data, headers)
            return self._receipt(message, subject, False)
        if self.link.here or asyncio._get_running_loop() is not None:
            raise LifecycleError(
                "publish waits for the server and would stop the running event loop; use `await bus.apublish(…)`"
            )
        gate = threading.Lock()
        gate.acquire()
        found: list[Any] = []

        def done(result: Any) -> None:
            found.append(result)
            gate.release()

        self._publish(message, subject, data, headers, done)
        patience = time.monotonic() + self.options.publish_timeout + 1.0
        while not gate.acquire(timeout=0.5):
            if time.monotonic() > patience or not self.link.thread.is_alive():
                raise unknown(message.id, subject)
        return self._judged(message, subject, found[0])

    def asend(self, message: Message[Any], delay: float) -> Awaitable[Receipt]:
        subject, data, headers = self._written(message, delay)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Receipt] = loop.create_future()
        if self._plain(message):
            self._say(subject, data, headers)
            future.set_result(self._receipt(message, subject, False))
            return future
        results = self._results.get(loop)
        if results is None:
            self._results = {one: found for one, found in self._results.items() if not one.is_closed()}
            results = self._results.setdefault(loop, Results(loop))

        def done(result: Any) -> None:
            results.give(future, result, partial(self._judged, message, subject))

        self._publish(message, subject, data, headers, done)
        return future

    def _written(self, message: Message[Any], delay: float) -> tuple[str, bytes, dict[str, str]]:
        if not self._running or self._around is None:
            raise BusClosed("the bus is stopped: it takes no more messages")
        if delay:
            raise UnsupportedCapability(f"{self.url} cannot delay messages; publish it when its time has come")
        reply = "" if message.reply_to is None else self.subjects.theirs(str(message.reply_to))
        data, headers = wire.written(message, self.codec.encode(message), self.options.events == "binary", reply)
        subject = self.subjects.theirs(str(message.subject))
        if len(subject.encode()) + (len(reply.encode()) if self._plain(message) else 0) > LONGEST:
            what = "subject and reply_to" if reply else "subject"
            raise MessageTooLarge(f"the {what} of message {message.id} is longer than {LONGEST:,} bytes on the server")
        size = wire.size_of(data, headers) + 300  # the id, and the stream's name
        most = self.capabilities.max_size or PAYLOAD
        limit = self._around.max_message_bytes
        if len(data) > (most if limit is None else limit) or size > most:
            least = most if limit is None else min(limit, most)
            raise MessageTooLarge(
                f"message {message.id} on {message.subject} has {max(size, len(data)):,} bytes; at most {least:,} are carried"
            )
        return subject, data, headers

    def _plain(self, message: Message[Any]) -> bool:
        return self.options.core or str(message.subject).startswith(REPLY)

    def _say(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        if self.link.client is None:
            raise TransportError(f"not connected to {self.url}; the message was not sent")
        self.link.post(lambda: self.link.say((subject, data, headers.get(wire.REPLY_TO, ""), headers)))

    def _publish(
        self, message: Message[Any], subject: str, data: bytes, headers: dict[str, str], done: Callable[[Any], object]
    ) -> None:
        headers[wire.ID] = wire.message_id(message.id)
        headers[wire.STREAM] = self.options.stream
        until = time.monotonic() + self.options.publish_timeout
        self.link.post(partial(self.publisher.send, Outgoing(message.id, subject, data, headers, until, done)))

    def _judged(self, message: Message[Any], subject: str, result: Any) -> Receipt:
        if isinstance(result, BaseException):
            raise result
        number, duplicate = result
        if not duplicate:
            self.stored(subject, number)
        return self._receipt(message, subject, duplicate)

    def _receipt(self, message: Message[Any], subject: str, duplicate: bool) -> Receipt:
        """
        How many subscriptions it reaches. Whoever listens without a name elsewhere is not known; so a message that wants an
        answer, and a reply, count as reaching somebody.
        """
        known = self.directory.count(subject)
        return Receipt(max(known, 1) if message.reply_to is not None or self._plain(message) else known, duplicate)

    def stored(self, subject: str, number: int) -> None:
        if len(self._recent) > 1000:
            self._recent = {}
        self._recent[subject] = (number, time.monotonic())

    def newest(self, puller: Puller) -> int:
        """The number of the last message that was stored from here, a moment ago, and that comes to this subscription."""
        since = time.monotonic() - MOMENT
        found = [number for subject, (number, when) in list(self._recent.items()) if when > since and puller.wants(subject)]
        return max(found, default=0)

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def bind(self, binding: Binding) -> None:
        durable = binding.durable and not self.options.core
        if durable and binding.overflow != "block":
            raise UnsupportedCapability(
                f'subscription {binding.name}: overflow="{binding.overflow}" is for mailboxes in memory; what waits here waits '
                "on the server, so leave it out"
            )
        if binding.start != "new" and not durable:
            raise UnsupportedCapability(
                f'subscription {binding.name}: nothing is kept for it, so deliver is "new"; give it a name, and no core=yes'
            )
        with free(self._binding):
            self.link.run(self._bind(binding, durable), 2 * ANSWER)

    async def _bind(self, binding: Binding, durable: bool) -> None:
        client = self.link.client
        if client is None:
            raise TransportError(f"not connected to {self.url}; subscription {binding.name} cannot begin")
        bound = Puller(self, binding) if durable else Listener(self, binding)
        before = self._bound.get(binding.name)
        if isinstance(before, Puller):
            before.give_back_late()
        if durable and binding.name in self._counts:
            await self._said()  # what was given back before comes before what is newer
        try:
            await bound.connected(client)
        except BaseException:
            await bound.end()
            raise
        self._bound[binding.name] = bound
        self._last.pop(binding.name, None)

    def announce(self, subscriptions: list[tuple[str, tuple[Pattern, ...], str]]) -> None:
        async def make(link: Link) -> None:
            streams = self.streams_on(link)
            if link.client is None:
                raise TransportError(f"not connected to {self.url}; nothing is announced")
            await streams.ensure(link.client)
            for name, patterns, start in subscriptions:
                await streams.announce(consumer_name(name), self.subjects.filters(patterns), start)

        if subscriptions and not self.options.core:  # there nothing is kept
            self.look(make)

    def unbind(self, name: str) -> None:
        bound = self._bound.get(name)
        if bound is None:
            return
        with suppress(PipebusError):
            self.link.run(bound.end(), ANSWER)
        if isinstance(bound, Listener) and self._bound.get(name) is bound:
            del self._bound[name]

    def remove(self, name: str) -> None:
        """
        Forget a durable subscription with all that it has coming, for all programs; its dead letters stay.

        Raises:
            TransportError: there is none of that name, or it is in use here.
        """
        bound = self._bound.get(name)
        if bound is not None and not bound.ended:
            raise TransportError(f"subscription {name} is in use; stop what serves it first")
        place = f"CONSUMER.DELETE.{self.options.stream}.{consumer_name(name)}"
        try:
            self.look(lambda link: link.api(place))
        except _Refused as error:
            raise TransportError(f"{self.url} has no subscription {name}: {error}") from None
        self._bound.pop(name, None)
        self._progress.pop(consumer_name(name), None)
        if self._running:
            self.directory.removed(consumer_name(name))

    # --- settling ----------------------------------------------------------------------------------------------------

    def settle(self, token: Any, verdict: Verdict, delay: float = 0.0, why: Any = "") -> None:
        claim: Claim = token
        self.link.post(partial(claim.puller.settle, claim, verdict, delay, why))

    def flush(self) -> None:
        self.link.run(self._flush(), ANSWER)

    async def _flush(self) -> None:
        """All that was settled is carried out, and the server says so."""
        await self._said()
        failed: PipebusError | None = None
        for bound in list(self._bound.values()):
            if isinstance(bound, Puller):
                try:
                    await bound.confirm()
                except PipebusError as error:  # its consumer is gone, say; the others are to be confirmed all the same
                    failed = error
        if failed is not None:
            raise failed

    async def _said(self) -> None:
        """All that was settled is told."""
        while not self.link.idle or self.open:  # noqa: ASYNC110 (it changes in hot paths, where an Event would cost)
            await asyncio.sleep(0.001)

    def write_letter(self, one: Outgoing) -> None:
        """
        Keep a dead letter that no delivery waits for.

        Raises:
            TransportError, PublishUnknown.
        """
        if self.link.here:
            self.publisher.send(one)
            return
        gate, found = threading.Event(), list[Any]()

        def done(result: Any) -> None:
            found.append(result)
            gate.set()

        one.done = done
        self.link.post(partial(self.publisher.send, one))
        if not gate.wait(self.options.publish_timeout + 1.0):
            raise unknown(one.id, one.subject)
        if isinstance(found[0], BaseException):
            raise found[0]

    # --- looking -----------------------------------------------------------------------------------------------------

    def look(self, work: Callable[[Link], Coroutine[Any, Any, T]]) -> T:
        """Ask the server something; while the bus is stopped on a connection for that alone."""
        if self._running:
            return self.link.run(work(self.link), 6 * ANSWER)

        async def nothing(client: Client) -> None:
            return None

        link = Link(self.options, self.warn, nothing, lambda: None)
        if not hasattr(self, "streams"):
            self.streams = self.streams_on(link)
        link.open()
        try:
            return link.run(work(link), 6 * ANSWER)
        finally:
            link.close()

    def streams_on(self, link: Link) -> Streams:
        return Streams(link, self.options, self.subjects)

    def examine(self) -> Iterator[Finding]:
        try:
            yield from self.look(lambda link: health.examine(self, link))
        except PipebusError as error:
            yield Finding("wrong", "server", str(error))

    @property
    def running(self) -> bool:
        return self._running

    def progress_of(self, consumer: str) -> Progress:
        return self._progress.setdefault(consumer, Progress())

    def counts_of(self, name: str) -> Counts:
        return self._counts.setdefault(name, Counts())

    def pending(self, name: str) -> int:
        bound = self._bound.get(name)
        if bound is None or not self._running:
            return 0
        if isinstance(bound, Puller) and bound.out:
            return len(bound.out)
        try:
            return self.link.run(self._pending(bound), ANSWER)
        except PipebusError:
            return 1  # nobody knows

    async def _pending(self, bound: Puller | Listener) -> int:
        if not self.link.idle:
            return 1
        return await bound.pending()

    def figures(self, name: str) -> dict[str, Any] | None:
        bound = self._bound.get(name)
        if not self._running or not isinstance(bound, Puller):
            found = self._last.get(name)
            return None if found is None else {**found, "dropped": dict(found["dropped"])}
        with suppress(PipebusError):  # without a connection: what was known last, if anything was
            self._last[name] = self.link.run(self._settled_figures(bound), 2 * ANSWER)
        found = self._last.get(name)
        return None if found is None else {**found, "dropped": dict(found["dropped"])}

    async def _settled_figures(self, bound: Puller) -> dict[str, Any]:
        await self._said()
        with suppress(PipebusError):
            await bound.confirm()
        return await self._figures(bound)

    async def _figures(self, bound: Puller) -> dict[str, Any]:
        """
        What waits, is held and is dead, of all programs, as the server has it; what was acknowledged and dropped, of this one.
        """
        info = await self.streams.info(bound.name)
        counts = self.counts_of(bound.binding.name)
        back = min(len(bound.returned) + bound.waiting, info["num_ack_pending"])
        found: dict[str, Any] = {
            "acknowledged": counts.acknowledged,
            "dropped": dict(sorted(counts.dropped.items())),
            "dead": await self.letters.dead(self.link, bound.binding.name),
            "pending": info["num_pending"] + back,
            "in_flight": info["num_ack_pending"] - back,
        }
        ended = found["acknowledged"] + sum(found["dropped"].values()) + found["dead"]
        return {"accepted": ended + found["pending"] + found["in_flight"], **found}


class Results:
    """What coroutines of one loop wait for: many results wake it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._line: deque[tuple[asyncio.Future[Receipt], Any, Callable[[Any], Receipt]]] = deque()
        self._rung = False

    def give(self, future: asyncio.Future[Receipt], result: Any, judge: Callable[[Any], Receipt]) -> None:
        self._line.append((future, result, judge))
        if not self._rung:
            self._rung = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._told)

    def _told(self) -> None:
        self._rung = False  # before the line is read: who appends later rings again
        while self._line:
            future, result, judge = self._line.popleft()
            if future.done():
                continue
            try:
                future.set_result(judge(result))
            except BaseException as error:
                future.set_exception(error)

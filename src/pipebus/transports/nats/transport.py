"""
The transport: what the bus calls, from any thread, and what happens at intervals.

A publish waits for the server's confirmation (sender.py). Everything else happens on the link's loop (served.py): it brings
messages in, and tells the server what became of them, in order.

What is not promised:

*Order*, among several processes of a subscription, if one of them is killed or loses its connection. What it had comes when its
lease ends, and the others do not wait for that. A process that is alone waits; but not if its connection is lost twice, the
second time before all of that has come. In a cluster, what a server was handing out when it was killed may come after newer
messages: the next leader may not know yet, when it is asked, that this was out.

*Attempts*. A message that only waited in a process that was killed counts as taken once, however often that happens (each time,
if a reader takes the messages).

*Fences*. The server accepts the verdict of a process that has lost its lease; this process refuses it only if the message has
come back to it.

*Slots of schedules*. A process that is killed between the message of a slot and its record leaves a slot that may come again:
if no process is there for longer than the window, and the next one publishes what was missed.

*A server that is killed* forgets what it has done in the last tenth of a second. What it handed out then comes again, as the
same attempt, and what was acknowledged may come again.

*`Receipt.mailboxes`* counts named subscriptions of all programs, and unnamed ones of this bus.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from nats.aio.client import Client

from pipebus.errors import (
    BusClosed,
    PipebusError,
    PublishUnknown,
    TransportError,
    UnsupportedCapability,
)
from pipebus.message.codec import JsonCodec
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.message.patterns import Pattern
from pipebus.message.slot import Slot, slot_of
from pipebus.transports.base import Binding, Capabilities, Finding, Health, Kept, Surroundings, Transport, Verdict
from pipebus.transports.nats import health
from pipebus.transports.nats.asking import ANSWER, _Refused
from pipebus.transports.nats.claim import Claim
from pipebus.transports.nats.consumer import Progress
from pipebus.transports.nats.directory import Directory
from pipebus.transports.nats.health import version_of
from pipebus.transports.nats.later import DELAYING, Later
from pipebus.transports.nats.letters import RESERVE, StoredLetters
from pipebus.transports.nats.link import Link
from pipebus.transports.nats.listener import Listener
from pipebus.transports.nats.notes import Notes
from pipebus.transports.nats.options import Options
from pipebus.transports.nats.publisher import Publisher
from pipebus.transports.nats.puller import Puller
from pipebus.transports.nats.sender import Sender
from pipebus.transports.nats.served import Counts, Served
from pipebus.transports.nats.slots import Slots
from pipebus.transports.nats.streams import Streams
from pipebus.transports.nats.subjects import Subjects, consumer_name
from pipebus.waiting.locks import Locks, free

T = TypeVar("T")
PAYLOAD: Final = 2**20
"""Bytes of a message that a server takes, unless it says otherwise."""


class NatsTransport(Transport):
    """
    Messages on a NATS server.

    It has many methods, since it is the interface to the bus and also holds what its parts share.

    Args:
        options: What the URL says.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.url = str(options)
        self.codec = JsonCodec()
        self.subjects = Subjects(options)
        self._version = ""  # the server's; not known before the start
        self.capabilities = self._promised(PAYLOAD)
        self.sender = Sender(options, self.subjects, self.codec)
        self.letters = StoredLetters(self, self.codec)
        self.notes = Notes(self)
        self.slots = Slots(f"{options.stream}-DEAD", self.subjects.slots)
        self.dead_letters = None if options.core else self.letters
        self.link: Link
        self._around: Surroundings | None = None
        self._running = False
        self.served = Served(self)
        self.locks = Locks()
        self._binding = self.locks.new()
        self._counts: dict[str, Counts] = {}
        self._progress: dict[str, Progress] = {}  # by consumer
        self._largest = PAYLOAD
        self.open = 0  # settlements that wait for the server's confirmation

    @classmethod
    def from_url(cls, url: str) -> NatsTransport:
        return cls(Options.from_url(url))

    def _promised(self, payload: int) -> Capabilities:
        options = self.options
        if options.core:
            return Capabilities(order="subject", groups=True, multi_process=True, max_size=payload)
        return Capabilities(
            # The server confirms a message before it is on the disk, so a power cut may lose the last ones.
            survives="server_restart" if options.storage == "file" else "process",
            order="subject",
            groups=True,
            delay=not self._version or version_of(self._version) >= DELAYING,
            dedup_window=options.window,
            replay=True,
            multi_process=True,
            dead_letters=True,
            schedules=True,
            max_size=payload - RESERVE,
        )

    # --- opening and closing -----------------------------------------------------------------------------------------

    def start(self, surroundings: Surroundings) -> None:
        """
        Raises:
            TransportError: no connection, or the stream cannot keep what the URL promises; the text says what to do.
        """
        self._around = surroundings
        self.link = Link(self.options, self.warn, self._found)
        self.publisher = Publisher(self.link, self.subjects.keeps)
        self.streams = self.streams_on(self.link)
        self.directory = Directory(self.link, self.options.stream, self.subjects.replays)
        self.letters.begin()
        self.open = 0
        self.served.begin()
        later = Later(self.publisher, self.streams, self.subjects)
        self.sender.begin(self.link, self.publisher, later, self.directory, surroundings.max_message_bytes)
        self.link.open()
        self.capabilities = self._promised(self._largest)
        self.sender.most = self.capabilities.max_size or PAYLOAD
        self._running = True
        self.link.post(lambda: self.link.start(self.served.run()))

    async def _found(self, client: Client) -> None:
        """There is a new connection: make everything ready before it is used."""
        self._largest = client.max_payload
        self._version = str(client._server_info.get("version", ""))
        if not self.options.core:
            await self.streams.ensure(client)
            self._largest = min(self._largest, self.streams.largest or self._largest)
            await self.directory.connected(client)
            await self.publisher.connected(client)
        await self.served.connected(client)

    def stop(self) -> None:
        if not self._running:
            return
        self._running = False
        try:
            self.link.run(self.served.end(), 3 * ANSWER)
        except PipebusError as error:
            self.warn("transport.not_settled", server=self.url, error=str(error))
        self.served.bound.clear()
        self.link.post(self.publisher.end)
        self.link.close()

    def warn(self, event: str, **facts: Any) -> None:
        if self._around is not None:
            self._around.warn(event, **facts)

    def changed(self) -> None:
        """A drain may check again."""
        if self._around is not None:
            self._around.changed()

    # --- publishing --------------------------------------------------------------------------------------------------

    def send(self, message: Message[Any], delay: float, strict: bool = False) -> Receipt:
        slot = slot_of(message)
        if slot is None or not self.capabilities.schedules:
            return self._open().send(message, delay, strict)
        last = self.slot(slot.schedule)
        if last is not None and last >= slot.time:
            return self._open().known(message)
        receipt = self._open().send(message, delay, strict)
        if strict and not receipt.mailboxes:
            return receipt
        try:
            self.skip_slot(slot)
        except TransportError as error:
            raise PublishUnknown(f"message {slot.id} is stored, but not that its slot is over: {error}", slot.id) from None
        return receipt

    def asend(self, message: Message[Any], delay: float, strict: bool = False) -> Awaitable[Receipt]:
        if slot_of(message) is not None:  # it waits for several answers, one after the other
            return super().asend(message, delay, strict)
        return self._open().asend(message, delay, strict)

    def _open(self) -> Sender:
        if not self._running:
            raise BusClosed("the bus is stopped: it takes no more messages")
        return self.sender

    def shortcoming(self, capability: str) -> str:
        if capability != "delay" or self.options.core:
            return ""
        return f"its server is {self._version}, and delays need {'.'.join(map(str, DELAYING))} or newer"

    # --- subscriptions -----------------------------------------------------------------------------------------------

    def check(self, binding: Binding) -> None:
        durable = self._keeps(binding)
        if durable and binding.overflow != "block":
            raise UnsupportedCapability(
                f'subscription {binding.name}: overflow="{binding.overflow}" is for mailboxes in memory; what waits here waits '
                "on the server, so leave it out"
            )
        if binding.start != "new" and not durable:
            raise UnsupportedCapability(
                f'subscription {binding.name}: nothing is kept for it, so deliver is "new"; give it a name, and no core=yes'
            )

    def _keeps(self, binding: Binding) -> bool:
        return binding.durable and not self.options.core

    def bind(self, binding: Binding) -> None:
        self.check(binding)
        with free(self._binding):
            self.link.run(self.served.bind(binding, self._keeps(binding)), 2 * ANSWER)

    def announce(self, subscriptions: list[tuple[str, tuple[Pattern, ...], str]]) -> None:
        async def make(link: Link) -> None:
            streams = self.streams_on(link)
            if link.client is None:
                raise TransportError(f"not connected to {self.url}; nothing is announced")
            await streams.ensure(link.client)
            for name, patterns, start in subscriptions:
                await streams.announce(consumer_name(name), self.subjects.filters(patterns), start)

        if subscriptions and not self.options.core:  # without JetStream nothing is kept
            self.look(make)

    def unbind(self, name: str) -> None:
        bound = self.served.bound.get(name)
        if bound is None:
            return
        with suppress(PipebusError):
            self.link.run(bound.end(), ANSWER)
        if isinstance(bound, Listener) and self.served.bound.get(name) is bound:
            del self.served.bound[name]

    def kept(self) -> list[Kept]:
        return [
            Kept(
                one["name"],
                self._patterns(one["config"]),
                bool(one.get("paused")),
                one["num_pending"],
                one["num_ack_pending"],
                None,
            )
            for one in self.look(lambda link: health.consumers(link, self.options.stream))
        ]

    def _patterns(self, config: dict[str, Any]) -> tuple[str, ...]:
        texts = config.get("filter_subjects") or [config.get("filter_subject") or ">"]
        return tuple(self.subjects.ours(text) for text in texts if not text.startswith(self.subjects.replays))

    def hold(self, name: str, on: bool) -> None:
        until = {"pause_until": "9999-01-01T00:00:00Z"} if on else {}
        place = f"CONSUMER.PAUSE.{self.options.stream}.{consumer_name(name)}"
        try:
            self.look(lambda link: link.api(place, until))
        except _Refused as error:
            raise TransportError(f"{self.url}: subscription {name}: {error}") from None

    def remove(self, name: str) -> None:
        bound = self.served.bound.get(name)
        if bound is not None and not bound.ended:
            raise TransportError(f"subscription {name} is in use; stop what serves it first")
        place = f"CONSUMER.DELETE.{self.options.stream}.{consumer_name(name)}"
        try:
            self.look(lambda link: link.api(place))
        except _Refused as error:
            raise TransportError(f"{self.url} has no subscription {name}: {error}") from None
        self.served.bound.pop(name, None)
        self._progress.pop(consumer_name(name), None)
        if self._running:
            self.directory.removed(consumer_name(name))

    # --- settling ----------------------------------------------------------------------------------------------------

    def settle(self, token: Any, verdict: Verdict, delay: float = 0.0, why: Any = "") -> None:
        claim: Claim = token
        self.link.post(partial(claim.puller.verdicts.settle, claim, verdict, delay, why))

    def flush(self) -> None:
        self.link.run(self.served.flush(), ANSWER)

    # --- schedules -----------------------------------------------------------------------------------------------------

    def slot(self, name: str) -> float | None:
        found = self.look(lambda link: self.slots.last(link, name))
        return None if found is None else found.time

    def skip_slot(self, slot: Slot) -> None:
        self.look(lambda link: self.slots.record(link, slot))

    def forget_schedule(self, name: str) -> bool:
        return self.look(lambda link: self.slots.forget(link, name))

    def schedules(self) -> list[Slot]:
        return self.look(self.slots.every)

    # --- looking -----------------------------------------------------------------------------------------------------

    def look(self, work: Callable[[Link], Coroutine[Any, Any, T]]) -> T:
        """Ask the server something; while the bus is stopped, on a connection for that alone."""
        if self._running:
            return self.link.run(work(self.link), 6 * ANSWER)

        async def nothing(client: Client) -> None:
            return None

        link = Link(self.options, self.warn, nothing)
        if not hasattr(self, "streams"):
            self.streams = self.streams_on(link)
        link.open()
        try:
            return link.run(work(link), 6 * ANSWER)
        finally:
            link.close()

    def streams_on(self, link: Link) -> Streams:
        return Streams(link, self.options, self.subjects)

    def backup(self, copy: str) -> int:
        raise UnsupportedCapability(
            f"messages are on the server, in the stream {self.options.stream}; its own `nats stream backup` copies it"
        )

    def health(self) -> Health:
        return self.served.health() if self._running else Health()

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

    def has_settled(self, name: str) -> bool:
        return name in self._counts

    def pending(self, name: str) -> int:
        bound = self.served.bound.get(name)
        if bound is None or not self._running:
            return 0
        if isinstance(bound, Puller) and bound.out:
            return len(bound.out)
        try:
            return self.link.run(self.served.pending(bound), ANSWER)
        except PipebusError:
            return 1  # nobody knows

    def figures(self, name: str) -> dict[str, Any] | None:
        bound = self.served.bound.get(name)
        if self._running and isinstance(bound, Puller) and self.link.client is not None:
            with suppress(PipebusError):  # without an answer: what was known last, if anything was
                self.link.run(self.served.figures(bound), 2 * ANSWER)
        found = self.served.last.get(name)
        return None if found is None else {**found, "dropped": dict(found["dropped"])}

"""
A durable subscription: a pull consumer on the server, which all programs that name it share, and what it has brought here.

What was brought is this process's until its lease ends. The lease of everything that is here and not settled, whether handled
or waiting, is renewed. How much is requested follows what is settled, so that a slow handler keeps nothing back that other
processes could handle.

The server counts each delivery, also one that only waited here when this process was killed, or that was given back. So its
count is not the number of attempts. A delivery that was lost counts once; and for each message that was delivered before there
is a note on the server (notes.py), written before the message is handed in again.

    consumer.py   whether the consumer is there     feed.py       handing messages to the mailbox
    requests.py   asking for messages               verdicts.py   telling what became of them
    orphans.py    waiting for what a killed process had
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from pipebus.errors import PipebusError, TransportError
from pipebus.transports.base import Binding
from pipebus.transports.nats.asking import _Refused
from pipebus.transports.nats.claim import Claim, place_of, reply_of
from pipebus.transports.nats.consumer import REPLACED, Consumer
from pipebus.transports.nats.feed import Feed
from pipebus.transports.nats.link import Frame, Link
from pipebus.transports.nats.orphans import Orphans
from pipebus.transports.nats.requests import Requests
from pipebus.transports.nats.sender import MOMENT
from pipebus.transports.nats.subjects import consumer_name, wider
from pipebus.transports.nats.verdicts import Verdicts
from pipebus.transports.window import Window

if TYPE_CHECKING:
    from pipebus.transports.nats.transport import NatsTransport

MEANWHILE: Final = 0.005
"""Seconds in which the server hands to its connections what it counts as delivered."""
LOOKS: Final = 20
"""Most checks whether the server has seen a request."""


class Puller:
    """
    On the loop.

    Args:
        binding: The subscription that it serves.
    """

    def __init__(self, transport: NatsTransport, binding: Binding) -> None:
        self.binding = binding
        self.name = consumer_name(binding.name)
        self.stream = transport.options.stream
        self.filters = transport.subjects.filters(binding.patterns)
        self._wider = wider(binding.patterns)
        self._transport = transport
        self._counts = transport.counts_of(binding.name)
        self._link = transport.link
        self.out: dict[Claim, None] = {}  # all that is here and not settled
        self._by_number: dict[int, Claim] = {}
        self._late: list[Claim] = []  # came after the end: they go back behind what came before
        self.returned: dict[int, float] = {}  # message number -> when it is due again
        self.moves = 0  # how many messages have arrived
        self.reading = 0  # messages that have come, and whose notes are being read
        self._dropped: list[Claim] = []  # had come when the connection was lost, and their notes were not read yet
        self.ended = False
        self.retiring = False  # its figures are read a last time
        self._over = False  # it has ended, and nothing comes any more
        self._subscription: Subscription | None = None
        self.window = Window(binding)
        self.requests = Requests(self._link, f"{self.stream}.{self.name}")
        self.consumer = Consumer(self, transport)
        self.verdicts = Verdicts(self, transport)
        self.orphans = Orphans(self, transport)
        self.feed = Feed(self, transport)

    # --- beginning and ending ----------------------------------------------------------------------------------------

    async def connected(self, client: Client) -> None:
        """There is a new client: make sure that the consumer is there, and ask it for messages."""
        await self.consumer.ensure(client)
        self._transport.directory.bound(self.name, self.filters, durable=True)
        await self.listen(client)
        missing = await self.orphans.missing(client)
        self.verdicts.say_again()
        for number, last in missing:
            # If there are as many as were lost, each of them was on its way, and was not taken.
            self._give_back(reply_of(self.stream, self.name, number, last), number, taken=len(missing) != self.orphans.count)
        dropped, self._dropped = self._dropped, []
        for claim in dropped:
            self._give_back(claim.reply, claim.number, taken=True)
        if not self.orphans.company.known:
            self.orphans.count += len(dropped)
        self.renew()
        self.pull()

    async def listen(self, client: Client) -> None:
        """For the answers to new requests."""
        self._subscription = await self.requests.listen(client, self._arrived)

    async def end(self) -> None:
        """Return when nothing comes any more: what was on its way has arrived, and goes back."""
        if self.consumer.lost and self._link.client is not None:
            with suppress(PipebusError):  # the next program that serves it would not know where to begin
                await self.consumer.make_again(self._link.client)
        self.ended = self.requests.closed = True
        self._late.extend(self.feed.line)  # behind what is in the mailbox, which came before
        self.feed.line.clear()
        subscription, self._subscription = self._subscription, None
        await self.orphans.company.leave()
        if subscription is not None and self._link.client is not None:
            with suppress(Exception):  # the connection is lost, and what was on its way comes again when its lease ends
                # A message for a request whose inbox has no listener goes behind the others that were given back. So wait
                # until the server has seen the request before the listener ends; asked again after that, the server drops it.
                moves = self.moves
                for _ in range(LOOKS):
                    info = await self._transport.streams.info(self.name)
                    if info["num_waiting"] or not self.requests.open or self.moves != moves:
                        break
                await asyncio.wait_for(subscription.drain(), 2.0)  # type: ignore[no-untyped-call]
                await self._transport.streams.info(self.name)
        self._over = self._over or subscription is not None

    @property
    def done(self) -> bool:
        """It has ended, and nothing is left of it here."""
        return self._over and not self.out and not self._late

    def give_back(self) -> None:
        """The bus has stopped: release everything that is still here."""
        for claim in sorted(self.out, key=lambda one: one.number):
            if not claim.done:
                self.verdicts.settle(claim, "release")

    def give_back_late(self) -> None:
        """Release what came after the end, if nothing else is here that must go back before it."""
        if self._late and self._over and all(claim.done or claim in self._late for claim in self.out):
            late, self._late = self._late, []
            for claim in late:
                if not claim.done:
                    self.verdicts.settle(claim, "release")

    # --- bringing in -------------------------------------------------------------------------------------------------

    def pull(self) -> None:
        """Request as many messages as there should be here."""
        requests = self.requests
        if self.feed.line or self.ended or self.consumer.lost or self.orphans.count or not requests.inbox:
            return
        count = self.window.wants(len(self.out) + requests.credit)
        if count:
            requests.make(count)

    async def _arrived(self, inbox: str, message: Msg) -> None:
        if not message.reply:
            self._status(message)
            return
        try:
            delivered, number, *_ = place_of(message.reply)
        except (IndexError, ValueError):
            return  # somebody else has written to this inbox
        if inbox != self.requests.inbox:
            self._give_back(message.reply, number, taken=delivered > 1)
            return
        self.requests.answered()
        transport, orphans = self._transport, self.orphans
        claim = Claim(self, message, transport.subjects.ours, transport.subjects.replays, transport.codec)
        if claim.count <= orphans.heard:  # a consumer counts its deliveries, so this is another one, or it has forgotten some
            if not await self.consumer.is_the_same():
                self._give_back(claim.reply, number, taken=delivered > 1)
                self.consumer.lose(REPLACED)
                return
            self.consumer.forgot()
            claim.era = self.consumer.era
        orphans.heard = claim.count
        orphans.highest = max(orphans.highest, claim.number)
        before = self._by_number.get(claim.number)
        if self.consumer.era and self.consumer.knows(claim, before):
            self.pull()
            return
        if before is not None:  # its lease has ended, and the message is this delivery's now
            self.forget(before)
        self.moves += 1
        self.out[claim] = None
        self._counts.came += 1
        self._by_number[claim.number] = claim
        self.returned.pop(claim.number, None)
        if claim.again and not await self._read_note(claim):
            return
        if self.ended:
            self._late.append(claim)
        elif self._wider and not claim.replayed and not any(one.matches(claim.subject) for one in self.binding.patterns):
            self.forget(claim)
            self.verdicts.tell(claim, b"+ACK")
        else:
            if orphans.count:
                orphans.arrived(claim)
            else:
                self.feed.line.append(claim)
            self.feed.offer()

    async def _read_note(self, claim: Claim) -> bool:
        """How often the message was taken before. False: the connection is lost, so it goes back on the next one."""
        found = None
        self.reading += 1
        try:
            without = (0, False) if claim.number <= self.consumer.resumed else (1, True)
            found = await self._transport.notes.read(self.name, claim.number, without)
        finally:  # this may be cancelled
            self.reading -= 1
            if found is None:
                self._dropped.append(claim)
                self.forget(claim)
        if found is None:
            return False
        claim.takings, claim.suspect = found
        return True

    def _status(self, message: Msg) -> None:
        """The server has sent a status instead of a message."""
        headers = message.headers or {}
        status, text = headers.get("Status", ""), headers.get("Description", "").partition("\n")[0].strip()
        if not self.requests.ended(message.subject, status, headers.get("Nats-Pending-Messages")):
            return
        if status == "503":
            self.consumer.lose("nobody answers: it is gone, or its stream")
        elif "deleted" in text.lower():
            self.consumer.lose(text)
        else:
            self.pull()

    def _give_back(self, reply: str, number: int, taken: bool) -> None:
        """
        Give a message back that was not handed in.

        Args:
            taken: It may have been taken before; otherwise a note first says that it was not.
        """
        back = (reply, b"-NAK", "", None)
        if taken:
            self._link.say(back)
        else:
            self._transport.notes.send(self.name, number, 0, partial(_then, self._link, back))

    # --- when the consumer or its stream was lost ----------------------------------------------------------------------

    @property
    def highest(self) -> int:
        """The greatest message number that this process knows of."""
        return max(self.orphans.highest, *self._by_number, 0)

    def begin_anew(self, delivered: dict[str, Any]) -> None:
        """
        Another consumer has taken the place of the lost one.

        Args:
            delivered: What the server reports of its last delivery.
        """
        self.orphans.heard, self.orphans.highest = delivered["consumer_seq"], delivered["stream_seq"]
        self.orphans.count, self._dropped = 0, []
        self.verdicts.unconfirmed.clear()  # the consumer that had them is gone; what was settled is acknowledged when it comes

    def cut_off(self) -> None:
        """What is here belongs to a stream that is gone."""
        for claim in self.out:
            claim.reply = ""
        self._by_number.clear()
        self.returned = {}
        self.orphans.highest = 0

    # --- at intervals ------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        self.requests.look(now)
        self.orphans.look(now)
        for number, due in list(self.returned.items()):
            if due + MOMENT < now:
                del self.returned[number]
        self.give_back_late()
        self.feed.offer()

    def renew(self) -> None:
        """Renew the lease of all that is here."""
        for claim in self.out:
            self._link.say(partial(_renewal, self.out, claim))

    def forget(self, claim: Claim, ended: bool = False) -> None:
        """
        It is no longer here.

        Args:
            ended: It is acknowledged, dropped or dead; otherwise it goes back.
        """
        claim.done = True
        if self.out.pop(claim, self) is self:
            return
        if not ended:
            self._counts.came -= 1
        if self._by_number.get(claim.number) is claim:
            del self._by_number[claim.number]
        self.feed.settled(claim)
        self.window.settled += 1
        if not self.out:
            self._transport.changed()
        self.feed.offer()

    @property
    def activity(self) -> int:
        """Changes when a message comes or is settled."""
        return self.moves + self.verdicts.told

    # --- for figures and drains --------------------------------------------------------------------------------------

    async def pending(self) -> int:
        """How many messages are here, or would come here at once."""
        if self.out or self._transport.open:
            return len(self.out) or 1
        now, moves = time.monotonic(), self.moves
        if any(due <= now for due in self.returned.values()):
            return 1
        try:
            info = await self._transport.streams.info(self.name)
        except _Refused as error:
            raise TransportError(f"consumer {self.name}: {error}") from None
        if info["num_pending"] or self.out:
            return int(info["num_pending"]) or len(self.out)
        if info["delivered"]["stream_seq"] < self._transport.sender.newest(self.consumer.reached_by):
            return 1  # the server has it, and has not shown it to its consumers yet
        client = self._link.client
        if info["num_ack_pending"] > len(self.returned) and client is not None:
            # Another process has it; or it is on its way here, and then it comes before the answer to a ping.
            await asyncio.sleep(MEANWHILE)
            await client.flush()
        if self.moves != moves:
            return 1  # what moved between these checks was seen in neither place
        return len(self.out) + (self._subscription.pending_msgs if self._subscription is not None else 0)


def _renewal(out: Collection[Claim], claim: Claim) -> Frame | None:
    return (claim.reply, b"+WPI", "", None) if claim in out and claim.reply else None


def _then(link: Link, frame: Frame, _: object) -> None:
    link.say(frame)

"""
Waiting for the deliveries that a killed process had, to keep the order of first deliveries.

These come again when their lease ends; before that, the server goes on with newer messages. So a process that begins while no
other one serves the consumer, and while something is out, hands in nothing before that has come. The server gives out what has
come back before what is new, so one message is requested from time to time, to see.

What was on its way when a connection was lost is out, too. A process that has been alone all the time knows that this was its
own, and gives it back. Where other processes share the work no order is promised, and nothing is done.

The server does not tell which processes serve a consumer. So they tell each other, over plain NATS (`Company`).
"""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from pipebus.errors import PipebusError
from pipebus.transports.nats.claim import Claim
from pipebus.transports.nats.publisher import random_id
from pipebus.transports.nats.sender import MOMENT

if TYPE_CHECKING:
    from pipebus.transports.nats.puller import Puller
    from pipebus.transports.nats.transport import NatsTransport

FAR: Final = 5_000
"""Most numbers of messages to give back, of which some were on their way here."""
MANY: Final = 50
"""Most messages that are requested at once of those that a killed process had."""
AGAIN: Final = 0.5
"""Seconds between two looks for them."""


class Orphans:
    """On the loop."""

    def __init__(self, puller: Puller, transport: NatsTransport) -> None:
        self._puller, self._transport = puller, transport
        self.company = Company(transport.subjects.here + puller.name)
        self._begun = False
        self.count = 0  # how many have not come yet
        self._outermost = 0  # the last message number among them
        self._patience = self._probe = 0.0  # until when to wait for them, and when to look for them next
        self.heard = 0  # the latest delivery that has arrived, by the consumer's count
        self.highest = 0  # the greatest message number that has arrived, or had been given out before this began

    async def missing(self, client: Client) -> list[tuple[int, int]]:
        """
        Count what is out and nobody has.

        Returns:
            Message numbers to give back, each with that of the last delivery: what was on its way to this process when the
            connection was lost, and nobody has seen before. Some may be others', which does no harm. Empty if these would be
            too many; then they come when their lease ends.
        """
        first, self._begun = not self._begun, True
        await self.company.connected(client)
        if not first and self.company.known:
            return []
        self.count = 0
        puller = self._puller
        info = await self._transport.streams.info(puller.name, client)
        out = info["num_ack_pending"] - len(puller.out)
        high, last = info["delivered"]["stream_seq"], info["delivered"]["consumer_seq"]
        self._patience, self._outermost = time.monotonic() + self._transport.options.lease + MOMENT, high
        if first:
            self.heard, self.highest = last, high
            if out > 0 and not await self.company.at_work():
                low = info["ack_floor"]["stream_seq"] + 1
                out -= await self._transport.notes.given_back(client, puller.name, low, high, out)
                self.count = max(0, out)
            return []
        # Not `out`: what is here may be settled at the server already, without this program knowing it yet.
        lost = min(info["num_ack_pending"], last - self.heard, high - self.highest)
        if lost <= 0 or await self.company.at_work():
            return []
        self.count = lost
        if high - self.highest > FAR:
            return []
        return [(number, last) for number in range(self.highest + 1, high + 1)]

    def arrived(self, claim: Claim) -> None:
        """One message has come while orphans are waited for. It goes to its place among those that wait here."""
        requests = self._puller.requests
        if claim.suspect or (claim.again and claim.number <= self._outermost and not claim.takings):
            self.count -= 1
            if self.count and not requests.credit:
                requests.make(min(self.count, MANY))
        else:
            self._probe = time.monotonic() + AGAIN
        insort(self._puller.feed.line, claim, key=lambda one: one.number)

    def look(self, now: float) -> None:
        requests = self._puller.requests
        if not self.count:
            return
        if now > self._patience or self.company.known:  # two that begin together would wait for each other's
            self._all_there()
        elif now > self._probe and not requests.credit and requests.inbox and not self._puller.consumer.lost:
            self._probe = now + AGAIN
            requests.make(1)
            self._transport.link.start(self._check())

    async def _check(self) -> None:
        """Another process that began at the same time may have got them, or has settled them."""
        with suppress(PipebusError):
            puller, info = self._puller, await self._transport.streams.info(self._puller.name)
            here = len(puller.out) - puller.reading
            if info["num_ack_pending"] <= here or info["ack_floor"]["stream_seq"] >= self._outermost:
                self._all_there()

    def _all_there(self) -> None:
        self.count = 0
        self._puller.feed.offer()


PRESENT: Final = 0.5
"""Seconds in which every process that serves the consumer answers."""


class Company:
    """
    A process that begins to serve the consumer, or is connected again, announces that, and the others answer.

    Args:
        subject: On which they tell each other.
    """

    def __init__(self, subject: str) -> None:
        self.known = False  # another process was ever heard of
        self._subject = subject
        self._me = random_id().encode()
        self._answer = asyncio.Event()
        self._client: Client | None = None
        self._subscriptions: list[Subscription] = []

    async def connected(self, client: Client) -> None:
        """Listen first, and then ask: two processes that do so at the same time hear each other."""
        self._client = client
        self._answer.clear()
        inbox = client.new_inbox()
        self._subscriptions = [
            await client.subscribe(inbox, cb=self._answered),
            await client.subscribe(self._subject, cb=self._asked),
        ]
        await client.publish(self._subject, self._me, inbox)

    async def _asked(self, message: Msg) -> None:
        if message.data == self._me:
            return
        self.known = True
        if message.reply and self._client is not None:
            await self._client.publish(message.reply)

    async def _answered(self, message: Msg) -> None:
        self.known = True
        self._answer.set()

    async def at_work(self) -> bool:
        """Whether there is another process; its answer may take a moment."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._answer.wait(), PRESENT)
        return self.known

    async def leave(self) -> None:
        """Stop answering."""
        for one in self._subscriptions:
            with suppress(Exception):  # the connection is lost
                await one.unsubscribe()
        self._client = None

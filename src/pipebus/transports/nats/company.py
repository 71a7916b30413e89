"""Who else is at work at a consumer: the server does not tell, so they tell each other, over plain NATS."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from pipebus.transports.nats.publisher import random_id

PRESENT: Final = 0.5
"""Seconds in which whoever is at work says so."""


class Company:
    """
    Each who begins, or comes back, says so to all who listen, and those answer.

    Args:
        subject: Of the consumer.
    """

    def __init__(self, subject: str) -> None:
        self.known = False  # somebody else has been heard of, ever
        self._subject = subject
        self._me = random_id().encode()
        self._answer = asyncio.Event()
        self._client: Client | None = None
        self._subscriptions: list[Subscription] = []

    async def connected(self, client: Client) -> None:
        """Listen, and then ask: of two who do so at the same time, each hears the other."""
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
        """Whether there is anybody; it may take a moment to hear from him."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._answer.wait(), PRESENT)
        return self.known

    async def leave(self) -> None:
        """Answer nobody any more."""
        for one in self._subscriptions:
            with suppress(Exception):  # the connection is lost
                await one.unsubscribe()
        self._client = None

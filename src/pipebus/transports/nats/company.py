"""Who else is at work at a consumer: the server does not tell, so they tell each other, over plain NATS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from pipebus.transports.nats.publisher import random_id

PRESENT: Final = 0.5
"""Seconds in which whoever is at work says so."""
WAITS: Final = b"waits"
"""The answer of one who is there, and hands in nothing new before what was lost has come."""


class Company:
    """
    Each who begins, or comes back, says so to all who listen, and those answer.

    Args:
        subject: Of the consumer.
        waits: Whether we wait ourselves.
    """

    def __init__(self, subject: str, waits: Callable[[], bool]) -> None:
        self.known = False  # somebody else has been heard of, ever
        self._subject, self._waits = subject, waits
        self._me = random_id().encode()
        self._working = asyncio.Event()
        self._client: Client | None = None
        self._subscriptions: list[Subscription] = []

    async def connected(self, client: Client) -> None:
        """Listen, and then ask: of two who do so at the same time, each hears the other."""
        self._client = client
        self._working.clear()
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
            await self._client.publish(message.reply, WAITS if self._waits() else b"")

    async def _answered(self, message: Msg) -> None:
        self.known = True
        if message.data != WAITS:
            self._working.set()

    async def at_work(self) -> bool:
        """Whether somebody has said that he is, since we have come; it may take a moment."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._working.wait(), PRESENT)
        return self._working.is_set()

    async def leave(self) -> None:
        """Answer nobody any more."""
        for one in self._subscriptions:
            with suppress(Exception):  # the connection is lost
                await one.unsubscribe()
        self._client = None

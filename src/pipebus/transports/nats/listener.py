"""A subscription that is not durable, over plain NATS. Messages are lost if nobody listens, or if there is no room for them."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from pipebus.errors import CodecError
from pipebus.message.message import Message
from pipebus.transports.base import Binding
from pipebus.transports.nats import wire
from pipebus.transports.nats.publisher import random_id
from pipebus.transports.nats.subjects import consumer_name, wider
from pipebus.waiting.elsewhere import on_executor

if TYPE_CHECKING:
    from pipebus.transports.nats.transport import NatsTransport

WAITING: Final = 10_000
"""Messages that may wait for room; the next one is dropped."""


class Listener:
    """
    Args:
        binding: The subscription that it serves; if it is durable, all listeners of its name share the messages.
    """

    def __init__(self, transport: NatsTransport, binding: Binding) -> None:
        self.binding = binding
        self.filters = transport.subjects.filters(binding.patterns)
        self._wider = wider(binding.patterns)
        self._group = consumer_name(binding.name) if binding.durable else ""
        self._transport = transport
        self._subscriptions: list[Subscription] = []
        self._full: deque[Message[Any] | bytes] = deque()
        self.ended = False

    async def connected(self, client: Client) -> None:
        self._subscriptions = [
            await client.subscribe(one, queue=self._group, cb=self._arrived, pending_bytes_limit=0) for one in self.filters
        ]
        await client.flush()  # the server knows the subscriptions from here on
        self._transport.directory.bound(self.binding.name, self.filters, durable=False)

    async def end(self) -> None:
        self.ended = True
        self._transport.directory.unbound(self.binding.name)
        self._full.clear()
        for subscription in self._subscriptions:
            try:
                await subscription.unsubscribe()
            except Exception:  # the connection is lost, and the subscription with it
                return

    async def _arrived(self, message: Msg) -> None:
        if self.ended:
            return
        subject = self._transport.subjects.ours(message.subject)
        if self._wider and not any(one.matches(subject) for one in self.binding.patterns):
            return
        headers = message.headers or {}
        found = wire.decode(subject, message.data, headers, random_id(), time.time(), message.reply)
        if isinstance(found, bytes):
            try:
                found = self._transport.codec.decode(found)
            except CodecError:
                # It becomes a dead letter. On another thread, since observers of that may publish, and wait for it.
                try:
                    await on_executor(lambda found: self.binding.deliver(found, None, 0), found)
                except RuntimeError:  # no thread can be started: the next `offer` tries again
                    self._full.append(found)
                return
        if self._full or not self.binding.deliver(found, None, 0):
            if len(self._full) < WAITING:
                self._full.append(found)
            else:
                self._transport.counts_of(self.binding.name).drop("overflow")
                self._transport.warn("subscription.overflowed", subscription=self.binding.name)

    def offer(self) -> None:
        """Offer again what found no room."""
        while self._full and self.binding.deliver(self._full[0], None, 0):
            self._full.popleft()

    async def pending(self) -> int:
        """How many messages wait here, or were sent by this bus and are on their way."""
        client = self._transport.link.client
        if client is not None:
            await client.flush()
        return len(self._full) + sum(one.pending_msgs for one in self._subscriptions)

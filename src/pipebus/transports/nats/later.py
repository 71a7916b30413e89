"""
Delayed messages: the server keeps them as schedules of their own, and stores each on its subject when its time has come.

That needs a server of version 2.12, and a stream that allows it. A stream keeps that setting for good, so the first delayed
message asks for it, and no start does. What the server stores by itself reaches subscriptions with a name, but none without
one, because those listen to what is published.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Final

from pipebus.errors import PipebusError, TransportError, UnsupportedCapability
from pipebus.transports.nats.asking import _Refused
from pipebus.transports.nats.publisher import Outgoing, Publisher, random_id
from pipebus.transports.nats.streams import Streams
from pipebus.transports.nats.subjects import Subjects

DELAYING: Final = (2, 12, 0)
"""The first version of the server that delays messages."""
AGAIN: Final = 0.1
"""Seconds between two attempts to change the stream while there is no connection, or no leader."""


class Later:
    """
    Args:
        subjects: Where schedules are kept, each on a subject of its own: a second one on the same would replace it.
    """

    def __init__(self, publisher: Publisher, streams: Streams, subjects: Subjects) -> None:
        self._publisher, self._streams, self._subjects = publisher, streams, subjects

    def delay(self, one: Outgoing, delay: float) -> None:
        """
        Make a message a schedule.

        Raises:
            UnsupportedCapability: the stream would delete it before its time.
        """
        kept = self._streams.age
        if kept and delay >= kept:
            raise UnsupportedCapability(
                f"message {one.id} cannot be delayed for {delay:g} s: stream {self._streams.name} deletes messages after "
                f"{kept:g} s; say a longer retention= in the URL"
            )
        at = datetime.fromtimestamp(time.time() + delay, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        one.headers |= {"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": one.subject}
        one.subject = f"{self._subjects.later}{random_id()}"

    def send(self, one: Outgoing) -> None:
        """`Publisher.send`, once the stream allows it. On the loop."""
        if self._streams.delays:
            self._publisher.send(one)
        else:
            self._publisher.link.start(self._allow(one))

    async def _allow(self, one: Outgoing) -> None:
        try:
            while not self._streams.delays:
                try:
                    await self._streams.allow_delays()
                except PipebusError as error:
                    if isinstance(error, _Refused) or time.monotonic() > one.until:
                        raise TransportError(f"message {one.id} is not delayed, and not stored: {error}") from None
                    await asyncio.sleep(AGAIN)
        except BaseException as error:  # of any kind: somebody waits for this
            one.done(error if isinstance(error, PipebusError) else TransportError("the connection is closed"))
            if not isinstance(error, PipebusError):
                raise
            return
        self._publisher.send(one)

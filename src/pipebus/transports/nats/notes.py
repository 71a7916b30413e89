"""
Notes of how often a message was taken, in the stream of dead letters: one for each message and consumer; a new one replaces
the old. A "?" after the number means that the last attempt was begun, and nobody has reported yet what became of it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from nats.aio.client import Client

from pipebus.errors import PipebusError
from pipebus.transports.nats.asking import ask
from pipebus.transports.nats.publisher import Outgoing

if TYPE_CHECKING:
    from pipebus.transports.nats.transport import NatsTransport

AGAIN: Final = 0.2
"""Seconds between two attempts to read a note."""
SOON: Final = 2.0
"""Seconds that a start spends on reading notes."""
AT_ONCE: Final = 100
"""Notes that are read at once."""


class Notes:
    """The notes of all consumers."""

    def __init__(self, transport: NatsTransport) -> None:
        self._transport = transport

    def _place(self, consumer: str, number: int) -> str:
        return f"{self._transport.subjects.notes}{consumer}.{number}"

    async def read(self, consumer: str, number: int, without: tuple[int, bool] = (1, True)) -> tuple[int, bool] | None:
        """
        How often a message was taken that was delivered before, and whether the last attempt was lost. None: the connection is
        lost, so this is not known.

        Args:
            without: What to return if there is no note.
        """
        place = f"$JS.API.DIRECT.GET.{self._transport.streams.dead}.{self._place(consumer, number)}"
        until = time.monotonic() + self._transport.options.publish_timeout
        while True:
            try:
                answer = await self._transport.link.ask(place)
            except PipebusError:  # nobody leads the stream now, or there is none
                if self._transport.link.client is None:
                    return None
                if time.monotonic() > until:
                    return without
                await asyncio.sleep(AGAIN)
                continue
            found = answer.data.removesuffix(b"?")
            if "Nats-Sequence" in (answer.headers or {}) and found.isdigit():
                return int(found), answer.data.endswith(b"?")
            return without

    async def given_back(self, client: Client, consumer: str, first: int, last: int, most: int) -> int:
        """How many of these messages were given back by the process that had them: their notes do not say "begun"."""
        start = self._place(consumer, 0)[:-1]
        found = 0

        async def look(place: str) -> None:
            nonlocal found
            answer = await ask(client, f"$JS.API.DIRECT.GET.{self._transport.streams.dead}.{place}")
            found += "Nats-Sequence" in (answer.headers or {}) and not answer.data.endswith(b"?")

        with suppress(PipebusError, TimeoutError):  # then return what was found so far
            async with asyncio.timeout(SOON):
                body = {"subjects_filter": f"{start}*"}
                info = await self._transport.link.api(f"STREAM.INFO.{self._transport.streams.dead}", body, client)
                places = [place for place in info["state"].get("subjects") or {} if _within(place[len(start) :], first, last)]
                for number in range(0, len(places), AT_ONCE):
                    if found >= most:
                        break
                    await asyncio.gather(*map(look, places[number : number + AT_ONCE]))
        return found

    def send(self, consumer: str, number: int, takings: int, done: Callable[[Any], object], begun: bool = False) -> None:
        """
        Write a note. On the loop.

        Args:
            done: Called when the server has confirmed it, or with the error.
        """
        place, data = self._place(consumer, number), f"{takings}{'?' if begun else ''}".encode()
        until = time.monotonic() + self._transport.options.publish_timeout
        self._transport.publisher.send(Outgoing(place, place, data, {}, until, done))

    async def write(self, consumer: str, number: int, takings: int, begun: bool) -> None:
        """
        `send`, and return when the server has confirmed it.

        Raises:
            TransportError, PublishUnknown.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: Any) -> None:
            if not future.done():
                future.set_result(result)

        self.send(consumer, number, takings, done, begun)
        result = await future
        if isinstance(result, BaseException):
            raise result

    def say(self, consumer: str, number: int, takings: int) -> None:
        """`send`, without a confirmation: if it is lost, the previous note still has the right number. On the loop."""
        self._transport.link.say((self._place(consumer, number), str(takings).encode(), "", None))

    def forget(self, consumer: str, number: int) -> None:
        """Delete a note. On the loop."""
        body = json.dumps({"filter": self._place(consumer, number)}).encode()
        self._transport.link.say((f"$JS.API.STREAM.PURGE.{self._transport.streams.dead}", body, "", None))


def _within(number: str, first: int, last: int) -> bool:
    return number.isdigit() and first <= int(number) <= last

"""
Publishing: each message goes out at once, and the server's word for it comes when it comes; many are on their way together.

A message carries its id, by which the server recognises it a second time. So what was on its way when the connection was lost
is sent again on the next one; whoever waits is told when the server has it, or after `publish_timeout` that nobody knows.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from pipebus.errors import PublishUnknown, TransportError
from pipebus.transports.nats.link import Frame, Link, why

EVERY: Final = 0.1
"""Seconds between two looks at who waits for too long."""


class Outgoing:
    """
    One message on its way.

    Args:
        subject: The server's.
        done: Called on the loop with (number in the stream, known before), or the error.
    """

    __slots__ = ("again", "data", "done", "headers", "id", "sent", "subject", "until")

    def __init__(
        self, id: str, subject: str, data: bytes, headers: dict[str, str], until: float,
        done: Callable[[tuple[int, bool] | BaseException], object],
    ) -> None:  # fmt: skip
        self.id, self.subject, self.data, self.headers, self.until, self.done = id, subject, data, headers, until, done
        self.sent = False
        self.again = False  # sent a second time: that the server has it already says nothing


class Publisher:
    """
    Args:
        link: What carries it.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.last = 0  # the greatest number in the stream that the server has told
        self._numbers = 0
        self._waiting: dict[str, Outgoing] = {}  # by the last token of the inbox, oldest first
        self._inbox = ""
        self._cut = 0

    async def connected(self, client: Client) -> None:
        """A new client: an inbox there, and what was on its way once more."""
        self._inbox = f"{client.new_inbox()}."
        self._cut = len(self._inbox)
        await client.subscribe(f"{self._inbox}*", cb=self._answered, pending_bytes_limit=0)
        again = [(token, one) for token, one in self._waiting.items() if one.sent]
        for _, one in again:
            one.sent, one.again = False, True
        self.link.say_first([self._frame(token, one) for token, one in again])

    def send(self, one: Outgoing) -> None:
        """On the loop."""
        self._numbers += 1
        token = str(self._numbers)
        self._waiting[token] = one
        self.link.say(self._frame(token, one))

    def _frame(self, token: str, one: Outgoing) -> Callable[[], Frame | None]:
        def frame() -> Frame | None:
            if token not in self._waiting:  # given up
                return None
            one.sent = True
            return one.subject, one.data, self._inbox + token, one.headers

        return frame

    async def _answered(self, message: Msg) -> None:
        one = self._waiting.pop(message.subject[self._cut :], None)
        if one is not None:
            one.done(self._judged(one, message))

    def _judged(self, one: Outgoing, message: Msg) -> tuple[int, bool] | BaseException:
        if (message.headers or {}).get("Status") == "503":
            return TransportError(
                f'no stream keeps "{one.subject}", or JetStream is not available; message {one.id} is not kept'
            )
        try:
            found: dict[str, Any] = json.loads(message.data)
            if "error" in found:
                text = found["error"].get("description", "?")
                return TransportError(f"the server refused message {one.id} on {one.subject}: {text}")
            number = int(found["seq"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return PublishUnknown(
                f"the answer for message {one.id} makes no sense ({error}); publish it again under this id", one.id
            )
        self.last = max(self.last, number)
        return number, bool(found.get("duplicate")) and not one.again

    def look(self) -> None:
        """Tell those who have waited for too long. On the loop, now and then."""
        now = time.monotonic()
        late = []
        for token, one in self._waiting.items():
            if one.until > now:
                break
            late.append(token)
        for token in late:
            one = self._waiting.pop(token)
            one.done(self._late(one))

    def end(self) -> None:
        """The connection will not come back."""
        while self._waiting:
            _, one = self._waiting.popitem()
            one.done(self._late(one))

    def _late(self, one: Outgoing) -> BaseException:
        if one.sent or one.again:
            return unknown(one.id, one.subject)
        return TransportError(f"not connected to {self.link.options}: {why(self.link.error)}; message {one.id} was not sent")

    @property
    def idle(self) -> bool:
        return not self._waiting


def unknown(id: str, subject: str) -> PublishUnknown:
    return PublishUnknown(
        f"message {id} on {subject} was sent, and the server has not said that it has it; publish it again under this id", id
    )


def random_id() -> str:
    return os.urandom(8).hex()

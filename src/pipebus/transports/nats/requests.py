"""Asking the server for the messages of a consumer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from pipebus.transports.nats.link import Link
from pipebus.transports.nats.streams import NANO

EXPIRES: Final = 20.0
"""Seconds after which the server forgets a request; then it is made again."""


class Requests:
    """
    The open requests of one consumer, and how many messages they may still bring. On the loop.

    Args:
        place: Stream and consumer, as in "ORDERS.billing".
    """

    def __init__(self, link: Link, place: str) -> None:
        self._link = link
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{place}"
        self._open: dict[str, float] = {}  # inbox of each request, and when it is over
        self._made = 0
        self.inbox = ""  # how the inboxes of all present requests begin; "": none may be made
        self.credit = 0  # messages that may still come
        self.closed = False  # the listener has ended: send no request that is not written yet

    async def listen(self, client: Client, arrived: Callable[[str, Msg], Awaitable[None]]) -> Subscription:
        """Use a new inbox from now on: answers to older requests may come from another consumer."""
        self.forget()
        self.inbox = inbox = f"{client.new_inbox()}."
        return await client.subscribe(f"{inbox}*", cb=partial(arrived, inbox), pending_bytes_limit=0)

    def make(self, count: int) -> None:
        """Request so many messages."""
        self._made += 1
        inbox = f"{self.inbox}{self._made}"
        self._open[inbox] = time.monotonic() + EXPIRES + 5.0
        self.credit += count
        body = b'{"batch":%d,"expires":%d}' % (count, int(EXPIRES * NANO))
        frame = (self._subject, body, inbox, None)
        self._link.say(lambda: None if self.closed or inbox not in self._open else frame)

    def answered(self) -> None:
        """A message has come."""
        self.credit = max(0, self.credit - 1)
        if not self.credit:
            self._open.clear()

    def ended(self, inbox: str, status: str, left: str | None) -> bool:
        """
        The server has sent a status instead of a message. True: it has ended an open request.

        Args:
            left: How many messages of the request will not come.
        """
        if self._open.pop(inbox, None) is None or status == "100":
            return False
        self.credit = max(0, self.credit - int(left)) if left is not None and left.isdigit() and self._open else 0
        return True

    def look(self, now: float) -> None:
        """Forget requests that nobody has answered in time."""
        if self._open and min(self._open.values()) < now:
            self._open = {inbox: until for inbox, until in self._open.items() if until >= now}
            if not self._open:
                self.credit = 0

    def forget(self) -> None:
        """Nobody will answer any more, so make no request until `listen`."""
        self.inbox, self._open, self.credit = "", {}, 0

    @property
    def open(self) -> bool:
        return bool(self._open)

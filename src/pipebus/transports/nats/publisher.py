"""
Publishing on the link's loop: each message goes out at once, and many are on their way while the server confirms them.

A message carries its id, by which the server recognises a second copy. So what was on its way when the connection was lost is
sent again on the next one. So is, on this one, what stays without an answer: in a cluster, the server that led the stream may
have been lost with it. Its caller learns that the server has it; or, after `publish_timeout`, that this is unknown.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from pipebus.errors import MessageTooLarge, PublishUnknown, TransportError
from pipebus.transports.nats import wire
from pipebus.transports.nats.asking import LEADERLESS, why
from pipebus.transports.nats.link import Frame, Link

WINDOW: Final = 2000
"""
Most messages that may be on their way. A server refuses more than 10,000 that it has not stored yet, from all publishers. Then
only half as many may be on their way, and one more for each that it takes.
"""
BUSY: Final = 429
"""The code of such a refusal."""
UNAVAILABLE: Final = 503
"""The code where no server leads the stream now."""
LEADING_TEXTS: Final = ("not leader", "store is closed")
"""What errors say, whatever their code, if the leader changes while a publish is under way."""
STAGED: Final = 10158
"""JetStream's error code for an id that is being stored, and may fail to be."""
AGAIN: Final = 0.01
"""Seconds until what the server was too busy for is sent again, at the latest."""
ELECTION: Final = 0.1
"""The same while no server of a cluster leads the stream, which lasts some seconds after the leader was lost."""
SILENCE: Final = 2.0
"""Seconds without an answer until a message is sent again. It doubles each time: a slow server is not buried in copies."""


class Outgoing:
    """
    One message on its way.

    Args:
        subject: The server's.
        until: When to give up, on the monotonic clock.
        done: Called on the loop with (number in the stream, known before), or the error.
    """

    __slots__ = (
        "again", "data", "done", "doubtful", "due", "first", "headers", "id", "refusal", "sent", "silence", "subject", "until",
    )  # fmt: skip

    def __init__(
        self, id: str, subject: str, data: bytes, headers: dict[str, str], until: float,
        done: Callable[[tuple[int, bool] | BaseException], object] = lambda result: None,
    ) -> None:  # fmt: skip
        self.id, self.subject, self.data, self.headers, self.until, self.done = id, subject, data, headers, until, done
        self.sent = False
        self.first = self.due = 0.0  # when it was sent first, and when it is sent again if nobody answers
        self.silence = SILENCE
        self.refusal = "too much waits to be stored; publish fewer at once"  # the reason, if it is refused until it is too late
        self.again = False  # sent a second time, so it proves nothing that the server has it already
        self.doubtful = False  # it may be kept


class Publisher:
    """
    Args:
        keeps: Whether there is, or should be, a stream for one of the server's subjects.
    """

    def __init__(self, link: Link, keeps: Callable[[str], bool]) -> None:
        self.link, self.keeps = link, keeps
        self._numbers = 0
        self._waiting: dict[str, Outgoing] = {}  # by the last token of their inbox, oldest first
        self._flying: set[str] = set()  # those of them that the link has
        self._held: list[int] = []  # the others, as a heap: they wait until fewer are on their way
        self._window = WINDOW
        self._waits = False  # a timer runs until what was refused is sent again
        self._looked = 0.0  # when messages without an answer were looked for last
        self._inbox = ""
        self._cut = 0
        self.most = 2**20  # bytes of a message that the server takes, with its headers

    async def connected(self, client: Client) -> None:
        """There is a new client: listen on a new inbox, and send again what was on its way."""
        self.most = client.max_payload
        self._inbox = f"{client.new_inbox()}."
        self._cut = len(self._inbox)
        await client.subscribe(f"{self._inbox}*", cb=self._answered, pending_bytes_limit=0)
        again = [(token, one) for token, one in self._waiting.items() if one.sent and token in self._flying]
        for _, one in again:
            one.sent, one.again, one.doubtful = False, True, True
        self.link.say_first([self._frame(token, one) for token, one in again])

    def _send_again(self, now: float) -> None:
        """
        Send copies of what nobody has answered, the oldest first, while the server recognises them. What has no id (a note) is
        sent once: a later one may have taken its place.
        """
        window = self.link.options.window
        for token in sorted(self._flying, key=int):
            one = self._waiting[token]
            if one.sent and one.due <= now < one.first + window and wire.ID in one.headers:
                one.again = one.doubtful = True
                one.silence *= 2
                one.due = now + one.silence
                self.link.say(self._frame(token, one))

    def send(self, one: Outgoing) -> None:
        """On the loop."""
        size = wire.size_of(one.data, one.headers)
        if size > self.most:  # the server would close this connection, and each one on which it is sent again
            one.done(MessageTooLarge(f"message {one.id} on {one.subject} has {size:,} bytes; the server takes {self.most:,}"))
            return
        self._numbers += 1
        token = str(self._numbers)
        self._waiting[token] = one
        heappush(self._held, self._numbers)
        self._go()

    def _go(self) -> None:
        """Send as many as may be on their way, the oldest first."""
        while self._held and len(self._flying) < self._window:
            token = str(heappop(self._held))
            one = self._waiting.get(token)
            if one is not None:
                self._flying.add(token)
                self.link.say(self._frame(token, one))

    def _landed(self, token: str) -> Outgoing | None:
        """It is no longer on its way, so the next one may go."""
        one = self._waiting.pop(token, None)
        self._flying.discard(token)
        self._window = min(WINDOW, self._window + 1)
        self._go()
        return one

    def _refused(self, token: str, pause: float) -> None:
        """The server cannot take it now: send it later, and fewer at once."""
        self._flying.discard(token)
        self._window = max(1, self._window // 2)
        heappush(self._held, int(token))
        if not self._waits:
            self._waits = True
            self.link.loop.call_later(pause, self._waited)

    def _waited(self) -> None:
        self._waits = False
        self._go()

    def _frame(self, token: str, one: Outgoing) -> Callable[[], Frame | None]:
        def frame() -> Frame | None:
            if token not in self._waiting:  # given up
                return None
            now = time.monotonic()
            one.sent, one.first, one.due = True, one.first or now, now + one.silence
            return one.subject, one.data, self._inbox + token, one.headers

        return frame

    async def _answered(self, message: Msg) -> None:
        token = message.subject[self._cut :]
        one = self._waiting.get(token)
        if one is None:
            return
        result = self._judged(one, message)
        if isinstance(result, float):
            one.sent = False
            self._refused(token, result)
            return
        self._landed(token)
        if one.doubtful and isinstance(result, TransportError):
            result = unknown(one.id, one.subject)
        one.done(result)

    def _judged(self, one: Outgoing, message: Msg) -> tuple[int, bool] | BaseException | float:
        """What to tell the caller. A float: send it again in so many seconds."""
        if (message.headers or {}).get("Status") == str(UNAVAILABLE):
            one.refusal = "no stream keeps it, or no server leads that stream now"
            if self.keeps(one.subject):
                return ELECTION
            return TransportError(f'no stream keeps "{one.subject}"; message {one.id} is not kept')
        try:
            found: dict[str, Any] = json.loads(message.data)
            if "error" in found:
                error = found["error"]
                if error.get("code") == BUSY:
                    return AGAIN
                if error.get("err_code") == STAGED:
                    one.doubtful = True
                    return ELECTION
                text = str(error.get("description", "?"))
                if error.get("err_code") in LEADERLESS or any(said in text for said in LEADING_TEXTS):
                    return ELECTION
                return TransportError(f"the server refused message {one.id} on {one.subject}: {text}")
            number = int(found["seq"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return PublishUnknown(
                f"the answer for message {one.id} makes no sense ({error}); publish it again under this id", one.id
            )
        return number, bool(found.get("duplicate")) and not one.again

    def look(self) -> None:
        """Give up on messages that have waited for too long, and send others again. On the loop, from time to time."""
        now = time.monotonic()
        late = []
        for token, one in self._waiting.items():
            if one.until > now:
                break
            late.append(token)
        for token in late:
            given_up = self._landed(token)
            if given_up is not None:
                given_up.done(self._late(given_up))
        if self.link.client is not None and now > self._looked + SILENCE / 4:
            self._looked = now
            self._send_again(now)

    def end(self) -> None:
        """The connection will not come back."""
        self._held.clear()
        while self._waiting:
            _, one = self._waiting.popitem()
            one.done(self._late(one))

    def _late(self, one: Outgoing) -> BaseException:
        if one.sent or one.doubtful:
            return unknown(one.id, one.subject)
        if self.link.client is not None:
            return TransportError(f"message {one.id} on {one.subject} was not taken in time: {one.refusal}")
        return TransportError(f"not connected to {self.link.options}: {why(self.link.error)}; message {one.id} was not sent")


def unknown(id: str, subject: str) -> PublishUnknown:
    return PublishUnknown(
        f"message {id} on {subject} was sent, and the server has not said that it has it; publish it again under this id", id
    )


def random_id() -> str:
    return os.urandom(8).hex()

"""
Dead letters, in a stream of their own, which all programs share.

A letter has the message's bytes and headers as the server had them, and one more header that says what happened. It is
written, and confirmed by the server, before the delivery is ended. If it cannot be written, the message comes again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from pipebus.errors import CodecError, DeadLetterError, PipebusError
from pipebus.message.codec import Codec
from pipebus.message.message import Message
from pipebus.outcomes.dead_letters import PUBLISH, DeadLetter, id_of
from pipebus.transports.letters import SharedLetters
from pipebus.transports.nats import wire
from pipebus.transports.nats.asking import _Refused
from pipebus.transports.nats.claim import Claim
from pipebus.transports.nats.link import Link
from pipebus.transports.nats.publisher import Outgoing
from pipebus.transports.nats.subjects import consumer_name

if TYPE_CHECKING:
    from pipebus.transports.nats.transport import NatsTransport


LETTER: Final = "Pipebus-Letter"
CUT: Final = "Pipebus-Cut"
"""In a letter that does not contain all of its message: how many bytes that had."""
TRACES: Final = (4000, 1000, 200)
"""How many of the last characters of a traceback, and of the first ones of an error, to keep: as many as there is room for."""
HEADERS: Final = 60_000
"""Bytes of headers; a stream takes 64 KiB."""
RESERVE: Final = 24 * 1024
"""Bytes of the server's limit that messages leave free for what a letter adds."""
_SERVERS: Final = ("nats-", "pipebus-letter", "pipebus-origin", "pipebus-cut")
"""How headers begin that belong to one stored copy of a message, and are not copied."""


class Found(NamedTuple):
    """A letter as the server has it; `number` in the stream of letters."""

    number: int
    consumer: str
    data: bytes
    headers: dict[str, str]
    letter: DeadLetter


class Dead(NamedTuple):
    """A message that has died, as the server had it."""

    subject: str
    id: str
    time: float
    data: bytes
    headers: dict[str, str]


def write(letter: DeadLetter, dead: Dead, most: int) -> tuple[bytes, dict[str, str]]:
    """
    Data and headers of a letter.

    Args:
        most: Bytes that the server takes.
    """

    def fits(data: bytes) -> bool:
        headers = theirs | ours
        return wire.size_of(b"", headers) <= HEADERS and wire.size_of(data, headers) <= most

    data = dead.data
    theirs = {name: value for name, value in dead.headers.items() if not name.lower().startswith(_SERVERS)}
    ours = {wire.ORIGIN: json.dumps({"subject": dead.subject, "id": dead.id, "time": dead.time}), wire.ID: letter.id}
    for length in TRACES:
        said = letter.summary() | {"traceback": letter.traceback[-length:], "error": letter.error[:length]}
        for name in ("message", "subject"):
            del said[name]
        ours[LETTER] = json.dumps(said)
        if fits(data):
            break
    # Another program's message may be as large as the server allows, and leave no room for what a letter adds.
    while theirs and wire.size_of(b"", theirs | ours) > HEADERS:
        ours[CUT] = str(len(data))
        del theirs[max(theirs, key=lambda name: len(theirs[name]))]
    if not fits(data):
        ours[CUT] = str(len(data))
        data = data[: max(0, most - wire.size_of(b"", theirs | ours))]
    return data, theirs | ours


def read(data: bytes, headers: dict[str, str], codec: Codec) -> DeadLetter:
    said: dict[str, Any] = json.loads(headers[LETTER])
    _, found = wire.decode_copy("pipebus.undecodable", data, headers, said["id"], said["time"])
    if isinstance(found, bytes):
        try:
            found = codec.decode(found)
        except CodecError:
            found = Message("pipebus.undecodable", data)
    return DeadLetter(message=found, **said)


class StoredLetters(SharedLetters):
    """`DeadLetters`, on a server. It has many methods, since the interface is large and each call has an async part."""

    def __init__(self, transport: NatsTransport, codec: Codec) -> None:
        super().__init__()
        self._transport = transport
        self._codec = codec
        self.begin()
        self._known = 0
        self._looked = False  # they were counted when the bus stopped

    def begin(self) -> None:
        """The bus starts, with a new loop."""
        self._bounding = False
        self._room = 0  # how many letters to write before they are counted again

    # --- keeping -----------------------------------------------------------------------------------------------------

    def _settle(self, token: Any, letter: DeadLetter) -> None:
        self._transport.settle(token, "dead", 0.0, letter)

    def _store(self, letter: DeadLetter) -> None:
        message = letter.message
        if isinstance(message.body, bytes) and message.subject == "pipebus.undecodable":
            data, headers = message.body, {"content-type": wire.CLOUDEVENT}
        else:
            data, headers = wire.written(message, self._codec.encode(message))
        transport = self._transport
        one = self._outgoing(letter, Dead(str(message.subject), message.id, message.time, data, headers))
        if transport.link.here:
            transport.publisher.send(one)
        elif isinstance(result := transport.sender.wait_for(one), BaseException):
            raise result

    def bury(self, claim: Claim, letter: DeadLetter) -> None:
        """Keep the letter of a delivery, then end it. On the loop."""
        transport = self._transport
        message = letter.message
        one = self._outgoing(letter, Dead(claim.subject, message.id, message.time, claim.data, claim.headers))

        def kept(result: Any) -> None:
            transport.open -= 1
            error = result if isinstance(result, BaseException) else None
            if error is not None:
                transport.warn("letter.not_kept", subscription=letter.subscription, message=message.id, error=str(error))
            claim.puller.verdicts.buried(claim, error)
            if error is None:
                self._grown()

        transport.open += 1
        one.done = kept
        transport.publisher.send(one)

    def _outgoing(self, letter: DeadLetter, dead: Dead) -> Outgoing:
        transport = self._transport
        data, headers = write(letter, dead, transport.publisher.most)
        place = f"{transport.subjects.dead}{consumer_name(letter.subscription)}.{letter.id}"
        return Outgoing(letter.id, place, data, headers, time.monotonic() + transport.options.publish_timeout)

    def _grown(self) -> None:
        """There is one more letter. The server counts slowly, so count only when they may be too many. On the loop."""
        self._room -= 1
        if self._room < 0 and not self._bounding:
            self._bounding = True
            self._transport.link.start(self._bound())

    async def _bound(self) -> None:
        """Delete the oldest letters over the cap; if there are many, some more, so as not to count each time."""
        link = self._transport.link
        try:
            while self._room < 0:
                self._room = 0  # letters that come meanwhile are not counted
                count = await self._count(link, ">")
                least = self.cap - self.cap // 100 if count > self.cap else self.cap
                while count > least:
                    oldest = await self._next(link, 1, ">")
                    if oldest is None:
                        break
                    await self._delete(link, oldest)
                    self._transport.counts_of(oldest.letter.subscription).letter_gone("evicted")
                    count -= 1
                self._room += (self.cap - count) // 2  # since other programs write letters, too
        except PipebusError:  # the next letter tries again
            return
        finally:
            self._bounding = False

    # --- reading -----------------------------------------------------------------------------------------------------

    def list(self, subscription: str | None = None) -> list[DeadLetter]:
        async def collect(link: Link) -> list[DeadLetter]:
            which = _which(subscription)
            found, after = [], 0
            while (one := await self._next(link, after + 1, which)) is not None:
                found.append(one.letter)
                after = one.number
            return found

        return self._transport.look(collect)

    def show(self, id: DeadLetter | str) -> DeadLetter:
        return self._transport.look(lambda link: self._found(link, id_of(id))).letter

    def __len__(self) -> int:
        """Without a connection, and after the bus has stopped: how many there were when they were last counted."""
        if self._transport.running or not self._looked:
            with suppress(PipebusError):
                self._known = self._transport.look(lambda link: self._count(link, ">"))
        return self._known

    async def remember(self) -> None:
        """Count them, for `len` after the stop. On the loop."""
        if self._transport.dead_letters is not None:
            self._known, self._looked = await self._count(self._transport.link, ">"), True

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self.list())

    def __repr__(self) -> str:
        return f"<StoredLetters on {self._transport.options}>"

    async def _found(self, link: Link, id: str) -> Found:
        found = await self._next(link, 1, f"*.{id}") if id.isalnum() else None
        if found is None:
            raise DeadLetterError(f'no dead letter "{id}" (there are {await self._count(link, ">")}); see dead_letters.list()')
        return found

    async def _next(self, link: Link, number: int, which: str) -> Found | None:
        """The first letter whose number in the stream is at least this."""
        query = {"seq": number, "next_by_subj": self._transport.subjects.dead + which}
        answer = await link.ask(f"$JS.API.DIRECT.GET.{self._transport.streams.dead}", json.dumps(query).encode())
        headers: dict[str, str] = answer.headers or {}
        if "Nats-Sequence" not in headers:
            return None
        consumer = headers["Nats-Subject"].removeprefix(self._transport.subjects.dead).partition(".")[0]
        return Found(int(headers["Nats-Sequence"]), consumer, answer.data, headers, read(answer.data, headers, self._codec))

    async def _count(self, link: Link, which: str) -> int:
        body = {"subjects_filter": self._transport.subjects.dead + which}
        try:
            info = await link.api(f"STREAM.INFO.{self._transport.streams.dead}", body)
        except _Refused:
            return 0
        return len(info["state"].get("subjects") or {})

    async def count(self, link: Link, subscription: str | None = None) -> int:
        """Letters of one subscription, or of all."""
        return await self._count(link, _which(subscription))

    # --- giving back -------------------------------------------------------------------------------------------------

    def replay(self, id: DeadLetter | str) -> None:
        found = self._transport.look(lambda link: self._found(link, id_of(id)))
        if self._republished(found.letter):
            self._transport.look(lambda link: self._delete(link, found))
            return
        self._transport.look(lambda link: self._give_back(link, found))

    async def _give_back(self, link: Link, found: Found) -> None:
        transport, letter = self._transport, found.letter
        if CUT in found.headers:
            raise DeadLetterError(
                f'dead letter "{letter.id}" cannot be replayed: there was no room for all of its message '
                f"({found.headers[CUT]} bytes); it stays a dead letter"
            )
        try:
            await link.api(f"CONSUMER.INFO.{transport.options.stream}.{found.consumer}")
        except _Refused:
            raise DeadLetterError(
                f'dead letter "{letter.id}" cannot be replayed: there is no subscription {letter.subscription} any more; '
                "it stays a dead letter"
            ) from None
        kept = {
            name: value
            for name, value in found.headers.items()
            if not name.lower().startswith(("nats-", "pipebus-letter")) and name != "Status"
        }
        subject = transport.subjects.replays + found.consumer
        answer = await link.ask(subject, found.data, {**kept, wire.ID: f"replay-{letter.id}"})
        said = json.loads(answer.data)
        if "error" in said:
            raise DeadLetterError(f'dead letter "{letter.id}" cannot be replayed: {said["error"].get("description")}; it stays')
        transport.sender.stored(subject, int(said["seq"]))
        await self._delete(link, found)
        transport.counts_of(letter.subscription).letter_replayed()

    def discard(self, id: DeadLetter | str) -> None:
        found = self._transport.look(lambda link: self._found(link, id_of(id)))
        self._transport.look(lambda link: self._delete(link, found))
        if found.letter.subscription != PUBLISH:
            self._transport.counts_of(found.letter.subscription).letter_gone("discarded")

    async def _delete(self, link: Link, found: Found) -> None:
        try:
            await link.api(f"STREAM.MSG.DELETE.{self._transport.streams.dead}", {"seq": found.number})
        except _Refused:
            raise DeadLetterError(f'no dead letter "{found.letter.id}" any more: another program was quicker') from None


def _which(subscription: str | None) -> str:
    """How the subjects of a subscription's letters end; None: of all subscriptions."""
    return ">" if subscription is None else f"{consumer_name(subscription)}.*"

"""
Dead letters, in a stream beside the one of the messages: the same for all programs.

A letter is the message as the server had it, bytes and headers, with one header more that says what happened. It is written,
and the server's word awaited, before the delivery is ended; if it cannot be written the message comes again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pipebus.errors import CodecError, DeadLetterError, PipebusError
from pipebus.message.codec import Codec
from pipebus.message.message import Message
from pipebus.outcomes.dead_letters import PUBLISH, DeadLetter, DeadLetters, Source
from pipebus.transports.nats import wire
from pipebus.transports.nats.claim import Claim
from pipebus.transports.nats.link import Link, _Refused
from pipebus.transports.nats.publisher import Outgoing
from pipebus.transports.nats.subjects import consumer_name

if TYPE_CHECKING:
    from pipebus.transports.nats.transport import NatsTransport

LETTER: Final = "Pipebus-Letter"
CUT: Final = "Pipebus-Cut"
"""Of a letter that has not all of its message: how many bytes that had."""
TRACES: Final = (4000, 1000, 200)
"""Last characters of a traceback, and first ones of an error, that are kept: as many as there is room for."""
HEADERS: Final = 60_000
"""Bytes of headers; a stream takes 64 KiB."""
RESERVE: Final = 24 * 1024
"""Bytes of the server's limit that messages leave for what a letter says beside them."""
_SERVERS: Final = ("nats-", "pipebus-letter", "pipebus-origin", "pipebus-cut")
"""How headers begin that belong to one storing of a message, and are not copied."""


class Found:
    """A letter as the server has it."""

    def __init__(self, number: int, consumer: str, data: bytes, headers: dict[str, str], letter: DeadLetter) -> None:
        self.number, self.consumer, self.data, self.headers, self.letter = number, consumer, data, headers, letter


class StoredLetters(DeadLetters):
    """`DeadLetters`, on a server."""

    settles = True

    def __init__(self, transport: NatsTransport, codec: Codec) -> None:
        super().__init__()
        self._transport = transport
        self._codec = codec
        self.begin()
        self._known = 0
        self._looked = False  # when the bus stopped
        self._again: Source | None = None  # what publishes a letter of the publish side anew

    def next_id(self) -> str:
        """Unique among all programs, and known before the letter is kept."""
        return f"d{os.urandom(5).hex()}"

    def begin(self) -> None:
        """A life of the bus, with a loop of its own, begins."""
        self._bounding = False
        self._room = 0  # letters until they are counted again

    # --- keeping -----------------------------------------------------------------------------------------------------

    def keep(self, letter: DeadLetter, source: Source, token: Any) -> None:
        if token is not None:
            self._transport.settle(token, "dead", 0.0, letter)
            return
        if letter.subscription == PUBLISH:
            self._again = source
        message = letter.message
        if isinstance(message.body, bytes) and message.subject == "pipebus.undecodable":
            data, headers = message.body, {"content-type": wire.CLOUDEVENT}
        else:
            data, headers = wire.written(message, self._codec.encode(message))
        self._transport.write_letter(self._outgoing(letter, data, headers, str(message.subject), message.id, message.time))

    def bury(self, claim: Claim, letter: DeadLetter) -> None:
        """Keep the letter of a delivery, then end it. On the loop."""
        transport = self._transport
        message = letter.message
        one = self._outgoing(letter, claim.data, claim.headers, claim.subject, message.id, message.time)

        def kept(result: Any) -> None:
            transport.open -= 1
            error = result if isinstance(result, BaseException) else None
            if error is not None:
                transport.warn("letter.not_kept", subscription=letter.subscription, message=message.id, error=str(error))
            claim.puller.buried(claim, error)
            if error is None:
                self._grown()

        transport.open += 1
        one.done = kept
        transport.publisher.send(one)

    def _outgoing(
        self, letter: DeadLetter, data: bytes, headers: dict[str, str], subject: str, id: str, moment: float
    ) -> Outgoing:
        theirs = {name: value for name, value in headers.items() if not name.lower().startswith(_SERVERS)}
        ours = {wire.ORIGIN: json.dumps({"subject": subject, "id": id, "time": moment}), wire.ID: letter.id}
        for length in TRACES:
            said = letter.summary() | {"traceback": letter.traceback[-length:], "error": letter.error[:length]}
            for name in ("message", "subject"):
                del said[name]
            ours[LETTER] = json.dumps(said)
            if self._fits(data, theirs | ours):
                break
        # Another program's message may be as large as the server takes, so that there is no room for what we say of it.
        while theirs and wire.size_of(b"", theirs | ours) > HEADERS:
            ours[CUT] = str(len(data))
            del theirs[max(theirs, key=lambda name: len(theirs[name]))]
        if not self._fits(data, theirs | ours):
            ours[CUT] = str(len(data))
            data = data[: max(0, self._transport.publisher.most - wire.size_of(b"", theirs | ours))]
        place = f"{self._transport.subjects.dead}{consumer_name(letter.subscription)}.{letter.id}"
        until = time.monotonic() + self._transport.options.publish_timeout
        return Outgoing(letter.id, place, data, theirs | ours, until, lambda result: None)

    def _fits(self, data: bytes, headers: dict[str, str]) -> bool:
        """Whether the server takes it."""
        return wire.size_of(b"", headers) <= HEADERS and wire.size_of(data, headers) <= self._transport.publisher.most

    def _grown(self) -> None:
        """One letter more. The server counts them slowly: so not for each, where there is room for many. On the loop."""
        self._room -= 1
        if self._room < 0 and not self._bounding:
            self._bounding = True
            self._transport.link.start(self._bound())

    async def _bound(self) -> None:
        """Over the cap the oldest goes; of many, some more."""
        link = self._transport.link
        try:
            while self._room < 0:
                self._room = 0  # what comes meanwhile is not counted
                count = await self._count(link, ">")
                least = self.cap - self.cap // 100 if count > self.cap else self.cap
                while count > least:
                    oldest = await self._next(link, 1, ">")
                    if oldest is None:
                        break
                    await self._delete(link, oldest)
                    self._transport.counts_of(oldest.letter.subscription).drop("evicted")
                    count -= 1
                self._room += (self.cap - count) // 2  # others write letters too
        except PipebusError:  # the next letter looks again
            return
        finally:
            self._bounding = False

    # --- reading -----------------------------------------------------------------------------------------------------

    def list(self, subscription: str | None = None) -> list[DeadLetter]:
        async def read(link: Link) -> list[DeadLetter]:
            which = ">" if subscription is None else f"{consumer_name(subscription)}.*"
            found, after = [], 0
            while (one := await self._next(link, after + 1, which)) is not None:
                found.append(one.letter)
                after = one.number
            return found

        return self._transport.look(read)

    def show(self, id: str) -> DeadLetter:
        return self._transport.look(lambda link: self._found(link, id)).letter

    def __len__(self) -> int:
        """Without a connection, and after the bus has stopped: how many there were when it was last looked."""
        if self._transport.running or not self._looked:
            with suppress(PipebusError):
                self._known = self._transport.look(lambda link: self._count(link, ">"))
        return self._known

    async def remember(self) -> None:
        """How many there are, for afterwards. On the loop."""
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
        """The first letter from this number of the stream on."""
        query = {"seq": number, "next_by_subj": self._transport.subjects.dead + which}
        answer = await link.ask(f"$JS.API.DIRECT.GET.{self._transport.streams.dead}", json.dumps(query).encode())
        headers: dict[str, str] = answer.headers or {}
        if "Nats-Sequence" not in headers:
            return None
        consumer = headers["Nats-Subject"].removeprefix(self._transport.subjects.dead).partition(".")[0]
        return Found(int(headers["Nats-Sequence"]), consumer, answer.data, headers, self._letter(answer.data, headers))

    def _letter(self, data: bytes, headers: dict[str, str]) -> DeadLetter:
        said = json.loads(headers[LETTER])
        _, found = wire.decode_copy("pipebus.undecodable", data, headers, said["id"], said["time"])
        if isinstance(found, bytes):
            try:
                found = self._codec.decode(found)
            except CodecError:
                found = Message("pipebus.undecodable", data)
        return DeadLetter(message=found, **said)

    async def _count(self, link: Link, which: str) -> int:
        body = {"subjects_filter": self._transport.subjects.dead + which}
        try:
            info = await link.api(f"STREAM.INFO.{self._transport.streams.dead}", body)
        except _Refused:
            return 0
        return len(info["state"].get("subjects") or {})

    async def count(self, link: Link) -> int:
        """Letters of all subscriptions."""
        return await self._count(link, ">")

    async def dead(self, link: Link, subscription: str) -> int:
        """Letters of one subscription."""
        return await self._count(link, f"{consumer_name(subscription)}.*")

    # --- giving back -------------------------------------------------------------------------------------------------

    def replay(self, id: str) -> None:
        found = self._transport.look(lambda link: self._found(link, id))
        if found.letter.subscription == PUBLISH:
            if self._again is None:
                raise DeadLetterError(
                    f'dead letter "{id}" died in a publish chain of a program that has ended; publish it again from one that '
                    "has this chain, then discard it"
                )
            self._again.revive(found.letter.message)
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
        transport.stored(subject, int(said["seq"]))
        await self._delete(link, found)

    def discard(self, id: str) -> None:
        found = self._transport.look(lambda link: self._found(link, id))
        self._transport.look(lambda link: self._delete(link, found))
        if found.letter.subscription != PUBLISH:
            self._transport.counts_of(found.letter.subscription).drop("discarded")

    async def _delete(self, link: Link, found: Found) -> None:
        try:
            await link.api(f"STREAM.MSG.DELETE.{self._transport.streams.dead}", {"seq": found.number})
        except _Refused:
            raise DeadLetterError(f'no dead letter "{found.letter.id}" any more: somebody else was quicker') from None

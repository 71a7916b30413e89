"""
The consumer on the server: whether it is still there, and making it again where its progress ended.

A consumer may be deleted or replaced, with its stream or alone, while this bus is connected or not.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from nats.aio.client import Client

from pipebus.errors import PipebusError
from pipebus.transports.nats.asking import _Refused
from pipebus.transports.nats.claim import Claim, reply_of
from pipebus.transports.nats.streams import NO_CONSUMER, NO_STREAM, RESUMED

if TYPE_CHECKING:
    from pipebus.transports.nats.puller import Puller
    from pipebus.transports.nats.transport import NatsTransport

AGAIN: Final = 0.5
"""Seconds between two attempts to make a consumer again that was lost."""
REPLACED: Final = "another one is in its place"
BEYOND: Final = 100_000
"""Most numbers of settled messages that are remembered beyond the last one before which all are settled."""


class Progress:
    """
    Where a consumer goes on if it is deleted. Kept for as long as the bus exists.

    Up to `floor` everything is settled, by all programs: the server says so, and never takes that back. What this program has
    settled beyond it is in `settled`, so that it is not handled again.

        deleted at        floor = 60, settled = {61, 63}; 62 is being handled, 64 and 65 wait here or at the server
        made again at     61
        61, 63 come       they are acknowledged at once
        62 comes          its handler goes on; the verdict goes to the new consumer
        64, 65 come       the same, or they are new here

    What another program has settled within the last second, or handles now, may come again: nobody knows of it here.
    """

    def __init__(self) -> None:
        self.stream: Any = None  # when the stream and the consumer were made, to recognise others of the same name
        self.consumer: Any = None
        self.floor: int | None = None
        self.settled: set[int] = set()
        self._filters: list[str] = []  # of the consumer, when it was last looked at
        self._waiting = self._delivered = 0  # messages that nobody had got then, and deliveries until then

    def see(self, info: dict[str, Any]) -> int:
        """
        Take over what the server reports of the consumer.

        Returns:
            How many messages at least have vanished: they no longer wait, and have not been delivered.
        """
        if info.get("created") != self.consumer:
            return 0
        self.floor = max(self.floor or 0, int(info["ack_floor"]["stream_seq"]))
        if self.settled:
            self.settled = {number for number in self.settled if number > self.floor}
        filters, waiting, delivered = self._filters, self._waiting, self._delivered
        self._filters = sorted(info["config"].get("filter_subjects") or ())
        self._waiting, self._delivered = info["num_pending"], info["delivered"]["consumer_seq"]
        if self._filters != filters or self._delivered < delivered:  # a server that was killed has forgotten some deliveries
            return 0
        return max(0, waiting - self._waiting - (self._delivered - delivered))

    def settle(self, number: int) -> None:
        if len(self.settled) < BEYOND:  # beyond that, a message may be handled again if the consumer is lost
            self.settled.add(number)


class Consumer:
    """On the loop."""

    def __init__(self, puller: Puller, transport: NatsTransport) -> None:
        self._puller, self._transport = puller, transport
        self.progress = transport.progress_of(puller.name)
        self.lost = False
        self.era = 0  # how often it was lost
        self.resumed = 0  # the last message number that may have been delivered before that
        self._why = ""  # it cannot be made again, as was logged last
        self._seen = -1  # the activity when its progress was last looked at

    def _warn(self, event: str, **facts: Any) -> None:
        self._transport.warn(event, subscription=self._puller.binding.name, **facts)

    def lose(self, why: str) -> None:
        if not self.lost and not self._puller.ended:
            self.lost = True
            self._puller.requests.forget()
            self._warn("consumer.lost", consumer=self._puller.name, error=why)
            self._transport.link.start(self._find())

    async def _find(self) -> None:
        while not self._puller.ended:
            client = self._transport.link.client
            if client is not None:
                try:
                    await self.make_again(client)
                    break
                except PipebusError as error:
                    if str(error) != self._why:
                        self._why = str(error)
                        self._warn("consumer.missing", error=self._why)
            await asyncio.sleep(AGAIN)

    async def make_again(self, client: Client) -> None:
        await self._transport.streams.ensure(client)
        await self.ensure(client)
        await self._puller.listen(client)  # the older inbox stays: an answer to an older request is given back
        self.lost, self._why = False, ""
        self._puller.pull()

    async def look(self) -> None:
        """Take over its progress, unless nothing has changed and a request is open, whose answer would say that it is gone."""
        activity = self._puller.activity
        if self.lost or self._puller.ended or (activity == self._seen and self._puller.requests.open):
            return
        try:
            info = await self._transport.streams.info(self._puller.name)
        except _Refused as error:
            if error.code in (NO_CONSUMER, NO_STREAM):
                self.lose(str(error))
            return
        if self.lost:  # meanwhile: where it is made again is decided already
            return
        if info.get("created") != self.progress.consumer:
            self.lose(REPLACED)
            return
        self.see(info)
        self._seen = activity

    def see(self, info: dict[str, Any]) -> None:
        """Take over what the server reports, and count what it has deleted before anybody had read it."""
        gone = self.progress.see(info)
        if gone:
            self._transport.counts_of(self._puller.binding.name).never_came(gone)
            self._warn("messages.deleted", stream=self._puller.stream, unread=gone)

    async def is_the_same(self) -> bool:
        """Whether the server still has the consumer that this program knows."""
        try:
            info = await self._transport.streams.info(self._puller.name)
        except PipebusError:
            return False
        return bool(info.get("created") == self.progress.consumer)

    def forgot(self) -> None:
        """
        In a cluster, the consumer's leader was lost, and the new one has not heard of its last deliveries. It makes them again,
        in order; those that are settled here, or being handled, are recognised as after a loss.
        """
        self.era += 1
        self.resumed = max(self.resumed, self._puller.highest, *self.progress.settled, 0)

    def reached_by(self, subject: str) -> bool:
        """Whether a message on one of the server's subjects comes here."""
        subjects = self._transport.subjects
        if subject.startswith(subjects.replays):
            return subject == subjects.replays + self._puller.name
        return any(one.matches(subjects.ours(subject)) for one in self._puller.binding.patterns)

    async def ensure(self, client: Client) -> None:
        """
        Make sure that the consumer is there, and begins behind what was settled.

        Raises:
            TransportError: that failed.
        """
        puller, streams, progress = self._puller, self._transport.streams, self.progress
        known = progress.floor is not None
        start: str | int = puller.binding.start if progress.floor is None else progress.floor + 1
        if known and (progress.stream != streams.born or streams.last < (progress.floor or 0)):
            self._lose_stream()
            start = "all"
        info = await streams.consumer(puller.name, puller.filters, start, client)
        replaced = known and info.get("created") != progress.consumer
        if replaced and info["config"].get("description") != RESUMED:
            # A program that did not know where to go on has made it: it may skip messages, or may have given up some.
            self._warn("consumer.replaced", consumer=puller.name)
            await streams.remove(puller.name, client)
            info = await streams.consumer(puller.name, puller.filters, start, client)
        if known and info.get("created") != progress.consumer:
            self._resume(info)
        progress.stream, progress.consumer = streams.born, info.get("created")
        progress.see(info)

    def _resume(self, info: dict[str, Any]) -> None:
        """Another consumer has taken the place of the lost one."""
        self.era += 1
        self.resumed = max(self.resumed, self._puller.highest, *self.progress.settled, 0)
        self._puller.begin_anew(info["delivered"])
        # A server that makes a consumer just after it has deleted one of the same name may restore what that one has written:
        # deliveries, without the last acknowledgements. Nobody would say these again until the leases end.
        stream, name, last = self._puller.stream, self._puller.name, info["delivered"]
        for number in sorted(self.progress.settled):
            if number <= last["stream_seq"]:
                self._transport.link.say((reply_of(stream, name, number, last["consumer_seq"]), b"+ACK", "", None))
        self._warn("consumer.resumed", consumer=self._puller.name, after=self.progress.floor)

    def _lose_stream(self) -> None:
        """
        Another stream has taken the place of the lost one: its numbers mean other messages, and all of them are new. What is
        here of the old stream may still be handled, but its verdicts go nowhere.
        """
        puller = self._puller
        self._warn("stream.lost", stream=puller.stream, settled=self.progress.floor, here=len(puller.out))
        puller.cut_off()
        self.progress.settled.clear()
        self.progress.floor = 0
        self.resumed = 0

    def knows(self, claim: Claim, before: Claim | None) -> bool:
        """
        Whether a message that has come from the new consumer is already settled here, or being handled.

        Args:
            before: The delivery of the same message that is here.
        """
        if claim.number > self.resumed:
            return False
        if before is not None and before.era != claim.era:
            before.reply, before.era, before.count = claim.reply, claim.era, claim.count
            return True
        if claim.number in self.progress.settled:
            self._puller.verdicts.tell(claim, b"+ACK")
            return True
        claim.again = True  # there may be a note of it
        return False

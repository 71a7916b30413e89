"""Telling the server what became of deliveries."""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from pipebus.transports.base import Verdict
from pipebus.transports.nats.claim import Claim
from pipebus.transports.nats.link import Frame
from pipebus.transports.nats.streams import NANO

if TYPE_CHECKING:
    from pipebus.transports.nats.puller import Puller
    from pipebus.transports.nats.transport import NatsTransport


class Verdicts:
    """On the loop."""

    def __init__(self, puller: Puller, transport: NatsTransport) -> None:
        self._puller, self._transport = puller, transport
        self.unconfirmed: deque[Frame] = deque()  # the server has not said yet that it has them
        self.told = 0  # how many were ever in `unconfirmed`

    def settle(self, claim: Claim, verdict: Verdict, delay: float = 0.0, why: Any = "") -> None:
        if claim.done:
            if claim not in self._puller.out:
                self._transport.warn("delivery.settled_too_late", subscription=self._puller.binding.name, verdict=verdict)
            return
        claim.done = True
        counts = self._transport.counts_of(self._puller.binding.name)
        if not claim.reply and verdict in ("return", "release"):
            counts.drop("stream deleted")  # nobody can bring it again
            self._puller.forget(claim, ended=True)
            return
        if verdict == "release":
            self._release(claim, delay)
            return
        if verdict == "dead":
            self._transport.letters.bury(claim, why)
            return
        if verdict == "return":
            self._transport.notes.say(self._puller.name, claim.number, claim.takings + 1)
            self._give_back(claim, delay)
        else:
            if verdict == "drop":
                counts.drop(str(why))
            else:
                counts.acknowledged += 1
            self.tell(claim, b"+ACK")
            if claim.again:
                self._transport.notes.forget(self._puller.name, claim.number)
        self._puller.forget(claim, ended=verdict != "return")

    def _give_back(self, claim: Claim, delay: float) -> None:
        self._puller.returned[claim.number] = time.monotonic() + delay
        self.tell(claim, b'-NAK {"delay":%d}' % int(delay * NANO) if delay > 0 else b"-NAK")

    def _release(self, claim: Claim, delay: float) -> None:
        """Give it back as if it had not been delivered."""

        def noted(_: object) -> None:
            # Without a note it counts as taken. That is better than a message that is held for as long as its lease.
            self._transport.open -= 1
            if delay > 0:
                self._give_back(claim, delay)
            else:
                self.tell(claim, b"-NAK")
            self._puller.forget(claim)

        self._transport.open += 1
        self._transport.notes.send(self._puller.name, claim.number, claim.takings, noted)

    def buried(self, claim: Claim, error: BaseException | None) -> None:
        """Its dead letter is kept; or could not be kept, and then it comes again when its lease ends."""
        if error is None:
            self._transport.counts_of(self._puller.binding.name).dead += 1
            self.tell(claim, b"+TERM")
            if claim.again:
                self._transport.notes.forget(self._puller.name, claim.number)
        self._puller.forget(claim, ended=error is None)

    def tell(self, claim: Claim, what: bytes) -> None:
        """Tell the server what became of a delivery."""
        if not claim.reply:  # its stream is gone
            return
        frame = (claim.reply, what, "", None)
        final = not what.startswith(b"-")
        if final:
            self._puller.consumer.progress.settle(claim.number)
        self._transport.link.say(frame)
        if final:  # giving back must not be said twice
            self.unconfirmed.append(frame)
            self.told += 1

    def say_again(self) -> None:
        """On a new connection, before anything else."""
        self._transport.link.say_first([partial(_same, frame) for frame in self.unconfirmed])

    async def confirm(self) -> None:
        """
        Return when the server has carried out all verdicts that were sent before.

        Raises:
            TransportError: it does not confirm that.
        """
        told = self.told
        if not self.unconfirmed:
            return
        await self._transport.link.ask(self.unconfirmed[-1][0], b"+WPI")
        while self.unconfirmed and self.told - len(self.unconfirmed) < told:  # another `confirm` may have been quicker
            self.unconfirmed.popleft()


def _same(frame: Frame) -> Frame:
    return frame

"""
Handing what the server has brought to the mailbox, in order.

A message that is delivered for the first time goes in as soon as there is room. One that was delivered before waits until it
will be begun at once, for a note must be written first that it was begun: no message dies because it waited next to one that
kills its handlers. And a suspect, whose last delivery was lost, is handed in alone, so that no other message dies
because it was handled at the same time.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from pipebus.errors import PipebusError
from pipebus.foreign.objects import text_of
from pipebus.transports.nats.claim import Claim
from pipebus.waiting.elsewhere import on_executor

if TYPE_CHECKING:
    from pipebus.transports.nats.puller import Puller
    from pipebus.transports.nats.transport import NatsTransport


class Feed:
    """On the loop."""

    def __init__(self, puller: Puller, transport: NatsTransport) -> None:
        self._puller, self._transport = puller, transport
        self._binding = puller.binding
        self.line: deque[Claim] = deque()  # not handed in yet, in order
        self._handed: set[Claim] = set()  # handed in and not settled yet
        self._alone: Claim | None = None  # one of these, handed in alone
        self._beginning = False  # a note is being written, and nothing else is handed in

    @property
    def waiting(self) -> int:
        """How many messages have come and are not handed in."""
        return sum(not claim.done for claim in self.line)

    def offer(self) -> None:
        """Hand in as many as there is room for; then ask the server for more."""
        puller, line = self._puller, self.line
        while line and not self._beginning and not puller.orphans.count and not puller.ended:
            claim = line[0]
            if not claim.done:
                if claim.again or claim.broken:
                    if self._may_begin(claim):
                        self._beginning = True
                        self._transport.link.start(self._begin(claim))
                    return
                if (self._alone is not None and self._waits(self._alone)) or not self._hand_in(claim):
                    return
            line.popleft()
        puller.pull()

    def _may_begin(self, claim: Claim) -> bool:
        """A worker is free for it. A suspect waits until no other message is being handled, but only as long as a lease."""
        if self._over(claim):
            return True
        if not self._binding.ready():
            return False
        if not self._waits(claim):
            return True
        if self._alone is not None and self._waits(self._alone):
            return False
        return not self._handed if claim.suspect else len(self._handed) < self._puller.window.workers

    def _over(self, claim: Claim) -> bool:
        """It is not handled any more, but becomes a dead letter."""
        return claim.broken or claim.takings >= self._binding.attempts

    def _waits(self, claim: Claim) -> bool:
        return time.monotonic() - claim.since < self._transport.options.lease

    async def _begin(self, claim: Claim) -> None:
        """Hand in a message that was delivered before. If the subscription ends, it may be settled meanwhile."""
        try:
            if claim.done or self._puller.ended:
                return
            if self._over(claim):
                await self._give_up(claim)
                return
            if not claim.begun:
                # If no note can be kept (its stream is gone, or full), the message is handed in all the same.
                with suppress(PipebusError):
                    await self._transport.notes.write(self._puller.name, claim.number, claim.takings + 1, begun=True)
                claim.begun = True
            if claim.done or self._puller.ended:
                return
            claim.since = time.monotonic()
            if not self._hand_in(claim):
                return
            self.line.remove(claim)
            if claim.suspect:
                self._alone = claim
        finally:
            self._beginning = False
        self.offer()

    async def _give_up(self, claim: Claim) -> None:
        """Let it become a dead letter. On another thread, since observers of that may publish, and wait for it."""
        self.line.remove(claim)
        try:
            handed_in = await on_executor(self._hand_in, claim)
        except RuntimeError:  # no thread can be started: the next look tries again
            handed_in = False
        if not handed_in:
            if self._puller.ended:
                self._puller.verdicts.settle(claim, "release")
            else:
                self.line.appendleft(claim)

    def _hand_in(self, claim: Claim) -> bool:
        self._handed.add(claim)  # first, for another thread may settle it before this returns
        try:
            if self._binding.deliver(claim.found, claim, claim.takings):
                return True
        except Exception as error:  # try it again, but neither at once nor forever
            self._transport.warn("delivery.failed", subscription=self._binding.name, error=text_of(error))
            self._transport.link.post(partial(self._puller.verdicts.settle, claim, "return", 1.0))
            return True
        self._handed.discard(claim)
        return False

    def settled(self, claim: Claim) -> None:
        """It no longer occupies a worker."""
        self._handed.discard(claim)
        if self._alone is claim:
            self._alone = None

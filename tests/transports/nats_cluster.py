"""nats-servers of the tests' own in a cluster on the loopback: they are killed by their names, and asked who leads."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
import nats.errors
from nats_server import NatsServer, free_port

PATIENCE = 60.0
"""Seconds to wait until the servers agree."""


class NatsCluster:
    """
    Args:
        folder: For its files.
        size: How many servers.
    """

    def __init__(self, folder: Path, size: int = 3) -> None:
        routes = [free_port() for _ in range(size)]
        known = ", ".join(f'"nats://127.0.0.1:{one}"' for one in routes)
        self.servers: dict[str, NatsServer] = {}
        self._alive: set[str] = set()
        for number, port in enumerate(routes):
            cluster = f'cluster {{ name: tests, listen: "127.0.0.1:{port}", routes: [{known}] }}'
            self.servers[f"n{number}"] = NatsServer(folder / f"n{number}", f"server_name: n{number}\n{cluster}")

    @property
    def url(self) -> str:
        """A URL that names every server of the cluster."""
        return f"nats://{','.join(one.place for one in self.servers.values())}"

    def start(self, name: str) -> None:
        self.servers[name].start()
        self._alive.add(name)

    def kill(self, name: str) -> None:
        self._alive.discard(name)
        self.servers[name].stop(signal.SIGKILL)

    def ask(self, place: str, of: str | None = None, body: Any = None) -> dict[str, Any] | None:
        """Send a request to JetStream, to one server or any; None means that it does not answer, or refuses."""

        async def work() -> dict[str, Any] | None:
            names = self._alive if of is None else {of}
            client = await nats.connect([self.servers[name].url for name in names], allow_reconnect=False)
            try:
                data = b"" if body is None else json.dumps(body).encode()
                answer = await client.request(f"$JS.API.{place}", data, timeout=1.0)
            finally:
                await client.close()
            found: dict[str, Any] = json.loads(answer.data)
            return None if "error" in found else found

        try:
            return asyncio.run(work())
        except (nats.errors.Error, TimeoutError, OSError):
            return None

    def leader(self, stream: str) -> str:
        """The server to which a stream's messages go first."""
        return str(self._until(lambda: self._cluster(stream).get("leader"), f"{stream} has a leader"))

    def whole(self, *streams: str) -> None:
        """Wait until all servers are there, and each has all of these streams."""
        for stream in streams:
            self._until(lambda stream=stream: self._is_whole(stream), f"{stream} is everywhere")  # type: ignore[misc]

    def _is_whole(self, stream: str) -> bool:
        cluster = self._cluster(stream)
        others = cluster.get("replicas") or []
        names = {one["name"] for one in others if one.get("current") and not one.get("offline")} | {cluster.get("leader")}
        return names == set(self.servers)

    def _cluster(self, stream: str) -> dict[str, Any]:
        info = self.ask(f"STREAM.INFO.{stream}")
        return {} if info is None else dict(info.get("cluster") or {})

    def _until(self, condition: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
            time.sleep(0.05)
        return found

    def __enter__(self) -> NatsCluster:
        try:
            for name in self.servers:
                self.start(name)
            for name in self.servers:  # they know each other, and have a leader
                self._until(lambda name=name: self.ask("INFO", of=name), f"{name} has JetStream")  # type: ignore[misc]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for name in list(self._alive):
            self.kill(name)

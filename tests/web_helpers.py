"""A browser and its streams for the tests of the page: clients of the application itself, without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.testclient import TestClient

from flow_helpers import WAIT
from pipebus import Bus
from pipebus.web import app

HERE = ("127.0.0.1", 50_000)
TOKEN = "correct horse battery staple"


def client(site: Any, base: str = "http://127.0.0.1:9000", at: Any = HERE, **options: Any) -> TestClient:
    """A client on this computer, that asks for the page under a name of this computer."""
    return TestClient(site, base_url=base, client=at, **options)


def page_of(bus: Bus, **options: Any) -> TestClient:
    return client(app(bus, **options))


class Stream:
    """One open stream of a page."""

    def __init__(self, status: int, parts: asyncio.Queue[dict[str, Any]], task: asyncio.Task[None]) -> None:
        self.status = status
        self.task = task
        self._parts = parts
        self._text = ""

    async def part(self) -> dict[str, Any]:
        return await asyncio.wait_for(self._parts.get(), WAIT)

    async def event(self, name: str) -> Any:
        """The data of the next event of this name; others are passed over."""
        while True:
            while "\n\n" not in self._text:
                self._text += (await self.part())["body"].decode()
            event, self._text = self._text.split("\n\n", 1)
            lines = dict(line.split(": ", 1) for line in event.split("\n") if not line.startswith(":"))
            if lines.get("event") == name:
                return json.loads(lines["data"])


@asynccontextmanager
async def stream(site: Any, path: str, query: str = "", reads: asyncio.Event | None = None) -> AsyncIterator[Stream]:
    """
    Open a stream as a server does.

    Args:
        reads: While it is not set, the client reads nothing, and the server makes the application wait.
    """
    gone = asyncio.Event()
    parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if reads is not None and message["type"] == "http.response.body":
            await reads.wait()
        await parts.put(dict(message))

    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path, "raw_path": path.encode(),
        "root_path": "", "query_string": query.encode(), "headers": [(b"host", b"127.0.0.1:9000")], "client": HERE,
        "server": ("127.0.0.1", 9000),
    }  # fmt: skip
    task = asyncio.ensure_future(site(scope, receive, send))
    try:
        start = await asyncio.wait_for(parts.get(), WAIT)
        assert start["status"] != 200 or b"content-length" not in dict(start["headers"])
        yield Stream(start["status"], parts, task)
    finally:
        gone.set()
        if reads is not None:
            reads.set()
        await asyncio.wait_for(task, WAIT)

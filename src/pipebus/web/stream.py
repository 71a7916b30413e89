"""
Server-sent events: what an open page hears, twice a second, whatever the traffic.

A client is asked for its next event when the last one has left: one that reads slowly gets fewer events, each of that moment,
and nothing waits for it in a queue. A client that reads nothing for a while is sent away. There are never more than a few
clients. Each runs in a coroutine of its own; the figures that all of them share are guarded by `Figures`.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from pipebus.errors import PipebusError, reason_of
from pipebus.message.patterns import Pattern
from pipebus.telemetry.figures import TICK, Figures
from pipebus.telemetry.sampler import Seen
from pipebus.web.messages import Shown, short

CLIENTS: Final = 16
"""The most streams at the same time."""
PATIENCE: Final = 30.0
"""Seconds in which a client has to read an event."""
SILENCE: Final = 2.0
"""Seconds after which an event is sent even if nothing has happened, so that a client that is gone is noticed."""
SELDOM: Final = 2.0
"""Seconds from one `changed` to the next, because each makes the page ask for the whole description."""
BATCH: Final = 50
"""The most messages in one event."""

Next = Callable[[], Awaitable[bytes]]
"""The next event of a stream; empty: nothing new."""


class Streams:
    """The open streams of one application."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()
        self._over = False

    def end(self) -> None:
        """End all streams within a tick; from any thread."""
        self._over = True

    @property
    def over(self) -> bool:
        """Whether the streams have to end. A server of uvicorn waits for them before it tells the application that it stops."""
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        return self._over or getattr(server, "should_exit", False) is True

    @contextmanager
    def place(self) -> Iterator[None]:
        """
        Raises:
            HTTPException: 503: there are too many already.
        """
        with self._lock:
            if self._count >= CLIENTS:
                raise HTTPException(503, f"{CLIENTS} streams are open already; close another page")
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1


class EventStream(Response):
    """A response that goes on until the client is gone, or the server stops."""

    def __init__(self, streams: Streams, following: Next) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]  # nobody knows it
        self._streams = streams
        self._following = following

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._streams.place():
            gone = asyncio.ensure_future(_gone(receive))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._send(send, gone)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except TimeoutError:
                pass  # it does not read; the server closes its connection
            finally:
                gone.cancel()

    async def _send(self, send: Send, gone: asyncio.Future[None]) -> None:
        part = b"retry: 1000\n\n" + await self._following()
        silence = 0.0
        while not gone.done() and not self._streams.over:
            if part or silence >= SILENCE:
                async with asyncio.timeout(PATIENCE):
                    await send({"type": "http.response.body", "body": part or b": nothing new\n\n", "more_body": True})
                silence = 0.0
            await asyncio.wait({gone}, timeout=TICK)
            silence += TICK
            part = await self._following()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def event(name: str, data: Any) -> bytes:
    """One event; msgspec writes JSON on one line."""
    return b"event: " + name.encode() + b"\ndata: " + (data if isinstance(data, bytes) else msgspec.json.encode(data)) + b"\n\n"


class FigureEvents:
    """Makes the events of `api/events`: figures, encoded once for all clients, and `changed` if the description may have."""

    def __init__(self, figures: Figures) -> None:
        self.figures = figures
        self._last: tuple[dict[str, Any], bytes] = ({}, b"")

    def encoded(self) -> bytes:
        """The figures as JSON. It may wait: call it off the event loop."""
        found = self.figures.look()
        figures, data = self._last
        if figures is not found:
            data = msgspec.json.encode(found)
            self._last = (found, data)
        return data

    def stream(self) -> Next:
        figures = self.figures
        sent, shape, due = b"", figures.shape, 0.0

        def look() -> bytes:
            nonlocal sent, shape, due
            try:
                data = self.encoded()
            except PipebusError as error:  # a store or a server is away, and may come back
                return event("problem", {"error": short(reason_of(error), 1000)})
            if data is sent:
                return b""
            if not sent:
                shape = figures.shape
            sent, found = data, event("figures", data)
            if figures.shape != shape and time.monotonic() >= due:
                shape, due = figures.shape, time.monotonic() + SELDOM
                found += event("changed", {})
            return found

        return lambda: run_in_threadpool(look)


def tap(figures: Figures, shown: Shown, pattern: str) -> Next:
    """
    The events of `api/messages`: the latest messages on these subjects.

    Raises:
        SubjectError: this is not a pattern.
    """
    wanted, sampler = Pattern(pattern), figures.sampler
    last, total = 0, -1

    def matches(one: Seen) -> bool:
        subject = one.message.subject
        return wanted.matches(subject) if isinstance(subject, str) else wanted.text == ">"

    def look() -> bytes:
        nonlocal last, total
        figures.sample()
        seen = sampler.recent(last)
        last = max((one.number for one in seen), default=last)
        found = [one for one in seen if matches(one)][-BATCH:]
        if not found and sampler.seen == total:
            return b""
        total = sampler.seen
        names = shown.names()
        messages = [shown.message(one.message, one.number, one.subscriptions, names=names) for one in found]
        return event("messages", {"seen": total, "sampled": sampler.sampled, "messages": messages})

    return lambda: run_in_threadpool(look)

"""
What the tests of the ways to run a handler share: event loops on threads of their own, handlers under control for event loops,
and `Way`, which turns one plain function into a handler that runs on the pool, on a thread or on a loop.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from flow_helpers import (
    WAIT,
    Hold,
    InThread,
    assert_all_published_accounted_for,
    assert_conserved,
    running,
)
from pipebus import Bus, Message

# --- event loops -------------------------------------------------------------------------------------------------------


class LoopInThread:
    """
    An event loop that runs on a thread of its own, as a program's might; `with` ends both.

    Args:
        set_up: A coroutine to run on it before, on the thread that makes it.
    """

    def __init__(self, name: str = "a-loop", set_up: Callable[[], Coroutine[Any, Any, Any]] | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        if set_up is not None:
            self.loop.run_until_complete(set_up())
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there; a `concurrent.futures.Future`."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there and wait for what it returns."""
        return self.start(coroutine).result(WAIT)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a plain function there and wait for what it returns."""

        async def call() -> Any:
            return function(*arguments)

        return self.run(call())

    def __enter__(self) -> LoopInThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self.loop.shutdown_default_executor()

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT)
        assert not self._thread.is_alive(), "the loop has not ended"
        self.loop.close()


@asynccontextmanager
async def arunning(bus: Bus | None = None) -> AsyncIterator[Bus]:
    """`running` for coroutines: handlers run on this loop. At the end the law must hold for each subscription."""
    bus = bus or Bus()
    await bus.astart()
    try:
        yield bus
    except BaseException:
        Hold.open_all()
        await bus.astop(timeout=WAIT, drain=False)
        raise
    Hold.open_all()
    report = await bus.astop(timeout=WAIT)
    assert report.drained, f"not drained: {report}"
    assert_conserved(*bus.subscriptions)
    assert_all_published_accounted_for(bus)


def amain(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Call `asyncio.run` on its own thread, so that a run that never ends is a failure and not a hang."""
    return InThread(lambda: asyncio.run(main())).result()


async def until(event: threading.Event) -> None:
    """Wait for a thread's event on a loop, without stopping it."""
    assert await asyncio.to_thread(event.wait, WAIT), "the event has not come"


# --- handlers under control --------------------------------------------------------------------------------------------


class AsyncHold(Hold):
    """A `Hold` for event loops: stands still without stopping the loop. May be opened from any thread."""

    def __init__(self, *, open: bool = False) -> None:
        super().__init__(open=open)
        self._standing: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.cancelled: list[Any] = []  # the messages in which a CancelledError came

    async def __call__(self, message: Message) -> None:  # type: ignore[override]
        self.given.append(message.body)
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._standing.append((loop, future))
        self._started.release()
        try:
            if not self._gate.is_set():
                await future
        except asyncio.CancelledError:
            self.cancelled.append(message.body)
            raise

    def open(self) -> None:
        super().open()
        for loop, future in self._standing:
            if not loop.is_closed():
                loop.call_soon_threadsafe(lambda future=future: future.done() or future.set_result(None))


# --- ways to run a handler ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """
    One way to run a handler.

    Args:
        run: The subscription's option.
        colour: Of the handler.
        waits: The handler gives way to its loop before it does anything.
        callers: Handlers on loops run on the loop that has started the bus, not on the bus's own.
    """

    name: str
    run: Any = None
    colour: str = "sync"
    waits: bool = False
    callers: bool = False

    @property
    def on_loop(self) -> bool:
        return self.colour == "async" or self.run == "loop"

    @property
    def blocks_loop(self) -> bool:
        """Waiting in such a handler stops the loop."""
        return self.on_loop and self.colour == "sync"

    def handler(self, function: Callable[..., Any]) -> Any:
        """A plain function of a message (and a `Delivery`), as a handler of this way's colour."""
        if self.colour == "sync":
            return function

        @functools.wraps(function)
        async def handle(*arguments: Any) -> Any:
            if self.waits:
                await asyncio.sleep(0)
            return function(*arguments)

        return handle

    def hold(self) -> Hold:
        return AsyncHold() if self.colour == "async" else Hold()

    def subscribe(self, bus: Bus, subject: Any, function: Callable[..., Any], **options: Any) -> Any:
        """Subscribe a plain function, or a `Hold`, so that it runs this way."""
        handler = function if isinstance(function, Hold) else self.handler(function)
        return bus.subscribe(subject, handler, run=self.run, **options)

    @contextmanager
    def running(self, bus: Bus | None = None, *, drain: bool = True) -> Iterator[Bus]:
        """`flow_helpers.running`, with the bus on the right loop."""
        bus = bus or Bus()
        if not self.callers:
            with running(bus, drain=drain):
                yield bus
            return
        with LoopInThread() as loop:
            loop.run(bus.astart())
            with running(bus, drain=drain):
                yield bus

    @contextmanager
    def started(self, bus: Bus) -> Iterator[None]:
        """The same without the check at the end, for tests that stop the bus themselves and look at what remains."""
        if not self.callers:
            bus.start()
            yield
            return
        with LoopInThread() as loop:
            loop.run(bus.astart())
            yield


POOL = Way("pool")
THREAD = Way("thread", run="thread")
LOOP_WAYS = (
    Way("loop", colour="async", waits=True),
    Way("loop-at-once", colour="async"),
    Way("plain-on-loop", run="loop"),
    Way("callers-loop", colour="async", waits=True, callers=True),
    Way("callers-loop-at-once", colour="async", callers=True),
    Way("plain-on-callers-loop", run="loop", callers=True),
)
WAYS = (POOL, THREAD, *LOOP_WAYS)


def ways(*chosen: Way) -> pytest.MarkDecorator:
    """Run a test once for each of these ways to run a handler."""
    return pytest.mark.parametrize("way", chosen, ids=[way.name for way in chosen])


every_way_to_run = ways(*WAYS)
every_async_way = ways(*(way for way in WAYS if way.colour == "async"))
every_loop = pytest.mark.parametrize("callers", [False, True], ids=["own-loop", "callers-loop"])
"""Run a test on the bus's own loop, and on the loop that has started it."""


@contextmanager
def on_loop(bus: Bus, callers: bool, *, drain: bool = True) -> Iterator[Bus]:
    """`running`, on one of the two loops."""
    with Way("", colour="async", callers=callers).running(bus, drain=drain):
        yield bus


@contextmanager
def started_on_loop(bus: Bus, callers: bool) -> Iterator[None]:
    """The same for tests that stop the bus themselves, and look at what remains."""
    with Way("", colour="async", callers=callers).started(bus):
        yield

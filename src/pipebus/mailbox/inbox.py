"""
Reading a mailbox: from any thread and, with the methods that begin with `a`, from any event loop.

A reader that finds nothing leaves a wake-up call in `_readers` and looks once more; each put uses one of these calls. Calls
carry no message, so a reader that gives up (timed out or cancelled) loses none: if its call was used already, it wakes another.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Protocol

from pipebus.errors import BusClosed, BusNotStarted, PipelineError, ReceiveTimeout
from pipebus.mailbox.claims import wake
from pipebus.mailbox.parcel import Item
from pipebus.mailbox.rare import Rare
from pipebus.message.message import Message

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`


class Reader(Protocol):
    """What an inbox needs from its subscription."""

    plan: Any
    rare: Rare | None

    @property
    def name(self) -> str: ...
    def open_item(self, item: Item) -> Any:
        """A Delivery whose message has passed the chain; None if the message was dropped or is dead, and so settled."""
        ...


class Inbox:
    """The reading end of a subscription without a handler."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.ended = False
        self.asked = False
        """
        Somebody has begun to read: from then on, a store brings messages into this process. It is set before the first look,
        and the store's thread asks for it every few milliseconds, so no wake-up can be missed.
        """
        self._readers: deque[Callable[[], object]] = deque()

    def wake(self, _: object = None) -> None:
        """Called after each put: one reader may look."""
        try:
            call = self._readers.popleft()
        except IndexError:
            return
        wake(call)

    def wake_all(self) -> None:
        while self._readers:
            self.wake()

    def end(self) -> None:
        """A stop was requested: make all waiting readers raise BusClosed."""
        self.ended = True
        self.wake_all()

    def _withdraw(self, call: Callable[[], object]) -> None:
        try:
            self._readers.remove(call)
        except ValueError:
            self.wake()  # it was used for us: pass it on

    def _look(self) -> Any:
        while True:
            item = self.reader.take()  # type: ignore[attr-defined]
            if item is None:
                rare = self.reader.rare
                if rare is not None and rare.closed is not None:
                    raise BusClosed(f"subscription {self.reader.name} is {rare.closed}")
                if self.reader.plan.hub.state == "new":
                    raise BusNotStarted(
                        f"the bus is not started, so nothing comes for {self.reader.name}; use `with bus:`, `async with bus:` "
                        "or bus.start() first"
                    )
                if self.ended:
                    raise BusClosed(f"the bus is stopping; nothing more will come for {self.reader.name}")
                return None
            delivery = self.reader.open_item(item)
            if delivery is not None:
                return delivery

    def _timeout(self, timeout: float | None) -> ReceiveTimeout:
        return ReceiveTimeout(f"nothing arrived for {self.reader.name} in {timeout:g} s")

    # --- threads -------------------------------------------------------------------------------------------------------

    def _next(self, timeout: float | None, twin: str) -> Any:
        if asyncio._get_running_loop() is not None:
            raise PipelineError(f"a blocking read would stop the running event loop; use `{twin}`")
        clock, blocking = self.reader.plan.clock, self.reader.plan.blocking
        deadline = None if timeout is None else clock.monotonic() + timeout
        while True:
            delivery = self._look()
            if delivery is not None:
                return delivery
            gate = threading.Lock()
            gate.acquire()
            call = gate.release
            self._readers.append(call)
            try:
                delivery = self._look()  # a put may have come between the first look and the call
                if delivery is not None:
                    self._withdraw(call)
                    return delivery
                left = None if deadline is None else deadline - clock.monotonic()
                with blocking():
                    woken = clock.wait(gate, left)
            except BaseException:
                self._withdraw(call)
                raise
            if not woken:
                self._withdraw(call)
                delivery = self._look()
                if delivery is not None:
                    return delivery
                raise self._timeout(timeout)

    def receive(self, timeout: float | None = None) -> Message[Any]:
        delivery = self._next(timeout, "await sub.areceive()")
        delivery.hand_over()
        return delivery.message  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Message[Any]]:
        while True:
            try:
                message = self.receive()
            except BusClosed:
                return
            yield message

    @contextmanager
    def delivery(self, timeout: float | None = None) -> Iterator[Any]:
        delivery = self._next(timeout, "async with sub.adelivery()")
        with settled(delivery):
            yield delivery

    # --- event loops ---------------------------------------------------------------------------------------------------

    async def _anext(self, timeout: float | None) -> Any:
        loop = asyncio.get_running_loop()
        clock = self.reader.plan.clock
        deadline = None if timeout is None else clock.monotonic() + timeout
        while True:
            delivery = self._look()
            if delivery is not None:
                return delivery
            arrived = asyncio.Event()

            def call(arrived: asyncio.Event = arrived) -> None:
                loop.call_soon_threadsafe(arrived.set)

            self._readers.append(call)
            try:
                delivery = self._look()
                if delivery is not None:
                    self._withdraw(call)
                    return delivery
                async with asyncio.timeout(None if deadline is None else deadline - clock.monotonic()):
                    await arrived.wait()
            except TimeoutError:
                self._withdraw(call)
                delivery = self._look()
                if delivery is not None:
                    return delivery
                raise self._timeout(timeout) from None
            except BaseException:
                self._withdraw(call)
                raise

    async def areceive(self, timeout: float | None = None) -> Message[Any]:
        delivery = await self._anext(timeout)
        delivery.hand_over()
        return delivery.message  # type: ignore[no-any-return]

    async def __aiter__(self) -> AsyncIterator[Message[Any]]:
        while True:
            try:
                message = await self.areceive()
            except BusClosed:
                return
            yield message

    @asynccontextmanager
    async def adelivery(self, timeout: float | None = None) -> AsyncIterator[Any]:
        delivery = await self._anext(timeout)
        with settled(delivery):
            yield delivery


@contextmanager
def settled(delivery: Any) -> Iterator[None]:
    """Acknowledge the delivery if the block succeeds, return it if not; unless the block has settled it itself."""
    try:
        yield
    except BaseException as error:
        delivery.settle_unless_settled(error)
        raise
    delivery.settle_unless_settled(None)

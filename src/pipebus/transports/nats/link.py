"""
The connection: one client of nats-py at a time, on an event loop in a thread of its own.

A client that has lost its server is thrown away, and new ones are made until one connects. So there is one way to begin, and
nothing waits in the buffers of a client that is gone. What must be said to the server waits in one line here, in order. Threads
and other loops append to it, and wake this loop once for many frames.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from pipebus.errors import PipebusError, TransportError
from pipebus.foreign.objects import text_of
from pipebus.transports.nats.asking import ANSWER, api, ask, final, why
from pipebus.transports.nats.client import SturdyClient, read_credentials, tls_context
from pipebus.transports.nats.options import Options

T = TypeVar("T")
PING: Final = 10
"""Seconds between two pings; after two of them without an answer the connection counts as lost."""
PENDING: Final = 16 * 2**20
"""Bytes that may wait for the socket."""
WAITS: Final = (0.02, 2.0)
"""Least and greatest pause between two attempts to connect, in seconds. It doubles each time, and is shortened at random."""
LOOK: Final = 0.2
"""Seconds between two checks whether the client is still connected."""
FRAME: Final = 64
"""Frames that are written before other tasks on this loop have their turn."""

Frame = tuple[str, bytes, str, dict[str, str] | None]
"""Subject, data, reply subject, headers: what `Client.publish` takes."""

_random: Final = random.Random()
"""A generator of our own: a program may have seeded the common one, and rely on its numbers."""


class Link:
    """
    It has many methods, since the thread, its loop and the client end together.

    Args:
        options: Where to connect, and with which login.
        warn: See `Surroundings`.
        found: Awaited with each new client before it is used.
    """

    def __init__(
        self,
        options: Options,
        warn: Callable[..., None],
        found: Callable[[Client], Awaitable[None]],
    ) -> None:
        self.options = options
        self.client: Client | None = None
        self.error: BaseException | None = None  # why there is no connection
        self._warn, self._found = warn, found
        self._line: deque[Frame | Callable[[], Frame | None]] = deque()
        self._calls: deque[Callable[[], object]] = deque()
        self._rung = False
        self._first = threading.Event()
        self._preparing = False
        self._hosts = [*options.hosts]
        _random.shuffle(self._hosts)
        self._closing = False
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- opening and closing -----------------------------------------------------------------------------------------

    def open(self) -> None:
        """
        Raises:
            TransportError: no server could be reached in time, or it refused the login.
        """
        self.context = tls_context(self.options)
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._unexpected)
        self._bell = asyncio.Event()
        self._connected = asyncio.Event()
        self.thread = threading.Thread(target=self._run, name="pipebus-nats", daemon=True)
        try:
            self.thread.start()
        except BaseException:
            self.loop.close()
            raise
        # A server that was reached may take its time with questions about streams; each of them has a timeout.
        if not self._first.wait(self.options.connect_timeout) and self._preparing:
            self._first.wait(2 * ANSWER)
        if self.client is not None:
            return
        error = self.error
        self.close()
        if isinstance(error, PipebusError):
            raise error
        if self._preparing:
            raise TransportError(f"{self.options} did not answer questions about its streams in {2 * ANSWER:g} s")
        raise TransportError(
            f"no connection to {', '.join(self.options.hosts)} within {self.options.connect_timeout:g} s: {why(error)}"
        ) from None

    def close(self) -> None:
        """Return when the thread has ended."""
        with suppress(RuntimeError):  # it has ended by itself
            self.loop.call_soon_threadsafe(self._end)
        self.thread.join()

    def _end(self) -> None:
        self._closing = True
        self._supervisor.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            with suppress(asyncio.CancelledError):
                self.loop.run_until_complete(self._main())
            self.loop.run_until_complete(self._leave())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    async def _main(self) -> None:
        self._supervisor = asyncio.create_task(self._supervise())
        writer = asyncio.create_task(self._write())
        try:
            await self._supervisor
        finally:
            writer.cancel()

    async def _leave(self) -> None:
        me = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not me]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Errors that tasks of the client do not catch."""
        error = context.get("exception")
        if not self._closing and not isinstance(error, (nats.errors.Error, OSError)):
            self._warn("transport.failed", server=str(self.options), error=str(error or context.get("message")))

    async def _supervise(self) -> None:
        """Make a client; and when it is gone, the next one."""
        pause, tried = WAITS[0], 0
        # A server that accepts connections and stays silent must leave time for the others.
        share = self.options.connect_timeout / len(self._hosts)
        while not self._closing:
            gone = asyncio.Event()
            client = SturdyClient()
            host = self._hosts[0]
            try:
                await asyncio.wait_for(self._connect(client, host, gone), share)
                self._preparing = True
                await self._found(client)
            except Exception as error:  # of any kind: the client raises many, and after giving up nobody would try again
                if not isinstance(error, (nats.errors.NoServersError, TimeoutError)) or self.error is None:
                    self.error = self._named(error)
                await client.leave()
                self._hosts.append(self._hosts.pop(0))
                tried += 1
                if tried % len(self._hosts):
                    continue
                if not self._first.is_set() and final(self.error):
                    self._first.set()
                    return
                await asyncio.sleep(_random.uniform(pause / 2, pause))
                pause = min(pause * 2, WAITS[1])
                continue
            except BaseException:
                await client.leave()
                raise
            if self._first.is_set():
                self._warn("transport.connected", server=str(self.options))
            self.client, self.error, pause, tried = client, None, WAITS[0], 0
            self._first.set()
            self._connected.set()
            self._bell.set()
            try:
                # A client whose closing or reading has failed does not report that.
                while client.is_connected and not gone.is_set() and not client.deaf:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(gone.wait(), LOOK)
            finally:
                self._connected.clear()
                self.client = None
                last = client.last_error
                await client.leave()
            self.error = last or TransportError("the connection was lost")
            self._warn("transport.disconnected", server=str(self.options), error=why(self.error))

    def _named(self, error: Exception) -> Exception:
        creds = self.options.creds
        if creds is not None and "authorization violation" in str(error).lower():
            return TransportError(
                f"{self.options} does not know the user of creds={creds}, or has revoked it, or its JWT has expired ({error})"
            )
        return error

    async def _connect(self, client: Client, host: str, gone: asyncio.Event) -> None:
        options = self.options

        async def closed() -> None:
            gone.set()

        async def failed(error: Exception) -> None:
            if isinstance(error, nats.errors.SlowConsumerError) or "permissions violation" in str(error).lower():
                self._warn("transport.refused", server=str(options), error=str(error))
            else:
                self.error = error

        scheme = "tls" if options.tls else "nats"
        more: dict[str, Any] = {"tls": self.context} if self.context is not None else {}
        if options.creds is not None:
            more["user_credentials"] = read_credentials(options.creds)  # for each connection: the file may have been replaced
        await client.connect(
            servers=[f"{scheme}://{host}"],
            name="pipebus",
            user=options.user,
            password=options.password,
            token=options.token,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=max(1, math.ceil(options.connect_timeout)),  # it takes whole seconds; our own timeout comes first
            ping_interval=PING,
            max_outstanding_pings=2,
            pending_size=PENDING,
            closed_cb=closed,
            error_cb=failed,
            # The bus has checked them, and the client takes `foo>` for a wildcard, which it is not.
            skip_subject_validation=True,
            **more,
        )

    # --- saying something --------------------------------------------------------------------------------------------

    @property
    def here(self) -> bool:
        """This is the link's own thread, which must not wait for itself."""
        return threading.current_thread() is self.thread

    def post(self, call: Callable[[], object]) -> None:
        """Call something on the loop, after what was posted before."""
        self._calls.append(call)
        if not self._rung:
            self._rung = True
            with suppress(RuntimeError):  # the loop is closed: nobody will call
                self.loop.call_soon_threadsafe(self._called)

    def _called(self) -> None:
        self._rung = False  # before the calls are read: a later `post` rings again
        while self._calls:
            try:
                self._calls.popleft()()
            except Exception as error:
                self._warn("transport.failed", server=str(self.options), error=text_of(error))

    def say(self, frame: Frame | Callable[[], Frame | None]) -> None:
        """
        Write something to the server as soon as there is one, after what was said before. On the loop.

        Args:
            frame: A frame; or a function that makes it when its turn comes, or returns None if it is no longer needed.
        """
        self._line.append(frame)
        self._bell.set()

    def say_first(self, frames: list[Callable[[], Frame | None]]) -> None:
        """Write frames before everything else that waits. On the loop."""
        self._line.extendleft(reversed(frames))
        self._bell.set()

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """
        Run a coroutine on the loop, and wait for it. From other threads.

        Raises:
            TransportError: it took too long.
        """
        if self.here:
            work.close()
            raise TransportError("this would wait for the thread it runs on; do it from a handler")
        limited = _limited(work, timeout)
        try:
            future = asyncio.run_coroutine_threadsafe(limited, self.loop)
            while True:
                try:
                    return future.result(1.0)
                except TimeoutError:
                    if future.done():
                        raise TransportError(f"no answer from {self.options} within {timeout or ANSWER:g} s") from None
                    if not self.thread.is_alive():
                        raise RuntimeError("its loop has ended") from None
        except (RuntimeError, asyncio.CancelledError):
            if not self.thread.is_alive():  # it may never have begun
                limited.close()
                work.close()
            raise TransportError("the connection is closed") from None

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine on the loop as a task. On the loop."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def idle(self) -> bool:
        """Nothing waits to be written."""
        return not self._line and not self._calls

    async def _write(self) -> None:
        while True:
            await self._connected.wait()
            client = self.client
            count = 0
            while self._line and client is not None and client is self.client:
                one = self._line.popleft()
                frame = one if isinstance(one, tuple) else one()
                if frame is None:
                    continue
                subject, data, reply, headers = frame
                try:
                    await client.publish(subject, data, reply, headers)
                except (nats.errors.Error, OSError) as error:
                    if client.is_connected:  # it is this frame that cannot be written
                        self._warn("transport.refused", server=str(self.options), subject=subject, error=why(error))
                        continue
                    self._line.appendleft(one)
                    break
                count += 1
                if count % FRAME == 0:
                    await asyncio.sleep(0)
            if self._line:
                await asyncio.sleep(WAITS[0])
                continue
            self._bell.clear()
            await self._bell.wait()

    # --- asking ------------------------------------------------------------------------------------------------------

    async def ask(self, subject: str, data: bytes = b"", headers: dict[str, str] | None = None, timeout: float = ANSWER) -> Msg:
        """`asking.ask`. On the loop."""
        return await ask(self._there(), subject, data, headers, timeout)

    async def api(self, subject: str, body: Any = None, client: Client | None = None) -> dict[str, Any]:
        """`asking.api`; with a client that is not in use yet, if there is one. On the loop."""
        return await api(client or self._there(), subject, body)

    def _there(self) -> Client:
        if self.client is None:
            raise TransportError(f"not connected to {self.options}: {why(self.error)}")
        return self.client


async def _limited(work: Coroutine[Any, Any, T], timeout: float | None) -> T:
    return await asyncio.wait_for(work, timeout)

"""
The connection: one client of nats-py at a time, on an event loop in a thread of its own.

A client that has lost its server is thrown away and another one made, for as long as it takes: so there is one way to begin,
and nothing waits in the buffers of one that is gone. What has to be said to the server waits in one line here, in order;
threads and other loops append to it and wake this loop once for many.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import ssl
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
from pipebus.transports.nats import creds
from pipebus.transports.nats.client import SturdyClient
from pipebus.transports.nats.options import Options

T = TypeVar("T")
PING: Final = 10
"""Seconds between two pings; after two without an answer the connection counts as lost."""
PENDING: Final = 16 * 2**20
"""Bytes that may wait for the socket."""
WAITS: Final = (0.02, 2.0)
"""Least and greatest pause between two attempts to connect, in seconds; doubled each time, and of random length below that."""
ANSWER: Final = 5.0
"""Seconds to wait for the server's answer to a question."""
LOOK: Final = 0.2
"""Seconds between two looks whether the client is still connected."""
LEADERLESS: Final = (10008, 10009)
"""JetStream's error codes where a cluster elects a leader just now."""
FRAME: Final = 64
"""Frames that are written before others on this loop have their turn."""

Frame = tuple[str, bytes, str, dict[str, str] | None]
"""Subject, data, reply subject, headers: what `Client.publish` takes."""

_random: Final = random.Random()
"""Our own: a program may have seeded the common one, and count on what it gives."""


class _Refused(TransportError):
    """
    The server says no.

    Args:
        code: Its error code, as in the list of JetStream's errors; 0: it gave none.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Link:
    """
    Args:
        options: Where to connect, and as whom.
        warn: See `Surroundings`.
        found: Awaited with each new client before it is used.
        lost: Called when a client is gone.
    """

    def __init__(
        self,
        options: Options,
        warn: Callable[..., None],
        found: Callable[[Client], Awaitable[None]],
        lost: Callable[[], None],
    ) -> None:
        self.options = options
        self.client: Client | None = None
        self.error: BaseException | None = None  # why there is no connection
        self._warn, self._found, self._lost = warn, found, lost
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
            TransportError: no server could be reached in time, or it let nobody in.
        """
        self.context = self._tls()
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
        # A server that is there may take its time with questions about streams; each of them has an end.
        if not self._first.wait(self.options.connect_timeout) and self._preparing:
            self._first.wait(2 * ANSWER)
        if self.client is not None:
            return
        error = self.error
        self.close()
        if isinstance(error, PipebusError):
            raise error
        if self._preparing:
            raise TransportError(f"{self.options} did not answer in {2 * ANSWER:g} s what was asked about its streams")
        raise TransportError(
            f"no connection to {', '.join(self.options.hosts)} within {self.options.connect_timeout:g} s: {why(error)}"
        ) from None

    def close(self) -> None:
        """End; the thread is gone when this returns."""
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
        """What tasks of the client let through."""
        error = context.get("exception")
        if not self._closing and not isinstance(error, (nats.errors.Error, OSError)):
            self._warn("transport.failed", server=str(self.options), error=str(error or context.get("message")))

    async def _supervise(self) -> None:
        """A client, and when it is gone the next."""
        pause, tried = WAITS[0], 0
        # One that takes connections and is silent leaves time for the others.
        share = self.options.connect_timeout / len(self._hosts)
        while not self._closing:
            gone = asyncio.Event()
            client = SturdyClient()
            host = self._hosts[0]
            try:
                await asyncio.wait_for(self._connect(client, host, gone), share)
                self._preparing = True
                await self._found(client)
            except Exception as error:  # of any kind: the client has many, and giving up would be for ever
                if not isinstance(error, (nats.errors.NoServersError, TimeoutError)) or self.error is None:
                    self.error = self._named(error)
                await client.leave()
                self._hosts.append(self._hosts.pop(0))
                tried += 1
                if tried % len(self._hosts):
                    continue
                if not self._first.is_set() and _final(self.error):
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
                # A client that fails while it closes, or whose reading has failed, does not say that it has.
                while client.is_connected and not gone.is_set() and not client.deaf:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(gone.wait(), LOOK)
            finally:
                self._connected.clear()
                self.client = None
                last = client.last_error
                await client.leave()
            self.error = last or TransportError("the connection was lost")
            self._lost()
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
            more["user_credentials"] = creds.read(options.creds)  # anew for each connection: it may have been replaced
        await client.connect(
            servers=[f"{scheme}://{host}"],
            name="pipebus",
            user=options.user,
            password=options.password,
            token=options.token,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=max(1, math.ceil(options.connect_timeout)),  # it takes whole seconds; who waits for this ends it
            ping_interval=PING,
            max_outstanding_pings=2,
            pending_size=PENDING,
            closed_cb=closed,
            error_cb=failed,
            # The bus has checked them; and the client's check takes `foo>` for a wildcard, which it is not.
            skip_subject_validation=True,
            **more,
        )

    def _tls(self) -> ssl.SSLContext | None:
        options = self.options
        if not options.encrypted:
            return None
        try:
            context = ssl.create_default_context(cafile=options.cafile)
            if options.cert is not None:
                context.load_cert_chain(options.cert, options.key)
        except (OSError, ssl.SSLError) as error:
            raise TransportError(f"the files of cafile, cert and key cannot be used: {error}") from None
        return context

    # --- saying something --------------------------------------------------------------------------------------------

    @property
    def here(self) -> bool:
        """Whether this is the link's own thread, which must not wait for itself."""
        return threading.current_thread() is self.thread

    def post(self, call: Callable[[], object]) -> None:
        """Have something called on the loop, after what was posted before."""
        self._calls.append(call)
        if not self._rung:
            self._rung = True
            with suppress(RuntimeError):  # the loop is closed: nobody will call
                self.loop.call_soon_threadsafe(self._called)

    def _called(self) -> None:
        self._rung = False  # before the line is read: who appends later rings again
        while self._calls:
            try:
                self._calls.popleft()()
            except Exception as error:
                self._warn("transport.failed", server=str(self.options), error=text_of(error))

    def say(self, frame: Frame | Callable[[], Frame | None]) -> None:
        """
        Have something written to the server, when there is one, after what was said before. On the loop.

        Args:
            frame: Or a function that makes it when its turn has come; None: not any more.
        """
        self._line.append(frame)
        self._bell.set()

    def say_first(self, frames: list[Callable[[], Frame | None]]) -> None:
        """Before everything else that waits. On the loop."""
        self._line.extendleft(reversed(frames))
        self._bell.set()

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """
        Do something on the loop, and wait for it. From other threads.

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
        """Do something on the loop, beside everything else. On the loop."""
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
        """
        One question, one answer. On the loop.

        Raises:
            TransportError: no connection, no answer, or nobody there to answer.
        """
        client = self.client
        if client is None:
            raise TransportError(f"not connected to {self.options}: {why(self.error)}")
        return await ask(client, subject, data, headers, timeout)

    async def api(self, subject: str, body: Any = None, client: Client | None = None) -> dict[str, Any]:
        """
        A question to JetStream. On the loop.

        Raises:
            _Refused: with its error code. TransportError.
        """
        data = b"" if body is None else json.dumps(body).encode()
        client = client or self.client
        if client is None:
            raise TransportError(f"not connected to {self.options}: {why(self.error)}")
        answer = await ask(client, f"$JS.API.{subject}", data, None, ANSWER)
        found: dict[str, Any] = json.loads(answer.data)
        if "error" in found:
            error = found["error"]
            text = error.get("description", "?")
            raise _Refused(f"JetStream refused {subject}: {text}", int(error.get("err_code", 0)))
        return found


async def ask(client: Client, subject: str, data: bytes, headers: dict[str, str] | None, timeout: float) -> Msg:
    """`Link.ask` with a client that is not in use yet."""
    try:
        return await client.request(subject, data, timeout=timeout, headers=headers)
    except nats.errors.NoRespondersError:
        raise _Refused(f"nobody answers on {subject}: JetStream is not enabled, or this user may not use it") from None
    except (TimeoutError, nats.errors.TimeoutError):
        raise TransportError(f"no answer on {subject} within {timeout:g} s: not allowed, or no connection") from None
    except (nats.errors.Error, OSError) as error:
        raise TransportError(f"{subject}: {why(error)}") from None


async def _limited(work: Coroutine[Any, Any, T], timeout: float | None) -> T:
    return await asyncio.wait_for(work, timeout)


def _final(error: BaseException | None) -> bool:
    """Whether it would not go better a second time."""
    if isinstance(error, _Refused) and error.code in LEADERLESS:
        return False
    return isinstance(error, (PipebusError, ssl.SSLCertVerificationError)) or "authorization violation" in str(error).lower()


def why(error: BaseException | None) -> str:
    """An error of a connection, and the next move."""
    if error is None:
        return "no server has answered; is it running, and is the port right?"
    text = str(error) or type(error).__name__
    low = text.lower()
    if isinstance(error, ConnectionRefusedError) or "connect call failed" in low:
        return f"{text}; start nats-server there, or correct host and port"
    if "authorization" in low or "authentication" in low:
        return f"{text}; give user and password as in nats://user:password@host, a token as in nats://token@host, or creds="
    if isinstance(error, ssl.SSLError) or "certificate" in low:
        return f"{text}; say cafile= where the server's certificate is signed by an authority of your own"
    return text

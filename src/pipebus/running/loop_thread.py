"""
The bus's own event loop, on a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pipebus.errors import BusClosed
from pipebus.foreign.objects import is_a
from pipebus.message.message import Message
from pipebus.running.here import carry
from pipebus.waiting.locks import Locks, free

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class LoopThread:
    """The bus's own event loop, on a thread that starts when one is first needed."""

    def __init__(self, name: str, interrupted: Callable[[BaseException], None], locks: Locks | None = None) -> None:
        self.name = name
        self.interrupted = interrupted  # called with a SystemExit or KeyboardInterrupt that a task has raised
        self._lock = (locks or Locks()).new()
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Allow the loop again, because the bus starts."""
        self._ended = False

    @property
    def running(self) -> asyncio.AbstractEventLoop | None:
        """The loop, if it has been needed since the bus started."""
        return self._loop

    @property
    def died(self) -> bool:
        """Whether its thread has ended though nobody has stopped it."""
        thread = self._thread
        return thread is not None and not thread.is_alive() and self._thread is thread

    def loop(self) -> asyncio.AbstractEventLoop:
        with free(self._lock):
            if self._ended:
                raise BusClosed("the bus has stopped, and its event loop with it")
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._run, args=(loop,), name=f"{self.name}-loop", daemon=True)
                try:
                    thread.start()
                except BaseException:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            while True:
                try:
                    loop.run_forever()
                    break
                except (SystemExit, KeyboardInterrupt) as error:  # raised by a user's task: the others continue
                    self.interrupted(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def call(self, link: Callable[[Message[Any]], Any], message: Message[Any]) -> Any:
        """
        Run an async chain and wait for its outcome, in a copy of this thread's context.

        Errors of the chain do not become the task's own: a CancelledError would reach the caller as another object, and a
        SystemExit would stop the loop.
        """
        raised: list[BaseException] = []

        async def run() -> Any:
            try:
                return await link(message)
            except BaseException as error:
                raised.append(error)
                return None

        loop = self.loop()
        context = contextvars.copy_context()
        here = carry(context)
        future = context.run(asyncio.run_coroutine_threadsafe, run(), loop)
        try:
            outcome = future.result()
        except BaseException:
            future.cancel()
            raise
        finally:
            here.empty()
        if raised:
            error = raised.pop()
            if is_a(error, asyncio.CancelledError) and self._loop is not loop:
                raise BusClosed("the bus stopped while this publish was in its chain; whether it was accepted is not known")
            raise error
        return outcome

    def stop(self, timeout: float | None) -> str | None:
        """End the loop and its thread. Returns the thread's name if it has not ended in time."""
        with free(self._lock):
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            self._ended = True
        if loop is None or thread is None:
            return None

        def end() -> None:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            asyncio.gather(*tasks, return_exceptions=True).add_done_callback(lambda _: loop.stop()) if tasks else loop.stop()

        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(end)
        if thread is threading.current_thread():
            return None
        thread.join(timeout)
        return thread.name if thread.is_alive() else None

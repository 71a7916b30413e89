"""
Handlers on event loops: a few long-lived tasks, each of which works through one mailbox at a time.

Mailboxes come from any thread: `submit` appends to `ready`, and sees to it that `spread` runs on the loop afterwards, unless
`called` says that one is on its way. A submit and a `spread` that begins can meet in three orders:

    the submit appends, and finds `called` set; `spread` clears it, and looks          it sees the mailbox
    the submit appends; `spread` clears `called`, and looks; the submit calls again    the first sees it, the second nothing
    `spread` clears `called`, and looks; the submit appends, and calls again           the second sees it

So a mailbox on the list is always seen. Only the loop's thread takes mailboxes from the list.

Each start of the bus has its own crew of workers. Workers that could not end with their bus, because a handler blocked their
loop, find only their own crew and its list when they go on. They do not touch a bus that was started again meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pipebus.clock import Clock
from pipebus.errors import BusClosed, LifecycleError
from pipebus.mailbox.asked import is_question
from pipebus.mailbox.offering import line_up_again
from pipebus.running.loop_thread import LoopThread
from pipebus.running.loop_worker import LoopWorker
from pipebus.running.pool import GRACE, sweep
from pipebus.running.starts import Starts
from pipebus.running.worker import still_at
from pipebus.waiting.latch import open_gate
from pipebus.waiting.locks import Locks

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

SOON: Final = 0.1  # seconds; a loop that is being ended has closed by then, or says so


def _sweep(ready: deque[Any]) -> None:
    for mailbox in sweep(ready):
        line_up_again(mailbox)


class Crew:
    """The workers of one start of the bus, on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callers: bool, orphans: deque[LoopWorker]) -> None:
        self.loop = loop
        self.callers = callers  # it is the loop of the caller that started the bus, which may cancel its tasks
        self.orphans = orphans
        self.ready: deque[Any] = deque()
        self.sleepers: list[LoopWorker] = []
        self.workers: dict[LoopWorker, None] = {}
        self.ending = False  # workers that have nothing to do end
        self.over = False  # the stop no longer waits for the workers
        self.called = False  # a `spread` is on its way
        self.burst = 2  # how many workers it gives a mailbox
        self.enlisted = False  # a mailbox came onto the list, but not from a worker, and no `spread` has begun since
        self.gate: Any = None  # opened when the last worker has ended

    def spread(self) -> None:
        """
        Give ready mailboxes to workers. (Called on the loop.)

        Two workers first: if their handlers wait for nothing, they go through the whole list, and no others are needed. If
        there are still mailboxes when the loop comes back here, twice as many workers as the last time get one each.
        """
        self.called = self.enlisted = False
        ready, sleepers = self.ready, self.sleepers
        for _ in range(self.burst):
            if not ready:
                break
            try:
                mailbox = ready.popleft()
            except IndexError:  # a signal handler was faster
                return
            try:
                self.wake(sleepers.pop(), mailbox)
                continue
            except IndexError:
                pass
            worker = LoopWorker(self, mailbox)
            self.workers[worker] = None
            worker.add_done_callback(self.never_began, context=contextvars.Context())
        if ready:
            self.burst *= 2
            self.called = True
            self.loop.call_soon(self.spread, context=contextvars.Context())
        else:
            self.burst = 2

    def never_began(self, worker: Any) -> None:
        """A worker is done. If it was cancelled before its first step, it could not clean up itself."""
        if worker in self.workers:
            self.return_(worker.mailbox)
            self.ended(worker)

    def return_(self, mailbox: Any) -> None:
        """Take back a mailbox that was given to a worker, which has not begun."""
        self.ready.append(mailbox)
        if self.over:
            _sweep(self.ready)
        self.soon()

    def soon(self, parcel: Any = None) -> None:
        """
        Spread the ready mailboxes in a moment, after a worker was cancelled.

        Code that ends the loop waits for the tasks that exist, so none may be made at once. If the loop still runs in a moment,
        only that worker was meant, and its delivery counts as an attempt: a handler that is always cancelled must not run
        forever. `asyncio.run` shuts down the loop's generators after it has cancelled all tasks, and then waits for the threads
        of `to_thread`, which may take longer than a moment.
        """

        def go_on() -> None:
            if getattr(self.loop, "_asyncgens_shutdown_called", False):  # asyncio's own loops have it
                self.soon(parcel)
                return
            if parcel is not None:
                parcel.attempt += 1
            self.spread()

        if not self.ending and not self.loop.is_closed():
            self.loop.call_later(SOON, go_on, context=contextvars.Context())

    @staticmethod
    def wake(worker: LoopWorker, mailbox: Any) -> None:
        worker.mailbox = mailbox
        if not worker.awake.done():
            worker.awake.set_result(None)

    def ended(self, worker: LoopWorker) -> None:
        self.workers.pop(worker, None)
        if worker in self.sleepers:
            self.sleepers.remove(worker)
        if self.gate is not None and not self.workers:
            open_gate(self.gate)

    def on_loop(self, call: Callable[[], None]) -> bool:
        """False if the loop does not run. (The bus's own loop may be about to begin.)"""
        if self.loop.is_closed() or (self.callers and not self.loop.is_running()):
            return False
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:
            return False
        return True

    def end(self) -> None:
        """End the workers that sleep. (Called on the loop.)"""
        sleepers, self.sleepers = self.sleepers, []
        for worker in sleepers:
            self.wake(worker, None)
        if not self.workers:
            open_gate(self.gate)

    def cancel(self) -> None:
        """Cancel the workers that still work. (Called on the loop.)"""
        for worker in list(self.workers):
            worker.told = True
            worker.cancel()


class LoopRunner:
    """
    Runs mailboxes on one loop: the caller's inside `async with bus`, otherwise the bus's own.

    Args:
        warn: Logs that the caller's loop was closed while the bus was running.
        starts: Called if the thread of the bus's own loop cannot be started.
        locks: The locks of the bus.
    """

    def __init__(
        self, clock: Clock, thread: LoopThread, warn: Callable[..., None], starts: Starts | None = None,
        locks: Locks | None = None,
    ) -> None:  # fmt: skip
        self.clock = clock
        self.thread = thread
        self.warn = warn
        self.orphans: deque[LoopWorker] = deque()  # workers whose loop was closed while they waited
        self._early: deque[Any] = deque()  # mailboxes that become ready while there is no crew
        self._callers: asyncio.AbstractEventLoop | None = None
        self._crew: Crew | None = None
        self._lock = (locks or Locks()).new()
        self._started = False
        self.starts = starts or Starts(lambda event, **facts: None)
        self.starts.serves(self)

    @property
    def running(self) -> asyncio.AbstractEventLoop | None:
        """The loop that handlers run on, if one has run since the bus started."""
        crew = self._crew
        return None if crew is None else crew.loop

    def submit(self, mailbox: Any) -> None:
        """Put a mailbox on the ready list, and make sure that it gets a worker."""
        self.enlist(mailbox)
        self.call()

    def enlist(self, mailbox: Any) -> None:
        """Put a mailbox on the ready list. Called once for each change from rest to ready, on any thread."""
        crew = self._crew
        if crew is None:
            self._early.append(mailbox)
            return
        crew.ready.append(mailbox)
        crew.enlisted = True
        if crew.over:  # perhaps no worker looks at that list any more
            with suppress(ValueError):  # a worker did
                crew.ready.remove(mailbox)
                self._early.append(mailbox)

    def help(self) -> None:
        crew = self._crew
        if crew is not None and crew.enlisted:
            crew.called = False  # it may be the work of the code that this interrupts; one `spread` too many does no harm
            self.call()
        elif self._early:
            self.call()

    def call(self, _: object = None) -> BaseException | None:
        """
        Make sure that the mailboxes on the ready list get workers.

        Returns:
            The error if the loop's thread could not be started. It is tried again.
        """
        crew = self._crew
        if crew is None:
            if self._lock._is_owned():
                return None  # the code that this interrupts looks again when it has released the lock
            try:
                with self._lock:
                    if self._crew is None and self._started:
                        self._crew = Crew(self._callers or self.thread.loop(), self._callers is not None, self.orphans)
                    crew = self._crew
            except BusClosed:
                raise
            except Exception as error:
                self.starts.failed(f"{self.thread.name}-loop", error, self.call)
                if isinstance(error, LifecycleError):
                    return None  # this interrupts the start of the thread, and is called again soon
                self.starts.say()
                error.add_note("(pipebus has kept the message, and handles it when a thread can be had)")
                return error
            if crew is None:  # the bus is stopped
                _sweep(self._early)
                return None
        while self._early:
            with suppress(IndexError):
                crew.ready.append(self._early.popleft())
        if crew.over:
            _sweep(crew.ready)
        if crew.called:
            return None
        crew.called = True
        loop = crew.loop
        try:
            # On the loop but outside a task, the caller is a signal handler. The loop may be about to wait then, and would not
            # see a direct `call_soon`.
            if asyncio._get_running_loop() is loop and asyncio.current_task(loop) is not None:
                # One worker is woken at once. All else that is published before the loop goes on waits for the `spread`.
                with suppress(IndexError):  # a signal handler was faster, or no worker sleeps
                    worker = crew.sleepers.pop()
                    try:
                        crew.wake(worker, crew.ready.popleft())
                    except IndexError:
                        crew.sleepers.append(worker)
                loop.call_soon(crew.spread, context=contextvars.Context())
            else:
                loop.call_soon_threadsafe(crew.spread)
        except RuntimeError:
            self.warn("loop.closed", advice="the loop that the bus was started on has ended; use `async with bus`")
        return None

    def start(self, loop: asyncio.AbstractEventLoop | None) -> None:
        with self._lock:
            self._callers = loop
            self._started = True
        self.adopt()
        if self._early:
            self.call()

    def move(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Go on, on another loop, if the caller's is closed."""
        with self._lock:
            crew = self._crew
            if self._callers is None or not self._callers.is_closed():
                return
            self._callers = loop
        self.adopt(go_on=True)
        if crew is None:
            return
        with self._lock:
            crew.ending = crew.over = True
            self._crew = None
        while crew.ready:
            with suppress(IndexError):  # `enlist` may take out what it has just put in
                self._early.append(crew.ready.popleft())
        if self._early:
            self.call()

    def adopt(self, go_on: bool = False) -> None:
        """
        Give back the mailboxes and messages that workers had when their loop was closed.

        Args:
            go_on: Another loop takes them over now. Otherwise they wait for the next start of the bus.
        """
        crew = self._crew
        if crew is not None and crew.loop.is_closed():  # do it now; the garbage collector would do it at any time
            for worker in list(crew.workers):
                coroutine: Any = worker.get_coro()
                worker.context.run(coroutine.close)
                worker._log_destroy_pending = False  # type: ignore[attr-defined]  # it has ended, though its loop will never know
                crew.never_began(worker)
        while self.orphans:
            worker = self.orphans.popleft()
            mailbox, item = worker.mailbox, worker.lost
            if is_question(item):
                mailbox.answered()
            elif item is not None:
                worker.told, worker.outside, worker.own = not go_on, 1, 0
                mailbox.failed(item, asyncio.CancelledError(), worker=worker)
            if mailbox is not None and still_at(mailbox, worker) and mailbox.leave():
                self.submit(mailbox)

    def stop(self, timeout: float) -> list[str]:
        """
        End all workers. Handlers that still run after `timeout` seconds are cancelled, and their messages go back.

        Returns:
            The names of the handlers that did not even end when they were cancelled: they are abandoned.
        """
        with self._lock:
            self._started = False
            crew = self._crew
        if crew is None:
            _sweep(self._early)
            return []
        crew.ending = True
        # Also if there seem to be no workers: a `spread` may just be making one, and has ended when `end` runs.
        gate = crew.gate = threading.Lock()
        gate.acquire()
        if crew.on_loop(crew.end) and not self.clock.wait(gate, timeout) and crew.on_loop(crew.cancel):
            self.clock.wait(gate, GRACE)
        crew.over = True
        for worker in list(crew.workers):
            worker.attention = True
        self.adopt()
        in_hand = [worker.here.mailbox for worker in list(crew.workers)]
        with self._lock:
            self._crew = self._callers = None
        _sweep(crew.ready)
        _sweep(self._early)
        return [f"{mailbox.name} (on an event loop)" for mailbox in in_hand if mailbox is not None]

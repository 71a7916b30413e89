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
import gc
import threading
import types
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from sys import getrefcount
from typing import Any, Final

from pipebus.clock import Clock
from pipebus.errors import BusClosed, LifecycleError
from pipebus.mailbox.asked import is_question
from pipebus.mailbox.claims import open_gate
from pipebus.mailbox.offering import line_up_again
from pipebus.mailbox.shared import SharedMailbox
from pipebus.message.message import Message
from pipebus.message.outcomes import HANDLED
from pipebus.running.here import Here, carried
from pipebus.running.loop_thread import LoopThread
from pipebus.running.pool import CHUNK, GRACE, rescued, still_at, sweep
from pipebus.running.starts import Starts
from pipebus.waiting.locks import Locks

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

SPARE: Final = 64  # how many sleeping workers to keep; a burst may use more for a while
SOON: Final = 0.1  # seconds; a loop that is being ended has closed by then


def _sweep(ready: deque[Any]) -> None:
    for mailbox in sweep(ready):
        line_up_again(mailbox)


async def called(call: Callable[[Any], Any], argument: Any, asynchronous: bool) -> Any:
    """A call of either colour as a coroutine."""
    value = call(argument)
    return await value if asynchronous else value


@types.coroutine
def in_context(context: contextvars.Context, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Await a coroutine that runs in `context` instead of the task's own."""
    step, value = coroutine.send, None
    while True:
        try:
            awaited = context.run(step, value)
        except StopIteration as end:
            return end.value
        try:
            step, value = coroutine.send, (yield awaited)
        except GeneratorExit:
            context.run(coroutine.close)
            raise
        except BaseException as error:
            step, value = coroutine.throw, error


class LoopWorker(asyncio.Task[None]):
    """
    A task that works through mailboxes, one at a time.

    Handlers run in the task's own context. If one leaves something in it, each of the next deliveries gets another context,
    which takes longer, and the worker ends when it has nothing to do.

    `cancel` and `uncancel` record who cancelled the task, because that decides what becomes of the message in hand. If it was
    the bus or the owner of the loop, the message goes back. If it was the handler itself, the handler has failed. A time-out or
    a task group inside the handler also cancels the task from outside, but takes that back.
    """

    __slots__ = (
        "apart", "attention", "awake", "back", "context", "crew", "gone", "here", "lost", "mailbox", "outside", "own",
        "references", "table", "told",
    )  # fmt: skip

    def __init__(self, crew: Crew, mailbox: Any) -> None:
        self.crew = crew
        self.mailbox: Any = mailbox  # None: it sleeps, or has to end
        self.awake: asyncio.Future[None]  # what it waits for while it sleeps
        self.context = context = contextvars.Context()
        self.apart: contextvars.Context | None = None  # the delivery's, if the task's own is used up
        self.here = Here(None)  # the value of `carried` in the delivery's context
        self.table: Any = None  # the variables in the task's own context
        self.references = (0, 0)  # to `here` and `table`, as long as there is no copy of the context
        self.attention = False  # it was cancelled, or its crew is over: it looks at that after the current delivery
        self.told = False  # the bus has cancelled it
        self.outside = 0  # cancellations that came while its handler waited
        self.own = 0  # cancellations by its handler, minus all that were taken back
        self.gone = False  # it was cancelled by the bus or the owner of the loop, so it leaves
        self.back: Any = None  # the parcel that has gone back because of that
        self.lost: Any = None  # the message that it had when its loop was closed
        # Not by `create_task`, which may run the first step at once, inside the call that publishes.
        loop, steps = crew.loop, self.run
        super().__init__(steps(), loop=loop, name="pipebus-worker", context=context)

    def cancel(self, msg: Any = None) -> bool:
        self.attention = True
        if asyncio.current_task(self.crew.loop) is self:
            self.own += 1
        else:
            self.outside += 1
        return super().cancel(msg)

    def uncancel(self) -> int:
        if self.cancelling():
            self.own -= 1
        return super().uncancel()

    def cancelled_by_others(self) -> bool:
        """Whether the bus or the owner of the loop has cancelled this task. (The bus's own loop has no other owner.)"""
        self.gone = self.told or (self.crew.callers and self.outside + min(self.own, 0) > 0)
        return self.gone

    @property
    def closing(self) -> bool:
        """Whether its coroutine is being closed, because its loop was closed while it waited."""
        return asyncio.current_task(self.crew.loop) is not self

    async def run(self) -> None:
        crew, turns = self.crew, 0
        try:
            while self.mailbox is not None:
                mailbox = self.mailbox
                if crew.over:  # it was given a mailbox, but the crew ended before it began
                    line_up_again(mailbox)
                    return
                again = await (self.shared(mailbox) if isinstance(mailbox, SharedMailbox) else self.solo(mailbox))
                if again:
                    if crew.over:
                        line_up_again(mailbox)  # the bus was started again, with another crew
                    else:
                        crew.ready.append(mailbox)
                mailbox = None  # the last worker must not keep a stopped actor alive
                if self.gone and not self.told:
                    crew.soon(self.back)
                    raise asyncio.CancelledError
                turns += 1
                if turns % CHUNK == 0 and not self.gone:
                    await self.breathe()
                if self.gone or crew.over:
                    return
                await self.next()
        except GeneratorExit:
            # If the garbage collector closes the coroutine, this runs anywhere and at any time: it must take no lock.
            crew.orphans.append(self)
            raise
        finally:
            crew.ended(self)

    async def next(self) -> None:
        """
        Take the next mailbox, or sleep until there is one. It stays None if the worker has to end: if the bus stops, if enough
        others sleep, or if a handler has left something in the context, which would be kept alive.
        """
        crew, self.mailbox = self.crew, None
        # A signal handler may publish between any two steps, and give what is ready to workers that sleep.
        if crew.ready:
            with suppress(IndexError):
                self.mailbox = crew.ready.popleft()
                return
        if crew.ending or len(crew.sleepers) >= SPARE or len(self.context) > 1:
            return
        self.awake = crew.loop.create_future()
        crew.sleepers.append(self)
        try:
            await self.awake
        except asyncio.CancelledError:
            if self.mailbox is not None:  # it was woken at the same moment, but has not begun
                crew.return_(self.mailbox)
            raise

    async def solo(self, mailbox: Any) -> bool:
        """Work through a mailbox that has one worker; True if it has to go to the end of the ready list."""
        box = mailbox.begin(self)
        if box is None:
            return False
        item: Any = None
        try:
            owner, crew, here, table = mailbox, self.crew, self.here, self.table
            of_here, of_table = self.references
            run, quick, asynchronous, take = owner.chain(), owner.quick, owner.is_async, box.popleft
            while True:
                for _ in range(CHUNK):
                    if mailbox.attention and not mailbox.attend(box):
                        return False
                    try:
                        item = take()
                    except IndexError:
                        if mailbox.rest(box):
                            return False
                        continue
                    mailbox.taken += 1
                    if getrefcount(here) != of_here or getrefcount(table) != of_table:
                        here, table = self.renew()
                        own = self.apart is None
                        self.references = of_here, of_table = (getrefcount(here), getrefcount(table)) if own else (0, 0)
                    here.mailbox = mailbox
                    if quick and item.__class__ is Message and item.ttl is None:
                        try:
                            if self.apart is not None:
                                outcome = await in_context(self.apart, called(run, item, asynchronous))
                            elif asynchronous:
                                outcome = await run(item)
                            else:
                                outcome = run(item)
                        except BaseException as error:
                            if self.closing:
                                self.lost = item
                                raise
                            owner.failed(item, error, worker=self)
                        else:
                            if outcome is None or outcome is HANDLED or owner.settled_at_once(item, outcome):
                                mailbox.acknowledged += 1
                            else:
                                await self.within(owner.asettle(item, outcome, worker=self))
                    else:
                        await self.within(owner.adeliver(item, self))
                    here.mailbox = None
                    if self.attention and await self.leaving():
                        return bool(mailbox.leave())
                    if not box and not mailbox.attention and mailbox.rest(box):  # no exception, where mail is sparse
                        return False
                await self.breathe()  # handlers that never wait must not block the other tasks of the loop
                if self.gone or crew.over:
                    return bool(mailbox.leave())
        except BaseException as error:
            return self.rescued(mailbox, item, error)

    async def shared(self, mailbox: SharedMailbox) -> bool:
        """`solo` for a mailbox that has several workers, or that takes a lock for everything."""
        owner: Any = mailbox
        item: Any = None
        try:
            for _ in range(CHUNK):
                item = mailbox.take()
                if item is None:
                    return False
                here, _ = self.renew()
                here.mailbox = mailbox
                await self.within(owner.adeliver(item, self))
                here.mailbox = None
                if self.attention and await self.leaving():
                    return mailbox.leave()
        except BaseException as error:
            return self.rescued(mailbox, item, error)
        await self.breathe()
        return mailbox.leave()

    def renew(self) -> tuple[Here, Any]:
        """
        Prepare the next delivery: with a new `Here`, since others may have the old one, or with a context of its own, if a
        handler has left something in the task's.

        Tasks, callbacks and threads that a handler starts have copies of its context, and must not count as part of the next
        delivery. Each copy refers to the same table of variables or, if a variable was set in it, to the same `Here`. So the
        numbers of references show whether there is a copy, for a tenth of what a new `Here` in each delivery would cost.
        """
        self.here = here = Here(None)
        if len(self.context) > 1:
            self.apart, self.table = contextvars.Context(), None
            self.apart.run(carried.set, here)
        else:
            carried.set(here)
            self.table = gc.get_referents(self.context)[-1]
        return here, self.table

    def within(self, coroutine: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
        """The coroutine, run in the context of the delivery."""
        return coroutine if self.apart is None else in_context(self.apart, coroutine)

    def rescued(self, mailbox: Any, item: Any, error: BaseException) -> bool:
        """See `pool.rescued`."""
        self.here.mailbox = None
        if self.closing:  # even if the handler raised something else
            raise GeneratorExit
        return rescued(mailbox, item, error, self)

    async def leaving(self) -> bool:
        """Whether the worker must leave, after a delivery in which it was cancelled or its bus has stopped."""
        if not (self.gone or self.cancelled_by_others() or self.crew.over):
            await self.breathe()
        return self.gone or self.crew.over

    async def breathe(self) -> None:
        """
        Let the loop run other tasks between two messages.

        A cancellation that comes meanwhile is meant for the worker. One that came before was meant for a handler that has
        ended, and must not reach the next one.
        """
        self.outside = self.own = 0
        self.attention = False
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.gone = self.outside > 0
        while not self.gone and self.cancelling():
            super().uncancel()


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
        self.burst = 1  # how many workers it gives a mailbox
        self.enlisted = False  # a mailbox came onto the list, but not from a worker, and no `spread` has begun since
        self.gate: Any = None  # opened when the last worker has ended

    def spread(self) -> None:
        """
        Give ready mailboxes to workers. (Called on the loop.)

        One worker first: if its handlers wait for nothing, it goes through the whole list, and no other is needed. If there are
        still mailboxes when the loop comes back here, twice as many workers as the last time get one each.
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
            self.burst = 1

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
        forever.
        """

        def go_on() -> None:
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

    def adopt(self) -> None:
        """Give back the mailboxes and messages that workers had when their loop was closed."""
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
                worker.told = True
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

"""
Handlers on event loops: a few long-lived tasks, each of which works through one mailbox at a time.

A task for each message would cost six times what a message costs here. So a worker is a task that lives on, and gives every
delivery a context (`contextvars`) of its own by taking the steps of the handler's coroutine itself, inside that context.

Mailboxes come from any thread: `submit` appends to `ready` and sees that `spread` runs on the loop. The orders of a submit
against a `spread` that begins:

    append, `called`? yes (a spread is on its way), `called` = False, look        the spread sees it
    append, `called` = False, `called`? no, call another spread; look             the first sees it, the other finds nothing
    `called` = False, look, append, `called`? no                                  another spread is called, and sees it

so a mailbox on the list is always seen. Only the loop's thread takes from the list, and hands what it takes to a worker.

Each start of the bus has a crew of its own. One that was told to end and could not (a handler blocks its loop) finds, when it
goes on at last, only its own workers and its own list, and not those of a bus that was started again meanwhile.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from types import CoroutineType
from typing import Any, Final

from pipebus.clock import Clock
from pipebus.errors import BusClosed, LifecycleError
from pipebus.foreign.objects import is_a
from pipebus.mailbox.asked import is_question
from pipebus.mailbox.mailbox import open_gate
from pipebus.mailbox.shared import SharedMailbox
from pipebus.message.message import Message
from pipebus.message.outcomes import HANDLED
from pipebus.running.runners import CHUNK, GRACE, Here, Starts, carried, carry, rescued, sweep
from pipebus.waiting.locks import Locks, free

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

SPARE: Final = 64  # sleeping workers kept; a burst may need more, for its time
SOON: Final = 0.1  # seconds: longer than a loop that is being ended lives


class LoopThread:
    """The bus's own event loop, on a thread that starts when one is first needed."""

    def __init__(self, name: str, interrupted: Callable[[BaseException], None], locks: Locks | None = None) -> None:
        self.name = name
        self.interrupted = interrupted  # told of a SystemExit or KeyboardInterrupt in some task
        self._lock = (locks or Locks()).new()
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """The bus starts."""
        self._ended = False

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
                except (SystemExit, KeyboardInterrupt) as error:  # in a task of the user's: it ends no other task
                    self.interrupted(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def call(self, link: Callable[[Message[Any]], Any], message: Message[Any]) -> Any:
        """
        Run an async chain and wait for its outcome, in a copy of this thread's context.

        What the chain raises is carried over by hand: as a task's own exception a CancelledError would come out as another
        object, and a SystemExit would end the loop for everybody.
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
            here.mailbox = None
        if raised:
            error = raised.pop()
            if is_a(error, asyncio.CancelledError) and self._loop is not loop:
                raise BusClosed("the bus stopped while this publish was in its chain; whether it was accepted is not known")
            raise error
        return outcome

    def stop(self, timeout: float | None) -> str | None:
        """End the loop and its thread; the thread's name if it has not ended in time."""
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

        with suppress(RuntimeError):  # it was closed by somebody else
            loop.call_soon_threadsafe(end)
        if thread is threading.current_thread():
            return None
        thread.join(timeout)
        return thread.name if thread.is_alive() else None


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


class Steps:
    """The steps of a coroutine after its first, each taken in `context`; what it waits for is passed up to the task."""

    __slots__ = ("context", "coroutine", "waits_for", "worker")

    def __init__(
        self, context: contextvars.Context, coroutine: Coroutine[Any, Any, Any], waits_for: Any, worker: LoopWorker
    ) -> None:
        self.context = context
        self.coroutine = coroutine
        self.waits_for = waits_for
        self.worker = worker

    def __await__(self) -> Generator[Any, Any, Any]:
        run, coroutine, waits_for, worker = self.context.run, self.coroutine, self.waits_for, self.worker
        cancelling = worker.task.cancelling
        # Cancellations that came while the coroutine waited are not its own. A time-out or a task group comes like that too,
        # and is taken back in a step.
        worker.outside = 0
        try:
            while True:
                before = cancelling()
                try:
                    value = yield waits_for
                except GeneratorExit:
                    worker.closing = True
                    with suppress(BaseException):  # whatever it does about that, its message goes back
                        run(coroutine.close)  # the loop was closed under it
                    raise
                except BaseException as error:
                    worker.outside += max(0, cancelling() - before)
                    worker.step_began = cancelling()
                    waits_for = run(coroutine.throw, error)
                else:
                    worker.outside += max(0, cancelling() - before)
                    worker.step_began = cancelling()
                    waits_for = run(coroutine.send, value)
                worker.count_step()
        except StopIteration as end:
            worker.count_step()
            return end.value
        except asyncio.CancelledError:
            worker.count_step()
            raise


async def in_context(context: contextvars.Context, call: Callable[[Any], Any], argument: Any, worker: LoopWorker) -> Any:
    """`await call(argument)`, all of it in `context`."""
    coroutine = context.run(call, argument)
    if coroutine.__class__ is not CoroutineType:
        coroutine = _awaited(coroutine)
    try:
        waits_for = context.run(coroutine.send, None)
    except StopIteration as end:  # it ended without waiting for anything
        return end.value
    return await Steps(context, coroutine, waits_for, worker)


def _sweep(ready: deque[Any]) -> None:
    for mailbox in sweep(ready):
        mailbox.line_up_again()


class LoopWorker:
    """A task that works through mailboxes."""

    def __init__(self, crew: Crew, mailbox: Any) -> None:
        self.crew = crew
        self.mailbox: Any = mailbox  # None: sleeping, or told to end
        self.awake: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None]
        self.told = False  # the bus has cancelled it
        self.outside = 0  # cancellations that came from elsewhere while its handler waited
        self.step_began = 0  # how often it was being cancelled when the handler's step began
        self.back: Any = None  # the parcel that has gone back because of one
        self.gone = False  # cancelled, and its message has gone back: it leaves
        self.closing = False  # its loop was closed under it
        self.lost: Any = None  # what it had in hand then
        self._context = contextvars.Context()
        self._here = Here(None)

    @property
    def name(self) -> str:
        return f"{self.mailbox.owner.name} (on an event loop)"

    @property
    def handling(self) -> bool:
        """It is in a handler at this moment, and not on its way to one, or from one."""
        return self._here.mailbox is not None and self.mailbox is not None

    async def run(self) -> None:
        crew = self.crew
        try:
            while self.mailbox is not None:
                mailbox = self.mailbox
                if crew.over:  # it was given a mailbox, and comes to it only now
                    mailbox.line_up_again()
                    return
                again = await (self.shared(mailbox) if isinstance(mailbox, SharedMailbox) else self.solo(mailbox))
                self._here.mailbox = None
                if again:
                    if crew.over:
                        mailbox.line_up_again()  # the bus was started again, with another crew
                    else:
                        crew.ready.append(mailbox)
                mailbox = None  # an actor that has stopped is not kept alive by its last worker
                if self.gone and not self.told:
                    crew.soon(self.back)
                    raise asyncio.CancelledError
                if self.gone or crew.over or not await self.next():
                    return
        except GeneratorExit:
            # The collector closes it, anywhere and at any time: no lock may be taken here.
            crew.orphans.append(self)
            raise
        finally:
            crew.ended(self)

    async def next(self) -> bool:
        """The next mailbox; False if there is nothing to do and there are workers to spare."""
        crew = self.crew
        # A signal handler may publish between any two steps, and so spread what is ready over those who sleep.
        try:
            self.mailbox = crew.ready.popleft()
        except IndexError:
            self.mailbox = None
            if crew.ending or len(crew.sleepers) >= SPARE:
                return False
            self.awake = crew.loop.create_future()
            crew.sleepers.append(self)
            try:
                await self.awake
            except asyncio.CancelledError:
                if self.mailbox is not None:  # woken at the same moment: what it was woken for is not begun
                    crew.return_(self.mailbox)
                raise
        return self.mailbox is not None

    def cancelled(self) -> bool:
        """
        Whether a CancelledError is a real one: the bus or the loop's owner has cancelled this task. One that a handler makes
        up, or brings about by cancelling the task that it runs in, is the handler's error.
        """
        self.count_step()
        self.gone = self.told or (self.crew.callers and self.outside > 0)
        return self.gone

    def count_step(self) -> None:
        """What a step has taken back was a time-out's, or a task group's."""
        now = self.task.cancelling()
        self.outside = max(0, self.outside - max(0, self.step_began - now))
        self.step_began = now

    async def breathe(self) -> None:
        """
        Give way to the loop between two messages. A cancellation that comes now is the bus's or the loop's owner's. One that
        came before was meant by a handler for itself: it is over with that handler, and not for the next message.
        """
        before = self.task.cancelling()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.gone = self.told or self.task.cancelling() > before
        while not self.gone and self.task.cancelling():
            self.task.uncancel()

    def context(self, mailbox: Any) -> contextvars.Context:
        """A context in which nothing is set but whose handler runs. One in which nothing was left is as good as new."""
        self.outside = 0
        self._here.mailbox = None  # the last handler's
        self._here = here = Here(mailbox)
        if len(self._context) > 1:
            self._context = contextvars.Context()
        self._context.run(carried.set, here)
        return self._context

    async def solo(self, mailbox: Any) -> bool:
        """Work through a mailbox that has one worker; True if it has to go to the end of the ready list."""
        items = mailbox.begin()
        if items is None:
            return False
        item: Any = None
        try:
            owner, crew = mailbox.owner, self.crew
            run, quick, asynchronous, take = owner.chain(), owner.quick, owner.is_async, items.popleft
            while True:
                for _ in range(CHUNK):
                    if mailbox.attention and not mailbox.attend():
                        return False
                    try:
                        item = take()
                    except IndexError:
                        self._here.mailbox = None
                        if mailbox.rest():
                            return False
                        items = mailbox.items or items  # another one, if the bus has stopped and opened again meanwhile
                        take = items.popleft
                        continue
                    mailbox.taken += 1
                    context = self.context(mailbox)
                    if quick and item.__class__ is Message and item.ttl is None:
                        try:
                            if asynchronous:
                                outcome = await in_context(context, run, item, self)
                            else:
                                outcome = context.run(run, item)
                        except BaseException as error:
                            if self.closing:
                                self.lost = item
                                raise
                            owner.failed(item, error, worker=self)
                        else:
                            if outcome is None or outcome is HANDLED or owner.settled_at_once(item, outcome):
                                mailbox.acknowledged += 1
                            else:
                                await in_context(context, functools.partial(owner.asettle, item, worker=self), outcome, self)
                    else:
                        await in_context(context, functools.partial(owner.adeliver, worker=self), item, self)
                    if (self.gone or crew.over or self.task.cancelling()) and await self.leaving():
                        return bool(mailbox.leave())
                self._here.mailbox = None
                await self.breathe()  # handlers that never wait must not keep the loop from everybody else
                if self.gone or crew.over:
                    return bool(mailbox.leave())
        except BaseException as error:
            return self.rescued(mailbox, item, error)

    async def shared(self, mailbox: SharedMailbox) -> bool:
        """The same where several workers, or a lock for everything, are wanted."""
        owner: Any = mailbox.owner
        item: Any = None
        try:
            for _ in range(CHUNK):
                item = mailbox.take()
                if item is None:
                    self._here.mailbox = None
                    return False
                await in_context(self.context(mailbox), functools.partial(owner.adeliver, worker=self), item, self)
                if (self.gone or self.crew.over or self.task.cancelling()) and await self.leaving():
                    return mailbox.leave()
        except BaseException as error:
            return self.rescued(mailbox, item, error)
        self._here.mailbox = None
        await self.breathe()
        return mailbox.leave()

    def rescued(self, mailbox: Any, item: Any, error: BaseException) -> bool:
        """See `runners.rescued`; what ends this task itself passes through."""
        self._here.mailbox = None
        if self.closing or is_a(error, (GeneratorExit, asyncio.CancelledError)):
            raise error
        return rescued(mailbox, item, error)

    async def leaving(self) -> bool:
        """After a delivery in which this task was cancelled, or that outlived its bus: whether to leave."""
        self._here.mailbox = None
        if not self.gone and self.outside and self.crew.callers:  # its handler has let it pass
            self.gone = True
        if not (self.gone or self.crew.over):
            await self.breathe()
        return self.gone or self.crew.over


class Crew:
    """The workers of one start of the bus, on one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callers: bool, orphans: deque[LoopWorker]) -> None:
        self.loop = loop
        self.callers = callers  # whose owner may end it; on the bus's own loop only the bus cancels workers
        self.orphans = orphans
        self.ready: deque[Any] = deque()
        self.sleepers: list[LoopWorker] = []
        self.workers: dict[LoopWorker, None] = {}
        self.ending = False  # workers that have nothing to do end
        self.over = False  # nobody waits for them any more
        self.called = False  # a `spread` is on its way
        self.enlisted = False  # something came onto the list from outside; what workers put back there may have to wait
        self.thread = 0  # the one that the loop was last seen to run on
        self.gate: Any = None  # opened when the last worker has ended

    def spread(self) -> None:
        """On the loop: give each ready mailbox a worker."""
        self.thread = threading.get_ident()
        self.called = self.enlisted = False
        ready, sleepers = self.ready, self.sleepers
        while True:
            try:
                mailbox = ready.popleft()
            except IndexError:
                return
            with suppress(IndexError):
                self.wake(sleepers.pop(), mailbox)
                continue
            worker = LoopWorker(self, mailbox)
            self.workers[worker] = None
            # Not by `create_task`, which may be told to run a first step at once, inside whoever publishes.
            worker.task = asyncio.Task(worker.run(), loop=self.loop, name="pipebus-worker", context=contextvars.Context())
            worker.task.add_done_callback(functools.partial(self.never_began, worker), context=contextvars.Context())

    def never_began(self, worker: LoopWorker, _: object) -> None:
        """A task is done. One that was cancelled before its first step has not come to its own end."""
        if worker in self.workers:
            self.return_(worker.mailbox)
            self.ended(worker)

    def return_(self, mailbox: Any) -> None:
        """A mailbox that was given to a worker, and not begun."""
        self.ready.append(mailbox)
        if self.over:
            _sweep(self.ready)
        self.soon()

    def soon(self, parcel: Any = None) -> None:
        """
        Whoever ends the loop waits for its tasks and makes none. If one alone was meant, others go on in a moment; and then it
        was an attempt, or a handler that is always cancelled would be run for ever.
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
        if worker.awake is not None and not worker.awake.done():
            worker.awake.set_result(None)

    def ended(self, worker: LoopWorker) -> None:
        self.workers.pop(worker, None)
        if worker in self.sleepers:
            self.sleepers.remove(worker)
        if self.gate is not None and not self.workers:
            open_gate(self.gate)

    def on_loop(self, call: Callable[[], None]) -> bool:
        """False if the loop runs no more. (The bus's own may be about to begin.)"""
        if self.loop.is_closed() or (self.callers and not self.loop.is_running()):
            return False
        try:
            self.loop.call_soon_threadsafe(call)
        except RuntimeError:
            return False
        return True

    def end(self) -> None:
        """On the loop: who sleeps ends."""
        sleepers, self.sleepers = self.sleepers, []
        for worker in sleepers:
            self.wake(worker, None)
        if not self.workers:
            open_gate(self.gate)

    def cancel(self) -> None:
        """On the loop: who works is cancelled."""
        for worker in list(self.workers):
            worker.told = True
            worker.task.cancel()


class LoopRunner:
    """
    Runs mailboxes on one loop: the caller's inside `async with bus`, else the bus's own.

    Args:
        warn: Says that the caller's loop was closed under a running bus.
        starts: Hears of a loop's thread that cannot be started.
        locks: Of its bus.
    """

    def __init__(
        self, clock: Clock, thread: LoopThread, warn: Callable[..., None], starts: Starts | None = None,
        locks: Locks | None = None,
    ) -> None:  # fmt: skip
        self.clock = clock
        self.thread = thread
        self.warn = warn
        self.orphans: deque[LoopWorker] = deque()  # workers whose loop was closed under them
        self._early: deque[Any] = deque()  # mailboxes that come while no crew is there
        self._callers: asyncio.AbstractEventLoop | None = None
        self._crew: Crew | None = None
        self._lock = (locks or Locks()).new()
        self._started = False
        self.starts = starts or Starts(lambda event, **facts: None)
        self.starts.serves(self)

    def submit(self, mailbox: Any) -> None:
        """Put a mailbox on the ready list, and see that it is looked at."""
        self.enlist(mailbox)
        self.call()

    def enlist(self, mailbox: Any) -> None:
        """Put a mailbox on the ready list. Called once per change from rest to ready, on any thread."""
        crew = self._crew
        if crew is None:
            self._early.append(mailbox)
            return
        crew.ready.append(mailbox)
        crew.enlisted = True
        if crew.over:  # nobody may look there any more
            with suppress(ValueError):  # somebody has
                crew.ready.remove(mailbox)
                self._early.append(mailbox)

    def call(self, _: object = None) -> BaseException | None:
        """
        After something was put on the ready list.

        Returns:
            What kept the loop's thread from being started, if something did. It is tried again.
        """
        crew = self._crew
        if crew is None or self._early:
            return self.spread()
        self._call(crew)
        return None

    def help(self) -> None:
        crew = self._crew
        if crew is not None and crew.enlisted:
            crew.called = False  # whoever has said so may be the code that we have interrupted; a spread too many does no harm
            self.call()
        elif self._early:
            self.call()

    def spread(self) -> BaseException | None:
        """See that what has come is given to workers."""
        crew = self._crew
        if crew is None:
            if self._lock._is_owned():
                return None  # the code that we have interrupted looks again when it has given the lock back
            try:
                crew = self._begin()
            except BusClosed:
                raise
            except Exception as error:
                self.starts.failed(f"{self.thread.name}-loop", error, self.spread)
                if isinstance(error, LifecycleError):
                    return None  # we have interrupted the start of its thread, and come back soon
                self.starts.say()
                error.add_note("(pipebus has kept the message, and handles it when a thread can be had)")
                return error
        if crew is None:
            _sweep(self._early)
            return None
        with suppress(IndexError):
            while True:
                crew.ready.append(self._early.popleft())
        self._call(crew)
        return None

    def _call(self, crew: Crew) -> None:
        if crew.over:
            _sweep(crew.ready)
        if crew.called:
            return
        crew.called = True
        try:
            # The thread is a cheap first look; the second is that a task runs there. A signal's handler may run in between two
            # tasks, when the loop is about to wait and would not see what we put before it.
            if threading.get_ident() == crew.thread and asyncio.current_task(crew.loop) is not None:
                crew.spread()
            else:
                crew.loop.call_soon_threadsafe(crew.spread)
        except RuntimeError:
            self.warn("loop.closed", advice="the loop that the bus was started on has ended; use `async with bus`")

    def _begin(self) -> Crew | None:
        """The crew of this start, made when it is first needed; None while the bus is stopped."""
        with self._lock:
            if self._crew is None and self._started:
                self._crew = Crew(self._callers or self.thread.loop(), self._callers is not None, self.orphans)
            return self._crew

    def start(self, loop: asyncio.AbstractEventLoop | None) -> None:
        with self._lock:
            self._callers = loop
            self._started = True
        self.adopt()
        if self._early:
            self.spread()

    def adopt(self) -> None:
        """What workers had in hand whose loop was closed under them goes back."""
        crew = self._crew
        if crew is not None and crew.loop.is_closed():  # the collector would end its coroutines some time
            for worker in list(crew.workers):
                coroutine = worker.task.get_coro()
                if coroutine is not None:
                    coroutine.close()
                if worker in crew.workers:  # it had not begun, so that its end has told nobody
                    crew.never_began(worker, None)
        while self.orphans:
            worker = self.orphans.popleft()
            mailbox, item = worker.mailbox, worker.lost
            if is_question(item):
                mailbox.answered()
            elif item is not None:
                worker.told = True
                mailbox.owner.failed(item, asyncio.CancelledError(), worker=worker)
            if mailbox is not None and mailbox.leave():
                self.submit(mailbox)

    def stop(self, timeout: float) -> list[str]:
        """
        End all workers. Handlers that still run after `timeout` seconds are cancelled, and their messages go back.

        Returns:
            Whose handlers did not even end when they were cancelled: they are abandoned.
        """
        with self._lock:
            self._started = False
            crew = self._crew
        if crew is None:
            _sweep(self._early)
            return []
        crew.ending = True
        # Also if no worker is to be seen: a `spread` may just be making one, and is over when `end` runs.
        gate = crew.gate = threading.Lock()
        gate.acquire()
        if crew.on_loop(crew.end) and not self.clock.wait(gate, timeout) and crew.on_loop(crew.cancel):
            self.clock.wait(gate, GRACE)
        crew.over = True
        self.adopt()
        stuck = [worker.name for worker in list(crew.workers) if worker.handling]
        with self._lock:
            self._crew = self._callers = None
        _sweep(crew.ready)
        _sweep(self._early)
        return stuck

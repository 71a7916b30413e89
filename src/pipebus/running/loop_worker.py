"""A worker on an event loop: a long-lived task that works through mailboxes, one at a time."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from sys import getrefcount
from typing import Any, Final

from pipebus.mailbox.offering import line_up_again
from pipebus.mailbox.shared import SharedMailbox
from pipebus.message.message import Message
from pipebus.message.outcomes import HANDLED
from pipebus.running.here import Here, carried
from pipebus.running.worker import CHUNK, rescued

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

SPARE: Final = 64  # sleeping workers kept; a burst may need more, for its time


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

    def __init__(self, crew: Any, mailbox: Any) -> None:
        self.crew = crew
        self.mailbox: Any = mailbox  # None: it sleeps, or has to end
        self.awake: asyncio.Future[None]  # what it waits for while it sleeps
        self.context = context = contextvars.Context()
        self.apart: contextvars.Context | None = None  # the delivery's, if the task's own is used up
        self.here = Here()  # the value of `carried` in the delivery's context
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
                    here.mailbox, here.item = mailbox, item
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
                    here.mailbox = here.item = None
                    if self.attention and await self.leaving():
                        return bool(mailbox.leave())
                    if not box and not mailbox.attention and mailbox.rest(box):  # no exception, where mail is sparse
                        return False
                quick = owner.quick  # somebody may have begun or ceased to look
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
                here.mailbox, here.item = mailbox, item
                await self.within(owner.adeliver(item, self))
                here.mailbox = here.item = None
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
        self.here = here = Here()
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
        self.here.empty()
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

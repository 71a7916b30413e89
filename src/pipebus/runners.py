"""
Who runs handlers on threads: pools of workers that are woken one at a time, one pool for all and one for each subscription
that wants threads of its own; and a timer. All threads start when first needed. (Handlers on event loops: loops.py.)

The pool's ready list is a deque of mailboxes, each on it at most once (mailbox.py). A worker takes one, works a slice of it,
and takes the next. Nobody waits on the list itself: a worker that finds it empty puts its gate on `sleepers` and looks once
more before it sleeps. The orders of a submit against a worker that goes to sleep:

    submit appends, worker looks                  the worker sees it
    worker looks, submit appends, submit sees a sleeper    it is woken
    worker stands on `sleepers`, submit appends and takes it from there, worker looks (sees the mailbox)
                                                  the worker works; its gate is open, so its next sleep returns at once

so a mailbox on the list is always seen by somebody. One worker is woken at a time (`waking`), and a submit that finds one on
its way leaves it at that: so a worker that comes to the list from sleep, or turns back before it, wakes the next, if the list
is not empty, before it works (`woken`). The one that fell asleep last is woken first, for its caches are warm.
"""

from __future__ import annotations

import contextvars
import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final

from pipebus.clock import Clock
from pipebus.mailbox import Mailbox
from pipebus.mailbox_asked import AskedMailbox
from pipebus.mailbox_shared import SharedMailbox
from pipebus.mailbox_solo import SoloMailbox
from pipebus.message import HANDLED, Message

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `links.trim`

SLICE: Final = 0.005  # seconds that a worker stays with one mailbox while others are ready: CPython's own switch interval
CHUNK: Final = 32  # messages between two looks at the clock
LENT_LIMIT: Final = 256  # threads that may stand in for blocked workers
NOTHING_LENT: Final = nullcontext()

_here = threading.local()


class Here:
    """
    The same as `_here.mailbox` where a handler's work is not bound to one thread: on loops, in tasks and threads that the
    handler waits for. Emptied when the handler has ended, so that a task which it leaves behind is an outsider.
    """

    __slots__ = ("mailbox",)

    def __init__(self, mailbox: Mailbox | None) -> None:
        self.mailbox = mailbox


carried: Final[contextvars.ContextVar[Here]] = contextvars.ContextVar("pipebus.here", default=Here(None))  # noqa: B039


def carry(context: contextvars.Context) -> Here:
    """Have what runs in `context`, on another thread, count as part of the handler that is running here, until emptied."""
    here = Here(current_mailbox())
    context.run(carried.set, here)
    return here


def current_mailbox() -> Mailbox | None:
    """The mailbox whose handler this thread, or this coroutine, is running."""
    mailbox: Mailbox | None = getattr(_here, "mailbox", None)
    return mailbox if mailbox is not None else carried.get().mailbox


class Worker(threading.Thread):
    """One thread of the pool."""

    def __init__(self, pool: Pool, number: int) -> None:
        super().__init__(name=f"{pool.name}-{number}" if number else pool.name, daemon=True)
        self.pool = pool
        self.gate = threading.Lock()
        self.gate.acquire()
        self.context: contextvars.Context
        self.woken = True  # on its way to the ready list; pool.waking is about this worker
        self.abandoned = False
        self.mailbox: Any = None  # in hand

    def run(self) -> None:
        # Each delivery has a context of its own. One in which nothing was left is as good as new, and is kept.
        going: Mailbox | bool = True
        while going:
            self.context = contextvars.Context()
            going = self.context.run(self.serve, going)

    def serve(self, going: Mailbox | bool) -> Mailbox | bool:
        """
        Work through one ready mailbox after the other, in one context.

        Args:
            going: One that is begun and not left, because a delivery has left something in the context before this one.

        Returns:
            Such a mailbox; True: none, but the context is used up; False: this worker ends.
        """
        pool, ready = self.pool, self.pool.ready
        mailbox: Any = None if going is True else going
        begun = mailbox is not None
        while True:
            if not begun:
                try:
                    mailbox = ready.popleft()
                except IndexError:
                    _here.mailbox = self.mailbox = None
                    mailbox = None  # an actor that has stopped is not kept alive by a worker that sleeps
                    if not pool.sleep(self):
                        return False
                    continue
                if self.woken:
                    pool.awake(self)
            _here.mailbox = self.mailbox = mailbox
            again = self.work_shared(mailbox) if isinstance(mailbox, SharedMailbox) else self.work_solo(mailbox, begun)
            begun = False
            if again is None:
                return mailbox  # type: ignore[no-any-return]
            if again:
                if pool.lent_out and isinstance(mailbox, AskedMailbox) and mailbox.questions:
                    pool.submit_first(mailbox)
                else:
                    pool.submit(mailbox)
            if self.abandoned or (pool.ever_lent and pool.surplus() and pool.retire(self)):
                _here.mailbox = None
                return False
            if self.context:
                return True

    def work_solo(self, mailbox: SoloMailbox, begun: bool) -> bool | None:
        """True: back to the ready list. False: at rest. None: go on, in another context."""
        items = mailbox.items if begun else mailbox.begin()
        if items is None:
            return mailbox.leave() if begun else False  # closed, between two contexts
        item: Any = None
        end = 0.0
        try:
            owner, context, ready = mailbox.owner, self.context, self.pool.ready
            run, quick, take = owner.chain(), owner.quick, items.popleft  # type: ignore[attr-defined]
            while True:
                for _ in range(CHUNK):
                    if mailbox.attention:
                        if self.abandoned:
                            return mailbox.leave()
                        if not mailbox.attend():
                            return False
                    try:
                        item = take()
                    except IndexError:
                        if mailbox.rest():
                            return False
                        items = mailbox.items or items  # another one, if the bus has stopped and opened again meanwhile
                        take = items.popleft
                        continue
                    mailbox.taken += 1
                    if quick and item.__class__ is Message and item.ttl is None:
                        try:
                            outcome = run(item)
                        except BaseException as error:
                            owner.failed(item, error)  # type: ignore[attr-defined]
                        else:
                            if outcome is None or outcome is HANDLED or owner.settled_at_once(item, outcome):  # type: ignore[attr-defined]
                                mailbox.acknowledged += 1
                            else:
                                owner.settle(item, outcome)  # type: ignore[attr-defined]
                    else:
                        owner.deliver(item)  # type: ignore[attr-defined]
                    if context:
                        return None
                    if not items and not mailbox.attention and mailbox.rest():  # no exception, where mail is sparse
                        return False
                if ready:
                    now = self.pool.clock.monotonic()
                    if not end:
                        end = now + SLICE
                    elif now > end:
                        return mailbox.leave()
        except BaseException as error:
            return rescued(mailbox, item, error)

    def work_shared(self, mailbox: SharedMailbox) -> bool:
        owner, item = mailbox.owner, None
        try:
            for _ in range(CHUNK):
                item = mailbox.take()
                if item is None:
                    return False
                owner.deliver(item)  # type: ignore[attr-defined]
                if self.context or self.abandoned:
                    break
        except BaseException as error:
            return rescued(mailbox, item, error)
        return mailbox.leave()


def rescued(mailbox: Any, item: Any, error: BaseException) -> bool:
    """
    Settling a delivery has failed where nothing guards it: if the item is still open it dies of that error, and the worker
    goes on. Returns whether the mailbox has to go to the end of the ready list, as its `leave` does.
    """
    if item is not None and mailbox.is_open(item):
        mailbox.owner.bury(item, error)
    return bool(mailbox.leave())


class Pool:
    """
    Worker threads for mailboxes that are ready.

    Args:
        size: Most workers at a time, those aside that have given up their slot (`lent`).
        alone: It serves one subscription; with one worker, that one's thread bears the pool's name.
    """

    def __init__(self, size: int, clock: Clock, name: str, starved: Callable[[int, int], None], *, alone: bool = False) -> None:
        self.size = size
        self.alone = alone
        self.clock = clock
        self.name = name
        self.starved = starved
        self.ready: deque[Any] = deque()
        self.sleepers: list[Worker] = []
        self.workers: dict[Worker, None] = {}  # in the order in which they began
        self.waking = False
        self.starving = False  # said once, until a worker has nothing to do
        self.lent_out = 0
        self.ever_lent = False  # else there can be no worker too many
        self.stopping = False  # workers that find nothing end
        self.stopped = True
        self.lock = threading.Lock()
        self._numbers = itertools.count(1)

    def submit(self, mailbox: Mailbox) -> None:
        """Put a mailbox on the ready list. Called once per change from rest to ready."""
        self.ready.append(mailbox)
        if not self.waking:
            self.wake()

    def submit_first(self, mailbox: Mailbox) -> None:
        """
        The same for filter actors: at the front if a handler asks, or some wait. Behind those that wait for its answers, each
        of which gives its slot up to the next, it would be reached when no more substitutes may start.
        """
        if self.lent_out or current_mailbox() is not None:
            self.ready.appendleft(mailbox)
        else:
            self.ready.append(mailbox)
        if not self.waking:
            self.wake()

    def hurry(self, mailbox: Mailbox) -> None:
        """A handler asks a filter actor that stands on the list already, perhaps far behind."""
        if current_mailbox() is not None:
            with suppress(ValueError):  # it is not there: a worker is at it
                self.ready.remove(mailbox)
                self.ready.appendleft(mailbox)
            if not self.waking:
                self.wake()  # in between, a worker may have found the list empty

    def wake(self) -> None:
        """See that somebody looks at the ready list."""
        starved = False
        opened: list[Any] = []
        with self.lock:
            if self.waking or not self.ready:
                return
            if self.stopped:
                opened = sweep(self.ready)
            elif self.sleepers:
                worker = self.sleepers.pop()
                worker.woken = self.waking = True
                worker.gate.release()
            elif len(self.workers) - self.lent_out < self.size:
                worker = Worker(self, 0 if self.alone and self.size == 1 else next(self._numbers))
                self.waking = True
                self.workers[worker] = None
                try:
                    worker.start()
                except BaseException:  # whoever publishes is told that no thread can be had; the next one tries again
                    self.waking = False
                    del self.workers[worker]
                    raise
            else:
                starved, self.starving = not self.starving, True
        for mailbox in opened:
            mailbox.rules.schedule(mailbox)
        if starved:
            self.starved(len(self.ready), len(self.workers))

    def awake(self, worker: Worker) -> None:
        """A woken worker has taken a mailbox; if there are more, the next worker is woken before this one begins."""
        worker.woken = self.waking = False
        if self.ready:
            self.wake()

    def sleep(self, worker: Worker) -> bool:
        """The ready list was empty. False if the worker is to end."""
        with self.lock:
            if self.ready:
                worker.woken = True  # what it was woken for may be gone; whoever relied on it has put something else there
                return True
            if worker.woken:
                worker.woken = self.waking = False
            self.starving = False
            if self.stopping or self.surplus():
                self.workers.pop(worker, None)
                return False
            self.sleepers.append(worker)
        if self.ready:
            with self.lock:
                if worker in self.sleepers:
                    self.sleepers.remove(worker)
                    worker.woken = True
                    return True
        worker.gate.acquire()
        return True

    def surplus(self) -> bool:
        """More workers than slots: someone has come back from a wait."""
        return len(self.workers) - self.lent_out > self.size

    def retire(self, worker: Worker) -> bool:
        with self.lock:
            if not self.surplus():
                return False
            self.workers.pop(worker, None)
        if self.ready:
            self.wake()
        return True

    def lent(self) -> AbstractContextManager[None]:
        """Entered around a wait: a worker's slot goes to a substitute meanwhile."""
        worker = threading.current_thread()
        if not isinstance(worker, Worker) or worker.pool is not self or self.lent_out >= LENT_LIMIT:
            return NOTHING_LENT
        return self._lend()

    @contextmanager
    def _lend(self) -> Iterator[None]:
        with self.lock:
            self.lent_out += 1
            self.ever_lent = True
        if self.ready:
            self.wake()
        try:
            yield
        finally:
            with self.lock:
                self.lent_out -= 1

    def stop(self, timeout: float | None) -> list[Worker]:
        """End all workers; those that are still in a handler after `timeout` seconds are abandoned and returned."""
        with self.lock:
            self.stopping = True
            workers = [worker for worker in self.workers if worker is not threading.current_thread()]
            sleepers, self.sleepers = self.sleepers, []
            for worker in sleepers:
                worker.gate.release()
        deadline = None if timeout is None else self.clock.monotonic() + timeout
        stuck = []
        while workers:
            for worker in workers:
                idle = worker in sleepers or worker.mailbox is None  # no handler: it ends at once
                worker.join(None if deadline is None or idle else max(0.0, deadline - self.clock.monotonic()))
                if worker.is_alive():
                    worker.abandoned = True
                    stuck.append(worker)
            with self.lock:  # a handler that waits for a filter actor lets a substitute in, also now
                here = threading.current_thread()
                for worker in [worker for worker in self.workers if worker.ident is not None and not worker.is_alive()]:
                    del self.workers[worker]  # it has died of something, and could not take itself out
                workers = [worker for worker in self.workers if worker is not here and worker not in stuck]
        with self.lock:
            for worker in stuck:
                self.workers.pop(worker, None)
            self.stopped = True
            sweep(self.ready)
        return stuck

    def start(self) -> None:
        with self.lock:
            self.stopping = self.stopped = self.waking = False


def sweep(ready: deque[Any]) -> list[Any]:
    """
    After a stop, closed mailboxes that no worker came to: let each come to rest.

    Returns:
        Those that were opened again meanwhile: to be scheduled once more, when no lock is held.
    """
    opened: list[Any] = []
    while True:
        try:
            mailbox = ready.popleft()
        except IndexError:  # asked for, not looked at: two may sweep one list
            return opened
        begun = isinstance(mailbox, SharedMailbox) or mailbox.begin() is not None
        if begun and mailbox.leave():
            opened.append(mailbox)


class Timers:
    """Callables that are due at a time of the monotonic clock; one thread, started with the first."""

    def __init__(self, clock: Clock, name: str, failed: Callable[[BaseException], None]) -> None:
        self.clock = clock
        self.name = name
        self.failed = failed  # told of what a callable has raised
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._gate = threading.Lock()
        self._gate.acquire()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Run `call` on the timer's thread, in `seconds` from now; it must be short."""
        with self._lock:
            heapq.heappush(self._heap, (self.clock.monotonic() + seconds, next(self._numbers), call))
            if self._thread is None and not self._stopped:
                thread = threading.Thread(target=self._run, name=f"{self.name}-timer", daemon=True)
                thread.start()
                self._thread = thread
            self._nudge()

    def _nudge(self) -> None:
        if self._gate.locked():
            self._gate.release()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._stopped:
                    return
                now = self.clock.monotonic()
                due = self._heap[0][0] if self._heap else None
                call = heapq.heappop(self._heap)[2] if due is not None and due <= now else None
            if call is not None:
                try:
                    call()
                except Exception as error:  # everybody else's time still has to come
                    self.failed(error)
            else:
                self.clock.wait(self._gate, None if due is None else due - now)

    def start(self) -> None:
        with self._lock:
            self._stopped = False

    def stop(self) -> None:
        """End the thread; what is not due is forgotten: whoever is to be called then has it by other means."""
        with self._lock:
            self._stopped = True
            self._heap.clear()
            self._nudge()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()

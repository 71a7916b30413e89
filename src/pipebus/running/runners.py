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
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final

from pipebus.clock import Clock
from pipebus.mailbox.asked import AskedMailbox
from pipebus.mailbox.mailbox import Mailbox, open_gate
from pipebus.mailbox.shared import SharedMailbox
from pipebus.mailbox.solo import SoloMailbox
from pipebus.message.message import Message
from pipebus.message.outcomes import HANDLED
from pipebus.waiting.locks import Locks

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

SLICE: Final = 0.005  # seconds that a worker stays with one mailbox while others are ready: CPython's own switch interval
CHUNK: Final = 32  # messages between two looks at the clock
GRACE: Final = 1.0  # seconds that handlers have to end whose wait a stop has ended
LENT_LIMIT: Final = 256  # threads that may stand in for blocked workers
SOON: Final = 0.05  # seconds until a thread that could not be started is tried again
BURIED: Final = 64  # cancelled calls that a timer keeps for their time; with more, half of all that it keeps may be cancelled
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


class Starts:
    """
    Threads that could not be started ("can't start new thread"), and are tried again: soon, by the timer, and whenever
    somebody waits for the bus to become quiet.

    Args:
        warn: Says so, once until a start has succeeded.
    """

    def __init__(self, warn: Callable[..., None]) -> None:
        self.warn = warn
        self.later: Callable[[float, Callable[[], None]], object] = lambda seconds, call: None
        self._runners: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self._again: dict[Callable[[], object], None] = {}
        self._called = False  # the timer will call
        self._unsaid: tuple[str, str] | None = None
        self._said = False

    def failed(self, name: str, error: BaseException, again: Callable[[], object]) -> None:
        """
        Args:
            again: Tries once more if that is still needed, and comes back here if that fails. It raises nothing.
        """
        self._again[again] = None
        self._unsaid = (name, str(error))
        if not self._called:
            self._called = True
            self.later(SOON, self.retry)

    def say(self) -> None:
        """To be called where no lock is held: a log's handler may publish."""
        unsaid, self._unsaid = self._unsaid, None
        if unsaid is not None and not self._said:
            self._said = True
            name, error = unsaid
            self.warn("thread.not_started", thread=name, error=error, advice="it is tried again until it can be had")

    def serves(self, runner: Any) -> None:
        self._runners[next(self._numbers)] = runner

    def help(self) -> None:
        """
        Before a wait: what is on a ready list is looked at. Whoever put it there does that too, but may be the code that we
        have interrupted.
        """
        for reference in self._runners.valuerefs():  # a list: others come and go meanwhile
            runner = reference()
            if runner is None:
                continue
            runner.help()

    def retry(self) -> None:
        self._called = False
        self.help()
        self.say()
        for again in list(self._again):
            if self._again.pop(again, again) is None:
                again()
        if not self._again:
            self._said = False


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
        self.waits = 0  # waits of the bus that its handler is in
        self.cut_short = False  # a stop ended its wait
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
        starts: Hears of workers that cannot be started.
        locks: Of its bus.
    """

    def __init__(
        self, size: int, clock: Clock, name: str, starved: Callable[[int, int], None], *, alone: bool = False,
        starts: Starts | None = None, locks: Locks | None = None,
    ) -> None:  # fmt: skip
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
        self.starts = starts or Starts(lambda event, **facts: None)
        self.locks = locks or Locks()
        self.lock = self.locks.lend()
        self.missed = False  # code that has interrupted the holder of the lock wants somebody to look at the list
        self._numbers = itertools.count(1)
        self.starts.serves(self)

    def submit(self, mailbox: Mailbox) -> None:
        """Put a mailbox on the ready list, and see that it is looked at."""
        self.ready.append(mailbox)
        self.call()

    def call(self, _: object = None) -> BaseException | None:
        """
        After something was put on the ready list.

        Returns:
            What kept the worker that it needs from being started, if something did. It is tried again.
        """
        if not self.waking:
            return self.wake()
        return None

    def help(self) -> None:
        if self.ready and not self.waking:
            self.wake()

    def submit_first(self, mailbox: Mailbox) -> None:
        self.enlist_first(mailbox)
        self.call()

    def enlist_first(self, mailbox: Mailbox) -> None:
        """
        The same for filter actors: at the front if a handler asks, or some wait. Behind those that wait for its answers, each
        of which gives its slot up to the next, it would be reached when no more substitutes may start.
        """
        if self.lent_out or current_mailbox() is not None:
            self.ready.appendleft(mailbox)
        else:
            self.ready.append(mailbox)

    def hurry(self, mailbox: Mailbox) -> None:
        """A handler asks a filter actor that stands on the list already, perhaps far behind."""
        if current_mailbox() is not None:
            with suppress(ValueError):  # it is not there: a worker is at it
                self.ready.remove(mailbox)
                self.ready.appendleft(mailbox)
            if not self.waking:
                self.wake()  # in between, a worker may have found the list empty

    def wake(self) -> BaseException | None:
        """
        See that somebody looks at the ready list.

        Returns:
            What kept the first worker from being started, if something did. It is tried again. (Where there are others, they
            come to the list too, and nobody needs to hear of it.)
        """
        if self.lock._is_owned():
            self.missed = True  # the code that we have interrupted looks again when it has given the lock back
            return None
        starved = False
        opened: list[Any] = []
        failure: Exception | None = None
        alone = False  # no worker is left
        with self.lock:
            if self.waking or not self.ready:
                pass
            elif self.stopped:
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
                except BaseException as error:
                    # Who has come to the list since then has found `waking` and gone. So all of the list is looked at again.
                    self.waking = False
                    del self.workers[worker]
                    alone = not self.workers
                    if not isinstance(error, Exception):
                        raise
                    failure = error
            else:
                starved, self.starving = not self.starving, True
        if failure is not None:
            self.starts.failed(worker.name, failure, self.wake)
            self.starts.say()
        for mailbox in opened:
            mailbox.line_up_again()
        if starved:
            self.starved(len(self.ready), len(self.workers))
        if self.missed:
            self._look_again()
        if failure is None or not alone:
            return None
        failure.add_note("(pipebus has kept the message, and handles it when a thread can be had)")
        return failure

    def _look_again(self) -> None:
        """After the lock was given back: what was put on the list by code that had interrupted its holder."""
        self.missed = False
        if self.ready and not self.waking:
            self.wake()

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
            ends = self.stopping or self.surplus()
            if ends:
                self.workers.pop(worker, None)
            else:
                self.sleepers.append(worker)
        if ends:
            if self.missed:
                self._look_again()
            return False
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
        """
        Entered around a wait: a worker's slot goes to a substitute meanwhile.

        Raises:
            LifecycleError: who waits has interrupted this thread where it holds a lock that others may need first.
        """
        self.locks.check()
        self.starts.help()
        worker = threading.current_thread()
        if not isinstance(worker, Worker):
            return NOTHING_LENT
        return self._lend(worker, worker.pool is self and self.lent_out < LENT_LIMIT)

    @contextmanager
    def _lend(self, worker: Worker, slot: bool) -> Iterator[None]:
        worker.waits += 1
        if slot:
            with self.lock:
                self.lent_out += 1
                self.ever_lent = True
        try:
            if self.ready:
                self.wake()
            yield
        finally:
            worker.waits -= 1
            if slot:
                with self.lock:
                    self.lent_out -= 1
                if self.missed:
                    self._look_again()

    def cut_short(self) -> None:
        """The bus is about to end its waits: a handler that is in one has some time more to end."""
        with self.lock:
            for worker in self.workers:
                worker.cut_short = worker.waits > 0

    def stop(self, timeout: float | None) -> list[Worker]:
        """
        End all workers; those that are still in a handler after `timeout` seconds are abandoned and returned. One whose wait
        was cut short has GRACE seconds at least.
        """
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
                left = None if deadline is None or idle else max(0.0, deadline - self.clock.monotonic())
                worker.join(left if left is None or not worker.cut_short else max(left, GRACE))
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
        if self.missed:
            self._look_again()
        return stuck

    def start(self) -> None:
        with self.lock:
            self.stopping = self.stopped = self.waking = False
        if self.missed:
            self._look_again()


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


class Timer:
    """One call that is due at a time."""

    __slots__ = ("call", "timers")

    def __init__(self, timers: Timers, call: Callable[[], None]) -> None:
        self.timers = timers
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """What it would have called, and all that this keeps alive, is let go at once."""
        if self.call is not None:
            self.call = None
            self.timers.cancelled()


class Timers:
    """
    Callables that are due at a time of the monotonic clock; one thread, started with the first.

    No lock is needed: what is to come is put into `_new`, and only the thread takes it from there, into a heap of its own.
    Each start of the bus has a thread of its own.
    """

    def __init__(
        self, clock: Clock, name: str, failed: Callable[[BaseException], None], starts: Starts | None = None,
        locks: Locks | None = None,
    ) -> None:  # fmt: skip
        self.clock = clock
        self.name = name
        self.failed = failed  # told of what a callable has raised
        self.starts = starts or Starts(lambda event, **facts: None)
        self.locks = locks or Locks()
        self.error: BaseException | None = None  # why the thread could not be started, until somebody has been told
        self._new: deque[tuple[float, int, Timer]] = deque()
        self._numbers = itertools.count()
        self._cancelled = itertools.count()
        self._gate = threading.Lock()
        self._gate.acquire()
        self._thread: dict[str, threading.Thread] = {}  # or none; `setdefault` is one step for all threads
        self._stopped = False

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Run `call` on the timer's thread, in `seconds` from now; it must be short."""
        timer = Timer(self, call)
        self._new.append((self.clock.monotonic() + seconds, next(self._numbers), timer))
        self.look()
        return timer

    def look(self) -> None:
        """See that the thread looks at what is new."""
        if not self._thread and self._new and not self._stopped:
            thread = threading.Thread(target=self._run, name=f"{self.name}-timer", daemon=True)
            here = threading.get_ident()
            try:
                self.locks.starting.add(here)
                if self._thread.setdefault("thread", thread) is thread:
                    thread.start()
            except BaseException as error:
                if self._thread.get("thread") is thread and thread.ident is None:
                    del self._thread["thread"]
                if not isinstance(error, Exception):
                    raise
                self.error = error
                error.add_note("(pipebus has kept the message, and handles it in its time when a thread can be had)")
                self.starts.failed(thread.name, error, self.look)
            finally:
                self.locks.starting.discard(here)
        if self._gate.locked():
            open_gate(self._gate)

    def tell(self) -> None:
        """
        For a publisher of something delayed.

        Raises:
            RuntimeError: the thread could not be started. It is tried again.
        """
        error, self.error = self.error, None
        if error is not None:
            raise error

    def cancelled(self) -> None:
        """One more call is not wanted any more."""
        if next(self._cancelled) % BURIED == 0:
            open_gate(self._gate)

    def _run(self) -> None:
        me = threading.current_thread()
        heap: list[tuple[float, int, Timer]] = []
        counted = 0
        while not self._stopped and self._thread.get("thread") is me:
            while self._new:
                heapq.heappush(heap, self._new.popleft())
            cancelled = int(repr(self._cancelled)[6:-1])  # what it would count next: only its text tells
            if cancelled - counted > max(BURIED, len(heap) // 2):
                counted = cancelled
                heap = [entry for entry in heap if entry[2].call is not None]
                heapq.heapify(heap)
            now = self.clock.monotonic()
            if heap and heap[0][0] <= now:
                timer = heapq.heappop(heap)[2]
                call, timer.call = timer.call, None
                del timer
                try:
                    if call is not None:
                        call()
                except Exception as error:  # everybody else's time still has to come
                    self.failed(error)
                del call  # it is not kept until the next is due
            else:
                self.clock.wait(self._gate, heap[0][0] - now if heap else None)
        if self._thread.get("thread") is me:
            self._thread.pop("thread", None)
        open_gate(self._gate)  # another start's thread may stand there too

    def start(self) -> None:
        self._stopped = False
        self.look()

    def stop(self) -> None:
        """End the thread; what is not due is forgotten: whoever is to be called then has it by other means."""
        self._stopped = True
        self._new.clear()
        thread = self._thread.pop("thread", None)
        open_gate(self._gate)
        if thread is not None and thread is not threading.current_thread() and thread.ident is not None:
            thread.join()

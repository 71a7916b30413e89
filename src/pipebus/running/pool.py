"""
Handlers on threads: pools of workers that are woken one at a time. One pool serves all subscriptions but
those that have threads of their own. All threads start when first needed. (Handlers on event loops: loops.py.)

The pool's ready list is a deque of mailboxes, each on it at most once (mailbox.py). A worker takes one, works on it for a slice
of time, and takes the next. No worker waits on the list itself: one that finds it empty goes onto `sleepers` and looks once
more before it sleeps. A submit and a worker that goes to sleep can meet in these orders:

    submit appends, worker looks                  the worker sees it
    worker looks, submit appends, submit sees a sleeper    it is woken
    worker is on `sleepers`, submit appends and takes it from there, worker looks (sees the mailbox)
                                                  the worker works; its gate is open, so its next sleep returns at once

so a worker always sees a mailbox on the list. One worker is woken at a time (`waking`), and a submit that finds one on its way
wakes no other. Therefore a worker that comes to the list from sleep, or turns back before it sleeps, wakes the next before it
works, if the list is not empty (`woken`). The worker that fell asleep last is woken first, because its caches are warm.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Final

from pipebus.clock import Clock
from pipebus.mailbox.mailbox import Mailbox
from pipebus.mailbox.offering import line_up_again
from pipebus.mailbox.shared import SharedMailbox
from pipebus.running.here import current_mailbox
from pipebus.running.starts import Starts
from pipebus.running.worker import Worker
from pipebus.waiting.locks import Locks

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

GRACE: Final = 1.0  # seconds for handlers to end after a stop has ended their wait
LENT_LIMIT: Final = 256  # how many workers may be replaced while they wait
NOTHING_LENT: Final = nullcontext()


class Pool:
    """
    Worker threads for mailboxes that are ready.

    Args:
        size: The most workers at a time, without those that have given up their slot (`lent`).
        alone: The pool serves one subscription; if it has one worker, that thread gets the pool's name.
        starts: Called if a worker cannot be started.
        locks: The locks of the bus.
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
        self.waking = False  # a worker is on its way to the list
        self.full = False  # the pool has all its workers, and all are busy; `starved` was called
        self.starving = False  # reported once, until a worker has nothing to do
        self.lent_out = 0
        self.ever_lent = False  # if not, there is never a surplus worker
        self.stopping = False  # workers that find nothing end
        self.stopped = True
        self.starts = starts or Starts(lambda event, **facts: None)
        self.locks = locks or Locks()
        self.lock = self.locks.lend()
        self.missed = False  # code that interrupted the holder of the lock has put something on the list
        self._numbers = itertools.count(1)
        self.starts.serves(self)

    def submit(self, mailbox: Mailbox) -> None:
        """Put a mailbox on the ready list, and make sure that a worker looks there."""
        self.ready.append(mailbox)
        self.call()

    def call(self, _: object = None) -> BaseException | None:
        """
        Make sure that a worker looks at the ready list, after something was put there.

        Returns:
            The error if the only worker could not be started. It will be tried again.
        """
        if self.waking or self.full:
            return None
        return self.wake()

    def help(self) -> None:
        if self.ready and not self.waking:
            self.wake()

    def submit_first(self, mailbox: Mailbox) -> None:
        self.enlist_first(mailbox)
        self.call()

    def enlist_first(self, mailbox: Mailbox) -> None:
        """
        Enlist a filter actor: at the front if a handler asks it, or if handlers wait. Otherwise the mailboxes before it could
        fill all slots with handlers that wait for its answers, until no more substitutes may start.
        """
        if self.lent_out or current_mailbox() is not None:
            self.ready.appendleft(mailbox)
        else:
            self.ready.append(mailbox)

    def hurry(self, mailbox: Mailbox) -> None:
        """A handler asks a filter actor that is on the list already: move it to the front."""
        if current_mailbox() is not None:
            with suppress(ValueError):  # it is not on the list: a worker has it
                self.ready.remove(mailbox)
                self.ready.appendleft(mailbox)
            if not self.waking:
                self.wake()  # in between, a worker may have found the list empty

    def wake(self) -> BaseException | None:
        """
        Make sure that a worker looks at the ready list.

        Returns:
            The error if the only worker could not be started. It will be tried again. (If there are other workers, they come to
            the list too, so the caller need not know.)
        """
        if self.lock._is_owned():
            self.missed = True  # the interrupted code looks again when it has released the lock
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
                    # A submit in the meantime has found `waking` set and returned, so the whole list must be looked at again.
                    self.waking = False
                    del self.workers[worker]
                    alone = not self.workers
                    if not isinstance(error, Exception):
                        raise
                    failure = error
            else:
                starved, self.starving = not self.starving, True
                self.full = True
        if failure is not None:
            self.starts.failed(worker.name, failure, self.wake)
            self.starts.say()
        for mailbox in opened:
            line_up_again(mailbox)
        if starved:
            self.starved(len(self.ready), len(self.workers))
        if self.missed:
            self._look_again()
        if failure is None or not alone:
            return None
        failure.add_note("(pipebus has kept the message, and handles it when a thread can be had)")
        return failure

    def _look_again(self) -> None:
        """After the lock was released: handle what code that interrupted its holder put on the list."""
        self.missed = False
        if self.ready and not self.waking:
            self.wake()

    def awake(self, worker: Worker) -> None:
        """After a woken worker took a mailbox: if there are more, wake the next worker before this one begins."""
        worker.woken = self.waking = False
        if self.ready:
            self.wake()

    def sleep(self, worker: Worker) -> bool:
        """Sleep, because the ready list was empty. False if the worker must end."""
        with self.lock:
            if self.ready:
                worker.woken = True  # its mailbox may be gone, but a submit that relied on it has added another
                return True
            if worker.woken:
                worker.woken = self.waking = False
            self.starving = self.full = False
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

    @property
    def died(self) -> list[Worker]:
        """Workers whose threads have ended by an error. (One that ends otherwise leaves `workers` first.)"""
        ended = [worker for worker in list(self.workers) if worker.ident is not None and not worker.is_alive()]
        return [worker for worker in ended if worker in self.workers]

    def surplus(self) -> bool:
        """Whether there are more workers than slots, because one has come back from a wait."""
        return len(self.workers) - self.lent_out > self.size

    def retire(self, worker: Worker) -> bool:
        with self.lock:
            if not self.surplus():
                return False
            self.workers.pop(worker, None)
            self.full = False
        if self.ready:
            self.wake()
        return True

    def lent(self) -> AbstractContextManager[None]:
        """
        A `with` block for a wait, in which a worker's slot goes to a substitute.

        Raises:
            LifecycleError: the caller has interrupted this thread while it holds a lock that others may need first.
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
                self.full = False  # a substitute may be started
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
        """Note which handlers wait, before the bus ends these waits: they get some more time to end."""
        with self.lock:
            for worker in self.workers:
                worker.cut_short = worker.waits > 0

    def stop(self, timeout: float | None) -> list[Worker]:
        """
        End all workers; those that are still in a handler after `timeout` seconds are abandoned and returned. One whose wait
        was cut short has at least GRACE seconds.
        """
        with self.lock:
            self.stopping = True
            self.full = False
            workers = [worker for worker in self.workers if worker is not threading.current_thread()]
            sleepers, self.sleepers = self.sleepers, []
            for worker in sleepers:
                worker.gate.release()
        deadline = None if timeout is None else self.clock.monotonic() + timeout
        stuck = []
        while workers:
            for worker in workers:
                idle = worker in sleepers or worker.mailbox is None  # it runs no handler, so it ends at once
                left = None if deadline is None or idle else max(0.0, deadline - self.clock.monotonic())
                worker.join(left if left is None or not worker.cut_short else max(left, GRACE))
                if worker.is_alive():
                    worker.abandoned = True
                    stuck.append(worker)
            with self.lock:  # a handler that waits for a filter actor may start a substitute even now
                here = threading.current_thread()
                for worker in [worker for worker in self.workers if worker.ident is not None and not worker.is_alive()]:
                    del self.workers[worker]  # it has died of an error, and could not remove itself
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
            self.stopping = self.stopped = self.waking = self.full = False
        if self.missed:
            self._look_again()


def sweep(ready: deque[Any]) -> list[Any]:
    """
    After a stop, bring the closed mailboxes that no worker took to rest.

    Returns:
        Those that were opened again meanwhile. Schedule them again when no lock is held.
    """
    opened: list[Any] = []
    while True:
        try:
            mailbox = ready.popleft()
        except IndexError:  # no check before: two threads may sweep one list
            return opened
        if isinstance(mailbox, SharedMailbox):
            open_again = mailbox.leave()
        else:
            box = mailbox.begin(object())
            open_again = box is not None and (not mailbox.attention or mailbox.attend(box)) and mailbox.leave()
        if open_again:
            opened.append(mailbox)

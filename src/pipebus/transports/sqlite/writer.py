"""
Group commit: many small jobs in one transaction, carried out by one of the threads that wait for theirs.

No thread does nothing but write. A thread that has a job appends it to the line. If no thread leads at that moment, this one
leads: it takes the whole line, has it written in one transaction, and tells everybody. Threads that come meanwhile wait, and
when the leader is done, one of them leads next. So a single publisher pays for no change of threads, and sixty-four publishers
share one commit.

The main thread never leads while there is a keeper. Ctrl-C raises an error there, between any two steps, and a leader that is
interrupted in the middle would leave everybody waiting. The keeper leads in its stead.

    state of the line           a job comes                         a leader ends
    nobody leads, empty         its thread waits: it leads at once
                                nobody waits, or the main thread
                                does: `ring`, for the keeper
    somebody leads              it is appended                      line empty: nobody leads
                                                                    a thread waits: the first that may leads
                                                                    none that may: `ring`

`_lock` guards the line and who leads. It is held for a few steps only and never while SQL runs, so joining the line never
waits for a disk. The leader resigns while it still holds the lock under which it found the line empty. So a job that comes
later finds that nobody leads, and a job that came earlier was seen. Results are given out after the commit only.

How a batch is written, and what happens when that fails, is in commits.py.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from pipebus.errors import BusClosed
from pipebus.transports.sql.records import Outgoing, Settlement
from pipebus.transports.sqlite.commits import Commits, Job, Task
from pipebus.waiting.locks import Locks, free, interrupted

BATCH: Final = 2000
"""Most jobs of one transaction."""


class Writer:
    """
    Args:
        commits: Writes a batch.
        ring: Wake the keeper: there are jobs that no thread waits for.
        rested: Called by the last leader when nothing is in line and nobody leads. No lock is held.
    """

    def __init__(self, commits: Commits, locks: Locks, ring: Callable[[], None], rested: Callable[[], None]) -> None:
        self.rounds = 0  # transactions so far, whether they succeeded or not
        self.kept = False  # there is a keeper
        self._commits = commits
        self._ring = ring
        self._rested = rested
        self._line: deque[Job] = deque()
        self._leading = False
        self._leader = 0  # the thread that leads
        self._lock = locks.lend()
        self._closed = False

    def call(self, what: Outgoing | Settlement | Task | None, sync: bool = True) -> Any:
        """
        Carry out a job, with all others that are in line, and return its result.

        Raises:
            TransportError: it was not done. PublishUnknown: it may have been done. LifecycleError: the caller is a signal
            handler or a finaliser that interrupted the leader.
        """
        job = Job(what, sync)
        job.thread = threading.get_ident()
        job.leads = job.thread != threading.main_thread().ident or not self.kept
        ring = False
        with free(self._lock):
            self._check_open()
            # A thread that leads, or that checks the file, cannot go on before this call ends, which would wait for it.
            if (self._leading and self._leader == job.thread) or self._commits.lock.mine:
                raise interrupted()
            self._line.append(job)
            lead = job.leads and not self._leading
            if lead:
                self._leader, self._leading = job.thread, True
            else:
                job.gate = threading.Lock()
                job.gate.acquire()
                ring = not self._leading
        if ring:
            self._ring()
        if job.gate is not None:
            job.gate.acquire()
            lead = job.called
        if lead:
            self._lead(job)
        if job.error is not None:
            try:
                raise job.error
            finally:
                job.error = None  # no reference cycle
        return job.result

    def acall(self, what: Outgoing) -> asyncio.Future[Any]:
        """`call` for a message, on an event loop: the keeper or another leader carries it out."""
        job = Job(what, True)
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        job.loop = (loop, future)
        with self._lock:
            self._check_open()
            self._line.append(job)
            ring = not self._leading
        if ring:
            self._ring()
        return future

    def leave(self, jobs: Sequence[Job], ring: bool = True) -> None:
        """
        Append jobs that no thread waits for. Without `ring` they wait for the next leader.

        Code that has interrupted the holder of the lock may call this too, since the line only grows. That holder may have
        found the line empty already, so the keeper looks again.
        """
        for job in jobs:
            job.left = True
        interrupts = self._lock._is_owned()
        with self._lock:
            self._check_open()
            self._line.extend(jobs)
            ring = interrupts or (ring and not self._leading)
        if ring:
            self._ring()

    def close(self) -> None:
        """Take no more jobs; those that are still in line fail."""
        with self._lock:
            self._closed = True
            left = list(self._line)
            self._line.clear()
        for job in left:
            job.error = BusClosed(f"{self._commits.file.path} was closed before it was written")
        self._tell(left)

    def _check_open(self) -> None:
        if self._closed:
            raise BusClosed(f"the bus is stopped: {self._commits.file.path} takes no more")

    @property
    def idle(self) -> bool:
        """Nothing is in line, and nothing is being written."""
        with self._lock:
            return not self._line and not self._leading

    @property
    def forsaken(self) -> bool:
        """Something is in line, and nobody leads. Only then the keeper should: otherwise it takes turns with those who wait."""
        with self._lock:
            return bool(self._line) and not self._leading

    def _lead(self, own: Job) -> None:
        """Write one batch, then hand the lead on. The leader's own job is in the batch, however long the line is."""
        batch: list[Job] = []
        with self._lock:
            while self._line and len(batch) < BATCH:
                batch.append(self._line.popleft())
            if own in self._line:
                self._line.remove(own)
                batch.append(own)
        try:
            again = self._commits.write(batch)
        except BaseException as error:  # an interrupt, in a user's thread
            self._hand_on(batch, self._commits.unknown(batch, error))
            raise
        self._hand_on(batch, again)

    def _hand_on(self, batch: list[Job], again: list[Job]) -> None:
        with self._lock:
            self.rounds += 1
            self._line.extendleft(reversed(again))
            successor = self._successor()
            if successor is None:
                self._leading = False
                rested = not self._line
                ring = not rested and not again  # jobs to try again wait for the keeper, which looks after a pause
            else:
                ring = rested = False
                self._leader = successor.thread
                successor.called = True
                assert successor.gate is not None
                gate, successor.gate = successor.gate, None
                gate.release()
        if ring:
            self._ring()
        self._tell([job for job in batch if job not in again] if again else batch)
        if rested:
            self._rested()

    def _successor(self) -> Job | None:
        """
        The job of the first thread that may lead, if one waits. That thread may have several jobs in line: a signal handler or
        a finaliser that publishes has interrupted it before it waited for the first. It waits for the last one.
        """
        line = tuple(self._line)  # a copy: a finaliser may run in this thread at any step, and let the line grow; see `leave`
        first = next((job for job in line if job.gate is not None and job.leads), None)
        return first and next(job for job in reversed(line) if job.thread == first.thread and job.gate is not None)

    @staticmethod
    def _tell(batch: list[Job]) -> None:
        """Give each job's result to the thread or coroutine that waits for it."""
        loops: dict[asyncio.AbstractEventLoop, list[Job]] = {}
        for job in batch:
            if job.gate is not None:
                job.gate.release()
            elif job.loop is not None:
                loops.setdefault(job.loop[0], []).append(job)
        for loop, jobs in loops.items():
            with suppress(RuntimeError):  # the loop is closed: nobody waits there
                loop.call_soon_threadsafe(_resolve, jobs)


def _resolve(jobs: list[Job]) -> None:
    for job in jobs:
        assert job.loop is not None
        future = job.loop[1]
        if future.done():  # cancelled
            continue
        if job.error is not None:
            future.set_exception(job.error)
        else:
            future.set_result(job.result)

"""Callables that are due at a time."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from pipebus.clock import Clock
from pipebus.running.starts import Starts
from pipebus.waiting.latch import open_gate
from pipebus.waiting.locks import Locks

EXPLORED: Final = "bytecode"  # threads change places here in simulations: `testing.watch`

BURIED: Final = 64  # cancelled calls that a timer keeps for their time; with more, half of all that it keeps may be cancelled


class Timer:
    """One call that is due at a time."""

    __slots__ = ("call", "timers")

    def __init__(self, timers: Timers, call: Callable[[], None]) -> None:
        self.timers = timers
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Release the callable, and all that it keeps alive, at once."""
        if self.call is not None:
            self.call = None
            self.timers.cancelled()


class Timers:
    """
    Callables that are due at a time of the monotonic clock; one thread, started with the first.

    It needs no lock: callers put new calls into `_new`, and only the thread moves them from there into its own heap.
    Each start of the bus has a thread of its own.
    """

    def __init__(
        self, clock: Clock, name: str, failed: Callable[[BaseException], None], starts: Starts | None = None,
        locks: Locks | None = None,
    ) -> None:  # fmt: skip
        self.clock = clock
        self.name = name
        self.failed = failed  # called with what a callable raised
        self.starts = starts or Starts(lambda event, **facts: None)
        self.locks = locks or Locks()
        self.error: BaseException | None = None  # why the thread could not be started, until `tell` raises it
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
        """Make the thread look at new calls; start it if it does not run."""
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
        Report a failed start to the publisher of a delayed message.

        Raises:
            RuntimeError: the thread could not be started. It will be tried again.
        """
        error, self.error = self.error, None
        if error is not None:
            raise error

    @property
    def died(self) -> bool:
        """Whether its thread has ended though nobody has stopped it."""
        thread = self._thread.get("thread")
        return (
            thread is not None and thread.ident is not None and not thread.is_alive() and self._thread.get("thread") is thread
        )

    def cancelled(self) -> None:
        """A call was cancelled; if there are many, wake the thread to remove them."""
        if next(self._cancelled) % BURIED == 0:
            open_gate(self._gate)

    def _run(self) -> None:
        me = threading.current_thread()
        heap: list[tuple[float, int, Timer]] = []
        counted = 0
        while not self._stopped and self._thread.get("thread") is me:
            while self._new:
                heapq.heappush(heap, self._new.popleft())
            cancelled = int(repr(self._cancelled)[6:-1])  # its next value, which only its text shows
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
                except Exception as error:  # the other calls must still run
                    self.failed(error)
                del call  # do not keep it alive until the next one is due
            else:
                self.clock.wait(self._gate, heap[0][0] - now if heap else None)
        if self._thread.get("thread") is me:
            self._thread.pop("thread", None)
        open_gate(self._gate)  # another start's thread may wait at this gate too

    def start(self) -> None:
        self._stopped = False
        self.look()

    def stop(self) -> None:
        """End the thread, and forget the calls that are not due: their owners keep what they need to make them again."""
        self._stopped = True
        self._new.clear()
        thread = self._thread.pop("thread", None)
        open_gate(self._gate)
        if thread is not None and thread is not threading.current_thread() and thread.ident is not None:
            thread.join()

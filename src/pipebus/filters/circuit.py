"""The circuit of one chain: the states that `CircuitBreaker` goes through."""

from __future__ import annotations

import functools
import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from pipebus import events
from pipebus.clock import SYSTEM
from pipebus.pipeline.shapes import Context

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half_open"

LONGER: Final = 1.1
"""A trial that failed is kept away for this many cool-downs. Then the next trial is that of another message, if one waits."""


class Circuit:
    """
    Counts the failures of the runs in one chain, and says which runs may begin.

    All changes are made under one lock. It is reentrant, because a signal handler or a finaliser may publish while this thread
    holds it; at worst, two trials begin then. No code of the user's runs under it: pausing a subscription takes the lock of a
    mailbox, and nobody who holds that one comes here. `tell` announces the changes after it, in their order.

    Args:
        place: "publish", or the name of the subscription to pause.
        failures, window, cool_down: As for `CircuitBreaker`.
        context: Of the filter; None: it has not started, so nothing is paused, and only `enter` notices that time has passed.
    """

    def __init__(self, place: str, failures: int, window: float, cool_down: float, context: Context | None) -> None:
        self.place = place
        self.window = window
        self.cool_down = cool_down
        self.context = context
        self.state = CLOSED
        self.opened = self.refused = 0
        self._times: deque[float] = deque(maxlen=failures)  # of the last failures
        self._turn = 0  # the number of changes and trials so far
        self._since = 0  # the turn in which it was opened or closed: a run that began before it says nothing any more
        self._trial: int | None = None  # the turn of the trial that is running
        self._until = math.inf  # when it becomes half-open, or no longer waits for the trial
        self._timer: Any = None
        self._resume: Callable[[], None] | None = None  # ends the pause of the subscription
        self._news: deque[tuple[str, str, str]] = deque()
        self._teller = [True]  # who pops it announces the news
        self._lock = threading.RLock()

    def enter(self) -> int | None:
        """Begin a run. Returns its number, for `leave`; None: the circuit is open."""
        with self._lock:
            run = self._enter()
        self.tell()
        return run

    def _enter(self) -> int | None:
        if self.state is CLOSED:
            return self._turn
        if self._now() >= self._until:
            self._time_is_up()
        may = self.state is HALF_OPEN and self._trial is None
        if may:
            self._turn += 1
            self._trial = self._turn
            self._wait()
        self._pause()  # also if it is refused: then its subscription was made again, under the same name, and is not paused yet
        return self._trial if may else None

    def leave(self, run: int, well: bool | None, error: str = "") -> float | None:
        """
        End a run.

        Args:
            well: Whether it has succeeded; None: it says nothing about that.
            error: The text of the error of one that has failed, for the log.

        Returns:
            None; or, if it failed for a reason that has opened the circuit, when its delivery may come again, in seconds.
        """
        if well is None and run < self._since:
            return None  # a finaliser may end an abandoned run at any step, under any lock, so it takes none
        with self._lock:
            delay = self._leave(run, well, error)
        self.tell()
        return delay

    def _leave(self, run: int, well: bool | None, error: str) -> float | None:
        if run < self._since:
            return 0.0 if well is False else None
        if self.state is CLOSED:
            if well is not False:
                return None
            now = self._now()
            self._times.append(now)
            if len(self._times) < (self._times.maxlen or 0) or self._times[0] <= now - self.window:
                return None
            self._become(OPEN, error)
            return 0.0
        if well is False:
            self._become(OPEN, error)
            return self.cool_down * LONGER
        if well:
            self._become(CLOSED)
        elif run == self._trial:
            self._end_trial()
        return None

    def refuse(self) -> None:
        """Count a message that was rejected or given back."""
        with self._lock:
            self.refused += 1

    def reset(self, context: Context | None) -> None:
        """Forget the state, as the filter starts or stops."""
        with self._lock:
            if self.state is not CLOSED:
                self._news.append((self.state, CLOSED, ""))
            self.state, self._trial, self._until = CLOSED, None, math.inf
            self._turn += 1
            self._since = self._turn
            self._times.clear()
            self._go_on()
        self.tell()
        self.context = context

    def recent(self) -> int:
        """How many failures were within the window. It takes no lock, since anybody may ask at any time."""
        oldest = self._now() - self.window
        return sum(time > oldest for time in self._times.copy())

    def _now(self) -> float:
        return (SYSTEM if self.context is None else self.context.clock).monotonic()

    # --- changes, with the lock held ------------------------------------------------------------------------------------

    def _become(self, new: str, error: str = "") -> None:
        self._news.append((self.state, new, error))
        self.state, self._trial = new, None
        self._turn += 1
        if new is OPEN:
            self.opened += 1
            self._since = self._turn
            self._wait()
            self._pause()
            return
        if new is CLOSED:
            self._since = self._turn
            self._times.clear()
        self._until = math.inf
        self._go_on()

    def _end_trial(self) -> None:
        """The next run is the trial."""
        self._trial, self._until = None, math.inf
        self._go_on()

    def _time_is_up(self) -> None:
        if self.state is OPEN:
            self._become(HALF_OPEN)
        elif self._trial is not None:  # it takes too long, or will never end
            self._end_trial()

    def _wait(self) -> None:
        self._until = self._now() + self.cool_down
        if self._timer is not None:
            self._timer.cancel()
        if self.context is not None:
            self._timer = self.context.later(self.cool_down, functools.partial(self._ring, self._turn))

    def _ring(self, turn: int) -> None:
        """The timer's call. It may come late: after a stop, or when a run has noticed the time."""
        with self._lock:
            if turn == self._turn:
                self._time_is_up()
        self.tell()

    def _pause(self) -> None:
        if self.context is not None and self.place != "publish":
            before, self._resume = self._resume, self.context.pause(self.place)
            if before is not None:
                before()

    def _go_on(self) -> None:
        timer, self._timer, resume, self._resume = self._timer, None, self._resume, None
        if timer is not None:
            timer.cancel()
        if resume is not None:
            resume()

    # --- without the lock -------------------------------------------------------------------------------------------------

    def tell(self) -> None:
        """Announce the changes to the log and to observers."""
        while self._news:
            try:
                self._teller.pop()
            except IndexError:
                return  # another thread does so, and looks again when it has finished
            try:
                while self._news:
                    self._announce(*self._news.popleft())
            finally:
                self._teller.append(True)

    def _announce(self, old: str, new: str, error: str) -> None:
        context = self.context
        if context is None:
            return
        with suppress(Exception):  # a logger that fails must not affect the message
            write = context.log.warning if new == OPEN else context.log.info
            why = {"error": error} if error else {}
            write("circuit.changed", filter=context.name, place=self.place, old=old, new=new, **why)
        context.emit(events.CircuitChanged(context.name, self.place, old, new))

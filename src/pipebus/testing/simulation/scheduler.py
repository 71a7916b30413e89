"""
A scheduler for the real code: threads run one at a time, and change places where a seed says.

The code of the mailboxes and runners runs unchanged, on real threads. But only the thread that has the baton runs, and it may
have to pass the baton on before any bytecode of the modules that are watched (watch.py). Locks, time and event loops are
virtual (in_place.py): a thread that has to wait passes the baton on, and time passes only when no thread can go on. So the same
seed gives the same run, step by step, and a failed run can be repeated and written down as a story (stories.py).

A scenario is a function of a `Simulation`, run on a thread of its own, `main`; or a block of code on the thread that it is on
(`inside`), as in a `Harness`. Apart from its own assertions, a run fails if no thread can go on (one was not woken), if an
error ends a thread, if a check of `always` fails, or if the run does not end.

The interleavings are finer than the interpreter's: CPython switches threads at calls and backward jumps, this scheduler between
any two bytecodes. So code that passes here is safe in CPython; a failure here has to be judged.

The file is long because all methods of `Simulation` work on the same state: who has the baton, and what the others wait for.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
from _thread import allocate_lock
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import get_ident
from typing import Any, Final

from pipebus.testing.simulation import stories, threads, watch
from pipebus.testing.simulation.in_place import in_place
from pipebus.testing.simulation.locks import LONGEST_WAIT, Outside, SimLock
from pipebus.testing.simulation.rehearsal import Rehearsal
from pipebus.testing.simulation.threads import Over, Stuck, Task
from pipebus.testing.simulation.turns import Given, Strategy, Turns, strategy
from pipebus.testing.simulation.virtual_clock import VirtualClock
from pipebus.testing.simulation.virtual_loop import SimLoop

MOST_STEPS: Final = 300_000
"""
A run with more steps is considered endless; a typical scenario takes some thousands. While a test lets a certain time pass,
they are counted from one moment to the next: threads that poll take as many steps as there is time.
"""

PATIENCE: Final = 30.0
"""Real seconds for one run (`inside`: for one wait), in case a thread waits for something outside the scheduler's control."""

START: Final = 0.0
"""What the virtual monotonic clock shows at the beginning."""

TOLERANCE: Final = 1e-9
"""Seconds: the same fractions added up in another order may differ by this much."""

EPOCH: Final = 1_000_000_000.0
"""The time of day at the beginning, where runs must be repeatable: 9 September 2001, 01:46:40 UTC."""

AT_REST: Final = "all others to rest"

NEXT: Final = "a delivery to be settled"
"""What a thread waits for. With NEXT it goes on when a delivery is settled, or when all others rest."""


class Simulation:
    """One run of one scenario with one seed, passed to the scenario. It has many methods, since all work on one state."""

    def __init__(
        self,
        seed: int = 0,
        *,
        record: bool = False,
        hasty: float = 0.0,
        tick: float = 0.0,
        within: int | None = None,
        turns: Turns | None = None,
        files: dict[str, bool] | None = None,
        patience: float = PATIENCE,
        epoch: float | None = EPOCH,
    ) -> None:
        """
        Args:
            record: Keep the story. It costs time and changes nothing.
            hasty: The probability, at each change of threads, that the nearest timeout expires although a thread could go on.
            tick: Seconds that pass each time the clock is read.
            within: How many steps matter, after the first thread was spawned; for short scenarios with deep races.
            turns: When threads change places, instead of what the seed says.
            files: The files in whose code threads may change places, apart from where they wait: before each line (True) or
                each bytecode (False). None: the package's own.
            patience: As PATIENCE.
            epoch: The time of day at the beginning, in seconds since 1970; None: the computer's.
        """
        self.seed = seed
        self.hasty = hasty
        self.random = random.Random(f"{seed} scenario")  # for scenarios that make choices of their own
        self.chance = os.urandom if epoch is None else random.Random(f"{seed} ids").randbytes  # makes the bytes of ids
        self.time = START
        self.clock = VirtualClock(self, tick, epoch)
        self.failure: str | None = None
        self.ending: list[str] = []  # where each thread was when it failed
        self.steps = 0
        self.brief = files is not None  # its stories are for users, who do not know the bus's locks
        self.story = stories.Recorder(self.brief) if record else None
        self.strategy: Strategy = strategy(random.Random(seed), within) if turns is None else Given(turns)
        self.turns: Turns = {}  # the changes of threads so far: another run can repeat them
        self.running: Task | None = None
        self.over = False
        self.all_tasks: list[Task] = []
        self.live: list[Task] = []  # those that have not ended
        self._numbers = itertools.count()
        self._counted_from = 0  # the last step at which a thread that is `inside` had the baton
        self._by_thread: dict[threading.Thread, Task] = {}
        self._checks: list[Callable[[], str | None]] = []
        self.spawned: list[Task] = []
        self._next_change = 0
        self._turn_began = 0
        self.files = watch.by_line() if files is None else files
        self.patience = patience
        self.thread_failed: Callable[[str, BaseException], None] = lambda name, error: self.fail(
            f"{type(error).__name__} ended {name}: {error}", error
        )
        self.loop_failed: Callable[[str, BaseException | None], None] = lambda text, error: self.fail(
            f"on a loop: {text}: {type(error).__name__}: {error}", error
        )
        self.foreign: list[threads.ForeignThread] = []
        self.looking = False
        self.loops: list[SimLoop] = []
        self.outside = Outside(self)
        self.place: Callable[[Any, str], Any] = Rehearsal  # makes the transport in place of what a URL names
        self.bus_made: list[Callable[[Any], object]] = []  # the last of them is called with each bus that is made
        self.lost = False  # a thread waits where the scheduler cannot end it
        self._done = allocate_lock()
        self._done.acquire()

    # --- for scenarios -------------------------------------------------------------------------------------------------

    def spawn(self, call: Callable[..., Any], *arguments: Any, name: str | None = None) -> Task:
        """Run a call on a thread of its own. The run ends when all of them have ended, and an error in one of them fails it."""
        thread = threading.Thread(
            target=call, args=arguments, name=name or f"{call.__name__}-{len(self.spawned) + 1}", daemon=True
        )
        task = self.adopt(thread)
        self.spawned.append(task)
        return task

    def join(self, *tasks: Task) -> None:
        """Wait for the end of these threads, or of all that were spawned."""
        for task in tasks or self.spawned:
            if not task.ended:
                self.block(task)

    def step(self) -> None:
        """Let threads change places here, in code that is not watched."""
        if self.running is not None:
            self.steps += 1
            if self.steps >= self._next_change:
                self._change()

    def rest(self) -> None:
        """Wait until no other thread can go on, without letting time pass."""
        __tracebackhide__ = True
        self.block(AT_REST)

    def until_settled(self) -> None:
        """Wait until `settled` is called, or until no other thread can go on."""
        self.block(NEXT)

    def settled(self) -> None:
        """Give the baton to the thread that waits in `until_settled`."""
        me = self.running
        waiting = next((task for task in self.live if task.waits_for is NEXT), None)
        if me is not None and waiting is not None and not self.over:
            self.wake(NEXT)
            self._hand_over(me, waiting)

    def give_way(self) -> None:
        """For a thread that polls: wait until the lock that it missed is released, or let another thread run first."""
        me = self.running
        others = [task for task in self._runnable() if task is not me]
        if me is not None and me.missed is not None and me.missed.held:
            self.block(me.missed)
        elif me is not None and others and not self.over:
            self.steps += 1
            self.strategy.gives_way(me)
            self._hand_over(me, self._choose(others, may_stay=False))
        else:
            self.step()

    def say(self, text: str) -> None:
        """Add a line to the story."""
        if self.story is not None and self.running is not None:
            self.story.note(self.running.name, text)

    def end_story(self) -> None:
        """Leave out of the story what happens from now on."""
        if self.story is not None:
            self.story.closed = True

    def check(self, holds: object, text: str) -> None:
        """An assertion that fails the run wherever it is made; in a handler, a plain `assert` would make a dead letter."""
        if not holds:
            self.fail(text)
            raise self.end()

    def advance(self, seconds: float) -> None:
        """Let time pass for all threads. Everything that is due by then is done when it returns."""
        until = self.time + seconds
        self.block(seconds, until + TOLERANCE)
        self.rest()
        self.time = until

    def jump(self, seconds: float) -> None:
        """Move the clock forward at once: every thread whose timeout ends by then wakes late, at the new time."""
        self.time += seconds
        self._wake_the_late()
        self.rest()

    def next_time(self) -> bool:
        """If no other thread can go on now, move to the nearest time at which one can. Return False if there is none."""
        return len(self._runnable()) > 1 or self._pass_time()

    def here(self) -> bool:
        """Whether the calling thread has the baton."""
        return self.running is not None and self.running.thread.ident == get_ident() and not self.lost

    def always(self, check: Callable[[], str | None]) -> None:
        """Call this whenever threads change places. It returns what is wrong, or None, and must take no lock."""
        self._checks.append(check)

    def closed_gate(self) -> SimLock:
        """A lock that is held: `acquire` returns when another thread calls `release`."""
        gate = SimLock(self, sys._getframe(1))
        gate.held = True
        return gate

    @property
    def elapsed(self) -> float:
        """Virtual seconds so far. Where nothing takes time, any number above 0 means that only a timeout woke a thread."""
        return round(self.time - START, 9)

    # --- running -------------------------------------------------------------------------------------------------------

    def run(self, scenario: Callable[[Simulation], object]) -> None:
        __tracebackhide__ = True

        def main() -> None:
            scenario(self)
            self.join()

        with watch.all_code(self.files), in_place(self):
            first = self.adopt(threading.Thread(target=main, name="main", daemon=True))
            self._give(first)
            try:
                done = self._done.acquire(timeout=self.patience)
            except BaseException:  # Ctrl-C
                self.over = True  # the thread that has the baton ends at its next step, and then the others
                self._done.acquire(timeout=1.0)
                self.running = None
                raise
            if not done:
                who = self.running.name if self.running is not None else "a thread"
                self.failure = self.failure or (
                    f"{who} waits for something outside the scheduler's control (a lock made before the run, a socket), "
                    f"or takes longer than {self.patience:g} s"
                )
                self.ending = self.ending or stories.positions(self, None)
                self.over = self.lost = True
                self.running = None
                self._let_go()
                return
            self._sweep(self.all_tasks, PATIENCE)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Make the calling thread `main` until the block ends; then end all other threads."""
        __tracebackhide__ = True
        with in_place(self, collecting=True):
            me = self.running = self._enlisted(threading.current_thread())
            me.guest = True
            self._plan(me)
            try:
                yield
            finally:
                self._leave(me)

    def _let_go(self) -> None:
        """Let all threads leave by themselves: one waits where it cannot be reached, perhaps for a lock that another holds."""
        others = [task for task in self.all_tasks if not task.ended]
        for task in others:
            with suppress(RuntimeError):
                task.baton.release()
        for task in others:
            threads.real_join(task.thread, LONGEST_WAIT / len(others))

    def _leave(self, me: Task) -> None:
        self.over = me.ended = True
        self.live.remove(me)
        others = [task for task in self.all_tasks if not task.ended]
        if self.running is not me or self.lost:  # interrupted while another had the baton
            self._let_go()
        elif others:
            self._give(others[0])
            self._done.acquire(timeout=self.patience)
        self._sweep(others, 0.0 if self.lost else self.patience)

    def _sweep(self, tasks: list[Task], patience: float) -> None:
        self.running = None
        for task in tasks:
            threads.real_join(task.thread, patience)
        for loop in self.loops:
            loop.sweep()

    def adopt(self, thread: threading.Thread) -> Task:
        """Start a thread under the scheduler's control; it waits for the baton."""
        if self.over:
            raise self.end()
        task, run = self._enlisted(thread), thread.run

        def controlled() -> None:
            task.baton.acquire()
            try:
                if not self.over:
                    watch.begin(self)
                    run()
            except Over:
                pass
            except BaseException as error:
                self.thread_failed(task.name, error)
            finally:
                watch.end()
                self._end(task)

        thread.run = controlled  # type: ignore[method-assign]
        threads.real_start(thread)
        if self.running is not None:
            self.say(f"starts {task.name}")
            self._woken()
        return task

    def _enlisted(self, thread: threading.Thread) -> Task:
        task = self._by_thread[thread] = Task(thread, next(self._numbers))
        self.all_tasks.append(task)
        self.live.append(task)
        self.strategy.joins(task, self.steps)
        return task

    def task_of(self, thread: threading.Thread) -> Task | None:
        return self._by_thread.get(thread)

    def _end(self, task: Task) -> None:
        """A thread has ended: give the baton to another."""
        task.ended = True
        self.live.remove(task)
        if self.story is not None and not self.over:
            self.story.note(task.name, "ends")
        self.wake(task)
        if not self.over:
            following = self._who_can_go_on()
            if following is not None:
                self._give(following)
                return
        if self.lost:
            return  # the others leave by themselves
        # End the others, one after the other.
        remaining = self.live[0] if self.live else None
        if remaining is None:
            self._done.release()
        else:
            self._give(remaining)

    def _who_can_go_on(self) -> Task | None:
        """The next thread to run; time passes if there is none now. None if the run is over."""
        while True:
            runnable = self._runnable()
            if runnable:
                return self._choose(runnable, may_stay=False)
            if self.all_tasks[0].ended:
                self.over = True
                return None
            if any(task.waits_for in (AT_REST, NEXT) for task in self.live):
                self.wake(AT_REST)
                self.wake(NEXT)
                continue
            if self.outside.let_in(LONGEST_WAIT if self.outside.expects() else 0.0):
                continue
            if not self._pass_time() and not self.outside.let_in(LONGEST_WAIT):
                self.fail("no thread can go on: each waits for another, or was not woken")
                return None

    def _runnable(self) -> list[Task]:
        return [task for task in self.live if task.waits_for is None]

    def _pass_time(self) -> bool:
        """Move to the nearest timeout. Return False if there is none."""
        deadlines = [task.deadline for task in self.live if task.deadline is not None]
        if not deadlines:
            return False
        self.time = max(self.time, min(deadlines))
        if self.all_tasks[0].guest and self.all_tasks[0].deadline is not None:
            self._counted_from = self.steps
        if self.story is not None:
            self.story.note("", f"time passes: {self.elapsed:g} s since the beginning")
        self._wake_the_late()
        return True

    def _wake_the_late(self) -> None:
        for task in self.live:
            if task.deadline is not None and task.deadline <= self.time:
                self._go_on(task)

    def _choose(self, runnable: list[Task], may_stay: bool) -> Task:
        me = self.running
        assert me is not None
        at = (me.number, me.steps + self.steps - self._turn_began, may_stay)
        chosen = self.strategy.choose(self.steps, runnable, me if may_stay else None, at)
        if chosen is not (me if may_stay else runnable[0]):
            self.turns[at] = chosen.number
        return chosen

    def _plan(self, task: Task) -> None:
        """Decide at which step the thread that has the baton may next have to pass it on."""
        own = task.steps + self.steps - self._turn_began
        self._next_change = min(self.strategy.next_change(self.steps, task, own), self._counted_from + MOST_STEPS)
        if self._checks and isinstance(self.strategy, Given):
            self._next_change = self.steps + 1  # a repeated run must look as often as the one in which a check failed

    def _give(self, task: Task) -> None:
        if self.running is not None:
            self.running.steps += self.steps - self._turn_began
        self._turn_began = self.steps
        if task.guest:
            self._counted_from = self.steps
        self.running = task
        self._plan(task)
        task.baton.release()

    def _hand_over(self, me: Task, to: Task) -> None:
        __tracebackhide__ = True
        if to is not me:
            self._give(to)
            if not me.guest:
                me.baton.acquire()
            elif not self._await_turn(me):
                self.fail(
                    f"{to.name} waits for something outside the harness's control, or takes longer than {self.patience:g} s"
                )
        if self.over:
            if not me.guest:
                watch.end()
            raise self.end()

    def fail(self, text: str, error: BaseException | None = None) -> None:
        """End the run, because of this."""
        if self.failure is None:
            self.failure = text
            if self.story is not None or self.all_tasks[0].guest:
                self.ending = stories.positions(self, error)
        self.over = True

    def end(self) -> BaseException:
        """What to raise in the running thread when the run is over."""
        if not self.all_tasks[0].guest or self.all_tasks[0].thread.ident != get_ident():
            return Over()
        lines = "".join(f"\n    {line}" for line in self.ending)
        return Stuck(f"{self.failure or 'it is over'}{lines}")

    def _await_turn(self, me: Task) -> bool:
        """Wait for the baton. Without it (a timeout, an interrupt) this thread goes on, but no thread may take a step then."""
        timed, came, moment = me.deadline is not None, False, None
        try:
            while not came and (moment is None or (timed and moment != self.time)):
                moment = self.time  # while virtual time passes, as it was asked to, no thread is lost
                came = me.baton.acquire(timeout=self.patience)
        finally:
            self.lost = not came
        return came

    # --- blocking, and going on ------------------------------------------------------------------------------------------

    def block(self, on: Any, deadline: float | None = None) -> None:
        """Make the running thread wait for a lock, a task or a time, until `wake` or the deadline."""
        __tracebackhide__ = True
        me = self.running
        if self.over or me is None:
            raise self.end()
        me.waits_for, me.deadline = on, deadline
        self.steps += 1
        self._look()
        if self.story is not None:
            self.story.note(me.name, f"waits for {stories.what(on, self.brief)}")
        following = self._who_can_go_on()
        if following is None:
            raise self.end()
        self._hand_over(me, following)

    def wake(self, on: Any) -> None:
        """Let every thread that waits for this go on."""
        for task in self.live:
            if task.waits_for is on:
                self._go_on(task)

    def _go_on(self, task: Task) -> None:
        task.waits_for = task.deadline = None
        self._woken()

    def _woken(self) -> None:
        if self.strategy.eager:
            self._next_change = self.steps

    def _change(self, code: Any = None, offset: int = 0) -> None:
        """At the step that the seed has chosen: pass the baton on, perhaps."""
        me = self.running
        if self.over or me is None:
            return
        self._look()
        if me.guest:
            self._counted_from = self.steps  # a test may take as many steps as it likes
        if self.steps - self._counted_from >= MOST_STEPS:
            self.fail(f"no end after {MOST_STEPS:,} steps")
            raise self.end()
        if self.hasty and self.random.random() < self.hasty:
            self._pass_time()
        to = self._choose(self._runnable(), may_stay=True)
        if to is me:
            self._plan(me)
        else:
            if self.story is not None:
                self.story.interrupted(me.name, code, offset)
            self._hand_over(me, to)

    def _look(self) -> None:
        for check in self._checks:
            self.looking = True  # what the check calls is not a part of the run
            wrong = check()
            self.looking = False
            if wrong is not None:
                self.fail(wrong)
                raise self.end()

    # --- called by watch.py ----------------------------------------------------------------------------------------------

    def bytecode(self, code: Any, offset: int) -> None:
        """The running thread is about to run this bytecode."""
        self.steps += 1
        if self.steps >= self._next_change and (code is None or not watch.boring(code, offset)):
            self._change(code, offset)

    def line(self, code: Any, line: int) -> None:
        """The running thread is about to run this line."""
        if self.story is not None and self.running is not None:
            self.story.line(self.running.name, code, line)

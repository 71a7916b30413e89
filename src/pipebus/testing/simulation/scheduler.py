"""
A scheduler for the real code: threads that run one at a time, and change places where a seed says.

The mailboxes' and runners' own code runs, on real threads. But only the thread that has the baton goes on, and it may have to
hand it over before any bytecode of the modules that are watched (watch.py). Locks, time and event loops are virtual
(virtual.py, virtual_loop.py): a thread that cannot go on lets another, and time passes only when nobody can go on. So a seed
says all there is to say: the same seed is the same run, step by step, and a run that fails can be seen again, as a story
(stories.py).

    def scenario(sim):
        bus = Bus()
        ...
        sim.spawn(publish_three, name="publisher")

    explore(scenario, range(300))

A scenario runs on a thread of its own, `main`; or a block of code takes that part where it stands (`inside`), and is the only
thread that runs until it waits for something: a `Harness` is no more than that. Beyond what it checks itself, a run fails if
nobody can go on (somebody was not woken), if an error ends one of the threads, if an `always` stops being true, or if the run
does not end.

Interleavings here are finer than the interpreter's own: it lets threads change at calls and backward jumps, this one between
any two bytecodes. So what passes here is safe in coarser grain too; what fails has to be judged.
"""

from __future__ import annotations

import itertools
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
from pipebus.testing.simulation.locks import SimLock
from pipebus.testing.simulation.outside import LONGEST_WAIT, Outside
from pipebus.testing.simulation.rehearsal import Rehearsal
from pipebus.testing.simulation.task import Over, Stuck, Task
from pipebus.testing.simulation.turns import Few, Given, Often, Turns, strategy
from pipebus.testing.simulation.virtual_clock import VirtualClock
from pipebus.testing.simulation.virtual_loop import SimLoop

MOST_STEPS: Final = 300_000
"""A run that takes more is taken to go round for ever; scenarios here take some thousands."""

PATIENCE: Final = 30.0
"""Real seconds for one run (`inside`: for one wait); for a thread that waits for something that is not the scheduler's."""

START: Final = 0.0
"""The virtual monotonic clock at the beginning."""

TOLERANCE: Final = 1e-9
"""Seconds: what is due at a sum of fractions is due when that time has come, whichever way it was added up."""

EPOCH: Final = 1_000_000_000.0
"""And the time of day, where a seed has to say all: the 9th of September 2001, 01:46:40 UTC."""

AT_REST: Final = "all others to rest"

NEXT: Final = "a delivery to be settled"
"""Or, if there is none, for all others to rest."""


class Simulation:
    """One run of one scenario with one seed; what a scenario is given."""

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
            files: In whose code threads may change places, besides where they wait: before each line (True) or bytecode
                (False). None: in the package's own.
            epoch: The time of day at the beginning, in seconds since 1970; None: the computer's.
            within: How many steps matter, after the first thread was spawned; for short scenarios and deep races.
            turns: When threads change places, instead of what the seed says.
            record: Keep the story; costs time, changes nothing.
            hasty: How likely, at each change of threads, the nearest time-out runs out although somebody could go on.
            tick: Seconds that pass whenever somebody looks at the clock.
        """
        self.seed = seed
        self.hasty = hasty
        self.random = random.Random(f"{seed} scenario")  # for scenarios that vary
        self.time = START
        self.clock = VirtualClock(self, tick, epoch)
        self.failure: str | None = None
        self.ending: list[str] = []  # where the threads stood when it failed
        self.steps = 0
        self.story = stories.Recorder() if record else None
        self.strategy: Often | Few | Given = strategy(random.Random(seed), within) if turns is None else Given(turns)
        self.turns: Turns = {}  # what was decided, to be given to another run
        self.running: Task | None = None
        self.over = False
        self.all_tasks: list[Task] = []
        self.live: list[Task] = []  # those that have not ended
        self._numbers = itertools.count()
        self._counted_from = 0  # the step at which the caller of a block that runs `inside` had its turn last
        self._by_thread: dict[threading.Thread, Task] = {}
        self._checks: list[Callable[[], str | None]] = []
        self._spawned: list[Task] = []
        self._next_change = 0
        self._turn_began = 0
        self.files = watch.by_line() if files is None else files
        self.patience = patience
        self.brief = files is not None  # its stories are for users, and not about the bus's own locks
        self.thread_failed: Callable[[str, BaseException], None] = self._thread_failed
        self.loop_failed: Callable[[str, BaseException | None], None] = self._loop_failed
        self.looking = False
        self.loops: list[SimLoop] = []
        self.outside = Outside(self)
        self.place: Callable[[Any, str], Any] = Rehearsal  # what carries messages in place of what a URL names
        self.bus_made: list[Callable[[Any], object]] = []  # told of each bus that is made here: the last of them
        self.lost = False
        self._lost = False  # a thread stands where the scheduler cannot reach it
        self._done = allocate_lock()
        self._done.acquire()

    # --- for scenarios -------------------------------------------------------------------------------------------------

    def spawn(self, call: Callable[..., Any], *arguments: Any, name: str | None = None) -> Task:
        """Run a call on a thread of its own; the run ends when all of these have, and an error in one of them fails it."""
        thread = threading.Thread(
            target=call, args=arguments, name=name or f"{call.__name__}-{len(self._spawned) + 1}", daemon=True
        )
        task = self.adopt(thread)
        self._spawned.append(task)
        return task

    def join(self, *tasks: Task) -> None:
        """Wait for these, or for all that were spawned."""
        for task in tasks or self._spawned:
            if not task.ended:
                self.block(task)

    def step(self) -> None:
        """A point in a scenario's own code where threads may change places."""
        if self.running is not None:
            self.steps += 1
            if self.steps >= self._next_change:
                self._change()

    def rest(self) -> None:
        """Wait until nobody else can go on, without time passing."""
        __tracebackhide__ = True
        self.block(AT_REST)

    def until_settled(self) -> None:
        """The same, but no further than to the next `settled`."""
        self.block(NEXT)

    def settled(self) -> None:
        """Whoever waits for a delivery has his turn at once."""
        me = self.running
        waiting = next((task for task in self.live if task.waits_for is NEXT), None)
        if me is not None and waiting is not None and not self.over:
            self.wake(NEXT)
            self._hand_over(me, waiting)

    def give_way(self) -> None:
        """Somebody goes round until it gets a lock: it may as well wait until that is released."""
        me = self.running
        if me is not None and me.missed is not None and me.missed.held:
            self.block(me.missed)
        else:
            self.step()

    def say(self, text: str) -> None:
        """A line for the story."""
        if self.story is not None and self.running is not None:
            self.story.note(self.running.name, text)

    def end_story(self) -> None:
        """What happens from now on is of no interest."""
        if self.story is not None:
            self.story.closed = True

    def check(self, holds: object, text: str) -> None:
        """An assertion that is seen wherever it stands: a handler's own would become a dead letter."""
        if not holds:
            self.fail(text)
            raise self.end()

    def advance(self, seconds: float) -> None:
        """Let time pass, for everybody: all that is due by then is done when it returns."""
        until = self.time + seconds
        self.block(seconds, until + TOLERANCE)
        self.rest()
        self.time = until

    def jump(self, seconds: float) -> None:
        """The clock goes forward at once; all that is due by then wakes up late, at the same time."""
        self.time += seconds
        for task in self.live:
            if task.deadline is not None and task.deadline <= self.time:
                task.waits_for = task.deadline = None
                self._woken(task)
        self.rest()

    def next_time(self) -> bool:
        """If no other thread can go on now, move to the nearest time at which one can; False if there is none."""
        return len(self._runnable()) > 1 or self._pass_time()

    def here(self) -> bool:
        """Whether the calling thread is the one that runs."""
        return self.running is not None and self.running.thread.ident == get_ident() and not self._lost

    def always(self, check: Callable[[], str | None]) -> None:
        """Looked at whenever threads change places: what is wrong, or None. It must take no lock."""
        self._checks.append(check)

    def closed_gate(self) -> SimLock:
        """To wait for: `acquire` returns when somebody calls `release`."""
        gate = SimLock(self, sys._getframe(1))
        gate.held = True
        return gate

    @property
    def elapsed(self) -> float:
        """Seconds that have passed. If nothing in a scenario takes time and some did pass, somebody was woken by it alone."""
        return round(self.time - START, 9)

    def tasks(self, beginning: str) -> list[Task]:
        """Those that were spawned, by how their names begin."""
        return [task for task in self._spawned if task.name.startswith(beginning)]

    def left_behind(self) -> list[str]:
        """Names of the threads that run still, apart from the scenario's own."""
        own = {task.number for task in self._spawned} | {0}
        return [task.name for task in self.all_tasks if not task.ended and task.number not in own]

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
                self.over = True  # who runs ends at his next step, and the others after him
                self._done.acquire(timeout=1.0)
                self.running = None
                raise
            if not done:
                who = self.running.name if self.running is not None else "a thread"
                self.failure = self.failure or (
                    f"{who} waits for something that is not the scheduler's (a lock that was made before the run, a socket), "
                    f"or takes longer than {self.patience:g} s"
                )
                self.ending = self.ending or stories.positions(self, None)
                self.over = self.lost = self._lost = True
                self.running = None
                return  # its threads cannot be ended: they stay
            self.running = None
            for task in self.all_tasks:
                threads.real_join(task.thread, PATIENCE)
            for loop in self.loops:
                loop.sweep()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is `main` as long as the block lasts; then all others are told that it is over."""
        __tracebackhide__ = True
        me = Task(threading.current_thread(), next(self._numbers))
        me.guest = True
        with in_place(self, collecting=True):
            self.all_tasks.append(me)
            self.live.append(me)
            self._by_thread[me.thread] = me
            self.strategy.joins(me, 0)
            self.running = me
            self._plan(me)
            try:
                yield
            finally:
                self._leave(me)

    def _leave(self, me: Task) -> None:
        self.over = me.ended = True
        self.live.remove(me)
        others = [task for task in self.all_tasks if not task.ended]
        if self.running is not me or self._lost:  # interrupted while another had the baton: each leaves by itself
            for task in others:
                with suppress(RuntimeError):
                    task.baton.release()
        elif others:
            self._give(others[0])
            self._done.acquire(timeout=self.patience)
        self.running = None
        for task in others:
            threads.real_join(task.thread, 0.0 if self._lost else self.patience)
        for loop in self.loops:
            loop.sweep()

    def adopt(self, thread: threading.Thread) -> Task:
        """Start a thread under control. It waits for the baton."""
        if self.over:
            raise self.end()
        task = Task(thread, next(self._numbers))
        self.all_tasks.append(task)
        self.live.append(task)
        self._by_thread[thread] = task
        self.strategy.joins(task, self.steps)
        run = thread.run

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
            self._woken(task)
        return task

    def task_of(self, thread: threading.Thread) -> Task | None:
        return self._by_thread.get(thread)

    def _end(self, task: Task) -> None:
        """A thread has ended: who goes on?"""
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
        if self._lost:
            return  # each leaves by itself
        # The rest is told that it is over, one after the other.
        remaining = self.live[0] if self.live else None
        if remaining is None:
            self._done.release()
        else:
            self._give(remaining)

    def _who_can_go_on(self) -> Task | None:
        """The next thread; if there is none now, then after some time; None if the run is over."""
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
            if self.outside.let_in():
                continue
            if not self._pass_time() and not self.outside.let_in(LONGEST_WAIT):
                self.fail("nobody can go on: each thread waits for another, or was not woken")
                return None

    def _runnable(self) -> list[Task]:
        return [task for task in self.live if task.waits_for is None]

    def _pass_time(self) -> bool:
        """To the nearest time-out; False if there is none."""
        deadlines = [task.deadline for task in self.live if task.deadline is not None]
        if not deadlines:
            return False
        self.time = max(self.time, min(deadlines))
        if self.story is not None:
            self.story.note("", f"time passes: {self.elapsed:g} s since the beginning")
        for task in self.live:
            if task.deadline is not None and task.deadline <= self.time:
                task.waits_for = task.deadline = None
                self._woken(task)
        return True

    def _choose(self, runnable: list[Task], may_stay: bool) -> Task:
        me = self.running
        assert me is not None
        at = (me.number, me.steps + self.steps - self._turn_began, may_stay)
        chosen = self.strategy.choose(self.steps, runnable, me if may_stay else None, at)
        if chosen is not (me if may_stay else runnable[0]):
            self.turns[at] = chosen.number
        return chosen

    def _plan(self, task: Task) -> None:
        """When the thread that has the turn is to be asked next."""
        own = task.steps + self.steps - self._turn_began
        self._next_change = min(self.strategy.next_change(self.steps, task, own), self._counted_from + MOST_STEPS)
        if self._checks and isinstance(self.strategy, Given):
            self._next_change = self.steps + 1  # what a check has found is to be found here too, wherever threads change

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
                self.fail(f"{to.name} waits for something that is not the harness's, or takes longer than {self.patience:g} s")
        if self.over:
            if not me.guest:
                watch.end()
            raise self.end()

    def fail(self, text: str, error: BaseException | None = None) -> None:
        """The run has failed, and is over."""
        if self.failure is None:
            self.failure = text
            self.ending = self._positions(error)
        self.over = True

    def _thread_failed(self, name: str, error: BaseException) -> None:
        self.fail(f"{type(error).__name__} ended {name}: {error}", error)

    def _loop_failed(self, text: str, error: BaseException | None) -> None:
        self.fail(f"on a loop: {text}: {type(error).__name__}: {error}", error)

    def end(self) -> BaseException:
        """What is raised in the thread that runs, when the run is over."""
        if not self.all_tasks[0].guest or self.all_tasks[0].thread.ident != get_ident():
            return Over()
        lines = "".join(f"\n    {line}" for line in self.ending)
        return Stuck(f"{self.failure or 'it is over'}{lines}")

    def _positions(self, error: BaseException | None = None) -> list[str]:
        if self.story is None and not self.all_tasks[0].guest:
            return []
        return stories.positions(self, error)

    def _await_turn(self, me: Task) -> bool:
        """False if it does not come. Interrupted, the thread goes on without it: from then on nobody may take steps."""
        came = False
        try:
            came = me.baton.acquire(timeout=self.patience)
        finally:
            self._lost = not came
        return came

    # --- blocking, and going on ------------------------------------------------------------------------------------------

    def block(self, on: Any, deadline: float | None = None) -> None:
        """The running thread waits for a lock, a task or a time, until `wake` or the deadline."""
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
        """Everyone who waits for this may look again."""
        for task in self.live:
            if task.waits_for is on:
                task.waits_for = task.deadline = None
                self._woken(task)

    def _woken(self, task: Task) -> None:
        if self.strategy.eager:
            self._next_change = self.steps

    def _change(self, code: Any = None, offset: int = 0) -> None:
        """The moment that the seed has chosen: another thread, perhaps, goes on."""
        me = self.running
        if self.over or me is None:
            return
        self._look()
        if me.guest:
            self._counted_from = self.steps  # how long a test goes on is its own affair
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
            self.looking = True  # what it calls is no part of the run
            wrong = check()
            self.looking = False
            if wrong is not None:
                self.fail(wrong)
                raise self.end()

    # --- what the watch tells --------------------------------------------------------------------------------------------

    def bytecode(self, code: Any, offset: int) -> None:
        """The running thread is about to take a step."""
        self.steps += 1
        if self.steps >= self._next_change and (code is None or not watch.boring(code, offset)):
            self._change(code, offset)

    def line(self, code: Any, line: int) -> None:
        """It comes to another line."""
        if self.story is not None and self.running is not None:
            self.story.line(self.running.name, code, line)

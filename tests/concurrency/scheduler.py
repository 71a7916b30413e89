"""
A scheduler for the real code: threads that run one at a time, and change places where a seed says.

The mailboxes' and runners' own code runs, on real threads. But only the thread that has the baton goes on, and it may have to
hand it over before any bytecode of the modules that are watched (watch.py). Locks, time and event loops (sim_loop.py) are
virtual: a thread that cannot go on lets another, and time passes only when nobody can go on. So a seed says all there is to
say: the same seed is the same run, step by step, and a run that fails can be seen again, as a story (stories.py).

    def scenario(sim):
        bus = Bus(clock=sim.clock)
        ...
        sim.spawn(publish_three, name="publisher")

    explore(scenario, range(300))

A scenario runs on a thread of its own, `main`. Beyond what it checks itself, a run fails if nobody can go on (somebody was
not woken), if an error ends one of the threads, if an `always` stops being true, or if the run does not end.

Interleavings here are finer than the interpreter's own: it lets threads change at calls and backward jumps, this one between
any two bytecodes. So what passes here is safe in coarser grain too; what fails has to be judged.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import sys
import threading
import time
from _thread import allocate_lock
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import stories
import watch
from sim_loop import AsyncioShim, SimLoop

MOST_STEPS: Final = 300_000
"""A run that takes more is taken to go round for ever; scenarios here take some thousands."""

PATIENCE: Final = 30.0
"""Real seconds for one run; it runs out only if a thread waits for something that is not the scheduler's."""

START: Final = 1_000.0
"""The virtual monotonic clock at the beginning."""


REMEMBERED: Final = (("pipebus.mailbox", "_resting"),)
"""What the watched modules keep from one bus to the next: a run that finds it takes other steps than the one that made it."""

AT_REST: Final = "all others to rest"


class Over(BaseException):
    """The run has ended: raised in threads that are still somewhere, so that they leave."""


class Task:
    """A controlled thread."""

    def __init__(self, thread: threading.Thread, number: int) -> None:
        self.thread = thread
        self.name = thread.name
        self.number = number
        self.baton = allocate_lock()
        self.baton.acquire()
        self.ended = False
        self.missed: SimLock | None = None  # the lock that it did not get, and did not wait for
        self.waits_for: Any = None  # a lock, a task, or a time; None: it can run
        self.deadline: float | None = None
        self.steps = 0  # its own, up to its last turn
        self.priority = 0.0  # for `Few`


class Simulation:
    """One run of one scenario with one seed; what a scenario is given."""

    current: Simulation | None = None

    def __init__(
        self,
        seed: int,
        *,
        record: bool = False,
        hasty: float = 0.0,
        tick: float = 0.0,
        within: int | None = None,
        turns: Turns | None = None,
    ) -> None:
        """
        Args:
            within: How many steps matter, after the first thread was spawned; for short scenarios and deep races.
            turns: When threads change places, instead of what the seed says.
            record: Keep the story; costs time, changes nothing.
            hasty: How likely, at each change of threads, the nearest time-out runs out although somebody could go on.
            tick: Seconds that pass whenever somebody looks at the clock.
        """
        self.seed = seed
        self.hasty = hasty
        self.random = random.Random(f"{seed} scenario")  # for scenarios that vary
        self.clock = VirtualClock(self, tick)
        self.time = START
        self.failure: str | None = None
        self.ending: list[str] = []  # where the threads stood when it failed
        self.steps = 0
        self.story = stories.Recorder() if record else None
        self.strategy: Often | Few | Given = strategy(random.Random(seed), within) if turns is None else Given(turns)
        self.turns: Turns = {}  # what was decided, to be given to another run
        self.running: Task | None = None
        self.over = False
        self._tasks: list[Task] = []
        self._by_thread: dict[threading.Thread, Task] = {}
        self._checks: list[Callable[[], str | None]] = []
        self._spawned: list[Task] = []
        self._next_change = 0
        self._turn_began = 0
        self.looking = False
        self.loops: list[SimLoop] = []
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
        self.block(AT_REST)

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

    def check(self, holds: object, text: str) -> None:
        """An assertion that is seen wherever it stands: a handler's own would become a dead letter."""
        if not holds:
            self.fail(text)
            raise Over

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
        return self.time - START

    def tasks(self, beginning: str) -> list[Task]:
        """Those that were spawned, by how their names begin."""
        return [task for task in self._spawned if task.name.startswith(beginning)]

    def left_behind(self) -> list[str]:
        """Names of the threads that run still, apart from the scenario's own."""
        own = {task.number for task in self._spawned} | {0}
        return [task.name for task in self._tasks if not task.ended and task.number not in own]

    # --- running -------------------------------------------------------------------------------------------------------

    def run(self, scenario: Callable[[Simulation], object]) -> None:
        def main() -> None:
            scenario(self)
            self.join()

        with watch.all_code(), self._in_place():
            first = self.adopt(threading.Thread(target=main, name="main", daemon=True))
            self._give(first)
            if not self._done.acquire(timeout=PATIENCE):
                self.failure = self.failure or "a thread waits for something that is not the scheduler's"
                self.ending = self.ending or self._positions()
                self.over = True
                self.running = None
                return  # its threads cannot be ended: they stay
            self.running = None
            for task in self._tasks:
                real_join(task.thread, PATIENCE)
            for loop in self.loops:
                loop.sweep()

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Virtual threads and locks instead of the real ones, for what the package makes meanwhile."""
        ours = [module for name, module in sorted(sys.modules.items()) if name.partition(".")[0] == "pipebus"]
        replaced = [
            (module, name, real, shim)
            for name, real, shim in (
                ("threading", threading, Shim(self)),
                ("time", time, TimeShim(self)),
                ("asyncio", asyncio, AsyncioShim(self)),
            )
            for module in ours
            if getattr(module, name, None) is real
        ]
        before = Simulation.current
        log = logging.getLogger("pipebus")
        silent, log.disabled = log.disabled, True  # a thousand warnings of buses that were meant to stop early
        remembered = [getattr(sys.modules[module], name, {}) for module, name in REMEMBERED]
        collecting = gc.isenabled()
        gc.disable()  # a finalizer of an earlier run would take steps in this one
        for cache in remembered:
            cache.clear()
        for module, name, _, shim in replaced:
            setattr(module, name, shim)
        Simulation.current = self
        threading.Thread.start, threading.Thread.join = start, join  # type: ignore[method-assign,assignment]
        threading.Thread.is_alive = is_alive  # type: ignore[method-assign]
        try:
            yield
        finally:
            threading.Thread.start, threading.Thread.join = real_start, real_join  # type: ignore[method-assign]
            threading.Thread.is_alive = real_is_alive  # type: ignore[method-assign]
            Simulation.current = before
            log.disabled = silent
            for module, name, real, _ in replaced:
                setattr(module, name, real)
            if collecting:
                gc.enable()

    def adopt(self, thread: threading.Thread) -> Task:
        """Start a thread under control. It waits for the baton."""
        if self.over:
            raise Over
        task = Task(thread, len(self._tasks))
        self._tasks.append(task)
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
                self.fail(f"{type(error).__name__} ended {task.name}: {error}", error)
            finally:
                watch.end()
                self._end(task)

        thread.run = controlled  # type: ignore[method-assign]
        real_start(thread)
        if self.running is not None:
            self.say(f"starts {task.name}")
            self._woken(task)
        return task

    def task_of(self, thread: threading.Thread) -> Task | None:
        return self._by_thread.get(thread)

    def _end(self, task: Task) -> None:
        """A thread has ended: who goes on?"""
        task.ended = True
        if self.story is not None and not self.over:
            self.story.note(task.name, "ends")
        self.wake(task)
        if not self.over:
            following = self._who_can_go_on()
            if following is not None:
                self._give(following)
                return
        # The rest is told that it is over, one after the other.
        remaining = next((other for other in self._tasks if not other.ended), None)
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
            if self._tasks[0].ended:
                self.over = True
                return None
            if any(task.waits_for is AT_REST for task in self._tasks):
                self.wake(AT_REST)
                continue
            if not self._pass_time():
                self.fail("nobody can go on: each thread waits for another, or was not woken")
                return None

    def _runnable(self) -> list[Task]:
        return [task for task in self._tasks if task.waits_for is None and not task.ended]

    def _pass_time(self) -> bool:
        """To the nearest time-out; False if there is none."""
        deadlines = [task.deadline for task in self._tasks if task.deadline is not None and not task.ended]
        if not deadlines:
            return False
        self.time = max(self.time, min(deadlines))
        if self.story is not None:
            self.story.note("", f"time passes: {self.elapsed:g} s since the beginning")
        for task in self._tasks:
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
        self._next_change = min(self.strategy.next_change(self.steps, task, own), MOST_STEPS)
        if self._checks and isinstance(self.strategy, Given):
            self._next_change = self.steps + 1  # what a check has found is to be found here too, wherever threads change

    def _give(self, task: Task) -> None:
        if self.running is not None:
            self.running.steps += self.steps - self._turn_began
        self._turn_began = self.steps
        self.running = task
        self._plan(task)
        task.baton.release()

    def _hand_over(self, me: Task, to: Task) -> None:
        if to is not me:
            self._give(to)
            me.baton.acquire()
        if self.over:
            watch.end()
            raise Over

    def fail(self, text: str, error: BaseException | None = None) -> None:
        """The run has failed, and is over."""
        if self.failure is None:
            self.failure = text
            self.ending = self._positions(error)
        self.over = True

    def _positions(self, error: BaseException | None = None) -> list[str]:
        if self.story is None:
            return []
        frames = sys._current_frames()
        lines = []
        for task in self._tasks:
            traceback = error.__traceback__ if error is not None and task is self.running else None
            lines.append(stories.position(task, self.running is task, frames.get(task.thread.ident or 0), traceback))
        return lines

    # --- blocking, and going on ------------------------------------------------------------------------------------------

    def block(self, on: Any, deadline: float | None = None) -> None:
        """The running thread waits for a lock, a task or a time, until `wake` or the deadline."""
        me = self.running
        if self.over or me is None:
            raise Over
        me.waits_for, me.deadline = on, deadline
        self.steps += 1
        self._look()
        if self.story is not None:
            self.story.note(me.name, f"waits for {stories.what(on)}")
        following = self._who_can_go_on()
        if following is None:
            raise Over
        self._hand_over(me, following)

    def wake(self, on: Any) -> None:
        """Everyone who waits for this may look again."""
        for task in self._tasks:
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
        if self.steps >= MOST_STEPS:
            self.fail(f"no end after {MOST_STEPS:,} steps")
            raise Over
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
                raise Over

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


# --- what replaces the real things -------------------------------------------------------------------------------------


class SimLock:
    """`threading.Lock`, as the scheduler sees it."""

    def __init__(self, sim: Simulation, frame: Any = None) -> None:
        self.sim = sim
        self.held = False
        self.holder: Task | None = None
        made = frame or sys._getframe(2)
        self.made = (made.f_code.co_filename, made.f_lineno)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        sim = self.sim
        if sim.running is None:  # before the run or after it
            if self.held and blocking:
                raise RuntimeError("a lock is held although nobody runs")
            taken, self.held = not self.held, True
            return taken
        if sim.over:
            raise Over
        sim.step()
        deadline = sim.time + timeout if timeout >= 0 else None
        while self.held:
            if not blocking and sim.running is not None:
                sim.running.missed = self
            if not blocking or (deadline is not None and sim.time >= deadline):
                return False
            sim.block(self, deadline)
        self.held = True
        return True

    def release(self) -> None:
        if not self.held:
            raise RuntimeError("release unlocked lock")
        self.held, self.holder = False, None
        if not self.sim.over:
            self.sim.wake(self)

    def locked(self) -> bool:
        if self.held and self.sim.running is not None:
            self.sim.running.missed = self
        return self.held

    def __enter__(self) -> bool:
        self.acquire()
        self.holder = self.sim.running  # known only here: a gate is acquired by one thread and released by another
        return True

    def __exit__(self, *_: object) -> None:
        self.release()


class SimRLock(SimLock):
    """`threading.RLock`."""

    def __init__(self, sim: Simulation, frame: Any = None) -> None:
        super().__init__(sim, frame or sys._getframe(2))
        self.times = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if (self.held and self.holder is self.sim.running) or super().acquire(blocking, timeout):
            self.times += 1
            self.holder = self.sim.running
            return True
        return False

    def release(self) -> None:
        self.times -= 1
        if self.times == 0:
            super().release()


class Shim:
    """Stands for the module `threading` in the package's modules."""

    def __init__(self, sim: Simulation) -> None:
        self.Lock = lambda: SimLock(sim)
        self.RLock = lambda: SimRLock(sim)

    def __getattr__(self, name: str) -> Any:
        if name in {"Condition", "Event", "Semaphore", "BoundedSemaphore", "Barrier", "Timer"}:
            raise NotImplementedError(f"the scheduler has no {name} yet")
        return getattr(threading, name)


class TimeShim:
    """Stands for the module `time`."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.sim.clock.sleep(seconds)
        else:
            self.sim.give_way()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class VirtualClock:
    """A `Clock` that stands still while anybody can go on."""

    def __init__(self, sim: Simulation, tick: float) -> None:
        self.sim = sim
        self.tick = tick

    def monotonic(self) -> float:
        self.sim.time += self.tick
        return self.sim.time

    def now(self) -> float:
        return 1e9 + self.monotonic()

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.sim.block(seconds, self.sim.time + seconds)

    async def asleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def wait(self, gate: Any, timeout: float | None) -> bool:
        if timeout is None or timeout > 9e9:
            return bool(gate.acquire())
        return bool(gate.acquire(timeout=max(timeout, 0.0)))


real_start, real_join, real_is_alive = threading.Thread.start, threading.Thread.join, threading.Thread.is_alive


def _simulation() -> Simulation | None:
    """The one whose thread this is."""
    sim = Simulation.current
    if sim is not None and sim.running is not None and sim.running.thread.ident == threading.get_ident():
        return sim
    return None


def start(thread: threading.Thread) -> None:
    sim = _simulation()
    if sim is None:
        real_start(thread)
    else:
        sim.adopt(thread)


def join(thread: threading.Thread, timeout: float | None = None) -> None:
    sim = _simulation()
    task = sim.task_of(thread) if sim is not None else None
    if sim is None or task is None:
        real_join(thread, timeout)
        return
    sim.step()
    if not task.ended and (timeout is None or timeout > 0):
        sim.block(task, None if timeout is None else sim.time + timeout)


def is_alive(thread: threading.Thread) -> bool:
    sim = _simulation()
    task = sim.task_of(thread) if sim is not None else None
    return not task.ended if task is not None else real_is_alive(thread)


# --- when threads change places ----------------------------------------------------------------------------------------


Turn = tuple[int, int, bool]
"""A thread's number, how many steps it had taken, and whether it could have gone on."""

Turns = dict[Turn, int]
"""Who went on, where it was another than the one that would have by itself."""


class Often:
    """At any step, with an even chance; whoever can."""

    eager = False

    def __init__(self, random: random.Random, mean: int) -> None:
        self.random = random
        self.mean = mean

    def joins(self, task: Task, steps: int) -> None:
        pass

    def next_change(self, steps: int, task: Task, own: int) -> int:
        return steps + 1 + int(self.random.expovariate(1 / self.mean))

    def choose(self, steps: int, runnable: list[Task], me: Task | None, at: Turn) -> Task:
        others = [task for task in runnable if task is not me]
        return self.random.choice(others or runnable)

    def __str__(self) -> str:
        return f"threads change places about every {self.mean} steps"


class Few:
    """
    The thread of the highest rank runs, whenever it can. At a few steps, chosen beforehand, the one that runs falls to the
    lowest rank: it is put to sleep just there, until all others have come to rest.

    Source:
        Burckhardt et al., "A randomized scheduler with probabilistic guarantees of finding bugs", ASPLOS 2010: a race that
        needs d such moments among k steps of n threads is found with a probability of at least 1/(n·k^(d-1)).
    """

    eager = True

    def __init__(self, random: random.Random, moments: int, within: int) -> None:
        self.random = random
        self.moments = moments
        self.within = within
        self._changes: list[int] = []
        self._lowest = 0.0

    def joins(self, task: Task, steps: int) -> None:
        task.priority = self.random.random()
        if task.number == 1:  # from now on there is somebody to change places with
            self._changes = sorted(steps + self.random.randrange(1, self.within) for _ in range(self.moments))

    def next_change(self, steps: int, task: Task, own: int) -> int:
        return self._changes[0] if self._changes else sys.maxsize

    def choose(self, steps: int, runnable: list[Task], me: Task | None, at: Turn) -> Task:
        while self._changes and self._changes[0] <= steps:
            self._changes.pop(0)
            if me is not None:
                self._lowest -= 1
                me.priority = self._lowest
        return max(runnable, key=lambda task: task.priority)

    def __str__(self) -> str:
        return f"threads change places only when they must, and at {self.moments} of some {self.within} steps"


class Given:
    """At given steps; else a thread goes on until it must wait, and then the oldest that can."""

    eager = False

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self._steps: dict[int, list[int]] = {}
        for number, own, may_stay in sorted(turns):
            if may_stay:
                self._steps.setdefault(number, []).append(own)

    def joins(self, task: Task, steps: int) -> None:
        pass

    def next_change(self, steps: int, task: Task, own: int) -> int:
        mine = self._steps.get(task.number, ())
        return next((steps + at - own for at in mine if at > own), sys.maxsize)

    def choose(self, steps: int, runnable: list[Task], me: Task | None, at: Turn) -> Task:
        wanted = self.turns.get(at)
        return next((task for task in runnable if task.number == wanted), me if me is not None else runnable[0])

    def __str__(self) -> str:
        return f"threads change places only when they must, and where it matters: {len(self.turns)} times"


def strategy(random: random.Random, within: int | None) -> Often | Few:
    """Some seeds change often, some rarely: races differ in what they need."""
    if within is not None:
        return Few(random, random.choice((2, 3, 4, 5)), within)
    if random.random() < 0.4:
        return Often(random, random.choice((2, 5, 15, 50, 150)))
    return Few(random, random.choice((1, 2, 3, 4, 5)), random.choice((60, 150, 400, 1000, 2000)))


# --- exploring ---------------------------------------------------------------------------------------------------------


Scenario = Callable[[Simulation], object]


class RaceFound(AssertionError):
    """A run failed; the text is its story."""

    def __init__(self, seed: int, why: str, story: str) -> None:
        super().__init__(story)
        self.seed = seed
        self.why = why
        self.story = story


def run(scenario: Scenario, seed: int, *, record: bool = False, **options: Any) -> Simulation:
    sim = Simulation(seed, record=record, **options)
    sim.run(scenario)
    return sim


def tell(scenario: Scenario, seed: int, **options: Any) -> str:
    """The whole story of one run, whether it fails or not."""
    sim = run(scenario, seed, record=True, **options)
    assert sim.story is not None
    return sim.story.text(sim, scenario.__name__, last=None)


def race(scenario: Scenario, seed: int, **options: Any) -> RaceFound | None:
    """What one seed finds; its story is of a run without the changes of threads that make no difference."""
    sim = run(scenario, seed, **options)  # without a story first, for that is faster
    if sim.failure is None:
        return None
    again = run(scenario, seed, record=True, **options)
    assert again.story is not None
    if (again.failure, again.steps) != (sim.failure, sim.steps):
        why = f"seed {seed} failed ({sim.failure}; {sim.steps} steps), and then not in the same way: something depends on more"
        return RaceFound(seed, why, f"{why}\n\n{again.story.text(again, scenario.__name__)}")
    turns = fewest(scenario, seed, again.turns, **options)
    short = run(scenario, seed, record=True, turns=turns, **options)
    if short.failure is None:
        short = again
    assert short.story is not None
    return RaceFound(seed, sim.failure, short.story.text(short, scenario.__name__))


def fewest(scenario: Scenario, seed: int, turns: Turns, most: int = 300, **options: Any) -> Turns:
    """Leave out changes of threads, as long as the run fails without them (half of them, a quarter, …, one by one)."""

    def fails(some: dict[Turn, int]) -> bool:
        nonlocal most
        most -= 1
        return run(scenario, seed, turns=some, **options).failure is not None

    if not fails(turns):
        return turns
    size = max(1, len(turns) // 2)
    while most > 0:
        gone = False
        keys = list(turns)
        for begin in range(0, len(keys), size):
            without = set(keys[begin : begin + size])
            rest = {key: to for key, to in turns.items() if key not in without}
            if most > 0 and without <= turns.keys() and fails(rest):
                turns, gone = rest, True
        if size == 1 and not gone:
            break
        size = max(1, size // 2)
    return turns


def find(scenario: Scenario, seeds: Iterable[int], **options: Any) -> RaceFound | None:
    """The first race."""
    with watch.all_code():
        for seed in seeds:
            found = race(scenario, seed, **options)
            if found is not None:
                return found
    return None


def explore(scenario: Scenario, seeds: Iterable[int], **options: Any) -> None:
    """Raises RaceFound with the story of the first seed that fails."""
    __tracebackhide__ = True
    found = find(scenario, seeds, **options)
    if found is not None:
        raise found


def seeds(count: int) -> range | list[int]:
    """
    So many seeds. `PIPEBUS_SEEDS=5000` in the environment makes more of them (for each scenario), `PIPEBUS_SEED=17` is that
    seed alone.
    """
    one, many = os.environ.get("PIPEBUS_SEED"), os.environ.get("PIPEBUS_SEEDS")
    if one:
        return [int(one)]
    return range(int(many) if many else count)


def rate(scenario: Scenario, count: int = 100, **options: Any) -> float:
    """Seeds per second."""
    with watch.all_code():
        began = time.perf_counter()
        for seed in range(count):
            run(scenario, seed, **options)
    return count / (time.perf_counter() - began)

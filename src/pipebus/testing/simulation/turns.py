"""When threads change places: where a seed says, or where they did in another run."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipebus.testing.simulation.threads import Task

Turn = tuple[int, int, bool]
"""A moment: a thread's number, how many steps it had taken, and whether it could have gone on."""

Turns = dict[Turn, int]
"""The number of the thread that got the baton, at each moment at which it was not the obvious one."""


class Strategy:
    """Decides when the running thread may have to pass the baton on, and to whom."""

    eager = False

    def joins(self, task: Task, steps: int) -> None:
        """A thread begins."""

    def gives_way(self, task: Task) -> None:
        """A thread polls, and lets all others run first: it waits for one of them."""

    def next_change(self, steps: int, task: Task, own: int) -> int:
        raise NotImplementedError

    def choose(self, steps: int, runnable: list[Task], me: Task | None, at: Turn) -> Task:
        raise NotImplementedError


class Often(Strategy):
    """At any step, with the same probability, to any thread that can go on."""

    def __init__(self, random: random.Random, mean: int) -> None:
        self.random = random
        self.mean = mean

    def next_change(self, steps: int, task: Task, own: int) -> int:
        return steps + 1 + int(self.random.expovariate(1 / self.mean))

    def choose(self, steps: int, runnable: list[Task], me: Task | None, at: Turn) -> Task:
        others = [task for task in runnable if task is not me]
        return self.random.choice(others or runnable)

    def __str__(self) -> str:
        return f"threads change places about every {self.mean} steps"


class Few(Strategy):
    """
    The thread with the highest priority runs whenever it can. At a few steps, chosen beforehand, the running thread gets the
    lowest priority: it sleeps there until all others rest.

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
        if task.number == 1:  # from now on there are two threads
            self._changes = sorted(steps + self.random.randrange(1, self.within) for _ in range(self.moments))

    def next_change(self, steps: int, task: Task, own: int) -> int:
        return self._changes[0] if self._changes else sys.maxsize

    def gives_way(self, task: Task) -> None:
        self._lowest -= 1
        task.priority = self._lowest

    def choose(self, steps: int, runnable: list[Task], me: Task | None, at: Turn) -> Task:
        while self._changes and self._changes[0] <= steps:
            self._changes.pop(0)
            if me is not None:
                self._lowest -= 1
                me.priority = self._lowest
        return max(runnable, key=lambda task: task.priority)

    def __str__(self) -> str:
        return f"threads change places only when they must, and at {self.moments} of some {self.within} steps"


class Given(Strategy):
    """At given steps. Otherwise a thread runs until it has to wait, and then the oldest that can go on."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self._steps: dict[int, list[int]] = {}
        for number, own, may_stay in sorted(turns):
            if may_stay:
                self._steps.setdefault(number, []).append(own)

    def next_change(self, steps: int, task: Task, own: int) -> int:
        mine = self._steps.get(task.number, ())
        return next((steps + at - own for at in mine if at > own), sys.maxsize)

    def choose(self, steps: int, runnable: list[Task], me: Task | None, at: Turn) -> Task:
        wanted = self.turns.get(at)
        return next((task for task in runnable if task.number == wanted), me if me is not None else runnable[0])

    def __str__(self) -> str:
        count = "once" if len(self.turns) == 1 else f"{len(self.turns)} times"
        also = f", and where it matters: {count}" if self.turns else ""
        return f"threads change places only when they must{also}"


def strategy(random: random.Random, within: int | None) -> Strategy:
    """Some seeds change threads often, some rarely: races differ in what they need."""
    if within is not None:
        return Few(random, random.choice((2, 3, 4, 5)), within)
    if random.random() < 0.4:
        return Often(random, random.choice((2, 5, 15, 50, 150)))
    return Few(random, random.choice((1, 2, 3, 4, 5)), random.choice((60, 150, 400, 1000, 2000)))

"""Run a scenario, and tell the story of a failure with only the changes of threads that matter."""

import os
import re
from collections.abc import Callable
from typing import Any, Final

from pipebus.errors import PipelineError
from pipebus.testing.simulation.scheduler import Simulation
from pipebus.testing.simulation.turns import Turn, Turns

VARIES: Final = re.compile(r"0x[0-9a-f]{6,}|[0-9a-f]{12}-[0-9a-f]{16}-[0-9a-f]{10}|(?<=Thread-)\d+")
"""What may differ between two runs of one failure: addresses, ids of messages, numbers of threads."""

Scenario = Callable[[Simulation], object]


class SimulationFailed(AssertionError):
    """
    A run failed; the text is its story.

    Args:
        seed: The seed of the run.
        why: What was wrong.
        story: What happened.
    """

    def __init__(self, seed: int, why: str, story: str) -> None:
        super().__init__(story)
        self.seed = seed
        self.why = why
        self.story = story


def run(scenario: Scenario, seed: int, *, record: bool = False, **options: Any) -> Simulation:
    __tracebackhide__ = True
    sim = Simulation(seed, record=record, **options)
    sim.run(scenario)
    return sim


def race(scenario: Scenario, seed: int, **options: Any) -> SimulationFailed | None:
    """The failure of one seed, if it fails, with the story of a run that has only the changes of threads that matter."""
    sim = run(scenario, seed, **options)  # without a story, which is faster
    if sim.failure is None:
        return None
    again = run(scenario, seed, record=True, **options)
    assert again.story is not None
    if (bare(again.failure), again.steps) != (bare(sim.failure), sim.steps):
        why = (
            f"seed {seed} failed after {sim.steps} steps, but not in the same way when it ran again: "
            f"something depends on more than the seed ({bare(sim.failure)})"
        )
        return SimulationFailed(seed, why, f"{why}\n\n{again.story.text(again, scenario.__name__)}")
    short = shortest(scenario, seed, again, **options)
    assert short.story is not None
    return SimulationFailed(seed, short.failure or "", short.story.text(short, scenario.__name__))


def shortest(scenario: Scenario, seed: int, failed: Simulation, **options: Any) -> Simulation:
    """A run with a story that fails like this one with only the changes of threads that matter; else this one."""
    failure = bare(failed.failure)
    turns = fewest(scenario, seed, failed.turns, failure, **options)
    short = run(scenario, seed, record=True, turns=turns, **options)
    return short if bare(short.failure) == failure else failed


def bare(failure: str | None) -> str:
    """The first line of a failure, without what varies."""
    return VARIES.sub("…", (failure or "").partition("\n")[0])


def fewest(scenario: Scenario, seed: int, turns: Turns, failure: str, most: int = 300, **options: Any) -> Turns:
    """Leave out changes of threads without which the run still fails: half of them, a quarter, …, one by one."""

    def fails(some: dict[Turn, int]) -> bool:
        nonlocal most
        most -= 1
        return bare(run(scenario, seed, turns=some, **options).failure) == failure

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


def seeds(count: int) -> range | list[int]:
    """So many seeds. `PIPEBUS_SEEDS=5000` in the environment replaces the number, `PIPEBUS_SEED=17` selects one seed."""
    one, many = _number("PIPEBUS_SEED"), _number("PIPEBUS_SEEDS")
    if one is not None:
        return [one]
    return range(many if many is not None else count)


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise PipelineError(f"{variable}={text!r} in the environment: it is a whole number") from None

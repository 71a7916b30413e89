"""Run a scenario with many seeds, in the package's own modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipebus.testing.simulation import watch
from pipebus.testing.simulation.explore import Scenario, SimulationFailed, race, run
from pipebus.testing.simulation.scheduler import Simulation
from pipebus.testing.simulation.threads import Task


def tell(scenario: Scenario, seed: int, **options: Any) -> str:
    """The whole story of one run, also of one that does not fail."""
    sim = run(scenario, seed, record=True, **options)
    assert sim.story is not None
    return sim.story.text(sim, scenario.__name__, last=None)


def find(scenario: Scenario, seeds: Iterable[int], **options: Any) -> SimulationFailed | None:
    """The failure of the first seed that fails."""
    with watch.all_code(options.get("files") or watch.by_line()):
        return next((found for seed in seeds if (found := race(scenario, seed, **options)) is not None), None)


def explore(scenario: Scenario, seeds: Iterable[int], **options: Any) -> None:
    """Raise SimulationFailed with the story of the first seed that fails."""
    __tracebackhide__ = True
    found = find(scenario, seeds, **options)
    if found is not None:
        raise found


def tasks(sim: Simulation, beginning: str) -> list[Task]:
    """The spawned threads whose names begin like this."""
    return [task for task in sim.spawned if task.name.startswith(beginning)]


def left_behind(sim: Simulation) -> list[str]:
    """Names of the threads that have not ended, apart from the scenario's own."""
    own = {task.number for task in sim.spawned} | {0}
    return [task.name for task in sim.all_tasks if not task.ended and task.number not in own]

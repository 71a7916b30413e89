"""Run a scenario with many seeds, in the package's own modules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipebus.testing.simulation import watch
from pipebus.testing.simulation.explore import Scenario, SimulationFailed, race, run


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

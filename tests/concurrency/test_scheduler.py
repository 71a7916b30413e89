"""The scheduler itself: a seed determines a run, a run that gets stuck is noticed, and a story is readable."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import loop_scenarios
import pytest
import scenarios
from exploring import explore, find, tell
from planting import plant

from pipebus.mailbox.mailbox import Mailbox
from pipebus.testing.simulation.explore import SimulationFailed, run
from pipebus.testing.simulation.locks import SimLock
from pipebus.testing.simulation.scheduler import Simulation
from pipebus.testing.simulation.turns import Given


def digest() -> str:
    """A hash of some stories, on which all runs of this code agree."""
    chosen = (scenarios.keyed, scenarios.readers, loop_scenarios.asking, loop_scenarios.cancelling_workers)
    told = [tell(scenario, seed) for scenario in chosen for seed in (1, 2, 5)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


@pytest.mark.thorough
def test_a_seed_tells_the_same_story_each_time() -> None:
    """The story is the same word for word, also in another process with other addresses and other hashes."""
    here = os.path.dirname(__file__)
    path = os.pathsep.join([here, os.path.dirname(here), *sys.path])
    command = [sys.executable, "-c", "import test_scheduler; print(test_scheduler.digest())"]
    elsewhere = [
        subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False
        )
        for seed in ("1", "77")
    ]
    assert [done.stderr for done in elsewhere] == ["", ""]
    assert digest() == digest()
    assert {done.stdout.strip() for done in elsewhere} == {digest()}


def test_different_seeds_are_different_orders() -> None:
    """Each seed explores an order of its own."""
    assert len({run(scenarios.keyed, seed).steps for seed in range(4)}) > 2


def test_keeping_the_story_changes_nothing() -> None:
    """A failing seed runs a second time to record its story; that must be the same run."""
    for seed in range(2):
        silent, told = run(scenarios.pausing, seed), run(scenarios.pausing, seed, record=True)
        assert (silent.steps, silent.turns) == (told.steps, told.turns)


def test_a_run_can_be_repeated_from_its_turns_alone() -> None:
    """The decisions of a seed, given to another run, repeat that run; so turns that do not matter can be left out."""
    by_seed = run(scenarios.two_publishers, 3, record=True)
    again = run(scenarios.two_publishers, 3, record=True, turns=by_seed.turns)
    assert isinstance(again.strategy, Given)
    assert again.turns == by_seed.turns


def test_threads_that_wait_for_each_other_are_a_failure() -> None:
    """If two threads take two locks in opposite orders, some seed gets stuck, and the story says who waits for what."""

    def crosswise(sim: Simulation) -> None:
        first, second = SimLock(sim, sys._getframe()), SimLock(sim, sys._getframe())

        def take(one: SimLock, other: SimLock) -> None:
            with one, other:
                pass

        sim.spawn(take, first, second, name="left")
        sim.spawn(take, second, first, name="right")

    found = find(crosswise, range(100))

    assert found is not None
    assert "no thread can go on" in found.why
    assert "left waits for" in found.story
    assert "held by right" in found.story


def test_a_thread_that_polls_waits_only_for_the_lock_that_it_looks_at() -> None:
    """A thread that has found one lock held, and then goes on to poll for something else, does not wait for that lock."""

    def polling(sim: Simulation) -> None:
        held, other = sim.closed_gate(), SimLock(sim, sys._getframe())
        done: list[bool] = []

        def poll() -> None:
            assert held.locked()
            while not done:
                with other:
                    pass
                sim.give_way()

        sim.spawn(poll)
        sim.spawn(done.append, True)
        sim.join()

    explore(polling, range(20))


def test_an_error_in_a_thread_is_a_failure() -> None:
    """An error in a thread fails the test, and is not only printed."""

    def wrong(sim: Simulation) -> None:
        def divide() -> None:
            raise ZeroDivisionError("by nothing")

        sim.spawn(divide, name="divider")

    with pytest.raises(SimulationFailed, match="ZeroDivisionError ended divider: by nothing"):
        explore(wrong, [0])


def test_time_passes_only_when_nobody_can_go_on() -> None:
    """An hour of virtual time takes no real time, and it passes only when every thread sleeps."""

    def sleepers(sim: Simulation) -> None:
        woke: list[int] = []

        def sleep(seconds: int) -> None:
            sim.clock.sleep(seconds)
            woke.append(seconds)

        for seconds in (3600, 60, 1):
            sim.spawn(sleep, seconds)
        assert sim.elapsed == 0
        sim.join()
        assert woke == [1, 60, 3600]
        assert sim.elapsed == 3600

    explore(sleepers, range(20))


@pytest.mark.thorough
def test_a_story_shows_the_broken_line_and_how_to_see_it_again() -> None:
    """The story has the last lines before the failure, by thread, with who was put to sleep and where."""
    with plant(Mailbox.rest, "if box:  #", "if False:  #"):
        found = find(scenarios.two_publishers, range(1000))

    assert found is not None
    assert f"PIPEBUS_SEED={found.seed}" in found.story
    assert "if False:" in found.story
    assert "is put to sleep" in found.story
    assert len(found.story.splitlines()) < 120


def test_planting_is_undone() -> None:
    """Afterwards the real function is back, and a function without the text is refused."""
    real = Mailbox.put
    with plant(Mailbox.put, "if self.box is box or self.is_in(message, box):", "if True:"):
        assert Mailbox.put is not real
    assert Mailbox.put is real
    with pytest.raises(ValueError, match="the code has changed"), plant(Mailbox.put, "no such text", "pass"):
        pass
    assert Path(str(sys.modules[Mailbox.__module__].__file__)).exists()

"""Simulations of a user's bus: races are found, a seed replays word for word, faults strike and are left out if they can be."""

from __future__ import annotations

import os
import queue
import random
import subprocess
import sys
import threading
from typing import Any

import pytest
import sim_stories as s

from pipebus import PipelineError
from pipebus.testing import Harness, SimulationFailed, faults, simulate
from scale_helpers import scaled

EVERY_FAULT = (
    faults.slow("work", 2.0),
    faults.error("work"),
    faults.overflow("work"),
    faults.overflow("narrow"),
    faults.stop(),
)


def failure(build: Any, **options: Any) -> SimulationFailed:
    """Return the failure that a simulation finds."""
    with pytest.raises(SimulationFailed) as caught:
        simulate(build, **options)
    return caught.value


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (s.sells_twice, "AssertionError: sold to ["),
        (s.sells_twice_async, "AssertionError: sold to ["),
        (s.passes_a_quota_twice, "AssertionError: 2 passed a quota of 1"),
        (s.is_a_coroutine, "AssertionError: sold to ["),
    ],
    ids=["handler", "async-handler", "filter", "async-scenario"],
)
@pytest.mark.few(1)
def test_a_race_in_the_users_code_is_found(build: Any, says: str) -> None:
    """A race of two threads or two tasks, between a look and a step, is found within a hundred seeds."""
    found = failure(build, seeds=100)
    assert found.why.startswith(says)
    assert f"PIPEBUS_SEED={found.seed}" in found.story


@pytest.mark.parametrize(
    "build",
    [
        s.sells_once,
        s.passes_a_quota_once,
        s.settles_everything,
        s.sells_once_under_a_lock,
        s.waits_for_a_queue_and_an_event,
    ],
)
@scaled(20, 100)
@pytest.mark.few(1)
def test_code_without_a_race_passes(build: Any, count: int) -> None:
    """Code that runs one message at a time, by one worker or in a filter actor, is safe in every order."""
    simulate(build, seeds=count)


@scaled(20, 100)
def test_whatever_goes_wrong_is_accounted_for(count: int) -> None:
    """Nothing is lost or counted twice with slow and failing handlers, full mailboxes and a stop in the middle."""
    simulate(s.counts_everything, seeds=count, faults=EVERY_FAULT)


@pytest.mark.parametrize(
    ("build", "where"),
    [
        (s.loses_what_fails, "of work fails"),
        (s.is_never_slow, "of work takes 2 s"),
        (s.always_has_room, "the mailbox of work has room for 1"),
        (s.is_never_stopped, "after "),
    ],
    ids=["error", "slow", "overflow", "stop"],
)
@pytest.mark.few(1)
def test_each_kind_of_fault_strikes_and_the_story_names_the_one_that_matters(build: Any, where: str) -> None:
    """Faults that a seed put in and that make no difference are left out of the story."""
    found = failure(build, seeds=60, faults=EVERY_FAULT)
    headline = found.story.splitlines()[0]
    assert headline.count("where ") == 1, headline
    assert where in headline


def test_a_handler_that_is_not_safe_to_repeat_is_found() -> None:
    """A fault may come after the work is done, so a second attempt does the work twice."""
    found = failure(s.charges_once, seeds=100, faults=faults.error("work"))
    assert "of work fails after its work" in found.story.splitlines()[0]


@pytest.mark.thorough
def test_a_lock_from_before_the_run_is_named() -> None:
    """
    The lock is real, and a thread that waits for it cannot be reached: one failure names the line, and the run is not repeated.
    """
    found = failure(s.takes_a_lock_from_before, seeds=50)
    assert "waits for something outside the scheduler's control" in found.why
    assert "in handle: with EARLY:" in found.story


def test_a_thread_of_your_own_may_use_the_locks_of_your_modules() -> None:
    """Code under test may have threads that the scheduler does not control: they wait for its locks like any other thread."""

    def scenario(harness: Harness) -> None:
        ready, answers, stop = threading.Lock(), queue.Queue[str](), threading.Event()

        def work() -> None:
            with ready:
                answers.put("done")
            stop.wait(10.0)

        with ready:
            worker = threading.Thread(target=work)
            worker.start()
        assert answers.get(timeout=5.0) == "done"
        stop.set()
        worker.join()
        assert harness.elapsed == 0.0

    simulate(scenario, seeds=3)


@pytest.mark.thorough
def test_the_story_is_of_the_failure_that_is_told() -> None:
    """A shorter run that fails in another way is not a shorter story of this one."""
    told = []
    for seed in range(20):
        try:
            simulate(s.slips_to_another_failure, seeds=[seed])
        except SimulationFailed as found:
            told.append((found.why, found.story.splitlines()[0]))
    assert told
    assert [why for why, headline in told if why not in headline] == []


def test_a_fault_of_what_is_not_there_is_told() -> None:
    """A typing mistake must not make a simulation worthless."""
    with pytest.raises(PipelineError, match=r"nothing is called 'sel'; there is .*sell"):
        simulate(s.sells_once, seeds=2, faults=faults.error("sel"))


@pytest.mark.thorough
def test_a_failing_seed_replays_word_for_word() -> None:
    """The replay is the same here and in another process with other hashes."""
    found = failure(s.sells_twice, seeds=100)
    assert failure(s.sells_twice, seeds=[found.seed]).story == found.story

    code = "import sim_stories, test_simulate; print(test_simulate.failure(sim_stories.sells_twice, seeds=[%d]).story)"
    path = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__)), *sys.path])
    for hashes in ("1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", code % found.seed],
            env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == found.story.strip()


@pytest.mark.thorough
def test_the_story_is_short_and_ends_where_it_failed() -> None:
    """The story shows lines of the user's own code, who ran them, and the assertion."""
    found = failure(s.sells_twice, seeds=100)
    lines = found.story.splitlines()
    assert len(lines) < 70
    assert any("left = self.stock" in line for line in lines)
    assert "is put to sleep" in found.story
    assert "raises AssertionError: sold to" in found.story
    assert "is stopped" not in found.story


@pytest.mark.thorough
def test_a_failure_that_shows_messages_is_the_same_when_it_runs_again() -> None:
    """Ids come from the seed, so a failure whose text has some is shortened like any other, and has them the next time too."""
    found = failure(s.sells_whole_messages, seeds=100)
    assert found.why.startswith("AssertionError: sold [Message('orders.placed', ")
    assert found.why in found.story
    assert "where it matters" in found.story
    assert failure(s.sells_whole_messages, seeds=[found.seed]).why == found.why


def test_a_line_is_in_the_story_where_it_has_run() -> None:
    """A thread that sleeps before a line has not run it: the other thread comes first, in the story as in the run."""
    lines = failure(s.counts_by_two_lines, seeds=100).story.splitlines()
    [reads, also_reads] = [number for number, line in enumerate(lines) if line.endswith("seen = self.count")]
    [writes, also_writes] = [number for number, line in enumerate(lines) if line.endswith("self.count = seen + 1")]
    assert reads < also_reads < writes < also_writes
    assert "is put to sleep" in lines[reads + 1]


@pytest.mark.thorough
def test_one_seed_of_the_environment_is_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The story's advice on how to see the failure again is right."""
    found = failure(s.sells_twice, seeds=100)
    monkeypatch.setenv("PIPEBUS_SEED", str(found.seed))
    assert failure(s.sells_twice, seeds=3).story == found.story


@pytest.mark.parametrize(
    ("build", "says"),
    [
        pytest.param(
            s.waits_for_itself,
            "DrainTimeout: not drained after 3600 s; still pending or in flight: ask#2: 1",
            id="stuck",
            marks=pytest.mark.thorough,
        ),
        pytest.param(s.goes_round, "no end after", id="endless", marks=pytest.mark.thorough),
        pytest.param(s.raises_in_a_handler, "ValueError: nobody expected that", id="handler-raises"),
        pytest.param(s.raises_in_a_thread, "ValueError: nobody expected that", id="thread-raises"),
    ],
)
def test_what_no_assertion_asks_for_fails_too(build: Any, says: str) -> None:
    """A thread that nobody wakes, one that never ends, and an unexpected error each fail a simulation."""
    assert failure(build, seeds=1).why.startswith(says)


def test_chance_is_the_seeds_and_is_given_back() -> None:
    """`random` is seeded for each run, and restored afterwards."""
    random.seed(42)
    expected = random.random()
    random.seed(42)
    s.seen.clear()
    simulate(s.throws_dice, seeds=[3, 4, 3])
    assert random.random() == expected
    first, other, again = s.seen
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"build": None}, "simulate takes a function of a Harness, found None"),
        ({"build": s.sells_once, "faults": ["slow"]}, "'slow' is not a fault; write faults.slow"),
        ({"build": s.sells_once, "watching": [len]}, "has no source file"),
        ({"build": s.sells_once, "seeds": 0}, "seeds=0"),
        ({"build": s.sells_once, "seeds": "50"}, "seeds='50'"),
    ],
    ids=["build", "faults", "watching", "no-seeds", "text"],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], says: str) -> None:
    """The error names the argument, what was found and what to write."""
    with pytest.raises(PipelineError, match=says):
        simulate(**arguments)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: faults.slow("x", -1), "fault of x: seconds=-1"),
        (lambda: faults.error("x", "boom"), "fault of x: error='boom'"),
        (lambda: faults.overflow("x", 0), "overflow of x: size=0"),
    ],
    ids=["slow", "error", "overflow"],
)
def test_wrong_faults_are_told_where_they_are_made(make: Any, says: str) -> None:
    """The error comes when the fault is made, not only with a seed that would use it."""
    with pytest.raises(PipelineError, match=says):
        make()

"""simulate: run your bus, with its filters and handlers, in many orders of what happens at once."""

import functools
import inspect
import os
import random
import sys
import sysconfig
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

from pipebus.errors import DrainTimeout, LifecycleError, PipelineError
from pipebus.foreign.objects import text_of
from pipebus.testing.harness.faults import Danger, Plan
from pipebus.testing.harness.harness import Harness
from pipebus.testing.simulation import explore, locks, watch
from pipebus.testing.simulation.explore import SimulationFailed
from pipebus.testing.simulation.scheduler import Simulation

PATIENCE = 5.0
"""Real seconds for one run. It takes milliseconds, unless a thread waits for something outside the scheduler's control."""

STOPPED = (LifecycleError, DrainTimeout)
"""What a bus raises that is used after a fault has stopped it."""


def simulate(
    build: Callable[[Harness], object],
    seeds: int | Iterable[int] = 100,
    faults: Danger | Sequence[Danger] = (),
    *,
    watching: Sequence[ModuleType | Callable[..., Any]] | None = None,
) -> None:
    """
    Run a scenario once for each seed. The seed decides where threads change places and which faults strike.

    Args:
        build: The scenario, `def` or `async def`. It gets a `Harness`, starts a bus, publishes (also from `harness.thread`s),
            calls `drain`, `advance` or `step`, and asserts what must hold in every order. Apart from what the seed decides, it
            must do the same each time (`random` is seeded).
        seeds: How many, >= 1, or which. `PIPEBUS_SEEDS=5000` in the environment replaces the number, `PIPEBUS_SEED=17` selects
            one seed.
        faults: From `pipebus.testing.faults`: `slow`, `error`, `overflow`, `stop`. A seed decides whether and when they strike.
        watching: Modules, or functions of modules, in whose code threads may change places, before each line. None: all loaded
            modules of your own, which are neither in the standard library, nor installed, nor in pipebus. (In the bus itself
            threads change places where it takes a lock or waits.)

    Raises:
        SimulationFailed: The story of the first seed that fails, with as few faults and changes of threads as possible. A seed
            fails if `build` raises, if a handler, filter or thread raises an error that was not injected, if no thread can go
            on, if the run does not end, or if a subscription's figures do not add up.
        PipelineError: An argument is wrong, or a fault names something that never ran.

    Locks that the watched modules make during the run (and events, conditions, semaphores and queues) are virtual, like the
    bus's. It cannot control locks that other modules make or that were made before (also by `default_factory=threading.Lock`),
    real time, threads, sockets, random numbers that do not come from `random`, and the order of sets of strings
    (`PYTHONHASHSEED`). A run that waits for one of these fails and says so. A line is never divided: what happens between two
    bytecodes of one line is not explored.
    """
    __tracebackhide__ = True
    if not callable(build):
        raise PipelineError(f"simulate takes a function of a Harness, found {build!r}")
    faults = [faults] if isinstance(faults, Danger) else list(faults)
    wrong = next((one for one in faults if not isinstance(one, Danger)), None)
    if wrong is not None:
        raise PipelineError(
            f"simulate(faults=…): {wrong!r} is not a fault; write faults.slow(…), error(…), overflow(…) or stop()"
        )
    files = _own_files() if watching is None else {}
    files |= _files(build, *(watching or ()))
    chosen = _seeds(seeds)
    seen: set[str] = set()
    with watch.all_code(files):
        for seed in chosen:
            found = _look(build, seed, faults, files, seen)
            if found is not None:
                raise found
    unknown = next((one.name for one in faults if one.name is not None and one.name not in seen), None)
    if unknown is not None:
        known = ", ".join(sorted(seen)) or "nothing"
        raise PipelineError(f"simulate(faults=…): nothing is called {unknown!r}; there is {known}")


def _seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        chosen = list(explore.seeds(seeds))
    else:
        chosen = list(seeds) if isinstance(seeds, Iterable) and not isinstance(seeds, str) else []
    if not chosen or not all(isinstance(seed, int) for seed in chosen):
        raise PipelineError(f"simulate(seeds={seeds!r}): it is a whole number of at least 1, or a list of whole numbers")
    return chosen


def _own_files() -> dict[str, bool]:
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    return {file: True for file in files if isinstance(file, str) and is_own(file)}


@functools.cache
def is_own(file: str) -> bool:
    """Whether a module is neither in the standard library, nor installed, nor in this package."""
    paths = sysconfig.get_paths()
    others = [os.path.realpath(paths[name]) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    others.append(os.path.realpath(os.path.dirname(sys.modules["pipebus"].__file__ or "")))
    return file.endswith(".py") and not os.path.realpath(file).startswith(tuple(others)) and "_pytest" not in file


def _files(*watched: Any) -> dict[str, bool]:
    """The files of these modules, or of the modules of these functions."""
    files: dict[str, bool] = {}
    for one in watched:
        target = one if isinstance(one, ModuleType) else sys.modules.get(getattr(inspect.unwrap(one), "__module__", ""))
        file = getattr(target, "__file__", None)
        if file is None:
            raise PipelineError(f"simulate(watching=…): {one!r} has no source file")
        files[file] = True
    return files


def _look(
    build: Callable[[Harness], object], seed: int, faults: Sequence[Danger], files: dict[str, bool], seen: set[str]
) -> SimulationFailed | None:
    """The failure of one seed, if it fails, with only the faults and changes of threads that matter."""
    __tracebackhide__ = True
    plans = [plan for number, fault in enumerate(faults) for plan in fault.plans(random.Random(f"{seed} fault {number}"))]

    def fails(some: list[Plan]) -> bool:
        run = explore.run(_scenario(build, seed, some, seen), seed, files=files, patience=PATIENCE)
        return explore.bare(run.failure) == explore.bare(first.failure)

    first = explore.run(_scenario(build, seed, plans, seen), seed, files=files, patience=PATIENCE)
    if first.failure is None:
        return None
    if first.lost:  # each run would leave a thread behind, and take as long
        return SimulationFailed(seed, first.failure, "\n".join([f"seed {seed}: {first.failure}", *first.ending]))
    for plan in list(plans):
        rest = [one for one in plans if one is not plan]
        if fails(rest):
            plans = rest
    found = explore.race(_scenario(build, seed, plans, seen), seed, files=files, patience=PATIENCE)
    if found is None:
        return SimulationFailed(seed, "it failed once and then not again: it depends on more than the seed", f"seed {seed}")
    return found


def _scenario(build: Callable[[Harness], object], seed: int, plans: list[Plan], seen: set[str]) -> explore.Scenario:
    def scenario(sim: Simulation) -> None:
        state = random.getstate()
        random.seed(seed)
        try:
            _play(build, sim, plans, seen)
        finally:
            random.setstate(state)

    scenario.__name__ = "".join([getattr(build, "__name__", "scenario"), *(f", where {plan.text}" for plan in plans)])
    return scenario


def _play(build: Callable[[Harness], object], sim: Simulation, plans: list[Plan], seen: set[str]) -> None:
    sim.thread_failed = lambda name, error: sim.fail(text_of(error), error)
    with locks.locks(sim.files), Harness(simulation=sim) as harness:
        for plan in plans:
            plan.put_into(harness)
        try:
            _perform(build, harness)
            harness.check()
        except Exception as error:
            sim.say(f"raises {text_of(error).splitlines()[0]}")
            raise
        finally:
            sim.end_story()
            seen.update(harness.tape.names, (one.name for bus in harness.buses for one in bus.subscriptions))


def _perform(build: Callable[[Harness], object], harness: Harness) -> None:
    try:
        value = build(harness)
        if inspect.iscoroutine(value):
            harness.run(value)
        harness.join()
    except STOPPED:
        if not harness.stopped_on_purpose:
            raise
        harness.join(quietly=True)

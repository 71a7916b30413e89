"""
idle_cpu: a thousand subscribers to whom nothing happens. What waiting costs.

Each has handled one message before, so whatever threads there will be have started. Then the process does nothing for
two seconds, and is asked how long it worked and how often one of its threads woke: a design that polls shows in both.
"""

import resource
import threading
from collections.abc import Callable, Mapping
from time import process_time, sleep

import limit_pool
import ours
import simplest
from clocks import PATIENCE, Crowd
from harness import BODY, Contender, Flow, Guarantees, Workload

SECONDS = 2.0
SETTLED = 0.2  # seconds for the threads to come to rest
MOST = 1.0  # ms of CPU time


def contender(guarantees: Guarantees, open_crowd: Callable[[Crowd], Flow], reach_value: float | None = None) -> Contender:
    """A subject for each subscriber."""

    def run(size: int) -> Mapping[str, float]:
        handled: list[str] = []
        all_handled = threading.Event()

        def handle(message) -> None:  # type: ignore[no-untyped-def]
            handled.append(message.subject)
            if len(handled) == size:
                all_handled.set()

        subjects = [f"orders.{n}.created" for n in range(size)]
        flow = open_crowd([(subject, handle) for subject in subjects])
        for subject in subjects:
            flow.publish(subject, BODY)
        if not all_handled.wait(timeout=PATIENCE):
            raise RuntimeError(f"{size} messages published, {len(handled)} handled")
        sleep(SETTLED)
        woke, worked = switches(), process_time()
        sleep(SECONDS)
        worked, woke = process_time() - worked, switches() - woke
        threads = threading.active_count() - 1
        flow.close()
        return {"ms": worked * 1e3, "woke": woke, "threads": threads}

    return Contender(guarantees, run, reach_value=reach_value)


def switches() -> int:
    """How often a thread of this process has waited for something and was woken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


WORKLOAD = Workload(
    about=f"a started bus whose subscribers have nothing to do for {SECONDS:g} s",
    columns={"ms": f"ms of CPU in {SECONDS:g} s", "woke": "wake-ups", "threads": "threads"},
    contenders={
        "limit": contender(limit_pool.GUARANTEES, limit_pool.open_crowd),
        "simplest": contender(simplest.GUARANTEES, simplest.open_crowd),
        "pipebus": contender(ours.GUARANTEES, ours.open_crowd, MOST),
    },
    size=1_000,
    sized_by="subscribers",
    without_ratio=("woke", "threads"),
)

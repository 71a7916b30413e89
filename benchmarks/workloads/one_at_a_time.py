"""
one_at_a_time: publish, wait until the handler has handled it on its thread, publish the next. What a thread hop costs.

Nothing is ever queued, so each message wakes a thread, and its handler wakes the publisher: the time is mostly the
operating system's.
"""

from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock

import limit
import ours
import simplest
from clocks import PATIENCE, ROUND_TRIP, time_trips
from harness import BODY, SUBJECT, Contender, Flow, Guarantees, Handler, Workload
from peers import pykka, reactivex

THREAD = ours.GUARANTEES._replace(words="the same with a thread of its own")


def contender(guarantees: Guarantees, open_flow: Callable[[Handler], Flow], reach_ratio: float | None = None) -> Contender:
    """The handler opens the gate that the publisher waits at."""

    def run(size: int) -> Mapping[str, float]:
        gate = Lock()
        gate.acquire()
        opened, wait = gate.release, gate.acquire

        def handle(message) -> None:  # type: ignore[no-untyped-def]
            opened()

        flow = open_flow(handle)
        publish = flow.publish

        def trip() -> bool:
            publish(SUBJECT, BODY)
            return wait(True, PATIENCE)

        figures = time_trips(trip, size, expect=bool)
        flow.close()
        return figures

    return Contender(guarantees, run, reach_ratio)


WORKLOAD = Workload(
    about="publish one message, wait until it is handled on another thread, publish the next",
    columns=ROUND_TRIP,
    contenders={
        "limit": contender(limit.GUARANTEES, partial(limit.open_flow, ())),
        "simplest": contender(simplest.GUARANTEES, partial(simplest.open_flow, ())),
        "pipebus": contender(ours.GUARANTEES, partial(ours.open_flow, ()), 1.3),
        "pipebus-thread": contender(THREAD, partial(ours.open_flow, (), run="thread"), 1.3),
        "pykka": contender(pykka.GUARANTEES, partial(pykka.open_flow, ())),
        "reactivex": contender(reactivex.GUARANTEES, partial(reactivex.open_flow, ())),
    },
    size=20_000,
)

"""
fanout: one publish reaches a hundred subscribers of one subject. What one more subscriber costs.

All share the publisher's message. The time is that of one publish and of its hundred deliveries.
"""

from collections.abc import Callable, Mapping
from functools import partial

import limit_pool
import ours
import simplest
from clocks import Crowd, time_crowd
from harness import SUBJECT, Contender, Flow, Guarantees, Workload, measured_with
from peers import pykka, pymessagebus, reactivex

SUBSCRIBERS = 100


def contender(
    guarantees: Guarantees,
    open_crowd: Callable[[Crowd], Flow],
    reach_ratio: float | None = None,
    most: int | None = None,
) -> Contender:
    """A hundred handlers on one subject."""

    def run(size: int) -> Mapping[str, float]:
        return time_crowd(open_crowd, [SUBJECT] * SUBSCRIBERS, min(size, most or size))

    return Contender(measured_with(guarantees, most, "messages"), run, reach_ratio)


WORKLOAD = Workload(
    about=f"one publish to {SUBSCRIBERS} subscribers of one subject (messages: what the handlers see)",
    columns={"us": f"µs a publish of {SUBSCRIBERS}", "cpu": "CPU µs"},
    contenders={
        "limit": contender(limit_pool.GUARANTEES, limit_pool.open_crowd),
        "simplest": contender(simplest.GUARANTEES, simplest.open_crowd),
        "pipebus": contender(ours.GUARANTEES, ours.open_crowd, 1.5),
        "pipebus-wide": contender(ours.WIDE, partial(ours.open_crowd, mailbox=ours.ROOMY), 1.5),
        "pykka": contender(pykka.GUARANTEES, pykka.open_crowd),
        "reactivex": contender(reactivex.POOL, reactivex.open_crowd, most=reactivex.MOST),
        "reactivex-direct": contender(reactivex.DIRECT, reactivex.open_direct_crowd),
        "pymessagebus": contender(pymessagebus.GUARANTEES, pymessagebus.open_crowd),
    },
    size=1_000_000,
)

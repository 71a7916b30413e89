"""loop_fanout: one publish reaches a hundred coroutines on the publisher's own event loop."""

import asyncio
from collections.abc import Mapping
from functools import partial

import limit_loop
import ours
import simplest_loop
from harness import SUBJECT, Contender, Guarantees, Workload, measured_with
from loop_clocks import OpenLoopCrowd, atime_crowd
from peers import abxbus, aiopubsub, reactivex

from .fanout import SUBSCRIBERS


def contender(
    guarantees: Guarantees, open_crowd: OpenLoopCrowd, reach_ratio: float | None = None, most: int | None = None
) -> Contender:
    """A hundred handlers on one subject."""

    def run(size: int) -> Mapping[str, float]:
        return asyncio.run(atime_crowd(open_crowd, [SUBJECT] * SUBSCRIBERS, min(size, most or size)))

    return Contender(measured_with(guarantees, most, "messages"), run, reach_ratio)


WORKLOAD = Workload(
    about=f"one publish to {SUBSCRIBERS} coroutines on the same event loop (messages: what the handlers see)",
    columns={"us": f"µs a publish of {SUBSCRIBERS}", "cpu": "CPU µs"},
    contenders={
        "limit": contender(limit_loop.CROWD, limit_loop.open_crowd),
        "simplest": contender(simplest_loop.GUARANTEES, simplest_loop.open_crowd),
        "pipebus": contender(ours.GUARANTEES, ours.open_loop_crowd, 4.0),
        "pipebus-wide": contender(ours.WIDE, partial(ours.open_loop_crowd, mailbox=ours.ROOMY), 4.0),
        "aiopubsub": contender(aiopubsub.GUARANTEES, aiopubsub.open_crowd),
        "reactivex": contender(reactivex.LOOP, reactivex.open_loop_crowd),
        "abxbus": contender(abxbus.GUARANTEES, abxbus.open_crowd, most=abxbus.MOST),
    },
    size=500_000,
)

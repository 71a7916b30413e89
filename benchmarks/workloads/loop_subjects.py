"""loop_subjects: ten thousand subjects with a coroutine each, on the publisher's own event loop."""

import asyncio
from collections.abc import Mapping
from functools import partial

import limit_loop
import ours
import simplest_loop
from harness import Contender, Guarantees, Workload, measured_with
from loop_clocks import OpenLoopCrowd, atime_crowd
from peers import abxbus, aiopubsub, reactivex, taskiq

from .subjects import COLUMNS, SUBJECTS


def contender(
    guarantees: Guarantees, open_crowd: OpenLoopCrowd, reach_ratio: float | None = None, most: int | None = None
) -> Contender:
    """A handler for each subject, of which there may be fewer."""

    def run(size: int) -> Mapping[str, float]:
        number = min(SUBJECTS, most or SUBJECTS)
        subjects = [f"orders.{n}.created" for n in range(number)]
        return asyncio.run(atime_crowd(open_crowd, subjects, size * number // SUBJECTS))

    return Contender(measured_with(guarantees, most, "subjects"), run, reach_ratio)


WORKLOAD = Workload(
    about=f"{SUBJECTS:,} subjects with one coroutine each, in a shuffled order, on one event loop",
    columns=COLUMNS,
    contenders={
        "limit": contender(limit_loop.CROWD, limit_loop.open_crowd),
        "simplest": contender(simplest_loop.GUARANTEES, simplest_loop.open_crowd),
        "pipebus": contender(ours.GUARANTEES, ours.open_loop_crowd, 1.2),
        "pipebus-wide": contender(ours.WIDE, partial(ours.open_loop_crowd, mailbox=ours.ROOMY), 1.2),
        "aiopubsub": contender(aiopubsub.GUARANTEES, aiopubsub.open_crowd, most=aiopubsub.SUBJECTS),
        "reactivex": contender(reactivex.LOOP, reactivex.open_loop_crowd),
        "abxbus": contender(abxbus.GUARANTEES, abxbus.open_crowd, most=abxbus.SUBJECTS),
        "taskiq": contender(taskiq.GUARANTEES, taskiq.open_crowd, most=taskiq.SUBJECTS),
    },
)

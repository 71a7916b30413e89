"""
subjects: ten thousand subjects with a subscriber each, published to in a shuffled order. What sparse mail costs.

Here a mailbox seldom has two messages at once, so nearly each message finds its mailbox at rest and wakes it.
The first message of each subject is timed apart: a bus may have something to prepare for it.
"""

from collections.abc import Callable, Mapping
from functools import partial

import limit_pool
import ours
import simplest
from clocks import Crowd, time_crowd
from harness import MICROSECONDS, Contender, Flow, Guarantees, Workload, measured_with
from peers import pykka, reactivex

SUBJECTS = 10_000
MOST_THREADS = 1_000
COLUMNS = {**MICROSECONDS, "first": "µs a first message"}


def contender(
    guarantees: Guarantees,
    open_crowd: Callable[[Crowd], Flow],
    reach_ratio: float | None = None,
    most: int | None = None,
) -> Contender:
    """A handler for each subject, of which there may be fewer."""

    def run(size: int) -> Mapping[str, float]:
        number = min(SUBJECTS, most or SUBJECTS)
        return time_crowd(open_crowd, [f"orders.{n}.created" for n in range(number)], size * number // SUBJECTS)

    return Contender(measured_with(guarantees, most, "subjects"), run, reach_ratio)


WORKLOAD = Workload(
    about=f"{SUBJECTS:,} subjects with one subscriber each, in a shuffled order",
    columns=COLUMNS,
    contenders={
        "limit": contender(limit_pool.GUARANTEES, limit_pool.open_crowd),
        "limit-spare": contender(limit_pool.SPARE, limit_pool.open_spare_crowd),
        "simplest": contender(simplest.GUARANTEES, simplest.open_crowd, most=MOST_THREADS),
        "pipebus": contender(ours.GUARANTEES, ours.open_crowd, 1.3),
        "pipebus-wide": contender(ours.WIDE, partial(ours.open_crowd, mailbox=ours.ROOMY), 1.3),
        "pykka": contender(pykka.GUARANTEES, pykka.open_crowd, most=pykka.MOST),
        "reactivex": contender(reactivex.POOL, reactivex.open_crowd),
        "reactivex-direct": contender(reactivex.DIRECT, reactivex.open_direct_crowd),
    },
)

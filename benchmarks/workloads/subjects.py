"""
subjects: ten thousand subjects with a subscriber each, published to in a shuffled order. What sparse mail costs.

Here a mailbox seldom has two messages at once, so nearly each message finds its mailbox at rest and wakes it.
"""

from collections.abc import Callable, Mapping
from functools import partial

import limit_pool
import ours
import simplest
from clocks import Crowd, time_crowd
from harness import MICROSECONDS, Contender, Flow, Workload

SUBJECTS = 10_000
MOST_THREADS = 1_000


def contender(
    guarantees: str, open_crowd: Callable[[Crowd], Flow], reach_ratio: float | None = None, subjects: int = SUBJECTS
) -> Contender:
    """A handler for each subject."""

    def run(size: int) -> Mapping[str, float]:
        return time_crowd(open_crowd, [f"orders.{n}.created" for n in range(subjects)], size)

    return Contender(guarantees, run, reach_ratio)


FEWER = f"{simplest.GUARANTEES}; measured with {MOST_THREADS:,} subjects"

WORKLOAD = Workload(
    about=f"{SUBJECTS:,} subjects with one subscriber each, in a shuffled order",
    columns=MICROSECONDS,
    contenders={
        "limit": contender(limit_pool.GUARANTEES, limit_pool.open_crowd),
        "limit-spare": contender(limit_pool.SPARE, limit_pool.open_spare_crowd),
        "simplest": contender(FEWER, simplest.open_crowd, subjects=MOST_THREADS),
        "pipebus": contender(ours.GUARANTEES, ours.open_crowd, 1.35),
        "pipebus-wide": contender(ours.WIDE, partial(ours.open_crowd, mailbox=ours.ROOMY), 1.35),
    },
)

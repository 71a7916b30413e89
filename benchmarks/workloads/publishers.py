"""
publishers: eight threads publish into one bus, against one thread that publishes as many messages alone.

The interpreter runs one thread at a time, so eight cannot be faster. The question is what their turns at it, and at what
they share, cost. Each pair is one design; the ratio of its second row is eight to one.
"""

from collections.abc import Callable, Mapping
from functools import partial

import limit
import ours
from clocks import time_publishers
from harness import MICROSECONDS, Contender, Flow, Guarantees, Handler, Workload

MANY = 8
MOST = 1.18  # of the time of one: eight reach at least 0.85 of its throughput


def pair(
    name: str, guarantees: Guarantees, open_flow: Callable[[Handler], Flow], most: float | None = None
) -> dict[str, Contender]:
    """The same route with one publisher and with many."""

    def run(publishers: int, size: int) -> Mapping[str, float]:
        return time_publishers(open_flow, publishers, size)

    eight = guarantees._replace(words=f"eight publishers; ratio to {name}")
    return {
        name: Contender(guarantees, partial(run, 1)),
        f"{name}-eight": Contender(eight, partial(run, MANY), most, against=name),
    }


WORKLOAD = Workload(
    about="messages from one thread, and as many from eight at once (ratio of eight: to one)",
    columns=MICROSECONDS,
    contenders={
        **pair("limit", limit.GUARANTEES, partial(limit.open_flow, ())),
        **pair("pipebus", ours.GUARANTEES, partial(ours.open_flow, ()), MOST),
        **pair("pipebus-wide", ours.WIDE, partial(ours.open_wide, ()), MOST),
    },
)

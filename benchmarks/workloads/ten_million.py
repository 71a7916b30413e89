"""
ten_million: as many actors in one process that may have six gigabytes; a hundred thousand of them get mail.

Bytes are those of resident memory, for tracemalloc would need more than the actors do. The limit on memory is set in the
child, so a contender that needs more fails.
"""

from __future__ import annotations

import gc
import random
import resource
from collections.abc import Mapping
from itertools import repeat

from harness import Contender, Guarantees, Workload
from lives import Life, OpenHost, timed

from .actors import ACTORS, ON_DEMAND, limit_actors, our_actors
from .idle import resident_bytes

GIGABYTES = 6
MAILED = 100_000


def contender(guarantees: Guarantees, open_host: OpenHost, most_bytes: float | None = None) -> Contender:
    """Make all of them, mail some, stop all."""

    def run(size: int) -> Mapping[str, float]:
        resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
        life = Life(open_host, repeat("", size), size)
        mailed = random.Random(size).sample(range(size), min(MAILED, size))
        gc.collect()
        before = resident_bytes()
        set_up = timed(life.add)
        bytes_each = (resident_bytes() - before) / size
        first, mail = timed(life.mail, mailed), timed(life.mail, mailed)
        stop = timed(life.stop)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        life.close()
        each = {"set_up": set_up / size, "first": first / len(mailed), "mail": mail / len(mailed), "stop": stop / size}
        return {"bytes": bytes_each, "peak": peak, **{key: seconds * 1e6 for key, seconds in each.items()}}

    return Contender(guarantees, run, reach_value=most_bytes)


WORKLOAD = Workload(
    about=f"actors in one process of at most {GIGABYTES} GB; {MAILED:,} drawn at random get a message, and another",
    columns={
        "bytes": "bytes each (RSS)",
        "peak": "GB at most",
        "set_up": "µs set-up each",
        "first": "µs a first message",
        "mail": "µs a random message",
        "stop": "µs to stop each",
    },
    contenders={"limit": contender(ON_DEMAND, limit_actors), "pipebus": contender(ACTORS, our_actors, 350.0)},
    size=10_000_000,
    sized_by="actors",
    rounds=1,
    without_ratio=("peak",),
    when_named=True,
)

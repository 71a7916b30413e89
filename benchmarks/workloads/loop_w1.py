"""loop_W1: no filter, with publisher and handler on one event loop. What a message costs there at least."""

import limit_loop
import ours
import simplest_loop
from harness import MICROSECONDS, Workload
from loop_clocks import loop_flow_contender as contender
from peers import abxbus, aiopubsub, reactivex, taskiq

WORKLOAD = Workload(
    about="no filter: publish in one coroutine, handle in another, on one event loop",
    columns=MICROSECONDS,
    contenders={
        "limit": contender(limit_loop.GUARANTEES, limit_loop.open_flow),
        "simplest": contender(simplest_loop.GUARANTEES, simplest_loop.open_flow),
        "pipebus": contender(ours.GUARANTEES, ours.open_loop_flow, reach_ratio=2.3),
        "pipebus-wide": contender(ours.WIDE, ours.open_wide_loop_flow, reach_ratio=2.3),
        "aiopubsub": contender(aiopubsub.GUARANTEES, aiopubsub.open_flow),
        "reactivex": contender(reactivex.LOOP, reactivex.open_loop_flow, most=reactivex.MOST),
        "abxbus": contender(abxbus.GUARANTEES, abxbus.open_flow, most=abxbus.MOST),
        "taskiq": contender(taskiq.GUARANTEES, taskiq.open_flow, most=taskiq.MOST),
    },
    size=100_000,
)

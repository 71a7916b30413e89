"""W1: no filter. What a message costs at least."""

import limit
import ours
import simplest
from harness import MICROSECONDS, Workload, flow_contender

WORKLOAD = Workload(
    about="no filter: publish on the main thread, handle on another",
    columns=MICROSECONDS,
    contenders={
        "limit": flow_contender(limit.GUARANTEES, limit.open_flow),
        "simplest": flow_contender(simplest.GUARANTEES, simplest.open_flow),
        "pipebus": flow_contender(ours.GUARANTEES, ours.open_flow, reach_ratio=1.45),
        "pipebus-wide": flow_contender(ours.WIDE, ours.open_wide, reach_ratio=1.45),
    },
)

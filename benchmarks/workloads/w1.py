"""W1: no filter. What a message costs at least."""

import limit
import ours
import simplest
from harness import MICROSECONDS, Workload, flow_contender
from peers import pykka, pymessagebus, reactivex

WORKLOAD = Workload(
    about="no filter: publish on the main thread, handle on another",
    columns=MICROSECONDS,
    contenders={
        "limit": flow_contender(limit.GUARANTEES, limit.open_flow),
        "simplest": flow_contender(simplest.GUARANTEES, simplest.open_flow),
        "pipebus": flow_contender(ours.GUARANTEES, ours.open_flow, reach_ratio=1.15),
        "pipebus-wide": flow_contender(ours.WIDE, ours.open_wide, reach_ratio=1.15),
        "pykka": flow_contender(pykka.GUARANTEES, pykka.open_flow),
        "reactivex": flow_contender(reactivex.GUARANTEES, reactivex.open_flow, most=reactivex.MOST),
        "reactivex-direct": flow_contender(reactivex.DIRECT, reactivex.open_direct_flow),
        "pymessagebus": flow_contender(pymessagebus.GUARANTEES, pymessagebus.open_flow),
    },
)

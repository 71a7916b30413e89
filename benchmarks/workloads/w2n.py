"""W2n: three filters that do nothing. What the chain itself costs."""

from collections.abc import Callable
from typing import Any

import limit
import ours
import simplest
from harness import MICROSECONDS, Workload, flow_contender
from peers import pymessagebus, reactivex


def noop(message: Any, call_next: Callable[[Any], Any]) -> Any:
    """Hand on, in the shape of the limit and of pipebus: code may run on both ways."""
    return call_next(message)


def noop_in(message: Any) -> Any:
    """Hand on, in the shape of the simplest design: the way in only."""
    return message


def noops() -> list[Any]:
    """Make the chain of the limit and of pipebus."""
    return [noop, noop, noop]


WORKLOAD = Workload(
    about="three no-op filters `f(message, call_next)`",
    columns=MICROSECONDS,
    contenders={
        "limit": flow_contender(limit.GUARANTEES, limit.open_flow, noops),
        "simplest": flow_contender(simplest.GUARANTEES, simplest.open_flow, lambda: [noop_in] * 3),
        "pipebus": flow_contender(ours.GUARANTEES, ours.open_flow, noops, reach_ratio=1.3),
        "pipebus-wide": flow_contender(ours.WIDE, ours.open_wide, noops, reach_ratio=1.3),
        "reactivex": flow_contender(reactivex.GUARANTEES, reactivex.open_flow, lambda: [noop_in] * 3, most=reactivex.MOST),
        "reactivex-direct": flow_contender(reactivex.DIRECT, reactivex.open_direct_flow, lambda: [noop_in] * 3),
        "pymessagebus": flow_contender(pymessagebus.GUARANTEES, pymessagebus.open_flow, noops),
    },
)

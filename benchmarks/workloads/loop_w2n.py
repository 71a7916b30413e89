"""loop_W2n: three async filters that do nothing. What a chain of coroutines itself costs."""

from collections.abc import Awaitable, Callable
from typing import Any

import limit_loop
import ours
import simplest_loop
from harness import MICROSECONDS, Workload
from loop_clocks import loop_flow_contender as contender
from peers import reactivex, taskiq

from .w2n import noop_in


async def noop(message: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
    """Hand on, in the shape of the limit and of pipebus: code may run on both ways."""
    return await call_next(message)


async def anoop_in(message: Any) -> Any:
    """Hand on, in the shape of the simplest design: the way in only."""
    return message


def noops() -> list[Any]:
    """Make the chain of the limit and of pipebus."""
    return [noop, noop, noop]


WORKLOAD = Workload(
    about="three no-op filters `async def f(message, call_next)` on one event loop",
    columns=MICROSECONDS,
    contenders={
        "limit": contender(limit_loop.GUARANTEES, limit_loop.open_flow, noops),
        "simplest": contender(simplest_loop.GUARANTEES, simplest_loop.open_flow, lambda: [anoop_in] * 3),
        "pipebus": contender(ours.GUARANTEES, ours.open_loop_flow, noops, reach_ratio=7.0),
        "pipebus-wide": contender(ours.WIDE, ours.open_wide_loop_flow, noops, reach_ratio=7.0),
        "reactivex": contender(reactivex.LOOP, reactivex.open_loop_flow, lambda: [noop_in] * 3, most=reactivex.MOST),
        "taskiq": contender(taskiq.GUARANTEES, taskiq.open_flow, lambda: taskiq.noops(3), most=taskiq.MOST),
    },
    size=100_000,
)

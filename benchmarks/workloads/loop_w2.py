"""
loop_W2: W2's count, pydantic validation and copying transform, as coroutines on one event loop.

All contenders end with the same message, as in W2.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import limit
import limit_loop
import ours
import simplest
import simplest_loop
from harness import BODY, MICROSECONDS, Workload
from loop_clocks import loop_flow_contender
from peers import reactivex

from .orders import validated
from .w2 import Counter, built_in_filters, is_stamped, simplest_filters

ANext = Callable[[Any], Awaitable[Any]]


def limit_filters() -> list[Any]:
    """Closest to the metal: copies are made by the constructor itself."""
    counter = Counter()

    async def tally(message: limit.Message, call_next: ANext) -> Any:
        counter.messages += 1
        return await call_next(message)

    async def replace(message: limit.Message, call_next: ANext) -> Any:
        body = validated(message.body)
        return await call_next(limit.Message(message.id, message.subject, body, message.headers))

    async def stamp(message: limit.Message, call_next: ANext) -> Any:
        headers = {**message.headers, "seen_by": "stamp"}
        return await call_next(limit.Message(message.id, message.subject, message.body, headers))

    return [tally, replace, stamp]


def asimplest_filters() -> list[Any]:
    """Coroutines of one message."""

    def awaited(filter_: Callable[[simplest.Message], simplest.Message]) -> Callable[[simplest.Message], Awaitable[Any]]:
        async def afilter(message: simplest.Message) -> simplest.Message:
            return filter_(message)

        return afilter

    return [awaited(filter_) for filter_ in simplest_filters(keep=False)]


def plain_filters() -> list[Any]:
    """The shape that the limit has, on pipebus."""
    counter = Counter()

    async def tally(message: Any, call_next: ANext) -> Any:
        counter.messages += 1
        return await call_next(message)

    async def replace(message: Any, call_next: ANext) -> Any:
        return await call_next(message.with_body(validated(message.body)))

    async def stamp(message: Any, call_next: ANext) -> Any:
        return await call_next(message.with_headers(seen_by="stamp"))

    return [tally, replace, stamp]


contender = partial(loop_flow_contender, expect=partial(is_stamped, body=validated(BODY)))
built_in = partial(built_in_filters, keep=False)

WORKLOAD = Workload(
    about="count, validate with pydantic (dict -> model), add a header, in coroutines on one event loop",
    columns=MICROSECONDS,
    contenders={
        "limit": contender(limit_loop.GUARANTEES, limit_loop.open_flow, limit_filters),
        "simplest": contender(simplest_loop.GUARANTEES, simplest_loop.open_flow, asimplest_filters),
        "pipebus-plain": contender(ours.GUARANTEES, ours.open_loop_flow, plain_filters, reach_ratio=4.0),
        "pipebus-plain-wide": contender(ours.WIDE, ours.open_wide_loop_flow, plain_filters, reach_ratio=4.0),
        "pipebus-built-in": contender(ours.GUARANTEES, ours.open_loop_flow, built_in),
        "reactivex": contender(
            reactivex.LOOP, reactivex.open_loop_flow, lambda: simplest_filters(keep=False), most=reactivex.MOST
        ),
    },
    size=100_000,
)

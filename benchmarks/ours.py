"""
pipebus as a user writes it; nothing private is touched.

It is imported late, in the child that needs it: the other contenders must not pay for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from clocks import Crowd
from harness import SUBJECT, Flow, Guarantees, Handler
from loop_clocks import ACrowd, AHandler, APublish

PROMISES = ("yes", "isolated, kept", "yes, waits", "yes")
GUARANTEES = Guarantees("errors to dead letters, all counted, drain and stop", *PROMISES)
WIDE = GUARANTEES._replace(words="the same with a mailbox that never fills: what the bound costs", bounds="no")
ROOMY = 100_000_000


def open_flow(filters: Sequence[Any], handle: Handler, **subscription: Any) -> Flow:
    """A started memory bus with one subscription; `filters` become its publish chain."""
    from pipebus import Bus

    bus = Bus()
    for filter_ in filters:
        bus.use(filter_)
    bus.subscribe(SUBJECT, handle, **subscription)
    bus.start()
    return Flow(bus.publish, bus.stop)


open_wide = partial(open_flow, mailbox=ROOMY)


def open_crowd(crowd: Crowd, **subscription: Any) -> Flow:
    """A started memory bus with many subscriptions."""
    from pipebus import Bus

    bus = Bus()
    for subject, handle in crowd:
        bus.subscribe(subject, handle, **subscription)
    bus.start()
    return Flow(bus.publish, bus.stop)


@asynccontextmanager
async def open_loop_flow(filters: Sequence[Any], handle: AHandler, **subscription: Any) -> AsyncIterator[APublish]:
    """A memory bus on this event loop, with one subscription."""
    from pipebus import Bus

    bus = Bus()
    for filter_ in filters:
        bus.use(filter_)
    bus.subscribe(SUBJECT, handle, **subscription)
    async with bus:
        yield bus.apublish


open_wide_loop_flow = partial(open_loop_flow, mailbox=ROOMY)


@asynccontextmanager
async def open_loop_crowd(crowd: ACrowd, **subscription: Any) -> AsyncIterator[APublish]:
    """A memory bus on this event loop, with many subscriptions."""
    from pipebus import Bus

    bus = Bus()
    for subject, handle in crowd:
        bus.subscribe(subject, handle, **subscription)
    async with bus:
        yield bus.apublish

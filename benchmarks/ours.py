"""
pipebus as a user writes it; nothing private is touched.

It is imported late, in the child that needs it: the other contenders must not pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from clocks import Crowd
from harness import SUBJECT, Flow, Handler

GUARANTEES = "mailbox of 10,000 that blocks its publisher, errors to dead letters, drain and stop"
WIDE = "the same, with a mailbox that never fills: what the bound costs"
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

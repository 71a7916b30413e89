"""
A start: what happens once the filters have started, in order; and undone, if a step fails.

Here a lifecycle is `Any`, because `lifecycle` imports this module.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final

from pipebus import events
from pipebus.bus.stopping import pools
from pipebus.delivery.chain import compile_for
from pipebus.delivery.planning import check_delivery
from pipebus.mailbox import control
from pipebus.pipeline import routes, rules
from pipebus.publishing import arrival
from pipebus.transports.base import Surroundings

EXPLORED: Final = "line"  # threads change places here in simulations: `testing.watch`


def check_chains(bus: Any) -> None:
    """
    Raises:
        PipelineError: a chain cannot run as it is registered.
    """
    rules.check(bus.router.nodes, "publish")
    if not any(step.colour == "async" for step in routes.steps(bus.router.nodes)):
        rules.check_colour(bus.router.nodes, "sync", "the publish chain is sync")
    for subscription in bus.router.subscriptions():
        check_delivery(subscription, bus.delivery_nodes)


def open_bus(lifecycle: Any, loop: asyncio.AbstractEventLoop | None) -> events.StateChanged | None:
    """Accept messages, after the filters have started."""
    bus = lifecycle.bus
    subscriptions = list(bus.router.subscriptions())
    bus.services.begin_pauses()
    try:
        for subscription in subscriptions:
            control.remove_tokens(subscription)  # the transport took them back at the last stop
            compile_for(subscription, bus.delivery_nodes)
        bus.transport.start(Surroundings(bus.clock, bus.max_message_bytes, bus.claims.alarm, bus.ledger.warn))
        bus.check_promises()  # again, for now it knows its server
        for pool in pools(bus, subscriptions):
            pool.start()
        bus.loops.start(loop)
        bus.timers.start()
        bus.starts.retry()
        changed: events.StateChanged | None = lifecycle.change("started")
        left = [subscription for subscription in subscriptions if control.reopen(subscription)]
        for subscription in left:
            control.go_on(subscription)
        for subscription in subscriptions:
            if subscription.inbox is not None:
                subscription.inbox.ended = False
            if not bus.transport.local:
                arrival.bind(bus, subscription)
        for schedule in list(bus.schedules):
            schedule.begin()
    except BaseException:
        for subscription in subscriptions:
            with suppress(Exception):  # it may not have been bound yet
                if not bus.transport.local:
                    bus.transport.unbind(subscription.name)
            control.close(subscription, "stopped", keep=True)
        lifecycle.change("stopped")
        for pool in pools(bus, subscriptions):
            pool.stop(0.0)
        bus.loops.stop(0.0)
        bus.timers.stop()
        bus.transport.stop()
        bus.services.end_pauses()
        raise
    return changed

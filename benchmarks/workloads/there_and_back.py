"""
there_and_back: a thread publishes, a coroutine on an event loop handles and publishes the result, a thread handles that.

The time is that of one message over both hops, with many on the way at once.
"""

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import Any

import limit_request
import ours
import simplest
from harness import BODY, MICROSECONDS, SUBJECT, Contender, Flow, Guarantees, Handler, Workload, time_flow

RESULT = "orders.priced"
SIMPLEST = simplest.GUARANTEES._replace(words="run_coroutine_threadsafe for each message, a queue and a thread back")
WIDE = ours.WIDE._replace(words="the same with mailboxes that never fill: the coroutine calls `publish`, not `apublish`")


def open_limit(handle: Handler) -> Flow:
    """The limit's route; the thread that handles a message publishes the result."""

    async def price(message: Any, publish: Callable[[str, Any], Any]) -> None:
        publish(RESULT, message.body)

    return limit_request.open_there_and_back(price, handle)


def open_simplest(handle: Handler) -> Flow:
    """A loop on a thread of its own, and the simplest bus for the way back."""
    bus = simplest.Bus()
    bus.subscribe(RESULT, handle)
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()

    async def price(message: simplest.Message) -> None:
        bus.publish(RESULT, message.body)

    def publish(subject: str, body: Any) -> None:
        asyncio.run_coroutine_threadsafe(price(simplest.Message(subject, body)), loop)

    def close() -> None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        bus.stop()

    return Flow(publish, close)


def open_ours(handle: Handler) -> Flow:
    """A bus that runs the coroutine on a loop of its own; it waits for room without stopping the loop."""
    from pipebus import Bus

    bus = Bus()

    async def price(message) -> None:  # type: ignore[no-untyped-def]
        await bus.apublish(RESULT, message.body)

    bus.subscribe(SUBJECT, price)
    bus.subscribe(RESULT, handle)
    bus.start()
    return Flow(bus.publish, bus.stop)


def open_wide(handle: Handler) -> Flow:
    """The same without a bound."""
    from pipebus import Bus

    bus = Bus()

    async def price(message) -> None:  # type: ignore[no-untyped-def]
        bus.publish(RESULT, message.body)

    bus.subscribe(SUBJECT, price, mailbox=ours.ROOMY)
    bus.subscribe(RESULT, handle, mailbox=ours.ROOMY)
    bus.start()
    return Flow(bus.publish, bus.stop)


def contender(guarantees: Guarantees, open_flow: Callable[[Handler], Flow]) -> Contender:
    """What arrives has the result's subject and the body that was sent."""

    def is_result(message: Any) -> bool:
        return bool(message.subject == RESULT and message.body == BODY)

    return Contender(guarantees, lambda size: time_flow(open_flow, size, is_result))


WORKLOAD = Workload(
    about="publish on a thread, handle on an event loop, publish the result, handle that on a thread",
    columns=MICROSECONDS,
    contenders={
        "limit": contender(limit_request.BOTH, open_limit),
        "simplest": contender(SIMPLEST, open_simplest),
        "pipebus": contender(ours.GUARANTEES, open_ours),
        "pipebus-wide": contender(WIDE, open_wide),
    },
    size=100_000,
)

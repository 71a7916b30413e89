"""request_loop: ask, and wait for the answer, with caller and handler on one event loop. No thread takes part."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import limit_request
import simplest
import simplest_loop
from clocks import ROUND_TRIP, atime_trips
from harness import Contender, Guarantees, Workload, measured_with
from peers import abxbus, taskiq

from .request import OURS, QUESTION, SUBJECT, TIMEOUT, is_answer

SIMPLEST = simplest_loop.GUARANTEES._replace(
    words="an asyncio.Queue and a task, a future for each answer; no time-out", bounds="no"
)

Ask = Callable[[], Awaitable[Any]]


async def price(message) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """Answer with a body, in the shape of all contenders."""
    return {"sku": message.body["sku"], "price": 12.5}


@asynccontextmanager
async def ask_limit() -> AsyncIterator[Ask]:
    """Open the limit."""
    async with limit_request.open_arequests(price) as request:
        yield lambda: request(SUBJECT, QUESTION)


@asynccontextmanager
async def ask_simplest() -> AsyncIterator[Ask]:
    """Send a future along with the question."""
    questions: asyncio.Queue[tuple[simplest.Message, asyncio.Future[simplest.Message]]] = asyncio.Queue()

    async def serve() -> None:
        while True:
            message, arrived = await questions.get()
            arrived.set_result(simplest.Message(SUBJECT, await price(message)))

    async def ask() -> simplest.Message:
        arrived: asyncio.Future[simplest.Message] = asyncio.get_running_loop().create_future()
        await questions.put((simplest.Message(SUBJECT, QUESTION), arrived))
        return await arrived

    server = asyncio.create_task(serve())
    yield ask
    server.cancel()


@asynccontextmanager
async def ask_ours() -> AsyncIterator[Ask]:
    """Open a bus on this loop."""
    from pipebus import Bus

    bus = Bus()
    bus.subscribe(SUBJECT, price)
    async with bus:
        yield lambda: bus.arequest(SUBJECT, QUESTION, timeout=TIMEOUT)


@asynccontextmanager
async def ask_peer(
    open_requests: Callable[[Callable[[Any], Awaitable[Any]]], AbstractAsyncContextManager[Callable[[Any], Awaitable[Any]]]],
) -> AsyncIterator[Ask]:
    """Open a peer that is asked with a body."""
    async with open_requests(price) as ask:
        yield lambda: ask(QUESTION)


def contender(
    guarantees: Guarantees,
    open_route: Callable[[], AbstractAsyncContextManager[Ask]],
    reach_ratio: float | None = None,
    most: int | None = None,
) -> Contender:
    """One coroutine that asks again and again."""

    async def main(size: int) -> Mapping[str, float]:
        async with open_route() as ask:
            return await atime_trips(ask, size, is_answer)

    return Contender(
        measured_with(guarantees, most, "requests"), lambda size: asyncio.run(main(min(size, most or size))), reach_ratio
    )


WORKLOAD = Workload(
    about="ask a coroutine on the same event loop and await its answer",
    columns=ROUND_TRIP,
    contenders={
        "limit": contender(limit_request.LOOP, ask_limit),
        "simplest": contender(SIMPLEST, ask_simplest),
        "pipebus": contender(OURS, ask_ours, 2.2),
        "abxbus": contender(abxbus.GUARANTEES, partial(ask_peer, abxbus.open_requests), most=abxbus.MOST),
        "taskiq": contender(taskiq.GUARANTEES, partial(ask_peer, taskiq.open_requests), most=taskiq.MOST),
    },
    size=20_000,
)

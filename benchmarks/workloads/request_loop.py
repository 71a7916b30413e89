"""request_loop: ask, and wait for the answer, with caller and handler on one event loop. No thread takes part."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import limit_request
import simplest
from clocks import ROUND_TRIP, atime_trips
from harness import Contender, Workload

from .request import OURS, QUESTION, SUBJECT, TIMEOUT, is_answer

SIMPLEST = "an asyncio.Queue and a task, a future for each answer; no errors handled, no time-out"

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


def contender(
    guarantees: str, open_road: Callable[[], AbstractAsyncContextManager[Ask]], reach_ratio: float | None = None
) -> Contender:
    """One coroutine that asks again and again."""

    async def main(size: int) -> Mapping[str, float]:
        async with open_road() as ask:
            return await atime_trips(ask, size, is_answer)

    return Contender(guarantees, lambda size: asyncio.run(main(size)), reach_ratio)


WORKLOAD = Workload(
    about="ask a coroutine on the same event loop and await its answer",
    columns=ROUND_TRIP,
    contenders={
        "limit": contender(limit_request.LOOP, ask_limit),
        "simplest": contender(SIMPLEST, ask_simplest),
        "pipebus": contender(OURS, ask_ours, 2.0),
    },
    size=20_000,
)

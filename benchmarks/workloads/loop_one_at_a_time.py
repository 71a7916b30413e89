"""loop_one_at_a_time: publish, wait until the coroutine on the same event loop has handled it, publish the next."""

import asyncio
from collections.abc import Mapping

import limit_loop
import ours
import simplest_loop
from clocks import ROUND_TRIP, atime_trips
from harness import BODY, SUBJECT, Contender, Guarantees, Workload, measured_with
from loop_clocks import OpenLoopFlow
from peers import abxbus, aiopubsub, reactivex, taskiq


def contender(
    guarantees: Guarantees, open_flow: OpenLoopFlow, reach_ratio: float | None = None, most: int | None = None
) -> Contender:
    """The handler sets the future that the publisher waits for."""

    async def main(size: int) -> Mapping[str, float]:
        new_future = asyncio.get_running_loop().create_future
        handled: asyncio.Future[bool]

        async def handle(message) -> None:  # type: ignore[no-untyped-def]
            handled.set_result(True)

        async with open_flow((), handle) as publish:

            async def trip() -> bool:
                nonlocal handled
                handled = new_future()
                await publish(SUBJECT, BODY)
                return await handled

            return await atime_trips(trip, size, expect=bool)

    return Contender(
        measured_with(guarantees, most, "messages"), lambda size: asyncio.run(main(min(size, most or size))), reach_ratio
    )


WORKLOAD = Workload(
    about="publish to a coroutine on the same loop, wait until it is handled, publish the next",
    columns=ROUND_TRIP,
    contenders={
        "limit": contender(limit_loop.GUARANTEES, limit_loop.open_flow),
        "simplest": contender(simplest_loop.GUARANTEES, simplest_loop.open_flow),
        "pipebus": contender(ours.GUARANTEES, ours.open_loop_flow, 1.6),
        "aiopubsub": contender(aiopubsub.GUARANTEES, aiopubsub.open_flow),
        "reactivex": contender(reactivex.LOOP, reactivex.open_loop_flow),
        "abxbus": contender(abxbus.GUARANTEES, abxbus.open_flow, most=abxbus.MOST),
        "taskiq": contender(taskiq.GUARANTEES, taskiq.open_flow, most=taskiq.MOST),
    },
    size=20_000,
)

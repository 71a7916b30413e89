"""
The clocks of the workloads that one event loop does alone: a coroutine publishes, coroutines handle.

The publisher yields where its bus makes it wait and nowhere else, so a bus without a bound gets all messages first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import repeat
from time import perf_counter, process_time
from typing import Any

from clocks import PATIENCE
from harness import BODY, SUBJECT, WARM_UP, Contender, Expectation, Guarantees, anything, measured_with

AHandler = Callable[[Any], Awaitable[Any]]
APublish = Callable[[str, Any], Awaitable[Any]]
ACrowd = Sequence[tuple[str, AHandler]]  # a subject and a handler each
OpenLoopFlow = Callable[[Sequence[Any], AHandler], AbstractAsyncContextManager[APublish]]  # filters, and what they lead to
OpenLoopCrowd = Callable[[ACrowd], AbstractAsyncContextManager[APublish]]


def loop_flow_contender(
    guarantees: Guarantees,
    open_flow: OpenLoopFlow,
    filters: Callable[[], Sequence[Any]] = tuple,
    *,
    expect: Expectation = anything,
    reach_ratio: float | None = None,
    most: int | None = None,
) -> Contender:
    """`flow_contender` on one event loop."""

    def run(size: int) -> dict[str, float]:
        return asyncio.run(atime_flow(partial(open_flow, filters()), min(size, most or size), expect))

    return Contender(measured_with(guarantees, most, "messages"), run, reach_ratio)


async def atime_flow(
    open_flow: Callable[[AHandler], AbstractAsyncContextManager[APublish]], size: int, expect: Expectation
) -> dict[str, float]:
    """
    `harness.time_flow` on one event loop: from the first publish until the handler has seen the last message.

    Raises:
        TimeoutError: A message was lost. RuntimeError: One arrived without the work done to it.
    """
    seen = target = 0
    last: Any = None
    finished = asyncio.Event()

    async def handle(message) -> None:  # type: ignore[no-untyped-def]
        nonlocal seen, last
        seen += 1
        if seen == target:
            last = message
            finished.set()

    async def run(publish: APublish, size: int) -> tuple[float, float]:
        nonlocal seen, target
        seen, target = 0, size
        finished.clear()
        start, work = perf_counter(), process_time()
        for _ in repeat(None, size):
            await publish(SUBJECT, BODY)
        await asyncio.wait_for(finished.wait(), PATIENCE)
        return perf_counter() - start, process_time() - work

    async with open_flow(handle) as publish:
        await run(publish, min(WARM_UP, size))
        elapsed, worked = await run(publish, size)
    if not expect(last):
        raise RuntimeError(f"the last message arrived without the work done to it: {last!r}")
    return {"us": elapsed / size * 1e6, "cpu": worked / size * 1e6}


async def atime_crowd(open_crowd: OpenLoopCrowd, subjects: Sequence[str], size: int) -> dict[str, float]:
    """
    `clocks.time_crowd` on one event loop, with the same arguments and figures.

    Raises:
        TimeoutError: A message was lost. RuntimeError: The last one that a handler saw was not the last one published to it.
    """
    target = 0
    lasts: list[tuple[str, int]] = []
    finished = asyncio.Event()

    def member(subject: str) -> AHandler:
        seen = 0

        async def handle(message) -> None:  # type: ignore[no-untyped-def]
            nonlocal seen
            seen += 1
            if seen == target:
                lasts.append((subject, message.body))
                if len(lasts) == len(subjects):
                    finished.set()

        return handle

    distinct = list(dict.fromkeys(subjects))

    async def run(publish: APublish, share: int) -> tuple[float, float]:
        nonlocal target
        target += share
        order = distinct * share
        random.Random(share).shuffle(order)
        lasts.clear()
        finished.clear()
        start, work = perf_counter(), process_time()
        for number, subject in enumerate(order):
            await publish(subject, number)
        await asyncio.wait_for(finished.wait(), PATIENCE)
        took, worked = perf_counter() - start, process_time() - work
        newest = {subject: number for number, subject in enumerate(order)}
        wrong = [(subject, number) for subject, number in lasts if newest[subject] != number]
        if wrong:
            raise RuntimeError(f"the last message was not the newest one: {wrong[0]}, and {len(wrong) - 1} more")
        return took / len(order) * 1e6, worked / len(order) * 1e6

    async with open_crowd([(subject, member(subject)) for subject in subjects]) as publish:
        first, _ = await run(publish, 1)
        await run(publish, max(1, min(WARM_UP, size) // len(subjects)))
        took, worked = await run(publish, max(1, size // len(subjects)))
    return {"us": took, "cpu": worked, "first": first}

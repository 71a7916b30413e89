"""What a workload and a contender are, and the one clock that all message workloads share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from threading import Event
from time import perf_counter, process_time
from typing import Any, NamedTuple

SUBJECT = "orders.created"
BODY = {"id": 1, "customer": "ada", "amount": 12.5}
WARM_UP = 5_000
MICROSECONDS = {"us": "µs a message", "cpu": "CPU µs"}

Handler = Callable[[Any], None]
Expectation = Callable[[Any], bool]


class Flow(NamedTuple):
    """An open route from `publish(subject, body)` to a handler on another thread, and how to end it."""

    publish: Callable[[str, Any], Any]
    close: Callable[[], Any]


@dataclass(frozen=True)
class Contender:
    """
    One way to do the work of a workload.

    Args:
        guarantees: One honest phrase: what it promises, or does not.
        run: Does the work once, `size` times over, and returns one figure for each column of the workload.
        reach_ratio: How many times the limit we mean to stay under, in the first column, or by column. Printed by
            `--check`, never enforced.
        reach_value: The same for the figure itself, in the column's unit.
        against: The contender that its ratios are taken to; None: the limit.
    """

    guarantees: str
    run: Callable[[int], Mapping[str, float]]
    reach_ratio: float | Mapping[str, float] | None = None
    reach_value: float | Mapping[str, float] | None = None
    against: str | None = None


@dataclass(frozen=True)
class Workload:
    """
    A question, and those who answer it.

    Args:
        columns: Key of a figure -> its heading. The first one is what min, max and the reach are about.
        contenders: By name; the first one is the limit that the others are divided by.
        size: How many messages (or subscribers) one run takes.
        sized_by: What `size` counts; `--messages` only changes workloads that count messages.
        when_named: It takes long, and runs only when it is asked for by name.
        without_ratio: Columns that are not compared: a ratio of small counts says nothing.
        where: Says what else than the machine figures depend on, and refuses to run where they would mean nothing.
    """

    about: str
    columns: Mapping[str, str]
    contenders: Mapping[str, Contender]
    size: int = 200_000
    sized_by: str = "messages"
    when_named: bool = False
    without_ratio: Collection[str] = ()
    where: Callable[[], str] | None = None


def anything(message: Any) -> bool:
    """Expect no work done to a message."""
    return True


def flow_contender(
    guarantees: str,
    open_flow: Callable[[Sequence[Any], Handler], Flow],
    filters: Callable[[], Sequence[Any]] = tuple,
    *,
    expect: Expectation = anything,
    reach_ratio: float | None = None,
) -> Contender:
    """Make a contender of a message workload; its filters are made in the child, when it runs."""

    def run(size: int) -> Mapping[str, float]:
        return time_flow(lambda handle: open_flow(filters(), handle), size, expect)

    return Contender(guarantees, run, reach_ratio)


def time_flow(open_flow: Callable[[Handler], Flow], size: int, expect: Expectation) -> dict[str, float]:
    """
    Time from the first publish until the handler, on another thread, has seen the last message.

    Args:
        open_flow: Makes the route to a handler.
        size: Messages, after a warm-up that is not counted.
        expect: Looks at the last message that arrived, after the clock stopped: contenders that are compared
            must have done the same work.

    Raises:
        RuntimeError: A message was lost, or arrived without the work done to it.
    """
    seen = target = 0
    last: Any = None
    finished = Event()

    # No annotation on the parameter: for pipebus that means the message itself, as everybody else hands over.
    def handle(message) -> None:  # type: ignore[no-untyped-def]
        nonlocal seen, last
        seen += 1
        if seen == target:
            last = message
            finished.set()

    flow = open_flow(handle)

    def run(size: int) -> tuple[float, float]:
        nonlocal seen, target
        seen, target = 0, size
        finished.clear()
        publish = flow.publish
        start, work = perf_counter(), process_time()
        for _ in repeat(None, size):
            publish(SUBJECT, BODY)
        if not finished.wait(timeout=60.0):
            raise RuntimeError(f"{size} messages published, {seen} handled after 60 s")
        return perf_counter() - start, process_time() - work

    run(WARM_UP)
    elapsed, worked = run(size)
    flow.close()
    if not expect(last):
        raise RuntimeError(f"the last message arrived without the work done to it: {last!r}")
    return {"us": elapsed / size * 1e6, "cpu": worked / size * 1e6}

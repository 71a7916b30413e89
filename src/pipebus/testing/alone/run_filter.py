"""
run_filter: one filter alone, with a script in place of what follows it.

    run = run_filter(Retry(attempts=3, wait=0.1, jitter=0), Message("orders.placed"), next=[ConnectionError(), Receipt(1)])
    assert run.next_calls == 2 and run.pauses == [0.1] and run.outcome
"""

from __future__ import annotations

from typing import Any, Literal

from pipebus.pipeline.compose import Side
from pipebus.testing.alone.bench import FilterBench
from pipebus.testing.alone.filter_run import FilterRun


def run_filter(
    filter: Any,
    message: Any,
    next: Any = None,
    *,
    at: Side = "publish",
    colour: Literal["sync", "async"] | None = None,
) -> FilterRun:
    """
    Run one filter, or a chain of them, on one message, without a bus and in virtual time.

    Args:
        filter: Whatever `bus.use` takes: a filter of any shape and colour, a filter actor, `when`, `branch`, a `Pipeline`. Its
            `start` and `stop` are called around the run.
        message: A `Message`; or a body, which is sent to the subject "test".
        next: What the rest of the chain does. None: it accepts. A `Receipt`, a `Dropped`, with at="delivery" any value of a
            handler; an exception, or a class of exceptions, to be raised; a callable of the message, sync or async, that does
            one of these; `after(seconds, …)` for one that takes its time; a list of such steps, one for each run of the rest.
        at: "publish", or "delivery" for a filter around a handler.
        colour: "sync" or "async": which of the two a filter that can be both is run as. None: sync, if all that is given can
            be.

    Returns:
        A `FilterRun`. What the filter raises is in its `error`, and is raised by its `outcome`.

    Raises:
        PipelineError: what `bus.use` would say about it. ScriptEnded: it ran the rest more often than the list says. What the
        filter's own `start` and `stop` raise.

    Time begins with the run. In a `with Harness()` block (or a test with the fixture `harness`) it is that harness's: `advance`
    it between two runs. For several messages through one filter that has a memory, see `FilterBench`.
    """
    __tracebackhide__ = True
    return run_once(filter, message, next, at, colour, told=True)


def run_once(filter: Any, message: Any, next: Any, at: Side, colour: Any, *, told: bool = False) -> FilterRun:
    """
    `run_filter`.

    Args:
        told: Its story is shown if the test fails.
    """
    __tracebackhide__ = True
    with FilterBench(filter, next, at=at, colour=colour, told=told) as bench:
        return bench.send_and(message, next, stop=True)

"""run_filter: one filter alone, with a script in place of the rest of its chain."""

from collections.abc import Mapping
from typing import Any, Literal

from pipebus.pipeline.compose import Side
from pipebus.testing.alone.bench import FilterBench
from pipebus.testing.alone.run import FilterRun


def run_filter(
    filter: Any,
    message: Any,
    next: Any = None,
    *,
    at: Side = "publish",
    colour: Literal["sync", "async"] | None = None,
    replies: Mapping[Any, Any] | None = None,
) -> FilterRun:
    """
    Run one filter, or a chain of them, on one message, without a bus and in virtual time.

    Args:
        filter: Anything that `bus.use` takes: a filter of any shape and colour, a filter actor, `when`, `branch`, `switch`, a
            `Pipeline`. Its `start` and `stop` are called around the run.
        message: A `Message`; or a body, which is sent to the subject "test".
        next: What the rest of the chain does. None: it accepts. A `Receipt` or a `Dropped`; with at="delivery" any value that a
            handler may return; an exception, or a class of exceptions, to raise; a function of the message, sync or async, that
            returns or raises one of these; `after(seconds, …)` to do it later; a list of such steps, one for each call.
        at: "publish", or "delivery" for a filter around a handler.
        colour: "sync" or "async", for a filter that can be both. None: sync, if the filter and `next` can be.
        replies: What its requests get, by subject: a value, a function of the message (or any handler), or an exception.

    Returns:
        A `FilterRun`. If the filter raises, its `error` is the exception, and its `outcome` raises it.

    Raises:
        PipelineError: The error that `bus.use` would raise. ScriptEnded: The filter ran the rest more often than the list has
        steps. And what the filter's own `start` and `stop` raise.

    Time begins with the run, for `time.sleep` and the clocks of `time` too. In a `with Harness()` block (or a test with the
    fixture `harness`) the time is the harness's: `advance` it between two runs. To send several messages through a filter that
    remembers, use `FilterBench`.
    """
    __tracebackhide__ = True
    with FilterBench(filter, next, at=at, colour=colour, replies=replies) as bench:
        return bench.send_and(message, next, stop=True)

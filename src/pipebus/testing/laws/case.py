"""What a law is tried on: one filter and one message."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Handled, Receipt
from pipebus.pipeline import places, recognise, routes
from pipebus.pipeline.compose import Side
from pipebus.pipeline.step import Step
from pipebus.testing.alone.bench import FilterBench
from pipebus.testing.alone.filter_run import FilterRun

RESERVED: Final = {"pipebus-test": "kept"}
"""A reserved header, as a message from a transport may have, which every message of the laws gets."""

CORRELATION: Final = "test-correlation"


class ForeignError(Exception):
    """An error that no filter knows, raised by the rest of the chain to see what the filter does with it."""


class Seen:
    """What the examples of one check have in common."""

    def __init__(self) -> None:
        self.stuck = False  # the filter waits for something outside the scheduler's control
        self.pool: list[Message[Any]] = []  # some messages that were tried
        self.numbers = itertools.count()  # for new ids
        self.reached: set[str] = set()  # names of the filters that a message has reached
        self.came_through = False  # the rest has run at least once
        self.last: FilterRun | None = None


class Case:
    """
    A filter and one message.

    Args:
        make: Makes a new filter each time.
        colours: The colours in which it can run.
    """

    def __init__(
        self, make: Callable[[], Any], message: Message[Any], at: Side, colours: tuple[str, ...], seen: Seen | None = None
    ) -> None:
        self.make = make
        self.given = message
        self.message = message.with_body(copied(message.body))  # a copy: the filter may change it
        self.at = at
        self.colours = colours
        self.seen = seen or Seen()
        self.shown: FilterRun | None = None  # the run that broke a law

    def run(self, next: Any = None, *, colour: str | None = None) -> FilterRun:
        """Send the message through a new filter."""
        with self.bench(colour, next) as bench:
            return self.sent(bench, self.message)

    def bench(self, colour: Any = None, next: Any = None) -> FilterBench:
        chosen: Any = colour or self.colours[0]
        return FilterBench(self.make(), next, at=self.at, colour=chosen, told=False)

    def sent(self, bench: FilterBench, message: Message[Any]) -> FilterRun:
        """Send one more message through a filter."""
        run = self.shown = self.seen.last = bench.send(message)
        self.seen.came_through = self.seen.came_through or bool(run.forwards)
        self.seen.reached.update(moment.who for moment in run.moments if moment.what.startswith("is given"))
        return run

    def steps(self) -> list[Step]:
        return list(routes.steps(recognise.nodes((self.make(),), places.caller(), "check_filter")))

    def outcome(self) -> Any:
        """The outcome of a rest that accepts."""
        return Receipt(1) if self.at == "publish" else Handled("value")

    def most_passes(self) -> int | None:
        """How often the filters declare to run the rest; None: without a bound."""
        most = 1
        for step in self.steps():
            passes = getattr(step.filter, "passes", 1)
            if passes is None:
                return None
            most *= passes
        return most


Problems = Iterator[str]


def title_of(filter: Any) -> str:
    return ", ".join(node.name for node in recognise.nodes((filter,), places.caller(), "check_filter"))


def made(run: FilterRun) -> str:
    """What the filter did, as the end of a sentence."""
    if run._error is not None:
        return f"raised {text_of(run._error)}"
    return f"returned {run._outcome!r}"


def same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:
        return one is other


def digest(run: FilterRun) -> dict[str, Any]:
    """What to compare of two runs."""
    return {
        "the outcome": run._outcome if run._error is None else text_of(run._error),
        "what it handed on": [(m.subject, m.body, dict(m.headers), m.key, m.ttl, m.reply_to) for m in run.forwards],
        "the number of pauses": len(run.pauses),
        "what it published": [(str(m.subject), m.body) for m in run.published],
    }


def copied(value: Any) -> Any:
    """A deep copy if it can be made, else the value."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value

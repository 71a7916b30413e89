"""What a law is tried on: one filter and one message."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

from pipebus.foreign.objects import text_of
from pipebus.message.message import Handled, Message, Receipt
from pipebus.pipeline import places, recognise, routes
from pipebus.pipeline.compose import Side
from pipebus.pipeline.step import Step
from pipebus.testing.alone.bench import FilterBench
from pipebus.testing.alone.filter_run import FilterRun

RESERVED: Final = {"pipebus-test": "kept"}
"""A reserved header that every message of the laws has, as one that came from a transport may."""

CORRELATION: Final = "test-correlation"


class ForeignError(Exception):
    """Raised by the rest of the chain, where a law asks what a filter makes of that. No filter knows it."""


class Seen:
    """What one example of a law tells the next."""

    def __init__(self) -> None:
        self.stuck = False  # a filter of this kind waits for something that the scheduler does not know of
        self.pool: list[Message[Any]] = []  # messages that were tried
        self.numbers = itertools.count()  # for ids that nobody has seen before
        self.reached: set[str] = set()  # names of the filters that a message came to
        self.came_through = False  # the rest was run at least once
        self.last: FilterRun | None = None


class Case:
    """
    A filter and one message.

    Args:
        make: A new filter each time.
        colours: Those that it can be run in.
    """

    def __init__(
        self, make: Callable[[], Any], message: Message[Any], at: Side, colours: tuple[str, ...], seen: Seen | None = None
    ) -> None:
        self.make = make
        self.given = message
        self.message = message.with_body(copied(message.body))  # one that changes it does so to nobody else
        self.at = at
        self.colours = colours
        self.seen = seen or Seen()
        self.shown: FilterRun | None = None  # the run that broke a law

    def run(self, next: Any = None, *, colour: str | None = None) -> FilterRun:
        """One message through a new filter."""
        with self.bench(colour, next) as bench:
            return self.sent(bench, self.message)

    def bench(self, colour: Any = None, next: Any = None) -> FilterBench:
        chosen: Any = colour or self.colours[0]
        return FilterBench(self.make(), next, at=self.at, colour=chosen, told=False)

    def sent(self, bench: FilterBench, message: Message[Any]) -> FilterRun:
        """One message more through a filter."""
        run = self.shown = self.seen.last = bench.send(message)
        self.seen.came_through = self.seen.came_through or bool(run.forwards)
        self.seen.reached.update(moment.who for moment in run.moments if moment.what.startswith("is given"))
        return run

    def steps(self) -> list[Step]:
        return list(routes.steps(recognise.nodes((self.make(),), places.caller(), "check_filter")))

    def outcome(self) -> Any:
        """That of a rest which accepts."""
        return Receipt(1) if self.at == "publish" else Handled("value")

    def most_passes(self) -> int | None:
        """How often the rest may be run, by what the filters declare."""
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
    """What it did, as the end of a sentence."""
    if run._error is not None:
        return f"raised {text_of(run._error)}"
    return f"returned {run._outcome!r}"


def same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:
        return one is other


def digest(run: FilterRun) -> dict[str, Any]:
    """What can be compared of two runs."""
    return {
        "the outcome": run._outcome if run._error is None else text_of(run._error),
        "what it handed on": [(m.subject, m.body, dict(m.headers), m.key, m.ttl, m.reply_to) for m in run.forwards],
        "the number of pauses": len(run.pauses),
        "what it published": [(str(m.subject), m.body) for m in run.published],
    }


def copied(value: Any) -> Any:
    """A copy that nobody else has, where one can be made."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value

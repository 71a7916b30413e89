"""What a law is tried on: a filter, and one message or several."""

import asyncio
import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from pipebus.delivery.actor import Actor
from pipebus.errors import Rejected
from pipebus.foreign.objects import text_of
from pipebus.message.headers import frozen_headers
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Handled, Receipt
from pipebus.pipeline import places, recognise, routes
from pipebus.pipeline.compose import Side
from pipebus.pipeline.step import Step
from pipebus.testing.alone.bench import FilterBench
from pipebus.testing.alone.run import FilterRun
from pipebus.testing.harness.harness import Harness
from pipebus.testing.laws.marks import LETTERS, MORE
from pipebus.testing.simulation import threads
from pipebus.testing.simulation.blocking import Blocked
from pipebus.testing.simulation.locks import renewed

PATIENCE: Final = 2.0
"""Real seconds to wait for a filter that waits for something outside the scheduler's control."""

BOUNDLESS: Final = 50
"""How often a filter that declares no bound may run the rest here."""

ENDLESS: Final = f"after {BOUNDLESS} times the test ends it"
"""The text of the `KeyboardInterrupt` that ends a filter which never stops repeating."""

CORRELATION: Final = "test-correlation"

NUMBER: Final = "test-number"
"""A header with the number of a message, where a law sends several."""

LOCKS: Final = (type(threads.real_lock()), type(threads.real_rlock()))


class ForeignError(Exception):
    """An error that no filter knows, raised by the rest of the chain to see what the filter does with it."""


class ForeignStop(BaseException):
    """An exception that no filter knows, and that is not an error: it ends something, as SystemExit does."""


Ending = str
"""What the rest of the chain does with a message: "accepts", "drops", or what is in RAISED."""

KNOWN: Final = {
    f"raises {kind.__name__}": kind
    for kind in (ConnectionResetError, TimeoutError, KeyError, ValueError, TypeError, ZeroDivisionError, RuntimeError)
}
"""Errors that a filter may expect from its own lines, and take for them if they come from the rest."""

RAISED: Final[dict[str, Callable[[], BaseException]]] = {
    **{ending: functools.partial(kind, "the rest fails") for ending, kind in KNOWN.items()},
    "fails": lambda: ForeignError("the rest fails"),
    "refuses": lambda: Rejected("the rest refuses it", by="the rest"),
    "is cancelled": asyncio.CancelledError,
    "is interrupted": KeyboardInterrupt,
    "exits": lambda: SystemExit(3),
    "is stopped": lambda: ForeignStop("the rest is stopped"),
}


class Sent(NamedTuple):
    """What became of one of several messages, and what the rest has returned or raised each time that it ran."""

    ending: Ending
    run: FilterRun
    ends: list[Any]


@dataclass(eq=False)
class Tested:
    """The filter, and what has become known about it."""

    make: Callable[[], Any]  # makes a new filter each time
    at: Side
    files: dict[str, bool]  # those with the filter's own lines
    blocked: list[Blocked]  # how the filter has blocked event loops so far
    replies: Any  # what its requests get
    colours: tuple[Any, ...] = ()  # in which it can run
    reached: set[int] = field(default_factory=set)  # positions of the filters that a message has reached
    came_through: bool = False  # the rest has run at least once
    last: FilterRun | None = None
    first: list[FilterRun] = field(default_factory=list)  # the first messages that any filter has got
    in_turn: dict[Any, Any] = field(default_factory=dict)  # results of the law `keeps messages apart`
    explored: set[str] = field(default_factory=set)  # colours in which many orders of what happens at once were tried
    untried: set[str] = field(default_factory=set)  # laws that cannot be tried
    stuck: bool = False  # a message has waited for something that never comes

    @property
    def steps(self) -> list[Step]:
        return steps_of(self.make())

    @property
    def title(self) -> str:
        return ", ".join(node.name for node in recognise.nodes((self.make(),), places.caller(), "check_filter"))

    @property
    def ends_freely(self) -> bool:
        """Whether it may end one message and not the next: it says so, or it is an actor, which has a state of its own."""
        return any(step.traits.may_drop or step.shape == "actor" for step in self.steps)

    def chose(self, *ends: Any) -> bool:
        """Whether one of these is an end that it may give to one message and not to the next."""
        return any(isinstance(end, (Dropped, Rejected)) for end in ends) and self.ends_freely


class Case:
    """A filter and some messages; `alone`: with a new filter for each ending, to see what goes wrong without the others."""

    def __init__(self, tested: Tested, messages: list[Message[Any]], alone: bool = False) -> None:
        self.tested = tested
        self.given = messages
        self.alone = alone
        self.at = tested.at
        self.colours = tested.colours
        self.runs: list[FilterRun] = []  # of the filter that was made last
        self.story: str | None = None  # instead of those of the runs

    def messages(self) -> list[Message[Any]]:
        """The messages, at least two, with copies of their bodies (the filter may change them)."""
        replace = msgspec.structs.replace
        first = [replace(message, id=message.id, body=copied(message.body)) for message in self.given]
        return first if len(first) > 1 else [*first, replace(first[0], id=f"{first[0].id}-2", body=copied(first[0].body))]

    def numbered(self, count: int) -> list[Message[Any]]:
        """So many messages, each with its own id, correlation and header, and with different bodies if there are some."""
        return [
            msgspec.structs.replace(
                message,
                id=f"{message.id}-{number}",
                correlation_id=f"{CORRELATION}-{number}",
                headers=frozen_headers({**message.headers, NUMBER: str(number)}),
                body=copied(message.body),
            )
            for number in range(1, count + 1)
            for message in [self.given[(number - 1) % len(self.given)]]
        ]

    def ending(self, ending: Ending, number: int = 1) -> Any:
        if ending == "accepts":
            return Receipt(number) if self.at == "publish" else Handled(f"value {number}")
        return Dropped("by the rest") if ending == "drops" else RAISED[ending]()

    def marked_ending(self) -> Any:
        """An outcome that is recognised as that of a message with marks."""
        return Receipt(MORE) if self.at == "publish" else Handled(LETTERS)

    @contextmanager
    def bench(self, colour: Any = None, next: Any = None) -> Iterator[FilterBench]:
        """A new filter."""
        self.runs = []
        with ExitStack() as stack:
            if threads.here() is None:  # the filter's locks are made in virtual time too
                stack.enter_context(Harness(fail_fast=False, told=False, patience=PATIENCE))
            filter = self.tested.make()
            for step in steps_of(filter):
                _renew_locks(step.filter)
            chosen = colour or self.colours[0]
            bench = FilterBench(filter, next, at=self.at, colour=chosen, replies=self.tested.replies, told=False)
            yield stack.enter_context(bench)

    def send(self, bench: FilterBench, message: Message[Any], next: Any = None) -> FilterRun:
        """Send one more message through a filter."""
        tested = self.tested
        run = tested.last = bench.send(message, next)
        self.runs.append(run)
        tested.came_through = tested.came_through or bool(run.forwards)
        met = {moment.who for moment in run.moments if moment.what.startswith("is given")}
        for position, step in enumerate(routes.steps(bench.nodes)):
            name = step.filter.subscription.name if isinstance(step.filter, Actor) else step.name
            if name in met:
                tested.reached.add(position)
        if bench.harness.usable:
            bench.harness.advance(0)  # what the filter has left running may go on
        else:
            tested.stuck = True
        return run

    def sends(
        self,
        *endings: Ending,
        colour: Any = None,
        messages: list[Message[Any]] | None = None,
        look: Callable[[Message[Any]], object] | None = None,
        alike: bool = False,
    ) -> Iterator[Sent]:
        """
        Send each of the messages once for each ending, all of them through one filter of each colour, or of this one. `look` is
        called with each message that the rest gets; `alike`: it gives the same outcome for all of them, 7 mailboxes.
        """
        groups = [[ending] for ending in endings] if self.alone else [endings]
        for one, group in itertools.product([colour] if colour else self.colours, groups):
            with self.bench(one) as bench:
                for ending in group:
                    for number, message in enumerate(messages or self.messages(), 1):
                        if not bench.harness.usable:
                            break  # it waits for what never comes
                        ends: list[Any] = []
                        if ending is not group[0]:
                            message = msgspec.structs.replace(message, id=f"{message.id}-{ending}")
                        end = functools.partial(self.ending, ending, 7 if alike else number)
                        run = self.send(bench, message, rest(end, ends, look))
                        yield Sent(ending, run, ends)

    def most_passes(self) -> int | None:
        """How often the filters declare to run the rest; None: without a bound."""
        most = 1
        for step in self.tested.steps:
            if step.traits.passes is None:
                return None
            most *= step.traits.passes
        return most


def rest(
    end: Callable[[], Any], ends: list[Any], look: Callable[[Message[Any]], object] | None = None
) -> Callable[[Message[Any]], Any]:
    """A rest of a chain that adds its ends to a list, and after BOUNDLESS of them ends a filter that never stops."""

    def rest(message: Message[Any]) -> Any:
        if look is not None:
            look(message)
        ends.append(end() if len(ends) < BOUNDLESS else KeyboardInterrupt(ENDLESS))
        return given(ends[-1])

    return rest


def given(end: Any) -> Any:
    """Return an outcome, or raise an error."""
    if isinstance(end, BaseException):
        raise end
    return end


Problems = Iterator[str]


def steps_of(filter: Any) -> list[Step]:
    return list(routes.steps(recognise.nodes((filter,), places.caller(), "check_filter")))


def _renew_locks(filter: Any) -> None:
    """Locks that were not made by the filter's own lines (`default_factory=threading.Lock`) become virtual too."""
    for name, value in list(getattr(filter, "__dict__", {}).items()):
        if isinstance(value, LOCKS):
            object.__setattr__(filter, name, renewed(value))


def made(run: FilterRun) -> str:
    """What the filter did, as the end of a sentence."""
    return result(run._outcome if run._error is None else run._error)


def result(end: Any) -> str:
    return f"raised {text_of(end) or type(end).__name__}" if isinstance(end, BaseException) else f"returned {end!r}"


def same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:
        return one is other


def picture(value: Any) -> Any:
    """What an object holds, also if it has no `==` of its own."""
    if isinstance(value, dict):
        return {key: picture(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [picture(one) for one in value]
    if value is None or callable(value) or type(value).__eq__ is not object.__eq__:  # type: ignore[comparison-overlap]
        return value
    return picture(value.__reduce_ex__(4)[2])


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


def as_message(value: Any) -> Message[Any]:
    return value if isinstance(value, Message) else Message("test", value)

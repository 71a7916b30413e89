"""
Laws that every filter is held to, the built-in ones and yours.

A law is a function of a `Case` (a filter, made anew as often as wanted, and one message) that says what is wrong, or nothing.
`check_filter` tries each on many messages, and shows the smallest for which one is broken.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, get_type_hints

import msgspec

from pipebus import explain, pipeline
from pipebus.errors import ContractError, text_of
from pipebus.message import Dropped, Handled, Message, Receipt
from pipebus.pipeline import Side, Step
from pipebus.testing import virtual
from pipebus.testing.bench import FilterBench, FilterRun
from pipebus.testing.harness import Harness
from pipebus.testing.run_filter import run_once
from pipebus.testing.scheduler import Stuck
from pipebus.testing.script import after
from pipebus.testing.tape import short

RESERVED: Final = {"pipebus-test": "kept"}
"""A reserved header that every message of the laws has, as one that came from a transport may."""

CORRELATION: Final = "test-correlation"
BOUNDLESS: Final = 50
"""Runs of the rest that a filter without a bound is allowed here."""

PATIENCE: Final = 2.0
"""Real seconds for a filter that stands at a lock of its own."""

TOGETHER: Final = 4
"""Messages that pass at the same time."""


class ForeignError(Exception):
    """Raised by the rest of the chain, where a law asks what a filter makes of that. No filter knows it."""


class Case:
    """
    A filter and one message.

    Args:
        make: A new filter each time.
        colours: Those that it can be run in.
    """

    def __init__(
        self, make: Callable[[], Any], message: Message[Any], at: Side, colours: tuple[str, ...], stuck: list[bool]
    ) -> None:
        self.make = make
        self.message = message
        self.at = at
        self.colours = colours
        self.stuck = stuck  # a filter of this kind waits for something that the scheduler does not know of
        self.passed = False  # the rest was run at least once
        self.shown: FilterRun | None = None  # the run that broke a law

    def run(self, next: Any = None, *, colour: str | None = None, filter: Any = None, starts: int = 1) -> FilterRun:
        one = filter if filter is not None else self.make()
        run = run_once(one, self.message, next, self.at, colour or self.colours[0], starts=starts)
        self.passed = self.passed or bool(run.forwards)
        self.shown = run
        return run

    def steps(self) -> list[Step]:
        return list(pipeline.steps(pipeline.nodes((self.make(),), pipeline.caller(), "check_filter")))

    def outcome(self) -> Any:
        """One of this side that no other pass gives."""
        return Receipt(7) if self.at == "publish" else Handled("value")

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


def mutates_nothing(case: Case) -> Problems:
    """It does not change what it got: others read the same message, and the same body."""
    try:
        before = copy.deepcopy(case.message.body)
    except Exception:
        return
    for colour in case.colours:
        case.run(colour=colour)
        if not _same(case.message.body, before):
            yield f"the body that it was given has changed: it was {before!r}, and is {case.message.body!r}; change a copy"
            return


def runs_the_rest_as_declared(case: Case) -> Problems:
    """It runs the rest at most as often as it declares (`passes`, 1 if it says nothing)."""
    most = case.most_passes()

    def fails(message: Message[Any]) -> Any:
        if len(calls) >= (most or BOUNDLESS):
            raise KeyboardInterrupt  # nothing repeats that
        calls.append(message)
        raise ForeignError("the rest fails")

    for colour in case.colours:
        for next in (case.outcome(), Dropped("by the rest"), fails):
            calls: list[Any] = []
            try:
                run = case.run(next, colour=colour)
            except KeyboardInterrupt:
                run = case.shown  # type: ignore[assignment]
            times = run.next_calls
            if most is not None and times > most:
                yield f"it ran the rest {times} times, and declares passes={most}; say how often it may, or run it once"
                return


def lets_cancellation_through(case: Case) -> Problems:
    """What cancels the rest comes out of the filter as it is: else nothing could be stopped."""
    for colour in case.colours:
        for cause in (asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3)):
            calls: list[Message[Any]] = []
            run = case.run(_raising(cause, calls), colour=colour)
            if calls and run._error is not cause:
                yield (
                    f"the rest was ended by {type(cause).__name__}, and the filter {_made(run)}; "
                    "catch Exception, or raise it again"
                )
                return


def lets_errors_through(case: Case) -> Problems:
    """An error of the rest that the filter knows nothing of comes out as the same object."""
    for colour in case.colours:
        raised: list[ForeignError] = []

        def fails(message: Message[Any], raised: list[ForeignError] = raised) -> Any:
            raised.append(ForeignError(f"the rest fails, the {len(raised) + 1}. time"))
            raise raised[-1]

        run = case.run(fails, colour=colour)
        if raised and not any(run._error is one for one in raised):
            yield f"the rest raised {type(raised[-1]).__name__}, and the filter {_made(run)}; let it pass, or raise it again"
            return


def is_the_same_in_both_colours(case: Case) -> Problems:
    """In a sync chain and in an async one it does the same."""
    if len(case.colours) < 2:
        return
    scripts: tuple[Any, ...] = (case.outcome(), Dropped("by the rest"), ForeignError("the rest fails"))
    for next in scripts:
        sync, once_more, asynchronous = (_digest(case.run(next, colour=colour)) for colour in ("sync", "sync", "async"))
        for name, one in sync.items():
            if _same(one, once_more[name]) and not _same(one, asynchronous[name]):
                yield f"{name} differs: {one!r} in a sync chain, {asynchronous[name]!r} in an async one"
                return


def is_safe_under_concurrency(case: Case) -> Problems:
    """Messages that pass at the same time are not mistaken for each other."""
    for colour in case.colours:
        problem = _together(case, colour)
        if problem is not None:
            yield problem
            return


def keeps_the_envelope(case: Case) -> Problems:
    """What it hands on is the same message still: id, correlation and reserved headers are kept."""
    message = case.message
    for colour in case.colours:
        for forward in case.run(colour=colour).forwards:
            for name in ("id", "correlation_id"):
                if getattr(forward, name) != getattr(message, name):
                    yield f"it handed on {name}={getattr(forward, name)!r} where it was given {getattr(message, name)!r}"
                    return
            lost = {name: value for name, value in RESERVED.items() if forward.headers.get(name) != value}
            if lost:
                yield f"it lost the reserved header {lost}; message.with_headers(…) and with_body(…) keep what is there"
                return


def returns_an_outcome(case: Case) -> Problems:
    """It keeps the contract of its shape: hands on messages, returns outcomes."""
    for colour in case.colours:
        for next in (case.outcome(), Dropped("by the rest")):
            run = case.run(next, colour=colour)
            if isinstance(run._error, ContractError):
                yield text_of(run._error)
                return


def restores_the_context(case: Case) -> Problems:
    """Context variables that it sets are reset: they would leak to whoever publishes."""
    for colour in case.colours:
        for next in (case.outcome(), ForeignError("the rest fails")):
            run = case.run(next, colour=colour)
            if run.leaks:
                yield f"it left context variable {run.leaks[0]} changed; reset it in a `finally`, with the token of `set`"
                return


def keeps_its_word(case: Case) -> Problems:
    """If it says `deterministic = True`, it does the same twice; if `idempotent = True`, a second pass changes nothing."""
    steps = case.steps()
    if steps and all(getattr(step.filter, "deterministic", False) for step in steps):
        first, second = _digest(case.run()), _digest(case.run())
        for name, one in first.items():
            if not _same(one, second[name]):
                yield f"it says that it is deterministic, and {name} was {one!r}, then {second[name]!r}"
                return
    if steps and all(getattr(step.filter, "idempotent", False) for step in steps):
        once = case.run()
        if once.forwarded is not None:
            twice = run_once(case.make(), once.forwarded, None, case.at, case.colours[0])
            if twice.forwarded != once.forwarded:
                yield (
                    f"it says that it is idempotent, and made {once.forwarded!r} of the message, "
                    f"and of that {twice.forwarded!r}"
                )


def starts_again(case: Case) -> Problems:
    """Started, stopped and started again, it works as at first."""
    first, again = case.run(), case.run(starts=2)
    found = [(type(run._error), type(run._outcome), run.next_calls) for run in (first, again)]
    if found[0] != found[1]:
        yield f"at first it {_made(first)}, and after it was stopped and started again it {_made(again)}"


def describes_itself(case: Case) -> Problems:
    """`bus.describe()` can show it, as JSON."""
    for node in pipeline.nodes((case.make(),), pipeline.caller(), "check_filter"):
        try:
            json.dumps(explain.describe_node(node), allow_nan=False)
        except Exception as error:
            yield f"its description is no JSON: {text_of(error)}"


def settings_round_trip(case: Case) -> Problems:
    """A dataclass's fields are of the types that they declare, and a filter made from them has the same."""
    for step in case.steps():
        if dataclasses.is_dataclass(step.filter) and not isinstance(step.filter, type):
            yield from _round_trip(step.filter)


class Law(NamedTuple):
    """A law, by its name."""

    name: str
    holds: Callable[[Case], Problems]
    once: bool = False  # the message makes no difference


LAWS: Final = (
    Law("mutates nothing", mutates_nothing),
    Law("runs the rest as declared", runs_the_rest_as_declared),
    Law("lets cancellation through", lets_cancellation_through),
    Law("lets errors through", lets_errors_through),
    Law("is the same in both colours", is_the_same_in_both_colours),
    Law("is safe under concurrency", is_safe_under_concurrency),
    Law("keeps the envelope", keeps_the_envelope),
    Law("returns an outcome", returns_an_outcome),
    Law("restores the context", restores_the_context),
    Law("keeps its word", keeps_its_word),
    Law("starts again", starts_again),
    Law("describes itself", describes_itself, once=True),
    Law("settings round-trip", settings_round_trip, once=True),
)
"""In the order in which they are tried."""

# --- looking -----------------------------------------------------------------------------------------------------------


def title_of(filter: Any) -> str:
    return ", ".join(node.name for node in pipeline.nodes((filter,), pipeline.caller(), "check_filter"))


def _raising(error: BaseException, calls: list[Message[Any]]) -> Callable[[Message[Any]], Any]:
    def rest(message: Message[Any]) -> Any:
        calls.append(message)
        raise error

    return rest


def _made(run: FilterRun) -> str:
    """What it did, as the end of a sentence."""
    if run._error is not None:
        return f"raised {text_of(run._error)}"
    return f"returned {run._outcome!r}"


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:
        return one is other


def _digest(run: FilterRun) -> dict[str, Any]:
    """What can be compared of two runs."""
    return {
        "the outcome": run._outcome if run._error is None else text_of(run._error),
        "what it handed on": [(m.subject, m.body, dict(m.headers), m.key, m.ttl, m.reply_to) for m in run.forwards],
        "the number of pauses": len(run.pauses),
        "what it published": [(str(m.subject), m.body) for m in run.published],
    }


_whose: contextvars.ContextVar[int] = contextvars.ContextVar("pipebus.testing.whose")


def _together(case: Case, colour: Any) -> str | None:
    """Some messages through one filter at once, the first the slowest."""
    given = [msgspec.structs.replace(case.message, id=f"{case.message.id}-{number}") for number in range(TOGETHER)]
    if case.stuck:
        return None
    ids = {message.id for message in given}
    problems: list[str] = []
    due = [Receipt(number + 1) if case.at == "publish" else Handled(number + 1) for number in range(TOGETHER)]

    def rest(message: Message[Any]) -> Any:
        number = _whose.get()
        if message.id != given[number].id and message.id in ids:
            problems.append(f"of {TOGETHER} messages at once, it handed on {message.id} in the pass of {given[number].id}")
        case.passed = True
        return after(0.01 * (TOGETHER - number), due[number])

    harness = Harness(fail_fast=False, told=False, patience=PATIENCE)
    try:
        with harness:
            with virtual.locks(harness._simulation, None):
                filter = case.make()  # a lock that it makes is one that the scheduler knows
            run = FilterRun(f"{TOGETHER} messages at once through {title_of(filter)}", case.message, given=short(case.message))
            with FilterBench(filter, rest, at=case.at, colour=colour, told=False) as bench:
                outcomes = bench.together(given, _whose)
                run.moments = list(bench.harness.tape.moments)
    except Stuck:  # one that it makes later: nothing can be said
        case.stuck.append(True)
        return None
    case.shown = run
    if problems:
        return problems[0]
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, (Receipt, Handled)) and outcome in due and outcome != due[number]:
            other = due.index(outcome)
            return f"of {TOGETHER} messages at once, {given[number].id} was given the outcome of {given[other].id}"
    return None


def _round_trip(filter: Any) -> Problems:
    from pydantic import ConfigDict, TypeAdapter, create_model

    name = type(filter).__name__
    given = {field.name: getattr(filter, field.name, None) for field in dataclasses.fields(filter) if field.init}
    try:
        again = type(filter)(**given)
    except Exception as error:
        yield f"{name} cannot be made from its own settings {given!r}: {text_of(error)}"
        return
    if explain.settings(again) != explain.settings(filter):
        yield f"{name} made from its own settings has others: {explain.settings(filter)} became {explain.settings(again)}"
        return
    hints = _hints(type(filter))
    try:
        fields: dict[str, Any] = {key: (hints.get(key, Any), ...) for key in given}
        model = create_model(f"{name}Settings", __config__=ConfigDict(arbitrary_types_allowed=True), **fields)
        found = model.model_validate(given)
    except Exception as error:
        yield f"its settings are not what its fields declare: {text_of(error)}"
        return
    try:
        read = model.model_validate_json(TypeAdapter(model).dump_json(found))
    except Exception:
        return  # a function or a class: its name stands in a file, and not the thing
    kept = type(filter)(**{key: getattr(read, key) for key in given})
    if explain.settings(kept) != explain.settings(filter):
        yield f"its settings came back from JSON as {explain.settings(kept)}, and were {explain.settings(filter)}"


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except Exception:
        return {}

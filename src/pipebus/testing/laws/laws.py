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
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, get_type_hints

import msgspec

from pipebus.bus import explain
from pipebus.errors import ContractError
from pipebus.foreign.objects import text_of
from pipebus.message.message import Dropped, Handled, Message, Receipt, frozen_headers
from pipebus.pipeline import places, recognise, routes
from pipebus.pipeline.compose import Side
from pipebus.pipeline.step import Step
from pipebus.testing.alone.bench import FilterBench, FilterRun
from pipebus.testing.alone.script import after
from pipebus.testing.harness.harness import Harness
from pipebus.testing.harness.tape import short
from pipebus.testing.simulation import virtual
from pipebus.testing.simulation.scheduler import Stuck

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


def mutates_nothing(case: Case) -> Problems:
    """It does not change what it got: others read the same message, and the same body."""
    try:
        before, body = copy.deepcopy(case.given.body), copy.deepcopy(case.given.body)
    except Exception:
        return
    if not _same(body, before):
        return  # a body that is not equal to its own copy: nothing can be said
    case.message = case.given.with_body(body)

    def seen(then: Any) -> Callable[[Message[Any]], Any]:
        def rest(message: Message[Any]) -> Any:
            changed.append(not _same(body, before))  # here too: it may be put back on the way out
            if isinstance(then, BaseException):
                raise then
            return then

        return rest

    for colour in case.colours:
        for then in (case.outcome(), Dropped("by the rest"), ForeignError("the rest fails")):
            changed: list[bool] = []
            case.run(seen(then), colour=colour)
            if any(changed) or not _same(body, before):
                yield f"the body that it was given has changed: it was {before!r}, and is {body!r}; change a copy"
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
            times = case.run(next, colour=colour).next_calls
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
            if len(calls) > 1:
                yield f"the rest was ended by {type(cause).__name__}, and the filter ran it again; catch Exception instead"
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
    """What it hands on is the same message still: id, correlation, where a reply goes and reserved headers are kept."""
    message = case.message

    def fails_first(_: Message[Any]) -> Any:
        passes.append(1)
        if len(passes) == 1:
            raise ForeignError("the rest fails")
        return case.outcome()

    for colour in case.colours:
        passes: list[int] = []
        for forward in (*case.run(colour=colour).forwards, *case.run(fails_first, colour=colour).forwards):
            for name in ("id", "correlation_id", "reply_to", "time"):
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
    """
    If it says `deterministic = True`, the same message has the same fate twice; if `idempotent = True`, a second pass of what
    it handed on changes nothing. Both through one filter.
    """
    steps = case.steps()
    if steps and all(getattr(step.filter, "deterministic", False) for step in steps):
        with case.bench() as bench:
            first, second = (case.sent(bench, case.message) for _ in range(2))
        for name, one in _digest(first).items():
            if not _same(one, _digest(second)[name]):
                yield f"it says that it is deterministic, and {name} was {one!r}, then {_digest(second)[name]!r}"
                return
    if steps and all(getattr(step.filter, "idempotent", False) for step in steps):
        with case.bench() as bench:
            once = case.sent(bench, case.message)
            twice = case.sent(bench, once.forwarded) if once.forwarded is not None else once
        if twice.forwarded != once.forwarded:
            yield f"it says that it is idempotent, and made {once.forwarded!r} of the message, and of that {twice.forwarded!r}"


def starts_again(case: Case) -> Problems:
    """Started, stopped in the middle of its work and started again, it works as if it had gone on."""
    other = msgspec.structs.replace(case.message, id=f"{case.message.id}-again")

    def lives() -> tuple[FilterRun, FilterRun]:
        """The second message of a life, and as the first of another."""
        with case.bench() as bench:
            case.sent(bench, case.message)
            second = case.sent(bench, other)
        with case.bench() as bench:
            return second, case.sent(bench, other)

    (went_on, began), (_, once_more) = lives(), lives()
    try:
        with case.bench() as bench:
            case.sent(bench, case.message)
            bench.restart()
            again = case.sent(bench, other)
    except Exception as error:
        yield f"it cannot be stopped and started again: {text_of(error)}"
        return
    found = [(type(run._error), type(run._outcome), run.next_calls) for run in (went_on, began, again)]
    if found[2] not in found[:2]:
        yield f"it {_made(went_on)}; after it was stopped and started again it {_made(again)}"
        return
    for name, one in _digest(began).items():  # it may go on, or begin anew: what is neither is wrong
        now = _digest(again)[name]
        if _same(one, _digest(once_more)[name]) and not _same(one, now) and not _same(_digest(went_on)[name], now):
            yield f"{name} was {one!r}; after it was stopped and started again {now!r}"


def describes_itself(case: Case) -> Problems:
    """`bus.describe()` can show it, as JSON."""
    for node in recognise.nodes((case.make(),), places.caller(), "check_filter"):
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
    return ", ".join(node.name for node in recognise.nodes((filter,), places.caller(), "check_filter"))


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
NUMBER: Final = "pipebus-number"


def _together(case: Case, colour: Any) -> str | None:
    """
    Some messages through one filter at once, the first the slowest; and for comparison one after the other through another.

    Threads (or tasks) change places where the rest waits, and nowhere else: a step between two lines is for `simulate`.
    """
    if case.seen.stuck:
        return None
    given = _numbered(case)
    due = [Receipt(number + 1) if case.at == "publish" else Handled(number + 1) for number in range(TOGETHER)]
    for fails in (False, True):
        alone = _one_by_one(case, colour, given, due, fails)
        found = _all_at_once(case, colour, given, due, fails)
        if found is None:
            return None
        outcomes, forwards = found
        problem = _mixed(given, forwards, alone) or _swapped(given, outcomes, due) or _worse(case, outcomes, alone, fails)
        if problem is not None:
            return f"of {TOGETHER} messages at once, {problem}"
    return None


def _one_by_one(case: Case, colour: Any, given: list[Message[Any]], due: list[Any], fails: bool) -> list[FilterRun]:
    def rest(message: Message[Any]) -> Any:
        number = int(message.headers.get(NUMBER, "0"))
        if fails:
            raise ForeignError(f"of message {number}")
        return due[number]

    with case.bench(colour, rest) as bench:
        return [bench.send(message) for message in given]


def _numbered(case: Case) -> list[Message[Any]]:
    """As many messages, of bodies as different as have been seen, each with marks of its own."""
    seen = [message for message in case.seen.pool if message.subject == case.message.subject]
    bodies = [case.message.body, *(message.body for message in seen)][:TOGETHER]
    if not any(_same(case.message.body, message.body) for message in seen):
        case.seen.pool.append(case.message)
        del case.seen.pool[:-TOGETHER]
    return [
        msgspec.structs.replace(
            case.message,
            id=f"{case.message.id}-{next(case.seen.numbers)}",
            correlation_id=f"{CORRELATION}-{number}",
            headers=frozen_headers({**case.message.headers, NUMBER: str(number)}),
            body=copied(bodies[number % len(bodies)]),
        )
        for number in range(TOGETHER)
    ]


def _all_at_once(
    case: Case, colour: Any, given: list[Message[Any]], due: list[Any], fails: bool
) -> tuple[list[Any], list[tuple[int, Message[Any]]]] | None:
    """Outcome or error of each, and what was handed on in whose pass."""
    forwards: list[tuple[int, Message[Any]]] = []

    def rest(message: Message[Any]) -> Any:
        number = _whose.get()
        forwards.append((number, message))
        case.seen.came_through = True
        return after(0.01 * (TOGETHER - number), ForeignError(f"of message {number}") if fails else due[number])

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
        case.seen.stuck = True
        return None
    case.shown = run
    return outcomes, forwards


def _mixed(given: list[Message[Any]], forwards: list[tuple[int, Message[Any]]], alone: list[FilterRun]) -> str | None:
    """What was handed on in one message's pass, and is another's."""
    for number, forward in forwards:
        for other, message in enumerate(given):
            if other == number:
                continue
            marks = {
                "id": forward.id == message.id,
                "correlation_id": forward.correlation_id == message.correlation_id,
                "header": forward.headers.get(NUMBER) == str(other),
            }
            own, others = alone[number].forwarded, alone[other].forwarded
            if own is not None and others is not None and not _same(own.body, others.body):
                marks["body"] = _same(forward.body, others.body) and not _same(forward.body, own.body)
            taken = next((name for name, is_so in marks.items() if is_so), None)
            if taken is not None:
                return f"it handed on the {taken} of {message.id} in the pass of {given[number].id}"
    return None


def _swapped(given: list[Message[Any]], outcomes: list[Any], due: list[Any]) -> str | None:
    """Who was given what the rest had said of another."""
    for number, outcome in enumerate(outcomes):
        for other, message in enumerate(given):
            if other == number:
                continue
            if outcome == due[other] and outcome != due[number]:
                return f"{given[number].id} was given the outcome of {message.id}"
            if isinstance(outcome, ForeignError) and str(outcome) == f"of message {other}":
                return f"{given[number].id} was given the error of {message.id}"
    return None


def _worse(case: Case, outcomes: list[Any], alone: list[FilterRun], fails: bool) -> str | None:
    """What none of them met that passed one after the other: an error; or a drop, if it does not declare `may_drop`."""
    known = {type(run._error) for run in alone}
    new = next((one for one in outcomes if isinstance(one, BaseException) and type(one) not in {*known, ForeignError}), None)
    if new is not None:
        return f"one met {text_of(new)}, which none does that pass one after the other"
    drops = any(isinstance(run._outcome, Dropped) for run in alone)
    dropped = next((one for one in outcomes if isinstance(one, Dropped)), None)
    if dropped is not None and not drops and not fails and not any(getattr(s.filter, "may_drop", False) for s in case.steps()):
        return (
            f"one was dropped ({dropped.reason}), as none is that pass one after the other; "
            "if that is meant, say may_drop = True"
        )
    return None


def copied(value: Any) -> Any:
    """A copy that nobody else has, where one can be made."""
    try:
        return copy.deepcopy(value)
    except Exception:
        return value


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

"""
The laws that every filter must keep, built in or your own.

A law is a function of a `Case` (a way to make new filters, and one message) that yields what is wrong, if anything; only the
first thing is read. `check_filter` tries each law on many messages, and shows the smallest message that breaks one.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from pipebus.errors import ContractError
from pipebus.foreign.objects import text_of
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.testing.alone.filter_run import FilterRun
from pipebus.testing.laws.case import RESERVED, Case, ForeignError, Problems, digest, made, same
from pipebus.testing.laws.concurrency import is_safe_under_concurrency
from pipebus.testing.laws.settings import describes_itself, settings_round_trip

BOUNDLESS: Final = 50
"""How often a filter that declares no bound may run the rest here."""


def mutates_nothing(case: Case) -> Problems:
    """It does not change the body that it got, because others read the same body."""
    try:
        before, body = copy.deepcopy(case.given.body), copy.deepcopy(case.given.body)
    except Exception:
        return
    if not same(body, before):
        return  # the body is not equal to its own copy, so a change cannot be seen
    case.message = case.given.with_body(body)

    def seen(then: Any) -> Callable[[Message[Any]], Any]:
        def rest(message: Message[Any]) -> Any:
            changed.append(not same(body, before))  # look here too: the filter may undo the change on the way out
            if isinstance(then, BaseException):
                raise then
            return then

        return rest

    for colour in case.colours:
        for then in (case.outcome(), Dropped("by the rest"), ForeignError("the rest fails")):
            changed: list[bool] = []
            case.run(seen(then), colour=colour)
            if any(changed) or not same(body, before):
                yield f"the body that it was given has changed: it was {before!r}, and is {body!r}; change a copy"


def runs_the_rest_as_declared(case: Case) -> Problems:
    """It runs the rest at most as often as it declares (`passes`, 1 by default)."""
    most = case.most_passes()

    def fails(message: Message[Any]) -> Any:
        if len(calls) >= (most or BOUNDLESS):
            raise KeyboardInterrupt  # ends a filter that never stops retrying
        calls.append(message)
        raise ForeignError("the rest fails")

    for colour in case.colours:
        for next in (case.outcome(), Dropped("by the rest"), fails):
            calls: list[Any] = []
            times = case.run(next, colour=colour).next_calls
            if most is not None and times > most:
                yield f"it ran the rest {times} times, and declares passes={most}; say how often it may, or run it once"


def lets_cancellation_through(case: Case) -> Problems:
    """An exception that cancels the rest comes out of the filter as the same object; otherwise nothing could be stopped."""
    for colour in case.colours:
        for cause in (asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3)):
            calls: list[Message[Any]] = []
            run = case.run(_raising(cause, calls), colour=colour)
            if calls and run._error is not cause:
                yield (
                    f"the rest was ended by {type(cause).__name__}, and the filter {made(run)}; "
                    "catch Exception, or raise it again"
                )
            if len(calls) > 1:
                yield f"the rest was ended by {type(cause).__name__}, and the filter ran it again; catch Exception instead"


def lets_errors_through(case: Case) -> Problems:
    """An error of the rest that the filter does not know comes out as the same object."""
    for colour in case.colours:
        raised: list[ForeignError] = []

        def fails(message: Message[Any], raised: list[ForeignError] = raised) -> Any:
            raised.append(ForeignError(f"failure {len(raised) + 1} of the rest"))
            raise raised[-1]

        run = case.run(fails, colour=colour)
        if raised and not any(run._error is one for one in raised):
            yield f"the rest raised {type(raised[-1]).__name__}, and the filter {made(run)}; let it pass, or raise it again"


def is_the_same_in_both_colours(case: Case) -> Problems:
    """It does the same in a sync chain and in an async one."""
    if len(case.colours) < 2:
        return
    scripts: tuple[Any, ...] = (case.outcome(), Dropped("by the rest"), ForeignError("the rest fails"))
    for next in scripts:
        sync, once_more, asynchronous = (digest(case.run(next, colour=colour)) for colour in ("sync", "sync", "async"))
        for name, one in sync.items():
            if same(one, once_more[name]) and not same(one, asynchronous[name]):
                yield f"{name} differs: {one!r} in a sync chain, {asynchronous[name]!r} in an async one"


def keeps_the_envelope(case: Case) -> Problems:
    """What it passes on is still the same message: it keeps the id, correlation, reply address and reserved headers."""
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
            lost = {name: value for name, value in RESERVED.items() if forward.headers.get(name) != value}
            if lost:
                yield f"it lost the reserved header {lost}; message.with_headers(…) and with_body(…) keep what is there"


def returns_an_outcome(case: Case) -> Problems:
    """It keeps the contract of its shape: it passes on messages and returns outcomes."""
    for colour in case.colours:
        for next in (case.outcome(), Dropped("by the rest")):
            run = case.run(next, colour=colour)
            if isinstance(run._error, ContractError):
                yield text_of(run._error)


def restores_the_context(case: Case) -> Problems:
    """It resets the context variables that it sets; otherwise they would leak to the publisher."""
    for colour in case.colours:
        for next in (case.outcome(), ForeignError("the rest fails")):
            run = case.run(next, colour=colour)
            if run.leaks:
                yield f"it left context variable {run.leaks[0]} changed; reset it in a `finally`, with the token of `set`"


def keeps_its_word(case: Case) -> Problems:
    """
    With `deterministic = True`, the same message has the same result twice. With `idempotent = True`, it does not change a
    message that it has passed on before. Both are tried with one filter object.
    """
    steps = case.steps()
    if steps and all(getattr(step.filter, "deterministic", False) for step in steps):
        with case.bench() as bench:
            first, second = (case.sent(bench, case.message) for _ in range(2))
        for name, one in digest(first).items():
            if not same(one, digest(second)[name]):
                yield f"it declares deterministic = True, but {name} was {one!r}, then {digest(second)[name]!r}"
    if steps and all(getattr(step.filter, "idempotent", False) for step in steps):
        with case.bench() as bench:
            once = case.sent(bench, case.message)
            twice = case.sent(bench, once.forwarded) if once.forwarded is not None else once
        if twice.forwarded != once.forwarded:
            yield f"it declares idempotent = True, but made {once.forwarded!r} of the message, and of that {twice.forwarded!r}"


def starts_again(case: Case) -> Problems:
    """After a stop and another start it works, either as if it had gone on or as if it were new."""
    other = msgspec.structs.replace(case.message, id=f"{case.message.id}-again")

    def lives() -> tuple[FilterRun, FilterRun]:
        """The runs of the same message as the second one through a filter, and as the first one through another."""
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
        yield f"it {made(went_on)}; after it was stopped and started again it {made(again)}"
    for name, one in digest(began).items():  # it may continue or start over, nothing else
        now = digest(again)[name]
        if same(one, digest(once_more)[name]) and not same(one, now) and not same(digest(went_on)[name], now):
            yield f"{name} was {one!r}; after it was stopped and started again {now!r}"


class Law(NamedTuple):
    """A law and its name."""

    name: str
    holds: Callable[[Case], Problems]
    once: bool = False  # the law is about the filter, not about a message


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


def _raising(error: BaseException, calls: list[Message[Any]]) -> Callable[[Message[Any]], Any]:
    def rest(message: Message[Any]) -> Any:
        calls.append(message)
        raise error

    return rest

"""The law on messages that pass a filter at the same time."""

from __future__ import annotations

import contextvars
from typing import Any, Final

import msgspec

from pipebus.foreign.objects import text_of
from pipebus.message.headers import frozen_headers
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Handled, Receipt
from pipebus.testing.alone.bench import FilterBench
from pipebus.testing.alone.filter_run import FilterRun
from pipebus.testing.alone.script import after
from pipebus.testing.harness.harness import Harness
from pipebus.testing.harness.words import short
from pipebus.testing.laws.case import CORRELATION, Case, ForeignError, Problems, copied, same, title_of
from pipebus.testing.simulation import locks
from pipebus.testing.simulation.task import Stuck

PATIENCE: Final = 2.0
"""Real seconds to wait for a filter that waits for a lock of its own."""

TOGETHER: Final = 4
"""How many messages pass at the same time."""


def is_safe_under_concurrency(case: Case) -> Problems:
    """It does not mix up messages that pass at the same time."""
    for colour in case.colours:
        problem = _together(case, colour)
        if problem is not None:
            yield problem
            return


_whose: contextvars.ContextVar[int] = contextvars.ContextVar("pipebus.testing.whose")

NUMBER: Final = "pipebus-number"


def _together(case: Case, colour: Any) -> str | None:
    """
    Send some messages through one filter at once, the first the slowest; to compare, send them through another in turn.

    Threads (or tasks) change places only where the rest waits: `simulate` explores what happens between two lines.
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
    """TOGETHER messages, each with its own id, correlation and header, and with different bodies if there are some."""
    seen = [message for message in case.seen.pool if message.subject == case.message.subject]
    bodies = [case.message.body, *(message.body for message in seen)][:TOGETHER]
    if not any(same(case.message.body, message.body) for message in seen):
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
    """The outcome or error of each; and the messages that were passed on, each with the number of its original."""
    forwards: list[tuple[int, Message[Any]]] = []

    def rest(message: Message[Any]) -> Any:
        number = _whose.get()
        forwards.append((number, message))
        case.seen.came_through = True
        return after(0.01 * (TOGETHER - number), ForeignError(f"of message {number}") if fails else due[number])

    harness = Harness(fail_fast=False, told=False, patience=PATIENCE)
    try:
        with harness:
            with locks.locks(harness._simulation, None):
                filter = case.make()  # a lock that it makes now is virtual
            run = FilterRun(f"{TOGETHER} messages at once through {title_of(filter)}", case.message, given=short(case.message))
            with FilterBench(filter, rest, at=case.at, colour=colour, told=False) as bench:
                outcomes = bench.together(given, _whose)
                run.moments = list(bench.harness.tape.moments)
    except Stuck:  # at a lock that it made later: this law cannot be tried
        case.seen.stuck = True
        return None
    case.shown = run
    return outcomes, forwards


def _mixed(given: list[Message[Any]], forwards: list[tuple[int, Message[Any]]], alone: list[FilterRun]) -> str | None:
    """A part of one message that was passed on in place of another's."""
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
            if own is not None and others is not None and not same(own.body, others.body):
                marks["body"] = same(forward.body, others.body) and not same(forward.body, own.body)
            taken = next((name for name, is_so in marks.items() if is_so), None)
            if taken is not None:
                return f"it handed on the {taken} of {message.id} in the pass of {given[number].id}"
    return None


def _swapped(given: list[Message[Any]], outcomes: list[Any], due: list[Any]) -> str | None:
    """An outcome or error that was returned for the wrong message."""
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
    """An error, or a drop without `may_drop`, that does not occur if the messages pass one after the other."""
    known = {type(run._error) for run in alone}
    new = next((one for one in outcomes if isinstance(one, BaseException) and type(one) not in {*known, ForeignError}), None)
    if new is not None:
        return f"one raised {text_of(new)}, which does not happen if they pass one after the other"
    drops = any(isinstance(run._outcome, Dropped) for run in alone)
    dropped = next((one for one in outcomes if isinstance(one, Dropped)), None)
    if dropped is not None and not drops and not fails and not any(getattr(s.filter, "may_drop", False) for s in case.steps()):
        return (
            f"one was dropped ({dropped.reason}), which does not happen if they pass one after the other; "
            "if that is intended, declare may_drop = True"
        )
    return None

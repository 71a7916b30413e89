"""The law on messages that pass one filter one after the other, and what shows that it has mixed them up."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from pipebus.errors import Rejected
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.testing.alone.run import FilterRun
from pipebus.testing.harness.words import counted, times
from pipebus.testing.laws.case import NUMBER, Case, Ending, Problems, copied, made, rest, result, same
from pipebus.testing.laws.marks import LETTERS, MORE, NUMBERS, marked, stray
from pipebus.testing.simulation.threads import Stuck

PLANS: Final[tuple[tuple[Ending, ...], ...]] = (
    ("accepts", "accepts", "accepts", "accepts"),
    ("fails", "accepts", "is cancelled", "drops", "is stopped", "refuses", "accepts"),
)
"""What the rest does with each message that passes the filter."""


def keeps_messages_apart(case: Case) -> Problems:
    """What it does with a message is what a new filter would do. It may count, and it may drop if it says so."""
    yield from _shows_another(case, shared=True)
    for colour in case.colours:
        for plan in PLANS:
            found = in_turn(case, colour, plan)
            if found.problem is not None:
                yield f"of {len(plan)} messages, one after the other, {found.problem}"
    yield from _shows_another(case, shared=False)
    yield from _grows(case)


class InTurn(NamedTuple):
    """Messages that passed one filter one after the other."""

    given: list[Message[Any]]
    due: list[Any]  # what the rest has returned or raised for each
    new: list[FilterRun]  # what a new filter does with each
    steady: list[bool]  # whether that is the same each time
    problem: str | None


def in_turn(case: Case, colour: str, plan: tuple[Ending, ...]) -> InTurn:
    """Send messages through one filter, and each of them through a new filter too; and say what differs."""
    key = (id(case.given), colour, plan)
    known = case.tested.in_turn.get(key)
    if known is None:
        known = _in_turn(case, colour, plan)
        if known.problem is None:
            case.tested.in_turn[key] = known
    return known


def _in_turn(case: Case, colour: str, plan: tuple[Ending, ...]) -> InTurn:
    given = case.numbered(len(plan))
    due = [case.ending(ending, number) for number, ending in enumerate(plan, 11)]
    new = [_alone(case, colour, given[number], due[number]) for number in range(len(plan))]
    problem, found = None, []
    with case.bench(colour) as bench:
        for number in range(len(plan)):
            if bench.harness.usable:
                found.append(case.send(bench, again(given[number]), always(due[number])))
    runs, steady = case.runs, []
    for number, run in enumerate(found):
        problem = difference(case, number, Passed(run._error or run._outcome, run.forwards), given, due, new)
        steady.append(shape(run) == shape(new[number]))
        chosen = case.tested.chose(*(one._error or one._outcome for one in (run, new[number])))
        if problem is None and not steady[-1] and not chosen:
            once_more = _alone(case, colour, given[number], due[number])
            if shape(once_more) == shape(new[number]):  # else it varies by chance
                problem = _other_shape(number, run, new[number])
        if problem is not None:
            break
    case.runs = runs[: len(steady)]
    return InTurn(given, due, new, steady, problem)


def _alone(case: Case, colour: str, message: Message[Any], due: Any) -> FilterRun:
    with case.bench(colour) as bench:
        return case.send(bench, again(message), always(due))


def always(due: Any) -> Any:
    return rest(lambda: due, [])


def again(message: Message[Any]) -> Message[Any]:
    return msgspec.structs.replace(message, id=message.id, body=copied(message.body))


class Passed(NamedTuple):
    """What became of one of the messages: an outcome or an error, and what was handed on."""

    end: Any
    forwards: list[Message[Any]]


def difference(
    case: Case, number: int, found: Passed, given: list[Message[Any]], due: list[Any], new: list[FilterRun]
) -> str | None:
    """What the filter did otherwise with one of the messages than a new filter."""
    me, usual = f"message {number + 1}", new[number]._error or new[number]._outcome
    for other in range(len(given)):
        if other == number:
            continue
        if _is(found.end, due[other]) and not _is(found.end, due[number]):
            what = "error" if isinstance(found.end, BaseException) else "outcome"
            return f"{me} was given the {what} of message {other + 1}"
        for forward in found.forwards:
            taken = _taken(forward, given[other], new[number].forwards, new[other].forwards)
            if taken is not None:
                return f"it handed on the {taken} of message {other + 1} in the pass of {me}"
    if isinstance(found.end, Stuck):
        return f"{me} waits for something that never comes, and a new filter {made(new[number])}: {found.end}"
    if case.tested.chose(found.end, usual):
        return None
    ended = any(isinstance(end, (BaseException, Dropped)) for end in (found.end, usual))
    if ended and type(found.end) is not type(usual):
        did = f"was dropped ({found.end.reason})" if isinstance(found.end, Dropped) else result(found.end)
        chose = any(isinstance(end, (Dropped, Rejected)) for end in (found.end, usual))
        meant = "; if that is intended, declare may_drop = True" if chose else ""
        return f"{me} {did}, and a new filter {made(new[number])}{meant}"
    if len(found.forwards) != new[number].next_calls:
        return f"{me} ran the rest {times(len(found.forwards))}, and with a new filter {times(new[number].next_calls)}"
    return None


def _is(end: Any, due: Any) -> bool:
    """Whether this is what the rest gave or raised for a certain message. (Drops have no mark.)"""
    return end is due or (not isinstance(due, (BaseException, Dropped)) and same(end, due))


def _taken(forward: Message[Any], other: Message[Any], usual: list[Message[Any]], others: list[Message[Any]]) -> str | None:
    """The part of another message that was handed on. A new filter hands on `usual` for this one, and `others` for that one."""
    for name in ("id", "correlation_id"):
        if getattr(forward, name) == getattr(other, name):
            return name
    if forward.headers.get(NUMBER) == other.headers[NUMBER]:
        return "header"
    if not usual or any(same(forward.body, one.body) for one in usual):
        return None
    return "body" if any(same(forward.body, one.body) for one in (other, *others)) else None


def _shows_another(case: Case, shared: bool) -> Problems:
    """What is in one message shows in the pass of the next: with `shared`, of one that another filter gets."""
    first, second = case.numbered(2)
    for one in marked(first):
        with case.bench() as bench:
            if not case.send(bench, one.message, case.marked_ending()).forwards:
                continue  # it refuses the marks
            run = None if shared else case.send(bench, second, case.ending("accepts", 12))
        before = case.runs
        run = run or _alone(case, case.colours[0], second, case.ending("accepts", 12))
        case.runs = [*before[:1], run]
        ends = [getattr(run._outcome, name, None) for name in ("mailboxes", "value", "reason")]
        numbers = one.numbers.difference(NUMBERS.findall(repr([*_parts(second)])))
        found = [
            part
            for part in (*each_part(run.forwards), *each_part(run.published), *ends, str(run._error))
            if stray(part, numbers)
        ]
        if found:
            which, why = (
                ("another filter", "; they share something, such as an attribute of the class") if shared else ("it", "")
            )
            yield (
                f"it came with {found[0]!r} for message 2; that is of message 1, which {which} got before, with marks (its "
                f"texts end in {LETTERS!r}, its numbers are {MORE} more){why}"
            )
        return


def each_part(messages: list[Message[Any]]) -> list[Any]:
    return [part for message in messages for part in _parts(message)]


def _grows(case: Case) -> Problems:
    """What a new filter does depends on the filters before it: a mutable default, or an attribute of the class."""
    message = msgspec.structs.replace(case.numbered(1)[0], id=f"{case.given[0].id}-new")
    runs = [_alone(case, case.colours[0], message, case.ending("accepts")) for _ in range(4)]
    sizes = [len(repr(shape(run))) for run in runs]
    first, *later = [type(run._error or run._outcome) for run in runs]
    if sizes == sorted(set(sizes)):
        what = "each added to what the one before it had done"
    elif len(set(later)) == 1 and later[0] is not first and not case.tested.ends_freely:
        what = f"the first {made(runs[0])}, the others {made(runs[1])}"
    else:
        return
    case.runs = runs
    yield (
        f"{len(runs)} new filters got the same message, and {what}; they share something, such as a mutable default or an "
        "attribute of the class"
    )


def shape(run: FilterRun) -> list[Any]:
    """What a filter has handed on, published, and returned or raised, without the numbers in it."""
    ends = [getattr(run._outcome, "value", None), getattr(run._outcome, "reason", None), str(run._error)]
    return [parts(run.forwards), parts(run.published), *map(_shape_of, ends)]


def parts(messages: list[Message[Any]]) -> list[Any]:
    """What can differ in messages, without the numbers in it."""
    return [_shape_of(part) for message in messages for part in _parts(message)]


def _shape_of(value: Any) -> Any:
    if isinstance(value, str):
        return NUMBERS.sub("0", value)
    if isinstance(value, dict):
        return [(_shape_of(key), _shape_of(one)) for key, one in value.items()]
    if isinstance(value, (list, tuple)):
        return [_shape_of(one) for one in value]
    return 0 if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _other_shape(number: int, run: FilterRun, new: FilterRun) -> str:
    for what, ours, theirs in (("handed on", run.forwards, new.forwards), ("published", run.published, new.published)):
        if parts(ours) != parts(theirs):
            return otherwise(what, number, ours, theirs)
    return f"message {number + 1} {made(run)}, and a new filter {made(new)}"


def otherwise(what: str, number: int, ours: list[Message[Any]], theirs: list[Message[Any]]) -> str:
    """The first part in which what was handed on or published differs from what a new filter does."""
    for one, other in zip(ours, theirs, strict=False):
        for part, new in zip(_parts(one), _parts(other), strict=True):
            if _shape_of(part) != _shape_of(new):
                return f"it {what} {part!r} for message {number + 1}, and a new filter {what} {new!r}"
    return f"it {what} {counted(len(ours), 'message')} for message {number + 1}, and a new filter {what} {len(theirs)}"


def _parts(message: Message[Any]) -> Iterator[Any]:
    yield str(message.subject)
    yield message.body
    yield dict(message.headers)
    yield {"key": message.key, "ttl": message.ttl}

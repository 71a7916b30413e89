"""
The laws that every filter must keep, built in or your own.

A law is a function of a `Case` (a way to make new filters, and messages) that yields what is wrong, if anything; only the first
thing is read. Each law sends several messages through one filter, and the rest of the chain does all that it may do: it accepts
a message, drops it, fails, refuses it, or ends with an exception that is not an error. `check_filter` tries each law on many
messages, and shows the smallest that break one.
"""

import copy
import itertools
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, Final, Literal, NamedTuple

import msgspec

from pipebus.errors import ContractError
from pipebus.foreign.objects import text_of
from pipebus.message.headers import frozen_headers
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Handled, Receipt
from pipebus.testing.alone.run import FilterRun
from pipebus.testing.harness.words import times
from pipebus.testing.laws.apart import keeps_messages_apart
from pipebus.testing.laws.case import CORRELATION, KNOWN, Case, Ending, Problems, Tested, digest, made, picture, same
from pipebus.testing.laws.concurrency import is_safe_under_concurrency
from pipebus.testing.laws.settings import describes_itself, settings_round_trip
from pipebus.testing.laws.surroundings import (
    blocks_no_loop,
    leaves_nothing_behind,
    publishes_not_through_itself,
    works_on_every_loop,
)

ORDINARY: Final[tuple[Ending, ...]] = ("accepts", "drops", "fails", "refuses")
STOPPED: Final[tuple[Ending, ...]] = ("is cancelled", "is interrupted", "exits", "is stopped")

RESERVED: Final = {"pipebus-test": "kept"}
"""A reserved header, as a message from a transport may have."""

OWN: Final = {"test-header": "kept"}
"""A header that no filter knows."""


def mutates_nothing(case: Case) -> Problems:
    """It does not change the body that it got, because others read the same body."""
    try:
        before = {message.id: picture(copy.deepcopy(message.body)) for message in case.messages()}
    except Exception:
        return
    for colour in case.colours:
        # A body that is not equal to its own copy cannot show a change.
        sent = [message for message in case.messages() if same(picture(message.body), before[message.id])]
        seen: list[tuple[Any, Any]] = []

        def look(_: Any, sent: list[Message[Any]] = sent, seen: list[Any] = seen) -> None:
            """Called while the rest runs too: the filter may undo the change on the way out."""
            for one in sent:
                now = picture(one.body)
                if not same(now, before[one.id]):
                    seen.append((before[one.id], copy.deepcopy(now)))

        for one in case.sends(*ORDINARY, "is stopped", colour=colour, messages=sent, look=look):
            look(one)
            if seen:
                yield f"the body that it was given has changed: it was {seen[0][0]!r}, and is {seen[0][1]!r}; change a copy"


def runs_the_rest_as_declared(case: Case) -> Problems:
    """It runs the rest at most as often as it declares (`passes`, 1 by default)."""
    most = case.most_passes()
    for one in itertools.chain(case.sends(*ORDINARY), case.sends(*KNOWN, messages=case.messages()[:2])):
        calls = one.run.next_calls
        if most is not None and calls > most:
            when = "" if one.ending in ORDINARY else f" when the rest {one.ending}"
            yield (
                f"it ran the rest {times(calls)}{when}, and declares passes={most}; run it once, or set the attribute "
                "`passes` of the class or function to the most, or to None"
            )


def lets_cancellation_through(case: Case) -> Problems:
    """An exception that ends the rest comes out of the filter as the same object; otherwise nothing could be stopped."""
    for _, run, ends in case.sends(*STOPPED):
        if not ends:
            continue
        ended = f"the rest was ended by {type(ends[0]).__name__}, and the filter"
        if len(ends) > 1:
            yield f"{ended} ran it again; catch Exception instead"
        renewed = isinstance(ends[0], CancelledError) and isinstance(run._error, CancelledError)  # as a task of its own does
        if run._error is not ends[0] and not renewed:
            yield f"{ended} {made(run)}; catch Exception, or raise it again"


def lets_errors_through(case: Case) -> Problems:
    """An error of the rest that the filter does not know comes out as the same object."""
    for _, run, ends in itertools.chain(case.sends("fails"), case.sends("refuses", *KNOWN, messages=case.messages()[:2])):
        if ends and not any(run._error is one for one in ends):
            yield (
                f"the rest raised {type(ends[-1]).__name__}, and the filter {made(run)}; let it pass, or raise it "
                'again; if it is meant to end here, skip={"lets errors through": "…"}'
            )


def lets_a_failed_message_come_again(case: Case) -> Problems:
    """It does not take a message for one that it knows if the rest has failed with it: then it would be lost."""

    def again(colour: str, ending: Ending, other: bool) -> bool:
        """Whether the message, or another one, reaches the rest after the rest has failed with it."""
        failed, second = case.numbered(2)
        with case.bench(colour) as bench:
            if not case.send(bench, failed, case.ending(ending)).forwards or not bench.harness.usable:
                return True
            return bool(case.send(bench, second if other else case.numbered(1)[0], case.ending("accepts")).forwards)

    for colour, ending in itertools.product(case.colours, ("fails", "is cancelled")):
        lost = not any(again(colour, ending, other=False) for _ in range(6))  # not by chance
        if lost and all(again(colour, ending, other=True) for _ in range(4)) and not again(colour, ending, other=False):
            yield (
                f"the rest {ending}, and when the same message came again the filter {made(case.runs[-1])} without running the "
                "rest, so it is lost; forget a message if the rest raises, or remember it after the rest"
            )


def repeats_no_refusal(case: Case) -> Problems:
    """It does not run the rest again with a message that the rest has refused: it would be refused again."""
    for _, run, _ in case.sends("refuses"):
        passed = [(one.subject, one.body, one.headers) for one in run.forwards]
        if any(same(one, passed[0]) for one in passed[1:]):
            yield "the rest refused a message (Rejected), and the filter ran it again with the same one; let Rejected pass"


def keeps_the_outcome(case: Case) -> Problems:
    """It does not call a dropped message accepted, nor the reverse, and makes up no receipt."""
    remedy = "return the outcome of the rest"
    for _, run, ends in case.sends("drops"):
        if ends and isinstance(run._outcome, (Receipt, Handled)):
            yield f"the rest dropped the message, and the filter returned {run._outcome!r}; {remedy}"
    for _, run, ends in case.sends("accepts", alike=True) if case.at == "publish" else ():
        if len(ends) == 1 and isinstance(run._outcome, (Receipt, Dropped)) and not same(run._outcome, ends[0]):
            yield f"the rest returned {ends[0]!r}, and the filter {run._outcome!r}; {remedy}"


def is_the_same_in_both_colours(case: Case) -> Problems:
    """It does the same in a sync chain and in an async one."""

    def digests(colour: str) -> list[dict[str, Any]]:
        return [digest(one.run) for one in case.sends("accepts", "drops", "fails", colour=colour)]

    sync, once_more, asynchronous = digests("sync"), digests("sync"), digests("async")
    for one, again, other in zip(sync, once_more, asynchronous, strict=False):
        if case.tested.ends_freely and Dropped in {type(found["the outcome"]) for found in (one, again, other)}:
            continue  # perhaps by chance
        for name in one:
            if same(one[name], again[name]) and not same(one[name], other[name]):
                yield f"{name} differs: {one[name]!r} in a sync chain, {other[name]!r} in an async one"


def keeps_the_envelope(case: Case) -> Problems:
    """What it passes on is still the same message: it loses no part of the envelope and no header, and it keeps the id."""
    sent = [
        msgspec.structs.replace(
            given,
            headers=frozen_headers({**given.headers, **RESERVED, **OWN}),
            correlation_id=given.correlation_id or CORRELATION,
            key=given.key or "test-key",
            ttl=given.ttl or 3600.0,
        )
        for given in case.messages()
    ]
    for _, run, _ in case.sends("accepts", "fails", messages=sent):
        for forward in run.forwards:
            yield from _lost(run.message, forward)


def _lost(given: Message[Any], forward: Message[Any]) -> Problems:
    for name in ("id", "correlation_id", "reply_to", "time"):
        if getattr(forward, name) != getattr(given, name):
            yield f"it handed on {name}={getattr(forward, name)!r} where it was given {getattr(given, name)!r}"
    remedy = "message.with_headers(…) and with_body(…) keep what is there"
    for what, kept in (("reserved header", RESERVED), ("header", OWN)):
        if any(forward.headers.get(name) != value for name, value in kept.items()):
            yield f"it lost the {what} {kept}; {remedy}"
    for name in ("key", "ttl"):
        if getattr(forward, name) is None:
            yield f"it lost the {name}; {remedy}"


def returns_an_outcome(case: Case) -> Problems:
    """It keeps the contract of its shape: it passes on messages and returns outcomes."""
    for _, run, _ in case.sends("accepts", "drops"):
        if isinstance(run._error, ContractError):
            yield text_of(run._error)


def restores_the_context(case: Case) -> Problems:
    """It resets the context variables that it sets, however the rest ends; otherwise they would leak to the publisher."""
    for ending, run, _ in case.sends(*ORDINARY, "is cancelled", "is stopped"):
        if run.leaks:
            when = "" if ending == "accepts" else f" when the rest {ending}"
            yield f"it left context variable {run.leaks[0]} changed{when}; reset it in a `finally`, with the token of `set`"


def keeps_its_word(case: Case) -> Problems:
    """`deterministic`: the same message has the same result twice. `idempotent`: what it passed on does not change again."""
    steps = case.tested.steps
    if all(step.traits.deterministic for step in steps):
        with case.bench() as bench:
            first, second = (case.send(bench, case.messages()[0]) for _ in range(2))
        for name, one in digest(first).items():
            if not same(one, digest(second)[name]):
                yield f"it declares deterministic = True, but {name} was {one!r}, then {digest(second)[name]!r}"
    if all(step.traits.idempotent for step in steps):
        with case.bench() as bench:
            once = case.send(bench, case.messages()[0])
            twice = case.send(bench, once.forwarded) if once.forwarded is not None else once
        if twice.forwarded != once.forwarded:
            yield f"it declares idempotent = True, but made {once.forwarded!r} of the message, and of that {twice.forwarded!r}"


def starts_again(case: Case) -> Problems:
    """After a stop and another start it works, either as if it had gone on or as if it were new."""

    def lives() -> tuple[FilterRun, FilterRun]:
        """The runs of the same message as the second one through a filter, and as the first one through another."""
        message, other, *_ = case.messages()
        with case.bench() as bench:
            case.send(bench, message)
            second = case.send(bench, other)
        with case.bench() as bench:
            return second, case.send(bench, other)

    (went_on, began), (_, once_more) = lives(), lives()
    message, other, *_ = case.messages()
    try:
        with case.bench() as bench:
            case.send(bench, message)
            bench.restart()
            again = case.send(bench, other)
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
    """
    A law and its name, and what it is tried on: many messages, some of one subject with different bodies, or a few.

    Args:
        applies: Whether it says anything about a filter.
    """

    name: str
    holds: Callable[[Case], Problems]
    on: Literal["each", "several", "filter"] = "each"
    applies: Callable[[Tested], bool] = lambda tested: True


def _runs_on_a_loop(tested: Tested) -> bool:
    return "async" in tested.colours


def _gives_its_word(tested: Tested) -> bool:
    traits = [step.traits for step in tested.steps]
    return all(one.deterministic for one in traits) or all(one.idempotent for one in traits)


def _has_settings(tested: Tested) -> bool:
    return any(is_dataclass(step.filter) for step in tested.steps)


LAWS: Final = (
    Law("leaves nothing behind", leaves_nothing_behind, "filter"),
    Law("mutates nothing", mutates_nothing),
    Law("runs the rest as declared", runs_the_rest_as_declared),
    Law("lets cancellation through", lets_cancellation_through),
    Law("lets errors through", lets_errors_through),
    Law("lets a failed message come again", lets_a_failed_message_come_again, "several"),
    Law("repeats no refusal", repeats_no_refusal),
    Law("is the same in both colours", is_the_same_in_both_colours, applies=lambda tested: len(tested.colours) > 1),
    Law("keeps the envelope", keeps_the_envelope),
    Law("returns an outcome", returns_an_outcome),
    Law("keeps the outcome", keeps_the_outcome),
    Law("restores the context", restores_the_context),
    Law("works on every loop", works_on_every_loop, "filter", _runs_on_a_loop),
    Law("keeps messages apart", keeps_messages_apart, "several"),
    Law("is safe under concurrency", is_safe_under_concurrency, "several"),
    Law("keeps its word", keeps_its_word, applies=_gives_its_word),
    Law("starts again", starts_again),
    Law("blocks no loop", blocks_no_loop, "filter", _runs_on_a_loop),
    Law("does not publish through itself", publishes_not_through_itself, "filter"),
    Law("describes itself", describes_itself, "filter"),
    Law("settings round-trip", settings_round_trip, "filter", _has_settings),
)
"""In the order in which they are tried. (A filter that breaks the first leaves more behind each time.)"""

"""run_filter: one filter alone, of any shape and colour, with a script in place of what follows it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import io
import logging
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
import structlog

from flow_helpers import WAIT, InThread
from pipebus import (
    Actor,
    Around,
    Bus,
    Call,
    ContractError,
    Dropped,
    Handled,
    LifecycleError,
    Message,
    NoResponder,
    Pause,
    Pipeline,
    PipelineError,
    Receipt,
    Rejected,
    Transform,
    around,
    branch,
    transform,
    when,
)
from pipebus.filters import Dedupe, Expire, Log, Reroute, Retry, SetHeaders, Tap, Timeout, Validate
from pipebus.testing import FilterRun, Harness, ScriptEnded, after, run_filter
from tables import table

pytest_plugins = ["pytester"]

Act = Callable[[Message], Any]
"""What a filter does on the way in: the message to hand on, or `Dropped`; or it raises."""


# --- every shape in every colour ---------------------------------------------------------------------------------------


def plain(act: Act) -> Any:
    def filter(message, call_next):
        found = act(message)
        return found if isinstance(found, Dropped) else call_next(found)

    return filter


def aplain(act: Act) -> Any:
    async def filter(message, call_next):
        await asyncio.sleep(0)
        found = act(message)
        return found if isinstance(found, Dropped) else await call_next(found)

    return filter


class Plain:
    """A callable object."""

    def __init__(self, act: Act) -> None:
        self.filter = plain(act)

    def __call__(self, message, call_next):
        return self.filter(message, call_next)


class AsyncPlain:
    """A callable object, async."""

    def __init__(self, act: Act) -> None:
        self.filter = aplain(act)

    async def __call__(self, message, call_next):
        return await self.filter(message, call_next)


def partial_of(act: Act) -> Any:
    def filter(what, message, call_next):
        return plain(what)(message, call_next)

    return functools.partial(filter, act)


class Changing(Transform):
    """A Transform with a class of its own."""

    def __init__(self, act: Act) -> None:
        self.act = act

    def transform(self, message):
        return self.act(message)


class Going(Around):
    """An Around with a class of its own."""

    def __init__(self, act: Act) -> None:
        self.act = act

    def around(self, message):
        found = self.act(message)
        return found if isinstance(found, Dropped) else (yield found)


def made_transform(act: Act) -> Any:
    @transform
    def filter(message):
        return act(message)

    return filter


def made_around(act: Act) -> Any:
    @around
    def filter(message):
        found = act(message)
        return found if isinstance(found, Dropped) else (yield found)

    return filter


class Asked(Actor):
    """An actor that is asked as a filter."""

    def __init__(self, act: Act) -> None:
        super().__init__("filter")
        self.act = act

    def filter(self, message):
        return self.act(message)


class AsyncAsked(Asked):
    """A filter actor on a loop."""

    async def filter(self, message):
        await asyncio.sleep(0)
        return self.act(message)


class Shape(NamedTuple):
    """A shape in a colour, and the name by which the filter is known."""

    make: Callable[[Act], Any]
    colour: Any
    name: str = "filter"


SHAPES = {
    "plain": Shape(plain, "sync"),
    "plain-async": Shape(aplain, "async"),
    "object": Shape(Plain, "sync", "Plain"),
    "object-async": Shape(AsyncPlain, "async", "AsyncPlain"),
    "partial": Shape(partial_of, "sync"),
    "transform-in-sync": Shape(made_transform, "sync"),
    "transform-in-async": Shape(made_transform, "async"),
    "Transform-in-sync": Shape(Changing, "sync", "Changing"),
    "Transform-in-async": Shape(Changing, "async", "Changing"),
    "around-in-sync": Shape(made_around, "sync"),
    "around-in-async": Shape(made_around, "async"),
    "Around-in-sync": Shape(Going, "sync", "Going"),
    "Around-in-async": Shape(Going, "async", "Going"),
    "actor-in-sync": Shape(Asked, "sync"),
    "actor-in-async": Shape(Asked, "async"),
    "async-actor-in-sync": Shape(AsyncAsked, "sync"),
    "async-actor-in-async": Shape(AsyncAsked, "async"),
}

NO_ACTORS = {id: shape for id, shape in SHAPES.items() if "actor" not in id}

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
every_shape_but_actors = pytest.mark.parametrize("shape", NO_ACTORS.values(), ids=NO_ACTORS)
both_colours = pytest.mark.parametrize("colour", ["sync", "async"])
both_sides = pytest.mark.parametrize("at", ["publish", "delivery"])


def stamp(message):
    return message.with_headers(seen="yes")


def refuse(message):
    raise Rejected("not today")


def boom(message):
    raise ValueError("boom")


def passing(message, call_next):
    return call_next(message)


async def apassing(message, call_next):
    return await call_next(message)


@transform
def same(message):
    return message


@around
def once(message):
    return (yield message)


def passing_in(colour: str) -> Any:
    """A plain filter of this colour."""
    return passing if colour == "sync" else apassing


def steps(run: FilterRun) -> list[tuple[str, str]]:
    """Return who did what, without the times."""
    return [(moment.who, moment.what) for moment in run.moments]


def names(error: BaseException | None) -> list[str]:
    """The functions of an error's traceback, the outermost first."""
    assert error is not None
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


@every_shape
def test_a_filter_hands_on_what_it_has_made_of_the_message(shape):
    """The run shows what the filter was given, what it handed on and what came back, whatever its shape."""
    given = Message("orders.placed", {"sku": "tea"})
    run = run_filter(shape.make(stamp), given, next=Receipt(3), colour=shape.colour)

    assert run.message is given
    assert run.outcome == Receipt(3)
    assert run.forwarded == given.with_headers(seen="yes")
    assert run.forwards == [run.forwarded]
    assert run.next_calls == 1
    assert (run.error, run.dropped, run.elapsed, run.pauses, run.published, run.leaks) == (
        None, None, 0.0, [], [], (),
    )  # fmt: skip


@every_shape
def test_a_drop_is_the_filters_by_name(shape):
    """The rest is not run; the outcome says why, and which filter dropped it."""
    run = run_filter(shape.make(lambda message: Dropped("late")), 1, colour=shape.colour)

    assert run.outcome == Dropped("late", by=shape.name)
    assert run.dropped == "late"
    assert (run.forwarded, run.forwards, run.next_calls) == (None, [], 0)


@every_shape
def test_a_refusal_is_the_filters_by_name(shape):
    """The refusal is in `error`, and `outcome` raises the same object."""
    run = run_filter(shape.make(refuse), 1, colour=shape.colour)

    assert isinstance(run.error, Rejected)
    assert run.error.by == shape.name
    with pytest.raises(Rejected) as caught:
        run.outcome
    assert caught.value is run.error
    assert (run.dropped, run.next_calls) == (None, 0)


@every_shape
def test_the_order_of_events_is_the_order_of_the_story(shape):
    """The order is in, the rest, out, for each shape."""
    run = run_filter(shape.make(stamp), 1, colour=shape.colour)
    who = [moment.who for moment in run.moments]

    assert who[0] == shape.name
    assert "next #1" in who
    assert run.moments[0].what == "is given test 1"
    assert ("next #1", "is given test 1 headers {'seen': 'yes'}") in steps(run)
    assert ("next #1", "gives Receipt(1)") in steps(run)


@every_shape
def test_a_body_is_sent_to_the_subject_test(shape):
    """A test for a filter that looks only at the body needs to write only a body."""
    run = run_filter(shape.make(stamp), {"sku": "tea"}, colour=shape.colour)

    assert run.message.subject == "test"
    assert run.message.body == {"sku": "tea"}


@every_shape
@both_sides
def test_by_default_the_rest_accepts(shape, at):
    """The rest returns a receipt for one mailbox on the publish side, and a handler's None on the delivery side."""
    run = run_filter(shape.make(stamp), 1, at=at, colour=shape.colour)

    assert run.outcome == (Receipt(1) if at == "publish" else Handled(None))


@every_shape
def test_the_same_filter_may_be_run_again(shape):
    """A run leaves nothing in the filter that the filter did not put there."""
    filter = shape.make(stamp)
    first, second = (run_filter(filter, number, colour=shape.colour) for number in (1, 2))

    assert (first.outcome, second.outcome) == (Receipt(1), Receipt(1))
    assert (first.forwarded.body, second.forwarded.body) == (1, 2)
    assert steps(first)[1:] != steps(second)[1:]
    assert len(first.moments) == len(second.moments)


@pytest.mark.parametrize(
    ("filter", "next", "colour"),
    [(passing, None, "sync"), (apassing, None, "async"), (same, None, "sync"), (once, None, "sync")],
    ids=["plain", "async", "transform", "around"],
)
def test_the_colour_is_found_out(filter, next, colour):
    """A filter that can be both runs as sync, and an async one as async, without a setting."""
    on_a_loop = []

    def look(message):
        on_a_loop.append(asyncio._get_running_loop() is not None)
        return Receipt(1)

    assert run_filter(filter, 1, next=look).outcome == Receipt(1)
    assert on_a_loop == [colour == "async"]


def test_one_async_filter_makes_the_whole_chain_async():
    """The whole chain runs as async, as it would on a bus."""
    run = run_filter(Pipeline(same, once, apassing, SetHeaders({"a": "b"})), 1)

    assert run.outcome == Receipt(1)
    assert run.forwarded.headers == {"a": "b"}


def test_an_async_rest_makes_a_filter_of_both_colours_async():
    """`next=` may be an `async def`, and its waits take no time."""

    async def slow(message):
        await asyncio.sleep(3600)
        return Receipt(7)

    run = run_filter(once, 1, next=slow)

    assert (run.outcome, run.elapsed) == (Receipt(7), 3600.0)


# --- chains and forks --------------------------------------------------------------------------------------------------

CHAINS: dict[str, tuple[Any, Message, dict[str, str], list[str]]] = {
    "pipeline": (Pipeline(same, SetHeaders({"a": "1"}), once), Message("x"), {"a": "1"}, ["same", "SetHeaders", "once"]),
    "empty pipeline": (Pipeline(), Message("x"), {}, []),
    "nested": (Pipeline(Pipeline(same, Pipeline(SetHeaders({"a": "1"}))), once), Message("x"), {"a": "1"},
     ["same", "SetHeaders", "once"]),
    "when by pattern": (when("orders.>", SetHeaders({"a": "1"})), Message("orders.eu"), {"a": "1"}, ["SetHeaders"]),
    "when not taken": (when("orders.>", SetHeaders({"a": "1"})), Message("bills.eu"), {}, []),
    "when by predicate": (when(lambda m: m.body > 1, SetHeaders({"a": "1"})), Message("x", 2), {"a": "1"}, ["SetHeaders"]),
    "when predicate says no": (when(lambda m: m.body > 1, SetHeaders({"a": "1"})), Message("x", 1), {}, []),
    "when goes on": (Pipeline(when("x", SetHeaders({"a": "1"})), same), Message("x"), {"a": "1"}, ["SetHeaders", "same"]),
    "branch leaves": (Pipeline(branch("x", SetHeaders({"a": "1"})), same), Message("x"), {"a": "1"}, ["SetHeaders"]),
    "branch not taken": (Pipeline(branch("y", SetHeaders({"a": "1"})), same), Message("x"), {}, ["same"]),
    "branch alone": (branch(lambda m: True, SetHeaders({"a": "1"})), Message("x"), {"a": "1"}, ["SetHeaders"]),
    "the same filter twice": (Pipeline(same, same), Message("x"), {}, ["same", "same"]),
}  # fmt: skip


@pytest.mark.parametrize(("chain", "message", "headers", "met"), CHAINS.values(), ids=CHAINS)
@both_colours
def test_a_chain_is_run_as_one_filter(chain, message, headers, met, colour):
    """Pipelines, detours and branches are filters too, and the story lists each filter that the message met, in order."""
    run = run_filter(chain, message, colour=colour)

    assert run.outcome == Receipt(1)
    assert dict(run.forwarded.headers) == headers
    assert [moment.who for moment in run.moments if moment.what.startswith("is given")] == [*met, "next #1"]


@both_colours
def test_a_reroute_goes_on_with_what_is_registered_for_the_new_subject(colour):
    """Detours behind a reroute are decided for the new subject."""
    chain = Pipeline(
        Reroute("orders.{body.region}"), when("orders.eu", SetHeaders({"vat": "yes"})), when("raw", SetHeaders({"vat": "no"}))
    )
    run = run_filter(chain, Message("raw", {"region": "eu"}), colour=colour)

    assert run.forwarded.subject == "orders.eu"
    assert run.forwarded.headers == {"vat": "yes"}


@both_colours
def test_a_reroute_that_cannot_be_is_refused(colour):
    """The run's error is the one that the reroute raises."""
    run = run_filter(Reroute("orders.{body.region}"), Message("raw", {}), colour=colour)

    assert isinstance(run.error, Rejected)
    assert "there is no body.region" in str(run.error)
    assert run.next_calls == 0


def test_a_filter_may_not_reroute_without_saying_so():
    """The error names the filter that changed the subject, as on a bus."""

    def sly(message, call_next):
        return call_next(msgspec.structs.replace(message, subject="other"))

    run = run_filter(Pipeline(passing, sly, passing), 1)

    assert "filter sly changed the subject from 'test' to 'other'" in str(run.error)
    assert run.next_calls == 0


# --- the script --------------------------------------------------------------------------------------------------------


async def agive(message):
    await asyncio.sleep(0)
    return Receipt(5)


class Gives:
    def __call__(self, message):
        return Receipt(message.body)


SCRIPTS: dict[str, tuple[Any, Any]] = {
    "nothing": (None, Receipt(1)),
    "a receipt": (Receipt(0), Receipt(0)),
    "a duplicate": (Receipt(1, duplicate=True), Receipt(1, duplicate=True)),
    "a drop": (Dropped("full", by="later"), Dropped("full", by="later")),
    "a list": ([Receipt(4)], Receipt(4)),
    "a list of nothing": ([None], Receipt(1)),
    "a list that is longer": ([Receipt(4), ConnectionError()], Receipt(4)),
    "a function": (lambda message: Receipt(message.body), Receipt(9)),
    "a function that gives nothing": (lambda message: None, Receipt(1)),
    "a function that gives a function": (lambda message: lambda again: Receipt(again.body + 1), Receipt(10)),
    "a function that takes time": (lambda message: after(1, Receipt(2)), Receipt(2)),
    "a function in a list": ([lambda message: Receipt(message.body)], Receipt(9)),
    "a callable object": (Gives(), Receipt(9)),
    "after": (after(1, Receipt(3)), Receipt(3)),
    "after, nothing": (after(1), Receipt(1)),
    "after after": (after(1, after(2, Dropped("slow", by="later"))), Dropped("slow", by="later")),
    "after, a function": (after(1, lambda message: Receipt(message.body)), Receipt(9)),
}


@pytest.mark.parametrize(("next", "outcome"), SCRIPTS.values(), ids=SCRIPTS)
@both_colours
def test_next_says_what_the_rest_does(next, outcome, colour):
    """`next` may be a value, a list of values, a function of the message, or any of these after some time."""
    run = run_filter(passing_in(colour), 9, next=next)

    assert run.error is None
    assert run.outcome == outcome


ASYNC_SCRIPTS: dict[str, Any] = {
    "async function": agive,
    "in a list": [agive],
    "after": after(1, agive),
    "partial": functools.partial(agive),
    "object": type("AsyncGives", (), {"__call__": lambda self, message: agive(message), "colour": "async"})(),
}


@table("next", ASYNC_SCRIPTS.values(), ids=ASYNC_SCRIPTS)
def test_next_may_be_async(next):
    """The filter then runs in an async chain, if it can."""
    assert run_filter(apassing, 1, next=next).outcome == Receipt(5)
    assert run_filter(once, 1, next=next).outcome == Receipt(5)


@every_shape
def test_a_drop_of_the_rest_is_not_the_filters(shape):
    """This also holds if the script does not name who dropped it."""
    run = run_filter(shape.make(stamp), 1, next=Dropped("full"), colour=shape.colour)

    assert run.dropped == "full"
    assert run.outcome.by != shape.name


DELIVERED: dict[str, tuple[Any, Any]] = {
    "nothing": (None, Handled(None)),
    "a number": (5, Handled(5)),
    "a text": ("done", Handled("done")),
    "false": (False, Handled(False)),
    "handled": (Handled("x"), Handled("x")),
    "a drop": (Dropped("no", by="later"), Dropped("no", by="later")),
    "a list": (["first", "second"], Handled("first")),
    "a list in a list": ([["a", "b"]], Handled(["a", "b"])),
    "a function": (lambda message: message.body, Handled(9)),
    "a receipt that a handler returns": (Receipt(2), Handled(Receipt(2))),
    "a type that is no error": (int, Handled(int)),
}


@pytest.mark.parametrize(("next", "outcome"), DELIVERED.values(), ids=DELIVERED)
@both_colours
def test_next_may_be_any_value_around_a_handler(next, outcome, colour):
    """With at="delivery", the rest is the handler and the outcome is `Handled`."""
    assert run_filter(passing_in(colour), 9, next=next, at="delivery").outcome == outcome


ERRORS: dict[str, tuple[Any, type[BaseException]]] = {
    "an object": (ConnectionError("down"), ConnectionError),
    "a class": (ConnectionError, ConnectionError),
    "in a list": ([ConnectionError("down")], ConnectionError),
    "after": (after(2, ConnectionError("down")), ConnectionError),
    "returned by a function": (lambda message: ConnectionError("down"), ConnectionError),
    "raised by a function": (lambda message: 1 / 0, ZeroDivisionError),
    "cancelled": (asyncio.CancelledError("stop"), asyncio.CancelledError),
    "interrupt": (KeyboardInterrupt("ctrl-c"), KeyboardInterrupt),
    "exit": (SystemExit(3), SystemExit),
    "generator exit": (GeneratorExit(), GeneratorExit),
    "base": (BaseException("all"), BaseException),
    "time-out": (TimeoutError("theirs"), TimeoutError),
    "stop async": (StopAsyncIteration("over"), StopAsyncIteration),
}


@pytest.mark.parametrize(("next", "kind"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("filter", [passing, apassing, same, once], ids=["plain", "async", "transform", "around"])
def test_an_error_of_the_rest_passes_as_the_same_object(filter, next, kind):
    """An error that is not an `Exception` is returned too, so that the test sees it and is not ended by it."""
    run = run_filter(filter, 1, next=next)

    assert type(run.error) is kind
    if isinstance(next, BaseException):
        assert run.error is next
    assert run.next_calls == 1
    assert run.moments[-1].who != "next #1"
    assert run.moments[-1].what == f"lets {kind.__name__} pass"


@both_colours
def test_a_stop_iteration_of_the_rest_is_no_secret_end(colour):
    """A coroutine cannot raise it, so it becomes a RuntimeError from the rest, as everywhere in Python."""
    run = run_filter(passing_in(colour), 1, next=StopIteration("over"))

    assert isinstance(run.error, StopIteration if colour == "sync" else RuntimeError)
    if colour == "async":
        assert isinstance(run.error.__cause__, StopIteration)
        assert run.moments[-1].what == "lets RuntimeError pass"  # the filter has raised nothing


@both_colours
def test_each_run_of_the_rest_takes_the_next_of_the_list(colour):
    """The outcomes are used in order, and unused ones are allowed: `next_calls` says how often the rest ran."""
    run = run_filter(
        Retry(attempts=3, wait=0.5, jitter=0),
        1,
        next=[ConnectionError("a"), ConnectionError("b"), Receipt(2), Receipt(5)],
        colour=colour,
    )

    assert run.outcome == Receipt(2)
    assert (run.next_calls, run.pauses, run.elapsed) == (3, [0.5, 1.0], 1.5)


def test_a_list_is_not_used_up():
    """The next run gets the same results from the same list."""
    script = [ConnectionError("down"), Receipt(2)]
    outcomes = [run_filter(Retry(jitter=0), 1, next=script).outcome for _ in range(2)]

    assert outcomes == [Receipt(2), Receipt(2)]
    assert len(script) == 2


@pytest.mark.parametrize(
    ("given", "made", "told"), [([], 1, "0 outcomes"), ([Receipt(1)], 2, "1 outcome"), ([Receipt(1)] * 2, 3, "2 outcomes")]
)
@both_colours
def test_a_list_that_is_too_short_is_told(given, made, told, colour):
    """The test fails with both numbers, whether the test is wrong or the filter runs the rest too often."""

    def often(message):
        for _ in range(made):
            outcome = yield message
        return outcome

    with pytest.raises(ScriptEnded) as caught:
        run_filter(around(often), 1, next=given, colour=colour)

    assert isinstance(caught.value, AssertionError)
    assert told in str(caught.value)
    assert ("once" if made == 1 else f"{made} times") in str(caught.value)


@both_colours
def test_a_filter_cannot_swallow_the_end_of_the_list(colour):
    """A filter that catches every error still fails the test."""

    @around
    def swallows(message):
        try:
            return (yield message)
        except BaseException:
            return Dropped("never mind")

    with pytest.raises(ScriptEnded):
        run_filter(swallows, 1, next=[], colour=colour)


async def coroutine_function(message):
    return Receipt(1)


WRONG_NEXT: dict[str, tuple[Any, str]] = {
    "number": (5, "publish"),
    "true": (True, "publish"),
    "text": ("ok", "publish"),
    "tuple": ((Receipt(1),), "publish"),
    "the class": (Receipt, "publish"),
    "the other side's": (Handled(1), "publish"),
    "iterator": (iter([Receipt(1)]), "publish"),
    "list in a list": ([[Receipt(1)]], "publish"),
    "list after": (after(1, [Receipt(1)]), "publish"),
    "second of a list": ([Receipt(1), 5], "publish"),
    "function of nothing": (lambda: Receipt(1), "publish"),
    "function of two": (lambda message, call_next: Receipt(1), "publish"),
    "function that gives a number": (lambda message: 5, "publish"),
    "hidden coroutine": (lambda message: coroutine_function(message), "publish"),
    "hidden coroutine around a handler": (lambda message: coroutine_function(message), "delivery"),
}


@pytest.mark.parametrize(("next", "at"), WRONG_NEXT.values(), ids=WRONG_NEXT)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_next_that_is_no_outcome_is_the_tests_mistake(next, at):
    """The error is raised at once, and the filter cannot catch it as an error of the rest."""

    @around
    def swallows(message):
        try:
            outcome = yield message
            outcome = yield message
        except Exception:
            return Dropped("never mind")
        return outcome

    with pytest.raises(PipelineError, match="next"):
        run_filter(swallows, 1, next=next, at=at)
    gc.collect()  # a coroutine that was made and not awaited says so here


def test_a_coroutine_that_next_hides_is_asked_to_show_itself():
    """A lambda that calls an `async def` looks sync, so the error says how to write it."""
    with pytest.raises(PipelineError, match="async"):
        run_filter(once, 1, next=WRONG_NEXT["hidden coroutine"][0])


# --- wrong arguments ---------------------------------------------------------------------------------------------------


@table(
    ("filter", "options", "told"),
    [
        (5, {}, r"filter int \(position 1 of run_filter at .*\) is not callable"),
        (None, {}, "is not callable"),
        ([passing], {}, r"takes one filter; several are one chain, Pipeline\(first, second\)"),
        (Message("x"), {}, "takes the filter first, and then the message"),
        (Log, {}, r"is a class, not an instance; write Log\(\)"),
        (same.function, {}, "made a filter by @transform"),
        (once.function, {}, "decorate it with @around"),
        (type("Idle", (Actor,), {"on_message": lambda self, message: None})(), {}, "an actor that no message can pass through"),
        (passing, {"at": "nowhere"}, "at='nowhere'; it is \"publish\" or \"delivery\""),
        (passing, {"colour": "red"}, "colour='red'; it is \"sync\", \"async\" or None"),
        (passing, {"colour": "async"}, r"filter passing .* is a plain sync filter"),
        (apassing, {"colour": "sync"}, 'colour="sync", but a filter or `next` is async; leave `colour` out'),
        (same, {"colour": "sync", "next": agive}, 'colour="sync", but a filter or `next` is async'),
        (passing, {"next": agive}, r"filter passing .* is a plain sync filter, but `next` is async"),
        (Pipeline(passing, apassing), {}, "is a plain sync filter in a chain with the async filter apassing"),
        (Timeout(1), {}, "set abandon=True, or make the chain async"),
        (Reroute("a.b"), {"at": "delivery"}, "changes subjects, which only a publish filter may"),
        (Pipeline(same, on_error="reject"), {"at": "delivery"}, 'has on_error="reject", but nobody waits for a delivery'),
    ],
    ids=[
        "number", "none", "list", "a message", "class", "transform undecorated", "around undecorated", "actor without filter",
        "side", "colour", "sync as async", "async as sync", "sync with async next", "plain with async next", "mixed chain",
        "time-out in sync", "reroute at delivery", "reject at delivery",
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_in_the_words_of_use(filter, options, told):
    """The message is that of `bus.use`, and names the filter and this line of the test."""
    with pytest.raises(PipelineError, match=told) as caught:
        run_filter(filter, 1, **options)
    if "position" in str(caught.value):
        assert "test_run_filter.py" in str(caught.value)


def test_a_time_that_cannot_be_is_refused():
    """`after` takes seconds, as every other time does."""
    for seconds in (-1, "1", None, float("nan"), True):
        with pytest.raises(PipelineError, match=r"^after=.*: it is"):
            after(seconds)  # type: ignore[arg-type]


def test_nothing_is_left_behind_by_a_refusal():
    """The next run after a mistake is as good as the first."""
    with pytest.raises(PipelineError):
        run_filter(5, 1)
    with pytest.raises(PipelineError):
        run_filter(Timeout(1), 1)
    assert run_filter(passing, 1).outcome == Receipt(1)


# --- filters that do it wrong ------------------------------------------------------------------------------------------


def returns_nothing(message, call_next):
    call_next(message)


def never_calls(message, call_next):
    return None


def makes_up_an_outcome(message, call_next):
    return Receipt(5)


def returns_a_text(message, call_next):
    call_next(message)
    return "fine"


def hands_on_a_body(message, call_next):
    return call_next(message.body)


async def ahands_on_a_body(message, call_next):
    return await call_next(message.body)


async def forgets_to_wait(message, call_next):
    return call_next(message)


async def forgets_the_pass(message, call_next):
    call_next(message)
    return Receipt(1)


async def both_at_once(message, call_next):
    await asyncio.gather(call_next(message), call_next(message))


async def twice_the_same(message, call_next):
    one = call_next(message)
    await one
    return await one


@transform
def transforms_to_nothing(message):
    return None


@around
def ends_early(message):
    if message is None:
        yield message


@around
def yields_a_number(message):
    yield 5


@around
def waits_backwards(message):
    yield Pause(-1)


@around
def bounds_unasked(message):
    return (yield Call(message, timeout=1))


class AnswersNothing(Actor):
    def filter(self, message):
        return None


WRONG_FILTERS: dict[str, tuple[Any, str, int]] = {
    "returns nothing": (returns_nothing, "filter returns_nothing returned None where an outcome is due", 1),
    "never calls": (never_calls, "filter never_calls returned None where an outcome is due", 0),
    "returns a text": (returns_a_text, "filter returns_a_text returned 'fine' where an outcome is due", 1),
    "hands on a body": (hands_on_a_body, "filter hands_on_a_body handed on {'a': 1}, not a Message", 0),
    "async hands on a body": (ahands_on_a_body, "filter ahands_on_a_body handed on {'a': 1}, not a Message", 0),
    "forgets to wait": (forgets_to_wait, "write `await call_next(…)`", 0),
    "forgets the pass": (forgets_the_pass, "returned before its call_next(…) had finished", 0),
    "both at once": (both_at_once, "called call_next again before the previous pass had finished", 0),
    "twice the same": (twice_the_same, "awaited one call_next(…) twice", 1),
    "transforms to nothing": (transforms_to_nothing, "returned None where a Message or Dropped(reason) is due", 0),
    "ends early": (ends_early, "filter ends_early returned before any pass gave an outcome", 0),
    "yields a number": (yields_a_number, "filter yields_a_number yielded 5", 0),
    "waits backwards": (waits_backwards, "filter waits_backwards yielded Pause with seconds=-1: it is at least 0", 0),
    "bounds unasked": (bounds_unasked, "filter bounds_unasked yielded Call in a sync chain", 0),
    "actor answers nothing": (AnswersNothing(), "filter AnswersNothing returned None where a Message or Dropped(", 0),
}  # fmt: skip


@table(("filter", "told", "calls"), WRONG_FILTERS.values(), ids=WRONG_FILTERS)
def test_a_filter_that_breaks_its_contract_is_told_as_on_a_bus(filter, told, calls):
    """The error names the filter, says what it did and what to write instead."""
    run = run_filter(filter, {"a": 1})

    assert isinstance(run.error, PipelineError)
    assert told in str(run.error)
    assert run.next_calls == calls


def test_a_filter_may_answer_without_the_rest():
    """A filter such as a cache may return its own outcome."""
    run = run_filter(makes_up_an_outcome, 1)

    assert (run.outcome, run.next_calls, run.forwarded) == (Receipt(5), 0, None)


@both_colours
def test_a_filter_may_run_the_rest_as_often_as_it_likes(colour):
    """The run keeps each message that the filter hands on, in order."""

    @around
    def often(message):
        for number in range(100):
            outcome = yield message.with_body(number)
        return outcome

    run = run_filter(often, 1, next=lambda message: Receipt(message.body), colour=colour)

    assert [message.body for message in run.forwards] == list(range(100))
    assert run.forwarded is run.forwards[-1]
    assert (run.next_calls, run.outcome) == (100, Receipt(99))


RAISED = [asyncio.CancelledError("x"), GeneratorExit("x"), BaseException("x"), StopAsyncIteration("x")]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@every_shape_but_actors
def test_what_a_filter_raises_is_its_error_whatever_it_is(shape, error):
    """Cancellation is not a special case: the very object is in `error`, and the rest is not run."""

    def raises(message):
        raise error

    run = run_filter(shape.make(raises), 1, colour=shape.colour)

    assert run.error is error
    assert run.next_calls == 0
    assert run.moments[-1].who == shape.name


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@every_shape
def test_an_interrupt_of_the_filter_gets_out(shape, kind):
    """Ctrl-C while a filter runs ends the test run, and is not hidden in `error`."""

    def interrupted(message):
        raise kind("now")

    with pytest.raises(kind, match="now"):
        run_filter(shape.make(interrupted), 1, colour=shape.colour)
    assert run_filter(passing, 1).outcome == Receipt(1)


@every_shape
def test_a_stop_iteration_of_the_filter_is_an_error(shape):
    """It does not end a generator of ours by accident; where Python turns it into a RuntimeError, that is the error."""

    def stops(message):
        raise StopIteration("over")

    run = run_filter(shape.make(stops), 1, colour=shape.colour)

    assert isinstance(run.error, (StopIteration, RuntimeError))
    assert run.next_calls == 0


def test_a_filter_that_runs_the_rest_on_a_thread_of_its_own_is_told():
    """On a bus this works; here the error says why it cannot, and what to do."""

    def elsewhere(message, call_next):
        return InThread(call_next, message).result()

    with pytest.raises(RuntimeError, match="test this on a bus of its own, without a harness"):
        run_filter(elsewhere, 1)


# --- time --------------------------------------------------------------------------------------------------------------


@around
def waits_around(message):
    yield Pause(1)
    outcome = yield message
    yield Pause(0)
    yield Pause(2.5)
    return outcome


@both_colours
def test_pauses_are_noted_and_take_virtual_time(colour):
    """The pauses come in order, even those of zero, and the rest runs in between."""
    run = run_filter(waits_around, 1, next=after(4), colour=colour)

    assert run.pauses == [1, 0, 2.5]
    assert run.elapsed == 7.5
    assert [moment.time for moment in run.moments] == [0, 0, 1, 5, 5, 5, 7.5]


def test_what_a_filter_awaits_takes_virtual_time():
    """asyncio's sleeps, timeouts, task groups and threads work inside a filter."""

    async def busy(message, call_next):
        await asyncio.sleep(10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(3600)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(seconds, seconds)) for seconds in (3, 1)]
        found = await asyncio.to_thread(lambda: 7)
        return await call_next(message.with_body([found, *(task.result() for task in tasks)]))

    run = run_filter(busy, 1)

    assert run.outcome == Receipt(1)
    assert run.forwarded.body == [7, 3, 1]
    assert run.elapsed == 18


@both_colours
def test_the_clock_of_a_filter_is_virtual(colour):
    """A sleep by `context.clock` takes no time, and the same clock shows it."""
    seen = []

    class Clocked(Transform):
        def start(self, context):
            self.clock = context.clock

        def transform(self, message):
            began = self.clock.monotonic(), self.clock.now()
            self.clock.sleep(90)
            seen.append((self.clock.monotonic() - began[0], round(self.clock.now() - began[1], 3)))
            return message

    run = run_filter(Clocked(), 1, colour=colour)

    assert seen == [(90, 90)]
    assert run.elapsed == 90


def test_a_rest_that_is_late_in_an_async_chain_is_cancelled():
    """Timeout cancels it exactly on time."""
    run = run_filter(Timeout(2), 1, next=after(5, Receipt(9)), colour="async")

    assert isinstance(run.error, TimeoutError)
    assert str(run.error) == "Timeout: the rest of the chain took longer than 2 s and was cancelled"
    assert (run.elapsed, run.next_calls) == (2.0, 1)
    assert ("next #1", "is cancelled") in steps(run)


def test_a_rest_that_is_late_in_a_sync_chain_is_left_behind():
    """Timeout(abandon=True) ends exactly on time, and what it leaves behind no longer belongs to the run."""
    run = run_filter(Timeout(2, abandon=True), 1, next=after(5, Receipt(9)))

    assert isinstance(run.error, TimeoutError)
    assert str(run.error) == (
        "Timeout: the rest of the chain took longer than 2 s; it was left behind and continues, but its result is discarded"
    )
    assert (run.elapsed, run.next_calls) == (2.0, 1)
    assert run_filter(passing, 1).elapsed == 0


@pytest.mark.parametrize(("abandon", "colour"), [(True, "sync"), (True, "async"), (False, "async")])
def test_a_rest_in_time_is_its_outcome(abandon, colour):
    """The rest may finish half a second early, or take no time at all."""
    run = run_filter(Timeout(2, abandon=abandon), 1, next=after(1.5, Receipt(9)), colour=colour)
    assert (run.outcome, run.elapsed) == (Receipt(9), 1.5)

    run = run_filter(Timeout(2, abandon=abandon), 1, next=Receipt(9), colour=colour)
    assert (run.outcome, run.elapsed) == (Receipt(9), 0)


@both_colours
def test_each_run_of_a_retry_has_its_own_time(colour):
    """A Timeout inside a Retry gives each run of the handler its own time: late, then failed, then well."""
    chain = Pipeline(Retry(wait=1, jitter=0), Timeout(2, abandon=True))
    run = run_filter(chain, 1, next=[after(5), ConnectionError("down"), "done"], at="delivery", colour=colour)

    assert run.outcome == Handled("done")
    assert (run.next_calls, run.pauses, run.elapsed) == (3, [1.0, 2.0], 5.0)


def test_a_sleep_of_years_takes_no_time():
    """A test does not wait in real time."""
    year = 365 * 24 * 3600.0
    assert run_filter(once, 1, next=after(year)).elapsed == year
    assert run_filter(apassing, 1, next=after(year)).elapsed == year


# --- filters that come with the package --------------------------------------------------------------------------------


@both_colours
def test_a_retry_gives_up_with_the_last_error(colour):
    """The error is the same object that the rest raised last."""
    errors = [ConnectionError(text) for text in "abc"]
    run = run_filter(Retry(attempts=3, wait=0.25, jitter=0), 1, next=errors, colour=colour)

    assert run.error is errors[2]
    assert (run.next_calls, run.pauses) == (3, [0.25, 0.5])
    assert [entry["event"] for entry in run.logs] == ["attempt.failed", "attempt.failed"]


def test_a_dedupe_remembers_from_one_run_to_the_next():
    """A filter keeps its state, so the second run with one message is a duplicate."""
    dedupe, message = Dedupe(), Message("orders.placed", 1)

    assert run_filter(dedupe, message).outcome == Receipt(1)
    assert run_filter(dedupe, message).outcome == Dropped("duplicate", by="Dedupe")
    assert run_filter(dedupe, Message("orders.placed", 1)).outcome == Receipt(1)


def test_a_dedupe_forgets_as_the_time_of_the_harness_passes(harness):
    """All runs within a harness share one clock."""
    dedupe, message = Dedupe(window=60), Message("orders.placed", 1)
    run_filter(dedupe, message)

    harness.advance(59)
    assert run_filter(dedupe, message).dropped == "duplicate"
    harness.advance(1)
    assert run_filter(dedupe, message).outcome == Receipt(1)


def test_an_old_message_expires():
    """The virtual clock begins at the computer's time, so that messages made by hand are new."""
    assert run_filter(Expire(5), 1).outcome == Receipt(1)
    assert run_filter(Expire(5), Message("x", time=1)).dropped == "expired"


def test_a_body_that_is_not_valid_is_refused():
    """Validate refuses the body, and the error names Validate."""
    run = run_filter(Validate({">": int}), "many")

    assert isinstance(run.error, Rejected)
    assert run.error.by == "Validate"
    assert run_filter(Validate({">": int}), "5").forwarded.body == 5


# --- on_error ----------------------------------------------------------------------------------------------------------

RULES = {
    "reject": ("reject", "publish", None),
    "dead letter": ("dead_letter", "publish", "dead_letter: ValueError"),
    "drop": ("drop", "publish", "drop: ValueError"),
    "default": (None, "publish", None),
    "dead letter at delivery": ("dead_letter", "delivery", None),
    "drop at delivery": ("drop", "delivery", "drop: ValueError"),
    "default at delivery": (None, "delivery", None),
}


@pytest.mark.parametrize(("on_error", "at", "dropped"), RULES.values(), ids=RULES)
@every_shape
def test_a_pipeline_rules_the_errors_of_its_own_filters(shape, on_error, at, dropped):
    """The error is raised to the publisher (or the worker), or becomes a drop that is named after it, as on a bus."""
    run = run_filter(Pipeline(shape.make(boom), on_error=on_error), 1, at=at, colour=shape.colour)

    if dropped is None:
        assert isinstance(run.error, ValueError)
    else:
        assert run.dropped == dropped
        assert run.error is None
    assert run.next_calls == 0


@both_colours
@pytest.mark.parametrize("on_error", ["drop", "dead_letter"])
def test_an_error_of_the_rest_is_not_the_pipelines(on_error, colour):
    """`on_error` applies to the pipeline's own filters, not to what comes behind it."""
    run = run_filter(Pipeline(same, on_error=on_error), 1, next=ValueError("theirs"), colour=colour)

    assert str(run.error) == "theirs"


@both_colours
@pytest.mark.parametrize("on_error", ["drop", "dead_letter"])
def test_the_story_of_an_error_that_became_a_drop_says_so(on_error, colour):
    """Otherwise the last line would be an error, and the outcome something else."""
    run = run_filter(Pipeline(made_transform(boom), on_error=on_error), 1, colour=colour)

    assert f"{on_error}: ValueError" in run.story


def test_a_predicate_that_fails_is_in_the_story():
    """A predicate is the user's code, and its error ended the run."""

    def unlucky(message):
        raise KeyError("sku")

    run = run_filter(when(unlucky, same), 1)

    assert isinstance(run.error, KeyError)
    assert "unlucky" in "\n".join(map(str, steps(run)))
    assert "KeyError" in "\n".join(map(str, steps(run)))


# --- filter actors -----------------------------------------------------------------------------------------------------


class Quota(Actor):
    """An actor that lets two through, and publishes how many are left."""

    def __init__(self, name: str | None = None, left: int = 2) -> None:
        super().__init__(name)
        self.left = left

    def filter(self, message):
        self.left -= 1
        self.bus.publish("quota.left", self.left)
        return message if self.left >= 0 else Dropped("used up")


class AsyncQuota(Quota):
    async def filter(self, message):
        await asyncio.sleep(0.5)
        self.left -= 1
        await self.bus.apublish("quota.left", self.left)
        return message if self.left >= 0 else Dropped("used up")


@pytest.mark.parametrize("kind", [Quota, AsyncQuota])
@pytest.mark.parametrize("name", ["quota", None])
@both_colours
def test_an_actor_keeps_its_state_from_run_to_run(kind, name, colour):
    """The actor belongs to no bus afterwards, so a bus may spawn it."""
    quota = kind(name)
    runs = [run_filter(quota, number, colour=colour) for number in range(3)]

    assert [run.outcome for run in runs[:2]] == [Receipt(1), Receipt(1)]
    assert runs[2].outcome == Dropped("used up", by=name or kind.__name__)
    assert quota.left == -1
    assert [run.elapsed for run in runs] == [0.5 if kind is AsyncQuota else 0] * 3
    with pytest.raises(LifecycleError, match="is not spawned"):
        quota.bus
    assert Bus().spawn(quota) is quota


@pytest.mark.parametrize("kind", [Quota, AsyncQuota])
@both_colours
def test_what_an_actor_publishes_by_the_way_is_shown(kind, colour):
    """`published` does not contain what the actor hands on, which is in `forwards`."""
    run = run_filter(kind("quota"), "a ticket", colour=colour)

    assert [(message.subject, message.body) for message in run.published] == [("quota.left", 1)]
    assert ("bus", "accepts quota.left 1 for nobody") in steps(run)
    assert [message.body for message in run.forwards] == ["a ticket"]


@both_colours
def test_an_actor_that_does_not_answer_in_time_is_the_error(colour):
    """The error comes after `filter_timeout`, in virtual time."""

    class Slow(Actor):
        filter_timeout = 60.0

        async def filter(self, message):
            await asyncio.sleep(3600)
            return message

    run = run_filter(Slow("slow"), 1, colour=colour)

    assert isinstance(run.error, TimeoutError)
    assert "filter actor slow gave no answer about test in 60 s" in str(run.error)
    assert run.elapsed == 60


def test_an_actor_among_other_filters_is_asked_each_time():
    """A filter in front of the actor that runs the rest twice asks the actor twice."""

    def twice(message, call_next):
        call_next(message)
        return call_next(message)

    run = run_filter(Pipeline(twice, Quota("quota", left=1)), 1)

    assert run.outcome == Dropped("used up", by="quota")
    assert run.next_calls == 1
    assert [message.body for message in run.published] == [0, -1]


def test_an_actor_is_not_asked_about_its_own_mail():
    """Control mail passes, as on a bus."""
    quota = Quota("quota", left=0)

    assert run_filter(quota, Message(quota, "more")).outcome == Receipt(1)
    assert run_filter(quota, Message("quota", "more")).outcome == Receipt(1)
    assert quota.left == 0


def test_an_actor_that_lives_on_a_harness_is_asked_there(harness):
    """The actor stays on the harness, and what it publishes on its bus is seen there."""
    quota = harness.bus.spawn(Quota("quota"))
    harness.start()
    run = run_filter(quota, 1)

    assert run.outcome == Receipt(1)
    assert quota.left == 1
    assert quota.bus is harness.bus
    assert [message.body for message in harness.published] == [1]
    assert run.published == []


def test_an_actor_that_was_stopped_is_run_like_a_new_one():
    """`bus.use` would spawn it again, and so does a run."""
    quota = Quota("quota")
    with Harness() as harness:
        harness.bus.spawn(quota)
        harness.start()
        quota.stop()
        harness.advance(0)

    assert run_filter(quota, 1).outcome == Receipt(1)


@pytest.mark.parametrize("started", [False, True])
def test_an_actor_that_lives_on_a_bus_of_its_own_cannot_be_run(started):
    """It would have to answer in another time, so the error says where it is and what to give instead."""
    bus = Bus()
    quota = bus.spawn(Quota("quota"))
    if started:
        bus.start()
    try:
        with pytest.raises(
            PipelineError, match=r"filter actor quota lives on <Bus .*>.* give run_filter one that is not spawned"
        ):
            run_filter(quota, 1)
        assert quota.left == 2
    finally:
        if started:
            bus.stop(timeout=WAIT)


def test_an_actor_of_a_harness_that_is_over_cannot_be_run():
    """The actor was not stopped, but its bus was."""
    with Harness() as harness:
        quota = harness.bus.spawn(Quota("quota"))
        harness.start()

    with pytest.raises(PipelineError, match="filter actor quota lives on"):
        run_filter(quota, 1)


# --- start and stop ----------------------------------------------------------------------------------------------------


class Lively(Transform):
    """A filter with a life cycle that reports each step in every way there is."""

    def __init__(self) -> None:
        self.life: list[str] = []
        self.context: Any = None

    def start(self, context):
        self.life.append("start")
        self.context = context
        context.log.warning("begun", path="a.txt")
        context.bus.publish("side.begun")

    def stop(self):
        self.life.append("stop")
        self.context.log.info("ended")
        self.context.bus.publish("side.ended")

    def transform(self, message):
        self.life.append("transform")
        self.context.log.info("seen", body=message.body)
        self.context.bus.publish("side.seen", message.body)
        return message


class AsyncLively(Lively):
    async def start(self, context):
        await asyncio.sleep(1)
        super().start(context)

    async def stop(self):
        await asyncio.sleep(1)
        self.life.append("stop")
        self.context.log.info("ended")
        await self.context.bus.apublish("side.ended")


@pytest.fixture
def structlog_untouched() -> Iterator[None]:
    """Reset what a test or a bug has configured in structlog."""
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("kind", [Lively, AsyncLively])
@both_colours
def test_a_filter_is_started_and_stopped_around_the_run(kind, colour):
    """Each run starts and stops the filter once, however often it is in the chain."""
    filter = kind()
    for _ in range(2):
        assert run_filter(Pipeline(filter, when("nowhere", filter), filter), 1, colour=colour).outcome == Receipt(1)

    assert filter.life == ["start", "transform", "transform", "stop"] * 2


@pytest.mark.parametrize("kind", [Lively, AsyncLively])
def test_starting_is_no_part_of_the_elapsed_time(kind):
    """`elapsed` is the time that the message took."""
    assert run_filter(kind(), 1, next=after(2)).elapsed == 2


@pytest.mark.parametrize("kind", [Lively, AsyncLively])
def test_the_context_has_a_bus_a_clock_a_log_and_the_name(kind):
    """A filter can use the context that it gets at the start."""
    filter = kind()
    run = run_filter(filter, 1)

    assert filter.context.name == kind.__name__
    assert [message.subject for message in run.published][:2] == ["side.begun", "side.seen"]
    assert [entry["event"] for entry in run.logs][:2] == ["begun", "seen"]
    assert run.logs[0] == {"event": "begun", "log_level": "warning", "filter": kind.__name__, "path": "a.txt"}


@pytest.mark.parametrize("kind", [Lively, AsyncLively])
def test_what_it_does_while_it_stops_is_shown_too(kind, capsys):
    """`stop` is called around the run as `start` is, so its line is in `logs` and not on the terminal."""
    run = run_filter(kind(), 1)

    assert [entry["event"] for entry in run.logs] == ["begun", "seen", "ended"]
    assert [message.subject for message in run.published] == ["side.begun", "side.seen", "side.ended"]
    assert capsys.readouterr().out == ""


def test_a_filter_that_cannot_start_ends_the_run():
    """The filter's error is raised at once, and filters that had started are stopped."""

    class Unlucky(Lively):
        def start(self, context):
            raise OSError("no such file")

    lively = Lively()
    with pytest.raises(OSError, match="no such file"):
        run_filter(Pipeline(lively, Unlucky()), 1)
    assert lively.life == ["start", "stop"]


def test_a_filter_that_cannot_stop_is_told_of():
    """A file that cannot be closed is a bug of the filter, so the test gets the error."""

    class Unlucky(Lively):
        def stop(self):
            raise OSError("disk full")

    try:
        run = run_filter(Unlucky(), 1)
    except Exception as error:
        told = str(error)
    else:
        told = f"{run.story}\n{run.logs}"
    assert "disk full" in told


def test_a_filter_is_stopped_though_the_run_ends_in_an_error():
    """The filter is stopped, whatever happens to the message."""
    lively = Lively()
    assert run_filter(Pipeline(lively, made_transform(boom)), 1).error is not None
    assert lively.life == ["start", "transform", "stop"]


def test_a_request_has_nobody_to_answer_it():
    """The bus of a run is empty, and the error says so."""

    class Asks(Lively):
        def transform(self, message):
            return message.with_body(self.context.bus.request("prices.tea").body)

    run = run_filter(Asks(), 1)

    assert isinstance(run.error, NoResponder)
    assert "nobody listens to prices.tea" in str(run.error)


def test_a_filter_may_bring_subscriptions_of_its_own():
    """A message for such a subscription is handled before the run ends."""

    class Counts(Transform):
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def start(self, context):
            self.bus = context.bus
            self.bus.subscribe("counts", lambda message: self.heard.append(message.body))

        def transform(self, message):
            self.bus.publish("counts", message.body)
            return message

    counts = Counts()
    assert run_filter(counts, 7).outcome == Receipt(1)
    assert counts.heard == [7]


def test_an_error_of_a_task_that_nobody_waits_for_is_told(caplog):
    """asyncio would only log it: the test gets it in the run, or as an error."""

    async def careless(message, call_next):
        async def fails():
            raise ValueError("unheard")

        task = asyncio.create_task(fails())
        await asyncio.sleep(1)
        del task
        gc.collect()
        return await call_next(message)

    told = caplog.text
    try:
        run = run_filter(careless, 1)
        told += f"{run.story}\n{run.logs}{caplog.text}"
    except Exception as error:
        told += str(error)
    assert "unheard" in told


# --- logs --------------------------------------------------------------------------------------------------------------


@transform
def talks(message):
    structlog.get_logger().info("said", body=message.body)
    return message


@every_shape
def test_a_filter_that_says_nothing_has_no_lines(shape):
    """Log lines of the bus in its context do not count as the filter's."""
    assert run_filter(shape.make(stamp), 5, colour=shape.colour).logs == []


@both_colours
def test_lines_through_structlog_are_caught(colour, capsys):
    """The lines are data, in order, and nothing is printed."""
    run = run_filter(Pipeline(Log(), talks), 5, colour=colour)

    assert [entry["event"] for entry in run.logs] == ["said", "message.passed"]
    assert run.logs[0] == {"event": "said", "body": 5, "log_level": "info"}
    assert run.logs[1]["subject"] == "test"
    assert capsys.readouterr().out == ""


def test_lines_of_the_next_run_are_its_own():
    """Lines of one run do not appear in the next."""
    first, second = run_filter(talks, 1), run_filter(talks, 2)

    assert [entry["body"] for entry in first.logs] == [1]
    assert [entry["body"] for entry in second.logs] == [2]


def test_structlog_is_not_configured_afterwards_if_it_was_not_before():
    """A library does not configure structlog, and neither does its test kit."""
    assert not structlog.is_configured()
    run_filter(talks, 1)
    assert not structlog.is_configured()


@pytest.mark.usefixtures("structlog_untouched")
@pytest.mark.parametrize("cached", [False, True])
def test_the_users_configuration_of_structlog_is_the_same_afterwards(cached):
    """The user's processors are not used during the run and are back afterwards, so they see no line of it."""
    lines = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(lines),
        cache_logger_on_first_use=cached,
    )
    before = {key: list(value) if isinstance(value, list) else value for key, value in structlog.get_config().items()}
    mine = structlog.get_logger()
    mine.info("warm")

    @transform
    def talks_too(message):
        mine.info("mine", body=message.body)
        return message

    run = run_filter(Pipeline(talks, talks_too, Lively()), 5)

    assert [entry["event"] for entry in run.logs][:4] == ["begun", "said", "mine", "seen"]
    assert lines.getvalue() == '{"event": "warm"}\n'
    assert structlog.is_configured()
    assert structlog.get_config() == before
    mine.info("again")
    assert lines.getvalue().splitlines()[-1] == '{"event": "again"}'


@pytest.mark.usefixtures("structlog_untouched")
def test_the_configuration_is_the_same_after_an_error():
    """This also holds if the run could not start."""
    structlog.configure(processors=[structlog.processors.JSONRenderer()])
    before = list(structlog.get_config()["processors"])
    for wrong in (lambda: run_filter(5, 1), lambda: run_filter(passing, 1, next=[]), lambda: run_filter(Timeout(1), 1)):
        with pytest.raises((PipelineError, ScriptEnded)):
            wrong()
    assert structlog.get_config()["processors"] == before


def test_the_standard_librarys_lines_go_where_they_always_go(caplog):
    """A run has them too, and takes nothing from `logging`."""

    def talks_plainly(message, call_next):
        logging.getLogger("shop").warning("careful")
        return call_next(message)

    with caplog.at_level(logging.INFO):
        run = run_filter(talks_plainly, 1)

    assert run.logs == [{"event": "careful", "logger": "shop", "log_level": "warning"}]
    assert [record.getMessage() for record in caplog.records if record.name == "shop"] == ["careful"]


# --- context variables -------------------------------------------------------------------------------------------------

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
unset: contextvars.ContextVar[int] = contextvars.ContextVar("unset")


def leak(message):
    tenant.set("acme")
    unset.set(1)
    return message


@every_shape_but_actors
def test_variables_that_a_filter_leaves_changed_are_named(shape):
    """The names are sorted and include variables that had no value before; the test's own variables do not change."""
    run = run_filter(shape.make(leak), 1, colour=shape.colour)

    assert run.leaks == ("tenant", "unset")
    assert tenant.get() == "nobody"
    assert unset.get(None) is None


@every_shape_but_actors
def test_variables_are_named_though_the_filter_fails(shape):
    """A filter that fails is still checked for leaks."""

    def leak_and_fail(message):
        leak(message)
        raise ValueError("boom")

    run = run_filter(shape.make(leak_and_fail), 1, colour=shape.colour)

    assert isinstance(run.error, ValueError)
    assert run.leaks == ("tenant", "unset")


def test_an_actor_leaks_nothing_into_who_asks_it():
    """An actor answers in a copy of the publisher's context."""
    run = run_filter(Asked(leak), 1)

    assert (run.error, run.leaks) == (None, ())
    assert tenant.get() == "nobody"


@every_shape
def test_a_filter_sees_the_tests_variables(shape):
    """The filter sees them as it would see its publisher's."""
    token = tenant.set("of the test")
    try:
        run = run_filter(shape.make(lambda message: message.with_headers(tenant=tenant.get())), 1, colour=shape.colour)
        assert run.forwarded.headers == {"tenant": "of the test"}
        assert run.leaks == ()
        assert tenant.get() == "of the test"
    finally:
        tenant.reset(token)


@both_colours
def test_a_variable_that_is_put_back_is_no_leak(colour):
    """A variable that is set to the value it had is not a leak either."""

    @around
    def careful(message):
        token = tenant.set("acme")
        try:
            outcome = yield message
        finally:
            tenant.reset(token)
        return outcome

    run = run_filter(careful, 1, next=lambda message: Receipt(len(tenant.get())), colour=colour)

    assert run.outcome == Receipt(len("acme"))
    assert run.leaks == ()


@pytest.mark.parametrize(
    "filter",
    [Retry(), Dedupe(), Log(), Timeout(1, abandon=True), Tap(lambda message: None)],
    ids=lambda one: type(one).__name__,
)
@both_colours
def test_the_filters_of_the_package_leak_nothing(filter, colour):
    """No filter leaks when all is well, or when the rest fails."""
    assert run_filter(filter, 1, colour=colour).leaks == ()
    run = run_filter(filter, 1, next=ValueError("down"), colour=colour)
    assert (type(run.error), run.leaks) == (ValueError, ())


# --- errors and their tracebacks ---------------------------------------------------------------------------------------


def innermost(message):
    raise ValueError("here")


@every_shape
def test_a_traceback_ends_in_the_users_own_line(shape):
    """The traceback contains no frame of the bus and none of the test kit."""
    error = run_filter(shape.make(innermost), 1, colour=shape.colour).error
    frames = traceback.extract_tb(error.__traceback__)  # type: ignore[union-attr]

    assert frames[-1].name == "innermost"
    assert {frame.filename for frame in frames} == {__file__}


CHAIN = {
    "sync": (Pipeline(passing, once, same, plain(innermost)), ["passing", "once", "filter", "innermost"]),
    "async": (Pipeline(apassing, once, same, aplain(innermost)), ["apassing", "once", "filter", "innermost"]),
}


@pytest.mark.parametrize(("chain", "functions"), CHAIN.values(), ids=CHAIN)
def test_a_traceback_shows_the_filters_in_a_row(chain, functions):
    """The traceback shows the filter that failed and those around it, with nothing in between."""
    assert names(run_filter(chain, 1).error) == functions


@both_colours
def test_a_traceback_shows_what_next_did(colour):
    """A function given as `next` is the user's, so its line is the last one."""
    run = run_filter(Pipeline(passing_in(colour), once), 1, next=innermost)

    assert names(run.error) == [passing_in(colour).__name__, "once", "innermost"]


@both_colours
def test_reading_the_outcome_twice_shows_the_same_error_twice(colour):
    """An error does not grow when it is looked at."""
    run = run_filter(Pipeline(passing_in(colour), made_transform(innermost)), 1)
    seen = []
    for _ in range(3):
        with pytest.raises(ValueError, match="here") as caught:
            run.outcome
        seen.append(names(caught.value))

    assert seen[0] == seen[1] == seen[2]
    assert seen[0][-1] == "innermost"


@both_colours
def test_causes_are_kept_and_trimmed(colour):
    """`raise … from …` in a filter looks as it would on a bus."""

    @around
    def wraps(message):
        try:
            return (yield message)
        except ConnectionError as error:
            raise RuntimeError("no way") from error

    def down(message):
        raise ConnectionError("down")

    run = run_filter(wraps, 1, next=down, colour=colour)

    assert names(run.error) == ["wraps"]
    assert names(run.error.__cause__) == ["wraps", "down"]  # type: ignore[union-attr]


@both_colours
def test_an_error_carries_no_mark_of_the_run(colour):
    """The next run may raise the same object, which is then blamed on the part that raises it there."""
    error = ConnectionError("shared")

    def raises(message):
        raise error

    assert run_filter(passing_in(colour), 1, next=error).error is error
    run = run_filter(Pipeline(made_transform(raises), on_error="drop"), 1, colour=colour)

    assert run.dropped == "drop: ConnectionError"


# --- where it is called ------------------------------------------------------------------------------------------------


def test_within_a_harness_the_time_is_the_harnesss(harness):
    """The harness's clock advances by the time that the run took; its bus sees none of the run's messages."""
    inbox = harness.bus.subscribe(">")
    harness.advance(10)
    run = run_filter(Retry(jitter=0), 1, next=[ConnectionError("down"), Receipt(1)])

    assert run.elapsed == 0.1
    assert run.moments[0].time == 0
    assert harness.elapsed == 10.1
    assert harness.published == []
    assert inbox.stats()["accepted"] == 0


def test_within_a_harness_nothing_is_disturbed(harness):
    """Messages that wait on the harness's bus still wait, and come when they are due."""
    seen = []
    harness.bus.subscribe("later", lambda message: seen.append(message.body))
    harness.start()
    harness.bus.publish("later", "due", delay=5)
    run_filter(waits_around, 1)
    assert seen == []
    harness.advance(5)
    assert seen == ["due"]


def test_a_filter_may_be_run_in_a_handler_of_a_harness(harness):
    """The filter runs on a thread of the harness."""
    seen = []
    harness.bus.subscribe("x", lambda message: seen.append(run_filter(passing, message.body).outcome))
    harness.start()
    harness.bus.publish("x", 1)
    harness.drain()

    assert seen == [Receipt(1)]


def test_runs_may_be_nested():
    """A filter may run another filter."""

    @transform
    def tries(message):
        return message.with_body(run_filter(SetHeaders({"a": "b"}), message, next=after(1)).elapsed)

    for colour in ("sync", "async"):
        run = run_filter(tries, 1, next=after(2), colour=colour)
        assert run.forwarded.body == 1
        assert run.elapsed == 3


SYNC = {
    "plain": (passing, Receipt(2), 0),
    "around": (once, Receipt(2), 0),
    "waits": (waits_around, Receipt(2), 3.5),
    "time-out": (Timeout(5, abandon=True), Receipt(2), 0),
    "actor": (Quota("quota", left=9), Receipt(2), 0),
    "actor on a loop": (AsyncQuota("quota", left=9), Receipt(2), 0.5),
}


@table(("filter", "outcome", "elapsed"), SYNC.values(), ids=SYNC)
def test_a_sync_filter_may_be_run_on_a_running_loop(filter, outcome, elapsed):
    """A filter can run in an `async def` test of a plugin, because it waits for no event of that loop."""

    async def main():
        run = run_filter(filter, 1, next=Receipt(2))
        return run.outcome, run.elapsed

    assert asyncio.run(main()) == (outcome, elapsed)


ASYNC = {"async": (apassing, {}), "as async": (once, {"colour": "async"}), "next": (once, {"next": agive})}


@pytest.mark.parametrize(("filter", "options"), ASYNC.values(), ids=ASYNC)
def test_an_async_filter_on_a_running_loop_is_told_what_to_write(filter, options):
    """It needs its own loop with virtual time, so the error says what to write, and nothing hangs."""
    told = []

    async def main():
        try:
            run_filter(filter, 1, **options)
        except LifecycleError as error:
            told.append(str(error))

    asyncio.run(main())
    with Harness() as harness:
        harness.run(main())

    assert len(told) == 2
    for text in told:
        assert "needs an event loop in virtual time, and was called on a running one; write a plain `def` test" in text
    gc.collect()  # a coroutine that nobody has awaited would say so here
    assert run_filter(apassing, 1).outcome == Receipt(1)


def test_a_run_works_on_any_thread():
    """Runs work on other threads, one at a time."""
    runs = [InThread(run_filter, waits_around, 1).result() for _ in range(2)]

    assert [run.elapsed for run in runs] == [3.5, 3.5]


def test_a_second_thread_is_told_that_there_is_one_at_a_time():
    """The package's clock and locks are replaced during a run, so two runs on two threads would disturb each other."""
    inside, leave = threading.Event(), threading.Event()

    def wait(message):
        inside.set()
        assert leave.wait(WAIT)
        return Receipt(2)

    first = InThread(run_filter, passing, 1, next=wait)
    try:
        assert inside.wait(WAIT)
        with pytest.raises(LifecycleError, match="one at a time"):
            run_filter(passing, 1)
    finally:
        leave.set()
    assert first.result().outcome == Receipt(2)
    assert run_filter(passing, 1).outcome == Receipt(1)


AT_ONCE = """
import sys, threading
import structlog
from pipebus import LifecycleError, Receipt
from pipebus.filters import Retry
from pipebus.testing import run_filter

found = []


def often():
    for _ in range(15):
        try:
            found.append(run_filter(Retry(wait=1, jitter=0), 1, next=[ConnectionError(), Receipt(2)]).elapsed)
        except BaseException as error:
            found.append(f"{type(error).__name__}: {error}")


sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=often) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
wrong = {str(one) for one in found if one != 1.0 and "one at a time" not in str(one)}
assert not wrong, wrong
assert 1.0 in found
assert run_filter(Retry(), 1).outcome == Receipt(1), "nothing is left behind"
assert not structlog.is_configured()
"""


@pytest.mark.thorough
def test_threads_that_come_at_once_are_run_or_told():
    """Each thread gets a correct run or an error that says why, at any moment, and nothing is left behind."""
    done = subprocess.run([sys.executable, "-c", AT_ONCE], capture_output=True, text=True, timeout=300, check=False)

    assert done.stderr == ""
    assert done.returncode == 0


CTRL_C = """
import asyncio, signal, sys, threading
from pipebus import Actor, Receipt
from pipebus.testing import run_filter, run_handler

seen = threading.Event()


def interrupt(number, frame):
    seen.set()
    raise KeyboardInterrupt


class Asked(Actor):
    def filter(self, message):
        return press(message)


def press(message, call_next=None):
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # as the terminal does
    assert seen.wait(20)
    return message


async def apress(message, call_next=None):
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # as the terminal does
    await asyncio.sleep(1)


if sys.argv[1] != "async filter":  # asyncio has a way of its own with the handler that is always there
    signal.signal(signal.SIGINT, interrupt)
try:
    found = {
        "filter": lambda: run_filter(press, 1),
        "async filter": lambda: run_filter(apress, 1),
        "actor": lambda: run_filter(Asked(), 1),
        "handler": lambda: run_handler(press, 1),
        "async handler": lambda: run_handler(apress, 1),
    }[sys.argv[1]]()
    print("was not interrupted:", found)
except KeyboardInterrupt:
    print("interrupted")
print(run_filter(lambda message, call_next: call_next(message), 1).outcome)
"""


@pytest.mark.parametrize("what", ["filter", "async filter", "actor", "handler", "async handler"])
@pytest.mark.few(1)
def test_ctrl_c_ends_the_run_at_once(what):
    """The interrupt gets out whatever is running and on any thread, and nothing is left behind."""
    done = subprocess.run([sys.executable, "-c", CTRL_C, what], capture_output=True, text=True, timeout=300, check=False)

    assert done.stdout.splitlines() == ["interrupted", "Receipt(mailboxes=1, duplicate=False)"]
    assert done.stderr == ""


# --- the story ---------------------------------------------------------------------------------------------------------


def told(run: FilterRun) -> str:
    """Its story without the spaces at the ends of lines."""
    return "\n".join(line.rstrip() for line in run.story.splitlines())


@both_colours
def test_the_story_of_a_retry(colour):
    """The story says word for word when, who and what."""
    run = run_filter(
        Retry(attempts=3, wait=0.1, jitter=0),
        Message("orders.placed", {"sku": "tea"}),
        next=[ConnectionError("down"), Receipt(1)],
        colour=colour,
    )

    assert told(run) == (
        "run_filter(Retry), given orders.placed {'sku': 'tea'}\n"
        "   0.000  Retry    is given orders.placed {'sku': 'tea'}\n"
        "   0.000  next #1  is given orders.placed {'sku': 'tea'}\n"
        "   0.000  next #1  raises ConnectionError: down\n"
        "   0.000  Retry    waits 0.1 s\n"
        "   0.100  next #2  is given orders.placed {'sku': 'tea'}\n"
        "   0.100  next #2  gives Receipt(1)\n"
        "   0.100  Retry    gives Receipt(1)"
    )
    assert repr(run) == "<run_filter(Retry): gives Receipt(1); next_calls=2, 0.1 s>"


def test_the_story_of_a_chain_that_drops():
    """The story shows each filter on its way in and out, with the headers that it has set."""
    chain = Pipeline(SetHeaders({"shop": "corner"}), Validate({">": int}), made_transform(lambda message: Dropped("too many")))
    run = run_filter(chain, "12")

    assert told(run) == (
        "run_filter(Pipeline), given test '12'\n"
        "   0.000  SetHeaders  is given test '12'\n"
        "   0.000  Validate    is given test '12' headers {'shop': 'corner'}\n"
        "   0.000  filter      is given test 12 headers {'shop': 'corner'}\n"
        "   0.000  filter      drops it: too many\n"
        "   0.000  Validate    drops it: too many\n"
        "   0.000  SetHeaders  drops it: too many"
    )
    assert repr(run) == "<run_filter(Pipeline): drops it: too many; next_calls=0, 0 s>"


def test_the_story_of_a_rest_that_is_late():
    """The story shows when the rest was cancelled and what followed."""
    run = run_filter(Pipeline(apassing, Timeout(2)), 1, next=after(5))

    assert isinstance(run.error, TimeoutError)
    assert told(run) == (
        "run_filter(Pipeline), given test 1\n"
        "   0.000  apassing  is given test 1\n"
        "   0.000  Timeout   is given test 1\n"
        "   0.000  next #1   is given test 1\n"
        "   2.000  next #1   is cancelled\n"
        "   2.000  Timeout   raises TimeoutError: Timeout: the rest of the chain took longer than 2 s and was cancelled\n"
        "   2.000  apassing  lets TimeoutError pass"
    )


def test_the_story_of_a_filter_that_forgets_to_return():
    """A long text is cut, because each moment is one line."""

    def forgetful(message, call_next):
        call_next(message)

    run = run_filter(forgetful, "x" * 500)

    assert isinstance(run.error, ContractError)
    assert told(run) == (
        f"run_filter(forgetful), given test '{'x' * 93}…\n"
        f"   0.000  forgetful  is given test '{'x' * 93}…\n"
        f"   0.000  next #1    is given test '{'x' * 93}…\n"
        "   0.000  next #1    gives Receipt(1)\n"
        "   0.000  forgetful  raises ContractError: filter forgetful returned None where an outcome is due; "
        "end with `return call_next(m…"
    )


def test_the_story_of_a_message_that_nobody_is_given():
    """The story of a drop does not mention a rest that was not run."""
    assert "next #1" not in run_filter(made_transform(lambda message: Dropped("no")), 1).story


class Rude:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


class Tall:
    """An object that is shown on two lines."""

    def __repr__(self) -> str:
        return "first\nsecond"


def test_a_body_that_cannot_be_shown_is_no_reason_to_fail():
    """A bus would not need its repr: the story says that it cannot be shown, and the run is the same as there."""
    run = run_filter(passing, Rude(), next=Receipt(2))

    assert run.outcome == Receipt(2)
    assert "Rude" in run.story
    assert repr(run).startswith("<run_filter(passing): gives Receipt(2)")


ONE_LINE = {
    "body": lambda: run_filter(passing, Tall()),
    "reason": lambda: run_filter(made_transform(lambda message: Dropped("first\nsecond")), 1),
    "error": lambda: run_filter(passing, 1, next=ValueError("first\nsecond")),
    "value": lambda: run_filter(passing, 1, next=Tall(), at="delivery"),
}


@pytest.mark.parametrize("make", ONE_LINE.values(), ids=ONE_LINE)
def test_a_moment_is_one_line(make):
    """A moment takes one line, whatever is in it."""
    run = make()

    assert run.error is None or isinstance(run.error, ValueError)
    assert len(run.story.splitlines()) == 1 + len(run.moments)
    assert "\n" not in repr(run)


@pytest.mark.parametrize(
    "filter", [made_transform(lambda message: Dropped("x" * 500)), made_transform(lambda message: 1 / len(message.body[0:0]))],
    ids=["reason", "error"],
)  # fmt: skip
def test_no_line_of_a_story_is_endless(filter):
    """A line is at most about 130 characters long, as wide as a screen."""
    run = run_filter(filter, "x" * 500)
    assert run.error is None or isinstance(run.error, ZeroDivisionError)
    assert max(len(line) for line in run.story.splitlines()) < 130


def test_a_story_shows_the_message_as_it_came():
    """A filter that changes the body later does not change the story."""

    @transform
    def mutates(message):
        message.body.append(2)
        return message

    run = run_filter(mutates, [1])

    assert run.story.splitlines()[0] == "run_filter(mutates), given test [1]"


# --- what a failed test shows ------------------------------------------------------------------------------------------

FAILING = """
from pipebus import Message, Receipt, transform
from pipebus.filters import Retry
from pipebus.testing import run_filter as imported


@transform
def price(message):
    return message.with_body(message.body["price"])


def test_wrong(run_filter):
    retry = Retry(attempts=2, wait=0.1, jitter=0)
    run = run_filter(retry, Message("orders.placed", 5), next=[ConnectionError("down"), Receipt(1)])
    assert run.next_calls == 1


def test_imported():
    run = imported(price, {"price": 7})
    assert run.forwarded.body == 8


def test_raised():
    assert imported(price, {}).outcome == Receipt(1)


def test_too_short():
    imported(Retry(attempts=2, wait=0.1, jitter=0), "tea", next=[ConnectionError("down")])


def test_many():
    for number in range(8):
        imported(price, {"price": number})
    assert False


def test_other():
    assert False
"""


_written: list[str] = []
"""What pytest writes about the tests above: run once."""


@pytest.fixture
def failed(pytester: pytest.Pytester) -> Callable[[str], str]:
    """What pytest writes about one of them."""
    if not _written:
        pytester.makepyfile(FAILING)
        result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:asyncio")
        result.assert_outcomes(failed=6)
        _written.append(result.stdout.str())

    def about(name: str) -> str:
        text = _written[0]
        start = text.index(f" {name} ___")
        ends = [found for found in (text.find("\n______", start), text.find("\n======", start)) if found > 0]
        return text[start : min(ends)]

    return about


def test_a_failed_assertion_shows_the_story(failed):
    """The fixture adds the story below the assertion, step by step."""
    text = failed("test_wrong")

    assert "assert 2 == 1" in text
    assert "run_filter(Retry), given orders.placed 5\n   0.000  Retry    is given orders.placed 5\n" in text
    assert "   0.000  Retry    waits 0.1 s\n   0.100  next #2  is given orders.placed 5\n" in text


def test_a_failed_assertion_shows_the_story_of_a_run_without_the_fixture(failed):
    """The imported function and the fixture are the same."""
    text = failed("test_imported")

    assert "run_filter(price), given test {'price': 7}" in text
    assert "   0.000  next #1  is given test 7\n" in text


def test_an_error_of_the_filter_is_shown_with_its_story_and_the_users_line(failed):
    """The last line of the traceback is the filter's own, and frames of the kit are hidden."""
    text = failed("test_raised")

    assert 'return message.with_body(message.body["price"])' in text
    assert "KeyError: 'price'" in text
    assert "raise self.error" not in text
    assert "   0.000  price  raises KeyError: 'price'" in text


def test_a_list_that_was_too_short_shows_the_story(failed):
    """The story shows who ran the rest so often."""
    text = failed("test_too_short")

    assert "ScriptEnded" in text
    assert "run_filter(Retry), given test 'tea'" in text
    assert "   0.100  next #2  is given test 'tea'" in text


def test_of_many_runs_the_last_few_are_shown(failed):
    """The assertion is about the last run, and a hundred stories would hide it."""
    text = failed("test_many")

    assert "given test {'price': 7}" in text
    assert "given test {'price': 0}" not in text


def test_a_story_is_shown_with_its_own_test_only(failed):
    """A test without a run shows no story, even if runs of other tests came before it."""
    text = failed("test_other")

    assert "assert False" in text
    assert "run_filter(" not in text


# --- without pytest ----------------------------------------------------------------------------------------------------


def test_a_filter_is_free_when_its_run_is():
    """The kit keeps the last few runs to show them, but keeps no filter alive."""

    class Heavy(Transform):
        def transform(self, message):
            return message

    filter = Heavy()
    known = weakref.ref(filter)
    run = run_filter(filter, 1)
    assert run.outcome == Receipt(1)
    del filter, run
    gc.collect()
    assert known() is None

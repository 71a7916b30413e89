"""The chain, guarantees 1 to 4: order, short-circuit, errors, and that each message ends with an outcome."""

import functools
from collections.abc import Callable
from typing import Any

import pytest

from pipebus import (
    Around,
    Bus,
    Dropped,
    Handled,
    Message,
    Pipeline,
    PipelineError,
    Receipt,
    Rejected,
    around,
    branch,
    transform,
    when,
)
from pipebus.events import Refused, Unrouted
from tables import table


class Boom(Exception):
    """An error of the application."""


class Abort(BaseException):
    """An error that is not an Exception, like KeyboardInterrupt."""


def ending(kind: Any, value: Any = None) -> Any:
    """The outcome of a chain whose message reached the end."""
    return Receipt(1) if kind.side == "publish" else Handled(value)


# --- 1. onion ----------------------------------------------------------------------------------------------------------


def test_s01_filters_run_in_the_order_of_registration_and_come_back_in_reverse(chain, trail, kind):
    """The first filter is the outermost: it sees the message first and the outcome last."""
    result = chain.run(trail("A"), trail("B"), trail("C"))

    assert trail == ["A in", "B in", "C in", "T", "C out", "B out", "A out"]
    assert result.outcome == ending(kind)


def test_s01_nothing_sorts_filters_by_name_or_number(chain, trail):
    """Names and numbers are labels: only the order of registration counts."""
    chain.run(trail("9"), trail("zebra"), trail("10"), trail("Apple"), trail("1"))

    assert trail[:5] == ["9 in", "zebra in", "10 in", "Apple in", "1 in"]


def test_s01_nothing_sorts_filters_by_shape(chain, trail):
    """A Transform keeps the place where it was registered, between filters of other shapes."""

    @transform
    def look(message):
        trail.note("look")
        return message

    @transform
    def last(message):
        trail.note("last")
        return message

    chain.run(trail("A"), look, trail("B"), last)

    assert trail == ["A in", "look", "B in", "last", "T", "B out", "A out"]


def _one_call(bus: Bus, a: Any, b: Any, c: Any, at: Any) -> None:
    bus.use(a, b, c, at=at)


def _call_by_call(bus: Bus, a: Any, b: Any, c: Any, at: Any) -> None:
    bus.use(a, at=at)
    bus.use(b, at=at)
    bus.use(c, at=at)


def _as_decorators(bus: Bus, a: Any, b: Any, c: Any, at: Any) -> None:
    for filter in (a, b, c):
        assert bus.use(filter, at=at) is filter


def _as_a_value(bus: Bus, a: Any, b: Any, c: Any, at: Any) -> None:
    bus.use(Pipeline(a, b, c), at=at)


def _nested(bus: Bus, a: Any, b: Any, c: Any, at: Any) -> None:
    bus.use(Pipeline(a, Pipeline(Pipeline(b))), Pipeline(c), at=at)


@pytest.mark.parametrize(
    "register", [_one_call, _call_by_call, _as_decorators, _as_a_value, _nested], ids=lambda f: f.__name__[1:]
)
@pytest.mark.parametrize("side", ["publish", "delivery"])
def test_s01_every_way_to_register_gives_the_same_order(register, side):
    """One call, three calls, a decorator, a Pipeline or nested ones: the order of the filters is the order of the code."""
    seen: list[str] = []

    def named(name: str) -> Callable[..., Any]:
        def filter(message: Message[Any], call_next: Any) -> Any:
            seen.append(name)
            return call_next(message)

        return filter

    bus = Bus()
    register(bus, named("A"), named("B"), named("C"), side)
    bus.subscribe("x", lambda message: seen.append("T"))
    with bus:
        bus.publish("x")
        bus.drain(timeout=10)

    assert seen == ["A", "B", "C", "T"]


def test_s01_the_bus_s_delivery_filters_stand_outside_the_subscription_s_own():
    """The filters of the bus wrap the filters of a subscription, whichever were registered first."""
    seen: list[str] = []

    def named(name: str) -> Callable[..., Any]:
        def filter(message: Message[Any], call_next: Any) -> Any:
            seen.append(f"{name} in")
            outcome = call_next(message)
            seen.append(f"{name} out")
            return outcome

        return filter

    bus = Bus()
    bus.subscribe("x", lambda message: seen.append("T"), filters=[named("own")])
    bus.use(named("bus"), at="delivery")
    with bus:
        bus.publish("x")
        bus.drain(timeout=10)

    assert seen == ["bus in", "own in", "T", "own out", "bus out"]


# --- 2. short-circuit --------------------------------------------------------------------------------------------------


def test_s02_a_filter_that_does_not_call_on_ends_the_message(chain, step, trail):
    """The filters behind it never run, the filters in front of it see its outcome, and no error is raised."""

    def b(message):
        trail.note("B in")
        return Dropped("enough")
        yield

    result = chain.run(trail("A"), step(b, "B"), trail("C"))

    assert trail == ["A in", "B in", "A out"]
    assert result.outcome == Dropped("enough", by="B")
    assert result.error is None
    assert result.received == []


def test_s02_a_transform_ends_the_message_by_returning_dropped(chain, trail):
    """The chain fills in the name of the filter that dropped the message."""

    @transform
    def b(message):
        return Dropped("enough")

    result = chain.run(trail("A"), b, trail("C"))

    assert trail == ["A in", "A out"]
    assert (result.outcome, result.error, result.received) == (Dropped("enough", by="b"), None, [])


def test_s02_a_filter_that_names_somebody_else_is_left_alone(chain, step):
    """The chain fills in `by` only where it is missing."""

    def b(message):
        return Dropped("enough", by="the rule book")
        yield

    assert chain.run(step(b)).outcome == Dropped("enough", by="the rule book")


def test_s02_outer_filters_hand_a_drop_on_as_it_is(chain, step, trail):
    """A drop names the filter that dropped the message, not one that passed the drop on."""

    def inner(message):
        return Dropped("enough")
        yield

    assert chain.run(trail("A"), trail("B"), step(inner)).outcome == Dropped("enough", by="inner")


def test_s02_the_outcome_is_what_the_filter_returned(chain, step, kind):
    """A filter may answer in place of the mailboxes or the handler."""
    mine = Receipt(7) if kind.side == "publish" else Handled("from the cache")

    def cache(message):
        return mine
        yield

    result = chain.run(step(cache))

    assert result.outcome == mine
    assert result.received == []


def test_s02_a_drop_after_call_next_replaces_the_outcome(chain, step, trail):
    """Mailboxes keep the message, and the handler has run, but the outer filters see the drop."""

    def b(message):
        yield message
        return Dropped("too late")

    result = chain.run(trail("A"), step(b))

    assert trail == ["A in", "T", "A out"]
    assert result.outcome == Dropped("too late", by="b")
    assert len(result.received) == 1


# --- 3. errors unwind --------------------------------------------------------------------------------------------------


def raiser(error: BaseException, moment: str) -> Callable[..., Any]:
    def c(message: Message[Any]) -> Any:
        if moment == "before":
            raise error
        yield message
        raise error

    return c


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("error", [Boom("b"), Rejected("no"), Abort("a")], ids=lambda e: type(e).__name__)
def test_s03_an_error_skips_the_code_after_call_next_and_arrives_as_the_same_object(chain, step, trail, error, moment):
    """The publisher gets the very error that the filter raised, whether the filter raised it on the way in or out."""
    result = chain.run(trail("A"), trail("B"), step(raiser(error, moment), "C"))

    assert trail == ["A in", "B in"] if moment == "before" else ["A in", "B in", "T"]
    assert result.error is error
    assert len(result.received) == (moment == "after")


def test_s03_an_error_at_the_end_unwinds_like_any_other(chain, trail):
    """Every filter around the end of the chain sees the error of a handler or of a full mailbox."""
    result = chain.run(trail("A"), trail("B"), fails=True)

    assert [entry for entry in trail if entry != "T"] == ["A in", "B in"]
    assert isinstance(result.error, Exception)
    assert result.outcome is None


def test_s03_an_error_is_visible_to_except_and_finally_of_the_filters_it_passes(chain, step, trail):
    """An inner error runs the `except` and `finally` blocks from the inside out."""
    error = Boom("b")
    caught = []

    def watch(name):
        def body(message):
            try:
                return (yield message)
            except Boom as found:
                caught.append(found)
                trail.note(f"{name} except")
                raise
            finally:
                trail.note(f"{name} finally")

        return step(body, name)

    result = chain.run(watch("A"), watch("B"), step(raiser(error, "before"), "C"))

    assert trail == ["B except", "B finally", "A except", "A finally"]
    assert caught == [error, error]
    assert result.error is error


def test_s03_a_filter_that_swallows_an_error_gives_the_outcome(chain, step, trail):
    """Filters further out see the outcome, and no error."""

    def b(message):
        try:
            return (yield message)
        except Boom:
            return Dropped("swallowed")

    result = chain.run(trail("A"), step(b, "B"), step(raiser(Boom("b"), "before"), "C"))

    assert trail == ["A in", "A out"]
    assert (result.outcome, result.error) == (Dropped("swallowed", by="B"), None)


def test_s03_a_filter_that_swallows_an_error_and_gives_no_outcome_is_named(chain, step, trail):
    """A filter must return an outcome: the error names the filter that swallowed an error and returned nothing."""

    def forgetful(message):
        try:
            return (yield message)
        except Boom:
            return None

    result = chain.run(trail("A"), step(forgetful), step(raiser(Boom("b"), "before"), "C"))

    assert isinstance(result.error, PipelineError)
    assert "filter forgetful" in str(result.error)
    assert trail == ["A in"]


def test_s03_a_filter_may_raise_another_error_in_its_place(chain, step):
    """The new error comes out, and the old one is its cause."""
    old, new = Boom("old"), Boom("new")

    def translate(message):
        try:
            return (yield message)
        except Boom as error:
            raise new from error

    result = chain.run(step(translate), step(raiser(old, "before"), "C"))

    assert result.error is new
    assert result.error.__cause__ is old


@pytest.mark.parametrize("side", ["publish", "delivery"])
def test_s03_a_plain_filter_and_its_reader_agree(side):
    """The filter of the README, with try, call_next, except and finally, behaves as it reads."""
    seen: list[str] = []

    def outer(message, call_next):
        try:
            outcome = call_next(message)
            seen.append("never")
            return outcome
        except Boom:
            seen.append("except")
            raise
        finally:
            seen.append("finally")

    def inner(message, call_next):
        raise Boom("b")

    bus = Bus()
    bus.use(outer, inner, at=side)
    bus.subscribe("x", lambda message: None)
    with bus:
        if side == "publish":
            with pytest.raises(Boom):
                bus.publish("x")
        else:
            bus.publish("x")
            bus.drain(timeout=10)

    assert seen == ["except", "finally"]
    assert len(bus.dead_letters) == (side == "delivery")


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_s03_an_error_in_a_wrapper_of_a_generator_function_is_blamed_on_its_filter(colour):
    """A decorator may fail before the generator exists; the filter around it is not to blame."""
    blamed = []

    def checked(function):
        @functools.wraps(function)
        def check(self, message):
            raise Boom("before there is a generator")

        return check

    class Inner(Around):
        @checked
        def around(self, message):
            return (yield message)

    def outer(message, call_next):
        return call_next(message)

    async def aouter(message, call_next):
        return await call_next(message)

    bus = Bus()
    bus.use(outer if colour == "sync" else aouter, Inner())
    bus.observe(lambda event: blamed.append(event.by) if isinstance(event, Refused) else None)
    with bus, pytest.raises(Boom):
        bus.publish("a")

    assert blamed == ["Inner"]


@pytest.mark.parametrize("swallower", ["around", "retrying around"])
def test_s03_an_error_is_blamed_on_the_filter_that_raised_it_each_time(swallower):
    """Observers get the filter in which the error arose, each time; a swallowed error object carries no old blame."""
    error = Boom("one object for all")
    blamed = []

    @around
    def swallow_around(message):
        try:
            return (yield message)
        except Boom:
            return Dropped("swallowed")

    @around
    def retry(message):
        try:
            return (yield message)
        except Boom:
            return (yield message.with_body("again"))

    def first(message, call_next):
        if message.body == "again":
            return call_next(message)
        raise error

    def second(message, call_next):
        raise error

    bus = Bus()
    swallowing = {"around": swallow_around, "retrying around": retry}[swallower]
    bus.use(when("a", swallowing, first), when("b", second))
    bus.observe(lambda event: blamed.append(event.by) if isinstance(event, Refused) else None)
    with bus:
        bus.publish("a")
        with pytest.raises(Boom):
            bus.publish("b")

    assert blamed == ["second"]


# --- 4. the end is an outcome ------------------------------------------------------------------------------------------


@pytest.mark.only(side="publish")
def test_s04_a_message_that_nobody_listens_to_is_a_receipt_and_an_event(chain):
    """The publisher sees it in the receipt, and observers get an event."""
    unrouted = []
    with chain() as running:
        for subscription in running.bus.subscriptions:
            subscription.unsubscribe()
        running.bus.observe(lambda event: unrouted.append(event.message.subject) if isinstance(event, Unrouted) else None)
        result = running.send("nobody.listens")

    assert result.outcome == Receipt(0)
    assert result.outcome
    assert unrouted == ["nobody.listens"]
    assert running.bus.stats()["unrouted"] == 1


class Archive:
    """A filter that never calls on, and declares so."""

    terminal = True

    def __call__(self, message, call_next):
        return Dropped("archived")


def passing(message, call_next):
    return call_next(message)


@pytest.mark.parametrize("side", ["publish", "delivery"])
@pytest.mark.parametrize(
    "chain_of",
    [
        lambda: (Archive(), passing),
        lambda: (Pipeline(Archive()), passing),
        lambda: (Archive(), when("a.>", passing)),
        lambda: (when("a.>", Archive()), when("a.b", passing)),
        lambda: (when("a.>", Archive(), passing),),
        lambda: (branch("a.>", Archive(), passing), passing),
        lambda: (when(lambda message: message.body, Archive(), passing),),
    ],
    ids=[
        "beside",
        "behind a pipeline",
        "in a when",
        "narrower pattern",
        "inside a when",
        "inside a branch",
        "inside a predicate",
    ],
)
def test_s04_what_stands_behind_a_terminal_filter_is_refused_at_build(chain_of, side):
    """The bus finds a filter that can never run before the first message."""
    with pytest.raises(PipelineError, match=r"passing \(.*\) can never run: Archive .* is terminal"):
        Bus().use(*chain_of(), at=side)


@table(
    ("chain_of", "subject", "outcome"),
    [
        (lambda: (passing, Archive()), "a.b", Dropped("archived", by="Archive")),
        (lambda: (branch("a.>", Archive()), passing), "b.c", Receipt(0)),
        (lambda: (when("a.>", Archive()), passing), "b.c", Receipt(0)),
        (lambda: (when(lambda message: message.body, Archive()), passing), "a.b", Receipt(0)),
        (lambda: (when("a.>", Archive()), when("b.>", passing)), "b.c", Receipt(0)),
    ],
    ids=["last", "in a branch", "in a when", "behind a predicate", "other pattern"],
)
def test_s04_a_terminal_filter_that_some_messages_pass_by_is_no_mistake(chain_of, subject, outcome):
    """A filter behind a terminal one is refused only if no message can reach it."""
    bus = Bus()
    bus.use(*chain_of())

    with bus:
        assert bus.publish(subject) == outcome


def test_s04_a_subscription_s_own_filters_behind_a_terminal_of_the_bus_are_refused():
    """The bus's delivery chain and the subscription's own filters form one chain."""
    bus = Bus()
    bus.use(Archive(), at="delivery")

    with pytest.raises(PipelineError, match=r"passing .* can never run: Archive .* is terminal"):
        bus.subscribe("x", lambda message: None, filters=[passing])

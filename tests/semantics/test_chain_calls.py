"""What passes between filters, guarantees 12 to 15: calling on, cancellation, context variables, immutable messages."""

import asyncio
import contextvars
import threading
from contextlib import nullcontext
from typing import Any

import pytest

from pipebus import (
    Around,
    Bus,
    BusClosed,
    Delivery,
    Dropped,
    Handled,
    Message,
    Pause,
    Pipeline,
    PipelineError,
    Receipt,
    around,
    transform,
    when,
)
from tables import table


def ending(kind: Any) -> Any:
    """The outcome of a chain whose message reached the end."""
    return Receipt(1) if kind.side == "publish" else Handled(None)


def other_side(kind: Any) -> Any:
    """An outcome of the wrong side."""
    return Handled(None) if kind.side == "publish" else Receipt(1)


def passing(message):
    return (yield message)


# --- 12. call_next is callable again -----------------------------------------------------------------------------------


def test_s12_each_call_of_call_next_is_a_fresh_pass(chain, step, trail):
    """The rest of the chain runs again from its beginning, with the message of this call."""

    def twice(message):
        yield message.with_body("first")
        return (yield message.with_body("second"))

    result = chain.run(trail("A"), step(twice), trail("B"))

    assert trail == ["A in", "B in", "T", "B out", "B in", "T", "B out", "A out"]
    assert [message.body for message in result.received] == ["first", "second"]


def test_s12_a_pass_keeps_nothing_of_the_one_before(chain, step, kind):
    """A filter further in starts from scratch in each pass: its local variables belong to that pass alone."""
    counts = []

    def three_times(message):
        for _ in range(3):
            outcome = yield message
        return outcome

    def count(message):
        passes = 0
        passes += 1
        outcome = yield message
        counts.append(passes)
        return outcome

    result = chain.run(step(three_times), step(count))

    assert counts == [1, 1, 1]
    assert result.outcome == ending(kind)


def test_s12_call_next_may_be_called_after_an_error(chain, step, kind):
    """A filter may call on again after an error, which is how a retry is written."""
    attempts = []

    def again(message):
        try:
            return (yield message)
        except ConnectionError:
            return (yield message)

    def flaky(message):
        attempts.append(message)
        if len(attempts) == 1:
            raise ConnectionError("not yet")
        return (yield message)

    result = chain.run(step(again), step(flaky))

    assert len(attempts) == 2
    assert (result.outcome, result.error) == (ending(kind), None)
    assert len(result.received) == 1


def test_s12_call_next_may_be_called_after_a_drop(chain, step, kind):
    """A drop ends its own pass only, and the next pass decides for itself."""
    refusals = [True, False]

    def again(message):
        outcome = yield message
        return outcome if outcome else (yield message)

    def picky(message):
        return Dropped("not now") if refusals.pop(0) else (yield message)

    result = chain.run(step(again), step(picky))

    assert result.outcome == ending(kind)
    assert len(result.received) == 1


@pytest.mark.parametrize(
    "answer",
    [lambda kind: True, lambda kind: "ok", lambda kind: Message("a"), lambda kind: Dropped, other_side],
    ids=["True", "text", "a message", "a class", "the other side's outcome"],
)
def test_s12_a_filter_that_returns_no_outcome_is_named(chain, step, trail, kind, answer):
    """The error names the filter, although the message has already passed."""

    def odd(message):
        yield message
        return answer(kind)

    result = chain.run(trail("A"), step(odd))

    assert trail == ["A in", "T"]
    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith("filter odd returned ")


@pytest.mark.parametrize("passes", [0, 1])
def test_s12_a_plain_filter_that_returns_nothing_is_named(chain, plain, kind, passes):
    """The most common mistake is a forgotten `return`, and the error says how to write it."""

    def forgetful(message):
        for _ in range(passes):
            yield message

    result = chain.run(plain(forgetful))

    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith("filter forgetful returned None where an outcome is due")
    assert "return call_next(message)" in str(result.error)
    assert len(result.received) == passes


def test_s12_an_around_that_ends_before_any_pass_is_named(chain):
    """An Around that ends before its first pass has no outcome to return."""

    @around
    def hasty(message):
        if message is None:
            yield message

    result = chain.run(hasty)

    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith("filter hasty returned before any pass")
    assert result.received == []


def test_s12_an_around_that_swallows_an_error_and_gives_nothing_is_named(chain, plain):
    """An Around that swallows the error of its only pass has no outcome to return, and the error names it."""

    @around
    def forgetful(message):
        try:
            yield message
        except ValueError:
            return

    def failing(message):
        raise ValueError("b")
        yield

    result = chain.run(forgetful, plain(failing))

    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith("filter forgetful returned before any pass gave an outcome")


NO_MESSAGE = {
    "None": None,
    "a mapping": {"subject": "orders.created"},
    "an outcome": Receipt(1),
}


@pytest.fixture(params=["nothing", "plain", "transform", "around", "when"])
def behind(request, plain):
    """The filters that come after the filter under test."""

    @transform
    def look(message):
        return message

    return {
        "nothing": (),
        "plain": (plain(passing),),
        "transform": (look,),
        "around": (around(passing),),
        "when": (when(lambda message: message.subject, look),),
    }[request.param]


@pytest.mark.parametrize("junk", NO_MESSAGE.values(), ids=NO_MESSAGE.keys())
def test_s12_a_plain_filter_that_hands_on_no_message_is_named(chain, plain, behind, junk):
    """Whatever filter comes next, the error blames the one that handed the value on, not the one that received it."""

    def odd(message):
        return (yield junk)

    result = chain.run(plain(odd), *behind)

    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith(f"filter odd handed on {junk!r}, not a Message")
    assert result.received == []


@pytest.mark.parametrize("junk", [*NO_MESSAGE.values(), 0.5], ids=[*NO_MESSAGE.keys(), "a number"])
def test_s12_an_around_that_yields_no_message_is_named(chain, behind, junk):
    """An Around may yield a Message, a Pause or a Call, and the error says so."""

    @around
    def odd(message):
        return (yield junk)

    result = chain.run(odd, *behind)

    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith(f"filter odd yielded {junk!r}")
    assert "Pause" in str(result.error)
    assert result.received == []


@pytest.mark.parametrize("junk", NO_MESSAGE.values(), ids=NO_MESSAGE.keys())
def test_s12_a_transform_that_returns_no_message_is_named(chain, behind, junk):
    """If a Transform returns None, as with a forgotten `return`, or any other wrong value, the error names it."""

    @transform
    def odd(message):
        return junk

    result = chain.run(odd, *behind)

    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith(f"filter odd returned {junk!r}")
    assert result.received == []


def test_s12_a_handler_behind_a_broken_filter_goes_on_with_the_next_message(chain, plain, kind):
    """One bad value from a filter stops neither a worker nor the bus."""
    junk = [None]

    def odd(message):
        return (yield junk.pop() if junk else message)

    with chain(plain(odd)) as running:
        first = running.send()
        second = running.send()

    assert isinstance(first.error, PipelineError)
    assert (second.outcome, second.error, len(second.received)) == (ending(kind), None, 1)


# Async chains: call_next(…) is an awaitable, and two more things can go wrong.


async def forgets_to_await(message, call_next):
    call_next(message)
    return Dropped("done")


async def returns_unawaited(message, call_next):
    return call_next(message)


async def forgets_the_second(message, call_next):
    outcome = await call_next(message)
    call_next(message)
    return outcome


async def leaves_a_task(message, call_next):
    asyncio.ensure_future(call_next(message))  # noqa: RUF006
    return Dropped("done")


@pytest.mark.only(colour="async")
@pytest.mark.parametrize(
    "filter", [forgets_to_await, returns_unawaited, forgets_the_second, leaves_a_task], ids=lambda f: f.__name__
)
def test_s12_a_call_next_that_is_not_awaited_is_named(chain, filter):
    """A missing `await`, which would otherwise lose messages silently, is an error that names the filter."""
    result = chain.run(filter)

    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith(f"filter {filter.__name__} ")
    assert "await call_next(…)" in str(result.error)
    assert len(result.received) == (filter is forgets_the_second)


async def fails_with_a_call_open(message, call_next):
    call_next(message)
    raise LookupError("b")


async def fails_with_a_task_open(message, call_next):
    asyncio.ensure_future(call_next(message))  # noqa: RUF006
    raise LookupError("b")


@pytest.mark.only(colour="async")
@pytest.mark.parametrize("filter", [fails_with_a_call_open, fails_with_a_task_open], ids=lambda f: f.__name__)
def test_s12_an_error_of_the_filter_wins_over_a_call_that_was_not_awaited(chain, filter):
    """The filter's own error comes out, no warning follows, and no message slips through."""
    result = chain.run(filter)

    assert type(result.error) is LookupError
    assert result.received == []


async def awaits_in_a_task(message, call_next):
    return asyncio.ensure_future(call_next(message))


async def calls_in_a_task(message, call_next):
    async def later():
        return await call_next(message)

    return asyncio.ensure_future(later())


@pytest.mark.only(colour="async")
@pytest.mark.parametrize("filter", [awaits_in_a_task, calls_in_a_task], ids=lambda f: f.__name__)
def test_s12_no_pass_begins_after_the_filter_has_returned(chain, filter):
    """A task that a filter leaves behind, and that would only now begin to call on, is cancelled."""
    left = []

    async def outer(message, call_next):
        try:
            return await call_next(message)
        finally:
            await asyncio.wait(left)

    async def leaves(message, call_next):
        left.append(await filter(message, call_next))
        raise LookupError("b")

    result = chain.run(outer, leaves)

    assert type(result.error) is LookupError
    assert left[0].cancelled()
    assert result.received == []


@pytest.mark.only(colour="async")
def test_s12_one_call_of_call_next_is_one_pass(chain):
    """Awaiting the same call a second time does not repeat it: the error names the filter, and the message passes once."""

    async def greedy(message, call_next):
        passing = call_next(message)
        await passing
        return await passing

    result = chain.run(greedy)

    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith("filter greedy ")
    assert len(result.received) == 1


async def gathers(message, call_next):
    return (await asyncio.gather(call_next(message), call_next(message)))[0]


async def calls_twice_then_awaits(message, call_next):
    first, second = call_next(message), call_next(message)
    await first
    return await second


@pytest.mark.only(colour="async")
@pytest.mark.parametrize("filter", [gathers, calls_twice_then_awaits], ids=lambda f: f.__name__)
@pytest.mark.parametrize("rest", ["suspends", "goes through"])
def test_s12_two_calls_of_call_next_at_the_same_time_are_named(chain, plain, filter, rest):
    """Two passes at once are a mistake, whether or not the rest of the chain waits."""

    async def pauses(message, call_next):
        await asyncio.sleep(0)
        return await call_next(message)

    result = chain.run(filter, pauses if rest == "suspends" else plain(passing))

    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith(f"filter {filter.__name__} called call_next again before the previous pass")
    assert "await call_next(…)" in str(result.error)


@pytest.mark.only(colour="async")
def test_s12_passes_one_after_the_other_are_no_mistake(chain):
    """A filter may await three calls in a row, one of them in a task that it awaits."""

    async def patient(message, call_next):
        await call_next(message)
        await asyncio.ensure_future(call_next(message))
        return await call_next(message)

    result = chain.run(patient)

    assert result.error is None
    assert len(result.received) == 3


@pytest.mark.only(colour="sync")
def test_s12_with_debug_threads_that_share_a_call_next_are_named(chain):
    """A sync chain cannot detect this without a cost, so only `Bus(debug=True)` checks for it."""
    inside, go_on = threading.Event(), threading.Event()
    other: list[threading.Thread] = []

    def shares(message, call_next):
        other.append(threading.Thread(target=call_next, args=(message,)))
        other[0].start()
        assert inside.wait(timeout=10)
        try:
            return call_next(message)
        finally:
            go_on.set()
            other[0].join(timeout=10)

    def slow(message, call_next):
        inside.set()
        assert go_on.wait(timeout=10)
        return call_next(message)

    with chain(shares, slow, debug=True) as running:
        result = running.send()

    assert isinstance(result.error, PipelineError)
    assert str(result.error).startswith("filter shares called call_next twice at the same time")


@pytest.mark.only(colour="sync")
def test_s12_with_debug_passes_one_after_the_other_are_no_mistake(chain, kind):
    """A filter may also call on from another thread, if it waits for that thread."""

    def patient(message, call_next):
        other = threading.Thread(target=call_next, args=(message,))
        other.start()
        other.join(timeout=10)
        return call_next(message)

    with chain(patient, debug=True) as running:
        result = running.send()

    assert (result.outcome, result.error) == (ending(kind), None)
    assert len(result.received) == 2


# --- 13. cancellation is not failure -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [None, "reject", "dead_letter", "drop"])
def test_s13_a_cancelled_publish_is_no_failure(rule):
    """`finally` blocks run and `except Exception` does not, no rule for errors applies, and there is no dead letter."""
    seen = []

    @around
    def again(message):
        try:
            return (yield message)
        except Exception:
            seen.append("failed")
            return (yield message)
        finally:
            seen.append("finally")

    async def watch(message, call_next):
        try:
            return await call_next(message)
        except Exception:
            seen.append("failed")
            raise

    async def main():
        inside = asyncio.Event()

        async def waits(message, call_next):
            inside.set()
            await asyncio.wait_for(asyncio.Event().wait(), timeout=10)

        bus.use(Pipeline(again, watch, waits, on_error=rule))
        async with bus:
            publish = asyncio.create_task(bus.apublish("x"))
            async with asyncio.timeout(10):
                await inside.wait()
            publish.cancel()
            with pytest.raises(asyncio.CancelledError):
                await publish
            return publish.cancelled()

    bus = Bus()
    subscription = bus.subscribe("x")

    assert asyncio.run(main())
    assert seen == ["finally"]
    assert len(bus.dead_letters) == 0
    assert bus.stats()["dropped"] == {}
    assert subscription.stats()["accepted"] == 0


def test_s13_a_publish_that_waits_when_the_bus_stops_is_cancelled():
    """The `finally` blocks of its filters run, its publisher gets an error, and the message does not become a dead letter."""
    inside, ended = threading.Event(), threading.Event()
    outcome: list[Any] = []

    async def waits(message, call_next):
        try:
            inside.set()
            await asyncio.wait_for(asyncio.Event().wait(), timeout=10)
        finally:
            ended.set()

    def publish():
        try:
            outcome.append(bus.publish("x"))
        except BaseException as error:
            outcome.append(error)

    bus = Bus()
    bus.use(Pipeline(waits, on_error="dead_letter"))
    bus.start()
    publisher = threading.Thread(target=publish, daemon=True)
    publisher.start()
    assert inside.wait(timeout=10)
    bus.stop(timeout=0.1)
    publisher.join(timeout=10)

    assert ended.is_set()
    assert not publisher.is_alive()
    assert isinstance(outcome[0], BaseException)
    assert len(bus.dead_letters) == 0


@pytest.mark.only(side="delivery")
def test_s13_a_handler_that_raises_a_stray_cancelled_error_has_failed(chain, trail):
    """If nobody cancelled the handler, its CancelledError is an error like any other, and the next message is handled."""
    error = asyncio.CancelledError("mine")
    errors = [error]

    def handler(message):
        if errors:
            raise errors.pop()

    with chain(trail("A"), handler=handler) as running:
        first = running.send()
        second = running.send()
        letters = running.bus.dead_letters.list()

    assert first.error is error
    assert second.outcome == Handled(None)
    assert [letter.error for letter in letters] == ["CancelledError: mine"]


@pytest.mark.only(side="publish")
def test_s13_a_filter_that_raises_a_stray_cancelled_error_has_failed(chain, step, trail):
    """The publisher gets the very error that the filter raised."""
    error = asyncio.CancelledError("mine")

    def stray(message):
        raise error
        yield

    result = chain.run(trail("A"), step(stray))

    assert result.error is error
    assert trail == ["A in"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["handler", "filter"])
@pytest.mark.parametrize("times", [1, 1_000_000], ids=["once", "always"])
def test_s13_an_interrupt_in_a_handler_returns_the_message_and_requests_a_stop(error, place, times):
    """
    The message goes back, and readers that wait get `BusClosed`. An interrupt leaves its attempts unchanged; an exit counts
    as an attempt, and ends the program.
    """
    left, attempts = [times], []

    def interrupted(where):
        if where == place and left[0] > 0:
            left[0] -= 1
            raise error

    @transform
    def filter(message):
        interrupted("filter")
        return message

    def handler(message, delivery: Delivery):
        attempts.append(delivery.attempt)
        interrupted("handler")

    bus = Bus()
    subscription = bus.subscribe("x", handler, name="worker", filters=[filter])
    reader = bus.subscribe("y")
    ends = pytest.raises(SystemExit) if error is SystemExit else nullcontext()
    with ends, bus:
        bus.publish("x")
        with pytest.raises(BusClosed):
            reader.receive(timeout=10)
        bus.stop(timeout=2)
    report = bus.stop()

    assert bus.stopping
    assert 1 <= times - left[0] <= 2, "taken again and again, though a stop was requested"
    assert report.abandoned == ()
    stats = subscription.stats()
    assert stats["accepted"] == 1 == stats["acknowledged"] + stats["pending"]
    assert report.left == ({"worker": 1} if stats["pending"] else {})

    left[0] = 0
    with bus:
        bus.drain(timeout=10)
    assert subscription.stats()["acknowledged"] == 1
    assert attempts[-1] == (2 if error is SystemExit else 1)
    assert len(bus.dead_letters) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.only(side="publish")
def test_s13_an_interrupt_in_a_publish_filter_goes_to_the_publisher(chain, step, error):
    """The publisher gets the interrupt, as from any function that it calls, and the bus continues."""
    raised = [error("now")]

    def interrupted(message):
        if raised:
            raise raised.pop()
        return (yield message)

    with chain(step(interrupted)) as running:
        first = running.send()
        second = running.send()

    assert type(first.error) is error
    assert (second.outcome, second.error) == (Receipt(1), None)


# --- 14. context variables ---------------------------------------------------------------------------------------------

who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


def plain_setter(seen):
    def filter(message, call_next):
        seen.append(who.get())
        who.set("the filter")
        return call_next(message)

    return filter


def async_setter(seen):
    async def filter(message, call_next):
        seen.append(who.get())
        who.set("the filter")
        return await call_next(message)

    return filter


def setting_transform(seen):
    @transform
    def filter(message):
        seen.append(who.get())
        who.set("the filter")
        return message

    return filter


def in_context(call):
    """Run the publisher of a test in a context of its own."""
    return contextvars.copy_context().run(call)


def test_s14_a_publish_filter_runs_in_the_publisher_s_context():
    """The filter sees the publisher's variables, and the publisher sees what the filter sets."""
    seen: list[str] = []
    bus = Bus()
    bus.use(plain_setter(seen))

    def publisher():
        who.set("the publisher")
        bus.publish("x")
        return who.get()

    with bus:
        after = in_context(publisher)

    assert (seen, after) == (["the publisher"], "the filter")


@pytest.mark.parametrize("make", [async_setter, plain_setter, setting_transform], ids=lambda f: f.__name__)
def test_s14_apublish_runs_its_filters_in_the_coroutine_s_context(make):
    """The filters run on the caller's loop and in the caller's task, whatever their colour."""
    seen: list[str] = []
    bus = Bus()
    bus.use(make(seen))

    async def publisher():
        who.set("the publisher")
        await bus.apublish("x")
        return who.get()

    with bus:
        after = asyncio.run(publisher())

    assert (seen, after) == (["the publisher"], "the filter")


def test_s14_a_sync_publish_over_an_async_chain_runs_in_a_copy():
    """The chain runs on another thread: it sees the publisher's variables, and what it sets is gone afterwards."""
    seen: list[str] = []
    bus = Bus()
    bus.use(async_setter(seen))

    def publisher():
        who.set("the publisher")
        bus.publish("x")
        return who.get()

    with bus:
        after = in_context(publisher)

    assert (seen, after) == (["the publisher"], "the publisher")


class Wait(Around):
    """A filter that may wait, so that an event loop must not run its sync chain inline."""

    waits = True

    def around(self, message):
        yield Pause(0.0)
        return (yield message)


def test_s14_apublish_that_needs_a_worker_runs_in_a_copy():
    """A plain sync filter next to an async one sees the publisher's variables, and what it sets is gone afterwards."""
    seen: list[str] = []
    bus = Bus()
    bus.use(plain_setter(seen), Wait())

    async def publisher():
        who.set("the publisher")
        await bus.apublish("x")
        return who.get()

    with bus:
        after = asyncio.run(publisher())

    assert (seen, after) == (["the publisher"], "the publisher")


def test_s14_a_token_set_on_the_way_in_can_be_reset_on_the_way_out(chain, step, kind):
    """The way in and the way out of a filter have the same context."""
    inside = []

    def scoped(message):
        token = who.set("the filter")
        try:
            return (yield message)
        finally:
            who.reset(token)

    def look(message):
        inside.append(who.get())
        return (yield message)

    result = chain.run(step(scoped), step(look))

    assert inside == ["the filter"]
    assert (result.outcome, result.error) == (ending(kind), None)


@pytest.mark.only(side="delivery")
def test_s14_a_delivery_filter_s_variables_are_seen_by_the_handler(chain, step):
    """All filters and the handler of one delivery share one context."""
    seen = []

    def outer(message):
        who.set("the filter")
        return (yield message)

    chain.run(step(outer), handler=lambda message: seen.append(who.get()))

    assert seen == ["the filter"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("place", ["handler", "filter"])
@pytest.mark.parametrize("ends", ["well", "in an error", "in a drop"])
def test_s14_what_a_delivery_sets_is_gone_with_its_message(workers, place, ends):
    """Each delivery has its own context, also in one batch on one worker, and however the one before ended."""
    seen = []

    def deliver(where):
        if where == place:
            seen.append(who.get())
            who.set("an earlier message")

    @transform
    def filter(message):
        deliver("filter")
        return Dropped("for the test") if ends == "in a drop" else message

    def handler(message):
        deliver("handler")
        if ends == "in an error":
            raise ValueError("for the test")

    bus = Bus(pool=workers + 1)
    bus.subscribe("x", handler, workers=workers, filters=[filter] if place == "filter" or ends == "in a drop" else [])
    with bus:
        for _ in range(100):
            bus.publish("x")
        bus.drain(timeout=10)

    assert seen == ["nobody"] * (100 if place == "filter" or ends != "in a drop" else 0)


def test_s14_the_publisher_s_variables_do_not_reach_the_handler():
    """A handler does not see the variables of its publisher."""
    seen = []
    bus = Bus()
    bus.subscribe("x", lambda message: seen.append(who.get()))

    def publisher():
        who.set("the publisher")
        bus.publish("x")

    with bus:
        in_context(publisher)
        bus.drain(timeout=10)

    assert seen == ["nobody"]


def test_s14_ids_that_join_messages_travel_in_the_envelope():
    """The headers and the correlation id arrive with the message."""
    seen = []
    bus = Bus()
    bus.subscribe("x", lambda message: seen.append((message.headers["trace"], message.correlation_id)))
    with bus:
        bus.publish("x", headers={"trace": "t-1"}, correlation_id="c-1")
        bus.drain(timeout=10)

    assert seen == [("t-1", "c-1")]


def test_s14_a_reader_s_filters_run_in_the_reader_s_context():
    """A subscription without a handler has no worker, so its Transforms run in the context of the code that reads."""

    seen: list[str] = []
    bus = Bus()
    subscription = bus.subscribe("x", filters=[setting_transform(seen)])

    def reader():
        who.set("the reader")
        subscription.receive(timeout=10)
        return who.get()

    with bus:
        bus.publish("x")
        after = in_context(reader)

    assert (seen, after) == (["the reader"], "the filter")


# --- 15. messages are immutable ----------------------------------------------------------------------------------------


def test_s15_what_was_passed_on_is_seen_only_downstream(chain, step):
    """A filter passes on a changed copy, and the filters in front of it keep the message that they had."""
    held = {}

    def note(name, change=None):
        def body(message):
            outcome = yield change(message) if change else message
            held[name] = (message.body, dict(message.headers))
            return outcome

        return step(body, name)

    result = chain.run(
        note("A"),
        note("B", lambda message: message.with_body("changed")),
        note("C", lambda message: message.with_headers(seen="yes")),
        note("D"),
        body="as published",
    )

    assert held == {
        "A": ("as published", {}),
        "B": ("as published", {}),
        "C": ("changed", {}),
        "D": ("changed", {"seen": "yes"}),
    }
    assert [(message.body, dict(message.headers)) for message in result.received] == [("changed", {"seen": "yes"})]


def test_s15_the_publisher_s_message_stays_as_it_was():
    """The chain changes only copies of the message that `send` gets."""

    @transform
    def change(message):
        return message.with_body("changed").with_headers(seen="yes")

    message = Message("x", "as made", headers={"from": "me"})
    bus = Bus()
    bus.use(change)
    subscription = bus.subscribe("x")
    with bus:
        bus.send(message)
        received = subscription.receive(timeout=10)

    assert (message.body, dict(message.headers)) == ("as made", {"from": "me"})
    assert (received.body, dict(received.headers)) == ("changed", {"from": "me", "seen": "yes"})
    assert received.id == message.id


@table("field", ["subject", "body", "headers", "key", "ttl", "reply_to", "correlation_id", "id", "time", "new_field"])
def test_s15_no_field_of_an_envelope_can_be_set_or_deleted(field):
    """A filter cannot do it, nor can a handler or the code that made the message."""
    message = Message("x", {"a": 1})

    with pytest.raises((AttributeError, TypeError)):
        setattr(message, field, "changed")
    with pytest.raises((AttributeError, TypeError)):
        delattr(message, field)


@pytest.mark.parametrize(
    "mutate",
    [
        lambda headers: headers.__setitem__("a", "2"),
        lambda headers: headers.__delitem__("a"),
        lambda headers: headers.update(a="2"),
        lambda headers: headers.pop("a"),
        lambda headers: headers.popitem(),
        lambda headers: headers.clear(),
        lambda headers: headers.setdefault("b", "2"),
        lambda headers: headers.__ior__({"a": "2"}),
    ],
    ids=["set", "del", "update", "pop", "popitem", "clear", "setdefault", "|="],
)
@pytest.mark.parametrize("headers", [{}, {"a": "1"}], ids=["none", "some"])
def test_s15_headers_cannot_be_mutated(mutate, headers):
    """The error says how to make a changed message."""
    message = Message("x", headers=headers)

    with pytest.raises(TypeError, match=r"message\.with_headers"):
        mutate(message.headers)
    assert dict(message.headers) == headers


def test_s15_the_headers_that_a_publisher_hands_in_are_copied():
    """If the publisher changes its dictionary afterwards, no message changes."""
    mine = {"a": "1"}
    message = Message("x", headers=mine)
    mine["a"] = "2"

    assert message.headers["a"] == "1"


def test_s15_on_a_wire_no_reader_sees_what_another_did_to_a_body():
    """In memory, readers share a mutable body, so they must not change it; an encoded body is not shared."""
    seen = {}

    def greedy(message):
        message.body.append("mine")
        seen["greedy"] = message.body

    bus = Bus("memory:?wire=json")
    bus.subscribe("x", greedy)
    late = bus.subscribe("x")
    body = ["as published"]
    with bus:
        bus.publish("x", body)
        bus.drain(timeout=10)
        seen["late"] = late.receive(timeout=10).body

    assert seen == {"greedy": ["as published", "mine"], "late": ["as published"]}
    assert body == ["as published"]

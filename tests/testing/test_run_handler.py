"""run_handler: one handler alone, called as a worker would call it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import itertools
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from pydantic import BaseModel, Field

from flow_helpers import WAIT, InThread
from pipebus import (
    Actor,
    AlreadySettled,
    Bus,
    Delivery,
    Dropped,
    Handled,
    LifecycleError,
    Message,
    NoResponder,
    Pause,
    PipelineError,
    Ref,
    Rejected,
    SubjectError,
    SubscriptionError,
    around,
    transform,
)
from pipebus.filters import Retry, SetHeaders, Timeout, Validate
from pipebus.testing import HandlerRun, Harness, run_filter, run_handler
from tables import table

pytest_plugins = ["pytester"]


class Order(BaseModel):
    id: int = Field(gt=0)
    item: str = "tea"


@dataclass
class Point:
    x: int
    y: int = 0


both_colours = pytest.mark.parametrize("colour", ["sync", "async"])


def coloured(colour: str, act: Callable[..., Any]) -> Any:
    """A handler of this colour that is given the message and its delivery, and does what `act` does with the delivery."""

    def handler(message: Message, delivery: Delivery) -> Any:
        return act(delivery)

    async def ahandler(message: Message, delivery: Delivery) -> Any:
        await asyncio.sleep(0)
        return act(delivery)

    return handler if colour == "sync" else ahandler


def simple(colour: str, act: Callable[[Message], Any]) -> Any:
    """A handler of this colour that does with its message what `act` does."""

    def handler(message):
        return act(message)

    async def ahandler(message):
        await asyncio.sleep(0)
        return act(message)

    return handler if colour == "sync" else ahandler


def name_of(colour: str) -> str:
    """The name of a handler that the two functions above make."""
    return "handler" if colour == "sync" else "ahandler"


def body_of(message):
    return message.body


async def abody_of(message):
    return message.body


def steps(run: HandlerRun) -> list[tuple[str, str]]:
    """Return who did what, without the times."""
    return [(moment.who, moment.what) for moment in run.moments]


def names(error: BaseException | None) -> list[str]:
    """The functions of an error's traceback, the outermost first."""
    assert error is not None
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


# --- what a handler is given -------------------------------------------------------------------------------------------


def unannotated(message):
    return type(message).__name__, message.body


def annotated(message: Message):
    return type(message).__name__, message.body


def typed(message: Message[Order]):
    return type(message.body).__name__, message.body.id, message.subject


def body(order: Order):
    return type(order).__name__, order.id


def dataclass_body(point: Point):
    return type(point).__name__, point.x


def number(count: int):
    return count


def anything(found: Any):
    return found


def all_of_them(order: Order, delivery: Delivery, bus: Bus, message: Message):
    return type(order).__name__, type(delivery).__name__, type(bus).__name__, message.body


def keywords(*, order: Order, bus: Bus):
    return order.id, bus.state


def with_default(message, limit=5):
    return message.body, limit


def many(*messages):
    return len(messages), messages[0].body


async def aall_of_them(order: Order, delivery: Delivery, bus: Bus, message: Message):
    return type(order).__name__, type(delivery).__name__, type(bus).__name__, message.body


async def atyped(message: Message[Order]):
    return type(message.body).__name__, message.body.id, message.subject


async def anumber(count: int):
    return count


class Till:
    """A callable object, with methods."""

    def __call__(self, count: int):
        return count + 1

    def ring(self, count: int):
        return count + 2

    async def aring(self, count: int):
        return count + 3


class AsyncTill:
    """A callable object, async."""

    async def __call__(self, count: int):
        return count + 4


def scaled(factor: int, message):
    return factor * message.body


GIVEN: dict[str, tuple[Any, Any, Any]] = {
    "no annotation": (unannotated, 1, ("Message", 1)),
    "Message": (annotated, 1, ("Message", 1)),
    "Message of a type": (typed, {"id": "5"}, ("Order", 5, "test")),
    "async Message of a type": (atyped, {"id": "5"}, ("Order", 5, "test")),
    "body": (body, {"id": "5"}, ("Order", 5)),
    "body as it is": (body, Order(id=7), ("Order", 7)),
    "dataclass": (dataclass_body, {"x": 3}, ("Point", 3)),
    "number": (number, "5", 5),
    "async number": (anumber, "5", 5),
    "anything": (anything, {"a": [1]}, {"a": [1]}),
    "all of them": (all_of_them, {"id": 1}, ("Order", "Delivery", "Bus", {"id": 1})),
    "async all of them": (aall_of_them, {"id": 1}, ("Order", "Delivery", "Bus", {"id": 1})),
    "keywords": (keywords, {"id": 1}, (1, "started")),
    "default": (with_default, 1, (1, 5)),
    "star": (many, 1, (1, 1)),
    "object": (Till(), "1", 2),
    "method": (Till().ring, "1", 3),
    "async method": (Till().aring, "1", 4),
    "async object": (AsyncTill(), "1", 5),
    "partial": (functools.partial(scaled, 3), 2, 6),
    "partial of an async": (functools.partial(anumber), "5", 5),
    "lambda": (lambda message: message.body, 9, 9),
    "nothing at all": (body_of, None, None),
}


@table(("handler", "given", "value"), GIVEN.values(), ids=GIVEN)
def test_parameters_are_filled_as_on_a_bus(handler, given, value):
    """The annotations decide: a parameter gets the message, its body as a type, the delivery, or the bus."""
    run = run_handler(handler, given)

    assert run.value == value
    assert (run.error, run.settlement, run.elapsed, run.delay) == (None, "acknowledged", 0.0, 0.0)
    assert run.published == []
    assert run.message.body is given


def test_a_body_may_be_left_out():
    """A handler that does not look at the body needs none."""
    run = run_handler(body_of)

    assert run.value is None
    assert (run.message.subject, run.message.body) == ("test", None)


def test_a_builtin_is_a_handler():
    """`list.append` is the shortest handler there is."""
    found: list[Any] = []
    message = Message("x", 1)

    assert run_handler(found.append, message).value is None
    assert found == [message]


@both_colours
def test_a_message_comes_as_it_was_made(colour):
    """
    The handler gets the same object with its subject, headers, key and all the rest, unless its annotation asks for another
    type.
    """
    message = Message("orders.eu", 1, headers={"shop": "corner"}, key="k", ttl=60, reply_to="back", correlation_id="c")
    seen: list[Any] = []
    run = run_handler(simple(colour, seen.append), message)

    assert seen == [message]
    assert run.message is message


def test_a_subject_may_be_an_object():
    """A message to a `Ref` can be given to a handler, as on a bus."""
    assert run_handler(lambda message: message.subject, Message(Ref((1, 2)))).value == Ref((1, 2))


@both_colours
def test_the_delivery_is_the_first_taking(colour):
    """The delivery is attempt 1 of this message, and not settled yet."""
    message = Message("x", 1)
    run = run_handler(
        coloured(colour, lambda delivery: (delivery.attempt, delivery.redelivered, delivery.settled, delivery.message)), message
    )

    assert run.value == (1, False, False, message)


def test_the_handler_is_called_once():
    """The handler runs once, whatever it returns, even if the value is refused."""
    calls: list[Any] = []
    for value in (None, 0, False, ""):
        calls.clear()
        run = run_handler(lambda message, value=value: calls.append(message) or value, 1)
        assert len(calls) == 1
        assert run.value == value
    for outcome in (Dropped("no"), Handled(1)):
        calls.clear()
        run = run_handler(lambda message, value=outcome: calls.append(message) or value, 1)
        assert len(calls) == 1
        assert isinstance(run.error, SubscriptionError)


# --- bodies that do not fit --------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Any, Any, str]] = {
    "body": (body, {"id": "many"}, "id: Input should be a valid integer, unable to parse string as an integer"),
    "rule": (body, {"id": 0}, "id: Input should be greater than 0"),
    "two errors": (body, {"id": 0, "item": 5}, "id: Input should be greater than 0; item: Input should be a valid string"),
    "no mapping": (body, 5, "Input should be a valid dictionary or instance of Order"),
    "message": (typed, {"id": "many"}, "id: Input should be a valid integer"),
    "async": (anumber, "many", "Input should be a valid integer"),
    "object": (Till(), "many", "Input should be a valid integer"),
    "nothing": (number, None, "Input should be a valid integer"),
}


@table(("handler", "given", "told"), BAD.values(), ids=BAD)
def test_a_body_that_does_not_fit_is_refused_in_the_handlers_name(handler, given, told):
    """The handler is not called: the message is dead at once, and `Rejected` has every reason, as on a bus."""
    run = run_handler(handler, given)
    name = getattr(handler, "__name__", type(handler).__name__)

    assert isinstance(run.error, Rejected)
    assert run.error.by == name
    assert told in str(run.error)
    assert run.settlement == "dead"
    with pytest.raises(Rejected):
        run.value


@table(("handler", "given", "told"), BAD.values(), ids=BAD)
def test_a_refusal_has_the_same_name_in_the_story(handler, given, told):
    """The story blames the same part as the error, and not a filter."""
    run = run_handler(handler, given)

    assert "rejected by a filter" not in run.story
    assert f"rejected by {run.error.by}" in run.story


def test_a_handler_may_refuse_by_itself():
    """A `Rejected` without a name gets the handler's name."""

    def picky(message):
        raise Rejected("not today")

    run = run_handler(picky, 1)

    assert run.error.by == "picky"
    assert run.settlement == "dead"


# --- errors ------------------------------------------------------------------------------------------------------------

RAISED = [
    ValueError("boom"),
    AssertionError("boom"),
    TimeoutError("boom"),
    asyncio.CancelledError("boom"),
    GeneratorExit("boom"),
    StopAsyncIteration("boom"),
    BaseException("boom"),
]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@both_colours
def test_an_error_is_kept_as_the_same_object(error, colour):
    """Any error makes the message dead, and `value` raises it."""

    def fails(message):
        raise error

    run = run_handler(simple(colour, fails), 1)

    assert run.error is error
    assert run.settlement == "dead"
    with pytest.raises(type(error)) as caught:
        run.value
    assert caught.value is error


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@both_colours
def test_an_interrupt_is_kept_or_gets_out(kind, colour):
    """An interrupt is seen, and does not make the message dead; the next run is as good as the first."""

    def interrupted(message):
        raise kind("now")

    settlements: list[Any] = []

    def run():
        run = run_handler(simple(colour, interrupted), 1)
        settlements.append(run.settlement)
        return run.value

    with pytest.raises(kind, match="now"):
        run()
    assert "dead" not in settlements
    assert run_handler(body_of, 2).value == 2


@both_colours
def test_a_stop_iteration_is_an_error(colour):
    """Python turns it into a RuntimeError in a coroutine."""

    def stops(message):
        raise StopIteration("over")

    run = run_handler(simple(colour, stops), 1)

    assert isinstance(run.error, StopIteration if colour == "sync" else RuntimeError)
    assert run.settlement == "dead"


@both_colours
def test_a_traceback_ends_in_the_users_own_line(colour):
    """The traceback contains no frame of the bus and none of the test kit."""

    def innermost(message):
        raise ValueError("here")

    run = run_handler(simple(colour, innermost), 1)

    assert names(run.error) == [name_of(colour), "innermost"]
    assert {frame.filename for frame in traceback.extract_tb(run.error.__traceback__)} == {__file__}


def test_a_traceback_shows_the_filters_around():
    """The traceback lists the filters around a handler in their order."""

    def watching(message, call_next):
        return call_next(message)

    def innermost(message):
        raise ValueError("here")

    assert names(run_handler(innermost, 1, filters=[watching, watching]).error) == ["watching", "watching", "innermost"]


@both_colours
def test_reading_the_value_twice_shows_the_same_error_twice(colour):
    """An error does not grow when it is looked at."""

    def innermost(message):
        raise ValueError("here")

    run = run_handler(simple(colour, innermost), 1)
    seen = []
    for _ in range(3):
        with pytest.raises(ValueError, match="here") as caught:
            run.value
        seen.append(names(caught.value))

    assert seen[0] == seen[1] == seen[2]
    assert seen[0][-1] == "innermost"


# --- settling it oneself -----------------------------------------------------------------------------------------------


def ack(delivery):
    delivery.ack()
    return "value"


def retry_later(delivery):
    delivery.retry(2.5)
    return "value"


def reject(delivery):
    delivery.reject("damaged")
    return "value"


def nothing(delivery):
    return "value"


SETTLED: dict[str, tuple[Callable[[Any], Any], str, float]] = {
    "nothing": (nothing, "acknowledged", 0.0),
    "ack": (ack, "acknowledged", 0.0),
    "retry later": (retry_later, "returned", 2.5),
}


@pytest.mark.parametrize(("act", "settlement", "delay"), SETTLED.values(), ids=SETTLED)
@both_colours
def test_a_handler_may_settle_its_delivery(act, settlement, delay, colour):
    """The handler's settlement counts, and its return value is still the value."""
    run = run_handler(coloured(colour, act), 1)

    assert (run.settlement, run.delay, run.value) == (settlement, delay, "value")
    assert run.elapsed == 0.0


@both_colours
def test_a_rejected_delivery_is_dead(colour):
    """The error has the reason and the handler's name."""
    run = run_handler(coloured(colour, reject), 1)

    assert run.settlement == "dead"
    assert isinstance(run.error, Rejected)
    assert str(run.error) == f"rejected by {name_of(colour)}: damaged"
    with pytest.raises(Rejected, match="damaged"):
        run.value


@both_colours
def test_a_delivery_that_is_given_back_at_once_does_not_come_again(colour):
    """One message makes one call; what a bus would do next is outside this test."""
    calls: list[int] = []

    def give_back(delivery):
        calls.append(delivery.attempt)
        if len(calls) < 50:  # otherwise nobody would see the end of it
            delivery.retry()
        return "value"

    run = run_handler(coloured(colour, give_back), 1)

    assert calls == [1]
    assert (run.settlement, run.delay, run.value) == ("returned", 0.0, "value")


SETTLED_AND_FAILED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "ack": (lambda delivery: delivery.ack(), "acknowledged"),
    "retry later": (lambda delivery: delivery.retry(5), "returned"),
}


@pytest.mark.parametrize(("act", "settlement"), SETTLED_AND_FAILED.values(), ids=SETTLED_AND_FAILED)
@both_colours
def test_the_first_settlement_wins_over_an_error(act, settlement, colour):
    """The settlement counts as on a bus, and the error is still visible."""

    def settle_and_fail(delivery):
        act(delivery)
        raise ValueError("after that")

    run = run_handler(coloured(colour, settle_and_fail), 1)

    assert run.settlement == settlement
    assert str(run.error) == "after that"


@both_colours
def test_a_delivery_that_is_given_back_at_once_by_one_that_fails_does_not_come_again(colour):
    """The handler is called once, even if it gives the delivery back and then fails."""
    calls: list[int] = []

    def give_back_and_fail(delivery):
        calls.append(delivery.attempt)
        if len(calls) < 50:
            delivery.retry()
        raise ValueError("after that")

    run = run_handler(coloured(colour, give_back_and_fail), 1)

    assert calls == [1]
    assert (run.settlement, str(run.error)) == ("returned", "after that")


@both_colours
def test_a_delivery_that_was_rejected_is_dead_for_that_reason(colour):
    """A later error is not the reason."""

    def reject_and_fail(delivery):
        delivery.reject("damaged")
        raise ValueError("after that")

    run = run_handler(coloured(colour, reject_and_fail), 1)

    assert run.settlement == "dead"
    assert "damaged" in str(run.error)


@both_colours
def test_settling_twice_is_an_error_of_the_handlers(colour):
    """The second settlement raises an error, and the first one counts."""

    def twice(delivery):
        delivery.ack()
        delivery.retry()

    run = run_handler(coloured(colour, twice), 1)

    assert isinstance(run.error, AlreadySettled)
    assert run.settlement == "acknowledged"


def test_settling_after_the_run_is_too_late():
    """A delivery that was kept after the run cannot be settled."""
    kept: list[Any] = []
    assert run_handler(coloured("sync", kept.append), 1).settlement == "acknowledged"

    for verb in ("ack", "retry"):
        with pytest.raises(AlreadySettled, match="it was settled before"):
            getattr(kept[0], verb)()
    with pytest.raises(AlreadySettled):
        kept[0].reject("late")


def test_a_handler_that_goes_on_after_it_has_settled_is_waited_for():
    """Its value, its errors and its time are all part of the run."""

    async def early(message, delivery: Delivery):
        await asyncio.sleep(1)
        delivery.ack()
        await asyncio.sleep(2)
        return "late"

    async def early_and_fails(message, delivery: Delivery):
        delivery.retry(7)
        await asyncio.sleep(2)
        raise ValueError("late")

    run = run_handler(early, 1)
    assert (run.value, run.settlement, run.elapsed) == ("late", "acknowledged", 3.0)

    run = run_handler(early_and_fails, 1)
    assert (str(run.error), run.settlement, run.delay, run.elapsed) == ("late", "returned", 7.0, 2.0)


@both_colours
def test_an_expired_message_is_not_handled(colour):
    """The message is dropped as on a bus: the handler is not called, and there is no error."""
    calls: list[Any] = []
    run = run_handler(simple(colour, calls.append), Message("x", 1, ttl=5, time=1))

    assert (run.settlement, run.dropped, run.error, run.calls) == ("dropped", "expired", None, 0)
    assert calls == []
    with pytest.raises(AssertionError, match="was not called: expired"):
        run.value  # it has none: it must not look like None
    assert steps(run) == [(name_of(colour), "drops x 1: expired")]


def test_a_message_with_time_to_live_is_handled():
    """The virtual clock begins at the computer's time, so a time to live does not run out."""
    assert run_handler(body_of, Message("x", 1, ttl=5)).value == 1


# --- what it publishes -------------------------------------------------------------------------------------------------


def publishes(message, bus: Bus):
    bus.publish("side.one", message.body)
    bus.publish("side.two", message.body + 1)
    return "value"


async def apublishes(message, bus: Bus):
    await bus.apublish("side.one", message.body)
    await bus.apublish("side.two", message.body + 1)
    return "value"


@pytest.mark.parametrize("handler", [publishes, apublishes])
def test_what_a_handler_publishes_is_shown_in_order(handler):
    """Nobody needs to listen, and the message itself is not in the list."""
    run = run_handler(handler, 1)

    assert [(message.subject, message.body) for message in run.published] == [("side.one", 1), ("side.two", 2)]
    assert run.value == "value"


@pytest.mark.parametrize("handler", [body_of, abody_of])
def test_an_answer_goes_where_the_message_wants_it(handler):
    """The answer goes to `reply_to` with the message's correlation id."""
    message = Message("x", 5, reply_to="back", correlation_id="c")
    run = run_handler(handler, message)

    assert [(reply.subject, reply.body, reply.correlation_id) for reply in run.published] == [("back", 5, "c")]
    assert run.value == 5


def test_an_answer_of_none_is_no_answer():
    """A handler that returns None publishes no answer, as on a bus."""
    assert run_handler(body_of, Message("x", None, reply_to="back")).published == []


def test_what_was_published_before_an_error_is_shown():
    """A test may need to see that the publish came too early."""

    def hasty(message, bus: Bus):
        bus.publish("bill.sent")
        raise ValueError("no stock")

    run = run_handler(hasty, 1)

    assert [message.subject for message in run.published] == ["bill.sent"]
    assert run.settlement == "dead"


@both_colours
def test_what_a_handler_publishes_to_its_own_subject_does_not_come_to_it(colour):
    """One message makes one call, even if the handler publishes to its own subject."""
    calls: list[Any] = []

    def handler(message, bus: Bus):
        calls.append(message.body)
        if len(calls) < 5:
            bus.publish(message.subject, message.body + 1)

    async def ahandler(message, bus: Bus):
        calls.append(message.body)
        if len(calls) < 5:
            await bus.apublish(message.subject, message.body + 1)

    run = run_handler(handler if colour == "sync" else ahandler, 1)

    assert calls == [1]
    assert [message.body for message in run.published] == [2]


@both_colours
def test_a_request_has_nobody_to_answer_it(colour):
    """The bus belongs to the handler alone, and the error says to give the needed part to the handler instead."""

    def asks(message, bus: Bus):
        return bus.request("prices.tea", timeout=2)

    async def aasks(message, bus: Bus):
        return await bus.arequest("prices.tea", timeout=2)

    run = run_handler(asks if colour == "sync" else aasks, 1)

    assert isinstance(run.error, NoResponder)
    assert "nobody listens to prices.tea" in str(run.error)
    assert run.elapsed == 0


# --- time --------------------------------------------------------------------------------------------------------------


def test_what_a_handler_awaits_takes_virtual_time():
    """asyncio's sleeps, timeouts, task groups and threads work inside a handler."""

    async def busy(message):
        await asyncio.sleep(10)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(3600)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(seconds, seconds)) for seconds in (3, 1)]
        return [await asyncio.to_thread(lambda: 7), *(task.result() for task in tasks)]

    run = run_handler(busy, 1)

    assert run.value == [7, 3, 1]
    assert run.elapsed == 18


@pytest.mark.parametrize("seconds", [0.25, 3600, 86_400 * 10], ids=["moment", "hour", "ten days"])
def test_a_long_sleep_takes_no_time(seconds):
    """The run reports the exact time that the handler slept."""

    async def patient(message):
        await asyncio.sleep(seconds)
        return "value"

    run = run_handler(patient, 1)

    assert (run.value, run.elapsed) == ("value", seconds)


def test_a_handler_that_sleeps_for_ever_is_told():
    """A handler that never ends raises an error, so no test hangs."""

    async def rounds(message):
        for _ in itertools.count():
            await asyncio.sleep(10_000)

    with pytest.raises(AssertionError, match=r"run_handler\(rounds\)"):
        run_handler(rounds, 1)
    assert run_handler(body_of, 1).value == 1


def test_a_handler_that_waits_for_nobody_is_told():
    """The error says that the handler did not return."""

    async def stuck(message):
        await asyncio.Event().wait()

    with pytest.raises(AssertionError, match="stuck"):
        run_handler(stuck, 1).value
    assert run_handler(body_of, 1).value == 1


def test_a_background_task_is_not_waited_for():
    """A task that a handler starts and leaves behind does not belong to the run."""
    seen: list[str] = []
    tasks: list[Any] = []

    async def later():
        await asyncio.sleep(50)
        seen.append("later")

    async def starts(message):
        tasks.append(asyncio.get_running_loop().create_task(later()))
        return "value"

    run = run_handler(starts, 1)

    assert (run.value, run.elapsed, seen) == ("value", 0, [])


# --- filters around it -------------------------------------------------------------------------------------------------


@both_colours
def test_filters_stand_around_the_handler(colour):
    """The first filter is the outermost, as with `bus.on(filters=…)`."""
    run = run_handler(
        simple(colour, lambda message: dict(message.headers)), 1, filters=[SetHeaders({"a": "1"}), SetHeaders({"a": "2"})]
    )

    assert run.value == {"a": "2"}
    assert [moment.who for moment in run.moments] == ["SetHeaders", "SetHeaders", name_of(colour), name_of(colour)] + [
        "SetHeaders"
    ] * 2


@both_colours
def test_a_retry_around_it_calls_it_again(colour):
    """The waits take virtual time, and the value is that of the last call."""
    errors: list[Exception] = [ConnectionError("a"), ConnectionError("b")]

    def flaky(message):
        if errors:
            raise errors.pop(0)
        return "done"

    run = run_handler(simple(colour, flaky), 1, filters=[Retry(attempts=3, wait=1, jitter=0)])

    assert (run.value, run.settlement, run.elapsed) == ("done", "acknowledged", 3.0)
    assert [moment.what for moment in run.moments if "waits" in moment.what] == ["waits 1 s", "waits 2 s"]


@both_colours
def test_a_retry_that_gives_up_leaves_the_last_error(colour):
    """The message is dead, and the error is the very object that was raised last."""
    errors = [ConnectionError("a"), ConnectionError("b")]
    left = list(errors)

    def flaky(message):
        raise left.pop(0)

    run = run_handler(simple(colour, flaky), 1, filters=[Retry(attempts=2, jitter=0)])

    assert run.error is errors[1]
    assert run.settlement == "dead"


@both_colours
def test_a_filter_may_drop_the_message(colour):
    """The handler is not called when a filter drops the message."""
    calls: list[Any] = []
    run = run_handler(simple(colour, calls.append), 1, filters=[transform(lambda message: Dropped("not today"))])

    assert (run.settlement, run.dropped, run.error, calls) == ("dropped", "not today", None, [])
    assert "was not called; dropped" in repr(run)
    assert f"{name_of(colour)}" in run.story
    assert "not today" in run.story


@both_colours
def test_a_filter_may_refuse_the_message(colour):
    """The message is dead, and the error names the filter."""
    calls: list[Any] = []
    run = run_handler(simple(colour, calls.append), "many", filters=[Validate({">": int})])

    assert run.settlement == "dead"
    assert run.error.by == "Validate"
    assert calls == []


@both_colours
def test_a_filter_may_change_the_message(colour):
    """The message changes before it is checked against the handler's own type."""

    @transform
    def parse(message):
        return message.with_body({"id": int(message.body)})

    def handler(order: Order):
        return order.id

    async def ahandler(order: Order):
        return order.id

    assert run_handler(handler if colour == "sync" else ahandler, "7", filters=[parse]).value == 7


@pytest.mark.parametrize("settles", [False, True], ids=["not settled", "settled early"])
def test_a_time_out_around_an_async_handler_cancels_it(settles):
    """The handler is cancelled at its second, and the story continues with what the filter made of it."""

    async def slow(message, delivery: Delivery):
        if settles:
            delivery.ack()
        await asyncio.sleep(60)

    run = run_handler(slow, 1, filters=[Timeout(5)])

    assert run.elapsed == 5.0
    assert run.settlement == ("acknowledged" if settles else "dead")
    assert isinstance(run.error, TimeoutError if not settles else (TimeoutError, asyncio.CancelledError))
    assert ("slow", "is cancelled") in steps(run)
    assert any(who == "Timeout" and "raises TimeoutError" in what for who, what in steps(run))


def test_filters_that_do_not_fit_are_refused_in_the_words_of_on():
    """A plain sync filter around an async handler is one that does not fit."""
    with pytest.raises(PipelineError, match="is a plain sync filter, but handler abody_of is async"):
        run_handler(abody_of, 1, filters=[lambda message, call_next: call_next(message)])
    with pytest.raises(PipelineError, match="set abandon=True"):
        run_handler(body_of, 1, filters=[Timeout(1)])
    with pytest.raises(PipelineError, match="is a class, not an instance"):
        run_handler(body_of, 1, filters=[Retry])


# --- actors ------------------------------------------------------------------------------------------------------------


class Counter(Actor):
    """An actor that counts what it gets, and publishes the count."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.count = 0

    def on_message(self, message: Message[int]):
        self.count += message.body
        self.bus.publish("counted", self.count)
        return self.count


class AsyncCounter(Counter):
    async def on_message(self, message: Message[int]):
        await asyncio.sleep(2)
        self.count += message.body
        await self.bus.apublish("counted", self.count)
        return self.count


@pytest.mark.parametrize("kind", [Counter, AsyncCounter])
@pytest.mark.parametrize("name", ["counter", None])
def test_an_actor_keeps_its_state_from_run_to_run(kind, name):
    """Mail is addressed to the actor, which belongs to no bus afterwards, so that a bus may spawn it."""
    counter = kind(name)
    runs = [run_handler(counter, given) for given in ("2", 3)]

    assert [run.value for run in runs] == [2, 5]
    assert [[message.body for message in run.published] for run in runs] == [[2], [5]]
    assert [run.elapsed for run in runs] == ([2.0, 2.0] if kind is AsyncCounter else [0.0, 0.0])
    assert runs[0].message.subject is counter
    with pytest.raises(LifecycleError, match="is not spawned"):
        counter.bus
    assert Bus().spawn(counter) is counter


def test_an_actors_name_is_a_subject_too():
    """A message may be addressed to the actor by name."""
    assert run_handler(Counter("counter"), Message("counter", 4)).value == 4


def test_a_message_for_somebody_else_is_no_mail_of_an_actors():
    """On a bus, the message would never reach the actor, so the run raises an error."""
    with pytest.raises(Exception, match="counter"):
        run_handler(Counter("counter"), Message("elsewhere", 4)).value


def test_an_actor_refuses_in_its_name():
    """An actor refuses a body in its own name, as a handler does."""
    run = run_handler(Counter("counter"), "many")

    assert isinstance(run.error, Rejected)
    assert run.error.by == "counter"
    assert run.settlement == "dead"


def test_an_actor_may_stop_itself():
    """The actor finishes its message and then stops."""

    class Leaves(Actor):
        async def on_message(self, message):
            self.stop()
            await asyncio.sleep(1)
            return "bye"

    leaves = Leaves("leaves")
    assert run_handler(leaves, 1).value == "bye"
    assert run_handler(leaves, 1).value == "bye"


def test_an_actor_may_spawn_others():
    """Messages to other actors are shown, but the actors do not belong to the run."""

    class Parent(Actor):
        def on_message(self, message):
            child = self.bus.spawn(Counter("child"))
            self.bus.publish(child, message.body)
            return child

    run = run_handler(Parent("parent"), 7)

    assert [(message.subject, message.body) for message in run.published][:1] == [(run.value, 7)]
    assert run.settlement == "acknowledged"


def test_filters_stand_around_an_actor():
    """Filters surround an actor, as with `bus.spawn(filters=…)`."""
    counter = Counter("counter")
    assert run_handler(counter, 1, filters=[transform(lambda message: message.with_body(message.body * 10))]).value == 10


def test_an_actor_that_lives_elsewhere_is_refused():
    """An actor belongs to one bus, and the error says where it is."""
    counter = Bus().spawn(Counter("counter"))
    with pytest.raises(SubscriptionError, match="is spawned already, on another bus"):
        run_handler(counter, 1)
    assert counter.bus is not None  # and it lives there still


# --- objects that are not handlers -------------------------------------------------------------------------------------


def two_bodies(a: int, b: str):
    """A function with two parameters for the body, of which a handler may have only one."""


WRONG: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "none": (None, 1, SubscriptionError, "handler None is not a function"),
    "number": (5, 1, SubscriptionError, "handler 5 .* is not a function; give a function or a callable object"),
    "class": (Order, 1, SubscriptionError, r"handler Order is a class, not an instance; write Order\(…\)"),
    "actor class": (Counter, 1, SubscriptionError, "handler Counter is a class, not an instance"),
    "only defaults": (lambda message=None: 1, 1, SubscriptionError, "takes no message; remove the default"),
    "two bodies": (two_bodies, 1, SubscriptionError, "has two parameters for the body"),
    "pattern": (body_of, Message, SubjectError, "wildcards are for subscriptions"),
}


@table(("handler", "given", "kind", "told"), WRONG.values(), ids=WRONG)
def test_what_is_no_handler_is_refused_in_the_words_of_on(handler, given, kind, told):
    """The message is that of `bus.on`, and nothing is left behind."""
    with pytest.raises(kind, match=told):
        run_handler(handler, Message("orders.>") if given is Message else given)
    assert run_handler(body_of, 1).value == 1


def test_a_refusal_names_the_tests_own_line():
    """The error points at the line of the test and not at the test kit."""
    with pytest.raises(SubscriptionError, match=r"test_run_handler\.py"):
        run_handler(two_bodies, 1)


# --- logs and context variables ----------------------------------------------------------------------------------------


@both_colours
def test_a_handler_that_says_nothing_has_no_lines(colour):
    """Log lines of the bus around it do not count as the handler's."""
    assert run_handler(simple(colour, body_of), 5).logs == []


@both_colours
def test_lines_through_structlog_are_caught(colour, capsys):
    """The lines are data, nothing is printed, and structlog stays as it was."""

    def talks(message):
        structlog.get_logger().info("said", body=message.body)

    run = run_handler(simple(colour, talks), 5)

    assert run.logs == [{"event": "said", "body": 5, "log_level": "info"}]
    assert capsys.readouterr().out == ""
    assert not structlog.is_configured()


@pytest.mark.parametrize("settle", [False, True], ids=["fails", "settles and fails"])
@both_colours
def test_the_buss_own_lines_are_not_the_handlers(settle, colour):
    """`logs` is what the handler wrote, and `settlement` says that the message died."""

    def fails(delivery):
        structlog.get_logger().warning("mine")
        if settle:
            delivery.ack()
        raise ValueError("boom")

    run = run_handler(coloured(colour, fails), 1)
    assert isinstance(run.error, ValueError)
    assert [entry["event"] for entry in run.logs] == ["mine"]


def test_the_users_configuration_of_structlog_is_the_same_afterwards():
    """No line of the run goes through the user's configuration."""
    lines: list[Any] = []

    def keep(logger, method, event):
        lines.append(event["event"])
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    try:
        before = list(structlog.get_config()["processors"])
        run = run_handler(lambda message: structlog.get_logger().info("said"), 1)
        assert [entry["event"] for entry in run.logs] == ["said"]
        assert structlog.get_config()["processors"] == before
        assert lines == []
        structlog.get_logger().info("again")
        assert lines == ["again"]
    finally:
        structlog.reset_defaults()


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


@both_colours
def test_context_variables_do_not_leak_into_the_test(colour):
    """Each delivery has its own context, and so has each run."""
    seen: list[str] = []

    def sets(message):
        seen.append(tenant.get())
        tenant.set("acme")

    for _ in range(2):
        run_handler(simple(colour, sets), 1)

    assert seen == ["nobody", "nobody"]
    assert tenant.get() == "nobody"


# --- where it is called ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [body_of, abody_of])
def test_it_may_be_called_on_a_running_loop(handler):
    """An `async def` test of a plugin may call it: the handler has its own worker and its own loop."""

    async def main():
        return run_handler(handler, 5).value

    assert asyncio.run(main()) == 5
    gc.collect()  # a coroutine that nobody has awaited would say so here


def test_within_a_harness_the_time_is_the_harnesss(harness):
    """The harness's clock advances by the time that the run took; its bus sees none of the run's messages."""

    async def slow(message):
        await asyncio.sleep(3)
        return message.body

    inbox = harness.bus.subscribe(">")
    harness.advance(10)
    run = run_handler(slow, 1)

    assert (run.value, run.elapsed) == (1, 3.0)
    assert run.moments[0].time == 0
    assert harness.elapsed == 13.0
    assert harness.published == []
    assert inbox.stats()["accepted"] == 0


def test_a_handler_may_be_run_in_another():
    """A handler or a filter may run another handler."""
    assert run_handler(lambda message: run_handler(body_of, message.body).value, 3).value == 3

    @transform
    def tries(message):
        return message.with_body(run_handler(lambda inner: inner.body * 2, message.body).value)

    assert run_filter(tries, 3).forwarded.body == 6


def test_a_run_works_on_any_thread():
    """Runs work on other threads, one at a time."""
    assert [InThread(run_handler, handler, 1).result().value for handler in (body_of, abody_of)] == [1, 1]


def test_a_second_thread_is_told_that_there_is_one_at_a_time():
    """A second thread gets an error, as with run_filter."""
    inside, leave = threading.Event(), threading.Event()

    def wait(message):
        inside.set()
        assert leave.wait(WAIT)
        return "first"

    first = InThread(run_handler, wait, 1)
    try:
        assert inside.wait(WAIT)
        with pytest.raises(LifecycleError, match="one at a time"):
            run_handler(body_of, 1)
    finally:
        leave.set()
    assert first.result().value == "first"
    assert run_handler(body_of, 1).value == 1


def test_a_handler_is_not_called_after_the_run():
    """A delivery that was given back for later does not come, even if time passes in the harness."""
    calls: list[int] = []

    def give_back(delivery):
        calls.append(delivery.attempt)
        if len(calls) < 5:
            delivery.retry(5)

    with Harness() as harness:
        assert run_handler(coloured("sync", give_back), 1).settlement == "returned"
        harness.advance(100)

    assert calls == [1]


# --- the story ---------------------------------------------------------------------------------------------------------


def told(run: HandlerRun) -> str:
    """Its story without the spaces at the ends of lines."""
    return "\n".join(line.rstrip() for line in run.story.splitlines())


def test_the_story_of_a_handler_that_publishes_and_answers():
    """The story says word for word when, who and what."""

    async def bill(order: Order, bus: Bus):
        await asyncio.sleep(0.5)
        await bus.apublish("bills.printed", order.id)
        return {"billed": order.id}

    run = run_handler(bill, Message("orders.eu", {"id": 7}, headers={"shop": "corner"}, reply_to="answers"))

    assert told(run) == (
        "run_handler(bill), given orders.eu {'id': 7} headers {'shop': 'corner'}\n"
        "   0.000  bill  is given orders.eu {'id': 7} headers {'shop': 'corner'}\n"
        "   0.500  bus   accepts bills.printed 7 for nobody\n"
        "   0.500  bill  returns {'billed': 7}\n"
        "   0.500  bus   accepts answers {'billed': 7} for nobody"
    )
    assert repr(run) == "<run_handler(bill): returned {'billed': 7}; acknowledged, 0.5 s>"


def test_the_story_of_a_body_that_does_not_fit():
    """The story says who refused it, why, and what happened to it."""
    run = run_handler(number, "many")

    assert isinstance(run.error, Rejected)
    assert told(run) == (
        "run_handler(number), given test 'many'\n"
        "   0.000  number  is given test 'many'\n"
        "   0.000  number  raises Rejected: rejected by number: Input should be a valid integer, "
        "unable to parse string as an integer\n"
        "   0.000  number  buries it as dead letter d1: Rejected: rejected by number: Input should be a valid integer, unable …"
    )


def test_the_story_of_a_retry_around_a_handler():
    """The story shows the handler's calls, and the filter's waits between them."""
    errors: list[Exception] = [ConnectionError("down")]

    def ship(message):
        if errors:
            raise errors.pop()
        return "shipped"

    assert told(run_handler(ship, "tea", filters=[Retry(wait=2, jitter=0)])) == (
        "run_handler(ship), given test 'tea'\n"
        "   0.000  Retry  is given test 'tea'\n"
        "   0.000  ship   is given test 'tea'\n"
        "   0.000  ship   raises ConnectionError: down\n"
        "   0.000  Retry  waits 2 s\n"
        "   2.000  ship   is given test 'tea'\n"
        "   2.000  ship   returns 'shipped'\n"
        "   2.000  Retry  gives Handled(value='shipped')"
    )


def test_the_story_of_a_delivery_that_is_given_back():
    """The story shows how the handler settled it, and what it returned after that."""

    def later(message, delivery: Delivery):
        delivery.retry(5)

    run = run_handler(later, 1)

    assert told(run) == (
        "run_handler(later), given test 1\n"
        "   0.000  later  is given test 1\n"
        "   0.000  later  gives it back, for 5 s\n"
        "   0.000  later  returns"
    )
    assert repr(run) == "<run_handler(later): returned None; returned, 0 s>"


NAMED: dict[str, tuple[Any, str]] = {
    "function": (body_of, "body_of"),
    "method": (Till().ring, "ring"),
    "object": (Till(), "Till"),
    "partial": (functools.partial(scaled, 3), "scaled"),
    "lambda": (lambda message: message.body, "handler"),
    "actor": (Counter("counter"), "counter"),
    "unnamed actor": (Counter(), "Counter"),
}


@table(("handler", "name"), NAMED.values(), ids=NAMED)
def test_a_handler_has_one_name_in_its_story(handler, name):
    """The title and each line show the name that its subscription would have."""
    run = run_handler(handler, 1)
    who = {moment.who for moment in run.moments} - {"bus"}

    assert run.title == f"run_handler({name})"
    assert len(who) == 1
    assert who.pop().removesuffix("#1") == name


class Rude:
    """An object that cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


def test_a_value_that_cannot_be_shown_is_no_reason_to_fail():
    """Neither a body nor a value that cannot be shown makes a run fail."""
    value = Rude()
    run = run_handler(lambda message: value, Rude())

    assert run.value is value
    assert run.settlement == "acknowledged"
    assert "Rude" in run.story
    assert "Rude" in repr(run)


@pytest.mark.parametrize(
    "handler",
    [lambda message: "x" * 500, simple("sync", lambda message: int("x" * 500)), number],
    ids=["value", "error", "refusal"],
)
def test_no_line_of_a_story_is_endless(handler):
    """A line is at most about 130 characters long, as wide as a screen."""
    run = run_handler(handler, "x" * 500)
    assert run.error is None or isinstance(run.error, ValueError | Rejected)
    assert max(len(line) for line in run.story.splitlines()) < 130


def test_a_moment_is_one_line():
    """A moment takes one line, whatever an error says."""

    def fails(message):
        raise ValueError("first\nsecond")

    run = run_handler(fails, "first\nsecond")

    assert isinstance(run.error, ValueError)
    assert len(run.story.splitlines()) == 1 + len(run.moments)
    assert "\n" not in repr(run)


FAILING = """
from pipebus.testing import run_handler as imported


def price(message):
    return message.body["price"]


def test_wrong(run_handler):
    assert run_handler(price, {"price": 7}).value == 8


def test_raised():
    assert imported(price, {}).value == 8
"""


def test_a_failed_test_shows_the_story(pytester):
    """The story appears with or without the fixture; an error shows the handler's own line, and no frame of the kit."""
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:asyncio")
    result.assert_outcomes(failed=2)
    wrong, raised = result.stdout.str().split(" test_raised ___", 1)

    assert "run_handler(price), given test {'price': 7}\n   0.000  price  is given test {'price': 7}\n" in wrong
    assert "   0.000  price  returns 7\n" in wrong
    assert 'return message.body["price"]' in raised
    assert "raise self.error" not in raised
    assert "   0.000  price  raises KeyError: 'price'\n" in raised


@around
def waits_first(message):
    yield Pause(1)
    return (yield message)


def test_pauses_of_a_filter_around_it_take_virtual_time():
    """A pause of a filter takes virtual time, like everything else."""
    run = run_handler(body_of, 4, filters=[waits_first])

    assert (run.value, run.elapsed) == (4, 1.0)

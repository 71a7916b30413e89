"""
Guarantee 29: threads, coroutines and handlers send requests and get replies; nobody waits longer than necessary, and nothing
is left behind.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from flow_helpers import (
    LONG,
    WAIT,
    Boom,
    DropAll,
    Ear,
    Hold,
    InThread,
    assert_conserved,
    boom,
    bus_of,
    every_road,
    fine,
    hasty_threads,
    running,
    wait_until,
)
from loop_helpers import AsyncHold, LoopInThread, Way, arunning, every_way_to_run
from pipebus import (
    Bus,
    BusClosed,
    BusNotStarted,
    Delivery,
    Dropped,
    Handled,
    LifecycleError,
    MailboxFull,
    Message,
    MessageError,
    NoResponder,
    PipelineError,
    Receipt,
    Ref,
    Rejected,
    RequestDropped,
    RequestError,
    RequestFailed,
    RequestTimeout,
    Subject,
    SubjectError,
    Transform,
    UnsupportedCapability,
    around,
    branch,
    transform,
    when,
)
from pipebus.bus.bus import engine_of
from pipebus.events import Discarded, Unrouted
from pipebus.filters import Validate
from pipebus.testing import FakeClock, Harness

Ask = Callable[..., Message]


@dataclass(frozen=True)
class Price:
    cents: int


def request(bus: Bus, subject: Any, body: Any = None, **options: Any) -> Message:
    return bus.request(subject, body, **options)


def arequest(bus: Bus, subject: Any, body: Any = None, **options: Any) -> Message:
    async def ask() -> Message:
        async with asyncio.timeout(2 * WAIT):  # so that a coroutine that is never woken fails instead of waiting forever
            return await bus.arequest(subject, body, **options)

    return asyncio.run(ask())


def arequest_on_the_buss_loop(bus: Bus, subject: Any, body: Any = None, **options: Any) -> Message:
    """Ask on the bus's own loop; an async handler answers on that loop, too."""

    async def ask() -> Message:
        return await bus.arequest(subject, body, **options)

    return asyncio.run_coroutine_threadsafe(ask(), engine_of(bus).loop_thread.loop()).result(WAIT)


both = pytest.mark.parametrize(
    "ask", [request, arequest, arequest_on_the_buss_loop], ids=["request", "arequest", "arequest-on-own-loop"]
)
"""Ask in a thread or in a coroutine."""

every_wire = pytest.mark.parametrize("url", ["memory:", "memory:?wire=json"], ids=["memory", "wire"])


def double(message: Message) -> Any:
    """The handler that most of these tests ask."""
    return message.body * 2


async def adouble(message: Message) -> Any:
    await asyncio.sleep(0)
    return message.body * 2


@contextmanager
def noting(errors: list[BaseException]) -> Iterator[None]:
    """Note the error that leaves the block."""
    try:
        yield
    except BaseException as error:
        errors.append(error)
        raise


# --- an answer ---------------------------------------------------------------------------------------------------------


@both
@every_road
@every_way_to_run
def test_s29_what_a_handler_returns_is_the_reply(way: Way, road: str, ask: Ask) -> None:
    """However the handler runs and whatever the transport is, the reply has its value as body and the question's id."""
    bus = bus_of(road)
    with way.running(bus):
        subscription = way.subscribe(bus, "double", double)
        replies = [ask(bus, "double", body, id=f"question-{body}") for body in range(5)]

        assert [reply.body for reply in replies] == [0, 2, 4, 6, 8]
        assert [reply.correlation_id for reply in replies] == [f"question-{body}" for body in range(5)]
        assert len({reply.id for reply in replies}) == 5
        bus.drain(WAIT)
        assert subscription.stats()["acknowledged"] == 5
        assert engine_of(bus).replies.open == {}


@both
@every_wire
def test_s29_the_question_carries_what_it_was_given(url: str, ask: Ask) -> None:
    """Headers, key, id, ttl and correlation id reach the handler, and the reply keeps the correlation id of the question."""
    seen: list[Message] = []

    def answer(message: Message) -> str:
        seen.append(message)
        return "ok"

    with running(Bus(url)) as bus:
        bus.subscribe("s", answer)
        reply = ask(bus, "s", {"a": 1}, headers={"h": "v"}, key="k", id="q", ttl=LONG, correlation_id="c")

    (message,) = seen
    assert (message.body, dict(message.headers), message.key, message.id) == ({"a": 1}, {"h": "v"}, "k", "q")
    assert (message.ttl, message.correlation_id) == (LONG, "c")
    assert message.reply_to is not None
    assert reply.correlation_id == "c"


@both
@every_wire
@pytest.mark.parametrize("value", [0, False, "", [], {}, {"a": [1, 2]}], ids=repr)
def test_s29_every_value_but_none_is_a_reply(url: str, ask: Ask, value: Any) -> None:
    """A false value is a reply like any other."""
    with running(Bus(url)) as bus:
        bus.subscribe("s", lambda message: value)

        assert ask(bus, "s").body == value


@every_wire
def test_s29_replies_of_many_askers_find_their_askers(url: str) -> None:
    """When twenty threads and ten coroutines ask four handlers at once, each gets the answer to its own question."""

    def ask_many(me: int) -> list[Any]:
        return [bus.request("double", me * 1000 + number, timeout=LONG).body for number in range(30)]

    async def ask_on_a_loop() -> list[list[Any]]:
        async def ask(me: int) -> list[Any]:
            return [(await bus.arequest("adouble", me * 1000 + number, timeout=LONG)).body for number in range(30)]

        return await asyncio.gather(*(ask(me) for me in range(20, 30)))

    with hasty_threads(), running(Bus(url)) as bus:
        bus.subscribe("double", double, workers=2)
        bus.subscribe("adouble", adouble, workers=2)
        threads = [InThread(ask_many, me) for me in range(20)]
        on_loop = InThread(lambda: asyncio.run(ask_on_a_loop()))
        answers = [thread.result() for thread in threads] + on_loop.result()

        assert answers == [[2 * (me * 1000 + number) for number in range(30)] for me in range(30)]
        assert engine_of(bus).replies.open == {}


@both
def test_s29_a_subject_with_a_type_may_be_asked(ask: Ask) -> None:
    """A `Subject[T]` and, in memory, an object can be asked like a string."""
    thing = Ref(object())
    with running() as bus:
        bus.subscribe(Subject[int]("double"), double)
        bus.subscribe(thing, double)

        assert ask(bus, Subject[int]("double"), 21).body == 42
        assert ask(bus, thing, 4).body == 8


@both
def test_s29_a_reply_of_the_expected_type_stays_as_it_is(ask: Ask) -> None:
    """In memory, the requester gets the very object that the handler returned."""
    price = Price(420)
    with running() as bus:
        bus.subscribe("price", lambda message: price)

        assert ask(bus, "price", reply=Price).body is price
        assert ask(bus, Subject[str, Price]("price"), "tea").body is price


@both
def test_s29_the_call_may_expect_another_type_than_its_subject(ask: Ask) -> None:
    """`reply` is any type that pydantic knows; it comes before the type of the subject."""
    with running() as bus:
        bus.subscribe("price", lambda message: "420")

        assert ask(bus, Subject[str, Price]("price"), reply=int).body == 420
        assert ask(bus, "price", reply=Annotated[int, Field(gt=0, json_schema_extra={"unit": "cents"})]).body == 420
        assert ask(bus, Subject[str]("price")).body == "420"


@both
def test_s29_what_is_not_a_type_is_refused_before_anything_is_sent(ask: Ask) -> None:
    """The error shows what was given as `reply`, and no handler is asked."""
    with running() as bus:
        prices = bus.subscribe("price", double)

        untyped: Any = Subject[str, "Nowhere"]("price")  # type: ignore[name-defined]
        says = r'Subject "price", the type of its replies: .*Nowhere.* is not a type to validate with'
        with pytest.raises(SubjectError, match=says):
            ask(bus, untyped)
        with pytest.raises(SubjectError, match=says):
            bus.subscribe(untyped, double)
        with pytest.raises(MessageError, match="reply=5 is not a type to validate with"):
            ask(bus, "price", reply=5)
        assert prices.stats()["accepted"] == 0


@both
@every_wire
def test_s29_the_first_value_wins(url: str, ask: Ask) -> None:
    """If two handlers answer, the second value is unrouted, and both deliveries end well."""
    bus = Bus(url)
    ear = Ear(bus)
    with running(bus):
        slow = Hold()

        def too_late(message: Message) -> str:
            slow(message)
            return "late"

        late = bus.subscribe("s", too_late)
        bus.subscribe("s", lambda message: None)
        bus.subscribe("s", lambda message: "first")
        assert ask(bus, "s").body == "first"
        slow.open()
        bus.drain(WAIT)

        assert late.stats()["acknowledged"] == 1
        assert [event.message.body for event in ear.of(Unrouted)] == ["late"]
        assert bus.stats()["unrouted"] == 1


@both
@every_wire
def test_s29_the_first_error_wins_too(url: str, ask: Ask) -> None:
    """If one of two handlers fails while the other still runs, the requester gets the error at once."""
    with running(Bus(url)) as bus:
        slow = Hold()
        bus.subscribe("s", slow)
        bus.subscribe("s", boom)

        with pytest.raises(RequestFailed, match="Boom"):
            ask(bus, "s", timeout=LONG)


@both
@every_road
def test_s29_a_reply_by_hand_is_a_reply(road: str, ask: Ask) -> None:
    """A reader, or a handler that answers later, may publish to the question's `reply_to`."""
    with running(bus_of(road)) as bus:
        inbox = bus.subscribe("s")
        asker = InThread(ask, bus, "s", "question", timeout=LONG)
        question = inbox.receive(timeout=WAIT)
        assert bus.publish(question.reply_to, "by hand", correlation_id=question.id)

        reply = asker.result()
        assert reply.body == "by hand"
        assert reply.correlation_id == question.id


@both
@every_road
def test_s29_a_question_may_be_passed_on(road: str, ask: Ask) -> None:
    """If a handler passes the question to another subject with the same `reply_to`, the value of that handler is the reply."""

    def pass_on(message: Message) -> None:
        bus.publish("double", message.body + 1, reply_to=message.reply_to)

    with running(bus_of(road)) as bus:
        bus.subscribe("s", pass_on)
        bus.subscribe("double", double)

        assert ask(bus, "s", 20).body == 42


@both
@every_road
@every_way_to_run
def test_s29_with_a_delivery_filter_the_outcomes_value_is_the_reply(way: Way, road: str, ask: Ask) -> None:
    """The requester gets the value that a filter around the handler returns, and so does `to`."""

    @around
    def half(message: Message) -> Any:
        outcome = yield message
        return Handled(outcome.value // 2)

    results: list[Any] = []
    with way.running(bus_of(road)) as bus:
        way.subscribe(bus, "double", double, filters=[half], to="results")
        bus.subscribe("results", lambda message: results.append(message.body))

        assert ask(bus, "double", 21).body == 21
        bus.drain(WAIT)
    assert results == [21]


# --- no answer ---------------------------------------------------------------------------------------------------------


@both
@every_road
def test_s29_nobody_listens_is_said_at_once(road: str, ask: Ask) -> None:
    """The requester gets NoResponder with the subject, and not a time-out."""
    with running(bus_of(road)) as bus:
        with pytest.raises(NoResponder, match=r"orders\.get"):
            ask(bus, "orders.get", timeout=LONG)

        assert engine_of(bus).replies.open == {}
        assert bus.stats()["unrouted"] == 1


@both
@every_road
def test_s29_a_request_that_a_publish_filter_drops_raises_at_once(road: str, ask: Ask) -> None:
    """The error names the filter and its reason."""
    bus = bus_of(road)
    bus.use(when("s", DropAll("not today")))
    with running(bus):
        bus.subscribe("s", double)

        with pytest.raises(RequestDropped) as raised:
            ask(bus, "s", timeout=LONG)
        assert (raised.value.reason, raised.value.by) == ("not today", "DropAll")
        assert engine_of(bus).replies.open == {}


@both
@every_road
def test_s29_what_a_publish_filter_raises_reaches_the_asker_as_it_is(road: str, ask: Ask) -> None:
    """The requester gets `Rejected` or any other error as the same object, as from `publish`."""
    error = Rejected("no", by="the-guard")

    class Guard(Transform):
        def transform(self, message: Message) -> Message:
            if message.subject == "s":
                raise error
            return message

    bus = bus_of(road)
    bus.use(Guard())
    with running(bus):
        bus.subscribe("s", double)

        with pytest.raises(Rejected) as raised:
            ask(bus, "s", timeout=LONG)
        assert raised.value is error
        assert engine_of(bus).replies.open == {}


def _dropped_by_its_filter(bus: Bus) -> Callable[[], object]:
    bus.subscribe("s", double, filters=[DropAll("not for me")])
    return lambda: None


def _dropped_by_a_readers_filter(bus: Bus) -> Callable[[], object]:
    reader = bus.subscribe("s", filters=[DropAll("not for me")])
    return lambda: InThread(reader.receive, LONG)


def _too_old(bus: Bus) -> Callable[[], object]:
    subscription = bus.subscribe("s", double)
    subscription.pause()
    return subscription.resume


def _unsubscribed(bus: Bus) -> Callable[[], object]:
    subscription = bus.subscribe("s", double)
    subscription.pause()
    return subscription.unsubscribe


def _overflown(bus: Bus) -> Callable[[], object]:
    subscription = bus.subscribe("s", double, mailbox=1, overflow="drop_oldest")
    subscription.pause()
    return lambda: bus.publish("s", "the newer")


@every_wire
@both
@pytest.mark.parametrize(
    ("drop", "why"),
    [
        (_dropped_by_its_filter, "not for me"),
        (_dropped_by_a_readers_filter, "not for me"),
        (_too_old, "expired"),
        (_unsubscribed, "unsubscribed"),
        (_overflown, "overflow"),
    ],
    ids=["filter", "readers-filter", "expired", "unsubscribed", "overflow"],
)
def test_s29_a_request_that_is_dropped_on_its_way_to_the_handler_raises_at_once(
    drop: Callable[[Bus], Callable[[], object]], why: str, ask: Ask, url: str
) -> None:
    """If the message is filtered out, expired, unsubscribed or pushed out, the requester gets an error that says so."""
    clock = FakeClock()
    with running(Bus(url, clock=clock), drain=False) as bus:
        then = drop(bus)
        asker = InThread(ask, bus, "s", 1, ttl=5.0, timeout=LONG)
        wait_until(lambda: sum(s.stats()["accepted"] for s in bus.subscriptions) == 1, "the question is there")
        if why == "expired":
            clock.advance(6.0)
        then()

        with pytest.raises(RequestDropped, match=why):
            asker.result()
        assert engine_of(bus).replies.open == {}


@both
@every_wire
@pytest.mark.parametrize("overflow", ["drop_newest", "reject"])
def test_s29_a_request_that_finds_no_room_raises_at_once(overflow: Any, ask: Ask, url: str) -> None:
    """If the mailbox drops the newest message, the request is dropped; if it refuses, MailboxFull comes as from `publish`."""
    with running(Bus(url), drain=False) as bus:
        hold = Hold()
        bus.subscribe("s", hold, mailbox=1, overflow=overflow)
        bus.publish("s")
        hold.wait_started()

        with pytest.raises(RequestDropped if overflow == "drop_newest" else MailboxFull, match=r"overflow|no room"):
            ask(bus, "s", timeout=LONG)
        assert engine_of(bus).replies.open == {}


@both
@every_wire
def test_s29_as_long_as_one_mailbox_may_answer_the_asker_waits(url: str, ask: Ask) -> None:
    """If two of three subscribers drop the message, the third one's value is the reply; if it drops too, the request fails."""
    with running(Bus(url)) as bus:
        for _ in range(2):
            bus.subscribe("s", double, filters=[DropAll("not for me")])
        third = bus.subscribe("s", double)
        assert ask(bus, "s", 21).body == 42

        third.pause()
        asker = InThread(ask, bus, "s", 21, timeout=LONG)
        wait_until(lambda: third.stats()["pending"] == 1, "the question waits for the third")
        assert asker.running
        third.unsubscribe()
        with pytest.raises(RequestDropped, match=r"not for me.*unsubscribed|unsubscribed.*not for me"):
            asker.result()


@both
@every_road
@every_way_to_run
def test_s29_a_handlers_error_arrives_by_type_and_text(way: Way, road: str, ask: Ask) -> None:
    """RequestFailed has the type and the text of the error. The requester knows, so there is no dead letter as well."""
    with way.running(bus_of(road)) as bus:
        subscription = way.subscribe(bus, "s", boom)

        with pytest.raises(RequestFailed) as raised:
            ask(bus, "s", "this", timeout=LONG)
        assert raised.value.type == "Boom"
        assert raised.value.text == "cannot handle 'this'"
        assert engine_of(bus).replies.open == {}
        bus.drain(WAIT)
        assert len(bus.dead_letters) == 0
        assert subscription.stats()["dropped"] == {"request failed": 1}


@pytest.mark.parametrize("inner", ["fails", "rejects"])
def test_s29_a_failed_request_in_a_handler_leaves_the_letter_of_that_handler_alone(inner: str) -> None:
    """There is one dead letter to find: the message whose handler needed the answer."""

    def answer(message: Message, delivery: Delivery) -> None:
        if inner == "rejects":
            delivery.reject("no")
        else:
            raise Boom("no")

    with running() as bus:
        bus.subscribe("inner", answer, name="inner")
        bus.subscribe("outer", lambda message: bus.request("inner"), name="outer")
        bus.publish("outer")
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list()
        assert letter.subscription == "outer"
        assert letter.error.startswith("RequestFailed")


def test_s29_an_observer_sees_the_error_of_a_failed_request() -> None:
    """The drop of a failed request carries what its handler raised, for those that report errors."""
    bus = Bus()
    ear = Ear(bus)
    bus.subscribe("s", boom, name="answers")
    with running(bus):
        with pytest.raises(RequestFailed):
            bus.request("s", "this")
        bus.drain(WAIT)

    (event,) = ear.of(Discarded)
    assert (event.place, event.reason, event.by) == ("answers", "request failed", "boom")
    assert isinstance(event.exception, Boom)


def test_s29_the_error_of_a_failed_request_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """The requester has only the text, so the log shows the place of the mistake."""
    with running() as bus:
        bus.subscribe("s", boom, name="answers")
        with pytest.raises(RequestFailed):
            bus.request("s", "this")
    assert "request.failed" in caplog.text
    assert "in boom" in caplog.text


def test_s29_a_request_from_another_process_leaves_a_dead_letter(tmp_path: Path) -> None:
    """Whether a requester elsewhere still waits is not known here, so the letter stays, next to the error that is sent."""
    url = f"sqlite:///{tmp_path / 'bus.db'}"
    with running(Bus(url)) as answering, Bus(url) as asking:
        answering.subscribe("s", boom, name="answers")
        with pytest.raises(RequestFailed, match="Boom"):
            asking.request("s", "this", timeout=LONG)
        answering.drain(WAIT)
        assert len(answering.dead_letters) == 1


@both
@every_wire
@pytest.mark.parametrize(
    ("fails", "type_"),
    [
        (lambda message, delivery: delivery.reject("no"), "Rejected"),
        (lambda message, delivery: delivery.retry(), "AttemptsExhausted"),
    ],
    ids=["rejected", "returned-too-often"],
)
def test_s29_however_a_delivery_dies_the_asker_is_told(url: str, ask: Ask, fails: Any, type_: str) -> None:
    """This includes a delivery that its handler rejects, and one that is returned as often as allowed."""

    def handle(message: Message, delivery: Delivery) -> None:
        fails(message, delivery)

    with running(Bus(url)) as bus:
        bus.subscribe("s", handle, attempts=2)

        with pytest.raises(RequestFailed) as raised:
            ask(bus, "s", timeout=LONG)
        assert raised.value.type == type_


@both
@every_wire
def test_s29_a_body_that_the_handlers_type_refuses_is_told(url: str, ask: Ask) -> None:
    """If the handler takes a number and the body is a text, the requester's error says why the body was refused."""

    def count(number: int) -> int:
        return number + 1

    with running(Bus(url)) as bus:
        bus.subscribe("s", count)

        with pytest.raises(RequestFailed) as raised:
            ask(bus, "s", "a text", timeout=LONG)
        assert raised.value.type == "Rejected"
        assert "integer" in raised.value.text
        assert ask(bus, "s", 1).body == 2


@both
@pytest.mark.parametrize("text", ["\ud800", "a\0b", "ä" * 10_000], ids=["lone-surrogate", "null", "long"])
@every_wire
def test_s29_an_error_with_a_strange_text_arrives_too(url: str, ask: Ask, text: str) -> None:
    """Whatever the text of the handler's error is, the requester gets an error at once."""

    def fails(message: Message) -> None:
        raise Boom(text)

    with running(Bus(url)) as bus:
        bus.subscribe("s", fails)

        with pytest.raises(RequestFailed) as raised:
            ask(bus, "s", timeout=LONG)
        assert raised.value.type == "Boom"
        assert raised.value.text


@both
def test_s29_a_value_that_cannot_be_encoded_is_the_handlers_failure(ask: Ask) -> None:
    """With wire=json the reply must be JSON; if it is not, the requester gets an error that says so."""
    with running(Bus("memory:?wire=json")) as bus:
        bus.subscribe("s", lambda message: object())

        with pytest.raises(RequestFailed) as raised:
            ask(bus, "s", timeout=LONG)
        assert raised.value.type == "CodecError"


@both
def test_s29_a_question_that_cannot_be_encoded_is_the_askers_error(ask: Ask) -> None:
    """The requester gets the same error as from `publish`, and nothing waits for an answer."""
    with running(Bus("memory:?wire=json")) as bus:
        bus.subscribe("s", double)

        with pytest.raises(ValueError, match="object"):
            ask(bus, "s", object(), timeout=LONG)
        assert engine_of(bus).replies.open == {}


def test_s29_a_handler_that_fails_the_first_time_and_is_repeated_by_a_filter_answers() -> None:
    """The requester gets an error only when the delivery chain has given up."""
    tries: list[int] = []

    @around
    def again(message: Message) -> Any:
        for number in range(3):
            try:
                return (yield message)
            except Boom:
                if number == 2:
                    raise
        return None

    def handle(message: Message) -> str:
        tries.append(1)
        if len(tries) < 3:
            raise Boom("not yet")
        return "at last"

    with running() as bus:
        bus.subscribe("s", handle, filters=[again])

        assert bus.request("s", timeout=LONG).body == "at last"


@both
@every_wire
def test_s29_a_handler_that_returns_its_delivery_answers_the_second_time(url: str, ask: Ask) -> None:
    """After `retry` the question is handled again, and the second attempt still answers the requester."""

    def handle(message: Message, delivery: Delivery) -> str | None:
        if delivery.attempt == 1:
            delivery.retry()
            return None
        return f"attempt {delivery.attempt}"

    with running(Bus(url)) as bus:
        bus.subscribe("s", handle)

        assert ask(bus, "s", timeout=LONG).body == "attempt 2"


@both
@every_wire
def test_s29_a_handler_that_fails_after_it_has_acknowledged_still_tells_its_requester(url: str, ask: Ask) -> None:
    """The message is settled, but no reply will come, so the requester gets the error at once."""

    def handle(message: Message, delivery: Delivery) -> None:
        delivery.ack()
        raise Boom("too late")

    with running(Bus(url)) as bus:
        subscription = bus.subscribe("s", handle)
        with pytest.raises(RequestFailed, match=r"^the handler failed with Boom: too late"):
            ask(bus, "s", timeout=LONG)
        bus.drain(WAIT)
        assert subscription.stats()["acknowledged"] == 1
        assert len(bus.dead_letters) == 0


def test_s29_all_errors_of_a_request_have_one_name() -> None:
    """`except RequestError` catches all of them, and the time-out is a TimeoutError as well."""
    assert issubclass(NoResponder, RequestError)
    assert issubclass(RequestDropped, RequestError)
    assert not issubclass(RequestDropped, NoResponder)
    assert issubclass(RequestFailed, RequestError)
    assert issubclass(RequestTimeout, RequestError)
    assert issubclass(RequestTimeout, TimeoutError)


# --- time-outs, and nothing left behind --------------------------------------------------------------------------------


@pytest.fixture(params=["request", "arequest", "arequest-on-own-loop"])
def asked(request: pytest.FixtureRequest, harness: Harness) -> Ask:
    """Ask in a thread or in a coroutine, also on the bus's own loop, in virtual time."""

    def on_own_loop(bus: Bus, subject: Any, body: Any = None, **options: Any) -> Message:
        found: list[Any] = []

        async def handle(message: Message) -> None:
            try:
                found.append(await bus.arequest(subject, body, **options))
            except Exception as error:
                found.append(error)

        with bus.subscribe("asker", handle):
            bus.publish("asker")
            while not found:
                harness.advance(1.0)
        if isinstance(found[0], Exception):
            raise found[0]
        reply: Message = found[0]
        return reply

    def on_any_loop(bus: Bus, subject: Any, body: Any = None, **options: Any) -> Message:
        return harness.run(bus.arequest(subject, body, **options))

    return {"request": Bus.request, "arequest": on_any_loop, "arequest-on-own-loop": on_own_loop}[request.param]


@every_wire
def test_s29_a_time_out_is_the_buss_clocks(harness: Harness, url: str, asked: Ask) -> None:
    """The bus's clock decides when the time is up; the text says which subject was asked, and how long the wait was."""
    with running(harness.attach(Bus(url))) as bus:
        bus.subscribe("s", lambda message: harness.clock.sleep(6.0))

        with pytest.raises(RequestTimeout, match=r"\bs\b.*5 s"):
            asked(bus, "s", timeout=5.0)
        assert harness.elapsed == 5.0
        assert engine_of(bus).replies.open == {}


@every_wire
def test_s29_none_is_no_reply(harness: Harness, url: str, asked: Ask) -> None:
    """A handler that returns None has not answered, so the time runs out, and the text says so."""
    with running(harness.attach(Bus(url))) as bus:
        subscription = bus.subscribe("s", fine)

        with pytest.raises(RequestTimeout, match="None"):
            asked(bus, "s", timeout=5.0)
        assert harness.elapsed == 5.0
        assert subscription.stats()["acknowledged"] == 1
        assert engine_of(bus).replies.open == {}


@every_wire
def test_s29_what_comes_too_late_is_counted_and_touches_nobody(harness: Harness, url: str, asked: Ask) -> None:
    """A value that comes after the time-out is unrouted, and the requester's next question gets its own answer."""

    def handle(message: Message) -> str:
        if message.body == "slow":
            harness.clock.sleep(60.0)
        return f"reply to {message.body}"

    with running(harness.attach(Bus(url))) as bus:
        subscription = bus.subscribe("s", handle, workers=2)
        with pytest.raises(RequestTimeout):
            asked(bus, "s", "slow", timeout=5.0)
        assert engine_of(bus).replies.open == {}
        assert asked(bus, "s", "quick").body == "reply to quick"
        assert subscription.stats()["in_flight"] == 1
        harness.drain()

        assert subscription.stats()["acknowledged"] == 2
        assert [event.message.body for event in harness.events if isinstance(event, Unrouted)] == ["reply to slow"]


@every_wire
def test_s29_an_error_that_comes_too_late_touches_nobody(harness: Harness, url: str, asked: Ask) -> None:
    """An error that comes after the time-out only makes a dead letter."""

    def handle(message: Message) -> None:
        harness.clock.sleep(60.0)
        raise Boom("late")

    harness.allow(Boom)
    with running(harness.attach(Bus(url))) as bus:
        bus.subscribe("s", handle)
        with pytest.raises(RequestTimeout):
            asked(bus, "s", timeout=5.0)
        assert len(bus.dead_letters) == 0
        harness.drain()

        assert harness.elapsed == 60.0
        assert len(bus.dead_letters) == 1
        assert engine_of(bus).replies.open == {}


def test_s29_time_outs_leak_nothing() -> None:
    """A thousand questions without an answer leave no address, mailbox, route or thread behind."""
    with running(Bus(pool=1)) as bus:
        subscription = bus.subscribe("s", fine)

        async def ask_many() -> None:
            for _ in range(500):
                with pytest.raises(RequestTimeout):
                    await bus.arequest("s", timeout=0.0)

        with pytest.raises(RequestTimeout):
            bus.request("s", timeout=0.0)
        bus.drain(WAIT)
        threads = set(threading.enumerate())
        for _ in range(500):
            with pytest.raises(RequestTimeout):
                bus.request("s", timeout=0.0)
        asyncio.run(ask_many())
        bus.drain(WAIT)

        assert engine_of(bus).replies.open == {}
        assert bus.subscriptions == [subscription]
        assert len(engine_of(bus).router.routes) <= 1
        assert set(threading.enumerate()) <= threads


@both
def test_s29_an_answered_question_is_forgotten(ask: Ask) -> None:
    """The bus does not keep the body of a question or of its reply alive."""

    class Thing:
        pass

    things: list[weakref.ref[Thing]] = []

    def handle(message: Message) -> Thing:
        thing = Thing()
        things.append(weakref.ref(thing))
        return thing

    with running() as bus:
        bus.subscribe("s", handle)
        question = Thing()
        things.append(weakref.ref(question))
        reply = ask(bus, "s", question)
        assert isinstance(reply.body, Thing)
        bus.drain(WAIT)
        bus.subscribe("other", fine)
        bus.publish("other")
        bus.drain(WAIT)
        del reply, question
        gc.collect()

        assert [thing() for thing in things] == [None, None]


@every_wire
def test_s29_a_cancelled_arequest_leaves_nothing(url: str) -> None:
    """If the coroutine is cancelled while it waits, its address is gone, and the answer is unrouted."""

    async def main() -> None:
        async with arunning(Bus(url)) as bus:
            hold = AsyncHold()

            async def handle(message: Message) -> str:
                await hold(message)
                return "late"

            subscription = bus.subscribe("s", handle)
            asker = asyncio.create_task(bus.arequest("s", timeout=LONG))
            await asyncio.to_thread(hold.wait_started)
            assert len(engine_of(bus).replies.open) == 1
            asker.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asker

            assert engine_of(bus).replies.open == {}
            hold.open()
            await bus.adrain(WAIT)
            assert subscription.stats()["acknowledged"] == 1
            assert bus.stats()["unrouted"] == 1

    asyncio.run(main())


def test_s29_a_second_value_is_unrouted_even_before_the_asker_has_seen_the_first() -> None:
    """If both handlers answer while the requester's loop is busy, it gets the first value, and the second is counted."""
    with running(Bus(pool=1)) as bus, LoopInThread() as loop:
        bus.subscribe("s", lambda message: "first")
        bus.subscribe("s", lambda message: "second")
        asked, go_on = threading.Event(), threading.Event()

        def block() -> None:
            asked.set()
            assert go_on.wait(WAIT)

        async def ask() -> Message:
            asyncio.get_running_loop().call_soon(block)  # it comes when this coroutine waits for its reply
            return await bus.arequest("s", timeout=LONG)

        asker = loop.start(ask())
        assert asked.wait(WAIT)
        bus.drain(WAIT)
        assert bus.stats()["unrouted"] == 1
        go_on.set()

        assert asker.result(WAIT).body == "first"


def test_s29_a_reply_and_a_cancellation_at_once_are_no_error() -> None:
    """If a coroutine is cancelled and answered at once, it is cancelled, and its loop reports no error."""
    complaints: list[Any] = []
    with running() as bus, LoopInThread() as loop:
        loop.loop.set_exception_handler(lambda _, told: complaints.append(told))
        hold = Hold()

        def handle(message: Message) -> str:
            hold(message)
            return "late"

        subscription = bus.subscribe("s", handle)

        async def ask() -> None:
            asker = asyncio.create_task(bus.arequest("s", timeout=LONG))
            await asyncio.to_thread(hold.wait_started)
            asker.cancel()
            hold.open()
            wait_until(lambda: subscription.stats()["acknowledged"] == 1, "it has answered")
            with pytest.raises(asyncio.CancelledError):
                await asker

        loop.run(ask())
        loop.call(lambda: None)

    assert complaints == []
    assert engine_of(bus).replies.open == {}


def test_s29_an_arequest_whose_loop_was_closed_under_it_touches_nobody() -> None:
    """If the loop is closed without a cancellation, the handler's delivery still ends well."""
    with running() as bus:
        hold = Hold()

        def handle(message: Message) -> str:
            hold(message)
            return "late"

        subscription = bus.subscribe("s", handle)
        kept: list[Any] = []

        async def ask() -> None:
            kept.append(asyncio.create_task(bus.arequest("s", timeout=LONG)))
            await asyncio.to_thread(hold.wait_started)

        def whole_life_of_a_loop() -> None:
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda *_: None)  # asyncio says that a task was destroyed: that is what this is about
            loop.run_until_complete(ask())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

        InThread(whole_life_of_a_loop).result()
        hold.open()
        bus.drain(WAIT)

        assert subscription.stats()["acknowledged"] == 1
        assert len(bus.dead_letters) == 0


def test_s29_an_arequest_whose_loop_is_gone_touches_nobody() -> None:
    """If the requester's loop ends while the handler runs, its delivery ends well, and other requesters get their answers."""
    with running() as bus:
        hold = Hold()

        def handle(message: Message) -> str:
            if message.body == "slow":
                hold(message)
            return "a reply"

        subscription = bus.subscribe("s", handle, workers=2)

        async def ask_and_go() -> None:
            asker = asyncio.create_task(bus.arequest("s", "slow", timeout=LONG))
            await asyncio.to_thread(hold.wait_started)
            assert not asker.done()

        asyncio.run(ask_and_go())
        hold.open()
        assert bus.request("s").body == "a reply"
        bus.drain(WAIT)
        assert subscription.stats()["acknowledged"] == 2
        assert engine_of(bus).replies.open == {}


# --- asked in handlers -------------------------------------------------------------------------------------------------


@every_wire
def test_s29_handlers_that_ask_handlers_do_not_starve_a_pool_of_one(url: str) -> None:
    """Twenty handlers each ask another one that asks a third: all get answers from a pool of one worker."""
    answers: list[int] = []

    def ask(message: Message) -> None:
        answers.append(bus.request("second", message.body, timeout=LONG).body)

    with running(Bus(url, pool=1)) as bus:
        for _ in range(20):
            bus.subscribe("first", ask)
        bus.subscribe("second", lambda message: bus.request("third", message.body, timeout=LONG).body + 1)
        bus.subscribe("third", double)
        bus.publish("first", 20)
        bus.drain(WAIT)

    assert answers == [41] * 20


@every_wire
@pytest.mark.parametrize("answers", ["pool", "thread", "plain-on-loop", "coroutine"])
@pytest.mark.parametrize("asks", ["pool", "thread", "coroutine", "coroutine-in-a-thread"])
def test_s29_a_handler_may_ask_another_however_both_run(asks: str, answers: str, url: str) -> None:
    """Handlers on the pool, on threads and on the loop may ask each other, and the loop is not blocked."""
    got: list[Any] = []

    def ask(message: Message) -> None:
        got.append(bus.request("double", message.body, timeout=LONG).body)

    async def aask(message: Message) -> None:
        if asks == "coroutine":
            reply = await bus.arequest("double", message.body, timeout=LONG)
        else:
            reply = await asyncio.to_thread(bus.request, "double", message.body, timeout=LONG)
        got.append(reply.body)

    with running(Bus(url, pool=1)) as bus:
        bus.subscribe("s", aask if "coroutine" in asks else ask, run="thread" if asks == "thread" else None)
        bus.subscribe(
            "double",
            adouble if answers == "coroutine" else double,
            run={"thread": "thread", "plain-on-loop": "loop"}.get(answers),  # type: ignore[arg-type]
        )
        for body in range(10):
            bus.publish("s", body)
        bus.drain(WAIT)

    assert got == [2 * body for body in range(10)]


@pytest.mark.parametrize("asks", ["pool", "thread", "coroutine", "coroutine-in-a-thread"])
@every_wire
def test_s29_a_request_to_oneself_raises_at_once(asks: str, url: str) -> None:
    """If the only handler that could answer is the one that asks, its request raises at once and does not wait for itself."""
    errors: list[str] = []

    def ask(message: Message) -> None:
        try:
            bus.request("s", timeout=LONG)
        except NoResponder as error:
            errors.append(str(error))

    async def aask(message: Message) -> None:
        try:
            if asks == "coroutine":
                await bus.arequest("s", timeout=LONG)
            else:
                await asyncio.to_thread(bus.request, "s", timeout=LONG)
        except NoResponder as error:
            errors.append(str(error))

    with running(Bus(url)) as bus:
        subscription = bus.subscribe("s", aask if "coroutine" in asks else ask, run="thread" if asks == "thread" else None)
        bus.publish("s")
        bus.drain(WAIT)

        assert len(errors) == 1
        assert "publish instead" in errors[0]
        assert engine_of(bus).replies.open == {}
        assert_conserved(subscription, accepted=1)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_s29_a_request_to_oneself_is_fine_where_another_can_answer(colour: str) -> None:
    """With two workers the second one answers, and with a second subscriber that one does."""
    got: list[Any] = []

    def ask(message: Message) -> str | None:
        if message.body == "question":
            return "answer"
        got.append(bus.request(message.subject, "question", timeout=LONG).body)
        return None

    async def aask(message: Message) -> str | None:
        if message.body == "question":
            return "answer"
        got.append((await bus.arequest(message.subject, "question", timeout=LONG)).body)
        return None

    with running() as bus:
        handler = aask if colour == "async" else ask
        bus.subscribe("workers", handler, workers=2)
        bus.subscribe("another", handler)
        bus.subscribe("another", lambda message: "the other's")
        bus.publish("workers")
        bus.publish("another")
        bus.drain(WAIT)

    assert sorted(got) == ["answer", "the other's"]


def test_s29_a_handler_on_a_loop_is_told_which_twin_to_use() -> None:
    """`request` would block the loop, so it raises, and names `arequest`."""
    errors: list[str] = []

    async def ask(message: Message) -> None:
        try:
            bus.request("double", 1, timeout=LONG)
        except LifecycleError as error:
            errors.append(str(error))

    with running() as bus:
        bus.subscribe("s", ask)
        bus.subscribe("double", double)
        bus.publish("s")
        bus.drain(WAIT)

    assert len(errors) == 1
    assert "arequest" in errors[0]


# --- filters and replies -----------------------------------------------------------------------------------------------


class See(Transform):
    """A filter that records each message, with the body of a reply."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    def transform(self, message: Message) -> Message:
        what = message.subject if message.subject == "s" else f"reply {message.body}"
        self.seen.append(f"{self.name}: {what}")
        return message


@both
@every_road
def test_s29_replies_pass_the_unscoped_publish_filters_only(road: str, ask: Ask) -> None:
    """The reply passes filters without a pattern or under a predicate, in order, but none under a pattern or in a branch."""
    seen: list[str] = []
    bus = bus_of(road)
    bus.use(
        See("bare", seen),
        when(">", See("all", seen)),
        when("*.*", See("two", seen)),
        when("_reply.>", See("guessed", seen)),
        when(lambda message: True, See("predicate", seen)),
        when(">", when(lambda message: True, See("nested", seen))),
        branch("other.>", See("branch", seen)),
        See("last", seen),
    )
    with running(bus):
        bus.subscribe("s", double)
        assert ask(bus, "s", 21).body == 42

    assert seen == [
        *(f"{name}: s" for name in ("bare", "all", "predicate", "nested", "last")),
        *(f"{name}: reply 42" for name in ("bare", "predicate", "last")),
    ]


@pytest.mark.parametrize("url", ["memory:", "memory:?wire=json", "sqlite:///{}/bus.db"], ids=["memory", "wire", "sqlite"])
def test_s29_models_under_a_pattern_do_not_judge_replies(url: str, tmp_path: Path) -> None:
    """Not even those under `>`, although a reply has a subject where messages are encoded."""
    bus = Bus(url.format(tmp_path))
    bus.use(Validate({">": Price}))
    bus.subscribe("s", lambda message: "a text", name="s")
    with running(bus):
        assert bus.request("s", {"cents": 1}).body == "a text"
        with pytest.raises(Rejected):
            bus.request("s", "no price")


@pytest.mark.parametrize("url", ["memory:", "sqlite:///{}/bus.db"], ids=["memory", "sqlite"])
def test_s29_replies_pass_no_delivery_filter_of_the_bus(url: str, tmp_path: Path) -> None:
    """Those are for handlers, whatever they do and of whichever colour they are."""
    seen: list[str] = []
    bus = Bus(url.format(tmp_path))

    async def see(message: Message, call_next: Any) -> Any:
        seen.append(message.subject)
        return await call_next(message)

    bus.use(see, at="delivery")
    bus.subscribe("s", adouble, name="s")
    with running(bus):
        assert bus.request("s", 21).body == 42
    assert seen == ["s"]


@both
@every_road
def test_s29_a_filter_may_change_a_reply(road: str, ask: Ask) -> None:
    """The requester gets the reply as a filter without a pattern has changed it."""

    @transform
    def add_one(message: Message) -> Message:
        return message if message.subject == "s" else message.with_body(message.body + 1)

    bus = bus_of(road)
    bus.use(add_one)
    with running(bus):
        bus.subscribe("s", double)

        assert ask(bus, "s", 21).body == 43


@both
@every_road
def test_s29_a_filter_that_refuses_a_reply_fails_the_handlers_delivery(road: str, ask: Ask) -> None:
    """The value cannot be sent, so the delivery has failed, and the requester gets the error."""

    class Guard(Transform):
        def transform(self, message: Message) -> Message:
            if message.subject != "s":
                raise Rejected("no replies")
            return message

    bus = bus_of(road)
    bus.use(Guard())
    with running(bus):
        subscription = bus.subscribe("s", double)

        with pytest.raises(RequestFailed, match=r"^filter Guard failed with Rejected: .*no replies"):
            ask(bus, "s", 21, timeout=LONG)
        bus.drain(WAIT)
        assert subscription.stats()["dropped"] == {"request failed": 1}


@pytest.mark.parametrize("fails", ["filter", "handler"])
def test_s29_the_error_of_a_request_names_the_filter_around_the_handler_that_failed(fails: str, tmp_path: Path) -> None:
    """It does so in another process too, and blames the handler for what the handler raises."""

    @transform
    def check(message: Message) -> Message:
        if fails == "filter":
            raise Boom("not today")
        return message

    url = f"sqlite:///{tmp_path}/bus.db"
    with running(Bus(url)) as here, running(Bus(url)) as there:
        there.subscribe("s", boom, name="s", filters=[check])
        with pytest.raises(
            RequestFailed, match="^filter check failed with" if fails == "filter" else "^the handler failed with"
        ):
            here.request("s", 21, timeout=LONG)


def test_s20_a_filter_that_refuses_a_returned_value_is_named_in_the_dead_letter() -> None:
    """The handler has done its work; what it returned could not be published."""
    bus = Bus()

    @bus.use
    @transform
    def guard(message: Message) -> Message:
        if message.subject == "next":
            raise Rejected("closed")
        return message

    bus.subscribe("s", double, to="next")
    with running(bus):
        bus.publish("s", 21)
        bus.drain(WAIT)
        assert [letter.by for letter in bus.dead_letters.list()] == ["guard"]


@both
@every_road
def test_s29_a_reply_that_a_filter_drops_is_told_at_once(road: str, ask: Ask) -> None:
    """The requester does not wait for a reply that a filter has dropped; the handler's delivery has ended well."""

    @transform
    def no_replies(message: Message) -> Message | Dropped:
        return message if message.subject == "s" else Dropped("no replies")

    bus = bus_of(road)
    bus.use(no_replies)
    with running(bus):
        subscription = bus.subscribe("s", double)

        with pytest.raises(RequestDropped, match="no replies"):
            ask(bus, "s", 21, timeout=LONG)
        bus.drain(WAIT)
        assert subscription.stats()["acknowledged"] == 1


@both
@every_wire
def test_s29_what_filters_do_to_messages_is_not_done_to_an_error(url: str, ask: Ask) -> None:
    """If a filter refuses every reply, the requester still gets the error that the handler has failed."""

    class Guard(Transform):
        def transform(self, message: Message) -> Message:
            if message.subject != "s":
                raise Rejected("no replies")
            return message

    bus = Bus(url)
    bus.use(Guard())
    with running(bus):
        bus.subscribe("s", boom)

        with pytest.raises(RequestFailed, match="Boom"):
            ask(bus, "s", 21, timeout=LONG)


def test_s29_filters_added_before_a_new_start_see_replies() -> None:
    """The chain of replies is built again when the filters have changed."""
    seen: list[str] = []
    bus = Bus()
    bus.subscribe("s", double)
    for number, name in enumerate(("first", "second", "third")):
        with running(bus):
            assert bus.request("s", number).body == 2 * number
        bus.use(See(name, seen))
        seen.append("---")

    assert seen == [
        *("---", "first: s", "first: reply 2", "---"),
        *("first: s", "second: s", "first: reply 4", "second: reply 4", "---"),
    ]


@both
def test_s29_a_filter_that_readdresses_a_reply_is_told_so(ask: Ask) -> None:
    """A reply goes only to its requester: a filter that changes its subject makes the handler's delivery fail."""

    @transform
    def readdress(message: Message) -> Message:
        return message if message.subject == "s" else Message("elsewhere", message.body)

    bus = Bus()
    bus.use(readdress)
    with running(bus):
        bus.subscribe("s", double)

        with pytest.raises(RequestFailed) as raised:
            ask(bus, "s", 21, timeout=LONG)
        assert raised.value.type == "SubjectChanged"


@both
def test_s29_a_plain_sync_chain_carries_replies_of_async_handlers(ask: Ask) -> None:
    """With a plain `def` filter on the publish side, the reply of a coroutine passes it on the loop."""
    seen: list[str] = []
    bus = Bus()

    @bus.use
    def plain(message: Message, call_next: Any) -> Any:
        seen.append("question" if message.subject == "s" else "reply")
        return call_next(message)

    with running(bus):
        bus.subscribe("s", adouble)

        assert ask(bus, "s", 21).body == 42
    assert seen == ["question", "reply"]


# --- a bus that is not running -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [request, arequest])
@every_wire
def test_s27_a_request_before_the_start_or_after_the_stop_raises(url: str, ask: Ask) -> None:
    """`request` raises the same errors as `publish`."""
    bus = Bus(url)
    bus.subscribe("s", double)
    with pytest.raises(BusNotStarted):
        ask(bus, "s", 1)
    with running(bus):
        assert ask(bus, "s", 1).body == 2
    with pytest.raises(BusClosed):
        ask(bus, "s", 1)

    assert engine_of(bus).replies.open == {}


@pytest.mark.parametrize("ask", [request, arequest])
@every_wire
def test_s25_whoever_waits_for_a_reply_when_the_bus_stops_is_let_go(url: str, ask: Ask) -> None:
    """The requester gets BusClosed, because no answer will come, and nothing is left behind."""
    bus = Bus(url)
    bus.start()
    hold = Hold()
    subscription = bus.subscribe("s", hold)
    askers = [InThread(ask, bus, "s", timeout=LONG) for _ in range(5)]
    wait_until(lambda: subscription.stats()["accepted"] == 5, "all have asked")
    hold.wait_started()
    stop = InThread(bus.stop, 0.0)

    for asker in askers:
        with pytest.raises(BusClosed):
            asker.result()
    hold.open()
    stop.result()
    assert engine_of(bus).replies.open == {}


@pytest.mark.parametrize("ask", [request, arequest])
@every_wire
def test_s25_a_request_that_was_asked_before_the_stop_is_answered_while_the_bus_drains(url: str, ask: Ask) -> None:
    """Draining finishes the requests that were accepted, and their requesters get the answers."""
    bus = Bus(url)
    bus.start()
    hold = Hold()

    def handle(message: Message) -> int:
        hold(message)
        return bus.request("double", message.body).body  # a handler may ask while the bus drains

    bus.subscribe("s", handle)
    bus.subscribe("double", double)
    asker = InThread(ask, bus, "s", 21, timeout=LONG)
    hold.wait_started()
    stop = InThread(bus.stop, WAIT)
    wait_until(lambda: bus.state == "draining", "the bus drains")
    with pytest.raises(BusClosed):
        ask(bus, "double", 1)
    hold.open()

    assert asker.result().body == 42
    assert stop.result().drained


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_s36_a_stop_ends_the_wait_for_an_answer_that_no_handler_here_will_give(colour: str, tmp_path: Path) -> None:
    """The question stays in the store, so the stop does not wait for it; the next start repeats the handler that asks."""
    errors: list[BaseException] = []
    attempts: list[int] = []

    def ask(message: Message, delivery: Delivery) -> Any:
        attempts.append(delivery.attempt)
        with noting(errors):
            return bus.request("double", message.body, timeout=LONG).body

    async def ask_in_coroutine(message: Message, delivery: Delivery) -> Any:
        attempts.append(delivery.attempt)
        with noting(errors):
            return (await bus.arequest("double", message.body, timeout=LONG)).body

    bus = Bus(f"sqlite:///{tmp_path}/bus.db")
    answers = bus.subscribe("double", double, name="double")
    answers.pause()
    bus.subscribe("s", ask if colour == "sync" else ask_in_coroutine, name="s")
    bus.start()
    bus.publish("s", 21)
    wait_until(lambda: len(engine_of(bus).replies.open) == 1, "the handler asks")
    report = InThread(bus.stop, LONG).result()
    assert report.left == {"s": 1}
    assert [type(error) for error in errors] == [BusClosed]
    assert "answer the request on double" in str(errors[0])

    answers.resume()
    bus.start()
    bus.drain(WAIT)
    assert bus.stop(WAIT).drained
    assert attempts == [1, 1]
    assert len(bus.dead_letters) == 0


@pytest.mark.parametrize("place", ["here", "in-another-bus"])
def test_s36_a_stop_waits_for_an_answer_that_a_handler_may_still_give(place: str, tmp_path: Path) -> None:
    """The handler that asks ends, if the one that it asks runs, or listens in another process."""
    found: list[Any] = []
    hold = Hold()

    def answer(message: Message) -> int:
        hold(message)
        return double(message)

    bus, other = (Bus(f"sqlite:///{tmp_path}/bus.db") for _ in range(2))
    (bus if place == "here" else other).subscribe("double", answer, name="double")
    bus.subscribe("s", lambda message: found.append(bus.request("double", message.body, timeout=LONG).body), name="s")
    with running(other):
        bus.start()
        bus.publish("s", 21)
        hold.wait_started()
        stop = InThread(bus.stop, WAIT)
        wait_until(lambda: bus.state == "draining", "the bus stops")
        hold.open()
        assert stop.result().left == {}
        assert found == [42]


@every_wire
def test_s29_an_answer_made_after_a_restart_finds_nobody(url: str) -> None:
    """A stop leaves the question over, and the next start handles it, but its requester has gone."""
    bus = Bus(url)
    bus.start()
    subscription = bus.subscribe("s", double)
    subscription.pause()
    asker = InThread(bus.request, "s", 21, timeout=LONG)
    wait_until(lambda: subscription.stats()["pending"] == 1, "the question is there")
    bus.stop(timeout=WAIT)
    with pytest.raises(BusClosed):
        asker.result()
    with running(bus):
        subscription.resume()
        bus.drain(WAIT)

        assert subscription.stats()["acknowledged"] == 1
        assert bus.stats()["unrouted"] == 1
        assert bus.request("s", 2).body == 4


# --- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "in-a-handler"])
@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize(
    ("subject", "options", "error"),
    [
        ("orders.*", {}, SubjectError),
        ("orders..get", {}, SubjectError),
        ([], {}, SubjectError),
        (7, {}, SubjectError),
        ("s", {"timeout": -1}, MessageError),
        ("s", {"timeout": "soon"}, MessageError),
        ("s", {"timeout": True}, MessageError),
        ("s", {"ttl": 0}, MessageError),
        ("s", {"delay": 1.0}, TypeError),
        ("s", {"reply_to": "elsewhere"}, TypeError),
    ],
    ids=str,
)
def test_s29_bad_input_is_told_like_publishs(
    subject: Any, options: dict[str, Any], error: type[Exception], colour: str, inside: bool
) -> None:
    """The errors are the same in every way of asking; nothing waits, and nothing is left behind."""
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            bus.request(subject, **options)
        except Exception as found:
            errors.append(found)

    async def aask() -> None:
        try:
            await bus.arequest(subject, **options)
        except Exception as found:
            errors.append(found)

    with running() as bus:
        bus.subscribe("s", double)
        bus.subscribe("ask", aask if colour == "async" else ask)
        if inside:
            bus.publish("ask")
            bus.drain(WAIT)
        elif colour == "async":
            asyncio.run(aask())
        else:
            ask()

        assert [type(found) for found in errors] == [error]
        assert engine_of(bus).replies.open == {}


@both
def test_s29_mail_for_objects_cannot_be_asked_where_messages_are_encoded(ask: Ask) -> None:
    """With wire=json a request needs a named subject."""
    with running(Bus("memory:?wire=json")) as bus:
        with pytest.raises((UnsupportedCapability, PipelineError, SubjectError)):
            ask(bus, Ref(object()), timeout=LONG)
        assert engine_of(bus).replies.open == {}


def test_s29_two_buses_do_not_mix_their_replies_up() -> None:
    """With wire=json an address is a text, and the address of one bus means nothing to another bus."""
    with running(Bus("memory:?wire=json")) as one, running(Bus("memory:?wire=json")) as two:
        inboxes = [bus.subscribe("s") for bus in (one, two)]
        askers = [InThread(bus.request, "s", timeout=LONG) for bus in (one, two)]
        questions = [inbox.receive(timeout=WAIT) for inbox in inboxes]
        assert two.publish(questions[0].reply_to, "from elsewhere") == Receipt(0)
        assert one.publish(questions[1].reply_to, "from elsewhere") == Receipt(0)
        for bus, question in zip((one, two), questions, strict=True):
            assert bus.publish(question.reply_to, "from here") == Receipt(1)

        assert [asker.result().body for asker in askers] == ["from here"] * 2


def test_s32_an_asker_whose_loop_has_moved_to_another_thread_is_woken() -> None:
    """A coroutine begins to wait in one thread, its loop moves to another, and the answer still wakes it."""
    with running() as bus:
        inbox = bus.subscribe("s")
        asker: list[asyncio.Task[Message]] = []

        async def begin_to_ask() -> None:
            asker.append(asyncio.create_task(bus.arequest("s", timeout=LONG)))
            await asyncio.sleep(0)

        async def get() -> Any:
            return (await asker[0]).body

        with LoopInThread(set_up=begin_to_ask) as loop:
            question = inbox.receive(timeout=WAIT)
            waiting = loop.start(get())
            loop.call(lambda: None)
            assert bus.publish(question.reply_to, "an answer")

            assert waiting.result(WAIT) == "an answer"


def test_s32_one_bus_answers_coroutines_of_many_loops() -> None:
    """When coroutines on three loops ask at once, each wakes up on its own loop."""

    async def ask(me: int) -> list[Any]:
        return [(await bus.arequest("double", me * 100 + number, timeout=LONG)).body for number in range(50)]

    with LoopInThread("a") as a, LoopInThread("b") as b, LoopInThread("c") as c:
        bus = Bus()
        a.run(bus.astart())
        with running(bus):
            bus.subscribe("double", adouble, workers=3)
            futures = [loop.start(ask(me)) for me, loop in enumerate((a, b, c))]

            assert [future.result(WAIT) for future in futures] == [
                [2 * (me * 100 + number) for number in range(50)] for me in range(3)
            ]

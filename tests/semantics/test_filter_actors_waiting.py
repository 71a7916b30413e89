"""
Filter actors, continued: a publisher waits for one a bounded time, holds nobody else up, and gets an answer while the bus
stops; and the figures of filter actors. Guarantees 14, 18, 19, 23 and 25.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from actor_helpers import (
    Answers,
    Asked,
    AskedSort,
    AsyncAsked,
    Notes,
    at_rest,
    every_asked_sort,
    every_free_sort,
    every_sort_around_handlers,
    patient,
)
from flow_helpers import (
    LONG,
    WAIT,
    Boom,
    Ear,
    Hold,
    InThread,
    apublish,
    assert_conserved,
    bus_of,
    every_road,
    every_way,
    fine,
    publish,
    running,
    wait_until,
)
from pipebus import (
    Actor,
    Bus,
    BusClosed,
    Dropped,
    Message,
    Pipeline,
    PipelineError,
    Receipt,
    when,
)
from pipebus.clock import Gate, SystemClock
from pipebus.events import Discarded, StateChanged, Taken
from pipebus.testing import FakeClock, Harness
from pipebus.transports.memory import MemoryTransport

both_colours = pytest.mark.parametrize("colour", ["sync", "async"])
"""Run a test once with a plain handler and once with an async one."""


def handler(colour: str, call: Callable[[Message], Any]) -> Any:
    """`call` as a handler of a colour; a `Hold` is waited for on another thread."""

    async def ahandle(message: Message) -> Any:
        return await asyncio.to_thread(call, message) if isinstance(call, Hold) else call(message)

    return ahandle if colour == "async" else call


# --- time-out ----------------------------------------------------------------------------------------------------------


def takes(harness: Harness, sort: AskedSort, seconds: float) -> Any:
    """The answer of an actor of that sort: the message unchanged, after so many seconds if its body is "slow"."""

    def answer(message: Message) -> Message:
        if message.body == "slow":
            harness.clock.sleep(seconds)
        return message

    async def aanswer(message: Message) -> Message:
        if message.body == "slow":
            await asyncio.sleep(seconds)
        return message

    return aanswer if inspect.iscoroutinefunction(sort.cls.filter) else answer


@every_free_sort
@pytest.mark.parametrize("timeout", [5.0, 60.0], ids=["default", "own"])
def test_s19_a_filter_actor_that_does_not_answer_in_time_refuses_the_message(
    harness: Harness, sort: AskedSort, timeout: float
) -> None:
    """After `filter_timeout` seconds, five by default, the publisher gets a TimeoutError that names the actor."""
    actor = sort.use(harness.bus, answer=takes(harness, sort, timeout + 1.0))
    if timeout != 5.0:
        actor.filter_timeout = timeout
    with running(harness.bus) as bus:
        reader = bus.subscribe("s")

        with pytest.raises(TimeoutError, match=f"filter actor asked gave no answer about s in {timeout:g} s"):
            bus.publish("s", "slow")
        assert harness.elapsed == timeout
        assert [event.by for event in harness.refused] == ["asked"]
        harness.advance(1.0)
        assert bus.publish("s", "quick") == Receipt(1)

        assert actor.questions == ["slow", "quick"]
        assert_conserved(reader, accepted=1)


def test_s11_an_actors_time_that_is_no_duration_is_refused_where_it_is_used() -> None:
    """The error names the class and the attribute."""

    class Hasty(Asked):
        filter_timeout = "soon"

    with pytest.raises(PipelineError, match=r"Hasty\.filter_timeout='soon': it is a number of seconds"):
        Bus().use(Hasty("asked"))


@every_free_sort
@pytest.mark.parametrize("road", ["bare", "async"])
def test_s19_a_coroutine_waits_no_longer_either(harness: Harness, sort: AskedSort, road: str) -> None:
    """`apublish`, and `publish` over an async chain, raise TimeoutError, and their loop is free meanwhile."""
    bus = harness.attach(bus_of(road))
    sort.use(bus, answer=takes(harness, sort, 7.0))
    with running(bus):
        reader = bus.subscribe("s")
        with pytest.raises(TimeoutError, match="asked gave no answer about s in 5 s"):
            harness.run(bus.apublish("s", "slow"))
        assert harness.elapsed == 5.0
        harness.advance(2.0)
        if road == "async":
            with pytest.raises(TimeoutError, match="asked gave no answer about s in 5 s"):
                bus.publish("s", "slow")
            assert harness.elapsed == 12.0
        harness.drain()

        assert_conserved(reader, accepted=0)


def test_s19_a_class_may_set_the_time_and_a_subclass_may_set_another(harness: Harness) -> None:
    """`filter_timeout` is an attribute like any other."""

    class Quick(Asked):
        filter_timeout = 1.0

    class Slow(Quick):
        filter_timeout = "100s"

    def answer(message: Message) -> Message:
        harness.clock.sleep(200.0)
        return message

    harness.bus.use(when("to.quick", Quick("quick", answer)), when("to.slow", Slow("slow", answer)))
    with running(harness.bus) as bus:
        with pytest.raises(TimeoutError, match="in 1 s"):
            bus.publish("to.quick")
        assert harness.elapsed == 1.0
        with pytest.raises(TimeoutError, match="in 100 s"):
            bus.publish("to.slow")
        assert harness.elapsed == 101.0
        harness.advance(200.0)


@every_free_sort
def test_s19_a_question_that_was_given_up_before_it_was_reached_is_not_asked(harness: Harness, sort: AskedSort) -> None:
    """The message was refused, so the actor never filters it."""
    actor = sort.use(harness.bus, answer=takes(harness, sort, 10.0))
    with running(harness.bus) as bus:
        first = harness.thread(bus.publish, "s", "slow")
        harness.advance(0)
        second = harness.thread(bus.publish, "s", "second")
        harness.advance(0)
        for waits in (first, second):
            with pytest.raises(TimeoutError):
                waits.result()
        assert harness.elapsed == 5.0
        harness.advance(5.0)

        assert actor.questions == ["slow"]
        assert bus.publish("s", "third") == Receipt(0)
        harness.advance(0)
        actor.subscription.unsubscribe(timeout=0.0)  # the actor is at rest


@every_free_sort
@both_colours
def test_s19_a_delivery_that_gets_no_answer_is_a_dead_letter(sort: AskedSort, colour: str) -> None:
    """The delivery fails with an error that names the actor, and the handler does not run."""
    answer = Answers()
    bus = Bus()
    actor = patient(sort.cls(answer=answer), 0.01)
    bus.spawn(actor, run=sort.run)
    with running(bus):
        handled: list[Any] = []
        subscription = bus.subscribe("s", handler(colour, lambda m: handled.append(m.body)), filters=[actor])
        bus.publish("s", "x")
        wait_until(lambda: len(bus.dead_letters) == 1, "it is dead")
        answer.open()
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list()
        assert (letter.by, letter.error.split(":")[0], handled) == ("asked", "TimeoutError", [])
        assert_conserved(subscription, accepted=1)


@pytest.mark.parametrize("on_error", ["drop", "dead_letter"])
def test_s19_on_error_rules_a_time_out_too(harness: Harness, on_error: Any) -> None:
    """A time-out is an error of the filter like any other, so `on_error` applies."""

    def answer(message: Message) -> Message:
        harness.clock.sleep(6.0)
        return message

    harness.allow(TimeoutError)
    harness.bus.use(Pipeline(Asked(answer=answer), on_error=on_error))
    with running(harness.bus) as bus:
        assert bus.publish("s") == Dropped(f"{on_error}: TimeoutError", by="asked")
        assert harness.elapsed == 5.0


# --- paused, stopped, restarted ----------------------------------------------------------------------------------------


@every_asked_sort
def test_s25_a_paused_filter_actor_answers_when_it_is_resumed(harness: Harness, sort: AskedSort) -> None:
    """A publisher waits until the actor is resumed, or for its time-out."""
    actor = sort.use(harness.bus)
    with running(harness.bus) as bus:
        actor.subscription.pause()
        waits = harness.thread(bus.publish, "s", 1)
        harness.advance(4.0)
        bus.drain(0.0)  # a drain does not wait for a paused subscription
        assert (actor.questions, waits.ended) == ([], False)
        actor.subscription.resume()
        assert waits.result() == Receipt(0)
        assert harness.elapsed == 4.0

        actor.subscription.pause()
        with pytest.raises(TimeoutError):
            bus.publish("s", 2)
        assert harness.elapsed == 9.0
        actor.subscription.resume()
        harness.advance(0)
        assert actor.questions == [1]


@every_free_sort
def test_s25_a_filter_actor_that_is_paused_while_it_is_asked_answers_that_and_no_more(sort: AskedSort) -> None:
    """Mail and questions that are in line behind it wait until it is resumed."""
    answer = Answers()
    bus = Bus()
    actor = patient(sort.make(bus, answer=answer))
    bus.use(when("s", actor))
    with running(bus):
        first = InThread(bus.publish, "s", "first")
        answer.wait_started()
        second = InThread(bus.publish, "s", "second")
        actor.wait_for_line(questions=1)
        bus.publish(actor, "mail")
        actor.subscription.pause()
        answer.open()
        assert first.result() == Receipt(0)
        bus.drain(WAIT)
        assert (actor.questions, actor.mail, second.running) == (["first"], [], True)
        actor.subscription.resume()

        assert second.result() == Receipt(0)
        bus.drain(WAIT)
        assert (actor.questions, actor.mail) == (["first", "second"], ["mail"])


@every_asked_sort
@every_road
@every_way
def test_s19_a_stopped_filter_actor_refuses_every_message(sort: AskedSort, road: str, way: Any) -> None:
    """Publishers get BusClosed with its name at once; spawned again, it answers again, and has kept its state."""
    bus = bus_of(road)
    actor = sort.use(bus)
    with running(bus):
        reader = bus.subscribe("s")
        assert way(bus, "s", 1) == Receipt(1)
        actor.stop()

        with pytest.raises(BusClosed, match="filter actor asked has stopped"):
            way(bus, "s", 2)
        bus.spawn(actor, run=sort.run)
        assert way(bus, "s", 3) == Receipt(1)

        assert actor.questions == [1, 3]
        assert_conserved(reader, accepted=2)
        assert bus.stats()["errors"] == {"BusClosed": 1}


@every_free_sort
@every_way
@pytest.mark.parametrize("end", ["stop", "unsubscribe"])
def test_s25_a_stop_lets_the_question_in_hand_be_answered_and_refuses_those_in_line(
    sort: AskedSort, way: Any, end: str
) -> None:
    """Nobody waits for a time-out: callers in line get an error at once, and waiting mail is dropped."""
    answer = Answers()
    bus = Bus()
    actor = patient(sort.use(bus, answer=answer))
    with running(bus):
        first = InThread(way, bus, "s", "first")
        answer.wait_started()
        others = []
        for number in range(5):
            others.append(InThread(way, bus, "s", number))
            actor.wait_for_line(questions=number + 1)
            bus.publish(actor, number)
        ending = InThread(actor.stop if end == "stop" else lambda: actor.subscription.unsubscribe(WAIT))

        for waits in others:
            with pytest.raises(BusClosed, match="filter actor asked has stopped"):
                waits.result()
        assert first.running
        assert end == "stop" or ending.running  # an unsubscribe is final when it returns
        answer.open()
        assert first.result() == Receipt(0)
        ending.result()
        bus.drain(WAIT)
        assert (actor.questions, actor.mail) == (["first"], [])
        assert actor.subscription.stats()["dropped"] == {"stopped" if end == "stop" else "unsubscribed": 5}
        assert_conserved(actor.subscription, accepted=5)


@every_asked_sort
@every_way
def test_s25_a_filter_actor_may_stop_itself_while_it_is_asked(sort: AskedSort, way: Any) -> None:
    """The answer that it gives then still counts, and it gives no other."""

    def last(message: Message) -> Message:
        actor.stop()
        return message.with_body("last")

    bus = Bus()
    actor = sort.use(bus, answer=last)
    with running(bus):
        reader = bus.subscribe("s")
        assert way(bus, "s", "x") == Receipt(1)
        with pytest.raises(BusClosed):
            way(bus, "s", "y")

        assert reader.receive(timeout=0).body == "last"
        assert actor.questions == ["x"]


@every_asked_sort
@every_way
def test_s25_a_filter_actor_is_asked_again_after_a_restart(sort: AskedSort, way: Any) -> None:
    """It answers again, and keeps its state, also if it was busy when the bus stopped."""
    bus = Bus()
    actor = sort.use(bus)
    for turn in range(3):
        with running(bus):
            assert way(bus, "s", turn) == Receipt(0)
            bus.publish(actor, turn)
        with pytest.raises(BusClosed):
            way(bus, "s", "stopped")

    assert (actor.questions, actor.mail) == ([0, 1, 2], [0, 1, 2])


@every_free_sort
@every_way
@pytest.mark.parametrize("drain", [True, False], ids=["drained", "at-once"])
def test_s25_a_stop_of_the_bus_answers_or_refuses_who_waits(sort: AskedSort, way: Any, drain: bool) -> None:
    """A stop that drains answers every earlier question; one that does not answers the one in hand and refuses the others."""
    answer = Answers()
    bus = Bus()
    ear = Ear(bus)
    actor = patient(sort.use(bus, answer=answer))
    with running(bus, drain=drain):
        reader = bus.subscribe("s")
        waiting = []
        for number in range(3):
            waiting.append(InThread(way, bus, "s", number))
            if number == 0:
                answer.wait_started()
            else:
                actor.wait_for_line(questions=number)
        stop = InThread(bus.stop, WAIT, drain=drain)
        ear.wait_for(StateChanged, 2 if drain else 3)  # started, draining, stopped
        answer.open()
        stop.result()

        ends: list[str] = []
        for waits in waiting:
            try:
                assert waits.result() == Receipt(1)
                ends.append("accepted")
            except BusClosed as error:
                ends.append("not answered" if "filter actor" in str(error) else "too late for the mailbox")
        assert_conserved(reader, accepted=ends.count("accepted"))
        assert ends[0] != "not answered"
        assert not drain or "not answered" not in ends


@every_free_sort
def test_s25_what_a_stop_leaves_over_keeps_its_place_behind_nobody(sort: AskedSort) -> None:
    """Mail that waited behind a question when the bus stopped is handled after the next start, in its order."""
    answer = Answers()
    bus = Bus()
    ear = Ear(bus)
    actor = patient(sort.make(bus, answer=answer))
    bus.use(when("s", actor))
    with running(bus, drain=False):
        asks = InThread(bus.publish, "s")
        answer.wait_started()
        for body in range(3):
            bus.publish(actor, body)
        stop = InThread(bus.stop, WAIT, drain=False)
        ear.wait_for(StateChanged, 3)
        answer.open()
        assert stop.result().left == {"asked": 3}
        assert asks.result() == Receipt(0)

        bus.start()
        bus.publish(actor, 3)
        bus.drain(WAIT)
        assert actor.mail == [0, 1, 2, 3]
        assert_conserved(actor.subscription, accepted=4)


# --- filter actors stop last -------------------------------------------------------------------------------------------


@every_sort_around_handlers
@both_colours
@pytest.mark.parametrize("whose", ["bus", "own"])
def test_s25_filter_actors_stop_last(sort: AskedSort, colour: str, whose: str) -> None:
    """A delivery that has begun when the bus stops still passes its filter actor, and is handled."""
    hold = Answers()
    bus = Bus()
    ear = Ear(bus)
    before = patient(Asked("before", hold))
    actor = patient(sort.make(bus, "asked"))
    around_handlers = [before, actor]
    if whose == "bus":
        bus.use(*around_handlers, at="delivery")
    with running(bus, drain=False):
        handled: list[Any] = []
        filters = around_handlers if whose == "own" else []
        subscription = bus.subscribe("s", handler(colour, lambda m: handled.append(m.body)), filters=filters)
        bus.publish("s", "x")
        hold.wait_started()
        stop = InThread(bus.stop, WAIT, drain=False)
        ear.wait_for(StateChanged, 3)
        hold.open()
        report = stop.result()

        assert (handled, report.left, report.abandoned) == (["x"], {}, ())
        assert actor.questions == ["x"]
        assert_conserved(subscription, accepted=1)


@every_free_sort
def test_s10_a_filter_actor_is_asked_one_message_at_a_time_while_the_bus_stops(sort: AskedSort) -> None:
    """Of two deliveries that have begun, the second waits in line for the filter actor, and both are handled."""
    turnstile, answer, handled = Answers(), Answers(), Hold(open=True)
    bus = Bus()
    ear = Ear(bus)
    actor = patient(sort.make(bus, answer=answer))
    with running(bus, drain=False):
        for _ in range(2):
            bus.subscribe("s", handled, filters=[lambda message, call_next: call_next(turnstile(message)), actor])
        bus.publish("s", "x")
        turnstile.wait_started(2)
        stop = InThread(bus.stop, WAIT, drain=False)
        ear.wait_for(StateChanged, 3)
        turnstile.open()
        answer.wait_started()
        actor.wait_for_line(questions=1)
        assert answer.given == ["x"]
        answer.open()

        assert stop.result().left == {}
        assert handled.given == ["x", "x"]


@every_asked_sort
@pytest.mark.parametrize("who", ["thread", "coroutine"])
def test_s25_who_comes_to_a_filter_actor_when_the_bus_has_stopped_is_refused_at_once(sort: AskedSort, who: str) -> None:
    """The publisher is in an earlier filter while the bus stops, and the bus does not wait for publishers from outside."""
    reached, turnstile = threading.Semaphore(0), threading.Event()  # no `Hold`, which `running` opens before the bus stops
    bus = Bus()

    def passes() -> None:
        reached.release()
        assert turnstile.wait(WAIT)

    def enter(message: Message, call_next: Any) -> Any:
        passes()
        return call_next(message)

    async def aenter(message: Message, call_next: Any) -> Any:
        await asyncio.to_thread(passes)
        return await call_next(message)

    bus.use(enter if who == "thread" else aenter)
    actor = patient(sort.use(bus))
    for _ in range(2):
        turnstile.clear()
        with running(bus, drain=False):
            waits = InThread(publish if who == "thread" else apublish, bus, "s")
            assert reached.acquire(timeout=WAIT)
        turnstile.set()

        with pytest.raises(BusClosed, match="filter actor asked has stopped"):
            waits.result()
    with running(bus):
        assert apublish(bus, "s", "next") == Receipt(0)
        assert actor.questions == ["next"]


@every_asked_sort
@both_colours
def test_s25_a_handler_may_publish_through_a_filter_actor_while_the_bus_drains(sort: AskedSort, colour: str) -> None:
    """Publishers from outside are refused meanwhile; the handler's message passes the filter actor and is handled."""
    bus = Bus()
    sort.use(bus)
    with running(bus):
        hold, last = Hold(), Hold(open=True)

        def go_on(message: Message) -> None:
            hold(message)
            bus.publish("last", message.body)

        async def ago_on(message: Message) -> None:
            await asyncio.to_thread(hold, message)
            await bus.apublish("last", message.body)

        bus.subscribe("first", go_on if colour == "sync" else ago_on)
        bus.subscribe("last", last)
        bus.publish("first", "x")
        hold.wait_started()
        stop = InThread(bus.stop, WAIT)
        wait_until(lambda: bus.state == "draining", "the bus drains")
        with pytest.raises(BusClosed):
            bus.publish("first", "from outside")
        hold.open()

        assert stop.result().drained
        assert last.given == ["x"]


def test_s25_a_stop_does_not_wait_for_a_filter_actor_longer_than_it_may() -> None:
    """A filter actor that does not return is abandoned like a handler; its caller gets the answer once it returns."""
    answer = Answers()
    bus = Bus()
    patient(bus.use(Asked(answer=answer)))
    with running(bus, drain=False):
        waits = InThread(bus.publish, "s")
        answer.wait_started()
        report = bus.stop(timeout=0.01)

        assert report.abandoned == ("pipebus-1",)
        answer.open()
        assert waits.result() == Receipt(0)


class ComesLate(MemoryTransport):
    """A transport that calls something once, when a stop has found the bus quiet and has not closed it yet."""

    def __init__(self, late: Callable[[], None]) -> None:
        super().__init__()
        self.late = late
        self.came = False

    @property
    def local(self) -> bool:
        if not self.came and sys._getframe(1).f_code.co_name == "transport_quiet":
            self.came = True
            self.late()
        return True


class Listening(SystemClock):
    """A clock that records when the stop begins to wait for quiet once more."""

    def __init__(self) -> None:
        self.transport: ComesLate | None = None
        self.again = threading.Event()

    def monotonic(self) -> float:
        if self.transport is not None and self.transport.came and sys._getframe(1).f_code.co_name == "quiet":
            self.again.set()
        return SystemClock.monotonic()


@every_free_sort
def test_s25_a_stop_that_has_to_open_again_for_a_late_message_keeps_the_questions(sort: AskedSort) -> None:
    """When messages of earlier publishers arrive just after the bus looked quiet, those publishers still get their answers."""
    turnstile, answer, hold = Answers(), Answers(), Hold()

    def late() -> None:
        turnstile.open()
        hold.wait_started()
        answer.wait_started()
        actor.wait_for_line(questions=1)
        wait_until(lambda: work.stats()["pending"] == 1, "a message waits")

    clock = Listening()
    clock.transport = ComesLate(late)
    bus = Bus(clock.transport, clock=clock)
    for subject in ("work", "asked.about"):
        bus.use(when(subject, lambda message, call_next: call_next(turnstile(message))))
    actor = patient(sort.make(bus, answer=answer))
    bus.use(when("asked.about", actor))
    with running(bus):
        work = bus.subscribe("work", hold)
        publishers = [InThread(bus.publish, subject) for subject in ("work", "work", "asked.about", "asked.about")]
        turnstile.wait_started(4)
        stopping = InThread(bus.stop, WAIT)
        assert clock.again.wait(WAIT)
        hold.open()
        answer.open()

        assert stopping.result().drained
        assert [publisher.result() for publisher in publishers] == [Receipt(1), Receipt(1), Receipt(0), Receipt(0)]
        assert work.stats()["acknowledged"] == 2
        assert actor.subscription.stats()["questions"] == 2


def test_s25_a_paused_filter_actor_does_not_hold_a_stop_up() -> None:
    """A publisher that waits in its line gets the error that it has stopped."""
    bus = Bus()
    actor = patient(bus.use(Asked()))
    with running(bus, drain=False):
        actor.subscription.pause()
        waits = InThread(bus.publish, "s")
        actor.wait_for_line(questions=1)

        assert bus.stop(timeout=WAIT).drained
        with pytest.raises(BusClosed, match="filter actor asked has stopped"):
            waits.result()


# --- loops -------------------------------------------------------------------------------------------------------------


def _plainly(bus: Bus) -> Any:
    return lambda: bus.publish("s")


def _with_options(bus: Bus) -> Any:
    return lambda: bus.publish("s", headers={"a": "b"})


def _later(bus: Bus) -> Any:
    return lambda: bus.publish("s", delay=1.0)


def _a_message(bus: Bus) -> Any:
    return lambda: bus.send(Message("s"))


def _to_another_actor(bus: Bus) -> Any:
    other = bus.spawn(Notes())
    return lambda: bus.publish(other)


publishes = pytest.mark.parametrize("call", [_plainly, _with_options, _later, _a_message, _to_another_actor])
"""Run a test once for each sync call that publishes."""


@every_asked_sort
@publishes
@pytest.mark.parametrize("where", ["coroutine", "handler", "actor"])
def test_s22_publish_on_a_running_loop_names_apublish(sort: AskedSort, call: Any, where: str) -> None:
    """`publish` would block the loop until the answer comes, perhaps from that very loop, so it raises instead."""
    bus = Bus()
    actor = sort.use(bus)
    errors: list[str] = []

    async def attempt(message: Message) -> None:
        try:
            run()
        except PipelineError as error:
            errors.append(str(error))

    with running(bus):
        run = call(bus)
        if where == "coroutine":
            asyncio.run(attempt(Message("begin")))
        else:
            if where == "handler":
                bus.subscribe("begin", attempt)
            else:
                bus.spawn(_Relay("begin", attempt))
            bus.publish("begin", "asked about this")
            bus.drain(WAIT)

        (text,) = errors
        assert "filter asked may wait" in text
        assert "apublish" in text
        assert actor.questions == ([] if where == "coroutine" else ["asked about this"])


class _Relay(Actor):
    def __init__(self, name: str, call: Any) -> None:
        super().__init__(name)
        self.call = call

    async def on_message(self, message: Message) -> None:
        await self.call(message)


def test_s22_publish_on_a_running_loop_works_where_no_filter_actor_is_met() -> None:
    """`publish` works when the filter actor's pattern does not match the subject."""
    bus = Bus()
    bus.use(when("orders.>", Asked()))

    async def main() -> None:
        assert bus.publish("bills") == Receipt(0)
        with pytest.raises(PipelineError, match="apublish"):
            bus.publish("orders.created")

    with running(bus):
        asyncio.run(main())


@every_asked_sort
@pytest.mark.parametrize("road", ["bare", "sync", "async", "encoded"])
def test_s22_a_loop_goes_on_while_its_coroutines_wait_for_answers(sort: AskedSort, road: str) -> None:
    """A hundred publishes wait at once on the caller's loop, where the actor may run too."""
    bus = bus_of(road)
    actor = sort.use(bus)

    async def main() -> list[Any]:
        async with bus:
            return await asyncio.gather(*(bus.apublish("s", number) for number in range(100)))

    assert asyncio.run(main()) == [Receipt(0)] * 100
    assert sorted(actor.questions) == list(range(100))


@every_free_sort
@pytest.mark.parametrize("line", ["in-hand", "in-line"])
def test_s13_a_publish_that_is_cancelled_while_it_waits_leaves_nothing_behind(sort: AskedSort, line: str) -> None:
    """The actor does not filter the cancelled message, an answer that comes is discarded, and the actor continues."""
    answer = Answers()
    bus = Bus()
    actor = patient(sort.use(bus, answer=answer))

    async def main() -> None:
        reader = bus.subscribe("s")
        first = asyncio.create_task(bus.apublish("s", "first"))
        await asyncio.to_thread(answer.wait_started)
        second = asyncio.create_task(bus.apublish("s", "second"))
        await asyncio.to_thread(actor.wait_for_line, 1)
        victim, other = (first, second) if line == "in-hand" else (second, first)
        victim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await victim
        answer.open()

        assert await other == Receipt(1)
        assert_conserved(reader, accepted=1)

    with running(bus):
        asyncio.run(main())
        bus.drain(WAIT)
        assert actor.questions == (["first", "second"] if line == "in-hand" else ["first"])


@every_free_sort
def test_s13_a_publish_that_is_interrupted_while_it_waits_leaves_nothing_behind(sort: AskedSort) -> None:
    """If a signal handler raises in the publishing thread, the actor does not filter its message."""

    def interrupt(number: int, frame: Any) -> None:
        raise Boom("interrupted")

    answer = Answers()
    clock = FakeClock()
    bus = Bus(clock=clock)
    actor = patient(sort.use(bus, answer=answer))
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with running(bus):
            first = InThread(bus.publish, "s", "first")
            answer.wait_started()

            def send_signal() -> None:
                clock.wait_until_waited_for(threads=2)
                os.kill(os.getpid(), signal.SIGUSR1)

            interrupting = InThread(send_signal)
            with pytest.raises(Boom, match="interrupted"):
                bus.publish("s", "second")
            interrupting.result()
            answer.open()
            assert first.result() == Receipt(0)
            at_rest(bus)

            assert actor.questions == ["first"]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_s13_an_answer_that_comes_when_its_loop_is_gone_harms_nobody() -> None:
    """When the loop is closed under the publish, the actor still answers the next one."""
    answer = Answers()
    bus = Bus()
    actor = patient(bus.use(Asked(answer=answer)))
    with running(bus):
        loop = asyncio.new_event_loop()
        waits = loop.create_task(bus.apublish("s", "lost"))
        loop.run_until_complete(asyncio.wait([loop.run_in_executor(None, answer.wait_started)]))
        loop.run_until_complete(loop.shutdown_default_executor())
        coroutine = waits.get_coro()
        loop.close()
        coroutine.close()
        waits._log_destroy_pending = False
        answer.open()

        assert bus.publish("s", "next") == Receipt(0)
        assert actor.questions == ["lost", "next"]


def test_s13_an_interrupted_publish_asks_its_filter_actor_nothing_any_more() -> None:
    """After Ctrl-C during the wait, the question is taken back, and the actor, for instance a quota, never sees it."""

    class Interrupting(SystemClock):
        """A clock that interrupts one wait, once."""

        armed: threading.Thread | None = None

        def wait(self, gate: Gate, timeout: float | None) -> bool:  # type: ignore[override]
            if self.armed is threading.current_thread():
                self.armed = None
                raise KeyboardInterrupt
            return SystemClock.wait(gate, timeout)

    clock, answer = Interrupting(), Answers()
    bus = Bus(clock=clock)
    actor = bus.use(Asked(answer=answer))
    actor.filter_timeout = LONG  # type: ignore[misc]
    with running(bus):
        first = InThread(bus.publish, "s", "first")
        answer.wait_started()
        clock.armed = threading.current_thread()
        with pytest.raises(KeyboardInterrupt):
            bus.publish("s", "interrupted")
        answer.open()
        assert first.result() == Receipt(0)
        assert bus.publish("s", "last") == Receipt(0)

        assert actor.questions == ["first", "last"]


def test_s25_a_filter_whose_loop_was_closed_under_it_is_not_busy_for_ever() -> None:
    """The publisher is refused; after the next start the actor answers, and is at rest afterwards."""
    waits = threading.Event()

    async def answer(message: Message) -> Message:
        if message.body == "lost":
            waits.set()
            await asyncio.Event().wait()
        return message

    bus = Bus()
    actor = patient(bus.use(AsyncAsked(answer=answer)), 0.01)
    loop = asyncio.new_event_loop()

    async def main() -> InThread:
        await bus.astart()
        asks = InThread(bus.publish, "s", "lost")
        await asyncio.to_thread(waits.wait, WAIT)
        return asks

    asks = loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False
    loop.close()
    with pytest.raises((TimeoutError, BusClosed)):
        asks.result()
    bus.stop(timeout=0.01)
    patient(actor)
    with running(bus):
        assert bus.publish("s", "next") == Receipt(0)
        bus.drain(WAIT)

        actor.subscription.unsubscribe(timeout=0.0)
        assert actor.questions == ["lost", "next"]


# --- it holds nobody else up -------------------------------------------------------------------------------------------


@every_asked_sort
@pytest.mark.parametrize("subscriptions", [1, 50])
def test_s23_handlers_on_a_pool_of_one_may_publish_through_a_filter_actor(sort: AskedSort, subscriptions: int) -> None:
    """A handler that waits gives up its worker, if need be to the actor."""
    bus = Bus(pool=1)
    actor = patient(sort.make(bus))
    bus.use(when("second", actor))
    with running(bus):
        done = Hold(open=True)
        for _ in range(subscriptions):
            bus.subscribe("first", lambda message: bus.publish("second", message.body), name=None)
        bus.subscribe("second", done)
        for body in range(3):
            bus.publish("first", body)
        bus.drain(WAIT)

        assert sorted(done.given) == sorted([*range(3)] * subscriptions)
        assert bus.dead_letters.list() == []


@pytest.mark.parametrize("pool", [1, None], ids=["one-worker", "default"])
def test_s23_any_number_of_handlers_may_wait_for_one_filter_actor(pool: int | None) -> None:
    """Five hundred handlers wait, more than there can be substitute workers, and all get their answers."""
    clock = FakeClock()  # it does not move, so no time-out ever comes
    bus = Bus(pool=pool, clock=clock)
    bus.use(when("out", Asked()))
    with running(bus):
        actors = [bus.spawn(Notes(act=lambda message: bus.publish("out"))) for _ in range(500)]
        for actor in actors:
            actor.subscription.pause()
            bus.publish(actor)
        for actor in actors:
            actor.subscription.resume()
        at_rest(bus)

        assert bus.dead_letters.list() == []
        assert sum(actor.subscription.stats()["acknowledged"] for actor in actors) == 500


@pytest.mark.parametrize("first", ["a-handler", "an-outsider", "mail"])
@pytest.mark.parametrize("road", ["bare", "async"])
@pytest.mark.few(2)
def test_s23_handlers_that_wait_for_a_filter_actor_do_not_keep_it_from_its_worker(first: str, road: str) -> None:
    """Five hundred handlers are ready before it; it still runs if a handler, a publisher or its mail waits for it."""
    bus = bus_of(road, pool=1)
    actor = patient(bus.spawn(Asked()))
    bus.use(when("out", actor))
    with running(bus):
        hold = Hold()
        bus.subscribe("busy", hold)
        bus.publish("busy")
        hold.wait_started()
        actors = [bus.spawn(Notes(act=lambda message: bus.publish("out"))) for _ in range(500)]
        for one in actors:
            bus.publish(one)
        waits = InThread(bus.publish, "out") if first == "an-outsider" else None
        if waits is not None:
            actor.wait_for_line(questions=1)
        elif first == "mail":
            bus.publish(actor)
        hold.open()
        at_rest(bus)

        assert bus.dead_letters.list() == []
        assert len(actor.questions) == 500 + (waits is not None)
        assert waits is None or waits.result() == Receipt(0)


@pytest.mark.thorough
def test_s23_a_long_line_of_questions_is_not_left_half_answered() -> None:
    """If more handlers wait for it than one turn can answer, it answers all of them before hundreds of others run."""
    clock = FakeClock()
    answer = Answers()
    bus = Bus(pool=6, clock=clock)
    actor = bus.spawn(Asked(answer=answer))
    bus.use(when("out", actor))
    with running(bus):
        actors = [bus.spawn(Notes(act=lambda message: bus.publish("out"))) for _ in range(500)]
        for one in actors:
            bus.publish(one)
        line: Any = actor.subscription
        wait_until(lambda: line.questions >= 100, "a hundred stand in line")
        answer.open()
        at_rest(bus)

        assert bus.dead_letters.list() == []
        assert len(actor.questions) == 500


@pytest.mark.parametrize("mail", ["control-mail", "questions"])
def test_s23_a_filter_actor_that_is_never_idle_leaves_room_for_others(mail: str) -> None:
    """With a pool of one, an actor that feeds itself forever, or always has questions in line, still lets other messages in."""
    stop = threading.Event()
    going = threading.Semaphore(0)
    bus = Bus(pool=1, max_hops=sys.maxsize)

    def feed(message: Message) -> None:
        going.release()
        if not stop.is_set():
            bus.publish(endless)

    def answer(message: Message) -> Message:
        line: Any = endless.subscription
        wait_until(lambda: line.questions > 0 or stop.is_set(), "the next question stands in line")
        return message

    endless = patient(bus.spawn(Asked("endless", answer, feed)))
    bus.use(when("s", endless))
    with running(bus):
        bus.subscribe("stop", lambda message: stop.set())
        asking = []
        if mail == "control-mail":
            bus.publish(endless)
        else:

            def ask() -> None:
                while not stop.is_set():
                    bus.publish("s")
                    going.release()

            asking = [InThread(ask) for _ in range(5)]
        for _ in range(100):
            assert going.acquire(timeout=WAIT)
        bus.publish("stop")

        assert stop.wait(WAIT)
        for thread in asking:
            thread.result()


def test_s23_a_chain_of_filter_actors_works_on_a_pool_of_one() -> None:
    """Each of them publishes a message while it filters one, and the next one filters that message."""
    bus = Bus(pool=1, clock=FakeClock())
    for number in range(20):

        def answer(message: Message, number: int = number) -> Message:
            bus.publish(f"step.{number + 1}")
            return message

        bus.use(when(f"step.{number}", Asked(f"actor.{number}", answer)))
    with running(bus):
        bus.subscribe("begin", lambda message: bus.publish("step.0"))
        end = bus.subscribe("step.20")
        bus.publish("begin")
        at_rest(bus)

        assert_conserved(end, accepted=1)
        assert bus.dead_letters.list() == []


@every_asked_sort
def test_s23_a_handler_whose_delivery_waits_for_a_filter_actor_gives_its_worker_up(sort: AskedSort) -> None:
    """Another subscriber's message is handled during the wait, with a pool of one."""
    answer = Answers()
    bus = Bus(pool=1)
    actor = patient(sort.cls(answer=answer))
    bus.spawn(actor, run="thread" if sort.run == "pool" else sort.run)
    with running(bus):
        quick = Hold(open=True)
        bus.subscribe("slow", fine, filters=[actor])
        bus.subscribe("quick", quick)
        bus.publish("slow")
        answer.wait_started()
        bus.publish("quick", "x")

        quick.wait_started()
        answer.open()


# --- what is counted ---------------------------------------------------------------------------------------------------


@every_asked_sort
@every_way
def test_s18_questions_are_counted_apart(sort: AskedSort, way: Any) -> None:
    """Questions are counted under `questions`; the law of conservation covers its mail alone, and events only report mail."""
    bus = Bus()
    ear = Ear(bus)
    actor = sort.use(bus, answer=lambda message: Dropped("no") if message.body % 2 else message)
    with running(bus):
        for number in range(6):
            way(bus, "s", number)
        for body in range(2):
            bus.publish(actor, body)
        bus.drain(WAIT)

        stats = bus.stats()["subscriptions"]["asked"]
        assert stats == actor.subscription.stats()
        assert stats == {
            "accepted": 2, "acknowledged": 2, "dropped": {}, "dead": 0, "pending": 0, "in_flight": 0, "oldest": None,
            "questions": 6,
        }  # fmt: skip
        assert [event.subscription for event in ear.of(Taken)] == ["asked"] * 2
        assert [(event.place, event.by) for event in ear.of(Discarded)] == [("publish", "asked")] * 3
        assert bus.stats()["dropped"] == {"asked": {"no": 3}}


@every_free_sort
def test_s18_the_law_holds_while_questions_wait(sort: AskedSort) -> None:
    """Questions are neither pending nor in flight, and do not fill the mailbox; mail does, at every step."""
    answer = Answers()
    bus = Bus()
    actor = sort.cls(answer=answer)
    bus.spawn(actor, run=sort.run, mailbox=2, overflow="drop_newest")
    patient(actor)
    bus.use(when("s", actor))
    with running(bus):
        asking = [InThread(bus.publish, "s", "first")]
        answer.wait_started()
        for number in range(3):
            asking.append(InThread(bus.publish, "s", number))
            actor.wait_for_line(questions=number + 1)
        stats = actor.subscription.stats()
        assert (stats["accepted"], stats["pending"], stats["in_flight"], stats["questions"]) == (0, 0, 0, 1)

        for body in range(3):
            assert bus.publish(actor, body) == Receipt(1)
        stats = actor.subscription.stats()
        assert (stats["accepted"], stats["pending"], stats["dropped"]) == (3, 2, {"overflow": 1})
        assert_conserved(actor.subscription)
        answer.open()
        for waits in asking:
            waits.result()
        bus.drain(WAIT)

        assert actor.mail == [0, 1]
        assert actor.subscription.stats()["questions"] == 4
        assert_conserved(actor.subscription, accepted=3)


@every_free_sort
def test_s22_drop_oldest_drops_mail_and_never_a_question(sort: AskedSort) -> None:
    """`drop_oldest` drops mail, although a question in the same mailbox may have waited longer."""
    answer = Answers()
    bus = Bus()
    actor = sort.cls(answer=answer)
    bus.spawn(actor, run=sort.run, mailbox=2, overflow="drop_oldest")
    patient(actor)
    bus.use(when("s", actor))
    with running(bus):
        asking = [InThread(bus.publish, "s", "first")]
        answer.wait_started()
        for number in range(2):
            asking.append(InThread(bus.publish, "s", number))
            actor.wait_for_line(questions=number + 1)
        for body in range(4):
            bus.publish(actor, body)
        answer.open()

        assert [waits.result() for waits in asking] == [Receipt(0)] * 3
        bus.drain(WAIT)
        assert (actor.questions, actor.mail) == (["first", 0, 1], [2, 3])
        assert actor.subscription.stats()["dropped"] == {"overflow": 2}


@every_free_sort
@every_way
def test_s25_a_drain_waits_for_questions(sort: AskedSort, way: Any) -> None:
    """`drain` returns when the questions are answered, and refuses none meanwhile."""
    answer = Answers()
    bus = Bus()
    actor = patient(sort.use(bus, answer=answer))
    with running(bus):
        waits = InThread(way, bus, "s")
        answer.wait_started()
        draining = InThread(bus.drain, WAIT)
        second = InThread(way, bus, "s")
        actor.wait_for_line(questions=1)
        assert draining.running
        answer.open()
        draining.result()

        assert len(actor.questions) == 2
        assert waits.result() == second.result() == Receipt(0)


def test_s25_a_drain_a_stop_and_a_request_in_a_filter_are_those_of_a_handler() -> None:
    """A drain raises, because it would wait for itself; a stop only requests; a request to itself raises at once."""
    found: list[Any] = []

    def answer(message: Message) -> Message:
        for call in (lambda: bus.drain(LONG), lambda: bus.stop(LONG), lambda: bus.request("asked", timeout=LONG)):
            try:
                found.append(call())
            except Exception as error:
                found.append(type(error).__name__)
        return message

    bus = Bus()
    bus.use(Asked(answer=answer))
    with running(bus):
        bus.publish("s")

        assert found == ["LifecycleError", found[1], "NoResponder"]
        assert (found[1].drained, bus.state, bus.stopping) == (False, "started", True)


# --- context variables -------------------------------------------------------------------------------------------------

user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")


@every_asked_sort
@every_road
@every_way
def test_s14_a_filter_actor_sees_a_copy_of_its_publishers_context(sort: AskedSort, road: str, way: Any) -> None:
    """The actor reads the publisher's variables, and what it sets is gone after that question."""
    seen: list[str] = []

    def look(message: Message) -> Message:
        seen.append(user.get())
        user.set("changed by the filter")
        return message

    bus = bus_of(road)
    actor = sort.use(bus, answer=look, control=lambda message: seen.append(user.get()))

    def as_user(name: str) -> str:
        user.set(name)
        way(bus, "s")
        return user.get()

    with running(bus):
        for name in ("Ada", "Grace"):
            assert contextvars.copy_context().run(as_user, name) == name
        way(bus, "asked")
        bus.drain(WAIT)

        assert seen == ["Ada", "Grace", "nobody"]
        assert len(actor.mail) == 1


def test_s14_an_async_filter_keeps_the_context_while_it_waits() -> None:
    """The context stays the same before and after an `await`, and in what the filter awaits."""
    seen: list[str] = []

    async def look(message: Message) -> Message:
        seen.append(user.get())
        await asyncio.sleep(0)
        seen.append(user.get())
        user.set("changed")
        seen.append(await asyncio.to_thread(user.get))
        return message

    bus = Bus()
    bus.use(AsyncAsked(answer=look))

    async def main() -> str:
        user.set("Ada")
        await bus.apublish("s")
        return user.get()

    with running(bus):
        assert asyncio.run(main()) == "Ada"
        assert seen == ["Ada", "Ada", "changed"]

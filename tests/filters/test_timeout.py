"""Timeout: a rest that takes too long is a failure in time; in async chains it is cancelled, in sync ones left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flow_helpers import LONG, WAIT, Ear, HandClock, InThread, assert_conserved, running, wait_until
from pipebus import Bus, Delivery, Dropped, Message, PipelineError, Receipt, ReceiveTimeout, around, transform
from pipebus.clock import SystemClock
from pipebus.events import Refused
from pipebus.filters import Retry, Tap, Timeout
from pipebus.transports.memory import MemoryTransport

LIMIT = 2.0


class Boom(Exception):
    """The error of these tests: nothing in the bus raises it."""


def time_passes(seconds: float) -> None:
    """Move the running loop's clock: what was due in between is due now."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]


async def late(seconds: float = LIMIT + 1.0) -> None:
    """A coroutine that would never end, on a loop where so much time has passed."""
    time_passes(seconds)
    await asyncio.Event().wait()


class Slow:
    """
    The sync end of a chain, on a clock that the test moves: each run takes as long as it says, or stands still until the
    test opens it.
    """

    def __init__(self, clock: HandClock) -> None:
        self.clock = clock
        self.runs = 0
        self.gate = threading.Event()
        self.ended = threading.Semaphore(0)

    def __call__(self, message: Message) -> None:
        self.runs += 1
        self.clock.wait_until_waited_for()
        self.clock.advance(LIMIT + 1.0)  # the waiting side gives up now
        assert self.gate.wait(WAIT)
        self.ended.release()

    def end_all(self) -> None:
        """Let those that were left behind go on to their end."""
        self.gate.set()
        for _ in range(self.runs):
            assert self.ended.acquire(timeout=WAIT)


async def passes(message: Message, call_next: Any) -> Any:
    """What makes a publish chain async."""
    return await call_next(message)


class Publishes:
    """A chain of filters in front of one mailbox; `send` publishes one message through it."""

    def __init__(self, *filters: Any, clock: Any = None, how: str = "publish") -> None:
        self.bus = Bus(clock=clock)
        self.bus.use(*filters)
        self.how = how
        self.mailbox = self.bus.subscribe("a")

    def send(self) -> Any:
        with self.bus:
            if self.how == "apublish":
                return asyncio.run(self.bus.apublish("a"))
            return self.bus.publish("a")


def dead(handler: Callable[..., Any], *filters: Any, clock: Any = None) -> Any:
    """The dead letter of the one message that such a handler is given."""
    with running(Bus(clock=clock)) as bus:
        bus.subscribe("a", handler, filters=filters)
        bus.publish("a")
        bus.drain(timeout=WAIT)
        (letter,) = bus.dead_letters.list()
    return letter


# --- in time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abandon", [False, True], ids=["cancels", "abandons"])
def test_what_is_in_time_passes_as_if_nothing_stood_there(through: Any, abandon: bool) -> None:
    """The outcome is the rest's, and so is a drop."""

    @transform
    def drop(message: Message) -> Dropped:
        return Dropped("unwanted")

    makes_async = [] if abandon else [passes]
    assert through(*makes_async, Timeout(LONG, abandon=abandon), Message("a")).outcome == Receipt(1)
    assert through(*makes_async, Timeout(LONG, abandon=abandon), drop, Message("a")).outcome == Dropped("unwanted", "drop")


def test_a_handler_in_time_is_acknowledged() -> None:
    """Sync or async; what it returns goes where it should."""
    bus = Bus()

    async def answer(message: Message) -> str:
        return "async"

    bus.subscribe("a", answer, to="answers", filters=[Timeout(LONG)])
    bus.subscribe("a", lambda message: "sync", to="answers", filters=[Timeout(LONG, abandon=True)])
    answers = bus.subscribe("answers")
    with bus:
        bus.publish("a")
        assert {answers.receive(timeout=WAIT).body for _ in range(2)} == {"sync", "async"}


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize(
    "error", [Boom("own"), TimeoutError("own"), TimeoutError(), ReceiveTimeout("own")], ids=lambda e: repr(e)
)
def test_an_error_of_the_rest_passes_as_the_object_it_is(colour: str, error: Exception) -> None:
    """Also a TimeoutError: one that a handler raises of its own is not ours, and keeps its words."""
    seen: list[BaseException] = []

    @around
    def look(message: Message) -> Any:
        try:
            return (yield message)
        except Exception as found:
            seen.append(found)
            raise

    def fails(message: Message) -> None:
        raise error

    async def afails(message: Message) -> None:
        raise error

    letter = dead(fails if colour == "sync" else afails, look, Timeout(LONG, abandon=True))
    assert seen == [error]
    assert seen[0] is error
    assert letter.by in ("fails", "afails")


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("error", [TimeoutError("own"), TimeoutError()], ids=repr)
def test_a_filter_s_time_out_further_in_passes_to_the_publisher(colour: str, error: Exception) -> None:
    """As the same object, in a publish chain too."""

    @transform
    def fails(message: Message) -> Message:
        raise error

    chain = Publishes(*[passes] if colour == "async" else [], Timeout(LONG, abandon=True), fails)
    with pytest.raises(TimeoutError) as found:
        chain.send()
    assert found.value is error


def test_a_time_out_that_a_handler_runs_into_itself_is_not_ours() -> None:
    """It has bounded something of its own, with asyncio's own means; ours had time left."""

    async def impatient(message: Message) -> None:
        async with asyncio.timeout(1.0):
            await late(1.5)

    letter = dead(impatient, Timeout(LIMIT))
    assert (letter.by, letter.error) == ("impatient", "TimeoutError")


def test_a_time_out_of_the_transport_is_not_ours() -> None:
    """Its store has not answered in time; it says so in its own words."""

    class Silent(MemoryTransport):
        local = False

        def send(self, message: Message, delay: float) -> Receipt:
            raise TimeoutError("the store does not answer")

    bus = Bus(Silent())  # type: ignore[arg-type]
    bus.use(passes, Timeout(LONG))
    with bus, pytest.raises(TimeoutError, match=r"^the store does not answer$"):
        bus.publish("a")


# --- too late, async: cancelled -----------------------------------------------------------------------------------------


def test_an_async_handler_that_is_late_is_cancelled() -> None:
    """It sees the cancellation; the dead letter names the filter and the limit, and nobody else is blamed."""
    saw: list[type[BaseException]] = []

    async def slow(message: Message) -> None:
        try:
            await late()
        except BaseException as error:
            saw.append(type(error))
            raise

    letter = dead(slow, Timeout(LIMIT))
    assert saw == [asyncio.CancelledError]
    assert letter.by == "Timeout"
    assert letter.error == "TimeoutError: Timeout: the rest of the chain took longer than 2 s and was cancelled"


@pytest.mark.parametrize("how", ["publish", "apublish"])
@pytest.mark.parametrize("abandon", [False, True], ids=["cancels", "abandons"])
def test_an_async_publish_chain_that_is_late_is_cancelled(how: str, abandon: bool) -> None:
    """The publisher gets the error, no mailbox the message; `abandon` makes no difference here."""

    async def slow(message: Message, call_next: Any) -> Any:
        await late()
        return await call_next(message)

    chain = Publishes(Timeout(LIMIT, abandon=abandon), slow, how=how)
    ear = Ear(chain.bus)
    with pytest.raises(TimeoutError) as error:
        chain.send()
    assert type(error.value) is TimeoutError
    assert str(error.value) == "Timeout: the rest of the chain took longer than 2 s and was cancelled"
    assert [refused.by for refused in ear.of(Refused)] == ["Timeout"]
    assert_conserved(chain.mailbox, accepted=0)


def test_what_swallows_its_cancellation_has_ended_well() -> None:
    """A handler that tidies up and returns has handled its message."""

    async def tidy(message: Message) -> None:
        try:
            await late()
        except asyncio.CancelledError:
            return

    with running() as bus:
        subscription = bus.subscribe("a", tidy, filters=[Timeout(LIMIT)])
        bus.publish("a")
        bus.drain(timeout=WAIT)
        assert subscription.stats()["acknowledged"] == 1


def test_after_a_time_out_the_next_message_is_handled() -> None:
    """A cancellation is over with the message that it was for."""
    handled: list[Any] = []

    async def slow(message: Message) -> None:
        if message.body == "slow":
            await late()
        await asyncio.sleep(0)
        handled.append(message.body)

    with running() as bus:
        subscription = bus.subscribe("a", slow, filters=[Timeout(LIMIT)])
        for body in ("one", "slow", "two"):
            bus.publish("a", body)
        bus.drain(timeout=WAIT)
        assert (subscription.stats()["acknowledged"], subscription.stats()["dead"]) == (2, 1)
    assert handled == ["one", "two"]


def test_a_bus_that_stops_is_no_time_out() -> None:
    """The message goes back, and is no dead letter."""
    started = threading.Event()

    async def slow(message: Message) -> None:
        started.set()
        await asyncio.Event().wait()

    bus = Bus()
    subscription = bus.subscribe("a", slow, name="slow", filters=[Timeout(LONG)])
    bus.start()
    bus.publish("a")
    assert started.wait(WAIT)
    report = bus.stop(timeout=0, drain=False)
    assert (report.left, len(bus.dead_letters)) == ({"slow": 1}, 0)
    assert_conserved(subscription, accepted=1)


def test_of_two_the_one_whose_time_ran_out_says_so() -> None:
    """An inner time-out passes an outer filter as it is, and an outer one is not taken for the inner's."""

    async def slow(message: Message) -> None:
        await late()

    inner = dead(slow, Timeout(LONG), Timeout(LIMIT))
    outer = dead(slow, Timeout(LIMIT), Timeout(LONG))
    assert inner.error == outer.error == "TimeoutError: Timeout: the rest of the chain took longer than 2 s and was cancelled"


def test_it_goes_by_the_name_it_was_given() -> None:
    """Where a chain has two, a name tells which."""

    class Patience(Timeout):
        name = "patience"

    async def slow(message: Message) -> None:
        await late()

    letter = dead(slow, Patience(LIMIT))
    assert letter.by == "patience"
    assert letter.error.startswith("TimeoutError: patience: the rest")


# --- too late, sync: refused, or left behind ----------------------------------------------------------------------------


def test_a_sync_chain_refuses_it_when_it_is_built() -> None:
    """Nothing can stop a sync rest; the error says what to do."""
    bus = Bus()
    with pytest.raises(PipelineError, match=r"filter Timeout .*leaving the rest behind.*abandon=True, or make the chain async"):
        bus.subscribe("a", lambda message: None, filters=[Timeout(LIMIT)])
    bus.use(Timeout(LIMIT))
    with pytest.raises(PipelineError, match=r"filter Timeout .*the publish chain is sync.*abandon=True"):
        bus.start()


def test_a_sync_handler_that_is_late_is_left_behind() -> None:
    """The delivery has failed in time and says so; the handler goes on to its end, and nobody hears of it."""
    clock = HandClock()
    slow = Slow(clock)

    def handler(message: Message) -> str:
        slow(message)
        return "too late"

    with running(Bus(clock=clock)) as bus:
        subscription = bus.subscribe("a", handler, to="answers", filters=[Timeout(LIMIT, abandon=True)])
        answers = bus.subscribe("answers")
        bus.publish("a")
        wait_until(lambda: subscription.stats()["dead"] == 1, "it has failed")
        (letter,) = bus.dead_letters.list()
        slow.end_all()
        assert answers.stats()["accepted"] == 0
        assert (subscription.stats()["dead"], subscription.stats()["acknowledged"]) == (1, 0)
    assert slow.runs == 1
    assert letter.by == "Timeout"
    assert letter.error == (
        "TimeoutError: Timeout: the rest of the chain took longer than 2 s; it was left behind and goes on, unheard"
    )


def test_a_sync_publish_that_is_late_is_left_behind() -> None:
    """The publisher gets its error in time; the message may still arrive, as the reference says."""
    clock = HandClock()
    slow = Slow(clock)
    chain = Publishes(Timeout(LIMIT, abandon=True), Tap(slow), clock=clock)
    with chain.bus:
        with pytest.raises(TimeoutError, match=r"Timeout: .*longer than 2 s; it was left behind and goes on, unheard"):
            InThread(chain.bus.publish, "a").result()
        assert chain.mailbox.stats()["accepted"] == 0
        slow.end_all()
        wait_until(lambda: chain.mailbox.stats()["accepted"] == 1, "what was left behind has arrived")


def test_waiting_for_a_rest_gives_up_its_worker_s_slot() -> None:
    """With a pool of one worker, another handler runs while a bounded one is under way."""
    gate, started, other = threading.Event(), threading.Event(), threading.Event()

    def slow(message: Message) -> None:
        started.set()
        assert gate.wait(WAIT)

    with running(Bus(pool=1)) as bus:
        bus.subscribe("slow", slow, filters=[Timeout(LONG, abandon=True)])
        bus.subscribe("other", lambda message: other.set())
        bus.publish("slow")
        assert started.wait(WAIT)
        bus.publish("other")
        assert other.wait(WAIT)
        gate.set()


# --- with Retry ---------------------------------------------------------------------------------------------------------


def test_behind_a_retry_each_run_is_bounded_async() -> None:
    """The first run is cancelled, the second one works."""
    runs: list[int] = []

    async def slow(message: Message, delivery: Delivery) -> None:
        runs.append(delivery.attempt)
        if len(runs) == 1:
            await late()

    with running() as bus:
        subscription = bus.subscribe("a", slow, filters=[Retry(wait=0), Timeout(LIMIT)])
        bus.publish("a")
        bus.drain(timeout=WAIT)
        assert subscription.stats()["acknowledged"] == 1
    assert runs == [1, 1]


@pytest.mark.parametrize("how", ["publish", "apublish"])
def test_behind_a_retry_each_run_of_an_async_publish_is_bounded(how: str) -> None:
    """What was cancelled has reached no mailbox, so it may be tried again."""
    runs: list[Message] = []

    async def slow(message: Message, call_next: Any) -> Any:
        runs.append(message)
        if len(runs) == 1:
            await late()
        return await call_next(message)

    chain = Publishes(Retry(wait=0), Timeout(LIMIT), slow, how=how)
    assert chain.send() == Receipt(1)
    assert len(runs) == 2
    assert_conserved(chain.mailbox, accepted=1)


def test_behind_a_retry_each_run_is_bounded_sync() -> None:
    """A handler is run again beside the run that was left behind."""
    clock = HandClock()
    slow = Slow(clock)

    def handler(message: Message) -> None:
        if slow.runs == 0:
            slow(message)

    with running(Bus(clock=clock)) as bus:
        subscription = bus.subscribe("a", handler, filters=[Retry(wait=0), Timeout(LIMIT, abandon=True)])
        bus.publish("a")
        wait_until(lambda: subscription.stats()["acknowledged"] == 1, "the second run has worked")
        assert not slow.gate.is_set()
        slow.end_all()


def test_a_sync_publish_that_was_left_behind_is_not_sent_again() -> None:
    """A mailbox may still take it, so the Retry lets the error pass: in the end it has arrived once."""
    clock = HandClock()
    slow = Slow(clock)
    chain = Publishes(Retry(attempts=5, wait=0), Timeout(LIMIT, abandon=True), Tap(slow), clock=clock)
    with chain.bus:
        with pytest.raises(TimeoutError):
            InThread(chain.bus.publish, "a").result()
        slow.end_all()
        wait_until(lambda: chain.mailbox.stats()["accepted"] == 1, "what was left behind has arrived")
    assert slow.runs == 1
    assert_conserved(chain.mailbox, accepted=1)


@pytest.mark.parametrize("where", ["in a run", "in a wait"])
def test_around_a_retry_it_bounds_all_runs_and_waits_together(where: str) -> None:
    """Time runs out in the second run, or in the wait before it: that is the end, however many attempts are left."""
    runs: list[Message] = []

    class Moving(SystemClock):
        async def asleep(self, seconds: float) -> None:  # type: ignore[override]
            if where == "in a wait":
                await late()

    async def flaky(message: Message) -> None:
        runs.append(message)
        if len(runs) == 2:
            await late()
        raise Boom

    letter = dead(flaky, Timeout(LIMIT), Retry(attempts=9), clock=Moving())
    assert letter.error.startswith("TimeoutError: Timeout: ")
    assert len(runs) == (2 if where == "in a run" else 1)


def test_around_a_retry_that_works_in_time_it_is_not_seen() -> None:
    """Sync: runs and waits on the thread that could be left behind."""
    bodies: list[Any] = []

    def flaky(message: Message) -> None:
        bodies.append(message.body)
        if len(bodies) < 3:
            raise Boom

    with running() as bus:
        subscription = bus.subscribe("a", flaky, filters=[Timeout(LONG, abandon=True), Retry(wait=0)])
        bus.publish("a", 1)
        bus.drain(timeout=WAIT)
        assert (subscription.stats()["acknowledged"], bodies) == (1, [1, 1, 1])


# --- settings -----------------------------------------------------------------------------------------------------------


def test_the_limit_may_be_a_text() -> None:
    """Code and config may write the same."""
    assert (Timeout("200ms").seconds, Timeout("1m").abandon) == (0.2, False)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [0, -1, "0s", float("inf"), float("nan"), None, True, "soon"], ids=repr)
def test_a_wrong_limit_is_refused_where_it_is_written(seconds: Any) -> None:
    """The error names the setting and repeats what was found."""
    with pytest.raises(PipelineError, match=r"Timeout\.seconds=") as error:
        Timeout(seconds)
    assert repr(seconds) in str(error.value)


@pytest.mark.parametrize("abandon", [None, 1, "yes"], ids=repr)
def test_abandon_is_yes_or_no(abandon: Any) -> None:
    """Leaving work behind is nothing to slip into."""
    with pytest.raises(PipelineError, match=r"Timeout\.abandon=.*True or False"):
        Timeout(LIMIT, abandon=abandon)

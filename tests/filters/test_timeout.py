"""Timeout: a rest that takes too long fails in time; in async chains it is cancelled, and in sync ones it is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from flow_helpers import LONG, WAIT, InThread, Way, assert_conserved, every_way, fine, running
from pipebus import Bus, Delivery, Dropped, Handled, Message, Pipeline, PipelineError, Receipt, ReceiveTimeout, transform
from pipebus.filters import Retry, Tap, Timeout
from pipebus.testing import FakeClock, Harness, after, run_filter, run_handler
from pipebus.transports.memory import MemoryTransport
from tables import table

LIMIT = 2.0


class Boom(Exception):
    """The error of these tests: nothing in the bus raises it."""


async def passes(message: Message, call_next: Any) -> Any:
    """A filter that makes a publish chain async."""
    return await call_next(message)


def publish(harness: Harness, how: str) -> Any:
    """Publish from a thread or from a coroutine."""
    return harness.run(harness.bus.apublish("a")) if how == "apublish" else harness.bus.publish("a")


def dead(harness: Harness, handler: Callable[..., Any], *filters: Any) -> Any:
    """The dead letter of the message that such a handler gets."""
    harness.allow(Boom, TimeoutError)
    harness.bus.subscribe("a", handler, filters=filters)
    harness.start().publish("a")
    harness.drain()
    (letter,) = harness.bus.dead_letters.list()
    return letter


CANCELLED = "Timeout: the rest of the chain took longer than 2 s and was cancelled"
LEFT_BEHIND = (
    "Timeout: the rest of the chain took longer than 2 s; it was left behind and continues, but its result is discarded"
)


# --- in time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("colour", "abandon"),
    [
        pytest.param("async", False, id="async, cancels"),
        pytest.param("async", True, id="async, abandons"),
        pytest.param("sync", True, id="sync, abandons"),
    ],
)
@pytest.mark.parametrize("takes", [0.0, 1.0, 1.9])
def test_what_is_in_time_passes_as_if_nothing_stood_there(colour: Any, at: Any, abandon: bool, takes: float) -> None:
    """A rest that is in time gives its own outcome, also if that is a drop."""
    outcome = Receipt(3) if at == "publish" else Handled("done")
    for rest in (outcome, Dropped("unwanted", "drop")):
        run = run_filter(Timeout(LIMIT, abandon=abandon), Message("a"), next=after(takes, rest), colour=colour, at=at)
        assert (run.outcome, run.next_calls, run.elapsed) == (rest, 1, takes)


def test_a_handler_in_time_is_acknowledged(harness: Harness) -> None:
    """A sync or async handler that is in time is acknowledged, and its value goes to its target."""

    async def answer(message: Message) -> str:
        await asyncio.sleep(1.0)
        return "async"

    def sync_answer(message: Message) -> str:
        harness.clock.sleep(1.0)
        return "sync"

    bus = harness.bus
    bus.subscribe("a", answer, to="answers", filters=[Timeout(LIMIT)])
    bus.subscribe("a", sync_answer, to="answers", filters=[Timeout(LIMIT, abandon=True)])
    answers = bus.subscribe("answers")
    harness.start().publish("a")
    harness.advance(1.0)
    assert {answers.receive(timeout=0).body for _ in range(2)} == {"sync", "async"}


@pytest.mark.parametrize(
    "error", [Boom("own"), TimeoutError("own"), TimeoutError(), ReceiveTimeout("own")], ids=lambda e: repr(e)
)
def test_an_error_of_the_rest_passes_as_the_object_it_is(colour: Any, at: Any, error: Exception) -> None:
    """A TimeoutError that the rest raises itself keeps its own text, like any other error."""
    run = run_filter(Timeout(LONG, abandon=True), Message("a"), next=error, colour=colour, at=at)
    assert run.error is error


@pytest.mark.parametrize("error", [Boom("own"), TimeoutError("own"), TimeoutError()], ids=repr)
def test_an_error_of_a_handler_is_the_handler_s(harness: Harness, colour: str, error: Exception) -> None:
    """The dead letter names the handler, and not the filter around it."""

    def fails(message: Message) -> None:
        raise error

    async def afails(message: Message) -> None:
        raise error

    letter = dead(harness, fails if colour == "sync" else afails, Timeout(LONG, abandon=True))
    assert letter.by == ("fails" if colour == "sync" else "afails")


@every_way
@pytest.mark.parametrize("error", [TimeoutError("own"), TimeoutError()], ids=repr)
def test_a_filter_s_time_out_further_in_passes_to_the_publisher(way: Way, colour: str, error: Exception) -> None:
    """The publisher gets the same error object, also if it comes from a loop on another thread."""

    @transform
    def fails(message: Message) -> Message:
        raise error

    bus = Bus()
    bus.use(*[passes] if colour == "async" else [], Timeout(LONG, abandon=True), fails)
    with bus, pytest.raises(TimeoutError) as found:
        way(bus, "a")
    assert found.value is error


def test_a_time_out_that_a_handler_runs_into_itself_is_not_ours(harness: Harness) -> None:
    """A handler that bounds something with asyncio's own time-out fails with that error, not with the filter's."""

    async def impatient(message: Message) -> None:
        async with asyncio.timeout(1.0):
            await asyncio.sleep(1.5)

    letter = dead(harness, impatient, Timeout(LIMIT))
    assert (letter.by, letter.error) == ("impatient", "TimeoutError")
    assert harness.elapsed == 1.0


def test_a_time_out_of_the_transport_is_not_ours() -> None:
    """If the store does not answer in time, the error keeps the text of the transport."""

    class Silent(MemoryTransport):
        local = False

        def send(self, message: Message, delay: float) -> Receipt:
            raise TimeoutError("the store does not answer")

    bus = Bus(Silent())  # type: ignore[arg-type]
    bus.use(passes, Timeout(LONG))
    with bus, pytest.raises(TimeoutError, match=r"^the store does not answer$"):
        bus.publish("a")


# --- too late, async: cancelled -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("abandon", [False, True], ids=["cancels", "abandons"])
def test_an_async_rest_that_is_late_is_cancelled(at: Any, abandon: bool) -> None:
    """The rest is cancelled and fails in time with an error that says so; `abandon` makes no difference here."""
    saw: list[type[BaseException]] = []

    async def slow(message: Message) -> None:
        try:
            await asyncio.sleep(LIMIT + 1.0)
        except BaseException as error:
            saw.append(type(error))
            raise

    run = run_filter(Timeout(LIMIT, abandon=abandon), Message("a"), next=slow, at=at)
    assert (type(run.error), str(run.error)) == (TimeoutError, CANCELLED)
    assert run.elapsed == LIMIT
    assert saw == [asyncio.CancelledError]


def test_the_dead_letter_of_a_handler_that_was_late_names_the_filter(harness: Harness) -> None:
    """The dead letter names the filter and its limit, and blames nobody else."""

    async def slow(message: Message) -> None:
        await asyncio.sleep(LIMIT + 1.0)

    letter = dead(harness, slow, Timeout(LIMIT))
    assert (letter.by, letter.error) == ("Timeout", f"TimeoutError: {CANCELLED}")
    assert harness.elapsed == LIMIT


@pytest.mark.parametrize("how", ["publish", "apublish"])
def test_an_async_publish_chain_that_is_late_is_refused(harness: Harness, how: str) -> None:
    """The publisher gets the error, and no mailbox gets the message."""

    async def slow(message: Message, call_next: Any) -> Any:
        await asyncio.sleep(LIMIT + 1.0)
        return await call_next(message)

    harness.bus.use(Timeout(LIMIT), slow)
    mailbox = harness.bus.subscribe("a")
    harness.start()
    with pytest.raises(TimeoutError) as error:
        publish(harness, how)
    assert (type(error.value), str(error.value)) == (TimeoutError, CANCELLED)
    assert [refused.by for refused in harness.refused] == ["Timeout"]
    harness.advance(LONG)
    assert_conserved(mailbox, accepted=0)


def test_what_swallows_its_cancellation_has_ended_well() -> None:
    """A handler that cleans up and returns has handled its message."""

    async def tidy(message: Message) -> None:
        try:
            await asyncio.sleep(LIMIT + 1.0)
        except asyncio.CancelledError:
            return

    run = run_handler(tidy, filters=[Timeout(LIMIT)])
    assert (run.settlement, run.elapsed) == ("acknowledged", LIMIT)


def test_after_a_time_out_the_next_message_is_handled(harness: Harness) -> None:
    """A time-out cancels only the message that was late."""
    handled: list[Any] = []

    async def slow(message: Message) -> None:
        if message.body == "slow":
            await asyncio.sleep(LIMIT + 1.0)
        await asyncio.sleep(0)
        handled.append(message.body)

    harness.allow(TimeoutError)
    subscription = harness.bus.subscribe("a", slow, filters=[Timeout(LIMIT)])
    bus = harness.start()
    for body in ("one", "slow", "two"):
        bus.publish("a", body)
    harness.drain()
    assert (subscription.stats()["acknowledged"], subscription.stats()["dead"]) == (2, 1)
    assert handled == ["one", "two"]


def test_a_bus_that_stops_is_no_time_out(harness: Harness) -> None:
    """The message goes back, and there is no dead letter."""
    started: list[Message] = []

    async def slow(message: Message) -> None:
        started.append(message)
        await asyncio.Event().wait()

    subscription = harness.bus.subscribe("a", slow, name="slow", filters=[Timeout(LIMIT)])
    bus = harness.start()
    bus.publish("a")
    harness.advance(1.0)
    assert len(started) == 1
    report = bus.stop(timeout=0, drain=False)
    assert (report.left, len(bus.dead_letters)) == ({"slow": 1}, 0)
    assert_conserved(subscription, accepted=1)


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(lambda: Pipeline(Timeout(LONG), Timeout(LIMIT)), id="the inner one"),
        pytest.param(lambda: Pipeline(Timeout(LIMIT), Timeout(LONG)), id="the outer one"),
    ],
)
def test_of_two_the_one_whose_time_ran_out_says_so(at: Any, chain: Callable[[], Pipeline]) -> None:
    """Each of two nested time-outs reports only its own limit: the outer passes the inner one's error on unchanged."""
    run = run_filter(chain(), Message("a"), next=after(LIMIT + 1.0), colour="async", at=at)
    assert (type(run.error), str(run.error), run.elapsed) == (TimeoutError, CANCELLED, LIMIT)


def test_it_goes_by_the_name_it_was_given(harness: Harness) -> None:
    """The name of a subclass appears in the dead letter and in the error, so that two time-outs can be told apart."""

    class Patience(Timeout):
        name = "patience"

    async def slow(message: Message) -> None:
        await asyncio.sleep(LIMIT + 1.0)

    letter = dead(harness, slow, Patience(LIMIT))
    assert letter.by == "patience"
    assert letter.error.startswith("TimeoutError: patience: the rest")


# --- too late, sync: refused, or left behind ----------------------------------------------------------------------------


def test_a_sync_chain_refuses_it_when_it_is_built() -> None:
    """A sync rest cannot be cancelled, so the filter is refused, and the error says what to do."""
    bus = Bus()
    with pytest.raises(PipelineError, match=r"filter Timeout .*leaving the rest behind.*abandon=True, or make the chain async"):
        bus.subscribe("a", lambda message: None, filters=[Timeout(LIMIT)])
    bus.use(Timeout(LIMIT))
    with pytest.raises(PipelineError, match=r"filter Timeout .*the publish chain is sync.*abandon=True"):
        bus.start()


def test_a_sync_rest_that_is_late_is_left_behind(at: Any) -> None:
    """The error comes in time, and says that the rest still runs."""
    run = run_filter(Timeout(LIMIT, abandon=True), Message("a"), next=after(LIMIT + 1.0), colour="sync", at=at)
    assert (type(run.error), str(run.error), run.elapsed) == (TimeoutError, LEFT_BEHIND, LIMIT)


def test_a_sync_handler_that_is_late_is_left_behind(harness: Harness) -> None:
    """The delivery fails in time with an error that says so; the handler finishes later, and its result is discarded."""
    ended: list[float] = []

    def handler(message: Message) -> str:
        harness.clock.sleep(LIMIT + 1.0)
        ended.append(harness.elapsed)
        return "too late"

    harness.allow(TimeoutError)
    subscription = harness.bus.subscribe("a", handler, to="answers", filters=[Timeout(LIMIT, abandon=True)])
    answers = harness.bus.subscribe("answers")
    bus = harness.start()
    bus.publish("a")
    harness.advance(LIMIT)
    assert ended == []
    (letter,) = bus.dead_letters.list()
    assert (letter.by, letter.error) == ("Timeout", f"TimeoutError: {LEFT_BEHIND}")
    harness.advance(1.0)
    assert ended == [LIMIT + 1.0]
    assert answers.stats()["accepted"] == 0
    assert (subscription.stats()["dead"], subscription.stats()["acknowledged"]) == (1, 0)


def test_the_time_of_a_sync_rest_is_told_by_the_clock_of_the_bus() -> None:
    """The bus's clock measures the time, even on real threads, so a test can move it with a fake clock."""
    clock, gate = FakeClock(), threading.Event()
    bus = Bus(clock=clock)
    bus.use(Timeout(LIMIT, abandon=True), Tap(lambda message: gate.wait(WAIT)))
    with bus:
        publisher = InThread(bus.publish, "a")
        clock.wait_until_waited_for()
        clock.advance(LIMIT)
        with pytest.raises(TimeoutError, match=f"^{LEFT_BEHIND}$"):
            publisher.result()
        gate.set()


def test_a_sync_publish_that_is_late_is_left_behind(harness: Harness) -> None:
    """The publisher gets the error in time, and the message may still arrive, as the reference says."""
    harness.bus.use(Timeout(LIMIT, abandon=True), Tap(lambda message: harness.clock.sleep(LIMIT + 1.0)))
    mailbox = harness.bus.subscribe("a")
    bus = harness.start()
    with pytest.raises(TimeoutError, match=f"^{LEFT_BEHIND}$"):
        bus.publish("a")
    assert (harness.elapsed, mailbox.stats()["accepted"]) == (LIMIT, 0)
    harness.advance(1.0)
    assert mailbox.stats()["accepted"] == 1


def test_waiting_for_a_rest_gives_up_its_worker_s_slot(harness: Harness) -> None:
    """With a pool of one worker, another handler runs while a handler with a time limit runs."""
    order: list[str] = []

    def slow(message: Message) -> None:
        order.append("slow begins")
        harness.clock.sleep(1.0)
        order.append("slow ends")

    bus = Bus(pool=1)
    bus.subscribe("slow", slow, filters=[Timeout(LIMIT, abandon=True)])
    bus.subscribe("other", lambda message: order.append("other"))
    harness.start(bus)
    bus.publish("slow")
    harness.advance(0)
    bus.publish("other")
    harness.drain()
    assert order == ["slow begins", "other", "slow ends"]


# --- with Retry ---------------------------------------------------------------------------------------------------------


def test_behind_a_retry_each_run_is_bounded(colour: Any) -> None:
    """The first run of the handler is cancelled or left behind, and the second one works."""
    chain = Pipeline(Retry(wait=0), Timeout(LIMIT, abandon=colour == "sync"))
    run = run_filter(chain, Message("a"), next=[after(LIMIT + 1.0), after(1.0)], colour=colour, at="delivery")
    assert (run.outcome, run.next_calls, run.elapsed) == (Handled(), 2, LIMIT + 1.0)


def test_behind_a_retry_each_run_of_a_handler_is_of_the_same_taking(harness: Harness) -> None:
    """Both runs belong to one attempt, and the message is acknowledged once."""
    runs: list[int] = []

    async def slow(message: Message, delivery: Delivery) -> None:
        runs.append(delivery.attempt)
        if len(runs) == 1:
            await asyncio.sleep(LIMIT + 1.0)

    subscription = harness.bus.subscribe("a", slow, filters=[Retry(wait=0), Timeout(LIMIT)])
    harness.start().publish("a")
    harness.drain()
    assert (subscription.stats()["acknowledged"], runs) == (1, [1, 1])


@pytest.mark.parametrize("how", ["publish", "apublish"])
def test_behind_a_retry_each_run_of_an_async_publish_is_bounded(harness: Harness, how: str) -> None:
    """A cancelled run has reached no mailbox, so Retry may try again."""
    runs: list[Message] = []

    async def slow(message: Message, call_next: Any) -> Any:
        runs.append(message)
        if len(runs) == 1:
            await asyncio.sleep(LIMIT + 1.0)
        return await call_next(message)

    harness.bus.use(Retry(wait=0), Timeout(LIMIT), slow)
    mailbox = harness.bus.subscribe("a")
    harness.start()
    assert publish(harness, how) == Receipt(1)
    assert (len(runs), harness.elapsed) == (2, LIMIT)
    harness.advance(LONG)
    assert_conserved(mailbox, accepted=1)


def test_a_handler_is_run_again_beside_the_run_that_was_left_behind(harness: Harness) -> None:
    """In a sync chain, the second run of a handler may succeed while the first one still runs."""
    order: list[str] = []

    def handler(message: Message) -> None:
        if not order:
            order.append("first begins")
            harness.clock.sleep(LIMIT + 1.0)
            order.append("first ends")
        else:
            order.append("second")

    subscription = harness.bus.subscribe("a", handler, filters=[Retry(wait=0), Timeout(LIMIT, abandon=True)])
    harness.start().publish("a")
    harness.advance(LIMIT)
    assert subscription.stats()["acknowledged"] == 1
    assert order == ["first begins", "second"]
    harness.advance(LONG)
    assert order == ["first begins", "second", "first ends"]
    assert subscription.stats()["acknowledged"] == 1


def test_a_sync_publish_that_was_left_behind_is_not_sent_again(harness: Harness) -> None:
    """A mailbox may still accept the message, so Retry lets the error pass, and the message arrives once."""
    runs: list[Message] = []

    def slow(message: Message) -> None:
        runs.append(message)
        harness.clock.sleep(LIMIT + 1.0)

    harness.bus.use(Retry(attempts=5, wait=0), Timeout(LIMIT, abandon=True), Tap(slow))
    mailbox = harness.bus.subscribe("a")
    bus = harness.start()
    with pytest.raises(TimeoutError, match=f"^{LEFT_BEHIND}$"):
        bus.publish("a")
    assert harness.elapsed == LIMIT
    harness.advance(LONG)
    assert len(runs) == 1
    assert_conserved(mailbox, accepted=1)


@pytest.mark.parametrize(
    ("retry", "rest", "runs"),
    [
        pytest.param(lambda: Retry(attempts=9, wait=0), [Boom(), after(LIMIT + 1.0)], 2, id="in a run"),
        pytest.param(lambda: Retry(attempts=9, wait=LIMIT + 1.0, jitter=0), [Boom()], 1, id="in a wait"),
    ],
)
def test_around_a_retry_it_bounds_all_runs_and_waits_together(
    at: Any, retry: Callable[[], Retry], rest: list[Any], runs: int
) -> None:
    """If the time is up in a run or in a wait, Timeout ends it all, however many attempts are left."""
    run = run_filter(Pipeline(Timeout(LIMIT), retry()), Message("a"), next=rest, colour="async", at=at)
    assert (type(run.error), str(run.error)) == (TimeoutError, CANCELLED)
    assert (run.next_calls, run.elapsed) == (runs, LIMIT)


def test_around_a_retry_that_works_in_time_it_is_not_seen(at: Any) -> None:
    """In a sync chain, the runs and waits of Retry happen on the thread that could be left behind."""
    chain = Pipeline(Timeout(LIMIT, abandon=True), Retry(wait=0.5, jitter=0))
    run = run_filter(chain, Message("a"), next=[Boom(), Boom(), None], colour="sync", at=at)
    assert (bool(run.outcome), run.next_calls, run.elapsed) == (True, 3, 1.5)


# --- settings -----------------------------------------------------------------------------------------------------------


def test_the_limit_may_be_a_text() -> None:
    """The limit takes the same forms in code and in a config file."""
    assert (Timeout("200ms").seconds, Timeout("1m").abandon) == (0.2, False)  # type: ignore[arg-type]


@table("seconds", [0, -1, "0s", float("inf"), float("nan"), None, True, "soon"], ids=repr)
def test_a_wrong_limit_is_refused_where_it_is_written(seconds: Any) -> None:
    """The error names the setting and repeats what was found."""
    with pytest.raises(PipelineError, match=r"Timeout\.seconds=") as error:
        Timeout(seconds)
    assert repr(seconds) in str(error.value)


@pytest.mark.parametrize("abandon", [None, 1, "yes"], ids=repr)
def test_abandon_is_yes_or_no(abandon: Any) -> None:
    """`abandon` must be True or False, because leaving work behind has to be a clear decision."""
    with pytest.raises(PipelineError, match=r"Timeout\.abandon=.*True or False"):
        Timeout(LIMIT, abandon=abandon)


def test_a_publish_through_a_timeout_is_refused_on_a_running_loop() -> None:
    """A sync chain with a Timeout waits for its rest, so `publish` on a loop would block the loop."""
    bus = Bus()
    bus.use(Timeout(LONG, abandon=True))
    reader = bus.subscribe("s")

    async def main() -> Any:
        return bus.publish("s")

    with running(bus):
        with pytest.raises(PipelineError, match=r"filter Timeout may wait.*apublish"):
            asyncio.run(main())
        assert reader.stats()["accepted"] == 0


def test_a_timeout_around_a_plain_handler_on_a_loop_is_refused() -> None:
    """The filter would wait for the handler on the loop's thread, and block everything else there."""
    with pytest.raises(PipelineError, match=r"filter Timeout .* may wait, and would stop the event loop"):
        Bus().subscribe("s", fine, run="loop", filters=[Timeout(LONG, abandon=True)])

"""Retry: a message that failed for a moment is tried again, and one that was refused or had its effect is not."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flow_helpers import LONG, InThread, Way, assert_conserved, every_way
from pipebus import (
    Bus,
    BusClosed,
    BusNotStarted,
    Delivery,
    Dropped,
    Handled,
    HeaderError,
    MailboxFull,
    Message,
    MessageError,
    MessageTooLarge,
    PipebusError,
    Pipeline,
    PipelineError,
    Receipt,
    Rejected,
    SubjectError,
    UnsupportedCapability,
    around,
    transform,
    when,
)
from pipebus.clock import SystemClock
from pipebus.errors import CodecError, ContractError
from pipebus.filters import Retry, Tap, Validate
from pipebus.pipeline import state as chain_state
from pipebus.pipeline.shapes import Context
from pipebus.testing import Harness, captured_logs, run_filter, run_handler
from tables import table


class Boom(Exception):
    """The error of these tests: nothing in the bus raises it."""


class Flaky:
    """The end of a chain that fails with these errors, one after the other, and then works."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = errors
        self.runs = 0

    def __call__(self, message: Message) -> None:
        self.runs += 1
        if self.runs <= len(self.errors):
            raise self.errors[self.runs - 1]


def good(at: str) -> Receipt | Handled:
    """The outcome of a chain that works."""
    return Receipt(1) if at == "publish" else Handled()


def lines(logs: list[Any]) -> list[Any]:
    """The log lines of Retry, without those of the bus."""
    return [line for line in logs if line["event"].startswith("attempt.")]


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """The log lines of a test that does not use `run_filter` to collect them."""
    with captured_logs() as entries:
        yield entries


# --- running again ------------------------------------------------------------------------------------------------------


def test_a_rest_that_fails_for_a_moment_is_run_again_until_it_works(colour: Any, at: Any) -> None:
    """After two failures and a success, code outside the filter sees only the success."""
    run = run_filter(Retry(attempts=3, wait=0), Message("a"), next=[Boom("1"), Boom("2"), None], colour=colour, at=at)
    assert (run.outcome, run.next_calls) == (good(at), 3)
    assert run.leaks == ()


@every_way
def test_what_is_published_in_a_later_run_arrives_once(way: Way) -> None:
    """After two failures and a success, there is one message in the mailbox."""
    bus, end = Bus(), Flaky(Boom("1"), Boom("2"))
    bus.use(Retry(attempts=3, wait=0), Tap(end))
    mailbox = bus.subscribe("a")
    with bus:
        assert way(bus, "a") == Receipt(1)
    assert end.runs == 3
    assert_conserved(mailbox, accepted=1)


def test_what_works_at_once_is_run_once(colour: Any, at: Any) -> None:
    """A chain that works at once runs once, without a wait."""
    run = run_filter(Retry(), Message("a"), colour=colour, at=at)
    assert (run.outcome, run.next_calls, run.pauses, run.elapsed) == (good(at), 1, [], 0)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_the_last_error_comes_out_as_the_object_it_is(colour: Any, at: Any, attempts: int) -> None:
    """After the last attempt the caller gets the error of that attempt itself, not a wrapper or a group."""
    errors = [Boom(str(number)) for number in range(9)]
    run = run_filter(Retry(attempts=attempts, wait=0), Message("a"), next=errors, colour=colour, at=at)
    assert run.next_calls == attempts
    assert run.error is errors[attempts - 1]
    assert run.leaks == ()


def test_each_run_gets_the_same_message(colour: Any, at: Any) -> None:
    """Changes that an earlier run made to the message are gone in the next run."""
    seen: list[Message] = []

    @transform
    def change(message: Message) -> Message:
        seen.append(message)
        return message.with_headers(changed="yes")

    sent = Message("a")
    run = run_filter(Pipeline(Retry(wait=0), change), sent, next=[Boom(), Boom(), None], colour=colour, at=at)
    assert run.outcome == good(at)
    assert len(seen) == 3
    assert all(message is sent for message in seen)


def test_a_drop_is_an_outcome_and_not_an_error(colour: Any, at: Any) -> None:
    """Retry returns a drop, and does not try again."""
    run = run_filter(Retry(wait=0), Message("a"), next=Dropped("unwanted", "drop"), colour=colour, at=at)
    assert run.outcome == Dropped("unwanted", "drop")
    assert run.next_calls == 1


def test_the_dead_letter_names_the_handler_and_not_the_filter(harness: Harness) -> None:
    """The dead letter names the handler that failed, with the error of its last run."""

    def fails(message: Message) -> None:
        raise Boom("again")

    harness.allow(Boom)
    harness.bus.subscribe("a", fails, filters=[Retry()])
    bus = harness.start()
    bus.publish("a")
    harness.drain()
    (letter,) = bus.dead_letters.list()
    assert (letter.by, letter.error) == ("fails", "Boom: again")


def test_a_filter_alone_can_be_driven_by_hand() -> None:
    """The generator yields the message for each run, and a Pause between two runs."""
    message = Message("a")
    steps = Retry(wait=2.0, jitter=0.0).around(message)
    assert next(steps) is message
    assert steps.throw(Boom("1")).seconds == 2.0
    assert next(steps) is message
    with pytest.raises(StopIteration) as end:
        steps.send(Receipt(1))
    assert end.value.value == Receipt(1)


# --- waiting ------------------------------------------------------------------------------------------------------------


def test_waits_double_up_to_a_bound(colour: Any, at: Any) -> None:
    """The waits are 1 second, 2 seconds, and from then on always 3 seconds."""
    retry = Retry(attempts=6, wait=1.0, max_wait=3.0, jitter=0.0)
    run = run_filter(retry, Message("a"), next=Boom, colour=colour, at=at)
    assert isinstance(run.error, Boom)
    assert run.pauses == [1.0, 2.0, 3.0, 3.0, 3.0]
    assert run.elapsed == 12.0


@pytest.mark.parametrize("jitter", [0.2, 1.0])
def test_a_wait_is_shortened_at_random_by_up_to_its_jitter(colour: Any, at: Any, jitter: float) -> None:
    """Jitter spreads out messages that failed together; a seed makes the waits repeatable."""
    retry, same = Retry(attempts=50, wait=8.0, max_wait=8.0, jitter=jitter), random.Random(7)
    retry._random.seed(7)
    run = run_filter(retry, Message("a"), next=Boom, colour=colour, at=at)
    assert isinstance(run.error, Boom)
    pauses = run.pauses
    assert pauses == [8.0 * (1 - jitter * same.random()) for _ in range(49)]
    assert 8.0 * (1 - jitter) <= min(pauses) < 8.0 * (1 - 0.7 * jitter)
    assert 8.0 * (1 - 0.3 * jitter) < max(pauses) <= 8.0


def test_two_filters_wait_differently() -> None:
    """Each filter has its own random source, and none of them uses the one of the program."""
    random.seed(7)
    state = random.getstate()
    one, other = (run_filter(Retry(attempts=9), Message("a"), next=Boom) for _ in range(2))
    assert type(one.error) is type(other.error) is Boom
    assert len(one.pauses) == len(other.pauses) == 8
    assert one.pauses != other.pauses
    assert random.getstate() == state


def test_endless_attempts_keep_to_the_longest_wait() -> None:
    """Doubling a wait two thousand times gives a number that no clock can wait for, so the longest wait applies."""
    run = run_filter(Retry(attempts=2000, jitter=0), Message("a"), next=[*[Boom()] * 1999, None])
    assert run.outcome == Receipt(1)
    assert (len(run.pauses), run.pauses[-1]) == (1999, 10.0)


def test_each_message_begins_with_the_first_wait(colour: Any, at: Any) -> None:
    """The waits of one message do not slow the next message."""
    retry = Retry(attempts=3, wait=1.0, jitter=0.0)
    for _ in range(2):
        run = run_filter(retry, Message("a"), next=[Boom(), Boom(), None], colour=colour, at=at)
        assert run.pauses == [1.0, 2.0]


def test_a_wait_gives_up_its_worker_s_slot(harness: Harness) -> None:
    """While a handler waits for its second run, another handler runs, even with a pool of one worker."""
    end, handled = Flaky(Boom()), Flaky()
    bus = Bus(pool=1)
    waits = bus.subscribe("waits", lambda message: end(message), filters=[Retry(wait=LONG, max_wait=LONG)])
    bus.subscribe("other", lambda message: handled(message))
    harness.start(bus)
    bus.publish("waits")
    harness.advance(0)
    assert end.runs == 1
    bus.publish("other")
    harness.advance(0)
    assert (handled.runs, end.runs, waits.stats()["in_flight"]) == (1, 1, 1)
    harness.advance(LONG)
    assert (end.runs, waits.stats()["acknowledged"]) == (2, 1)


@pytest.mark.parametrize(
    ("retry", "waits"),
    [
        pytest.param(Retry(), True, id="the default"),
        pytest.param(Retry(wait=0), False, id="no wait"),
    ],
)
def test_only_a_filter_that_waits_is_refused_on_a_running_loop(harness: Harness, retry: Retry, waits: bool) -> None:
    """`publish` on a loop would block it during the wait, so it is refused; a Retry without a wait may run there."""
    end = Flaky(Boom())
    harness.bus.use(retry, Tap(end))
    bus = harness.start()

    async def main() -> Any:
        return bus.publish("a")

    if waits:
        with pytest.raises(PipelineError, match=r"Retry may wait.*apublish"):
            harness.run(main())
        assert end.runs == 0
    else:
        assert harness.run(main()) == Receipt(0)
        assert end.runs == 2


# --- what is tried again ------------------------------------------------------------------------------------------------

REFUSALS = [
    Rejected("no", by="somebody"),
    PipelineError("a bad chain"),
    ContractError("did what it may not"),
    BusClosed("stopped"),
    BusNotStarted("new"),
    SubjectError("a..b"),
    HeaderError("a\nb"),
    MessageError("no message"),
    MessageTooLarge("over the limit"),
    UnsupportedCapability("cannot"),
    CodecError("no bytes"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_what_would_be_refused_again_is_not_tried_again(colour: Any, at: Any, error: Exception) -> None:
    """Such an error comes out at once, whatever `on` says, and nobody waits."""
    run = run_filter(Retry(on=(PipebusError, Exception)), Message("a"), next=error, colour=colour, at=at)
    assert run.error is error
    assert (run.next_calls, run.pauses) == (1, [])


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(3)], ids=lambda error: type(error).__name__
)
def test_what_ends_a_program_or_a_task_passes_untouched(colour: Any, at: Any, error: BaseException) -> None:
    """Such an error is not a failure of the rest of the chain, so there is no second run and no wait."""
    run = run_filter(Retry(), Message("a"), next=error, colour=colour, at=at)
    assert run.error is error
    assert (run.next_calls, run.pauses) == (1, [])


@pytest.mark.parametrize("on", [ConnectionError, (KeyError, ConnectionError), [ConnectionError]], ids=str)
def test_only_what_is_named_is_tried_again(colour: Any, at: Any, on: Any) -> None:
    """A class in `on` includes its subclasses; any other error comes out at once."""
    named = run_filter(Retry(on=on, wait=0), Message("a"), next=[ConnectionResetError(), None], colour=colour, at=at)
    assert (named.outcome, named.next_calls) == (good(at), 2)
    other = run_filter(Retry(on=on, wait=0), Message("a"), next=[ValueError(), None], colour=colour, at=at)
    assert (type(other.error), other.next_calls) == (ValueError, 1)


def test_an_error_that_is_not_named_ends_it_in_any_run(colour: Any, at: Any) -> None:
    """If a named error comes first and another one later, the other one ends the attempts."""
    rest = [ConnectionError(), Rejected("no", by="somebody"), None]
    run = run_filter(Retry(attempts=9, wait=0, on=ConnectionError), Message("a"), next=rest, colour=colour, at=at)
    assert (run.error, run.next_calls) == (rest[1], 2)


def test_a_body_that_the_handler_s_type_refuses_is_a_dead_letter_at_once(colour: str) -> None:
    """The handler would refuse the body again, so there is one run and no wait."""
    runs: list[Message] = []

    def takes_numbers(body: int) -> None:
        raise AssertionError("not reached")

    async def atakes_numbers(body: int) -> None:
        raise AssertionError("not reached")

    handler = takes_numbers if colour == "sync" else atakes_numbers
    run = run_handler(handler, "no number", filters=[Retry(), Tap(runs.append)])
    assert (type(run.error), run.settlement) == (Rejected, "dead")
    assert (len(runs), run.elapsed) == (1, 0)


def test_a_refused_publish_reaches_its_publisher_at_once(colour: Any) -> None:
    """When `Validate` refuses a message, Retry does not ask it a second time."""
    runs: list[Message] = []
    chain = Pipeline(Retry(), Tap(runs.append), Validate({"a": int}))
    run = run_filter(chain, Message("a", "no number"), colour=colour)
    assert isinstance(run.error, Rejected)
    assert (len(runs), run.pauses, run.next_calls) == (1, [], 0)


# --- publishing: what was accepted is not sent again --------------------------------------------------------------------


@around
def fails_on_the_way_back(message: Message) -> Any:
    yield message
    raise Boom("on the way back")


def test_what_was_accepted_is_not_sent_again_when_a_filter_fails_on_the_way_back(colour: Any) -> None:
    """If a filter fails on the way back, the publisher gets the error at once, and the mailbox has one message."""
    run = run_filter(Pipeline(Retry(), fails_on_the_way_back), Message("a"), next=Receipt(1), colour=colour)
    assert isinstance(run.error, Boom)
    assert (run.next_calls, run.pauses) == (1, [])


@every_way
def test_a_message_that_some_mailboxes_accepted_and_others_refused_is_not_sent_again(way: Way) -> None:
    """If one of two mailboxes is full, the other one gets the message once, however many attempts are left."""
    bus, passes = Bus(), []
    roomy = bus.subscribe("a", name="roomy")
    full = bus.subscribe("a", name="full", mailbox=1, overflow="reject")
    bus.use(Retry(wait=0), Tap(passes.append))
    with bus:
        with pytest.raises(MailboxFull):  # the second message finds it full
            [way(bus, "a", number) for number in range(2)]
        passes.clear()
        with pytest.raises(MailboxFull) as error:
            way(bus, "a")
        assert (error.value.accepted, error.value.refused) == (("roomy",), ("full",))
        assert len(passes) == 1
        assert (roomy.stats()["pending"], full.stats()["pending"]) == (3, 1)


@every_way
def test_a_message_that_every_mailbox_refused_is_sent_again(way: Way) -> None:
    """If a mailbox has room by the third attempt, the message arrives."""
    bus, passes = Bus(), []

    def make_room(message: Message) -> None:
        passes.append(message.body)
        if passes.count("second") == 3:
            InThread(full.receive, timeout=0).result()

    bus.use(Retry(wait=0), Tap(make_room))
    full = bus.subscribe("a", mailbox=1, overflow="reject")
    with bus:
        way(bus, "a", "first")
        assert way(bus, "a", "second") == Receipt(1)
        assert passes == ["first", "second", "second", "second"]
        assert_conserved(full, accepted=2)


def test_what_nobody_listens_to_counts_as_accepted() -> None:
    """A receipt counts as accepted although no mailbox took the message, so the message is not sent again."""
    bus, passes = Bus(), []
    bus.use(Retry(wait=0), Tap(passes.append), fails_on_the_way_back)
    with bus, pytest.raises(Boom):
        bus.publish("a")
    assert (len(passes), bus.stats()["unrouted"]) == (1, 1)


def test_an_outer_retry_sees_what_an_inner_one_got_accepted(colour: Any) -> None:
    """If the inner Retry's part accepted the message and a filter between the two fails, the outer one does not try again."""
    outside = Flaky()
    chain = Pipeline(Retry(), Tap(outside), fails_on_the_way_back, Retry(wait=0))
    run = run_filter(chain, Message("a"), next=[Boom("once"), Receipt(1)], colour=colour)
    with pytest.raises(Boom, match="on the way back"):
        assert run.outcome
    assert (outside.runs, run.next_calls, run.pauses) == (1, 2, [])


def test_an_outer_retry_runs_again_what_an_inner_one_gave_up(colour: Any, at: Any) -> None:
    """Three outer attempts with two inner attempts each make six runs."""
    chain = Pipeline(Retry(wait=0), Retry(attempts=2, wait=0))
    run = run_filter(chain, Message("a"), next=[*[Boom()] * 5, None], colour=colour, at=at)
    assert (run.outcome, run.next_calls) == (good(at), 6)


@every_way
def test_an_inner_retry_looks_at_its_own_passes_only(way: Way) -> None:
    """When a filter sends a message twice, the accepted first copy does not keep Retry from trying the second one again."""

    @around
    def twice(message: Message) -> Any:
        yield message
        yield message.with_headers(copy="2")

    bus, second = Bus(), Flaky(Boom())
    bus.use(Retry(wait=0), twice, Retry(wait=0), when(lambda message: "copy" in message.headers, Tap(second)))
    mailbox = bus.subscribe("a")
    with bus:
        assert way(bus, "a") == Receipt(1)
        assert [dict(mailbox.receive(timeout=0).headers) for _ in range(2)] == [{}, {"copy": "2"}]
    assert second.runs == 2
    assert_conserved(mailbox, accepted=2)


@pytest.mark.parametrize("fails", [False, True], ids=["accepted", "failed"])
def test_one_publish_says_nothing_about_the_next(fails: bool) -> None:
    """When a thread publishes again, Retry forgets the notes for its first message, also if that message failed."""
    bus = Bus()
    first, second = [fails_on_the_way_back] if fails else [], Flaky(Boom())
    bus.use(Retry(wait=0), when("first", *first), when("second", Tap(second)))
    mailbox = bus.subscribe(">")
    with bus:
        if fails:
            with pytest.raises(Boom):
                bus.publish("first")
        else:
            bus.publish("first")
        assert bus.publish("second") == Receipt(1)
    assert second.runs == 2
    assert_conserved(mailbox, accepted=2)


def test_a_publish_leaves_nothing_in_its_publisher_s_context() -> None:
    """A publish leaves no message in its publisher's context, whether it succeeds or fails."""
    bus = Bus()
    bus.use(Retry(wait=0), when("fails", fails_on_the_way_back))

    def publish() -> None:
        bus.publish("works")
        with pytest.raises(Boom):
            bus.publish("fails")

    context = contextvars.Context()
    with bus:
        context.run(publish)
    (left,) = context.values()  # where filters find their message
    assert left.item is None


@pytest.fixture
def copies(harness: Harness) -> tuple[Bus, list[contextvars.Context]]:
    """A bus that leaves a copy of the context of each message about "start", as a task or a thread would."""
    made: list[contextvars.Context] = []
    harness.bus.use(when("start", Retry(), Tap(lambda message: made.append(contextvars.copy_context()))))
    return harness.bus, made


def test_what_a_filter_has_started_publishes_like_anybody(
    harness: Harness, copies: tuple[Bus, list[contextvars.Context]]
) -> None:
    """Code that a filter has started may publish as usual: an accepted message is not sent again."""
    bus, made = copies
    passes = Flaky()
    bus.use(when("later", Retry(), Tap(passes), fails_on_the_way_back))
    harness.start()
    bus.publish("start")
    with pytest.raises(Boom):
        made[0].run(bus.publish, "later")
    assert (passes.runs, harness.elapsed) == (1, 0)


def test_what_a_filter_has_started_may_publish_twice_at_once(
    harness: Harness, copies: tuple[Bus, list[contextvars.Context]]
) -> None:
    """If one of two publishes is accepted while the other one waits, the other one is still tried again."""
    bus, made = copies
    end = Flaky(Boom())
    bus.use(Retry(), when("later", Tap(end)))
    mailbox = bus.subscribe(">")
    harness.start()
    bus.publish("start")
    made.append(made[0].copy())
    later = harness.thread(made[0].run, bus.publish, "later")
    harness.advance(0)
    assert end.runs == 1  # it waits
    made[1].run(bus.publish, "other")
    assert later.result() == Receipt(1)
    assert end.runs == 2
    assert_conserved(mailbox, accepted=3)


def test_notes_of_the_past_do_not_grow(harness: Harness, copies: tuple[Bus, list[contextvars.Context]]) -> None:
    """A copy of the context may publish again and again: the notes of the first message do not grow."""
    bus, made = copies
    bus.use(when(lambda message: message.body == "retried", Retry()))
    harness.start()
    bus.publish("start")
    for _ in range(10):
        made[0].run(bus.publish, "other")
    assert made[0][chain_state.accepted] == [Receipt(0)]


def test_what_is_accepted_during_the_wait_is_not_sent_again(harness: Harness) -> None:
    """A pass that a failed filter has left on a thread is accepted during the wait, so Retry does not try again."""
    runs: list[Message] = []

    def leaves_behind(message: Message, call_next: Any) -> Any:
        def late() -> None:
            harness.clock.sleep(1.0)
            call_next(message)

        runs.append(message)
        harness.thread(contextvars.copy_context().run, late)
        raise Boom("impatient")

    harness.bus.use(Retry(wait=2.0), leaves_behind)
    mailbox = harness.bus.subscribe("a")
    bus = harness.start()
    with pytest.raises(Boom):
        bus.publish("a")
    assert len(runs) == 1
    assert_conserved(mailbox, accepted=1)
    assert [refused.by for refused in harness.refused] == ["leaves_behind"]


# --- deliveries: what was settled is not run again ----------------------------------------------------------------------


def coloured(colour: str, handle: Callable[[Message, Delivery], object]) -> Any:
    """The handler as a sync or an async function."""

    async def ahandle(message: Message, delivery: Delivery) -> None:
        handle(message, delivery)

    return ahandle if colour == "async" else handle


@pytest.mark.parametrize(
    ("settle", "end"),
    [
        pytest.param(Delivery.ack, "acknowledged", id="acknowledged"),
        pytest.param(lambda delivery: delivery.reject("no"), "dead", id="rejected"),
    ],
)
def test_a_delivery_that_its_handler_has_settled_is_not_run_again(
    colour: str, settle: Callable[[Delivery], None], end: str
) -> None:
    """A settlement is final, also if the handler raises an error later."""
    runs: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        runs.append(delivery.attempt)
        settle(delivery)
        raise Boom("after it was settled")

    run = run_handler(coloured(colour, handle), filters=[Retry()])
    assert run.settlement == end
    assert (runs, run.elapsed) == ([1], 0)


def test_a_delivery_that_was_given_back_comes_again_by_itself_alone(harness: Harness, colour: str) -> None:
    """After `delivery.retry()` and an error, the next attempt comes from the mailbox, not from the filter."""
    runs: list[int] = []

    def handle(message: Message, delivery: Delivery) -> None:
        runs.append(delivery.attempt)
        if delivery.attempt == 1:
            delivery.retry()
            raise Boom("given back")

    harness.allow(Boom)
    harness.bus.subscribe("a", coloured(colour, handle), filters=[Retry()])
    harness.start().publish("a")
    harness.drain()
    assert (runs, harness.elapsed) == ([1, 2], 0)


def test_a_delivery_that_is_settled_during_the_wait_is_not_run_again(harness: Harness, colour: str) -> None:
    """A handler may give its delivery to another thread, which settles it during the wait."""
    given: list[Delivery] = []

    def handle(message: Message, delivery: Delivery) -> None:
        given.append(delivery)
        raise Boom("but somebody else may do it")

    harness.allow(Boom)
    subscription = harness.bus.subscribe("a", coloured(colour, handle), filters=[Retry(attempts=9, wait=1.0)])
    harness.start().publish("a")
    harness.advance(0.5)
    given[0].ack()
    harness.drain()
    assert len(given) == 1
    assert subscription.stats()["acknowledged"] == 1
    assert harness.elapsed > 0.5  # it did wait


def test_what_a_handler_has_published_does_not_keep_it_from_being_run_again(harness: Harness) -> None:
    """A handler may publish and then run again: its own publishes do not count as the outcome of its delivery."""
    end = Flaky(Boom())
    bus = harness.bus
    bus.use(Retry(wait=0))

    def handle(message: Message) -> None:
        bus.publish("b")
        end(message)

    bus.subscribe("a", handle, filters=[Retry(wait=0)])
    other = bus.subscribe("b")
    harness.start().publish("a")
    harness.advance(0)
    assert (end.runs, other.stats()["pending"]) == (2, 2)


def test_a_publish_of_a_handler_that_has_settled_is_still_tried_again(harness: Harness, colour: str) -> None:
    """A handler that has acknowledged may still publish, and the publish chain's Retry tries that publish again."""
    end = Flaky(Boom())
    bus = harness.bus
    bus.use(Retry(wait=0), when("b", Tap(end)))

    def handle(message: Message, delivery: Delivery) -> None:
        delivery.ack()
        bus.publish("b")

    async def ahandle(message: Message, delivery: Delivery) -> None:
        delivery.ack()
        await bus.apublish("b")

    bus.subscribe("a", handle if colour == "sync" else ahandle)
    other = bus.subscribe("b")
    harness.start().publish("a")
    harness.advance(0)
    assert (end.runs, other.stats()["pending"]) == (2, 1)


@pytest.mark.parametrize("works", [True, False], ids=["works", "fails"])
def test_figures_count_takings_and_not_runs(harness: Harness, colour: str, works: bool) -> None:
    """However often the filter runs the handler, it is one attempt of one delivery, and `attempts` bounds only those."""
    end, attempts = Flaky(Boom(), Boom(), *[] if works else [Boom()]), []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        end(message)

    harness.allow(Boom)
    subscription = harness.bus.subscribe("a", coloured(colour, handle), attempts=1, filters=[Retry(attempts=3, wait=0)])
    bus = harness.start()
    bus.publish("a")
    harness.drain()
    stats = subscription.stats()
    assert attempts == [1, 1, 1]
    assert (stats["accepted"], stats["acknowledged"], stats["dead"]) == ((1, 1, 0) if works else (1, 0, 1))
    assert [letter.attempts for letter in bus.dead_letters.list()] == ([] if works else [1])


def test_around_every_handler_each_subscription_has_its_own_runs(harness: Harness) -> None:
    """The failure of one subscription does not count for another one."""
    flaky, fine = Flaky(Boom()), Flaky()
    harness.bus.use(Retry(wait=0), at="delivery")
    harness.bus.subscribe("a", lambda message: flaky(message))
    harness.bus.subscribe("a", lambda message: fine(message))
    harness.start().publish("a")
    harness.drain()
    assert (flaky.runs, fine.runs) == (2, 1)


# --- cancellation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["in the handler", "in the wait"])
def test_a_stop_that_cancels_a_handler_is_no_failed_attempt(harness: Harness, where: str, logs: list[Any]) -> None:
    """The message goes back without a counted attempt: no further run, no dead letter, and the next start handles it."""
    attempts: list[int] = []

    async def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) > 1:
            return
        if where == "in the wait":
            raise Boom("to be tried again")
        await asyncio.Event().wait()

    subscription = harness.bus.subscribe("a", handle, name="slow", filters=[Retry(wait=LONG, max_wait=LONG)])
    bus = harness.start()
    bus.publish("a")
    harness.advance(1.0)
    report = bus.stop(timeout=0, drain=False)
    assert (report.left, report.abandoned, attempts) == ({"slow": 1}, (), [1])
    assert len(bus.dead_letters) == 0
    assert len(lines(logs)) == (where == "in the wait")
    harness.start()
    harness.drain()
    assert attempts == [1, 1]
    assert subscription.stats()["acknowledged"] == 1
    assert_conserved(subscription, accepted=1)


@pytest.mark.parametrize("where", ["in the rest", "in the wait"])
def test_a_publisher_whose_task_is_cancelled_is_not_kept(harness: Harness, where: str) -> None:
    """The publisher's task is cancelled at once; Retry does not try again, and nothing is accepted."""
    runs: list[Message] = []

    async def rest(message: Message, call_next: Any) -> Any:
        runs.append(message)
        if where == "in the wait":
            raise Boom
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(bus.apublish("a"))
        await asyncio.sleep(1.0)
        assert len(runs) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    harness.bus.use(Retry(wait=LONG, max_wait=LONG), rest)
    mailbox = harness.bus.subscribe("a")
    bus = harness.start()
    harness.run(main())
    assert harness.elapsed == 1.0
    harness.advance(LONG)
    assert len(runs) == 1
    assert_conserved(mailbox, accepted=0)


def test_a_stray_cancellation_of_a_handler_s_own_is_a_failure_that_is_not_tried_again() -> None:
    """If nobody cancelled the handler, its own CancelledError makes a dead letter after one run."""
    end = Flaky(asyncio.CancelledError())

    async def handle(message: Message) -> None:
        end(message)

    run = run_handler(handle, filters=[Retry(wait=0)])
    assert (run.settlement, end.runs) == ("dead", 1)


# --- the log ------------------------------------------------------------------------------------------------------------


def test_each_further_run_is_one_line(colour: Any, at: Any) -> None:
    """The line says who tries which message again, after how many runs, after which wait and after which error."""
    retry, errors = Retry(attempts=3, wait=1.0, jitter=0.0), [Boom("1"), Boom("2"), Boom("3")]
    run = run_filter(retry, Message("a", id="m-1"), next=errors, colour=colour, at=at)
    assert run.error is errors[2]
    found = lines(run.logs)
    assert [(line["attempt"], line["wait"], line["error"]) for line in found] == [(1, 1.0, "Boom: 1"), (2, 2.0, "Boom: 2")]
    assert {line["filter"] for line in found} == {"Retry"}
    assert {line["subject"] for line in found} == {"a"}
    assert {line["log_level"] for line in found} == {"warning"}
    assert {line["id"] for line in found} == {"m-1"}


@pytest.mark.parametrize(
    ("retry", "rest"),
    [
        pytest.param(Retry(wait=0), None, id="it works"),
        pytest.param(Retry(wait=0), Rejected("no"), id="it is refused"),
        pytest.param(Retry(wait=0, attempts=1), Boom(), id="no attempt is left"),
    ],
)
def test_what_is_not_tried_again_is_not_logged(colour: Any, at: Any, retry: Retry, rest: Any) -> None:
    """Retry logs one line for each decision to run again, and no other lines."""
    run = run_filter(retry, Message("a"), next=rest, colour=colour, at=at)
    assert (run.error, run.next_calls) == (rest, 1)
    assert lines(run.logs) == []


def test_a_filter_that_was_never_started_logs_nothing(logs: list[Any]) -> None:
    """A test may use the filter without a bus; it logs nothing then."""
    steps = Retry(wait=0).around(Message("a"))
    next(steps)
    steps.throw(Boom())
    assert lines(logs) == []


def test_a_logger_that_fails_changes_nothing() -> None:
    """A logger that raises does not harm the message."""

    class Broken:
        def warning(self, event: str, **facts: Any) -> None:
            raise OSError("no space left")

    retry = Retry(wait=0)
    retry.start(Context(None, SystemClock(), Broken(), "Retry"))
    message = Message("a")
    steps = retry.around(message)
    next(steps)
    assert steps.throw(Boom()) is message


# --- settings -----------------------------------------------------------------------------------------------------------


def test_durations_may_be_texts() -> None:
    """Durations take the same forms in code and in a config file."""
    retry = Retry(wait="200ms", max_wait="1.5m")  # type: ignore[arg-type]
    assert (retry.wait, retry.max_wait) == (0.2, 90.0)


def test_the_defaults_are_three_runs_with_short_waits() -> None:
    """The defaults are the ones that the reference documents."""
    retry = Retry()
    assert (retry.attempts, retry.wait, retry.max_wait, retry.jitter, retry.on) == (3, 0.1, 10.0, 0.2, Exception)


def test_a_bus_describes_it_by_its_settings() -> None:
    """`describe()` is JSON-safe, also for exception classes."""
    bus = Bus()
    bus.use(Retry(attempts=5, on=(ConnectionError, TimeoutError)))
    (described,) = bus.describe()["publish"]
    assert described["settings"] == {
        "attempts": 5,
        "wait": 0.1,
        "max_wait": 10.0,
        "jitter": 0.2,
        "on": ["builtins:ConnectionError", "builtins:TimeoutError"],
    }


@table(
    ("settings", "text"),
    [
        ({"attempts": 0}, r"Retry\.attempts=0: .*at least 1"),
        ({"attempts": -1}, r"Retry\.attempts=-1"),
        ({"attempts": 2.5}, r"Retry\.attempts=2\.5"),
        ({"attempts": True}, r"Retry\.attempts=True"),
        ({"attempts": "3"}, r"Retry\.attempts='3'"),
        ({"wait": -1}, r"Retry\.wait=-1"),
        ({"wait": float("inf")}, r"Retry\.wait=inf"),
        ({"wait": "soon"}, r"Retry\.wait='soon'"),
        ({"max_wait": -1}, r"Retry\.max_wait=-1"),
        ({"max_wait": None}, r"Retry\.max_wait=None"),
        ({"wait": 20}, r"Retry\.max_wait=10 is shorter than Retry\.wait=20; raise it"),
        ({"jitter": -0.1}, r"Retry\.jitter=-0\.1: .*0 to 1"),
        ({"jitter": 1.1}, r"Retry\.jitter=1\.1"),
        ({"jitter": True}, r"Retry\.jitter=True"),
        ({"jitter": float("nan")}, r"Retry\.jitter=nan"),
        ({"jitter": "20%"}, r"Retry\.jitter='20%'"),
        ({"on": ()}, r"Retry\.on=\(\): .*take the filter out"),
        ({"on": None}, r"Retry\.on=None: .*on=ConnectionError"),
        ({"on": "ConnectionError"}, r"Retry\.on='ConnectionError': .*on=ConnectionError"),
        ({"on": int}, r"Retry\.on=.*int.* is not an exception class"),
        ({"on": ValueError("one")}, r"Retry\.on=ValueError\('one'\): .* is not an exception class"),
        ({"on": (ValueError, "x")}, r"Retry\.on=.*'x' is not an exception class"),
        ({"on": Rejected}, r"Retry\.on=.*Rejected is never tried again.*take it out"),
        ({"on": (ValueError, ContractError)}, r"Retry\.on=.*ContractError is never tried again"),
        ({"on": BaseException}, r"Retry\.on=.*BaseException ends the program or task.*on=Exception"),
        ({"on": (ValueError, KeyboardInterrupt)}, r"Retry\.on=.*KeyboardInterrupt ends the program or task"),
        ({"on": asyncio.CancelledError}, r"Retry\.on=.*CancelledError ends the program or task"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_where_they_are_written(settings: dict[str, Any], text: str) -> None:
    """The error names the setting, what was found, and what to write."""
    with pytest.raises(PipelineError, match=text):
        Retry(**settings)

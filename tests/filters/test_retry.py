"""Retry: what failed for a moment is tried again; what was refused, or has had its effect, is not."""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog

from flow_helpers import LONG, WAIT, Ear, HandClock, InThread, Way, assert_conserved, every_way, running
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
    PipelineError,
    Receipt,
    Rejected,
    SubjectError,
    UnsupportedCapability,
    around,
    links,
    transform,
    when,
)
from pipebus.clock import SystemClock
from pipebus.errors import CodecError, ContractError
from pipebus.events import Refused
from pipebus.filters import Retry, Tap, Validate
from pipebus.pipeline import Context

KINDS = ("publish", "publish async", "apublish", "delivery", "delivery async")


class Boom(Exception):
    """The error of these tests: nothing in the bus raises it."""


class Instant(SystemClock):
    """A clock on which sleeping takes no time: what it would have taken is noted. `meanwhile` is called in each sleep."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.slept: list[float] = []
        self.meanwhile = meanwhile

    def sleep(self, seconds: float) -> None:  # type: ignore[override]
        self.slept.append(seconds)
        self.meanwhile()

    async def asleep(self, seconds: float) -> None:  # type: ignore[override]
        self.sleep(seconds)


class Flaky:
    """The end of a chain: fails with these errors, one after the other, and then works."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = errors
        self.runs = 0

    def __call__(self, message: Message) -> None:
        self.runs += 1
        if self.runs <= len(self.errors):
            raise self.errors[self.runs - 1]


@dataclass
class Ended:
    """What came out of the filters, and what the bus counted: on the publish side for all, else for the one handler."""

    outcome: Any = None
    error: BaseException | None = None
    accepted: int = 0
    stats: dict[str, Any] = field(default_factory=dict)


class Chain:
    """Filters in front of a function of the message, on one kind of chain; `send` puts one message through."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.delivered = kind.startswith("delivery")

    @property
    def good(self) -> Receipt | Handled:
        return Handled() if self.delivered else Receipt(1)

    def send(self, *filters: Any, end: Callable[[Message], object], clock: Any = None) -> Ended:
        ended = Ended()

        @around
        def seen(message: Message) -> Any:
            try:
                ended.outcome = yield message
            except BaseException as error:
                ended.error = error
                raise

        async def aend(message: Message) -> None:
            end(message)

        async def apass(message: Message, call_next: Any) -> Any:
            end(message)
            return await call_next(message)

        bus = Bus(clock=clock)
        if self.delivered:
            handler = aend if self.kind == "delivery async" else lambda message: end(message)
            subscription = bus.subscribe("a", handler, filters=[seen, *filters])
            with bus:
                bus.publish("a")
                bus.drain(timeout=WAIT)
        else:
            bus.use(seen, *filters, apass if self.kind == "publish async" else Tap(end))
            subscription = bus.subscribe("a")
            with bus:
                try:
                    asyncio.run(bus.apublish("a")) if self.kind == "apublish" else bus.publish("a")
                except BaseException as error:
                    if error is not ended.error:
                        raise
        ended.stats = subscription.stats()
        ended.accepted = ended.stats["accepted"]
        assert_conserved(subscription)
        return ended


@pytest.fixture(params=KINDS)
def chain(request: pytest.FixtureRequest) -> Chain:
    return Chain(request.param)


@pytest.fixture
def logs() -> Iterator[Callable[[], list[Any]]]:
    """`logs()`: the lines of Retry so far."""
    with structlog.testing.capture_logs() as entries:
        yield lambda: [entry for entry in entries if entry["event"].startswith("attempt.")]
    structlog.reset_defaults()


# --- running again ------------------------------------------------------------------------------------------------------


def test_a_rest_that_fails_for_a_moment_is_run_again_until_it_works(chain: Chain) -> None:
    """Two failures, then success: whoever stands outside sees the success alone."""
    end = Flaky(Boom("1"), Boom("2"))
    ended = chain.send(Retry(attempts=3, wait=0), end=end)
    assert (ended.outcome, ended.error, end.runs) == (chain.good, None, 3)
    assert ended.accepted == 1


def test_what_works_at_once_is_run_once(chain: Chain) -> None:
    """Nothing is repeated, and nothing waits."""
    end, clock = Flaky(), Instant()
    ended = chain.send(Retry(), end=end, clock=clock)
    assert (ended.outcome, end.runs, clock.slept) == (chain.good, 1, [])


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_the_last_error_comes_out_as_the_object_it_is(chain: Chain, attempts: int) -> None:
    """After so many runs in all, no wrapper and no group: the error of the last run."""
    errors = [Boom(str(number)) for number in range(9)]
    end = Flaky(*errors)
    ended = chain.send(Retry(attempts=attempts, wait=0), end=end)
    assert end.runs == attempts
    assert ended.error is errors[attempts - 1]


def test_each_run_gets_the_same_message(chain: Chain) -> None:
    """What an earlier run made of it is gone."""
    seen: list[Message] = []

    @transform
    def change(message: Message) -> Message:
        seen.append(message)
        return message.with_headers(changed="yes")

    ended = chain.send(Retry(wait=0), change, end=Flaky(Boom(), Boom()))
    assert ended.outcome == chain.good
    assert len(seen) == 3
    assert seen[0] is seen[1] is seen[2]


def test_a_drop_is_an_outcome_and_not_an_error(chain: Chain) -> None:
    """It is handed on, not tried again."""
    asked: list[Message] = []

    @transform
    def drop(message: Message) -> Dropped:
        asked.append(message)
        return Dropped("unwanted")

    ended = chain.send(Retry(wait=0), drop, end=Flaky())
    assert ended.outcome == Dropped("unwanted", "drop")
    assert len(asked) == 1


def test_the_dead_letter_names_the_handler_and_not_the_filter() -> None:
    """Who failed is who is blamed, and the error is that of the last run."""
    bus = Bus(clock=Instant())

    def fails(message: Message) -> None:
        raise Boom("again")

    bus.subscribe("a", fails, filters=[Retry()])
    with running(bus):
        bus.publish("a")
        bus.drain(timeout=WAIT)
        (letter,) = bus.dead_letters.list()
    assert (letter.by, letter.error) == ("fails", "Boom: again")


def test_a_filter_alone_can_be_driven_by_hand() -> None:
    """It yields the message for each run, and a Pause between two."""
    message = Message("a")
    steps = Retry(wait=2.0, jitter=0.0).around(message)
    assert next(steps) is message
    assert steps.throw(Boom("1")).seconds == 2.0
    assert next(steps) is message
    with pytest.raises(StopIteration) as end:
        steps.send(Receipt(1))
    assert end.value.value == Receipt(1)


# --- waiting ------------------------------------------------------------------------------------------------------------


def test_waits_double_up_to_a_bound(chain: Chain) -> None:
    """1, 2, then 3 seconds for ever."""
    clock = Instant()
    chain.send(Retry(attempts=6, wait=1.0, max_wait=3.0, jitter=0.0), end=Flaky(*[Boom()] * 9), clock=clock)
    assert clock.slept == [1.0, 2.0, 3.0, 3.0, 3.0]


@pytest.mark.parametrize("jitter", [0.2, 1.0])
def test_a_wait_is_shortened_at_random_by_up_to_its_jitter(chain: Chain, jitter: float) -> None:
    """Those who failed together do not come back together; a seed makes it repeatable."""
    clock, retry, same = Instant(), Retry(attempts=50, wait=8.0, max_wait=8.0, jitter=jitter), random.Random(7)
    retry._random.seed(7)
    chain.send(retry, end=Flaky(*[Boom()] * 50), clock=clock)
    assert clock.slept == [8.0 * (1 - jitter * same.random()) for _ in range(49)]
    assert 8.0 * (1 - jitter) <= min(clock.slept) < 8.0 * (1 - 0.7 * jitter)
    assert 8.0 * (1 - 0.3 * jitter) < max(clock.slept) <= 8.0


def test_two_filters_wait_differently() -> None:
    """Each has a random source of its own, and none of them is the program's."""
    random.seed(7)
    state = random.getstate()
    waits = []
    for _ in range(2):
        clock = Instant()
        Chain("publish").send(Retry(attempts=9), end=Flaky(*[Boom()] * 9), clock=clock)
        waits.append(clock.slept)
    assert waits[0] != waits[1]
    assert random.getstate() == state


def test_endless_attempts_keep_to_the_longest_wait() -> None:
    """Doubling two thousand times is no number that can be waited for."""
    clock, end = Instant(), Flaky(*[Boom()] * 1999)
    assert Chain("publish").send(Retry(attempts=2000, jitter=0), end=end, clock=clock).outcome == Receipt(1)
    assert (len(clock.slept), clock.slept[-1]) == (1999, 10.0)


def test_each_message_begins_with_the_first_wait() -> None:
    """What one message has met does not slow the next one."""
    clock, retry = Instant(), Retry(attempts=3, wait=1.0, jitter=0.0)
    for _ in range(2):
        Chain("delivery").send(retry, end=Flaky(Boom(), Boom()), clock=clock)
    assert clock.slept == [1.0, 2.0, 1.0, 2.0]


def test_a_wait_gives_up_its_worker_s_slot() -> None:
    """With a pool of one worker, another handler runs while this one waits for its second run."""
    clock, handled = HandClock(), threading.Event()
    end = Flaky(Boom())
    with running(Bus(pool=1, clock=clock)) as bus:
        waits = bus.subscribe("waits", lambda message: end(message), filters=[Retry(wait=LONG, max_wait=LONG)])
        bus.subscribe("other", lambda message: handled.set())
        bus.publish("waits")
        clock.wait_until_waited_for()
        bus.publish("other")
        assert handled.wait(WAIT)
        assert (end.runs, waits.stats()["in_flight"]) == (1, 1)
        clock.advance(LONG)
        bus.drain(timeout=WAIT)
        assert (end.runs, waits.stats()["acknowledged"]) == (2, 1)


@pytest.mark.parametrize(
    ("retry", "waits"),
    [
        pytest.param(Retry(), True, id="the default"),
        pytest.param(Retry(wait=0), False, id="no wait"),
    ],
)
def test_only_a_filter_that_waits_is_refused_on_a_running_loop(retry: Retry, waits: bool) -> None:
    """`publish` would stop the loop for the time of the wait; without a wait it may run there."""
    bus = Bus()
    end = Flaky(Boom())
    bus.use(retry, Tap(end))

    async def main() -> Any:
        return bus.publish("a")

    with bus:
        if waits:
            with pytest.raises(PipelineError, match=r"Retry may wait.*apublish"):
                asyncio.run(main())
            assert end.runs == 0
        else:
            assert asyncio.run(main()) == Receipt(0)
            assert end.runs == 2


# --- what is tried again ------------------------------------------------------------------------------------------------

REFUSALS = [
    Rejected("somebody", "no"),
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
def test_what_would_be_refused_again_is_not_tried_again(chain: Chain, error: Exception) -> None:
    """Whatever `on` says: it comes out at once, and nobody has waited for it."""
    end, clock = Flaky(error), Instant()
    ended = chain.send(Retry(on=(PipebusError, Exception)), end=end, clock=clock)
    assert ended.error is error
    assert (end.runs, clock.slept) == (1, [])


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        *[(kind, asyncio.CancelledError()) for kind in KINDS],
        *[(kind, error) for kind in KINDS if kind != "apublish" for error in (KeyboardInterrupt(), SystemExit(3))],
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_ends_a_program_or_a_task_passes_untouched(kind: str, error: BaseException) -> None:
    """It is no failure of the rest: no second run, no wait. (In `apublish`, asyncio itself ends its loop with the others.)"""
    end, clock = Flaky(error), Instant()
    ended = Chain(kind).send(Retry(), end=end, clock=clock)
    assert ended.error is error
    assert (end.runs, clock.slept) == (1, [])


@pytest.mark.parametrize("on", [ConnectionError, (KeyError, ConnectionError), [ConnectionError]], ids=str)
def test_only_what_is_named_is_tried_again(chain: Chain, on: Any) -> None:
    """A class means its subclasses too; any other error comes out at once."""
    named, other = Flaky(ConnectionResetError()), Flaky(ValueError())
    assert chain.send(Retry(on=on, wait=0), end=named).outcome == chain.good
    assert named.runs == 2
    assert isinstance(chain.send(Retry(on=on, wait=0), end=other).error, ValueError)
    assert other.runs == 1


def test_an_error_that_is_not_named_ends_it_in_any_run(chain: Chain) -> None:
    """First the one that may pass, then one that will not."""
    end = Flaky(ConnectionError(), Rejected("somebody", "no"))
    ended = chain.send(Retry(attempts=9, wait=0, on=ConnectionError), end=end)
    assert (type(ended.error), end.runs) == (Rejected, 2)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_body_that_the_handler_s_type_refuses_is_a_dead_letter_at_once(colour: str) -> None:
    """It would be refused again: one run, no wait."""
    clock, runs = Instant(), []

    def takes_numbers(body: int) -> None:
        raise AssertionError("not reached")

    async def atakes_numbers(body: int) -> None:
        raise AssertionError("not reached")

    with running(Bus(clock=clock)) as bus:
        handler = takes_numbers if colour == "sync" else atakes_numbers
        bus.subscribe("a", handler, filters=[Retry(), Tap(runs.append)])
        bus.publish("a", "no number")
        bus.drain(timeout=WAIT)
        (letter,) = bus.dead_letters.list()
    assert letter.error.startswith("Rejected: ")
    assert (len(runs), clock.slept) == (1, [])


def test_a_refused_publish_reaches_its_publisher_at_once(through: Any) -> None:
    """`Validate` behind a Retry is asked once."""
    clock, runs = Instant(), []
    with pytest.raises(Rejected):
        through(Retry(), Tap(runs.append), Validate({"a": int}), Message("a", "no number"), clock=clock)
    assert (len(runs), clock.slept) == (1, [])


# --- publishing: what was accepted is not sent again --------------------------------------------------------------------


@around
def fails_on_the_way_back(message: Message) -> Any:
    yield message
    raise Boom("on the way back")


def test_what_was_accepted_is_not_sent_again_when_a_filter_fails_on_the_way_back(through: Any) -> None:
    """The publisher gets the error, the mailbox one message."""
    clock, passes = Instant(), []
    with pytest.raises(Boom):
        through(Retry(), Tap(passes.append), fails_on_the_way_back, Message("a"), clock=clock)
    assert (len(passes), clock.slept) == (1, [])


@every_way
def test_a_message_that_some_mailboxes_accepted_and_others_refused_is_not_sent_again(way: Way) -> None:
    """One of two is full: the other has it once, however many attempts are left."""
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
    """By the third attempt there is room."""
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
    """A receipt is a receipt, also one of no mailbox: it is not sent into the void a second time."""
    bus, passes = Bus(), []
    bus.use(Retry(wait=0), Tap(passes.append), fails_on_the_way_back)
    with bus, pytest.raises(Boom):
        bus.publish("a")
    assert (len(passes), bus.stats()["unrouted"]) == (1, 1)


def test_an_outer_retry_sees_what_an_inner_one_got_accepted(through: Any) -> None:
    """Accepted in the inner one, failed between the two: the outer one does not begin again."""
    clock, outside, inside = Instant(), [], Flaky(Boom("once"))
    with pytest.raises(Boom, match="on the way back"):
        through(Retry(), Tap(outside.append), fails_on_the_way_back, Retry(), Tap(inside), Message("a"), clock=clock)
    assert (len(outside), inside.runs) == (1, 2)


def test_an_outer_retry_runs_again_what_an_inner_one_gave_up(through: Any) -> None:
    """Three outer runs of two inner ones each."""
    end = Flaky(*[Boom()] * 5)
    assert through(Retry(wait=0), Retry(attempts=2, wait=0), Tap(end), Message("a")).outcome == Receipt(1)
    assert end.runs == 6


def test_an_inner_retry_looks_at_its_own_passes_only(through: Any) -> None:
    """A filter that sends a message twice: the first copy is accepted, which says nothing about the second."""

    @around
    def twice(message: Message) -> Any:
        yield message
        yield message.with_headers(copy="2")

    second = Flaky(Boom())
    passed = through(
        Retry(wait=0), twice, Retry(wait=0), when(lambda message: "copy" in message.headers, Tap(second)), Message("a")
    )
    assert [dict(message.headers) for message in passed.arrived] == [{}, {"copy": "2"}]
    assert second.runs == 2


@pytest.mark.parametrize("fails", [False, True], ids=["accepted", "failed"])
def test_one_publish_says_nothing_about_the_next(fails: bool) -> None:
    """The same thread publishes again: what was noted for the first message is forgotten, also when that one failed."""
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
    """Whether it went well or not."""
    bus = Bus()
    bus.use(Retry(wait=0), when("fails", fails_on_the_way_back))

    def publish() -> None:
        bus.publish("works")
        with pytest.raises(Boom):
            bus.publish("fails")

    context = contextvars.Context()
    with bus:
        context.run(publish)
    assert list(context) == []


@pytest.fixture
def copies() -> tuple[Bus, list[contextvars.Context]]:
    """A bus on which each message about "start" leaves a copy of its context: so would a task, or many a thread."""
    made: list[contextvars.Context] = []
    bus = Bus(clock=Instant())
    bus.use(when("start", Retry(), Tap(lambda message: made.append(contextvars.copy_context()))))
    return bus, made


def test_what_a_filter_has_started_publishes_like_anybody(copies: tuple[Bus, list[contextvars.Context]]) -> None:
    """What is accepted is not sent again."""
    bus, made = copies
    passes: list[Message] = []
    bus.use(when("later", Retry(), Tap(passes.append), fails_on_the_way_back))
    with bus:
        bus.publish("start")
        with pytest.raises(Boom):
            made[0].run(bus.publish, "later")
    assert len(passes) == 1


def test_what_a_filter_has_started_may_publish_twice_at_once(copies: tuple[Bus, list[contextvars.Context]]) -> None:
    """What one of these gets accepted during the wait of the other says nothing about that one."""
    bus, made = copies
    end = Flaky(Boom())
    bus.clock.meanwhile = lambda: made[1].run(bus.publish, "other")  # type: ignore[attr-defined]
    bus.use(Retry(), when("later", Tap(end)))
    mailbox = bus.subscribe(">")
    with bus:
        bus.publish("start")
        made.append(made[0].copy())
        assert made[0].run(bus.publish, "later") == Receipt(1)
    assert end.runs == 2
    assert_conserved(mailbox, accepted=3)


def test_notes_of_the_past_do_not_grow(copies: tuple[Bus, list[contextvars.Context]]) -> None:
    """A copy of the context may publish for ever: what the first message noted is not added to."""
    bus, made = copies
    bus.use(when(lambda message: message.body == "retried", Retry()))
    with bus:
        bus.publish("start")
        for _ in range(10):
            made[0].run(bus.publish, "other")
    assert made[0][links.accepted] == [Receipt(0)]


def test_what_is_accepted_during_the_wait_is_not_sent_again() -> None:
    """A filter left a pass behind on a thread and failed: by the end of the wait a mailbox has it. The filter is blamed."""
    threads: list[threading.Thread] = []
    gate = threading.Event()

    def meanwhile() -> None:
        gate.set()
        threads[0].join(WAIT)

    def leaves_behind(message: Message, call_next: Any) -> Any:
        def late() -> None:
            assert gate.wait(WAIT)
            call_next(message)

        threads.append(threading.Thread(target=contextvars.copy_context().run, args=(late,), daemon=True))
        threads[0].start()
        raise Boom("impatient")

    bus = Bus(clock=Instant(meanwhile))
    ear = Ear(bus)
    bus.use(Retry(), leaves_behind)
    mailbox = bus.subscribe("a")
    with bus, pytest.raises(Boom):
        bus.publish("a")
    assert len(threads) == 1
    assert_conserved(mailbox, accepted=1)
    assert [refused.by for refused in ear.of(Refused)] == ["leaves_behind"]


# --- deliveries: what was settled is not run again ----------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["sync", "async"])
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
    """The first settlement stands, also over an error raised later."""
    clock, runs = Instant(), []

    def handle(message: Message, delivery: Delivery) -> None:
        runs.append(delivery.attempt)
        settle(delivery)
        raise Boom("after it was settled")

    async def ahandle(message: Message, delivery: Delivery) -> None:
        handle(message, delivery)

    with running(Bus(clock=clock)) as bus:
        subscription = bus.subscribe("a", handle if colour == "sync" else ahandle, filters=[Retry()])
        bus.publish("a")
        bus.drain(timeout=WAIT)
        assert subscription.stats()[end] == 1
    assert (runs, clock.slept) == ([1], [])


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_delivery_that_was_given_back_comes_again_by_itself_alone(colour: str) -> None:
    """`delivery.retry()` and an error: the next taking is the mailbox's, not the filter's."""
    clock, runs = Instant(), []

    def handle(message: Message, delivery: Delivery) -> None:
        runs.append(delivery.attempt)
        if delivery.attempt == 1:
            delivery.retry()
            raise Boom("given back")

    async def ahandle(message: Message, delivery: Delivery) -> None:
        handle(message, delivery)

    with running(Bus(clock=clock)) as bus:
        bus.subscribe("a", handle if colour == "sync" else ahandle, filters=[Retry()])
        bus.publish("a")
        bus.drain(timeout=WAIT)
    assert (runs, clock.slept) == ([1, 2], [])


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_delivery_that_is_settled_during_the_wait_is_not_run_again(colour: str) -> None:
    """A handler may have given its delivery to another thread."""
    given: list[Delivery] = []
    clock = Instant(lambda: given[0].ack())

    def handle(message: Message, delivery: Delivery) -> None:
        given.append(delivery)
        raise Boom("but somebody else may do it")

    async def ahandle(message: Message, delivery: Delivery) -> None:
        handle(message, delivery)

    with running(Bus(clock=clock)) as bus:
        subscription = bus.subscribe("a", handle if colour == "sync" else ahandle, filters=[Retry(attempts=9)])
        bus.publish("a")
        bus.drain(timeout=WAIT)
        assert subscription.stats()["acknowledged"] == 1
    assert (len(given), len(clock.slept)) == (1, 1)


def test_what_a_handler_has_published_does_not_keep_it_from_being_run_again() -> None:
    """It must bear being run twice; its own publishes are its own business, whatever chain they pass."""
    end = Flaky(Boom())
    bus = Bus()
    bus.use(Retry(wait=0))

    def handle(message: Message) -> None:
        bus.publish("b")
        end(message)

    bus.subscribe("a", handle, filters=[Retry(wait=0)])
    other = bus.subscribe("b")
    with bus:
        bus.publish("a")
        bus.drain(timeout=WAIT)
        assert (end.runs, other.stats()["pending"]) == (2, 2)


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_publish_of_a_handler_that_has_settled_is_still_tried_again(colour: str) -> None:
    """Acknowledged first, then published: the publish chain's Retry looks at the publish."""
    end = Flaky(Boom())
    bus = Bus()
    bus.use(Retry(wait=0), when("b", Tap(end)))

    def handle(message: Message, delivery: Delivery) -> None:
        delivery.ack()
        bus.publish("b")

    async def ahandle(message: Message, delivery: Delivery) -> None:
        delivery.ack()
        await bus.apublish("b")

    bus.subscribe("a", handle if colour == "sync" else ahandle)
    other = bus.subscribe("b")
    with bus:
        bus.publish("a")
        bus.drain(timeout=WAIT)
        assert (end.runs, other.stats()["pending"]) == (2, 1)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize("works", [True, False], ids=["works", "fails"])
def test_figures_count_takings_and_not_runs(colour: str, works: bool) -> None:
    """However often it is run: one taking, one delivery; `attempts` bounds takings too."""
    end, attempts = Flaky(Boom(), Boom(), *[] if works else [Boom()]), []

    def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        end(message)

    async def ahandle(message: Message, delivery: Delivery) -> None:
        handle(message, delivery)

    with running() as bus:
        handler = handle if colour == "sync" else ahandle
        subscription = bus.subscribe("a", handler, attempts=1, filters=[Retry(attempts=3, wait=0)])
        bus.publish("a")
        bus.drain(timeout=WAIT)
        stats = subscription.stats()
        assert attempts == [1, 1, 1]
        assert (stats["accepted"], stats["acknowledged"], stats["dead"]) == ((1, 1, 0) if works else (1, 0, 1))
        assert [letter.attempts for letter in bus.dead_letters.list()] == ([] if works else [1])


def test_around_every_handler_each_subscription_has_its_own_runs() -> None:
    """One subscription's failure is not another's."""
    flaky, fine = Flaky(Boom()), Flaky()
    bus = Bus()
    bus.use(Retry(wait=0), at="delivery")
    bus.subscribe("a", lambda message: flaky(message))
    bus.subscribe("a", lambda message: fine(message))
    with running(bus):
        bus.publish("a")
        bus.drain(timeout=WAIT)
    assert (flaky.runs, fine.runs) == (2, 1)


# --- cancellation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["in the handler", "in the wait"])
def test_a_stop_that_cancels_a_handler_is_no_failed_attempt(where: str, logs: Any) -> None:
    """The message goes back as if it had not been taken: no further run, no dead letter, and the next start handles it."""
    attempts: list[int] = []
    waits = threading.Event()

    class Stuck(SystemClock):
        async def asleep(self, seconds: float) -> None:  # type: ignore[override]
            waits.set()
            await asyncio.Event().wait()

    async def handle(message: Message, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)
        if len(attempts) > 1:
            return
        if where == "in the wait":
            raise Boom("to be tried again")
        waits.set()
        await asyncio.Event().wait()

    bus = Bus(clock=Stuck())
    subscription = bus.subscribe("a", handle, name="slow", filters=[Retry()])
    bus.start()
    bus.publish("a")
    assert waits.wait(WAIT)
    report = bus.stop(timeout=0, drain=False)
    assert (report.left, report.abandoned, attempts) == ({"slow": 1}, (), [1])
    assert len(bus.dead_letters) == 0
    assert len(logs()) == (where == "in the wait")
    with bus:
        bus.drain(timeout=WAIT)
    assert attempts == [1, 1]
    assert subscription.stats()["acknowledged"] == 1
    assert_conserved(subscription, accepted=1)


@pytest.mark.parametrize("where", ["in the rest", "in the wait"])
def test_a_publisher_whose_task_is_cancelled_is_not_kept(where: str) -> None:
    """The cancellation comes out; nothing is tried again, nothing accepted."""
    runs: list[Message] = []

    async def main() -> None:
        stuck = asyncio.Event()

        class Stuck(SystemClock):
            async def asleep(self, seconds: float) -> None:  # type: ignore[override]
                stuck.set()
                await asyncio.Event().wait()

        async def rest(message: Message, call_next: Any) -> Any:
            runs.append(message)
            if where == "in the wait":
                raise Boom
            stuck.set()
            await asyncio.Event().wait()

        bus = Bus(clock=Stuck())
        bus.use(Retry(), rest)
        mailbox = bus.subscribe("a")
        async with bus:
            task = asyncio.create_task(bus.apublish("a"))
            await stuck.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert_conserved(mailbox, accepted=0)

    asyncio.run(main())
    assert len(runs) == 1


def test_a_stray_cancellation_of_a_handler_s_own_is_a_failure_that_is_not_tried_again() -> None:
    """Nobody cancelled anything: it is a dead letter, after one run."""
    end = Flaky(asyncio.CancelledError())

    async def handle(message: Message) -> None:
        end(message)

    with running() as bus:
        bus.subscribe("a", handle, filters=[Retry(wait=0)])
        bus.publish("a")
        bus.drain(timeout=WAIT)
        assert len(bus.dead_letters) == 1
    assert end.runs == 1


# --- the log ------------------------------------------------------------------------------------------------------------


def test_each_further_run_is_one_line(chain: Chain, logs: Any) -> None:
    """Who, which message, how often so far, how long it waits, and what went wrong; the last failure is others' to tell."""
    chain.send(Retry(attempts=3, wait=1.0, jitter=0.0), end=Flaky(Boom("1"), Boom("2"), Boom("3")), clock=Instant())
    lines = logs()
    assert [(line["attempt"], line["wait"], line["error"]) for line in lines] == [(1, 1.0, "Boom: 1"), (2, 2.0, "Boom: 2")]
    assert {line["filter"] for line in lines} == {"Retry"}
    assert {line["subject"] for line in lines} == {"a"}
    assert {line["log_level"] for line in lines} == {"warning"}
    assert len({line["id"] for line in lines}) == 1


@pytest.mark.parametrize(
    ("retry", "error"),
    [
        pytest.param(Retry(wait=0), None, id="it works"),
        pytest.param(Retry(wait=0), Rejected("x", "no"), id="it is refused"),
        pytest.param(Retry(wait=0, attempts=1), Boom(), id="no attempt is left"),
    ],
)
def test_what_is_not_tried_again_is_not_logged(chain: Chain, logs: Any, retry: Retry, error: Exception | None) -> None:
    """One line for each decision to run again, none for the others."""
    chain.send(retry, end=Flaky(*[error] if error else []))
    assert logs() == []


def test_a_filter_that_was_never_started_logs_nothing(logs: Any) -> None:
    """Tried alone in a test, it is silent."""
    steps = Retry(wait=0).around(Message("a"))
    next(steps)
    steps.throw(Boom())
    assert logs() == []


def test_a_logger_that_fails_changes_nothing() -> None:
    """The message is what matters."""

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
    """Code and config may write the same."""
    retry = Retry(wait="200ms", max_wait="1.5m")  # type: ignore[arg-type]
    assert (retry.wait, retry.max_wait) == (0.2, 90.0)


def test_the_defaults_are_three_runs_with_short_waits() -> None:
    """As the reference says."""
    retry = Retry()
    assert (retry.attempts, retry.wait, retry.max_wait, retry.jitter, retry.on) == (3, 0.1, 10.0, 0.2, Exception)


def test_a_bus_describes_it_by_its_settings() -> None:
    """`describe()` is JSON-safe, exception classes too."""
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


@pytest.mark.parametrize(
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
        ({"on": int}, r"Retry\.on=.*int.* is no exception class"),
        ({"on": ValueError("one")}, r"Retry\.on=ValueError\('one'\): .* is no exception class"),
        ({"on": (ValueError, "x")}, r"Retry\.on=.*'x' is no exception class"),
        ({"on": Rejected}, r"Retry\.on=.*Rejected is never tried again.*take it out"),
        ({"on": (ValueError, ContractError)}, r"Retry\.on=.*ContractError is never tried again"),
        ({"on": BaseException}, r"Retry\.on=.*BaseException ends what runs.*on=Exception"),
        ({"on": (ValueError, KeyboardInterrupt)}, r"Retry\.on=.*KeyboardInterrupt ends what runs"),
        ({"on": asyncio.CancelledError}, r"Retry\.on=.*CancelledError ends what runs"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_where_they_are_written(settings: dict[str, Any], text: str) -> None:
    """The error names the setting, what was found, and what to write."""
    with pytest.raises(PipelineError, match=text):
        Retry(**settings)

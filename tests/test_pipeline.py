"""The heart: how filters are distinguished, how chains nest, and what Transforms and Arounds can do in both colours."""

import asyncio
import functools
import json
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from pipebus import (
    Around,
    Bus,
    Call,
    Dropped,
    Message,
    Pause,
    Pipeline,
    PipelineError,
    Receipt,
    ReceiveTimeout,
    Rejected,
    Transform,
    around,
    branch,
    transform,
    when,
)
from pipebus.clock import SystemClock
from pipebus.events import Refused
from tables import table


class Boom(Exception):
    """A user's own error."""


class Abort(BaseException):
    """An error that is not an Exception."""


def passing(message, call_next):
    return call_next(message)


async def apassing(message, call_next):
    return await call_next(message)


def publish(bus, subject="x", body=None):
    return bus.publish(subject, body)


def apublish(bus, subject="x", body=None):
    return asyncio.run(bus.apublish(subject, body))


@pytest.fixture(params=["sync", "async", "apublish"])
def send(request):
    """Publish through a sync chain, through an async one from a thread, and through an async one from a coroutine."""

    def call(*filters, body=None, **options):
        bus = Bus(**options)
        bus.use(passing if request.param == "sync" else apassing)
        bus.use(*filters)
        bus.subscribe("x", name="reader")
        with bus:
            call.bus = bus
            return (apublish if request.param == "apublish" else publish)(bus, body=body)

    call.colour = "sync" if request.param == "sync" else "async"
    return call


def accepted(bus):
    """How many messages the mailbox of `send` took."""
    return bus.stats()["subscriptions"]["reader"]["accepted"]


def deliver(*filters, handler=lambda message: None, subject="x", **options):
    """One message through a delivery chain; the bus, for its stats and dead letters."""
    bus = Bus(**options)
    bus.use(*filters, at="delivery")
    bus.subscribe(subject, handler, name="worker")
    with bus:
        bus.publish("x")
        bus.drain(timeout=10)
    return bus


# --- shapes and colours ------------------------------------------------------------------------------------------------


class Callables:
    """A class with callables of every form."""

    def method(self, message, call_next):
        return call_next(message)

    async def amethod(self, message, call_next):
        return await call_next(message)

    @classmethod
    def of_class(cls, message, call_next):
        return call_next(message)

    @staticmethod
    async def static(message, call_next):
        return await call_next(message)

    def with_setting(self, setting, message, call_next):
        return call_next(message)


class CallableObject:
    def __call__(self, message, call_next):
        return call_next(message)


class AsyncCallableObject:
    async def __call__(self, message, call_next):
        return await call_next(message)


class NamedObject(CallableObject):
    name = "quota"


def with_setting(setting, message, call_next):
    return call_next(message)


async def awith_setting(setting, message, call_next):
    return await call_next(message)


def traced(function):
    @functools.wraps(function)
    def wrapper(message, call_next):
        return function(message, call_next)

    return wrapper


def says_async(message, call_next):
    return apassing(message, call_next)


says_async.colour = "async"


@transform
def looking(message):
    """Looks."""
    return message


@around
def wrapping(message):
    """Wraps."""
    return (yield message)


@dataclass(eq=False)
class Looking(Transform):
    setting: int = 1

    def transform(self, message):
        return message


class Wrapping(Around):
    name = "wrap"

    def around(self, message):
        return (yield message)


SHAPES = {
    "def": (passing, "plain", "sync", "passing"),
    "async def": (apassing, "plain", "async", "apassing"),
    "lambda": (lambda message, call_next: call_next(message), "plain", "sync", "<lambda>"),
    "bound method": (Callables().method, "plain", "sync", "method"),
    "async bound method": (Callables().amethod, "plain", "async", "amethod"),
    "class method": (Callables.of_class, "plain", "sync", "of_class"),
    "async static method": (Callables.static, "plain", "async", "static"),
    "object": (CallableObject(), "plain", "sync", "CallableObject"),
    "object with async __call__": (AsyncCallableObject(), "plain", "async", "AsyncCallableObject"),
    "object with a name": (NamedObject(), "plain", "sync", "quota"),
    "partial": (functools.partial(with_setting, 1), "plain", "sync", "with_setting"),
    "async partial": (functools.partial(awith_setting, 1), "plain", "async", "awith_setting"),
    "partial of partial": (functools.partial(functools.partial(awith_setting), 1), "plain", "async", "awith_setting"),
    "partial of a method": (functools.partial(Callables().with_setting, 1), "plain", "sync", "with_setting"),
    "partial of an object": (functools.partial(AsyncCallableObject()), "plain", "async", "AsyncCallableObject"),
    "decorated": (traced(passing), "plain", "sync", "passing"),
    "says so itself": (says_async, "plain", "async", "says_async"),
    "@transform": (looking, "transform", "both", "looking"),
    "Transform": (Looking(), "transform", "both", "Looking"),
    "@transform of a lambda": (transform(lambda message: message), "transform", "both", "<lambda>"),
    "@around": (wrapping, "around", "both", "wrapping"),
    "Around": (Wrapping(), "around", "both", "wrap"),
}


@table(("filter", "shape", "colour", "name"), SHAPES.values(), ids=SHAPES.keys())
def test_every_form_of_filter_is_told_apart_once_and_works(filter, shape, colour, name):
    """`describe()` shows the form, and a message passes the filter from a thread and from a coroutine."""
    bus = Bus()
    bus.use(filter)
    (described,) = bus.describe()["publish"]

    assert (described["shape"], described["colour"], described["filter"]) == (shape, colour, name)
    with bus:
        assert publish(bus) == Receipt(0)
        assert apublish(bus) == Receipt(0)


@table("filter", [passing, apassing, looking, wrapping, Looking(), CallableObject()], ids=lambda f: type(f).__name__)
def test_use_gives_a_single_filter_back_unchanged(filter):
    """`use` can therefore be a decorator, for every shape of filter."""
    assert Bus().use(filter) is filter


def test_use_gives_nothing_back_for_several_filters():
    """There is no single filter that `use` could decorate."""
    assert Bus().use(passing, looking) is None


def test_a_decorated_function_can_still_be_called():
    """A test of your own needs no bus: @transform and @around keep the function, its name and its docstring."""
    message = Message("x", 1)

    assert looking(message) is message
    assert list(wrapping(message)) == [message]
    assert [(f.__name__, f.__doc__) for f in (looking, wrapping)] == [("looking", "Looks."), ("wrapping", "Wraps.")]


def test_a_transform_may_be_a_method(send):
    """A transform may use the state of a user's own object, without a class of pipebus."""

    class Counter:
        seen = 0

        def count(self, message):
            self.seen += 1
            return message

    counter = Counter()
    send(transform(counter.count))

    assert counter.seen == 1


@pytest.mark.parametrize("shape", [Transform, Around], ids=lambda c: c.__name__)
def test_a_subclass_without_its_method_is_refused_where_it_is_registered(shape):
    """Such a filter could not do anything, so `use` refuses it by name."""

    class Empty(shape):
        pass

    with pytest.raises(PipelineError, match=f"filter Empty .* has no {shape.__name__.lower()}; define "):
        Bus().use(Empty())


# --- colours at publish ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [("passes", 0, "at least 1, or None"), ("passes", "many", "at least 1, or None"), ("may_drop", "no", "True or False")],
)
def test_a_declaration_with_a_wrong_value_is_refused_where_it_is_registered(name, value, says):
    """It would be taken for something else, and nobody would notice."""

    def split(message, call_next):
        return call_next(message)

    setattr(split, name, value)
    with pytest.raises(PipelineError, match=rf"filter split \(position 1 of .*test_pipeline.py.* has {name} = .*{says}"):
        Bus().use(split)


def test_a_sync_publish_over_an_async_chain_is_refused_on_an_event_loop():
    """It would stop the loop: the error names the filter, the subject, and `apublish`."""

    async def on_a_loop():
        with pytest.raises(PipelineError) as caught:
            bus.publish("orders.created")
        return str(caught.value)

    bus = Bus()
    bus.use(wrapping, apassing)
    with bus:
        text = asyncio.run(on_a_loop())

    assert text == (
        'filter apassing is async, so publish() on "orders.created" cannot run inside an event loop; '
        "use `await bus.apublish(…)`"
    )


@table(
    ("filters", "inline"),
    [
        (lambda note: (transform(note), wrapping), True),
        (lambda note: (transform(note), apassing), True),
        (lambda note: (transform(note), passing), True),
        (lambda note: (transform(note), Pausing(0.0)), True),
        (lambda note: (transform(note), passing, Pausing(0.0)), False),
    ],
    ids=["both", "async", "sync", "waits", "sync that waits"],
)
def test_apublish_leaves_its_loop_only_where_it_must(filters, inline):
    """Any chain runs on the caller's loop, except a sync one that may wait: that would stop it."""
    threads = []

    def note(message):
        threads.append(threading.current_thread())
        return message

    bus = Bus()
    bus.use(*filters(note))
    with bus:
        assert apublish(bus) == Receipt(0)

    assert (threads == [threading.current_thread()]) == inline


# --- chains as values --------------------------------------------------------------------------------------------------


def test_an_empty_pipeline_is_no_filter_at_all(send):
    """A chain of nothing passes everything."""
    assert send(Pipeline(), Pipeline(Pipeline(), when("x"))) == Receipt(1)


@pytest.mark.parametrize("form", [list, tuple, lambda filters: Pipeline(*filters)], ids=["list", "tuple", "Pipeline"])
def test_a_subscription_takes_its_filters_in_any_form(form):
    """The filters may be a list, a tuple, or a chain that is a value."""
    seen = []

    @transform
    def first(message):
        seen.append("first")
        return message

    @transform
    def second(message):
        seen.append("second")
        return message

    bus = Bus()
    bus.subscribe("x", lambda message: seen.append("handler"), filters=form([first, second]))
    with bus:
        bus.publish("x")
        bus.drain(timeout=10)

    assert seen == ["first", "second", "handler"]


def test_forks_are_values_too(send):
    """One `when` and one `branch` can each be used in two places."""
    seen = []

    @transform
    def note(message):
        seen.append("noted")
        return message

    detour, road = when("x", note), branch("x", note)

    assert send(detour, Pipeline(detour), when("x", road), Pipeline(note)) == Receipt(1)
    assert len(seen) == 3


def test_a_chain_is_described_as_it_was_written():
    """`describe` is data for JSON: nesting, settings, tests and rules are all there."""
    bus = Bus()
    bus.use(Pipeline(Looking(7), when("a.>", wrapping), on_error="drop"), branch(callable, looking))
    described = json.loads(json.dumps(bus.describe()["publish"]))

    pipeline, fork = described
    assert pipeline["pipeline"] == "drop"
    assert [node.get("filter", node.get("when")) for node in pipeline["filters"]] == ["Looking", "a.>"]
    assert pipeline["filters"][0]["settings"] == {"setting": 7}
    assert fork["branch"] == {"predicate": "builtins:callable"}
    assert [node["filter"] for node in fork["filters"]] == ["looking"]


# --- Around: the life of its generator ---------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3])
def test_stop_iteration_passes_an_around_as_the_same_object(depth):
    """A generator would turn it into a RuntimeError (PEP 479), but in a sync chain the very same error comes out."""
    error = StopIteration("the handler's")
    seen = []

    def raising(message):
        raise error

    def watch(message, call_next):
        try:
            return call_next(message)
        except BaseException as found:
            seen.append(found)
            raise

    bus = deliver(watch, *[wrapping] * depth, watch, handler=raising)

    assert seen == [error, error]
    assert [letter.error for letter in bus.dead_letters.list()] == ["StopIteration: the handler's"]


def test_stop_iteration_can_be_caught_by_an_around():
    """The error arrives at the `yield` like any other."""

    @around
    def catching(message):
        try:
            return (yield message)
        except StopIteration:
            return Dropped("caught")

    def raising(message):
        raise StopIteration

    bus = deliver(catching, handler=raising)

    assert bus.stats()["subscriptions"]["worker"]["dropped"] == {"caught": 1}


def test_a_stop_iteration_of_a_filter_s_own_is_its_own_error(send):
    """The filter is to blame in both colours, so its Pipeline's rule applies."""

    @transform
    def exhausted(message):
        return next(iter(()))

    outcome = send(wrapping, Pipeline(exhausted, on_error="drop"))

    assert isinstance(outcome, Dropped)
    assert outcome.by == "exhausted"


def test_an_around_that_runs_out_of_its_own_iterator_fails_as_python_says():
    """`next()` of an empty iterator inside a generator raises RuntimeError, as everywhere in Python."""

    @around
    def exhausted(message):
        next(iter(()))
        yield message

    bus = Bus()
    bus.use(exhausted)
    with bus, pytest.raises(RuntimeError, match="generator raised StopIteration"):
        bus.publish("x")


@pytest.mark.parametrize("error", [Boom, Abort, asyncio.CancelledError, KeyboardInterrupt], ids=lambda e: e.__name__)
def test_finally_of_an_around_runs_at_once(send, error):
    """Every error is thrown into the generator, so its clean-up is done before the next outer filter sees the error."""
    order = []
    raised = error("now")

    @around
    def outer(message):
        try:
            return (yield message)
        except BaseException as found:
            order.append(found)
            raise

    @around
    def inner(message):
        try:
            return (yield message)
        finally:
            order.append("finally")

    @transform
    def failing(message):
        raise raised

    with pytest.raises(error) as caught:
        send(outer, inner, failing)

    assert order == ["finally", raised]
    assert caught.value is raised


def test_finally_of_an_around_runs_when_it_broke_its_contract(send):
    """The generator receives the PipelineError at its `yield`, so its `except` and `finally` run."""
    order = []

    @around
    def broken(message):
        try:
            yield "no message"
        except PipelineError:
            order.append("except")
            raise
        finally:
            order.append("finally")

    with pytest.raises(PipelineError, match="filter broken yielded 'no message'"):
        send(broken)

    assert order == ["except", "finally"]


def test_an_around_may_go_on_after_an_error(send):
    """An Around that catches an error at its `yield` may `yield` again to run the rest again, which is a retry."""
    attempts = []

    @around
    def again(message):
        while True:
            try:
                return (yield message)
            except Boom:
                attempts.append("failed")

    @transform
    def flaky(message):
        if len(attempts) < 2:
            raise Boom("not yet")
        return message

    assert send(again, flaky) == Receipt(1)
    assert attempts == ["failed", "failed"]


@pytest.mark.parametrize("yields", [1, 2])
def test_a_bare_return_hands_the_last_outcome_on(send, yields):
    """The commonest end of an Around needs no value."""

    @around
    def quiet(message):
        for _ in range(yields):
            yield message

    assert send(quiet) == Receipt(1)
    assert accepted(send.bus) == yields


def test_an_around_sees_the_outcome_of_each_pass(send):
    """`yield` gives the outcome of this pass."""
    outcomes = []

    @around
    def watch(message):
        outcomes.append((yield message))
        outcomes.append((yield message))

    drops = [False, True]

    @transform
    def picky(message):
        return Dropped("second") if drops.pop(0) else message

    last = send(watch, picky)

    assert outcomes == [Receipt(1), Dropped("second", by="picky")]
    assert last == outcomes[-1]


def test_each_message_has_a_generator_of_its_own(send):
    """Two messages inside one Around at once do not share its local state."""
    inside = threading.Barrier(2, timeout=10)
    bodies = []

    @around
    def hold(message):
        held = message.body
        outcome = yield message
        bodies.append(held)
        return outcome

    @transform
    def meet(message):
        inside.wait()
        return message

    bus = Bus()
    bus.use(hold, meet)
    with bus:
        threads = [threading.Thread(target=bus.publish, args=("x", body)) for body in ("one", "two")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)

    assert sorted(bodies) == ["one", "two"]


# --- Pause -------------------------------------------------------------------------------------------------------------


class OwnClock(SystemClock):
    """A clock whose sleeps take no time and are recorded."""

    def __init__(self):
        self.slept = []

    def sleep(self, seconds):
        self.slept.append(seconds)

    async def asleep(self, seconds):
        self.slept.append(seconds)

    def wait(self, gate, timeout):
        if timeout != pytest.approx(30.0):
            return SystemClock.wait(gate, timeout)
        self.slept.append(round(timeout, 3))  # a pause, which a stop may end, and therefore not a sleep
        return False


class Pausing(Around):
    """Waits before it passes a message on."""

    waits = True

    def __init__(self, seconds, only=None):
        self.seconds = seconds
        self.only = only
        self.got = []

    def around(self, message):
        if self.only in (None, message.body):
            self.got.append((yield Pause(self.seconds)))
        return (yield message)


def test_a_pause_sleeps_by_the_bus_s_clock(send):
    """A test with its own clock does not wait in real time, in either colour."""
    clock, pausing = OwnClock(), Pausing(30.0)

    assert send(pausing, clock=clock) == Receipt(1)
    assert clock.slept == [30.0]
    assert pausing.got == [None]


def test_a_pause_around_a_handler_sleeps_by_the_bus_s_clock():
    """This holds on the delivery side too."""
    clock = OwnClock()
    bus = deliver(Pausing(30.0), clock=clock)

    assert clock.slept == [30.0]
    assert bus.stats()["subscriptions"]["worker"]["acknowledged"] == 1


def test_a_pause_in_an_async_chain_lets_others_pass():
    """Only this message waits, and the one behind it overtakes."""
    order = []

    @around
    def note(message):
        outcome = yield message
        order.append(message.body)
        return outcome

    async def both():
        return await asyncio.gather(bus.apublish("x", "slow"), bus.apublish("x", "quick"))

    bus = Bus()
    bus.use(note, Pausing(0.02, only="slow"))
    with bus:
        assert asyncio.run(both()) == [Receipt(0), Receipt(0)]

    assert order == ["quick", "slow"]


def test_a_pause_around_a_handler_gives_up_its_worker():
    """A pool of one can serve another subscription during the pause; otherwise the two would wait for each other."""
    served = threading.Event()

    class MeetingClock(SystemClock):
        @staticmethod
        def sleep(seconds):
            assert served.wait(timeout=10)

    order = []
    bus = Bus(pool=1, clock=MeetingClock())
    bus.subscribe("x", lambda message: order.append("paused"), filters=[Pausing(1.0)])
    bus.subscribe("y", lambda message: (order.append("other"), served.set()))
    with bus:
        bus.publish("x")
        bus.publish("y")
        bus.drain(timeout=10)

    assert order == ["other", "paused"]


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "not declared"])
def test_a_sync_publish_that_wants_to_wait_is_refused_on_an_event_loop(declared):
    """It would stop the loop: the error names the filter and `apublish`."""
    pausing = Pausing(0.01)
    pausing.waits = declared

    async def on_a_loop():
        with pytest.raises(PipelineError, match=r"filter Pausing .*event loop.*apublish"):
            bus.publish("x")
        return await bus.apublish("x")

    bus = Bus()
    bus.use(pausing)
    with bus:
        assert asyncio.run(on_a_loop()) == Receipt(0)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), "1"], ids=repr)
def test_an_impossible_pause_is_the_filter_s_error(send, seconds):
    """In both colours, the error passes through the filter, and its Pipeline's rule applies."""
    outcome = send(Pipeline(Pausing(seconds), on_error="drop"))

    assert isinstance(outcome, Dropped)
    assert outcome.by == "Pausing"


# --- Call --------------------------------------------------------------------------------------------------------------


class Limit(Around):
    """Bounds the time of the rest."""

    bounds = True

    def __init__(self, timeout, abandon=False, catch=False):
        self.timeout = timeout
        self.abandon = abandon
        self.catch = catch

    def around(self, message):
        try:
            return (yield Call(message, timeout=self.timeout))
        except TimeoutError:
            if self.catch:
                return Dropped("took too long")
            raise


@pytest.fixture(params=["sync", "async"])
def limit(request):
    """A Limit for a chain of this colour, and how to publish through one."""

    def make(timeout, **options):
        return Limit(timeout, abandon=request.param == "sync", **options)

    make.send = publish if request.param == "sync" else apublish
    make.passing = passing if request.param == "sync" else apassing
    make.colour = request.param
    return make


def test_a_call_that_is_in_time_gives_the_outcome(limit):
    """A limit that is not reached changes nothing."""
    bus = Bus()
    bus.use(limit(10.0), limit.passing)
    reader = bus.subscribe("x")
    with bus:
        assert limit.send(bus, body="as published") == Receipt(1)
        assert reader.receive(timeout=10).body == "as published"


@pytest.mark.parametrize("error", [Boom("b"), TimeoutError("the rest's own"), Rejected("no")], ids=lambda e: type(e).__name__)
def test_an_error_within_a_call_comes_out_as_the_same_object(limit, error):
    """The rest's own error is not mistaken for the limit."""

    @transform
    def failing(message):
        raise error

    bus = Bus()
    bus.use(limit(10.0), limit.passing, failing)
    with bus, pytest.raises(type(error)) as caught:
        limit.send(bus)

    assert caught.value is error


def test_a_call_that_takes_too_long_is_cancelled_in_an_async_chain():
    """The rest of the chain gets CancelledError, the filter gets TimeoutError, and the message goes nowhere."""
    seen = []

    async def waits(message, call_next):
        try:
            await asyncio.wait_for(asyncio.Event().wait(), timeout=10)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    bus = Bus()
    bus.use(Limit(0.01, catch=True), waits)
    reader = bus.subscribe("x")
    with bus:
        outcomes = [publish(bus), apublish(bus)]

    assert outcomes == [Dropped("took too long", by="Limit")] * 2
    assert seen == ["cancelled"] * 2
    assert reader.stats()["accepted"] == 0


def test_a_call_that_takes_too_long_is_left_behind_in_a_sync_chain():
    """With `abandon`, the publisher continues; the rest of the chain continues too, but its message is accepted only later."""
    go_on = threading.Event()
    threads = []

    def waits(message, call_next):
        threads.append(threading.current_thread())
        assert go_on.wait(timeout=10)
        return call_next(message)

    bus = Bus()
    bus.use(Limit(0.01, abandon=True, catch=True), waits)
    reader = bus.subscribe("x")
    with bus:
        outcome = bus.publish("x", "late")
        before = reader.stats()["accepted"]
        go_on.set()
        late = reader.receive(timeout=10)

    assert outcome == Dropped("took too long", by="Limit")
    assert (before, late.body) == (0, "late")
    assert threads[0].daemon
    assert "Limit" in threads[0].name


def test_a_time_out_that_nobody_catches_is_the_filter_s_error(limit):
    """The TimeoutError carries the limiting filter's name, and its Pipeline's rule applies."""
    go_on = threading.Event()

    def waits(message, call_next):
        assert go_on.wait(timeout=10)
        return call_next(message)

    async def awaits(message, call_next):
        await asyncio.wait_for(asyncio.Event().wait(), timeout=10)

    bus = Bus()
    bus.use(Pipeline(limit(0.01), on_error="drop"), waits if limit.colour == "sync" else awaits)
    with bus:
        try:
            outcome = limit.send(bus)
        finally:
            go_on.set()

    assert outcome == Dropped("drop: TimeoutError", by="Limit")


@pytest.mark.parametrize("subject", ["x", ">"], ids=["literal", "wildcard"])
def test_a_handler_that_takes_too_long_is_left_behind(subject):
    """The message is a dead letter at once, and the handler ends when it ends."""
    go_on, ended = threading.Event(), threading.Event()

    def slow(message):
        assert go_on.wait(timeout=10)
        ended.set()

    bus = Bus()
    bus.subscribe(subject, slow, name="slow", filters=[Limit(0.01, abandon=True)])
    with bus:
        bus.publish("x")
        bus.drain(timeout=10)
        (letter,) = bus.dead_letters.list()
        go_on.set()
        assert ended.wait(timeout=10)

    assert letter.error.startswith("TimeoutError")
    assert letter.by == "Limit"
    assert bus.stats()["subscriptions"]["slow"]["acknowledged"] == 0


def test_a_call_that_was_not_declared_is_refused_in_a_sync_chain():
    """A filter that yields Call without declaring it gets an error that says what to declare."""
    bus = Bus()
    limit = Limit(1.0)
    limit.bounds = False
    bus.use(passing, limit)
    with bus, pytest.raises(PipelineError, match=r"filter Limit yielded Call in a sync chain.*abandon=True"):
        bus.publish("x")


# --- on_error ----------------------------------------------------------------------------------------------------------


@transform
def failing(message):
    raise Boom("now")


@pytest.mark.parametrize("rule", [None, "reject"])
def test_on_error_reject_raises_to_the_publisher(send, rule):
    """The default is to fail closed: nothing is accepted, and the publisher gets the error."""
    with pytest.raises(Boom):
        send(Pipeline(failing, on_error=rule))

    assert accepted(send.bus) == 0
    assert send.bus.stats()["errors"] == {"Boom": 1}
    assert len(send.bus.dead_letters) == 0


def test_on_error_drop_counts_the_message_as_dropped(send):
    """The drop names the filter that failed, and its reason is the error's type."""
    outcome = send(Pipeline(failing, on_error="drop"))

    assert outcome == Dropped("drop: Boom", by="failing")
    assert send.bus.stats()["dropped"] == {"failing": {"drop: Boom": 1}}
    assert len(send.bus.dead_letters) == 0
    assert accepted(send.bus) == 0


def test_on_error_dead_letter_keeps_the_message(send):
    """The publisher gets `Dropped`; the letter has the error, the filter and the message."""
    outcome = send(Pipeline(failing, on_error="dead_letter"), body="kept")
    (letter,) = send.bus.dead_letters.list()

    assert outcome == Dropped("dead_letter: Boom", by="failing")
    assert (letter.subscription, letter.by, letter.error, letter.message.body) == ("publish", "failing", "Boom: now", "kept")
    assert "failing" in letter.traceback
    assert accepted(send.bus) == 0


def test_a_letter_of_the_publish_side_is_replayed_by_publishing_anew():
    """The message passes the whole chain again, once the fault is repaired."""
    wrong = [True]

    @transform
    def flaky(message):
        if wrong:
            raise Boom("now")
        return message

    bus = Bus()
    bus.use(Pipeline(flaky, on_error="dead_letter"))
    reader = bus.subscribe("x")
    with bus:
        bus.publish("x", "again")
        (letter,) = bus.dead_letters.list()
        wrong.clear()
        bus.dead_letters.replay(letter.id)
        received = reader.receive(timeout=10)

    assert received.body == "again"
    assert len(bus.dead_letters) == 0


@pytest.mark.parametrize("rule", ["drop", "dead_letter"])
def test_on_error_rules_no_error_that_passes_through(send, rule):
    """An error from further in is not the fault of the pipeline's filters, and passes the rule."""
    with pytest.raises(Boom):
        send(Pipeline(wrapping, looking, on_error=rule), failing)

    assert len(send.bus.dead_letters) == 0
    assert send.bus.stats()["dropped"] == {}


@pytest.mark.parametrize("rule", ["drop", "dead_letter"])
def test_on_error_rules_no_full_mailbox(rule):
    """The end of the chain is not one of the pipeline's filters, so its error reaches the publisher."""
    bus = Bus()
    bus.use(Pipeline(passing, on_error=rule))
    bus.subscribe("x", mailbox=1, overflow="reject")
    with bus:
        bus.publish("x")
        with pytest.raises(Exception, match="no room"):
            bus.publish("x")


def test_on_error_rules_what_stands_in_its_forks_and_inner_pipelines(send):
    """The rule applies to everything written inside the pipeline, unless an inner part has its own rule."""
    assert send(Pipeline(when("x", Pipeline(failing)), on_error="drop")) == Dropped("drop: Boom", by="failing")
    assert send(Pipeline(branch("x", failing), looking, on_error="drop")) == Dropped("drop: Boom", by="failing")


def test_on_error_rules_the_questions_of_its_forks(send):
    """A predicate that fails counts as an error of the chain that contains it."""

    def asks(message):
        raise Boom("now")

    assert send(Pipeline(when(asks, looking), on_error="drop")) == Dropped("drop: Boom", by="when(asks)")


def test_the_innermost_rule_counts(send):
    """The rule nearest to the filter wins, because its author knew the filter best."""
    assert send(Pipeline(Pipeline(failing, on_error="dead_letter"), on_error="drop")).reason == "dead_letter: Boom"
    assert send(Pipeline(Pipeline(failing, on_error="drop"), on_error="dead_letter")).reason == "drop: Boom"
    with pytest.raises(Boom):
        send(Pipeline(Pipeline(failing, on_error="reject"), on_error="drop"))


def test_on_error_rules_a_broken_contract_too(send):
    """A filter that returns nothing is an error of its own, like one that raises."""

    @transform
    def forgetful(message):
        """A filter that returns nothing."""

    assert send(Pipeline(forgetful, on_error="drop")).by == "forgetful"


@pytest.mark.parametrize("error", [Abort, KeyboardInterrupt, asyncio.CancelledError], ids=lambda e: e.__name__)
def test_on_error_rules_errors_not_interrupts(send, error):
    """An error that is not an Exception reaches the publisher, whatever the rule."""
    raised = error("now")

    @transform
    def interrupted(message):
        raise raised

    with pytest.raises(error) as caught:
        send(Pipeline(interrupted, on_error="drop"))

    assert caught.value is raised


def test_a_filter_outside_sees_what_the_rule_made_of_the_error(send):
    """An outer filter gets the drop as the outcome, not the error."""
    outcomes = []

    @around
    def watch(message):
        outcomes.append((yield message))

    send(watch, Pipeline(failing, on_error="drop"))

    assert outcomes == [Dropped("drop: Boom", by="failing")]


def test_an_error_that_a_rule_has_dealt_with_carries_no_old_blame():
    """One error object may be raised twice: observers hear of the second filter that raises it."""
    error = Boom("one object")
    blamed = []

    @transform
    def first(message):
        raise error

    @transform
    def second(message):
        raise error

    bus = Bus()
    bus.use(when("a", Pipeline(first, on_error="drop")), when("b", second))
    bus.observe(lambda event: blamed.append(event.by) if isinstance(event, Refused) else None)
    with bus:
        bus.publish("a")
        with pytest.raises(Boom):
            bus.publish("b")

    assert blamed == ["second"]


@pytest.mark.parametrize("rule", [None, "dead_letter"])
def test_on_error_dead_letter_is_what_a_delivery_does_anyway(rule):
    """The default around a handler is a dead letter of the subscription that failed."""
    bus = deliver(Pipeline(failing, on_error=rule))
    (letter,) = bus.dead_letters.list()
    stats = bus.stats()["subscriptions"]["worker"]

    assert (letter.subscription, letter.by, letter.error) == ("worker", "failing", "Boom: now")
    assert (stats["dead"], stats["dropped"]) == (1, {})


def test_on_error_drop_around_a_handler_counts_the_delivery_as_dropped():
    """The rule says that the delivery may be lost, so there is no dead letter."""
    bus = deliver(Pipeline(failing, on_error="drop"))
    stats = bus.stats()["subscriptions"]["worker"]

    assert (stats["dead"], stats["dropped"]) == (0, {"drop: Boom": 1})
    assert len(bus.dead_letters) == 0


@pytest.mark.parametrize("own", [False, True], ids=["bus-wide", "own"])
def test_on_error_drop_counts_the_message_of_a_reader_as_dropped_too(own):
    """A reader's transforms follow the same rule as a handler's filters."""
    chain = Pipeline(failing, on_error="drop")
    bus = Bus()
    if not own:
        bus.use(chain, at="delivery")
    reader = bus.subscribe("x", filters=chain if own else ())
    with bus:
        bus.publish("x")
        with pytest.raises(ReceiveTimeout):
            reader.receive(timeout=0)

    assert reader.stats()["dropped"] == {"drop: Boom": 1}
    assert len(bus.dead_letters) == 0


def test_on_error_drop_rules_no_error_of_the_handler():
    """The handler is not one of the Pipeline's filters, so its failure becomes a dead letter."""

    def handler(message):
        raise Boom("now")

    bus = deliver(Pipeline(looking, wrapping, on_error="drop"), handler=handler)

    assert [letter.by for letter in bus.dead_letters.list()] == ["handler"]


def test_an_explicit_dead_letter_inside_a_drop_is_a_dead_letter():
    """The innermost rule counts around a handler too, even if it states the default."""
    bus = deliver(Pipeline(Pipeline(failing, on_error="dead_letter"), on_error="drop"))

    assert [letter.by for letter in bus.dead_letters.list()] == ["failing"]
    assert bus.stats()["subscriptions"]["worker"]["dropped"] == {}


def test_an_around_may_have_at_alone() -> None:
    """It makes a generator function for each chain, so it needs no `around`."""

    class PerChain(Around):
        def at(self, place: str) -> Any:
            def around(message: Message) -> Any:
                return (yield message.with_headers(place=place))

            return around

    bus = Bus()
    bus.use(PerChain())
    with bus:
        inbox = bus.subscribe("s")
        bus.publish("s", 1)
        assert dict(inbox.receive(timeout=1).headers) == {"place": "publish"}

"""What the bus decides when it builds a chain, guarantees 8 to 11: composition, isolation, the life of filters, bad filters."""

import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from pipebus import (
    Around,
    Bus,
    BusNotStarted,
    Dropped,
    Handled,
    LifecycleError,
    Message,
    Pipeline,
    PipelineError,
    Receipt,
    Transform,
    around,
    branch,
    transform,
    when,
)
from pipebus.bus.bus import engine_of


def passing(message, call_next):
    return call_next(message)


async def apassing(message, call_next):
    return await call_next(message)


def named(name: str, seen: list[str]) -> Any:
    def filter(message, call_next):
        seen.append(name)
        return call_next(message)

    return filter


def handler(message):
    """A handler that does nothing."""


# --- 8. built once, frozen ---------------------------------------------------------------------------------------------


class Curious(Around):
    """A filter that counts how often somebody reads its attributes."""

    def __init__(self):
        self.asked = 0

    def _ask(self):
        self.asked += 1
        return False

    waits = bounds = reroutes = terminal = abandon = property(_ask)

    def around(self, message):
        return (yield message)


def test_s08_a_chain_is_composed_at_build_not_for_each_message(chain):
    """After the first message the bus only calls the filters, and does not inspect them again."""
    curious = Curious()
    with chain(curious, when("orders.>", curious), Pipeline(branch(lambda message: True, curious))) as running:
        running.send()
        before = curious.asked
        for _ in range(5):
            running.send()

    assert before > 0
    assert curious.asked == before


def test_s08_one_pipeline_used_twice_is_two_compiled_chains():
    """A chain is a value: its place in one chain does not affect its place in another."""
    seen: list[str] = []
    shared = Pipeline(named("shared", seen))
    bus = Bus()
    bus.use(branch("a", shared, named("after a", seen)), shared, named("after b", seen), shared)
    with bus:
        bus.publish("a")
        bus.publish("b")

    assert seen == ["shared", "after a", "shared", "after b", "shared"]


def test_s08_one_pipeline_may_serve_two_buses_and_both_sides():
    """It may be in the publish chain of a bus, around a handler, and in another bus at once."""
    seen: list[str] = []
    shared = Pipeline(named("shared", seen))
    one, other = Bus(), Bus()
    one.use(shared)
    other.subscribe("x", lambda message: seen.append("handler"), filters=shared)
    with one, other:
        one.publish("x")
        other.publish("x")
        other.drain(timeout=10)

    assert seen == ["shared", "shared", "handler"]


@pytest.mark.parametrize("side", ["publish", "delivery"])
def test_s08_chains_are_frozen_after_start(side):
    """`use` on a started bus raises, and the error says when to call it."""
    with Bus() as bus, pytest.raises(LifecycleError, match=r"frozen.*before start"):
        bus.use(passing, at=side)


def test_s08_messages_need_a_started_bus():
    """Before the start nothing is composed, and nothing can be published."""
    bus = Bus()

    with pytest.raises(BusNotStarted, match=r"with bus:"):
        bus.publish("x")


def test_s08_subscriptions_come_and_go_while_the_bus_runs():
    """A subscription or its end holds from the next message on, when the call returns."""
    seen = []
    with Bus() as bus:
        first = bus.publish("x")
        subscription = bus.subscribe("x", lambda message: seen.append(message.body))
        second = bus.publish("x", "heard")
        bus.drain(timeout=10)
        subscription.unsubscribe()
        third = bus.publish("x")

    assert [first, second, third] == [Receipt(0), Receipt(1), Receipt(0)]
    assert seen == ["heard"]


@pytest.mark.only(side="publish")
def test_s08_a_message_under_way_sees_the_routes_from_before_a_registration(chain, step):
    """A subscription that is made while a message passes the chain gets the next message, by literal subject or wildcard."""
    late = []

    def meanwhile(message):
        if not late:
            late.append(running.bus.subscribe("orders.created", name="late"))
            late.append(running.bus.subscribe("orders.*", name="later"))
        return (yield message)

    with chain(step(meanwhile)) as running:
        first = running.send().outcome
        second = running.send().outcome

    assert [first, second] == [Receipt(1), Receipt(3)]


@pytest.mark.parametrize("subjects", [["a", "b"], ["a", ">"], ["*", "b"]], ids=" ".join)
def test_s08_a_message_never_sees_half_of_a_registration(subjects):
    """A subscription to several subjects appears on all of them at once, and leaves them at once, while others publish."""

    def publish_while(change):
        counts, going, enough = [], threading.Event(), threading.Event()

        def publish():
            while not enough.is_set():
                counts.extend((bus.publish("a").mailboxes, bus.publish("b").mailboxes))
                going.set()

        publisher = threading.Thread(target=publish)
        publisher.start()
        assert going.wait(timeout=10)
        changed = change()
        going.clear()
        assert going.wait(timeout=10)
        enough.set()
        publisher.join(timeout=10)
        return counts, changed

    with Bus() as bus:
        for _ in range(10):
            coming, both = publish_while(lambda: bus.subscribe(subjects, mailbox=1, overflow="drop_oldest"))
            leaving, _ = publish_while(both.unsubscribe)

            assert coming == sorted(coming)
            assert leaving == sorted(leaving, reverse=True)
            assert {0, 1} == {*coming} == {*leaving}


# --- 9. branches are isolated ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fork", [when, branch], ids=lambda f: f.__name__)
@pytest.mark.parametrize("side", ["publish", "delivery"])
def test_s09_what_a_fork_holds_never_leaks_to_its_parent_or_siblings(side, fork):
    """A message passes only the filters of its own subject, whatever was sent before."""
    seen: list[str] = []
    bus = Bus()
    bus.use(fork("a", named("in a", seen)), fork("b", named("in b", seen)), named("last", seen), at=side)
    for subject in ("a", "b", "c"):
        bus.subscribe(subject, handler)
    roads = {}
    with bus:
        for subject in ("a", "b", "c", "b", "a"):
            seen.clear()
            bus.publish(subject)
            bus.drain(timeout=10)
            roads.setdefault(subject, []).append(list(seen))

    after = ["last"] if fork is when else []
    assert roads == {"a": [["in a", *after]] * 2, "b": [["in b", *after]] * 2, "c": [["last"]]}


def test_s09_what_a_branch_did_to_a_message_is_not_seen_beside_it(chain, step):
    """The filter in front of a fork still has the message that it passed on."""
    held = []

    def outer(message):
        outcome = yield message
        held.append(dict(message.headers))
        return outcome

    @transform
    def mark(message):
        return message.with_headers(marked="yes")

    result = chain.run(step(outer), when("orders.>", mark))

    assert held == [{}]
    assert [dict(message.headers) for message in result.received] == [{"marked": "yes"}]


def test_s09_subscriptions_do_not_see_each_other_s_filters():
    """Other subscribers do not see what the filters of one subscription do to a message."""
    seen = {}

    @transform
    def mark(message):
        return message.with_body("marked")

    bus = Bus()
    bus.subscribe("x", lambda message: seen.setdefault("one", message.body), filters=[mark])
    bus.subscribe("x", lambda message: seen.setdefault("two", message.body))
    with bus:
        bus.publish("x", "as published")
        bus.drain(timeout=10)

    assert seen == {"one": "marked", "two": "as published"}


# --- 10. state and life of filters -------------------------------------------------------------------------------------


@dataclass(eq=False)
class Count(Transform):
    """A Transform that counts the messages that pass."""

    passed: int = 0

    def transform(self, message):
        self.passed += 1
        return message


def test_s10_state_belongs_to_the_object(chain):
    """One object in two places counts the messages of both, and two objects count separately."""
    twice, once = Count(), Count()

    chain.run(twice, once, twice)

    assert (twice.passed, once.passed) == (2, 1)


@dataclass(eq=False)
class Living(Transform):
    """A filter that records when it starts and stops."""

    label: str
    life: list[str]
    fails: str = ""
    contexts: list[Any] = field(default_factory=list)

    def start(self, context):
        if self.fails == "start":
            raise RuntimeError(f"{self.label} cannot start")
        self.contexts.append(context)
        self.life.append(f"+{self.label}")

    def stop(self):
        self.life.append(f"-{self.label}")
        if self.fails == "stop":
            raise RuntimeError(f"{self.label} cannot stop")

    def transform(self, message):
        return message


class AsyncLiving(Living):
    async def start(self, context):  # the other colour
        super().start(context)

    async def stop(self):
        super().stop()


@pytest.fixture(params=[Living, AsyncLiving], ids=["sync", "async"])
def living(request):
    """A filter with a `start` and a `stop`, of both colours."""
    return request.param


def test_s10_filters_start_in_the_order_of_the_chain_and_stop_in_reverse(living):
    """This holds in the publish chain, the delivery chain, forks, and the chain of a subscription."""
    life: list[str] = []
    bus = Bus()
    bus.use(living("A", life), when("x", living("B", life)), branch("y", Pipeline(living("C", life))))
    bus.use(living("D", life), at="delivery")
    bus.subscribe("x", handler, filters=[living("E", life)])

    with bus:
        assert life == ["+A", "+B", "+C", "+D", "+E"]

    assert life[5:] == ["-E", "-D", "-C", "-B", "-A"]


def test_s10_an_object_in_many_places_starts_and_stops_once(living):
    """The bus starts each object once, and not once for each of its places."""
    life: list[str] = []
    shared = living("A", life)
    bus = Bus()
    bus.use(shared, when("x", shared), Pipeline(shared))
    bus.use(shared, at="delivery")
    bus.subscribe("x", handler, filters=[shared])

    with bus:
        bus.start()

    assert life == ["+A", "-A"]


def test_s10_start_happens_before_the_first_message_and_stop_after_the_last():
    """No message passes a filter that has not started, or that has stopped."""
    life: list[str] = []

    class Checked(Living):
        def transform(self, message):
            life.append("passed")
            return message

    bus = Bus()
    bus.use(Checked("A", life), at="delivery")
    bus.subscribe("x", handler)
    with bus:
        for _ in range(3):
            bus.publish("x")

    assert life == ["+A", "passed", "passed", "passed", "-A"]


def test_s10_a_filter_that_cannot_start_keeps_the_bus_from_starting(living):
    """`start` raises the error; filters that had started are stopped in reverse, and the others are left alone."""
    life: list[str] = []
    bus = Bus()
    broken = living("C", life, fails="start")
    bus.use(living("A", life), living("B", life), broken, living("D", life))

    with pytest.raises(RuntimeError, match="C cannot start"):
        bus.start()
    assert life == ["+A", "+B", "-B", "-A"]
    with pytest.raises(LifecycleError):
        bus.publish("x")

    broken.fails = ""
    with bus:
        assert bus.publish("x") == Receipt(0)
    assert life[4:] == ["+A", "+B", "+C", "+D", "-D", "-C", "-B", "-A"]


def test_s10_a_filter_that_cannot_stop_keeps_no_other_from_stopping(living):
    """The stop continues, and its report names the filter that failed."""
    life: list[str] = []
    bus = Bus()
    bus.use(living("A", life), living("B", life, fails="stop"), living("C", life))
    bus.start()

    report = bus.stop(timeout=10)

    assert life == ["+A", "+B", "+C", "-C", "-B", "-A"]
    assert len(report.errors) == 1
    assert "B cannot stop" in report.errors[0]


def test_s10_the_context_tells_a_filter_where_it_lives(living):
    """The context has the bus, its clock, a logger and the name of the filter."""
    bus = Bus()
    filter = living("A", [])
    filter.name = "quota"
    bus.use(filter)

    with bus:
        (context,) = filter.contexts

    assert context.bus is bus
    assert context.clock is engine_of(bus).clock
    assert context.name == "quota"
    assert callable(context.log.info)


def test_s10_filters_of_a_later_subscription_start_with_it(living):
    """If the bus runs, the filters of a new subscription start before its first message, and stop at the end."""
    life: list[str] = []
    with Bus() as bus:
        bus.subscribe("x", lambda message: life.append("handled"), filters=[living("A", life)])
        bus.publish("x")

    assert life == ["+A", "handled", "-A"]


def test_s10_a_filter_that_cannot_start_refuses_a_later_subscription(living):
    """`subscribe` raises the error, and nothing is subscribed."""
    with Bus() as bus:
        with pytest.raises(RuntimeError, match="A cannot start"):
            bus.subscribe("x", handler, name="late", filters=[living("A", [], fails="start")])

        assert bus.publish("x") == Receipt(0)


def test_s10_a_bus_that_is_started_again_starts_its_filters_again(living):
    """Each life of the bus starts and stops its filters once."""
    life: list[str] = []
    bus = Bus()
    bus.use(living("A", life))
    for _ in range(2):
        with bus:
            bus.publish("x")

    assert life == ["+A", "-A", "+A", "-A"]


def test_s10_publish_filters_are_called_by_all_publishers_at_once():
    """There is no lock around a filter: two publishers can be in one filter at the same time."""
    meeting = threading.Barrier(2, timeout=10)

    @transform
    def meet(message):
        meeting.wait()
        return message

    bus = Bus()
    bus.use(meet)
    outcomes = []
    with bus:
        publishers = [threading.Thread(target=lambda: outcomes.append(bus.publish("x"))) for _ in range(2)]
        for publisher in publishers:
            publisher.start()
        for publisher in publishers:
            publisher.join(timeout=10)

    assert outcomes == [Receipt(0), Receipt(0)]


# --- 11. bad filters fail where they are registered --------------------------------------------------------------------


class Waiting(Around):
    def around(self, message):
        return (yield message)


class Looking(Transform):
    def transform(self, message):
        return message


class Callable:
    def __call__(self, message, call_next):
        return call_next(message)


class AsyncTransform(Transform):
    async def transform(self, message):
        return message


class YieldingTransform(Transform):
    def transform(self, message):
        yield message


class NotYielding(Around):
    def around(self, message):
        return message


def one_parameter(message):
    return message


def three_parameters(message, call_next, more):
    return call_next(message)


def keyword_only(message, *, call_next):
    return call_next(message)


def generator(message, call_next):
    yield message


async def agenerator(message, call_next):
    yield message


BAD = {
    "a number": (42, "int", "is not callable", r"f\(message, call_next\)"),
    "None": (None, "NoneType", "is not callable", r"f\(message, call_next\)"),
    "one parameter": (one_parameter, "one_parameter", r"takes \(message\)", "@transform"),
    "three parameters": (three_parameters, "three_parameters", "takes", r"f\(message, call_next\)"),
    "keyword only": (keyword_only, "keyword_only", "takes", r"f\(message, call_next\)"),
    "a Transform's class": (Looking, "Looking", "is a class, not an instance", r"write Looking\(\)"),
    "an Around's class": (Waiting, "Waiting", "is a class, not an instance", r"write Waiting\(\)"),
    "a callable's class": (Callable, "Callable", "is a class, not an instance", r"write Callable\(\)"),
    "an async transform": (AsyncTransform(), "AsyncTransform", "async transform", r"async def f\(message, call_next\)"),
    "a yielding transform": (YieldingTransform(), "YieldingTransform", "yields", "@around"),
    "an around without yield": (NotYielding(), "NotYielding", "not a generator", "yield message"),
    "a generator": (generator, "generator", "generator", "@around"),
    "an async generator": (agenerator, "agenerator", "generator", "@around"),
}


def _use(filter):
    bus = Bus()
    return (lambda: bus.use(passing, filter)), "use"


def _use_at_delivery(filter):
    bus = Bus()
    return (lambda: bus.use(passing, filter, at="delivery")), "use"


def _subscribe(filter):
    bus = Bus()
    return (lambda: bus.subscribe("x", handler, filters=[passing, filter])), "filters of handler"


def _pipeline(filter):
    return (lambda: Pipeline(passing, filter)), "Pipeline"


def _when(filter):
    return (lambda: when("x", passing, filter)), "when"


def _branch(filter):
    return (lambda: branch("x", passing, filter)), "branch"


@pytest.mark.parametrize(("filter", "name", "problem", "remedy"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize(
    "register", [_use, _use_at_delivery, _subscribe, _pipeline, _when, _branch], ids=lambda f: f.__name__[1:]
)
def test_s11_a_bad_filter_fails_where_it_is_registered(register, filter, name, problem, remedy):
    """`use` raises at once, with the filter's name, its position, the file and line of the call, and what to do."""
    call, within = register(filter)
    line = call.__code__.co_firstlineno

    with pytest.raises(PipelineError, match=problem) as caught:
        call()

    text = str(caught.value)
    assert text.startswith(f"filter {name} (position 2 of {within} at {__file__}:{line})")
    assert caught.match(remedy)


@pytest.mark.parametrize("first", [passing, apassing], ids=["sync first", "async first"])
def test_s11_a_plain_sync_filter_in_an_async_chain_is_refused(first):
    """Such a filter can be neither called nor awaited: the error names it, its position, the line, and both remedies."""
    second = apassing if first is passing else passing
    position = 1 if first is passing else 2
    line = sys._getframe().f_lineno + 2
    with pytest.raises(PipelineError) as caught:
        Bus().use(first, second)

    text = str(caught.value)
    assert "filter passing" in text
    assert f"position {position}" in text
    assert f"{__file__}:{line}" in text
    assert "async def" in text
    assert "@transform" in text
    assert "@around" in text


def test_s11_a_bad_filter_leaves_the_chain_as_it_was():
    """A refused `use` adds nothing."""
    bus = Bus()
    bus.use(passing)
    with pytest.raises(PipelineError):
        bus.use(Count(), 42)
    with pytest.raises(PipelineError):
        bus.use(apassing)

    assert [node["filter"] for node in bus.describe()["publish"]] == ["passing"]


def test_s11_a_refused_subscription_leaves_no_trace():
    """Neither the name nor the mailbox of a refused subscription stays behind."""
    bus = Bus()
    with pytest.raises(PipelineError):
        bus.subscribe("x", handler, name="billing", filters=[42])

    bus.subscribe("x", handler, name="billing")
    with bus:
        assert bus.publish("x") == Receipt(1)


@pytest.mark.parametrize(
    ("filter", "side", "outcome"),
    [
        (lambda message, call_next: Dropped("by a lambda"), "publish", Dropped("by a lambda", by="<lambda>")),
        (lambda message, call_next=None: call_next(message), "publish", Receipt(0)),
        (lambda *arguments: arguments[1](arguments[0]), "publish", Receipt(0)),
    ],
    ids=["lambda", "default", "varargs"],
)
def test_s11_whatever_can_be_called_with_two_arguments_is_a_filter(filter, side, outcome):
    """The check refuses filters that cannot work, not filters that look unusual."""
    bus = Bus()
    bus.use(filter, at=side)

    with bus:
        assert bus.publish("x") == outcome


def test_s11_a_filter_of_the_delivery_chain_returns_handled():
    """The outcome of a delivery is `Handled(value)`, and a filter may replace the value."""
    values = []

    def outer(message, call_next):
        values.append(call_next(message))
        return values[0]

    def inner(message, call_next):
        return Handled(call_next(message).value + 1)

    bus = Bus()
    bus.subscribe("x", lambda message: 41, filters=[outer, inner])
    with bus:
        bus.publish("x")
        bus.drain(timeout=10)

    assert values == [Handled(42)]


@around
def of_two(message: Message, call_next: Any) -> Any:
    yield message


class OfNothing(Around):
    def around(self) -> Any:  # type: ignore[override]
        yield


@pytest.mark.parametrize(
    ("filter", "takes"),
    [(of_two, r"of_two .* takes \(message: .*, call_next: .*\)"), (OfNothing(), r"OfNothing .* takes \(\)")],
)
def test_s11_an_around_of_another_form_is_refused_where_it_is_registered(filter: Around, takes: str) -> None:
    """`use` refuses a generator that takes no argument, or more than the message, because it would fail for each message."""
    with pytest.raises(PipelineError, match=f"filter {takes}.*; its form is around\\(message\\)"):
        Bus().use(filter)

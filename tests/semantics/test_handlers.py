"""
`Handlers`: subscriptions that a module declares before a bus exists, and `bus.include`, which makes them (guarantees 11, 26).
`Publisher` and `Receiver`: types for code that only sends or only reads.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from actor_helpers import Asked
from flow_helpers import WAIT, Hold, InThread, boom, fine, hasty_threads, running, wait_until
from pipebus import (
    Bus,
    BusClosed,
    Delivery,
    Dropped,
    Handlers,
    Message,
    PipelineError,
    Publisher,
    Receipt,
    Receiver,
    Ref,
    Subject,
    SubjectError,
    SubscriptionError,
    UnsupportedCapability,
    transform,
)
from tables import table
from values_helpers import named


@dataclasses.dataclass
class Order:
    id: int


def line_of(function: Any) -> int:
    """The line of the function's decorator."""
    return inspect.getsourcelines(function)[1]


# --- parameters ----------------------------------------------------------------------------------------------------------


def test_s19_a_delivery_with_a_type_is_refused() -> None:
    """Its body would not be validated, so the error says how to ask for one."""

    def handle(delivery: Delivery[Order]) -> None: ...

    with pytest.raises(SubscriptionError, match=r"delivery is a .*Delivery\[.*Order\].*write Delivery without a type"):
        Bus().subscribe("orders", handle)


# --- include -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when_included", ["before-start", "after-start", "stopped"])
def test_s26_included_handlers_handle(when_included: str) -> None:
    """Handlers of every form work, before and after the start, from the moment when `include` returns."""
    handlers = Handlers()
    given: list[Any] = []

    @handlers.on("orders.created")
    def takes_body(order: Order) -> None:
        given.append(("body", order))

    @handlers.on(["orders.*", "bills"])
    def takes_message(message: Message) -> None:
        given.append(("message", message.subject))

    @handlers.on(Subject[Order]("orders.created"))
    async def awaits(order: Order, bus: Bus, delivery: Delivery) -> None:
        given.append(("async", order, bus.state, delivery.attempt))

    bus = Bus()
    if when_included == "stopped":
        with bus:
            pass
    if when_included != "after-start":
        bus.include(handlers)
    with running(bus):
        if when_included == "after-start":
            bus.include(handlers)
        assert bus.publish("orders.created", {"id": 1}) == Receipt(3)
        assert bus.publish("bills") == Receipt(1)
        bus.drain(WAIT)

    assert sorted(given, key=str) == sorted(
        [("body", Order(1)), ("message", "orders.created"), ("message", "bills"), ("async", Order(1), "started", 1)], key=str
    )


def test_s26_options_are_those_of_on() -> None:
    """`describe` shows the name, filters, workers, mailbox and the rest as if `bus.on` had made the subscription."""

    @transform
    def double(message: Message) -> Message:
        return message.with_body(message.body * 2)

    options: dict[str, Any] = {
        "name": "billing", "filters": [double], "to": "answers", "workers": 3, "run": "pool", "mailbox": 7,
        "overflow": "reject", "overflow_timeout": 1.5, "attempts": 5, "deliver": "new",
    }  # fmt: skip

    def bill(message: Message) -> Any:
        return message.body

    handlers, by_include, by_on = Handlers(), Bus(), Bus()
    handlers.on("orders.>", **options)(bill)
    by_include.include(handlers)
    by_on.on("orders.>", **options)(bill)

    def told(bus: Bus) -> dict[str, Any]:
        (described,) = bus.describe()["subscriptions"]
        return {key: value for key, value in described.items() if key not in ("place", "filters")} | {
            "filters": [step["filter"] for step in described["filters"]]
        }

    assert told(by_include) == told(by_on)
    assert told(by_include)["filters"] == ["double"]
    with running(by_include) as bus:
        answers = bus.subscribe("answers")
        bus.publish("orders.created", 21)
        assert answers.receive(timeout=WAIT).body == 42


def test_s26_what_is_not_said_is_what_on_would_take() -> None:
    """Without any option, the defaults are those of `subscribe`."""
    handlers, by_include, by_on = Handlers(), Bus(), Bus()
    handlers.on("s")(fine)
    by_include.include(handlers)
    by_on.on("s")(fine)

    (one,), (other,) = (bus.describe()["subscriptions"] for bus in (by_include, by_on))
    assert {**one, "place": None} == {**other, "place": None}


def test_s26_handlers_may_be_included_in_several_buses() -> None:
    """Each bus has subscriptions of its own."""
    handlers = Handlers()
    given: list[Any] = []

    @handlers.on("s", name="one")
    def handle(message: Message, bus: Bus) -> None:
        given.append((bus.name, message.body))

    buses = [Bus(name=name) for name in ("a", "b")]
    for bus in buses:
        bus.include(handlers)
        with running(bus):
            bus.publish("s", 1)

    assert given == [("a", 1), ("b", 1)]
    assert buses[0].subscriptions[0] is not buses[1].subscriptions[0]


def test_s26_several_handlers_may_be_included_at_once() -> None:
    """`include` takes several handlers, in the order in which they are given, or none."""
    one, two = Handlers(), Handlers()
    one.on("a")(fine)
    two.on("b")(fine)
    two.on("c")(fine)
    bus = Bus()
    bus.include()
    bus.include(one, two)

    assert [next(iter(found.patterns)) for found in sorted(bus.subscriptions, key=lambda s: s.name)] == ["a", "b", "c"]


def test_s26_one_function_may_be_registered_under_several_subjects() -> None:
    """Decorators may be stacked, and each of them makes a subscription."""
    handlers = Handlers()
    hold = Hold(open=True)

    @handlers.on("a", name="first")
    @handlers.on("b", name="second")
    def handle(message: Message) -> None:
        hold(message)

    bus = Bus()
    bus.include(handlers)
    with running(bus):
        bus.publish("a", 1)
        bus.publish("b", 2)
        bus.drain(WAIT)

    assert sorted(hold.given) == [1, 2]
    assert sorted(one.name for one in bus.subscriptions) == ["first", "second"]


def test_s26_on_returns_the_function_unchanged() -> None:
    """`on` returns the very function, which can be called as before."""
    handlers = Handlers()

    def handle(order: Order) -> int:
        return order.id

    async def ahandle(order: Order) -> int:
        return order.id

    assert handlers.on("s")(handle) is handle
    assert handlers.on("s")(ahandle) is ahandle
    assert handle(Order(5)) == asyncio.run(ahandle(Order(5))) == 5


def test_s26_objects_may_be_subscribed_to() -> None:
    """A handler may subscribe to a `Ref`, where the transport supports it."""
    target = object()
    handlers = Handlers()
    hold = Hold(open=True)
    handlers.on(Ref(target))(hold)
    bus = Bus()
    bus.include(handlers)
    with running(bus):
        bus.publish(Ref(target), "mail")
        bus.drain(WAIT)
    assert hold.given == ["mail"]

    with pytest.raises(UnsupportedCapability):
        Bus("memory:?wire=json").include(handlers)


def test_s10_a_filter_actor_of_an_included_subscription_is_spawned() -> None:
    """`include` spawns a filter actor of a subscription, as `subscribe` does."""
    actor = Asked()
    handlers = Handlers()
    handlers.on("s", filters=[actor])(fine)
    bus = Bus()
    bus.include(handlers)
    with running(bus):
        bus.publish("s", 1)
        bus.drain(WAIT)

    assert actor.questions == [1]
    assert actor.bus is bus


# --- the place where it was written down -------------------------------------------------------------------------------


def test_s11_describe_names_the_line_where_a_handler_was_written_down() -> None:
    """`describe` gives the line of the decorated handler, and not the line of `include`."""
    handlers = Handlers()

    @handlers.on("s")
    def handle(message: Message) -> None: ...

    bus = Bus()
    bus.include(handlers)
    (described,) = bus.describe()["subscriptions"]

    assert described["place"].endswith(f"test_handlers.py:{line_of(handle)}")


def _no_form(handlers: Handlers) -> Any:
    @handlers.on("s")
    def handle(message: Message | None) -> None: ...

    return handle


def _two_bodies(handlers: Handlers) -> Any:
    @handlers.on("s")
    def handle(a: int, b: str) -> None: ...

    return handle


def _bad_option(handlers: Handlers) -> Any:
    @handlers.on("s", workers=0)
    def handle(message: Message) -> None: ...

    return handle


def _bad_name(handlers: Handlers) -> Any:
    @handlers.on("s", name="")
    def handle(message: Message) -> None: ...

    return handle


def _taken_name(handlers: Handlers) -> Any:
    @handlers.on("s", name="taken")
    def handle(message: Message) -> None: ...

    return handle


def _bad_run(handlers: Handlers) -> Any:
    @handlers.on("s", run="pool")
    async def handle(message: Message) -> None: ...

    return handle


def _bad_filter(handlers: Handlers) -> Any:
    @handlers.on("s", filters=[5])
    def handle(message: Message) -> None: ...

    return handle


def _bare_filter(handlers: Handlers) -> Any:
    @handlers.on("s", filters=fine)  # type: ignore[call-overload]
    def handle(message: Message) -> None: ...

    return handle


def _bad_to(handlers: Handlers) -> Any:
    @handlers.on("s", to="a.*")
    def handle(message: Message) -> None: ...

    return handle


MISTAKES = [_no_form, _two_bodies, _bad_option, _bad_name, _taken_name, _bad_run, _bad_filter, _bare_filter, _bad_to]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__.strip("_").replace("_", "-"))
@pytest.mark.parametrize("started", [False, True], ids=["new", "started"])
def test_s11_errors_name_the_line_where_a_handler_was_written_down(mistake: Callable[..., Any], started: bool) -> None:
    """`include` makes all subscriptions or none: the handlers before the bad one are not subscribed, and their filter actors
    are not spawned. Once the reason is gone, all of them can be included."""
    handlers = Handlers()
    actor = Asked()
    handlers.on("before", name="before", filters=[actor])(fine)
    handle = mistake(handlers)
    handlers.on("after", name="after")(fine)
    bus = Bus()
    taken = bus.subscribe("elsewhere", fine, name="taken")
    if started:
        bus.start()

    for _ in range(2):
        with pytest.raises((SubscriptionError, PipelineError), match=rf"test_handlers.py:{line_of(handle)}\b"):
            bus.include(handlers)
        assert [one.name for one in bus.subscriptions] == ["taken"]

    if mistake is _taken_name:
        taken.unsubscribe()
        bus.include(handlers)
        assert sorted(one.name for one in bus.subscriptions if one.name != "asked") == ["after", "before", "taken"]
        with running(bus):
            assert bus.publish("s") == bus.publish("before") == Receipt(1)
    bus.stop(WAIT)


def test_s11_an_include_that_fails_touches_nobody_elses_subscription() -> None:
    """A subscription that another thread makes meanwhile stays."""
    bus = Bus()
    bus.subscribe("elsewhere", fine, name="taken")
    going, enough = threading.Event(), threading.Event()

    def include() -> None:
        while not enough.is_set():
            handlers = Handlers()
            handlers.on("a", name="first")(fine)
            handlers.on("b", name="taken")(fine)
            with pytest.raises(SubscriptionError, match="exists already"):
                bus.include(handlers)
            going.set()

    with running(bus), hasty_threads():
        including = InThread(include)
        assert going.wait(WAIT)
        for _ in range(500):
            mine = bus.subscribe("mine", fine, name="mine")
            assert {bus.publish("mine") for _ in range(20)} == {Receipt(1)}
            mine.unsubscribe()
        enough.set()
        including.result()


def test_s11_of_several_handlers_those_that_cannot_be_included_leave_the_others_as_they_were() -> None:
    """Each `Handlers` is included completely or not at all: those before the bad one are included, and the error says so."""
    good, bad, later = Handlers(), Handlers(), Handlers()
    good.on("good", name="good")(fine)
    bad.on("bad", name="bad")(fine)
    bad.on("bad", name="good")(fine)
    later.on("later", name="later")(fine)
    bus = Bus()

    with pytest.raises(SubscriptionError, match='"good"'):
        bus.include(good, bad, later)

    assert [one.name for one in bus.subscriptions] == ["good"]
    with pytest.raises(SubscriptionError, match="included already"):
        bus.include(good)
    bus.include(later)


BAD: dict[str, tuple[Callable[[Handlers], object], type[Exception], str]] = {
    "empty-token": (lambda h: h.on("a..b"), SubjectError, "empty token"),
    "rest-inside": (lambda h: h.on("a.>.b"), SubjectError, "last token"),
    "in-a-list": (lambda h: h.on(["a", "b..c"]), SubjectError, "empty token"),
    "empty": (lambda h: h.on(""), SubjectError, "empty"),
    "option": (lambda h: h.on("a", wokers=2), TypeError, "wokers.*workers"),
}


@table(("call", "error", "text"), BAD.values(), ids=BAD)
def test_s11_what_can_be_told_at_once_is(call: Callable[[Handlers], object], error: type[Exception], text: str) -> None:
    """A bad pattern or a misspelt option raises where it is written, when its module is imported."""
    with pytest.raises(error, match=text):
        call(Handlers())


@table(
    ("subject", "handler", "error"),
    [
        (5, fine, SubjectError),
        (None, fine, SubjectError),
        ([], fine, SubscriptionError),
        (["a", 5], fine, SubjectError),
        ("a", 5, SubscriptionError),
        ("a", Order, SubscriptionError),
        ("a", "fine", SubscriptionError),
    ],
    ids=["number", "none", "no-subject", "number-in-list", "no-function", "class", "text"],
)
def test_s11_other_mistakes_are_told_by_include_at_the_latest(subject: Any, handler: Any, error: type[Exception]) -> None:
    """`include` raises, and leaves the bus as it was."""
    bus = Bus()
    handlers = Handlers()

    def register() -> None:
        handlers.on(subject)(handler)
        bus.include(handlers)

    with pytest.raises(error):
        register()
    assert bus.subscriptions == []


# --- twice, too late ---------------------------------------------------------------------------------------------------


def test_s11_including_the_same_handlers_twice_is_an_error() -> None:
    """A second `include` would handle each message twice, so it raises."""
    handlers = Handlers()
    handlers.on("s")(fine)
    bus = Bus()
    bus.include(handlers)

    for again in (lambda: bus.include(handlers), lambda: Bus().include(handlers, handlers)):
        with pytest.raises(SubscriptionError, match="included already"):
            again()
    assert len(bus.subscriptions) == 1


def test_s11_a_handler_that_comes_after_include_is_told() -> None:
    """The bus would not notice such a handler, so `on` raises, with the function and its line."""
    handlers = Handlers()
    register = handlers.on("s")
    bus = Bus()
    bus.include(handlers)

    def late(message: Message) -> None: ...

    with pytest.raises(SubscriptionError, match=r"late \(at .*test_handlers.py:\d+\) comes too late"):
        register(late)
    with pytest.raises(SubscriptionError, match="comes too late"):
        handlers.on("other")(late)
    assert bus.subscriptions == []


@table("found", [5, fine, Handlers, None, [Handlers()], Bus()], ids=named)
def test_s11_include_takes_handlers(found: Any) -> None:
    """`include` takes an instance: a function is for `subscribe`, and a class is not an instance."""
    with pytest.raises(SubscriptionError, match="include takes Handlers"):
        Bus().include(found)


def test_s25_a_bus_that_drains_includes_nothing_and_may_later() -> None:
    """A bus that drains takes no more subscriptions, and a stopped one does."""
    handlers = Handlers()
    handlers.on("s", name="late")(fine)
    with running() as bus:
        hold = Hold()
        bus.subscribe("work", hold)
        bus.publish("work")
        hold.wait_started()
        stop = InThread(bus.stop, WAIT)
        wait_until(lambda: bus.state == "draining", "the bus drains")
        with pytest.raises(BusClosed):
            bus.include(handlers)
        hold.open()
        stop.result()

        bus.include(handlers)
        bus.start()
        assert bus.publish("s") == Receipt(1)


def test_s19_an_included_handlers_error_is_a_dead_letter_with_its_name() -> None:
    """An error of an included handler makes a dead letter like an error of any other handler."""
    handlers = Handlers()
    handlers.on("s", name="fails")(boom)
    bus = Bus()
    bus.include(handlers)
    with running(bus):
        bus.publish("s")
        bus.drain(WAIT)

        (letter,) = bus.dead_letters.list()
        assert (letter.subscription, letter.by) == ("fails", "boom")


def test_s25_handlers_do_not_keep_their_buses_alive() -> None:
    """The handlers of a module live as long as the program, but they do not keep a test's bus alive."""
    handlers = Handlers()
    handlers.on("s")(fine)
    bus = Bus()
    bus.include(handlers)
    with running(bus):
        bus.publish("s")
    seen = weakref.ref(bus)
    del bus

    wait_until(lambda: gc.collect() >= 0 and seen() is None, "it is collected")
    Bus().include(handlers)


# --- Publisher and Receiver --------------------------------------------------------------------------------------------


def greet(publisher: Publisher, name: str) -> bool:
    """A function that only sends."""
    return bool(publisher.publish("greetings", f"hello {name}", headers={"to": name}))


def read(receiver: Receiver) -> list[Any]:
    """A function that only reads."""
    return [receiver.receive(timeout=WAIT).body]


def test_s28_who_only_sends_needs_a_publisher_and_who_only_reads_a_receiver() -> None:
    """A bus is a Publisher, and a subscription without a handler is a Receiver; a test may pass a stand-in."""

    class Stub:
        sent: list[Any]

        def publish(self, subject: Any, body: Any = None, **envelope: Any) -> Receipt | Dropped:
            self.sent = [subject, body, envelope]
            return Dropped("nobody is there")

    stub = Stub()
    assert greet(stub, "Ada") is False
    assert stub.sent == ["greetings", "hello Ada", {"headers": {"to": "Ada"}}]
    with running() as bus:
        reader = bus.subscribe("greetings")
        assert greet(bus, "Ada") is True
        assert read(reader) == ["hello Ada"]


@pytest.mark.parametrize(("protocol", "cls"), [(Publisher, Bus), (Receiver, type(Bus().subscribe("s")))])
def test_s28_the_protocols_ask_for_nothing_that_is_not_there(protocol: Any, cls: type) -> None:
    """Each method of a protocol exists in the class, with at least the same parameters."""
    names = [name for name in vars(protocol) if not name.startswith("_") or name in ("__iter__", "__aiter__")]
    assert names
    for name in names:
        asked = inspect.signature(getattr(protocol, name)).parameters
        given = inspect.signature(getattr(cls, name)).parameters
        assert any(parameter.kind is parameter.VAR_KEYWORD for parameter in given.values()) or asked.keys() <= given.keys()

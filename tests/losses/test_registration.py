"""
Registration: a function that would never run is refused where it is registered. If a handler returns something by mistake, the
error says what to do, and the message is not acknowledged.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from carriers import made

from pipebus import (
    Actor,
    Bus,
    Call,
    ContractError,
    Delivery,
    Dropped,
    Handled,
    Handlers,
    Message,
    Pause,
    PipelineError,
    Receipt,
    Rejected,
    RequestFailed,
    Schedule,
    SubjectError,
    SubscriptionError,
    around,
    branch,
    events,
    transform,
    when,
)
from pipebus.filters import Dedupe, Drop, Enrich, Fields, Log, Reroute, SetHeaders, Tap
from tables import table

LONG = 20.0

# --- generator functions -----------------------------------------------------------------------------------------------


def gen(message: Message) -> Iterator[int]:
    yield 1


async def agen(message: Message) -> AsyncIterator[int]:
    yield 1


def with_more(message: Message, more: int) -> Iterator[int]:
    yield more


@functools.wraps(gen)
def wrapped(*arguments: Any) -> Any:
    return gen(*arguments)


@functools.wraps(agen)
def awrapped(*arguments: Any) -> Any:
    return agen(*arguments)


class Object:
    def __call__(self, message: Message) -> Iterator[int]:
        yield 1

    def method(self, message: Message) -> Iterator[int]:
        yield 1

    async def amethod(self, message: Message) -> AsyncIterator[int]:
        yield 1

    @classmethod
    def of_class(cls, message: Message) -> Iterator[int]:
        yield 1

    @staticmethod
    def static(message: Message) -> Iterator[int]:
        yield 1


class AsyncObject:
    async def __call__(self, message: Message) -> AsyncIterator[int]:
        yield 1


GENERATORS: dict[str, Any] = {
    "def": gen,
    "async def": agen,
    "lambda": lambda message: (yield message),
    "partial": functools.partial(with_more, more=1),
    "partial of a partial": functools.partial(functools.partial(with_more), more=1),
    "object": Object(),
    "async object": AsyncObject(),
    "partial of an object": functools.partial(Object()),
    "method": Object().method,
    "async method": Object().amethod,
    "class method": Object.of_class,
    "static method": Object.static,
    "wrapped": wrapped,
    "async wrapped": awrapped,
}
generators = pytest.mark.parametrize("function", GENERATORS.values(), ids=GENERATORS)


@generators
@pytest.mark.parametrize("how", ["subscribe", "on", "handlers", "loop", "to"])
def test_a_generator_function_is_refused_as_a_handler(function: Any, how: str) -> None:
    """Its body would never run, so registering it raises an error with the remedy, and nothing is subscribed."""
    bus, handlers = Bus(), Handlers()
    register: dict[str, Callable[[], object]] = {
        "subscribe": lambda: bus.subscribe("work", function),
        "on": lambda: bus.on("work")(function),
        "handlers": lambda: handlers.on("work")(function),
        "loop": lambda: bus.subscribe("work", function, run="loop"),
        "to": lambda: bus.subscribe("work", function, to="done"),
    }
    with pytest.raises(SubscriptionError, match=r"generator function.*remove `yield`") as caught:
        register[how]()
    assert "test_registration.py" in str(caught.value)
    bus.include(handlers)
    assert bus.subscriptions == []


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_an_actor_whose_on_message_yields_is_refused(colour: str) -> None:
    """`spawn` refuses such an actor, and `use` refuses a filter actor whose `filter` yields."""

    class Sync(Actor):
        def on_message(self, message: Message) -> Iterator[int]:
            yield 1

    class Async(Actor):
        async def on_message(self, message: Message) -> AsyncIterator[int]:
            yield 1

    class Filter(Actor):
        def filter(self, message: Message) -> Iterator[int]:
            yield 1

    class AsyncFilter(Actor):
        async def filter(self, message: Message) -> AsyncIterator[int]:
            yield 1

    bus = Bus()
    with pytest.raises(SubscriptionError, match="generator function"):
        bus.spawn(Sync() if colour == "sync" else Async())
    with pytest.raises(PipelineError, match="yields"):
        bus.use(Filter() if colour == "sync" else AsyncFilter())


@generators
def test_a_generator_function_is_refused_as_a_filter_of_every_other_shape(function: Any) -> None:
    """Predicates, functions of filters, transforms and observers that would not run are refused where they are registered."""
    for make in (
        lambda: when(function, Log()),
        lambda: branch(function, Log()),
        lambda: Bus().use(transform(function)),
        lambda: Drop(when=function),
        lambda: Tap(function),
        lambda: Dedupe(key=function),
        lambda: Reroute(function),
        lambda: SetHeaders({"name": function}),
        lambda: Enrich({"name": function}),
        lambda: Enrich(function),
        lambda: Fields(set={"body.name": function}),
        lambda: Bus().observe(function),
    ):
        with pytest.raises(PipelineError):
            make()


def test_a_decorated_generator_is_taken_if_its_colour_says_that_it_runs() -> None:
    """A decorator that turns a generator into a handler declares so with `colour`."""
    seen: list[int] = []

    @functools.wraps(gen)
    def runs(message: Message) -> None:
        seen.extend(gen(message))

    runs.colour = "sync"  # type: ignore[attr-defined]
    bus = Bus()
    bus.subscribe("work", runs)
    with bus:
        bus.publish("work")
        bus.drain(LONG)
    assert seen == [1]


# --- awaitables --------------------------------------------------------------------------------------------------------


class Service:
    """A service with coroutines; `handler` wraps them in each way in which a function can return an awaitable."""

    def __init__(self) -> None:
        self.handled: list[Any] = []

    async def handle(self, message: Message) -> str:
        await asyncio.sleep(0)
        self.handled.append(message.body)
        return f"handled {message.body}"

    async def fail(self, message: Message) -> str:
        await asyncio.sleep(0)
        raise ValueError("on purpose")

    def handler(self, kind: str, name: str = "handle") -> Any:
        handle = getattr(self, name)

        class Caller:
            def __call__(self, message: Message) -> Any:
                return handle(message)

        def task(message: Message) -> Any:
            return asyncio.ensure_future(handle(message))

        def typed(body: int, delivery: Delivery) -> Any:
            return handle(delivery.message)

        async def forgot(message: Message) -> Any:
            return handle(message)

        return {
            "lambda": lambda message: handle(message),
            "object": Caller(),
            "partial": functools.partial(lambda message, more: handle(message), more=1),
            "partial of an object": functools.partial(Caller()),
            "typed": typed,
            "task": task,
            "forgot await": forgot,
        }[kind]


KINDS = ["lambda", "object", "partial", "partial of an object", "typed"]


@pytest.mark.parametrize("carrier", ["memory:", "memory:?wire=json", "sqlite"])
@pytest.mark.parametrize("kind", [*KINDS, "task"])
@pytest.mark.parametrize("filters", [(), (Log(),)], ids=["bare", "filtered"])
@pytest.mark.few(9)
def test_what_a_handler_on_a_loop_returns_is_awaited(carrier: str, kind: str, filters: Any, tmp_path: Path) -> None:
    """With run="loop", the bus awaits a returned awaitable before it acknowledges the message; its result is the value."""
    service, results = Service(), []
    with made(carrier, tmp_path) as bus:
        bus.subscribe("work", service.handler(kind), run="loop", name="work", to="done", filters=filters)
        bus.subscribe("done", lambda m: results.append(m.body), name="done")
        with bus:
            assert bus.request("work", 1, timeout=LONG).body == "handled 1"
            bus.publish("work", 2)
            bus.drain(LONG)
            assert bus.stats()["subscriptions"]["work"]["acknowledged"] == 2
    assert service.handled == [1, 2]
    assert sorted(results) == ["handled 1", "handled 2"]


@pytest.mark.parametrize("filters", [(), (Log(),)], ids=["bare", "filtered"])
def test_an_async_handler_that_forgot_to_await_is_awaited_too(filters: Any) -> None:
    """If an `async def` returns a coroutine instead of awaiting it, the bus awaits it."""
    service, bus = Service(), Bus()
    bus.subscribe("work", service.handler("forgot await"), filters=filters)
    with bus:
        assert bus.request("work", 1, timeout=LONG).body == "handled 1"
    assert service.handled == [1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("filters", [(), (Log(),)], ids=["bare", "filtered"])
def test_what_an_awaited_result_raises_is_the_handler_s_error(kind: str, filters: Any) -> None:
    """An error in the returned awaitable fails the delivery like any other error."""
    bus = Bus()
    bus.subscribe("work", Service().handler(kind, "fail"), run="loop", filters=filters)
    with bus, pytest.raises(RequestFailed, match="on purpose") as raised:
        bus.request("work", 1, timeout=LONG)
    assert raised.value.type == "ValueError"


def plain(message: Message, call_next: Any) -> Any:
    return call_next(message)


@pytest.mark.parametrize("carrier", ["memory:", "memory:?wire=json", "sqlite"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("run", "filters"),
    [("pool", ()), ("thread", ()), ("pool", (Log(),)), ("pool", (plain,)), ("loop", (plain,))],
    ids=["pool", "thread", "pool, filtered", "pool, plain filter", "loop, plain filter"],
)
@pytest.mark.parametrize("to", [None, "done"])
@pytest.mark.filterwarnings("error")
@pytest.mark.few(12)
def test_a_returned_awaitable_that_nobody_can_await_is_an_error(
    carrier: str, kind: str, run: Any, filters: Any, to: Any, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """On a thread the delivery fails with an error that says what to do, and the coroutine is closed without a warning."""
    service = Service()
    with made(carrier, tmp_path) as bus:
        bus.subscribe("work", service.handler(kind), run=run, name="work", filters=filters, to=to)
        with bus:
            published = carrier == "sqlite" and run == "loop"
            if published:
                bus.publish("work", 1)
            else:
                with pytest.raises(RequestFailed, match=r'awaitable.*async def.*run="loop"'):
                    bus.request("work", 1, timeout=LONG)
            bus.publish("work", 2)
            bus.drain(LONG)
            letters = bus.dead_letters.list()
            assert bus.stats()["subscriptions"]["work"]["acknowledged"] == 0
    assert service.handled == []
    assert len(letters) == 1 + published  # a failed request leaves none
    assert all('run="loop"' in letter.error for letter in letters)
    assert not [one for one in recwarn if "never awaited" in str(one.message)]


@pytest.mark.parametrize("run", ["pool", "loop"])
def test_a_returned_future_is_not_a_value(run: Any) -> None:
    """Work that was handed to an executor is not done when the handler returns its Future."""
    bus = Bus()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        bus.subscribe("work", lambda m: pool.submit(int, 1), run=run)
        with bus, pytest.raises(RequestFailed, match=r"result\(\)"):
            bus.request("work", timeout=LONG)


class Forwarder(Actor):
    def __init__(self, service: Service) -> None:
        super().__init__("forwarder")
        self.service = service

    def on_message(self, message: Message) -> Any:
        return self.service.handle(message)


@pytest.mark.parametrize("run", ["pool", "thread", "loop"])
def test_an_actor_s_awaitable_is_awaited_on_a_loop_and_refused_elsewhere(run: Any) -> None:
    """An actor's `on_message` may return an awaitable on a loop, and nowhere else."""
    service, bus = Service(), Bus()
    bus.spawn(Forwarder(service), run=run)
    with bus:
        if run == "loop":
            assert bus.request("forwarder", 1, timeout=LONG).body == "handled 1"
        else:
            with pytest.raises(RequestFailed, match="awaitable"):
                bus.request("forwarder", 1, timeout=LONG)
    assert service.handled == ([1] if run == "loop" else [])


# --- outcomes, and other objects that a handler must not return ---------------------------------------------------------

MISTAKES: dict[str, tuple[Callable[[Message], Any], str]] = {
    "Message": (lambda m: m, "send"),
    "changed Message": (lambda m: m.with_body(2), "send"),
    "Receipt": (lambda m: Receipt(1), "return nothing"),
    "Dropped": (lambda m: Dropped("no"), "reject"),
    "Handled": (lambda m: Handled(1), "return the value"),
    "Rejected": (lambda m: Rejected("no"), "raise it"),
    "class Rejected": (lambda m: Rejected, "raise it"),
    "other error": (lambda m: SubjectError("no"), "raise it"),
    "Pause": (lambda m: Pause(1.0), "Around"),
    "Call": (lambda m: Call(m, 1.0), "Around"),
    "generator": (lambda m: gen(m), "yield"),
    "generator expression": (lambda m: (number for number in range(3)), "yield"),
    "async generator": (lambda m: agen(m), "yield"),
}


@pytest.mark.parametrize(("function", "remedy"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("run", ["pool", "thread", "loop", "async"])
@pytest.mark.parametrize("filters", [(), (Log(),)], ids=["bare", "filtered"])
@pytest.mark.parametrize("to", [None, "done"])
@pytest.mark.few(26)
def test_what_is_no_value_is_an_error_with_its_remedy(function: Any, remedy: str, run: Any, filters: Any, to: Any) -> None:
    """A Message, an outcome, an error or a generator that a handler returns is never a body: the delivery fails."""

    async def handle(message: Message) -> Any:
        return function(message)

    bus, done = Bus(), []
    bus.subscribe(
        "work", handle if run == "async" else function, run=None if run == "async" else run, name="work", filters=filters, to=to
    )
    bus.subscribe("done", lambda m: done.append(m.body))
    with bus:
        with pytest.raises(RequestFailed, match=remedy):
            bus.request("work", 1, timeout=LONG)
        if remedy == "return nothing" and to is None:
            return  # a Receipt that nobody is given: see below
        bus.publish("work", 2)
        bus.drain(LONG)
        letters = bus.dead_letters.list()
        assert bus.stats()["subscriptions"]["work"]["acknowledged"] == 0
    assert done == []
    assert ["work" in letter.subscription and remedy in letter.error for letter in letters] == [True]


@pytest.mark.parametrize("run", ["pool", "thread", "loop"])
@pytest.mark.parametrize("filters", [(), (Log(),)], ids=["bare", "filtered"])
def test_a_handler_may_end_with_its_publish(run: Any, filters: Any) -> None:
    """A handler may end with `bus.publish(…)`: its outcome is discarded if the handler's value has no receiver."""
    bus, seen = Bus(), []
    bus.use(when("drop", Drop()))
    if run == "loop":
        bus.subscribe("work", lambda m: bus.apublish(m.body), run="loop", name="work", filters=filters)
    else:
        bus.subscribe("work", lambda m: bus.publish(m.body), run=run, name="work", filters=filters)
    bus.subscribe("next", lambda m: seen.append(m.subject))
    with bus:
        bus.publish("work", "next")
        bus.publish("work", "drop")
        bus.drain(LONG)
        assert bus.stats()["subscriptions"]["work"]["acknowledged"] == 2
    assert seen == ["next"]


@pytest.mark.parametrize("carrier", ["sqlite", "nats"])
def test_a_store_keeps_what_its_handler_returned_by_mistake(carrier: str, tmp_path: Path) -> None:
    """On a store too, the message becomes a dead letter, and its error says what to do."""
    with made(carrier, tmp_path) as bus:
        bus.subscribe("work", lambda m: m, name="work")
        with bus:
            bus.publish("work", 1)
            bus.drain(LONG)
            (letter,) = bus.dead_letters.list()
    assert "bus.send(message)" in letter.error


def test_values_of_all_other_kinds_are_values() -> None:
    """A handler may return any other object, whatever the class of that object defines."""

    class Own:
        def __iter__(self) -> Iterator[int]:
            yield 1

    for value in (Own(), Own, ValueError("a value"), {1}, b"x", 0, "", [], iter([1])):
        bus = Bus()
        bus.subscribe("work", lambda m, value=value: value)
        with bus:
            assert bus.request("work", timeout=LONG).body is value


# --- filters that return work instead of doing it ----------------------------------------------------------------------


async def later(*_: Any) -> bool:
    return True


def unfinished(message: Message) -> Any:
    return later()


FILTERS: dict[str, Any] = {
    "when": lambda: when(unfinished, Log()),
    "branch": lambda: branch(unfinished, Log()),
    "when, generator": lambda: when(lambda m: gen(m), Log()),
    "transform": lambda: transform(unfinished),
    "plain": lambda: lambda message, call_next: later(),
    "Drop": lambda: Drop(when=unfinished),
    "Tap": lambda: Tap(unfinished),
    "Dedupe": lambda: Dedupe(key=unfinished),
    "Reroute": lambda: Reroute(unfinished),
    "SetHeaders": lambda: SetHeaders({"name": unfinished}),
    "Enrich": lambda: Enrich({"name": unfinished}),
    "Enrich all": lambda: Enrich(unfinished),
    "Fields": lambda: Fields(set={"body.name": unfinished}),
}


@pytest.mark.parametrize("make", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("at", ["publish", "delivery"])
def test_a_function_of_a_filter_that_returns_an_awaitable_fails_closed(
    make: Any, at: Any, recwarn: pytest.WarningsRecorder
) -> None:
    """A predicate, or a function of a filter, that returns a coroutine does not count as yes: the message is refused."""
    if at == "delivery" and make is FILTERS["Reroute"]:
        pytest.skip("publish filters only")
    bus, seen = Bus(), []
    bus.use(make(), at=at)
    bus.subscribe("work", lambda m: seen.append(m.body))
    with bus:
        if at == "publish":
            with pytest.raises(ContractError):
                bus.publish("work", {})
        else:
            bus.publish("work", {})
            bus.drain(LONG)
            assert "ContractError" in bus.dead_letters.list()[0].error
    assert seen == []
    assert not [one for one in recwarn if "never awaited" in str(one.message)]


# --- decorators without their parentheses, or with too many ------------------------------------------------------------


def handler(message: Message) -> None:
    raise AssertionError("nothing is published")


def test_on_without_parentheses_is_refused_with_the_remedy() -> None:
    """`@bus.on` above a function subscribes nothing, so it raises there."""
    bus, handlers = Bus(), Handlers()
    for on in (bus.on, handlers.on):
        with pytest.raises(SubjectError, match=r'function handler where a subject is due; write @bus.on\("'):
            on(handler)  # type: ignore[call-overload]
    for given in (functools.partial(handler), [handler], ["work", handler], Object(), Object().method, print):
        for on in (bus.on, handlers.on, bus.subscribe):
            with pytest.raises(SubjectError, match="where a subject is due"):
                on(given)  # type: ignore[call-overload]
    with pytest.raises(SubjectError, match=r'bus.subscribe\("orders.created", handler\)'):
        bus.subscribe(handler)  # type: ignore[call-overload]
    assert bus.subscriptions == []


@table("subject", [None, 5, b"work", "no good", "", [], object(), Object])
def test_on_refuses_at_once_what_cannot_be_subscribed_to(subject: Any) -> None:
    """The error about a bad subject is raised where the subject is written, not when a function is decorated."""
    with pytest.raises((SubjectError, SubscriptionError)):
        Bus().on(subject)


@pytest.mark.parametrize("at", ["publish", "delivery"])
def test_use_with_parentheses_and_nothing_in_them_is_refused(at: Any) -> None:
    """`@bus.use()` above a function registers nothing, so it raises there."""
    use: Any = Bus().use
    with pytest.raises(PipelineError, match=r"without parentheses, or bus\.use\(handler"):
        use(at=at)(handler)


@pytest.mark.parametrize("word", [transform, around])
def test_transform_and_around_take_no_parentheses(word: Any) -> None:
    """The error of `@transform()` says what to write instead."""
    with pytest.raises(PipelineError, match="without parentheses"):
        word()
    with pytest.raises(PipelineError, match="without parentheses"):
        word("name")


def test_every_is_no_decorator() -> None:
    """`every` is not a decorator: used as one, it raises an error that says so, and publishes nothing."""
    bus = Bus()
    with pytest.raises(PipelineError, match=r"@bus\.on"):
        bus.every(handler)  # type: ignore[call-overload]
    with pytest.raises(PipelineError, match=r"@bus\.on"):
        bus.every(60.0, handler)  # type: ignore[call-overload]
    with pytest.raises(SubjectError):
        bus.every(60.0)  # type: ignore[call-overload]
    schedule: Any = bus.every(60.0, "tick")
    assert isinstance(schedule, Schedule)
    with pytest.raises(PipelineError, match=r'@bus.on\("tick"\)'):
        schedule(handler)
    assert bus.stats()["schedules"] == []


def test_an_async_observer_is_refused() -> None:
    """An async observer is refused, because nobody would await it."""

    async def observer(event: events.Event) -> None:
        raise AssertionError

    with pytest.raises(PipelineError, match="plain"):
        Bus().observe(observer)


def test_threads_are_not_needed_to_refuse() -> None:
    """A refused registration leaves nothing behind."""
    before = threading.active_count()
    with pytest.raises(SubscriptionError):
        Bus().subscribe("work", gen, run="thread")
    assert threading.active_count() == before

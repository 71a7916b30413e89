"""
Builders for the tests of the pipeline's promises: they set up one chain of every kind.

A test writes its filters once, as generators (`outcome = yield message`), and runs for each kind of chain and for both
shapes that see the way back: `step` turns such a generator into a plain filter of the chain's colour, or into an Around.

    def test_s02_…(chain, step, trail):
        def b(message):
            return Dropped("enough")
            yield

        result = chain.run(trail("A"), step(b), trail("C"))

        assert trail == ["A in", "A out"]
        assert result.outcome == Dropped("enough", by="b")
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from pipebus import Bus, Message, around

SUBJECT = "orders.created"
Body = Callable[[Message[Any]], Generator[Any, Any, Any]]


@dataclass(frozen=True)
class Kind:
    """
    A kind of chain.

    Args:
        caller: Publish side: whether a thread or a coroutine publishes.
        own: Delivery side: the filters are the subscription's own, not the bus's.
        wild: Delivery side: the subscription has a wildcard, so patterns are matched for each message.
    """

    name: str
    side: Literal["publish", "delivery"] = "publish"
    colour: Literal["sync", "async"] = "sync"
    caller: Literal["thread", "loop"] = "thread"
    own: bool = False
    wild: bool = False


KINDS = (
    Kind("publish"),
    Kind("publish-async", colour="async"),
    Kind("apublish", colour="async", caller="loop"),
    Kind("apublish-sync", caller="loop"),
    Kind("delivery", side="delivery"),
    Kind("delivery-own", side="delivery", own=True),
    Kind("delivery-wild", side="delivery", wild=True),
    Kind("delivery-async", side="delivery", colour="async"),
    Kind("delivery-async-own", side="delivery", colour="async", own=True),
)
"""Every kind of chain."""


def plain_filter(body: Body, colour: str, name: str | None = None) -> Any:
    """A plain filter `f(message, call_next)` that does the same as a generator around the rest."""

    def filter(message: Message[Any], call_next: Any) -> Any:
        run = body(message)
        resume, value = run.send, None
        while True:
            try:
                passed = resume(value)
            except StopIteration as end:
                return end.value
            try:
                resume, value = run.send, call_next(passed)
            except BaseException as error:
                resume, value = run.throw, error

    async def afilter(message: Message[Any], call_next: Any) -> Any:
        run = body(message)
        resume, value = run.send, None
        while True:
            try:
                passed = resume(value)
            except StopIteration as end:
                return end.value
            try:
                resume, value = run.send, await call_next(passed)
            except BaseException as error:
                resume, value = run.throw, error

    made = afilter if colour == "async" else filter
    made.__name__ = name or body.__name__
    return made


class Trail(list[str]):
    """What happened, in order: "A in", "T" when the message reached the end of the chain, "A out"."""

    def __init__(self, step: Callable[..., Any]) -> None:
        super().__init__()
        self.step = step
        self.arrived: Callable[[], int] | None = None  # publish side: how many messages the mailbox has accepted
        self.seen = 0

    def note(self, entry: str | None = None) -> None:
        if self.arrived is not None:
            while self.seen < self.arrived():
                self.seen += 1
                self.append("T")
        if entry is not None:
            self.append(entry)

    def __call__(self, name: str) -> Any:
        """A filter that notes its way in and, unless an error passes, its way out."""

        def body(message: Message[Any]) -> Generator[Any, Any, Any]:
            self.note(f"{name} in")
            outcome = yield message
            self.note(f"{name} out")
            return outcome

        return self.step(body, name)


@dataclass
class Result:
    """What happened to one message: what its publisher got, or on the delivery side what the outermost filter saw."""

    outcome: Any = None
    error: BaseException | None = None
    received: list[Message[Any]] = field(default_factory=list)


class Running:
    """A started bus with the chain."""

    def __init__(self, kind: Kind, bus: Bus, body: Any) -> None:
        self.kind = kind
        self.bus = bus
        self.body = body
        self.result = Result()
        self.received: list[Message[Any]] = []

    def send(self, subject: Any = SUBJECT, body: Any = None, **options: Any) -> Result:
        """Publish one message and wait until it is settled."""
        result = self.result = Result()
        before = len(self.received)
        body = self.body if body is None else body
        if self.kind.side == "delivery":
            self.bus.publish(subject, body, **options)
            self.bus.drain(timeout=10)
        else:
            try:
                if self.kind.caller == "loop":
                    result.outcome = asyncio.run(self.bus.apublish(subject, body, **options))
                else:
                    result.outcome = self.bus.publish(subject, body, **options)
            except BaseException as error:
                result.error = error
            self._read()
        result.received = self.received[before:]
        return result

    def _read(self) -> None:
        for subscription in self.bus.subscriptions:
            for _ in range(subscription.stats()["pending"]):
                self.received.append(subscription.receive(timeout=5))


class Chain:
    """Sets one chain up as one kind of chain."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.trail: Trail | None = None

    def run(self, *filters: Any, body: Any = None, handler: Any = None, fails: bool = False) -> Result:
        """Send one message through a chain."""
        with self(*filters, handler=handler, fails=fails) as running:
            return running.send(body=body)

    @contextmanager
    def __call__(
        self, *filters: Any, handler: Any = None, fails: bool = False, subjects: tuple[str, ...] = (SUBJECT,), **options: Any
    ) -> Iterator[Running]:
        """
        Args:
            filters: The chain, first = outermost.
            handler: Delivery side: called with the message; it returns the value of the delivery.
            fails: The end of the chain raises: the handler, or on the publish side a codec that cannot encode the body.
            subjects: Delivery side: the subjects to subscribe to, with one subscription each.
            options: For the bus.
        """
        encodes = fails and self.kind.side == "publish"
        bus = Bus("memory:?wire=json" if encodes else "memory:", **options)
        running = Running(self.kind, bus, object() if encodes else None)
        if self.kind.side == "publish":
            subscription = bus.subscribe(">", name="reader")
            if self.trail is not None:
                self.trail.arrived = lambda: subscription.stats()["accepted"]
            bus.use(plain_filter(_as_it_is, self.kind.colour))
            bus.use(*filters)
        else:
            self._deliver(running, filters, _failing if fails else handler, subjects)
        with bus:
            yield running
        if self.trail is not None:
            self.trail.note()

    def _deliver(self, running: Running, filters: tuple[Any, ...], answer: Any, subjects: tuple[str, ...]) -> None:
        bus, kind = running.bus, self.kind

        def observed(message: Message[Any]) -> Generator[Any, Any, Any]:
            """The outermost filter, which tells the test what came out of the chain."""
            try:
                running.result.outcome = yield message
            except BaseException as error:
                running.result.error = error
                raise
            return running.result.outcome

        def handle(message: Message[Any]) -> Any:
            running.received.append(message)
            if self.trail is not None:
                self.trail.append("T")
            return answer(message) if answer is not None else None

        async def ahandle(message: Message[Any]) -> Any:
            return handle(message)

        chain = (plain_filter(observed, kind.colour), *filters)
        if not kind.own:
            bus.use(*chain, at="delivery")
        handler = ahandle if kind.colour == "async" else handle
        if kind.own:  # to other subjects too: a fork of its own that none of its messages could take would be refused
            bus.subscribe([*subjects, "orders.changed", "bills.paid"], handler, name="own", filters=chain)
            return
        for subject in (">",) if kind.wild else subjects:
            bus.subscribe(subject, handler, name=subject)


def _as_it_is(message: Message[Any]) -> Generator[Any, Any, Any]:
    """Gives a chain of Transforms and Arounds a colour."""
    return (yield message)


def _failing(message: Message[Any]) -> None:
    raise RuntimeError("the handler fails")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only(side=, colour=, …): run only on kinds of chains that have these attributes")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `kind`, or for a fixture that does, runs once for each kind of chain."""
    if "kind" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only")
        wanted = only.kwargs if only is not None else {}
        kinds = [kind for kind in KINDS if all(getattr(kind, name) == value for name, value in wanted.items())]
        metafunc.parametrize("kind", kinds, ids=[kind.name for kind in kinds])


@pytest.fixture(params=["plain", "around"])
def step(request: pytest.FixtureRequest, kind: Kind) -> Callable[..., Any]:
    """Turns a generator into a filter: a plain one of the chain's colour, or an Around."""

    def make(body: Body, name: str | None = None) -> Any:
        if request.param == "plain":
            return plain_filter(body, kind.colour, name)
        made = around(body)
        made.name = name or body.__name__
        return made

    return make


@pytest.fixture
def plain(kind: Kind) -> Callable[..., Any]:
    """Turns a generator into a plain filter of the chain's colour, for things that only plain filters can do."""
    return lambda body, name=None: plain_filter(body, kind.colour, name)


@pytest.fixture
def chain(kind: Kind) -> Chain:
    """Sets a chain up and sends messages through it."""
    return Chain(kind)


@pytest.fixture
def trail(chain: Chain, step: Callable[..., Any]) -> Trail:
    """Filters that note when a message passes them, together with their notes."""
    chain.trail = Trail(step)
    return chain.trail

"""
What a filter is: three shapes, and what a filter may say about itself.

Built-in filters have no privileges: they use what is here and in `state`, and so can anybody's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from pipebus.clock import Clock
from pipebus.errors import PipelineError
from pipebus.foreign.objects import shown
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.pipeline.blame import StepId
from pipebus.pipeline.callables import name_of
from pipebus.pipeline.compose import Build, Next


class Pause(msgspec.Struct, frozen=True):
    """Yielded by an `Around`: wait `seconds` (>= 0), without holding a worker's slot."""

    seconds: float


class Call(msgspec.Struct, frozen=True):
    """
    Yielded by an `Around` that declares `bounds = True`: run the rest, at most `timeout` seconds, else `TimeoutError`.

    In an async chain the rest is cancelled. A sync chain cannot be cancelled: there the filter must have `abandon = True`,
    the rest runs on a thread of its own, and a rest that outlives its time goes on, with nobody listening.
    """

    message: Message[Any]
    timeout: float


Effect = Message[Any] | Pause | Call
Steps = Generator[Effect, Any, Any]
"""What an `Around` is: it yields effects, is sent outcomes, and returns an outcome or None (the last one)."""


class Filter(Protocol):
    """
    Shape 1, plain: ASP.NET's. `def` or `async def`, a function or an object.

        def stamp(message: Message, call_next: Callable[[Message], Outcome]) -> Outcome: ...
    """

    def __call__(self, message: Message[Any], call_next: Any, /) -> Any: ...


class Transform:
    """
    Shape 2: looks once, on the way in; the cheapest, and at home in sync and async chains.

    Subclasses are dataclasses (`eq=False`: a filter's identity is the object) and define `transform`.
    """

    def transform(self, message: Message[Any], /) -> Message[Any] | Dropped:
        """The message to hand on, or `Dropped(reason)`; raising refuses."""
        raise NotImplementedError(f"{type(self).__name__} has no `transform(self, message)`")


class Around:
    """
    Shape 3: a generator around the rest, in sync and async chains from one source.

        def around(self, message):
            outcome = yield message          # runs the rest; again: runs it again
            yield Pause(0.5)                 # waits without holding a worker's slot
            return outcome                   # or nothing: the last outcome

    What it may do besides is declared by class attributes; see `Traits`. One that keeps what it knows for each chain apart
    defines `at(place)`.
    """

    waits: bool = False
    bounds: bool = False
    abandon: bool = False
    repeats: bool = False
    passes: int | None = 1
    wants_delivery: bool = False

    def around(self, message: Message[Any], /) -> Steps:
        raise NotImplementedError(f"{type(self).__name__} has no `around(self, message)`")

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        """The generator function for the chain at "publish", or around a subscription's handler, by its name."""
        return self.around


class SelfLinking:
    """A filter that makes its own link: an actor."""

    __slots__ = ()

    def link_into(self, step: StepId, next_: Next, build: Build) -> Next:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Traits:
    """
    What a filter says about itself, by attributes of these names on its class or object. Read once, when it is put in a chain.

    Args:
        waits: It may yield `Pause`, or wait otherwise: `publish` on a running event loop refuses it.
        bounds: It may yield `Call`.
        abandon: Its `Call` may leave a sync rest behind on a thread of its own.
        repeats: It may run the rest again after an error, and asks `pipebus.pipeline.state.accepted` first.
        passes: How often it runs the rest at most; None: no bound.
        wants_delivery: It reads `pipebus.pipeline.state.delivery`, so it can only be put around handlers.
        terminal: Nothing that follows it runs.
        reroutes: It may change the subject (publish side only).
        may_drop: It may return `Dropped`.
        requires, provides: Words such as "validated"; a filter that requires one must follow a filter that provides it.
        deterministic: Equal messages have equal outcomes.
        idempotent: What it does once it may do twice.
    """

    waits: bool = False
    bounds: bool = False
    abandon: bool = False
    repeats: bool = False
    passes: int | None = 1
    wants_delivery: bool = False
    terminal: bool = False
    reroutes: bool = False
    may_drop: bool = False
    requires: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    deterministic: bool = False
    idempotent: bool = False

    @classmethod
    def of(cls, filter: object) -> Traits:
        """The traits of a filter."""

        def flag(name: str) -> bool:
            return bool(getattr(filter, name, False))

        def words(name: str) -> tuple[str, ...]:
            found = getattr(filter, name, ())
            return (found,) if isinstance(found, str) else tuple(found)

        return cls(
            waits=flag("waits") or flag("bounds") or isinstance(filter, SelfLinking),
            bounds=flag("bounds"),
            abandon=flag("abandon"),
            repeats=flag("repeats"),
            passes=getattr(filter, "passes", 1),
            wants_delivery=flag("wants_delivery"),
            terminal=flag("terminal"),
            reroutes=flag("reroutes"),
            may_drop=flag("may_drop"),
            requires=words("requires"),
            provides=words("provides"),
            deterministic=flag("deterministic"),
            idempotent=flag("idempotent"),
        )


class FunctionTransform(Transform):
    """What `@transform` makes; calling it calls the function."""

    def __init__(self, function: Callable[[Message[Any]], Message[Any] | Dropped]) -> None:
        functools.update_wrapper(self, function)
        self.name = name_of(function)
        self.transform = self.function = function  # type: ignore[method-assign]

    def __call__(self, message: Message[Any]) -> Message[Any] | Dropped:
        return self.function(message)


class FunctionAround(Around):
    """What `@around` makes; calling it calls the function."""

    def __init__(self, function: Callable[[Message[Any]], Steps]) -> None:
        functools.update_wrapper(self, function)
        self.name = name_of(function)
        self.around = self.function = function  # type: ignore[method-assign]

    def __call__(self, message: Message[Any]) -> Steps:
        return self.function(message)


_NOTHING: Any = None  # what `@transform()` is given


def transform(function: Callable[[Message[Any]], Message[Any] | Dropped] = _NOTHING) -> FunctionTransform:
    """Make a function of a message a filter of shape 2."""
    _check_decorated(function, "transform")
    return FunctionTransform(function)


def around(function: Callable[[Message[Any]], Steps] = _NOTHING) -> FunctionAround:
    """Make a generator function of a message a filter of shape 3."""
    _check_decorated(function, "around")
    return FunctionAround(function)


def _check_decorated(function: Any, word: str) -> None:
    if not callable(function):
        raise PipelineError(f"@{word} is given {shown(function)}; write @{word} above a function, without parentheses")


@dataclass(eq=False, slots=True)
class Context:
    """What a filter's `start(context)` is given."""

    bus: Any
    clock: Clock
    log: Any
    name: str

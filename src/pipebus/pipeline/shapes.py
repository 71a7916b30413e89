"""
What a filter is: one of three shapes, with traits that it may declare.

Built-in filters have no privileges: they use only what is defined here and in `state`, and any filter can do the same. One that
has a state may show it: its `stats(place)` returns numbers and texts by name, at any time and to any thread (see `figures`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from pipebus.clock import Clock
from pipebus.errors import ContractError, PipelineError
from pipebus.foreign.objects import shown
from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped
from pipebus.message.patterns import Pattern
from pipebus.pipeline.blame import StepId
from pipebus.pipeline.callables import name_of
from pipebus.pipeline.compose import Build, Next
from pipebus.values.quantities import Duration, is_whole, seconds
from pipebus.waiting.latch import Latch


class Pause(msgspec.Struct, frozen=True):
    """
    Yielded by an `Around`: wait `seconds` (>= 0, or text such as "5s") without holding a worker's slot.

    Args:
        until: Wait until something is given to this latch, but no longer than `seconds`. The result of the `yield` is whether
            it was given in time; if not, the latch is closed, and `give` returns False. If the `yield` raises an error, the
            latch may have been given or not: the filter finds out by giving it something itself.
    """

    seconds: float
    until: Latch | None = None

    if TYPE_CHECKING:  # the arguments accept more than the fields hold

        def __init__(self, seconds: Duration, until: Latch | None = None) -> None: ...

    def __post_init__(self) -> None:
        _convert(self, "seconds")


class Call(msgspec.Struct, frozen=True):
    """
    Yielded by an `Around` that declares `bounds = True`: run the rest, and raise `TimeoutError` after `timeout` (>= 0 seconds,
    or text such as "5s").

    In an async chain the rest is then cancelled. A sync chain cannot be cancelled: there the filter must declare
    `abandon = True`, the rest runs on a thread of its own, and one that takes too long continues, but its result is discarded.
    """

    message: Message[Any]
    timeout: float

    if TYPE_CHECKING:

        def __init__(self, message: Message[Any], timeout: Duration) -> None: ...

    def __post_init__(self) -> None:
        _convert(self, "timeout")


def _convert(effect: Pause | Call, field: str) -> None:
    found = seconds(getattr(effect, field), f"yielded {type(effect).__name__} with {field}", error=ContractError)
    msgspec.structs.force_setattr(effect, field, found)


Effect = Message[Any] | Pause | Call
Steps = Generator[Effect, Any, Any]
"""The generator of an `Around`: yields effects, receives outcomes, and returns an outcome, or None for the last one."""


class Filter(Protocol):
    """
    Shape 1, plain, as in ASP.NET: a function or an object, with `def` or `async def`.

        def stamp(message: Message, call_next: Callable[[Message], Outcome]) -> Outcome: ...
    """

    def __call__(self, message: Message[Any], call_next: Any, /) -> Any: ...


class Transform:
    """
    Shape 2: sees each message once, on the way in. It is the cheapest shape, and runs in sync and async chains.

    Subclasses are dataclasses that define `transform`. They set `eq=False`, because each filter object is a filter of its own.
    """

    def transform(self, message: Message[Any], /) -> Message[Any] | Dropped:
        """Return the message to pass on, or `Dropped(reason)`; raise to refuse it."""
        raise NotImplementedError(f"{type(self).__name__} has no `transform(self, message)`")


class Around:
    """
    Shape 3: a generator around the rest of the chain; the same source runs in sync and async chains.

        def around(self, message):
            outcome = yield message          # runs the rest; another `yield message` runs it again
            yield Pause(0.5)                 # waits without holding a worker's slot
            return outcome                   # `return` alone returns the last outcome

    Class attributes declare what else it may do; see `Traits`. A filter that keeps a state for each chain defines `at(place)`,
    and keeps that state on itself, by place.
    """

    def around(self, message: Message[Any], /) -> Steps:
        raise NotImplementedError(f"{type(self).__name__} has no `around(self, message)`")

    def at(self, place: str) -> Callable[[Message[Any]], Steps]:
        """
        The generator function for one chain: `place` is "publish" or the name of a subscription.

        Called whenever a route is compiled: for "publish" at the first message to each subject, in the publisher's thread, and
        again when subscriptions come or go. So state that is made in here is one for each subject, and is lost each time.
        """
        return self.around


class SelfLinking:
    """A filter that makes its own link, as an actor does."""

    __slots__ = ()

    def link_into(self, step: StepId, next_: Next, build: Build) -> Next:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Traits:
    """
    What a filter declares about itself, by attributes with these names. Read once, when the filter is put in a chain.

    Args:
        waits: It may yield `Pause` or wait in another way, so `publish` on a running event loop refuses it.
        bounds: It may yield `Call`.
        abandon: Its `Call` may leave a sync rest running on a thread of its own.
        repeats: It may run the rest again after an error, and checks `pipebus.pipeline.state.accepted` first.
        passes: The most times that it runs the rest; None: no limit.
        wants_delivery: It reads `pipebus.pipeline.state.delivery`, so it can only be put around handlers.
        sees_delivery: It reads that too, but a publish chain may have it as well; there it is None.
        needs_attempts: It counts on so many attempts of a delivery; a subscription that allows fewer is refused.
        wants_memory: It needs the transport's memory for filters (`Context.memory`).
        terminal: No filter after it ever runs.
        reroutes: It may change the subject (publish side only; around a handler, one that `sees_delivery` leaves it as it is).
        reroutes_to: A pattern that all of its new subjects match, if one is known: `check` says which filters they skip.
        may_drop: It may drop or refuse one message, and not the next.
        requires, provides: Words such as "validated"; a filter that requires one must follow a filter that provides it.
        follows, precedes: Words that filters in front of it, or behind it, should provide; with each, what goes wrong in the
            other order. `check` gives a hint (see `pipeline.order`); nothing is refused.
        deterministic: Equal messages have equal outcomes.
        idempotent: Running it twice has the same effect as running it once.
    """

    waits: bool = False
    bounds: bool = False
    abandon: bool = False
    repeats: bool = False
    passes: int | None = 1
    wants_delivery: bool = False
    sees_delivery: bool = False
    needs_attempts: int | None = None
    wants_memory: bool = False
    terminal: bool = False
    reroutes: bool = False
    reroutes_to: Pattern | None = None
    may_drop: bool = False
    requires: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    follows: tuple[tuple[str, str], ...] = ()
    precedes: tuple[tuple[str, str], ...] = ()
    deterministic: bool = False
    idempotent: bool = False

    @classmethod
    def of(cls, filter: object, bad: Callable[[str, str], PipelineError]) -> Traits:
        """The traits of a filter. `bad` makes an error of a problem and its remedy, if one has a value that it cannot have."""

        found: dict[str, Any] = {}
        for trait in fields(cls):
            value: Any = getattr(filter, trait.name, trait.default)
            if trait.name in ("follows", "precedes"):
                value = _reasons(trait.name, value, bad)
            elif isinstance(trait.default, tuple):
                value = (value,) if isinstance(value, str) else tuple(value)
            elif isinstance(trait.default, bool) and not isinstance(value, bool):
                raise bad(f"has {trait.name} = {shown(value)}", "it is True or False")
            elif trait.name == "passes" and value is not None and not is_whole(value, 1):
                raise bad(f"has passes = {shown(value)}", "it is how often it runs the rest: at least 1, or None for no limit")
            found[trait.name] = value
        found["sees_delivery"] = found["sees_delivery"] or found["wants_delivery"]
        found["waits"] = found["waits"] or found["bounds"] or isinstance(filter, SelfLinking)
        return cls(**found)


def _reasons(trait: str, value: Any, bad: Callable[[str, str], PipelineError]) -> tuple[tuple[str, str], ...]:
    reasons: dict[Any, Any] = dict(value) if isinstance(value, (Mapping, tuple)) else {None: None}
    if not all(isinstance(text, str) for pair in reasons.items() for text in pair):
        raise bad(
            f"has {trait} = {shown(value)}", 'it maps words to what goes wrong, as in {"validated": "its price may be text"}'
        )
    return tuple(reasons.items())


class FunctionTransform(Transform):
    """Made by `@transform`; calling it calls the function."""

    def __init__(self, function: Callable[[Message[Any]], Message[Any] | Dropped]) -> None:
        functools.update_wrapper(self, function)
        self.name = name_of(function)
        self.transform = self.function = function  # type: ignore[method-assign]

    def __call__(self, message: Message[Any]) -> Message[Any] | Dropped:
        return self.function(message)


class FunctionAround(Around):
    """Made by `@around`; calling it calls the function."""

    def __init__(self, function: Callable[[Message[Any]], Steps]) -> None:
        functools.update_wrapper(self, function)
        self.name = name_of(function)
        self.around = self.function = function  # type: ignore[method-assign]

    def __call__(self, message: Message[Any]) -> Steps:
        return self.function(message)


_NOTHING: Any = None  # the argument of `@transform()`, which `_check_decorated` refuses


def transform(function: Callable[[Message[Any]], Message[Any] | Dropped] = _NOTHING) -> FunctionTransform:
    """Turn a function of a message into a filter of shape 2."""
    _check_decorated(function, "transform")
    return FunctionTransform(function)


def around(function: Callable[[Message[Any]], Steps] = _NOTHING) -> FunctionAround:
    """Turn a generator function of a message into a filter of shape 3."""
    _check_decorated(function, "around")
    return FunctionAround(function)


def _check_decorated(function: Any, word: str) -> None:
    if not callable(function):
        raise PipelineError(f"@{word} is given {shown(function)}; write @{word} above a function, without parentheses")


class Memory(Protocol):
    """Where a transport remembers keys for filters, for all processes and across restarts."""

    def seen(self, scope: str, key: str) -> bool:
        """Whether this key was learned, and its time is not over."""
        ...

    def learn(self, scope: str, key: str, seconds: float) -> None:
        """Remember a key; kept no later than what is settled after this call."""
        ...


@dataclass(eq=False, slots=True)
class Context:
    """
    What a filter's `start(context)` receives.

    Args:
        bus: The bus that starts the filter.
        clock: Time, in seconds.
        log: A structlog logger bound to the filter's name.
        name: The filter's name in errors, logs and figures.
        ended_by_stop: Whether the stop of the bus has caused an error. A filter that repeats must let such an error pass.
        memory: The transport's memory for filters; None if it keeps none.
        if_undone: Registers a function that is called if the handler's open transaction is rolled back.
        attempt: Which attempt at the message in hand this is, from 1; in a publish chain, always 1.
        pause: Pauses the subscription of this name, and returns a function that ends this pause, from any thread and at any
            time. It starts no further handler while any pause lasts, the program's own or another filter's.
        later: Calls a short function after some seconds, on the bus's timer thread, unless the bus has stopped by then; returns
            an object with `cancel()`.
        emit: Passes an event to the observers of the bus.
    """

    bus: Any
    clock: Clock
    log: Any
    name: str
    ended_by_stop: Callable[[BaseException], bool] = lambda error: False
    memory: Memory | None = None
    if_undone: Callable[[Callable[[], object]], None] = lambda call: None
    attempt: Callable[[], int] = lambda: 1
    pause: Callable[[str], Callable[[], None]] = lambda place: lambda: None
    later: Callable[[float, Callable[[], None]], Any] = lambda seconds, call: None
    emit: Callable[[Any], None] = lambda event: None

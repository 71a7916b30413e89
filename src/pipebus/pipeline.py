"""
The heart: what a filter is, how filters are composed, and how a chain becomes one call. Read this first.

A chain is a tuple of nodes. `compile` folds it from its end: each node is given the compiled rest and returns the compiled
rest with itself in front, so that the last thing made is the entry and the terminal is the innermost call.

    chain   = A, when("x.>", B), C
    compile = A.link( B.link( C.link( terminal )))        for subject x.1
    compile = A.link( C.link( terminal ))                 for subject y.1

Nodes are values: they stay as they are, one `Pipeline` may stand in many chains, and `explain` reads what `compile` read.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol

from pipebus import links
from pipebus.clock import Clock
from pipebus.errors import PipelineError, SubjectError
from pipebus.foreign import plain_text, shown
from pipebus.links import Call, Next, Pause
from pipebus.message import Dropped, Handled, Message, Outcome, Receipt
from pipebus.subject import Pattern

PLUMBING: Final = True  # tracebacks leave its frames out: `links.trim`

Side = Literal["publish", "delivery"]
OnError = Literal["reject", "dead_letter", "drop"]
Effect = Message[Any] | Pause | Call
Steps = Generator[Effect, Any, Any]
"""What an `Around` is: yields effects, is sent outcomes, returns an outcome or None (the last one)."""


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

    `waits` declares that it may yield `Pause`, `bounds` that it may yield `Call`: both are then refused early where they
    cannot work. `abandon` allows `Call` in a sync chain (see `Call`). `repeats` declares that it may run the rest again after
    an error, and asks `links.accepted` first; `passes`, how often it runs it at most (None: no bound). `wants_delivery`, that
    it reads `links.delivery`, and so stands around handlers only. One that keeps what it knows for each chain apart defines
    `at(place)`.
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

    def link_into(self, step: links.Mark, next_: Next, build: Build) -> Next:
        raise NotImplementedError


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
        raise PipelineError(f"@{word} is given {function!r}; write @{word} above a function, without parentheses")


# --- places ------------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where something was registered."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


_places: dict[tuple[str, int], Place] = {}


def caller() -> Place:
    """The nearest line outside this package, or in a module of it that uses the bus as a program does."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if not (module.startswith("pipebus.") or module == "pipebus") or frame.f_globals.get("USES_THE_BUS"):
            break
        frame = frame.f_back
    key = (frame.f_code.co_filename, frame.f_lineno)
    return _places.setdefault(key, Place(*key))


# --- nodes -------------------------------------------------------------------------------------------------------------


class Rest(NamedTuple):
    """What still follows at some point of a chain: these nodes, then what follows the chain around them."""

    nodes: tuple[Node, ...]
    after: Rest | None
    scope: object  # the pipeline whose `on_error` rules these nodes, as compiled here


@dataclass(eq=False, slots=True)
class Build:
    """
    One compilation.

    Args:
        side: Publish or delivery.
        colour: "sync" or "async".
        subject: What the chain is for: a literal subject or an object; on the delivery side also a `Pattern`, or a tuple.
        terminal: What the last `call_next` reaches.
        services: What running links ask of the bus.
        resume: For reroutes: (new subject, rest) -> the compiled rest for it. Asked once for each subject.
        rule: What an error under `on_error` becomes: (on_error) -> ruling.
        place: "publish", or the name of the subscription.
    """

    side: Side
    colour: Literal["sync", "async"]
    subject: object
    terminal: Next
    services: links.Services
    resume: Callable[[object, Rest, dict[object, Next]], Next] | None = None
    rule: Callable[[OnError], links.Ruling] | None = None
    place: str = "publish"

    @property
    def due(self) -> type[Outcome]:
        return Receipt if self.side == "publish" else Handled


@dataclass(eq=False, slots=True)
class Step:
    """One filter at one place of one chain."""

    filter: Any
    shape: Literal["plain", "transform", "around", "actor"]
    colour: Literal["sync", "async", "both"]
    name: str
    call: Any
    place: Place
    position: int
    within: str
    told: dict[str, Any] = field(default_factory=dict)
    """What a config file says where it is not the value itself: `${env:X}` by setting; the whole entry under ""."""

    @property
    def where(self) -> str:
        return f"position {self.position} of {self.within} at {self.place}"

    @property
    def waits(self) -> bool:
        return self.shape == "actor" or bool(getattr(self.filter, "waits", False) or getattr(self.filter, "bounds", False))

    @property
    def bounds(self) -> bool:
        return bool(getattr(self.filter, "bounds", False))

    @property
    def abandon(self) -> bool:
        return bool(getattr(self.filter, "abandon", False))

    @property
    def repeats(self) -> bool:
        return bool(getattr(self.filter, "repeats", False))

    @property
    def wants_delivery(self) -> bool:
        return bool(getattr(self.filter, "wants_delivery", False))

    @property
    def terminal(self) -> bool:
        return bool(getattr(self.filter, "terminal", False))

    @property
    def reroutes(self) -> bool:
        return bool(getattr(self.filter, "reroutes", False))

    def link(self, next_: Next, rest: Rest, build: Build) -> Next:
        if self.reroutes and build.side == "publish":
            next_ = _turn(next_, rest, build)
        link, watch = self._link(next_, rest, build), build.services.watch
        if watch is None or self.shape == "actor":  # which is watched where it answers
            return link
        return watch(links.Mark(self.name, scope=rest.scope), build.colour, link, (self.name,))  # type: ignore[no-any-return]

    def _link(self, next_: Next, rest: Rest, build: Build) -> Next:
        if self.shape == "actor":
            return self.filter.link_into(links.Mark(self.name, scope=rest.scope), next_, build)  # type: ignore[no-any-return]
        drive = _DRIVERS[self.shape, build.colour]
        call = self.filter.at(build.place) if isinstance(self.filter, Around) and callable(self.filter.at) else self.call
        return drive(links.Mark(self.name, call, self.abandon, rest.scope), next_, build.due, build.services)


_DRIVERS: dict[tuple[str, str], Callable[..., Next]] = {
    ("plain", "sync"): links.plain,
    ("plain", "async"): links.aplain,
    ("transform", "sync"): links.transform,
    ("transform", "async"): links.atransform,
    ("around", "sync"): links.around,
    ("around", "async"): links.aaround,
}


def _turn(next_: Next, rest: Rest, build: Build) -> Next:
    """After a rerouter: an unchanged subject goes on here, a new one on what follows, compiled for it."""
    subject, resume = build.subject, build.resume
    known: dict[object, Next] = {}

    def turn(message: Message[Any]) -> Any:
        if message.__class__ is not Message or message.subject is subject or resume is None:
            return next_(message)
        message = links.checked(message)
        if message.subject == subject:
            return next_(message)
        onward = known.get(message.subject) or resume(message.subject, rest, known)
        return onward(message)

    return turn


class Test:
    """What `when` and `branch` ask: a pattern, decided for each subject at build, or a predicate, asked for each pass."""

    __slots__ = ("name", "pattern", "predicate", "told")

    def __init__(self, test: object, word: str, place: Place) -> None:
        self.told: str | None = None  # what a config file says, if it is not the pattern itself
        self.pattern: Pattern | None = None
        self.predicate: Callable[[Message[Any]], object] | None = None
        test = plain_text(test)
        if isinstance(test, str):
            try:
                self.pattern = Pattern(test)
            except SubjectError as error:
                raise PipelineError(f"{word} at {place}: {error}") from None
            self.name = f'"{test}"'
        elif callable(test) and not isinstance(test, type):
            if not is_plain(test):
                what = "is async" if is_async(test) else "is a generator function"
                raise PipelineError(f"{word} at {place}: predicate {name_of(test)} {what}; a predicate is a plain function")

            def bad(problem: str, remedy: str) -> PipelineError:
                return PipelineError(f"{word} at {place}: predicate {name_of(test)} {problem}; {remedy}")

            _check_parameters(test, 1, bad, "predicate(message)")
            self.predicate = test
            self.name = name_of(test)
        else:
            raise PipelineError(
                f"{word} at {place}: {shown(test)} is neither a pattern nor a predicate; "
                f'write {word}("orders.>", …) or {word}(function_of_message, …)'
            )

    def decide(self, subject: object) -> bool | None:
        """True or False where the subject alone decides, None where each message has to be asked."""
        if self.pattern is None:
            return None
        if isinstance(subject, tuple):
            answers = {self.decide(one) for one in subject}
            return answers.pop() if len(answers) == 1 else None
        if isinstance(subject, Pattern):
            return True if self.pattern.covers(subject) else None if self.pattern.overlaps(subject) else False
        return self.pattern.matches(subject)

    def ask(self) -> Callable[[Message[Any]], object]:
        if self.predicate is not None:
            return self.predicate
        matches = self.pattern.matches  # type: ignore[union-attr]
        return lambda message: matches(message.subject)


@dataclass(eq=False, slots=True)
class Fork:
    """What `when` and `branch` share: a test, and what is inside."""

    test: Test
    nodes: tuple[Node, ...]
    place: Place
    told: dict[str, Any] = field(default_factory=dict)

    def inside(self, next_: Next, rest: Rest, build: Build) -> Next:
        """What a message that passes the test goes through."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        return f"{type(self).__name__.lower()}({self.test.name})"

    def link(self, next_: Next, rest: Rest, build: Build) -> Next:
        decided = self.test.decide(build.subject)
        if decided is False:
            return next_
        inside = self.inside(next_, rest, build)
        if decided:
            return inside
        return _FORKS[build.colour](links.Mark(self.name, scope=rest.scope), self.test.ask(), inside, next_)


class When(Fork):
    """A detour that rejoins: inside, then the rest (ASP.NET's `UseWhen`)."""

    __slots__ = ()

    def inside(self, next_: Next, rest: Rest, build: Build) -> Next:
        return fold(self.nodes, rest, next_, build, rest.scope)


class Branch(Fork):
    """A road of its own to the same terminal: what follows is skipped (ASP.NET's `Map`)."""

    __slots__ = ()

    def inside(self, next_: Next, rest: Rest, build: Build) -> Next:
        return fold(self.nodes, None, build.terminal, build, rest.scope)


_FORKS: dict[str, Callable[..., Next]] = {"sync": links.fork, "async": links.afork}


class Pipeline:
    """
    A chain as a value: filters in order, first = outermost.

    Args:
        filters: Filters of any shape, `when`, `branch`, other pipelines.
        on_error: What becomes of an error that arises in one of its own filters. Publish side: "reject" (raise, the
            default), "dead_letter" or "drop". Delivery side: "dead_letter" (the default) or "drop".

    Raises:
        PipelineError: naming the filter, its position, the place and the remedy.
    """

    __slots__ = ("nodes", "on_error", "place", "told")

    def __init__(self, *filters: Any, on_error: OnError | None = None) -> None:
        if on_error not in (None, "reject", "dead_letter", "drop"):
            raise PipelineError(f'Pipeline: on_error={shown(on_error)}; it is "reject", "dead_letter" or "drop"')
        self.place = caller()
        self.on_error: OnError | None = on_error
        self.told: dict[str, Any] = {}
        self.nodes = nodes(filters, self.place, "Pipeline")

    @property
    def name(self) -> str:
        return "Pipeline"

    def link(self, next_: Next, rest: Rest, build: Build) -> Next:
        if self.on_error is None:
            return fold(self.nodes, rest, next_, build, rest.scope)
        scope = object()
        entry = fold(self.nodes, rest, next_, build, scope)
        default = "reject" if build.side == "publish" else "dead_letter"
        if self.on_error == default or build.rule is None:
            return entry
        guard = links.guard if build.colour == "sync" else links.aguard
        return guard(entry, scope, build.rule(self.on_error))

    def of(self, nodes: tuple[Node, ...]) -> Pipeline:
        """The same pipeline around other nodes."""
        other = Pipeline(on_error=self.on_error)
        other.nodes, other.place = nodes, self.place
        return other

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(node.name for node in self.nodes)})"


Node = Step | When | Branch | Pipeline


def when(test: str | Callable[[Message[Any]], object], *filters: Any) -> When:
    """
    A detour for some messages: the filters, then the rest of the chain.

    Args:
        test: A pattern, decided when a subject's route is compiled, or a predicate of the message, asked once a pass.
    """
    place = caller()
    return When(Test(test, "when", place), nodes(filters, place, "when"), place)


def branch(test: str | Callable[[Message[Any]], object], *filters: Any) -> Branch:
    """
    A road of its own for some messages: the filters, then the same mailboxes (or handler); later filters are skipped.

    Args:
        test: As for `when`.
    """
    place = caller()
    return Branch(Test(test, "branch", place), nodes(filters, place, "branch"), place)


# --- the fold ----------------------------------------------------------------------------------------------------------


def compile(chain: tuple[Node, ...], build: Build) -> Next:
    """The chain as one call."""
    return fold(chain, None, build.terminal, build, None)


def fold(chain: tuple[Node, ...], after: Rest | None, next_: Next, build: Build, scope: object) -> Next:
    for index in range(len(chain) - 1, -1, -1):
        next_ = chain[index].link(next_, Rest(chain[index + 1 :], after, scope), build)
    return next_


def resume(rest: Rest | None, build: Build) -> Next:
    """Compile what follows some point: the rest of its chain, then of the chains around it, then the terminal."""
    if rest is None:
        return build.terminal
    return fold(rest.nodes, rest.after, resume(rest.after, build), build, rest.scope)


def walk(chain: tuple[Node, ...]) -> Iterator[Any]:
    """Every node, depth first, containers before what they hold."""
    for node in chain:
        yield node
        if not isinstance(node, Step):
            yield from walk(node.nodes)


def steps(chain: tuple[Node, ...]) -> Iterator[Step]:
    """The filters among `walk`."""
    return (node for node in walk(chain) if isinstance(node, Step))


def met(chain: tuple[Node, ...], subject: object) -> list[Step]:
    """The filters that a message published on `subject` may pass; behind a rerouter, those of any subject."""
    found: list[Step] = []

    def go(chain: tuple[Node, ...], certain: bool) -> tuple[bool, bool]:
        """(the subject is still certain, the chain was certainly left by a branch)"""
        for node in chain:
            if isinstance(node, Step):
                found.append(node)
                certain = certain and not node.reroutes
                continue
            decided = None
            if isinstance(node, Pipeline):
                decided = True
            elif certain:
                decided = node.test.decide(subject)
            if decided is False:
                continue
            certain, left = go(node.nodes, certain)
            if decided and (left or isinstance(node, Branch)):
                return certain, True
        return certain, False

    go(chain, True)
    return found


# --- telling shapes and colours apart, once ----------------------------------------------------------------------------


def nodes(filters: tuple[Any, ...], place: Place, within: str) -> tuple[Node, ...]:
    """Each argument as a node."""
    return tuple(node(filter, position, place, within) for position, filter in enumerate(filters, 1))


def node(filter: Any, position: int, place: Place, within: str) -> Node:
    """
    What a chain is made of, from whatever may stand in one.

    Args:
        position: Counted from 1. within: What it stands in. Both for errors.

    Raises:
        PipelineError
    """
    if isinstance(filter, (Step, When, Branch, Pipeline)):
        return filter

    def bad(problem: str, remedy: str) -> PipelineError:
        return PipelineError(f"filter {name_of(filter)} (position {position} of {within} at {place}) {problem}; {remedy}")

    if isinstance(filter, type):
        raise bad("is a class, not an instance", f"write {filter.__name__}()")
    if isinstance(filter, SelfLinking):
        ask: Any = getattr(filter, "filter", None)
        if not callable(ask):
            raise bad("is an actor that no message can pass through", "define `def filter(self, message)` in it, or spawn it")
        if yields(ask):
            raise bad("has a filter that yields", "return the message, or Dropped(reason)")
        _check_parameters(ask, 1, bad, "filter(message)")
        return Step(filter, "actor", "both", name_of(filter), ask, place, position, within)
    if isinstance(filter, Transform):
        call = filter.transform
        if type(filter).transform is Transform.transform and "transform" not in filter.__dict__:
            raise bad("has no transform", "define `def transform(self, message)` in it")
        if is_async(call):
            raise bad("has an async transform", "make it a plain filter: async def f(message, call_next)")
        if yields(call):
            raise bad("has a transform that yields", "make it an Around, or use @around")
        _check_parameters(call, 1, bad, "transform(message)")
        return Step(filter, "transform", "both", name_of(filter), call, place, position, within)
    if isinstance(filter, Around):
        generate = filter.around
        if type(filter).around is Around.around and "around" not in filter.__dict__:
            raise bad("has no around", "define `def around(self, message)` in it, a generator")
        if not inspect.isgeneratorfunction(inspect.unwrap(generate)):
            raise bad("has an around that is no generator", "write `outcome = yield message` in it")
        _check_parameters(generate, 1, bad, "around(message)")
        return Step(filter, "around", "both", name_of(filter), generate, place, position, within)
    if not callable(filter):
        raise bad(f"is not callable ({type(filter).__name__})", "a filter is f(message, call_next), a Transform or an Around")
    if yields(filter):
        raise bad("is a generator function", "decorate it with @around")
    _check_parameters(filter, 2, bad, "f(message, call_next)")
    return Step(filter, "plain", "async" if is_async(filter) else "sync", name_of(filter), filter, place, position, within)


def _check_parameters(call: Any, count: int, bad: Callable[[str, str], PipelineError], form: str) -> None:
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return  # a builtin without a signature: its first call will tell
    try:
        signature.bind(*range(count))
    except TypeError:
        remedy = f"its form is {form}"
        if count == 2:
            try:
                signature.bind(0)
                remedy += "; a function of the message alone is made a filter by @transform"
            except TypeError:
                pass
        raise bad(f"takes {signature}", remedy) from None


def is_async(call: Any) -> bool:
    """
    True if calling `call` gives an awaitable, as far as can be known without calling it.

    Looks through `functools.partial`, bound methods and objects with an async `__call__`. What cannot be seen (a lambda that
    returns a coroutine) says so itself: an attribute `colour = "async"` (or "sync") wins.
    """
    said = getattr(call, "colour", None)
    if said in ("sync", "async"):
        return bool(said == "async")
    while isinstance(call, functools.partial):
        call = call.func
    if inspect.iscoroutinefunction(call):
        return True
    return not inspect.isroutine(call) and inspect.iscoroutinefunction(type(call).__call__)


def yields(call: Any) -> bool:
    """
    True if `call` is a generator function (`def` or `async def` with `yield`): calling it runs nothing of it.

    Looks through what `is_async` looks through, and through `functools.wraps`; an attribute `colour` says that it is none.
    """
    if getattr(call, "colour", None) in ("sync", "async"):
        return False
    while isinstance(call, functools.partial):
        call = call.func
    if not inspect.isroutine(call):
        call = type(call).__call__
    while isinstance(call, functools.partial):
        call = call.func
    function = inspect.unwrap(call)
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def is_plain(call: Any) -> bool:
    """True if calling `call` gives its value: it is neither async nor a generator function, as far as can be known."""
    return not is_async(call) and not yields(call)


def name_of(filter: Any) -> str:
    """What a filter is called, if nobody gives it another name."""
    while isinstance(filter, functools.partial):
        filter = filter.func
    for name in (getattr(filter, "name", None), getattr(filter, "__name__", None)):
        text: Any = plain_text(name)
        if isinstance(text, str) and text:
            return text
    return type(filter).__name__


@dataclass(eq=False, slots=True)
class Context:
    """What a filter's `start(context)` is given."""

    bus: Any
    clock: Clock
    log: Any
    name: str

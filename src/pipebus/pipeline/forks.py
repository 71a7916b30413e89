"""`when`, `branch` and `switch`: parts of a chain that only some messages pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pipebus.errors import PipelineError, SubjectError
from pipebus.foreign.objects import plain_text, shown
from pipebus.message.message import Message
from pipebus.message.patterns import Pattern
from pipebus.pipeline import links_async, links_sync
from pipebus.pipeline.blame import StepId
from pipebus.pipeline.callables import check_parameters, is_async, is_plain, name_of
from pipebus.pipeline.compose import Build, Next, Node, fold
from pipebus.pipeline.places import Place, caller
from pipebus.pipeline.recognise import nodes

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


class Selector:
    """The condition of a `when` or `branch`: a pattern, decided once per subject, or a predicate, called for each message."""

    __slots__ = ("__weakref__", "name", "pattern", "predicate")

    def __init__(self, test: object, word: str, place: Place) -> None:
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

            check_parameters(test, 1, bad, "predicate(message)")
            self.predicate = test
            self.name = name_of(test)
        else:
            raise PipelineError(
                f"{word} at {place}: {shown(test)} is neither a pattern nor a predicate; "
                f'write {word}("orders.>", …) or {word}(function_of_message, …)'
            )

    def decide(self, subject: object) -> bool | None:
        """True or False if the subject alone decides; None if each message must be checked."""
        if self.pattern is None:
            return None
        if isinstance(subject, tuple):
            answers = {self.decide(one) for one in subject}
            return answers.pop() if len(answers) == 1 else None
        if isinstance(subject, Pattern):
            return True if self.pattern.covers(subject) else None if self.pattern.overlaps(subject) else False
        return self.pattern.matches(subject)

    def decider(self) -> Callable[[Message[Any]], object]:
        """The function that decides for one message."""
        if self.predicate is not None:
            return self.predicate
        matches = self.pattern.matches  # type: ignore[union-attr]
        return lambda message: matches(message.subject)


class _Always(Selector):
    """The condition of `otherwise`."""

    __slots__ = ()

    def __init__(self) -> None:
        self.pattern, self.predicate, self.name = None, lambda message: True, "always"

    def decide(self, subject: object) -> bool:
        return True


ALWAYS: Final = _Always()


@dataclass(eq=False, slots=True, weakref_slot=True)
class Fork(Node):
    """The common part of `when`, `branch` and the cases of a `switch`: a selector, and the nodes inside."""

    test: Selector
    nodes: tuple[Node, ...]
    place: Place

    def inside(self, next_: Next, build: Build) -> Next:
        """Link what a selected message passes."""
        raise NotImplementedError

    @property
    def word(self) -> str:
        """What it is called in code."""
        return type(self).__name__.lower()

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.word}({self.test.name})"

    def of(self, nodes: tuple[Node, ...]) -> Fork:
        return type(self)(self.test, nodes, self.place)

    def link(self, next_: Next, build: Build) -> Next:
        return self.choose(next_, next_, build)

    def choose(self, next_: Next, outside: Next, build: Build) -> Next:
        """
        Link what a selected message passes, and in its place `outside` for all others.

        Args:
            next_: The compiled rest of the chain.
        """
        decided = self.test.decide(build.subject)
        if decided is False:
            return outside
        inside = self.inside(next_, build)
        if decided:
            return inside
        return _LINKS[build.colour](StepId(self.name, scope=build.scope), self.test.decider(), inside, outside)


class When(Fork):
    """A detour: the nodes inside, then the rest of the chain (`UseWhen` in ASP.NET)."""

    __slots__ = ()

    def inside(self, next_: Next, build: Build) -> Next:
        return fold(self.nodes, next_, build)


class Branch(Fork):
    """A separate way to the same terminal: the rest of the chain is skipped. (ASP.NET's `Map` has a terminal of its own.)"""

    __slots__ = ()

    def inside(self, next_: Next, build: Build) -> Next:
        return fold(self.nodes, build.terminal, build.at(None, build.scope))


class Case(When):
    """
    One case of a `switch`.

    Attributes:
        switch: Identifies the switch: a message passes at most one of its cases.
    """

    __slots__ = ("switch",)
    switch: object

    @property
    def word(self) -> str:
        return "otherwise" if self.test is ALWAYS else "when"

    @property
    def name(self) -> str:  # type: ignore[override]
        return "otherwise" if self.test is ALWAYS else f"when({self.test.name})"

    def excludes(self, other: Fork) -> bool:
        """Whether the other is another case of the same switch."""
        return isinstance(other, Case) and other.switch is self.switch and other is not self


class Otherwise(Fork):
    """The last case of a `switch`, before it is put there."""

    __slots__ = ()


class Switch(Node):
    """
    Several detours, of which a message takes the first that applies; then the rest of the chain.

    Args:
        cases: `When`s, and `Otherwise` as the last if there is one.
    """

    __slots__ = ("__weakref__", "nodes", "place")
    name = "switch"

    def __init__(self, cases: tuple[Fork, ...], place: Place) -> None:
        self.place = place
        switch = object()
        made = tuple(Case(case.test, case.nodes, case.place) for case in cases)
        for case in made:
            case.switch = switch
        self.nodes: tuple[Case, ...] = made

    def link(self, next_: Next, build: Build) -> Next:
        link = next_
        for case in reversed(self.nodes):
            link = case.choose(next_, link, build)
        return link

    def of(self, nodes: tuple[Node, ...]) -> Switch:
        return Switch(nodes, self.place)  # type: ignore[arg-type]


_LINKS: Final[dict[str, Callable[..., Next]]] = {"sync": links_sync.fork, "async": links_async.afork}


def when(test: str | Callable[[Message[Any]], object], *filters: Any) -> When:
    """
    A detour for some messages: the filters, then the rest of the chain.

    Args:
        test: A pattern, decided when a subject's route is compiled; or a predicate of the message. A predicate is called
            whenever a message reaches this point: again if a filter around it calls the rest again.
    """
    place = caller()
    return When(Selector(test, "when", place), nodes(filters, place, "when"), place)


def branch(test: str | Callable[[Message[Any]], object], *filters: Any) -> Branch:
    """
    A separate chain for some messages: the filters, then the terminal of the chain. Later filters are skipped.

    Args:
        test: As for `when`.
    """
    place = caller()
    return Branch(Selector(test, "branch", place), nodes(filters, place, "branch"), place)


def switch(*cases: When | Otherwise) -> Switch:
    """
    Alternatives: a message takes the first case that applies to it, then the rest of the chain.

        switch(when("orders.created", A), when(is_large, B), otherwise(C))

    Args:
        cases: `when(…)`, in order; as the last one perhaps `otherwise(…)`. Without it, other messages go straight on.

    Raises:
        PipelineError: there is no `when`, or a case is something else.
    """
    place = caller()
    for position, case in enumerate(cases, 1):
        if not isinstance(case, (When, Otherwise)):
            raise PipelineError(
                f"switch at {place}: case {position} is {name_of(case)}; write when(…, filter), or otherwise(filter)"
            )
        if isinstance(case, Otherwise) and position < len(cases):
            raise PipelineError(
                f"switch at {place}: otherwise is case {position} of {len(cases)}; it takes all, so it comes last"
            )
    if not any(isinstance(case, When) for case in cases):
        raise PipelineError(f"switch at {place} has no when; write switch(when(…, filter), otherwise(filter))")
    return Switch(cases, place)


def otherwise(*filters: Any) -> Otherwise:
    """The last case of a `switch`: the filters for messages that no `when` of it applies to."""
    place = caller()
    return Otherwise(ALWAYS, nodes(filters, place, "otherwise"), place)

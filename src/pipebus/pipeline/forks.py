"""`when` and `branch`: parts of a chain that only some messages pass."""

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


@dataclass(eq=False, slots=True, weakref_slot=True)
class Fork(Node):
    """The common part of `when` and `branch`: a selector, and the nodes inside."""

    test: Selector
    nodes: tuple[Node, ...]
    place: Place

    def inside(self, next_: Next, build: Build) -> Next:
        """Link what a selected message passes."""
        raise NotImplementedError

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{type(self).__name__.lower()}({self.test.name})"

    def link(self, next_: Next, build: Build) -> Next:
        decided = self.test.decide(build.subject)
        if decided is False:
            return next_
        inside = self.inside(next_, build)
        if decided:
            return inside
        return _LINKS[build.colour](StepId(self.name, scope=build.scope), self.test.decider(), inside, next_)


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

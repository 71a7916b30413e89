"""
How a chain of filters becomes one call. Read this file first.

A chain is a tuple of nodes. A node is a step (one filter), a `when`, `branch` or `switch`, or a pipeline of further nodes. Its
method `link` takes the function that runs everything after it, and returns a function that also runs the node. `fold` links
the nodes from last to first, so that each receives the rest of its chain already compiled:

    chain = A, when("x.>", B), C

    compiled for subject x.1    A( B( C( terminal )))      the `when` has put B in front of its rest
    compiled for subject y.1    A( C( terminal ))          the `when` has returned its rest: no cost per message

    a message on x.1            A in -> B in -> C in -> terminal -> C out -> B out -> A out

(If the subject does not decide, because a `when` has a predicate, a link calls the predicate for each message.)

The terminal is what the last `call_next` reaches. There are two chains, and so two terminals: the publish chain ends at the
mailboxes; the delivery chain of the bus ends at the subscription's own chain, and that one at the handler. A `when` links its
filters to its rest, so messages come back into the chain; so does a `switch`, for the first of its cases that applies. A
`branch` links its filters to the terminal: messages skip the rest of the chain, also of the pipelines around it.

Each error is signed with the id of the node in which it arose (see `blame`). A pipeline with an `on_error` puts a guard around
its nodes; the `scope` in the id tells the guard whether the error arose in one of them.

Nodes do not change once they are built, and one node may be part of many chains. A chain is compiled once for each subject and
colour (sync: links are called; async: they are awaited), when a subject is first used, and not for each message. A filter may
change a message's subject; `Rest` keeps, as nodes, what follows a point, so that `resume` can compile it for the new subject.

Read on in `shapes` (what a filter is), `recognise` (how a filter becomes a step), `step`, `forks` and `pipeline` (the nodes),
`links_sync` and `links_async` (the code that runs for every message), `blame`, and `rules` (which chains are refused).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

from pipebus.message.message import Message
from pipebus.message.outcomes import Dropped, Handled, Outcome, Receipt
from pipebus.pipeline.places import Place
from pipebus.pipeline.services import Services

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

Next = Callable[[Message[Any]], Any]
"""A compiled rest of a chain: takes a message, returns an outcome (in an async chain: an awaitable of one)."""
Side = Literal["publish", "delivery"]
Colour = Literal["sync", "async"]
OnError = Literal["reject", "dead_letter", "drop"]
Ruling = Callable[[Message[Any], BaseException, Any], Dropped]
"""What a guard does with an error: (message, error, `blame.StepId` of the node in which it arose) -> outcome."""


class Node:
    """One part of a chain: a `Step`, `When`, `Branch`, `Switch` or `Pipeline`."""

    __slots__ = ()
    name: str
    place: Place
    nodes: tuple[Node, ...]  # the nodes inside; empty for a step

    def of(self, nodes: tuple[Node, ...]) -> Node:
        """The same node around other nodes."""
        raise NotImplementedError

    def link(self, next_: Next, build: Build) -> Next:
        """
        Put this node in front of `next_`.

        Args:
            next_: The compiled rest of the chain.
            build: What is being compiled; `build.rest` is the same rest as nodes.
        """
        raise NotImplementedError


class Rest(NamedTuple):
    """
    What follows a point of a chain.

    Args:
        nodes: The rest of the same chain.
        after: What follows that chain, if it is inside a `when` or a pipeline.
        scope: The scope around these nodes; see `Build`.
    """

    nodes: tuple[Node, ...]
    after: Rest | None
    scope: object


@dataclass(eq=False, slots=True, frozen=True)
class Build:
    """
    One compilation, and the point of the chain that it has reached.

    Args:
        side: Publish or delivery.
        colour: Whether the result is called or awaited.
        subject: A literal subject, or an actor or `Ref` that serves as one; on the delivery side also a `Pattern`, or a tuple.
        terminal: What the last `call_next` reaches.
        services: What the compiled links need from the bus: its clock, and waiting without holding a worker.
        recompile: (new subject, rest, cache) -> the rest, compiled for a message whose subject a filter has changed, and
            stored in the cache of the filter's link.
        rule: (on_error) -> what a guard does with an error.
        place: "publish", or the name of the subscription.
        rest: What follows the node that is being linked, or (for `fold`) the chain; None: only the terminal.
        scope: Identifies the innermost pipeline with an `on_error` around this point; None outside of any.
    """

    side: Side
    colour: Colour
    subject: object
    terminal: Next
    services: Services
    recompile: Callable[[object, Rest | None, dict[object, Next]], Next] | None = None
    rule: Callable[[OnError], Ruling] | None = None
    place: str = "publish"
    rest: Rest | None = None
    scope: object = None

    @property
    def due(self) -> type[Outcome]:
        """The type of outcome that the terminal returns."""
        return Receipt if self.side == "publish" else Handled

    def at(self, rest: Rest | None, scope: object) -> Build:
        """The same compilation at another point of the chain."""
        return replace(self, rest=rest, scope=scope)


def compile(chain: tuple[Node, ...], build: Build) -> Next:
    """The chain as one call."""
    return fold(chain, build.terminal, build)


def fold(chain: tuple[Node, ...], next_: Next, build: Build) -> Next:
    """Put a chain in front of `next_`, which was compiled from `build.rest`."""
    for index in range(len(chain) - 1, -1, -1):
        rest = Rest(chain[index + 1 :], build.rest, build.scope)
        next_ = chain[index].link(next_, build.at(rest, build.scope))
    return next_


def resume(rest: Rest | None, build: Build) -> Next:
    """Compile what follows a point: the rest of its chain, then the rests of the chains around it, then the terminal."""
    if rest is None:
        return build.terminal
    return fold(rest.nodes, resume(rest.after, build), build.at(rest.after, rest.scope))

"""
How a chain of filters becomes one call. Read this first.

A chain is a tuple of nodes: a step (one filter), `when`, `branch`, or a pipeline of further nodes. Each node can *link*
itself: given a function that runs whatever follows it, it returns a function that runs the node and then that. `fold` links
a chain from its last node to its first, so that each node meets its rest already compiled:

    chain = A, when("x.>", B), C

    for subject x.1     A.link( when.link( C.link( terminal )))      when links B in front of what it was given
    for subject y.1     A.link( when.link( C.link( terminal )))      when returns what it was given: it costs nothing

    calling it          A in -> B in -> C in -> terminal -> C out -> B out -> A out

The terminal is what the last `call_next` reaches: the mailboxes for a publish chain, the handler for a delivery chain. A
`branch` links what is inside it to the terminal directly, so it leaves the whole chain; a `when` links it to its own rest,
so it comes back. A pipeline with an `on_error` puts a guard in front of its nodes; an error is blamed on the step in which
it arose (`blame`), and that step's `scope` tells the guard whether the error is its own.

Nodes are values. They never change, one node may be part of many chains, and each chain is compiled once for each subject
and colour, never per message.

Where to go from here: `shapes` (what a filter is), `recognise` (how a filter becomes a step), `step` and `forks` (the
nodes), `links_sync` and `links_async` (what runs for every message), `rules` (what a bad chain looks like).
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
"""A compiled rest: message -> outcome, or in an async chain message -> awaitable of an outcome."""

Side = Literal["publish", "delivery"]
Colour = Literal["sync", "async"]
OnError = Literal["reject", "dead_letter", "drop"]
Ruling = Callable[[Message[Any], BaseException, Any], Dropped]
"""What a guard makes of an error: (message, error, the step to blame) -> outcome."""


class Node:
    """One part of a chain: `Step`, `When`, `Branch` or `Pipeline`."""

    __slots__ = ()
    name: str
    place: Place
    nodes: tuple[Node, ...]
    """What is inside it; a step has nothing inside."""

    def link(self, next_: Next, build: Build) -> Next:
        """
        This node in front of `next_`.

        Args:
            next_: The compiled rest of the chain.
            build: What is being compiled; `build.rest` is the same rest as nodes.
        """
        raise NotImplementedError


class Rest(NamedTuple):
    """What follows some point of a chain: these nodes, then whatever follows the chain that they are part of."""

    nodes: tuple[Node, ...]
    after: Rest | None
    scope: object


@dataclass(eq=False, slots=True, frozen=True)
class Build:
    """
    One compilation: what it is for, and where in the chain it is.

    Args:
        side: Publish or delivery.
        colour: Whether the result is called or awaited.
        subject: What it is for: a literal subject or an object; for a subscription also a `Pattern`, or a tuple of these.
        terminal: What the last `call_next` reaches.
        services: What running links need of the bus: its clock, waiting without holding a worker.
        resume: (new subject, rest, cache) -> the rest compiled for a message whose subject a filter has changed.
        rule: (on_error) -> what an error becomes.
        place: "publish", or the name of the subscription.
        rest: What follows the node that is being linked; None at the end.
        scope: The innermost pipeline whose `on_error` applies here; None outside of any.
    """

    side: Side
    colour: Colour
    subject: object
    terminal: Next
    services: Services
    resume: Callable[[object, Rest | None, dict[object, Next]], Next] | None = None
    rule: Callable[[OnError], Ruling] | None = None
    place: str = "publish"
    rest: Rest | None = None
    scope: object = None

    @property
    def due(self) -> type[Outcome]:
        """The outcome that the terminal gives."""
        return Receipt if self.side == "publish" else Handled

    def at(self, rest: Rest | None, scope: object) -> Build:
        """The same compilation at another point of the chain."""
        return replace(self, rest=rest, scope=scope)


def compile(chain: tuple[Node, ...], build: Build) -> Next:
    """The chain as one call."""
    return fold(chain, build.terminal, build)


def fold(chain: tuple[Node, ...], next_: Next, build: Build) -> Next:
    """The chain in front of `next_`, which `build.rest` says as nodes."""
    for index in range(len(chain) - 1, -1, -1):
        rest = Rest(chain[index + 1 :], build.rest, build.scope)
        next_ = chain[index].link(next_, build.at(rest, build.scope))
    return next_


def resume(rest: Rest | None, build: Build) -> Next:
    """Compile what follows some point: the rest of its chain, then of the chains around that, then the terminal."""
    if rest is None:
        return build.terminal
    return fold(rest.nodes, resume(rest.after, build), build.at(rest.after, rest.scope))

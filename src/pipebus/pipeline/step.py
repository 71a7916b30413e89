"""A step: one filter at one place in a chain."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from pipebus.message.message import Message
from pipebus.pipeline import links_async, links_sync
from pipebus.pipeline.blame import StepId
from pipebus.pipeline.compose import Build, Next, Node
from pipebus.pipeline.contract import checked
from pipebus.pipeline.figures import figures, stats_of
from pipebus.pipeline.places import Place
from pipebus.pipeline.shapes import Around, Traits

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`

Shape = Literal["plain", "transform", "around", "actor"]


@dataclass(eq=False, slots=True, weakref_slot=True)
class Step(Node):
    """
    One filter, and where it was registered.

    Args:
        filter: The user's function or object.
        shape, colour, call, traits: What `recognise` found out about it.
        name: Its name in errors, figures and `explain`.
        place, position, within: Where it was registered, for errors.
    """

    filter: Any
    shape: Shape
    colour: Literal["sync", "async", "both"]
    name: str
    call: Any
    place: Place
    position: int
    within: str
    traits: Traits
    nodes = ()

    @property
    def where(self) -> str:
        return f"position {self.position} of {self.within} at {self.place}"

    def link(self, next_: Next, build: Build) -> Next:
        if self.traits.reroutes and build.side == "publish":
            next_ = _rerouted(next_, build)
        if self.shape == "actor":  # an actor makes its own link, and the testing kit records its answers there
            return self.filter.link_into(StepId(self.name, scope=build.scope), next_, build)  # type: ignore[no-any-return]
        call = self.filter.at(build.place) if isinstance(self.filter, Around) and callable(self.filter.at) else self.call
        step = StepId(self.name, call, self.traits.abandon, build.scope)  # what the link signs errors with
        link = _LINKS[self.shape, build.colour](step, next_, build.due, build.services)
        if build.services.watch is None:
            return link
        stats = stats_of(self.filter, self.shape)
        shows = None if stats is None else functools.partial(figures, stats, build.place)
        return build.services.watch(StepId(self.name, scope=build.scope, stats=shows), build.colour, link, (self.name,))


_LINKS: Final[dict[tuple[str, str], Callable[..., Next]]] = {
    ("plain", "sync"): links_sync.plain,
    ("plain", "async"): links_async.aplain,
    ("transform", "sync"): links_sync.transform,
    ("transform", "async"): links_async.atransform,
    ("around", "sync"): links_sync.around,
    ("around", "async"): links_async.aaround,
}


def _rerouted(next_: Next, build: Build) -> Next:
    """After a rerouter: a message with a new subject continues in the rest of the chain as compiled for that subject."""
    subject, rest, recompile = build.subject, build.rest, build.recompile
    known: dict[object, Next] = {}

    def choose(message: Message[Any]) -> Any:
        if message.__class__ is not Message or message.subject is subject or recompile is None:
            return next_(message)
        message = checked(message)
        if message.subject == subject:
            return next_(message)
        compiled = known.get(message.subject) or recompile(message.subject, rest, known)
        return compiled(message)

    return choose

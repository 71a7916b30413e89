"""Find out the shape and colour of a filter, once, when it is put in a chain."""

from __future__ import annotations

import inspect
from typing import Any, Final, Literal

from pipebus.errors import PipelineError
from pipebus.pipeline.callables import check_parameters, is_async, name_of, yields
from pipebus.pipeline.compose import Node
from pipebus.pipeline.places import Place
from pipebus.pipeline.shapes import Around, SelfLinking, Traits, Transform
from pipebus.pipeline.step import Shape, Step

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


def nodes(filters: tuple[Any, ...], place: Place, within: str) -> tuple[Node, ...]:
    """The arguments as nodes."""
    return tuple(node(filter, position, place, within) for position, filter in enumerate(filters, 1))


def node(filter: Any, position: int, place: Place, within: str) -> Node:
    """
    A filter, or a part of a chain, as a node.

    Args:
        position, within: For errors: its number, counted from 1, and what contains it.

    Raises:
        PipelineError: it is not a filter.
    """
    if isinstance(filter, Node):
        return filter

    def bad(problem: str, remedy: str) -> PipelineError:
        return PipelineError(f"filter {name_of(filter)} (position {position} of {within} at {place}) {problem}; {remedy}")

    if isinstance(filter, type):
        raise bad("is a class, not an instance", f"write {filter.__name__}()")
    colour: Literal["sync", "async", "both"] = "both"
    shape: Shape
    call: Any
    if isinstance(filter, SelfLinking):
        shape, call = "actor", getattr(filter, "filter", None)
        if not callable(call):
            raise bad("is an actor that no message can pass through", "define `def filter(self, message)` in it, or spawn it")
        if yields(call):
            raise bad("has a filter that yields", "return the message, or Dropped(reason)")
        check_parameters(call, 1, bad, "filter(message)")
    elif isinstance(filter, Transform):
        shape, call = "transform", filter.transform
        if type(filter).transform is Transform.transform and "transform" not in filter.__dict__:
            raise bad("has no transform", "define `def transform(self, message)` in it")
        if is_async(call):
            raise bad("has an async transform", "make it a plain filter: async def f(message, call_next)")
        if yields(call):
            raise bad("has a transform that yields", "make it an Around, or use @around")
        check_parameters(call, 1, bad, "transform(message)")
    elif isinstance(filter, Around):
        shape, call = "around", filter.around
        if type(filter).around is not Around.around or "around" in filter.__dict__:
            if not inspect.isgeneratorfunction(inspect.unwrap(call)):
                raise bad("has an around that is not a generator", "write `outcome = yield message` in it")
            check_parameters(call, 1, bad, "around(message)")
        elif type(filter).at is Around.at:  # which needs no `around` if it is its own
            raise bad("has no around", "define `def around(self, message)` in it, a generator")
    else:
        shape, call = "plain", filter
        if not callable(filter):
            raise bad(
                f"is not callable ({type(filter).__name__})", "a filter is f(message, call_next), a Transform or an Around"
            )
        if yields(filter):
            raise bad("is a generator function", "decorate it with @around")
        check_parameters(filter, 2, bad, "f(message, call_next)")
        colour = "async" if is_async(filter) else "sync"
    return Step(filter, shape, colour, name_of(filter), call, place, position, within, Traits.of(filter, bad))

"""
check_filter: try each law (laws.py) on a filter and many messages, and show the smallest message that breaks one.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from pipebus.errors import PipelineError
from pipebus.message.message import Message
from pipebus.pipeline import places, recognise, routes, shapes
from pipebus.pipeline.compose import Side
from pipebus.testing.alone.bench import FilterBench
from pipebus.testing.laws.case import Case, Seen, title_of
from pipebus.testing.laws.laws import LAWS
from pipebus.testing.laws.search import LawBroken, prepared, try_all, try_one
from pipebus.values.quantities import is_whole

TRIED: Final = "is tried"
"""Not a law, but skipped like one: at least one message must reach the rest of the chain."""


def check_filter(
    filter: Any,
    messages: Any = None,
    *,
    at: Side = "publish",
    skip: Mapping[str, str] | None = None,
    examples: int = 20,
) -> tuple[str, ...]:
    """
    Check that a filter keeps the laws.

    Args:
        filter: A filter of any shape; or, where each run needs a new one, a class or a function without parameters that makes
            one. A dataclass is made again from its fields.
        messages: What to try it on: a `Subject[T]` or a type that pydantic knows (bodies are made of its fields), a hypothesis
            strategy of messages or bodies, or a list of messages or bodies. None: messages of any kind.
        at: "publish", or "delivery" for a filter around a handler.
        skip: Laws that it need not keep, by name, each with the reason.
        examples: How many messages to try each law on, >= 1; of a list, all are tried.

    Returns:
        The names of the laws that were tried.

    Raises:
        LawBroken: Names the law, what is wrong, and the smallest message that breaks it. PipelineError: An argument is wrong.
    """
    __tracebackhide__ = True
    skip = _skipped(skip)
    if not is_whole(examples, 1):
        raise PipelineError(f"check_filter(examples={examples!r}): it is a whole number of at least 1")
    make = maker(filter)
    title = title_of(make())
    colours = _colours(make, at)
    seen = Seen()
    held = []
    for law in LAWS:
        if law.name in skip:
            continue
        if law.once:
            try_one(law, Case(make, prepared(Message("test")), at, colours), title)
        else:
            try_all(law, make, messages, at, colours, title, examples, seen)
        held.append(law.name)
    if TRIED not in skip:
        _check_tried(make, title, seen)
    return tuple(held)


def _skipped(skip: Any) -> dict[str, str]:
    """
    Raises:
        PipelineError: It is not a mapping of laws to reasons.
    """
    if skip is not None and not isinstance(skip, Mapping):
        raise PipelineError(f"check_filter(skip={skip!r}): it is a mapping, of laws to reasons")
    known = (TRIED, *(law.name for law in LAWS))
    for name, reason in (skip or {}).items():
        if name not in known:
            raise PipelineError(f"check_filter: there is no law {name!r}; there are {', '.join(known[1:])}")
        if not isinstance(reason, str) or not reason:
            raise PipelineError(f"check_filter: skip[{name!r}] is {reason!r}; say why, in a text")
    return dict(skip or {})


def _check_tried(make: Callable[[], Any], title: str, seen: Seen) -> None:
    """Raise LawBroken if no message reached the rest, or one of the filters: then they were not tried."""
    if not seen.came_through:
        problem = "no message came through to the rest, so most laws were not tried"
    else:
        steps = routes.steps(recognise.nodes((make(),), places.caller(), "check_filter"))
        missed = next((step.name for step in steps if step.name not in seen.reached), None)
        if missed is None:
            return
        problem = f"no message came to {missed}, so it was not tried"
    lines = [
        f"check_filter({title}): {problem}; give messages= that it lets pass; or, if it keeps a state that is used up, a class "
        f'or function that makes a new filter each time; or skip={{"{TRIED}": "…"}}'
    ]
    if seen.last is not None:
        lines += ["", *(f"  {line}" for line in seen.last.story.splitlines())]
    raise LawBroken(TRIED, "\n".join(lines), None)


def maker(filter: Any) -> Callable[[], Any]:
    """
    A function that makes a new filter each time; an object that cannot be made again is used each time.
    """
    if isinstance(filter, type):
        return filter
    if callable(filter) and not isinstance(filter, (shapes.Transform, shapes.Around)) and _takes_nothing(filter):
        return filter  # type: ignore[no-any-return]
    if dataclasses.is_dataclass(filter):
        fields = {field.name: getattr(filter, field.name) for field in dataclasses.fields(filter) if field.init}
        cls: Any = type(filter)
        return lambda: cls(**fields)
    return lambda: filter


def _takes_nothing(call: Any) -> bool:
    try:
        inspect.signature(call).bind()
    except (TypeError, ValueError):
        return False
    return True


def _colours(make: Callable[[], Any], at: Side) -> tuple[str, ...]:
    """
    Raises:
        PipelineError: It runs in neither colour; says why.
    """
    colours = []
    problem: PipelineError | None = None
    both: tuple[Literal["sync", "async"], ...] = ("sync", "async")
    for colour in both:
        try:
            with FilterBench(make(), at=at, colour=colour, told=False) as bench:
                bench.send_and(Message("test"), None, stop=True)
            colours.append(colour)
        except PipelineError as error:
            problem = problem or error
    if not colours and problem is not None:
        raise problem
    return tuple(colours)

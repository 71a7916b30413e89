"""What can be found out about a callable without calling it: whether it is async or a generator, its parameters, its name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Final

from pipebus.errors import PipelineError
from pipebus.foreign.objects import plain_text

PLUMBING: Final = True  # tracebacks leave its frames out: `blame.trim`


def check_parameters(call: Any, count: int, bad: Callable[[str, str], PipelineError], form: str) -> None:
    """Raise what `bad(problem, remedy)` makes if `call` does not take `count` arguments."""
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):
        return  # a builtin without a signature: its first call will show
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
    True if `call` returns an awaitable, as far as this can be known without calling it.

    Looks through `functools.partial`, bound methods and objects with an async `__call__`. A callable that hides what it is (a
    lambda that returns a coroutine) can declare it: an attribute `colour = "async"` (or "sync") wins.
    """
    declared = getattr(call, "colour", None)
    if declared in ("sync", "async"):
        return bool(declared == "async")
    while isinstance(call, functools.partial):
        call = call.func
    if inspect.iscoroutinefunction(call):
        return True
    return not inspect.isroutine(call) and inspect.iscoroutinefunction(type(call).__call__)


def yields(call: Any) -> bool:
    """
    True if `call` is a generator function (`def` or `async def` with `yield`), so that calling it runs none of its code.

    Looks through the same as `is_async`, and through `functools.wraps`; an attribute `colour` declares that it is not one.
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
    """True if `call` returns its value directly: it is neither async nor a generator function, as far as can be known."""
    return not is_async(call) and not yields(call)


def name_of(filter: Any) -> str:
    """The name of a filter: its attribute `name`, or its function's or class's name."""
    while isinstance(filter, functools.partial):
        filter = filter.func
    for name in (getattr(filter, "name", None), getattr(filter, "__name__", None)):
        text: Any = plain_text(name)
        if isinstance(text, str) and text:
            return text
    return type(filter).__name__

"""Which filters a file may `use`: the built-in ones, and those of other packages (entry-point group `pipebus.filters`)."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from pipebus import filters
from pipebus.config.problems import Bad
from pipebus.foreign.objects import text_of

GROUP: Final = "pipebus.filters"


def word(name: str) -> str:
    """Return the word for a class in a file: `circuit_breaker` for `CircuitBreaker`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


BUILT_IN: Final[dict[str, Any]] = {word(name): getattr(filters, name) for name in filters.__all__}


def others() -> dict[str, EntryPoint]:
    """Return the filters of other packages by name. They cannot replace a built-in filter."""
    return _others(tuple(sys.path))


@functools.lru_cache(maxsize=8)
def _others(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """Cached, because reading entry points takes milliseconds."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in BUILT_IN}


def names() -> list[str]:
    return sorted({*BUILT_IN, *others()})


def find(name: str) -> Any:
    """
    Return the class of a filter, or None if there is no such filter.

    Raises:
        Bad: the package that contains it cannot be loaded.
    """
    found = BUILT_IN.get(name)
    if found is not None:
        return found
    point = others().get(name)
    if point is None:
        return None
    try:
        return point.load()
    except (Exception, SystemExit) as error:
        raise Bad(f'filter "{name}" (of {point.value}) cannot be loaded: {text_of(error)}') from None


def use_of(cls: Any) -> str | None:
    """Return the word by which a file can `use` a class, or None."""
    name = word(getattr(cls, "__name__", ""))
    if BUILT_IN.get(name) is cls:
        return name
    target = f"{getattr(cls, '__module__', '')}:{getattr(cls, '__qualname__', '')}"
    return next((point.name for point in others().values() if point.value == target), None)


def summary(cls: Any) -> str:
    """Return the first paragraph of the docstring in one line."""
    first = (inspect.getdoc(cls) or "").split("\n\n")[0]
    return " ".join(first.split())

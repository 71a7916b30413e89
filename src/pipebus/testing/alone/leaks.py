"""Context variables that a filter leaves changed."""

from __future__ import annotations

import contextvars
from typing import Any, Final

QUIET: Final = frozenset({"decimal_context"})
"""Context variables of the standard library that are set when they are read."""


def changed(before: contextvars.Context) -> tuple[str, ...]:
    """Names of the context variables whose value now is not the same as in `before`."""
    now = contextvars.copy_context()

    def value(context: contextvars.Context, variable: contextvars.ContextVar[Any]) -> Any:
        found = context.get(variable, ...)
        return None if found is ... else found  # unset, or unbound as structlog has it, or reset to nothing

    return tuple(sorted(v.name for v in {*before, *now} if v.name not in QUIET and not _equal(value(before, v), value(now, v))))


def _equal(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:
        return False

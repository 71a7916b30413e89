"""The keyword arguments of `publish`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pipebus.errors import MessageError
from pipebus.foreign.objects import shown
from pipebus.values.quantities import seconds

OPTIONS: Final = ("headers", "key", "id", "ttl", "delay", "reply_to", "correlation_id", "causation_id", "strict")


def check_options(options: Mapping[str, Any], call: str, more: tuple[str, ...] = ()) -> None:
    """Raises TypeError for an option that is neither one of a message nor one of `more`."""
    known = (*more, *OPTIONS)
    unknown = options.keys() - set(known)
    if unknown:
        raise TypeError(f"{call}() got an unexpected keyword argument {shown(min(unknown))}; there are {', '.join(known)}")


def delay_of(value: Any) -> float:
    """Raises MessageError unless the value is a duration."""
    return seconds(value, "delay", error=MessageError)


def is_strict(value: Any, otherwise: bool) -> bool:
    """Raises MessageError unless the value is True, False or None, which stands for `otherwise`."""
    if value is not None and not isinstance(value, bool):
        raise MessageError(f"strict is True, False or None, found {shown(value)}")
    return otherwise if value is None else value

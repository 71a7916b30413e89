"""
What a config file says about a bus and its parts, where that differs from the part itself: `${env:X}`, or the name of a handler
that the program handed in.

The chain knows nothing about files: its parts are looked up here, by identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

_written: Final[WeakKeyDictionary[Any, Mapping[str, Any]]] = WeakKeyDictionary()


def origin_of(part: object) -> Mapping[str, Any]:
    """What a file says about a node, a selector or a schedule, by setting (the whole entry under ""); empty if code made it."""
    return _written.get(part, {})


def set_origin(part: object, said: Mapping[str, Any]) -> None:
    """Remember what a file says about a part."""
    _written[part] = said


@dataclass(slots=True)
class FromFile:
    """What a file says about a bus itself and its subscriptions, by name."""

    bus: dict[str, Any] = field(default_factory=dict)
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)  # what is legal but perhaps not meant
